//! The real daemon on an appliance that has no disk for its pool yet.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reprise_api::{Client, ClientError, ErrorCode, Login, Nothing, ResetLevel, Target};

struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), "")
    }

    fn start_with(dir: tempfile::TempDir, more: &str) -> Self {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let settings = format!(
            "name = \"a\"\nstate_dir = \"{}\"\n[api]\nsocket = \"{}\"\n[system]\nsocket = \"{}\"\n{more}",
            at("state"),
            at("s"),
            at("first-process")
        );
        let config = dir.path().join("box.toml");
        std::fs::write(&config, settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
        command.arg("run").arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let this = Self { child: command.spawn().unwrap(), dir };
        let start = Instant::now();
        while !this.socket().exists() {
            assert!(start.elapsed() < Duration::from_secs(60), "the daemon does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("s")
    }

    fn cli(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
        command.args(args).env("REPRISE_SOCKET", self.socket()).env_remove("REPRISE_URL");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn says(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
}

#[test]
fn a_box_without_a_disk_serves_what_needs_none() {
    let daemon = Daemon::start();
    let refused = daemon.cli(&["status"], "");
    assert!(!refused.status.success() && says(&refused).contains("no disk for its pool"), "{}", says(&refused));
    let code = daemon.cli(&["password", "code"], "");
    assert!(code.status.success() && says(&code).trim().len() == "4F7-K2M-9TX".len(), "{}", says(&code));
    let unequal = daemon.cli(&["password"], "correct horse\nbattery staple\n");
    assert!(!unequal.status.success() && says(&unequal).contains("not the same"), "{}", says(&unequal));
    let set = daemon.cli(&["password"], "correct horse\ncorrect horse\n");
    assert!(set.status.success(), "{}", says(&set));
    let code = daemon.cli(&["password", "code"], "");
    assert!(code.status.success() && says(&code).contains("A password is set"), "{}", says(&code));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = Client::new(Target::Socket(daemon.socket()));
    runtime.block_on(async {
        assert!(client.admin_status(&Nothing {}).await.unwrap().password_set);
        let login = |password: &str| Login { password: password.into(), from: "192.0.2.1".into() };
        client.admin_login(&login("correct horse")).await.unwrap();
        let code = |error: ClientError| match error {
            ClientError::Refused(error) => Some(error.code),
            _ => None,
        };
        let wrong = client.admin_login(&login("wrong horse")).await.unwrap_err();
        assert_eq!(code(wrong), Some(ErrorCode::Unauthorized));
        // There is no first process behind this daemon: its commands say so instead of hanging.
        let silent = client.system_show(&Nothing {}).await.unwrap_err();
        assert_eq!(code(silent), Some(ErrorCode::Internal));
        let action = reprise_api::Action::SystemReset { level: ResetLevel::Wipe };
        let preview = client.action_preview(&reprise_api::PreviewRequest { action }).await.unwrap();
        assert_eq!(preview.losses.len(), 3);
        let groups = client.group_list(&Nothing {}).await.unwrap_err();
        assert_eq!(code(groups), Some(ErrorCode::NoPool));
    });
    // The certificate is there for the web console, and nobody else may read its key.
    let key = daemon.dir.path().join("state/https-key.pem");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&key).unwrap());
    assert_eq!(mode & 0o077, 0);
    assert!(Path::new(&key).with_file_name("https-cert.pem").exists());
}

#[test]
fn a_pool_that_does_not_open_is_told_at_the_consoles() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, data) = (dir.path().join("cache"), dir.path().join("data"));
    // Somebody else's disk: nothing of ours is on it, and it is not blank.
    std::fs::write(&cache, [0x5a; 1 << 20]).unwrap();
    std::fs::create_dir(&data).unwrap();
    let pool = format!("[pool]\ncache = \"{}\"\ndata = \"{}\"\n", cache.display(), data.display());
    let daemon = Daemon::start_with(dir, &pool);
    let refused = daemon.cli(&["status"], "");
    assert!(!refused.status.success(), "{}", says(&refused));
    assert!(says(&refused).contains("the pool cannot be opened"), "{}", says(&refused));
    assert!(says(&refused).contains("tried again"), "{}", says(&refused));
    // What needs no pool works.
    let set = daemon.cli(&["password"], "correct horse\ncorrect horse\n");
    assert!(set.status.success(), "{}", says(&set));
    assert_eq!(std::fs::read(&cache).unwrap(), [0x5a; 1 << 20], "and nothing is written there");
}
