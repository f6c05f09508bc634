//! The source's end of a connected group: sends batches and copied regions, takes acknowledgements as proof.

use std::collections::VecDeque;

use reprise_format::link::{
    Close, CloseReason, CopyCursor, CopyDone, Credit, GroupOffer, Heartbeat, Message, PAYLOAD_BYTES_MAX, Row, Trouble,
    Verdict,
};
use reprise_types::{Mono, Point, Position, Seq, honest};

use crate::copy::{CopyProgress, CopyRegion, CopySource, REGION_SECTORS_MAX, REGIONS_OUTSTANDING_MAX};
use crate::handshake::{self, Consequence, HistoryLookup};
use crate::pulse::Pulse;
use crate::{LinkError, mirror};

/// What the owner of the group is to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// The handshake is decided. Data flows only where the row's rule says so; else close after it. `instance_seen` is to
    /// be stored as the peer's last accepted instance where data flows.
    Verdict {
        /// What both ends say.
        verdict: Verdict,
        /// The peer's instance.
        instance_seen: reprise_format::link::Nonce,
    },
    /// The mirror holds more, proven by h.
    Acked {
        /// Received there, not yet durable.
        received: Seq,
        /// Durable there: may be trimmed here as far as this cursor is concerned.
        durable: Point,
        /// In the mirror's home.
        applied: Seq,
    },
    /// The copy has come further.
    CopyAcked {
        /// How far.
        cursor: CopyCursor,
        /// True when the mirror's image is whole.
        complete: bool,
    },
    /// More may be sent.
    Credit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The offer is out.
    AwaitState,
    /// Data flows.
    Streaming,
    /// The verdict allows no data.
    Refused,
}

/// One life of a connection, seen from the source. Made anew for each connection; what outlives it is in the group.
#[derive(Debug, Clone)]
pub struct SourceSession {
    offer: GroupOffer,
    phase: Phase,
    pulse: Pulse,
    out: VecDeque<Message>,
    durable: Point,
    sent: Seq,
    received: Seq,
    acked: Point,
    applied: Seq,
    trouble: Option<Trouble>,
    credit: Credit,
    sent_bytes: u64,
    sent_journal: u64,
    copy: Option<CopySource>,
}

/// Messages waiting to be taken. Heartbeats come once a second and echoes once per heartbeat of the peer; a peer that
/// provokes more than this without our sending a byte loses the surplus echoes.
const OUT_MAX: usize = 64;

impl SourceSession {
    /// A connection was made and greeted: the offer is the first message out.
    pub fn new(now: Mono, offer: GroupOffer) -> Self {
        let durable = offer.durable;
        Self {
            phase: Phase::AwaitState,
            pulse: Pulse::new(now),
            out: VecDeque::from([Message::from(offer.clone())]),
            durable,
            sent: Seq::ZERO,
            received: Seq::ZERO,
            acked: Point::default(),
            applied: Seq::ZERO,
            trouble: None,
            credit: Credit { bytes: 0, journal_bytes: 0 },
            sent_bytes: 0,
            sent_journal: 0,
            copy: None,
            offer,
        }
    }

    /// Bytes of any kind came.
    pub fn heard(&mut self, now: Mono) {
        self.pulse.heard(now);
    }

    /// A message of the mirror.
    pub fn handle(
        &mut self,
        now: Mono,
        message: Message,
        history: &impl HistoryLookup,
    ) -> Result<Option<SourceEvent>, LinkError> {
        self.pulse.heard(now);
        let streaming = self.phase == Phase::Streaming;
        match message {
            Message::Heartbeat(heartbeat) => {
                self.on_heartbeat(now, &heartbeat);
                Ok(None)
            }
            Message::Close(Close { reason, detail, trouble }) => Err(LinkError::Closed { reason, detail, trouble }),
            Message::GroupState(state) if self.phase == Phase::AwaitState => self.on_state(&state, history).map(Some),
            Message::Ack(ack) if streaming => self.on_ack(&ack, history),
            Message::CopyAck(ack) if streaming => self.on_copy_ack(ack.cursor).map(Some),
            Message::Credit(credit) if streaming => {
                self.credit.bytes = self.credit.bytes.max(credit.bytes);
                let before = self.credit.journal_bytes;
                self.credit.journal_bytes =
                    honest!(before.max(credit.journal_bytes), CreditAdded => before + credit.journal_bytes);
                Ok(Some(SourceEvent::Credit))
            }
            // Its answer crossed our refusal.
            Message::Ack(_) | Message::CopyAck(_) | Message::Credit(_) if self.phase == Phase::Refused => Ok(None),
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

    fn on_state(
        &mut self,
        state: &reprise_format::link::GroupState,
        history: &impl HistoryLookup,
    ) -> Result<SourceEvent, LinkError> {
        if state.group != self.offer.group {
            return Err(LinkError::WrongGroup { found: state.group });
        }
        handshake::check_state(state)?;
        let verdict = handshake::verdict(&self.offer, state, history);
        self.out.push_back(verdict.clone().into());
        self.phase = Phase::Refused;
        if handshake::rule_of(verdict.row).consequence == Consequence::Stream
            && let Some(start) = verdict.start
        {
            self.phase = Phase::Streaming;
            (self.sent, self.received, self.acked, self.applied) = (start.seq, start.seq, start, state.applied);
            if verdict.row != Row::Resume {
                let cursor = if verdict.row == Row::ContinueCopy { state.copy_cursor } else { None };
                self.copy = Some(CopySource::new(&self.offer.volumes, cursor));
            }
        }
        Ok(SourceEvent::Verdict { verdict, instance_seen: state.instance.current })
    }

    fn on_ack(
        &mut self,
        ack: &reprise_format::link::Ack,
        history: &impl HistoryLookup,
    ) -> Result<Option<SourceEvent>, LinkError> {
        let durable = ack.durable.seq;
        if ack.received > self.sent || durable > self.sent {
            return Err(LinkError::AckPastSent { acked: ack.received.max(durable), sent: self.sent });
        }
        if durable < self.acked.seq {
            return Err(LinkError::AckBackwards { acked: durable, before: self.acked.seq });
        }
        if ack.received < durable || ack.applied > durable {
            return Err(LinkError::AckOrder { received: ack.received, durable, applied: ack.applied });
        }
        // Proof only: the position must be on our line and carry our h.
        let position = Position { branch: ack.durable.branch, seq: durable };
        if handshake::place_on_line(&self.offer.lineage, position).is_none() {
            return Err(LinkError::Diverged { at: durable });
        }
        let ours = if durable == self.acked.seq { Some(self.acked.hash) } else { history.hash_at(durable) };
        match ours {
            None => return Err(LinkError::AckUnproven { acked: durable }),
            Some(hash) if hash != ack.durable.hash => return Err(LinkError::Diverged { at: durable }),
            Some(_) => {}
        }
        (self.acked, self.received, self.applied) = (ack.durable, self.received.max(ack.received), ack.applied);
        self.trouble = ack.trouble;
        Ok(Some(SourceEvent::Acked { received: self.received, durable: self.acked, applied: self.applied }))
    }

    fn on_copy_ack(&mut self, cursor: CopyCursor) -> Result<SourceEvent, LinkError> {
        let acked = self.acked.seq;
        let copy = self.copy.as_mut().ok_or(LinkError::BadCopyEnd)?;
        copy.on_ack(cursor)?;
        Ok(SourceEvent::CopyAcked { cursor, complete: copy.is_complete(acked) })
    }

    /// Records up to `durable` are durable here.
    pub fn set_durable(&mut self, durable: Point) {
        if durable.seq > self.durable.seq {
            self.durable = durable;
        }
    }

    /// The record with which the next batch to send begins; none where there is nothing to send, or it must wait for a
    /// region that is being read, or no credit is left at all.
    pub fn next_wanted(&self) -> Option<Seq> {
        let limit = self.copy.as_ref().and_then(CopySource::send_limit).unwrap_or(Seq::MAX).min(self.durable.seq);
        let has_credit = self.sent_bytes < self.credit.bytes && self.sent_journal < self.credit.journal_bytes;
        (self.phase == Phase::Streaming && self.sent < limit && has_credit).then(|| self.sent.next())
    }

    /// True where a batch with a body of `bytes` is within the credit.
    pub fn batch_fits(&self, bytes: u64) -> bool {
        self.claimed().saturating_add(bytes) <= self.credit.bytes
            && self.sent_journal.saturating_add(bytes) <= self.credit.journal_bytes
    }

    /// Bytes sent, and those of the regions being read: their credit is taken when the read begins, since a region that
    /// was read must go out before the batches behind it.
    fn claimed(&self) -> u64 {
        self.sent_bytes.saturating_add(self.copy.as_ref().map_or(0, CopySource::reading_bytes))
    }

    /// A batch was handed to the stream.
    ///
    /// # Panics
    /// When it is not the one that [`Self::next_wanted`] named, is not durable, does not fit the credit, or reaches past
    /// a region that is being read: any of these would break the mirror's order or its memory.
    pub fn batch_sent(&mut self, first: Seq, last: Seq, bytes: u64) {
        assert!(self.phase == Phase::Streaming, "batch {first}..={last} sent before the handshake");
        assert!(first == self.sent.next() && last >= first, "batch {first}..={last} sent after {}", self.sent);
        assert!(last <= self.durable.seq, "batch up to {last} sent, durable is {}", self.durable.seq);
        assert!(self.batch_fits(bytes), "{bytes} bytes sent past the credit {:?}", self.credit);
        if let Some(limit) = self.copy.as_ref().and_then(CopySource::send_limit) {
            assert!(last <= limit, "batch up to {last} sent past the view {limit} of a region being read");
        }
        self.sent = last;
        self.sent_bytes += bytes;
        self.sent_journal += bytes;
    }

    /// The next region to read for the first copy, if there is one and room for it. Read it as of its `view_seq` exactly,
    /// then hand it to the stream and call [`Self::region_sent`]; in the order given out.
    pub fn next_region(&mut self) -> Option<CopyRegion> {
        if self.phase != Phase::Streaming {
            return None;
        }
        // One whole region must fit; with less the batches go first.
        if self.claimed().saturating_add(REGION_BYTES_MAX) > self.credit.bytes {
            return None;
        }
        self.copy.as_mut()?.next_region(&self.durable)
    }

    /// A region was handed to the stream; `bytes` of content, 0 for zeros. Once the last one is, [`Message::CopyDone`] is
    /// to be taken from [`Self::poll_copy_done`] into the same stream.
    pub fn region_sent(&mut self, region: &CopyRegion, bytes: u64) {
        self.sent_bytes += bytes;
        assert!(self.sent_bytes <= self.credit.bytes, "{bytes} bytes sent past the credit {:?}", self.credit);
        if let Some(copy) = &mut self.copy {
            copy.region_sent(region);
        }
    }

    /// The end of the copy, once, to go into the bulk stream after the last region.
    pub fn poll_copy_done(&mut self) -> Option<CopyDone> {
        let durable = self.durable.seq;
        let copy = self.copy.as_mut().filter(|_| self.phase == Phase::Streaming)?;
        copy.take_done(durable).map(|r1| CopyDone { r1 })
    }

    /// Regions are cut for this rate of the link.
    pub fn set_link_rate(&mut self, bytes_per_sec: u64) {
        if let Some(copy) = &mut self.copy {
            copy.set_rate(bytes_per_sec);
        }
    }

    /// Time passes; to be called at [`Self::deadline`].
    pub fn tick(&mut self, now: Mono) -> Result<(), LinkError> {
        if let Some(heartbeat) = self.pulse.tick(now)?
            && self.out.len() < OUT_MAX
        {
            self.out.push_back(heartbeat.into());
        }
        Ok(())
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self) -> Mono {
        self.pulse.deadline()
    }

    /// The next control message to send.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.out.pop_front()
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

    /// Handed to the stream.
    pub fn sent(&self) -> Seq {
        self.sent
    }

    /// Proven durable at the mirror on this connection; none before the handshake.
    pub fn acked(&self) -> Option<Point> {
        (self.phase == Phase::Streaming).then_some(self.acked)
    }

    /// What is wrong at the mirror, as its last acknowledgement says.
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// In the mirror's home.
    pub fn applied(&self) -> Seq {
        self.applied
    }

    /// Smoothed round trip.
    pub fn rtt_micros(&self) -> Option<u64> {
        self.pulse.rtt_micros()
    }

    /// How far the first copy is; none where there is none on this connection.
    pub fn copy_progress(&self) -> Option<CopyProgress> {
        self.copy.as_ref().map(CopySource::progress)
    }

    /// True when there is no copy on this connection or the mirror's image is whole.
    pub fn copy_complete(&self) -> bool {
        self.copy.as_ref().is_none_or(|copy| copy.is_complete(self.acked.seq))
    }

    /// Bytes of the credit that are left: for batches, and for everything.
    pub fn credit_left(&self) -> (u64, u64) {
        let bytes = self.credit.bytes.saturating_sub(self.sent_bytes);
        (self.credit.journal_bytes.saturating_sub(self.sent_journal).min(bytes), bytes)
    }
}

const REGION_BYTES_MAX: u64 = REGION_SECTORS_MAX * 512;

// Beside all regions that may be outstanding the largest batch must fit, or it could wait for ever.
const _: () =
    assert!(mirror::WINDOW_BYTES_MIN >= PAYLOAD_BYTES_MAX as u64 + REGIONS_OUTSTANDING_MAX as u64 * REGION_BYTES_MAX);
