//! A group with its disks in memory.
//!
//! Nothing happens by itself. What a group asks of its disks waits in [`TestBox::asked`] until the test carries it out
//! ([`TestBox::finish`]), lets it fail ([`TestBox::fail`]), or lets everything go that is not held back ([`TestBox::run`]).
//! Time moves by [`TestBox::pass`] only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use reprise_engine::{
    Branch, CacheFill, Effect, Event, Group, GroupConfig, GroupMeta, HostError, HostOp, HostReply, Io, IoFault,
    LinkInput, MOMENT_RECORDS_MAX, Notice, Opened, Opening, PeerId, PeerMeta, ROUND_BYTES_MAX, RoleMeta, Token,
    VolumeMeta,
};
use reprise_format::batch::hash_start;
use reprise_format::link::{CloseReason, Instance, Message};
use reprise_format::superblock::{
    self, GroupBody, SUPERBLOCK_COPY_LEN, SuperblockKind, copies_of, group_copies, newest,
};
use reprise_journal::{
    CacheRead, Grant, JournalConfig, JournalStart, newest_generation, scan_segments, segment_offset,
};
use reprise_link::instance;
use reprise_types::{
    BlockFormat, BoxId, BranchId, ByteLen, Extent, GroupId, Mono, Now, Point, PoolId, Role, Sector, SectorCount, Seq,
    VolumeId, VolumeSlot, WallMicros,
};

/// Bytes of a segment: the smallest.
pub const SEGMENT_LEN: u64 = 1 << 20;
/// The group that both boxes hold.
pub const GROUP: GroupId = GroupId::from_raw([3; 16]);
/// The line of history it begins with.
pub const BRANCH: BranchId = BranchId::from_raw([4; 16]);
/// How every disk of these tests fails.
pub const FAULT: IoFault = IoFault::Disk(5);
/// Effects carried out in one go, at most: a group that asks for more goes round in circles.
pub const STEPS_MAX: usize = 20_000;
/// A source at rest is past every delay of the home cursor that is counted since the last write.
pub const QUIET_MS: u64 = 40;

/// What a test wants other than usual.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Sectors of each volume.
    pub volumes: Vec<u64>,
    /// Segments of the cache.
    pub segments: u32,
    /// RAM tail in bytes.
    pub ram_tail: u64,
    /// Body bytes of a round.
    pub round_bytes: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self { volumes: vec![4096, 2048], segments: 8, ram_tail: 64 << 20, round_bytes: ROUND_BYTES_MAX }
    }
}

/// What a group asks of its disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    WriteCache,
    Superblock,
    ReadCache,
    ReadHome,
    WriteHome,
    ZeroHome,
    FlushHome,
}

/// The kind of an effect that a disk answers, and how it is named.
pub fn disk_kind(effect: &Effect) -> Option<(Kind, Token)> {
    Some(match effect {
        Effect::WriteCache { token, .. } => (Kind::WriteCache, *token),
        Effect::WriteSuperblock { token, .. } => (Kind::Superblock, *token),
        Effect::ReadCache { token, .. } => (Kind::ReadCache, *token),
        Effect::ReadHome { token, .. } => (Kind::ReadHome, *token),
        Effect::WriteHome { token, .. } => (Kind::WriteHome, *token),
        Effect::ZeroHome { token, .. } => (Kind::ZeroHome, *token),
        Effect::FlushHome { token, .. } => (Kind::FlushHome, *token),
        _ => return None,
    })
}

/// Where an effect on a home goes.
pub fn home_extent(effect: &Effect) -> Option<Extent> {
    match effect {
        Effect::ReadHome { extent, .. } | Effect::WriteHome { extent, .. } | Effect::ZeroHome { extent, .. } => {
            Some(*extent)
        }
        _ => None,
    }
}

/// An extent.
pub fn extent(volume: u16, sector: u64, sectors: u64) -> Extent {
    Extent {
        volume: VolumeSlot::from_raw(volume),
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
    }
}

/// A volume's slot.
pub fn slot(n: u16) -> VolumeSlot {
    VolumeSlot::from_raw(n)
}

/// A Seq.
pub fn seq(n: u64) -> Seq {
    Seq::from_raw(n)
}

/// Content that no other `stamp` has, and that differs from sector to sector.
pub fn content(stamp: u64, sectors: u64) -> Bytes {
    let mut out = Vec::with_capacity(sectors as usize * 512);
    for n in 0..sectors {
        let word = stamp << 32 | n << 8 | 1;
        (0..64).for_each(|_| out.extend_from_slice(&word.to_le_bytes()));
    }
    Bytes::from(out)
}

/// A volume as the node makes it.
pub fn volume(n: u16, sectors: u64) -> VolumeMeta {
    VolumeMeta {
        slot: slot(n),
        id: VolumeId::from_raw([n as u8 + 1; 16]),
        sectors: SectorCount::from_raw(sectors),
        name: format!("v{n}"),
        lun: n,
        legs: vec![],
        local_only: false,
        thin: false,
        block_size: BlockFormat::default(),
        read_only: false,
        unit: None,
    }
}

struct Disk<'a>(&'a [u8]);

impl CacheRead for Disk<'_> {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        Ok(self.0[offset as usize..offset as usize + len].to_vec())
    }
}

/// A box: a group and its disks.
pub struct TestBox {
    pub group: Group,
    pub config: GroupConfig,
    pub now: Now,
    /// The cache with the superblock copies in front.
    pub cache: Vec<u8>,
    /// The homes by slot.
    pub homes: Vec<Vec<u8>>,
    /// Disk effects that are not carried out, oldest first.
    pub asked: VecDeque<Effect>,
    /// Answers to hosts that no test has looked at.
    pub replies: BTreeMap<Io, Result<HostReply, HostError>>,
    /// The order in which hosts were answered.
    pub answered: Vec<Io>,
    pub notices: Vec<Notice>,
    /// What commands waited for, and whether it has come.
    pub kept: Vec<(Io, bool)>,
    /// Messages that are not on the line.
    pub out: VecDeque<(Message, Vec<Bytes>)>,
    /// Reasons with which the group closed its connection.
    pub closed: Vec<CloseReason>,
    /// Segments given back, all of them.
    pub freed: Vec<u32>,
    /// Grants asked for and not answered.
    pub wants: usize,
    /// Grants are not answered by [`Self::run`].
    pub hold_grants: bool,
    /// Segments that the cache has.
    pub segments: u32,
    /// Segments that no group holds.
    pub free: BTreeSet<u32>,
    /// How full the cache is said to be after a grant; as it is without one.
    pub fill: Option<CacheFill>,
    generation: u64,
    held: BTreeSet<Kind>,
    next_io: u64,
}

impl TestBox {
    /// A source that has just been made; its seal is not durable.
    pub fn source(setup: &Setup) -> Self {
        Self::new(setup, Role::Source)
    }

    /// A mirror that has just been made; its seal is not durable.
    pub fn mirror(setup: &Setup) -> Self {
        Self::new(setup, Role::Mirror)
    }

    /// A source that serves.
    pub fn serving(setup: &Setup) -> Self {
        let mut new = Self::source(setup);
        new.run();
        assert!(new.group.is_ready(), "the seal is durable");
        new
    }

    fn new(setup: &Setup, role: Role) -> Self {
        let source = role == Role::Source;
        let start = Point { branch: BRANCH, seq: Seq::ZERO, hash: hash_start(GROUP) };
        let base = if source { start } else { Point::default() };
        let peer = PeerMeta {
            peer: BoxId::from_raw([1; 16]),
            durable: None,
            copy: None,
            paused: false,
            instance: instance::first([22; 16]),
            seen: None,
        };
        let meta = GroupMeta {
            group: GROUP,
            name: "g".into(),
            role: if source { RoleMeta::Source } else { RoleMeta::NEW_MIRROR },
            branches: if source { vec![Branch { id: BRANCH, fork: None, ceded: false }] } else { vec![] },
            trimmed: base,
            applied: Seq::ZERO,
            applying: Seq::ZERO,
            seal: base,
            incarnation: 1,
            volumes: (0u16..).zip(&setup.volumes).map(|(n, sectors)| volume(n, *sectors)).collect(),
            peers: if source { vec![] } else { vec![peer] },
            fenced: None,
            next_slot: setup.volumes.len() as u16,
            generation_floor: 3,
        };
        Self::opened(setup, meta, base)
    }

    /// A box with empty disks and this superblock, as of version 1.
    pub fn opened(setup: &Setup, meta: GroupMeta, base: Point) -> Self {
        let this = if meta.role() == Role::Source { 1 } else { 2 };
        let config = GroupConfig {
            this_box: BoxId::from_raw([this; 16]),
            journal: JournalConfig {
                pool: PoolId::from_raw([this + 8; 16]),
                group: meta.group,
                segment_len: SEGMENT_LEN,
                ram_tail_max: ByteLen::from_raw(setup.ram_tail),
            },
            link_window: 32 << 20,
            round_bytes: setup.round_bytes,
            moment_records: MOMENT_RECORDS_MAX,
        };
        let now = Now { mono: Mono::from_millis(1_000_000), wall: WallMicros::from_raw(1_700_000_000_000_000) };
        let start = JournalStart::empty(base, meta.incarnation + 1);
        let mut cache = vec![0; segment_offset(setup.segments, SEGMENT_LEN) as usize];
        let copy = superblock::encode(SuperblockKind::Group, 1, &meta.to_body()).unwrap().freeze();
        for i in copies_of(1) {
            put(&mut cache, group_copies(0)[i], &copy);
        }
        let mut new = Self {
            group: Opened::made(meta, 1, start).open(now, config),
            config,
            now,
            cache,
            homes: setup.volumes.iter().map(|sectors| vec![0; *sectors as usize * 512]).collect(),
            asked: VecDeque::new(),
            replies: BTreeMap::new(),
            answered: Vec::new(),
            notices: Vec::new(),
            kept: Vec::new(),
            out: VecDeque::new(),
            closed: Vec::new(),
            freed: Vec::new(),
            wants: 0,
            hold_grants: false,
            segments: setup.segments,
            free: (0..setup.segments).collect(),
            fill: None,
            generation: 3,
            held: BTreeSet::new(),
            next_io: 1,
        };
        new.collect();
        new.say_fill();
        new
    }

    fn say_fill(&mut self) {
        let used = self.segments - self.free.len() as u32;
        let fill = self.fill.unwrap_or(CacheFill { total: self.segments, used, reserve: 0 });
        self.tell(Event::Cache(fill));
    }

    /// Every segment is free or held by the group.
    #[track_caller]
    pub fn assert_no_segment_is_lost(&self) {
        let held = self.group.segments();
        let all: BTreeSet<u32> = self.free.iter().copied().chain(held.iter().copied()).collect();
        assert_eq!(all.len(), self.segments as usize, "free {:?}, held {held:?}", self.free);
        assert_eq!(all.len(), self.free.len() + held.len(), "free {:?}, held {held:?}", self.free);
    }

    /// The process ends with everything that was under way undone, and begins again with what the disks hold.
    pub fn restart(&mut self) {
        self.try_restart().unwrap();
    }

    /// The same, where the group may be one that cannot be opened: it stays as it is then.
    pub fn try_restart(&mut self) -> Result<(), String> {
        let opening = Opening::of_copies(&self.copies()).map_err(|e| e.to_string())?;
        let pool = self.config.journal.pool;
        let found = scan_segments(&mut Disk(&self.cache), pool, self.segments, SEGMENT_LEN).unwrap();
        self.generation = newest_generation(&found, [opening.meta().generation_floor]);
        let opened = opening.recover(&mut Disk(&self.cache), pool, SEGMENT_LEN, &found);
        let mut opened = opened.map_err(|e| e.to_string())?;
        self.free = (0..self.segments).filter(|s| !opened.held.contains(s)).collect();
        opened.draw_instance([(self.generation as u8).wrapping_add(99); 16]);
        self.group = opened.open(self.now, self.config);
        self.asked.clear();
        self.out.clear();
        self.wants = 0;
        self.held.clear();
        self.collect();
        self.say_fill();
        Ok(())
    }

    /// Takes everything that the group wants done.
    pub fn collect(&mut self) {
        for _ in 0..STEPS_MAX {
            let Some(effect) = self.group.poll_effect() else { return };
            match effect {
                Effect::WantSegment => self.wants += 1,
                Effect::FreeSegments(segments) => {
                    self.free.extend(&segments);
                    self.freed.extend(segments);
                }
                Effect::Reply(io, result) => {
                    assert!(self.replies.insert(io, result).is_none(), "{io:?} is answered twice");
                    self.answered.push(io);
                }
                Effect::LinkSend(_, message, payload) => self.out.push_back((message, payload)),
                Effect::LinkClose(_, reason) => self.closed.push(reason),
                Effect::Notice(notice) => self.notices.push(notice),
                Effect::Kept(io, come) => self.kept.push((io, come)),
                disk => self.asked.push_back(disk),
            }
        }
        panic!("no end of effects");
    }

    /// Tells the group what happened.
    pub fn tell(&mut self, event: Event) {
        self.group.handle(self.now, event);
        self.collect();
    }

    /// A command to the group.
    pub fn command<R>(&mut self, command: impl FnOnce(&mut Group, Now) -> R) -> R {
        let result = command(&mut self.group, self.now);
        self.collect();
        result
    }

    /// Time goes by, and the group is told.
    pub fn pass(&mut self, millis: u64) {
        self.later(millis);
        self.tell(Event::Tick);
    }

    /// Time goes by, and the group is not told.
    pub fn later(&mut self, millis: u64) {
        self.now.mono = self.now.mono.plus_millis(millis);
        self.now.wall = WallMicros::from_raw(self.now.wall.get() + millis * 1000);
    }

    /// Disk effects of a kind that are not carried out.
    pub fn waiting(&self, kind: Kind) -> usize {
        self.asked.iter().filter(|e| disk_kind(e).is_some_and(|(k, _)| k == kind)).count()
    }

    /// The oldest effect of a kind that is not carried out.
    pub fn oldest(&self, kind: Kind) -> &Effect {
        self.asked.iter().find(|e| disk_kind(e).is_some_and(|(k, _)| k == kind)).expect("one is asked for")
    }

    /// Effects of a kind are not carried out by [`Self::run`] from here on.
    pub fn hold(&mut self, kind: Kind) {
        self.held.insert(kind);
    }

    /// Effects of a kind are carried out by [`Self::run`] again.
    pub fn release(&mut self, kind: Kind) {
        self.held.remove(&kind);
    }

    /// Takes the nth effect of a kind out of those asked for.
    pub fn take(&mut self, kind: Kind, nth: usize) -> Effect {
        let of_kind = |(_, e): &(usize, &Effect)| disk_kind(e).is_some_and(|(k, _)| k == kind);
        let at = self.asked.iter().enumerate().filter(of_kind).nth(nth).map(|(at, _)| at);
        self.asked.remove(at.expect("it is asked for")).unwrap()
    }

    /// Carries out the oldest effect of a kind and answers it.
    pub fn finish(&mut self, kind: Kind) {
        let effect = self.take(kind, 0);
        self.answer(&effect);
    }

    /// Carries an effect out that was taken and answers it.
    pub fn answer(&mut self, effect: &Effect) {
        let bytes = self.carry_out(effect);
        let (_, token) = disk_kind(effect).unwrap();
        self.tell(Event::Done(token, Ok(bytes)));
    }

    /// Answers an effect that was taken with these bytes.
    pub fn answer_with(&mut self, effect: &Effect, bytes: Bytes) {
        let (_, token) = disk_kind(effect).unwrap();
        self.tell(Event::Done(token, Ok(bytes)));
    }

    /// The disk refuses the oldest effect of a kind.
    pub fn fail(&mut self, kind: Kind) {
        let effect = self.take(kind, 0);
        let (_, token) = disk_kind(&effect).unwrap();
        self.tell(Event::Done(token, Err(FAULT)));
    }

    /// Answers a grant that was asked for: a free segment, or none.
    pub fn grant(&mut self) {
        assert!(self.wants > 0, "a segment is asked for");
        self.wants -= 1;
        self.generation += 1;
        let grant = self.free.pop_first().map(|segment| Grant { segment, generation: self.generation });
        self.tell(Event::Granted(grant));
        self.say_fill();
    }

    /// Refuses a grant that was asked for.
    pub fn refuse(&mut self) {
        assert!(self.wants > 0, "a segment is asked for");
        self.wants -= 1;
        self.tell(Event::Granted(None));
    }

    /// Carries everything out that is not held back, and what follows from it. True if there was something.
    pub fn run(&mut self) -> bool {
        for step in 0..STEPS_MAX {
            if self.wants > 0 && !self.hold_grants {
                self.grant();
                continue;
            }
            let free = |e: &Effect| disk_kind(e).is_some_and(|(kind, _)| !self.held.contains(&kind));
            let Some(at) = self.asked.iter().position(free) else { return step > 0 };
            let effect = self.asked.remove(at).unwrap();
            self.answer(&effect);
        }
        panic!("no end of effects");
    }

    /// Lets the source come to rest: everything is applied, as far as nothing is held back.
    pub fn rest(&mut self) {
        for _ in 0..8 {
            self.pass(QUIET_MS);
            self.run();
        }
        self.assert_no_segment_is_lost();
    }

    fn carry_out(&mut self, effect: &Effect) -> Bytes {
        match effect {
            Effect::WriteCache { at, bufs, .. } => put(&mut self.cache, *at, &bufs.concat()),
            Effect::WriteSuperblock { version, copy, .. } => {
                copies_of(*version).iter().for_each(|i| put(&mut self.cache, group_copies(0)[*i], copy));
            }
            Effect::ReadCache { at, len, .. } => {
                return Bytes::copy_from_slice(&self.cache[*at as usize..*at as usize + len]);
            }
            Effect::ReadHome { extent, .. } => return Bytes::copy_from_slice(self.home(*extent)),
            Effect::WriteHome { extent, bufs, .. } => {
                let bytes = bufs.concat();
                assert_eq!(bytes.len() as u64, extent.sectors.bytes().get(), "content and extent are of one length");
                put(&mut self.homes[usize::from(extent.volume.get())], extent.sector.get() * 512, &bytes);
            }
            Effect::ZeroHome { extent, .. } => {
                let zeros = vec![0; extent.sectors.bytes().get() as usize];
                put(&mut self.homes[usize::from(extent.volume.get())], extent.sector.get() * 512, &zeros);
            }
            Effect::FlushHome { .. } => {}
            other => panic!("not for a disk: {other:?}"),
        }
        Bytes::new()
    }

    /// What a home holds.
    pub fn home(&self, e: Extent) -> &[u8] {
        let at = e.sector.get() as usize * 512;
        &self.homes[usize::from(e.volume.get())][at..at + e.sectors.bytes().get() as usize]
    }

    fn copies(&self) -> Vec<Option<Vec<u8>>> {
        let read = |at: &u64| Some(self.cache[*at as usize..*at as usize + SUPERBLOCK_COPY_LEN].to_vec());
        group_copies(0).iter().map(read).collect()
    }

    fn newest_copy(&self) -> (u64, GroupBody) {
        newest(SuperblockKind::Group, &self.copies()).unwrap()
    }

    /// The superblock as it is on disk.
    pub fn stored(&self) -> GroupMeta {
        GroupMeta::from_body(&self.newest_copy().1).unwrap()
    }

    /// Puts a superblock on the disk as the next version. For a group that is started again.
    pub fn store(&mut self, meta: &GroupMeta) {
        self.store_body(&meta.to_body());
    }

    /// The same with any body.
    pub fn store_body(&mut self, body: &GroupBody) {
        let version = self.stored_version() + 1;
        let copy = superblock::encode(SuperblockKind::Group, version, body).unwrap().freeze();
        copies_of(version).iter().for_each(|i| put(&mut self.cache, group_copies(0)[*i], &copy));
    }

    /// The version of the superblock on disk.
    pub fn stored_version(&self) -> u64 {
        self.newest_copy().0
    }

    /// A host asks; gives the name of its operation.
    pub fn ask(&mut self, op: HostOp) -> Io {
        let io = Io(self.next_io);
        self.next_io += 1;
        self.tell(Event::Host(io, op));
        io
    }

    /// A host writes.
    pub fn write(&mut self, at: Extent, data: Bytes) -> Io {
        self.ask(HostOp::Write { extent: at, data })
    }

    /// A host writes; everything that is not held back is carried out and the answer is good.
    pub fn put(&mut self, at: Extent, data: Bytes) {
        let io = self.write(at, data);
        self.run();
        self.assert_done(io);
    }

    /// A host writes content by number; whoever carries the disk's work out answers it.
    pub fn put_later(&mut self, at: Extent, stamp: u64) {
        self.write(at, content(stamp, at.sectors.get()));
    }

    /// A host reads; everything that is not held back is carried out.
    pub fn get(&mut self, at: Extent) -> Vec<u8> {
        let io = self.ask(HostOp::Read(at));
        self.run();
        self.data(io)
    }

    /// True where the operation was answered.
    pub fn is_answered(&self, io: Io) -> bool {
        self.replies.contains_key(&io)
    }

    /// Takes the answer: done.
    pub fn assert_done(&mut self, io: Io) {
        match self.replies.remove(&io) {
            Some(Ok(HostReply::Done)) => {}
            other => panic!("{io:?} is answered with {other:?}"),
        }
    }

    /// Takes the answer: these bytes.
    pub fn data(&mut self, io: Io) -> Vec<u8> {
        match self.replies.remove(&io) {
            Some(Ok(HostReply::Data(pieces))) => pieces.concat(),
            other => panic!("{io:?} is answered with {other:?}"),
        }
    }

    /// Takes the answer: this error.
    pub fn error(&mut self, io: Io) -> HostError {
        match self.replies.remove(&io) {
            Some(Err(error)) => error,
            other => panic!("{io:?} is answered with {other:?}"),
        }
    }

    /// Takes the notices so far.
    pub fn told(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Flips a bit of the cache.
    pub fn rot(&mut self, at: u64) {
        self.cache[at as usize] ^= 0x10;
    }

    /// A connection to the peer was made.
    pub fn connected(&mut self) {
        let dialled = self.group.meta().role() == Role::Source;
        self.connected_by(dialled);
    }

    /// A connection to the peer was made, by this box or by the peer.
    pub fn connected_by(&mut self, dialled: bool) {
        self.say_fill();
        self.tell(Event::Link(PeerId::FIRST, LinkInput::Connected { dialled }));
    }

    /// A message of the peer.
    pub fn message(&mut self, message: Message, payload: Bytes) {
        self.tell(Event::Link(PeerId::FIRST, LinkInput::received(message, payload)));
    }
}

fn put(disk: &mut [u8], at: u64, bytes: &[u8]) {
    disk[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
}

/// The instance that a source of these tests shows its peer.
pub fn source_instance() -> Instance {
    instance::first([11; 16])
}
