//! Two sessions joined by a pipe that delays, cuts and reconnects: the mirror always holds a prefix, never acknowledges
//! what is not durable, credit is never exceeded, and at the end both are equal.

use std::collections::VecDeque;

use proptest::prelude::*;
use reprise_format::link::{
    Batch, BranchLink, CopyCursor, CopyNeed, GroupOffer, GroupState, Instance, Membership, Message, Row, Side, Volume,
};
use reprise_types::{
    BoxId, BranchId, GroupId, HistoryHash, Mono, Point, Sector, SectorCount, Seq, VolumeId, VolumeSlot,
};

use crate::LinkError;
use crate::copy::CopyMark;
use crate::handshake;
use crate::mirror::{MirrorEvent, MirrorSession, WINDOW_BYTES_MIN};
use crate::source::{SourceEvent, SourceSession};

const BRANCH: BranchId = BranchId::from_raw([1; 16]);
const VOLUME_SECTORS: u64 = 9_000;

fn hash_of(seq: u64) -> HistoryHash {
    let mut bytes = [7u8; 16];
    bytes[..8].copy_from_slice(&seq.to_le_bytes());
    HistoryHash::from_raw(bytes)
}

fn point(seq: u64) -> Point {
    Point { branch: BRANCH, seq: Seq::from_raw(seq), hash: hash_of(seq) }
}

/// What survives a cut, on both sides. A record writes its own Seq over some sectors; content is the Seq per sector.
struct World {
    now: Mono,
    // Source.
    records: Vec<(u64, u64, u64)>,
    batches: Vec<(u64, u64, u64)>,
    proven: u64,
    complete: bool,
    // Mirror.
    durable: Option<u64>,
    applied: u64,
    home: Vec<u64>,
    mark: Option<CopyMark>,
    whole: bool,
    journal_capacity: u64,
}

/// One connection.
struct Wire {
    source: SourceSession,
    mirror: MirrorSession,
    to_mirror: VecDeque<(Message, u64, Vec<u64>)>,
    to_source: VecDeque<Message>,
    reading: VecDeque<crate::copy::CopyRegion>,
    pending: VecDeque<(u64, u64)>,
    regions: VecDeque<(crate::copy::CopyRegion, bool, Vec<u64>)>,
    written_not_flushed: bool,
}

fn volumes() -> Vec<Volume> {
    vec![Volume {
        id: VolumeId::from_raw([3; 16]),
        slot: VolumeSlot::from_raw(0),
        name: "v".into(),
        sectors: SectorCount::from_raw(VOLUME_SECTORS),
        lun: 0,
        block_size: 0,
        thin: false,
        read_only: false,
    }]
}

impl World {
    fn source_durable(&self) -> u64 {
        self.batches.last().map_or(0, |(_, last, _)| *last)
    }

    /// Content of the source as of `seq`.
    fn image(&self, seq: u64) -> Vec<u64> {
        let mut image = vec![0; VOLUME_SECTORS as usize];
        for (n, (sector, sectors, _)) in self.records.iter().enumerate().take(seq as usize) {
            image[*sector as usize..(sector + sectors) as usize].fill(n as u64 + 1);
        }
        image
    }

    fn connect(&self) -> Wire {
        let instance = Instance { acknowledged: [0; 16], current: [9; 16] };
        let lineage =
            vec![BranchLink { branch: BRANCH, parent: BranchId::NIL, fork_seq: Seq::ZERO, fork_hash: hash_of(0) }];
        let copy = if self.complete { CopyNeed::Complete } else { CopyNeed::UnderWay };
        let offer = GroupOffer {
            group: GroupId::from_raw([5; 16]),
            box_id: BoxId::from_raw([1; 16]),
            role: Side::Source,
            lineage: lineage.clone(),
            durable: point(self.source_durable()),
            trimmed: point(0),
            serving: true,
            ceded: None,
            copy,
            volumes: volumes(),
            peer_proven: (self.proven > 0).then(|| point(self.proven)),
            instance,
            peer_instance_seen: None,
        };
        let mut wire = Wire {
            source: SourceSession::new(self.now, offer),
            mirror: MirrorSession::new(self.now, WINDOW_BYTES_MIN),
            to_mirror: VecDeque::new(),
            to_source: VecDeque::new(),
            reading: VecDeque::new(),
            pending: VecDeque::new(),
            regions: VecDeque::new(),
            written_not_flushed: false,
        };
        wire.mirror.set_journal_free(self.journal_capacity);
        wire
    }

    fn state(&self, offer: &GroupOffer) -> GroupState {
        GroupState {
            group: offer.group,
            box_id: BoxId::from_raw([2; 16]),
            membership: Membership::Known,
            role: Side::Mirror,
            lineage: self.durable.map_or(vec![], |_| offer.lineage.clone()),
            durable: self.durable.map(point),
            applied: Seq::from_raw(self.applied),
            complete: self.whole,
            copy_cursor: self.mark.map(|m| m.cursor),
            copy_reach: self.mark.and_then(|m| m.reach),
            ceded: None,
            hash_at_offer: None,
            instance: Instance { acknowledged: [0; 16], current: [8; 16] },
            peer_instance_seen: None,
        }
    }

    fn set_free(&self, wire: &mut Wire) {
        let used: u64 = self
            .batches
            .iter()
            .filter(|(_, last, _)| *last > self.applied && self.durable.is_some_and(|d| *last <= d))
            .map(|(_, _, bytes)| bytes)
            .sum();
        wire.mirror.set_journal_free(self.journal_capacity.saturating_sub(used));
    }

    /// One thing happens, chosen by `dice`. An error is a broken promise of one of the sessions.
    fn step(&mut self, wire: &mut Wire, dice: u8, size: u16) -> Result<(), LinkError> {
        self.now = Mono::from_nanos(self.now.nanos() + 3_000_000);
        let now = self.now;
        match dice % 12 {
            0 | 1 if self.batches.len() < 400 => {
                let first = self.source_durable() + 1;
                let count = 1 + u64::from(size % 3);
                for n in 0..count {
                    let sectors = 1 + (u64::from(size) + n) % 700;
                    let sector = (u64::from(size) * 31 + n * 977) % (VOLUME_SECTORS - sectors);
                    self.records.push((sector, sectors, 0));
                }
                self.batches.push((first, first + count - 1, 4096 + u64::from(size) * 64));
                wire.source.set_durable(point(self.source_durable()));
            }
            2 | 3 => {
                if let Some(first) = wire.source.next_wanted() {
                    let batch = self.batches.iter().find(|(f, _, _)| *f == first.get()).copied();
                    let (f, last, bytes) = batch.expect("wanted batches begin at batch boundaries");
                    if wire.source.batch_fits(bytes) {
                        let last = Seq::from_raw(last);
                        wire.source.batch_sent(first, last, bytes);
                        assert_eq!(f, first.get());
                        wire.to_mirror.push_back((Batch { first, last }.into(), bytes, vec![]));
                    }
                }
            }
            4 => {
                if let Some(region) = wire.source.next_region() {
                    wire.reading.push_back(region);
                } else if let Some(done) = wire.source.poll_copy_done() {
                    wire.to_mirror.push_back((done.into(), 0, vec![]));
                }
            }
            5 => {
                if let Some(region) = wire.reading.pop_front() {
                    let image = self.image(region.view_seq.get());
                    let from = region.sector.get() as usize;
                    let content = image[from..from + region.sectors.get() as usize].to_vec();
                    let zero = content.iter().all(|s| *s == 0);
                    let bytes = if zero { 0 } else { region.sectors.get() * 512 };
                    wire.source.region_sent(&region, bytes);
                    wire.to_mirror.push_back((region.extent(zero).into(), bytes, content));
                }
            }
            6 | 7 => {
                while let Some(message) = wire.source.poll_message() {
                    // Control overtakes bulk, but nothing overtakes control.
                    let at = wire.to_mirror.iter().take_while(|(m, _, _)| m.kind().stream() as u8 == 0).count();
                    wire.to_mirror.insert(at, (message, 0, vec![]));
                }
                if let Some((message, bytes, content)) = wire.to_mirror.pop_front() {
                    let event = wire.mirror.handle(now, message, bytes)?;
                    self.on_mirror(wire, event, content);
                }
            }
            8 => {
                if size.is_multiple_of(8)
                    && let Some((region, zero, content)) = wire.regions.pop_front()
                {
                    let from = region.sector.get() as usize;
                    let to = from + region.sectors.get() as usize;
                    if zero {
                        self.home[from..to].fill(0)
                    } else {
                        self.home[from..to].copy_from_slice(&content)
                    }
                    wire.mirror.region_written(region.slot, region.sector);
                    wire.written_not_flushed = true;
                }
                if let Some((last, _)) = wire.pending.pop_front() {
                    self.durable = Some(last);
                    wire.mirror.batch_durable(point(last));
                    self.set_free(wire);
                }
            }
            9 => {
                let limit = wire.mirror.apply_limit().map_or(u64::MAX, Seq::get);
                if self.durable.is_some_and(|d| self.applied < d) && self.applied < limit {
                    let (sector, sectors, _) = self.records[self.applied as usize];
                    self.applied += 1;
                    self.home[sector as usize..(sector + sectors) as usize].fill(self.applied);
                    wire.mirror.set_applied(Seq::from_raw(self.applied));
                    self.set_free(wire);
                }
                if wire.written_not_flushed {
                    wire.written_not_flushed = false;
                    if let Some(mark) = wire.mirror.copy_flush_mark() {
                        self.mark = Some(mark);
                        wire.mirror.copy_flushed(mark.cursor);
                    }
                }
                if wire.mirror.copy_complete() {
                    self.whole = true;
                }
            }
            _ => {
                while let Some(message) = wire.mirror.poll_message() {
                    wire.to_source.push_back(message);
                }
                if let Some(message) = wire.to_source.pop_front() {
                    let lookup = |seq: Seq| Some(hash_of(seq.get()));
                    match wire.source.handle(now, message, &lookup)? {
                        Some(SourceEvent::Verdict { verdict, .. }) => {
                            assert!(matches!(verdict.row, Row::Resume | Row::StartCopy | Row::ContinueCopy));
                        }
                        Some(SourceEvent::Acked { durable, .. }) => {
                            assert!(Some(durable.seq.get()) <= self.durable, "acknowledged past durable");
                            self.proven = durable.seq.get();
                        }
                        _ => {}
                    }
                    if wire.source.is_streaming() && wire.source.copy_complete() {
                        self.complete = true;
                    }
                }
            }
        }
        wire.source.tick(now)?;
        wire.mirror.tick(now)
    }

    fn on_mirror(&mut self, wire: &mut Wire, event: Option<MirrorEvent>, content: Vec<u64>) {
        match event {
            Some(MirrorEvent::Offer(offer)) => {
                let mut state = self.state(&offer);
                let lookup = |seq: Seq| self.durable.filter(|d| *d >= seq.get()).map(|_| hash_of(seq.get()));
                state.hash_at_offer = handshake::hash_at_offer(&offer, &state.lineage, &lookup);
                wire.mirror.answer(state);
            }
            Some(MirrorEvent::Verdict { row, start, .. }) => {
                if row == Row::StartCopy {
                    let start = start.expect("a copy starts somewhere").seq.get();
                    (self.durable, self.applied, self.mark) = (Some(start), start, None);
                }
            }
            Some(MirrorEvent::Batch { last, .. }) => wire.pending.push_back((last.get(), 0)),
            Some(MirrorEvent::Region { region, zero }) => wire.regions.push_back((region, zero, content)),
            Some(MirrorEvent::CopyDone { .. }) | None => {}
        }
    }
}

fn run(script: &[(u8, u16)], cuts: &[u16], preload: u16, journal_capacity: u64) -> Result<(), LinkError> {
    let mut world = World {
        now: Mono::from_millis(1),
        records: vec![],
        batches: vec![],
        proven: 0,
        complete: false,
        durable: None,
        applied: 0,
        home: vec![u64::MAX; VOLUME_SECTORS as usize],
        mark: None,
        whole: false,
        journal_capacity,
    };
    for n in 0..u64::from(preload) {
        world.records.push(((n * 613) % 8_000, 1 + n % 900, 0));
        world.batches.push((n + 1, n + 1, 4096));
    }
    let mut wire = world.connect();
    for (n, (dice, size)) in script.iter().enumerate() {
        if cuts.contains(&(n as u16)) {
            wire = world.connect();
        }
        world.step(&mut wire, *dice, *size)?;
        if world.whole && world.durable == Some(world.applied) {
            assert_eq!(world.home, world.image(world.applied), "a whole mirror is the source's image at one Seq");
        }
    }
    // No more writes and no more cuts: both must become equal.
    wire = world.connect();
    for n in 0..60_000u32 {
        world.step(&mut wire, 2 + (n % 10) as u8, 0)?;
        if world.complete && world.whole && world.applied == world.source_durable() && world.proven == world.applied {
            break;
        }
    }
    assert!(world.whole && world.complete, "copy did not end: cursor {:?}", world.mark);
    assert_eq!(world.proven, world.source_durable(), "acknowledged is not everything");
    assert_eq!(world.applied, world.source_durable(), "applied is not everything");
    assert_eq!(world.home, world.image(world.applied));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn sessions_over_a_lossy_pipe_converge(
        script in proptest::collection::vec((any::<u8>(), any::<u16>()), 0..2500),
        cuts in proptest::collection::vec(0u16..2500, 0..12),
        preload in 0u16..50,
        capacity in prop_oneof![Just(9u64 << 20), Just(1u64 << 30), Just(5u64 << 20)],
    ) {
        run(&script, &cuts, preload, capacity)?;
    }
}

#[test]
fn a_wrong_hash_is_divergence_and_wild_acks_are_refused() {
    use reprise_format::link::Ack;
    let mut world = World {
        now: Mono::from_millis(1),
        records: vec![(0, 1, 0); 10],
        batches: (1..=10).map(|n| (n, n, 4096)).collect(),
        proven: 0,
        complete: true,
        durable: Some(4),
        applied: 0,
        home: vec![0; VOLUME_SECTORS as usize],
        mark: None,
        whole: true,
        journal_capacity: 1 << 30,
    };
    let mut wire = world.connect();
    for n in 0..200u32 {
        world.step(&mut wire, [6, 10, 2][n as usize % 3], 0).unwrap();
    }
    assert_eq!(wire.source.sent(), Seq::from_raw(10));
    let now = world.now;
    let lookup = |seq: Seq| (seq <= Seq::from_raw(8)).then(|| hash_of(seq.get()));
    let ack = |received, durable: Point, applied| -> Message {
        Ack { received: Seq::from_raw(received), durable, applied: Seq::from_raw(applied), trouble: None }.into()
    };
    let other_line = Point { branch: BranchId::from_raw([9; 16]), ..point(6) };
    let wrong_hash = Point { hash: hash_of(99), ..point(6) };
    let at = Seq::from_raw;
    let cases = [
        (ack(11, point(6), 0), LinkError::AckPastSent { acked: at(11), sent: at(10) }),
        (ack(10, point(3), 0), LinkError::AckBackwards { acked: at(3), before: at(4) }),
        (ack(5, point(6), 0), LinkError::AckOrder { received: at(5), durable: at(6), applied: at(0) }),
        (ack(10, point(6), 7), LinkError::AckOrder { received: at(10), durable: at(6), applied: at(7) }),
        (ack(10, wrong_hash, 0), LinkError::Diverged { at: at(6) }),
        (ack(10, other_line, 0), LinkError::Diverged { at: at(6) }),
        (ack(10, point(9), 0), LinkError::AckUnproven { acked: at(9) }),
    ];
    for (message, error) in cases {
        let mut source = wire.source.clone();
        assert_eq!(source.handle(now, message, &lookup), Err(error));
        assert_eq!(source.acked(), Some(point(4)), "nothing is believed");
    }
    let good = wire.source.handle(now, ack(10, point(6), 2), &lookup).unwrap();
    assert!(matches!(good, Some(SourceEvent::Acked { .. })));

    let batch = |first, last| Message::from(Batch { first: at(first), last: at(last) });
    let received = wire.mirror.received().get();
    for (first, last) in [(received + 2, received + 3), (received, received), (received + 1, received), (0, u64::MAX)] {
        let answer = wire.mirror.clone().handle(now, batch(first, last), 4096);
        assert!(matches!(answer, Err(LinkError::Gap { .. })), "{first}..={last}: {answer:?}");
    }
    let flood = wire.mirror.handle(now, batch(received + 1, received + 1), 1 << 40);
    assert!(matches!(flood, Err(LinkError::CreditExceeded { .. })));
}

#[test]
fn cursor_of_a_copy_is_ordered_by_slot_then_sector() {
    let at = |slot, sector| CopyCursor { slot: VolumeSlot::from_raw(slot), sector: Sector::from_raw(sector) };
    assert!(at(0, 9) < at(1, 0) && at(1, 0) < at(1, 1));
}
