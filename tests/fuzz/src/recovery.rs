//! Recovery over a small cache whose bytes the fuzzer changes, with and without repaired checksums.

use std::sync::OnceLock;

use bytes::Bytes;
use reprise_format::batch::hash_start;
use reprise_format::superblock::SEGMENTS_OFFSET;
use reprise_journal::{
    CacheRead, Found, Grant, Journal, JournalConfig, JournalStart, NewRecord, recover, scan_segments, segment_offset,
};
use reprise_types::{
    BranchId, ByteLen, Extent, GroupId, Now, Point, PoolId, RecordKind, Sector, SectorCount, Seq, VolumeSlot,
};

const SEGMENT_LEN: u64 = 24 << 10;
const SEGMENTS: u32 = 2;
const POOL: PoolId = PoolId::from_raw([1; 16]);
const GROUP: GroupId = GroupId::from_raw([2; 16]);
const BRANCH: BranchId = BranchId::from_raw([3; 16]);

struct Image {
    bytes: Vec<u8>,
    /// Places that hold an envelope, in this image.
    batches: Vec<usize>,
}

struct Cache<'a>(&'a [u8]);

impl CacheRead for Cache<'_> {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let at = offset.checked_sub(SEGMENTS_OFFSET).ok_or(std::io::ErrorKind::InvalidInput)? as usize;
        let bytes = self.0.get(at..at.saturating_add(len)).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(bytes.to_vec())
    }
}

fn start() -> Point {
    Point { branch: BRANCH, seq: Seq::ZERO, hash: hash_start(GROUP) }
}

/// Two segments: the first full, with a footer, the second open.
fn image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let config =
            JournalConfig { pool: POOL, group: GROUP, segment_len: SEGMENT_LEN, ram_tail_max: ByteLen::from_raw(0) };
        let mut journal = Journal::new(config, JournalStart::empty(start(), 1), Seq::ZERO);
        let mut bytes = vec![0; (u64::from(SEGMENTS) * SEGMENT_LEN) as usize];
        let (mut batches, mut granted) = (Vec::new(), 0);
        for i in 0..4u64 {
            // One zero record is enough; more records only make each run slower.
            let kinds = [(RecordKind::Write, 512), (RecordKind::Zero, 0)];
            for (kind, len) in kinds.into_iter().take(if i == 1 { 2 } else { 1 }) {
                let extent = Extent {
                    volume: VolumeSlot::from_raw(1),
                    sector: Sector::from_raw(i),
                    sectors: SectorCount::from_raw(1),
                };
                let payload = Bytes::from(vec![i as u8 + 1; len]);
                journal.append(NewRecord { kind, extent, payload }).expect("a good record");
            }
            if journal.wants_segment() && granted < SEGMENTS {
                journal.grant(Grant { segment: granted, generation: 7 + u64::from(granted) });
                granted += 1;
            }
            while let Some(write) = journal.poll_write(Now::default(), 3) {
                let mut at = (write.at - SEGMENTS_OFFSET) as usize;
                for buf in &write.bufs {
                    if buf.starts_with(b"rpEV") {
                        batches.push(at);
                    }
                    bytes[at..at + buf.len()].copy_from_slice(buf);
                    at += buf.len();
                }
                journal.write_done(write.token);
            }
        }
        assert!(granted == 2 && batches.len() == 4, "{granted} segments, {} batches", batches.len());
        Image { bytes, batches }
    })
}

fn repair(bytes: &mut [u8], at: usize, end: usize, hole: usize) {
    bytes[at + hole..at + hole + 4].fill(0);
    let crc = reprise_format::crc32c(&bytes[at..end]).to_le_bytes();
    bytes[at + hole..at + hole + 4].copy_from_slice(&crc);
}

pub fn recovery(input: &[u8]) {
    let Some((flags, edits)) = input.split_first() else { return };
    let image = image();
    let mut bytes = image.bytes.clone();
    for edit in edits.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        match edit[2] % 3 {
            0 => bytes[at] = edit[3],
            1 => bytes[at] ^= edit[3],
            // A block of another place: misdirected or stale.
            _ => {
                let from = usize::from(edit[3]) % (bytes.len() / 4096) * 4096;
                bytes.copy_within(from..from + 4096, at / 4096 * 4096);
            }
        }
    }
    if flags & 1 != 0 {
        for at in &image.batches {
            repair(&mut bytes, *at, at + 64, 60);
            let len = u32::from_le_bytes([bytes[at + 72], bytes[at + 73], bytes[at + 74], bytes[at + 75]]) as usize;
            if (128..2048).contains(&len) {
                repair(&mut bytes, at + 64, at + 64 + len, 120);
            }
        }
    }
    if flags & 2 != 0 {
        for segment in 0..SEGMENTS as usize {
            let at = segment * SEGMENT_LEN as usize;
            repair(&mut bytes, at, at + 512, 508);
            let end = at + SEGMENT_LEN as usize;
            let crc = reprise_format::crc32c(&bytes[end - 8192..end - 4096]).to_le_bytes();
            bytes[end - 4096 + 80..end - 4096 + 84].copy_from_slice(&crc);
            repair(&mut bytes, end - 4096, end, 4092);
        }
    }
    let found = Found {
        pool: POOL,
        group: GROUP,
        segment_len: SEGMENT_LEN,
        superblock_version: 3,
        trimmed: start(),
        seal: start(),
        incarnation: u32::from(flags & 4 != 0),
        applying: Seq::ZERO,
        generation_floor: 0,
        peer_durable: Seq::ZERO,
    };
    let Ok(segments) = scan_segments(&mut Cache(&bytes), POOL, SEGMENTS, SEGMENT_LEN) else { return };
    let Ok(recovered) = recover(&mut Cache(&bytes), found, &segments) else { return };
    let end = recovered.start.end();
    let config =
        JournalConfig { pool: POOL, group: GROUP, segment_len: SEGMENT_LEN, ram_tail_max: ByteLen::from_raw(0) };
    let journal = Journal::new(config, recovered.start, Seq::ZERO);
    assert_eq!(journal.durable(), end);
    assert!(segment_offset(0, SEGMENT_LEN) == SEGMENTS_OFFSET);
    let extent = Extent { volume: VolumeSlot::from_raw(1), sector: Sector::ZERO, sectors: SectorCount::from_raw(64) };
    let plan = journal.plan_read(extent);
    assert_eq!(plan.pieces.iter().map(|p| p.sectors.get()).sum::<u64>(), 64);
    for seq in [Seq::from_raw(1), end.seq] {
        let _ = (journal.batch_holding(seq), journal.hash_at(seq), journal.wall_of(seq));
    }
}
