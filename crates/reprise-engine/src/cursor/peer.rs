//! The peer cursor of a source: sends what is durable, and the first copy.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use reprise_format::link::{self, CloseReason, CopyNeed, GroupOffer, Message, Row, Side, Trouble};
use reprise_journal::{Batch, BatchPlace, BatchSource, ReadPlan};
use reprise_link::LinkError;
use reprise_link::copy::{CopyProgress, CopyRegion};
use reprise_link::handshake::{Consequence, rule_of};
use reprise_link::lag::LagMeter;
use reprise_link::source::{SourceEvent, SourceSession};
use reprise_link::throttle::TokenBucket;
use reprise_types::{Extent, Mono, Now, Point, Role, Seq, honest};

use super::gate::Limit;
use crate::core::{Core, Open, Part, ReadName, Reader, RegionRead};
use crate::io::{Effect, HostError, IoFault, LinkInput, Notice, PeerId, Token};
use crate::meta::CopyState;
use crate::signal::Signal;

/// Bulk bytes handed to the link thread and not yet on the wire. More would only be memory: it holds some 10 ms at
/// 1 Gbit/s and is refilled as it drains.
const LINK_QUEUE_BYTES: u64 = 4 << 20;
/// While writes come all the time they are sent in bursts, at most so long after the one before, or once so many bytes
/// wait: every burst costs both boxes a turn of their threads and the mirror a durable write. A write after a pause goes at
/// once.
const BURST_MILLIS: u64 = 10;
const BURST_BYTES: u64 = 256 << 10;
/// Batches read ahead from disk when the peer is behind the RAM tail.
const PREFETCH_MAX: usize = 16;

/// Pause after a read for the peer that failed: the disk may answer later, a person will see to it rather.
const UNREADABLE_RETRY_MILLIS: u64 = 10_000;

/// A batch that is being read ahead.
#[derive(Debug)]
struct BatchRead {
    place: BatchPlace,
    read: ReadName,
}

#[derive(Debug)]
struct Ahead {
    first: Seq,
    last: Seq,
    batch: Option<Arc<Batch>>,
}

#[derive(Debug)]
struct Region {
    /// Tells it from the same region of an earlier connection: bytes read for that one are older than the view that a later
    /// one labels the region with.
    of: RegionRead,
    region: CopyRegion,
    data: Option<Vec<Bytes>>,
}

/// What is wrong at the mirror, as it told last. It holds until the mirror tells otherwise, also while it is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTrouble {
    /// What.
    pub what: Trouble,
    /// Why, in the mirror's words; may be empty.
    pub detail: String,
}

/// The cursor and its connection.
#[derive(Debug)]
pub(crate) struct Peer {
    session: Option<SourceSession>,
    /// The row on which the link stopped until a person has acted; none while it may run.
    stopped: Option<Row>,
    row: Option<Row>,
    ahead: VecDeque<Ahead>,
    regions: VecDeque<Region>,
    queued: u64,
    /// When the last burst of batches went out.
    burst_at: Mono,
    /// No connection is wanted before: what the peer needs cannot be read here.
    retry_at: Mono,
    trouble: Option<PeerTrouble>,
    /// The peer has stored our instance on this connection.
    confirmed: bool,
    open: Open<BatchRead>,
    /// Counts the regions that were read.
    regions_read: u64,
    /// Pays for the regions of a first copy.
    copy_rate: TokenBucket,
    /// What the link carries, bytes a second; 0 where that is not limited.
    link_rate: u64,
    /// Ages of the records that the peer lacks, of those that came since the group was opened.
    lag: LagMeter,
    /// The durable end when the group was opened.
    opened_at: Seq,
}

impl Peer {
    /// Of a group that was opened with this durable end.
    pub(crate) fn new(opened_at: Seq) -> Self {
        Self {
            session: None,
            stopped: None,
            row: None,
            ahead: VecDeque::new(),
            regions: VecDeque::new(),
            queued: 0,
            burst_at: Mono::default(),
            retry_at: Mono::default(),
            trouble: None,
            confirmed: false,
            open: Open::default(),
            regions_read: 0,
            copy_rate: TokenBucket::default(),
            link_rate: 0,
            lag: LagMeter::new(opened_at),
            opened_at,
        }
    }

    /// A peer is attached that has nothing; this box has everything up to `durable`.
    pub(crate) fn attached(&mut self, durable: Seq) {
        self.lag = LagMeter::new(durable);
    }

    /// There is no peer any more.
    pub(crate) fn forget(&mut self) {
        let next = Self::new(self.opened_at);
        let Self { open, regions_read, lag, .. } = std::mem::replace(self, next);
        // What is being read ends all the same.
        (self.open, self.regions_read, self.lag) = (open, regions_read, lag);
    }

    /// The connection is gone; true where there was one.
    pub(crate) fn disconnected(&mut self) -> bool {
        self.row = None;
        self.ahead.clear();
        self.regions.clear();
        self.queued = 0;
        self.session.take().is_some()
    }

    /// The source's session, for status.
    pub(crate) fn session(&self) -> Option<&SourceSession> {
        self.session.as_ref()
    }

    /// Data flows.
    pub(crate) fn is_streaming(&self) -> bool {
        self.session.as_ref().is_some_and(SourceSession::is_streaming)
    }

    /// Something came on a connection on which data flows, if it does.
    pub(crate) fn heard(&mut self, now: Mono) -> bool {
        let session = self.session.as_mut().filter(|s| s.is_streaming());
        session.map(|session| session.heard(now)).is_some()
    }

    /// Handed to the link on this connection.
    pub(crate) fn sent(&self) -> Seq {
        self.session.as_ref().filter(|s| s.is_streaming()).map_or(Seq::ZERO, SourceSession::sent)
    }

    /// The row of the handshake on this connection.
    pub(crate) fn row(&self) -> Option<Row> {
        self.row
    }

    /// The row on which the link stopped until a person has acted.
    pub(crate) fn stopped(&self) -> Option<Row> {
        self.stopped
    }

    /// The link stops until a person has acted.
    pub(crate) fn stop(&mut self, row: Row) {
        self.stopped = Some(row);
    }

    /// A person has acted.
    pub(crate) fn resume(&mut self) {
        self.stopped = None;
    }

    /// What the peer needs could not be read a moment ago.
    pub(crate) fn waits(&self, now: Mono) -> bool {
        now < self.retry_at
    }

    /// What is wrong at the mirror, as far as it has told.
    pub(crate) fn trouble(&self) -> Option<&PeerTrouble> {
        self.trouble.as_ref()
    }

    /// How far a first copy on this connection is.
    pub(crate) fn copy_progress(&self) -> Option<CopyProgress> {
        self.session.as_ref().and_then(SourceSession::copy_progress)
    }

    /// Limits the first copy to so many bytes of volumes a second, and says what the link is limited to; 0 for no limit.
    /// Counts from `now` on.
    pub(crate) fn set_rates(&mut self, now: Mono, copy: u64, link: u64) {
        self.copy_rate.set_rate(now, copy);
        self.link_rate = link;
    }

    /// Age of the oldest write that the peer lacks, in milliseconds, whatever the link does; 0 where it lacks none. What
    /// was there before this box started is as old as the wall clock says.
    pub(crate) fn lag_millis(&self, core: &Core, now: Now) -> u64 {
        let peer = core.meta.peer().filter(|_| core.meta.role() == Role::Source);
        let Some(proven) = peer.and_then(|p| p.durable) else { return 0 };
        if proven.seq >= core.journal.durable().seq {
            return 0;
        }
        let before = core.journal.wall_of(proven.seq.next()).filter(|_| proven.seq < self.opened_at);
        let since_before = before.map_or(0, |wall| now.wall.get().saturating_sub(wall.get()) / 1000);
        since_before.max(self.lag.lag_ms(now.mono))
    }

    /// What is behind it the journal keeps: the peer lacks it, or it is being read.
    pub(crate) fn needs_after(&self, core: &Core) -> Option<Seq> {
        let peer = core.meta.peer();
        // A handshake under way may end with a first copy from the end that the offer named: what follows it stays.
        let offered = self.session.as_ref().is_some_and(|s| !s.is_streaming());
        let offered = honest!(offered, TrimDuringOffer => false);
        if offered && peer.is_some_and(|p| p.durable.is_none()) {
            return Some(core.journal.trimmed().seq);
        }
        let lacks = peer.filter(|_| core.meta.role() == Role::Source).and_then(|p| p.durable);
        // Even where the peer has it.
        let read = self.ahead.front().map(|a| Seq::from_raw(a.first.get() - 1));
        lacks.map(|p| p.seq).into_iter().chain(read).min()
    }

    /// Everything up to `durable` survives a power cut here.
    pub(crate) fn durable(&mut self, now: Mono, durable: Point) {
        self.send_to(durable);
        self.lag.note(now, durable.seq);
    }

    /// The peer may get everything up to here.
    pub(crate) fn send_to(&mut self, end: Point) {
        if let Some(session) = &mut self.session {
            session.set_durable(end);
        }
    }

    /// From the connection that this box has dialled. `wanted` says whether there should be one.
    pub(crate) fn input(&mut self, core: &mut Core, wanted: bool, input: LinkInput) {
        match input {
            LinkInput::Connected { .. } => {
                self.disconnected();
                if let Some(offer) = offer(core).filter(|_| wanted) {
                    self.session = Some(SourceSession::new(core.now.mono, offer));
                } else {
                    core.fx.push(Effect::LinkClose(PeerId::FIRST, CloseReason::NotReady));
                }
            }
            LinkInput::Disconnected => {
                if self.disconnected() {
                    core.fx.notice(Notice::LinkDown);
                }
            }
            LinkInput::Sent(bytes) => self.queued = self.queued.saturating_sub(bytes),
            LinkInput::Batch(batch, _) => self.message(core, batch.into()),
            LinkInput::Message(message, _) => self.message(core, message),
        }
    }

    fn message(&mut self, core: &mut Core, message: Message) {
        let Some(session) = &mut self.session else { return };
        match session.handle(core.now.mono, message, &|seq| core.journal.hash_at(seq)) {
            Ok(Some(event)) => self.event(core, event),
            Ok(None) => {}
            Err(error) => self.fault(core, &error),
        }
    }

    fn fault(&mut self, core: &mut Core, error: &LinkError) {
        if let LinkError::Closed { trouble: Some(what), detail, .. } = error {
            self.trouble = Some(PeerTrouble { what: *what, detail: detail.clone() });
        }
        if matches!(error, LinkError::Diverged { .. }) {
            self.stopped = Some(Row::Diverged);
            core.fx.notice(Notice::LinkStopped(Row::Diverged));
        } else if !matches!(error, LinkError::Silent { .. } | LinkError::Unheard { .. } | LinkError::Closed { .. }) {
            core.fx.notice(Notice::LinkFault(error.to_string()));
        }
        self.flush_control(core);
        core.tell(Signal::CloseLink(error.close_reason().unwrap_or(CloseReason::ProtocolViolation)));
    }

    fn event(&mut self, core: &mut Core, event: SourceEvent) {
        if core.meta.peer().is_none() {
            return;
        }
        match event {
            SourceEvent::Verdict { verdict, instance_seen } => {
                self.row = Some(verdict.row);
                match (rule_of(verdict.row).consequence, verdict.start) {
                    (Consequence::Stream, Some(start)) => {
                        core.meta.note_peer(|meta| {
                            meta.seen = Some(instance_seen);
                            meta.durable = Some(start);
                            if matches!(verdict.row, Row::StartCopy | Row::RestartCopy) {
                                meta.copy = Some(CopyState::default());
                            }
                            honest!((), InstanceConfirmedEarly => {
                                meta.instance = reprise_link::instance::on_confirmed(meta.instance);
                            });
                        });
                        self.lag.acked(start.seq);
                        self.confirmed = false;
                        core.hold_link();
                        core.fx.notice(Notice::LinkUp(verdict.row));
                        core.tell(Signal::Met(start.seq));
                    }
                    _ => {
                        self.stopped = Some(verdict.row);
                        core.fx.notice(Notice::LinkStopped(verdict.row));
                        self.flush_control(core);
                        core.tell(Signal::CloseLink(CloseReason::Verdict));
                    }
                }
            }
            SourceEvent::Acked { durable, .. } => {
                core.meta.note_peer(|meta| meta.durable = Some(durable));
                self.lag.acked(durable.seq);
                let trouble = self.session.as_ref().and_then(SourceSession::trouble);
                if trouble != self.trouble.as_ref().map(|t| t.what) {
                    self.trouble = trouble.map(|what| PeerTrouble { what, detail: String::new() });
                }
                // The mirror acknowledges only after it has stored the instance that this box showed.
                if !std::mem::replace(&mut self.confirmed, true) {
                    let confirmed = reprise_link::instance::on_confirmed;
                    core.meta.note_peer(|meta| meta.instance = confirmed(meta.instance));
                    core.meta.keep();
                }
                self.copy_settled(core);
            }
            SourceEvent::CopyAcked { cursor, .. } => {
                core.meta.note_peer(|meta| {
                    if let Some(copy) = &mut meta.copy {
                        copy.cursor = Some(cursor);
                    }
                });
                self.copy_settled(core);
            }
            SourceEvent::Credit => honest!((), TrimOnStatus => {
                let sent = self.sent();
                if let Some(hash) = core.journal.hash_at(sent) {
                    let held = |d| Point { seq: sent, hash, ..d };
                    core.meta.note_peer(|meta| meta.durable = meta.durable.map(held));
                }
            }),
        }
    }

    fn copy_settled(&mut self, core: &mut Core) {
        let complete = self.session.as_ref().is_some_and(SourceSession::copy_complete);
        if complete && core.meta.note_peer(|meta| meta.copy.take()).flatten().is_some() {
            core.meta.keep();
            core.fx.notice(Notice::CopyComplete);
        }
    }

    pub(crate) fn tick(&mut self, core: &mut Core) {
        let now = core.now.mono;
        if let Some(session) = &mut self.session
            && now >= session.deadline()
            && let Err(error) = session.tick(now)
        {
            self.fault(core, &error);
        }
    }

    /// Control messages go out whatever waits in bulk.
    fn flush_control(&mut self, core: &mut Core) {
        let Some(session) = self.session.as_mut().filter(|_| !core.link_held()) else { return };
        while let Some(message) = session.poll_message() {
            core.fx.send(PeerId::FIRST, message, Vec::new());
        }
    }

    /// Hands the link what there is for the peer and what it takes, where nothing holds the peer.
    pub(crate) fn pump(&mut self, core: &mut Core, limit: Option<Limit>) {
        self.flush_control(core);
        let open = limit.is_some_and(|limit| limit.why.is_none());
        let collecting = self.collects_burst(core);
        while open && self.queued < LINK_QUEUE_BYTES {
            if !self.send_region(core) && (collecting || !self.send_batch(core)) {
                break;
            }
        }
        self.read_regions(core);
        let session = self.session.as_mut().filter(|_| open);
        if let Some(done) = session.and_then(SourceSession::poll_copy_done) {
            core.fx.send(PeerId::FIRST, Message::CopyDone(done), Vec::new());
        }
    }

    /// True while little waits and the last burst went out a moment ago.
    fn collects_burst(&self, core: &Core) -> bool {
        let next = self.session.as_ref().and_then(SourceSession::next_wanted);
        let recent = core.now.mono.millis_since(self.burst_at) < BURST_MILLIS;
        recent && next.is_some_and(|n| core.journal.durable_bytes_after(Seq::from_raw(n.get() - 1)) < BURST_BYTES)
    }

    fn send_batch(&mut self, core: &mut Core) -> bool {
        let Some(first) = self.session.as_ref().and_then(SourceSession::next_wanted) else { return false };
        let before = Seq::from_raw(first.get() - 1);
        if self.ahead.front().is_some_and(|a| a.first != first) {
            self.ahead.clear();
        }
        let batch = match self.ahead.front() {
            Some(ahead) => ahead.batch.clone(),
            None => match core.journal.batch_after(before) {
                Some(BatchSource::Ram(batch)) => Some(batch),
                Some(BatchSource::Disk(_)) => None,
                // A batch that straddles cannot be: the peer's position is always the end of one.
                None => return false,
            },
        };
        let Some(batch) = batch else {
            self.read_ahead(core, before);
            return false;
        };
        let Some(session) = &mut self.session else { return false };
        let bytes = batch.body_len() as u64;
        if !session.batch_fits(bytes) {
            return false;
        }
        session.batch_sent(batch.first_seq(), batch.last_seq(), bytes);
        self.ahead.pop_front();
        self.queued += bytes;
        self.burst_at = core.now.mono;
        core.stats.bytes_sent += bytes;
        let message = Message::Batch(link::Batch { first: batch.first_seq(), last: batch.last_seq() });
        core.fx.send(PeerId::FIRST, message, batch.body().collect());
        if !self.ahead.is_empty() {
            self.read_ahead(core, batch.last_seq());
        }
        true
    }

    /// Keeps some batches on their way from disk.
    fn read_ahead(&mut self, core: &mut Core, after: Seq) {
        let mut at = self.ahead.back().map_or(after, |a| a.last);
        while self.ahead.len() < PREFETCH_MAX
            && let Some(source) = core.journal.batch_after(at)
        {
            match source {
                BatchSource::Ram(batch) => {
                    at = batch.last_seq();
                    let (first, last) = (batch.first_seq(), batch.last_seq());
                    self.ahead.push_back(Ahead { first, last, batch: Some(batch) });
                }
                BatchSource::Disk(place) => {
                    at = place.last_seq;
                    let read = core.read_opened();
                    let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
                    let token = core.fx.ask(Part::Peer(PeerId::FIRST), make);
                    self.open.insert(token, BatchRead { place, read });
                    self.ahead.push_back(Ahead { first: place.first_seq, last: place.last_seq, batch: None });
                }
            }
        }
    }

    fn read_regions(&mut self, core: &mut Core) {
        // Regions are cut so that batches do not wait long behind one.
        let (copy, link) = (self.copy_rate.rate(), self.link_rate);
        let slowest = [copy, link].into_iter().filter(|r| *r != 0).min();
        if let (Some(rate), Some(session)) = (slowest, &mut self.session) {
            session.set_link_rate(rate);
        }
        while self.copy_rate.is_ready(core.now.mono)
            && let Some(region) = self.session.as_mut().and_then(SourceSession::next_region)
        {
            self.copy_rate.charge(core.now.mono, region.sectors.bytes().get());
            self.regions_read += 1;
            let of = RegionRead { number: self.regions_read, volume: region.slot, sector: region.sector };
            self.regions.push_back(Region { of, region, data: None });
            let extent = Extent { volume: region.slot, sector: region.sector, sectors: region.sectors };
            if let Some(done) = core.read(Reader::Copy(of), plan_copy(core, extent), extent) {
                self.region_read(core, of, done.data);
            }
        }
    }

    fn send_region(&mut self, core: &mut Core) -> bool {
        let Some(data) = self.regions.front_mut().and_then(|r| r.data.take()) else { return false };
        let Some(Region { region, .. }) = self.regions.pop_front() else { return false };
        let zero = data.iter().all(|piece| is_zero(piece));
        let bytes = if zero { 0 } else { region.sectors.bytes().get() };
        let Some(session) = &mut self.session else { return false };
        session.region_sent(&region, bytes);
        self.queued += bytes;
        core.stats.bytes_sent += bytes;
        let payload = if zero { Vec::new() } else { data };
        core.fx.send(PeerId::FIRST, Message::CopyExtent(region.extent(zero)), payload);
        true
    }

    /// A batch was read ahead, or could not be.
    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        let Some(BatchRead { place, read }) = self.open.take(token) else { return };
        let first = place.first_seq;
        core.read_closed(read);
        let Some(ahead) = self.ahead.iter_mut().find(|a| a.first == first) else { return };
        match result.ok().and_then(|bytes| place.verify(bytes).ok()) {
            Some(batch) => ahead.batch = Some(Arc::new(batch)),
            _ => {
                core.read_failed(Notice::JournalUnreadable(first));
                core.tell(Signal::Unreadable(first));
                self.unreadable(core);
            }
        }
    }

    /// A region was read, or could not be.
    pub(crate) fn region_read(&mut self, core: &mut Core, of: RegionRead, data: Result<Vec<Bytes>, HostError>) {
        // The mirror cannot become whole while the source cannot be read: the link is tried again later.
        let Ok(data) = data else { return self.unreadable(core) };
        let same = |r: &&mut Region| honest!(r.of == of, OldRegionsSent => (r.of.volume, r.of.sector) == (of.volume, of.sector));
        if let Some(region) = self.regions.iter_mut().find(same) {
            region.data = Some(data);
        }
    }

    /// What the peer needs cannot be read: the line is closed, and tried again after a while.
    fn unreadable(&mut self, core: &mut Core) {
        self.retry_at = core.now.mono.plus_millis(UNREADABLE_RETRY_MILLIS);
        core.tell(Signal::CloseLink(CloseReason::NotReady));
    }
}

/// What the link's handshake begins with.
fn offer(core: &Core) -> Option<GroupOffer> {
    let meta = &core.meta;
    let peer = meta.peer()?;
    let copy = match (&peer.durable, &peer.copy) {
        (None, _) => CopyNeed::Needed,
        (Some(_), Some(_)) => CopyNeed::UnderWay,
        (Some(_), None) => CopyNeed::Complete,
    };
    Some(GroupOffer {
        group: meta.group,
        box_id: core.config.this_box,
        role: Side::from(meta.role()),
        lineage: meta.lineage(),
        durable: core.journal.durable(),
        trimmed: meta.trimmed,
        serving: true,
        ceded: None,
        copy,
        volumes: meta.link_volumes(),
        peer_proven: peer.durable,
        instance: peer.instance,
        peer_instance_seen: peer.seen,
    })
}

/// A copied region is what is durable at this moment: records behind it wait for the region, so it must not wait for
/// them, which in a full cache become durable only when the peer has got further.
fn plan_copy(core: &Core, extent: Extent) -> ReadPlan {
    let plan = core.journal.plan_read(extent);
    if honest!(plan.newest <= core.journal.durable().seq, CopyReadsNewest => true) {
        return plan;
    }
    core.journal.plan_durable(core.applied(), extent)
}

/// Compares with itself, shifted: as fast as memory.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|b| *b == 0) && bytes.get(1..).is_none_or(|rest| rest == &bytes[..rest.len()])
}
