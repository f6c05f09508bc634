//! Verify: source and mirror compared at one moment, while both go on.
//!
//! The source picks its durable position and asks the mirror to hold the same one; the request overtakes every record
//! behind it, so the mirror's home cannot have passed it. While the moment is held no round is applied on either box and the
//! journals keep what the moment is read from: home overlaid with the records up to it. Each box hashes its own view;
//! only hashes travel. Where a region differs, it is asked for again sector by sector, and with
//! [`VerifyPlan::repair`] the source's content is sent: the source is what the mirror follows.
//!
//! The view of a moment is an index of the records that home lacks. Hosts are served meanwhile, so it is put together a step of
//! [`STEP_RECORDS`] at a time, and where more than [`MOMENT_RECORDS_MAX`] wait for home there is no comparison before it has caught up.
//!
//! What bounds it: [`REGIONS_MAX`] regions in memory, [`VerifyPlan::bytes_per_sec`], and the cache. When that fills beyond
//! [`FILL_MAX`] on either box, the comparison ends without a result rather than slow a host down.

mod receiver;
mod sender;

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_format::link::{Message, VerifyClose, VerifyOpen, VerifyReady};
use reprise_journal::Index;
use reprise_types::{Extent, Mono, Now, Point, Role, Sector, SectorCount, Seq, VolumeSlot};

use crate::core::{BelowApplying, Core, Open, PinId, Reader, RegionRead, Why};
use crate::io::{LinkInput, PeerId};
use crate::meta::GroupMeta;

/// Sectors of a region: hashing one takes some 0.1 ms of the group's thread, which is as long as a host may wait for it.
const REGION_SECTORS: u64 = 512;
/// Regions under way: 2 MiB on each box, enough for a disk's queue and a long line at the usual rate.
const REGIONS_MAX: usize = 8;
/// Hashes kept behind a region that takes longer than those after it.
const HASHES_MAX: usize = 1024;
/// Asks of a peer that are answered at a time; ours are fewer.
const ASKS_MAX: usize = 16;
/// Fill of the cache at which a comparison ends.
const FILL_MAX: f64 = 0.75;
/// Records that a moment is put together from, at most: some 170 MB of index beside the journal's own. Where more wait for a
/// home there is no comparison.
pub const MOMENT_RECORDS_MAX: u64 = 4 << 20;
/// Records that are added to a moment in one step, some 2 ms, and the pause between two.
const STEP_RECORDS: u64 = 8 << 10;
const STEP_MILLIS: u64 = 5;
/// Why a source does not begin, and what its mirror says.
const SOURCE_BEHIND: &str = "too many writes wait for the home of the source; compare again when it has caught up";
const MIRROR_BEHIND: &str = "too many writes wait for the home of the mirror; compare again when it has caught up";
/// Extents that a report names; their sectors are counted all.
const EXTENTS_MAX: usize = 256;
/// Bytes of a hash.
const HASH_LEN: usize = 16;

/// What to compare and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyPlan {
    /// Bytes of volumes read in a second on each box, at most.
    pub bytes_per_sec: u64,
    /// Send what differs.
    pub repair: bool,
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyEnd {
    /// Everything was compared.
    Compared,
    /// Somebody ended it.
    Cancelled,
    /// It could not go on.
    Stopped {
        /// Why.
        reason: &'static str,
    },
}

/// Where a comparison stands, or how it ended. Sectors have 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Counts the comparisons since the group was opened.
    pub id: u64,
    /// The moment.
    pub at: Point,
    /// Sectors compared.
    pub done: u64,
    /// Sectors of all volumes.
    pub total: u64,
    /// Sectors that differed.
    pub differing: u64,
    /// Sectors that differed and are equal since they were sent.
    pub repaired: u64,
    /// Sectors that one of the two could not read.
    pub unreadable: u64,
    /// The first extents that differed, in the order in which they were found.
    pub extents: Vec<Extent>,
    /// BLAKE3 over the 16-byte hashes of all regions of 256 KiB, by slot and sector; only where all was compared and is equal.
    pub digest: Option<[u8; 32]>,
    /// None while it is at work.
    pub end: Option<VerifyEnd>,
}

impl VerifyEnd {
    /// Its connection is gone.
    pub(crate) const LINK_BROKE: Self = Self::Stopped { reason: "the link broke" };
}

impl VerifyReport {
    /// True where both images were compared whole and are equal.
    pub fn is_equal(&self) -> bool {
        self.end == Some(VerifyEnd::Compared) && self.differing == self.repaired && self.unreadable == 0
    }
}

/// What an answer is to.
#[derive(Debug)]
enum VerifyStep {
    /// A piece of a fix was written.
    Write,
    /// Its home was flushed.
    Flush,
}

/// A moment that is held.
#[derive(Debug)]
struct View {
    /// Where home was.
    base: Seq,
    /// The moment.
    at: Seq,
    /// Records up to here are in the index.
    filled: Seq,
    /// When the next step is due.
    step_at: Mono,
    index: Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// One hash is compared.
    Whole,
    /// A hash for each sector is compared.
    Sectors,
    /// Runs of sectors are sent, one at a time.
    Fixing,
    /// One hash again.
    Again,
}

#[derive(Debug)]
struct Region {
    sectors: SectorCount,
    phase: Phase,
    /// The number of our own read of it.
    read: u64,
    data: Option<Vec<u8>>,
    theirs: Option<Bytes>,
    /// Runs that differ: first sector in the region, and length.
    runs: Vec<(u64, u64)>,
    /// Runs sent.
    sent: usize,
}

/// The sender's side.
#[derive(Debug)]
struct Run {
    plan: VerifyPlan,
    ready: bool,
    regions: BTreeMap<(VolumeSlot, u64), Region>,
    /// Next region to begin: volumes by slot.
    next: Option<(VolumeSlot, u64)>,
    /// Bytes that may be read; below zero where a region was lent, which is paid off before the next one.
    budget: i64,
    refilled: Mono,
    digest: blake3::Hasher,
    digested: Option<(VolumeSlot, u64)>,
    hashes: BTreeMap<(VolumeSlot, u64), [u8; HASH_LEN]>,
}

/// The receiver's side.
#[derive(Debug)]
struct Held {
    id: u64,
    at: Point,
    /// The source knows that the moment can be read.
    told: bool,
    /// Reads under way that answers wait for, by number, and sectors per hash of each.
    asks: BTreeMap<u64, SectorCount>,
    fix: Option<Fix>,
}

#[derive(Debug)]
struct Fix {
    slot: VolumeSlot,
    sector: Sector,
    written: u64,
    missing: usize,
    failed: bool,
}

/// Comparisons of a group: one at a time.
#[derive(Debug, Default)]
pub(crate) struct Verify {
    /// No home passes the moment, from the beginning on either side to the end.
    pin: Option<PinId>,
    view: Option<View>,
    run: Option<Run>,
    held: Option<Held>,
    report: Option<VerifyReport>,
    next_id: u64,
    /// Counts the reads.
    reads: u64,
    open: Open<VerifyStep>,
    empty: Index,
}

impl Verify {
    /// Where home was when the moment was taken: it is read with the records since.
    pub(crate) fn needs_after(&self) -> Option<Seq> {
        self.view.as_ref().map(|v| v.base)
    }

    /// When the next step of a moment that is being put together is due.
    pub(crate) fn step_at(&self) -> Option<Mono> {
        self.view.as_ref().filter(|v| v.filled < v.at).map(|v| v.step_at)
    }

    /// The comparison at work, or the last one.
    pub(crate) fn report(&self) -> Option<&VerifyReport> {
        self.report.as_ref()
    }

    /// Begins to compare this source with its mirror, to which data flows; gives the number that its report carries.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn begin(&mut self, core: &mut Core, now: Now, plan: VerifyPlan) -> Result<u64, &'static str> {
        if self.run.is_some() {
            return Err("a comparison is at work already");
        }
        let at = core.journal.durable();
        if records_behind(core, at.seq) > core.config.moment_records {
            return Err(SOURCE_BEHIND);
        }
        let Some(first) = region_after(&core.meta, None) else { return Err("the group has no volume") };
        self.pin(core, at.seq).map_err(|BelowApplying| "the source's home is past the moment")?;
        core.now = now;
        self.next_id += 1;
        let id = self.next_id;
        let total = core.meta.volumes.iter().map(|v| v.sectors.get()).fold(0, u64::saturating_add);
        self.report = Some(VerifyReport {
            id,
            at,
            done: 0,
            total,
            differing: 0,
            repaired: 0,
            unreadable: 0,
            extents: Vec::new(),
            digest: None,
            end: None,
        });
        self.run = Some(Run {
            plan,
            ready: false,
            regions: BTreeMap::new(),
            next: Some(first),
            budget: 0,
            refilled: now.mono,
            digest: blake3::Hasher::new(),
            digested: Some(first),
            hashes: BTreeMap::new(),
        });
        self.hold_moment(core, at);
        send(core, VerifyOpen { id, at });
        Ok(id)
    }

    /// Ends whatever is at work here, on either side, lets home go on, and tells the mirror.
    pub(crate) fn end(&mut self, core: &mut Core, end: VerifyEnd) {
        if let Some(id) = self.stop(core, end) {
            send(core, VerifyClose { id });
        }
    }

    /// The connection has been closed: nobody is left to be told.
    pub(crate) fn disconnected(&mut self, core: &mut Core) {
        self.stop(core, VerifyEnd::LINK_BROKE);
    }

    /// Gives the number of the comparison with a mirror that was at work.
    fn stop(&mut self, core: &mut Core, end: VerifyEnd) -> Option<u64> {
        self.let_go(core);
        let writes = self.open.forget().filter(|(_, step)| matches!(step, VerifyStep::Write));
        core.fx.astray(writes.map(|(token, _)| token));
        self.run.take()?;
        let report = self.report.as_mut()?;
        report.end = Some(end);
        Some(report.id)
    }

    /// Home does not pass the moment.
    fn pin(&mut self, core: &mut Core, at: Seq) -> Result<(), BelowApplying> {
        self.pin = Some(core.pins.hold(at, core.meta.applying, Why::Verify)?);
        Ok(())
    }

    /// Home may pass the moment.
    fn let_go(&mut self, core: &mut Core) {
        (self.view, self.held) = (None, None);
        if let Some(pin) = self.pin.take() {
            core.pins.release(pin);
        }
    }

    /// Takes the messages of a comparison; gives the others back.
    pub(crate) fn input(
        &mut self,
        core: &mut Core,
        streams: bool,
        home_detached: bool,
        input: LinkInput,
    ) -> Option<LinkInput> {
        let LinkInput::Message(message, payload) = input else { return Some(input) };
        let of_sender = matches!(message, Message::VerifyReady(_) | Message::VerifyHashes(_) | Message::VerifyFixed(_));
        let of_receiver = matches!(
            message,
            Message::VerifyOpen(_) | Message::VerifyAsk(_) | Message::VerifyFix(_) | Message::VerifyClose(_)
        );
        match core.meta.role() {
            Role::Source if of_sender && streams => self.answer(core, message),
            Role::Mirror if of_receiver && streams => self.request(core, home_detached, message, payload),
            Role::Source if of_sender => {}
            Role::Mirror if of_receiver => {}
            _ => return Some(LinkInput::Message(message, payload)),
        }
        None
    }

    /// Begins regions as budget and memory allow; ends what the cache has no room for.
    pub(crate) fn pump(&mut self, core: &mut Core) {
        if core.fill.fraction() > FILL_MAX && self.pin.is_some() {
            if let Some(id) = self.held.as_ref().map(|h| h.id) {
                send(core, VerifyReady { id, refused: "the mirror's cache fills".to_owned() });
            }
            return self.end(core, VerifyEnd::Stopped { reason: "the cache fills while the moment is held" });
        }
        self.fill(core);
        self.take_moment(core);
        self.begin_regions(core);
    }

    /// A region was read at the held moment, or could not be.
    pub(crate) fn read(&mut self, core: &mut Core, of: RegionRead, data: Option<Vec<Bytes>>) {
        let data = data.map(|d| joined(&d)).unwrap_or_default();
        if let Some(data) = self.read_for_sender(core, of, data) {
            self.read_by_sender(core, of, data);
        }
    }

    /// The moment can be read.
    fn is_open(&self) -> bool {
        self.view.as_ref().is_some_and(|v| v.filled == v.at)
    }

    fn hold_moment(&mut self, core: &Core, at: Point) {
        let (base, step_at) = (core.applied(), core.now.mono);
        self.view = Some(View { base, at: at.seq, filled: base, step_at, index: Index::default() });
        self.fill(core);
    }

    /// The next step of a moment that is being put together, if it is due.
    fn fill(&mut self, core: &Core) {
        let now = core.now.mono;
        let Some(view) = self.view.as_mut().filter(|v| v.filled < v.at && v.step_at <= now) else { return };
        let to = Seq::from_raw(view.filled.get().saturating_add(STEP_RECORDS)).min(view.at);
        core.journal.extend_index(&mut view.index, view.filled, to);
        (view.filled, view.step_at) = (to, now.plus_millis(STEP_MILLIS));
    }

    fn index(&self) -> &Index {
        self.view.as_ref().map_or(&self.empty, |v| &v.index)
    }

    /// A number for the next read.
    fn next_read(&mut self) -> u64 {
        self.reads += 1;
        self.reads
    }

    /// Begins to read a region at the held moment.
    fn begin_read(&mut self, core: &mut Core, number: u64, extent: Extent) {
        let plan = core.journal.plan_with(self.index(), extent);
        let of = RegionRead { number, volume: extent.volume, sector: extent.sector };
        if let Some(done) = core.read(Reader::Verify(of), plan, extent) {
            self.read(core, of, done.data.ok());
        }
    }
}

/// Records that home lacks of a moment.
fn records_behind(core: &Core, at: Seq) -> u64 {
    at.since(core.applied())
}

fn send(core: &mut Core, message: impl Into<Message>) {
    core.fx.send(PeerId::FIRST, message.into(), Vec::new());
}

/// The region behind `after`, or the first one: volumes by slot.
fn region_after(meta: &GroupMeta, after: Option<(VolumeSlot, u64)>) -> Option<(VolumeSlot, u64)> {
    let mut volumes: Vec<_> = meta.volumes.iter().map(|v| (v.slot, v.sectors.get())).collect();
    volumes.sort_unstable();
    let from = |slot: VolumeSlot| match after {
        Some((at, sector)) if at == slot => Some(sector + REGION_SECTORS),
        Some((at, _)) if at > slot => None,
        _ => Some(0),
    };
    volumes.into_iter().find_map(|(slot, sectors)| from(slot).filter(|at| *at < sectors).map(|at| (slot, at)))
}

fn hash(bytes: &[u8]) -> [u8; HASH_LEN] {
    let mut short = [0; HASH_LEN];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..HASH_LEN]);
    short
}

fn hashes(bytes: &[u8], grain: SectorCount) -> Vec<u8> {
    let grain = usize::try_from(grain.bytes().get()).unwrap_or(usize::MAX).max(512);
    bytes.chunks(grain).flat_map(hash).collect()
}

fn joined(pieces: &[Bytes]) -> Vec<u8> {
    pieces.concat()
}
