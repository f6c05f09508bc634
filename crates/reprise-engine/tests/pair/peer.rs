//! The peer cursor of a source: what is offered, sent, read ahead and copied, and when the link ends.

use bytes::Bytes;
use reprise_engine::{Event, GroupMeta, LinkInput, Notice, PeerId, RoleMeta};
use reprise_format::link::{CloseReason, CopyExtent, CopyNeed, Credit, Membership, Message, Row, Side};
use reprise_journal::BatchSource;
use reprise_types::{BoxId, HistoryHash, Seq};

use crate::harness::{GROUP, Kind, Setup, TestBox, content, extent, seq, slot, source_instance};
use crate::pair::Pair;

/// Room for a backlog on both boxes.
fn roomy(volumes: Vec<u64>) -> Setup {
    Setup { volumes, segments: 64, ..Setup::default() }
}

/// First and last records of the batches that wait to go on the line.
fn batches(a: &TestBox) -> Vec<(u64, u64)> {
    let batch = |m: &Message| match m {
        Message::Batch(b) => Some((b.first.get(), b.last.get())),
        _ => None,
    };
    a.out.iter().filter_map(|(m, _)| batch(m)).collect()
}

/// Regions that wait to go on the line, with the bytes of their payload.
fn regions(a: &TestBox) -> Vec<(CopyExtent, usize)> {
    let region = |(m, payload): &(Message, Vec<Bytes>)| match m {
        Message::CopyExtent(e) => Some((e.clone(), payload.iter().map(Bytes::len).sum())),
        _ => None,
    };
    a.out.iter().filter_map(region).collect()
}

fn heartbeats(a: &TestBox) -> usize {
    a.out.iter().filter(|(m, _)| matches!(m, Message::Heartbeat(_))).count()
}

fn row(pair: &Pair) -> (Option<Row>, Option<Row>) {
    (pair.a.group.link_row(), pair.b.group.link_row())
}

/// A mirrored pair whose line is cut while the source takes writes of one sector, which it does not keep in memory.
fn behind(writes: u64) -> Pair {
    let mut pair = Pair::mirrored(&roomy(vec![4096]));
    pair.cut();
    pair.a.command(|g, _| g.set_memory_short(true));
    (0..writes).for_each(|n| pair.a.put(extent(0, n * 2, 1), content(n, 1)));
    pair
}

/// Body bytes of the batches from `first` to `last`, each of one record and in memory.
fn body_bytes(a: &TestBox, first: u64, last: u64) -> u64 {
    let body = |n| match a.group.journal().batch_after(seq(n - 1)) {
        Some(BatchSource::Ram(batch)) => batch.body_len() as u64,
        other => panic!("in memory: {other:?}"),
    };
    (first..=last).map(body).sum()
}

#[test]
fn the_offer_says_what_the_source_is_and_what_the_peer_has_proved() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.line_held = true;
    pair.dial();
    let Some((Message::GroupOffer(offer), _)) = pair.a.out.front().cloned() else { panic!("an offer") };
    assert_eq!((offer.group, offer.box_id, offer.role), (GROUP, BoxId::from_raw([1; 16]), Side::Source));
    assert_eq!((offer.copy, offer.peer_proven, offer.serving), (CopyNeed::Needed, None, true));
    assert_eq!((offer.durable, offer.trimmed.seq), (pair.a.group.durable(), Seq::ZERO));
    assert_eq!((offer.instance, offer.peer_instance_seen), (source_instance(), None));
    assert_eq!(offer.volumes, pair.a.group.link_volumes());
    assert_eq!(offer.volumes.len(), 2);

    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.line_held = true;
    pair.dial();
    let Some((Message::GroupOffer(offer), _)) = pair.a.out.front().cloned() else { panic!("an offer") };
    assert_eq!((offer.copy, offer.peer_proven), (CopyNeed::Complete, Some(pair.b.group.durable())));
    assert_eq!(offer.peer_instance_seen, Some(pair.b.group.meta().peer().unwrap().instance.current));
}

#[test]
fn the_row_says_how_the_link_came_up() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.homes[0].fill(1);
    assert_eq!(row(&pair), (None, None));
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    assert_eq!(row(&pair), (Some(Row::StartCopy), Some(Row::StartCopy)));
    assert!(pair.a.told().contains(&Notice::LinkUp(Row::StartCopy)));
    pair.cut();
    assert_eq!(row(&pair), (None, None));
    assert_eq!(pair.a.told(), [Notice::LinkDown]);
    pair.b.release(Kind::FlushHome);
    pair.connect();
    assert_eq!(row(&pair), (Some(Row::ContinueCopy), Some(Row::ContinueCopy)));
    pair.rest();
    pair.cut();
    pair.a.told();
    pair.connect();
    assert_eq!(row(&pair), (Some(Row::Resume), Some(Row::Resume)));
    assert_eq!(pair.a.told(), [Notice::LinkUp(Row::Resume)]);
    assert_eq!(pair.a.stored().peer().unwrap().copy, None, "no other copy begins");
    assert_eq!(pair.b.homes[0], pair.a.homes[0]);
}

/// The link came back with a backlog, and the lag began again at nothing.
#[test]
fn the_lag_is_the_age_of_the_oldest_write_that_the_mirror_lacks() {
    let lag = |pair: &Pair| pair.a.group.lag_millis(pair.a.now);
    let mut pair = Pair::mirrored(&roomy(vec![4096]));
    assert_eq!(lag(&pair), 0);
    pair.cut();
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.pass(5_000);
    pair.a.put(extent(0, 8, 1), content(2, 1));
    pair.pass(2_000);
    assert_eq!(lag(&pair), 7_000, "no link");
    pair.connect_held();
    pair.handshake();
    pair.pass(500);
    assert_eq!(lag(&pair), 7_500, "a link, and nothing has come over it");
    pair.cut();
    pair.pass(500);
    assert_eq!(lag(&pair), 8_000);
    // The source starts again: what it had before is as old as it was.
    pair.a.restart();
    pair.a.run();
    pair.pass(1_000);
    assert_eq!(lag(&pair), 9_000);
    pair.connect_held();
    pair.handshake();
    pair.pass(250);
    assert_eq!(lag(&pair), 9_250);
    pair.line_held = false;
    pair.run();
    pair.rest();
    assert_eq!(lag(&pair), 0);
}

/// A status that held no copy was taken for a copy that was complete.
#[test]
fn a_copy_that_is_not_complete_is_known_whether_the_link_is_up_or_not() {
    let copied = |of: &TestBox| of.group.copy_progress().map(|p| (p.done, p.total));
    let mut pair = Pair::apart(&roomy(vec![4096]));
    pair.a.homes[0].fill(1);
    assert_eq!(copied(&pair.a), Some((0, 4096)), "before the first handshake");
    assert_eq!(copied(&pair.b), Some((0, 4096)));
    pair.b.hold(Kind::FlushHome);
    pair.connect();
    pair.b.finish(Kind::FlushHome);
    pair.run();
    let part = copied(&pair.a);
    assert!(part.is_some_and(|(done, _)| done > 0 && done < 4096), "{part:?}");
    pair.cut();
    assert_eq!(copied(&pair.a), part, "no link");
    pair.a.restart();
    pair.a.run();
    assert!(copied(&pair.a).is_some(), "another start");
    pair.line_held = true;
    pair.dial();
    assert!(copied(&pair.a).is_some() && copied(&pair.b).is_some(), "a link without a word");
    pair.line_held = false;
    pair.b.release(Kind::FlushHome);
    pair.run();
    pair.rest();
    assert_eq!((copied(&pair.a), copied(&pair.b)), (None, None));
}

/// Two sources answered each other that an offer was not expected, and tried again for ever.
#[test]
fn two_sources_say_so_whoever_dials() {
    for a_dials in [true, false] {
        let mut pair = Pair::mirrored(&Setup::default());
        pair.cut();
        let source = GroupMeta { role: RoleMeta::Source, ..pair.b.stored() };
        pair.b.store(&source);
        pair.b.restart();
        pair.b.run();
        assert!(pair.a.group.wants_link() && pair.b.group.wants_link());
        pair.up = true;
        pair.a.connected_by(a_dials);
        pair.b.connected_by(!a_dials);
        pair.run();
        assert_eq!(row(&pair), (Some(Row::BothSources), Some(Row::BothSources)), "a dials: {a_dials}");
        for end in [&mut pair.a, &mut pair.b] {
            assert!(end.told().contains(&Notice::LinkStopped(Row::BothSources)));
            assert!(!end.group.wants_link(), "neither dials again by itself");
        }
        // Hosts of both are served as before: which one goes on is for a person to say.
        pair.a.put(extent(0, 0, 1), content(1, 1));
        pair.b.put(extent(0, 0, 1), content(2, 1));
    }
}

#[test]
fn a_source_wants_a_link_when_it_may_serve_one() {
    let mut pair = Pair::apart(&Setup::default());
    assert!(pair.a.group.wants_link());
    assert!(!pair.b.group.wants_link(), "the mirror is called");
    assert!(!TestBox::serving(&Setup::default()).group.wants_link(), "no peer");
    pair.a.restart();
    assert!(!pair.a.group.wants_link(), "its seal is not durable");
    pair.a.connected();
    assert_eq!(pair.a.closed, [CloseReason::NotReady]);
    assert!(pair.a.group.source_session().is_none());
    pair.a.run();
    assert!(pair.a.group.wants_link());
    pair.connect();
    assert!(pair.a.group.source_session().is_some() && pair.b.group.mirror_session().is_some());
    pair.a.write(extent(0, 0, 1), content(1, 1));
    pair.a.fail(Kind::WriteCache);
    assert!(!pair.a.group.wants_link(), "fenced");
}

#[test]
fn four_mebibytes_of_batches_are_handed_to_the_line() {
    let mut pair = Pair::mirrored(&roomy(vec![1 << 15]));
    pair.cut();
    (0..20).for_each(|n| pair.a.put(extent(0, n * 512, 512), content(n, 512)));
    let bodies = body_bytes(&pair.a, 1, 20);
    pair.line_held = true;
    pair.dial();
    pair.handshake();
    // Each is a little more than 256 KiB: fifteen are less than 4 MiB, sixteen are more.
    assert_eq!(batches(&pair.a), Vec::from_iter((1..=16).map(|n| (n, n))));
    assert_eq!(pair.a.group.positions().sent, Some(seq(16)));
    assert!(pair.deliver_one(true));
    assert_eq!(batches(&pair.a), Vec::from_iter((2..=17).map(|n| (n, n))));
    pair.line_held = false;
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    assert_eq!(pair.a.group.stats().bytes_sent, bodies);
}

#[test]
fn four_mebibytes_of_regions_are_handed_to_the_line() {
    let mut pair = Pair::apart(&roomy(vec![1 << 15]));
    pair.a.homes[0].fill(1);
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    assert_eq!(pair.a.waiting(Kind::ReadHome), 4);
    pair.line_held = true;
    pair.a.release(Kind::ReadHome);
    pair.a.run();
    assert_eq!(regions(&pair.a).len(), 4);
    let sectors: Vec<u64> = regions(&pair.a).iter().map(|(e, _)| e.sector.get()).collect();
    assert_eq!(sectors, [0, 2048, 4096, 6144]);
    while regions(&pair.a).first().is_some_and(|(e, _)| e.sector.get() == 0) {
        pair.deliver_one(true);
    }
    assert_eq!(regions(&pair.a).len(), 4, "one is gone and one has followed");
    pair.line_held = false;
    pair.rest();
    assert!(pair.b.group.meta().copy().is_none());
    assert_eq!(pair.b.homes[0], pair.a.homes[0]);
    assert_eq!(pair.a.group.stats().bytes_sent, 16 << 20);
}

#[test]
fn a_write_after_a_pause_is_sent_at_once_and_the_next_ones_in_bursts_of_10_ms() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    pair.pass(1000);
    pair.a.out.clear();
    pair.a.put(extent(0, 0, 1), content(1, 1));
    assert_eq!(batches(&pair.a), [(1, 1)]);
    pair.a.put(extent(0, 1, 1), content(2, 1));
    pair.a.put(extent(0, 2, 1), content(3, 1));
    assert_eq!(batches(&pair.a), [(1, 1)]);
    pair.pass(9);
    assert_eq!(batches(&pair.a), [(1, 1)]);
    pair.pass(1);
    assert_eq!(batches(&pair.a), [(1, 1), (2, 2), (3, 3)]);
    pair.a.put(extent(0, 2, 1), content(3, 1));
    assert_eq!(batches(&pair.a).len(), 3, "the pause counts from the last burst");
}

#[test]
fn a_burst_does_not_wait_once_256_kib_do() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    pair.pass(1000);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    // Each takes 4 KiB of the journal.
    for n in 1..64 {
        pair.a.put(extent(0, n, 1), content(n, 1));
        assert_eq!(batches(&pair.a), [(1, 1)]);
    }
    pair.a.put(extent(0, 64, 1), content(64, 1));
    assert_eq!(batches(&pair.a).len(), 65);
}

#[test]
fn batches_that_left_memory_are_read_ahead_and_sent_in_order() {
    let mut pair = behind(30);
    pair.a.hold(Kind::ReadCache);
    pair.connect();
    pair.line_held = true;
    assert_eq!(pair.a.waiting(Kind::ReadCache), 16);
    // The second one is there first.
    let second = pair.a.take(Kind::ReadCache, 1);
    pair.a.answer(&second);
    assert_eq!(batches(&pair.a), []);
    assert_eq!(pair.a.waiting(Kind::ReadCache), 15);
    pair.a.finish(Kind::ReadCache);
    assert_eq!(batches(&pair.a), [(1, 1), (2, 2)]);
    assert_eq!(pair.a.waiting(Kind::ReadCache), 16, "two more have followed");
    pair.line_held = false;
    pair.a.release(Kind::ReadCache);
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    (0..30).for_each(|n| assert_eq!(pair.b.home(extent(0, n * 2, 1)), content(n, 1)));
}

#[test]
fn what_is_in_memory_follows_what_is_read_from_the_disk() {
    let mut pair = behind(3);
    pair.a.command(|g, _| g.set_memory_short(false));
    (3..6).for_each(|n| pair.a.put(extent(0, n * 2, 1), content(n, 1)));
    pair.a.hold(Kind::ReadCache);
    pair.connect();
    assert_eq!(pair.a.waiting(Kind::ReadCache), 3);
    pair.line_held = true;
    pair.a.release(Kind::ReadCache);
    pair.a.run();
    pair.a.pass(10);
    pair.a.run();
    assert_eq!(batches(&pair.a), Vec::from_iter((1..=6).map(|n| (n, n))));
    pair.line_held = false;
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
}

#[test]
fn reads_for_a_line_that_is_gone_are_nobody_s() {
    let mut pair = behind(5);
    pair.a.hold(Kind::ReadCache);
    pair.connect();
    pair.cut();
    while pair.a.waiting(Kind::ReadCache) > 0 {
        pair.a.finish(Kind::ReadCache);
    }
    assert_eq!(pair.a.out.len(), 0);
    pair.a.release(Kind::ReadCache);
    pair.connect();
    pair.rest();
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
}

#[test]
fn what_cannot_be_read_for_the_peer_closes_the_line_for_ten_seconds() {
    let mut pair = behind(2);
    pair.a.hold(Kind::ReadCache);
    pair.connect();
    pair.a.told();
    pair.a.fail(Kind::ReadCache);
    assert_eq!(pair.a.closed, [CloseReason::NotReady]);
    assert_eq!(pair.a.told(), [Notice::JournalUnreadable(seq(1)), Notice::LinkDown]);
    assert_eq!(pair.a.group.stats().read_errors, 1);
    pair.cut();
    pair.pass(9_999);
    assert!(!pair.a.group.wants_link());
    pair.pass(1);
    assert!(pair.a.group.wants_link());
}

#[test]
fn a_rotten_batch_is_not_sent() {
    let mut pair = behind(2);
    pair.a.hold(Kind::ReadCache);
    pair.connect();
    let reprise_engine::Effect::ReadCache { at, .. } = *pair.a.oldest(Kind::ReadCache) else { panic!("a read") };
    pair.a.rot(at + 500);
    pair.a.finish(Kind::ReadCache);
    assert_eq!(pair.a.closed, [CloseReason::NotReady]);
    assert_eq!(batches(&pair.a), []);
    assert_eq!(pair.a.group.rotten().map(|(first, last, _)| (first, last)), Some((seq(1), seq(1))));
}

#[test]
fn a_region_that_cannot_be_read_closes_the_line_for_ten_seconds() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    pair.a.fail(Kind::ReadHome);
    assert_eq!(pair.a.closed, [CloseReason::NotReady]);
    pair.cut();
    pair.pass(9_999);
    assert!(!pair.a.group.wants_link());
    pair.pass(1);
    assert!(pair.a.group.wants_link());
}

#[test]
fn regions_of_zeros_are_sent_without_their_zeros() {
    let mut pair = Pair::apart(&roomy(vec![5 * 2048]));
    pair.a.homes[0][1 << 20..2 << 20].fill(7);
    pair.a.homes[0][(3 << 20) - 1] = 1;
    pair.a.homes[0][3 << 20] = 1;
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    pair.line_held = true;
    pair.a.release(Kind::ReadHome);
    pair.a.run();
    let sent: Vec<_> = regions(&pair.a).iter().map(|(e, bytes)| (e.zero, *bytes)).collect();
    assert_eq!(sent, [(true, 0), (false, 1 << 20), (false, 1 << 20), (false, 1 << 20), (true, 0)]);
    assert_eq!(pair.a.group.stats().bytes_sent, 3 << 20);
    pair.line_held = false;
    // What is zero there is written, whatever the mirror's home held.
    pair.b.homes[0].fill(9);
    pair.rest();
    assert_eq!(pair.b.homes[0], pair.a.homes[0]);
}

#[test]
fn regions_that_are_read_out_of_order_are_sent_in_theirs() {
    let mut pair = Pair::apart(&roomy(vec![2048, 4096]));
    pair.a.homes[0].fill(1);
    pair.a.homes[1].fill(2);
    pair.a.homes[1][1 << 20..].fill(3);
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    pair.line_held = true;
    for nth in [2, 1] {
        let effect = pair.a.take(Kind::ReadHome, nth);
        pair.a.answer(&effect);
        assert_eq!(regions(&pair.a), []);
    }
    pair.a.finish(Kind::ReadHome);
    let sent: Vec<_> = regions(&pair.a).iter().map(|(e, _)| (e.slot, e.sector.get())).collect();
    assert_eq!(sent, [(slot(0), 0), (slot(1), 0), (slot(1), 2048)]);
    let done = pair.a.out.iter().filter(|(m, _)| matches!(m, Message::CopyDone(_))).count();
    assert_eq!(done, 1);
    assert!(matches!(pair.a.out.back(), Some((Message::CopyDone(_), _))), "behind the last region");
    pair.line_held = false;
    pair.rest();
    assert_eq!(pair.b.homes, pair.a.homes);
}

#[test]
fn what_was_read_for_an_earlier_connection_is_not_sent_on_a_later_one() {
    let mut pair = Pair::apart(&roomy(vec![2048]));
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    let old = pair.a.take(Kind::ReadHome, 0);
    pair.cut();
    pair.connect();
    pair.a.homes[0].fill(9);
    pair.a.answer_with(&old, Bytes::from(vec![1; 1 << 20]));
    assert_eq!(regions(&pair.a), []);
    pair.a.release(Kind::ReadHome);
    pair.rest();
    assert_eq!(pair.b.homes[0], vec![9; 1 << 20]);
}

#[test]
fn a_copied_region_is_what_is_durable_and_waits_for_nothing_else() {
    for applied in [false, true] {
        let mut pair = Pair::apart(&roomy(vec![2048]));
        pair.a.put(extent(0, 0, 8), content(1, 8));
        if applied {
            pair.a.rest();
        }
        pair.a.hold(Kind::WriteCache);
        pair.a.write(extent(0, 2, 4), content(2, 4));
        pair.connect();
        pair.rest();
        assert_eq!(pair.b.home(extent(0, 0, 8)), content(1, 8), "the record that is not durable is not in it");
        pair.a.release(Kind::WriteCache);
        pair.rest();
        assert_eq!(pair.b.home(extent(0, 2, 4)), content(2, 4));
        assert!(pair.b.group.meta().copy().is_none());
    }
}

#[test]
fn a_copy_takes_what_hosts_write_meanwhile() {
    let mut pair = Pair::apart(&roomy(vec![1 << 14]));
    pair.a.homes[0].fill(1);
    pair.dial();
    pair.line_held = true;
    for n in 0..400 {
        pair.a.put_later(extent(0, n * 41 % 16_000, 5), n);
        pair.deliver_one(true);
        pair.deliver_one(false);
        pair.a.run();
        pair.b.run();
        pair.pass(3);
    }
    pair.line_held = false;
    pair.rest();
    assert!(pair.b.group.meta().copy().is_none());
    assert!(pair.a.group.is_applied() && pair.b.group.is_applied());
    assert!(pair.a.homes[0] == pair.b.homes[0]);
    assert_eq!(pair.a.told().iter().filter(|n| **n == Notice::CopyComplete).count(), 1);
}

#[test]
fn a_limited_copy_reads_a_quarter_of_a_second_at_a_time() {
    let mut pair = Pair::apart(&roomy(vec![1 << 15]));
    pair.a.command(|g, _| g.set_rates(1 << 20, 0));
    pair.a.hold(Kind::ReadHome);
    pair.connect();
    assert_eq!(pair.a.waiting(Kind::ReadHome), 1);
    let first = crate::harness::home_extent(pair.a.oldest(Kind::ReadHome));
    assert_eq!(first, Some(extent(0, 0, 512)), "256 KiB of 1 MiB a second");
    pair.pass(249);
    assert_eq!(pair.a.waiting(Kind::ReadHome), 1);
    pair.pass(1);
    assert_eq!(pair.a.waiting(Kind::ReadHome), 2);
}

#[test]
fn regions_are_cut_for_the_slower_of_copy_and_link() {
    for (copy, link, sectors) in [(0, 1 << 20, 512), (4 << 20, 1 << 20, 512), (1 << 20, 4 << 20, 512), (0, 0, 2048)] {
        let mut pair = Pair::apart(&roomy(vec![1 << 15]));
        pair.a.command(|g, _| g.set_rates(copy, link));
        pair.a.hold(Kind::ReadHome);
        pair.connect();
        let first = crate::harness::home_extent(pair.a.oldest(Kind::ReadHome));
        assert_eq!(first, Some(extent(0, 0, sectors)), "copy {copy}, link {link}");
        assert_eq!(pair.a.waiting(Kind::ReadHome), if copy == 0 { 4 } else { 1 }, "only the copy is paid for");
    }
}

#[test]
fn the_peer_s_instance_counts_as_confirmed_with_its_first_acknowledgement() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.a.restart();
    pair.a.run();
    let instance = pair.a.stored().peer().unwrap().instance;
    assert_ne!(instance.acknowledged, instance.current, "a start shows another one");
    pair.connect();
    let instance = pair.a.stored().peer().unwrap().instance;
    assert_eq!(instance.acknowledged, instance.current);
    // That is stored once.
    pair.a.hold(Kind::FlushHome);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    let version = pair.a.stored_version();
    pair.a.put(extent(0, 0, 1), content(2, 1));
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(2)));
    assert_eq!(pair.a.stored_version(), version);
}

#[test]
fn an_instance_is_not_confirmed_by_an_offer_alone() {
    let mut pair = Pair::apart(&Setup::default());
    pair.b.hold(Kind::Superblock);
    pair.connect();
    let instance = pair.a.stored().peer().unwrap().instance;
    assert_eq!(instance.acknowledged, [0; 16], "the mirror has not stored it");
    pair.b.release(Kind::Superblock);
    pair.run();
    assert_eq!(pair.a.stored().peer().unwrap().instance.acknowledged, instance.current);
}

#[test]
fn credit_proves_nothing() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert_eq!(pair.a.group.positions().sent, Some(seq(1)));
    pair.a.message(Credit { bytes: 1 << 40, journal_bytes: 1 << 40 }.into(), Bytes::new());
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(0)));
    pair.b.release(Kind::WriteCache);
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(1)));
}

#[test]
fn a_row_that_lets_no_data_flow_stops_the_link_until_a_person_has_acted() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.line_held = true;
    pair.dial();
    pair.deliver_one(true);
    let Some((Message::GroupState(mut state), _)) = pair.b.out.pop_front() else { panic!("a state") };
    state.membership = Membership::OtherPeer;
    pair.a.told();
    pair.a.message(state.into(), Bytes::new());
    assert_eq!(pair.a.told(), [Notice::LinkStopped(Row::OtherPair), Notice::LinkDown]);
    assert_eq!(pair.a.closed, [CloseReason::Verdict]);
    let Some((Message::Verdict(verdict), _)) = pair.a.out.back() else { panic!("the verdict is told") };
    assert_eq!(verdict.row, Row::OtherPair);
    pair.cut();
    assert_eq!(pair.a.told(), [], "it was down already");
    assert_eq!(pair.a.group.link_row(), Some(Row::OtherPair));
    pair.pass(100_000);
    assert!(!pair.a.group.wants_link());
    pair.a.command(|g, now| g.set_paused(now, false)).unwrap();
    assert!(pair.a.group.wants_link());
    assert_eq!(pair.a.group.link_row(), None);
}

#[test]
fn an_acknowledgement_of_another_history_stops_the_link() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.line_held = true;
    pair.deliver_one(true);
    pair.b.run();
    let ack = pair.b.out.iter().find_map(|(m, _)| match m {
        Message::Ack(ack) => Some(*ack),
        _ => None,
    });
    let mut ack = ack.unwrap();
    ack.durable.hash = HistoryHash::from_raw([66; 16]);
    pair.a.told();
    pair.a.message(ack.into(), Bytes::new());
    assert_eq!(pair.a.told(), [Notice::LinkStopped(Row::Diverged), Notice::LinkDown]);
    assert_eq!(pair.a.closed, [CloseReason::Diverged]);
    assert_eq!(pair.a.group.link_row(), Some(Row::Diverged));
    assert_eq!(pair.a.stored().peer().unwrap().durable.unwrap().seq, seq(0), "nothing is proved");
    pair.cut();
    assert!(!pair.a.group.wants_link());
}

#[test]
fn a_broken_protocol_is_told_and_another_connection_is_wanted() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.message(reprise_format::link::CopyDone { r1: seq(0) }.into(), Bytes::new());
    let told = pair.a.told();
    assert!(matches!(&told[..], [Notice::LinkFault(_), Notice::LinkDown]), "{told:?}");
    assert_eq!(pair.a.closed, [CloseReason::ProtocolViolation]);
    pair.cut();
    assert!(pair.a.group.wants_link());
}

#[test]
fn a_heartbeat_goes_out_every_second() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    pair.pass(1000);
    pair.a.out.clear();
    pair.b.out.clear();
    pair.pass(999);
    assert_eq!((heartbeats(&pair.a), heartbeats(&pair.b)), (0, 0));
    pair.pass(1);
    assert_eq!((heartbeats(&pair.a), heartbeats(&pair.b)), (1, 1));
}

#[test]
fn ten_seconds_of_silence_end_the_connection() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    // A sign of life of each, from which on there is none.
    pair.a.message(reprise_format::link::Heartbeat { id: 0, echo: 0 }.into(), Bytes::new());
    pair.b.message(reprise_format::link::Heartbeat { id: 0, echo: 0 }.into(), Bytes::new());
    pair.pass(9_999);
    assert!(pair.a.closed.is_empty() && pair.b.closed.is_empty());
    pair.pass(1);
    for end in [&mut pair.a, &mut pair.b] {
        assert_eq!(end.closed.len(), 1);
        assert_eq!(end.told(), [Notice::LinkDown], "a line that breaks is no fault of the peer");
    }
}

#[test]
fn a_message_behind_the_end_of_a_connection_is_nobody_s() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    pair.a.message(Credit { bytes: 1, journal_bytes: 1 }.into(), Bytes::new());
    pair.b.message(reprise_format::link::CopyDone { r1: seq(0) }.into(), Bytes::new());
    pair.a.tell(Event::Link(PeerId::FIRST, LinkInput::Sent(1 << 30)));
    assert_eq!(pair.b.told().len(), 1, "the end");
    assert_eq!(pair.a.told(), [Notice::LinkDown]);
}

#[test]
fn the_source_knows_what_the_mirror_has_applied() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    pair.pass(1000);
    pair.run();
    assert_eq!(pair.a.group.source_session().unwrap().applied(), seq(1));
}
