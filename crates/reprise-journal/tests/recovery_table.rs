//! A walk of every row of the recovery table (`docs/formats.md`, "Recovery"): a test per row, no row unreachable.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use reprise_format::batch::{Envelope, hash_start};
use reprise_format::superblock::SEGMENTS_OFFSET;
use reprise_journal::{
    CacheRead, Case, Found, Grant, Journal, JournalConfig, JournalStart, NewRecord, RecoverError, Recovered, recover,
    scan_segments, segment_offset,
};
use reprise_types::{
    BranchId, ByteLen, Extent, GroupId, Now, Point, PoolId, RecordKind, Sector, SectorCount, Seq, VolumeSlot,
};

const SEGMENT_LEN: u64 = 1 << 20;
const SEGMENTS: u32 = 4;
const POOL: PoolId = PoolId::from_raw([1; 16]);
const GROUP: GroupId = GroupId::from_raw([2; 16]);
const BRANCH: BranchId = BranchId::from_raw([3; 16]);
/// Every record of these tests makes a batch of this length.
const RECORD_LEN: usize = 200 << 10;
const BATCH: u64 = (RECORD_LEN as u64 + 4096).next_multiple_of(4096);
/// Batches in a full segment, behind its header.
const PER_SEGMENT: u64 = 4;

#[derive(Clone)]
struct Cache {
    bytes: Vec<u8>,
    fail_at: Option<u64>,
}

impl CacheRead for Cache {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        if self.fail_at.is_some_and(|at| (offset..offset + len as u64).contains(&at)) {
            return Err(std::io::Error::other("bad sector"));
        }
        let at = (offset - SEGMENTS_OFFSET) as usize;
        Ok(self.bytes[at..at + len].to_vec())
    }
}

impl Cache {
    fn at(&mut self, offset: u64) -> &mut [u8] {
        &mut self.bytes[(offset - SEGMENTS_OFFSET) as usize..]
    }
}

/// A journal on a cache, with the superblock's part.
struct Box {
    cache: Cache,
    journal: Journal,
    found: Found,
    granted: u32,
}

fn start() -> Point {
    Point { branch: BRANCH, seq: Seq::ZERO, hash: hash_start(GROUP) }
}

fn config() -> JournalConfig {
    JournalConfig { pool: POOL, group: GROUP, segment_len: SEGMENT_LEN, ram_tail_max: ByteLen::from_raw(0) }
}

impl Box {
    fn new() -> Self {
        Self {
            cache: Cache { bytes: vec![0; (u64::from(SEGMENTS) * SEGMENT_LEN) as usize], fail_at: None },
            journal: Journal::new(config(), JournalStart::empty(start(), 1), Seq::ZERO),
            found: Found {
                pool: POOL,
                group: GROUP,
                segment_len: SEGMENT_LEN,
                superblock_version: 9,
                trimmed: start(),
                seal: start(),
                incarnation: 1,
                applying: Seq::ZERO,
                generation_floor: 0,
                peer_durable: Seq::ZERO,
            },
            granted: 0,
        }
    }

    fn with(records: u64) -> Self {
        let mut own = Self::new();
        own.write(records);
        own
    }

    /// Appends records, one batch each. Gives the offset of the last batch.
    fn write(&mut self, records: u64) -> u64 {
        let mut last = 0;
        for i in 0..records {
            let extent = Extent {
                volume: VolumeSlot::from_raw(0),
                sector: Sector::from_raw(i),
                sectors: SectorCount::from_raw(RECORD_LEN as u64 / 512),
            };
            let fill = self.journal.written().get() as u8 + 1;
            let payload = Bytes::from(vec![fill; RECORD_LEN]);
            self.journal.append(NewRecord { kind: RecordKind::Write, extent, payload }).unwrap();
            loop {
                if self.journal.wants_segment() && self.granted < SEGMENTS {
                    self.journal.grant(Grant { segment: self.granted, generation: 10 + u64::from(self.granted) });
                    self.granted += 1;
                }
                let Some(write) = self.journal.poll_write(Now::default(), 9) else { break };
                let bytes = write.bufs.concat();
                last = write.at + bytes.len() as u64 - BATCH;
                self.cache.at(write.at)[..bytes.len()].copy_from_slice(&bytes);
                self.journal.write_done(write.token);
            }
        }
        last
    }

    /// The same disk, to be damaged.
    fn clone_disk(&self) -> Self {
        Self { cache: self.cache.clone(), ..Self::new() }
    }

    fn recover(&mut self) -> Result<Recovered, RecoverError> {
        let segments = scan_segments(&mut self.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap();
        recover(&mut self.cache, self.found, &segments)
    }

    /// Restarts: recovers, seals, opens.
    fn restart(&mut self) -> Vec<Case> {
        let recovered = self.recover().unwrap();
        self.found.seal = recovered.start.end();
        self.journal = Journal::new(config(), recovered.start, Seq::ZERO);
        self.found.incarnation = self.journal.incarnation();
        recovered.cases
    }

    fn stops(&mut self) -> Case {
        self.recover().expect_err("recovery must stop").case
    }

    fn ends(&mut self) -> (u64, Case) {
        let recovered = self.recover().unwrap();
        (recovered.start.end().seq.get(), *recovered.cases.last().unwrap())
    }
}

/// Offset of batch `n` (from 0) of a segment.
fn batch_at(segment: u32, n: u64) -> u64 {
    segment_offset(segment, SEGMENT_LEN) + 4096 + n * BATCH
}

/// Puts right the checksum of an envelope.
fn reseal(envelope: &mut [u8]) {
    envelope[60..64].fill(0);
    let crc = reprise_format::crc32c(&envelope[..64]);
    envelope[60..64].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn empty() {
    let recovered = Box::new().recover().unwrap();
    assert_eq!((recovered.cases, recovered.start.end()), (vec![Case::Empty], start()));
}

#[test]
fn footer_then_scan_then_clean_end() {
    let mut own = Box::with(PER_SEGMENT + 2);
    let recovered = own.recover().unwrap();
    assert_eq!(recovered.cases, [Case::Footer, Case::Scan, Case::CleanEnd]);
    assert_eq!(recovered.start.end(), own.journal.durable());
    assert_eq!(recovered.held, [0, 1]);
}

#[test]
fn a_segment_whose_footer_is_gone_is_scanned() {
    let mut own = Box::with(PER_SEGMENT + 2);
    let footer = segment_offset(1, SEGMENT_LEN) - 4096;
    own.cache.at(footer)[..4096].fill(0);
    let recovered = own.recover().unwrap();
    assert_eq!(recovered.cases, [Case::Scan, Case::Scan, Case::CleanEnd]);
    assert_eq!(recovered.start.end(), own.journal.durable());
}

/// The story: after a power cut between a footer and the next segment, the closed segment was taken as open, a small
/// batch went into it, and the next recovery believed the footer and lost that batch.
#[test]
fn a_segment_with_a_footer_is_not_written_again() {
    let mut own = Box::with(PER_SEGMENT);
    let extent = Extent { sectors: SectorCount::from_raw(RECORD_LEN as u64 / 512), ..small().extent };
    let payload = Bytes::from(vec![1; RECORD_LEN]);
    own.journal.append(NewRecord { extent, payload, ..small() }).unwrap();
    let footer = own.journal.poll_write(Now::default(), 9).unwrap();
    let bytes = footer.bufs.concat();
    assert!(bytes[bytes.len() - 4096..].starts_with(b"rpFT"), "the segment was full");
    own.cache.at(footer.at)[..bytes.len()].copy_from_slice(&bytes);
    assert_eq!(own.restart(), [Case::Footer]);
    own.journal.append(small()).unwrap();
    assert!(own.journal.poll_write(Now::default(), 9).is_none() && own.journal.wants_segment());
    own.journal.grant(Grant { segment: 1, generation: 20 });
    let write = own.journal.poll_write(Now::default(), 9).unwrap();
    assert_eq!(write.at, segment_offset(1, SEGMENT_LEN));
}

fn small() -> NewRecord {
    let extent =
        Extent { volume: VolumeSlot::from_raw(0), sector: Sector::from_raw(5), sectors: SectorCount::from_raw(1) };
    NewRecord { kind: RecordKind::Write, extent, payload: Bytes::from(vec![7; 512]) }
}

#[test]
fn torn_tail() {
    let mut own = Box::with(3);
    own.cache.at(batch_at(0, 2))[8192] ^= 1;
    assert_eq!(own.ends(), (2, Case::TornTail));
    let mut own = Box::with(3);
    own.cache.at(batch_at(0, 2))[20] ^= 1;
    assert_eq!(own.ends(), (2, Case::TornTail));
}

#[test]
fn stale_incarnation() {
    // Recovery dropped batch 3 because 2 was torn; then 2 is written anew and 3 lies behind it as it was.
    let mut own = Box::with(3);
    let whole = own.cache.clone();
    own.cache.at(batch_at(0, 1))[9000] ^= 1;
    own.cache.at(batch_at(0, 2))[..4096].fill(0);
    assert_eq!(own.restart(), [Case::Scan, Case::TornTail]);
    own.write(1);
    let old = whole.bytes[(batch_at(0, 2) - SEGMENTS_OFFSET) as usize..][..BATCH as usize].to_vec();
    own.cache.at(batch_at(0, 2))[..old.len()].copy_from_slice(&old);
    assert_eq!(own.ends(), (2, Case::StaleIncarnation));
    // The same once the seal has moved past the old batch's Seqs: it does not lead on and stays dropped.
    own.restart();
    own.found.seal = own.journal.durable();
    assert_eq!(own.ends(), (2, Case::StaleIncarnation));
}

#[test]
fn foreign_bytes() {
    let mut own = Box::with(2);
    let copy = own.cache.at(batch_at(0, 1))[..BATCH as usize].to_vec();
    own.cache.at(batch_at(0, 2))[..copy.len()].copy_from_slice(&copy);
    assert_eq!(own.ends(), (2, Case::ForeignBytes));
}

/// The checksum of a body header covers its descriptors.
const DESCRIPTORS: usize = 64 + 140;

#[test]
fn rot_middle() {
    let mut own = Box::with(3);
    own.cache.at(batch_at(0, 1))[DESCRIPTORS] ^= 1;
    assert_eq!(own.stops(), Case::RotMiddle);
    // In a segment that has a successor and no footer.
    let mut own = Box::with(PER_SEGMENT + 1);
    own.cache.at(segment_offset(1, SEGMENT_LEN) - 4096)[..4096].fill(0);
    own.cache.at(batch_at(0, 1))[DESCRIPTORS] ^= 1;
    assert_eq!(own.stops(), Case::RotMiddle);
}

#[test]
fn rot_held() {
    let whole = Box::with(3);
    let mut own = whole.clone_disk();
    own.cache.at(batch_at(0, 1))[8192] ^= 1;
    let recovered = own.recover().unwrap();
    assert_eq!(recovered.cases, [Case::Scan, Case::RotHeld, Case::CleanEnd]);
    assert_eq!(recovered.start.end(), whole.journal.durable(), "nothing behind it is given up");
    // Its bytes are never taken, and those that a peer sends again are put into its place.
    let journal = Journal::new(config(), recovered.start, Seq::ZERO);
    let place = journal.place_of(Seq::from_raw(2)).unwrap();
    let read = |cache: &mut Cache| Bytes::from(cache.read(place.at, place.len).unwrap());
    assert!(place.verify(read(&mut own.cache)).is_err());
    let mut healthy = whole;
    let again = place.verify(read(&mut healthy.cache)).unwrap();
    let (at, bufs) = journal.rewrite(&place, &again, 9).unwrap();
    let bytes = bufs.concat();
    own.cache.at(at)[..bytes.len()].copy_from_slice(&bytes);
    assert_eq!(place.verify(read(&mut own.cache)).unwrap().last_seq(), Seq::from_raw(2));
    assert_eq!(own.recover().unwrap().cases, [Case::Scan, Case::CleanEnd]);
    // Another batch is not put there.
    let other = journal.place_of(Seq::from_raw(3)).unwrap();
    assert!(journal.rewrite(&other, &again, 9).is_none());
    // The last batch: only what the superblock knows tells it from a torn tail.
    let mut own = Box::with(3);
    own.cache.at(batch_at(0, 2))[8192] ^= 1;
    assert_eq!(own.ends(), (2, Case::TornTail));
    own.found.peer_durable = Seq::from_raw(3);
    assert_eq!(own.ends(), (3, Case::CleanEnd));
}

#[test]
fn a_batch_lost_in_the_middle_is_rot() {
    let mut own = Box::with(3);
    own.cache.at(batch_at(0, 1))[..BATCH as usize].fill(0);
    assert_eq!(own.stops(), Case::RotMiddle);
}

#[test]
fn chain_broken() {
    // A batch of another history in the right place.
    let mut own = Box::with(3);
    let mut other = Box::new();
    other.journal = Journal::new(
        config(),
        JournalStart::empty(Point { hash: hash_start(GroupId::from_raw([9; 16])), ..start() }, 1),
        Seq::ZERO,
    );
    other.write(3);
    let batch = other.cache.at(batch_at(0, 2))[..BATCH as usize].to_vec();
    own.cache.at(batch_at(0, 2))[..batch.len()].copy_from_slice(&batch);
    assert_eq!(own.stops(), Case::ChainBroken);
    // The history does not go through the sealed point.
    let mut own = Box::with(2);
    own.restart();
    own.found.seal.hash = start().hash;
    assert_eq!(own.stops(), Case::ChainBroken);
}

#[test]
fn superblock_stale() {
    let mut own = Box::with(2);
    own.found.superblock_version = 8;
    assert_eq!(own.stops(), Case::SuperblockStale);
    // Also where only footers can tell.
    let mut own = Box::with(PER_SEGMENT + 1);
    own.found.superblock_version = 8;
    own.cache.at(batch_at(1, 0))[..4096].fill(0);
    assert_eq!(own.stops(), Case::SuperblockStale);
}

#[test]
fn segment_missing() {
    let mut own = Box::with(2 * PER_SEGMENT + 1);
    own.cache.at(segment_offset(1, SEGMENT_LEN))[..512].fill(0);
    assert_eq!(own.stops(), Case::SegmentMissing);
}

#[test]
fn end_below_seal_applying_and_peer() {
    for (case, records) in [(Case::EndBelowSeal, 3), (Case::EndBelowApplying, 3), (Case::EndBelowPeer, 3)] {
        let mut own = Box::with(records);
        match case {
            Case::EndBelowSeal => own.found.seal = own.journal.durable(),
            Case::EndBelowApplying => own.found.applying = Seq::from_raw(3),
            _ => own.found.peer_durable = Seq::from_raw(3),
        }
        assert_eq!(own.ends().0, 3);
        own.cache.at(batch_at(0, 2))[DESCRIPTORS] ^= 1;
        assert_eq!(own.stops(), case);
    }
}

#[test]
fn read_failed() {
    let mut own = Box::with(3);
    own.cache.fail_at = Some(batch_at(0, 1) + 100);
    assert_eq!(own.stops(), Case::ReadFailed);
}

#[test]
fn newer_version() {
    let mut own = Box::with(3);
    let envelope = own.cache.at(batch_at(0, 2));
    envelope[4] = 2;
    reseal(envelope);
    assert_eq!(own.stops(), Case::NewerVersion);
    // The same bytes with another place are a host's, left over from an earlier use of the segment.
    let mut own = Box::with(2);
    let mut fake = own.cache.at(batch_at(0, 1))[..64].to_vec();
    fake[4] = 2;
    reseal(&mut fake);
    own.cache.at(batch_at(0, 2))[..64].copy_from_slice(&fake);
    assert!(!Envelope::names_place(&fake, 0, (batch_at(0, 2) - SEGMENTS_OFFSET) as u32, 10));
    assert_eq!(own.ends(), (2, Case::ForeignBytes));
    // A segment header of a newer release is not passed over.
    let mut own = Box::with(2);
    own.cache.at(segment_offset(0, SEGMENT_LEN))[4] = 2;
    let error = scan_segments(&mut own.cache, POOL, SEGMENTS, SEGMENT_LEN).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn this_file_has_every_row() {
    let own = include_str!("recovery_table.rs");
    let missing: Vec<_> = Case::ALL.into_iter().filter(|c| !own.contains(&format!("Case::{c}"))).collect();
    assert!(missing.is_empty(), "rows without a test: {missing:?}");
}
