//! How far the cursors of a group may go, and what of the journal has to stay: every reason is here. When a round is worth
//! its time, where nothing holds the home, is in [`Leg::pump`](crate::cursor::Leg).

use reprise_types::{Role, Seq, honest};

use crate::core::{Part, Why};
use crate::cursor::{Hold, Limit};
use crate::group::Group;
use crate::io::{LegId, PeerId};

impl Group {
    /// How far the home may go.
    pub(crate) fn leg_limit(&self) -> Limit {
        if self.core.is_fenced() {
            return Limit::stop(Hold::Fenced);
        }
        if self.leg.is_detached() {
            return Limit::stop(Hold::Detached);
        }
        if !self.core.is_ready() {
            return Limit::stop(Hold::Sealing);
        }
        // No round goes part of the way to a moment.
        match self.core.pins.lowest() {
            Some((_, Why::Verify)) => return Limit::stop(Hold::Comparison),
            None => {}
        }
        if self.core.fx.has_strays() {
            return Limit::stop(Hold::Strays);
        }
        if self.units.is_replaying() {
            return Limit::stop(Hold::Units);
        }
        // The next round would read the rotten batch.
        if self.repair.holds_home(self.core.meta.applied) {
            return Limit::stop(Hold::Unreadable);
        }
        let copied = self.feed.apply_limit();
        let copied = honest!(copied, ApplyLimitIgnored => None);
        copied.map_or(Limit::NONE, |to| Limit { to, why: Some(Hold::Copy) })
    }

    /// How far the peer may be brought; none on a mirror, and without a peer.
    pub(crate) fn peer_limit(&self) -> Option<Limit> {
        let peer = self.core.meta.peer().filter(|_| self.core.meta.role() == Role::Source)?;
        let lost = self.repair.lost().is_some_and(|(_, last)| self.core.meta.peer_needs(last));
        let why = if self.core.is_fenced() {
            Hold::Fenced
        } else if !self.core.is_ready() {
            Hold::Sealing
        } else if peer.paused {
            Hold::Paused
        } else if self.peer.stopped().is_some() {
            Hold::Stopped
        } else if lost || self.peer.waits(self.core.now.mono) {
            Hold::Unreadable
        } else if !self.peer.is_streaming() {
            Hold::Disconnected
        } else if self.core.link_held() {
            Hold::Greeting
        } else {
            return Some(Limit::NONE);
        };
        Some(Limit::stop(why))
    }

    /// The parts that still need records of the journal, each with the position behind which it does.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (Part, Seq)> {
        let parts = [
            (Part::Leg(LegId::FIRST), self.leg.needs_after(&self.core)),
            (Part::Peer(PeerId::FIRST), self.peer.needs_after(&self.core)),
            (Part::Verify, self.verify.needs_after()),
        ];
        parts.into_iter().filter_map(|(part, after)| Some((part, after?)))
    }

    /// True where the node should hold a connection to the peer.
    pub fn wants_link(&self) -> bool {
        self.peer_limit().is_some_and(|limit| matches!(limit.why, None | Some(Hold::Disconnected | Hold::Greeting)))
    }

    /// Why the home does not follow what is durable; none where it does, or has it all.
    pub fn home_held_by(&self) -> Option<Hold> {
        self.leg_limit().held(self.core.meta.applied, self.core.journal.durable().seq)
    }

    /// Why the peer does not get what is durable; none where it does, or has it all, and without a peer.
    pub fn peer_held_by(&self) -> Option<Hold> {
        let proven = self.core.meta.peer().and_then(|p| p.durable).map_or(Seq::ZERO, |p| p.seq);
        self.peer_limit()?.held(proven, self.core.journal.durable().seq)
    }
}
