//! A group's thread: it carries out what the engine decides, with the sockets and the disk of that group.

mod handle;

pub use handle::{
    COMMANDS_MAX, Command, GroupHandle, GroupNotice, HomeMedia, Inspected, LinkView, Reply, SessionInfo, Snapshot,
};
