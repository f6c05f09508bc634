//! The world: a queue of events in simulated time, and what each does.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use bytes::Bytes;
use reprise_engine::{Effect, Event, Group, HostError, HostOp, HostReply, Io, Notice};
use reprise_format::unit;
use reprise_link::backoff::Backoff;
use reprise_types::{Extent, InitiatorPort, Registration, Reservation, ReservationType, Seq, UnitState, VolumeSlot};

use crate::Rng;
use crate::pair::boxes::{Disks, GROUP, SimBox};
use crate::pair::digest::Digest;
use crate::pair::history::{Asked, History, VOLUME_SECTORS, content, extent, stamp};
use crate::pair::holds::{Hold, Holds};
use crate::pair::home_rot::HomeRot;
use crate::pair::net::Conn;
use crate::pair::newer::Changed;
use crate::pair::operations::token_of;
use crate::pair::plan::{HostAction, MS, Plan, SEC, Trouble, What};
use crate::pair::rounds::Rounds;

/// Operations a host has under way at most.
const OUTSTANDING_MAX: usize = 32;
/// Events after which a run counts as going round in circles.
const EVENTS_MAX: u64 = 30_000_000;

/// Something that is to happen.
#[derive(Debug)]
pub(super) enum Next {
    Item(usize),
    Trouble(Trouble),
    Io {
        n: usize,
        life: u64,
        op: u64,
    },
    Tick {
        n: usize,
        life: u64,
    },
    Dial,
    Accept {
        conn: u64,
    },
    Connected {
        conn: u64,
    },
    Gone {
        conn: u64,
        n: usize,
    },
    Pump {
        conn: u64,
        from: usize,
    },
    Arrive {
        conn: u64,
        from: usize,
        bytes: Vec<u8>,
    },
    Start {
        n: usize,
        nested: VecDeque<u64>,
    },
    Cut {
        n: usize,
        life: u64,
    },
    Unblock {
        from: usize,
    },
    Speed {
        n: usize,
    },
    Memory {
        n: usize,
    },
    Unpause,
    /// The mirror's homes have room again.
    Room,
    Operator,
    Snapshot {
        n: usize,
        of: usize,
    },
    View {
        n: usize,
    },
    Compare {
        bytes_per_sec: u64,
        repair: bool,
    },
    /// A host changes what a unit remembers.
    Unit {
        volume: u16,
    },
    Look,
}

struct Scheduled {
    at: u64,
    order: u64,
    next: Next,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What may be wrong because of what was done to a box: only what a fault explains is excused.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Excuse {
    /// Its journal lost or changed bytes that it had reported durable.
    pub(super) damaged: bool,
    /// Its disks gave errors.
    pub(super) io: bool,
    /// Starts in a row that such an error may have failed.
    pub(super) refusals: u32,
}

/// The disks of a box as they were, and what was wrong with them.
pub(super) struct Snapshot {
    pub(super) disks: Disks,
    pub(super) excuse: Excuse,
    pub(super) blind: Option<Seq>,
    /// Forks of the histories before it.
    pub(super) forks: u64,
    /// The last record they may hold.
    pub(super) end: Seq,
}

/// What a run went through.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Faults that struck, by class of the fault model.
    pub classes: BTreeMap<u8, u64>,
    /// Operations of hosts that change a volume and were acknowledged.
    pub writes: u64,
    /// Reads that were checked.
    pub reads: u64,
    /// Times a box went off.
    pub restarts: u64,
    /// Images compared with the history at one Seq.
    pub images: u64,
    /// First copies completed.
    pub copies: u64,
    /// Handshakes that let data flow.
    pub links: u64,
    /// Times the link, a journal or a home stopped and said why, after a fault that explains it.
    pub detected: u64,
    /// What a person had to do, after such a stop.
    pub commands: u64,
    /// Comparisons of both boxes that came to an end.
    pub compared: u64,
    /// Rounds of homes that were checked.
    pub rounds: u64,
    /// The most rounds that a home was behind when its first copy ended.
    pub behind: u64,
    /// Times hosts waited for a full cache.
    pub cache_full: u64,
    /// Nanoseconds in which operations of hosts were not answered, by the reason.
    pub held: BTreeMap<Hold, u64>,
    /// Tails that a lone box lost with a disk that had lied, and that nobody could have known of.
    pub undetectable: u64,
    /// Events handled.
    pub events: u64,
}

/// The world.
pub struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) t: u64,
    queue: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    /// Disk operations so far, by box and lane.
    pub(super) submitted: BTreeMap<(usize, u64), u64>,
    pub(super) boxes: [SimBox; 2],
    pub(super) conns: BTreeMap<u64, Conn>,
    /// The connection each box uses.
    pub(super) conn: [Option<u64>; 2],
    pub(super) next_conn: u64,
    pub(super) dialing: bool,
    pub(super) backoff: Backoff,
    /// Way n is what box n sends: blocked until Unblock.
    pub(super) blocked: [bool; 2],
    /// Added to the latency of a way.
    pub(super) stall: [u64; 2],
    pub(super) history: History,
    /// The mirror's line where it is not the source's.
    pub(super) other_line: Option<History>,
    /// A line that the source has left, of which the old connection may still bring the mirror something.
    pub(super) passing: Option<History>,
    /// The furthest the mirror's journal has been, in its present life on disk.
    pub(super) mirror_written: Seq,
    /// What each box last said is durable.
    pub(super) durable: [Option<Seq>; 2],
    pub(super) excuse: [Excuse; 2],
    /// The mirror is not the one that the source knows: emptied, or with an older disk.
    pub(super) mirror_odd: bool,
    /// The source came back with an older disk.
    pub(super) source_odd: bool,
    /// The mirror was attached.
    pub(super) added: bool,
    pub(super) paused: bool,
    /// The image of a box is not checked until it has applied this much: its disk lied about flushes, and home holds
    /// more than the journal.
    pub(super) blind: [Option<Seq>; 2],
    /// The source is gone for good.
    pub(super) source_lost: Option<String>,
    pub(super) forks: u64,
    pub(super) snapshots: BTreeMap<usize, Snapshot>,
    pub(super) operator_due: bool,
    pub(super) unreadable: [u32; 2],
    /// A cut after so many more disk operations of this box, and the cuts after that.
    pub(super) cut_after: [Option<(u64, VecDeque<u64>)>; 2],
    /// The comparison that is at work.
    pub(super) comparing: Option<u64>,
    /// What leaves the boxes, where it is wanted.
    pub(super) digest: Option<Digest>,
    pub(super) holds: Holds,
    /// Rounds of the boxes' homes.
    pub(super) rounds: [Rounds; 2],
    /// Rot in the mirror's homes.
    pub(super) home_rot: HomeRot,
    /// Bytes of a newer release on the boxes' caches.
    pub(super) newer: [Option<Changed>; 2],
    /// Troubles that wait for a first copy.
    pub(super) ambush: Vec<(u64, Trouble)>,
    pub(super) host_queue: VecDeque<HostAction>,
    pub(super) outstanding: BTreeMap<u64, HostAction>,
    next_io: u64,
    pub(super) counts: Counts,
    pub(super) trace: Option<Vec<String>>,
    pub(super) print: bool,
    pub(super) wrong: Option<String>,
}

macro_rules! say {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace.is_some() {
            let text = format!($($arg)*);
            $world.note(text);
        }
    };
}
pub(super) use say;

impl World {
    /// The world before anything happens.
    pub fn new(plan: Plan, trace: bool) -> Self {
        let mut rng = Rng::new(plan.seed);
        let boxes = [SimBox::new(0, &plan, &mut rng), SimBox::new(1, &plan, &mut rng)];
        Self {
            rng,
            t: 0,
            queue: BinaryHeap::new(),
            order: 0,
            submitted: BTreeMap::new(),
            boxes,
            conns: BTreeMap::new(),
            conn: [None; 2],
            next_conn: 1,
            dialing: false,
            backoff: Backoff::default(),
            blocked: [false; 2],
            stall: [0; 2],
            history: History::of(GROUP, plan.first_sectors()),
            other_line: None,
            passing: None,
            mirror_written: Seq::ZERO,
            durable: [None; 2],
            excuse: [Excuse::default(); 2],
            mirror_odd: false,
            source_odd: false,
            added: false,
            paused: false,
            blind: [None; 2],
            source_lost: None,
            forks: 0,
            snapshots: BTreeMap::new(),
            operator_due: false,
            unreadable: [0; 2],
            cut_after: [None, None],
            comparing: None,
            digest: None,
            holds: Holds::default(),
            rounds: [Rounds::default(), Rounds::default()],
            home_rot: HomeRot::default(),
            newer: [None, None],
            ambush: Vec::new(),
            host_queue: VecDeque::new(),
            outstanding: BTreeMap::new(),
            next_io: 1,
            counts: Counts::default(),
            trace: trace.then(Vec::new),
            print: false,
            wrong: None,
            plan,
        }
    }

    pub(super) fn note(&mut self, text: String) {
        let line = format!("{:>12.6} s  {text}", self.t as f64 / SEC as f64);
        if self.print {
            println!("{line}");
        }
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    /// A violation: the first one counts.
    pub(super) fn fail(&mut self, what: String) {
        say!(self, "WRONG: {what}");
        self.wrong.get_or_insert(what);
    }

    pub(super) fn after(&mut self, delay: u64, next: Next) {
        self.order += 1;
        self.queue.push(Reverse(Scheduled { at: self.t + delay, order: self.order, next }));
    }

    pub(super) fn name(n: usize) -> &'static str {
        ["source", "mirror"][n]
    }

    /// Puts the plan on the queue and starts both boxes.
    pub(super) fn begin(&mut self) {
        for n in 0..2 {
            self.after(0, Next::Start { n, nested: VecDeque::new() });
        }
        let items: Vec<(usize, u64)> = self.plan.active().map(|(i, item)| (i, item.at)).collect();
        for (i, at) in items {
            if let What::Trouble(super::plan::Trouble::Older(n, ago)) = self.plan.items[i].what {
                self.after(at.saturating_sub(ago), Next::Snapshot { n, of: i });
            }
            self.after(at, Next::Item(i));
        }
        self.after(self.plan.length / 12, Next::Operator);
        for (at, bytes_per_sec, repair) in self.plan.comparisons() {
            self.after(at, Next::Compare { bytes_per_sec, repair });
        }
        for (at, volume) in self.plan.unit_changes() {
            self.after(at, Next::Unit { volume });
        }
        self.after(SEC, Next::Look);
    }

    /// Handles events until `until`, or something is wrong, or `done` says so.
    pub(super) fn run_until(&mut self, until: u64, done: impl Fn(&Self) -> bool) {
        while self.wrong.is_none() && self.source_lost.is_none() && !done(self) {
            let Some(Reverse(first)) = self.queue.peek() else { return };
            if first.at > until {
                self.t = until;
                return;
            }
            let Some(Reverse(Scheduled { at, next, .. })) = self.queue.pop() else { return };
            self.t = at.max(self.t);
            self.counts.events += 1;
            if self.counts.events > EVENTS_MAX {
                self.fail("goes round in circles".into());
            }
            self.handle(next);
            self.pump_host();
        }
    }

    fn handle(&mut self, next: Next) {
        match next {
            Next::Item(i) => self.item(i),
            Next::Trouble(trouble) => self.trouble(usize::MAX, trouble),
            Next::Io { n, life, op } => self.io_done(n, life, op),
            Next::Tick { n, life } => self.tick(n, life),
            Next::Dial => self.dial(),
            Next::Accept { conn } => self.accept(conn),
            Next::Connected { conn } => self.connected(conn),
            Next::Gone { conn, n } => self.gone(conn, n),
            Next::Pump { conn, from } => self.pump(conn, from),
            Next::Arrive { conn, from, bytes } => self.arrive(conn, from, bytes),
            Next::Start { n, nested } => self.start(n, nested),
            Next::Cut { n, life } => {
                if self.boxes[n].life == life {
                    self.cut_power(n, 10 * MS);
                }
            }
            Next::Unblock { from } => self.unblock(from),
            Next::Speed { n } => (self.boxes[n].slow, self.boxes[n].slow_home) = (1, 1),
            Next::Memory { n } => {
                if let Some(p) = &mut self.boxes[n].process {
                    p.group.set_memory_short(false);
                }
            }
            Next::Unpause => self.unpause(),
            Next::Room => {
                self.boxes[1].room = VOLUME_SECTORS;
                let t = self.t;
                self.boxes[1].say_room(t);
                self.drain(1);
            }
            Next::Operator => self.operator(),
            Next::Snapshot { n, of } => {
                let disks = self.boxes[n].disks.clone();
                // A disk that is set aside has kept what it reported, and is of the history that goes on.
                let odd = disks.cache.is_lying() || self.boxes[n].lost || (n == 1 && self.other_line.is_some());
                if !self.boxes[n].empty && !odd && self.newer[n].is_none() {
                    let (excuse, blind, forks) = (self.excuse[n], self.blind[n], self.forks);
                    let end = if n == 0 { self.history.end() } else { self.mirror_written };
                    self.snapshots.insert(of, Snapshot { disks, excuse, blind, forks, end });
                }
            }
            Next::View { n } => self.check_view(n),
            Next::Compare { bytes_per_sec, repair } => self.compare(bytes_per_sec, repair),
            Next::Unit { volume } => self.host_queue.push_back(HostAction::Unit(volume)),
            Next::Look => {
                let n = self.rng.below(2) as usize;
                self.check_view(n);
                let wait = self.rng.range(500, 8_000) * MS;
                self.after(wait, Next::Look);
            }
        }
    }

    fn item(&mut self, i: usize) {
        match self.plan.items[i].what.clone() {
            What::Host(action) => self.host_acts(action),
            What::Trouble(trouble) => self.trouble(i, trouble),
        }
    }

    /// Tells a group what happened and does what follows.
    pub(super) fn event(&mut self, n: usize, event: Event) {
        let now = self.boxes[n].clock.now(self.t);
        let Some(p) = &mut self.boxes[n].process else { return };
        p.group.handle(now, event);
        self.drain(n);
    }

    /// A command to a group.
    pub(super) fn command<R>(&mut self, n: usize, f: impl FnOnce(&mut Group, reprise_types::Now) -> R) -> Option<R> {
        let now = self.boxes[n].clock.now(self.t);
        let p = self.boxes[n].process.as_mut()?;
        let result = f(&mut p.group, now);
        self.drain(n);
        Some(result)
    }

    pub(super) fn drain(&mut self, n: usize) {
        while let Some(effect) = self.boxes[n].process.as_mut().and_then(|p| p.group.poll_effect()) {
            self.fold(n, &effect);
            if let Some(token) = token_of(&effect) {
                self.submit(n, token, effect);
                continue;
            }
            match effect {
                Effect::WantSegment => {
                    let grant = self.boxes[n].grant();
                    let fill = self.boxes[n].fill();
                    let now = self.boxes[n].clock.now(self.t);
                    if let Some(p) = &mut self.boxes[n].process {
                        p.group.handle(now, Event::Granted(grant));
                        p.group.handle(now, Event::Cache(fill));
                    }
                }
                Effect::FreeSegments(segments) => self.boxes[n].give_back(&segments),
                Effect::Reply(io, result) => self.reply(io, result),
                Effect::LinkSend(_, message, payload) => self.send(n, message, payload),
                Effect::LinkClose(_, reason) => self.close(n, reason),
                Effect::Notice(notice) => self.notice(n, notice),
                _ => {}
            }
        }
        self.check_step(n);
        if n == 0 {
            self.check_holds();
        }
        self.schedule_tick(n);
    }

    fn schedule_tick(&mut self, n: usize) {
        let t = self.t;
        let b = &mut self.boxes[n];
        let (clock, life) = (b.clock, b.life);
        let Some(p) = &mut b.process else { return };
        let delay = clock.until(t, p.group.deadline()).max(10_000);
        if p.tick_at > t + delay {
            p.tick_at = t + delay;
            self.after(delay, Next::Tick { n, life });
        }
    }

    fn tick(&mut self, n: usize, life: u64) {
        if self.boxes[n].life != life {
            return;
        }
        let fill = self.boxes[n].fill();
        if let Some(p) = &mut self.boxes[n].process {
            if p.tick_at > self.t {
                return;
            }
            p.tick_at = u64::MAX;
        }
        self.event(n, Event::Cache(fill));
        self.event(n, Event::Tick);
        if n == 0 {
            self.want_dial();
        }
    }

    fn host_acts(&mut self, action: HostAction) {
        match action {
            HostAction::Resize(volume, more) => self.resize(volume, more),
            HostAction::Abort => drop(self.outstanding.pop_first()),
            HostAction::SessionLoss => {
                let again: Vec<HostAction> = std::mem::take(&mut self.outstanding).into_values().collect();
                self.host_queue.extend(again);
            }
            action => self.host_queue.push_back(action),
        }
    }

    /// Hosts ask as long as they may have more under way.
    fn pump_host(&mut self) {
        while self.outstanding.len() < OUTSTANDING_MAX && !self.host_queue.is_empty() {
            let serving = self.boxes[0].group().is_some_and(|g| g.is_ready() && !g.is_fenced());
            if !serving || self.wrong.is_some() {
                return;
            }
            // Some of it is taken in one go, as what one read of a socket brings.
            let count = self.rng.range(1, 4) as usize;
            let now = self.boxes[0].clock.now(self.t);
            for _ in 0..count {
                let Some(action) = self.host_queue.pop_front() else { break };
                if !self.inside(&action) {
                    continue;
                }
                let id = self.next_io;
                self.next_io += 1;
                let (asked, op) = self.ask(id, &action);
                self.history.asked(id, asked);
                self.outstanding.insert(id, action);
                if let Some(p) = &mut self.boxes[0].process {
                    p.group.take(now, Event::Host(Io(id), op));
                }
            }
            self.command(0, |g, now| g.settle(now));
        }
    }

    /// Hosts ask for nothing behind the end that they were told of.
    fn inside(&self, action: &HostAction) -> bool {
        let served = |v: u16| self.boxes[0].group().and_then(|g| g.served_sectors(VolumeSlot::from_raw(v)));
        let fits = |v: u16, end: u64| served(v).is_some_and(|sectors| end <= sectors.get());
        match action {
            HostAction::Write(v, s, n) | HostAction::Read(v, s, n) | HostAction::Compare(v, s, n, _) => fits(*v, s + n),
            HostAction::Zero(v, ranges) => ranges.iter().all(|(s, n)| fits(*v, s + n)),
            HostAction::Unit(_) | HostAction::Flush => true,
            HostAction::Resize(..) | HostAction::Abort | HostAction::SessionLoss => true,
        }
    }

    fn ask(&mut self, id: u64, action: &HostAction) -> (Asked, HostOp) {
        match action {
            HostAction::Write(v, s, n) => {
                let at = extent(*v, *s, *n);
                (Asked::Write(at), HostOp::Write { extent: at, data: content(id, &at) })
            }
            HostAction::Zero(v, ranges) => {
                let extents: Vec<Extent> = ranges.iter().map(|(s, n)| extent(*v, *s, *n)).collect();
                let ranges = extents.iter().map(|e| (e.sector, e.sectors)).collect();
                let volume = extents[0].volume;
                (Asked::Zero(extents), HostOp::Zero { volume, ranges })
            }
            HostAction::Compare(v, s, n, right) => {
                let at = extent(*v, *s, *n);
                let mut ids = self.history.ids(&at);
                if !right {
                    ids[0] += 1;
                }
                let mut verify = vec![0; *n as usize * 512];
                for ((sector, id), out) in (*s..).zip(&ids).zip(verify.chunks_exact_mut(512)) {
                    stamp(*id, *v, sector, out);
                }
                let op = HostOp::CompareAndWrite { extent: at, verify: verify.into(), data: content(id, &at) };
                (Asked::Compare(at, ids), op)
            }
            HostAction::Read(v, s, n) => {
                let at = extent(*v, *s, *n);
                (Asked::Read(at), HostOp::Read(at))
            }
            HostAction::Unit(v) => {
                let state = unit_state(id);
                let op = HostOp::Unit { volume: VolumeSlot::from_raw(*v), state: state.clone() };
                (Asked::Unit(*v, unit::to_payload(&state)), op)
            }
            HostAction::Flush | HostAction::Abort | HostAction::SessionLoss | HostAction::Resize(..) => {
                (Asked::Flush, HostOp::Flush)
            }
        }
    }

    fn reply(&mut self, io: Io, result: Result<HostReply, HostError>) {
        let action = self.outstanding.remove(&io.0);
        let checked = match result {
            Ok(HostReply::Done) => {
                let changes = !matches!(action, Some(HostAction::Flush) | None);
                self.counts.writes += u64::from(changes);
                self.history.answered(io.0)
            }
            Ok(HostReply::Data(pieces)) => {
                self.counts.reads += 1;
                self.history.read(io.0, &pieces.concat())
            }
            Err(HostError::Miscompare(_)) => self.history.miscompared(io.0),
            Err(HostError::Fenced) if self.excuse[0].io => {
                self.history.failed(io.0);
                self.host_queue.extend(action);
                Ok(())
            }
            Err(HostError::Unreadable(_)) if self.excuse[0].io || self.excuse[0].damaged => {
                self.counts.detected += 1;
                self.history.failed(io.0);
                Ok(())
            }
            Err(error) => Err(format!("operation {} of a host fails: {error}", io.0)),
        };
        if let Err(what) = checked {
            self.fail(what);
        }
    }

    fn notice(&mut self, n: usize, notice: Notice) {
        say!(self, "{}: {notice:?}", Self::name(n));
        match notice {
            Notice::Fenced(_) | Notice::HomeFailed(_) => {
                if !self.excuse[n].io {
                    self.fail(format!("{} stops with no fault: {notice:?}", Self::name(n)));
                }
                self.counts.detected += 1;
                self.want_operator();
            }
            Notice::JournalUnreadable(_) => {
                if !(self.excuse[n].io || self.excuse[n].damaged) {
                    self.fail(format!("{} cannot read its journal, with no fault: {notice:?}", Self::name(n)));
                }
                self.counts.detected += 1;
                self.unreadable[n] += 1;
                self.want_operator();
            }
            Notice::CacheFull => {
                self.counts.cache_full += 1;
                *self.counts.classes.entry(8).or_default() += 1;
            }
            Notice::LinkUp(row) => self.link_up(n, row),
            Notice::LinkStopped(row) => self.link_stopped(n, row),
            Notice::LinkFault(text) => {
                let tainted = self.conn[n].and_then(|c| self.conns.get(&c)).is_none_or(|c| c.tainted);
                if !tainted {
                    self.fail(format!("{}: link fault with no fault: {text}", Self::name(n)));
                }
                self.counts.detected += 1;
            }
            Notice::CopyComplete => {
                self.counts.copies += u64::from(n == 0);
                self.counts.behind = self.counts.behind.max(self.rounds_behind(n));
                // The mirror has a whole image from here on.
                self.after(0, Next::View { n });
            }
            _ => {}
        }
    }

    pub(super) fn want_operator(&mut self) {
        if !std::mem::replace(&mut self.operator_due, true) {
            let wait = self.rng.range(500, 5_000) * MS;
            self.after(wait, Next::Operator);
        }
    }

    /// Items of the plan and other things to come are dropped: nothing more goes wrong.
    pub(super) fn calm(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue
            .into_iter()
            .filter(|Reverse(s)| {
                !matches!(s.next, Next::Item(_) | Next::Trouble(_) | Next::Cut { .. } | Next::Snapshot { .. })
            })
            .collect();
        self.cut_after = [None, None];
        self.ambush.clear();
    }

    /// The bytes of a piece of a box's disks.
    pub(super) fn peek(&mut self, n: usize, home: Option<usize>, at: u64, len: usize) -> Bytes {
        let disks = &mut self.boxes[n].disks;
        let disk = home.map_or(&disks.cache, |v| &disks.homes[v]);
        Bytes::copy_from_slice(&disk.bytes()[at as usize..at as usize + len])
    }

    /// Rows that hosts have under way, for the message when a run does not end.
    pub(super) fn waiting(&self) -> BTreeSet<u64> {
        self.outstanding.keys().copied().collect()
    }
}

/// A state of a unit that only operation `id` asks for.
fn unit_state(id: u64) -> UnitState {
    let [a, b, c, d, e, f, ..] = id.to_le_bytes();
    let port = InitiatorPort::new("iqn.2026-01.invalid.example:host", [a, b, c, d, e, f]);
    let registration = Registration { port: port.clone(), relative_port: 1, key: id };
    let held = id.is_multiple_of(2).then_some(Reservation { kind: ReservationType::ExclusiveAccess, holder: port });
    UnitState { registrations: vec![registration], reservation: held, software_write_protect: false }
}
