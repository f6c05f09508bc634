//! The feed of a mirror: the link. A source that is asked by another source answers here too, and takes no data.

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{
    CloseReason, CopyCursor, GroupOffer, GroupState, Membership, Nonce, Row, Side, Trouble, Volume,
};
use reprise_journal::BodyError;
use reprise_link::LinkError;
use reprise_link::copy::{CopyMark, CopyProgress, CopyRegion};
use reprise_link::handshake::{self, Consequence, rule_of};
use reprise_link::mirror::{MirrorEvent, MirrorSession};
use reprise_types::{Extent, Mono, Point, Role, Seq, VolumeSlot, honest};

use super::unit::Units;
use crate::core::{Barrier, Core, Effects, Open, Part};
use crate::io::{Effect, IoFault, LegId, LinkInput, Notice, PeerId, Token};
use crate::meta::{CopyState, VolumeMeta};
use crate::signal::Signal;

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

/// What came beside a message.
#[derive(Debug)]
enum Payload {
    Body(ReceivedBody),
    Plain(Bytes),
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Self::Body(body) => body.len(),
            Self::Plain(bytes) => bytes.len(),
        }
    }

    /// As the body of a batch, which is received into a buffer of its own kind: anything else is none.
    fn into_body(self) -> ReceivedBody {
        match self {
            Self::Body(body) => body,
            Self::Plain(buffer) => ReceivedBody::in_buffer(buffer),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Body(body) => body.into_bytes(),
            Self::Plain(bytes) => bytes,
        }
    }
}

/// How this box stands, as other parts know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// What keeps it from doing all of its work; the source is told.
    pub(crate) trouble: Option<Trouble>,
    /// Home waits for a batch that only the source can give.
    pub(crate) home_waits: bool,
}

/// The source's offer on this connection, until the verdict.
#[derive(Debug, Default)]
enum Offer {
    #[default]
    None,
    /// It waits for its answer.
    Asked(Box<GroupOffer>),
    /// The verdict is to come.
    Answered(Box<GroupOffer>),
}

impl Offer {
    fn take(&mut self) -> Option<Box<GroupOffer>> {
        match std::mem::take(self) {
            Self::None => None,
            Self::Asked(offer) | Self::Answered(offer) => Some(offer),
        }
    }
}

/// The connection that feeds the group.
#[derive(Debug, Default)]
pub(crate) struct LinkFeed {
    session: Option<MirrorSession>,
    row: Option<Row>,
    offer: Offer,
    flush: CopyFlush,
    /// What was asked for this connection.
    open: Open<FeedStep>,
}

impl LinkFeed {
    /// The session, for status.
    pub(crate) fn session(&self) -> Option<&MirrorSession> {
        self.session.as_ref()
    }

    /// The row of the handshake on this connection.
    pub(crate) fn row(&self) -> Option<Row> {
        self.row
    }

    /// A connection is there.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// Data flows.
    pub(crate) fn is_streaming(&self) -> bool {
        self.session.as_ref().is_some_and(MirrorSession::is_streaming)
    }

    /// How far a first copy on this connection is.
    pub(crate) fn copy_progress(&self) -> Option<CopyProgress> {
        self.session.as_ref().and_then(MirrorSession::copy_progress)
    }

    /// No record after this one may be applied to the home before the regions received are written.
    pub(crate) fn apply_limit(&self) -> Option<Seq> {
        self.session.as_ref().and_then(MirrorSession::apply_limit)
    }

    /// Home holds everything up to here.
    pub(crate) fn set_applied(&mut self, applied: Seq) {
        if let Some(session) = &mut self.session {
            session.set_applied(applied);
        }
    }

    /// Something that another part takes has come; false where no data flows.
    pub(crate) fn heard(&mut self, now: Mono) -> bool {
        let streaming = self.session.as_mut().filter(|s| s.is_streaming());
        streaming.map(|session| session.heard(now)).is_some()
    }

    pub(crate) fn disconnected(&mut self, fx: &mut Effects) {
        self.session = None;
        self.row = None;
        self.offer = Offer::None;
        self.flush = CopyFlush::Idle;
        let regions = self.open.forget().filter(|(_, step)| matches!(step, FeedStep::Region(_)));
        fx.astray(regions.map(|(token, _)| token));
    }

    /// What has come on a connection that may feed this box.
    pub(crate) fn input(&mut self, core: &mut Core, units: &mut Units, standing: Standing, input: LinkInput) {
        let (message, payload) = match input {
            LinkInput::Connected { .. } => {
                self.session = Some(MirrorSession::new(core.now.mono, core.config.link_window));
                return;
            }
            LinkInput::Sent(_) => return,
            LinkInput::Disconnected => {
                if self.session.is_some() {
                    core.fx.notice(Notice::LinkDown);
                }
                return self.disconnected(&mut core.fx);
            }
            LinkInput::Batch(batch, body) => (batch.into(), Payload::Body(body)),
            LinkInput::Message(message, payload) => (message, Payload::Plain(payload)),
        };
        let Some(session) = &mut self.session else { return };
        match session.handle(core.now.mono, message, payload.len() as u64) {
            Ok(None) => {}
            Ok(Some(event)) => self.event(core, units, standing, event, payload),
            Err(error) => self.fault(core, &error),
        }
    }

    fn event(&mut self, core: &mut Core, units: &mut Units, standing: Standing, event: MirrorEvent, payload: Payload) {
        match event {
            MirrorEvent::Offer(offer) => {
                self.offer = Offer::Asked(offer);
                self.answer_offer(core, units, standing);
            }
            MirrorEvent::Verdict { row, start, instance_seen } => {
                self.verdict(core, units, row, start, instance_seen);
            }
            MirrorEvent::Batch { first, last } => self.batch(core, units, (first, last), payload.into_body()),
            MirrorEvent::Region { region, zero } => {
                let extent = Extent { volume: region.slot, sector: region.sector, sectors: region.sectors };
                let token = core.fx.ask(Part::Feed, |token| match zero {
                    true => Effect::ZeroHome { token, leg: LegId::FIRST, extent },
                    false => Effect::WriteHome { token, leg: LegId::FIRST, extent, bufs: vec![payload.into_bytes()] },
                });
                self.open.insert(token, FeedStep::Region(region));
            }
            MirrorEvent::CopyDone { r1 } => {
                core.meta.note(|meta| {
                    if let Some(copy) = meta.copy_mut() {
                        copy.complete_at = Some(r1);
                    }
                });
            }
        }
    }

    /// What cannot be taken ends the connection.
    fn fault(&mut self, core: &mut Core, error: &LinkError) {
        if !matches!(error, LinkError::Silent { .. } | LinkError::Unheard { .. } | LinkError::Closed { .. }) {
            core.fx.notice(Notice::LinkFault(error.to_string()));
        }
        self.flush_control(core);
        core.tell(Signal::CloseLink(error.close_reason().unwrap_or(CloseReason::ProtocolViolation)));
    }

    /// Both ends agree on the row.
    fn verdict(&mut self, core: &mut Core, units: &mut Units, row: Row, start: Option<Point>, instance_seen: Nonce) {
        self.row = Some(row);
        let offer = self.offer.take();
        let copies = matches!(row, Row::StartCopy | Row::ContinueCopy | Row::RestartCopy);
        if copies && !offer.as_ref().is_some_and(|offer| Self::holds_volumes(core, units, row, &offer.volumes)) {
            let what = "its volumes are not those that this mirror was made for";
            return self.fault(core, &LinkError::Contradiction { what });
        }
        let ours = core.meta.peer().is_some_and(|p| offer.as_ref().is_some_and(|o| o.box_id == p.peer));
        let fed = core.meta.role() == Role::Mirror;
        match (rule_of(row).consequence, start) {
            (Consequence::Stream, Some(start)) if fed && core.meta.peer().is_some() => {
                core.meta.note_peer(|peer| {
                    peer.seen = Some(instance_seen);
                    peer.instance = reprise_link::instance::on_confirmed(peer.instance);
                });
                if let Some(offer) = offer.filter(|_| row == Row::StartCopy) {
                    Self::start_mirror(core, units, start, &offer);
                }
                if row == Row::RestartCopy {
                    // Forgotten durably before the first region comes: what there is must not count once more.
                    core.meta.note(|meta| meta.set_copy(Some(CopyState::default())));
                }
                core.hold_link();
                core.fx.notice(Notice::LinkUp(row));
            }
            _ => {
                // A source that was asked is told as the one that asked is: neither dials again.
                if ours && !fed {
                    core.tell(Signal::LinkStopped(row));
                }
                core.fx.notice(Notice::LinkStopped(row));
                core.tell(Signal::CloseLink(CloseReason::Verdict));
            }
        }
    }

    /// True where every volume of an offer has its home here, and fits it: regions are written where the offer says. A source may
    /// have heard that all is copied before this box knew it durably, and have given a volume more room since: where the
    /// copy goes on, the record that says so is still to come, and the home has that room.
    fn holds_volumes(core: &Core, units: &Units, row: Row, offered: &[Volume]) -> bool {
        let told = |v: &Volume| row != Row::StartCopy && units.home_holds(v.slot, v.sectors);
        let fits = |v: &Volume, own: &VolumeMeta| own.id == v.id && (v.sectors <= own.sectors || told(v));
        offered.iter().all(|v| core.meta.volume(v.slot).is_some_and(|own| fits(v, own)))
    }

    /// The journal of a mirror begins where the copy begins.
    fn start_mirror(core: &mut Core, units: &mut Units, start: Point, offer: &GroupOffer) {
        core.begin_at(start, |meta| {
            meta.set_lineage(&offer.lineage);
            meta.set_copy(Some(CopyState::default()));
        });
        units.forget();
    }

    /// Takes a batch into the journal.
    fn batch(&mut self, core: &mut Core, units: &mut Units, (first, last): (Seq, Seq), body: ReceivedBody) {
        core.stats.bytes_in += body.len() as u64;
        let fault = match core.journal.check_body(body) {
            Ok(next) if next.range == (first, last) => {
                let records = match units.records_of(core, &next.changes) {
                    Ok(records) => records,
                    Err(fault) => return self.fault(core, &fault),
                };
                if !units.homes_hold(&records) {
                    // It comes again, when the home may have grown.
                    return core.tell(Signal::CloseLink(CloseReason::NotReady));
                }
                core.journal.append_body(next);
                units.received(records);
                honest!((), MirrorAcksReceived => self.set_durable(core.journal.packed()));
                return;
            }
            Ok(_) => LinkError::Gap { first, last, received: core.journal.written() },
            Err(BodyError::Diverged { seq, .. }) => LinkError::Diverged { at: seq },
            Err(error) => {
                core.fx.notice(Notice::LinkFault(error.to_string()));
                return core.tell(Signal::CloseLink(CloseReason::ProtocolViolation));
            }
        };
        if matches!(fault, LinkError::Diverged { .. }) {
            core.fx.notice(Notice::LinkStopped(Row::Diverged));
        }
        self.fault(core, &fault);
    }

    /// Acknowledges batches: here and nowhere else a mirror tells its source that it holds them. It does so up to where its
    /// journal is durable, once the superblock holds what units remember of that. Called when the journal has become durable,
    /// and when the superblock is there that units waited for.
    pub(crate) fn acknowledge(&mut self, core: &Core, units: &Units) {
        if !units.hold() {
            self.set_durable(core.journal.durable());
        }
    }

    fn set_durable(&mut self, durable: Point) {
        if let Some(session) = &mut self.session
            && session.is_streaming()
            && durable.seq <= session.received()
        {
            session.batch_durable(durable);
        }
    }

    /// Answers the offer once everything received on earlier connections is durable: the source goes on behind what
    /// the answer says, and the journal behind what it has.
    fn answer_offer(&mut self, core: &mut Core, units: &mut Units, standing: Standing) {
        let Offer::Asked(offer) = &self.offer else { return };
        let fed = core.meta.role() == Role::Mirror;
        if fed && core.journal.stalled() && honest!(standing.home_waits, StallKept => false) {
            // The journal waits for room that home would make, and home for a batch that only the peer has.
            core.journal.forget_undurable(core.meta.applied);
            units.forget();
        }
        // What a source holds is what hosts are told is durable: it streams nothing and waits for nothing.
        let settled = core.journal.durable().seq == core.journal.written() || !fed;
        let settled = honest!(settled, AnswerUnsettled => true);
        if !settled || !core.is_ready() || core.fx.has_strays() || units.hold() {
            return;
        }
        let state = Self::state(core, offer);
        if let Some(offer) = self.offer.take() {
            self.offer = Offer::Answered(offer);
        }
        if let Some(session) = &mut self.session {
            session.answer(state);
        }
    }

    /// What the mirror says of itself.
    fn state(core: &Core, offer: &GroupOffer) -> GroupState {
        let peer = core.meta.peer();
        let known = peer.is_some_and(|p| p.peer == offer.box_id) && offer.group == core.meta.group;
        let lineage = core.meta.lineage();
        let lookup = |seq| core.journal.hash_at(seq);
        GroupState {
            group: core.meta.group,
            box_id: core.config.this_box,
            membership: if known { Membership::Known } else { Membership::OtherPeer },
            role: Side::from(core.meta.role()),
            hash_at_offer: handshake::hash_at_offer(offer, &lineage, &lookup),
            // What was received and is not durable is received again.
            durable: (!core.meta.branches.is_empty()).then(|| core.journal.durable()),
            lineage,
            applied: core.meta.applied,
            complete: core.meta.copy().is_none(),
            copy_cursor: core.meta.copy().and_then(|c| c.cursor),
            copy_reach: core.meta.copy().and_then(|c| c.reach),
            ceded: None,
            instance: peer.map_or(reprise_link::instance::first([0; 16]), |p| p.instance),
            peer_instance_seen: peer.and_then(|p| p.seen),
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

    /// Control messages go out once the link is open.
    pub(crate) fn flush_control(&mut self, core: &mut Core) {
        if core.link_held() {
            return;
        }
        if let Some(session) = &mut self.session {
            while let Some(message) = session.poll_message() {
                core.fx.send(PeerId::FIRST, message, Vec::new());
            }
        }
    }

    pub(crate) fn pump(&mut self, core: &mut Core, units: &mut Units, standing: Standing) {
        self.answer_offer(core, units, standing);
        let Some(session) = &mut self.session else { return };
        session.set_journal_free(u64::from(core.fill.free()) * core.config.journal.segment_len);
        session.set_trouble(standing.trouble);
        let mark = session.copy_flush_mark().filter(|_| matches!(self.flush, CopyFlush::Idle));
        let complete = session.copy_complete();
        if let Some(mark) = mark {
            self.flush = CopyFlush::Flushing;
            honest!((), CopyNotFlushed => return self.copy_flushed(core, mark));
            let volumes: Vec<VolumeSlot> = core.meta.volumes.iter().map(|v| v.slot).collect();
            let token = core.fx.ask(Part::Feed, |token| Effect::FlushHome { token, leg: LegId::FIRST, volumes });
            self.open.insert(token, FeedStep::Flushed(mark));
        }
        if let Some(copy) = core.meta.copy().filter(|_| complete) {
            core.meta.change(|meta| {
                meta.set_copy(None);
                // Regions hold content up to R1: home is a mixture until everything up to there is applied.
                let mixed_to = copy.complete_at.unwrap_or(meta.applying);
                meta.applying = honest!(meta.applying.max(mixed_to), MomentsBeforeCopyEnd => meta.applying);
            });
            core.fx.notice(Notice::CopyComplete);
        }
        self.flush_control(core);
    }

    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.open.take(token) else { return };
        if let Err(fault) = result {
            return core.tell(Signal::HomeFailed(fault));
        }
        match step {
            FeedStep::Region(region) => {
                if let Some(session) = &mut self.session {
                    session.region_written(region.slot, region.sector);
                }
            }
            FeedStep::Flushed(mark) => self.copy_flushed(core, mark),
        }
    }

    /// The homes hold what was copied up to the mark.
    fn copy_flushed(&mut self, core: &mut Core, CopyMark { cursor, reach }: CopyMark) {
        let barrier = core.meta.change(|meta| {
            if let Some(copy) = meta.copy_mut() {
                (copy.cursor, copy.reach) = (Some(cursor), reach);
            }
        });
        self.flush = CopyFlush::Storing { barrier, cursor };
    }

    /// The superblock has been written.
    pub(crate) fn stored(&mut self, core: &Core) {
        let CopyFlush::Storing { barrier, cursor } = self.flush else { return };
        if !core.meta.holds(barrier) {
            return;
        }
        self.flush = CopyFlush::Idle;
        if let Some(session) = &mut self.session {
            session.copy_flushed(cursor);
        }
    }
}
