//! `cargo xtask sim`: the pair simulator, on this tree or on a scratch copy with a patch.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output, root, run as run_command, target_dir, watch};

/// Seeds that every test run goes through.
const FIXED_SEEDS: u32 = 120;
/// Fresh seeds of a test run and the minutes it has for them, and their number in a long one.
const FRESH_SEEDS: &str = "2000";
const FRESH_MINUTES: &str = "4";
const FRESH_LONG: &str = "10000";

/// Starts the simulator with the arguments; `--patch FILE` is taken here.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let mut rest = Vec::new();
    let mut patch = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--patch" {
            patch = Some(PathBuf::from(args.next().context("--patch needs a file")?));
        } else {
            rest.push(arg.as_str());
        }
    }
    let tree = match patch {
        Some(patch) => scratch(&patch)?,
        None => root(),
    };
    if rest.is_empty() && tree != root() {
        rest = vec!["--minutes", "2"];
    }
    let binary = build(&tree)?;
    let status = Command::new(&binary).args(&rest).status().context("start the simulator")?;
    if !status.success() {
        bail!("the simulator ended with {status}");
    }
    Ok(())
}

fn build(tree: &Path) -> Result<PathBuf> {
    let target = if tree == root() { target_dir() } else { target_dir().join("patched") };
    let mut command = cargo(&["build", "--profile", "sim", "--package", "reprise-sim", "--bin", "sim", "--quiet"]);
    command.args(["--locked"]).current_dir(tree).env("CARGO_TARGET_DIR", &target);
    run_command(&mut command).context("build the simulator")?;
    Ok(target.join("sim/sim"))
}

/// A copy of the tree, as git and the working folder have it, with the patch applied.
fn scratch(patch: &Path) -> Result<PathBuf> {
    let patch = patch.canonicalize().with_context(|| format!("find patch {}", patch.display()))?;
    let to = target_dir().join("patched/tree");
    if to.exists() {
        std::fs::remove_dir_all(&to).with_context(|| format!("empty {}", to.display()))?;
    }
    let mut list = Command::new("git");
    list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    for name in output(&mut list).context("list the files of the tree")?.lines() {
        let (from, at) = (root().join(name), to.join(name));
        // A file that is deleted and not committed is listed too.
        if !from.is_file() {
            continue;
        }
        std::fs::create_dir_all(at.parent().unwrap_or(&to))?;
        std::fs::copy(&from, &at).with_context(|| format!("copy {name}"))?;
    }
    // Outside of any repository, so that paths are taken as they stand.
    let mut apply = Command::new("git");
    apply.arg("apply").arg(&patch).current_dir(&to).env("GIT_CEILING_DIRECTORIES", target_dir());
    run_command(&mut apply).context("apply the patch")?;
    println!("patched copy: {}", to.display());
    Ok(to)
}

/// What the test run does: the seeds that failed once, a fixed set, fresh ones, and the small runs in full. Gives how
/// many of them passed and failed.
pub(crate) fn test(long: bool) -> Result<(u64, u64)> {
    let binary = build(&root())?;
    let fixed = FIXED_SEEDS.to_string();
    let from = committed_tree();
    let mut fresh =
        if long { vec!["--seeds", FRESH_LONG] } else { vec!["--seeds", FRESH_SEEDS, "--minutes", FRESH_MINUTES] };
    if let Some(from) = from.as_deref().filter(|_| !long) {
        fresh.extend(["--from", from]);
    }
    let runs: [&[&str]; 3] = [&["--kept", "--seeds", &fixed, "--from", "1"], &["--exhaustive", "3"], &fresh];
    let (mut passed, mut failed) = (0, 0);
    for args in runs {
        println!("sim {}", args.join(" "));
        let (status, _) = watch(Command::new(&binary).args(args))?;
        if status.success() { passed += 1 } else { failed += 1 }
    }
    Ok((passed, failed))
}

/// Each committed tree has its own fresh seeds: whoever runs its tests again searches where they were searched before. None
/// where something is not committed; the seeds come from the clock then.
fn committed_tree() -> Option<String> {
    let git = |args: &[&str]| output(Command::new("git").args(args).current_dir(root())).ok();
    git(&["status", "--porcelain"]).filter(String::is_empty)?;
    let tree = git(&["rev-parse", "HEAD^{tree}"])?;
    u64::from_str_radix(tree.get(..12)?, 16).ok().map(|n| n.to_string())
}
