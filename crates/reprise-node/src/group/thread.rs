//! Starts a group's thread and serves its commands.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reprise_engine::{CommandError, Event, GroupConfig, Until, VolumeMeta};
use reprise_iscsi::{Acl, CloseReason};
use reprise_journal::{BatchSource, JournalConfig};
use reprise_media::{Media, Ring, RingConfig};
use reprise_types::{BoxId, BufPool, ByteLen, PoolBuf, PoolId, Role, SectorCount, Seq, VolumeSlot};
use tokio::sync::{mpsc, oneshot, watch};

use super::handle::{
    COMMANDS_MAX, Command, GroupHandle, GroupNotice, HomeMedia, Inspected, LinkView, Reply, SessionInfo, Snapshot,
};
use super::owner::Owner;
use super::{iscsi, link};
use crate::clock;
use crate::pool::{Allocator, OpenedGroup};

/// The engine's clock ticks this often: bounds pacing, rounds and heartbeats.
const TICK: Duration = Duration::from_millis(20);
/// The snapshot is renewed at every so many ticks.
const TICKS_PER_SNAPSHOT: u32 = 5;
/// The room of thin volumes is looked at every so many ticks: every 2 s.
const TICKS_PER_MEASUREMENT: u32 = 100;

/// Time for initiators to log out when the group stops. Longer would only hold up a restart, and hosts come back by
/// themselves.
const LOGOUT_SECS: u16 = 1;

/// The group's target.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// iSCSI name.
    pub name: String,
    /// Portal addresses, `host:port`.
    pub addresses: Vec<String>,
    /// Who may log in.
    pub acl: Acl,
}

/// Memory of a group.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes taken from initiators and not yet released. At the limit a session reads no further, so the initiator
    /// waits.
    pub buffer_bytes: u64,
    /// Durable batches kept for the cursors.
    pub ram_tail_bytes: u64,
    /// Window granted to a feeding peer.
    pub link_window: u64,
}

/// What a group's thread is given.
#[derive(Debug, Clone)]
pub struct GroupDeps {
    /// Name, for the log.
    pub name: String,
    /// This box.
    pub this_box: BoxId,
    /// The pool.
    pub pool: PoolId,
    /// The cache.
    pub cache: Arc<Media>,
    /// Bytes of a segment.
    pub segment_len: u64,
    /// Who holds which segment.
    pub allocator: Allocator,
    /// Opened homes.
    pub homes: Vec<HomeMedia>,
    /// The target.
    pub target: TargetConfig,
    /// Where notices go.
    pub notices: mpsc::Sender<GroupNotice>,
    /// Limits.
    pub limits: Limits,
    /// Buffers of hosts of the whole box, of which the group's are a part.
    pub buffers: BufPool,
}

/// Starts the thread of a recovered group.
///
/// # Errors
/// No thread, runtime or io_uring to be had.
pub fn spawn(opened: OpenedGroup, deps: GroupDeps) -> std::io::Result<GroupHandle> {
    let id = opened.group.meta.group;
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let config = GroupConfig {
        this_box: deps.this_box,
        journal: JournalConfig {
            pool: deps.pool,
            group: id,
            segment_len: deps.segment_len,
            ram_tail_max: ByteLen::from_raw(deps.limits.ram_tail_bytes),
        },
        link_window: deps.limits.link_window,
        round_bytes: reprise_engine::ROUND_BYTES_MAX,
        moment_records: reprise_engine::MOMENT_RECORDS_MAX,
    };
    let slot = opened.slot;
    let group = opened.group.open(clock::now(), config);
    let first = Snapshot {
        meta: Arc::new(group.meta().clone()),
        positions: group.positions(),
        home_held_by: None,
        peer_held_by: None,
        stats: group.stats(),
        ready: false,
        home_detached: None,
        home_too_small: None,
        segment_fault: None,
        rotten: None,
        verify: None,
        durable: group.durable(),
        image_wall: group.journal().durable_wall().filter(|_| group.meta().role() == Role::Mirror),
        link: LinkView::default(),
        sessions: Vec::new(),
        buffers: 0,
        latencies: Arc::default(),
    };
    let (publish, snapshot) = watch::channel(first);
    let (started, result) = std::sync::mpsc::channel();
    let name = format!("group-{}", deps.name.chars().take(9).collect::<String>());
    std::thread::Builder::new().name(name).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            match Ring::spawn_local(RingConfig::default()) {
                Ok(ring) => {
                    let _ = started.send(Ok(()));
                    let owner = Owner::new(deps, slot, group, ring, publish);
                    run(owner, inbox).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    })?;
    result.recv().map_err(std::io::Error::other)??;
    Ok(GroupHandle { id, commands, snapshot })
}

async fn run(owner: Rc<Owner>, mut inbox: mpsc::Receiver<Command>) {
    // Before anything is done: a rule may be about the first operation of a start.
    #[cfg(feature = "test-faults")]
    let mut faults = super::faults::Switch::from_env(&owner.deps.name);
    #[cfg(feature = "test-faults")]
    faults.look(&owner.ring);
    owner.deps.homes.iter().for_each(|home| owner.home_grown(home.slot));
    owner.settle();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut ticks = 0u32;
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                Some(Command::Stop(done)) => {
                    stop(&owner).await;
                    let _ = done.send(owner.look().group.segments());
                    return;
                }
                Some(command) => serve(&owner, command),
                None => return stop(&owner).await,
            },
            _ = tick.tick() => {
                owner.event(Event::Cache(owner.deps.allocator.fill()));
                owner.event(Event::Tick);
                owner.memory_tick();
                #[cfg(feature = "test-faults")]
                faults.look(&owner.ring);
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(TICKS_PER_SNAPSHOT) {
                    owner.index.set(owner.look().group.stats().index_bytes);
                    owner.publish();
                }
                if ticks.is_multiple_of(TICKS_PER_MEASUREMENT) {
                    owner.measure_units();
                }
            }
        }
    }
}

/// Ends sessions and link; what has a Seq becomes durable, what is not applied stays in the journal.
async fn stop(owner: &Rc<Owner>) {
    say_goodbye(owner).await;
    owner.live_sessions().iter().for_each(|s| s.close(CloseReason::Shutdown));
    owner.hang_up();
    for _ in 0..500 {
        let quiet = {
            let group = &owner.look().group;
            group.is_fenced() || (group.durable().seq == group.journal().written() && group.superblock_settled())
        };
        if quiet && owner.ring.outstanding() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!(group = %owner.deps.name, "stopped with disk operations under way");
}

/// Has the initiators log out, so that none of them finds its connection broken.
async fn say_goodbye(owner: &Rc<Owner>) {
    let now = clock::now().mono;
    owner.live_sessions().iter().for_each(|s| s.request_logout(now, LOGOUT_SECS));
    let until = now.plus_millis(u64::from(LOGOUT_SECS) * 1000);
    while clock::now().mono < until && !owner.live_sessions().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn serve(owner: &Rc<Owner>, command: Command) {
    let now = clock::now();
    match command {
        Command::Iscsi(stream, visit) => {
            tokio::task::spawn_local(iscsi::serve(owner.clone(), stream, visit));
        }
        Command::Link(connection) => {
            tokio::task::spawn_local(link::serve(owner.clone(), *connection));
        }
        Command::AddVolume(volume, media, reply) => {
            let added = owner.state().group.add_volume(now, volume);
            if let Ok(slot) = added {
                owner.state().homes.insert(slot, media);
                owner.home_grown(slot);
            }
            owner.settle();
            owner.luns_changed();
            answer(owner, reply, added);
        }
        Command::RemoveVolume(slot, reply) => {
            tokio::task::spawn_local(remove_volume(owner.clone(), slot, reply));
        }
        Command::Home(slot, reply) => {
            let home = owner.look().homes.get(&slot).cloned();
            let _ = reply.send(home.ok_or(CommandError::NoVolume));
        }
        Command::HomeGrown(slot, reply) => {
            owner.home_grown(slot);
            owner.settle();
            let _ = reply.send(Ok(()));
        }
        Command::Resize(slot, sectors, reply) => {
            tokio::task::spawn_local(resize_volume(owner.clone(), slot, sectors, reply));
        }
        Command::SetReadOnly(slot, read_only, reply) => {
            let result = owner.state().group.set_read_only(now, slot, read_only);
            owner.settle();
            owner.luns_changed();
            answer(owner, reply, result);
        }
        Command::AddPeer(peer, instance, reply) => {
            let result = owner.state().group.add_peer(now, peer, instance);
            owner.settle();
            owner.luns_changed();
            answer(owner, reply, result);
        }
        Command::RemovePeer(reply) => {
            let result = owner.state().group.remove_peer(now);
            owner.settle();
            owner.luns_changed();
            answer(owner, reply, result);
        }
        Command::SetPaused(paused, reply) => {
            let result = owner.state().group.set_paused(now, paused);
            owner.settle();
            answer(owner, reply, result);
        }
        Command::EndMirror(reply) => {
            let result = owner.state().group.end_mirror(now);
            owner.settle();
            answer(owner, reply, result);
        }
        Command::Verify(plan, reply) => {
            let result = owner.state().group.verify(now, plan);
            owner.settle();
            let _ = reply.send(result);
        }
        Command::VerifyCancel => {
            owner.state().group.verify_cancel(now);
            owner.settle();
        }
        Command::Reattach(reply) => {
            let result = owner.state().group.reattach_home(now);
            owner.settle();
            answer(owner, reply, result);
        }
        Command::SetRates { copy, link } => owner.state().group.set_rates(copy, link),
        Command::SetAcl(acl) => owner.set_acl(acl),
        Command::Inspect { after, limit, reply } => {
            tokio::task::spawn_local(inspect(owner.clone(), after, limit, reply));
        }
        // Taken before.
        Command::Stop(done) => drop(done),
    }
}

/// Answers a command once what it changed is durable, or cannot be any more. Who has the answer sees the change.
fn answer<T: 'static>(owner: &Rc<Owner>, reply: Reply<T>, result: Result<T, CommandError>) {
    if result.is_err() {
        return drop(reply.send(result));
    }
    let (owner, kept) = (owner.clone(), owner.until(Until::Kept));
    tokio::task::spawn_local(async move {
        let result = if kept.await { result } else { Err(owner.fenced()) };
        owner.publish();
        let _ = reply.send(result);
    });
}

/// Hosts are told of a size when it lasts.
async fn resize_volume(owner: Rc<Owner>, slot: VolumeSlot, sectors: SectorCount, reply: Reply<()>) {
    let begun = owner.state().group.resize_volume(clock::now(), slot, sectors);
    owner.settle();
    if let Err(error) = begun {
        return drop(reply.send(Err(error)));
    }
    if !owner.until(Until::Served(slot, sectors)).await {
        return drop(reply.send(Err(owner.fenced())));
    }
    owner.luns_changed();
    answer(&owner, reply, Ok(()));
}

/// A volume goes only when its home holds everything: then file or device can be used without the box.
async fn remove_volume(owner: Rc<Owner>, slot: VolumeSlot, reply: Reply<VolumeMeta>) {
    // Asked here and not of a snapshot: an initiator may have logged in a moment ago.
    if owner.live_sessions().iter().any(|s| s.connection.borrow().logged_in().is_some()) {
        return drop(reply.send(Err(CommandError::InUse)));
    }
    let retired = owner.state().group.retire_volume(clock::now(), slot);
    let until = match retired {
        Ok(until) => until,
        Err(error) => return drop(reply.send(Err(error))),
    };
    owner.luns_changed();
    if !owner.until(Until::Applied(until)).await {
        return drop(reply.send(Err(owner.fenced())));
    }
    let removed = owner.state().group.remove_volume(clock::now(), slot);
    owner.settle();
    owner.state().homes.remove(&slot);
    answer(&owner, reply, removed);
}

async fn inspect(owner: Rc<Owner>, after: Seq, limit: usize, reply: oneshot::Sender<Vec<Inspected>>) {
    let mut out = Vec::new();
    let mut at = after.max(owner.look().group.journal().trimmed().seq);
    while out.len() < limit {
        let source = owner.look().group.journal().batch_holding(at.next());
        let batch = match source {
            None => break,
            Some(BatchSource::Ram(batch)) => batch,
            Some(BatchSource::Disk(place)) => {
                let read = owner.ring.read(&owner.deps.cache, place.at, PoolBuf::unpooled(place.len));
                let (result, buf) = read.await;
                match result.ok().and_then(|()| place.verify(buf.freeze()).ok()) {
                    Some(batch) => Arc::new(batch),
                    None => break,
                }
            }
        };
        let head = batch.header().head;
        for record in batch.header().records.iter().filter(|r| r.seq > at) {
            let d = &record.descriptor;
            out.push(Inspected {
                seq: record.seq,
                kind: d.kind,
                volume: d.volume,
                sector: d.sector,
                sectors: d.sectors,
                crc: reprise_format::combine_crcs(&record.crcs, d.payload_len as usize),
                wall_micros: head.wall_forced.get(),
                hash: (record.seq == head.last_seq).then_some(head.h_after),
            });
        }
        at = head.last_seq;
    }
    out.truncate(limit);
    let _ = reply.send(out);
}

pub(super) fn snapshot(owner: &Owner) -> Snapshot {
    let session = |s: &Rc<iscsi::Session>| {
        let info = s.connection.borrow();
        let who = info.logged_in()?;
        Some(SessionInfo {
            initiator: who.initiator.clone(),
            address: s.address.clone(),
            since: s.since,
            chap_user: who.chap_user.clone(),
            header_digest: who.params.header_digest,
            data_digest: who.params.data_digest,
            commands: info.task_count(),
        })
    };
    let sessions = owner.live_sessions().iter().filter_map(session).collect();
    let state = owner.look();
    let group = &state.group;
    let mut view = LinkView { row: group.link_row(), wanted: group.wants_link(), ..LinkView::default() };
    if let Some(session) = group.source_session() {
        view.streaming = session.is_streaming();
        view.rtt_micros = session.rtt_micros();
        view.credit = session.credit_left();
    }
    if let Some(session) = group.mirror_session() {
        view.streaming = session.is_streaming();
        view.rtt_micros = session.rtt_micros();
    }
    view.copy = group.copy_progress().map(|p| (p.done, p.total));
    view.lag_millis = group.lag_millis(clock::now());
    view.trouble = group.peer_trouble().cloned();
    let positions = group.positions();
    if let Some(peer) = positions.peer_durable.filter(|_| group.meta().role() == Role::Source) {
        view.lag_bytes = group.journal().durable_bytes_after(peer);
    }
    if let Some(link) = &state.link {
        view.address = link.address.clone();
        let c = link.counters();
        view.bytes_out = c.bytes_out.load(Ordering::Relaxed);
        view.bytes_in = c.bytes_in.load(Ordering::Relaxed);
        view.payload_out = c.payload_out.load(Ordering::Relaxed);
        view.payload_in = c.payload_in.load(Ordering::Relaxed);
        if view.streaming {
            link.set_healthy();
        }
    }
    Snapshot {
        meta: Arc::new(group.meta().clone()),
        positions,
        home_held_by: group.home_held_by(),
        peer_held_by: group.peer_held_by(),
        stats: group.stats(),
        ready: group.is_ready(),
        home_detached: group.home_fault().map(str::to_owned),
        home_too_small: group.home_too_small(),
        segment_fault: state.segment_fault.clone(),
        durable: group.durable(),
        image_wall: group.journal().durable_wall().filter(|_| group.meta().role() == Role::Mirror),
        rotten: group.rotten(),
        verify: group.verify_report().cloned(),
        link: view,
        sessions,
        buffers: owner.buffers.used(),
        latencies: Arc::new(state.latencies.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_of_a_group_may_move_between_threads() {
        fn check<T: Send>() {}
        check::<Arc<Media>>();
        check::<Command>();
    }
}
