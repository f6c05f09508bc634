//! The feed of a mirror: the link. A source that is asked by another source answers here too, and takes no data.

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{
    Close, CloseReason, CopyCursor, GroupOffer, GroupState, Membership, Message, Row, Side, Volume,
};
use reprise_journal::{BodyError, Journal, JournalStart};
use reprise_link::LinkError;
use reprise_link::copy::{CopyMark, CopyRegion};
use reprise_link::handshake::{self, Consequence, rule_of};
use reprise_link::mirror::{MirrorEvent, MirrorSession};
use reprise_types::{Extent, Point, Role, Seq, VolumeSlot, honest};

use crate::core::{Barrier, Effects, Open, Part, Seal};
use crate::effect::{Effect, IoFault, LinkInput, Notice, Token};
use crate::group::Group;
use crate::meta::CopyState;

/// What an answer is to.
#[derive(Debug)]
enum FeedStep {
    /// A copied region was written.
    Region(CopyRegion),
    /// The homes were flushed up to the mark.
    Flushed(CopyMark),
}

/// What was copied becomes durable, one mark at a time.
#[derive(Debug, Default)]
enum CopyFlush {
    #[default]
    Idle,
    /// The homes are being flushed.
    Flushing,
    /// The cursor is on its way to the superblock.
    Storing { barrier: Barrier, cursor: CopyCursor },
}

/// The connection that feeds the group.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    pub(crate) session: Option<MirrorSession>,
    pub(crate) row: Option<Row>,
    /// The offer on this connection, until the verdict.
    offer: Option<Box<GroupOffer>>,
    answered: bool,
    flush: CopyFlush,
    /// What was asked for this connection.
    open: Open<FeedStep>,
}

impl Feed {
    pub(crate) fn disconnected(&mut self, fx: &mut Effects) {
        self.session = None;
        self.row = None;
        self.offer = None;
        self.flush = CopyFlush::Idle;
        let regions = self.open.forget().filter(|(_, step)| matches!(step, FeedStep::Region(_)));
        fx.astray(regions.map(|(token, _)| token));
    }
}

impl Group {
    /// The mirror's session, for status.
    pub fn mirror_session(&self) -> Option<&MirrorSession> {
        self.feed.session.as_ref()
    }

    pub(crate) fn feed_input(&mut self, input: LinkInput) {
        match input {
            LinkInput::Connected { .. } => {
                self.feed.disconnected(&mut self.core.fx);
                let copied_to = self.core.meta.copy.is_none() || !self.leg.is_detached();
                let wanted = self.core.meta.peer.as_ref().is_some_and(|p| !p.paused) && self.core.meta.ended.is_none();
                if self.core.is_ready() && !self.core.is_fenced() && wanted && copied_to {
                    self.feed.session = Some(MirrorSession::new(self.core.now.mono, self.core.config.link_window));
                } else {
                    self.tell_not_ready();
                    self.core.fx.push(Effect::LinkClose(CloseReason::NotReady));
                }
            }
            LinkInput::Disconnected => {
                if self.feed.session.is_some() {
                    self.core.fx.notice(Notice::LinkDown);
                }
                self.feed.disconnected(&mut self.core.fx);
            }
            LinkInput::Sent(_) => {}
            LinkInput::Batch(batch, body) => {
                if let Some(MirrorEvent::Batch { first, last }) = self.feed_message(batch.into(), body.len()) {
                    self.feed_batch(first, last, body);
                }
            }
            LinkInput::Message(message, payload) => {
                if let Some(event) = self.feed_message(message, payload.len()) {
                    self.feed_event(event, payload);
                }
            }
        }
    }

    /// Says why the group takes nothing at this moment.
    pub(crate) fn tell_not_ready(&mut self) {
        let (trouble, detail) = (self.trouble(), self.leg.fault().or(self.core.meta.fenced.as_deref()));
        let close = Close { reason: CloseReason::NotReady, detail: detail.unwrap_or_default().to_owned(), trouble };
        self.core.fx.send(close.into(), Vec::new());
    }

    /// What a message means that has so many bytes of payload.
    fn feed_message(&mut self, message: Message, payload_len: usize) -> Option<MirrorEvent> {
        let session = self.feed.session.as_mut()?;
        let heard = session.handle(self.core.now.mono, message, payload_len as u64);
        heard.unwrap_or_else(|error| {
            self.feed_fault(&error);
            None
        })
    }

    fn feed_fault(&mut self, error: &LinkError) {
        if !matches!(error, LinkError::Silent { .. } | LinkError::Unheard { .. } | LinkError::Closed { .. }) {
            self.core.fx.notice(Notice::LinkFault(error.to_string()));
        }
        self.flush_control();
        self.link_close(error.close_reason().unwrap_or(CloseReason::ProtocolViolation));
    }

    fn feed_event(&mut self, event: MirrorEvent, payload: Bytes) {
        match event {
            MirrorEvent::Offer(offer) => {
                self.feed.offer = Some(offer);
                self.feed.answered = false;
                self.answer_offer();
            }
            MirrorEvent::Verdict { row, start, instance_seen } => {
                self.feed.row = Some(row);
                let offer = self.feed.offer.take();
                let copies = matches!(row, Row::StartCopy | Row::ContinueCopy | Row::RestartCopy);
                if copies && !offer.as_ref().is_some_and(|offer| self.holds_volumes(&offer.volumes)) {
                    let what = "its volumes are not those that this mirror was made for";
                    return self.feed_fault(&LinkError::Contradiction { what });
                }
                let ours =
                    self.core.meta.peer.as_ref().is_some_and(|p| offer.as_ref().is_some_and(|o| o.box_id == p.peer));
                let fed = self.core.meta.role == Role::Mirror;
                match (rule_of(row).consequence, start) {
                    (Consequence::Stream, Some(start)) if fed && self.core.meta.peer.is_some() => {
                        self.core.meta.note_peer(|peer| {
                            peer.seen = Some(instance_seen);
                            peer.instance = reprise_link::instance::on_confirmed(peer.instance);
                        });
                        if let Some(offer) = offer.filter(|_| row == Row::StartCopy) {
                            self.start_mirror(start, &offer);
                        }
                        if row == Row::RestartCopy {
                            // Forgotten durably before the first region comes: what there is must not count once more.
                            self.core.meta.note(|meta| meta.copy = Some(CopyState::default()));
                        }
                        self.core.hold_link();
                        self.core.fx.notice(Notice::LinkUp(row));
                    }
                    _ => {
                        // A source that was asked is told as the one that asked is: neither dials again.
                        if ours && !fed {
                            self.peer.stopped = Some(row);
                        }
                        self.core.fx.notice(Notice::LinkStopped(row));
                        self.link_close(CloseReason::Verdict);
                    }
                }
            }
            MirrorEvent::Batch { .. } => unreachable!("a batch comes with its body"),
            MirrorEvent::Region { region, zero } => {
                let extent = Extent { volume: region.slot, sector: region.sector, sectors: region.sectors };
                let token = self.core.fx.ask(Part::Feed, |token| match zero {
                    true => Effect::ZeroHome { token, extent },
                    false => Effect::WriteHome { token, extent, bufs: vec![payload] },
                });
                self.feed.open.insert(token, FeedStep::Region(region));
            }
            MirrorEvent::CopyDone { r1 } => {
                self.core.meta.note(|meta| {
                    if let Some(copy) = &mut meta.copy {
                        copy.complete_at = Some(r1);
                    }
                });
            }
        }
    }

    /// True where every volume of an offer has its home here, and fits it: regions are written where the offer says.
    fn holds_volumes(&self, offered: &[Volume]) -> bool {
        let held =
            |v: &Volume| self.core.meta.volume(v.slot).is_some_and(|own| own.id == v.id && v.sectors <= own.sectors);
        offered.iter().all(held)
    }

    /// The journal of a mirror begins where the copy begins.
    fn start_mirror(&mut self, start: Point, offer: &GroupOffer) {
        // A segment that was granted ahead holds nothing, and the journal that begins asks for its own.
        let unused: Vec<_> = self.core.journal.segment_ids().collect();
        let begin = JournalStart::empty(start, self.core.meta.incarnation);
        self.core.journal = Journal::new(self.core.config.journal, begin, start.seq);
        self.units.forget();
        let barrier = self.core.meta.change(|meta| {
            meta.set_lineage(&offer.lineage);
            meta.trimmed = start;
            (meta.applied, meta.applying, meta.seal) = (start.seq, start.seq, start);
            meta.copy = Some(CopyState::default());
        });
        // What comes waits until the superblock says where the journal begins.
        self.core.seal = Some(Seal::Storing(barrier));
        self.core.segments.free_after(barrier, unused);
    }

    fn feed_batch(&mut self, first: Seq, last: Seq, body: ReceivedBody) {
        self.core.stats.bytes_in += body.len() as u64;
        let fault = match self.core.journal.check_body(body) {
            Ok(next) if next.range == (first, last) => {
                let records = match self.units.records_of(&self.core, &next.changes) {
                    Ok(records) => records,
                    Err(fault) => return self.feed_fault(&fault),
                };
                if !self.units.homes_hold(&records) {
                    // It comes again, when the home may have grown.
                    return self.link_close(CloseReason::NotReady);
                }
                self.core.journal.append_body(next);
                self.units.received(records);
                honest!((), MirrorAcksReceived => self.feed_durable(self.core.journal.packed()));
                return;
            }
            Ok(_) => LinkError::Gap { first, last, received: self.core.journal.written() },
            Err(BodyError::Diverged { seq, .. }) => LinkError::Diverged { at: seq },
            Err(error) => {
                self.core.fx.notice(Notice::LinkFault(error.to_string()));
                self.link_close(CloseReason::ProtocolViolation);
                return;
            }
        };
        if matches!(fault, LinkError::Diverged { .. }) {
            self.core.fx.notice(Notice::LinkStopped(Row::Diverged));
        }
        self.feed_fault(&fault);
    }

    /// Answers the offer once everything received on earlier connections is durable: the source goes on behind what
    /// the answer says, and the journal behind what it has.
    fn answer_offer(&mut self) {
        let asked = self.feed.offer.is_some() && !self.feed.answered;
        let fed = self.core.meta.role == Role::Mirror;
        if asked
            && fed
            && self.core.journal.stalled()
            && honest!(self.repair.holds_home(self.core.meta.applied), StallKept => false)
        {
            // The journal waits for room that home would make, and home for a batch that only the peer has.
            self.core.journal.forget_undurable(self.core.meta.applied);
            self.units.forget();
        }
        // What a source holds is what hosts are told is durable: it streams nothing and waits for nothing.
        let settled = self.core.journal.durable().seq == self.core.journal.written() || !fed;
        let settled = honest!(settled, AnswerUnsettled => true);
        let settled = settled && self.core.is_ready() && !self.strays_hold() && !self.units.hold();
        let Some(offer) = self.feed.offer.as_ref().filter(|_| settled && !self.feed.answered) else { return };
        let state = self.group_state(offer);
        self.feed.answered = true;
        if let Some(session) = &mut self.feed.session {
            session.answer(state);
        }
    }

    /// Homes are not written while older writes of them may still come.
    pub(crate) fn strays_hold(&self) -> bool {
        honest!(self.core.fx.has_strays(), StraysForgotten => false)
    }

    /// What the mirror says of itself.
    fn group_state(&self, offer: &GroupOffer) -> GroupState {
        let peer = self.core.meta.peer.as_ref();
        let known = peer.is_some_and(|p| p.peer == offer.box_id) && offer.group == self.core.meta.group;
        let lineage = self.core.meta.lineage();
        let lookup = |seq| self.core.journal.hash_at(seq);
        GroupState {
            group: self.core.meta.group,
            box_id: self.core.config.this_box,
            membership: if known { Membership::Known } else { Membership::OtherPeer },
            role: Side::from(self.core.meta.role),
            hash_at_offer: handshake::hash_at_offer(offer, &lineage, &lookup),
            // What was received and is not durable is received again.
            durable: (!self.core.meta.branches.is_empty()).then(|| self.core.journal.durable()),
            lineage,
            applied: self.core.meta.applied,
            complete: self.core.meta.copy.is_none(),
            copy_cursor: self.core.meta.copy.and_then(|c| c.cursor),
            copy_reach: self.core.meta.copy.and_then(|c| c.reach),
            ceded: None,
            instance: peer.map_or(reprise_link::instance::first([0; 16]), |p| p.instance),
            peer_instance_seen: peer.and_then(|p| p.seen),
        }
    }

    /// Where a mirror acknowledges a batch: the source is told that everything is durable up to where the journal is, once
    /// the superblock holds what units remember of it.
    pub(crate) fn feed_acknowledge(&mut self) {
        if !self.units.hold() {
            self.feed_durable(self.core.journal.durable());
        }
    }

    fn feed_durable(&mut self, durable: Point) {
        if let Some(session) = &mut self.feed.session
            && session.is_streaming()
            && durable.seq <= session.received()
        {
            session.batch_durable(durable);
        }
    }

    pub(crate) fn feed_tick(&mut self) {
        let now = self.core.now.mono;
        if let Some(session) = &mut self.feed.session
            && now >= session.deadline()
            && let Err(error) = session.tick(now)
        {
            self.feed_fault(&error);
        }
    }

    pub(crate) fn feed_pump(&mut self) {
        self.answer_offer();
        let free = u64::from(self.core.fill.free()) * self.core.config.journal.segment_len;
        let volumes: Vec<VolumeSlot> = self.core.meta.volumes.iter().map(|v| v.slot).collect();
        let trouble = self.trouble();
        let Some(session) = &mut self.feed.session else { return };
        session.set_journal_free(free);
        session.set_trouble(trouble);
        let mark = session.copy_flush_mark().filter(|_| matches!(self.feed.flush, CopyFlush::Idle));
        let complete = session.copy_complete();
        if let Some(mark) = mark {
            self.feed.flush = CopyFlush::Flushing;
            honest!((), CopyNotFlushed => return self.copy_flushed(mark));
            let token = self.core.fx.ask(Part::Feed, |token| Effect::FlushHome { token, volumes });
            self.feed.open.insert(token, FeedStep::Flushed(mark));
        }
        if let Some(copy) = self.core.meta.copy.filter(|_| complete) {
            self.core.meta.change(|meta| {
                meta.copy = None;
                // Regions hold content up to R1: home is a mixture until everything up to there is applied.
                let mixed_to = copy.complete_at.unwrap_or(meta.applying);
                meta.applying = honest!(meta.applying.max(mixed_to), MomentsBeforeCopyEnd => meta.applying);
            });
            self.core.fx.notice(Notice::CopyComplete);
        }
        self.flush_control();
    }

    pub(crate) fn feed_step(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.feed.open.take(token) else { return };
        if let Err(fault) = result {
            self.leg_detach(Notice::HomeFailed(fault));
            return;
        }
        match step {
            FeedStep::Region(region) => {
                if let Some(session) = &mut self.feed.session {
                    session.region_written(region.slot, region.sector);
                }
            }
            FeedStep::Flushed(mark) => self.copy_flushed(mark),
        }
    }

    /// The homes hold what was copied up to the mark.
    fn copy_flushed(&mut self, CopyMark { cursor, reach }: CopyMark) {
        let barrier = self.core.meta.change(|meta| {
            if let Some(copy) = &mut meta.copy {
                (copy.cursor, copy.reach) = (Some(cursor), reach);
            }
        });
        self.feed.flush = CopyFlush::Storing { barrier, cursor };
    }

    /// The superblock has been written.
    pub(crate) fn feed_stored(&mut self) {
        let CopyFlush::Storing { barrier, cursor } = self.feed.flush else { return };
        if !self.core.meta.holds(barrier) {
            return;
        }
        self.feed.flush = CopyFlush::Idle;
        if let Some(session) = &mut self.feed.session {
            session.copy_flushed(cursor);
        }
    }
}
