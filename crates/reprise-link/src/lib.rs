//! The link between two boxes: pairing, handshake, resume, credit, acks. Sans I/O.
//!
//! This crate knows no socket, clock, thread or random source: bytes, time and randomness are handed in, messages are
//! taken out. It knows neither journal nor home; what it must know about history it asks through
//! [`handshake::HistoryLookup`]. It never decides a role: it says which row of the handshake table holds.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::big_endian_bytes)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backoff;
pub mod copy;
pub mod handshake;
pub mod instance;
pub mod lag;
pub mod mirror;
pub mod mux;
pub mod pairing;
#[cfg(feature = "planted")]
pub mod planted;
pub mod pulse;
pub mod source;
pub mod throttle;

mod error;

pub use error::LinkError;

#[cfg(test)]
mod pair_tests;
