//! A peer that breaks in, and a disk that lies: a group refuses what it cannot keep, stops alone, and opens again.

use bytes::Bytes;
use proptest::prelude::*;
use reprise_engine::{Event, LinkInput, Notice, PeerId};
use reprise_format::batch::PackRecord;
use reprise_format::link::{self as link, BranchLink, CloseReason, GroupOffer, Message};
use reprise_format::unit;
use reprise_link::handshake;
use reprise_types::{BranchId, HistoryHash, Point, RecordKind, SectorCount, Seq};

use crate::bytes::{body, hostile_peer, hostile_superblock, many_registrations};
use crate::harness::{BRANCH, Setup, TestBox, extent, seq, slot};
use crate::pair::Pair;

/// The source's offer of a pair whose copy has not begun.
fn offer(pair: &mut Pair) -> GroupOffer {
    pair.line_held = true;
    pair.dial();
    let offer = pair.a.out.iter().find_map(|(m, _)| match m {
        Message::GroupOffer(offer) => Some(offer.clone()),
        _ => None,
    });
    offer.expect("the source begins with an offer")
}

/// Says to the mirror what a peer says that sends this offer and agrees with every answer.
fn begin(b: &mut TestBox, offer: &GroupOffer) {
    b.message(offer.clone().into(), Bytes::new());
    b.run();
    let state = b.out.iter().rev().find_map(|(m, _)| match m {
        Message::GroupState(state) => Some(state.clone()),
        _ => None,
    });
    if let Some(state) = state {
        b.message(handshake::verdict(offer, &state, &|_: Seq| None).into(), Bytes::new());
        b.run();
    }
}

fn branches(count: u8) -> Vec<BranchLink> {
    let id = |n: u8| if n == 0 { BRANCH } else { BranchId::from_raw([100 + n; 16]) };
    let link = |n| BranchLink {
        branch: id(n),
        parent: if n + 1 == count { BranchId::NIL } else { id(n + 1) },
        fork_seq: Seq::ZERO,
        fork_hash: HistoryHash::NIL,
    };
    (0..count).map(link).collect()
}

/// A paired peer once named the last position of all as the one where its copy begins. That stood in the superblock before
/// the journal counted on from it and ended the process, at each start again.
#[test]
fn a_copy_may_begin_at_the_last_position_there_is() {
    let mut pair = Pair::apart(&Setup::default());
    let honest = offer(&mut pair);
    let durable = Point { seq: Seq::LAST, ..honest.durable };
    begin(&mut pair.b, &GroupOffer { durable, ..honest });
    assert_eq!(pair.b.group.durable(), durable);
    pair.b.restart();
    pair.b.run();
    assert_eq!((pair.b.group.durable(), pair.b.group.positions().applied), (durable, Seq::LAST));
}

/// A lineage of 1,024 branches once did not fit the superblock, which ended the process.
#[test]
fn a_line_is_as_long_as_a_superblock_takes_or_refused() {
    for (count, taken) in [(48, true), (49, false)] {
        let mut pair = Pair::apart(&Setup::default());
        let lineage = branches(count);
        let offer = GroupOffer { lineage, ..offer(&mut pair) };
        begin(&mut pair.b, &offer);
        assert_eq!(pair.b.closed.is_empty(), taken, "{count} branches");
        pair.b.restart();
        pair.b.run();
        assert_eq!(pair.b.stored().branches.len(), if taken { 48 } else { 0 });
    }
}

#[test]
fn an_offer_that_contradicts_itself_ends_the_connection_only() {
    let twice = |link: BranchLink| vec![BranchLink { parent: link.branch, ..link }, link];
    type Change = fn(&mut GroupOffer);
    let cases: [(&str, Change); 5] = [
        ("no line", |o| o.lineage.clear()),
        ("another branch", |o| o.durable.branch = BranchId::from_raw([9; 16])),
        ("more trimmed than there is", |o| o.trimmed.seq = seq(1)),
        ("a parent that is not there", |o| o.lineage[0].parent = BranchId::from_raw([9; 16])),
        ("no branch", |o| (o.lineage[0].branch, o.durable.branch) = (BranchId::NIL, BranchId::NIL)),
    ];
    for (name, change) in cases {
        let mut pair = Pair::apart(&Setup::default());
        let mut offer = offer(&mut pair);
        change(&mut offer);
        begin(&mut pair.b, &offer);
        assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation], "{name}");
        assert!(pair.b.told().iter().any(|n| matches!(n, Notice::LinkFault(_))), "{name} is told");
        assert!(pair.b.stored().branches.is_empty(), "{name}");
    }
    let mut pair = Pair::apart(&Setup::default());
    let mut offer = offer(&mut pair);
    offer.lineage = twice(offer.lineage.remove(0));
    begin(&mut pair.b, &offer);
    assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation], "a branch that is its own parent");
}

#[test]
fn regions_are_taken_for_the_homes_that_are_there_only() {
    let mut pair = Pair::apart(&Setup::default());
    let mut larger = offer(&mut pair);
    larger.volumes[0].sectors = SectorCount::from_raw(1 << 40);
    begin(&mut pair.b, &larger);
    assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation]);
    let mut pair = Pair::apart(&Setup::default());
    let mut other = offer(&mut pair);
    other.volumes[0].slot = slot(9);
    begin(&mut pair.b, &other);
    assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation]);
    assert!(pair.b.stored().branches.is_empty(), "nothing of it was kept");
}

/// The next batch of a mirror at rest, with these records.
fn next_batch(b: &TestBox, records: &[PackRecord]) -> (Message, Bytes) {
    let at = b.group.durable();
    let last = Seq::from_raw(at.seq.get() + records.len() as u64);
    (link::Batch { first: at.seq.next(), last }.into(), body(at, records))
}

#[test]
fn what_units_remember_is_taken_while_the_superblock_has_room() {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![64; 12], ..Setup::default() });
    pair.line_held = true;
    let state = unit::to_payload(&many_registrations(32));
    let mut taken = 0u8;
    for n in 0..12 {
        let record = PackRecord::new(RecordKind::Reservation, extent(n, 0, 0), state.clone());
        let (message, payload) = next_batch(&pair.b, &[record]);
        pair.b.message(message, payload);
        pair.b.run();
        if !pair.b.closed.is_empty() {
            break;
        }
        taken += 1;
    }
    assert!((4..8).contains(&taken), "{taken} states of 8 KiB are taken");
    assert!(!pair.b.group.is_fenced());
    assert_eq!(pair.b.stored().volumes.iter().filter(|v| v.unit.is_some()).count(), usize::from(taken));
    pair.b.restart();
    pair.b.run();
    assert_eq!(pair.b.group.durable().seq.get(), u64::from(taken), "what was refused was not taken in part");
}

#[test]
fn a_size_that_no_volume_has_changes_nothing() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    for sectors in [(1 << 48) + 1, u64::MAX] {
        let size = unit::size_payload(SectorCount::from_raw(sectors));
        let record = PackRecord::new(RecordKind::VolumeResized, extent(0, 0, 0), size);
        let (message, payload) = next_batch(&pair.b, &[record]);
        pair.b.message(message, payload);
        pair.b.run();
    }
    assert_eq!(pair.b.stored().volumes[0].sectors.get(), 4096);
    pair.b.restart();
    pair.b.run();
    assert!(pair.b.group.is_ready());
}

/// Only a disk that lies gets a group there.
#[test]
fn a_group_without_positions_stops_alone() {
    let mut a = TestBox::serving(&Setup::default());
    let mut meta = a.stored();
    let end = Point { seq: Seq::LAST, ..meta.seal };
    (meta.trimmed, meta.seal, meta.applied, meta.applying) = (end, end, Seq::LAST, Seq::LAST);
    a.store(&meta);
    a.restart();
    a.run();
    let io = a.write(extent(0, 0, 1), Bytes::from(vec![1; 512]));
    a.run();
    assert_eq!(a.error(io), reprise_engine::HostError::Fenced);
    assert!(a.group.is_fenced());
    a.tell(Event::Link(PeerId::FIRST, LinkInput::Connected { dialled: true }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_peer_says_the_group_opens_again(script in prop::collection::vec(any::<u8>(), 0..600)) {
        hostile_peer(&script);
    }

    #[test]
    fn whatever_a_superblock_says_a_group_opens_or_says_why_not(script in prop::collection::vec(any::<u8>(), 0..60)) {
        hostile_superblock(&script);
    }
}
