//! What is true of a logical unit for all its nexuses: registrations, reservations, changeable mode parameters.
//!
//! A pure state machine. The owner of the volume keeps one [`Control`] a unit, applies [`Change`]s to it one after the
//! other, and writes the state that has to last before it answers. Reservations always last (APTPL, whether asked for or
//! not). The rules are those of SPC-4, section 5.13; RESERVE and RELEASE are those of SPC-2, section 5.5.1.

use reprise_types::{InitiatorPort, Registration, Reservation, ReservationType, UnitState};

use crate::sense::{FieldPointer, ScsiError, UnitAttention};

/// What a command does to others, for the reservation check; a column of SPC-4, table 63 and SBC-3, table 13.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Conflicts with no persistent reservation.
    Free,
    /// Conflicts where others may not read.
    Read,
    /// Conflicts with every reservation of another.
    Change,
    /// Has rules of its own (PERSISTENT RESERVE IN and OUT, RESERVE, RELEASE).
    Own,
}

/// A unit's state: what lasts, and what does not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Control {
    state: UnitState,
    /// PRGENERATION: begins at 0 with each start.
    generation: u32,
    /// Holder of RESERVE.
    reserved: Option<InitiatorPort>,
    /// Current value of SWP.
    software_write_protect: bool,
    sanitize: Sanitize,
}

/// Where SANITIZE OVERWRITE is. It does not outlive a restart: the blocks are then as far as it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sanitize {
    /// Nowhere.
    #[default]
    Idle,
    /// Under way: the unit serves nothing else.
    Running,
    /// It failed: the unit serves nothing until another SANITIZE, or EXIT FAILURE MODE.
    Failed,
}

/// Parameters of PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReserveOut {
    /// SERVICE ACTION.
    pub action: ReserveAction,
    /// RESERVATION KEY.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub action_key: u64,
}

/// Service actions of PERSISTENT RESERVE OUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReserveAction {
    /// REGISTER
    Register,
    /// RESERVE
    Reserve(ReservationType),
    /// RELEASE
    Release(ReservationType),
    /// CLEAR
    Clear,
    /// PREEMPT, and PREEMPT AND ABORT with true.
    Preempt(ReservationType, bool),
    /// REGISTER AND IGNORE EXISTING KEY
    RegisterAndIgnore,
    /// REGISTER AND MOVE
    RegisterAndMove {
        /// To whom.
        to: InitiatorPort,
        /// RELATIVE TARGET PORT IDENTIFIER.
        relative_port: u16,
        /// UNREG: the mover's registration goes.
        unregister: bool,
    },
}

/// What a command changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// PERSISTENT RESERVE OUT.
    Persistent(ReserveOut),
    /// RESERVE(6), (10).
    Reserve,
    /// RELEASE(6), (10).
    Release,
    /// MODE SELECT of the control mode page.
    Mode {
        /// SWP
        software_write_protect: bool,
        /// SP: the saved value as well.
        save: bool,
    },
}

/// A change with who asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The nexus.
    pub port: InitiatorPort,
    /// RELATIVE TARGET PORT IDENTIFIER of the port it came through.
    pub relative_port: u16,
    /// What is asked for.
    pub kind: ChangeKind,
}

/// What follows from a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The unit's state from here on.
    pub control: Control,
    /// Who is to be told what with the next command; never the nexus that asked.
    pub attentions: Vec<(InitiatorPort, UnitAttention)>,
    /// Nexuses whose tasks on the unit are aborted (PREEMPT AND ABORT).
    pub abort: Vec<InitiatorPort>,
    /// Every other nexus is told that mode parameters changed.
    pub mode_changed: bool,
}

impl Control {
    /// The state of a unit that begins to serve.
    pub fn new(state: UnitState) -> Self {
        let software_write_protect = state.software_write_protect;
        Self { state, generation: 0, reserved: None, software_write_protect, sanitize: Sanitize::Idle }
    }

    /// What has to last.
    pub fn state(&self) -> &UnitState {
        &self.state
    }

    /// PRGENERATION.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Current value of SWP.
    pub fn software_write_protect(&self) -> bool {
        self.software_write_protect
    }

    /// Where SANITIZE is.
    pub fn sanitize(&self) -> Sanitize {
        self.sanitize
    }

    /// SANITIZE has begun, ended or failed.
    pub fn set_sanitize(&mut self, sanitize: Sanitize) {
        self.sanitize = sanitize;
    }

    /// What happened to the unit while a change was on its way to the disk: SANITIZE began or ended, RESERVE ended.
    pub fn carry_over(&mut self, present: &Self) {
        self.sanitize = present.sanitize;
        if present.reserved.is_none() {
            self.reserved = None;
        }
    }

    /// The nexus that holds RESERVE.
    pub fn reserved(&self) -> Option<&InitiatorPort> {
        self.reserved.as_ref()
    }

    /// RESERVE ends with a reset, and with its nexus. True if it did.
    pub fn release_reserve(&mut self, of: Option<&InitiatorPort>) -> bool {
        self.reserved.take_if(|holder| of.is_none_or(|port| port == holder)).is_some()
    }

    fn registration(&self, port: &InitiatorPort) -> Option<&Registration> {
        self.state.registrations.iter().find(|r| r.port == *port)
    }

    /// True if the nexus holds the persistent reservation.
    pub fn is_holder(&self, port: &InitiatorPort) -> bool {
        self.state.reservation.as_ref().is_some_and(|held| {
            held.holder == *port || held.kind.all_registrants() && self.registration(port).is_some()
        })
    }

    /// May the nexus carry out a command with this access? `passes_reserve` is true for the few that SPC-2 lets pass.
    ///
    /// # Errors
    /// RESERVATION CONFLICT.
    pub fn check(&self, port: &InitiatorPort, access: Access, passes_reserve: bool) -> Result<(), ScsiError> {
        if self.reserved.as_ref().is_some_and(|holder| holder != port) && !passes_reserve {
            return Err(ScsiError::ReservationConflict);
        }
        let Some(held) = &self.state.reservation else { return Ok(()) };
        let allowed = match access {
            Access::Free | Access::Own => true,
            Access::Read if !held.kind.exclusive_access() => true,
            Access::Read | Access::Change => {
                held.holder == *port || held.kind.registrants() && self.registration(port).is_some()
            }
        };
        if allowed { Ok(()) } else { Err(ScsiError::ReservationConflict) }
    }

    /// Carries out a change, or says why not. Nothing of it holds before the owner has taken the result over.
    ///
    /// # Errors
    /// RESERVATION CONFLICT or a sense code of the command.
    pub fn apply(&self, change: &Change) -> Result<Changed, ScsiError> {
        let mut next =
            Changed { control: self.clone(), attentions: Vec::new(), abort: Vec::new(), mode_changed: false };
        let port = &change.port;
        let persistent = !self.state.registrations.is_empty();
        match &change.kind {
            ChangeKind::Reserve if persistent => return Err(ScsiError::ReservationConflict),
            ChangeKind::Reserve => {
                self.check(port, Access::Own, false)?;
                next.control.reserved = Some(port.clone());
            }
            ChangeKind::Release if persistent => return Err(ScsiError::ReservationConflict),
            // A RELEASE of who holds nothing is GOOD and changes nothing.
            ChangeKind::Release => {
                next.control.release_reserve(Some(port));
            }
            ChangeKind::Mode { software_write_protect, save } => {
                next.mode_changed = self.software_write_protect != *software_write_protect;
                next.control.software_write_protect = *software_write_protect;
                if *save {
                    next.control.state.software_write_protect = *software_write_protect;
                }
            }
            ChangeKind::Persistent(_) if self.reserved.is_some() => return Err(ScsiError::ReservationConflict),
            ChangeKind::Persistent(out) => next.persistent(port, change.relative_port, out)?,
        }
        Ok(next)
    }
}

impl Changed {
    fn persistent(&mut self, port: &InitiatorPort, relative_port: u16, out: &ReserveOut) -> Result<(), ScsiError> {
        let registered = self.control.registration(port).map(|r| r.key);
        match &out.action {
            ReserveAction::Register if registered.unwrap_or(0) != out.key => Err(ScsiError::ReservationConflict),
            ReserveAction::Register | ReserveAction::RegisterAndIgnore => {
                self.register(port, relative_port, out.action_key)
            }
            // Everything else is for registered nexuses that know their key.
            _ if registered != Some(out.key) => Err(ScsiError::ReservationConflict),
            ReserveAction::Reserve(kind) => self.reserve(port, *kind),
            ReserveAction::Release(kind) => self.release(port, *kind),
            ReserveAction::Clear => {
                self.control.generation = self.control.generation.wrapping_add(1);
                self.control.state.reservation = None;
                let gone = std::mem::take(&mut self.control.state.registrations);
                self.tell(port, gone.into_iter().map(|r| r.port), UnitAttention::ReservationsPreempted);
                Ok(())
            }
            ReserveAction::Preempt(kind, abort) => self.preempt(port, out.action_key, *kind, *abort),
            ReserveAction::RegisterAndMove { to, relative_port, unregister } => {
                self.register_and_move(port, to, *relative_port, out.action_key, *unregister)
            }
        }
    }

    fn tell(&mut self, asker: &InitiatorPort, whom: impl IntoIterator<Item = InitiatorPort>, attention: UnitAttention) {
        self.attentions.extend(whom.into_iter().filter(|port| port != asker).map(|port| (port, attention)));
    }

    fn others(&self) -> Vec<InitiatorPort> {
        self.control.state.registrations.iter().map(|r| r.port.clone()).collect()
    }

    fn register(&mut self, port: &InitiatorPort, relative_port: u16, key: u64) -> Result<(), ScsiError> {
        let state = &mut self.control.state;
        let known = state.registrations.iter_mut().find(|r| r.port == *port);
        match (known, key) {
            (None, 0) => return Ok(()),
            (Some(_), 0) => self.unregister(port),
            (Some(own), key) => own.key = key,
            (None, key) => {
                if state.registrations.len() >= UnitState::REGISTRATIONS_MAX {
                    return Err(ScsiError::InsufficientRegistrationResources);
                }
                state.registrations.push(Registration { port: port.clone(), relative_port, key });
            }
        }
        self.control.generation = self.control.generation.wrapping_add(1);
        Ok(())
    }

    /// SPC-4, section 5.13.11.3: a holder that unregisters releases; the types of all registrants hold until the last.
    fn unregister(&mut self, port: &InitiatorPort) {
        self.control.state.registrations.retain(|r| r.port != *port);
        let Some(held) = self.control.state.reservation.clone() else { return };
        let last = self.control.state.registrations.is_empty();
        if held.kind.all_registrants() && !last {
            self.hand_over(&held);
            return;
        }
        if held.holder != *port && !last {
            return;
        }
        self.control.state.reservation = None;
        if held.kind.registrants() {
            let others = self.others();
            self.tell(port, others, UnitAttention::ReservationsReleased);
        }
    }

    /// A reservation of all registrants whose maker is gone is noted for one that is there.
    fn hand_over(&mut self, held: &Reservation) {
        let state = &mut self.control.state;
        let there = state.registrations.iter().any(|r| r.port == held.holder);
        if let (false, Some(first)) = (there, state.registrations.first()) {
            state.reservation = Some(Reservation { kind: held.kind, holder: first.port.clone() });
        }
    }

    fn reserve(&mut self, port: &InitiatorPort, kind: ReservationType) -> Result<(), ScsiError> {
        match &self.control.state.reservation {
            None => {
                self.control.state.reservation = Some(Reservation { kind, holder: port.clone() });
                Ok(())
            }
            Some(held) if held.kind == kind && self.control.is_holder(port) => Ok(()),
            Some(_) => Err(ScsiError::ReservationConflict),
        }
    }

    fn release(&mut self, port: &InitiatorPort, kind: ReservationType) -> Result<(), ScsiError> {
        let Some(held) = self.control.state.reservation.clone() else { return Ok(()) };
        if !self.control.is_holder(port) {
            return Ok(());
        }
        if held.kind != kind {
            return Err(ScsiError::InvalidRelease);
        }
        self.control.state.reservation = None;
        if kind.registrants() {
            let others = self.others();
            self.tell(port, others, UnitAttention::ReservationsReleased);
        }
        Ok(())
    }

    fn preempt(&mut self, port: &InitiatorPort, key: u64, kind: ReservationType, abort: bool) -> Result<(), ScsiError> {
        let held = self.control.state.reservation.clone();
        let key_of = |who: &InitiatorPort| self.control.registration(who).map(|r| r.key);
        let takes_over = match &held {
            Some(held) if held.kind.all_registrants() => key == 0,
            Some(held) => key_of(&held.holder) == Some(key),
            None => false,
        };
        if key == 0 && !takes_over {
            return Err(if held.is_some() {
                ScsiError::InvalidFieldInParameterList(FieldPointer::byte(8))
            } else {
                ScsiError::ReservationConflict
            });
        }
        let everybody = key == 0;
        if !everybody && !self.control.state.registrations.iter().any(|r| r.key == key) {
            return Err(ScsiError::ReservationConflict);
        }
        // The preempting nexus keeps its registration, even where it shares the key.
        let goes = |r: &Registration| r.port != *port && (everybody || r.key == key);
        let (gone, kept): (Vec<_>, Vec<_>) = self.control.state.registrations.drain(..).partition(goes);
        self.control.state.registrations = kept;
        self.control.generation = self.control.generation.wrapping_add(1);
        let gone: Vec<InitiatorPort> = gone.into_iter().map(|r| r.port).collect();
        if takes_over {
            let before = held.as_ref().map(|held| held.kind);
            self.control.state.reservation = Some(Reservation { kind, holder: port.clone() });
            if before.is_some_and(|before| before != kind && before.registrants()) {
                let others = self.others();
                self.tell(port, others, UnitAttention::ReservationsReleased);
            }
        } else if let Some(held) = held.filter(|held| held.kind.all_registrants()) {
            self.hand_over(&held);
        }
        if abort {
            self.abort = gone.clone();
        }
        self.tell(port, gone, UnitAttention::RegistrationsPreempted);
        Ok(())
    }

    fn register_and_move(
        &mut self,
        port: &InitiatorPort,
        to: &InitiatorPort,
        relative_port: u16,
        key: u64,
        unregister: bool,
    ) -> Result<(), ScsiError> {
        let held = self.control.state.reservation.clone();
        let held = held.filter(|held| held.holder == *port && !held.kind.all_registrants());
        let Some(held) = held else { return Err(ScsiError::ReservationConflict) };
        if key == 0 {
            return Err(ScsiError::InvalidFieldInParameterList(FieldPointer::byte(8)));
        }
        if to == port {
            return Err(ScsiError::InvalidFieldInParameterList(FieldPointer::byte(24)));
        }
        let state = &mut self.control.state;
        if unregister {
            state.registrations.retain(|r| r.port != *port);
        }
        let full = state.registrations.len() >= UnitState::REGISTRATIONS_MAX;
        match state.registrations.iter_mut().find(|r| r.port == *to) {
            Some(there) => there.key = key,
            None if full => return Err(ScsiError::InsufficientRegistrationResources),
            None => state.registrations.push(Registration { port: to.clone(), relative_port, key }),
        }
        state.reservation = Some(Reservation { kind: held.kind, holder: to.clone() });
        self.control.generation = self.control.generation.wrapping_add(1);
        Ok(())
    }
}
