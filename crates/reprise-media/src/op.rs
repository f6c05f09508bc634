//! Operations, and what an engine needs to carry one out.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use reprise_types::PoolBuf;

use crate::Media;

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The kernel has it; a later sync makes it durable.
    None,
    /// Durable: the write itself carries RWF_DSYNC.
    Dsync,
    /// Durable: a write with an fdatasync linked behind it.
    ThenSync,
}

/// One operation on a medium.
#[derive(Debug)]
pub enum Op {
    /// Writes all pieces one after another from `offset`.
    Write {
        /// First byte on the medium.
        offset: u64,
        /// The pieces. Aligned as [`crate::Geometry`] says they are used in place, else copied once and counted.
        bufs: Vec<Bytes>,
        /// When it counts as done.
        durability: Durability,
    },
    /// Fills the whole buffer from `offset`.
    Read {
        /// First byte on the medium.
        offset: u64,
        /// Comes back in the [`Outcome`].
        buf: PoolBuf,
    },
    /// Makes everything durable that was completed before this was submitted.
    Sync,
    /// Makes a range read as zeros and keeps its space. Not durable until a sync.
    Zero {
        /// First byte on the medium.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Gives a range back to the file system or device; it reads as zeros. Only for what is thin by the owner's wish.
    Punch {
        /// First byte on the medium.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl Op {
    /// The bytes of the medium that it touches; none for a sync.
    pub(crate) fn touched(&self) -> std::ops::Range<u64> {
        let (offset, len) = match self {
            Self::Write { offset, bufs, .. } => (*offset, bufs.iter().map(|b| b.len() as u64).sum()),
            Self::Read { offset, buf } => (*offset, buf.len() as u64),
            Self::Zero { offset, len } | Self::Punch { offset, len } => (*offset, *len),
            Self::Sync => (0, 0),
        };
        offset..offset.saturating_add(len)
    }
}

/// How an operation ended.
#[derive(Debug)]
pub struct Outcome {
    /// Done in full, or not. After a failed write nothing is known about the range.
    pub result: io::Result<()>,
    /// The buffer of a read; its content counts only if the result is good. None if the engine was lost.
    pub buf: Option<PoolBuf>,
}

/// Pieces per system call; more go in several (`IOV_MAX`).
const IOV_BATCH: usize = 1024;

/// Zeros are written this much at a time, so that one order does not occupy the device for seconds.
const ZERO_BATCH: usize = 16;

/// Size of the shared block of zeros.
const ZERO_BLOCK: usize = 1 << 20;

/// An operation that was interrupted or told to come again this often has failed.
const AGAIN_MAX: u32 = 1000;

pub(crate) fn zero_block() -> Bytes {
    static ZEROS: OnceLock<Bytes> = OnceLock::new();
    ZEROS.get_or_init(|| PoolBuf::unpooled(ZERO_BLOCK).freeze()).clone()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Durability),
    Read,
    Sync,
    Fallocate { mode: i32, len: u64 },
}

/// Keeps the memory alive that the vectors point to.
#[derive(Debug)]
pub(crate) enum Keep {
    Nothing,
    /// Held for its drop only.
    Shared(#[allow(dead_code)] Vec<Bytes>),
    Owned(PoolBuf),
}

/// An operation in a form that both engines can carry out, continue and repeat.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) media: Arc<Media>,
    pub(crate) action: Action,
    /// Of the next byte.
    pub(crate) offset: u64,
    iovs: Vec<libc::iovec>,
    iov_at: usize,
    batch: usize,
    keep: Keep,
    again: u32,
    /// Error to report after the operation was carried out (an injected fault of the sync part).
    pub(crate) spoiled: Option<i32>,
}

// SAFETY: the raw pointers in `iovs` point to heap memory owned by `keep`, which travels with them: `Bytes` and `PoolBuf`
// are Send themselves, and moving them does not move their heap memory.
unsafe impl Send for Task {}

/// What to do after a step.
pub(crate) enum Next {
    Done(io::Result<()>),
    Again,
}

impl Task {
    pub(crate) fn write(media: Arc<Media>, offset: u64, bufs: Vec<Bytes>, durability: Durability) -> Self {
        let iovs = bufs
            .iter()
            .filter(|b| !b.is_empty())
            .map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() })
            .collect();
        Self::with(media, Action::Write(durability), offset, iovs, Keep::Shared(bufs))
    }

    pub(crate) fn read(media: Arc<Media>, offset: u64, mut buf: PoolBuf) -> Self {
        let iovs = vec![libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() }];
        Self::with(media, Action::Read, offset, iovs, Keep::Owned(buf))
    }

    pub(crate) fn sync(media: Arc<Media>) -> Self {
        Self::with(media, Action::Sync, 0, Vec::new(), Keep::Nothing)
    }

    pub(crate) fn fallocate(media: Arc<Media>, offset: u64, len: u64, mode: i32) -> Self {
        Self::with(media, Action::Fallocate { mode, len }, offset, Vec::new(), Keep::Nothing)
    }

    fn with(media: Arc<Media>, action: Action, offset: u64, iovs: Vec<libc::iovec>, keep: Keep) -> Self {
        Self { media, action, offset, iovs, iov_at: 0, batch: IOV_BATCH, keep, again: 0, spoiled: None }
    }

    /// The vectors of the next system call.
    pub(crate) fn vectors(&self) -> &[libc::iovec] {
        let rest = self.iovs.get(self.iov_at..).unwrap_or_default();
        &rest[..rest.len().min(self.batch)]
    }

    /// True when nothing is left to move.
    pub(crate) fn is_empty(&self) -> bool {
        self.iov_at >= self.iovs.len()
    }

    /// Gives the buffer of a read back. The engine must be done with the task.
    pub(crate) fn into_buf(self) -> Option<PoolBuf> {
        match self.keep {
            Keep::Owned(buf) => Some(buf),
            Keep::Nothing | Keep::Shared(_) => None,
        }
    }

    /// Takes the result of one system call: bytes moved, or an errno.
    pub(crate) fn step(&mut self, result: Result<usize, i32>) -> Next {
        let moved = match result {
            Ok(moved) => moved,
            Err(libc::EINTR | libc::EAGAIN) if self.again < AGAIN_MAX => {
                self.again += 1;
                return Next::Again;
            }
            Err(libc::EOPNOTSUPP) if matches!(self.action, Action::Fallocate { .. }) => {
                self.become_zero_write();
                return Next::Again;
            }
            Err(errno) => return Next::Done(Err(io::Error::from_raw_os_error(errno))),
        };
        match self.action {
            Action::Sync | Action::Fallocate { .. } => Next::Done(Ok(())),
            Action::Write(_) | Action::Read if moved == 0 && !self.is_empty() => {
                let kind =
                    if self.action == Action::Read { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
                Next::Done(Err(kind.into()))
            }
            Action::Write(_) | Action::Read => {
                self.advance(moved);
                if self.is_empty() { Next::Done(Ok(())) } else { Next::Again }
            }
        }
    }

    fn become_zero_write(&mut self) {
        let Action::Fallocate { len, .. } = self.action else { return };
        let zeros = zero_block();
        let base = zeros.as_ptr().cast_mut().cast();
        let mut left = len;
        while left > 0 {
            let iov_len = usize::try_from(left).unwrap_or(ZERO_BLOCK).min(ZERO_BLOCK);
            self.iovs.push(libc::iovec { iov_base: base, iov_len });
            left -= iov_len as u64;
        }
        self.keep = Keep::Shared(vec![zeros]);
        self.batch = ZERO_BATCH;
        self.action = Action::Write(Durability::None);
    }

    fn advance(&mut self, mut moved: usize) {
        self.offset += moved as u64;
        while moved > 0 {
            let Some(iov) = self.iovs.get_mut(self.iov_at) else { return };
            if moved < iov.iov_len {
                // `wrapping_add` stays inside the piece: moved < its length.
                iov.iov_base = iov.iov_base.cast::<u8>().wrapping_add(moved).cast();
                iov.iov_len -= moved;
                return;
            }
            moved -= iov.iov_len;
            self.iov_at += 1;
        }
    }
}
