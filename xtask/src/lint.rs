//! `cargo xtask lint`.

use anyhow::Result;

use crate::process::{self, cargo};

/// fmt, clippy and docs of the workspace and of the fuzz targets' source, warnings as errors.
pub(crate) fn run() -> Result<()> {
    process::run(&mut cargo(&["fmt", "--all", "--check"]))?;
    process::run(&mut cargo(&["fmt", "--manifest-path", "tests/fuzz/Cargo.toml", "--check"]))?;
    process::run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))?;
    process::run(
        cargo(&["doc", "--workspace", "--no-deps", "--locked", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    println!("lint: fmt, clippy and docs are clean");
    Ok(())
}
