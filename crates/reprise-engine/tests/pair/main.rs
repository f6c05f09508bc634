//! Groups with their disks in memory: what is done when, and what is never done before.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, unreachable_pub)]

mod bytes;
mod feed;
mod group;
mod harness;
mod held;
mod home;
mod host;
mod hostile;
mod meta;
mod pair;
mod peer;
mod rot;
mod unit;
mod verify;
