//! When to dial again.

/// First wait. A cut that heals at once is resumed well within a second.
pub const BACKOFF_FIRST_MS: u64 = 50;

/// Longest wait: short enough that a healed line is used soon, long enough to cost nothing.
pub const BACKOFF_MAX_MS: u64 = 5_000;

/// Waits between attempts to dial: doubling from [`BACKOFF_FIRST_MS`] to [`BACKOFF_MAX_MS`].
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Milliseconds to wait after another failure: between half and the whole of the step, by `jitter` (any random
    /// number), so that two boxes do not dial in step.
    pub fn next_delay_ms(&mut self, jitter: u32) -> u64 {
        let step = BACKOFF_FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        half + u64::from(jitter) % (step - half + 1)
    }

    /// To be called once the handshake is through, not on a mere TCP connect: a peer that accepts and closes is not to
    /// be dialled in a tight loop.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_within_jitter_and_starts_over() {
        let mut backoff = Backoff::default();
        for (n, jitter) in [0, u32::MAX, 7, 123_456, 0, 1, 2, 3, 4, 5, 6, 7].into_iter().enumerate() {
            let step = (BACKOFF_FIRST_MS << n).min(BACKOFF_MAX_MS);
            let delay = backoff.next_delay_ms(jitter);
            assert!(delay >= step / 2 && delay <= step, "attempt {n}: {delay} of {step}");
        }
        let mut total = 0;
        backoff.reset();
        for _ in 0..4 {
            total += backoff.next_delay_ms(u32::MAX);
        }
        assert!(total < 1_000, "four attempts take {total} ms");
    }
}
