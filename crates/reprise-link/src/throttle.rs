//! A limit on the rate at which bulk data is sent.

use reprise_types::Mono;

/// A token bucket in bytes. It lends: a message larger than the bucket passes when the bucket is full and is paid off
/// after, so that no size can be stuck for ever.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: u64,
    burst: u64,
    // Nano-bytes would lose nothing to rounding; the balance is kept in bytes times 10^9.
    balance: i128,
    filled_at: Mono,
}

const NANO: i128 = 1_000_000_000;

/// One without a limit.
impl Default for TokenBucket {
    fn default() -> Self {
        Self::new(Mono::default(), 0, 0)
    }
}

impl TokenBucket {
    /// A full bucket of `burst` bytes that gains `rate` bytes a second; a rate of 0 means no limit.
    pub fn new(now: Mono, rate: u64, burst: u64) -> Self {
        Self { rate, burst, balance: i128::from(burst) * NANO, filled_at: now }
    }

    /// Changes the rate from now on.
    pub fn set_rate(&mut self, now: Mono, rate: u64) {
        self.fill(now);
        self.rate = rate;
    }

    fn fill(&mut self, now: Mono) {
        let gained = i128::from(now.since(self.filled_at)) * i128::from(self.rate);
        self.balance = (self.balance + gained).min(i128::from(self.burst) * NANO);
        self.filled_at = self.filled_at.max(now);
    }

    /// True where nothing is owed: [`Self::charge`] may lend again.
    pub fn is_ready(&mut self, now: Mono) -> bool {
        self.fill(now);
        self.rate == 0 || self.balance >= 0
    }

    /// Takes `bytes` whatever there is; what is missing is owed.
    pub fn charge(&mut self, now: Mono, bytes: u64) {
        self.fill(now);
        if self.rate != 0 {
            self.balance -= i128::from(bytes) * NANO;
        }
    }

    /// The rate in bytes a second; 0 for no limit.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Takes `bytes`, or says when to try again.
    pub fn take(&mut self, now: Mono, bytes: u64) -> Result<(), Mono> {
        if self.rate == 0 {
            return Ok(());
        }
        self.fill(now);
        let needed = i128::from(bytes.min(self.burst)) * NANO;
        if self.balance >= needed {
            self.balance -= i128::from(bytes) * NANO;
            return Ok(());
        }
        let missing = needed - self.balance;
        let wait = missing.div_euclid(i128::from(self.rate)) + 1;
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Err(Mono::from_nanos(now.nanos().saturating_add(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_paid_off_before_more_is_lent() {
        let mut bucket = TokenBucket::new(Mono::from_millis(0), 1000, 0);
        let mut lent = 0;
        for ms in 0..10_000 {
            let now = Mono::from_millis(ms);
            if bucket.is_ready(now) {
                bucket.charge(now, 300);
                lent += 300;
            }
        }
        assert!((9_900..=10_300).contains(&lent), "{lent}");
        bucket.set_rate(Mono::from_millis(10_000), 0);
        assert!(bucket.is_ready(Mono::from_millis(10_000)), "no limit");
    }

    #[test]
    fn long_run_rate_is_the_rate_for_any_message_size() {
        for size in [100u64, 4096, 70_000, 300_000] {
            let mut now = Mono::from_millis(1);
            let mut bucket = TokenBucket::new(now, 32_000, 64_000);
            let (start, mut sent) = (now, 0u64);
            while now.millis_since(start) < 60_000 {
                match bucket.take(now, size) {
                    Ok(()) => sent += size,
                    Err(at) => {
                        assert!(at > now);
                        now = at;
                    }
                }
            }
            let allowed = 64_000 + 32_000 * 60 + size;
            assert!(sent <= allowed && sent + size + 64_000 >= allowed - size, "{size}: {sent} of {allowed}");
        }
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut bucket = TokenBucket::new(Mono::from_millis(0), 0, 0);
        assert_eq!(bucket.take(Mono::from_millis(0), u64::MAX), Ok(()));
    }
}
