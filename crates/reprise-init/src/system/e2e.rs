//! The whole second stage on real loop devices, file systems, network interfaces and a real DHCP server, in namespaces of
//! its own. Needs root, as most tests of disks do, and fails without.
//!
//! The disks it may see are named to it one by one: a machine that runs tests has disks of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reprise_api::{
    AddressMethod, ConfigState, DiskTake, DiskUsage, ErrorCode, FirmwareStatus, InterfaceKind, InterfaceSettings,
    LogQuery, LogSource, NameSet, NetworkSettings, PoolPlace, Reset, ResetLevel, Slot, SystemCall, SystemReply,
    SystemStatus,
};

use super::Machine;
use super::appliance::{Appliance, Paths};
use super::disks::{CONFIG_NAME, Place};
use super::gpt::{Guid, Table};
use super::network::{Net, lease};
use super::pool;
use super::start::{Setting, assemble, shut_down};

const NAME: &str = "system::e2e::an_appliance_lives_through_starts_resets_and_a_missing_disk";
const ROLE: &str = "REPRISE_INIT_E2E_ROLE";
const FOLDER: &str = "REPRISE_INIT_E2E_FOLDER";
const HOOK_ACTION: &str = "REPRISE_INIT_E2E_ACTION";
const MIB: u64 = 1 << 20;

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// One function in three roles, since it starts itself: outside, in the namespaces, and as the DHCP client's script.
#[test]
fn an_appliance_lives_through_starts_resets_and_a_missing_disk() {
    match std::env::var(ROLE).as_deref() {
        Ok("hook") => lease::hook(&std::env::var(HOOK_ACTION).unwrap()).unwrap(),
        Ok("inside") => inside(&PathBuf::from(std::env::var(FOLDER).unwrap())),
        _ => outside(),
    }
}

fn outside() {
    assert!(nix::unistd::geteuid().is_root(), "this test makes loop devices and namespaces: run it as root");
    let dir = tempfile::tempdir().unwrap();
    for (name, size) in [("boot", 300 * MIB), ("data", 2048 * MIB)] {
        File::create(dir.path().join(name)).unwrap().set_len(size).unwrap();
    }
    let exe = std::env::current_exe().unwrap();
    // The shell is the first process of the namespace; the test must not be, since it would write to the kernel's log.
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
        .arg("\"$0\" \"$@\"; exit $?")
        .arg(exe)
        .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
        .env(ROLE, "inside")
        .env(FOLDER, dir.path())
        .status()
        .unwrap();
    for name in ["boot", "data"] {
        let backed = run("losetup", &["-n", "-O", "NAME", "-j", dir.path().join(name).to_str().unwrap()]);
        for device in backed.lines() {
            run("losetup", &["-d", device]);
        }
    }
    assert!(status.success(), "{status}");
}

/// A network with a DHCP server behind the other end of a cable.
struct Lan {
    holder: Child,
    server: Child,
}

impl Drop for Lan {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.holder] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lan(dir: &Path) -> Lan {
    let holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
    let pid = holder.id().to_string();
    // Until sleep runs the process may still be in our own namespace.
    wait_for("the other network", || {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
    });
    run("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "far", "netns", &pid]);
    let there = ["-t", pid.as_str(), "-n", "ip"];
    run("nsenter", &[&there[..], &["addr", "add", "192.0.2.1/24", "dev", "far"]].concat());
    run("nsenter", &[&there[..], &["link", "set", "far", "up"]].concat());
    let config = dir.join("udhcpd.conf");
    let leases = dir.join("udhcpd.leases");
    File::create(&leases).unwrap();
    let text = format!(
        "start 192.0.2.50\nend 192.0.2.50\ninterface far\nlease_file {}\noption subnet 255.255.255.0\n\
         option router 192.0.2.1\noption dns 192.0.2.1\noption ntpsrv 192.0.2.1\noption lease 600\n",
        leases.display()
    );
    std::fs::write(&config, text).unwrap();
    let server = Command::new("nsenter")
        .args(["-t", &pid, "-n", "busybox", "udhcpd", "-f", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Lan { holder, server }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let ends = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < ends, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Counted(Arc<AtomicU32>);

impl Machine for Counted {
    fn feed(&mut self) -> anyhow::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn confirm(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Bench {
    dir: PathBuf,
    boot: String,
    data: String,
    fed: Arc<AtomicU32>,
}

impl Bench {
    /// A start with these disks.
    fn start(&self, disks: &[&str]) -> Arc<Appliance> {
        let name = |device: &str| device.trim_start_matches("/dev/").to_owned();
        let own = self.dir.join("hook");
        // As after a real start.
        run("ip", &["addr", "flush", "dev", "eth0"]);
        let paths = Paths {
            run: self.dir.join("run"),
            state: self.dir.join("state"),
            pool: self.dir.join("pool"),
            ..Paths::default()
        };
        let firmware = FirmwareStatus {
            version: "1".into(),
            slot: Slot::A,
            confirmed: true,
            fell_back: false,
            watchdog: None,
            secure_boot: false,
        };
        let setting = Setting {
            firmware,
            boot_disk: Some(self.boot.clone().into()),
            machine: Box::new(Counted(self.fed.clone())),
            paths,
            place: Place { only: Some(disks.iter().map(|d| name(d)).collect()), ..Place::default() },
            net: Net::default(),
            reprise: self.dir.join("program"),
            resolv: self.dir.join("resolv.conf"),
            own,
        };
        assemble(setting).unwrap()
    }

    fn ask(&self, call: &SystemCall) -> SystemReply {
        let mut stream = UnixStream::connect(self.dir.join("run/system.sock")).unwrap();
        stream.write_all(format!("{}\n", serde_json::to_string(call).unwrap()).as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn status(&self) -> SystemStatus {
        match self.ask(&SystemCall::Show) {
            SystemReply::Show(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn done(&self, call: &SystemCall) {
        assert!(matches!(self.ask(call), SystemReply::Done(_)), "{:?}", self.ask(call));
    }

    fn addresses(&self) -> Vec<String> {
        let status = self.status();
        let eth0 = status.network.interfaces.iter().find(|i| i.name == "eth0").unwrap();
        eth0.addresses.iter().filter(|a| !a.contains(':')).cloned().collect()
    }

    fn usage(&self, device: &str) -> DiskUsage {
        self.status().disks.iter().find(|d| d.path == device).unwrap().usage.clone()
    }
}

fn bench(dir: &Path) -> Bench {
    run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
    let device = |name: &str| run("losetup", &["-f", "--show", dir.join(name).to_str().unwrap()]);
    let (boot, data) = (device("boot"), device("data"));
    let exe = std::env::current_exe().unwrap();
    let script = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let hook = format!("{ROLE}=hook {HOOK_ACTION}=\"$1\" exec {} --exact {NAME} --nocapture", exe.display());
    script("hook", hook);
    // Only something to keep running: what the daemon does is not this test's matter.
    script("program", "echo \"$0 $*\"; exec sleep 600".to_owned());
    let mut table = Table::new(512, Guid::random().unwrap());
    table.add(7, Guid::random().unwrap(), CONFIG_NAME, MIB, 17 * MIB);
    table.add(8, Guid::random().unwrap(), "reprise-state", 17 * MIB, 81 * MIB);
    let place = Place { only: Some(vec![boot.trim_start_matches("/dev/").to_owned()]), ..Place::default() };
    pool::write_table(&place.list()[0], &table).unwrap();
    Bench { dir: dir.to_owned(), boot, data, fed: Arc::default() }
}

fn inside(dir: &Path) {
    let bench = bench(dir);
    let lan = lan(dir);
    let (boot, data) = (bench.boot.as_str(), bench.data.as_str());

    // The first start: nothing is asked.
    let flashed = std::fs::read(dir.join("boot")).unwrap()[512..1024].to_vec();
    let box_ = bench.start(&[boot, data]);
    let status = bench.status();
    assert_eq!(status.config, ConfigState::Fresh);
    assert_eq!(status.pool, PoolPlace::On { path: data.into(), serial: data.into() });
    assert_eq!(
        (bench.usage(boot), bench.usage(data)),
        (DiskUsage::Boot { free_bytes: 218 * MIB, pool: false }, DiskUsage::Pool)
    );
    assert!(status.name.as_str().starts_with("box-"), "{}", status.name);
    assert_ne!(std::fs::read(dir.join("boot")).unwrap()[512..1024], flashed, "GUIDs of its own");
    let settings = std::fs::read_to_string(dir.join("run/box.toml")).unwrap();
    assert!(settings.contains(&format!("{data}p1")) && settings.contains("[system]"), "{settings}");
    assert!(std::fs::read_to_string("/proc/mounts").unwrap().contains(" xfs "));
    wait_for("an address by DHCP", || bench.addresses() == ["192.0.2.50/24"]);
    assert_eq!(bench.status().network.nameservers, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(std::fs::read_to_string(dir.join("resolv.conf")).unwrap(), "nameserver 192.0.2.1\n");
    let eth0 = bench.status().network.interfaces.into_iter().find(|i| i.name == "eth0").unwrap();
    assert_eq!(eth0.gateways, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    wait_for("processes run", || bench.status().processes.iter().take(2).all(|p| p.running));
    wait_for("the watchdog is fed", || bench.fed.load(Ordering::SeqCst) > 0);
    std::fs::write(dir.join("pool/volume"), "host's data").unwrap();
    std::fs::write(dir.join("state/reprise/identity"), "key").unwrap();
    std::fs::write(dir.join("state/reprise/admin.json"), "password").unwrap();

    // Commands that do not fit are refused, and change nothing.
    let take = SystemCall::DiskTake(DiskTake { path: data.into(), serial: Some(data.into()) });
    assert!(matches!(bench.ask(&take), SystemReply::Error(e) if e.code == ErrorCode::WrongState));
    assert!(matches!(bench.ask(&SystemCall::NetworkKeep), SystemReply::Error(e) if e.code == ErrorCode::WrongState));

    // A name, and a network that nobody keeps.
    bench.done(&SystemCall::NameSet(NameSet { name: "box-a".parse().unwrap() }));
    let fixed = |address: &str| NetworkSettings {
        interfaces: vec![InterfaceSettings {
            name: "eth0".into(),
            kind: InterfaceKind::Ethernet,
            ipv4: AddressMethod::Static {
                addresses: vec![address.into()],
                gateway: Some("192.0.2.1".parse().unwrap()),
            },
            ipv6: AddressMethod::Off,
            mtu: Some(1400),
        }],
        nameservers: vec!["192.0.2.9".parse().unwrap()],
    };
    bench.done(&SystemCall::NetworkSet(fixed("192.0.2.7/24")));
    assert_eq!(bench.addresses(), ["192.0.2.7/24"]);
    assert!(bench.status().network.reverts_in_secs.is_some_and(|s| s <= 120));
    let log = SystemCall::Logs(LogQuery { source: LogSource::System, lines: Some(50) });
    assert!(matches!(bench.ask(&log), SystemReply::Logs(l) if l.lines.iter().any(|l| l.contains("come back"))));
    assert!(
        matches!(bench.ask(&SystemCall::Support { status: None }), SystemReply::Support(s) if s.content_base64.len() > 1000)
    );
    shut_down(&box_);
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains(" xfs "), "all is put away");

    // The second start: everything is as it was; the network is the one that was kept, which is none.
    let box_ = bench.start(&[boot, data]);
    let status = bench.status();
    assert_eq!((status.config, status.name.as_str()), (ConfigState::Good, "box-a"));
    assert_eq!(std::fs::read_to_string(dir.join("pool/volume")).unwrap(), "host's data");
    wait_for("DHCP again", || bench.addresses() == ["192.0.2.50/24"]);
    bench.done(&SystemCall::NetworkSet(fixed("192.0.2.8/24")));
    bench.done(&SystemCall::NetworkKeep);
    bench.done(&SystemCall::Reset(Reset { level: ResetLevel::Settings }));
    shut_down(&box_);

    // The settings are reset; the disk, the data and the keys are not.
    let box_ = bench.start(&[boot, data]);
    assert!(bench.status().name.as_str().starts_with("box-") && bench.status().name.as_str() != "box-a");
    assert_eq!(bench.status().network.settings, NetworkSettings::default());
    assert_eq!(std::fs::read_to_string(dir.join("pool/volume")).unwrap(), "host's data");
    assert!(dir.join("state/reprise/identity").exists() && !dir.join("state/reprise/admin.json").exists());
    bench.done(&SystemCall::NetworkSet(fixed("192.0.2.8/24")));
    bench.done(&SystemCall::NetworkKeep);
    shut_down(&box_);

    // The pool's disk is not there, and comes back while the box runs.
    let box_ = bench.start(&[boot]);
    assert_eq!(bench.status().pool, PoolPlace::Missing { serial: data.into() });
    assert_eq!(bench.addresses(), ["192.0.2.8/24"], "the network was kept");
    assert!(!std::fs::read_to_string(dir.join("run/box.toml")).unwrap().contains("pool"));
    shut_down(&box_);

    // Both copies of the settings are damaged: the pool is found all the same.
    let offset = |copy: u64| MIB + copy * 8 * MIB + 40;
    for copy in 0..2 {
        let file = File::options().write(true).open(boot).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", offset(copy)).unwrap();
        file.sync_all().unwrap();
    }
    run("blockdev", &["--flushbufs", &format!("{boot}p7")]);
    let box_ = bench.start(&[boot, data]);
    let status = bench.status();
    assert!(matches!(status.config, ConfigState::Damaged { .. }), "{:?}", status.config);
    assert_eq!(status.pool, PoolPlace::On { path: data.into(), serial: data.into() });
    assert_eq!(std::fs::read_to_string(dir.join("pool/volume")).unwrap(), "host's data");
    assert!(dir.join("state/reprise/identity").exists());

    // Forget: no keys, no volumes.
    bench.done(&SystemCall::Reset(Reset { level: ResetLevel::Forget }));
    shut_down(&box_);
    let box_ = bench.start(&[boot, data]);
    assert_eq!(bench.status().pool, PoolPlace::On { path: data.into(), serial: data.into() });
    assert!(!dir.join("pool/volume").exists() && !dir.join("state/reprise/identity").exists());

    // Wipe: no bytes.
    let mark = b"a host's secret that must not stay";
    std::fs::write(dir.join("pool/volume"), mark.repeat(1000)).unwrap();
    bench.done(&SystemCall::Reset(Reset { level: ResetLevel::Wipe }));
    shut_down(&box_);
    let box_ = bench.start(&[boot, data]);
    assert!(!dir.join("pool/volume").exists());
    shut_down(&box_);
    let found =
        Command::new("grep").args(["-c", "-a", "-F", std::str::from_utf8(mark).unwrap()]).arg(data).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), "0");
    // No server: a link-local address.
    let lonely = bench.start(&[boot, data]);
    run("ip", &["link", "add", "eth1", "type", "veth", "peer", "name", "veth9"]);
    run("ip", &["link", "set", "veth9", "up"]);
    let link_local = || {
        let interfaces = bench.status().network.interfaces;
        interfaces
            .iter()
            .filter(|i| i.name == "eth1")
            .flat_map(|i| i.addresses.clone())
            .any(|a| a.starts_with("169.254."))
    };
    wait_for("a link-local address on a card that was plugged in", link_local);
    shut_down(&lonely);
    drop(lan);
}
