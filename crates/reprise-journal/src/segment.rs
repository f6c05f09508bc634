//! A segment as the journal keeps it in memory.

use reprise_format::batch::BodyHeader;
use reprise_format::segment::{BatchEntry, Footer, RecordEntry, SEGMENT_HEADER_LEN, SegmentHeader};
use reprise_format::superblock::SEGMENTS_OFFSET;
use reprise_types::{Extent, HistoryHash, RecordKind, Sector, SectorCount, Seq, VolumeSlot, honest};

/// Index of a segment in the cache.
pub type SegmentId = u32;

/// Byte offset of a segment in the cache.
pub fn segment_offset(segment: SegmentId, segment_len: u64) -> u64 {
    SEGMENTS_OFFSET + u64::from(segment) * segment_len
}

/// A segment that carries a valid header.
#[derive(Debug, Clone, Copy)]
pub struct SegmentFound {
    /// Which.
    pub segment: SegmentId,
    /// Its header.
    pub header: SegmentHeader,
}

/// The newest generation that may have been given out: of the segments found, and those that groups start behind. A segment
/// of a generation that is not newer than its group's floor is of an earlier life of the group and is never read again, so
/// the next one is given out behind all of these.
pub fn newest_generation(found: &[SegmentFound], floors: impl IntoIterator<Item = u64>) -> u64 {
    let floors = floors.into_iter().filter(|_| honest!(true, FloorForgotten => false));
    found.iter().map(|s| s.header.generation).chain(floors).max().unwrap_or(0)
}

/// A segment given to a group by the pool's allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Which segment.
    pub segment: SegmentId,
    /// Larger than the generation of every use of any segment of the pool so far.
    pub generation: u64,
}

/// A record in memory, 24 bytes; its Seq is its place in the segment's table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rec {
    pub(crate) sector: u64,
    pub(crate) sectors: u32,
    pub(crate) payload_sector: u32,
    pub(crate) batch: u32,
    pub(crate) volume: u16,
    pub(crate) zero: bool,
}

impl Rec {
    pub(crate) fn extent(&self) -> Extent {
        Extent {
            volume: VolumeSlot::from_raw(self.volume),
            sector: Sector::from_raw(self.sector),
            sectors: SectorCount::from_raw(self.sectors.into()),
        }
    }
}

/// A segment the group holds: tables of its batches and records in Seq order.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    /// Byte offset behind the last batch.
    pub(crate) data_end: u32,
    pub(crate) batches: Vec<BatchEntry>,
    pub(crate) records: Vec<Rec>,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader) -> Self {
        Self { header, data_end: SEGMENT_HEADER_LEN as u32, batches: Vec::new(), records: Vec::new() }
    }

    /// Last Seq in it; the one before its first if it is empty.
    pub(crate) fn last_seq(&self) -> Seq {
        Seq::from_raw(self.header.first_seq.get() - 1 + self.records.len() as u64)
    }

    /// h after its last record.
    pub(crate) fn h_after(&self) -> HistoryHash {
        self.batches.last().map_or(self.header.h_before, |b| b.h_after)
    }

    /// Takes note of a batch at `offset`.
    pub(crate) fn push(&mut self, offset: u32, total_len: u32, header: &BodyHeader) {
        let batch = self.batches.len() as u32;
        let head = &header.head;
        let payload_at = offset + 64 + head.header_len;
        for r in &header.records {
            let d = &r.descriptor;
            let content = d.kind.changes_content();
            self.records.push(Rec {
                sector: d.sector.get(),
                sectors: if content { u32::try_from(d.sectors.get()).unwrap_or(u32::MAX) } else { 0 },
                payload_sector: (payload_at + r.payload_offset) / 512,
                batch,
                volume: d.volume.get(),
                zero: d.kind == RecordKind::Zero,
            });
        }
        self.batches.push(BatchEntry {
            offset,
            header_len: head.header_len,
            body_len: header.body_len() as u32,
            records: header.records.len() as u32,
            wall: head.wall_forced,
            h_after: head.h_after,
        });
        self.data_end = offset + total_len;
    }

    pub(crate) fn record(&self, seq: Seq) -> Option<&Rec> {
        self.records.get(usize::try_from(seq.get().checked_sub(self.header.first_seq.get())?).ok()?)
    }

    /// Index of the batch that holds `seq`, with the Seq before the batch.
    pub(crate) fn batch_of(&self, seq: Seq) -> Option<(usize, Seq)> {
        let index = self.record(seq)?.batch as usize;
        // Records of one batch stand together, so its first is found by going back over its count at most.
        let at = (seq.get() - self.header.first_seq.get()) as usize;
        let first = self.records[..=at].iter().rposition(|r| r.batch as usize != index).map_or(0, |p| p + 1);
        Some((index, Seq::from_raw(self.header.first_seq.get() + first as u64 - 1)))
    }

    /// h(seq), if `seq` is the last record of a batch here, or the one before the segment's first.
    pub(crate) fn hash_at(&self, seq: Seq) -> Option<HistoryHash> {
        if seq.next() == self.header.first_seq {
            return Some(self.header.h_before);
        }
        let at = usize::try_from(seq.get().checked_sub(self.header.first_seq.get())?).ok()?;
        let batch = self.records.get(at)?.batch;
        let ends_here = self.records.get(at + 1).is_none_or(|next| next.batch != batch);
        ends_here.then(|| self.batches.get(batch as usize).map(|b| b.h_after)).flatten()
    }

    pub(crate) fn footer(&self, incarnation: u32, superblock_version: u64) -> Footer {
        let mut records: Vec<RecordEntry> = (0u32..)
            .zip(&self.records)
            .map(|(seq_delta, r)| RecordEntry {
                sector: Sector::from_raw(r.sector),
                volume: VolumeSlot::from_raw(r.volume),
                sectors: r.sectors,
                zero: r.zero,
                seq_delta,
                payload_sector: r.payload_sector,
                batch: r.batch,
            })
            .collect();
        records.sort_unstable_by_key(|r| (r.volume, r.sector, r.seq_delta));
        Footer {
            group: self.header.group,
            segment: self.header.segment,
            generation: self.header.generation,
            first_seq: self.header.first_seq,
            h_before: self.header.h_before,
            incarnation,
            superblock_version,
            data_end: self.data_end,
            batches: self.batches.clone(),
            records,
        }
    }

    /// The segment a footer describes; none if the footer's tables do not fit together.
    pub(crate) fn from_footer(header: SegmentHeader, footer: &Footer) -> Option<Self> {
        let same = footer.group == header.group
            && footer.segment == header.segment
            && footer.generation == header.generation
            && footer.first_seq == header.first_seq
            && footer.h_before == header.h_before;
        let counted: u64 = footer.batches.iter().map(|b| u64::from(b.records)).sum();
        if !same || counted != footer.records.len() as u64 {
            return None;
        }
        let empty = Rec { sector: 0, sectors: 0, payload_sector: 0, batch: u32::MAX, volume: 0, zero: false };
        let mut records = vec![empty; footer.records.len()];
        for e in &footer.records {
            let slot = records.get_mut(e.seq_delta as usize)?;
            *slot = Rec {
                sector: e.sector.get(),
                sectors: e.sectors,
                payload_sector: e.payload_sector,
                batch: e.batch,
                volume: e.volume.get(),
                zero: e.zero,
            };
        }
        // The records of each batch stand together and are as many as the batch says.
        let counts = footer.batches.iter().map(|b| b.records as usize);
        let mut expected = (0u32..).zip(counts).flat_map(|(batch, n)| std::iter::repeat_n(batch, n));
        let in_order = records.iter().all(|r| expected.next() == Some(r.batch));
        in_order.then(|| Self { header, data_end: footer.data_end, batches: footer.batches.clone(), records })
    }
}
