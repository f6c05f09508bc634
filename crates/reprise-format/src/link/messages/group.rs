//! What the two boxes of a group say about it: the handshake, its data, and how far it is.

use reprise_types::{BoxId, BranchId, GroupId, HistoryHash, Point, Sector, SectorCount, Seq, VolumeId, VolumeSlot};

use super::codes::{CloseReason, CopyNeed, HelloKind, Membership, Row, Side};
use crate::link::wire::{Field, Listed, MessageError, message, pb};
use crate::superblock::{BRANCHES_MAX, GROUPS_MAX, VOLUMES_MAX};

/// 128 random bits that name one life of something (a run of a daemon, a state of a group).
pub type Nonce = [u8; 16];

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
