//! Segments of the cache: asked for, held while they are read, given back.

use std::collections::{BTreeSet, VecDeque};

use reprise_journal::{Grant, Journal, SegmentId};
use reprise_types::honest;

use super::effects::Effects;
use super::superblock::{Barrier, MetaStore};
use crate::io::{Effect, Notice};

/// A read of the cache under way: what it touches is not given back before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReadName(u64);

/// Whether the allocator has been asked for a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    No,
    /// It has not answered.
    Waiting,
    /// It had none: asked again with the next tick, since other groups free segments too.
    Refused,
}

/// Segments on their way to the journal and from it.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    asked: Asked,
    /// People know that hosts wait for one.
    full: bool,
    /// Reads under way that may touch segments.
    reads: BTreeSet<ReadName>,
    names: u64,
    /// Not in the journal any more; free once the superblock says so.
    trimmed: VecDeque<(Barrier, Vec<SegmentId>)>,
    /// Free once the reads that began before this one have ended.
    limbo: VecDeque<(ReadName, Vec<SegmentId>)>,
}

impl Segments {
    /// Asks for a segment where the journal wants one.
    pub(crate) fn want(&mut self, fx: &mut Effects, journal: &Journal) {
        if journal.wants_segment() && self.asked == Asked::No {
            self.asked = Asked::Waiting;
            fx.push(Effect::WantSegment);
        }
    }

    /// What was refused may be asked for again.
    pub(crate) fn tick(&mut self) {
        if self.asked == Asked::Refused {
            self.asked = Asked::No;
        }
    }

    /// The allocator's answer. Segments up to generation `floor` are of an earlier life of the group.
    pub(crate) fn granted(&mut self, fx: &mut Effects, journal: &mut Journal, floor: u64, grant: Option<Grant>) {
        match grant {
            Some(grant) => {
                self.asked = Asked::No;
                // Recovery would take what is written there for an earlier life of the group, and everything for lost.
                let generation = grant.generation;
                assert!(
                    generation > floor || cfg!(feature = "planted"),
                    "segment of generation {generation} granted to a group that starts behind {floor}"
                );
                journal.grant(grant);
                if std::mem::take(&mut self.full) {
                    fx.notice(Notice::CacheFree);
                }
            }
            None => {
                self.asked = Asked::Refused;
                if journal.stalled() && !std::mem::replace(&mut self.full, true) {
                    fx.notice(Notice::CacheFull);
                }
            }
        }
    }

    /// Segments that the journal has let go may be used by others once the superblock holds `barrier`.
    pub(crate) fn free_after(&mut self, barrier: Barrier, segments: Vec<SegmentId>) {
        self.trimmed.push_back((barrier, segments));
    }

    /// The superblock has been written.
    pub(crate) fn stored(&mut self, fx: &mut Effects, meta: &MetaStore) {
        while let Some((_, segments)) = self.trimmed.pop_front_if(|(barrier, _)| meta.holds(*barrier)) {
            self.retire(fx, segments);
        }
    }

    /// Gives segments back once no read that began before can touch them.
    pub(crate) fn retire(&mut self, fx: &mut Effects, segments: Vec<SegmentId>) {
        self.limbo.push_back((ReadName(self.names), segments));
        self.drain(fx);
    }

    fn drain(&mut self, fx: &mut Effects) {
        let oldest = honest!(self.reads.first(), FreedUnderReads => None);
        let oldest = oldest.copied().unwrap_or(ReadName(u64::MAX));
        while let Some((_, segments)) = self.limbo.pop_front_if(|(at, _)| *at < oldest) {
            fx.push(Effect::FreeSegments(segments));
        }
    }

    /// Marks a read of the cache as begun; the name ends it.
    pub(crate) fn read_opened(&mut self) -> ReadName {
        self.names += 1;
        let name = ReadName(self.names);
        self.reads.insert(name);
        name
    }

    pub(crate) fn read_closed(&mut self, fx: &mut Effects, name: ReadName) {
        self.reads.remove(&name);
        self.drain(fx);
    }

    /// Segments that are neither the journal's nor free.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let limbo = self.limbo.iter().flat_map(|(_, segments)| segments);
        limbo.chain(self.trimmed.iter().flat_map(|(_, segments)| segments)).copied()
    }
}
