//! A group's thread: it carries out what the engine decides, with the sockets and the disk of that group.

mod disk;
#[cfg(feature = "test-faults")]
mod faults;
mod handle;
mod iscsi;
mod latency;
mod link;
mod owner;
mod thread;
mod units;

pub use handle::{
    COMMANDS_MAX, Command, GroupHandle, GroupNotice, HomeMedia, Inspected, LinkView, Reply, SessionInfo, Snapshot,
};
pub use latency::{Histogram, Latencies};
pub use thread::{GroupDeps, Limits, TargetConfig, spawn};
