//! The watchdog: starts the machine again when nobody says for a while that all is well.
//!
//! It is armed in the initial memory disk, before anything of the root runs, and cannot be disarmed: its modules are loaded
//! with `nowayout`. Whoever takes over opens it again and goes on.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where the kernel lists its watchdogs.
const CLASS: &str = "/sys/class/watchdog";
/// How the kernel's own timer names itself. It is no help when the kernel hangs.
const SOFTWARE: &str = "Software Watchdog";

/// Modules of watchdogs, which get `nowayout=1`.
pub const MODULES: &[&str] =
    &["iTCO_wdt", "i6300esb", "sp5100_tco", "wdat_wdt", "ipmi_watchdog", "softdog", "hpwdt", "ie6xx_wdt"];

/// A watchdog of this machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Found {
    /// Its device.
    pub device: PathBuf,
    /// What its driver calls it.
    pub name: String,
}

impl Found {
    /// False for the kernel's own timer.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.name != SOFTWARE
    }
}

/// The best watchdog there is: one in hardware before the kernel's own timer.
#[must_use]
pub fn find() -> Option<Found> {
    best(list(Path::new(CLASS)))
}

fn list(class: &Path) -> Vec<Found> {
    let entries = std::fs::read_dir(class).into_iter().flatten().flatten();
    let mut found: Vec<Found> = entries
        .filter_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("identity")).ok()?;
            Some(Found { device: Path::new("/dev").join(entry.file_name()), name: name.trim().to_owned() })
        })
        .collect();
    found.sort_by(|a, b| a.device.cmp(&b.device));
    found
}

fn best(found: Vec<Found>) -> Option<Found> {
    found.iter().find(|w| w.is_hardware()).or(found.first()).cloned()
}

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    /// Seconds until it fires.
    secs: u32,
}

impl Watchdog {
    /// Arms it, or takes it over, to fire after `secs` without [`Self::feed`].
    ///
    /// # Errors
    /// Another process has it, or it does not take the time.
    pub fn arm(found: &Found, secs: u32) -> Result<Self> {
        let file = File::options().write(true).open(&found.device);
        let file = file.with_context(|| format!("open {}", found.device.display()))?;
        let secs = reprise_media::watchdog_set_timeout(&file, secs).context("set the watchdog's time")?;
        let this = Self { file, secs };
        this.feed()?;
        Ok(this)
    }

    /// Starts its time over.
    ///
    /// # Errors
    /// The device is gone.
    pub fn feed(&self) -> Result<()> {
        reprise_media::watchdog_keep_alive(&self.file).context("feed the watchdog")
    }

    /// Seconds until it fires: what it took of what it was asked for.
    #[must_use]
    pub fn secs(&self) -> u32 {
        self.secs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_goes_before_the_kernels_timer() {
        let dir = tempfile::tempdir().unwrap();
        for (name, identity) in [("watchdog0", "Software Watchdog\n"), ("watchdog1", "i6300ESB timer\n")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("identity"), identity).unwrap();
        }
        let found = list(dir.path());
        assert_eq!(found.len(), 2);
        let hardware = Found { device: "/dev/watchdog1".into(), name: "i6300ESB timer".into() };
        assert_eq!(best(found.clone()), Some(hardware));
        assert_eq!(best(found[..1].to_vec()).map(|f| f.is_hardware()), Some(false));
        assert_eq!(best(list(&dir.path().join("none"))), None);
    }
}
