//! Mirrors: a group of this box at a peer, and a peer's group on this box.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reprise_api::{ApiError, ErrorCode, Job, MirrorOf, MirrorStarted, Name};
use reprise_engine::{GroupMeta, LegMeta, PeerMeta, RoleMeta, VolumeMeta};
use reprise_format::link::{
    BoxInfo, Command as BoxCommand, CreateMirror, DeleteMirror, Done, Outcome, PauseNotice, RefusalReason, Refused,
    ReserveVolume, Volume,
};
use reprise_format::superblock::{LUN_MAX, VOLUMES_MAX};
use reprise_link::instance;
use reprise_types::{BlockFormat, BoxId, ByteLen, GroupId, Point, Role, SECTOR_END_MAX, SectorCount, Seq, VolumeSlot};

use super::conditions::CLOCK_OFFSET_MAX_SECS;
use super::control::NotDone;
use super::groups::{Entry, Running, set_paused};
use super::told::{Message, Told};
use super::turn::{Asking, Changing, Commanding, Task};
use super::volumes::data_error;
use super::words::Words;
use super::{Inner, ask, blocking, budget, locked, random16, wrong_state};
use crate::clock;
use crate::group::{Command, HomeMedia};
use crate::pool::{DataHalf, HomeName, Make};
use crate::store::PeerRecord;

/// Alert: a source came back with a pool that knows nothing of what it has mirrored here.
const OTHER_POOL: &str = "peer-other-pool";
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
    pub(super) async fn add_mirror(
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
    pub(super) async fn begin_mirror(
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
    pub(super) async fn move_mirrors(
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
    pub(super) async fn may_move_mirrors(
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
    pub(super) fn may_be_mirrored(
        &self,
        group: &Running,
        meta: &GroupMeta,
        but: Option<BoxId>,
    ) -> Result<(), ApiError> {
        if meta.role() != Role::Source {
            return Err(super::refused(reprise_engine::CommandError::NotSource));
        }
        if let Some(reason) = meta.fenced.clone() {
            return Err(super::refused(reprise_engine::CommandError::Fenced { reason }));
        }
        if meta.peer().map(|p| p.peer) != but {
            return Err(super::refused(reprise_engine::CommandError::HasPeer));
        }
        self.nothing_prepared(group)?;
        if let Some(volume) = meta.volumes.iter().find(|v| v.local_only) {
            return Err(super::refused(reprise_engine::CommandError::LocalOnly { name: volume.name.clone() }));
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
    pub(super) fn mirrored(&self, group: &Name, peer: &Name) -> Result<(Running, PeerRecord), ApiError> {
        let group = self.group(group)?;
        let record = self.peer_named(peer)?;
        let meta = group.now().meta;
        match meta.peer() {
            Some(p) if p.peer == record.id && meta.role() == Role::Source => Ok((group, record)),
            Some(p) if p.peer == record.id => Err(super::refused(reprise_engine::CommandError::NotSource)),
            _ => Err(wrong_state(
                format!("group {} is not mirrored to {peer}", group.name),
                "see where it is mirrored to: reprise status",
            )),
        }
    }

    /// Pauses or resumes the link of a group.
    pub(super) async fn pause_mirror(
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
    pub(super) async fn end_mirror(
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

    /// Does what a peer asks.
    pub(super) async fn carry_out(self: &Arc<Self>, mut task: Task, peer: BoxId, command: BoxCommand) -> Outcome {
        let result = match command {
            BoxCommand::BoxInfo(_) => return Outcome::BoxInfo(self.about(peer)),
            BoxCommand::CreateMirror(create) => self.create_mirror(&task.change().await, peer, create).await,
            BoxCommand::DeleteMirror(delete) => self.delete_mirror(&task.change().await, peer, delete).await,
            BoxCommand::PauseNotice(notice) => self.note_pause(peer, &notice),
            BoxCommand::ForgetPeer(_) => self.forgotten_by(&mut task, peer).await,
            BoxCommand::ReserveVolume(reserve) => self.reserve_volume(&task.change().await, peer, reserve).await,
        };
        match result {
            Ok(()) => Outcome::Done(Done {}),
            Err(refused) => {
                let (reason, detail) = (refused.reason, &refused.detail);
                match self.budget(peer, "command-refused") {
                    budget::Verdict::Refused => tracing::debug!(%peer, ?reason, detail, "command of the peer refused"),
                    _ => tracing::info!(%peer, ?reason, detail, "command of the peer refused"),
                }
                Outcome::Refused(refused)
            }
        }
    }

    fn budget(&self, peer: BoxId, code: &'static str) -> budget::Verdict {
        locked(&self.budgets).take(clock::now().mono, &format!("peer {peer}"), code)
    }

    /// An event that a peer has made: one that makes the same over and over pushes no other out.
    pub(super) fn event_of(&self, peer: BoxId, told: Told) {
        match self.budget(peer, told.code) {
            budget::Verdict::Told => self.board.event(told),
            budget::Verdict::Refused => tracing::debug!(code = told.code, subject = told.subject, "{}", told.text),
            budget::Verdict::FirstRefused => {
                let name = self.peer_name(peer);
                let message = Message::EventsLeftOut { peer: &name, code: told.code };
                self.board.event(message.about(format!("peer {name}")));
            }
        }
    }

    /// The peer may have so many groups and bytes more here, or why not.
    fn within_share(&self, peer: BoxId, groups: u32, bytes: u64) -> Result<(), Refused> {
        let Some(share) = self.store.peer(peer).map(|record| record.share) else { return Ok(()) };
        let (has_groups, has_bytes) = self.mirrored_for(peer);
        let free = share.bytes_max.map(|max| max.bytes().saturating_sub(has_bytes));
        if !share.mirrors {
            Err(refused(RefusalReason::Invalid, "this box takes no mirrors from the other one"))
        } else if groups > 0 && share.groups_max.is_some_and(|max| has_groups.saturating_add(groups) > max) {
            Err(refused(RefusalReason::TooMany, "the other box has as many groups here as it may have"))
        } else if let Some(free) = free.filter(|free| bytes > *free) {
            let (needed, available) = (ByteLen::from_raw(bytes), ByteLen::from_raw(free));
            let detail = "the other box may have no more room here".to_owned();
            Err(Refused { reason: RefusalReason::TooSmall, detail, needed, available })
        } else {
            Ok(())
        }
    }

    /// The room that a volume of a mirror is to have more is within its peer's share, or why not.
    pub(super) fn may_grow(&self, group: &Running, slot: VolumeSlot, sectors: SectorCount) -> Result<(), Refused> {
        let meta = group.now().meta;
        let (Some(peer), Some(volume)) = (meta.peer(), meta.volume(slot)) else { return Ok(()) };
        match sectors.bytes().get().saturating_sub(volume.sectors.bytes().get()) {
            0 => Ok(()),
            more => self.within_share(peer.peer, 0, more),
        }
    }

    /// Somebody is told that a peer asked for more than it may have.
    fn tell_refused(&self, peer: BoxId, group: &str, refused: Refused) -> Refused {
        let name = self.peer_name(peer);
        let share = self.store.peer(peer).map(|record| record.share).unwrap_or_default();
        let message = Message::MirrorRefused { group, peer: &name, share: &share.to_string() };
        self.event_of(peer, message.about(format!("peer {name}")));
        refused
    }

    fn about(&self, asker: BoxId) -> BoxInfo {
        let fill = self.pool.allocator().fill();
        let (mirrored, held) = self.groups_between(asker);
        BoxInfo {
            name: self.settings.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_free_bytes: ByteLen::from_raw(self.data_room().unwrap_or(0)),
            cache_free_bytes: ByteLen::from_raw(u64::from(fill.free()) * self.pool.segment_len()),
            write_rate: ByteLen::from_raw(self.write_rate.load(Ordering::Relaxed)),
            wall_micros: clock::now().wall,
            link_address: self.link_address(),
            tells_groups: true,
            mirrored,
            held,
            pool: Some(*self.pool.id().as_bytes()),
        }
    }

    /// Groups that this box may mirror to a peer, and groups of which it holds something that the peer feeds or fed. What
    /// does not run, and may be either, is in both: nobody may take it for gone.
    fn groups_between(&self, peer: BoxId) -> (Vec<GroupId>, Vec<GroupId>) {
        let (mut mirrored, mut held) = (Vec::new(), Vec::new());
        let known = self.pool.groups();
        let groups = locked(&self.groups);
        for id in known.into_iter().map(|slot| slot.group) {
            let entry = groups.get(&id);
            let runs = entry.is_some_and(|e| e.running().is_some());
            let meta = entry.and_then(Entry::meta);
            let with = |role| match &meta {
                Some(m) if runs => m.role() == role && m.peer().is_some_and(|p| p.peer == peer),
                _ => true,
            };
            mirrored.extend(with(Role::Source).then_some(id));
            // Homes that were made and not attached are no image.
            let fresh = meta.as_ref().is_some_and(|m| runs && is_fresh(m));
            held.extend((with(Role::Mirror) && !fresh).then_some(id));
        }
        (mirrored, held)
    }

    /// Mirrors here that their source says it does not mirror any more have ended: it could not say so when it ended them. A
    /// source that came back with another pool knows of nothing and has ended nothing: the images here may be all there is.
    pub(super) async fn end_forgotten(&self, asking: &mut Asking, peer: BoxId, info: &BoxInfo) {
        if !info.tells_groups {
            return;
        }
        let gone = |g: &Running| {
            let meta = g.now().meta;
            // One without history may be about to be attached there.
            let begun = meta.role() == Role::Mirror && !meta.branches.is_empty() && meta.ended().is_none();
            begun && meta.peer().is_some_and(|p| p.peer == peer) && !info.mirrored.contains(&g.id)
        };
        let forgotten: Vec<Running> = self.running().into_iter().filter(gone).collect();
        let Some(record) = self.store.peer(peer) else { return };
        let subject = format!("peer {}", record.name);
        let pool = info.pool.map(hex::encode);
        if forgotten.is_empty() {
            self.board.clear(OTHER_POOL, &subject);
            if let Err(error) = self.store.change_peer(peer, true, |p| p.pool = pool) {
                tracing::warn!(error = &error as &dyn std::error::Error, "pool of a peer is not stored");
            }
            return;
        }
        if pool.is_none() || pool != record.pool {
            let names: Vec<&str> = forgotten.iter().map(|g| g.name.as_str()).collect();
            let message = Message::PeerOtherPool { peer: record.name.as_str(), groups: &names.join(", ") };
            self.board.raise(message.about(subject));
            return;
        }
        for group in forgotten {
            let change = asking.change().await;
            if let Err(error) = self.mirror_ended(&change, &group, peer).await {
                tracing::warn!(group = %group.name, %error, "end of a mirror is not stored");
            }
        }
    }

    /// Takes note that the source has ended a mirror here.
    async fn mirror_ended(&self, _: &Changing<'_>, group: &Running, peer: BoxId) -> Result<(), ApiError> {
        let known = group.now().meta.ended().is_some();
        ask(&group.commands, Command::EndMirror).await?;
        let subject = format!("group {}", group.name);
        for code in ["link-down", "source-silent"] {
            self.board.clear(code, &subject);
        }
        if !known {
            let source = self.peer_name(peer);
            let advice = self.words().keep_or_give_up(&group.name, &source);
            let (group, source) = (group.name.as_str(), source.as_str());
            self.board.event(Message::MirrorDetached { group, source, advice: &advice }.about(subject));
        }
        Ok(())
    }

    async fn create_mirror(
        self: &Arc<Self>,
        change: &Changing<'_>,
        peer: BoxId,
        create: CreateMirror,
    ) -> Result<(), Refused> {
        if self.store.peer(peer).is_none() {
            return Err(refused(RefusalReason::OtherPeer, "this box has removed the other from its peers"));
        }
        let name: Name = create.name.parse().map_err(|_| refused(RefusalReason::Invalid, "no name of a group"))?;
        check_volumes(&create.volumes)?;
        if let Some(known) = self.running_by_id(create.group) {
            return already_there(&known, peer, &create);
        }
        if locked(&self.groups).contains_key(&create.group) {
            return Err(refused(RefusalReason::HasImage, "the group is here and does not run"));
        }
        if locked(&self.groups).values().any(|e| e.name == name) {
            let text = format!("there is another group {name} on this box");
            return Err(refused(RefusalReason::NameTaken, &text));
        }
        if let Some(volume) = create.volumes.iter().find(|v| self.volume_name_taken(&v.name)) {
            let text = format!("there is another volume {} on this box", volume.name);
            return Err(refused(RefusalReason::NameTaken, &text));
        }
        let needed: u64 = create.volumes.iter().map(|v| v.sectors.bytes().get()).fold(0, u64::saturating_add);
        self.within_share(peer, 1, needed).map_err(|r| self.tell_refused(peer, name.as_str(), r))?;
        // Each makes files and takes a slot: a loop of them is none that anybody runs.
        if self.budget(peer, "mirror-made") != budget::Verdict::Told {
            return Err(refused(RefusalReason::TooMany, "too many mirrors were made in a short time"));
        }
        let available = self.data_room().map_err(|e| refused(RefusalReason::Io, &e.message))?;
        if needed > available {
            return Err(Refused {
                reason: RefusalReason::TooSmall,
                detail: "the data half is too small".to_owned(),
                needed: ByteLen::from_raw(needed),
                available: ByteLen::from_raw(available),
            });
        }
        let random = random16().map_err(|e| refused(RefusalReason::Io, &e.message))?;
        let (inner, group, volumes) = (self.clone(), name.to_string(), create.volumes.clone());
        let made = blocking(move || make_homes(inner.pool.data(), &group, &volumes)).await;
        let (volumes, homes) = made.map_err(|e| refused(reason_of(&e), &e.message))?;
        let legs: Vec<LegMeta> = volumes.iter().flat_map(|v| v.legs.iter().cloned()).collect();
        let meta = mirror_meta(&create, volumes, peer, random);
        if let Err(error) = self.make_group(change, meta, homes).await {
            legs.iter().for_each(|leg| self.remove_home(&leg.path, &leg.identity));
            return Err(refused(reason_of(&error), &error.message));
        }
        let message = Message::MirrorCreated { group: name.as_str(), peer: &self.peer_name(peer) };
        self.event_of(peer, message.about(format!("group {name}")));
        Ok(())
    }

    /// The source is about to give a volume more room: its home here gets it first.
    async fn reserve_volume(
        self: &Arc<Self>,
        change: &Changing<'_>,
        peer: BoxId,
        reserve: ReserveVolume,
    ) -> Result<(), Refused> {
        let group = self.mirror_of(peer, reserve.group)?;
        let Volume { slot, sectors, .. } = reserve.volume;
        if group.now().meta.volume(slot).is_none() {
            let text = "volumes cannot join a mirrored group in this version";
            return Err(refused(RefusalReason::Unsupported, text));
        }
        self.may_grow(&group, slot, sectors).map_err(|r| self.tell_refused(peer, group.name.as_str(), r))?;
        let grown = self.grow_home(change, &group, slot, sectors.bytes(), None).await;
        grown.map_err(|e| refused(reason_of(&e), &e.message))
    }

    pub(super) fn peer_name(&self, peer: BoxId) -> String {
        self.store.peer(peer).map_or_else(|| peer.short(), |p| p.name.to_string())
    }

    /// The mirror of a group that this peer feeds.
    fn mirror_of(&self, peer: BoxId, group: reprise_types::GroupId) -> Result<Running, Refused> {
        let running = self.running_by_id(group).ok_or_else(|| refused(RefusalReason::UnknownGroup, "no such group"))?;
        let meta = running.now().meta;
        if meta.peer().is_none_or(|p| p.peer != peer) {
            return Err(refused(RefusalReason::OtherPeer, "the group belongs to another pair"));
        }
        if meta.role() != Role::Mirror {
            return Err(refused(RefusalReason::NotMirror, "this box is the source of the group"));
        }
        Ok(running)
    }

    async fn delete_mirror(
        self: &Arc<Self>,
        change: &Changing<'_>,
        peer: BoxId,
        delete: DeleteMirror,
    ) -> Result<(), Refused> {
        let group = self.mirror_of(peer, delete.group)?;
        let io = |e: ApiError| refused(RefusalReason::Io, &e.message);
        // An image that has begun is never given up by the other box's word alone.
        if !delete.keep_image && group.now().meta.branches.is_empty() {
            return self.delete_group(change, &group.name, Some(peer)).await.map(drop).map_err(io);
        }
        self.mirror_ended(change, &group, peer).await.map_err(io)
    }

    fn note_pause(&self, peer: BoxId, notice: &PauseNotice) -> Result<(), Refused> {
        let group = self.mirror_of(peer, notice.group)?;
        // Only what changes is told.
        let before = locked(&self.groups).get_mut(&group.id).and_then(|e| e.paused_there.replace(notice.paused));
        if before == Some(notice.paused) {
            return Ok(());
        }
        let (source, group) = (self.peer_name(peer), group.name.as_str());
        let message = if notice.paused {
            Message::PausedThere { peer: &source, group }
        } else {
            Message::ResumedThere { peer: &source, group }
        };
        self.event_of(peer, message.about(format!("group {group}")));
        Ok(())
    }

    async fn forgotten_by(&self, task: &mut Task, peer: BoxId) -> Result<(), Refused> {
        let Some(record) = self.store.peer(peer) else { return Ok(()) };
        // A box forgets only one that it mirrors nothing to.
        let fed = |g: &Running| {
            let meta = g.now().meta;
            meta.role() == Role::Mirror && meta.peer().is_some_and(|p| p.peer == peer)
        };
        for group in self.running().into_iter().filter(fed) {
            let change = task.change().await;
            self.mirror_ended(&change, &group, peer).await.map_err(|e| refused(RefusalReason::Io, &e.message))?;
        }
        let (name, subject) = (record.name.as_str(), format!("peer {}", record.name));
        if self.groups_with(peer).is_empty() {
            self.board.event(Message::PeerGone { peer: name }.about(subject));
            return self.drop_peer(&record).map_err(|e| refused(RefusalReason::Io, &e.message));
        }
        self.board.raise(Message::PeerForgotUs { peer: name }.about(subject));
        Ok(())
    }
}

fn refused(reason: RefusalReason, detail: &str) -> Refused {
    let none = ByteLen::ZERO;
    Refused { reason, detail: detail.chars().take(500).collect(), needed: none, available: none }
}

fn reason_of(error: &ApiError) -> RefusalReason {
    match error.code {
        ErrorCode::NoSpace => RefusalReason::TooSmall,
        ErrorCode::NameTaken => RefusalReason::HasImage,
        ErrorCode::LimitReached => RefusalReason::TooMany,
        ErrorCode::NotSupported => RefusalReason::Unsupported,
        _ => RefusalReason::Io,
    }
}

/// A mirror of which nothing has come yet, and that its source has not ended.
fn is_fresh(meta: &GroupMeta) -> bool {
    meta.role() == Role::Mirror && meta.branches.is_empty() && meta.ended().is_none()
}

/// A repeated command, whose first answer was lost, is done already.
fn already_there(known: &Running, peer: BoxId, create: &CreateMirror) -> Result<(), Refused> {
    let meta = known.now().meta;
    if meta.peer().is_none_or(|p| p.peer != peer) {
        return Err(refused(RefusalReason::OtherPeer, "the group belongs to another pair"));
    }
    // How hosts see them may differ: what this box cannot give, or a volume that was made read-only since.
    let bytes = |v: &Volume| (v.id, v.slot, v.name.clone(), v.sectors);
    let same = meta.link_volumes().iter().map(bytes).eq(create.volumes.iter().map(bytes));
    if same && is_fresh(&meta) {
        return Ok(());
    }
    Err(refused(RefusalReason::HasImage, "there is an image of the group on this box"))
}

fn check_volumes(volumes: &[Volume]) -> Result<(), Refused> {
    let invalid = |text: &str| Err(refused(RefusalReason::Invalid, text));
    if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
        return invalid("a group has 1 to 64 volumes");
    }
    for (at, volume) in volumes.iter().enumerate() {
        let earlier = &volumes[..at];
        if earlier.iter().any(|v| v.slot == volume.slot || v.id == volume.id || v.name == volume.name) {
            return invalid("two volumes have the same slot, identity or name");
        }
        if volume.slot.get() == u16::MAX {
            return invalid("no slot of a volume: another one could not follow");
        }
        if volume.lun > LUN_MAX.into() || earlier.iter().any(|v| v.lun == volume.lun) {
            return invalid("no LUN of a volume, or twice the same");
        }
        if BlockFormat::from_code(volume.block_size).is_none() {
            return invalid("blocks of a size that this version does not know");
        }
        if volume.name.parse::<Name>().is_err() {
            return invalid("no name of a volume");
        }
        if volume.sectors.get() == 0 || volume.sectors.get() > SECTOR_END_MAX {
            return invalid("no size of a volume");
        }
    }
    Ok(())
}

/// Makes the homes of a mirror, all or none.
fn make_homes(data: &DataHalf, group: &str, volumes: &[Volume]) -> Result<(Vec<VolumeMeta>, Vec<HomeMedia>), ApiError> {
    let (mut metas, mut homes) = (Vec::new(), Vec::new());
    for volume in volumes {
        let name = HomeName { group, volume: &volume.name, id: volume.id };
        let made = data.create(name, volume.sectors.bytes(), Make::Reserved, &mut |_| ControlFlow::Continue(()));
        let home = match made {
            Ok(home) => home,
            Err(error) => {
                for leg in metas.iter().flat_map(|m: &VolumeMeta| &m.legs) {
                    if let Err(error) = data.remove(&leg.path, &leg.identity) {
                        tracing::warn!(leg.path, error = &error as &dyn std::error::Error, "unused home stays");
                    }
                }
                return Err(data_error(&error));
            }
        };
        metas.push(VolumeMeta {
            slot: volume.slot,
            id: volume.id,
            sectors: volume.sectors,
            name: volume.name.clone(),
            lun: u16::try_from(volume.lun).unwrap_or(u16::MAX),
            legs: vec![LegMeta { path: home.path, adopted: false, identity: home.identity }],
            local_only: false,
            // Its home is thick, but hosts are told the same on both boxes.
            thin: volume.thin && !data.is_raw(),
            block_size: BlockFormat::from_code(volume.block_size).unwrap_or_default(),
            read_only: volume.read_only,
            unit: None,
        });
        homes.push(HomeMedia { slot: volume.slot, media: home.media });
    }
    Ok((metas, homes))
}

/// A mirror without history yet: its journal begins where the copy begins.
fn mirror_meta(create: &CreateMirror, volumes: Vec<VolumeMeta>, peer: BoxId, random: [u8; 16]) -> GroupMeta {
    let next_slot = volumes.iter().map(|v| v.slot).max().unwrap_or(VolumeSlot::default()).get().saturating_add(1);
    GroupMeta {
        group: create.group,
        name: create.name.clone(),
        role: RoleMeta::NEW_MIRROR,
        branches: Vec::new(),
        trimmed: Point::default(),
        applied: Seq::ZERO,
        applying: Seq::ZERO,
        seal: Point::default(),
        incarnation: 0,
        volumes,
        peers: vec![PeerMeta {
            peer,
            durable: None,
            copy: None,
            paused: false,
            instance: instance::first(random),
            seen: None,
        }],
        fenced: None,
        next_slot,
        generation_floor: 0,
    }
}

#[cfg(test)]
mod tests {
    use reprise_types::VolumeId;

    use super::*;

    fn volume(n: u8) -> Volume {
        Volume {
            id: VolumeId::from_raw([n; 16]),
            slot: VolumeSlot::from_raw(n.into()),
            name: format!("v{n}"),
            sectors: SectorCount::from_raw(2048),
            lun: n.into(),
            block_size: 0,
            thin: false,
            read_only: false,
        }
    }

    #[test]
    fn what_a_peer_may_ask_for_is_checked() {
        assert!(check_volumes(&[volume(1), volume(2)]).is_ok());
        assert!(check_volumes(&[]).is_err());
        assert!(check_volumes(&[volume(1), volume(1)]).is_err());
        assert!(check_volumes(&[Volume { name: "../x".into(), ..volume(1) }]).is_err());
        assert!(check_volumes(&[Volume { sectors: SectorCount::ZERO, ..volume(1) }]).is_err());
        let many: Vec<Volume> = (0..65).map(volume).collect();
        assert!(check_volumes(&many).is_err());
    }

    #[test]
    fn homes_of_a_mirror_are_made_all_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataHalf::Folder(dir.path().to_owned());
        let volumes = [volume(1), volume(2)];
        let (metas, homes) = make_homes(&data, "pg", &volumes).unwrap();
        assert_eq!((metas.len(), homes.len()), (2, 2));
        let create = CreateMirror { group: GroupId::from_raw([3; 16]), name: "pg".into(), volumes: volumes.to_vec() };
        let meta = mirror_meta(&create, metas, BoxId::from_raw([4; 16]), [5; 16]);
        assert_eq!(meta.link_volumes(), create.volumes);
        assert_eq!(meta.next_slot, 3);
        assert_eq!(GroupMeta::from_body(&meta.to_body()).unwrap(), meta);
        drop(homes);
        std::fs::remove_file(&meta.volumes[0].legs[0].path).unwrap();
        let error = make_homes(&data, "pg", &volumes).unwrap_err();
        assert_eq!(reason_of(&error), RefusalReason::HasImage);
        assert!(!std::path::Path::new(&meta.volumes[0].legs[0].path).exists(), "what was made is taken back");
    }
}
