//! Volumes: made, adopted, taken out, erased.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reprise_api::{
    ApiError, ErrorCode, Job, JobKind, Name, Severity, VolumeAdopt, VolumeCreate, VolumeKind, VolumeStarted,
    VolumeState, VolumeStatus,
};
use reprise_engine::{Leg, VolumeMeta};
use reprise_media::{Fill, Media, MediaError, MediaOptions, Signature, create_file};
use reprise_types::{ByteLen, GroupId, Role, SectorCount, VolumeId, VolumeSlot};

use super::board::{JobHandle, Told};
use super::groups::Running;
use super::view::{naa, serial};
use super::{Inner, ask, blocking, chain, locked, random16, wrong_state};
use crate::group::Command;

/// Sizes of volumes are multiples of this, so that a host may use 4 KiB blocks.
const SIZE_GRAIN: u64 = 4096;
/// Room that stays free in the data half: the file system's own needs.
pub(super) const KEEP_FREE: u64 = 16 << 20;

/// A volume that is being made and is in no group's superblock yet.
pub(super) struct Preparing {
    pub(super) group: GroupId,
    pub(super) status: VolumeStatus,
}

/// Takes a volume off the list of those being made, however its making ends.
struct Reserved {
    inner: Arc<Inner>,
    id: VolumeId,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        locked(&self.inner.preparing).retain(|p| p.status.id != self.id);
    }
}

/// Failure of a medium as the API says it.
pub(super) fn media_error(error: &MediaError) -> ApiError {
    let code = match error {
        MediaError::NoSpace { .. } => ErrorCode::NoSpace,
        MediaError::Exists { .. } => ErrorCode::NameTaken,
        MediaError::DeviceBusy { .. } | MediaError::Locked { .. } | MediaError::BacksLoop { .. } => ErrorCode::InUse,
        MediaError::Cancelled { .. } => ErrorCode::WrongState,
        _ => ErrorCode::DeviceUnusable,
    };
    let what = match error {
        MediaError::NoSpace { .. } => "free some room, or make the volume smaller or thin",
        MediaError::Exists { .. } => "move the file away, or adopt it: reprise volume adopt",
        MediaError::DeviceBusy { .. } => "unmount it, and stop what uses it",
        MediaError::Locked { .. } => "stop the process that uses it",
        MediaError::BacksLoop { .. } => "adopt the loop device, or detach it first: losetup -d",
        MediaError::Cancelled { .. } => "",
        _ => "name a block device or a raw image on this box",
    };
    ApiError::new(code, chain(error), what)
}

fn no_space(needed: u64, free: u64) -> ApiError {
    let text = format!("the data half has {free} bytes free, {needed} are needed");
    ApiError::new(ErrorCode::NoSpace, text, "free some room, or make the volume smaller")
}

/// Where the home of a volume is made.
pub(super) fn home_path(data: &Path, group: &str, volume: &str, id: VolumeId) -> PathBuf {
    data.join(group).join(format!("{volume}-{}.home", id.short()))
}

impl Inner {
    pub(super) fn preparing_statuses(&self) -> Vec<VolumeStatus> {
        locked(&self.preparing).iter().map(|p| p.status.clone()).collect()
    }

    /// True where a volume of this name is in a group of this box, or being made.
    pub(super) fn volume_name_taken(&self, name: &str) -> bool {
        self.group_statuses().iter().any(|g| g.volumes.iter().any(|v| v.name.as_str() == name))
    }

    /// Bytes that files of volumes may still take in the data half.
    pub(super) fn data_room(&self) -> Result<u64, ApiError> {
        let free = self.pool.data_free().map_err(|e| ApiError::internal(format!("get the free space: {e}")))?.get();
        let free = free.saturating_sub(KEEP_FREE);
        let limited = self.data_limit.map_or(free, |limit| limit.saturating_sub(self.data_used()).min(free));
        // What is being written counts in full from the start.
        let reserved: u64 = locked(&self.preparing)
            .iter()
            .filter(|p| p.status.kind == VolumeKind::Thick)
            .map(|p| p.status.size_bytes)
            .sum();
        Ok(limited.saturating_sub(reserved))
    }

    /// Bytes that volumes have in the data half.
    pub(super) fn data_used(&self) -> u64 {
        let made = |v: &VolumeStatus| v.kind != VolumeKind::Adopted && v.state != VolumeState::Preparing;
        self.group_statuses().iter().flat_map(|g| &g.volumes).filter(|v| made(v)).map(|v| v.size_bytes).sum()
    }

    /// The volume and its group.
    pub(super) fn volume(&self, name: &Name) -> Result<(Running, VolumeMeta), ApiError> {
        for group in self.running() {
            let snapshot = group.now();
            if let Some(volume) = snapshot.meta.volumes.iter().find(|v| v.name == name.as_str()) {
                return Ok((group, volume.clone()));
            }
        }
        if self.volume_name_taken(name.as_str()) {
            return Err(wrong_state(
                format!("volume {name} is being made, or its group does not run"),
                "see reprise jobs and reprise alerts",
            ));
        }
        Err(ApiError::not_found("volume", name))
    }

    pub(super) fn volume_statuses(&self) -> Vec<VolumeStatus> {
        self.group_statuses().into_iter().flat_map(|g| g.volumes).collect()
    }

    /// The group takes a volume at present, or says why not.
    fn takes_volumes(&self, group: &Running) -> Result<(), ApiError> {
        let meta = group.now().meta;
        if meta.role != Role::Source {
            return Err(wrong_state(
                format!("group {} is mirrored to this box", group.name),
                "add volumes on the box that is its source",
            ));
        }
        if meta.peer.is_some() {
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

    #[expect(clippy::too_many_arguments, reason = "what a volume is, each named at its two callers")]
    fn reserve(
        self: &Arc<Self>,
        group: &Running,
        name: &Name,
        size: u64,
        kind: VolumeKind,
        local_only: bool,
        home: &Path,
        id: VolumeId,
    ) -> (VolumeStatus, Reserved) {
        let mut preparing = locked(&self.preparing);
        let snapshot = group.now();
        let used = |lun: u16| {
            snapshot.meta.volumes.iter().any(|v| v.lun == lun)
                || preparing.iter().any(|p| p.group == group.id && p.status.lun == lun)
        };
        let status = VolumeStatus {
            name: name.clone(),
            id,
            group: group.name.clone(),
            lun: (0..=u16::MAX).find(|lun| !used(*lun)).unwrap_or(u16::MAX),
            size_bytes: size,
            kind,
            replicated: !local_only,
            home: home.display().to_string(),
            state: VolumeState::Preparing,
            serial: serial(id),
            naa: naa(id),
        };
        preparing.push(Preparing { group: group.id, status: status.clone() });
        (status, Reserved { inner: self.clone(), id })
    }

    fn check_new_name(&self, name: &Name) -> Result<(), ApiError> {
        if self.volume_name_taken(name.as_str()) {
            let text = format!("there is a volume {name} already");
            return Err(ApiError::new(ErrorCode::NameTaken, text, "choose another name"));
        }
        Ok(())
    }

    /// Makes a volume in the data half.
    pub(super) async fn create_volume(self: Arc<Self>, request: VolumeCreate) -> Result<VolumeStarted, ApiError> {
        let _change = self.change.lock().await;
        let size = request.size.bytes();
        if size == 0 || !size.is_multiple_of(SIZE_GRAIN) || i64::try_from(size).is_err() {
            let text = format!("{size} bytes is no size of a volume");
            return Err(ApiError::new(ErrorCode::BadRequest, text, "give a multiple of 4096 bytes, such as 10G"));
        }
        self.check_new_name(&request.name)?;
        let room = self.data_room()?;
        if !request.thin && size > room {
            return Err(no_space(size, room));
        }
        let group = self.group_or_new(&request.group).await?;
        self.takes_volumes(&group)?;
        let id = VolumeId::from_raw(random16()?);
        let path = home_path(self.pool.data(), request.group.as_str(), request.name.as_str(), id);
        let kind = if request.thin { VolumeKind::Thin } else { VolumeKind::Thick };
        let (status, reserved) = self.reserve(&group, &request.name, size, kind, request.local_only, &path, id);
        if request.thin {
            self.fill_and_add(group.clone(), status, path, None, reserved).await?;
            return Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None });
        }
        let subject = format!("volume {}", request.name);
        let job = self.board.begin_job(JobKind::VolumeCreate, subject, Some(size), true)?;
        let (inner, handle, volume) = (self.clone(), job.clone(), status.clone());
        tokio::spawn(async move {
            let result = inner.fill_and_add(group, volume, path, Some(handle.clone()), reserved).await;
            handle.end(result);
        });
        Ok(VolumeStarted { volume: status, job: job.job() })
    }

    fn shown_volume(&self, name: &Name) -> Result<VolumeStatus, ApiError> {
        let found = self.volume_statuses().into_iter().find(|v| v.name == *name);
        found.ok_or_else(|| ApiError::not_found("volume", name))
    }

    /// Writes the home file and gives it to the group.
    async fn fill_and_add(
        self: &Arc<Self>,
        group: Running,
        status: VolumeStatus,
        path: PathBuf,
        job: Option<JobHandle>,
        reserved: Reserved,
    ) -> Result<(), ApiError> {
        let (size, fill) = (ByteLen::from_raw(status.size_bytes), fill_of(status.kind));
        let file = path.clone();
        let media = blocking(move || {
            make_dir(&file)?;
            let mut progress = |p: reprise_media::Progress| {
                let Some(job) = &job else { return ControlFlow::Continue(()) };
                job.progress(p.done.get(), p.total.get());
                if job.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            create_file(&file, size, fill, &mut progress).map_err(|e| media_error(&e))?;
            Media::open(&file, MediaOptions::exclusive()).map_err(|e| media_error(&e))
        })
        .await?;
        let added = self.add_volume(&group, &status, false, media).await;
        if added.is_err() {
            // Nothing names the file: it was made for this volume and holds zeros.
            let _ = fs::remove_file(&path);
        }
        drop(reserved);
        added
    }

    async fn add_volume(
        &self,
        group: &Running,
        status: &VolumeStatus,
        adopted: bool,
        media: Arc<Media>,
    ) -> Result<(), ApiError> {
        let leg = Leg { path: status.home.clone(), adopted, identity: media.identity().to_string() };
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
        };
        let slot = ask(&group.commands, |reply| Command::AddVolume(meta, media, reply)).await?;
        group.shown(|s| s.meta.volume(slot).is_some()).await;
        self.board.event(Told::new(
            "volume-added",
            Severity::Info,
            format!("volume {}", status.name),
            format!("Volume {} is part of group {} as LUN {}.", status.name, group.name, status.lun),
            "",
        ));
        Ok(())
    }

    /// Takes an existing device or image as it is.
    pub(super) async fn adopt_volume(self: Arc<Self>, request: VolumeAdopt) -> Result<VolumeStarted, ApiError> {
        let _change = self.change.lock().await;
        self.check_new_name(&request.name)?;
        let bad = |text: String, what: &str| ApiError::new(ErrorCode::DeviceUnusable, text, what);
        if !request.path.is_absolute() {
            return Err(ApiError::new(ErrorCode::BadRequest, "the path is not absolute", "start it with a /"));
        }
        let Some(text) = request.path.to_str().map(str::to_owned) else {
            return Err(bad("the path is not UTF-8".to_owned(), "rename the file, or use another link to the device"));
        };
        let known = self.volume_statuses().into_iter().find(|v| v.home == text);
        if let Some(volume) = known {
            let message = format!("{text} is the home of volume {} already", volume.name);
            return Err(ApiError::new(ErrorCode::InUse, message, "use that volume, or remove it first"));
        }
        let path = request.path.clone();
        let (media, content) = blocking(move || {
            let media = Media::open(&path, MediaOptions::exclusive()).map_err(|e| media_error(&e))?;
            let content = media.probe_blocking().map_err(|e| media_error(&e))?;
            Ok((media, content))
        })
        .await?;
        let size = media.size();
        if size.get() == 0 || size.sectors().is_none() {
            let message = format!("{text} has {size} bytes, which is no multiple of 512");
            return Err(bad(message, "grow it to a multiple of 512 bytes: truncate -s %4096"));
        }
        if let Some(Signature::Image(format)) = content.signatures.iter().find(|s| matches!(s, Signature::Image(_))) {
            let message = format!("{text} is a {format} image; a volume is taken as it is, byte for byte");
            return Err(bad(message, "convert it first: qemu-img convert -O raw"));
        }
        let group = self.group_or_new(&request.group).await?;
        self.takes_volumes(&group)?;
        let id = VolumeId::from_raw(random16()?);
        let kind = VolumeKind::Adopted;
        let (status, reserved) =
            self.reserve(&group, &request.name, size.get(), kind, request.local_only, &request.path, id);
        self.add_volume(&group, &status, true, media).await?;
        drop(reserved);
        Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None })
    }

    /// Waits a moment for hosts that are just logging out: their connection ends before the group's thread has seen it.
    pub(super) async fn hosts_gone(&self, name: &Name) {
        for _ in 0..15 {
            let gone = self.volume(name).is_ok_and(|(group, _)| group.now().sessions.is_empty());
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The volume may leave its group at present, or why not.
    pub(super) fn may_leave(&self, name: &Name, erase: bool) -> Result<(Running, VolumeMeta), ApiError> {
        let (group, volume) = self.volume(name)?;
        let snapshot = group.now();
        if snapshot.meta.role != Role::Source {
            return Err(wrong_state(
                format!("volume {name} belongs to group {}, which is mirrored to this box", group.name),
                "run the command on the box that is its source; an image whose source is gone goes with: reprise group delete",
            ));
        }
        if snapshot.meta.peer.is_some() {
            return Err(wrong_state(
                format!("group {} has a mirror, and volumes cannot leave such a group in this version", group.name),
                "remove the mirror first: reprise mirror remove",
            ));
        }
        if !snapshot.sessions.is_empty() {
            let who: Vec<_> = snapshot.sessions.iter().map(|s| s.initiator.as_str()).take(4).collect();
            let text = format!("hosts are logged in to group {}: {}", group.name, who.join(", "));
            return Err(ApiError::new(ErrorCode::InUse, text, "log the hosts out first"));
        }
        if erase && volume.legs.iter().any(|l| l.adopted) {
            return Err(wrong_state(
                format!("volume {name} was adopted and is never erased by this box"),
                "take it out as it is: reprise volume remove",
            ));
        }
        if locked(&self.groups).get(&group.id).is_some_and(|e| e.leaving.contains(name.as_str())) {
            return Err(wrong_state(format!("volume {name} is leaving already"), "see reprise jobs"));
        }
        Ok((group, volume))
    }

    /// Lets a volume go, and destroys its home if asked. Answers with the job that does it.
    pub(super) async fn leave(self: &Arc<Self>, name: &Name, erase: bool) -> Result<Option<Job>, ApiError> {
        self.hosts_gone(name).await;
        let _change = self.change.lock().await;
        let (group, volume) = self.may_leave(name, erase)?;
        let kind = if erase { JobKind::VolumeErase } else { JobKind::VolumeRemove };
        let job = self.board.begin_job(kind, format!("volume {name}"), None, false)?;
        self.set_leaving(group.id, name, true);
        let (inner, handle, name) = (self.clone(), job.clone(), name.clone());
        tokio::spawn(async move {
            let result = inner.take_out(&group, &volume, erase).await;
            inner.set_leaving(group.id, &name, false);
            handle.end(result);
        });
        Ok(job.job())
    }

    fn set_leaving(&self, group: GroupId, name: &Name, leaving: bool) {
        if let Some(entry) = locked(&self.groups).get_mut(&group) {
            if leaving {
                entry.leaving.insert(name.to_string())
            } else {
                entry.leaving.remove(name.as_str())
            };
        }
    }

    async fn take_out(&self, group: &Running, volume: &VolumeMeta, erase: bool) -> Result<(), ApiError> {
        let slot = volume.slot;
        let left = ask(&group.commands, |reply| Command::RemoveVolume(slot, reply)).await?;
        group.shown(|s| s.meta.volume(slot).is_none()).await;
        let subject = format!("volume {}", left.name);
        if !erase {
            let home = left.legs.first().map(|l| l.path.clone()).unwrap_or_default();
            let text = format!("Volume {} has left group {}; {home} holds every write.", left.name, group.name);
            self.board.event(Told::new("volume-removed", Severity::Info, subject, text, ""));
            return Ok(());
        }
        let paths: Vec<String> = left.legs.iter().filter(|l| !l.adopted).map(|l| l.path.clone()).collect();
        blocking(move || {
            for path in &paths {
                fs::remove_file(path).map_err(|e| ApiError::internal(format!("delete {path}: {e}")))?;
                let dir = Path::new(path).parent().map(fs::File::open);
                if let Some(Ok(dir)) = dir {
                    let _ = dir.sync_all();
                }
            }
            Ok(())
        })
        .await?;
        let text = format!("Volume {} is erased.", left.name);
        self.board.event(Told::new("volume-erased", Severity::Info, subject, text, ""));
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

fn fill_of(kind: VolumeKind) -> Fill {
    if kind == VolumeKind::Thin { Fill::Sparse } else { Fill::Zeroed }
}

pub(super) fn make_dir(file: &Path) -> Result<(), ApiError> {
    let Some(dir) = file.parent() else { return Ok(()) };
    fs::create_dir_all(dir).map_err(|e| ApiError::internal(format!("make {}: {e}", dir.display())))
}

/// Makes the home of a mirrored volume: its room is taken at once, and the first copy writes every sector of it.
pub(super) fn make_mirror_home(path: &Path, size: ByteLen) -> Result<Arc<Media>, ApiError> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let go_on = &mut |_| ControlFlow::Continue(());
    make_dir(path)?;
    create_file(path, size, Fill::Sparse, go_on).map_err(|e| media_error(&e))?;
    let len = i64::try_from(size.get()).map_err(|_| ApiError::internal("a size past 2^63"))?;
    let reserve = || -> std::io::Result<nix::Result<()>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, len))
    };
    let open = || Media::open(path, MediaOptions::exclusive()).map_err(|e| media_error(&e));
    match reserve() {
        Ok(Ok(())) => open(),
        Ok(Err(nix::Error::EOPNOTSUPP)) => {
            // The file system cannot promise room: only written blocks are sure.
            let _ = fs::remove_file(path);
            create_file(path, size, Fill::Zeroed, go_on).map_err(|e| media_error(&e))?;
            open()
        }
        Ok(Err(error)) => {
            let _ = fs::remove_file(path);
            if error == nix::Error::ENOSPC {
                return Err(no_space(size.get(), 0));
            }
            Err(ApiError::internal(format!("reserve room for {}: {error}", path.display())))
        }
        Err(error) => Err(ApiError::internal(format!("open {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_have_speaking_names() {
        let path = home_path(Path::new("/srv/data"), "pg", "wal", VolumeId::from_raw([0xab; 16]));
        assert_eq!(path, Path::new("/srv/data/pg/wal-abababab.home"));
    }

    #[test]
    fn a_mirror_home_has_its_room_and_is_not_made_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = home_path(dir.path(), "pg", "wal", VolumeId::from_raw([1; 16]));
        let size = ByteLen::from_raw(1 << 20);
        drop(make_mirror_home(&path, size).unwrap());
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), 1 << 20);
        assert!(meta.blocks() * 512 >= 1 << 20, "room is taken");
        assert_eq!(make_mirror_home(&path, size).unwrap_err().code, ErrorCode::NameTaken);
    }

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

    #[test]
    fn media_errors_have_codes_that_fit() {
        let path = PathBuf::from("/x");
        assert_eq!(media_error(&MediaError::DeviceBusy { path: path.clone() }).code, ErrorCode::InUse);
        assert_eq!(media_error(&MediaError::NotBlockMedia { path: path.clone() }).code, ErrorCode::DeviceUnusable);
        let (needed, free) = (ByteLen::from_raw(2), ByteLen::from_raw(1));
        assert_eq!(media_error(&MediaError::NoSpace { path, needed, free }).code, ErrorCode::NoSpace);
    }
}
