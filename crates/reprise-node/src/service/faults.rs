//! What a person does after a disk has failed: fenced groups are proved and started again, homes attached.

use std::sync::Arc;

use reprise_api::{ApiError, ErrorCode, JobKind, JobStarted, Name};
use reprise_types::Seq;

use super::board::JobHandle;
use super::groups::{Running, stop_thread};
use super::told::Message;
use super::turn::{Changing, Task};
use super::{Inner, ask, blocking, chain, locked, wrong_state};
use crate::group::{Command, Snapshot};
use crate::pool::{PoolError, Proven};

impl Inner {
    /// Begins to prove a fenced group's journal.
    pub(super) async fn unfence(self: Arc<Self>, name: Name) -> Result<JobStarted, ApiError> {
        let group = self.group(&name)?;
        let snapshot = group.now();
        if snapshot.meta.fenced.is_none() {
            return Err(wrong_state(format!("group {name} is not fenced"), "see reprise status"));
        }
        let handle = self.board.begin_job(JobKind::GroupUnfence, format!("group {name}"), None, false)?;
        let job = handle.job().ok_or_else(|| ApiError::internal("the job is gone"))?;
        let inner = self.clone();
        self.turns.spawn(|mut task| async move {
            let change = task.change().await;
            let result = inner.prove_and_start(&change, &group, snapshot, handle.clone()).await;
            handle.end(result);
        });
        Ok(JobStarted { job })
    }

    async fn prove_and_start(
        self: &Arc<Self>,
        _: &Changing<'_>,
        group: &Running,
        snapshot: Snapshot,
        job: JobHandle,
    ) -> Result<(), ApiError> {
        // The homes are opened again.
        self.no_home_grows(group, None)?;
        // What is in every home and at the peer is not needed from the journal.
        let peer = snapshot.positions.peer_durable.unwrap_or(Seq::MAX);
        let needed = snapshot.positions.applied.min(peer);
        let (inner, id, acknowledged) = (self.clone(), group.id, snapshot.durable);
        let proven = blocking(move || {
            let tell = |done, total| job.progress(done, total);
            Ok(inner.pool.prove_group(id, acknowledged, needed, tell))
        })
        .await?;
        let Proven { end, batches, bytes } = proven.map_err(|e| lost(&e, &snapshot))?;
        let held = stop_thread(group).await.ok_or_else(|| {
            wrong_state("the group's thread does not end: its disk does not answer", "start the box again")
        })?;
        let inner = self.clone();
        blocking(move || {
            inner.start_again(id, held);
            Ok(())
        })
        .await?;
        // The route leads to the thread that has ended.
        *locked(&self.published) = None;
        self.publish_targets();
        // Fenced again at once where the disk still fails: then it says so itself.
        let told = Message::Unfenced { seq: end.seq, batches, bytes }.about(format!("group {}", group.name));
        self.board.event(told);
        self.watch_conditions();
        Ok(())
    }

    /// Takes detached homes into use again.
    pub(super) async fn reattach(self: Arc<Self>, mut task: Task, name: Name) -> Result<(), ApiError> {
        let _change = task.change().await;
        let group = self.group(&name)?;
        ask(&group.commands, Command::Reattach).await
    }
}

fn lost(error: &PoolError, snapshot: &Snapshot) -> ApiError {
    let p = &snapshot.positions;
    let elsewhere = match p.peer_durable {
        Some(peer) => format!("the homes hold everything up to record {}, the mirror up to record {peer}", p.applied),
        None => format!("the homes hold everything up to record {}", p.applied),
    };
    let text = format!("the group stays fenced: {}; {elsewhere}", chain(error));
    let what = "put the disk of the cache right and try again; nothing was changed";
    ApiError::new(ErrorCode::Fenced, text, what)
}
