//! The load: several writers, several volumes, overlapping extents of all sizes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{OpId, OpKind, OpLog, stamp};
use crate::initiator::{InitiatorError, LoginOptions, Session};
use crate::rng::Rng;

/// Where to write.
#[derive(Debug, Clone)]
pub struct Target {
    /// The portal.
    pub address: SocketAddr,
    /// The target.
    pub iqn: String,
    /// Per volume: its slot in the record list, its LUN, and the sectors to use from its start.
    pub volumes: Vec<(u16, u16, u64)>,
}

/// How to write.
#[derive(Debug, Clone)]
pub struct WriterPlan {
    /// Replays the same extents.
    pub seed: u64,
    /// Number of the first writer; later runs into the same log need other numbers.
    pub first_writer: u32,
    /// Writers, each with a session of its own.
    pub writers: u32,
    /// Operations in flight per writer.
    pub depth: usize,
    /// Longest operation in sectors; the shortest is one.
    pub sectors_max: u32,
    /// One in so many operations is an UNMAP, of an extent that no other has; 0 for none.
    pub zero_every: u64,
    /// Operations per writer; none until stopped.
    pub ops_max: Option<u64>,
}

impl Default for WriterPlan {
    fn default() -> Self {
        Self { seed: 1, first_writer: 1, writers: 4, depth: 8, sectors_max: 512, zero_every: 0, ops_max: None }
    }
}

/// What the writers did.
#[derive(Debug, Clone, Default)]
pub struct WriterReport {
    /// Operations acknowledged.
    pub acknowledged: u64,
    /// Operations that ended with a broken connection.
    pub cut: u64,
    /// Sessions made.
    pub logins: u64,
    /// Errors that the target answered with, in words: there should be none. At most 32.
    pub refused: Vec<String>,
}

/// Between two tries to log in while the box is away.
const LOGIN_PAUSE: Duration = Duration::from_millis(50);
/// A box that does not answer a login for so long is tried anew.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(5);

/// Writes until `stop` turns true or every writer has done its share. A lost connection is made again, and what was in flight then
/// is never issued again: its stamp stays unacknowledged.
pub async fn run_writers(
    target: &Target,
    plan: &WriterPlan,
    log: &Arc<OpLog>,
    stop: &watch::Receiver<bool>,
) -> WriterReport {
    let mut writers = JoinSet::new();
    for n in 0..plan.writers {
        let number = plan.first_writer + n;
        writers.spawn(writer(number, target.clone(), plan.clone(), log.clone(), stop.clone()));
    }
    let mut total = WriterReport::default();
    while let Some(Ok(one)) = writers.join_next().await {
        total.acknowledged += one.acknowledged;
        total.cut += one.cut;
        total.logins += one.logins;
        total.refused.extend(one.refused);
        total.refused.truncate(32);
    }
    total
}

async fn writer(
    number: u32,
    target: Target,
    plan: WriterPlan,
    log: Arc<OpLog>,
    mut stop: watch::Receiver<bool>,
) -> WriterReport {
    let mut rng = Rng::new(plan.seed ^ u64::from(number) << 32);
    let mut report = WriterReport::default();
    let mut next_op = 0;
    let more = |next_op: u64| plan.ops_max.is_none_or(|max| next_op < max);
    while !*stop.borrow() && more(next_op) {
        let options = LoginOptions { isid: number as u16, ..LoginOptions::new(target.iqn.clone()) };
        let login = async {
            let session = Session::login(target.address, &options).await?;
            for (_, lun, _) in &target.volumes {
                session.clear_attentions(*lun).await?;
            }
            Ok::<_, InitiatorError>(session)
        };
        let session = match tokio::time::timeout(LOGIN_TIME_MAX, login).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) if error.is_final_login() => {
                report.refused.push(error.to_string());
                break;
            }
            _ => {
                tokio::time::sleep(LOGIN_PAUSE).await;
                continue;
            }
        };
        report.logins += 1;
        let mut flight: JoinSet<(OpId, Result<(), InitiatorError>)> = JoinSet::new();
        let mut broken = false;
        loop {
            while !broken && !*stop.borrow() && flight.len() < plan.depth && more(next_op) {
                let id = OpId { writer: number, op: next_op };
                next_op += 1;
                issue(&session, id, &target, &plan, &mut rng, &log, &mut flight);
            }
            tokio::select! {
                done = flight.join_next() => match done {
                    None => break,
                    Some(Ok((id, Ok(())))) => {
                        log.acknowledge(id);
                        report.acknowledged += 1;
                    }
                    Some(Ok((_, Err(error)))) if error.is_answer() => {
                        if report.refused.len() < 32 {
                            report.refused.push(error.to_string());
                        }
                    }
                    Some(_) => {
                        report.cut += 1;
                        broken = true;
                    }
                },
                // When asked to stop, what is in flight is given a moment and then left unacknowledged.
                _ = stop.changed() => {
                    let drain = async { while let Some(Ok((id, result))) = flight.join_next().await {
                        if result.is_ok() {
                            log.acknowledge(id);
                            report.acknowledged += 1;
                        }
                    } };
                    let _ = tokio::time::timeout(Duration::from_secs(10), drain).await;
                    return report;
                }
            }
        }
    }
    report
}

fn issue(
    session: &Session,
    id: OpId,
    target: &Target,
    plan: &WriterPlan,
    rng: &mut Rng,
    log: &OpLog,
    flight: &mut JoinSet<(OpId, Result<(), InitiatorError>)>,
) {
    let pick = rng.below(target.volumes.len() as u64) as usize;
    let Some((volume, lun, size)) = target.volumes.get(pick).copied() else { return };
    // Sizes spread over the powers of two, so that small ones are as many as large ones.
    let top = 1 + rng.below(u64::from(plan.sectors_max.max(1)));
    let sectors = (1 + rng.below(top)).min(size) as u32;
    // Half of the operations meet in a small region, so that many overlap.
    let region = if rng.below(2) == 0 { size } else { size.min(4 * u64::from(plan.sectors_max)) };
    let sector = rng.below(region.saturating_sub(u64::from(sectors)) + 1);
    let zero = plan.zero_every > 0 && rng.below(plan.zero_every) == 0;
    if zero && log.invoke_zeroing(id, volume, sector, sectors) {
        let session = session.clone();
        flight.spawn(async move { (id, session.write_zeroes(lun, sector, sectors).await) });
    } else {
        log.invoke(id, OpKind::Write, volume, sector, sectors);
        let data = Bytes::from(stamp::payload(id, volume, sector, sectors));
        let write = session.write(lun, sector, sectors, data);
        flight.spawn(async move { (id, write.await) });
    }
}
