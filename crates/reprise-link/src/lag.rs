//! Age of the oldest record that is not durable at the peer, by Seq and one clock only. It belongs to the group and not to a
//! connection: records go on ageing while the link is down.

use std::collections::VecDeque;

use reprise_types::{Mono, Seq};

/// Samples kept. When they are full every second one goes, so that any backlog is covered with coarser grain.
const SAMPLES_MAX: usize = 512;

/// Finest grain of the samples.
const GRAIN_FIRST_MS: u64 = 5;

/// When records came to be. Lags are reported at most one grain too long, never too short.
#[derive(Debug, Clone)]
pub struct LagMeter {
    // (first record of the sample, when it was noted); a sample reaches to the next one's first record.
    samples: VecDeque<(Seq, Mono)>,
    last: Seq,
    grain_ms: u64,
}

impl LagMeter {
    /// Counts the records after `last`.
    pub fn new(last: Seq) -> Self {
        Self { samples: VecDeque::new(), last, grain_ms: GRAIN_FIRST_MS }
    }

    /// Records up to `last` are durable here.
    pub fn note(&mut self, now: Mono, last: Seq) {
        if last <= self.last {
            return;
        }
        let first = self.last.next();
        self.last = last;
        if self.samples.back().is_some_and(|(_, at)| now.millis_since(*at) < self.grain_ms) {
            return;
        }
        if self.samples.len() >= SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.grain_ms = self.grain_ms.saturating_mul(2);
        }
        self.samples.push_back((first, now));
    }

    /// Records up to `acked` are durable at the peer.
    pub fn acked(&mut self, acked: Seq) {
        while self.samples.get(1).is_some_and(|(first, _)| *first <= acked.next()) {
            self.samples.pop_front();
        }
        if acked >= self.last {
            self.samples.clear();
            self.grain_ms = GRAIN_FIRST_MS;
        }
    }

    /// Age of the oldest record that is not durable at the peer; 0 if there is none.
    pub fn lag_ms(&self, now: Mono) -> u64 {
        self.samples.front().map_or(0, |(_, at)| now.millis_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(n: u64) -> Seq {
        Seq::from_raw(n)
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_missing_record() {
        let mut meter = LagMeter::new(seq(10));
        assert_eq!(meter.lag_ms(Mono::from_millis(99)), 0);
        for n in 0..10_000u64 {
            meter.note(Mono::from_millis(100 + n * 10), seq(11 + n));
        }
        let now = Mono::from_millis(200_000);
        for acked in [11, 500, 5_000, 9_000] {
            meter.acked(seq(acked));
            let exact = now.millis_since(Mono::from_millis(100 + (acked + 1 - 11) * 10));
            let lag = meter.lag_ms(now);
            assert!(lag >= exact && lag <= exact + 2 * meter.grain_ms + 10, "{acked}: {lag} for {exact}");
            assert!(meter.samples.len() <= SAMPLES_MAX);
        }
        meter.acked(seq(10_010));
        assert_eq!(meter.lag_ms(now), 0);
    }
}
