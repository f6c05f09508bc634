//! What to do about a clock that is off, without touching one.

/// Offsets from here on are stepped over, nanoseconds: slewing half a second takes a quarter of an hour.
const STEP_FROM_NS: i128 = 500_000_000;
/// Answers in a row that have to agree before a clock that was right is stepped: one bad round trip must not move it.
const AGREE: u32 = 3;
/// How fast the clock may be made to run off, parts per million: what the kernel takes.
const PPM_MAX: f64 = 500.0;
/// Shortest and longest pause between two questions, seconds. The shortest is what public servers ask for.
pub(crate) const PAUSE_SECS: std::ops::RangeInclusive<u64> = 64..=1024;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    /// Set the clock.
    Step,
    /// Run faster or slower, parts per million.
    Rate(f64),
    /// Wait for another answer.
    Wait,
}

/// The loop that keeps the clock: what is left of the offset until the next answer is removed by its rate, and what comes
/// again each time is taken for the drift of the crystal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steering {
    drift_ppm: f64,
    far: u32,
    right: bool,
    pause: u64,
    last: Option<i128>,
}

impl Steering {
    /// Seconds until the next question.
    pub(crate) fn pause_secs(&self) -> u64 {
        self.pause.clamp(*PAUSE_SECS.start(), *PAUSE_SECS.end())
    }

    /// Takes an offset: how much the clock is behind.
    pub(crate) fn take(&mut self, offset_ns: i128) -> Act {
        if offset_ns.abs() >= STEP_FROM_NS {
            self.far += 1;
            self.pause = 0;
            self.last = None;
            if self.right && self.far < AGREE {
                return Act::Wait;
            }
            self.far = 0;
            self.right = true;
            return Act::Step;
        }
        let interval = self.pause_secs() as f64;
        // Nanoseconds over seconds are thousandths of a part per million.
        let error_ppm = offset_ns as f64 / interval / 1000.0;
        if self.last.is_some() {
            self.drift_ppm = (self.drift_ppm + error_ppm * 0.25).clamp(-PPM_MAX, PPM_MAX);
        }
        // Far apart questions are for clocks that are found right.
        self.pause = if offset_ns.abs() < 5_000_000 && self.last.is_some() {
            self.pause_secs() * 2
        } else {
            *PAUSE_SECS.start()
        };
        self.pause = self.pause_secs();
        self.far = 0;
        self.right = true;
        self.last = Some(offset_ns);
        let remove = offset_ns as f64 / self.pause as f64 / 1000.0;
        Act::Rate((self.drift_ppm + remove).clamp(-PPM_MAX, PPM_MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_that_was_right_is_stepped_only_when_three_answers_agree() {
        let mut steering = Steering::default();
        assert_eq!(steering.take(3_600_000_000_000), Act::Step, "at first at once");
        assert!(matches!(steering.take(1_000_000), Act::Rate(_)));
        assert_eq!(steering.take(-2_000_000_000), Act::Wait);
        assert!(matches!(steering.take(1_000_000), Act::Rate(_)), "it was a bad answer");
        for expected in [Act::Wait, Act::Wait, Act::Step] {
            assert_eq!(steering.take(-2_000_000_000), expected);
        }
    }

    proptest! {
        /// A crystal that is off by up to 100 ppm ends within 5 ms, and stays there, whatever the first offset was.
        #[test]
        fn the_clock_comes_right_and_stays_so(drift in -100.0f64..100.0, start in -400_000_000i64..400_000_000, noise in prop::collection::vec(-300_000i64..300_000, 60)) {
            let mut steering = Steering::default();
            let mut offset = start as f64;
            let (mut late, mut rate) = (0.0f64, 0.0);
            for (n, noise) in noise.iter().enumerate() {
                if let Act::Rate(ppm) = steering.take(offset as i128 + i128::from(*noise)) {
                    rate = ppm;
                }
                offset += (drift - rate) * 1000.0 * steering.pause_secs() as f64;
                if n >= 40 {
                    late = late.max(offset.abs());
                }
            }
            prop_assert!(late < 5_000_000.0, "{late} ns");
        }
    }
}
