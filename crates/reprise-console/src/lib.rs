//! The consoles of a box. Both are clients of the API and know nothing else of it: [`web`] serves pages to a browser,
//! [`serial`] talks on a serial line or on the machine's own screen.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod serial;
pub mod web;
