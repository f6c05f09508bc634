//! The processes that are kept running: daemon, web console, serial and screen console.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use reprise_api::ProcessStatus;

use super::children;
use super::logs::{Level, LogFile, say};

/// Pause before the first start anew, and the longest one: a process that fails at once must not take the machine.
const PAUSE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30);
/// A process that ran this long is taken for one that works: the next pause is the shortest again.
const WORKS_AFTER: Duration = Duration::from_secs(60);
/// Longest line of a process that is kept in one piece, bytes.
const LINE_LEN_MAX: u64 = 16 << 10;

/// What is started.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Its name, such as `daemon`.
    pub(crate) name: &'static str,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its log.
    pub(crate) log: PathBuf,
}

#[derive(Default)]
struct State {
    pid: Option<i32>,
    started: Option<Instant>,
    restarts: u32,
    /// Ends in a row, each soon after the start.
    failures: u32,
    last_exit: Option<String>,
    /// It was told to end so as to be started anew: no pause, and not counted.
    asked: bool,
    stopping: bool,
}

struct Service {
    spec: Spec,
    state: Mutex<State>,
    changed: Condvar,
}

/// All of them.
#[derive(Clone)]
pub(crate) struct Services {
    all: Arc<Vec<Arc<Service>>>,
}

/// How a process fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fare {
    /// Since when it runs; none while it does not.
    pub(crate) running_for: Option<Duration>,
    /// Ends in a row, each soon after the start.
    pub(crate) failures: u32,
}

/// Pause after so many ends in a row.
fn pause(failures: u32) -> Duration {
    PAUSE.start().saturating_mul(1 << failures.saturating_sub(1).min(10)).min(*PAUSE.end())
}

fn exit_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            format!(
                "signal {}",
                Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.as_str().to_owned())
            )
        }
        (None, None) => "unknown".to_owned(),
    }
}

impl Services {
    /// Starts them and keeps them running.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start(specs: Vec<Spec>) -> std::io::Result<Self> {
        let make = |spec| Arc::new(Service { spec, state: Mutex::default(), changed: Condvar::new() });
        let all: Vec<Arc<Service>> = specs.into_iter().map(make).collect();
        for service in &all {
            let service = service.clone();
            std::thread::Builder::new().name(service.spec.name.into()).spawn(move || service.keep_running())?;
        }
        Ok(Self { all: Arc::new(all) })
    }

    fn named(&self, name: &str) -> Option<&Arc<Service>> {
        self.all.iter().find(|s| s.spec.name == name)
    }

    /// All of them, in the order they were named.
    pub(crate) fn status(&self) -> Vec<ProcessStatus> {
        let one = |service: &Arc<Service>| {
            let state = service.lock();
            ProcessStatus {
                name: service.spec.name.to_owned(),
                running: state.pid.is_some(),
                restarts: state.restarts,
                last_exit: state.last_exit.clone(),
            }
        };
        self.all.iter().map(one).collect()
    }

    /// How one of them fares.
    pub(crate) fn fare(&self, name: &str) -> Fare {
        let Some(service) = self.named(name) else { return Fare { running_for: None, failures: 0 } };
        let state = service.lock();
        let running_for = state.pid.and(state.started).map(|at| at.elapsed());
        Fare { running_for, failures: state.failures }
    }

    /// Ends one of them with SIGTERM, so that it starts anew with what its settings say then.
    pub(crate) fn restart(&self, name: &str) {
        if let Some(service) = self.named(name) {
            let mut state = service.lock();
            state.asked = true;
            service.signal(&state, Signal::SIGTERM);
            service.changed.notify_all();
        }
    }

    /// Ends one of them for good, with SIGTERM, and after `limit` with SIGKILL.
    pub(crate) fn stop(&self, name: &str, limit: Duration) {
        let Some(service) = self.named(name) else { return };
        let mut state = service.lock();
        state.stopping = true;
        service.signal(&state, Signal::SIGTERM);
        service.changed.notify_all();
        let waited = service.changed.wait_timeout_while(state, limit, |s| s.pid.is_some());
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            say(Level::Error, &format!("{name} did not end within {} s and is killed", limit.as_secs()));
            service.signal(&state, Signal::SIGKILL);
            drop(service.changed.wait_timeout_while(state, Duration::from_secs(5), |s| s.pid.is_some()));
        }
    }
}

impl Service {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number is the process's as long as the state says so: it is collected under the same lock.
    fn signal(&self, state: &State, signal: Signal) {
        if let Some(pid) = state.pid {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn keep_running(&self) {
        let log = Arc::new(Mutex::new(LogFile::new(self.spec.log.clone())));
        loop {
            if self.lock().stopping {
                return;
            }
            let ended = self.run_once(&log);
            let mut state = self.lock();
            let soon = state.started.take().is_none_or(|at| at.elapsed() < WORKS_AFTER);
            state.last_exit = Some(ended.clone());
            if state.stopping {
                self.changed.notify_all();
                return;
            }
            if std::mem::take(&mut state.asked) {
                state.failures = 0;
                continue;
            }
            state.failures = if soon { state.failures + 1 } else { 1 };
            state.restarts += 1;
            let wait = pause(state.failures);
            let name = self.spec.name;
            say(Level::Error, &format!("{name} ended: {ended}; it is started again in {} s", wait.as_secs()));
            drop(self.changed.wait_timeout_while(state, wait, |s| !s.stopping && !s.asked));
            self.lock().asked = false;
        }
    }

    /// Starts the process and waits for its end; says how it ended.
    fn run_once(&self, log: &Arc<Mutex<LogFile>>) -> String {
        let mut command = Command::new(&self.spec.program);
        command.args(&self.spec.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut state = self.lock();
        let mut child = match children::spawn(&mut command) {
            Ok(child) => child,
            Err(error) => return format!("cannot be started: {error}"),
        };
        let pid = child.id() as i32;
        state.pid = Some(pid);
        state.started = Some(Instant::now());
        drop(state);
        say(Level::Info, &format!("{} runs as process {pid}", self.spec.name));
        keep_log(&mut child, log);
        // Waits without collecting, so that the number stays the process's until the lock is held.
        while waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            == Err(nix::errno::Errno::EINTR)
        {}
        let mut state = self.lock();
        let ended = child.wait().map_or_else(|e| e.to_string(), exit_text);
        children::collected(&child);
        state.pid = None;
        state.last_exit = Some(ended.clone());
        self.changed.notify_all();
        ended
    }
}

fn keep_log(child: &mut Child, log: &Arc<Mutex<LogFile>>) {
    let pipes: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
        child.stderr.take().map(|p| Box::new(p) as Box<dyn Read + Send>),
    ];
    for pipe in pipes.into_iter().flatten() {
        let log = log.clone();
        let copy = move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line);
                log.lock().unwrap_or_else(PoisonError::into_inner).line(text.trim_end());
                line.clear();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("log".into()).spawn(copy) {
            say(Level::Error, &format!("keep a log: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &'static str, script: &str, dir: &std::path::Path) -> Spec {
        let args = vec!["-c".to_owned(), script.to_owned()];
        Spec { name, program: "/bin/sh".into(), args, log: dir.join(format!("{name}.log")) }
    }

    fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
        let ends = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < ends, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn pauses_grow_and_have_a_limit() {
        let secs: Vec<u64> = (1..9).map(|n| pause(n).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pause(u32::MAX), *PAUSE.end());
    }

    #[test]
    fn what_ends_is_started_again_and_its_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start(vec![spec("a", "echo out; echo err >&2; exit 3", dir.path())]).unwrap();
        wait_for("it is started again", || services.status()[0].restarts >= 2);
        let status = &services.status()[0];
        assert_eq!(status.last_exit.as_deref(), Some("exit code 3"));
        assert!(services.fare("a").failures >= 2);
        services.stop("a", Duration::from_secs(5));
        let log = std::fs::read_to_string(dir.path().join("a.log")).unwrap();
        assert!(log.contains("out") && log.contains("err"), "{log}");
    }

    #[test]
    fn a_log_without_room_holds_up_no_process() {
        let dir = tempfile::tempdir().unwrap();
        // More than a pipe takes, so that it ends only if somebody reads.
        let script =
            "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done; exit 3";
        let full = Spec { log: "/dev/full".into(), ..spec("a", script, dir.path()) };
        let services = Services::start(vec![full]).unwrap();
        wait_for("it runs to its end", || services.status()[0].last_exit.is_some());
        assert_eq!(services.status()[0].last_exit.as_deref(), Some("exit code 3"));
        services.stop("a", Duration::from_secs(5));
    }

    #[test]
    fn a_restart_that_was_asked_for_is_at_once_and_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let services = Services::start(vec![spec("a", "echo begin; exec sleep 600", dir.path())]).unwrap();
        let pid = || services.all[0].lock().pid;
        wait_for("it runs", || pid().is_some());
        let first = pid();
        services.restart("a");
        wait_for("another runs", || pid().is_some() && pid() != first);
        let status = &services.status()[0];
        assert_eq!((status.restarts, services.fare("a").failures), (0, 0));
        assert_eq!(status.last_exit.as_deref(), Some("signal SIGTERM"));
        services.stop("a", Duration::from_secs(5));
        assert!(!services.status()[0].running);
    }

    #[test]
    fn what_does_not_obey_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        let services = Services::start(vec![spec("a", script, dir.path())]).unwrap();
        let log = dir.path().join("a.log");
        wait_for("it is ready", || std::fs::read_to_string(&log).is_ok_and(|t| t.contains("ready")));
        services.stop("a", Duration::from_millis(200));
        assert_eq!(services.status()[0].last_exit.as_deref(), Some("signal SIGKILL"));
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Spec { program: "/no/such/program".into(), ..spec("a", "", dir.path()) };
        let services = Services::start(vec![missing]).unwrap();
        wait_for("it is told", || services.status()[0].last_exit.is_some());
        assert!(services.status()[0].last_exit.as_deref().unwrap().contains("cannot be started"));
        services.stop("a", Duration::from_secs(5));
    }
}
