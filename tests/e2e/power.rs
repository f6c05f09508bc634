//! Power cuts and a flush that fails, with a real kernel between box and disk (see [`crate::blocks`]).
//!
//! QEMU logs what a box asks of its disk, cache and homes on one. Afterwards the disk is put together as it may be after a
//! power cut at many moments: everything that was flushed by then, and of the rest each sector old or new. A box that starts
//! on it must hold all that had been acknowledged.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reprise_testkit::oracle::{
    Image, ImageReport, Op, OpLog, Target, WriterPlan, check_image, dump_volume, run_writers,
};
use reprise_testkit::rng::Rng;
use serde_json::json;
use tokio::sync::watch;

use crate::adopt::{Loop, is_root};
use crate::blocks::{Filtered, SAMPLE_EVERY, WriteLog, copy, file_node, length};
use crate::boxes::{Appliance, BoxPlan, until};
use crate::faults::{login, said};
use crate::images::text;
use crate::{Part, Setup};

const GROUP: &str = "main";
const DISK: u64 = 256 << 20;
const VOLUME: u64 = 12 << 20;
/// Time of the load.
const LOAD: Duration = Duration::from_secs(4);
/// Power cuts that are looked at.
const CUTS: usize = 12;
/// Flushes until one fails: the start of a box takes fewer, the load far more.
const GOOD_FLUSHES: u32 = 150;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let missing = match is_root() {
        Ok(false) => Some("loop devices are for root"),
        Ok(true) if File::open("/dev/fuse").is_err() => Some("there is no FUSE"),
        Ok(true) => None,
        Err(error) => return vec![Part { name: "power", outcome: Err(error) }],
    };
    if let Some(missing) = missing {
        return vec![Part { name: "power", outcome: Ok(format!("NOT RUN: {missing}")) }];
    }
    vec![
        Part { name: "power cuts behind a real kernel", outcome: power_cuts(setup).await },
        Part { name: "a flush that fails once behind a real kernel", outcome: failed_flush(setup).await },
    ]
}

fn blank(path: &Path) -> Result<()> {
    Ok(File::create(path)?.set_len(DISK)?)
}

fn lives_on(one: &Appliance, disk: &Path) -> Result<()> {
    one.set_pool(&format!("disk = \"{}\"", text(disk)?))
}

/// A box on the device, with two volumes.
async fn with_volumes(setup: &Setup, dir: &Path, filtered: &Filtered) -> Result<Appliance> {
    let mut one = Appliance::planned(&setup.reprise, dir, &BoxPlan { name: "one", size: "1G" })?;
    lives_on(&one, filtered.device()?)?;
    one.run().await?;
    for name in ["one", "two"] {
        one.done("/api/v1/volumes", json!({ "name": name, "group": GROUP, "size": VOLUME })).await?;
    }
    Ok(one)
}

/// Writers on both volumes until `until` is done. Gives all operations.
async fn under_load(one: &Appliance, seed: u64, until: impl AsyncFnOnce(&OpLog) -> Result<()>) -> Result<Vec<Op>> {
    let plan = WriterPlan { seed, writers: 2, depth: 6, sectors_max: 48, zero_every: 40, ..Default::default() };
    let volumes = [0, 1].map(|n| (n, n, VOLUME / 512)).to_vec();
    let target = Target { address: one.iscsi, iqn: one.iqn(GROUP).await?, volumes };
    let log = Arc::new(OpLog::new());
    let (stop, stopped) = watch::channel(false);
    let writers = {
        let log = log.clone();
        tokio::spawn(async move { run_writers(&target, &plan, &log, &stopped).await })
    };
    until(&log).await?;
    stop.send_replace(true);
    let report = writers.await.context("the writers")?;
    ensure!(report.acknowledged > 50, "{report:?}");
    Ok(log.ops())
}

/// A state of the log of writes, and the last acknowledgement that hosts had by then.
struct Moment {
    acknowledged: u64,
    logged: u64,
}

/// What was acknowledged at a moment, and that everything else that was ever asked for may be there.
fn known_at(moment: &Moment, all: &[Op]) -> Vec<Op> {
    let mut ops = all.to_vec();
    for op in &mut ops {
        op.acknowledged = op.acknowledged.filter(|at| *at <= moment.acknowledged);
    }
    ops
}

/// Reads the volumes of a box and holds them against operations.
async fn look(one: &Appliance, dir: &Path, ops: &[Op]) -> Result<ImageReport> {
    let session = login(one, GROUP, 0, 99).await?;
    let mut images = Vec::new();
    for lun in [0, 1] {
        session.clear_attentions(lun).await?;
        images.push(dump_volume(&session, lun, &dir.join(format!("volume-{lun}"))).await?);
    }
    let images: BTreeMap<u16, &dyn Image> = (0..).zip(images.iter().map(|i| i as &dyn Image)).collect();
    Ok(check_image(&images, ops)?)
}

/// A load, looked at again and again. Gives moments, and all operations.
async fn watched_load(one: &Appliance, seed: u64, log_file: &Path) -> Result<(Vec<Moment>, Vec<Op>)> {
    let mut moments = Vec::new();
    let all = under_load(one, seed, async |log| {
        let start = Instant::now();
        while start.elapsed() < LOAD {
            tokio::time::sleep(SAMPLE_EVERY).await;
            // In this order: what was acknowledged is in the log by then.
            let acknowledged = log.ops().iter().filter_map(|o| o.acknowledged).max().unwrap_or(0);
            moments.push(Moment { acknowledged, logged: length(log_file)? });
        }
        Ok(())
    })
    .await?;
    Ok((moments, all))
}

async fn power_cuts(setup: &Setup) -> Result<String> {
    let dir = setup.dir.join("cuts");
    std::fs::create_dir_all(&dir)?;
    let (disk, log_file) = (dir.join("disk.img"), dir.join("writes.log"));
    blank(&disk)?;
    File::create(&log_file)?;
    let nodes = [
        file_node("disk", &disk)?,
        file_node("log", &log_file)?,
        "driver=blklogwrites,node-name=top,file=disk,log=log,log-sector-size=512".to_owned(),
    ];
    let filtered = Filtered::start(&dir, DISK, &nodes, "top")?;
    let mut one = with_volumes(setup, &dir, &filtered).await?;
    let (moments, all) = watched_load(&one, setup.seed, &log_file).await?;
    one.kill()?;
    filtered.end()?;

    let log = WriteLog::open(&log_file)?;
    let mut rng = Rng::new(setup.seed);
    let mut chosen: Vec<usize> = (0..CUTS).map(|_| rng.below(moments.len() as u64) as usize).collect();
    chosen.sort_unstable();
    // All that is durable at the moment before; the disk was blank.
    let (settled, mut settled_to) = (dir.join("settled.img"), 0);
    blank(&settled)?;
    let (mut left_out, mut acknowledged) = (0, 0);
    for (n, moment) in chosen.iter().map(|c| &moments[*c]).enumerate() {
        let end = log.within(moment.logged);
        let durable = log.durable(end);
        let file = OpenOptions::new().write(true).open(&settled)?;
        log.play(&file, settled_to, durable, None)?;
        settled_to = durable;
        let cut = copy(&settled, &dir.join("cut.img"))?;
        let in_four = [0, 1, 2, 3][n % 4];
        let file = OpenOptions::new().write(true).open(&cut)?;
        left_out += log.play(&file, durable, end, Some((&mut rng, in_four)))?;
        let ops = known_at(moment, &all);
        acknowledged += ops.iter().filter(|o| o.acknowledged.is_some()).count();
        let report = started_on(&mut one, &cut, &dir, &ops).await;
        let report = report.with_context(|| format!("cut {n}, entries ..{durable} and some up to {end}"))?;
        ensure!(report.is_good(), "cut {n}, entries ..{durable} and some up to {end}: {report:?}");
    }
    // The check itself: a disk without the last of what was flushed must not pass for it.
    let last = moments.last().context("a moment")?;
    let early = log.within(moments[moments.len() / 2].logged);
    blank(&dir.join("early.img"))?;
    let file = OpenOptions::new().write(true).open(dir.join("early.img"))?;
    log.play(&file, 0, early, None)?;
    let report = started_on(&mut one, &dir.join("early.img"), &dir, &known_at(last, &all)).await?;
    ensure!(!report.is_good(), "writes were lost, and the check has not found it");
    Ok(format!(
        "{} writes and {} flushes logged ({} before the load); {CUTS} cuts, {left_out} sectors left out of what was not flushed, {acknowledged} \
         acknowledged writes all there; lost writes are found ({} faults)",
        log.within(u64::MAX) - log.flushes(log.within(u64::MAX)),
        log.flushes(log.within(u64::MAX)),
        log.flushes(log.within(moments[0].logged)),
        report.fault_count
    ))
}

/// Starts the box on this disk, holds its volumes against operations, and kills it.
async fn started_on(one: &mut Appliance, disk: &Path, dir: &Path, ops: &[Op]) -> Result<ImageReport> {
    let device = Loop::attach(disk)?;
    lives_on(one, &device.0)?;
    one.run().await?;
    let report = look(one, dir, ops).await?;
    one.kill()?;
    Ok(report)
}

/// A flush fails once and the next one succeeds, as Linux's do: what was not flushed may be gone, and nobody will say so again.
async fn failed_flush(setup: &Setup) -> Result<String> {
    let dir = setup.dir.join("flush");
    std::fs::create_dir_all(&dir)?;
    let disk = dir.join("disk.img");
    blank(&disk)?;
    let step = |n: u32| json!({ "event": "flush_to_disk", "state": n, "new_state": n + 1 });
    let fails = json!({ "event": "flush_to_disk", "iotype": "flush", "state": GOOD_FLUSHES, "errno": 5, "once": true });
    let bad = json!({
        "driver": "blkdebug", "node-name": "bad", "image": "disk",
        "set-state": (1..GOOD_FLUSHES).map(step).collect::<Vec<_>>(), "inject-error": [fails],
    });
    let nodes = [file_node("disk", &disk)?, bad.to_string(), "driver=raw,node-name=top,file=bad".to_owned()];
    let filtered = Filtered::start(&dir, DISK, &nodes, "top")?;
    let mut one = with_volumes(setup, &dir, &filtered).await?;
    let mut told = String::new();
    let ops = under_load(&one, setup.seed, async |_| {
        let failed = until("the failed flush is told", async || {
            let group = one.group(GROUP).await?;
            let alerts = group["alerts"].as_array().context("alerts")?;
            let codes = alerts.iter().filter_map(|a| a["code"].as_str());
            told = codes.filter(|c| ["fenced", "home-failed"].contains(c)).collect::<Vec<_>>().join(", ");
            Ok(!told.is_empty())
        });
        failed.await.map(drop)
    })
    .await?;
    let command = if told.contains("fenced") { "unfence" } else { "reattach" };
    let out = one.cli(&["group", command, GROUP])?;
    ensure!(out.status.success(), "{command}: {}", said(&out));
    let report = look(&one, &dir, &ops).await?;
    ensure!(report.is_good(), "{report:?}");
    one.stop()?;
    filtered.end()?;
    let acknowledged = ops.iter().filter(|o| o.acknowledged.is_some()).count();
    Ok(format!("the group said {told}; after `group {command}` all {acknowledged} acknowledged writes are there"))
}
