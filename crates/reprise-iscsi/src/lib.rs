//! The iSCSI target of a reprise box (RFC 7143): error recovery level 0, one connection per session, many sessions.
//!
//! [`Connection`] is a state machine: bytes, completions, buffers and time go in; bytes, operations and requests come
//! out. One table of keys drives login ([`keys`]), the SCSI layer is `reprise-scsi`.
//!
//! This crate knows no socket, clock, thread, random source or disk, and not which other sessions exist: the owner of
//! the connections keeps that table and is told what it needs for session reinstatement and for resets.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod chap;
mod conn;
mod discovery;
mod full;
mod fuzz;
pub mod keys;
mod limit;
mod login;
pub mod pdu;
mod portal;
mod recv;
mod send;
mod status;
mod task;
#[cfg(test)]
mod tests;
pub mod text;
mod tmf;

pub use chap::{Challenge, Chap, ChapError, Credentials, SECRET_MAX, SECRET_MIN, Secret, USER_MAX};
pub use conn::{
    CloseReason, Config, Connection, LoggedIn, OUT_QUEUE_BYTES_MAX, Output, ResetScope, SessionType, TASKS_EXTRA,
    WINDOW_MAX,
};
pub use fuzz::{fuzz_chap, fuzz_connection, fuzz_login, fuzz_pdu, fuzz_session, fuzz_text};
pub use limit::{Limit, Throttle};
pub use login::{LOGIN_BYTES_MAX, Peek, peek_login_target};
pub use portal::{Acl, Admission, Initiator, Moved, Portal, Target};
pub use recv::{RecvTarget, STAGING_BYTES};
pub use task::TaskTag;
