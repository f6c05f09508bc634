//! The ring: one owner thread's access to its media.
//!
//! Submission is a plain synchronous call; it queues. The [`Driver`], a task of the same thread, hands everything that was
//! queued in a turn of the runtime to the kernel with one system call, and delivers completions. Buffers belong to the ring
//! until the kernel is done with them, whatever becomes of the future or closure that waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use reprise_types::PoolBuf;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::op::{Action, Next, Task};
use crate::threads::Threads;
use crate::uring::{Completed, Uring};
use crate::{Durability, FaultAction, FaultPlan, FaultTarget, Media, Op, Outcome, sys};

/// Operations that wait for a place in the ring. Callers bound what they have in flight in bytes; this bound only stops
/// a caller that does not. At the limit an operation fails at once with `ENOBUFS` and has not touched the medium.
pub const BACKLOG_MAX: usize = 65_536;

/// Rounds of completions delivered in one poll before other tasks of the thread get their turn.
const ROUNDS_PER_POLL: usize = 32;

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring; threads where the kernel forbids it.
    Auto,
    /// io_uring or an error.
    Uring,
    /// Threads.
    Threads,
}

/// Which engine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    Uring {
        /// Whether completion work runs only when this thread asks (IORING_SETUP_DEFER_TASKRUN).
        deferred: bool,
    },
    /// A few threads with `pwritev2`.
    Threads,
}

/// Settings of a ring.
#[derive(Debug, Clone, Copy)]
pub struct RingConfig {
    /// Operations in flight at the kernel, 1 to 4096.
    pub depth: u32,
    /// The engine.
    pub engine: EngineChoice,
    /// Ask for IORING_SETUP_DEFER_TASKRUN.
    pub defer: bool,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { depth: 256, engine: EngineChoice::Auto, defer: true }
    }
}

/// Counts since the ring was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Operations taken.
    pub submitted: u64,
    /// Operations delivered.
    pub completed: u64,
    /// Operations delivered with an error.
    pub failed: u64,
    /// Writes that were copied because a piece was misaligned for direct I/O.
    pub bounced: u64,
    /// Bytes copied so.
    pub bounced_bytes: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Operations that needed a further call: short, interrupted or zeroing by writing.
    pub continued: u64,
    /// Most operations in flight at once.
    pub inflight_max: u64,
}

type Done = Box<dyn FnOnce(Outcome)>;

struct Slot {
    /// Absent while a thread has it.
    task: Option<Task>,
    done: Done,
    /// Completions still to come.
    pending: u8,
    main: Result<usize, i32>,
    sync: Result<usize, i32>,
}

enum Kernel {
    Uring(Box<Uring>),
    Threads(Threads),
}

struct Core {
    kernel: Kernel,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    inflight: usize,
    depth: usize,
    backlog: VecDeque<(Task, Done)>,
    /// Slots to be handed to the kernel (again).
    again: VecDeque<usize>,
    delayed: Vec<(Instant, Task, Done)>,
    ready: Vec<(Done, Outcome)>,
    scratch: Vec<Completed>,
    waker: Option<Waker>,
    faults: Option<Box<FaultPlan>>,
    closed: bool,
    stats: RingStats,
}

/// Handle to a ring; clones share it. Stays on its thread.
#[derive(Clone)]
pub struct Ring {
    core: Rc<RefCell<Core>>,
}

/// The task that moves a ring. When it is dropped it first waits for what the kernel still has in hand, since that memory
/// must not be reused; then all that waits gets an error.
pub struct Driver {
    core: Rc<RefCell<Core>>,
    event: AsyncFd<OwnedFd>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// A write, sync or zeroing under way. Dropping it does not stop the operation.
pub struct Pending(oneshot::Receiver<Outcome>);

/// A read under way. Dropping it does not stop the operation; the buffer then goes back to its pool.
pub struct PendingRead(oneshot::Receiver<Outcome>);

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the media ring is closed")
}

impl Future for Pending {
    type Output = io::Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(outcome.map_or_else(|_| Err(lost()), |o| o.result))
    }
}

impl Future for PendingRead {
    type Output = (io::Result<()>, PoolBuf);
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(match outcome {
            Ok(Outcome { result, buf: Some(buf) }) => (result, buf),
            Ok(Outcome { result, buf: None }) => (result, PoolBuf::unpooled(0)),
            Err(_) => (Err(lost()), PoolBuf::unpooled(0)),
        })
    }
}

impl Ring {
    /// Makes a ring for the calling thread, which must be inside a tokio runtime with I/O and time enabled, and its driver, to be
    /// polled on the same thread.
    pub fn new(config: RingConfig) -> io::Result<(Self, Driver)> {
        let eventfd = sys::eventfd()?;
        let depth = config.depth.clamp(1, 4096);
        let threads = || Ok::<_, io::Error>(Kernel::Threads(Threads::new(eventfd.try_clone()?)?));
        let uring = || Ok::<_, io::Error>(Kernel::Uring(Box::new(Uring::new(depth, config.defer, eventfd.as_fd())?)));
        let kernel = match config.engine {
            EngineChoice::Threads => threads()?,
            EngineChoice::Uring => uring()?,
            EngineChoice::Auto => match uring() {
                Ok(kernel) => kernel,
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::EACCES | libc::ENOMEM)) =>
                {
                    tracing::warn!(error = %e, "io_uring is not available; using threads");
                    threads()?
                }
                Err(e) => return Err(e),
            },
        };
        let depth = depth as usize;
        let core = Rc::new(RefCell::new(Core {
            kernel,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            inflight: 0,
            depth,
            backlog: VecDeque::new(),
            again: VecDeque::new(),
            delayed: Vec::new(),
            ready: Vec::new(),
            scratch: Vec::with_capacity(2 * depth),
            waker: None,
            faults: None,
            closed: false,
            stats: RingStats::default(),
        }));
        // SAFETY: the `OwnedFd` is given away and gives the same open fd as long as it lives.
        let event = unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) }?;
        Ok((Self { core: core.clone() }, Driver { core, event, sleep: None }))
    }

    /// [`Self::new`] with the driver spawned on the current `LocalSet`.
    pub fn spawn_local(config: RingConfig) -> io::Result<Self> {
        let (ring, driver) = Self::new(config)?;
        tokio::task::spawn_local(driver);
        Ok(ring)
    }

    /// Queues an operation; `done` is called later from the driver, never from inside this call. It may submit more.
    /// Once the driver is gone `done` is dropped uncalled, and the futures of this type give an error.
    pub fn submit(&self, media: &Arc<Media>, op: Op, done: impl FnOnce(Outcome) + 'static) {
        if self.core.borrow().closed {
            return;
        }
        self.core.borrow_mut().submit(media, op, Box::new(done));
    }

    fn send(&self, media: &Arc<Media>, op: Op) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        self.submit(media, op, move |outcome| drop(tx.send(outcome)));
        rx
    }

    /// Writes all pieces in full from `offset`.
    pub fn write_vectored(&self, media: &Arc<Media>, offset: u64, bufs: Vec<Bytes>, durability: Durability) -> Pending {
        Pending(self.send(media, Op::Write { offset, bufs, durability }))
    }

    /// Writes all pieces in full, then makes them durable, as two linked operations.
    pub fn write_then_sync(&self, media: &Arc<Media>, offset: u64, bufs: Vec<Bytes>) -> Pending {
        self.write_vectored(media, offset, bufs, Durability::ThenSync)
    }

    /// Fills `buf` from `offset`.
    pub fn read(&self, media: &Arc<Media>, offset: u64, buf: PoolBuf) -> PendingRead {
        PendingRead(self.send(media, Op::Read { offset, buf }))
    }

    /// Makes everything durable that was completed before.
    pub fn fdatasync(&self, media: &Arc<Media>) -> Pending {
        Pending(self.send(media, Op::Sync))
    }

    /// Makes a range read as zeros, with its space kept.
    pub fn zero(&self, media: &Arc<Media>, offset: u64, len: u64) -> Pending {
        Pending(self.send(media, Op::Zero { offset, len }))
    }

    /// Gives a range back; it reads as zeros.
    pub fn punch(&self, media: &Arc<Media>, offset: u64, len: u64) -> Pending {
        Pending(self.send(media, Op::Punch { offset, len }))
    }

    /// Hands what is queued to the kernel at once, without waiting for the end of the turn.
    pub fn flush(&self) {
        self.core.borrow_mut().advance(0);
    }

    /// Injects faults from here on; none takes the plan away.
    pub fn set_faults(&self, plan: Option<FaultPlan>) {
        self.core.borrow_mut().faults = plan.map(Box::new);
    }

    /// Operations taken and not delivered.
    pub fn outstanding(&self) -> usize {
        let core = self.core.borrow();
        core.inflight + core.backlog.len() + core.delayed.len() + core.ready.len()
    }

    /// The engine in use.
    pub fn engine(&self) -> Engine {
        match &self.core.borrow().kernel {
            Kernel::Uring(uring) => Engine::Uring { deferred: uring.deferred() },
            Kernel::Threads(_) => Engine::Threads,
        }
    }

    /// Counts.
    pub fn stats(&self) -> RingStats {
        self.core.borrow().stats
    }
}

impl Core {
    fn submit(&mut self, media: &Arc<Media>, op: Op, done: Done) {
        self.stats.submitted += 1;
        let target = match &op {
            Op::Read { .. } => FaultTarget::Read,
            Op::Sync => FaultTarget::Sync,
            Op::Write { .. } | Op::Zero { .. } | Op::Punch { .. } => FaultTarget::Write,
        };
        let touched = self.faults.as_ref().map(|_| op.touched());
        match self.prepare(media, op) {
            Ok(task) => match touched {
                None => self.backlog.push_back((task, done)),
                Some(touched) => self.submit_faulty(target, &touched, task, done),
            },
            Err((error, buf)) => self.ready.push((done, Outcome { result: Err(error), buf })),
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn submit_faulty(&mut self, target: FaultTarget, touched: &std::ops::Range<u64>, mut task: Task, done: Done) {
        let path = task.media.path().to_owned();
        let Some(plan) = &mut self.faults else { return };
        let mut action = plan.hit(target, &path, touched);
        if action.is_none() && matches!(task.action, Action::Write(Durability::Dsync | Durability::ThenSync)) {
            action = plan.hit(FaultTarget::Sync, &path, touched);
            if let Some(FaultAction::Fail(errno)) = action {
                task.spoiled = Some(errno);
                action = None;
            }
        }
        match action {
            None => self.backlog.push_back((task, done)),
            Some(FaultAction::Delay(time)) => self.delayed.push((Instant::now() + time, task, done)),
            Some(FaultAction::Fail(errno)) => {
                let result = Err(io::Error::from_raw_os_error(errno));
                self.ready.push((done, Outcome { result, buf: task.into_buf() }));
            }
        }
    }

    fn prepare(&mut self, media: &Arc<Media>, op: Op) -> Result<Task, (io::Error, Option<PoolBuf>)> {
        let errno = |errno: i32| io::Error::from_raw_os_error(errno);
        let (offset, len) = match &op {
            Op::Write { offset, bufs, .. } => (*offset, bufs.iter().map(|b| b.len() as u64).sum()),
            Op::Read { offset, buf } => (*offset, buf.len() as u64),
            Op::Sync => (0, 0),
            Op::Zero { offset, len } | Op::Punch { offset, len } => (*offset, *len),
        };
        let align = u64::from(media.geometry().io_align);
        let refused = if self.backlog.len() >= BACKLOG_MAX {
            Some(errno(libc::ENOBUFS))
        } else if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
            Some(errno(libc::EINVAL))
        } else if offset.checked_add(len).is_none_or(|end| end > media.size().get()) {
            // Past the end of a file a write would grow it; past the end of a device it cannot.
            Some(io::Error::new(io::ErrorKind::InvalidInput, "beyond the end of the medium"))
        } else {
            None
        };
        let media = media.clone();
        // Inside the medium, hence inside the file.
        let at = |offset: u64| media.base() + offset;
        match (refused, op) {
            (Some(error), Op::Read { buf, .. }) => Err((error, Some(buf))),
            (Some(error), _) => Err((error, None)),
            (None, Op::Read { offset, buf }) => Ok(Task::read(media.clone(), at(offset), buf)),
            (None, Op::Sync) => Ok(Task::sync(media)),
            (None, Op::Zero { offset, len }) => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
                Ok(Task::fallocate(media.clone(), at(offset), len, mode))
            }
            (None, Op::Punch { offset, len }) => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                Ok(Task::fallocate(media.clone(), at(offset), len, mode))
            }
            (None, Op::Write { offset, bufs, durability }) => {
                let bufs = self.aligned(&media, bufs, len);
                Ok(Task::write(media.clone(), at(offset), bufs, durability))
            }
        }
    }

    /// The pieces as they are, or one aligned copy of them all.
    fn aligned(&mut self, media: &Media, bufs: Vec<Bytes>, len: u64) -> Vec<Bytes> {
        let geometry = media.geometry();
        let (mem, io) = (geometry.mem_align as usize, geometry.io_align as usize);
        if bufs.iter().all(|b| b.as_ptr().addr().is_multiple_of(mem) && b.len().is_multiple_of(io)) {
            return bufs;
        }
        self.stats.bounced += 1;
        self.stats.bounced_bytes += len;
        let mut bounce = PoolBuf::unpooled(bufs.iter().map(Bytes::len).sum());
        let mut at = 0;
        for buf in &bufs {
            bounce[at..at + buf.len()].copy_from_slice(buf);
            at += buf.len();
        }
        vec![bounce.freeze()]
    }

    /// Moves what can move: waiting operations to the kernel, completions to `ready`; `wait` waits for as many.
    fn advance(&mut self, wait: u32) {
        let mut wait = wait;
        loop {
            self.feed();
            match &mut self.kernel {
                Kernel::Uring(uring) => {
                    match uring.enter(wait) {
                        Ok(entered) => self.stats.enters += u64::from(entered),
                        // The ring is of our own making; an error here is no disk fault but a broken invariant.
                        Err(error) => panic!("io_uring_enter: {error}"),
                    }
                    let mut completed = std::mem::take(&mut self.scratch);
                    uring.reap(&mut completed);
                    for one in completed.drain(..) {
                        self.complete(one);
                    }
                    self.scratch = completed;
                }
                Kernel::Threads(threads) => {
                    for (index, task, result) in threads.reap(wait > 0) {
                        if let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) {
                            slot.task = Some(task);
                            self.finish(index, result);
                        }
                    }
                }
            }
            wait = 0;
            let room = !self.again.is_empty() || (!self.backlog.is_empty() && self.inflight < self.depth);
            if !room {
                return;
            }
        }
    }

    /// Gives slots to waiting operations and hands them to the engine.
    fn feed(&mut self) {
        while !self.backlog.is_empty() {
            let Some(index) = self.free.pop() else { break };
            let Some((task, done)) = self.backlog.pop_front() else { break };
            self.slots[index] = Some(Slot { task: Some(task), done, pending: 0, main: Ok(0), sync: Ok(0) });
            self.inflight += 1;
            self.stats.inflight_max = self.stats.inflight_max.max(self.inflight as u64);
            self.again.push_back(index);
        }
        while let Some(index) = self.again.front().copied() {
            let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { break };
            match &mut self.kernel {
                Kernel::Uring(uring) => {
                    let Some(task) = &slot.task else { break };
                    // SAFETY: the slot is emptied only in `finish`, after its last completion was reaped; vectors
                    // and buffers are on the heap and do not move with it. A lost `Core` drains in `Driver::drop`.
                    match unsafe { uring.push(index, task) } {
                        Some(pending) => slot.pending = pending,
                        None => break,
                    }
                }
                Kernel::Threads(threads) => {
                    let Some(task) = slot.task.take() else { break };
                    threads.push(index, task);
                }
            }
            self.again.pop_front();
        }
    }

    fn complete(&mut self, one: Completed) {
        let Some(slot) = self.slots.get_mut(one.slot).and_then(Option::as_mut) else {
            panic!("a completion for the empty slot {}", one.slot)
        };
        if one.linked_sync {
            slot.sync = one.result;
        } else {
            slot.main = one.result;
        }
        slot.pending -= 1;
        if slot.pending > 0 {
            return;
        }
        let (main, sync) = (slot.main, slot.sync);
        let Some(task) = &mut slot.task else { return };
        match task.step(main) {
            Next::Done(Ok(())) if task.action == Action::Write(Durability::ThenSync) => {
                // A cancelled sync behind a full write would be the kernel's odd choice; it is an error, never retried.
                let result = sync.map(|_| ()).map_err(io::Error::from_raw_os_error);
                self.finish(one.slot, result);
            }
            Next::Done(result) => self.finish(one.slot, result),
            Next::Again => {
                self.stats.continued += 1;
                self.again.push_back(one.slot);
            }
        }
    }

    fn finish(&mut self, index: usize, result: io::Result<()>) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.free.push(index);
        self.inflight -= 1;
        let spoiled = slot.task.as_ref().and_then(|t| t.spoiled);
        let result = result.and_then(|()| spoiled.map_or(Ok(()), |e| Err(io::Error::from_raw_os_error(e))));
        let buf = slot.task.and_then(Task::into_buf);
        self.ready.push((slot.done, Outcome { result, buf }));
    }

    fn take_ready(&mut self) -> Vec<(Done, Outcome)> {
        let ready = std::mem::take(&mut self.ready);
        self.stats.completed += ready.len() as u64;
        self.stats.failed += ready.iter().filter(|(_, o)| o.result.is_err()).count() as u64;
        ready
    }

    /// Moves delayed operations that are due; gives the next moment.
    fn release_delayed(&mut self) -> Option<Instant> {
        if self.delayed.is_empty() {
            return None;
        }
        let now = Instant::now();
        let mut i = 0;
        while i < self.delayed.len() {
            if self.delayed[i].0 <= now {
                let (_, task, done) = self.delayed.remove(i);
                self.backlog.push_back((task, done));
            } else {
                i += 1;
            }
        }
        self.delayed.iter().map(|d| d.0).min()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..ROUNDS_PER_POLL {
            let next = this.core.borrow_mut().release_delayed();
            this.core.borrow_mut().advance(0);
            let ready = this.core.borrow_mut().take_ready();
            let delivered = !ready.is_empty();
            for (done, outcome) in ready {
                done(outcome);
            }
            if delivered {
                continue;
            }
            // The event counter is never read: it is registered edge-triggered, and each completion is an edge.
            match this.event.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    continue;
                }
                // The runtime is shutting down.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if let Some(at) = next {
                let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                sleep.as_mut().reset(at);
                if sleep.as_mut().poll(cx).is_ready() {
                    continue;
                }
            }
            let mut core = this.core.borrow_mut();
            if let Kernel::Uring(uring) = &mut core.kernel
                && (uring.queued() || uring.has_deferred_work())
            {
                break;
            }
            core.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut core = self.core.borrow_mut();
        core.closed = true;
        let waiting = std::mem::take(&mut core.backlog);
        let delayed = std::mem::take(&mut core.delayed).into_iter().map(|(_, t, d)| (t, d));
        for (task, done) in waiting.into_iter().chain(delayed) {
            core.ready.push((done, Outcome { result: Err(lost()), buf: task.into_buf() }));
        }
        while core.inflight > 0 {
            core.advance(1);
        }
        let ready = core.take_ready();
        drop(core);
        for (done, outcome) in ready {
            done(outcome);
        }
    }
}
