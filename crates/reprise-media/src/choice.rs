//! Which durable write is faster here and now: RWF_DSYNC, or a write with a linked fdatasync.
//!
//! With a write-through cache or FUA the first saves a flush. On a file its completion needs a kernel worker, which on a
//! machine that computes waits for a processor for milliseconds while the second way takes a fifth of one. Neither can be
//! known at start, so both are measured for as long as the medium is written: now and then a write goes the other way.

use std::fmt;
use std::time::Duration;

use crate::Durability;

/// One write in so many goes the way that is not preferred. Where that is ten times as slow it costs 4 %.
const PROBE_EVERY: u32 = 256;
/// At first the ways take turns for so many writes.
const TURNS: u32 = 16;
/// A new sample's weight is one in this.
const WEIGHT: f64 = 8.0;
/// A sample counts for at most so many times what was expected: one hiccup of the machine decides nothing.
const OUTLIER: f64 = 4.0;
/// The other way is preferred only when it is faster by this, so that two equal ways do not alternate.
const BETTER: f64 = 0.9;
/// Writes up to here are small; small and large ones are chosen for apart.
const SMALL_BYTES: usize = 64 << 10;

const WAYS: [Durability; 2] = [Durability::Dsync, Durability::ThenSync];

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Expected time of each of [`WAYS`], microseconds; none before the first sample.
    micros: [Option<f64>; WAYS.len()],
    /// Index of the preferred way.
    preferred: usize,
    writes: u32,
}

impl Size {
    fn next(&mut self) -> usize {
        self.writes = self.writes.wrapping_add(1);
        if self.writes < TURNS {
            return self.writes as usize % WAYS.len();
        }
        let probe = self.writes.is_multiple_of(PROBE_EVERY);
        if probe { 1 - self.preferred } else { self.preferred }
    }

    fn took(&mut self, way: usize, time: Duration) {
        let micros = time.as_secs_f64() * 1e6;
        let known = &mut self.micros[way];
        *known = Some(known.map_or(micros, |k| k + (micros.min(k * OUTLIER) - k) / WEIGHT));
        if let (Some(mine), Some(other)) = (self.micros[self.preferred], self.micros[1 - self.preferred])
            && other < mine * BETTER
        {
            self.preferred = 1 - self.preferred;
        }
    }
}

/// Chooses for one medium.
#[derive(Debug, Clone, Copy, Default)]
pub struct DurabilityChoice {
    small: Size,
    large: Size,
}

/// A choice that was made; goes back with the time that the write took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    way: usize,
    small: bool,
}

impl Chosen {
    /// How to write.
    pub fn durability(self) -> Durability {
        WAYS[self.way]
    }
}

impl DurabilityChoice {
    /// Chooses for a write of `len` bytes.
    pub fn next(&mut self, len: usize) -> Chosen {
        let small = len <= SMALL_BYTES;
        Chosen { way: self.size(small).next(), small }
    }

    /// The write took so long, from handing over to completion.
    pub fn took(&mut self, chosen: Chosen, time: Duration) {
        self.size(chosen.small).took(chosen.way, time);
    }

    /// The preferred way for small writes.
    pub fn preferred(&self) -> Durability {
        WAYS[self.small.preferred]
    }

    fn size(&mut self, small: bool) -> &mut Size {
        if small { &mut self.small } else { &mut self.large }
    }
}

impl fmt::Display for DurabilityChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in [("small", &self.small), ("; large", &self.large)] {
            let micros = |way: usize| size.micros[way].unwrap_or_default();
            let (dsync, sync, way) = (micros(0), micros(1), WAYS[size.preferred]);
            write!(f, "{name} {way:?}, {dsync:.0} us by dsync, {sync:.0} us by sync")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `count` times on a medium where each way takes its time; gives how many went by dsync.
    fn write(choice: &mut DurabilityChoice, count: usize, len: usize, dsync: u64, sync: u64) -> usize {
        let mut by_dsync = 0;
        for _ in 0..count {
            let chosen = choice.next(len);
            let is_dsync = chosen.durability() == Durability::Dsync;
            by_dsync += usize::from(is_dsync);
            choice.took(chosen, Duration::from_micros(if is_dsync { dsync } else { sync }));
        }
        by_dsync
    }

    #[test]
    fn the_faster_way_is_taken_and_a_change_is_seen() {
        let mut choice = DurabilityChoice::default();
        assert!(write(&mut choice, 2000, 4096, 50, 200) > 1950);
        assert_eq!(choice.preferred(), Durability::Dsync);
        // The machine gets busy.
        write(&mut choice, 100, 4096, 3000, 200);
        assert_eq!(choice.preferred(), Durability::ThenSync, "{choice}");
        assert!(write(&mut choice, 2000, 4096, 3000, 200) < 20);
        // And quiet again: seen by probes alone.
        write(&mut choice, 256 * 40, 4096, 50, 200);
        assert_eq!(choice.preferred(), Durability::Dsync, "{choice}");
    }

    #[test]
    fn small_and_large_are_apart_and_one_hiccup_decides_nothing() {
        let mut choice = DurabilityChoice::default();
        write(&mut choice, 100, 4096, 50, 100);
        write(&mut choice, 100, 1 << 20, 900, 500);
        assert_eq!(choice.preferred(), Durability::Dsync);
        assert_eq!(choice.next(1 << 20).durability(), Durability::ThenSync);
        let chosen = choice.next(4096);
        choice.took(chosen, Duration::from_secs(2));
        assert_eq!(choice.preferred(), Durability::Dsync, "{choice}");
    }
}
