//! Who holds which segment of the cache.

use std::collections::BTreeSet;
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

/// Gives segments to groups. Shared by the groups' threads; asked once per segment, so a lock is no matter.
#[derive(Debug, Clone)]
pub struct Allocator {
    state: Arc<Mutex<State>>,
}

impl Allocator {
    /// All segments but those `held`. Generations go on behind `newest_generation`; `fresh` ones were never written.
    pub fn new(total: u32, held: &BTreeSet<SegmentId>, newest_generation: u64, fresh: BTreeSet<SegmentId>) -> Self {
        let free = (0..total).filter(|s| !held.contains(s)).collect();
        let state = State { free, next_generation: newest_generation + 1, total, fresh };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A segment for data, and whether it has to be filled with zeros first; none while only the reserve is left.
    pub fn grant(&self) -> Option<(Grant, bool)> {
        self.with(|s| {
            if s.free.len() as u32 <= RESERVE {
                return None;
            }
            let segment = s.free.pop_first()?;
            let generation = s.next_generation;
            s.next_generation += 1;
            Some((Grant { segment, generation }, s.fresh.remove(&segment)))
        })
    }

    /// The newest generation given out.
    pub fn newest_generation(&self) -> u64 {
        self.with(|s| s.next_generation - 1)
    }

    /// Takes segments back.
    pub fn free(&self, segments: &[SegmentId]) {
        self.with(|s| s.free.extend(segments.iter().copied()));
    }

    /// Takes a segment back that could not be filled: it is still to be filled before its first use.
    pub fn give_back_fresh(&self, segment: SegmentId) {
        self.with(|s| {
            s.free.insert(segment);
            s.fresh.insert(segment);
        });
    }

    /// How full the cache is.
    pub fn fill(&self) -> CacheFill {
        self.with(|s| CacheFill { total: s.total, used: s.total - s.free.len() as u32, reserve: RESERVE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept_and_generations_grow() {
        let allocator = Allocator::new(8, &BTreeSet::from([3]), 10, BTreeSet::from([0]));
        let grants: Vec<_> = std::iter::from_fn(|| allocator.grant()).collect();
        let ids: Vec<_> = grants.iter().map(|(g, _)| g.segment).collect();
        assert_eq!(ids, [0, 1, 2]);
        assert_eq!(grants.iter().map(|(g, _)| g.generation).collect::<Vec<_>>(), [11, 12, 13]);
        assert_eq!(grants.iter().map(|(_, fresh)| *fresh).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(allocator.fill().free(), 0);
        allocator.free(&[1]);
        assert_eq!(allocator.grant().map(|(g, _)| (g.segment, g.generation)), Some((1, 14)));
    }
}
