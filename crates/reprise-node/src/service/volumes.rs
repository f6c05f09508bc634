//! Volumes: what there is, and what hosts may do with it.

mod adopt;
mod create;
mod errors;
mod grow;
mod leave;
mod prepared;

use std::sync::Arc;

use reprise_api::{ApiError, Name, VolumeSet, VolumeStatus};
use reprise_engine::VolumeMeta;

pub(super) use self::errors::data_error;
pub(super) use self::prepared::Preparing;
use super::groups::Running;
use super::turn::Task;
use super::{Inner, ask, wrong_state};
use crate::group::Command;

impl Inner {
    /// True where a volume of this name is in a group of this box, or being made.
    pub(super) fn volume_name_taken(&self, name: &str) -> bool {
        self.group_statuses().iter().any(|g| g.volumes.iter().any(|v| v.name.as_str() == name))
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

    fn shown_volume(&self, name: &Name) -> Result<VolumeStatus, ApiError> {
        let found = self.volume_statuses().into_iter().find(|v| v.name == *name);
        found.ok_or_else(|| ApiError::not_found("volume", name))
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
}
