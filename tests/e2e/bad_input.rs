//! What bad input gets: a clear refusal, and the box lives on.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{Data, InitiatorError, LoginOptions, Session};
use reprise_testkit::rng::Rng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::boxes::{Appliance, BoxPlan, pair, until};
use crate::http::Answer;
use crate::{Part, Setup};

/// A daemon that refuses its settings or its pool has said so after this time.
const REFUSAL_SECS_MAX: u64 = 20;

/// Wrong codes that a box listens to before the code it shows is void.
const WRONG_TRIES: u32 = 3;

struct World {
    a: Appliance,
    b: Appliance,
    rng: Rng,
}

macro_rules! parts {
    ($parts:ident, $setup:ident, $world:ident: $($name:literal => $check:ident),* $(,)?) => {
        $(
            let outcome = match $check($setup, &mut $world).await {
                // Whatever came in: the boxes run, and serve.
                Ok(text) => alive(&mut $world).await.map(|()| text),
                failed => failed,
            };
            $parts.push(Part { name: $name, outcome });
        )*
    };
}

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut world = match World::new(setup).await {
        Ok(world) => world,
        Err(error) => return vec![Part { name: "bad input", outcome: Err(error) }],
    };
    parts!(parts, setup, world:
        "a wrong pairing code" => wrong_code,
        "pairing with itself" => itself,
        "both boxes listen" => both_listen,
        "an unknown peer" => unknown_peer,
        "garbage on the link port" => garbage_on_the_link,
        "garbage on the iSCSI port" => garbage_on_iscsi,
        "a flood of strangers" => flood,
        "settings that make no sense" => settings,
        "an address in use" => address_in_use,
        "a second daemon on the same pool" => second_daemon,
        "a pool moved to another box" => moved_pool,
        "duplicate names" => duplicate_names,
        "a volume larger than the pool" => too_large,
        "a peer too small" => peer_too_small,
        "deleting a volume in use" => in_use,
        "a peer that may have no more here" => small_share,
        "a second mirror of the same group" => second_mirror,
        "SCSI commands out of range" => scsi,
        "garbage in the API" => api,
        "an adopted image that shrank" => shrunk,
    );
    parts
}

impl World {
    async fn new(setup: &Setup) -> Result<Self> {
        let a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "a", size: "2G" }).await?;
        let b = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "b", size: "1G" }).await?;
        Ok(Self { a, b, rng: Rng::new(setup.seed) })
    }
}

async fn alive(world: &mut World) -> Result<()> {
    for one in [&mut world.a, &mut world.b] {
        one.still_runs()?;
        one.status().await?;
    }
    Ok(())
}

pub(crate) fn refused(answer: &Answer, codes: &[&str]) -> Result<String> {
    ensure!(codes.contains(&answer.code()), "expected {codes:?}, the answer is {}: {}", answer.status, answer.body);
    let said = answer.body["message"].as_str().unwrap_or_default();
    let what_to_do = answer.body["what_to_do"].as_str().unwrap_or_default();
    ensure!(!said.is_empty() && !what_to_do.is_empty(), "it says too little: {}", answer.body);
    Ok(format!("{}: {said}", answer.code()))
}

async fn offer(one: &Appliance) -> Result<String> {
    let offer = one.done("/api/v1/pairing/listen", json!({})).await?;
    offer["code"].as_str().map(str::to_owned).context("no code in the offer")
}

/// Dials; the refusal may be the answer itself or the outcome in it.
async fn dial(from: &Appliance, to: std::net::SocketAddr, code: &str) -> Result<Answer> {
    let body = json!({ "address": to.to_string(), "code": code });
    let answer = from.post("/api/v1/pairing/dial", body).await?;
    if answer.status < 300 && answer.body["state"]["kind"] == "failed" {
        return Ok(Answer { status: 409, body: answer.body["state"]["error"].clone() });
    }
    Ok(answer)
}

async fn peers(one: &Appliance) -> Result<usize> {
    Ok(one.status().await?["peers"].as_array().map_or(0, Vec::len))
}

async fn wrong_code(_: &Setup, w: &mut World) -> Result<String> {
    let code = offer(&w.b).await?;
    let wrong: String = code
        .chars()
        .map(|c| {
            if c == '1' {
                '2'
            } else if c.is_ascii_digit() {
                '1'
            } else {
                c
            }
        })
        .collect();
    let wrong = if wrong == code { code.chars().rev().collect() } else { wrong };
    let said = refused(&dial(&w.a, w.b.link, &wrong).await?, &["pairing-failed"])?;
    for _ in 1..WRONG_TRIES {
        refused(&dial(&w.a, w.b.link, &wrong).await?, &["pairing-failed"])?;
    }
    // These tries burned the code: guessing has an end.
    refused(&dial(&w.a, w.b.link, &code).await?, &["pairing-failed"]).context("the right code after wrong ones")?;
    ensure!(peers(&w.a).await? + peers(&w.b).await? == 0, "a peer is there although the code was wrong");
    Ok(format!("{said}; {WRONG_TRIES} tries burn the code"))
}

async fn itself(_: &Setup, w: &mut World) -> Result<String> {
    let code = offer(&w.a).await?;
    let said = refused(&dial(&w.a, w.a.link, &code).await?, &["pairing-failed", "bad-request", "wrong-state"])?;
    w.a.post("/api/v1/pairing/cancel", json!({})).await?;
    ensure!(peers(&w.a).await? == 0, "the box is its own peer");
    Ok(said)
}

async fn both_listen(_: &Setup, w: &mut World) -> Result<String> {
    let (_, code) = (offer(&w.a).await?, offer(&w.b).await?);
    let answer = dial(&w.a, w.b.link, &code).await?;
    let said = if answer.status < 300 {
        "whoever dials first pairs".to_owned()
    } else {
        refused(&answer, &["wrong-state", "pairing-failed"])?
    };
    for one in [&w.a, &w.b] {
        one.post("/api/v1/pairing/cancel", json!({})).await?;
    }
    unpair(w).await?;
    Ok(said)
}

/// Both forget each other; whoever has been told already has nothing to forget.
async fn unpair(w: &World) -> Result<()> {
    for (one, peer) in [(&w.a, "b"), (&w.b, "a")] {
        let out = one.act(json!({ "kind": "peer_remove", "peer": peer })).await?;
        ensure!(out.status < 300 || out.code() == "not-found", "remove the peer: {}", out.body);
    }
    Ok(())
}

/// A box that was away while it was forgotten keeps dialling, and is refused.
async fn unknown_peer(_: &Setup, w: &mut World) -> Result<String> {
    pair(&w.a, &w.b, w.b.link).await?;
    w.a.done("/api/v1/volumes", json!({ "name": "lonely", "group": "lonely", "size": "16M" })).await?;
    w.a.stop()?;
    let out = w.b.act(json!({ "kind": "peer_remove", "peer": "a" })).await?;
    ensure!(out.status < 300, "remove the peer: {}", out.body);
    w.a.run().await?;
    let answer = w.a.post("/api/v1/mirrors", json!({ "group": "lonely", "peer": "b" })).await?;
    let said = refused(&answer, &["peer-refused", "peer-unreachable"])?;
    ensure!(w.b.group("lonely").await.is_err(), "the box mirrors a group of a box it does not know");
    unpair(w).await?;
    Ok(said)
}

/// Sends bytes and waits for the end of the connection; true if it came.
async fn throw(address: std::net::SocketAddr, bytes: &[u8]) -> Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    // A box that closes early makes the rest of the write fail, which is what is hoped for.
    let _ = stream.write_all(bytes).await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
    Ok(end.is_ok())
}

fn garbage(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.draw() as u8).collect()
}

async fn garbage_on_the_link(_: &Setup, w: &mut World) -> Result<String> {
    ensure!(throw(w.a.link, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?, "plain HTTP is not turned away");
    for n in 0..40 {
        let len = 1 + w.rng.below(4096) as usize;
        let mut bytes = garbage(&mut w.rng, len);
        if n % 2 == 0 {
            // Begins like a TLS handshake record, as long as it says.
            let len = (bytes.len() as u16).to_be_bytes();
            bytes.splice(..0, [0x16, 3, 1, len[0], len[1]]);
        }
        throw(w.a.link, &bytes).await?;
    }
    // The port is as good as before.
    pair(&w.b, &w.a, w.a.link).await?;
    unpair(w).await?;
    Ok("plain text and 40 pieces of noise are turned away, pairing works afterwards".into())
}

async fn garbage_on_iscsi(_: &Setup, w: &mut World) -> Result<String> {
    w.a.done("/api/v1/volumes", json!({ "name": "disk", "group": "main", "size": "32M" })).await?;
    let mut open = Vec::new();
    for n in 0..60u32 {
        let len = 48 + w.rng.below(2048) as usize;
        let mut bytes = garbage(&mut w.rng, len);
        match n % 3 {
            0 => {}
            // A login request with an absurd length, or with noise for keys.
            1 => bytes.splice(..8, [0x43, 0x87, 0, 0, 0, 0xff, 0xff, 0xff]).for_each(drop),
            _ => bytes.splice(..8, [0x43, 0x87, 0, 0, 0, 0, 1, 0]).for_each(drop),
        }
        let mut stream = TcpStream::connect(w.a.iscsi).await?;
        let _ = stream.write_all(&bytes).await;
        open.push(stream);
    }
    let session = Session::login(w.a.iscsi, &LoginOptions::new(w.a.iqn("main").await?)).await?;
    session.clear_attentions(0).await?;
    session.logout().await?;
    // Whoever does not get through the login in its time is cut.
    let mut rest = Vec::new();
    for (n, stream) in open.iter_mut().enumerate() {
        let end = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        ensure!(end.is_ok(), "a connection of noise stays open, input {n}");
    }
    let unknown = Session::login(w.a.iscsi, &LoginOptions::new("iqn.2001-04.example:none".to_owned())).await;
    let error = unknown.err().context("a login to an unknown target succeeded")?;
    ensure!(matches!(error, InitiatorError::Login { class: 2, detail: 3 }), "unknown target: {error}");
    Ok("60 pieces of noise end their connections only; an unknown target is not found".into())
}

/// Connections of one address that say nothing, more than there are places, renewed all the time.
async fn flood(_: &Setup, w: &mut World) -> Result<String> {
    let knock = async |to| -> Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind("127.0.0.9:0".parse()?)?;
        Ok(socket.connect(to).await?)
    };
    let target = w.a.iqn("main").await?;
    let mut held = Vec::new();
    let mut logins = 0;
    for n in 0..600 {
        held.push(knock(w.a.iscsi).await?);
        held.push(knock(w.a.link).await?);
        if n % 30 == 0 {
            let options = LoginOptions::new(target.clone());
            let login = tokio::time::timeout(Duration::from_secs(5), Session::login(w.a.iscsi, &options)).await;
            login.context("a login hangs")??.logout().await?;
            logins += 1;
        }
    }
    let events = w.a.get("/api/v1/events?limit=1000").await?.body;
    let full: Vec<&str> = events["events"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|e| e["code"] == "strangers-full")
        .filter_map(|e| e["text"].as_str())
        .collect();
    for listener in ["iSCSI", "link"] {
        let told = full.iter().filter(|t| t.starts_with(listener) && t.contains("127.0.0.9")).count();
        ensure!(told == 1, "{told} events name {listener} and the address: {full:?}");
    }
    Ok(format!("{logins} of {logins} hosts got in, and an event each says who floods iSCSI and the link"))
}

/// Starts a daemon that is to refuse, and gives what it said.
pub(crate) async fn refuses_to_start(setup: &Setup, config: &std::path::Path) -> Result<Output> {
    let mut command = Command::new(&setup.reprise);
    command.arg("run").arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    for _ in 0..REFUSAL_SECS_MAX * 20 {
        if child.try_wait()?.is_some() {
            let out = child.wait_with_output()?;
            ensure!(!out.status.success(), "it ended as if all were well");
            ensure!(out.status.code().is_some(), "it crashed: {}", String::from_utf8_lossy(&out.stderr));
            return Ok(out);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    child.kill()?;
    child.wait()?;
    anyhow::bail!("it runs")
}

pub(crate) fn said(out: &Output, word: &str) -> Result<String> {
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find(|l| l.contains(word)).with_context(|| format!("it does not say {word:?}: {text}"))?;
    Ok(line.chars().take(400).collect())
}

async fn settings(setup: &Setup, w: &mut World) -> Result<String> {
    let good = w.a.settings("2G");
    let cases = [
        (good.replace("[iscsi]", "[iscsy]"), "iscsy"),
        (good.replace("size = \"2G\"", "size = \"2X\""), "2X"),
        (good.replace("name = \"a\"", "name = \"A b\""), "A b"),
        (good.replace("[iscsi]", "[iscsi]\ninitiators = [\"bob\"]"), "iscsi.initiators"),
        ("\u{0}\u{1}".to_owned(), "settings"),
    ];
    for (n, (text, word)) in cases.iter().enumerate() {
        let path = setup.dir.join(format!("bad-{n}.toml"));
        std::fs::write(&path, text)?;
        said(&refuses_to_start(setup, &path).await?, word).with_context(|| format!("settings {n}"))?;
    }
    refuses_to_start(setup, &setup.dir.join("none.toml")).await.context("no settings file")?;
    Ok(format!("{} kinds are refused by the name of the key", cases.len()))
}

/// A box of its own whose ports are those of another.
async fn address_in_use(setup: &Setup, w: &mut World) -> Result<String> {
    let dir = setup.dir.join("third");
    std::fs::create_dir_all(&dir)?;
    let mut told = Vec::new();
    for (iscsi, link) in [(w.a.iscsi.to_string(), "127.0.0.1:0".into()), ("127.0.0.1:0".into(), w.a.link.to_string())] {
        let text = format!(
            "name = \"third\"\nstate_dir = \"{0}/state\"\n[pool]\ndir = \"{0}/pool\"\nsize = \"1G\"\n[iscsi]\n\
             listen = [\"{iscsi}\"]\n[link]\nlisten = \"{link}\"\n[api]\nsocket = \"{0}/s\"\n",
            dir.display()
        );
        let path = setup.dir.join("third.toml");
        std::fs::write(&path, text)?;
        told.push(said(&refuses_to_start(setup, &path).await?, "in use")?);
    }
    Ok(told.join("; "))
}

/// Settings that use the pool of `of` under another socket and other ports.
fn other_settings(setup: &Setup, of: &Appliance, state_dir: Option<&str>) -> Result<std::path::PathBuf> {
    let dir = of.dir.display();
    let state = state_dir.map_or_else(|| format!("{dir}/state"), str::to_owned);
    let text = format!(
        "name = \"{}\"\nstate_dir = \"{state}\"\n[pool]\ndir = \"{dir}/pool\"\nsize = \"2G\"\n[iscsi]\n\
         listen = [\"127.0.0.1:0\"]\n[link]\nlisten = \"127.0.0.1:0\"\n[api]\nsocket = \"{}/other\"\n",
        of.name,
        setup.dir.display()
    );
    let path = setup.dir.join("other.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

async fn second_daemon(setup: &Setup, w: &mut World) -> Result<String> {
    let config = other_settings(setup, &w.a, None)?;
    let out = refuses_to_start(setup, &config).await?;
    let same_pool = said(&out, "rror")?;
    // Not even with a state of its own: the pool itself is locked.
    let state = setup.dir.join("other-state");
    let config = other_settings(setup, &w.a, state.to_str())?;
    let out = refuses_to_start(setup, &config).await?;
    said(&out, "rror")?;
    Ok(same_pool)
}

async fn moved_pool(setup: &Setup, w: &mut World) -> Result<String> {
    w.a.stop()?;
    let state = setup.dir.join("foreign-state");
    let config = other_settings(setup, &w.a, state.to_str())?;
    let out = refuses_to_start(setup, &config).await;
    w.a.run().await.context("the box starts with its own pool")?;
    said(&out?, "rror")
}

async fn duplicate_names(_: &Setup, w: &mut World) -> Result<String> {
    let again = json!({ "name": "disk", "group": "main", "size": "16M" });
    let text = refused(&w.a.post("/api/v1/volumes", again).await?, &["name-taken"])?;
    refused(&w.a.post("/api/v1/groups", json!({ "name": "main" })).await?, &["name-taken"])?;
    let out = w.a.cli(&["volume", "create", "disk", "--size", "16M"])?;
    ensure!(out.status.code() == Some(1), "the command line ended with {}", out.status);
    Ok(text)
}

async fn too_large(_: &Setup, w: &mut World) -> Result<String> {
    let huge = json!({ "name": "huge", "group": "main", "size": "900G" });
    refused(&w.a.post("/api/v1/volumes", huge).await?, &["no-space"])
}

async fn peer_too_small(_: &Setup, w: &mut World) -> Result<String> {
    pair(&w.a, &w.b, w.b.link).await?;
    // Larger than the other's data half, not than this one's.
    w.a.done("/api/v1/volumes", json!({ "name": "big", "group": "big", "size": "700M", "thin": true })).await?;
    let answer = w.a.post("/api/v1/mirrors", json!({ "group": "big", "peer": "b" })).await?;
    let text = refused(&answer, &["no-space"])?;
    let out = w.a.act(json!({ "kind": "volume_erase", "volume": "big" })).await?;
    ensure!(out.status < 300, "erase: {}", out.body);
    Ok(text)
}

async fn in_use(_: &Setup, w: &mut World) -> Result<String> {
    let session = Session::login(w.a.iscsi, &LoginOptions::new(w.a.iqn("main").await?)).await?;
    session.clear_attentions(0).await?;
    until("the session is shown", async || {
        let group = w.a.group("main").await?;
        Ok(group["targets"][0]["sessions"].as_array().is_some_and(|s| !s.is_empty()))
    })
    .await?;
    let said = refused(&w.a.act(json!({ "kind": "volume_erase", "volume": "disk" })).await?, &["in-use"])?;
    refused(&w.a.act(json!({ "kind": "volume_remove", "volume": "disk" })).await?, &["in-use"])?;
    session.test_unit_ready(0).await.context("the session of the host")?;
    session.logout().await?;
    Ok(said)
}

/// What a box takes from a peer is said at that box; a refusal is told there, and the peer says why.
async fn small_share(_: &Setup, w: &mut World) -> Result<String> {
    let of = json!({ "group": "main", "peer": "b" });
    let share =
        async |w: &World, share: Value| w.b.done("/api/v1/peers/share", json!({ "peer": "a", "share": share })).await;
    let mut said = String::new();
    let shares = [
        (json!({ "mirrors": false }), "peer-refused"),
        (json!({ "mirrors": true, "groups_max": 0 }), "limit-reached"),
        (json!({ "mirrors": true, "bytes_max": "1M" }), "no-space"),
    ];
    for (less, code) in shares {
        let peer = share(w, less.clone()).await?;
        ensure!(peer["share"]["mirrors"] == less["mirrors"] && peer["mirrored_groups"] == 0, "{peer}");
        said = refused(&w.a.post("/api/v1/mirrors", of.clone()).await?, &[code])?;
    }
    let events = w.b.get("/api/v1/events?limit=100").await?.body;
    let told = events["events"].as_array().map_or(0, |e| e.iter().filter(|e| e["code"] == "mirror-refused").count());
    ensure!(told == 3, "{told} refusals are told: {events}");
    let out = w.b.cli(&["peer", "share", "a", "--groups", "all", "--space", "all", "--json"])?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(said)
}

/// `main` is mirrored; adding the mirror once more, and a copy onto an image that is there, are refused.
async fn second_mirror(_: &Setup, w: &mut World) -> Result<String> {
    let of = json!({ "group": "main", "peer": "b" });
    w.a.done("/api/v1/mirrors", of.clone()).await?;
    refused(&w.a.post("/api/v1/mirrors", of.clone()).await?, &["wrong-state", "name-taken", "image-exists"])?;
    let out = w.a.act(json!({ "kind": "mirror_remove", "group": "main", "peer": "b" })).await?;
    ensure!(out.status < 300, "remove the mirror: {}", out.body);
    refused(&w.a.post("/api/v1/mirrors", of).await?, &["image-exists"]).context("a copy onto an image")
}

async fn scsi(_: &Setup, w: &mut World) -> Result<String> {
    let session = Session::login(w.a.iscsi, &LoginOptions::new(w.a.iqn("main").await?)).await?;
    session.clear_attentions(0).await?;
    let capacity = session.read_capacity(0).await?;
    let sense =
        |outcome: Result<(), InitiatorError>| outcome.err().and_then(|e| e.sense()).map(|s| (s.key, s.asc, s.ascq));
    let block = Bytes::from(vec![1; capacity.block_size as usize]);
    let beyond = session.write(0, capacity.blocks, 1, block.clone()).await;
    ensure!(sense(beyond) == Some((5, 0x21, 0)), "a write behind the end");
    let beyond = session.read(0, u64::MAX, 1, capacity.block_size).await;
    ensure!(sense(beyond.map(drop)) == Some((5, 0x21, 0)), "a read at the largest address");
    let unknown = session.command(0, &[0xff; 16], Data::None).await;
    ensure!(sense(unknown.map(drop)) == Some((5, 0x20, 0)), "an unknown operation code");
    let missing = session.test_unit_ready(77).await;
    ensure!(sense(missing) == Some((5, 0x25, 0)), "a LUN that is not there");
    for _ in 0..500 {
        let mut cdb = [0u8; 16];
        cdb.fill_with(|| w.rng.draw() as u8);
        // Not those that write: the noise must not hit the disk.
        cdb[0] = [0x00, 0x03, 0x12, 0x1a, 0x5a, 0x9e, 0xa0, 0xa3, 0x5e, 0x28, 0x88, 0x25][(cdb[0] % 12) as usize];
        let outcome = session.command(0, &cdb, Data::In(65536)).await;
        ensure!(outcome.as_ref().err().is_none_or(InitiatorError::is_answer), "{cdb:02x?}: {outcome:?}");
    }
    session.logout().await?;
    Ok("sense as the standard has it; 500 random CDBs are all answered".into())
}

async fn api(_: &Setup, w: &mut World) -> Result<String> {
    let bad: [(&str, Value); 5] = [
        ("/api/v1/volumes", json!({ "name": "UPPER", "group": "main", "size": "16M" })),
        ("/api/v1/volumes", json!({ "name": "x", "group": "main", "size": "16M", "colour": "red" })),
        ("/api/v1/volumes", json!({ "name": "x", "group": "main", "size": -1 })),
        ("/api/v1/mirrors", json!([])),
        ("/api/v1/groups", json!({ "name": "../../etc" })),
    ];
    for (path, body) in bad {
        refused(&w.a.post(path, body.clone()).await?, &["bad-request"]).with_context(|| format!("{path} {body}"))?;
    }
    let nowhere = w.a.get("/api/v1/nowhere").await?;
    ensure!(nowhere.status == 404, "an unknown path: {}", nowhere.status);
    refused(&w.a.post("/api/v1/actions/confirm", json!({ "token": "x" })).await?, &["confirmation-unknown"])?;
    refused(&w.a.post("/api/v1/mirrors/pause", json!({ "group": "none", "peer": "b" })).await?, &["not-found"])
}

async fn shrunk(setup: &Setup, w: &mut World) -> Result<String> {
    let image = setup.dir.join("adopted.raw");
    std::fs::write(&image, vec![7u8; 16 << 20])?;
    let adopt = json!({ "name": "adopted", "group": "adopted", "path": image.to_str() });
    w.a.done("/api/v1/volumes/adopt", adopt).await?;
    let target = w.a.iqn("adopted").await?;
    w.a.stop()?;
    std::fs::OpenOptions::new().write(true).open(&image)?.set_len(8 << 20)?;
    w.a.run().await.context("a box with one bad volume starts")?;
    let mut why = String::new();
    until("the volume is known to be missing", async || {
        let state = w.a.get("/api/v1/volumes/show?name=adopted").await?.body["state"].clone();
        why = state["reason"].as_str().unwrap_or_default().to_owned();
        Ok(state["kind"] == "missing")
    })
    .await?;
    let session = Session::login(w.a.iscsi, &LoginOptions::new(w.a.iqn("main").await?)).await?;
    session.clear_attentions(0).await.context("the other group serves")?;
    session.logout().await?;
    // Told that there is no such target, a host would not come again when the image is back.
    let away = Session::login(w.a.iscsi, &LoginOptions::new(target)).await.map(drop);
    ensure!(matches!(away, Err(InitiatorError::Login { class: 3, detail: 1 })), "a login meanwhile: {away:?}");
    Ok(why)
}
