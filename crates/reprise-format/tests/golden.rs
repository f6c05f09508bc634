//! Golden bytes of every version of what lies on disk: they decode, and encode again to the same bytes.
//!
//! Files are only ever added. `REPRISE_GOLDEN=create cargo test -p reprise-format --test golden` writes those that are
//! missing and never touches one that is there: a difference is a format change, and needs a version and a file
//! of its own. The link's are in `golden/link`, with tests beside the code.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use reprise_format::batch::{
    BodyHeader, BodyPlace, ENVELOPE_LEN, Envelope, PackRecord, hash_start, pack_header, total_len,
};
use reprise_format::segment::{BatchEntry, Footer, RecordEntry, SegmentHeader};
use reprise_format::superblock::{
    self, AreaBody, BranchBody, CopyBody, DataBody, GroupBody, LegBody, PeerBody, PointBody, PoolBody, SuperblockKind,
    VolumeBody,
};
use reprise_types::{
    BranchId, Extent, GroupId, HistoryHash, PoolId, RecordKind, Sector, SectorCount, Seq, VolumeSlot, WallMicros,
};

const GROUP: GroupId = GroupId::from_raw(*b"golden group 001");
const BRANCH: BranchId = BranchId::from_raw(*b"golden branch 01");
const POOL: PoolId = PoolId::from_raw(*b"golden pool 0001");

fn envelope(body_len: usize) -> Envelope {
    Envelope {
        total_len: total_len(body_len) as u32,
        body_len: body_len as u32,
        segment: 3,
        offset: 0x21000,
        generation: 0x0102_0304_0506_0708,
        superblock_version: 77,
        durable_before: 0x20000,
        incarnation: 5,
    }
}

/// A record of every kind; a write longer than a checksum grain among them.
fn records() -> Vec<PackRecord> {
    let extent = |volume, sector, sectors| Extent {
        volume: VolumeSlot::from_raw(volume),
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
    };
    let fill = |len: usize, seed: usize| Bytes::from_iter((0..len).map(|i| (i * 31 + seed) as u8));
    RecordKind::ALL
        .into_iter()
        .map(|kind| match kind {
            RecordKind::Write => PackRecord::new(kind, extent(1, 0x12_3456_789a, 9), fill(9 * 512, 1)),
            RecordKind::Zero => PackRecord::new(kind, extent(2, 7, 1 << 30), Bytes::new()),
            RecordKind::FlushMark | RecordKind::VolumeRemoved => PackRecord::new(kind, extent(0, 0, 0), Bytes::new()),
            RecordKind::IntervalExtent => PackRecord::new(kind, extent(1, 64, 2), fill(1024, 5)),
            _ => PackRecord::new(kind, extent(1, 0, 0), fill(512, kind.code().into())),
        })
        .collect()
}

fn batch(records: &[PackRecord]) -> Vec<u8> {
    let place = BodyPlace {
        group: GROUP,
        branch: BRANCH,
        first_seq: Seq::from_raw(1001),
        h_before: hash_start(GROUP),
        wall_raw: WallMicros::from_raw(1_700_000_000_000_000),
        wall_forced: WallMicros::from_raw(1_700_000_000_000_001),
    };
    let (mut head, header) = pack_header(&place, records);
    head[..ENVELOPE_LEN].copy_from_slice(&envelope(header.body_len()).encode());
    let mut out = head.to_vec();
    records.iter().for_each(|r| out.extend_from_slice(&r.payload));
    out.resize(total_len(header.body_len()), 0);
    out
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        pool: POOL,
        group: GROUP,
        branch: BRANCH,
        segment: 3,
        generation: 0x0102_0304_0506_0708,
        first_seq: Seq::from_raw(1001),
        h_before: hash_start(GROUP),
    }
}

fn footer() -> Footer {
    let entry = |sector, sectors, zero, seq_delta, batch| RecordEntry {
        sector: Sector::from_raw(sector),
        volume: VolumeSlot::from_raw(2),
        sectors,
        zero,
        seq_delta,
        payload_sector: 17 + seq_delta * 8,
        batch,
    };
    let batch = |offset, records| BatchEntry {
        offset,
        header_len: 448,
        body_len: 448 + 4096,
        records,
        wall: WallMicros::from_raw(1_700_000_000_000_001 + u64::from(offset)),
        h_after: HistoryHash::from_raw([offset.to_le_bytes()[1]; 16]),
    };
    Footer {
        group: GROUP,
        segment: 3,
        generation: 0x0102_0304_0506_0708,
        first_seq: Seq::from_raw(1001),
        h_before: hash_start(GROUP),
        incarnation: 5,
        superblock_version: 77,
        data_end: 0x5000,
        batches: vec![batch(0x1000, 2), batch(0x3000, 1)],
        records: vec![entry(0, 0, false, 2, 1), entry(8, 1 << 30, true, 1, 0), entry((1 << 48) - 8, 8, false, 0, 0)],
    }
}

fn pool_body() -> PoolBody {
    PoolBody {
        pool: POOL.as_bytes().to_vec(),
        owner: b"golden box 00001".to_vec(),
        segment_len: 64 << 20,
        segments: 4096,
        groups: vec![GROUP.as_bytes().to_vec(), Vec::new()],
        journal_devices: vec!["/dev/disk/by-id/second".into()],
        data_offset: 0,
        data_half: Vec::new(),
    }
}

fn data_body() -> DataBody {
    let area = |id: &[u8; 16], name: &str, offset, len| AreaBody { id: id.to_vec(), name: name.into(), offset, len };
    DataBody {
        half: b"golden half 0001".to_vec(),
        pool: POOL.as_bytes().to_vec(),
        len: 1 << 40,
        areas: vec![
            area(b"golden volume 01", "golden/v1", 1 << 20, 1 << 30),
            area(b"golden volume 02", "golden/v2", 3 << 30, 4096),
        ],
    }
}

fn group_body() -> GroupBody {
    let point = |seq: u64| PointBody { branch: BRANCH.as_bytes().to_vec(), seq, hash: vec![seq as u8; 16] };
    let copy = CopyBody { slot: 1, sector: 2048, complete_at: 99, reach: None };
    let leg = LegBody { path: "/data/v1".into(), adopted: true, identity: "8:1:7".into(), detached: true };
    GroupBody {
        group: GROUP.as_bytes().to_vec(),
        name: "golden".into(),
        role: 1,
        branches: vec![
            BranchBody { id: b"golden parent 01".to_vec(), fork: None, ceded: true },
            BranchBody { id: BRANCH.as_bytes().to_vec(), fork: Some(point(10)), ceded: false },
        ],
        trimmed: Some(point(20)),
        applied: 30,
        applying: 40,
        seal: Some(point(50)),
        incarnation: 6,
        volumes: vec![VolumeBody {
            slot: 1,
            id: b"golden volume 01".to_vec(),
            sectors: 1 << 21,
            name: "v1".into(),
            lun: 1,
            legs: vec![leg],
            local_only: true,
            thin: true,
            unit: None,
            block_size: 0,
            read_only: false,
        }],
        peers: vec![PeerBody {
            peer: b"golden box 00002".to_vec(),
            durable: Some(point(45)),
            copy: Some(copy.clone()),
            paused: true,
            instance_acknowledged: b"golden instance1".to_vec(),
            instance_current: b"golden instance2".to_vec(),
            instance_seen: b"golden instance3".to_vec(),
        }],
        copy: Some(copy),
        fenced: "why".into(),
        next_slot: 2,
        generation_floor: 8,
        detached_by_source: false,
        detached_wall: 0,
    }
}

/// Compares with the file, or creates it where it is missing and that was asked for. Gives the golden bytes.
fn check(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if !path.exists() && std::env::var("REPRISE_GOLDEN").is_ok_and(|v| v == "create") {
        std::fs::write(&path, made).unwrap();
    }
    let golden = std::fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}; see the head of this file"));
    assert!(golden == made, "{name}: what is encoded differs from the golden bytes: a format change");
    golden
}

#[test]
fn batch_with_every_record_kind() {
    let golden = check("batch_v1.bin", &batch(&records()));
    let envelope = Envelope::decode(&golden).unwrap();
    check("envelope_v1.bin", &envelope.encode());
    let header = BodyHeader::decode(&golden[ENVELOPE_LEN..]).unwrap();
    let payload = &golden[ENVELOPE_LEN + header.head.header_len as usize..];
    header.check_payload(payload).unwrap();
    let again: Vec<PackRecord> = header
        .records
        .iter()
        .map(|r| {
            let at = r.payload_offset as usize;
            let end = at + r.descriptor.payload_len as usize;
            PackRecord::new(r.descriptor.kind, r.descriptor.extent(), Bytes::copy_from_slice(&payload[at..end]))
        })
        .collect();
    assert_eq!(again.iter().map(|r| r.descriptor.kind).collect::<Vec<_>>(), RecordKind::ALL);
    assert!(batch(&again) == golden, "encodes to other bytes");
}

#[test]
fn segment_header_and_footer() {
    let golden = check("segment_header_v1.bin", &segment_header().encode());
    assert_eq!(SegmentHeader::decode(&golden), Ok(segment_header()));
    let golden = check("footer_v1.bin", &footer().encode());
    assert_eq!(Footer::decode(&golden), Ok(footer()));
}

#[test]
fn superblocks() {
    let made = superblock::encode(SuperblockKind::Pool, 12, &pool_body()).unwrap();
    let golden = check("superblock_pool_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Pool, &golden), Ok((12, pool_body())));
    let made = superblock::encode(SuperblockKind::Group, 13, &group_body()).unwrap();
    let golden = check("superblock_group_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Group, &golden), Ok((13, group_body())));
    let mut reaching = group_body();
    reaching.copy.as_mut().unwrap().reach = reaching.seal.clone();
    let made = superblock::encode(SuperblockKind::Group, 13, &reaching).unwrap();
    let golden = check("superblock_group_reach_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Group, &golden), Ok((13, reaching)));
    assert!(superblock::decode::<PoolBody>(SuperblockKind::Pool, &golden).is_err(), "a group is not a pool");
    let ended = GroupBody { role: 2, detached_by_source: true, detached_wall: 1_700_000_000_000_000, ..group_body() };
    let made = superblock::encode(SuperblockKind::Group, 13, &ended).unwrap();
    let golden = check("superblock_group_detached_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Group, &golden), Ok((13, ended)));
    let split = PoolBody { data_offset: 1 << 39, data_half: data_body().half, ..pool_body() };
    let made = superblock::encode(SuperblockKind::Pool, 14, &split).unwrap();
    let golden = check("superblock_pool_split_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Pool, &golden), Ok((14, split)));
    let made = superblock::encode(SuperblockKind::Data, 15, &data_body()).unwrap();
    let golden = check("superblock_data_v1.bin", &made);
    assert_eq!(superblock::decode(SuperblockKind::Data, &golden), Ok((15, data_body())));
}

#[test]
fn a_newer_version_is_named_as_such() {
    use reprise_format::FormatError::{Checksum, Version};
    let mut header = segment_header().encode();
    header[4] = 2;
    assert!(matches!(SegmentHeader::decode(&header), Err(Version { found: 2, .. })));
    let mut envelope = envelope(448).encode();
    envelope[4] = 2;
    assert!(matches!(Envelope::decode(&envelope), Err(Checksum { .. })), "a host's bytes are no newer release");
}

/// Changes `bytes` at some places; gives what decides whether anything was changed.
fn damage(bytes: &mut Vec<u8>, edits: &[(usize, u8)], cut: usize) -> bool {
    let before = bytes.clone();
    for (at, mask) in edits {
        let at = at % bytes.len();
        bytes[at] ^= mask;
    }
    bytes.truncate(bytes.len() - cut % 600);
    *bytes != before
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_bytes_never_panic_and_never_decode_to_something_else(
        edits in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), cut in prop_oneof![Just(0usize), 0..600usize]
    ) {
        let mut bytes = batch(&records());
        let whole = (Envelope::decode(&bytes).unwrap(), BodyHeader::decode(&bytes[ENVELOPE_LEN..]).unwrap());
        let payload_at = ENVELOPE_LEN + whole.1.head.header_len as usize;
        let payload_end = payload_at + whole.1.head.payload_len as usize;
        let payload = bytes[payload_at..payload_end].to_vec();
        damage(&mut bytes, &edits, cut);
        if let Ok(found) = Envelope::decode(&bytes) {
            prop_assert_eq!(found, whole.0);
        }
        if let Ok(found) = BodyHeader::decode(bytes.get(ENVELOPE_LEN..).unwrap_or_default()) {
            prop_assert_eq!(&found, &whole.1);
            let found_payload = bytes.get(payload_at..).unwrap_or_default();
            if found.check_payload(found_payload).is_ok() {
                prop_assert!(found_payload.starts_with(&payload), "wrong payload taken");
            }
        }

        let mut bytes = footer().encode().to_vec();
        damage(&mut bytes, &edits, cut);
        if let Ok(found) = Footer::decode(&bytes) {
            prop_assert_eq!(found, footer());
        }
        let mut bytes = segment_header().encode().to_vec();
        damage(&mut bytes, &edits, cut);
        if let Ok(found) = SegmentHeader::decode(&bytes) {
            prop_assert_eq!(found, segment_header());
        }
        let mut bytes = superblock::encode(SuperblockKind::Group, 13, &group_body()).unwrap().to_vec();
        damage(&mut bytes, &edits, cut);
        if let Ok(found) = superblock::decode::<GroupBody>(SuperblockKind::Group, &bytes) {
            prop_assert_eq!(found, (13, group_body()));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_taken_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let _ = Envelope::decode(&bytes);
        let _ = BodyHeader::decode(&bytes);
        let _ = Footer::decode(&bytes);
        let _ = Footer::decode_trailer(&bytes);
        let _ = SegmentHeader::decode(&bytes);
        let _ = superblock::decode::<PoolBody>(SuperblockKind::Pool, &bytes);
        let _ = superblock::decode::<DataBody>(SuperblockKind::Data, &bytes);
    }

    /// Fields with a right checksum around them: what a hostile peer can send.
    #[test]
    fn a_body_with_hostile_fields_and_a_right_checksum_does_not_panic(
        edits in prop::collection::vec((0usize..1200, prop_oneof![Just(0xffu8), any::<u8>()]), 1..12)
    ) {
        let bytes = batch(&records());
        let mut body = bytes[ENVELOPE_LEN..].to_vec();
        let len = BodyHeader::decode(&body).unwrap().head.header_len as usize;
        edits.iter().for_each(|(at, value)| body[at % len] = *value);
        body[120..124].fill(0);
        let crc = reprise_format::crc32c(&body[..len]);
        body[120..124].copy_from_slice(&crc.to_le_bytes());
        if let Ok(header) = BodyHeader::decode(&body) {
            let _ = header.check_payload(&body[header.head.header_len as usize..]);
        }
    }
}
