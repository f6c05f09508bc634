//! Newtypes that every crate of reprise shares.
//!
//! This crate knows no bytes on disk or wire, no I/O and no clock. What must not be mixed up has a type of its own:
//! a [`Seq`] is not a [`Sector`], a length in bytes is not a length in sectors. Raw numbers enter only by an explicit
//! `from_raw`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod buf;
mod id;
mod network;
mod planted;
mod position;
mod record;
mod size;
mod time;
mod unit;

pub use buf::{BufPool, PoolBuf};
pub use id::{BoxId, BranchId, GroupId, HistoryHash, IdParseError, PoolId, VolumeId};
pub use network::{IpNetwork, IpNetworkError};
pub use position::{Point, Position, Positions, Role, Seq};
pub use record::{Extent, RecordKind, VolumeSlot};
pub use size::{ByteLen, SECTOR_END_MAX, SECTOR_SIZE, Sector, SectorCount};
pub use time::{Mono, Now, WallMicros};
pub use unit::{BlockFormat, InitiatorPort, Registration, Reservation, ReservationType, UnitState};
