//! A batch: envelope (box-local), body (the same bytes on the wire and on both disks), padding. See `docs/formats.md`.

use bytes::Bytes;
use reprise_types::{
    BranchId, Extent, GroupId, HistoryHash, PoolBuf, RecordKind, SECTOR_END_MAX, SECTOR_SIZE, Sector, SectorCount, Seq,
    VolumeSlot, WallMicros,
};

use crate::cursor::{Reader, Writer, check_crc, fill_crc};
use crate::{CRC_GRAIN, FormatError, crc32c, hash128, payload_crcs};

/// Bytes of an envelope.
pub const ENVELOPE_LEN: usize = 64;
/// Bytes of the fixed part of a body header.
pub const BODY_FIXED_LEN: usize = 128;
/// Bytes of a descriptor.
pub const DESCRIPTOR_LEN: usize = 32;
/// A batch on disk is a multiple of this.
pub const BATCH_ALIGN: usize = 4096;
/// Payload of one record, at most: 256 KiB, the size at which one durable write reaches the disk's rate (measured).
/// A longer host write becomes several records with consecutive Seqs.
pub const RECORD_PAYLOAD_MAX: usize = 256 << 10;
/// Payload of one batch, at most. A batch closes before the record that would pass it.
pub const BATCH_PAYLOAD_MAX: usize = 256 << 10;
/// Records of one batch, at most: 256 KiB of 512-byte writes, and a bound for records without payload.
pub const BATCH_RECORDS_MAX: usize = 512;
/// Length of a zero record, at most: 512 GiB. A longer range becomes several records.
pub const ZERO_SECTORS_MAX: u64 = 1 << 30;
/// Largest body header: all descriptors and checksums of a full batch.
pub const BODY_HEADER_MAX: usize =
    (BODY_FIXED_LEN + BATCH_RECORDS_MAX * (DESCRIPTOR_LEN + 4) + BATCH_PAYLOAD_MAX / CRC_GRAIN * 4)
        .next_multiple_of(512);
/// Largest batch on disk.
pub const BATCH_LEN_MAX: usize = (ENVELOPE_LEN + BODY_HEADER_MAX + BATCH_PAYLOAD_MAX).next_multiple_of(BATCH_ALIGN);

const ENVELOPE_MAGIC: u32 = u32::from_le_bytes(*b"rpEV");
const BODY_MAGIC: u32 = u32::from_le_bytes(*b"rpBD");
const VERSION: u16 = 1;
const ENVELOPE_CRC_AT: usize = ENVELOPE_LEN - 4;
const BODY_CRC_AT: usize = 120;

/// Where a batch lies on this box, and under which circumstances it was written. Rewritten by each box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Bytes of the whole batch on disk, envelope and padding included; a multiple of 4 KiB.
    pub total_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Index of the segment that holds it.
    pub segment: u32,
    /// Byte offset of the envelope inside the segment.
    pub offset: u32,
    /// Generation of the segment.
    pub generation: u64,
    /// Version of the group's superblock when this was written: a superblock with a smaller one is stale.
    pub superblock_version: u64,
    /// Everything in this segment before this offset was durable when this batch was handed to the disk: tells a
    /// torn tail (one of several batches in flight) from rot.
    pub durable_before: u32,
    /// Counts the recoveries of this group: what a recovery dropped can not come back later.
    pub incarnation: u32,
}

impl Envelope {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; ENVELOPE_LEN] {
        let mut w = Writer::default();
        w.u32(ENVELOPE_MAGIC).u16(VERSION).u16(0).u32(self.total_len).u32(self.body_len);
        w.u32(self.segment).u32(self.offset).u64(self.generation).u64(self.superblock_version);
        w.u32(self.durable_before).u32(self.incarnation).pad_to(ENVELOPE_LEN);
        let mut out = [0; ENVELOPE_LEN];
        out.copy_from_slice(&w.out);
        fill_crc(&mut out, ENVELOPE_CRC_AT);
        out
    }

    /// True where the bytes name this place and generation. The fields stand there in every version, so that this can
    /// be asked before the version is known.
    pub fn names_place(bytes: &[u8], segment: u32, offset: u32, generation: u64) -> bool {
        let mut place = [0; 16];
        place[..4].copy_from_slice(&segment.to_le_bytes());
        place[4..8].copy_from_slice(&offset.to_le_bytes());
        place[8..].copy_from_slice(&generation.to_le_bytes());
        bytes.get(16..32) == Some(&place[..])
    }

    /// Reads an envelope from the first 64 bytes.
    ///
    /// # Errors
    /// No envelope, a newer version, torn, or lengths that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "batch envelope";
        let mut r = Reader::new(what, bytes);
        r.magic(ENVELOPE_MAGIC)?;
        let have = bytes.len();
        let head = bytes.get(..ENVELOPE_LEN).ok_or(FormatError::Short { what, need: ENVELOPE_LEN, have })?;
        // The checksum stands at the same place in every version and comes first: behind the end of a log lie old
        // payload bytes, which a host chose, and those must not look like a newer release.
        check_crc(what, head, ENVELOPE_CRC_AT)?;
        r.version(VERSION)?;
        r.u16()?;
        let envelope = Self {
            total_len: r.u32()?,
            body_len: r.u32()?,
            segment: r.u32()?,
            offset: r.u32()?,
            generation: r.u64()?,
            superblock_version: r.u64()?,
            durable_before: r.u32()?,
            incarnation: r.u32()?,
        };
        let total = envelope.total_len as usize;
        if total > BATCH_LEN_MAX || !total.is_multiple_of(BATCH_ALIGN) || total < BATCH_ALIGN {
            return Err(r.field("total_len", envelope.total_len.into()));
        }
        if (envelope.body_len as usize) < BODY_FIXED_LEN || envelope.body_len as usize > total - ENVELOPE_LEN {
            return Err(r.field("body_len", envelope.body_len.into()));
        }
        Ok(envelope)
    }
}

/// One record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub kind: RecordKind,
    /// The volume it concerns; 0 for records of the whole group.
    pub volume: VolumeSlot,
    /// First sector; 0 for kinds without one.
    pub sector: Sector,
    /// Length; 0 for kinds without one.
    pub sectors: SectorCount,
    /// Bytes of payload, a multiple of 512.
    pub payload_len: u32,
}

impl Descriptor {
    /// The sectors it concerns.
    pub fn extent(&self) -> Extent {
        Extent { volume: self.volume, sector: self.sector, sectors: self.sectors }
    }

    /// Number of payload checksums.
    pub fn crc_count(&self) -> usize {
        (self.payload_len as usize).div_ceil(CRC_GRAIN)
    }

    fn encode(&self, payload_offset: u32) -> [u8; DESCRIPTOR_LEN] {
        let mut out = [0; DESCRIPTOR_LEN];
        out[0] = self.kind.code();
        out[2..4].copy_from_slice(&self.volume.get().to_le_bytes());
        out[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        out[8..16].copy_from_slice(&self.sector.get().to_le_bytes());
        out[16..24].copy_from_slice(&self.sectors.get().to_le_bytes());
        out[24..28].copy_from_slice(&payload_offset.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<(Self, u32), FormatError> {
        let mut r = Reader::new("descriptor", bytes);
        let code = r.u8()?;
        let kind = RecordKind::from_code(code).ok_or_else(|| r.field("kind", code.into()))?;
        r.u8()?;
        let volume = VolumeSlot::from_raw(r.u16()?);
        let payload_len = r.u32()?;
        let sector = Sector::from_raw(r.u64()?);
        let sectors = SectorCount::from_raw(r.u64()?);
        let payload_offset = r.u32()?;
        if payload_len as usize > RECORD_PAYLOAD_MAX || !u64::from(payload_len).is_multiple_of(SECTOR_SIZE) {
            return Err(r.field("payload_len", payload_len.into()));
        }
        let expected_payload = match kind {
            RecordKind::Write => Some(sectors.get()),
            RecordKind::Zero | RecordKind::FlushMark => Some(0),
            _ => None,
        };
        if expected_payload.is_some_and(|s| s.saturating_mul(SECTOR_SIZE) != u64::from(payload_len)) {
            return Err(r.field("sectors", sectors.get()));
        }
        let too_long = kind == RecordKind::Zero && sectors.get() > ZERO_SECTORS_MAX;
        let empty = kind.changes_content() && sectors.get() == 0;
        let beyond = sector.checked_add(sectors).is_none_or(|end| end.get() > SECTOR_END_MAX);
        if too_long || empty || beyond {
            return Err(r.field("sectors", sectors.get()));
        }
        Ok((Self { kind, volume, sector, sectors, payload_len }, payload_offset))
    }
}

/// h before the first record of a group's first branch.
pub fn hash_start(group: GroupId) -> HistoryHash {
    hash128(&[b"reprise history 1", group.as_bytes()])
}

/// h(n) from h(n-1): the descriptor without its place in the batch, and the payload's checksums.
pub fn hash_next(before: HistoryHash, descriptor: &Descriptor, crcs: &[u32]) -> HistoryHash {
    let fixed = descriptor.encode(0);
    let mut input = Vec::with_capacity(16 + DESCRIPTOR_LEN + crcs.len() * 4);
    input.extend_from_slice(before.as_bytes());
    input.extend_from_slice(&fixed);
    crcs.iter().for_each(|c| input.extend_from_slice(&c.to_le_bytes()));
    hash128(&[&input])
}

/// What the fixed part of a body header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHead {
    /// Bytes of the header with descriptors, checksums and padding; `64 + header_len` is a multiple of 512.
    pub header_len: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// The group.
    pub group: GroupId,
    /// The branch.
    pub branch: BranchId,
    /// First record.
    pub first_seq: Seq,
    /// Last record.
    pub last_seq: Seq,
    /// The source's wall clock, as it was.
    pub wall_raw: WallMicros,
    /// The source's wall clock, forced to grow from batch to batch.
    pub wall_forced: WallMicros,
    /// h(first_seq - 1).
    pub h_before: HistoryHash,
    /// h(last_seq).
    pub h_after: HistoryHash,
}

/// A record of a decoded batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position.
    pub seq: Seq,
    /// What it is.
    pub descriptor: Descriptor,
    /// Byte offset of its payload inside the batch's payload.
    pub payload_offset: u32,
    /// Checksums of its payload, one for each 4 KiB.
    pub crcs: Vec<u32>,
}

/// A decoded and checked body header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyHeader {
    /// The fixed part.
    pub head: BodyHead,
    /// The records, in order.
    pub records: Vec<Record>,
}

impl BodyHeader {
    /// Reads and checks a body header; `bytes` may go on behind it.
    ///
    /// # Errors
    /// Anything torn, rotten, newer, or contradicting itself; also a hash chain that does not lead from `h_before` to
    /// `h_after`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "batch body";
        let mut r = Reader::new(what, bytes);
        r.magic(BODY_MAGIC)?;
        r.version(VERSION)?;
        r.u16()?;
        let header_len = r.u32()?;
        let bad_len = r.field("header_len", header_len.into());
        let len = header_len as usize;
        if !(BODY_FIXED_LEN..=BODY_HEADER_MAX).contains(&len) || !(len + ENVELOPE_LEN).is_multiple_of(512) {
            return Err(bad_len);
        }
        let header = bytes.get(..len).ok_or(FormatError::Short { what, need: len, have: bytes.len() })?;
        check_crc(what, header, BODY_CRC_AT)?;
        let payload_len = r.u32()?;
        let group = GroupId::from_raw(r.take()?);
        let branch = BranchId::from_raw(r.take()?);
        let first_seq = Seq::from_raw(r.u64()?);
        let last_seq = Seq::from_raw(r.u64()?);
        let record_count = r.u32()?;
        let crc_count = r.u32()?;
        let wall_raw = WallMicros::from_raw(r.u64()?);
        let wall_forced = WallMicros::from_raw(r.u64()?);
        let h_before = HistoryHash::from_raw(r.take()?);
        let h_after = HistoryHash::from_raw(r.take()?);
        let count = record_count as usize;
        if count == 0 || count > BATCH_RECORDS_MAX {
            return Err(r.field("record_count", record_count.into()));
        }
        let last = first_seq.checked_add(count as u64 - 1);
        if first_seq == Seq::ZERO || last != Some(last_seq) || last_seq > Seq::LAST {
            return Err(r.field("last_seq", last_seq.get()));
        }
        if payload_len as usize > BATCH_PAYLOAD_MAX || crc_count as usize > BATCH_PAYLOAD_MAX / 512 {
            return Err(r.field("payload_len", payload_len.into()));
        }
        let crcs_at = BODY_FIXED_LEN + count * DESCRIPTOR_LEN;
        let need = crcs_at + crc_count as usize * 4;
        let (Some(descriptors), Some(crcs)) = (header.get(BODY_FIXED_LEN..crcs_at), header.get(crcs_at..need)) else {
            return Err(FormatError::Short { what, need, have: len });
        };
        let mut crcs = crcs.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut records = Vec::with_capacity(count);
        let (mut seq, mut hash, mut payload_at) = (first_seq, h_before, 0u32);
        for bytes in descriptors.chunks_exact(DESCRIPTOR_LEN) {
            let (descriptor, payload_offset) = Descriptor::decode(bytes)?;
            if payload_offset != payload_at {
                return Err(r.field("payload_offset", payload_offset.into()));
            }
            payload_at = payload_at.saturating_add(descriptor.payload_len);
            let own: Vec<u32> = crcs.by_ref().take(descriptor.crc_count()).collect();
            if own.len() != descriptor.crc_count() {
                return Err(r.field("crc_count", crc_count.into()));
            }
            hash = hash_next(hash, &descriptor, &own);
            records.push(Record { seq, descriptor, payload_offset, crcs: own });
            seq = seq.next();
        }
        if payload_at != payload_len {
            return Err(r.field("payload_len", payload_len.into()));
        }
        if hash != h_after {
            return Err(r.field("h_after", 0));
        }
        let head = BodyHead {
            header_len,
            payload_len,
            group,
            branch,
            first_seq,
            last_seq,
            wall_raw,
            wall_forced,
            h_before,
            h_after,
        };
        Ok(Self { head, records })
    }

    /// Bytes of the whole body.
    pub fn body_len(&self) -> usize {
        self.head.header_len as usize + self.head.payload_len as usize
    }

    /// Checks every payload checksum.
    ///
    /// # Errors
    /// Payload too short, or a checksum that does not match.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FormatError> {
        let what = "batch payload";
        for record in &self.records {
            let at = record.payload_offset as usize;
            let end = at + record.descriptor.payload_len as usize;
            let own = payload.get(at..end).ok_or(FormatError::Short { what, need: end, have: payload.len() })?;
            for (found, expected) in payload_crcs(own).zip(&record.crcs) {
                if found != *expected {
                    return Err(FormatError::Checksum { what, found, expected: *expected });
                }
            }
        }
        Ok(())
    }
}

/// A record to be packed.
#[derive(Debug, Clone)]
pub struct PackRecord {
    /// What it is; `payload_len` must be the payload's.
    pub descriptor: Descriptor,
    /// The payload.
    pub payload: Bytes,
    /// Its checksums.
    pub crcs: Vec<u32>,
}

impl PackRecord {
    /// A record with the checksums of its payload.
    pub fn new(kind: RecordKind, extent: Extent, payload: Bytes) -> Self {
        let crcs = payload_crcs(&payload).collect();
        let descriptor = Descriptor {
            kind,
            volume: extent.volume,
            sector: extent.sector,
            sectors: extent.sectors,
            payload_len: payload.len() as u32,
        };
        Self { descriptor, payload, crcs }
    }
}

/// Where a body stands in history.
#[derive(Debug, Clone, Copy)]
pub struct BodyPlace {
    /// The group.
    pub group: GroupId,
    /// The branch.
    pub branch: BranchId,
    /// Position of the first record.
    pub first_seq: Seq,
    /// h before it.
    pub h_before: HistoryHash,
    /// The source's wall clock.
    pub wall_raw: WallMicros,
    /// The same, forced to grow.
    pub wall_forced: WallMicros,
}

/// Packs records into a body header. The first 64 bytes of the returned buffer are room for the envelope; behind
/// `64 + header_len` the payloads follow in order.
///
/// # Panics
/// When there are no records or the limits of a batch are passed: the caller packs by them.
pub fn pack_header(place: &BodyPlace, records: &[PackRecord]) -> (PoolBuf, BodyHeader) {
    assert!(!records.is_empty() && records.len() <= BATCH_RECORDS_MAX, "{} records in a batch", records.len());
    let crc_count: usize = records.iter().map(|r| r.crcs.len()).sum();
    let used = ENVELOPE_LEN + BODY_FIXED_LEN + records.len() * DESCRIPTOR_LEN + crc_count * 4;
    let header_len = used.next_multiple_of(512) - ENVELOPE_LEN;
    let mut buf = PoolBuf::unpooled(ENVELOPE_LEN + header_len);
    let (mut hash, mut seq, mut payload_offset) = (place.h_before, place.first_seq, 0u32);
    let mut out = Vec::with_capacity(records.len());
    let mut crcs_at = ENVELOPE_LEN + BODY_FIXED_LEN + records.len() * DESCRIPTOR_LEN;
    for (i, record) in records.iter().enumerate() {
        let at = ENVELOPE_LEN + BODY_FIXED_LEN + i * DESCRIPTOR_LEN;
        buf[at..at + DESCRIPTOR_LEN].copy_from_slice(&record.descriptor.encode(payload_offset));
        for crc in &record.crcs {
            buf[crcs_at..crcs_at + 4].copy_from_slice(&crc.to_le_bytes());
            crcs_at += 4;
        }
        hash = hash_next(hash, &record.descriptor, &record.crcs);
        out.push(Record { seq, descriptor: record.descriptor, payload_offset, crcs: record.crcs.clone() });
        payload_offset += record.descriptor.payload_len;
        seq = seq.next();
    }
    assert!(payload_offset as usize <= BATCH_PAYLOAD_MAX, "{payload_offset} bytes of payload in a batch");
    let head = BodyHead {
        header_len: header_len as u32,
        payload_len: payload_offset,
        group: place.group,
        branch: place.branch,
        first_seq: place.first_seq,
        last_seq: Seq::from_raw(place.first_seq.get() + records.len() as u64 - 1),
        wall_raw: place.wall_raw,
        wall_forced: place.wall_forced,
        h_before: place.h_before,
        h_after: hash,
    };
    let mut w = Writer::default();
    w.u32(BODY_MAGIC).u16(VERSION).u16(0).u32(head.header_len).u32(head.payload_len);
    w.bytes(head.group.as_bytes()).bytes(head.branch.as_bytes());
    w.u64(head.first_seq.get()).u64(head.last_seq.get()).u32(records.len() as u32).u32(crc_count as u32);
    w.u64(head.wall_raw.get()).u64(head.wall_forced.get());
    w.bytes(head.h_before.as_bytes()).bytes(head.h_after.as_bytes()).pad_to(BODY_FIXED_LEN);
    buf[ENVELOPE_LEN..ENVELOPE_LEN + BODY_FIXED_LEN].copy_from_slice(&w.out);
    fill_crc(&mut buf[ENVELOPE_LEN..], BODY_CRC_AT);
    (buf, BodyHeader { head, records: out })
}

/// The body of a batch as it came from a peer, not looked at yet. It was received into an aligned buffer, behind room as long
/// as an envelope: its payload is aligned as on disk and goes there without a copy.
#[derive(Debug, Clone)]
pub struct ReceivedBody(Bytes);

impl ReceivedBody {
    /// Bytes of room in front of a body.
    pub const ROOM: usize = ENVELOPE_LEN;

    /// What lies behind the room in the buffer it was received into; an empty one where there is nothing.
    pub fn in_buffer(mut buffer: Bytes) -> Self {
        Self(buffer.split_off(buffer.len().min(Self::ROOM)))
    }

    /// Bytes of the body.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True where nothing came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The body.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// Checks one grain of a record's payload: `grain` must be the bytes of checksum number `index`.
///
/// # Errors
/// The checksum does not match.
pub fn check_grain(record: &Record, index: usize, grain: &[u8]) -> Result<(), FormatError> {
    let what = "batch payload";
    let expected = *record.crcs.get(index).ok_or(FormatError::Field { what, field: "grain", value: index as u64 })?;
    let found = crc32c(grain);
    if found == expected { Ok(()) } else { Err(FormatError::Checksum { what, found, expected }) }
}

/// Length on disk of a batch with this body.
pub fn total_len(body_len: usize) -> usize {
    (ENVELOPE_LEN + body_len).next_multiple_of(BATCH_ALIGN)
}

const _: () = assert!(BODY_CRC_AT + 8 == BODY_FIXED_LEN);
const _: () = assert!(BATCH_LEN_MAX < 1 << 20);
