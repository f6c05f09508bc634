//! Serves the commands of a box over its local socket, over HTTPS, and its metrics over plain HTTP.
//!
//! Who calls is known before a request is looked at: on the local socket by the user id the kernel reports, over HTTPS
//! by a bearer token. The right of a route stands in the command table and is checked in one place, `run` in
//! `handler`. Every command that changes something, and every refusal for lack of rights, leaves a line at the log
//! target `audit`.

mod confirm;
mod handler;
mod listen;

use std::future::Future;

use crate::command::*;
use crate::error::ApiError;
use crate::event::{Alert, Job};
use crate::route::{Rights, service_commands};
use crate::status::{GroupStatus, Status, VolumeStatus};

pub use handler::{AUDIT_TARGET, BODY_BYTES_MAX, COMMAND_SECS_MAX, Caller, router};
pub use listen::{ListenError, bind_unix, serve_https, serve_metrics, serve_unix};

/// What an action would do, as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequences {
    /// For people: what happens.
    pub summary: String,
    /// For people: what is lost, a sentence each.
    pub losses: Vec<String>,
    /// Whatever must still be the same when the action is confirmed, in any form; compared, never shown. Leave out what
    /// changes all the time, such as counts of bytes.
    pub basis: String,
}

macro_rules! service_trait {
    (() $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        /// What carries the commands of a box out. Rights, sizes, time limits, audit and confirmation are the server's
        /// business; an implementation finds only commands that are allowed.
        ///
        /// A future may be dropped at the time limit; a command must then either not have begun or go on by itself.
        pub trait BoxService: Send + Sync + 'static {
            /// The rights of a bearer token, and its public id for the audit line; none if it is not known.
            fn authenticate(&self, token: &str) -> impl Future<Output = Option<(String, Rights)>> + Send;

            /// What `action` would do. Changes nothing. Refuses what [`Self::action_execute`] would refuse.
            ///
            /// # Errors
            /// As the command has them.
            fn action_describe(&self, action: &Action) -> impl Future<Output = Result<Consequences, ApiError>> + Send;

            /// Does a confirmed action.
            ///
            /// # Errors
            /// As the command has them.
            fn action_execute(&self, action: &Action) -> impl Future<Output = Result<ActionDone, ApiError>> + Send;

            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// As the command has them.
                fn $name(&self, request: $req) -> impl Future<Output = Result<$resp, ApiError>> + Send;
            )*
        }
    };
}
service_commands!(service_trait);
