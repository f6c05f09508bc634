//! Starting other programs.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    let dir = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    root().join(dir)
}

/// A cargo command in the workspace's root.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs it and fails if it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", line(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", line(command));
    }
    Ok(())
}

/// Runs it, and gives what it wrote to standard output; standard error passes.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output().with_context(|| format!("start {}", line(command)))?;
    if !out.status.success() {
        bail!("{} ended with {}", line(command), out.status);
    }
    String::from_utf8(out.stdout).with_context(|| format!("output of {}", line(command)))
}

/// Runs it without a word, unless it fails: for programs that talk while all is well.
pub fn quiet(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", line(command)))?;
    if !out.status.success() {
        bail!("{} ended with {}: {}", line(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

/// Runs it, shows both its outputs as they come, and gives all lines of both.
pub fn watch(command: &mut Command) -> Result<(ExitStatus, Vec<String>)> {
    let mut child = (command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
        .with_context(|| format!("start {}", line(command)))?;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let copy = |from: Box<dyn Read + Send>, to_err: bool| {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for text in BufReader::new(from).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text).into_owned();
                // A reader that has gone away is no reason to stop the tests.
                let _ =
                    if to_err { writeln!(std::io::stderr(), "{text}") } else { writeln!(std::io::stdout(), "{text}") };
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        })
    };
    let threads: Vec<_> = [
        child.stdout.take().map(|out| copy(Box::new(out), false)),
        child.stderr.take().map(|err| copy(Box::new(err), true)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let status = child.wait()?;
    for thread in threads {
        let _ = thread.join();
    }
    let lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((status, lines))
}

/// Finds a program as the shell would, and where only root's path has it.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|p| p.is_file())
}

/// True for root.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).and_then(|l| l.split_whitespace().nth(1));
    uid == Some("0")
}
