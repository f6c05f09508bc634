//! Where the bytes of a read are.

use bytes::Bytes;
use reprise_format::batch::{BodyHeader, Descriptor, ENVELOPE_LEN, check_grain};
use reprise_format::{CRC_GRAIN, FormatError};
use reprise_types::{Extent, HistoryHash, RecordKind, Sector, SectorCount, Seq, honest};

use crate::index::Index;
use crate::log::Log;
use crate::store::Store;

/// Where a piece of a read comes from.
#[derive(Debug, Clone)]
pub enum PieceSource {
    /// The volume's home.
    Home,
    /// It reads as zeros.
    Zero,
    /// Memory: a record in the RAM tail.
    Ram(Bytes),
    /// The journal on disk.
    Disk(DiskPiece),
}

/// A run of sectors of a read.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub sectors: SectorCount,
    /// Where the bytes are.
    pub source: PieceSource,
}

/// A read, planned.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    /// The pieces, in order, without gaps.
    pub pieces: Vec<Piece>,
    /// The newest record any piece comes from: the answer waits until it is durable. Zero if all is home.
    pub newest: Seq,
}

/// Part of a record's payload on disk, with what is needed to check it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPiece {
    /// The record.
    pub seq: Seq,
    /// h after the batch that holds it: names the batch, so that an older one in its place is seen.
    pub h_after: HistoryHash,
    /// Offset in the cache of the batch's envelope.
    pub header_at: u64,
    /// Bytes from there that hold envelope and body header.
    pub header_len: usize,
    /// Offset in the cache of the first checksum grain that the piece touches.
    pub payload_at: u64,
    /// Bytes of the grains it touches.
    pub payload_len: usize,
    /// Number of the first grain.
    pub first_grain: usize,
    /// Bytes to skip in the grains.
    pub skip: usize,
    /// Bytes of the piece.
    pub take: usize,
}

impl DiskPiece {
    /// Checks what was read and gives the piece's bytes.
    ///
    /// # Errors
    /// The journal is rotten here: the bytes are not those that were written.
    pub fn verify(&self, header: &[u8], payload: &Bytes) -> Result<Bytes, FormatError> {
        let what = "journal read";
        let short = |need, have| FormatError::Short { what, need, have };
        let body = header.get(ENVELOPE_LEN..).ok_or(short(ENVELOPE_LEN, header.len()))?;
        let header = BodyHeader::decode(body)?;
        if header.head.h_after != self.h_after {
            return Err(FormatError::Field { what, field: "h_after", value: header.head.last_seq.get() });
        }
        let place = self.seq.get().checked_sub(header.head.first_seq.get());
        let record = place.and_then(|p| header.records.get(usize::try_from(p).ok()?));
        let record = record.ok_or(FormatError::Field { what, field: "seq", value: self.seq.get() })?;
        for (i, grain) in payload.chunks(CRC_GRAIN).enumerate() {
            check_grain(record, self.first_grain + i, grain)?;
        }
        let end = self.skip + self.take;
        if payload.len() < end {
            return Err(short(end, payload.len()));
        }
        Ok(payload.slice(self.skip..end))
    }
}

/// Finds where the bytes of a read are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planner<'a> {
    /// For records that are not packed.
    pub(crate) log: &'a Log,
    /// For all others.
    pub(crate) store: &'a Store,
}

impl Planner<'_> {
    /// Plans a read of the content as an index has it.
    pub(crate) fn plan(&self, index: &Index, extent: Extent) -> ReadPlan {
        let mut newest = Seq::ZERO;
        let mut pieces = Vec::with_capacity(1);
        for (sector, sectors, seq) in index.lookup(extent) {
            let source = match seq {
                None => PieceSource::Home,
                Some(seq) => {
                    newest = newest.max(seq);
                    self.locate(seq, Extent { sector, sectors, ..extent })
                }
            };
            pieces.push(Piece { sector, sectors, source });
        }
        ReadPlan { pieces, newest }
    }

    /// Where the bytes of `part` of record `seq` are.
    fn locate(&self, seq: Seq, part: Extent) -> PieceSource {
        if seq > self.log.packed().seq {
            let record = self.log.unpacked(seq).expect("a record that is not packed waits for it");
            return in_memory(&record.descriptor, &record.payload, part);
        }
        match self.store.tail().holding(seq).and_then(|b| b.record(seq)) {
            Some((record, payload)) => in_memory(&record.descriptor, payload, part),
            None => self.on_disk(seq, part),
        }
    }

    fn on_disk(&self, seq: Seq, part: Extent) -> PieceSource {
        let segment = self.store.segment_of(seq).expect("an indexed record is in the tail or in a segment");
        let record = segment.record(seq).expect("the segment's table has all its records");
        if record.zero {
            return PieceSource::Zero;
        }
        let len = part.sectors.bytes().get() as usize;
        let base = self.store.offset_of(segment);
        let entry = segment.batches[record.batch as usize];
        let from = ((part.sector.get() - record.sector) * 512) as usize;
        let first_grain = from / CRC_GRAIN;
        let grains_at = first_grain * CRC_GRAIN;
        let grains_end = (from + len).next_multiple_of(CRC_GRAIN).min(record.sectors as usize * 512);
        PieceSource::Disk(DiskPiece {
            seq,
            h_after: entry.h_after,
            header_at: base + u64::from(entry.offset),
            header_len: ENVELOPE_LEN + entry.header_len as usize,
            payload_at: base + u64::from(record.payload_sector) * 512 + grains_at as u64,
            payload_len: grains_end - grains_at,
            first_grain,
            skip: honest!(from - grains_at, ReadSkipsWrong => 0),
            take: len,
        })
    }
}

fn in_memory(descriptor: &Descriptor, payload: &Bytes, part: Extent) -> PieceSource {
    if descriptor.kind == RecordKind::Zero {
        return PieceSource::Zero;
    }
    let skip = ((part.sector.get() - descriptor.sector.get()) * 512) as usize;
    PieceSource::Ram(payload.slice(skip..skip + part.sectors.bytes().get() as usize))
}
