//! Which record is the newest for a sector: extents -> Seq.

use std::collections::BTreeMap;

use reprise_types::{Extent, Sector, SectorCount, Seq, VolumeSlot, honest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    end: u64,
    seq: Seq,
}

/// For each sector of each volume the newest record of a range of history.
///
/// Extents of a volume do not overlap; inserting cuts what lies under the new one. An older moment S is looked up in
/// an index built from the records up to S (`Journal::index_at`): the tables the segments keep make that a replay in
/// memory. What this costs in memory is stated in `docs/internals/pool.md`.
#[derive(Debug, Default, Clone)]
pub struct Index {
    volumes: BTreeMap<VolumeSlot, BTreeMap<u64, Node>>,
}

impl Index {
    /// Makes `seq` the newest record for the extent. Must be called in Seq order.
    pub fn insert(&mut self, extent: Extent, seq: Seq) {
        let (start, end) = (extent.sector.get(), extent.end().get());
        if start >= end {
            return;
        }
        let map = self.volumes.entry(extent.volume).or_default();
        Self::clear(map, start, end, |_| true);
        map.insert(start, Node { end, seq });
    }

    /// Forgets the extent where the newest record is `up_to` or older.
    pub fn remove(&mut self, extent: Extent, up_to: Seq) {
        if let Some(map) = self.volumes.get_mut(&extent.volume) {
            Self::clear(map, extent.sector.get(), extent.end().get(), |seq| seq <= up_to);
        }
    }

    /// Removes `start..end` from the nodes that `hit` accepts; cuts nodes that reach beyond.
    fn clear(map: &mut BTreeMap<u64, Node>, start: u64, end: u64, hit: impl Fn(Seq) -> bool) {
        let mut from = match map.range(..start).next_back() {
            Some((at, node)) if node.end > start => *at,
            _ => start,
        };
        loop {
            let next = map.range(from..end).find(|(_, n)| hit(n.seq));
            let Some((&at, &node)) = next else { break };
            map.remove(&at);
            if at < start {
                map.insert(at, Node { end: start, seq: node.seq });
            }
            if honest!(node.end > end, IndexCut => false) {
                map.insert(end, node);
            }
            from = node.end.min(end);
        }
    }

    /// The extent cut into runs, in order: each with the newest record, or none where home is current.
    pub fn lookup(&self, extent: Extent) -> Vec<(Sector, SectorCount, Option<Seq>)> {
        let (start, end) = (extent.sector.get(), extent.end().get());
        let mut out = Vec::new();
        let mut at = start;
        let mut push = |from: u64, to: u64, seq: Option<Seq>| {
            if from < to {
                out.push((Sector::from_raw(from), SectorCount::from_raw(to - from), seq));
            }
        };
        if let Some(map) = self.volumes.get(&extent.volume) {
            let before = map.range(..start).next_back().filter(|(_, n)| n.end > start);
            for (&from, node) in before.into_iter().chain(map.range(start..end)) {
                let from = from.max(start);
                let to = node.end.min(end);
                push(at, from, None);
                push(from, to, Some(node.seq));
                at = to;
            }
        }
        push(at, end, None);
        out
    }

    /// Number of extents.
    pub fn len(&self) -> usize {
        self.volumes.values().map(BTreeMap::len).sum()
    }

    /// True if home is current everywhere.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every extent in order of volume and sector.
    pub fn iter(&self) -> impl Iterator<Item = (Extent, Seq)> + '_ {
        self.volumes.iter().flat_map(|(volume, map)| {
            map.iter().map(|(start, node)| {
                let extent = Extent {
                    volume: *volume,
                    sector: Sector::from_raw(*start),
                    sectors: SectorCount::from_raw(node.end - start),
                };
                (extent, node.seq)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(sector: u64, sectors: u64) -> Extent {
        Extent {
            volume: VolumeSlot::from_raw(0),
            sector: Sector::from_raw(sector),
            sectors: SectorCount::from_raw(sectors),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_flat_array_of_sectors(
            ops in prop::collection::vec((0u64..120, 1u64..40, any::<bool>(), 0u64..60), 1..120)
        ) {
            let mut index = Index::default();
            let mut flat = vec![None::<Seq>; 200];
            for (i, (sector, sectors, insert, back)) in ops.into_iter().enumerate() {
                let seq = Seq::from_raw(i as u64 + 1);
                let range = sector as usize..(sector + sectors) as usize;
                if insert {
                    index.insert(extent(sector, sectors), seq);
                    flat[range].fill(Some(seq));
                } else {
                    let up_to = Seq::from_raw(seq.get().saturating_sub(back));
                    index.remove(extent(sector, sectors), up_to);
                    flat[range].iter_mut().filter(|s| s.is_some_and(|s| s <= up_to)).for_each(|s| *s = None);
                }
                let mut seen = Vec::new();
                for (at, count, seq) in index.lookup(extent(0, 200)) {
                    prop_assert_eq!(at.get() as usize, seen.len());
                    seen.resize(seen.len() + count.get() as usize, seq);
                }
                prop_assert_eq!(&seen, &flat);
            }
        }
    }
}
