//! The append pipeline of one branch: a record gets its Seq, is packed into a batch, and is written behind what is there.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{
    BATCH_LEN_MAX, BATCH_PAYLOAD_MAX, BATCH_RECORDS_MAX, BodyPlace, ENVELOPE_LEN, Envelope, PackRecord,
    RECORD_PAYLOAD_MAX, ZERO_SECTORS_MAX, pack_header, total_len,
};
use reprise_format::segment::{SEGMENT_HEADER_LEN, SegmentHeader, footer_len};
use reprise_types::{
    BranchId, Extent, GroupId, HistoryHash, Now, Point, PoolId, RecordKind, SECTOR_END_MAX, SECTOR_SIZE, Sector,
    SectorCount, Seq, VolumeSlot, WallMicros, honest,
};

use crate::batch::Batch;
use crate::segment::{Grant, Segment};
use crate::store::Store;

/// Batches that go to disk in one write, at most.
const BATCHES_PER_WRITE: usize = 64;
/// Payload of one write, at most: when more than a batch waits, the flush behind the write is shared.
const WRITE_PAYLOAD_MAX: usize = 4 << 20;

/// A record to be appended.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// What it is.
    pub kind: RecordKind,
    /// The sectors; all zero for kinds without.
    pub extent: Extent,
    /// Payload: for a write, the sectors' bytes.
    pub payload: Bytes,
}

impl NewRecord {
    /// The sectors whose content it changes.
    pub(crate) fn content(&self) -> Option<Extent> {
        self.kind.changes_content().then_some(self.extent)
    }

    fn check(&self) -> Result<(), AppendError> {
        let len = self.payload.len();
        if len > RECORD_PAYLOAD_MAX || !len.is_multiple_of(512) {
            return Err(AppendError::Payload { len });
        }
        let Extent { sector, sectors, .. } = self.extent;
        let in_space = sector.checked_add(sectors).is_some_and(|end| end.get() <= SECTOR_END_MAX);
        let fits = match self.kind {
            RecordKind::Write => len > 0 && sectors.get() == len as u64 / SECTOR_SIZE,
            RecordKind::Zero => len == 0 && (1..=ZERO_SECTORS_MAX).contains(&sectors.get()),
            RecordKind::FlushMark => len == 0,
            _ => true,
        };
        if !in_space || !fits {
            return Err(AppendError::Extent { kind: self.kind, sector, sectors, len });
        }
        Ok(())
    }
}

/// A record that cannot be appended. The engine checks before, so this is a bug of ours or a hostile caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Payload longer than a record may carry, or not a multiple of 512.
    #[error("payload of {len} bytes; a record takes up to {RECORD_PAYLOAD_MAX} in whole sectors")]
    Payload {
        /// Its length.
        len: usize,
    },
    /// An extent that the kind does not take: it would be written and not be read again.
    #[error("{kind:?} of {sectors} sectors at {sector} with {len} bytes of payload")]
    Extent {
        /// The kind.
        kind: RecordKind,
        /// First sector.
        sector: Sector,
        /// Length in sectors.
        sectors: SectorCount,
        /// Length of the payload.
        len: usize,
    },
}

/// A batch from the peer that is not the next one of this history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Torn, rotten or malformed.
    #[error("batch from the peer does not decode")]
    Format(#[from] FormatError),
    /// Another group or branch.
    #[error("batch of group {group} branch {branch} on the link of another")]
    Foreign {
        /// Its group.
        group: GroupId,
        /// Its branch.
        branch: BranchId,
    },
    /// Not the next Seq.
    #[error("batch begins at {found}, {expected} is next")]
    Gap {
        /// Its first Seq.
        found: Seq,
        /// The next Seq here.
        expected: Seq,
    },
    /// Same Seq, other history.
    #[error("history hash before {seq} is {found}, here it is {expected}: the histories differ")]
    Diverged {
        /// First Seq of the batch.
        seq: Seq,
        /// Its h before.
        found: HistoryHash,
        /// Ours.
        expected: HistoryHash,
    },
}

/// A record of something else than content: the state of a unit, the size of a volume, a mark.
#[derive(Debug, Clone)]
pub struct ChangeRecord {
    /// Its position.
    pub seq: Seq,
    /// What it is.
    pub kind: RecordKind,
    /// The volume, where it is about one.
    pub volume: VolumeSlot,
    /// Its payload.
    pub payload: Bytes,
}

/// A batch from the peer that was found to be the next one of this history, to be taken or not.
#[derive(Debug)]
pub struct NextBatch {
    pub(crate) batch: Batch,
    /// First record and last.
    pub range: (Seq, Seq),
    /// What it has of something else than content, oldest first.
    pub changes: Vec<ChangeRecord>,
}

impl NextBatch {
    fn new(batch: Batch) -> Self {
        let other = batch.records().filter(|(record, _)| !record.descriptor.kind.changes_content());
        let changes = other.map(|(record, payload)| ChangeRecord {
            seq: record.seq,
            kind: record.descriptor.kind,
            volume: record.descriptor.volume,
            payload: payload.clone(),
        });
        Self { range: (batch.first_seq(), batch.last_seq()), changes: changes.collect(), batch }
    }
}

/// Names one journal write in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteToken(u64);

/// What is to be written durably.
#[derive(Debug)]
pub struct JournalWrite {
    /// To be given back to [`Journal::write_done`](crate::Journal::write_done).
    pub token: WriteToken,
    /// Offset in the cache.
    pub at: u64,
    /// The pieces that go there one after the other; each a multiple of 512 bytes.
    pub bufs: Vec<Bytes>,
    /// Last record in it.
    pub last_seq: Seq,
}

#[derive(Debug)]
struct InFlight {
    token: WriteToken,
    last: Point,
}

/// What every envelope, body and segment header of a log says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPlace {
    pub(crate) pool: PoolId,
    pub(crate) group: GroupId,
    pub(crate) branch: BranchId,
    pub(crate) incarnation: u32,
}

/// How records get into the store. A record is first `written`, then `packed`, then in flight, and durable when its write is
/// done: durable <= packed <= written.
#[derive(Debug)]
pub(crate) struct Log {
    place: LogPlace,
    /// Last record that has a Seq. Its h is known once it is packed.
    written: Seq,
    /// Last record that is packed into a batch.
    packed: Point,
    wall: WallMicros,
    /// Records with a Seq that wait to be packed (source).
    pending: VecDeque<PackRecord>,
    pending_bytes: u64,
    /// Packed batches that wait for the disk (mirror), oldest first. The store keeps them in memory too.
    queue: VecDeque<Arc<Batch>>,
    queue_bytes: u64,
    in_flight: Option<InFlight>,
    in_flight_bytes: u64,
    next_token: u64,
    /// False once the last segment is full or there is none.
    open: bool,
    grant: Option<Grant>,
}

impl Log {
    /// A log that goes on behind `end`, in the last segment of the store if that is `open`.
    pub(crate) fn new(place: LogPlace, end: Point, open: bool, wall: WallMicros) -> Self {
        Self {
            place,
            written: end.seq,
            packed: end,
            wall,
            pending: VecDeque::new(),
            pending_bytes: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: None,
            in_flight_bytes: 0,
            next_token: 1,
            open,
            grant: None,
        }
    }

    pub(crate) fn place(&self) -> LogPlace {
        self.place
    }

    pub(crate) fn written(&self) -> Seq {
        self.written
    }

    pub(crate) fn packed(&self) -> Point {
        self.packed
    }

    /// Source wall clock of the last batch.
    pub(crate) fn wall(&self) -> WallMicros {
        self.wall
    }

    /// Bytes that have a Seq and are not durable.
    pub(crate) fn undurable_bytes(&self) -> u64 {
        self.pending_bytes + self.queue_bytes + self.in_flight_bytes
    }

    /// The segment that waits to be used.
    pub(crate) fn granted(&self) -> Option<Grant> {
        self.grant
    }

    /// A record that is not packed yet.
    pub(crate) fn unpacked(&self, seq: Seq) -> Option<&PackRecord> {
        let at = seq.get().checked_sub(self.packed.seq.next().get())?;
        self.pending.get(usize::try_from(at).ok()?)
    }

    /// Gives a record its Seq.
    pub(crate) fn append(&mut self, record: NewRecord) -> Result<Seq, AppendError> {
        record.check()?;
        let packed = PackRecord::new(record.kind, record.extent, record.payload);
        self.pending_bytes += packed.payload.len() as u64;
        self.pending.push_back(packed);
        self.written = self.written.next();
        Ok(self.written)
    }

    /// Is this the next batch of this history?
    pub(crate) fn check_next(&self, batch: Batch) -> Result<NextBatch, BodyError> {
        let head = batch.header().head;
        if head.group != self.place.group || head.branch != self.place.branch {
            return Err(BodyError::Foreign { group: head.group, branch: head.branch });
        }
        if honest!(head.first_seq != self.written.next(), GapUnchecked => false) {
            return Err(BodyError::Gap { found: head.first_seq, expected: self.written.next() });
        }
        if honest!(head.h_before != self.packed.hash, ChainUnchecked => false, GapUnchecked => false) {
            return Err(BodyError::Diverged { seq: head.first_seq, found: head.h_before, expected: self.packed.hash });
        }
        Ok(NextBatch::new(batch))
    }

    /// Takes the next batch of this history, packed by the peer.
    pub(crate) fn take(&mut self, batch: Batch, store: &mut Store) {
        let head = batch.header().head;
        let next = self.written.next();
        let follows = honest!(head.first_seq == next, GapUnchecked => true);
        assert!(follows, "a batch that begins at {} was checked, {next} is next", head.first_seq);
        self.written = head.last_seq;
        self.wall = self.wall.max(head.wall_forced);
        self.enqueue(batch, store);
    }

    fn enqueue(&mut self, batch: Batch, store: &mut Store) {
        let head = batch.header().head;
        self.packed = self.point(head.last_seq, head.h_after);
        let batch = Arc::new(batch);
        self.queue_bytes += batch.body_len() as u64;
        self.queue.push_back(batch.clone());
        store.keep(batch);
    }

    fn point(&self, seq: Seq, hash: HistoryHash) -> Point {
        Point { branch: self.place.branch, seq, hash }
    }

    /// Forgets what was taken from the peer and is not durable.
    ///
    /// # Panics
    /// When a write is in flight, or on a source.
    pub(crate) fn forget_undurable(&mut self, durable: Point) {
        assert!(self.in_flight.is_none() && self.pending.is_empty(), "records under way are not forgotten");
        self.queue.clear();
        self.queue_bytes = 0;
        (self.written, self.packed) = (durable.seq, durable);
    }

    /// True when a segment is needed at this moment or soon.
    pub(crate) fn wants_segment(&self, store: &Store) -> bool {
        let half_full = |s: &Segment| u64::from(s.data_end) > store.segment_len() / 2;
        self.grant.is_none() && (!self.open || store.segments().back().is_none_or(half_full))
    }

    /// Takes a segment for when the open one is full.
    pub(crate) fn grant(&mut self, grant: Grant) {
        assert!(self.grant.is_none(), "a second segment granted: {grant:?}");
        self.grant = Some(grant);
    }

    /// True when records wait and the disk has nothing in flight, but there is no segment.
    pub(crate) fn stalled(&self, store: &Store) -> bool {
        let waiting = !self.pending.is_empty() || !self.queue.is_empty();
        waiting && self.in_flight.is_none() && self.grant.is_none() && !self.room_for(store, self.next_write_bound())
    }

    fn next_write_bound(&self) -> Need {
        self.queue.front().map_or(Need::MOST, |batch| Need::of(batch))
    }

    /// Is there room in the open segment for so much, and for the footer that lists it?
    fn room_for(&self, store: &Store, need: Need) -> bool {
        let Some(segment) = store.segments().back().filter(|_| self.open) else { return false };
        let footer = footer_len(segment.batches.len() + 1, segment.records.len() + need.records);
        segment.data_end as usize + need.bytes + footer <= store.segment_len() as usize
    }

    /// The next write, if there is something to write, nothing in flight and room.
    pub(crate) fn poll_write(&mut self, store: &mut Store, now: Now, superblock_version: u64) -> Option<JournalWrite> {
        if self.in_flight.is_some() {
            return None;
        }
        while self.queue_bytes < WRITE_PAYLOAD_MAX as u64 && self.pack(now, store).is_some() {}
        let next = Need::of(self.queue.front()?);
        let mut lead = None;
        if !self.room_for(store, next) {
            if let Some(footer) = self.close_segment(store, superblock_version) {
                return Some(footer);
            }
            let grant = self.grant.take()?;
            lead = Some(self.open_segment(store, grant));
        }
        let (mut at, mut bufs, last) = self.fill(store, superblock_version, lead.is_some());
        if let Some(header) = lead {
            bufs.insert(0, header);
            at -= SEGMENT_HEADER_LEN as u64;
        }
        Some(self.start_write(at, bufs, last))
    }

    fn start_write(&mut self, at: u64, bufs: Vec<Bytes>, last: Point) -> JournalWrite {
        let token = WriteToken(self.next_token);
        self.next_token += 1;
        self.in_flight = Some(InFlight { token, last });
        JournalWrite { token, at, bufs, last_seq: last.seq }
    }

    /// Closes the open segment, which is full. Its footer is durable before the next segment is opened, so that a
    /// segment that has a successor never ends in doubt.
    fn close_segment(&mut self, store: &Store, superblock_version: u64) -> Option<JournalWrite> {
        let full = store.segments().back().filter(|_| self.open)?;
        let footer = full.footer(self.place.incarnation, superblock_version).encode();
        let end = store.offset_of(full) + store.segment_len();
        self.open = false;
        let at = end - footer.len() as u64;
        Some(self.start_write(at, vec![footer.freeze()], store.durable()))
    }

    /// Packs waiting records into one batch and queues it.
    fn pack(&mut self, now: Now, store: &mut Store) -> Option<()> {
        let mut payload = 0;
        let fits = |r: &&PackRecord| {
            payload += r.payload.len();
            payload <= BATCH_PAYLOAD_MAX
        };
        let count = self.pending.iter().take(BATCH_RECORDS_MAX).take_while(fits).count();
        if count == 0 {
            return None;
        }
        let records: Vec<PackRecord> = self.pending.drain(..count).collect();
        self.wall = WallMicros::from_raw(now.wall.get().max(self.wall.get().saturating_add(1)));
        let place = BodyPlace {
            group: self.place.group,
            branch: self.place.branch,
            first_seq: self.packed.seq.next(),
            h_before: self.packed.hash,
            wall_raw: now.wall,
            wall_forced: self.wall,
        };
        let (buf, header) = pack_header(&place, &records);
        let payloads: Vec<Bytes> = records.into_iter().map(|r| r.payload).collect();
        self.pending_bytes -= payloads.iter().map(|p| p.len() as u64).sum::<u64>();
        self.enqueue(Batch::new(header, buf.freeze().slice(ENVELOPE_LEN..), payloads), store);
        Some(())
    }

    fn open_segment(&mut self, store: &mut Store, grant: Grant) -> Bytes {
        let before = store.end();
        let header = SegmentHeader {
            pool: self.place.pool,
            group: self.place.group,
            branch: self.place.branch,
            segment: grant.segment,
            generation: grant.generation,
            first_seq: before.seq.next(),
            h_before: before.hash,
        };
        store.push_segment(header);
        self.open = true;
        header.encode().freeze()
    }

    /// Moves queued batches into the open segment, as one write.
    fn fill(&mut self, store: &mut Store, superblock_version: u64, fresh: bool) -> (u64, Vec<Bytes>, Point) {
        let mut bufs = Vec::new();
        let mut last = store.durable();
        let mut start = None;
        let mut payload = 0;
        for _ in 0..BATCHES_PER_WRITE {
            let Some(batch) = self.queue.front() else { break };
            let head = batch.header().head;
            payload += head.payload_len as usize;
            let first = start.is_none();
            if !first && (payload > WRITE_PAYLOAD_MAX || !self.room_for(store, Need::of(batch))) {
                break;
            }
            let Some(segment) = store.last_mut() else { break };
            let total_len = total_len(batch.body_len()) as u32;
            let offset = segment.data_end;
            let started = *start.get_or_insert(offset);
            let envelope = Envelope {
                total_len,
                body_len: batch.body_len() as u32,
                segment: segment.header.segment,
                offset,
                generation: segment.header.generation,
                superblock_version,
                durable_before: if fresh { 0 } else { started },
                incarnation: self.place.incarnation,
            };
            bufs.extend(batch.to_disk(&envelope));
            segment.push(offset, total_len, batch.header());
            last = self.point(head.last_seq, head.h_after);
            self.queue_bytes -= batch.body_len() as u64;
            self.in_flight_bytes += batch.body_len() as u64;
            self.queue.pop_front();
        }
        let segment = store.segments().back().expect("a segment was opened before it is filled");
        let start = start.expect("there is a batch to write");
        (store.offset_of(segment) + u64::from(start), bufs, last)
    }

    /// A write is durable. Gives the last record of all that is.
    ///
    /// # Panics
    /// When the token is not the one in flight.
    pub(crate) fn write_done(&mut self, token: WriteToken) -> Point {
        let done = self.in_flight.take().expect("a write is in flight");
        assert_eq!(done.token, token, "another journal write is in flight");
        self.in_flight_bytes = 0;
        done.last
    }

    /// The log goes on where the store ends, and its steps follow each other.
    ///
    /// # Panics
    /// When that is not so.
    pub(crate) fn assert_invariants(&self, store: &Store) {
        let (durable, packed, written) = (store.durable(), self.packed, self.written);
        let handed_over = self.in_flight.as_ref().map_or(durable, |write| write.last);
        assert!(
            durable.seq <= handed_over.seq && handed_over.seq <= packed.seq && packed.seq <= written,
            "durable {durable:?}, handed over {handed_over:?}, packed {packed:?}, written {written}"
        );
        let end = store.end();
        assert!(end == handed_over, "the segments end at {end:?}, what was handed to the disk at {handed_over:?}");
        let ends = self.queue.front().map(|b| b.header().head).zip(self.queue.back().map(|b| b.header().head));
        let queued = ends.map_or(handed_over == packed, |(first, last)| {
            let begins = (first.first_seq, first.h_before) == (handed_over.seq.next(), handed_over.hash);
            begins && (last.last_seq, last.h_after) == (packed.seq, packed.hash)
        });
        assert!(queued, "{} batches wait between {handed_over:?} and {packed:?}", self.queue.len());
        let waiting = self.pending.len() as u64;
        assert!(written.since(packed.seq) == waiting, "{waiting} records wait between {packed:?} and {written}");
        assert!(
            (self.pending_bytes == 0 || waiting > 0)
                && (self.queue_bytes > 0) == ends.is_some()
                && (self.in_flight_bytes > 0) == (handed_over != durable),
            "{} bytes wait to be packed, {} for the disk, {} are in flight",
            self.pending_bytes,
            self.queue_bytes,
            self.in_flight_bytes
        );
    }

    /// What it counts is what it holds. Walks through all of it.
    ///
    /// # Panics
    /// When that is not so.
    pub(crate) fn assert_sums(&self) {
        let pending: u64 = self.pending.iter().map(|r| r.payload.len() as u64).sum();
        let queued: u64 = self.queue.iter().map(|b| b.body_len() as u64).sum();
        let counted = (self.pending_bytes, self.queue_bytes);
        assert!(counted == (pending, queued), "{counted:?} bytes counted, {pending} and {queued} wait");
    }
}

/// What a batch takes of a segment.
#[derive(Debug, Clone, Copy)]
struct Need {
    bytes: usize,
    records: usize,
}

impl Need {
    const MOST: Self = Self { bytes: BATCH_LEN_MAX, records: BATCH_RECORDS_MAX };

    fn of(batch: &Batch) -> Self {
        Self { bytes: total_len(batch.body_len()), records: batch.header().records.len() }
    }
}
