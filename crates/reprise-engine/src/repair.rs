//! Rot: a batch of the journal that does not read back as it was written, put right from the other box.
//!
//! The body of a batch is the same bytes on both boxes, and h names it. So whichever box finds one unreadable asks the other
//! for it, compares h, and writes it into its own place again. A box asks only for what the other has durable. Where the
//! other does not hold it either, it is lost: what needs it stops and says so, everything else goes on.

use std::sync::Arc;

use bytes::Bytes;
use reprise_format::link::{BatchAgain, BatchWanted, Message};
use reprise_journal::{Batch, BatchPlace, BatchSource};
use reprise_types::{Mono, Role, Seq, honest};

use crate::core::{Core, Open, Part, ReadName};
use crate::io::{Effect, IoFault, LinkInput, Notice, PeerId, Token};
use crate::signal::Signal;

/// What an answer is to.
#[derive(Debug)]
enum RepairStep {
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
pub(crate) struct Repair {
    rotten: Option<Rotten>,
    /// The home was detached because of it.
    home_detached: bool,
    open: Open<RepairStep>,
}

impl Repair {
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
        self.open.steps().any(|step| matches!(step, RepairStep::Serve { .. }))
    }

    /// A connection has begun or ended: whoever was asked does not answer, and nobody waits for an answer.
    pub(crate) fn link_broke(&mut self) {
        if let Some(rotten) = self.rotten.as_mut().filter(|r| r.stage == Stage::Asked) {
            rotten.stage = Stage::Found;
        }
        for step in self.open.steps_mut() {
            if let RepairStep::Serve { wanted, .. } = step {
                *wanted = false;
            }
        }
    }

    /// What was lost is tried again.
    pub(crate) fn try_again(&mut self) {
        self.rotten.take_if(|r| r.stage == Stage::Lost);
        self.home_detached = false;
    }

    /// Records of the journal that cannot be read here, and whether they are lost.
    pub(crate) fn rotten(&self) -> Option<(Seq, Seq, bool)> {
        self.rotten.map(|r| (r.place.first_seq, r.place.last_seq, r.stage == Stage::Lost))
    }

    /// The batch that holds `seq` cannot be read from the disk.
    pub(crate) fn found(&mut self, core: &mut Core, seq: Seq) {
        if self.rotten.is_some() {
            return;
        }
        let Some(place) = core.journal.place_of(seq) else { return };
        self.rotten = Some(Rotten { place, stage: Stage::Found, retry_at: Mono::default() });
        if core.meta.peer().is_none() {
            self.lose(core);
        }
    }

    /// Nobody holds it: what needs it stops.
    fn lose(&mut self, core: &mut Core) {
        if self.forget_trimmed(core) {
            return;
        }
        let Some(rotten) = &mut self.rotten else { return };
        rotten.stage = Stage::Lost;
        rotten.retry_at = core.now.mono.plus_millis(LOST_RETRY_MILLIS);
        let (first, last) = (rotten.place.first_seq, rotten.place.last_seq);
        core.fx.notice(Notice::JournalLost(first, last));
        if last > core.meta.applied {
            self.home_detached = true;
        }
        core.tell(Signal::Lost(first, last));
    }

    /// Reads again what is lost, from time to time.
    pub(crate) fn tick(&mut self, core: &mut Core) {
        let now = core.now.mono;
        let Some(rotten) = self.rotten.as_mut().filter(|r| r.stage == Stage::Lost && r.retry_at <= now) else {
            return;
        };
        rotten.retry_at = now.plus_millis(LOST_RETRY_MILLIS);
        let place = rotten.place;
        if self.forget_trimmed(core) {
            return;
        }
        let read = core.read_opened();
        let token = core.fx.ask(Part::Repair, |token| Effect::ReadCache { token, at: place.at, len: place.len });
        self.open.insert(token, RepairStep::Reread { place, read });
    }

    /// What was rotten is not in the journal any more: nobody needs it, and it is forgotten.
    fn forget_trimmed(&mut self, core: &Core) -> bool {
        let gone = |r: &mut Rotten| core.journal.place_of(r.place.first_seq).is_none_or(|place| place.at != r.place.at);
        self.rotten.take_if(gone).is_some()
    }

    /// What was lost has been read: everything that stopped for it goes on.
    fn readable(&mut self, core: &mut Core, place: BatchPlace) {
        if self.lost() != Some((place.first_seq, place.last_seq)) {
            return;
        }
        self.rotten = None;
        core.fx.notice(Notice::JournalReadable(place.first_seq, place.last_seq));
        core.tell(Signal::Readable { home_waits: std::mem::take(&mut self.home_detached) });
    }

    /// Asks the other box, as soon as that makes sense.
    pub(crate) fn pump(&mut self, core: &mut Core, streams: bool) {
        let Some(Rotten { place, stage, .. }) = self.rotten else { return };
        if stage == Stage::Found && core.meta.peer().is_none() {
            // Who would have been asked was taken away meanwhile.
            return self.lose(core);
        }
        if stage != Stage::Found || !streams || core.link_held() {
            return;
        }
        if core.meta.role() == Role::Source && core.meta.peer_needs(place.last_seq) {
            return self.lose(core);
        }
        if let Some(rotten) = &mut self.rotten {
            rotten.stage = Stage::Asked;
        }
        let wanted = BatchWanted { first: place.first_seq, last: place.last_seq };
        core.fx.send(PeerId::FIRST, wanted.into(), Vec::new());
    }

    /// Takes the two messages; gives others back.
    pub(crate) fn input(&mut self, core: &mut Core, streams: bool, input: LinkInput) -> Option<LinkInput> {
        let LinkInput::Message(message, payload) = input else { return Some(input) };
        match message {
            Message::BatchWanted(m) if streams => self.serve(core, m.first, m.last),
            Message::BatchAgain(m) if streams => self.answer(core, &m, payload),
            Message::BatchWanted(_) | Message::BatchAgain(_) => {}
            other => return Some(LinkInput::Message(other, payload)),
        }
        None
    }

    fn serve(&mut self, core: &mut Core, first: Seq, last: Seq) {
        // One at a time: whoever asks again before the answer gets none.
        if self.is_serving() || first == Seq::ZERO {
            return;
        }
        match core.journal.batch_after(Seq::from_raw(first.get() - 1)) {
            Some(BatchSource::Ram(batch)) if batch.last_seq() == last => Self::send(core, first, last, Some(&batch)),
            Some(BatchSource::Disk(place)) if place.last_seq == last => {
                let read = core.read_opened();
                let make = |token| Effect::ReadCache { token, at: place.at, len: place.len };
                let token = core.fx.ask(Part::Repair, make);
                self.open.insert(token, RepairStep::Serve { place, read, wanted: true });
            }
            _ => Self::send(core, first, last, None),
        }
    }

    fn send(core: &mut Core, first: Seq, last: Seq, batch: Option<&Batch>) {
        let message = Message::from(BatchAgain { first, last, found: batch.is_some() });
        let payload = batch.map_or_else(Vec::new, |b| b.body().collect());
        core.fx.send(PeerId::FIRST, message, payload);
    }

    fn answer(&mut self, core: &mut Core, m: &BatchAgain, payload: Bytes) {
        let Some(Rotten { place, stage: Stage::Asked, .. }) = self.rotten else { return };
        if (m.first, m.last) != (place.first_seq, place.last_seq) {
            return;
        }
        if !m.found {
            return self.lose(core);
        }
        // The right records with the right history, or it is not taken.
        let batch = Batch::from_body(payload).ok().filter(|b| {
            let head = b.header().head;
            (head.first_seq, head.last_seq, head.h_after) == (place.first_seq, place.last_seq, place.h_after)
        });
        let rewrite = batch.and_then(|b| core.journal.rewrite(&place, &b, core.meta.version()));
        let Some((at, bufs)) = rewrite else { return self.lose(core) };
        if let Some(rotten) = &mut self.rotten {
            rotten.stage = Stage::Writing;
        }
        let read = honest!(Some(core.read_opened()), RewriteNotHeld => None);
        let token = core.fx.ask(Part::Repair, |token| Effect::WriteCache { token, at, bufs });
        self.open.insert(token, RepairStep::Rewritten { read });
    }

    pub(crate) fn answered(&mut self, core: &mut Core, token: Token, result: Result<Bytes, IoFault>) {
        let Some(step) = self.open.take(token) else { return };
        match step {
            RepairStep::Serve { place, read, wanted } => {
                core.read_closed(read);
                let batch = result.ok().and_then(|bytes| place.verify(bytes).ok()).map(Arc::new);
                if wanted {
                    Self::send(core, place.first_seq, place.last_seq, batch.as_deref());
                }
            }
            RepairStep::Reread { place, read } => {
                core.read_closed(read);
                if result.is_ok_and(|bytes| place.verify(bytes).is_ok()) {
                    self.readable(core, place);
                }
            }
            RepairStep::Rewritten { read } => {
                if let Some(read) = read {
                    core.read_closed(read);
                }
                match result {
                    Err(fault) => core.tell(Signal::Fence(fault)),
                    Ok(_) => {
                        if let Some(rotten) = self.rotten.take() {
                            core.fx.notice(Notice::JournalRepaired(rotten.place.first_seq, rotten.place.last_seq));
                        }
                        core.tell(Signal::Readable { home_waits: false });
                    }
                }
            }
        }
    }
}
