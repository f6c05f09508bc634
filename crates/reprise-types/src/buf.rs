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
    /// Bytes in `free`.
    kept: AtomicU64,
    on_free: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// The pool that this one is a part of. It counts and keeps everything too.
    whole: Option<Arc<Shared>>,
}

impl Shared {
    fn new(limit: u64, whole: Option<Arc<Shared>>) -> Arc<Self> {
        let (used, kept) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { limit, used, free: Default::default(), kept, on_free: Mutex::new(None), whole })
    }

    /// Counts `bytes` as handed out, or does not.
    fn claim(&self, bytes: u64) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before != 0 && before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        if let Some(whole) = &self.whole
            && !whole.claim(bytes)
        {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }

    fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.release(bytes);
        }
    }

    /// Where pages are kept for reuse.
    fn store(&self) -> &Shared {
        self.whole.as_deref().map_or(self, Shared::store)
    }

    fn class(&self, class: usize) -> std::sync::MutexGuard<'_, Vec<Vec<Page>>> {
        self.free[class].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pages of a class that were kept, or fresh ones. What is handed out and what is kept are within the limit together.
    fn pages(&self, class: Option<usize>, page_count: usize) -> Vec<Page> {
        let bytes = (page_count * BUF_ALIGN) as u64;
        if let Some(pages) = class.and_then(|c| self.class(c).pop()) {
            self.kept.fetch_sub(bytes, Ordering::Relaxed);
            return pages;
        }
        let (kept, used) = (self.kept.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        if kept > 0 && used.saturating_add(kept) > self.limit {
            for (class, pages) in CLASS_PAGES.iter().enumerate() {
                let gone = std::mem::take(&mut *self.class(class)).len() * pages * BUF_ALIGN;
                self.kept.fetch_sub(gone as u64, Ordering::Relaxed);
            }
        }
        vec![Page::new_zeroed(); page_count]
    }

    fn keep(&self, pages: Vec<Page>) {
        let bytes = (pages.len() * BUF_ALIGN) as u64;
        let (kept, used) = (self.kept.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed));
        // The pages themselves still count as used.
        if used.saturating_add(kept) > self.limit {
            return;
        }
        if let Some(class) = CLASS_PAGES.iter().position(|c| *c == pages.len()) {
            let mut free = self.class(class);
            if free.len() < KEPT_BYTES_PER_CLASS / (pages.len() * BUF_ALIGN) {
                free.push(pages);
                self.kept.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
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
        Self { shared: Shared::new(limit, None) }
    }

    /// A pool of its own limit whose buffers count in this one too: parts with limits that add up to more than this
    /// pool's still stay within it together. What one part gives back wakes only whoever waits at that part.
    pub fn part(&self, limit: u64) -> Self {
        Self { shared: Shared::new(limit, Some(self.shared.clone())) }
    }

    /// How much of the pool that this is a part of is handed out, and its limit; of this one if it is a whole one.
    pub fn whole(&self) -> (u64, u64) {
        let whole = self.shared.store();
        (whole.used.load(Ordering::Relaxed), whole.limit)
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
        if !self.shared.claim(bytes) {
            return None;
        }
        let pages = self.shared.store().pages(class, page_count);
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
        shared.store().keep(pages);
        shared.release(bytes);
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
    fn parts_stay_within_the_whole_together_and_so_does_what_is_kept() {
        const PAGE: u64 = BUF_ALIGN as u64;
        let whole = BufPool::new(64 * PAGE);
        let parts = [whole.part(48 * PAGE), whole.part(48 * PAGE), whole.part(48 * PAGE)];
        let mut held: Vec<Vec<PoolBuf>> = parts.iter().map(|_| Vec::new()).collect();
        // All parts take what they get, in turn, until nobody gets anything.
        loop {
            let before = whole.used();
            for (part, held) in parts.iter().zip(&mut held) {
                held.extend(part.try_alloc(4 * BUF_ALIGN));
            }
            assert!(whole.used() <= whole.limit(), "{whole:?}");
            if whole.used() == before {
                break;
            }
        }
        assert_eq!((whole.used(), parts[0].whole()), (64 * PAGE, (64 * PAGE, 64 * PAGE)));
        assert!(held.iter().all(|h| h.len() >= 5), "none is left with nothing");
        // What one gives back another can have, and a part's own limit holds.
        held[1].clear();
        held[2].clear();
        while let Some(buf) = parts[0].try_alloc(4 * BUF_ALIGN) {
            held[0].push(buf);
        }
        assert_eq!((parts[0].used(), parts[1].used(), whole.used()), (48 * PAGE, 0, 48 * PAGE));
        // Pages of another size are let go before fresh ones are taken.
        let other: Vec<PoolBuf> = std::iter::from_fn(|| parts[1].try_alloc(2 * BUF_ALIGN)).collect();
        assert_eq!(other.len(), 8);
        let kept = || whole.shared.kept.load(Ordering::Relaxed);
        assert!(whole.used() + kept() <= whole.limit(), "{} used, {} kept", whole.used(), kept());
        drop((held, other));
        assert_eq!(whole.used(), 0);
        assert!(kept() <= whole.limit());
    }

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
