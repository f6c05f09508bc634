//! The mirror's end of a connected group: takes batches gap-free, grants credit, acknowledges what is durable.

use std::collections::VecDeque;

use reprise_format::link::{
    Ack, Close, CloseReason, CopyAck, CopyCursor, Credit, GroupOffer, GroupState, Heartbeat, Message, Nonce,
    PAYLOAD_BYTES_MAX, Row, Trouble,
};
use reprise_types::{Mono, Point, Sector, Seq, VolumeSlot, honest};

use crate::LinkError;
use crate::copy::{CopyMark, CopyMirror, CopyProgress, CopyRegion};
use crate::handshake::{self, Consequence};
use crate::pulse::Pulse;

/// Least window in bytes: beside all copied regions that may be outstanding (16 MiB) a batch of any size must fit, or it
/// could wait for ever.
pub const WINDOW_BYTES_MIN: u64 = 3 * PAYLOAD_BYTES_MAX as u64;

/// Default window in bytes: 1 Gbit/s over 200 ms and some. It is memory of the mirror per connected group.
pub const WINDOW_BYTES_DEFAULT: u64 = 32 << 20;

/// What the owner of the group is to do or know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorEvent {
    /// An offer came: answer it with [`MirrorSession::answer`].
    Offer(Box<GroupOffer>),
    /// Both ends agree on the row. Data flows only where its rule says so; else close. With [`Row::StartCopy`] the
    /// journal begins after `start`.
    Verdict {
        /// The row.
        row: Row,
        /// What the first batch will follow.
        start: Option<Point>,
        /// The peer's instance, to be stored as last accepted where data flows.
        instance_seen: Nonce,
    },
    /// A batch that follows what was received: hand its body to the journal, then call
    /// [`MirrorSession::batch_durable`].
    Batch {
        /// First record.
        first: Seq,
        /// Last record.
        last: Seq,
    },
    /// A region for the home: write it, then call [`MirrorSession::region_written`].
    Region {
        /// Where.
        region: CopyRegion,
        /// Reads as zeros; there is no payload.
        zero: bool,
    },
    /// All regions have come. The image is whole when [`MirrorSession::copy_complete`] says so.
    CopyDone {
        /// R1.
        r1: Seq,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    AwaitOffer,
    Answering,
    AwaitVerdict,
    Streaming,
    Refused,
}

/// Messages waiting to be taken; acknowledgements and credit are merged and take no place here.
const OUT_MAX: usize = 64;

/// One life of a connection, seen from the mirror.
#[derive(Debug, Clone)]
pub struct MirrorSession {
    phase: Phase,
    pulse: Pulse,
    out: VecDeque<Message>,
    offer: Option<GroupOffer>,
    state: Option<GroupState>,
    window: u64,
    received: Seq,
    durable: Point,
    applied: Seq,
    // Payload sizes of batches that are not durable, with their last records.
    undurable: VecDeque<(Seq, u64)>,
    received_bytes: u64,
    released_bytes: u64,
    received_journal: u64,
    released_journal: u64,
    journal_free: u64,
    granted: Credit,
    ack_due: bool,
    trouble: Option<Trouble>,
    copy: Option<CopyMirror>,
    copy_bytes: VecDeque<(CopyCursor, u64)>,
    copy_ack_due: bool,
}

impl MirrorSession {
    /// A connection was made and greeted. `window` is the memory that unhandled data may take, at least
    /// [`WINDOW_BYTES_MIN`].
    pub fn new(now: Mono, window: u64) -> Self {
        Self {
            phase: Phase::AwaitOffer,
            pulse: Pulse::new(now),
            out: VecDeque::new(),
            offer: None,
            state: None,
            window: window.max(WINDOW_BYTES_MIN),
            received: Seq::ZERO,
            durable: Point::default(),
            applied: Seq::ZERO,
            undurable: VecDeque::new(),
            received_bytes: 0,
            released_bytes: 0,
            received_journal: 0,
            released_journal: 0,
            journal_free: 0,
            granted: Credit { bytes: 0, journal_bytes: 0 },
            ack_due: false,
            trouble: None,
            copy: None,
            copy_bytes: VecDeque::new(),
            copy_ack_due: false,
        }
    }

    /// Bytes of any kind came.
    pub fn heard(&mut self, now: Mono) {
        self.pulse.heard(now);
    }

    /// A message of the source; `payload_len` is what stands beside it, decompressed.
    pub fn handle(&mut self, now: Mono, message: Message, payload_len: u64) -> Result<Option<MirrorEvent>, LinkError> {
        self.pulse.heard(now);
        let streaming = self.phase == Phase::Streaming;
        match message {
            Message::Heartbeat(heartbeat) => {
                self.on_heartbeat(now, &heartbeat);
                Ok(None)
            }
            Message::Close(Close { reason, detail, trouble }) => Err(LinkError::Closed { reason, detail, trouble }),
            Message::GroupOffer(offer) if self.phase == Phase::AwaitOffer => {
                handshake::check_offer(&offer)?;
                self.phase = Phase::Answering;
                self.offer = Some(offer.clone());
                Ok(Some(MirrorEvent::Offer(Box::new(offer))))
            }
            Message::Verdict(verdict) if self.phase == Phase::AwaitVerdict => self.on_verdict(&verdict).map(Some),
            Message::Batch(batch) if streaming => self.on_batch(batch.first, batch.last, payload_len).map(Some),
            Message::CopyExtent(extent) if streaming => self.on_extent(&extent, payload_len).map(Some),
            Message::CopyDone(done) if streaming => {
                self.copy.as_mut().ok_or(LinkError::BadCopyEnd)?.on_done(done.r1)?;
                self.copy_ack_due = true;
                Ok(Some(MirrorEvent::CopyDone { r1: done.r1 }))
            }
            other => Err(LinkError::Unexpected { kind: other.kind() }),
        }
    }

    fn on_heartbeat(&mut self, now: Mono, heartbeat: &Heartbeat) {
        if let Some(echo) = self.pulse.on_heartbeat(now, heartbeat)
            && self.out.len() < OUT_MAX
        {
            self.out.push_back(echo.into());
        }
    }

    /// The answer to the offer. Its `hash_at_offer` is [`handshake::hash_at_offer`].
    ///
    /// # Panics
    /// When there is no offer to answer.
    pub fn answer(&mut self, state: GroupState) {
        assert!(self.phase == Phase::Answering, "a group's state is the answer to an offer");
        self.phase = Phase::AwaitVerdict;
        self.out.push_back(state.clone().into());
        self.state = Some(state);
    }

    fn on_verdict(&mut self, verdict: &reprise_format::link::Verdict) -> Result<MirrorEvent, LinkError> {
        let (Some(offer), Some(state)) = (&self.offer, &self.state) else {
            return Err(LinkError::Unexpected { kind: reprise_format::link::MessageKind::Verdict });
        };
        let row = handshake::check_verdict(offer, state, verdict)?;
        self.phase = Phase::Refused;
        if handshake::rule_of(row).consequence == Consequence::Stream
            && let Some(start) = verdict.start
        {
            self.phase = Phase::Streaming;
            (self.received, self.durable, self.applied) = (start.seq, start, state.applied);
            if row != Row::Resume {
                let cursor = if row == Row::ContinueCopy { state.copy_cursor } else { None };
                self.copy = Some(CopyMirror::new(&offer.volumes, cursor));
            }
            self.ack_due = true;
        }
        Ok(MirrorEvent::Verdict { row, start: verdict.start, instance_seen: offer.instance.current })
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), LinkError> {
        let sent = self.received_bytes.saturating_add(bytes);
        if sent > self.granted.bytes {
            return Err(LinkError::CreditExceeded { sent, granted: self.granted.bytes });
        }
        self.received_bytes = sent;
        Ok(())
    }

    fn on_batch(&mut self, first: Seq, last: Seq, bytes: u64) -> Result<MirrorEvent, LinkError> {
        let next = self.received.next();
        let follows = honest!(first == next, GapAccepted => first == next || last <= self.received);
        if !follows || last < first || last > Seq::LAST {
            return Err(LinkError::Gap { first, last, received: self.received });
        }
        let journal = self.received_journal.saturating_add(bytes);
        if journal > self.granted.journal_bytes {
            return Err(LinkError::CreditExceeded { sent: journal, granted: self.granted.journal_bytes });
        }
        self.take_bytes(bytes)?;
        self.received_journal = journal;
        self.received = last;
        self.undurable.push_back((last, bytes));
        Ok(MirrorEvent::Batch { first, last })
    }

    fn on_extent(&mut self, extent: &reprise_format::link::CopyExtent, bytes: u64) -> Result<MirrorEvent, LinkError> {
        let at = CopyCursor { slot: extent.slot, sector: extent.sector };
        // A region that lacks records which were sent before it would take the home back.
        if extent.view_seq < self.received {
            return Err(LinkError::BadExtent { at });
        }
        let region = self.copy.as_mut().ok_or(LinkError::BadExtent { at })?.on_extent(extent, bytes)?;
        self.take_bytes(bytes)?;
        self.copy_bytes.push_back((at, bytes));
        Ok(MirrorEvent::Region { region, zero: extent.zero })
    }

    /// The journal holds everything up to `durable`.
    ///
    /// # Panics
    /// When that is more than was received: an acknowledgement must never be ahead of the data.
    pub fn batch_durable(&mut self, durable: Point) {
        assert!(durable.seq <= self.received, "durable {} of received {}", durable.seq, self.received);
        if durable.seq <= self.durable.seq {
            return;
        }
        self.durable = durable;
        while let Some((_, bytes)) = self.undurable.pop_front_if(|(last, _)| *last <= durable.seq) {
            self.released_bytes += bytes;
            self.released_journal += bytes;
        }
        self.ack_due = true;
    }

    /// Home holds everything up to `applied`; goes out with the next acknowledgement, at the latest with the next
    /// heartbeat.
    pub fn set_applied(&mut self, applied: Seq) {
        self.applied = self.applied.max(applied);
    }

    /// What is wrong here, or nothing any more: the source is told at once, and with each acknowledgement.
    pub fn set_trouble(&mut self, trouble: Option<Trouble>) {
        self.ack_due |= trouble != self.trouble;
        self.trouble = trouble;
    }

    /// Free bytes of the journal for this group, not counting batches received and not yet durable. What was granted is
    /// not taken back, so at most one window may still come after the journal has become smaller: the reserve is for that.
    pub fn set_journal_free(&mut self, bytes: u64) {
        self.journal_free = bytes;
    }

    /// A copied region is written to its home.
    pub fn region_written(&mut self, slot: VolumeSlot, sector: Sector) {
        if let Some(copy) = &mut self.copy {
            copy.region_written(slot, sector);
        }
        let at = CopyCursor { slot, sector };
        if let Some(index) = self.copy_bytes.iter().position(|(start, _)| *start == at)
            && let Some((_, bytes)) = self.copy_bytes.remove(index)
        {
            self.released_bytes += bytes;
        }
    }

    /// What a flush of the homes that begins now makes durable; none where that is no more than before.
    pub fn copy_flush_mark(&self) -> Option<CopyMark> {
        let last = self.copy.as_ref()?.flush_up_to()?;
        // All that a connection brings is on the branch of the offer; the last view reaches farthest.
        let branch = self.offer.as_ref()?.durable.branch;
        let reach = last.view_hash.map(|hash| Point { branch, seq: last.view_seq, hash });
        Some(CopyMark { cursor: last.end(), reach })
    }

    /// The homes are flushed up to `cursor` and the cursor is stored: only then is it acknowledged.
    pub fn copy_flushed(&mut self, cursor: CopyCursor) {
        if let Some(copy) = &mut self.copy {
            copy.flushed(cursor);
            self.copy_ack_due = true;
        }
    }

    /// No record after this one may be applied to the home before the regions received are written.
    pub fn apply_limit(&self) -> Option<Seq> {
        self.copy.as_ref().and_then(CopyMirror::apply_limit)
    }

    /// True when a copy on this connection has made the image whole: every region and every record up to R1 durable.
    pub fn copy_complete(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.is_complete(self.durable.seq))
    }

    /// How far the copy is; none where there is none on this connection.
    pub fn copy_progress(&self) -> Option<CopyProgress> {
        self.copy.as_ref().map(CopyMirror::progress)
    }

    /// Time passes; to be called at [`Self::deadline`].
    pub fn tick(&mut self, now: Mono) -> Result<(), LinkError> {
        if let Some(heartbeat) = self.pulse.tick(now)?
            && self.out.len() < OUT_MAX
        {
            self.out.push_back(heartbeat.into());
            self.ack_due |= self.phase == Phase::Streaming;
        }
        Ok(())
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self) -> Mono {
        self.pulse.deadline()
    }

    fn credit_to_grant(&self) -> Credit {
        let waiting = self.received_journal.saturating_sub(self.released_journal);
        let journal_room = self.journal_free.saturating_sub(waiting).min(self.window.saturating_sub(waiting));
        Credit {
            bytes: self.granted.bytes.max(self.released_bytes.saturating_add(self.window)),
            journal_bytes: self.granted.journal_bytes.max(self.received_journal.saturating_add(journal_room)),
        }
    }

    /// The next control message to send. Acknowledgements and credit are made here from what holds now, so that a slow
    /// line carries few of them.
    pub fn poll_message(&mut self) -> Option<Message> {
        if let Some(message) = self.out.pop_front() {
            return Some(message);
        }
        if self.phase != Phase::Streaming {
            return None;
        }
        if std::mem::take(&mut self.ack_due) {
            let applied = self.applied.min(self.durable.seq);
            return Some(Ack { received: self.received, durable: self.durable, applied, trouble: self.trouble }.into());
        }
        if let Some(copy) = self.copy.as_ref().filter(|_| self.copy_ack_due) {
            let cursor = copy.cursor();
            self.copy_ack_due = false;
            return Some(CopyAck { cursor }.into());
        }
        let credit = self.credit_to_grant();
        let worth = |new: u64, old: u64, used: u64| {
            // News when it is a good part of the window, or the source may be waiting for it.
            new > old && (new - old >= self.window / 8 || old.saturating_sub(used) < self.window / 4)
        };
        let due = worth(credit.bytes, self.granted.bytes, self.received_bytes)
            || worth(credit.journal_bytes, self.granted.journal_bytes, self.received_journal);
        if !due {
            return None;
        }
        self.granted = credit;
        Some(credit.into())
    }

    /// Ends the connection with a reason that the peer is told.
    pub fn close(&mut self, reason: CloseReason, detail: &str) {
        self.phase = Phase::Refused;
        self.out.push_back(Close { reason, detail: detail.to_owned(), trouble: None }.into());
    }

    /// True while data flows.
    pub fn is_streaming(&self) -> bool {
        self.phase == Phase::Streaming
    }

    /// Received, not necessarily durable.
    pub fn received(&self) -> Seq {
        self.received
    }

    /// Smoothed round trip.
    pub fn rtt_micros(&self) -> Option<u64> {
        self.pulse.rtt_micros()
    }
}
