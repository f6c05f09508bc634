//! What a part says upward. It names no other part: the group knows whom it concerns.

use reprise_format::link::{CloseReason, Row};
use reprise_types::Seq;

use crate::io::IoFault;

/// What has happened in a part and concerns others.
#[derive(Debug)]
pub(crate) enum Signal {
    /// Home holds everything up to here, durably.
    Applied(Seq),
    /// A write to the home from outside of its cursor failed.
    HomeFailed(IoFault),
    /// The home is detached.
    LegDetached,
    /// The connection cannot go on.
    CloseLink(CloseReason),
    /// The other box asked, and the handshake ended in a row on which no link is tried again before a person has acted.
    LinkStopped(Row),
    /// The link to the peer is up, which holds everything up to here.
    Met(Seq),
    /// The superblock holds what units remember of everything that is durable.
    UnitsKept,
    /// The batch that holds this record cannot be read from the journal.
    Unreadable(Seq),
    /// Nobody holds these records any more, first and last: what needs them stops.
    Lost(Seq, Seq),
    /// What could not be read can be; the home was detached because of it, and waits.
    Readable { home_waits: bool },
    /// A write of the journal failed: nothing more is acknowledged.
    Fence(IoFault),
}
