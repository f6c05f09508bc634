//! How far a cursor may go, and why not further. [`Group::leg_limit`](crate::Group) and `peer_limit` gather the reasons.

use reprise_types::Seq;

/// Why a cursor goes no further. Each has a word of its own in status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The group is fenced.
    Fenced,
    /// What the last recovery chose is not sealed.
    Sealing,
    /// The home is detached after an error.
    Detached,
    /// A moment is held for a comparison.
    Comparison,
    /// Writes of a home that nobody waits for any more are still under way, and would land on top of later ones.
    Strays,
    /// What the journal holds of units is being read.
    Units,
    /// A batch of the journal cannot be read and is being fetched from the other box, or is lost.
    Unreadable,
    /// Regions of a first copy come before the records that follow them.
    Copy,
    /// A person has paused the link.
    Paused,
    /// The link stopped until a person has acted.
    Stopped,
    /// No link is up.
    Disconnected,
    /// The link is up, and what it began with is not stored.
    Greeting,
}

/// How far a cursor may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Up to here at most.
    pub(crate) to: Seq,
    /// And not further, because; none where nothing holds it.
    pub(crate) why: Option<Hold>,
}

impl Limit {
    /// As far as there is something durable.
    pub(crate) const NONE: Self = Self { to: Seq::MAX, why: None };

    /// Not a step.
    pub(crate) fn stop(why: Hold) -> Self {
        Self { to: Seq::ZERO, why: Some(why) }
    }

    /// What keeps a cursor from the end of what is durable, as status says it.
    pub(crate) fn held(self, at: Seq, durable: Seq) -> Option<Hold> {
        self.why.filter(|_| at < durable && self.to < durable)
    }
}
