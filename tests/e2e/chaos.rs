//! Either daemon is killed and the link is cut, many times at random moments, under many overlapping writes to two volumes
//! of one group. After each: every acknowledged write has its record, and the mirror's homes are exactly the source's
//! history up to the Seq that the mirror names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::oracle::{
    FileImage, Image, OpLog, Target, WriterPlan, check_image, compare_images, dump_volume, run_writers,
};
use reprise_testkit::relay::{Line, Relay};
use reprise_testkit::rng::Rng;
use serde_json::json;
use tokio::sync::watch;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, HEAL_SECS_MAX, LOOK_EVERY, drained, no_errors_logged, pair, position, until};
use crate::history::{History, SourceRecords};

const GROUP: &str = "main";
const VOLUMES: [&str; 2] = ["one", "two"];
const VOLUME_BYTES: u64 = 24 << 20;
const VOLUME_SECTORS: u64 = VOLUME_BYTES / 512;
/// What the writers may write, bytes per second. Enough for a thousand writes a second; a limit, so that the checker keeps up.
const WRITE_RATE: u64 = 6 << 20;

/// How much longer a flush of the source's homes takes, milliseconds. A segment that both boxes have at home is given up with
/// its records: a home that is slow leaves the checker the time to read them on a busy machine, and after a kill.
const UNREAD_MS: u64 = 800;
/// Nothing comes to a mirror any more whose line is silent and which has said the same for so long. A box renews what it
/// says every 100 ms, less often on a busy machine.
const SILENT_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    KillSource,
    KillMirror,
    Cut(Line),
}

/// The test's world.
struct World {
    a: Appliance,
    b: Appliance,
    /// In front of the mirror's link port.
    line: Relay,
    log: Arc<OpLog>,
    history: History,
    rng: Rng,
    heals: Vec<Duration>,
}

fn blows(setup: &Setup, rng: &mut Rng) -> Vec<Blow> {
    let kills = (0..setup.kills).map(|n| if n % 2 == 0 { Blow::KillSource } else { Blow::KillMirror });
    // One cut in five is silent: nobody is told, and the boxes have to find out when the line is back.
    let cuts = (0..setup.cuts).map(|n| Blow::Cut(if n % 5 == 4 { Line::Silent } else { Line::Reset }));
    let mut blows: Vec<Blow> = kills.chain(cuts).collect();
    for i in (1..blows.len()).rev() {
        blows.swap(i, rng.below(i as u64 + 1) as usize);
    }
    blows
}

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    let mut rng = Rng::new(setup.seed);
    let blows = blows(setup, &mut rng);
    let a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "a", size: "2G" }).await?;
    let mut b = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "b", size: "2G" })?;
    let line = Relay::start(b.link).await?;
    b.advertise(line.address())?;
    b.run().await?;
    pair(&a, &b, line.address()).await?;
    for name in VOLUMES {
        a.done("/api/v1/volumes", json!({ "name": name, "group": GROUP, "size": VOLUME_BYTES })).await?;
    }
    a.done("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    let front = Relay::start(a.iscsi).await?;
    front.set_rate(Some(WRITE_RATE));
    let target = Target {
        address: front.address(),
        iqn: a.iqn(GROUP).await?,
        volumes: (0..VOLUMES.len() as u16).map(|n| (n, n, VOLUME_SECTORS)).collect(),
    };
    let log = Arc::new(OpLog::with_file(&setup.dir.join("oplog"))?);
    let history = History::new(SourceRecords::start(a.socket(), GROUP), VOLUMES.to_vec(), VOLUME_SECTORS);
    a.set_faults(GROUP, &format!("sync .home delay={UNREAD_MS}"))?;
    let mut world = World { a, b, line, log: log.clone(), history, rng, heals: Vec::new() };

    let plan =
        WriterPlan { seed: setup.seed, writers: 3, depth: 12, sectors_max: 64, zero_every: 24, ..Default::default() };
    let (stop, stopped) = watch::channel(false);
    let writers = {
        let (target, log) = (target.clone(), log.clone());
        tokio::spawn(async move { run_writers(&target, &plan, &log, &stopped).await })
    };
    for (n, blow) in blows.iter().enumerate() {
        world.strike(*blow).await.with_context(|| format!("blow {n} of {}, {blow:?}", blows.len()))?;
    }
    stop.send_replace(true);
    let report = writers.await.context("the writers")?;
    ensure!(report.refused.is_empty(), "the target refused: {:?}", report.refused);
    let world = world.finish(setup, &target).await?;
    let mut heals = world.heals.clone();
    heals.sort();
    let at = |percent: usize| heals.get((heals.len() * percent / 100).min(heals.len().saturating_sub(1)));
    let secs = |d: Option<&Duration>| d.map_or(0.0, Duration::as_secs_f64);
    Ok(format!(
        "{} kills, {} cuts, each checked; {} writes acknowledged, {} cut off, {} logins, {} records, {} sectors compared; \
         ordered again after p50 {:.2} s, max {:.2} s; seed {}",
        setup.kills,
        setup.cuts,
        report.acknowledged,
        report.cut,
        report.logins,
        world.history.len(),
        world.history.sectors_compared,
        secs(at(50)),
        secs(at(100)),
        setup.seed
    ))
}

impl World {
    async fn pause(&mut self, below_ms: u64) {
        let time = Duration::from_millis(self.rng.below(below_ms));
        tokio::time::sleep(time).await;
    }

    /// One blow at a random moment, a check of what it left, and the healing.
    async fn strike(&mut self, blow: Blow) -> Result<()> {
        self.pause(400).await;
        match blow {
            Blow::KillSource => {
                self.a.kill()?;
                // Nothing that was in flight can be carried out by the process that is gone.
                self.log.settle();
            }
            Blow::KillMirror => {
                self.line.set_line(Line::Reset);
                self.b.kill()?;
                self.pause(100).await;
                self.b.run().await.context("start the mirror again")?;
            }
            Blow::Cut(line) => {
                self.line.set_line(line);
                self.pause(200).await;
            }
        }
        // Without its source a mirror comes to rest at some Seq; its homes must be exactly that.
        let at = self.at_rest(blow == Blow::Cut(Line::Silent)).await?;
        let homes = self.b.homes(GROUP).await?;
        if blow == Blow::KillSource {
            self.line.set_line(Line::Reset);
            self.a.run().await.context("start the source again")?;
        }
        let ops = self.log.ops();
        self.history.collect(&self.log).await?;
        self.history.holds_acknowledged(&ops)?;
        self.history.is_replay(&homes, at)?;
        self.line.set_line(Line::Up);
        self.healed(at).await
    }

    /// Waits until the mirror has applied all that it has and nothing more can come, and says up to where.
    async fn at_rest(&mut self, silent: bool) -> Result<u64> {
        let start = Instant::now();
        let mut same: Option<(u64, Instant)> = None;
        loop {
            self.b.still_runs()?;
            let group = self.b.group(GROUP).await?;
            let [applied, written] = [position(&group, "applied")?, position(&group, "written")?];
            let before = same.filter(|(at, _)| *at == written);
            let since = before.map_or_else(Instant::now, |(_, since)| since);
            same = Some((written, since));
            let ended = if silent { since.elapsed() >= SILENT_FOR } else { group["link"]["state"]["kind"] != "up" };
            if applied == written && ended && before.is_some() {
                return Ok(applied);
            }
            if start.elapsed().as_secs() > HEAL_SECS_MAX {
                bail!("the mirror does not come to rest: {}", group["positions"]);
            }
            tokio::time::sleep(LOOK_EVERY * 3).await;
        }
    }

    /// Waits until, without any command, the mirror follows again.
    async fn healed(&mut self, at: u64) -> Result<()> {
        let start = Instant::now();
        let (a, b) = (&self.a, &self.b);
        until("the mirror follows again", async || {
            let (here, there) = (a.group(GROUP).await?, b.group(GROUP).await?);
            let good = here["state"]["kind"] == "ordered" && position(&there, "durable")? > at;
            if good {
                Ok(true)
            } else {
                bail!("source {} {}, mirror {} {}", here["state"], here["link"], there["state"], there["positions"])
            }
        })
        .await?;
        self.heals.push(start.elapsed());
        self.a.still_runs()?;
        self.b.still_runs()?;
        Ok(())
    }

    /// The end: all that was acknowledged is at both homes, which are equal, and a host reads it.
    async fn finish(mut self, setup: &Setup, target: &Target) -> Result<Self> {
        self.a.set_faults(GROUP, "")?;
        drained(&self.a, &self.b, GROUP).await?;
        let ops = self.log.ops();
        self.history.collect(&self.log).await?;
        self.history.holds_acknowledged(&ops)?;
        self.history.is_in_order()?;
        let (ours, theirs) = (self.a.homes(GROUP).await?, self.b.homes(GROUP).await?);
        let end = position(&self.b.group(GROUP).await?, "applied")?;
        self.history.is_replay(&theirs, end).context("the mirror")?;
        self.history.is_replay(&ours, end).context("the source")?;

        let session = Session::login(self.a.iscsi, &LoginOptions::new(target.iqn.clone())).await?;
        let mut images = BTreeMap::new();
        for (n, (here, there)) in ours.iter().zip(&theirs).enumerate() {
            let (here, there) = (FileImage::open(here)?, FileImage::open(there)?);
            let differs = compare_images(&here, &there)?;
            ensure!(differs.is_none(), "the homes of volume {n} differ: {differs:?}");
            session.clear_attentions(n as u16).await?;
            let read = dump_volume(&session, n as u16, &setup.dir.join(format!("read-{n}"))).await?;
            let differs = compare_images(&read, &here)?;
            ensure!(differs.is_none(), "volume {n} reads otherwise than its home: {differs:?}");
            images.insert(n as u16, there);
        }
        // The same question asked in another way, without any list of records.
        let images = images.iter().map(|(n, i)| (*n, i as &dyn Image)).collect();
        let report = check_image(&images, &ops)?;
        ensure!(report.is_good(), "the mirror's image is impossible: {:?}", report.faults);
        no_errors_logged(&[&self.a, &self.b], &[])?;
        drop(session);
        self.a.stop()?;
        self.b.stop()?;
        Ok(self)
    }
}
