//! Development, and `reprise torture`: what tests and benchmarks look at a box with, from outside.
//!
//! Nothing here uses a crate of the product, so that an error in one of them cannot hide itself.
//!
//! * [`initiator`]: a small iSCSI initiator, also the client of the benchmarks.
//! * [`relay`]: a TCP relay that can be cut, paused, delayed and slowed.
//! * [`oracle`]: writes that say who wrote them, a log of what was acknowledged, and the checks of images against it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod initiator;
pub mod oracle;
pub mod relay;
pub mod rng;
