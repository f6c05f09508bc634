//! What ends a connection of a group.

use reprise_format::link::{CloseReason, CopyCursor, MessageKind, Row, Trouble};
use reprise_types::{GroupId, Seq};

/// A connection cannot go on. None of these changes the state of a group by itself, except [`LinkError::Diverged`],
/// after which the group's link stays stopped until a person chose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing has come for too long.
    #[error("nothing heard for {silent_ms} ms")]
    Silent {
        /// How long.
        silent_ms: u64,
    },
    /// The peer speaks, but does not hear: its echoes stand still.
    #[error("the peer has not heard us for {unheard_ms} ms")]
    Unheard {
        /// How long.
        unheard_ms: u64,
    },
    /// A message at a time when it means nothing.
    #[error("unexpected {kind:?}")]
    Unexpected {
        /// Its kind.
        kind: MessageKind,
    },
    /// The answer is about another group.
    #[error("answer is about group {found}")]
    WrongGroup {
        /// The group named.
        found: GroupId,
    },
    /// What the peer says of its group contradicts itself, or is not the group that is known here.
    #[error("the peer's group cannot be: {what}")]
    Contradiction {
        /// What.
        what: &'static str,
    },
    /// The two ends came to different rows of the handshake table.
    #[error("handshake: this end says {ours:?}, the peer says {theirs:?}")]
    Disagree {
        /// Our row.
        ours: Row,
        /// The peer's row.
        theirs: Row,
    },
    /// The peer acknowledges what was never sent.
    #[error("acknowledged {acked}, sent is {sent}")]
    AckPastSent {
        /// Position acknowledged.
        acked: Seq,
        /// Position sent.
        sent: Seq,
    },
    /// The peer takes back an acknowledgement.
    #[error("acknowledged {acked} after {before}")]
    AckBackwards {
        /// Position acknowledged.
        acked: Seq,
        /// Position acknowledged before.
        before: Seq,
    },
    /// The positions inside an acknowledgement contradict each other.
    #[error("acknowledgement contradicts itself: received {received}, durable {durable}, applied {applied}")]
    AckOrder {
        /// Received.
        received: Seq,
        /// Durable.
        durable: Seq,
        /// Applied.
        applied: Seq,
    },
    /// The peer acknowledges a position whose h is not known here, so that it proves nothing.
    #[error("acknowledged {acked}, which this history does not hold")]
    AckUnproven {
        /// Position acknowledged.
        acked: Seq,
    },
    /// The peer's history hash differs from ours at a common position.
    #[error("histories differ at {at}")]
    Diverged {
        /// The position.
        at: Seq,
    },
    /// A batch does not follow the one before it.
    #[error("batch {first}..={last} after {received}")]
    Gap {
        /// First record of the batch.
        first: Seq,
        /// Last record of the batch.
        last: Seq,
        /// What was received before.
        received: Seq,
    },
    /// The source sent more than it was allowed.
    #[error("{sent} bytes sent, {granted} granted")]
    CreditExceeded {
        /// Bytes received in all.
        sent: u64,
        /// Bytes granted in all.
        granted: u64,
    },
    /// A copied region out of order, out of its volume, or with a payload of another size.
    #[error("copied region at slot {} sector {} does not fit", at.slot.get(), at.sector)]
    BadExtent {
        /// Where it begins.
        at: CopyCursor,
    },
    /// The copy's end or acknowledgement contradicts what was sent.
    #[error("copy is not at its end")]
    BadCopyEnd,
    /// The peer closed on purpose.
    #[error("closed by the peer: {reason:?} {detail}")]
    Closed {
        /// Why.
        reason: CloseReason,
        /// For people.
        detail: String,
        /// What is wrong there, where it tells.
        trouble: Option<Trouble>,
    },
}

impl LinkError {
    /// What to tell the peer before closing; none where it cannot hear or has closed itself.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Silent { .. } | Self::Closed { .. } => None,
            Self::Diverged { .. } => Some(CloseReason::Diverged),
            Self::Disagree { .. } => Some(CloseReason::Verdict),
            Self::Unheard { .. } => Some(CloseReason::Shutdown),
            _ => Some(CloseReason::ProtocolViolation),
        }
    }
}
