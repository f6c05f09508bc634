//! The typed API of a box: settings, status, commands, events, alerts and jobs.
//!
//! The types stand in `docs/api.md` field by field. One table ([`route`]) lists every command with its path, the right
//! it needs and its types; the server, the client, the OpenAPI document and the tests are made from that table, so that
//! they cannot disagree.
//!
//! This crate does not know how a box works: it knows no journal, no link and no disk. What carries a command out
//! implements `server::BoxService`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admin;
#[cfg(feature = "client")]
pub mod client;
pub mod command;
pub mod error;
pub mod event;
mod file;
mod initiator;
pub mod metrics;
pub mod openapi;
pub mod route;
#[cfg(feature = "server")]
pub mod server;
pub mod settings;
pub mod status;
#[cfg(feature = "server")]
pub mod strangers;
pub mod system;
pub mod token;
pub mod value;
mod verify;

pub use admin::*;
#[cfg(feature = "client")]
pub use client::{Client, ClientError, Target};
pub use command::*;
pub use error::{ApiError, ErrorCode};
pub use event::*;
pub use file::read_text;
pub use initiator::*;
pub use route::{Rights, Route, Verb, routes};
#[cfg(feature = "server")]
pub use server::{Appliance, BoxService};
pub use settings::{Settings, SettingsError};
pub use status::*;
pub use system::*;
pub use token::{MintedToken, StoredToken};
pub use value::{
    ByteSize, ChapSecret, ChapSecretError, InitiatorName, InitiatorNameError, Name, NameError, SizeError, utc,
};
pub use verify::*;
