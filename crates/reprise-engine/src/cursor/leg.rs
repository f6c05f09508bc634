//! The home cursor: applies what is durable, in bounded rounds.
//!
//! `applying` is durable before the first home write of a round and `applied` after its last flush. A round writes the
//! newest content of each sector once, in order of address.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use reprise_journal::{Batch, BatchPlace, BatchSource, Index};
use reprise_types::{Extent, Mono, RecordKind, SectorCount, Seq, VolumeSlot, honest};

use super::gate::{Hold, Limit};
use crate::core::{Barrier, Core, Open, Part, ReadName};
use crate::io::{Effect, IoFault, LegId, Notice, Token};
use crate::signal::Signal;

/// Body bytes of one round and the zeros that its records ask for, at most: memory of the round, and how long home is a
/// mixture. A single batch is a round whatever it holds.
pub const ROUND_BYTES_MAX: u64 = 16 << 20;
/// Batches of one round, at most: bounds its table.
const ROUND_BATCHES_MAX: usize = 1024;
/// A round begins when the feed has been quiet for so long: the disk belongs to the journal while hosts write.
const QUIET_MILLIS: u64 = 40;
/// However busy the feed is, a round begins when half of the RAM tail waits (what is applied from memory need not be
/// read again, nor do hosts read it from the journal), or when the oldest has waited so long.
const LAZY_MILLIS_MAX: u64 = 10_000;
/// One home write, at most: neighbouring extents are joined up to here.
const HOME_WRITE_MAX: u64 = 1 << 20;
/// One effect of zeros on a home, at most: a record may zero 512 GiB, which takes a disk hours, and nothing can be told to a
/// disk meanwhile.
const HOME_ZEROS_MAX: SectorCount = SectorCount::from_raw((64 << 20) / 512);
/// Pieces of one home write, at most.
const HOME_PIECES_MAX: usize = 256;

/// Home writes at the disk while the feed is busy, and their bytes: the journal's next write waits behind them, and hosts
/// wait for that one.
const BUSY_WRITES_MAX: usize = 8;
const BUSY_BYTES_MAX: u64 = 1 << 20;
/// Home writes at the disk otherwise, and their bytes: enough to keep any disk busy.
const QUIET_WRITES_MAX: usize = 128;
const QUIET_BYTES_MAX: u64 = 8 << 20;

/// What an answer is to.
#[derive(Debug)]
pub(crate) enum LegStep {
    Batch { index: usize, place: BatchPlace },
    Write { bytes: u64 },
    Flush,
}

#[derive(Debug, Default)]
enum Round {
    #[default]
    Idle,
    /// Waits until `applying` is durable.
    Announced { to: Seq, barrier: Barrier },
    /// Batches are being collected.
    Collect { to: Seq, batches: Vec<Option<Arc<Batch>>>, missing: usize, read: ReadName, failed: Option<Seq> },
    /// Home is being written.
    Write(Writing),
    /// Home is being flushed.
    Flush { to: Seq },
    /// The leg is detached, with the reason.
    Detached { reason: String },
}

/// A home write that is to be made; without pieces, of zeros.
type HomeWrite = (Extent, Vec<Bytes>);

/// The writes of a round.
#[derive(Debug)]
struct Writing {
    to: Seq,
    volumes: Vec<VolumeSlot>,
    waiting: VecDeque<HomeWrite>,
    /// At the disk, and their bytes.
    under_way: usize,
    bytes: u64,
    failed: Option<IoFault>,
}

impl Writing {
    /// The next write, of zeros a piece of it, if there may be one.
    fn pop_if(&mut self, may: bool) -> Option<HomeWrite> {
        let (mut extent, bufs) = self.waiting.pop_front_if(|_| may)?;
        if bufs.is_empty() && extent.sectors > HOME_ZEROS_MAX {
            let mut rest = extent;
            extent.sectors = HOME_ZEROS_MAX;
            rest.sector = extent.end();
            rest.sectors = SectorCount::from_raw(rest.sectors.get() - HOME_ZEROS_MAX.get());
            self.waiting.push_front((rest, Vec::new()));
        }
        Some((extent, bufs))
    }
}

/// The cursor.
#[derive(Debug, Default)]
pub(crate) struct Leg {
    round: Round,
    waiting_since: Option<Mono>,
    open: Open<LegStep>,
    /// Rounds whose `applied` is on its way to the superblock.
    counted: VecDeque<(Barrier, Seq)>,
    /// When the journal last took records.
    fed_at: Mono,
}

impl Leg {
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.round, Round::Idle) && self.counted.is_empty()
    }

    /// What is behind it the journal keeps: a home does not hold it, as the durable superblock says.
    pub(crate) fn needs_after(&self, core: &Core) -> Option<Seq> {
        Some(core.applied())
    }

    /// What an earlier round has asked of the disks is not answered.
    pub(crate) fn is_at_work(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.round, Round::Detached { .. })
    }

    /// Back into use, at the beginning of a round; false if it was not detached.
    pub(crate) fn attach(&mut self) -> bool {
        let detached = self.is_detached();
        if detached {
            self.round = Round::Idle;
        }
        detached
    }

    /// Why the leg is detached, where it is.
    pub(crate) fn fault(&self) -> Option<&str> {
        match &self.round {
            Round::Detached { reason } => Some(reason),
            _ => None,
        }
    }

    /// The Seq up to which a round from `applied` on goes. It may end below `applying`, which stays what it is: after a
    /// crash inside a round, and more so at the end of a first copy, home is a mixture up to there, and what waits below
    /// may be more than memory holds.
    fn round_target(core: &Core, limit: Seq) -> Seq {
        let (mut bytes, mut to) = (0u64, core.meta.applied);
        for count in 0.. {
            let Some(source) = core.journal.batch_after(to) else { break };
            let (last, len) = match &source {
                BatchSource::Ram(batch) => (batch.last_seq(), batch.body_len() as u64),
                BatchSource::Disk(place) => (place.last_seq, place.len as u64),
            };
            let zeros = honest!(core.journal.zeros_between(to, last), ZerosUncounted => 0);
            let with = bytes.saturating_add(len).saturating_add(zeros);
            let full = count > 0 && (count >= ROUND_BATCHES_MAX || with > core.config.round_bytes);
            let full = honest!(full, RoundUnbounded => full && to >= core.meta.applying);
            if last > limit || full {
                break;
            }
            (bytes, to) = (with, last);
        }
        to
    }

    /// Begins a round, where there is something to apply, nothing holds home, and the disk has the time.
    pub(crate) fn pump(&mut self, core: &mut Core, limit: Limit) {
        // A first copy lets a round go part of the way; whatever else holds home lets none begin.
        if !matches!(self.round, Round::Idle) || !matches!(limit.why, None | Some(Hold::Copy)) {
            return;
        }
        if core.journal.durable().seq <= core.meta.applied {
            self.waiting_since = None;
            return;
        }
        let since = *self.waiting_since.get_or_insert(core.now.mono);
        let quiet = !self.is_fed(core);
        let overdue = core.now.mono.millis_since(since) >= LAZY_MILLIS_MAX;
        let half = core.config.journal.ram_tail_max.get() / 2;
        let much = || core.journal.durable_bytes_after(core.meta.applied) >= half;
        if !(quiet || overdue || core.fill.fraction() > 0.5 || much()) {
            return;
        }
        let to = Self::round_target(core, limit.to);
        if to == core.meta.applied {
            return;
        }
        self.waiting_since = None;
        let before = honest!(core.meta.applying, ApplyingGoesBack => to);
        let barrier = core.meta.change(|meta| meta.applying = before.max(to));
        self.round = Round::Announced { to, barrier };
    }

    /// The superblock has been written.
    pub(crate) fn stored(&mut self, core: &mut Core) {
        while let Some((_, seq)) = self.counted.pop_front_if(|(barrier, _)| core.meta.holds(*barrier)) {
            self.round_applied(core, seq);
        }
        if let Round::Announced { to, barrier } = self.round
            && core.meta.holds(barrier)
        {
            self.round_start(core, to);
        }
    }

    /// `applying` is durable: collect the round's batches.
    fn round_start(&mut self, core: &mut Core, to: Seq) {
        let read = core.read_opened();
        let (mut at, mut batches, mut missing) = (core.meta.applied, Vec::new(), 0);
        while at < to {
            let source = core.journal.batch_after(at).expect("a batch that is not applied is in the journal");
            match source {
                BatchSource::Ram(batch) => {
                    at = batch.last_seq();
                    batches.push(Some(batch));
                }
                BatchSource::Disk(place) => {
                    at = place.last_seq;
                    let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
                    let token = core.fx.ask(Part::Leg(LegId::FIRST), make);
                    self.open.insert(token, LegStep::Batch { index: batches.len(), place });
                    batches.push(None);
                    missing += 1;
                }
            }
        }
        self.round = Round::Collect { to, batches, missing, read, failed: None };
        if missing == 0 {
            self.round_write(core);
        }
    }

    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        match self.open.take(token) {
            None => {}
            Some(LegStep::Flush) => self.round_flushed(core, result),
            Some(LegStep::Batch { index, place }) => {
                let Round::Collect { batches, missing, failed, .. } = &mut self.round else { return };
                *missing -= 1;
                match result.ok().and_then(|bytes| place.verify(bytes).ok()) {
                    Some(batch) => batches[index] = Some(Arc::new(batch)),
                    None => *failed = Some(failed.unwrap_or(place.first_seq)),
                }
                if *missing > 0 {
                    return;
                }
                if let Some(bad) = *failed {
                    // The round begins anew once the batch is well; where nobody holds it, the leg is detached.
                    if let Round::Collect { read, .. } = std::mem::take(&mut self.round) {
                        core.read_closed(read);
                    }
                    core.read_failed(Notice::JournalUnreadable(bad));
                    core.tell(Signal::Unreadable(bad));
                } else {
                    self.round_write(core);
                }
            }
            Some(LegStep::Write { bytes }) => {
                core.stats.bytes_applied += bytes;
                let Round::Write(writing) = &mut self.round else { return };
                writing.under_way -= 1;
                writing.bytes -= bytes;
                if let Err(fault) = result
                    && honest!(true, FailedHomeBelieved => false)
                {
                    writing.failed = Some(fault);
                    writing.waiting.clear();
                }
                self.write_on(core);
            }
        }
    }

    fn round_flushed(&mut self, core: &mut Core, result: Result<Bytes, IoFault>) {
        let Round::Flush { to } = self.round else { return };
        match result {
            Err(fault) => self.detach(core, Notice::HomeFailed(fault)),
            Ok(_) => {
                self.round = Round::Idle;
                let barrier = core.set_applied(to);
                self.counted.push_back((barrier, to));
            }
        }
    }

    /// Detaches the leg: nothing is applied any more and the journal keeps what is not. Reads of what the journal holds go
    /// on. When the cache is full hosts wait, as for a mirror that is away.
    pub(crate) fn detach(&mut self, core: &mut Core, notice: Notice) {
        let reason = match &notice {
            Notice::HomeFailed(fault) => fault.to_string(),
            Notice::JournalUnreadable(seq) => format!("the journal cannot be read at record {seq}"),
            _ => String::new(),
        };
        if let Round::Collect { read, .. } = self.round {
            core.read_closed(read);
        }
        self.round = Round::Detached { reason };
        core.fx.notice(notice);
        core.tell(Signal::LegDetached);
    }

    /// `applied` is durable: reads go to home and the journal may be trimmed.
    fn round_applied(&mut self, core: &mut Core, seq: Seq) {
        let before = core.applied_stored(seq);
        core.journal.forget_applied(before, seq);
        core.tell(Signal::Applied(seq));
    }

    /// Hands waiting writes to the disk, as many as it may have now; flushes behind the last.
    fn write_on(&mut self, core: &mut Core) {
        let busy = self.is_fed(core) && core.fill.fraction() <= 0.5;
        let (writes_max, bytes_max) = match busy {
            true => (BUSY_WRITES_MAX, BUSY_BYTES_MAX),
            false => (QUIET_WRITES_MAX, QUIET_BYTES_MAX),
        };
        loop {
            let Round::Write(writing) = &mut self.round else { return };
            let room = writing.under_way == 0 || writing.under_way < writes_max && writing.bytes < bytes_max;
            let Some((extent, bufs)) = writing.pop_if(room) else { break };
            let bytes = extent.sectors.bytes().get();
            writing.under_way += 1;
            writing.bytes += bytes;
            let token = core.fx.ask(Part::Leg(LegId::FIRST), |token| match bufs.is_empty() {
                true => Effect::ZeroHome { token, leg: LegId::FIRST, extent },
                false => Effect::WriteHome { token, leg: LegId::FIRST, extent, bufs },
            });
            self.open.insert(token, LegStep::Write { bytes });
        }
        let Round::Write(writing) = &mut self.round else { return };
        if writing.under_way > 0 {
            return;
        }
        let (to, volumes) = (writing.to, std::mem::take(&mut writing.volumes));
        match writing.failed {
            Some(fault) => self.detach(core, Notice::HomeFailed(fault)),
            None => self.round_flush(core, to, volumes),
        }
    }

    /// The journal takes records.
    pub(crate) fn fed(&mut self, now: Mono) {
        self.fed_at = now;
    }

    /// The feed is busy.
    fn is_fed(&self, core: &Core) -> bool {
        core.now.mono.millis_since(self.fed_at) < QUIET_MILLIS
    }

    fn round_write(&mut self, core: &mut Core) {
        let Round::Collect { to, batches, read, .. } = std::mem::take(&mut self.round) else { return };
        core.read_closed(read);
        let batches: Vec<Arc<Batch>> = batches.into_iter().flatten().collect();
        let mut newest = Index::default();
        for batch in &batches {
            for (record, _) in batch.records() {
                if record.descriptor.kind.changes_content() && core.meta.volume(record.descriptor.volume).is_some() {
                    newest.insert(record.descriptor.extent(), record.seq);
                }
            }
        }
        let mut volumes = BTreeMap::new();
        let mut joined: Option<(Extent, Vec<Bytes>)> = None;
        let mut writes: Vec<HomeWrite> = Vec::new();
        for (extent, seq) in newest.iter() {
            volumes.insert(extent.volume, ());
            let at = batches.partition_point(|b| b.last_seq() < seq);
            let (record, payload) = batches[at].record(seq).expect("an indexed record is in its batch");
            if record.descriptor.kind == RecordKind::Zero {
                writes.extend(joined.take());
                honest!(writes.push((extent, Vec::new())), ZeroSkipped => ());
                continue;
            }
            let skip = ((extent.sector.get() - record.descriptor.sector.get()) * 512) as usize;
            let bytes = payload.slice(skip..skip + extent.sectors.bytes().get() as usize);
            match &mut joined {
                Some((whole, bufs))
                    if whole.volume == extent.volume
                        && whole.end() == extent.sector
                        && (whole.sectors.get() + extent.sectors.get()) * 512 <= HOME_WRITE_MAX
                        && bufs.len() < HOME_PIECES_MAX =>
                {
                    whole.sectors = SectorCount::from_raw(whole.sectors.get() + extent.sectors.get());
                    bufs.push(bytes);
                }
                _ => {
                    writes.extend(joined.take());
                    joined = Some((extent, vec![bytes]));
                }
            }
        }
        writes.extend(joined);
        let (volumes, waiting) = (volumes.into_keys().collect(), writes.into());
        self.round = Round::Write(Writing { to, volumes, waiting, under_way: 0, bytes: 0, failed: None });
        self.write_on(core);
    }

    fn round_flush(&mut self, core: &mut Core, to: Seq, volumes: Vec<VolumeSlot>) {
        self.round = Round::Flush { to };
        if honest!(volumes.is_empty(), HomeNotFlushed => true) {
            return self.round_flushed(core, Ok(Bytes::new()));
        }
        let token =
            core.fx.ask(Part::Leg(LegId::FIRST), |token| Effect::FlushHome { token, leg: LegId::FIRST, volumes });
        self.open.insert(token, LegStep::Flush);
    }
}
