//! Volumes: made, adopted, taken out, erased.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reprise_api::{
    ApiError, BlockSize, ErrorCode, Job, JobKind, Name, VOLUME_GRAIN, VolumeAdopt, VolumeCreate, VolumeKind,
    VolumeResize, VolumeSet, VolumeStarted, VolumeState, VolumeStatus,
};
use reprise_engine::{LegMeta, VolumeMeta};
use reprise_format::link::{Command as BoxCommand, ReserveVolume, Volume};
use reprise_media::{Content, Fill, Media, MediaError, MediaKind, MediaOptions, Signature, grow_file};
use reprise_types::{BlockFormat, ByteLen, GroupId, Role, SectorCount, VolumeId, VolumeSlot};

use super::board::JobHandle;
use super::groups::{Entry, Running};
use super::told::Message;
use super::turn::{Changing, Task};
use super::view::{naa, serial};
use super::{Inner, ask, blocking, chain, locked, random16, wrong_state};
use crate::group::Command;
use crate::pool::{DataError, DataHalf, Home, HomeName, Make};
use crate::store::PeerRecord;

/// Longest wait for a mirror to give a home more room. Where it has to write zeros, a larger step takes longer: it goes on
/// there, and a second try finds it done.
const GROW_TIME: Duration = Duration::from_secs(120);

/// Work on a home that its group's superblock does not know of yet. No mirror is added meanwhile: it would be made with the
/// sizes of before.
pub(super) struct Preparing {
    pub(super) group: GroupId,
    id: VolumeId,
    what: Prepared,
}

enum Prepared {
    /// A volume is being made.
    New(VolumeStatus),
    /// One that is there gets more room.
    Room { volume: String },
}

impl Preparing {
    /// The volume that is being made, where it is a new one.
    fn new_volume(&self) -> Option<&VolumeStatus> {
        match &self.what {
            Prepared::New(status) => Some(status),
            Prepared::Room { .. } => None,
        }
    }
}

/// Takes a volume off the list of those that are prepared, however that ends.
struct Reserved {
    inner: Arc<Inner>,
    id: VolumeId,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        locked(&self.inner.preparing).retain(|p| p.id != self.id);
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

/// Failure of the data half as the API says it.
pub(super) fn data_error(error: &DataError) -> ApiError {
    let (code, what) = match error {
        DataError::Media(error) => return media_error(error),
        DataError::NoRun { free, needed, .. } if free >= needed => {
            (ErrorCode::NoSpace, "make the volume smaller, or erase volumes whose homes lie beside each other")
        }
        DataError::NotBehind { .. } => {
            (ErrorCode::NoSpace, "grow it by less, erase the volume behind it, or copy it onto a larger volume")
        }
        DataError::NoRun { .. } => (ErrorCode::NoSpace, "free some room, or make the volume smaller"),
        DataError::TableFull => (ErrorCode::LimitReached, "erase volumes first"),
        DataError::Thin { .. } => (ErrorCode::NotSupported, "leave --thin out, or use a folder as pool.data"),
        DataError::Unknown { .. } => (ErrorCode::DeviceUnusable, "put the disk of the data half back"),
        DataError::Failed | DataError::Table(_) => {
            (ErrorCode::Internal, "look after the disk of the data half, then start the box again")
        }
        DataError::NotText { .. } => (ErrorCode::DeviceUnusable, "use a path that is UTF-8"),
        DataError::Io { .. } => return ApiError::internal(chain(error)),
    };
    ApiError::new(code, chain(error), what)
}

/// A volume is there, and not its mirror.
fn made_only(volume: &Name, peer: &Name, error: ApiError) -> ApiError {
    let message = format!("volume {volume} is made, but not mirrored to {peer}: {}", error.message);
    ApiError { message, ..error }
}

/// Format of an image that is something else than the bytes that hosts see, and what to do. LUKS is both: hosts encrypt
/// their volumes, so that it is a format in files from elsewhere only.
fn not_raw(data: &DataHalf, media: &Media, content: &Content) -> Option<(&'static str, String)> {
    let own = matches!(data, DataHalf::Folder(folder) if media.path().starts_with(folder));
    let convert = "convert it first: qemu-img convert -O raw";
    content.signatures.iter().find_map(|signature| match signature {
        Signature::Image(format) => Some((*format, format!("{convert} -f {format}"))),
        Signature::Encrypted("luks") if media.kind() == MediaKind::File && !own => {
            let what = "if hosts shall decrypt it, adopt it by a loop device: losetup -f --show; or";
            Some(("luks", format!("{what} {convert} --image-opts driver=luks,...")))
        }
        _ => None,
    })
}

/// How the bytes of an area are reached without the box.
fn how_to_reach(home: &str, bytes: u64) -> String {
    match home.rsplit_once('@').filter(|(disk, at)| disk.starts_with('/') && at.parse::<u64>().is_ok()) {
        Some((disk, at)) => format!(" Without the box: losetup -f --show -o {at} --sizelimit {bytes} {disk}"),
        None => String::new(),
    }
}

impl Inner {
    pub(super) fn preparing_statuses(&self) -> Vec<VolumeStatus> {
        locked(&self.preparing).iter().filter_map(Preparing::new_volume).cloned().collect()
    }

    /// Nothing is being made in the group or getting more room, or what is.
    pub(super) fn nothing_prepared(&self, group: &Running) -> Result<(), ApiError> {
        let preparing = locked(&self.preparing);
        let text = match preparing.iter().find(|p| p.group == group.id).map(|p| &p.what) {
            None => return Ok(()),
            Some(Prepared::New(status)) => format!("volume {} of group {} is being made", status.name, group.name),
            Some(Prepared::Room { volume }) => {
                format!("volume {volume} of group {} is getting more room", group.name)
            }
        };
        Err(wrong_state(text, "wait until its job has ended, or cancel it: reprise jobs"))
    }

    /// True where a volume of this name is in a group of this box, or being made.
    pub(super) fn volume_name_taken(&self, name: &str) -> bool {
        self.group_statuses().iter().any(|g| g.volumes.iter().any(|v| v.name.as_str() == name))
    }

    /// The largest volume that may still be made in the data half, bytes.
    pub(super) fn data_room(&self) -> Result<u64, ApiError> {
        let free = self.pool.data().free();
        let (_, largest) = free.map_err(|e| ApiError::internal(format!("get the free space: {e}")))?;
        if self.pool.data().is_raw() {
            // The table counts what is being made.
            return Ok(largest);
        }
        let limited = self.data_limit.map_or(largest, |limit| limit.saturating_sub(self.data_used()).min(largest));
        // What is being written counts in full from the start.
        let reserved: u64 = locked(&self.preparing)
            .iter()
            .filter_map(Preparing::new_volume)
            .filter(|v| v.kind == VolumeKind::Thick)
            .map(|v| v.size_bytes)
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
                || preparing.iter().any(|p| p.group == group.id && p.new_volume().is_some_and(|v| v.lun == lun))
        };
        let status = VolumeStatus {
            name: name.clone(),
            id,
            group: group.name.clone(),
            lun: (0..=u16::MAX).find(|lun| !used(*lun)).unwrap_or(u16::MAX),
            size_bytes: size,
            kind,
            replicated: !local_only,
            block_size: BlockSize::default(),
            read_only: false,
            home: home.display().to_string(),
            state: VolumeState::Preparing,
            serial: serial(id),
            naa: naa(id),
        };
        preparing.push(Preparing { group: group.id, id, what: Prepared::New(status.clone()) });
        (status, Reserved { inner: self.clone(), id })
    }

    fn check_new_name(&self, name: &Name) -> Result<(), ApiError> {
        if self.volume_name_taken(name.as_str()) {
            let text = format!("there is a volume {name} already");
            return Err(ApiError::new(ErrorCode::NameTaken, text, "choose another name"));
        }
        Ok(())
    }

    /// Makes a volume in the data half. What fails leaves nothing behind, also not the group that was made for it.
    pub(super) async fn create_volume(
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
        local.map_or(Ok(()), |name| Err(super::refused(reprise_engine::CommandError::LocalOnly { name })))
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

    fn shown_volume(&self, name: &Name) -> Result<VolumeStatus, ApiError> {
        let found = self.volume_statuses().into_iter().find(|v| v.name == *name);
        found.ok_or_else(|| ApiError::not_found("volume", name))
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
    pub(super) fn remove_home(&self, path: &str, identity: &str) {
        if let Err(error) = self.pool.data().remove(path, identity) {
            tracing::warn!(path, error = &error as &dyn std::error::Error, "home of a volume that is gone stays");
        }
    }

    async fn add_volume(
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

    /// Gives a home more room; what it has gained reads as zeros.
    pub(super) async fn grow_home(
        self: &Arc<Self>,
        change: &Changing<'_>,
        group: &Running,
        slot: VolumeSlot,
        size: ByteLen,
        job: Option<JobHandle>,
    ) -> Result<(), ApiError> {
        let volume = group.now().meta.volume(slot).cloned();
        let volume =
            volume.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such volume", "look: reprise volume list"))?;
        let home = ask(&group.commands, |reply| Command::Home(slot, reply)).await?;
        // An earlier attempt may have got this far.
        if home.size() < size {
            self.extend_home(change, &volume, home, size, job).await?;
        }
        // Records behind the end that it had may come from here on.
        ask(&group.commands, |reply| Command::HomeGrown(slot, reply)).await
    }

    async fn extend_home(
        self: &Arc<Self>,
        _: &Changing<'_>,
        volume: &VolumeMeta,
        home: Arc<Media>,
        size: ByteLen,
        job: Option<JobHandle>,
    ) -> Result<(), ApiError> {
        let more = size.get() - home.size().get();
        if !home.is_window() && home.kind() == MediaKind::Device {
            let text =
                format!("the home of volume {} is {}, which cannot grow by itself", volume.name, home.path().display());
            let what = "copy it onto a larger volume";
            return Err(ApiError::new(ErrorCode::NotSupported, text, what));
        }
        let room = self.data_room()?;
        if !volume.thin && !home.is_window() && more > room {
            return Err(no_space(more, room));
        }
        let (inner, thin) = (self.clone(), volume.thin);
        let identity = volume.legs.first().map(|leg| leg.identity.clone()).unwrap_or_default();
        blocking(move || {
            let mut progress = |p: reprise_media::Progress| {
                let Some(job) = &job else { return ControlFlow::Continue(()) };
                job.progress(p.done.get(), p.total.get());
                if job.cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            if home.is_window() {
                let grown = inner.pool.data().grow_area(&home, &identity, size, &mut progress);
                return grown.map_err(|e| data_error(&e));
            }
            let fill = if thin { Fill::Sparse } else { Fill::Zeroed };
            grow_file(&home, size, fill, &mut progress).map_err(|e| media_error(&e))
        })
        .await
    }

    /// A mirror's home that has no room for a size of the source gets it as soon as this box has it. Until then the mirror
    /// takes nothing, and says why.
    pub(super) fn grow_small_homes(self: &Arc<Self>) {
        for group in self.running() {
            let Some((slot, sectors)) = group.now().home_too_small else { continue };
            let due = locked(&self.groups).get_mut(&group.id).is_some_and(Entry::room_is_due);
            if !due {
                continue;
            }
            let inner = self.clone();
            self.turns.spawn(|mut task| async move {
                let change = task.change().await;
                let grown = match inner.may_grow(&group, slot, sectors) {
                    Ok(()) => {
                        inner.grow_home(&change, &group, slot, sectors.bytes(), None).await.map_err(|e| e.message)
                    }
                    Err(refused) => Err(refused.detail),
                };
                if let Some(entry) = locked(&inner.groups).get_mut(&group.id) {
                    entry.no_room = grown.err();
                }
                inner.watch_conditions();
            });
        }
    }

    /// Gives a volume more room, while hosts use it: first the mirror's home, then the own one, then everybody is told.
    pub(super) async fn resize_volume(
        self: Arc<Self>,
        mut task: Task,
        request: VolumeResize,
    ) -> Result<VolumeStarted, ApiError> {
        let _command = task.command().await;
        let (group, volume) = self.volume(&request.name)?;
        let (size, before) = (request.size.bytes(), volume.sectors.bytes().get());
        let advice = "give a larger multiple of 4096 bytes, such as 20G";
        if !size.is_multiple_of(VOLUME_GRAIN) || i64::try_from(size).is_err() {
            let text = format!("a volume has a multiple of {VOLUME_GRAIN} bytes, {size} is none");
            return Err(ApiError::new(ErrorCode::BadRequest, text, advice));
        }
        if size <= before {
            let text = format!("volume {} has {before} bytes and can only grow", request.name);
            return Err(ApiError::new(ErrorCode::WrongState, text, advice));
        }
        let meta = group.now().meta;
        if meta.role() != Role::Source {
            let text =
                format!("volume {} belongs to group {}, which is mirrored to this box", request.name, group.name);
            return Err(wrong_state(text, "run the command on the box that is its source"));
        }
        let subject = format!("volume {}", request.name);
        let prepared = self.prepare_room(&group, &volume)?;
        let job = self.board.begin_job(JobKind::VolumeResize, subject, Some(size - before), true)?;
        let (inner, handle, name) = (self.clone(), job.clone(), request.name.clone());
        self.turns.spawn(|task| async move {
            let result = inner.grow_volume(task, &group, &volume, size, handle.clone()).await;
            if result.is_ok() {
                let told = Message::VolumeResized { volume: name.as_str(), size };
                inner.board.event(told.about(format!("volume {name}")));
            }
            drop(prepared);
            handle.end(result);
        });
        Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: job.job() })
    }

    /// Puts a volume on the list of those that are prepared, once.
    fn prepare_room(self: &Arc<Self>, group: &Running, volume: &VolumeMeta) -> Result<Reserved, ApiError> {
        let (id, name) = (volume.id, volume.name.clone());
        let mut preparing = locked(&self.preparing);
        if preparing.iter().any(|p| p.id == id) {
            let text = format!("volume {name} is getting more room already");
            return Err(wrong_state(text, "wait until its job has ended, or cancel it: reprise jobs"));
        }
        preparing.push(Preparing { group: group.id, id, what: Prepared::Room { volume: name } });
        Ok(Reserved { inner: self.clone(), id })
    }

    /// The mirror's home first, then the own one, then the record that says so to everybody.
    async fn grow_volume(
        self: &Arc<Self>,
        mut task: Task,
        group: &Running,
        volume: &VolumeMeta,
        size: u64,
        job: JobHandle,
    ) -> Result<(), ApiError> {
        let (slot, sectors) = (volume.slot, SectorCount::from_raw(size / 512));
        let meta = group.now().meta;
        let asked = meta.peer().map(|p| p.peer);
        if let Some(peer) = asked {
            let known = meta.link_volumes().into_iter().find(|v| v.slot == slot);
            let known = known.ok_or_else(|| wrong_state("the volume is leaving".to_owned(), "see reprise jobs"))?;
            let reserve = ReserveVolume { group: group.id, volume: Volume { sectors, ..known } };
            self.have_peer(&mut task, peer, BoxCommand::ReserveVolume(reserve), GROW_TIME).await?;
        }
        // Taken behind the question: the peer takes its own to answer, and may be asking this box the same.
        let change = task.change().await;
        self.grow_home(&change, group, slot, ByteLen::from_raw(size), Some(job)).await?;
        // Writing may have taken hours. The record must not reach a mirror that was not asked.
        let mirror = group.now().meta.peer().map(|p| p.peer);
        if mirror.is_some() && mirror != asked {
            let text = format!("group {} has got another mirror meanwhile", group.name);
            return Err(wrong_state(text, "resize it again: the room that it has got on this box is kept"));
        }
        ask(&group.commands, |reply| Command::Resize(slot, sectors, reply)).await
    }

    /// Lets hosts write a volume, or not.
    pub(super) async fn set_volume(
        self: Arc<Self>,
        mut task: Task,
        request: VolumeSet,
    ) -> Result<VolumeStatus, ApiError> {
        let _command = task.command().await;
        let (group, volume) = self.volume(&request.name)?;
        let (slot, read_only) = (volume.slot, request.read_only);
        ask(&group.commands, |reply| Command::SetReadOnly(slot, read_only, reply)).await?;
        self.shown_volume(&request.name)
    }

    /// Takes an existing device or image as it is.
    pub(super) async fn adopt_volume(
        self: Arc<Self>,
        mut task: Task,
        request: VolumeAdopt,
    ) -> Result<VolumeStarted, ApiError> {
        let mut command = task.command().await;
        let change = command.change().await;
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
        if let Some(area) = self.pool.data().area_at(&text) {
            return self.adopt_area(&change, request, area.map_err(|e| data_error(&e))?).await;
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
        if let Some((format, what)) = not_raw(self.pool.data(), &media, &content) {
            let message = format!("{text} is a {format} image; a volume is taken as it is, byte for byte");
            return Err(bad(message, &what));
        }
        let home = Home { path: text, identity: media.identity().to_string(), media };
        self.take_home(&change, &request, VolumeKind::Adopted, &home).await
    }

    /// Makes a volume of a home as it is.
    async fn take_home(
        self: &Arc<Self>,
        change: &Changing<'_>,
        request: &VolumeAdopt,
        kind: VolumeKind,
        home: &Home,
    ) -> Result<VolumeStarted, ApiError> {
        let (group, id) = (self.group_or_new(change, &request.group).await?, random16());
        let added = async {
            self.takes_volumes(&group)?;
            let (id, size, path) = (VolumeId::from_raw(id?), home.media.size().get(), PathBuf::from(&home.path));
            let (status, _reserved) = self.reserve(&group, &request.name, size, kind, request.local_only, &path, id);
            self.add_volume(&group, &status, kind == VolumeKind::Adopted, home).await
        };
        if let Err(error) = added.await {
            self.withdraw_group(change, &group).await;
            return Err(error);
        }
        Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: None })
    }

    /// Takes an area of the data half that no volume uses, as it is. It was made by this box: it is thick, and may be
    /// erased.
    async fn adopt_area(
        self: &Arc<Self>,
        change: &Changing<'_>,
        request: VolumeAdopt,
        home: Home,
    ) -> Result<VolumeStarted, ApiError> {
        // A volume that does not run may own it, and one that is being made has no path yet.
        let owned = self.area_owner(&home.identity);
        if let Some(owner) = owned {
            let text = format!("{} is the home of volume {owner} already", home.path);
            return Err(ApiError::new(ErrorCode::InUse, text, "use that volume, or remove it first"));
        }
        self.take_home(change, &request, VolumeKind::Thick, &home).await
    }

    /// Name of the volume whose home is this area.
    fn area_owner(&self, identity: &str) -> Option<String> {
        let metas: Vec<_> = locked(&self.groups).values().filter_map(super::groups::Entry::meta).collect();
        let volumes = metas.iter().flat_map(|m| &m.volumes);
        volumes.clone().find(|v| v.legs.iter().any(|l| l.identity == identity)).map(|v| v.name.clone())
    }

    /// Areas of a raw data half that no volume uses, as far as the groups that can be read tell: place and size.
    pub(super) fn spare_areas(&self) -> Vec<(String, String, u64)> {
        let groups = locked(&self.groups);
        let metas: Vec<_> = groups.values().map(super::groups::Entry::meta).collect();
        drop(groups);
        if metas.iter().any(Option::is_none) || !locked(&self.preparing).is_empty() {
            // What a group that cannot be read owns is not known.
            return Vec::new();
        }
        let homes: Vec<String> = metas
            .into_iter()
            .flatten()
            .flat_map(|m| m.volumes.iter().flat_map(|v| v.legs.iter().map(|l| l.path.clone())).collect::<Vec<_>>())
            .collect();
        self.pool.data().areas().into_iter().filter(|(_, path, _)| !homes.contains(path)).collect()
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
        if snapshot.meta.role() != Role::Source {
            let what = format!(
                "do it on the box that is its source; the whole image is given up with: {}",
                self.words().give_up(&group.name)
            );
            let text = format!("volume {name} belongs to group {}, which is mirrored to this box", group.name);
            return Err(wrong_state(text, what));
        }
        if let Some(reason) = snapshot.meta.fenced.clone() {
            return Err(super::refused(reprise_engine::CommandError::Fenced { reason }));
        }
        if let Some(why) = &snapshot.home_detached {
            return Err(wrong_state(
                format!(
                    "a home of group {} is detached ({why}), and the volume leaves when its home holds every write",
                    group.name
                ),
                "look after its disk, and take it into use again",
            ));
        }
        if snapshot.meta.peer().is_some() {
            return Err(wrong_state(
                format!("group {} has a mirror, and volumes cannot leave such a group in this version", group.name),
                format!("end the mirror first: {}", self.words().end_mirror(&group.name, "PEER")),
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
    pub(super) async fn leave(
        self: &Arc<Self>,
        mut task: Task,
        name: &Name,
        erase: bool,
    ) -> Result<Option<Job>, ApiError> {
        self.hosts_gone(name).await;
        let mut command = task.command().await;
        let _change = command.change().await;
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

    async fn take_out(self: &Arc<Self>, group: &Running, volume: &VolumeMeta, erase: bool) -> Result<(), ApiError> {
        let slot = volume.slot;
        let left = ask(&group.commands, |reply| Command::RemoveVolume(slot, reply)).await?;
        let subject = format!("volume {}", left.name);
        if !erase {
            let home = left.legs.first().map(|l| l.path.clone()).unwrap_or_default();
            let reach = how_to_reach(&home, left.sectors.bytes().get());
            let (volume, group, home, reach) = (&*left.name, group.name.as_str(), &*home, &*reach);
            self.board.event(Message::VolumeRemoved { volume, group, home, reach }.about(subject));
            return Ok(());
        }
        let legs: Vec<LegMeta> = left.legs.iter().filter(|l| !l.adopted).cloned().collect();
        let inner = self.clone();
        blocking(move || {
            let remove = |leg: &LegMeta| inner.pool.data().remove(&leg.path, &leg.identity).map_err(|e| data_error(&e));
            legs.iter().try_for_each(remove)
        })
        .await?;
        self.board.event(Message::VolumeErased { volume: &left.name }.about(subject));
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
    fn an_area_says_how_it_is_reached_without_the_box() {
        let text = how_to_reach("/dev/sdb@1048576", 4096);
        assert!(text.ends_with("losetup -f --show -o 1048576 --sizelimit 4096 /dev/sdb"), "{text}");
        assert_eq!(how_to_reach("/srv/data/pg/v-0.home", 4096), "");
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
