//! How long hosts wait: counts by log-linear buckets, from which percentiles are told.

/// Sub-buckets of a doubling: a percentile is off by a sixteenth at most.
const SUBS: u64 = 8;
/// Doublings above the first eight microseconds; the last bucket takes everything from half an hour on.
const DOUBLINGS: u64 = 28;
const BUCKETS: usize = (SUBS + DOUBLINGS * SUBS) as usize;

/// Counts of waits, by microseconds. Of fixed size, whatever comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS] }
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < SUBS {
        return micros as usize;
    }
    let exponent = u64::from(micros.ilog2());
    let doubling = exponent - u64::from(SUBS.ilog2());
    let sub = (micros >> doubling) % SUBS;
    ((SUBS + doubling * SUBS + sub) as usize).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn micros_of(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    if bucket < SUBS {
        return bucket as f64;
    }
    let (doubling, sub) = (bucket / SUBS - 1, bucket % SUBS);
    let width = (1u64 << doubling) as f64;
    (SUBS + sub) as f64 * width + (width - 1.0) / 2.0
}

impl Histogram {
    /// Counts one wait.
    pub fn add(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(micros)) {
            *count += 1;
        }
    }

    /// The wait in milliseconds that `part` (0 to 1) of what came since `before` did not exceed; none if nothing came.
    pub fn percentile_ms(&self, before: &Self, part: f64) -> Option<f64> {
        let new = || self.counts.iter().zip(&before.counts).map(|(now, then)| now.saturating_sub(*then));
        let total: u64 = new().sum();
        let wanted = ((total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = new().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(micros_of(bucket) / 1000.0)
    }
}

/// Waits of hosts, from the last byte of a command to its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Of commands that change a volume, and flushes.
    pub writes: Histogram,
    /// Of reads.
    pub reads: Histogram,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wait_has_a_bucket_near_it_and_buckets_grow() {
        let mut last = 0;
        for micros in (0..4096).chain((12..63).map(|n| 1u64 << n)).chain([u64::MAX]) {
            let bucket = bucket_of(micros);
            assert!(bucket < BUCKETS && bucket >= last, "{micros}");
            last = bucket;
            if micros < 1 << 30 {
                let off = (micros_of(bucket) - micros as f64).abs();
                assert!(off <= micros as f64 / 16.0, "{micros}: {}", micros_of(bucket));
            }
        }
        assert_eq!(last, BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_of_what_came_since() {
        let mut h = Histogram::default();
        assert_eq!(h.percentile_ms(&Histogram::default(), 0.5), None);
        (0..1000).for_each(|_| h.add(50_000));
        let before = h.clone();
        (0..990).for_each(|_| h.add(200));
        (0..10).for_each(|_| h.add(9_000));
        let near = |part: f64, ms: f64| {
            let found = h.percentile_ms(&before, part).unwrap();
            assert!((found - ms).abs() <= ms / 16.0, "{part}: {found}");
        };
        near(0.5, 0.2);
        near(0.99, 0.2);
        near(0.995, 9.0);
        near(1.0, 9.0);
        assert_eq!(h.percentile_ms(&h.clone(), 0.5), None);
    }
}
