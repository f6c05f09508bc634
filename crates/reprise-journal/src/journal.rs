//! Append, commit, trim.

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
    BranchId, ByteLen, Extent, GroupId, HistoryHash, Now, Point, PoolId, RecordKind, SECTOR_END_MAX, SECTOR_SIZE,
    Sector, SectorCount, Seq, WallMicros, honest,
};

use crate::covered::Covered;
use crate::read::{BatchPlace, BatchSource, DiskPiece, Piece, PieceSource, ReadPlan};
use crate::segment::{Rec, Segment};
use crate::{Batch, Grant, Index, SegmentId, segment_offset};

/// Batches that go to disk in one write, at most.
const BATCHES_PER_WRITE: usize = 64;
/// Payload of one write, at most: when more than a batch waits, the flush behind the write is shared.
const WRITE_PAYLOAD_MAX: usize = 4 << 20;

/// Memory of an extent in the index: a node of the tree, with its share of what the tree keeps free.
const INDEX_EXTENT_BYTES: usize = 40;

/// What never changes while a journal is open.
#[derive(Debug, Clone, Copy)]
pub struct JournalConfig {
    /// The pool.
    pub pool: PoolId,
    /// The group.
    pub group: GroupId,
    /// Bytes of a segment.
    pub segment_len: u64,
    /// Durable batches kept in memory for the cursors, in bytes of payload. Past it the oldest are read from disk.
    pub ram_tail_max: ByteLen,
}

/// Where a journal starts: after recovery, or empty.
#[derive(Debug)]
pub struct JournalStart {
    pub(crate) branch: BranchId,
    pub(crate) incarnation: u32,
    pub(crate) trimmed: Point,
    pub(crate) end: Point,
    pub(crate) segments: VecDeque<Segment>,
    /// True if the last segment has no footer, so that batches may follow in it. A segment with a footer is never
    /// written again: recovery would believe the footer and lose what follows.
    pub(crate) open: bool,
    pub(crate) wall: WallMicros,
}

impl JournalStart {
    /// An empty journal that begins behind `base`: a new group at Seq 0, or a mirror that gets a first copy.
    pub fn empty(base: Point, incarnation: u32) -> Self {
        Self {
            branch: base.branch,
            incarnation,
            trimmed: base,
            end: base,
            segments: VecDeque::new(),
            open: false,
            wall: WallMicros::from_raw(0),
        }
    }

    /// The end of the log.
    pub fn end(&self) -> Point {
        self.end
    }
}

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

/// Names one journal write in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteToken(u64);

/// What is to be written durably.
#[derive(Debug)]
pub struct JournalWrite {
    /// To be given back to [`Journal::write_done`].
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

/// The journal of one group.
#[derive(Debug)]
pub struct Journal {
    config: JournalConfig,
    branch: BranchId,
    incarnation: u32,
    trimmed: Point,
    durable: Point,
    /// Last record that has a Seq. Its h is known once it is packed.
    written: Seq,
    /// Last record that is packed into a batch.
    packed: Point,
    wall: WallMicros,
    /// Records with a Seq that wait to be packed (source).
    pending: VecDeque<PackRecord>,
    pending_bytes: u64,
    /// Packed batches that wait for the disk (mirror), oldest first. They are in `tail` too.
    queue: VecDeque<Arc<Batch>>,
    queue_bytes: u64,
    in_flight: Option<InFlight>,
    in_flight_bytes: u64,
    next_token: u64,
    segments: VecDeque<Segment>,
    /// False once the last segment is full or there is none.
    open: bool,
    grant: Option<Grant>,
    tail: VecDeque<Arc<Batch>>,
    tail_bytes: u64,
    index: Index,
    /// Kept while somebody reads the durable content beside hosts that write.
    covered: Option<Covered>,
}

impl Journal {
    /// Opens the journal. `applied` is where home is: older records need no index.
    pub fn new(config: JournalConfig, start: JournalStart, applied: Seq) -> Self {
        let mut journal = Self {
            config,
            branch: start.branch,
            incarnation: start.incarnation,
            trimmed: start.trimmed,
            durable: start.end,
            written: start.end.seq,
            packed: start.end,
            wall: start.wall,
            pending: VecDeque::new(),
            pending_bytes: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: None,
            in_flight_bytes: 0,
            next_token: 1,
            open: honest!(start.open, FooterReopened => !start.segments.is_empty()),
            segments: start.segments,
            grant: None,
            tail: VecDeque::new(),
            tail_bytes: 0,
            index: Index::default(),
            covered: None,
        };
        journal.index = journal.index_of(applied, start.end.seq);
        journal
    }

    /// The branch.
    pub fn branch(&self) -> BranchId {
        self.branch
    }

    /// Records up to here may be gone.
    pub fn trimmed(&self) -> Point {
        self.trimmed
    }

    /// Records up to here survive a power cut.
    pub fn durable(&self) -> Point {
        self.durable
    }

    /// The end of what was packed or taken from the peer, durable or not.
    #[cfg(feature = "planted")]
    pub fn packed(&self) -> Point {
        self.packed
    }

    /// Records up to here have a Seq.
    pub fn written(&self) -> Seq {
        self.written
    }

    /// Number of recoveries.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Bytes that have a Seq and are not durable.
    pub fn undurable_bytes(&self) -> u64 {
        self.pending_bytes + self.queue_bytes + self.in_flight_bytes
    }

    /// Segments held, the granted one included.
    pub fn segments_held(&self) -> usize {
        self.segments.len() + usize::from(self.grant.is_some())
    }

    /// Numbers of the segments held, the granted one included.
    pub fn segment_ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let granted = self.grant.iter().map(|g| g.segment);
        self.segments.iter().map(|s| s.header.segment).chain(granted)
    }

    /// Extents in the index.
    pub fn index_len(&self) -> usize {
        self.index.len()
    }

    /// Memory of the index and of the segments' tables, bytes.
    pub fn index_bytes(&self) -> u64 {
        let tables = |s: &Segment| size_of_val(s.records.as_slice()) + size_of_val(s.batches.as_slice());
        let tables: usize = self.segments.iter().map(tables).sum();
        (self.index.len() * INDEX_EXTENT_BYTES + tables) as u64
    }

    /// Records whose tables are in memory.
    pub fn records_held(&self) -> usize {
        self.segments.iter().map(|s| s.records.len()).sum()
    }

    /// Gives a record its Seq. From here on reads see it; it is durable once a write that holds it is done.
    ///
    /// # Errors
    /// The payload does not fit a record.
    pub fn append(&mut self, record: NewRecord) -> Result<Seq, AppendError> {
        let len = record.payload.len();
        if len > RECORD_PAYLOAD_MAX || !len.is_multiple_of(512) {
            return Err(AppendError::Payload { len });
        }
        let Extent { sector, sectors, .. } = record.extent;
        let in_space = sector.checked_add(sectors).is_some_and(|end| end.get() <= SECTOR_END_MAX);
        let fits = match record.kind {
            RecordKind::Write => len > 0 && sectors.get() == len as u64 / SECTOR_SIZE,
            RecordKind::Zero => len == 0 && (1..=ZERO_SECTORS_MAX).contains(&sectors.get()),
            RecordKind::FlushMark => len == 0,
            _ => true,
        };
        if !in_space || !fits {
            return Err(AppendError::Extent { kind: record.kind, sector, sectors, len });
        }
        let seq = self.written.next();
        let packed = PackRecord::new(record.kind, record.extent, record.payload);
        let content = record.kind.changes_content().then_some(record.extent);
        if let Some(covered) = &mut self.covered {
            covered.appended(seq, content, &self.index);
        }
        if let Some(extent) = content {
            self.index.insert(extent, seq);
        }
        self.pending_bytes += len as u64;
        self.pending.push_back(packed);
        self.written = seq;
        Ok(seq)
    }

    /// Takes the next batch from the peer. `room_and_body` is the body behind 64 bytes of room, so that its payload is
    /// aligned for direct I/O.
    ///
    /// # Errors
    /// See [`BodyError`]; nothing is taken then.
    pub fn append_body(&mut self, room_and_body: Bytes) -> Result<(Seq, Seq), BodyError> {
        let batch = self.check_body(room_and_body)?;
        Ok(self.append_batch(batch))
    }

    /// The batch in a body from the peer, if it is the next one. Nothing is taken yet: see [`Self::append_batch`].
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn check_body(&self, room_and_body: Bytes) -> Result<Batch, BodyError> {
        let have = room_and_body.len();
        if have < ENVELOPE_LEN {
            return Err(FormatError::Short { what: "batch body", need: ENVELOPE_LEN, have }.into());
        }
        let batch = Batch::from_body(room_and_body.slice(ENVELOPE_LEN..))?;
        let head = batch.header().head;
        if head.group != self.config.group || head.branch != self.branch {
            return Err(BodyError::Foreign { group: head.group, branch: head.branch });
        }
        if honest!(head.first_seq != self.written.next(), GapUnchecked => false) {
            return Err(BodyError::Gap { found: head.first_seq, expected: self.written.next() });
        }
        if honest!(head.h_before != self.packed.hash, ChainUnchecked => false, GapUnchecked => false) {
            return Err(BodyError::Diverged { seq: head.first_seq, found: head.h_before, expected: self.packed.hash });
        }
        Ok(batch)
    }

    /// Takes a batch that [`Self::check_body`] has just given.
    pub fn append_batch(&mut self, batch: Batch) -> (Seq, Seq) {
        let head = batch.header().head;
        for record in &batch.header().records {
            if record.descriptor.kind.changes_content() {
                self.index.insert(record.descriptor.extent(), record.seq);
            }
        }
        self.written = head.last_seq;
        self.packed = Point { branch: self.branch, seq: head.last_seq, hash: head.h_after };
        self.wall = self.wall.max(head.wall_forced);
        let batch = Arc::new(batch);
        self.queue_bytes += batch.body_len() as u64;
        self.queue.push_back(batch.clone());
        self.push_tail(batch);
        (head.first_seq, head.last_seq)
    }

    /// Forgets what was taken from the peer and is not durable: the peer sends it again. `applied` is where home is.
    ///
    /// # Panics
    /// When a write is in flight, or on a source: hosts wait for their records.
    pub fn forget_undurable(&mut self, applied: Seq) {
        assert!(self.in_flight.is_none() && self.pending.is_empty(), "records under way are not forgotten");
        self.queue.clear();
        self.queue_bytes = 0;
        while let Some(newest) = self.tail.pop_back_if(|b| b.last_seq() > self.durable.seq) {
            self.tail_bytes -= newest.body_len() as u64;
        }
        (self.written, self.packed) = (self.durable.seq, self.durable);
        self.index = self.index_of(applied, self.durable.seq);
    }

    /// Durable batches behind `after` that hold records of something else than content, oldest first.
    pub fn batches_with_changes(&self, after: Seq) -> VecDeque<BatchPlace> {
        let mut found: VecDeque<BatchPlace> = VecDeque::new();
        let from = self.segments.partition_point(|s| s.last_seq() <= after);
        for segment in self.segments.range(from..) {
            let seqs = (segment.header.first_seq.get()..).map(Seq::from_raw);
            let changes = seqs.zip(&segment.records).filter(|(seq, r)| r.sectors == 0 && *seq > after);
            for (seq, _) in changes.take_while(|(seq, _)| *seq <= self.durable.seq) {
                if found.back().is_none_or(|place| place.last_seq < seq) {
                    found.extend(self.disk_batch(seq));
                }
            }
        }
        found
    }

    /// True when a segment is needed now or soon. The engine asks the pool's allocator and answers with
    /// [`Self::grant`].
    pub fn wants_segment(&self) -> bool {
        let half_full = |s: &Segment| u64::from(s.data_end) > self.config.segment_len / 2;
        self.grant.is_none() && (!self.open || self.segments.back().is_none_or(half_full))
    }

    /// Takes a segment for when the open one is full.
    pub fn grant(&mut self, grant: Grant) {
        assert!(self.grant.is_none(), "a second segment granted: {grant:?}");
        self.grant = Some(grant);
    }

    /// True when records wait and the disk has nothing in flight, but there is no segment: the cache is full.
    pub fn stalled(&self) -> bool {
        let waiting = !self.pending.is_empty() || !self.queue.is_empty();
        waiting && self.in_flight.is_none() && self.grant.is_none() && !self.room_for(self.next_write_bound())
    }

    fn next_write_bound(&self) -> (usize, usize, usize) {
        match self.queue.front() {
            Some(batch) => (total_len(batch.body_len()), 1, batch.header().records.len()),
            None => (BATCH_LEN_MAX, 1, BATCH_RECORDS_MAX),
        }
    }

    /// Is there room in the open segment for so many bytes, batches and records, and the footer that lists them?
    fn room_for(&self, (bytes, batches, records): (usize, usize, usize)) -> bool {
        let Some(segment) = self.segments.back().filter(|_| self.open) else { return false };
        let footer = footer_len(segment.batches.len() + batches, segment.records.len() + records);
        segment.data_end as usize + bytes + footer <= self.config.segment_len as usize
    }

    /// The next write, if there is something to write, nothing in flight and room. `superblock_version` is the version
    /// of the group's superblock that is durable.
    pub fn poll_write(&mut self, now: Now, superblock_version: u64) -> Option<JournalWrite> {
        if self.in_flight.is_some() {
            return None;
        }
        while self.queue_bytes < WRITE_PAYLOAD_MAX as u64 && self.pack(now).is_some() {}
        self.queue.front()?;
        let (bytes, _, _) = self.next_write_bound();
        let records = self.queue.front()?.header().records.len();
        let mut lead = None;
        if !self.room_for((bytes, 1, records)) {
            if let Some(footer) = self.close_segment(superblock_version) {
                return Some(footer);
            }
            let grant = self.grant.take()?;
            lead = Some(self.open_segment(grant));
        }
        let (mut at, mut bufs, last) = self.fill(superblock_version, lead.is_some());
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
    fn close_segment(&mut self, superblock_version: u64) -> Option<JournalWrite> {
        let full = self.segments.back().filter(|_| self.open)?;
        let footer = full.footer(self.incarnation, superblock_version).encode();
        let end = segment_offset(full.header.segment, self.config.segment_len) + self.config.segment_len;
        self.open = false;
        let at = end - footer.len() as u64;
        Some(self.start_write(at, vec![footer.freeze()], self.durable))
    }

    /// Packs waiting records into one batch and queues it.
    fn pack(&mut self, now: Now) -> Option<()> {
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
            group: self.config.group,
            branch: self.branch,
            first_seq: self.packed.seq.next(),
            h_before: self.packed.hash,
            wall_raw: now.wall,
            wall_forced: self.wall,
        };
        let (buf, header) = pack_header(&place, &records);
        let payloads: Vec<Bytes> = records.into_iter().map(|r| r.payload).collect();
        let bytes: u64 = payloads.iter().map(|p| p.len() as u64).sum();
        self.pending_bytes -= bytes;
        self.packed = Point { branch: self.branch, seq: header.head.last_seq, hash: header.head.h_after };
        let batch = Arc::new(Batch::new(header, buf.freeze().slice(ENVELOPE_LEN..), payloads));
        self.queue_bytes += batch.body_len() as u64;
        self.queue.push_back(batch.clone());
        self.push_tail(batch);
        Some(())
    }

    fn open_segment(&mut self, grant: Grant) -> Bytes {
        let before = self.segments.back().map_or(self.trimmed, |s| Point {
            branch: self.branch,
            seq: s.last_seq(),
            hash: s.h_after(),
        });
        let header = SegmentHeader {
            pool: self.config.pool,
            group: self.config.group,
            branch: self.branch,
            segment: grant.segment,
            generation: grant.generation,
            first_seq: before.seq.next(),
            h_before: before.hash,
        };
        self.segments.push_back(Segment::new(header));
        self.open = true;
        header.encode().freeze()
    }

    /// Moves queued batches into the open segment, as one write.
    fn fill(&mut self, superblock_version: u64, fresh: bool) -> (u64, Vec<Bytes>, Point) {
        let mut bufs = Vec::new();
        let mut last = self.durable;
        let mut start = None;
        let mut payload = 0;
        for _ in 0..BATCHES_PER_WRITE {
            let Some(batch) = self.queue.front() else { break };
            let head = batch.header().head;
            let total = total_len(batch.body_len());
            payload += head.payload_len as usize;
            let first = start.is_none();
            if !first && (payload > WRITE_PAYLOAD_MAX || !self.room_for((total, 1, batch.header().records.len()))) {
                break;
            }
            let Some(segment) = self.segments.back_mut() else { break };
            let offset = segment.data_end;
            let started = *start.get_or_insert(offset);
            let envelope = Envelope {
                total_len: total as u32,
                body_len: batch.body_len() as u32,
                segment: segment.header.segment,
                offset,
                generation: segment.header.generation,
                superblock_version,
                durable_before: if fresh { 0 } else { started },
                incarnation: self.incarnation,
            };
            bufs.extend(batch.to_disk(&envelope));
            segment.push(offset, total as u32, batch.header());
            last = Point { branch: self.branch, seq: head.last_seq, hash: head.h_after };
            self.queue_bytes -= batch.body_len() as u64;
            self.in_flight_bytes += batch.body_len() as u64;
            self.queue.pop_front();
        }
        let segment = self.segments.back().expect("a segment was opened before it is filled");
        let start = start.expect("there is a batch to write");
        (segment_offset(segment.header.segment, self.config.segment_len) + u64::from(start), bufs, last)
    }

    /// A write is durable. Gives the new durable position.
    ///
    /// # Panics
    /// When the token is not the one in flight.
    pub fn write_done(&mut self, token: WriteToken) -> Point {
        let done = self.in_flight.take().expect("a write is in flight");
        assert_eq!(done.token, token, "another journal write is in flight");
        self.durable = done.last;
        self.in_flight_bytes = 0;
        if let Some(covered) = &mut self.covered {
            covered.durable(self.durable.seq);
        }
        self.shrink_tail();
        self.durable
    }

    fn push_tail(&mut self, batch: Arc<Batch>) {
        self.tail_bytes += batch.body_len() as u64;
        self.tail.push_back(batch);
    }

    fn shrink_tail(&mut self) {
        while self.tail_bytes > self.config.ram_tail_max.get()
            && let Some(oldest) = self.tail.front().filter(|b| b.last_seq() <= self.durable.seq)
        {
            self.tail_bytes -= oldest.body_len() as u64;
            self.tail.pop_front();
        }
    }

    /// Sets how much the RAM tail may hold, in bytes: less while buffers are short, since everything durable can be read
    /// from disk.
    pub fn set_ram_tail_max(&mut self, max: ByteLen) {
        self.config.ram_tail_max = max;
        self.shrink_tail();
    }

    /// Frees whole segments up to `to`; gives the new trimmed position and the segments, or none if nothing can go.
    /// The segments may be reused once the position is durable in the superblock and no read of them is under way.
    pub fn trim(&mut self, to: Seq) -> Option<(Point, Vec<SegmentId>)> {
        let mut freed = Vec::new();
        while self.segments.len() > 1
            && let Some(oldest) =
                self.segments.front().filter(|s| honest!(s.last_seq() <= to, TrimTooFar => s.header.first_seq <= to))
        {
            self.trimmed = Point { branch: self.branch, seq: oldest.last_seq(), hash: oldest.h_after() };
            freed.push(oldest.header.segment);
            self.segments.pop_front();
        }
        while let Some(oldest) = self.tail.front().filter(|b| b.last_seq() <= self.trimmed.seq) {
            self.tail_bytes -= oldest.body_len() as u64;
            self.tail.pop_front();
        }
        (!freed.is_empty()).then_some((self.trimmed, freed))
    }

    /// Home holds everything up to `to`, durably: reads go there from now on.
    pub fn forget_applied(&mut self, from: Seq, to: Seq) {
        let mut done = Vec::new();
        self.for_records(from, to, |r, _| done.push(r.extent()));
        done.into_iter().for_each(|extent| self.index.remove(extent, to));
    }

    /// Visits the records behind `after` up to `to` that change content and are in a segment.
    fn for_records(&self, after: Seq, to: Seq, mut visit: impl FnMut(&Rec, Seq)) {
        let from = self.segments.partition_point(|s| s.last_seq() <= after);
        for segment in self.segments.range(from..) {
            let first = segment.header.first_seq.get();
            let skip = (after.get() + 1).saturating_sub(first) as usize;
            for (i, r) in segment.records.iter().enumerate().skip(skip) {
                let seq = Seq::from_raw(first + i as u64);
                if seq > to {
                    return;
                }
                if r.sectors > 0 {
                    visit(r, seq);
                }
            }
        }
    }

    /// Adds the records behind `after` up to `to` to an index of those before, for whoever builds one in steps.
    pub fn extend_index(&self, index: &mut Index, after: Seq, to: Seq) {
        self.for_records(after, to, |r, seq| index.insert(r.extent(), seq));
    }

    fn index_of(&self, after: Seq, to: Seq) -> Index {
        let mut index = Index::default();
        self.extend_index(&mut index, after, to);
        index
    }

    /// Bytes that durable records behind `after` up to `to` make read as zero.
    pub fn zeros_between(&self, after: Seq, to: Seq) -> u64 {
        let mut bytes = 0u64;
        self.for_records(after, to, |r, _| {
            if r.zero {
                bytes = bytes.saturating_add(r.extent().sectors.bytes().get());
            }
        });
        bytes
    }

    /// The index as it was at `seq`: the newest record up to there wins. Covers what is packed; `applied` is where
    /// home is.
    pub fn index_at(&self, applied: Seq, seq: Seq) -> Index {
        self.index_of(applied, seq)
    }

    /// Bytes of journal behind `after` that are durable, as they lie on disk.
    pub fn durable_bytes_after(&self, after: Seq) -> u64 {
        let place = |seq: Seq| {
            let at = self.segments.partition_point(|s| s.header.first_seq <= seq).saturating_sub(1);
            let segment = self.segments.get(at)?;
            let offset = match segment.batch_of(seq) {
                Some((batch, _)) => segment.batches.get(batch)?.offset,
                None => segment.data_end,
            };
            Some(at as u64 * self.config.segment_len + u64::from(offset))
        };
        let from = place(after.next()).unwrap_or(0);
        place(self.durable.seq.next()).unwrap_or(from).saturating_sub(from)
    }

    fn segment_of(&self, seq: Seq) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.header.first_seq <= seq);
        self.segments.get(after.checked_sub(1)?).filter(|s| seq <= s.last_seq())
    }

    /// h(seq), known for the ends of batches and for the trimmed position.
    pub fn hash_at(&self, seq: Seq) -> Option<HistoryHash> {
        if seq == self.trimmed.seq {
            return Some(self.trimmed.hash);
        }
        if seq == self.durable.seq {
            return Some(self.durable.hash);
        }
        self.segment_of(seq)?.hash_at(seq)
    }

    /// Source wall clock of the batch that holds `seq`.
    pub fn wall_of(&self, seq: Seq) -> Option<WallMicros> {
        let segment = self.segment_of(seq)?;
        let (batch, _) = segment.batch_of(seq)?;
        segment.batches.get(batch).map(|b| b.wall)
    }

    /// Source wall clock of the batch that ends the durable history; none where no batch is held and none has come since
    /// the start.
    pub fn durable_wall(&self) -> Option<WallMicros> {
        let newest = || (self.written == self.durable.seq && self.wall.get() != 0).then_some(self.wall);
        self.wall_of(self.durable.seq).or_else(newest)
    }

    /// The durable batch that begins behind `after`.
    pub fn batch_after(&self, after: Seq) -> Option<BatchSource> {
        let first = after.next();
        if honest!(first > self.durable.seq, BatchBeforeDurable => false) {
            return None;
        }
        if let Some(batch) = self.tail_batch(first).filter(|b| b.first_seq() == first) {
            return Some(BatchSource::Ram(batch.clone()));
        }
        self.disk_batch(first).filter(|p| p.first_seq == first).map(BatchSource::Disk)
    }

    /// The durable batch that holds `seq`.
    pub fn batch_holding(&self, seq: Seq) -> Option<BatchSource> {
        if seq > self.durable.seq {
            return None;
        }
        match self.tail_batch(seq) {
            Some(batch) => Some(BatchSource::Ram(batch.clone())),
            None => self.disk_batch(seq).map(BatchSource::Disk),
        }
    }

    /// Where the batch that holds `seq` lies on disk, if it is durable and not trimmed.
    pub fn place_of(&self, seq: Seq) -> Option<BatchPlace> {
        self.disk_batch(seq).filter(|p| p.last_seq <= self.durable.seq)
    }

    /// What is to be written, and where, to put a batch that rotted into its place again; none where it is not the batch
    /// of that place. The write touches nothing but that place.
    pub fn rewrite(&self, place: &BatchPlace, batch: &Batch, superblock_version: u64) -> Option<(u64, Vec<Bytes>)> {
        let segment = self.segment_of(place.first_seq)?;
        let (index, _) = segment.batch_of(place.first_seq)?;
        let entry = segment.batches.get(index)?;
        let head = batch.header().head;
        let same = head.h_after == entry.h_after
            && head.first_seq == place.first_seq
            && batch.body_len() == entry.body_len as usize
            && head.header_len == entry.header_len;
        let envelope = Envelope {
            total_len: total_len(batch.body_len()) as u32,
            body_len: entry.body_len,
            segment: segment.header.segment,
            offset: entry.offset,
            generation: segment.header.generation,
            superblock_version,
            durable_before: entry.offset,
            incarnation: self.incarnation,
        };
        let at = segment_offset(segment.header.segment, self.config.segment_len) + u64::from(entry.offset);
        (same && at == place.at).then(|| (at, batch.to_disk(&envelope)))
    }

    fn disk_batch(&self, seq: Seq) -> Option<BatchPlace> {
        let segment = self.segment_of(seq)?;
        let (index, before) = segment.batch_of(seq)?;
        let entry = segment.batches.get(index)?;
        Some(BatchPlace {
            at: segment_offset(segment.header.segment, self.config.segment_len) + u64::from(entry.offset),
            len: total_len(entry.body_len as usize),
            first_seq: before.next(),
            last_seq: Seq::from_raw(before.get() + u64::from(entry.records)),
            h_after: entry.h_after,
        })
    }

    fn tail_batch(&self, seq: Seq) -> Option<&Arc<Batch>> {
        let after = self.tail.partition_point(|b| b.first_seq() <= seq);
        self.tail.get(after.checked_sub(1)?).filter(|b| seq <= b.last_seq())
    }

    /// Plans a read of the newest content.
    pub fn plan_read(&self, extent: Extent) -> ReadPlan {
        self.plan_with(&self.index, extent)
    }

    /// Plans a read of the content as it was at `seq`; `applied` is where home is. It looks through the records held
    /// after `applied`: for reads that are rare.
    pub fn plan_as_of(&self, applied: Seq, seq: Seq, extent: Extent) -> ReadPlan {
        let mut index = Index::default();
        self.for_records(applied, seq, |r, s| {
            let e = r.extent();
            if e.volume == extent.volume && e.sector < extent.end() && extent.sector < e.end() {
                index.insert(e, s);
            }
        });
        self.plan_with(&index, extent)
    }

    /// Whether what records cover that are not durable is kept, for [`Self::plan_durable`]. On a source.
    pub fn keep_covered(&mut self, keep: bool) {
        if keep != self.covered.is_some() {
            self.covered = keep.then(Covered::default);
        }
    }

    /// Plans a read of the content as it is durable; `applied` is where home is. Where what is covered was not kept, it looks
    /// through the records held.
    pub fn plan_durable(&self, applied: Seq, extent: Extent) -> ReadPlan {
        let durable = self.durable.seq;
        let count = self.written.since(durable);
        match self.covered.as_ref().and_then(|covered| covered.index(&self.index, count, applied, extent)) {
            Some(index) => self.plan_with(&index, extent),
            None => self.plan_as_of(applied, durable, extent),
        }
    }

    /// Plans a read of the content as another index has it ([`Self::index_at`]).
    pub fn plan_with(&self, index: &Index, extent: Extent) -> ReadPlan {
        let mut newest = Seq::ZERO;
        let mut pieces = Vec::with_capacity(1);
        for (sector, sectors, seq) in index.lookup(extent) {
            let source = match seq {
                None => PieceSource::Home,
                Some(seq) => {
                    newest = newest.max(seq);
                    self.locate(seq, Extent { sector, sectors, ..extent })
                }
            };
            pieces.push(Piece { sector, sectors, source });
        }
        ReadPlan { pieces, newest }
    }

    /// Where the bytes of `part` of record `seq` are.
    fn locate(&self, seq: Seq, part: Extent) -> PieceSource {
        let len = part.sectors.bytes().get() as usize;
        let slice = |start: u64, payload: &Bytes| {
            let skip = ((part.sector.get() - start) * 512) as usize;
            PieceSource::Ram(payload.slice(skip..skip + len))
        };
        if seq > self.packed.seq {
            let at = (seq.get() - self.packed.seq.get() - 1) as usize;
            let record = &self.pending[at];
            return match record.descriptor.kind {
                RecordKind::Zero => PieceSource::Zero,
                _ => slice(record.descriptor.sector.get(), &record.payload),
            };
        }
        if let Some((record, payload)) = self.tail_batch(seq).and_then(|b| b.record(seq)) {
            return match record.descriptor.kind {
                RecordKind::Zero => PieceSource::Zero,
                _ => slice(record.descriptor.sector.get(), payload),
            };
        }
        let segment = self.segment_of(seq).expect("an indexed record is in the tail or in a segment");
        let record = segment.record(seq).expect("the segment's table has all its records");
        if record.zero {
            return PieceSource::Zero;
        }
        let base = segment_offset(segment.header.segment, self.config.segment_len);
        let entry = segment.batches[record.batch as usize];
        let from = ((part.sector.get() - record.sector) * 512) as usize;
        let first_grain = from / reprise_format::CRC_GRAIN;
        let grains_at = first_grain * reprise_format::CRC_GRAIN;
        let grains_end = (from + len).next_multiple_of(reprise_format::CRC_GRAIN).min(record.sectors as usize * 512);
        PieceSource::Disk(DiskPiece {
            seq,
            h_after: entry.h_after,
            header_at: base + u64::from(entry.offset),
            header_len: ENVELOPE_LEN + entry.header_len as usize,
            payload_at: base + u64::from(record.payload_sector) * 512 + grains_at as u64,
            payload_len: grains_end - grains_at,
            first_grain,
            skip: honest!(from - grains_at, ReadSkipsWrong => 0),
            take: len,
        })
    }
}
