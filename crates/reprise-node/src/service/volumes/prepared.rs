//! What no superblock knows of yet: volumes that are being made, homes that get more room, and the room that is left.

use std::path::Path;
use std::sync::Arc;

use reprise_api::{ApiError, BlockSize, Name, VolumeKind, VolumeState, VolumeStatus};
use reprise_engine::VolumeMeta;
use reprise_types::{ByteLen, GroupId, VolumeId};

use crate::service::groups::Running;
use crate::service::view::{naa, serial};
use crate::service::{Inner, locked, wrong_state};

/// Work on a home that its group's superblock does not know of yet. No mirror is added meanwhile: it would be made with the
/// sizes of before.
pub(in crate::service) struct Preparing {
    pub(in crate::service) group: GroupId,
    id: VolumeId,
    what: Prepared,
}

enum Prepared {
    /// A volume is being made.
    New(VolumeStatus),
    /// One that is there gets so many bytes more; a thin one takes none of the data half for them.
    Room { volume: String, more: u64, thin: bool },
}

impl Preparing {
    /// The volume that is being made, where it is a new one.
    fn new_volume(&self) -> Option<&VolumeStatus> {
        match &self.what {
            Prepared::New(status) => Some(status),
            Prepared::Room { .. } => None,
        }
    }

    /// Bytes of the data half that are to be written.
    fn takes(&self) -> u64 {
        match &self.what {
            Prepared::New(status) if status.kind == VolumeKind::Thick => status.size_bytes,
            Prepared::Room { more, thin: false, .. } => *more,
            Prepared::New(_) | Prepared::Room { .. } => 0,
        }
    }
}

/// Takes a volume off the list of those that are prepared, however that ends.
pub(in crate::service) struct Reserved {
    inner: Arc<Inner>,
    group: GroupId,
    id: VolumeId,
}

impl Reserved {
    /// The volume as it is by this time, and its group.
    pub(super) fn volume(&self) -> Result<(Running, VolumeMeta), ApiError> {
        let group = self.inner.running_by_id(self.group);
        let volume = |g: Running| g.now().meta.volumes.iter().find(|v| v.id == self.id).cloned().map(|v| (g, v));
        group.and_then(volume).ok_or_else(|| {
            wrong_state("the volume has left its group, or the group does not run".to_owned(), "see reprise status")
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        locked(&self.inner.preparing).retain(|p| p.id != self.id);
    }
}

impl Inner {
    pub(in crate::service) fn preparing_statuses(&self) -> Vec<VolumeStatus> {
        locked(&self.preparing).iter().filter_map(Preparing::new_volume).cloned().collect()
    }

    /// Nothing is being made in the group or getting more room, or what is.
    pub(in crate::service) fn nothing_prepared(&self, group: &Running) -> Result<(), ApiError> {
        self.none_prepared(group, |_| true)
    }

    /// No home of the group, or of this volume of it, is getting more room, or which is: it stays where it is meanwhile.
    pub(in crate::service) fn no_home_grows(&self, group: &Running, volume: Option<VolumeId>) -> Result<(), ApiError> {
        self.none_prepared(group, |p| p.new_volume().is_none() && volume.is_none_or(|id| p.id == id))
    }

    fn none_prepared(&self, group: &Running, of: impl Fn(&Preparing) -> bool) -> Result<(), ApiError> {
        let preparing = locked(&self.preparing);
        let text = match preparing.iter().find(|p| p.group == group.id && of(p)).map(|p| &p.what) {
            None => return Ok(()),
            Some(Prepared::New(status)) => format!("volume {} of group {} is being made", status.name, group.name),
            Some(Prepared::Room { volume, .. }) => {
                format!("volume {volume} of group {} is getting more room", group.name)
            }
        };
        Err(wrong_state(text, "wait until its job has ended, or cancel it: reprise jobs"))
    }

    /// The largest volume that may still be made in the data half, bytes.
    pub(in crate::service) fn data_room(&self) -> Result<u64, ApiError> {
        self.data_room_but(None)
    }

    /// The same with what is prepared for one.
    pub(super) fn data_room_for(&self, prepared: &Reserved) -> Result<u64, ApiError> {
        self.data_room_but(Some(prepared.id))
    }

    fn data_room_but(&self, volume: Option<VolumeId>) -> Result<u64, ApiError> {
        let free = self.pool.data().free();
        let (_, largest) = free.map_err(|e| ApiError::internal(format!("get the free space: {e}")))?;
        if self.pool.data().is_raw() {
            // The table counts what is being made.
            return Ok(largest);
        }
        let limited = self.data_limit.map_or(largest, |limit| limit.saturating_sub(self.data_used()).min(largest));
        // What is being written counts in full from the start.
        let preparing = locked(&self.preparing);
        let others = preparing.iter().filter(|p| Some(p.id) != volume).map(Preparing::takes);
        Ok(limited.saturating_sub(others.fold(0, u64::saturating_add)))
    }

    /// Bytes that volumes of some groups are to get and do not have yet.
    pub(in crate::service) fn room_promised(&self, to: impl Fn(GroupId) -> bool) -> u64 {
        let more = |p: &Preparing| match &p.what {
            Prepared::Room { more, .. } if to(p.group) => *more,
            _ => 0,
        };
        locked(&self.preparing).iter().map(more).fold(0, u64::saturating_add)
    }

    /// Bytes that volumes have in the data half.
    pub(in crate::service) fn data_used(&self) -> u64 {
        let made = |v: &VolumeStatus| v.kind != VolumeKind::Adopted && v.state != VolumeState::Preparing;
        self.group_statuses().iter().flat_map(|g| &g.volumes).filter(|v| made(v)).map(|v| v.size_bytes).sum()
    }

    #[expect(clippy::too_many_arguments, reason = "what a volume is, each named at its two callers")]
    pub(super) fn reserve(
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
        (status, Reserved { inner: self.clone(), group: group.id, id })
    }

    /// Puts a volume on the list of those that are prepared, once.
    pub(in crate::service) fn prepare_room(
        self: &Arc<Self>,
        group: &Running,
        volume: &VolumeMeta,
        size: ByteLen,
    ) -> Result<Reserved, ApiError> {
        let (id, name) = (volume.id, volume.name.clone());
        if locked(&self.groups).get(&group.id).is_some_and(|e| e.leaving.contains(&name)) {
            return Err(wrong_state(format!("volume {name} is leaving"), "see reprise jobs"));
        }
        let mut preparing = locked(&self.preparing);
        if preparing.iter().any(|p| p.id == id) {
            let text = format!("volume {name} is getting more room already");
            return Err(wrong_state(text, "wait until its job has ended, or cancel it: reprise jobs"));
        }
        let more = size.get().saturating_sub(volume.sectors.bytes().get());
        preparing.push(Preparing {
            group: group.id,
            id,
            what: Prepared::Room { volume: name, more, thin: volume.thin },
        });
        Ok(Reserved { inner: self.clone(), group: group.id, id })
    }
}
