//! The link where the network is not as it was: a mirror that moved, a backlog behind a connection that came back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::ports;

use crate::boxes::{Appliance, BoxPlan, drained, pair, until};
use crate::faults::{Host, said, volume};
use crate::{Part, Setup};

const GROUP: &str = "main";

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    macro_rules! part {
        ($name:literal, $check:ident) => {
            let dir = setup.dir.join(stringify!($check));
            let outcome = $check(setup, &dir).await;
            parts.push(Part { name: $name, outcome });
        };
    }
    part!("a mirror that moved", moved);
    part!("a backlog after a reconnect", backlog);
    parts
}

async fn is_up(of: &Appliance) -> Result<bool> {
    Ok(of.group(GROUP).await?["link"]["state"]["kind"] == "up")
}

async fn peer(of: &Appliance) -> Result<Value> {
    Ok(of.status().await?["peers"][0].clone())
}

/// The box listens for its link at another address from its next start on.
fn moves(of: &mut Appliance) -> Result<()> {
    let old = of.link;
    of.link = ports::free()?;
    let text = std::fs::read_to_string(of.config())?;
    ensure!(text.contains(&old.to_string()), "the settings do not name {old}");
    std::fs::write(of.config(), text.replace(&old.to_string(), &of.link.to_string())).context("write box.toml")
}

/// A mirror with another address dials its source, says where it is, and is found there. What a person said is kept beside
/// it, and a person can say something else.
async fn moved(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "256M" }).await?;
    let mut b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "256M" }).await?;
    pair(&a, &b, b.link).await?;
    let given = b.link.to_string();
    volume(&a, "one", GROUP).await?;
    a.done("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    let mut host = Host::login(&a, GROUP, 0, 1).await?;
    host.write_some(20).await?;
    drained(&a, &b, GROUP).await?;
    ensure!(peer(&a).await?["learned_address"].is_null(), "it says what a person said: {}", peer(&a).await?);
    b.stop()?;
    moves(&mut b)?;
    b.run().await?;
    host.write_some(20).await?;
    let took = drained(&a, &b, GROUP).await?;
    let known = peer(&a).await?;
    let now = b.link.to_string();
    ensure!(known["address"] == given.as_str() && known["learned_address"] == now.as_str(), "{known}");
    // A wrong word of a person does no harm while the mirror says where it is.
    let out = a.cli(&["peer", "set-address", "b", "127.0.0.1:1"])?;
    ensure!(out.status.success(), "set-address: {}", said(&out));
    b.stop()?;
    b.run().await?;
    host.write_some(20).await?;
    drained(&a, &b, GROUP).await?;
    ensure!(peer(&a).await?["address"] == "127.0.0.1:1", "{}", peer(&a).await?);
    let out = a.cli(&["peer", "set-address", "b"])?;
    ensure!(out.status.success(), "set-address: {}", said(&out));
    let known = peer(&a).await?;
    ensure!(known["address"] == now.as_str() && known["learned_address"].is_null(), "{known}");
    let out = a.cli(&["peer", "set-address", "b", "no such place"])?;
    ensure!(!out.status.success() && said(&out).contains("HOST:PORT"), "{}", said(&out));
    a.stop()?;
    b.stop()?;
    Ok(format!("found at its new address {:.1} s after its start, and told by a person", took.as_secs_f64()))
}

/// The lag after a reconnect is the age of the oldest write that the mirror lacks.
async fn backlog(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::planned(&setup.reprise, dir, &BoxPlan { name: "a", size: "256M" })?;
    // What is written while the mirror is away takes some ten seconds.
    a.add_settings("[limits]\nsend_per_sec = \"24K\"")?;
    a.run().await?;
    let mut b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "256M" }).await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "one", "group": GROUP, "size": 1 << 20, "thin": true })).await?;
    a.done("/api/v1/mirrors", json!({ "group": GROUP, "peer": "b" })).await?;
    until("the copy is complete", async || Ok(a.group(GROUP).await?["state"]["kind"] == "ordered")).await?;
    let mut host = Host::login(&a, GROUP, 0, 1).await?;
    b.kill()?;
    let written = Instant::now();
    for n in 0..60 {
        host.write(n % 200).await?;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    b.run().await?;
    until("the link is up", async || is_up(&a).await).await?;
    let mut looks = 0;
    loop {
        let before = written.elapsed();
        let group = a.group(GROUP).await?;
        let (lag, bytes) = (group["lag_secs"].as_f64().context("lag")?, group["lag_bytes"].as_u64().context("lag")?);
        if bytes == 0 {
            break;
        }
        // The first write is at most so much younger than the clock of this test; the status is not older than a second.
        let least = before.as_secs_f64() - 2.0;
        ensure!(lag >= least, "{bytes} bytes wait, the oldest since {least:.1} s at least, and lag_secs is {lag}");
        looks += 1;
        ensure!(before < Duration::from_secs(60), "{bytes} bytes still wait");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(looks > 5, "the backlog was gone at once: the test tests nothing");
    drained(&a, &b, GROUP).await?;
    a.stop()?;
    b.stop()?;
    Ok(format!("{looks} looks at a backlog, none with a lag that is too short"))
}
