//! What no superblock knows of yet: volumes that are being made, homes that get more room, and the room that is left.

use std::path::Path;
use std::sync::Arc;

use reprise_api::{ApiError, BlockSize, Name, VolumeKind, VolumeState, VolumeStatus};
use reprise_engine::VolumeMeta;
use reprise_types::{GroupId, VolumeId};

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
pub(super) struct Reserved {
    inner: Arc<Inner>,
    id: VolumeId,
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

    /// The largest volume that may still be made in the data half, bytes.
    pub(in crate::service) fn data_room(&self) -> Result<u64, ApiError> {
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
        (status, Reserved { inner: self.clone(), id })
    }

    /// Puts a volume on the list of those that are prepared, once.
    pub(super) fn prepare_room(self: &Arc<Self>, group: &Running, volume: &VolumeMeta) -> Result<Reserved, ApiError> {
        let (id, name) = (volume.id, volume.name.clone());
        let mut preparing = locked(&self.preparing);
        if preparing.iter().any(|p| p.id == id) {
            let text = format!("volume {name} is getting more room already");
            return Err(wrong_state(text, "wait until its job has ended, or cancel it: reprise jobs"));
        }
        preparing.push(Preparing { group: group.id, id, what: Prepared::Room { volume: name } });
        Ok(Reserved { inner: self.clone(), id })
    }
}
