//! A simulated box: its disks, its process (the real group), and what starting it means.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use reprise_engine::{
    Branch, CacheFill, Effect, Group, GroupConfig, GroupMeta, IoFault, MOMENT_RECORDS_MAX, MetaError, Opening,
    OpeningError, PeerMeta, RoleMeta, Token, VolumeMeta,
};
use reprise_format::FormatError;
use reprise_format::superblock::{self, SuperblockKind, copies_of, group_copies};
use reprise_journal::{
    CacheRead, Case, Grant, JournalConfig, RecoverError, newest_generation, scan_segments, segment_offset,
};
use reprise_types::{
    BlockFormat, BoxId, BranchId, ByteLen, Extent, GroupId, Mono, Now, Point, PoolId, SectorCount, Seq, VolumeId,
    VolumeSlot, WallMicros,
};

use crate::disk::DiskError;
use crate::model::chain_start;
use crate::pair::history::VOLUME_SECTORS;
use crate::pair::plan::Hanging;
use crate::{Fault, Power, Rng, SimDisk};

/// Bytes of a segment: the smallest.
pub const SEGMENT_LEN: u64 = 1 << 20;
/// Segments that are kept back, as the node keeps them.
const RESERVE: u32 = 2;
/// The group both boxes hold.
pub const GROUP: GroupId = GroupId::from_raw([3; 16]);
const BRANCH: BranchId = BranchId::from_raw([4; 16]);
const EIO: i32 = 5;

/// Why a box does not open its group.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No superblock that can be taken.
    #[error("superblock")]
    Superblock(#[source] FormatError),
    /// Its fields are wrong.
    #[error("superblock")]
    Meta(#[source] MetaError),
    /// Segment headers cannot be read.
    #[error("segment headers")]
    Segments(#[source] std::io::Error),
    /// Recovery stops.
    #[error("{0}")]
    Recover(#[source] RecoverError),
}

impl OpenError {
    /// True where the disk did not answer, so that another try may.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Segments(_) => true,
            Self::Recover(e) => e.case == Case::ReadFailed,
            Self::Superblock(e) => matches!(e, FormatError::Unreadable { .. }),
            Self::Meta(_) => false,
        }
    }
}

/// A clock: how it runs against the world's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    mono_base: u64,
    wall_base: i64,
    since: u64,
    /// Per mille too fast.
    pub drift: i64,
}

impl Clock {
    fn new(rng: &mut Rng) -> Self {
        Self { mono_base: rng.below(1 << 40), wall_base: 1_700_000_000_000_000, since: 0, drift: 0 }
    }

    fn passed(&self, t: u64) -> u64 {
        let passed = (t - self.since) as i64;
        (passed + passed / 1000 * self.drift).max(0) as u64
    }

    /// What the box reads at world time `t`.
    pub fn now(&self, t: u64) -> Now {
        let passed = self.passed(t);
        let wall = (self.wall_base + (passed / 1000) as i64).max(0) as u64;
        Now { mono: Mono::from_nanos(self.mono_base + passed), wall: WallMicros::from_raw(wall) }
    }

    /// From here on the clock runs so many per mille fast or slow.
    pub fn set_drift(&mut self, t: u64, drift: i64) {
        let now = self.now(t);
        (self.mono_base, self.wall_base) = (now.mono.nanos(), now.wall.get() as i64);
        (self.since, self.drift) = (t, drift);
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, seconds: i64) {
        self.wall_base += seconds * 1_000_000;
    }

    /// Another boot: the monotonic clock begins somewhere else.
    fn restart(&mut self, t: u64, rng: &mut Rng) {
        self.set_drift(t, self.drift);
        self.mono_base = rng.below(1 << 40);
    }

    /// World time until the box's clock reads `mono`.
    pub fn until(&self, t: u64, mono: Mono) -> u64 {
        let left = mono.nanos().saturating_sub(self.now(t).mono.nanos());
        left + left / 16
    }
}

/// What is on a box's disks.
#[derive(Debug, Clone)]
pub struct Disks {
    /// The cache.
    pub cache: SimDisk,
    /// The homes.
    pub homes: Vec<SimDisk>,
}

/// A running group.
pub struct Process {
    /// The real thing.
    pub group: Group,
    /// Disk operations under way, by number.
    pub pending: BTreeMap<u64, (Token, Effect)>,
    free: BTreeSet<u32>,
    generation: u64,
    /// World time of the tick that is to come.
    pub tick_at: u64,
}

/// A sector that a cut leaves old or new.
#[derive(Debug, Clone)]
pub struct Undecided {
    /// 0 for the cache, then the homes.
    pub disk: usize,
    /// Which.
    pub sector: usize,
    /// What is durable.
    pub old: [u8; 512],
    /// What was written since, or is being written.
    pub new: [u8; 512],
}

/// What an operation writes: disk (0 the cache, then the homes), offset, bytes.
fn pieces(effect: &Effect) -> Vec<(usize, u64, Vec<Bytes>)> {
    match effect {
        Effect::WriteCache { at, bufs, .. } => vec![(0, *at, bufs.clone())],
        Effect::WriteSuperblock { version, copy, .. } => {
            copies_of(*version).map(|i| (0, group_copies(0)[i], vec![copy.clone()])).into()
        }
        Effect::WriteHome { extent, bufs, .. } => {
            let (v, at, _) = home_place(extent);
            vec![(v + 1, at, bufs.clone())]
        }
        Effect::ZeroHome { extent, .. } => {
            let (v, at, len) = home_place(extent);
            vec![(v + 1, at, vec![Bytes::from(vec![0; len])])]
        }
        _ => Vec::new(),
    }
}

/// A box.
pub struct SimBox {
    /// Its identity.
    pub id: BoxId,
    /// Its number: 0 the source, 1 the mirror.
    pub n: usize,
    /// Its disks.
    pub disks: Disks,
    /// Its clocks.
    pub clock: Clock,
    /// The group, while it runs.
    pub process: Option<Process>,
    /// Counts processes: what belongs to an older one is nobody's.
    pub life: u64,
    /// Segments of the cache.
    pub segments: u32,
    /// Latencies are multiplied by this.
    pub slow: u64,
    /// Latencies of what is written to its homes are multiplied by this at least.
    pub slow_home: u64,
    /// The next such operations take so long.
    pub hanging: Vec<(Hanging, u64)>,
    /// What it last wanted to be known as trimmed.
    pub trimmed: Seq,
    /// What the next read of the journal reads is rotten.
    pub rot_read: bool,
    /// A cut has taken what its cache's disk had lied about, and nobody has looked since.
    pub lost: bool,
    /// No group is on its disk: it was replaced by an empty box.
    pub empty: bool,
    /// Sectors of the volumes of a group that is made here.
    pub sectors: [u64; 2],
    /// Sectors that its homes have room for.
    pub room: [u64; 2],
    /// What a recovery chose and could not seal yet: the next one must choose the same.
    chosen: Option<Point>,
    ram_tail: u64,
    round_bytes: u64,
    dsync: bool,
    starts: u64,
}

fn volume(slot: u16, sectors: u64) -> VolumeMeta {
    VolumeMeta {
        slot: VolumeSlot::from_raw(slot),
        id: VolumeId::from_raw([slot as u8 + 1; 16]),
        sectors: SectorCount::from_raw(sectors),
        name: format!("v{slot}"),
        lun: slot,
        legs: vec![],
        local_only: false,
        thin: false,
        block_size: BlockFormat::default(),
        read_only: false,
        unit: None,
    }
}

fn nonce(rng: &mut Rng) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    out[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    out
}

/// The first instance a box shows a peer.
pub fn first_instance(rng: &mut Rng) -> reprise_format::link::Instance {
    reprise_link::instance::first(nonce(rng))
}

fn first_meta(n: usize, peer: BoxId, sectors: [u64; 2], rng: &mut Rng) -> GroupMeta {
    let source = n == 0;
    let base =
        if source { Point { branch: BRANCH, seq: Seq::ZERO, hash: chain_start(GROUP) } } else { Point::default() };
    let peer = PeerMeta { peer, durable: None, copy: None, paused: false, instance: first_instance(rng), seen: None };
    GroupMeta {
        group: GROUP,
        name: "g".into(),
        role: if source { RoleMeta::Source } else { RoleMeta::NEW_MIRROR },
        branches: if source { vec![Branch { id: BRANCH, fork: None, ceded: false }] } else { vec![] },
        trimmed: base,
        applied: Seq::ZERO,
        applying: Seq::ZERO,
        seal: base,
        incarnation: 1,
        volumes: vec![volume(0, sectors[0]), volume(1, sectors[1])],
        peers: if source { vec![] } else { vec![peer] },
        fenced: None,
        next_slot: 2,
        // As where a pool has given segments out before the group was made, and nothing was written to them.
        generation_floor: 3,
    }
}

fn io(error: DiskError) -> IoFault {
    match error {
        DiskError::Io | DiskError::PowerCut => IoFault::Disk(EIO),
    }
}

fn home_place(e: &Extent) -> (usize, u64, usize) {
    (usize::from(e.volume.get()), e.sector.get() * 512, e.sectors.get() as usize * 512)
}

impl SimBox {
    /// A box with empty disks and a group that has just been made.
    pub fn new(n: usize, plan: &super::plan::Plan, rng: &mut Rng) -> Self {
        let segments = plan.segments[n];
        let disk = |len: u64| SimDisk::new(len as usize, Power::default());
        let disks = Disks {
            cache: disk(segment_offset(segments, SEGMENT_LEN)),
            homes: VOLUME_SECTORS.iter().map(|s| disk(s * 512)).collect(),
        };
        let mut new = Self {
            id: BoxId::from_raw([n as u8 + 1; 16]),
            n,
            disks,
            clock: Clock::new(rng),
            process: None,
            life: 0,
            segments,
            slow: 1,
            slow_home: 1,
            hanging: Vec::new(),
            trimmed: Seq::ZERO,
            rot_read: false,
            lost: false,
            empty: false,
            sectors: plan.first_sectors(),
            room: VOLUME_SECTORS,
            chosen: None,
            ram_tail: plan.ram_tail,
            round_bytes: plan.round_bytes,
            dsync: plan.dsync,
            starts: 0,
        };
        new.format(rng);
        new
    }

    /// The pool of its cache.
    pub(super) fn pool(&self) -> PoolId {
        PoolId::from_raw([self.n as u8 + 9; 16])
    }

    /// Empty disks and a fresh group on them.
    pub fn format(&mut self, rng: &mut Rng) {
        (self.rot_read, self.lost) = (false, false);
        let disk = |old: &SimDisk| SimDisk::new(old.bytes().len(), Power::default());
        self.disks = Disks { cache: disk(&self.disks.cache), homes: self.disks.homes.iter().map(disk).collect() };
        let peer = BoxId::from_raw([2 - self.n as u8; 16]);
        let body = first_meta(self.n, peer, self.sectors, rng).to_body();
        for version in [1, 2] {
            // Two volumes and a name fit.
            let copy = superblock::encode(SuperblockKind::Group, version, &body).map(|c| c.freeze());
            let copy = copy.unwrap_or_default();
            for i in copies_of(version) {
                self.disks.cache.write_part(group_copies(0)[i], std::slice::from_ref(&copy), |_| true);
            }
        }
        let _ = self.disks.cache.sync();
        self.empty = false;
        self.chosen = None;
    }

    /// Recovers and starts the group, as the node does.
    ///
    /// # Errors
    /// The disks do not hold a group that may be served.
    pub fn open(&mut self, t: u64, rng: &mut Rng) -> Result<Point, OpenError> {
        let pool = self.pool();
        let cache = &mut self.disks.cache;
        // A sync that fails here is seen by what follows.
        let _ = cache.sync();
        for home in &mut self.disks.homes {
            let _ = home.sync();
        }
        let copies: Vec<_> =
            group_copies(0).iter().map(|at| cache.read(*at, superblock::SUPERBLOCK_COPY_LEN).ok()).collect();
        let opening = Opening::of_copies(&copies).map_err(|error| match error {
            OpeningError::Superblock(error) => OpenError::Superblock(error),
            OpeningError::Meta(error) => OpenError::Meta(error),
        })?;
        let segments = scan_segments(cache, pool, self.segments, SEGMENT_LEN).map_err(OpenError::Segments)?;
        let generation = newest_generation(&segments, [opening.meta().generation_floor]);
        let mut opened = opening.recover(cache, pool, SEGMENT_LEN, &segments).map_err(OpenError::Recover)?;
        let free = (0..self.segments).filter(|s| !opened.held.contains(s)).collect();
        self.starts += 1;
        self.life += 1;
        self.clock.restart(t, rng);
        if opened.meta.peer().is_some() {
            opened.draw_instance(nonce(rng));
        }
        let config = GroupConfig {
            this_box: self.id,
            journal: JournalConfig {
                pool,
                group: opened.meta.group,
                segment_len: SEGMENT_LEN,
                ram_tail_max: ByteLen::from_raw(self.ram_tail),
            },
            link_window: 32 << 20,
            round_bytes: self.round_bytes,
            moment_records: MOMENT_RECORDS_MAX,
        };
        let end = opened.start.end();
        let group = opened.open(self.clock.now(t), config);
        self.process = Some(Process { group, pending: BTreeMap::new(), free, generation, tick_at: u64::MAX });
        self.say_room(t);
        Ok(end)
    }

    /// Tells the group what its homes have room for.
    pub fn say_room(&mut self, t: u64) {
        let now = self.clock.now(t);
        let Some(p) = &mut self.process else { return };
        for (slot, sectors) in (0u16..).zip(self.room) {
            p.group.set_home_size(now, VolumeSlot::from_raw(slot), SectorCount::from_raw(sectors));
        }
    }

    /// Sectors of the volumes as the group knows them.
    pub fn volume_sectors(&self) -> Option<[u64; 2]> {
        let meta = self.group()?.meta();
        let of = |slot| meta.volume(VolumeSlot::from_raw(slot)).map_or(0, |v| v.sectors.get());
        Some([of(0), of(1)])
    }

    /// What the last recovery chose, where it could not be sealed; remembers the choice of this one.
    pub fn choose(&mut self, end: Point) -> Option<Point> {
        self.chosen.replace(end).filter(|before| *before != end)
    }

    /// The choice is sealed.
    pub fn sealed(&mut self) {
        self.chosen = None;
    }

    /// The disks changed under the choice.
    pub fn forget_choice(&mut self) {
        self.chosen = None;
    }

    /// The running group.
    pub fn group(&self) -> Option<&Group> {
        self.process.as_ref().map(|p| &p.group)
    }

    /// True where the group runs and its seal is durable.
    pub fn is_ready(&self) -> bool {
        self.group().is_some_and(Group::is_ready)
    }

    /// A segment for the group, as the node's allocator gives it.
    pub fn grant(&mut self) -> Option<Grant> {
        let p = self.process.as_mut().filter(|p| p.free.len() > RESERVE as usize)?;
        p.generation += 1;
        Some(Grant { segment: p.free.pop_first()?, generation: p.generation })
    }

    /// Takes segments back.
    pub fn give_back(&mut self, segments: &[u32]) {
        if let Some(p) = &mut self.process {
            p.free.extend(segments);
        }
    }

    /// How full the cache is.
    pub fn fill(&self) -> CacheFill {
        let free = self.process.as_ref().map_or(0, |p| p.free.len() as u32);
        CacheFill { total: self.segments, used: self.segments - free, reserve: RESERVE }
    }

    /// Sectors that a cut now would leave old or new, each by itself: disk (0 the cache, then the homes), sector, old
    /// and new content. Sectors that are the same either way are left out.
    pub fn undecided(&self) -> Vec<Undecided> {
        let mut found: BTreeMap<(usize, usize), ([u8; 512], [u8; 512])> = BTreeMap::new();
        let disks = || std::iter::once(&self.disks.cache).chain(&self.disks.homes).enumerate();
        for (d, disk) in disks() {
            found.extend(disk.undecided().map(|(sector, old)| ((d, sector), (*old, disk.get(sector)))));
        }
        for (_, effect) in self.process.iter().flat_map(|p| p.pending.values()) {
            for (d, at, bufs) in pieces(effect) {
                let bytes = bufs.concat();
                for (i, new) in bytes.chunks_exact(512).enumerate() {
                    let sector = at as usize / 512 + i;
                    let disk = disks().nth(d).map(|(_, disk)| disk.get(sector)).unwrap_or([0; 512]);
                    let slot = found.entry((d, sector)).or_insert((disk, disk));
                    slot.1.copy_from_slice(new);
                }
            }
        }
        let entry = |((disk, sector), (old, new))| Undecided { disk, sector, old, new };
        found.into_iter().map(entry).filter(|u: &Undecided| u.old != u.new).collect()
    }

    /// Opens the group as it would be after a cut, gives it to `look`, and puts everything back.
    pub fn imagine<R>(
        &mut self,
        t: u64,
        rng: &mut Rng,
        look: impl FnOnce(&mut Self, Result<Point, OpenError>) -> R,
    ) -> R {
        let saved = (self.process.take(), self.life, self.clock, self.starts, self.chosen);
        let mut durable: Vec<BTreeMap<usize, [u8; 512]>> = vec![BTreeMap::new(); 1 + self.disks.homes.len()];
        let swap = |disks: &mut Disks, durable: &mut Vec<BTreeMap<usize, [u8; 512]>>| {
            let all = std::iter::once(&mut disks.cache).chain(&mut disks.homes);
            all.zip(durable).for_each(|(disk, kept)| disk.swap_undecided(kept));
        };
        swap(&mut self.disks, &mut durable);
        let end = self.open(t, rng);
        let result = look(self, end);
        swap(&mut self.disks, &mut durable);
        (self.process, self.life, self.clock, self.starts, self.chosen) = saved;
        result
    }

    /// Puts a sector of one of the disks.
    pub fn set_sector(&mut self, disk: usize, sector: usize, bytes: &[u8; 512]) {
        let Disks { cache, homes } = &mut self.disks;
        if disk == 0 { cache.set(sector, bytes) } else { homes[disk - 1].set(sector, bytes) }
    }

    /// A sector of one of the disks.
    pub fn get_sector(&self, disk: usize, sector: usize) -> [u8; 512] {
        if disk == 0 { self.disks.cache.get(sector) } else { self.disks.homes[disk - 1].get(sector) }
    }

    /// Carries a disk operation out.
    pub fn carry_out(&mut self, effect: &Effect) -> Result<Bytes, IoFault> {
        let dsync = self.dsync;
        let Disks { cache, homes } = &mut self.disks;
        let mut durably = |at: u64, bufs: &[Bytes]| {
            cache.write(at, bufs)?;
            if dsync { cache.sync_range(at, bufs.iter().map(Bytes::len).sum()) } else { cache.sync() }
        };
        let none = |()| Bytes::new();
        match effect {
            Effect::WriteCache { at, bufs, .. } => durably(*at, bufs).map(none).map_err(io),
            Effect::WriteSuperblock { version, copy, .. } => {
                let mut each = |i: &usize| durably(group_copies(0)[*i], std::slice::from_ref(copy));
                copies_of(*version).iter().try_for_each(&mut each).map(none).map_err(io)
            }
            Effect::ReadCache { at, len, .. } if std::mem::take(&mut self.rot_read) => {
                cache.rot(*at + *len as u64 / 2, 0x10);
                cache.read(*at, *len).map(Bytes::from).map_err(|_| IoFault::Disk(EIO))
            }
            Effect::ReadCache { at, len, .. } => cache.read(*at, *len).map(Bytes::from).map_err(|_| IoFault::Disk(EIO)),
            Effect::ReadHome { extent, .. } => {
                let (v, at, len) = home_place(extent);
                homes[v].read(at, len).map(Bytes::from).map_err(|_| IoFault::Disk(EIO))
            }
            Effect::WriteHome { extent, bufs, .. } => {
                let (v, at, _) = home_place(extent);
                homes[v].write(at, bufs).map(none).map_err(io)
            }
            Effect::ZeroHome { extent, .. } => {
                let (v, at, len) = home_place(extent);
                homes[v].zero(at, len).map(none).map_err(io)
            }
            Effect::FlushHome { volumes, .. } => {
                volumes.iter().try_for_each(|v| homes[usize::from(v.get())].sync()).map(none).map_err(io)
            }
            _ => Ok(Bytes::new()),
        }
    }

    /// The process ends. With `power` the disks lose what they had not made durable: `calm` in 256 of it stays.
    pub fn stop(&mut self, power: bool, rng: &mut Rng) {
        self.life += 1;
        let calm = [0, 64, 128, 240, 255][rng.below(5) as usize];
        let pending = self.process.take().map(|p| p.pending).unwrap_or_default();
        for (_, effect) in pending.into_values() {
            self.half_done(&effect, power, rng);
        }
        if power {
            self.disks.cache.power_cut(rng, calm);
            self.disks.homes.iter_mut().for_each(|h| h.power_cut(rng, calm));
        }
    }

    /// An operation that was under way: it did not happen, or it did, or some of its sectors did.
    fn half_done(&mut self, effect: &Effect, power: bool, rng: &mut Rng) {
        let share = match rng.below(4) {
            0 => 0,
            1 => 256,
            _ if power => rng.below(256),
            _ => 256,
        };
        for (disk, at, bufs) in pieces(effect) {
            let disk = if disk == 0 { &mut self.disks.cache } else { &mut self.disks.homes[disk - 1] };
            disk.write_part(at, &bufs, |_| rng.below(256) < share);
        }
    }

    /// Sets a fault on one of the disks.
    pub fn inject(&mut self, home: Option<usize>, fault: Fault) {
        match home {
            None => self.disks.cache.inject(fault),
            Some(v) => self.disks.homes[v].inject(fault),
        }
    }

    /// Flips a bit of a byte of the journal that was written, found from `place` on.
    pub fn rot(&mut self, place: u64) {
        let from = segment_offset(0, SEGMENT_LEN) as usize;
        let bytes = &self.disks.cache.bytes()[from..];
        let start = place as usize % bytes.len();
        let at = (0..bytes.len()).map(|i| (start + i) % bytes.len()).find(|i| bytes[*i] != 0);
        if let Some(at) = at {
            self.disks.cache.rot((from + at) as u64, 1 << (place >> 60 & 7));
        }
    }

    /// Destroys one copy of the superblock.
    pub fn destroy_copy(&mut self, which: u64) {
        let at = group_copies(0)[(which % 4) as usize];
        let garbage = Bytes::from(vec![which as u8 | 1; superblock::SUPERBLOCK_COPY_LEN]);
        self.disks.cache.write_part(at, &[garbage], |i| which >> (i % 32) & 1 == 0);
        let _ = self.disks.cache.sync();
    }

    /// Faults that have not struck are taken back.
    pub fn heal(&mut self) {
        self.disks.cache.heal();
        self.disks.homes.iter_mut().for_each(SimDisk::heal);
        (self.slow, self.slow_home) = (1, 1);
        self.hanging.clear();
        self.rot_read = false;
    }
}
