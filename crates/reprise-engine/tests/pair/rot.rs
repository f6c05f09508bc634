//! Rot: what cannot be read back is fetched from the other box, or said to be lost.

use bytes::Bytes;
use reprise_engine::{CommandError, HostOp, Notice};
use reprise_format::batch::Envelope;
use reprise_format::link::{BatchAgain, BatchWanted, CloseReason, Message};

use crate::harness::{FAULT, Kind, Setup, TestBox, content, extent, seq};
use crate::pair::Pair;

/// Where the batch that holds record `n` lies in the cache.
fn place(end: &TestBox, n: u64) -> u64 {
    end.group.journal().place_of(seq(n)).unwrap().at
}

/// Flips a bit of its payload: so far behind its beginning, the content of a small batch is certain to be.
fn spoil(end: &mut TestBox, n: u64) {
    let at = place(end, n) + 800;
    end.rot(at);
}

/// A mirrored pair of which neither home takes anything, and neither box keeps three writes in memory.
fn journaled() -> Pair {
    let mut pair = Pair::mirrored(&Setup::default());
    for end in [&mut pair.a, &mut pair.b] {
        end.command(|g, _| g.set_memory_short(true));
        end.hold(Kind::FlushHome);
    }
    for n in 1..=3 {
        pair.a.put(extent(0, n * 9, 4), content(n, 4));
        pair.pass(20);
        pair.run();
    }
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(3)));
    pair.a.told();
    pair.b.told();
    pair
}

/// A host reads what is rotten.
fn stumble(a: &mut TestBox, n: u64) {
    let io = a.ask(HostOp::Read(extent(0, n * 9, 4)));
    a.run();
    a.error(io);
}

fn wanted(end: &TestBox) -> Vec<(u64, u64)> {
    let wanted = |(m, _): &(Message, Vec<Bytes>)| match m {
        Message::BatchWanted(w) => Some((w.first.get(), w.last.get())),
        _ => None,
    };
    end.out.iter().filter_map(wanted).collect()
}

fn again(end: &TestBox) -> Vec<(u64, bool, usize)> {
    let again = |(m, payload): &(Message, Vec<Bytes>)| match m {
        Message::BatchAgain(m) => Some((m.first.get(), m.found, payload.iter().map(Bytes::len).sum())),
        _ => None,
    };
    end.out.iter().filter_map(again).collect()
}

#[test]
fn a_source_gets_a_rotten_batch_from_its_mirror() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.line_held = true;
    stumble(&mut pair.a, 2);
    assert_eq!(pair.a.group.rotten(), Some((seq(2), seq(2), false)));
    assert_eq!(wanted(&pair.a), [(2, 2)], "asked once");
    pair.line_held = false;
    pair.run();
    assert_eq!(pair.a.told(), [Notice::JournalUnreadable(seq(2)), Notice::JournalRepaired(seq(2), seq(2))]);
    assert_eq!(pair.a.group.rotten(), None);
    assert_eq!(pair.a.get(extent(0, 18, 4)), content(2, 4));
    // The place is the old one, under the superblock as it is, and recovery takes it.
    let at = place(&pair.a, 2) as usize;
    let envelope = Envelope::decode(&pair.a.cache[at..at + 64]).unwrap();
    assert_eq!(envelope.superblock_version, pair.a.stored_version());
    pair.cut();
    pair.a.restart();
    pair.a.run();
    assert_eq!(pair.a.group.durable().seq, seq(3));
}

/// A mirror whose home waits for the rotten batch of record 1, and has asked for it on a line that stands still.
fn asking(source_has_it_in_memory: bool) -> Pair {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.command(|g, _| g.set_memory_short(true));
    pair.a.command(|g, _| g.set_memory_short(!source_has_it_in_memory));
    pair.b.hold(Kind::Superblock);
    pair.a.hold(Kind::FlushHome);
    pair.a.put(extent(0, 9, 4), content(1, 4));
    pair.rest();
    spoil(&mut pair.b, 1);
    pair.line_held = true;
    pair.b.release(Kind::Superblock);
    pair.b.run();
    assert_eq!(wanted(&pair.b), [(1, 1)]);
    pair
}

#[test]
fn a_mirror_gets_a_rotten_batch_from_its_source_and_its_home_goes_on() {
    for in_memory in [false, true] {
        let mut pair = asking(in_memory);
        assert!(!pair.b.group.home_detached());
        pair.b.rest();
        assert_eq!(pair.b.group.stats().bytes_applied, 0, "home waits for it");
        pair.line_held = false;
        pair.rest();
        assert_eq!(pair.b.told(), [Notice::JournalUnreadable(seq(1)), Notice::JournalRepaired(seq(1), seq(1))]);
        assert_eq!(pair.b.home(extent(0, 9, 4)), content(1, 4));
    }
}

#[test]
fn a_full_mirror_whose_home_waits_for_a_rotten_batch_answers_the_next_connection() {
    let mut pair = asking(true);
    // Its cache is full, and more has come than fits.
    pair.b.hold_grants = true;
    for n in 2..20 {
        pair.a.put(extent(0, n * 200, 200), content(n, 200));
        while pair.deliver_one(true) {}
        pair.b.run();
    }
    assert!(pair.b.group.journal().stalled());
    let held = pair.b.group.durable();
    assert!(pair.b.group.journal().written() > held.seq);
    // The question is lost with the line.
    pair.cut();
    pair.b.told();
    pair.connect();
    let told = pair.b.told();
    assert!(told.contains(&Notice::JournalRepaired(seq(1), seq(1))), "{told:?}");
    pair.b.hold_grants = false;
    pair.a.release(Kind::FlushHome);
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    assert!(pair.b.group.is_applied() && pair.b.homes == pair.a.homes);
    assert_eq!(pair.b.home(extent(0, 400, 200)), content(2, 200));
}

#[test]
fn a_home_that_has_it_does_not_wait_for_what_is_rotten() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.command(|g, _| g.set_memory_short(true));
    pair.a.hold(Kind::Superblock);
    pair.a.put(extent(0, 9, 4), content(1, 4));
    pair.rest();
    // Read while the superblock does not say that it is applied, rotten, and applied meanwhile.
    spoil(&mut pair.a, 1);
    pair.line_held = true;
    stumble(&mut pair.a, 1);
    assert!(pair.a.group.rotten().is_some());
    spoil(&mut pair.a, 1);
    pair.a.release(Kind::Superblock);
    pair.a.run();
    pair.a.put(extent(0, 40, 1), content(2, 1));
    pair.a.rest();
    assert!(pair.a.group.positions().applied >= seq(1));
}

#[test]
fn what_the_other_box_does_not_hold_is_lost() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.line_held = true;
    stumble(&mut pair.a, 2);
    pair.a.told();
    let (first, last) = (seq(2), seq(2));
    pair.a.message(BatchAgain { first, last, found: false }.into(), Bytes::new());
    assert_eq!(pair.a.group.rotten(), Some((seq(2), seq(2), true)));
    assert_eq!(pair.a.told(), [Notice::JournalLost(seq(2), seq(2)), Notice::JournalUnreadable(seq(2))]);
    assert!(pair.a.group.home_detached(), "its home lacks it");
    assert!(pair.a.closed.is_empty() && pair.a.group.wants_link(), "the mirror has it");
    assert_eq!(pair.a.get(extent(0, 27, 4)), content(3, 4), "everything else goes on");
}

#[test]
fn what_is_not_the_batch_is_not_taken() {
    for broken in [true, false] {
        let mut pair = journaled();
        spoil(&mut pair.a, 2);
        let other = pair.a.group.journal().place_of(seq(3)).unwrap();
        let bytes = Bytes::copy_from_slice(&pair.a.cache[other.at as usize..other.at as usize + other.len]);
        let third: Bytes = other.verify(bytes).unwrap().body().flatten().collect();
        pair.line_held = true;
        stumble(&mut pair.a, 2);
        let payload = if broken { Bytes::from(vec![1; 600]) } else { third };
        pair.a.message(BatchAgain { first: seq(2), last: seq(2), found: true }.into(), payload);
        assert_eq!(pair.a.waiting(Kind::WriteCache), 0);
        assert_eq!(pair.a.group.rotten(), Some((seq(2), seq(2), true)));
    }
}

#[test]
fn an_answer_to_another_question_is_passed_over() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.line_held = true;
    let no = |n| Message::from(BatchAgain { first: seq(n), last: seq(n), found: false });
    pair.a.message(no(2), Bytes::new());
    stumble(&mut pair.a, 2);
    pair.a.message(no(1), Bytes::new());
    assert_eq!(pair.a.group.rotten(), Some((seq(2), seq(2), false)));
}

#[test]
fn the_question_is_asked_again_on_another_connection() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.line_held = true;
    stumble(&mut pair.a, 2);
    assert_eq!(wanted(&pair.a).len(), 1);
    pair.cut();
    pair.a.rest();
    assert_eq!(wanted(&pair.a).len(), 0);
    pair.connect();
    pair.rest();
    assert_eq!(pair.a.group.rotten(), None);
    assert_eq!(pair.a.get(extent(0, 18, 4)), content(2, 4));
}

#[test]
fn what_the_peer_has_yet_to_get_and_nobody_can_read_ends_the_link() {
    let mut pair = journaled();
    pair.cut();
    pair.a.put(extent(0, 100, 4), content(9, 4));
    spoil(&mut pair.a, 4);
    let io = pair.a.ask(HostOp::Read(extent(0, 100, 4)));
    pair.a.run();
    pair.a.error(io);
    assert_eq!(pair.a.group.rotten(), Some((seq(4), seq(4), false)), "a peer may hold it");
    pair.a.told();
    pair.dial();
    pair.run();
    assert_eq!(pair.a.group.rotten(), Some((seq(4), seq(4), true)), "it cannot");
    assert!(!pair.a.group.wants_link());
    assert!(pair.a.told().contains(&Notice::JournalLost(seq(4), seq(4))));
    // The disk was in trouble for a moment only: it is read again every minute.
    spoil(&mut pair.a, 4);
    pair.a.hold(Kind::ReadCache);
    pair.a.pass(59_999);
    assert_eq!(pair.a.waiting(Kind::ReadCache), 0);
    pair.a.pass(1);
    assert_eq!(pair.a.waiting(Kind::ReadCache), 1);
    pair.a.pass(1);
    assert_eq!(pair.a.waiting(Kind::ReadCache), 1, "once a minute");
    pair.a.told();
    pair.a.finish(Kind::ReadCache);
    let told = pair.a.told();
    assert_eq!(told, [Notice::JournalReadable(seq(4), seq(4)), Notice::HomeAttached]);
    assert!(pair.a.group.wants_link());
    pair.a.release(Kind::ReadCache);
    pair.connect();
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(4)));
}

#[test]
fn what_is_still_rotten_stays_lost_and_is_read_a_minute_later() {
    let mut a = TestBox::serving(&Setup::default());
    a.command(|g, _| g.set_memory_short(true));
    a.put(extent(0, 9, 4), content(1, 4));
    spoil(&mut a, 1);
    stumble(&mut a, 1);
    a.hold(Kind::ReadCache);
    for _ in 0..2 {
        a.pass(60_000);
        a.finish(Kind::ReadCache);
        assert_eq!(a.group.rotten(), Some((seq(1), seq(1), true)));
    }
    a.pass(60_000);
    a.fail(Kind::ReadCache);
    assert_eq!(a.group.rotten(), Some((seq(1), seq(1), true)));
}

#[test]
fn a_person_has_what_is_lost_tried_again_at_once() {
    let mut a = TestBox::serving(&Setup::default());
    a.command(|g, _| g.set_memory_short(true));
    a.put(extent(0, 9, 4), content(1, 4));
    spoil(&mut a, 1);
    stumble(&mut a, 1);
    assert!(a.group.home_detached());
    spoil(&mut a, 1);
    a.told();
    a.command(|g, now| g.reattach_home(now)).unwrap();
    assert_eq!(a.told(), [Notice::HomeAttached]);
    assert_eq!(a.group.rotten(), None);
    a.rest();
    assert!(a.group.is_applied());
    assert_eq!(a.command(|g, now| g.reattach_home(now)), Err(CommandError::Attached));
}

#[test]
fn a_batch_that_cannot_be_written_again_fences_the_group() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.a.hold(Kind::WriteCache);
    stumble(&mut pair.a, 2);
    pair.run();
    pair.a.told();
    pair.a.fail(Kind::WriteCache);
    assert_eq!(pair.a.told()[0], Notice::Fenced(FAULT));
}

#[test]
fn a_box_serves_one_batch_at_a_time_and_only_what_it_holds() {
    let mut pair = journaled();
    pair.line_held = true;
    pair.b.hold(Kind::ReadCache);
    let ask = |b: &mut TestBox, first, last| {
        b.message(BatchWanted { first: seq(first), last: seq(last) }.into(), Bytes::new())
    };
    ask(&mut pair.b, 0, 0);
    assert_eq!(again(&pair.b), []);
    ask(&mut pair.b, 7, 7);
    assert_eq!(again(&pair.b), [(7, false, 0)]);
    ask(&mut pair.b, 1, 2);
    assert_eq!(again(&pair.b)[1..], [(1, false, 0)], "no batch of it is so long");
    pair.b.out.clear();
    ask(&mut pair.b, 1, 1);
    ask(&mut pair.b, 2, 2);
    assert_eq!(pair.b.waiting(Kind::ReadCache), 1);
    pair.b.finish(Kind::ReadCache);
    let served = again(&pair.b);
    assert!(matches!(served[..], [(1, true, bytes)] if bytes > 2048), "{served:?}");
    ask(&mut pair.b, 2, 2);
    pair.b.fail(Kind::ReadCache);
    assert_eq!(again(&pair.b)[1..], [(2, false, 0)]);
    // From memory, where it is.
    pair.b.command(|g, _| g.set_memory_short(false));
    pair.line_held = false;
    pair.a.put(extent(0, 100, 1), content(5, 1));
    pair.pass(20);
    pair.run();
    pair.line_held = true;
    pair.b.out.clear();
    ask(&mut pair.b, 4, 5);
    ask(&mut pair.b, 4, 4);
    assert_eq!(pair.b.waiting(Kind::ReadCache), 0);
    let served = again(&pair.b);
    assert!(matches!(served[..], [(4, false, 0), (4, true, _)]), "{served:?}");
}

#[test]
fn what_was_read_for_an_earlier_connection_is_not_served() {
    let mut pair = journaled();
    pair.line_held = true;
    pair.b.hold(Kind::ReadCache);
    pair.b.message(BatchWanted { first: seq(1), last: seq(1) }.into(), Bytes::new());
    pair.cut();
    pair.connect();
    pair.line_held = true;
    pair.b.finish(Kind::ReadCache);
    assert_eq!(again(&pair.b), []);
    // And the next one is.
    pair.b.release(Kind::ReadCache);
    pair.b.message(BatchWanted { first: seq(1), last: seq(1) }.into(), Bytes::new());
    pair.b.run();
    assert_eq!(again(&pair.b).len(), 1);
}

#[test]
fn nothing_is_served_before_the_handshake() {
    let mut pair = journaled();
    pair.cut();
    pair.line_held = true;
    pair.dial();
    let before = pair.b.out.len();
    pair.b.message(BatchWanted { first: seq(1), last: seq(1) }.into(), Bytes::new());
    pair.b.run();
    assert_eq!(pair.b.out.len(), before);
    assert_eq!(pair.b.closed, [] as [CloseReason; 0]);
}

#[test]
fn what_was_trimmed_is_nobody_s_loss() {
    let mut pair = journaled();
    spoil(&mut pair.a, 2);
    pair.cut();
    stumble(&mut pair.a, 2);
    assert_eq!(pair.a.group.rotten(), Some((seq(2), seq(2), false)));
    let mut alone = TestBox::serving(&Setup::default());
    alone.command(|g, _| g.set_memory_short(true));
    alone.put(extent(0, 9, 4), content(1, 4));
    let late = alone.ask(HostOp::Read(extent(0, 9, 4)));
    let reads = [alone.take(Kind::ReadCache, 0), alone.take(Kind::ReadCache, 0)];
    for n in 0..8 {
        alone.put(extent(0, 512 * (n % 7), 512), content(n, 512));
    }
    alone.rest();
    assert!(alone.group.positions().trimmed > seq(1));
    alone.answer_with(&reads[0], Bytes::from(vec![0; 4096]));
    alone.answer(&reads[1]);
    alone.error(late);
    assert_eq!(alone.group.rotten(), None, "it is not in the journal any more");
    assert!(!alone.group.home_detached());
}
