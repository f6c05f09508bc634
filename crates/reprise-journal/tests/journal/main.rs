//! The journal on a cache in memory: what it refuses, what it writes where, what is read back, what it frees, and what a
//! recovery makes of it. The rows of the recovery table are walked in `recovery_table.rs`.
#![allow(clippy::unwrap_used)]

mod append;
mod batches;
mod bench;
mod bodies;
mod index;
mod model;
mod reads;
mod recovery;
mod space;
mod writes;
