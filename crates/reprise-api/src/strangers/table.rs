//! The table of places: pure, with the time handed in.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use reprise_types::Mono;

use super::Full;

/// A caller that has said nothing for this long goes before one that has spoken. A real one speaks after one round trip.
const SILENT_MILLIS: u64 = 1_000;
/// Between two reports that a listener is full.
const REPORT_EVERY_MILLIS: u64 = 600_000;
/// Addresses remembered of callers that were let in; the one that was seen longest ago is forgotten. About 10 KiB.
pub(super) const KNOWN_MAX: usize = 256;

/// How many places a listener has.
#[derive(Debug, Clone, Copy)]
pub struct PlaceLimits {
    /// For whoever has not shown who it is. At least 1.
    pub strangers: usize,
    /// For known addresses, and for connections that have shown who they are.
    pub kept: usize,
}

/// What counts as one source: a host has a whole /64 of IPv6 to itself.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One connection in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// From anywhere.
    Stranger,
    /// From an address that somebody was let in from.
    Known,
    /// Has shown who it is: stays until it ends.
    Settled,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: IpAddr,
    since: Mono,
    heard: bool,
    standing: Standing,
}

/// What became of a caller that came in. It always has a place.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) ticket: Ticket,
    /// Who has to go for it.
    pub(super) out: Option<Ticket>,
    /// Due to be told.
    pub(super) full: Option<Full>,
}

/// Who has a place at a listener.
///
/// Nobody is turned away at the door: a newcomer to a full table takes the place of another. Whose is decided by shares, the
/// largest first: the network with the most connections gives one up, in it the address with the most, of that the oldest
/// that has said nothing, else the oldest. So a network takes places from another only while it has fewer, and a flood can
/// only push out itself. Places of known addresses and of those that have shown who they are are counted apart, and
/// strangers cannot take them.
///
/// Given up: a flood from as many networks as there are places reaches single newcomers too, but only those that do not
/// get through before as many others came in after them.
#[derive(Debug)]
pub(super) struct Places {
    limits: PlaceLimits,
    next: u64,
    entries: BTreeMap<Ticket, Entry>,
    /// Newest last.
    known: VecDeque<IpAddr>,
    /// Pushed out since the last report.
    pushed_out: u64,
    reported: Option<Mono>,
}

impl Places {
    pub(super) fn new(limits: PlaceLimits) -> Self {
        let limits = PlaceLimits { strangers: limits.strangers.max(1), ..limits };
        Self { limits, next: 0, entries: BTreeMap::new(), known: VecDeque::new(), pushed_out: 0, reported: None }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn knows(&self, address: IpAddr) -> bool {
        self.known.contains(&address)
    }

    /// Places for strangers that are taken.
    fn strangers(&self) -> usize {
        self.entries.values().filter(|e| e.standing == Standing::Stranger).count()
    }

    fn kept(&self) -> usize {
        self.entries.len() - self.strangers()
    }

    /// Lets a caller in. `expected`: its address is known from elsewhere.
    pub(super) fn enter(&mut self, now: Mono, address: IpAddr, expected: bool) -> Entered {
        let known = (expected || self.knows(address)) && self.limits.kept > 0;
        let (kept_full, full_of_strangers) =
            (self.kept() >= self.limits.kept, self.strangers() >= self.limits.strangers);
        let mut out = None;
        let mut full = None;
        if known && kept_full && full_of_strangers {
            out = self.victim(now, Standing::Known, address);
        }
        let standing = if known && (!kept_full || out.is_some()) { Standing::Known } else { Standing::Stranger };
        if standing == Standing::Stranger && full_of_strangers {
            out = self.victim(now, Standing::Stranger, address);
            self.pushed_out += u64::from(out.is_some());
            full = self.report(now);
        }
        if let Some(out) = out {
            self.entries.remove(&out);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.entries.insert(ticket, Entry { address, since: now, heard: false, standing });
        Entered { ticket, out, full }
    }

    /// Whose place a newcomer from `from` gets, among those of one standing.
    fn victim(&self, now: Mono, of: Standing, from: IpAddr) -> Option<Ticket> {
        let all = || self.entries.iter().filter(|(_, e)| e.standing == of);
        let network = largest(all().map(|(_, e)| network_of(e.address)), network_of(from))?;
        let of_network = || all().filter(|(_, e)| network_of(e.address) == network);
        let address = largest(of_network().map(|(_, e)| e.address), from)?;
        let of_address = of_network().filter(|(_, e)| e.address == address);
        let silent = |e: &Entry| !e.heard && now.millis_since(e.since) >= SILENT_MILLIS;
        of_address.min_by_key(|(ticket, e)| (!silent(e), **ticket)).map(|(ticket, _)| *ticket)
    }

    fn report(&mut self, now: Mono) -> Option<Full> {
        if self.reported.is_some_and(|at| now.millis_since(at) < REPORT_EVERY_MILLIS) {
            return None;
        }
        let strangers = || self.entries.values().filter(|e| e.standing == Standing::Stranger);
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        strangers().for_each(|e| *counts.entry(e.address).or_default() += 1);
        let (busiest, held) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.reported = Some(now);
        let pushed_out = std::mem::take(&mut self.pushed_out);
        Some(Full { places: self.limits.strangers, busiest, held, pushed_out })
    }

    /// The caller has sent what a real one begins with.
    pub(super) fn heard(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.heard = true;
        }
    }

    /// The caller has shown who it is: it stays, and its address is known. Who has to go for it is answered. When all that
    /// are kept have shown who they are too, it goes on as before.
    pub(super) fn settle(&mut self, now: Mono, ticket: Ticket) -> Option<Ticket> {
        let entry = *self.entries.get(&ticket)?;
        self.remember(entry.address);
        let mut out = None;
        if entry.standing == Standing::Stranger && self.kept() >= self.limits.kept {
            out = Some(self.victim(now, Standing::Known, entry.address)?);
        }
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.standing = Standing::Settled;
        }
        if let Some(out) = out {
            self.entries.remove(&out);
        }
        out
    }

    /// Somebody was let in from this address.
    pub(super) fn remember(&mut self, address: IpAddr) {
        if self.known.back() == Some(&address) {
            return;
        }
        self.known.retain(|a| *a != address);
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(address);
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.entries.remove(&ticket);
    }
}

/// What has the most entries, the newcomer's own counted with it; of several the newcomer's own. None without entries.
fn largest(all: impl Iterator<Item = IpAddr>, own: IpAddr) -> Option<IpAddr> {
    let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    if let Some(count) = counts.get_mut(&own) {
        *count += 1;
    }
    counts.into_iter().max_by_key(|(one, count)| (*count, *one == own)).map(|(one, _)| one)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn v4(n: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, n).into()
    }

    fn v6(network: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into()
    }

    fn at(millis: u64) -> Mono {
        Mono::from_millis(millis)
    }

    fn places(strangers: usize, kept: usize) -> Places {
        Places::new(PlaceLimits { strangers, kept })
    }

    #[test]
    fn the_flood_gives_places_up_and_the_oldest_silent_one_goes_first() {
        let mut table = places(4, 0);
        let mut first: Vec<Ticket> = (0..4).map(|n| table.enter(at(n), v4(9), false).ticket).collect();
        table.heard(first[0]);
        let entered = table.enter(at(2_000), v4(1), false);
        assert_eq!(entered.out, Some(first.remove(1)), "the oldest that was silent, not the one that has spoken");
        let flood = table.enter(at(2_001), v4(9), false);
        assert_eq!(flood.out, Some(first.remove(1)), "the flood pushes itself out");
        let again = table.enter(at(2_002), v4(1), false);
        assert_eq!(again.out, Some(first.remove(1)), "two of four each is fair");
        let more = table.enter(at(2_003), v4(1), false);
        assert_eq!(more.out, Some(entered.ticket), "beyond its share it gives up its own");
        // Within one network the address with the most is the flood.
        let mut table = places(4, 0);
        let flood: Vec<Ticket> = (0..3).map(|n| table.enter(at(n), v6(1, 9), false).ticket).collect();
        let host = table.enter(at(3), v6(1, 1), false);
        assert_eq!(table.enter(at(4), v6(1, 2), false).out, Some(flood[0]));
        assert!(table.entries.contains_key(&host.ticket));
    }

    #[test]
    fn a_full_listener_is_reported_once_in_a_while_and_names_the_busiest() {
        let mut table = places(3, 0);
        table.enter(at(0), v4(1), false);
        for n in 0..2 {
            assert!(table.enter(at(n), v4(9), false).full.is_none());
        }
        let full = table.enter(at(5), v4(2), false).full.unwrap();
        assert_eq!((full.places, full.busiest, full.held, full.pushed_out), (3, v4(9), 2, 1));
        for n in 6..100 {
            assert!(table.enter(at(n), v4(9), false).full.is_none());
        }
        let again = table.enter(at(5 + REPORT_EVERY_MILLIS), v4(9), false).full.unwrap();
        assert_eq!(again.pushed_out, 95, "and says what was left out");
    }

    #[test]
    fn known_addresses_have_places_of_their_own() {
        let mut table = places(2, 2);
        let settled = table.enter(at(0), v4(1), false).ticket;
        assert_eq!(table.settle(at(1), settled), None);
        for n in 0..50 {
            table.enter(at(n), v4(9), false);
        }
        assert!(table.entries.contains_key(&settled));
        let known = table.enter(at(60), v4(1), false);
        assert_eq!((known.out, table.kept()), (None, 2));
        let other = table.enter(at(61), v4(5), true);
        assert_eq!(other.out, Some(known.ticket), "among the known ones as among strangers");
        let third = table.enter(at(62), v4(6), false).ticket;
        assert_eq!(table.settle(at(63), third), Some(other.ticket));
        let fourth = table.enter(at(64), v4(7), false).ticket;
        assert_eq!(table.settle(at(65), fourth), None);
        assert_eq!((table.kept(), table.strangers()), (2, 2), "nobody that has shown who it is has to go");
        for n in 0..1000u16 {
            table.remember(v6(n, 1));
        }
        assert_eq!(table.known.len(), KNOWN_MAX);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Flood,
        FloodSpeaks(u8),
        FloodEnds(u8),
        Wait(u16),
        HostComes,
        HostSpeaks,
        HostEnds,
        KnownComes,
        KnownEnds,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            12 => Just(Act::Flood),
            2 => any::<u8>().prop_map(Act::FloodSpeaks),
            2 => any::<u8>().prop_map(Act::FloodEnds),
            2 => any::<u16>().prop_map(Act::Wait),
            3 => Just(Act::HostComes),
            1 => Just(Act::HostSpeaks),
            1 => Just(Act::HostEnds),
            2 => Just(Act::KnownComes),
            1 => Just(Act::KnownEnds),
        ]
    }

    proptest! {
        /// Whatever a flooding network does, with however many of its addresses: a host elsewhere that holds no more than
        /// half of the places gets every one it asks for and keeps it, a known one too, and memory is bounded.
        #[test]
        fn a_flooding_network_keeps_nobody_out(acts in proptest::collection::vec(act(), 1..400), spread in 1..200u16) {
            let (strangers, kept) = (8, 4);
            let mut table = places(strangers, kept);
            let (host, friend) = (v4(1), v4(2));
            table.remember(friend);
            let (mut now, mut flood) = (at(0), Vec::new());
            let (mut hosts, mut friends) = (Vec::new(), Vec::new());
            for (n, act) in acts.into_iter().enumerate() {
                let mut entered = None;
                let pick = |of: &[Ticket], n: u8| of.get(usize::from(n) % of.len().max(1)).copied();
                match act {
                    Act::Flood => {
                        let one = table.enter(now, v6(7, n as u16 % spread), false);
                        flood.push(one.ticket);
                        entered = Some(one);
                    }
                    Act::FloodSpeaks(n) => pick(&flood, n).into_iter().for_each(|t| table.heard(t)),
                    Act::FloodEnds(n) => pick(&flood, n).into_iter().for_each(|t| table.leave(t)),
                    Act::Wait(millis) => now = now.plus_millis(millis.into()),
                    Act::HostComes if hosts.len() < strangers / 2 => {
                        let one = table.enter(now, host, false);
                        hosts.push(one.ticket);
                        entered = Some(one);
                    }
                    Act::KnownComes if friends.len() < kept => {
                        let one = table.enter(now, friend, false);
                        friends.push(one.ticket);
                        entered = Some(one);
                    }
                    Act::HostSpeaks => hosts.iter().for_each(|t| table.heard(*t)),
                    Act::HostEnds => hosts.pop().into_iter().for_each(|t| table.leave(t)),
                    Act::KnownEnds => friends.pop().into_iter().for_each(|t| table.leave(t)),
                    Act::HostComes | Act::KnownComes => {}
                }
                if let Some(entered) = entered {
                    prop_assert!(table.entries.contains_key(&entered.ticket), "a newcomer has a place");
                }
                let there: BTreeSet<&Ticket> = table.entries.keys().collect();
                prop_assert!(hosts.iter().chain(&friends).all(|t| there.contains(t)), "nobody else was pushed out");
                prop_assert!(table.strangers() <= strangers && table.kept() <= kept);
            }
        }
    }
}
