//! The messages themselves.

use bytes::Bytes;
use prost::Message as _;
use reprise_types::{
    BoxId, BranchId, ByteLen, GroupId, HistoryHash, Point, Role, Sector, SectorCount, Seq, VolumeId, VolumeSlot,
    WallMicros,
};

use super::Stream;
use super::wire::{Field, Listed, MessageError, codes, message, pb};
use crate::superblock::{BRANCHES_MAX, GROUPS_MAX, VOLUMES_MAX};

/// 128 random bits that name one life of something (a run of a daemon, a state of a group).
pub type Nonce = [u8; 16];

codes!(
    /// What a connection is for.
    HelloKind {
        /// Commands between boxes, presence.
        Control = 1,
        /// Data of one group.
        GroupData = 2,
        /// The pairing protocol and nothing else.
        Pairing = 3,
    }
);

codes!(
    /// How far the first copy of a group to this peer is, as the source knows it.
    CopyNeed {
        /// The mirror holds an image.
        Complete = 1,
        /// The mirror has never held an image; it may be written from the start.
        Needed = 2,
        /// A copy has begun and has not been reported complete.
        UnderWay = 3,
    }
);

codes!(
    /// What the group of an offer is to the box that was asked.
    Membership {
        /// Known, and mirrored from the box that offers.
        Known = 1,
        /// Not known here.
        Unknown = 2,
        /// Known here as a group of another pair.
        OtherPeer = 3,
    }
);

codes!(
    /// Role of a box for a group, on the wire.
    Side {
        /// Fed by hosts.
        Source = 1,
        /// Fed by the link.
        Mirror = 2,
    }
);

impl From<Role> for Side {
    fn from(role: Role) -> Self {
        match role {
            Role::Source => Self::Source,
            Role::Mirror => Self::Mirror,
        }
    }
}

codes!(
    /// Rows of the handshake table; `reprise-link` decides which one holds.
    Row {
        /// The mirror holds a prefix of the source's history and the journal holds what follows.
        Resume = 1,
        /// The mirror is empty: the first copy begins.
        StartCopy = 2,
        /// The first copy goes on where it was.
        ContinueCopy = 3,
        /// The mirror is behind what the source's journal holds.
        IntervalNeeded = 4,
        /// The mirror is ahead on the same line and the source has not served since: it can take the records back.
        PullBack = 5,
        /// The mirror holds less than it had proven before.
        WentBackwards = 6,
        /// The mirror's line contains the source's: the source has been superseded.
        SourceSuperseded = 7,
        /// The asked box is a source on an older line that the offer's line contains: it has been superseded.
        MirrorSuperseded = 8,
        /// The source has ceded the group and may not send.
        SourceCeded = 9,
        /// The histories differ.
        Diverged = 10,
        /// Both boxes are sources on the same line.
        BothSources = 11,
        /// The asked box does not know the group.
        UnknownGroup = 12,
        /// The asked box has a group of this identity with another peer.
        OtherPair = 13,
        /// One of the boxes is a copy of another: its identity has moved on elsewhere.
        ClonedIdentity = 14,
        /// The regions that the mirror has are of a line that the source has left: the first copy begins again.
        RestartCopy = 15,
    }
);

codes!(
    /// Why a connection is closed on purpose.
    CloseReason {
        /// The box stops or restarts.
        Shutdown = 1,
        /// Bytes or messages that break the protocol.
        ProtocolViolation = 2,
        /// No common protocol version.
        VersionMismatch = 3,
        /// The other end is not paired with this box.
        UnknownPeer = 4,
        /// The verdict of the handshake does not allow data; or the two ends came to different verdicts.
        Verdict = 5,
        /// Histories differ.
        Diverged = 6,
        /// A command paused the group.
        Paused = 7,
        /// The mirror was removed, or the peer.
        Removed = 8,
        /// A newer connection for the same purpose has come.
        Replaced = 9,
        /// The group cannot take data at this moment (opening, fenced).
        NotReady = 10,
        /// The other end is this box itself.
        SelfConnection = 11,
        /// A limit on connections is reached.
        Busy = 12,
    }
);

codes!(
    /// Why a command of the other box is refused.
    RefusalReason {
        /// Not enough room in the data half for the volumes.
        TooSmall = 1,
        /// A group of this name, but another identity, is there.
        NameTaken = 2,
        /// The group already has an image here; a second copy onto it is not possible in this version.
        HasImage = 3,
        /// The box has no pool.
        NoPool = 4,
        /// The group is not known.
        UnknownGroup = 5,
        /// The group belongs to another pair.
        OtherPeer = 6,
        /// Too many groups or volumes.
        TooMany = 7,
        /// The box is no mirror of this group.
        NotMirror = 8,
        /// The request makes no sense as it stands.
        Invalid = 9,
        /// The pool failed while doing it.
        Io = 10,
        /// The command is not known to this version.
        Unsupported = 11,
    }
);

codes!(
    /// Why pairing is refused.
    PairRefusal {
        /// This box shows no code.
        NotListening = 1,
        /// The code is wrong.
        WrongCode = 2,
        /// The code's time is over.
        Expired = 3,
        /// Too many wrong tries; the code is burnt.
        Burnt = 4,
        /// The two ends are one box.
        SelfPairing = 5,
        /// Already paired with this box.
        AlreadyPaired = 6,
        /// The code was used by another box.
        Used = 7,
        /// A message that is not expected at this point.
        Protocol = 8,
    }
);

message!(
    /// A branch as one lineage knows it.
    BranchLink {
        /// The branch.
        branch: BranchId,
        /// Its parent; nil for the first.
        parent: BranchId,
        /// Last Seq that is common with the parent.
        fork_seq: Seq,
        /// h at the fork.
        fork_hash: HistoryHash,
    }
);

macro_rules! listed {
    ($($name:ident: $max:expr),*) => {$(
        impl Listed for $name {
            type Raw = pb::$name;
            const ENTRIES_MAX: usize = $max;
            fn put_entry(&self) -> pb::$name {
                self.put_pb()
            }
            fn get_entry(raw: pb::$name) -> Result<Self, MessageError> {
                Self::from_pb(raw)
            }
        }
    )*};
}
listed!(BranchLink: BRANCHES_MAX, Volume: VOLUMES_MAX);

/// A pool has no more.
impl Listed for GroupId {
    type Raw = Vec<u8>;
    const ENTRIES_MAX: usize = GROUPS_MAX;
    fn put_entry(&self) -> Vec<u8> {
        self.put()
    }
    fn get_entry(raw: Vec<u8>) -> Result<Self, MessageError> {
        Field::get(raw, "BoxInfo.groups")
    }
}

message!(
    /// One row of a group's volume table.
    Volume {
        /// Identity, the same on both boxes.
        id: VolumeId,
        /// Short name inside the group.
        slot: VolumeSlot,
        /// Name for people.
        name: String,
        /// Size.
        sectors: SectorCount,
        /// LUN under the group's target, the same on both boxes.
        lun: u32,
        /// Blocks as hosts see them: code of `BlockFormat`.
        block_size: u32,
        /// Hosts may give blocks back.
        thin: bool,
        /// Hosts may not write.
        read_only: bool,
    }
);

message!(
    /// Where a copy stands: everything before it, in order of slot and sector, is durable at the mirror.
    CopyCursor {
        /// The volume.
        slot: VolumeSlot,
        /// First sector that is not known durable.
        sector: Sector,
    }
);

impl Copy for CopyCursor {}

impl PartialOrd for CopyCursor {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CopyCursor {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.slot, self.sector).cmp(&(other.slot, other.sector))
    }
}

message!(
    /// Detects copies of a box: `current` is drawn anew after the other end has acknowledged the one before it.
    Instance {
        /// The last one that the other end has confirmed; nil before the first.
        acknowledged: Nonce,
        /// The one in use.
        current: Nonce,
    }
);

impl Copy for Instance {}

message!(
    /// First message of both ends.
    Hello {
        /// Lowest protocol version spoken.
        protocol_min: u32,
        /// Highest protocol version spoken.
        protocol_max: u32,
        /// The box.
        box_id: BoxId,
        /// Its name, for people.
        box_name: String,
        /// What the connection is for.
        kind: HelloKind,
        /// Firmware version, for people.
        firmware: String,
        /// Names this run of the daemon.
        run: Nonce,
    }
);

message!(
    /// The source's view of a group; opens the handshake of a group connection.
    GroupOffer {
        /// The group.
        group: GroupId,
        /// The box that offers.
        box_id: BoxId,
        /// Its role.
        role: Side,
        /// Its line, current branch first, then parent by parent.
        lineage: Vec<BranchLink>,
        /// Durable position.
        durable: Point,
        /// The journal holds the records after this one.
        trimmed: Point,
        /// Hosts have been given data or GOOD since the journal was opened.
        serving: bool,
        /// Where it has ceded the group, if it has.
        ceded: Option<Point>,
        /// How far the first copy is.
        copy: CopyNeed,
        /// The volumes.
        volumes: Vec<Volume>,
        /// What this peer has proven durable before.
        peer_proven: Option<Point>,
        /// Its own instance for this peer.
        instance: Instance,
        /// The last instance of the peer that it accepted.
        peer_instance_seen: Option<Nonce>,
    }
);

message!(
    /// The asked box's view of the same group.
    GroupState {
        /// The group.
        group: GroupId,
        /// The box that answers.
        box_id: BoxId,
        /// What the group is to it.
        membership: Membership,
        /// Its role.
        role: Side,
        /// Its line, current branch first, then parent by parent.
        lineage: Vec<BranchLink>,
        /// Durable position; none while it holds nothing.
        durable: Option<Point>,
        /// Home holds everything up to here.
        applied: Seq,
        /// It holds an image.
        complete: bool,
        /// How far an unfinished first copy is durable here.
        copy_cursor: Option<CopyCursor>,
        /// Content of what is before that cursor reaches up to here: it is of no use to a source that this is not on the line of.
        copy_reach: Option<Point>,
        /// Where it has ceded the group, if it has.
        ceded: Option<Point>,
        /// Its own h at the offer's durable position, where it holds that position.
        hash_at_offer: Option<HistoryHash>,
        /// Its own instance for this peer.
        instance: Instance,
        /// The last instance of the peer that it accepted.
        peer_instance_seen: Option<Nonce>,
    }
);

message!(
    /// What follows from offer and state. Both ends compute it; the asked box closes where it comes to another row.
    Verdict {
        /// The row.
        row: Row,
        /// The source's own h at the state's durable position, where it holds that position.
        hash_at_state: Option<HistoryHash>,
        /// The source's own h at the state's `copy_reach`, where it holds that position.
        hash_at_reach: Option<HistoryHash>,
        /// Where the records begin that follow: the first one sent is the one after it.
        start: Option<Point>,
    }
);

message!(
    /// A batch; the payload is its body, the same bytes as in the journal.
    Batch {
        /// First record.
        first: Seq,
        /// Last record.
        last: Seq,
    }
);

message!(
    /// A region of a volume for the first copy; the payload is its content, or nothing for zeros.
    CopyExtent {
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
        /// It contains every record up to here and none after.
        view_seq: Seq,
        /// Reads as zeros; there is no payload.
        zero: bool,
        /// h at `view_seq`; earlier releases do not tell it.
        view_hash: Option<HistoryHash>,
    }
);

message!(
    /// All regions have been sent: the image is whole from R1 on.
    CopyDone {
        /// At least the highest `view_seq` of the copy.
        r1: Seq,
    }
);

message!(
    /// Copied regions are durable in the mirror's homes.
    CopyAck {
        /// How far.
        cursor: CopyCursor,
    }
);

message!(
    /// Records of a journal that do not read back as they were written.
    Rotten {
        /// First record.
        first: Seq,
        /// Last record.
        last: Seq,
        /// Neither box can read them.
        lost: bool,
    }
);

impl Copy for Rotten {}

message!(
    /// What keeps a mirror from doing all of its work, although it may go on receiving.
    Trouble {
        /// A home failed: what is received stays in the journal and is not applied.
        home_detached: bool,
        /// A part of the journal cannot be read.
        rotten: Option<Rotten>,
        /// A write of the journal or the superblock failed: nothing is received.
        fenced: bool,
        /// The box has the group and does not run it.
        not_open: bool,
    }
);

impl Copy for Trouble {}

impl Trouble {
    /// Nothing is wrong.
    pub const NONE: Self = Self { home_detached: false, rotten: None, fenced: false, not_open: false };
}

message!(
    /// Cumulative acknowledgement of a mirror.
    Ack {
        /// Received, not yet durable.
        received: Seq,
        /// Durable, with h as proof.
        durable: Point,
        /// In the home.
        applied: Seq,
        /// What is wrong at the mirror; absent where nothing is, and from a release that does not tell.
        trouble: Option<Trouble>,
    }
);

impl Copy for Ack {}

message!(
    /// What the source may have sent in all since the connection was made. Cumulative, so a repeated one changes nothing.
    Credit {
        /// Bytes of bulk payload: bounded by memory.
        bytes: u64,
        /// Bytes of batch bodies: bounded by free journal space.
        journal_bytes: u64,
    }
);

impl Copy for Credit {}

message!(
    /// Sent once a second by both ends.
    Heartbeat {
        /// Counts up.
        id: u64,
        /// The last id received; 0 before the first.
        echo: u64,
    }
);

message!(
    /// Last message of an end that closes on purpose.
    Close {
        /// Why.
        reason: CloseReason,
        /// For people.
        detail: String,
        /// What is wrong at the end that closes; absent where nothing is, and from a release that does not tell.
        trouble: Option<Trouble>,
    }
);

message!(
    /// Reserve room for a mirror of this group and take its data from now on.
    CreateMirror {
        /// The group.
        group: GroupId,
        /// Its name.
        name: String,
        /// Its volumes.
        volumes: Vec<Volume>,
    }
);

message!(
    /// The group is no longer mirrored to the asked box.
    DeleteMirror {
        /// The group.
        group: GroupId,
        /// Leave the image where it is.
        keep_image: bool,
    }
);

message!(
    /// A command on the other box paused or resumed the group; for display and alerts.
    PauseNotice {
        /// The group.
        group: GroupId,
        /// Paused or not.
        paused: bool,
    }
);

message!(
    /// Asks for [`BoxInfo`].
    BoxInfoQuery {}
);

message!(
    /// Reserve what a volume that is added or resized will need, before the record of the change gets a Seq.
    ReserveVolume {
        /// The group.
        group: GroupId,
        /// The volume as it will be.
        volume: Volume,
    }
);

message!(
    /// The other box has removed this one from its peers.
    ForgetPeer {}
);

message!(
    /// Done.
    Done {}
);

message!(
    /// About a box.
    BoxInfo {
        /// Name.
        name: String,
        /// Firmware version.
        version: String,
        /// Free bytes of the data half.
        data_free_bytes: ByteLen,
        /// Free bytes of the cache half.
        cache_free_bytes: ByteLen,
        /// Measured rate of durable writes to its cache, bytes a second; 0 while unknown.
        write_rate: ByteLen,
        /// Its wall clock.
        wall_micros: WallMicros,
        /// Where its link is dialled, `HOST:PORT`; with an unspecified address (`0.0.0.0:PORT`) at the address that its
        /// connections come from. Empty from a release that does not say.
        link_address: String,
        /// The two lists below say something; false from a release that does not tell.
        tells_groups: bool,
        /// Groups of this box that it may mirror to the one that asks. A group that is not among them has no mirror there
        /// any more: one that does not run, and of which that is not known for sure, is among them.
        mirrored: Vec<GroupId>,
        /// Groups of the one that asks of which this box holds something: a second copy onto it is refused.
        held: Vec<GroupId>,
        /// Identity of its pool: with another one the lists say nothing of what the one before held. None from a release that
        /// does not say.
        pool: Option<[u8; 16]>,
    }
);

message!(
    /// A command was refused.
    Refused {
        /// Why.
        reason: RefusalReason,
        /// For people.
        detail: String,
        /// Bytes needed, where the reason is about room.
        needed: ByteLen,
        /// Bytes there are.
        available: ByteLen,
    }
);

/// A command of one box to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    CreateMirror(CreateMirror),
    DeleteMirror(DeleteMirror),
    PauseNotice(PauseNotice),
    BoxInfo(BoxInfoQuery),
    ReserveVolume(ReserveVolume),
    ForgetPeer(ForgetPeer),
}

impl Field<Option<pb::request::Command>> for Command {
    fn put(&self) -> Option<pb::request::Command> {
        use pb::request::Command as Raw;
        Some(match self {
            Self::CreateMirror(c) => Raw::CreateMirror(c.put_pb()),
            Self::DeleteMirror(c) => Raw::DeleteMirror(c.put_pb()),
            Self::PauseNotice(c) => Raw::PauseNotice(c.put_pb()),
            Self::BoxInfo(c) => Raw::BoxInfo(c.put_pb()),
            Self::ReserveVolume(c) => Raw::ReserveVolume(c.put_pb()),
            Self::ForgetPeer(c) => Raw::ForgetPeer(c.put_pb()),
        })
    }
    fn get(raw: Option<pb::request::Command>, field: &'static str) -> Result<Self, MessageError> {
        use pb::request::Command as Raw;
        Ok(match raw.ok_or(MessageError::Missing { field })? {
            Raw::CreateMirror(c) => Self::CreateMirror(CreateMirror::from_pb(c)?),
            Raw::DeleteMirror(c) => Self::DeleteMirror(DeleteMirror::from_pb(c)?),
            Raw::PauseNotice(c) => Self::PauseNotice(PauseNotice::from_pb(c)?),
            Raw::BoxInfo(c) => Self::BoxInfo(BoxInfoQuery::from_pb(c)?),
            Raw::ReserveVolume(c) => Self::ReserveVolume(ReserveVolume::from_pb(c)?),
            Raw::ForgetPeer(c) => Self::ForgetPeer(ForgetPeer::from_pb(c)?),
        })
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outcome {
    Done(Done),
    BoxInfo(BoxInfo),
    Refused(Refused),
}

impl Field<Option<pb::response::Outcome>> for Outcome {
    fn put(&self) -> Option<pb::response::Outcome> {
        use pb::response::Outcome as Raw;
        Some(match self {
            Self::Done(o) => Raw::Done(o.put_pb()),
            Self::BoxInfo(o) => Raw::BoxInfo(o.put_pb()),
            Self::Refused(o) => Raw::Refused(o.put_pb()),
        })
    }
    fn get(raw: Option<pb::response::Outcome>, field: &'static str) -> Result<Self, MessageError> {
        use pb::response::Outcome as Raw;
        Ok(match raw.ok_or(MessageError::Missing { field })? {
            Raw::Done(o) => Self::Done(Done::from_pb(o)?),
            Raw::BoxInfo(o) => Self::BoxInfo(BoxInfo::from_pb(o)?),
            Raw::Refused(o) => Self::Refused(Refused::from_pb(o)?),
        })
    }
}

message!(
    /// A command with an id, chosen by the asking end, that its response repeats.
    Request {
        /// The id.
        id: u64,
        /// The command.
        command: Command,
    }
);

message!(
    /// The answer to a request.
    Response {
        /// Id of the request.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    }
);

message!(
    /// Pairing, first message of the dialling box.
    PairStart {
        /// The dialling box.
        box_id: BoxId,
        /// Its name.
        name: String,
        /// SPAKE2 message.
        share: [u8; 33],
    }
);

message!(
    /// Pairing, answer of the listening box.
    PairShare {
        /// The listening box.
        box_id: BoxId,
        /// Its name.
        name: String,
        /// SPAKE2 message.
        share: [u8; 33],
    }
);

message!(
    /// Pairing, key confirmation: first by the dialling box, then by the listening one, which has then prepared.
    PairConfirm {
        /// Keyed hash over what both ends know.
        mac: [u8; 32],
    }
);

message!(
    /// Pairing: the dialling box has stored the listening one.
    PairCommit {}
);

message!(
    /// Pairing: the listening box has stored the dialling one.
    PairCommitted {}
);

message!(
    /// Pairing is refused; the connection is closed after it.
    PairRefused {
        /// Why.
        reason: PairRefusal,
    }
);

message!(
    /// Asks the mirror to hold the moment `at` for a comparison. Sent before any record behind it.
    VerifyOpen {
        /// Names the comparison on this connection.
        id: u64,
        /// The moment.
        at: Point,
    }
);

message!(
    /// The mirror holds the moment; or says why it does not, or no longer.
    VerifyReady {
        /// The comparison.
        id: u64,
        /// Empty where the moment is held.
        refused: String,
    }
);

message!(
    /// Asks for the hashes of a part of a volume as of the moment.
    VerifyAsk {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
        /// Sectors per hash; the last hash may cover fewer.
        grain: SectorCount,
    }
);

message!(
    /// The hashes asked for: BLAKE3 cut to 16 bytes, one behind the other.
    VerifyHashes {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// The hashes; none where the part cannot be read.
        hashes: Bytes,
    }
);

message!(
    /// What a part of a volume holds at the moment; the payload is its content. Written to the mirror's home where no record
    /// of its journal up to the moment covers it.
    VerifyFix {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
    }
);

message!(
    /// The answer to a fix, once it is durable.
    VerifyFixed {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Sectors written to the home.
        written: SectorCount,
    }
);

message!(
    /// The comparison is over: the moment is no longer held.
    VerifyClose {
        /// The comparison.
        id: u64,
    }
);

message!(
    /// The batch with these records is unreadable at the end that asks, either one.
    BatchWanted {
        /// First record.
        first: Seq,
        /// Last record.
        last: Seq,
    }
);

message!(
    /// The answer; the payload is the body of the batch, the same bytes as at first.
    BatchAgain {
        /// First record.
        first: Seq,
        /// Last record.
        last: Seq,
        /// False where it is not there any more, or unreadable here too; there is no payload then.
        found: bool,
    }
);

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident = $code:literal on $stream:ident),* $(,)?) => {
        /// The kind of a message: its code in the frame header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum MessageKind {
            $($name = $code,)*
        }

        impl MessageKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this code.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The stream on which this kind travels.
            pub const fn stream(self) -> Stream {
                match self {
                    $(Self::$name => Stream::$stream,)*
                }
            }
        }

        /// The typed part of a message; its payload, where the kind has one, stands beside it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Message {
            $($name($name),)*
        }

        impl Message {
            /// The kind.
            pub const fn kind(&self) -> MessageKind {
                match self {
                    $(Self::$name(_) => MessageKind::$name,)*
                }
            }

            /// The meta part as it goes on the wire.
            pub fn encode_meta(&self) -> Bytes {
                Bytes::from(match self {
                    $(Self::$name(m) => m.put_pb().encode_to_vec(),)*
                })
            }

            /// The message of this kind in `meta`.
            pub fn decode_meta(kind: MessageKind, meta: &[u8]) -> Result<Self, MessageError> {
                Ok(match kind {
                    $(MessageKind::$name => Self::$name($name::from_pb(pb::$name::decode(meta)?)?),)*
                })
            }
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*
    };
}

messages!(
    Hello = 1 on Control,
    GroupOffer = 2 on Control,
    GroupState = 3 on Control,
    Verdict = 4 on Control,
    Batch = 5 on Bulk,
    CopyExtent = 6 on Bulk,
    CopyDone = 7 on Bulk,
    CopyAck = 8 on Control,
    Ack = 9 on Control,
    Credit = 10 on Control,
    Heartbeat = 11 on Control,
    Close = 12 on Control,
    Request = 13 on Control,
    Response = 14 on Control,
    PairStart = 15 on Control,
    PairShare = 16 on Control,
    PairConfirm = 17 on Control,
    PairCommit = 18 on Control,
    PairCommitted = 19 on Control,
    PairRefused = 20 on Control,
    VerifyOpen = 21 on Control,
    VerifyReady = 22 on Control,
    VerifyAsk = 23 on Control,
    VerifyHashes = 24 on Control,
    VerifyFix = 25 on Bulk,
    VerifyFixed = 26 on Control,
    VerifyClose = 27 on Control,
    BatchWanted = 28 on Control,
    BatchAgain = 29 on Bulk,
);

impl MessageKind {
    /// The code in the frame header.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// True where a payload follows the meta part.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Batch | Self::CopyExtent | Self::VerifyFix | Self::BatchAgain)
    }
}
