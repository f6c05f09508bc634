//! What the records that are not durable cover, so that the durable content is known without looking through the journal.

use std::collections::VecDeque;

use reprise_types::{Extent, Sector, SectorCount, Seq};

use crate::index::Index;

/// Pieces under one record, at most: zeros may cover a whole index. Where there are more nothing is known until the record is
/// durable.
const PIECES_MAX: usize = 4096;

/// A part of an extent and the newest record there; none where home was current.
type Piece = (Extent, Option<Seq>);

#[derive(Debug)]
struct Under {
    seq: Seq,
    /// None where there are too many.
    pieces: Option<Vec<Piece>>,
}

/// Records that are not durable, oldest first, each with what was there before it. As many as hosts have buffers for.
#[derive(Debug, Default)]
pub(crate) struct Covered {
    records: VecDeque<Under>,
}

fn pieces_of(index: &Index, extent: Extent) -> impl Iterator<Item = Piece> {
    let piece = move |(sector, sectors, seq)| (Extent { sector, sectors, ..extent }, seq);
    index.lookup(extent).into_iter().map(piece)
}

fn common(a: &Extent, b: &Extent) -> Option<Extent> {
    let (from, to) = (a.sector.max(b.sector), a.end().min(b.end()));
    let sectors = SectorCount::from_raw(to.get().checked_sub(from.get()).filter(|n| *n > 0)?);
    (a.volume == b.volume).then_some(Extent { sector: Sector::from_raw(from.get()), sectors, ..*a })
}

impl Covered {
    /// A record has got its Seq. `index` does not have it yet; without an extent it changes no content.
    pub(crate) fn appended(&mut self, seq: Seq, extent: Option<Extent>, index: &Index) {
        let pieces: Vec<Piece> = extent.into_iter().flat_map(|e| pieces_of(index, e)).take(PIECES_MAX + 1).collect();
        self.records.push_back(Under { seq, pieces: (pieces.len() <= PIECES_MAX).then_some(pieces) });
    }

    pub(crate) fn durable(&mut self, seq: Seq) {
        while self.records.pop_front_if(|under| under.seq <= seq).is_some() {}
    }

    /// The index of an extent as it was before the records that are not durable, of which there are `count`. None where that
    /// is not known. `applied` is where home is.
    pub(crate) fn index(&self, newest: &Index, count: u64, applied: Seq, extent: Extent) -> Option<Index> {
        if self.records.len() as u64 != count {
            return None;
        }
        let mut index = Index::default();
        for (part, seq) in pieces_of(newest, extent) {
            seq.into_iter().for_each(|seq| index.insert(part, seq));
        }
        for under in self.records.iter().rev() {
            for (piece, seq) in under.pieces.as_ref()? {
                let Some(part) = common(piece, &extent) else { continue };
                match seq.filter(|seq| *seq > applied) {
                    Some(seq) => index.insert(part, seq),
                    None => index.remove(part, Seq::MAX),
                }
            }
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use reprise_types::VolumeSlot;

    use super::*;

    fn extent(volume: u16, sector: u64, sectors: u64) -> Extent {
        Extent {
            volume: VolumeSlot::from_raw(volume),
            sector: Sector::from_raw(sector),
            sectors: SectorCount::from_raw(sectors),
        }
    }

    fn seq(n: u64) -> Seq {
        Seq::from_raw(n)
    }

    /// Where the sectors of volume 0 come from, 0 being home.
    fn sectors(index: &Index, count: u64) -> Vec<u64> {
        let runs = index.lookup(extent(0, 0, count));
        runs.into_iter().flat_map(|(_, n, seq)| vec![seq.map_or(0, Seq::get); n.get() as usize]).collect()
    }

    struct Bench {
        index: Index,
        covered: Covered,
        written: u64,
        durable: u64,
    }

    impl Bench {
        /// Record 1, durable, on sectors 0 to 3, and nothing else.
        fn new() -> Self {
            let mut index = Index::default();
            index.insert(extent(0, 0, 4), seq(1));
            Self { index, covered: Covered::default(), written: 1, durable: 1 }
        }

        fn append(&mut self, extent: Extent) {
            self.written += 1;
            self.covered.appended(seq(self.written), Some(extent), &self.index);
            self.index.insert(extent, seq(self.written));
        }

        fn durable(&mut self, to: u64) {
            self.durable = to;
            self.covered.durable(seq(to));
        }

        fn at_durable(&self, applied: u64) -> Option<Vec<u64>> {
            let count = self.written - self.durable;
            let index = self.covered.index(&self.index, count, seq(applied), extent(0, 0, 8))?;
            Some(sectors(&index, 8))
        }
    }

    #[test]
    fn what_lies_under_several_records_is_known_as_each_becomes_durable() {
        let mut bench = Bench::new();
        bench.append(extent(0, 2, 4));
        bench.append(extent(1, 0, 8));
        bench.append(extent(0, 3, 2));
        assert_eq!(sectors(&bench.index, 8), [1, 1, 2, 4, 4, 2, 0, 0]);
        assert_eq!(bench.at_durable(0), Some(vec![1, 1, 1, 1, 0, 0, 0, 0]));
        bench.durable(2);
        assert_eq!(bench.at_durable(0), Some(vec![1, 1, 2, 2, 2, 2, 0, 0]));
        // Home has record 2: the journal may have let it go.
        bench.index.remove(extent(0, 0, 8), seq(2));
        assert_eq!(bench.at_durable(2), Some(vec![0; 8]));
        bench.durable(4);
        assert_eq!(bench.at_durable(2), Some(vec![0, 0, 0, 4, 4, 0, 0, 0]));
    }

    #[test]
    fn what_was_not_kept_from_the_first_record_on_is_not_known() {
        let mut bench = Bench::new();
        bench.append(extent(0, 2, 4));
        bench.covered = Covered::default();
        bench.append(extent(0, 6, 1));
        assert_eq!(bench.at_durable(0), None);
        bench.durable(2);
        assert_eq!(bench.at_durable(0), Some(vec![1, 1, 2, 2, 2, 2, 0, 0]));
    }

    #[test]
    fn of_a_record_over_too_many_pieces_nothing_is_kept_until_it_is_durable() {
        for (pieces, known) in [(PIECES_MAX as u64, true), (PIECES_MAX as u64 + 1, false)] {
            let mut bench = Bench::new();
            // Single sectors with gaps of one: each and each gap is a piece.
            (0..pieces / 2 + 1).for_each(|n| bench.index.insert(extent(2, n * 2, 1), seq(1)));
            bench.append(extent(2, 0, pieces));
            assert_eq!(bench.at_durable(0).is_some(), known, "{pieces} pieces");
            bench.durable(2);
            assert!(bench.at_durable(0).is_some());
        }
    }
}
