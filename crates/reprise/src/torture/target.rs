//! On a volume of the user's own box: nothing is killed, the mirror is paused and resumed.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reprise_api::*;
use reprise_testkit::rng::Rng;
use tokio::sync::watch;

use super::Report;
use super::history::History;
use super::writer::{self, Place, Shared, locked};
use crate::Usage;
use crate::args::Global;

/// The history of every sector is kept in memory, and the volume is read whole.
const VOLUME_MAX: u64 = 16 << 30;
/// Longest wait until the mirror has everything, after the blows.
const DRAIN_SECS_MAX: u64 = 3600;
const LOOK_EVERY: Duration = Duration::from_millis(200);

struct Own<'a> {
    client: &'a Client,
    group: Name,
    peer: Option<Name>,
}

impl Own<'_> {
    async fn status(&self) -> anyhow::Result<GroupStatus> {
        let groups = self.client.group_list(&Nothing {}).await?.groups;
        groups.into_iter().find(|g| g.name == self.group).with_context(|| format!("there is no group {}", self.group))
    }

    async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        let Some(peer) = self.peer.clone() else { return Ok(()) };
        let request = MirrorOf { group: self.group.clone(), peer };
        if paused {
            self.client.mirror_pause(&request).await?;
        } else {
            self.client.mirror_resume(&request).await?;
        }
        Ok(())
    }
}

pub(super) async fn run(
    global: &Global,
    volume: &Name,
    destroy: Option<&Name>,
    seed: u64,
    time: Duration,
) -> anyhow::Result<Report> {
    if destroy.is_some_and(|d| d != volume) {
        return Err(Usage::error("--destroy must repeat the name of the volume"));
    }
    let client = crate::target::client(global)?;
    let show = client.volume_show(&ByName { name: volume.clone() }).await?;
    if show.size_bytes > VOLUME_MAX {
        return Err(Usage::error("the volume is larger than 16 GiB: make a smaller one for this"));
    }
    let status = client.status(&Nothing {}).await?;
    let group = status.groups.iter().find(|g| g.name == show.group).context("the volume's group")?;
    let target = group.targets.first().context("this box is not the source of the volume")?;
    let portal = target.portals.first().context("the box has no iSCSI portal")?;
    let place = Place {
        portal: portal.parse().with_context(|| format!("{portal} is no address"))?,
        iqn: target.iqn.clone(),
        lun: show.lun,
        sectors: show.size_bytes / 512,
    };
    let own = Own { client: &client, group: show.group.clone(), peer: group.link.as_ref().map(|l| l.peer.clone()) };
    prepare(&place, volume, destroy.is_some()).await?;

    let history: Shared = Arc::new(Mutex::new(History::new(place.sectors)));
    let (stop, stopped) = watch::channel(false);
    let writing = tokio::spawn(writer::write(place.clone(), history.clone(), seed, stopped));
    let mut report = Report { seed, ..Report::default() };
    let blows = blows(&own, seed, time, &mut report).await;
    stop.send_replace(true);
    let wrote = writing.await.context("the writer")?;
    // However the blows ended, the mirror is not left paused.
    own.pause(false).await?;
    blows?;
    let wrote = wrote?;
    (report.unanswered, report.logins) = (wrote.unanswered, wrote.logins);
    finish(&own, &history, &place, report).await
}

/// A volume with anything on it is written over only if its name was given twice.
async fn prepare(place: &Place, volume: &Name, destroy: bool) -> anyhow::Result<()> {
    let image = writer::read_all(place).await?;
    if image.iter().all(|b| *b == 0) {
        return Ok(());
    }
    if !destroy {
        let text = format!("volume {volume} is not empty: it carries a file system or other data");
        let what = format!("use a fresh volume, or destroy what is on it with --destroy {volume}");
        return Err(ClientError::Refused(ApiError::new(ErrorCode::InUse, text, what)).into());
    }
    writer::clear(place).await
}

async fn blows(own: &Own<'_>, seed: u64, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed ^ 0x0dd_b10b5);
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(500 + rng.below(3000))).await;
        if own.peer.is_some() {
            own.pause(true).await?;
            report.cuts += 1;
            tokio::time::sleep(Duration::from_millis(rng.below(2000))).await;
            own.pause(false).await?;
        }
    }
    report.secs = start.elapsed().as_secs_f64();
    Ok(())
}

async fn finish(own: &Own<'_>, history: &Shared, place: &Place, mut report: Report) -> anyhow::Result<Report> {
    let image = writer::read_all(place).await?;
    locked(history).check(&image, true).context("what a host reads")?;
    report.sectors_compared = place.sectors;
    report.blocks = locked(history).len() as u64;
    report.acknowledged = locked(history).acknowledged();
    ensure!(report.acknowledged > 0, "nothing was acknowledged: the run says nothing");
    let start = Instant::now();
    let group = loop {
        let group = own.status().await?;
        let p = &group.positions;
        if own.peer.is_none() || (p.peer_durable == Some(p.written) && matches!(group.state, GroupState::Ordered)) {
            break group;
        }
        if start.elapsed().as_secs() > DRAIN_SECS_MAX {
            bail!("the mirror does not follow: {} {:?}", group.state.kind(), p);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    report.source_seq = group.positions.durable.get();
    report.mirror_seq = group.positions.peer_durable.map_or(0, |s| s.get());
    if own.peer.is_some() {
        // The other box by hash, at one moment: it holds what was just read here.
        let request = VerifyStart { group: own.group.clone(), repair: false, bytes_per_sec: None };
        let mut job = own.client.verify_start(&request).await?.job;
        while !job.state.is_final() {
            tokio::time::sleep(LOOK_EVERY).await;
            job = own.client.job_show(&ById { id: job.id }).await?;
        }
        let found = own.client.verify_report(&ById { id: job.id }).await?;
        ensure!(found.equal, "the mirror differs from its source at record {}: {:?}", found.seq, found.extents);
        report.mirror_images = 1;
        report.sectors_compared += found.bytes_compared / 512;
    }
    report.passed = true;
    Ok(report)
}
