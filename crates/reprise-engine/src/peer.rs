//! The peer cursor of a source: sends what is durable, and the first copy.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use reprise_format::link::{self, CloseReason, CopyNeed, GroupOffer, Message, Row, Side, Trouble, Volume};
use reprise_journal::{Batch, BatchPlace, BatchSource, ReadPlan};
use reprise_link::LinkError;
use reprise_link::copy::CopyRegion;
use reprise_link::handshake::{Consequence, rule_of};
use reprise_link::source::{SourceEvent, SourceSession};
use reprise_link::throttle::TokenBucket;
use reprise_types::{Extent, Mono, Seq, honest};

use crate::core::{Open, Part, ReadName, Reader, RegionRead};
use crate::effect::{Effect, IoFault, LinkInput, Notice, Token};
use crate::group::Group;
use crate::meta::CopyState;

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
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) session: Option<SourceSession>,
    /// The row on which the link stopped until a person has acted; none while it may run.
    pub(crate) stopped: Option<Row>,
    row: Option<Row>,
    ahead: VecDeque<Ahead>,
    regions: VecDeque<Region>,
    queued: u64,
    /// When the last burst of batches went out.
    burst_at: Mono,
    /// No connection is wanted before: what the peer needs cannot be read here.
    pub(crate) retry_at: Mono,
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
}

impl Peer {
    /// Handed to the link on this connection.
    pub(crate) fn sent(&self) -> Seq {
        self.session.as_ref().filter(|s| s.is_streaming()).map_or(Seq::ZERO, SourceSession::sent)
    }

    /// Nothing from here on may be trimmed even where the peer has it: it is being read.
    pub(crate) fn oldest_needed(&self) -> Seq {
        self.ahead.front().map_or(Seq::MAX, |a| Seq::from_raw(a.first.get() - 1))
    }

    pub(crate) fn disconnected(&mut self) {
        self.session = None;
        self.row = None;
        self.ahead.clear();
        self.regions.clear();
        self.queued = 0;
    }

    /// There is no peer any more.
    pub(crate) fn forget(&mut self) {
        // What is being read ends all the same.
        let (open, regions_read) = (std::mem::take(&mut self.open), self.regions_read);
        *self = Self { open, regions_read, ..Self::default() };
    }
}

fn failed(error: &LinkError) -> CloseReason {
    error.close_reason().unwrap_or(CloseReason::ProtocolViolation)
}

impl Group {
    /// What the link's handshake begins with.
    fn offer(&self) -> Option<GroupOffer> {
        let peer = self.core.meta.peer()?;
        let copy = match (&peer.durable, &peer.copy) {
            (None, _) => CopyNeed::Needed,
            (Some(_), Some(_)) => CopyNeed::UnderWay,
            (Some(_), None) => CopyNeed::Complete,
        };
        Some(GroupOffer {
            group: self.core.meta.group,
            box_id: self.core.config.this_box,
            role: Side::from(self.core.meta.role()),
            lineage: self.core.meta.lineage(),
            durable: self.core.journal.durable(),
            trimmed: self.core.meta.trimmed,
            serving: true,
            ceded: None,
            copy,
            volumes: self.link_volumes(),
            peer_proven: peer.durable,
            instance: peer.instance,
            peer_instance_seen: peer.seen,
        })
    }

    /// The volumes as the link speaks of them.
    pub fn link_volumes(&self) -> Vec<Volume> {
        self.core.meta.link_volumes()
    }

    /// The row of the handshake on this connection, or on which the link stopped.
    pub fn link_row(&self) -> Option<Row> {
        self.peer.stopped.or(self.peer.row).or(self.feed.row())
    }

    /// The source's session, for status.
    pub fn source_session(&self) -> Option<&SourceSession> {
        self.peer.session.as_ref()
    }

    /// What is wrong at the mirror, as far as it has told.
    pub fn peer_trouble(&self) -> Option<&PeerTrouble> {
        self.peer.trouble.as_ref()
    }

    pub(crate) fn peer_input(&mut self, input: LinkInput) {
        match input {
            LinkInput::Connected { .. } => {
                self.peer.disconnected();
                if let Some(offer) = self.offer().filter(|_| self.wants_link()) {
                    self.peer.session = Some(SourceSession::new(self.core.now.mono, offer));
                } else {
                    self.core.fx.push(Effect::LinkClose(CloseReason::NotReady));
                }
            }
            LinkInput::Disconnected => {
                if self.peer.session.is_some() {
                    self.core.fx.notice(Notice::LinkDown);
                }
                self.peer.disconnected();
            }
            LinkInput::Sent(bytes) => self.peer.queued = self.peer.queued.saturating_sub(bytes),
            LinkInput::Batch(batch, _) => self.peer_message(batch.into()),
            LinkInput::Message(message, _) => self.peer_message(message),
        }
    }

    fn peer_message(&mut self, message: Message) {
        let Some(mut session) = self.peer.session.take() else { return };
        let journal = &self.core.journal;
        let result = session.handle(self.core.now.mono, message, &|seq| journal.hash_at(seq));
        self.peer.session = Some(session);
        match result {
            Ok(Some(event)) => self.peer_event(event),
            Ok(None) => {}
            Err(error) => self.peer_fault(&error),
        }
    }

    fn peer_fault(&mut self, error: &LinkError) {
        if let LinkError::Closed { trouble: Some(what), detail, .. } = error {
            self.peer.trouble = Some(PeerTrouble { what: *what, detail: detail.clone() });
        }
        if matches!(error, LinkError::Diverged { .. }) {
            self.peer.stopped = Some(Row::Diverged);
            self.core.fx.notice(Notice::LinkStopped(Row::Diverged));
        } else if !matches!(error, LinkError::Silent { .. } | LinkError::Unheard { .. } | LinkError::Closed { .. }) {
            self.core.fx.notice(Notice::LinkFault(error.to_string()));
        }
        self.flush_control();
        self.link_close(failed(error));
    }

    fn peer_event(&mut self, event: SourceEvent) {
        if self.core.meta.peer().is_none() {
            return;
        }
        match event {
            SourceEvent::Verdict { verdict, instance_seen } => {
                self.peer.row = Some(verdict.row);
                match (rule_of(verdict.row).consequence, verdict.start) {
                    (Consequence::Stream, Some(start)) => {
                        self.core.meta.note_peer(|meta| {
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
                        self.peer.confirmed = false;
                        self.core.hold_link();
                        self.units.say_again(&mut self.core, start.seq);
                        self.core.fx.notice(Notice::LinkUp(verdict.row));
                    }
                    _ => {
                        self.peer.stopped = Some(verdict.row);
                        self.core.fx.notice(Notice::LinkStopped(verdict.row));
                        self.flush_control();
                        self.link_close(CloseReason::Verdict);
                    }
                }
            }
            SourceEvent::Acked { durable, .. } => {
                self.core.meta.note_peer(|meta| meta.durable = Some(durable));
                self.lag.acked(durable.seq);
                let trouble = self.peer.session.as_ref().and_then(SourceSession::trouble);
                if trouble != self.peer.trouble.as_ref().map(|t| t.what) {
                    self.peer.trouble = trouble.map(|what| PeerTrouble { what, detail: String::new() });
                }
                // The mirror acknowledges only after it has stored the instance that this box showed.
                if !std::mem::replace(&mut self.peer.confirmed, true) {
                    let confirmed = reprise_link::instance::on_confirmed;
                    self.core.meta.note_peer(|meta| meta.instance = confirmed(meta.instance));
                    self.core.meta.keep();
                }
                self.copy_settled();
            }
            SourceEvent::CopyAcked { cursor, .. } => {
                self.core.meta.note_peer(|meta| {
                    if let Some(copy) = &mut meta.copy {
                        copy.cursor = Some(cursor);
                    }
                });
                self.copy_settled();
            }
            SourceEvent::Credit => honest!((), TrimOnStatus => {
                let sent = self.peer.sent();
                if let Some(hash) = self.core.journal.hash_at(sent) {
                    let held = |d| reprise_types::Point { seq: sent, hash, ..d };
                    self.core.meta.note_peer(|meta| meta.durable = meta.durable.map(held));
                }
            }),
        }
    }

    fn copy_settled(&mut self) {
        let complete = self.peer.session.as_ref().is_some_and(SourceSession::copy_complete);
        if complete && self.core.meta.note_peer(|meta| meta.copy.take()).flatten().is_some() {
            self.core.meta.keep();
            self.core.fx.notice(Notice::CopyComplete);
        }
    }

    pub(crate) fn peer_tick(&mut self) {
        let now = self.core.now.mono;
        if let Some(session) = &mut self.peer.session
            && now >= session.deadline()
            && let Err(error) = session.tick(now)
        {
            self.peer_fault(&error);
        }
    }

    /// Control messages go out whatever waits in bulk.
    pub(crate) fn flush_control(&mut self) {
        if self.core.link_held() {
            return;
        }
        if let Some(session) = &mut self.peer.session {
            while let Some(message) = session.poll_message() {
                self.core.fx.send(message, Vec::new());
            }
        }
    }

    pub(crate) fn peer_pump(&mut self) {
        self.flush_control();
        let collecting = self.collects_burst();
        while !self.core.link_held() && self.peer.queued < LINK_QUEUE_BYTES {
            if !self.send_region() && (collecting || !self.send_batch()) {
                break;
            }
        }
        self.read_regions();
        let open = self.peer.session.as_mut().filter(|_| !self.core.link_held());
        let done = open.and_then(SourceSession::poll_copy_done);
        if let Some(done) = done {
            self.core.fx.send(Message::CopyDone(done), Vec::new());
        }
    }

    /// True while little waits and the last burst went out a moment ago.
    fn collects_burst(&self) -> bool {
        let next = self.peer.session.as_ref().and_then(SourceSession::next_wanted);
        let recent = self.core.now.mono.millis_since(self.peer.burst_at) < BURST_MILLIS;
        recent && next.is_some_and(|n| self.core.journal.durable_bytes_after(Seq::from_raw(n.get() - 1)) < BURST_BYTES)
    }

    fn send_batch(&mut self) -> bool {
        let Some(first) = self.peer.session.as_ref().and_then(SourceSession::next_wanted) else { return false };
        let before = Seq::from_raw(first.get() - 1);
        if self.peer.ahead.front().is_some_and(|a| a.first != first) {
            self.peer.ahead.clear();
        }
        let batch = match self.peer.ahead.front() {
            Some(ahead) => ahead.batch.clone(),
            None => match self.core.journal.batch_after(before) {
                Some(BatchSource::Ram(batch)) => Some(batch),
                Some(BatchSource::Disk(_)) => None,
                // A batch that straddles cannot be: the peer's position is always the end of one.
                None => return false,
            },
        };
        let Some(batch) = batch else {
            self.read_ahead(before);
            return false;
        };
        let Some(session) = &mut self.peer.session else { return false };
        let bytes = batch.body_len() as u64;
        if !session.batch_fits(bytes) {
            return false;
        }
        session.batch_sent(batch.first_seq(), batch.last_seq(), bytes);
        self.peer.ahead.pop_front();
        self.peer.queued += bytes;
        self.peer.burst_at = self.core.now.mono;
        self.core.stats.bytes_sent += bytes;
        let message = Message::Batch(link::Batch { first: batch.first_seq(), last: batch.last_seq() });
        self.core.fx.send(message, batch.body().collect());
        if !self.peer.ahead.is_empty() {
            self.read_ahead(batch.last_seq());
        }
        true
    }

    /// Keeps some batches on their way from disk.
    fn read_ahead(&mut self, after: Seq) {
        let mut at = self.peer.ahead.back().map_or(after, |a| a.last);
        while self.peer.ahead.len() < PREFETCH_MAX
            && let Some(source) = self.core.journal.batch_after(at)
        {
            match source {
                BatchSource::Ram(batch) => {
                    at = batch.last_seq();
                    let (first, last) = (batch.first_seq(), batch.last_seq());
                    self.peer.ahead.push_back(Ahead { first, last, batch: Some(batch) });
                }
                BatchSource::Disk(place) => {
                    at = place.last_seq;
                    let read = self.core.read_opened();
                    let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
                    let token = self.core.fx.ask(Part::Peer, make);
                    self.peer.open.insert(token, BatchRead { place, read });
                    self.peer.ahead.push_back(Ahead { first: place.first_seq, last: place.last_seq, batch: None });
                }
            }
        }
    }

    /// Limits the first copy to so many bytes of volumes a second, and says what the link is limited to; 0 for no limit.
    /// Counts from now on.
    pub fn set_rates(&mut self, copy: u64, link: u64) {
        self.peer.copy_rate.set_rate(self.core.now.mono, copy);
        self.peer.link_rate = link;
    }

    fn read_regions(&mut self) {
        // Regions are cut so that batches do not wait long behind one.
        let (copy, link) = (self.peer.copy_rate.rate(), self.peer.link_rate);
        let slowest = [copy, link].into_iter().filter(|r| *r != 0).min();
        if let (Some(rate), Some(session)) = (slowest, &mut self.peer.session) {
            session.set_link_rate(rate);
        }
        while self.peer.copy_rate.is_ready(self.core.now.mono)
            && let Some(region) = self.peer.session.as_mut().and_then(SourceSession::next_region)
        {
            self.peer.copy_rate.charge(self.core.now.mono, region.sectors.bytes().get());
            self.peer.regions_read += 1;
            let of = RegionRead { number: self.peer.regions_read, volume: region.slot, sector: region.sector };
            self.peer.regions.push_back(Region { of, region, data: None });
            let extent = Extent { volume: region.slot, sector: region.sector, sectors: region.sectors };
            let plan = self.plan_copy(extent);
            self.read(Reader::Copy(of), plan, extent);
        }
    }

    /// A copied region is what is durable at this moment: records behind it wait for the region, so it must not wait for
    /// them, which in a full cache become durable only when the peer has got further.
    fn plan_copy(&self, extent: Extent) -> ReadPlan {
        let plan = self.core.journal.plan_read(extent);
        if honest!(plan.newest <= self.core.journal.durable().seq, CopyReadsNewest => true) {
            return plan;
        }
        self.core.journal.plan_durable(self.core.applied(), extent)
    }

    fn send_region(&mut self) -> bool {
        let Some(data) = self.peer.regions.front_mut().and_then(|r| r.data.take()) else { return false };
        let Some(Region { region, .. }) = self.peer.regions.pop_front() else { return false };
        let zero = data.iter().all(|piece| is_zero(piece));
        let bytes = if zero { 0 } else { region.sectors.bytes().get() };
        let Some(session) = &mut self.peer.session else { return false };
        session.region_sent(&region, bytes);
        self.peer.queued += bytes;
        self.core.stats.bytes_sent += bytes;
        let payload = if zero { Vec::new() } else { data };
        self.core.fx.send(Message::CopyExtent(region.extent(zero)), payload);
        true
    }

    /// What the peer needs cannot be read: the line is closed, and tried again after a while.
    pub(crate) fn peer_unreadable(&mut self) {
        self.link_close(CloseReason::NotReady);
        self.peer.retry_at = self.core.now.mono.plus_millis(UNREADABLE_RETRY_MILLIS);
    }

    /// A batch was read ahead, or could not be.
    pub(crate) fn peer_step(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(BatchRead { place, read }) = self.peer.open.take(token) else { return };
        let first = place.first_seq;
        self.core.read_closed(read);
        let Some(ahead) = self.peer.ahead.iter_mut().find(|a| a.first == first) else { return };
        match result.ok().and_then(|bytes| place.verify(bytes).ok()) {
            Some(batch) => ahead.batch = Some(Arc::new(batch)),
            _ => {
                self.core.read_failed(Notice::JournalUnreadable(first));
                self.unreadable(first);
                self.peer_unreadable();
            }
        }
    }

    /// A region was read.
    pub(crate) fn peer_region(&mut self, of: RegionRead, data: Vec<Bytes>) {
        let same = |r: &&mut Region| honest!(r.of == of, OldRegionsSent => (r.of.volume, r.of.sector) == (of.volume, of.sector));
        if let Some(region) = self.peer.regions.iter_mut().find(same) {
            region.data = Some(data);
        }
    }
}

/// Compares with itself, shifted: as fast as memory.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|b| *b == 0) && bytes.get(1..).is_none_or(|rest| rest == &bytes[..rest.len()])
}
