//! What the journal holds: look-ups by position, places on disk, trim.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{Envelope, total_len};
use reprise_format::segment::SegmentHeader;
use reprise_types::{ByteLen, Extent, HistoryHash, Point, Seq, WallMicros, honest};

use crate::batch::Batch;
use crate::index::Index;
use crate::segment::{Rec, Segment, SegmentId, segment_offset};
use crate::tail::Tail;

/// Place of a batch on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlace {
    /// Offset in the cache.
    pub at: u64,
    /// Bytes to read.
    pub len: usize,
    /// First record.
    pub first_seq: Seq,
    /// Last record.
    pub last_seq: Seq,
    /// h after it.
    pub h_after: HistoryHash,
}

impl BatchPlace {
    /// Reads and checks what lies at the place, envelope and padding included.
    ///
    /// # Errors
    /// The journal is rotten here: these are not the bytes of this batch.
    pub fn verify(&self, bytes: Bytes) -> Result<Batch, FormatError> {
        let (_, batch) = Batch::from_disk(bytes)?;
        let head = batch.header().head;
        if (head.first_seq, head.last_seq, head.h_after) != (self.first_seq, self.last_seq, self.h_after) {
            return Err(FormatError::Field { what: "journal read", field: "h_after", value: head.last_seq.get() });
        }
        Ok(batch)
    }
}

/// A batch to be sent or applied.
#[derive(Debug, Clone)]
pub enum BatchSource {
    /// In the RAM tail.
    Ram(Arc<Batch>),
    /// To be read from disk.
    Disk(BatchPlace),
}

/// The segments of a group and the batches in memory. All records behind `trimmed` that were handed to the disk are in a
/// segment; which of them are durable is known by `durable`.
#[derive(Debug)]
pub(crate) struct Store {
    segment_len: u64,
    /// Records up to here may be gone.
    trimmed: Point,
    /// Records up to here survive a power cut.
    durable: Point,
    /// In the order of history, without gaps. The log fills the last one.
    segments: VecDeque<Segment>,
    tail: Tail,
}

impl Store {
    /// What recovery has found between `trimmed` and `durable`.
    pub(crate) fn new(
        segment_len: u64,
        (trimmed, durable): (Point, Point),
        segments: VecDeque<Segment>,
        tail_max: ByteLen,
    ) -> Self {
        Self { segment_len, trimmed, durable, segments, tail: Tail::new(tail_max) }
    }

    pub(crate) fn segment_len(&self) -> u64 {
        self.segment_len
    }

    pub(crate) fn trimmed(&self) -> Point {
        self.trimmed
    }

    pub(crate) fn durable(&self) -> Point {
        self.durable
    }

    pub(crate) fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Memory of the segments' tables, bytes.
    pub(crate) fn tables_bytes(&self) -> usize {
        self.segments.iter().map(|s| size_of_val(s.records.as_slice()) + size_of_val(s.batches.as_slice())).sum()
    }

    /// Keeps a batch that is not durable yet in memory.
    pub(crate) fn keep(&mut self, batch: Arc<Batch>) {
        self.tail.push(batch);
    }

    /// The last segment, for the log to put batches into.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Segment> {
        self.segments.back_mut()
    }

    /// The log goes on in another segment.
    pub(crate) fn push_segment(&mut self, header: SegmentHeader) {
        self.segments.push_back(Segment::new(header));
    }

    /// The end of what lies in segments.
    pub(crate) fn end(&self) -> Point {
        let last = self.segments.back();
        last.map_or(self.trimmed, |s| Point { branch: self.durable.branch, seq: s.last_seq(), hash: s.h_after() })
    }

    /// Everything up to `to` is durable.
    pub(crate) fn set_durable(&mut self, to: Point) {
        self.durable = to;
        self.tail.shrink(to.seq);
    }

    pub(crate) fn set_tail_max(&mut self, max: ByteLen) {
        self.tail.set_max(max, self.durable.seq);
    }

    pub(crate) fn forget_undurable(&mut self) {
        self.tail.forget_after(self.durable.seq);
    }

    /// Lets whole segments go up to `to`; gives the trimmed position and the segments, or none if nothing can go.
    pub(crate) fn trim(&mut self, to: Seq) -> Option<(Point, Vec<SegmentId>)> {
        let mut freed = Vec::new();
        while self.segments.len() > 1
            && let Some(oldest) =
                self.segments.front().filter(|s| honest!(s.last_seq() <= to, TrimTooFar => s.header.first_seq <= to))
        {
            self.trimmed = Point { branch: self.durable.branch, seq: oldest.last_seq(), hash: oldest.h_after() };
            freed.push(oldest.header.segment);
            self.segments.pop_front();
        }
        self.tail.trim(self.trimmed.seq);
        (!freed.is_empty()).then_some((self.trimmed, freed))
    }

    /// Visits the records behind `after` up to `to` that change content and are in a segment.
    pub(crate) fn for_records(&self, after: Seq, to: Seq, mut visit: impl FnMut(&Rec, Seq)) {
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

    /// The index of the records behind `after` up to `to`.
    pub(crate) fn index_of(&self, after: Seq, to: Seq) -> Index {
        let mut index = Index::default();
        self.for_records(after, to, |r, seq| index.insert(r.extent(), seq));
        index
    }

    /// The same for what touches `extent`, without the memory of a whole index.
    pub(crate) fn index_under(&self, extent: Extent, after: Seq, to: Seq) -> Index {
        let mut index = Index::default();
        self.for_records(after, to, |r, seq| {
            let e = r.extent();
            if e.volume == extent.volume && e.sector < extent.end() && extent.sector < e.end() {
                index.insert(e, seq);
            }
        });
        index
    }

    /// Bytes that records behind `after` up to `to` make read as zero.
    pub(crate) fn zeros_between(&self, after: Seq, to: Seq) -> u64 {
        let mut bytes = 0u64;
        self.for_records(after, to, |r, _| {
            if r.zero {
                bytes = bytes.saturating_add(r.extent().sectors.bytes().get());
            }
        });
        bytes
    }

    /// Bytes of journal behind `after` that are durable, as they lie on disk.
    pub(crate) fn durable_bytes_after(&self, after: Seq) -> u64 {
        let place = |seq: Seq| {
            let at = self.segments.partition_point(|s| s.header.first_seq <= seq).saturating_sub(1);
            let segment = self.segments.get(at)?;
            let offset = match segment.batch_of(seq) {
                Some((batch, _)) => segment.batches.get(batch)?.offset,
                None => segment.data_end,
            };
            Some(at as u64 * self.segment_len + u64::from(offset))
        };
        let from = place(after.next()).unwrap_or(0);
        place(self.durable.seq.next()).unwrap_or(from).saturating_sub(from)
    }

    /// The segment that holds `seq`.
    pub(crate) fn segment_of(&self, seq: Seq) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.header.first_seq <= seq);
        self.segments.get(after.checked_sub(1)?).filter(|s| seq <= s.last_seq())
    }

    /// h(seq), known for the ends of batches and for the trimmed position.
    pub(crate) fn hash_at(&self, seq: Seq) -> Option<HistoryHash> {
        if seq == self.trimmed.seq {
            return Some(self.trimmed.hash);
        }
        if seq == self.durable.seq {
            return Some(self.durable.hash);
        }
        self.segment_of(seq)?.hash_at(seq)
    }

    /// Source wall clock of the batch that holds `seq`.
    pub(crate) fn wall_of(&self, seq: Seq) -> Option<WallMicros> {
        let segment = self.segment_of(seq)?;
        let (batch, _) = segment.batch_of(seq)?;
        segment.batches.get(batch).map(|b| b.wall)
    }

    /// The durable batch that begins behind `after`.
    pub(crate) fn batch_after(&self, after: Seq) -> Option<BatchSource> {
        let first = after.next();
        if honest!(first > self.durable.seq, BatchBeforeDurable => false) {
            return None;
        }
        if let Some(batch) = self.tail.holding(first).filter(|b| b.first_seq() == first) {
            return Some(BatchSource::Ram(batch.clone()));
        }
        self.disk_batch(first).filter(|p| p.first_seq == first).map(BatchSource::Disk)
    }

    /// The durable batch that holds `seq`.
    pub(crate) fn batch_holding(&self, seq: Seq) -> Option<BatchSource> {
        if seq > self.durable.seq {
            return None;
        }
        match self.tail.holding(seq) {
            Some(batch) => Some(BatchSource::Ram(batch.clone())),
            None => self.disk_batch(seq).map(BatchSource::Disk),
        }
    }

    /// Where the batch that holds `seq` lies on disk, if it is durable and not trimmed.
    pub(crate) fn place_of(&self, seq: Seq) -> Option<BatchPlace> {
        self.disk_batch(seq).filter(|p| p.last_seq <= self.durable.seq)
    }

    /// Durable batches behind `after` that hold records of something else than content, oldest first.
    pub(crate) fn batches_with_changes(&self, after: Seq) -> VecDeque<BatchPlace> {
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

    /// What is to be written, and where, to put `batch` into its place again; none where it is not the batch of that place.
    /// The envelope is one of `incarnation` and of the superblock's version.
    pub(crate) fn rewrite(
        &self,
        place: &BatchPlace,
        batch: &Batch,
        superblock_version: u64,
        incarnation: u32,
    ) -> Option<(u64, Vec<Bytes>)> {
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
            incarnation,
        };
        let at = self.offset_of(segment) + u64::from(entry.offset);
        (same && at == place.at).then(|| (at, batch.to_disk(&envelope)))
    }

    /// Where a segment begins in the cache.
    pub(crate) fn offset_of(&self, segment: &Segment) -> u64 {
        segment_offset(segment.header.segment, self.segment_len)
    }

    /// What it holds begins behind the trimmed position.
    ///
    /// # Panics
    /// When that is not so.
    pub(crate) fn assert_invariants(&self) {
        let (trimmed, durable) = (self.trimmed, self.durable);
        assert!(trimmed.seq <= durable.seq, "trimmed {trimmed:?}, durable {durable:?}");
        let first = self.segments.front().map(|s| s.header);
        let begins = first.is_none_or(|h| (h.first_seq, h.h_before) == (trimmed.seq.next(), trimmed.hash));
        assert!(begins, "trimmed {trimmed:?}, the oldest segment is {first:?}");
    }

    /// Segments follow each other, and what is counted is what there is. Walks through all of it.
    ///
    /// # Panics
    /// When that is not so.
    pub(crate) fn assert_sums(&self) {
        for (one, next) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            let follows = (next.header.first_seq, next.header.h_before) == (one.last_seq().next(), one.h_after());
            assert!(follows, "{:?} does not follow what ends at {} in {:?}", next.header, one.last_seq(), one.header);
        }
        for segment in &self.segments {
            let counted: u64 = segment.batches.iter().map(|b| u64::from(b.records)).sum();
            assert!(
                counted == segment.records.len() as u64,
                "{counted} records in the batches of {:?}",
                segment.header
            );
        }
        self.tail.assert_sums();
    }

    fn disk_batch(&self, seq: Seq) -> Option<BatchPlace> {
        let segment = self.segment_of(seq)?;
        let (index, before) = segment.batch_of(seq)?;
        let entry = segment.batches.get(index)?;
        Some(BatchPlace {
            at: self.offset_of(segment) + u64::from(entry.offset),
            len: total_len(entry.body_len as usize),
            first_seq: before.next(),
            last_seq: Seq::from_raw(before.get() + u64::from(entry.records)),
            h_after: entry.h_after,
        })
    }
}
