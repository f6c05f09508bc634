//! The testers of `tests`: programs that are built and started here, and say at the end what they came to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use xtask::TEST_FEATURES;

use crate::process::{cargo, line, run, target_dir, watch};
use crate::setup;
use crate::test::{Count, Depth};

/// `cargo xtask guest-test`.
pub(crate) fn guest(args: &[String]) -> Result<()> {
    setup::ensure()?;
    let folder = build(&["--package", "reprise", "--bin", "reprise"])?;
    run(machines(&folder, "guest").arg("--reprise").arg(folder.join("reprise")).args(args))
}

/// `cargo xtask appliance-test`.
pub(crate) fn appliance(args: &[String]) -> Result<()> {
    let folder = build(&[])?;
    run(machines(&folder, "appliance").args(args))
}

/// The step of `cargo xtask test`: the built binary, as its users run it.
pub(crate) fn test_e2e(depth: Depth<'_>) -> Result<Count> {
    let folder = build_all()?;
    let mut command = Command::new(folder.join("e2e"));
    command.arg("--reprise").arg(folder.join("reprise")).args(depth.long.then_some("--long"));
    counted("e2e", &mut command, depth)
}

/// The step of `cargo xtask test`: the built binary, and the Linux kernel as its host.
pub(crate) fn test_guest(depth: Depth<'_>) -> Result<Count> {
    let folder = build_all()?;
    let mut command = machines(&folder, "guest");
    command.arg("--reprise").arg(folder.join("reprise")).args((!depth.long).then_some("--short"));
    counted("guest", &mut command, depth)
}

/// The step of `cargo xtask test`: the image in machines of its own.
pub(crate) fn test_appliance(depth: Depth<'_>) -> Result<Count> {
    let folder = build_all()?;
    let mut command = machines(&folder, "appliance");
    command.args((!depth.long).then_some("--short"));
    counted("appliance", &mut command, depth)
}

/// Binary and testers. The build of the unit tests has made them; with `--only` they may be missing or old.
pub(crate) fn build_all() -> Result<PathBuf> {
    let mut build = cargo(&["test", "--workspace", "--no-run", "--locked", "--quiet", "--features", TEST_FEATURES]);
    run(&mut build).context("build the binaries")?;
    Ok(target_dir().join("debug"))
}

/// The tester with machines, and what else is named.
fn build(more: &[&str]) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--locked", "--package", "reprise-tests", "--bin", "machines"]);
    run(build.args(more)).context("build the tester")?;
    Ok(target_dir().join("debug"))
}

fn machines(folder: &Path, what: &str) -> Command {
    let mut command = Command::new(folder.join("machines"));
    command.arg(what);
    command
}

/// Runs a tester and reads its last word: its name, what passed and what failed.
fn counted(name: &str, command: &mut Command, depth: Depth<'_>) -> Result<Count> {
    if let Some(parts) = depth.parts {
        command.args(["--only", parts]);
    }
    let (status, lines) = watch(command)?;
    let said = lines.iter().rev().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let mut count = said.map(|words| Count::of_words(words, ',')).unwrap_or_default();
    if !status.success() && count.failed == 0 {
        println!("{} ended with {status}", line(command));
        count.failed = 1;
    }
    Ok(count)
}
