//! Batches from the peer: which are taken, and that what is taken is what was sent.

use bytes::Bytes;
use reprise_format::batch::{BATCH_PAYLOAD_MAX, ENVELOPE_LEN, ReceivedBody};
use reprise_format::{FormatError, batch::hash_start};
use reprise_journal::{
    Batch, BatchSource, BodyError, Grant, Journal, JournalConfig, JournalStart, JournalWrite, NewRecord,
};
use reprise_types::{BranchId, GroupId, HistoryHash, Point, RecordKind, Seq};

use crate::bench::*;

/// Batches as a source would send them: a list of records makes a body each.
fn bodies_of(group: GroupId, base: Point, batches: &[Vec<NewRecord>]) -> Vec<Bytes> {
    let config = JournalConfig { group, segment_len: 64 << 20, ..config(u64::MAX) };
    let mut source = Journal::new(config, JournalStart::empty(base, 1), base.seq);
    source.grant(Grant { segment: 0, generation: 1 });
    let pack = |(n, records): (u64, &Vec<NewRecord>)| {
        let before = source.written();
        for record in records {
            source.append(record.clone()).unwrap();
        }
        let write: JournalWrite = source.poll_write(now(100 * n), VERSION).unwrap();
        source.write_done(write.token);
        match source.batch_after(before) {
            Some(BatchSource::Ram(batch)) => wire(&batch),
            other => panic!("no batch: {other:?}"),
        }
    };
    (1..).zip(batches).map(pack).collect()
}

fn bodies(batches: &[Vec<NewRecord>]) -> Vec<Bytes> {
    bodies_of(GROUP, start(), batches)
}

/// The journal takes a body, if it is the next one.
fn take(journal: &mut Journal, body: Bytes) -> Result<(Seq, Seq), BodyError> {
    let next = journal.check_body(ReceivedBody::in_buffer(body))?;
    let range = next.range;
    journal.append_body(next);
    Ok(range)
}

/// A body behind the room that the link leaves for an envelope.
fn wire(batch: &Batch) -> Bytes {
    let mut out = vec![0; ENVELOPE_LEN];
    batch.body().for_each(|piece| out.extend_from_slice(&piece));
    out.into()
}

fn three() -> Vec<Bytes> {
    let zero = bare(RecordKind::Zero, extent(0, 4, 2));
    bodies(&[vec![write(1, extent(0, 0, 8)), zero], vec![write(3, extent(0, 6, 4))], vec![write(4, extent(1, 0, 1))]])
}

#[test]
fn what_is_taken_is_written_and_read_as_it_was_sent() {
    let mut bench = Bench::new(0);
    let sent = three();
    assert_eq!(take(&mut bench.journal, sent[0].clone()), Ok((seq(1), seq(2))));
    assert_eq!(take(&mut bench.journal, sent[1].clone()), Ok((seq(3), seq(3))));
    let image: Vec<_> =
        [Some(1), Some(1), Some(1), Some(1), Some(0), Some(0), Some(3), Some(3), Some(3), Some(3), None].to_vec();
    let whole = extent(0, 0, 11);
    assert!(bench.newest(whole) == expected(0, &image), "before it is durable");
    let bodies = |n: &[usize]| n.iter().map(|n| sent[*n].len() as u64 - 64).sum::<u64>();
    assert_eq!((bench.journal.written(), bench.journal.durable()), (seq(3), start()));
    assert_eq!(bench.journal.undurable_bytes(), bodies(&[0, 1]));
    assert!(bench.journal.stalled(), "it waits for a segment");
    let write = bench.submit().unwrap();
    assert_eq!(take(&mut bench.journal, sent[2].clone()), Ok((seq(4), seq(4))));
    assert_eq!(bench.journal.undurable_bytes(), bodies(&[0, 1, 2]));
    bench.journal.write_done(write.token);
    assert_eq!(bench.journal.undurable_bytes(), bodies(&[2]));
    bench.flush();
    assert_eq!((bench.journal.undurable_bytes(), bench.journal.durable().seq), (0, seq(4)));
    for reopened in [false, true] {
        assert!(bench.newest(whole) == expected(0, &image), "from disk");
        assert!(bench.newest(extent(1, 0, 1)) == expected(0, &[Some(4)]));
        // The wall clock is the source's: a hundred microseconds a batch.
        for (n, wall) in [(1, 100), (2, 100), (3, 200), (4, 300)] {
            assert_eq!(bench.journal.wall_of(seq(n)).unwrap().get(), wall, "record {n}, reopened {reopened}");
        }
        // And the body on disk is the body on the wire.
        for (n, first) in [(0, 1), (1, 3), (2, 4)] {
            let place = bench.journal.place_of(seq(first)).unwrap();
            let on_disk = bench.cache.slice(place.at, place.len)[ENVELOPE_LEN..].to_vec();
            let len = sent[n].len() - ENVELOPE_LEN;
            assert!(on_disk[..len] == sent[n][ENVELOPE_LEN..] && on_disk[len..].iter().all(|b| *b == 0), "body {n}");
        }
        bench.restart(0);
    }
}

#[test]
fn the_journal_takes_over_where_a_peer_s_batches_end() {
    let mut bench = Bench::new(0);
    let sent = three();
    take(&mut bench.journal, sent[0].clone()).unwrap();
    // A takeover: the next records are this box's own. They continue Seq, h and the clock.
    bench.wall = 7;
    assert_eq!(bench.write(0, 0, 1), seq(3));
    bench.flush();
    assert_eq!(bench.journal.wall_of(seq(3)).unwrap().get(), 101);
    assert_eq!(bench.restart(0).len(), 2);
    assert_eq!(bench.journal.durable().seq, seq(3));
    assert!(bench.newest(extent(0, 0, 2)) == expected(0, &[Some(3), Some(1)]));
}

#[test]
fn only_the_next_batch_of_this_history_is_taken() {
    let sent = three();
    let mut bench = Bench::new(0);
    take(&mut bench.journal, sent[0].clone()).unwrap();
    let before = (bench.journal.written(), bench.journal.undurable_bytes(), bench.journal.index_len());
    let h2 = Batch::from_body(sent[0].slice(ENVELOPE_LEN..)).unwrap().header().head.h_after;
    let other_hash = HistoryHash::from_raw([9; 16]);
    let next = [vec![write(3, extent(0, 20, 4))]];
    let (group, branch) = (GroupId::from_raw([8; 16]), BranchId::from_raw([9; 16]));
    let base = Point { branch: BRANCH, seq: seq(2), hash: h2 };
    let one = |group, base| bodies_of(group, base, &next).remove(0);
    let cases = [
        ("another group", one(group, base), BodyError::Foreign { group, branch: BRANCH }),
        ("another branch", one(GROUP, Point { branch, ..base }), BodyError::Foreign { group: GROUP, branch }),
        ("one again", sent[0].clone(), BodyError::Gap { found: seq(1), expected: seq(3) }),
        ("one left out", sent[2].clone(), BodyError::Gap { found: seq(4), expected: seq(3) }),
        (
            "another history",
            one(GROUP, Point { hash: other_hash, ..base }),
            BodyError::Diverged { seq: seq(3), found: other_hash, expected: h2 },
        ),
    ];
    for (name, body, error) in cases {
        assert_eq!(take(&mut bench.journal, body), Err(error), "{name}");
    }
    for (name, body) in damaged(&sent[1]) {
        let refused = take(&mut bench.journal, body);
        assert!(matches!(refused, Err(BodyError::Format(_))), "{name}: {refused:?}");
    }
    let after = (bench.journal.written(), bench.journal.undurable_bytes(), bench.journal.index_len());
    assert_eq!(after, before, "nothing was taken");
    assert_eq!(take(&mut bench.journal, sent[1].clone()), Ok((seq(3), seq(3))), "and the next one is");
}

fn damaged(body: &Bytes) -> Vec<(&'static str, Bytes)> {
    let flip = |at: usize| {
        let mut bytes = body.to_vec();
        bytes[at] ^= 1;
        Bytes::from(bytes)
    };
    let longer = Bytes::from([body.as_ref(), &[0; 512]].concat());
    vec![
        ("nothing", Bytes::new()),
        ("less than the room", body.slice(..ENVELOPE_LEN - 1)),
        ("no body", body.slice(..ENVELOPE_LEN)),
        ("half a header", body.slice(..ENVELOPE_LEN + 100)),
        ("payload cut off", body.slice(..body.len() - 512)),
        ("longer than it says", longer),
        ("rot in the header", flip(ENVELOPE_LEN + 130)),
        ("rot in the payload", flip(body.len() - 1)),
    ]
}

#[test]
fn an_error_says_how_much_was_missing() {
    let mut bench = Bench::new(0);
    for len in [0, ENVELOPE_LEN - 1, ENVELOPE_LEN] {
        match take(&mut bench.journal, vec![0; len].into()) {
            Err(BodyError::Format(FormatError::Short { need, have, .. })) => assert!(need > have, "{len}"),
            other => panic!("{len}: {other:?}"),
        }
    }
}

#[test]
fn a_journal_that_begins_later_takes_only_what_follows_there() {
    let base = Point { branch: BRANCH, seq: seq(40), hash: hash_start(GroupId::from_raw([5; 16])) };
    let next = [vec![write(41, extent(0, 0, 2))]];
    let mut bench = Bench::new(0);
    bench.journal = Journal::new(config(0), JournalStart::empty(base, 3), base.seq);
    (bench.found.trimmed, bench.found.seal, bench.found.incarnation) = (base, base, 3);
    assert_eq!(JournalStart::empty(base, 3).end(), base);
    let own = &bench.journal;
    assert_eq!((own.branch(), own.trimmed(), own.durable(), own.written()), (BRANCH, base, base, seq(40)));
    assert_eq!((own.incarnation(), own.hash_at(seq(40)), own.hash_at(seq(39))), (3, Some(base.hash), None));
    let early = take(&mut bench.journal, bodies(&next).remove(0));
    assert_eq!(early, Err(BodyError::Gap { found: seq(1), expected: seq(41) }));
    assert_eq!(take(&mut bench.journal, bodies_of(GROUP, base, &next).remove(0)), Ok((seq(41), seq(41))));
    bench.flush();
    bench.applied = seq(40);
    bench.restart(0);
    assert_eq!(bench.journal.durable().seq, seq(41));
    assert!(bench.newest(extent(0, 0, 3)) == expected(0, &[Some(41), Some(41), None]));
}

#[test]
fn a_batch_says_what_it_has_of_something_else_than_content() {
    let state = |volume, fill: u8| NewRecord {
        kind: RecordKind::Reservation,
        extent: extent(volume, 0, 0),
        payload: vec![fill; 512].into(),
    };
    let resize = NewRecord { kind: RecordKind::VolumeResized, ..state(2, 9) };
    let sent = bodies(&[
        vec![state(1, 5), write(2, extent(0, 0, 1)), resize.clone(), state(3, 6)],
        vec![write(5, extent(0, 0, 1))],
    ]);
    let mut journal = empty(config(0));
    let check = |journal: &Journal, n: usize| journal.check_body(ReceivedBody::in_buffer(sent[n].clone())).unwrap();
    let first = check(&journal, 0);
    assert_eq!(journal.written(), Seq::ZERO, "nothing is taken yet");
    let found: Vec<_> = first.changes.iter().map(|c| (c.seq.get(), c.kind, c.volume.get(), c.payload[0])).collect();
    let (reservation, resized) = (RecordKind::Reservation, RecordKind::VolumeResized);
    assert_eq!(found, [(1, reservation, 1, 5), (3, resized, 2, 9), (4, reservation, 3, 6)]);
    assert_eq!(first.range, (seq(1), seq(4)));
    journal.append_body(first);
    assert_eq!(journal.written(), seq(4));
    assert!(check(&journal, 1).changes.is_empty(), "the last batch has none");
}

#[test]
fn batches_with_other_records_than_content_are_found_once_they_are_durable() {
    let state = |volume, fill: u8| NewRecord {
        kind: RecordKind::Reservation,
        extent: extent(volume, 0, 0),
        payload: vec![fill; 512].into(),
    };
    let zero = NewRecord { kind: RecordKind::Zero, extent: extent(0, 0, 9), payload: Bytes::new() };
    let sent = bodies(&[
        vec![state(1, 5), write(2, extent(0, 0, 1)), state(3, 6)],
        vec![write(4, extent(0, 0, 1)), zero],
        vec![write(6, extent(0, 0, 1)), state(7, 9)],
    ]);
    let mut bench = Bench::new(0);
    for body in sent {
        take(&mut bench.journal, body).unwrap();
    }
    let found = |bench: &Bench, after| {
        let places = bench.journal.batches_with_changes(seq(after));
        places.iter().map(|p| (p.first_seq.get(), p.last_seq.get())).collect::<Vec<_>>()
    };
    assert_eq!(found(&bench, 0), [], "nothing is durable");
    bench.flush();
    assert_eq!(found(&bench, 0), [(1, 3), (6, 7)]);
    assert_eq!(found(&bench, 2), [(1, 3), (6, 7)]);
    assert_eq!(found(&bench, 3), [(6, 7)]);
    assert_eq!(found(&bench, 7), []);
    bench.restart(0);
    assert_eq!(found(&bench, 0), [(1, 3), (6, 7)], "as after a start");
}

/// A mirror's batches are as the source packed them: more of them than a write may take wait in the queue.
#[test]
fn many_batches_go_out_in_writes_of_four_mib() {
    let full = BATCH_PAYLOAD_MAX as u64 / 512;
    let batches: Vec<_> = (1..=17).map(|n| vec![write(n, extent(0, 0, full))]).collect();
    let mut journal = empty(JournalConfig { segment_len: 64 << 20, ..config(0) });
    for body in bodies(&batches) {
        take(&mut journal, body).unwrap();
    }
    journal.grant(Grant { segment: 0, generation: 1 });
    let mut lasts = Vec::new();
    while let Some(write) = journal.poll_write(now(1), VERSION) {
        assert_eq!(journal.write_done(write.token).seq, write.last_seq);
        lasts.push(write.last_seq.get());
    }
    assert_eq!(lasts, [16, 17]);
    assert_eq!((journal.durable().seq, journal.written()), (seq(17), seq(17)));
    assert_eq!(journal.batch_after(seq(17)).map(|_| ()), None);
    assert!(journal.batch_after(Seq::ZERO).is_some());
}
