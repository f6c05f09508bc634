//! What logical units remember beside their content: reservations, saved mode parameters, and their size.
//!
//! A change takes a Seq like a write, so that it reaches the mirror in order. The superblock of each box holds the newest
//! state: on the source a change is answered, and hosts are served a size, when the record *and* the superblock are durable;
//! on the mirror a record is acknowledged when both are. A crash between the two writes of a change leaves a record that
//! nobody was told of: it is taken up at the next start (`replay`), since what follows it counts too. A source whose disk
//! has lost it may have a mirror that holds it, so the source says the state of every unit that ever had one again
//! whenever a link comes up.
//!
//! A mirror takes no size that its home has no room for: the record would be durable, and the writes that follow it would
//! have no place.

mod replay;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::unit;
use reprise_journal::ChangeRecord;
use reprise_link::LinkError;
use reprise_types::{Extent, Now, RecordKind, Role, Sector, SectorCount, Seq, UnitState, VolumeSlot, honest};

use crate::core::{Barrier, Open, SUPERBLOCK_FILL_OWN, SUPERBLOCK_FILL_PEER, superblock_has_room};
use crate::effect::{Effect, HostError, HostReply, Io};
use crate::group::{CommandError, Group};
use crate::meta::GroupMeta;
use replay::{Replay, ReplayStep};

/// A change that has a Seq and is not durable.
#[derive(Debug)]
struct Change {
    seq: Seq,
    volume: VolumeSlot,
    what: What,
    io: Option<Io>,
}

#[derive(Debug, Clone)]
enum What {
    /// The unit remembers this.
    State(UnitState),
    /// The volume has this size.
    Size(SectorCount),
}

impl What {
    fn kind(&self) -> RecordKind {
        match self {
            Self::State(_) => RecordKind::Reservation,
            Self::Size(_) => RecordKind::VolumeResized,
        }
    }

    fn payload(&self) -> Bytes {
        match self {
            Self::State(state) => unit::to_payload(state),
            Self::Size(sectors) => unit::size_payload(*sectors),
        }
    }

    fn apply(&self, meta: &mut GroupMeta, slot: VolumeSlot) {
        if let Some(volume) = meta.volumes.iter_mut().find(|v| v.slot == slot) {
            match self {
                Self::State(state) => volume.unit = Some(state.clone()),
                Self::Size(sectors) => volume.sectors = *sectors,
            }
        }
    }

    /// From a record; none for what this version does not understand, which the journal keeps all the same.
    fn of(kind: RecordKind, payload: &[u8]) -> Option<Self> {
        match kind {
            RecordKind::Reservation => unit::from_payload(payload).ok().map(Self::State),
            RecordKind::VolumeResized => unit::size_of_payload(payload).ok().map(Self::Size),
            _ => None,
        }
    }

    fn is_size(&self) -> bool {
        matches!(self, Self::Size(_))
    }
}

/// A change in a batch of the peer.
#[derive(Debug)]
pub(crate) struct UnitRecord {
    seq: Seq,
    volume: VolumeSlot,
    what: What,
}

/// A change that waits until the superblock knows that its unit has a state.
#[derive(Debug)]
struct First {
    barrier: Barrier,
    io: Option<Io>,
    volume: VolumeSlot,
    what: What,
}

/// What was taken, until the superblock holds it: hosts to be answered, and sizes that count then.
#[derive(Debug)]
struct Kept {
    barrier: Barrier,
    done: Vec<Io>,
    sizes: Vec<(VolumeSlot, SectorCount)>,
}

/// Changes under way.
#[derive(Debug, Default)]
pub(crate) struct Units {
    /// In Seq order.
    changes: VecDeque<Change>,
    /// Changes that wait until the superblock knows that their unit has a state.
    first: VecDeque<First>,
    /// What is on its way to the superblock, which a mirror's acknowledgement waits for.
    kept: VecDeque<Kept>,
    /// The newest record that this box has appended of each volume's state (false) and size (true).
    appended: BTreeMap<(VolumeSlot, bool), Seq>,
    /// Sizes that the durable superblock holds, of volumes for which a larger one is on its way there.
    lasting: BTreeMap<VolumeSlot, SectorCount>,
    /// Records that sizes (true) and states of units come from, as far as this process has seen them.
    taken: BTreeMap<(VolumeSlot, bool), Seq>,
    /// What the homes have room for.
    homes: BTreeMap<VolumeSlot, SectorCount>,
    /// A size of the source that a home here has no room for.
    too_large: Option<(VolumeSlot, SectorCount)>,
    replay: Option<Replay>,
    /// Batches that are being read for a replay, or for one that is not wanted any more.
    open: Open<ReplayStep>,
    /// A replay could not read all that it needed.
    unread: bool,
}

impl Group {
    /// A host changes what a unit remembers.
    pub(crate) fn host_unit(&mut self, io: Io, volume: VolumeSlot, state: UnitState) {
        if !self.unit_fits(volume, &state) {
            self.core.fx.push(Effect::Reply(io, Err(HostError::NoRoom)));
            return;
        }
        self.unit_change(Some(io), volume, What::State(state));
    }

    /// Appends a change once the superblock knows that the unit has a state, which is then said again at each link.
    fn unit_change(&mut self, io: Option<Io>, volume: VolumeSlot, what: What) {
        let known = self.core.meta.volume(volume).is_some_and(|v| v.unit.is_some());
        if known && self.units.first.is_empty() {
            return self.unit_append(io, volume, what);
        }
        let barrier = self.core.meta.change(|meta| {
            if let Some(v) = meta.volumes.iter_mut().find(|v| v.slot == volume) {
                v.unit.get_or_insert_default();
            }
        });
        self.units.first.push_back(First { barrier, io, volume, what });
    }

    /// A superblock copy has room for the state and some more.
    fn unit_fits(&self, volume: VolumeSlot, state: &UnitState) -> bool {
        let mut meta = GroupMeta::clone(&self.core.meta);
        if let Some(known) = meta.volumes.iter_mut().find(|v| v.slot == volume) {
            known.unit = Some(state.clone());
        }
        superblock_has_room(&meta, SUPERBLOCK_FILL_OWN)
    }

    /// The changes in a batch of the peer. Each comes to stand in the superblock before it is acknowledged.
    ///
    /// # Errors
    /// There is no room for one: the batch is not taken.
    pub(crate) fn unit_records_of(&self, changes: &[ChangeRecord]) -> Result<Vec<UnitRecord>, LinkError> {
        let told = changes.iter().filter_map(|&ChangeRecord { seq, kind, volume, ref payload }| {
            Some(UnitRecord { seq, volume, what: What::of(kind, payload)? })
        });
        let told: Vec<UnitRecord> = told.collect();
        if !told.is_empty() {
            let mut meta = GroupMeta::clone(&self.core.meta);
            let under_way = self.units.changes.iter().map(|c| (c.volume, &c.what));
            under_way
                .chain(told.iter().map(|r| (r.volume, &r.what)))
                .for_each(|(slot, what)| what.apply(&mut meta, slot));
            if !superblock_has_room(&meta, SUPERBLOCK_FILL_PEER) {
                return Err(LinkError::Contradiction { what: "its units remember more than there is room for" });
            }
        }
        Ok(told)
    }

    /// The superblock has been written.
    pub(crate) fn units_stored(&mut self) {
        // Those behind it wait for a later version, which knows of their units.
        while let Some(first) = self.units.first.pop_front_if(|first| self.core.meta.holds(first.barrier)) {
            self.unit_append(first.io, first.volume, first.what);
        }
        while let Some(kept) = self.units.kept.pop_front_if(|kept| self.core.meta.holds(kept.barrier)) {
            self.units_kept(&kept);
        }
    }

    fn unit_append(&mut self, io: Option<Io>, volume: VolumeSlot, what: What) {
        let extent = Extent { volume, sector: Sector::ZERO, sectors: SectorCount::from_raw(0) };
        let seq = self.core.append(what.kind(), extent, what.payload());
        self.units.appended.insert((volume, what.is_size()), seq);
        self.units.changes.push_back(Change { seq, volume, what, io });
    }

    /// Gives a volume more room. Its homes on all boxes have it already. The new size counts once the record and the
    /// superblock hold it.
    ///
    /// # Errors
    /// Not on the source, no such volume, no room in its home, a first copy or a comparison is under way.
    pub fn resize_volume(&mut self, now: Now, slot: VolumeSlot, sectors: SectorCount) -> Result<(), CommandError> {
        self.source_only()?;
        let copying = self.core.meta.peer.as_ref().is_some_and(|p| p.durable.is_none() || p.copy.is_some());
        if copying || self.verify.base().is_some() {
            return Err(CommandError::Busy);
        }
        let volume = self.core.meta.volume(slot).ok_or(CommandError::NoVolume)?;
        if self.size_under_way(slot).is_some_and(|size| sectors <= size) || sectors <= volume.sectors {
            return Err(CommandError::NoVolume);
        }
        if !self.home_holds(slot, sectors) {
            return Err(CommandError::HomeTooSmall);
        }
        self.core.now = now;
        self.unit_change(None, slot, What::Size(sectors));
        self.settle(now);
        Ok(())
    }

    /// The home of a volume has room for so many sectors: said at the start, and when it has grown.
    pub fn set_home_size(&mut self, now: Now, slot: VolumeSlot, sectors: SectorCount) {
        self.units.homes.insert(slot, sectors);
        let fits = self.units.too_large.take_if(|(of, wanted)| *of == slot && *wanted <= sectors).is_some();
        if fits && self.core.is_ready() {
            self.units.unread = true;
            self.units_replay_unread();
        }
        self.settle(now);
    }

    fn home_holds(&self, slot: VolumeSlot, sectors: SectorCount) -> bool {
        self.units.homes.get(&slot).is_none_or(|have| sectors <= *have)
    }

    /// On a mirror: a size that the source has given a volume and that its home here has no room for. Nothing more is taken
    /// from the source until it has.
    pub fn home_too_small(&self) -> Option<(VolumeSlot, SectorCount)> {
        self.units.too_large
    }

    /// A record that gives a volume more room does not count yet.
    pub(crate) fn sizes_under_way(&self) -> bool {
        self.under_way().any(|(_, what)| what.is_size())
    }

    /// The largest size of a volume that does not count yet.
    fn size_under_way(&self, slot: VolumeSlot) -> Option<SectorCount> {
        let sizes = self.under_way().filter(|(of, _)| *of == slot).filter_map(|(_, what)| match what {
            What::Size(sectors) => Some(*sectors),
            What::State(_) => None,
        });
        sizes.max()
    }

    fn under_way(&self) -> impl Iterator<Item = (VolumeSlot, &What)> {
        let waiting = self.units.first.iter().map(|first| (first.volume, &first.what));
        self.units.changes.iter().map(|c| (c.volume, &c.what)).chain(waiting)
    }

    /// Size of a volume as hosts may know it: what a crash leaves at least.
    pub fn served_sectors(&self, slot: VolumeSlot) -> Option<SectorCount> {
        let volume = self.core.meta.volume(slot)?;
        Some(self.units.lasting.get(&slot).copied().unwrap_or(volume.sectors))
    }

    /// The homes have room for the sizes among changes of the peer, or which has not is noted.
    pub(crate) fn homes_hold(&mut self, records: &[UnitRecord]) -> bool {
        let sizes = records.iter().filter_map(|r| match r.what {
            What::Size(sectors) => Some((r.volume, sectors)),
            What::State(_) => None,
        });
        let beyond = sizes.into_iter().find(|(volume, sectors)| !self.home_holds(*volume, *sectors));
        self.units.too_large = beyond.or(self.units.too_large);
        beyond.is_none()
    }

    /// A batch of the peer was taken: changes in it count once they are durable.
    pub(crate) fn unit_records(&mut self, records: Vec<UnitRecord>) {
        let changes =
            records.into_iter().map(|UnitRecord { seq, volume, what }| Change { seq, volume, what, io: None });
        self.units.changes.extend(changes);
    }

    /// Everything up to `durable` is durable. True while the superblock has to follow before a peer is told.
    pub(crate) fn units_durable(&mut self, durable: Seq) -> bool {
        let (mut done, mut sizes) = (Vec::new(), Vec::new());
        let mut changed = false;
        while let Some(change) = self.units.changes.pop_front_if(|change| change.seq <= durable) {
            changed = true;
            sizes.extend(self.unit_take(change.volume, change.seq, change.what));
            done.extend(change.io);
        }
        if changed {
            honest!(self.units_keep(done, sizes), UnitNotStored => {
                self.units_answer(&done);
                return false;
            });
        }
        self.units_hold()
    }

    /// A record counts from here on, if it is the newest of its volume. Gives the size, where it is a larger one.
    fn unit_take(&mut self, slot: VolumeSlot, seq: Seq, what: What) -> Option<(VolumeSlot, SectorCount)> {
        let taken = self.units.taken.entry((slot, what.is_size())).or_default();
        if *taken > seq {
            return None;
        }
        if let What::Size(sectors) = what
            && !self.home_holds(slot, sectors)
        {
            self.units.too_large = Some((slot, sectors));
            return None;
        }
        *self.units.taken.entry((slot, what.is_size())).or_default() = seq;
        let before = self.core.meta.volume(slot)?.sectors;
        let larger = match what {
            What::Size(sectors) if sectors <= before => return None,
            What::Size(sectors) => Some(sectors),
            What::State(_) => None,
        };
        self.core.meta.note(|meta| what.apply(meta, slot));
        larger.map(|sectors| {
            self.units.lasting.entry(slot).or_insert(before);
            (slot, sectors)
        })
    }

    /// Puts what was taken on its way to the superblock.
    fn units_keep(&mut self, done: Vec<Io>, sizes: Vec<(VolumeSlot, SectorCount)>) {
        let barrier = self.core.meta.keep();
        self.units.kept.push_back(Kept { barrier, done, sizes });
    }

    fn units_answer(&mut self, done: &[Io]) {
        done.iter().for_each(|io| self.core.fx.push(Effect::Reply(*io, Ok(HostReply::Done))));
    }

    fn units_kept(&mut self, kept: &Kept) {
        for (slot, sectors) in &kept.sizes {
            if self.core.meta.volume(*slot).is_some_and(|v| v.sectors > *sectors) {
                self.units.lasting.insert(*slot, *sectors);
            } else {
                self.units.lasting.remove(slot);
            }
        }
        self.units_answer(&kept.done);
        if self.units.kept.is_empty() && self.core.meta.role == Role::Mirror {
            self.feed_durable(self.core.journal.durable());
        }
    }

    /// A superblock that holds what is durable in the journal is still on its way.
    pub(crate) fn units_hold(&self) -> bool {
        !self.units.kept.is_empty()
    }

    /// The link is up: the mirror may hold a change that this box has forgotten. It does not hold what is newer than `held`:
    /// that reaches it in any case and is not said once more, or a link that comes and goes would fill the journal with it.
    pub(crate) fn units_say_again(&mut self, held: Seq) {
        if honest!(self.core.is_fenced(), UnitNotSaidAgain => true) {
            return;
        }
        let known: Vec<VolumeSlot> =
            self.core.meta.volumes.iter().filter(|v| v.unit.is_some()).map(|v| v.slot).collect();
        for slot in known {
            let Some(volume) = self.core.meta.volume(slot) else { continue };
            let stored = [What::Size(volume.sectors), What::State(volume.unit.clone().unwrap_or_default())];
            for what in stored {
                let on_its_way = |seq: &Seq| *seq > held;
                if !self.units.appended.get(&(slot, what.is_size())).is_some_and(on_its_way) {
                    self.unit_append(None, slot, what);
                }
            }
        }
    }

    /// The journal begins anew, without the records that were under way.
    pub(crate) fn units_forget(&mut self) {
        self.units.changes.clear();
        self.units.taken.clear();
        self.units.replay = None;
        self.units.open.steps_mut().for_each(|step| step.wanted = false);
    }

    pub(crate) fn units_fail(&mut self) -> Vec<Io> {
        let first = std::mem::take(&mut self.units.first).into_iter().filter_map(|first| first.io);
        let changes = std::mem::take(&mut self.units.changes).into_iter().filter_map(|c| c.io);
        // Those whose record is durable wait for a superblock that may never be.
        let kept = self.units.kept.iter_mut().flat_map(|kept| std::mem::take(&mut kept.done));
        first.chain(changes).chain(kept).collect()
    }
}
