//! What a box says about itself.
//!
//! Bytes are bytes, never KiB. Rates are averages over the last 5 seconds or so. A value that is not known is null, never
//! 0. Times are milliseconds since 1970 by the box's clock, durations are seconds.

use std::fmt;

use reprise_types::{BoxId, BranchId, GroupId, PoolId, Seq, VolumeId};

pub use reprise_types::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::{Alert, Job};
use crate::value::{ByteSize, Name};

/// Everything about a box that a person or a monitor asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The box.
    #[serde(rename = "box")]
    pub this_box: BoxStatus,
    /// The groups, by name.
    pub groups: Vec<GroupStatus>,
    /// The paired boxes, by name.
    pub peers: Vec<PeerStatus>,
    /// Alerts that hold and belong to no group.
    pub alerts: Vec<Alert>,
    /// Jobs that have not ended, and the last ones that have.
    pub jobs: Vec<Job>,
}

/// The box itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BoxStatus {
    /// Identity, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: BoxId,
    /// Name.
    pub name: Name,
    /// Version of the software.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// Where the box listens.
    pub endpoints: Endpoints,
    /// The pool.
    pub pool: PoolStatus,
    /// Memory of the data path.
    pub memory: MemoryStatus,
}

/// Where the box listens, with the real ports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoints {
    /// iSCSI portals, `ADDRESS:PORT`.
    pub iscsi: Vec<String>,
    /// The link, `ADDRESS:PORT`; null where it does not listen.
    pub link: Option<String>,
    /// The local API socket's path.
    pub socket: Option<String>,
    /// The API over HTTPS, as a URL.
    pub https: Option<String>,
    /// SHA-256 of the HTTPS certificate, hexadecimal; what `--fingerprint` takes.
    pub https_fingerprint: Option<String>,
    /// Prometheus metrics, as a URL.
    pub metrics: Option<String>,
}

/// The pool of the box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Identity, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: PoolId,
    /// Device or file of the cache half.
    pub cache_path: String,
    /// Device or directory of the data half.
    pub data_path: String,
    /// Size of the cache, bytes.
    pub cache_bytes_total: u64,
    /// Held by the journals of all groups, in whole segments, bytes.
    pub cache_bytes_used: u64,
    /// Size of one cache segment, bytes.
    pub segment_bytes: u64,
    /// Segments of the cache.
    pub segments_total: u64,
    /// Segments held by groups.
    pub segments_used: u64,
    /// Segments kept back so that a full cache can be left.
    pub segments_reserved: u64,
    /// Size of the data half, bytes.
    pub data_bytes_total: u64,
    /// Taken by volumes, and by areas that no volume uses, bytes.
    pub data_bytes_used: u64,
    /// Areas of a raw data half that no volume uses: of volumes that were removed, and not erased.
    #[serde(default)]
    pub data_areas_spare: Vec<SpareArea>,
}

/// An area of a raw data half that no volume uses. Its `home` can be adopted again as a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpareArea {
    /// Group and volume it was made for.
    pub name: String,
    /// Where it is, `DISK@OFFSET` in bytes.
    pub home: String,
    /// Size, bytes.
    pub size_bytes: u64,
}

/// Memory of the data path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryStatus {
    /// Payload buffers in use, bytes.
    pub buffers_bytes_used: u64,
    /// Limit of the payload buffers, bytes.
    pub buffers_bytes_limit: u64,
    /// Journal indexes, bytes.
    pub index_bytes_used: u64,
    /// Limit of the journal indexes, bytes.
    pub index_bytes_limit: u64,
}

/// A group on this box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Name.
    pub name: Name,
    /// Identity, 32 hexadecimal digits; the same on both boxes.
    #[schema(value_type = String)]
    pub id: GroupId,
    /// `source` or `mirror`.
    #[schema(value_type = String)]
    pub role: Role,
    /// The line of history it is on, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub branch: BranchId,
    /// What it is doing.
    pub state: GroupState,
    /// Where its history stands.
    pub positions: GroupPositions,
    /// Age of the oldest acknowledged write that is not durable at the peer, seconds; 0 when there is none, null without
    /// a peer. Null on a mirror: only its source knows what the mirror lacks.
    pub lag_secs: Option<f64>,
    /// Payload of the records that are durable here and not at the peer, bytes; null without a peer, and on a mirror.
    pub lag_bytes: Option<u64>,
    /// What a mirror holds and what can be done with it; null on a source, and where the group does not run.
    #[serde(default)]
    pub image: Option<ImageStatus>,
    /// Its share of the cache.
    pub cache: CacheStatus,
    /// Its volumes, by LUN.
    pub volumes: Vec<VolumeStatus>,
    /// Its iSCSI targets; none on a mirror.
    pub targets: Vec<TargetStatus>,
    /// The way to its peer; null without a peer.
    pub link: Option<LinkStatus>,
    /// The first copy; null when none is under way.
    pub copy: Option<CopyStatus>,
    /// What flows at present.
    pub rates: Rates,
    /// What has flowed since the daemon started.
    pub totals: Totals,
    /// Alerts that hold for it.
    pub alerts: Vec<Alert>,
}

/// What a mirror hears of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// It sends its writes.
    Sends,
    /// It can be reached and sends nothing of the group.
    Answers,
    /// Nothing is heard of it.
    Silent,
    /// It has ended the mirror.
    Ended,
}

/// The image of a group that is mirrored to this box. No version up to this one serves it to hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageStatus {
    /// The first copy has come to its end: the image is whole. One that is not cannot be used.
    pub complete: bool,
    /// The moment that the image shows: when the newest write that it holds was made, by the clock of its source,
    /// milliseconds since 1970. Null where no write has come since the first copy or since the box started, and nothing
    /// that the journal still has tells.
    pub moment_unix_ms: Option<u64>,
    /// What is heard of the source.
    pub source: ImageSource,
    /// When the source was heard last, milliseconds since 1970; null while it is heard, and where it was never heard.
    pub silent_since_unix_ms: Option<u64>,
    /// All of this for people.
    pub text: String,
    /// What to do, and what must not be done; may be empty.
    pub what_to_do: String,
}

/// What a group is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GroupState {
    /// A source without a mirror.
    Alone,
    /// Every write goes to the mirror in its order; the mirror holds a gap-free prefix.
    Ordered,
    /// The first copy runs; the mirror is not usable before it ends.
    Copying,
    /// Somebody paused the mirror; the cache takes the writes.
    Paused,
    /// Nothing flows between the boxes, and the link is tried again and again. On a source the cache takes the writes of
    /// the hosts; on a mirror nothing comes.
    Disconnected,
    /// The source has ended this mirror: the image stays as it was, and nothing follows.
    Ended {
        /// When this box took note of it, milliseconds since 1970; null where that is not known.
        at_unix_ms: Option<u64>,
    },
    /// Cannot go on before `reason` is gone, then goes on by itself.
    Waiting {
        /// What it waits for.
        reason: String,
    },
    /// The cache is full: the host waits for room.
    CacheFull,
    /// A write or sync of the journal failed. Needs a person.
    Fenced {
        /// What failed.
        reason: String,
    },
    /// The lines of the two boxes forked. Needs a person.
    Diverged {
        /// Where.
        reason: String,
    },
}

impl GroupState {
    /// The `kind` of the JSON form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Ordered => "ordered",
            Self::Copying => "copying",
            Self::Paused => "paused",
            Self::Disconnected => "disconnected",
            Self::Ended { .. } => "ended",
            Self::Waiting { .. } => "waiting",
            Self::CacheFull => "cache_full",
            Self::Fenced { .. } => "fenced",
            Self::Diverged { .. } => "diverged",
        }
    }

    /// Every `kind`.
    pub const KINDS: [&'static str; 10] = [
        "alone",
        "ordered",
        "copying",
        "paused",
        "disconnected",
        "ended",
        "waiting",
        "cache_full",
        "fenced",
        "diverged",
    ];

    /// The reason, where the state has one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason } | Self::Fenced { reason } | Self::Diverged { reason } => Some(reason),
            _ => None,
        }
    }
}

/// What keeps a cursor from going on, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// The group is fenced.
    Fenced,
    /// The group has just started: what its recovery chose is not sealed.
    Sealing,
    /// The home is detached after an error.
    Detached,
    /// A comparison holds the moment that it compares.
    Comparison,
    /// Writes of an earlier connection or comparison are still at the disk of a home.
    Strays,
    /// What the journal holds of reservations and sizes is being read.
    Units,
    /// Records of the journal cannot be read; they are fetched from the other box, or are lost.
    Unreadable,
    /// The first copy has not come so far.
    Copy,
    /// Somebody paused the mirror.
    Paused,
    /// The link stopped until somebody acts; the group's state says why.
    Stopped,
    /// No link is up.
    Disconnected,
    /// The link has just come up.
    Greeting,
}

impl HeldBy {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fenced => "fenced",
            Self::Sealing => "sealing",
            Self::Detached => "detached",
            Self::Comparison => "comparison",
            Self::Strays => "strays",
            Self::Units => "units",
            Self::Unreadable => "unreadable",
            Self::Copy => "copy",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Disconnected => "disconnected",
            Self::Greeting => "greeting",
        }
    }
}

/// Positions in the group's history, as Seq numbers on `branch`:
/// `trimmed <= applied <= applying <= durable <= written` and `trimmed <= peer_durable <= sent <= durable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupPositions {
    /// Records up to here may be gone from the journal.
    #[schema(value_type = u64)]
    pub trimmed: Seq,
    /// The home holds all records up to here.
    #[schema(value_type = u64)]
    pub applied: Seq,
    /// The home may hold records up to here.
    #[schema(value_type = u64)]
    pub applying: Seq,
    /// Records up to here survive a power cut.
    #[schema(value_type = u64)]
    pub durable: Seq,
    /// Records up to here have a Seq.
    #[schema(value_type = u64)]
    pub written: Seq,
    /// Records up to here were handed to the link; null without a peer, and on a mirror.
    #[schema(value_type = Option<u64>)]
    pub sent: Option<Seq>,
    /// Records up to here are durable at the peer; null without a peer, and on a mirror.
    #[schema(value_type = Option<u64>)]
    pub peer_durable: Option<Seq>,
    /// What keeps the home from what is durable; null where nothing does.
    #[serde(default)]
    pub home_held_by: Option<HeldBy>,
    /// What keeps the peer from what is durable; null where nothing does, without a peer, and on a mirror.
    #[serde(default)]
    pub peer_held_by: Option<HeldBy>,
}

impl From<reprise_types::Positions> for GroupPositions {
    fn from(p: reprise_types::Positions) -> Self {
        Self {
            trimmed: p.trimmed,
            applied: p.applied,
            applying: p.applying,
            durable: p.durable,
            written: p.written,
            sent: p.sent,
            peer_durable: p.peer_durable,
            home_held_by: None,
            peer_held_by: None,
        }
    }
}

/// A group's share of the cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheStatus {
    /// The most the group could hold at present, bytes: what it holds and what is free, without the reserve.
    pub bytes_total: u64,
    /// What its journal holds, bytes.
    pub bytes_used: u64,
    /// `bytes_used` of `bytes_total`, 0 to 100. At 100 the host waits.
    pub fill_percent: f64,
    /// Cache segments it holds.
    pub segments: u64,
    /// Seconds until the cache is full at the present rates; null while it is not filling.
    pub forecast_full_secs: Option<f64>,
    /// Milliseconds by which each write of the host is held back to keep the cache from filling; 0 when not paced.
    pub pacing_ms: f64,
}

/// Blocks of a volume as hosts see them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum BlockSize {
    /// 512 bytes, on physical blocks of 4096 bytes.
    #[default]
    #[serde(rename = "512e")]
    Emulated512,
    /// 512 bytes, on physical blocks of 512 bytes: for hosts that do not know 512e.
    #[serde(rename = "512n")]
    Native512,
    /// 4096 bytes.
    #[serde(rename = "4kn")]
    Native4096,
}

impl std::fmt::Display for BlockSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Emulated512 => "512e",
            Self::Native512 => "512n",
            Self::Native4096 => "4kn",
        })
    }
}

impl std::str::FromStr for BlockSize {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "512e" => Ok(Self::Emulated512),
            "512n" => Ok(Self::Native512),
            "4kn" => Ok(Self::Native4096),
            _ => Err("512e, 512n or 4kn"),
        }
    }
}

/// How a volume came to the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeKind {
    /// A file in the data half, written fully.
    Thick,
    /// A sparse file in the data half.
    Thin,
    /// An existing device or image, taken as it is.
    Adopted,
}

/// Where a volume stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum VolumeState {
    /// Serves hosts.
    Ready,
    /// On a mirror: a part of its image. It serves no host.
    Image,
    /// Is being written for the first time; serves when that is done.
    Preparing,
    /// Its home is missing, or is not what it was.
    Missing {
        /// What is wrong.
        reason: String,
    },
    /// Is being erased or taken out.
    Leaving,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStatus {
    /// Name.
    pub name: Name,
    /// Identity, 32 hexadecimal digits; the same on both boxes.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Its group.
    pub group: Name,
    /// Logical unit number in the group's target.
    pub lun: u16,
    /// Size, bytes.
    pub size_bytes: u64,
    /// How it came to the box.
    pub kind: VolumeKind,
    /// False for a volume that stays on this box.
    pub replicated: bool,
    /// Blocks that hosts see.
    pub block_size: BlockSize,
    /// Hosts may not write.
    pub read_only: bool,
    /// Path of its home.
    pub home: String,
    /// Where it stands.
    pub state: VolumeState,
    /// Unit serial number that hosts see (INQUIRY, page 80h).
    pub serial: String,
    /// NAA identifier that hosts see (INQUIRY, page 83h), hexadecimal.
    pub naa: String,
}

/// An iSCSI target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetStatus {
    /// iSCSI name.
    pub iqn: String,
    /// Where it is reached, `ADDRESS:PORT`.
    pub portals: Vec<String>,
    /// Who is logged in.
    pub sessions: Vec<SessionStatus>,
}

/// An iSCSI session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionStatus {
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// Where it comes from, `ADDRESS:PORT`.
    pub address: String,
    /// Seconds since login.
    pub age_secs: u64,
    /// When it logged in, milliseconds since 1970.
    #[serde(default)]
    pub since_unix_ms: u64,
    /// The CHAP name it has proved; null where no proof is asked for.
    #[serde(default)]
    pub chap_user: Option<String>,
    /// Headers carry a CRC32C.
    #[serde(default)]
    pub header_digest: bool,
    /// Data carry a CRC32C.
    #[serde(default)]
    pub data_digest: bool,
    /// Commands that are not answered.
    pub commands_in_flight: u32,
}

/// State of the link of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LinkState {
    /// Connecting, or waiting for the peer to connect.
    Connecting,
    /// Connected; the two boxes compare their histories.
    Handshake,
    /// Connected, records flow.
    Up,
    /// Not connected; tried again by itself.
    Down {
        /// Why.
        reason: String,
    },
    /// Connected, and the peer refuses this group; needs a person.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not tried, because the mirror is paused.
    Paused,
    /// Not tried, because the source has ended the mirror.
    Ended,
}

impl LinkState {
    /// The `kind` of the JSON form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Handshake => "handshake",
            Self::Up => "up",
            Self::Down { .. } => "down",
            Self::Refused { .. } => "refused",
            Self::Paused => "paused",
            Self::Ended => "ended",
        }
    }
}

/// The way of a group to its peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// Name of the peer.
    pub peer: Name,
    /// Identity of the peer, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub peer_id: BoxId,
    /// State.
    pub state: LinkState,
    /// The peer's address, `ADDRESS:PORT`; null before the first contact.
    pub address: Option<String>,
    /// Round trip, milliseconds; null while down.
    pub rtt_ms: Option<f64>,
    /// Sent on the wire, bytes per second.
    pub tx_bytes_per_sec: f64,
    /// Received on the wire, bytes per second.
    pub rx_bytes_per_sec: f64,
    /// Bytes on the wire per byte of payload: 0.5 means compressed to half; null before anything was sent.
    pub wire_ratio: Option<f64>,
    /// Bytes the peer takes before it acknowledges more; null while down.
    pub credit_bytes: Option<u64>,
    /// Sent and not acknowledged as durable, bytes.
    pub in_flight_bytes: u64,
    /// Seconds in the present state.
    pub state_secs: f64,
    /// Connections lost since the daemon started.
    pub reconnects: u64,
    /// What is wrong at the mirror although it may go on receiving, as it told last; on the source only, empty when
    /// nothing is.
    #[serde(default)]
    pub mirror_troubles: Vec<MirrorTrouble>,
}

/// Something wrong at the mirror of a group, as its source knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MirrorTrouble {
    /// What.
    pub kind: MirrorTroubleKind,
    /// The same in a sentence.
    pub text: String,
}

/// What can be wrong at a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MirrorTroubleKind {
    /// A home failed: what is received stays in the mirror's cache and is not applied.
    HomeDetached,
    /// A part of the mirror's journal cannot be read.
    JournalRotten,
    /// A write of the mirror's journal failed: it receives nothing.
    Fenced,
    /// The mirror's box has the group and does not run it.
    NotOpen,
}

/// The first copy of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CopyStatus {
    /// Progress from 0 to 100.
    pub percent: f64,
    /// Bytes copied or found equal.
    pub bytes_done: u64,
    /// Bytes of the group's volumes.
    pub bytes_total: u64,
    /// Speed, bytes per second.
    pub bytes_per_sec: f64,
    /// Seconds left at this speed; null while it is not known.
    pub secs_left: Option<f64>,
}

/// What flows, averaged over about 5 seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Writes of the feed (hosts, or the link on a mirror), bytes per second.
    pub write_bytes_per_sec: f64,
    /// Writes of the feed per second.
    pub write_iops: f64,
    /// Reads by hosts, bytes per second.
    pub read_bytes_per_sec: f64,
    /// Reads by hosts per second.
    pub read_iops: f64,
    /// Applied to the home, bytes per second.
    pub apply_bytes_per_sec: f64,
    /// Payload that became durable at the peer, bytes per second.
    pub drain_bytes_per_sec: f64,
    /// Median time from the last byte of a write to its answer, milliseconds; null without writes.
    pub write_latency_p50_ms: Option<f64>,
    /// 99th percentile of the same; null without writes.
    pub write_latency_p99_ms: Option<f64>,
    /// Median time from a read's command to its answer, milliseconds; null without reads.
    pub read_latency_p50_ms: Option<f64>,
    /// 99th percentile of the same; null without reads.
    pub read_latency_p99_ms: Option<f64>,
}

/// What has flowed since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Writes of the feed.
    pub writes: u64,
    /// Payload of those, bytes.
    pub write_bytes: u64,
    /// Reads by hosts.
    pub reads: u64,
    /// Payload of those, bytes.
    pub read_bytes: u64,
    /// Applied to the home, bytes.
    pub applied_bytes: u64,
    /// Payload sent to the peer, bytes.
    pub sent_bytes: u64,
    /// Sent on the wire, bytes.
    pub wire_bytes: u64,
    /// Durable writes of the journal; each holds one batch or more.
    pub batches: u64,
}

/// A paired box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerStatus {
    /// Identity, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: BoxId,
    /// Name.
    pub name: Name,
    /// SHA-256 of its pinned public key, hexadecimal.
    pub key_fingerprint: String,
    /// Where it is reached, `ADDRESS:PORT`; null where only it can reach us.
    pub address: Option<String>,
    /// Where it says it is, where a person has given another address: both are tried.
    #[serde(default)]
    pub learned_address: Option<String>,
    /// True while a connection stands.
    pub connected: bool,
    /// Version of its software; null before the first contact.
    pub version: Option<String>,
    /// When it was paired, in milliseconds since 1970.
    pub paired_unix_ms: u64,
    /// Last sign of life, in milliseconds since 1970; null before the first.
    pub last_seen_unix_ms: Option<u64>,
    /// Its clock minus ours, seconds; null while it is not known. Order never depends on it.
    pub clock_offset_secs: Option<f64>,
    /// Groups that go to it or come from it.
    pub groups: Vec<Name>,
    /// What it may have mirrored to this box.
    #[serde(default)]
    pub share: PeerShare,
    /// Groups of it that this box holds or held a mirror of.
    #[serde(default)]
    pub mirrored_groups: u32,
    /// Bytes of their volumes.
    #[serde(default)]
    pub mirrored_bytes: u64,
}

/// What a peer may have mirrored to this box. What it has stays when it may have less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerShare {
    /// It may make mirrors here, and have their volumes grow.
    pub mirrors: bool,
    /// Groups that it may have here; null for as many as the pool takes.
    #[serde(default)]
    pub groups_max: Option<u32>,
    /// Bytes that the volumes of its groups may have here; null for all that is free.
    #[serde(default)]
    pub bytes_max: Option<ByteSize>,
}

/// A box that was paired may mirror what it likes: that is what pairing is for.
impl Default for PeerShare {
    fn default() -> Self {
        Self { mirrors: true, groups_max: None, bytes_max: None }
    }
}

impl fmt::Display for PeerShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.mirrors {
            return f.write_str("no mirrors here");
        }
        match self.groups_max {
            Some(groups) => write!(f, "at most {groups} groups")?,
            None => f.write_str("any number of groups")?,
        }
        match self.bytes_max {
            Some(bytes) => write!(f, ", at most {bytes}"),
            None => f.write_str(", all free room"),
        }
    }
}
