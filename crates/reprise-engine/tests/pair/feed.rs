//! The feed of a mirror: what it answers and when, what it takes, and how its first copy becomes whole.

use bytes::Bytes;
use reprise_engine::{Effect, GroupMeta, Notice};
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{CloseReason, CopyCursor, GroupState, Membership, Message, Row, Trouble};
use reprise_types::{BoxId, GroupId};

use crate::harness::{FAULT, Kind, QUIET_MS, Setup, TestBox, content, extent, seq};
use crate::pair::Pair;

fn roomy(volumes: Vec<u64>) -> Setup {
    Setup { volumes, segments: 64, ..Setup::default() }
}

/// A mirror without an image, the source's home full of ones, no connection.
fn to_be_copied(volumes: Vec<u64>) -> Pair {
    let mut pair = Pair::apart(&roomy(volumes));
    pair.a.homes.iter_mut().for_each(|home| home.fill(1));
    pair
}

/// Takes the state that the mirror answers an offer with, if it has.
fn state(b: &mut TestBox) -> Option<GroupState> {
    let at = b.out.iter().position(|(m, _)| matches!(m, Message::GroupState(_)))?;
    match b.out.remove(at) {
        Some((Message::GroupState(state), _)) => Some(state),
        _ => None,
    }
}

fn streams(pair: &Pair) -> bool {
    let (a, b) = (pair.a.group.source_session(), pair.b.group.mirror_session());
    a.is_some_and(|s| s.is_streaming()) && b.is_some_and(|s| s.is_streaming())
}

#[test]
fn a_mirror_takes_a_connection_when_it_may_answer_one() {
    let refused = |pair: &mut Pair| {
        pair.b.closed.clear();
        pair.b.connected();
        assert!(pair.b.group.mirror_session().is_none());
        pair.b.closed == [CloseReason::NotReady]
    };
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.b.restart();
    assert!(refused(&mut pair), "its seal is not durable");
    pair.b.run();
    pair.b.command(|g, now| g.set_paused(now, true)).unwrap();
    assert!(refused(&mut pair), "paused");
    pair.b.command(|g, now| g.set_paused(now, false)).unwrap();
    pair.b.run();
    pair.connect();
    assert!(streams(&pair));
    pair.cut();
    let alone = GroupMeta { peers: vec![], ..pair.b.stored() };
    pair.b.store(&alone);
    pair.b.restart();
    pair.b.run();
    assert!(refused(&mut pair), "it has no peer");
}

#[test]
fn a_fenced_mirror_takes_no_connection() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.run();
    pair.b.told();
    pair.b.fail(Kind::WriteCache);
    assert_eq!(pair.b.told(), [Notice::Fenced(FAULT), Notice::LinkDown]);
    pair.cut();
    pair.b.closed.clear();
    pair.b.connected();
    assert_eq!(pair.b.closed, [CloseReason::NotReady]);
}

#[test]
fn a_mirror_with_a_detached_home_goes_on_receiving_when_it_is_whole() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.b.hold(Kind::WriteHome);
    pair.rest();
    pair.b.fail(Kind::WriteHome);
    assert!(pair.b.group.home_detached());
    assert!(streams(&pair), "the journal takes what comes");
    pair.cut();
    pair.connect();
    assert!(streams(&pair));
}

/// What the source knows to be wrong at its mirror.
fn known(pair: &Pair) -> Option<Trouble> {
    pair.a.group.peer_trouble().map(|t| t.what)
}

/// A mirror went on acknowledging, and a source with "ordered" on its screen had a mirror that applied nothing.
#[test]
fn a_source_learns_that_the_home_of_its_mirror_is_detached() {
    let detached = Some(Trouble { home_detached: true, ..Trouble::NONE });
    let mut pair = Pair::mirrored(&Setup::default());
    assert_eq!(known(&pair), None);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.b.hold(Kind::WriteHome);
    pair.rest();
    pair.b.fail(Kind::WriteHome);
    pair.run();
    assert_eq!(known(&pair), detached, "told without anything else to acknowledge");
    pair.cut();
    assert_eq!(known(&pair), detached, "it holds while the mirror is away");
    pair.connect();
    assert_eq!(known(&pair), detached);
    pair.b.release(Kind::WriteHome);
    pair.b.command(|g, now| g.reattach_home(now)).unwrap();
    pair.run();
    assert_eq!(known(&pair), None);
    // While a first copy waits for the home there is no connection that could carry an acknowledgement.
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.b.fail(Kind::WriteHome);
    pair.run();
    assert_eq!(known(&pair), detached);
    assert!(pair.a.group.peer_trouble().is_some_and(|t| t.detail.contains("error")), "in the mirror's words");
    pair.connect();
    assert!(!streams(&pair) && known(&pair) == detached, "refused with the same reason");
    pair.b.release(Kind::WriteHome);
    pair.b.command(|g, now| g.reattach_home(now)).unwrap();
    pair.connect();
    pair.rest();
    assert_eq!(known(&pair), None);
}

#[test]
fn a_source_learns_that_its_mirror_is_fenced() {
    let fenced = Some(Trouble { fenced: true, ..Trouble::NONE });
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.run();
    pair.b.fail(Kind::WriteCache);
    pair.run();
    assert_eq!(known(&pair), fenced);
    pair.connect();
    assert_eq!(known(&pair), fenced);
    pair.b.restart();
    pair.b.release(Kind::WriteCache);
    pair.b.run();
    pair.connect();
    pair.rest();
    assert_eq!(known(&pair), None);
}

#[test]
fn a_copy_ends_with_the_home_it_is_written_to() {
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.b.told();
    pair.b.fail(Kind::WriteHome);
    assert_eq!(pair.b.told(), [Notice::HomeFailed(FAULT), Notice::LinkDown]);
    assert_eq!(pair.b.closed, [CloseReason::NotReady]);
    pair.cut();
    pair.b.closed.clear();
    pair.b.connected();
    assert_eq!(pair.b.closed, [CloseReason::NotReady], "nowhere to write it");
    pair.b.command(|g, now| g.reattach_home(now)).unwrap();
    pair.b.release(Kind::WriteHome);
    pair.connect();
    pair.rest();
    assert!(pair.b.homes == pair.a.homes);
    assert!(pair.b.group.meta().copy().is_none());
}

#[test]
fn a_mirror_that_cannot_flush_its_homes_stops_the_copy() {
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    pair.b.fail(Kind::FlushHome);
    assert!(pair.b.group.home_detached());
    assert_eq!(pair.b.closed, [CloseReason::NotReady]);
    assert_eq!(pair.b.stored().copy().unwrap().cursor, None);
}

#[test]
fn an_offer_is_answered_when_everything_received_before_is_durable() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.run();
    assert_eq!(pair.b.group.positions().written, seq(1));
    pair.cut();
    pair.line_held = true;
    pair.dial();
    pair.deliver_one(true);
    assert_eq!(state(&mut pair.b), None);
    pair.b.finish(Kind::WriteCache);
    let answer = state(&mut pair.b).unwrap();
    assert_eq!(answer.durable, Some(pair.a.group.durable()));
    assert_eq!((answer.complete, answer.membership), (true, Membership::Known));
    assert_eq!(answer.hash_at_offer, Some(pair.a.group.durable().hash));
    pair.b.pass(1);
    assert_eq!(state(&mut pair.b), None, "once");
}

#[test]
fn a_mirror_without_history_says_so() {
    let mut pair = Pair::apart(&Setup::default());
    pair.line_held = true;
    pair.dial();
    pair.deliver_one(true);
    let answer = state(&mut pair.b).unwrap();
    assert_eq!((answer.durable, answer.complete, answer.copy_cursor), (None, false, None));
    assert_eq!((answer.group, answer.box_id), (crate::harness::GROUP, BoxId::from_raw([2; 16])));
    assert_eq!(answer.peer_instance_seen, None);
}

#[test]
fn an_offer_of_another_box_or_group_is_not_the_peer_s() {
    for other_box in [true, false] {
        let mut pair = Pair::mirrored(&Setup::default());
        pair.cut();
        pair.line_held = true;
        pair.dial();
        let Some((Message::GroupOffer(mut offer), _)) = pair.a.out.pop_front() else { panic!("an offer") };
        match other_box {
            true => offer.box_id = BoxId::from_raw([7; 16]),
            false => offer.group = GroupId::from_raw([7; 16]),
        }
        pair.b.message(offer.into(), Bytes::new());
        assert_eq!(state(&mut pair.b).unwrap().membership, Membership::OtherPeer);
    }
}

#[test]
fn a_row_that_lets_no_data_flow_ends_the_connection() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.line_held = true;
    pair.dial();
    let Some((Message::GroupOffer(mut offer), _)) = pair.a.out.pop_front() else { panic!("an offer") };
    offer.box_id = BoxId::from_raw([7; 16]);
    pair.b.message(offer.into(), Bytes::new());
    let answer = state(&mut pair.b).unwrap();
    pair.a.message(answer.into(), Bytes::new());
    let Some((verdict, _)) = pair.a.out.pop_back() else { panic!("a verdict") };
    pair.b.told();
    pair.b.message(verdict, Bytes::new());
    assert_eq!(pair.b.told(), [Notice::LinkStopped(Row::OtherPair), Notice::LinkDown]);
    assert_eq!(pair.b.closed, [CloseReason::Verdict]);
}

#[test]
fn a_mirror_s_journal_begins_when_its_superblock_says_where() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.a.put(extent(0, 9, 1), content(2, 1));
    pair.b.hold(Kind::Superblock);
    pair.connect();
    assert!(!pair.b.group.is_ready());
    assert_eq!(pair.b.group.durable(), pair.a.group.durable(), "in memory it is there");
    assert!(pair.b.stored().branches.is_empty());
    assert!(pair.b.out.is_empty(), "and nothing was said");
    pair.b.release(Kind::Superblock);
    pair.rest();
    assert!(pair.b.group.is_ready());
    let stored = pair.b.stored();
    assert_eq!((stored.trimmed.seq, stored.applied, stored.seal.seq), (seq(2), seq(2), seq(2)));
    assert_eq!(stored.lineage(), pair.a.stored().lineage());
    assert_eq!(stored.copy(), None);
    let peer = stored.peer().unwrap();
    assert_eq!(peer.seen, Some(pair.a.stored().peer().unwrap().instance.current));
    assert_eq!(peer.instance.acknowledged, peer.instance.current, "the source has answered it");
}

#[test]
fn a_link_that_resumes_leaves_the_mirror_s_journal_alone() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteHome);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    pair.cut();
    pair.connect();
    assert_eq!(pair.b.group.link_row(), Some(Row::Resume));
    assert_eq!((pair.b.group.positions().applied, pair.b.stored().copy()), (seq(0), None));
    pair.b.release(Kind::WriteHome);
    pair.rest();
    assert_eq!(pair.b.home(extent(0, 0, 1)), content(1, 1));
}

#[test]
fn nothing_is_acknowledged_that_is_not_durable_at_the_mirror() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(0)));
    pair.b.finish(Kind::WriteCache);
    pair.run();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(1)));
}

#[test]
fn the_mirror_grants_what_its_cache_has_free() {
    // Smaller than the window: all segments but the one that is ahead.
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    let free = u64::from(pair.b.segments - 1) << 20;
    pair.connect();
    assert_eq!(pair.a.group.source_session().unwrap().credit_left().0, free);
}

#[test]
fn writes_of_an_earlier_connection_are_waited_for() {
    let mut pair = to_be_copied(vec![1 << 14]);
    pair.a.put(extent(0, 9, 1), content(1, 1));
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    let first = pair.b.waiting(Kind::WriteHome);
    assert!(first > 1);
    pair.a.put(extent(0, 9, 1), content(2, 1));
    pair.cut();
    for _ in 0..2 {
        // The offer comes, the connection breaks, another one is made: still nothing is known of those writes.
        pair.line_held = true;
        pair.dial();
        pair.deliver_one(true);
        pair.b.run();
        assert_eq!(state(&mut pair.b), None);
        pair.cut();
    }
    pair.line_held = true;
    pair.dial();
    pair.deliver_one(true);
    for left in (0..first).rev() {
        assert_eq!(state(&mut pair.b), None, "they would land on top of what comes later");
        pair.b.finish(Kind::WriteHome);
        assert_eq!(pair.b.waiting(Kind::WriteHome), left);
    }
    let answer = state(&mut pair.b).unwrap();
    pair.b.out.push_front((answer.into(), Vec::new()));
    pair.b.release(Kind::WriteHome);
    pair.line_held = false;
    pair.rest();
    assert!(pair.b.homes == pair.a.homes);
    assert!(pair.b.group.meta().copy().is_none());
}

#[test]
fn no_round_begins_while_writes_of_an_earlier_connection_are_under_way() {
    let mut pair = to_be_copied(vec![8192]);
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    // Behind the regions that were read, records come.
    pair.a.put(extent(0, 9, 1), content(2, 1));
    pair.rest();
    let strays = pair.b.waiting(Kind::WriteHome);
    assert_eq!(pair.b.group.durable().seq, seq(1));
    assert_eq!(pair.b.group.positions().applying, seq(0), "the region lacks the record");
    pair.cut();
    pair.b.rest();
    assert_eq!(pair.b.group.positions().applying, seq(0), "it could land on top of the record");
    for _ in 0..strays {
        assert_eq!(pair.b.group.positions().applying, seq(0));
        pair.b.finish(Kind::WriteHome);
    }
    pair.b.rest();
    assert_eq!(pair.b.group.positions().applying, seq(1));
}

#[test]
fn a_record_waits_for_the_region_that_lacks_it() {
    let mut pair = to_be_copied(vec![8192]);
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.a.put(extent(0, 9, 1), content(2, 1));
    pair.rest();
    assert_eq!((pair.b.group.durable().seq, pair.b.group.positions().applying), (seq(1), seq(0)));
    pair.b.release(Kind::WriteHome);
    pair.rest();
    assert_eq!(pair.b.home(extent(0, 9, 1)), content(2, 1));
    assert!(pair.b.homes == pair.a.homes);
}

#[test]
fn a_record_does_not_wait_for_a_region_that_holds_it() {
    let mut pair = to_be_copied(vec![5 * 2048]);
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    pair.a.put(extent(0, 9, 1), content(2, 1));
    // Four regions are read as of the beginning, the fifth with the record.
    for _ in 0..4 {
        pair.a.finish(Kind::ReadHome);
    }
    pair.run();
    assert_eq!(pair.b.group.durable().seq, seq(1));
    pair.b.hold(Kind::WriteHome);
    pair.a.release(Kind::ReadHome);
    pair.run();
    assert_eq!(pair.b.waiting(Kind::WriteHome), 1, "the fifth region");
    pair.pass(40);
    pair.run();
    assert_eq!(pair.b.group.positions().applying, seq(1));
}

#[test]
fn what_is_copied_counts_when_it_is_flushed_and_stored() {
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    assert_eq!(pair.b.waiting(Kind::FlushHome), 1);
    pair.rest();
    assert_eq!(pair.b.waiting(Kind::FlushHome), 1, "one flush at a time");
    let acked = |pair: &Pair| pair.a.group.source_session().unwrap().copy_progress().unwrap().done;
    assert_eq!(acked(&pair), 0);
    pair.b.hold(Kind::Superblock);
    pair.b.finish(Kind::FlushHome);
    pair.run();
    assert_eq!((acked(&pair), pair.b.waiting(Kind::FlushHome)), (0, 0));
    assert_eq!(pair.b.stored().copy().unwrap().cursor, None);
    pair.b.finish(Kind::Superblock);
    assert_eq!(pair.b.stored().copy().unwrap().cursor.unwrap().sector.get(), 2048);
    pair.run();
    assert_eq!(acked(&pair), 2048);
    assert!(pair.a.stored().peer().unwrap().copy.is_none());
    assert!(pair.a.told().contains(&Notice::CopyComplete));
}

#[test]
fn a_flush_is_of_all_homes_and_another_one_follows() {
    let mut pair = to_be_copied(vec![2048, 2048, 1 << 14]);
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    let Effect::FlushHome { volumes, .. } = pair.b.oldest(Kind::FlushHome) else { panic!("a flush") };
    assert_eq!(volumes.len(), 3);
    let mut flushes = 0;
    while pair.b.waiting(Kind::FlushHome) > 0 && flushes < 100 {
        assert_eq!(pair.b.waiting(Kind::FlushHome), 1);
        pair.b.finish(Kind::FlushHome);
        pair.run();
        flushes += 1;
    }
    assert!(flushes > 1, "regions came while the first flush was under way");
    assert!(pair.b.group.meta().copy().is_none());
    assert!(pair.b.homes == pair.a.homes);
}

#[test]
fn a_flush_of_an_earlier_connection_says_nothing() {
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    let old = pair.b.take(Kind::FlushHome, 0);
    pair.cut();
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.b.answer(&old);
    pair.b.run();
    assert_eq!(pair.b.stored().copy().unwrap().cursor, None);
    assert!(!pair.b.group.home_detached());
    pair.b.release(Kind::WriteHome);
    pair.b.release(Kind::FlushHome);
    pair.rest();
    assert!(pair.b.group.meta().copy().is_none());
}

#[test]
fn an_error_of_an_earlier_connection_s_write_harms_nothing() {
    let mut pair = to_be_copied(vec![2048]);
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.cut();
    pair.dial();
    pair.b.fail(Kind::WriteHome);
    assert!(!pair.b.group.home_detached(), "the region is copied again");
    pair.b.release(Kind::WriteHome);
    pair.rest();
    assert!(pair.b.homes == pair.a.homes);
}

#[test]
fn at_the_end_of_a_copy_home_is_a_mixture_up_to_what_its_regions_hold() {
    let mut pair = to_be_copied(vec![2048]);
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    pair.b.hold(Kind::Superblock);
    for n in 0..3 {
        pair.a.put(extent(0, n * 5, 2), content(n, 2));
    }
    // The link breaks while the region is read, and the next one is read with the records.
    pair.cut();
    pair.a.release(Kind::ReadHome);
    pair.a.run();
    pair.b.release(Kind::Superblock);
    pair.connect();
    assert!(pair.b.told().contains(&Notice::CopyComplete));
    let at = pair.b.group.positions();
    assert_eq!((at.applied, at.applying), (seq(0), seq(3)), "no moment before is offered");
    assert_eq!(pair.b.stored().copy(), None);
    pair.rest();
    assert!(pair.b.group.is_applied());
}

#[test]
fn a_slow_home_at_the_end_of_a_copy_catches_up_round_by_round() {
    const ROUND: u64 = 64 << 10;
    let setup = Setup { volumes: vec![2048; 8], segments: 64, ram_tail: 0, round_bytes: ROUND };
    let mut pair = Pair::apart(&setup);
    pair.a.homes.iter_mut().for_each(|home| home.fill(1));
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    // Regions of the first volumes are read while these come; those of the others contain them.
    for n in 0..160 {
        pair.a.put(extent(0, n % 32 * 64, 64), content(n, 64));
    }
    pair.a.release(Kind::ReadHome);
    pair.b.hold(Kind::ReadCache);
    pair.run();
    pair.rest();
    assert!(pair.b.told().contains(&Notice::CopyComplete));
    let at = pair.b.group.positions();
    assert_eq!((at.applied, at.applying), (seq(0), seq(160)));
    let mut rounds = 0;
    while !pair.b.group.is_applied() {
        pair.b.pass(QUIET_MS);
        pair.b.run();
        let asked = |e: &Effect| if let Effect::ReadCache { len, .. } = e { *len as u64 } else { 0 };
        let reading: u64 = pair.b.asked.iter().map(asked).sum();
        assert!(reading <= ROUND, "{reading} bytes are read for one round");
        assert_eq!(pair.b.group.positions().applying, seq(160), "no moment before is offered");
        rounds += u64::from(reading > 0);
        (0..pair.b.waiting(Kind::ReadCache)).for_each(|_| pair.b.finish(Kind::ReadCache));
    }
    assert!(rounds > 64, "{rounds} rounds");
    pair.rest();
    assert!(pair.b.homes == pair.a.homes);
}

/// Delivers message by message until the mirror has stored something.
fn until_stored(pair: &mut Pair, holds: impl Fn(&GroupMeta) -> bool) {
    for _ in 0..500 {
        if holds(&pair.b.stored()) {
            return;
        }
        pair.deliver_one(true);
        pair.deliver_one(false);
        pair.a.run();
        pair.b.run();
    }
    panic!("it is not stored: {:?}", pair.b.stored());
}

#[test]
fn a_copy_goes_on_where_it_was_after_a_crash_of_the_mirror() {
    let mut pair = to_be_copied(vec![1 << 14]);
    pair.connect_held();
    until_stored(&mut pair, |m| m.copy().is_some_and(|c| c.cursor.is_some()));
    let cursor = pair.b.stored().copy().unwrap().cursor.unwrap();
    assert!(cursor.sector.get() < 1 << 14, "not at its end");
    pair.cut();
    pair.b.restart();
    pair.b.run();
    let before = pair.a.group.stats().bytes_sent;
    pair.connect();
    pair.rest();
    assert_eq!(pair.b.group.link_row(), Some(Row::ContinueCopy));
    let copied = pair.a.group.stats().bytes_sent - before;
    assert_eq!(copied, ((1 << 14) - cursor.sector.get()) * 512, "what is behind the cursor");
    assert!(pair.b.homes == pair.a.homes);
}

/// A first copy under way that the mirror has a cursor of, cut; and the source's disk as it was before the last write that
/// the copied regions contain.
fn cut_with_regions_of_a_lost_write() -> (Pair, Vec<u8>, CopyCursor) {
    let mut pair = to_be_copied(vec![1 << 14]);
    pair.connect_held();
    until_stored(&mut pair, |m| !m.branches.is_empty());
    pair.cut();
    let older = pair.a.cache.clone();
    pair.a.put(extent(0, 0, 8), content(77, 8));
    pair.connect_held();
    // The mirror takes regions, and no record becomes durable there.
    pair.b.hold(Kind::WriteCache);
    until_stored(&mut pair, |m| m.copy().is_some_and(|c| c.cursor.is_some()));
    pair.cut();
    let copy = pair.b.stored().copy().unwrap();
    assert_eq!(copy.reach, Some(pair.a.group.durable()), "as far as the view of the last region");
    pair.b.restart();
    pair.b.release(Kind::WriteCache);
    pair.b.run();
    (pair, older, copy.cursor.unwrap())
}

#[test]
fn a_copy_begins_again_where_the_source_has_lost_what_regions_contain() {
    for goes_on in [false, true] {
        let (mut pair, older, cursor) = cut_with_regions_of_a_lost_write();
        let held = pair.b.group.durable();
        pair.a.cache = older;
        pair.a.restart();
        pair.a.run();
        assert!(held.seq <= pair.a.group.durable().seq, "what the mirror's journal has is on both lines");
        if goes_on {
            // Past the view of the regions, by other writes.
            (0..4).for_each(|n| pair.a.put(extent(0, 1024 + n, 1), content(90 + n, 1)));
        }
        pair.b.hold(Kind::WriteHome);
        pair.b.hold(Kind::Superblock);
        pair.connect();
        assert_eq!(pair.b.group.link_row(), Some(Row::RestartCopy));
        assert_eq!(pair.b.stored().copy().unwrap().cursor, Some(cursor));
        pair.b.release(Kind::Superblock);
        pair.rest();
        let copy = pair.b.stored().copy().unwrap();
        assert_eq!((copy.cursor, copy.reach), (None, None), "forgotten before a region is written");
        assert!(pair.a.group.meta().peer().unwrap().copy.is_some());
        pair.b.release(Kind::WriteHome);
        pair.rest();
        assert_eq!((pair.b.stored().copy(), pair.a.stored().peer().unwrap().copy), (None, None));
        assert!(pair.b.group.is_applied() && pair.b.homes == pair.a.homes);
    }
}

#[test]
fn what_was_received_is_counted() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 4), content(1, 4));
    pair.rest();
    let one = pair.b.group.stats().bytes_in;
    assert!(one > 2048, "{one}");
    pair.a.put(extent(0, 0, 4), content(2, 4));
    pair.rest();
    assert_eq!(pair.b.group.stats().bytes_in, 2 * one);
}

/// A batch on the line that the mirror has not seen.
fn batch_on_the_line() -> (Pair, reprise_format::link::Batch, Bytes) {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.rest();
    pair.line_held = true;
    pair.pass(1000);
    pair.a.out.clear();
    pair.a.put(extent(0, 0, 1), content(1, 1));
    let Some((Message::Batch(batch), body)) = pair.a.out.pop_back() else { panic!("a batch") };
    let mut bytes = vec![0; ReceivedBody::ROOM];
    bytes.extend(body.concat());
    pair.b.told();
    pair.b.closed.clear();
    (pair, batch, Bytes::from(bytes))
}

#[test]
fn a_batch_that_is_not_what_it_says_is_not_acknowledged() {
    let (mut pair, mut batch, body) = batch_on_the_line();
    batch.last = seq(2);
    pair.b.message(batch.into(), body);
    let told = pair.b.told();
    assert!(matches!(&told[..], [Notice::LinkFault(_), Notice::LinkDown]), "{told:?}");
    assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation]);
}

#[test]
fn a_batch_that_is_damaged_is_not_taken() {
    let (mut pair, batch, body) = batch_on_the_line();
    let mut body = body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    pair.b.message(batch.into(), Bytes::from(body));
    let told = pair.b.told();
    assert!(matches!(&told[..], [Notice::LinkFault(_), Notice::LinkDown]), "{told:?}");
    assert_eq!(pair.b.closed, [CloseReason::ProtocolViolation]);
    assert_eq!(pair.b.group.positions().written, seq(0));
}

#[test]
fn a_batch_of_another_history_stops_the_link() {
    // The same Seq on another source of the same group and branch, with other content.
    let mut other = Pair::mirrored(&Setup::default());
    other.a.put(extent(0, 0, 1), content(8, 1));
    other.rest();
    other.line_held = true;
    other.pass(1000);
    other.a.out.clear();
    other.a.put(extent(0, 1, 1), content(9, 1));
    let Some((Message::Batch(second), body)) = other.a.out.pop_back() else { panic!("a batch") };
    let mut bytes = vec![0; ReceivedBody::ROOM];
    bytes.extend(body.concat());
    // Ours takes its own first record, and then the other's second.
    let (mut ours, batch, first) = batch_on_the_line();
    ours.b.message(batch.into(), first);
    ours.b.run();
    ours.b.message(second.into(), Bytes::from(bytes));
    assert_eq!(ours.b.told()[0], Notice::LinkStopped(Row::Diverged));
    assert_eq!(ours.b.closed, [CloseReason::Diverged]);
    assert_eq!(ours.b.group.positions().written, seq(1));
}

#[test]
fn a_mirror_answers_again_on_each_connection() {
    let mut pair = Pair::mirrored(&Setup::default());
    for _ in 0..3 {
        pair.cut();
        assert!(!streams(&pair));
        pair.connect();
        assert!(streams(&pair));
    }
    pair.a.put(extent(0, 3, 3), content(3, 3));
    pair.rest();
    assert_eq!(pair.b.home(extent(0, 3, 3)), content(3, 3));
}

#[test]
fn a_segment_that_was_granted_before_the_copy_began_is_given_back() {
    let mut pair = Pair::apart(&Setup::default());
    assert_eq!(pair.b.group.segments().len(), 1, "granted ahead to a journal that never begins");
    pair.connect();
    pair.rest();
    assert_eq!(pair.b.group.segments().len(), 1);
    pair.b.assert_no_segment_is_lost();
}
