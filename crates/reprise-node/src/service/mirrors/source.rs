//! Groups of this box at a peer: mirrored, paused, moved, ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reprise_api::{ApiError, ErrorCode, Job, MirrorOf, MirrorStarted, Name};
use reprise_engine::GroupMeta;
use reprise_format::link::{BoxInfo, Command as BoxCommand, CreateMirror, DeleteMirror, PauseNotice, RefusalReason};
use reprise_link::instance;
use reprise_types::{BoxId, Role};

use crate::clock;
use crate::group::Command;
use crate::service::conditions::CLOCK_OFFSET_MAX_SECS;
use crate::service::control::NotDone;
use crate::service::groups::{Running, set_paused};
use crate::service::told::Message;
use crate::service::turn::{Asking, Commanding, Task};
use crate::service::words::Words;
use crate::service::{Inner, ask, locked, random16, wrong_state};
use crate::store::PeerRecord;

/// Longest wait for the peer to make its homes. Room is only promised there, not written, on file systems that can.
const CREATE_TIME: Duration = Duration::from_secs(45);

/// Longest wait for the peer to take note of something.
const TELL_TIME: Duration = Duration::from_secs(5);

/// A second copy onto an image is not possible, so nobody is let into one.
fn onto_an_image(peer: &str, group: &Name, words: Words) -> String {
    format!(
        "a second copy onto an image is not possible in this version: give the image up on {peer} first ({}, there), or keep it and \
         use another group",
        words.give_up(group)
    )
}

fn too_small(peer: &Name, needed: u64, free: u64) -> ApiError {
    let text = format!("peer {peer} is too small: {needed} bytes are needed, {free} are free");
    ApiError::new(ErrorCode::NoSpace, text, "give the peer a larger data half")
}

/// Why a mirror could not be made. An image that is in the way has a way out of its own.
fn not_made(group: &Name, not_done: NotDone, words: Words) -> ApiError {
    let what = match &not_done {
        NotDone::Refused { peer, refused } if refused.reason == RefusalReason::HasImage => {
            Some(onto_an_image(peer, group, words))
        }
        _ => None,
    };
    let error = not_done.into_error();
    match what {
        Some(what_to_do) => ApiError { what_to_do, ..error },
        None => error,
    }
}

impl Inner {
    /// Mirrors a group to a peer.
    pub(in crate::service) async fn add_mirror(
        self: Arc<Self>,
        mut task: Task,
        request: MirrorOf,
    ) -> Result<MirrorStarted, ApiError> {
        let mut command = task.command().await;
        let group = self.group(&request.group)?;
        let peer = self.peer_named(&request.peer)?;
        self.begin_mirror(&mut command, &group, &peer).await
    }

    /// The same, in the turn of a command.
    pub(in crate::service) async fn begin_mirror(
        self: &Arc<Self>,
        command: &mut Commanding<'_>,
        group: &Running,
        peer: &PeerRecord,
    ) -> Result<MirrorStarted, ApiError> {
        self.may_be_mirrored(group, &group.now().meta, None)?;
        let info = self.peer_info(command, peer.id).await?;
        self.may_hold(&peer.name, &info, std::slice::from_ref(group))?;
        let warnings = self.compare(&peer.name, &info);
        self.offer_mirror(command, group, peer).await?;
        self.attach_mirror(command, group, peer, warnings).await
    }

    /// Mirrors to `new` what is mirrored to `old`. Nothing has changed where the other box refuses a group.
    pub(in crate::service) async fn move_mirrors(
        self: &Arc<Self>,
        command: &mut Commanding<'_>,
        old: &PeerRecord,
        new: &PeerRecord,
    ) -> Result<Option<Job>, ApiError> {
        let groups = self.all_with(old)?;
        if groups.is_empty() {
            return Ok(None);
        }
        let info = self.peer_info(command, new.id).await?;
        self.may_hold(&new.name, &info, &groups)?;
        for (at, group) in groups.iter().enumerate() {
            let checked = self.may_be_mirrored(group, &group.now().meta, Some(old.id));
            let offered = match checked {
                Ok(()) => self.offer_mirror(command, group, new).await,
                refused => refused,
            };
            if let Err(error) = offered {
                for before in groups.iter().take(at) {
                    self.withdraw_mirror(command, before, new).await;
                }
                return Err(error);
            }
        }
        let mut job = None;
        for group in &groups {
            self.end_mirror(command, group, old).await?;
            job = self.attach_mirror(command, group, new, self.compare(&new.name, &info)).await?.job;
        }
        Ok(job)
    }

    /// The peer has no older image of the groups.
    fn may_hold(&self, peer: &Name, info: &BoxInfo, groups: &[Running]) -> Result<(), ApiError> {
        if let Some(group) = groups.iter().find(|g| info.held.contains(&g.id)) {
            let text = format!("peer {peer} has an image of group {} already", group.name);
            let what = onto_an_image(peer.as_str(), &group.name, self.words());
            return Err(ApiError::new(ErrorCode::ImageExists, text, what));
        }
        Ok(())
    }

    /// Asks the box that is to take a peer's place whether it can have its mirrors.
    pub(in crate::service) async fn may_move_mirrors(
        &self,
        asking: &mut Asking,
        old: &PeerRecord,
        new: &PeerRecord,
    ) -> Result<(), ApiError> {
        let groups = self.all_with(old)?;
        if groups.is_empty() {
            return Ok(());
        }
        let info = self.peer_info(asking, new.id).await?;
        self.may_hold(&new.name, &info, &groups)?;
        let sizes = groups.iter().flat_map(|g| g.now().meta.volumes.clone()).map(|v| v.sectors.bytes().get());
        let (needed, free) = (sizes.fold(0, u64::saturating_add), info.data_free_bytes.get());
        if needed > free { Err(too_small(&new.name, needed, free)) } else { Ok(()) }
    }

    fn all_with(&self, peer: &PeerRecord) -> Result<Vec<Running>, ApiError> {
        self.groups_with(peer.id).iter().map(|(name, _)| self.group(name)).collect()
    }

    /// Has the peer make the homes of a mirror.
    async fn offer_mirror(
        &self,
        command: &mut Commanding<'_>,
        group: &Running,
        peer: &PeerRecord,
    ) -> Result<(), ApiError> {
        let volumes = group.now().meta.link_volumes();
        let create = CreateMirror { group: group.id, name: group.name.to_string(), volumes };
        let made = self.have_peer(command, peer.id, BoxCommand::CreateMirror(create), CREATE_TIME).await;
        if let Err(not_done) = made {
            if matches!(not_done, NotDone::Unknown(_)) {
                // It may still do it: then it is to be undone.
                self.withdraw_mirror(command, group, peer).await;
            }
            return Err(not_made(&group.name, not_done, self.words()));
        }
        Ok(())
    }

    /// Takes an offer back. An image that has begun stays in any case.
    async fn withdraw_mirror(&self, command: &mut Commanding<'_>, group: &Running, peer: &PeerRecord) {
        let undo = BoxCommand::DeleteMirror(DeleteMirror { group: group.id, keep_image: false });
        self.tell_peer(command, peer.id, undo, TELL_TIME).await;
    }

    /// Lets the first copy begin that the peer has made room for.
    async fn attach_mirror(
        self: &Arc<Self>,
        command: &mut Commanding<'_>,
        group: &Running,
        peer: &PeerRecord,
        warnings: Vec<String>,
    ) -> Result<MirrorStarted, ApiError> {
        let first = instance::first(random16()?);
        if let Err(error) = ask(&group.commands, |reply| Command::AddPeer(peer.id, first, reply)).await {
            self.withdraw_mirror(command, group, peer).await;
            return Err(error);
        }
        let mind: String = warnings.iter().map(|w| format!(" Mind: {w}.")).collect();
        let told = Message::MirrorAdded { group: group.name.as_str(), peer: peer.name.as_str(), mind: &mind };
        self.board.event(told.about(format!("group {}", group.name)));
        let total: u64 = group.now().meta.volumes.iter().map(|v| v.sectors.bytes().get()).sum();
        let job = self.copy_job(group.id).and_then(|job| {
            job.progress(0, total);
            job.job()
        });
        Ok(MirrorStarted { job, warnings })
    }

    /// The group may get a mirror, or another one than the one at `but`.
    pub(in crate::service) fn may_be_mirrored(
        &self,
        group: &Running,
        meta: &GroupMeta,
        but: Option<BoxId>,
    ) -> Result<(), ApiError> {
        if meta.role() != Role::Source {
            return Err(crate::service::refused(reprise_engine::CommandError::NotSource));
        }
        if let Some(reason) = meta.fenced.clone() {
            return Err(crate::service::refused(reprise_engine::CommandError::Fenced { reason }));
        }
        if meta.peer().map(|p| p.peer) != but {
            return Err(crate::service::refused(reprise_engine::CommandError::HasPeer));
        }
        self.nothing_prepared(group)?;
        if let Some(volume) = meta.volumes.iter().find(|v| v.local_only) {
            return Err(crate::service::refused(reprise_engine::CommandError::LocalOnly { name: volume.name.clone() }));
        }
        if meta.volumes.is_empty() {
            return Err(wrong_state(format!("group {} has no volume", group.name), "make or adopt one first"));
        }
        Ok(())
    }

    /// What somebody should know about a peer before it mirrors something.
    fn compare(&self, peer: &Name, info: &BoxInfo) -> Vec<String> {
        let mut warnings = Vec::new();
        let (ours, theirs) = (self.write_rate.load(Ordering::Relaxed), info.write_rate.get());
        if theirs > 0 && theirs.saturating_mul(2) < ours {
            warnings.push(format!(
                "the cache of {peer} writes {} MiB/s, this box's {} MiB/s: at full speed the mirror falls behind",
                theirs >> 20,
                ours >> 20
            ));
        }
        let offset = (info.wall_micros.get() as f64 - clock::now().wall.get() as f64) / 1e6;
        if offset.abs() > CLOCK_OFFSET_MAX_SECS {
            warnings.push(format!("the clock of {peer} differs from this box's by {:.1} hours", offset / 3600.0));
        }
        let cache = self.pool.cache().size().get();
        if info.cache_free_bytes.get() < cache / 8 {
            warnings.push(format!("the cache of {peer} has only {} MiB free", info.cache_free_bytes.get() >> 20));
        }
        warnings
    }

    /// The group, if it is mirrored to this peer.
    pub(in crate::service) fn mirrored(&self, group: &Name, peer: &Name) -> Result<(Running, PeerRecord), ApiError> {
        let group = self.group(group)?;
        let record = self.peer_named(peer)?;
        let meta = group.now().meta;
        match meta.peer() {
            Some(p) if p.peer == record.id && meta.role() == Role::Source => Ok((group, record)),
            Some(p) if p.peer == record.id => Err(crate::service::refused(reprise_engine::CommandError::NotSource)),
            _ => Err(wrong_state(
                format!("group {} is not mirrored to {peer}", group.name),
                "see where it is mirrored to: reprise status",
            )),
        }
    }

    /// Pauses or resumes the link of a group.
    pub(in crate::service) async fn pause_mirror(
        self: Arc<Self>,
        mut task: Task,
        request: MirrorOf,
        paused: bool,
    ) -> Result<(), ApiError> {
        let mut command = task.command().await;
        let (group, peer) = self.mirrored(&request.group, &request.peer)?;
        set_paused(&group, paused).await?;
        let name = group.name.as_str();
        let message =
            if paused { Message::MirrorPaused { group: name } } else { Message::MirrorResumed { group: name } };
        self.board.event(message.about(format!("group {name}")));
        // For the peer's display only; it need not hear it.
        let notice = BoxCommand::PauseNotice(PauseNotice { group: group.id, paused });
        self.tell_peer(&mut command, peer.id, notice, TELL_TIME).await;
        Ok(())
    }

    /// Ends mirroring; the image stays at the peer.
    pub(in crate::service) async fn end_mirror(
        &self,
        command: &mut Commanding<'_>,
        group: &Running,
        peer: &PeerRecord,
    ) -> Result<(), ApiError> {
        ask(&group.commands, Command::RemovePeer).await?;
        if let Some(entry) = locked(&self.groups).get_mut(&group.id) {
            entry.dial = None;
        }
        let subject = format!("group {}", group.name);
        for code in ["link-down", "link-stopped"] {
            self.board.clear(code, &subject);
        }
        let delete = BoxCommand::DeleteMirror(DeleteMirror { group: group.id, keep_image: true });
        let told = self.have_peer(command, peer.id, delete, TELL_TIME).await;
        let (group, peer) = (group.name.as_str(), peer.name.as_str());
        self.board.event(match told {
            Ok(()) => Message::MirrorRemoved { group, peer }.about(subject),
            Err(not_done) => {
                let why = not_done.into_error().message;
                Message::MirrorRemovedUntold { group, peer, why: &why }.about(subject)
            }
        });
        Ok(())
    }
}
