//! Development only: a simulated disk, an independent model of the journal, and a harness that cuts the power.
//!
//! The model ([`model`]) uses reprise-types only: it knows what was written and what was acknowledged, computes the
//! history hash by its own code from the rule in `docs/formats.md`, and is asked what an image must look like. The
//! harness ([`harness`]) plays the engine's part against the real journal. Nothing here has a clock or a random source:
//! a run is a function of its seed.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod disk;
pub mod harness;
pub mod model;
mod rng;

pub use disk::{Fault, Power, SimDisk};
pub use harness::{Bug, Failure, Feed, JournalHarness, Totals};
pub use rng::Rng;
