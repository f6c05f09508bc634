//! What only a pair can show: the host while nothing is sent, how fast a backlog drains, and a restart with a journal that
//! is full.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::client::{Case, Latency, load};
use crate::boxes::{Api, Pair, Process, STATUS_AGE_MAX, proc_number, signal, start_box, until};
use crate::process::run;

/// Names that the demo gives.
const GROUP: &str = "main";
const MIRROR: &str = "mirror";
/// Where real bytes are taken from, for the drain that compresses: programs and libraries, the least compressible of
/// what a disk of a server mostly holds.
const REAL_FILES: &str = "/usr/lib";

const RANDOM_4K: Case = Case { writes: true, random: true, bytes: 4096, depth: 8 };
const RANDOM_1M: Case = Case { writes: true, random: true, bytes: 1 << 20, depth: 4 };

fn api(pair: &Pair) -> Result<&Api> {
    pair.source.api.as_ref().context("a box has an API")
}

fn pause(api: &Api) -> Result<()> {
    api.ask(&["mirror", "pause", GROUP, "--to", MIRROR]).map(drop)
}

fn resume(api: &Api) -> Result<()> {
    api.ask(&["mirror", "resume", GROUP, "--to", MIRROR]).map(drop)
}

/// Latencies with the mirror attached and with it paused, in turn.
pub(super) fn paused(pair: &Pair, client: &Path, runs: usize, secs: u64) -> Result<(Vec<Latency>, Vec<Latency>)> {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        api(pair)?.settle()?;
        up.push(load(client, &pair.source.url, RANDOM_4K, secs)?);
        api(pair)?.settle()?;
        pause(api(pair)?)?;
        down.push(load(client, &pair.source.url, RANDOM_4K, secs)?);
        resume(api(pair)?)?;
    }
    api(pair)?.settle()?;
    Ok((up, down))
}

/// A backlog and how it went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub(super) payload_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) secs: f64,
}

impl Drain {
    pub(super) fn mib_per_sec(&self) -> f64 {
        self.payload_bytes as f64 / self.secs / f64::from(1 << 20)
    }
}

/// Pauses the mirror, lets `fill` write, and times how the backlog drains.
fn drain(pair: &Pair, fill: impl FnOnce() -> Result<()>) -> Result<Drain> {
    let api = api(pair)?;
    api.settle()?;
    pause(api)?;
    let before = api.group()?;
    fill()?;
    // The home is written meanwhile; waiting for it keeps that out of the drain.
    std::thread::sleep(STATUS_AGE_MAX);
    until("the home holds it all", || {
        let at = api.group().ok()?["positions"].take();
        (at["applied"].as_u64() >= at["written"].as_u64()).then_some(())
    })?;
    let start = Instant::now();
    resume(api)?;
    let after = until("the backlog drains", || {
        let group = api.group().ok()?;
        let at = &group["positions"];
        (at["peer_durable"].as_u64() >= at["durable"].as_u64()).then_some(group)
    })?;
    let secs = start.elapsed().as_secs_f64();
    let grown = |name: &str| -> Result<u64> {
        let at = |group: &serde_json::Value| group["totals"][name].as_u64();
        at(&after).zip(at(&before)).map(|(a, b)| a.saturating_sub(b)).with_context(|| format!("totals have no {name}"))
    };
    Ok(Drain { payload_bytes: grown("write_bytes")?, wire_bytes: grown("wire_bytes")?, secs })
}

/// The drain of random bytes, which no compression makes smaller.
pub(super) fn drain_random(pair: &Pair, dir: &Path, len: u64) -> Result<Drain> {
    let image = dir.join("random.raw");
    let mut file = File::create(&image)?;
    std::io::copy(&mut File::open("/dev/urandom")?.take(len & !0xfff), &mut file)?;
    file.sync_all()?;
    let drained = drain(pair, || copy_to_volume(&image, pair))?;
    std::fs::remove_file(&image)?;
    Ok(drained)
}

/// The drain of real bytes; and how fast one thread of zstd alone goes through the same, MiB/s, where it is installed.
pub(super) fn drain_real(pair: &Pair, dir: &Path, len: u64) -> Result<(Drain, Option<f64>)> {
    let image = dir.join("real.raw");
    let mut file = File::create(&image)?;
    let mut left = len;
    copy_files(Path::new(REAL_FILES), &mut file, &mut left)?;
    // A disk holds whole blocks.
    let len = (len - left) & !0xfff;
    file.set_len(len)?;
    file.sync_all()?;
    let drained = drain(pair, || copy_to_volume(&image, pair))?;
    let start = Instant::now();
    let mut zstd = Command::new("zstd");
    zstd.args(["-1", "--single-thread", "-q", "-c"]).arg(&image).stdout(Stdio::null());
    let done = zstd.status().is_ok_and(|s| s.success());
    let alone = done.then(|| len as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64());
    std::fs::remove_file(&image)?;
    Ok((drained, alone))
}

/// Writes an image, which may be smaller than the volume, to its beginning.
fn copy_to_volume(image: &Path, pair: &Pair) -> Result<()> {
    let mut copy = Command::new("timeout");
    copy.args(["180", "qemu-img", "convert", "-n", "-S", "0", "-W", "-m", "8", "-f", "raw", "-O", "raw"]);
    run(copy.arg("--target-is-zero").arg(image).arg(&pair.source.url))
}

/// Appends plain files, in the order of their names, until `left` is used up.
fn copy_files(from: &Path, to: &mut File, left: &mut u64) -> Result<()> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(from)?.flatten().map(|e| e.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(about) = path.symlink_metadata() else { continue };
        if about.is_dir() && *left > 0 {
            copy_files(&path, to, left)?;
        } else if about.is_file() && *left > 0 {
            let mut bytes = Vec::new();
            File::open(&path)?.take(*left).read_to_end(&mut bytes)?;
            to.write_all(&bytes)?;
            *left -= bytes.len() as u64;
        }
    }
    Ok(())
}

/// A restart of the source with a journal that the peer has not had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    pub(super) journal_bytes: u64,
    /// From the start of the process to the end of the first read over iSCSI, by a client that logs in for it.
    pub(super) secs: f64,
    /// What the process had read from the disk by then.
    pub(super) read_bytes: u64,
    pub(super) rss_kib: u64,
}

/// Fills the journal with the mirror paused, kills the source, starts it again. Hands over the process as well: the pair
/// is no longer whole without it.
pub(super) fn restart(pair: &Pair, binary: &Path, client: &Path, journal: u64) -> Result<(Process, Restart)> {
    let api = api(pair)?;
    api.settle()?;
    pause(api)?;
    let used = || -> Result<u64> { api.group()?["cache"]["bytes_used"].as_u64().context("status has no bytes_used") };
    let start = Instant::now();
    while used()? < journal && start.elapsed() < Duration::from_secs(600) {
        load(client, &pair.source.url, RANDOM_1M, 1)?;
        // Half of the journal are small writes: those make the index.
        load(client, &pair.source.url, Case { depth: 32, ..RANDOM_4K }, 2)?;
    }
    let journal_bytes = used()?;
    signal("KILL", pair.source.pid)?;
    until("the source ends", || (!Path::new(&format!("/proc/{}/exe", pair.source.pid)).exists()).then_some(()))?;
    let start = Instant::now();
    let process = start_box(binary, &pair.config)?;
    until("the source serves again", || {
        let mut read = Command::new("timeout");
        read.args(["30", "qemu-img", "bench", "-f", "raw", "-t", "none", "-c", "1", "-d", "1", "-s", "4096"]);
        let status = read.arg(&pair.source.url).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success()).then_some(())
    })?;
    let secs = start.elapsed().as_secs_f64();
    let read_bytes = proc_number(process.pid(), "io", "read_bytes")?;
    let rss_kib = proc_number(process.pid(), "status", "VmRSS")?;
    Ok((process, Restart { journal_bytes, secs, read_bytes, rss_kib }))
}
