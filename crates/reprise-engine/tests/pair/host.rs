//! Hosts: order, ranges that are held, what is read when, and what is refused.

use bytes::Bytes;
use reprise_engine::{Effect, Event, HostError, HostOp, Io, Notice};
use reprise_types::{Extent, Sector, SectorCount, UnitState};

use crate::harness::{FAULT, Kind, Setup, TestBox, content, extent, seq, slot, volume};

fn serving() -> TestBox {
    TestBox::serving(&Setup::default())
}

fn zero(volume: u16, ranges: &[(u64, u64)]) -> HostOp {
    let range = |(sector, sectors): &(u64, u64)| (Sector::from_raw(*sector), SectorCount::from_raw(*sectors));
    HostOp::Zero { volume: slot(volume), ranges: ranges.iter().map(range).collect() }
}

/// COMPARE AND WRITE of sectors that read as zeros.
fn compare(at: Extent, data: &Bytes) -> HostOp {
    HostOp::CompareAndWrite { extent: at, verify: Bytes::from(vec![0; data.len()]), data: data.clone() }
}

fn write(at: Extent, data: &Bytes) -> HostOp {
    HostOp::Write { extent: at, data: data.clone() }
}

/// A box on which a COMPARE AND WRITE of sectors 10 to 13 of volume 0 has begun to read.
fn comparing() -> (TestBox, Io) {
    let mut a = serving();
    a.hold(Kind::ReadHome);
    let io = a.ask(compare(extent(0, 10, 4), &content(50, 4)));
    (a, io)
}

/// Asks while sectors 10 to 13 are held. True where it waits for them.
#[track_caller]
fn waits(op: HostOp) -> bool {
    let (mut a, first) = comparing();
    let io = a.ask(op);
    a.run();
    let waits = !a.is_answered(io);
    assert!(!a.is_answered(first));
    a.release(Kind::ReadHome);
    a.run();
    a.assert_done(first);
    a.assert_done(io);
    waits
}

#[test]
fn compare_and_write_holds_its_range_and_nothing_else() {
    for (sector, sectors, held) in [(9, 1, false), (9, 2, true), (13, 1, true), (14, 1, false), (10, 4, true)] {
        let at = extent(0, sector, sectors);
        assert_eq!(waits(write(at, &content(1, sectors))), held, "a write of {sectors} at {sector}");
    }
    assert!(!waits(write(extent(1, 10, 4), &content(1, 4))), "another volume");
    assert!(!waits(HostOp::Flush));
    assert!(waits(zero(0, &[(100, 5), (13, 8)])), "one of its ranges");
    assert!(!waits(zero(0, &[(100, 5), (14, 8)])));
    assert!(!waits(zero(1, &[(10, 4)])));
    assert!(waits(HostOp::OrWrite { extent: extent(0, 13, 1), data: content(1, 1) }));
}

#[test]
fn a_read_does_not_wait_for_a_held_range() {
    let (mut a, _) = comparing();
    a.release(Kind::ReadHome);
    let effect = a.take(Kind::ReadHome, 0);
    let io = a.ask(HostOp::Read(extent(0, 10, 4)));
    a.run();
    assert_eq!(a.data(io), vec![0; 2048]);
    a.answer(&effect);
    a.run();
    assert_eq!(a.get(extent(0, 10, 4)), content(50, 4));
}

#[test]
fn writes_behind_a_waiting_one_keep_their_order() {
    let (mut a, first) = comparing();
    let older = a.write(extent(0, 12, 8), content(1, 8));
    let newer = a.write(extent(0, 18, 4), content(2, 4));
    let beside = a.write(extent(0, 30, 4), content(3, 4));
    a.run();
    assert!(!a.is_answered(older) && !a.is_answered(newer), "the newer one would be overwritten by the older");
    a.assert_done(beside);
    a.release(Kind::ReadHome);
    a.run();
    for io in [first, older, newer] {
        a.assert_done(io);
    }
    assert_eq!(a.get(extent(0, 10, 2)), content(50, 4)[..1024]);
    assert_eq!(a.get(extent(0, 12, 6)), content(1, 8)[..6 * 512]);
    assert_eq!(a.get(extent(0, 18, 4)), content(2, 4));
}

#[test]
fn what_is_answered_survives_zeros_that_were_asked_for_before_it() {
    // Zeros of two ranges wait since one of them is held. A write of the other range was answered and then zeroed.
    for later in [write(extent(0, 100, 2), &content(7, 2)), compare(extent(0, 100, 2), &content(7, 2))] {
        let (mut a, first) = comparing();
        let zeros = a.ask(zero(0, &[(12, 1), (100, 8)]));
        let io = a.ask(later);
        let beside = a.write(extent(0, 108, 1), content(8, 1));
        a.run();
        a.assert_done(beside);
        assert!(!a.is_answered(zeros) && !a.is_answered(io), "the one waits for the other");
        a.release(Kind::ReadHome);
        a.run();
        [first, zeros, io].into_iter().for_each(|io| a.assert_done(io));
        assert_eq!(a.get(extent(0, 100, 2)), content(7, 2), "what was answered last is there");
        assert_eq!(a.get(extent(0, 12, 1)), [0; 512]);
        assert_eq!(a.get(extent(0, 102, 6)), [0; 6 * 512]);
    }
}

#[test]
fn the_second_of_two_comparisons_sees_what_the_first_wrote() {
    let (mut a, first) = comparing();
    let second = a.ask(compare(extent(0, 13, 2), &content(60, 2)));
    a.release(Kind::ReadHome);
    a.run();
    a.assert_done(first);
    assert_eq!(a.error(second), HostError::Miscompare(0));
}

#[test]
fn a_miscompare_names_the_first_byte_and_writes_nothing() {
    let mut a = serving();
    a.put(extent(0, 1, 1), content(1, 1));
    // One piece from the home, one from the journal, one from the home.
    let mut expected = vec![0; 3 * 512];
    expected[512..1024].copy_from_slice(&content(1, 1));
    for at in [1535, 700, 3] {
        expected[at] ^= 1;
        let op = HostOp::CompareAndWrite {
            extent: extent(0, 0, 3),
            verify: Bytes::from(expected.clone()),
            data: content(9, 3),
        };
        let io = a.ask(op);
        a.run();
        assert_eq!(a.error(io), HostError::Miscompare(at as u32));
    }
    assert_eq!(a.group.stats().writes, 1, "only the write counts");
    [1535, 700, 3].into_iter().for_each(|at: usize| expected[at] ^= 1);
    let verify = Bytes::from(expected);
    let io = a.ask(HostOp::CompareAndWrite { extent: extent(0, 0, 3), verify, data: content(9, 3) });
    a.run();
    a.assert_done(io);
    assert_eq!(a.get(extent(0, 0, 3)), content(9, 3));
    assert_eq!(a.group.stats().writes, 2);
}

#[test]
fn a_comparison_waits_until_what_it_saw_is_durable() {
    let mut a = serving();
    a.hold(Kind::WriteCache);
    a.write(extent(0, 0, 1), content(1, 1));
    let op = HostOp::CompareAndWrite { extent: extent(0, 0, 1), verify: content(1, 1), data: content(2, 1) };
    let io = a.ask(op);
    a.run();
    assert_eq!(a.group.journal().written(), seq(1), "it has no Seq yet");
    a.finish(Kind::WriteCache);
    assert_eq!(a.group.journal().written(), seq(2));
    a.release(Kind::WriteCache);
    a.run();
    a.assert_done(io);
}

#[test]
fn a_comparison_that_cannot_read_writes_nothing_and_lets_go() {
    let (mut a, first) = comparing();
    let behind = a.write(extent(0, 10, 1), content(1, 1));
    a.fail(Kind::ReadHome);
    a.run();
    assert_eq!(a.error(first), HostError::Unreadable(Sector::from_raw(10)));
    a.assert_done(behind);
    assert_eq!(a.get(extent(0, 10, 1)), content(1, 1));
}

#[test]
fn or_write_merges_by_or() {
    let mut a = serving();
    a.put(extent(0, 5, 2), Bytes::from(vec![0b0110; 1024]));
    let io = a.ask(HostOp::OrWrite { extent: extent(0, 5, 2), data: Bytes::from(vec![0b0011; 1024]) });
    a.run();
    a.assert_done(io);
    assert_eq!(a.get(extent(0, 5, 2)), vec![0b0111; 1024]);
    assert_eq!(a.group.stats().writes, 2);
}

#[test]
fn a_write_longer_than_a_record_is_several() {
    let mut a = serving();
    a.put(extent(0, 40, 1200), content(1, 1200));
    let s = a.group.stats();
    assert_eq!((s.records, s.bytes_in, s.writes), (3, 1200 * 512, 1), "512, 512 and 176 sectors");
    assert_eq!(a.group.durable().seq, seq(3));
    assert_eq!(a.get(extent(0, 40, 1200)), content(1, 1200));
    a.rest();
    assert_eq!(a.home(extent(0, 40, 1200)), content(1, 1200));
    assert_eq!(a.home(extent(0, 39, 1)), [0; 512]);
    assert_eq!(a.home(extent(0, 1240, 1)), [0; 512]);
}

#[test]
fn zeros_are_records_and_reach_the_home() {
    let mut a = serving();
    a.put(extent(1, 0, 300), content(1, 300));
    a.rest();
    a.hold(Kind::WriteCache);
    let io = a.ask(zero(1, &[(0, 200), (250, 10)]));
    a.run();
    assert!(!a.is_answered(io), "it is not durable");
    a.release(Kind::WriteCache);
    a.run();
    a.assert_done(io);
    assert_eq!((a.group.stats().writes, a.group.durable().seq), (2, seq(3)));
    let mut expected = content(1, 300).to_vec();
    expected[..200 * 512].fill(0);
    expected[250 * 512..260 * 512].fill(0);
    assert_eq!(a.get(extent(1, 0, 300)), expected, "100 KiB of zeros come from no disk");
    a.rest();
    assert_eq!(a.home(extent(1, 0, 300)), expected);
}

#[test]
fn no_range_of_zeros_is_done_with_what_came_before() {
    let mut a = serving();
    let io = a.ask(zero(0, &[]));
    a.assert_done(io);
    a.hold(Kind::WriteCache);
    let first = a.write(extent(0, 0, 1), content(1, 1));
    let io = a.ask(zero(0, &[]));
    a.run();
    assert!(!a.is_answered(io));
    a.finish(Kind::WriteCache);
    assert_eq!(a.answered[1..], [first, io]);
}

#[test]
fn zeros_longer_than_a_record_are_several() {
    const MAX: u64 = 1 << 30;
    let mut a = serving();
    let large = a.command(|g, now| g.add_volume(now, volume(0, 4 * MAX))).unwrap();
    let io = a.ask(zero(large.get(), &[(7, 2 * MAX + 5)]));
    a.run();
    a.assert_done(io);
    assert_eq!(a.group.durable().seq, seq(3));
    for sector in [7, MAX + 6, MAX + 7, 2 * MAX + 6, 2 * MAX + 11] {
        assert_eq!(a.get(extent(large.get(), sector, 1)), [0; 512], "sector {sector} comes from no disk");
    }
    for sector in [6, 2 * MAX + 12] {
        a.ask(HostOp::Read(extent(large.get(), sector, 1)));
        assert!(matches!(a.take(Kind::ReadHome, 0), Effect::ReadHome { .. }), "sector {sector} was left alone");
    }
}

#[test]
fn a_flush_is_done_when_all_before_it_is_durable() {
    let mut a = serving();
    let io = a.ask(HostOp::Flush);
    a.assert_done(io);
    a.hold(Kind::WriteCache);
    let first = a.write(extent(0, 0, 1), content(1, 1));
    let second = a.write(extent(0, 1, 1), content(2, 1));
    let flush = a.ask(HostOp::Flush);
    a.run();
    a.finish(Kind::WriteCache);
    assert_eq!(a.answered[1..], [first], "the second write is in the next batch");
    a.finish(Kind::WriteCache);
    assert_eq!(a.answered[1..], [first, second, flush]);
}

#[test]
fn hosts_see_the_newest_and_are_answered_when_it_is_durable() {
    let mut a = serving();
    a.put(extent(0, 0, 4), content(1, 4));
    a.hold(Kind::WriteCache);
    a.write(extent(0, 1, 1), content(2, 1));
    a.write(extent(0, 2, 1), content(3, 1));
    let old = a.ask(HostOp::Read(extent(0, 0, 1)));
    let both = a.ask(HostOp::Read(extent(0, 0, 4)));
    let first = a.ask(HostOp::Read(extent(0, 0, 2)));
    a.run();
    assert_eq!(a.data(old), content(1, 4)[..512]);
    assert!(!a.is_answered(first) && !a.is_answered(both));
    a.finish(Kind::WriteCache);
    assert_eq!(a.data(first), [&content(1, 4)[..512], &content(2, 1)].concat());
    assert!(!a.is_answered(both), "it saw the third record");
    a.finish(Kind::WriteCache);
    let whole = content(1, 4);
    assert_eq!(a.data(both), [&whole[..512], &content(2, 1), &content(3, 1), &whole[3 * 512..]].concat());
}

#[test]
fn a_read_is_put_together_from_home_journal_and_memory() {
    let mut a = serving();
    a.put(extent(0, 100, 20), content(1, 20));
    a.rest();
    a.command(|g, _| g.set_memory_short(true));
    a.put(extent(0, 104, 3), content(2, 3));
    let io = a.ask(zero(0, &[(110, 2)]));
    a.run();
    a.assert_done(io);
    a.command(|g, _| g.set_memory_short(false));
    a.put(extent(0, 115, 1), content(3, 1));
    let mut expected = content(1, 20).to_vec();
    expected[4 * 512..7 * 512].copy_from_slice(&content(2, 3));
    expected[10 * 512..12 * 512].fill(0);
    expected[15 * 512..16 * 512].copy_from_slice(&content(3, 1));
    let io = a.ask(HostOp::Read(extent(0, 100, 20)));
    let homes: Vec<_> = a.asked.iter().filter_map(crate::harness::home_extent).collect();
    let gaps = [(100, 4), (107, 3), (112, 3), (116, 4)].map(|(sector, sectors)| extent(0, sector, sectors));
    assert_eq!(homes, gaps, "only what is nowhere else comes from the home");
    assert_eq!(a.waiting(Kind::ReadCache), 2);
    // Answers may come in any order.
    while !a.asked.is_empty() {
        let effect = a.asked.pop_back().unwrap();
        assert!(!a.is_answered(io));
        a.answer(&effect);
    }
    assert_eq!(a.data(io), expected);
}

#[test]
fn what_the_journal_does_not_give_back_is_not_given_to_a_host() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    a.put(extent(0, 20, 4), content(1, 4));
    let Some(Effect::ReadCache { at, .. }) = ({
        a.ask(HostOp::Read(extent(0, 19, 3)));
        a.asked.iter().rev().find(|e| matches!(e, Effect::ReadCache { .. }))
    }) else {
        panic!("the payload is read")
    };
    let payload_at = *at;
    a.run();
    a.rot(payload_at + 600);
    let io = a.ask(HostOp::Read(extent(0, 19, 3)));
    a.run();
    assert_eq!(a.error(io), HostError::Unreadable(Sector::from_raw(20)), "the piece begins there");
    assert_eq!(a.group.rotten(), Some((seq(1), seq(1), true)), "and no peer holds it");
    let told = a.told();
    assert_eq!(told[0], Notice::JournalUnreadable(seq(1)));
    assert!(told.contains(&Notice::JournalLost(seq(1), seq(1))));
    assert_eq!(a.group.stats().read_errors, 1);
}

#[test]
fn an_error_of_the_journal_s_disk_is_an_error_of_that_piece_alone() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    a.put(extent(0, 20, 4), content(1, 4));
    let io = a.ask(HostOp::Read(extent(0, 19, 3)));
    a.fail(Kind::ReadCache);
    a.run();
    assert_eq!(a.error(io), HostError::Unreadable(Sector::from_raw(20)));
    assert_eq!(a.get(extent(0, 19, 1)), [0; 512]);
}

#[test]
fn a_home_that_cannot_be_read_is_told_with_its_place() {
    let mut a = serving();
    a.put(extent(0, 10, 1), content(1, 1));
    let io = a.ask(HostOp::Read(extent(0, 8, 6)));
    let first = a.take(Kind::ReadHome, 0);
    a.fail(Kind::ReadHome);
    assert!(!a.is_answered(io), "the other piece is on its way");
    a.answer(&first);
    assert_eq!(a.error(io), HostError::Unreadable(Sector::from_raw(11)));
    assert_eq!(a.told(), [Notice::HomeUnreadable(extent(0, 11, 1), FAULT)]);
    assert_eq!(a.group.rotten(), None, "the journal is well");
}

#[test]
fn a_read_that_has_failed_waits_for_nothing() {
    let mut a = serving();
    a.hold(Kind::WriteCache);
    a.write(extent(0, 0, 1), content(1, 1));
    let io = a.ask(HostOp::Read(extent(0, 0, 2)));
    a.fail(Kind::ReadHome);
    assert_eq!(a.error(io), HostError::Unreadable(Sector::from_raw(1)));
}

#[track_caller]
fn refused(a: &mut TestBox, op: HostOp) {
    let text = format!("{op:?}");
    let io = a.ask(op);
    assert_eq!(a.error(io), HostError::Range, "{text}");
    assert_eq!(a.group.journal().written(), seq(0));
}

#[test]
fn what_is_not_inside_a_volume_is_refused() {
    let mut a = serving();
    let (one, two) = (content(1, 1), content(1, 2));
    for (sector, sectors) in [(4095, 2), (4096, 1), (u64::MAX, 1), (0, 4097)] {
        let at = extent(0, sector, sectors);
        let data = Bytes::from(vec![0; sectors as usize * 512]);
        refused(&mut a, HostOp::Read(at));
        refused(&mut a, write(at, &data));
        refused(&mut a, compare(at, &data));
        refused(&mut a, HostOp::OrWrite { extent: at, data });
        refused(&mut a, zero(0, &[(0, 1), (sector, sectors)]));
    }
    refused(&mut a, HostOp::Read(extent(2, 0, 1)));
    refused(&mut a, write(extent(2, 0, 1), &one));
    refused(&mut a, HostOp::Unit { volume: slot(2), state: UnitState::default() });
    // Content of another length.
    let at = extent(0, 0, 1);
    refused(&mut a, write(at, &two));
    refused(&mut a, HostOp::OrWrite { extent: at, data: two.clone() });
    let (verify, data) = (one.clone(), two.clone());
    refused(&mut a, HostOp::CompareAndWrite { extent: at, verify, data });
    refused(&mut a, HostOp::CompareAndWrite { extent: at, verify: two, data: one.clone() });
    // The last sector of all.
    a.put(extent(0, 4095, 1), one.clone());
    assert_eq!(a.get(extent(0, 4095, 1)), one);
    let io = a.ask(zero(0, &[(4095, 1)]));
    a.run();
    a.assert_done(io);
}

#[test]
fn whatever_hosts_wait_for_ends_when_the_group_is_fenced() {
    let (mut a, comparing) = comparing();
    let blocked = a.write(extent(0, 12, 1), content(1, 1));
    let read = a.ask(HostOp::Read(extent(0, 100, 1)));
    let written = a.write(extent(0, 200, 1), content(1, 1));
    let seen = a.ask(HostOp::Read(extent(0, 200, 1)));
    let flush = a.ask(HostOp::Flush);
    a.fail(Kind::WriteCache);
    for io in [comparing, blocked, read, written, seen, flush] {
        assert_eq!(a.error(io), HostError::Fenced);
    }
    // Answers of the disks that come later are nobody's.
    while a.waiting(Kind::ReadHome) > 0 {
        a.finish(Kind::ReadHome);
    }
    assert!(a.replies.is_empty());
}

#[test]
fn a_read_is_answered_by_the_disk_only() {
    let mut a = serving();
    let io = a.ask(HostOp::Read(extent(0, 0, 1)));
    a.tell(Event::Tick);
    assert!(!a.is_answered(io));
    a.finish(Kind::ReadHome);
    assert_eq!(a.data(io), [0; 512]);
    assert_eq!((a.group.stats().reads, a.group.stats().bytes_read), (1, 512));
}
