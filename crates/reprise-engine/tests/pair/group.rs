//! The group as the owner of journal and superblock: what is durable before what, and what commands refuse.

use bytes::Bytes;
use reprise_engine::{
    CacheFill, CommandError, CopyState, Effect, Event, GroupMeta, HostError, HostOp, Io, Notice, PeerMeta, Until,
};
use reprise_format::link::{CloseReason, Message};
use reprise_types::{BoxId, SectorCount};

use crate::harness::{
    FAULT, Kind, QUIET_MS, Setup, TestBox, content, extent, home_extent, seq, slot, source_instance, volume,
};
use crate::pair::Pair;

fn serving() -> TestBox {
    TestBox::serving(&Setup::default())
}

/// Writes of the largest record, one after the other: three of them fill a segment.
fn fill(a: &mut TestBox, writes: u64) {
    for n in 0..writes {
        a.put(extent(0, n % 8 * 512, 512), content(n, 512));
    }
}

/// A cache of 100 segments that is so full.
fn filled(used: u32) -> CacheFill {
    CacheFill { total: 100, used, reserve: 0 }
}

#[test]
fn nothing_is_written_before_the_seal_of_the_recovery_is_durable() {
    let mut a = TestBox::source(&Setup::default());
    a.hold(Kind::Superblock);
    let io = a.write(extent(0, 0, 4), content(1, 4));
    a.run();
    assert!(!a.group.is_ready());
    assert_eq!(a.waiting(Kind::WriteCache), 0);
    assert_eq!(a.group.stats().undurable_bytes, 2048, "the record waits");
    a.release(Kind::Superblock);
    a.run();
    assert!(a.group.is_ready());
    a.assert_done(io);
    assert_eq!(a.stored().incarnation, 2, "every recovery has its number");
}

#[test]
fn a_write_is_durable_before_it_is_acknowledged() {
    let mut a = serving();
    a.hold(Kind::WriteCache);
    let io = a.write(extent(0, 8, 4), content(1, 4));
    a.run();
    assert!(!a.is_answered(io), "it is not durable");
    let at = a.group.positions();
    assert_eq!((at.written, at.durable, at.applied), (seq(1), seq(0), seq(0)));
    a.finish(Kind::WriteCache);
    a.assert_done(io);
    assert_eq!(a.group.durable().seq, seq(1));
    a.rest();
    assert_eq!(a.home(extent(0, 8, 4)), content(1, 4), "and it reaches the home");
    let at = a.group.positions();
    assert_eq!((at.applied, at.applying, at.sent, at.peer_durable), (seq(1), seq(1), None, None));
}

#[test]
fn an_answer_comes_when_what_it_is_about_lasts_and_never_when_that_failed() {
    let mut a = serving();
    a.rest();
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap();
    a.command(|g, _| g.tell_when(Io(1), Until::Kept));
    assert_eq!(a.kept, []);
    a.run();
    assert_eq!(a.kept, [(Io(1), true)]);
    a.command(|g, _| g.tell_when(Io(2), Until::Kept));
    assert_eq!(a.kept[1..], [(Io(2), true)], "at once where nothing is on its way");
    a.put(extent(0, 8, 4), content(1, 4));
    a.command(|g, _| g.tell_when(Io(3), Until::Applied(seq(1))));
    assert_eq!(a.kept.len(), 2);
    a.rest();
    assert_eq!(a.kept[2..], [(Io(3), true)]);
    a.put(extent(0, 8, 4), content(2, 4));
    a.command(|g, _| g.tell_when(Io(4), Until::Applied(seq(2))));
    a.command(|g, now| g.set_read_only(now, slot(0), false)).unwrap();
    a.command(|g, _| g.tell_when(Io(5), Until::Kept));
    a.fail(Kind::Superblock);
    assert_eq!(a.kept[3..], [(Io(4), false), (Io(5), false)]);
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap_err();
    a.command(|g, _| g.tell_when(Io(6), Until::Kept));
    assert_eq!(a.kept[5..], [(Io(6), false)], "what did not last never does");
}

#[test]
fn an_answer_waits_for_no_later_change() {
    let mut a = serving();
    a.rest();
    let set = |a: &mut TestBox, io: u64, read_only: bool| {
        a.command(|g, now| g.set_read_only(now, slot(0), read_only)).unwrap();
        a.command(|g, _| g.tell_when(Io(io), Until::Kept));
    };
    set(&mut a, 1, true);
    set(&mut a, 2, false);
    a.command(|g, _| g.tell_when(Io(3), Until::Kept));
    a.finish(Kind::Superblock);
    assert_eq!(a.kept, [(Io(1), true)]);
    assert!(a.stored().volumes[0].read_only);
    set(&mut a, 4, true);
    a.finish(Kind::Superblock);
    assert_eq!(a.kept[1..], [(Io(2), true), (Io(3), true)], "two changes while one was written are one version");
    assert!(!a.stored().volumes[0].read_only);
    a.finish(Kind::Superblock);
    assert_eq!(a.kept[3..], [(Io(4), true)]);
    assert!(a.stored().volumes[0].read_only);
}

#[test]
fn positions_of_a_peer_are_the_source_s_alone() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    let (a, b) = (pair.a.group.positions(), pair.b.group.positions());
    assert_eq!((a.sent, a.peer_durable), (Some(seq(1)), Some(seq(1))));
    assert_eq!((b.sent, b.peer_durable, b.applied), (None, None, seq(1)));
    assert_eq!(pair.a.group.durable(), pair.b.group.durable(), "the same history");
}

#[test]
fn figures_count_what_happened() {
    let mut a = serving();
    for n in 0..3 {
        a.put(extent(0, n * 10, 4), content(n, 4));
    }
    a.get(extent(0, 0, 8));
    let s = a.group.stats();
    assert_eq!((s.writes, s.journal_writes, s.bytes_in, s.records), (3, 3, 3 * 2048, 3));
    assert_eq!((s.reads, s.bytes_read, s.undurable_bytes, s.segments), (1, 4096, 0, 1));
    assert_eq!((s.index_extents, s.held_bytes), (3, 3 * 4096), "a small batch takes 4 KiB");
    assert!(s.index_bytes >= 3 * 40, "{}", s.index_bytes);
    assert_eq!(s.bytes_applied, 0);
    a.rest();
    let s = a.group.stats();
    assert_eq!((s.index_extents, s.bytes_applied), (0, 3 * 2048), "reads go to the home");
}

#[test]
fn what_is_taken_together_is_one_durable_write() {
    let mut a = serving();
    for (n, io) in [reprise_engine::Io(1), reprise_engine::Io(2)].into_iter().enumerate() {
        let op = HostOp::Write { extent: extent(0, n as u64, 1), data: content(n as u64, 1) };
        a.group.take(a.now, Event::Host(io, op));
    }
    a.collect();
    assert_eq!(a.waiting(Kind::WriteCache), 0, "nothing follows before it is settled");
    a.group.settle(a.now);
    a.collect();
    a.run();
    assert_eq!(a.answered.len(), 2);
    assert_eq!(a.group.stats().journal_writes, 1);
}

#[test]
fn while_memory_is_short_nothing_durable_is_kept_in_it() {
    let mut a = serving();
    a.put(extent(0, 0, 2), content(1, 2));
    a.command(|g, _| g.set_memory_short(true));
    let io = a.ask(HostOp::Read(extent(0, 0, 2)));
    assert_eq!(a.waiting(Kind::ReadCache), 2, "header and payload come from the disk");
    a.run();
    assert_eq!(a.data(io), content(1, 2));
    a.command(|g, _| g.set_memory_short(false));
    a.put(extent(0, 2, 2), content(2, 2));
    assert_eq!(a.get(extent(0, 2, 2)), content(2, 2));
    let io = a.ask(HostOp::Read(extent(0, 2, 2)));
    assert!(a.is_answered(io), "from memory, at once");
    assert!(a.group.journal().written() == seq(2));
}

#[test]
fn a_tick_is_due_after_a_quarter_of_a_second_or_when_a_pause_ends() {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    assert_eq!(a.group.deadline(), a.now.mono.plus_millis(250), "no pause");
    a.tell(Event::Cache(filled(100)));
    a.put(extent(0, 0, 1), content(2, 1));
    let end = a.now.mono.plus_millis(20);
    assert_eq!(a.group.deadline(), end, "the pause of a full cache");
    a.pass(20);
    assert_eq!(a.group.deadline(), a.now.mono.plus_millis(250));
}

#[test]
fn a_source_pauses_between_journal_writes_when_the_cache_fills() {
    let mut a = serving();
    a.tell(Event::Cache(filled(80)));
    a.pass(1);
    assert_eq!(a.told(), [], "no pause at 80 %");
    a.tell(Event::Cache(filled(100)));
    a.pass(1);
    a.pass(1);
    assert_eq!(a.told(), [Notice::Pacing(true)], "told once");
    a.put(extent(0, 0, 1), content(1, 1));
    let io = a.write(extent(0, 1, 1), content(2, 1));
    a.pass(19);
    assert_eq!(a.waiting(Kind::WriteCache), 0, "19 ms of 20 have gone by");
    a.pass(1);
    assert_eq!(a.waiting(Kind::WriteCache), 1);
    a.run();
    a.assert_done(io);
    a.tell(Event::Cache(filled(0)));
    a.pass(1);
    a.pass(1);
    assert_eq!(a.told(), [Notice::Pacing(false)]);
}

#[test]
fn a_mirror_tells_of_no_pause() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.b.tell(Event::Cache(filled(100)));
    pair.b.pass(1);
    assert_eq!(pair.b.told(), []);
}

#[test]
fn failed_reads_are_counted_all_and_told_once_a_second() {
    let mut a = serving();
    let read = |a: &mut TestBox, errors: u64, told: bool| {
        let io = a.ask(HostOp::Read(extent(1, 7, 2)));
        a.fail(Kind::ReadHome);
        assert_eq!(a.error(io), HostError::Unreadable(reprise_types::Sector::from_raw(7)));
        assert_eq!(a.group.stats().read_errors, errors);
        let expected = told.then_some(Notice::HomeUnreadable(extent(1, 7, 1), FAULT));
        assert_eq!(a.told(), Vec::from_iter(expected));
    };
    read(&mut a, 1, true);
    a.later(999);
    read(&mut a, 2, false);
    a.later(1);
    read(&mut a, 3, true);
    a.later(500);
    read(&mut a, 4, false);
}

#[test]
fn a_failed_journal_write_fences_the_group_for_good() {
    let mut pair = Pair::mirrored(&Setup::default());
    let a = &mut pair.a;
    a.put(extent(0, 0, 1), content(1, 1));
    let lost = a.write(extent(0, 1, 1), content(2, 1));
    let waits = a.write(extent(0, 2, 1), content(3, 1));
    let read = a.ask(HostOp::Read(extent(0, 0, 4)));
    a.told();
    a.fail(Kind::WriteCache);
    for io in [lost, waits, read] {
        assert_eq!(a.error(io), HostError::Fenced);
    }
    assert_eq!(a.told(), [Notice::Fenced(FAULT), Notice::LinkDown]);
    assert_eq!(a.closed, [CloseReason::NotReady]);
    assert!(a.group.is_fenced());
    assert_eq!(a.group.meta().fenced.as_deref(), Some("the disk reports error 5"));
    let later = a.ask(HostOp::Flush);
    assert_eq!(a.error(later), HostError::Fenced);
    let asked = a.asked.len();
    a.pass(10_000);
    assert_eq!(a.asked.len(), asked, "nothing is asked of the disks any more");
    let fenced = CommandError::Fenced { reason: "the disk reports error 5".into() };
    assert_eq!(a.command(|g, now| g.set_read_only(now, slot(0), true)), Err(fenced.clone()));
    assert_eq!(a.command(|g, now| g.reattach_home(now)), Err(fenced));
}

#[test]
fn what_a_fenced_group_had_under_way_is_not_believed() {
    let mut a = serving();
    a.hold(Kind::Superblock);
    let io = a.write(extent(0, 0, 1), content(1, 1));
    a.command(|g, now| g.set_read_only(now, slot(1), true)).unwrap();
    assert_eq!((a.waiting(Kind::WriteCache), a.waiting(Kind::Superblock)), (1, 1));
    a.fail(Kind::Superblock);
    assert_eq!(a.error(io), HostError::Fenced);
    a.finish(Kind::WriteCache);
    assert_eq!(a.group.durable().seq, seq(0), "the record is not counted");
    assert_eq!(a.told(), [Notice::Fenced(FAULT)]);
}

#[test]
fn a_group_is_fenced_once() {
    let mut a = serving();
    a.write(extent(0, 0, 1), content(1, 1));
    a.command(|g, now| g.set_read_only(now, slot(1), true)).unwrap();
    a.fail(Kind::WriteCache);
    a.fail(Kind::Superblock);
    assert_eq!(a.told(), [Notice::Fenced(FAULT)]);
}

#[test]
fn one_superblock_is_written_at_a_time_and_versions_follow_each_other() {
    let mut a = serving();
    let version = a.stored_version();
    a.hold(Kind::Superblock);
    for read_only in [true, false, true] {
        a.command(|g, now| g.set_read_only(now, slot(0), read_only)).unwrap();
        assert_eq!(a.waiting(Kind::Superblock), 1);
        assert!(!a.group.superblock_settled());
    }
    a.finish(Kind::Superblock);
    assert_eq!(a.stored_version(), version + 1);
    assert!(!a.group.superblock_settled(), "what was changed meanwhile is on its way");
    a.finish(Kind::Superblock);
    assert_eq!(a.stored_version(), version + 2, "both changes in one");
    assert!(a.group.superblock_settled());
    assert_eq!(a.waiting(Kind::Superblock), 0);
    assert!(a.stored().volumes[0].read_only);
}

#[test]
fn what_waits_for_a_superblock_waits_for_one_that_holds_it() {
    let mut a = serving();
    a.put(extent(0, 0, 1), content(1, 1));
    a.hold(Kind::Superblock);
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap();
    a.pass(QUIET_MS);
    assert_eq!(a.group.positions().applying, seq(1), "a round is announced");
    a.finish(Kind::Superblock);
    assert_eq!(a.stored().applying, seq(0), "this version was written before");
    assert_eq!(a.waiting(Kind::WriteHome), 0);
    a.finish(Kind::Superblock);
    assert_eq!(a.stored().applying, seq(1));
    assert_eq!(a.waiting(Kind::WriteHome), 1);
}

#[test]
fn no_message_goes_out_before_what_the_peer_showed_is_stored() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.hold(Kind::Superblock);
    pair.connect();
    assert!(pair.a.out.is_empty(), "the verdict waits");
    assert_eq!(pair.a.waiting(Kind::Superblock), 1);
    assert_eq!(pair.a.stored().peer().unwrap().seen, None);
    // The connection breaks and another one is made: what was stored for the first does not open the second.
    pair.cut();
    pair.connect();
    assert_eq!(pair.a.waiting(Kind::Superblock), 1);
    pair.a.finish(Kind::Superblock);
    assert!(pair.a.out.is_empty());
    pair.a.finish(Kind::Superblock);
    assert!(matches!(pair.a.out.front(), Some((Message::Verdict(_), _))));
    assert!(pair.a.stored().peer().unwrap().seen.is_some());
}

#[test]
fn segments_are_given_back_when_the_trimmed_position_is_durable() {
    let mut a = serving();
    fill(&mut a, 7);
    a.hold(Kind::Superblock);
    a.rest();
    // `applying`, then `applied`, then `trimmed`.
    a.finish(Kind::Superblock);
    a.run();
    a.finish(Kind::Superblock);
    let held = a.group.segments();
    assert_eq!(held.len(), 3, "{held:?}");
    assert_eq!(a.waiting(Kind::Superblock), 1);
    assert_eq!(a.freed, []);
    a.finish(Kind::Superblock);
    assert_eq!(a.freed, [0, 1], "the two full ones");
    assert_eq!(a.stored().trimmed.seq, seq(6));
    assert_eq!(a.group.segments(), [2]);
    assert_eq!(a.group.stats().segments, 1);
}

#[test]
fn a_segment_that_is_being_read_is_not_given_back() {
    let mut a = serving();
    a.command(|g, _| g.set_memory_short(true));
    fill(&mut a, 7);
    let before = a.ask(HostOp::Read(extent(0, 0, 1)));
    let reads = [a.take(Kind::ReadCache, 0), a.take(Kind::ReadCache, 0)];
    a.rest();
    assert_eq!(a.stored().trimmed.seq, seq(6));
    assert_eq!(a.freed, [], "a read of the first one is under way");
    assert_eq!(a.group.segments().len(), 3);
    // A read that begins later cannot touch them: it does not hold them back.
    a.ask(HostOp::Read(extent(0, 3000, 1)));
    a.answer(&reads[0]);
    assert_eq!(a.freed, []);
    a.answer(&reads[1]);
    assert_eq!(a.freed, [0, 1]);
    assert_eq!(a.data(before), content(0, 1));
}

#[test]
fn reads_that_wait_for_the_same_record_are_all_answered() {
    let mut a = serving();
    a.hold(Kind::WriteCache);
    a.write(extent(0, 0, 1), content(1, 1));
    let reads = [0; 3].map(|_| a.ask(HostOp::Read(extent(0, 0, 1))));
    a.run();
    assert!(reads.iter().all(|io| !a.is_answered(*io)), "what they saw is not durable");
    a.finish(Kind::WriteCache);
    for io in reads {
        assert_eq!(a.data(io), content(1, 1));
    }
}

#[test]
fn a_full_cache_is_told_when_hosts_wait_and_when_they_go_on() {
    let mut a = TestBox::source(&Setup::default());
    a.hold_grants = true;
    a.run();
    assert_eq!(a.wants, 1);
    a.pass(250);
    assert_eq!(a.wants, 1, "one question at a time");
    a.refuse();
    assert_eq!(a.told(), [], "nobody waits");
    let io = a.write(extent(0, 0, 1), content(1, 1));
    assert_eq!(a.wants, 0, "asked again with the next tick");
    for told in [vec![Notice::CacheFull], vec![]] {
        a.pass(250);
        assert_eq!(a.wants, 1);
        a.refuse();
        assert_eq!(a.told(), told);
    }
    assert!(!a.is_answered(io));
    a.pass(250);
    a.hold_grants = false;
    a.run();
    a.assert_done(io);
    assert_eq!(a.told(), [Notice::CacheFree]);
    fill(&mut a, 4);
    assert_eq!(a.told(), []);
}

#[test]
fn nothing_is_trimmed_that_the_peer_has_not_proved_to_hold() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.cut();
    fill(&mut pair.a, 7);
    pair.a.rest();
    assert!(pair.a.group.is_applied());
    assert_eq!(pair.a.freed, [], "the mirror lacks it");
    pair.connect();
    pair.rest();
    assert_eq!(pair.a.group.positions().peer_durable, Some(seq(7)));
    assert_eq!(pair.a.freed, [0, 1]);
    assert_eq!(pair.b.group.segments().len(), 1, "the mirror's own journal waits for its home only");
}

#[test]
fn nothing_behind_the_offered_position_is_trimmed_while_a_copy_may_begin() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.hold(Kind::FlushHome);
    fill(&mut pair.a, 7);
    pair.a.rest();
    pair.line_held = true;
    pair.dial();
    pair.a.release(Kind::FlushHome);
    pair.a.rest();
    assert!(pair.a.group.is_applied());
    assert_eq!(pair.a.freed, [], "the offer names a position");
    pair.cut();
    pair.a.rest();
    assert_eq!(pair.a.freed, [0, 1], "no copy has begun: nobody needs it");
}

#[test]
fn commands_are_for_the_source() {
    let mut b = Pair::apart(&Setup::default()).b;
    let not = CommandError::NotSource;
    assert_eq!(b.command(|g, now| g.add_volume(now, volume(9, 8))), Err(not.clone()));
    assert_eq!(b.command(|g, now| g.set_read_only(now, slot(0), true)), Err(not.clone()));
    assert_eq!(b.command(|g, now| g.retire_volume(now, slot(0))), Err(not.clone()));
    assert_eq!(b.command(|g, now| g.add_peer(now, BoxId::from_raw([5; 16]), source_instance())), Err(not.clone()));
    assert_eq!(b.command(|g, now| g.remove_peer(now)), Err(not.clone()));
    let sectors = SectorCount::from_raw(1 << 20);
    assert_eq!(b.command(|g, now| g.resize_volume(now, slot(0), sectors)), Err(not));
}

#[test]
fn a_volume_gets_the_next_slot_and_is_stored() {
    let mut a = serving();
    for n in [2, 3] {
        assert_eq!(a.command(|g, now| g.add_volume(now, volume(70 + n, 64))), Ok(slot(n)));
        a.homes.push(vec![0; 64 * 512]);
    }
    a.run();
    let slots: Vec<_> = a.stored().volumes.iter().map(|v| v.slot).collect();
    assert_eq!(slots, [slot(0), slot(1), slot(2), slot(3)]);
    assert_eq!(a.stored().next_slot, 4);
    a.put(extent(3, 60, 4), content(1, 4));
    a.rest();
    assert_eq!(a.home(extent(3, 60, 4)), content(1, 4));
}

#[test]
fn a_group_takes_64_volumes() {
    let mut a = serving();
    for _ in 2..64 {
        a.command(|g, now| g.add_volume(now, volume(0, 8))).unwrap();
    }
    assert_eq!(a.command(|g, now| g.add_volume(now, volume(0, 8))), Err(CommandError::TooMany));
    assert_eq!(a.group.meta().volumes.len(), 64);
}

#[test]
fn volumes_stay_as_they_are_while_there_is_a_peer() {
    let mut a = Pair::apart(&Setup::default()).a;
    assert_eq!(a.command(|g, now| g.add_volume(now, volume(0, 8))), Err(CommandError::HasPeer));
    assert_eq!(a.command(|g, now| g.retire_volume(now, slot(0))), Err(CommandError::HasPeer));
}

#[test]
fn read_only_is_stored_for_that_volume() {
    let mut a = serving();
    a.command(|g, now| g.set_read_only(now, slot(1), true)).unwrap();
    a.run();
    let flags: Vec<_> = a.stored().volumes.iter().map(|v| v.read_only).collect();
    assert_eq!(flags, [false, true]);
    assert_eq!(a.command(|g, now| g.set_read_only(now, slot(2), true)), Err(CommandError::NoVolume));
}

#[test]
fn a_volume_is_retired_before_it_is_removed() {
    let mut a = serving();
    a.put(extent(1, 0, 1), content(1, 1));
    assert_eq!(a.command(|g, now| g.remove_volume(now, slot(1))), Err(CommandError::NoVolume));
    assert_eq!(a.command(|g, now| g.retire_volume(now, slot(7))), Err(CommandError::NoVolume));
    assert_eq!(a.command(|g, now| g.retire_volume(now, slot(1))), Ok(seq(1)), "applied up to there it may go");
    assert!(a.group.is_retired(slot(1)) && !a.group.is_retired(slot(0)));
    let io = a.write(extent(1, 0, 1), content(2, 1));
    assert_eq!(a.error(io), HostError::Range, "hosts get no more of it");
    a.put(extent(0, 0, 1), content(2, 1));
    a.rest();
    assert_eq!(a.command(|g, now| g.remove_volume(now, slot(0))), Err(CommandError::NoVolume));
    let gone = a.command(|g, now| g.remove_volume(now, slot(1))).unwrap();
    assert_eq!(gone.name, "v1");
    a.run();
    let slots: Vec<_> = a.stored().volumes.iter().map(|v| v.slot).collect();
    assert_eq!(slots, [slot(0)]);
}

#[test]
fn a_retired_volume_stays_retired_when_the_group_is_fenced() {
    let mut a = serving();
    a.command(|g, now| g.retire_volume(now, slot(1))).unwrap();
    a.write(extent(0, 0, 1), content(1, 1));
    a.fail(Kind::WriteCache);
    assert!(a.group.is_retired(slot(1)));
}

#[test]
fn applied_means_that_home_and_superblock_hold_everything() {
    let mut a = serving();
    assert!(a.group.is_applied());
    a.hold(Kind::WriteCache);
    a.write(extent(0, 0, 1), content(1, 1));
    a.run();
    assert!(!a.group.is_applied(), "a record is on its way");
    a.release(Kind::WriteCache);
    a.hold(Kind::FlushHome);
    a.rest();
    assert!(!a.group.is_applied(), "the home is not flushed");
    a.hold(Kind::Superblock);
    a.release(Kind::FlushHome);
    a.run();
    assert!(!a.group.is_applied(), "the superblock does not say so");
    a.release(Kind::Superblock);
    a.run();
    assert!(a.group.is_applied());
    a.hold(Kind::Superblock);
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap();
    assert!(!a.group.is_applied(), "the superblock is on its way");
}

#[test]
fn a_mirror_whose_home_is_detached_holds_nothing_for_sure() {
    let mut pair = Pair::apart(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.b.hold(Kind::WriteHome);
    pair.connect();
    pair.b.fail(Kind::WriteHome);
    pair.b.run();
    assert!(pair.b.group.home_detached() && pair.b.group.superblock_settled());
    assert!(!pair.b.group.is_applied());
}

#[test]
fn a_peer_is_attached_once_and_not_to_what_is_local() {
    let mut a = serving();
    let (peer, instance) = (BoxId::from_raw([2; 16]), source_instance());
    assert_eq!(a.command(|g, now| g.remove_peer(now)), Err(CommandError::NoPeer));
    assert_eq!(a.command(|g, now| g.set_paused(now, true)), Err(CommandError::NoPeer));
    let local = reprise_engine::VolumeMeta { local_only: true, name: "here".into(), ..volume(0, 8) };
    let local = a.command(|g, now| g.add_volume(now, local)).unwrap();
    let refused = CommandError::LocalOnly { name: "here".into() };
    assert_eq!(a.command(|g, now| g.add_peer(now, peer, instance)), Err(refused));
    a.command(|g, now| g.retire_volume(now, local)).unwrap();
    a.command(|g, now| g.remove_volume(now, local)).unwrap();
    a.command(|g, now| g.add_peer(now, peer, instance)).unwrap();
    assert_eq!(a.command(|g, now| g.add_peer(now, peer, instance)), Err(CommandError::HasPeer));
    a.run();
    let expected = PeerMeta { peer, durable: None, copy: None, paused: false, instance, seen: None };
    assert_eq!(a.stored().peer(), Some(&expected));
}

#[test]
fn a_peer_that_is_removed_holds_nothing_back() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.line_held = true;
    fill(&mut pair.a, 7);
    pair.a.rest();
    assert_eq!(pair.a.freed, []);
    pair.a.command(|g, now| g.remove_peer(now)).unwrap();
    assert_eq!(pair.a.closed, [CloseReason::Removed]);
    pair.a.run();
    assert_eq!(pair.a.stored().peer(), None);
    assert_eq!(pair.a.freed, [0, 1]);
    assert!(!pair.a.group.wants_link());
}

/// A mirror whose source has ended it followed nobody and waited for ever: its state said that it was paused.
#[test]
fn a_mirror_that_was_ended_stays_so_and_keeps_its_image() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.put(extent(0, 0, 1), content(1, 1));
    pair.rest();
    assert_eq!(pair.a.command(|g, now| g.end_mirror(now)), Err(CommandError::NotMirror));
    let at = pair.b.command(|g, now| g.end_mirror(now).map(|()| now.wall)).unwrap();
    assert_eq!(pair.b.closed, [CloseReason::Removed]);
    pair.b.run();
    assert_eq!(pair.b.stored().ended(), Some(at));
    assert!(pair.b.stored().peer().is_some(), "whose image it is stays known");
    pair.b.pass(1000);
    pair.b.command(|g, now| g.end_mirror(now)).unwrap();
    pair.b.run();
    assert_eq!(pair.b.stored().ended(), Some(at), "the first time counts");
    pair.b.restart();
    pair.b.run();
    pair.b.closed.clear();
    pair.b.connected();
    assert!(pair.b.group.mirror_session().is_none());
    assert_eq!(pair.b.closed, [CloseReason::NotReady]);
    assert_eq!(pair.b.home(extent(0, 0, 1)), content(1, 1));
}

#[test]
fn a_paused_link_is_closed_and_not_wanted_until_it_is_resumed() {
    let mut pair = Pair::mirrored(&Setup::default());
    pair.a.command(|g, now| g.set_paused(now, true)).unwrap();
    assert_eq!(pair.a.closed, [CloseReason::Paused]);
    assert_eq!(pair.a.told(), [Notice::LinkDown]);
    pair.run();
    assert!(!pair.a.group.wants_link());
    assert!(pair.a.stored().peer().unwrap().paused);
    pair.a.command(|g, now| g.set_paused(now, false)).unwrap();
    assert!(pair.a.group.wants_link());
    pair.a.run();
    assert!(!pair.a.stored().peer().unwrap().paused);
}

/// A source whose home has refused a write, and how many home writes it had under way.
fn detached(writes: u64) -> TestBox {
    let mut a = serving();
    a.hold(Kind::WriteHome);
    for n in 0..writes {
        a.put(extent(0, n * 100, 1), content(n, 1));
    }
    a.rest();
    assert_eq!(a.waiting(Kind::WriteHome) as u64, writes);
    a.fail(Kind::WriteHome);
    a
}

#[test]
fn a_home_that_failed_is_taken_back_by_a_command_only() {
    let mut a = detached(1);
    assert!(a.group.home_detached());
    assert_eq!(a.group.home_fault(), Some("the disk reports error 5"));
    assert_eq!(a.told(), [Notice::HomeFailed(FAULT)]);
    a.rest();
    assert_eq!(a.waiting(Kind::WriteHome), 0, "it is left alone");
    assert_eq!(a.get(extent(0, 0, 1)), content(0, 1), "what the journal holds is read");
    a.command(|g, now| g.reattach_home(now)).unwrap();
    assert_eq!(a.told(), [Notice::HomeAttached]);
    a.release(Kind::WriteHome);
    a.rest();
    assert!(a.group.is_applied());
    assert_eq!(a.home(extent(0, 0, 1)), content(0, 1));
    assert_eq!(a.group.home_fault(), None);
}

#[test]
fn a_home_is_not_taken_back_while_its_disk_is_at_work() {
    let mut a = detached(2);
    assert!(!a.group.home_detached(), "the other write is waited for");
    a.finish(Kind::WriteHome);
    assert!(a.group.home_detached());
    a.hold(Kind::Superblock);
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap();
    assert_eq!(a.command(|g, now| g.reattach_home(now)), Err(CommandError::Busy), "the superblock is on its way");
    a.release(Kind::Superblock);
    a.run();
    a.command(|g, now| g.reattach_home(now)).unwrap();
}

#[test]
fn nothing_is_taken_back_that_was_not_detached() {
    let mut a = serving();
    assert_eq!(a.command(|g, now| g.reattach_home(now)), Err(CommandError::Attached));
    a.command(|g, now| g.set_read_only(now, slot(0), true)).unwrap();
    assert_eq!(a.command(|g, now| g.reattach_home(now)), Err(CommandError::Attached));
    assert_eq!(a.told(), []);
}

#[test]
fn a_group_that_starts_again_holds_what_was_acknowledged() {
    let mut a = serving();
    for n in 0..20 {
        a.put(extent(0, n * 3, 2), content(n, 2));
    }
    a.write(extent(0, 0, 2), content(99, 2));
    a.restart();
    a.run();
    for n in 0..20 {
        assert_eq!(a.get(extent(0, n * 3, 2)), content(n, 2), "write {n}");
    }
    assert_eq!(a.group.durable().seq, seq(20), "what was not answered is gone");
    a.put(extent(0, 0, 2), content(100, 2));
    a.rest();
    assert_eq!(a.home(extent(0, 0, 2)), content(100, 2));
}

#[test]
fn a_new_mirror_waits_for_its_copy() {
    let mut b = TestBox::mirror(&Setup::default());
    b.run();
    let meta: &GroupMeta = b.group.meta();
    assert_eq!(meta.copy(), Some(CopyState::default()));
    assert!(b.group.is_ready() && !b.group.wants_link());
    let io = b.ask(HostOp::Flush);
    assert_eq!(b.error(io), HostError::NotSource);
}

#[test]
fn home_writes_name_where_they_go() {
    let mut a = serving();
    a.hold(Kind::WriteHome);
    a.put(extent(1, 20, 2), content(1, 2));
    a.rest();
    let effect = a.take(Kind::WriteHome, 0);
    assert_eq!(home_extent(&effect), Some(extent(1, 20, 2)));
    let Effect::WriteHome { bufs, .. } = effect else { panic!("a write") };
    assert_eq!(Bytes::from(bufs.concat()), content(1, 2));
}
