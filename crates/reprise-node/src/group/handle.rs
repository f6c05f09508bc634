//! How the rest of the box speaks with a group's thread.

use std::sync::Arc;

use reprise_engine::{
    CommandError, GroupMeta, GroupStats, Hold, Notice, PeerTrouble, VerifyPlan, VerifyReport, VolumeMeta,
};
use reprise_format::link::{Instance, Row};
use reprise_iscsi::Acl;
use reprise_journal::SegmentId;
use reprise_media::Media;
use reprise_types::{
    BoxId, GroupId, HistoryHash, Mono, Point, Positions, RecordKind, Sector, SectorCount, Seq, VolumeSlot, WallMicros,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::latency::Latencies;
use crate::net;
use crate::portal::Visit;

/// Commands that may wait for a group's thread. Each holds its caller, so more only means more callers.
pub const COMMANDS_MAX: usize = 64;

/// A volume's home, opened.
#[derive(Debug, Clone)]
pub struct HomeMedia {
    /// The volume.
    pub slot: VolumeSlot,
    /// Its file or device.
    pub media: Arc<Media>,
}

/// What a group's thread is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Serve an initiator: nothing has been read from the socket.
    Iscsi(std::net::TcpStream, Visit),
    /// Use a connection to the peer.
    Link(Box<net::Connection>),
    /// Take a volume; its slot is answered.
    AddVolume(VolumeMeta, Arc<Media>, Reply<VolumeSlot>),
    /// Let a volume go once everything of it is in its home; the home is closed when this answers.
    RemoveVolume(VolumeSlot, Reply<VolumeMeta>),
    /// The opened home of a volume, to be given more room.
    Home(VolumeSlot, Reply<Arc<Media>>),
    /// The home of a volume has the size that it has.
    HomeGrown(VolumeSlot, Reply<()>),
    /// A volume's homes have more room: it has this size from here on.
    Resize(VolumeSlot, SectorCount, Reply<()>),
    /// Hosts may write a volume or not.
    SetReadOnly(VolumeSlot, bool, Reply<()>),
    /// Attach a peer.
    AddPeer(BoxId, Instance, Reply<()>),
    /// Detach the peer.
    RemovePeer(Reply<()>),
    /// Pause or resume the link.
    SetPaused(bool, Reply<()>),
    /// The source has ended this mirror.
    EndMirror(Reply<()>),
    /// Compare source and mirror; the number of the comparison is answered.
    Verify(VerifyPlan, Reply<u64>),
    /// End the comparison that is at work.
    VerifyCancel,
    /// Take a detached home into use again.
    Reattach(Reply<()>),
    /// Limit the first copy, and say what the link is limited to; bytes a second, 0 for no limit.
    SetRates {
        /// Bytes of volumes that the first copy reads.
        copy: u64,
        /// Bytes on the link.
        link: u64,
    },
    /// Who may log in. Sessions that may not any more are ended.
    SetAcl(Acl),
    /// Records of the journal behind a position, oldest first.
    Inspect {
        /// Records after this one.
        after: Seq,
        /// At most so many.
        limit: usize,
        /// The records.
        reply: oneshot::Sender<Vec<Inspected>>,
    },
    /// Finish what is under way and stop. The journal keeps what is not applied. The segments that the group held are
    /// answered.
    Stop(oneshot::Sender<Vec<SegmentId>>),
}

/// An answer.
pub type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// A record as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Position.
    pub seq: Seq,
    /// What it is.
    pub kind: RecordKind,
    /// The volume.
    pub volume: VolumeSlot,
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub sectors: SectorCount,
    /// CRC-32C of the whole payload.
    pub crc: u32,
    /// Source wall clock of its batch, microseconds since 1970.
    pub wall_micros: u64,
    /// h after the batch, on the last record of a batch.
    pub hash: Option<HistoryHash>,
}

/// A session of an initiator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Name of the initiator.
    pub initiator: String,
    /// Where it comes from.
    pub address: String,
    /// Since when, on the boot-time clock.
    pub since: Mono,
    /// The CHAP name it has proved.
    pub chap_user: Option<String>,
    /// Headers carry a digest.
    pub header_digest: bool,
    /// Data carry a digest.
    pub data_digest: bool,
    /// Commands under way.
    pub commands: usize,
}

/// The link of a group as it is now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkView {
    /// A connection is there and data flows.
    pub streaming: bool,
    /// The peer's address.
    pub address: String,
    /// Row of the handshake, or on which the link stopped.
    pub row: Option<Row>,
    /// The node should hold a connection (source only).
    pub wanted: bool,
    /// Smoothed round trip.
    pub rtt_micros: Option<u64>,
    /// A first copy that is not complete: sectors done and all.
    pub copy: Option<(u64, u64)>,
    /// Frame bytes sent and received on this connection, and payload before compression.
    pub bytes_out: u64,
    /// See `bytes_out`.
    pub bytes_in: u64,
    /// See `bytes_out`.
    pub payload_out: u64,
    /// See `bytes_out`.
    pub payload_in: u64,
    /// Credit left in bytes, and in bytes of the receiver's journal.
    pub credit: (u64, u64),
    /// Age of the oldest acknowledged write that is not durable at the peer; 0 where there is none.
    pub lag_millis: u64,
    /// Bytes of journal that are not durable at the peer.
    pub lag_bytes: u64,
    /// What is wrong at the mirror, as it told last (source only).
    pub trouble: Option<PeerTrouble>,
}

/// A group as it is now; renewed several times a second, and before a command that changed it is answered.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its superblock.
    pub meta: Arc<GroupMeta>,
    /// Positions.
    pub positions: Positions,
    /// What keeps the home from what is durable.
    pub home_held_by: Option<Hold>,
    /// What keeps the peer from what is durable.
    pub peer_held_by: Option<Hold>,
    /// Figures.
    pub stats: GroupStats,
    /// The seal of the last recovery is durable and hosts are served.
    pub ready: bool,
    /// Why the home leg is detached, where it is.
    pub home_detached: Option<String>,
    /// On a mirror: a size that the source has given a volume and that its home here has no room for.
    pub home_too_small: Option<(VolumeSlot, SectorCount)>,
    /// Why a segment of the cache could not be prepared, the last time that was tried.
    pub segment_fault: Option<String>,
    /// Records of the journal that cannot be read here: first, last, and whether no peer holds them.
    pub rotten: Option<(Seq, Seq, bool)>,
    /// The comparison with the mirror, the one at work or the last one.
    pub verify: Option<VerifyReport>,
    /// The durable end of the history.
    pub durable: Point,
    /// Source wall clock of the batch that ends it, on a mirror; none where that is not known.
    pub image_wall: Option<WallMicros>,
    /// The link.
    pub link: LinkView,
    /// Sessions.
    pub sessions: Vec<SessionInfo>,
    /// Bytes of the buffer pool in use.
    pub buffers: u64,
    /// How long hosts waited, since the daemon started.
    pub latencies: Arc<Latencies>,
}

/// A group's thread.
#[derive(Debug)]
pub struct GroupHandle {
    /// The group.
    pub id: GroupId,
    /// Commands to its thread.
    pub commands: mpsc::Sender<Command>,
    /// What it is now.
    pub snapshot: watch::Receiver<Snapshot>,
}

/// What a group tells people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupNotice {
    /// The group.
    pub group: GroupId,
    /// What.
    pub notice: Notice,
}
