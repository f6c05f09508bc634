//! `reprise system`, `reprise password` and `reprise notify`: the machine, the administrator, and who is told.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use reprise_api::*;

use crate::args::{Sure, Wait};
use crate::ask;
use crate::commands::{act, show};
use crate::units::{bytes, plain, utc};

/// Longest file of settings that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Firmware, clock, network, disks
    Show,
    /// The disks, and what is on them
    Disks,
    /// Make the pool on a disk; everything on it is given up
    Take {
        /// The disk, such as /dev/sda
        disk: String,
        /// Its serial number, needed unless it is blank
        #[arg(long)]
        serial: Option<String>,
    },
    /// Name the box
    Name { name: Name },
    /// Say how the clock is kept
    Time {
        /// A server to ask (NTP); may be given up to 8 times
        #[arg(long = "server", value_name = "HOST", required_unless_present = "manual")]
        servers: Vec<String>,
        /// Ask no server
        #[arg(long, conflicts_with = "servers")]
        manual: bool,
        /// Set the clock: seconds since 1970
        #[arg(long, value_name = "SECONDS")]
        set: Option<u64>,
    },
    /// Change the network by a JSON file, as `docs/api.md` has it; comes back after two minutes unless kept
    Network {
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Keep the network as it is now
    KeepNetwork,
    /// The last lines of a log
    Logs {
        /// daemon, system or kernel
        #[arg(long, default_value = "daemon", value_parser = ["daemon", "system", "kernel"])]
        of: String,
        /// At most so many
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2000))]
        lines: Option<u32>,
    },
    /// Write what somebody who helps wants to see into a file
    Support {
        /// Directory for the file
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Start the machine again
    Reboot,
    /// Turn the machine off
    PowerOff,
    /// Reset the box: settings, forget (also volumes and peers), wipe (also the disks)
    Reset {
        #[arg(value_parser = ["settings", "forget", "wipe"])]
        level: String,
        #[command(flatten)]
        sure: Sure,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PasswordCommand {
    /// Show the code that sets the first password in a browser
    Code,
    /// End all sessions of the web console; the password stays
    EndSessions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NotifyCommand {
    /// Who is told
    Show,
    /// Say by a JSON file who is told, as `docs/api.md` has it
    Set {
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Send everybody a test
    Test,
}

pub(crate) async fn run(client: &Client, json: bool, command: SystemCommand) -> anyhow::Result<()> {
    match command {
        SystemCommand::Show => show(json, &client.system_show(&Nothing {}).await?, system),
        SystemCommand::Disks => show(json, &client.system_show(&Nothing {}).await?.disks, |d| disks(d)),
        SystemCommand::Take { disk, serial } => {
            let request = DiskTake { path: disk, serial };
            show(json, &client.system_disk_take(&request).await?, |_| {
                "The pool is being made; see reprise system show.\n".to_owned()
            })
        }
        SystemCommand::Name { name } => {
            let request = NameSet { name };
            show(json, &client.system_name_set(&request).await?, |_| format!("The box is called {}.\n", request.name))
        }
        SystemCommand::Time { servers, set, .. } => {
            let request = TimeSet { servers, unix_ms: set.map(|s| s.saturating_mul(1000)) };
            show(json, &client.system_time_set(&request).await?, |_| "The clock is told.\n".to_owned())
        }
        SystemCommand::Network { file } => {
            let request: NetworkSettings = read(&file)?;
            show(json, &client.system_network_set(&request).await?, |_| {
                format!("In use for {NETWORK_KEEP_SECS} s; to keep it: reprise system keep-network\n")
            })
        }
        SystemCommand::KeepNetwork => {
            show(json, &client.system_network_keep(&Nothing {}).await?, |_| "The network is kept.\n".to_owned())
        }
        SystemCommand::Logs { of, lines } => {
            let source = serde_json::from_value(of.into())?;
            show(json, &client.system_logs(&LogQuery { source, lines }).await?, |log| {
                log.lines.iter().map(|l| plain(l) + "\n").collect()
            })
        }
        SystemCommand::Support { dir } => {
            let bundle = client.system_support(&Nothing {}).await?;
            if json {
                return crate::commands::print_json(&bundle);
            }
            let name = bundle.file_name.rsplit('/').next().unwrap_or("support.tar.gz");
            let path = dir.join(name);
            let content = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &bundle.content_base64)?;
            std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            outln!("Written: {}", path.display())
        }
        SystemCommand::Reboot => power(client, json, PowerAction::Reboot, "The box starts again.\n").await,
        SystemCommand::PowerOff => power(client, json, PowerAction::PowerOff, "The box turns off.\n").await,
        SystemCommand::Reset { level, sure } => {
            let level = serde_json::from_value(level.into())?;
            act(client, json, Action::SystemReset { level }, sure, Wait { no_wait: true }).await
        }
    }
}

/// The administrator's password; whoever reaches the local socket needs no old one.
pub(crate) async fn password(client: &Client, json: bool, command: Option<PasswordCommand>) -> anyhow::Result<()> {
    match command {
        None => set_password(client, json).await,
        Some(PasswordCommand::Code) => show(json, &client.admin_code(&Nothing {}).await?, |code| match &code.code {
            Some(code) => format!("{}\n", plain(code)),
            None => "A password is set; it needs no code. To set another one here: reprise password\n".to_owned(),
        }),
        Some(PasswordCommand::EndSessions) => {
            show(json, &client.admin_sessions_end(&Nothing {}).await?, |_| "All sessions are ended.\n".to_owned())
        }
    }
}

async fn set_password(client: &Client, json: bool) -> anyhow::Result<()> {
    let new = ask::password("New password")?;
    if ask::password("Once more")? != new {
        anyhow::bail!("the two are not the same; nothing is changed");
    }
    let done = client.admin_password_reset(&PasswordReset { new }).await?;
    show(json, &done, |_| "The password is set. Sessions of the web console end.\n".to_owned())
}

pub(crate) async fn notify(client: &Client, json: bool, command: NotifyCommand) -> anyhow::Result<()> {
    match command {
        NotifyCommand::Show => show(json, &client.notify_show(&Nothing {}).await?, receivers),
        NotifyCommand::Set { file } => show(json, &client.notify_set(&read(&file)?).await?, receivers),
        NotifyCommand::Test => show(json, &client.notify_test(&Nothing {}).await?, |test| {
            let mut text = String::new();
            for result in &test.results {
                let how = result.error.as_deref().map_or("taken".to_owned(), |e| format!("failed: {}", plain(e)));
                let _ = writeln!(text, "{}: {how}", plain(&result.to));
            }
            if text.is_empty() { "Nobody is told; see reprise notify set --help.\n".to_owned() } else { text }
        }),
    }
}

async fn power(client: &Client, json: bool, action: PowerAction, told: &str) -> anyhow::Result<()> {
    show(json, &client.system_power(&Power { action }).await?, |_| told.to_owned())
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let text = read_text(file, FILE_BYTES_MAX).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", file.display()))
}

fn receivers(settings: &NotifySettings) -> String {
    let mut text = String::new();
    for hook in &settings.webhooks {
        let _ = writeln!(text, "webhook {}", plain(&hook.url));
    }
    if let Some(mail) = &settings.mail {
        let _ = writeln!(text, "mail to {} by {}", plain(&mail.to.join(", ")), plain(&mail.server));
    }
    if text.is_empty() { "Nobody is told.\n".to_owned() } else { text }
}

fn disks(disks: &[DiskStatus]) -> String {
    let mut text = format!("{:<14} {:<10} {:<22} {:<24} USE\n", "DISK", "SIZE", "SERIAL", "MODEL");
    for disk in disks {
        let usage = match &disk.usage {
            DiskUsage::Boot { free_bytes, pool } => {
                format!("firmware{}, {} free", if *pool { " and pool" } else { "" }, bytes(*free_bytes))
            }
            DiskUsage::Pool => "pool".to_owned(),
            DiskUsage::Blank => "blank".to_owned(),
            DiskUsage::Foreign { what } => format!("carries {}", plain(what)),
            DiskUsage::Failed { reason } => format!("failed: {}", plain(reason)),
        };
        let (serial, model) = (plain(&disk.serial), plain(&disk.model));
        let _ = writeln!(text, "{:<14} {:<10} {serial:<22} {model:<24} {usage}", disk.path, bytes(disk.size_bytes));
    }
    text
}

fn system(status: &SystemStatus) -> String {
    let firmware = &status.firmware;
    let slot = if firmware.slot == Slot::A { "a" } else { "b" };
    let mut text = format!(
        "{} version {}, slot {slot}{}{}\n",
        status.name,
        plain(&firmware.version),
        if firmware.confirmed { "" } else { ", not confirmed" },
        if firmware.fell_back { ", the other slot failed" } else { "" },
    );
    let clock = match &status.clock.state {
        ClockState::Synchronized { server, offset_us } => format!("by {}, {offset_us} us off", plain(server)),
        ClockState::Unsynchronized { reason } => format!("not synchronized: {}", plain(reason)),
        ClockState::Manual => "set by hand".to_owned(),
    };
    let _ = writeln!(text, "Clock     {} UTC, {clock}", utc(status.clock.unix_ms));
    for interface in &status.network.interfaces {
        let cable = if interface.carrier { "up" } else { "no cable" };
        let _ = writeln!(text, "{:<9} {cable}, {}", plain(&interface.name), plain(&interface.addresses.join(", ")));
    }
    if let Some(secs) = status.network.reverts_in_secs {
        let _ = writeln!(text, "          back to the earlier network in {secs} s unless kept");
    }
    let pool = match &status.pool {
        PoolPlace::None { reason } => format!("none: {}", plain(reason)),
        PoolPlace::Preparing { path } => format!("being made on {path}"),
        PoolPlace::On { path, serial } => format!("on {path}, serial number {}", plain(serial)),
        PoolPlace::Missing { serial } => format!("missing: it was on the disk with serial number {}", plain(serial)),
    };
    let _ = writeln!(text, "Pool      {pool}");
    if let ConfigState::Damaged { reason } = &status.config {
        let _ = writeln!(text, "Settings  damaged, defaults are in use: {}", plain(reason));
    }
    if let Some(fingerprint) = &status.certificate_fingerprint {
        let _ = writeln!(text, "Browser   certificate SHA-256 {fingerprint}");
    }
    text + &disks(&status.disks)
}
