//! Events, alerts and jobs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// How much an event or alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Odd, or will need someone.
    Warning,
    /// Someone must act.
    Critical,
}

/// Something that happened once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Number of the event on this box, rising, without gaps while the box runs and across restarts.
    pub id: u64,
    /// When, in milliseconds since 1970 by the box's clock.
    pub at_unix_ms: u64,
    /// Stable kebab-case code, such as `link-up`.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: `group NAME`, `volume NAME`, `peer NAME` or `box`.
    pub subject: String,
    /// For people.
    pub text: String,
    /// What to do; empty where nothing is.
    pub what_to_do: String,
}

/// A condition that holds for a while. There is at most one alert per code and subject that is not cleared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Number of the alert on this box.
    pub id: u64,
    /// Stable kebab-case code, such as `cache-filling`.
    pub code: String,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: `group NAME`, `volume NAME`, `peer NAME` or `box`.
    pub subject: String,
    /// For people.
    pub text: String,
    /// What to do.
    pub what_to_do: String,
    /// First seen, in milliseconds since 1970.
    pub first_seen_unix_ms: u64,
    /// Last seen, in milliseconds since 1970.
    pub last_seen_unix_ms: u64,
    /// True after somebody acknowledged it. It stays until the condition is gone.
    pub acked: bool,
    /// When the condition went away, in milliseconds since 1970; null while it holds.
    pub cleared_unix_ms: Option<u64>,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Writes a new volume fully.
    VolumeCreate,
    /// Gives a volume more room.
    VolumeResize,
    /// Takes an existing device or image as a volume.
    VolumeAdopt,
    /// Destroys a volume's content.
    VolumeErase,
    /// Takes a volume out; the file or device stays.
    VolumeRemove,
    /// Copies a group to its mirror.
    MirrorCopy,
    /// Takes a group away with its journal.
    GroupDelete,
    /// Compares a group with its mirror.
    Verify,
    /// Proves the journal of a fenced group and starts the group again.
    GroupUnfence,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobState {
    /// Not begun: others come first.
    Queued,
    /// At work.
    Running,
    /// Stands still until `reason` is gone, then goes on by itself.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// Ended well.
    Done,
    /// Ended with an error.
    Failed {
        /// Which.
        error: ApiError,
    },
    /// Ended by a cancel.
    Cancelled,
}

impl JobState {
    /// True when nothing will happen any more.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Failed { .. } | Self::Cancelled)
    }
}

/// Work that outlasts its command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Number of the job on this box.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// What it works on: `volume NAME` or `group NAME`.
    pub subject: String,
    /// Where it stands.
    pub state: JobState,
    /// Progress from 0 to 100; null where it is not known.
    pub percent: Option<f64>,
    /// Bytes treated.
    pub bytes_done: u64,
    /// Bytes to treat; null where it is not known.
    pub bytes_total: Option<u64>,
    /// Seconds left at the present speed; null where it is not known.
    pub secs_left: Option<f64>,
    /// Begin, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// End, in milliseconds since 1970; null before.
    pub finished_unix_ms: Option<u64>,
    /// True where a cancel is taken.
    pub can_cancel: bool,
}
