//! When a segment is wanted, when the cache is full, what is freed, and what is kept in memory.

use reprise_format::batch::{BATCH_LEN_MAX, BATCH_PAYLOAD_MAX, BATCH_RECORDS_MAX};
use reprise_journal::{BatchSource, Grant, SegmentFound, newest_generation, scan_segments, segment_offset};
use reprise_types::{ByteLen, Seq};

use crate::bench::*;

const FULL: u64 = BATCH_PAYLOAD_MAX as u64 / 512;
const HALF: usize = SEGMENT_LEN as usize / 2 / PAGE;

fn ids(bench: &Bench) -> Vec<u32> {
    bench.journal.segment_ids().collect()
}

/// Sectors of a write whose batch has so many pages.
fn sectors_of(pages: usize) -> u64 {
    let payload = (pages - 1) * PAGE;
    assert_eq!(batch_pages(&[payload]), pages, "sizes as intended");
    payload as u64 / 512
}

#[test]
fn a_segment_is_wanted_when_there_is_none_and_once_the_open_one_is_half_full() {
    let mut bench = Bench::new(0);
    assert!(bench.journal.wants_segment());
    assert_eq!((bench.journal.segments_held(), ids(&bench)), (0, vec![]));
    bench.journal.grant(Grant { segment: 5, generation: 1 });
    assert!(!bench.journal.wants_segment(), "one is granted");
    assert_eq!((bench.journal.segments_held(), ids(&bench)), (1, vec![5]), "what is granted is held");
    bench.write(0, 0, FULL);
    bench.flush();
    assert!(!bench.journal.wants_segment());
    assert_eq!((bench.journal.segments_held(), ids(&bench)), (1, vec![5]), "opening it takes no other");
    // One page of header and so many of batches are half of it exactly.
    bench.write(0, 0, sectors_of(HALF - 1 - batch_pages(&[BATCH_PAYLOAD_MAX])));
    bench.flush();
    assert!(!bench.journal.wants_segment(), "half full is not more than half full");
    bench.write(0, 0, 1);
    bench.step();
    assert!(bench.journal.wants_segment());
    bench.journal.grant(Grant { segment: 2, generation: 2 });
    assert!(!bench.journal.wants_segment());
    assert_eq!((bench.journal.segments_held(), ids(&bench)), (2, vec![5, 2]), "in the order of their use");
}

#[test]
#[should_panic(expected = "a second segment granted")]
fn a_second_grant_would_lose_the_first() {
    let mut bench = Bench::new(0);
    bench.journal.grant(Grant { segment: 0, generation: 1 });
    bench.journal.grant(Grant { segment: 1, generation: 2 });
}

#[test]
fn the_journal_stalls_only_where_records_wait_and_nothing_can_move_them() {
    let mut bench = Bench::new(0);
    assert!(!bench.journal.stalled(), "nothing waits");
    bench.write(0, 0, FULL);
    assert!(bench.journal.stalled(), "no segment");
    assert!(bench.journal.poll_write(now(1), VERSION).is_none());
    assert!(bench.journal.stalled(), "the same once the record is packed");
    bench.journal.grant(Grant { segment: 0, generation: 1 });
    assert!(!bench.journal.stalled(), "a segment is granted");
    let write = bench.submit().unwrap();
    bench.write(0, 0, 1);
    assert!(!bench.journal.stalled(), "a write is in flight");
    bench.journal.write_done(write.token);
    assert!(!bench.journal.stalled(), "there is room");
    bench.write(0, 0, FULL);
    bench.free.clear();
    bench.flush();
    // No grant, but records that wait still fit: any batch does.
    assert!(bench.journal.wants_segment());
    bench.write(0, 0, 1);
    assert!(!bench.journal.stalled());
    bench.write(0, 0, FULL);
    bench.write(0, 0, FULL);
    while bench.step().is_some() {}
    assert!(bench.journal.stalled(), "the next batch does not fit and there is no segment");
    assert!(bench.journal.undurable_bytes() > 0);
    bench.journal.grant(Grant { segment: 1, generation: 99 });
    assert!(!bench.journal.stalled());
    bench.flush();
    assert!(!bench.journal.stalled() && bench.journal.undurable_bytes() == 0);
}

/// Before a batch is packed its length is not known: room for the longest is asked for.
#[test]
fn records_that_are_not_packed_ask_for_room_for_the_largest_batch() {
    let full = batch_pages(&[BATCH_PAYLOAD_MAX]);
    // Three batches of a record each, then the largest batch and the footer of all four, or a page less.
    let footer = ((3 + BATCH_RECORDS_MAX) * 24 + 4 * 40).div_ceil(PAGE) + 1;
    let room = SEGMENT_LEN as usize / PAGE - 1 - footer - BATCH_LEN_MAX / PAGE;
    for (pages, stalled) in [(room, false), (room + 1, true)] {
        let mut bench = Bench::new(0);
        bench.free = [0].into();
        let last = write(3, extent(0, 0, sectors_of(pages - 2 * full)));
        bench.flush_each([write(1, extent(0, 0, FULL)), write(2, extent(0, 0, FULL)), last]);
        bench.write(0, 0, 1);
        assert_eq!(bench.journal.stalled(), stalled, "{pages} pages used");
    }
}

/// Five full batches: segments 0 (Seq 1 to 3) and 1 (4 and 5).
fn two_segments(ram_tail_max: u64) -> Bench {
    let mut bench = Bench::new(ram_tail_max);
    for n in 0..5 {
        bench.write(0, n * FULL, FULL);
    }
    bench.flush();
    assert_eq!(ids(&bench)[..2], [0, 1]);
    bench
}

#[test]
fn whole_segments_are_freed_up_to_a_position_and_never_the_last() {
    let mut bench = two_segments(u64::MAX);
    assert_eq!(bench.journal.trimmed(), start());
    assert_eq!(bench.journal.trim(Seq::ZERO), None);
    assert_eq!(bench.journal.trim(seq(2)), None, "a record of it is needed");
    let h3 = bench.journal.hash_at(seq(3)).unwrap();
    let (trimmed, freed) = bench.journal.trim(seq(3)).unwrap();
    assert_eq!((trimmed.branch, trimmed.seq, trimmed.hash, freed), (BRANCH, seq(3), h3, vec![0]));
    assert_eq!(bench.journal.trimmed(), trimmed);
    assert_eq!(bench.journal.trim(seq(5)), None, "the last segment stays");
    assert_eq!(ids(&bench)[0], 1);
    // Several at once.
    let mut bench = two_segments(u64::MAX);
    for n in 0..4 {
        bench.write(0, n * FULL, FULL);
    }
    bench.flush();
    assert_eq!(bench.trim(seq(8)), Some(vec![0, 1]));
    assert_eq!(bench.journal.trimmed().seq, seq(6));
}

#[test]
fn what_is_trimmed_is_gone_from_memory_and_disk() {
    let mut bench = two_segments(u64::MAX);
    assert!(matches!(bench.journal.batch_holding(seq(3)), Some(BatchSource::Ram(_))));
    bench.trim(seq(3)).unwrap();
    for n in 1..=3 {
        assert!(bench.journal.batch_holding(seq(n)).is_none(), "{n}");
        assert!(bench.journal.place_of(seq(n)).is_none(), "{n}");
        assert!(bench.journal.wall_of(seq(n)).is_none(), "{n}");
    }
    assert!(bench.journal.batch_after(seq(2)).is_none());
    assert!(matches!(bench.journal.batch_after(seq(3)), Some(BatchSource::Ram(_))), "the next one is there");
    assert!(bench.journal.hash_at(seq(3)).is_some(), "h of the trimmed position stays known");
    assert_eq!(bench.journal.hash_at(seq(2)), None);
    // What the tail may hold is counted anew: two bodies remain, and they are within a limit of two.
    bench.journal.set_ram_tail_max(ByteLen::from_raw(2 * body_len(&[BATCH_PAYLOAD_MAX])));
    for n in 4..=5 {
        assert!(matches!(bench.journal.batch_holding(seq(n)), Some(BatchSource::Ram(_))), "{n}");
    }
}

#[test]
fn bytes_behind_a_position_are_counted_as_they_lie_on_disk() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.journal.durable_bytes_after(Seq::ZERO), 0);
    bench.flush_each([write(1, extent(0, 0, 1)), write(2, extent(0, 0, 100)), write(3, extent(0, 0, 1))]);
    let pages = |n: usize| (n * PAGE) as u64;
    let long = batch_pages(&[100 * 512]);
    let cases = [(0, 1 + long + 1), (1, long + 1), (2, 1), (3, 0)];
    for (after, expected) in cases {
        assert_eq!(bench.journal.durable_bytes_after(seq(after)), pages(expected), "after {after}");
    }
    let mut bench = two_segments(0);
    let full = batch_pages(&[BATCH_PAYLOAD_MAX]);
    // From the second batch of one segment to the end of the data in the next: a segment less one batch, and two more.
    let behind = SEGMENT_LEN - pages(full) + pages(2 * full);
    assert_eq!(bench.journal.durable_bytes_after(seq(1)), behind);
    assert_eq!(bench.journal.durable_bytes_after(seq(4)), pages(full));
    // What is only in flight does not count.
    bench.write(0, 0, 1);
    let write = bench.submit().unwrap();
    assert_eq!(bench.journal.durable_bytes_after(seq(4)), pages(full));
    bench.journal.write_done(write.token);
    assert_eq!(bench.journal.durable_bytes_after(seq(4)), pages(full + 1));
}

/// As `docs/internals/pool.md` states it: 40 bytes an extent, 24 a record, 40 a batch.
#[test]
fn memory_of_index_and_tables_is_counted() {
    let mut bench = Bench::new(0);
    assert_eq!((bench.journal.index_bytes(), bench.journal.records_held()), (0, 0));
    for n in 0..3 {
        bench.write(0, n * 10, 1);
    }
    assert_eq!((bench.journal.index_len(), bench.journal.index_bytes()), (3, 3 * 40));
    bench.mark();
    bench.flush();
    bench.write(0, 0, 1);
    bench.flush();
    assert_eq!(bench.journal.records_held(), 5);
    assert_eq!(bench.journal.index_bytes(), 3 * 40 + 5 * 24 + 2 * 40);
    let written = bench.journal.written();
    bench.apply(written);
    assert_eq!(bench.journal.index_bytes(), 5 * 24 + 2 * 40, "tables stay until they are trimmed");
}

#[test]
fn the_next_generation_is_behind_all_headers_and_all_floors() {
    let mut bench = two_segments(0);
    let found: Vec<SegmentFound> = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
    let newest = found.iter().map(|s| s.header.generation).max().unwrap();
    assert_eq!(found.iter().map(|s| s.segment).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(newest_generation(&found, []), newest);
    assert_eq!(newest_generation(&found, [newest - 1, 3]), newest);
    assert_eq!(newest_generation(&found, [3, newest + 7]), newest + 7);
    assert_eq!(newest_generation(&[], [5]), 5);
    assert_eq!(newest_generation(&[], []), 0, "a blank pool");
}

#[test]
fn segments_lie_one_behind_the_other_from_sixteen_mib_on() {
    for (segment, len, expected) in [(0, 1 << 20, 16 << 20), (1, 1 << 20, 17 << 20), (3, 64 << 20, (16 + 192) << 20)] {
        assert_eq!(segment_offset(segment, len), expected);
    }
}
