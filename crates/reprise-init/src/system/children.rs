//! Processes the first process starts, and those it inherits.
//!
//! Every process whose parent ends becomes a child of the first one and has to be collected. Children of our own must not
//! be collected that way, since whoever started them waits for them: they are listed, from before they can end.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How often a short-lived tool is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Most bytes kept of what a tool says.
const SAID_MAX: u64 = 8 << 10;

/// Where programs are looked for: the kernel gives its first process no such list, and what the C library takes then leaves
/// out those of mkfs.
const PROGRAMS: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process that the caller waits for, and then gives to [`collected`].
///
/// # Errors
/// The program cannot be started.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", PROGRAMS);
    }
    let mut own = own();
    let child = command.spawn()?;
    own.insert(child.id() as i32);
    Ok(child)
}

/// The caller has waited for it.
pub(crate) fn collected(child: &Child) {
    own().remove(&(child.id() as i32));
}

/// Collects processes that ended and that nobody waits for.
pub(crate) fn reap_orphans() {
    // Held over the search, so that no child of our own comes up in between that is not listed yet.
    let own = own();
    let me = std::process::id();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if is_zombie_of(&stat, me) && !own.contains(&pid) {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Whether a line of `/proc/PID/stat` shows an ended child of `parent`. The name may hold anything, also `)`.
fn is_zombie_of(stat: &str, parent: u32) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    fields.next() == Some("Z") && fields.next().and_then(|p| p.parse().ok()) == Some(parent)
}

/// Runs a tool to its end and gives what it wrote to its standard output.
///
/// # Errors
/// It cannot be started, says no (with what it said), or takes longer than `limit`, and is ended then.
pub(crate) fn tool(program: &str, args: &[&str], limit: Duration) -> Result<String> {
    let shown = || format!("{program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(&mut command).with_context(|| format!("start {program}"))?;
    let out = child.stdout.take().map(|pipe| std::thread::spawn(move || read_some(pipe)));
    let err = child.stderr.take().map(|pipe| std::thread::spawn(move || read_some(pipe)));
    let ends = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < ends => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                break Err(format!("did not end within {} s", limit.as_secs()));
            }
            Err(error) => break Err(error.to_string()),
        }
    };
    collected(&child);
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    match status {
        Ok(status) if status.success() => Ok(text(out)),
        Ok(status) => bail!("{}: {status}: {}", shown(), text(err).trim()),
        Err(why) => bail!("{}: {why}", shown()),
    }
}

fn read_some(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.by_ref().take(SAID_MAX).read_to_end(&mut bytes);
    // The rest is taken, too, so that a tool that says much is not stopped by a full pipe.
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(20);

    #[test]
    fn a_tool_says_why_it_failed() {
        assert_eq!(tool("/bin/sh", &["-c", "echo yes"], SHORT).unwrap(), "yes\n");
        let error = tool("/bin/sh", &["-c", "echo because >&2; exit 3"], SHORT).unwrap_err().to_string();
        assert!(error.contains("because") && error.contains('3'), "{error}");
        assert!(tool("/no/such/tool", &[], SHORT).unwrap_err().to_string().contains("/no/such/tool"));
    }

    /// As the first process, there is no list of folders to look for programs in. Asks itself in a process without one.
    #[test]
    fn programs_of_the_administrator_are_found_without_a_path() {
        const WITHOUT: &str = "REPRISE_INIT_WITHOUT_PATH";
        if std::env::var_os(WITHOUT).is_some() {
            assert!(std::env::var_os("PATH").is_none());
            tool("mkfs.xfs", &["-V"], SHORT).unwrap();
            return;
        }
        let name = "system::children::tests::programs_of_the_administrator_are_found_without_a_path";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let out = command.args(["--exact", name]).env_remove("PATH").env(WITHOUT, "1").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    }

    #[test]
    fn a_tool_that_hangs_is_ended() {
        let error = tool("/bin/sh", &["-c", "exec sleep 600"], Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
    }

    #[test]
    fn a_tool_that_says_much_is_not_stopped_by_it() {
        let said = tool("/bin/sh", &["-c", "yes | head -c 300000; yes | head -c 300000 >&2"], SHORT).unwrap();
        assert_eq!(said.len() as u64, SAID_MAX);
    }

    #[test]
    fn a_zombie_is_told_by_state_and_parent() {
        for (stat, parent, expected) in [
            ("7 (sh) Z 1 7 7", 1, true),
            ("7 (sh) S 1 7 7", 1, false),
            ("7 (sh) Z 2 7 7", 1, false),
            ("7 (a) Z 1 ) S 4 7", 1, false),
            ("7 (a) b) Z 1 7", 1, true),
            ("", 1, false),
        ] {
            assert_eq!(is_zombie_of(stat, parent), expected, "{stat:?}");
        }
    }
}
