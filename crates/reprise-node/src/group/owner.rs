//! The owner of a group on its thread: events in, effects carried out.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use reprise_engine::{CommandError, Effect, Event, Group, Io, IoFault, LinkInput, PeerId, Token, Until};
use reprise_iscsi::{Acl, TaskTag, Throttle};
use reprise_media::{DurabilityChoice, Media, Ring};
use reprise_types::{BufPool, Mono, SectorCount, VolumeSlot};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::handle::{GroupNotice, Snapshot};
use super::iscsi::Session;
use super::latency::Latencies;
use super::link::LinkConn;
use super::thread::{self, GroupDeps};
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

/// What of a group changes while its thread runs.
pub(super) struct State {
    pub(super) group: Group,
    /// How the cache is written durably.
    pub(super) durability: DurabilityChoice,
    pub(super) homes: HashMap<VolumeSlot, Arc<Media>>,
    /// Operations of hosts that are with the engine.
    ios: HashMap<u64, UnderWay>,
    /// Commands that wait for what they changed to last.
    waits: HashMap<u64, oneshot::Sender<bool>>,
    pub(super) latencies: Latencies,
    next_io: u64,
    pub(super) sessions: Vec<Weak<Session>>,
    pub(super) acl: Acl,
    /// Of initiators with a limit, by name.
    pub(super) throttles: HashMap<String, Weak<RefCell<Throttle>>>,
    pub(super) next_tsih: u16,
    pub(super) link: Option<Rc<LinkConn>>,
    /// Buffers are short: windows are small, and what is durable leaves memory.
    short: bool,
    /// The session that may go beyond the limit while all wait for each other.
    pub(super) overdrawn: Weak<Session>,
    /// Effects are being carried out; events that come of them wait.
    busy: bool,
    waiting: VecDeque<Event>,
    /// Why a segment could not be prepared, until one could.
    pub(super) segment_fault: Option<String>,
    /// No segment is prepared before.
    pub(super) segment_pause: Mono,
}

/// Everything of a group that lives on its thread.
pub(super) struct Owner {
    pub(super) deps: GroupDeps,
    /// Looked at and changed for a moment at a time, never across a call of the owner or of a session, which look again.
    state: RefCell<State>,
    pub(super) ring: Ring,
    pub(super) slot: usize,
    /// Buffers for what hosts write.
    pub(super) buffers: BufPool,
    /// How large the group's index is, for the box.
    pub(super) index: IndexShare,
    /// Woken when a buffer comes back.
    pub(super) buffers_free: Arc<Notify>,
    pub(super) units: Units,
    notices: mpsc::Sender<GroupNotice>,
    /// Woken when a volume's state may have changed.
    pub(super) changed: Notify,
    /// Where the rest of the box looks.
    publish: watch::Sender<Snapshot>,
}

impl Owner {
    pub(super) fn new(
        deps: GroupDeps,
        slot: usize,
        group: Group,
        ring: Ring,
        publish: watch::Sender<Snapshot>,
    ) -> Rc<Self> {
        // The RAM tail keeps the buffers it came in.
        let buffers = deps.buffers.part(deps.limits.buffer_bytes + deps.limits.ram_tail_bytes);
        let index = deps.allocator.index_share();
        let buffers_free = Arc::new(Notify::new());
        let wake = buffers_free.clone();
        buffers.set_on_free(Arc::new(move || wake.notify_waiters()));
        let homes = deps.homes.iter().map(|h| (h.slot, h.media.clone())).collect();
        let state = State {
            group,
            durability: DurabilityChoice::default(),
            homes,
            ios: HashMap::new(),
            waits: HashMap::new(),
            latencies: Latencies::default(),
            next_io: 1,
            sessions: Vec::new(),
            acl: deps.target.acl.clone(),
            throttles: HashMap::new(),
            next_tsih: 1,
            link: None,
            short: false,
            overdrawn: Weak::new(),
            busy: false,
            waiting: VecDeque::new(),
            segment_fault: None,
            segment_pause: Mono::default(),
        };
        Rc::new(Self {
            state: RefCell::new(state),
            ring,
            slot,
            buffers,
            index,
            buffers_free,
            units: Units::default(),
            notices: deps.notices.clone(),
            changed: Notify::new(),
            publish,
            deps,
        })
    }

    /// What there is, for a look.
    pub(super) fn look(&self) -> Ref<'_, State> {
        self.state.borrow()
    }

    /// What there is, for a change.
    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Tells the engine what room the home of a volume has.
    pub(super) fn home_grown(&self, slot: VolumeSlot) {
        let size = self.look().homes.get(&slot).map(|home| home.size().get());
        if let Some(size) = size {
            self.state().group.set_home_size(clock::now(), slot, SectorCount::from_raw(size / 512));
        }
    }

    /// Names an operation of a host. All of it has come; how long it waits for its answer counts from here.
    pub(super) fn register(&self, session: &Rc<Session>, tag: TaskTag, read: bool) -> Io {
        let io = self.fresh_io();
        let under_way = UnderWay { session: session.clone(), tag, since: Instant::now(), read };
        self.state().ios.insert(io.0, under_way);
        io
    }

    /// A name for an operation.
    pub(super) fn fresh_io(&self) -> Io {
        let mut state = self.state();
        let io = state.next_io;
        state.next_io += 1;
        Io(io)
    }

    /// Waits for what has been changed up to this call; false where it never comes, since the group is fenced.
    pub(super) fn until(self: &Rc<Self>, until: Until) -> impl Future<Output = bool> + use<> {
        let io = self.fresh_io();
        let (told, comes) = oneshot::channel();
        let mut state = self.state();
        state.waits.insert(io.0, told);
        state.group.tell_when(io, until);
        drop(state);
        self.drain();
        async { comes.await.unwrap_or(false) }
    }

    /// Shows the rest of the box what there is.
    pub(super) fn publish(&self) {
        self.publish.send_replace(thread::snapshot(self));
    }

    /// Why what a command changed does not last.
    pub(super) fn fenced(&self) -> CommandError {
        CommandError::Fenced { reason: self.look().group.meta().fenced.clone().unwrap_or_default() }
    }

    /// Takes an event without what follows from it; [`Self::settle`] must come soon.
    pub(super) fn take(&self, event: Event) {
        self.state().group.take(clock::now(), event);
    }

    /// Does what follows from the events taken.
    pub(super) fn settle(self: &Rc<Self>) {
        self.state().group.settle(clock::now());
        self.drain();
    }

    /// An event and what follows from it.
    pub(super) fn event(self: &Rc<Self>, event: Event) {
        let mut state = self.state();
        if state.busy {
            // Carried out by the loop that is already draining.
            state.waiting.push_back(event);
            return;
        }
        state.group.handle(clock::now(), event);
        drop(state);
        self.drain();
    }

    pub(super) fn done(self: &Rc<Self>, token: Token, result: Result<Bytes, IoFault>) {
        self.event(Event::Done(token, result));
    }

    fn drain(self: &Rc<Self>) {
        if std::mem::replace(&mut self.state().busy, true) {
            return;
        }
        while let Some(effect) = self.next_effect() {
            self.carry_out(effect);
        }
        self.state().busy = false;
    }

    /// The next effect of what has happened and of what waits; none when nothing waits any more.
    fn next_effect(&self) -> Option<Effect> {
        let mut state = self.state();
        loop {
            let effect = state.group.poll_effect();
            if effect.is_some() {
                return effect;
            }
            let event = state.waiting.pop_front()?;
            state.group.handle(clock::now(), event);
        }
    }

    fn carry_out(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Reply(io, reply) => {
                if self.change_done(io.0, &reply) {
                    return;
                }
                let found = self.state().ios.remove(&io.0);
                if let Some(UnderWay { session, tag, since, read }) = found {
                    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let mut state = self.state();
                    if read {
                        state.latencies.reads.add(micros)
                    } else {
                        state.latencies.writes.add(micros)
                    }
                    drop(state);
                    session.reply(tag, reply);
                }
            }
            Effect::Kept(io, come) => {
                let waits = self.state().waits.remove(&io.0);
                if let Some(told) = waits {
                    let _ = told.send(come);
                }
            }
            Effect::LinkSend(_, message, payload) => {
                let link = self.look().link.clone();
                if let Some(link) = link {
                    link.send(message, payload);
                }
            }
            Effect::LinkClose(_, reason) => {
                tracing::info!(group = %self.deps.name, ?reason, "link closed");
                self.hang_up();
            }
            Effect::Notice(notice) => {
                let group = self.look().group.meta().group;
                // Bounded: whoever reads is slow or gone, and the state itself is in the snapshot.
                let _ = self.notices.try_send(GroupNotice { group, notice });
            }
            disk => self.carry_out_disk(disk),
        }
    }

    /// A session waits for a buffer: what is durable leaves memory.
    pub(super) fn memory_short(&self) {
        let before = std::mem::replace(&mut self.state().short, true);
        if !before {
            self.live_sessions().iter().for_each(|s| s.set_window(WINDOW_SHORT));
        }
        self.state().group.set_memory_short(true);
    }

    /// Commands that a session may have under way.
    pub(super) fn command_window(&self) -> u32 {
        if self.look().short { WINDOW_SHORT } else { WINDOW }
    }

    /// Once half of the buffers are back, durable batches are kept again. While the box is nearly out of buffers, no group
    /// keeps any: another one may be waiting for them.
    pub(super) fn memory_tick(&self) {
        let (used, limit) = self.buffers.whole();
        let short = self.look().short;
        if short {
            // What another group gave back wakes nobody here.
            self.buffers_free.notify_waiters();
            if self.buffers.used() < self.buffers.limit() / 2 && used < limit / 2 {
                self.state().short = false;
                self.live_sessions().iter().for_each(|s| s.set_window(WINDOW));
                let mut state = self.state();
                state.overdrawn = Weak::new();
                state.group.set_memory_short(false);
            }
        } else if used > limit / 8 * 7 {
            self.memory_short();
        }
    }

    /// Ends the connection to the peer.
    pub(super) fn hang_up(&self) {
        let link = self.state().link.take();
        drop(link);
    }

    /// Gives the engine what the link brought.
    pub(super) fn link_input(self: &Rc<Self>, input: LinkInput) {
        self.event(Event::Link(PeerId::FIRST, input));
    }

    /// Sessions that are there.
    pub(super) fn live_sessions(&self) -> Vec<Rc<Session>> {
        let mut state = self.state();
        state.sessions.retain(|s| s.strong_count() > 0);
        state.sessions.iter().filter_map(Weak::upgrade).collect()
    }
}
