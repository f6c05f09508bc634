//! Groups: made, started, stopped, deleted; their homes looked at before they are used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_api::{ApiError, ErrorCode, GroupStatus, ImageStatus, JobKind, Name, VolumeStatus};
use reprise_engine::{Branch, GroupMeta, RoleMeta, VolumeMeta};
use reprise_format::batch::hash_start;
use reprise_journal::SegmentId;
use reprise_media::{Identity, Media, MediaError, MediaOptions};
use reprise_types::{BoxId, BranchId, ByteLen, GroupId, Point, Seq};
use tokio::sync::{mpsc, oneshot, watch};

use super::board::JobHandle;
use super::image::{self, Heard};
use super::meter::Meter;
use super::stall::{Flow, Stall};
use super::told::Message;
use super::turn::Changing;
use super::view::{self, Facts, known_name, target_name};
use super::{Inner, ask, blocking, chain, locked, random16, wrong_state};
use crate::group::{self, Command, GroupDeps, HomeMedia, Limits, Snapshot, TargetConfig};
use crate::net::DialHandle;
use crate::pool::{DataError, DataHalf, OpenedGroup, Pool, PoolError};
use crate::portal;

/// Between two attempts to start a group whose homes are not there.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Longest time a group's thread gets to finish what is under way.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest wait for a group that has just been made to serve hosts: it does so in any case.
const READY_TIME_MAX: Duration = Duration::from_secs(3);
/// Least payload buffers of a group: one large write and its way to home and peer.
pub(crate) const GROUP_BUFFERS_MIN: u64 = 16 << 20;

/// A home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It does not open.
    #[error("home of volume {volume}")]
    Open {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: MediaError,
    },
    /// Another file or device is in its place.
    #[error(
        "home of volume {volume}, {path}, is another file or device than before: found {found}, expected {expected}"
    )]
    Replaced {
        /// The volume.
        volume: String,
        /// Where.
        path: String,
        /// What is there.
        found: String,
        /// What was there.
        expected: String,
    },
    /// It is smaller than the volume.
    #[error("home of volume {volume}, {path}, has shrunk: {have} bytes, the volume has {need}")]
    Shrunk {
        /// The volume.
        volume: String,
        /// Where.
        path: String,
        /// Bytes there.
        have: ByteLen,
        /// Bytes of the volume.
        need: ByteLen,
    },
    /// It is an area of a raw data half, and not there.
    #[error("home of volume {volume}, {path}")]
    Area {
        /// The volume.
        volume: String,
        /// Where it was.
        path: String,
        /// Why.
        #[source]
        source: DataError,
    },
    /// It has none.
    #[error("volume {volume} has no home")]
    None {
        /// The volume.
        volume: String,
    },
}

/// A group of the pool.
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) state: EntryState,
    pub(super) dial: Option<DialHandle>,
    pub(super) meter: Meter,
    pub(super) leaving: BTreeSet<String>,
    /// It was made for a volume that is not there yet: without it, it goes again.
    pub(super) provisional: bool,
    pub(super) copy_job: Option<JobHandle>,
    /// Limit of the first copy that its thread was told last, bytes a second; 0 for none.
    pub(super) copy_rate: Option<u64>,
    pub(super) cache_full: bool,
    pub(super) link_up: bool,
    pub(super) link_since: Instant,
    pub(super) reconnects: u64,
    pub(super) down_reason: Option<String>,
    /// Why a home that is too small for a size of the source could not be given the room.
    pub(super) no_room: Option<String>,
    /// When that was tried last.
    room_tried: Option<Instant>,
    pub(super) flow: Flow,
    /// What is wrong with the link although it is not just down.
    pub(super) stall: Option<Stall>,
    /// The source has said that it paused the group, or resumed it.
    pub(super) paused_there: Option<bool>,
}

pub(super) enum EntryState {
    Running(Running),
    Failed {
        meta: Option<Box<GroupMeta>>,
        reason: String,
        /// It is tried again by itself.
        heals: bool,
        tried: Instant,
    },
}

/// A group whose thread runs.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) id: GroupId,
    pub(super) name: Name,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshot: watch::Receiver<Snapshot>,
}

impl Running {
    pub(super) fn now(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// Waits a moment for a group that has just been made: its first superblock is on its way.
    async fn ready(&self) {
        let mut snapshot = self.snapshot.clone();
        let _ = tokio::time::timeout(READY_TIME_MAX, snapshot.wait_for(|s| s.ready)).await;
    }
}

impl Entry {
    fn new(name: Name, state: EntryState) -> Self {
        Self {
            name,
            state,
            dial: None,
            meter: Meter::default(),
            leaving: BTreeSet::new(),
            provisional: false,
            copy_job: None,
            copy_rate: None,
            cache_full: false,
            link_up: false,
            link_since: Instant::now(),
            reconnects: 0,
            down_reason: None,
            no_room: None,
            room_tried: None,
            flow: Flow::default(),
            stall: None,
            paused_there: None,
        }
    }

    /// A home that is too small is tried to be given room from time to time.
    pub(super) fn room_is_due(&mut self) -> bool {
        let due = self.room_tried.is_none_or(|at| at.elapsed() > RETRY_EVERY);
        if due {
            self.room_tried = Some(Instant::now());
        }
        due
    }

    /// What the group's superblock says, where it could be read.
    pub(super) fn meta(&self) -> Option<Arc<GroupMeta>> {
        match &self.state {
            EntryState::Running(running) => Some(running.snapshot.borrow().meta.clone()),
            EntryState::Failed { meta, .. } => meta.as_ref().map(|m| Arc::new(GroupMeta::clone(m))),
        }
    }

    pub(super) fn running(&self) -> Option<&Running> {
        match &self.state {
            EntryState::Running(running) => Some(running),
            EntryState::Failed { .. } => None,
        }
    }
}

/// What a home is recognised by: of a file in the data half its inode, since the number of its file system may change
/// with the disks of the box; of everything else all that the kernel can tell.
fn same_identity(adopted: bool, found: &Identity, expected: &str) -> bool {
    let text = found.to_string();
    match found {
        Identity::File { inode, .. } if !adopted => {
            expected.starts_with("file:") && expected.rsplit(':').next() == Some(inode.to_string().as_str())
        }
        _ => text == expected,
    }
}

/// Opens a volume's home and checks that it is the one it was. The path of an area follows the disk that holds it.
fn open_home(data: &DataHalf, volume: &mut VolumeMeta) -> Result<Arc<Media>, HomeError> {
    let name = || volume.name.clone();
    let none = HomeError::None { volume: name() };
    let Some(leg) = volume.legs.first() else { return Err(none) };
    if let Some(area) = data.open_area(&leg.identity) {
        let home = area.map_err(|source| HomeError::Area { volume: name(), path: leg.path.clone(), source })?;
        check_size(volume, &home.path, &home.media)?;
        if let Some(leg) = volume.legs.first_mut() {
            leg.path = home.path;
        }
        return Ok(home.media);
    }
    let media = Media::open(Path::new(&leg.path), MediaOptions::exclusive())
        .map_err(|source| HomeError::Open { volume: name(), source })?;
    if !same_identity(leg.adopted, media.identity(), &leg.identity) {
        let (path, expected) = (leg.path.clone(), leg.identity.clone());
        return Err(HomeError::Replaced { volume: name(), path, found: media.identity().to_string(), expected });
    }
    check_size(volume, &leg.path, &media)?;
    Ok(media)
}

fn check_size(volume: &VolumeMeta, path: &str, media: &Media) -> Result<(), HomeError> {
    let (have, need) = (media.size(), volume.sectors.bytes());
    if have < need {
        return Err(HomeError::Shrunk { volume: volume.name.clone(), path: path.to_owned(), have, need });
    }
    Ok(())
}

fn open_homes(data: &DataHalf, meta: &mut GroupMeta) -> Result<Vec<HomeMedia>, HomeError> {
    meta.volumes.iter_mut().map(|v| Ok(HomeMedia { slot: v.slot, media: open_home(data, v)? })).collect()
}

impl Inner {
    /// Portals as discovery gives them; none where one listens on every address, since then the address that was asked
    /// is the right one.
    fn target_addresses(&self) -> Vec<String> {
        let any = |a: &String| a.starts_with("0.0.0.0:") || a.starts_with("[::]:");
        if self.portals.iter().any(any) { Vec::new() } else { self.portals.clone() }
    }

    fn limits(&self) -> Limits {
        // A group may have three quarters of the hosts' buffers, so that there is always room for another; all groups
        // together never have more than there is.
        let buffer_bytes = (self.host_buffers.limit() / 2).max(GROUP_BUFFERS_MIN);
        Limits {
            buffer_bytes,
            ram_tail_bytes: (buffer_bytes / 2).min(64 << 20),
            link_window: (self.link_buffers.limit() / 2).max(reprise_link::mirror::WINDOW_BYTES_MIN),
        }
    }

    pub(super) fn start_groups(&self) {
        for slot in self.pool.groups() {
            self.start_known(slot.group);
        }
        self.publish_targets();
    }

    /// Recovers a group and starts it; what goes wrong is kept with the group.
    pub(super) fn start_known(&self, id: GroupId) {
        self.start_with(id, |pool| pool.open_group(id));
    }

    /// Starts a group again whose thread has ended; `released` are the segments that the thread held.
    pub(super) fn start_again(&self, id: GroupId, released: Vec<SegmentId>) {
        self.start_with(id, |pool| {
            let opened = pool.reopen_group(id)?;
            // A segment that was granted and never used is free again.
            let unused: Vec<SegmentId> = released.into_iter().filter(|s| !opened.group.held.contains(s)).collect();
            pool.allocator().free(&unused);
            Ok(opened)
        });
    }

    fn start_with(&self, id: GroupId, open: impl FnOnce(&Pool) -> Result<OpenedGroup, PoolError>) {
        let began = Instant::now();
        let fallback = || known_name(&format!("group-{}", id.short()));
        let failed = |meta: Option<GroupMeta>, reason: String, heals: bool| {
            let name = meta.as_ref().map_or_else(fallback, |m| known_name(&m.name));
            let (group, why) = (name.as_str(), reason.as_str());
            let message = if heals { Message::HomesMissing { group, why } } else { Message::NotStarted { group, why } };
            self.board.raise(message.about(format!("group {name}")));
            let state = EntryState::Failed { meta: meta.map(Box::new), reason, heals, tried: Instant::now() };
            locked(&self.groups).insert(id, Entry::new(name, state));
        };
        let mut opened = match open(&self.pool) {
            Ok(opened) => opened,
            Err(error) => return failed(None, chain(&error), false),
        };
        if let Ok(random) = random16() {
            opened.group.draw_instance(random);
        }
        let homes = match open_homes(self.pool.data(), &mut opened.group.meta) {
            Ok(homes) => homes,
            Err(error) => return failed(Some(opened.group.meta), chain(&error), true),
        };
        let (cases, bytes_read) = (opened.group.cases.len(), opened.group.bytes_read);
        let meta = opened.group.meta.clone();
        match self.spawn_group(opened, homes) {
            Ok(running) => {
                let (millis, name) = (began.elapsed().as_millis() as u64, &running.name);
                tracing::info!(group = %name, role = %meta.role(), cases, bytes_read, millis, "group recovered");
                self.board.clear("group-not-started", &format!("group {name}"));
            }
            Err(error) => failed(Some(meta), format!("start its thread: {error}"), true),
        }
    }

    pub(super) fn spawn_group(&self, opened: OpenedGroup, homes: Vec<HomeMedia>) -> std::io::Result<Running> {
        let name = known_name(&opened.group.meta.name);
        let target = TargetConfig {
            name: target_name(opened.group.meta.group, name.as_str()),
            addresses: self.target_addresses(),
            acl: self.acl(&name),
        };
        let deps = GroupDeps {
            name: name.to_string(),
            this_box: self.identity.box_id,
            pool: self.pool.id(),
            cache: self.pool.cache().clone(),
            segment_len: self.pool.segment_len(),
            allocator: self.pool.allocator().clone(),
            homes,
            target,
            notices: self.notices.clone(),
            limits: self.limits(),
            buffers: self.host_buffers.clone(),
        };
        let handle = group::spawn(opened, deps)?;
        let running =
            Running { id: handle.id, name: name.clone(), commands: handle.commands, snapshot: handle.snapshot };
        locked(&self.groups).insert(running.id, Entry::new(name, EntryState::Running(running.clone())));
        Ok(running)
    }

    /// Offers the targets of the groups: of those that are mirrored to this box too, whose units say that they are
    /// unavailable here, so that hosts may hold both paths. Hosts of a group that does not run are told to come again.
    pub(super) fn publish_targets(&self) {
        let groups: Vec<Running> = self.running();
        // The name of a group that could not be read is not known: its id begins the target's.
        let stopped = |(id, entry): (&GroupId, &Entry)| entry.running().is_none().then(|| target_name(*id, ""));
        let away: Vec<String> = locked(&self.groups).iter().filter_map(stopped).collect();
        let names: Vec<String> = groups.iter().map(|g| target_name(g.id, g.name.as_str())).collect();
        let mut published = locked(&self.published);
        if published.as_ref().is_some_and(|(n, a)| *n == names && *a == away) {
            return;
        }
        let routes = groups.into_iter().zip(&names).map(|(g, name)| portal::Route {
            name: name.clone(),
            acl: self.acl(&g.name),
            addresses: self.target_addresses(),
            commands: g.commands,
        });
        self.targets.set(routes.collect(), away.clone());
        *published = Some((names, away));
    }

    /// Groups whose threads run.
    pub(super) fn running(&self) -> Vec<Running> {
        locked(&self.groups).values().filter_map(|e| e.running().cloned()).collect()
    }

    pub(super) fn running_by_id(&self, id: GroupId) -> Option<Running> {
        locked(&self.groups).get(&id).and_then(|e| e.running().cloned())
    }

    /// The group with this name, if its thread runs.
    pub(super) fn group(&self, name: &Name) -> Result<Running, ApiError> {
        let groups = locked(&self.groups);
        let entry = groups.values().find(|e| e.name == *name).ok_or_else(|| ApiError::not_found("group", name))?;
        match &entry.state {
            EntryState::Running(running) => Ok(running.clone()),
            EntryState::Failed { reason, .. } => {
                Err(wrong_state(format!("group {name} does not run: {reason}"), "see reprise alerts"))
            }
        }
    }

    /// The group, made if there is none of this name: then provisional.
    pub(super) async fn group_or_new(
        self: &Arc<Self>,
        change: &Changing<'_>,
        name: &Name,
    ) -> Result<Running, ApiError> {
        match self.group(name) {
            Err(error) if error.code == ErrorCode::NotFound => {
                let group = self.create_group(change, name).await?;
                self.set_provisional(group.id, true);
                Ok(group)
            }
            other => other,
        }
    }

    pub(super) fn set_provisional(&self, id: GroupId, provisional: bool) {
        if let Some(entry) = locked(&self.groups).get_mut(&id) {
            entry.provisional = provisional;
        }
    }

    /// Takes a provisional group away again, unless another volume is being made in it.
    pub(super) async fn withdraw_group(self: &Arc<Self>, change: &Changing<'_>, group: &Running) {
        let provisional = locked(&self.groups).get(&group.id).is_some_and(|entry| entry.provisional);
        let wanted = locked(&self.preparing).iter().any(|p| p.group == group.id);
        if !provisional || wanted || !group.now().meta.volumes.is_empty() {
            return;
        }
        match self.delete_group(change, &group.name, None).await {
            // Nothing was ever written there.
            Ok(held) => self.pool.allocator().free(&held),
            Err(error) => {
                tracing::warn!(group = %group.name, %error, "the group of a volume that could not be made stays");
            }
        }
    }

    /// Makes an empty group.
    pub(super) async fn create_group(
        self: &Arc<Self>,
        change: &Changing<'_>,
        name: &Name,
    ) -> Result<Running, ApiError> {
        if locked(&self.groups).values().any(|e| e.name == *name) {
            return Err(ApiError::new(
                ErrorCode::NameTaken,
                format!("there is a group {name} already"),
                "choose another name",
            ));
        }
        let (group, branch) = (GroupId::from_raw(random16()?), BranchId::from_raw(random16()?));
        let start = Point { branch, seq: Seq::ZERO, hash: hash_start(group) };
        let meta = GroupMeta {
            group,
            name: name.to_string(),
            role: RoleMeta::Source,
            branches: vec![Branch { id: branch, fork: None, ceded: false }],
            trimmed: start,
            applied: Seq::ZERO,
            applying: Seq::ZERO,
            seal: start,
            incarnation: 0,
            volumes: Vec::new(),
            peers: vec![],
            fenced: None,
            next_slot: 1,
            generation_floor: 0,
        };
        let running = self.make_group(change, meta, Vec::new()).await?;
        self.board.event(Message::GroupCreated { group: name.as_str() }.about(format!("group {name}")));
        Ok(running)
    }

    /// Puts a group into the pool and starts it.
    pub(super) async fn make_group(
        self: &Arc<Self>,
        _: &Changing<'_>,
        meta: GroupMeta,
        homes: Vec<HomeMedia>,
    ) -> Result<Running, ApiError> {
        let inner = self.clone();
        let running = blocking(move || {
            let id = meta.group;
            let opened = inner.pool.create_group(meta).map_err(|e| pool_error(&e))?;
            inner.spawn_group(opened, homes).map_err(|e| {
                let left = inner.pool.delete_group(id).err();
                tracing::warn!(group = %id, left = left.map(|e| chain(&e)), "a group that does not start is taken away");
                ApiError::internal(format!("start the group: {e}"))
            })
        })
        .await?;
        running.ready().await;
        self.publish_targets();
        Ok(running)
    }

    /// Stops a group's thread and forgets it here, not in the pool. Gives the segments that the thread held.
    pub(super) async fn stop_group(&self, id: GroupId) -> Vec<SegmentId> {
        let Some(entry) = locked(&self.groups).remove(&id) else { return Vec::new() };
        self.publish_targets();
        let held = match entry.running() {
            Some(running) => stop_thread(running).await,
            None => None,
        };
        if let Some(job) = &entry.copy_job {
            job.end(Err(wrong_state("the mirror was removed", "")));
        }
        held.unwrap_or_default()
    }

    pub(super) async fn stop_groups(&self) {
        let stops: Vec<_> =
            self.running().into_iter().map(|g| tokio::spawn(async move { drop(stop_thread(&g).await) })).collect();
        for stop in stops {
            let _ = stop.await;
        }
    }

    /// Takes an empty group, or the image of a group that is mirrored here, away. Gives the segments it held, which are free
    /// after the next start.
    pub(super) async fn delete_group(
        self: &Arc<Self>,
        _: &Changing<'_>,
        name: &Name,
        by: Option<BoxId>,
    ) -> Result<Vec<SegmentId>, ApiError> {
        let group = self.group(name)?;
        let meta = group.now().meta;
        let told = Message::GroupDeleted { group: name.as_str() }.about(format!("group {name}"));
        match by {
            Some(peer) => self.event_of(peer, told),
            None => self.board.event(told),
        }
        let held = self.stop_group(group.id).await;
        let inner = self.clone();
        blocking(move || {
            inner.pool.delete_group(group.id).map_err(|e| pool_error(&e))?;
            for leg in meta.volumes.iter().flat_map(|v| &v.legs).filter(|l| !l.adopted) {
                inner.remove_home(&leg.path, &leg.identity);
            }
            Ok(())
        })
        .await?;
        self.board.clear_subject(&format!("group {name}"));
        Ok(held)
    }

    /// Status of all groups, by name.
    pub(super) fn group_statuses(&self) -> Vec<GroupStatus> {
        let fill = self.pool.allocator().fill();
        let alerts = self.board.alerts(false);
        let preparing = self.preparing_statuses();
        let peers = self.store.peers();
        let heard = self.heard();
        let groups = locked(&self.groups);
        let mut list: Vec<GroupStatus> = groups
            .iter()
            .map(|(id, entry)| {
                let subject = format!("group {}", entry.name);
                let alerts = alerts.iter().filter(|a| a.subject == subject).cloned().collect();
                match &entry.state {
                    EntryState::Failed { meta, reason, heals, .. } => {
                        view::failed_status(&entry.name, *id, meta.as_deref(), reason, *heals, alerts)
                    }
                    EntryState::Running(running) => {
                        let snapshot = running.now();
                        let peer_id = snapshot.meta.peer().map(|p| p.peer);
                        let peer = peers.iter().find(|p| Some(p.id) == peer_id);
                        let facts = Facts {
                            name: &entry.name,
                            peer,
                            meter: &entry.meter,
                            fill,
                            segment_len: self.pool.segment_len(),
                            cache_full: entry.cache_full,
                            portals: &self.portals,
                            leaving: &entry.leaving,
                            preparing: of_group(&preparing, &entry.name),
                            link_secs: entry.link_since.elapsed().as_secs_f64(),
                            reconnects: entry.reconnects,
                            down_reason: entry.down_reason.as_deref(),
                            image: self.image(&entry.name, &snapshot, &heard),
                            alerts,
                        };
                        view::group_status(&snapshot, facts)
                    }
                }
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// The image of a group that is mirrored to this box.
    pub(super) fn image(
        &self,
        group: &Name,
        snapshot: &Snapshot,
        heard: &BTreeMap<BoxId, Heard>,
    ) -> Option<ImageStatus> {
        let peer = snapshot.meta.peer()?.peer;
        let none = Heard::default();
        image::status(snapshot, group, &self.peer_name(peer), heard.get(&peer).unwrap_or(&none), self.words())
    }

    pub(super) fn group_status(&self, name: &Name) -> Result<GroupStatus, ApiError> {
        self.group_statuses().into_iter().find(|g| g.name == *name).ok_or_else(|| ApiError::not_found("group", name))
    }

    /// Starts a job that watches the first copy of a group.
    pub(super) fn copy_job(&self, id: GroupId) -> Option<JobHandle> {
        let mut groups = locked(&self.groups);
        let entry = groups.get_mut(&id)?;
        if entry.copy_job.is_none() {
            let subject = format!("group {}", entry.name);
            entry.copy_job = self.board.begin_job(JobKind::MirrorCopy, subject, None, false).ok();
        }
        entry.copy_job.clone()
    }
}

fn of_group(preparing: &[VolumeStatus], group: &Name) -> Vec<VolumeStatus> {
    preparing.iter().filter(|v| v.group == *group).cloned().collect()
}

/// Gives the segments that the group held, if its thread ended in time.
pub(super) async fn stop_thread(group: &Running) -> Option<Vec<SegmentId>> {
    let (done, stopped) = oneshot::channel();
    group.commands.send(Command::Stop(done)).await.ok()?;
    match tokio::time::timeout(STOP_TIME_MAX, stopped).await {
        Ok(held) => held.ok(),
        Err(_) => {
            tracing::warn!(group = %group.name, "group did not stop in time; its journal recovers at the next start");
            None
        }
    }
}

/// A pool's refusal as the API says it.
pub(super) fn pool_error(error: &PoolError) -> ApiError {
    match error {
        PoolError::Full => ApiError::new(ErrorCode::LimitReached, error.to_string(), "delete a group first"),
        PoolError::Unknown(_) => ApiError::new(ErrorCode::NotFound, error.to_string(), "list them: reprise group list"),
        _ => ApiError::internal(chain(error)),
    }
}

/// Pauses or resumes the link of a group.
pub(super) async fn set_paused(group: &Running, paused: bool) -> Result<(), ApiError> {
    ask(&group.commands, |reply| Command::SetPaused(paused, reply)).await
}

#[cfg(test)]
mod tests {
    use reprise_media::{Fill, create_file};
    use reprise_types::SectorCount;

    use super::*;

    fn volume(path: &Path, adopted: bool) -> VolumeMeta {
        let mut volume = view::tests::meta().volumes.remove(0);
        volume.legs[0].path = path.to_str().unwrap().to_owned();
        volume.legs[0].adopted = adopted;
        volume.legs[0].identity = Media::open(path, MediaOptions::read_shared()).unwrap().identity().to_string();
        volume
    }

    #[test]
    fn a_home_that_is_not_what_it_was_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.home");
        let make = |path: &Path, sectors: u64| {
            let size = ByteLen::from_raw(sectors * 512);
            create_file(path, size, Fill::Sparse, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
        };
        make(&path, 2048);
        let data = DataHalf::Folder(dir.path().to_owned());
        let open_home = |v: &VolumeMeta| super::open_home(&data, &mut v.clone());
        let good = volume(&path, false);
        drop(open_home(&good).unwrap());
        let held = open_home(&good).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Open { source: MediaError::Locked { .. }, .. })));
        drop(held);
        let larger = VolumeMeta { sectors: SectorCount::from_raw(4096), ..good.clone() };
        assert!(matches!(open_home(&larger), Err(HomeError::Shrunk { .. })));
        let other = dir.path().join("other");
        make(&other, 2048);
        std::fs::rename(&other, &path).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Replaced { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open_home(&good), Err(HomeError::Open { .. })));
        assert!(matches!(open_home(&VolumeMeta { legs: vec![], ..good.clone() }), Err(HomeError::None { .. })));
        let mut area = good;
        area.legs[0].identity = "area:00".to_owned();
        assert!(matches!(open_home(&area), Err(HomeError::Area { .. })), "the settings name another data half");
    }

    #[test]
    fn a_file_of_the_data_half_may_move_to_another_file_system_number() {
        let found = Identity::File { file_system: 2, inode: 77 };
        assert!(same_identity(false, &found, "file:0000000000000001:77"));
        assert!(!same_identity(true, &found, "file:0000000000000001:77"));
        assert!(!same_identity(false, &found, "file:0000000000000001:177"));
        assert!(!same_identity(false, &found, "disk:x:77"));
    }
}
