//! Source and mirror compared while hosts write: no false alarm, and bytes that differ are found, named and repaired.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reprise_testkit::oracle::{OpLog, Target, WriterPlan, run_writers};
use reprise_testkit::relay::Relay;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, position, until};
use crate::faults::{flip, said};

const GROUP: &str = "main";
const VOLUME: u64 = 96 << 20;
/// The writers leave the second half alone, where a byte will be changed.
const WRITTEN_SECTORS: u64 = VOLUME / 512 / 2;
/// What the writers may write, bytes per second: the cache must hold what comes while a moment is held.
const WRITE_RATE: u64 = 8 << 20;
const ROUNDS: u32 = 4;

/// Runs `reprise verify` and gives its exit code and the report, off the test's threads: writers go on meanwhile.
async fn verify(a: &Appliance, more: &[&str]) -> Result<(i32, Value)> {
    let mut line = vec!["verify", GROUP, "--rate", "40M"];
    line.extend_from_slice(more);
    let out = tokio::task::block_in_place(|| a.cli(&line))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let report = lines.into_iter().find(|v| v["extents"].is_array());
    let report = report.with_context(|| format!("no report: {}", said(&out)))?;
    Ok((out.status.code().unwrap_or(-1), report))
}

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    let dir = &setup.dir;
    let a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "2G" }).await?;
    let b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "2G" }).await?;
    pair(&a, &b, b.link).await?;
    for name in ["one", "two"] {
        a.done("/api/v1/volumes", json!({ "name": name, "group": GROUP, "size": VOLUME })).await?;
    }
    a.done("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    let front = Relay::start(a.iscsi).await?;
    front.set_rate(Some(WRITE_RATE));
    let target = Target {
        address: front.address(),
        iqn: a.iqn(GROUP).await?,
        volumes: (0..2).map(|n| (n, n, WRITTEN_SECTORS)).collect(),
    };
    let log = Arc::new(OpLog::with_file(&dir.join("oplog"))?);
    let plan =
        WriterPlan { seed: setup.seed, writers: 3, depth: 12, sectors_max: 128, zero_every: 20, ..Default::default() };
    let (stop, stopped) = watch::channel(false);
    let writers = {
        let (target, log) = (target.clone(), log.clone());
        tokio::spawn(async move { run_writers(&target, &plan, &log, &stopped).await })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;

    let proof = dir.join("proof.json");
    let path = proof.to_str().context("a path is no text")?;
    let mut seqs = Vec::new();
    let start = Instant::now();
    for round in 0..ROUNDS {
        let before = position(&a.group(GROUP).await?, "written")?;
        let (code, report) = verify(&a, &["--proof", path]).await?;
        let after = position(&a.group(GROUP).await?, "written")?;
        ensure!(code == 0 && report["equal"] == true, "round {round}: a false alarm: {report}");
        ensure!(report["bytes_compared"] == 2 * VOLUME, "round {round}: not all was compared: {report}");
        ensure!(after > before + 100, "round {round}: nothing was written meanwhile ({before} to {after})");
        seqs.push(report["seq"].as_u64().context("seq")?);
    }
    ensure!(seqs.is_sorted_by(|x, y| x < y), "the moments do not move on: {seqs:?}");
    let secs = start.elapsed().as_secs_f64() / f64::from(ROUNDS);

    // The proof: good as it is, and no longer once a digit of it has changed.
    let out = a.cli(&["verify", "--check", path])?;
    ensure!(out.status.success(), "the proof is not taken: {}", said(&out));
    let checked: Value = serde_json::from_slice(&out.stdout)?;
    ensure!(checked["statement"]["seq"] == seqs[seqs.len() - 1], "{checked}");
    let peers = b.get("/api/v1/peers").await?.body;
    ensure!(peers["peers"][0]["key_fingerprint"] == checked["key_fingerprint"], "another key: {checked} {peers}");
    let text = std::fs::read_to_string(&proof)?;
    let seq = seqs[seqs.len() - 1];
    std::fs::write(&proof, text.replace(&format!("\"seq\": {seq}"), &format!("\"seq\": {}", seq + 1)))?;
    let out = a.cli(&["verify", "--check", path])?;
    ensure!(!out.status.success() && said(&out).contains("signature"), "a changed proof is taken: {}", said(&out));

    // Bytes of the mirror's home, where nobody writes; in three regions, which are compared and repaired side by side.
    let sectors = [0, 600, 1200].map(|n| WRITTEN_SECTORS + 12_345 + n);
    let home = b.homes(GROUP).await?.into_iter().nth(1).context("the second home")?;
    sectors.iter().try_for_each(|sector| flip(&home, sector * 512 + 17))?;
    let (code, report) = verify(&a, &[]).await?;
    let wanted = sectors.map(|sector| json!({ "volume": "two", "sector": sector, "sectors": 1 }));
    // Extents are named in the order in which they were found.
    let names_all = |report: &Value| {
        let mut found = report["extents"].as_array().cloned().unwrap_or_default();
        found.sort_by_key(|e| e["sector"].as_u64());
        found == wanted
    };
    ensure!(code == 1 && report["equal"] == false && names_all(&report), "not found: {code} {report}");
    let alerts = a.group(GROUP).await?["alerts"].clone();
    ensure!(alerts.to_string().contains("mirror-differs"), "no alert: {alerts}");
    let (code, report) = verify(&a, &["--repair"]).await?;
    ensure!(code == 0 && report["bytes_repaired"] == 3 * 512 && names_all(&report), "not repaired: {code} {report}");
    let (code, report) = verify(&a, &[]).await?;
    ensure!(code == 0 && report["bytes_differing"] == 0, "it differs again: {report}");
    let alerts = a.group(GROUP).await?["alerts"].clone();
    ensure!(!alerts.to_string().contains("mirror-differs"), "the alert stays: {alerts}");

    // Cancelled: home goes on.
    let job = a.post("/api/v1/verify", json!({ "group": GROUP, "bytes_per_sec": 1 << 20 })).await?.body;
    let id = job["job"]["id"].as_u64().with_context(|| format!("no job: {job}"))?;
    let busy = a.post("/api/v1/verify", json!({ "group": GROUP })).await?;
    ensure!(busy.status == 409, "two comparisons at once: {}", busy.body);
    a.post("/api/v1/jobs/cancel", json!({ "id": id })).await?;
    until("the job is cancelled", async || {
        Ok(a.get(&format!("/api/v1/jobs/show?id={id}")).await?.body["state"]["kind"] == "cancelled")
    })
    .await?;

    stop.send_replace(true);
    let wrote = writers.await?;
    ensure!(wrote.refused.is_empty(), "the target refused: {:?}", wrote.refused);
    drained(&a, &b, GROUP).await?;
    for (ours, theirs) in a.homes(GROUP).await?.iter().zip(b.homes(GROUP).await?) {
        let (ours, theirs) = (std::fs::File::open(ours)?, std::fs::File::open(theirs)?);
        let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..VOLUME).step_by(x.len()) {
            ours.read_exact_at(&mut x, at)?;
            theirs.read_exact_at(&mut y, at)?;
            ensure!(x == y, "the homes differ in the MiB at {at}");
        }
    }
    no_errors_logged(&[&a, &b], &["mirror-differs"])?;
    let (mut a, mut b) = (a, b);
    a.stop()?;
    b.stop()?;
    Ok(format!(
        "{ROUNDS} comparisons of {} MiB in {secs:.1} s each under {} writes, no false alarm; three bytes found, named, repaired",
        (2 * VOLUME) >> 20,
        wrote.acknowledged
    ))
}
