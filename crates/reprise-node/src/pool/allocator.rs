//! Who holds which segment of the cache.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reprise_engine::CacheFill;
use reprise_journal::{Grant, SegmentId};

/// Segments kept back from data, so that a full cache can always be left.
const RESERVE: u32 = 4;

#[derive(Debug)]
struct State {
    free: BTreeSet<SegmentId>,
    next_generation: u64,
    total: u32,
    /// Segments of a cache file that were never written: they are filled with zeros before their first use.
    fresh: BTreeSet<SegmentId>,
}

/// Memory of the indexes of all journals.
#[derive(Debug)]
struct IndexMemory {
    used: AtomicU64,
    limit: AtomicU64,
}

/// Gives segments to groups. Shared by the groups' threads; asked once per segment, so a lock is no matter.
#[derive(Debug, Clone)]
pub struct Allocator {
    state: Arc<Mutex<State>>,
    index: Arc<IndexMemory>,
}

/// A group's part of the memory for indexes; gives it back when dropped.
#[derive(Debug)]
pub struct IndexShare {
    memory: Arc<IndexMemory>,
    bytes: AtomicU64,
}

impl IndexShare {
    /// The group's index has this size.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.memory.used.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for IndexShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Allocator {
    /// All segments but those `held`. Generations go on behind `newest_generation`; `fresh` ones were never written.
    pub fn new(total: u32, held: &BTreeSet<SegmentId>, newest_generation: u64, fresh: BTreeSet<SegmentId>) -> Self {
        let free = (0..total).filter(|s| !held.contains(s)).collect();
        let state = State { free, next_generation: newest_generation + 1, total, fresh };
        let index = IndexMemory { used: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) };
        Self { state: Arc::new(Mutex::new(state)), index: Arc::new(index) }
    }

    /// Limits the memory of all indexes. At the limit no segment is granted, as if the cache were full: the index then
    /// grows by what fits the open segments and no more, and shrinks as the journals are trimmed.
    pub fn set_index_limit(&self, bytes: u64) {
        self.index.limit.store(bytes, Ordering::Relaxed);
    }

    /// Memory of all indexes and its limit, bytes.
    pub fn index_memory(&self) -> (u64, u64) {
        (self.index.used.load(Ordering::Relaxed), self.index.limit.load(Ordering::Relaxed))
    }

    /// True where the memory of the indexes holds segments back.
    pub fn is_index_full(&self) -> bool {
        let (used, limit) = self.index_memory();
        used > limit
    }

    /// For a group to say how large its index is.
    pub fn index_share(&self) -> IndexShare {
        IndexShare { memory: self.index.clone(), bytes: AtomicU64::new(0) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A segment for data, and whether it has to be filled with zeros first; none while only the reserve is left, or the
    /// indexes are at their limit.
    pub fn grant(&self) -> Option<(Grant, bool)> {
        if self.is_index_full() {
            return None;
        }
        self.with(|s| {
            if s.free.len() as u32 <= RESERVE {
                return None;
            }
            // One that was written before takes no room and no time; a fresh one may find the file system full.
            let segment = s.free.difference(&s.fresh).next().or_else(|| s.free.first()).copied()?;
            s.free.remove(&segment);
            let generation = s.next_generation;
            s.next_generation += 1;
            Some((Grant { segment, generation }, s.fresh.remove(&segment)))
        })
    }

    /// The newest generation given out.
    pub fn newest_generation(&self) -> u64 {
        self.with(|s| s.next_generation - 1)
    }

    /// From here on generations are newer than `floor`: a group is about to run that starts behind it.
    pub fn begin_behind(&self, floor: u64) {
        self.with(|s| s.next_generation = s.next_generation.max(floor + 1));
    }

    /// Takes a fresh segment back that could not be filled: it is as fresh as before, and must not be used as it is.
    pub fn give_back_fresh(&self, segment: SegmentId) {
        self.with(|s| {
            s.free.insert(segment);
            s.fresh.insert(segment);
        });
    }

    /// Takes segments back.
    pub fn free(&self, segments: &[SegmentId]) {
        self.with(|s| s.free.extend(segments.iter().copied()));
    }

    /// How full the cache is.
    pub fn fill(&self) -> CacheFill {
        self.with(|s| CacheFill { total: s.total, used: s.total - s.free.len() as u32, reserve: RESERVE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment that could not be filled was handed out as one that had been: the journal then wrote into a hole of a
    /// file on a full file system, and the group was fenced.
    #[test]
    fn a_segment_that_could_not_be_filled_is_fresh_again() {
        let allocator = Allocator::new(6, &BTreeSet::new(), 0, (0..6).collect());
        let (grant, fresh) = allocator.grant().unwrap();
        assert!(fresh);
        allocator.give_back_fresh(grant.segment);
        assert!(allocator.grant().is_some_and(|(_, fresh)| fresh));
        let (second, _) = allocator.grant().unwrap();
        allocator.free(&[second.segment]);
    }

    #[test]
    fn full_indexes_hold_segments_back_until_they_shrink() {
        let allocator = Allocator::new(16, &BTreeSet::new(), 0, BTreeSet::new());
        allocator.set_index_limit(1000);
        let shares = [allocator.index_share(), allocator.index_share()];
        shares[0].set(600);
        assert!(allocator.grant().is_some());
        shares[1].set(500);
        assert!(allocator.grant().is_none() && allocator.is_index_full());
        shares[0].set(400);
        assert!(allocator.grant().is_some());
        shares[1].set(900);
        assert!(allocator.grant().is_none());
        drop(shares);
        assert_eq!(allocator.index_memory(), (0, 1000));
    }

    #[test]
    fn generations_begin_behind_a_floor() {
        let allocator = Allocator::new(8, &BTreeSet::new(), 2, BTreeSet::new());
        for (floor, next) in [(1, 3), (7, 8), (7, 9)] {
            allocator.begin_behind(floor);
            assert_eq!(allocator.grant().map(|(g, _)| g.generation), Some(next));
        }
    }

    #[test]
    fn the_reserve_is_kept_and_generations_grow() {
        let allocator = Allocator::new(8, &BTreeSet::from([3]), 10, BTreeSet::from([0, 5, 6, 7]));
        let grants: Vec<_> = std::iter::from_fn(|| allocator.grant()).collect();
        let ids: Vec<_> = grants.iter().map(|(g, _)| g.segment).collect();
        assert_eq!(ids, [1, 2, 4], "segments that were written before come first");
        assert_eq!(grants.iter().map(|(g, _)| g.generation).collect::<Vec<_>>(), [11, 12, 13]);
        assert!(grants.iter().all(|(_, fresh)| !fresh));
        assert_eq!(allocator.fill().free(), 0);
        allocator.free(&[1]);
        assert_eq!(allocator.grant().map(|(g, _)| (g.segment, g.generation)), Some((1, 14)));
    }
}
