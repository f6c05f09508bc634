//! The settings of a box: `box.toml`.
//!
//! Reading refuses keys it does not know. [`Settings::check`] refuses values that cannot work, naming the key. Neither
//! touches a disk beyond reading the file; whether a device can be used is found out at start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::value::{ByteSize, InitiatorName, Name};

/// Largest settings file taken. Ours have some hundred bytes; a wrong path must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Smallest pool: two cache halves of the smallest journal and a small volume.
const POOL_BYTES_MIN: u64 = 64 << 20;
/// Smallest limit of the payload buffers: below it one large write and its way to the peer do not fit.
const BUFFERS_BYTES_MIN: u64 = 64 << 20;
/// Smallest limit of the indexes.
const INDEX_BYTES_MIN: u64 = 1 << 20;
/// Longest list of initiators or listeners.
const LIST_LEN_MAX: usize = 256;

/// Settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("read settings {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is far larger than settings are.
    #[error("settings {path} have {bytes} bytes; at most {FILE_BYTES_MAX} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The text is not TOML, has a key that is not known, or a value of the wrong kind.
    #[error("read settings: {0}")]
    Toml(#[from] toml::de::Error),
    /// A value cannot work.
    #[error("settings: {key}: {problem}; {what_to_do}")]
    Value {
        /// The key, dotted.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
        /// What to write.
        what_to_do: &'static str,
    },
}

/// The settings of a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the box.
    pub name: Name,
    /// Directory of the control store and the keys. Without it: `state` in `pool.dir`, else `/var/lib/reprise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Where data goes. Left out on an appliance that has no disk for it yet.
    #[serde(default)]
    pub pool: PoolSettings,
    /// The machine under the daemon.
    #[serde(default)]
    pub system: SystemSettings,
    /// The iSCSI front end.
    #[serde(default)]
    pub iscsi: IscsiSettings,
    /// The link between boxes.
    #[serde(default)]
    pub link: LinkSettings,
    /// The API.
    #[serde(default)]
    pub api: ApiSettings,
    /// Prometheus metrics.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// The log.
    #[serde(default)]
    pub log: LogSettings,
    /// Limits of memory and speed.
    #[serde(default)]
    pub limits: LimitSettings,
}

/// The machine under the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SystemSettings {
    /// Socket of the first process of an appliance; absent on a Linux of one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

/// `cache` and `data`, or `disk`, or `dir`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// Partition, disk or file of the cache half. Goes with `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Partition, disk or existing file of the data half, or a directory. Goes with `cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// A whole disk or a file, split in two halves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// A directory that holds both halves as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Size of the whole pool, for `dir` and for files that are not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Identity of the one disk, partition or file whose content may be given up for the pool, as the refusal to take it
    /// shows it. Matters only while there is no pool on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwrite: Option<String>,
}

/// What the pool is made of, as one of the three ways to say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolLayout<'a> {
    /// Two places.
    Halves {
        /// The cache half.
        cache: &'a Path,
        /// The data half.
        data: &'a Path,
    },
    /// One disk or file, split.
    Disk(&'a Path),
    /// A directory, split.
    Dir(&'a Path),
}

/// The iSCSI front end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IscsiSettings {
    /// Portals.
    pub listen: Vec<SocketAddr>,
    /// Lets every initiator in that reaches a portal.
    pub open: bool,
    /// iSCSI names of initiators let in, to everything and without a proof. Others are added by command. While none is
    /// named in either way and all portals are on loopback, every initiator is let in.
    pub initiators: Vec<String>,
    /// Logins from one address in a minute, beyond which its connections are closed at once; 0: no limit. If absent: 600,
    /// and no limit on loopback. All addresses of one /64 of IPv6 together have four times as many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins_per_minute: Option<u32>,
    /// Connections from one address, beyond which further ones are closed at once; four times as many from one /64 of IPv6.
    pub connections_per_address: u32,
}

/// The link between boxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSettings {
    /// Where peers connect. Both ends are pinned, so this may be any address.
    pub listen: SocketAddr,
    /// Address that peers are told, `HOST:PORT`. Without it: the one they see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
}

/// The API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// The local socket; root and the daemon's own user may do everything on it.
    pub socket: PathBuf,
    /// Where HTTPS is served; off if absent. Needs a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// Certificate chain for HTTPS, PEM. Without it the box makes one for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_cert: Option<PathBuf>,
    /// Its key, PEM. Goes with `https_cert`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_key: Option<PathBuf>,
}

/// Prometheus metrics over plain HTTP.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where they are served; off if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Allows an address other than loopback; whoever reaches it may read the metrics.
    pub open: bool,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Odd, goes on.
    Warn,
    /// State changes.
    #[default]
    Info,
    /// For finding faults.
    Debug,
    /// Every command.
    Trace,
}

impl LogLevel {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The log, on standard error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// How much.
    pub level: LogLevel,
    /// One JSON object a line.
    pub json: bool,
}

/// Limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Payload buffers of the whole box, half of them for the link. At the limit hosts wait.
    pub buffers: ByteSize,
    /// Indexes of all journals; a quarter of the machine's memory if absent. At the limit the cache counts as full, and
    /// hosts wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<ByteSize>,
    /// Data sent to all peers together, on the wire, per second; no limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_per_sec: Option<ByteSize>,
    /// First copies of all groups together, in bytes of volumes read per second; no limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_per_sec: Option<ByteSize>,
}

impl Default for IscsiSettings {
    fn default() -> Self {
        Self {
            listen: vec![loopback(3260)],
            open: false,
            initiators: Vec::new(),
            logins_per_minute: None,
            connections_per_address: 256,
        }
    }
}

impl Default for LinkSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 3261), advertise: None }
    }
}

/// Where the socket is by default, for the box and for the command line.
pub const DEFAULT_SOCKET: &str = "/run/reprise/reprise.sock";

impl Default for ApiSettings {
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_SOCKET), https: None, https_cert: None, https_key: None }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { buffers: ByteSize::from_bytes(256 << 20), index: None, send_per_sec: None, copy_per_sec: None }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn refuse(key: &'static str, problem: impl Into<String>, what_to_do: &'static str) -> SettingsError {
    SettingsError::Value { key, problem: problem.into(), what_to_do }
}

impl Settings {
    /// Reads and checks a settings file.
    ///
    /// # Errors
    /// The file cannot be read, or what it says cannot be used.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let fail = |source| SettingsError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(fail)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(SettingsError::TooLarge { path: path.to_owned(), bytes });
        }
        Self::parse(&crate::read_text(path, FILE_BYTES_MAX).map_err(fail)?)
    }

    /// Reads and checks settings.
    ///
    /// # Errors
    /// The text is no settings, or what it says cannot be used.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let settings: Self = toml::from_str(text)?;
        settings.check()?;
        Ok(settings)
    }

    /// The settings as TOML.
    ///
    /// # Errors
    /// A path is not UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Directory of the control store and the keys.
    pub fn state_dir(&self) -> PathBuf {
        match (&self.state_dir, &self.pool.dir) {
            (Some(dir), _) => dir.clone(),
            (None, Some(pool)) => pool.join("state"),
            (None, None) => PathBuf::from("/var/lib/reprise"),
        }
    }

    /// True on an appliance that has no disk for its pool yet.
    pub fn waits_for_pool(&self) -> bool {
        self.system.socket.is_some() && self.pool == PoolSettings::default()
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !self.waits_for_pool() {
            self.pool.check()?;
        }
        self.iscsi.check()?;
        self.check_listeners()?;
        let limits = &self.limits;
        if limits.buffers.bytes() < BUFFERS_BYTES_MIN {
            return Err(refuse("limits.buffers", format!("{} is too little", limits.buffers), "give at least 64M"));
        }
        if let Some(index) = limits.index.filter(|index| index.bytes() < INDEX_BYTES_MIN) {
            return Err(refuse("limits.index", format!("{index} is too little"), "give at least 1M"));
        }
        for (key, rate) in [("limits.send_per_sec", limits.send_per_sec), ("limits.copy_per_sec", limits.copy_per_sec)]
        {
            if rate.is_some_and(|r| r.bytes() < 1024) {
                return Err(refuse(key, "below 1K nothing would get through", "give at least 1K, or leave it out"));
            }
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), SettingsError> {
        let api = &self.api;
        if api.socket.as_os_str().is_empty() || !api.socket.is_absolute() {
            return Err(refuse("api.socket", format!("{:?} is no absolute path", api.socket), "start it with a /"));
        }
        // sockaddr_un holds 108 bytes with the closing zero.
        if api.socket.as_os_str().len() > 107 {
            return Err(refuse("api.socket", "the path is longer than 107 bytes", "use a shorter path"));
        }
        if api.https_cert.is_some() != api.https_key.is_some() {
            return Err(refuse("api.https_cert", "certificate and key go together", "give https_cert and https_key"));
        }
        if let Some(listen) = self.metrics.listen
            && !listen.ip().is_loopback()
            && !self.metrics.open
        {
            let problem = format!("{listen} can be reached from outside, without a token");
            return Err(refuse("metrics.listen", problem, "listen on 127.0.0.1 or set metrics.open = true"));
        }
        let mut taken: Vec<(&'static str, SocketAddr)> = Vec::new();
        let all = (self.iscsi.listen.iter().map(|a| ("iscsi.listen", *a)))
            .chain([("link.listen", self.link.listen)])
            .chain(api.https.map(|a| ("api.https", a)))
            .chain(self.metrics.listen.map(|a| ("metrics.listen", a)));
        for (key, address) in all {
            if address.port() != 0
                && let Some((other, _)) = taken.iter().find(|(_, t)| *t == address)
            {
                return Err(refuse(key, format!("{address} is given to {other} already"), "use another port"));
            }
            taken.push((key, address));
        }
        Ok(())
    }
}

impl PoolSettings {
    /// What the pool is made of; none if the settings do not say exactly one thing.
    pub fn layout(&self) -> Option<PoolLayout<'_>> {
        match (&self.cache, &self.data, &self.disk, &self.dir) {
            (Some(cache), Some(data), None, None) => Some(PoolLayout::Halves { cache, data }),
            (None, None, Some(disk), None) => Some(PoolLayout::Disk(disk)),
            (None, None, None, Some(dir)) => Some(PoolLayout::Dir(dir)),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), SettingsError> {
        const ONE_OF: &str = "give cache and data, or disk, or dir";
        let Some(layout) = self.layout() else {
            return Err(refuse("pool", "it does not say what the pool is made of, or says it twice", ONE_OF));
        };
        for (key, path) in
            [("pool.cache", &self.cache), ("pool.data", &self.data), ("pool.disk", &self.disk), ("pool.dir", &self.dir)]
        {
            if path.as_ref().is_some_and(|p| !p.is_absolute()) {
                return Err(refuse(key, "it is no absolute path", "start it with a /"));
            }
        }
        if let PoolLayout::Halves { cache, data } = layout
            && cache == data
        {
            return Err(refuse("pool.data", "it is the same as pool.cache", "give two places, or one as pool.disk"));
        }
        match (layout, self.size) {
            (_, Some(size)) if size.bytes() < POOL_BYTES_MIN => {
                Err(refuse("pool.size", format!("{size} is too little"), "give at least 64M"))
            }
            (PoolLayout::Dir(_), None) => {
                Err(refuse("pool.size", "it is missing", "say how large the pool in pool.dir becomes"))
            }
            _ => Ok(()),
        }
    }
}

impl IscsiSettings {
    /// True if initiators that nobody has named are let in; `named` says whether commands have named any.
    pub fn lets_others_in(&self, named: bool) -> bool {
        let nobody_named = !named && self.initiators.is_empty();
        self.open || (nobody_named && self.listen.iter().all(|a| a.ip().is_loopback()))
    }

    fn check(&self) -> Result<(), SettingsError> {
        if self.listen.is_empty() {
            return Err(refuse("iscsi.listen", "it is empty", "give an address, or leave it out for 127.0.0.1:3260"));
        }
        if self.listen.len() > LIST_LEN_MAX || self.initiators.len() > LIST_LEN_MAX {
            return Err(refuse("iscsi", "a list has more than 256 entries", "shorten it"));
        }
        for name in &self.initiators {
            if let Err(error) = name.parse::<InitiatorName>() {
                return Err(refuse("iscsi.initiators", error.to_string(), "write the name as the host has it"));
            }
        }
        if self.connections_per_address == 0 {
            let what = "give at least 1, or leave it out for 256";
            return Err(refuse("iscsi.connections_per_address", "nobody could connect", what));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = \"a\"\n[pool]\ndir = \"/srv/a\"\nsize = \"1G\"\n";

    #[test]
    fn little_is_enough_and_defaults_are_careful() {
        let s = Settings::parse(SMALL).unwrap();
        assert_eq!(s.iscsi.listen, [loopback(3260)]);
        assert!(!s.iscsi.open && s.api.https.is_none() && s.metrics.listen.is_none());
        assert_eq!(s.state_dir(), Path::new("/srv/a/state"));
        assert_eq!(s.pool.layout(), Some(PoolLayout::Dir(Path::new("/srv/a"))));
        assert_eq!(s.pool.size, Some(ByteSize::from_bytes(1 << 30)));
        assert_eq!(Settings::parse(&s.to_toml().unwrap()).unwrap(), s);
    }

    #[test]
    fn everything_can_be_said_and_survives_a_round_trip() {
        let text = r#"
            name = "pg-a"
            state_dir = "/var/lib/x"
            [pool]
            cache = "/dev/sdb1"
            data = "/dev/sdb2"
            overwrite = "disk:abc:part2"
            [iscsi]
            listen = ["0.0.0.0:3260", "[::]:3260"]
            initiators = ["iqn.1993-08.org.debian:01:abc"]
            logins_per_minute = 30
            connections_per_address = 8
            [link]
            listen = "0.0.0.0:4000"
            advertise = "a.example:4000"
            [api]
            socket = "/run/x.sock"
            https = "0.0.0.0:8443"
            https_cert = "/etc/c.pem"
            https_key = "/etc/k.pem"
            [metrics]
            listen = "0.0.0.0:9100"
            open = true
            [log]
            level = "debug"
            json = true
            [limits]
            buffers = "64M"
            index = 8388608
            send_per_sec = "1M"
            copy_per_sec = "512K"
        "#;
        let s = Settings::parse(text).unwrap();
        assert_eq!(Settings::parse(&s.to_toml().unwrap()).unwrap(), s);
    }

    #[track_caller]
    fn refused(text: &str, names: &str) {
        let error = Settings::parse(text).expect_err(text).to_string();
        assert!(error.contains(names), "{error:?} does not name {names}");
    }

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        refused("", "name");
        refused("name = \"A B\"\n[pool]\ndir=\"/x\"\nsize=\"1G\"", "is not a name");
        refused(&format!("{SMALL}\n[iscsi]\nlisten_on = 1"), "listen_on");
        refused(&format!("colour = 1\n{SMALL}"), "colour");
        refused("name = \"a\"\n[pool]", "pool");
        refused("name = \"a\"\n[pool]\ndir = \"/a\"", "pool.size");
        refused("name = \"a\"\n[pool]\ndir = \"/a\"\nsize = \"1M\"", "pool.size");
        refused("name = \"a\"\n[pool]\ndir = \"a\"\nsize = \"1G\"", "pool.dir");
        refused("name = \"a\"\n[pool]\ncache = \"/a\"", "pool");
        refused("name = \"a\"\n[pool]\ncache = \"/a\"\ndata = \"/a\"", "pool.data");
        refused("name = \"a\"\n[pool]\ndisk = \"/a\"\ndir = \"/b\"\nsize = \"1G\"", "pool");
        refused(&format!("{SMALL}[iscsi]\nlisten = []"), "iscsi.listen");
        refused(&format!("{SMALL}[iscsi]\ninitiators = [\"bob\"]"), "iscsi.initiators");
        refused(&format!("{SMALL}[iscsi]\nconnections_per_address = 0"), "iscsi.connections_per_address");
        refused(&format!("{SMALL}[metrics]\nlisten = \"0.0.0.0:1\""), "metrics.listen");
        refused(&format!("{SMALL}[api]\nsocket = \"x\""), "api.socket");
        refused(&format!("{SMALL}[api]\nhttps_cert = \"/x\""), "api.https_cert");
        refused(&format!("{SMALL}[api]\nhttps = \"127.0.0.1:3260\""), "api.https");
        refused(&format!("{SMALL}[limits]\nbuffers = \"1M\""), "limits.buffers");
        refused(&format!("{SMALL}[limits]\nsend_per_sec = 1"), "limits.send_per_sec");
        refused(&format!("{SMALL}[limits]\nindex = \"1K\""), "limits.index");
        refused(&format!("{SMALL}[log]\nlevel = \"loud\""), "loud");
    }

    #[test]
    fn nobody_comes_in_from_outside_unasked() {
        let iscsi = |text: &str| Settings::parse(&format!("{SMALL}[iscsi]\n{text}")).unwrap().iscsi;
        let wide = "listen = [\"127.0.0.1:3260\", \"0.0.0.0:3262\"]\n";
        for (text, named, others) in [
            (String::new(), false, true),
            (String::new(), true, false),
            ("initiators = [\"iqn.2001-04.example:a\"]".into(), false, false),
            (wide.into(), false, false),
            (wide.into(), true, false),
            (format!("{wide}open = true"), true, true),
        ] {
            assert_eq!(iscsi(&text).lets_others_in(named), others, "{text:?}, {named}");
        }
        Settings::parse(&format!("{SMALL}[iscsi]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]")).unwrap();
    }
}
