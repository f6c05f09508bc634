//! Log lines that strangers cause.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reprise_types::Mono;

use super::table::network_of;

/// Time that the counts are for.
const WINDOW_MILLIS: u64 = 600_000;
/// Lines that say the same of one source in that time: enough to find out what is wrong with a host.
const LINES_PER_SOURCE: u32 = 10;
/// Lines of all sources together: about 10 KiB in ten minutes, so that a log of a few MiB reaches back for days.
const LINES: u32 = 60;

/// Says which lines about strangers are logged, so that nobody without credentials can fill a log or push older lines out of it.
#[derive(Debug, Default)]
pub struct Quiet {
    since: Mono,
    lines: u32,
    /// What was said of whom how often; at most [`LINES`] entries.
    said: BTreeMap<(&'static str, IpAddr), u32>,
    left_out: u64,
}

impl Quiet {
    /// The number of lines that were left out before this one, if it is to be logged. `what` tells lines of one kind from others.
    pub fn line(&mut self, now: Mono, what: &'static str, from: IpAddr) -> Option<u64> {
        if now.millis_since(self.since) >= WINDOW_MILLIS {
            *self = Self { since: now, left_out: self.left_out, ..Self::default() };
        }
        let key = (what, network_of(from));
        let said = self.said.get(&key).copied().unwrap_or(0);
        if self.lines >= LINES || said >= LINES_PER_SOURCE {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        self.said.insert(key, said + 1);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_few_lines_and_their_number() {
        let mut quiet = Quiet::default();
        let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0xc000_0200 + n));
        let now = Mono::from_millis(WINDOW_MILLIS + 1);
        let said = (0..1000).filter(|_| quiet.line(now, "refused", address(9)).is_some()).count();
        assert_eq!(said, LINES_PER_SOURCE as usize);
        assert_eq!(quiet.line(now, "refused", address(1)), Some(990), "another source has its own");
        assert_eq!(quiet.line(now, "ended", address(9)), Some(0), "and so has another kind");
        let said: Vec<u64> = (0..100_000).filter_map(|n| quiet.line(now, "refused", address(n))).collect();
        assert_eq!(said.len(), (LINES - LINES_PER_SOURCE - 2) as usize);
        assert!(quiet.said.len() <= LINES as usize);
        let later = quiet.line(now.plus_millis(WINDOW_MILLIS), "refused", address(9)).unwrap();
        assert_eq!(said.iter().sum::<u64>() + later + said.len() as u64, 100_000, "each line is logged or counted");
    }
}
