//! What the journal holds of units and the superblock does not, taken up at a start.
//!
//! A crash between the two writes of a change leaves a record that is durable, and that the other box may hold, over a
//! superblock of before. The records of content that follow it count, so it counts as well. Every record up to `applied` is
//! in the superblock that says so; of those behind it the newest of each volume is read and taken before the group is ready.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_journal::BatchPlace;
use reprise_types::{Seq, VolumeSlot, honest};

use super::What;
use crate::core::{Part, ReadName, Seal};
use crate::effect::{Effect, IoFault, Notice, Token};
use crate::group::Group;

/// Batches that are read at a time: each is in memory until its records have been looked at.
const READS_MAX: usize = 8;

/// What an answer is to.
#[derive(Debug)]
pub(super) struct ReplayStep {
    /// The replay that it was read for is still at work.
    pub(super) wanted: bool,
    place: BatchPlace,
    /// Keeps the place from being given to others meanwhile.
    read: ReadName,
}

/// Batches with changes, on their way.
#[derive(Debug)]
pub(super) struct Replay {
    waiting: VecDeque<BatchPlace>,
    under_way: usize,
    /// By volume, sizes apart from states: the newest record found.
    found: BTreeMap<(VolumeSlot, bool), (Seq, What)>,
    /// The last record of the newest batch that could not be read: what is older may not be the newest.
    unread_to: Seq,
    /// The group opens when it is done.
    opening: bool,
}

impl Group {
    /// Reads what the superblock lacks. The group opens when that is done; where it could not all be read, with what the
    /// superblock has, and once more when the journal is repaired.
    pub(crate) fn units_replay(&mut self, opening: bool) {
        let waiting = self.core.journal.batches_with_changes(self.core.meta.applied);
        let waiting = honest!(waiting, UnitsNotReplayed => VecDeque::new());
        self.units.unread = false;
        self.units.replay =
            Some(Replay { waiting, under_way: 0, found: BTreeMap::new(), unread_to: Seq::ZERO, opening });
        self.replay_on();
    }

    /// A batch that could not be read before has been put right.
    pub(crate) fn units_replay_unread(&mut self) {
        if self.units.unread && self.units.replay.is_none() {
            self.units_replay(false);
        }
    }

    /// Changes are being read that no round may pass before they are taken.
    pub(crate) fn units_replaying(&self) -> bool {
        self.units.replay.is_some()
    }

    fn replay_on(&mut self) {
        while let Some(replay) = &mut self.units.replay {
            let Some(place) = replay.waiting.pop_front_if(|_| replay.under_way < READS_MAX) else { break };
            replay.under_way += 1;
            let read = self.core.read_opened();
            let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
            let token = self.core.fx.ask(Part::Units, make);
            self.units.open.insert(token, ReplayStep { wanted: true, place, read });
        }
        if let Some(done) = self.units.replay.take_if(|r| r.under_way == 0) {
            self.replay_end(done);
        }
    }

    pub(crate) fn replay_step(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(ReplayStep { wanted, place, read }) = self.units.open.take(token) else { return };
        self.core.read_closed(read);
        let Some(replay) = self.units.replay.as_mut().filter(|_| wanted) else { return };
        replay.under_way -= 1;
        match result.ok().and_then(|bytes| place.verify(bytes).ok()) {
            Some(batch) => {
                for (record, payload) in batch.records() {
                    let Some(what) = What::of(record.descriptor.kind, payload) else { continue };
                    let newest = replay.found.entry((record.descriptor.volume, what.is_size()));
                    let newest = newest.or_insert_with(|| (record.seq, what.clone()));
                    if record.seq > newest.0 {
                        *newest = (record.seq, what);
                    }
                }
            }
            None => {
                replay.unread_to = replay.unread_to.max(place.last_seq);
                self.units.unread = true;
                self.core.read_failed(Notice::JournalUnreadable(place.first_seq));
                self.unreadable(place.first_seq);
            }
        }
        self.replay_on();
    }

    fn replay_end(&mut self, replay: Replay) {
        let mut sizes = Vec::new();
        for ((volume, _), (seq, what)) in replay.found.into_iter().filter(|(_, (seq, _))| *seq > replay.unread_to) {
            sizes.extend(self.unit_take(volume, seq, what));
        }
        if replay.opening {
            // Hosts come after this version, so that they are served the sizes that it holds.
            self.units.lasting.clear();
            // Nobody is told anything before this version is durable.
            let barrier = self.core.meta.keep();
            self.core.seal = self.core.seal.map(|_| Seal::Storing(barrier));
        } else {
            self.units_keep(Vec::new(), sizes);
        }
    }
}
