//! Volumes in the data half: made, and given to their group.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use reprise_api::{
    ApiError, BlockSize, ErrorCode, JobKind, Name, VOLUME_GRAIN, VolumeCreate, VolumeKind, VolumeStarted, VolumeStatus,
};
use reprise_engine::{LegMeta, VolumeMeta};
use reprise_types::{BlockFormat, ByteLen, Role, SectorCount, VolumeId, VolumeSlot};

use super::errors::{data_error, no_space};
use super::prepared::Reserved;
use crate::group::Command;
use crate::pool::{DataError, Home, HomeName, Make};
use crate::service::board::JobHandle;
use crate::service::groups::Running;
use crate::service::told::Message;
use crate::service::turn::{Changing, Task};
use crate::service::{Inner, ask, blocking, random16, wrong_state};
use crate::store::PeerRecord;

/// A volume is there, and not its mirror.
fn made_only(volume: &Name, peer: &Name, error: ApiError) -> ApiError {
    let message = format!("volume {volume} is made, but not mirrored to {peer}: {}", error.message);
    ApiError { message, ..error }
}

impl Inner {
    /// The group takes a volume at present, or says why not.
    pub(super) fn takes_volumes(&self, group: &Running) -> Result<(), ApiError> {
        let meta = group.now().meta;
        if meta.role() != Role::Source {
            return Err(wrong_state(
                format!("group {} is mirrored to this box", group.name),
                "add volumes on the box that is its source",
            ));
        }
        if meta.peer().is_some() {
            return Err(wrong_state(
                format!(
                    "group {} has a mirror, and volumes cannot be added to such a group in this version",
                    group.name
                ),
                "use another group, or remove the mirror and add it again after",
            ));
        }
        Ok(())
    }

    pub(super) fn check_new_name(&self, name: &Name) -> Result<(), ApiError> {
        if self.volume_name_taken(name.as_str()) {
            let text = format!("there is a volume {name} already");
            return Err(ApiError::new(ErrorCode::NameTaken, text, "choose another name"));
        }
        Ok(())
    }

    /// Makes a volume in the data half. What fails leaves nothing behind, also not the group that was made for it.
    pub(in crate::service) async fn create_volume(
        self: Arc<Self>,
        mut task: Task,
        request: VolumeCreate,
    ) -> Result<VolumeStarted, ApiError> {
        let mut command = task.command().await;
        let mirror = request.mirror.as_ref().map(|peer| self.peer_named(peer)).transpose()?;
        if let Some(peer) = &mirror {
            self.may_come_to_a_mirror(&request)?;
            // A peer that does not answer now is known before anything is made.
            self.peer_info(&mut command, peer.id).await?;
        }
        let change = command.change().await;
        let size = request.size.bytes();
        if size == 0 || !size.is_multiple_of(VOLUME_GRAIN) || i64::try_from(size).is_err() {
            let text = format!("{size} bytes is no size of a volume");
            return Err(ApiError::new(ErrorCode::BadRequest, text, "give a multiple of 4096 bytes, such as 10G"));
        }
        self.check_new_name(&request.name)?;
        let room = self.data_room()?;
        if request.thin && self.pool.data().is_raw() {
            return Err(data_error(&DataError::Thin { path: self.pool.data().path().to_owned() }));
        }
        if !request.thin && size > room {
            return Err(no_space(size, room));
        }
        let group = self.group_or_new(&change, &request.group).await?;
        let made = self.make_volume(&change, &group, &request, mirror.clone()).await;
        if made.is_err() {
            self.withdraw_group(&change, &group).await;
        }
        drop(change);
        let started = made?;
        if let (None, Some(peer)) = (&started.job, mirror) {
            self.begin_mirror(&mut command, &group, &peer)
                .await
                .map_err(|e| made_only(&request.name, &peer.name, e))?;
            return Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None });
        }
        Ok(started)
    }

    /// What is known before the volume is made of why its group could not be mirrored after.
    fn may_come_to_a_mirror(&self, request: &VolumeCreate) -> Result<(), ApiError> {
        if request.local_only {
            let text = "a volume that stays on this box cannot be mirrored";
            return Err(ApiError::new(ErrorCode::BadRequest, text, "leave one of the two out"));
        }
        let Ok(group) = self.group(&request.group) else { return Ok(()) };
        let local = group.now().meta.volumes.iter().find(|v| v.local_only).map(|v| v.name.clone());
        local.map_or(Ok(()), |name| Err(crate::service::refused(reprise_engine::CommandError::LocalOnly { name })))
    }

    /// The same, in a group that is there: at once if thin, else by a job, which mirrors the group as well.
    async fn make_volume(
        self: &Arc<Self>,
        _: &Changing<'_>,
        group: &Running,
        request: &VolumeCreate,
        mirror: Option<PeerRecord>,
    ) -> Result<VolumeStarted, ApiError> {
        self.takes_volumes(group)?;
        let (id, size) = (VolumeId::from_raw(random16()?), request.size.bytes());
        let home = HomeName { group: request.group.as_str(), volume: request.name.as_str(), id };
        let path = self.pool.data().planned(home);
        let kind = if request.thin { VolumeKind::Thin } else { VolumeKind::Thick };
        let (mut status, reserved) = self.reserve(group, &request.name, size, kind, request.local_only, &path, id);
        (status.block_size, status.read_only) = (request.block_size, request.read_only);
        if request.thin {
            self.fill_and_add(group.clone(), status, None, reserved).await?;
            return Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None });
        }
        let subject = format!("volume {}", request.name);
        let job = self.board.begin_job(JobKind::VolumeCreate, subject, Some(size), true)?;
        let (inner, group, handle, volume) = (self.clone(), group.clone(), job.clone(), status.clone());
        self.turns.spawn(|mut task| async move {
            let name = volume.name.clone();
            let mut result = inner.fill_and_add(group.clone(), volume, Some(handle.clone()), reserved).await;
            match (&result, mirror) {
                (Ok(()), Some(peer)) => {
                    let mut command = task.command().await;
                    let begun = inner.begin_mirror(&mut command, &group, &peer).await;
                    result = begun.map(|_| ()).map_err(|e| made_only(&name, &peer.name, e));
                }
                (Ok(()), None) => {}
                (Err(_), _) => {
                    let mut command = task.command().await;
                    let change = command.change().await;
                    inner.withdraw_group(&change, &group).await;
                }
            }
            handle.end(result);
        });
        Ok(VolumeStarted { volume: status, job: job.job() })
    }

    /// Makes the home and gives it to the group.
    async fn fill_and_add(
        self: &Arc<Self>,
        group: Running,
        mut status: VolumeStatus,
        job: Option<JobHandle>,
        reserved: Reserved,
    ) -> Result<(), ApiError> {
        let (size, make) = (ByteLen::from_raw(status.size_bytes), make_of(status.kind));
        let (inner, volume) = (self.clone(), status.clone());
        let home = blocking(move || {
            let mut progress = |p: reprise_media::Progress| {
                let Some(job) = &job else { return ControlFlow::Continue(()) };
                job.progress(p.done.get(), p.total.get());
                if job.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let name = HomeName { group: volume.group.as_str(), volume: volume.name.as_str(), id: volume.id };
            inner.pool.data().create(name, size, make, &mut progress).map_err(|e| data_error(&e))
        })
        .await?;
        status.home.clone_from(&home.path);
        let added = self.add_volume(&group, &status, false, &home).await;
        if let Err(error) = &added {
            // A group that was fenced by this very write may have it in its superblock all the same.
            let named = error.code == ErrorCode::Fenced || group.now().meta.volumes.iter().any(|v| v.id == status.id);
            if named {
                tracing::warn!(path = home.path, "home of a volume that may be in its group stays");
            } else {
                self.remove_home(&home.path, &home.identity);
            }
        }
        drop(reserved);
        added
    }

    /// Gives a home of the data half back; one that stays is only room that is not free.
    pub(in crate::service) fn remove_home(&self, path: &str, identity: &str) {
        if let Err(error) = self.pool.data().remove(path, identity) {
            tracing::warn!(path, error = &error as &dyn std::error::Error, "home of a volume that is gone stays");
        }
    }

    pub(super) async fn add_volume(
        &self,
        group: &Running,
        status: &VolumeStatus,
        adopted: bool,
        home: &Home,
    ) -> Result<(), ApiError> {
        let leg = LegMeta { path: home.path.clone(), adopted, identity: home.identity.clone() };
        let meta = VolumeMeta {
            // The group gives the slot.
            slot: VolumeSlot::default(),
            id: status.id,
            sectors: SectorCount::from_raw(status.size_bytes / 512),
            name: status.name.to_string(),
            lun: status.lun,
            legs: vec![leg],
            local_only: !status.replicated,
            thin: status.kind == VolumeKind::Thin,
            block_size: format_of(status.block_size),
            read_only: status.read_only,
            unit: None,
        };
        let media = home.media.clone();
        ask(&group.commands, |reply| Command::AddVolume(meta, media, reply)).await?;
        self.set_provisional(group.id, false);
        let (volume, group) = (status.name.as_str(), group.name.as_str());
        let told = Message::VolumeAdded { volume, group, lun: status.lun }.about(format!("volume {volume}"));
        self.board.event(told);
        Ok(())
    }

    /// Files that an interrupted making has left: nothing names them.
    pub(crate) fn sweep_partial_homes(data: &Path) {
        let Ok(groups) = fs::read_dir(data) else { return };
        for group in groups.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            let Ok(files) = fs::read_dir(group.path()) else { continue };
            for file in files.flatten() {
                let path = file.path();
                if path.to_str().is_some_and(|p| p.ends_with(".home.partial")) && fs::remove_file(&path).is_ok() {
                    tracing::info!(path = %path.display(), "unfinished home removed");
                }
            }
        }
    }
}

fn format_of(size: BlockSize) -> BlockFormat {
    match size {
        BlockSize::Emulated512 => BlockFormat::Emulated512,
        BlockSize::Native512 => BlockFormat::Native512,
        BlockSize::Native4096 => BlockFormat::Native4096,
    }
}

fn make_of(kind: VolumeKind) -> Make {
    if kind == VolumeKind::Thin { Make::Thin } else { Make::Zeroed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_homes_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg")).unwrap();
        let (partial, whole) = (dir.path().join("pg/a.home.partial"), dir.path().join("pg/a.home"));
        fs::write(&partial, "").unwrap();
        fs::write(&whole, "").unwrap();
        Inner::sweep_partial_homes(dir.path());
        assert!(!partial.exists() && whole.exists());
    }
}
