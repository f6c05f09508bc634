//! The source's end of a connection.

use reprise_format::link::{
    Ack, Batch, Close, CloseReason, CopyAck, Credit, GroupState, Heartbeat, Membership, Message, MessageKind, Row,
    Trouble,
};
use reprise_link::LinkError;
use reprise_link::copy::CopyProgress;
use reprise_link::source::{SourceEvent, SourceSession};
use reprise_types::{GroupId, Point, Seq};

use crate::common::*;

fn resumed(bytes: u64, journal: u64) -> SourceSession {
    source_with(offer(), state(), bytes, journal)
}

fn ack(received: u64, durable: Point, applied: u64) -> Message {
    Ack { received: seq(received), durable, applied: seq(applied), trouble: None }.into()
}

fn credit(bytes: u64, journal_bytes: u64) -> Message {
    Credit { bytes, journal_bytes }.into()
}

#[test]
fn the_handshake_says_what_flows_and_from_where() {
    let mut source = SourceSession::new(ms(1_000), offer());
    assert_eq!(source.poll_message(), Some(offer().into()), "the offer is the first message");
    assert!(!source.is_streaming());
    assert_eq!((source.acked(), source.next_wanted(), source.next_region()), (None, None, None));
    let event = source.handle(ms(1_010), state().into(), &history).unwrap();
    let Some(SourceEvent::Verdict { verdict, instance_seen }) = event else { panic!("{event:?}") };
    assert_eq!((verdict.row, verdict.start, instance_seen), (Row::Resume, Some(point(90)), [4; 16]));
    assert_eq!(verdict.hash_at_state, Some(hash(90)));
    assert_eq!(source.poll_message(), Some(verdict.into()), "the peer is told the same");
    assert_eq!(source.poll_message(), None);
    assert!(source.is_streaming());
    assert_eq!((source.sent(), source.acked(), source.applied()), (seq(90), Some(point(90)), seq(60)));
    assert_eq!((source.copy_progress(), source.copy_complete()), (None, true), "there is no copy");
}

#[test]
fn a_group_that_may_not_flow_does_not() {
    let unknown = GroupState { membership: Membership::Unknown, ..state() };
    let mut source = SourceSession::new(ms(0), offer());
    let event = source.handle(ms(0), unknown.into(), &history).unwrap();
    assert!(matches!(event, Some(SourceEvent::Verdict { verdict, .. }) if verdict.row == Row::UnknownGroup));
    assert!(!source.is_streaming());
    // What the mirror had said before it heard of it is passed over, and gives no credit.
    let crossed = [ack(90, point(90), 60), CopyAck { cursor: cursor(0, 1) }.into(), credit(MIB, MIB)];
    for message in crossed {
        assert_eq!(source.handle(ms(0), message, &history), Ok(None));
    }
    assert_eq!((source.next_wanted(), source.acked(), source.poll_copy_done()), (None, None, None));
    assert_eq!(source.credit_left(), (0, 0));
    let batch: Message = Batch { first: seq(1), last: seq(1) }.into();
    assert_eq!(source.handle(ms(0), batch, &history), Err(LinkError::Unexpected { kind: MessageKind::Batch }));
}

#[test]
fn a_message_at_the_wrong_time_ends_the_connection() {
    let unexpected = |kind| Err(LinkError::Unexpected { kind });
    let early = [ack(0, point(0), 0), CopyAck { cursor: cursor(0, 0) }.into(), credit(1, 1), offer().into()];
    for message in early {
        let mut source = SourceSession::new(ms(0), offer());
        let kind = message.kind();
        assert_eq!(source.handle(ms(0), message, &history), unexpected(kind), "before the state");
    }
    for message in [state().into(), offer().into()] {
        let message: Message = message;
        let kind = message.kind();
        assert_eq!(resumed(MIB, MIB).handle(ms(0), message, &history), unexpected(kind), "while data flows");
    }
    let copy_ack: Message = CopyAck { cursor: cursor(0, 0) }.into();
    assert_eq!(resumed(MIB, MIB).handle(ms(0), copy_ack, &history), Err(LinkError::BadCopyEnd), "there is no copy");
    let other = GroupId::from_raw([9; 16]);
    let wrong = GroupState { group: other, ..state() };
    let mut source = SourceSession::new(ms(0), offer());
    assert_eq!(source.handle(ms(0), wrong.into(), &history), Err(LinkError::WrongGroup { found: other }));
    let close = Close { reason: CloseReason::Shutdown, detail: "bye".into(), trouble: None };
    let closed = LinkError::Closed { reason: CloseReason::Shutdown, detail: "bye".into(), trouble: None };
    assert_eq!(resumed(0, 0).handle(ms(0), close.into(), &history), Err(closed));
}

#[test]
fn acknowledgements_are_taken_up_to_their_edges() {
    let mut source = resumed(MIB, MIB);
    source.batch_sent(seq(91), seq(95), 512);
    source.batch_sent(seq(96), seq(98), 512);
    let steps = [
        // Nothing new, at the very start: h is known from the handshake.
        (ack(90, point(90), 60), (90, 90, 60)),
        (ack(98, point(90), 60), (98, 90, 60)),
        (ack(95, point(95), 95), (98, 95, 95)),
        (ack(98, point(98), 95), (98, 98, 95)),
        (ack(98, point(98), 98), (98, 98, 98)),
    ];
    for (message, (received, durable, applied)) in steps {
        let acked = SourceEvent::Acked { received: seq(received), durable: point(durable), applied: seq(applied) };
        assert_eq!(source.handle(ms(0), message, &history), Ok(Some(acked)));
        assert_eq!((source.acked(), source.applied()), (Some(point(durable)), seq(applied)));
    }
    // h of what is acknowledged already is known without a look into the journal, which may have trimmed it.
    let forgotten = |_: Seq| None;
    assert!(source.handle(ms(0), ack(98, point(98), 98), &forgotten).is_ok());
    let other_hash = Point { hash: hash(1), ..point(98) };
    let diverged = source.handle(ms(0), ack(98, other_hash, 98), &forgotten);
    assert_eq!(diverged, Err(LinkError::Diverged { at: seq(98) }));
}

#[test]
fn acknowledgements_that_prove_nothing_are_refused() {
    let mut source = resumed(MIB, MIB);
    source.batch_sent(seq(91), seq(95), 512);
    source.handle(ms(0), ack(93, point(92), 60), &history).unwrap();
    let order = |received, durable, applied| LinkError::AckOrder {
        received: seq(received),
        durable: seq(durable),
        applied: seq(applied),
    };
    let past = |acked| LinkError::AckPastSent { acked: seq(acked), sent: seq(95) };
    let cases = [
        ("received past sent", ack(96, point(93), 0), past(96)),
        ("durable past sent", ack(95, point(96), 0), past(96)),
        ("both past sent", ack(96, point(97), 0), past(97)),
        ("taken back", ack(95, point(91), 0), LinkError::AckBackwards { acked: seq(91), before: seq(92) }),
        ("durable before received", ack(93, point(94), 0), order(93, 94, 0)),
        ("applied before durable", ack(95, point(93), 94), order(95, 93, 94)),
        ("both", ack(93, point(94), 95), order(93, 94, 95)),
        ("another h", ack(95, Point { hash: hash(1), ..point(94) }, 0), LinkError::Diverged { at: seq(94) }),
        ("another branch", ack(95, Point { branch: branch(2), ..point(94) }, 0), LinkError::Diverged { at: seq(94) }),
    ];
    for (name, message, error) in cases {
        assert_eq!(source.clone().handle(ms(0), message, &history), Err(error), "{name}");
    }
    let unknown = |at: Seq| history(at).filter(|_| at < seq(94));
    let unproven = source.clone().handle(ms(0), ack(95, point(94), 0), &unknown);
    assert_eq!(unproven, Err(LinkError::AckUnproven { acked: seq(94) }));
    assert_eq!(source.acked(), Some(point(92)));
}

#[test]
fn batches_are_wanted_one_behind_the_other_up_to_what_is_durable() {
    let mut source = resumed(MIB, MIB);
    assert_eq!(source.next_wanted(), Some(seq(91)));
    source.batch_sent(seq(91), seq(99), 100);
    assert_eq!((source.sent(), source.next_wanted()), (seq(99), Some(seq(100))));
    source.batch_sent(seq(100), seq(100), 100);
    assert_eq!(source.next_wanted(), None, "everything durable is sent");
    source.set_durable(point(104));
    assert_eq!(source.next_wanted(), Some(seq(101)));
    source.set_durable(point(102));
    source.batch_sent(seq(101), seq(104), 100);
    assert_eq!(source.next_wanted(), None);
    source.set_durable(point(110));
    for (first, last, why) in [(106, 107, "a gap"), (104, 105, "again"), (105, 111, "not durable")] {
        assert!(panics(&source, |s| s.batch_sent(seq(first), seq(last), 1)), "{why}");
    }
    assert!(panics(&source, |s| s.batch_sent(seq(105), seq(105), 2 * MIB)), "past the credit");
    assert!(!panics(&source, |s| s.batch_sent(seq(105), seq(110), 1)));
}

#[test]
fn credit_counts_all_bytes_and_journal_bytes_apart() {
    // (bytes, journal bytes) of credit, then what a batch of 1000 bytes leaves.
    let cases = [
        ((3_000, 3_000), Some(seq(92)), (2_000, 2_000)),
        ((1_001, 3_000), Some(seq(92)), (1, 1)),
        ((1_000, 3_000), None, (0, 0)),
        ((3_000, 1_001), Some(seq(92)), (1, 2_000)),
        ((3_000, 1_000), None, (0, 2_000)),
    ];
    for ((bytes, journal), wanted, left) in cases {
        let mut source = resumed(bytes, journal);
        assert!(source.batch_fits(1_000) && !source.batch_fits(bytes.min(journal) + 1), "{bytes} {journal}");
        source.batch_sent(seq(91), seq(91), 1_000);
        assert_eq!((source.next_wanted(), source.credit_left()), (wanted, left), "{bytes} {journal}");
        let room = left.0;
        assert!(source.batch_fits(room) && !source.batch_fits(room + 1), "{bytes} {journal}");
        assert!(panics(&source, |s| s.batch_sent(seq(92), seq(92), room + 1)));
    }
    // Credit is a sum over the connection's life: it grows and is never added up or taken back.
    let mut source = resumed(1_000, 1_000);
    for message in [credit(500, 2_000), credit(1_500, 100), credit(0, 0)] {
        assert_eq!(source.handle(ms(0), message, &history), Ok(Some(SourceEvent::Credit)));
    }
    assert_eq!(source.credit_left(), (1_500, 1_500));
    source.batch_sent(seq(91), seq(91), 1_400);
    assert_eq!(source.credit_left(), (100, 100));
}

fn copy(bytes: u64, journal: u64) -> SourceSession {
    let (offer, state) = copying();
    source_with(offer, state, bytes, journal)
}

#[test]
fn a_copy_goes_on_at_the_mirror_s_cursor_and_begins_anew_where_it_has_none() {
    let mut source = copy(32 * MIB, 32 * MIB);
    assert_eq!(source.copy_progress(), Some(CopyProgress { done: 4_096, total: 10_000 }));
    assert!(!source.copy_complete());
    assert_eq!(source.next_region().map(|r| r.sector.get()), Some(4_096));
    // A mirror that holds nothing may still carry a cursor of an earlier life: it does not count.
    let (offer, state) = starting();
    let mut source = source_with(offer, state, 32 * MIB, 32 * MIB);
    assert_eq!(source.copy_progress(), Some(CopyProgress { done: 0, total: 10_000 }));
    assert_eq!(
        source.next_region().map(|r| (r.sector.get(), r.view_seq, r.view_hash)),
        Some((0, seq(100), Some(hash(100))))
    );
    assert_eq!((source.sent(), source.acked()), (seq(100), Some(point(100))), "records follow from the offer on");
    let mut source = resumed(32 * MIB, 32 * MIB);
    assert_eq!((source.next_region(), source.poll_copy_done()), (None, None), "no copy");
}

#[test]
fn a_region_claims_its_credit_when_its_read_begins() {
    // One region of 1 MiB fits, or there is a byte too little.
    assert!(copy(MIB, MIB).next_region().is_some());
    assert_eq!(copy(MIB - 1, MIB).next_region(), None);
    let mut source = copy(3 * MIB, 3 * MIB);
    let region = source.next_region().unwrap();
    assert_eq!(region.sectors.get(), 2_048);
    assert!(source.batch_fits(2 * MIB) && !source.batch_fits(2 * MIB + 1), "the region's bytes are spoken for");
    assert!(source.next_region().is_some(), "another one fits beside it");
    assert_eq!(source.copy_progress().map(|p| p.done), Some(4_096), "nothing is acknowledged");
    // Zeros give theirs back when they are sent.
    source.region_sent(&region, 0);
    assert!(source.batch_fits(2 * MIB) && !source.batch_fits(2 * MIB + 1));
    assert_eq!(source.credit_left(), (3 * MIB, 3 * MIB));
}

#[test]
fn what_a_region_took_of_the_credit_is_gone_for_batches_too() {
    let mut source = copy(3 * MIB, 9 * MIB);
    let region = source.next_region().unwrap();
    source.region_sent(&region, MIB);
    assert_eq!(source.credit_left(), (2 * MIB, 2 * MIB));
    source.batch_sent(seq(91), seq(91), MIB / 2);
    assert_eq!(source.credit_left(), (MIB + MIB / 2, MIB + MIB / 2));
    assert!(panics(&source, |s| s.batch_sent(seq(92), seq(92), 2 * MIB)));
    let region = source.next_region().unwrap();
    assert_eq!(source.next_region(), None, "half a MiB is left");
    assert!(panics(&source, |s| s.region_sent(&region, 2 * MIB)), "more than the region has");
}

#[test]
fn no_record_passes_the_view_of_a_region_that_is_being_read() {
    let mut source = copy(32 * MIB, 32 * MIB);
    let region = source.next_region().unwrap();
    assert_eq!(region.view_seq, seq(100));
    source.set_durable(point(120));
    let later = source.next_region().unwrap();
    assert_eq!(later.view_seq, seq(120));
    assert_eq!(source.next_wanted(), Some(seq(91)), "records up to the view go on");
    assert!(panics(&source, |s| s.batch_sent(seq(91), seq(101), 1)));
    source.batch_sent(seq(91), seq(100), 1);
    assert_eq!(source.next_wanted(), None, "the next one waits for the region");
    source.region_sent(&region, MIB);
    assert_eq!(source.next_wanted(), Some(seq(101)));
    source.batch_sent(seq(101), seq(120), 1);
    source.region_sent(&later, MIB);
    assert_eq!(source.next_wanted(), None);
}

#[test]
fn a_copy_ends_once_and_is_complete_when_all_of_it_is_proven() {
    let mut source = copy(32 * MIB, 32 * MIB);
    assert_eq!(source.poll_copy_done(), None, "regions are left");
    let mut cursors = Vec::new();
    while let Some(region) = source.next_region() {
        assert_eq!(source.poll_copy_done(), None, "one is being read");
        source.region_sent(&region, 0);
        cursors.push(cursor(0, region.sector.get() + region.sectors.get()));
    }
    assert_eq!(cursors.last(), Some(&cursor(0, 10_000)));
    assert_eq!(source.poll_copy_done().map(|d| d.r1), Some(seq(100)));
    assert_eq!(source.poll_copy_done(), None);
    source.batch_sent(seq(91), seq(100), 1);
    let copy_ack = |at| Message::from(CopyAck { cursor: at });
    for at in &cursors {
        let event = source.handle(ms(0), copy_ack(*at), &history);
        assert_eq!(event, Ok(Some(SourceEvent::CopyAcked { cursor: *at, complete: false })), "R1 is not there");
        assert_eq!(source.copy_progress().map(|p| p.done), Some(at.sector.get()));
    }
    assert!(!source.copy_complete());
    source.handle(ms(0), ack(100, point(100), 60), &history).unwrap();
    assert!(source.copy_complete());
    let last = cursors[cursors.len() - 1];
    let event = source.handle(ms(0), copy_ack(last), &history);
    assert_eq!(event, Ok(Some(SourceEvent::CopyAcked { cursor: last, complete: true })));
    let wild = source.handle(ms(0), copy_ack(cursor(0, 10_001)), &history);
    assert_eq!(wild, Err(LinkError::BadExtent { at: cursor(0, 10_001) }));
}

#[test]
fn regions_are_cut_for_the_rate_of_the_line() {
    let (offer, state) = starting();
    let mut source = source_with(offer, state, 32 * MIB, 32 * MIB);
    // A quarter of a second at this rate is 128 KiB.
    source.set_link_rate(512 << 10);
    assert_eq!(source.next_region().map(|r| r.sectors.get()), Some(256));
    resumed(0, 0).set_link_rate(512 << 10);
}

#[test]
fn what_is_wrong_at_the_mirror_is_what_its_last_acknowledgement_says() {
    let mut source = resumed(0, 0);
    let ill = Trouble { home_detached: true, ..Trouble::NONE };
    let acked = |trouble| Ack { received: seq(90), durable: point(90), applied: seq(0), trouble };
    assert_eq!(source.trouble(), None);
    source.handle(ms(0), acked(Some(ill)).into(), &history).unwrap();
    assert_eq!(source.trouble(), Some(ill));
    source.handle(ms(0), acked(None).into(), &history).unwrap();
    assert_eq!(source.trouble(), None);
}

#[test]
fn heartbeats_are_sent_answered_and_measured() {
    let mut source = resumed(0, 0);
    assert_eq!(source.deadline(), ms(1_000), "the first one is due at once");
    source.tick(ms(1_000)).unwrap();
    let Some(Message::Heartbeat(Heartbeat { id, echo: 0 })) = source.poll_message() else { panic!("a heartbeat") };
    assert_ne!(id, 0);
    assert_eq!((source.deadline(), source.rtt_micros()), (ms(2_000), None));
    source.tick(ms(1_999)).unwrap();
    assert_eq!(source.poll_message(), None, "none is due");
    assert_eq!(source.handle(ms(1_040), heartbeat(0, id), &history), Ok(None));
    assert_eq!((source.rtt_micros(), source.poll_message()), (Some(40_000), None), "an echo is not echoed");
    assert_eq!(source.handle(ms(1_050), heartbeat(17, 0), &history), Ok(None));
    assert_eq!(source.poll_message(), Some(heartbeat(0, 17)));
}

#[test]
fn a_silent_peer_is_given_up_and_any_byte_is_a_sign_of_life() {
    let silent = |mut source: SourceSession| source.tick(ms(11_000));
    assert_eq!(silent(resumed(0, 0)), Err(LinkError::Silent { silent_ms: 10_000 }));
    let mut source = resumed(0, 0);
    source.heard(ms(1_001));
    assert_eq!(silent(source), Ok(()));
    let mut source = resumed(0, 0);
    source.handle(ms(1_001), credit(0, 0), &history).unwrap();
    assert_eq!(silent(source), Ok(()));
}

/// A peer that asks and asks while nothing of ours can be sent does not fill our memory.
#[test]
fn answers_that_cannot_be_sent_are_bounded() {
    let take = |source: &mut SourceSession| std::iter::from_fn(|| source.poll_message()).count();
    let mut source = resumed(0, 0);
    for id in 1..=100 {
        source.handle(ms(1_000), heartbeat(id, 0), &history).unwrap();
    }
    source.tick(ms(1_000)).unwrap();
    assert_eq!(take(&mut source), 64);
    for id in 1..=63 {
        source.handle(ms(1_000), heartbeat(id, 0), &history).unwrap();
    }
    source.tick(ms(2_000)).unwrap();
    source.tick(ms(3_000)).unwrap();
    assert_eq!(take(&mut source), 64, "63 answers and one heartbeat of our own");
    source.tick(ms(4_000)).unwrap();
    assert_eq!(take(&mut source), 1, "room again");
}

#[test]
fn closing_tells_the_peer_why_and_stops_the_data() {
    let mut source = resumed(MIB, MIB);
    assert!(source.next_wanted().is_some());
    source.close(CloseReason::Shutdown, "box stops");
    let close = Close { reason: CloseReason::Shutdown, detail: "box stops".into(), trouble: None };
    assert_eq!(source.poll_message(), Some(close.into()));
    assert!(!source.is_streaming());
    assert_eq!((source.next_wanted(), source.acked()), (None, None));
    let mut source = copy(32 * MIB, 32 * MIB);
    while let Some(region) = source.next_region() {
        source.region_sent(&region, 0);
    }
    source.close(CloseReason::Shutdown, "");
    assert_eq!((source.next_region(), source.poll_copy_done()), (None, None));
}
