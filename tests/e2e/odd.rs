//! Odd surroundings: clocks hours apart, bytes of a newer release, HTTPS by a real client, peers that are replaced, a full
//! file system.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::oracle::{FileImage, compare_images};
use serde_json::{Value, json};

use crate::adopt::is_root;
use crate::bad_input::{refused, refuses_to_start, said};
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair, until};
use crate::images::{output, text};
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    vec![
        Part { name: "clocks hours apart", outcome: clocks(setup).await },
        Part { name: "bytes of a newer release", outcome: newer(setup).await },
        Part { name: "HTTPS by curl", outcome: https(setup).await },
        Part { name: "a peer that is replaced", outcome: replace(setup).await },
        Part { name: "a file system that fills up", outcome: full(setup).await },
    ]
}

async fn write(one: &Appliance, group: &str, at: u64, fill: u8, len: u64) -> Result<()> {
    let session = Session::login(one.iscsi, &LoginOptions::new(one.iqn(group).await?)).await?;
    session.clear_attentions(0).await?;
    let block = u64::from(session.read_capacity(0).await?.block_size);
    for offset in (0..len).step_by(256 << 10) {
        let piece = Bytes::from(vec![fill; 256 << 10]);
        session.write(0, (at + offset) / block, ((256 << 10) / block) as u32, piece).await?;
    }
    session.logout().await?;
    Ok(())
}

async fn same_homes(a: &Appliance, b: &Appliance, group: &str) -> Result<()> {
    let (here, there) = (a.homes(group).await?, b.homes(group).await?);
    let (here, there) = (here.first().context("home")?, there.first().context("home")?);
    let differs = compare_images(&FileImage::open(here)?, &FileImage::open(there)?)?;
    ensure!(differs.is_none(), "homes of {group} differ: {differs:?}");
    Ok(())
}

/// The library that gives a process another wall clock.
fn faketime() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?.flatten().map(|e| e.path());
    let found = folders.map(|f| f.join("faketime/libfaketime.so.1")).find(|p| p.is_file());
    found.context("libfaketime is not installed")
}

/// The mirror lives five hours ahead, then five hours behind: told, and no order or byte depends on it.
async fn clocks(setup: &Setup) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "now", size: "1G" }).await?;
    let mut b = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "later", size: "1G" })?;
    let clock = |offset: &str| {
        Ok::<_, anyhow::Error>(vec![
            ("LD_PRELOAD".to_owned(), text(&faketime()?)?.to_owned()),
            ("FAKETIME".to_owned(), offset.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
        ])
    };
    b.env = clock("+5h")?;
    b.run().await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 16 * MIB })).await?;
    let mut hours = Vec::new();
    let mut offset = async |a: &Appliance, wanted: f64| {
        let mut found = 0.0;
        let seen = until("the offset of the clock is known", async || {
            found = a.status().await?["peers"][0]["clock_offset_secs"].as_f64().context("no offset")? / 3600.0;
            ensure!((found - wanted).abs() < 0.1, "{found} hours");
            Ok(true)
        })
        .await;
        hours.push(format!("{found:.1} h"));
        seen.map(drop)
    };
    offset(&a, 5.0).await?;
    let warned = a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "later" })).await?;
    ensure!(warned["warnings"].to_string().contains("clock"), "mirror add does not warn: {warned}");
    let alert = async |a: &Appliance| {
        let status = a.status().await?;
        Ok::<_, anyhow::Error>(status["alerts"].to_string().contains("clock-offset"))
    };
    ensure!(alert(&a).await?, "no alert");
    write(&a, "main", 0, 1, 4 * MIB).await?;
    drained(&a, &b, "main").await?;
    // The clock of the mirror jumps by ten hours, backwards; then the one of the source, to and fro.
    b.stop()?;
    b.env = clock("-5h")?;
    b.run().await?;
    write(&a, "main", 4 * MIB, 2, 4 * MIB).await?;
    drained(&a, &b, "main").await?;
    for back_or_forth in ["-7h", "+9h"] {
        a.kill()?;
        a.env = clock(back_or_forth)?;
        a.run().await?;
        write(&a, "main", 6 * MIB, back_or_forth.len() as u8, 4 * MIB).await?;
        drained(&a, &b, "main").await?;
        let lag = a.group("main").await?["lag_secs"].as_f64().context("lag")?;
        ensure!(lag < 60.0, "the lag shows the difference of the clocks: {lag} s");
    }
    offset(&a, -14.0).await?;
    same_homes(&a, &b, "main").await?;
    a.stop()?;
    a.env.clear();
    b.stop()?;
    b.env.clear();
    a.run().await?;
    b.run().await?;
    write(&a, "main", 0, 9, MIB).await?;
    drained(&a, &b, "main").await?;
    same_homes(&a, &b, "main").await?;
    offset(&a, 0.0).await?;
    until("the alert is gone", async || Ok(!alert(&a).await?)).await?;
    a.stop()?;
    b.stop()?;
    no_errors_logged(&[&a, &b], &[])?;
    Ok(format!("clocks {} apart: told, both homes equal", hours.join(", ")))
}

/// Sets the version of a block and its checksum: what a newer release would have written.
fn patch(file: &Path, at: u64, len: usize, checksum_at: usize) -> Result<Vec<u8>> {
    let disk = OpenOptions::new().read(true).write(true).open(file)?;
    let mut before = vec![0u8; len];
    disk.read_exact_at(&mut before, at)?;
    let mut after = before.clone();
    after[4..6].copy_from_slice(&2u16.to_le_bytes());
    after[checksum_at..checksum_at + 4].fill(0);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &after) as u32;
    after[checksum_at..checksum_at + 4].copy_from_slice(&crc.to_le_bytes());
    disk.write_all_at(&after, at)?;
    disk.sync_all()?;
    Ok(before)
}

/// A group's superblock of a newer release: the group does not start, says why, and another group serves. A segment of
/// one: whose it is cannot be known, so the box does not start. Nothing is changed; put back, everything is there.
async fn newer(setup: &Setup) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "newer", size: "1G" }).await?;
    for group in ["old", "other"] {
        a.done("/api/v1/volumes", json!({ "name": format!("{group}-v"), "group": group, "size": 16 * MIB })).await?;
        write(&a, group, 0, 5, 4 * MIB).await?;
    }
    a.kill()?;
    a.run().await?;
    let status = a.status().await?;
    let cache = PathBuf::from(status["box"]["pool"]["cache_path"].as_str().context("cache")?);
    let segment = status["box"]["pool"]["segment_bytes"].as_u64().context("segment")?;
    let segments = status["box"]["pool"]["segments_total"].as_u64().context("segments")?;
    let group = hex::decode(a.group("old").await?["id"].as_str().context("id")?)?;
    write(&a, "old", 8 * MIB, 6, MIB).await?;
    a.kill()?;

    let disk = OpenOptions::new().read(true).open(&cache)?;
    let mut head = [0u8; 512];
    // docs/formats.md: segments from 16 MiB on, the group at byte 24; group superblocks at 1 MiB + slot x 256 KiB.
    let mut newest = None;
    for at in (0..segments).map(|n| (16 << 20) + n * segment) {
        disk.read_exact_at(&mut head, at)?;
        let generation = u64::from_le_bytes(head[64..72].try_into()?);
        if head.starts_with(b"rpSG") && head[24..40] == group[..] && newest.is_none_or(|(g, _)| generation > g) {
            newest = Some((generation, at));
        }
    }
    let (_, segment_at) = newest.context("a segment of the group")?;
    let mut superblocks = Vec::new();
    for copy in (0..32 * 4u64).map(|n| (1 << 20) + n * (64 << 10)) {
        disk.read_exact_at(&mut head, copy)?;
        let body = u32::from_le_bytes(head[32..36].try_into()?) as usize;
        // Tag 1 of the body: the group's identity.
        if head.starts_with(b"rpSB") && head[66..82] == group[..] {
            superblocks.push((copy, 64 + body));
        }
    }
    ensure!(superblocks.len() == 4, "{} copies of the group's superblock", superblocks.len());
    let restore = |at: u64, bytes: &[u8]| {
        let disk = OpenOptions::new().write(true).open(&cache)?;
        disk.write_all_at(bytes, at)?;
        disk.sync_all()
    };
    let before = patch(&cache, segment_at, 512, 508)?;
    let whole = checksum_of(&cache, &group)?;
    let refusal = said(&refuses_to_start(setup, &a.config()).await?, "install the release that wrote it")?;
    ensure!(checksum_of(&cache, &group)? == whole, "something of the group was changed");
    restore(segment_at, &before)?;

    let (at, len) = superblocks[0];
    let before = patch(&cache, at, len, 60)?;
    let whole = checksum_of(&cache, &group)?;
    a.run().await.context("a box with one group of a newer release starts")?;
    let groups = a.status().await?["groups"].clone();
    let bad = groups.as_array().and_then(|g| g.iter().find(|g| g["name"] != "other")).cloned().context("group")?;
    let reason = bad["state"]["reason"].as_str().unwrap_or_default();
    ensure!(bad["state"]["kind"] == "fenced" && reason.contains("install the release that wrote it"), "{bad}");
    write(&a, "other", 0, 8, MIB).await.context("the other group serves")?;
    a.stop()?;
    ensure!(checksum_of(&cache, &group)? == whole, "something of the group was changed");
    restore(at, &before)?;
    a.run().await?;
    let session = Session::login(a.iscsi, &LoginOptions::new(a.iqn("old").await?)).await?;
    session.clear_attentions(0).await?;
    let block = session.read_capacity(0).await?.block_size;
    for (at, fill) in [(0, 5), (8 * MIB, 6)] {
        let bytes = session.read(0, at / u64::from(block), (MIB / u64::from(block)) as u32, block).await?;
        ensure!(bytes.len() as u64 == MIB && bytes.iter().all(|b| *b == fill), "not what was written at {at}");
    }
    session.logout().await?;
    a.stop()?;
    no_errors_logged(&[&a], &["group-not-started"])?;
    Ok(format!("{reason}; {refusal}"))
}

/// Over the superblocks and segments of a group.
fn checksum_of(cache: &Path, group: &[u8]) -> Result<u64> {
    let bytes = std::fs::read(cache)?;
    let mut of_group = Vec::new();
    for piece in bytes.chunks(64 << 10) {
        let head = piece.get(..96).unwrap_or_default();
        if head.windows(16).any(|w| w == group) {
            of_group.extend_from_slice(piece);
        }
    }
    Ok(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, &of_group))
}

/// Status and JSON body of a call by curl, which checks the box's certificate.
fn curl(one: &Appliance, url: &str, token: Option<&str>, post: Option<&Value>) -> Result<(u16, Value)> {
    let port = url.rsplit(':').next().context("port")?;
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]);
    command.args(["--cacert", text(&one.dir.join("state/https-cert.pem"))?]);
    command.args(["--resolve", &format!("localhost:{port}:127.0.0.1")]);
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let path = match post {
        Some(body) => {
            command.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
            "/api/v1/groups"
        }
        None => "/api/v1/status",
    };
    let out = command.arg(format!("https://localhost:{port}{path}")).output().context("start curl")?;
    ensure!(out.status.success(), "curl: {}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout)?;
    let (body, status) = said.rsplit_once('\n').context("status of the answer")?;
    Ok((status.parse()?, serde_json::from_str(body).unwrap_or(Value::Null)))
}

async fn https(setup: &Setup) -> Result<String> {
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "https", size: "1G" })?;
    a.add_settings("https = \"127.0.0.1:0\"")?;
    a.run().await?;
    let token = async |rights: &str| {
        let made = a.done("/api/v1/tokens", json!({ "label": rights, "rights": rights })).await?;
        let id = made["info"]["id"].as_str().or(made["id"].as_str()).map(str::to_owned);
        Ok::<_, anyhow::Error>((made["token"].as_str().context("token")?.to_owned(), id.context("id of the token")?))
    };
    let (admin, _) = token("admin").await?;
    let (reader, reader_id) = token("read-only").await?;
    // The local socket answers before HTTPS does.
    until("HTTPS is served", async || Ok(a.status().await?["box"]["endpoints"]["https"].is_string())).await?;
    let endpoints = a.status().await?["box"]["endpoints"].clone();
    let url = endpoints["https"].as_str().context("https")?;
    let make = json!({ "name": "by-curl" });
    let ask = |token: Option<&str>, post: Option<&Value>| curl(&a, url, token, post);
    let mut wrong = reader.clone();
    let last = if wrong.pop() == Some('0') { '1' } else { '0' };
    wrong.push(last);
    for token in [None, Some(wrong.as_str()), Some("x")] {
        for post in [None, Some(&make)] {
            let (status, body) = ask(token, post)?;
            ensure!(status == 401 && body["code"] == "unauthorized", "{token:?}: {status} {body}");
        }
    }
    let (status, body) = ask(Some(&reader), None)?;
    ensure!(status == 200 && body["box"]["name"] == "https", "read-only looks: {status} {body}");
    let (status, body) = ask(Some(&reader), Some(&make))?;
    ensure!(status == 403 && body["code"] == "forbidden", "read-only changes: {status} {body}");
    let (status, body) = ask(Some(&admin), Some(&make))?;
    ensure!(status == 200 && body["name"] == "by-curl", "admin: {status} {body}");
    a.done("/api/v1/tokens/revoke", json!({ "id": reader_id })).await?;
    let (status, _) = ask(Some(&reader), None)?;
    ensure!(status == 401, "a revoked token: {status}");
    // The command line, by the fingerprint; and by a wrong one.
    let good = endpoints["https_fingerprint"].as_str().context("fingerprint")?;
    for (fingerprint, works) in [(good.to_owned(), true), ("0".repeat(64), false)] {
        let mut command = Command::new(&setup.reprise);
        command.args(["--url", url, "--token", &admin, "--fingerprint", &fingerprint, "--json", "status"]);
        let out = command.output()?;
        ensure!(out.status.success() == works, "fingerprint {fingerprint}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let log = a.log();
    ensure!(!log.contains(&admin) && !log.contains(&reader), "a token stands in the log");
    ensure!(log.lines().any(|l| l.contains("audit") && l.contains("refused")), "no refusal in the audit log");
    a.stop()?;
    no_errors_logged(&[&a], &[])?;
    Ok("no, wrong, revoked token: 401; read-only looks and does not change; the certificate is checked".into())
}

/// The mirror is gone for good: another box takes its place with a first copy, and the old one is a stranger.
async fn replace(setup: &Setup) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "keeper", size: "1G" }).await?;
    let mut gone = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "gone", size: "1G" }).await?;
    let mut spare = Appliance::start(&setup.reprise, &setup.dir, &BoxPlan { name: "spare", size: "1G" }).await?;
    pair(&a, &gone, gone.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 16 * MIB })).await?;
    write(&a, "main", 0, 3, 4 * MIB).await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "gone" })).await?;
    drained(&a, &gone, "main").await?;
    refused(&a.act(json!({ "kind": "peer_remove", "peer": "gone" })).await?, &["in-use"])?;
    refused(&gone.act(json!({ "kind": "peer_remove", "peer": "keeper" })).await?, &["in-use"])?;
    let itself = json!({ "kind": "peer_replace", "peer": "gone", "with": "gone" });
    refused(&a.act(itself).await?, &["wrong-state"])?;
    let unknown = json!({ "kind": "peer_replace", "peer": "gone", "with": "nobody" });
    refused(&a.act(unknown).await?, &["not-found"])?;
    gone.kill()?;
    write(&a, "main", 4 * MIB, 4, 4 * MIB).await?;
    pair(&a, &spare, spare.link).await?;
    until("the spare box is there", async || {
        let peers = a.status().await?["peers"].clone();
        Ok(peers.as_array().is_some_and(|p| p.iter().any(|p| p["name"] == "spare" && p["connected"] == true)))
    })
    .await?;
    let done = a.act(json!({ "kind": "peer_replace", "peer": "gone", "with": "spare" })).await?;
    ensure!(done.status < 300, "replace: {}", done.body);
    drained(&a, &spare, "main").await?;
    same_homes(&a, &spare, "main").await?;
    let peers = a.status().await?["peers"].clone();
    let names: Vec<&str> = peers.as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    ensure!(names == ["spare"], "peers are {names:?}");
    // The old one comes back: it is not known any more, and its image is its own.
    gone.run().await?;
    write(&a, "main", 8 * MIB, 5, MIB).await?;
    drained(&a, &spare, "main").await?;
    let old = gone.group("main").await?;
    ensure!(old["role"] == "mirror" && old["state"]["kind"] != "ordered", "the old mirror: {old}");
    // Its group is of another pair now: the source cannot use it as a mirror again while the image is there.
    let out = gone.act(json!({ "kind": "group_delete", "group": "main" })).await?;
    ensure!(out.status < 300, "give the image up: {}", out.body);
    let out = gone.act(json!({ "kind": "peer_remove", "peer": "keeper" })).await?;
    ensure!(out.status < 300, "forget the old peer: {}", out.body);
    // And the mirror is ended in order.
    let out = a.act(json!({ "kind": "mirror_remove", "group": "main", "peer": "spare" })).await?;
    ensure!(out.status < 300, "remove the mirror: {}", out.body);
    let out = spare.act(json!({ "kind": "group_delete", "group": "main" })).await?;
    ensure!(out.status < 300, "give the image up: {}", out.body);
    let out = a.act(json!({ "kind": "peer_remove", "peer": "spare" })).await?;
    ensure!(out.status < 300, "remove the peer: {}", out.body);
    until("both have forgotten each other", async || {
        Ok(a.status().await?["peers"] == json!([]) && spare.status().await?["peers"] == json!([]))
    })
    .await?;
    for one in [&mut a, &mut gone, &mut spare] {
        one.stop()?;
    }
    no_errors_logged(&[&a, &gone, &spare], &[])?;
    Ok("a first copy to the new box, the old one is a stranger; peers are removed in order".into())
}

/// A mounted file system of its own.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(at) = self.0.to_str() {
            let _ = output("umount", &["--lazy", at]);
        }
    }
}

/// Something else fills the file system of the pool while hosts write: they wait or are served, no group is fenced, and
/// with room everything goes on.
async fn full(setup: &Setup) -> Result<String> {
    if !is_root()? {
        return Ok("NOT RUN: needs root to mount a small file system".into());
    }
    let (image, at) = (setup.dir.join("small.img"), setup.dir.join("small"));
    std::fs::create_dir_all(&at)?;
    std::fs::File::create(&image)?.set_len(320 * MIB)?;
    output("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)?])?;
    output("mount", &["-o", "loop", text(&image)?, text(&at)?])?;
    let _mounted = Mounted(at.clone());
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "full", size: "1G" })?;
    a.set_pool(&format!("dir = \"{}/pool\"\nsize = \"256M\"", at.display()))?;
    a.run().await?;
    a.done("/api/v1/volumes", json!({ "name": "v", "group": "main", "size": 64 * MIB })).await?;
    write(&a, "main", 0, 1, 4 * MIB).await?;
    let ballast = at.join("ballast");
    let file = OpenOptions::new().create_new(true).write(true).open(&ballast)?;
    let piece = vec![1u8; MIB as usize];
    let mut filled = 0;
    while filled < 320 * MIB && file.write_all_at(&piece, filled).is_ok() {
        filled += MIB;
    }
    let _ = file.sync_all();
    // More than the cache has segments that were written before: those are used again and again.
    write(&a, "main", 0, 2, 60 * MIB).await.context("hosts write on a full file system")?;
    let group = a.group("main").await?;
    ensure!(group["state"]["kind"] == "alone" || group["state"]["kind"] == "cache_full", "{}", group["state"]);
    refused(
        &a.post("/api/v1/volumes", json!({ "name": "w", "group": "main", "size": 32 * MIB })).await?,
        &["no-space"],
    )?;
    a.kill()?;
    a.run().await.context("a start on a full file system")?;
    write(&a, "main", 0, 3, 8 * MIB).await?;
    std::fs::remove_file(&ballast)?;
    write(&a, "main", 8 * MIB, 4, 32 * MIB).await?;
    let session = Session::login(a.iscsi, &LoginOptions::new(a.iqn("main").await?)).await?;
    session.clear_attentions(0).await?;
    let block = session.read_capacity(0).await?.block_size;
    for (offset, fill) in [(0, 3), (7 * MIB, 3), (8 * MIB, 4), (39 * MIB, 4), (40 * MIB, 2), (59 * MIB, 2)] {
        let bytes = session.read(0, offset / u64::from(block), (MIB / u64::from(block)) as u32, block).await?;
        if bytes.iter().any(|b| *b != fill) {
            bail!("not what was written at {} MiB", offset / MIB);
        }
    }
    session.logout().await?;
    a.stop()?;
    ensure!(!a.log().contains("fenced"), "a group was fenced");
    Ok(format!("{} MiB of something else, 60 MiB written meanwhile through a few segments", filled / MIB))
}
