//! The owner of a group on its thread: events in, effects carried out.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reprise_engine::{Effect, Event, Group, Io, IoFault, LinkInput, Token};
use reprise_iscsi::{Acl, TaskTag, Throttle};
use reprise_media::{DurabilityChoice, Media, Ring};
use reprise_types::{BufPool, Mono, SectorCount, VolumeSlot};
use tokio::sync::{Notify, mpsc};

use super::handle::GroupNotice;
use super::iscsi::Session;
use super::latency::Latencies;
use super::link::LinkConn;
use super::thread::GroupDeps;
use super::units::Units;
use crate::clock;
use crate::pool::IndexShare;

/// Commands that a session may have under way.
const WINDOW: u32 = 128;
/// The same while buffers are short: MaxCmdSN is the only way to tell an initiator that it has to wait, and what it
/// may still send stands in its socket in front of its task management functions.
const WINDOW_SHORT: u32 = 16;

/// An operation of a host that is with the engine.
struct UnderWay {
    session: Rc<Session>,
    tag: TaskTag,
    since: Instant,
    read: bool,
}

/// Everything of a group that lives on its thread.
pub(super) struct Owner {
    pub(super) deps: GroupDeps,
    pub(super) group: RefCell<Group>,
    pub(super) ring: Ring,
    /// How the cache is written durably.
    pub(super) durability: RefCell<DurabilityChoice>,
    pub(super) slot: usize,
    pub(super) homes: RefCell<HashMap<VolumeSlot, Arc<Media>>>,
    /// Buffers for what hosts write.
    pub(super) buffers: BufPool,
    /// How large the group's index is, for the box.
    pub(super) index: IndexShare,
    /// Woken when a buffer comes back.
    pub(super) buffers_free: Arc<Notify>,
    /// Operations of hosts that are with the engine.
    ios: RefCell<HashMap<u64, UnderWay>>,
    pub(super) latencies: RefCell<Latencies>,
    next_io: Cell<u64>,
    pub(super) sessions: RefCell<Vec<Weak<Session>>>,
    pub(super) acl: RefCell<Acl>,
    /// Of initiators with a limit, by name.
    pub(super) throttles: RefCell<HashMap<String, Weak<RefCell<Throttle>>>>,
    pub(super) next_tsih: Cell<u16>,
    pub(super) units: Units,
    pub(super) link: RefCell<Option<Rc<LinkConn>>>,
    notices: mpsc::Sender<GroupNotice>,
    /// Woken when a volume's state may have changed.
    pub(super) changed: Notify,
    short: Cell<bool>,
    /// The session that may go beyond the limit while all wait for each other.
    pub(super) overdrawn: RefCell<Weak<Session>>,
    busy: Cell<bool>,
    waiting: RefCell<VecDeque<Event>>,
    /// Why a segment could not be prepared, until one could.
    pub(super) segment_fault: RefCell<Option<String>>,
    /// No segment is prepared before.
    pub(super) segment_pause: Cell<Mono>,
}

impl Owner {
    pub(super) fn new(deps: GroupDeps, slot: usize, group: Group, ring: Ring) -> Rc<Self> {
        // The RAM tail keeps the buffers it came in.
        let buffers = deps.buffers.part(deps.limits.buffer_bytes + deps.limits.ram_tail_bytes);
        let index = deps.allocator.index_share();
        let buffers_free = Arc::new(Notify::new());
        let wake = buffers_free.clone();
        buffers.set_on_free(Arc::new(move || wake.notify_waiters()));
        let homes = deps.homes.iter().map(|h| (h.slot, h.media.clone())).collect();
        Rc::new(Self {
            group: RefCell::new(group),
            ring,
            durability: RefCell::default(),
            slot,
            homes: RefCell::new(homes),
            buffers,
            index,
            buffers_free,
            ios: RefCell::default(),
            latencies: RefCell::default(),
            next_io: Cell::new(1),
            sessions: RefCell::default(),
            throttles: RefCell::default(),
            acl: RefCell::new(deps.target.acl.clone()),
            next_tsih: Cell::new(1),
            units: Units::default(),
            link: RefCell::default(),
            notices: deps.notices.clone(),
            changed: Notify::new(),
            short: Cell::new(false),
            overdrawn: RefCell::default(),
            busy: Cell::new(false),
            waiting: RefCell::default(),
            segment_fault: RefCell::default(),
            segment_pause: Cell::default(),
            deps,
        })
    }

    /// Tells the engine what room the home of a volume has.
    pub(super) fn home_grown(&self, slot: VolumeSlot) {
        let size = self.homes.borrow().get(&slot).map(|home| home.size().get());
        if let Some(size) = size {
            self.group.borrow_mut().set_home_size(clock::now(), slot, SectorCount::from_raw(size / 512));
        }
    }

    /// Names an operation of a host. All of it has come; how long it waits for its answer counts from here.
    pub(super) fn register(&self, session: &Rc<Session>, tag: TaskTag, read: bool) -> Io {
        let io = self.fresh_io();
        let under_way = UnderWay { session: session.clone(), tag, since: Instant::now(), read };
        self.ios.borrow_mut().insert(io.0, under_way);
        io
    }

    /// A name for an operation.
    pub(super) fn fresh_io(&self) -> Io {
        let io = self.next_io.get();
        self.next_io.set(io + 1);
        Io(io)
    }

    /// Takes an event without what follows from it; [`Self::settle`] must come soon.
    pub(super) fn take(&self, event: Event) {
        self.group.borrow_mut().take(clock::now(), event);
    }

    /// Does what follows from the events taken.
    pub(super) fn settle(self: &Rc<Self>) {
        self.group.borrow_mut().settle(clock::now());
        self.drain();
    }

    /// An event and what follows from it.
    pub(super) fn event(self: &Rc<Self>, event: Event) {
        if self.busy.get() {
            // Carried out by the loop that is already draining.
            self.waiting.borrow_mut().push_back(event);
            return;
        }
        self.group.borrow_mut().handle(clock::now(), event);
        self.drain();
    }

    pub(super) fn done(self: &Rc<Self>, token: Token, result: Result<Bytes, IoFault>) {
        self.event(Event::Done(token, result));
    }

    fn drain(self: &Rc<Self>) {
        if self.busy.replace(true) {
            return;
        }
        loop {
            let effect = self.group.borrow_mut().poll_effect();
            if let Some(effect) = effect {
                self.carry_out(effect);
                continue;
            }
            let event = self.waiting.borrow_mut().pop_front();
            let Some(event) = event else { break };
            self.group.borrow_mut().handle(clock::now(), event);
        }
        self.busy.set(false);
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Reply(io, reply) => {
                if self.change_done(io.0, &reply) {
                    return;
                }
                let found = self.ios.borrow_mut().remove(&io.0);
                if let Some(UnderWay { session, tag, since, read }) = found {
                    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let mut latencies = self.latencies.borrow_mut();
                    if read {
                        latencies.reads.add(micros)
                    } else {
                        latencies.writes.add(micros)
                    }
                    drop(latencies);
                    session.reply(tag, reply);
                }
            }
            Effect::LinkSend(message, payload) => {
                if let Some(link) = self.link.borrow().as_ref() {
                    link.send(message, payload);
                }
            }
            Effect::LinkClose(reason) => {
                tracing::info!(group = %self.deps.name, ?reason, "link closed");
                drop(self.link.borrow_mut().take());
            }
            Effect::Notice(notice) => {
                let group = self.group.borrow().meta().group;
                // Bounded: whoever reads is slow or gone, and the state itself is in the snapshot.
                let _ = self.notices.try_send(GroupNotice { group, notice });
            }
            disk => self.carry_out_disk(disk),
        }
    }

    /// A session waits for a buffer: what is durable leaves memory.
    pub(super) fn memory_short(&self) {
        if !self.short.replace(true) {
            self.live_sessions().iter().for_each(|s| s.set_window(WINDOW_SHORT));
        }
        self.group.borrow_mut().set_memory_short(true);
    }

    /// Commands that a session may have under way.
    pub(super) fn command_window(&self) -> u32 {
        if self.short.get() { WINDOW_SHORT } else { WINDOW }
    }

    /// Once half of the buffers are back, durable batches are kept again. While the box is nearly out of buffers, no group
    /// keeps any: another one may be waiting for them.
    pub(super) fn memory_tick(&self) {
        let (used, limit) = self.buffers.whole();
        if self.short.get() {
            // What another group gave back wakes nobody here.
            self.buffers_free.notify_waiters();
            if self.buffers.used() < self.buffers.limit() / 2 && used < limit / 2 {
                self.short.set(false);
                self.live_sessions().iter().for_each(|s| s.set_window(WINDOW));
                self.overdrawn.replace(Weak::new());
                self.group.borrow_mut().set_memory_short(false);
            }
        } else if used > limit / 8 * 7 {
            self.memory_short();
        }
    }

    /// Gives the engine what the link brought.
    pub(super) fn link_input(self: &Rc<Self>, input: LinkInput) {
        self.event(Event::Link(input));
    }

    /// Sessions that are there.
    pub(super) fn live_sessions(&self) -> Vec<Rc<Session>> {
        let mut sessions = self.sessions.borrow_mut();
        sessions.retain(|s| s.strong_count() > 0);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }
}
