//! What can go wrong when a medium is opened, created or grown. Reads and writes give plain `io::Error`.

use std::io;
use std::path::PathBuf;

use reprise_types::ByteLen;

/// Failure of an operation on a medium as a whole.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// A system call failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, verb first.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The device is mounted, or another program holds it exclusively.
    #[error("{} is in use: it is mounted, part of a RAID or volume group, or opened by another program", path.display())]
    DeviceBusy {
        /// The device.
        path: PathBuf,
    },
    /// Another process holds the lock on the medium.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The medium.
        path: PathBuf,
    },
    /// The file backs a loop device, which something else may write through.
    #[error("{} backs the loop device {loop_device}", path.display())]
    BacksLoop {
        /// The file.
        path: PathBuf,
        /// Name of the loop device, without `/dev/`.
        loop_device: String,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a regular file nor a block device", path.display())]
    NotBlockMedia {
        /// The path.
        path: PathBuf,
    },
    /// The file exists and is not overwritten.
    #[error("{} exists", path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The file system has less space than is asked for.
    #[error("no room for {}: {needed} bytes needed, {free} free", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes to be written.
        needed: ByteLen,
        /// Bytes the file system offers.
        free: ByteLen,
    },
    /// A size that is no multiple of a sector, zero, or smaller than what is there.
    #[error("size {size} of {} is not usable: a multiple of 512 and at least {least} is needed", path.display())]
    BadSize {
        /// The file.
        path: PathBuf,
        /// What was asked.
        size: ByteLen,
        /// The smallest size that would do.
        least: ByteLen,
    },
    /// The caller stopped it; a file being created is gone again.
    #[error("cancelled: {}", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
}

impl MediaError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
