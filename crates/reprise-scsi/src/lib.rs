//! The SCSI device server of a reprise box: SPC-4 and SBC-3 commands of a disk, without a transport.
//!
//! A command descriptor block becomes an [`Action`]: an answer, an operation for the group that owns the volume, or a
//! wish for data-out. Everything that is true of a command stands in one row of [`opcode::TABLE`]; validation, transfer
//! lengths and REPORT SUPPORTED OPERATION CODES read that row. Every error is a [`ScsiError`], and one table turns it
//! into sense data.
//!
//! This crate knows no PDUs, sessions, buffers' origin, clock or disk.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod block;
mod cdb;
mod control;
mod copy;
mod device;
mod inquiry;
mod log;
mod lun;
mod mode;
pub mod opcode;
mod report;
mod reserve;
mod sanitize;
mod sense;
#[cfg(test)]
mod tests;

pub use block::{
    ATOMIC_BYTES_MAX, COMPARE_AND_WRITE_BYTES_MAX, OPTIMAL_TRANSFER_BYTES, TRANSFER_BYTES_MAX, UNMAP_BYTES_MAX,
    UNMAP_DESCRIPTORS_MAX,
};
pub use cdb::Cdb;
pub use control::{Access, Change, ChangeKind, Changed, Control, ReserveAction, ReserveOut, Sanitize};
pub use device::{
    Action, Completion, DataOut, MappedRun, Nexus, Op, Payload, ScsiResponse, Status, Submit, Then, fuzz_cdb,
};
pub use lun::{AluaState, BlockSize, Lun, LunMap, LunMapError, LunNumber, Naa, PeerPort, ResourceGauge, TargetPort};
pub use sense::{FieldPointer, NotReady, ScsiError, Sense, SenseKey, UnitAttention};
