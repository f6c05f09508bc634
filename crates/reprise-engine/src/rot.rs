//! Rot: a batch of the journal that does not read back as it was written, put right from the other box.
//!
//! The body of a batch is the same bytes on both boxes, and h names it. So whichever box finds one unreadable asks the other
//! for it, compares h, and writes it into its own place again. A box asks only for what the other has durable. Where the
//! other does not hold it either, it is lost: what needs it stops and says so, everything else goes on.

use std::sync::Arc;

use bytes::Bytes;
use reprise_format::link::{BatchAgain, BatchWanted, CloseReason, Message, Rotten as RottenRecords, Trouble};
use reprise_journal::{Batch, BatchPlace, BatchSource};
use reprise_types::{Mono, Role, Seq};

use crate::core::{Open, Part, ReadName};
use crate::effect::{Effect, IoFault, LinkInput, Notice, Token};
use crate::group::Group;
use crate::planted::{Planted, has};

/// What an answer is to.
#[derive(Debug)]
enum RotStep {
    /// A batch that the other box wants was read; it does not wait any more where the connection has ended since.
    Serve { place: BatchPlace, read: ReadName, wanted: bool },
    /// The batch is in its place again. `read` keeps that place from being given to others meanwhile.
    Rewritten { read: Option<ReadName> },
    /// What is lost was read once more.
    Reread { place: BatchPlace, read: ReadName },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The other box is to be asked as soon as it can be.
    Found,
    /// It was asked on this connection.
    Asked,
    /// What it sent is being written.
    Writing,
    /// Nobody holds it any more.
    Lost,
}

/// One batch at a time: the others that are rotten are found when this one is well.
#[derive(Debug, Clone, Copy)]
struct Rotten {
    place: BatchPlace,
    stage: Stage,
    /// What is lost is not read again before.
    retry_at: Mono,
}

/// What nobody holds is read again so often: a disk that failed to read may have been in trouble for a moment only, and then
/// nothing is lost and nobody needs to come.
const LOST_RETRY_MILLIS: u64 = 60_000;

/// What is known of rot.
#[derive(Debug, Default)]
pub(crate) struct Rot {
    rotten: Option<Rotten>,
    /// The home was detached because of it.
    home_detached: bool,
    open: Open<RotStep>,
}

impl Rot {
    /// Home waits: the next round would read the rotten batch.
    pub(crate) fn holds_home(&self, applied: Seq) -> bool {
        self.rotten.is_some_and(|r| r.stage != Stage::Lost && r.place.last_seq > applied)
    }

    /// Records that nobody holds any more.
    pub(crate) fn lost(&self) -> Option<(Seq, Seq)> {
        self.rotten.filter(|r| r.stage == Stage::Lost).map(|r| (r.place.first_seq, r.place.last_seq))
    }

    /// A batch is being read for the other box.
    fn is_serving(&self) -> bool {
        self.open.steps().any(|step| matches!(step, RotStep::Serve { .. }))
    }

    /// A connection has begun or ended: whoever was asked does not answer, and nobody waits for an answer.
    pub(crate) fn link_broke(&mut self) {
        if let Some(rotten) = self.rotten.as_mut().filter(|r| r.stage == Stage::Asked) {
            rotten.stage = Stage::Found;
        }
        for step in self.open.steps_mut() {
            if let RotStep::Serve { wanted, .. } = step {
                *wanted = false;
            }
        }
    }

    /// What was lost is tried again.
    pub(crate) fn try_again(&mut self) {
        self.rotten.take_if(|r| r.stage == Stage::Lost);
        self.home_detached = false;
    }
}

impl Group {
    /// Records of the journal that cannot be read here, and whether they are lost.
    pub fn rotten(&self) -> Option<(Seq, Seq, bool)> {
        self.rot.rotten.map(|r| (r.place.first_seq, r.place.last_seq, r.stage == Stage::Lost))
    }

    /// What keeps this box from doing all of its work for the group; none where nothing does.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let rotten = self.rotten().map(|(first, last, lost)| RottenRecords { first, last, lost });
        let found =
            Trouble { home_detached: self.home_detached(), rotten, fenced: self.core.is_fenced(), not_open: false };
        (found != Trouble::NONE).then_some(found)
    }

    /// The batch that holds `seq` cannot be read from the disk.
    pub(crate) fn rot_found(&mut self, seq: Seq) {
        if self.rot.rotten.is_some() {
            return;
        }
        let Some(place) = self.core.journal.place_of(seq) else { return };
        self.rot.rotten = Some(Rotten { place, stage: Stage::Found, retry_at: Mono::default() });
        if self.core.meta.peer.is_none() {
            self.rot_lost();
        }
    }

    /// Nobody holds it: what needs it stops.
    fn rot_lost(&mut self) {
        if self.rot_trimmed() {
            return;
        }
        let Some(rotten) = &mut self.rot.rotten else { return };
        rotten.stage = Stage::Lost;
        rotten.retry_at = self.core.now.mono.plus_millis(LOST_RETRY_MILLIS);
        let (first, last) = (rotten.place.first_seq, rotten.place.last_seq);
        self.core.fx.notice(Notice::JournalLost(first, last));
        if last > self.core.meta.applied {
            self.rot.home_detached = true;
            self.home_detach(Notice::JournalUnreadable(first));
        }
        if self.core.meta.role == Role::Source && self.peer_needs(last) {
            self.link_close(CloseReason::NotReady);
        }
    }

    /// Reads again what is lost, from time to time.
    pub(crate) fn rot_tick(&mut self) {
        let now = self.core.now.mono;
        let Some(rotten) = self.rot.rotten.as_mut().filter(|r| r.stage == Stage::Lost && r.retry_at <= now) else {
            return;
        };
        rotten.retry_at = now.plus_millis(LOST_RETRY_MILLIS);
        let place = rotten.place;
        if self.rot_trimmed() {
            return;
        }
        let read = self.core.read_opened();
        let token = self.core.fx.ask(Part::Rot, |token| Effect::ReadCache { token, at: place.at, len: place.len });
        self.rot.open.insert(token, RotStep::Reread { place, read });
    }

    /// What was rotten is not in the journal any more: nobody needs it, and it is forgotten.
    fn rot_trimmed(&mut self) -> bool {
        let gone =
            |r: &mut Rotten| self.core.journal.place_of(r.place.first_seq).is_none_or(|place| place.at != r.place.at);
        self.rot.rotten.take_if(gone).is_some()
    }

    /// What was lost has been read: everything that stopped for it goes on.
    fn rot_readable(&mut self, place: BatchPlace) {
        if self.rot.lost() != Some((place.first_seq, place.last_seq)) {
            return;
        }
        self.rot.rotten = None;
        self.core.fx.notice(Notice::JournalReadable(place.first_seq, place.last_seq));
        self.units_replay_unread();
        if std::mem::take(&mut self.rot.home_detached) && self.home_may_attach() && self.home.attach() {
            self.core.fx.notice(Notice::HomeAttached);
        }
    }

    /// True where the peer has yet to get the record.
    pub(crate) fn peer_needs(&self, seq: Seq) -> bool {
        self.core.meta.peer.as_ref().is_some_and(|p| p.durable.is_none_or(|d| d.seq < seq))
    }

    /// Asks the other box, as soon as that makes sense.
    pub(crate) fn rot_pump(&mut self) {
        let Some(Rotten { place, stage, .. }) = self.rot.rotten else { return };
        let streaming = match self.core.meta.role {
            Role::Source => self.peer.session.as_ref().is_some_and(|s| s.is_streaming()),
            Role::Mirror => self.feed.session.as_ref().is_some_and(|s| s.is_streaming()),
        };
        if stage != Stage::Found || !streaming || self.core.link_held() {
            return;
        }
        if self.core.meta.role == Role::Source && self.peer_needs(place.last_seq) {
            return self.rot_lost();
        }
        if let Some(rotten) = &mut self.rot.rotten {
            rotten.stage = Stage::Asked;
        }
        let wanted = BatchWanted { first: place.first_seq, last: place.last_seq };
        self.core.fx.send(wanted.into(), Vec::new());
    }

    /// Takes the two messages; gives others back.
    pub(crate) fn rot_input(&mut self, input: LinkInput) -> Option<LinkInput> {
        let LinkInput::Message(message, payload) = input else { return Some(input) };
        let now = self.core.now.mono;
        let streaming = match (&mut self.peer.session, &mut self.feed.session) {
            (Some(s), _) if s.is_streaming() => {
                s.heard(now);
                true
            }
            (_, Some(s)) if s.is_streaming() => {
                s.heard(now);
                true
            }
            _ => false,
        };
        match message {
            Message::BatchWanted(m) if streaming => self.rot_serve(m.first, m.last),
            Message::BatchAgain(m) if streaming => self.rot_answer(&m, payload),
            Message::BatchWanted(_) | Message::BatchAgain(_) => {}
            other => return Some(LinkInput::Message(other, payload)),
        }
        None
    }

    fn rot_serve(&mut self, first: Seq, last: Seq) {
        // One at a time: whoever asks again before the answer gets none.
        if self.rot.is_serving() || first == Seq::ZERO {
            return;
        }
        match self.core.journal.batch_after(Seq::from_raw(first.get() - 1)) {
            Some(BatchSource::Ram(batch)) if batch.last_seq() == last => self.rot_send(first, last, Some(&batch)),
            Some(BatchSource::Disk(place)) if place.last_seq == last => {
                let read = self.core.read_opened();
                let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
                let token = self.core.fx.ask(Part::Rot, make);
                self.rot.open.insert(token, RotStep::Serve { place, read, wanted: true });
            }
            _ => self.rot_send(first, last, None),
        }
    }

    fn rot_send(&mut self, first: Seq, last: Seq, batch: Option<&Batch>) {
        let message = Message::from(BatchAgain { first, last, found: batch.is_some() });
        let payload = batch.map_or_else(Vec::new, |b| b.body().collect());
        self.core.fx.send(message, payload);
    }

    fn rot_answer(&mut self, m: &BatchAgain, payload: Bytes) {
        let Some(Rotten { place, stage: Stage::Asked, .. }) = self.rot.rotten else { return };
        if (m.first, m.last) != (place.first_seq, place.last_seq) {
            return;
        }
        if !m.found {
            return self.rot_lost();
        }
        // The right records with the right history, or it is not taken.
        let batch = Batch::from_body(payload).ok().filter(|b| {
            let head = b.header().head;
            (head.first_seq, head.last_seq, head.h_after) == (place.first_seq, place.last_seq, place.h_after)
        });
        let rewrite = batch.and_then(|b| self.core.journal.rewrite(&place, &b, self.core.meta.version()));
        let Some((at, bufs)) = rewrite else { return self.rot_lost() };
        if let Some(rotten) = &mut self.rot.rotten {
            rotten.stage = Stage::Writing;
        }
        let read = (!has(Planted::RewriteNotHeld)).then(|| self.core.read_opened());
        let token = self.core.fx.ask(Part::Rot, |token| Effect::WriteCache { token, at, bufs });
        self.rot.open.insert(token, RotStep::Rewritten { read });
    }

    pub(crate) fn rot_step(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.rot.open.take(token) else { return };
        match step {
            RotStep::Serve { place, read, wanted } => {
                self.core.read_closed(read);
                let batch = result.ok().and_then(|bytes| place.verify(bytes).ok()).map(Arc::new);
                if wanted {
                    self.rot_send(place.first_seq, place.last_seq, batch.as_deref());
                }
            }
            RotStep::Reread { place, read } => {
                self.core.read_closed(read);
                if result.is_ok_and(|bytes| place.verify(bytes).is_ok()) {
                    self.rot_readable(place);
                }
            }
            RotStep::Rewritten { read } => {
                if let Some(read) = read {
                    self.core.read_closed(read);
                }
                match result {
                    Err(fault) => self.fence(fault),
                    Ok(_) => {
                        if let Some(rotten) = self.rot.rotten.take() {
                            self.core.fx.notice(Notice::JournalRepaired(rotten.place.first_seq, rotten.place.last_seq));
                        }
                        self.units_replay_unread();
                    }
                }
            }
        }
    }
}
