//! Pulse, throttle, instances, waits between dials, and what an error tells the peer.

use reprise_format::link::{CloseReason, Heartbeat, Instance, MessageKind, Row};
use reprise_link::backoff::{BACKOFF_FIRST_MS, BACKOFF_MAX_MS, Backoff};
use reprise_link::pulse::Pulse;
use reprise_link::throttle::TokenBucket;
use reprise_link::{LinkError, instance};
use reprise_types::{Mono, Seq};

use crate::common::*;

fn echo(id: u64) -> Heartbeat {
    Heartbeat { id: 0, echo: id }
}

fn sent(pulse: &mut Pulse, now: u64) -> u64 {
    pulse.tick(ms(now)).unwrap().expect("a heartbeat is due").id
}

#[test]
fn heartbeats_go_out_once_a_second_and_each_has_its_own_number() {
    let mut pulse = Pulse::new(ms(500));
    assert_eq!(pulse.deadline(), ms(500));
    let first = sent(&mut pulse, 500);
    assert_ne!(first, 0, "0 would ask for no answer");
    assert_eq!(pulse.deadline(), ms(1_500));
    assert_eq!(pulse.tick(ms(1_499)), Ok(None));
    let second = sent(&mut pulse, 1_500);
    // A late call does not make up for what was left out.
    let third = sent(&mut pulse, 4_000);
    assert_eq!((pulse.tick(ms(4_000)), pulse.deadline()), (Ok(None), ms(5_000)));
    assert!(first != second && second != third && first != third);
    assert_eq!(pulse.on_heartbeat(ms(4_000), &Heartbeat { id: 33, echo: 0 }), Some(echo(33)));
    assert_eq!(pulse.on_heartbeat(ms(4_000), &echo(third)), None);
}

#[test]
fn the_round_trip_is_smoothed_and_unknown_echoes_do_not_count() {
    let mut pulse = Pulse::new(ms(0));
    let first = sent(&mut pulse, 0);
    pulse.on_heartbeat(ms(80), &echo(99));
    assert_eq!(pulse.rtt_micros(), None);
    pulse.on_heartbeat(ms(80), &echo(first));
    assert_eq!(pulse.rtt_micros(), Some(80_000));
    pulse.on_heartbeat(ms(500), &echo(first));
    assert_eq!(pulse.rtt_micros(), Some(80_000), "an echo counts once");
    let second = sent(&mut pulse, 1_000);
    pulse.on_heartbeat(ms(1_160), &echo(second));
    assert_eq!(pulse.rtt_micros(), Some(90_000), "an eighth of the way to 160 ms");
    // An echo answers what was asked before it too.
    let (third, fourth) = (sent(&mut pulse, 2_000), sent(&mut pulse, 3_000));
    pulse.on_heartbeat(ms(3_090), &echo(fourth));
    assert_eq!(pulse.rtt_micros(), Some(90_000));
    pulse.on_heartbeat(ms(9_000), &echo(third));
    assert_eq!(pulse.rtt_micros(), Some(90_000));
}

#[test]
fn a_connection_is_dead_after_ten_seconds_without_a_byte() {
    let mut pulse = Pulse::new(ms(0));
    pulse.heard(ms(3_000));
    pulse.heard(ms(2_000));
    assert!(pulse.tick(ms(12_999)).is_ok());
    assert_eq!(pulse.tick(ms(13_000)), Err(LinkError::Silent { silent_ms: 10_000 }));
}

#[test]
fn a_peer_that_does_not_hear_us_is_told_from_a_pause_of_our_own() {
    // We asked nothing for twenty seconds, so there was nothing to echo.
    let mut pulse = Pulse::new(ms(0));
    let first = sent(&mut pulse, 0);
    pulse.on_heartbeat(ms(100), &echo(first));
    pulse.heard(ms(20_000));
    let again = sent(&mut pulse, 20_000);
    pulse.heard(ms(29_999));
    assert!(pulse.tick(ms(29_999)).is_ok(), "ten seconds to answer the question that was asked then");
    pulse.heard(ms(30_000));
    assert_eq!(pulse.tick(ms(30_000)), Err(LinkError::Unheard { unheard_ms: 29_900 }));
    pulse.on_heartbeat(ms(30_000), &echo(again));
    assert!(pulse.tick(ms(30_000)).is_ok());
    // A late echo of an old question is a sign too.
    let mut pulse = Pulse::new(ms(0));
    let old = sent(&mut pulse, 0);
    for second in 1..=9 {
        sent(&mut pulse, second * 1_000);
        pulse.heard(ms(second * 1_000));
    }
    pulse.on_heartbeat(ms(9_999), &echo(old));
    assert!(pulse.tick(ms(11_500)).is_ok(), "heard nine to ten seconds late is heard");
}

#[test]
fn a_bucket_gives_what_it_holds_and_says_when_it_holds_enough() {
    let mut bucket = TokenBucket::new(ms(0), 1_000, 500);
    assert_eq!(bucket.rate(), 1_000);
    assert_eq!(bucket.take(ms(0), 200), Ok(()));
    assert_eq!(bucket.take(ms(0), 300), Ok(()), "to the last byte");
    // Ten bytes are there 10 ms later, and not before.
    let at = bucket.take(ms(0), 10).unwrap_err();
    assert!(at >= ms(10) && at <= ms(11), "{at:?}");
    assert!(bucket.take(ms(9), 10).is_err());
    assert_eq!(bucket.take(at, 10), Ok(()));
    assert!(bucket.take(at, 1).is_err(), "it was taken");
    // It never holds more than the burst.
    assert_eq!(bucket.take(ms(60_000), 500), Ok(()));
    assert!(bucket.take(ms(60_000), 1).is_err());
}

#[test]
fn a_message_larger_than_the_bucket_goes_when_it_is_full_and_is_paid_off_after() {
    let mut bucket = TokenBucket::new(ms(0), 1_000, 500);
    assert_eq!(bucket.take(ms(0), 2_000), Ok(()), "nothing is stuck for ever");
    // 1500 bytes are owed, and a byte more is to be there.
    let at = bucket.take(ms(0), 1).unwrap_err();
    assert!(at >= ms(1_501) && at <= ms(1_502), "{at:?}");
    // For another one like it the bucket has to be full again.
    let full = bucket.take(ms(0), 2_000).unwrap_err();
    assert!(full >= ms(2_000) && full <= ms(2_001), "{full:?}");
}

#[test]
fn what_is_charged_is_owed_and_time_pays_it() {
    let mut bucket = TokenBucket::new(ms(0), 1_000, 500);
    assert!(bucket.is_ready(ms(0)));
    bucket.charge(ms(0), 500);
    assert!(bucket.is_ready(ms(0)), "nothing is owed");
    bucket.charge(ms(0), 100);
    assert!(!bucket.is_ready(ms(0)) && !bucket.is_ready(ms(99)));
    assert!(bucket.is_ready(ms(100)));
    // A clock that seems to go back gives nothing twice.
    bucket.charge(ms(100), 1_000);
    assert!(!bucket.is_ready(ms(50)) && !bucket.is_ready(ms(1_099)) && bucket.is_ready(ms(1_100)));
}

#[test]
fn a_rate_that_is_changed_counts_from_then_on() {
    let mut bucket = TokenBucket::new(ms(0), 1_000, 0);
    bucket.charge(ms(0), 1_000);
    // Half a second at the old rate pays 500, a tenth at ten times the rate 1000.
    bucket.set_rate(ms(500), 10_000);
    assert_eq!(bucket.rate(), 10_000);
    assert!(!bucket.is_ready(ms(549)) && bucket.is_ready(ms(550)));
    // Without a limit nothing is owed, nor counted.
    bucket.set_rate(ms(550), 0);
    assert_eq!(bucket.rate(), 0);
    bucket.charge(ms(550), 1 << 40);
    assert!(bucket.is_ready(ms(550)));
    bucket.set_rate(ms(550), 1);
    assert!(bucket.is_ready(ms(550)), "what passed without a limit is not owed");
    let mut free = TokenBucket::default();
    assert!(free.rate() == 0 && free.is_ready(Mono::default()) && free.take(ms(0), u64::MAX) == Ok(()));
}

#[test]
fn waits_between_dials_are_between_half_and_the_whole_of_the_step() {
    let waits = |failures: u32| {
        let delay = |jitter| {
            let mut backoff = Backoff::default();
            for _ in 0..failures {
                backoff.next_delay_ms(0);
            }
            backoff.next_delay_ms(jitter)
        };
        let all: Vec<u64> = (0..10_000).map(delay).collect();
        (*all.iter().min().unwrap(), *all.iter().max().unwrap())
    };
    assert_eq!(waits(0), (BACKOFF_FIRST_MS / 2, BACKOFF_FIRST_MS));
    assert_eq!(waits(1), (BACKOFF_FIRST_MS, 2 * BACKOFF_FIRST_MS));
    assert_eq!(waits(3), (4 * BACKOFF_FIRST_MS, 8 * BACKOFF_FIRST_MS));
    assert_eq!(waits(40), (BACKOFF_MAX_MS / 2, BACKOFF_MAX_MS));
    let mut backoff = Backoff::default();
    (0..20).for_each(|_| assert!(backoff.next_delay_ms(1) > 1));
    backoff.reset();
    assert!(backoff.next_delay_ms(u32::MAX) <= BACKOFF_FIRST_MS);
}

#[test]
fn an_instance_goes_on_only_when_it_was_confirmed() {
    let first = instance::first([1; 16]);
    assert_eq!(first, Instance { acknowledged: [0; 16], current: [1; 16] });
    assert_eq!(instance::on_start(first, [2; 16]), None, "the peer may have seen it and its word been lost");
    let confirmed = instance::on_confirmed(first);
    assert_eq!(confirmed, Instance { acknowledged: [1; 16], current: [1; 16] });
    let next = instance::on_start(confirmed, [2; 16]).unwrap();
    assert_eq!(next, Instance { acknowledged: [1; 16], current: [2; 16] });
    for (seen, continues) in [(None, true), (Some([1; 16]), true), (Some([2; 16]), true), (Some([3; 16]), false)] {
        assert_eq!(instance::continues(&next, seen.as_ref()), continues, "{seen:?}");
    }
}

#[test]
fn the_peer_is_told_why_where_it_can_hear() {
    let at = Seq::ZERO;
    let cases = [
        (LinkError::Silent { silent_ms: 1 }, None),
        (LinkError::Closed { reason: CloseReason::Shutdown, detail: String::new(), trouble: None }, None),
        (LinkError::Unheard { unheard_ms: 1 }, Some(CloseReason::Shutdown)),
        (LinkError::Diverged { at }, Some(CloseReason::Diverged)),
        (LinkError::Disagree { ours: Row::Resume, theirs: Row::Diverged }, Some(CloseReason::Verdict)),
        (LinkError::Unexpected { kind: MessageKind::Batch }, Some(CloseReason::ProtocolViolation)),
        (LinkError::AckUnproven { acked: at }, Some(CloseReason::ProtocolViolation)),
        (LinkError::BadCopyEnd, Some(CloseReason::ProtocolViolation)),
    ];
    for (error, reason) in cases {
        assert_eq!(error.close_reason(), reason, "{error}");
    }
}
