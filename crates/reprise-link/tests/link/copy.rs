//! Bookkeeping of a first copy: which regions, how many at a time, what is acknowledged.

use reprise_link::LinkError;
use reprise_link::copy::{
    CopyMirror, CopyProgress, CopyRegion, CopySource, REGION_SECTORS_MAX, REGION_SECTORS_MIN, REGIONS_OUTSTANDING_MAX,
};
use reprise_types::{Sector, SectorCount, VolumeSlot};

use crate::common::*;

fn region(slot: u16, sector: u64, sectors: u64) -> CopyRegion {
    CopyRegion {
        slot: VolumeSlot::from_raw(slot),
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
        view_seq: seq(1),
        view_hash: Some(hash(1)),
    }
}

/// Slot, first sector and length.
fn place(region: CopyRegion) -> (u16, u64, u64) {
    (region.slot.get(), region.sector.get(), region.sectors.get())
}

fn bad(slot: u16, sector: u64) -> LinkError {
    LinkError::BadExtent { at: cursor(slot, sector) }
}

#[test]
fn volumes_are_copied_by_slot_and_empty_ones_passed_over() {
    let sizes = volumes(&[(4, 3_000), (1, 0), (2, 100), (9, 0)]);
    let mut source = CopySource::new(&sizes, None);
    assert_eq!(source.acked(), cursor(1, 0));
    let mut places = Vec::new();
    while let Some(region) = source.next_region(&point(5)) {
        places.push(place(region));
        source.region_sent(&region);
    }
    assert_eq!(places, [(2, 0, 100), (4, 0, 2_048), (4, 2_048, 952)]);
    assert_eq!(source.progress(), CopyProgress { done: 0, total: 3_100 });
    for (at, done) in [(cursor(2, 100), 100), (cursor(4, 2_048), 2_148), (cursor(4, 3_000), 3_100)] {
        source.on_ack(at).unwrap();
        assert_eq!((source.progress().done, source.acked()), (done, at));
    }
    let mirror = CopyMirror::new(&sizes, None);
    assert_eq!((mirror.cursor(), mirror.end()), (cursor(1, 0), cursor(9, 0)));
    assert_eq!(CopyMirror::new(&sizes[..1], None).end(), cursor(4, 3_000));
    // A group without volumes has nothing to copy and is at its end.
    let mut none = CopySource::new(&[], None);
    assert_eq!((none.next_region(&point(5)), none.take_done(seq(5))), (None, Some(seq(5))));
    assert_eq!(none.progress(), CopyProgress { done: 0, total: 0 });
}

#[test]
fn a_copy_resumed_at_a_cursor_does_not_go_over_what_is_done() {
    let sizes = volumes(&[(0, 5_000), (1, 5_000)]);
    for (at, first, done) in [
        (cursor(0, 4_999), (0, 4_999, 1), 4_999),
        (cursor(0, 5_000), (1, 0, 2_048), 5_000),
        (cursor(1, 3_000), (1, 3_000, 1_096), 8_000),
        // A volume that has become smaller than the cursor says counts as a whole.
        (cursor(0, 9_000), (1, 0, 2_048), 5_000),
    ] {
        let mut source = CopySource::new(&sizes, Some(at));
        assert_eq!(source.next_region(&point(1)).map(place), Some(first), "{at:?}");
        assert_eq!(source.progress(), CopyProgress { done, total: 10_000 }, "{at:?}");
        assert_eq!(CopyMirror::new(&sizes, Some(at)).progress().done, done, "{at:?}");
    }
    let mut source = CopySource::new(&sizes, Some(cursor(1, 5_000)));
    assert_eq!((source.next_region(&point(1)), source.take_done(seq(1))), (None, Some(seq(1))));
}

#[test]
fn regions_last_a_quarter_of_a_second_within_their_limits_and_end_at_their_grain() {
    let sizes = volumes(&[(0, 100_000)]);
    // Bytes a second for which so many sectors are a quarter of a second.
    let rate = |sectors: u64| sectors * 512 * 4;
    let cases = [
        (0, REGION_SECTORS_MIN),
        (rate(REGION_SECTORS_MIN), REGION_SECTORS_MIN),
        (rate(REGION_SECTORS_MIN) + rate(1), 2 * REGION_SECTORS_MIN),
        (rate(512), 512),
        (rate(600), 1_024),
        (rate(REGION_SECTORS_MAX), REGION_SECTORS_MAX),
        (u64::MAX, REGION_SECTORS_MAX),
    ];
    for (rate, sectors) in cases {
        let mut source = CopySource::new(&sizes, Some(cursor(0, 100)));
        source.set_rate(rate);
        assert_eq!(source.next_region(&point(1)).map(place), Some((0, 100, sectors - 100)), "{rate}: up to the grain");
        assert_eq!(source.next_region(&point(1)).map(place), Some((0, sectors, sectors)), "{rate}");
    }
    assert_eq!(CopySource::new(&sizes, None).next_region(&point(1)).map(place), Some((0, 0, REGION_SECTORS_MAX)));
}

#[test]
fn few_regions_are_read_at_a_time_and_not_many_more_wait_for_their_acknowledgement() {
    let mut source = CopySource::new(&volumes(&[(0, 1 << 20)]), None);
    assert_eq!((source.send_limit(), source.reading_bytes()), (None, 0));
    let first: Vec<CopyRegion> = (10..20).map_while(|view| source.next_region(&point(view))).collect();
    assert_eq!(first.len(), 4, "four views at most hold back the batches");
    assert_eq!(source.reading_bytes(), 4 << 20);
    assert_eq!(source.send_limit(), Some(seq(10)), "the oldest view");
    source.region_sent(&first[0]);
    assert_eq!((source.send_limit(), source.reading_bytes()), (Some(seq(11)), 3 << 20));
    assert!(panics(&source, |s| s.region_sent(&first[2])), "out of order");
    first[1..].iter().for_each(|r| source.region_sent(r));
    assert_eq!((source.send_limit(), source.reading_bytes()), (None, 0));
    for _ in 4..REGIONS_OUTSTANDING_MAX {
        let region = source.next_region(&point(30)).unwrap();
        source.region_sent(&region);
    }
    assert_eq!(source.next_region(&point(30)), None, "sixteen are not acknowledged");
    source.on_ack(cursor(0, REGION_SECTORS_MAX - 1)).unwrap();
    assert_eq!(source.next_region(&point(30)), None, "none of them is whole");
    source.on_ack(cursor(0, REGION_SECTORS_MAX)).unwrap();
    let next = source.next_region(&point(30)).unwrap();
    assert_eq!(source.next_region(&point(30)), None, "what is read and what is sent count together");
    source.region_sent(&next);
    source.on_ack(cursor(0, 3 * REGION_SECTORS_MAX)).unwrap();
    assert!(source.next_region(&point(30)).is_some() && source.next_region(&point(30)).is_some());
    assert_eq!(source.next_region(&point(30)), None);
}

#[test]
fn an_acknowledgement_is_between_the_one_before_and_what_was_sent() {
    let mut source = CopySource::new(&volumes(&[(0, 100_000)]), None);
    let (first, second) = (source.next_region(&point(1)).unwrap(), source.next_region(&point(1)).unwrap());
    assert_eq!(source.on_ack(cursor(0, 1)), Err(bad(0, 1)), "nothing was sent");
    assert_eq!(source.on_ack(cursor(0, 0)), Ok(()));
    source.region_sent(&first);
    let end = REGION_SECTORS_MAX;
    assert_eq!(source.on_ack(cursor(0, end + 1)), Err(bad(0, end + 1)), "the second is only being read");
    assert_eq!(source.on_ack(cursor(0, end)), Ok(()));
    assert_eq!(source.on_ack(cursor(0, end)), Ok(()), "said again");
    assert_eq!(source.on_ack(cursor(0, end - 1)), Err(bad(0, end - 1)), "taken back");
    source.region_sent(&second);
    assert_eq!(source.on_ack(cursor(0, 2 * end)), Ok(()));
    assert_eq!(source.on_ack(cursor(0, 2 * end + 1)), Err(bad(0, 2 * end + 1)));
    assert_eq!(source.acked(), cursor(0, 2 * end));
}

#[test]
fn the_source_is_complete_with_all_regions_and_all_records_up_to_the_end() {
    let mut source = CopySource::new(&volumes(&[(0, 4_000)]), None);
    let first = source.next_region(&point(7)).unwrap();
    assert_eq!(source.take_done(seq(7)), None);
    let second = source.next_region(&point(8)).unwrap();
    assert_eq!(source.take_done(seq(8)), None, "both are being read");
    source.region_sent(&first);
    assert_eq!(source.take_done(seq(8)), None, "one is being read");
    source.region_sent(&second);
    assert!(!source.is_complete(seq(99)), "its end was not said");
    assert_eq!(source.take_done(seq(9)), Some(seq(9)));
    assert_eq!(source.take_done(seq(10)), None, "once");
    assert!(!source.is_complete(seq(9)), "two regions are not acknowledged");
    source.on_ack(cursor(0, 2_048)).unwrap();
    assert!(!source.is_complete(seq(9)), "one is not");
    source.on_ack(cursor(0, 4_000)).unwrap();
    assert!(source.is_complete(seq(9)) && source.is_complete(seq(10)) && !source.is_complete(seq(8)));
}

#[test]
fn the_mirror_takes_the_next_region_and_no_other() {
    let sizes = volumes(&[(0, 3_000), (1, 9_000)]);
    let content = |r: CopyRegion| (r, false, r.sectors.get() * 512);
    let zeros = |r: CopyRegion| (r, true, 0);
    let max = REGION_SECTORS_MAX;
    let at = |slot, sector| Some(cursor(slot, sector));
    let cases = [
        ("the first", None, content(region(0, 0, 8)), true),
        ("as long as may be", None, content(region(0, 0, max)), true),
        ("to the volume's end", at(0, 2_000), content(region(0, 2_000, 1_000)), true),
        ("the next volume's first", at(0, 3_000), zeros(region(1, 0, max)), true),
        ("a gap", None, content(region(0, 8, 8)), false),
        ("before", at(0, 8), content(region(0, 0, 8)), false),
        ("another volume", None, content(region(1, 0, 8)), false),
        ("past the volume's end", at(0, 2_000), content(region(0, 2_000, 1_001)), false),
        ("too long", at(1, 0), content(region(1, 0, max + 1)), false),
        ("empty", None, zeros(region(0, 0, 0)), false),
        ("too little content", None, (region(0, 0, 8), false, 8 * 512 - 1), false),
        ("too much content", None, (region(0, 0, 8), false, 9 * 512), false),
        ("zeros with content", None, (region(0, 0, 8), true, 8 * 512), false),
        ("behind the end", at(1, 9_000), content(region(1, 9_000, 1)), false),
    ];
    for (name, from, (region, zero, len), fits) in cases {
        let mut mirror = CopyMirror::new(&sizes, from);
        let taken = mirror.on_extent(&region.extent(zero), len);
        let expected = if fits { Ok(region) } else { Err(bad(region.slot.get(), region.sector.get())) };
        assert_eq!(taken, expected, "{name}");
    }
    let mut mirror = CopyMirror::new(&sizes, at(1, 0));
    for n in 0..REGIONS_OUTSTANDING_MAX as u64 {
        assert!(mirror.on_extent(&region(1, n * 8, 8).extent(true), 0).is_ok(), "region {n}");
    }
    let next = REGIONS_OUTSTANDING_MAX as u64 * 8;
    assert_eq!(mirror.on_extent(&region(1, next, 8).extent(true), 0), Err(bad(1, next)), "sixteen are not durable");
    mirror.region_written(VolumeSlot::from_raw(1), Sector::ZERO);
    assert!(mirror.on_extent(&region(1, next, 8).extent(true), 0).is_err(), "written is not durable");
    mirror.flushed(mirror.flush_up_to().unwrap().end());
    assert!(mirror.on_extent(&region(1, next, 8).extent(true), 0).is_ok());
}

/// Regions of eight sectors that have come.
fn arrived(count: u64) -> CopyMirror {
    let mut mirror = CopyMirror::new(&volumes(&[(0, 8 * count)]), None);
    for n in 0..count {
        let region = CopyRegion { view_seq: seq(97 + n), ..region(0, n * 8, 8) };
        mirror.on_extent(&region.extent(true), 0).unwrap();
    }
    mirror
}

fn written(mirror: &mut CopyMirror, n: u64) {
    mirror.region_written(VolumeSlot::from_raw(0), Sector::from_raw(n * 8));
}

#[test]
fn a_flush_makes_durable_what_was_written_before_it_without_a_gap() {
    let mut mirror = arrived(4);
    assert_eq!(mirror.apply_limit(), Some(seq(97)), "the oldest view");
    assert_eq!(mirror.flush_up_to(), None);
    written(&mut mirror, 1);
    assert_eq!(mirror.flush_up_to(), None, "the first one is missing");
    written(&mut mirror, 3);
    assert_eq!(mirror.apply_limit(), Some(seq(97)));
    written(&mut mirror, 0);
    let flush = mirror.flush_up_to().unwrap();
    assert_eq!((flush.end(), flush.view_seq), (cursor(0, 16), seq(98)));
    // A region that is written while the flush is under way is not covered by it.
    written(&mut mirror, 2);
    assert_eq!(mirror.apply_limit(), None);
    mirror.flushed(flush.end());
    assert_eq!((mirror.cursor(), mirror.progress().done), (cursor(0, 16), 16));
    mirror.on_done(seq(100)).unwrap();
    assert!(!mirror.is_complete(seq(100)), "two are written and not flushed");
    assert_eq!(mirror.flush_up_to().map(|r| (r.end(), r.view_seq)), Some((cursor(0, 32), seq(100))));
    mirror.flushed(cursor(0, 32));
    assert!(mirror.is_complete(seq(100)));
    mirror.flushed(cursor(0, 8));
    assert_eq!(mirror.cursor(), cursor(0, 32), "it never goes back");
}

#[test]
fn the_mirror_s_image_is_whole_with_all_regions_and_all_records_up_to_the_end() {
    let mut mirror = CopyMirror::new(&volumes(&[(0, 16)]), None);
    mirror.on_extent(&region(0, 0, 8).extent(true), 0).unwrap();
    assert_eq!(mirror.on_done(seq(5)), Err(LinkError::BadCopyEnd), "a region is missing");
    mirror.on_extent(&region(0, 8, 8).extent(true), 0).unwrap();
    assert!(!mirror.is_complete(seq(99)));
    assert_eq!(mirror.on_done(seq(5)), Ok(()));
    assert_eq!(mirror.on_done(seq(5)), Err(LinkError::BadCopyEnd), "once");
    assert!(!mirror.is_complete(seq(5)), "nothing is durable");
    written(&mut mirror, 0);
    written(&mut mirror, 1);
    mirror.flushed(mirror.flush_up_to().unwrap().end());
    assert!(mirror.is_complete(seq(5)) && !mirror.is_complete(seq(4)));
}
