//! The handshake table at its edges. The rows themselves are walked inside the crate.

use reprise_format::link::{CopyNeed, GroupOffer, GroupState, Hello, HelloKind, Row, Side};
use reprise_link::handshake::{GreetError, Known, decide, greet, hash_at_offer, place_on_line};
use reprise_types::{BoxId, HistoryHash, Point, Position, Seq};

use crate::common::*;

fn at(on: u8, n: u64) -> Point {
    Point { branch: branch(on), ..point(n) }
}

fn at_state(at_state: Option<HistoryHash>) -> Known {
    Known { at_state, at_reach: None }
}

type Change = fn(&mut GroupOffer, &mut GroupState);

#[test]
fn the_row_at_the_edges_of_what_is_proven_and_held() {
    let h = |n| Some(hash(n));
    let cases: [(&str, Option<_>, Row, Change); 12] = [
        ("the mirror is exactly where it had proved to be", h(90), Row::Resume, |o, _| o.peer_proven = Some(at(1, 90))),
        ("a record behind", h(90), Row::WentBackwards, |o, _| o.peer_proven = Some(at(1, 91))),
        ("it has gone on to the next branch since", h(97), Row::Resume, |o, s| {
            (o.lineage, o.peer_proven) = (vec![fork(2, 1, 95), fork(1, 0, 0)], Some(at(1, 94)));
            (o.durable, s.durable) = (at(2, 100), Some(at(2, 97)));
            s.lineage = o.lineage.clone();
        }),
        ("it is back on the branch before, at a larger Seq", h(95), Row::WentBackwards, |o, s| {
            (o.lineage, o.peer_proven) = (vec![fork(2, 1, 95), fork(1, 0, 0)], Some(at(2, 96)));
            (o.durable, s.durable) = (at(2, 100), Some(at(1, 95)));
        }),
        ("what it had proved was on a line that was left", h(90), Row::Resume, |o, _| o.peer_proven = Some(at(9, 99))),
        ("at what is trimmed", h(20), Row::Resume, |o, s| (o.peer_proven, s.durable) = (None, Some(at(1, 20)))),
        ("behind it, though h is known", h(19), Row::IntervalNeeded, |o, s| {
            (o.peer_proven, s.durable) = (None, Some(at(1, 19)));
        }),
        ("within it, but h is not known", None, Row::IntervalNeeded, |_, _| {}),
        ("the mirror is exactly where the source is", h(100), Row::Resume, |_, s| s.durable = Some(at(1, 100))),
        ("an old source whose h differs", h(90), Row::Diverged, |o, s| {
            (o.lineage, o.durable) = (vec![fork(2, 1, 95), fork(1, 0, 0)], at(2, 100));
            (s.role, s.durable) = (Side::Source, Some(Point { hash: hash(1), ..at(1, 90) }));
        }),
        ("an old source whose h is not known", None, Row::Diverged, |o, s| {
            (o.lineage, o.durable) = (vec![fork(2, 1, 95), fork(1, 0, 0)], at(2, 100));
            s.role = Side::Source;
        }),
        ("forked before the source's end, which has that h by chance", None, Row::Diverged, |o, s| {
            (s.lineage, s.durable) = (vec![fork(2, 1, 90), fork(1, 0, 0)], Some(at(2, 130)));
            (s.role, s.hash_at_offer) = (Side::Source, Some(o.durable.hash));
        }),
    ];
    for (name, hash_at_state, row, change) in cases {
        let (mut offer, mut state) = (offer(), state());
        change(&mut offer, &mut state);
        assert_eq!(decide(&offer, &state, at_state(hash_at_state)), row, "{name}");
    }
}

#[test]
fn both_ends_have_to_be_the_boxes_that_met_before() {
    let row = |peer_seen: Option<u8>, own_seen: Option<u8>| {
        let offer = GroupOffer { peer_instance_seen: peer_seen.map(|n| [n; 16]), ..offer() };
        let state = GroupState { peer_instance_seen: own_seen.map(|n| [n; 16]), ..state() };
        decide(&offer, &state, at_state(Some(hash(90))))
    };
    // The mirror's instances are 3 (confirmed) and 4 (in use), the source's 1 and 2.
    for (peer_seen, own_seen) in [(Some(3), Some(1)), (Some(4), Some(2)), (None, None)] {
        assert_eq!(row(peer_seen, own_seen), Row::Resume, "{peer_seen:?} {own_seen:?}");
    }
    for (peer_seen, own_seen) in [(Some(5), Some(1)), (Some(3), Some(5)), (Some(5), Some(5)), (Some(5), None)] {
        assert_eq!(row(peer_seen, own_seen), Row::ClonedIdentity, "{peer_seen:?} {own_seen:?}");
    }
}

#[test]
fn a_mirror_that_holds_nothing_is_new_or_has_lost_everything() {
    let row = |role, copy| {
        decide(&GroupOffer { copy, ..offer() }, &GroupState { role, durable: None, ..state() }, at_state(None))
    };
    assert_eq!(row(Side::Mirror, CopyNeed::Needed), Row::StartCopy);
    assert_eq!(row(Side::Mirror, CopyNeed::UnderWay), Row::StartCopy);
    assert_eq!(row(Side::Mirror, CopyNeed::Complete), Row::WentBackwards);
    assert_eq!(row(Side::Source, CopyNeed::Needed), Row::BothSources);
}

#[test]
fn a_position_is_part_of_a_line_up_to_the_fork_of_the_next_branch() {
    let lineage = [fork(3, 2, 50), fork(2, 1, 30), fork(1, 0, 0)];
    let cases = [
        (3, 50, Some(0)),
        (3, 1_000, Some(0)),
        (2, 50, Some(1)),
        (2, 51, None),
        (1, 30, Some(2)),
        (1, 31, None),
        (1, 0, Some(2)),
        (9, 1, None),
    ];
    for (on, n, expected) in cases {
        let position = Position { branch: branch(on), seq: seq(n) };
        assert_eq!(place_on_line(&lineage, position), expected, "branch {on} at {n}");
    }
    assert_eq!(place_on_line(&[], Position { branch: branch(1), seq: seq(1) }), None);
}

#[test]
fn the_asked_box_looks_up_the_offer_only_on_its_own_line() {
    let known = |n: Seq| Some(hash(n.get()));
    assert_eq!(hash_at_offer(&offer(), &[fork(1, 0, 0)], &known), Some(hash(100)));
    assert_eq!(hash_at_offer(&offer(), &[fork(2, 1, 99), fork(1, 0, 0)], &known), None, "it left the line before");
    assert_eq!(hash_at_offer(&offer(), &[fork(2, 0, 0)], &known), None, "another line");
    assert_eq!(hash_at_offer(&offer(), &[fork(1, 0, 0)], &history), history(seq(100)));
    let forgotten = |_: Seq| None;
    assert_eq!(hash_at_offer(&offer(), &[fork(1, 0, 0)], &forgotten), None);
}

#[test]
fn the_highest_version_that_both_speak_is_spoken() {
    let hello = |id: u8, min, max, kind| Hello {
        protocol_min: min,
        protocol_max: max,
        box_id: BoxId::from_raw([id; 16]),
        box_name: "x".into(),
        kind,
        firmware: "0".into(),
        run: [0; 16],
    };
    let peer = BoxId::from_raw([2; 16]);
    let meet = |(own_min, own_max), (min, max)| {
        let own = hello(1, own_min, own_max, HelloKind::Control);
        greet(&own, &hello(2, min, max, HelloKind::Control), Some(peer))
    };
    let refused = |peer_min, peer_max| Err(GreetError::Version { peer_min, peer_max });
    assert_eq!(meet((2, 4), (1, 3)), Ok(3));
    assert_eq!(meet((2, 4), (4, 9)), Ok(4), "our highest is its lowest");
    assert_eq!(meet((2, 4), (1, 2)), Ok(2), "its highest is our lowest");
    assert_eq!(meet((3, 3), (3, 3)), Ok(3));
    assert_eq!(meet((2, 4), (5, 9)), refused(5, 9));
    assert_eq!(meet((2, 4), (1, 1)), refused(1, 1));
    assert_eq!(meet((2, 4), (4, 3)), refused(4, 3), "a range that cannot be");
    let pairing = hello(1, 1, 1, HelloKind::Pairing);
    let strange = BoxId::from_raw([3; 16]);
    for pinned in [None, Some(peer), Some(strange)] {
        assert_eq!(greet(&pairing, &hello(2, 1, 1, HelloKind::Pairing), pinned), Ok(1), "who pairs is not known yet");
    }
}
