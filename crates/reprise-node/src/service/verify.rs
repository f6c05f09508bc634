//! Comparing a group with its mirror: the job, its report, the proof.

use std::sync::Arc;
use std::time::Duration;

use reprise_api::{
    ApiError, JobKind, JobStarted, Name, PROOF_FORMAT, ProvenVolume, VERIFY_BYTES_PER_SEC, VerifyExtent, VerifyProof,
    VerifyReport, VerifyStart, VerifyStatement,
};
use reprise_engine::{GroupMeta, VerifyEnd, VerifyPlan, VerifyReport as Found};

use super::board::JobHandle;
use super::groups::Running;
use super::told::Message;
use super::view::known_name;
use super::{Inner, ask, locked, wrong_state};
use crate::group::Command;
use crate::proof;
use crate::store::unix_ms;

/// Reports kept; older ones are forgotten.
const REPORTS_MAX: usize = 32;
/// Between two looks at a comparison.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A group whose snapshot shows nothing of its comparison for so long has stopped.
const SILENT_LOOKS_MAX: u32 = 100;

impl Inner {
    /// Begins a comparison.
    pub(super) async fn verify(self: Arc<Self>, request: VerifyStart) -> Result<JobStarted, ApiError> {
        let group = self.group(&request.group)?;
        let rate = request.bytes_per_sec.map_or(VERIFY_BYTES_PER_SEC, |r| r.bytes());
        let plan = VerifyPlan { bytes_per_sec: rate, repair: request.repair };
        let total = group.now().meta.volumes.iter().map(|v| v.sectors.bytes().get()).sum();
        let subject = format!("group {}", request.group);
        let handle = self.board.begin_job(JobKind::Verify, subject, Some(total), true)?;
        let id = match ask(&group.commands, |reply| Command::Verify(plan, reply)).await {
            Ok(id) => id,
            Err(error) => {
                handle.end(Err(error.clone()));
                return Err(error);
            }
        };
        let job = handle.job().ok_or_else(|| ApiError::internal("the job is gone"))?;
        tokio::spawn(self.follow(group, id, handle));
        Ok(JobStarted { job })
    }

    async fn follow(self: Arc<Self>, group: Running, id: u64, job: JobHandle) {
        let (mut cancelled, mut silent) = (false, 0);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if job.cancelled() && !std::mem::replace(&mut cancelled, true) {
                let _ = group.commands.send(Command::VerifyCancel).await;
            }
            let snapshot = group.now();
            let found = snapshot.verify.as_ref().filter(|v| v.id == id);
            let Some(found) = found else {
                silent += 1;
                if silent > SILENT_LOOKS_MAX || group.commands.is_closed() {
                    return job.end(Err(wrong_state("the group has stopped", "begin again")));
                }
                continue;
            };
            job.progress(found.done.saturating_mul(512), found.total.saturating_mul(512));
            let Some(end) = found.end else {
                if group.commands.is_closed() {
                    return job.end(Err(wrong_state("the group has stopped", "begin again")));
                }
                continue;
            };
            let report = self.report(&group.name, &snapshot.meta, found, &job);
            let outcome = self.outcome(&group.name, &report, end);
            let mut verified = locked(&self.verified);
            verified.push_back(report);
            if verified.len() > REPORTS_MAX {
                verified.pop_front();
            }
            drop(verified);
            return job.end(outcome);
        }
    }

    fn report(&self, name: &Name, meta: &GroupMeta, found: &Found, job: &JobHandle) -> VerifyReport {
        let volume = |slot| meta.volume(slot).map_or_else(|| known_name("gone"), |v| known_name(&v.name));
        let extent = |e: &reprise_types::Extent| VerifyExtent {
            volume: volume(e.volume),
            sector: e.sector.get(),
            sectors: e.sectors.get(),
        };
        let bytes = |sectors: u64| sectors.saturating_mul(512);
        VerifyReport {
            job: job.id,
            group: name.clone(),
            branch: found.at.branch,
            seq: found.at.seq,
            hash: hex::encode(found.at.hash.as_bytes()),
            bytes_total: bytes(found.total),
            bytes_compared: bytes(found.done),
            bytes_differing: bytes(found.differing),
            bytes_repaired: bytes(found.repaired),
            bytes_unreadable: bytes(found.unreadable),
            extents: found.extents.iter().map(extent).collect(),
            equal: found.is_equal(),
            stopped: match found.end {
                Some(VerifyEnd::Stopped { reason }) => Some(reason.to_owned()),
                Some(VerifyEnd::Cancelled) => Some("cancelled".to_owned()),
                Some(VerifyEnd::Compared) | None => None,
            },
            proof: self.proof(name, meta, found),
        }
    }

    fn proof(&self, name: &Name, meta: &GroupMeta, found: &Found) -> Option<VerifyProof> {
        let (digest, peer) = (found.digest?, meta.peer()?);
        let mut volumes: Vec<_> = meta.volumes.iter().collect();
        volumes.sort_by_key(|v| v.slot);
        let volume = |v: &&reprise_engine::VolumeMeta| ProvenVolume {
            name: known_name(&v.name),
            id: v.id,
            bytes: v.sectors.bytes().get(),
        };
        let statement = VerifyStatement {
            format: PROOF_FORMAT.to_owned(),
            group: meta.group,
            group_name: name.clone(),
            branch: found.at.branch,
            seq: found.at.seq,
            hash: hex::encode(found.at.hash.as_bytes()),
            volumes: volumes.iter().map(volume).collect(),
            digest: hex::encode(digest),
            source: self.identity.box_id,
            mirror: peer.peer,
            at_unix_ms: unix_ms(),
        };
        match proof::sign(&self.identity.key, statement) {
            Ok(proof) => Some(proof),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "proof cannot be signed");
                None
            }
        }
    }

    /// A difference is no failure of the comparison, but somebody has to know.
    fn outcome(&self, name: &Name, report: &VerifyReport, end: VerifyEnd) -> Result<(), ApiError> {
        let subject = format!("group {name}");
        let left = report.bytes_differing - report.bytes_repaired;
        match end {
            VerifyEnd::Cancelled => Err(wrong_state("cancelled", "")),
            VerifyEnd::Stopped { reason } => {
                Err(wrong_state(format!("the comparison ended early: {reason}"), "begin again when that is over"))
            }
            VerifyEnd::Compared => {
                let (seq, unreadable) = (report.seq, report.bytes_unreadable);
                let differs = Message::MirrorDiffers { seq, left, unreadable }.about(&subject);
                self.board.settle(&["mirror-differs"], &subject, (!report.equal).then_some(differs));
                Ok(())
            }
        }
    }

    /// What a comparison has found.
    pub(super) fn verify_report(&self, job: u64) -> Result<VerifyReport, ApiError> {
        let found = locked(&self.verified).iter().find(|r| r.job == job).cloned();
        found.ok_or_else(|| match self.board.job(job) {
            Ok(job) if !job.state.is_final() => wrong_state("the comparison is at work", "wait: reprise jobs wait"),
            _ => ApiError::not_found("comparison of job", job),
        })
    }
}
