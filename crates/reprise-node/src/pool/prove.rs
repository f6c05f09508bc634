//! Proves that a journal holds what was acknowledged, from what is on the disk alone. Nothing is written.

use std::fmt;

use bytes::Bytes;
use reprise_journal::{BatchSource, CacheRead, Journal, JournalConfig};
use reprise_types::{ByteLen, GroupId, Point, Seq};

use super::layout::{Pool, PoolError, Reader};

/// Unreadable batches that are named; the first ones tell the story.
const ROTTEN_MAX: usize = 16;

/// What a proof found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// The end of the log on the disk.
    pub end: Point,
    /// Batches that were read whole.
    pub batches: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// The log ends too early.
    Tail {
        /// The end of the log on the disk.
        end: Seq,
        /// What had been acknowledged.
        acknowledged: Seq,
    },
    /// The log on the disk is another one.
    History {
        /// Where the histories differ.
        at: Seq,
    },
    /// Batches that do not read back as they were written: first and last records.
    Batches {
        /// The first ones.
        rotten: Vec<(Seq, Seq)>,
        /// How many there are.
        count: u64,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tail { end, acknowledged } => {
                let count = acknowledged.since(*end);
                write!(f, "the journal on the disk ends at record {end}: {count} acknowledged records up to ")?;
                write!(f, "{acknowledged} are lost")
            }
            Self::History { at } => write!(f, "the journal on the disk holds another history at record {at}"),
            Self::Batches { rotten, count } => {
                let ranges: Vec<String> = rotten.iter().map(|(first, last)| format!("{first} to {last}")).collect();
                write!(f, "{count} batches of the journal cannot be read: records {}", ranges.join(", "))?;
                if *count > rotten.len() as u64 { f.write_str(", ...") } else { Ok(()) }
            }
        }
    }
}

impl Pool {
    /// Reads a group's journal again: recovery over what is on the disk, then every batch behind `needed`, whole. What was
    /// acknowledged must be part of the history that is found. The group's thread must not write meanwhile.
    ///
    /// # Errors
    /// What is lost, or why the journal does not recover; nothing was changed.
    pub fn prove_group(
        &self,
        group: GroupId,
        acknowledged: Point,
        needed: Seq,
        mut tell: impl FnMut(u64, u64),
    ) -> Result<Proven, PoolError> {
        let slot = self.groups().into_iter().find(|s| s.group == group).ok_or(PoolError::Unknown(group))?;
        let opened = self.recover_slot(slot, &self.settled_segments()?)?;
        let config =
            JournalConfig { pool: self.id(), group, segment_len: self.segment_len(), ram_tail_max: ByteLen::ZERO };
        let end = opened.group.start.end();
        let journal = Journal::new(config, opened.group.start, opened.group.meta.applied);
        if end.seq < acknowledged.seq {
            return Err(PoolError::Lost(Lost::Tail { end: end.seq, acknowledged: acknowledged.seq }));
        }
        if journal.hash_at(acknowledged.seq).is_some_and(|h| h != acknowledged.hash)
            || end.branch != acknowledged.branch
        {
            return Err(PoolError::Lost(Lost::History { at: acknowledged.seq }));
        }
        let mut at = needed.max(journal.trimmed().seq);
        // A position inside a batch: the batch is read whole.
        if let Some(BatchSource::Disk(place)) = journal.batch_holding(at.next()) {
            at = Seq::from_raw(place.first_seq.get() - 1);
        }
        let total = journal.durable_bytes_after(at);
        let (mut batches, mut bytes, mut rotten, mut count) = (0, 0, Vec::new(), 0);
        let mut reader = Reader(self.cache());
        while let Some(BatchSource::Disk(place)) = journal.batch_after(at) {
            let read = reader.read(place.at, place.len).ok();
            if read.and_then(|r| place.verify(Bytes::from(r)).ok()).is_none() {
                count += 1;
                if rotten.len() < ROTTEN_MAX {
                    rotten.push((place.first_seq, place.last_seq));
                }
            }
            (batches, bytes, at) = (batches + 1, bytes + place.len as u64, place.last_seq);
            tell(bytes, total.max(bytes));
        }
        if count > 0 {
            return Err(PoolError::Lost(Lost::Batches { rotten, count }));
        }
        Ok(Proven { end, batches, bytes })
    }
}
