//! Time as the sans-I/O crates see it: handed in with every event, never asked for.

use serde::{Deserialize, Serialize};

/// Nanoseconds of a clock that only goes forward and counts sleep (the boot-time clock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    /// Takes nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
    /// Takes milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }
    /// The nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }
    /// Nanoseconds since `earlier`; 0 if it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
    /// Milliseconds since `earlier`; 0 if it is not earlier.
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.since(earlier) / 1_000_000
    }
    /// `self + millis`, saturating.
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }
}

/// Microseconds since 1970 by the box's wall clock, which may be wrong and may jump. A label, never an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallMicros(u64);

impl WallMicros {
    /// Takes microseconds since 1970.
    pub const fn from_raw(micros: u64) -> Self {
        Self(micros)
    }
    /// Microseconds since 1970.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The moment of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For durations and deadlines.
    pub mono: Mono,
    /// For labels.
    pub wall: WallMicros,
}
