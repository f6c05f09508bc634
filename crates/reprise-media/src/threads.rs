//! The fallback engine: a few threads with `pwritev2`, for kernels and sandboxes that forbid io_uring.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::blocking;
use crate::op::Task;

/// Threads of the pool: the queue depth that the medium sees. More brings little on the virtual disks where this engine runs.
const WORKERS: usize = 8;

#[derive(Default)]
struct Queues {
    waiting: VecDeque<(usize, Task)>,
    finished: Vec<(usize, Task, io::Result<()>)>,
    stopping: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    done: Condvar,
    eventfd: OwnedFd,
}

pub(crate) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn new(eventfd: OwnedFd) -> io::Result<Self> {
        let shared = Arc::new(Shared { queues: Mutex::default(), work: Condvar::new(), done: Condvar::new(), eventfd });
        let mut workers = Vec::with_capacity(WORKERS);
        for n in 0..WORKERS {
            let shared = shared.clone();
            workers.push(std::thread::Builder::new().name(format!("media-{n}")).spawn(move || work(&shared))?);
        }
        Ok(Self { shared, workers })
    }

    pub(crate) fn push(&self, slot: usize, task: Task) {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner).waiting.push_back((slot, task));
        self.shared.work.notify_one();
    }

    /// Takes what is finished; waits for something if `wait`.
    pub(crate) fn reap(&self, wait: bool) -> Vec<(usize, Task, io::Result<()>)> {
        let mut queues = self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        while wait && queues.finished.is_empty() {
            queues = self.shared.done.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut queues.finished)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.queues.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queues = shared.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, mut task) = loop {
            if let Some(next) = queues.waiting.pop_front() {
                break next;
            }
            if queues.stopping {
                return;
            }
            queues = shared.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queues);
        let result = blocking::run(&mut task);
        shared.queues.lock().unwrap_or_else(PoisonError::into_inner).finished.push((slot, task, result));
        shared.done.notify_one();
        // A full counter (EAGAIN) means that the owner has a wake-up waiting already.
        let _ = nix::unistd::write(&shared.eventfd, &1u64.to_ne_bytes());
    }
}
