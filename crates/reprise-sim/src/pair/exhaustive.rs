//! Every small run: all workloads of up to three operations, a cut before every disk operation of either box, and all
//! subsets of the sectors that the cut leaves undecided.
//!
//! Disk operations of a box are done in the order they were submitted. A workload runs twice: each operation to its end
//! before the next begins, and all of them asked at once. Where a cut leaves more than [`UNITS_MAX`] sectors undecided
//! (sectors that are the same either way do not count), they are taken in so many neighbouring parts; the report says how
//! often. After the two extreme subsets the seal of the recovery is cut as well.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_engine::{Effect, Event, HostOp, HostReply, Io, LegId, LinkInput, PeerId, Token};
use reprise_format::link::{Message, Stream};
use reprise_journal::PieceSource;
use reprise_link::mux::headroom;
use reprise_types::{Point, Seq};

use crate::Rng;
use crate::pair::boxes::{GROUP, SimBox, Undecided, first_instance};
use crate::pair::history::{Asked, History, content, extent};
use crate::pair::operations::{tap, token_of};
use crate::pair::plan::{MS, Plan, SEC};

/// Undecided parts of which all subsets are looked into.
pub const UNITS_MAX: usize = 8;
/// Sectors of volume 0 that the workloads touch.
const ZONE: u64 = 16;

/// An operation of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A write of two sectors.
    Write,
    /// A write that overlaps it.
    Overlap,
    /// Zeroes across both.
    Zero,
    /// A flush of the host's.
    Flush,
    /// A round of the home cursor, to the durable `applied` and the trim behind it.
    Checkpoint,
    /// The line delivers everything and the mirror's acknowledgement comes back.
    LinkAck,
}

const STEPS: [Step; 6] = [Step::Write, Step::Overlap, Step::Zero, Step::Flush, Step::Checkpoint, Step::LinkAck];

/// What was gone through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explored {
    /// Workloads, each way of running one counted.
    pub workloads: u64,
    /// Cuts, by box.
    pub cuts: u64,
    /// States after a cut that were recovered and checked.
    pub states: u64,
    /// Of these: cuts inside the recovery after a cut.
    pub nested: u64,
    /// Cuts whose undecided sectors were taken in parts.
    pub coarse: u64,
}

impl Explored {
    /// Adds others.
    pub fn add(&mut self, other: &Self) {
        self.workloads += other.workloads;
        self.cuts += other.cuts;
        self.states += other.states;
        self.nested += other.nested;
        self.coarse += other.coarse;
    }
}

/// All workloads of up to `length` operations.
pub fn workloads(length: u32) -> Vec<Vec<Step>> {
    let mut all: Vec<Vec<Step>> = vec![Vec::new()];
    let mut last = all.clone();
    for _ in 0..length {
        last = last.iter().flat_map(|w| STEPS.map(|s| w.iter().copied().chain([s]).collect::<Vec<Step>>())).collect();
        all.extend(last.iter().cloned());
    }
    all.retain(|w| !w.is_empty());
    all
}

/// Runs a workload and looks into every cut.
///
/// # Errors
/// What a check found, with the workload.
pub fn explore(workload: &[Step], at_once: bool) -> Result<Explored, String> {
    let mut small = Small::new().map_err(|what| format!("before {workload:?}: {what}"))?;
    small.armed = true;
    small.totals.workloads = 1;
    let result = if at_once { small.burst(workload) } else { workload.iter().try_for_each(|s| small.step(*s)) };
    result.map_err(|what| format!("{workload:?}{}: {what}", if at_once { " at once" } else { "" }))?;
    Ok(small.totals)
}

struct Small {
    rng: Rng,
    t: u64,
    boxes: [SimBox; 2],
    /// Disk operations in the order they were submitted.
    todo: [VecDeque<(Token, Effect, u64)>; 2],
    line: [VecDeque<(Message, Bytes)>; 2],
    connected: bool,
    history: History,
    mirror: Seq,
    next_io: u64,
    next_op: u64,
    armed: bool,
    totals: Explored,
}

impl Small {
    /// A pair at rest, its first copy complete.
    fn new() -> Result<Self, String> {
        let mut plan = Plan::new(1);
        plan.segments = [5, 5];
        (plan.ram_tail, plan.dsync) = (1 << 20, true);
        let mut rng = Rng::new(1);
        let mut boxes = [SimBox::new(0, &plan, &mut rng), SimBox::new(1, &plan, &mut rng)];
        for b in &mut boxes {
            b.open(0, &mut rng).map_err(|e| e.to_string())?;
        }
        let mut small = Self {
            rng,
            t: SEC,
            boxes,
            todo: Default::default(),
            line: Default::default(),
            connected: false,
            history: History::new(GROUP),
            mirror: Seq::ZERO,
            next_io: 1,
            next_op: 1,
            armed: false,
            totals: Explored::default(),
        };
        small.drain(0)?;
        small.drain(1)?;
        small.disks()?;
        let (peer, instance) = (small.boxes[1].id, first_instance(&mut small.rng));
        let now = small.boxes[0].clock.now(small.t);
        if let Some(p) = &mut small.boxes[0].process {
            p.group.add_peer(now, peer, instance).map_err(|e| e.to_string())?;
        }
        small.drain(0)?;
        small.disks()?;
        small.step(Step::LinkAck)?;
        let copied = |n: usize| small.boxes[n].group().is_some_and(|g| g.meta().copy().is_none());
        if !copied(1) {
            return Err("the first copy is not complete".into());
        }
        Ok(small)
    }

    fn event(&mut self, n: usize, event: Event) -> Result<(), String> {
        let now = self.boxes[n].clock.now(self.t);
        if let Some(p) = &mut self.boxes[n].process {
            p.group.handle(now, event);
        }
        self.drain(n)
    }

    fn drain(&mut self, n: usize) -> Result<(), String> {
        while let Some(effect) = self.boxes[n].process.as_mut().and_then(|p| p.group.poll_effect()) {
            if let Some(token) = token_of(&effect) {
                if let Effect::WriteCache { at, bufs, .. } = &effect
                    && n == 0
                {
                    tap(&mut self.history, *at, bufs)?;
                }
                // Known to the box as well: it says what a cut would leave undecided.
                let op = self.next_op;
                self.next_op += 1;
                if let Some(p) = &mut self.boxes[n].process {
                    p.pending.insert(op, (token, copy_of(&effect, token)));
                }
                self.todo[n].push_back((token, effect, op));
                continue;
            }
            match effect {
                Effect::WantSegment => {
                    let (grant, fill) = (self.boxes[n].grant(), self.boxes[n].fill());
                    let now = self.boxes[n].clock.now(self.t);
                    if let Some(p) = &mut self.boxes[n].process {
                        p.group.handle(now, Event::Granted(grant));
                        p.group.handle(now, Event::Cache(fill));
                    }
                }
                Effect::FreeSegments(segments) => self.boxes[n].give_back(&segments),
                Effect::Reply(io, Ok(HostReply::Done)) => self.history.answered(io.0)?,
                Effect::Reply(io, other) => return Err(format!("operation {} is answered with {other:?}", io.0)),
                Effect::LinkSend(_, message, payload) if self.connected => {
                    let mut bytes = vec![0; headroom(message.kind())];
                    payload.iter().for_each(|p| bytes.extend_from_slice(p));
                    self.line[n].push_back((message, bytes.into()));
                }
                Effect::LinkClose(..) => self.disconnect(Some(n))?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Does all disk operations, one by one; before each, every cut is looked into.
    fn disks(&mut self) -> Result<(), String> {
        while let Some(n) = (0..2).find(|n| !self.todo[*n].is_empty()) {
            for b in 0..2 {
                self.cut(b)?;
            }
            let Some((token, effect, op)) = self.todo[n].pop_front() else { break };
            if let Some(p) = &mut self.boxes[n].process {
                p.pending.remove(&op);
            }
            let result = self.boxes[n].carry_out(&effect);
            self.event(n, Event::Done(token, result))?;
            if n == 1 {
                self.mirror = self.boxes[1].group().map_or(self.mirror, |g| g.durable().seq);
            }
        }
        (0..2).try_for_each(|b| self.cut(b))
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Checkpoint => {
                self.disconnect(None)?;
                self.t += 11 * SEC;
                for _ in 0..3 {
                    for n in 0..2 {
                        self.event(n, Event::Tick)?;
                    }
                    self.disks()?;
                    self.t += 300 * MS;
                }
                Ok(())
            }
            Step::LinkAck => self.exchange(),
            host => {
                self.ask(host)?;
                self.disks()
            }
        }
    }

    /// Hosts ask everything first; then disks and line get their turn.
    fn burst(&mut self, workload: &[Step]) -> Result<(), String> {
        let (mut checkpoint, mut link) = (false, false);
        for step in workload {
            match step {
                Step::Checkpoint => checkpoint = true,
                Step::LinkAck => link = true,
                host => self.ask(*host)?,
            }
        }
        if link {
            self.exchange()?;
        }
        if checkpoint {
            self.step(Step::Checkpoint)?;
        }
        self.disks()
    }

    fn ask(&mut self, step: Step) -> Result<(), String> {
        let id = self.next_io;
        self.next_io += 1;
        let (asked, op) = match step {
            Step::Zero => {
                let at = extent(0, 5, 4);
                (Asked::Zero(vec![at]), HostOp::Zero { volume: at.volume, ranges: vec![(at.sector, at.sectors)] })
            }
            Step::Flush => (Asked::Flush, HostOp::Flush),
            _ => {
                let at = if step == Step::Write { extent(0, 4, 2) } else { extent(0, 5, 3) };
                (Asked::Write(at), HostOp::Write { extent: at, data: content(id, &at) })
            }
        };
        self.history.asked(id, asked);
        self.event(0, Event::Host(Io(id), op))
    }

    fn disconnect(&mut self, by: Option<usize>) -> Result<(), String> {
        if std::mem::take(&mut self.connected) {
            self.line = Default::default();
            for n in (0..2).filter(|n| by != Some(*n)) {
                self.event(n, Event::Link(PeerId::FIRST, LinkInput::Disconnected))?;
            }
        }
        Ok(())
    }

    fn exchange(&mut self) -> Result<(), String> {
        if !self.connected {
            self.connected = true;
            self.event(1, Event::Link(PeerId::FIRST, LinkInput::Connected { dialled: false }))?;
            self.event(0, Event::Link(PeerId::FIRST, LinkInput::Connected { dialled: true }))?;
        }
        loop {
            self.disks()?;
            let Some(from) = (0..2).find(|n| !self.line[*n].is_empty()) else { return Ok(()) };
            let Some((message, payload)) = self.line[from].pop_front() else { return Ok(()) };
            if message.kind().stream() == Stream::Bulk {
                self.event(from, Event::Link(PeerId::FIRST, LinkInput::Sent(payload.len() as u64)))?;
            }
            self.event(1 - from, Event::Link(PeerId::FIRST, LinkInput::received(message, payload)))?;
        }
    }

    /// Looks into every state that a cut of a box now may leave.
    fn cut(&mut self, n: usize) -> Result<(), String> {
        if !self.armed {
            return Ok(());
        }
        self.totals.cuts += 1;
        let undecided = self.boxes[n].undecided();
        let parts = parts(&undecided);
        self.totals.coarse += u64::from(undecided.len() > parts.len());
        let states = 1u32 << parts.len();
        let was: Vec<[u8; 512]> = undecided.iter().map(|u| self.boxes[n].get_sector(u.disk, u.sector)).collect();
        let mut outcome = Ok(());
        for state in 0..states {
            put(&mut self.boxes[n], &parts, state);
            outcome = self.look(n, state == 0 || state + 1 == states);
            if let Err(what) = &outcome {
                let what = format!("cut of box {n}, state {state} of {states}: {what}");
                outcome = Err(what);
                break;
            }
        }
        for (u, was) in undecided.iter().zip(&was) {
            self.boxes[n].set_sector(u.disk, u.sector, was);
        }
        outcome
    }

    fn look(&mut self, n: usize, nested: bool) -> Result<(), String> {
        self.totals.states += 1;
        let Self { boxes, rng, history, mirror, totals, t, .. } = self;
        let floor = if n == 0 { history.acked() } else { *mirror };
        boxes[n].imagine(*t, rng, |b, end| {
            let end = checked(b, end, history, floor)?;
            if !nested {
                return Ok(());
            }
            // The seal of this recovery is cut too: the next one chooses the same.
            while let Some(effect) = b.process.as_mut().and_then(|p| p.group.poll_effect()) {
                if let (Some(token), Some(p)) = (token_of(&effect), &mut b.process) {
                    p.pending.insert(p.pending.len() as u64, (token, effect));
                }
            }
            let undecided = b.undecided();
            let parts = parts(&undecided);
            for state in 0..1u32 << parts.len() {
                put(b, &parts, state);
                totals.states += 1;
                totals.nested += 1;
                let again = b.imagine(*t, &mut Rng::new(7), |b, next| checked(b, next, history, floor))?;
                if again != end {
                    return Err(format!("a recovery chose {}, the next one {}", end.seq, again.seq));
                }
            }
            undecided.iter().for_each(|u| b.set_sector(u.disk, u.sector, &u.old));
            Ok(())
        })
    }
}

/// What a box opened with must be whole: everything acknowledged, nothing invented, the image as of its end.
fn checked(
    b: &SimBox,
    end: Result<Point, crate::pair::boxes::OpenError>,
    history: &History,
    floor: Seq,
) -> Result<Point, String> {
    let end = end.map_err(|e| format!("does not start: {e}"))?;
    if end.seq < floor {
        return Err(format!("{floor} was acknowledged, the log ends at {}", end.seq));
    }
    if history.hash(end.seq) != Some(end.hash) {
        return Err(format!("h({}) is not that of the host's history", end.seq));
    }
    let Some(group) = b.group() else { return Err("no group".into()) };
    let meta = group.meta();
    for seq in [meta.applying, end.seq] {
        let journal = group.journal();
        let plan = journal.plan_with(&journal.index_at(meta.applied, seq), extent(0, 0, ZONE));
        for piece in plan.pieces {
            let (first, len) = (piece.sector.get(), piece.sectors.get() as usize * 512);
            let cut = |at: u64, len: usize| Bytes::copy_from_slice(&b.disks.cache.bytes()[at as usize..][..len]);
            let bytes = match piece.source {
                PieceSource::Home => Bytes::copy_from_slice(&b.disks.homes[0].bytes()[first as usize * 512..][..len]),
                PieceSource::Zero => Bytes::from(vec![0; len]),
                PieceSource::Ram(bytes) => bytes,
                PieceSource::Disk(d) => d
                    .verify(&cut(d.header_at, d.header_len), &cut(d.payload_at, d.payload_len))
                    .map_err(|e| format!("journal does not read: {e}"))?,
            };
            if let Some((sector, is, should)) = history.differs(0, first, &bytes, seq) {
                return Err(format!("image at {seq}: sector {sector} is of write {is}, should be of {should}"));
            }
        }
    }
    Ok(end)
}

/// Cuts undecided sectors into at most [`UNITS_MAX`] neighbouring parts.
fn parts(undecided: &[Undecided]) -> Vec<&[Undecided]> {
    undecided.chunks(undecided.len().div_ceil(UNITS_MAX).max(1)).collect()
}

fn put(b: &mut SimBox, parts: &[&[Undecided]], state: u32) {
    for (i, part) in parts.iter().enumerate() {
        let new = state >> i & 1 == 1;
        part.iter().for_each(|u| b.set_sector(u.disk, u.sector, if new { &u.new } else { &u.old }));
    }
}

/// What the box needs to know of an operation under way: what it writes.
fn copy_of(effect: &Effect, token: Token) -> Effect {
    match effect {
        Effect::WriteCache { at, bufs, .. } => Effect::WriteCache { token, at: *at, bufs: bufs.clone() },
        Effect::WriteSuperblock { version, copy, .. } => {
            Effect::WriteSuperblock { token, version: *version, copy: copy.clone() }
        }
        Effect::WriteHome { leg, extent, bufs, .. } => {
            Effect::WriteHome { token, leg: *leg, extent: *extent, bufs: bufs.clone() }
        }
        Effect::ZeroHome { leg, extent, .. } => Effect::ZeroHome { token, leg: *leg, extent: *extent },
        Effect::ReadHome { leg, extent, .. } => Effect::ReadHome { token, leg: *leg, extent: *extent },
        Effect::ReadCache { at, len, .. } => Effect::ReadCache { token, at: *at, len: *len },
        _ => Effect::FlushHome { token, leg: LegId::FIRST, volumes: Vec::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workloads_are_there() {
        assert_eq!(workloads(3).len(), 6 + 36 + 216);
    }

    #[test]
    fn single_operations_survive_every_cut() {
        let mut sum = Explored::default();
        for workload in workloads(1) {
            sum.add(&explore(&workload, false).unwrap());
        }
        // Nothing here is left to chance: fewer means that something is not cut any more.
        assert_eq!((sum.cuts, sum.states, sum.nested, sum.coarse), (22, 171, 100, 0), "{sum:?}");
    }
}
