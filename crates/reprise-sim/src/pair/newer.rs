//! Bytes of a newer release on a box's cache: it must refuse to start, change nothing, and go on where the release that wrote
//! them is there. Taken for the end of a log they would be a loss.

use std::collections::VecDeque;

use reprise_format::FormatError;
use reprise_format::batch::{BodyHeader, ENVELOPE_LEN, Envelope};
use reprise_format::segment::{Footer, SEGMENT_HEADER_LEN, TRAILER_LEN};
use reprise_format::superblock::{self, GroupBody, SuperblockKind, group_copies};
use reprise_journal::{Case, scan_segments, segment_offset};
use reprise_types::Seq;

use crate::pair::boxes::{GROUP, OpenError, SEGMENT_LEN, SimBox};
use crate::pair::plan::{MS, Newer};
use crate::pair::world::{Next, World, say};

/// Where every format has its version, and what makes a 2 of the first.
const VERSION_AT: usize = 4;
const OTHER_VERSION: u8 = 1 ^ 2;

/// Versions that were changed.
#[derive(Debug)]
pub(super) struct Changed {
    part: Newer,
    at: Vec<u64>,
    /// Until the other release is there.
    time: u64,
}

fn is_refusal_of_version(error: &OpenError) -> bool {
    match error {
        OpenError::Superblock(e) => matches!(e, FormatError::Version { .. }),
        OpenError::Segments(e) => e.kind() == std::io::ErrorKind::Unsupported,
        OpenError::Recover(e) => e.case == Case::NewerVersion,
        OpenError::Meta(_) => false,
    }
}

impl SimBox {
    /// Offsets of such a part in the cache, which is of the log up to `durable`; none where there is none.
    fn places_of(&self, part: Newer, durable: Seq) -> Vec<u64> {
        // Looked at without striking the faults that wait for a read.
        let mut cache = self.disks.cache.clone();
        cache.heal();
        let bytes = cache.bytes();
        let version = |at: u64| {
            let copy = bytes.get(at as usize..at as usize + superblock::SUPERBLOCK_COPY_LEN)?;
            Some(superblock::decode::<GroupBody>(SuperblockKind::Group, copy).ok()?.0)
        };
        let copies = || group_copies(0).into_iter().filter_map(|at| Some((version(at)?, at)));
        let newest = copies().map(|(version, _)| version).max();
        match part {
            Newer::Superblock => copies().map(|(_, at)| at).collect(),
            Newer::LastSuperblock => copies().filter(|(v, _)| Some(*v) == newest).map(|(_, at)| at).collect(),
            Newer::Segment | Newer::Batch => {
                let found =
                    scan_segments(&mut cache.clone(), self.pool(), self.segments, SEGMENT_LEN).unwrap_or_default();
                let own = found.into_iter().filter(|s| s.header.group == GROUP);
                let last = own.max_by_key(|s| s.header.generation);
                let at = |s: u32| segment_offset(s, SEGMENT_LEN);
                match (last, part) {
                    (None, _) => Vec::new(),
                    (Some(last), Newer::Segment) => vec![at(last.segment)],
                    (Some(last), _) => {
                        let batch = at(last.segment) + SEGMENT_HEADER_LEN as u64;
                        // A restart reads the footer of a full segment instead of its batches.
                        let trailer = at(last.segment) + SEGMENT_LEN - TRAILER_LEN as u64;
                        let full = bytes.get(trailer as usize..).is_some_and(|b| Footer::decode_trailer(b).is_ok());
                        let bytes = bytes.get(batch as usize..).filter(|_| !full).unwrap_or_default();
                        let its = Envelope::decode(bytes).is_ok_and(|e| e.generation == last.header.generation);
                        let body = bytes.get(ENVELOPE_LEN..).and_then(|b| BodyHeader::decode(b).ok());
                        let counts = its && body.is_some_and(|b| b.head.last_seq <= durable);
                        if counts { vec![batch] } else { Vec::new() }
                    }
                }
            }
        }
    }

    /// Makes the first version the second, or the second the first.
    fn change_versions(&mut self, part: Newer, at: &[u64]) {
        // An envelope's checksum is looked at before its version. Checksums of this kind are linear.
        let mut change = [0; ENVELOPE_LEN];
        change[VERSION_AT] = OTHER_VERSION;
        let crc = crc_fast::crc32_iscsi(&change) ^ crc_fast::crc32_iscsi(&[0; ENVELOPE_LEN]);
        if part == Newer::Batch {
            change[ENVELOPE_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        for at in at {
            (*at..).zip(change).filter(|(_, mask)| *mask != 0).for_each(|(at, mask)| self.disks.cache.rot(at, mask));
        }
    }
}

impl World {
    /// The box goes off, and finds such bytes when it comes back. True where there were some to change.
    pub(super) fn make_newer(&mut self, n: usize, part: Newer, time: u64) -> bool {
        if self.boxes[n].process.is_none() || self.boxes[n].empty {
            return false;
        }
        let durable = self.boxes[n].group().map_or(Seq::ZERO, |g| g.durable().seq);
        self.power_off(n);
        let at = self.boxes[n].places_of(part, durable);
        self.after(50 * MS, Next::Start { n, nested: VecDeque::new() });
        if at.is_empty() {
            return false;
        }
        say!(self, "{}: {part:?} is of a newer release", Self::name(n));
        self.boxes[n].change_versions(part, &at);
        self.newer[n] = Some(Changed { part, at, time });
        true
    }

    /// A box has opened its group: not over bytes that it cannot read.
    pub(super) fn check_newer_refused(&mut self, n: usize) {
        let Some(changed) = self.newer[n].take() else { return };
        // Where a fault has cut the log before it, nobody reads that batch.
        if !(changed.part == Newer::Batch && self.excuse[n].damaged) {
            self.fail(format!("{}: opens bytes of a newer release: {:?}", Self::name(n), changed.part));
        }
    }

    /// True where a box did not start because of such bytes: the release that wrote them comes.
    pub(super) fn newer_refused(&mut self, n: usize, error: &OpenError) -> bool {
        if !is_refusal_of_version(error) {
            return false;
        }
        let Some(changed) = self.newer[n].take() else { return false };
        self.counts.detected += 1;
        self.boxes[n].change_versions(changed.part, &changed.at);
        self.after(changed.time, Next::Start { n, nested: VecDeque::new() });
        true
    }
}
