//! The group: what happened goes to the part that it concerns, and what a part says to those that have to know.

mod command;
mod status;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::link::CloseReason;
use reprise_format::superblock::{self, SUPERBLOCK_COPY_LEN, SuperblockKind};
use reprise_journal::{Grant, Journal, JournalStart, JournalWrite, SegmentId, WriteToken};
use reprise_link::lag::LagMeter;
use reprise_types::{Mono, Now, Point, Role, SectorCount, Seq, VolumeSlot};

pub use command::CommandError;

use crate::core::{Core, GroupConfig, GroupStats};
use crate::effect::{CacheFill, Effect, Event, HostError, Io, IoFault, LinkInput, Notice, Token};
use crate::feed::Feed;
use crate::home::Home;
use crate::host::Host;
use crate::meta::GroupMeta;
use crate::peer::Peer;
use crate::planted::{Planted, has};
use crate::rot::Rot;
use crate::unit::Units;
use crate::verify::{Verify, VerifyEnd};

/// Between two notices of failed reads.
const READ_TOLD_MILLIS: u64 = 1000;

/// Bytes of a superblock copy that what hosts and people of this box ask for may fill.
pub(crate) const SUPERBLOCK_FILL_OWN: usize = SUPERBLOCK_COPY_LEN / 4 * 3;
/// The same for what a peer has taken and this box is to follow: its own paths may be longer than the peer's.
pub(crate) const SUPERBLOCK_FILL_PEER: usize = SUPERBLOCK_COPY_LEN - (4 << 10);
/// No host is served past this position: what is under way still finds positions. Only a disk that lies gets here.
const POSITIONS_END: Seq = Seq::from_raw(Seq::LAST.get() - (1 << 32));

/// True where the superblock takes no more than so many bytes.
pub(crate) fn superblock_has_room(meta: &GroupMeta, bytes: usize) -> bool {
    superblock::body_fits(&meta.to_body(), bytes)
}

/// What happens once a superblock version is durable.
#[derive(Debug)]
pub(crate) enum After {
    /// The home round may write.
    StartRound,
    /// The home round is counted.
    RoundApplied(Seq),
    /// Segments may be reused.
    Free(Vec<SegmentId>),
    /// The copy cursor may be acknowledged.
    CopyCursor { life: u64, cursor: reprise_format::link::CopyCursor },
    /// The mirror's journal has its beginning.
    MirrorStarted,
    /// The peer's instance is stored: messages may go out. Names the connection.
    LinkOpen(u64),
    /// Units are known to have a state: its records may follow.
    UnitsKnown,
    /// States of units are kept: hosts are answered, the peer is told.
    UnitsKept { done: Vec<Io>, sizes: Vec<(VolumeSlot, SectorCount)> },
    /// Nothing waits for it.
    Nothing,
}

/// What an effect's answer belongs to.
#[derive(Debug)]
pub(crate) enum Pending {
    Journal(WriteToken),
    Superblock(u64),
    Host(crate::host::PieceId),
    Home(crate::home::HomeStep),
    Peer(crate::peer::PeerStep),
    Feed(crate::feed::FeedStep),
    Verify(crate::verify::VerifyStep),
    Rot(crate::rot::RotStep),
    Replay(crate::unit::ReplayStep),
}

/// A group on this box. See the crate's head.
#[derive(Debug)]
pub struct Group {
    pub(crate) core: Core,
    pub(crate) pending: BTreeMap<u64, Pending>,
    next_token: u64,
    superblock_durable: u64,
    superblock_writing: Option<u64>,
    superblock_dirty: bool,
    pub(crate) after: VecDeque<(u64, After)>,
    /// Reads under way that may touch segments, by start; segments freed later wait for them.
    pub(crate) reads_open: BTreeMap<u64, u64>,
    limbo: VecDeque<(u64, Vec<SegmentId>)>,
    asked_segment: bool,
    /// The allocator had none: asked again with the next tick.
    segment_refused: bool,
    cache_full: bool,
    pacing: bool,
    pace_until: Mono,
    /// Journal writes wait: a mirror's journal begins only when its superblock says where.
    pub(crate) journal_held: bool,
    /// Counts connections.
    pub(crate) link_life: u64,
    /// This box dialled the connection that is there, or was there last.
    link_dialled: bool,
    /// Messages wait: each end stores what instance of the other it saw before the other is told.
    pub(crate) link_held: bool,
    pub(crate) host: Host,
    pub(crate) home: Home,
    pub(crate) peer: Peer,
    pub(crate) feed: Feed,
    /// When a failed read was told last.
    read_told: Option<Mono>,
    pub(crate) verify: Verify,
    pub(crate) rot: Rot,
    pub(crate) units: Units,
    /// Ages of the records that the peer lacks, of those that came since the group was opened.
    pub(crate) lag: LagMeter,
    /// The durable end when the group was opened.
    opened_at: Seq,
}

impl Group {
    /// Opens a group after recovery. `superblock_version` is the durable one that `meta` came from, `start` what
    /// recovery found. What the journal holds of units and the superblock does not is read first, then the seal goes out;
    /// nothing is served before that is durable.
    pub fn open(
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
        let mut group = Self {
            core: Core {
                config,
                meta,
                journal,
                now,
                effects: VecDeque::new(),
                fill: CacheFill::default(),
                stats: GroupStats::default(),
            },
            pending: BTreeMap::new(),
            next_token: 1,
            superblock_durable: superblock_version,
            superblock_writing: None,
            superblock_dirty: false,
            after: VecDeque::new(),
            reads_open: BTreeMap::new(),
            limbo: VecDeque::new(),
            asked_segment: false,
            segment_refused: false,
            cache_full: false,
            pacing: false,
            pace_until: Mono::default(),
            journal_held: true,
            link_life: 0,
            link_dialled: false,
            link_held: false,
            host: Host::default(),
            home: Home::default(),
            peer: Peer::default(),
            feed: Feed::default(),
            read_told: None,
            verify: Verify::default(),
            rot: Rot::default(),
            units: Units::default(),
            lag: LagMeter::new(opened_at),
            opened_at,
        };
        group.units_replay(true);
        if has(Planted::ServedBeforeSeal) {
            group.journal_held = false;
        }
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
                self.host_op(io, op);
            }
            Event::Done(token, result) => self.done(token, result),
            Event::Granted(grant) => self.granted(grant),
            Event::Cache(fill) => self.core.fill = fill,
            Event::Link(input) => self.link_input(input),
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
        self.core.effects.pop_front()
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

    pub(crate) fn token(&mut self, pending: Pending) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        Token(token)
    }

    /// A read failed. Every one is counted; a host that reads a bad place all the time fills no log.
    pub(crate) fn read_failed(&mut self, notice: Notice) {
        self.core.stats.read_errors += 1;
        let told = self.read_told.is_some_and(|at| self.core.now.mono.millis_since(at) < READ_TOLD_MILLIS);
        if !told {
            self.read_told = Some(self.core.now.mono);
            self.core.notice(notice);
        }
    }

    fn done(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let pending = self.pending.remove(&token.0).expect("an answer to an effect that was asked for");
        match (pending, result) {
            (Pending::Journal(write), Err(_)) if has(Planted::FailedWriteBelieved) => {
                let durable = self.core.journal.write_done(write);
                self.on_durable(durable);
            }
            (Pending::Journal(_) | Pending::Superblock(_), Err(fault)) => self.fence(fault),
            (Pending::Journal(_), _) if self.is_fenced() => {}
            (Pending::Journal(write), Ok(_)) => {
                let durable = self.core.journal.write_done(write);
                self.on_durable(durable);
            }
            (Pending::Superblock(version), Ok(_)) => self.superblock_done(version),
            (Pending::Host(piece), result) => self.host_piece(piece, result),
            (Pending::Home(step), result) => self.home_step(step, result),
            (Pending::Peer(step), result) => self.peer_step(step, result),
            (Pending::Feed(step), result) => self.feed_step(step, result),
            (Pending::Verify(step), result) => self.verify_step(step, result),
            (Pending::Rot(step), result) => self.rot_step(step, result),
            (Pending::Replay(step), result) => self.replay_step(step, result),
        }
    }

    fn on_durable(&mut self, durable: Point) {
        self.host_durable(durable.seq);
        if !self.units_durable(durable.seq) {
            self.feed_durable(durable);
        }
        let now = self.core.now.mono;
        if let Some(session) = &mut self.peer.session {
            session.set_durable(durable);
        }
        self.lag.note(now, durable.seq);
        if self.core.meta.role == Role::Source {
            self.pace_until = now.plus_millis(self.core.fill.pace_millis());
        }
    }

    /// A write of journal or superblock failed: nothing more is acknowledged, ever, before a restart proves the
    /// journal.
    pub(crate) fn fence(&mut self, fault: IoFault) {
        if self.is_fenced() {
            return;
        }
        self.core.meta.fenced = Some(fault.to_string());
        self.verify_end(VerifyEnd::Stopped { reason: "the group is fenced" });
        self.core.notice(Notice::Fenced(fault));
        self.host_fail_all(HostError::Fenced);
        self.link_close(CloseReason::NotReady);
    }

    pub(crate) fn superblock_durable(&self) -> u64 {
        self.superblock_durable
    }

    /// Puts the superblock as it is now on its way; `after` happens when it is durable.
    pub(crate) fn persist(&mut self, after: After) {
        let version = self.superblock_writing.unwrap_or(self.superblock_durable) + 1;
        self.superblock_dirty = true;
        self.after.push_back((version, after));
    }

    fn superblock_done(&mut self, version: u64) {
        self.superblock_durable = version;
        self.superblock_writing = None;
        while let Some((_, after)) = self.after.pop_front_if(|(v, _)| *v <= version) {
            match after {
                After::StartRound => self.round_start(),
                After::RoundApplied(seq) => self.round_applied(seq),
                After::Free(segments) => self.retire(segments),
                After::CopyCursor { life, cursor } => self.copy_cursor_durable(life, cursor),
                After::MirrorStarted => self.journal_held = false,
                After::LinkOpen(life) if life == self.link_life => self.link_held = false,
                After::UnitsKnown => self.units_known(),
                After::UnitsKept { done, sizes } => self.units_kept(&done, &sizes),
                After::LinkOpen(_) | After::Nothing => {}
            }
        }
    }

    /// Holds messages of this connection until the superblock as it is now is durable.
    pub(crate) fn hold_link(&mut self) {
        self.link_held = !has(Planted::LinkNotHeld);
        self.persist(After::LinkOpen(self.link_life));
    }

    /// Gives segments back once no read that began before can touch them.
    fn retire(&mut self, segments: Vec<SegmentId>) {
        self.limbo.push_back((self.next_token, segments));
        self.drain_limbo();
    }

    pub(crate) fn drain_limbo(&mut self) {
        let oldest = self.reads_open.keys().next().copied();
        let oldest = oldest.filter(|_| !has(Planted::FreedUnderReads)).unwrap_or(u64::MAX);
        while let Some((_, segments)) = self.limbo.pop_front_if(|(at, _)| *at <= oldest) {
            self.core.effects.push_back(Effect::FreeSegments(segments));
        }
    }

    /// Marks a read of the cache as begun; the returned name ends it.
    pub(crate) fn read_opened(&mut self) -> u64 {
        let name = self.next_token;
        self.next_token += 1;
        self.reads_open.insert(name, name);
        name
    }

    pub(crate) fn read_closed(&mut self, name: u64) {
        self.reads_open.remove(&name);
        self.drain_limbo();
    }

    fn granted(&mut self, grant: Option<Grant>) {
        self.asked_segment = false;
        match grant {
            Some(grant) => {
                // Recovery would take what is written there for an earlier life of the group, and everything for lost.
                let (generation, floor) = (grant.generation, self.core.meta.generation_floor);
                assert!(
                    generation > floor || cfg!(feature = "planted"),
                    "segment of generation {generation} granted to a group that starts behind {floor}"
                );
                self.core.journal.grant(grant);
                if std::mem::take(&mut self.cache_full) {
                    self.core.notice(Notice::CacheFree);
                }
            }
            None => {
                self.segment_refused = true;
                if self.core.journal.stalled() && !std::mem::replace(&mut self.cache_full, true) {
                    self.core.notice(Notice::CacheFull);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.rot_tick();
        self.link_tick();
        // A refused grant is asked for again from time to time: other groups free segments too.
        let pacing = self.core.fill.pace_millis() > 0 && self.core.meta.role == Role::Source;
        if pacing != self.pacing {
            self.pacing = pacing;
            self.core.notice(Notice::Pacing(pacing));
        }
        self.segment_refused = false;
        self.want_segment();
    }

    fn want_segment(&mut self) {
        if self.core.journal.wants_segment() && !self.asked_segment && !self.segment_refused {
            self.asked_segment = true;
            self.core.effects.push_back(Effect::WantSegment);
        }
    }

    /// Re-establishes everything that follows from the state: called after each event.
    fn pump(&mut self) {
        if self.is_fenced() {
            return;
        }
        // A first copy reads what is durable, beside hosts that write.
        let copies = self.core.meta.peer.as_ref().is_some_and(|p| p.durable.is_none() || p.copy.is_some());
        self.core.journal.keep_covered(copies && self.core.meta.role == Role::Source);
        self.want_segment();
        let paced = self.pace_until > self.core.now.mono && self.core.meta.role == Role::Source;
        if !self.journal_held
            && !paced
            && let Some(write) = self.core.journal.poll_write(self.core.now, self.superblock_durable)
        {
            self.start_journal_write(write);
        }
        self.home_pump();
        self.peer_pump();
        self.feed_pump();
        self.verify_pump();
        self.rot_pump();
        self.trim();
        if self.superblock_dirty && self.superblock_writing.is_none() {
            self.write_superblock();
        }
    }

    fn start_journal_write(&mut self, write: JournalWrite) {
        self.home.fed_at = self.core.now.mono;
        self.core.stats.journal_writes += 1;
        #[cfg(feature = "planted")]
        if has(Planted::SendBeforeDurable)
            && let Some(session) = &mut self.peer.session
        {
            session.set_durable(self.core.journal.packed());
        }
        let token = self.token(Pending::Journal(write.token));
        self.core.effects.push_back(Effect::WriteCache { token, at: write.at, bufs: write.bufs });
    }

    fn write_superblock(&mut self) {
        let version = self.superblock_durable + 1;
        self.superblock_dirty = false;
        self.superblock_writing = Some(version);
        let copy = match superblock::encode(SuperblockKind::Group, version, &self.core.meta.to_body()) {
            Ok(copy) => copy.freeze(),
            // What is accepted is measured before, so this is the last resort: the group stops, and nothing else.
            Err(_) => {
                self.superblock_writing = None;
                return self.fence(IoFault::SuperblockFull);
            }
        };
        let token = self.token(Pending::Superblock(version));
        self.core.effects.push_back(Effect::WriteSuperblock { token, version, copy });
    }

    fn trim(&mut self) {
        // A handshake under way may end with a first copy from the end that the offer named: what follows it stays.
        let offered = self.peer.session.as_ref().is_some_and(|s| !s.is_streaming());
        if offered
            && !has(Planted::TrimDuringOffer)
            && self.core.meta.peer.as_ref().is_some_and(|p| p.durable.is_none())
        {
            return;
        }
        let applied = self.home.applied_durable.unwrap_or(self.core.meta.applied);
        let held = self.core.meta.peer.as_ref().filter(|_| self.core.meta.role == Role::Source).and_then(|p| p.durable);
        let mut to = held.map_or(applied, |p| applied.min(p.seq));
        to = to.min(self.peer.oldest_needed());
        // A moment that is held is read from the records since home was where it is.
        to = self.verify.base().map_or(to, |base| to.min(base));
        if let Some((trimmed, freed)) = self.core.journal.trim(to) {
            self.core.meta.trimmed = trimmed;
            if has(Planted::FreedBeforeTrimDurable) {
                self.persist(After::Nothing);
                return self.retire(freed);
            }
            self.persist(After::Free(freed));
        }
    }

    fn link_input(&mut self, input: LinkInput) {
        if matches!(input, LinkInput::Connected { .. } | LinkInput::Disconnected) {
            self.link_life += 1;
            self.link_held = false;
            self.verify_end(VerifyEnd::Stopped { reason: "the link broke" });
        }
        if let LinkInput::Connected { dialled } = input {
            // One connection at a time, whoever dialled the one before.
            self.peer.disconnected();
            self.feed.disconnected();
            self.link_dialled = dialled;
        }
        let input = self.rot_input(input).and_then(|input| self.verify_input(input));
        match (self.link_dialled, input) {
            (_, None) => {}
            (true, Some(input)) => self.peer_input(input),
            (false, Some(input)) => self.feed_input(input),
        }
    }

    fn link_tick(&mut self) {
        self.peer_tick();
        self.feed_tick();
    }

    pub(crate) fn link_close(&mut self, reason: CloseReason) {
        if self.feed.session.is_some() && reason == CloseReason::NotReady {
            self.tell_not_ready();
        }
        if self.peer.session.take().is_some() | self.feed.session.take().is_some() {
            self.core.effects.push_back(Effect::LinkClose(reason));
            self.core.notice(Notice::LinkDown);
            self.verify_end(VerifyEnd::Stopped { reason: "the link broke" });
        }
        self.peer.disconnected();
        self.feed.disconnected();
    }
}
