//! The io_uring engine: submission entries from tasks, completion entries to slots.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

use crate::Durability;
use crate::op::{Action, Task};

/// IORING_ENTER_GETEVENTS: run deferred completion work of this ring.
const ENTER_GETEVENTS: u32 = 1;

/// A completion: which slot, whether of its linked sync, and the result.
pub(crate) struct Completed {
    pub(crate) slot: usize,
    pub(crate) linked_sync: bool,
    pub(crate) result: Result<usize, i32>,
}

pub(crate) struct Uring {
    ring: IoUring,
    deferred: bool,
    queued: bool,
}

impl Uring {
    /// A ring for `depth` tasks. A task takes up to two entries.
    pub(crate) fn new(depth: u32, defer: bool, eventfd: BorrowedFd<'_>) -> io::Result<Self> {
        let (ring, deferred) = build(depth.saturating_mul(2), defer)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        Ok(Self { ring, deferred, queued: false })
    }

    pub(crate) fn deferred(&self) -> bool {
        self.deferred
    }

    /// Queues a task; gives the number of completions it will have, or none if the queue has no room.
    ///
    /// # Safety
    /// The task, and what its vectors point to, must stay in place until all its completions were reaped.
    pub(crate) unsafe fn push(&mut self, slot: usize, task: &Task) -> Option<u8> {
        let mut queue = self.ring.submission();
        let room = queue.capacity() - queue.len();
        if room < 2 {
            return None;
        }
        let fd = types::Fd(task.media.fd().as_raw_fd());
        let user_data = (slot as u64) << 1;
        let vectors = task.vectors();
        let vector_count = vectors.len() as u32;
        let fsync = || opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build();
        let entry = match task.action {
            Action::Write(durability) => {
                let flags = if durability == Durability::Dsync { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, vectors.as_ptr(), vector_count).offset(task.offset).rw_flags(flags).build()
            }
            Action::Read => opcode::Readv::new(fd, vectors.as_ptr(), vector_count).offset(task.offset).build(),
            Action::Sync => fsync(),
            Action::Fallocate { mode, len } => opcode::Fallocate::new(fd, len).offset(task.offset).mode(mode).build(),
        }
        .user_data(user_data);
        let linked = task.action == Action::Write(Durability::ThenSync);
        let entry = if linked { entry.flags(squeue::Flags::IO_LINK) } else { entry };
        // SAFETY: the caller keeps fd, vectors and buffers in place until the completions are reaped.
        let pushed = unsafe { queue.push(&entry) };
        assert!(pushed.is_ok(), "room was checked");
        if linked {
            // SAFETY: as above; this entry has no memory of its own.
            let pushed = unsafe { queue.push(&fsync().user_data(user_data | 1)) };
            assert!(pushed.is_ok(), "room was checked");
        }
        self.queued = true;
        Some(if linked { 2 } else { 1 })
    }

    /// True while completion work is deferred. A call runs at most 20 pieces of it on Linux 6.13 and later, and no event tells
    /// of those that are left: only this does.
    pub(crate) fn has_deferred_work(&mut self) -> bool {
        self.deferred && self.ring.submission().taskrun()
    }

    /// Hands queued entries to the kernel, and runs deferred completion work. One system call, or none.
    pub(crate) fn enter(&mut self, wait: u32) -> io::Result<bool> {
        if !self.queued && wait == 0 && !self.has_deferred_work() {
            return Ok(false);
        }
        let to_submit = self.ring.submission().len() as u32;
        let flags = if self.deferred || wait > 0 { ENTER_GETEVENTS } else { 0 };
        // SAFETY: no argument is passed by pointer; entries were made by `push`, whose caller keeps their memory.
        match unsafe { self.ring.submitter().enter::<libc::sigset_t>(to_submit, wait, flags, None) } {
            Ok(taken) => self.queued = (taken as u32) < to_submit,
            // Nothing was taken; what is queued goes with the next call.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// True if entries wait to be handed to the kernel.
    pub(crate) fn queued(&self) -> bool {
        self.queued
    }

    /// Takes the completions that are there.
    pub(crate) fn reap(&mut self, out: &mut Vec<Completed>) {
        out.extend(self.ring.completion().map(|entry| Completed {
            slot: (entry.user_data() >> 1) as usize,
            linked_sync: entry.user_data() & 1 == 1,
            result: usize::try_from(entry.result()).map_err(|_| -entry.result()),
        }));
    }
}

/// The best set-up that this kernel takes.
fn build(entries: u32, defer: bool) -> io::Result<(IoUring, bool)> {
    let mut builder = IoUring::builder();
    builder.dontfork().setup_clamp().setup_submit_all().setup_single_issuer().setup_coop_taskrun();
    if defer {
        builder.setup_defer_taskrun().setup_taskrun_flag();
    }
    match builder.build(entries) {
        Ok(ring) => Ok((ring, defer)),
        // A kernel before 6.1 knows none of these flags.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            Ok((IoUring::builder().dontfork().setup_clamp().build(entries)?, false))
        }
        Err(e) => Err(e),
    }
}
