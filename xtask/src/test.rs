//! `cargo xtask test`: everything that can be tested on one machine, with one number at the end.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, find_program, line, target_dir, watch};
use crate::{appliance, checks, fuzz, guest, setup, sim};

/// The steps, in the order they run: what fails fastest first.
const STEPS: [&str; 9] = ["checks", "unit", "planted", "sim", "e2e", "web", "guest", "appliance", "fuzz"];

/// The daemon under test can be told to have bad disks.
const TEST_FEATURES: &str = "reprise/test-faults";
/// With the features of the other tests, so that nothing below the consoles is built again.
pub(crate) const BROWSER_FEATURES: &str = "reprise/test-faults,reprise-console/browser-tests";

/// What a step counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let wanted: Vec<&str> = match args {
        [] => STEPS.to_vec(),
        [flag, list] if flag == "--only" => list.split(',').collect(),
        _ => bail!("usage: cargo xtask test [--only STEP[,STEP]], steps: {}", STEPS.join(", ")),
    };
    if let Some(unknown) = wanted.iter().find(|w| !STEPS.contains(w)) {
        bail!("no step {unknown:?}; steps: {}", STEPS.join(", "));
    }
    setup::ensure()?;
    let mut total = Count::default();
    let mut summary = Vec::new();
    for step in STEPS.iter().filter(|s| wanted.contains(s)) {
        println!("== {step}");
        let start = Instant::now();
        let count = match *step {
            "checks" => source_checks(),
            "unit" => unit(),
            "planted" => planted(),
            "sim" => sim::test().map(|(passed, failed)| Count { passed, failed }),
            "e2e" => e2e(),
            "web" => browser(),
            "guest" => linux_initiator(),
            "appliance" => appliance::test().map(|(passed, failed)| Count { passed, failed }),
            _ => fuzz_targets(),
        };
        // A step that could not even run is a failure, and the others still tell their part.
        let count = count.unwrap_or_else(|error| {
            println!("{step}: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        total.passed += count.passed;
        total.failed += count.failed;
        let secs = start.elapsed().as_secs_f64();
        summary.push(format!("{step:9} {:5} passed, {} failed, {secs:.0} s", count.passed, count.failed));
    }
    println!("== summary");
    summary.iter().for_each(|l| println!("{l}"));
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 || total.passed == 0 {
        bail!("there are failures");
    }
    Ok(())
}

fn source_checks() -> Result<Count> {
    let mut count = Count::default();
    let formatted = cargo(&["fmt", "--all", "--check", "--quiet"]).status().context("start cargo fmt")?.success();
    let mut results = checks::all()?;
    let faults = if formatted { Vec::new() } else { vec!["cargo fmt would change something".to_owned()] };
    results.push(checks::Checked { name: "format", looked_at: 1, faults });
    for check in results {
        let good = check.faults.is_empty();
        println!("check {}: {} looked at, {}", check.name, check.looked_at, if good { "ok" } else { "FAILED" });
        check.faults.iter().for_each(|f| println!("  {f}"));
        if good { count.passed += 1 } else { count.failed += 1 }
    }
    Ok(count)
}

fn unit() -> Result<Count> {
    cargo_tests(&["--workspace", "--locked", "--features", TEST_FEATURES])
}

/// The test of the tests: bugs that are compiled in must be found.
fn planted() -> Result<Count> {
    // In the simulator's profile: hundreds of runs. Nextest and cargo name the option differently.
    let profile = if find_program("cargo-nextest").is_some() { "--cargo-profile" } else { "--profile" };
    let what = ["--package", "reprise-sim", "--features", "planted", "--test", "planted", "--test", "planted_pair"];
    cargo_tests(&[what.as_slice(), &["--locked", profile, "sim"]].concat())
}

/// The web console in a real browser, against two real boxes.
fn browser() -> Result<Count> {
    built_binaries()?;
    cargo_tests(&["--workspace", "--locked", "--features", BROWSER_FEATURES, "--test", "browser"])
}

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn cargo_tests(what: &[&str]) -> Result<Count> {
    let nextest = find_program("cargo-nextest").is_some();
    let mut command = if nextest {
        let mut command = cargo(&["nextest", "run", "--no-fail-fast", "--status-level", "fail"]);
        command.args(["--final-status-level", "slow", "--cargo-quiet"]).args(what);
        command
    } else {
        let targets: &[&str] = if what.contains(&"--test") { &[] } else { &["--all-targets"] };
        let mut command = cargo(&["test", "--no-fail-fast", "--quiet"]);
        command.args(targets).args(what);
        command
    };
    let (status, lines) = watch(&mut command)?;
    let mut count = lines
        .iter()
        .filter_map(|l| if nextest { nextest_count(l) } else { libtest_count(l) })
        .fold(Count::default(), |a, b| Count { passed: a.passed + b.passed, failed: a.failed + b.failed });
    if !status.success() && count.failed == 0 {
        println!("{} ended with {status}", line(&command));
        count.failed = 1;
    }
    Ok(count)
}

/// `Summary [   1.2s] 12 tests run: 11 passed (1 slow), 1 failed, 0 skipped`; a test that timed out counts as failed.
fn nextest_count(line: &str) -> Option<Count> {
    let rest = line.trim().strip_prefix("Summary ")?.split_once("run:")?.1;
    Some(counted(rest, ','))
}

/// `test result: ok. 11 passed; 0 failed; 0 ignored; ...`.
fn libtest_count(line: &str) -> Option<Count> {
    Some(counted(line.trim().strip_prefix("test result:")?.split_once('.')?.1, ';'))
}

fn counted(text: &str, separator: char) -> Count {
    let mut count = Count::default();
    for part in text.split(separator) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) else {
            continue;
        };
        match what {
            "passed" => count.passed += number,
            "failed" | "timed" | "exec" => count.failed += number,
            _ => {}
        }
    }
    count
}

/// Binary and tester. The build of the unit tests has made both; with `--only` they may be missing or old.
fn built_binaries() -> Result<(PathBuf, PathBuf)> {
    let binaries = target_dir().join("debug");
    let mut build = cargo(&["test", "--workspace", "--no-run", "--locked", "--quiet", "--features", TEST_FEATURES]);
    crate::process::run(&mut build).context("build the binaries")?;
    Ok((binaries.join("reprise"), binaries.join("e2e")))
}

/// The built binary, as its users run it.
fn e2e() -> Result<Count> {
    let (reprise, tester) = built_binaries()?;
    let mut command = Command::new(&tester);
    command.arg("--reprise").arg(&reprise);
    let (status, lines) = watch(&mut command)?;
    let mut count =
        lines.iter().rev().find_map(|l| l.strip_prefix("e2e:")).map(|l| counted(l, ',')).unwrap_or_default();
    if !status.success() && count.failed == 0 {
        println!("{} ended with {status}", line(&command));
        count.failed = 1;
    }
    Ok(count)
}

/// The built binary, and the Linux kernel as its host.
fn linux_initiator() -> Result<Count> {
    let tally = guest::test(&built_binaries()?.0)?;
    Ok(Count { passed: tally.passed, failed: tally.failed })
}

fn fuzz_targets() -> Result<Count> {
    let results = fuzz::all()?;
    let failed: Vec<&str> = results.iter().filter(|r| !r.passed).map(|r| r.name.as_str()).collect();
    if !failed.is_empty() {
        println!("fuzz targets that failed: {}", failed.join(", "));
    }
    Ok(Count { passed: (results.len() - failed.len()) as u64, failed: failed.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let line = "     Summary [   1.207s] 14 tests run: 12 passed (1 slow), 1 failed, 1 timed out, 3 skipped";
        assert_eq!(nextest_count(line), Some(Count { passed: 12, failed: 2 }));
        let line = "test result: FAILED. 11 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(libtest_count(line), Some(Count { passed: 11, failed: 2 }));
        assert_eq!(nextest_count("   Compiling reprise"), None);
        assert_eq!(counted(" 5 passed, 1 failed", ','), Count { passed: 5, failed: 1 });
    }
}
