//! The first process of the appliance, twice: [`early`] runs from the initial memory disk, checks the root and goes over
//! into it; [`system`] is the same program in that root, and stays.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bootstate;
pub mod early;
pub mod facts;
pub mod modules;
pub mod system;
pub mod verity;
pub mod watchdog;

use std::io::Write as _;

use facts::BootFacts;

/// The word the second stage is started with.
const SYSTEM: &str = "system";

/// Goes the way this process was started for.
///
/// # Errors
/// It was started by somebody who is not the kernel.
pub fn main() -> anyhow::Result<()> {
    // What this process and its children make is read by root alone, whoever else there may be.
    nix::sys::stat::umask(nix::sys::stat::Mode::S_IRWXG | nix::sys::stat::Mode::S_IRWXO);
    let name = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&name).file_name().is_some_and(|n| n == system::HOOK_NAME) {
        return system::hook_main();
    }
    if std::process::id() != 1 {
        anyhow::bail!("this is the first process of an appliance; it is started by the kernel");
    }
    if std::env::args().nth(1).as_deref() == Some(SYSTEM) {
        let facts = BootFacts::load()?;
        plug_in();
        system::run(facts)
    }
    early::run()
}

/// Drivers of the devices that were not needed to reach the root, such as network cards: they are in the root only.
fn plug_in() {
    match modules::Modules::of_this_kernel() {
        Ok(mut modules) => {
            modules.coldplug();
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "reprise: no drivers: {error:#}");
        }
    }
}
