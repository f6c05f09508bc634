//! Groups: made, found, deleted, and how they are.

mod entry;
mod homes;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reprise_api::{ApiError, ErrorCode, GroupStatus, ImageStatus, JobKind, Name, VolumeStatus};
use reprise_engine::{Branch, GroupMeta, RoleMeta};
use reprise_format::batch::hash_start;
use reprise_journal::SegmentId;
use reprise_types::{BoxId, BranchId, GroupId, Point, Seq};

pub(super) use self::entry::{Entry, EntryState, Running};
pub use self::homes::HomeError;
pub(super) use self::run::stop_thread;
use super::board::JobHandle;
use super::image::{self, Heard};
use super::told::Message;
use super::turn::Changing;
use super::view::{self, Facts};
use super::{Inner, ask, blocking, chain, locked, random16, wrong_state};
use crate::group::{Command, HomeMedia, Snapshot};
use crate::pool::PoolError;

/// Between two attempts to start a group whose homes are not there.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(10);

/// Least payload buffers of a group: one large write and its way to home and peer.
pub(crate) const GROUP_BUFFERS_MIN: u64 = 16 << 20;

impl Inner {
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
