//! What messages say by a number.

use reprise_types::Role;

use crate::link::wire::{Field, codes};

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
