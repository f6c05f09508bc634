//! A pair across a link that is shaped: two network namespaces, a veth between them, HTB on the source's end.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::boxes::{Api, Process, STATUS_AGE_MAX, start, until};
use crate::process::{output, run};

/// Rates of the page, bits per second.
const RATES: [u64; 4] = [256_000, 10_000_000, 100_000_000, 1_000_000_000];
/// So long the backlog would need at the rate.
const SECS: u64 = 10;
/// No backlog is larger: at the highest rate it lasts some seconds.
const BACKLOG_MAX: u64 = 512 << 20;
const VOLUME_BYTES: u64 = 1 << 30;
const PORT: u16 = 3261;
/// Room of the queue in front of the shaper: 200 ms, as in a good router, and never less than a few frames.
const QUEUE_SECS: f64 = 0.2;
const QUEUE_BYTES_MIN: u64 = 16 << 10;

/// What one rate showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shaped {
    pub(super) bits_per_sec: u64,
    pub(super) secs: f64,
    /// Records' bytes that reached the mirror.
    pub(super) payload_bytes: u64,
    /// Bytes of Ethernet frames that the source sent.
    pub(super) frame_bytes: u64,
    /// Round trip of heartbeats while bulk filled the line, at most.
    pub(super) rtt_ms_max: f64,
}

impl Shaped {
    /// Part of the rate that was used, by frames.
    pub(super) fn used(&self) -> f64 {
        self.frame_bytes as f64 * 8.0 / self.secs / self.bits_per_sec as f64
    }
}

/// A namespace of ours. Dropping it deletes it, and the veth with it.
struct Namespace(String);

impl Namespace {
    fn add(side: &str) -> Result<Self> {
        let name = format!("reprise-{}-{side}", std::process::id());
        ip(&["netns", "add", &name])?;
        let this = Self(name);
        run(&mut this.command("ip", &["link", "set", "lo", "up"]))?;
        Ok(this)
    }

    fn command(&self, program: impl AsRef<Path>, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program.as_ref()).args(args);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

/// The world. Fields are dropped in this order: processes before the namespaces that they live in.
struct World {
    boxes: Vec<Process>,
    source: Api,
    url: String,
    device: String,
    a: Namespace,
    _b: Namespace,
}

fn box_in(namespace: &Namespace, binary: &Path, dir: &Path, address: &str) -> Result<(Process, Api)> {
    std::fs::create_dir_all(dir)?;
    let (at, socket, config) = (dir.display(), dir.join("api.sock"), dir.join("box.toml"));
    let name = dir.file_name().context("a box's folder has a name")?.display();
    let settings = format!(
        "name = \"{name}\"\nstate_dir = \"{at}/state\"\n[pool]\ndir = \"{at}/pool\"\nsize = \"{}\"\n\
         [iscsi]\nlisten = [\"127.0.0.1:3260\"]\n[link]\nlisten = \"{address}:{PORT}\"\n[api]\nsocket = \"{}\"\n",
        4 * VOLUME_BYTES,
        socket.display()
    );
    std::fs::write(&config, settings)?;
    let config = config.to_str().context("path of the settings")?;
    let process = start(&mut namespace.command(binary, &["run", "--config", config]), &dir.join("log"))?;
    let api = Api { binary: binary.to_owned(), socket };
    until("the box starts", || api.answers().then_some(()))?;
    Ok((process, api))
}

fn world(binary: &Path, dir: &Path) -> Result<World> {
    let (a, b) = (Namespace::add("a")?, Namespace::add("b")?);
    let (device, other) = (format!("rpa{}", std::process::id()), format!("rpb{}", std::process::id()));
    ip(&["link", "add", &device, "netns", &a.0, "type", "veth", "peer", "name", &other, "netns", &b.0])?;
    for (namespace, device, address) in [(&a, &device, "10.91.0.1/24"), (&b, &other, "10.91.0.2/24")] {
        run(&mut namespace.command("ip", &["address", "add", address, "dev", device]))?;
        // The shaper is to see frames as a wire has them, and not 64 KiB at a time.
        run(&mut namespace.command("ip", &["link", "set", device, "gso_max_size", "1514", "up"]))?;
    }
    run(&mut a.command("tc", &["qdisc", "add", "dev", &device, "root", "handle", "1:", "htb", "default", "1"]))?;
    shape(&a, &device, "add", RATES[RATES.len() - 1])?;
    let (first, source) = box_in(&a, binary, &dir.join("source"), "10.91.0.1")?;
    let (second, mirror) = box_in(&b, binary, &dir.join("mirror"), "10.91.0.2")?;
    let offer = mirror.ask(&["pair", "--listen", "--no-wait"])?;
    let code = offer["code"].as_str().context("the offer has no code")?;
    source.ask(&["pair", &format!("10.91.0.2:{PORT}"), "--code", code])?;
    source.ask(&["volume", "create", "disk", "--size", &VOLUME_BYTES.to_string()])?;
    source.ask(&["mirror", "add", "main", "--to", "mirror"])?;
    let iqn = until("the volume is served", || {
        let group = source.group().ok()?;
        (group["state"]["kind"] == "ordered").then(|| group["targets"][0]["iqn"].as_str().map(str::to_owned))?
    })?;
    let url = format!("iscsi://127.0.0.1:3260/{iqn}/0");
    Ok(World { boxes: vec![first, second], source, url, device, a, _b: b })
}

fn shape(a: &Namespace, device: &str, verb: &str, bits_per_sec: u64) -> Result<()> {
    let rate = format!("{bits_per_sec}bit");
    let class = ["class", verb, "dev", device, "parent", "1:", "classid", "1:1", "htb", "rate", &rate, "ceil", &rate];
    run(&mut a.command("tc", &[&class[..], &["quantum", "1514"]].concat()))?;
    let queue = ((bits_per_sec as f64 / 8.0 * QUEUE_SECS) as u64).max(QUEUE_BYTES_MIN).to_string();
    let verb = if verb == "add" { "add" } else { "replace" };
    let queue = ["qdisc", verb, "dev", device, "parent", "1:1", "handle", "10:", "bfifo", "limit", &queue];
    run(&mut a.command("tc", &queue))
}

/// Drains a backlog of random bytes at each rate.
pub(super) fn measure(binary: &Path, dir: &Path) -> Result<Vec<Shaped>> {
    let world = world(binary, dir)?;
    let mut found = Vec::new();
    for rate in RATES {
        found.push(world.drain(dir, rate).with_context(|| format!("at {rate} bit/s"))?);
    }
    drop(world.boxes);
    Ok(found)
}

impl World {
    fn frame_bytes(&self) -> Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", self.device);
        Ok(output(&mut self.a.command("cat", &[&path]))?.trim().parse()?)
    }

    fn drain(&self, dir: &Path, bits_per_sec: u64) -> Result<Shaped> {
        self.source.settle()?;
        self.source.ask(&["mirror", "pause", "main", "--to", "mirror"])?;
        let backlog = (bits_per_sec / 8 * SECS).min(BACKLOG_MAX) & !0xffff;
        let image = random_image(dir, backlog)?;
        let image_path = image.to_str().context("path of the image")?;
        let copy = ["convert", "-n", "-f", "raw", "-O", "raw", image_path, &self.url];
        run(&mut self.a.command("qemu-img", &copy))?;
        std::fs::remove_file(&image)?;
        shape(&self.a, &self.device, "change", bits_per_sec)?;
        std::thread::sleep(STATUS_AGE_MAX);
        let (before, frames) = (self.source.group()?, self.frame_bytes()?);
        let start = Instant::now();
        self.source.ask(&["mirror", "resume", "main", "--to", "mirror"])?;
        let mut rtt_ms_max = 0.0f64;
        until("the backlog drains", || {
            let group = self.source.group().ok()?;
            let at = &group["positions"];
            rtt_ms_max = rtt_ms_max.max(group["link"]["rtt_ms"].as_f64().unwrap_or_default());
            (at["peer_durable"].as_u64() >= at["durable"].as_u64()).then_some(())
        })?;
        let secs = start.elapsed().as_secs_f64();
        let frame_bytes = self.frame_bytes()? - frames;
        let payload_bytes = before["lag_bytes"].as_u64().context("the status has no lag_bytes")?;
        shape(&self.a, &self.device, "change", RATES[RATES.len() - 1])?;
        Ok(Shaped { bits_per_sec, secs, payload_bytes, frame_bytes, rtt_ms_max })
    }
}

fn random_image(dir: &Path, len: u64) -> Result<PathBuf> {
    let image = dir.join("random.raw");
    let mut file = File::create(&image)?;
    std::io::copy(&mut File::open("/dev/urandom")?.take(len), &mut file)?;
    Ok(image)
}
