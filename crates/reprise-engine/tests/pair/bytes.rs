//! A group that is told whatever bytes say: by its peer, message after message, or by the superblock on its disk.
//!
//! Bytes are a script here. Most of what they can say is nearly right, since nonsense is refused by the decoders and never
//! gets as far as a superblock, a recovery or a status. Whatever they say, nothing ends but the connection; and a group
//! that a peer has told anything opens again from what it wrote. Run with random bytes by the tests and with chosen ones by
//! the fuzzer.

use bytes::Bytes;
use reprise_engine::{Effect, Event, HostOp, LinkInput, PeerId};
use reprise_format::batch::{BodyPlace, PackRecord, pack_header};
use reprise_format::link::{
    self as link, BatchAgain, BatchWanted, BranchLink, Close, CloseReason, CopyDone, CopyExtent, CopyNeed, Credit,
    GroupOffer, GroupState, Heartbeat, Membership, Message, Row, Side, Verdict, VerifyAsk, VerifyClose, VerifyFix,
    VerifyOpen,
};
use reprise_format::superblock::GroupBody;
use reprise_format::unit;
use reprise_link::handshake;
use reprise_types::{
    BoxId, BranchId, Extent, HistoryHash, InitiatorPort, Point, RecordKind, Registration, Sector, SectorCount, Seq,
    UnitState, VolumeSlot, WallMicros,
};

use crate::harness::{BRANCH, FAULT, GROUP, STEPS_MAX, Setup, TestBox, disk_kind, extent, home_extent, seq};

/// Steps of a script, at most.
const SCRIPT_MAX: usize = 40;

/// Bytes of the longest name of a session.
const PORT_LEN: usize = 240;

/// Bytes as a script; zeros behind its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::from(self.byte()) % values.len()]
    }

    fn number(&mut self) -> u64 {
        let last = Seq::LAST.get();
        self.of(&[0, 1, 2, 3, 7, 1 << 20, 1 << 48, last - 1, last, last + 1, u64::MAX - 1, u64::MAX])
    }

    fn seq(&mut self) -> Seq {
        Seq::from_raw(self.number())
    }

    fn sectors(&mut self) -> u64 {
        self.of(&[0, 1, 8, 100, 512, 2047, 2048, 2049, 4096, 1 << 47, 1 << 48, 1 << 55, u64::MAX])
    }

    fn slot(&mut self) -> VolumeSlot {
        VolumeSlot::from_raw(self.of(&[0, 0, 0, 1, 1, 2, 77, u16::MAX]))
    }

    fn hash(&mut self) -> HistoryHash {
        HistoryHash::from_raw([self.byte() % 4; 16])
    }

    fn branch(&mut self) -> BranchId {
        self.of(&[BRANCH, BRANCH, BRANCH, BranchId::from_raw([9; 16]), BranchId::NIL])
    }

    /// Often where the group is.
    fn point(&mut self, known: Point) -> Point {
        match self.byte() % 3 {
            0 => known,
            1 => Point { seq: Seq::from_raw(known.seq.get().wrapping_add(self.number())), ..known },
            _ => Point { branch: self.branch(), seq: self.seq(), hash: self.hash() },
        }
    }

    fn lineage(&mut self, of: Point) -> Vec<BranchLink> {
        let first =
            |branch| BranchLink { branch, parent: BranchId::NIL, fork_seq: Seq::ZERO, fork_hash: HistoryHash::NIL };
        let branches = self.of(&[0u8, 1, 1, 1, 1, 2, 47, 48, 49]);
        let id = |n: u8| if n == 0 { of.branch } else { BranchId::from_raw([100 + n; 16]) };
        let mut line: Vec<BranchLink> =
            (0..branches).map(|n| BranchLink { parent: id(n + 1), ..first(id(n)) }).collect();
        if let Some(oldest) = line.last_mut() {
            oldest.parent = BranchId::NIL;
        }
        if self.byte() % 8 == 7 {
            let (branch, parent, fork_seq) = (self.branch(), self.branch(), self.seq());
            line.push(BranchLink { branch, parent, fork_seq, fork_hash: self.hash() });
        }
        line
    }

    fn offer(&mut self, b: &TestBox) -> GroupOffer {
        let durable = self.point(match b.group.meta().branches.is_empty() {
            true => Point { branch: BRANCH, seq: seq(5), hash: HistoryHash::from_raw([5; 16]) },
            false => b.group.durable(),
        });
        let mut volumes = b.group.link_volumes();
        if self.byte() % 4 == 3
            && let Some(volume) = volumes.first_mut()
        {
            volume.slot = self.slot();
            volume.sectors = SectorCount::from_raw(self.sectors());
        }
        let peer = b.group.meta().peer();
        GroupOffer {
            group: GROUP,
            box_id: BoxId::from_raw([1; 16]),
            role: Side::Source,
            lineage: self.lineage(durable),
            durable,
            trimmed: if self.flag() { Point { seq: Seq::ZERO, ..durable } } else { self.point(durable) },
            serving: self.flag(),
            ceded: None,
            copy: self.of(&[CopyNeed::Needed, CopyNeed::UnderWay, CopyNeed::Complete]),
            volumes,
            peer_proven: None,
            instance: reprise_link::instance::first([11; 16]),
            peer_instance_seen: peer.map(|p| p.instance.current),
        }
    }

    /// What an honest peer says to the answer, or not.
    fn verdict(&mut self, offer: &GroupOffer, state: &GroupState) -> Verdict {
        let held = state.durable.map(|d| d.hash);
        let honest = handshake::verdict(offer, state, &|_: Seq| held);
        if self.byte() % 4 != 3 {
            return honest;
        }
        let start = if self.flag() { Some(self.point(offer.durable)) } else { None };
        Verdict { row: self.of(Row::ALL), hash_at_state: Some(self.hash()), hash_at_reach: None, start }
    }

    /// A batch that follows, with records of any kind; now and then of a history that is not this one.
    fn batch(&mut self, b: &TestBox) -> (Message, Bytes) {
        let at = b.group.durable();
        let at = if self.byte() % 8 == 7 { self.point(at) } else { at };
        let at = Point { seq: at.seq.min(Seq::LAST), ..at };
        let count = 1 + self.byte() % 3;
        let records: Vec<PackRecord> = (0..count)
            .map(|_| {
                let slot = self.slot();
                let sector = Sector::from_raw(self.sectors() % (1 << 47));
                let none = Extent { volume: slot, sector: Sector::ZERO, sectors: SectorCount::from_raw(0) };
                let run = |n| Extent { volume: slot, sector, sectors: SectorCount::from_raw(n) };
                let resized = unit::size_payload(SectorCount::from_raw(1 + self.sectors() % (1 << 60)));
                match self.byte() % 6 {
                    0 => PackRecord::new(RecordKind::Zero, run(1 + self.sectors() % (1 << 30)), Bytes::new()),
                    1 => PackRecord::new(RecordKind::VolumeResized, none, resized),
                    2 => PackRecord::new(
                        RecordKind::Reservation,
                        none,
                        unit::to_payload(&many_registrations(self.byte())),
                    ),
                    3 => PackRecord::new(RecordKind::Reservation, none, Bytes::from(vec![self.byte(); 512])),
                    4 => PackRecord::new(RecordKind::VolumeAdded, none, Bytes::from(vec![self.byte(); 512])),
                    _ => PackRecord::new(RecordKind::Write, run(2), Bytes::from(vec![self.byte(); 1024])),
                }
            })
            .collect();
        let message =
            link::Batch { first: at.seq.next(), last: Seq::from_raw(at.seq.get().saturating_add(count.into())) };
        (message.into(), body(at, &records))
    }

    fn message(&mut self, b: &TestBox) -> (Message, Bytes) {
        let id = u64::from(self.byte() % 2);
        let (slot, sector) = (self.slot(), Sector::from_raw(self.sectors()));
        let sectors = SectorCount::from_raw(self.sectors());
        let payload = |n: u64| Bytes::from(vec![7; (n.min(2049) * 512) as usize]);
        let message: Message = match self.byte() % 14 {
            0..=3 => return self.batch(b),
            4..=6 => {
                let zero = self.flag();
                let next = b.group.meta().copy().and_then(|c| c.cursor).map_or(0, |c| c.sector.get());
                let sector = if self.flag() { sector } else { Sector::from_raw(next) };
                let (view_seq, view_hash) = (self.point(b.group.durable()).seq, Some(self.hash()));
                let extent = CopyExtent { slot, sector, sectors, view_seq, zero, view_hash };
                return (extent.into(), if zero { Bytes::new() } else { payload(sectors.get()) });
            }
            7 => CopyDone { r1: self.point(b.group.durable()).seq }.into(),
            8 => VerifyOpen { id, at: self.point(b.group.durable()) }.into(),
            9 => VerifyAsk { id, slot, sector, sectors, grain: SectorCount::from_raw(self.sectors()) }.into(),
            10 => return (VerifyFix { id, slot, sector, sectors }.into(), payload(sectors.get())),
            11 => BatchWanted { first: self.seq(), last: self.seq() }.into(),
            12 => BatchAgain { first: self.seq(), last: self.seq(), found: self.flag() }.into(),
            _ => match self.byte() % 4 {
                0 => Heartbeat { id: self.number(), echo: self.number() }.into(),
                1 => VerifyClose { id }.into(),
                2 => Credit { bytes: self.number(), journal_bytes: self.number() }.into(),
                _ => Close { reason: CloseReason::Busy, detail: "enough".into(), trouble: None }.into(),
            },
        };
        (message, Bytes::new())
    }
}

/// A state that takes this many registrations of the longest names.
pub fn many_registrations(count: u8) -> UnitState {
    let count = usize::from(count) % (UnitState::REGISTRATIONS_MAX + 1);
    let port = |n: usize| InitiatorPort::from_raw(&format!("{n:0>width$}", width = PORT_LEN));
    let registration = |n| Registration { port: port(n), relative_port: 1, key: u64::MAX };
    UnitState { registrations: (0..count).map(registration).collect(), ..UnitState::default() }
}

/// A batch's body behind its room, as it comes over the link.
pub fn body(at: Point, records: &[PackRecord]) -> Bytes {
    let wall = WallMicros::from_raw(1);
    let place = BodyPlace {
        group: GROUP,
        branch: at.branch,
        first_seq: at.seq.next(),
        h_before: at.hash,
        wall_raw: wall,
        wall_forced: WallMicros::from_raw(u64::MAX),
    };
    let (head, _) = pack_header(&place, records);
    let mut out = head.to_vec();
    records.iter().for_each(|r| out.extend_from_slice(&r.payload));
    Bytes::from(out)
}

/// Hands a message over as it comes out of the decoder, if the decoder lets it through.
fn hand_over(b: &mut TestBox, message: &Message, payload: Bytes) {
    if let Ok(message) = Message::decode_meta(message.kind(), &message.encode_meta()) {
        b.message(message, payload);
    }
}

/// The disks carry everything out; what lies outside of them is an error, as of the node's.
fn settle(b: &mut TestBox) {
    for _ in 0..STEPS_MAX {
        if b.wants > 0 {
            b.grant();
            continue;
        }
        let Some(effect) = b.asked.pop_front() else { return check(b) };
        let inside = |e: Extent| {
            let home = b.homes.get(usize::from(e.volume.get()));
            let end = e.sector.checked_add(e.sectors).and_then(Sector::byte_offset);
            home.zip(end).is_some_and(|(home, end)| end <= home.len() as u64)
        };
        let in_cache = |at: u64, len: usize| at.checked_add(len as u64).is_some_and(|end| end <= b.cache.len() as u64);
        let fits = match &effect {
            Effect::ReadCache { at, len, .. } => in_cache(*at, *len),
            Effect::WriteCache { at, bufs, .. } => in_cache(*at, bufs.iter().map(Bytes::len).sum()),
            other => home_extent(other).is_none_or(inside),
        };
        match (fits, disk_kind(&effect)) {
            (false, Some((_, token))) => b.tell(Event::Done(token, Err(FAULT))),
            _ => b.answer(&effect),
        }
    }
    panic!("no end of effects");
}

/// What the node asks all the time.
fn check(b: &mut TestBox) {
    let _ = (b.group.positions(), b.group.stats(), b.group.segments(), b.group.deadline());
    for volume in b.group.link_volumes() {
        let _ = volume.sectors.bytes();
    }
    if !b.closed.is_empty() {
        b.closed.clear();
        b.out.clear();
        b.tell(Event::Link(PeerId::FIRST, LinkInput::Disconnected));
    }
}

fn connect(b: &mut TestBox) {
    b.tell(Event::Link(PeerId::FIRST, LinkInput::Disconnected));
    b.closed.clear();
    b.out.clear();
    b.connected();
}

/// A peer tells a mirror whatever the bytes say. In the end, and now and then between, the mirror opens again.
pub fn hostile_peer(input: &[u8]) {
    let mut script = Script(input);
    let mut b = TestBox::mirror(&Setup { segments: 3, ..Setup::default() });
    settle(&mut b);
    connect(&mut b);
    for _ in 0..SCRIPT_MAX {
        if script.0.is_empty() {
            break;
        }
        match script.byte() % 8 {
            0 | 1 => {
                connect(&mut b);
                let offer = script.offer(&b);
                hand_over(&mut b, &offer.clone().into(), Bytes::new());
                settle(&mut b);
                let state = b.out.iter().find_map(|(m, _)| match m {
                    Message::GroupState(state) if state.membership == Membership::Known => Some(state.clone()),
                    _ => None,
                });
                if let Some(state) = state {
                    let verdict = script.verdict(&offer, &state);
                    hand_over(&mut b, &verdict.into(), Bytes::new());
                }
            }
            2 => b.pass(u64::from(script.byte())),
            3 if script.byte() % 4 == 3 => b.restart(),
            _ => {
                let (message, payload) = script.message(&b);
                hand_over(&mut b, &message, payload);
            }
        }
        settle(&mut b);
    }
    b.restart();
    settle(&mut b);
}

/// Changes a superblock that is good in some places.
fn spoil(script: &mut Script<'_>, body: &mut GroupBody) {
    let number = script.number();
    match script.byte() % 22 {
        0 => body.applied = number,
        1 => body.applying = number,
        2 => body.trimmed.iter_mut().for_each(|p| p.seq = number),
        3 => body.seal.iter_mut().for_each(|p| p.seq = number),
        4 => body.peers.iter_mut().filter_map(|p| p.durable.as_mut()).for_each(|p| p.seq = number),
        5 => body.copy.iter_mut().for_each(|c| (c.complete_at, c.sector) = (number, number)),
        6 => body.copy.iter_mut().filter_map(|c| c.reach.as_mut()).for_each(|p| p.seq = number),
        7 => body.volumes.iter_mut().for_each(|v| v.sectors = number),
        8 => body.volumes.iter_mut().for_each(|v| v.slot = number as u32),
        9 => body.volumes.iter_mut().for_each(|v| v.lun = number as u32),
        10 => body.next_slot = number as u32,
        11 => body.generation_floor = number,
        12 => body.incarnation = number as u32,
        13 => body.role = number as u32 % 4,
        14 => body.branches.clear(),
        15 => body.branches = vec![body.branches.first().cloned().unwrap_or_default(); usize::from(script.byte())],
        16 => body.branches.iter_mut().filter_map(|b| b.fork.as_mut()).for_each(|f| f.seq = number),
        17 => body.volumes = vec![body.volumes.first().cloned().unwrap_or_default(); usize::from(script.byte())],
        18 => body.peers.clear(),
        19 => body.volumes.clear(),
        20 => body.fenced = "a reason".to_owned(),
        _ => body.name = "line\nbreak".to_owned(),
    }
}

/// A group is opened from a superblock that says whatever the bytes say: it opens, or it says why not. One that opened
/// serves a host and a peer.
pub fn hostile_superblock(input: &[u8]) {
    let mut script = Script(input);
    let setup = Setup { segments: 3, ..Setup::default() };
    let mut b = if script.flag() { TestBox::source(&setup) } else { TestBox::mirror(&setup) };
    settle(&mut b);
    if script.flag() {
        b.write(extent(0, 3, 1), Bytes::from(vec![1; 512]));
        settle(&mut b);
    }
    let mut body = b.stored().to_body();
    for _ in 0..=script.byte() % 3 {
        spoil(&mut script, &mut body);
    }
    b.store_body(&body);
    if b.try_restart().is_err() {
        return;
    }
    settle(&mut b);
    let (sector, sectors) = (script.sectors(), script.sectors());
    b.ask(HostOp::Read(extent(0, sector, sectors.min(4096))));
    settle(&mut b);
    b.write(extent(0, 5, 1), Bytes::from(vec![2; 512]));
    settle(&mut b);
    connect(&mut b);
    let offer = script.offer(&b);
    hand_over(&mut b, &offer.into(), Bytes::new());
    settle(&mut b);
    for _ in 0..4 {
        b.pass(50);
        settle(&mut b);
    }
}
