//! The real daemon with a pool: what it takes from outside, and what it leaves behind.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reprise_api::Status;

/// Largest file of the daemon, MiB: above the cache, so that larger homes fail on every file system.
const FILE_MIB_MAX: u64 = 300;

struct Daemon {
    child: Option<Child>,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    fn planned() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let settings = format!(
            "name = \"a\"\nstate_dir = \"{}\"\n[pool]\ncache = \"{}\"\ndata = \"{}\"\nsize = \"512M\"\n\
             [iscsi]\nlisten = [\"127.0.0.1:0\"]\n[link]\nlisten = \"127.0.0.1:0\"\n[api]\nsocket = \"{}\"\n",
            at("state"),
            at("pool/cache"),
            at("pool/data"),
            at("s")
        );
        std::fs::create_dir_all(dir.path().join("pool/data")).unwrap();
        std::fs::write(dir.path().join("box.toml"), settings).unwrap();
        Self { child: None, dir }
    }

    fn start() -> Self {
        let mut this = Self::planned();
        let log = File::create(this.at("log")).unwrap();
        this.run(log.into());
        this
    }

    fn run(&mut self, log: Stdio) {
        let mut command = Command::new("sh");
        // In units of 512 bytes; the signal is ignored, so that the file system says no.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", FILE_MIB_MAX * 2048);
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_reprise"), "run", "--config"]).arg(self.at("box.toml"));
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let start = Instant::now();
        while !self.cli(&["status"]).status.success() {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come up: {}", self.log());
            self.still_runs();
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn still_runs(&mut self) {
        let ended = self.child.as_mut().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "it ended with {}: {}", ended.unwrap(), self.log());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reprise"));
        command.args(args).env("REPRISE_SOCKET", self.at("s")).env_remove("REPRISE_URL").stdin(Stdio::null());
        command.output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let out = self.cli(args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    fn refuses(&self, args: &[&str], says: &str) {
        let out = self.cli(args);
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains(says), "{args:?} does not say {says:?}: {err}");
    }

    fn status(&self) -> Status {
        serde_json::from_str(&self.ok(&["status", "--json"])).unwrap()
    }

    /// No groups, and no segment of the cache in use, but for the one that the box measures its cache in for a moment.
    #[track_caller]
    fn is_empty(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status();
            assert!(status.groups.is_empty(), "{:?}", status.groups);
            let used = status.this_box.pool.segments_used;
            if used == 0 {
                return;
            }
            assert!(Instant::now() < end, "{used} segments are in use");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A log that nobody reads, or for which there is no room, ends no box and keeps none from starting.
#[test]
fn a_log_that_cannot_be_written_ends_no_box() {
    let mut daemon = Daemon::planned();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    daemon.run(full().into());
    daemon.ok(&["volume", "create", "v", "--size", "4M"]);
    daemon.still_runs();
    daemon.kill();
    daemon.run(full().into());
    daemon.ok(&["volume", "remove", "v", "--yes"]);
    daemon.still_runs();
    daemon.kill();
    let (reader, writer) = std::io::pipe().unwrap();
    daemon.run(writer.into());
    drop(reader);
    daemon.ok(&["volume", "create", "w", "--size", "4M"]);
    daemon.still_runs();
}

/// A volume that cannot be made took a place of a group and a segment of the cache with it.
#[test]
fn what_cannot_be_made_leaves_no_group() {
    let daemon = Daemon::start();
    daemon.refuses(&["volume", "create", "v", "--size", "400M", "--thin", "--group", "g"], "File too large");
    daemon.is_empty();
    // Here a job finds out, after the command was answered.
    daemon.refuses(&["volume", "create", "v", "--size", "400M", "--group", "g"], "File too large");
    daemon.is_empty();
    daemon.refuses(&["volume", "create", "v", "--size", "1M", "--group", "g", "--mirror", "nobody"], "nobody");
    daemon.is_empty();
    daemon.refuses(&["volume", "adopt", "/nonexistent", "--name", "v", "--group", "g"], "No such file");
    daemon.is_empty();
    // A group that somebody made stays, and so does one with a volume.
    daemon.ok(&["group", "create", "kept"]);
    daemon.refuses(&["volume", "create", "v", "--size", "400M", "--group", "kept"], "File too large");
    daemon.ok(&["volume", "create", "w", "--size", "1M", "--group", "used"]);
    daemon.refuses(&["volume", "create", "v", "--size", "400M", "--thin", "--group", "used"], "File too large");
    let names: Vec<String> = daemon.status().groups.iter().map(|g| g.name.to_string()).collect();
    assert_eq!(names, ["kept", "used"]);
}

/// Images that are not raw, and what has no end or blocks a reader.
#[test]
fn only_raw_images_and_files_with_an_end_are_taken() {
    let daemon = Daemon::start();
    let (socket, pipe) = (daemon.at("socket"), daemon.at("pipe"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let adopt = |path: &Path, says: &str| {
        daemon.refuses(&["volume", "adopt", path.to_str().unwrap(), "--name", "v", "--group", "g"], says);
    };
    for (offset, magic, format) in [
        (0, &b"QFI\xfb"[..], "qcow2"),
        (0, b"KDMV", "vmdk"),
        (0, b"vhdxfile", "vhdx"),
        (0x40, b"\x7f\x10\xda\xbe", "vdi"),
        (0, b"LUKS\xba\xbe\0\x01", "luks"),
    ] {
        let path = daemon.at("image");
        let mut bytes = vec![0; 1 << 20];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        std::fs::write(&path, &bytes).unwrap();
        adopt(&path, &format!("is a {format} image"));
        adopt(&path, "qemu-img convert");
    }
    for path in [Path::new("/dev/zero"), &socket, &pipe] {
        adopt(path, "name a block device or a raw image");
    }
    assert!(daemon.status().groups.is_empty());
    for path in [Path::new("/dev/zero"), &socket, &pipe] {
        let path = path.to_str().unwrap();
        daemon.refuses(&["run", "--config", path], "name a file");
        daemon.refuses(&["notify", "set", "--file", path], "name a file");
        daemon.refuses(&["verify", "--check", path], "name a file");
        daemon.refuses(&["demo", "--image", path], "is no disk image");
    }
    // A host encrypts its volume: as long as it is the box's own, it is taken again as it is.
    let text = daemon.ok(&["volume", "create", "own", "--size", "1M", "--json"]);
    let made: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let home = made["volume"]["home"].as_str().unwrap().to_owned();
    daemon.ok(&["volume", "remove", "own", "--yes"]);
    let mut bytes = std::fs::read(&home).unwrap();
    bytes[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    std::fs::write(&home, bytes).unwrap();
    daemon.ok(&["volume", "adopt", &home, "--name", "own"]);
}
