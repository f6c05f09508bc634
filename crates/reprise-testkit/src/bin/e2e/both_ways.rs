//! Mirrors in both directions: the box that listened for the pairing mirrors to the one that dialled.

use anyhow::{Result, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::oracle::{FileImage, compare_images};
use serde_json::json;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};

const SIZE: u64 = 16 << 20;
/// Groups each box mirrors to the other at the same time.
const GROUPS: usize = 3;
/// Two boxes that waited for each other would do so for 45 s.
const TIME_MAX_SECS: u64 = 20;

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "a", size: "1G" }).await?;
    let mut b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "b", size: "1G" }).await?;
    // Both listen on ports of their own; only `a` is told where the other is.
    pair(&a, &b, b.link).await?;
    until("b knows where a is dialled", async || {
        Ok(b.status().await?["peers"][0]["address"] == a.link.to_string().as_str())
    })
    .await?;
    for n in 0..GROUPS {
        for one in [&a, &b] {
            let volume = format!("{}-v{n}", one.name);
            let group = format!("{}-g{n}", one.name);
            one.done("/api/v1/volumes", json!({ "name": volume, "group": group, "size": SIZE })).await?;
        }
    }
    // All at once, in both directions.
    let start = std::time::Instant::now();
    let add = async |from: &Appliance, to: &str, n: usize| {
        let group = format!("{}-g{n}", from.name);
        from.done("/api/v1/mirrors", json!({ "group": group, "peer": to })).await
    };
    let (one, two, three) = tokio::join!(both(&a, &b, 0, &add), both(&a, &b, 1, &add), both(&a, &b, 2, &add));
    one?;
    two?;
    three?;
    let time = start.elapsed();
    ensure!(time.as_secs() < TIME_MAX_SECS, "it took {:.1} s", time.as_secs_f64());
    for (from, to) in [(&a, &b), (&b, &a)] {
        for n in 0..GROUPS {
            let group = format!("{}-g{n}", from.name);
            let session = Session::login(from.iscsi, &LoginOptions::new(from.iqn(&group).await?)).await?;
            session.clear_attentions(0).await?;
            let capacity = session.read_capacity(0).await?;
            let count = 65536 / capacity.block_size;
            session.write(0, 8, count, Bytes::from(vec![n as u8 + 1; 65536])).await?;
            session.logout().await?;
            drained(from, to, &group).await?;
            let (here, there) = (from.homes(&group).await?, to.homes(&group).await?);
            let differs = compare_images(&FileImage::open(&here[0])?, &FileImage::open(&there[0])?)?;
            ensure!(differs.is_none(), "homes of {group} differ: {differs:?}");
        }
    }
    // Removed from both ends at once as well, and quickly.
    let start = std::time::Instant::now();
    let remove = async |from: &Appliance, to: &str| {
        from.act(json!({ "kind": "mirror_remove", "group": format!("{}-g0", from.name), "peer": to })).await
    };
    let (one, two) = tokio::join!(remove(&a, "b"), remove(&b, "a"));
    for done in [one?, two?] {
        ensure!(done.status < 300, "remove the mirror: {}", done.body);
    }
    ensure!(start.elapsed().as_secs() < 5, "removing took {:.1} s", start.elapsed().as_secs_f64());
    // The address that was told survives a restart.
    b.stop()?;
    b.run().await?;
    ensure!(b.status().await?["peers"][0]["address"] == a.link.to_string().as_str(), "forgotten over a restart");
    no_errors_logged(&[&a, &b], &[])?;
    a.stop()?;
    b.stop()?;
    Ok(format!("{GROUPS} groups each way, all at once, in {:.1} s", time.as_secs_f64()))
}

async fn both(
    a: &Appliance,
    b: &Appliance,
    n: usize,
    add: &impl AsyncFn(&Appliance, &str, usize) -> Result<serde_json::Value>,
) -> Result<()> {
    let (one, two) = tokio::join!(add(a, "b", n), add(b, "a", n));
    one?;
    two?;
    Ok(())
}
