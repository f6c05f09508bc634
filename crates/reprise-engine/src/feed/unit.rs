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

mod change;
mod replay;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_journal::ChangeRecord;
use reprise_link::LinkError;
use reprise_types::{Extent, RecordKind, Sector, SectorCount, Seq, UnitState, VolumeSlot, honest};

use crate::core::{Barrier, Core, SUPERBLOCK_FILL_OWN, SUPERBLOCK_FILL_PEER, superblock_has_room};
use crate::io::{Effect, HostError, HostReply, Io, IoFault, Token};
use crate::meta::GroupMeta;
use crate::signal::Signal;
use change::{UnitRecord, What};
use replay::{Found, Replay};

/// A change that has a Seq and is not durable.
#[derive(Debug)]
struct Change {
    record: UnitRecord,
    io: Option<Io>,
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
    /// The newest record of each kind that this box has appended for a volume.
    appended: BTreeMap<(VolumeSlot, RecordKind), Seq>,
    /// Sizes that the durable superblock holds, of volumes for which a larger one is on its way there.
    lasting: BTreeMap<VolumeSlot, SectorCount>,
    /// Records of each kind that sizes and states of units come from, as far as this process has seen them.
    taken: BTreeMap<(VolumeSlot, RecordKind), Seq>,
    /// What the homes have room for.
    homes: BTreeMap<VolumeSlot, SectorCount>,
    /// A size of the source that a home here has no room for.
    too_large: Option<(VolumeSlot, SectorCount)>,
    replay: Replay,
}

impl Units {
    /// A host changes what a unit remembers.
    pub(crate) fn set_state(&mut self, core: &mut Core, io: Io, volume: VolumeSlot, state: UnitState) {
        if !Self::fits(core, volume, &state) {
            core.fx.push(Effect::Reply(io, Err(HostError::NoRoom)));
            return;
        }
        self.change(core, Some(io), volume, What::State(state));
    }

    /// Gives a volume another size, which counts once the record and the superblock hold it.
    pub(crate) fn resize(&mut self, core: &mut Core, volume: VolumeSlot, sectors: SectorCount) {
        self.change(core, None, volume, What::Size(sectors));
    }

    /// Appends a change once the superblock knows that the unit has a state, which is then said again at each link.
    fn change(&mut self, core: &mut Core, io: Option<Io>, volume: VolumeSlot, what: What) {
        let known = core.meta.volume(volume).is_some_and(|v| v.unit.is_some());
        if known && self.first.is_empty() {
            return self.append(core, io, volume, what);
        }
        let barrier = core.meta.change(|meta| {
            if let Some(v) = meta.volumes.iter_mut().find(|v| v.slot == volume) {
                v.unit.get_or_insert_default();
            }
        });
        self.first.push_back(First { barrier, io, volume, what });
    }

    /// A superblock copy has room for the state and some more.
    fn fits(core: &Core, volume: VolumeSlot, state: &UnitState) -> bool {
        let mut meta = GroupMeta::clone(&core.meta);
        if let Some(known) = meta.volumes.iter_mut().find(|v| v.slot == volume) {
            known.unit = Some(state.clone());
        }
        superblock_has_room(&meta, SUPERBLOCK_FILL_OWN)
    }

    fn append(&mut self, core: &mut Core, io: Option<Io>, volume: VolumeSlot, what: What) {
        let extent = Extent { volume, sector: Sector::ZERO, sectors: SectorCount::from_raw(0) };
        let seq = core.append(what.kind(), extent, what.payload());
        self.appended.insert((volume, what.kind()), seq);
        self.changes.push_back(Change { record: UnitRecord { seq, volume, what }, io });
    }

    /// The changes in a batch of the peer. Each comes to stand in the superblock before it is acknowledged.
    ///
    /// # Errors
    /// There is no room for one: the batch is not taken.
    pub(crate) fn records_of(&self, core: &Core, changes: &[ChangeRecord]) -> Result<Vec<UnitRecord>, LinkError> {
        let told = changes.iter().filter_map(|&ChangeRecord { seq, kind, volume, ref payload }| {
            Some(UnitRecord { seq, volume, what: What::of(kind, payload)? })
        });
        let told: Vec<UnitRecord> = told.collect();
        if !told.is_empty() {
            let mut meta = GroupMeta::clone(&core.meta);
            let under_way = self.changes.iter().map(|c| &c.record);
            under_way.chain(&told).for_each(|r| r.what.apply(&mut meta, r.volume));
            if !superblock_has_room(&meta, SUPERBLOCK_FILL_PEER) {
                return Err(LinkError::Contradiction { what: "its units remember more than there is room for" });
            }
        }
        Ok(told)
    }

    /// A batch of the peer was taken: changes in it count once they are durable.
    pub(crate) fn received(&mut self, records: Vec<UnitRecord>) {
        self.changes.extend(records.into_iter().map(|record| Change { record, io: None }));
    }

    /// Everything up to `durable` is durable: changes up to there count, and are put on their way to the superblock.
    pub(crate) fn durable(&mut self, core: &mut Core, durable: Seq) {
        let (mut done, mut sizes) = (Vec::new(), Vec::new());
        let mut changed = false;
        while let Some(change) = self.changes.pop_front_if(|change| change.record.seq <= durable) {
            changed = true;
            sizes.extend(self.take(core, change.record));
            done.extend(change.io);
        }
        if changed {
            honest!(self.keep(core, done, sizes), UnitNotStored => Self::answer(core, &done));
        }
    }

    /// A record counts from here on, if it is the newest of its volume. Gives the size, where it is a larger one.
    fn take(&mut self, core: &mut Core, record: UnitRecord) -> Option<(VolumeSlot, SectorCount)> {
        let UnitRecord { seq, volume: slot, what } = record;
        let taken = self.taken.entry((slot, what.kind())).or_default();
        if *taken > seq {
            return None;
        }
        if let What::Size(sectors) = what
            && !self.home_holds(slot, sectors)
        {
            self.too_large = Some((slot, sectors));
            return None;
        }
        *self.taken.entry((slot, what.kind())).or_default() = seq;
        let before = core.meta.volume(slot)?.sectors;
        let larger = match what {
            What::Size(sectors) if sectors <= before => return None,
            What::Size(sectors) => Some(sectors),
            What::State(_) => None,
        };
        core.meta.note(|meta| what.apply(meta, slot));
        larger.map(|sectors| {
            self.lasting.entry(slot).or_insert(before);
            (slot, sectors)
        })
    }

    /// Puts what was taken on its way to the superblock.
    fn keep(&mut self, core: &mut Core, done: Vec<Io>, sizes: Vec<(VolumeSlot, SectorCount)>) {
        let barrier = core.meta.keep();
        self.kept.push_back(Kept { barrier, done, sizes });
    }

    fn answer(core: &mut Core, done: &[Io]) {
        done.iter().for_each(|io| core.fx.push(Effect::Reply(*io, Ok(HostReply::Done))));
    }

    /// A superblock that holds what is durable in the journal is still on its way: nobody is told that it is durable.
    pub(crate) fn hold(&self) -> bool {
        !self.kept.is_empty()
    }

    /// The superblock has been written.
    pub(crate) fn stored(&mut self, core: &mut Core) {
        // Those behind it wait for a later version, which knows of their units.
        while let Some(first) = self.first.pop_front_if(|first| core.meta.holds(first.barrier)) {
            self.append(core, first.io, first.volume, first.what);
        }
        while let Some(kept) = self.kept.pop_front_if(|kept| core.meta.holds(kept.barrier)) {
            for (slot, sectors) in &kept.sizes {
                if core.meta.volume(*slot).is_some_and(|v| v.sectors > *sectors) {
                    self.lasting.insert(*slot, *sectors);
                } else {
                    self.lasting.remove(slot);
                }
            }
            Self::answer(core, &kept.done);
            if !self.hold() {
                core.tell(Signal::UnitsKept);
            }
        }
    }

    /// The home of a volume has room for so many sectors: said at the start, and when it has grown.
    pub(crate) fn set_home(&mut self, core: &mut Core, slot: VolumeSlot, sectors: SectorCount) {
        self.homes.insert(slot, sectors);
        let fits = self.too_large.take_if(|(of, wanted)| *of == slot && *wanted <= sectors).is_some();
        if fits && core.is_ready() {
            self.replay.want_again();
            self.replay_unread(core);
        }
    }

    pub(crate) fn home_holds(&self, slot: VolumeSlot, sectors: SectorCount) -> bool {
        self.homes.get(&slot).is_none_or(|have| sectors <= *have)
    }

    /// The homes have room for the sizes among changes of the peer, or which has not is noted.
    pub(crate) fn homes_hold(&mut self, records: &[UnitRecord]) -> bool {
        let sizes = records.iter().filter_map(|r| match r.what {
            What::Size(sectors) => Some((r.volume, sectors)),
            What::State(_) => None,
        });
        let beyond = sizes.into_iter().find(|(volume, sectors)| !self.home_holds(*volume, *sectors));
        self.too_large = beyond.or(self.too_large);
        beyond.is_none()
    }

    /// A size that the source has given a volume and that its home here has no room for.
    pub(crate) fn too_large(&self) -> Option<(VolumeSlot, SectorCount)> {
        self.too_large
    }

    /// A record that gives a volume more room does not count yet.
    pub(crate) fn sizes_under_way(&self) -> bool {
        self.under_way().any(|(_, what)| what.is_size())
    }

    /// The largest size of a volume that does not count yet.
    pub(crate) fn size_under_way(&self, slot: VolumeSlot) -> Option<SectorCount> {
        let sizes = self.under_way().filter(|(of, _)| *of == slot).filter_map(|(_, what)| match what {
            What::Size(sectors) => Some(*sectors),
            What::State(_) => None,
        });
        sizes.max()
    }

    fn under_way(&self) -> impl Iterator<Item = (VolumeSlot, &What)> {
        let waiting = self.first.iter().map(|first| (first.volume, &first.what));
        self.changes.iter().map(|c| (c.record.volume, &c.record.what)).chain(waiting)
    }

    /// Size of a volume as hosts may know it: what a crash leaves at least.
    pub(crate) fn served_sectors(&self, core: &Core, slot: VolumeSlot) -> Option<SectorCount> {
        let volume = core.meta.volume(slot)?;
        Some(self.lasting.get(&slot).copied().unwrap_or(volume.sectors))
    }

    /// The link is up: the mirror may hold a change that this box has forgotten. It does not hold what is newer than `held`:
    /// that reaches it in any case and is not said once more, or a link that comes and goes would fill the journal with it.
    pub(crate) fn say_again(&mut self, core: &mut Core, held: Seq) {
        if honest!(core.is_fenced(), UnitNotSaidAgain => true) {
            return;
        }
        let known: Vec<VolumeSlot> = core.meta.volumes.iter().filter(|v| v.unit.is_some()).map(|v| v.slot).collect();
        for slot in known {
            let Some(volume) = core.meta.volume(slot) else { continue };
            let stored = [What::Size(volume.sectors), What::State(volume.unit.clone().unwrap_or_default())];
            for what in stored {
                let on_its_way = |seq: &Seq| *seq > held;
                if !self.appended.get(&(slot, what.kind())).is_some_and(on_its_way) {
                    self.append(core, None, slot, what);
                }
            }
        }
    }

    /// Reads what the superblock lacks. The group opens when that is done; where it could not all be read, with what the
    /// superblock has, and once more when the journal is repaired.
    pub(crate) fn replay(&mut self, core: &mut Core) {
        let found = self.replay.begin(core, true);
        self.take_up(core, found);
    }

    /// A batch that could not be read before has been put right.
    pub(crate) fn replay_unread(&mut self, core: &mut Core) {
        let found = self.replay.begin_unread(core);
        self.take_up(core, found);
    }

    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        let found = self.replay.answered(core, token, result);
        self.take_up(core, found);
    }

    /// Changes are being read that no round may pass before they are taken.
    pub(crate) fn is_replaying(&self) -> bool {
        self.replay.is_reading()
    }

    /// Takes what a replay has found, if it is at its end.
    fn take_up(&mut self, core: &mut Core, found: Option<Found>) {
        let Some(Found { records, opening }) = found else { return };
        let mut sizes = Vec::new();
        for record in records {
            sizes.extend(self.take(core, record));
        }
        if opening {
            // Hosts come after this version, so that they are served the sizes that it holds.
            self.lasting.clear();
            // Nobody is told anything before this version is durable.
            let barrier = core.meta.keep();
            core.seal(barrier);
        } else {
            self.keep(core, Vec::new(), sizes);
        }
    }

    /// The journal begins anew, without the records that were under way.
    pub(crate) fn forget(&mut self) {
        self.changes.clear();
        self.taken.clear();
        self.replay.forget();
    }

    /// Nothing is answered any more; gives the operations of hosts that wait.
    pub(crate) fn fail(&mut self) -> Vec<Io> {
        let first = std::mem::take(&mut self.first).into_iter().filter_map(|first| first.io);
        let changes = std::mem::take(&mut self.changes).into_iter().filter_map(|c| c.io);
        // Those whose record is durable wait for a superblock that may never be.
        let kept = self.kept.iter_mut().flat_map(|kept| std::mem::take(&mut kept.done));
        first.chain(changes).chain(kept).collect()
    }
}
