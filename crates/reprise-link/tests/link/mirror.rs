//! The mirror's end of a connection.

use reprise_format::link::{
    Ack, Batch, Close, CloseReason, CopyAck, CopyDone, CopyExtent, Credit, GroupOffer, GroupState, Heartbeat,
    Membership, Message, MessageKind, Row, Verdict,
};
use reprise_link::LinkError;
use reprise_link::copy::CopyProgress;
use reprise_link::mirror::{MirrorEvent, MirrorSession, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MIN};
use reprise_types::SectorCount;

use crate::common::*;

const PLENTY: u64 = 1 << 40;

/// A mirror to which data flows; acknowledgement and credit of the beginning are taken.
fn resumed(window: u64, journal_free: u64) -> MirrorSession {
    let mut mirror = mirror_with(offer(), state(), window, journal_free);
    drop(all(&mut mirror));
    mirror
}

fn copies() -> MirrorSession {
    let (offer, state) = copying();
    let mut mirror = mirror_with(offer, state, 0, PLENTY);
    drop(all(&mut mirror));
    mirror
}

/// Everything it has to say.
fn all(mirror: &mut MirrorSession) -> Vec<Message> {
    std::iter::from_fn(|| mirror.poll_message()).collect()
}

fn ack(received: u64, durable: u64, applied: u64) -> Message {
    Ack { received: seq(received), durable: point(durable), applied: seq(applied), trouble: None }.into()
}

fn credit(bytes: u64, journal_bytes: u64) -> Message {
    Credit { bytes, journal_bytes }.into()
}

fn batch(mirror: &mut MirrorSession, first: u64, last: u64, bytes: u64) -> Result<Option<MirrorEvent>, LinkError> {
    mirror.handle(ms(1_000), Batch { first: seq(first), last: seq(last) }.into(), bytes)
}

fn extent(sector: u64, sectors: u64, view: u64, zero: bool) -> CopyExtent {
    let at = cursor(0, sector);
    CopyExtent {
        slot: at.slot,
        sector: at.sector,
        sectors: SectorCount::from_raw(sectors),
        view_seq: seq(view),
        zero,
        view_hash: Some(hash(view)),
    }
}

/// A region of content from the source.
fn region(mirror: &mut MirrorSession, sector: u64, sectors: u64) -> Result<Option<MirrorEvent>, LinkError> {
    mirror.handle(ms(1_000), extent(sector, sectors, 100, false).into(), sectors * 512)
}

fn verdict_of(offer: &GroupOffer, state: &GroupState) -> Verdict {
    reprise_link::handshake::verdict(offer, state, &history)
}

#[test]
fn the_handshake_is_an_offer_an_answer_and_a_verdict() {
    let mut mirror = MirrorSession::new(ms(1_000), 0);
    assert_eq!((mirror.poll_message(), mirror.is_streaming()), (None, false));
    let verdict = verdict_of(&offer(), &state());
    let unexpected = |kind| Err(LinkError::Unexpected { kind });
    assert_eq!(mirror.handle(ms(1_000), verdict.clone().into(), 0), unexpected(MessageKind::Verdict), "no offer");
    let event = mirror.handle(ms(1_000), offer().into(), 0).unwrap();
    assert_eq!(event, Some(MirrorEvent::Offer(Box::new(offer()))));
    assert_eq!(mirror.handle(ms(1_000), offer().into(), 0), unexpected(MessageKind::GroupOffer), "a second one");
    assert_eq!(mirror.handle(ms(1_000), verdict.clone().into(), 0), unexpected(MessageKind::Verdict), "no answer");
    mirror.answer(state());
    assert_eq!(all(&mut mirror), [state().into()]);
    assert_eq!(batch(&mut mirror, 91, 91, 0), unexpected(MessageKind::Batch), "no verdict");
    let event = mirror.handle(ms(1_000), verdict.clone().into(), 0).unwrap();
    let expected = MirrorEvent::Verdict { row: Row::Resume, start: Some(point(90)), instance_seen: [2; 16] };
    assert_eq!(event, Some(expected));
    assert!(mirror.is_streaming());
    assert_eq!(mirror.received(), seq(90));
    assert_eq!((mirror.copy_progress(), mirror.copy_complete()), (None, false), "no copy made it whole");
    for message in [Message::from(verdict), offer().into(), state().into()] {
        let kind = message.kind();
        assert_eq!(mirror.handle(ms(1_000), message, 0), unexpected(kind), "while data flows");
    }
}

#[test]
fn a_verdict_that_does_not_follow_ends_the_connection_and_a_refusal_lets_nothing_in() {
    let mut mirror = MirrorSession::new(ms(0), 0);
    mirror.handle(ms(0), offer().into(), 0).unwrap();
    mirror.answer(state());
    let lie = Verdict { row: Row::Diverged, start: None, ..verdict_of(&offer(), &state()) };
    let disagree = LinkError::Disagree { ours: Row::Resume, theirs: Row::Diverged };
    assert_eq!(mirror.handle(ms(0), lie.into(), 0), Err(disagree));
    let unknown = GroupState { membership: Membership::Unknown, ..state() };
    let mut mirror = MirrorSession::new(ms(0), 0);
    mirror.handle(ms(0), offer().into(), 0).unwrap();
    mirror.answer(unknown.clone());
    let event = mirror.handle(ms(0), verdict_of(&offer(), &unknown).into(), 0).unwrap();
    assert!(matches!(event, Some(MirrorEvent::Verdict { row: Row::UnknownGroup, start: None, .. })));
    assert!(!mirror.is_streaming());
    assert_eq!(all(&mut mirror), [unknown.into()], "neither acknowledgement nor credit");
    for message in [extent(0, 8, 100, true).into(), Message::from(CopyDone { r1: seq(100) })] {
        let kind = message.kind();
        assert_eq!(mirror.handle(ms(0), message, 0), Err(LinkError::Unexpected { kind }));
    }
}

/// 1 Gbit/s over 200 ms is 25 MB under way.
#[test]
fn the_default_window_keeps_a_long_fast_line_full() {
    const { assert!(WINDOW_BYTES_DEFAULT >= 1_000_000_000 / 8 / 5 && WINDOW_BYTES_DEFAULT >= WINDOW_BYTES_MIN) }
    let mut mirror = mirror_with(offer(), state(), WINDOW_BYTES_DEFAULT, PLENTY);
    let window = WINDOW_BYTES_DEFAULT;
    assert_eq!(all(&mut mirror), [ack(90, 90, 60), credit(window, window)], "what is held comes first, then credit");
    let mut mirror = mirror_with(offer(), state(), 1, PLENTY);
    let least = WINDOW_BYTES_MIN;
    assert_eq!(all(&mut mirror)[1], credit(least, least), "a smaller window could stop a batch for ever");
}

#[test]
fn credit_for_batches_ends_at_the_journal_s_room() {
    for (free, expected) in [(0, 0), (5 * MIB, 5 * MIB), (PLENTY, WINDOW_BYTES_MIN)] {
        let mut mirror = mirror_with(offer(), state(), 0, free);
        assert_eq!(all(&mut mirror)[1], credit(WINDOW_BYTES_MIN, expected), "{free} bytes free");
        assert_eq!(all(&mut mirror), [], "and it is said once");
    }
}

#[test]
fn only_the_next_batch_is_taken() {
    let mut mirror = resumed(0, PLENTY);
    let gap = |first, last| LinkError::Gap { first: seq(first), last: seq(last), received: seq(90) };
    for (first, last) in [(92, 92), (90, 90), (90, 91), (91, 90), (91, u64::MAX), (1, 90)] {
        assert_eq!(batch(&mut mirror, first, last, 512), Err(gap(first, last)));
    }
    assert_eq!(batch(&mut mirror, 91, 91, 512), Ok(Some(MirrorEvent::Batch { first: seq(91), last: seq(91) })));
    assert_eq!(batch(&mut mirror, 92, 99, 512), Ok(Some(MirrorEvent::Batch { first: seq(92), last: seq(99) })));
    assert_eq!(mirror.received(), seq(99));
}

#[test]
fn nothing_is_taken_past_the_credit() {
    let exceeded = |sent, granted| Err(LinkError::CreditExceeded { sent, granted });
    // The journal's room is what ends first.
    let mut mirror = resumed(0, 5 * MIB);
    assert_eq!(batch(&mut mirror, 91, 91, 5 * MIB + 1), exceeded(5 * MIB + 1, 5 * MIB));
    batch(&mut mirror, 91, 91, 2 * MIB).unwrap();
    assert_eq!(batch(&mut mirror, 92, 92, 3 * MIB + 1), exceeded(5 * MIB + 1, 5 * MIB));
    batch(&mut mirror, 92, 92, 3 * MIB).unwrap();
    assert_eq!(batch(&mut mirror, 93, 93, 1), exceeded(5 * MIB + 1, 5 * MIB));
    // Batches and regions share the window.
    for (left, fits) in [(4_096, true), (4_095, false)] {
        let mut mirror = copies();
        batch(&mut mirror, 91, 91, WINDOW_BYTES_MIN - left).unwrap();
        let taken = region(&mut mirror, 4_096, 8);
        assert_eq!(taken.is_ok(), fits, "{left} bytes are left");
        if !fits {
            assert_eq!(taken, exceeded(WINDOW_BYTES_MIN - left + 4_096, WINDOW_BYTES_MIN));
        }
    }
    // Zeros take none of it.
    let mut mirror = copies();
    batch(&mut mirror, 91, 91, WINDOW_BYTES_MIN).unwrap();
    assert!(mirror.handle(ms(0), extent(4_096, 8, 100, true).into(), 0).is_ok());
}

#[test]
fn what_is_durable_is_acknowledged_and_nothing_before() {
    let mut mirror = resumed(0, PLENTY);
    batch(&mut mirror, 91, 95, 512).unwrap();
    batch(&mut mirror, 96, 99, 512).unwrap();
    assert_eq!(all(&mut mirror), [], "received is not durable");
    mirror.batch_durable(point(95));
    assert_eq!(all(&mut mirror), [ack(99, 95, 60)]);
    mirror.batch_durable(point(95));
    mirror.batch_durable(point(90));
    assert_eq!(all(&mut mirror), [], "nothing new");
    mirror.set_applied(seq(99));
    mirror.set_applied(seq(70));
    mirror.batch_durable(point(97));
    assert_eq!(all(&mut mirror), [ack(99, 97, 97)], "applied is never said past durable");
    mirror.batch_durable(point(99));
    assert_eq!(all(&mut mirror), [ack(99, 99, 99)]);
    assert!(panics(&mirror, |m| m.batch_durable(point(100))), "it was never received");
}

#[test]
fn what_was_applied_is_told_with_the_next_heartbeat() {
    let mut mirror = resumed(0, PLENTY);
    mirror.set_applied(seq(75));
    assert_eq!(all(&mut mirror), [], "that alone is no news");
    mirror.tick(ms(1_000)).unwrap();
    assert_eq!(all(&mut mirror), [heartbeat(1, 0), ack(90, 90, 75)]);
    mirror.tick(ms(1_500)).unwrap();
    assert_eq!(all(&mut mirror), []);
    let mut early = MirrorSession::new(ms(1_000), 0);
    early.tick(ms(1_000)).unwrap();
    assert_eq!(all(&mut early), [heartbeat(1, 0)], "before the handshake there is nothing to tell");
}

/// Takes batches of these bytes, makes the first `durable` of them durable, and gives the credit that follows.
fn credit_after(batches: &[u64], durable: usize) -> Option<Message> {
    let mut mirror = resumed(0, PLENTY);
    for (n, bytes) in (91..).zip(batches) {
        batch(&mut mirror, n, n, *bytes).unwrap();
    }
    if durable > 0 {
        mirror.batch_durable(point(90 + durable as u64));
        assert!(matches!(mirror.poll_message(), Some(Message::Ack(_))));
    }
    mirror.poll_message()
}

/// Small news would fill a slow line. Room is told when it is an eighth of the window, or less than a quarter is left.
#[test]
fn credit_is_told_when_it_is_worth_a_message() {
    let window = WINDOW_BYTES_MIN;
    let (eighth, quarter) = (window / 8, window / 4);
    let more = |bytes| Some(credit(window + bytes, window + bytes));
    assert_eq!(credit_after(&[eighth], 1), more(eighth));
    assert_eq!(credit_after(&[eighth - 1], 1), None);
    assert_eq!(credit_after(&[1, window - quarter - 1], 1), None, "a quarter is left");
    assert_eq!(credit_after(&[1, window - quarter], 1), more(1), "less than a quarter is left");
    assert_eq!(credit_after(&[window], 0), None, "nothing has become free");
    assert_eq!(credit_after(&[window - 1, 1], 1), more(window - 1));
    assert_eq!(credit_after(&[3, 5, window - 8], 2), more(8), "what two batches have left");
}

#[test]
fn room_in_the_journal_is_news_by_itself() {
    let window = WINDOW_BYTES_MIN;
    let mut mirror = resumed(0, 5 * MIB);
    batch(&mut mirror, 91, 91, 2 * MIB).unwrap();
    // It is received, not durable: the room is the same.
    assert_eq!(all(&mut mirror), []);
    mirror.set_journal_free(6 * MIB);
    assert_eq!(all(&mut mirror), [credit(window, 6 * MIB)], "less than a quarter of a window was left");
    mirror.set_journal_free(MIB);
    assert_eq!(all(&mut mirror), [], "what was granted is not taken back");
    mirror.batch_durable(point(91));
    mirror.set_journal_free(7 * MIB);
    assert_eq!(all(&mut mirror), [ack(91, 91, 60), credit(window + 2 * MIB, 9 * MIB)]);
    // Never more than the window is under way, however much room there is.
    batch(&mut mirror, 92, 92, 4 * MIB).unwrap();
    mirror.set_journal_free(PLENTY);
    assert_eq!(all(&mut mirror), [credit(window + 2 * MIB, 2 * MIB + window)]);
    // A full journal gives none, also where more waits than it has room for.
    let mut mirror = resumed(0, 5 * MIB);
    batch(&mut mirror, 91, 91, 5 * MIB).unwrap();
    mirror.set_journal_free(0);
    assert_eq!(all(&mut mirror), []);
}

#[test]
fn a_copied_region_is_written_flushed_and_then_acknowledged() {
    let mut mirror = copies();
    assert_eq!(mirror.copy_progress(), Some(CopyProgress { done: 4_096, total: 10_000 }));
    assert_eq!((mirror.apply_limit(), mirror.copy_flush_mark()), (None, None));
    let event = mirror.handle(ms(0), extent(4_096, 2_048, 100, false).into(), MIB).unwrap();
    let Some(MirrorEvent::Region { region: first, zero: false }) = event else { panic!("{event:?}") };
    assert_eq!((first.sector.get(), first.sectors.get(), first.view_seq), (4_096, 2_048, seq(100)));
    let event = mirror.handle(ms(0), extent(6_144, 2_048, 101, true).into(), 0).unwrap();
    assert!(matches!(event, Some(MirrorEvent::Region { zero: true, .. })));
    assert_eq!(mirror.apply_limit(), Some(seq(100)));
    let second = cursor(0, 6_144);
    mirror.region_written(second.slot, second.sector);
    assert_eq!((mirror.apply_limit(), mirror.copy_flush_mark()), (Some(seq(100)), None), "the first one is not there");
    mirror.region_written(first.slot, first.sector);
    assert_eq!(mirror.apply_limit(), None);
    let mark = mirror.copy_flush_mark().unwrap();
    let flush = mark.cursor;
    assert_eq!((flush, mark.reach), (cursor(0, 8_192), Some(point(101))));
    assert_eq!(all(&mut mirror), [], "not flushed");
    mirror.copy_flushed(flush);
    assert_eq!(all(&mut mirror), [CopyAck { cursor: flush }.into()]);
    assert_eq!(mirror.copy_flush_mark(), None, "a flush would bring no more");
    assert_eq!(mirror.copy_progress().map(|p| p.done), Some(8_192));
}

#[test]
fn a_region_older_than_what_was_received_would_take_the_home_back() {
    let mut mirror = copies();
    batch(&mut mirror, 91, 99, 512).unwrap();
    let bad = LinkError::BadExtent { at: cursor(0, 4_096) };
    assert_eq!(mirror.handle(ms(0), extent(4_096, 8, 98, true).into(), 0), Err(bad.clone()));
    assert!(mirror.handle(ms(0), extent(4_096, 8, 99, true).into(), 0).is_ok());
    let mut without = resumed(0, PLENTY);
    assert_eq!(without.handle(ms(0), extent(4_096, 8, 99, true).into(), 0), Err(bad), "there is no copy");
    assert_eq!(without.handle(ms(0), CopyDone { r1: seq(99) }.into(), 0), Err(LinkError::BadCopyEnd));
}

#[test]
fn a_region_gives_its_credit_back_when_it_is_written() {
    let window = WINDOW_BYTES_MIN;
    let mut mirror = copies();
    batch(&mut mirror, 91, 91, window - 2 * MIB).unwrap();
    region(&mut mirror, 4_096, 1_024).unwrap();
    region(&mut mirror, 5_120, 2_048).unwrap();
    let (first, second, other) = (cursor(0, 4_096), cursor(0, 5_120), cursor(0, 9_999));
    mirror.region_written(other.slot, other.sector);
    assert_eq!(all(&mut mirror), [], "no such region");
    mirror.region_written(second.slot, second.sector);
    assert_eq!(all(&mut mirror), [credit(window + MIB, window)]);
    mirror.region_written(first.slot, first.sector);
    assert_eq!(all(&mut mirror), [credit(window + MIB + MIB / 2, window)]);
    mirror.region_written(first.slot, first.sector);
    assert_eq!(all(&mut mirror), [], "only once");
}

#[test]
fn a_copy_is_complete_when_every_region_and_every_record_up_to_its_end_is_durable() {
    let mut mirror = copies();
    assert_eq!(mirror.handle(ms(0), CopyDone { r1: seq(92) }.into(), 0), Err(LinkError::BadCopyEnd), "not at its end");
    for sector in (4_096..10_000).step_by(2_048) {
        mirror.handle(ms(0), extent(sector, 2_048.min(10_000 - sector), 92, true).into(), 0).unwrap();
        let at = cursor(0, sector);
        mirror.region_written(at.slot, at.sector);
    }
    batch(&mut mirror, 91, 92, 512).unwrap();
    let done = mirror.handle(ms(0), CopyDone { r1: seq(92) }.into(), 0).unwrap();
    assert_eq!(done, Some(MirrorEvent::CopyDone { r1: seq(92) }));
    assert_eq!(all(&mut mirror), [CopyAck { cursor: cursor(0, 4_096) }.into()], "its end is answered");
    assert!(!mirror.copy_complete());
    mirror.copy_flushed(mirror.copy_flush_mark().unwrap().cursor);
    assert!(!mirror.copy_complete(), "R1 is not durable");
    mirror.batch_durable(point(92));
    assert!(mirror.copy_complete());
    assert_eq!(all(&mut mirror), [ack(92, 92, 60), CopyAck { cursor: cursor(0, 10_000) }.into()]);
}

#[test]
fn a_first_copy_begins_where_the_offer_says_and_passes_over_an_old_cursor() {
    let (offer, state) = starting();
    let mut mirror = mirror_with(offer, state, 0, PLENTY);
    assert_eq!(mirror.received(), seq(100));
    assert_eq!(all(&mut mirror)[0], ack(100, 100, 60));
    assert_eq!(mirror.copy_progress(), Some(CopyProgress { done: 0, total: 10_000 }));
    assert!(region(&mut mirror, 0, 8).is_ok());
}

#[test]
fn heartbeats_are_sent_answered_and_measured() {
    let mut mirror = resumed(0, PLENTY);
    assert_eq!(mirror.deadline(), ms(1_000));
    mirror.tick(ms(1_000)).unwrap();
    let first = all(&mut mirror).remove(0);
    let Message::Heartbeat(Heartbeat { id, echo: 0 }) = first else { panic!("{first:?}") };
    assert_eq!((mirror.deadline(), mirror.rtt_micros()), (ms(2_000), None));
    assert_eq!(mirror.handle(ms(1_030), heartbeat(0, id), 0), Ok(None));
    assert_eq!(mirror.rtt_micros(), Some(30_000));
    mirror.handle(ms(1_031), heartbeat(9, 0), 0).unwrap();
    assert_eq!(all(&mut mirror), [heartbeat(0, 9)]);
}

#[test]
fn a_silent_peer_is_given_up_and_any_byte_is_a_sign_of_life() {
    let silent = |mut mirror: MirrorSession| mirror.tick(ms(11_000));
    assert_eq!(silent(resumed(0, 0)), Err(LinkError::Silent { silent_ms: 10_000 }));
    let mut mirror = resumed(0, 0);
    mirror.heard(ms(1_001));
    assert_eq!(silent(mirror), Ok(()));
    let mut mirror = resumed(0, PLENTY);
    mirror.handle(ms(1_001), Batch { first: seq(91), last: seq(91) }.into(), 1).unwrap();
    assert_eq!(silent(mirror), Ok(()));
}

/// A peer that asks and asks while nothing of ours can be sent does not fill our memory.
#[test]
fn answers_that_cannot_be_sent_are_bounded() {
    let beats = |mirror: &mut MirrorSession| all(mirror).iter().filter(|m| m.kind() == MessageKind::Heartbeat).count();
    let mut mirror = resumed(0, PLENTY);
    for id in 1..=100 {
        mirror.handle(ms(1_000), heartbeat(id, 0), 0).unwrap();
    }
    mirror.tick(ms(1_000)).unwrap();
    assert_eq!(beats(&mut mirror), 64);
    for id in 1..=63 {
        mirror.handle(ms(1_000), heartbeat(id, 0), 0).unwrap();
    }
    mirror.tick(ms(2_000)).unwrap();
    mirror.tick(ms(3_000)).unwrap();
    assert_eq!(beats(&mut mirror), 64, "63 answers and one heartbeat of our own");
    mirror.tick(ms(4_000)).unwrap();
    assert_eq!(beats(&mut mirror), 1, "room again");
}

#[test]
fn closing_tells_the_peer_why_and_stops_the_data() {
    let mut mirror = resumed(0, PLENTY);
    batch(&mut mirror, 91, 91, 512).unwrap();
    mirror.close(CloseReason::Verdict, "no");
    mirror.batch_durable(point(91));
    assert_eq!(all(&mut mirror), [Close { reason: CloseReason::Verdict, detail: "no".into(), trouble: None }.into()]);
    assert!(!mirror.is_streaming());
    assert_eq!(batch(&mut mirror, 92, 92, 512), Err(LinkError::Unexpected { kind: MessageKind::Batch }));
    let close = Close { reason: CloseReason::Shutdown, detail: "bye".into(), trouble: None };
    let closed = LinkError::Closed { reason: CloseReason::Shutdown, detail: "bye".into(), trouble: None };
    assert_eq!(resumed(0, 0).handle(ms(0), close.into(), 0), Err(closed));
}
