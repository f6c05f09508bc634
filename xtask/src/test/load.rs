//! Work for the processors beside the tests: a test that waits for a time and not for a state fails under it.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Keeps every processor busy until it is dropped.
#[derive(Debug)]
pub(super) struct Load {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start() -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = |end: Arc<AtomicBool>| {
            move || {
                while !end.load(Ordering::Relaxed) {
                    spin_loop();
                }
            }
        };
        let threads = (0..cores).map(|_| std::thread::spawn(busy(end.clone()))).collect();
        Self { end, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
