//! Recovery: what is the end of the log? A table of labelled cases, decided once, then sealed by the engine.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{BATCH_ALIGN, BATCH_LEN_MAX, BodyHeader, ENVELOPE_LEN, Envelope};
use reprise_format::segment::{Footer, SEGMENT_HEADER_LEN, SegmentHeader, TRAILER_LEN};
use reprise_types::{GroupId, HistoryHash, Point, PoolId, Seq, WallMicros, honest};

use crate::batch::Batch;
use crate::journal::JournalStart;
use crate::segment::{Segment, SegmentFound, SegmentId, segment_offset};

/// Bytes read at a time when a segment is scanned.
const SCAN_CHUNK: usize = 1 << 20;

/// Reads the cache. Recovery is the only part of the journal that reads by itself, before anything is served.
pub trait CacheRead {
    /// Exactly `len` bytes at `offset`.
    ///
    /// # Errors
    /// The disk's error. It is never taken for the end of the log.
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>>;
}

/// What recovery is told by the superblock.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The pool.
    pub pool: PoolId,
    /// The group.
    pub group: GroupId,
    /// Bytes of a segment.
    pub segment_len: u64,
    /// Version of the superblock that was taken.
    pub superblock_version: u64,
    /// The journal begins behind this point.
    pub trimmed: Point,
    /// The end as the last recovery chose it.
    pub seal: Point,
    /// Number of recoveries so far.
    pub incarnation: u32,
    /// Home may hold records up to here.
    pub applying: Seq,
    /// Segments of this or an older generation are of an earlier life of the group.
    pub generation_floor: u64,
    /// The furthest any peer has proved to hold; [`Seq::ZERO`] without a peer.
    pub peer_durable: Seq,
}

/// The rows of the recovery table (`docs/formats.md`, "Recovery"). All that do not stop are decisions that were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Case {
    /// The journal holds no segment: it ends where it was trimmed.
    Empty,
    /// A full segment with a good footer: its tables are taken from there.
    Footer,
    /// A segment without a good footer: its batches are read one by one.
    Scan,
    /// Nothing like a batch follows the last one: the log ends here.
    CleanEnd,
    /// A batch follows that is incomplete, and nothing shows that it was ever durable: dropped.
    TornTail,
    /// A whole batch follows that an earlier recovery had dropped: stays dropped.
    StaleIncarnation,
    /// Bytes of another place or generation follow: old content of the disk, the log ends here.
    ForeignBytes,
    /// The payload of a batch is damaged, and something shows that it had been durable: its header keeps its place.
    RotHeld,
    /// A batch is damaged and a later one shows that it had been durable: stop.
    RotMiddle,
    /// A whole batch is in its place but does not continue the history: stop.
    ChainBroken,
    /// A batch was written under a newer superblock than the one found: stop.
    SuperblockStale,
    /// A segment further on exists, but not the one that leads to it: stop.
    SegmentMissing,
    /// The log ends before the end that a recovery had sealed: stop.
    EndBelowSeal,
    /// The log ends before what home may hold: stop.
    EndBelowApplying,
    /// The log ends before what a peer has proved to hold: stop.
    EndBelowPeer,
    /// The disk cannot read its journal: stop.
    ReadFailed,
    /// Written by a newer release: stop.
    NewerVersion,
}

impl Case {
    /// Every row.
    pub const ALL: [Self; 17] = [
        Self::Empty,
        Self::Footer,
        Self::Scan,
        Self::CleanEnd,
        Self::TornTail,
        Self::StaleIncarnation,
        Self::ForeignBytes,
        Self::RotHeld,
        Self::RotMiddle,
        Self::ChainBroken,
        Self::SuperblockStale,
        Self::SegmentMissing,
        Self::EndBelowSeal,
        Self::EndBelowApplying,
        Self::EndBelowPeer,
        Self::ReadFailed,
        Self::NewerVersion,
    ];
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Recovery stops: serving would lose or invent something.
#[derive(Debug, thiserror::Error)]
#[error("journal cannot be opened ({case}) at segment {segment:?} offset {offset}: {detail}")]
pub struct RecoverError {
    /// The row of the table.
    pub case: Case,
    /// The segment, where one is concerned.
    pub segment: Option<SegmentId>,
    /// Byte offset in the segment.
    pub offset: u64,
    /// What was found and what was expected.
    pub detail: Detail,
}

/// Details of a [`RecoverError`].
#[derive(Debug, thiserror::Error)]
pub enum Detail {
    /// Two positions that do not fit.
    #[error("the journal ends at {end}, but {what} is {expected}")]
    End {
        /// End of the log.
        end: Seq,
        /// Which position.
        what: &'static str,
        /// Its value.
        expected: Seq,
    },
    /// A superblock that is too old.
    #[error("written under superblock version {written}, but version {found} is the newest valid one")]
    Superblock {
        /// Version in the envelope.
        written: u64,
        /// Version found.
        found: u64,
    },
    /// Bytes that are not what they should be.
    #[error("bytes do not decode")]
    Format(#[source] FormatError),
    /// The disk.
    #[error("read failed")]
    Io(#[source] std::io::Error),
    /// A batch that does not continue the history.
    #[error("batch begins at {found}, expected {expected} with another history before it")]
    Chain {
        /// Its first Seq.
        found: Seq,
        /// The next Seq.
        expected: Seq,
    },
}

/// What recovery decided.
#[derive(Debug)]
pub struct Recovered {
    /// Where the journal goes on, under the next incarnation. To be sealed durably before serving.
    pub start: JournalStart,
    /// Segments the group holds.
    pub held: Vec<SegmentId>,
    /// The rows of the table that were walked, in order.
    pub cases: Vec<Case>,
    /// Bytes read.
    pub bytes_read: u64,
}

/// Reads the headers of all segments of a cache.
///
/// # Errors
/// The disk's; `Unsupported` for a header of a newer release.
pub fn scan_segments(
    disk: &mut dyn CacheRead,
    pool: PoolId,
    segments: u32,
    segment_len: u64,
) -> std::io::Result<Vec<SegmentFound>> {
    let mut found = Vec::new();
    for segment in 0..segments {
        let bytes = disk.read(segment_offset(segment, segment_len), 512)?;
        match SegmentHeader::decode(&bytes) {
            // A segment of a newer release that is not looked at would end a log too early.
            Err(e @ (FormatError::Version { .. } | FormatError::Features { .. })) => {
                return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, e));
            }
            Ok(header) if header.pool == pool && header.segment == segment => {
                found.push(SegmentFound { segment, header });
            }
            _ => {}
        }
    }
    Ok(found)
}

struct Walk<'a> {
    disk: &'a mut dyn CacheRead,
    found: Found,
    cases: Vec<Case>,
    bytes_read: u64,
    incarnation_seen: u32,
    wall: WallMicros,
}

impl Walk<'_> {
    fn read(&mut self, segment: SegmentId, offset: u64, len: usize) -> Result<Bytes, RecoverError> {
        let at = segment_offset(segment, self.found.segment_len) + offset;
        self.bytes_read += len as u64;
        self.disk.read(at, len).map(Bytes::from).map_err(|e| stop(Case::ReadFailed, segment, offset, Detail::Io(e)))
    }

    /// The footer's tables, if there is a good footer.
    fn footer(&mut self, header: SegmentHeader) -> Result<Option<Segment>, RecoverError> {
        let len = self.found.segment_len;
        let trailer = self.read(header.segment, len - TRAILER_LEN as u64, TRAILER_LEN)?;
        let tables = match Footer::decode_trailer(&trailer) {
            Ok(t) => u64::from(t.tables_len),
            Err(e @ (FormatError::Version { .. } | FormatError::Features { .. })) => {
                return Err(stop(Case::NewerVersion, header.segment, len, Detail::Format(e)));
            }
            Err(_) => return Ok(None),
        };
        let Some(at) = len.checked_sub(tables + TRAILER_LEN as u64) else { return Ok(None) };
        let bytes = self.read(header.segment, at, (len - at) as usize)?;
        let Ok(footer) = Footer::decode(&bytes) else { return Ok(None) };
        let segment = Segment::from_footer(header, &footer);
        if segment.is_some() {
            self.check_superblock(footer.superblock_version, header.segment, at)?;
            self.incarnation_seen = self.incarnation_seen.max(footer.incarnation);
        }
        Ok(segment)
    }

    fn check_superblock(&self, written: u64, segment: SegmentId, at: u64) -> Result<(), RecoverError> {
        let found = self.found.superblock_version;
        if written > found {
            return Err(stop(Case::SuperblockStale, segment, at, Detail::Superblock { written, found }));
        }
        Ok(())
    }

    /// Reads the batches of a segment one by one. Gives the segment and why it ends.
    fn scan(&mut self, header: SegmentHeader) -> Result<(Segment, Case), RecoverError> {
        let mut segment = Segment::new(header);
        let id = header.segment;
        let end = self.found.segment_len - TRAILER_LEN as u64;
        let mut window = (0u64, Bytes::new());
        loop {
            let at = u64::from(segment.data_end);
            if at + BATCH_ALIGN as u64 > end {
                return Ok((segment, Case::CleanEnd));
            }
            let have = window.0 + window.1.len() as u64;
            if at + BATCH_LEN_MAX as u64 > have && have < self.found.segment_len {
                let len = (SCAN_CHUNK as u64).min(self.found.segment_len - at) as usize;
                window = (at, self.read(id, at, len)?);
            }
            let bytes = window.1.slice((at - window.0) as usize..);
            let envelope = match self.envelope(&bytes, &header, at)? {
                Ok(envelope) => envelope,
                Err(case) => return Ok((segment, case)),
            };
            let expected = segment.last_seq().next();
            match Batch::from_disk(bytes.slice(..bytes.len().min(envelope.total_len as usize))) {
                Ok((_, batch)) => {
                    let head = batch.header().head;
                    let next = head.first_seq == expected
                        && head.h_before == segment.h_after()
                        && head.group == header.group
                        && head.branch == header.branch;
                    // What a recovery dropped lies behind what it kept: past the seal, or (overwritten in part, and
                    // sealed again further on) where the history does not lead. Batches that a later one was
                    // built on are missed by the witness and the seal, never here.
                    let dropped = head.last_seq > self.found.seal.seq || !next;
                    if honest!(envelope.incarnation < self.found.incarnation && dropped, IncarnationIgnored => false) {
                        return Ok((segment, Case::StaleIncarnation));
                    }
                    if !next {
                        let detail = Detail::Chain { found: head.first_seq, expected };
                        return Err(stop(Case::ChainBroken, id, at, detail));
                    }
                    self.check_superblock(envelope.superblock_version, id, at)?;
                    self.incarnation_seen = self.incarnation_seen.max(envelope.incarnation);
                    self.wall = self.wall.max(head.wall_forced);
                    segment.push(at as u32, envelope.total_len, batch.header());
                }
                Err(e @ (FormatError::Version { .. } | FormatError::Features { .. })) => {
                    return Err(stop(Case::NewerVersion, id, at, Detail::Format(e)));
                }
                Err(_) => match self.rotten_header(&bytes, &envelope, &segment)? {
                    Some(header) => {
                        self.cases.push(Case::RotHeld);
                        self.incarnation_seen = self.incarnation_seen.max(envelope.incarnation);
                        self.wall = self.wall.max(header.head.wall_forced);
                        segment.push(at as u32, envelope.total_len, &header);
                    }
                    None => return Ok((segment, Case::TornTail)),
                },
            }
        }
    }

    /// The header of a batch whose payload is damaged, where it continues the history and something shows that it had been
    /// durable: its records keep their places, and reading their payload fails until a peer has sent it again.
    fn rotten_header(
        &mut self,
        bytes: &Bytes,
        envelope: &Envelope,
        segment: &Segment,
    ) -> Result<Option<BodyHeader>, RecoverError> {
        let end = ENVELOPE_LEN + envelope.body_len as usize;
        let Some(body) = bytes.get(ENVELOPE_LEN..end) else { return Ok(None) };
        let Ok(header) = BodyHeader::decode(body) else { return Ok(None) };
        let head = &header.head;
        let next = head.first_seq == segment.last_seq().next()
            && head.h_before == segment.h_after()
            && head.group == segment.header.group
            && head.branch == segment.header.branch
            && header.body_len() == body.len();
        if !next {
            return Ok(None);
        }
        let sealed = self.found.seal.branch == head.branch && head.last_seq <= self.found.seal.seq;
        let known = head.last_seq <= self.found.applying.max(self.found.peer_durable);
        // An older incarnation's batch past the seal was dropped by a recovery, whatever it holds.
        let kept = sealed || envelope.incarnation >= self.found.incarnation;
        let durable = sealed || known || self.later_witness(segment)?.is_some();
        if !(kept && durable) {
            return Ok(None);
        }
        self.check_superblock(envelope.superblock_version, segment.header.segment, u64::from(segment.data_end))?;
        Ok(Some(header))
    }

    /// The envelope at its own place, or why the log ends here.
    fn envelope(&self, bytes: &[u8], header: &SegmentHeader, at: u64) -> Result<Result<Envelope, Case>, RecoverError> {
        match Envelope::decode(bytes) {
            Ok(e) if e.generation == header.generation && e.segment == header.segment && u64::from(e.offset) == at => {
                Ok(Ok(e))
            }
            Ok(_) => Ok(Err(Case::ForeignBytes)),
            Err(FormatError::Magic { .. }) => Ok(Err(Case::CleanEnd)),
            Err(e @ (FormatError::Version { .. } | FormatError::Features { .. })) => {
                let here = Envelope::names_place(bytes, header.segment, at as u32, header.generation);
                if honest!(here, NewerIsTorn => false) {
                    return Err(stop(Case::NewerVersion, header.segment, at, Detail::Format(e)));
                }
                Ok(Err(Case::ForeignBytes))
            }
            Err(_) => Ok(Err(Case::TornTail)),
        }
    }

    /// Does anything behind the end of `segment` show that more had been durable?
    fn later_witness(&mut self, segment: &Segment) -> Result<Option<u64>, RecoverError> {
        let header = segment.header;
        let from = u64::from(segment.data_end);
        let end = self.found.segment_len;
        let mut at = from + BATCH_ALIGN as u64;
        while at < end {
            let len = (SCAN_CHUNK as u64).min(end - at) as usize;
            let bytes = self.read(header.segment, at, len)?;
            for (i, block) in bytes.chunks_exact(BATCH_ALIGN).enumerate() {
                let place = at + (i * BATCH_ALIGN) as u64;
                if let Ok(Ok(e)) = self.envelope(block, &header, place)
                    && e.incarnation >= self.found.incarnation
                    && u64::from(e.durable_before) > from
                {
                    return Ok(Some(place));
                }
            }
            at += len as u64;
        }
        Ok(None)
    }
}

fn stop(case: Case, segment: SegmentId, offset: u64, detail: Detail) -> RecoverError {
    RecoverError { case, segment: Some(segment), offset, detail }
}

/// Chooses the end of the log. `segments` are the headers found in the cache; only this group's are looked at. The
/// caller has flushed the device before, and seals the result durably before it serves.
///
/// # Errors
/// A row of the table that stops; nothing was changed.
pub fn recover(disk: &mut dyn CacheRead, found: Found, segments: &[SegmentFound]) -> Result<Recovered, RecoverError> {
    let mut walk =
        Walk { disk, found, cases: Vec::new(), bytes_read: 0, incarnation_seen: 0, wall: WallMicros::from_raw(0) };
    // The newest use of a segment wins: an older one can carry the same first Seq when a crash came between opening a
    // segment and its first batch.
    let mut own = BTreeMap::<_, SegmentHeader>::new();
    let ours =
        |h: &SegmentHeader| h.group == found.group && h.pool == found.pool && h.generation > found.generation_floor;
    for header in segments.iter().map(|s| s.header).filter(ours) {
        let slot = own.entry((header.first_seq, header.h_before)).or_insert(header);
        if slot.generation < header.generation {
            *slot = header;
        }
    }
    let mut held = VecDeque::new();
    let mut end = found.trimmed;
    let mut newest_generation = 0;
    let mut ended = None;
    loop {
        let next = own.get(&(end.seq.next(), end.hash)).filter(|h| h.generation > newest_generation);
        let Some(header) = next.copied() else { break };
        newest_generation = header.generation;
        let segment = match walk.footer(header)? {
            Some(segment) => {
                walk.cases.push(Case::Footer);
                ended = None;
                segment
            }
            None => {
                walk.cases.push(Case::Scan);
                let (segment, case) = walk.scan(header)?;
                ended = Some((case, header.segment, u64::from(segment.data_end)));
                segment
            }
        };
        if !segment.batches.is_empty() {
            end = Point { branch: header.branch, seq: segment.last_seq(), hash: segment.h_after() };
        }
        walk.wall = segment.batches.last().map_or(walk.wall, |b| walk.wall.max(b.wall));
        let empty = segment.batches.is_empty();
        held.push_back(segment);
        if empty {
            break;
        }
    }
    if let Some(last) = held.back()
        && let Some((case, id, offset)) = ended
    {
        walk.cases.push(case);
        if let Some(witness) = walk.later_witness(last)? {
            let detail = Detail::Format(FormatError::Field { what: "later batch", field: "offset", value: witness });
            return Err(stop(Case::RotMiddle, id, offset, detail));
        }
    }
    if held.is_empty() {
        walk.cases.push(Case::Empty);
    }
    // A segment is opened only when all before it is durable: one that lies further on means that some are lost.
    if let Some((_, h)) = own.range((end.seq.next().next(), HistoryHash::NIL)..).next() {
        let detail = Detail::Chain { found: h.first_seq, expected: end.seq.next() };
        return Err(match ended {
            Some((Case::TornTail, segment, offset)) => stop(Case::RotMiddle, segment, offset, detail),
            _ => stop(Case::SegmentMissing, h.segment, 0, detail),
        });
    }
    let bounds = [
        (
            Case::EndBelowSeal,
            "the sealed end",
            if found.seal.branch == end.branch { found.seal.seq } else { Seq::ZERO },
        ),
        (Case::EndBelowApplying, "what home may hold", found.applying),
        (Case::EndBelowPeer, "what a peer has proved to hold", found.peer_durable),
    ];
    for (case, what, expected) in bounds {
        if end.seq < expected {
            let last = held.back().map(|s| (s.header.segment, u64::from(s.data_end)));
            return Err(RecoverError {
                case,
                segment: last.map(|l| l.0),
                offset: last.map_or(0, |l| l.1),
                detail: Detail::End { end: end.seq, what, expected },
            });
        }
    }
    let sealed = held.iter().rev().find_map(|s| s.hash_at(found.seal.seq));
    if let Some(hash) = sealed
        && found.seal.branch == end.branch
        && hash != found.seal.hash
    {
        let detail = Detail::Chain { found: found.seal.seq, expected: found.seal.seq };
        return Err(RecoverError { case: Case::ChainBroken, segment: None, offset: 0, detail });
    }
    let incarnation = found.incarnation.max(walk.incarnation_seen).saturating_add(1);
    let open = ended.is_some();
    let held_ids = held.iter().map(|s| s.header.segment).collect();
    let start = JournalStart {
        branch: end.branch,
        incarnation,
        trimmed: found.trimmed,
        end,
        segments: held,
        open,
        wall: walk.wall,
    };
    Ok(Recovered { start, held: held_ids, cases: walk.cases, bytes_read: walk.bytes_read })
}

const _: () = assert!(SEGMENT_HEADER_LEN.is_multiple_of(BATCH_ALIGN) && ENVELOPE_LEN < BATCH_ALIGN);
