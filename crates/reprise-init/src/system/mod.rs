//! The appliance while it runs.

use std::time::Duration;

use crate::bootstate;
use crate::facts::BootFacts;
use crate::watchdog::Watchdog;

/// Stands in for the second stage until it is merged.
pub fn run(facts: BootFacts) -> ! {
    let watchdog = facts.watchdog.as_ref().and_then(|w| Watchdog::arm(&w.found, 20).ok());
    let _ = std::fs::write("/dev/console", format!("facts: {facts:?}\r\n"));
    let outcome = bootstate::confirm(&facts);
    let _ = std::fs::write("/dev/console", format!("confirm: {outcome:?}\r\n"));
    let _ = std::fs::write("/dev/console", format!("reprise: serving, slot {}\r\n", facts.slot.letter()));
    loop {
        if let Some(watchdog) = &watchdog {
            let _ = watchdog.feed();
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
