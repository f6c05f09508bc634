//! Aligned buffers from a bounded pool.
//!
//! A payload lands once in a [`PoolBuf`] and is used from there for journal, RAM tail, home and link. It is aligned for
//! direct I/O, becomes a shared [`Bytes`] by [`PoolBuf::freeze`], and goes back to its pool when the last user drops it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Alignment and grain of a buffer: 4 KiB, which every disk and file system accepts for direct I/O.
pub const BUF_ALIGN: usize = 4096;

/// Size classes kept for reuse, in pages of 4 KiB; a larger buffer is allocated and freed each time.
const CLASS_PAGES: [usize; 6] = [1, 2, 4, 16, 65, 257];

/// Bytes kept per size class. More would only hold memory that bursts have left behind; less, and the small buffers of
/// a batch that leaves the RAM tail would go back to the allocator, to be asked for and zeroed again a moment later.
const KEPT_BYTES_PER_CLASS: usize = 4 << 20;

#[repr(C, align(4096))]
#[derive(Clone, FromBytes, IntoBytes, Immutable)]
struct Page([u8; BUF_ALIGN]);

struct Shared {
    limit: u64,
    used: AtomicU64,
    free: [Mutex<Vec<Vec<Page>>>; CLASS_PAGES.len()],
    on_free: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

/// A pool of aligned buffers with a limit in bytes. Clones share the limit.
#[derive(Clone)]
pub struct BufPool {
    shared: Arc<Shared>,
}

impl fmt::Debug for BufPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufPool").field("limit", &self.shared.limit).field("used", &self.used()).finish()
    }
}

impl BufPool {
    /// A pool that hands out at most `limit` bytes at a time.
    pub fn new(limit: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                limit,
                used: AtomicU64::new(0),
                free: Default::default(),
                on_free: Mutex::new(None),
            }),
        }
    }

    /// Bytes handed out and not yet back.
    pub fn used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Called after a buffer came back, on the thread that dropped it: wakes whoever waits for memory.
    pub fn set_on_free(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *self.shared.on_free.lock().unwrap_or_else(PoisonError::into_inner) = Some(wake);
    }

    /// A buffer of `len` bytes with unspecified content (of earlier use, or zeros), or none if the pool is at its limit.
    /// A single request larger than the whole limit is granted when nothing else is out, so that it cannot wait for ever.
    pub fn try_alloc(&self, len: usize) -> Option<PoolBuf> {
        let pages_needed = len.div_ceil(BUF_ALIGN).max(1);
        let class = CLASS_PAGES.iter().position(|c| *c >= pages_needed);
        let page_count = class.map_or(pages_needed, |c| CLASS_PAGES[c]);
        let bytes = (page_count * BUF_ALIGN) as u64;
        let before = self.shared.used.fetch_add(bytes, Ordering::Relaxed);
        if before != 0 && before + bytes > self.shared.limit {
            self.shared.used.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let kept = class.and_then(|c| self.shared.free[c].lock().unwrap_or_else(PoisonError::into_inner).pop());
        let pages = kept.unwrap_or_else(|| vec![Page::new_zeroed(); page_count]);
        Some(PoolBuf { pages, len, shared: Some(self.shared.clone()) })
    }
}

/// An aligned buffer with one owner.
pub struct PoolBuf {
    pages: Vec<Page>,
    len: usize,
    shared: Option<Arc<Shared>>,
}

impl PoolBuf {
    /// A zeroed buffer that belongs to no pool: for tools, tests and rare control blocks.
    pub fn unpooled(len: usize) -> Self {
        Self { pages: vec![Page::new_zeroed(); len.div_ceil(BUF_ALIGN)], len, shared: None }
    }

    /// Copies `bytes` into an aligned buffer that belongs to no pool.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buf = Self::unpooled(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// Shortens or lengthens the visible part, up to what was allocated.
    ///
    /// # Panics
    /// When `len` is more than was allocated.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.pages.len() * BUF_ALIGN, "{len} bytes asked of {} pages", self.pages.len());
        self.len = len;
    }

    /// Turns the buffer into a shared, immutable one; no copy.
    pub fn freeze(self) -> Bytes {
        if self.len == 0 { Bytes::new() } else { Bytes::from_owner(self) }
    }
}

impl Deref for PoolBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.pages.as_mut_bytes()[..len]
    }
}

impl AsRef<[u8]> for PoolBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuf({} bytes)", self.len)
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let pages = std::mem::take(&mut self.pages);
        let bytes = (pages.len() * BUF_ALIGN) as u64;
        if let Some(class) = CLASS_PAGES.iter().position(|c| *c == pages.len()) {
            let mut free = shared.free[class].lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < KEPT_BYTES_PER_CLASS / (pages.len() * BUF_ALIGN) {
                free.push(pages);
            }
        }
        shared.used.fetch_sub(bytes, Ordering::Relaxed);
        let wake = shared.on_free.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(wake) = wake {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_bounded_and_come_back() {
        let pool = BufPool::new(16 * BUF_ALIGN as u64);
        let a = pool.try_alloc(1000).expect("first");
        assert_eq!(a.as_ptr().addr() % BUF_ALIGN, 0);
        let b = pool.try_alloc(15 * BUF_ALIGN);
        assert!(b.is_none(), "rounded to a class of 16 pages, which no longer fits");
        let shared = a.freeze();
        let part = shared.slice(512..600);
        drop(shared);
        assert_eq!(pool.used(), BUF_ALIGN as u64);
        drop(part);
        assert_eq!(pool.used(), 0);
        assert!(pool.try_alloc(100 * BUF_ALIGN).is_some(), "a lone giant is granted");
    }
}
