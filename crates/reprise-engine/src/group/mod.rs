//! The group: what happened goes to the part that it concerns, and what a part says to those that have to know.

pub(crate) mod command;
mod limits;
mod link;
mod route;
mod status;

use bytes::Bytes;
use reprise_format::link::CloseReason;
use reprise_journal::{Journal, JournalStart, JournalWrite, WriteToken};
use reprise_types::{Mono, Now, Point, Role, Seq, honest};

use crate::core::{Barrier, Core, GroupConfig, MetaStore, Open, Part};
use crate::cursor::{Leg, Peer};
use crate::feed::{HostFeed, LinkFeed, Units};
use crate::io::{Effect, Event, HostError, Io, IoFault, Notice, Token, Until};
use crate::meta::{GroupMeta, PeerMeta};
use crate::repair::Repair;
use crate::verify::{Verify, VerifyEnd};

/// No host is served past this position: what is under way still finds positions. Only a disk that lies gets here.
const POSITIONS_END: Seq = Seq::from_raw(Seq::LAST.get() - (1 << 32));

/// A group on this box. See the crate's head.
#[derive(Debug)]
pub struct Group {
    core: Core,
    /// Writes of the journal at the disk.
    writes: Open<WriteToken>,
    pacing: bool,
    pace_until: Mono,
    /// This box dialled the connection that is there, or was there last.
    link_dialled: bool,
    host: HostFeed,
    leg: Leg,
    peer: Peer,
    feed: LinkFeed,
    verify: Verify,
    repair: Repair,
    units: Units,
    waiting: Waiting,
}

/// What commands wait for that is not there yet, with the barrier of what they changed. As many as
/// there are callers that wait, which the front end bounds.
#[derive(Debug, Default)]
struct Waiting(Vec<(Io, Until, Barrier)>);

impl Group {
    /// Opens a group after recovery. `superblock_version` is the durable one that `meta` came from, `start` what
    /// recovery found. What the journal holds of units and the superblock does not is read first, then the seal goes out;
    /// nothing is served before that is durable.
    pub(crate) fn open(
        now: Now,
        config: GroupConfig,
        mut meta: GroupMeta,
        superblock_version: u64,
        start: JournalStart,
    ) -> Self {
        meta.seal = start.end();
        let opened_at = start.end().seq;
        let journal = Journal::new(config.journal, start, meta.applied);
        meta.incarnation = journal.incarnation();
        let meta = MetaStore::new(meta, superblock_version);
        let mut group = Self {
            core: Core::new(now, config, meta, journal),
            writes: Open::default(),
            pacing: false,
            pace_until: Mono::default(),
            link_dialled: false,
            host: HostFeed::default(),
            leg: Leg::default(),
            peer: Peer::new(opened_at),
            feed: LinkFeed::default(),
            verify: Verify::default(),
            repair: Repair::default(),
            units: Units::default(),
            waiting: Waiting::default(),
        };
        group.units.replay(&mut group.core);
        group.pump();
        group
    }

    /// What happened, and what follows from it.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.take(now, event);
        self.pump();
    }

    /// What happened. What follows from it waits for [`Self::settle`], so that what a host sends at one time goes into
    /// one batch.
    pub fn take(&mut self, now: Now, event: Event) {
        self.core.now = now;
        match event {
            Event::Host(io, op) => {
                if self.core.journal.written() > POSITIONS_END {
                    self.fence(IoFault::NoPositions);
                }
                self.host.op(&mut self.core, &mut self.units, io, op);
            }
            Event::Done(token, result) => self.done(token, result),
            Event::Granted(grant) => {
                let floor = self.core.meta.generation_floor;
                self.core.segments.granted(&mut self.core.fx, &mut self.core.journal, floor, grant);
            }
            Event::Cache(fill) => self.core.fill = fill,
            Event::Link(peer, input) => self.link_input(peer, input),
            Event::Tick => self.tick(),
        }
    }

    /// Does what follows from all events taken.
    pub fn settle(&mut self, now: Now) {
        self.core.now = now;
        self.pump();
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.core.fx.poll()
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn deadline(&self) -> Mono {
        let mut at = self.core.now.mono.plus_millis(250);
        if self.pace_until > self.core.now.mono {
            at = at.min(self.pace_until);
        }
        if let Some(step) = self.verify.step_at() {
            at = at.min(step);
        }
        at
    }

    fn journal_written(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(write) = self.writes.take(token) else { return };
        match result {
            Err(fault) if honest!(true, FailedWriteBelieved => false) => self.fence(fault),
            Ok(_) if self.core.is_fenced() => {}
            _ => {
                let durable = self.core.journal.write_done(write);
                self.on_durable(durable);
            }
        }
    }

    fn on_durable(&mut self, durable: Point) {
        self.host.durable(&mut self.core, durable.seq);
        self.core.reads_durable(durable.seq).into_iter().for_each(|done| self.read_done(done));
        self.units.durable(&mut self.core, durable.seq);
        self.feed.acknowledge(&self.core, &self.units);
        let now = self.core.now.mono;
        self.peer.durable(now, durable);
        if self.core.meta.role() == Role::Source {
            self.pace_until = now.plus_millis(self.core.fill.pace_millis());
        }
    }

    /// A write of journal or superblock failed: nothing more is acknowledged, ever, before a restart proves the
    /// journal.
    fn fence(&mut self, fault: IoFault) {
        if self.core.is_fenced() {
            return;
        }
        self.core.fence(fault);
        self.verify.end(&mut self.core, VerifyEnd::Stopped { reason: "the group is fenced" });
        self.core.fx.notice(Notice::Fenced(fault));
        self.host.fail_all(&mut self.core, &mut self.units, HostError::Fenced);
        self.link_close(CloseReason::NotReady);
    }

    fn superblock_written(&mut self) {
        self.core.meta.written();
        // A round that begins opens its read before segments that were trimmed are given back.
        self.leg.stored(&mut self.core);
        self.route();
        self.core.stored();
        self.feed.stored(&self.core);
        self.units.stored(&mut self.core);
    }

    fn tick(&mut self) {
        self.repair.tick(&mut self.core);
        self.link_tick();
        // A refused grant is asked for again from time to time: other groups free segments too.
        let pacing = self.core.fill.pace_millis() > 0 && self.core.meta.role() == Role::Source;
        if pacing != self.pacing {
            self.pacing = pacing;
            self.core.fx.notice(Notice::Pacing(pacing));
        }
        self.core.segments.tick();
        self.want_segment();
    }

    fn want_segment(&mut self) {
        self.core.segments.want(&mut self.core.fx, &self.core.journal);
    }

    /// Re-establishes everything that follows from the state: called after each event.
    fn pump(&mut self) {
        if !self.core.is_fenced() {
            self.pump_parts();
        }
        self.tell_kept();
        self.assert_invariants();
    }

    fn pump_parts(&mut self) {
        // A first copy reads what is durable, beside hosts that write.
        let copies = self.core.meta.peer().is_some_and(PeerMeta::is_copying);
        self.core.journal.keep_covered(copies && self.core.meta.role() == Role::Source);
        self.want_segment();
        let paced = self.pace_until > self.core.now.mono && self.core.meta.role() == Role::Source;
        if self.core.is_ready()
            && !paced
            && let Some(write) = self.core.journal.poll_write(self.core.now, self.core.meta.version())
        {
            self.start_journal_write(write);
        }
        let limit = self.leg_limit();
        self.leg.pump(&mut self.core, limit);
        self.route();
        // What the feed has to say by this time goes before what follows for it.
        self.feed.flush_control(&mut self.core);
        let limit = self.peer_limit();
        self.peer.pump(&mut self.core, limit);
        self.route();
        let standing = self.standing();
        self.feed.pump(&mut self.core, &mut self.units, standing);
        self.verify.pump(&mut self.core);
        let streams = self.streams();
        self.repair.pump(&mut self.core, streams);
        self.route();
        self.trim();
        self.write_superblock();
    }

    fn start_journal_write(&mut self, write: JournalWrite) {
        self.leg.fed(self.core.now.mono);
        self.core.stats.journal_writes += 1;
        honest!((), SendBeforeDurable => self.peer.send_to(self.core.journal.packed()));
        let JournalWrite { token: name, at, bufs, .. } = write;
        let token = self.core.fx.ask(Part::Journal, |token| Effect::WriteCache { token, at, bufs });
        self.writes.insert(token, name);
    }

    fn write_superblock(&mut self) {
        match self.core.meta.poll_write() {
            Ok(None) => {}
            Ok(Some((version, copy))) => {
                let make = |token| Effect::WriteSuperblock { token, version, copy };
                self.core.fx.ask(Part::Superblock, make);
            }
            // What is accepted is measured before, so this is the last resort: the group stops, and nothing else.
            Err(_) => self.fence(IoFault::SuperblockFull),
        }
    }

    fn trim(&mut self) {
        if let Some(to) = self.holders().map(|(_, after)| after).min() {
            self.core.trim(to);
        }
    }
}
