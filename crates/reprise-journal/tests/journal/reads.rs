//! Where the bytes of a read come from: what waits, the RAM tail, the journal on disk, home.

use bytes::Bytes;
use reprise_format::{CRC_GRAIN, FormatError};
use reprise_journal::{DiskPiece, PieceSource};
use reprise_types::{ByteLen, Seq};

use crate::bench::*;

/// Ids of `count` sectors that all come from one record.
fn ids(id: u64, count: u64) -> Vec<Option<u64>> {
    vec![Some(id); count as usize]
}

#[test]
fn every_part_of_a_record_reads_the_same_wherever_it_lies() {
    // Two and a half grains, at an address that is no multiple of one.
    let (first, count) = (3, 20);
    let mut bench = Bench::new(1 << 30);
    bench.write(0, 1_000, 3);
    bench.flush();
    bench.mark();
    bench.write(0, 500, 1);
    bench.write(0, first, count);
    for (place, to_disk) in [("waiting", false), ("packed", false), ("on disk", true)] {
        match place {
            "packed" => drop(bench.flush()),
            "on disk" => bench.journal.set_ram_tail_max(ByteLen::from_raw(0)),
            _ => {}
        }
        for from in 0..count {
            for len in 1..=count - from {
                let part = extent(0, first + from, len);
                let plan = bench.journal.plan_read(part);
                assert_eq!(places(&plan), [if to_disk { "disk" } else { "ram" }], "{place}");
                assert_eq!(plan.newest, seq(4), "{place}");
                let read = bench.read(&plan);
                assert!(read == expected(first + from, &ids(4, len)), "{place}: {len} sectors at {from}");
            }
        }
        assert!(bench.newest(extent(0, 500, 1)) == expected(500, &ids(3, 1)), "{place}: the record before");
    }
}

#[test]
fn a_read_from_disk_touches_only_the_grains_it_needs() {
    let mut bench = Bench::new(0);
    bench.write(0, 0, 20);
    bench.flush();
    // (first sector, sectors) -> (first grain, bytes read, skipped)
    let grain = CRC_GRAIN;
    let cases = [
        ((0, 8), (0, grain, 0)),
        ((0, 9), (0, 2 * grain, 0)),
        ((7, 2), (0, 2 * grain, 7 * 512)),
        ((8, 1), (1, grain, 0)),
        ((9, 1), (1, grain, 512)),
        ((16, 4), (2, 4 * 512, 0)),
        ((19, 1), (2, 4 * 512, 3 * 512)),
        ((0, 20), (0, 20 * 512, 0)),
    ];
    for ((sector, sectors), (first_grain, len, skip)) in cases {
        let piece = disk_piece(&bench, sector, sectors);
        let found = (piece.first_grain, piece.payload_len, piece.skip);
        assert_eq!(found, (first_grain, len, skip), "{sectors} sectors at {sector}");
        assert_eq!(piece.take, sectors as usize * 512);
    }
}

fn disk_piece(bench: &Bench, sector: u64, sectors: u64) -> DiskPiece {
    match bench.journal.plan_read(extent(0, sector, sectors)).pieces.as_slice() {
        [piece] => match piece.source {
            PieceSource::Disk(piece) => piece,
            ref other => panic!("not on disk: {other:?}"),
        },
        other => panic!("not one piece: {other:?}"),
    }
}

#[test]
fn bytes_that_are_not_those_that_were_written_are_refused() {
    let mut bench = Bench::new(0);
    bench.flush_each([write(1, extent(0, 0, 20)), write(2, extent(0, 100, 20)), write(3, extent(0, 200, 20))]);
    let piece = disk_piece(&bench, 104, 12);
    let header = bench.cache.slice(piece.header_at, piece.header_len).to_vec();
    let payload = Bytes::from(bench.cache.slice(piece.payload_at, piece.payload_len).to_vec());
    assert_eq!(piece.payload_len, 2 * CRC_GRAIN);
    assert!(piece.verify(&header, &payload).unwrap() == expected(104, &ids(2, 12)));
    // Another batch in its place: a good one, but not this one.
    let other = disk_piece(&bench, 204, 12);
    let foreign = bench.cache.slice(other.header_at, other.header_len).to_vec();
    assert!(matches!(piece.verify(&foreign, &payload), Err(FormatError::Field { field: "h_after", .. })));
    assert!(piece.verify(&header[..10], &payload).is_err(), "no envelope");
    assert!(piece.verify(&header[..header.len() - 1], &payload).is_err(), "half a header");
    for at in [0, CRC_GRAIN - 1, CRC_GRAIN, 2 * CRC_GRAIN - 1] {
        let mut rotten = payload.to_vec();
        rotten[at] ^= 1;
        let found = piece.verify(&header, &rotten.into());
        assert!(matches!(found, Err(FormatError::Checksum { .. })), "flip at {at}");
    }
    let short = piece.verify(&header, &payload.slice(..CRC_GRAIN));
    assert_eq!(short.unwrap_err(), FormatError::Short { what: "journal read", need: 16 * 512, have: CRC_GRAIN });
    for seq in [seq(1), seq(3)] {
        let found = DiskPiece { seq, ..piece }.verify(&header, &payload);
        assert!(matches!(found, Err(FormatError::Field { field: "seq", .. })), "not a record of the batch");
    }
    let shifted = DiskPiece { first_grain: 1, ..piece }.verify(&header, &payload);
    assert!(matches!(shifted, Err(FormatError::Checksum { .. })), "each grain has its own checksum");
    let beyond = DiskPiece { first_grain: 2, ..piece }.verify(&header, &payload);
    assert!(beyond.is_err(), "no such grain");
}

#[test]
fn a_read_over_many_records_takes_the_newest_of_each_sector() {
    let mut bench = Bench::new(0);
    bench.write(0, 10, 10);
    bench.flush();
    bench.write(0, 14, 2);
    bench.zero(0, 18, 4);
    bench.flush();
    bench.journal.set_ram_tail_max(ByteLen::from_raw(1 << 20));
    bench.write(0, 8, 3);
    bench.flush();
    bench.zero(0, 12, 1);
    bench.write(0, 13, 1);
    let (h, z) = (None, Some(0));
    let newest: Vec<Option<u64>> = [
        [h, h, Some(4), Some(4), Some(4), Some(1), z, Some(6)].as_slice(),
        [Some(2), Some(2), Some(1), Some(1), z, z, z, z, h].as_slice(),
    ]
    .concat();
    let plan = bench.journal.plan_read(extent(0, 6, 17));
    let expected_places = ["home", "ram", "disk", "zero", "ram", "disk", "disk", "zero", "home"];
    assert_eq!((places(&plan), plan.newest), (expected_places.to_vec(), seq(6)));
    assert!(bench.read(&plan) == expected(6, &newest));
    assert!(bench.newest(extent(1, 6, 17)) == expected(6, &[None; 17]), "another volume");
    // All packed, then all on disk: the same.
    bench.flush();
    assert!(bench.newest(extent(0, 6, 17)) == expected(6, &newest));
    bench.restart(0);
    assert!(bench.newest(extent(0, 6, 17)) == expected(6, &newest));
    let plan = bench.journal.plan_read(extent(0, 6, 2));
    assert_eq!((places(&plan), plan.newest), (vec!["home"], Seq::ZERO));
}

#[test]
fn the_newest_of_a_plan_is_the_newest_record_it_shows() {
    let mut bench = Bench::new(0);
    bench.write(0, 8, 8);
    bench.write(0, 0, 8);
    bench.write(0, 100, 8);
    let newest = |bench: &Bench, sector, sectors| bench.journal.plan_read(extent(0, sector, sectors)).newest.get();
    assert_eq!(newest(&bench, 0, 16), 2, "the newest need not be the last piece");
    assert_eq!(newest(&bench, 8, 8), 1);
    assert_eq!(newest(&bench, 0, 200), 3);
    assert_eq!(newest(&bench, 50, 10), 0);
}

/// Versions of sectors 0 to 8 at each moment of a short history.
fn history() -> (Bench, Vec<Vec<Option<u64>>>) {
    let mut bench = Bench::new(0);
    let mut moments = vec![vec![None; 8]];
    let steps: [(u64, u64, bool); 6] =
        [(0, 8, false), (2, 2, false), (3, 4, true), (0, 1, false), (4, 1, false), (0, 8, false)];
    for (n, (sector, sectors, zero)) in (1..).zip(steps) {
        let mut image = moments.last().unwrap().clone();
        if zero {
            bench.zero(0, sector, sectors);
        } else {
            bench.write(0, sector, sectors);
        }
        image[sector as usize..(sector + sectors) as usize].fill(Some(if zero { 0 } else { n }));
        moments.push(image);
        if n % 2 == 0 {
            bench.flush();
        }
    }
    (bench, moments)
}

#[test]
fn every_moment_can_be_read() {
    let (mut bench, moments) = history();
    for round in ["running", "restarted"] {
        for (n, image) in (0..).zip(&moments) {
            let index = bench.journal.index_at(Seq::ZERO, seq(n));
            let plan = bench.journal.plan_with(&index, extent(0, 0, 8));
            assert!(bench.read(&plan) == expected(0, image), "{round}: moment {n}");
            for (from, len) in [(0, 8), (0, 1), (2, 3), (7, 1)] {
                let plan = bench.journal.plan_as_of(Seq::ZERO, seq(n), extent(0, from, len));
                let part = &image[from as usize..(from + len) as usize];
                assert!(bench.read(&plan) == expected(from, part), "{round}: moment {n}, {len} at {from}");
                assert_eq!(places(&bench.journal.plan_as_of(Seq::ZERO, seq(n), extent(1, from, len))), ["home"]);
            }
        }
        // What home holds already is not looked up again.
        let index = bench.journal.index_at(seq(4), seq(5));
        let image = [None, None, None, None, Some(5), None, None, None];
        let plan = bench.journal.plan_with(&index, extent(0, 0, 8));
        assert!(bench.read(&plan) == expected(0, &image), "{round}: behind what is applied");
        bench.restart(0);
    }
}

#[test]
fn what_was_applied_reads_from_home_and_what_came_later_does_not() {
    let mut bench = Bench::new(0);
    bench.write(0, 0, 8);
    bench.write(0, 8, 8);
    bench.flush();
    bench.write(0, 4, 8);
    bench.flush();
    bench.apply(seq(1));
    let image = |plan: &[(Option<u64>, usize)]| plan.iter().flat_map(|(id, n)| vec![*id; *n]).collect::<Vec<_>>();
    let whole = extent(0, 0, 16);
    assert!(bench.newest(whole) == expected(0, &image(&[(None, 4), (Some(3), 8), (Some(2), 4)])));
    bench.apply(seq(2));
    assert!(bench.newest(whole) == expected(0, &image(&[(None, 4), (Some(3), 8), (None, 4)])));
    bench.restart(0);
    assert!(bench.newest(whole) == expected(0, &image(&[(None, 4), (Some(3), 8), (None, 4)])), "after a restart");
    bench.apply(seq(3));
    assert!(bench.newest(whole) == expected(0, &[None; 16]));
    assert_eq!(bench.journal.index_len(), 0);
    // A record that is applied and one that waits to be packed over the same sectors.
    bench.write(0, 0, 2);
    bench.apply(seq(3));
    assert!(bench.newest(extent(0, 0, 4)) == expected(0, &image(&[(Some(4), 2), (None, 2)])));
}
