//! `cargo xtask test`: everything that can be tested on one machine, with one number at the end.
//!
//! What a change must pass before it lands is the short form; it has to end within 45 minutes on two idle cores, so that it is
//! run. The long form is the same steps with their full depth.

mod count;
mod load;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::{BROWSER_FEATURES, TEST_FEATURES};

use crate::process::{cargo, find_program, line, watch};
use crate::{api_tester, checks, fuzz, setup, sim, testers};
pub(crate) use count::Count;
use load::Load;

const USAGE: &str = "\
cargo xtask test [OPTIONS]

  --only STEP[,STEP]   these steps; --list names them
  --parts NAME[,NAME]  only these groups of the step e2e, cases of appliance, scenes of guest, targets of fuzz
  --long               the full depth of each step, hours in all
  --repeat N           so often
  --load               with every processor busy beside the tests
  --list               what both forms hold";

/// How much of a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Depth<'a> {
    pub(crate) long: bool,
    /// Only these of what the step is made of.
    pub(crate) parts: Option<&'a str>,
}

struct Step {
    name: &'static str,
    /// What the short form has; nothing where it leaves the step out.
    short: &'static str,
    /// What the long form has instead; nothing where both are the same.
    long: &'static str,
    has_parts: bool,
    run: fn(Depth<'_>) -> Result<Count>,
}

/// In the order they run: what fails fastest first.
const STEPS: [Step; 10] = [
    Step {
        name: "checks",
        short: "rules about the source that no compiler knows",
        long: "",
        has_parts: false,
        run: |_| source_checks(),
    },
    Step {
        name: "unit",
        short: "all tests of all crates; builds the binaries of the other steps",
        long: "",
        has_parts: false,
        run: |_| unit_tests(),
    },
    Step {
        name: "planted",
        short: "bugs that are compiled in, each hunted from a seed that is known to find it",
        long: "each hunted from the first seed on",
        has_parts: false,
        run: planted,
    },
    Step {
        name: "sim",
        short: "seeds that failed once, 120 fixed ones, every small run, 2,000 of this commit (at most four minutes)",
        long: "10,000 fresh seeds",
        has_parts: false,
        run: |depth| sim::test(depth.long).map(Count::from),
    },
    Step {
        name: "e2e",
        short: "the built binary with real initiators; 40 kills and 20 cuts; libiscsi's suite once per provisioning",
        long: "500 kills and 100 cuts; libiscsi's suite in all its forms",
        has_parts: true,
        run: testers::test_e2e,
    },
    Step {
        name: "web",
        short: "the web console in a browser, against two boxes",
        long: "",
        has_parts: false,
        run: |_| browser(),
    },
    Step {
        name: "guest",
        short: "the Linux kernel as host: one disk, a crash",
        long: "multipath, RAID, XFS and growing too",
        has_parts: true,
        run: testers::test_guest,
    },
    Step {
        name: "appliance",
        short: "the image in QEMU: BIOS, Secure Boot, damaged slots, a pair",
        long: "every case, with programs as they are released",
        has_parts: true,
        run: testers::test_appliance,
    },
    Step {
        name: "api",
        short: "",
        long: "requests from the OpenAPI document, right and wrong ones, by somebody else's tester",
        has_parts: false,
        run: |_| api_tester::run(&[]).map(|()| Count { passed: 1, failed: 0 }),
    },
    Step {
        name: "fuzz",
        short: "every decoder for some seconds",
        long: "10^7 executions of each",
        has_parts: true,
        run: fuzz_targets,
    },
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Option<Vec<String>>,
    parts: Option<String>,
    long: bool,
    repeat: u32,
    load: bool,
    list: bool,
}

fn options(args: &[String]) -> Result<Options> {
    let mut options = Options { repeat: 1, ..Options::default() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
        match arg.as_str() {
            "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
            "--parts" => options.parts = Some(value()?.clone()),
            "--repeat" => options.repeat = value()?.parse().context("--repeat takes a number")?,
            "--long" => options.long = true,
            "--load" => options.load = true,
            "--list" => options.list = true,
            "--help" | "-h" => bail!("{USAGE}"),
            other => bail!("unknown option {other:?}\n\n{USAGE}"),
        }
    }
    let steps = || STEPS.map(|s| s.name).join(", ");
    let only = options.only.iter().flatten();
    if let Some(unknown) = only.clone().find(|o| STEPS.iter().all(|s| s.name != **o)) {
        bail!("no step {unknown:?}; steps: {}", steps());
    }
    if options.parts.is_some() {
        let step = STEPS.iter().find(|s| options.only.as_deref() == Some(&[s.name.to_owned()]));
        if !step.is_some_and(|s| s.has_parts) {
            let with_parts: Vec<&str> = STEPS.iter().filter(|s| s.has_parts).map(|s| s.name).collect();
            bail!("--parts needs --only with one of the steps {}", with_parts.join(", "));
        }
    }
    if options.repeat == 0 {
        bail!("--repeat takes a number from 1 on");
    }
    Ok(options)
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = options(args)?;
    let mut wanted: Vec<&Step> =
        (STEPS.iter()).filter(|s| options.only.as_ref().is_none_or(|only| only.iter().any(|o| o == s.name))).collect();
    if options.list {
        for Step { name, short, long, .. } in wanted {
            println!("{name:9}  {}", if short.is_empty() { "not in the short form" } else { short });
            if !long.is_empty() {
                println!("           --long: {long}");
            }
        }
        return Ok(());
    }
    wanted.retain(|s| options.long || !s.short.is_empty());
    if wanted.is_empty() {
        bail!("that is in the long form only: add --long");
    }
    setup::ensure()?;
    let load = options.load.then(Load::start);
    let depth = Depth { long: options.long, parts: options.parts.as_deref() };
    let mut summary = Vec::new();
    let begin = Instant::now();
    let rounds: Vec<Count> = (1..=options.repeat).map(|round| one_round(round, &wanted, depth, &mut summary)).collect();
    drop(load);
    println!("== summary");
    summary.iter().for_each(|l| println!("{l}"));
    println!("all steps: {:.0} s", begin.elapsed().as_secs_f64());
    let failed_rounds = rounds.iter().filter(|r| r.failed > 0).count();
    if options.repeat > 1 {
        println!("{} rounds, {failed_rounds} of them with failures", options.repeat);
    }
    let total: Count = rounds.into_iter().sum();
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 || total.passed == 0 {
        bail!("there are failures");
    }
    Ok(())
}

fn one_round(round: u32, steps: &[&Step], depth: Depth<'_>, summary: &mut Vec<String>) -> Count {
    let one = |step: &&Step| {
        println!("== {}", step.name);
        let start = Instant::now();
        // A step that could not even run is a failure, and the others still tell their part.
        let count = (step.run)(depth).unwrap_or_else(|error| {
            println!("{}: {error:#}", step.name);
            Count::BROKEN
        });
        let Count { passed, failed } = count;
        let secs = start.elapsed().as_secs_f64();
        let line = format!("{:9} {passed:5} passed, {failed} failed, {secs:.0} s", step.name);
        println!("{line}");
        summary.push(if round > 1 { format!("{line} (round {round})") } else { line });
        count
    };
    steps.iter().map(one).sum()
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

fn unit_tests() -> Result<Count> {
    let all = ["--workspace", "--locked", "--features", TEST_FEATURES];
    let tests = cargo_tests(&all)?;
    // Nextest knows no examples in comments, some of which must not compile.
    let examples = counted(cargo(&["test", "--doc", "--no-fail-fast", "--quiet"]).args(all), Count::of_libtest)?;
    Ok([tests, examples].into_iter().sum())
}

/// The test of the tests: bugs that are compiled in must be found.
fn planted(depth: Depth<'_>) -> Result<Count> {
    // In the simulator's profile: hundreds of runs. Nextest and cargo name the option differently.
    let profile = if find_program("cargo-nextest").is_some() { "--cargo-profile" } else { "--profile" };
    let what = ["--package", "reprise-sim", "--features", "planted", "--test", "planted", "--test", "planted_pair"];
    let what = [what.as_slice(), &["--locked", profile, "sim"]].concat();
    let from_one: &[_] = if depth.long { &[("REPRISE_FROM_ONE", "1")] } else { &[] };
    cargo_tests_with(&what, from_one)
}

/// The web console in a real browser, against two real boxes.
fn browser() -> Result<Count> {
    testers::build_all()?;
    cargo_tests(&["--workspace", "--locked", "--features", BROWSER_FEATURES, "--test", "browser"])
}

fn cargo_tests(what: &[&str]) -> Result<Count> {
    cargo_tests_with(what, &[])
}

/// Runs tests with nextest where it is installed, else with cargo's own runner.
fn cargo_tests_with(what: &[&str], variables: &[(&str, &str)]) -> Result<Count> {
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
    counted(command.envs(variables.iter().copied()), if nextest { Count::of_nextest } else { Count::of_libtest })
}

/// Runs tests and counts them by the lines that say so.
fn counted(command: &mut Command, count: fn(&str) -> Option<Count>) -> Result<Count> {
    let (status, lines) = watch(command)?;
    let mut count: Count = lines.iter().filter_map(|l| count(l)).sum();
    if !status.success() && count.failed == 0 {
        println!("{} ended with {status}", line(command));
        count.failed = 1;
    }
    Ok(count)
}

fn fuzz_targets(depth: Depth<'_>) -> Result<Count> {
    let results = fuzz::all(depth)?;
    let failed: Vec<&str> = results.iter().filter(|r| !r.passed).map(|r| r.name.as_str()).collect();
    if !failed.is_empty() {
        println!("fuzz targets that failed: {}", failed.join(", "));
    }
    Ok(Count { passed: (results.len() - failed.len()) as u64, failed: failed.len() as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        options(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_checked() {
        assert!(parsed("").is_ok_and(|o| o == Options { repeat: 1, ..Options::default() }));
        let many = parsed("--only e2e --parts rot,verify --repeat 20 --load --long");
        assert!(many.is_ok_and(|o| o.repeat == 20 && o.load && o.long && o.parts.as_deref() == Some("rot,verify")));
        for bad in
            ["--only e3e", "--parts rot", "--only unit --parts x", "--only e2e,web --parts rot", "--repeat 0", "--x"]
        {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
