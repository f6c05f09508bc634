//! What is true of the group's units for all their hosts: registrations, reservations, changeable mode parameters.
//! Changes of a unit go one after the other; one that has to last is answered when the engine says that it is durable.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::{Event, HostError, HostOp, HostReply};
use reprise_iscsi::{ResetScope, TaskTag};
use reprise_journal::PieceSource;
use reprise_scsi::{
    Change, Changed, Completion, Control, Lun, LunNumber, MappedRun, ResourceGauge, Sanitize, ScsiError, UnitAttention,
};
use reprise_types::{Extent, InitiatorPort, Role, Sector, SectorCount, VolumeId, VolumeSlot};

use tokio::sync::oneshot;

use super::iscsi::{Session, scsi_error};
use super::owner::Owner;

/// Sectors that one GET LBA STATUS looks at: 1 GiB. An initiator asks on where the answer ends.
const STATUS_SECTORS_MAX: u64 = 2 << 20;
/// Writes of an overwrite that are under way, at most: 2 MiB.
const OVERWRITES_MAX: usize = 8;
/// Hosts of thin units are warned when less than this part of the room is left.
const THRESHOLD_PARTS: u64 = 10;

struct Asked {
    session: Rc<Session>,
    tag: TaskTag,
    change: Change,
}

struct Unit {
    control: Arc<Control>,
    /// A change is on its way to the disk.
    busy: bool,
    waiting: VecDeque<Asked>,
}

struct UnderWay {
    slot: VolumeSlot,
    asked: Asked,
    changed: Changed,
}

/// The units of a group.
#[derive(Default)]
pub(super) struct Units {
    by_slot: RefCell<BTreeMap<VolumeSlot, Unit>>,
    /// By the name of the engine's operation.
    under_way: RefCell<HashMap<u64, UnderWay>>,
    /// Writes of overwrites, by the name of the engine's operation.
    writes: RefCell<HashMap<u64, oneshot::Sender<bool>>>,
    gauges: RefCell<BTreeMap<VolumeSlot, ResourceGauge>>,
    short: RefCell<BTreeMap<VolumeSlot, bool>>,
}

impl Units {
    fn with<T>(&self, owner: &Owner, slot: VolumeSlot, act: impl FnOnce(&mut Unit) -> T) -> T {
        let mut units = self.by_slot.borrow_mut();
        let unit = units.entry(slot).or_insert_with(|| {
            let state = owner.look().group.meta().volume(slot).and_then(|v| v.unit.clone()).unwrap_or_default();
            Unit { control: Arc::new(Control::new(state)), busy: false, waiting: VecDeque::new() }
        });
        act(unit)
    }
}

impl Owner {
    /// The state of a volume's unit, and how much room it has.
    pub(super) fn dress_lun(&self, slot: VolumeSlot, lun: &mut Lun) {
        let mirrored = {
            let look = self.look();
            let meta = look.group.meta();
            let state = meta.volume(slot).and_then(|v| v.unit.clone()).unwrap_or_default();
            (meta.role() == Role::Mirror).then_some(state)
        };
        lun.control = self.units.with(self, slot, |unit| {
            // On a mirror it changes by what the source sends.
            if let Some(state) = mirrored.filter(|state| state != unit.control.state()) {
                unit.control = Arc::new(Control::new(state));
            }
            unit.control.clone()
        });
        if lun.thin {
            let known = self.units.gauges.borrow().get(&slot).cloned();
            let gauge = known.unwrap_or_else(|| self.new_gauge(slot));
            lun.resources = Some(gauge);
        }
    }

    fn new_gauge(&self, slot: VolumeSlot) -> ResourceGauge {
        let gauge = ResourceGauge::default();
        if let Some(room) = self.look().homes.get(&slot).and_then(|home| home.room().ok()) {
            gauge.set(room.available, room.used);
        }
        self.units.gauges.borrow_mut().insert(slot, gauge.clone());
        gauge
    }

    /// A session asks for a change.
    pub(super) fn change_unit(self: &Rc<Self>, session: &Rc<Session>, tag: TaskTag, slot: VolumeSlot, change: Change) {
        let asked = Asked { session: session.clone(), tag, change };
        self.units.with(self, slot, |unit| unit.waiting.push_back(asked));
        self.next_change(slot);
    }

    fn next_change(self: &Rc<Self>, slot: VolumeSlot) {
        loop {
            let next = self.units.with(self, slot, |unit| {
                if unit.busy { None } else { unit.waiting.pop_front().map(|asked| (asked, unit.control.clone())) }
            });
            let Some((asked, control)) = next else { return };
            let changed = match control.apply(&asked.change) {
                Ok(changed) => changed,
                Err(error) => {
                    asked.session.complete(asked.tag, Completion::Failed(error));
                    continue;
                }
            };
            if changed.control.state() == control.state() {
                self.unit_changed(slot, changed, &asked);
                continue;
            }
            self.units.with(self, slot, |unit| unit.busy = true);
            let io = self.fresh_io();
            let state = changed.control.state().clone();
            self.units.under_way.borrow_mut().insert(io.0, UnderWay { slot, asked, changed });
            self.event(Event::Host(io, HostOp::Unit { volume: slot, state }));
            return;
        }
    }

    /// The engine's answer, if it is to a change or to a write of an overwrite. True if it was.
    pub(super) fn change_done(self: &Rc<Self>, io: u64, reply: &Result<HostReply, HostError>) -> bool {
        if let Some(done) = self.units.writes.borrow_mut().remove(&io) {
            let _ = done.send(reply.is_ok());
            return true;
        }
        let Some(UnderWay { slot, asked, changed }) = self.units.under_way.borrow_mut().remove(&io) else {
            return false;
        };
        self.units.with(self, slot, |unit| unit.busy = false);
        match reply {
            Ok(_) => {
                let mut changed = changed;
                self.units.with(self, slot, |unit| changed.control.carry_over(&unit.control));
                self.unit_changed(slot, changed, &asked);
            }
            Err(error) => asked.session.complete(asked.tag, Completion::Failed(scsi_error(*error))),
        }
        self.next_change(slot);
        true
    }

    /// The change holds from here on: everybody sees it, is told what it means for him, and then it is answered.
    fn unit_changed(self: &Rc<Self>, slot: VolumeSlot, changed: Changed, asked: &Asked) {
        let Changed { control, attentions, abort, mode_changed } = changed;
        let control = Arc::new(control);
        self.units.with(self, slot, |unit| unit.control = control.clone());
        self.luns_changed();
        let place = self.look().group.meta().volume(slot).map(|v| (v.lun, v.id));
        if let Some((number, volume)) = place.and_then(|(lun, id)| Some((LunNumber::new(lun)?, id))) {
            for session in self.live_sessions() {
                let Some(port) = session.port() else { continue };
                if abort.contains(&port) {
                    let scope = ResetScope::Unit { lun: number, volume };
                    session.reset(scope, UnitAttention::RegistrationsPreempted, false);
                }
                for (_, attention) in attentions.iter().filter(|(whom, _)| *whom == port) {
                    session.raise(number, *attention);
                }
                if mode_changed && !Rc::ptr_eq(&session, &asked.session) {
                    session.raise(number, UnitAttention::ModeParametersChanged);
                }
            }
        }
        asked.session.complete(asked.tag, Completion::Done);
    }

    /// SANITIZE OVERWRITE. Nothing stops it but the end of the group's thread; resets and the end of the session do not.
    pub(super) fn overwrite(
        self: &Rc<Self>,
        session: &Rc<Session>,
        tag: TaskTag,
        slot: VolumeSlot,
        pattern: Bytes,
        immediate: bool,
    ) {
        self.set_sanitize(slot, Sanitize::Running);
        if immediate {
            session.complete(tag, Completion::Done);
        }
        let (owner, session) = (self.clone(), session.clone());
        tokio::task::spawn_local(async move {
            let good = owner.write_over(slot, &pattern).await;
            owner.set_sanitize(slot, if good { Sanitize::Idle } else { Sanitize::Failed });
            if !immediate {
                let failed = Completion::Failed(ScsiError::SanitizeFailed);
                session.complete(tag, if good { Completion::Done } else { failed });
            }
        });
    }

    async fn write_over(self: &Rc<Self>, slot: VolumeSlot, pattern: &Bytes) -> bool {
        let end = self.look().group.served_sectors(slot).map_or(0, SectorCount::get);
        let (mut at, step) = (0, pattern.len() as u64 / 512);
        let mut flight = VecDeque::new();
        loop {
            while at < end && flight.len() < OVERWRITES_MAX {
                let sectors = step.min(end - at);
                let extent =
                    Extent { volume: slot, sector: Sector::from_raw(at), sectors: SectorCount::from_raw(sectors) };
                let (sender, done) = oneshot::channel();
                let io = self.fresh_io();
                self.units.writes.borrow_mut().insert(io.0, sender);
                flight.push_back(done);
                at += sectors;
                let data = pattern.slice(..(sectors * 512) as usize);
                self.event(Event::Host(io, HostOp::Write { extent, data }));
            }
            let Some(done) = flight.pop_front() else { return true };
            if done.await != Ok(true) {
                return false;
            }
        }
    }

    /// SANITIZE has begun, ended or failed.
    pub(super) fn set_sanitize(&self, slot: VolumeSlot, sanitize: Sanitize) {
        self.units.with(self, slot, |unit| Arc::make_mut(&mut unit.control).set_sanitize(sanitize));
        self.luns_changed();
    }

    /// RESERVE ends with a reset, or with its nexus.
    pub(super) fn end_reserve(&self, volume: Option<VolumeId>, of: Option<&InitiatorPort>) {
        let slots: Vec<VolumeSlot> = {
            let state = self.look();
            let volumes = state.group.meta().volumes.iter();
            volumes.filter(|v| volume.is_none_or(|id| id == v.id)).map(|v| v.slot).collect()
        };
        let mut ended = false;
        for slot in slots {
            ended |= self.units.with(self, slot, |unit| {
                unit.control.reserved().is_some() && Arc::make_mut(&mut unit.control).release_reserve(of)
            });
        }
        if ended {
            self.luns_changed();
        }
    }

    /// What is mapped: what the journal holds, and else what the home holds.
    pub(super) fn lba_status(&self, extent: Extent, runs_max: usize) -> Completion {
        let sectors = SectorCount::from_raw(extent.sectors.get().min(STATUS_SECTORS_MAX));
        let plan = self.look().group.journal().plan_read(Extent { sectors, ..extent });
        let home = self.look().homes.get(&extent.volume).cloned();
        let mut runs: Vec<MappedRun> = Vec::new();
        let mut add = |sector: u64, sectors: u64, mapped| match runs.pop_if(|last| last.mapped == mapped) {
            Some(last) => {
                let sectors = SectorCount::from_raw(last.sectors.get() + sectors);
                runs.push(MappedRun { sectors, ..last });
                true
            }
            None if runs.len() >= runs_max => false,
            None => {
                let (sector, sectors) = (Sector::from_raw(sector), SectorCount::from_raw(sectors));
                runs.push(MappedRun { sector, sectors, mapped });
                true
            }
        };
        'pieces: for piece in plan.pieces {
            let (sector, sectors) = (piece.sector.get(), piece.sectors.get());
            match (&piece.source, &home) {
                (PieceSource::Home, Some(home)) => {
                    let Ok(found) = home.mapped(sector * 512, sectors * 512, runs_max + 1) else {
                        return Completion::Failed(ScsiError::UnrecoveredRead { lba: None });
                    };
                    let mut end = sector;
                    for run in found {
                        // A sector that is mapped in part is mapped; holes are multiples of the file system's block.
                        end = (run.offset + run.len) / 512;
                        if !add(run.offset / 512, run.len / 512, run.mapped) {
                            break 'pieces;
                        }
                    }
                    if end < sector + sectors {
                        break 'pieces;
                    }
                }
                (source, _) => {
                    if !add(sector, sectors, !matches!(source, PieceSource::Zero)) {
                        break 'pieces;
                    }
                }
            }
        }
        Completion::Mapped(runs)
    }

    /// Looks how much room thin units have, and warns their hosts once when it gets short. On a mirror it also has sessions
    /// see what the source has sent about units.
    pub(super) fn measure_units(&self) {
        let mirror = self.look().group.meta().role() == Role::Mirror;
        if mirror && !self.live_sessions().is_empty() {
            self.luns_changed();
        }
        let gauges = self.units.gauges.borrow().clone();
        for (slot, gauge) in gauges {
            let Some(home) = self.look().homes.get(&slot).cloned() else { continue };
            let Ok(room) = home.room() else { continue };
            gauge.set(room.available, room.used);
            let size = self.look().group.meta().volume(slot).map_or(0, |v| v.sectors.bytes().get());
            let missing = size.saturating_sub(room.used);
            // Short: the room left is less than a tenth of what the unit may still want.
            let short = missing > 0 && room.available < missing && room.available < size / THRESHOLD_PARTS;
            let before = self.units.short.borrow_mut().insert(slot, short).unwrap_or(false);
            if short && !before {
                let number = self.look().group.meta().volume(slot).and_then(|v| LunNumber::new(v.lun));
                let Some(number) = number else { continue };
                self.live_sessions().iter().for_each(|session| session.raise(number, UnitAttention::ThinThreshold));
            }
        }
    }
}
