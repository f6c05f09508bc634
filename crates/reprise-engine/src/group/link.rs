//! The connection of a group: which part what comes on it belongs to.

use reprise_format::link::{Close, CloseReason};
use reprise_types::Role;

use crate::feed::Standing;
use crate::group::Group;
use crate::io::{Effect, LinkInput, Notice, PeerId};
use crate::verify::VerifyEnd;

impl Group {
    pub(super) fn link_input(&mut self, peer: PeerId, input: LinkInput) {
        if peer != PeerId::FIRST {
            // There is no such peer.
            return;
        }
        if matches!(input, LinkInput::Connected { .. } | LinkInput::Disconnected) {
            self.core.forget_link();
            self.repair.link_broke();
            self.verify.end(&mut self.core, VerifyEnd::LINK_BROKE);
        }
        if let LinkInput::Connected { dialled } = input {
            // One connection at a time, whoever dialled the one before.
            self.peer.disconnected();
            self.feed.disconnected(&mut self.core.fx);
            self.link_dialled = dialled;
        }
        let streams = matches!(input, LinkInput::Message(..)) && self.heard();
        let input = self.repair.input(&mut self.core, streams, input);
        self.route();
        let (streams, detached) = (self.streams(), self.leg.is_detached());
        let input = input.and_then(|input| self.verify.input(&mut self.core, streams, detached, input));
        match (self.link_dialled, input) {
            (_, None) => {}
            (true, Some(input)) => {
                let wanted = self.wants_link();
                self.peer.input(&mut self.core, wanted, input);
                self.route();
            }
            (false, Some(input)) => self.feed_input(input),
        }
    }

    pub(super) fn link_tick(&mut self) {
        self.peer.tick(&mut self.core);
        self.route();
        self.feed.tick(&mut self.core);
        self.route();
    }

    /// What has come on a connection that the other box has dialled. It feeds this box, where that can be.
    fn feed_input(&mut self, input: LinkInput) {
        if matches!(input, LinkInput::Connected { .. }) && !self.may_be_fed() {
            self.tell_not_ready();
            self.core.fx.push(Effect::LinkClose(PeerId::FIRST, CloseReason::NotReady));
            return;
        }
        let standing = self.standing();
        self.feed.input(&mut self.core, &mut self.units, standing, input);
        self.route();
    }

    fn may_be_fed(&self) -> bool {
        let copied_to = self.core.meta.copy().is_none() || !self.leg.is_detached();
        let wanted = self.core.meta.peer().is_some_and(|p| !p.paused) && self.core.meta.ended().is_none();
        self.core.is_ready() && !self.core.is_fenced() && wanted && copied_to
    }

    /// What the feed has to know of other parts.
    pub(super) fn standing(&self) -> Standing {
        Standing { trouble: self.trouble(), home_waits: self.repair.holds_home(self.core.meta.applied) }
    }

    /// Says why the group takes nothing at this moment.
    fn tell_not_ready(&mut self) {
        let (trouble, detail) = (self.trouble(), self.leg.fault().or(self.core.meta.fenced.as_deref()));
        let close = Close { reason: CloseReason::NotReady, detail: detail.unwrap_or_default().to_owned(), trouble };
        self.core.fx.send(PeerId::FIRST, close.into(), Vec::new());
    }

    pub(crate) fn link_close(&mut self, reason: CloseReason) {
        if self.feed.is_connected() && reason == CloseReason::NotReady {
            self.tell_not_ready();
        }
        if self.peer.disconnected() || self.feed.is_connected() {
            self.core.fx.push(Effect::LinkClose(PeerId::FIRST, reason));
            self.core.fx.notice(Notice::LinkDown);
            self.verify.disconnected(&mut self.core);
        }
        self.feed.disconnected(&mut self.core.fx);
    }

    /// Data flows on the connection of this group's role.
    pub(super) fn streams(&self) -> bool {
        match self.core.meta.role() {
            Role::Source => self.peer.is_streaming(),
            Role::Mirror => self.feed.is_streaming(),
        }
    }

    /// Something came on a connection on which data flows.
    fn heard(&mut self) -> bool {
        let now = self.core.now.mono;
        if self.peer.heard(now) {
            return true;
        }
        self.feed.heard(now)
    }
}
