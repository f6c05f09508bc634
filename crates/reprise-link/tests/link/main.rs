//! The parts of the link by themselves, at the edges of what they allow: sessions of source and mirror, first copy,
//! chunks, pulse, throttle. What two sessions make of each other over a bad line is tested inside the crate.
#![allow(clippy::unwrap_used)]

mod common;
mod copy;
mod handshake;
mod mirror;
mod mux;
mod pairing;
mod small;
mod source;
