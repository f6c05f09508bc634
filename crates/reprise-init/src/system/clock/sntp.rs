//! A client of NTP (RFC 5905, with the simplifications of section 14): one packet each way, without clock or socket.

use std::time::Duration;

/// Bytes of a packet without extensions.
pub(crate) const PACKET_LEN: usize = 48;
/// Seconds from 1900 to 1970.
const EPOCH_OFFSET: u64 = 2_208_988_800;
/// Largest distance of a server to the source of its time that is believed (RFC 5905, section 11: MAXDIST), and the
/// largest round trip.
const DISTANCE_MAX: Duration = Duration::from_millis(1500);

/// Why an answer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is none, or not to this question.
    NotAnAnswer,
    /// The server says that it does not know the time.
    Unsynchronized,
    /// The server wants to be left alone ("kiss of death").
    GoAway,
    /// It is too old or too far away.
    TooFar,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAnAnswer => "what came is no answer",
            Self::Unsynchronized => "the server does not know the time itself",
            Self::GoAway => "the server wants to be left alone",
            Self::TooFar => "the answer took too long",
        })
    }
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// How much the clock is behind, nanoseconds.
    pub(crate) offset_ns: i128,
    /// The round trip.
    pub(crate) delay: Duration,
}

/// A question. `cookie` is random: nothing of the box's clock is told, and only who saw the question can answer it
/// (draft-ietf-ntp-data-minimization).
pub(crate) fn question(cookie: u64) -> [u8; PACKET_LEN] {
    let mut packet = [0; PACKET_LEN];
    packet[0] = 4 << 3 | 3;
    packet[40..].copy_from_slice(&cookie.to_be_bytes());
    packet
}

fn stamp(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// Nanoseconds since 1970 of a time stamp. Its 32 bits of seconds wrap in 2036: those before 1968 mean the era after that.
fn unix_ns(stamp: u64) -> i128 {
    let seconds = stamp >> 32;
    let era = if seconds < 1 << 31 { 1u64 << 32 } else { 0 };
    let fraction = ((stamp & 0xffff_ffff) * 1_000_000_000) >> 32;
    (i128::from(seconds + era) - i128::from(EPOCH_OFFSET)) * 1_000_000_000 + i128::from(fraction)
}

/// Reads the answer to a question that was sent when the clock showed `sent_ns` and came back `round_trip` later.
///
/// # Errors
/// It cannot be used.
pub(crate) fn answer(packet: &[u8], cookie: u64, sent_ns: i128, round_trip: Duration) -> Result<Sample, Refusal> {
    let [first, stratum, ..] = packet else { return Err(Refusal::NotAnAnswer) };
    let (leap, version, mode) = (first >> 6, first >> 3 & 7, first & 7);
    if packet.len() < PACKET_LEN || mode != 4 || !(3..=4).contains(&version) || stamp(&packet[24..]) != Some(cookie) {
        return Err(Refusal::NotAnAnswer);
    }
    match stratum {
        0 => return Err(Refusal::GoAway),
        1..=15 if leap != 3 => {}
        _ => return Err(Refusal::Unsynchronized),
    }
    let root = |at: usize| u64::from(u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]));
    // 16.16 fixed point seconds.
    let distance = Duration::from_nanos((root(4) / 2 + root(8)).saturating_mul(1_000_000_000) >> 16);
    if distance > DISTANCE_MAX || round_trip > DISTANCE_MAX {
        return Err(Refusal::TooFar);
    }
    let (Some(received), Some(sent)) = (stamp(&packet[32..]), stamp(&packet[40..])) else {
        return Err(Refusal::NotAnAnswer);
    };
    if sent == 0 || received == 0 {
        return Err(Refusal::Unsynchronized);
    }
    let (t1, t2, t3) = (sent_ns, unix_ns(received), unix_ns(sent));
    let t4 = t1 + round_trip.as_nanos() as i128;
    let held = t3 - t2;
    if held < 0 || held > (round_trip.as_nanos() as i128) {
        return Err(Refusal::NotAnAnswer);
    }
    let delay = Duration::from_nanos((t4 - t1 - held) as u64);
    Ok(Sample { offset_ns: ((t2 - t1) + (t3 - t4)) / 2, delay })
}

/// The sample that is followed: the one in the middle of all, so that a single server that is wrong moves nothing among
/// three. Gives its place.
pub(crate) fn choose(samples: &[Sample]) -> Option<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|at| (samples[*at].offset_ns, *at));
    match order[..] {
        [] => None,
        // Of two that differ nobody knows which is right: the nearer one.
        [a, b] => Some(if samples[a].delay <= samples[b].delay { a } else { b }),
        _ => Some(order[order.len() / 2]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i128 = 1_800_000_000_000_000_000;

    fn ntp(unix_ns: i128) -> u64 {
        let seconds = (unix_ns / 1_000_000_000) as u64 + EPOCH_OFFSET;
        let fraction = ((unix_ns % 1_000_000_000) as u64) << 32;
        ((seconds & 0xffff_ffff) << 32) | (fraction / 1_000_000_000)
    }

    /// A server's answer whose clock is `ahead` of the box's.
    fn packet(cookie: u64, ahead: i128, there: i128, held: i128) -> Vec<u8> {
        let mut packet = vec![0; PACKET_LEN];
        packet[0] = 4 << 3 | 4;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&cookie.to_be_bytes());
        packet[32..40].copy_from_slice(&ntp(NOW + ahead + there).to_be_bytes());
        packet[40..48].copy_from_slice(&ntp(NOW + ahead + there + held).to_be_bytes());
        packet
    }

    const TRIP: Duration = Duration::from_millis(30);

    #[test]
    fn the_offset_is_what_the_clock_is_behind() {
        for ahead in [0, 5_000_000_000, -700_000_000, 400_000_000_000_000_000] {
            let sample = answer(&packet(7, ahead, 10_000_000, 10_000_000), 7, NOW, TRIP).unwrap();
            assert!((sample.offset_ns - ahead).abs() < 10, "{ahead}: {sample:?}");
            assert!(sample.delay.abs_diff(Duration::from_millis(20)) < Duration::from_nanos(10), "{sample:?}");
        }
    }

    #[test]
    fn what_is_no_good_answer_is_refused() {
        let good = packet(7, 0, 10_000_000, 1_000_000);
        let with = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            edit(&mut bytes);
            answer(&bytes, 7, NOW, TRIP).unwrap_err()
        };
        assert_eq!(with(&|p| p.truncate(47)), Refusal::NotAnAnswer);
        assert_eq!(with(&|p| p.clear()), Refusal::NotAnAnswer);
        assert_eq!(with(&|p| p[31] ^= 1), Refusal::NotAnAnswer, "another question's");
        assert_eq!(with(&|p| p[0] = 4 << 3 | 3), Refusal::NotAnAnswer, "a question");
        assert_eq!(with(&|p| p[1] = 0), Refusal::GoAway);
        assert_eq!(with(&|p| p[1] = 16), Refusal::Unsynchronized);
        assert_eq!(with(&|p| p[0] |= 0xc0), Refusal::Unsynchronized);
        assert_eq!(with(&|p| p[8..12].copy_from_slice(&[0, 2, 0, 0])), Refusal::TooFar);
        assert_eq!(with(&|p| p[40..48].fill(0)), Refusal::Unsynchronized);
        assert_eq!(answer(&good, 7, NOW, Duration::from_secs(2)), Err(Refusal::TooFar));
        let slow = packet(7, 0, 10_000_000, 40_000_000);
        assert_eq!(answer(&slow, 7, NOW, TRIP), Err(Refusal::NotAnAnswer), "held longer than the round trip took");
    }

    #[test]
    fn one_wrong_server_among_three_moves_nothing() {
        let sample = |ms: i128, delay| Sample { offset_ns: ms * 1_000_000, delay: Duration::from_millis(delay) };
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[sample(5, 9)]), Some(0));
        assert_eq!(choose(&[sample(5, 9), sample(90_000, 3)]), Some(1));
        assert_eq!(choose(&[sample(5, 9), sample(99_000_000, 1), sample(7, 9)]), Some(2));
        assert_eq!(choose(&[sample(5, 9), sample(-99_000_000, 1), sample(7, 9)]), Some(0));
    }

    #[test]
    fn the_era_after_2036_is_understood() {
        assert_eq!(unix_ns(0), (i128::from(1u64 << 32) - i128::from(EPOCH_OFFSET)) * 1_000_000_000);
        assert_eq!(unix_ns(ntp(NOW)) / 1_000_000_000, NOW / 1_000_000_000);
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80), like in any::<bool>(), trip in 0u64..4_000_000_000,
        ) {
            if like && bytes.len() >= PACKET_LEN {
                bytes[..2].copy_from_slice(&[4 << 3 | 4, 1]);
                bytes[4..12].fill(0);
                bytes[24..32].copy_from_slice(&7u64.to_be_bytes());
            }
            let _ = answer(&bytes, 7, NOW, Duration::from_nanos(trip));
        }
    }
}
