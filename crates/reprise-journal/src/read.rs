//! Where the bytes of a read are.

use std::sync::Arc;

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{BodyHeader, ENVELOPE_LEN, check_grain};
use reprise_types::{HistoryHash, Sector, SectorCount, Seq};

use crate::Batch;

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
        for (i, grain) in payload.chunks(reprise_format::CRC_GRAIN).enumerate() {
            check_grain(record, self.first_grain + i, grain)?;
        }
        let end = self.skip + self.take;
        if payload.len() < end {
            return Err(short(end, payload.len()));
        }
        Ok(payload.slice(self.skip..end))
    }
}

/// Place of a batch on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlace {
    /// Offset in the cache.
    pub at: u64,
    /// Bytes to read.
    pub len: usize,
    /// First record.
    pub first_seq: Seq,
    /// Last record.
    pub last_seq: Seq,
    /// h after it.
    pub h_after: HistoryHash,
}

impl BatchPlace {
    /// Reads and checks what lies at the place, envelope and padding included.
    ///
    /// # Errors
    /// The journal is rotten here: these are not the bytes of this batch.
    pub fn verify(&self, bytes: Bytes) -> Result<Batch, FormatError> {
        let (_, batch) = Batch::from_disk(bytes)?;
        let head = batch.header().head;
        if (head.first_seq, head.last_seq, head.h_after) != (self.first_seq, self.last_seq, self.h_after) {
            return Err(FormatError::Field { what: "journal read", field: "h_after", value: head.last_seq.get() });
        }
        Ok(batch)
    }
}

/// A batch to be sent or applied.
#[derive(Debug, Clone)]
pub enum BatchSource {
    /// In the RAM tail.
    Ram(Arc<Batch>),
    /// To be read from disk.
    Disk(BatchPlace),
}
