//! Whom an answer, and what a part has said, concern.

use bytes::Bytes;
use reprise_format::link::CloseReason;
use reprise_types::{Role, Seq};

use crate::core::{Part, ReadDone, Reader};
use crate::feed::HostFeed;
use crate::group::Group;
use crate::io::{IoFault, Notice, Token};
use crate::signal::Signal;

/// Signals that follow from one event, at most: a handful at once is usual.
const ROUNDS_MAX: usize = 64;

impl Group {
    /// An effect is done.
    pub(super) fn done(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        match (self.core.fx.answered(token), result) {
            (None, _) => {}
            (Some(Part::Journal), result) => self.journal_written(token, result),
            (Some(Part::Superblock), Err(fault)) => self.fence(fault),
            (Some(Part::Superblock), Ok(_)) => self.superblock_written(),
            (Some(Part::Reads), result) => {
                let read = self.core.piece_read(token, result);
                self.route();
                if let Some(done) = read.and_then(|read| self.core.finish_read(read)) {
                    self.read_done(done);
                }
            }
            (Some(Part::Leg(_)), result) => self.leg.answered(&mut self.core, token, result),
            (Some(Part::Peer(_)), result) => self.peer.answered(&mut self.core, token, result),
            (Some(Part::Feed), result) => self.feed.answered(&mut self.core, token, result),
            (Some(Part::Verify), result) => self.verify.answered(&mut self.core, token, result),
            (Some(Part::Repair), result) => self.repair.answered(&mut self.core, token, result),
            (Some(Part::Units), result) => self.units.answered(&mut self.core, token, result),
        }
        self.route();
    }

    /// Gives what was read to whom has asked for it.
    pub(super) fn read_done(&mut self, done: ReadDone) {
        match done.reader {
            Reader::Host(io) => HostFeed::answer_read(&mut self.core, io, done.data),
            Reader::Compare => self.host.compare(&mut self.core, &mut self.units, done),
            Reader::Verify(of) => self.verify.read(&mut self.core, of, done.data.ok()),
            Reader::Copy(of) => {
                self.peer.region_read(&mut self.core, of, done.data);
                self.route();
            }
        }
    }

    /// Tells those whom it concerns what parts have said.
    pub(crate) fn route(&mut self) {
        let mut rounds = 0;
        while let Some(signal) = self.core.signals.pop_front() {
            rounds += 1;
            assert!(rounds <= ROUNDS_MAX, "{signal:?} after {ROUNDS_MAX} signals: parts answer each other for ever");
            match signal {
                Signal::Applied(seq) => self.feed.set_applied(seq),
                Signal::HomeFailed(fault) => self.leg.detach(&mut self.core, Notice::HomeFailed(fault)),
                // A first copy is written to the home and nowhere else: it goes on when the home is back.
                Signal::LegDetached if self.core.meta.copy().is_some() => self.link_close(CloseReason::NotReady),
                Signal::LegDetached => {}
                Signal::CloseLink(reason) => self.link_close(reason),
                Signal::LinkStopped(row) => self.peer.stop(row),
                Signal::Met(held) => self.units.say_again(&mut self.core, held),
                Signal::UnitsKept => self.feed.acknowledge(&self.core, &self.units),
                Signal::Unreadable(seq) => self.repair.found(&mut self.core, seq),
                Signal::Lost(first, last) => self.records_lost(first, last),
                Signal::Readable { home_waits } => self.records_readable(home_waits),
                Signal::Fence(fault) => self.fence(fault),
            }
        }
    }

    /// Records that nobody holds any more: what needs them stops.
    fn records_lost(&mut self, first: Seq, last: Seq) {
        if last > self.core.meta.applied {
            self.leg.detach(&mut self.core, Notice::JournalUnreadable(first));
            self.route();
        }
        if self.core.meta.role() == Role::Source && self.core.meta.peer_needs(last) {
            self.link_close(CloseReason::NotReady);
        }
    }

    /// What could not be read can be: everything that stopped for it goes on.
    fn records_readable(&mut self, home_waits: bool) {
        self.units.replay_unread(&mut self.core);
        if home_waits && self.home_may_attach() && self.leg.attach() {
            self.core.fx.notice(Notice::HomeAttached);
        }
    }
}
