//! The clients: `qemu-img bench`, which tgt and the product are both measured with, and the project's own initiator, which
//! also tells latencies.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::boxes::{Served, cpu_us};
use crate::process::output;

/// No measurement takes this long on a machine that works.
const RUN_SECS_MAX: &str = "180";
/// From one random address to the next: odd in units of 4 KiB, so that every block of a volume of a power of two has its
/// turn, and far, so that neighbours in time are none on the disk.
const STRIDE: u64 = 40_503 * 4096;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) writes: bool,
    pub(super) random: bool,
    pub(super) bytes: u64,
    pub(super) depth: u32,
}

impl Case {
    pub(super) fn name(&self) -> String {
        let size = if self.bytes < 1 << 20 {
            format!("{} KiB", self.bytes >> 10)
        } else {
            format!("{} MiB", self.bytes >> 20)
        };
        let order = if self.random { "random" } else { "sequential" };
        format!("{size} {order} {}, QD{}", if self.writes { "write" } else { "read" }, self.depth)
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) per_sec: f64,
    /// CPU time of the daemon for one operation, with what it did afterwards for it.
    pub(super) cpu_us: f64,
}

/// Runs `count` operations, with a flush after each `flush_every` of them.
pub(super) fn qemu_bench(served: &Served, case: Case, flush_every: Option<u32>, count: u64) -> Result<Sample> {
    let before = cpu_us(served.pid)?;
    let mut command = Command::new("timeout");
    command.args([RUN_SECS_MAX, "qemu-img", "bench", "-f", "raw", "-t", "none"]);
    command.args(["-c", &count.to_string(), "-d", &case.depth.to_string(), "-s", &case.bytes.to_string()]);
    if case.random {
        command.args(["-S", &STRIDE.to_string()]);
    }
    if case.writes {
        command.args(["-w", "--pattern=165"]);
    }
    if let Some(every) = flush_every {
        command.args([&format!("--flush-interval={every}"), "--no-drain"]);
    }
    let said = output(command.arg(&served.url))?;
    let secs = said.lines().find_map(|l| l.strip_prefix("Run completed in ")?.split(' ').next()?.parse::<f64>().ok());
    let secs = secs.context("qemu-img bench says no time")?;
    if let Some(api) = &served.api {
        api.settle()?;
    }
    let ops = count as f64;
    Ok(Sample { per_sec: ops / secs, cpu_us: (cpu_us(served.pid)? - before) / ops })
}

/// Random reads of 4 KiB, `depth` at a time, by libiscsi's `iscsi-perf`: operations per second.
pub(super) fn iscsi_perf(served: &Served, depth: u32, secs: f64) -> Result<f64> {
    let secs = (secs.ceil() as u64).to_string();
    let mut command = Command::new("timeout");
    command.args([RUN_SECS_MAX, "iscsi-perf", "-m", &depth.to_string(), "-b", "8", "-r", "-t", &secs]);
    let said = output(command.arg(&served.url))?;
    // `iops average 28225 (110 MB/s)`, after lines of progress that say the same of the time so far.
    let found = said.rsplit("iops average ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    found.context("iscsi-perf says no rate")
}

/// What the project's own initiator measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) per_sec: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// Random addresses, random bytes, for `secs` seconds. `load` is the built example of that name.
pub(super) fn load(load: &Path, url: &str, case: Case, secs: u64) -> Result<Latency> {
    let mut parts = url.trim_start_matches("iscsi://").split('/');
    let (address, iqn, lun) = (parts.next(), parts.next(), parts.next());
    let (address, iqn, lun) = (address.context("address")?, iqn.context("IQN")?, lun.context("LUN")?);
    let mut command = Command::new("timeout");
    command.arg(RUN_SECS_MAX).arg(load).args([address, iqn, lun, if case.writes { "write" } else { "read" }]);
    let said = output(command.args([case.depth.to_string(), case.bytes.to_string(), secs.to_string()]))?;
    let words: Vec<&str> = said.split_whitespace().collect();
    // `write 4096 B QD8: 12345 /s, 48.2 MiB/s, p50 612 us, p99 1203 us, ...`
    let after = |mark: &str, steps: usize| {
        words.iter().position(|w| *w == mark).and_then(|at| words.get(at + steps)).and_then(|w| w.parse().ok())
    };
    let per_sec = words.iter().position(|w| *w == "/s,").and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok());
    Ok(Latency {
        per_sec: per_sec.context("load says no rate")?,
        p50_us: after("p50", 1).context("load says no p50")?,
        p99_us: after("p99", 1).context("load says no p99")?,
    })
}
