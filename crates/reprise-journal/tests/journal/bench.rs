//! Plays the engine's part: carries writes out, grants segments, reads what a plan names, and restarts.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_format::batch::{BODY_FIXED_LEN, DESCRIPTOR_LEN, ENVELOPE_LEN, Envelope, hash_start};
use reprise_format::superblock::SEGMENTS_OFFSET;
use reprise_journal::{
    CacheRead, Case, Found, Grant, Journal, JournalConfig, JournalStart, JournalWrite, NewRecord, PieceSource,
    ReadPlan, RecoverError, Recovered, SegmentId, recover, scan_segments,
};
use reprise_types::{
    BranchId, ByteLen, Extent, GroupId, Now, Point, PoolId, RecordKind, Sector, SectorCount, Seq, VolumeSlot,
    WallMicros,
};

pub(crate) const POOL: PoolId = PoolId::from_raw([1; 16]);
pub(crate) const GROUP: GroupId = GroupId::from_raw([2; 16]);
pub(crate) const BRANCH: BranchId = BranchId::from_raw([3; 16]);
pub(crate) const SEGMENT_LEN: u64 = 1 << 20;
pub(crate) const SEGMENTS: u32 = 6;
/// Version of the superblock under which the bench writes.
pub(crate) const VERSION: u64 = 9;
/// Unit of everything in a segment: a batch is a multiple of it, the header has one, the footer's trailer another.
pub(crate) const PAGE: usize = 4096;
/// Content of a home that nothing was applied to.
pub(crate) const HOME: u8 = 0xee;

pub(crate) fn seq(n: u64) -> Seq {
    Seq::from_raw(n)
}

pub(crate) fn extent(volume: u16, sector: u64, sectors: u64) -> Extent {
    Extent {
        volume: VolumeSlot::from_raw(volume),
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
    }
}

/// What record `id` writes to a sector: names both, so that neither a wrong record nor a wrong place goes unseen.
pub(crate) fn content(id: u64, sector: u64) -> [u8; 512] {
    let mut out = [0; 512];
    for chunk in out.chunks_exact_mut(16) {
        chunk[..8].copy_from_slice(&id.to_le_bytes());
        chunk[8..].copy_from_slice(&sector.to_le_bytes());
    }
    out
}

/// A write whose content names `id`.
pub(crate) fn write(id: u64, extent: Extent) -> NewRecord {
    let sectors = extent.sector.get()..extent.end().get();
    let payload: Vec<u8> = sectors.flat_map(|s| content(id, s)).collect();
    NewRecord { kind: RecordKind::Write, extent, payload: payload.into() }
}

/// A record without payload.
pub(crate) fn bare(kind: RecordKind, extent: Extent) -> NewRecord {
    NewRecord { kind, extent, payload: Bytes::new() }
}

/// Length of the body of a batch of records with these payloads, by `docs/formats.md`.
pub(crate) fn body_len(payloads: &[usize]) -> u64 {
    let crcs: usize = payloads.iter().map(|len| len.div_ceil(PAGE)).sum();
    let header = ENVELOPE_LEN + BODY_FIXED_LEN + payloads.len() * DESCRIPTOR_LEN + crcs * 4;
    (header.next_multiple_of(512) - ENVELOPE_LEN + payloads.iter().sum::<usize>()) as u64
}

/// Pages on disk of such a batch.
pub(crate) fn batch_pages(payloads: &[usize]) -> usize {
    (ENVELOPE_LEN + body_len(payloads) as usize).div_ceil(PAGE)
}

pub(crate) fn start() -> Point {
    Point { branch: BRANCH, seq: Seq::ZERO, hash: hash_start(GROUP) }
}

pub(crate) fn config(ram_tail_max: u64) -> JournalConfig {
    JournalConfig { pool: POOL, group: GROUP, segment_len: SEGMENT_LEN, ram_tail_max: ByteLen::from_raw(ram_tail_max) }
}

pub(crate) fn empty(config: JournalConfig) -> Journal {
    Journal::new(config, JournalStart::empty(start(), 1), Seq::ZERO)
}

pub(crate) fn now(micros: u64) -> Now {
    Now { wall: WallMicros::from_raw(micros), ..Now::default() }
}

pub(crate) fn bytes_of(write: &JournalWrite) -> Vec<u8> {
    write.bufs.concat()
}

/// Envelopes of the batches in a write that holds no segment header, each with the offset in the write.
pub(crate) fn envelopes(bytes: &[u8]) -> Vec<(usize, Envelope)> {
    let (mut at, mut out) = (0, Vec::new());
    while at < bytes.len() {
        let envelope = Envelope::decode(&bytes[at..]).unwrap();
        out.push((at, envelope));
        at += envelope.total_len as usize;
    }
    out
}

/// A disk of segments.
#[derive(Clone)]
pub(crate) struct Cache {
    bytes: Vec<u8>,
    /// Bytes asked for.
    pub(crate) read: u64,
}

impl CacheRead for Cache {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        self.read += len as u64;
        Ok(self.slice(offset, len).to_vec())
    }
}

impl Cache {
    pub(crate) fn slice(&mut self, offset: u64, len: usize) -> &mut [u8] {
        let at = (offset - SEGMENTS_OFFSET) as usize;
        &mut self.bytes[at..at + len]
    }
}

/// A journal, its disk, and the superblock's part.
pub(crate) struct Bench {
    pub(crate) cache: Cache,
    pub(crate) journal: Journal,
    pub(crate) found: Found,
    pub(crate) free: VecDeque<SegmentId>,
    pub(crate) generation: u64,
    /// Home holds everything up to here.
    pub(crate) applied: Seq,
    pub(crate) wall: u64,
}

impl Bench {
    pub(crate) fn new(ram_tail_max: u64) -> Self {
        Self {
            cache: Cache { bytes: vec![0; (u64::from(SEGMENTS) * SEGMENT_LEN) as usize], read: 0 },
            journal: empty(config(ram_tail_max)),
            found: Found {
                pool: POOL,
                group: GROUP,
                segment_len: SEGMENT_LEN,
                superblock_version: VERSION,
                trimmed: start(),
                seal: start(),
                incarnation: 1,
                applying: Seq::ZERO,
                generation_floor: 0,
                peer_durable: Seq::ZERO,
            },
            free: (0..SEGMENTS).collect(),
            generation: 10,
            applied: Seq::ZERO,
            wall: 1_000,
        }
    }

    pub(crate) fn append(&mut self, record: NewRecord) -> Seq {
        self.journal.append(record).unwrap()
    }

    /// Appends a write whose content names its own Seq.
    pub(crate) fn write(&mut self, volume: u16, sector: u64, sectors: u64) -> Seq {
        let id = self.journal.written().get() + 1;
        self.append(write(id, extent(volume, sector, sectors)))
    }

    pub(crate) fn zero(&mut self, volume: u16, sector: u64, sectors: u64) -> Seq {
        self.append(bare(RecordKind::Zero, extent(volume, sector, sectors)))
    }

    pub(crate) fn mark(&mut self) -> Seq {
        self.append(bare(RecordKind::FlushMark, extent(0, 0, 0)))
    }

    /// Answers a wish for a segment, if there is a free one.
    pub(crate) fn grant(&mut self) {
        if self.journal.wants_segment()
            && let Some(segment) = self.free.pop_front()
        {
            self.generation += 1;
            self.journal.grant(Grant { segment, generation: self.generation });
        }
    }

    /// The next write, on the disk but not yet reported done.
    pub(crate) fn submit(&mut self) -> Option<JournalWrite> {
        self.grant();
        self.wall += 1;
        let write = self.journal.poll_write(now(self.wall), VERSION)?;
        self.put(write.at, &bytes_of(&write));
        Some(write)
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.cache.slice(at, bytes.len()).copy_from_slice(bytes);
    }

    /// One write, durable.
    pub(crate) fn step(&mut self) -> Option<JournalWrite> {
        let write = self.submit()?;
        self.journal.write_done(write.token);
        Some(write)
    }

    /// Writes until nothing waits or the cache is full.
    pub(crate) fn flush(&mut self) -> Vec<JournalWrite> {
        std::iter::from_fn(|| self.step()).collect()
    }

    /// A batch of its own for each record.
    pub(crate) fn flush_each(&mut self, records: impl IntoIterator<Item = NewRecord>) {
        for record in records {
            self.append(record);
            self.flush();
        }
    }

    /// Home takes everything up to `to`.
    pub(crate) fn apply(&mut self, to: Seq) {
        self.journal.forget_applied(self.applied, to);
        (self.applied, self.found.applying) = (to, to);
    }

    pub(crate) fn trim(&mut self, to: Seq) -> Option<Vec<SegmentId>> {
        let (trimmed, freed) = self.journal.trim(to)?;
        self.found.trimmed = trimmed;
        self.free.extend(&freed);
        Some(freed)
    }

    pub(crate) fn recover(&mut self) -> Result<Recovered, RecoverError> {
        let segments = scan_segments(&mut self.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
        recover(&mut self.cache, self.found, &segments)
    }

    /// Recovers, seals, opens.
    pub(crate) fn restart(&mut self, ram_tail_max: u64) -> Vec<Case> {
        let recovered = self.recover().unwrap();
        self.found.seal = recovered.start.end();
        self.free = (0..SEGMENTS).filter(|s| !recovered.held.contains(s)).collect();
        self.journal = Journal::new(config(ram_tail_max), recovered.start, self.applied);
        self.found.incarnation = self.journal.incarnation();
        recovered.cases
    }

    /// Carries a plan out. What comes from home is [`HOME`]; what comes from disk is checked.
    pub(crate) fn read(&mut self, plan: &ReadPlan) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &plan.pieces {
            let len = piece.sectors.bytes().get() as usize;
            let bytes = match &piece.source {
                PieceSource::Home => vec![HOME; len],
                PieceSource::Zero => vec![0; len],
                PieceSource::Ram(bytes) => bytes.to_vec(),
                PieceSource::Disk(piece) => {
                    let header = self.cache.slice(piece.header_at, piece.header_len).to_vec();
                    let grains = self.cache.slice(piece.payload_at, piece.payload_len).to_vec();
                    piece.verify(&header, &grains.into()).unwrap().to_vec()
                }
            };
            assert_eq!(bytes.len(), len, "a piece has the length it says");
            out.extend(bytes);
        }
        out
    }

    /// The newest content.
    pub(crate) fn newest(&mut self, extent: Extent) -> Vec<u8> {
        let plan = self.journal.plan_read(extent);
        self.read(&plan)
    }
}

/// Content of an extent where each sector was written by the record that `ids` names: none is home, zero is zeros.
pub(crate) fn expected(sector: u64, ids: &[Option<u64>]) -> Vec<u8> {
    let of = |(sector, id): (u64, &Option<u64>)| match id {
        None => [HOME; 512],
        Some(0) => [0; 512],
        Some(id) => content(*id, sector),
    };
    (sector..).zip(ids).flat_map(of).collect()
}

/// Where a plan says each piece is: `home`, `zero`, `ram` or `disk`.
pub(crate) fn places(plan: &ReadPlan) -> Vec<&'static str> {
    let place = |source: &PieceSource| match source {
        PieceSource::Home => "home",
        PieceSource::Zero => "zero",
        PieceSource::Ram(_) => "ram",
        PieceSource::Disk(_) => "disk",
    };
    plan.pieces.iter().map(|p| place(&p.source)).collect()
}
