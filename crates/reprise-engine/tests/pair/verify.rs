//! Comparisons: two images at one moment while both go on, what ends them, and what is repaired.

use bytes::Bytes;
use reprise_engine::{CacheFill, CommandError, Event, HostOp, VerifyEnd, VerifyPlan, VerifyReport};
use reprise_format::link::{Message, VerifyAsk, VerifyClose, VerifyFix, VerifyOpen};
use reprise_types::{Extent, HistoryHash, Sector, SectorCount};

use crate::harness::{FAULT, Kind, QUIET_MS, Setup, TestBox, content, extent, seq, slot};
use crate::pair::Pair;

const FAST: VerifyPlan = VerifyPlan { bytes_per_sec: 1 << 40, repair: false };
const REPAIR: VerifyPlan = VerifyPlan { repair: true, ..FAST };

/// A mirrored pair with volumes of 1100 and 600 sectors: regions of 512, 512 and 76, and of 512 and 88.
fn pair() -> Pair {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![1100, 600], ..Setup::default() });
    pair.a.put(extent(0, 0, 400), content(1, 400));
    pair.a.put(extent(0, 1090, 10), content(2, 10));
    pair.a.put(extent(1, 500, 100), content(3, 100));
    pair.rest();
    assert!(pair.a.homes == pair.b.homes);
    pair
}

fn begin(pair: &mut Pair, plan: VerifyPlan) -> u64 {
    pair.a.command(|g, now| g.verify(now, plan)).unwrap()
}

fn report(a: &TestBox) -> &VerifyReport {
    a.group.verify_report().unwrap()
}

/// Compares whole.
fn compare(pair: &mut Pair, plan: VerifyPlan) -> VerifyReport {
    begin(pair, plan);
    for _ in 0..40 {
        pair.run();
        pair.pass(1);
    }
    pair.run();
    report(&pair.a).clone()
}

/// BLAKE3 over the first 16 bytes of BLAKE3 of each region of 256 KiB.
fn digest(homes: &[Vec<u8>]) -> [u8; 32] {
    let mut all = blake3::Hasher::new();
    for region in homes.iter().flat_map(|home| home.chunks(512 * 512)) {
        all.update(&blake3::hash(region).as_bytes()[..16]);
    }
    *all.finalize().as_bytes()
}

fn not(reason: &'static str) -> Result<u64, CommandError> {
    Err(CommandError::NotComparable { reason })
}

fn stopped(reason: &'static str) -> Option<VerifyEnd> {
    Some(VerifyEnd::Stopped { reason })
}

/// Messages of one kind that wait to go on the line.
fn waiting<T>(end: &TestBox, pick: impl Fn(&Message) -> Option<T>) -> Vec<T> {
    end.out.iter().filter_map(|(m, _)| pick(m)).collect()
}

fn asks(a: &TestBox) -> Vec<(u16, u64, u64, u64)> {
    waiting(a, |m| match m {
        Message::VerifyAsk(m) => Some((m.slot.get(), m.sector.get(), m.sectors.get(), m.grain.get())),
        _ => None,
    })
}

fn fixes(a: &TestBox) -> Vec<(u64, u64)> {
    waiting(a, |m| match m {
        Message::VerifyFix(m) => Some((m.sector.get(), m.sectors.get())),
        _ => None,
    })
}

fn refusals(b: &TestBox) -> Vec<String> {
    waiting(b, |m| match m {
        Message::VerifyReady(m) => Some(m.refused.clone()),
        _ => None,
    })
}

#[test]
fn equal_images_have_a_digest() {
    let mut pair = pair();
    for id in [1, 2] {
        let r = compare(&mut pair, FAST);
        assert_eq!((r.id, r.at, r.end), (id, pair.a.group.durable(), Some(VerifyEnd::Compared)));
        assert_eq!((r.done, r.total, r.differing, r.repaired, r.unreadable), (1700, 1700, 0, 0, 0));
        assert!(r.is_equal() && r.extents.is_empty());
        assert_eq!(r.digest, Some(digest(&pair.a.homes)));
    }
}

#[test]
fn sectors_that_differ_are_named_and_left_alone() {
    let mut pair = pair();
    for sector in [5, 6, 700, 1099] {
        pair.b.homes[0][sector * 512] ^= 1;
    }
    pair.b.homes[1][511] ^= 1;
    let before = pair.b.homes.clone();
    let r = compare(&mut pair, FAST);
    let found = [extent(0, 5, 2), extent(0, 700, 1), extent(0, 1099, 1), extent(1, 0, 1)];
    let mut extents = r.extents.clone();
    extents.sort_by_key(|e: &Extent| (e.volume, e.sector));
    assert_eq!(extents, found);
    assert_eq!((r.differing, r.repaired, r.done, r.end), (5, 0, 1700, Some(VerifyEnd::Compared)));
    assert!(!r.is_equal());
    assert_eq!(r.digest, None);
    assert!(pair.b.homes == before);
}

#[test]
fn sectors_that_differ_are_sent_where_that_is_asked_for() {
    let mut pair = pair();
    for sector in [5, 6, 700, 1099] {
        pair.b.homes[0][sector * 512] ^= 1;
    }
    let r = compare(&mut pair, REPAIR);
    assert_eq!((r.differing, r.repaired, r.done), (4, 4, 1700));
    assert!(r.is_equal());
    assert_eq!(r.digest, Some(digest(&pair.a.homes)));
    assert!(pair.a.homes == pair.b.homes);
    pair.a.put(extent(0, 0, 1), content(9, 1));
    pair.rest();
    assert_eq!(pair.b.home(extent(0, 0, 1)), content(9, 1), "home goes on");
}

#[test]
fn a_repair_counts_when_it_is_flushed() {
    let mut pair = pair();
    pair.b.homes[0][5 * 512] ^= 1;
    pair.b.homes[0][9 * 512] ^= 1;
    pair.b.hold(Kind::WriteHome);
    pair.b.hold(Kind::FlushHome);
    compare(&mut pair, REPAIR);
    assert_eq!((pair.b.waiting(Kind::WriteHome), pair.b.waiting(Kind::FlushHome)), (1, 0), "one run at a time");
    pair.b.finish(Kind::WriteHome);
    pair.run();
    assert_eq!((pair.b.waiting(Kind::WriteHome), pair.b.waiting(Kind::FlushHome)), (0, 1));
    assert_eq!((report(&pair.a).repaired, report(&pair.a).end), (0, None));
    pair.b.finish(Kind::FlushHome);
    pair.run();
    assert_eq!(pair.b.waiting(Kind::WriteHome), 1, "the next run");
    pair.b.release(Kind::WriteHome);
    pair.b.release(Kind::FlushHome);
    pair.run();
    assert_eq!(report(&pair.a).repaired, 2);
}

#[test]
fn a_repair_that_fails_is_not_counted() {
    for kind in [Kind::WriteHome, Kind::FlushHome] {
        let mut pair = pair();
        pair.b.homes[0][5 * 512] ^= 1;
        pair.b.hold(kind);
        compare(&mut pair, REPAIR);
        let spoilt = pair.b.homes[0].clone();
        pair.b.fail(kind);
        // What a failed flush leaves is not known.
        pair.b.homes[0] = spoilt;
        pair.b.homes[0][5 * 512] ^= 2;
        pair.run();
        let r = report(&pair.a);
        assert_eq!((r.differing, r.repaired, r.end), (1, 0, Some(VerifyEnd::Compared)));
        assert!(!r.is_equal());
    }
}

#[test]
fn only_what_the_mirror_s_home_shows_is_repaired() {
    let mut pair = pair();
    pair.b.hold(Kind::Superblock);
    pair.a.put(extent(0, 10, 4), content(8, 4));
    pair.pass(20);
    pair.run();
    // Sectors 10 to 13 come from its journal: what its home holds there is nobody's business.
    for sector in [9, 12, 14] {
        pair.b.homes[0][sector * 512] ^= 1;
    }
    let r = compare(&mut pair, REPAIR);
    assert_eq!((r.differing, r.repaired), (2, 2), "{:?}", r.extents);
    assert_eq!(r.extents, [extent(0, 9, 1), extent(0, 14, 1)]);
    pair.b.release(Kind::Superblock);
    pair.rest();
    assert!(pair.a.homes == pair.b.homes);
}

#[test]
fn both_images_are_of_the_moment_while_hosts_go_on() {
    let mut pair = pair();
    // Neither home has the last write before the moment, and no home gets those behind it.
    pair.a.put(extent(0, 3, 5), content(20, 5));
    pair.pass(20);
    pair.run();
    let moment = pair.a.group.durable();
    let mut expected = pair.a.homes.clone();
    expected[0][3 * 512..8 * 512].copy_from_slice(&content(20, 5));
    begin(&mut pair, FAST);
    pair.run();
    let applying = [&pair.a, &pair.b].map(|end| end.group.positions().applying);
    for n in 0..30 {
        pair.a.put(extent(0, n * 30, 7), content(30 + n, 7));
        pair.pass(1);
        pair.b.run();
        pair.a.run();
        if n == 10 {
            pair.pass(QUIET_MS);
            assert_eq!([&pair.a, &pair.b].map(|end| end.group.positions().applying), applying, "home waits");
        }
    }
    for _ in 0..40 {
        pair.run();
        pair.pass(1);
    }
    let r = report(&pair.a).clone();
    assert_eq!((r.at, r.end, r.differing, r.unreadable), (moment, Some(VerifyEnd::Compared), 0, 0));
    assert_eq!(r.digest, Some(digest(&expected)));
    pair.rest();
    assert!(pair.a.homes == pair.b.homes);
    assert!(pair.a.group.is_applied() && pair.b.group.is_applied());
}

#[test]
fn what_the_moment_is_read_from_is_not_trimmed() {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![4096], ..Setup::default() });
    pair.a.hold(Kind::FlushHome);
    pair.b.hold(Kind::FlushHome);
    for n in 0..7 {
        pair.a.put(extent(0, n * 512, 512), content(n, 512));
    }
    // A round is at its end when the moment is taken: it ends, and the journal keeps what it applied.
    pair.rest();
    pair.a.hold(Kind::ReadHome);
    pair.a.hold(Kind::ReadCache);
    pair.b.hold(Kind::ReadHome);
    pair.a.command(|g, _| g.set_memory_short(true));
    begin(&mut pair, FAST);
    pair.run();
    pair.a.release(Kind::FlushHome);
    pair.b.release(Kind::FlushHome);
    pair.rest();
    assert_eq!((pair.a.freed.as_slice(), pair.a.group.positions().trimmed), (&[][..], seq(0)));
    for kind in [Kind::ReadHome, Kind::ReadCache] {
        pair.a.release(kind);
        pair.b.release(kind);
    }
    for _ in 0..10 {
        pair.run();
        pair.pass(1);
    }
    assert!(report(&pair.a).is_equal(), "{:?}", report(&pair.a));
    pair.rest();
    assert_eq!(pair.a.freed, [0, 1]);
}

#[test]
fn a_comparison_is_refused_where_it_cannot_be_made() {
    let verify = |end: &mut TestBox| end.command(|g, now| g.verify(now, FAST));
    let mut alone = TestBox::serving(&Setup::default());
    assert_eq!(verify(&mut alone), Err(CommandError::NoPeer));
    let mut pair = Pair::apart(&Setup::default());
    assert_eq!(verify(&mut pair.b), Err(CommandError::NotSource));
    assert_eq!(verify(&mut pair.a), not("the first copy is not complete"), "it has not begun");
    pair.b.hold(Kind::ZeroHome);
    pair.connect();
    assert_eq!(verify(&mut pair.a), not("the first copy is not complete"));
    pair.b.release(Kind::ZeroHome);
    pair.rest();
    pair.cut();
    assert_eq!(verify(&mut pair.a), not("the link is down"));
    pair.a.hold(Kind::Superblock);
    pair.connect();
    assert_eq!(verify(&mut pair.a), not("the link is down"), "messages wait for the superblock");
    pair.a.release(Kind::Superblock);
    pair.rest();
    assert_eq!(verify(&mut pair.a), Ok(1));
    assert_eq!(verify(&mut pair.a), not("a comparison is at work already"));
    pair.a.command(|g, now| g.verify_cancel(now));
    pair.run();
    pair.a.hold(Kind::WriteHome);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    pair.a.fail(Kind::WriteHome);
    assert_eq!(verify(&mut pair.a), not("a home of the source is detached"));
    pair.a.write(extent(0, 0, 1), content(1, 1));
    pair.a.fail(Kind::WriteCache);
    assert!(matches!(verify(&mut pair.a), Err(CommandError::Fenced { .. })));
    let mut empty = Pair::mirrored(&Setup { volumes: vec![], ..Setup::default() });
    assert_eq!(verify(&mut empty.a), not("the group has no volume"));
}

#[test]
fn a_mirror_refuses_a_moment_that_it_cannot_hold() {
    let open = |pair: &mut Pair, at| pair.b.message(VerifyOpen { id: 5, at }.into(), Bytes::new());
    let mut pair = pair();
    pair.line_held = true;
    let here = pair.b.group.durable();
    let other = reprise_types::Point { hash: HistoryHash::from_raw([1; 16]), ..here };
    open(&mut pair, other);
    assert_eq!(refusals(&pair.b), ["the mirror holds another history at the moment"]);
    pair.b.out.clear();
    let branch = reprise_types::Point { branch: reprise_types::BranchId::from_raw([9; 16]), ..here };
    open(&mut pair, branch);
    assert_eq!(refusals(&pair.b), ["the mirror holds another history at the moment"]);
    pair.b.out.clear();
    open(&mut pair, reprise_types::Point { seq: seq(2), ..here });
    assert_eq!(refusals(&pair.b), ["the mirror's home is past the moment"]);
    pair.b.out.clear();
    open(&mut pair, here);
    assert_eq!(refusals(&pair.b), [""], "exactly there it can");
    pair.b.message(VerifyClose { id: 5 }.into(), Bytes::new());
    pair.line_held = false;
    pair.b.hold(Kind::WriteHome);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    pair.b.fail(Kind::WriteHome);
    let r = compare(&mut pair, FAST);
    assert_eq!(r.end, stopped("the mirror cannot hold the moment"));
    assert_eq!((r.digest, r.is_equal()), (None, false));
}

/// A pair whose homes stay where they are while hosts write so many records.
fn behind(records: u64) -> Pair {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![1 << 15], segments: 64, ..Setup::default() });
    pair.a.hold(Kind::FlushHome);
    pair.b.hold(Kind::FlushHome);
    for n in 0..records {
        pair.a.put_later(extent(0, n, 1), n);
        if n % 256 == 255 {
            pair.run();
        }
    }
    pair.rest();
    assert_eq!(pair.a.group.durable().seq, seq(records));
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    assert_eq!((pair.a.group.positions().applied, pair.b.group.positions().applied), (seq(0), seq(0)));
    pair
}

#[test]
fn a_moment_of_many_records_is_put_together_in_steps() {
    // 8192 records in a step, 5 ms between two.
    let mut pair = behind(2 * 8192 + 1);
    pair.line_held = true;
    begin(&mut pair, FAST);
    assert!(pair.a.group.deadline() <= pair.a.now.mono.plus_millis(5), "the next step is not waited for");
    // The mirror, too, begins with one step and answers after the third.
    assert!(pair.deliver_one(true));
    for step in 1..3 {
        assert_eq!((refusals(&pair.b), asks(&pair.a)), (vec![], vec![]), "after {step} steps");
        pair.pass(4);
        // Hosts are served between two steps, and do not bring the next one.
        let io = pair.a.ask(HostOp::Read(extent(0, 7, 1)));
        assert_eq!(pair.a.data(io), content(7, 1));
        assert_eq!(refusals(&pair.b), [""; 0]);
        pair.pass(1);
    }
    assert_eq!(refusals(&pair.b), [""]);
    pair.line_held = false;
    for _ in 0..40 {
        pair.run();
        pair.pass(1);
    }
    assert!(report(&pair.a).is_equal(), "{:?}", report(&pair.a));
    assert_eq!(report(&pair.a).at.seq, seq(2 * 8192 + 1));
}

#[test]
fn there_is_no_comparison_while_too_many_records_wait_for_a_home() {
    let mut pair = behind(5);
    // As if it were the bound of the product.
    let limited = |end: &mut TestBox, moment_records| {
        end.config.moment_records = moment_records;
        end.restart();
        end.hold(Kind::FlushHome);
        end.run();
    };
    for (source, mirror, end) in [
        (4, 5, Err("too many writes wait for the home of the source; compare again when it has caught up")),
        (5, 4, Ok(stopped("too many writes wait for the home of the mirror; compare again when it has caught up"))),
        (5, 5, Ok(Some(VerifyEnd::Compared))),
    ] {
        pair.cut();
        limited(&mut pair.a, source);
        limited(&mut pair.b, mirror);
        pair.connect();
        let begun = pair.a.command(|g, now| g.verify(now, FAST));
        match end {
            Err(reason) => assert_eq!(begun, not(reason)),
            Ok(end) => {
                begun.unwrap();
                for _ in 0..40 {
                    pair.run();
                    pair.pass(1);
                }
                assert_eq!(report(&pair.a).end, end);
            }
        }
    }
}

#[test]
fn a_mirror_answers_when_everything_up_to_the_moment_is_durable() {
    let mut pair = pair();
    pair.b.hold(Kind::WriteCache);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.pass(20);
    pair.run();
    begin(&mut pair, FAST);
    pair.run();
    pair.line_held = true;
    assert_eq!(asks(&pair.a), [], "nothing is compared yet");
    pair.b.finish(Kind::WriteCache);
    assert_eq!(refusals(&pair.b), [""]);
    pair.line_held = false;
    for _ in 0..20 {
        pair.run();
        pair.pass(1);
    }
    assert!(report(&pair.a).is_equal());
}

#[test]
fn what_one_of_the_two_cannot_read_is_counted_and_not_compared() {
    for of_source in [true, false] {
        let mut pair = pair();
        begin(&mut pair, FAST);
        pair.run();
        let end = if of_source { &mut pair.a } else { &mut pair.b };
        end.hold(Kind::ReadHome);
        pair.pass(1);
        pair.run();
        let end = if of_source { &mut pair.a } else { &mut pair.b };
        end.fail(Kind::ReadHome);
        end.release(Kind::ReadHome);
        for _ in 0..20 {
            pair.run();
            pair.pass(1);
        }
        let r = report(&pair.a);
        assert_eq!((r.unreadable, r.differing, r.done, r.end), (512, 0, 1700, Some(VerifyEnd::Compared)));
        assert_eq!((r.digest, r.is_equal()), (None, false));
    }
}

#[test]
fn eight_regions_are_under_way() {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![20 * 512], ..Setup::default() });
    pair.a.hold(Kind::ReadHome);
    begin(&mut pair, FAST);
    pair.run();
    for _ in 0..20 {
        pair.pass(250);
        pair.run();
    }
    assert_eq!(pair.a.waiting(Kind::ReadHome), 8);
    pair.a.finish(Kind::ReadHome);
    pair.run();
    assert_eq!(pair.a.waiting(Kind::ReadHome), 8);
    assert_eq!(report(&pair.a).done, 512);
    pair.a.release(Kind::ReadHome);
    for _ in 0..20 {
        pair.run();
        pair.pass(250);
    }
    assert!(report(&pair.a).is_equal());
}

#[test]
fn a_comparison_reads_no_more_than_its_rate() {
    // 40 regions of 256 KiB at 1 MiB a second: ten seconds.
    let mut pair = Pair::mirrored(&Setup { volumes: vec![40 * 512], ..Setup::default() });
    begin(&mut pair, VerifyPlan { bytes_per_sec: 1 << 20, repair: false });
    pair.run();
    for second in 1..=8 {
        for _ in 0..250 {
            pair.pass(4);
            pair.run();
        }
        let done = report(&pair.a).done / 512;
        // One region is lent and one may be on its way.
        assert!((second * 4 - 1..=second * 4 + 1).contains(&done), "{done} regions after {second} s");
    }
}

#[test]
fn a_comparison_makes_up_for_a_quarter_of_a_second_at_most() {
    let mut pair = Pair::mirrored(&Setup { volumes: vec![40 * 512], ..Setup::default() });
    pair.a.hold(Kind::ReadHome);
    begin(&mut pair, VerifyPlan { bytes_per_sec: 4 << 20, repair: false });
    pair.run();
    pair.pass(5_000);
    // A quarter of a second of 4 MiB, which is four regions.
    assert_eq!(pair.a.waiting(Kind::ReadHome), 4);
}

#[test]
fn a_comparison_takes_a_region_a_second_at_least() {
    let mut pair = pair();
    begin(&mut pair, VerifyPlan { bytes_per_sec: 0, repair: false });
    for _ in 0..8 * 4 {
        pair.run();
        pair.pass(250);
    }
    pair.run();
    assert!(report(&pair.a).is_equal());
}

#[test]
fn a_comparison_ends_when_a_cache_is_more_than_three_quarters_full() {
    for of_source in [true, false] {
        let mut pair = pair();
        pair.a.hold(Kind::ReadHome);
        begin(&mut pair, FAST);
        pair.run();
        for (used, ends) in [(75, false), (76, true)] {
            let end = if of_source { &mut pair.a } else { &mut pair.b };
            end.tell(Event::Cache(CacheFill { total: 100, used, reserve: 0 }));
            pair.run();
            assert_eq!(report(&pair.a).end.is_some(), ends);
        }
        let why =
            if of_source { "the cache fills while the moment is held" } else { "the mirror cannot hold the moment" };
        assert_eq!(report(&pair.a).end, stopped(why));
        // Both let go of the moment.
        pair.a.release(Kind::ReadHome);
        pair.a.put(extent(0, 0, 1), content(1, 1));
        pair.rest();
        assert!(pair.a.group.is_applied() && pair.b.group.is_applied());
    }
}

#[test]
fn a_comparison_that_is_cancelled_lets_both_homes_go_on() {
    let mut pair = pair();
    pair.a.hold(Kind::ReadHome);
    let id = begin(&mut pair, FAST);
    pair.run();
    pair.pass(1);
    pair.run();
    pair.a.command(|g, now| g.verify_cancel(now));
    assert_eq!((report(&pair.a).id, report(&pair.a).end), (id, Some(VerifyEnd::Cancelled)));
    // What was read for it comes later and is nobody's.
    pair.a.release(Kind::ReadHome);
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert!(pair.a.group.is_applied() && pair.b.group.is_applied());
    assert_eq!(report(&pair.a).done, 0);
    assert!(compare(&mut pair, FAST).is_equal());
    pair.a.command(|g, now| g.verify_cancel(now));
    assert_eq!(report(&pair.a).end, Some(VerifyEnd::Compared), "what has ended is not cancelled");
}

#[test]
fn a_lost_link_ends_a_comparison() {
    let mut pair = pair();
    pair.a.hold(Kind::ReadHome);
    begin(&mut pair, FAST);
    pair.run();
    pair.cut();
    assert_eq!(report(&pair.a).end, stopped("the link broke"));
    pair.a.release(Kind::ReadHome);
    pair.connect();
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert!(pair.b.group.is_applied(), "the mirror does not hold the moment any more");
    assert!(compare(&mut pair, FAST).is_equal());
}

#[test]
fn a_fenced_group_compares_nothing() {
    let mut pair = pair();
    pair.a.hold(Kind::ReadHome);
    begin(&mut pair, FAST);
    pair.run();
    pair.a.write(extent(0, 0, 1), content(1, 1));
    pair.a.fail(Kind::WriteCache);
    assert_eq!(report(&pair.a).end, stopped("the group is fenced"));
}

/// A mirror that holds a moment under number 5, and asks by hand.
fn held() -> Pair {
    let mut pair = pair();
    pair.line_held = true;
    pair.pass(1000);
    pair.b.message(VerifyOpen { id: 5, at: pair.b.group.durable() }.into(), Bytes::new());
    assert_eq!(refusals(&pair.b), [""]);
    pair.b.out.clear();
    pair.b.hold(Kind::ReadHome);
    pair
}

fn ask(b: &mut TestBox, id: u64, at: Extent, grain: u64) {
    let Extent { volume, sector, sectors } = at;
    let grain = SectorCount::from_raw(grain);
    b.message(VerifyAsk { id, slot: volume, sector, sectors, grain }.into(), Bytes::new());
}

fn fix(b: &mut TestBox, id: u64, at: Extent, data: Bytes) {
    let Extent { volume, sector, sectors } = at;
    b.message(VerifyFix { id, slot: volume, sector, sectors }.into(), data);
}

#[test]
fn a_mirror_answers_what_is_inside_and_asked_for_this_moment() {
    let mut pair = held();
    let b = &mut pair.b;
    ask(b, 4, extent(0, 0, 8), 8);
    ask(b, 5, extent(0, 0, 0), 8);
    ask(b, 5, extent(0, 0, 513), 8);
    ask(b, 5, extent(0, 1000, 101), 8);
    ask(b, 5, extent(0, u64::MAX, 1), 1);
    ask(b, 5, extent(7, 0, 1), 1);
    ask(b, 5, extent(0, 0, 8), 0);
    assert_eq!(b.waiting(Kind::ReadHome), 0);
    ask(b, 5, extent(0, 0, 512), 512);
    ask(b, 5, extent(0, 1000, 100), 1);
    assert_eq!(b.waiting(Kind::ReadHome), 2);
    b.release(Kind::ReadHome);
    b.run();
    let hashes = waiting(b, |m| match m {
        Message::VerifyHashes(m) => Some((m.id, m.sector.get(), m.hashes.len())),
        _ => None,
    });
    assert_eq!(hashes, [(5, 0, 16), (5, 1000, 100 * 16)]);
}

#[test]
fn a_mirror_answers_sixteen_asks_at_a_time() {
    let mut pair = held();
    for n in 0..20 {
        ask(&mut pair.b, 5, extent(0, n, 1), 1);
    }
    assert_eq!(pair.b.waiting(Kind::ReadHome), 16);
    pair.b.finish(Kind::ReadHome);
    ask(&mut pair.b, 5, extent(0, 30, 1), 1);
    ask(&mut pair.b, 5, extent(0, 31, 1), 1);
    assert_eq!(pair.b.waiting(Kind::ReadHome), 16);
}

#[test]
fn a_mirror_takes_one_fix_at_a_time_and_only_what_fits() {
    let mut pair = held();
    let b = &mut pair.b;
    b.hold(Kind::WriteHome);
    fix(b, 4, extent(0, 0, 2), content(1, 2));
    fix(b, 5, extent(0, 0, 2), content(1, 1));
    fix(b, 5, extent(0, 1099, 2), content(1, 2));
    assert_eq!(b.waiting(Kind::WriteHome), 0);
    fix(b, 5, extent(0, 1098, 2), content(1, 2));
    fix(b, 5, extent(0, 0, 2), content(1, 2));
    assert_eq!(b.waiting(Kind::WriteHome), 1);
    b.release(Kind::WriteHome);
    b.run();
    let fixed = waiting(b, |m| match m {
        Message::VerifyFixed(m) => Some((m.id, m.slot, m.sector, m.written)),
        _ => None,
    });
    assert_eq!(fixed, [(5, slot(0), Sector::from_raw(1098), SectorCount::from_raw(2))]);
    assert_eq!(b.home(extent(0, 1098, 2)), content(1, 2));
    assert_eq!(b.home(extent(0, 0, 2)), &content(1, 400)[..1024]);
}

#[test]
fn a_moment_is_closed_by_its_number() {
    let mut pair = held();
    let b = &mut pair.b;
    b.message(VerifyClose { id: 4 }.into(), Bytes::new());
    ask(b, 5, extent(0, 0, 1), 1);
    assert_eq!(b.waiting(Kind::ReadHome), 1);
    b.message(VerifyClose { id: 5 }.into(), Bytes::new());
    ask(b, 5, extent(0, 0, 1), 1);
    assert_eq!(b.waiting(Kind::ReadHome), 1);
    b.release(Kind::ReadHome);
    b.run();
    assert!(b.out.is_empty(), "nobody waits for the answer");
}

#[test]
fn writes_of_a_comparison_that_ended_are_waited_for() {
    let mut pair = pair();
    pair.b.homes[0][5 * 512] ^= 1;
    pair.b.hold(Kind::WriteHome);
    compare(&mut pair, REPAIR);
    assert_eq!(pair.b.waiting(Kind::WriteHome), 1);
    pair.a.command(|g, now| g.verify_cancel(now));
    pair.a.put(extent(0, 5, 1), content(7, 1));
    pair.rest();
    assert!(pair.a.group.is_applied());
    assert_eq!(pair.b.group.durable(), pair.a.group.durable());
    assert_eq!(pair.b.group.positions().applying, seq(3), "it would land on top of the record");
    pair.b.fail(Kind::WriteHome);
    pair.b.release(Kind::WriteHome);
    pair.rest();
    assert_eq!(pair.b.home(extent(0, 5, 1)), content(7, 1));
    assert!(!pair.b.group.home_detached(), "{FAULT} of a write that nobody waits for");
}

#[test]
fn a_disk_that_does_not_read_the_same_twice_is_counted_as_unreadable() {
    let mut pair = pair();
    pair.b.homes[0][5 * 512] ^= 1;
    pair.line_held = true;
    begin(&mut pair, FAST);
    for _ in 0..400 {
        pair.pass(1);
        pair.a.run();
        pair.b.run();
        // The whole region differed, and the sectors are asked for.
        if asks(&pair.a).iter().any(|(.., grain)| *grain == 1) {
            break;
        }
        pair.deliver_one(true);
        pair.deliver_one(false);
    }
    assert_eq!(asks(&pair.a).iter().filter(|(.., grain)| *grain == 1).count(), 1);
    pair.b.homes[0][5 * 512] ^= 1;
    pair.line_held = false;
    for _ in 0..20 {
        pair.run();
        pair.pass(1);
    }
    let r = report(&pair.a);
    assert_eq!((r.unreadable, r.differing, r.end), (512, 0, Some(VerifyEnd::Compared)));
    assert!(!r.is_equal());
}

#[test]
fn runs_are_sent_one_at_a_time() {
    let mut pair = pair();
    for sector in [5, 6, 20] {
        pair.b.homes[0][sector * 512] ^= 1;
    }
    pair.b.hold(Kind::WriteHome);
    compare(&mut pair, REPAIR);
    pair.line_held = true;
    assert_eq!(fixes(&pair.a), [], "the first is with the mirror");
    let first = crate::harness::home_extent(pair.b.oldest(Kind::WriteHome));
    assert_eq!(first, Some(extent(0, 5, 2)));
    pair.b.finish(Kind::WriteHome);
    pair.b.run();
    while pair.deliver_one(false) {}
    assert_eq!(fixes(&pair.a), [(20, 1)]);
}
