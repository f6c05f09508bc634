//! How many connections and logins an address may have.
//!
//! Guessing secrets and storms of logins are stopped before a byte is read. An iSCSI connection makes one login, so
//! connections are what is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reprise_types::Mono;

/// Addresses remembered beyond those with a connection: about 100 KiB. At the limit those without one are forgotten, so
/// they may try a little more often.
const ADDRESSES_MAX: usize = 1024;
const MINUTE_MILLIS: u64 = 60_000;
/// Logins a minute where the settings do not say: far above what hosts need, far below what guessing needs.
const LOGINS_DEFAULT: u32 = 600;

/// Limits of each address.
#[derive(Debug, Clone, Copy)]
pub struct GateLimits {
    /// Connections at a time.
    pub connections: u32,
    /// Logins a minute, 0 for no limit. Not given: 600, and no limit on loopback.
    pub logins_per_minute: Option<u32>,
}

impl GateLimits {
    fn logins(&self, from: IpAddr) -> Option<u32> {
        match self.logins_per_minute {
            Some(0) => None,
            None if from.is_loopback() => None,
            limit => Some(limit.unwrap_or(LOGINS_DEFAULT)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    connections: u32,
    /// Begin of the minute that `logins` counts.
    minute: Mono,
    logins: u32,
    /// The log has a line of this minute about connections, about logins.
    told_connections: bool,
    told_logins: bool,
}

#[derive(Debug)]
struct Inner {
    limits: GateLimits,
    addresses: HashMap<IpAddr, Seen>,
}

/// What stands between the listeners and everything else.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Mutex<Inner>>);

/// A connection that came in; counts until it is dropped.
#[derive(Debug)]
pub struct Visit {
    gate: Gate,
    from: IpAddr,
}

impl Visit {
    /// Where it comes from.
    pub fn from(&self) -> IpAddr {
        self.from
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(seen) = self.gate.lock().addresses.get_mut(&self.from) {
            seen.connections = seen.connections.saturating_sub(1);
        }
    }
}

impl Gate {
    pub(super) fn new(limits: GateLimits) -> Self {
        Self(Arc::new(Mutex::new(Inner { limits, addresses: HashMap::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, or tells the log, once a minute for each address, why not.
    pub(super) fn enter(&self, now: Mono, from: IpAddr) -> Option<Visit> {
        let mut inner = self.lock();
        let limits = inner.limits;
        if inner.addresses.len() >= ADDRESSES_MAX {
            inner.addresses.retain(|_, seen| seen.connections > 0);
        }
        let fresh = Seen { connections: 0, minute: now, logins: 0, told_connections: false, told_logins: false };
        let seen = inner.addresses.entry(from).or_insert(fresh);
        if now.millis_since(seen.minute) >= MINUTE_MILLIS {
            *seen = Seen { connections: seen.connections, ..fresh };
        }
        let (open, limit) = (seen.connections, limits.connections);
        if open >= limit {
            if !std::mem::replace(&mut seen.told_connections, true) {
                tracing::warn!(address = %from, open, limit, "connection refused: too many are open");
            }
            return None;
        }
        if let Some(limit) = limits.logins(from).filter(|limit| seen.logins >= *limit) {
            if !std::mem::replace(&mut seen.told_logins, true) {
                tracing::warn!(address = %from, limit, "logins refused for the rest of the minute: too many");
            }
            return None;
        }
        seen.connections += 1;
        seen.logins += 1;
        Some(Visit { gate: self.clone(), from })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: u32, logins_per_minute: Option<u32>) -> Gate {
        Gate::new(GateLimits { connections, logins_per_minute })
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0xc000_0200 + n))
    }

    #[test]
    fn connections_of_an_address_are_limited_and_come_back() {
        let gate = gate(3, Some(0));
        let now = Mono::from_millis(5);
        let mut inside: Vec<Visit> = (0..3).map(|_| gate.enter(now, address(1)).unwrap()).collect();
        assert!(gate.enter(now, address(1)).is_none());
        assert!(gate.enter(now, address(2)).is_some(), "another address has its own");
        inside.pop();
        assert!(gate.enter(now, address(1)).is_some());
        assert_eq!(inside[0].from(), address(1));
    }

    #[test]
    fn logins_of_an_address_are_limited_by_the_minute() {
        let gate = gate(9, Some(20));
        let start = Mono::from_millis(1000);
        for minute in 0..3 {
            let now = start.plus_millis(minute * MINUTE_MILLIS);
            let let_in = (0..50).filter(|n| gate.enter(now.plus_millis(n * 1000), address(1)).is_some()).count();
            assert_eq!(let_in, 20);
        }
        let loopback: IpAddr = "::1".parse().unwrap();
        let let_in = |gate: &Gate, from| (0..1000).filter(|_| gate.enter(start, from).is_some()).count();
        assert_eq!(let_in(&gate, loopback), 20, "a limit that was given holds on loopback too");
        let unset = super::tests::gate(9, None);
        assert_eq!((let_in(&unset, loopback), let_in(&unset, address(1))), (1000, LOGINS_DEFAULT as usize));
        assert_eq!(let_in(&super::tests::gate(9, Some(0)), address(1)), 1000);
    }

    #[test]
    fn many_addresses_take_no_memory() {
        let gate = gate(9, Some(1));
        let now = Mono::from_millis(1000);
        let stays = gate.enter(now, address(0)).unwrap();
        for n in 1..5000 {
            drop(gate.enter(now, address(n)).unwrap());
        }
        let inner = gate.lock();
        assert!(inner.addresses.len() <= ADDRESSES_MAX && inner.addresses[&stays.from()].connections == 1);
    }
}
