//! The start of the appliance, what it does all the time, and its end.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc::SIGPWR;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::resource::{Resource, setrlimit};
use reprise_api::{FirmwareStatus, PoolPlace, PowerAction, ResetLevel, Slot};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::appliance::{Appliance, Config, Paths, Pool, lock, uptime_secs};
use super::clock::Clock;
use super::config::{ResetIntent, Saved};
use super::disks::{CONFIG_NAME, Disk, Place};
use super::health::{ASK_EVERY, Answer, FEED_EVERY, Health, Seen, Verdict, ask};
use super::logs::{self, Level, say};
use super::network::{self, Net, Network};
use super::pool;
use super::services::{Services, Spec};
use super::{Machine, children, reset};

/// The partition of keys, control store and logs.
const STATE_NAME: &str = "reprise-state";
/// Longest wait for the disk the firmware runs from.
const BOOT_DISK_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the pool before the daemon is started without it: making it takes some seconds.
const POOL_TIME_MAX: Duration = Duration::from_secs(20);
/// Longest time the daemon has to end what hosts have under way.
const DAEMON_STOP_MAX: Duration = Duration::from_secs(60);
/// Longest time the consoles have.
const CONSOLE_STOP_MAX: Duration = Duration::from_secs(3);
/// How often ended processes are collected, and how often a wish to turn the machine off is seen.
const REAP_EVERY: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Files a process may have open.
const FILES_MAX: u64 = 65_536;
/// Where the programs are.
const REPRISE: &str = "/usr/bin/reprise";
/// Consoles, where the machine has them.
const TTYS: [&str; 3] = ["ttyS0", "ttyS1", "tty1"];

/// Runs the appliance. Does not come back: the machine starts again, or is off.
pub(super) fn run(firmware: FirmwareStatus, boot_disk: Option<PathBuf>, machine: Box<dyn Machine>) -> ! {
    mount_kernel();
    say(Level::Info, &format!("firmware {}, {}", firmware.version, slot_text(firmware.slot)));
    // Without it Ctrl-Alt-Del stops the machine at once; with it, it asks this process.
    if let Err(error) = set_cad_enabled(false) {
        say(Level::Info, &format!("Ctrl-Alt-Del: {error}"));
    }
    // Hosts and peers hold many connections; what the kernel gives its first process is a thousand files.
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, FILES_MAX, FILES_MAX) {
        say(Level::Error, &format!("allow more open files: {error}"));
    }
    let action = match bring_up(firmware, boot_disk, machine) {
        Ok(appliance) => {
            let action = serve(&appliance);
            shut_down(&appliance);
            action
        }
        Err(error) => {
            // What is left to try is another start, and, on firmware on trial, the other slot.
            say(Level::Error, &format!("the box cannot start: {error:#}"));
            std::thread::sleep(Duration::from_secs(10));
            PowerAction::Reboot
        }
    };
    nix::unistd::sync();
    let mode = match action {
        PowerAction::Reboot => RebootMode::RB_AUTOBOOT,
        PowerAction::PowerOff => RebootMode::RB_POWER_OFF,
    };
    let Err(error) = reboot(mode);
    say(Level::Error, &format!("the machine does not obey: {error}"));
    loop {
        std::thread::park();
    }
}

fn slot_text(slot: Slot) -> &'static str {
    match slot {
        Slot::A => "slot a",
        Slot::B => "slot b",
    }
}

/// Mounts the kernel's own file systems, where the first stage has not.
fn mount_kernel() {
    let noexec = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, at, flags, options) in [
        ("proc", "/proc", noexec, None),
        ("sysfs", "/sys", noexec, None),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, None),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755,size=16m")),
        ("tmpfs", "/tmp", noexec, Some("mode=1777,size=64m")),
    ] {
        // Until /proc is there nothing is known of mounts; mounting it twice is refused.
        if is_mounted(Path::new("/proc"), at) {
            continue;
        }
        if let Err(error) = nix::mount::mount(Some(kind), at, Some(kind), flags, options)
            && error != nix::errno::Errno::EBUSY
        {
            say(Level::Error, &format!("mount {at}: {error}"));
        }
    }
}

fn is_mounted(proc: &Path, at: &str) -> bool {
    let mounts = fs::read_to_string(proc.join("self/mounts")).unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(at))
}

/// Where what runs can be reached, and what it is made of. The same for a test, in other places.
pub(super) struct Setting {
    pub(super) firmware: FirmwareStatus,
    pub(super) boot_disk: Option<PathBuf>,
    pub(super) machine: Box<dyn Machine>,
    pub(super) paths: Paths,
    pub(super) place: Place,
    pub(super) net: Net,
    /// The program of the daemon and the consoles.
    pub(super) reprise: PathBuf,
    pub(super) resolv: PathBuf,
    /// This program.
    pub(super) own: PathBuf,
}

fn bring_up(firmware: FirmwareStatus, boot_disk: Option<PathBuf>, machine: Box<dyn Machine>) -> Result<Arc<Appliance>> {
    let setting = Setting {
        firmware,
        boot_disk,
        machine,
        paths: Paths::default(),
        place: Place::default(),
        net: Net::default(),
        reprise: REPRISE.into(),
        resolv: "/run/resolv.conf".into(),
        own: fs::read_link("/proc/self/exe").context("find this program")?,
    };
    assemble(setting)
}

/// Brings everything up, in order: settings, a reset, state, network, clock, pool, processes.
pub(super) fn assemble(setting: Setting) -> Result<Arc<Appliance>> {
    let started = Instant::now();
    let Setting { firmware, boot_disk, machine, paths, place, net, reprise, resolv, own } = setting;
    fs::create_dir_all(&paths.run).with_context(|| format!("make {}", paths.run.display()))?;
    let machine = Arc::new(Mutex::new(machine));
    let busy = Arc::new(AtomicBool::new(false));
    let up: Arc<OnceLock<Arc<Appliance>>> = Arc::new(OnceLock::new());
    watch_over(&firmware, machine, busy.clone(), up.clone(), started, &paths)?;

    let boot = find_boot_disk(&place, boot_disk.as_deref(), &paths.proc);
    let partition = |name: &str| -> Result<PathBuf> {
        let disk = boot.as_ref().context("the disk the firmware runs from is not found")?;
        let table = disk.table().context("the disk the firmware runs from has no partition table")?;
        let number = table.named(name).with_context(|| format!("there is no partition {name}"))?.number;
        Ok(place.ensure_partition(disk, table, number)?)
    };
    let mut config = Config::open(partition(CONFIG_NAME));
    say(Level::Info, &format!("settings: {:?}", config.state));
    if let Some(disk) = boot.as_ref().filter(|_| !config.saved().guids_own) {
        own_guids(disk, &mut config);
    }
    let state_device = partition(STATE_NAME);
    carry_out_reset(&mut config, &place, &busy, state_device.as_deref().ok());
    let no_state = mount_state(state_device, &paths).err().map(|error| {
        let reason = format!("the state partition cannot be used: {error:#}");
        say(Level::Error, &reason);
        reason
    });
    for folder in [paths.logs(), paths.daemon_state()] {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    logs::keep_in(paths.logs().join("system.log"));
    finish_settings_reset(&mut config, &paths);

    let saved = config.saved().clone();
    let name = saved.name.clone().unwrap_or_else(|| own_name(&net));
    if saved.name.is_none() {
        let made = name.clone();
        if let Err(error) = config.change(|s| s.name = Some(made)) {
            say(Level::Error, &format!("write down the name: {error}"));
        }
    }
    if let Err(error) = nix::unistd::sethostname(&name) {
        say(Level::Error, &format!("set the host name: {error}"));
    }

    let hook = paths.run.join(network::lease::HOOK_NAME);
    let _ = fs::remove_file(&hook);
    symlink(own, &hook).context("make the DHCP script")?;
    let network_paths = network::Paths { resolv, socket: paths.run.join("lease.sock"), hook };
    let save = up.clone();
    let save = move |settings: &reprise_api::NetworkSettings| match save.get() {
        Some(appliance) => lock(&appliance.config).change(|s| s.network = settings.clone()),
        None => Err(std::io::Error::other("the box is still starting")),
    };
    let network = Network::start(net, network_paths, name.clone(), saved.network.clone(), Box::new(save))?;
    let servers = up.clone();
    let servers = move || servers.get().map(|a| a.network.servers()).unwrap_or_default();
    let clock = Clock::start(saved.time_servers.clone(), Box::new(servers))?;

    let confirmed = AtomicBool::new(firmware.confirmed);
    let place_of_pool = PoolPlace::None { reason: "the disks are being looked at".to_owned() };
    let appliance = Arc::new(Appliance {
        firmware,
        confirmed,
        paths,
        place,
        boot: boot.map(|d| d.path),
        config: Mutex::new(config),
        name: Mutex::new(name),
        network,
        clock,
        services: OnceLock::new(),
        pool: Mutex::new(Pool { place: place_of_pool, halves: None, cache_guid: None, settled: false }),
        busy,
        taking: Mutex::new(()),
        power: Mutex::new(None),
        no_state,
        started,
    });
    let _ = up.set(appliance.clone());
    let handler = appliance.clone();
    super::socket::serve(&appliance.paths.system_socket(), Arc::new(move |call| handler.handle(call)))?;
    let pool = appliance.clone();
    std::thread::Builder::new().name("pool".into()).spawn(move || pool.settle_pool())?;
    let waits = Instant::now();
    while !lock(&appliance.pool).settled && waits.elapsed() < POOL_TIME_MAX {
        std::thread::sleep(Duration::from_millis(20));
    }
    // From here on whoever finds the pool restarts the daemon.
    lock(&appliance.pool).settled = true;
    appliance.write_box_toml()?;
    let services = Services::start(specs(&reprise, &appliance.paths))?;
    let _ = appliance.services.set(services);
    Ok(appliance)
}

fn specs(reprise: &Path, paths: &Paths) -> Vec<Spec> {
    let text = |path: PathBuf| path.display().to_string();
    let own = |parts: &[&str]| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<String>>();
    let socket = text(paths.api_socket());
    let spec = |name, args: Vec<String>, log: &str| Spec {
        name,
        program: reprise.to_owned(),
        args,
        log: paths.logs().join(log),
    };
    let (cert, key) = (paths.daemon_state().join("https-cert.pem"), paths.daemon_state().join("https-key.pem"));
    let mut web = own(&["web", "--socket", &socket, "--listen", "[::]:443", "--http", "[::]:80"]);
    web.extend(["--cert".to_owned(), text(cert), "--key".to_owned(), text(key)]);
    let mut all = vec![
        spec("daemon", own(&["run", "--config", &text(paths.box_toml())]), "daemon.log"),
        spec("web", web, "web.log"),
    ];
    for tty in TTYS.into_iter().filter(|tty| has_terminal(tty)) {
        let system = text(paths.system_socket());
        let args = own(&["console", "--tty", tty, "--socket", &socket, "--system", &system]);
        all.push(spec(tty, args, &format!("{tty}.log")));
    }
    all
}

/// Whether somebody can sit at that terminal. The kernel makes nodes for serial ports that the machine has not: those have
/// no type.
fn has_terminal(tty: &str) -> bool {
    let kind = fs::read_to_string(Path::new("/sys/class/tty").join(tty).join("type"));
    Path::new("/dev").join(tty).exists() && kind.map_or(!tty.starts_with("ttyS"), |kind| kind.trim() != "0")
}

/// A name for a box that nobody has named: from the hardware address of its first card, so that two differ.
fn own_name(net: &Net) -> String {
    let card = net.cards().first().and_then(|card| net.mac(card));
    let tail = card.map(|mac| [mac[3], mac[4], mac[5]]).unwrap_or_else(|| {
        let mut drawn = [0; 3];
        let _ = getrandom::fill(&mut drawn);
        drawn
    });
    format!("box-{:02x}{:02x}{:02x}", tail[0], tail[1], tail[2])
}

/// The disk the firmware runs from: the one that is named, else the one with the root partition the kernel was told of.
fn find_boot_disk(place: &Place, named: Option<&Path>, proc: &Path) -> Option<Disk> {
    let root = root_guid(&fs::read_to_string(proc.join("cmdline")).unwrap_or_default());
    let ends = Instant::now() + BOOT_DISK_TIME_MAX;
    loop {
        let found = place.list().into_iter().find(|disk| match (named, &root) {
            (Some(path), _) => disk.path == path,
            (None, Some(guid)) => {
                disk.table().is_some_and(|t| t.partitions.iter().any(|p| &p.guid.to_string() == guid))
            }
            (None, None) => disk.table().is_some_and(|t| t.named(CONFIG_NAME).is_some()),
        });
        if found.is_some() || Instant::now() >= ends {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The root partition on the kernel's command line.
fn root_guid(cmdline: &str) -> Option<String> {
    let word = cmdline.split_ascii_whitespace().find_map(|w| w.strip_prefix("reprise.root=PARTUUID="))?;
    Some(word.to_ascii_lowercase())
}

/// At the first start: GUIDs of its own for the disk.
fn own_guids(disk: &Disk, config: &mut Config) {
    let done = pool::refresh_guids(disk)
        .and_then(|()| config.change(|s| s.guids_own = true).context("write down that the GUIDs are the box's own"));
    match done {
        Ok(()) => say(Level::Info, &format!("{} has GUIDs of its own", disk.path.display())),
        Err(error) => say(Level::Error, &format!("give {} GUIDs of its own: {error:#}", disk.path.display())),
    }
}

/// Mounts the state partition. One that has never been written is made; a damaged one is not, since keys are on it.
fn mount_state(device: Result<PathBuf>, paths: &Paths) -> Result<()> {
    fs::create_dir_all(&paths.state).with_context(|| format!("make {}", paths.state.display()))?;
    let mounted = device.and_then(|device| {
        if is_blank(&device).with_context(|| format!("read {}", device.display()))? {
            say(Level::Notice, "makes the state partition");
            reset::make_state(&device)?;
        } else if Path::new("/sbin/e2fsck").exists() {
            // Repairs what is safe to repair; the mount below says whether that was enough.
            let path = device.display().to_string();
            if let Err(error) = children::tool("/sbin/e2fsck", &["-p", &path], Duration::from_secs(60)) {
                say(Level::Notice, &format!("{error:#}"));
            }
        }
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some(&device), &paths.state, Some("ext4"), flags, Some("errors=remount-ro"))
            .with_context(|| format!("mount {}", device.display()))
    });
    if mounted.is_err() {
        // The consoles need a place for their files, so that somebody can see what is wrong.
        nix::mount::mount(Some("tmpfs"), &paths.state, Some("tmpfs"), MsFlags::MS_NOSUID, Some("size=64m"))
            .context("mount memory in place of the state partition")?;
    }
    mounted
}

fn is_blank(device: &Path) -> std::io::Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    File::open(device)?.take(1 << 20).read_to_end(&mut head)?;
    Ok(head.iter().all(|b| *b == 0))
}

/// What a reset leaves of the settings: which disks are the box's.
fn after_reset(saved: &Saved) -> Saved {
    Saved { pool: saved.pool.clone(), guids_own: saved.guids_own, ..Saved::default() }
}

/// Carries out a reset that takes more than the settings; that of the settings is finished when the state is mounted.
fn carry_out_reset(config: &mut Config, place: &Place, busy: &AtomicBool, state: Option<&Path>) {
    let Some(intent) = config.saved().reset.clone() else { return };
    if intent.tries >= reset::TRIES_MAX {
        say(
            Level::Error,
            &format!("the reset ({}) failed {} times and is given up", intent.level.as_str(), intent.tries),
        );
        if let Err(error) = config.change(|s| s.reset = None) {
            say(Level::Error, &format!("{error}"));
        }
        return;
    }
    if let Err(error) = config.change(|s| s.reset = Some(ResetIntent { tries: intent.tries + 1, ..intent.clone() })) {
        say(Level::Error, &format!("the reset waits: {error}"));
        return;
    }
    if intent.level == ResetLevel::Settings {
        return;
    }
    busy.store(true, Ordering::SeqCst);
    say(Level::Notice, &format!("reset ({}) begins; it goes on after a power cut", intent.level.as_str()));
    let done = erase(config, place, &intent, state);
    busy.store(false, Ordering::SeqCst);
    let done = done.and_then(|()| config.change(|s| *s = after_reset(s)).context("take back the reset"));
    match done {
        Ok(()) => say(Level::Notice, &format!("reset ({}) is done", intent.level.as_str())),
        Err(error) => say(Level::Error, &format!("reset ({}): {error:#}", intent.level.as_str())),
    }
}

fn erase(config: &mut Config, place: &Place, intent: &ResetIntent, state: Option<&Path>) -> Result<()> {
    if let Some(record) = config.saved().pool.clone() {
        let ours = |disk: &Disk| disk.pool().is_some_and(|guid| guid.to_string() == record.cache_guid);
        let ends = Instant::now() + BOOT_DISK_TIME_MAX;
        let disk = loop {
            match place.list().into_iter().find(ours) {
                None if Instant::now() < ends && record.made => std::thread::sleep(Duration::from_millis(500)),
                found => break found,
            }
        };
        match disk {
            Some(disk) => {
                let halves = pool::halves(place, &disk)?;
                if intent.level == ResetLevel::Wipe {
                    let mut tell = |done: u64, all: u64| {
                        say(Level::Notice, &format!("wiped {} of {} MiB", done >> 20, all >> 20));
                        if let Err(error) = config.change(|s| {
                            if let Some(intent) = &mut s.reset {
                                intent.wiped = done;
                                // It goes on: a long wipe is not given up for being cut off often.
                                intent.tries = 0;
                            }
                        }) {
                            say(Level::Error, &format!("{error}"));
                        }
                    };
                    reset::wipe(&halves, intent.wiped, &mut tell)?;
                }
                reset::forget(&halves)?;
            }
            None => say(Level::Error, &format!("the pool's disk {} is missing; it keeps what is on it", record.serial)),
        }
    }
    reset::state(state.context("there is no state partition")?)
}

fn finish_settings_reset(config: &mut Config, paths: &Paths) {
    let is_settings = |intent: &ResetIntent| intent.level == ResetLevel::Settings;
    if !config.saved().reset.as_ref().is_some_and(is_settings) {
        return;
    }
    let done = reset::settings(&paths.daemon_state())
        .and_then(|()| config.change(|s| *s = after_reset(s)).context("take back the reset"));
    match done {
        Ok(()) => say(Level::Notice, "reset (settings) is done"),
        Err(error) => say(Level::Error, &format!("reset (settings): {error:#}")),
    }
}

/// Feeds the watchdog, asks the daemon, and says once that the box serves.
fn watch_over(
    firmware: &FirmwareStatus,
    machine: Arc<Mutex<Box<dyn Machine>>>,
    busy: Arc<AtomicBool>,
    up: Arc<OnceLock<Arc<Appliance>>>,
    started: Instant,
    paths: &Paths,
) -> Result<()> {
    let (answers, received) = channel();
    let (socket, proc) = (paths.api_socket(), paths.proc.clone());
    let asker = move || {
        let mut served = false;
        let mut told = started;
        loop {
            let answer = if socket.exists() { ask(&socket) } else { Answer::None };
            let answered = answer != Answer::None;
            served |= answer == Answer::Well;
            if answered || told.elapsed() >= ASK_EVERY {
                told = Instant::now();
                if answers.send(answer).is_err() {
                    return;
                }
            }
            // Until it serves for the first time it is asked often: that moment is what a start is measured by.
            std::thread::sleep(if answered && (served || answer == Answer::Ill) {
                ASK_EVERY
            } else {
                Duration::from_millis(200)
            });
        }
    };
    std::thread::Builder::new().name("ask".into()).spawn(asker)?;
    let (slot, proved, has_watchdog) = (firmware.slot, firmware.confirmed, firmware.watchdog.is_some());
    let watcher = Watcher { machine, busy, up, started, slot, proc, has_watchdog, said: false, served: false };
    std::thread::Builder::new().name("health".into()).spawn(move || watcher.run(&received, Health::new(proved)))?;
    Ok(())
}

struct Watcher {
    machine: Arc<Mutex<Box<dyn Machine>>>,
    busy: Arc<AtomicBool>,
    up: Arc<OnceLock<Arc<Appliance>>>,
    started: Instant,
    slot: Slot,
    proc: PathBuf,
    has_watchdog: bool,
    said: bool,
    served: bool,
}

impl Watcher {
    fn run(mut self, received: &Receiver<Answer>, mut health: Health) {
        let mut fed: Option<Instant> = None;
        loop {
            let answered = match received.recv_timeout(FEED_EVERY) {
                Ok(answered) => Some(answered),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let services = self.up.get().and_then(|a| a.services.get());
            let fare = services.map_or(super::services::Fare { running_for: None, failures: 0 }, |s| s.fare("daemon"));
            let uptime = self.started.elapsed();
            let seen = Seen { uptime, answered, fare, busy: self.busy.load(Ordering::SeqCst) };
            let verdict = health.take(seen);
            if verdict == Verdict::Well && !self.served {
                self.serves();
            }
            if let Verdict::Lost(reason) = verdict {
                self.lost(&reason);
            } else if fed.is_none_or(|at| at.elapsed() >= FEED_EVERY / 2) {
                fed = Some(Instant::now());
                if let Err(error) = lock(&self.machine).feed()
                    && !self.said
                {
                    self.said = true;
                    say(Level::Error, &format!("{error:#}"));
                }
            }
        }
    }

    fn serves(&mut self) {
        let Some(appliance) = self.up.get() else { return };
        self.served = true;
        match lock(&self.machine).confirm() {
            Ok(()) => appliance.confirmed.store(true, Ordering::SeqCst),
            Err(error) => say(Level::Error, &format!("call the slot good: {error:#}")),
        }
        say(Level::Notice, &format!("serving, {}", slot_text(self.slot)));
        say(Level::Info, &format!("serving {} s after power-on", uptime_secs(&self.proc)));
    }

    fn lost(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.said, true) {
            say(Level::Error, &format!("{reason}; the machine starts again"));
            // Without a watchdog nobody else does it.
            if let Some(appliance) = self.up.get().filter(|_| !self.has_watchdog) {
                appliance.want_power(PowerAction::Reboot);
            }
        }
    }
}

/// Until somebody wants the machine off or started again.
fn serve(appliance: &Appliance) -> PowerAction {
    let flags = [SIGINT, SIGTERM, SIGPWR].map(|signal| {
        let flag = Arc::new(AtomicBool::new(false));
        if let Err(error) = signal_hook::flag::register(signal, flag.clone()) {
            say(Level::Error, &format!("signal {signal}: {error}"));
        }
        flag
    });
    let mut reaped = Instant::now();
    loop {
        std::thread::sleep(LOOK_EVERY);
        if reaped.elapsed() >= REAP_EVERY {
            children::reap_orphans();
            reaped = Instant::now();
        }
        let [interrupt, terminate, power] = flags.each_ref().map(|f| f.load(Ordering::SeqCst));
        if interrupt || terminate {
            return PowerAction::Reboot;
        }
        if power {
            return PowerAction::PowerOff;
        }
        if let Some(action) = *lock(&appliance.power) {
            return action;
        }
    }
}

/// Ends everything in order, so that nothing is lost: consoles, then the daemon, then the file systems.
pub(super) fn shut_down(appliance: &Appliance) {
    say(Level::Notice, "stops");
    appliance.busy.store(true, Ordering::SeqCst);
    if let Some(services) = appliance.services.get() {
        let names: Vec<String> = services.status().into_iter().map(|s| s.name).collect();
        for name in names.iter().filter(|n| *n != "daemon") {
            services.stop(name, CONSOLE_STOP_MAX);
        }
        services.stop("daemon", DAEMON_STOP_MAX);
    }
    appliance.network.stop();
    logs::let_go();
    nix::unistd::sync();
    for at in [&appliance.paths.pool, &appliance.paths.state] {
        put_away(at, &appliance.paths.proc);
    }
}

fn put_away(at: &Path, proc: &Path) {
    if !is_mounted(proc, &at.display().to_string()) {
        return;
    }
    for _ in 0..20 {
        match umount2(at, MntFlags::empty()) {
            Ok(()) => return,
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    say(Level::Error, &format!("{} is in use until the end", at.display()));
    let _ = umount2(at, MntFlags::MNT_DETACH);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_partition_is_read_from_the_command_line() {
        let line = "BOOT_IMAGE=/vmlinuz reprise.slot=a reprise.root=PARTUUID=0FC63DAF-8483 quiet";
        assert_eq!(root_guid(line).as_deref(), Some("0fc63daf-8483"));
        assert_eq!(root_guid("quiet"), None);
    }

    #[test]
    fn a_reset_leaves_the_pools_disk_and_nothing_else() {
        let record = super::super::config::PoolRecord { serial: "S".into(), ..Default::default() };
        let saved = Saved {
            name: Some("a".into()),
            time_servers: Some(vec![]),
            pool: Some(record.clone()),
            pool_by_hand: true,
            guids_own: true,
            reset: Some(ResetIntent { level: ResetLevel::Wipe, tries: 1, wiped: 5 }),
            ..Saved::default()
        };
        assert_eq!(after_reset(&saved), Saved { pool: Some(record), guids_own: true, ..Saved::default() });
    }
}
