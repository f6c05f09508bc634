//! What units remember, and their size: stored on both boxes before anybody is told.

use bytes::Bytes;
use reprise_engine::{CommandError, HostError, HostOp, Io, Notice, Until, VerifyPlan};
use reprise_format::link::Message;
use reprise_format::superblock::{SUPERBLOCK_COPY_LEN, copies_of, group_copies};
use reprise_types::{BoxId, InitiatorPort, Registration, SectorCount, UnitState};

use crate::harness::{Kind, Setup, TestBox, content, extent, seq, slot, source_instance};
use crate::pair::Pair;

/// A state that no other number has.
fn state(key: u64) -> UnitState {
    named(key, "iqn.2026-01.invalid.example:host")
}

fn named(key: u64, name: &str) -> UnitState {
    let registration = Registration { port: InitiatorPort::from_raw(name), relative_port: 1, key };
    UnitState { registrations: vec![registration], reservation: None, software_write_protect: false }
}

fn change(a: &mut TestBox, volume: u16, state: UnitState) -> Io {
    a.ask(HostOp::Unit { volume: slot(volume), state })
}

fn stored(a: &TestBox, volume: usize) -> Option<UnitState> {
    a.stored().volumes[volume].unit.clone()
}

fn resize(a: &mut TestBox, volume: u16, sectors: u64) -> Result<(), CommandError> {
    a.command(|g, now| g.resize_volume(now, slot(volume), SectorCount::from_raw(sectors)))
}

#[test]
fn a_change_is_answered_when_journal_and_superblock_hold_it() {
    let mut a = TestBox::serving(&Setup::default());
    a.hold(Kind::Superblock);
    a.hold(Kind::WriteCache);
    let io = change(&mut a, 1, state(7));
    assert_eq!(a.waiting(Kind::WriteCache), 0, "first the superblock knows that the unit has a state");
    a.finish(Kind::Superblock);
    assert_eq!(stored(&a, 1), Some(UnitState::default()));
    assert_eq!((a.waiting(Kind::WriteCache), a.waiting(Kind::Superblock)), (1, 0));
    a.finish(Kind::WriteCache);
    assert!(!a.is_answered(io));
    a.finish(Kind::Superblock);
    a.assert_done(io);
    assert_eq!((stored(&a, 0), stored(&a, 1)), (None, Some(state(7))));
    // From here on the superblock knows.
    let io = change(&mut a, 1, state(8));
    assert_eq!((a.waiting(Kind::WriteCache), a.waiting(Kind::Superblock)), (1, 0));
    a.finish(Kind::WriteCache);
    a.finish(Kind::Superblock);
    a.assert_done(io);
    assert_eq!(stored(&a, 1), Some(state(8)));
    a.rest();
    a.run();
}

#[test]
fn changes_keep_their_order_while_the_first_waits() {
    let mut a = TestBox::serving(&Setup::default());
    let known = change(&mut a, 0, state(1));
    a.run();
    a.assert_done(known);
    a.hold(Kind::Superblock);
    let first = change(&mut a, 1, state(2));
    let second = change(&mut a, 0, state(3));
    let third = change(&mut a, 1, state(4));
    let before = a.group.journal().written();
    assert_eq!(before, seq(1), "all wait behind the first");
    a.release(Kind::Superblock);
    a.run();
    assert_eq!(a.answered[1..], [first, second, third]);
    assert_eq!((stored(&a, 0), stored(&a, 1)), (Some(state(3)), Some(state(4))));
}

#[test]
fn a_state_survives_a_start() {
    let mut a = TestBox::serving(&Setup::default());
    let io = change(&mut a, 0, state(5));
    a.run();
    a.assert_done(io);
    a.restart();
    a.run();
    assert_eq!(a.group.meta().volumes[0].unit, Some(state(5)));
}

#[test]
fn a_state_for_which_the_superblock_has_no_room_is_refused() {
    let fits = |len: usize| {
        let mut a = TestBox::serving(&Setup::default());
        let wanted = named(1, &"x".repeat(len));
        let io = change(&mut a, 0, wanted.clone());
        a.run();
        match a.replies.remove(&io) {
            Some(Ok(_)) => {
                assert_eq!(stored(&a, 0), Some(wanted));
                let at = group_copies(0)[copies_of(a.stored_version())[0]] as usize;
                a.cache[at..at + SUPERBLOCK_COPY_LEN].iter().rposition(|byte| *byte != 0)
            }
            Some(Err(HostError::NoRoom)) => {
                assert_eq!(stored(&a, 0), None);
                None
            }
            other => panic!("{other:?}"),
        }
    };
    let limit = SUPERBLOCK_COPY_LEN / 4 * 3;
    assert!(fits(1000).is_some());
    assert_eq!(fits(limit), None);
    let (mut yes, mut no) = (limit - 1000, limit);
    while yes + 1 < no {
        let len = yes.midpoint(no);
        if fits(len).is_some() { yes = len } else { no = len }
    }
    assert_eq!(fits(yes), Some(limit - 1), "three quarters of a copy, to the byte");
}

#[test]
fn the_room_is_counted_with_what_other_units_have() {
    let mut a = TestBox::serving(&Setup::default());
    let half = "x".repeat(SUPERBLOCK_COPY_LEN / 2);
    let first = change(&mut a, 0, named(1, &half));
    a.run();
    a.assert_done(first);
    let second = change(&mut a, 1, named(1, &half));
    assert_eq!(a.error(second), HostError::NoRoom);
    let again = change(&mut a, 0, named(2, &half));
    a.run();
    a.assert_done(again);
}

#[test]
fn changes_end_with_an_error_at_every_stage_when_the_group_is_fenced() {
    for stage in 0..3 {
        let mut a = TestBox::serving(&Setup::default());
        a.hold(Kind::Superblock);
        a.hold(Kind::WriteCache);
        let io = change(&mut a, 0, state(1));
        if stage > 0 {
            a.finish(Kind::Superblock);
        }
        if stage > 1 {
            a.finish(Kind::WriteCache);
        }
        a.fail(if stage == 1 { Kind::WriteCache } else { Kind::Superblock });
        assert_eq!(a.error(io), HostError::Fenced, "stage {stage}");
    }
}

#[test]
fn a_change_reaches_the_mirror_s_superblock_before_it_is_acknowledged() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::Superblock);
    let io = change(&mut pair.a, 1, state(9));
    pair.run();
    pair.a.assert_done(io);
    assert_eq!(pair.b.group.durable().seq, seq(1));
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.pass(20);
    pair.run();
    assert_eq!(pair.b.group.durable().seq, seq(2));
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(0)), "neither it nor what follows");
    assert_eq!(stored(&pair.b, 1), None);
    pair.b.release(Kind::Superblock);
    pair.run();
    assert_eq!(stored(&pair.b, 1), Some(state(9)));
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(2)));
    pair.a.put(extent(0, 0, 1), content(2, 1));
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(3)), "and things go on");
}

#[test]
fn each_of_two_changes_waits_for_its_own_superblock() {
    let mut pair = Pair::mirrored(&Setup::default());
    let io = change(&mut pair.a, 0, state(1));
    pair.rest();
    pair.a.assert_done(io);
    pair.b.hold(Kind::Superblock);
    let before = pair.a.group.positions().peer_durable;
    for key in [2, 3] {
        let io = change(&mut pair.a, 0, state(key));
        pair.pass(20);
        pair.run();
        pair.a.assert_done(io);
    }
    assert_eq!(pair.b.group.durable().seq, seq(3));
    pair.b.finish(Kind::Superblock);
    pair.run();
    assert_eq!(pair.a.group.positions().peer_durable, before, "the second is not stored");
    pair.b.finish(Kind::Superblock);
    pair.run();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(3)));
}

#[test]
fn an_offer_is_not_answered_while_a_change_is_not_stored() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::Superblock);
    let io = change(&mut pair.a, 1, state(9));
    pair.run();
    pair.a.assert_done(io);
    pair.cut();
    pair.line_held = true;
    pair.dial();
    pair.deliver_one(true);
    let answered = |pair: &Pair| pair.b.out.iter().any(|(m, _)| matches!(m, Message::GroupState(_)));
    assert!(!answered(&pair));
    pair.b.release(Kind::Superblock);
    pair.b.run();
    assert!(answered(&pair));
}

#[test]
fn states_are_said_again_whenever_a_link_comes_up() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.connect();
    assert_eq!(pair.a.group.durable().seq, seq(0), "no unit has one");
    let io = change(&mut pair.a, 1, state(1));
    pair.rest();
    pair.a.assert_done(io);
    pair.cut();
    pair.connect();
    pair.rest();
    assert_eq!(pair.a.group.durable().seq, seq(3), "size and state of that unit");
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    assert_eq!((stored(&pair.b, 0), stored(&pair.b, 1)), (None, Some(state(1))));
}

/// The record becomes durable and the superblock is not written: what follows it in the journal counts, so it counts too.
#[test]
fn a_change_that_only_the_journal_holds_is_taken_up_at_a_start() {
    let mut pair = Pair::mirrored(&Setup::default());
    let io = change(&mut pair.a, 0, state(1));
    pair.rest();
    pair.a.assert_done(io);
    pair.a.hold(Kind::Superblock);
    let untold = change(&mut pair.a, 0, state(2));
    pair.rest();
    assert!(!pair.a.is_answered(untold));
    assert_eq!((stored(&pair.a, 0), stored(&pair.b, 0)), (Some(state(1)), Some(state(2))));
    pair.cut();
    pair.a.restart();
    assert_eq!(pair.a.waiting(Kind::Superblock), 0, "it is read before the seal goes out");
    pair.a.run();
    assert_eq!(stored(&pair.a, 0), Some(state(2)));
    pair.connect();
    pair.rest();
    assert_eq!(stored(&pair.b, 0), Some(state(2)), "both remember the same");
}

fn size(end: &TestBox, volume: usize) -> u64 {
    end.group.meta().volumes[volume].sectors.get()
}

/// The mirror's journal held the size and writes behind the old end, its superblock did not. It came back with the old size,
/// and with the source gone it would have served that.
#[test]
fn a_mirror_knows_the_size_that_its_journal_holds_when_it_comes_back() {
    let mut pair = Pair::mirrored(&Setup::default());
    for end in [&mut pair.a, &mut pair.b] {
        end.homes[1].resize(4096 * 512, 0);
    }
    pair.b.hold(Kind::Superblock);
    for sectors in [3000, 4096] {
        assert_eq!(resize(&mut pair.a, 1, sectors), Ok(()));
        pair.pass(20);
        pair.run();
    }
    pair.a.put(extent(1, 4000, 96), content(1, 96));
    pair.pass(20);
    pair.run();
    let durable = pair.b.group.durable();
    assert_eq!((durable, pair.b.stored().volumes[1].sectors.get()), (pair.a.group.durable(), 2048));
    pair.cut();
    pair.b.restart();
    pair.b.run();
    assert_eq!((pair.b.group.durable(), size(&pair.b, 1)), (durable, 4096));
    assert_eq!(pair.b.group.served_sectors(slot(1)).unwrap().get(), 4096);
    assert_eq!(pair.b.stored().volumes[1].sectors.get(), 4096, "before it is ready");
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(0)));
    pair.connect();
    pair.rest();
    assert_eq!(pair.b.home(extent(1, 4000, 96)), content(1, 96));
}

/// Hosts were served a size when its record was durable; a crash before the superblock took back what they wrote behind the
/// old end.
#[test]
fn hosts_are_served_a_size_when_the_superblock_holds_it() {
    let mut a = TestBox::serving(&Setup::default());
    a.homes[1].resize(4096 * 512, 0);
    assert_eq!(resize(&mut a, 1, 3000), Ok(()));
    a.run();
    a.hold(Kind::Superblock);
    assert_eq!(resize(&mut a, 1, 3500), Ok(()));
    assert_eq!(resize(&mut a, 1, 3200), Err(CommandError::NoVolume), "a larger one is under way");
    a.run();
    assert_eq!(resize(&mut a, 1, 4096), Ok(()));
    a.run();
    let served = |a: &TestBox| a.group.served_sectors(slot(1)).unwrap().get();
    assert_eq!((size(&a, 1), served(&a)), (4096, 3000));
    for sectors in [3000, 3500, 4096] {
        a.command(|g, _| g.tell_when(Io(sectors), Until::Served(slot(1), SectorCount::from_raw(sectors))));
    }
    assert_eq!(a.kept, [(Io(3000), true)]);
    for (at, served_now) in [(3000, 3500), (3500, 4096)] {
        let io = a.write(extent(1, at, 1), content(1, 1));
        assert_eq!(a.error(io), HostError::Range);
        a.finish(Kind::Superblock);
        a.run();
        assert_eq!(served(&a), served_now);
        assert_eq!(a.kept.last(), Some(&(Io(served_now), true)));
        a.put(extent(1, at, 1), content(1, 1));
    }
    a.put(extent(1, 4095, 1), content(2, 1));
    a.restart();
    a.run();
    assert_eq!((size(&a, 1), served(&a)), (4096, 4096));
    assert_eq!(a.get(extent(1, 4095, 1)), content(2, 1));
}

#[test]
fn a_change_that_cannot_be_read_at_a_start_is_taken_up_once_the_other_box_has_repaired_it() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::Superblock);
    let io = change(&mut pair.a, 0, state(1));
    pair.pass(20);
    pair.run();
    pair.a.assert_done(io);
    pair.cut();
    pair.b.restart();
    let read = pair.b.take(Kind::ReadCache, 0);
    pair.b.answer_with(&read, Bytes::new());
    pair.b.run();
    assert!(pair.b.group.is_ready(), "it opens with what the superblock has");
    assert!(pair.b.told().iter().any(|n| matches!(n, Notice::JournalUnreadable(_))));
    assert_eq!(stored(&pair.b, 0), None);
    pair.connect();
    pair.rest();
    assert_eq!(stored(&pair.b, 0), Some(state(1)));
    assert_eq!(pair.b.group.rotten(), None);
}

/// A mirror that was added beside it was made with the old size, and its first copy with the new one was refused for ever.
#[test]
fn no_mirror_is_added_while_a_size_is_under_way() {
    let mut a = TestBox::serving(&Setup::default());
    a.homes[1].resize(4096 * 512, 0);
    a.hold(Kind::WriteCache);
    assert_eq!(resize(&mut a, 1, 4096), Ok(()));
    a.run();
    let add = |a: &mut TestBox| a.command(|g, now| g.add_peer(now, BoxId::from_raw([5; 16]), source_instance()));
    assert_eq!(add(&mut a), Err(CommandError::Busy));
    a.release(Kind::WriteCache);
    a.run();
    assert_eq!(add(&mut a), Ok(()));
}

/// The newest state was in the superblock, and its batch could not be read at the next start: an older one, which could, took
/// its place.
#[test]
fn a_state_that_can_be_read_does_not_replace_a_newer_one_that_cannot() {
    let mut a = TestBox::serving(&Setup::default());
    for n in [1, 2] {
        let io = change(&mut a, 0, state(n));
        a.run();
        a.assert_done(io);
    }
    assert_eq!((stored(&a, 0), a.group.positions().applied), (Some(state(2)), seq(0)));
    a.restart();
    let newest = a.take(Kind::ReadCache, 1);
    a.answer_with(&newest, Bytes::new());
    a.run();
    assert!(a.group.is_ready());
    assert_eq!(stored(&a, 0), Some(state(2)));
    assert_eq!(a.group.meta().volumes[0].unit, Some(state(2)));
}

/// A mirror took the record of a size that its home had no room for: the home failed at the first write behind the old end,
/// and after a start the group did not open any more.
#[test]
fn a_mirror_takes_no_size_that_its_home_has_no_room_for() {
    let mut pair = Pair::mirrored(&Setup::default());
    let room = |end: &mut TestBox, sectors: u64| {
        end.command(|g, now| g.set_home_size(now, slot(1), SectorCount::from_raw(sectors)));
    };
    room(&mut pair.a, 3000);
    assert_eq!(resize(&mut pair.a, 1, 4096), Err(CommandError::HomeTooSmall));
    pair.a.homes[1].resize(4096 * 512, 0);
    room(&mut pair.a, 4096);
    room(&mut pair.b, 2048);
    assert_eq!(resize(&mut pair.a, 1, 4096), Ok(()));
    pair.rest();
    pair.a.put(extent(1, 4000, 96), content(1, 96));
    pair.rest();
    assert!(!pair.up, "it hangs up");
    assert_eq!((pair.b.group.durable().seq, size(&pair.b, 1)), (seq(0), 2048));
    assert_eq!(pair.b.group.home_too_small(), Some((slot(1), SectorCount::from_raw(4096))));
    assert!(!pair.b.group.home_detached());
    pair.b.restart();
    room(&mut pair.b, 2048);
    pair.b.run();
    assert!(pair.b.group.is_ready());
    pair.connect();
    pair.rest();
    assert!(!pair.up && pair.b.group.home_too_small().is_some(), "as before");
    pair.b.homes[1].resize(4096 * 512, 0);
    room(&mut pair.b, 4096);
    assert_eq!(pair.b.group.home_too_small(), None);
    pair.connect();
    pair.rest();
    assert_eq!((pair.b.group.durable(), size(&pair.b, 1)), (pair.a.group.durable(), 4096));
    assert_eq!(pair.b.home(extent(1, 4000, 96)), content(1, 96));
}

#[test]
fn what_is_under_way_reaches_the_mirror_as_it_will_be() {
    let mut pair = Pair::mirrored(&Setup::default());
    for volume in [0, 1] {
        let io = change(&mut pair.a, volume, state(1));
        pair.rest();
        pair.a.assert_done(io);
    }
    pair.cut();
    pair.a.hold(Kind::WriteCache);
    // One is in flight when the link comes up, the others wait behind it.
    change(&mut pair.a, 0, state(2));
    change(&mut pair.a, 0, state(3));
    change(&mut pair.a, 1, state(4));
    assert_eq!(resize(&mut pair.a, 0, 5000), Ok(()));
    pair.connect();
    pair.a.release(Kind::WriteCache);
    pair.rest();
    for end in [&pair.a, &pair.b] {
        assert_eq!((stored(end, 0), stored(end, 1)), (Some(state(3)), Some(state(4))));
        let sizes: Vec<u64> = end.stored().volumes.iter().map(|v| v.sectors.get()).collect();
        assert_eq!(sizes, [5000, 2048]);
    }
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
}

#[test]
fn a_link_that_flaps_appends_nothing_that_is_on_its_way() {
    let mut pair = Pair::mirrored(&Setup::default());
    for volume in [0, 1] {
        let io = change(&mut pair.a, volume, state(1));
        pair.rest();
        pair.a.assert_done(io);
    }
    let before = pair.a.group.journal().written();
    // Nothing becomes durable, as in a full cache.
    pair.cut();
    pair.a.hold(Kind::WriteCache);
    for _ in 0..10 {
        pair.connect();
        pair.cut();
    }
    assert_eq!(pair.a.group.journal().written(), seq(before.get() + 4), "size and state of both units, once");
    // It becomes durable, and nothing reaches the mirror.
    pair.a.release(Kind::WriteCache);
    pair.a.run();
    for _ in 0..10 {
        pair.connect_held();
        pair.handshake();
        pair.cut();
    }
    pair.a.run();
    assert_eq!(pair.a.group.journal().written(), seq(before.get() + 4), "it is sent in any case");
    pair.connect();
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    // The mirror holds all of it: a link that comes up later says it again.
    pair.cut();
    pair.connect();
    pair.rest();
    assert_eq!(pair.a.group.journal().written(), seq(before.get() + 8));
}

#[test]
fn a_size_counts_when_record_and_superblock_hold_it_and_reaches_the_mirror() {
    let mut pair = Pair::mirrored(&Setup::default());
    for end in [&mut pair.a, &mut pair.b] {
        end.homes[1].resize(4096 * 512, 0);
    }
    pair.a.hold(Kind::WriteCache);
    assert_eq!(resize(&mut pair.a, 1, 4096), Ok(()));
    pair.run();
    let io = pair.a.ask(HostOp::Read(extent(1, 2048, 1)));
    assert_eq!(pair.a.error(io), HostError::Range);
    pair.a.release(Kind::WriteCache);
    pair.rest();
    let sizes = |end: &TestBox| end.stored().volumes.iter().map(|v| v.sectors.get()).collect::<Vec<_>>();
    assert_eq!((sizes(&pair.a), sizes(&pair.b)), (vec![4096, 4096], vec![4096, 4096]));
    pair.a.put(extent(1, 4000, 96), content(1, 96));
    pair.rest();
    assert_eq!(pair.b.home(extent(1, 4000, 96)), content(1, 96));
}

#[test]
fn a_volume_only_grows() {
    let mut a = TestBox::serving(&Setup::default());
    assert_eq!(resize(&mut a, 0, 4096), Err(CommandError::NoVolume));
    assert_eq!(resize(&mut a, 0, 4095), Err(CommandError::NoVolume));
    assert_eq!(resize(&mut a, 5, 9999), Err(CommandError::NoVolume));
    assert_eq!(resize(&mut a, 0, 4097), Ok(()));
    a.run();
    assert_eq!(a.stored().volumes[0].sectors.get(), 4097);
}

#[test]
fn a_volume_keeps_its_size_while_it_is_copied_or_compared() {
    let mut a = TestBox::serving(&Setup::default());
    a.command(|g, now| g.add_peer(now, reprise_types::BoxId::from_raw([2; 16]), source_instance())).unwrap();
    assert_eq!(resize(&mut a, 0, 5000), Err(CommandError::Busy), "its copy may begin at any moment");
    let mut pair = Pair::apart(&Setup::default());
    pair.b.hold(Kind::FlushHome);
    pair.b.hold(Kind::ZeroHome);
    pair.connect();
    assert!(pair.a.group.meta().peer().unwrap().durable.is_some());
    assert_eq!(resize(&mut pair.a, 0, 5000), Err(CommandError::Busy), "it is being copied");
    pair.b.release(Kind::FlushHome);
    pair.b.release(Kind::ZeroHome);
    pair.rest();
    pair.line_held = true;
    let plan = VerifyPlan { bytes_per_sec: 1 << 20, repair: false };
    pair.a.command(|g, now| g.verify(now, plan)).unwrap();
    assert_eq!(resize(&mut pair.a, 0, 5000), Err(CommandError::Busy), "it is being compared");
    pair.a.command(|g, now| g.verify_cancel(now));
    assert_eq!(resize(&mut pair.a, 0, 5000), Ok(()));
}
