//! Volumes leave their group: taken out as they are, or erased.

use std::sync::Arc;
use std::time::Duration;

use reprise_api::{ApiError, ErrorCode, Job, JobKind, Name};
use reprise_engine::{LegMeta, VolumeMeta};
use reprise_types::{GroupId, Role};

use super::errors::data_error;
use crate::group::Command;
use crate::service::groups::Running;
use crate::service::told::Message;
use crate::service::turn::Task;
use crate::service::{Inner, ask, blocking, locked, wrong_state};

/// How the bytes of an area are reached without the box.
fn how_to_reach(home: &str, bytes: u64) -> String {
    match home.rsplit_once('@').filter(|(disk, at)| disk.starts_with('/') && at.parse::<u64>().is_ok()) {
        Some((disk, at)) => format!(" Without the box: losetup -f --show -o {at} --sizelimit {bytes} {disk}"),
        None => String::new(),
    }
}

impl Inner {
    /// Waits a moment for hosts that are just logging out: their connection ends before the group's thread has seen it.
    pub(in crate::service) async fn hosts_gone(&self, name: &Name) {
        for _ in 0..15 {
            let gone = self.volume(name).is_ok_and(|(group, _)| group.now().sessions.is_empty());
            if gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The volume may leave its group at present, or why not.
    pub(in crate::service) fn may_leave(&self, name: &Name, erase: bool) -> Result<(Running, VolumeMeta), ApiError> {
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
            return Err(crate::service::refused(reprise_engine::CommandError::Fenced { reason }));
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
        self.no_home_grows(&group, Some(volume.id))?;
        Ok((group, volume))
    }

    /// Lets a volume go, and destroys its home if asked. Answers with the job that does it.
    pub(in crate::service) async fn leave(
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
}
