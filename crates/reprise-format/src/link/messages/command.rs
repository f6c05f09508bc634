//! Commands of one box to the other.

use reprise_types::{ByteLen, GroupId, WallMicros};

use super::codes::RefusalReason;
use super::group::Volume;
use crate::link::wire::{Field, MessageError, message, pb};

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
