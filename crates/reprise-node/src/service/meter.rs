//! Rates from counters, and when the cache will be full.

use std::collections::VecDeque;
use std::sync::Arc;

use reprise_api::Rates;

use crate::group::{Histogram, Latencies};

/// Samples kept: rates are averages over the seconds between the first and the last.
const SAMPLES: usize = 6;
/// Growth of the journal is looked at over this many seconds. What hosts write is applied and trimmed in rounds, ten seconds
/// apart at most: the journal goes up and down, and grows only if its low points do. Each half of the time has some.
const GROWTH_SECS: f64 = 60.0;
/// No forecast before so many seconds are known.
const GROWTH_SECS_MIN: f64 = 30.0;
/// Growth below this is no growth: a forecast of years helps nobody.
const GROWTH_MIN: f64 = 1024.0;

/// Counters of a group at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) secs: f64,
    pub(crate) bytes_in: u64,
    pub(crate) writes: u64,
    pub(crate) bytes_read: u64,
    pub(crate) reads: u64,
    pub(crate) bytes_applied: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) bytes_out: u64,
    pub(crate) bytes_in_link: u64,
    pub(crate) held_bytes: u64,
    pub(crate) copied_bytes: u64,
    pub(crate) latencies: Arc<Latencies>,
}

/// Turns samples, a second apart or so, into rates.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<Sample>,
    /// Seconds, and bytes held then. Bounded by its time.
    held: VecDeque<(f64, u64)>,
    /// Bytes sent on connections that are gone.
    wire_before: u64,
}

/// What flows on the link and in the copy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct LinkRates {
    pub(crate) tx: f64,
    pub(crate) rx: f64,
    pub(crate) copy: f64,
}

impl Meter {
    /// Takes a sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        if let Some(last) = self.samples.back() {
            let secs = sample.secs - last.secs;
            if secs <= 0.0 {
                return;
            }
            if sample.bytes_out < last.bytes_out {
                self.wire_before = self.wire_before.saturating_add(last.bytes_out);
            }
        }
        self.held.push_back((sample.secs, sample.held_bytes));
        while self.held.front().is_some_and(|(at, _)| sample.secs - at > GROWTH_SECS) {
            self.held.pop_front();
        }
        self.samples.push_back(sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    fn rate(&self, value: impl Fn(&Sample) -> u64) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some(first), Some(last)) if last.secs > first.secs => {
                // A counter of a connection starts over with the connection.
                value(last).saturating_sub(value(first)) as f64 / (last.secs - first.secs)
            }
            _ => 0.0,
        }
    }

    /// Of the group. `with_peer`: what drains is known.
    pub(crate) fn rates(&self, with_peer: bool) -> Rates {
        let drained = |s: &Sample| s.bytes_in.saturating_sub(s.lag_bytes);
        Rates {
            write_bytes_per_sec: self.rate(|s| s.bytes_in),
            write_iops: self.rate(|s| s.writes),
            read_bytes_per_sec: self.rate(|s| s.bytes_read),
            read_iops: self.rate(|s| s.reads),
            apply_bytes_per_sec: self.rate(|s| s.bytes_applied),
            drain_bytes_per_sec: if with_peer { self.rate(drained) } else { 0.0 },
            write_latency_p50_ms: self.latency(|l| &l.writes, 0.5),
            write_latency_p99_ms: self.latency(|l| &l.writes, 0.99),
            read_latency_p50_ms: self.latency(|l| &l.reads, 0.5),
            read_latency_p99_ms: self.latency(|l| &l.reads, 0.99),
        }
    }

    fn latency(&self, of: impl Fn(&Latencies) -> &Histogram, part: f64) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        of(&last.latencies).percentile_ms(of(&first.latencies), part)
    }

    /// Bytes a second by which the low points of the journal rise.
    fn growth(&self) -> Option<f64> {
        let (first, last) = (self.held.front()?.0, self.held.back()?.0);
        if last - first < GROWTH_SECS_MIN {
            return None;
        }
        let half = first + (last - first) / 2.0;
        let low = |late: bool| self.held.iter().filter(|(at, _)| (*at > half) == late).map(|(_, held)| *held).min();
        Some((low(true)? as f64 - low(false)? as f64) / ((last - first) / 2.0))
    }

    /// Of the link.
    pub(crate) fn link(&self) -> LinkRates {
        LinkRates {
            tx: self.rate(|s| s.bytes_out),
            rx: self.rate(|s| s.bytes_in_link),
            copy: self.rate(|s| s.copied_bytes),
        }
    }

    /// Bytes sent on the wire, over all connections.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_before.saturating_add(self.samples.back().map_or(0, |s| s.bytes_out))
    }

    /// Seconds until `free` bytes are used at the present growth; none while the journal does not grow.
    pub(crate) fn forecast(&self, free: u64) -> Option<f64> {
        self.growth().filter(|g| *g > GROWTH_MIN).map(|g| free as f64 / g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_and_the_forecast_follows_growth() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(true), Rates::default());
        assert_eq!(meter.forecast(1 << 30), None);
        for n in 0..200u64 {
            meter.push(Sample {
                secs: n as f64,
                bytes_in: n * 10_000,
                writes: n * 10,
                lag_bytes: n * 4_000,
                held_bytes: n * 4_000,
                ..Sample::default()
            });
        }
        let rates = meter.rates(true);
        assert_eq!(rates.write_bytes_per_sec, 10_000.0);
        assert_eq!(rates.write_iops, 10.0);
        assert_eq!(rates.drain_bytes_per_sec, 6_000.0);
        assert_eq!(meter.rates(false).drain_bytes_per_sec, 0.0);
        let left = meter.forecast(400_000).unwrap();
        assert!((90.0..110.0).contains(&left), "{left}");
        for n in 200..400u64 {
            meter.push(Sample { secs: n as f64, held_bytes: 800_000 - (n - 200) * 2_000, ..Sample::default() });
        }
        assert_eq!(meter.forecast(400_000), None, "it drains");
    }

    #[test]
    fn a_journal_that_goes_up_and_down_is_not_filling() {
        let mut meter = Meter::default();
        let mut push = |n: u64, held_bytes| {
            meter.push(Sample { secs: n as f64, held_bytes, ..Sample::default() });
            meter.forecast(1 << 30)
        };
        // Rounds of ten seconds, for minutes: at no moment does it look like growth.
        for n in 0..300u64 {
            assert_eq!(push(n, n % 10 * 4_000_000), None, "second {n}");
        }
        // Idle with something held, as with a mirror that is paused after a burst.
        for n in 300..330 {
            push(n, 900_000_000);
        }
        for n in 330..420 {
            let forecast = push(n, 900_000_000);
            assert!(n < 365 || forecast.is_none(), "second {n}: {forecast:?}");
        }
        // The peer is gone: the low points rise with what is written.
        let mut last = None;
        for n in 420..520u64 {
            last = push(n, 900_000_000 + (n - 420) * 1_000_000 + n % 10 * 400_000);
        }
        let secs = last.expect("it fills");
        assert!((900.0..1250.0).contains(&secs), "{secs}");
    }

    #[test]
    fn a_counter_that_starts_over_and_a_clock_that_stands_still_are_harmless() {
        let mut meter = Meter::default();
        meter.push(Sample { secs: 1.0, bytes_out: 1000, ..Sample::default() });
        meter.push(Sample { secs: 1.0, bytes_out: 2000, ..Sample::default() });
        assert_eq!(meter.link(), LinkRates::default());
        meter.push(Sample { secs: 2.0, bytes_out: 10, ..Sample::default() });
        assert_eq!(meter.link().tx, 0.0);
    }
}
