//! `cargo xtask demo`: builds the binary and runs its demo.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{cargo, run as run_command, target_dir};
use crate::setup;

pub(crate) fn run(args: &[String]) -> Result<()> {
    setup::ensure()?;
    run_command(&mut cargo(&["build", "--package", "reprise", "--locked"])).context("build the binary")?;
    run_command(Command::new(target_dir().join("debug/reprise")).arg("demo").args(args))
}
