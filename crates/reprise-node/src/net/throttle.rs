//! The limit of sending, common to all connections of the box.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reprise_link::throttle::TokenBucket;
use reprise_types::Mono;

/// Longest wait before a connection looks again: a limit that was raised counts from then on.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A token bucket that all writers of bulk share. Who comes first takes; frames are small, so nobody waits long.
#[derive(Debug)]
pub(super) struct Throttle {
    started: Instant,
    bucket: Mutex<TokenBucket>,
}

/// A quarter of a second of burst: smooth, and large enough for the timer's grain.
fn bucket(now: Mono, rate: u64) -> TokenBucket {
    TokenBucket::new(now, rate, (rate / 4).max(1))
}

impl Throttle {
    pub(super) fn new(bytes_per_sec: u64) -> Self {
        Self { started: Instant::now(), bucket: Mutex::new(bucket(Mono::default(), bytes_per_sec)) }
    }

    fn now(&self) -> Mono {
        Mono::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Limits bulk to so many bytes a second; 0 for no limit.
    pub(super) fn set(&self, bytes_per_sec: u64) {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = bucket(self.now(), bytes_per_sec);
    }

    /// Takes `bytes`, or says how long to wait before asking again.
    pub(super) fn take(&self, bytes: usize) -> Result<(), Duration> {
        let now = self.now();
        let taken = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now, bytes as u64);
        taken.map_err(|at| Duration::from_nanos(at.since(now)).min(LOOK_AGAIN))
    }
}
