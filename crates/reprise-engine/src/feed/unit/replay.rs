//! What the journal holds of units and the superblock does not, read at a start.
//!
//! A crash between the two writes of a change leaves a record that is durable, and that the other box may hold, over a
//! superblock of before. The records of content that follow it count, so it counts as well. Every record up to `applied` is
//! in the superblock that says so; of those behind it the newest of each volume is read and taken before the group is ready.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_journal::BatchPlace;
use reprise_types::{RecordKind, Seq, VolumeSlot, honest};

use super::change::{UnitRecord, What};
use crate::core::{Core, Open, Part, ReadName};
use crate::io::{Effect, IoFault, Notice, Token};
use crate::signal::Signal;

/// Batches that are read at a time: each is in memory until its records have been looked at.
const READS_MAX: usize = 8;

/// What an answer is to.
#[derive(Debug)]
struct ReplayStep {
    /// The replay that it was read for is still at work.
    wanted: bool,
    place: BatchPlace,
    /// Keeps the place from being given to others meanwhile.
    read: ReadName,
}

/// Batches with changes, on their way.
#[derive(Debug)]
struct Reading {
    waiting: VecDeque<BatchPlace>,
    under_way: usize,
    /// The newest record of each kind found for a volume.
    found: BTreeMap<(VolumeSlot, RecordKind), (Seq, What)>,
    /// The last record of the newest batch that could not be read: what is older may not be the newest.
    unread_to: Seq,
    /// The group opens when it is done.
    opening: bool,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The newest of each volume, sizes apart from states.
    pub(super) records: Vec<UnitRecord>,
    /// The group opens with it.
    pub(super) opening: bool,
}

/// Reads the journal for what the superblock lacks.
#[derive(Debug, Default)]
pub(super) struct Replay {
    reading: Option<Reading>,
    /// Batches that are being read, also for a replay that is not wanted any more.
    open: Open<ReplayStep>,
    /// Not all that was needed could be read.
    unread: bool,
}

impl Replay {
    /// Begins to read; gives what was found where there is nothing to wait for.
    pub(super) fn begin(&mut self, core: &mut Core, opening: bool) -> Option<Found> {
        let waiting = core.journal.batches_with_changes(core.meta.applied);
        let waiting = honest!(waiting, UnitsNotReplayed => VecDeque::new());
        self.unread = false;
        self.reading = Some(Reading { waiting, under_way: 0, found: BTreeMap::new(), unread_to: Seq::ZERO, opening });
        self.read_on(core)
    }

    /// Begins once more where something could not be read, or is wanted again.
    pub(super) fn begin_unread(&mut self, core: &mut Core) -> Option<Found> {
        if self.unread && self.reading.is_none() { self.begin(core, false) } else { None }
    }

    /// What there is has to be read once more.
    pub(super) fn want_again(&mut self) {
        self.unread = true;
    }

    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// What is being read is not wanted any more.
    pub(super) fn forget(&mut self) {
        self.reading = None;
        self.open.steps_mut().for_each(|step| step.wanted = false);
    }

    fn read_on(&mut self, core: &mut Core) -> Option<Found> {
        while let Some(reading) = &mut self.reading {
            let Some(place) = reading.waiting.pop_front_if(|_| reading.under_way < READS_MAX) else { break };
            reading.under_way += 1;
            let read = core.read_opened();
            let token = core.fx.ask(Part::Units, |token| Effect::ReadCache { token, at: place.at, len: place.len });
            self.open.insert(token, ReplayStep { wanted: true, place, read });
        }
        let Reading { found, unread_to, opening, .. } = self.reading.take_if(|r| r.under_way == 0)?;
        let newest = found.into_iter().filter(|(_, (seq, _))| *seq > unread_to);
        let records = newest.map(|((volume, _), (seq, what))| UnitRecord { seq, volume, what }).collect();
        Some(Found { records, opening })
    }

    /// A batch was read, or could not be; gives what was found when it was the last one.
    pub(super) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) -> Option<Found> {
        let ReplayStep { wanted, place, read } = self.open.take(token)?;
        core.read_closed(read);
        let reading = self.reading.as_mut().filter(|_| wanted)?;
        reading.under_way -= 1;
        match result.ok().and_then(|bytes| place.verify(bytes).ok()) {
            Some(batch) => {
                for (record, payload) in batch.records() {
                    let Some(what) = What::of(record.descriptor.kind, payload) else { continue };
                    let newest = reading.found.entry((record.descriptor.volume, what.kind()));
                    let newest = newest.or_insert_with(|| (record.seq, what.clone()));
                    if record.seq > newest.0 {
                        *newest = (record.seq, what);
                    }
                }
            }
            None => {
                reading.unread_to = reading.unread_to.max(place.last_seq);
                self.unread = true;
                core.read_failed(Notice::JournalUnreadable(place.first_seq));
                core.tell(Signal::Unreadable(place.first_seq));
            }
        }
        self.read_on(core)
    }
}
