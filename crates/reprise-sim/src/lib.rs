//! Development only: simulated disks, lines and clocks, independent models, and what runs the product on them.
//!
//! [`pair`] runs a whole pair; [`harness`] the journal alone. The model ([`model`]) uses reprise-types only: it knows what was written and what was acknowledged, computes the
//! history hash by its own code from the rule in `docs/formats.md`, and is asked what an image must look like. The
//! harness ([`harness`]) plays the engine's part against the real journal. Nothing here has a clock or a random source:
//! a run is a function of its seed.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod disk;
pub mod harness;
pub mod model;
pub mod pair;
mod rng;

pub use disk::{Fault, Power, SimDisk};
pub use harness::{Bug, Failure, Feed, JournalHarness, Totals};
pub use rng::Rng;
