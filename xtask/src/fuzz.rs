//! Runs every fuzz target.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output, root};
use crate::test::Depth;

/// A target is fuzzed for so long in a short run, and must come to so many executions in it on whatever machine.
const SHORT_SECS: u64 = 5;
const SHORT_RUNS_MIN: u64 = 500;
/// Executions of each target in a long run, at least.
const LONG_RUNS: u64 = 10_000_000;

/// What came of a target.
pub(crate) struct Fuzzed {
    pub(crate) name: String,
    pub(crate) passed: bool,
}

/// Builds the targets and runs each of them, two at a time.
pub(crate) fn all(depth: Depth<'_>) -> Result<Vec<Fuzzed>> {
    let folder = root().join("tests/fuzz");
    let mut build = cargo(&["build", "--release", "--locked", "--quiet"]);
    // The flags of the folder's own configuration must not be hidden by those of this run.
    build.current_dir(&folder).env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    crate::process::run(&mut build).context("build the fuzz targets")?;
    let binary = ["target/x86_64-unknown-linux-gnu/release/reprise-fuzz", "target/release/reprise-fuzz"];
    let binary = binary.iter().map(|b| folder.join(b)).find(|b| b.is_file()).context("find the fuzz binary")?;
    let list = output(Command::new(&binary).env("REPRISE_FUZZ", "list").current_dir(&folder))?;
    let mut targets: Vec<Target> = list.lines().filter(|l| !l.trim().is_empty()).map(parse).collect::<Result<_>>()?;
    if let Some(parts) = depth.parts {
        targets.retain(|t| parts.split(',').any(|p| p == t.name));
    }
    if targets.is_empty() {
        bail!("the fuzz binary lists no such target: {list}");
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done = std::sync::Mutex::new(Vec::new());
    let worker = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let fuzzed = one(&binary, &folder, target, depth.long)?;
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fuzzed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| anyhow::anyhow!("a fuzz worker panicked"))?)
    })?;
    Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

struct Target {
    name: String,
    max_len: String,
    seeds: Option<String>,
}

/// A line of the list: name, longest input, folder of seeds.
fn parse(line: &str) -> Result<Target> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(name), Some(max_len)) = (words.next(), words.next()) else { bail!("fuzz target list: {line:?}") };
    Ok(Target { name, max_len, seeds: words.next() })
}

fn one(binary: &Path, folder: &Path, target: &Target, long: bool) -> Result<Fuzzed> {
    let corpus = folder.join("corpus").join(&target.name);
    std::fs::create_dir_all(&corpus).context("make the corpus folder")?;
    let start = Instant::now();
    let mut command = Command::new(binary);
    command.current_dir(folder).env("REPRISE_FUZZ", &target.name);
    command.arg(if long { format!("-runs={LONG_RUNS}") } else { format!("-max_total_time={SHORT_SECS}") });
    command.args([format!("-max_len={}", target.max_len), "-rss_limit_mb=2048".to_owned()]);
    command.args(["-verbosity=0", "-print_final_stats=1", "-timeout=20"]);
    command.arg(format!("-artifact_prefix={}/crash-{}-", folder.display(), target.name));
    command.arg(&corpus).args(&target.seeds);
    let (status, lines) = watch_quietly(&mut command)?;
    let stat = |name: &str| -> Option<u64> {
        let at = lines.iter().find_map(|l| l.strip_prefix("stat::").and_then(|l| l.strip_prefix(name)))?;
        at.trim_start_matches(':').trim().parse().ok()
    };
    let executions = stat("number_of_executed_units").unwrap_or(0);
    let enough = executions >= if long { LONG_RUNS } else { SHORT_RUNS_MIN };
    let passed = status && enough;
    println!(
        "fuzz {}: {executions} executions in {:.0} s: {}",
        target.name,
        start.elapsed().as_secs_f64(),
        match (status, enough) {
            (true, true) => "ok",
            (true, false) => "FAILED, too few executions",
            (false, _) => "FAILED",
        }
    );
    if !passed {
        lines.iter().rev().take(60).rev().for_each(|l| println!("  {l}"));
        println!("  again: cd tests/fuzz && REPRISE_FUZZ={} {} CRASH-FILE", target.name, binary.display());
    }
    Ok(Fuzzed { name: target.name.clone(), passed })
}

fn watch_quietly(command: &mut Command) -> Result<(bool, Vec<String>)> {
    let out = command.output().with_context(|| format!("start {}", crate::process::line(command)))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    Ok((out.status.success(), text.lines().map(str::to_owned).collect()))
}
