//! Journals that rot: what the other box holds is put right from there, what nobody holds is said.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::boxes::{Appliance, BoxPlan, drained, pair, position, status_is_fresh, until};
use crate::faults::{Host, cache_of, fail, find, flip, volume};
use crate::{Part, Setup};

const GROUP: &str = "main";
const HOME_FAILS: &str = "write .home fail=5";

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    macro_rules! part {
        ($name:literal, $check:ident) => {
            let outcome = $check(setup, &setup.dir.join(stringify!($check))).await;
            parts.push(Part { name: $name, outcome });
        };
    }
    part!("rot in a mirror's journal", mirror);
    part!("rot in a source's journal that the mirror holds", source);
    part!("rot in a source's journal that nobody holds", unsent);
    parts
}

async fn boxes(setup: &Setup, dir: &Path) -> Result<(Appliance, Appliance, Host)> {
    let a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" }).await?;
    let b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "512M" }).await?;
    pair(&a, &b, b.link).await?;
    volume(&a, "one", GROUP).await?;
    a.done("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    let mut host = Host::login(&a, GROUP, 0, 1).await?;
    host.write_some(20).await?;
    drained(&a, &b, GROUP).await?;
    Ok((a, b, host))
}

/// Stops a box, flips a bit of an acknowledged block in its journal, and starts it again. Gives the block.
async fn rot(of: &mut Appliance, host: &Host, since: u64) -> Result<u64> {
    // Not the last one: damage there is taken for a write that never was.
    let block = *host.order.get(since as usize).context("a block written since")?;
    let data = host.acked.get(&block).context("its content")?.clone();
    of.stop()?;
    let places = find(&cache_of(of), &data)?;
    ensure!(places.len() == 1, "block {block} is in {} places of the cache", places.len());
    flip(&cache_of(of), places[0] + 1234)?;
    of.run().await?;
    Ok(block)
}

async fn alert_says(of: &Appliance, code: &str, words: &str) -> Result<()> {
    until(&format!("alert {code}"), async || {
        let group = of.group(GROUP).await?;
        let alerts = group["alerts"].as_array().context("alerts")?;
        let found = alerts.iter().find(|a| a["code"] == code);
        let Some(found) = found else { bail!("alerts {alerts:?}") };
        Ok(found["text"].as_str().is_some_and(|t| t.contains(words)))
    })
    .await
    .map(drop)
}

pub(crate) async fn event_told(of: &Appliance, code: &str) -> Result<()> {
    until(&format!("event {code}"), async || {
        let events = of.get("/api/v1/events?limit=500").await?.body;
        Ok(events["events"].as_array().context("events")?.iter().any(|e| e["code"] == code))
    })
    .await
    .map(drop)
}

async fn equal(a: &Appliance, b: &Appliance) -> Result<()> {
    drained(a, b, GROUP).await?;
    let (ours, theirs) = (a.homes(GROUP).await?, b.homes(GROUP).await?);
    ensure!(std::fs::read(&ours[0])? == std::fs::read(&theirs[0])?, "the homes differ");
    Ok(())
}

/// Unapplied at the mirror and rotten there: fetched from the source, applied, equal.
async fn mirror(setup: &Setup, dir: &Path) -> Result<String> {
    let (mut a, mut b, mut host) = boxes(setup, dir).await?;
    // The mirror's home is away, so that its journal is needed.
    fail(&b, GROUP, HOME_FAILS).await?;
    let since = host.order.len() as u64;
    host.write_some(30).await?;
    status_is_fresh().await;
    until("the mirror has all", async || {
        let end = position(&a.group(GROUP).await?, "written")?;
        Ok(position(&b.group(GROUP).await?, "durable")? == end)
    })
    .await?;
    rot(&mut b, &host, since + 5).await?;
    fail(&b, GROUP, "").await?;
    let _ = b.cli(&["group", "reattach", GROUP])?;
    event_told(&b, "journal-repaired").await?;
    equal(&a, &b).await?;
    host.write_some(20).await?;
    equal(&a, &b).await?;
    let count = host.check().await?;
    b.stop()?;
    b.run().await.context("the repaired journal recovers")?;
    a.stop()?;
    b.stop()?;
    Ok(format!("one bit: the batch was fetched again, mirror equal, {count} blocks"))
}

/// Unapplied at the source and rotten there, and the mirror holds it: fetched back.
async fn source(setup: &Setup, dir: &Path) -> Result<String> {
    let (mut a, mut b, mut host) = boxes(setup, dir).await?;
    fail(&a, GROUP, HOME_FAILS).await?;
    let since = host.order.len() as u64;
    host.write_some(30).await?;
    status_is_fresh().await;
    until("the mirror has all", async || {
        let end = position(&a.group(GROUP).await?, "written")?;
        Ok(position(&a.group(GROUP).await?, "peer_durable")? == end)
    })
    .await?;
    let block = rot(&mut a, &host, since + 5).await?;
    fail(&a, GROUP, "").await?;
    let _ = a.cli(&["group", "reattach", GROUP])?;
    event_told(&a, "journal-repaired").await?;
    host.again(&a, GROUP).await?;
    let count = host.check().await.with_context(|| format!("block {block} was rotten"))?;
    equal(&a, &b).await?;
    a.stop()?;
    b.stop()?;
    Ok(format!("one bit: the batch came back from the mirror, {count} blocks"))
}

/// Not sent and rotten: the drain stops there, people are told which records, hosts get errors and never wrong data.
async fn unsent(setup: &Setup, dir: &Path) -> Result<String> {
    let (mut a, mut b, mut host) = boxes(setup, dir).await?;
    b.stop()?;
    fail(&a, GROUP, HOME_FAILS).await?;
    let since = host.order.len() as u64;
    host.write_some(30).await?;
    let block = rot(&mut a, &host, since + 5).await?;
    host.again(&a, GROUP).await?;
    b.run().await?;
    alert_says(&a, "journal-rotten", "are lost").await?;
    let group = a.group(GROUP).await?;
    ensure!(group["state"]["kind"] == "waiting", "it does not say that it has stopped: {}", group["state"]);
    let proven = position(&group, "peer_durable")?;
    ensure!(proven < position(&group, "durable")?, "the rotten record was sent");
    let error = host.read(block).await.err().context("a rotten block was read")?;
    ensure!(error.sense().is_some_and(|s| (s.key, s.asc) == (3, 0x11)), "{error}");
    let mut readable = 0;
    for other in host.acked.keys().filter(|k| **k != block) {
        // In the same batch nothing else can be: the host waited for each.
        ensure!(
            host.read(*other).await.with_context(|| format!("block {other}"))? == host.acked[other],
            "block {other}"
        );
        readable += 1;
    }
    // Written again, it can be read again.
    host.write(block).await?;
    ensure!(host.read(block).await? == host.acked[&block], "the block that was written again");
    a.stop()?;
    b.stop()?;
    Ok(format!("the drain stopped at record {proven}; MEDIUM ERROR for the one block, {readable} others right"))
}
