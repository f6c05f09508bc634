//! A group: one feed, one journal, cursors. Sans I/O.
//!
//! [`Group`] is told what happened ([`Group::handle`] and the commands beside it) and says what is to be done
//! ([`Group::poll_effect`]). It knows no socket, file, clock, thread or random source. The feed is a host on a source
//! and the link on a mirror; what is durable is applied to the home by one cursor and sent to the peer by another. What
//! happens when is in `docs/ARCHITECTURE.md`, "A write's life".
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod core;
mod cursor;
mod feed;
mod group;
mod io;
mod meta;
mod opening;
#[cfg(feature = "planted")]
pub mod planted;
mod repair;
mod signal;
mod verify;

pub use core::{GroupConfig, GroupStats};
pub use cursor::{Hold, PeerTrouble, ROUND_BYTES_MAX};
pub use group::Group;
pub use group::command::CommandError;
pub use io::{
    CacheFill, Effect, Event, HostError, HostOp, HostReply, Io, IoFault, LegId, LinkInput, Notice, PeerId, Token, Until,
};
pub use meta::{Branch, CopyState, GroupMeta, LegMeta, MetaError, PeerMeta, RoleMeta, VolumeMeta};
pub use opening::{Opened, Opening, OpeningError};
pub use verify::{MOMENT_RECORDS_MAX, VerifyEnd, VerifyPlan, VerifyReport};
