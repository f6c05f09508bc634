//! On a temporary pair: boxes are killed, the line is cut.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use reprise_api::{ByteSize, GroupState, GroupStatus};
use reprise_testkit::rng::Rng;
use tokio::sync::watch;

use super::Report;
use super::history::{History, Prefix};
use super::writer::{self, Place, Shared, locked};
use crate::demo::{Pair, Place as Folder, Wanted};

/// Size of the volume: small, so that blocks lie over each other and an image is checked in a moment.
const VOLUME: u64 = 64 << 20;
/// Everything that boxes do by themselves is done in this time on a busy machine.
const HEAL_SECS_MAX: u64 = 120;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(dir: Option<&Path>, seed: u64, time: Duration) -> anyhow::Result<Report> {
    let mut folder = Folder::new(dir)?;
    match torture(folder.path(), seed, time).await {
        Ok(report) => Ok(report),
        Err(error) => {
            folder.keep();
            Err(error.context(format!("seed {seed}; what was found stays in {}", folder.path().display())))
        }
    }
}

async fn torture(dir: &Path, seed: u64, time: Duration) -> anyhow::Result<Report> {
    let wanted = Wanted { volume: ByteSize::from_bytes(VOLUME), relayed: true };
    let mut pair = Pair::start(dir, &wanted).await?;
    pair.make_mirrored_volume(wanted.volume, |_| {}).await?;
    let (portal, iqn, lun) = pair.target_of_source().await?;
    let place = Place { portal, iqn, lun, sectors: VOLUME / 512 };
    let history: Shared = Arc::new(Mutex::new(History::new(place.sectors)));
    let (stop, stopped) = watch::channel(false);
    let mut writing = tokio::spawn(writer::write(place.clone(), history.clone(), seed, stopped));
    let mut report = Report { seed, ..Report::default() };
    let mut rng = Rng::new(seed ^ 0x0dd_b10b5);
    let start = Instant::now();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(200 + rng.below(1500))).await;
        if writing.is_finished() {
            break;
        }
        match rng.below(3) {
            0 => {
                pair.source.kill()?;
                report.source_kills += 1;
                let prefix =
                    mirror_at_rest(&mut pair, &history).await.context("the mirror while its source is dead")?;
                report.mirror_images += 1;
                report.sectors_compared += place.sectors;
                report.worst_behind = report.worst_behind.max(prefix.behind);
                pair.source.run().await.context("start the source again")?;
            }
            1 => {
                pair.mirror.kill()?;
                report.mirror_kills += 1;
                tokio::time::sleep(Duration::from_millis(rng.below(500))).await;
                pair.mirror.run().await.context("start the mirror again")?;
            }
            _ => {
                let relay = pair.relay.as_ref().context("the pair has no relay")?;
                relay.cut();
                report.cuts += 1;
                tokio::time::sleep(Duration::from_millis(rng.below(1000))).await;
                relay.mend();
            }
        }
        let healing = Instant::now();
        pair.until("the mirror follows again", HEAL_SECS_MAX, |source, _| matches!(source.state, GroupState::Ordered))
            .await?;
        report.worst_heal_secs = report.worst_heal_secs.max(healing.elapsed().as_secs_f64());
    }
    report.secs = start.elapsed().as_secs_f64();
    stop.send_replace(true);
    let wrote = (&mut writing).await.context("the writer")??;
    (report.unanswered, report.logins) = (wrote.unanswered, wrote.logins);
    finish(&mut pair, &history, &place, report).await
}

/// The end: everything is at both homes, which are equal, are the history, and are what a host reads.
async fn finish(pair: &mut Pair, history: &Shared, place: &Place, mut report: Report) -> anyhow::Result<Report> {
    let all = |g: &GroupStatus, end| g.positions.durable == end && g.positions.applied == end;
    pair.until("everything is at both homes", HEAL_SECS_MAX, |source, mirror| {
        let end = source.positions.written;
        source.positions.peer_durable == Some(end) && all(source, end) && all(mirror, end)
    })
    .await?;
    (report.source_seq, report.mirror_seq) =
        (pair.source.group().await?.positions.durable.get(), pair.mirror.group().await?.positions.durable.get());
    let read = writer::read_all(place).await?;
    let (ours, theirs) = (home(&pair.source.group().await?)?, home(&pair.mirror.group().await?)?);
    for (what, image) in [("what a host reads", &read), ("the source's home", &ours), ("the mirror's home", &theirs)] {
        locked(history).check(image, true).with_context(|| what.to_owned())?;
        report.sectors_compared += place.sectors;
    }
    ensure!(ours == theirs && ours == read, "the images differ");
    report.blocks = locked(history).len() as u64;
    report.acknowledged = locked(history).acknowledged();
    ensure!(report.acknowledged > 0, "nothing was acknowledged: the run says nothing");
    pair.stop()?;
    report.passed = true;
    Ok(report)
}

fn home(group: &GroupStatus) -> anyhow::Result<Vec<u8>> {
    let volume = group.volumes.first().context("the group has no volume")?;
    std::fs::read(&volume.home).with_context(|| format!("read {}", volume.home))
}

/// Without its source a mirror comes to rest; its home must then be an exact prefix.
async fn mirror_at_rest(pair: &mut Pair, history: &Shared) -> anyhow::Result<Prefix> {
    let start = Instant::now();
    let mut before = None;
    loop {
        let group = pair.mirror.group().await?;
        let (applied, durable) = (group.positions.applied, group.positions.durable);
        if applied == durable && before == Some(durable) {
            return locked(history).check(&home(&group)?, false);
        }
        before = Some(durable);
        if start.elapsed().as_secs() > HEAL_SECS_MAX {
            bail!("the mirror does not come to rest: {:?}", group.positions);
        }
        tokio::time::sleep(LOOK_EVERY * 3).await;
    }
}
