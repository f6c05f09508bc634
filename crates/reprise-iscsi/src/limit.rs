//! How much an initiator may ask for in a second.

use std::num::{NonZeroU32, NonZeroU64};

use reprise_types::Mono;

/// What was not used in the last tenth of a second may be used at once: the timers of hosts and ours are not finer.
const BURST_NANOS: u64 = 100_000_000;
const SECOND_NANOS: u64 = 1_000_000_000;

/// Limits of one initiator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// SCSI commands a second.
    pub commands_per_sec: Option<NonZeroU32>,
    /// Bytes a second, reads and writes together.
    pub bytes_per_sec: Option<NonZeroU64>,
}

impl Limit {
    /// True if nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Commands that may be under way, `most` without a limit: what waits in the socket goes through within about a
    /// second, so that a NOP or a task management function behind it is answered in time.
    pub fn window(&self, most: u32) -> u32 {
        let commands = self.commands_per_sec.map_or(most, NonZeroU32::get);
        let large = self.bytes_per_sec.map_or(u64::from(most), |rate| rate.get() / (256 << 10));
        commands.min(u32::try_from(large).unwrap_or(most)).clamp(1, most.max(1))
    }
}

/// Two token buckets, for commands and for bytes, that all sessions of an initiator share.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    limit: Limit,
    /// When each bucket is full again, in nanoseconds.
    commands_full: u64,
    bytes_full: u64,
}

impl Throttle {
    /// Full buckets.
    pub fn new(limit: Limit) -> Self {
        Self { limit, commands_full: 0, bytes_full: 0 }
    }

    /// The limits.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// Changes the limits; what was taken stays taken.
    pub fn set_limit(&mut self, limit: Limit) {
        self.limit = limit;
    }

    /// Takes a command of `bytes` out of the buckets and says when it may begin.
    pub fn admit(&mut self, now: Mono, bytes: u32) -> Mono {
        let now = now.nanos();
        let mut at = now;
        if let Some(rate) = self.limit.commands_per_sec {
            let begins = self.commands_full.saturating_sub(BURST_NANOS).max(now);
            self.commands_full = self.commands_full.max(now).saturating_add(SECOND_NANOS / u64::from(rate.get()));
            at = at.max(begins);
        }
        if let Some(rate) = self.limit.bytes_per_sec {
            let begins = self.bytes_full.saturating_sub(BURST_NANOS).max(now);
            let cost = u128::from(bytes) * u128::from(SECOND_NANOS) / u128::from(rate.get());
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            self.bytes_full = self.bytes_full.max(now).saturating_add(cost);
            at = at.max(begins);
        }
        Mono::from_nanos(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(commands: u32, bytes: u64) -> Limit {
        Limit { commands_per_sec: NonZeroU32::new(commands), bytes_per_sec: NonZeroU64::new(bytes) }
    }

    #[test]
    fn rates_hold_over_time_and_a_pause_gives_a_short_burst() {
        for (limit, bytes, per_second) in
            [(limit(100, 0), 4096, 100), (limit(0, 10 << 20), 64 << 10, 160), (limit(50, 1 << 30), 512, 50)]
        {
            let mut throttle = Throttle::new(limit);
            let start = Mono::from_millis(50_000);
            let mut now = start;
            let mut done = 0;
            while now.millis_since(start) < 10_000 {
                now = throttle.admit(now, bytes);
                done += 1;
            }
            let most = per_second * 10 + per_second / 10 + 2;
            assert!((per_second * 10..=most).contains(&done), "{limit:?}: {done}");
            // A minute of silence saves up a tenth of a second, not a minute.
            now = now.plus_millis(60_000);
            let burst = (0..per_second).take_while(|_| throttle.admit(now, bytes) == now).count();
            assert!((1..=per_second / 10 + 1).contains(&(burst as u32)), "{limit:?}: {burst}");
        }
    }

    #[test]
    fn one_large_command_passes_and_is_paid_for_after() {
        let mut throttle = Throttle::new(limit(0, 1 << 20));
        let now = Mono::from_millis(7);
        assert_eq!(throttle.admit(now, 4 << 20), now);
        assert_eq!(throttle.admit(now, 512).millis_since(now), 3900);
        assert!(Limit::default().is_none() && Throttle::default().admit(now, u32::MAX) == now);
    }

    #[test]
    fn the_window_is_about_a_second_of_commands() {
        assert_eq!(Limit::default().window(128), 128);
        assert_eq!((limit(10, 0).window(128), limit(1000, 0).window(128)), (10, 128));
        assert_eq!((limit(0, 1 << 20).window(128), limit(0, 1000).window(128)), (4, 1));
    }
}
