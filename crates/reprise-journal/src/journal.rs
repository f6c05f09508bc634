//! The face of a group's journal: what is appended, what is durable, what can be read, what may go.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_types::{BranchId, ByteLen, Extent, GroupId, HistoryHash, Now, Point, PoolId, Seq, WallMicros, honest};

use crate::batch::Batch;
use crate::covered::Covered;
use crate::index::Index;
use crate::log::{AppendError, BodyError, JournalWrite, Log, LogPlace, NewRecord, NextBatch, WriteToken};
use crate::plan::{Planner, ReadPlan};
use crate::segment::{Grant, Segment, SegmentId};
use crate::store::{BatchPlace, BatchSource, Store};

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

/// The journal of one group. The log brings records into the store; the index says which of them a sector's newest content
/// is in.
#[derive(Debug)]
pub struct Journal {
    log: Log,
    store: Store,
    /// Of the records that home does not hold.
    index: Index,
    /// Kept while somebody reads the durable content beside hosts that write.
    covered: Option<Covered>,
}

impl Journal {
    /// Opens the journal. `applied` is where home is: older records need no index.
    pub fn new(config: JournalConfig, start: JournalStart, applied: Seq) -> Self {
        let open = honest!(start.open, FooterReopened => !start.segments.is_empty());
        let (pool, group) = (config.pool, config.group);
        let place = LogPlace { pool, group, branch: start.branch, incarnation: start.incarnation };
        let range = (start.trimmed, start.end);
        let store = Store::new(config.segment_len, range, start.segments, config.ram_tail_max);
        let journal = Self {
            log: Log::new(place, start.end, open, start.wall),
            index: store.index_of(applied, start.end.seq),
            store,
            covered: None,
        };
        journal.assert_invariants();
        journal
    }

    /// What must hold after each event: what is durable, packed and written follows each other, segments follow each other,
    /// sums are right. Walks through all that is held only where debug assertions are on, as in tests and simulator.
    fn assert_invariants(&self) {
        // A planted bug is to be found by what can be seen from outside.
        if cfg!(feature = "planted") {
            return;
        }
        self.log.assert_invariants(&self.store);
        self.store.assert_invariants();
        if cfg!(debug_assertions) {
            self.log.assert_sums();
            self.store.assert_sums();
        }
    }

    /// The branch.
    pub fn branch(&self) -> BranchId {
        self.log.place().branch
    }

    /// Records up to here may be gone.
    pub fn trimmed(&self) -> Point {
        self.store.trimmed()
    }

    /// Records up to here survive a power cut.
    pub fn durable(&self) -> Point {
        self.store.durable()
    }

    /// The end of what was packed or taken from the peer, durable or not.
    #[cfg(feature = "planted")]
    pub fn packed(&self) -> Point {
        self.log.packed()
    }

    /// Records up to here have a Seq.
    pub fn written(&self) -> Seq {
        self.log.written()
    }

    /// Number of recoveries.
    pub fn incarnation(&self) -> u32 {
        self.log.place().incarnation
    }

    /// Bytes that have a Seq and are not durable.
    pub fn undurable_bytes(&self) -> u64 {
        self.log.undurable_bytes()
    }

    /// Segments held, the granted one included.
    pub fn segments_held(&self) -> usize {
        self.store.segments().len() + usize::from(self.log.granted().is_some())
    }

    /// Numbers of the segments held, the granted one included.
    pub fn segment_ids(&self) -> impl Iterator<Item = SegmentId> + '_ {
        let granted = self.log.granted().into_iter().map(|g| g.segment);
        self.store.segments().iter().map(|s| s.header.segment).chain(granted)
    }

    /// Extents in the index.
    pub fn index_len(&self) -> usize {
        self.index.len()
    }

    /// Memory of the index and of the segments' tables, bytes.
    pub fn index_bytes(&self) -> u64 {
        (self.index.len() * INDEX_EXTENT_BYTES + self.store.tables_bytes()) as u64
    }

    /// Records whose tables are in memory.
    pub fn records_held(&self) -> usize {
        self.store.segments().iter().map(|s| s.records.len()).sum()
    }

    /// Gives a record its Seq. From here on reads see it; it is durable once a write that holds it is done.
    ///
    /// # Errors
    /// The payload does not fit a record.
    pub fn append(&mut self, record: NewRecord) -> Result<Seq, AppendError> {
        let content = record.content();
        let seq = self.log.append(record)?;
        if let Some(covered) = &mut self.covered {
            covered.appended(seq, content, &self.index);
        }
        if let Some(extent) = content {
            self.index.insert(extent, seq);
        }
        self.assert_invariants();
        Ok(seq)
    }

    /// Looks at a body from the peer and says what is in it, if it is the next batch. Nothing is taken yet.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn check_body(&self, body: ReceivedBody) -> Result<NextBatch, BodyError> {
        self.log.check_next(Batch::from_body(body.into_bytes())?)
    }

    /// Takes a batch that [`Self::check_body`] has found to be the next one.
    ///
    /// # Panics
    /// When another has been taken since.
    pub fn append_body(&mut self, next: NextBatch) {
        for record in &next.batch.header().records {
            if record.descriptor.kind.changes_content() {
                self.index.insert(record.descriptor.extent(), record.seq);
            }
        }
        self.log.take(next.batch, &mut self.store);
        self.assert_invariants();
    }

    /// Forgets what was taken from the peer and is not durable: the peer sends it again. `applied` is where home is.
    ///
    /// # Panics
    /// When a write is in flight, or on a source: hosts wait for their records.
    pub fn forget_undurable(&mut self, applied: Seq) {
        self.log.forget_undurable(self.store.durable());
        self.store.forget_undurable();
        self.index = self.store.index_of(applied, self.store.durable().seq);
        self.assert_invariants();
    }

    /// Durable batches behind `after` that hold records of something else than content, oldest first.
    pub fn batches_with_changes(&self, after: Seq) -> VecDeque<BatchPlace> {
        self.store.batches_with_changes(after)
    }

    /// True when a segment is needed now or soon. The engine asks the pool's allocator and answers with
    /// [`Self::grant`].
    pub fn wants_segment(&self) -> bool {
        self.log.wants_segment(&self.store)
    }

    /// Takes a segment for when the open one is full.
    pub fn grant(&mut self, grant: Grant) {
        self.log.grant(grant);
    }

    /// True when records wait and the disk has nothing in flight, but there is no segment: the cache is full.
    pub fn stalled(&self) -> bool {
        self.log.stalled(&self.store)
    }

    /// The next write, if there is something to write, nothing in flight and room. `superblock_version` is the version
    /// of the group's superblock that is durable.
    pub fn poll_write(&mut self, now: Now, superblock_version: u64) -> Option<JournalWrite> {
        let write = self.log.poll_write(&mut self.store, now, superblock_version);
        self.assert_invariants();
        write
    }

    /// A write is durable. Gives the new durable position.
    ///
    /// # Panics
    /// When the token is not the one in flight.
    pub fn write_done(&mut self, token: WriteToken) -> Point {
        let durable = self.log.write_done(token);
        self.store.set_durable(durable);
        if let Some(covered) = &mut self.covered {
            covered.durable(durable.seq);
        }
        self.assert_invariants();
        durable
    }

    /// Sets how much the RAM tail may hold, in bytes: less while buffers are short, since everything durable can be read
    /// from disk.
    pub fn set_ram_tail_max(&mut self, max: ByteLen) {
        self.store.set_tail_max(max);
    }

    /// Frees whole segments up to `to`; gives the new trimmed position and the segments, or none if nothing can go.
    /// The segments may be reused once the position is durable in the superblock and no read of them is under way.
    pub fn trim(&mut self, to: Seq) -> Option<(Point, Vec<SegmentId>)> {
        let gone = self.store.trim(to);
        self.assert_invariants();
        gone
    }

    /// Home holds everything up to `to`, durably: reads go there from now on.
    pub fn forget_applied(&mut self, from: Seq, to: Seq) {
        let index = &mut self.index;
        self.store.for_records(from, to, |r, _| index.remove(r.extent(), to));
    }

    /// Adds the records behind `after` up to `to` to an index of those before, for whoever builds one in steps.
    pub fn extend_index(&self, index: &mut Index, after: Seq, to: Seq) {
        self.store.for_records(after, to, |r, seq| index.insert(r.extent(), seq));
    }

    /// Bytes that durable records behind `after` up to `to` make read as zero.
    pub fn zeros_between(&self, after: Seq, to: Seq) -> u64 {
        self.store.zeros_between(after, to)
    }

    /// The index as it was at `seq`: the newest record up to there wins. Covers what is packed; `applied` is where
    /// home is.
    pub fn index_at(&self, applied: Seq, seq: Seq) -> Index {
        self.store.index_of(applied, seq)
    }

    /// Bytes of journal behind `after` that are durable, as they lie on disk.
    pub fn durable_bytes_after(&self, after: Seq) -> u64 {
        self.store.durable_bytes_after(after)
    }

    /// h(seq), known for the ends of batches and for the trimmed position.
    pub fn hash_at(&self, seq: Seq) -> Option<HistoryHash> {
        self.store.hash_at(seq)
    }

    /// Source wall clock of the batch that holds `seq`.
    pub fn wall_of(&self, seq: Seq) -> Option<WallMicros> {
        self.store.wall_of(seq)
    }

    /// Source wall clock of the batch that ends the durable history; none where no batch is held and none has come since
    /// the start.
    pub fn durable_wall(&self) -> Option<WallMicros> {
        let durable = self.durable().seq;
        let newest = || (self.written() == durable && self.log.wall().get() != 0).then_some(self.log.wall());
        self.wall_of(durable).or_else(newest)
    }

    /// The durable batch that begins behind `after`.
    pub fn batch_after(&self, after: Seq) -> Option<BatchSource> {
        self.store.batch_after(after)
    }

    /// The durable batch that holds `seq`.
    pub fn batch_holding(&self, seq: Seq) -> Option<BatchSource> {
        self.store.batch_holding(seq)
    }

    /// Where the batch that holds `seq` lies on disk, if it is durable and not trimmed.
    pub fn place_of(&self, seq: Seq) -> Option<BatchPlace> {
        self.store.place_of(seq)
    }

    /// What is to be written, and where, to put a batch that rotted into its place again; none where it is not the batch
    /// of that place. The write touches nothing but that place.
    pub fn rewrite(&self, place: &BatchPlace, batch: &Batch, superblock_version: u64) -> Option<(u64, Vec<Bytes>)> {
        self.store.rewrite(place, batch, superblock_version, self.incarnation())
    }

    /// Plans a read of the newest content.
    pub fn plan_read(&self, extent: Extent) -> ReadPlan {
        self.plan_with(&self.index, extent)
    }

    /// Plans a read of the content as it was at `seq`; `applied` is where home is. It looks through the records held
    /// after `applied`: for reads that are rare.
    pub fn plan_as_of(&self, applied: Seq, seq: Seq, extent: Extent) -> ReadPlan {
        self.plan_with(&self.store.index_under(extent, applied, seq), extent)
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
        let durable = self.durable().seq;
        let count = self.written().since(durable);
        match self.covered.as_ref().and_then(|covered| covered.index(&self.index, count, applied, extent)) {
            Some(index) => self.plan_with(&index, extent),
            None => self.plan_as_of(applied, durable, extent),
        }
    }

    /// Plans a read of the content as another index has it ([`Self::index_at`]).
    pub fn plan_with(&self, index: &Index, extent: Extent) -> ReadPlan {
        Planner { log: &self.log, store: &self.store }.plan(index, extent)
    }
}
