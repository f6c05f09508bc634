//! What logical units remember beside their content: reservations and saved mode parameters.
//!
//! A change takes a Seq like a write, so that it reaches the mirror in order. The superblock of each box holds the newest
//! state: on the source a change is answered when the record *and* the superblock are durable, on the mirror a record is
//! acknowledged when both are. Between the two writes of a change a crash leaves a record that nobody was told of. It may
//! reach the mirror although the source has forgotten it, so the source says the state of every unit that ever had one
//! again whenever a link comes up.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_format::superblock::{self, SuperblockKind};
use reprise_format::unit;
use reprise_types::{Extent, RecordKind, Role, Sector, SectorCount, Seq, UnitState, VolumeSlot};

use crate::effect::{Effect, HostError, HostReply, Io};
use crate::group::{After, Group};
use crate::planted::{Planted, has};

/// A change that has a Seq and is not durable.
#[derive(Debug)]
struct Change {
    seq: Seq,
    volume: VolumeSlot,
    state: UnitState,
    io: Option<Io>,
}

/// Changes under way.
#[derive(Debug, Default)]
pub(crate) struct Units {
    /// In Seq order.
    changes: VecDeque<Change>,
    /// Changes that wait until the superblock knows that their unit has a state.
    first: VecDeque<(Io, VolumeSlot, UnitState)>,
    /// Versions of the superblock under way that a mirror's acknowledgement waits for.
    holding: usize,
}

impl Group {
    /// A host changes what a unit remembers.
    pub(crate) fn host_unit(&mut self, io: Io, volume: VolumeSlot, state: UnitState) {
        if !self.unit_fits(volume, &state) {
            self.effects.push_back(Effect::Reply(io, Err(HostError::NoRoom)));
            return;
        }
        let known = self.meta.volumes.iter_mut().find(|v| v.slot == volume).is_some_and(|v| {
            let known = v.unit.is_some();
            v.unit.get_or_insert_default();
            known
        });
        if known && self.units.first.is_empty() {
            return self.unit_append(Some(io), volume, state);
        }
        self.units.first.push_back((io, volume, state));
        self.persist(After::UnitsKnown);
    }

    /// A superblock copy has room for the state and some more.
    fn unit_fits(&self, volume: VolumeSlot, state: &UnitState) -> bool {
        let mut meta = self.meta.clone();
        if let Some(known) = meta.volumes.iter_mut().find(|v| v.slot == volume) {
            known.unit = Some(state.clone());
        }
        superblock::encode(SuperblockKind::Group, 1, &meta.to_body()).is_ok_and(|copy| {
            let used = copy.iter().rposition(|byte| *byte != 0).unwrap_or(0);
            used < superblock::SUPERBLOCK_COPY_LEN / 4 * 3
        })
    }

    pub(crate) fn units_known(&mut self) {
        for (io, volume, state) in std::mem::take(&mut self.units.first) {
            self.unit_append(Some(io), volume, state);
        }
    }

    fn unit_append(&mut self, io: Option<Io>, volume: VolumeSlot, state: UnitState) {
        let extent = Extent { volume, sector: Sector::ZERO, sectors: SectorCount::from_raw(0) };
        let seq = self.append(RecordKind::Reservation, extent, unit::to_payload(&state));
        self.units.changes.push_back(Change { seq, volume, state, io });
    }

    /// A batch came from the peer: changes in it count once they are durable.
    pub(crate) fn unit_records(&mut self, records: Vec<(Seq, VolumeSlot, Bytes)>) {
        for (seq, volume, payload) in records {
            // A state of a later version is kept in the journal and not understood here.
            let Ok(state) = unit::from_payload(&payload) else { continue };
            self.units.changes.push_back(Change { seq, volume, state, io: None });
        }
    }

    /// Everything up to `durable` is durable. True while the superblock has to follow before a peer is told.
    pub(crate) fn units_durable(&mut self, durable: Seq) -> bool {
        let mut done = Vec::new();
        let mut changed = false;
        while let Some(change) = self.units.changes.pop_front_if(|change| change.seq <= durable) {
            changed = true;
            if let Some(volume) = self.meta.volumes.iter_mut().find(|v| v.slot == change.volume) {
                volume.unit = Some(change.state);
            }
            done.extend(change.io);
        }
        if changed {
            if has(Planted::UnitNotStored) {
                self.units_answer(&done);
                return false;
            }
            self.units.holding += 1;
            self.persist(After::UnitsKept(done));
        }
        self.units.holding > 0
    }

    fn units_answer(&mut self, done: &[Io]) {
        self.effects.extend(done.iter().map(|io| Effect::Reply(*io, Ok(HostReply::Done))));
    }

    pub(crate) fn units_kept(&mut self, done: &[Io]) {
        self.units.holding -= 1;
        self.units_answer(done);
        if self.units.holding == 0 && self.meta.role == Role::Mirror {
            self.feed_durable(self.journal.durable());
        }
    }

    /// The link is up: the mirror may hold a change that this box has forgotten.
    pub(crate) fn units_say_again(&mut self) {
        if has(Planted::UnitNotSaidAgain) || self.is_fenced() {
            return;
        }
        let newest =
            |volume: VolumeSlot| self.units.changes.iter().rfind(|c| c.volume == volume).map(|c| c.state.clone());
        let states: Vec<(VolumeSlot, UnitState)> = self
            .meta
            .volumes
            .iter()
            .filter_map(|v| Some((v.slot, newest(v.slot).or_else(|| v.unit.clone())?)))
            .collect();
        for (volume, state) in states {
            self.unit_append(None, volume, state);
        }
    }

    /// The journal begins anew, without the records that were under way.
    pub(crate) fn units_forget(&mut self) {
        self.units.changes.clear();
    }

    pub(crate) fn units_fail(&mut self) -> Vec<Io> {
        let first = std::mem::take(&mut self.units.first).into_iter().map(|(io, _, _)| io);
        first.chain(std::mem::take(&mut self.units.changes).into_iter().filter_map(|c| c.io)).collect()
    }
}
