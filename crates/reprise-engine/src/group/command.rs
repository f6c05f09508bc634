//! What people ask of a group.

use reprise_format::link::{CloseReason, Instance};
use reprise_format::superblock::VOLUMES_MAX;
use reprise_types::{BoxId, ByteLen, Now, Role, SectorCount, Seq, VolumeSlot};

use crate::core::{SUPERBLOCK_FILL_OWN, superblock_has_room};
use crate::group::Group;
use crate::io::{Effect, Io, Notice, Until};
use crate::meta::{PeerMeta, VolumeMeta};
use crate::verify::{VerifyEnd, VerifyPlan};

/// A command that cannot be done now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Only the source may.
    #[error("this box is the mirror of the group; run the command on its source")]
    NotSource,
    /// Only a mirror may.
    #[error("this box is the source of the group, and no mirror of it")]
    NotMirror,
    /// There is a peer already.
    #[error("the group has a mirror; remove it first")]
    HasPeer,
    /// There is none.
    #[error("the group has no mirror")]
    NoPeer,
    /// A local-only volume.
    #[error("the group holds the local-only volume {name}, which may not leave this box")]
    LocalOnly {
        /// The volume.
        name: String,
    },
    /// Too many.
    #[error("a group takes {VOLUMES_MAX} volumes")]
    TooMany,
    /// What it would have to remember does not fit.
    #[error("the group's superblock has no room for another volume; shorter paths, or another group, help")]
    NoRoom,
    /// No such volume.
    #[error("no such volume in the group")]
    NoVolume,
    /// The home has no room for the size.
    #[error("the home of the volume has no room for that size")]
    HomeTooSmall,
    /// Initiators are logged in.
    #[error("initiators are logged in to the group; log them out first")]
    InUse,
    /// Source and mirror cannot be compared now.
    #[error("source and mirror cannot be compared: {reason}")]
    NotComparable {
        /// Why.
        reason: &'static str,
    },
    /// No home is detached.
    #[error("no home of the group is detached")]
    Attached,
    /// Operations on a home are still under way.
    #[error("the disk still works on what was asked of it before")]
    Busy,
    /// Fenced.
    #[error("the group is fenced: {reason}")]
    Fenced {
        /// Why.
        reason: String,
    },
}

impl Group {
    /// Has [`Effect::Kept`] tell when something has come, or cannot come any more because the group is fenced.
    pub fn tell_when(&mut self, io: Io, until: Until) {
        let barrier = self.core.meta.barrier();
        self.waiting.0.push((io, until, barrier));
        self.tell_kept();
    }

    /// Tells what has come.
    pub(crate) fn tell_kept(&mut self) {
        for (io, until, barrier) in std::mem::take(&mut self.waiting.0) {
            let come = match until {
                Until::Kept => self.core.meta.holds(barrier),
                Until::Served(slot, sectors) => self.served_sectors(slot).is_none_or(|served| served >= sectors),
                Until::Applied(seq) => self.positions().applied >= seq,
            };
            if come || self.is_fenced() {
                self.core.fx.push(Effect::Kept(io, come));
            } else {
                self.waiting.0.push((io, until, barrier));
            }
        }
    }

    pub(crate) fn source_only(&self) -> Result<(), CommandError> {
        if let Some(reason) = &self.core.meta.fenced {
            return Err(CommandError::Fenced { reason: reason.clone() });
        }
        if self.core.meta.role() == Role::Source { Ok(()) } else { Err(CommandError::NotSource) }
    }

    /// Takes a volume whose home exists. Its slot is given here.
    ///
    /// # Errors
    /// Not on the source, while a mirror is attached, or past the limit.
    pub fn add_volume(&mut self, now: Now, mut volume: VolumeMeta) -> Result<VolumeSlot, CommandError> {
        self.source_only()?;
        if self.core.meta.peer().is_some() {
            return Err(CommandError::HasPeer);
        }
        let next = self.core.meta.next_slot.checked_add(1);
        let Some(next) = next.filter(|_| self.core.meta.volumes.len() < VOLUMES_MAX) else {
            return Err(CommandError::TooMany);
        };
        volume.slot = VolumeSlot::from_raw(self.core.meta.next_slot);
        let mut with = self.core.meta.clone();
        with.volumes.push(volume.clone());
        if !superblock_has_room(&with, SUPERBLOCK_FILL_OWN) {
            return Err(CommandError::NoRoom);
        }
        self.core.now = now;
        let slot = volume.slot;
        self.core.meta.change(|meta| {
            meta.next_slot = next;
            meta.volumes.push(volume);
        });
        self.pump();
        Ok(slot)
    }

    /// Hosts may write a volume or not. The mirror learns of it when it is made only.
    ///
    /// # Errors
    /// Not on the source, or no such volume.
    pub fn set_read_only(&mut self, now: Now, slot: VolumeSlot, read_only: bool) -> Result<(), CommandError> {
        self.source_only()?;
        let at = self.core.meta.volumes.iter().position(|v| v.slot == slot).ok_or(CommandError::NoVolume)?;
        self.core.now = now;
        self.core.meta.change(|meta| meta.volumes[at].read_only = read_only);
        self.pump();
        Ok(())
    }

    /// Gives a volume more room. Its homes on all boxes have it already. The new size counts once the record and the
    /// superblock hold it.
    ///
    /// # Errors
    /// Not on the source, no such volume, no room in its home, a first copy or a comparison is under way.
    pub fn resize_volume(&mut self, now: Now, slot: VolumeSlot, sectors: SectorCount) -> Result<(), CommandError> {
        self.source_only()?;
        let copying = self.core.meta.peer().is_some_and(PeerMeta::is_copying);
        if copying || self.core.pins.lowest().is_some() {
            return Err(CommandError::Busy);
        }
        let volume = self.core.meta.volume(slot).ok_or(CommandError::NoVolume)?;
        let under_way = self.units.size_under_way(slot);
        if under_way.is_some_and(|size| sectors <= size) || sectors <= volume.sectors {
            return Err(CommandError::NoVolume);
        }
        if !self.units.home_holds(slot, sectors) {
            return Err(CommandError::HomeTooSmall);
        }
        self.core.now = now;
        self.units.resize(&mut self.core, slot, sectors);
        self.pump();
        Ok(())
    }

    /// The home of a volume has room for so many sectors: said at the start, and when it has grown.
    pub fn set_home_size(&mut self, now: Now, slot: VolumeSlot, sectors: SectorCount) {
        self.core.now = now;
        self.units.set_home(&mut self.core, slot, sectors);
        self.pump();
    }

    /// First step of letting a volume go: hosts get no more of it. Once `applied` has reached the position that this
    /// gives, its home holds everything and [`Self::remove_volume`] may follow.
    ///
    /// # Errors
    /// Not on the source, while a mirror is attached, or no such volume.
    pub fn retire_volume(&mut self, now: Now, slot: VolumeSlot) -> Result<Seq, CommandError> {
        self.source_only()?;
        if self.core.meta.peer().is_some() {
            return Err(CommandError::HasPeer);
        }
        self.core.meta.volume(slot).ok_or(CommandError::NoVolume)?;
        self.core.now = now;
        self.host.retire(slot);
        Ok(self.core.journal.written())
    }

    /// True for a volume that hosts get no more of.
    pub fn is_retired(&self, slot: VolumeSlot) -> bool {
        self.host.is_retired(slot)
    }

    /// Forgets a volume that was retired and is applied. Its home stays as it is.
    ///
    /// # Errors
    /// No such volume, or it was not retired.
    pub fn remove_volume(&mut self, now: Now, slot: VolumeSlot) -> Result<VolumeMeta, CommandError> {
        let at = self.core.meta.volumes.iter().position(|v| v.slot == slot && self.is_retired(slot));
        let at = at.ok_or(CommandError::NoVolume)?;
        self.core.now = now;
        let volume = self.core.meta.note(|meta| meta.volumes.remove(at));
        self.core.meta.keep();
        self.pump();
        Ok(volume)
    }

    /// Attaches a peer that is to get a first copy.
    ///
    /// # Errors
    /// Not on the source, another peer is there, a volume is local-only, or a size is under way that the mirror's homes were
    /// not made for.
    pub fn add_peer(&mut self, now: Now, peer: BoxId, instance: Instance) -> Result<(), CommandError> {
        self.source_only()?;
        if self.core.meta.peer().is_some() {
            return Err(CommandError::HasPeer);
        }
        if let Some(volume) = self.core.meta.volumes.iter().find(|v| v.local_only) {
            return Err(CommandError::LocalOnly { name: volume.name.clone() });
        }
        if self.units.sizes_under_way() {
            return Err(CommandError::Busy);
        }
        self.core.now = now;
        self.peer.attached(self.core.journal.durable().seq);
        let peer = PeerMeta { peer, durable: None, copy: None, paused: false, instance, seen: None };
        self.core.meta.change(|meta| meta.peers.push(peer));
        self.pump();
        Ok(())
    }

    /// Detaches the peer: nothing waits for it any more.
    ///
    /// # Errors
    /// There is none, or this is not the source.
    pub fn remove_peer(&mut self, now: Now) -> Result<(), CommandError> {
        self.source_only()?;
        self.core.meta.peer().ok_or(CommandError::NoPeer)?;
        self.core.now = now;
        self.link_close(CloseReason::Removed);
        self.core.meta.change(|meta| meta.peers.clear());
        self.peer.forget();
        self.pump();
        Ok(())
    }

    /// Pauses or resumes the link of the group. The cache takes what the peer does not get.
    ///
    /// # Errors
    /// There is no peer.
    pub fn set_paused(&mut self, now: Now, paused: bool) -> Result<(), CommandError> {
        self.core.now = now;
        self.core.meta.note_peer(|peer| peer.paused = paused).ok_or(CommandError::NoPeer)?;
        if paused {
            self.link_close(CloseReason::Paused);
        }
        self.peer.resume();
        self.core.meta.keep();
        self.pump();
        Ok(())
    }

    /// The source has ended this mirror: nothing follows any more, also after a restart. The image stays as it is. When
    /// this box took note of it first counts.
    ///
    /// # Errors
    /// This is the source.
    pub fn end_mirror(&mut self, now: Now) -> Result<(), CommandError> {
        if self.core.meta.role() != Role::Mirror {
            return Err(CommandError::NotMirror);
        }
        self.core.now = now;
        if self.core.meta.ended().is_none() {
            self.core.meta.change(|meta| meta.end(now.wall));
            self.link_close(CloseReason::Removed);
        }
        self.pump();
        Ok(())
    }

    /// Takes a detached home into use again, and tries again what could not be read: everything since `applied` is written to it anew, so that nothing a failed
    /// write or sync left behind is believed. It is detached again if that fails.
    ///
    /// # Errors
    /// None is detached, its disk is still at work, or the group is fenced.
    pub fn reattach_home(&mut self, now: Now) -> Result<(), CommandError> {
        if let Some(reason) = &self.core.meta.fenced {
            return Err(CommandError::Fenced { reason: reason.clone() });
        }
        self.core.now = now;
        if self.leg.is_detached() && !self.home_may_attach() {
            return Err(CommandError::Busy);
        }
        let lost = self.repair.lost().is_some();
        self.repair.try_again();
        self.units.replay_unread(&mut self.core);
        if !self.leg.attach() && !lost {
            return Err(CommandError::Attached);
        }
        self.core.fx.notice(Notice::HomeAttached);
        self.pump();
        Ok(())
    }

    /// What an earlier round still waits for must not be taken for an answer to the next one.
    pub(crate) fn home_may_attach(&self) -> bool {
        !self.leg.is_at_work() && self.core.meta.is_settled() && !self.core.is_fenced()
    }

    /// Begins to compare source and mirror; gives the number that its report carries.
    ///
    /// # Errors
    /// Not on the source, no mirror that follows, or another comparison is at work.
    pub fn verify(&mut self, now: Now, plan: VerifyPlan) -> Result<u64, CommandError> {
        self.source_only()?;
        let peer = self.core.meta.peer().ok_or(CommandError::NoPeer)?;
        let begun = if peer.is_copying() {
            Err("the first copy is not complete")
        } else if !self.peer.is_streaming() || self.core.link_held() {
            Err("the link is down")
        } else if self.leg.is_detached() {
            Err("a home of the source is detached")
        } else {
            self.verify.begin(&mut self.core, now, plan)
        };
        begun.map_err(|reason| CommandError::NotComparable { reason })
    }

    /// Ends the comparison that is at work.
    pub fn verify_cancel(&mut self, now: Now) {
        self.core.now = now;
        self.verify.end(&mut self.core, VerifyEnd::Cancelled);
        self.settle(now);
    }

    /// Limits the first copy to so many bytes of volumes a second, and says what the link is limited to; 0 for no limit.
    /// Counts from now on.
    pub fn set_rates(&mut self, copy: u64, link: u64) {
        self.peer.set_rates(self.core.now.mono, copy, link);
    }

    /// While hosts wait for buffers nothing durable is kept in memory: its buffers are what they wait for.
    pub fn set_memory_short(&mut self, short: bool) {
        let max = if short { ByteLen::ZERO } else { self.core.config.journal.ram_tail_max };
        self.core.journal.set_ram_tail_max(max);
    }
}
