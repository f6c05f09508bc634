//! The group: owner of journal, positions and cursors.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::link::{CloseReason, Instance};
use reprise_format::superblock::{self, SUPERBLOCK_COPY_LEN, SuperblockKind, VOLUMES_MAX};
use reprise_journal::{Grant, Journal, JournalConfig, JournalStart, JournalWrite, SegmentId, WriteToken};
use reprise_link::copy::CopyProgress;
use reprise_link::lag::LagMeter;
use reprise_link::mirror::MirrorSession;
use reprise_link::source::SourceSession;
use reprise_types::{BoxId, ByteLen, Mono, Now, Point, Positions, Role, SectorCount, Seq, VolumeSlot};

use crate::effect::{CacheFill, Effect, Event, HostError, Io, IoFault, LinkInput, Notice, Token};
use crate::feed::Feed;
use crate::home::Home;
use crate::host::Host;
use crate::meta::{GroupMeta, PeerMeta, VolumeMeta};
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

/// What the node gives a group at start.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// This box.
    pub this_box: BoxId,
    /// Journal geometry and limits.
    pub journal: JournalConfig,
    /// Window that a feeding peer may fill, in bytes.
    pub link_window: u64,
    /// Body bytes of one home round, at most: [`crate::ROUND_BYTES_MAX`] but in the simulator, which takes small ones too.
    pub round_bytes: u64,
    /// Records that a moment is put together from, at most: [`crate::MOMENT_RECORDS_MAX`] but in tests.
    pub moment_records: u64,
}

/// A command that cannot be done now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Only the source may.
    #[error("this box is the mirror of the group; run the command on its source")]
    NotSource,
    /// Only a mirror may.
    #[error("this box is the source of the group, and no mirror of it")]
    NotMirror,
    /// There is a peer already.
    #[error("the group has a mirror; remove it first")]
    HasPeer,
    /// There is none.
    #[error("the group has no mirror")]
    NoPeer,
    /// A local-only volume.
    #[error("the group holds the local-only volume {name}, which may not leave this box")]
    LocalOnly {
        /// The volume.
        name: String,
    },
    /// Too many.
    #[error("a group takes {VOLUMES_MAX} volumes")]
    TooMany,
    /// What it would have to remember does not fit.
    #[error("the group's superblock has no room for another volume; shorter paths, or another group, help")]
    NoRoom,
    /// No such volume.
    #[error("no such volume in the group")]
    NoVolume,
    /// The home has no room for the size.
    #[error("the home of the volume has no room for that size")]
    HomeTooSmall,
    /// Initiators are logged in.
    #[error("initiators are logged in to the group; log them out first")]
    InUse,
    /// Source and mirror cannot be compared now.
    #[error("source and mirror cannot be compared: {reason}")]
    NotComparable {
        /// Why.
        reason: &'static str,
    },
    /// No home is detached.
    #[error("no home of the group is detached")]
    Attached,
    /// Operations on a home are still under way.
    #[error("the disk still works on what was asked of it before")]
    Busy,
    /// Fenced.
    #[error("the group is fenced: {reason}")]
    Fenced {
        /// Why.
        reason: String,
    },
}

/// Figures for status.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupStats {
    /// Bytes written by hosts or received from the peer.
    pub bytes_in: u64,
    /// Operations of hosts that change a volume.
    pub writes: u64,
    /// Journal writes: each is durable before what is in it is acknowledged.
    pub journal_writes: u64,
    /// Bytes read by hosts.
    pub bytes_read: u64,
    /// Reads of hosts.
    pub reads: u64,
    /// Bytes that went to homes.
    pub bytes_applied: u64,
    /// Body bytes handed to the link.
    pub bytes_sent: u64,
    /// Segments held.
    pub segments: u64,
    /// Bytes of the journal that are not trimmed.
    pub held_bytes: u64,
    /// Extents in the index.
    pub index_extents: u64,
    /// Memory of the index and of the tables of the journal, bytes.
    pub index_bytes: u64,
    /// Records whose tables are in memory.
    pub records: u64,
    /// Bytes with a Seq that are not durable.
    pub undurable_bytes: u64,
    /// Reads that failed: the disk gave an error, or bytes that are not those that were written.
    pub read_errors: u64,
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
    pub(crate) config: GroupConfig,
    pub(crate) meta: GroupMeta,
    pub(crate) journal: Journal,
    pub(crate) now: Now,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    next_token: u64,
    superblock_durable: u64,
    superblock_writing: Option<u64>,
    superblock_dirty: bool,
    pub(crate) after: VecDeque<(u64, After)>,
    /// Reads under way that may touch segments, by start; segments freed later wait for them.
    pub(crate) reads_open: BTreeMap<u64, u64>,
    limbo: VecDeque<(u64, Vec<SegmentId>)>,
    pub(crate) fill: CacheFill,
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
    pub(crate) stats: GroupStats,
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
            config,
            meta,
            journal,
            now,
            effects: VecDeque::new(),
            pending: BTreeMap::new(),
            next_token: 1,
            superblock_durable: superblock_version,
            superblock_writing: None,
            superblock_dirty: false,
            after: VecDeque::new(),
            reads_open: BTreeMap::new(),
            limbo: VecDeque::new(),
            fill: CacheFill::default(),
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
            stats: GroupStats::default(),
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

    /// The superblock as it is in memory.
    pub fn meta(&self) -> &GroupMeta {
        &self.meta
    }

    /// True once the seal of the last recovery is durable: hosts may be served and the link may run.
    pub fn is_ready(&self) -> bool {
        !self.journal_held
    }

    /// True where a write of the journal or the superblock failed.
    pub fn is_fenced(&self) -> bool {
        self.meta.fenced.is_some()
    }

    /// The positions.
    pub fn positions(&self) -> Positions {
        let proven = self.meta.peer.as_ref().and_then(|p| p.durable).filter(|_| self.meta.role == Role::Source);
        let positions = Positions {
            trimmed: self.meta.trimmed.seq,
            applied: self.home.applied_durable.unwrap_or(self.meta.applied).min(self.meta.applied),
            applying: self.meta.applying,
            durable: self.journal.durable().seq,
            written: self.journal.written(),
            sent: proven.map(|p| self.peer.sent().max(p.seq)),
            peer_durable: proven.map(|p| p.seq),
        };
        positions.assert_ordered();
        positions
    }

    /// Age of the oldest write that the peer lacks, in milliseconds, whatever the link does; 0 where it lacks none. What
    /// was there before this box started is as old as the wall clock says.
    pub fn lag_millis(&self, now: Now) -> u64 {
        let peer = self.meta.peer.as_ref().filter(|_| self.meta.role == Role::Source);
        let Some(proven) = peer.and_then(|p| p.durable) else { return 0 };
        if proven.seq >= self.journal.durable().seq {
            return 0;
        }
        let before = self.journal.wall_of(proven.seq.next()).filter(|_| proven.seq < self.opened_at);
        let since_before = before.map_or(0, |wall| now.wall.get().saturating_sub(wall.get()) / 1000);
        since_before.max(self.lag.lag_ms(now.mono))
    }

    /// How far a first copy is that is not complete, whether the link is up or not; none where none is left to do.
    pub fn copy_progress(&self) -> Option<CopyProgress> {
        let (cursor, session) = match (self.meta.role, &self.meta.peer) {
            (Role::Source, Some(p)) if p.durable.is_none() || p.copy.is_some() => {
                (p.copy.and_then(|c| c.cursor), self.peer.session.as_ref().and_then(SourceSession::copy_progress))
            }
            (Role::Source, _) => return None,
            (Role::Mirror, _) => {
                (self.meta.copy?.cursor, self.feed.session.as_ref().and_then(MirrorSession::copy_progress))
            }
        };
        Some(session.unwrap_or_else(|| CopyProgress::of(&self.link_volumes(), cursor)))
    }

    /// The end of the durable history.
    pub fn durable(&self) -> Point {
        self.journal.durable()
    }

    /// Figures for status.
    pub fn stats(&self) -> GroupStats {
        GroupStats {
            segments: self.journal.segments_held() as u64,
            held_bytes: self.journal.durable_bytes_after(self.meta.trimmed.seq),
            index_extents: self.journal.index_len() as u64,
            index_bytes: self.journal.index_bytes(),
            records: self.journal.records_held() as u64,
            undurable_bytes: self.journal.undurable_bytes(),
            ..self.stats
        }
    }

    /// While hosts wait for buffers nothing durable is kept in memory: its buffers are what they wait for.
    pub fn set_memory_short(&mut self, short: bool) {
        let max = if short { ByteLen::ZERO } else { self.config.journal.ram_tail_max };
        self.journal.set_ram_tail_max(max);
    }

    /// The journal, to read from (inspect).
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What happened, and what follows from it.
    pub fn handle(&mut self, now: Now, event: Event) {
        self.take(now, event);
        self.pump();
    }

    /// What happened. What follows from it waits for [`Self::settle`], so that what a host sends at one time goes into
    /// one batch.
    pub fn take(&mut self, now: Now, event: Event) {
        self.now = now;
        match event {
            Event::Host(io, op) => {
                if self.journal.written() > POSITIONS_END {
                    self.fence(IoFault::NoPositions);
                }
                self.host_op(io, op);
            }
            Event::Done(token, result) => self.done(token, result),
            Event::Granted(grant) => self.granted(grant),
            Event::Cache(fill) => self.fill = fill,
            Event::Link(input) => self.link_input(input),
            Event::Tick => self.tick(),
        }
    }

    /// Does what follows from all events taken.
    pub fn settle(&mut self, now: Now) {
        self.now = now;
        self.pump();
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn deadline(&self) -> Mono {
        let mut at = self.now.mono.plus_millis(250);
        if self.pace_until > self.now.mono {
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

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Notice(notice));
    }

    /// A read failed. Every one is counted; a host that reads a bad place all the time fills no log.
    pub(crate) fn read_failed(&mut self, notice: Notice) {
        self.stats.read_errors += 1;
        let told = self.read_told.is_some_and(|at| self.now.mono.millis_since(at) < READ_TOLD_MILLIS);
        if !told {
            self.read_told = Some(self.now.mono);
            self.notice(notice);
        }
    }

    fn done(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let pending = self.pending.remove(&token.0).expect("an answer to an effect that was asked for");
        match (pending, result) {
            (Pending::Journal(write), Err(_)) if has(Planted::FailedWriteBelieved) => {
                let durable = self.journal.write_done(write);
                self.on_durable(durable);
            }
            (Pending::Journal(_) | Pending::Superblock(_), Err(fault)) => self.fence(fault),
            (Pending::Journal(_), _) if self.is_fenced() => {}
            (Pending::Journal(write), Ok(_)) => {
                let durable = self.journal.write_done(write);
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
        let now = self.now.mono;
        if let Some(session) = &mut self.peer.session {
            session.set_durable(durable);
        }
        self.lag.note(now, durable.seq);
        if self.meta.role == Role::Source {
            self.pace_until = now.plus_millis(self.fill.pace_millis());
        }
    }

    /// A write of journal or superblock failed: nothing more is acknowledged, ever, before a restart proves the
    /// journal.
    pub(crate) fn fence(&mut self, fault: IoFault) {
        if self.is_fenced() {
            return;
        }
        self.meta.fenced = Some(fault.to_string());
        self.verify_end(VerifyEnd::Stopped { reason: "the group is fenced" });
        self.notice(Notice::Fenced(fault));
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
            self.effects.push_back(Effect::FreeSegments(segments));
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
                let (generation, floor) = (grant.generation, self.meta.generation_floor);
                assert!(
                    generation > floor || cfg!(feature = "planted"),
                    "segment of generation {generation} granted to a group that starts behind {floor}"
                );
                self.journal.grant(grant);
                if std::mem::take(&mut self.cache_full) {
                    self.notice(Notice::CacheFree);
                }
            }
            None => {
                self.segment_refused = true;
                if self.journal.stalled() && !std::mem::replace(&mut self.cache_full, true) {
                    self.notice(Notice::CacheFull);
                }
            }
        }
    }

    fn tick(&mut self) {
        self.rot_tick();
        self.link_tick();
        // A refused grant is asked for again from time to time: other groups free segments too.
        let pacing = self.fill.pace_millis() > 0 && self.meta.role == Role::Source;
        if pacing != self.pacing {
            self.pacing = pacing;
            self.notice(Notice::Pacing(pacing));
        }
        self.segment_refused = false;
        self.want_segment();
    }

    fn want_segment(&mut self) {
        if self.journal.wants_segment() && !self.asked_segment && !self.segment_refused {
            self.asked_segment = true;
            self.effects.push_back(Effect::WantSegment);
        }
    }

    /// Re-establishes everything that follows from the state: called after each event.
    fn pump(&mut self) {
        if self.is_fenced() {
            return;
        }
        // A first copy reads what is durable, beside hosts that write.
        let copies = self.meta.peer.as_ref().is_some_and(|p| p.durable.is_none() || p.copy.is_some());
        self.journal.keep_covered(copies && self.meta.role == Role::Source);
        self.want_segment();
        let paced = self.pace_until > self.now.mono && self.meta.role == Role::Source;
        if !self.journal_held
            && !paced
            && let Some(write) = self.journal.poll_write(self.now, self.superblock_durable)
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
        self.home.fed_at = self.now.mono;
        self.stats.journal_writes += 1;
        #[cfg(feature = "planted")]
        if has(Planted::SendBeforeDurable)
            && let Some(session) = &mut self.peer.session
        {
            session.set_durable(self.journal.packed());
        }
        let token = self.token(Pending::Journal(write.token));
        self.effects.push_back(Effect::WriteCache { token, at: write.at, bufs: write.bufs });
    }

    fn write_superblock(&mut self) {
        let version = self.superblock_durable + 1;
        self.superblock_dirty = false;
        self.superblock_writing = Some(version);
        let copy = match superblock::encode(SuperblockKind::Group, version, &self.meta.to_body()) {
            Ok(copy) => copy.freeze(),
            // What is accepted is measured before, so this is the last resort: the group stops, and nothing else.
            Err(_) => {
                self.superblock_writing = None;
                return self.fence(IoFault::SuperblockFull);
            }
        };
        let token = self.token(Pending::Superblock(version));
        self.effects.push_back(Effect::WriteSuperblock { token, version, copy });
    }

    fn trim(&mut self) {
        // A handshake under way may end with a first copy from the end that the offer named: what follows it stays.
        let offered = self.peer.session.as_ref().is_some_and(|s| !s.is_streaming());
        if offered && !has(Planted::TrimDuringOffer) && self.meta.peer.as_ref().is_some_and(|p| p.durable.is_none()) {
            return;
        }
        let applied = self.home.applied_durable.unwrap_or(self.meta.applied);
        let held = self.meta.peer.as_ref().filter(|_| self.meta.role == Role::Source).and_then(|p| p.durable);
        let mut to = held.map_or(applied, |p| applied.min(p.seq));
        to = to.min(self.peer.oldest_needed());
        // A moment that is held is read from the records since home was where it is.
        to = self.verify.base().map_or(to, |base| to.min(base));
        if let Some((trimmed, freed)) = self.journal.trim(to) {
            self.meta.trimmed = trimmed;
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
            self.effects.push_back(Effect::LinkClose(reason));
            self.notice(Notice::LinkDown);
            self.verify_end(VerifyEnd::Stopped { reason: "the link broke" });
        }
        self.peer.disconnected();
        self.feed.disconnected();
    }

    pub(crate) fn source_only(&self) -> Result<(), CommandError> {
        if let Some(reason) = &self.meta.fenced {
            return Err(CommandError::Fenced { reason: reason.clone() });
        }
        if self.meta.role == Role::Source { Ok(()) } else { Err(CommandError::NotSource) }
    }

    /// Takes a volume whose home exists. Its slot is given here.
    ///
    /// # Errors
    /// Not on the source, while a mirror is attached, or past the limit.
    pub fn add_volume(&mut self, now: Now, mut volume: VolumeMeta) -> Result<VolumeSlot, CommandError> {
        self.source_only()?;
        if self.meta.peer.is_some() {
            return Err(CommandError::HasPeer);
        }
        let next = self.meta.next_slot.checked_add(1);
        let Some(next) = next.filter(|_| self.meta.volumes.len() < VOLUMES_MAX) else {
            return Err(CommandError::TooMany);
        };
        volume.slot = VolumeSlot::from_raw(self.meta.next_slot);
        let mut with = self.meta.clone();
        with.volumes.push(volume.clone());
        if !superblock_has_room(&with, SUPERBLOCK_FILL_OWN) {
            return Err(CommandError::NoRoom);
        }
        self.now = now;
        self.meta.next_slot = next;
        let slot = volume.slot;
        self.meta.volumes.push(volume);
        self.persist(After::Nothing);
        self.pump();
        Ok(slot)
    }

    /// Hosts may write a volume or not. The mirror learns of it when it is made only.
    ///
    /// # Errors
    /// Not on the source, or no such volume.
    pub fn set_read_only(&mut self, now: Now, slot: VolumeSlot, read_only: bool) -> Result<(), CommandError> {
        self.source_only()?;
        let volume = self.meta.volumes.iter_mut().find(|v| v.slot == slot).ok_or(CommandError::NoVolume)?;
        volume.read_only = read_only;
        self.now = now;
        self.persist(After::Nothing);
        self.pump();
        Ok(())
    }

    /// First step of letting a volume go: hosts get no more of it. Once `applied` has reached the position that this
    /// gives, its home holds everything and [`Self::remove_volume`] may follow.
    ///
    /// # Errors
    /// Not on the source, while a mirror is attached, or no such volume.
    pub fn retire_volume(&mut self, now: Now, slot: VolumeSlot) -> Result<Seq, CommandError> {
        self.source_only()?;
        if self.meta.peer.is_some() {
            return Err(CommandError::HasPeer);
        }
        self.meta.volume(slot).ok_or(CommandError::NoVolume)?;
        self.now = now;
        self.host.retired.push(slot);
        Ok(self.journal.written())
    }

    /// True for a volume that hosts get no more of.
    pub fn is_retired(&self, slot: VolumeSlot) -> bool {
        self.host.retired.contains(&slot)
    }

    /// Forgets a volume that was retired and is applied. Its home stays as it is.
    ///
    /// # Errors
    /// No such volume, or it was not retired.
    pub fn remove_volume(&mut self, now: Now, slot: VolumeSlot) -> Result<VolumeMeta, CommandError> {
        let at = self.meta.volumes.iter().position(|v| v.slot == slot && self.is_retired(slot));
        let at = at.ok_or(CommandError::NoVolume)?;
        self.now = now;
        let volume = self.meta.volumes.remove(at);
        self.persist(After::Nothing);
        self.pump();
        Ok(volume)
    }

    /// True when home holds everything that has a Seq, durably.
    pub fn is_applied(&self) -> bool {
        self.home.is_idle() && self.meta.applied == self.journal.written() && self.superblock_settled()
    }

    /// True when the superblock on disk is the one in memory.
    pub fn superblock_settled(&self) -> bool {
        !self.superblock_dirty && self.superblock_writing.is_none()
    }

    /// Attaches a peer that is to get a first copy.
    ///
    /// # Errors
    /// Not on the source, another peer is there, a volume is local-only, or a size is under way that the mirror's homes were
    /// not made for.
    pub fn add_peer(&mut self, now: Now, peer: BoxId, instance: Instance) -> Result<(), CommandError> {
        self.source_only()?;
        if self.meta.peer.is_some() {
            return Err(CommandError::HasPeer);
        }
        if let Some(volume) = self.meta.volumes.iter().find(|v| v.local_only) {
            return Err(CommandError::LocalOnly { name: volume.name.clone() });
        }
        if self.sizes_under_way() {
            return Err(CommandError::Busy);
        }
        self.now = now;
        self.lag = LagMeter::new(self.journal.durable().seq);
        self.meta.peer = Some(PeerMeta { peer, durable: None, copy: None, paused: false, instance, seen: None });
        self.persist(After::Nothing);
        self.pump();
        Ok(())
    }

    /// Detaches the peer: nothing waits for it any more.
    ///
    /// # Errors
    /// There is none, or this is not the source.
    pub fn remove_peer(&mut self, now: Now) -> Result<(), CommandError> {
        self.source_only()?;
        self.meta.peer.as_ref().ok_or(CommandError::NoPeer)?;
        self.now = now;
        self.link_close(CloseReason::Removed);
        self.meta.peer = None;
        self.peer = Peer::default();
        self.persist(After::Nothing);
        self.pump();
        Ok(())
    }

    /// Pauses or resumes the link of the group. The cache takes what the peer does not get.
    ///
    /// # Errors
    /// There is no peer.
    pub fn set_paused(&mut self, now: Now, paused: bool) -> Result<(), CommandError> {
        self.now = now;
        self.meta.peer.as_mut().ok_or(CommandError::NoPeer)?.paused = paused;
        if paused {
            self.link_close(CloseReason::Paused);
        }
        self.peer.stopped = None;
        self.persist(After::Nothing);
        self.pump();
        Ok(())
    }

    /// The source has ended this mirror: nothing follows any more, also after a restart. The image stays as it is. When
    /// this box took note of it first counts.
    ///
    /// # Errors
    /// This is the source.
    pub fn end_mirror(&mut self, now: Now) -> Result<(), CommandError> {
        if self.meta.role != Role::Mirror {
            return Err(CommandError::NotMirror);
        }
        self.now = now;
        if self.meta.ended.is_none() {
            self.meta.ended = Some(now.wall);
            self.link_close(CloseReason::Removed);
            self.persist(After::Nothing);
        }
        self.pump();
        Ok(())
    }

    /// Takes a detached home into use again, and tries again what could not be read: everything since `applied` is written to it anew, so that nothing a failed
    /// write or sync left behind is believed. It is detached again if that fails.
    ///
    /// # Errors
    /// None is detached, its disk is still at work, or the group is fenced.
    pub fn reattach_home(&mut self, now: Now) -> Result<(), CommandError> {
        if let Some(reason) = &self.meta.fenced {
            return Err(CommandError::Fenced { reason: reason.clone() });
        }
        self.now = now;
        if self.home.is_detached() && !self.home_may_attach() {
            return Err(CommandError::Busy);
        }
        let lost = self.rot.lost().is_some();
        self.rot.try_again();
        self.units_replay_unread();
        if !self.home.attach() && !lost {
            return Err(CommandError::Attached);
        }
        self.notice(Notice::HomeAttached);
        self.pump();
        Ok(())
    }

    /// What an earlier round still waits for must not be taken for an answer to the next one.
    pub(crate) fn home_may_attach(&self) -> bool {
        let working = self.pending.values().any(|p| matches!(p, Pending::Home(_)));
        !working && self.superblock_settled() && !self.is_fenced()
    }

    /// Segments that the group holds, also those that it has no use for yet. For the allocator when the group's thread
    /// has ended.
    pub fn segments(&self) -> Vec<SegmentId> {
        let waiting = self.limbo.iter().flat_map(|(_, s)| s).copied();
        let freeing = self.after.iter().flat_map(|(_, a)| match a {
            After::Free(segments) => segments.clone(),
            _ => Vec::new(),
        });
        self.journal.segment_ids().chain(waiting).chain(freeing).collect()
    }

    /// Gives the peer another instance of this box, at start (see reprise-link, `instance`).
    pub fn set_instance(&mut self, now: Now, instance: Instance) {
        self.now = now;
        if let Some(peer) = &mut self.meta.peer {
            peer.instance = instance;
            self.persist(After::Nothing);
            self.pump();
        }
    }

    /// Oldest record that the RAM tail or the link still needs; for tests.
    pub(crate) fn durable_seq(&self) -> Seq {
        self.journal.durable().seq
    }
}
