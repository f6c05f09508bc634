//! The ordered journal of one group: append, commit, recover, read, trim, index.
//!
//! Sans I/O. The journal decides what is written where ([`Journal::poll_write`]) and is told when it is durable
//! ([`Journal::write_done`]); only recovery reads by itself, through [`CacheRead`]. It knows no file, no clock, no
//! thread, no link and no home: what is applied or sent is the engine's business, which tells the journal how far it
//! may [`Journal::trim`].
#![forbid(unsafe_code)]
#![deny(clippy::big_endian_bytes)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod batch;
mod covered;
mod index;
mod journal;
mod log;
mod plan;
#[cfg(feature = "planted")]
pub mod planted;
mod recover;
mod segment;
mod store;
mod tail;

pub use batch::Batch;
pub use index::Index;
pub use journal::{Journal, JournalConfig, JournalStart};
pub use log::{AppendError, BodyError, ChangeRecord, JournalWrite, NewRecord, NextBatch, WriteToken};
pub use plan::{DiskPiece, Piece, PieceSource, ReadPlan};
pub use recover::{CacheRead, Case, Found, RecoverError, Recovered, recover, scan_segments};
pub use segment::{Grant, SegmentFound, SegmentId, newest_generation, segment_offset};
pub use store::{BatchPlace, BatchSource};
