//! Serves the commands of a box over its local socket, over HTTPS, and its metrics over plain HTTP.
//!
//! Who calls is known before a request is looked at: on the local socket by the user id the kernel reports, over HTTPS
//! by a bearer token. The right of a route stands in the command table and is checked in one place, `run` in
//! `handler`. Every command that changes something, and every refusal for lack of rights, leaves a line at the log
//! target `audit`.

mod confirm;
mod handler;
pub mod http;
mod listen;
mod number;

use std::future::Future;

use crate::command::*;
use crate::error::{ApiError, ErrorCode};
use crate::event::{Alert, Job};
use crate::route::{Rights, appliance_commands, service_commands};
use crate::status::{GroupStatus, PeerStatus, Status, VolumeStatus};
use crate::strangers::Full;

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

macro_rules! appliance_trait {
    (() $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        /// What a box can do also while it has no pool. A future may be dropped at the time limit, as with [`BoxService`].
        pub trait Appliance: Send + Sync + 'static {
            /// The rights of a bearer token, and its public id for the audit line; none if it is not known.
            fn authenticate(&self, token: &str) -> impl Future<Output = Option<(String, Rights)>> + Send;

            /// What a reset would do. Changes nothing.
            ///
            /// # Errors
            /// As the command has them.
            fn reset_describe(&self, level: ResetLevel) -> impl Future<Output = Result<Consequences, ApiError>> + Send;

            /// Does a confirmed reset.
            ///
            /// # Errors
            /// As the command has them.
            fn reset(&self, level: ResetLevel) -> impl Future<Output = Result<(), ApiError>> + Send;

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

/// A box without a pool: it answers what the machine itself can, and refuses the rest.
#[derive(Debug)]
pub struct Waiting<A> {
    machine: A,
    why: ApiError,
}

impl<A> Waiting<A> {
    /// No disk has been chosen yet.
    pub fn for_disk(machine: A) -> Self {
        let what = "choose a disk: reprise system disks";
        Self { machine, why: ApiError::new(ErrorCode::NoPool, "the box has no disk for its pool yet", what) }
    }

    /// There is a pool, and it cannot be opened. Every answer is a failure of the box itself, so that whoever watches over
    /// it does not take it for one that serves.
    pub fn for_repair(machine: A, error: &str) -> Self {
        let what =
            "put its disk back if it is another one, and see the log of the daemon; it is tried again every minute";
        Self { machine, why: ApiError::new(ErrorCode::Internal, format!("the pool cannot be opened: {error}"), what) }
    }
}

macro_rules! service_trait {
    (() $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        /// What carries the commands of a box out. Rights, sizes, time limits, audit and confirmation are the server's
        /// business; an implementation finds only commands that are allowed.
        ///
        /// A future may be dropped at the time limit; a command must then either not have begun or go on by itself.
        pub trait BoxService: Send + Sync + 'static {
            /// What carries out the commands that need no pool.
            type Machine: Appliance;

            /// What carries out the commands that need no pool.
            fn machine(&self) -> &Self::Machine;

            /// Strangers have taken all places of a listener.
            fn strangers_full(&self, listener: &str, full: &Full) {
                tracing::warn!(code = Full::CODE, "{}", full.text(listener));
            }

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

        impl<A: Appliance> BoxService for Waiting<A> {
            type Machine = A;

            fn machine(&self) -> &A {
                &self.machine
            }

            async fn action_describe(&self, action: &Action) -> Result<Consequences, ApiError> {
                match action {
                    Action::SystemReset { level } => self.machine.reset_describe(*level).await,
                    _ => Err(self.why.clone()),
                }
            }
            async fn action_execute(&self, action: &Action) -> Result<ActionDone, ApiError> {
                match action {
                    Action::SystemReset { level } => {
                        self.machine.reset(*level).await?;
                        Ok(ActionDone { action: action.clone(), job: None })
                    }
                    _ => Err(self.why.clone()),
                }
            }
            $(async fn $name(&self, _: $req) -> Result<$resp, ApiError> {
                Err(self.why.clone())
            })*
        }
    };
}
service_commands!(service_trait);
appliance_commands!(appliance_trait);
