//! Edges of the recovery table's rows: what just still counts, what just no longer does, and what is not believed.

use reprise_format::FormatError;
use reprise_format::batch::{BATCH_LEN_MAX, BATCH_PAYLOAD_MAX, ENVELOPE_LEN, Envelope, total_len};
use reprise_format::segment::{Footer, SegmentHeader, TRAILER_LEN};
use reprise_journal::{
    BatchSource, CacheRead, Case, Found, Grant, Journal, JournalConfig, JournalStart, RecoverError, Recovered, recover,
    scan_segments, segment_offset,
};
use reprise_types::{BranchId, GroupId, HistoryHash, Point, PoolId, Seq};

use crate::bench::*;

/// Every record here is eight sectors and makes a batch of two pages.
const SECTORS: u64 = 8;
const BATCH: u64 = 2 * PAGE as u64;
const OTHER_GROUP: GroupId = GroupId::from_raw([8; 16]);
const OTHER_BRANCH: BranchId = BranchId::from_raw([9; 16]);
const OTHER_HASH: HistoryHash = HistoryHash::from_raw([7; 16]);

/// Offset of batch `n` in its segment.
fn offset(n: u64) -> u64 {
    PAGE as u64 + n * BATCH
}

/// Offset of batch `n` of segment 0 in the cache.
fn at(n: u64) -> u64 {
    segment_offset(0, SEGMENT_LEN) + offset(n)
}

/// A segment with so many batches of a record each, written one by one.
fn written(batches: u64) -> Bench {
    let mut bench = Bench::new(0);
    bench.flush_each((1..=batches).map(|n| write(n, extent(0, 0, SECTORS))));
    assert_eq!(bench.journal.durable_bytes_after(Seq::ZERO), batches * BATCH, "sizes as intended");
    bench
}

/// The body of a batch that is good in itself, wherever it says it belongs.
fn body(group: GroupId, base: Point) -> Vec<u8> {
    let mut journal = Journal::new(JournalConfig { group, ..config(u64::MAX) }, JournalStart::empty(base, 1), base.seq);
    journal.grant(Grant { segment: 0, generation: 1 });
    journal.append(write(77, extent(0, 0, SECTORS))).unwrap();
    let write = journal.poll_write(now(1), VERSION).unwrap();
    journal.write_done(write.token);
    match journal.batch_after(base.seq) {
        Some(BatchSource::Ram(batch)) => batch.body().collect::<Vec<_>>().concat(),
        other => panic!("no batch: {other:?}"),
    }
}

/// The envelope that batch `n` of segment 0 has, as the bench would write it.
fn envelope(bench: &Bench, n: u64, body: &[u8]) -> Envelope {
    Envelope {
        total_len: total_len(body.len()) as u32,
        body_len: body.len() as u32,
        segment: 0,
        offset: offset(n) as u32,
        generation: bench.generation,
        superblock_version: VERSION,
        durable_before: offset(n) as u32,
        incarnation: bench.found.incarnation,
    }
}

fn put_batch(bench: &mut Bench, n: u64, envelope: &Envelope, body: &[u8]) {
    let mut bytes = envelope.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(envelope.total_len as usize, 0);
    bench.put(at(n), &bytes);
}

/// Damages the payload of batch `n`; its header stays good.
fn rot_payload(bench: &mut Bench, n: u64) {
    bench.cache.slice(at(n) + BATCH - PAGE as u64, 1)[0] ^= 1;
}

/// Damages the header of batch `n`; its envelope stays good.
fn rot_header(bench: &mut Bench, n: u64) {
    bench.cache.slice(at(n) + ENVELOPE_LEN as u64 + 140, 1)[0] ^= 1;
}

/// Where the log ends and why.
fn ends(bench: &mut Bench) -> (u64, Case) {
    let recovered = bench.recover().unwrap();
    (recovered.start.end().seq.get(), *recovered.cases.last().unwrap())
}

fn stops(bench: &mut Bench) -> Case {
    bench.recover().expect_err("recovery must stop").case
}

#[test]
fn only_headers_of_this_pool_in_their_own_place_are_found() {
    let found = |bench: &mut Bench| -> Vec<u32> {
        let found = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
        found.iter().map(|s| s.segment).collect()
    };
    let mut bench = written(1);
    assert_eq!(found(&mut bench), [0]);
    let bytes = bench.cache.slice(segment_offset(0, SEGMENT_LEN), 512).to_vec();
    let header = SegmentHeader::decode(&bytes).unwrap();
    // A header that was written to the wrong place, one of another pool, one that is torn.
    bench.put(segment_offset(2, SEGMENT_LEN), &bytes);
    let foreign = SegmentHeader { pool: PoolId::from_raw([6; 16]), segment: 3, ..header };
    bench.put(segment_offset(3, SEGMENT_LEN), &foreign.encode());
    let torn = SegmentHeader { segment: 4, ..header }.encode();
    bench.put(segment_offset(4, SEGMENT_LEN), &torn[..100]);
    assert_eq!(found(&mut bench), [0]);
    bench.put(segment_offset(5, SEGMENT_LEN), &SegmentHeader { segment: 5, group: OTHER_GROUP, ..header }.encode());
    assert_eq!(found(&mut bench), [0, 5], "another group's counts: its generation is taken");
}

#[test]
fn only_segments_of_this_life_of_this_group_are_recovered() {
    let mut bench = written(3);
    let generation = bench.generation;
    let whole = bench.found;
    let cases: [(&str, Found, u64); 5] = [
        ("its own", whole, 3),
        ("a floor below", Found { generation_floor: generation - 1, ..whole }, 3),
        ("a floor at its generation", Found { generation_floor: generation, ..whole }, 0),
        ("another group", Found { group: OTHER_GROUP, ..whole }, 0),
        ("another pool", Found { pool: PoolId::from_raw([6; 16]), ..whole }, 0),
    ];
    let segments = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
    for (name, found, end) in cases {
        let recovered = recover(&mut bench.cache, found, &segments).unwrap();
        assert_eq!(recovered.start.end().seq.get(), end, "{name}");
        assert_eq!(recovered.cases[0], if end == 0 { Case::Empty } else { Case::Scan }, "{name}");
        assert_eq!(recovered.held.len(), usize::from(end > 0), "{name}");
    }
}

/// The story: the power failed between opening a segment and its first batch, and after the restart another segment was
/// opened at the same position. Both carry the same first Seq; the later use holds the records.
#[test]
fn of_two_segments_that_begin_at_one_position_the_newer_holds() {
    for newer in [0, 1] {
        let mut bench = Bench::new(0);
        for (segment, generation) in [(newer, 12), (1 - newer, 11)] {
            bench.journal = empty(config(0));
            bench.journal.grant(Grant { segment, generation });
            bench.write(0, 0, SECTORS);
            let records = if segment == newer { 2 } else { 1 };
            for _ in 1..records {
                bench.step().unwrap();
                bench.write(0, 0, SECTORS);
            }
            bench.step().unwrap();
        }
        let recovered = bench.recover().unwrap();
        assert_eq!((recovered.start.end().seq, recovered.held), (seq(2), vec![newer]), "segment {newer}");
    }
}

#[test]
fn a_segment_goes_on_only_in_one_that_was_opened_later() {
    for (generation, end) in [(12, 5), (11, 4), (10, 4)] {
        let mut bench = Bench::new(0);
        let full = BATCH_PAYLOAD_MAX as u64 / 512;
        bench.journal.grant(Grant { segment: 0, generation: 11 });
        (bench.free, bench.generation) = ([1].into(), generation - 1);
        bench.flush_each((1..=5).map(|n| write(n, extent(0, 0, if n == 4 { SECTORS } else { full }))));
        let second = segment_offset(1, SEGMENT_LEN);
        let header = SegmentHeader::decode(bench.cache.slice(second, 512)).unwrap();
        assert_eq!((header.generation, header.first_seq), (generation, seq(5)), "sizes as intended");
        assert_eq!(ends(&mut bench).0, end, "generation {generation}");
    }
}

#[test]
fn an_opened_segment_without_a_batch_is_written_on() {
    let mut bench = written(1);
    bench.cache.slice(at(0), BATCH as usize).fill(0);
    assert_eq!(bench.restart(0), [Case::Scan, Case::CleanEnd]);
    assert_eq!((bench.journal.durable(), bench.journal.segments_held()), (start(), 1));
    bench.write(0, 0, SECTORS);
    let write = bench.step().unwrap();
    assert_eq!(write.at, at(0), "behind the header that is there");
    assert_eq!(ends(&mut bench), (1, Case::CleanEnd));
}

#[test]
fn a_good_batch_that_does_not_continue_the_history_stops() {
    let mut healthy = written(3);
    let end = healthy.recover().unwrap().start.end();
    let cases = [
        ("its own", GROUP, end, None),
        ("another Seq", GROUP, Point { seq: seq(4), ..end }, Some(Case::ChainBroken)),
        ("another h", GROUP, Point { hash: OTHER_HASH, ..end }, Some(Case::ChainBroken)),
        ("another group", OTHER_GROUP, end, Some(Case::ChainBroken)),
        ("another branch", GROUP, Point { branch: OTHER_BRANCH, ..end }, Some(Case::ChainBroken)),
    ];
    for (name, group, base, case) in cases {
        let mut bench = written(3);
        let body = body(group, base);
        let envelope = envelope(&bench, 3, &body);
        put_batch(&mut bench, 3, &envelope, &body);
        match case {
            None => assert_eq!(ends(&mut bench), (4, Case::CleanEnd), "{name}"),
            Some(case) => assert_eq!(stops(&mut bench), case, "{name}"),
        }
        // Of an older incarnation it is what a recovery had dropped, whatever history it is of.
        bench.found.incarnation += 1;
        (bench.found.seal.seq, bench.found.seal.hash) = (end.seq, end.hash);
        assert_eq!(ends(&mut bench), (3, Case::StaleIncarnation), "{name}, older");
    }
}

#[test]
fn a_batch_counts_only_under_an_envelope_of_its_own_place() {
    type Change = fn(&mut Envelope);
    let cases: [(&str, Change, (u64, Case)); 5] = [
        ("its own", |_| {}, (4, Case::CleanEnd)),
        ("another segment", |e| e.segment += 1, (3, Case::ForeignBytes)),
        ("another offset", |e| e.offset += 4096, (3, Case::ForeignBytes)),
        ("an older generation", |e| e.generation -= 1, (3, Case::ForeignBytes)),
        ("a newer generation", |e| e.generation += 1, (3, Case::ForeignBytes)),
    ];
    for (name, change, expected) in cases {
        let mut bench = written(3);
        let body = body(GROUP, bench.journal.durable());
        let mut envelope = envelope(&bench, 3, &body);
        change(&mut envelope);
        put_batch(&mut bench, 3, &envelope, &body);
        assert_eq!(ends(&mut bench), expected, "{name}");
    }
}

#[test]
fn a_batch_of_a_newer_release_stops() {
    let mut bench = written(3);
    bench.cache.slice(at(1) + ENVELOPE_LEN as u64 + 4, 1)[0] = 2;
    assert_eq!(stops(&mut bench), Case::NewerVersion);
    // So does a footer: what it would say is not known.
    let mut bench = full_segment();
    bench.cache.slice(segment_offset(1, SEGMENT_LEN) - TRAILER_LEN as u64 + 4, 1)[0] = 2;
    assert_eq!(stops(&mut bench), Case::NewerVersion);
}

#[test]
fn what_was_written_under_a_newer_superblock_stops_also_where_it_is_rotten() {
    for rot in [false, true] {
        let mut bench = written(3);
        if rot {
            rot_payload(&mut bench, 1);
        }
        assert!(bench.recover().is_ok());
        bench.found.superblock_version = VERSION + 1;
        assert!(bench.recover().is_ok(), "a newer superblock is no harm");
        bench.found.superblock_version = VERSION - 1;
        assert_eq!(stops(&mut bench), Case::SuperblockStale);
    }
}

/// A batch whose payload is damaged keeps its place where something shows that it had been durable. Here it is the last
/// one, so that no later batch can.
#[test]
fn a_rotten_batch_is_held_exactly_up_to_what_is_known() {
    let last = written(3).journal.durable();
    let other = Point { branch: OTHER_BRANCH, ..last };
    let before = Point { seq: seq(2), hash: written(2).journal.durable().hash, ..last };
    let held = (3, vec![Case::Scan, Case::RotHeld, Case::CleanEnd]);
    let dropped = (2, vec![Case::Scan, Case::TornTail]);
    type Change = Box<dyn Fn(&mut Found)>;
    let cases: [(&str, Change, _); 8] = [
        ("nothing is known", Box::new(|_| {}), &dropped),
        ("sealed", Box::new(move |f| f.seal = last), &held),
        ("sealed by an earlier recovery", Box::new(move |f| (f.seal, f.incarnation) = (last, 2)), &held),
        ("sealed up to the one before", Box::new(move |f| f.seal = before), &dropped),
        ("sealed on another branch", Box::new(move |f| f.seal = other), &dropped),
        ("home may hold it", Box::new(|f| f.applying = seq(3)), &held),
        ("home may hold the one before", Box::new(|f| f.applying = seq(2)), &dropped),
        ("a peer has it", Box::new(|f| f.peer_durable = seq(3)), &held),
    ];
    for (name, change, expected) in cases {
        let mut bench = written(3);
        rot_payload(&mut bench, 2);
        change(&mut bench.found);
        let recovered = bench.recover().unwrap();
        assert_eq!((recovered.start.end().seq.get(), recovered.cases), *expected, "{name}");
    }
    // Past the seal an older incarnation's batch was dropped by a recovery, whoever says he has it.
    let mut bench = written(3);
    rot_payload(&mut bench, 2);
    (bench.found.seal, bench.found.incarnation, bench.found.peer_durable) = (before, 2, seq(3));
    assert_eq!(stops(&mut bench), Case::EndBelowPeer);
}

#[test]
fn a_rotten_batch_of_another_history_is_not_held() {
    let end = written(3).journal.durable();
    let own = body(GROUP, end);
    type Change = fn(&mut Envelope);
    let same: Change = |_| {};
    let cases: [(&str, Vec<u8>, Change, Option<u64>); 6] = [
        ("its own", own.clone(), same, Some(4)),
        ("another Seq", body(GROUP, Point { seq: seq(2), ..end }), same, None),
        ("another h", body(GROUP, Point { hash: OTHER_HASH, ..end }), same, None),
        ("another group", body(OTHER_GROUP, end), same, None),
        ("another branch", body(GROUP, Point { branch: OTHER_BRANCH, ..end }), same, None),
        ("cut short by its envelope", own, |e| e.body_len -= 512, None),
    ];
    for (name, body, change, held) in cases {
        let mut bench = written(3);
        let mut envelope = envelope(&bench, 3, &body);
        change(&mut envelope);
        put_batch(&mut bench, 3, &envelope, &body);
        rot_payload(&mut bench, 3);
        // Everything up to Seq 4 is known to have been durable.
        (bench.found.peer_durable, bench.found.seal.seq) = (seq(4), seq(0));
        match held {
            Some(seq) => assert_eq!(ends(&mut bench), (seq, Case::CleanEnd), "{name}"),
            None => assert_eq!(stops(&mut bench), Case::EndBelowPeer, "{name}"),
        }
    }
}

/// Two batches that went out in one write: that the second is whole says nothing about the first.
#[test]
fn a_batch_of_the_same_write_is_no_witness() {
    let mut bench = written(1);
    let first = body(GROUP, bench.journal.durable());
    for (durable_before, torn) in [(offset(1), true), (offset(1) + 1, false), (offset(2), false)] {
        let own = envelope(&bench, 1, &first);
        put_batch(&mut bench, 1, &own, &first);
        let second = body(GROUP, Point { seq: seq(2), hash: OTHER_HASH, ..start() });
        let envelope = Envelope { durable_before: durable_before as u32, ..envelope(&bench, 2, &second) };
        put_batch(&mut bench, 2, &envelope, &second);
        rot_header(&mut bench, 1);
        if torn {
            assert_eq!(ends(&mut bench), (1, Case::TornTail), "before {durable_before}");
        } else {
            assert_eq!(stops(&mut bench), Case::RotMiddle, "before {durable_before}");
        }
    }
}

#[test]
fn what_an_earlier_recovery_dropped_is_no_witness() {
    let mut bench = written(4);
    rot_header(&mut bench, 1);
    assert_eq!(stops(&mut bench), Case::RotMiddle, "the batches behind were built on it");
    // The same bytes once a recovery has dropped them: its seal is before them, its number behind theirs.
    (bench.found.seal, bench.found.incarnation) = (written(1).journal.durable(), 2);
    assert_eq!(ends(&mut bench), (1, Case::TornTail));
}

/// Segments of 4 MiB, so that reading one takes several reads.
struct Long {
    bytes: Vec<u8>,
}

const LONG: u64 = 4 << 20;

impl CacheRead for Long {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let at = (offset - segment_offset(0, LONG)) as usize;
        Ok(self.bytes[at..at + len].to_vec())
    }
}

impl Long {
    /// A segment with so many full batches.
    fn with(batches: u64) -> Self {
        let mut own = Self { bytes: vec![0; LONG as usize] };
        let mut journal = empty(JournalConfig { segment_len: LONG, ..config(0) });
        journal.grant(Grant { segment: 0, generation: 1 });
        for n in 1..=batches {
            journal.append(write(n, extent(0, 0, BATCH_PAYLOAD_MAX as u64 / 512))).unwrap();
            let write = journal.poll_write(now(1), VERSION).unwrap();
            let at = (write.at - segment_offset(0, LONG)) as usize;
            let bytes = bytes_of(&write);
            own.bytes[at..at + bytes.len()].copy_from_slice(&bytes);
            journal.write_done(write.token);
        }
        own
    }

    fn recover(&mut self) -> Result<Recovered, RecoverError> {
        let segments = scan_segments(self, POOL, 1, LONG).unwrap();
        recover(self, Found { segment_len: LONG, ..Bench::new(0).found }, &segments)
    }
}

#[test]
fn a_long_segment_is_read_piece_by_piece_and_not_over_and_over() {
    let batches = 15;
    let recovered = Long::with(batches).recover().unwrap();
    assert_eq!(recovered.cases, [Case::Scan, Case::CleanEnd]);
    assert_eq!(recovered.start.end().seq, seq(batches));
    // Each read is 1 MiB, of which at most the length of a batch is read again, and the rest is searched once more.
    let step = (1 << 20) - BATCH_LEN_MAX as u64;
    assert!(recovered.bytes_read <= LONG.div_ceil(step) * (1 << 20) + LONG, "{} bytes read", recovered.bytes_read);
}

#[test]
fn a_witness_is_found_however_far_behind_it_lies() {
    let len = batch_pages(&[BATCH_PAYLOAD_MAX]) * PAGE;
    for kept in [3, 8, 14] {
        let mut long = Long::with(15);
        // The second batch and all behind it are gone, but for one.
        let (from, keep) = (PAGE + len, PAGE + kept * len);
        let whole = long.bytes[keep..keep + len].to_vec();
        long.bytes[from..].fill(0);
        assert_eq!(long.recover().unwrap().start.end().seq, seq(1), "nothing tells");
        long.bytes[keep..keep + len].copy_from_slice(&whole);
        assert_eq!(long.recover().unwrap_err().case, Case::RotMiddle, "batch {kept}");
    }
}

/// Segment 0 is full and has a footer, segment 1 holds one batch.
fn full_segment() -> Bench {
    let mut bench = Bench::new(0);
    let full = BATCH_PAYLOAD_MAX as u64 / 512;
    bench.flush_each((1..=4).map(|n| write(n, extent(0, n * full, full))));
    bench
}

/// Puts another footer into segment 0.
fn put_footer(bench: &mut Bench, change: impl Fn(&mut Footer)) {
    let end = segment_offset(1, SEGMENT_LEN);
    let len = 2 * PAGE;
    let mut footer = Footer::decode(bench.cache.slice(end - len as u64, len)).unwrap();
    change(&mut footer);
    let bytes = footer.encode();
    assert_eq!(bytes.len(), len);
    bench.put(end - len as u64, &bytes);
}

#[test]
fn a_footer_that_does_not_agree_with_its_segment_is_not_believed() {
    type Change = fn(&mut Footer);
    let cases: [(&str, Change, bool); 13] = [
        ("as it was written", |_| {}, true),
        ("another group", |f| f.group = OTHER_GROUP, false),
        ("another segment", |f| f.segment += 1, false),
        ("another generation", |f| f.generation -= 1, false),
        ("another first Seq", |f| f.first_seq = seq(2), false),
        ("another h before", |f| f.h_before = OTHER_HASH, false),
        ("a record less than its batches count", |f| f.batches[0].records = 2, false),
        ("a record more than its batches count", |f| f.batches.truncate(2), false),
        ("records of another batch", |f| f.records[0].batch = 1, false),
        ("two batches exchanged", |f| (f.records[0].batch, f.records[1].batch) = (1, 0), false),
        ("a record twice", |f| f.records[0].seq_delta = 1, false),
        ("batches of other lengths", |f| (f.batches[0].records, f.batches[1].records) = (2, 0), false),
        ("records in another order", |f| f.records.reverse(), true),
    ];
    for (name, change, believed) in cases {
        let mut bench = full_segment();
        put_footer(&mut bench, change);
        let recovered = bench.recover().unwrap();
        let first = if believed { Case::Footer } else { Case::Scan };
        assert_eq!(recovered.cases, [first, Case::Scan, Case::CleanEnd], "{name}");
        assert_eq!(recovered.start.end(), bench.journal.durable(), "{name}: nothing is lost either way");
        let mut journal = Journal::new(config(0), recovered.start, Seq::ZERO);
        std::mem::swap(&mut bench.journal, &mut journal);
        let full = BATCH_PAYLOAD_MAX as u64 / 512;
        for n in 1..=4 {
            let read = bench.newest(extent(0, n * full, full));
            assert!(read == expected(n * full, &vec![Some(n); full as usize]), "{name}: record {n}");
        }
    }
}

#[test]
fn a_footer_longer_than_its_segment_is_not_believed() {
    let mut bench = full_segment();
    let trailer = segment_offset(1, SEGMENT_LEN) - TRAILER_LEN as u64;
    let mut bytes = bench.cache.slice(trailer, TRAILER_LEN).to_vec();
    bytes[8..12].copy_from_slice(&(2u32 << 20).to_le_bytes());
    bytes[TRAILER_LEN - 4..].fill(0);
    let crc = reprise_format::crc32c(&bytes);
    bytes[TRAILER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    assert!(Footer::decode_trailer(&bytes).is_ok(), "it is good in itself");
    bench.put(trailer, &bytes);
    assert_eq!(bench.recover().unwrap().cases[0], Case::Scan);
}

#[test]
fn a_damaged_end_of_a_segment_that_has_a_successor_is_rot() {
    let mut bench = full_segment();
    let batch = (batch_pages(&[BATCH_PAYLOAD_MAX]) * PAGE) as u64;
    let third = PAGE as u64 + 2 * batch;
    // Without a footer and with its last batch damaged: nothing in the segment tells, the next segment does.
    bench.cache.slice(segment_offset(1, SEGMENT_LEN) - PAGE as u64, PAGE).fill(0);
    bench.cache.slice(segment_offset(0, SEGMENT_LEN) + third + 204, 1)[0] ^= 1;
    let error = bench.recover().unwrap_err();
    assert_eq!((error.case, error.segment, error.offset), (Case::RotMiddle, Some(0), third));
    // With its last batch gone it is missing; the successor is named.
    bench.cache.slice(segment_offset(0, SEGMENT_LEN) + third, batch as usize).fill(0);
    let error = bench.recover().unwrap_err();
    assert_eq!((error.case, error.segment, error.offset), (Case::SegmentMissing, Some(1), 0));
}

#[test]
fn the_history_goes_through_the_seal_of_its_own_branch() {
    let mut bench = written(3);
    let sealed = Point { seq: seq(2), hash: written(2).journal.durable().hash, ..start() };
    bench.found.seal = sealed;
    assert_eq!(ends(&mut bench), (3, Case::CleanEnd));
    bench.found.seal.hash = OTHER_HASH;
    assert_eq!(stops(&mut bench), Case::ChainBroken);
    bench.found.seal.branch = OTHER_BRANCH;
    assert_eq!(ends(&mut bench), (3, Case::CleanEnd), "a seal of a branch that was left says nothing about this one");
    bench.found.seal.seq = seq(9);
    assert_eq!(ends(&mut bench), (3, Case::CleanEnd));
    bench.found.seal = Point { seq: seq(4), ..sealed };
    assert_eq!(stops(&mut bench), Case::EndBelowSeal);
}

#[test]
fn an_end_below_what_is_known_names_the_place_and_the_position() {
    let mut bench = written(3);
    (bench.found.applying, bench.found.peer_durable) = (seq(3), seq(3));
    assert_eq!(ends(&mut bench), (3, Case::CleanEnd));
    bench.found.peer_durable = seq(4);
    let error = bench.recover().unwrap_err();
    assert_eq!((error.case, error.segment, error.offset), (Case::EndBelowPeer, Some(0), offset(3)));
    let text = error.to_string();
    for part in ["EndBelowPeer", "segment Some(0)", &format!("offset {}", offset(3)), "ends at 3", "hold is 4"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let mut bench = Bench::new(0);
    bench.found.applying = seq(1);
    let error = bench.recover().unwrap_err();
    assert_eq!((error.case, error.segment, error.offset), (Case::EndBelowApplying, None, 0), "no segment at all");
}

#[test]
fn a_recovery_s_number_is_behind_every_one_it_has_seen() {
    let incarnation = |bench: &mut Bench| {
        let recovered = bench.recover().unwrap();
        Journal::new(config(0), recovered.start, Seq::ZERO).incarnation()
    };
    let mut bench = written(2);
    assert_eq!(incarnation(&mut bench), 2);
    bench.found.incarnation = 7;
    bench.found.seal = bench.journal.durable();
    assert_eq!(incarnation(&mut bench), 8, "behind the superblock's");
    // The superblock's number was not written, the batches' was: also in a footer, also where the payload is rotten.
    let mut bench = full_segment();
    bench.found.incarnation = 0;
    assert_eq!(incarnation(&mut bench), 2);
    put_footer(&mut bench, |f| f.incarnation = 40);
    assert_eq!(incarnation(&mut bench), 41);
    for rot in [false, true] {
        let mut bench = written(2);
        let body = body(GROUP, bench.journal.durable());
        let envelope = Envelope { incarnation: 30, ..envelope(&bench, 2, &body) };
        put_batch(&mut bench, 2, &envelope, &body);
        if rot {
            rot_payload(&mut bench, 2);
        }
        bench.found.peer_durable = seq(3);
        assert_eq!(incarnation(&mut bench), 31, "payload rotten: {rot}");
    }
}

#[test]
fn recovery_says_how_much_it_has_read() {
    let mut bench = full_segment();
    let segments = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
    bench.cache.read = 0;
    let recovered = recover(&mut bench.cache, bench.found, &segments).unwrap();
    assert_eq!(recovered.bytes_read, bench.cache.read);
    assert!(recovered.bytes_read > 0);
}

#[test]
fn a_footer_is_read_instead_of_its_segment() {
    let mut bench = full_segment();
    // Without the second segment only the full one is left: its trailer, then its tables and the trailer.
    bench.cache.slice(segment_offset(1, SEGMENT_LEN), 512).fill(0);
    let recovered = bench.recover().unwrap();
    assert_eq!((recovered.cases, recovered.bytes_read), (vec![Case::Footer], 3 * PAGE as u64));
    // A read that fails is no missing footer.
    struct Failing;
    impl CacheRead for Failing {
        fn read(&mut self, _: u64, _: usize) -> std::io::Result<Vec<u8>> {
            Err(std::io::Error::other("bad sector"))
        }
    }
    let segments = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
    let error = recover(&mut Failing, bench.found, &segments).unwrap_err();
    assert_eq!((error.case, error.segment), (Case::ReadFailed, Some(0)));
    assert_eq!(scan_segments(&mut Failing, POOL, 1, SEGMENT_LEN).unwrap_err().to_string(), "bad sector");
    let newer = FormatError::Version { what: "segment header", found: 2, known: 1 };
    bench.cache.slice(segment_offset(0, SEGMENT_LEN), 512)[4] = 2;
    let error = scan_segments(&mut bench.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    assert_eq!(error.get_ref().unwrap().to_string(), newer.to_string());
}
