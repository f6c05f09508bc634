//! The pool's superblock and the groups' superblocks: fixed head, protobuf body. See `docs/formats.md`.

use prost::Message;
use reprise_types::PoolBuf;

use crate::cursor::{Reader, Writer, check_crc, fill_crc};
use crate::{COUNTER_MAX, FormatError};

/// Room for one copy of a superblock. A group with more volumes, branches and peers than fit is refused.
pub const SUPERBLOCK_COPY_LEN: usize = 64 << 10;
/// Copies of a superblock. A version is written to one pair of copies, the next version to the other pair, so that a
/// torn write leaves the version before.
pub const SUPERBLOCK_COPIES: usize = 4;
/// Groups of a pool, at most: bounds the superblock area to 8 MiB and the group threads of a box.
pub const GROUPS_MAX: usize = 32;
/// Lines of history that a group keeps and a peer may name, at most: they take 5 KiB of a copy.
pub const BRANCHES_MAX: usize = 48;
/// Volumes of a group, at most: bounds the superblock, the LUN map and the layout of a first copy.
pub const VOLUMES_MAX: usize = 64;
/// Largest LUN of a volume: up to 255 units a target, addressed in one byte.
pub const LUN_MAX: u16 = 255;
/// Start of the first group's superblock area.
pub const GROUP_AREA_OFFSET: u64 = 1 << 20;
/// Start of the first segment.
pub const SEGMENTS_OFFSET: u64 = 16 << 20;

/// Start of the first area of a raw data half; its superblock's copies lie before.
pub const AREAS_OFFSET: u64 = 1 << 20;
/// Areas of a raw data half begin at multiples of this.
pub const AREA_GRAIN: u64 = 1 << 20;
/// Areas of a raw data half, at most: with the longest names they fit one copy of its superblock.
pub const AREAS_MAX: usize = 256;

const MAGIC: u32 = u32::from_le_bytes(*b"rpSB");
const VERSION: u16 = 1;
const HEAD_LEN: usize = 64;
const CRC_AT: usize = HEAD_LEN - 4;
/// Incompatible features this release knows.
pub const INCOMPATIBLE_KNOWN: u64 = 0;

/// What a superblock is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum SuperblockKind {
    /// The pool.
    Pool = 1,
    /// A group.
    Group = 2,
    /// The table of a raw data half.
    Data = 3,
}

/// The pool: whose cache this is and how it is cut.
#[derive(Clone, PartialEq, Message)]
pub struct PoolBody {
    /// Pool id, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub pool: Vec<u8>,
    /// Box id, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub owner: Vec<u8>,
    /// Bytes of a segment; a power of two from 1 MiB to 64 MiB.
    #[prost(uint64, tag = "3")]
    pub segment_len: u64,
    /// Number of segments.
    #[prost(uint32, tag = "4")]
    pub segments: u32,
    /// Group ids by slot of the superblock area; empty for a free slot.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub groups: Vec<Vec<u8>>,
    /// Further journal devices (mirrored journal); none in this release.
    #[prost(string, repeated, tag = "6")]
    pub journal_devices: Vec<String>,
    /// Where the data half begins on the same disk, a multiple of 1 MiB; 0 where it is not on it.
    #[prost(uint64, tag = "7")]
    pub data_offset: u64,
    /// Identity of the raw data half, 16 bytes; empty where homes are files.
    #[prost(bytes = "vec", tag = "8")]
    pub data_half: Vec<u8>,
}

/// A raw data half: which part of it is the home of which volume.
#[derive(Clone, PartialEq, Message)]
pub struct DataBody {
    /// Identity of the half, 16 bytes; the pool's superblock names it.
    #[prost(bytes = "vec", tag = "1")]
    pub half: Vec<u8>,
    /// Pool id, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub pool: Vec<u8>,
    /// Bytes of the half when this was written; it may grow, never shrink.
    #[prost(uint64, tag = "3")]
    pub len: u64,
    /// Areas, in no order. They do not overlap.
    #[prost(message, repeated, tag = "4")]
    pub areas: Vec<AreaBody>,
}

/// The home of a volume in a raw data half, in one piece.
#[derive(Clone, PartialEq, Message)]
pub struct AreaBody {
    /// Id of the volume it was made for, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Group and volume when it was made, for people.
    #[prost(string, tag = "2")]
    pub name: String,
    /// First byte, counted from the start of the half; a multiple of 1 MiB.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// Bytes; the next area begins behind it at a multiple of 1 MiB.
    #[prost(uint64, tag = "4")]
    pub len: u64,
}

/// (branch, Seq, h).
#[derive(Clone, PartialEq, Message)]
pub struct PointBody {
    /// Branch id, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub branch: Vec<u8>,
    /// Seq.
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// h(seq), 16 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub hash: Vec<u8>,
}

/// A line of history.
#[derive(Clone, PartialEq, Message)]
pub struct BranchBody {
    /// Branch id, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Parent branch and the Seq and h where this one left it; none for the first.
    #[prost(message, optional, tag = "2")]
    pub fork: Option<PointBody>,
    /// True once this side has ceded the branch: it has given it up to the peer.
    #[prost(bool, tag = "3")]
    pub ceded: bool,
}

/// A volume and its home.
#[derive(Clone, PartialEq, Message)]
pub struct VolumeBody {
    /// Slot in the group.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// Volume id, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    /// Size in sectors.
    #[prost(uint64, tag = "3")]
    pub sectors: u64,
    /// Name, for people and for the LUN's description.
    #[prost(string, tag = "4")]
    pub name: String,
    /// LUN under the group's target.
    #[prost(uint32, tag = "5")]
    pub lun: u32,
    /// Home legs.
    #[prost(message, repeated, tag = "6")]
    pub legs: Vec<LegBody>,
    /// True for a volume that is not replicated.
    #[prost(bool, tag = "7")]
    pub local_only: bool,
    /// True for a thin home.
    #[prost(bool, tag = "8")]
    pub thin: bool,
    /// What the unit remembers; missing for one that never had anything to.
    #[prost(message, optional, tag = "9")]
    pub unit: Option<crate::unit::UnitBody>,
    /// Blocks as hosts see them: 0 for 512e, 512 for 512n, 4096 for 4Kn.
    #[prost(uint32, tag = "10")]
    pub block_size: u32,
    /// True where hosts may not write.
    #[prost(bool, tag = "11")]
    pub read_only: bool,
}

/// A home leg.
#[derive(Clone, PartialEq, Message)]
pub struct LegBody {
    /// File or device.
    #[prost(string, tag = "1")]
    pub path: String,
    /// True for a device or image taken as it was, which is never deleted with the volume.
    #[prost(bool, tag = "2")]
    pub adopted: bool,
    /// Identity of the file or device, as the media layer names it.
    #[prost(string, tag = "3")]
    pub identity: String,
    /// True once the leg was detached after an error.
    #[prost(bool, tag = "4")]
    pub detached: bool,
}

/// First copy of a group's volumes to a mirror.
#[derive(Clone, PartialEq, Message)]
pub struct CopyBody {
    /// Everything before this volume slot and sector is durable at the mirror.
    #[prost(uint32, tag = "1")]
    pub slot: u32,
    /// See `slot`.
    #[prost(uint64, tag = "2")]
    pub sector: u64,
    /// The mirror is complete once it is durable up to here; 0 while regions are still to be read.
    #[prost(uint64, tag = "3")]
    pub complete_at: u64,
    /// What was copied contains records up to here, whatever the journal holds yet.
    #[prost(message, optional, tag = "4")]
    pub reach: Option<PointBody>,
}

/// A peer of a group.
#[derive(Clone, PartialEq, Message)]
pub struct PeerBody {
    /// Box id, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub peer: Vec<u8>,
    /// What the peer has proved to hold durably.
    #[prost(message, optional, tag = "2")]
    pub durable: Option<PointBody>,
    /// First copy that is not complete.
    #[prost(message, optional, tag = "3")]
    pub copy: Option<CopyBody>,
    /// Paused by a person.
    #[prost(bool, tag = "4")]
    pub paused: bool,
    /// Our instance as the peer confirmed it last, 16 bytes (see reprise-link, `instance`).
    #[prost(bytes = "vec", tag = "5")]
    pub instance_acknowledged: Vec<u8>,
    /// Our instance in use, 16 bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub instance_current: Vec<u8>,
    /// The peer's instance as accepted last, 16 bytes; empty before the first handshake.
    #[prost(bytes = "vec", tag = "7")]
    pub instance_seen: Vec<u8>,
}

/// A group: its line of history, its positions, its role.
#[derive(Clone, PartialEq, Message)]
pub struct GroupBody {
    /// Group id, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub group: Vec<u8>,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// 1 source, 2 mirror.
    #[prost(uint32, tag = "3")]
    pub role: u32,
    /// Every line of history known, the current one last.
    #[prost(message, repeated, tag = "4")]
    pub branches: Vec<BranchBody>,
    /// Records up to here may be gone; the journal begins behind it.
    #[prost(message, optional, tag = "5")]
    pub trimmed: Option<PointBody>,
    /// Home holds everything up to here.
    #[prost(uint64, tag = "6")]
    pub applied: u64,
    /// Home may hold records up to here.
    #[prost(uint64, tag = "7")]
    pub applying: u64,
    /// The end of the log as the last recovery chose it.
    #[prost(message, optional, tag = "8")]
    pub seal: Option<PointBody>,
    /// Number of recoveries; batches written since carry it.
    #[prost(uint32, tag = "9")]
    pub incarnation: u32,
    /// Volumes.
    #[prost(message, repeated, tag = "10")]
    pub volumes: Vec<VolumeBody>,
    /// The other boxes of the group: on a source those that hold or get a copy, on a mirror the one that feeds it.
    #[prost(message, repeated, tag = "11")]
    pub peers: Vec<PeerBody>,
    /// On a mirror: the first copy, until it is complete.
    #[prost(message, optional, tag = "12")]
    pub copy: Option<CopyBody>,
    /// Why the group is fenced; empty if it is not.
    #[prost(string, tag = "13")]
    pub fenced: String,
    /// Next free volume slot; slots are never used again.
    #[prost(uint32, tag = "14")]
    pub next_slot: u32,
    /// Segments of this or an older generation are of an earlier life of the group.
    #[prost(uint64, tag = "15")]
    pub generation_floor: u64,
    /// On a mirror: its source has ended the mirror; the image stays as it is.
    #[prost(bool, tag = "28")]
    pub detached_by_source: bool,
    /// Wall clock of this box when it took note of that, microseconds since 1970; 0 where that is not known.
    #[prost(uint64, tag = "40")]
    pub detached_wall: u64,
}

/// True where a body and its head take no more than so many bytes, and fit a copy.
pub fn body_fits<B: Message>(body: &B, bytes: usize) -> bool {
    HEAD_LEN + body.encoded_len() <= bytes.min(SUPERBLOCK_COPY_LEN)
}

/// Encodes one copy of a superblock, padded to 4 KiB.
///
/// # Errors
/// The body does not fit a copy.
pub fn encode<B: Message>(kind: SuperblockKind, version: u64, body: &B) -> Result<PoolBuf, FormatError> {
    let body_len = body.encoded_len();
    if HEAD_LEN + body_len > SUPERBLOCK_COPY_LEN {
        return Err(FormatError::Field { what: "superblock", field: "body_len", value: body_len as u64 });
    }
    let mut w = Writer::default();
    w.u32(MAGIC).u16(VERSION).u16(kind as u16).u64(version).u64(0).u64(0).u32(body_len as u32).pad_to(HEAD_LEN);
    w.bytes(&body.encode_to_vec());
    fill_crc(&mut w.out, CRC_AT);
    let mut buf = PoolBuf::unpooled(w.out.len().next_multiple_of(4096));
    buf[..w.out.len()].copy_from_slice(&w.out);
    Ok(buf)
}

/// Reads one copy: its version and body.
///
/// # Errors
/// Never written, torn, rotten, of another kind, newer, or with incompatible features.
pub fn decode<B: Message + Default>(kind: SuperblockKind, bytes: &[u8]) -> Result<(u64, B), FormatError> {
    let what = "superblock";
    let mut r = Reader::new(what, bytes);
    r.magic(MAGIC)?;
    r.version(VERSION)?;
    let found_kind = r.u16()?;
    let version = r.u64()?;
    r.u64()?;
    let incompatible = r.u64()?;
    let body_len = r.u32()?;
    let end = HEAD_LEN.saturating_add(body_len as usize);
    if end > SUPERBLOCK_COPY_LEN {
        return Err(r.field("body_len", body_len.into()));
    }
    if version > COUNTER_MAX {
        return Err(r.field("version", version));
    }
    let whole = bytes.get(..end).ok_or(FormatError::Short { what, need: end, have: bytes.len() })?;
    check_crc(what, whole, CRC_AT)?;
    if found_kind != kind as u16 {
        return Err(r.field("kind", found_kind.into()));
    }
    if incompatible & !INCOMPATIBLE_KNOWN != 0 {
        return Err(FormatError::Features { what, bits: incompatible & !INCOMPATIBLE_KNOWN });
    }
    let body = B::decode(&whole[HEAD_LEN..]).map_err(|source| FormatError::Message { what, source })?;
    Ok((version, body))
}

/// Offsets of the four copies of the pool's superblock, and of a raw data half's on its half.
pub fn pool_copies() -> [u64; SUPERBLOCK_COPIES] {
    std::array::from_fn(|i| (i * SUPERBLOCK_COPY_LEN) as u64)
}

/// Offsets of the four copies of a group's superblock.
///
/// # Panics
/// When `slot` is not below [`GROUPS_MAX`].
pub fn group_copies(slot: usize) -> [u64; SUPERBLOCK_COPIES] {
    assert!(slot < GROUPS_MAX, "group slot {slot}");
    let base = GROUP_AREA_OFFSET + (slot * SUPERBLOCK_COPIES * SUPERBLOCK_COPY_LEN) as u64;
    std::array::from_fn(|i| base + (i * SUPERBLOCK_COPY_LEN) as u64)
}

/// The pair of copies that a version is written to: even versions the first two, odd ones the last two.
pub fn copies_of(version: u64) -> [usize; 2] {
    if version.is_multiple_of(2) { [0, 1] } else { [2, 3] }
}

/// The newest valid copy. `copies` are what was read, none where the read failed.
///
/// # Errors
/// No copy is valid. The most telling reason is given: a newer version or feature before damage, damage before absence. Or a
/// newer version may stand where nothing could be read: the pair that the next version goes to has no valid copy and one that
/// is unreadable.
pub fn newest<B: Message + Default>(kind: SuperblockKind, copies: &[Option<Vec<u8>>]) -> Result<(u64, B), FormatError> {
    let mut best: Option<(u64, B)> = None;
    let mut worst = FormatError::Magic { what: "superblock" };
    let mut valid = [false; SUPERBLOCK_COPIES];
    for (copy, valid) in copies.iter().zip(&mut valid) {
        let Some(copy) = copy else { continue };
        match decode::<B>(kind, copy) {
            Ok((version, body)) => {
                *valid = true;
                if best.as_ref().is_none_or(|(v, _)| *v < version) {
                    best = Some((version, body));
                }
            }
            Err(e @ (FormatError::Version { .. } | FormatError::Features { .. })) => return Err(e),
            Err(FormatError::Magic { .. }) => {}
            Err(e) => worst = e,
        }
    }
    let unreadable = |i: usize| copies.get(i).is_none_or(Option::is_none);
    let hidden = match &best {
        Some((version, _)) => {
            let next = copies_of(version.wrapping_add(1));
            !next.iter().any(|i| valid[*i]) && next.into_iter().any(unreadable)
        }
        None => (0..SUPERBLOCK_COPIES).any(unreadable),
    };
    if hidden {
        return Err(FormatError::Unreadable { what: "superblock" });
    }
    best.ok_or(worst)
}

const _: () =
    assert!(GROUP_AREA_OFFSET + (GROUPS_MAX * SUPERBLOCK_COPIES * SUPERBLOCK_COPY_LEN) as u64 <= SEGMENTS_OFFSET);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_table_of_areas_fits_a_copy() {
        let area = AreaBody { id: vec![1; 16], name: "n".repeat(97), offset: u64::MAX, len: u64::MAX };
        let areas = vec![area; AREAS_MAX];
        let body = DataBody { half: vec![1; 16], pool: vec![1; 16], len: u64::MAX, areas };
        let bytes = encode(SuperblockKind::Data, COUNTER_MAX, &body).unwrap();
        assert_eq!(decode(SuperblockKind::Data, &bytes), Ok((COUNTER_MAX, body.clone())));
        let past = encode(SuperblockKind::Data, COUNTER_MAX + 1, &body).unwrap();
        assert!(decode::<DataBody>(SuperblockKind::Data, &past).is_err(), "what follows a version must not overflow");
    }

    #[test]
    fn newest_valid_copy_wins_and_a_torn_pair_leaves_the_version_before() {
        let body = |name: &str| GroupBody { name: name.into(), ..Default::default() };
        let old = encode(SuperblockKind::Group, 4, &body("old")).unwrap().to_vec();
        let new = encode(SuperblockKind::Group, 5, &body("new")).unwrap().to_vec();
        let mut torn = new.clone();
        torn[66] ^= 1;
        let pick = |copies: [&Vec<u8>; 4]| {
            newest::<GroupBody>(SuperblockKind::Group, &copies.map(|c| Some(c.clone()))).map(|(v, b)| (v, b.name))
        };
        assert_eq!(pick([&old, &old, &new, &torn]), Ok((5, "new".into())));
        assert_eq!(pick([&old, &old, &torn, &torn]), Ok((4, "old".into())));
        assert!(pick([&torn, &torn, &torn, &torn]).is_err());
    }

    #[test]
    fn a_copy_that_cannot_be_read_may_be_newer() {
        let at = |version| Some(encode(SuperblockKind::Group, version, &GroupBody::default()).unwrap().to_vec());
        let pick = |copies: [Option<Vec<u8>>; 4]| newest::<GroupBody>(SuperblockKind::Group, &copies).map(|(v, _)| v);
        let blank = || Some(vec![0; SUPERBLOCK_COPY_LEN]);
        let hidden = Err(FormatError::Unreadable { what: "superblock" });
        assert_eq!(pick([at(4), at(4), None, None]), hidden, "version 5 may be there");
        assert_eq!(pick([at(4), at(4), None, blank()]), hidden, "and its other copy destroyed");
        assert_eq!(pick([at(4), at(4), None, at(3)]), Ok(4), "5 would be in both");
        assert_eq!(pick([at(4), at(4), None, at(5)]), Ok(5));
        assert_eq!(pick([None, None, at(5), at(5)]), hidden, "version 6");
        assert_eq!(pick([at(4), None, at(5), None]), Ok(5), "a disk with two bad places starts");
        assert_eq!(pick([blank(), blank(), None, blank()]), hidden, "no blank disk");
        assert_eq!(pick([None, None, None, None]), hidden);
        assert_eq!(pick([blank(), blank(), blank(), blank()]), Err(FormatError::Magic { what: "superblock" }));
    }
}
