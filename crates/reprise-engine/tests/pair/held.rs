//! Why home and peer do not follow what is durable, in the words that status has for it.

use bytes::Bytes;
use reprise_engine::{Hold, VerifyPlan};
use reprise_format::link::{Membership, Message};

use crate::harness::{Kind, Setup, TestBox, content, extent};
use crate::pair::Pair;

/// A mirrored pair whose source has a record more than its home and its peer.
fn behind() -> Pair {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair
}

fn home(end: &TestBox) -> Option<Hold> {
    end.group.home_held_by()
}

fn peer(end: &TestBox) -> Option<Hold> {
    end.group.peer_held_by()
}

#[test]
fn what_is_on_its_way_is_held_by_nothing() {
    let mut pair = behind();
    assert!(pair.a.group.positions().peer_durable < Some(pair.a.group.durable().seq));
    assert_eq!((home(&pair.a), peer(&pair.a)), (None, None));
    assert_eq!((home(&pair.b), peer(&pair.b)), (None, None), "a mirror has no peer to bring anywhere");
    pair.line_held = false;
    pair.rest();
    assert!(pair.a.group.is_applied());
    // What has all of it is held by nothing either.
    pair.cut();
    assert_eq!(peer(&pair.a), None);
}

#[test]
fn a_peer_is_held_by_its_link() {
    let mut pair = behind();
    pair.cut();
    assert_eq!((home(&pair.a), peer(&pair.a)), (None, Some(Hold::Disconnected)));
    pair.a.command(|g, now| g.set_paused(now, true)).unwrap();
    assert_eq!(peer(&pair.a), Some(Hold::Paused));
    pair.a.command(|g, now| g.set_paused(now, false)).unwrap();
    pair.a.run();
    // The verdict waits for what it rests on.
    pair.a.hold(Kind::Superblock);
    pair.line_held = false;
    pair.connect();
    assert_eq!(peer(&pair.a), Some(Hold::Greeting));
    pair.a.release(Kind::Superblock);
    pair.a.run();
    assert_eq!(peer(&pair.a), None);
}

#[test]
fn a_peer_is_held_by_a_row_that_lets_no_data_flow() {
    let mut pair = behind();
    pair.cut();
    pair.dial();
    pair.deliver_one(true);
    let Some((Message::GroupState(mut state), _)) = pair.b.out.pop_front() else { panic!("a state") };
    state.membership = Membership::OtherPeer;
    pair.a.message(state.into(), Bytes::new());
    assert_eq!(peer(&pair.a), Some(Hold::Stopped));
}

#[test]
fn both_are_held_until_the_recovery_is_sealed() {
    let mut pair = behind();
    pair.cut();
    pair.a.restart();
    pair.a.hold(Kind::Superblock);
    pair.a.rest();
    assert_eq!((home(&pair.a), peer(&pair.a)), (Some(Hold::Sealing), Some(Hold::Sealing)));
    pair.a.release(Kind::Superblock);
    pair.a.run();
    assert_eq!((home(&pair.a), peer(&pair.a)), (None, Some(Hold::Disconnected)));
}

#[test]
fn both_are_held_where_the_group_is_fenced() {
    let mut pair = behind();
    pair.a.write(extent(0, 1, 1), content(2, 1));
    pair.a.fail(Kind::WriteCache);
    assert_eq!((home(&pair.a), peer(&pair.a)), (Some(Hold::Fenced), Some(Hold::Fenced)));
}

#[test]
fn a_home_is_held_by_its_disk() {
    let mut a = TestBox::serving(&Setup::default());
    a.hold(Kind::WriteHome);
    a.put(extent(0, 0, 1), content(1, 1));
    a.rest();
    a.fail(Kind::WriteHome);
    assert_eq!((home(&a), peer(&a)), (Some(Hold::Detached), None));
    a.release(Kind::WriteHome);
    a.command(|g, now| g.reattach_home(now)).unwrap();
    assert_eq!(home(&a), None);
}

#[test]
fn a_home_is_held_by_a_comparison() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.hold(Kind::ReadHome);
    pair.a.command(|g, now| g.verify(now, VerifyPlan { bytes_per_sec: 1 << 40, repair: false })).unwrap();
    pair.run();
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert_eq!((home(&pair.a), peer(&pair.a)), (Some(Hold::Comparison), None));
    pair.a.command(|g, now| g.verify_cancel(now));
    assert_eq!(home(&pair.a), None);
}

#[test]
fn a_home_is_held_by_the_regions_of_a_copy_and_by_those_of_an_earlier_connection() {
    let mut pair = Pair::apart(&Setup { volumes: vec![8192], ..Setup::default() });
    pair.b.hold(Kind::WriteHome);
    pair.a.homes.iter_mut().for_each(|home| home.fill(1));
    pair.connect();
    pair.a.put(extent(0, 9, 1), content(2, 1));
    pair.rest();
    assert_eq!((home(&pair.b), peer(&pair.b)), (Some(Hold::Copy), None));
    pair.cut();
    assert_eq!(home(&pair.b), Some(Hold::Strays));
    pair.b.release(Kind::WriteHome);
    pair.b.rest();
    assert_eq!(home(&pair.b), None);
}

#[test]
fn both_are_held_by_records_that_cannot_be_read() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.command(|g, _| g.set_memory_short(true));
    pair.cut();
    pair.a.put(extent(0, 9, 4), content(1, 4));
    let at = pair.a.group.journal().place_of(pair.a.group.durable().seq).unwrap().at;
    pair.a.rot(at + 800);
    pair.a.rest();
    // The other box may have the record.
    assert_eq!((home(&pair.a), peer(&pair.a)), (Some(Hold::Unreadable), Some(Hold::Disconnected)));
    pair.connect();
    pair.run();
    // It has not.
    assert_eq!((home(&pair.a), peer(&pair.a)), (Some(Hold::Detached), Some(Hold::Unreadable)));
    // A mirror asks its source first.
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.command(|g, _| g.set_memory_short(true));
    pair.b.hold(Kind::FlushHome);
    pair.a.put(extent(0, 9, 4), content(1, 4));
    pair.run();
    let at = pair.b.group.journal().place_of(pair.b.group.durable().seq).unwrap().at;
    pair.b.rot(at + 800);
    pair.line_held = true;
    pair.b.rest();
    assert_eq!(home(&pair.b), Some(Hold::Unreadable));
    pair.line_held = false;
    pair.b.release(Kind::FlushHome);
    pair.rest();
    assert_eq!(home(&pair.b), None);
    assert!(pair.b.group.is_applied());
}
