//! Disks that fail under a real daemon: what hosts get, what people are told, and what is there afterwards.
//!
//! The faults are injected into the daemon's own disk layer, which a build with the feature `test-faults` has.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use reprise_testkit::initiator::{InitiatorError, LoginOptions, Session};
use reprise_testkit::oracle::{OpId, stamp};
use reprise_testkit::rng::Rng;
use serde_json::{Value, json};

use crate::boxes::{Appliance, BoxPlan, drained, pair, position, until};
use crate::{Part, Setup};

/// Sectors of a write of these tests.
const BLOCK: u32 = 8;
/// Bytes of the volumes.
const VOLUME: u64 = 24 << 20;
const EIO: i32 = 5;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    macro_rules! part {
        ($name:literal, $check:ident) => {
            let dir = setup.dir.join(stringify!($check));
            let outcome = $check(setup, &dir).await;
            parts.push(Part { name: $name, outcome });
        };
    }
    part!("a journal that cannot be written", journal);
    part!("unfence refuses what is lost", unfence_refuses);
    part!("a home that cannot be written", home);
    part!("a mirror that fails", mirror);
    part!("what cannot be read", reads);
    part!("out of descriptors", descriptors);
    part!("a slow disk and little memory", slow);
    parts
}

/// One host with one session: what it has written and what was acknowledged.
pub(crate) struct Host {
    session: Session,
    lun: u16,
    writer: u32,
    next: u64,
    rng: Rng,
    /// Content by block: all that was acknowledged last, and what was tried after it without an answer.
    pub(crate) acked: BTreeMap<u64, Bytes>,
    tried: BTreeMap<u64, Vec<Bytes>>,
    /// Blocks in the order in which they were acknowledged.
    pub(crate) order: Vec<u64>,
}

impl Host {
    pub(crate) async fn login(of: &Appliance, group: &str, lun: u16, writer: u32) -> Result<Self> {
        let session = login(of, group, lun, writer).await?;
        let (acked, tried, order) = Default::default();
        Ok(Self { session, lun, writer, next: 0, rng: Rng::new(u64::from(writer)), acked, tried, order })
    }

    pub(crate) async fn again(&mut self, of: &Appliance, group: &str) -> Result<()> {
        self.session = login(of, group, self.lun, self.writer).await?;
        Ok(())
    }

    fn payload(&mut self, block: u64) -> Bytes {
        let id = OpId { writer: self.writer, op: self.next };
        self.next += 1;
        Bytes::from(stamp::payload(id, self.lun, block * u64::from(BLOCK), BLOCK))
    }

    /// Writes a block; what was not acknowledged may be there or not.
    pub(crate) async fn write(&mut self, block: u64) -> Result<(), InitiatorError> {
        let data = self.payload(block);
        let result = self.session.write(self.lun, block * u64::from(BLOCK), BLOCK, data.clone()).await;
        match result {
            Ok(()) => {
                self.tried.remove(&block);
                self.acked.insert(block, data);
                self.order.push(block);
            }
            Err(_) => self.tried.entry(block).or_default().push(data),
        }
        result
    }

    /// Writes so many random blocks, one after the other.
    pub(crate) async fn write_some(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            let block = self.rng.below(VOLUME / 512 / u64::from(BLOCK));
            self.write(block).await.context("a write")?;
        }
        Ok(())
    }

    pub(crate) async fn read(&self, block: u64) -> Result<Bytes, InitiatorError> {
        self.session.read(self.lun, block * u64::from(BLOCK), BLOCK, 512).await
    }

    /// Everything acknowledged reads back, or something that was tried after it.
    pub(crate) async fn check(&self) -> Result<usize> {
        for (block, data) in &self.acked {
            let found = self.read(*block).await.with_context(|| format!("read block {block}"))?;
            let later = self.tried.get(block).is_some_and(|t| t.contains(&found));
            ensure!(found == *data || later, "block {block} does not hold what was acknowledged");
        }
        Ok(self.acked.len())
    }
}

pub(crate) async fn login(of: &Appliance, group: &str, lun: u16, writer: u32) -> Result<Session> {
    let iqn = of.iqn(group).await?;
    let options = LoginOptions { isid: writer as u16, ..LoginOptions::new(iqn) };
    let mut session = None;
    until("a login", async || {
        session = Some(Session::login(of.iscsi, &options).await?);
        Ok(true)
    })
    .await?;
    let session = session.context("no session")?;
    session.clear_attentions(lun).await?;
    Ok(session)
}

/// Sets the faults of a group's disks, and waits until its thread has seen them.
pub(crate) async fn fail(of: &Appliance, group: &str, rules: &str) -> Result<()> {
    of.set_faults(group, rules)?;
    tokio::time::sleep(Duration::from_millis(150)).await;
    Ok(())
}

/// The sense key and code of a refusal.
fn sense<T>(result: Result<T, InitiatorError>) -> Result<(u8, u8, u8)> {
    match result {
        Ok(_) => bail!("the command was carried out"),
        Err(error) => {
            let s = error.sense().with_context(|| format!("no sense: {error}"))?;
            Ok((s.key, s.asc, s.ascq))
        }
    }
}

async fn in_state(of: &Appliance, group: &str, kind: &str) -> Result<Value> {
    let mut last = Value::Null;
    until(&format!("group {group} is {kind}"), async || {
        last = of.group(group).await?;
        if last["state"]["kind"] == kind { Ok(true) } else { bail!("it is {}", last["state"]) }
    })
    .await?;
    Ok(last)
}

/// The alert with a code, which must say what to do.
async fn alert(of: &Appliance, group: &str, code: &str) -> Result<Value> {
    let mut found = Value::Null;
    until(&format!("alert {code}"), async || {
        let group = of.group(group).await?;
        let alerts = group["alerts"].as_array().context("alerts")?;
        found = alerts.iter().find(|a| a["code"] == code).cloned().unwrap_or_default();
        Ok(found.is_object())
    })
    .await?;
    ensure!(found["what_to_do"].as_str().is_some_and(|w| !w.is_empty()), "no advice: {found}");
    Ok(found)
}

async fn no_alert(of: &Appliance, group: &str, code: &str) -> Result<()> {
    until(&format!("alert {code} is cleared"), async || {
        let group = of.group(group).await?;
        Ok(group["alerts"].as_array().is_some_and(|a| a.iter().all(|a| a["code"] != code)))
    })
    .await
    .map(drop)
}

/// What a command line printed, for messages.
pub(crate) fn said(out: &Output) -> String {
    format!("{} {}", String::from_utf8_lossy(&out.stdout).trim(), String::from_utf8_lossy(&out.stderr).trim())
}

pub(crate) async fn volume(of: &Appliance, name: &str, group: &str) -> Result<()> {
    of.done("/api/v1/volumes", json!({ "name": name, "group": group, "size": VOLUME })).await.map(drop)
}

/// Where bytes lie in a file.
pub(crate) fn find(path: &Path, bytes: &[u8]) -> Result<Vec<u64>> {
    let whole = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let step = 512;
    let hits = (0..whole.len().saturating_sub(bytes.len())).step_by(step);
    Ok(hits.filter(|at| whole[*at..].starts_with(bytes)).map(|at| at as u64).collect())
}

/// Flips one bit of a file.
pub(crate) fn flip(path: &Path, at: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 0x10], at)?;
    file.sync_all()?;
    Ok(())
}

pub(crate) fn cache_of(of: &Appliance) -> PathBuf {
    of.dir.join("pool/cache")
}

/// A failed write, then a failed sync: the group is fenced, another goes on, and unfence loses nothing.
async fn journal(setup: &Setup, dir: &Path) -> Result<String> {
    let a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" }).await?;
    let b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "512M" }).await?;
    pair(&a, &b, b.link).await?;
    volume(&a, "one", "main").await?;
    volume(&a, "two", "other").await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "b" })).await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    let mut other = Host::login(&a, "other", 0, 2).await?;
    let mut slowest = Duration::ZERO;
    for rules in [format!("write /cache fail={EIO}"), format!("sync /cache count=1 fail={EIO}")] {
        host.write_some(200).await?;
        fail(&a, "main", &rules).await?;
        let start = Instant::now();
        let block = host.rng.below(1000);
        // Nothing else writes now, so the first failed operation is this write or the superblock before it.
        let refused = sense(host.write(block).await)?;
        ensure!(refused == (4, 0x44, 0), "{rules}: the host got sense {refused:x?}");
        slowest = slowest.max(start.elapsed());
        let again = sense(host.read(block).await)?;
        ensure!(again == (4, 0x44, 0), "{rules}: a read of a fenced group got sense {again:x?}");
        let told = in_state(&a, "main", "fenced").await?;
        ensure!(told["state"]["reason"].as_str().is_some_and(|r| r.contains("error 5")), "{}", told["state"]);
        let advice = alert(&a, "main", "fenced").await?;
        ensure!(advice["what_to_do"].as_str().is_some_and(|w| w.contains("group unfence")), "{advice}");
        other.write_some(100).await.context("the other group")?;
        if rules.starts_with("write") {
            // The disk still fails: what is on it is whole, but the first write fences the group again.
            let out = a.cli(&["group", "unfence", "main"])?;
            ensure!(out.status.success(), "{rules}: unfence: {}", said(&out));
            in_state(&a, "main", "fenced").await?;
        }
        fail(&a, "main", "").await?;
        let out = a.cli(&["group", "unfence", "main"])?;
        ensure!(out.status.success(), "{rules}: unfence: {}", said(&out));
        in_state(&a, "main", "ordered").await?;
        no_alert(&a, "main", "fenced").await?;
        host.again(&a, "main").await?;
        host.check().await.with_context(|| format!("after {rules}"))?;
        host.write_some(50).await?;
    }
    // Not fenced: refused, and nothing happens.
    let out = a.cli(&["group", "unfence", "main"])?;
    ensure!(out.status.code() == Some(1) && said(&out).contains("not fenced"), "{}", said(&out));
    let count = host.check().await? + other.check().await?;
    drained(&a, &b, "main").await?;
    let (ours, theirs) = (a.homes("main").await?, b.homes("main").await?);
    ensure!(std::fs::read(&ours[0])? == std::fs::read(&theirs[0])?, "the homes differ");
    let (mut a, mut b) = (a, b);
    a.stop()?;
    b.stop()?;
    Ok(format!(
        "write and sync; {count} blocks read back, mirror equal, sense after {} ms at most",
        slowest.as_millis()
    ))
}

/// What was acknowledged is not on the disk any more: unfence says which records, and changes nothing.
async fn unfence_refuses(setup: &Setup, dir: &Path) -> Result<String> {
    let a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" }).await?;
    volume(&a, "one", "main").await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    // The home is detached first, so that the journal is the only place of what follows.
    fail(&a, "main", &format!("write .home fail={EIO}")).await?;
    host.write_some(60).await?;
    alert(&a, "main", "home-failed").await?;
    fail(&a, "main", &format!("write .home fail={EIO}\nwrite /cache fail={EIO}")).await?;
    ensure!(sense(host.write(1).await)? == (4, 0x44, 0), "no fence");
    in_state(&a, "main", "fenced").await?;
    let victim = host.acked.iter().find(|(block, _)| **block != 1).context("a block")?.1.clone();
    let places = find(&cache_of(&a), &victim)?;
    ensure!(places.len() == 1, "the block is in {} places of the cache", places.len());
    flip(&cache_of(&a), places[0] + 100)?;
    fail(&a, "main", "").await?;
    let out = a.cli(&["group", "unfence", "main"])?;
    ensure!(out.status.code() == Some(1), "unfence took a rotten journal: {}", said(&out));
    let text = said(&out);
    ensure!(text.contains("stays fenced") && text.contains("record"), "it does not say what is lost: {text}");
    in_state(&a, "main", "fenced").await?;
    // Put right, nothing is lost.
    flip(&cache_of(&a), places[0] + 100)?;
    let out = a.cli(&["group", "unfence", "main"])?;
    ensure!(out.status.success(), "unfence: {}", said(&out));
    in_state(&a, "main", "alone").await?;
    host.again(&a, "main").await?;
    let count = host.check().await?;
    let mut a = a;
    a.stop()?;
    Ok(format!("one flipped bit refused and named, put right {count} blocks read back"))
}

/// A home that fails is detached: reads go on, a full cache makes hosts wait, and reattach brings everything home.
async fn home(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "256M" }).await?;
    volume(&a, "one", "main").await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    let mut rounds = 0;
    for rules in [format!("write .home fail={EIO}"), format!("sync .home count=1 fail={EIO}")] {
        host.write_some(100).await?;
        fail(&a, "main", &rules).await?;
        host.write_some(100).await.context("writes while the home fails")?;
        let told = alert(&a, "main", "home-failed").await?;
        ensure!(told["what_to_do"].as_str().is_some_and(|w| w.contains("reattach")), "{told}");
        host.write_some(50).await?;
        host.check().await.context("reads while the home is detached")?;
        fail(&a, "main", "").await?;
        let out = a.cli(&["group", "reattach", "main"])?;
        ensure!(out.status.success(), "reattach: {}", said(&out));
        no_alert(&a, "main", "home-failed").await?;
        rounds += 1;
    }
    // Detached until the cache is full: hosts wait, without an error, and go on with the home.
    fail(&a, "main", &format!("write .home fail={EIO}")).await?;
    host.write_some(1).await?;
    alert(&a, "main", "home-failed").await?;
    let session = host.session.clone();
    let data = Bytes::from(stamp::payload(OpId { writer: 9, op: 1 }, 0, 0, 512));
    let mut filled = 0u64;
    let waiting = loop {
        let at = 8192 + filled % 64 * 512;
        let mut write = Box::pin(session.write(0, at, 512, data.clone()));
        match tokio::time::timeout(Duration::from_secs(5), &mut write).await {
            Ok(result) => result.context("a write while the cache fills")?,
            Err(_) => break write,
        }
        filled += 1;
        ensure!(filled < 2048, "the cache never fills");
    };
    in_state(&a, "main", "waiting").await?;
    let full = alert(&a, "main", "cache-full").await?;
    ensure!(position(&a.group("main").await?, "durable")? > 0, "{full}");
    fail(&a, "main", "").await?;
    let out = a.cli(&["group", "reattach", "main"])?;
    ensure!(out.status.success(), "reattach: {}", said(&out));
    waiting.await.context("the write that waited")?;
    no_alert(&a, "main", "cache-full").await?;
    // Blocks from 8192 to 8192 + 64 * 512 sectors were written over without a note.
    host.acked.retain(|block, _| !(8192..8192 + 64 * 512).contains(&(block * u64::from(BLOCK))));
    let count = host.check().await?;
    until("everything is at home", async || {
        let group = a.group("main").await?;
        Ok(position(&group, "applied")? == position(&group, "written")?)
    })
    .await?;
    let path = a.homes("main").await?.remove(0);
    a.stop()?;
    let home = std::fs::File::open(path)?;
    for (block, data) in &host.acked {
        let mut found = vec![0; data.len()];
        home.read_exact_at(&mut found, block * u64::from(BLOCK) * 512)?;
        ensure!(found == data[..], "block {block} is not at home");
    }
    Ok(format!(
        "{rounds} times detached and attached; {} MiB filled the cache, hosts waited; {count} blocks",
        filled / 4
    ))
}

/// What fails at a mirror is told at its source too, and cleared there when it is well again.
async fn mirror(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "256M" }).await?;
    let mut b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "256M" }).await?;
    pair(&a, &b, b.link).await?;
    volume(&a, "one", "main").await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "b" })).await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    let mut told = 0;
    let cases = [
        (format!("write .home fail={EIO}"), "home-failed", "mirror-home-failed", "home_detached", "reattach"),
        (format!("write /cache fail={EIO}"), "fenced", "mirror-fenced", "fenced", "unfence"),
    ];
    for (rules, there, here, kind, mend) in &cases {
        fail(&b, "main", rules).await?;
        host.write_some(20).await?;
        alert(&b, "main", there).await?;
        let advice = alert(&a, "main", here).await?;
        ensure!(advice["what_to_do"].as_str().is_some_and(|w| w.contains(mend)), "{advice}");
        let troubles = a.group("main").await?["link"]["mirror_troubles"].clone();
        ensure!(troubles[0]["kind"] == *kind, "the source's status: {troubles}");
        fail(&b, "main", "").await?;
        let out = b.cli(&["group", mend, "main"])?;
        ensure!(out.status.success(), "{mend}: {}", said(&out));
        no_alert(&b, "main", there).await?;
        no_alert(&a, "main", here).await?;
        told += 1;
    }
    // The home is away when the mirror's box starts: the group is there and does not run.
    drained(&a, &b, "main").await?;
    let home = b.homes("main").await?.remove(0);
    let away = home.with_extension("away");
    b.stop()?;
    std::fs::rename(&home, &away)?;
    b.run().await?;
    let advice = alert(&a, "main", "mirror-not-open").await?;
    ensure!(advice["text"].as_str().is_some_and(|t| t.contains("home of volume one")), "the reason: {advice}");
    host.write_some(10).await?;
    std::fs::rename(&away, &home)?;
    no_alert(&a, "main", "mirror-not-open").await?;
    drained(&a, &b, "main").await?;
    ensure!(a.group("main").await?["link"]["mirror_troubles"] == json!([]), "something is left");
    let (ours, theirs) = (a.homes("main").await?, b.homes("main").await?);
    ensure!(std::fs::read(&ours[0])? == std::fs::read(&theirs[0])?, "the homes differ");
    a.stop()?;
    b.stop()?;
    Ok(format!("{} faults told at both boxes and cleared, homes equal", told + 1))
}

/// Reads that fail give MEDIUM ERROR with the address, and never wrong data.
async fn reads(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" }).await?;
    volume(&a, "one", "main").await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    host.write_some(100).await?;
    until("everything is at home", async || {
        let group = a.group("main").await?;
        Ok(position(&group, "applied")? == position(&group, "written")?)
    })
    .await?;
    let block = *host.acked.keys().next().context("a block")?;
    fail(&a, "main", &format!("read .home fail={EIO}")).await?;
    for _ in 0..20 {
        let error = host.read(block).await.err().context("a read of a home that cannot be read")?;
        let s = error.sense().context("no sense")?;
        ensure!((s.key, s.asc, s.ascq) == (3, 0x11, 0), "the home: {error}");
        ensure!(s.information == Some(block * u64::from(BLOCK)), "the address: {s:?}");
    }
    alert(&a, "main", "read-errors").await?;
    fail(&a, "main", "").await?;
    host.check().await.context("after the home can be read again")?;

    // From the journal: the home is detached across a restart, so that nothing is in memory.
    fail(&a, "main", &format!("write .home fail={EIO}")).await?;
    host.write_some(40).await?;
    alert(&a, "main", "home-failed").await?;
    a.stop()?;
    a.run().await?;
    host.again(&a, "main").await?;
    let applied = position(&a.group("main").await?, "applied")?;
    ensure!(applied < position(&a.group("main").await?, "written")?, "the home is not behind");
    host.check().await.context("reads from the journal after a restart")?;
    // The last write is in the journal only.
    let last = host.rng.below(1000);
    host.write(last).await?;
    a.stop()?;
    a.run().await?;
    host.again(&a, "main").await?;
    fail(&a, "main", &format!("write .home fail={EIO}\nread /cache fail={EIO}")).await?;
    let refused = sense(host.read(last).await)?;
    ensure!(refused == (3, 0x11, 0), "the journal: sense {refused:x?}");
    fail(&a, "main", &format!("write .home fail={EIO}")).await?;
    let data = host.acked[&last].clone();
    ensure!(host.read(last).await? == data, "the journal reads otherwise once the disk is well");
    let places = find(&cache_of(&a), &data)?;
    ensure!(places.len() == 1, "the block is in {} places of the cache", places.len());
    for bit in [7, 511, 2000, 4095] {
        flip(&cache_of(&a), places[0] + bit)?;
        let refused = sense(host.read(last).await)?;
        ensure!(refused == (3, 0x11, 0), "rot at byte {bit}: sense {refused:x?}");
        flip(&cache_of(&a), places[0] + bit)?;
    }
    let count = host.check().await?;
    fail(&a, "main", "").await?;
    a.stop()?;
    Ok(format!("home, journal and rot: MEDIUM ERROR each time; {count} blocks right afterwards"))
}

/// Nobody gets in any more, who is in goes on, and afterwards all is as before.
async fn descriptors(setup: &Setup, dir: &Path) -> Result<String> {
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "512M" }).await?;
    volume(&a, "one", "main").await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    host.write_some(20).await?;
    let pid = a.pid().context("no process")?;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let limit = open + 8;
    crate::images::output("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={limit}:{limit}")])?;
    let mut flood = Vec::new();
    for port in [a.iscsi, a.link] {
        for _ in 0..40 {
            flood.extend(tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(port)).await);
        }
    }
    host.write_some(200).await.context("a session that was there before")?;
    host.check().await?;
    let used = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(used >= limit - 2, "only {used} of {limit} descriptors are in use: the test tests nothing");
    a.still_runs()?;
    drop(flood);
    host.again(&a, "main").await.context("a login when there is room again")?;
    host.write_some(20).await?;
    let count = host.check().await?;
    a.status().await?;
    a.stop()?;
    Ok(format!("limit {limit}, 80 connections more: the session went on, {count} blocks; a login afterwards"))
}

/// A disk that takes 100 ms for each write of the journal, under many large writes: nobody gets an error, memory is bounded.
async fn slow(setup: &Setup, dir: &Path) -> Result<String> {
    const BUFFERS: u64 = 64 << 20;
    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "1G" }).await?;
    a.stop()?;
    a.add_settings("[limits]\nbuffers = \"64M\"\n")?;
    a.run().await?;
    volume(&a, "one", "main").await?;
    let mut host = Host::login(&a, "main", 0, 1).await?;
    host.write_some(20).await?;
    let pid = a.pid().context("no process")?;
    let before = memory(pid)?;
    fail(&a, "main", "write /cache delay=100\nread * delay=20").await?;
    let mut flight = tokio::task::JoinSet::new();
    let start = Instant::now();
    for n in 0..6u16 {
        let session = login(&a, "main", 0, 20 + u32::from(n)).await?;
        for k in 0..24u64 {
            let (session, at) = (session.clone(), (u64::from(n) * 24 + k) % 40 * 1024);
            let data = Bytes::from(stamp::payload(OpId { writer: u32::from(n), op: k }, 0, at, 1024));
            flight.spawn(async move { session.write(0, at, 1024, data).await });
        }
    }
    let mut most = 0;
    let mut done = 0;
    while !flight.is_empty() {
        most = most.max(memory(pid)?);
        match tokio::time::timeout(Duration::from_millis(50), flight.join_next()).await {
            Ok(Some(result)) => {
                result?.context("a write to a slow disk")?;
                done += 1;
            }
            Ok(None) => break,
            Err(_) => ensure!(start.elapsed().as_secs() < 120, "{done} writes in two minutes"),
        }
    }
    let grown = most.saturating_sub(before);
    // The group's share of the buffers, its RAM tail, and what sessions and the allocator keep beside.
    ensure!(grown < 2 * BUFFERS, "memory grew by {} MiB", grown >> 20);
    fail(&a, "main", "").await?;
    let block = VOLUME / 512 / u64::from(BLOCK) - 1;
    host.write(block).await?;
    ensure!(host.read(block).await? == host.acked[&block], "the last block");
    a.stop()?;
    Ok(format!(
        "{done} writes of 512 KiB in {:.1} s, memory grew by {} MiB",
        start.elapsed().as_secs_f64(),
        grown >> 20
    ))
}

/// Resident memory of a process, bytes.
fn memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("VmRSS")?.parse()?;
    Ok(kib << 10)
}
