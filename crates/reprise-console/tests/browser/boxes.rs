//! Two real boxes with their web consoles.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use reprise_api::{Client, Nothing, Target};

use crate::WAIT;
use crate::first;

/// A process that ends with the test.
pub(crate) struct Process(Child);

impl Process {
    fn start(program: &Path, args: &[&str], log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap_or_else(|e| panic!("start {}: {e}", program.display())))
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A box.
pub(crate) struct OneBox {
    pub url: String,
    pub daemon: Process,
    _web: Process,
    program: PathBuf,
    dir: PathBuf,
}

/// Two of them.
pub(crate) struct Pair {
    pub a: OneBox,
    pub b: OneBox,
    _dir: tempfile::TempDir,
}

/// The binary under test: `REPRISE_BIN`, or the one beside this test.
fn program() -> PathBuf {
    let path = std::env::var_os("REPRISE_BIN").map_or_else(
        || std::env::current_exe().unwrap().parent().and_then(Path::parent).unwrap().join("reprise"),
        PathBuf::from,
    );
    assert!(path.is_file(), "{} is not there; build it first: cargo build -p reprise", path.display());
    path
}

pub(crate) fn free_port(address: &str) -> u16 {
    let address: IpAddr = address.parse().unwrap();
    TcpListener::bind(SocketAddr::new(address, 0)).unwrap().local_addr().unwrap().port()
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Cookies know no ports: each console needs an address of its own.
        let a = OneBox::start(&dir.path().join("a"), "lyon", "127.0.0.1").await;
        let b = OneBox::start(&dir.path().join("b"), "turin", "127.0.0.2").await;
        Self { a, b, _dir: dir }
    }
}

impl OneBox {
    async fn start(dir: &Path, name: &str, address: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        first::serve(&dir.join("first-process"), name);
        let settings = format!(
            "name = \"{name}\"\nstate_dir = \"{}\"\n[pool]\ndir = \"{}\"\nsize = \"512M\"\n[iscsi]\nlisten = [\"127.0.0.1:0\"]\n\
             [link]\nlisten = \"127.0.0.1:{}\"\n[api]\nsocket = \"{}\"\n[system]\nsocket = \"{}\"\n",
            at("state"),
            at("pool"),
            free_port("127.0.0.1"),
            at("api"),
            at("first-process"),
        );
        std::fs::write(dir.join("box.toml"), settings).unwrap();
        let program = program();
        let port = free_port(address);
        // The console comes first, as it may on the appliance: it waits for the certificate.
        let listen = format!("{address}:{port}");
        let (cert, key) = (at("state/https-cert.pem"), at("state/https-key.pem"));
        let args = ["web", "--socket", &at("api"), "--listen", &listen, "--cert", &cert, "--key", &key];
        let web = Process::start(&program, &args, &dir.join("web.log"));
        let daemon = daemon(&program, dir).await;
        Self { url: format!("https://{listen}"), daemon, _web: web, program, dir: dir.to_owned() }
    }

    /// What sets the first password, as the box shows it.
    pub(crate) async fn code(&self) -> String {
        let client = Client::new(Target::Socket(self.dir.join("api")));
        client.admin_code(&Nothing {}).await.unwrap().code.expect("no password is set")
    }

    pub(crate) async fn start_daemon(&mut self) {
        self.daemon = daemon(&self.program, &self.dir).await;
    }
}

async fn daemon(program: &Path, dir: &Path) -> Process {
    let config = dir.join("box.toml").display().to_string();
    let daemon = Process::start(program, &["run", "--config", &config], &dir.join("daemon.log"));
    let client = Client::new(Target::Socket(dir.join("api")));
    let begun = Instant::now();
    while client.status(&Nothing {}).await.is_err() {
        let log = || std::fs::read_to_string(dir.join("daemon.log")).unwrap_or_default();
        assert!(begun.elapsed() < WAIT, "the daemon does not come up: {}", log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    daemon
}
