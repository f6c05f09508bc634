//! Volumes get more room while hosts use them, and so do their homes on the mirror.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use reprise_api::{ApiError, ErrorCode, JobKind, VOLUME_GRAIN, VolumeResize, VolumeStarted};
use reprise_format::link::{Command as BoxCommand, ReserveVolume, Volume};
use reprise_media::{Fill, Media, MediaKind, grow_file};
use reprise_types::{ByteLen, Role, SectorCount};

use super::errors::{data_error, media_error, no_space};
use super::prepared::Reserved;
use crate::group::Command;
use crate::service::board::JobHandle;
use crate::service::groups::{Entry, Running};
use crate::service::told::Message;
use crate::service::turn::{Asking, Changing, Task};
use crate::service::{Inner, ask, blocking, locked, wrong_state};

/// Longest wait for a mirror to give a home more room. Where it has to write zeros, a larger step takes longer: it goes on
/// there, and a second try is refused until it is done.
const GROW_TIME: Duration = Duration::from_secs(120);

/// A home that is to be written.
struct Growth {
    home: Arc<Media>,
    identity: String,
    size: ByteLen,
    thin: bool,
}

impl Inner {
    /// Gives a home more room; what it has gained reads as zeros. Writing them may take hours, so that nothing is held
    /// meanwhile: the home stays where it is because it is prepared.
    async fn grow_home(
        self: &Arc<Self>,
        asking: &mut Asking,
        prepared: &Reserved,
        size: ByteLen,
        job: Option<JobHandle>,
    ) -> Result<(), ApiError> {
        let change = asking.change().await;
        let growth = self.look_at_home(&change, prepared, size).await?;
        drop(change);
        match growth {
            Some(growth) => self.extend_home(growth, job).await,
            // An earlier attempt has got this far.
            None => Ok(()),
        }
    }

    /// What of a home is to be written, if there is anything.
    async fn look_at_home(
        &self,
        _: &Changing<'_>,
        prepared: &Reserved,
        size: ByteLen,
    ) -> Result<Option<Growth>, ApiError> {
        let (group, volume) = prepared.volume()?;
        let home = ask(&group.commands, |reply| Command::Home(volume.slot, reply)).await?;
        if home.size() >= size {
            return Ok(None);
        }
        if !home.is_window() && home.kind() == MediaKind::Device {
            let text =
                format!("the home of volume {} is {}, which cannot grow by itself", volume.name, home.path().display());
            let what = "copy it onto a larger volume";
            return Err(ApiError::new(ErrorCode::NotSupported, text, what));
        }
        let (more, room) = (size.get() - home.size().get(), self.data_room_for(prepared)?);
        if !volume.thin && !home.is_window() && more > room {
            return Err(no_space(more, room));
        }
        let identity = volume.legs.first().map(|leg| leg.identity.clone()).unwrap_or_default();
        Ok(Some(Growth { home, identity, size, thin: volume.thin }))
    }

    async fn extend_home(self: &Arc<Self>, growth: Growth, job: Option<JobHandle>) -> Result<(), ApiError> {
        let inner = self.clone();
        blocking(move || {
            let Growth { home, identity, size, thin } = growth;
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

    /// A home has the room that it was to get, if its volume is still there: records behind the end that it had may come
    /// from here on.
    async fn home_grown(&self, _: &Changing<'_>, prepared: &Reserved) -> Result<Running, ApiError> {
        let (group, volume) = prepared.volume()?;
        ask(&group.commands, |reply| Command::HomeGrown(volume.slot, reply)).await?;
        Ok(group)
    }

    /// Gives a mirror's home more room.
    pub(in crate::service) async fn grow_image(
        self: &Arc<Self>,
        asking: &mut Asking,
        prepared: Reserved,
        size: ByteLen,
    ) -> Result<(), ApiError> {
        self.grow_home(asking, &prepared, size, None).await?;
        let change = asking.change().await;
        self.home_grown(&change, &prepared).await.map(drop)
    }

    /// A mirror's home that has no room for a size of the source gets it as soon as this box has it. Until then the mirror
    /// takes nothing, and says why.
    pub(in crate::service) fn grow_small_homes(self: &Arc<Self>) {
        for group in self.running() {
            let snapshot = group.now();
            let Some((slot, sectors)) = snapshot.home_too_small else { continue };
            let Some(volume) = snapshot.meta.volume(slot).cloned() else { continue };
            if self.no_home_grows(&group, Some(volume.id)).is_err() {
                // It is on its way.
                continue;
            }
            let due = locked(&self.groups).get_mut(&group.id).is_some_and(Entry::room_is_due);
            if !due {
                continue;
            }
            let inner = self.clone();
            self.turns.spawn(|mut task| async move {
                let change = task.change().await;
                let prepared = inner.may_grow(&group, slot, sectors).map_err(|refused| refused.detail);
                let prepared =
                    prepared.and_then(|()| inner.prepare_room(&group, &volume, sectors.bytes()).map_err(|e| e.message));
                drop(change);
                let grown = match prepared {
                    Ok(prepared) => inner.grow_image(&mut task, prepared, sectors.bytes()).await.map_err(|e| e.message),
                    Err(why) => Err(why),
                };
                if let Some(entry) = locked(&inner.groups).get_mut(&group.id) {
                    entry.no_room = grown.err();
                }
                inner.watch_conditions();
            });
        }
    }

    /// Gives a volume more room, while hosts use it: first the mirror's home, then the own one, then everybody is told.
    pub(in crate::service) async fn resize_volume(
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
        let prepared = self.prepare_room(&group, &volume, ByteLen::from_raw(size))?;
        let job = self.board.begin_job(JobKind::VolumeResize, subject, Some(size - before), true)?;
        let (inner, handle, name) = (self.clone(), job.clone(), request.name.clone());
        self.turns.spawn(|task| async move {
            let result = inner.grow_volume(task, &prepared, size, handle.clone()).await;
            if result.is_ok() {
                let told = Message::VolumeResized { volume: name.as_str(), size };
                inner.board.event(told.about(format!("volume {name}")));
            }
            drop(prepared);
            handle.end(result);
        });
        Ok(VolumeStarted { volume: self.shown_volume(&request.name)?, job: job.job() })
    }

    /// The mirror's home first, then the own one, then the record that says so to everybody.
    async fn grow_volume(
        self: &Arc<Self>,
        mut task: Task,
        prepared: &Reserved,
        size: u64,
        job: JobHandle,
    ) -> Result<(), ApiError> {
        let (group, volume) = prepared.volume()?;
        let (slot, sectors) = (volume.slot, SectorCount::from_raw(size / 512));
        let meta = group.now().meta;
        let asked = meta.peer().map(|p| p.peer);
        if let Some(peer) = asked {
            let known = meta.link_volumes().into_iter().find(|v| v.slot == slot);
            let known = known.ok_or_else(|| wrong_state("the volume is leaving".to_owned(), "see reprise jobs"))?;
            let reserve = ReserveVolume { group: group.id, volume: Volume { sectors, ..known } };
            self.have_peer(&mut task, peer, BoxCommand::ReserveVolume(reserve), GROW_TIME).await?;
        }
        self.grow_home(&mut task, prepared, ByteLen::from_raw(size), Some(job)).await?;
        // Writing may have taken hours, and what is on this box was not held.
        let change = task.change().await;
        let group = self.home_grown(&change, prepared).await?;
        // The record must not reach a mirror that was not asked.
        let mirror = group.now().meta.peer().map(|p| p.peer);
        if mirror.is_some() && mirror != asked {
            let text = format!("group {} has got another mirror meanwhile", group.name);
            return Err(wrong_state(text, "resize it again: the room that it has got on this box is kept"));
        }
        // The answer comes when the record lasts. In a full cache it waits for room, and who makes that needs the lock; what
        // is prepared keeps mirrors and other sizes away.
        drop(change);
        ask(&group.commands, |reply| Command::Resize(slot, sectors, reply)).await
    }
}
