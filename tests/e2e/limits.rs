//! Limits of the settings, seen from outside: rates of the link, buffers, memory of the indexes; and what status measures.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::rng::Rng;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    vec![
        Part { name: "limits of sending and copying", outcome: rates(setup).await },
        Part { name: "buffers of many groups", outcome: buffers(setup).await },
        Part { name: "a full index", outcome: index(setup).await },
    ]
}

async fn login(one: &Appliance, group: &str) -> Result<Session> {
    let session = Session::login(one.iscsi, &LoginOptions::new(one.iqn(group).await?)).await?;
    session.clear_attentions(0).await?;
    Ok(session)
}

fn noise(rng: &mut Rng, len: usize) -> Bytes {
    (0..len / 8).flat_map(|_| rng.draw().to_le_bytes()).collect::<Vec<u8>>().into()
}

/// Writes `count` pieces of 256 KiB that do not compress.
async fn fill(session: &Session, rng: &mut Rng, count: u64) -> Result<()> {
    let block = u64::from(session.read_capacity(0).await?.block_size);
    for n in 0..count {
        let piece = noise(rng, 256 << 10);
        session.write(0, n * (256 << 10) / block, ((256 << 10) / block) as u32, piece).await?;
    }
    Ok(())
}

/// The first copy goes at its limit, what is written later at the link's; hosts do not wait for either.
async fn rates(setup: &Setup) -> Result<String> {
    let mut rng = Rng::new(setup.seed);
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "slow-a", size: "1G" })?;
    a.add_settings("[limits]\nsend_per_sec = \"4M\"\ncopy_per_sec = \"2M\"")?;
    a.run().await?;
    let b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "slow-b", size: "1G" }).await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 16 * MIB })).await?;
    let session = login(&a, "main").await?;
    let start = Instant::now();
    fill(&session, &mut rng, 64).await?;
    let alone = start.elapsed().as_secs_f64();
    let start = Instant::now();
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "slow-b" })).await?;
    let copy = start.elapsed().as_secs_f64();
    // 16 MiB at 2 MiB/s, the first region at once. Longer on a busy machine.
    ensure!((6.5..60.0).contains(&copy), "the copy of 16 MiB at 2 MiB/s took {copy:.1} s");
    let start = Instant::now();
    fill(&session, &mut rng, 64).await?;
    let host = start.elapsed().as_secs_f64();
    let mut told = Value::Null;
    until("writes are measured", async || {
        told = a.group("main").await?["rates"].clone();
        Ok(told["write_latency_p99_ms"].is_number())
    })
    .await?;
    drained(&a, &b, "main").await?;
    let sent = start.elapsed().as_secs_f64();
    // 16 MiB at 4 MiB/s, a quarter of a second of it as a burst.
    ensure!((3.2..60.0).contains(&sent), "16 MiB at 4 MiB/s took {sent:.1} s");
    ensure!(host < f64::max(sent / 1.5, alone * 3.0), "the host waited for the link: {host:.1} s of {sent:.1} s");
    for key in ["write_latency_p50_ms", "write_latency_p99_ms"] {
        let ms = told[key].as_f64().with_context(|| format!("{key} in {told}"))?;
        ensure!(ms > 0.0 && ms < 60_000.0, "{key}: {ms}");
    }
    let block = session.read_capacity(0).await?.block_size;
    session.read(0, 0, 8, block).await?;
    until("reads are measured", async || {
        let rates = a.group("main").await?["rates"].clone();
        Ok(rates["read_latency_p50_ms"].as_f64().is_some_and(|ms| ms > 0.0))
    })
    .await?;
    session.logout().await?;
    no_errors_logged(&[&a, &b], &[])?;
    Ok(format!("16 MiB copied in {copy:.1} s at 2 MiB/s, sent in {sent:.1} s at 4 MiB/s; the host took {host:.1} s"))
}

/// Eight groups that each would take more than their part: together they stay within the limit, and all get on.
async fn buffers(setup: &Setup) -> Result<String> {
    const GROUPS: usize = 8;
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "many", size: "2G" })?;
    a.add_settings("[limits]\nbuffers = \"64M\"")?;
    a.run().await?;
    let mut writers = Vec::new();
    // All write at once: a group takes longer to make than its writer to be done.
    let all_there = Arc::new(Barrier::new(GROUPS + 1));
    for n in 0..GROUPS {
        let all_there = all_there.clone();
        let volume = json!({ "name": format!("v{n}"), "group": format!("g{n}"), "size": 32 * MIB });
        a.done("/api/v1/volumes", volume).await?;
        let session = login(&a, &format!("g{n}")).await?;
        let mut rng = Rng::new(setup.seed ^ n as u64);
        let piece = noise(&mut rng, 1 << 20);
        let block = u64::from(session.read_capacity(0).await?.block_size);
        writers.push(tokio::spawn(async move {
            all_there.wait().await;
            for _ in 0..4 {
                let write = |n: u64| session.write(0, n * MIB / block, (MIB / block) as u32, piece.clone());
                let under_way: Vec<_> = (0..24).map(write).map(tokio::spawn).collect();
                for one in under_way {
                    one.await??;
                }
            }
            session.logout().await?;
            Ok::<_, anyhow::Error>(())
        }));
    }
    all_there.wait().await;
    let (mut most, mut limit) = (0, 0);
    while writers.iter().any(|w| !w.is_finished()) {
        let memory = a.status().await?["box"]["memory"].clone();
        limit = memory["buffers_bytes_limit"].as_u64().context("limit")?;
        most = most.max(memory["buffers_bytes_used"].as_u64().context("used")?);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for writer in writers {
        writer.await??;
    }
    ensure!(limit == 64 * MIB, "the limit is shown as {limit}");
    ensure!(most > 4 * MIB, "nothing was measured: {most}");
    ensure!(most <= limit, "{most} bytes of {limit} in use");
    no_errors_logged(&[&a], &[])?;
    Ok(format!("{GROUPS} groups wrote {} MiB, at most {} of {} MiB in use", GROUPS * 96, most / MIB, limit / MIB))
}

/// Small writes with the mirror paused fill the index before the cache: hosts wait, and go on when the mirror is back.
async fn index(setup: &Setup) -> Result<String> {
    const WRITES: u64 = 60_000;
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "index-a", size: "1G" })?;
    a.add_settings("[limits]\nindex = \"1M\"")?;
    a.run().await?;
    let b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "index-b", size: "1G" }).await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 64 * MIB })).await?;
    let of = json!({ "group": "main", "peer": "index-b" });
    a.done("/api/v1/mirrors", of.clone()).await?;
    a.done("/api/v1/mirrors/pause", of.clone()).await?;
    let session = std::sync::Arc::new(login(&a, "main").await?);
    let block = session.read_capacity(0).await?.block_size;
    let writer = {
        let session = session.clone();
        tokio::spawn(async move {
            let piece = Bytes::from(vec![7u8; block as usize]);
            for turn in 0..WRITES / 100 {
                let write = |n: u64| session.write(0, (turn * 100 + n) * 2 % 100_000, 1, piece.clone());
                let under_way: Vec<_> = (0..100).map(write).map(tokio::spawn).collect();
                for one in under_way {
                    one.await??;
                }
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    let alert = |status: &Value| {
        let alerts = status["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|a| a["code"] == "index-full")
    };
    // A round of the home frees some of it: what is full at one moment takes a little more at the next.
    let mut used = 0;
    until("the index is full, and is told", async || {
        let status = a.status().await?;
        let memory = &status["box"]["memory"];
        ensure!(memory["index_bytes_limit"] == MIB, "{memory}");
        used = memory["index_bytes_used"].as_u64().unwrap_or(0);
        Ok(alert(&status) && status["groups"][0]["state"]["kind"] == "cache_full" && used > MIB)
    })
    .await?;
    ensure!(!writer.is_finished(), "the host does not wait");
    ensure!(used < 4 * MIB, "{used} bytes of index");
    a.done("/api/v1/mirrors/resume", of).await?;
    writer.await??;
    drained(&a, &b, "main").await?;
    until("the alert is gone", async || Ok(!alert(&a.status().await?))).await?;
    match std::sync::Arc::into_inner(session) {
        Some(session) => session.logout().await?,
        None => anyhow::bail!("the session is still in use"),
    }
    no_errors_logged(&[&a, &b], &["index-full", "cache-full"])?;
    Ok(format!("{} KiB of index, then the host waits; it goes on when the mirror is back", used >> 10))
}
