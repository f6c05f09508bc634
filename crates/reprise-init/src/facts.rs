//! What the second stage has to know of the start: handed on in one small file in `/run`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::bootstate::Place;
use crate::watchdog;

/// Where the file is.
pub const FILE: &str = "/run/reprise/boot.json";

/// One of the two places of the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The one that is not this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// As it is on the command line.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    pub(crate) fn from_letter(text: &str) -> Option<Self> {
        match text {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }
}

/// What the first stage found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFacts {
    /// The slot that runs.
    pub slot: Slot,
    /// True when it has been found to work at an earlier start.
    pub confirmed: bool,
    /// True when it stands in for the one that was wanted.
    pub fell_back: bool,
    /// True when the boot loader's state was damaged; it has been made anew, and what was wanted is not known.
    pub state_was_lost: bool,
    /// Where the boot loader's state is; none when it has not said so.
    pub state: Option<Place>,
    /// The disk the box was started from, such as `/dev/sda`.
    pub boot_disk: PathBuf,
    /// The armed watchdog, and the seconds after which it fires.
    pub watchdog: Option<ArmedWatchdog>,
    /// True when the machine's firmware checked the boot loader.
    pub secure_boot: bool,
}

/// A watchdog that runs; see [`crate::watchdog::Watchdog::arm`] for taking it over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmedWatchdog {
    /// Which one.
    pub found: watchdog::Found,
    /// Seconds until it fires.
    pub secs: u32,
}

impl BootFacts {
    /// Reads the file.
    ///
    /// # Errors
    /// It is not there: the first stage has not run.
    pub fn load() -> Result<Self> {
        let text = std::fs::read(FILE).with_context(|| format!("read {FILE}"))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {FILE}"))
    }

    pub(crate) fn store(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        std::fs::write(file, serde_json::to_vec(self)?).with_context(|| format!("write {}", file.display()))
    }
}
