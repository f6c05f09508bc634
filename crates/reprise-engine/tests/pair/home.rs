//! The home cursor: when a round begins, how far it goes, what it writes, and what it survives.

use reprise_engine::{CacheFill, Effect, Event, GroupMeta, HostOp, Notice};
use reprise_journal::BatchSource;
use reprise_types::{Extent, Sector, SectorCount, Seq};

use crate::harness::{FAULT, Kind, QUIET_MS, Setup, TestBox, content, extent, home_extent, seq, slot};

/// Bytes on disk of a batch of few sectors.
const SMALL_BATCH: u64 = 4096;

fn serving() -> TestBox {
    TestBox::serving(&Setup::default())
}

fn zero(a: &mut TestBox, volume: u16, sector: u64, sectors: u64) {
    let ranges = vec![(Sector::from_raw(sector), SectorCount::from_raw(sectors))];
    let io = a.ask(HostOp::Zero { volume: slot(volume), ranges });
    a.run();
    a.assert_done(io);
}

/// So full, of 100 segments.
fn fill(a: &mut TestBox, used: u32) {
    a.fill = Some(CacheFill { total: 100, used, reserve: 0 });
    a.tell(Event::Cache(a.fill.unwrap()));
}

/// Home writes that are not carried out: where, and true for zeros.
fn home_writes(a: &TestBox) -> Vec<(Extent, bool)> {
    let writes = a.asked.iter().filter(|e| matches!(e, Effect::WriteHome { .. } | Effect::ZeroHome { .. }));
    writes.map(|e| (home_extent(e).unwrap(), matches!(e, Effect::ZeroHome { .. }))).collect()
}

fn applying(a: &TestBox) -> Seq {
    a.group.positions().applying
}

/// Body bytes of a batch of one sector.
fn body_len() -> u64 {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    match a.group.journal().batch_after(Seq::ZERO) {
        Some(BatchSource::Ram(batch)) => batch.body_len() as u64,
        other => panic!("in memory: {other:?}"),
    }
}

#[test]
fn a_round_begins_when_the_feed_was_quiet_for_40_ms() {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    a.pass(QUIET_MS - 1);
    assert_eq!(applying(&a), seq(0));
    a.pass(1);
    assert_eq!(applying(&a), seq(1));
}

#[test]
fn a_busy_feed_is_applied_after_ten_seconds() {
    let mut a = TestBox::serving(&Setup { segments: 32, ..Setup::default() });
    a.put(extent(0, 0, 1), content(0, 1));
    for n in 1..=1000 {
        // It waits since the first pump that found it.
        a.later(10);
        a.put(extent(0, n, 1), content(n, 1));
        assert_eq!(applying(&a) > seq(0), n == 1000, "after {} ms", n * 10);
    }
}

#[test]
fn a_busy_feed_is_applied_when_half_of_the_ram_tail_waits() {
    let mut a = TestBox::serving(&Setup { ram_tail: 6 * SMALL_BATCH, ..Setup::default() });
    a.put(extent(0, 0, 1), content(1, 1));
    a.put(extent(0, 2, 1), content(2, 1));
    assert_eq!(applying(&a), seq(0));
    a.put(extent(0, 4, 1), content(3, 1));
    assert_eq!(applying(&a), seq(3));
}

#[test]
fn a_busy_feed_is_applied_when_the_cache_is_more_than_half_full() {
    let mut a = serving();
    fill(&mut a, 50);
    a.put(extent(0, 0, 1), content(1, 1));
    assert_eq!(applying(&a), seq(0));
    fill(&mut a, 51);
    assert_eq!(applying(&a), seq(1));
}

#[test]
fn applying_is_durable_before_a_home_is_written_and_the_home_before_applied() {
    let mut a = serving();
    a.put(extent(0, 5, 2), content(1, 2));
    a.hold(Kind::Superblock);
    a.pass(QUIET_MS);
    a.run();
    assert_eq!(home_writes(&a), []);
    a.finish(Kind::Superblock);
    assert_eq!((a.stored().applying, a.stored().applied), (seq(1), seq(0)));
    assert_eq!(home_writes(&a), [(extent(0, 5, 2), false)]);
    assert_eq!(a.waiting(Kind::FlushHome), 0, "the write is not there");
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::Superblock), 0, "it is not flushed");
    a.finish(Kind::FlushHome);
    assert_eq!(a.group.positions().applied, seq(0), "nobody may rely on it before the superblock says so");
    let io = a.ask(HostOp::Read(extent(0, 5, 2)));
    assert_eq!(a.data(io), content(1, 2), "from memory");
    a.finish(Kind::Superblock);
    assert_eq!((a.stored().applied, a.group.positions().applied), (seq(1), seq(1)));
    a.ask(HostOp::Read(extent(0, 5, 2)));
    assert_eq!(a.waiting(Kind::ReadHome), 1, "home has it");
}

#[test]
fn a_round_takes_what_waits_and_ends_at_its_bytes() {
    let len = body_len();
    // Two fit exactly; one byte less, and only one does; a single one always goes.
    for (round_bytes, first) in [(2 * len, 2), (3 * len - 1, 2), (2 * len - 1, 1), (1, 1), (3 * len, 3)] {
        let mut a = TestBox::serving(&Setup { round_bytes, ..Setup::default() });
        a.hold(Kind::WriteHome);
        (0..5).for_each(|n| a.put(extent(0, n * 9, 1), content(n, 1)));
        a.rest();
        assert_eq!(applying(&a), seq(first), "of {round_bytes} bytes with {len} each");
        a.release(Kind::WriteHome);
        a.rest();
        assert!(a.group.is_applied());
    }
}

#[test]
fn a_round_as_the_node_has_it_takes_megabytes() {
    let mut a = serving();
    a.hold(Kind::WriteHome);
    (0..8).for_each(|n| a.put(extent(0, n * 512, 512), content(n, 512)));
    a.rest();
    assert_eq!(applying(&a), seq(8));
}

#[test]
fn a_round_takes_1024_batches() {
    let mut a = TestBox::serving(&Setup { segments: 64, ..Setup::default() });
    a.hold(Kind::WriteHome);
    (0..1030).for_each(|n| a.put(extent(0, n, 1), content(n, 1)));
    a.rest();
    assert_eq!(applying(&a), seq(1024));
    a.release(Kind::WriteHome);
    a.rest();
    assert!(a.group.is_applied());
    assert_eq!(a.home(extent(0, 1029, 1)), content(1029, 1));
}

#[test]
fn after_a_crash_inside_a_round_no_moment_before_its_end_is_offered_by_smaller_ones() {
    let mut a = serving();
    (0..4).for_each(|n| a.put(extent(0, n * 9, 1), content(n, 1)));
    a.hold(Kind::WriteHome);
    a.rest();
    a.finish(Kind::WriteHome);
    assert_eq!(a.stored().applying, seq(4));
    // Home is a mixture up to 4. Rounds may be smaller than the one that was cut off; the mixture is what it is.
    a.config.round_bytes = 1;
    a.restart();
    a.hold(Kind::FlushHome);
    a.run();
    for n in 4..6 {
        a.put(extent(0, n * 9, 1), content(n, 1));
    }
    for applied in 1..=4 {
        a.finish(Kind::FlushHome);
        a.run();
        assert_eq!((a.stored().applied, applying(&a)), (seq(applied), seq(4.max(applied + 1))), "one by one");
        a.rest();
    }
    a.release(Kind::FlushHome);
    a.rest();
    assert!(a.group.is_applied());
}

/// Bytes of the journal that the group has asked for and not got.
fn reading(a: &TestBox) -> u64 {
    let len = |e: &Effect| if let Effect::ReadCache { len, .. } = e { *len as u64 } else { 0 };
    a.asked.iter().map(len).sum()
}

#[test]
fn a_mixture_of_more_batches_than_a_round_takes_is_several_rounds() {
    let mut a = TestBox::serving(&Setup { segments: 64, ..Setup::default() });
    (0..1030).for_each(|n| a.put(extent(0, n, 1), content(n, 1)));
    // As at the end of a first copy, whose regions hold content up to there.
    let mixture = GroupMeta { applying: seq(1030), ..a.stored() };
    a.store(&mixture);
    a.restart();
    a.hold(Kind::FlushHome);
    a.rest();
    a.finish(Kind::FlushHome);
    a.run();
    assert_eq!((a.stored().applied, a.stored().applying), (seq(1024), seq(1030)));
}

#[test]
fn a_backlog_below_applying_is_read_round_by_round() {
    // A mirror whose home was slow while a first copy ended: more than 64 rounds wait, and home is a mixture up to the last.
    const ROUND: u64 = 64 << 10;
    let setup = Setup { segments: 64, round_bytes: ROUND, volumes: vec![1 << 14], ..Setup::default() };
    let mut a = TestBox::serving(&setup);
    a.hold(Kind::FlushHome);
    (0..160).for_each(|n| a.put(extent(0, n * 64, 64), content(n, 64)));
    let mixture = GroupMeta { applying: seq(160), ..a.stored() };
    a.store(&mixture);
    a.restart();
    a.hold(Kind::ReadCache);
    let mut rounds = 0;
    while !a.group.is_applied() {
        a.pass(QUIET_MS);
        a.run();
        assert!(reading(&a) <= ROUND, "{} bytes are read for one round", reading(&a));
        assert!(applying(&a) == seq(160), "home is a mixture up to there until then");
        rounds += u64::from(reading(&a) > 0);
        a.release(Kind::ReadCache);
        // What one round has asked for comes; the next one begins when that is applied.
        while a.waiting(Kind::ReadCache) > 0 {
            a.finish(Kind::ReadCache);
        }
        a.hold(Kind::ReadCache);
        a.run();
    }
    assert!(rounds > 64, "{rounds} rounds");
    assert_eq!(a.home(extent(0, 159 * 64, 64)), content(159, 64));
}

#[test]
fn zeros_count_in_a_round() {
    let setup = Setup { volumes: vec![1 << 16, 1 << 16], ..Setup::default() };
    // 16 MiB with what the batches take themselves: three of four are a round of 16 MiB, and one that is larger is one.
    for (sectors, first) in [(8 << 10, 3), (1 << 14, 1), (1 << 16, 1), (16, 8)] {
        let mut a = TestBox::serving(&setup);
        a.hold(Kind::ZeroHome);
        (0..8).for_each(|n| zero(&mut a, n % 2, 0, sectors));
        a.rest();
        assert_eq!(applying(&a), seq(first), "zeros of {sectors} sectors");
        a.release(Kind::ZeroHome);
        a.rest();
        assert!(a.group.is_applied());
    }
}

#[test]
fn zeros_are_64_mebibytes_at_a_time() {
    const PIECE: u64 = (64 << 20) / 512;
    let mut a = TestBox::serving(&Setup { volumes: vec![2 * PIECE + 9, 8], ..Setup::default() });
    a.homes.iter_mut().for_each(|home| home.fill(1));
    a.hold(Kind::ZeroHome);
    zero(&mut a, 0, 3, 2 * PIECE + 5);
    zero(&mut a, 1, 0, 8);
    a.pass(QUIET_MS);
    a.run();
    for (at, len) in [(3, PIECE), (3 + PIECE, PIECE), (3 + 2 * PIECE, 5)] {
        assert_eq!(home_writes(&a), [(extent(0, at, len), true)], "one after the other");
        a.finish(Kind::ZeroHome);
    }
    assert_eq!(a.group.durable().seq, seq(2), "the record is one");
    a.release(Kind::ZeroHome);
    a.rest();
    assert!(a.group.is_applied());
    let edges = [extent(0, 0, 3), extent(0, 2 * PIECE + 8, 1)].map(|e| a.home(e).iter().all(|b| *b == 1));
    assert_eq!(edges, [true; 2], "what lies beside");
    assert!(a.home(extent(0, 3, 2 * PIECE + 5)).iter().chain(a.home(extent(1, 0, 8))).all(|b| *b == 0));
}

#[test]
fn no_round_begins_before_the_seal_of_the_recovery_is_durable() {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    a.restart();
    a.hold(Kind::Superblock);
    a.rest();
    assert_eq!((applying(&a), a.group.durable().seq), (seq(0), seq(1)));
    a.release(Kind::Superblock);
    a.rest();
    assert!(a.group.is_applied());
}

#[test]
fn a_round_writes_the_newest_of_each_sector_once_in_order_of_address() {
    let mut a = serving();
    a.put(extent(1, 40, 2), content(1, 2));
    a.put(extent(0, 100, 10), content(2, 10));
    a.put(extent(0, 104, 2), content(3, 2));
    a.put(extent(0, 20, 1), content(4, 1));
    a.put(extent(0, 108, 4), content(5, 4));
    a.hold(Kind::WriteHome);
    a.pass(QUIET_MS);
    a.run();
    let expected = [extent(0, 20, 1), extent(0, 100, 12), extent(1, 40, 2)].map(|e| (e, false));
    assert_eq!(home_writes(&a), expected, "neighbours are one write");
    a.release(Kind::WriteHome);
    a.run();
    let whole = [&content(2, 10)[..4 * 512], &content(3, 2), &content(2, 10)[6 * 512..8 * 512], &content(5, 4)];
    assert_eq!(a.home(extent(0, 100, 12)), whole.concat());
    assert_eq!(a.home(extent(1, 40, 2)), content(1, 2));
    assert_eq!(a.group.stats().bytes_applied, 15 * 512, "what was overwritten was never written");
}

#[test]
fn neighbours_on_different_volumes_or_with_a_gap_are_different_writes() {
    let mut a = serving();
    for at in [extent(0, 10, 10), extent(0, 21, 2), extent(1, 23, 2)] {
        a.put(at, content(1, at.sectors.get()));
    }
    a.hold(Kind::WriteHome);
    a.pass(QUIET_MS);
    a.run();
    let expected = [extent(0, 10, 10), extent(0, 21, 2), extent(1, 23, 2)].map(|e| (e, false));
    assert_eq!(home_writes(&a), expected);
}

#[test]
fn neighbours_are_joined_up_to_a_mebibyte() {
    let mut a = serving();
    (0..5).for_each(|n| a.put(extent(0, n * 512, 512), content(n, 512)));
    a.put(extent(1, 0, 512), content(6, 512));
    a.put(extent(1, 512, 512), content(7, 512));
    a.put(extent(1, 1024, 512), content(8, 512));
    a.put(extent(1, 1536, 511), content(9, 511));
    a.put(extent(1, 2047, 1), content(10, 1));
    a.hold(Kind::WriteHome);
    a.pass(QUIET_MS);
    a.run();
    let expected = [extent(0, 0, 2048), extent(0, 2048, 512), extent(1, 0, 2048)].map(|e| (e, false));
    assert_eq!(home_writes(&a), expected);
    a.release(Kind::WriteHome);
    a.rest();
    assert_eq!(a.home(extent(0, 512, 512)), content(1, 512));
    assert_eq!(a.home(extent(1, 1536, 511)), content(9, 511));
}

#[test]
fn a_home_write_has_256_pieces_at_most() {
    let mut a = serving();
    (0..300).for_each(|n| a.put_later(extent(0, n, 1), n));
    a.run();
    a.hold(Kind::WriteHome);
    a.pass(QUIET_MS);
    a.run();
    assert_eq!(home_writes(&a), [(extent(0, 0, 256), false), (extent(0, 256, 44), false)]);
}

#[test]
fn zeros_are_written_between_their_neighbours() {
    let mut a = serving();
    a.put(extent(0, 0, 30), content(1, 30));
    zero(&mut a, 0, 10, 5);
    a.hold(Kind::WriteHome);
    a.hold(Kind::ZeroHome);
    a.pass(QUIET_MS);
    a.run();
    let expected = [(extent(0, 0, 10), false), (extent(0, 10, 5), true), (extent(0, 15, 15), false)];
    assert_eq!(home_writes(&a), expected);
    a.release(Kind::WriteHome);
    a.release(Kind::ZeroHome);
    a.run();
    let mut whole = content(1, 30).to_vec();
    whole[10 * 512..15 * 512].fill(0);
    assert_eq!(a.home(extent(0, 0, 30)), whole);
}

#[test]
fn only_the_homes_that_were_written_are_flushed_and_once() {
    let mut a = TestBox::serving(&Setup { volumes: vec![64, 64, 64], ..Setup::default() });
    a.put(extent(2, 0, 1), content(1, 1));
    a.put(extent(0, 0, 1), content(2, 1));
    a.put(extent(2, 9, 1), content(3, 1));
    a.hold(Kind::FlushHome);
    a.pass(QUIET_MS);
    a.run();
    assert_eq!(a.waiting(Kind::FlushHome), 1);
    let Effect::FlushHome { volumes, .. } = a.oldest(Kind::FlushHome) else { panic!("a flush") };
    assert_eq!(*volumes, [slot(0), slot(2)]);
}

#[test]
fn records_of_a_volume_that_is_gone_are_passed_over() {
    let mut a = serving();
    a.hold(Kind::Superblock);
    a.put(extent(1, 0, 1), content(1, 1));
    a.command(|g, now| g.retire_volume(now, slot(1))).unwrap();
    a.command(|g, now| g.remove_volume(now, slot(1))).unwrap();
    a.release(Kind::Superblock);
    a.hold(Kind::FlushHome);
    for _ in 0..4 {
        a.pass(QUIET_MS);
        a.run();
        assert_eq!(a.waiting(Kind::FlushHome), 0, "nothing was written");
    }
    assert!(a.group.is_applied());
    assert_eq!(a.home(extent(1, 0, 1)), [0; 512]);
}

/// Writes that are no neighbours of each other, of so many sectors; gives the box at the moment a round has begun.
fn round_of(setup: &Setup, writes: u64, sectors: u64) -> TestBox {
    let mut a = TestBox::serving(setup);
    a.hold(Kind::WriteHome);
    for n in 0..writes {
        a.put_later(extent(0, n * (sectors + 1), sectors), n);
    }
    a.run();
    a.pass(QUIET_MS);
    a.run();
    a
}

/// The same, where the feed is busy: the round begins since the cache is more than half full, which then passes.
fn busy_round_of(writes: u64, sectors: u64) -> TestBox {
    let mut a = TestBox::serving(&Setup { volumes: vec![8192], ..Setup::default() });
    fill(&mut a, 50);
    for n in 0..writes {
        a.put_later(extent(0, n * (sectors + 1), sectors), n);
    }
    a.run();
    a.hold(Kind::WriteHome);
    a.hold(Kind::Superblock);
    fill(&mut a, 51);
    fill(&mut a, 50);
    a.finish(Kind::Superblock);
    a
}

#[test]
fn while_the_feed_is_busy_eight_home_writes_are_at_the_disk() {
    let mut a = busy_round_of(20, 1);
    assert_eq!(a.waiting(Kind::WriteHome), 8);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 8, "one after the other");
    fill(&mut a, 51);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 20 - 2, "the cache fills: all may go");
}

#[test]
fn a_feed_that_is_quiet_again_leaves_the_disk_to_the_home() {
    let mut a = busy_round_of(20, 1);
    a.later(QUIET_MS - 1);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 8);
    a.later(1);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 20 - 2);
}

#[test]
fn while_the_feed_is_busy_a_mebibyte_of_home_writes_is_at_the_disk() {
    let mut a = busy_round_of(8, 512);
    assert_eq!(a.waiting(Kind::WriteHome), 4);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 4);
}

#[test]
fn a_quiet_disk_has_128_home_writes() {
    let mut a = round_of(&Setup::default(), 200, 1);
    assert_eq!(a.waiting(Kind::WriteHome), 128);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 128);
    a.release(Kind::WriteHome);
    a.rest();
    assert!(a.group.is_applied());
    assert_eq!(a.group.stats().bytes_applied, 200 * 512);
}

#[test]
fn a_quiet_disk_has_eight_mebibytes_of_home_writes() {
    let setup = Setup { volumes: vec![1 << 15], segments: 32, ..Setup::default() };
    let mut a = round_of(&setup, 40, 512);
    assert_eq!(a.waiting(Kind::WriteHome), 32);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 32);
    a.finish(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 32);
}

#[test]
fn a_failed_home_write_ends_the_round_when_the_others_are_answered() {
    let mut a = round_of(&Setup::default(), 200, 1);
    a.fail(Kind::WriteHome);
    assert_eq!(a.waiting(Kind::WriteHome), 127, "no other one is begun");
    assert!(!a.group.home_detached());
    a.release(Kind::WriteHome);
    a.run();
    assert!(a.group.home_detached());
    assert_eq!(a.waiting(Kind::FlushHome), 0);
    assert_eq!(a.told(), [Notice::HomeFailed(FAULT)]);
    assert_eq!(a.stored().applied, seq(0));
}

#[test]
fn a_failed_flush_detaches_the_home() {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    a.hold(Kind::FlushHome);
    a.rest();
    a.fail(Kind::FlushHome);
    assert_eq!(a.group.home_fault(), Some("the disk reports error 5"));
    a.rest();
    assert_eq!(a.stored().applied, seq(0), "a flush that failed is not counted");
    // It is written anew, since nobody knows what the failed flush left.
    a.command(|g, now| g.reattach_home(now)).unwrap();
    a.homes[0].fill(0);
    a.release(Kind::FlushHome);
    a.rest();
    assert_eq!(a.home(extent(0, 0, 1)), content(1, 1));
    assert!(a.group.is_applied());
}

#[test]
fn a_home_that_is_taken_back_waits_for_answers_to_what_failed() {
    let mut a = round_of(&Setup::default(), 3, 1);
    let late = a.take(Kind::WriteHome, 2);
    a.fail(Kind::WriteHome);
    a.finish(Kind::WriteHome);
    assert!(!a.group.home_detached(), "one is under way");
    a.answer(&late);
    assert!(a.group.home_detached());
    a.command(|g, now| g.reattach_home(now)).unwrap();
    a.release(Kind::WriteHome);
    a.rest();
    assert!(a.group.is_applied());
}

#[test]
fn what_left_memory_is_read_from_the_journal_for_a_round() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    (0..3).for_each(|n| a.put(extent(0, n * 9, 2), content(n, 2)));
    a.command(|g, _| g.set_memory_short(false));
    a.put(extent(0, 27, 2), content(3, 2));
    a.hold(Kind::ReadCache);
    a.rest();
    assert_eq!(a.waiting(Kind::ReadCache), 3, "the last one is in memory");
    // In any order.
    for nth in [2, 0, 0] {
        assert_eq!(a.waiting(Kind::WriteHome), 0);
        let effect = a.take(Kind::ReadCache, nth);
        a.answer(&effect);
    }
    assert_eq!(a.waiting(Kind::WriteHome), 4);
    a.run();
    for n in 0..4 {
        assert_eq!(a.home(extent(0, n * 9, 2)), content(n, 2));
    }
}

#[test]
fn a_round_that_cannot_read_the_journal_writes_nothing() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    (0..3).for_each(|n| a.put(extent(0, n * 9, 2), content(n, 2)));
    a.hold(Kind::ReadCache);
    a.rest();
    let Effect::ReadCache { at, .. } = a.asked[1] else { panic!("a read of the journal") };
    a.rot(at + 700);
    a.release(Kind::ReadCache);
    a.run();
    assert_eq!(a.group.stats().bytes_applied, 0);
    assert_eq!(a.group.rotten(), Some((seq(2), seq(2), true)));
    assert_eq!(a.group.home_fault(), Some("the journal cannot be read at record 2"));
    assert_eq!(a.group.stats().read_errors, 1);
    // The reads of that round hold no segment back.
    a.rot(at + 700);
    a.command(|g, now| g.reattach_home(now)).unwrap();
    a.rest();
    assert!(a.group.is_applied());
    (0..9).for_each(|n| a.put(extent(0, n % 8 * 512, 512), content(n, 512)));
    a.rest();
    assert!(!a.freed.is_empty());
}

#[test]
fn the_first_of_several_rotten_batches_is_named() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    (0..3).for_each(|n| a.put(extent(0, n * 9, 2), content(n, 2)));
    a.hold(Kind::ReadCache);
    a.rest();
    a.fail(Kind::ReadCache);
    a.fail(Kind::ReadCache);
    a.finish(Kind::ReadCache);
    assert_eq!(a.told()[0], Notice::JournalUnreadable(seq(1)));
}
