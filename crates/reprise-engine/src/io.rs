//! What goes into a group and what comes out of it.

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{Batch, CloseReason, Message, Row};
use reprise_journal::{Grant, SegmentId};
use reprise_types::{Extent, Sector, SectorCount, Seq, UnitState, VolumeSlot};

/// Names a host's operation; given by the front end, never interpreted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Io(pub u64);

/// Names an effect that has an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) u64);

/// One of the peers of a group: its place among them. There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u8);

impl PeerId {
    /// The first one.
    pub const FIRST: Self = Self(0);
}

/// One of the homes that each volume has: its place among them (see [`VolumeMeta::legs`](crate::VolumeMeta)). There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId(u8);

impl LegId {
    /// The first one.
    pub const FIRST: Self = Self(0);
}

/// What a host asks of a volume.
#[derive(Debug, Clone)]
pub enum HostOp {
    /// Read sectors.
    Read(Extent),
    /// Write sectors; `data` has their length.
    Write {
        /// Where.
        extent: Extent,
        /// What.
        data: Bytes,
    },
    /// Make ranges read as zero.
    Zero {
        /// The volume.
        volume: VolumeSlot,
        /// First sector and length of each.
        ranges: Vec<(Sector, SectorCount)>,
    },
    /// Write if the content is as expected, atomically.
    CompareAndWrite {
        /// Where.
        extent: Extent,
        /// Expected content.
        verify: Bytes,
        /// Next content.
        data: Bytes,
    },
    /// Replace the content by its bitwise OR with `data`, atomically.
    OrWrite {
        /// Where; at most a record.
        extent: Extent,
        /// What.
        data: Bytes,
    },
    /// Everything acknowledged before is durable when this completes.
    Flush,
    /// What the unit of a volume remembers from here on.
    Unit {
        /// The volume.
        volume: VolumeSlot,
        /// All of it.
        state: UnitState,
    },
}

/// Why a host's operation did not happen. One row each in the front end's sense table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The group is fenced after a failed journal write.
    #[error("the group is fenced")]
    Fenced,
    /// This box is not the source of the group.
    #[error("this box does not serve the group")]
    NotSource,
    /// The home or the journal cannot be read here.
    #[error("unreadable at sector {0}")]
    Unreadable(Sector),
    /// The content is not as expected, at this byte.
    #[error("miscompare at byte {0}")]
    Miscompare(u32),
    /// Not inside the volume, or no such volume.
    #[error("out of range")]
    Range,
    /// The superblock has no room for what the unit should remember.
    #[error("no room for the state of the unit")]
    NoRoom,
}

/// The answer to a host's operation.
#[derive(Debug)]
pub enum HostReply {
    /// Done, durably.
    Done,
    /// The bytes read, in pieces.
    Data(Vec<Bytes>),
}

/// What the answer to a command waits for, see [`Group::tell_when`](crate::Group::tell_when).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All that the command changed lasts.
    Kept,
    /// Hosts are served this size of a volume, or the volume is gone.
    Served(VolumeSlot, SectorCount),
    /// Home holds everything up to here, durably.
    Applied(Seq),
}

/// How the disk failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoFault {
    /// It said so.
    #[error("the disk reports error {0}")]
    Disk(i32),
    /// What the group has to remember does not fit a copy of its superblock.
    #[error("what the group has to remember does not fit its superblock")]
    SuperblockFull,
    /// The disk says that the group has used up all positions there are.
    #[error("the group has no position left for another record")]
    NoPositions,
}

/// How full the cache is, for all groups together, in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheFill {
    /// All.
    pub total: u32,
    /// Held by groups.
    pub used: u32,
    /// Kept back for records that let a full cache be left.
    pub reserve: u32,
}

impl CacheFill {
    /// Segments that may still be given to data.
    pub fn free(&self) -> u32 {
        self.total.saturating_sub(self.used).saturating_sub(self.reserve)
    }

    /// 0.0 to 1.0 of what data may use.
    pub fn fraction(&self) -> f64 {
        let usable = self.total.saturating_sub(self.reserve).max(1);
        f64::from(usable.saturating_sub(self.free())) / f64::from(usable)
    }
}

/// Hosts are paced from this fill of the cache on, so that a full cache is met at walking speed and not as a wall.
const PACE_FROM: f64 = 0.80;
/// Longest pause between two journal writes while pacing. With 1 MiB a write this is some 50 MB/s just before full.
const PACE_MAX_MILLIS: f64 = 20.0;

impl CacheFill {
    /// The pause between two journal writes at this fill: grows with the square from 80 % on, to 20 ms.
    pub fn pace_millis(&self) -> u64 {
        let depth = ((self.fraction() - PACE_FROM) / (1.0 - PACE_FROM)).clamp(0.0, 1.0);
        (PACE_MAX_MILLIS * depth * depth).round() as u64
    }
}

/// What the link of the group brings.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times per batch, never kept in numbers")]
pub enum LinkInput {
    /// A connection to the peer was made and greeted.
    Connected {
        /// This box dialled: it makes the offer. The end that was asked answers, whatever its role.
        dialled: bool,
    },
    /// A batch.
    Batch(Batch, ReceivedBody),
    /// Any other message, with its payload.
    Message(Message, Bytes),
    /// So many bytes of bulk have left the queue.
    Sent(u64),
    /// The connection is gone.
    Disconnected,
}

impl LinkInput {
    /// A message, with what its payload was received into (see [`reprise_link::mux::headroom`]).
    pub fn received(message: Message, buffer: Bytes) -> Self {
        match message {
            Message::Batch(batch) => Self::Batch(batch, ReceivedBody::in_buffer(buffer)),
            other => Self::Message(other, buffer),
        }
    }
}

/// What happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times per batch, never kept in numbers")]
pub enum Event {
    /// A host asks.
    Host(Io, HostOp),
    /// An effect is done.
    Done(Token, Result<Bytes, IoFault>),
    /// The allocator's answer to [`Effect::WantSegment`]; none while the cache is full.
    Granted(Option<Grant>),
    /// How full the cache is.
    Cache(CacheFill),
    /// From the link to a peer.
    Link(PeerId, LinkInput),
    /// Time passes.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved a few times per batch, never kept in numbers")]
pub enum Effect {
    /// Write the pieces one after the other to the cache, durably.
    WriteCache {
        /// For the answer.
        token: Token,
        /// Offset in the cache.
        at: u64,
        /// Pieces.
        bufs: Vec<Bytes>,
    },
    /// Write a version of the group's superblock to its pair of copies, durably.
    WriteSuperblock {
        /// For the answer.
        token: Token,
        /// The version: decides the pair.
        version: u64,
        /// One copy.
        copy: Bytes,
    },
    /// Read from the cache.
    ReadCache {
        /// For the answer.
        token: Token,
        /// Offset in the cache.
        at: u64,
        /// Bytes.
        len: usize,
    },
    /// Read from a home.
    ReadHome {
        /// For the answer.
        token: Token,
        /// Which home.
        leg: LegId,
        /// Where.
        extent: Extent,
    },
    /// Write to a home, not durably.
    WriteHome {
        /// For the answer.
        token: Token,
        /// Which home.
        leg: LegId,
        /// First sector.
        extent: Extent,
        /// Content.
        bufs: Vec<Bytes>,
    },
    /// Make a home read as zero, not durably.
    ZeroHome {
        /// For the answer.
        token: Token,
        /// Which home.
        leg: LegId,
        /// Where.
        extent: Extent,
    },
    /// Make everything written to the homes of these volumes durable.
    FlushHome {
        /// For the answer.
        token: Token,
        /// Which home.
        leg: LegId,
        /// Which.
        volumes: Vec<VolumeSlot>,
    },
    /// Ask the allocator for a segment.
    WantSegment,
    /// Give segments back.
    FreeSegments(Vec<SegmentId>),
    /// Answer a host.
    Reply(Io, Result<HostReply, HostError>),
    /// What was waited for has come; false where it never will, since the group is fenced.
    Kept(Io, bool),
    /// Send to a peer; batches and regions behind each other, in this order.
    LinkSend(PeerId, Message, Vec<Bytes>),
    /// Close the connection to a peer; the reason has been sent.
    LinkClose(PeerId, CloseReason),
    /// Tell people.
    Notice(Notice),
}

/// What people are told. The node turns it into events and alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The group is fenced: a write of its journal or superblock failed.
    Fenced(IoFault),
    /// A home failed; its leg is detached.
    HomeFailed(IoFault),
    /// A detached home is attached again.
    HomeAttached,
    /// Sectors of a home cannot be read: hosts get MEDIUM ERROR for them. Told once a second at most.
    HomeUnreadable(Extent, IoFault),
    /// The journal is rotten under a record, or the disk does not give it. Told once a second at most.
    JournalUnreadable(Seq),
    /// Records that could not be read from the journal were fetched from the peer and are in their place again.
    JournalRepaired(Seq, Seq),
    /// Records that cannot be read from the journal, and that no peer holds: first and last.
    JournalLost(Seq, Seq),
    /// Records that had been taken for lost can be read after all.
    JournalReadable(Seq, Seq),
    /// The cache has no segment left: hosts wait.
    CacheFull,
    /// The cache has room again.
    CacheFree,
    /// Hosts are paced since the cache is nearly full.
    Pacing(bool),
    /// The link is up and its handshake decided.
    LinkUp(Row),
    /// The link is down.
    LinkDown,
    /// The link stops for this group.
    LinkStopped(Row),
    /// The peer broke the protocol or the histories differ.
    LinkFault(String),
    /// The first copy is complete.
    CopyComplete,
}
