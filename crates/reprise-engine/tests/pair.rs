//! Two groups, two disks, a link and a host in one thread, from one seed: crashes of either box at any effect, cuts of
//! the link at any message, a first copy under writes. At the end both homes equal what the host was told.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use reprise_engine::*;
use reprise_format::batch::hash_start;
use reprise_format::link::{Message, Stream};
use reprise_format::superblock::{self, GroupBody, SuperblockKind, copies_of, group_copies};
use reprise_journal::{
    CacheRead, Found, Grant, JournalConfig, JournalStart, PieceSource, recover, scan_segments, segment_offset,
};
use reprise_types::*;

const SEGMENT: u64 = 1 << 20;
const SEGMENTS: u32 = 24;
const HOME_SECTORS: u64 = 6144;
const POOL: PoolId = PoolId::from_raw([9; 16]);

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// Live and durable bytes apart; a crash keeps each unflushed sector or not.
#[derive(Clone)]
struct Disk {
    live: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Disk {
    fn new(len: usize) -> Self {
        Self { live: vec![0; len], durable: vec![0; len], dirty: BTreeSet::new() }
    }
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.live[at..at + bytes.len()].copy_from_slice(bytes);
        self.dirty.extend(at / 512..(at + bytes.len()) / 512);
    }
    fn flush(&mut self) {
        for s in std::mem::take(&mut self.dirty) {
            self.durable[s * 512..s * 512 + 512].copy_from_slice(&self.live[s * 512..s * 512 + 512]);
        }
    }
    fn crash(&mut self, rng: &mut Rng) {
        for s in std::mem::take(&mut self.dirty) {
            let range = s * 512..s * 512 + 512;
            if rng.chance(500) {
                self.durable[range.clone()].copy_from_slice(&self.live[range.clone()]);
            } else {
                self.live[range.clone()].copy_from_slice(&self.durable[range]);
            }
        }
    }
}

impl CacheRead for Disk {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        Ok(self.live[offset as usize..offset as usize + len].to_vec())
    }
}

struct Node {
    id: BoxId,
    cache: Disk,
    homes: Vec<Disk>,
    free: BTreeSet<u32>,
    generation: u64,
    group: Option<Group>,
    pending: Vec<(Token, Effect)>,
    starts: u8,
}

#[derive(Default)]
struct Line {
    control: VecDeque<(Message, Bytes)>,
    bulk: VecDeque<(Message, Bytes)>,
}

struct Pair {
    rng: Rng,
    now: Now,
    nodes: [Node; 2],
    lines: [Line; 2],
    connected: bool,
    next_io: u64,
    outstanding: Vec<(u64, u16, u64, u64, Option<u8>)>,
    /// Per volume and sector: what it may read as. One value where all is acknowledged.
    model: Vec<Vec<Vec<u8>>>,
    /// The source's history: what each record made of its sectors.
    history: Vec<(u16, u64, u64, u8)>,
    acked: u64,
    crashes: u64,
    cuts: u64,
    copies: u64,
    views: u64,
}

fn config(id: BoxId) -> GroupConfig {
    let group = GroupId::from_raw([3; 16]);
    GroupConfig {
        this_box: id,
        journal: JournalConfig { pool: POOL, group, segment_len: SEGMENT, ram_tail_max: ByteLen::from_raw(1 << 20) },
        link_window: 32 << 20,
    }
}

fn meta(role: Role, peer: Option<PeerMeta>) -> GroupMeta {
    let group = GroupId::from_raw([3; 16]);
    let branch = BranchId::from_raw([4; 16]);
    let source = role == Role::Source;
    let base = if source { Point { branch, seq: Seq::ZERO, hash: hash_start(group) } } else { Point::default() };
    let volume = |slot: u16| VolumeMeta {
        slot: VolumeSlot::from_raw(slot),
        id: VolumeId::from_raw([slot as u8 + 1; 16]),
        sectors: SectorCount::from_raw(HOME_SECTORS),
        name: format!("v{slot}"),
        lun: slot,
        legs: vec![],
        local_only: false,
        thin: false,
    };
    GroupMeta {
        group,
        name: "g".into(),
        role,
        branches: if source { vec![Branch { id: branch, fork: None, ceded: false }] } else { vec![] },
        trimmed: base,
        applied: Seq::ZERO,
        applying: Seq::ZERO,
        seal: base,
        incarnation: 1,
        volumes: vec![volume(0), volume(1)],
        peer,
        copy: (!source).then_some(CopyState { cursor: None, complete_at: None }),
        fenced: None,
        next_slot: 2,
        generation_floor: 0,
    }
}

fn peer_meta(peer: BoxId, own: u8) -> PeerMeta {
    PeerMeta {
        peer,
        durable: None,
        copy: None,
        paused: false,
        instance: reprise_link::instance::first([own; 16]),
        seen: None,
    }
}

impl Node {
    fn new(id: BoxId, meta: &GroupMeta) -> Self {
        let mut cache = Disk::new(segment_offset(SEGMENTS, SEGMENT) as usize);
        for version in [1, 2] {
            let copy = superblock::encode(SuperblockKind::Group, version, &meta.to_body()).unwrap();
            for i in copies_of(version) {
                cache.write(group_copies(0)[i], &copy);
            }
        }
        cache.flush();
        let home = || Disk::new(HOME_SECTORS as usize * 512);
        Self {
            id,
            cache,
            homes: vec![home(), home()],
            free: (0..SEGMENTS).collect(),
            generation: 0,
            group: None,
            pending: Vec::new(),
            starts: 0,
        }
    }

    fn open(&mut self, now: Now) {
        self.cache.flush();
        let copies: Vec<_> =
            group_copies(0).iter().map(|at| self.cache.read(*at, superblock::SUPERBLOCK_COPY_LEN).ok()).collect();
        let (version, body) = superblock::newest::<GroupBody>(SuperblockKind::Group, &copies).unwrap();
        let meta = GroupMeta::from_body(&body).unwrap();
        let segments = scan_segments(&mut self.cache, POOL, SEGMENTS, SEGMENT).unwrap();
        self.generation = segments.iter().map(|s| s.header.generation).max().unwrap_or(0).max(self.generation);
        let peer = meta.peer.as_ref().and_then(|p| p.durable).filter(|_| meta.role == Role::Source);
        let found = Found {
            pool: POOL,
            group: meta.group,
            segment_len: SEGMENT,
            superblock_version: version,
            trimmed: meta.trimmed,
            seal: meta.seal,
            incarnation: meta.incarnation,
            applying: meta.applying,
            generation_floor: meta.generation_floor,
            peer_durable: peer.map_or(Seq::ZERO, |p| p.seq),
        };
        let recovered = recover(&mut self.cache, found, &segments).unwrap();
        self.free = (0..SEGMENTS).filter(|s| !recovered.held.contains(s)).collect();
        let start: JournalStart = recovered.start;
        let mut group = Group::open(now, config(self.id), meta, version, start);
        self.starts += 1;
        if let Some(peer) = &group.meta().peer
            && let Some(next) = reprise_link::instance::on_start(peer.instance, [self.starts + 100; 16])
        {
            group.set_instance(now, next);
        }
        self.group = Some(group);
    }

    fn fill(&self) -> CacheFill {
        CacheFill { total: SEGMENTS, used: SEGMENTS - self.free.len() as u32, reserve: 2 }
    }

    /// Carries a disk effect out and gives its answer.
    fn disk(&mut self, effect: &Effect) -> Bytes {
        let home = |e: &Extent| (e.volume.get() as usize, e.sector.byte_offset().unwrap());
        match effect {
            Effect::WriteCache { at, bufs, .. } => {
                let mut at = *at;
                for b in bufs {
                    self.cache.write(at, b);
                    at += b.len() as u64;
                }
                // Durable: only what this write wrote, but flushing more hides nothing that matters here, since other
                // cache writes in flight are not in the live bytes yet.
                self.cache.flush();
            }
            Effect::WriteSuperblock { version, copy, .. } => {
                for i in copies_of(*version) {
                    self.cache.write(group_copies(0)[i], copy);
                }
                self.cache.flush();
            }
            Effect::ReadCache { at, len, .. } => return self.cache.read(*at, *len).unwrap().into(),
            Effect::ReadHome { extent, .. } => {
                let (v, at) = home(extent);
                return self.homes[v].read(at, extent.sectors.bytes().get() as usize).unwrap().into();
            }
            Effect::WriteHome { extent, bufs, .. } => {
                let (v, mut at) = home(extent);
                for b in bufs {
                    self.homes[v].write(at, b);
                    at += b.len() as u64;
                }
            }
            Effect::ZeroHome { extent, .. } => {
                let (v, at) = home(extent);
                self.homes[v].write(at, &vec![0; extent.sectors.bytes().get() as usize]);
            }
            Effect::FlushHome { volumes, .. } => volumes.iter().for_each(|v| self.homes[v.get() as usize].flush()),
            other => panic!("not a disk effect: {other:?}"),
        }
        Bytes::new()
    }

    /// Power is cut: operations in flight happened or not, unflushed sectors are kept or not.
    fn crash(&mut self, rng: &mut Rng) {
        for (_, effect) in std::mem::take(&mut self.pending) {
            if rng.chance(500) {
                continue;
            }
            match &effect {
                Effect::WriteCache { at, bufs, .. } => {
                    let mut at = *at;
                    for b in bufs {
                        self.cache.write(at, b);
                        at += b.len() as u64;
                    }
                }
                Effect::WriteSuperblock { version, copy, .. } => {
                    copies_of(*version).iter().for_each(|i| self.cache.write(group_copies(0)[*i], copy));
                }
                Effect::WriteHome { .. } | Effect::ZeroHome { .. } => drop(self.disk(&effect)),
                _ => {}
            }
        }
        self.cache.crash(rng);
        self.homes.iter_mut().for_each(|h| h.crash(rng));
        self.group = None;
    }
}

fn token_of(effect: &Effect) -> Option<Token> {
    match effect {
        Effect::WriteCache { token, .. }
        | Effect::WriteSuperblock { token, .. }
        | Effect::ReadCache { token, .. }
        | Effect::ReadHome { token, .. }
        | Effect::WriteHome { token, .. }
        | Effect::ZeroHome { token, .. }
        | Effect::FlushHome { token, .. } => Some(*token),
        _ => None,
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let (a, b) = (BoxId::from_raw([1; 16]), BoxId::from_raw([2; 16]));
        let now = Now { mono: Mono::from_millis(1000), wall: WallMicros::from_raw(1_000_000) };
        let nodes =
            [Node::new(a, &meta(Role::Source, None)), Node::new(b, &meta(Role::Mirror, Some(peer_meta(a, 60))))];
        Self {
            rng: Rng(seed),
            now,
            nodes,
            lines: Default::default(),
            connected: false,
            next_io: 1,
            outstanding: Vec::new(),
            model: vec![vec![vec![0]; HOME_SECTORS as usize]; 2],
            history: Vec::new(),
            acked: 0,
            crashes: 0,
            cuts: 0,
            copies: 0,
            views: 0,
        }
    }

    fn event(&mut self, n: usize, event: Event) {
        let Some(group) = &mut self.nodes[n].group else { return };
        group.handle(self.now, event);
        self.drain(n);
    }

    fn drain(&mut self, n: usize) {
        loop {
            let Some(effect) = self.nodes[n].group.as_mut().and_then(Group::poll_effect) else { break };
            if let Some(token) = token_of(&effect) {
                self.nodes[n].pending.push((token, effect));
                continue;
            }
            match effect {
                Effect::WantSegment => {
                    let node = &mut self.nodes[n];
                    let grant = (node.free.len() > 2).then(|| {
                        node.generation += 1;
                        Grant { segment: node.free.pop_first().unwrap(), generation: node.generation }
                    });
                    let fill = node.fill();
                    let group = node.group.as_mut().unwrap();
                    group.handle(self.now, Event::Granted(grant));
                    group.handle(self.now, Event::Cache(fill));
                }
                Effect::FreeSegments(ids) => self.nodes[n].free.extend(ids),
                Effect::Reply(io, result) => self.reply(io, result),
                Effect::LinkSend(message, payload) => {
                    if self.connected {
                        let mut whole = BytesMut::new();
                        if matches!(message, Message::Batch(_)) {
                            whole.extend_from_slice(&[0; 64]);
                        }
                        payload.iter().for_each(|p| whole.extend_from_slice(p));
                        let line = &mut self.lines[n];
                        let queue =
                            if message.kind().stream() == Stream::Control { &mut line.control } else { &mut line.bulk };
                        queue.push_back((message, whole.freeze()));
                    }
                }
                Effect::LinkClose(_) => self.cut(Some(n)),
                Effect::Notice(Notice::CopyComplete) => self.copies += 1,
                Effect::Notice(Notice::LinkStopped(row)) => panic!("link stopped: {row:?}"),
                Effect::Notice(Notice::LinkFault(text)) => panic!("link fault: {text}"),
                Effect::Notice(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if let Some(group) = &self.nodes[n].group {
            group.positions();
        }
    }

    fn reply(&mut self, io: Io, result: Result<HostReply, HostError>) {
        let at = self.outstanding.iter().position(|o| o.0 == io.0).expect("an answer to an operation of ours");
        let (_, volume, sector, sectors, value) = self.outstanding.remove(at);
        result.expect("no operation fails");
        self.acked += 1;
        if let Some(value) = value {
            for s in sector..sector + sectors {
                self.model[volume as usize][s as usize] = vec![value];
            }
        }
    }

    fn cut(&mut self, by: Option<usize>) {
        if !std::mem::take(&mut self.connected) {
            return;
        }
        self.cuts += 1;
        self.lines = Default::default();
        for n in 0..2 {
            if by != Some(n) && self.nodes[n].group.is_some() {
                self.event(n, Event::Link(LinkInput::Disconnected));
            }
        }
    }

    fn host(&mut self) {
        if self.outstanding.len() >= 24 || self.nodes[0].group.as_ref().is_none_or(|g| !g.is_ready()) {
            return;
        }
        let volume = self.rng.below(2) as u16;
        let sectors = [1, 1, 8, 8, 17, 64, 512, 700][self.rng.below(8) as usize];
        let sector = self.rng.below(HOME_SECTORS - sectors + 1);
        let overlaps =
            |o: &(u64, u16, u64, u64, Option<u8>)| o.1 == volume && o.2 < sector + sectors && sector < o.2 + o.3;
        if self.outstanding.iter().any(overlaps) {
            return;
        }
        let io = Io(self.next_io);
        self.next_io += 1;
        let extent = Extent {
            volume: VolumeSlot::from_raw(volume),
            sector: Sector::from_raw(sector),
            sectors: SectorCount::from_raw(sectors),
        };
        let (op, value) = match self.rng.below(10) {
            0 => (HostOp::Zero { volume: extent.volume, ranges: vec![(extent.sector, extent.sectors)] }, Some(0)),
            1 => (HostOp::Read(extent), None),
            _ => {
                let value = (self.rng.below(255) + 1) as u8;
                let data = Bytes::from(vec![value; sectors as usize * 512]);
                (HostOp::Write { extent, data }, Some(value))
            }
        };
        if let Some(value) = value {
            for s in sector..sector + sectors {
                self.model[volume as usize][s as usize].push(value);
            }
        }
        self.outstanding.push((io.0, volume, sector, sectors, value));
        if let Some(value) = value {
            let piece = if value == 0 { sectors } else { 512 };
            for at in (0..sectors).step_by(piece as usize) {
                self.history.push((volume, sector + at, piece.min(sectors - at), value));
            }
        }
        self.event(0, Event::Host(io, op));
        let written = self.nodes[0].group.as_ref().unwrap().journal().written();
        assert_eq!(written.get() as usize, self.history.len(), "the harness counts records as the engine does");
    }

    /// Any moment from `applying` to `durable` reads as the source's history up to it.
    fn check_view(&mut self, n: usize) {
        let Some(group) = &self.nodes[n].group else { return };
        if !group.is_ready() || group.meta().branches.is_empty() || group.meta().copy.is_some() {
            return;
        }
        let at = group.positions();
        let span = at.durable.since(at.applying) + 1;
        let seq = Seq::from_raw(at.applying.get() + self.rng.below(span));
        let volume = self.rng.below(2) as u16;
        let mut image = vec![0u8; HOME_SECTORS as usize];
        for (v, sector, sectors, value) in &self.history[..seq.get() as usize] {
            if *v == volume {
                image[*sector as usize..(*sector + *sectors) as usize].fill(*value);
            }
        }
        let whole = Extent {
            volume: VolumeSlot::from_raw(volume),
            sector: Sector::ZERO,
            sectors: SectorCount::from_raw(HOME_SECTORS),
        };
        let journal = group.journal();
        let plan = journal.plan_with(&journal.index_at(at.applied, seq), whole);
        let node = &self.nodes[n];
        for piece in plan.pieces {
            let (first, count) = (piece.sector.get() as usize, piece.sectors.get() as usize);
            let cut = |at: u64, len: usize| Bytes::copy_from_slice(&node.cache.live[at as usize..at as usize + len]);
            let bytes = match piece.source {
                PieceSource::Home => {
                    Bytes::copy_from_slice(&node.homes[volume as usize].live[first * 512..(first + count) * 512])
                }
                PieceSource::Zero => Bytes::from(vec![0; count * 512]),
                PieceSource::Ram(bytes) => bytes,
                PieceSource::Disk(d) => {
                    d.verify(&cut(d.header_at, d.header_len), &cut(d.payload_at, d.payload_len)).unwrap()
                }
            };
            for (i, sector) in bytes.chunks(512).enumerate() {
                let expected = image[first + i];
                let same = sector.iter().all(|b| *b == expected);
                let s = first + i;
                assert!(
                    same,
                    "box {n} at {seq} of {at:?}: volume {volume} sector {s} is {}, not {expected}",
                    sector[0]
                );
            }
        }
        self.views += 1;
    }

    fn step(&mut self) {
        self.now.mono = Mono::from_nanos(self.now.mono.nanos() + self.rng.below(4_000_000));
        self.now.wall = WallMicros::from_raw(self.now.wall.get() + self.rng.below(4000));
        match self.rng.below(20) {
            0..=7 => {
                let n = self.rng.below(2) as usize;
                let len = self.nodes[n].pending.len() as u64;
                if len > 0 {
                    let at = self.rng.below(len) as usize;
                    let (token, effect) = self.nodes[n].pending.swap_remove(at);
                    let answer = self.nodes[n].disk(&effect);
                    self.event(n, Event::Done(token, Ok(answer)));
                }
            }
            8..=15 => self.deliver(),
            16 => {
                for n in 0..2 {
                    let fill = self.nodes[n].fill();
                    self.event(n, Event::Cache(fill));
                    self.event(n, Event::Tick);
                }
            }
            _ => {}
        }
        let ready = |n: &Node| n.group.as_ref().is_some_and(Group::is_ready);
        if !self.connected
            && self.nodes.iter().all(ready)
            && self.nodes[0].group.as_ref().is_some_and(Group::wants_link)
            && self.rng.chance(100)
        {
            self.connected = true;
            self.event(1, Event::Link(LinkInput::Connected));
            self.event(0, Event::Link(LinkInput::Connected));
        }
    }

    fn deliver(&mut self) {
        let from = self.rng.below(2) as usize;
        let line = &mut self.lines[from];
        // Control overtakes bulk, never the other way about.
        let bulk = line.control.is_empty();
        let queue = if bulk { &mut line.bulk } else { &mut line.control };
        let Some((message, payload)) = queue.pop_front() else { return };
        if bulk {
            let room = if matches!(message, Message::Batch(_)) { 64 } else { 0 };
            let bytes = payload.len() as u64 - room;
            self.event(from, Event::Link(LinkInput::Sent(bytes)));
        }
        self.event(1 - from, Event::Link(LinkInput::Message(message, payload)));
    }

    fn crash(&mut self, n: usize) {
        self.crashes += 1;
        let Self { rng, nodes, .. } = self;
        nodes[n].crash(rng);
        self.cut(Some(n));
        if n == 0 {
            // What was not acknowledged may be there or not: the model keeps both.
            self.outstanding.clear();
        }
        self.nodes[n].open(self.now);
        self.drain(n);
        if n == 0 {
            let written = self.nodes[0].group.as_ref().unwrap().journal().written();
            self.history.truncate(written.get() as usize);
        }
        self.check_view(n);
    }

    fn settled(&self) -> bool {
        let at = |n: usize| self.nodes[n].group.as_ref().map(|g| (g.positions(), g.is_applied()));
        let (Some((a, a_done)), Some((b, b_done))) = (at(0), at(1)) else { return false };
        let meta = |n: usize| self.nodes[n].group.as_ref().unwrap().meta();
        let copied = meta(0).peer.as_ref().is_some_and(|p| p.copy.is_none() && p.durable.is_some());
        self.outstanding.is_empty()
            && a_done
            && b_done
            && a.applied == a.written
            && b.applied == a.written
            && copied
            && meta(1).copy.is_none()
    }

    fn run(&mut self, steps: u64) {
        for n in 0..2 {
            self.nodes[n].open(self.now);
            self.drain(n);
        }
        for i in 0..steps {
            if i == steps / 8 {
                // The mirror is added under writes, when there is something to copy.
                let peer = self.nodes[1].id;
                while !self.nodes[0].group.as_ref().unwrap().is_ready() {
                    self.step();
                }
                let group = self.nodes[0].group.as_mut().unwrap();
                group.add_peer(self.now, peer, reprise_link::instance::first([50; 16])).unwrap();
                self.drain(0);
                while !self.nodes[0].group.as_ref().unwrap().superblock_settled() {
                    self.step();
                }
            }
            if self.rng.chance(300) {
                self.host();
            }
            if self.rng.chance(2) {
                self.cut(None);
            }
            if self.rng.chance(10) {
                let n = self.rng.below(2) as usize;
                self.check_view(n);
            }
            if self.rng.chance(1) {
                let n = self.rng.below(2) as usize;
                self.crash(n);
            }
            self.step();
        }
        for _ in 0..400_000 {
            if self.settled() {
                return;
            }
            self.step();
        }
        let at = |n: usize| self.nodes[n].group.as_ref().map(|g| (g.positions(), g.meta().copy));
        panic!("does not converge: {:?} {:?}", at(0), at(1));
    }

    fn check(&self) {
        for v in 0..2 {
            let (a, b) = (&self.nodes[0].homes[v].live, &self.nodes[1].homes[v].live);
            for (s, possible) in self.model[v].iter().enumerate() {
                let sector = &a[s * 512..s * 512 + 512];
                let value = sector[0];
                assert!(sector.iter().all(|b| *b == value), "volume {v} sector {s} is torn");
                assert!(possible.contains(&value), "volume {v} sector {s} is {value}, may be {possible:?}");
            }
            let differs = (0..HOME_SECTORS as usize).find(|s| a[s * 512..s * 512 + 512] != b[s * 512..s * 512 + 512]);
            assert_eq!(differs, None, "homes of volume {v} differ");
        }
    }
}

#[test]
fn a_pair_converges_whatever_is_killed_or_cut() {
    let chosen = std::env::var("REPRISE_SEED").ok().map(|s| s.parse::<u64>().expect("a number"));
    let count = std::env::var("REPRISE_SEEDS").ok().map_or(60, |s| s.parse::<u64>().expect("a number"));
    let seeds: Vec<u64> = chosen.map_or_else(|| (1..=count).collect(), |s| vec![s]);
    let (mut acked, mut crashes, mut cuts, mut copies, mut views) = (0, 0, 0, 0, 0);
    for seed in seeds {
        println!("seed {seed}");
        let mut pair = Pair::new(seed);
        pair.run(12_000);
        pair.check();
        acked += pair.acked;
        crashes += pair.crashes;
        cuts += pair.cuts;
        copies += pair.copies;
        views += pair.views;
    }
    println!(
        "{acked} operations acknowledged, {crashes} power cuts, {cuts} link cuts, {copies} copies complete, {views} moments compared"
    );
}

/// A cache that no cursor frees fills up: the host waits, nothing is refused or lost, and all of it comes back when the
/// cursor moves again. An allocator that says no is asked again only with time.
#[test]
fn a_full_cache_makes_the_host_wait_and_nothing_else() {
    let mut pair = Pair::new(7);
    for n in 0..2 {
        pair.nodes[n].open(pair.now);
        pair.drain(n);
    }
    let peer = pair.nodes[1].id;
    while !pair.nodes[0].group.as_ref().unwrap().is_ready() {
        pair.step();
    }
    pair.nodes[0].group.as_mut().unwrap().add_peer(pair.now, peer, reprise_link::instance::first([50; 16])).unwrap();
    pair.drain(0);
    for _ in 0..400_000 {
        if pair.settled() {
            break;
        }
        pair.step();
    }
    // The mirror goes away; the source's cache holds what it lacks.
    pair.cut(None);
    pair.nodes[1].group = None;
    pair.nodes[1].pending.clear();
    for _ in 0..60_000 {
        pair.host();
        pair.step();
    }
    assert!(pair.nodes[0].free.len() <= 2, "the cache is full: {} segments free", pair.nodes[0].free.len());
    assert!(!pair.outstanding.is_empty(), "hosts wait");
    pair.nodes[1].open(pair.now);
    pair.drain(1);
    for _ in 0..600_000 {
        if pair.settled() {
            break;
        }
        pair.step();
    }
    assert!(pair.settled(), "everything that waited was taken");
    pair.check();
}
