//! Plays the engine's part against the real journal on simulated disks, cuts the power, and asks the model.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::ReceivedBody;
use reprise_format::superblock::{self, GroupBody, PointBody, SUPERBLOCK_COPY_LEN, SuperblockKind};
use reprise_journal::{
    BatchSource, BodyError, CacheRead, Case, Found, Grant, Index, Journal, JournalConfig, JournalStart, NewRecord,
    PieceSource, ReadPlan, SegmentId, WriteToken, newest_generation, recover, scan_segments, segment_offset,
};
use reprise_types::{
    BranchId, ByteLen, Extent, GroupId, HistoryHash, Now, Point, PoolId, RecordKind, Sector, SectorCount, Seq,
    VolumeSlot, WallMicros,
};

use crate::disk::DiskError;
use crate::model::{Image, Model, VOLUME_SECTORS, VOLUMES, Written, chain_start, content, payload};
use crate::{Power, Rng, SimDisk};

/// Bytes of a segment: the smallest, so that a run goes through many.
pub const SEGMENT_LEN: u64 = 1 << 20;
/// Segments of the cache.
pub const SEGMENTS: u32 = 8;
/// Steps without a disk operation before the harness says that the journal is stuck.
const STUCK_STEPS: u32 = 20_000;

const POOL: PoolId = PoolId::from_raw([1; 16]);
const GROUP: GroupId = GroupId::from_raw([2; 16]);
const BRANCH: BranchId = BranchId::from_raw([3; 16]);

/// Who feeds the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// A host: records one by one.
    Host,
    /// The link: bodies that another journal packed.
    Link,
}

/// A bug in the engine's part, planted to see that the checks find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A record is acknowledged when its write is submitted.
    AckBeforeDurable,
    /// What recovery chose is not sealed.
    SealSkipped,
    /// The oldest valid superblock is taken.
    StaleSuperblock,
    /// Segments are reused before the trimmed position is durable.
    ReuseBeforeTrimDurable,
    /// The batches before a footer are not synced, the footer is.
    FooterBeforeBatches,
    /// Home is written before `applying` is durable.
    ApplyingSkipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// Number of the cut.
    pub cut: u64,
    /// What is wrong.
    pub what: String,
}

enum Stop {
    Cut,
    Fenced,
    Wrong(String),
}

impl From<DiskError> for Stop {
    fn from(e: DiskError) -> Self {
        match e {
            DiskError::PowerCut => Self::Cut,
            DiskError::Io => Self::Fenced,
        }
    }
}

fn wrong<T>(what: String) -> Result<T, Stop> {
    Err(Stop::Wrong(what))
}

/// What a run went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Power cuts.
    pub cuts: u64,
    /// Cuts with sectors undecided.
    pub torn: u64,
    /// Cuts inside recovery or seal.
    pub nested: u64,
    /// Records appended.
    pub records: u64,
    /// Segments opened.
    pub segments: u64,
    /// Images of older moments compared.
    pub views: u64,
    /// Rows of the recovery table.
    pub cases: BTreeMap<Case, u64>,
}

impl Totals {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.torn += other.torn;
        self.nested += other.nested;
        self.records += other.records;
        self.segments += other.segments;
        self.views += other.views;
        other.cases.iter().for_each(|(c, n)| *self.cases.entry(*c).or_default() += n);
    }
}

struct InFlight {
    token: WriteToken,
    at: u64,
    len: usize,
}

struct Alive {
    journal: Journal,
    version: u64,
    body: GroupBody,
    free: Vec<SegmentId>,
    generation: u64,
    in_flight: Option<InFlight>,
    now: u64,
    /// The volumes as the host sees them.
    current: Image,
}

struct Body {
    first: Seq,
    records: Vec<Written>,
    received: ReceivedBody,
}

/// The harness. See the module.
pub struct JournalHarness {
    seed: u64,
    rng: Rng,
    power: Power,
    /// The cache; public so that a test can damage it between lives.
    pub cache: SimDisk,
    home: SimDisk,
    feed: Feed,
    bug: Option<Bug>,
    dsync: bool,
    /// Home follows only when the cache is full.
    lazy: bool,
    model: Model,
    alive: Option<Alive>,
    /// What a recovery chose and could not seal yet: the next one must choose the same.
    chosen: Option<Point>,
    /// Bodies from the link that are to be appended, oldest first.
    bodies: VecDeque<Body>,
    /// What went through.
    pub totals: Totals,
}

impl JournalHarness {
    /// An empty group on empty disks.
    pub fn new(seed: u64, feed: Feed, bug: Option<Bug>) -> Self {
        let power = Power::default();
        let mut rng = Rng::new(seed);
        let cache = SimDisk::new(segment_offset(SEGMENTS, SEGMENT_LEN) as usize, power.clone());
        let home = SimDisk::new(VOLUMES * VOLUME_SECTORS as usize * 512, power.clone());
        let mut harness = Self {
            seed,
            dsync: rng.one_in(2),
            lazy: rng.one_in(5),
            rng,
            power,
            cache,
            home,
            feed,
            bug,
            model: Model::new(GROUP),
            alive: None,
            chosen: None,
            bodies: VecDeque::new(),
            totals: Totals::default(),
        };
        let start = Point { branch: BRANCH, seq: Seq::ZERO, hash: chain_start(GROUP) };
        let body = GroupBody {
            group: GROUP.as_bytes().to_vec(),
            trimmed: Some(point_body(start)),
            seal: Some(point_body(start)),
            ..Default::default()
        };
        assert!(harness.write_superblock(1, &body).is_ok(), "no cut is armed");
        harness
    }

    /// Runs through `cuts` power cuts; the first thing that is wrong ends it.
    ///
    /// # Errors
    /// What the checks found.
    pub fn run(&mut self, cuts: u64) -> Result<(), Failure> {
        for cut in 0..cuts {
            let operations = match self.rng.below(8) {
                0 | 1 => self.rng.below(5),
                2..=6 => self.rng.below(60),
                _ => self.rng.below(300),
            };
            self.power.cut_after(operations);
            self.life().map_err(|what| Failure { seed: self.seed, cut, what })?;
        }
        self.power.hold();
        self.restart().map_err(|what| Failure { seed: self.seed, cut: cuts, what })
    }

    /// Recovers and checks, with no cut to come.
    ///
    /// # Errors
    /// What the checks found.
    pub fn restart(&mut self) -> Result<(), String> {
        self.alive = None;
        match self.recover() {
            Ok(()) => Ok(()),
            Err(Stop::Wrong(what)) => Err(what),
            Err(Stop::Cut | Stop::Fenced) => Err("a disk operation failed without a cut".into()),
        }
    }

    /// Does `steps` steps with no cut to come, then ends with everything durable and the box switched off.
    ///
    /// # Errors
    /// What the checks found.
    pub fn work(&mut self, steps: u32) -> Result<(), String> {
        self.power.hold();
        let done = (0..steps).try_for_each(|_| self.step());
        match done {
            Err(Stop::Wrong(what)) => return Err(what),
            Err(Stop::Cut) => return Err("cut without a cut".into()),
            Err(Stop::Fenced) => {}
            Ok(()) => {
                let settled = self.complete().and_then(|()| Ok(self.cache.sync()?)).is_ok();
                assert!(settled, "no fault is armed that would fail the last write");
            }
        }
        self.alive = None;
        Ok(())
    }

    /// Last acknowledged record.
    pub fn acked(&self) -> Seq {
        self.model.acked()
    }

    /// From recovery to the next cut.
    fn life(&mut self) -> Result<(), String> {
        let end = self.recover().and_then(|()| {
            for _ in 0..STUCK_STEPS {
                self.step()?;
            }
            wrong::<()>("no disk operation in many steps: stuck".into())
        });
        if let Err(Stop::Wrong(what)) = end {
            return Err(what);
        }
        self.totals.cuts += 1;
        self.totals.nested += u64::from(self.chosen.is_some());
        self.totals.torn += u64::from(self.cache.unflushed() > 0);
        let calm = [0, 64, 128, 240, 255][self.rng.below(5) as usize];
        self.cache.power_cut(&mut self.rng, calm);
        self.home.power_cut(&mut self.rng, calm);
        self.alive = None;
        Ok(())
    }

    fn write_superblock(&mut self, version: u64, body: &GroupBody) -> Result<(), Stop> {
        let Ok(copy) = superblock::encode(SuperblockKind::Group, version, body) else {
            return wrong("superblock does not fit".into());
        };
        let copy = copy.freeze();
        for index in superblock::copies_of(version) {
            self.cache.write(superblock::group_copies(0)[index], std::slice::from_ref(&copy))?;
        }
        Ok(self.cache.sync()?)
    }

    /// Writes the superblock as the engine does: the next version, durable before what depends on it.
    fn commit_superblock(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        self.write_superblock(alive.version + 1, &alive.body)?;
        alive.version += 1;
        Ok(())
    }

    fn read_superblock(&mut self) -> Result<(u64, GroupBody), Stop> {
        let mut copies = Vec::new();
        for at in superblock::group_copies(0) {
            copies.push(self.cache.read(at, SUPERBLOCK_COPY_LEN).ok());
        }
        if self.bug == Some(Bug::StaleSuperblock) {
            let valid = copies.iter().flatten().filter_map(|c| superblock::decode(SuperblockKind::Group, c).ok());
            if let Some(oldest) = valid.min_by_key(|(version, _)| *version) {
                return Ok(oldest);
            }
        }
        match superblock::newest(SuperblockKind::Group, &copies) {
            Ok(found) => Ok(found),
            // Reads fail where the power goes.
            Err(FormatError::Unreadable { .. }) => Err(Stop::Cut),
            Err(e) => wrong(format!("no superblock: {e}")),
        }
    }

    fn recover(&mut self) -> Result<(), Stop> {
        self.cache.sync()?;
        self.home.sync()?;
        let (version, mut body) = self.read_superblock()?;
        let segments = match scan_segments(&mut self.cache, POOL, SEGMENTS, SEGMENT_LEN) {
            Ok(segments) => segments,
            Err(e) => return wrong(format!("segment headers: {e}")),
        };
        let found = Found {
            pool: POOL,
            group: GROUP,
            segment_len: SEGMENT_LEN,
            superblock_version: version,
            trimmed: point(body.trimmed.as_ref()),
            seal: point(body.seal.as_ref()),
            incarnation: body.incarnation,
            applying: Seq::from_raw(body.applying),
            generation_floor: 0,
            peer_durable: Seq::ZERO,
        };
        let recovered = match recover(&mut self.cache, found, &segments) {
            Ok(recovered) => recovered,
            Err(e) => return wrong(format!("recovery stops: {e}")),
        };
        let end = recovered.start.end();
        recovered.cases.iter().for_each(|c| *self.totals.cases.entry(*c).or_default() += 1);
        if end.seq < self.model.acked() {
            return wrong(format!("{} was acknowledged, the log ends at {}", self.model.acked(), end.seq));
        }
        if end.seq > self.model.written() {
            return wrong(format!("the log ends at {}, {} was the last written", end.seq, self.model.written()));
        }
        if end.hash != self.model.hash(end.seq) {
            return wrong(format!("h({}) is {}, expected {}", end.seq, end.hash, self.model.hash(end.seq)));
        }
        if let Some(before) = self.chosen.replace(end)
            && before != end
        {
            return wrong(format!("a recovery chose {}, the next one {}", before.seq, end.seq));
        }
        let free = (0..SEGMENTS).filter(|s| !recovered.held.contains(s)).collect();
        let generation = newest_generation(&segments, []);
        let config = JournalConfig {
            pool: POOL,
            group: GROUP,
            segment_len: SEGMENT_LEN,
            ram_tail_max: ByteLen::from_raw(64 << 10),
        };
        let applied = Seq::from_raw(body.applied);
        let journal = Journal::new(config, recovered.start, applied);
        if self.bug != Some(Bug::SealSkipped) {
            body.seal = Some(point_body(end));
            body.incarnation = journal.incarnation();
        }
        let current = self.model.image(end.seq);
        let now = 1000 + self.model.written().get();
        let mut alive = Alive { journal, version, body, free, generation, in_flight: None, now, current };
        self.commit_superblock(&mut alive)?;
        self.chosen = None;
        self.model.settle(end.seq, applied);
        // Half of the time the link sends the same bodies again, else the feed takes another turn from here.
        self.bodies.retain(|b| b.first > end.seq);
        let goes_on = self.bodies.front().is_some_and(|b| b.first == end.seq.next());
        if !goes_on || self.rng.one_in(2) {
            self.bodies.clear();
        }
        self.check_image(&alive, None, end.seq)?;
        self.check_view(&alive)?;
        self.alive = Some(alive);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Stop> {
        let Some(mut alive) = self.alive.take() else {
            self.recover()?;
            return Ok(());
        };
        let done = self.act(&mut alive);
        self.alive = Some(alive);
        done
    }

    fn act(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        if alive.journal.wants_segment() && !alive.free.is_empty() {
            let segment = alive.free.swap_remove(self.rng.below(alive.free.len() as u64) as usize);
            alive.generation += 1;
            alive.journal.grant(Grant { segment, generation: alive.generation });
            self.totals.segments += 1;
        }
        match self.rng.below(16) {
            0..=3 if alive.journal.undurable_bytes() < 2 << 20 => self.append(alive)?,
            0..=7 => self.submit(alive)?,
            8..=12 => self.finish(alive)?,
            13 => self.check_some(alive)?,
            14 if !self.lazy => self.apply(alive)?,
            15 if !self.lazy => self.trim(alive)?,
            _ => self.submit(alive)?,
        }
        if alive.journal.stalled() {
            self.finish(alive)?;
            self.apply(alive)?;
            self.trim(alive)?;
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Stop> {
        let Some(mut alive) = self.alive.take() else { return Ok(()) };
        let done = self.finish(&mut alive);
        self.alive = Some(alive);
        done
    }

    fn draw(&mut self) -> Written {
        let sectors = match self.rng.below(50) {
            0 => self.rng.range(65, 512),
            1..=4 => self.rng.range(17, 64),
            5..=30 => 8,
            _ => self.rng.range(1, 16),
        };
        let mut sector = self.rng.below(VOLUME_SECTORS - sectors + 1);
        if self.rng.one_in(2) {
            sector -= sector % 8;
        }
        let kind = match self.rng.below(24) {
            0 | 1 => RecordKind::Zero,
            2 => RecordKind::FlushMark,
            _ => RecordKind::Write,
        };
        let volume = VolumeSlot::from_raw(self.rng.below(VOLUMES as u64) as u16);
        let extent = Extent { volume, sector: Sector::from_raw(sector), sectors: SectorCount::from_raw(sectors) };
        match kind {
            RecordKind::FlushMark => {
                let extent = Extent { volume: VolumeSlot::default(), sector: Sector::ZERO, sectors: SectorCount::ZERO };
                Written { kind, extent, id: 0 }
            }
            RecordKind::Zero => Written { kind, extent, id: 0 },
            _ => Written { kind, extent, id: self.model.fresh_id() },
        }
    }

    fn append(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        let burst = if self.rng.one_in(12) { self.rng.range(1, 120) } else { self.rng.range(1, 8) };
        match self.feed {
            Feed::Host => {
                for _ in 0..burst {
                    let written = self.draw();
                    let record = NewRecord { kind: written.kind, extent: written.extent, payload: payload(&written) };
                    match alive.journal.append(record) {
                        Ok(seq) => self.note(alive, written, seq)?,
                        Err(e) => return wrong(format!("append: {e}")),
                    }
                }
            }
            Feed::Link => {
                if self.rng.one_in(16) {
                    self.offer_foreign(alive)?;
                }
                if self.bodies.is_empty() {
                    let after = alive.journal.written();
                    self.bodies = self.pack_bodies(after, self.model.hash(after), burst)?;
                }
                let count = self.rng.range(1, 1 + self.bodies.len() as u64) as usize;
                let batch: Vec<Body> = self.bodies.drain(..count.min(self.bodies.len())).collect();
                for body in batch {
                    let (first, last) = match alive.journal.check_body(body.received.clone()) {
                        Ok(next) => {
                            let range = next.range;
                            alive.journal.append_body(next);
                            range
                        }
                        Err(e) => return wrong(format!("check_body: {e}")),
                    };
                    if first != body.first || last.since(first) + 1 != body.records.len() as u64 {
                        return wrong(format!("body of {} was taken as {first}..{last}", body.first));
                    }
                    for (i, written) in (0..).zip(&body.records) {
                        self.note(alive, *written, Seq::from_raw(first.get() + i))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, alive: &mut Alive, written: Written, seq: Seq) -> Result<(), Stop> {
        let expected = self.model.write(written);
        self.totals.records += 1;
        if seq != expected {
            return wrong(format!("record {expected} got Seq {seq}"));
        }
        if written.kind.changes_content() {
            let range = written.extent.sector.get() as usize..written.extent.end().get() as usize;
            alive.current[usize::from(written.extent.volume.get())][range].fill(written.id);
        }
        Ok(())
    }

    /// Offers a body of another history: it has the right Seq and must be refused.
    fn offer_foreign(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        let after = alive.journal.written();
        let other = HistoryHash::from_raw([0xee; 16]);
        let body = self.pack_bodies(after, other, 1)?.pop_front();
        match body.map(|b| alive.journal.check_body(b.received).map(|next| next.range)) {
            Some(Err(BodyError::Diverged { .. })) => Ok(()),
            other => wrong(format!("a body of another history was not refused: {other:?}")),
        }
    }

    /// Lets a source journal of its own pack bodies that follow `after`; nothing of it touches a disk.
    fn pack_bodies(&mut self, after: Seq, hash: HistoryHash, burst: u64) -> Result<VecDeque<Body>, Stop> {
        let mut bodies = VecDeque::new();
        let base = Point { branch: BRANCH, seq: after, hash };
        let config =
            JournalConfig { pool: POOL, group: GROUP, segment_len: 64 << 20, ram_tail_max: ByteLen::from_raw(1 << 30) };
        let mut source = Journal::new(config, JournalStart::empty(base, 1), after);
        source.grant(Grant { segment: 0, generation: 1 });
        let mut at = after;
        let mut left = burst;
        while left > 0 {
            let count = self.rng.range(1, left.min(6));
            left -= count;
            let mut records = VecDeque::new();
            for _ in 0..count {
                let written = self.draw();
                let record = NewRecord { kind: written.kind, extent: written.extent, payload: payload(&written) };
                if let Err(e) = source.append(record) {
                    return wrong(format!("source append: {e}"));
                }
                records.push_back(written);
            }
            while let Some(write) = source.poll_write(now(after.get() + left), 1) {
                source.write_done(write.token);
                while let Some(BatchSource::Ram(batch)) = source.batch_after(at) {
                    let mut buffer = vec![0; ReceivedBody::ROOM];
                    batch.body().for_each(|piece| buffer.extend_from_slice(&piece));
                    let received = ReceivedBody::in_buffer(buffer.into());
                    let own = records.drain(..batch.records().count()).collect();
                    let first = batch.first_seq();
                    bodies.push_back(Body { first, records: own, received });
                    at = batch.last_seq();
                }
            }
        }
        Ok(bodies)
    }

    fn submit(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        if alive.in_flight.is_some() {
            return Ok(());
        }
        alive.now += self.rng.below(3);
        let Some(write) = alive.journal.poll_write(now(alive.now), alive.version) else { return Ok(()) };
        let len = write.bufs.iter().map(Bytes::len).sum();
        let in_cache = segment_offset(0, SEGMENT_LEN)..segment_offset(SEGMENTS, SEGMENT_LEN);
        if !in_cache.contains(&write.at) || write.at + len as u64 > in_cache.end {
            return wrong(format!("a write of {len} bytes at {} leaves the cache", write.at));
        }
        if (write.at - in_cache.start) / SEGMENT_LEN != (write.at + len as u64 - 1 - in_cache.start) / SEGMENT_LEN {
            return wrong(format!("a write of {len} bytes at {} leaves its segment", write.at));
        }
        self.cache.write(write.at, &write.bufs)?;
        if self.bug == Some(Bug::AckBeforeDurable) {
            self.model.ack(write.last_seq);
        }
        if self.bug == Some(Bug::FooterBeforeBatches) && self.rng.one_in(2) {
            let durable = alive.journal.write_done(write.token);
            self.model.ack(durable.seq);
            return Ok(());
        }
        alive.in_flight = Some(InFlight { token: write.token, at: write.at, len });
        Ok(())
    }

    fn finish(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        let Some(write) = alive.in_flight.take() else { return Ok(()) };
        if self.dsync {
            self.cache.sync_range(write.at, write.len)?;
        } else {
            self.cache.sync()?;
        }
        let durable = alive.journal.write_done(write.token);
        self.model.ack(durable.seq);
        if alive.journal.durable() != durable || durable.seq > alive.journal.written() {
            return wrong(format!("durable {} of written {}", durable.seq, alive.journal.written()));
        }
        Ok(())
    }

    /// One round of the home cursor: `applying` durable, newest content of a range, sync, `applied`.
    fn apply(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        let applied = Seq::from_raw(alive.body.applied);
        let durable = alive.journal.durable().seq;
        let behind = durable.since(applied);
        if behind == 0 {
            return Ok(());
        }
        // Home may be a mixture up to `applying` after a cut in a round: a shorter round would not make it whole.
        let drawn = applied.get() + self.rng.range(behind.div_ceil(2), behind);
        let to = Seq::from_raw(drawn.max(alive.body.applying));
        alive.body.applying = to.get();
        if self.bug != Some(Bug::ApplyingSkipped) {
            self.commit_superblock(alive)?;
        }
        let index = alive.journal.index_at(applied, to);
        for (extent, _) in index.iter() {
            let bytes = self.read(extent.volume, &alive.journal.plan_with(&index, extent))?;
            self.home.write(home_offset(extent), &[Bytes::from(bytes)])?;
        }
        self.home.sync()?;
        alive.body.applied = to.get();
        self.commit_superblock(alive)?;
        alive.journal.forget_applied(applied, to);
        Ok(())
    }

    fn trim(&mut self, alive: &mut Alive) -> Result<(), Stop> {
        // A segment that still has writes in flight or readers is not freed: here nothing reads between steps.
        let applied = Seq::from_raw(alive.body.applied);
        let Some((trimmed, freed)) = alive.journal.trim(applied) else { return Ok(()) };
        if trimmed.seq > applied {
            return wrong(format!("trimmed {} is past applied {applied}", trimmed.seq));
        }
        alive.body.trimmed = Some(point_body(trimmed));
        if self.bug != Some(Bug::ReuseBeforeTrimDurable) {
            self.commit_superblock(alive)?;
        }
        alive.free.extend(freed);
        Ok(())
    }

    fn check_some(&mut self, alive: &Alive) -> Result<(), Stop> {
        if self.rng.one_in(4) {
            return self.check_view(alive);
        }
        let volume = self.rng.below(VOLUMES as u64);
        let sector = self.rng.below(VOLUME_SECTORS - 64);
        let extent = Extent {
            volume: VolumeSlot::from_raw(volume as u16),
            sector: Sector::from_raw(sector),
            sectors: SectorCount::from_raw(self.rng.range(1, 64)),
        };
        let bytes = self.read(extent.volume, &alive.journal.plan_read(extent))?;
        compare(&bytes, &alive.current, extent, "newest")
    }

    /// The whole group as of an older moment that a view could have.
    fn check_view(&mut self, alive: &Alive) -> Result<(), Stop> {
        let from = alive.body.applying.max(alive.body.applied);
        let moment = Seq::from_raw(self.rng.range(from, alive.journal.durable().seq.get()));
        let index = alive.journal.index_at(Seq::from_raw(alive.body.applied), moment);
        self.totals.views += 1;
        self.check_image(alive, Some(&index), moment)
    }

    fn check_image(&mut self, alive: &Alive, index: Option<&Index>, moment: Seq) -> Result<(), Stop> {
        let image = self.model.image(moment);
        for volume in 0..VOLUMES as u16 {
            let extent = Extent {
                volume: VolumeSlot::from_raw(volume),
                sector: Sector::ZERO,
                sectors: SectorCount::from_raw(VOLUME_SECTORS),
            };
            let plan = match index {
                Some(index) => alive.journal.plan_with(index, extent),
                None => alive.journal.plan_read(extent),
            };
            let bytes = self.read(extent.volume, &plan)?;
            compare(&bytes, &image, extent, &format!("moment {moment}"))?;
        }
        Ok(())
    }

    /// Carries out a planned read: home, memory, and checked pieces of the journal.
    fn read(&mut self, volume: VolumeSlot, plan: &ReadPlan) -> Result<Vec<u8>, Stop> {
        let mut out = Vec::new();
        let io = |e: std::io::Error| Stop::Wrong(format!("read: {e}"));
        let mut at = plan.pieces.first().map(|p| p.sector);
        for piece in &plan.pieces {
            if at != Some(piece.sector) {
                return wrong(format!("a gap in the plan at {}", piece.sector));
            }
            at = piece.sector.checked_add(piece.sectors);
            let len = piece.sectors.bytes().get() as usize;
            let bytes = match &piece.source {
                PieceSource::Home => {
                    let extent = Extent { volume, sector: piece.sector, sectors: piece.sectors };
                    self.home.read(home_offset(extent), len).map_err(io)?
                }
                PieceSource::Zero => vec![0; len],
                PieceSource::Ram(bytes) => bytes.to_vec(),
                PieceSource::Disk(disk) => {
                    let header = self.cache.read(disk.header_at, disk.header_len).map_err(io)?;
                    let grains = self.cache.read(disk.payload_at, disk.payload_len).map_err(io)?;
                    match disk.verify(&header, &grains.into()) {
                        Ok(bytes) => bytes.to_vec(),
                        Err(e) => return wrong(format!("record {} does not read: {e}", disk.seq)),
                    }
                }
            };
            if bytes.len() != len {
                return wrong(format!("a piece of {} bytes where {len} were planned", bytes.len()));
            }
            out.extend_from_slice(&bytes);
        }
        Ok(out)
    }
}

fn home_offset(extent: Extent) -> u64 {
    (u64::from(extent.volume.get()) * VOLUME_SECTORS + extent.sector.get()) * 512
}

fn compare(bytes: &[u8], image: &Image, extent: Extent, what: &str) -> Result<(), Stop> {
    let volume = &image[usize::from(extent.volume.get())];
    for (sector, found) in (extent.sector.get()..).zip(bytes.chunks_exact(512)) {
        let id = volume[sector as usize];
        if found != content(id, sector) {
            let zero = found.iter().all(|b| *b == 0);
            return wrong(format!(
                "{what}: volume {} sector {sector} is not write {id} ({})",
                extent.volume.get(),
                if zero { "it is zero" } else { "it holds other bytes" }
            ));
        }
    }
    Ok(())
}

fn now(micros: u64) -> Now {
    Now { wall: WallMicros::from_raw(micros), ..Now::default() }
}

fn point_body(point: Point) -> PointBody {
    PointBody { branch: point.branch.as_bytes().to_vec(), seq: point.seq.get(), hash: point.hash.as_bytes().to_vec() }
}

fn point(body: Option<&PointBody>) -> Point {
    let bytes = |v: &Vec<u8>| <[u8; 16]>::try_from(v.as_slice()).unwrap_or_default();
    body.map_or_else(Point::default, |b| Point {
        branch: BranchId::from_raw(bytes(&b.branch)),
        seq: Seq::from_raw(b.seq),
        hash: HistoryHash::from_raw(bytes(&b.hash)),
    })
}
