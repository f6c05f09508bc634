//! Segments of the cache: header at the start, footer at the end. See `docs/formats.md`.

use reprise_types::{
    BranchId, GroupId, HistoryHash, PoolBuf, PoolId, Sector, SectorCount, Seq, VolumeSlot, WallMicros,
};

use crate::COUNTER_MAX;
use crate::FormatError;
use crate::batch::{BATCH_LEN_MAX, BODY_HEADER_MAX, ENVELOPE_LEN};
use crate::cursor::{Reader, Writer, check_crc, fill_crc};

/// Bytes kept at the start of a segment for its header. The header itself fills 512, so that no crash can tear it
/// across sectors.
pub const SEGMENT_HEADER_LEN: usize = 4096;
/// Bytes kept at the end of a segment for the footer's trailer.
pub const TRAILER_LEN: usize = 4096;
/// Bytes of a batch entry in a footer.
pub const BATCH_ENTRY_LEN: usize = 40;
/// Bytes of a record entry in a footer.
pub const RECORD_ENTRY_LEN: usize = 24;

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"rpSG");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"rpFT");
const VERSION: u16 = 1;
const HEADER_USED: usize = 512;
const HEADER_CRC_AT: usize = HEADER_USED - 4;
const TRAILER_CRC_AT: usize = TRAILER_LEN - 4;

/// Says whose a segment is. Durable before the first batch goes into the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The pool.
    pub pool: PoolId,
    /// The group that holds the segment.
    pub group: GroupId,
    /// The branch its first batch is on.
    pub branch: BranchId,
    /// Index of the segment in the cache.
    pub segment: u32,
    /// Grows with every use of any segment of the pool.
    pub generation: u64,
    /// First record that goes into it.
    pub first_seq: Seq,
    /// h before that record.
    pub h_before: HistoryHash,
}

impl SegmentHeader {
    /// The 4 KiB at the start of the segment.
    pub fn encode(&self) -> PoolBuf {
        let mut w = Writer::default();
        w.u32(HEADER_MAGIC).u16(VERSION).u16(0).bytes(self.pool.as_bytes()).bytes(self.group.as_bytes());
        w.bytes(self.branch.as_bytes()).u32(self.segment).u32(0).u64(self.generation).u64(self.first_seq.get());
        w.bytes(self.h_before.as_bytes()).pad_to(HEADER_USED);
        let mut buf = PoolBuf::unpooled(SEGMENT_HEADER_LEN);
        buf[..HEADER_USED].copy_from_slice(&w.out);
        fill_crc(&mut buf[..HEADER_USED], HEADER_CRC_AT);
        buf
    }

    /// Reads a segment header.
    ///
    /// # Errors
    /// Never written, torn, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "segment header";
        let have = bytes.len();
        let bytes = bytes.get(..HEADER_USED).ok_or(FormatError::Short { what, need: HEADER_USED, have })?;
        let mut r = Reader::new(what, bytes);
        r.magic(HEADER_MAGIC)?;
        r.version(VERSION)?;
        check_crc(what, bytes, HEADER_CRC_AT)?;
        r.u16()?;
        let pool = PoolId::from_raw(r.take()?);
        let group = GroupId::from_raw(r.take()?);
        let branch = BranchId::from_raw(r.take()?);
        let segment = r.u32()?;
        r.u32()?;
        let generation = r.u64()?;
        let first_seq = r.u64()?;
        if first_seq == 0 || first_seq > Seq::LAST.get() {
            return Err(r.field("first_seq", first_seq));
        }
        if generation > COUNTER_MAX {
            return Err(r.field("generation", generation));
        }
        Ok(Self {
            pool,
            group,
            branch,
            segment,
            generation,
            first_seq: Seq::from_raw(first_seq),
            h_before: HistoryHash::from_raw(r.take()?),
        })
    }
}

/// A batch of a segment as the footer lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchEntry {
    /// Byte offset of the envelope in the segment.
    pub offset: u32,
    /// Bytes of the body header.
    pub header_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Records in the batch.
    pub records: u32,
    /// Source wall clock, forced to grow.
    pub wall: WallMicros,
    /// h after the last record.
    pub h_after: HistoryHash,
}

/// A record of a segment as the footer lists it; packed to 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordEntry {
    /// First sector (48 bits).
    pub sector: Sector,
    /// The volume.
    pub volume: VolumeSlot,
    /// Length in sectors (31 bits); zero for kinds without content.
    pub sectors: u32,
    /// True for a zero record.
    pub zero: bool,
    /// Number of the record after the segment's first.
    pub seq_delta: u32,
    /// Offset of the payload in the segment, in sectors.
    pub payload_sector: u32,
    /// Number of the batch in the segment.
    pub batch: u32,
}

impl RecordEntry {
    /// The length.
    pub fn sector_count(&self) -> SectorCount {
        SectorCount::from_raw(self.sectors.into())
    }
}

/// What a segment holds, written when the segment is full: a restart reads it instead of the batches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Footer {
    /// The group.
    pub group: GroupId,
    /// Index of the segment.
    pub segment: u32,
    /// Generation of the segment.
    pub generation: u64,
    /// First record.
    pub first_seq: Seq,
    /// h before it.
    pub h_before: HistoryHash,
    /// Incarnation of the last batch.
    pub incarnation: u32,
    /// Version of the group's superblock when this was written: a superblock with a smaller one is stale.
    pub superblock_version: u64,
    /// Byte offset behind the last batch.
    pub data_end: u32,
    /// The batches in order.
    pub batches: Vec<BatchEntry>,
    /// The records, sorted by volume, sector and Seq.
    pub records: Vec<RecordEntry>,
}

/// What a trailer says about the footer before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Bytes of the footer's tables, which end where the trailer begins.
    pub tables_len: u32,
    generation: u64,
}

/// Bytes of a footer with this many entries, trailer included.
pub fn footer_len(batches: usize, records: usize) -> usize {
    (batches * BATCH_ENTRY_LEN + records * RECORD_ENTRY_LEN).next_multiple_of(4096) + TRAILER_LEN
}

impl Footer {
    /// The bytes that end at the end of the segment: tables, then the trailer.
    pub fn encode(&self) -> PoolBuf {
        let len = footer_len(self.batches.len(), self.records.len());
        let tables_len = len - TRAILER_LEN;
        let mut w = Writer::default();
        for b in &self.batches {
            w.u32(b.offset).u32(b.header_len).u32(b.body_len).u32(b.records).u64(b.wall.get());
            w.bytes(b.h_after.as_bytes());
        }
        for r in &self.records {
            let place = r.sector.get() | u64::from(r.volume.get()) << 48;
            let sectors = r.sectors | u32::from(r.zero) << 31;
            w.u64(place).u32(sectors).u32(r.seq_delta).u32(r.payload_sector).u32(r.batch);
        }
        w.pad_to(tables_len);
        let mut t = Writer::default();
        t.u32(FOOTER_MAGIC).u16(VERSION).u16(0).u32(tables_len as u32).u32(self.segment).u64(self.generation);
        t.bytes(self.group.as_bytes()).u64(self.first_seq.get()).bytes(self.h_before.as_bytes());
        t.u32(self.incarnation).u32(self.data_end).u32(self.batches.len() as u32).u32(self.records.len() as u32);
        t.u32(crate::crc32c(&w.out)).u32(0).u64(self.superblock_version).pad_to(TRAILER_LEN);
        let mut buf = PoolBuf::unpooled(len);
        buf[..tables_len].copy_from_slice(&w.out);
        buf[tables_len..].copy_from_slice(&t.out);
        fill_crc(&mut buf[tables_len..], TRAILER_CRC_AT);
        buf
    }

    /// Reads a trailer, to know how much to read before it.
    ///
    /// # Errors
    /// Never written, torn, newer, or a length that cannot be.
    pub fn decode_trailer(bytes: &[u8]) -> Result<Trailer, FormatError> {
        let what = "segment footer";
        let mut r = Reader::new(what, bytes);
        r.magic(FOOTER_MAGIC)?;
        r.version(VERSION)?;
        let have = bytes.len();
        let bytes = bytes.get(..TRAILER_LEN).ok_or(FormatError::Short { what, need: TRAILER_LEN, have })?;
        check_crc(what, bytes, TRAILER_CRC_AT)?;
        r.u16()?;
        let tables_len = r.u32()?;
        if tables_len > 64 << 20 || !tables_len.is_multiple_of(4096) {
            return Err(r.field("tables_len", tables_len.into()));
        }
        r.u32()?;
        Ok(Trailer { tables_len, generation: r.u64()? })
    }

    /// Reads tables and trailer, as [`Self::encode`] gave them.
    ///
    /// # Errors
    /// Anything torn, rotten, newer or contradicting itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "segment footer";
        let short = FormatError::Short { what, need: TRAILER_LEN, have: bytes.len() };
        let at = bytes.len().checked_sub(TRAILER_LEN).ok_or(short)?;
        let (tables, trailer) = bytes.split_at(at);
        let known = Self::decode_trailer(trailer)?;
        let mut r = Reader::new(what, trailer);
        r.take::<8>()?;
        if r.u32()? as usize != tables.len() {
            return Err(r.field("tables_len", known.tables_len.into()));
        }
        let segment = r.u32()?;
        let generation = r.u64()?;
        let group = GroupId::from_raw(r.take()?);
        let first_seq = Seq::from_raw(r.u64()?);
        let h_before = HistoryHash::from_raw(r.take()?);
        let incarnation = r.u32()?;
        let data_end = r.u32()?;
        let batch_count = r.u32()? as usize;
        let record_count = r.u32()? as usize;
        let expected = r.u32()?;
        r.u32()?;
        let superblock_version = r.u64()?;
        if first_seq == Seq::ZERO || first_seq > Seq::LAST {
            return Err(r.field("first_seq", first_seq.get()));
        }
        let found = crate::crc32c(tables);
        if found != expected {
            return Err(FormatError::Checksum { what, found, expected });
        }
        let need = batch_count.saturating_mul(BATCH_ENTRY_LEN).saturating_add(record_count * RECORD_ENTRY_LEN);
        if batch_count > tables.len() || need > tables.len() {
            return Err(r.field("record_count", record_count as u64));
        }
        let mut t = Reader::new(what, tables);
        let mut batches = Vec::with_capacity(batch_count);
        for _ in 0..batch_count {
            let batch = BatchEntry {
                offset: t.u32()?,
                header_len: t.u32()?,
                body_len: t.u32()?,
                records: t.u32()?,
                wall: WallMicros::from_raw(t.u64()?),
                h_after: HistoryHash::from_raw(t.take()?),
            };
            // What is read later goes by these lengths.
            let (header, body) = (batch.header_len as usize, batch.body_len as usize);
            if header > BODY_HEADER_MAX || body > BATCH_LEN_MAX - ENVELOPE_LEN || header > body {
                return Err(t.field("body_len", batch.body_len.into()));
            }
            batches.push(batch);
        }
        let mut records = Vec::with_capacity(record_count);
        for _ in 0..record_count {
            let place = t.u64()?;
            let sectors = t.u32()?;
            let record = RecordEntry {
                sector: Sector::from_raw(place & ((1 << 48) - 1)),
                volume: VolumeSlot::from_raw((place >> 48) as u16),
                sectors: sectors & !(1 << 31),
                zero: sectors >> 31 == 1,
                seq_delta: t.u32()?,
                payload_sector: t.u32()?,
                batch: t.u32()?,
            };
            if record.seq_delta as usize >= record_count || record.batch as usize >= batch_count {
                return Err(t.field("seq_delta", record.seq_delta.into()));
            }
            records.push(record);
        }
        let head = Self { group, segment, generation, first_seq, h_before, ..Self::default() };
        Ok(Self { incarnation, superblock_version, data_end, batches, records, ..head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        Footer {
            group: GroupId::from_raw([1; 16]),
            segment: 7,
            generation: 9,
            first_seq: Seq::from_raw(100),
            h_before: HistoryHash::from_raw([2; 16]),
            incarnation: 3,
            superblock_version: 8,
            data_end: 12288,
            batches: vec![BatchEntry {
                offset: 4096,
                header_len: 448,
                body_len: 448 + 512,
                records: 2,
                wall: WallMicros::from_raw(5),
                h_after: HistoryHash::from_raw([4; 16]),
            }],
            records: vec![
                RecordEntry {
                    sector: Sector::from_raw(1 << 40),
                    volume: VolumeSlot::from_raw(3),
                    sectors: 1,
                    zero: false,
                    seq_delta: 0,
                    payload_sector: 9,
                    batch: 0,
                },
                RecordEntry {
                    sector: Sector::from_raw(1 << 41),
                    volume: VolumeSlot::from_raw(3),
                    sectors: 1 << 30,
                    zero: true,
                    seq_delta: 1,
                    payload_sector: 0,
                    batch: 0,
                },
            ],
        }
    }

    #[test]
    fn footer_round_trips_and_every_flipped_byte_is_seen() {
        let footer = footer();
        let bytes = footer.encode();
        assert_eq!(Footer::decode(&bytes), Ok(footer));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x40;
            assert!(Footer::decode(&bad).is_err(), "flip at {at} went unseen");
        }
    }

    #[test]
    fn header_round_trips_and_every_flipped_byte_is_seen() {
        let header = SegmentHeader {
            pool: PoolId::from_raw([9; 16]),
            group: GroupId::from_raw([1; 16]),
            branch: BranchId::from_raw([2; 16]),
            segment: 3,
            generation: 4,
            first_seq: Seq::from_raw(5),
            h_before: HistoryHash::from_raw([6; 16]),
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for at in 0..HEADER_USED {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert!(SegmentHeader::decode(&bad).is_err(), "flip at {at} went unseen");
        }
    }
}
