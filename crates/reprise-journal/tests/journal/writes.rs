//! What goes into one batch, one write and one segment, and where it goes.

use reprise_format::batch::{BATCH_PAYLOAD_MAX, BATCH_RECORDS_MAX, ENVELOPE_LEN};
use reprise_format::segment::{Footer, SegmentHeader};
use reprise_journal::{Batch, BatchSource, Case, Grant, Journal, JournalWrite, NewRecord, segment_offset};
use reprise_types::{RecordKind, Seq};

use crate::bench::*;

const FULL: u64 = BATCH_PAYLOAD_MAX as u64 / 512;
/// Pages of a segment that header and the smallest footer leave for batches.
const ROOM: usize = SEGMENT_LEN as usize / PAGE - 1 - 2;

/// A journal with segments so long that no end of one comes in between.
fn roomy() -> Journal {
    let mut journal = empty(reprise_journal::JournalConfig { segment_len: 64 << 20, ..config(u64::MAX) });
    journal.grant(Grant { segment: 0, generation: 1 });
    journal
}

/// Records of each batch that is durable, in order.
fn durable_batches(journal: &Journal) -> Vec<usize> {
    let (mut at, mut out) = (Seq::ZERO, Vec::new());
    while let Some(BatchSource::Ram(batch)) = journal.batch_after(at) {
        out.push(batch.records().count());
        at = batch.last_seq();
    }
    out
}

fn done(journal: &mut Journal, write: &JournalWrite) {
    journal.write_done(write.token);
}

#[test]
fn a_batch_closes_before_the_record_that_would_pass_a_limit() {
    let sectors = |n| write(1, extent(0, 0, n));
    let half = FULL / 2;
    let cases: [(&str, Vec<NewRecord>, &[usize]); 5] = [
        ("payload up to the limit", vec![sectors(half), sectors(half), sectors(1)], &[2, 1]),
        ("a sector more than the limit", vec![sectors(half), sectors(half + 1), sectors(1)], &[1, 2]),
        ("full records", vec![sectors(FULL), sectors(FULL)], &[1, 1]),
        ("as many records as may be", vec![bare(RecordKind::FlushMark, extent(0, 0, 0)); BATCH_RECORDS_MAX], &[512]),
        ("one record more", vec![bare(RecordKind::Zero, extent(0, 0, 1)); BATCH_RECORDS_MAX + 1], &[512, 1]),
    ];
    for (name, records, expected) in cases {
        let mut journal = roomy();
        for record in records {
            journal.append(record).unwrap();
        }
        let write = journal.poll_write(now(1), VERSION).unwrap();
        done(&mut journal, &write);
        assert_eq!(durable_batches(&journal), expected, "{name}");
    }
}

#[test]
fn a_write_takes_four_mib_of_payload_and_no_more() {
    let mut journal = roomy();
    for _ in 0..17 {
        journal.append(write(1, extent(0, 0, FULL))).unwrap();
    }
    let lasts: Vec<u64> = std::iter::from_fn(|| {
        let write = journal.poll_write(now(1), VERSION)?;
        assert!(journal.poll_write(now(1), VERSION).is_none(), "one write is in flight at a time");
        done(&mut journal, &write);
        Some(write.last_seq.get())
    })
    .collect();
    assert_eq!(lasts, [16, 17]);
}

/// Packing ahead ends at 4 MiB of bodies, headers included: what is packed can no longer be packed together.
#[test]
fn packing_ahead_ends_at_four_mib_of_bodies() {
    for short_by in [0, 512] {
        let mut journal = roomy();
        // Fifteen full batches, and one that makes the sum of the bodies 4 MiB less `short_by`.
        let full = body_len(&[BATCH_PAYLOAD_MAX]);
        let packed = (4 << 20) - short_by;
        let rest = packed - 15 * full;
        let payload = rest - (body_len(&[rest as usize]) - rest);
        assert_eq!(15 * full + body_len(&[payload as usize]), packed, "sizes as intended");
        // A full record behind them is a batch of its own.
        for sectors in std::iter::repeat_n(FULL, 15).chain([payload / 512, FULL]) {
            journal.append(write(1, extent(0, 0, sectors))).unwrap();
        }
        journal.poll_write(now(1), VERSION).unwrap();
        // What waits counts with its payload, what is packed with its body.
        let last = if short_by == 0 { BATCH_PAYLOAD_MAX as u64 } else { full };
        assert_eq!(journal.undurable_bytes(), packed + last, "{short_by} bytes short");
    }
}

#[test]
fn a_write_takes_sixty_four_batches_and_no_more() {
    let mut journal = empty(reprise_journal::JournalConfig { segment_len: 64 << 20, ..config(u64::MAX) });
    // Without a segment nothing can be written, but each poll packs what has come since.
    for n in 0..65 {
        journal.append(write(1, extent(0, n, 1))).unwrap();
        assert!(journal.poll_write(now(1), VERSION).is_none());
    }
    journal.grant(Grant { segment: 0, generation: 1 });
    let first = journal.poll_write(now(1), VERSION).unwrap();
    done(&mut journal, &first);
    let second = journal.poll_write(now(1), VERSION).unwrap();
    done(&mut journal, &second);
    assert_eq!((first.last_seq, second.last_seq), (seq(64), seq(65)));
    assert_eq!(durable_batches(&journal), vec![1; 65]);
}

#[test]
fn pieces_of_a_write_are_whole_sectors_and_none_is_empty() {
    let mut bench = Bench::new(0);
    // 64 bytes of envelope, 448 of header and seven sectors fill a page exactly: there is nothing to pad.
    assert_eq!(ENVELOPE_LEN as u64 + body_len(&[7 * 512]), PAGE as u64);
    for sectors in [7, 1, 8, 100] {
        bench.write(0, 0, sectors);
        bench.mark();
        for write in bench.flush() {
            assert!(write.bufs.iter().all(|b| !b.is_empty() && b.len().is_multiple_of(512)), "{sectors}");
            assert!(write.at.is_multiple_of(512) && bytes_of(&write).len().is_multiple_of(PAGE), "{sectors}");
        }
    }
    bench.flush_each([write(1, extent(0, 0, 7))]);
    assert_eq!(bench.journal.place_of(bench.journal.written()).unwrap().len, PAGE);
}

#[test]
fn every_batch_names_its_place_and_what_was_durable_before_it() {
    let mut bench = Bench::new(0);
    bench.found.incarnation = 6;
    bench.restart(0);
    let own = bench.journal.incarnation();
    assert_eq!(own, 7);
    bench.free = [4].into();
    // Header and first batch go out together: nothing of this segment was durable before.
    bench.write(0, 0, 1);
    let first = bench.step().unwrap();
    assert_eq!(first.at, segment_offset(4, SEGMENT_LEN));
    let bytes = bytes_of(&first);
    let header = SegmentHeader::decode(&bytes).unwrap();
    let base = start();
    assert_eq!((header.pool, header.group, header.branch), (POOL, GROUP, BRANCH));
    assert_eq!((header.segment, header.generation), (4, bench.generation));
    assert_eq!((header.first_seq, header.h_before), (seq(1), base.hash));
    let batches = envelopes(&bytes[PAGE..]);
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].1.offset, batches[0].1.durable_before), (PAGE as u32, 0));
    // Two batches in one write: neither was durable when the other was handed to the disk.
    bench.write(0, 0, FULL);
    bench.write(0, 0, FULL);
    let second = bench.step().unwrap();
    let bytes = bytes_of(&second);
    let batches = envelopes(&bytes);
    assert_eq!(batches.len(), 2);
    let begins = 2 * PAGE;
    assert_eq!(second.at, segment_offset(4, SEGMENT_LEN) + begins as u64);
    for (at, envelope) in batches {
        assert_eq!(envelope.offset as usize, begins + at);
        assert_eq!(envelope.durable_before as usize, begins);
        assert_eq!((envelope.segment, envelope.generation), (4, bench.generation));
        assert_eq!((envelope.superblock_version, envelope.incarnation), (VERSION, own));
        assert_eq!(u64::from(envelope.body_len), body_len(&[BATCH_PAYLOAD_MAX]));
        let (_, batch) = Batch::from_disk(bytes[at..].to_vec().into()).unwrap();
        assert_eq!(batch.records().count(), 1);
    }
}

/// Fills a segment with batches of these payloads, one each, then says in which segment the last record lies.
fn segment_of_last(batches: &[Vec<NewRecord>]) -> (Bench, u64) {
    let mut bench = Bench::new(0);
    for records in batches {
        for record in records {
            bench.append(record.clone());
        }
        bench.flush();
    }
    let last = bench.journal.place_of(bench.journal.written()).unwrap();
    let segment = (last.at - segment_offset(0, SEGMENT_LEN)) / SEGMENT_LEN;
    (bench, segment)
}

#[test]
fn a_segment_is_filled_up_to_the_last_page_that_its_footer_leaves() {
    let full = vec![write(1, extent(0, 0, FULL))];
    let left = ROOM - 3 * batch_pages(&[BATCH_PAYLOAD_MAX]);
    for (pages, expected) in [(left, 0), (left + 1, 1)] {
        // Envelope and header of one record take a sector and make the last page.
        let payload = (pages - 1) * PAGE;
        assert_eq!(batch_pages(&[payload]), pages, "sizes as intended");
        let last = vec![write(4, extent(0, 0, payload as u64 / 512))];
        let (mut bench, segment) = segment_of_last(&[full.clone(), full.clone(), full.clone(), last]);
        assert_eq!(segment, expected, "{pages} pages where {left} are left");
        // Nothing of the batches is lost to the footer.
        bench.write(0, 0, FULL);
        bench.flush();
        assert_eq!(bench.restart(0), [Case::Footer, Case::Scan, Case::CleanEnd]);
        assert_eq!(bench.newest(extent(0, 0, FULL)), expected_of(5, FULL));
    }
}

fn expected_of(id: u64, sectors: u64) -> Vec<u8> {
    expected(0, &vec![Some(id); sectors as usize])
}

/// Room is kept for a footer that lists the batch itself. Here its entry of 40 bytes makes the tables a page longer.
#[test]
fn the_entry_of_the_next_batch_counts_for_the_footer() {
    let full = write(1, extent(0, 0, FULL));
    let mark = bare(RecordKind::FlushMark, extent(0, 0, 0));
    // Four batches: 160 bytes of batch entries, of which the last makes 40.
    for (records, footer_pages) in [(164, 2), (165, 3)] {
        let mut first = vec![full.clone()];
        first.extend(vec![mark.clone(); records - 4]);
        assert_eq!((records * 24 + 160).div_ceil(PAGE) + 1, footer_pages, "sizes as intended");
        assert_eq!((records * 24 + 120).div_ceil(PAGE) + 1, 2, "without the entry the tables fit a page");
        let payloads: Vec<usize> = first.iter().map(|r| r.payload.len()).collect();
        let used = batch_pages(&payloads) + 2 * batch_pages(&[BATCH_PAYLOAD_MAX]);
        let payload = (ROOM - used - 1) * PAGE;
        let last = vec![write(9, extent(0, 0, payload as u64 / 512))];
        let (_, segment) = segment_of_last(&[first, vec![full.clone()], vec![full.clone()], last]);
        assert_eq!(segment, footer_pages as u64 - 2, "a footer of {footer_pages} pages");
    }
}

/// Batches of small records have long tables: they are as much of a segment as the batches themselves.
#[test]
fn the_footer_of_many_small_records_has_its_place() {
    let mut bench = Bench::new(0);
    let zeros = BATCH_RECORDS_MAX;
    let pages = batch_pages(&vec![0; zeros]);
    let footer = |batches: usize| (batches * (40 + zeros * 24)).div_ceil(PAGE) + 1;
    let fit = (1..).take_while(|n| 1 + n * pages + footer(*n) <= SEGMENT_LEN as usize / PAGE).last().unwrap();
    for n in 0..(fit + 1) * zeros {
        bench.zero(0, n as u64, 1);
    }
    let writes = bench.flush();
    let lasts: Vec<Seq> = writes.iter().map(|w| w.last_seq).collect();
    let full = seq((fit * zeros) as u64);
    assert_eq!(lasts, [full, full, seq(((fit + 1) * zeros) as u64)], "batches, footer, the next segment");
    let bytes = bytes_of(&writes[1]);
    assert_eq!(bytes.len(), footer(fit) * PAGE);
    assert_eq!(writes[1].at + bytes.len() as u64, segment_offset(1, SEGMENT_LEN), "a footer ends with its segment");
    let decoded = Footer::decode(&bytes).unwrap();
    assert_eq!((decoded.batches.len(), decoded.records.len()), (fit, fit * zeros));
    assert!(u64::from(decoded.data_end) <= SEGMENT_LEN - bytes.len() as u64, "it covers no batch");
    assert_eq!(bench.restart(0), [Case::Footer, Case::Scan, Case::CleanEnd]);
    assert_eq!(bench.journal.durable().seq, seq(((fit + 1) * zeros) as u64));
    assert_eq!(bench.journal.index_len(), (fit + 1) * zeros);
}

#[test]
fn the_next_segment_waits_for_the_footer_and_a_grant() {
    let mut bench = Bench::new(0);
    for _ in 0..3 {
        bench.write(0, 0, FULL);
    }
    bench.flush();
    bench.write(0, 0, FULL);
    // The bench has granted the next segment, but the footer comes first and alone.
    let footer = bench.submit().unwrap();
    assert_eq!(Footer::decode(&bytes_of(&footer)).unwrap().records.len(), 3);
    assert_eq!(footer.last_seq, seq(3), "a footer makes nothing more durable");
    assert!(bench.journal.poll_write(now(1), VERSION).is_none(), "it is in flight");
    assert_eq!(bench.journal.write_done(footer.token).seq, seq(3));
    let next = bench.step().unwrap();
    assert_eq!(next.at, segment_offset(1, SEGMENT_LEN));
    let header = SegmentHeader::decode(&bytes_of(&next)).unwrap();
    assert_eq!(Some(header.h_before), bench.journal.hash_at(seq(3)));
    assert_eq!(header.first_seq, seq(4));
}

#[test]
#[should_panic(expected = "another journal write is in flight")]
fn a_write_is_reported_done_by_its_own_token() {
    let mut bench = Bench::new(0);
    bench.write(0, 0, 1);
    let first = bench.step().unwrap();
    bench.write(0, 0, 1);
    bench.submit().unwrap();
    bench.journal.write_done(first.token);
}

#[test]
fn the_wall_clock_of_batches_grows_also_when_the_source_s_stands_or_goes_back() {
    let mut bench = Bench::new(0);
    let mut forced = Vec::new();
    for wall in [500, 500, 100, 501, 9_000] {
        let last = bench.write(0, 0, 1);
        bench.grant();
        let write = bench.journal.poll_write(now(wall), VERSION).unwrap();
        bench.put(write.at, &bytes_of(&write));
        bench.journal.write_done(write.token);
        forced.push(bench.journal.wall_of(last).unwrap().get());
    }
    assert_eq!(forced, [500, 501, 502, 503, 9_000]);
    bench.restart(0);
    let last = bench.write(0, 0, 1);
    bench.wall = 3;
    bench.flush();
    assert_eq!(bench.journal.wall_of(last).unwrap().get(), 9_001, "a restart does not take it back");
    assert_eq!(bench.journal.wall_of(seq(3)).unwrap().get(), 502);
    assert_eq!((bench.journal.wall_of(Seq::ZERO), bench.journal.wall_of(last.next())), (None, None));
}
