//! Mirrors in both directions: the box that listened for the pairing mirrors to the one that dialled.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::oracle::{FileImage, compare_images};
use serde_json::json;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};
use crate::http::Answer;

const SIZE: u64 = 16 << 20;
/// Groups each box mirrors to the other at the same time.
const GROUPS: usize = 3;
/// Of these one is given more room, one is refused it, at its source and its mirror.
const RESIZED: usize = 1;
const REFUSED: usize = 2;
const MORE: u64 = 8 << 20;
/// Writing so much takes longer than asking for something else, in most rounds.
const LONG: u64 = 96 << 20;
const LONG_ROUNDS: u64 = 4;
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
    let grown = resized_at_once(&a, &b).await?;
    resize_overlapped(&a).await?;
    resize_refused(&a, &b).await?;
    // Removed from both ends at once as well, and quickly.
    let start = std::time::Instant::now();
    let remove = async |from: &Appliance, to: &str| {
        from.act(json!({ "kind": "mirror_remove", "group": format!("{}-g0", from.name), "peer": to })).await
    };
    let (one, two) = tokio::join!(remove(&a, "b"), remove(&b, "a"));
    for done in [one?, two?] {
        ensure!(done.status < 300, "remove the mirror: {}", done.body);
    }
    ensure!(start.elapsed().as_secs() < TIME_MAX_SECS, "removing took {:.1} s", start.elapsed().as_secs_f64());
    // The address that was told survives a restart.
    b.stop()?;
    b.run().await?;
    ensure!(b.status().await?["peers"][0]["address"] == a.link.to_string().as_str(), "forgotten over a restart");
    // So does the mirror that has refused a size.
    drained(&a, &b, &format!("a-g{REFUSED}")).await?;
    no_errors_logged(&[&a, &b], &[])?;
    a.stop()?;
    b.stop()?;
    let (made, grown) = (time.as_secs_f64(), grown.as_secs_f64());
    Ok(format!("{GROUPS} groups each way, all at once, in {made:.1} s, resized in {grown:.1} s"))
}

/// Each box asked the other for room with its own lock held, and both waited for two minutes.
async fn resized_at_once(a: &Appliance, b: &Appliance) -> Result<Duration> {
    let start = Instant::now();
    let resize = async |of: &Appliance| {
        let name = format!("{}-v{RESIZED}", of.name);
        of.done("/api/v1/volumes/resize", json!({ "name": name, "size": SIZE + MORE })).await
    };
    let (one, two) = tokio::join!(resize(a), resize(b));
    one?;
    two?;
    let time = start.elapsed();
    ensure!(time.as_secs() < TIME_MAX_SECS, "resizing took {:.1} s", time.as_secs_f64());
    for (from, to) in [(a, b), (b, a)] {
        let group = format!("{}-g{RESIZED}", from.name);
        drained(from, to, &group).await?;
        for at in [from, to] {
            let home = std::fs::metadata(&at.homes(&group).await?[0])?.len();
            ensure!(home == SIZE + MORE, "the home of {group} at {} has {home} bytes", at.name);
            let size = at.group(&group).await?["volumes"][0]["size_bytes"].clone();
            ensure!(size == SIZE + MORE, "the volume of {group} has {size} bytes at {}", at.name);
        }
    }
    Ok(time)
}

/// A mirror that is added while a volume gets more room would be made with the size of before. The volume may not leave the
/// box: so it is refused in any case, and why tells whether the two have overlapped. Nor may the volume leave its group
/// meanwhile. Whatever else changes the box was held up until all was written, which may take hours.
async fn resize_overlapped(a: &Appliance) -> Result<()> {
    let volume = json!({ "name": "long", "group": "long", "size": SIZE, "local_only": true });
    a.done("/api/v1/volumes", volume).await?;
    for round in 1..=LONG_ROUNDS {
        let size = SIZE + round * LONG;
        let resize = json!({ "name": "long", "size": size });
        let begun = a.post("/api/v1/volumes/resize", resize.clone()).await?;
        ensure!(begun.status < 300, "resize: {}", begun.body);
        let job = begun.body["job"]["id"].as_u64().context("the job of the resize")?;
        let again = a.post("/api/v1/volumes/resize", resize).await?;
        let mirror = a.post("/api/v1/mirrors", json!({ "group": "long", "peer": "b" })).await?;
        let leave = json!({ "action": { "kind": "volume_remove", "volume": "long" } });
        let leave = a.post("/api/v1/actions/preview", leave).await?;
        // Refused for its name by who may change the box.
        let other = a.post("/api/v1/volumes", json!({ "name": "long", "group": "long", "size": SIZE })).await?;
        let show = a.get(&format!("/api/v1/jobs/show?id={job}")).await?.body;
        let writes = show["state"]["kind"] == "running" && show["bytes_done"].as_u64() < show["bytes_total"].as_u64();
        ensure!(mirror.status >= 400 && again.status >= 400, "not refused: {} {}", mirror.body, again.body);
        ensure!(other.body["code"] == "name-taken", "a second volume of the name: {}", other.body);
        a.job(job).await?;
        let grown = a.group("long").await?["volumes"][0]["size_bytes"].clone();
        ensure!(grown == size, "the volume has {grown} bytes");
        let overlapped =
            |refused: &Answer| refused.body["message"].as_str().is_some_and(|why| why.contains("is getting more room"));
        if overlapped(&again) && overlapped(&mirror) && overlapped(&leave) && writes {
            return Ok(());
        }
    }
    bail!("nothing was asked for in time, or something was not refused because of the resize, or waited for all of it")
}

/// A mirror without room refused, the job of the source ended well, and the first write behind the old end broke the mirror.
async fn resize_refused(a: &Appliance, b: &Appliance) -> Result<()> {
    let (name, group) = (format!("a-v{REFUSED}"), format!("a-g{REFUSED}"));
    // A thin volume counts in full, and takes no time to be made.
    b.done("/api/v1/volumes", json!({ "name": "filler", "group": "filler", "size": 8u64 << 30, "thin": true })).await?;
    let resized = a.done("/api/v1/volumes/resize", json!({ "name": name, "size": SIZE + MORE })).await;
    let Err(why) = resized else { bail!("a resize is done that the mirror has no room for") };
    ensure!(format!("{why:#}").contains("peer b refuses"), "the job does not say that the mirror refuses: {why:#}");
    let size = a.group(&group).await?["volumes"][0]["size_bytes"].clone();
    ensure!(size == SIZE, "the volume has {size} bytes although its mirror has refused");
    drained(a, b, &group).await?;
    Ok(())
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
