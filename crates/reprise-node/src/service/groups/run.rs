//! Threads of groups: started, started again, stopped; and their targets.

use std::time::{Duration, Instant};

use reprise_engine::GroupMeta;
use reprise_journal::SegmentId;
use reprise_types::GroupId;
use tokio::sync::oneshot;

use super::GROUP_BUFFERS_MIN;
use super::entry::{Entry, EntryState, Running};
use super::homes::open_homes;
use crate::group::{self, Command, GroupDeps, HomeMedia, Limits, TargetConfig};
use crate::pool::{OpenedGroup, Pool, PoolError};
use crate::portal;
use crate::service::told::Message;
use crate::service::view::{known_name, target_name};
use crate::service::{Inner, chain, locked, random16, wrong_state};

/// Longest time a group's thread gets to finish what is under way.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

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

    pub(in crate::service) fn start_groups(&self) {
        for slot in self.pool.groups() {
            self.start_known(slot.group);
        }
        self.publish_targets();
    }

    /// Recovers a group and starts it; what goes wrong is kept with the group.
    pub(in crate::service) fn start_known(&self, id: GroupId) {
        self.start_with(id, |pool| pool.open_group(id));
    }

    /// Starts a group again whose thread has ended; `released` are the segments that the thread held.
    pub(in crate::service) fn start_again(&self, id: GroupId, released: Vec<SegmentId>) {
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

    pub(in crate::service) fn spawn_group(
        &self,
        opened: OpenedGroup,
        homes: Vec<HomeMedia>,
    ) -> std::io::Result<Running> {
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
    pub(in crate::service) fn publish_targets(&self) {
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

    /// Stops a group's thread and forgets it here, not in the pool. Gives the segments that the thread held.
    pub(in crate::service) async fn stop_group(&self, id: GroupId) -> Vec<SegmentId> {
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

    pub(in crate::service) async fn stop_groups(&self) {
        let stops: Vec<_> =
            self.running().into_iter().map(|g| tokio::spawn(async move { drop(stop_thread(&g).await) })).collect();
        for stop in stops {
            let _ = stop.await;
        }
    }
}

/// Gives the segments that the group held, if its thread ended in time.
pub(in crate::service) async fn stop_thread(group: &Running) -> Option<Vec<SegmentId>> {
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
