//! Which records take a Seq, and what that changes at once.

use reprise_format::batch::{RECORD_PAYLOAD_MAX, ZERO_SECTORS_MAX};
use reprise_journal::{AppendError, NewRecord};
use reprise_types::{Extent, RecordKind, SECTOR_END_MAX, Seq};

use crate::bench::*;

fn record(kind: RecordKind, extent: Extent, len: usize) -> NewRecord {
    NewRecord { kind, extent, payload: vec![7; len].into() }
}

#[test]
fn a_record_within_every_limit_takes_the_next_seq() {
    use RecordKind::*;
    let longest = RECORD_PAYLOAD_MAX;
    let cases = [
        ("a sector", record(Write, extent(0, 5, 1), 512)),
        ("the longest payload", record(Write, extent(0, 0, longest as u64 / 512), longest)),
        ("the last sector there may be", record(Write, extent(0, SECTOR_END_MAX - 1, 1), 512)),
        ("one zero", record(Zero, extent(0, 5, 1), 0)),
        ("the longest zero", record(Zero, extent(0, 0, ZERO_SECTORS_MAX), 0)),
        ("zeros up to the end", record(Zero, extent(0, SECTOR_END_MAX - 8, 8), 0)),
        ("a mark", record(FlushMark, extent(0, 0, 0), 0)),
        ("a resize", record(VolumeResized, extent(3, 0, 0), 512)),
        ("a reservation", record(Reservation, extent(3, 0, 0), longest)),
        ("a bookmark without a name", record(Bookmark, extent(0, 0, 0), 0)),
    ];
    let mut journal = empty(config(0));
    for (n, (name, record)) in (1..).zip(cases) {
        assert_eq!(journal.append(record), Ok(seq(n)), "{name}");
        assert_eq!(journal.written(), seq(n), "{name}");
    }
}

#[test]
fn a_record_past_a_limit_is_refused_and_leaves_nothing() {
    use RecordKind::*;
    let longest = RECORD_PAYLOAD_MAX;
    let payload = [
        ("half a sector", record(Write, extent(0, 0, 1), 511)),
        ("a byte more", record(Write, extent(0, 0, 1), 513)),
        ("too long", record(Write, extent(0, 0, longest as u64 / 512 + 1), longest + 512)),
        ("too long for any kind", record(Reservation, extent(0, 0, 0), longest + 512)),
        ("half a sector of any kind", record(Reservation, extent(0, 0, 0), 100)),
    ];
    let extents = [
        ("a write of nothing", record(Write, extent(0, 0, 0), 0)),
        ("a write without payload", record(Write, extent(0, 0, 1), 0)),
        ("more payload than sectors", record(Write, extent(0, 0, 1), 1024)),
        ("more sectors than payload", record(Write, extent(0, 0, 2), 512)),
        ("past the end", record(Write, extent(0, SECTOR_END_MAX, 1), 512)),
        ("across the end", record(Write, extent(0, SECTOR_END_MAX - 1, 2), 1024)),
        ("past all numbers", record(Write, extent(0, u64::MAX, 1), 512)),
        ("zeros of nothing", record(Zero, extent(0, 0, 0), 0)),
        ("zeros too long", record(Zero, extent(0, 0, ZERO_SECTORS_MAX + 1), 0)),
        ("zeros with payload", record(Zero, extent(0, 0, 1), 512)),
        ("zeros across the end", record(Zero, extent(0, SECTOR_END_MAX - 8, 9), 0)),
        ("a mark with payload", record(FlushMark, extent(0, 0, 0), 512)),
        ("a mark past the end", record(FlushMark, extent(0, SECTOR_END_MAX + 1, 0), 0)),
        ("a resize past the end", record(VolumeResized, extent(0, SECTOR_END_MAX, 1), 512)),
    ];
    let mut journal = empty(config(0));
    for (name, record) in payload {
        let len = record.payload.len();
        assert_eq!(journal.append(record), Err(AppendError::Payload { len }), "{name}");
    }
    for (name, record) in extents {
        let Extent { sector, sectors, .. } = record.extent;
        let error = AppendError::Extent { kind: record.kind, sector, sectors, len: record.payload.len() };
        assert_eq!(journal.append(record), Err(error), "{name}");
    }
    assert_eq!((journal.written(), journal.undurable_bytes(), journal.index_len()), (Seq::ZERO, 0, 0));
    assert!(!journal.stalled(), "nothing waits");
}

#[test]
fn only_what_changes_content_is_read_from_the_journal() {
    let mut bench = Bench::new(1 << 20);
    bench.append(record(RecordKind::VolumeResized, extent(0, 0, 0), 512));
    bench.append(record(RecordKind::Reservation, extent(0, 0, 8), 512));
    bench.mark();
    assert_eq!(bench.journal.index_len(), 0);
    bench.flush();
    let plan = bench.journal.plan_read(extent(0, 0, 8));
    assert_eq!((places(&plan), plan.newest), (vec!["home"], Seq::ZERO));
    let moment = bench.journal.index_at(Seq::ZERO, seq(3));
    assert!(moment.is_empty(), "replaying the tables gives the same");
    bench.restart(0);
    assert_eq!(bench.journal.index_len(), 0, "also after a restart");
}

/// What is not durable is counted once on its whole way: as payload while it waits, as a body once it is packed.
#[test]
fn undurable_bytes_follow_a_record_from_append_to_disk() {
    let mut bench = Bench::new(1 << 30);
    let (full, sectors) = (RECORD_PAYLOAD_MAX, RECORD_PAYLOAD_MAX as u64 / 512);
    let undurable = |bench: &Bench| bench.journal.undurable_bytes();
    for n in 0..5 {
        bench.write(0, n * sectors, sectors);
        assert_eq!(undurable(&bench), (n + 1) * full as u64);
    }
    let body = body_len(&[full]);
    // Three batches of this size fit a segment with its header and footer; two stay in the queue.
    let first = bench.submit().unwrap();
    assert_eq!((first.last_seq, undurable(&bench)), (seq(3), 5 * body));
    bench.write(0, 0, 1);
    assert_eq!(undurable(&bench), 5 * body + 512, "in flight, queued and waiting");
    bench.journal.write_done(first.token);
    assert_eq!(undurable(&bench), 2 * body + 512);
    let footer = bench.submit().unwrap();
    assert_eq!(undurable(&bench), 2 * body + body_len(&[512]), "packed behind the others, and a footer adds nothing");
    bench.journal.write_done(footer.token);
    bench.flush();
    assert_eq!((undurable(&bench), bench.journal.durable().seq), (0, seq(6)));
}
