//! The appliance under the daemon: firmware, network, clock, disks, power.
//!
//! A daemon that runs on somebody's own Linux has none of it and refuses these commands (`not-supported`). On the image
//! the first process carries them out; the daemon hands them on over a local socket, one JSON line each way
//! ([`SystemCall`], [`SystemReply`]).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::command::Done;
use crate::error::ApiError;
use crate::value::{IpAddressText, Name};

/// Seconds a network change has to be kept in, before the earlier settings come back.
pub const NETWORK_KEEP_SECS: u32 = 120;
/// Most lines of a log in one answer.
pub const LOG_LINES_MAX: u32 = 2000;

/// The appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SystemStatus {
    /// Name of the box.
    pub name: Name,
    /// Seconds since power-on.
    pub uptime_secs: u64,
    /// Memory, bytes.
    pub memory_bytes_total: u64,
    /// Memory that could be given out, bytes.
    pub memory_bytes_available: u64,
    /// Versions and slots.
    pub firmware: FirmwareStatus,
    /// The clock.
    pub clock: ClockStatus,
    /// The network.
    pub network: NetworkStatus,
    /// The disks, in the order of their paths.
    pub disks: Vec<DiskStatus>,
    /// Where the pool is.
    pub pool: PoolPlace,
    /// What became of the settings at the last start.
    pub config: ConfigState,
    /// The processes the first process watches.
    pub processes: Vec<ProcessStatus>,
    /// SHA-256 of the certificate that browsers are shown, hexadecimal; null until there is one.
    #[serde(default)]
    pub certificate_fingerprint: Option<String>,
}

/// Which firmware runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FirmwareStatus {
    /// Its version.
    pub version: String,
    /// The slot it was started from.
    pub slot: Slot,
    /// True when this slot is known to work, so that it is started again.
    pub confirmed: bool,
    /// True when the slot is not the one that was wanted: the other one failed three times.
    pub fell_back: bool,
    /// The hardware watchdog, such as `iTCO_wdt`; null where the machine has none.
    pub watchdog: Option<String>,
    /// True when the firmware of the machine checked the boot loader (UEFI Secure Boot).
    pub secure_boot: bool,
}

/// One of the two places of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

/// The clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockStatus {
    /// Now, in milliseconds since 1970.
    pub unix_ms: u64,
    /// How far it can be believed.
    pub state: ClockState,
    /// Servers that are asked.
    pub servers: Vec<String>,
}

/// How far the clock can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ClockState {
    /// A server's answer is not older than an hour.
    Synchronized {
        /// The server.
        server: String,
        /// Difference found last, microseconds; positive where the box was behind.
        offset_us: i64,
    },
    /// No server has answered since the start, or for an hour.
    Unsynchronized {
        /// Why.
        reason: String,
    },
    /// Set by hand; no server is asked.
    Manual,
}

/// Name or address of a time server: a schema and nothing else.
#[derive(ToSchema)]
#[schema(pattern = "^[0-9A-Za-z._:-]+$", max_length = 253)]
#[expect(dead_code, reason = "its schema alone is used")]
struct TimeServer(String);

/// How the clock is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeSet {
    /// Names or addresses of NTP servers, at most 8; none: the clock is set by hand.
    #[schema(value_type = Vec<TimeServer>, max_items = 8)]
    pub servers: Vec<String>,
    /// Sets the clock now, milliseconds since 1970: a moment between 2020 and 2200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1577836800000i64, maximum = 7258118399999i64)]
    pub unix_ms: Option<u64>,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    /// As it is.
    pub interfaces: Vec<InterfaceStatus>,
    /// As it is wanted.
    pub settings: NetworkSettings,
    /// Name servers in use.
    #[schema(value_type = Vec<String>)]
    pub nameservers: Vec<IpAddr>,
    /// Seconds until the earlier settings come back, unless these are kept; null when nothing waits.
    pub reverts_in_secs: Option<u32>,
}

/// A network interface as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Hardware address.
    pub mac: String,
    /// True when a cable with something at the other end is plugged in.
    pub carrier: bool,
    /// Speed, Mbit/s; null where it is not known.
    pub speed_mbit: Option<u32>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Default gateways over this interface.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
}

/// The network as it is wanted. Interfaces that are not named take DHCP, and a link-local address where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// By name, at most 32.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub interfaces: Vec<InterfaceSettings>,
    /// Name servers, at most 8; none: those that DHCP names.
    #[serde(default)]
    #[schema(value_type = Vec<IpAddressText>, max_items = 8)]
    pub nameservers: Vec<IpAddr>,
}

/// A network interface as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSettings {
    /// Its name, at most 15 characters.
    #[schema(min_length = 1, max_length = 15)]
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub kind: InterfaceKind,
    /// How it gets IPv4 addresses.
    #[serde(default)]
    pub ipv4: AddressMethod,
    /// How it gets IPv6 addresses.
    #[serde(default)]
    pub ipv6: AddressMethod,
    /// Largest packet, 1280 to 9216 bytes; what the driver says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1280, maximum = 9216)]
    pub mtu: Option<u32>,
}

/// What a network interface is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum InterfaceKind {
    /// A card.
    #[default]
    Ethernet,
    /// A VLAN on another one (IEEE 802.1Q).
    Vlan {
        /// The interface below.
        parent: String,
        /// Its number, 1 to 4094.
        #[schema(minimum = 1, maximum = 4094)]
        id: u16,
    },
    /// Several cards as one (IEEE 802.1AX, or active-backup).
    Bond {
        /// The cards, at most 8.
        #[schema(max_items = 8)]
        members: Vec<String>,
        /// How they share the work.
        mode: BondMode,
    },
}

/// How the cards of a bond share the work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BondMode {
    /// One works, the others wait; needs nothing of the switch.
    #[default]
    ActiveBackup,
    /// LACP; the switch has to know it.
    Lacp,
}

/// How an interface gets addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AddressMethod {
    /// IPv4: DHCP, and a link-local address where no server answers. IPv6: router advertisements.
    #[default]
    Auto,
    /// Those named here.
    Static {
        /// Addresses with prefix lengths, such as `192.0.2.7/24`; 1 to 8.
        #[schema(min_items = 1, max_items = 8)]
        addresses: Vec<String>,
        /// The default gateway.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<IpAddressText>)]
        gateway: Option<IpAddr>,
    },
    /// Only a link-local address.
    LinkLocal,
    /// None.
    Off,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskStatus {
    /// Where the kernel shows it, such as `/dev/sda`; may change at a restart.
    pub path: String,
    /// Its serial number, as it has to be typed to give up its content; the path where it has none.
    pub serial: String,
    /// Maker and model.
    pub model: String,
    /// Its size.
    pub size_bytes: u64,
    /// What it is used for, or what is on it.
    pub usage: DiskUsage,
}

/// What a disk is used for, or what is on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DiskUsage {
    /// The firmware started from it.
    Boot {
        /// Bytes behind the firmware that nothing uses.
        free_bytes: u64,
        /// True when the pool is there, too.
        pool: bool,
    },
    /// It carries the pool.
    Pool,
    /// All zeros at its beginning and end, and no partition: may be taken.
    Blank,
    /// It carries something that is not the box's.
    Foreign {
        /// What was recognized, such as `ext4`, `GPT with 3 partitions` or `unknown data`.
        what: String,
    },
    /// It cannot be read.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Where the pool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PoolPlace {
    /// There is none: no disk is free, or somebody has to choose one.
    None {
        /// Why, and what to do.
        reason: String,
    },
    /// It is being made.
    Preparing {
        /// The disk.
        path: String,
    },
    /// On this disk.
    On {
        /// The disk.
        path: String,
        /// Its serial number.
        serial: String,
    },
    /// It was on a disk that is not there now.
    Missing {
        /// The serial number it had.
        serial: String,
    },
}

/// Takes a disk for the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskTake {
    /// Where the kernel shows it.
    pub path: String,
    /// Its serial number, typed by a person: everything on the disk is given up. Not needed for a blank one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// What became of the settings at the last start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConfigState {
    /// None were there: a fresh box.
    Fresh,
    /// Read.
    Good,
    /// One of the two copies was damaged; it was written again from the other.
    Repaired,
    /// Both copies were damaged: the box started with the defaults. Data and roles are not kept there.
    Damaged {
        /// What was wrong.
        reason: String,
    },
}

/// A process the first process watches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessStatus {
    /// Its name, such as `daemon`.
    pub name: String,
    /// True while it runs.
    pub running: bool,
    /// How often it had to be started again.
    pub restarts: u32,
    /// How it ended last; null if it never did.
    pub last_exit: Option<String>,
}

/// A new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NameSet {
    /// The name. It holds from the next start of the daemon, which follows at once.
    pub name: Name,
}

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Whose.
    #[serde(default)]
    pub source: LogSource,
    /// The last so many lines, up to 2000; 200 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2000)]
    #[param(minimum = 1, maximum = 2000)]
    pub lines: Option<u32>,
}

/// Whose log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogSource {
    /// The daemon's.
    #[default]
    Daemon,
    /// The first process's.
    System,
    /// The kernel's.
    Kernel,
}

/// Lines of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLines {
    /// The oldest first.
    pub lines: Vec<String>,
}

/// What to send to somebody who helps: status, logs, hardware, settings without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SupportBundle {
    /// A name for the file.
    pub file_name: String,
    /// A gzip-compressed tar, in base64.
    pub content_base64: String,
}

/// Turns the machine off or starts it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Power {
    /// What.
    pub action: PowerAction,
}

/// What to do with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Start again.
    Reboot,
    /// Turn off.
    PowerOff,
}

/// How much a reset takes away. A larger level includes the smaller ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResetLevel {
    /// Network, time, name, password, messages. Volumes, peers, initiators and data stay.
    Settings,
    /// Also identity, peers, initiators, groups and volumes: what is in the volumes can no longer be reached, but its bytes
    /// are not overwritten.
    Forget,
    /// Also the content of all disks of the box: discarded where the disk can, else overwritten with zeros.
    Wipe,
}

impl ResetLevel {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Forget => "forget",
            Self::Wipe => "wipe",
        }
    }

    /// For people: what is lost, a sentence each.
    pub fn losses(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (
                Self::Settings,
                "Network, clock, name, password and messages are as on a new box; the first password needs the code that its consoles show.",
            ),
            (Self::Forget, "Identity, peers, initiators, groups and volumes are forgotten; what volumes hold is lost."),
            (Self::Wipe, "The content of the box's disks is overwritten."),
        ];
        all.into_iter().filter(move |(level, _)| *level <= self).map(|(_, loss)| loss)
    }
}

/// A reset. The box writes down that it is wanted, starts again, and carries it out before anything else; a power cut in
/// between only delays it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// How much.
    pub level: ResetLevel,
}

/// What the daemon asks of the first process, one JSON line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", content = "request", rename_all = "snake_case")]
pub enum SystemCall {
    /// `system_show`.
    Show,
    /// `system_network_set`.
    NetworkSet(NetworkSettings),
    /// `system_network_keep`.
    NetworkKeep,
    /// `system_time_set`.
    TimeSet(TimeSet),
    /// `system_name_set`.
    NameSet(NameSet),
    /// `system_disk_take`.
    DiskTake(DiskTake),
    /// `system_logs`.
    Logs(LogQuery),
    /// `system_support`; the daemon adds its own status, as JSON text.
    Support {
        /// The daemon's status; null where it has none.
        status: Option<String>,
    },
    /// `system_power`.
    Power(Power),
    /// A confirmed reset.
    Reset(Reset),
}

/// What the first process answers, one JSON line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "answer", rename_all = "snake_case")]
pub enum SystemReply {
    /// To [`SystemCall::Show`].
    Show(Box<SystemStatus>),
    /// To [`SystemCall::Logs`].
    Logs(LogLines),
    /// To [`SystemCall::Support`].
    Support(SupportBundle),
    /// To all others.
    Done(Done),
    /// It does not come about.
    Error(ApiError),
}
