//! IPv4 link-local addresses (RFC 3927): an address nobody else on the cable has.
//!
//! Asking whether somebody has it is busybox's `arping`. What this does not do is defend the address later on
//! (section 2.5): the box gives it up as soon as a DHCP server answers, and people see it on the console.

use std::net::Ipv4Addr;

use super::apply::Net;
use crate::system::logs::{Level, say};

/// Addresses tried before giving up until the next look. The standard slows down after ten.
const TRIES_MAX: u64 = 10;

/// What a search gave.
#[derive(Debug)]
pub(super) struct Found {
    /// The interface.
    pub(super) interface: String,
    /// The search's number.
    pub(super) search: u64,
    /// The address, if one was free.
    pub(super) address: Option<Ipv4Addr>,
}

/// The n-th address for a card: always the same ones, so that a box keeps its address over restarts (section 2.1).
fn candidate(mac: [u8; 6], n: u64) -> Ipv4Addr {
    // A multiplicative hash is even enough for 65,024 addresses.
    let seed =
        mac.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32;
    // The first and the last 256 addresses are reserved.
    let host = 256 + mixed % (65536 - 512);
    Ipv4Addr::from(0xa9fe_0000 | host as u32)
}

/// Looks for a free address. Takes three seconds where the first one is free.
pub(super) fn search(net: &Net, interface: &str, search: u64) -> Found {
    let mac = net.mac(interface).unwrap_or_default();
    let free = (0..TRIES_MAX).map(|n| candidate(mac, n)).find(|address| is_free(net, interface, *address));
    if free.is_none() {
        say(Level::Error, &format!("{interface}: no link-local address is free"));
    }
    Found { interface: interface.to_owned(), search, address: free }
}

fn is_free(net: &Net, interface: &str, address: Ipv4Addr) -> bool {
    let address = address.to_string();
    net.busybox(&["arping", "-D", "-f", "-q", "-c", "3", "-w", "3", "-I", interface, &address]).is_ok()
}

/// Tells the others on the cable whose the address is (section 2.4).
pub(super) fn announce(net: &Net, interface: &str, address: Ipv4Addr) {
    let address = address.to_string();
    if let Err(error) = net.busybox(&["arping", "-U", "-q", "-c", "1", "-w", "1", "-I", interface, &address]) {
        say(Level::Info, &format!("announce {address}: {error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_are_link_local_stable_and_differ() {
        let mut seen = BTreeSet::new();
        for card in 0..200u8 {
            for n in 0..TRIES_MAX {
                let mac = [0x52, 0x54, 0, 0x12, 0x34, card];
                let address = candidate(mac, n);
                assert_eq!(address, candidate(mac, n));
                assert!(address.is_link_local() && !matches!(address.octets()[2], 0 | 255), "{address}");
                seen.insert(address);
            }
        }
        assert!(seen.len() > 1950, "{} of 2000 differ", seen.len());
    }
}
