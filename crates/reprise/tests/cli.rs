//! The binary against a scripted box on a real socket.
#![allow(clippy::unwrap_used)]

#[path = "../../reprise-api/tests/scripted/mod.rs"]
mod scripted;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use reprise_api::{Status, server};
use scripted::{Scripted, sample};
use tokio::sync::watch;

struct Booted {
    service: Arc<Scripted>,
    socket: PathBuf,
    _dir: tempfile::TempDir,
    _stop: watch::Sender<bool>,
    _runtime: tokio::runtime::Runtime,
}

fn start() -> Booted {
    let dir = tempfile::tempdir().expect("directory");
    let socket = dir.path().join("api.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let service = Arc::new(Scripted::default());
    let (stop, stopped) = watch::channel(false);
    let (served, path) = (service.clone(), socket.clone());
    runtime.block_on(async move {
        let listener = server::bind_unix(&path).expect("bind");
        tokio::spawn(server::serve_unix(listener, served, stopped));
    });
    Booted { service, socket, _dir: dir, _stop: stop, _runtime: runtime }
}

impl Booted {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
        command
            .args(line.split(' '))
            .env("REPRISE_SOCKET", &self.socket)
            .env_remove("REPRISE_URL")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().expect("run")
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let out = self.run(line);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{line}: {err}");
        String::from_utf8(out.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, line: &str, code: i32, says: &[&str]) {
        let out = self.run(line);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{line}: {err}");
        for text in says {
            assert!(err.contains(text), "{line} does not say {text:?}: {err}");
        }
    }
}

#[test]
fn status_is_for_people_and_for_programs() {
    let b = start();
    let text = b.ok("status");
    assert!(text.contains("full in 3 h 10 min") && text.contains("lag       2.4 s, 12 MiB"), "{text}");
    let json: Status = serde_json::from_str(&b.ok("status --json")).expect("status");
    assert_eq!(json, sample());
    let raw: serde_json::Value = serde_json::from_str(&b.ok("status --json")).expect("json");
    assert_eq!(raw["groups"][1]["positions"]["peer_durable"], 1_234_321);
}

/// Commands that succeed, and what they show.
const COMMANDS: &[(&str, &str)] = &[
    ("volume list", "pg-old"),
    ("volume list --group mail", "VOLUME"),
    ("volume show pg-data", "67a7b7c7"),
    ("volume create v --size 1G --thin", "Volume v in group main"),
    ("volume create v --size 1G", "done"),
    ("volume create v --size 1G --no-wait", "running"),
    ("volume adopt /dev/x --name v", "Volume v"),
    ("group list", "diverged"),
    ("group create g", "Group g made"),
    ("mirror add pg --to turin", "done"),
    ("mirror pause pg --to turin", "paused"),
    ("mirror resume pg --to turin", "goes on"),
    ("peer list", "turin"),
    ("pair --status", "aired with turin"),
    ("pair 127.0.0.1:1 --code 4711-0815", "Paired with turin"),
    ("alerts", "clock-offset"),
    ("alerts ack 11", "acknowledged"),
    ("events", "The link is up."),
    ("jobs", "mirror copy"),
    ("jobs cancel 7", "cancelled"),
    ("token list", "grafana"),
    ("token create me --rights admin", "rpr_"),
    ("token revoke 0101010101010101", "void"),
    ("openapi", "\"openapi\""),
];

#[test]
fn commands_reach_the_box() {
    let b = start();
    for (line, shown) in COMMANDS {
        let text = b.ok(line);
        assert!(text.contains(shown), "{line}: {text}");
        if *line != "pair --status" {
            let json = b.ok(&format!("{line} --json"));
            for line in json.lines() {
                serde_json::from_str::<serde_json::Value>(line).expect("json lines");
            }
        }
    }
}

#[test]
fn pair_listen_shows_the_code_and_waits() {
    let b = start();
    let text = b.ok("pair --listen");
    assert!(text.contains("Code: 4711-0815") && text.contains("reprise pair 127.0.0.1:3261"), "{text}");
    assert!(text.contains("Paired with turin"), "{text}");
    b.fails("pair 127.0.0.1:1 --code 1", 1, &["the code is wrong", "ask for a fresh code"]);
    b.fails("pair 127.0.0.1:1", 2, &["--code"]);
}

#[test]
fn what_destroys_needs_yes_when_nobody_is_there() {
    let b = start();
    b.fails("volume erase pg-data", 2, &["lost: 50 GiB of data", "--yes"]);
    assert!(b.service.taken().is_empty());
    assert!(b.ok("volume erase pg-data --yes").contains("done"));
    b.ok("volume remove pg-data --yes");
    b.ok("peer remove turin --yes");
    b.ok("peer replace turin --with milan --yes");
    b.ok("mirror remove pg --to turin --yes");
    b.ok("group delete pg --yes");
    assert_eq!(
        b.service.taken(),
        [
            "erase volume pg-data",
            "remove volume pg-data",
            "remove peer turin",
            "replace peer turin with milan",
            "remove mirror of group pg to peer turin",
            "delete group pg"
        ]
    );
    b.fails("volume erase gone --yes", 1, &["there is no volume gone", "reprise volume list"]);
}

/// The reader of the answer, or of what went wrong, is gone or has no room: `| head`, a full disk.
#[test]
fn who_is_not_listened_to_ends_quietly() {
    let b = start();
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("open");
    let gone = || {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        writer
    };
    let run = |line: &str, stdout: Stdio, stderr: Stdio| {
        let mut command = b.command(line);
        let out = command.stdout(stdout).stderr(stderr).output().expect("run");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!err.contains("panicked"), "{line}: {err}");
        (out.status.code(), err.into_owned())
    };
    let endless =
        ["status --watch", "events --follow", "pair --listen", "inspect pg", "jobs wait 7", "volume erase v --yes"];
    for line in COMMANDS.iter().map(|(line, _)| *line).chain(endless) {
        for line in [line.to_owned(), format!("{line} --json")] {
            let (code, err) = run(&line, gone().into(), Stdio::piped());
            assert!(code == Some(0) && !err.contains("error"), "{line}, the reader is gone: {code:?} {err}");
        }
        let (code, err) = run(line, full().into(), Stdio::piped());
        assert_eq!(code, Some(1), "{line}, no room");
        assert!(err.contains("error: write the answer: No space left"), "{line}: {err}");
    }
    for (line, wanted) in [
        ("volume show none", 1),
        ("volume show none --json", 1),
        ("verify --check /nonexistent", 1),
        ("volume erase pg-data", 1),
        ("--url https://127.0.0.1:1 status", 2),
        ("--socket /nonexistent/x status", 3),
    ] {
        for (stdout, stderr) in [(gone().into(), gone().into()), (Stdio::from(full()), Stdio::from(full()))] {
            assert_eq!(run(line, stdout, stderr).0, Some(wanted), "{line}");
        }
    }
    for line in ["mirror add pg --to turin", "volume erase v --yes"] {
        let (code, _) = run(line, Stdio::piped(), full().into());
        assert_eq!(code, Some(0), "{line}: what is done is done, whoever hears of it");
    }
}

#[test]
fn inspect_reads_all_pages_as_json_lines() {
    let b = start();
    let seqs = |line: &str| -> Vec<u64> {
        let text = b.ok(line);
        let seq = |l: &str| serde_json::from_str::<serde_json::Value>(l).expect("json")["seq"].as_u64().expect("seq");
        text.lines().map(seq).collect()
    };
    assert_eq!(seqs("inspect pg"), (5..2505).collect::<Vec<_>>());
    assert_eq!(seqs("inspect pg --from 100 --limit 1500"), (100..1600).collect::<Vec<_>>());
}

#[test]
fn exit_codes_tell_refused_usage_and_unreachable_apart() {
    let b = start();
    b.fails("volume show none", 1, &["there is no volume none", "what to do:"]);
    b.fails("volume create A --size 1G", 2, &["is not a name"]);
    b.fails("--url https://127.0.0.1:1 status", 2, &["--token"]);
    b.fails("--url https://127.0.0.1:1 --token t status", 2, &["--fingerprint"]);
    b.fails("--socket /nonexistent/x status", 3, &["cannot reach the box", "what to do:"]);
    let fingerprint = "00".repeat(32);
    let url = format!("--url https://127.0.0.1:1 --token t --fingerprint {fingerprint} status");
    b.fails(&url, 3, &["cannot reach the box"]);
    let refused = b.run("volume show none --json");
    let error: reprise_api::ApiError = serde_json::from_slice(&refused.stdout).expect("error as JSON");
    assert_eq!(error.code.as_str(), "not-found");
}
