//! The daemon: threads, sockets, TLS, metrics, HTTP, control store.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clock;
pub mod group;
pub mod log;
pub mod net;
pub mod pool;
pub mod portal;
pub mod proof;
mod run;
pub mod service;
pub mod store;

pub use run::run;
