//! `cargo xtask appliance-test`: the image starts, on BIOS, on UEFI and under Secure Boot, and comes back from faults.
//!
//! Machines are QEMU's, in software emulation. Every case has a disk of its own, freshly flashed; faults are put on it as they
//! come in the field: a release that does not work, a byte that has turned over, a sector that is gone.

mod cases;
mod link;
mod nvram;
mod pair;
mod person;
mod vm;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::image::{self, Programs};
use crate::process::target_dir;
use cases::{CASES, Case, World};

const USAGE: &str = "\
cargo xtask appliance-test [OPTIONS]

  --short            what CI runs, with programs that are built quickly
  --only NAME[,...]  these cases
  --programs DIR     take `reprise` and `reprise-init` from DIR, do not build them";

/// What a case came to.
struct Outcome {
    name: &'static str,
    what: &'static str,
    /// Time from power-on to serving, or to the fault's end.
    result: Result<Duration>,
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut short, mut only, mut programs) = (false, None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
        match arg.as_str() {
            "--short" => short = true,
            "--only" => only = Some(value()?.as_str()),
            "--programs" => programs = Some(PathBuf::from(value()?)),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("unknown option {other:?}\n\n{USAGE}"),
        }
    }
    let cases: Vec<&Case> = match only {
        None => CASES.iter().filter(|c| c.short || !short).collect(),
        Some(names) => named(names)?,
    };
    let built = if short { Programs::Quick } else { Programs::Released };
    let failed = play(&cases, programs.as_deref().map_or(built, Programs::Given))?;
    if failed > 0 {
        bail!("there are failures");
    }
    Ok(())
}

fn named(names: &str) -> Result<Vec<&'static Case>> {
    let all = || CASES.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
    let find = |n| CASES.iter().find(|c| c.name == n).with_context(|| format!("no case {n:?}; cases: {}", all()));
    names.split(',').map(find).collect()
}

/// Gives how many have failed.
fn play(cases: &[&Case], programs: Programs<'_>) -> Result<usize> {
    if cases.is_empty() {
        bail!("there is no case to run");
    }
    let image = image::build(programs, None)?;
    let world = World::new(image, target_dir().join("appliance"))?;
    let mut outcomes = Vec::new();
    for case in cases {
        let start = Instant::now();
        let result = (case.run)(&world, case.name);
        match &result {
            Ok(time) => println!(
                "{}: ok, {:.1} s ({:.0} s in all)",
                case.name,
                time.as_secs_f64(),
                start.elapsed().as_secs_f64()
            ),
            Err(error) => println!("{}: FAILED: {error:#}", case.name),
        }
        outcomes.push(Outcome { name: case.name, what: case.what, result });
    }
    let report = report(&outcomes, &world.notes.borrow())?;
    let file = world.dir.join("report.md");
    std::fs::write(&file, &report)?;
    println!("\n{report}");
    let failed = outcomes.iter().filter(|o| o.result.is_err()).count();
    let passed = outcomes.len() - failed;
    println!("appliance: {passed} passed, {failed} failed, serial logs in {}", world.dir.display());
    Ok(failed)
}

fn report(outcomes: &[Outcome], notes: &[String]) -> Result<String> {
    let mut text =
        format!("Software emulation, {}.\n\n| case | what | seconds |\n|---|---|---|\n", nvram::qemu_version()?);
    for Outcome { name, what, result } in outcomes {
        let result = match result {
            Ok(time) => format!("{:.1}", time.as_secs_f64()),
            Err(_) => "failed".to_owned(),
        };
        writeln!(text, "| {name} | {what} | {result} |")?;
    }
    for note in notes {
        write!(text, "\n* {note}")?;
    }
    Ok(text)
}
