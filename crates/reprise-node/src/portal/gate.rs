//! How many connections and logins an address may have, and who has a place until it has logged in.
//!
//! Guessing secrets and storms of logins are stopped before a byte is read. An iSCSI connection makes one login, so
//! connections are what is counted. Before the login a connection has one of a fixed number of places ([`Strangers`]), from
//! its first byte to the end of the login, whichever thread serves it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reprise_api::strangers::{Place, PlaceLimits, Strangers, TellFull, network_of};
use reprise_iscsi::CloseReason;
use reprise_types::Mono;

/// Connections that have not logged in, at most: each holds a first PDU (8 KiB) or a login under way (about 40 KiB). As many
/// again for addresses that somebody has logged in from, or that a rule names. At the limit somebody else is closed.
const PLACES: PlaceLimits = PlaceLimits { strangers: 128, kept: 128 };
/// Sources remembered beyond those with a connection: about 100 KiB. At the limit those without one are forgotten, so
/// they may try a little more often.
const SOURCES_MAX: usize = 1024;
const MINUTE_MILLIS: u64 = 60_000;
/// Logins a minute where the settings do not say: far above what hosts need, far below what guessing needs.
const LOGINS_DEFAULT: u32 = 600;
/// What all addresses of one /64 may have together, in limits of one address: hosts of a network share it, and one host may
/// have all of its addresses.
const NETWORK_TIMES: u32 = 4;

/// Limits of each address.
#[derive(Debug, Clone, Copy)]
pub struct GateLimits {
    /// Connections at a time; four times as many for a /64 of IPv6.
    pub connections: u32,
    /// Logins a minute, 0 for no limit; four times as many for a /64 of IPv6. Not given: 600, and no limit on loopback.
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

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    /// A /64.
    Network(IpAddr),
}

impl Source {
    /// All that an address counts for, and how many limits of one address each has.
    fn of(from: IpAddr) -> impl Iterator<Item = (Self, u32)> {
        let network = from.is_ipv6().then(|| (Self::Network(network_of(from)), NETWORK_TIMES));
        std::iter::once((Self::Address(from), 1)).chain(network)
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    connections: u32,
    /// Begin of the minute that `logins` counts.
    minute: Mono,
    logins: u32,
}

#[derive(Debug)]
struct Inner {
    limits: GateLimits,
    sources: HashMap<Source, Seen>,
}

/// What stands between the listeners and everything else.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    inner: Arc<Mutex<Inner>>,
    strangers: Strangers,
}

/// A connection that came in; counts until it is dropped.
#[derive(Debug)]
pub struct Visit {
    gate: Gate,
    from: IpAddr,
    /// Until it has logged in.
    place: Option<Place>,
}

impl Visit {
    /// Where it comes from.
    pub fn from(&self) -> IpAddr {
        self.from
    }

    /// It has sent what an initiator begins with.
    pub fn heard(&self) {
        self.place.iter().for_each(Place::heard);
    }

    /// It has logged in: its place is free for others, and its address is known.
    pub fn logged_in(&mut self) {
        self.gate.strangers.remember(self.from);
        self.place = None;
    }

    /// Ends when its place has gone to somebody else, which never happens after the login: it is to be closed.
    pub fn pushed_out(&self) -> impl Future<Output = ()> + Send + use<> {
        let out = self.place.as_ref().map(Place::pushed_out);
        async move {
            match out {
                Some(out) => out.await,
                None => std::future::pending().await,
            }
        }
    }

    /// The number of lines about strangers that were left out before this one, if the end of the connection is to be logged:
    /// that of a session always is.
    pub fn line_of_end(&self) -> Option<u64> {
        if self.place.is_some() { self.line("ended") } else { Some(0) }
    }

    fn line(&self, what: &'static str) -> Option<u64> {
        self.gate.strangers.line(what, self.from)
    }

    /// Logs a login that was refused: somebody tries, or a rule is missing.
    pub fn tell_refused(&self, reason: CloseReason) {
        if let CloseReason::LoginFailed { status } = reason
            && let Some(left_out) = self.line("refused")
        {
            tracing::info!(address = %self.from, status = format_args!("{status:#06x}"), left_out, "login refused");
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        for (source, _) in Source::of(self.from) {
            if let Some(seen) = inner.sources.get_mut(&source) {
                seen.connections = seen.connections.saturating_sub(1);
            }
        }
    }
}

impl Gate {
    pub(super) fn new(limits: GateLimits, tell: TellFull) -> Self {
        let inner = Inner { limits, sources: HashMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), strangers: Strangers::new(PLACES, tell) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, or tells the log why not. `expected`: a rule names its address.
    pub(super) fn enter(&self, now: Mono, from: IpAddr, expected: bool) -> Option<Visit> {
        if let Err((what, limit)) = self.lock().count(now, from) {
            if let Some(left_out) = self.strangers.line(what, from) {
                tracing::warn!(address = %from, limit, left_out, "{what}");
            }
            return None;
        }
        Some(Visit { gate: self.clone(), from, place: Some(self.strangers.enter(from, expected)) })
    }
}

impl Inner {
    /// Counts a connection, or says which limit it would break.
    fn count(&mut self, now: Mono, from: IpAddr) -> Result<(), (&'static str, u32)> {
        let limits = self.limits;
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, seen| seen.connections > 0);
        }
        for (source, times) in Source::of(from) {
            let fresh = Seen { connections: 0, minute: now, logins: 0 };
            let seen = self.sources.entry(source).or_insert(fresh);
            if now.millis_since(seen.minute) >= MINUTE_MILLIS {
                *seen = Seen { connections: seen.connections, ..fresh };
            }
            let limit = limits.connections.saturating_mul(times);
            if seen.connections >= limit {
                return Err(("connection refused: too many are open", limit));
            }
            let limit = limits.logins(from).map(|limit| limit.saturating_mul(times));
            if let Some(limit) = limit.filter(|limit| seen.logins >= *limit) {
                return Err(("logins refused for the rest of the minute: too many", limit));
            }
        }
        for (source, _) in Source::of(from) {
            if let Some(seen) = self.sources.get_mut(&source) {
                seen.connections += 1;
                seen.logins += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(connections: u32, logins_per_minute: Option<u32>) -> Gate {
        Gate::new(GateLimits { connections, logins_per_minute }, Box::new(|_| {}))
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0xc000_0200 + n))
    }

    #[test]
    fn connections_of_an_address_are_limited_and_come_back() {
        let gate = gate(3, Some(0));
        let now = Mono::from_millis(5);
        let mut inside: Vec<Visit> = (0..3).map(|_| gate.enter(now, address(1), false).unwrap()).collect();
        assert!(gate.enter(now, address(1), false).is_none());
        assert!(gate.enter(now, address(2), false).is_some(), "another address has its own");
        inside.pop();
        assert!(gate.enter(now, address(1), false).is_some());
        assert_eq!(inside[0].from(), address(1));
    }

    #[test]
    fn logins_of_an_address_are_limited_by_the_minute() {
        let gate = gate(9, Some(20));
        let start = Mono::from_millis(1000);
        for minute in 0..3 {
            let now = start.plus_millis(minute * MINUTE_MILLIS);
            let let_in = (0..50).filter(|n| gate.enter(now.plus_millis(n * 1000), address(1), false).is_some()).count();
            assert_eq!(let_in, 20);
        }
        let loopback: IpAddr = "::1".parse().unwrap();
        let let_in = |gate: &Gate, from| (0..1000).filter(|_| gate.enter(start, from, false).is_some()).count();
        assert_eq!(let_in(&gate, loopback), 20, "a limit that was given holds on loopback too");
        let unset = super::tests::gate(9, None);
        assert_eq!((let_in(&unset, loopback), let_in(&unset, address(1))), (1000, LOGINS_DEFAULT as usize));
        assert_eq!(let_in(&super::tests::gate(9, Some(0)), address(1)), 1000);
    }

    #[test]
    fn many_addresses_take_no_memory() {
        let gate = gate(9, Some(1));
        let now = Mono::from_millis(1000);
        let stays = gate.enter(now, address(0), false).unwrap();
        for n in 1..5000 {
            drop(gate.enter(now, address(n), false).unwrap());
        }
        let inner = gate.lock();
        assert!(inner.sources.len() <= SOURCES_MAX + 1);
        assert_eq!(inner.sources[&Source::Address(stays.from())].connections, 1);
    }

    #[test]
    fn all_addresses_of_a_network_count_together_too() {
        let gate = gate(3, Some(0));
        let now = Mono::from_millis(5);
        let of = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, 0, 0, 0, host]);
        let inside: Vec<Visit> = (0..1000).filter_map(|n| gate.enter(now, of(1, n), false)).collect();
        assert_eq!(inside.len(), 3 * NETWORK_TIMES as usize);
        assert!(gate.enter(now, of(2, 1), false).is_some());
        drop(inside);
        assert!(gate.lock().sources.values().all(|seen| seen.connections == 0));
    }
}
