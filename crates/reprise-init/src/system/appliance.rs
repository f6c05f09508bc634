//! All that runs, and what is asked of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use reprise_api::{
    ApiError, ConfigState, DiskTake, Done, ErrorCode, FirmwareStatus, LOG_LINES_MAX, LogLines, LogQuery, LogSource,
    NameSet, PoolPlace, PowerAction, Reset, SystemCall, SystemReply, SystemStatus, TimeSet,
};

use super::clock::{self, Clock};
use super::config::{PoolRecord, ResetIntent, Saved, Store};
use super::disks::{Disk, Place};
use super::gpt::Guid;
use super::logs::{self, Level, say};
use super::network::Network;
use super::pool::{self, Decision, Halves};
use super::services::Services;
use super::support;

/// Lines of a log where nobody says how many.
const LOG_LINES: u32 = 200;
/// How often a disk that is missing is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Disks come up by themselves after the start; what is decided for good waits so long for them.
const DISKS_COME_IN: Duration = Duration::from_secs(3);

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Sockets, settings of the daemon, leases.
    pub(crate) run: PathBuf,
    /// The state partition.
    pub(crate) state: PathBuf,
    /// The data half of the pool.
    pub(crate) pool: PathBuf,
    /// The kernel's `/proc`.
    pub(crate) proc: PathBuf,
    /// The kernel's log.
    pub(crate) kmsg: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        let path = PathBuf::from;
        Self {
            run: path("/run/reprise"),
            state: path("/state"),
            pool: path("/pool"),
            proc: path("/proc"),
            kmsg: path("/dev/kmsg"),
        }
    }
}

impl Paths {
    /// The daemon's folder.
    pub(crate) fn daemon_state(&self) -> PathBuf {
        self.state.join("reprise")
    }

    /// The logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.state.join("log")
    }

    /// The daemon's settings.
    pub(crate) fn box_toml(&self) -> PathBuf {
        self.run.join("box.toml")
    }

    /// The daemon's API.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.run.join("reprise.sock")
    }

    /// The system socket.
    pub(crate) fn system_socket(&self) -> PathBuf {
        self.run.join("system.sock")
    }
}

/// The settings: on the config partition, or, where that cannot be used, in memory only.
pub(crate) struct Config {
    store: Result<Store, String>,
    saved: Saved,
    /// What became of them at the start.
    pub(crate) state: ConfigState,
}

impl Config {
    /// Reads the partition. Whatever is wrong with it: the box starts.
    pub(crate) fn open(partition: Result<PathBuf>) -> Self {
        let opened = partition.and_then(|path| Store::open(&path).context("read the config partition"));
        match opened {
            Ok((store, state)) => Self { saved: store.saved().clone(), store: Ok(store), state },
            Err(error) => {
                let reason = format!("{error:#}");
                let saved = Saved { pool_by_hand: true, guids_own: true, ..Saved::default() };
                Self { store: Err(reason.clone()), saved, state: ConfigState::Damaged { reason } }
            }
        }
    }

    /// What is saved.
    pub(crate) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Changes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut Saved)) -> io::Result<()> {
        let store = self.store.as_mut().map_err(|reason| io::Error::other(reason.clone()))?;
        store.change(edit)?;
        self.saved = store.saved().clone();
        Ok(())
    }
}

/// The box.
pub(crate) struct Appliance {
    pub(super) firmware: FirmwareStatus,
    pub(super) confirmed: AtomicBool,
    pub(super) paths: Paths,
    pub(super) place: Place,
    pub(super) boot: Option<PathBuf>,
    pub(super) config: Mutex<Config>,
    pub(super) name: Mutex<String>,
    pub(super) network: Network,
    pub(super) clock: Clock,
    pub(super) services: OnceLock<Services>,
    pub(super) pool: Mutex<Pool>,
    /// Set while something takes its time: see [`super::health::Seen::busy`].
    pub(super) busy: Arc<AtomicBool>,
    /// Held while a disk is being taken, so that two are not.
    pub(super) taking: Mutex<()>,
    /// What is to be done with the machine, once somebody said so.
    pub(super) power: Mutex<Option<PowerAction>>,
    /// Why the state partition is not in use: then no pool is, either, since the keys that own it are not there.
    pub(super) no_state: Option<String>,
    pub(super) started: Instant,
}

/// The pool as far as the first process knows it.
pub(crate) struct Pool {
    /// Where it is.
    pub(crate) place: PoolPlace,
    /// Its devices, while it can be used.
    pub(crate) halves: Option<Halves>,
    /// GUID of its cache partition, while it can be used.
    pub(crate) cache_guid: Option<String>,
    /// True once the first look at the disks has come to an end.
    pub(crate) settled: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(what: &str, error: impl std::fmt::Display) -> ApiError {
    ApiError::internal(format!("{what}: {error:#}"))
}

impl Appliance {
    /// Carries a command out.
    pub(crate) fn handle(self: &Arc<Self>, call: SystemCall) -> SystemReply {
        let done = |result: Result<(), ApiError>| result.map(|()| SystemReply::Done(Done {}));
        let reply = match call {
            SystemCall::Show => self.status().map(|status| SystemReply::Show(Box::new(status))),
            SystemCall::NetworkSet(settings) => done(self.network.set(settings)),
            SystemCall::NetworkKeep => done(self.network.keep()),
            SystemCall::TimeSet(set) => done(self.set_time(&set)),
            SystemCall::NameSet(set) => done(self.set_name(&set)),
            SystemCall::DiskTake(take) => done(self.take_disk(&take)),
            SystemCall::Logs(query) => self.logs(query).map(SystemReply::Logs),
            SystemCall::Support { status } => self.support(status).map(SystemReply::Support),
            SystemCall::Power(power) => {
                self.want_power(power.action);
                done(Ok(()))
            }
            SystemCall::Reset(reset) => done(self.want_reset(reset)),
        };
        reply.unwrap_or_else(SystemReply::Error)
    }

    fn status(&self) -> Result<SystemStatus, ApiError> {
        let name = lock(&self.name).parse().map_err(|e| failed("name of the box", e))?;
        let (record, config) = {
            let config = lock(&self.config);
            (config.saved().pool.clone(), config.state.clone())
        };
        let guid = lock(&self.pool).cache_guid.clone().or(record.map(|r| r.cache_guid));
        let disks = self.place.list();
        let (memory_bytes_total, memory_bytes_available) = memory(&self.paths.proc);
        Ok(SystemStatus {
            // The daemon knows it.
            certificate_fingerprint: None,
            name,
            uptime_secs: uptime_secs(&self.paths.proc),
            memory_bytes_total,
            memory_bytes_available,
            firmware: FirmwareStatus { confirmed: self.confirmed.load(Ordering::SeqCst), ..self.firmware.clone() },
            clock: self.clock.status(),
            network: self.network.status(),
            disks: disks.iter().map(|d| d.status(self.boot.as_deref(), guid.as_deref())).collect(),
            pool: lock(&self.pool).place.clone(),
            config: match &self.no_state {
                Some(reason) => ConfigState::Damaged { reason: reason.clone() },
                None => config,
            },
            processes: self.services.get().map(Services::status).unwrap_or_default(),
        })
    }

    fn set_time(&self, set: &TimeSet) -> Result<(), ApiError> {
        clock::check(set)?;
        let servers = set.servers.clone();
        lock(&self.config)
            .change(|saved| saved.time_servers = Some(servers))
            .map_err(|e| failed("save the time servers", e))?;
        self.clock.set(set)
    }

    fn set_name(&self, set: &NameSet) -> Result<(), ApiError> {
        let name = set.name.to_string();
        lock(&self.config).change(|saved| saved.name = Some(name.clone())).map_err(|e| failed("save the name", e))?;
        lock(&self.name).clone_from(&name);
        if let Err(error) = nix::unistd::sethostname(&name) {
            say(Level::Error, &format!("set the host name: {error}"));
        }
        self.restart_daemon().map_err(|e| failed("name the box", e))
    }

    fn logs(&self, query: LogQuery) -> Result<LogLines, ApiError> {
        let lines = query.lines.unwrap_or(LOG_LINES);
        if !(1..=LOG_LINES_MAX).contains(&lines) {
            let message = format!("{lines} lines of a log");
            return Err(ApiError::new(ErrorCode::BadRequest, message, "ask for 1 to 2000 lines"));
        }
        let lines = lines as usize;
        let lines = match query.source {
            LogSource::Daemon => logs::tail(&self.paths.logs().join("daemon.log"), lines),
            LogSource::System => logs::tail(&self.paths.logs().join("system.log"), lines),
            LogSource::Kernel => {
                let all = kernel_log(&self.paths.kmsg).map_err(|e| failed("read the kernel's log", e))?;
                all[all.len().saturating_sub(lines)..].to_vec()
            }
        };
        Ok(LogLines { lines })
    }

    fn support(&self, daemon: Option<String>) -> Result<reprise_api::SupportBundle, ApiError> {
        let pretty = |value: serde_json::Result<String>| value.unwrap_or_else(|e| e.to_string());
        let saved = lock(&self.config).saved().clone();
        let mut texts = vec![
            ("system.json".to_owned(), pretty(serde_json::to_string_pretty(&self.status()?))),
            ("settings.json".to_owned(), pretty(serde_json::to_string_pretty(&saved))),
        ];
        texts.extend(daemon.map(|text| ("daemon.json".to_owned(), text)));
        texts.extend(kernel_log(&self.paths.kmsg).ok().map(|lines| ("log/kernel.log".to_owned(), lines.join("\n"))));
        let name = lock(&self.name).clone();
        support::bundle(&name, clock::unix_ms(), &self.paths.logs(), &self.paths.proc, texts)
            .map_err(|e| failed("make a support bundle", e))
    }

    /// Asks for the machine to be turned off or started again; it comes about a moment later.
    pub(crate) fn want_power(&self, action: PowerAction) {
        lock(&self.power).get_or_insert(action);
    }

    fn want_reset(&self, reset: Reset) -> Result<(), ApiError> {
        let level = reset.level;
        lock(&self.config)
            .change(|saved| saved.reset = Some(ResetIntent { level, tries: 0, wiped: 0 }))
            .map_err(|e| failed("write down the reset", e))?;
        say(Level::Notice, &format!("a reset was asked for ({}); the box starts again", level.as_str()));
        self.want_power(PowerAction::Reboot);
        Ok(())
    }

    /// Writes the daemon's settings.
    pub(crate) fn write_box_toml(&self) -> Result<()> {
        let name = lock(&self.name).clone();
        let halves = lock(&self.pool).halves.clone();
        let text = box_toml(&self.paths, &name, halves.as_ref())?;
        let path = self.paths.box_toml();
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn restart_daemon(&self) -> Result<()> {
        self.write_box_toml()?;
        if let Some(services) = self.services.get() {
            services.restart("daemon");
        }
        Ok(())
    }

    fn take_disk(self: &Arc<Self>, take: &DiskTake) -> Result<(), ApiError> {
        let refuse = |code, message: String, what: &str| Err(ApiError::new(code, message, what));
        if let Some(reason) = &self.no_state {
            return refuse(ErrorCode::WrongState, reason.clone(), "reset the box (forget) first");
        }
        let Ok(taking) = self.taking.try_lock() else {
            return refuse(ErrorCode::WrongState, "a disk is being made the pool".into(), "wait for it");
        };
        match &lock(&self.pool).place {
            PoolPlace::On { path, .. } => {
                return refuse(ErrorCode::WrongState, format!("the pool is on {path}"), "a box has one pool");
            }
            PoolPlace::Preparing { path } => {
                return refuse(ErrorCode::WrongState, format!("{path} is being made the pool"), "wait for it");
            }
            PoolPlace::None { .. } | PoolPlace::Missing { .. } => {}
        }
        let disks = self.place.list();
        let disk = pool::check_take(&disks, self.boot.as_deref(), &take.path, take.serial.as_deref())
            .map_err(|e| ApiError::new(ErrorCode::DeviceUnusable, e.to_string(), "choose from the list of disks"))?
            .clone();
        let cache = Guid::random().map_err(|e| failed("draw a number", e))?;
        let record = PoolRecord { serial: disk.serial.clone(), cache_guid: cache.to_string(), made: false };
        lock(&self.config).change(|s| s.pool = Some(record)).map_err(|e| failed("write down the choice", e))?;
        lock(&self.pool).place = PoolPlace::Preparing { path: take.path.clone() };
        drop(taking);
        let this = self.clone();
        let make = move || {
            let _taking = lock(&this.taking);
            // Whoever looks for a missing disk may have found the new choice first.
            if lock(&this.pool).halves.is_none()
                && this.make_pool(&disk, cache)
                && let Err(error) = this.restart_daemon()
            {
                say(Level::Error, &format!("{error:#}"));
            }
        };
        std::thread::Builder::new().name("pool".into()).spawn(make).map_err(|e| failed("make the pool", e))?;
        Ok(())
    }

    fn is_boot(&self, disk: &Disk) -> bool {
        self.boot.as_deref() == Some(disk.path.as_path())
    }

    /// Finds the pool, or makes it, and goes on looking for a disk that is missing. Tells the daemon when there is one.
    pub(crate) fn settle_pool(&self) {
        if let Some(reason) = &self.no_state {
            let reason = format!("the pool is left alone: {reason}");
            *lock(&self.pool) =
                Pool { place: PoolPlace::None { reason }, halves: None, cache_guid: None, settled: true };
            return;
        }
        let mut seen_before: Option<Vec<String>> = None;
        loop {
            let taking = lock(&self.taking);
            if lock(&self.pool).halves.is_some() {
                return;
            }
            let disks = self.place.list();
            let (record, by_hand) = {
                let config = lock(&self.config);
                (config.saved().pool.clone(), config.saved().pool_by_hand)
            };
            let decision = pool::decide(record.as_ref(), by_hand, &disks, self.boot.as_deref());
            let names: Vec<String> = disks.iter().map(|d| d.name.clone()).collect();
            // Only the pool itself is taken at once: for all else another disk may still come up.
            let stable = self.started.elapsed() >= DISKS_COME_IN && seen_before.as_ref() == Some(&names);
            let known =
                matches!(decision, Decision::Use(_)) || (record.is_some() && matches!(decision, Decision::Make(_)));
            if !known && !stable {
                drop(taking);
                seen_before = Some(names);
                std::thread::sleep(Duration::from_millis(500));
                continue;
            }
            let ready = match decision {
                Decision::Use(at) => self.use_pool(&disks[at]),
                Decision::Adopt(at) => self.adopt_pool(&disks[at]),
                Decision::Make(at) => self.begin_pool(&disks[at], record),
                Decision::None(reason) => {
                    say(Level::Notice, &format!("no pool: {reason}"));
                    lock(&self.pool).place = PoolPlace::None { reason };
                    false
                }
                Decision::Missing(serial) => {
                    let place = PoolPlace::Missing { serial: serial.clone() };
                    let mut pool = lock(&self.pool);
                    if pool.place != place {
                        say(Level::Error, &format!("the pool's disk with serial number {serial} is missing"));
                    }
                    pool.place = place;
                    pool.settled = true;
                    drop(pool);
                    drop(taking);
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
            };
            let was_settled = std::mem::replace(&mut lock(&self.pool).settled, true);
            if ready
                && was_settled
                && let Err(error) = self.restart_daemon()
            {
                say(Level::Error, &format!("{error:#}"));
            }
            return;
        }
    }

    fn begin_pool(&self, disk: &Disk, record: Option<PoolRecord>) -> bool {
        let known = record.and_then(|r| disk.pool().filter(|guid| guid.to_string() == r.cache_guid));
        let made = known.map_or_else(Guid::random, Ok).and_then(|cache| {
            let record = PoolRecord { serial: disk.serial.clone(), cache_guid: cache.to_string(), made: false };
            lock(&self.config).change(|s| s.pool = Some(record)).map(|()| cache)
        });
        match made {
            Ok(cache) => self.make_pool(disk, cache),
            Err(error) => {
                self.no_pool(format!("the choice of {} cannot be written down: {error}", disk.path.display()))
            }
        }
    }

    /// Makes the pool on a disk that the settings name already.
    fn make_pool(&self, disk: &Disk, cache: Guid) -> bool {
        let path = disk.path.display().to_string();
        say(Level::Notice, &format!("makes the pool on {path} ({})", disk.serial));
        lock(&self.pool).place = PoolPlace::Preparing { path: path.clone() };
        self.busy.store(true, Ordering::SeqCst);
        let made = pool::make(&self.place, disk, self.is_boot(disk), cache).and_then(|halves| {
            let record = PoolRecord { serial: disk.serial.clone(), cache_guid: cache.to_string(), made: true };
            lock(&self.config).change(|s| s.pool = Some(record)).context("write down that it is made")?;
            Ok(halves)
        });
        self.busy.store(false, Ordering::SeqCst);
        match made {
            Ok(halves) => self.mount_pool(disk, halves),
            Err(error) => self.no_pool(format!("the pool cannot be made on {path}: {error:#}")),
        }
    }

    fn use_pool(&self, disk: &Disk) -> bool {
        match pool::halves(&self.place, disk) {
            Ok(halves) => self.mount_pool(disk, halves),
            Err(error) => self.no_pool(format!("the pool on {} cannot be used: {error:#}", disk.path.display())),
        }
    }

    fn adopt_pool(&self, disk: &Disk) -> bool {
        let record = PoolRecord {
            serial: disk.serial.clone(),
            cache_guid: disk.pool().map(|g| g.to_string()).unwrap_or_default(),
            made: true,
        };
        let ready = self.use_pool(disk);
        if ready && let Err(error) = lock(&self.config).change(|s| s.pool = Some(record)) {
            say(Level::Error, &format!("write down where the pool is: {error}"));
        }
        ready
    }

    fn mount_pool(&self, disk: &Disk, halves: Halves) -> bool {
        if let Err(error) = pool::mount(&halves.data, &self.paths.pool) {
            return self
                .no_pool(format!("the data half of the pool on {} cannot be used: {error:#}", disk.path.display()));
        }
        let path = disk.path.display().to_string();
        say(Level::Info, &format!("the pool is on {path} ({})", disk.serial));
        let mut pool = lock(&self.pool);
        pool.place = PoolPlace::On { path, serial: disk.serial.clone() };
        pool.halves = Some(halves);
        pool.cache_guid = disk.pool().map(|guid| guid.to_string());
        true
    }

    fn no_pool(&self, reason: String) -> bool {
        say(Level::Error, &reason);
        lock(&self.pool).place = PoolPlace::None { reason };
        false
    }
}

/// The daemon's settings as text.
fn box_toml(paths: &Paths, name: &str, halves: Option<&Halves>) -> Result<String> {
    use toml::{Table, Value};
    let text = |path: &Path| -> Result<Value> {
        Ok(Value::String(path.to_str().with_context(|| format!("{} is no text", path.display()))?.to_owned()))
    };
    let table = |pairs: Vec<(&str, Value)>| Value::Table(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let list = |all: &[&str]| Value::Array(all.iter().map(|s| Value::String((*s).to_owned())).collect());
    let mut settings = Table::new();
    settings.insert("name".into(), Value::String(name.to_owned()));
    settings.insert("state_dir".into(), text(&paths.daemon_state())?);
    if let Some(halves) = halves {
        settings.insert("pool".into(), table(vec![("cache", text(&halves.cache)?), ("data", text(&paths.pool)?)]));
    }
    settings.insert("iscsi".into(), table(vec![("listen", list(&["0.0.0.0:3260", "[::]:3260"]))]));
    settings.insert("link".into(), table(vec![("listen", Value::String("[::]:3261".into()))]));
    settings.insert("api".into(), table(vec![("socket", text(&paths.api_socket())?)]));
    settings.insert("system".into(), table(vec![("socket", text(&paths.system_socket())?)]));
    Ok(toml::to_string(&settings)?)
}

/// Bytes of memory: all, and what could be given out.
fn memory(proc: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    (of("MemTotal:"), of("MemAvailable:"))
}

/// Seconds since power-on, as the kernel counts them.
pub(super) fn uptime_secs(proc: &Path) -> u64 {
    let text = std::fs::read_to_string(proc.join("uptime")).unwrap_or_default();
    text.split('.').next().and_then(|s| s.parse().ok()).unwrap_or(0)
}

/// The kernel's log, without waiting for more.
fn kernel_log(kmsg: &Path) -> io::Result<Vec<String>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(kmsg)?;
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(lines),
            Ok(len) => lines.extend(kernel_line(&String::from_utf8_lossy(&record[..len]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lines),
            // A record was overwritten before it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
}

/// A record of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg): `priority,number,microseconds,flags;text`.
fn kernel_line(record: &str) -> Option<String> {
    let (head, rest) = record.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = rest.lines().next().unwrap_or_default();
    Some(logs::printable(&format!("[{:5}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_settings_name_everything_and_the_pool_only_where_there_is_one() {
        let paths = Paths::default();
        let text = box_toml(&paths, "box-a", None).unwrap();
        assert!(!text.contains("pool"), "{text}");
        let halves = Halves { cache: "/dev/vda9".into(), data: "/dev/vda10".into() };
        let text = box_toml(&paths, "box-a", Some(&halves)).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["name"].as_str(), Some("box-a"));
        assert_eq!(read["state_dir"].as_str(), Some("/state/reprise"));
        assert_eq!(read["pool"]["cache"].as_str(), Some("/dev/vda9"));
        assert_eq!(read["pool"]["data"].as_str(), Some("/pool"));
        assert_eq!(read["iscsi"]["listen"].as_array().map(Vec::len), Some(2));
        assert!(read["iscsi"].get("open").is_none(), "nobody comes in unasked");
        assert_eq!(read["api"]["socket"].as_str(), Some(reprise_api::settings::DEFAULT_SOCKET));
        assert_eq!(read["system"]["socket"].as_str(), Some("/run/reprise/system.sock"));
    }

    #[test]
    fn a_record_of_the_kernels_log_is_a_line() {
        let record = "6,339,5140900,-;NET: Registered\x1b[2J\n SUBSYSTEM=x\n";
        assert_eq!(kernel_line(record).unwrap(), "[    5.140900] NET: Registered\u{fffd}[2J");
        assert_eq!(kernel_line("nonsense"), None);
        assert_eq!(kernel_line("6,1;x"), None);
    }

    #[test]
    fn lost_settings_do_not_keep_the_box_from_starting() {
        let mut config = Config::open(Err(anyhow::anyhow!("no such partition")));
        assert!(matches!(&config.state, ConfigState::Damaged { reason } if reason.contains("no such partition")));
        assert!(config.saved().pool_by_hand);
        assert!(config.change(|s| s.name = Some("a".into())).is_err());
    }
}
