//! `reprise torture`, as users run it: on a pair of its own, and on a volume of theirs.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, no_errors_logged, pair};
use crate::faults::{Host, said};

fn report(out: &Output) -> Result<Value> {
    ensure!(out.status.success(), "it ended with {}: {}", out.status, said(out));
    let text = String::from_utf8_lossy(&out.stdout);
    let report: Value = serde_json::from_str(text.lines().last().context("no report")?)?;
    ensure!(report["passed"] == true && report["acknowledged"].as_u64() > Some(50), "{report}");
    Ok(report)
}

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    // A pair of its own.
    let (seed, dir) = (setup.seed.to_string(), setup.dir.join("pair"));
    let mut command = Command::new(&setup.reprise);
    command.args(["--json", "torture", "--minutes", "0.4", "--seed", &seed, "--dir"]).arg(&dir).stdin(Stdio::null());
    let own = report(&tokio::task::block_in_place(|| command.output()).context("start the torture")?)?;
    let count = |name: &str| own[name].as_u64().unwrap_or_default();
    let blows = count("source_kills") + count("mirror_kills") + count("cuts");
    ensure!(blows >= 3 && own["seed"] == setup.seed && count("source_seq") == count("mirror_seq"), "{own}");

    // A user's volume, mirrored.
    let a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "a", size: "512M" }).await?;
    let b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "b", size: "512M" }).await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "scratch", "group": "main", "size": 24 << 20 })).await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "b" })).await?;
    Host::login(&a, "main", 0, 1).await?.write_some(1).await?;
    let on = |more: &[&str]| {
        let mut line = vec!["torture", "--minutes", "0.15", "--seed", &seed, "--volume", "scratch"];
        line.extend_from_slice(more);
        tokio::task::block_in_place(|| a.cli(&line))
    };
    let refused = on(&[])?;
    ensure!(refused.status.code() == Some(1) && said(&refused).contains("not empty"), "{}", said(&refused));
    let refused = on(&["--destroy", "other"])?;
    ensure!(refused.status.code() == Some(2), "another name is taken: {}", said(&refused));
    let theirs = report(&on(&["--destroy", "scratch"])?)?;
    ensure!(theirs["cuts"].as_u64() > Some(0), "nothing happened to it: {theirs}");
    no_errors_logged(&[&a, &b], &[])?;
    let (mut a, mut b) = (a, b);
    a.stop()?;
    b.stop()?;
    Ok(format!(
        "own pair: {} blocks acknowledged, {blows} blows, {} images an exact prefix; a user's volume: {} blocks, {} pauses, \
         refused while it was not empty; seed {seed}",
        count("acknowledged"),
        count("mirror_images"),
        theirs["acknowledged"],
        theirs["cuts"]
    ))
}
