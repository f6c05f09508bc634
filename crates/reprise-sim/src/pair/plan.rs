//! What happens in a run: a list of what hosts do and what goes wrong, made from the seed before the run begins.
//!
//! A run is a function of its plan and of the seed that decides latencies. A plan can be thinned: what is left out does
//! not happen, everything else happens at the same time. That is how a failing seed is made small.

use std::collections::BTreeSet;
use std::fmt;

use crate::Rng;
use crate::pair::history::VOLUME_SECTORS;
use crate::pair::scenes;

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SEC: u64 = 1_000 * MS;

/// Bytes of a home round: few, more, and as the product has them.
const ROUND_BYTES: [u64; 3] = [64 << 10, 512 << 10, 16 << 20];
/// One in so many seeds has scenes beside what chance brings.
const SCENES_EVERY: u64 = 5;
/// One in so many seeds has rot in the mirror's homes and bytes of a newer release; a remainder that no kept seed has.
const LATER_EVERY: u64 = 8;
const LATER_AT: u64 = 5;
/// One in so many seeds ends with histories that fork; a remainder that no kept seed has.
const FORK_EVERY: u64 = 16;
const FORK_AT: u64 = 7;
/// As many have a source that forgets in a first copy.
const FORGET_AT: u64 = 11;
/// As many have a first copy to a mirror whose home is slow; they take what shows it: small rounds, room for a backlog of
/// more than 64 of them, and a line that brings it in time.
const SLOW_HOME_AT: u64 = 1;
const SLOW_HOME_SEGMENTS: u32 = 16;
const SLOW_HOME_BANDWIDTH: u64 = 12 << 20;
/// As many have volumes that get more room; a remainder that no kept seed has.
const GROW_EVERY: u64 = 16;
const GROW_AT: u64 = 9;
/// Sectors that such volumes lack at the beginning.
const GROW_SECTORS: u64 = 900;

/// What a host does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostAction {
    /// Writes sectors.
    Write(u16, u64, u64),
    /// Zeroes ranges (first sector, sectors).
    Zero(u16, Vec<(u64, u64)>),
    /// Compares and writes; the flag says whether it names the content it believes to be there.
    Compare(u16, u64, u64, bool),
    /// Reads sectors.
    Read(u16, u64, u64),
    /// Flushes.
    Flush,
    /// Changes what the unit of a volume remembers.
    Unit(u16),
    /// A person gives a volume so many sectors more.
    Resize(u16, u64),
    /// Stops waiting for the oldest answer.
    Abort,
    /// Loses its session: no answer comes, what was asked may happen or not, and is asked again.
    SessionLoss,
}

/// Which operations of a disk fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// A write of the cache, with some of its sectors changed.
    CacheWrite,
    /// A sync of the cache.
    CacheSync,
    /// A read of the cache.
    CacheRead,
    /// A write of a home.
    HomeWrite,
    /// A home that is full (sparse homes).
    HomeFull,
    /// A sync of a home.
    HomeSync,
    /// A read of a home.
    HomeRead,
}

/// How frames are changed above TLS, as a broken memory would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// A bit flips.
    Flip,
    /// Frames come twice.
    Twice,
    /// Frames change places.
    Swap,
    /// The end of a piece is missing.
    Short,
    /// Bytes of nobody come in between.
    Garbage,
}

/// Where bytes of a newer release are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    /// In all copies of the superblock.
    Superblock,
    /// In those that were written last.
    LastSuperblock,
    /// In the header of the segment that was begun last.
    Segment,
    /// In the first batch of that segment.
    Batch,
}

/// Which operations of a disk hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hanging {
    /// A write of the journal.
    CacheWrite,
    /// A write of a batch that had rotten, into its old place.
    Rewrite,
    /// A read of the journal.
    CacheRead,
    /// A write of the superblock.
    Superblock,
    /// A write of the superblock that trims the journal.
    Trim,
    /// A write of a home.
    HomeWrite,
    /// A read of a home.
    HomeRead,
}

/// What goes wrong. `usize` is the box: 0 the source, 1 the mirror. Times are nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Power cut: every unflushed sector and every operation in flight is old or new by itself; off for so long.
    PowerCut(usize, u64),
    /// The process is killed: operations in flight happen or not, what was written stays; off for so long.
    Kill(usize, u64),
    /// Power cuts that come so many disk operations after the start, again and again.
    Nested(usize, Vec<u64>),
    /// Both boxes lose power, and come back after so long each.
    Both(u64, u64),
    /// The cache reports flushes it does not do for so long, then the power is cut.
    Lying(usize, u64),
    /// The nth such operation fails.
    Fails(usize, Failing, u64),
    /// A bit of the journal flips, chosen by this number.
    Rot(usize, u64),
    /// The nth write of the cache is lost.
    Lost(usize, u64),
    /// The nth write of the cache goes so many bytes beside its place.
    Misdirected(usize, u64, i64),
    /// The nth read of the cache gives what stood there before.
    Stale(usize, u64),
    /// One copy of the superblock is destroyed while the box is off.
    SuperblockCopy(usize, u64),
    /// Both boxes' ways to each other are blocked for so long: the cache of the source fills.
    Outage(u64),
    /// Nothing passes one way for so long.
    OneWay(usize, u64),
    /// The connection is cut; the two ends hear of it after so long each, or not at all.
    Cut(Option<u64>, Option<u64>),
    /// Everything one way is late by so much from here on for a while.
    Stall(usize, u64),
    /// Frames sent by this box are changed.
    Frames(usize, FrameFault),
    /// The wall clock of a box jumps by so many seconds.
    Jump(usize, i64),
    /// The clocks of a box run so many per mille fast or slow.
    Drift(usize, i64),
    /// The disk of a box is slow by this factor for so long.
    Slow(usize, u64, u64),
    /// The homes of a box take writes slower by this factor for so long.
    SlowHome(usize, u64, u64),
    /// The next such operation of a box takes so long; others pass it.
    Hang(usize, Hanging, u64),
    /// The power goes so many disk operations from here.
    Soon(usize, u64),
    /// What the next read of the journal reads is rotten.
    RotRead(usize),
    /// The next time data of a first copy begins to flow: these, so long after it.
    Ambush(Vec<(u64, Trouble)>),
    /// Bits of the mirror's homes flip: so many, chosen by this number.
    HomeRot(u64, u64),
    /// A box finds bytes of a newer release on its cache; the release that wrote them is there after so long.
    Newer(usize, Newer, u64),
    /// The mirror comes back with an empty disk.
    Emptied,
    /// A box comes back with the disk it had so long ago.
    Older(usize, u64),
    /// Memory for buffers is short on a box for so long.
    MemoryShort(usize, u64),
    /// A person pauses the link for so long.
    Pause(u64),
    /// The mirror's homes have no room for larger volumes for so long.
    NoRoom(u64),
}

/// The classes of the fault model (`docs/reliability.md`), by the number they have there.
pub const CLASSES: [(u8, &str); 20] = [
    (1, "power cut, unflushed sectors old or new each"),
    (2, "writes reordered or lost at a cut"),
    (3, "flush that lies"),
    (4, "write or sync fails"),
    (5, "read fails, rot in the journal"),
    (6, "rot in a home"),
    (7, "lost, misdirected or stale"),
    (8, "no space: full cache, full home"),
    (9, "superblock torn or lost"),
    (10, "clock jumps and drift"),
    (11, "cut, half-open, stall"),
    (12, "frames flipped, doubled, swapped, cut short"),
    (13, "process killed"),
    (14, "peer replaced by an empty box"),
    (15, "stale peer comes back"),
    (16, "histories fork"),
    (17, "recovery interrupted"),
    (18, "slow disk"),
    (19, "memory short"),
    (20, "bytes of a newer release"),
];

impl Trouble {
    /// The class of the fault model; 0 for what is no fault (a person's command).
    pub fn class(&self) -> u8 {
        match self {
            Self::PowerCut(..) | Self::Both(..) | Self::Soon(..) => 1,
            Self::Lying(..) => 3,
            Self::Fails(_, Failing::CacheRead | Failing::HomeRead, _) | Self::Rot(..) | Self::RotRead(_) => 5,
            Self::Fails(_, Failing::HomeFull, _) | Self::Outage(_) | Self::NoRoom(_) => 8,
            Self::Fails(..) => 4,
            Self::HomeRot(..) => 6,
            Self::Lost(..) | Self::Misdirected(..) | Self::Stale(..) => 7,
            Self::SuperblockCopy(..) => 9,
            Self::Jump(..) | Self::Drift(..) => 10,
            Self::OneWay(..) | Self::Cut(..) | Self::Stall(..) => 11,
            Self::Frames(..) => 12,
            Self::Kill(..) => 13,
            Self::Emptied => 14,
            Self::Older(1, _) => 15,
            Self::Older(..) => 16,
            Self::Nested(..) => 17,
            Self::Slow(..) | Self::SlowHome(..) | Self::Hang(..) => 18,
            Self::MemoryShort(..) => 19,
            Self::Newer(..) => 20,
            Self::Pause(_) | Self::Ambush(_) => 0,
        }
    }

    /// True where a box goes off and comes back.
    pub fn restarts(&self) -> bool {
        matches!(
            self,
            Self::PowerCut(..)
                | Self::Kill(..)
                | Self::Nested(..)
                | Self::Soon(..)
                | Self::Both(..)
                | Self::Lying(..)
                | Self::SuperblockCopy(..)
                | Self::Newer(..)
                | Self::Emptied
                | Self::Older(..)
        )
    }
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A host acts.
    Host(HostAction),
    /// Something goes wrong.
    Trouble(Trouble),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(action) => write!(f, "host {action:?}"),
            Self::Trouble(trouble) => write!(f, "TROUBLE {trouble:?}"),
        }
    }
}

/// What happens when.
#[derive(Debug, Clone)]
pub struct Item {
    /// Nanoseconds from the start.
    pub at: u64,
    /// What.
    pub what: What,
}

/// A run's plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed it is made from.
    pub seed: u64,
    /// In order of time.
    pub items: Vec<Item>,
    /// When the last item is past and everything heals.
    pub length: u64,
    /// Segments of each box's cache.
    pub segments: [u32; 2],
    /// Bytes of journal kept in memory.
    pub ram_tail: u64,
    /// Bytes of a home round.
    pub round_bytes: u64,
    /// True where a durable write makes its own range durable only (FUA), false where it flushes the device.
    pub dsync: bool,
    /// One-way latency of the line.
    pub latency: u64,
    /// Bytes a second of the line.
    pub bandwidth: u64,
    /// Items left out.
    pub without: BTreeSet<usize>,
}

pub(super) fn host_action(rng: &mut Rng, heavy: bool) -> HostAction {
    let volume = rng.below(2) as u16;
    let size = VOLUME_SECTORS[usize::from(volume)];
    let sizes = match heavy {
        false => [1, 1, 1, 2, 3, 7, 8, 8, 8, 8, 16, 17, 64, 130, 512, 700],
        true => [1, 2, 8, 8, 17, 64, 130, 400, 512, 512, 700, 700, 1024, 1024, 2048, 2048],
    };
    let sectors = sizes[rng.below(16) as usize];
    // Half of it in a small zone, so that records overlap.
    let zone = if rng.one_in(2) { 256 } else { size };
    let place = |rng: &mut Rng, sectors: u64| rng.below(zone.max(sectors).min(size) - sectors.min(size) + 1);
    match rng.below(24) {
        0 | 1 => {
            let count = rng.range(1, 3);
            let range = |rng: &mut Rng| {
                let n = rng.range(1, 300);
                (rng.below(size - n), n)
            };
            HostAction::Zero(volume, (0..count).map(|_| range(rng)).collect())
        }
        2..=4 => {
            let at = place(rng, sectors);
            HostAction::Read(volume, at, sectors)
        }
        5 | 6 => {
            let sectors = rng.range(1, 8);
            HostAction::Compare(volume, rng.below(64), sectors, !rng.one_in(4))
        }
        7 => match rng.below(6) {
            0 | 1 => HostAction::Abort,
            2 => HostAction::SessionLoss,
            _ => HostAction::Flush,
        },
        _ => {
            let at = place(rng, sectors);
            HostAction::Write(volume, at, sectors)
        }
    }
}

fn off_time(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.range(1, 50) * MS,
        1 | 2 => rng.range(50, 3_000) * MS,
        _ => rng.range(3_000, 25_000) * MS,
    }
}

fn trouble(rng: &mut Rng, late: bool) -> Trouble {
    let n = rng.below(2) as usize;
    // What a source cannot survive alone comes late in a run, so that the run reaches something.
    let hurt = if late { n } else { 1 };
    let nth = rng.below(12);
    match rng.below(64) {
        0..=5 => Trouble::PowerCut(n, off_time(rng)),
        6..=9 => Trouble::Kill(n, off_time(rng)),
        10..=12 => {
            let count = rng.range(1, 4);
            Trouble::Nested(n, (0..count).map(|_| rng.below(4)).collect())
        }
        13 | 14 => Trouble::Both(off_time(rng), off_time(rng)),
        15 | 16 => Trouble::Lying(hurt, rng.range(10, 3_000) * MS),
        17..=21 => {
            let failing = [
                Failing::CacheWrite,
                Failing::CacheSync,
                Failing::CacheRead,
                Failing::HomeWrite,
                Failing::HomeFull,
                Failing::HomeSync,
                Failing::HomeRead,
            ][rng.below(7) as usize];
            Trouble::Fails(n, failing, nth)
        }
        22 | 23 => Trouble::Rot(hurt, rng.next_u64()),
        24 => Trouble::Lost(hurt, nth),
        25 => Trouble::Misdirected(hurt, nth, [4096, -8192, 1 << 20, 512][rng.below(4) as usize]),
        26 => Trouble::Stale(hurt, nth),
        27..=29 => Trouble::SuperblockCopy(n, rng.next_u64()),
        30..=32 => Trouble::Outage(rng.range(500, 40_000) * MS),
        33..=35 => Trouble::OneWay(n, rng.range(100, 30_000) * MS),
        36..=40 => {
            let heard = |rng: &mut Rng| (!rng.one_in(3)).then(|| rng.below(300) * MS);
            Trouble::Cut(heard(rng), heard(rng))
        }
        41 | 42 => Trouble::Stall(n, rng.range(100, 8_000) * MS),
        43..=46 => {
            let kinds = [FrameFault::Flip, FrameFault::Twice, FrameFault::Swap, FrameFault::Short, FrameFault::Garbage];
            Trouble::Frames(n, kinds[rng.below(5) as usize])
        }
        47..=49 => Trouble::Jump(n, rng.below(200_000) as i64 - 100_000),
        50 | 51 => Trouble::Drift(n, rng.below(100) as i64 - 50),
        52..=54 => Trouble::Slow(n, [10, 100, 3_000][rng.below(3) as usize], rng.range(500, 10_000) * MS),
        55 | 56 => Trouble::Emptied,
        57 | 58 => Trouble::Older(1, rng.range(100, 20_000) * MS),
        59 | 60 => Trouble::Older(hurt, rng.range(100, 20_000) * MS),
        61 | 62 => Trouble::MemoryShort(n, rng.range(100, 10_000) * MS),
        _ => Trouble::Pause(rng.range(100, 20_000) * MS),
    }
}

/// Rot in homes and bytes of a newer release. They came later than the rest and draw from numbers of their own, so that
/// the plans of other seeds are what they were.
fn add_later(rng: &mut Rng, items: &mut Vec<Item>, length: u64) {
    let mut add = |rng: &mut Rng, trouble| {
        let at = length / 10 + rng.below(length * 9 / 10);
        items.push(Item { at, what: What::Trouble(trouble) });
    };
    for _ in 0..3 {
        let rot = Trouble::HomeRot(rng.range(1, 6), rng.next_u64());
        add(rng, rot);
    }
    for n in [0, 1] {
        let part = match rng.below(6) {
            0 => Newer::Superblock,
            1 => Newer::LastSuperblock,
            2 => Newer::Segment,
            _ => Newer::Batch,
        };
        let newer = Trouble::Newer(n, part, off_time(rng));
        add(rng, newer);
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x70_6c61_6e00);
        let length = rng.range(120, 300) * SEC;
        let mut items = Vec::new();
        // Some runs write more than one home round takes, into a cache that holds several.
        let heavy = rng.one_in(60);
        let operations = rng.range(650, 1_000);
        let bursts: Vec<u64> = (0..rng.range(10, 60)).map(|_| rng.below(length)).collect();
        for _ in 0..operations {
            let at = match rng.below(5) {
                0 => rng.below(length),
                _ => {
                    let burst = bursts[rng.below(bursts.len() as u64) as usize];
                    (burst + rng.below(400) * rng.below(1_000) * 1_000).min(length)
                }
            };
            items.push(Item { at, what: What::Host(host_action(&mut rng, heavy)) });
        }
        let troubles = if rng.one_in(8) { rng.range(15, 30) } else { rng.range(5, 11) };
        for i in 0..troubles {
            let at = length / 20 + rng.below(length * 18 / 20);
            let late = at > length * 3 / 4;
            // One restart at least, whatever else is drawn.
            let what = if i == 0 {
                Trouble::PowerCut(rng.below(2) as usize, off_time(&mut rng))
            } else {
                trouble(&mut rng, late)
            };
            items.push(Item { at, what: What::Trouble(what) });
        }
        if heavy {
            // The home falls far behind, and the power goes inside a round.
            for n in [0, 1, 0, 1] {
                let at = length / 10 + rng.below(length * 8 / 10);
                let slow = Trouble::Slow(n, 300, rng.range(4_000, 10_000) * MS);
                items.push(Item { at, what: What::Trouble(slow) });
                let at = at + rng.range(500, 9_000) * MS;
                items.push(Item { at, what: What::Trouble(Trouble::PowerCut(n, off_time(&mut rng))) });
            }
        }
        let scenes = seed % SCENES_EVERY == SCENES_EVERY - 1;
        if scenes {
            scenes::add(&mut rng, &mut items, length);
        }
        if !scenes && seed % FORK_EVERY == FORK_AT {
            scenes::add_fork(&mut Rng::new(seed ^ 0x66_6f72_6b73), &mut items, length);
        }
        if !scenes && seed % FORK_EVERY == FORGET_AT {
            scenes::add_forgotten(&mut Rng::new(seed ^ 0x66_6f72_6765), &mut items, length);
        }
        let slow_home = !scenes && seed % FORK_EVERY == SLOW_HOME_AT;
        if slow_home {
            scenes::add_slow_home(&mut Rng::new(seed ^ 0x73_6c_6f_77), &mut items, length);
        }
        if seed % GROW_EVERY == GROW_AT {
            scenes::add_growing(&mut Rng::new(seed ^ 0x67_726f_7773), &mut items, length);
        }
        if seed % LATER_EVERY == LATER_AT {
            add_later(&mut Rng::new(seed ^ 0x6c_6174_6572), &mut items, length);
        }
        items.sort_by_key(|i| i.at);
        let segments = |rng: &mut Rng| if heavy { rng.range(40, 60) as u32 } else { rng.range(7, 16) as u32 };
        let mut plan = Self {
            seed,
            items,
            length,
            segments: [segments(&mut rng), segments(&mut rng)],
            // Scenes are about what goes to a disk.
            ram_tail: [0, 64 << 10, 1 << 20, 8 << 20][rng.below(4) as usize & if scenes { 2 } else { 3 }],
            round_bytes: ROUND_BYTES[rng.below(3) as usize],
            dsync: rng.one_in(2),
            latency: [20_000, 500_000, 5 * MS, 50 * MS, 150 * MS][rng.below(5) as usize],
            bandwidth: [32_000, 1 << 20, 12 << 20, 125 << 20, 125 << 20][rng.below(5) as usize],
            without: BTreeSet::new(),
        };
        if slow_home {
            plan.segments = plan.segments.map(|n| n.max(SLOW_HOME_SEGMENTS));
            plan.bandwidth = plan.bandwidth.max(SLOW_HOME_BANDWIDTH);
            plan.round_bytes = ROUND_BYTES[0];
        }
        plan
    }

    /// True where a person knows more than to restart what stopped, and compares the boxes from time to time.
    pub fn skilled(&self) -> bool {
        (5..8).contains(&(self.seed % 11))
    }

    /// Sectors of the volumes at the beginning.
    pub fn first_sectors(&self) -> [u64; 2] {
        let lacks = if self.seed % GROW_EVERY == GROW_AT { GROW_SECTORS } else { 0 };
        VOLUME_SECTORS.map(|sectors| sectors - lacks)
    }

    /// When source and mirror are compared, at how many bytes a second, and whether what differs is repaired.
    pub fn comparisons(&self) -> Vec<(u64, u64, bool)> {
        let mut rng = Rng::new(self.seed ^ 0x63_6f6d_7061_7265);
        let compares = self.skilled() || self.seed % LATER_EVERY == LATER_AT;
        let count = if compares { rng.range(3, 12) } else { 0 };
        let draw = |rng: &mut Rng| (rng.below(self.length), [512 << 10, 4 << 20, 64 << 20][rng.below(3) as usize]);
        (0..count).map(|_| draw(&mut rng)).map(|(at, rate)| (at, rate, at % 2 == 0)).collect()
    }

    /// When hosts change what a unit remembers, and of which volume.
    pub fn unit_changes(&self) -> Vec<(u64, u16)> {
        let mut rng = Rng::new(self.seed ^ 0x0075_6e69_7473);
        let count = if self.skilled() { rng.range(5, 40) } else { 0 };
        (0..count).map(|_| (rng.below(self.length), rng.below(2) as u16)).collect()
    }

    /// The items that happen, with their numbers.
    pub fn active(&self) -> impl Iterator<Item = (usize, &Item)> + '_ {
        self.items.iter().enumerate().filter(|(i, _)| !self.without.contains(i))
    }

    /// Leaves out all items but those of `keep`.
    pub fn only(mut self, keep: &BTreeSet<usize>) -> Self {
        self.without = (0..self.items.len()).filter(|i| !keep.contains(i)).collect();
        self
    }
}
