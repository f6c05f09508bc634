//! Mirrors: what a peer asks of this box, and what it may. The other side is in `source`.

mod make;
mod source;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use reprise_api::{ApiError, ErrorCode};
use reprise_engine::GroupMeta;
use reprise_format::link::{
    BoxInfo, Command as BoxCommand, DeleteMirror, Done, Outcome, PauseNotice, RefusalReason, Refused, ReserveVolume,
    Volume,
};
use reprise_types::{BoxId, ByteLen, GroupId, Role, SectorCount, VolumeSlot};

use super::groups::{Entry, Running};
use super::told::{Message, Told};
use super::turn::{Asking, Changing, Task};
use super::{Inner, ask, budget, locked};
use crate::clock;
use crate::group::Command;

/// Alert: a source came back with a pool that knows nothing of what it has mirrored here.
const OTHER_POOL: &str = "peer-other-pool";

impl Inner {
    /// Does what a peer asks.
    pub(super) async fn carry_out(self: &Arc<Self>, mut task: Task, peer: BoxId, command: BoxCommand) -> Outcome {
        let result = match command {
            BoxCommand::BoxInfo(_) => return Outcome::BoxInfo(self.about(peer)),
            BoxCommand::CreateMirror(create) => self.create_mirror(&task.change().await, peer, create).await,
            BoxCommand::DeleteMirror(delete) => self.delete_mirror(&task.change().await, peer, delete).await,
            BoxCommand::PauseNotice(notice) => self.note_pause(peer, &notice),
            BoxCommand::ForgetPeer(_) => self.forgotten_by(&mut task, peer).await,
            BoxCommand::ReserveVolume(reserve) => self.reserve_volume(&mut task, peer, reserve).await,
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

    /// The source is about to give a volume more room: its home here gets it first.
    async fn reserve_volume(
        self: &Arc<Self>,
        asking: &mut Asking,
        peer: BoxId,
        reserve: ReserveVolume,
    ) -> Result<(), Refused> {
        let Volume { slot, sectors, .. } = reserve.volume;
        let change = asking.change().await;
        let group = self.mirror_of(peer, reserve.group)?;
        let Some(volume) = group.now().meta.volume(slot).cloned() else {
            let text = "volumes cannot join a mirrored group in this version";
            return Err(refused(RefusalReason::Unsupported, text));
        };
        let not_grown = |e: ApiError| refused(reason_of(&e), &e.message);
        // What it is getting counts in its peer's share: a second try would be told that there is none left.
        self.no_home_grows(&group, Some(volume.id)).map_err(not_grown)?;
        self.may_grow(&group, slot, sectors).map_err(|r| self.tell_refused(peer, group.name.as_str(), r))?;
        let prepared = self.prepare_room(&group, &volume, sectors.bytes()).map_err(not_grown)?;
        drop(change);
        self.grow_image(asking, prepared, sectors.bytes()).await.map_err(not_grown)
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
            self.no_home_grows(&group, None).map_err(io)?;
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
