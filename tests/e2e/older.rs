//! A source that comes back with an older disk in the middle of a first copy: the copy begins again, is told, and is right.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, drained, pair, position, until};
use crate::faults::{Host, fail, volume};
use crate::images::{output, text};
use crate::rot::event_told;

const GROUP: &str = "main";
/// The copy of a volume takes a quarter of a minute: time enough on a busy machine.
const COPY_RATE: &str = "[limits]\ncopy_per_sec = \"1536K\"";
/// Nothing becomes durable in the mirror's journal; its superblock, before the segments, does.
const STANDS_STILL: &str = "write /cache bytes=16777216..1099511627776 delay=600000";

async fn copied(a: &Appliance) -> Result<u64> {
    a.group(GROUP).await?["copy"]["bytes_done"].as_u64().context("no copy is under way")
}

/// Waits until the copy has come so much farther.
async fn copies(a: &Appliance, more: u64) -> Result<()> {
    let from = copied(a).await?;
    until("the copy goes on", async || Ok(copied(a).await? >= from + more)).await.map(drop)
}

/// Copies a folder; files that are there already stay the same files, as homes have to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    output("cp", &["-rT", "--sparse=always", text(from)?, text(to)?]).map(drop)
}

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    let dir = &setup.dir;
    let mut a = Appliance::planned(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" })?;
    a.add_settings(COPY_RATE)?;
    a.run().await?;
    let mut b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "512M" }).await?;
    pair(&a, &b, b.link).await?;
    volume(&a, "one", GROUP).await?;
    let mut host = Host::login(&a, GROUP, 0, 1).await?;
    host.write_some(40).await?;
    until("the home has it", async || {
        let group = a.group(GROUP).await?;
        Ok(position(&group, "applied")? == position(&group, "written")?)
    })
    .await?;
    // Not waited for: its job is the copy.
    let made = a.post("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    ensure!(made.status < 300, "{}", made.body);
    until("the copy has begun", async || Ok(copied(&a).await? > 0)).await?;
    // No host writes now: what lies there is a moment.
    let (pool, older) = (a.dir.join("pool"), dir.join("older"));
    copy(&pool, &older)?;
    let known = host.acked.clone();
    fail(&b, GROUP, STANDS_STILL).await?;
    // A write that got through would be a fork of another kind.
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.write_some(60).await?;
    copies(&a, 3 << 20).await?;
    let durable = position(&b.group(GROUP).await?, "durable")?;
    ensure!(durable < position(&a.group(GROUP).await?, "durable")?, "the mirror's journal does not stand still");
    let before = copied(&a).await?;
    a.kill()?;
    b.kill()?;
    copy(&older, &pool)?;
    b.set_faults(GROUP, "")?;
    b.run().await?;
    a.run().await?;
    for one in [&a, &b] {
        event_told(one, "copy-restarted").await?;
    }
    // What the older disk holds is what there is, and the mirror's image is that and nothing else.
    host.again(&a, GROUP).await?;
    host.acked = known;
    let blocks = host.check().await?;
    host.write_some(20).await?;
    until("the copy is complete", async || Ok(a.group(GROUP).await?["state"]["kind"] == "ordered")).await?;
    drained(&a, &b, GROUP).await?;
    let (ours, theirs) = (a.homes(GROUP).await?, b.homes(GROUP).await?);
    ensure!(std::fs::read(&ours[0])? == std::fs::read(&theirs[0])?, "the homes differ");
    a.stop()?;
    b.stop()?;
    Ok(format!(
        "60 writes lost with {before} bytes copied; told by both boxes, copied again, {blocks} blocks as before, homes equal"
    ))
}
