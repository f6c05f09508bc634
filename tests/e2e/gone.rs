//! What a box says when the other one is gone or has ended a mirror, word by word, and that a preview promises nothing that
//! the next command refuses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use serde_json::{Value, json};

use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};
use crate::images::output;
use crate::{Part, Setup};

const SIZE: u64 = 16 << 20;
/// Two looks at a clock and at a peer that was killed in between.
const CLOCK_MS: u64 = 3_000;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    // One waits for half a minute, until the silence is worth an alert.
    let (silent, previews) = tokio::join!(silent(setup), previews(setup));
    vec![
        Part { name: "a source that is gone", outcome: silent },
        Part { name: "previews and ended mirrors", outcome: previews },
    ]
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// A moment as people are told it, by another program's reckoning.
fn utc(ms: u64) -> Result<String> {
    let text = output("date", &["-u", "-d", &format!("@{}", ms / 1000), "+%F %T UTC"])?;
    Ok(text.trim().to_owned())
}

async fn box_called(setup: &Setup, name: &str) -> Result<Appliance> {
    Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name, size: "1G" }).await
}

async fn mirrored(a: &Appliance, b: &Appliance) -> Result<()> {
    a.done("/api/v1/volumes", json!({ "name": "vol1", "group": "vol1", "size": SIZE, "mirror": b.name })).await?;
    follows(a).await?;
    // Its source knows earlier than the mirror itself that the first copy is at its end.
    let whole = async || Ok(image(b).await?["text"].as_str().is_some_and(|text| !text.contains("first copy")));
    until("the mirror knows its image whole", whole).await.map(drop)
}

async fn follows(a: &Appliance) -> Result<()> {
    until("the mirror follows", async || Ok(a.group("vol1").await?["state"]["kind"] == "ordered")).await.map(drop)
}

async fn image(b: &Appliance) -> Result<Value> {
    Ok(b.group("vol1").await?["image"].clone())
}

/// What the command line prints for people, without its line breaks.
fn printed(one: &Appliance, reprise: &std::path::Path, line: &[&str]) -> Result<String> {
    let output = std::process::Command::new(reprise).arg("--socket").arg(one.socket()).args(line).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" "))
}

fn says(text: &str, words: &[&str]) -> Result<()> {
    words.iter().try_for_each(|w| {
        ensure!(text.contains(w), "it does not say {w:?}: {text}");
        Ok(())
    })
}

fn says_not(text: &str, words: &[&str]) -> Result<()> {
    words.iter().try_for_each(|w| {
        ensure!(!text.contains(w), "it says {w:?}: {text}");
        Ok(())
    })
}

async fn silent(setup: &Setup) -> Result<String> {
    let mut a = box_called(setup, "box-a").await?;
    let mut b = box_called(setup, "box-b").await?;
    pair(&a, &b, b.link).await?;
    mirrored(&a, &b).await?;
    let followed = b.group("vol1").await?;
    ensure!(followed["lag_secs"].is_null() && followed["lag_bytes"].is_null(), "a mirror measures no lag: {followed}");
    ensure!(followed["volumes"][0]["state"]["kind"] == "image", "{followed}");
    says(&followed["image"]["text"].to_string(), &["box-a sends every write of vol1.", "this version cannot serve"])?;
    let listed = b.done("/api/v1/initiators", json!({ "name": "iqn.2026-01.com.example:host" })).await?;
    says(&listed["warnings"].to_string(), &["Group vol1 is served by box-a, and not by this box"])?;
    let before = now_ms();
    let session = Session::login(a.iscsi, &LoginOptions::new(a.iqn("vol1").await?)).await?;
    session.clear_attentions(0).await?;
    session.write(0, 8, 8, Bytes::from(vec![7; 4096])).await?;
    let after = now_ms();
    session.logout().await?;
    drained(&a, &b, "vol1").await?;
    a.kill()?;
    let killed = now_ms();
    until("the silence is told", async || Ok(image(&b).await?["source"] == "silent")).await?;
    let moment = image(&b).await?["moment_unix_ms"].as_u64().context("no moment")?;
    ensure!(
        (before..=after).contains(&moment),
        "the moment {moment} is not that of the last write, {before} to {after}"
    );
    let since = image(&b).await?["silent_since_unix_ms"].as_u64().context("since when?")?;
    ensure!(since.abs_diff(killed) < CLOCK_MS, "silent since {since}, killed at {killed}");
    let text = format!(
        "box-a has been silent since {}. This box holds vol1 as it was at {} by the clock of box-a, when the last write came. \
         THIS VERSION CANNOT SERVE IT: there is no takeover.",
        utc(since)?,
        utc(moment)?
    );
    let what = "Bring box-a back with its disks: it goes on by itself. Until then do not delete, reset or re-pair this box: it may \
                hold the last copy.";
    let told = image(&b).await?;
    ensure!(told["text"] == text.as_str() && told["what_to_do"] == what, "{told}\nexpected {text} {what}");
    let check = async |b: &Appliance| {
        let shown = printed(b, &setup.reprise, &["status"])?;
        says(&shown, &[&text, what])?;
        says_not(&shown, &["ready", "takes the writes", "connecting", " lag "])
    };
    check(&b).await?;
    let alert = async |b: &Appliance| {
        let group = b.group("vol1").await?;
        let alerts = group["alerts"].as_array().context("alerts")?;
        Ok::<_, anyhow::Error>(alerts.iter().find(|a| a["code"] == "source-silent").cloned())
    };
    until("it is an alert", async || Ok(alert(&b).await?.is_some())).await?;
    let found = alert(&b).await?.context("the alert is gone")?;
    ensure!(found["text"] == text.as_str() && found["what_to_do"] == what, "{found}");
    ensure!(found["severity"] != "info", "{found}");
    check(&b).await?;
    // Both go on to say so after box-b was started again, with the same times.
    b.stop()?;
    b.run().await?;
    let again = image(&b).await?["silent_since_unix_ms"].as_u64().context("since when, after a restart?")?;
    ensure!(again.abs_diff(since) < CLOCK_MS, "silent since {since}, and after a restart since {again}");
    ensure!(image(&b).await?["moment_unix_ms"] == moment, "the moment was forgotten over a restart");
    a.run().await?;
    follows(&a).await?;
    until("box-a is heard again", async || Ok(image(&b).await?["source"] == "sends" && alert(&b).await?.is_none()))
        .await?;
    with_another_pool(&mut a, &b).await?;
    a.stop()?;
    b.stop()?;
    no_errors_logged(&[&a, &b], &["source-silent", "peer-other-pool"])?;
    Ok(format!("told word by word, {} ms after its end", since.abs_diff(killed)))
}

/// Box A comes back without its disks. It knows of no mirror, and has ended none.
async fn with_another_pool(a: &mut Appliance, b: &Appliance) -> Result<()> {
    let warned = async || {
        let status = b.status().await?;
        let alerts = status["alerts"].as_array().context("alerts")?;
        Ok::<_, anyhow::Error>(alerts.iter().any(|a| a["code"] == "peer-other-pool" && a["severity"] == "critical"))
    };
    a.stop()?;
    let (pool, away) = (a.dir.join("pool"), a.dir.join("pool-away"));
    std::fs::rename(&pool, &away)?;
    a.run().await?;
    until("the other pool is told", async || warned().await).await?;
    let kept = b.group("vol1").await?;
    ensure!(kept["state"]["kind"] != "ended", "a source without its disks has ended its mirror: {kept}");
    a.stop()?;
    std::fs::remove_dir_all(&pool)?;
    std::fs::rename(&away, &pool)?;
    a.run().await?;
    follows(a).await?;
    until("the pool is back", async || Ok(!warned().await?)).await.map(drop)
}

async fn preview(one: &Appliance, action: &Value) -> Result<(u16, Value)> {
    let answer = one.post("/api/v1/actions/preview", json!({ "action": action })).await?;
    Ok((answer.status, answer.body))
}

/// Has it previewed and done; gives the preview.
async fn act(one: &Appliance, action: &Value) -> Result<Value> {
    let (status, told) = preview(one, action).await?;
    ensure!(status == 200, "{action}: {told}");
    let done = one.act(action.clone()).await?;
    ensure!(done.status < 300, "{action} was promised and is refused: {}", done.body);
    Ok(told)
}

async fn previews(setup: &Setup) -> Result<String> {
    let mut c = box_called(setup, "box-c").await?;
    let mut d = box_called(setup, "box-d").await?;
    pair(&c, &d, d.link).await?;
    mirrored(&c, &d).await?;
    let give_up = json!({ "kind": "group_delete", "group": "vol1" });
    let end = json!({ "kind": "mirror_remove", "group": "vol1", "peer": "box-d" });
    let add = json!({ "group": "vol1", "peer": "box-d" });
    // What cannot be done is not promised, and says what has to come before.
    for (one, action, code, words) in [
        (&d, &give_up, "in-use", "end the mirror on box-c first (reprise mirror remove vol1 --to box-d)"),
        (&c, &give_up, "wrong-state", "mirror"),
        (&d, &json!({ "kind": "volume_erase", "volume": "vol1" }), "wrong-state", "reprise group delete vol1"),
        (&c, &json!({ "kind": "volume_erase", "volume": "vol1" }), "wrong-state", "reprise mirror remove vol1"),
        (&c, &json!({ "kind": "peer_remove", "peer": "box-d" }), "in-use", "reprise mirror remove vol1 --to box-d"),
    ] {
        let (status, refused) = preview(one, action).await?;
        ensure!(status == 409 && refused["code"] == code, "{action} on {}: {status} {refused}", one.name);
        says(&refused["what_to_do"].to_string(), &[words])?;
    }
    let told = act(&c, &end).await?;
    let promised = "before vol1 can be mirrored to box-d again, the image is given up there";
    says(&told.to_string(), &["The image on box-d stays as it is", promised])?;
    let ended = async |d: &Appliance| {
        let group = d.group("vol1").await?;
        Ok::<_, anyhow::Error>((group["state"]["kind"] == "ended").then_some(group))
    };
    until("the mirror has ended", async || Ok(ended(&d).await?.is_some())).await?;
    let group = ended(&d).await?.context("it has ended")?;
    let at = group["state"]["at_unix_ms"].as_u64().context("no time of its end")?;
    ensure!(at.abs_diff(now_ms()) < HEAL_MS, "ended at {at}");
    let shown = printed(&d, &setup.reprise, &["status"])?;
    says(&shown, &[&format!("ended at {}", utc(at)?), "box-c has ended this mirror at"])?;
    says(&shown, &["Keep it, or give it up once nobody needs it: reprise group delete vol1."])?;
    says_not(&shown, &["paused", "ready", "silent"])?;
    // As the preview said: not before the image is given up.
    let refused = c.post("/api/v1/mirrors", add.clone()).await?;
    ensure!(refused.body["code"] == "image-exists", "{}", refused.body);
    says(
        &refused.body["what_to_do"].to_string(),
        &["give the image up on box-d first (reprise group delete vol1, there)"],
    )?;
    let told = act(&d, &give_up).await?;
    says(&told["losses"].to_string(), &["The mirrored image of volume vol1.", "box-c has ended this mirror"])?;
    says_not(&told["losses"].to_string(), &["last copy"])?;
    c.done("/api/v1/mirrors", add.clone()).await?;
    follows(&c).await?;
    // The end that could not be told is heard at the next contact, and lasts.
    d.stop()?;
    until("box-d is away", async || Ok(c.status().await?["peers"][0]["connected"] == false)).await?;
    let told = act(&c, &end).await?;
    says(&told.to_string(), &["box-d cannot be reached: it learns of the end at the next contact."])?;
    d.run().await?;
    until("the end is heard of", async || Ok(ended(&d).await?.is_some())).await?;
    d.stop()?;
    d.run().await?;
    ensure!(ended(&d).await?.is_some(), "forgotten over a restart");
    act(&d, &give_up).await?;
    c.done("/api/v1/mirrors", add).await?;
    follows(&c).await?;
    replaced(setup, &c, &d).await?;
    act(&c, &end).await?;
    act(&c, &json!({ "kind": "volume_erase", "volume": "vol1" })).await?;
    act(&c, &give_up).await?;
    act(&d, &give_up).await?;
    act(&c, &json!({ "kind": "peer_remove", "peer": "box-d" })).await?;
    c.stop()?;
    d.stop()?;
    no_errors_logged(&[&c, &d], &[])?;
    Ok("each preview was followed by what it says".to_owned())
}

const HEAL_MS: u64 = crate::boxes::HEAL_SECS_MAX * 1000;

/// A box that cannot have the mirrors is not promised them, and where only it knows why, nothing has changed.
async fn replaced(setup: &Setup, c: &Appliance, d: &Appliance) -> Result<()> {
    let mut e = box_called(setup, "box-e").await?;
    pair(c, &e, e.link).await?;
    let replace = json!({ "kind": "peer_replace", "peer": "box-d", "with": "box-e" });
    e.done("/api/v1/volumes", json!({ "name": "vol1", "group": "other", "size": SIZE })).await?;
    let refused = c.act(replace.clone()).await?;
    ensure!(refused.body["code"] == "name-taken", "{}", refused.body);
    follows(c).await?;
    ensure!(c.group("vol1").await?["link"]["peer"] == d.name.as_str(), "the mirror moved");
    e.stop()?;
    until("box-e is away", async || {
        let status = c.status().await?;
        let peers = status["peers"].as_array().context("peers")?;
        Ok(peers.iter().any(|p| p["name"] == "box-e" && p["connected"] == false))
    })
    .await?;
    let (status, told) = preview(c, &replace).await?;
    ensure!(status >= 400 && told["code"] == "peer-unreachable", "{status} {told}");
    tokio::time::timeout(Duration::from_secs(60), act(c, &json!({ "kind": "peer_remove", "peer": "box-e" }))).await??;
    Ok(())
}
