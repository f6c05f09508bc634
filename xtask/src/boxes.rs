//! The processes that are measured, and that guests talk to: a pair of boxes, a box alone, tgt.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::ports;
use crate::process::{find_program, output, run};

/// tgt's target name.
const TGT_IQN: &str = "iqn.2024-01.invalid.reprise:tgt";
/// No start, stop or drain of the benchmark takes this long on a machine that works.
const WAIT_SECS_MAX: u64 = 120;
/// Between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a box tells of a group may be a little old.
pub const STATUS_AGE_MAX: Duration = Duration::from_millis(100);

/// A process of ours. Dropping it sends SIGTERM and waits.
pub struct Process(Child);

impl Process {
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("start {}", command.get_program().display()))?))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = signal("TERM", self.0.id());
        }
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed().as_secs() > 30 {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Signals one process that this benchmark has started.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    run(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]))
}

/// User and system time of a process since its start, microseconds. The kernel counts in ticks of 10 ms.
pub fn cpu_us(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read the CPU time")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Ok(ticks as f64 * 10_000.0)
}

/// A `Name: 123` line of a file in /proc, in the unit it has there.
pub fn proc_number(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).context("read /proc")?;
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next());
    value.and_then(|v| v.parse().ok()).with_context(|| format!("{name} is not in /proc/PID/{file}"))
}

fn free_address() -> Result<SocketAddr> {
    Ok(ports::free()?)
}

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if start.elapsed().as_secs() > WAIT_SECS_MAX {
            bail!("waited {WAIT_SECS_MAX} s: {what}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One of the two targets that are compared: where it is, and the process that serves it.
pub struct Served {
    /// `iscsi://ADDRESS/IQN/LUN`.
    pub url: String,
    pub pid: u32,
    /// The way to the API; none for tgt.
    pub api: Option<Api>,
}

/// The command line of a box.
#[derive(Debug, Clone)]
pub struct Api {
    pub binary: PathBuf,
    pub socket: PathBuf,
}

impl Api {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.arg(WAIT_SECS_MAX.to_string()).arg(&self.binary).arg("--socket").arg(&self.socket);
        command.arg("--json").args(args);
        command
    }

    /// The first answer; a command that waits for a job prints the job as well.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let said = output(&mut self.command(args))?;
        let first = serde_json::Deserializer::from_str(&said).into_iter().next().context("the box says nothing")?;
        first.context("read the answer of the box")
    }

    /// True once the box answers.
    pub fn answers(&self) -> bool {
        let mut command = self.command(&["status"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    /// The status of the only group.
    pub fn group(&self) -> Result<Value> {
        Ok(self.ask(&["status"])?["groups"][0].take())
    }

    /// Waits until the home holds every write, and the peer too, if there is one: what is left to do would be paid by
    /// whoever is measured next.
    pub fn settle(&self) -> Result<()> {
        std::thread::sleep(STATUS_AGE_MAX);
        until("the box settles", || {
            let at = self.group().ok()?["positions"].take();
            let done = |name: &str| at[name].is_null() || at[name].as_u64() >= at["written"].as_u64();
            (done("applied") && done("peer_durable")).then_some(())
        })
    }
}

/// Two paired boxes, started by `reprise demo`.
pub struct Pair {
    _demo: Process,
    pub source: Served,
    pub mirror_pid: u32,
    pub mirror_api: Api,
    /// Settings of the source, to start it again.
    pub config: PathBuf,
    /// Home of the volume at the source and at the mirror.
    pub homes: [PathBuf; 2],
}

pub fn pair(binary: &Path, dir: &Path, size: u64) -> Result<Pair> {
    let mut command = Command::new(binary);
    command.args(["demo", "--stay", "--json", "--size", &size.to_string(), "--dir"]).arg(dir);
    let said = dir.with_extension("json");
    let mut demo = Process::start(command.stdout(File::create(&said)?))?;
    let reaches: Value = until("the pair starts", || {
        let text = std::fs::read_to_string(&said).ok()?;
        let found = serde_json::from_str(&text).ok();
        if found.is_none() && demo.has_ended() { Some(Value::Null) } else { found }
    })?;
    let text = |of: &str, key: &str| {
        reaches[of][key].as_str().map(str::to_owned).with_context(|| format!("the demo says no {key} of the {of}"))
    };
    let home = |of: &str| {
        reaches[of]["home"][0].as_str().map(PathBuf::from).with_context(|| format!("the demo says no home of the {of}"))
    };
    let pid = |name: &str| -> Result<u32> {
        let pid = reaches[name]["pid"].as_u64().context("the demo says no pid")?;
        Ok(u32::try_from(pid)?)
    };
    let api = |of: &str| -> Result<Api> { Ok(Api { binary: binary.to_owned(), socket: text(of, "socket")?.into() }) };
    Ok(Pair {
        source: Served { url: text("source", "iscsi")?, pid: pid("source")?, api: Some(api("source")?) },
        mirror_pid: pid("mirror")?,
        mirror_api: api("mirror")?,
        config: text("source", "config")?.into(),
        homes: [home("source")?, home("mirror")?],
        _demo: demo,
    })
}

/// A box without a peer.
pub fn single(binary: &Path, dir: &Path, size: u64) -> Result<(Process, Served)> {
    std::fs::create_dir_all(dir)?;
    let (portal, link) = (free_address()?, free_address()?);
    let (at, socket, config) = (dir.display(), dir.join("api.sock"), dir.join("box.toml"));
    // As large as the demo makes the pool of a pair.
    let pool = 2 * (size + size / 4 + (1 << 30));
    let settings = format!(
        "name = \"single\"\nstate_dir = \"{at}/state\"\n[pool]\ndir = \"{at}/pool\"\nsize = \"{pool}\"\n\
         [iscsi]\nlisten = [\"{portal}\"]\n[link]\nlisten = \"{link}\"\n[api]\nsocket = \"{}\"\n",
        socket.display()
    );
    std::fs::write(&config, settings)?;
    let process = start_box(binary, &config)?;
    let api = Api { binary: binary.to_owned(), socket };
    until("the box starts", || api.answers().then_some(()))?;
    api.ask(&["volume", "create", "disk", "--size", &size.to_string()])?;
    let iqn = until("the volume is served", || {
        let group = api.group().ok()?;
        let ready = group["volumes"][0]["state"]["kind"] == "ready";
        ready.then(|| group["targets"][0]["iqn"].as_str().map(str::to_owned))?
    })?;
    let served = Served { url: format!("iscsi://{portal}/{iqn}/0"), pid: process.0.id(), api: Some(api) };
    Ok((process, served))
}

/// A box whose API is served over HTTPS as well.
pub struct Secure {
    _process: Process,
    pub api: Api,
    /// `https://ADDRESS`.
    pub url: String,
}

/// A box without a peer and without a volume, with a pool of that size and the API over HTTPS.
pub fn with_https(binary: &Path, dir: &Path, size: u64) -> Result<Secure> {
    std::fs::create_dir_all(dir)?;
    let (portal, link, https) = (free_address()?, free_address()?, free_address()?);
    let (at, socket, config) = (dir.display(), dir.join("api.sock"), dir.join("box.toml"));
    let settings = format!(
        "name = \"single\"\nstate_dir = \"{at}/state\"\n[pool]\ndir = \"{at}/pool\"\nsize = \"{}\"\n\
         [iscsi]\nlisten = [\"{portal}\"]\n[link]\nlisten = \"{link}\"\n\
         [api]\nsocket = \"{}\"\nhttps = \"{https}\"\n",
        2 * (size + (1 << 30)),
        socket.display()
    );
    std::fs::write(&config, settings)?;
    let process = start_box(binary, &config)?;
    let api = Api { binary: binary.to_owned(), socket };
    until("the box starts", || api.answers().then_some(()))?;
    Ok(Secure { _process: process, api, url: format!("https://{https}") })
}

/// `reprise run`, with its log beside its settings.
pub fn start_box(binary: &Path, config: &Path) -> Result<Process> {
    start(Command::new(binary).arg("run").arg("--config").arg(config), &config.with_extension("log"))
}

/// A process that appends what it says to a log.
pub fn start(command: &mut Command, log: &Path) -> Result<Process> {
    let log = File::options().create(true).append(true).open(log)?;
    Process::start(command.stdout(log.try_clone()?).stderr(log))
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

/// What is behind tgt's LUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// A file of the same file system, written fully, opened with O_DIRECT.
    Disk,
    /// A file, through the page cache: for a folder in memory.
    Cached,
    /// Nothing: reads are answered with whatever is there, writes are dropped.
    Null,
}

/// tgt with one LUN.
pub fn tgt(dir: &Path, size: u64, backing: Backing) -> Result<(Process, Served)> {
    std::fs::create_dir_all(dir)?;
    let file = dir.join("disk");
    if backing != Backing::Null {
        fill(&file, size)?;
    }
    let portal = free_address()?;
    // tgt takes numbers up to 32767; its own is 0.
    static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let nth = STARTED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let control = (1 + (std::process::id() * 4 + nth) % 32_000).to_string();
    let daemon = find_program("tgtd").context("tgtd is missing: cargo xtask setup")?;
    let mut command = Command::new(daemon);
    command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
    let mut process = Process::start(command.stdout(Stdio::null()).stderr(File::create(dir.join("log"))?))?;
    let tool = find_program("tgtadm").context("tgtadm is missing: cargo xtask setup")?;
    let admin = |args: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("10").arg(&tool).args(["-C", &control, "--lld", "iscsi"]).args(args);
        command
    };
    let started = until("tgtd starts", || {
        if process.has_ended() {
            return Some(false);
        }
        let mut command = admin(&["--op", "show", "--mode", "target"]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success()).then_some(true)
    })?;
    if !started {
        let said = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        bail!("tgtd has ended (it needs root): {}", said.trim());
    }
    let path = file.to_str().context("path of the file")?;
    run(&mut admin(&["--op", "new", "--mode", "target", "--tid", "1", "-T", TGT_IQN]))?;
    let lun = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"];
    let backing: &[&str] = match backing {
        Backing::Disk => &["-b", path, "--bsoflags", "direct"],
        Backing::Cached => &["-b", path],
        Backing::Null => &["-b", "/dev/null", "--bstype", "null"],
    };
    run(&mut admin(&[&lun[..], backing].concat()))?;
    run(&mut admin(&["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]))?;
    let served = Served { url: format!("iscsi://{portal}/{TGT_IQN}/1"), pid: process.0.id(), api: None };
    Ok((process, served))
}

/// The product's protocol and SCSI layers alone, before memory or nothing: an example that is built for it.
pub fn memory_target(binary: &Path, dir: &Path, mib: u64, null: bool) -> Result<(Process, Served)> {
    std::fs::create_dir_all(dir)?;
    let address = free_address()?;
    let mut command = Command::new(binary);
    command.args([address.to_string(), mib.to_string()]).args(null.then_some("null"));
    let process = Process::start(command.stdout(Stdio::null()).stderr(File::create(dir.join("log"))?))?;
    until("the target in memory listens", || std::net::TcpStream::connect(address).ok().map(|_| true))?;
    let url = format!("iscsi://{address}/iqn.2026-01.invalid.example:memory/0");
    let served = Served { url, pid: process.pid(), api: None };
    Ok((process, served))
}

fn fill(path: &Path, size: u64) -> Result<()> {
    let (mut file, piece) = (File::create(path)?, vec![0x5a; 1 << 20]);
    for _ in 0..size.div_ceil(1 << 20) {
        file.write_all(&piece)?;
    }
    Ok(file.sync_all()?)
}
