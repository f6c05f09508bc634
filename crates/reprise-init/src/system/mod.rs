//! The appliance while it runs: the first process in the checked root.
//!
//! It mounts, reads the settings, carries out a reset that was wanted, brings up network and clock, finds or makes the
//! pool, and keeps the daemon and the consoles running. What it is asked for comes over the system socket. It decides
//! nothing about volumes: who may serve is the journal's affair, and it serves also when the settings are lost.

mod appliance;
mod children;
mod clock;
mod config;
mod disks;
#[cfg(test)]
mod e2e;
mod gpt;
mod health;
mod logs;
mod network;
mod pool;
mod reset;
mod services;
mod socket;
mod start;
mod support;

use std::time::{Duration, Instant};

use reprise_api::{FirmwareStatus, Slot};

use crate::bootstate;
use crate::facts::{self, BootFacts};
use crate::watchdog::Watchdog;
use logs::{Level, say};
pub use network::lease::{HOOK_NAME, hook_main};

/// How often a watchdog that could not be taken over is tried again.
const TAKE_OVER_EVERY: Duration = Duration::from_secs(5);

/// What is done to the machine below.
trait Machine: Send {
    /// Puts the watchdog off.
    fn feed(&mut self) -> anyhow::Result<()>;

    /// The slot works: it is started from here on.
    fn confirm(&mut self) -> anyhow::Result<()>;
}

/// Runs the appliance. Does not come back: the machine starts again, or is off.
pub fn run(facts: BootFacts) -> ! {
    let firmware = FirmwareStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        slot: match facts.slot {
            facts::Slot::A => Slot::A,
            facts::Slot::B => Slot::B,
        },
        confirmed: facts.confirmed,
        fell_back: facts.fell_back,
        watchdog: facts.watchdog.as_ref().map(|w| w.found.name.clone()),
        secure_boot: facts.secure_boot,
    };
    if facts.state_was_lost {
        say(Level::Error, "the boot loader's state was damaged and has been made anew");
    }
    let boot_disk = Some(facts.boot_disk.clone());
    start::run(firmware, boot_disk, Box::new(Below { facts, watchdog: None, tried: None }))
}

/// The watchdog and the boot state as the first stage has left them.
struct Below {
    facts: BootFacts,
    watchdog: Option<Watchdog>,
    tried: Option<Instant>,
}

impl Machine for Below {
    fn feed(&mut self) -> anyhow::Result<()> {
        let Some(armed) = &self.facts.watchdog else { return Ok(()) };
        if self.watchdog.is_none() && self.tried.is_none_or(|at| at.elapsed() >= TAKE_OVER_EVERY) {
            self.tried = Some(Instant::now());
            self.watchdog = Some(Watchdog::arm(&armed.found, armed.secs)?);
        }
        self.watchdog.as_ref().map_or(Ok(()), Watchdog::feed)
    }

    fn confirm(&mut self) -> anyhow::Result<()> {
        bootstate::confirm(&self.facts)
    }
}
