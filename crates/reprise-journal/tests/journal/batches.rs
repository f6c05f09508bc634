//! Finding batches again: in memory, on disk, by position and by h.

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{ENVELOPE_LEN, Envelope};
use reprise_journal::{Batch, BatchPlace, BatchSource};
use reprise_types::{ByteLen, HistoryHash, RecordKind, Seq};

use crate::bench::*;

/// Batches of the Seqs 1-2, 3, 4-6, 7, each of one write and perhaps marks behind it.
fn four(ram_tail_max: u64) -> Bench {
    let mut bench = Bench::new(ram_tail_max);
    for records in [2, 1, 3, 1] {
        bench.write(0, 0, 8);
        for _ in 1..records {
            bench.mark();
        }
        bench.flush();
    }
    bench
}

const RANGES: [(u64, u64); 4] = [(1, 2), (3, 3), (4, 6), (7, 7)];

fn range_of(source: Option<BatchSource>) -> Option<(&'static str, u64, u64)> {
    Some(match source? {
        BatchSource::Ram(batch) => ("ram", batch.first_seq().get(), batch.last_seq().get()),
        BatchSource::Disk(place) => ("disk", place.first_seq.get(), place.last_seq.get()),
    })
}

#[test]
fn batches_are_found_by_the_record_before_them_and_by_any_record_in_them() {
    for (place, mut bench) in [("ram", four(u64::MAX)), ("disk", four(0))] {
        for round in 0..2 {
            let journal = &bench.journal;
            for (first, last) in RANGES {
                assert_eq!(range_of(journal.batch_after(seq(first - 1))), Some((place, first, last)));
                for n in first..=last {
                    assert_eq!(range_of(journal.batch_holding(seq(n))), Some((place, first, last)), "{n}");
                    let on_disk = journal.place_of(seq(n)).unwrap();
                    assert_eq!((on_disk.first_seq, on_disk.last_seq), (seq(first), seq(last)), "{n}");
                    if n < last {
                        assert_eq!(range_of(journal.batch_after(seq(n))), None, "no batch begins behind {n}");
                    }
                }
            }
            assert_eq!(range_of(journal.batch_after(seq(7))), None);
            assert_eq!(range_of(journal.batch_holding(seq(8))), None);
            assert_eq!(range_of(journal.batch_holding(Seq::ZERO)), None);
            assert_eq!(journal.place_of(seq(8)), None);
            if place == "ram" || round == 1 {
                break;
            }
            bench.restart(0);
        }
    }
}

#[test]
fn what_is_not_durable_is_not_given_to_cursors() {
    let mut bench = Bench::new(u64::MAX);
    bench.write(0, 0, 8);
    bench.write(0, 8, 8);
    let write = bench.submit().unwrap();
    assert!(bench.journal.batch_after(Seq::ZERO).is_none());
    assert!(bench.journal.batch_holding(seq(1)).is_none() && bench.journal.batch_holding(seq(2)).is_none());
    assert!(bench.journal.place_of(seq(2)).is_none());
    assert_eq!(bench.journal.hash_at(seq(1)), None, "inside a batch there is no h");
    bench.journal.write_done(write.token);
    assert_eq!(range_of(bench.journal.batch_after(Seq::ZERO)), Some(("ram", 1, 2)));
    assert_eq!(range_of(bench.journal.batch_holding(seq(2))), Some(("ram", 1, 2)));
    assert!(bench.journal.place_of(seq(2)).is_some());
}

#[test]
fn the_hash_is_known_at_ends_of_batches() {
    let mut bench = four(u64::MAX);
    for _ in 0..2 {
        let journal = &bench.journal;
        assert_eq!(journal.hash_at(Seq::ZERO), Some(start().hash));
        for (first, last) in RANGES {
            let h_after = journal.place_of(seq(last)).unwrap().h_after;
            assert_eq!(journal.hash_at(seq(last)), Some(h_after));
            assert!(RANGES.iter().filter(|r| journal.hash_at(seq(r.1)) == Some(h_after)).count() == 1, "all differ");
            for n in first..last {
                assert_eq!(journal.hash_at(seq(n)), None, "{n}");
            }
        }
        assert_eq!(journal.hash_at(seq(7)), Some(journal.durable().hash));
        assert_eq!(journal.hash_at(seq(8)), None);
        bench.restart(0);
    }
    // Also across a segment's end, where h stands in the header of the next.
    let mut bench = Bench::new(0);
    for _ in 0..5 {
        bench.write(0, 0, 512);
    }
    bench.flush();
    let ends: Vec<_> = (0..=5).map(|n| bench.journal.hash_at(seq(n))).collect();
    assert!(ends.iter().all(Option::is_some));
    bench.trim(seq(3)).unwrap();
    let left: Vec<_> = (0..=5).map(|n| bench.journal.hash_at(seq(n))).collect();
    assert_eq!((&left[..3], &left[3..]), ([None; 3].as_slice(), &ends[3..]));
}

/// The RAM tail holds as much as it may, newest first, and never less than what is not durable.
#[test]
fn the_tail_drops_the_oldest_durable_batches_past_its_limit() {
    let body = body_len(&[8 * 512]);
    let records = || (0..5).map(|n| write(n + 1, extent(0, 0, 8)));
    let in_ram = |bench: &Bench| -> Vec<u64> {
        let ram = |n: &u64| matches!(range_of(bench.journal.batch_holding(seq(*n))), Some(("ram", ..)));
        (1..=5).filter(ram).collect()
    };
    for (max, expected) in [
        (0, vec![]),
        (body - 1, vec![]),
        (body, vec![5]),
        (2 * body, vec![4, 5]),
        (3 * body - 1, vec![4, 5]),
        (3 * body, vec![3, 4, 5]),
        (9 * body, vec![1, 2, 3, 4, 5]),
    ] {
        let mut bench = Bench::new(max);
        bench.flush_each(records());
        assert_eq!(in_ram(&bench), expected, "limit of {max}");
        let mut bench = Bench::new(u64::MAX);
        bench.flush_each(records());
        assert_eq!(in_ram(&bench), [1, 2, 3, 4, 5]);
        bench.journal.set_ram_tail_max(ByteLen::from_raw(max));
        assert_eq!(in_ram(&bench), expected, "a limit of {max} set later");
    }
    // What is not durable stays readable from memory whatever the limit.
    let mut bench = Bench::new(0);
    bench.write(0, 0, 8);
    let first = bench.submit().unwrap();
    bench.journal.set_ram_tail_max(ByteLen::from_raw(0));
    assert_eq!(places(&bench.journal.plan_read(extent(0, 0, 8))), ["ram"]);
    bench.journal.write_done(first.token);
    assert_eq!(places(&bench.journal.plan_read(extent(0, 0, 8))), ["disk"]);
}

#[test]
fn trimmed_batches_make_room_in_the_tail() {
    let body = body_len(&[512 * 512]);
    let mut bench = Bench::new(3 * body);
    for _ in 0..5 {
        bench.write(0, 0, 512);
    }
    bench.flush();
    // The tail holds 3, 4 and 5. Trimming takes 3, so one more fits beside 4 and 5.
    assert_eq!(bench.trim(seq(3)), Some(vec![0]));
    bench.write(0, 0, 512);
    bench.flush();
    let sources: Vec<_> = (3..=6).map(|n| range_of(bench.journal.batch_holding(seq(n))).map(|r| r.0)).collect();
    assert_eq!(sources, [None, Some("ram"), Some("ram"), Some("ram")]);
    bench.write(0, 0, 512);
    bench.flush();
    assert_eq!(range_of(bench.journal.batch_holding(seq(4))).unwrap().0, "disk");
    assert_eq!(range_of(bench.journal.batch_holding(seq(5))).unwrap().0, "ram");
}

fn on_disk(bench: &mut Bench, place: &BatchPlace) -> Bytes {
    bench.cache.slice(place.at, place.len).to_vec().into()
}

#[test]
fn a_batch_from_disk_is_the_batch_in_memory() {
    let mut bench = four(u64::MAX);
    for (first, last) in RANGES {
        let Some(BatchSource::Ram(batch)) = bench.journal.batch_holding(seq(first)) else { panic!("in memory") };
        let place = bench.journal.place_of(seq(first)).unwrap();
        let bytes = on_disk(&mut bench, &place);
        let read = place.verify(bytes.clone()).unwrap();
        assert_eq!(read.header(), batch.header());
        assert_eq!((read.first_seq(), read.last_seq()), (seq(first), seq(last)));
        let pieces: Vec<Bytes> = read.body().collect();
        assert!(pieces.iter().all(|p| !p.is_empty()), "marks have no payload to send");
        assert_eq!(pieces.concat().len(), read.body_len());
        assert!(pieces.concat() == bytes[ENVELOPE_LEN..ENVELOPE_LEN + read.body_len()]);
        assert!(batch.body().collect::<Vec<_>>().concat() == pieces.concat());
        let kinds: Vec<_> = read.records().map(|(r, p)| (r.seq.get(), r.descriptor.kind, p.len())).collect();
        let expected: Vec<_> = (first..=last)
            .map(|n| if n == first { (n, RecordKind::Write, 8 * 512) } else { (n, RecordKind::FlushMark, 0) })
            .collect();
        assert_eq!(kinds, expected);
        for n in first..=last {
            let (record, payload) = read.record(seq(n)).unwrap();
            assert_eq!((record.seq, payload.len()), (seq(n), if n == first { 8 * 512 } else { 0 }));
        }
        assert!(read.record(seq(first - 1)).is_none() && read.record(seq(last + 1)).is_none());
    }
}

#[test]
fn payloads_of_a_batch_are_each_record_s_own() {
    let mut bench = Bench::new(0);
    bench.write(0, 0, 3);
    bench.write(0, 50, 9);
    bench.mark();
    bench.write(0, 70, 1);
    bench.flush();
    let place = bench.journal.place_of(seq(1)).unwrap();
    let bytes = on_disk(&mut bench, &place);
    let batch = place.verify(bytes).unwrap();
    for (n, sector, sectors) in [(1, 0, 3), (2, 50, 9), (4, 70, 1)] {
        let (_, payload) = batch.record(seq(n)).unwrap();
        assert!(*payload == expected(sector, &vec![Some(n); sectors]), "record {n}");
    }
}

#[test]
fn a_batch_needs_its_body_and_not_its_padding() {
    let mut bench = four(0);
    let place = bench.journal.place_of(seq(3)).unwrap();
    let bytes = on_disk(&mut bench, &place);
    let envelope = Envelope::decode(&bytes).unwrap();
    let end = ENVELOPE_LEN + envelope.body_len as usize;
    assert!(end < bytes.len(), "there is padding");
    assert_eq!(Batch::from_disk(bytes.slice(..end)).unwrap().0, envelope);
    let short = Batch::from_disk(bytes.slice(..end - 1)).unwrap_err();
    assert_eq!(short, FormatError::Short { what: "batch", need: end, have: end - 1 });
    assert!(Batch::from_body(bytes.slice(ENVELOPE_LEN..end)).is_ok());
    assert!(Batch::from_body(bytes.slice(ENVELOPE_LEN..)).is_err(), "a body is as long as its header says");
    for at in [ENVELOPE_LEN + 4096 - 512 - 64, end - 1] {
        let mut rotten = bytes.to_vec();
        rotten[at] ^= 1;
        assert!(Batch::from_disk(rotten.into()).is_err(), "rot at {at}");
    }
}

#[test]
fn a_place_takes_only_its_own_batch() {
    let mut bench = four(0);
    let place = bench.journal.place_of(seq(3)).unwrap();
    let own = on_disk(&mut bench, &place);
    let wrong = [
        BatchPlace { first_seq: seq(2), ..place },
        BatchPlace { last_seq: seq(4), ..place },
        BatchPlace { h_after: HistoryHash::NIL, ..place },
    ];
    for place in wrong {
        assert!(place.verify(own.clone()).is_err(), "{place:?}");
    }
    let other = bench.journal.place_of(seq(7)).unwrap();
    let foreign = on_disk(&mut bench, &other);
    assert!(place.verify(foreign).is_err(), "a good batch of another place");
    assert!(place.verify(own).is_ok());
}

#[test]
fn a_rotten_batch_is_put_back_exactly_where_it_was() {
    let mut bench = four(0);
    let before = bench.cache.clone();
    let place = bench.journal.place_of(seq(4)).unwrap();
    let healthy = place.verify(on_disk(&mut bench, &place)).unwrap();
    bench.cache.slice(place.at, place.len).fill(0x55);
    let (at, bufs) = bench.journal.rewrite(&place, &healthy, VERSION + 2).unwrap();
    let bytes = bufs.concat();
    assert_eq!((at, bytes.len()), (place.at, place.len));
    let envelope = Envelope::decode(&bytes).unwrap();
    let was = Envelope::decode(before.clone().slice(place.at, place.len)).unwrap();
    let own = bench.journal.incarnation();
    // It was durable before, so it may be believed as far as its own place, under the superblock of today.
    let expected = Envelope { superblock_version: VERSION + 2, incarnation: own, durable_before: was.offset, ..was };
    assert_eq!(envelope, expected);
    bench.put(at, &bytes);
    assert!(place.verify(on_disk(&mut bench, &place)).is_ok());
    bench.found.superblock_version = VERSION + 2;
    bench.restart(0);
    assert_eq!(bench.journal.durable().seq, seq(7));
}

#[test]
fn nothing_but_the_batch_of_a_place_is_put_there() {
    let bench = &mut four(0);
    let place = bench.journal.place_of(seq(3)).unwrap();
    let own = place.verify(on_disk(bench, &place)).unwrap();
    assert!(bench.journal.rewrite(&place, &own, VERSION).is_some());
    // The same Seq and lengths, another history.
    let mut other = Bench::new(0);
    other.write(0, 0, 8);
    other.mark();
    other.flush();
    other.write(0, 1, 8);
    other.flush();
    let twin = other.journal.place_of(seq(3)).unwrap();
    let twin = twin.verify(on_disk(&mut other, &twin)).unwrap();
    assert_eq!((twin.first_seq(), twin.body_len()), (own.first_seq(), own.body_len()));
    assert_eq!(twin.header().head.header_len, own.header().head.header_len);
    assert!(bench.journal.rewrite(&place, &twin, VERSION).is_none());
    let elsewhere = BatchPlace { at: place.at + 4096, ..place };
    assert!(bench.journal.rewrite(&elsewhere, &own, VERSION).is_none(), "the batch, but not its place");
    let unknown = BatchPlace { first_seq: seq(8), ..place };
    assert!(bench.journal.rewrite(&unknown, &own, VERSION).is_none());
    let seventh = bench.journal.place_of(seq(7)).unwrap();
    assert!(bench.journal.rewrite(&seventh, &own, VERSION).is_none());
}
