//! Somebody else's tester against the API of a box: it makes requests from the OpenAPI document, right and wrong ones, and
//! compares the answers with the document.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::boxes::{self, Api};
use crate::process::{cargo, find_program, quiet, run as run_program, target_dir};

/// The tester, from the Python package index.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// Requests for each command and phase, at most.
const EXAMPLES: u32 = 40;
/// Seconds that it may take altogether.
const SECS_MAX: u32 = 900;
/// What it may expect, and what it leaves alone.
const CONFIG: &str = include_str!("api_tester.toml");
const SIZE: u64 = 64 << 20;

/// `cargo xtask api-test [--seed N] [--examples N]`: fails if the tester finds anything.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut seed, mut examples) = (None, EXAMPLES);
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        match (flag.as_str(), args.next().and_then(|value| value.parse::<u32>().ok())) {
            ("--seed", Some(value)) => seed = Some(value),
            ("--examples", Some(value)) => examples = value,
            _ => bail!("usage: cargo xtask api-test [--seed N] [--examples N]"),
        }
    }
    run_program(cargo(&["build", "-p", "reprise", "--locked"]).arg("--quiet"))?;
    let dir = target_dir().join("api-test");
    let tester = tester(&dir)?;
    let at = dir.join("box");
    if at.exists() {
        std::fs::remove_dir_all(&at).context("remove the box of the last run")?;
    }
    let config = dir.join("schemathesis.toml");
    std::fs::write(&config, CONFIG).context("write the settings of the tester")?;
    let served = boxes::with_https(&target_dir().join("debug/reprise"), &at, SIZE)?;
    let token = token(&served.api)?;
    let mut command = Command::new(tester);
    command.arg("--config-file").arg(&config).arg("run").arg(format!("{}/api/v1/openapi.json", served.url));
    command.args(["--header", &format!("Authorization: Bearer {token}"), "--tls-verify", "false", "--no-color"]);
    command.args(["--max-examples", &examples.to_string(), "--max-time", &SECS_MAX.to_string(), "--workers", "1"]);
    command.args(["--request-timeout", "70", "--continue-on-failure", "--suppress-health-check", "all"]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    run_program(command.current_dir(&dir)).context("the tester found something; a seed above repeats it")?;
    // What it did must not have hurt the box either.
    served.api.ask(&["status"]).context("the box answers after the test")?;
    Ok(())
}

/// An environment of its own with the tester in it, made once.
fn tester(dir: &Path) -> Result<PathBuf> {
    let venv = dir.join(SCHEMATHESIS.replace("==", "-"));
    let (program, complete) = (venv.join("bin/schemathesis"), venv.join("complete"));
    if !complete.is_file() {
        let python = find_program("python3").context("python3 is missing: cargo xtask setup")?;
        std::fs::create_dir_all(dir)?;
        quiet(Command::new(python).args(["-m", "venv", "--clear"]).arg(&venv)).context("python3-venv is needed")?;
        quiet(Command::new(venv.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]))?;
        std::fs::write(&complete, "").context("mark the tester as complete")?;
    }
    Ok(program)
}

fn token(api: &Api) -> Result<String> {
    let made = api.ask(&["token", "create", "api-test", "--rights", "admin"])?;
    Ok(made["token"].as_str().context("the box gives no token")?.to_owned())
}
