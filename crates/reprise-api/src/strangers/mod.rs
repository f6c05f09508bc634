//! Fair places for callers that have not shown who they are, at every listener of a box: iSCSI, link, API, metrics and the
//! web console.
//!
//! A listener asks [`Strangers::enter`] for each connection and holds the [`Place`] as long as the connection lasts, or until
//! it has shown who it is. A place may be lost to somebody else at any time: [`Place::pushed_out`]. Who loses one is decided in
//! `table`, which has no clock and no socket.

mod quiet;
mod steady;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use reprise_types::Mono;
use tokio::sync::Notify;

pub use quiet::Quiet;
pub use steady::Steady;
pub use table::{PlaceLimits, network_of};

use table::{Places, Ticket};

/// A listener had no place left and took one from somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// Places for strangers.
    pub places: usize,
    /// The address that holds the most of them.
    pub busiest: IpAddr,
    /// How many it holds.
    pub held: usize,
    /// Connections that were closed for others since this was told last.
    pub pushed_out: u64,
}

impl Full {
    /// Code of the event.
    pub const CODE: &str = "strangers-full";
    /// What a person can do.
    pub const WHAT_TO_DO: &str = "find out what runs at that address, or keep it from the port";

    /// What happened at `listener`, for people.
    pub fn text(&self, listener: &str) -> String {
        let Self { places, busiest, held, pushed_out } = self;
        let were = if *pushed_out == 1 { "connection was" } else { "connections were" };
        format!(
            "{listener}: all {places} places for callers that have not logged in were taken, {held} of them by {busiest}; \
             {pushed_out} {were} closed to let others in"
        )
    }
}

/// Told when a listener was full: at once, and every ten minutes as long as it goes on.
pub type TellFull = Box<dyn Fn(Full) + Send + Sync>;

struct Inner {
    places: Places,
    /// Of every ticket in the table.
    out: BTreeMap<Ticket, Arc<Notify>>,
    quiet: Quiet,
}

struct Shared {
    inner: Mutex<Inner>,
    started: Instant,
    tell: TellFull,
}

/// The places of one listener, or of several that share them.
#[derive(Clone)]
pub struct Strangers(Arc<Shared>);

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").field("taken", &self.lock().places.len()).finish_non_exhaustive()
    }
}

impl Strangers {
    /// Nobody is there.
    pub fn new(limits: PlaceLimits, tell: TellFull) -> Self {
        let inner = Inner { places: Places::new(limits), out: BTreeMap::new(), quiet: Quiet::default() };
        Self(Arc::new(Shared { inner: Mutex::new(inner), started: Instant::now(), tell }))
    }

    /// As [`Self::new`]; the log alone is told.
    pub fn logged(listener: &'static str, limits: PlaceLimits) -> Self {
        Self::new(limits, Box::new(move |full| tracing::warn!(code = Full::CODE, "{}", full.text(listener))))
    }

    // Poisoned or not, the data is whole: each change is one call.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Mono {
        Mono::from_nanos(u64::try_from(self.0.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A place for a connection from `address`; somebody else may lose one. `expected`: the address is known from elsewhere, such
    /// as from a rule.
    pub fn enter(&self, address: IpAddr, expected: bool) -> Place {
        let address = address.to_canonical();
        let out = Arc::new(Notify::new());
        let mut inner = self.lock();
        let entered = inner.places.enter(self.now(), address, expected);
        inner.push_out(entered.out);
        inner.out.insert(entered.ticket, out.clone());
        drop(inner);
        if let Some(full) = entered.full {
            (self.0.tell)(full);
        }
        Place { strangers: self.clone(), ticket: entered.ticket, address, out, settled: AtomicBool::new(false) }
    }

    /// True for an address that somebody was let in from not long ago.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.lock().places.knows(address.to_canonical())
    }

    /// Somebody belongs to this address.
    pub fn remember(&self, address: IpAddr) {
        self.lock().places.remember(address.to_canonical());
    }

    /// The number of lines about strangers that were left out before this one, if it is to be logged. `what` tells lines of one
    /// kind from others.
    pub fn line(&self, what: &'static str, from: IpAddr) -> Option<u64> {
        let now = self.now();
        self.lock().quiet.line(now, what, from)
    }
}

impl Inner {
    fn push_out(&mut self, ticket: Option<Ticket>) {
        if let Some(out) = ticket.and_then(|ticket| self.out.remove(&ticket)) {
            out.notify_one();
        }
    }
}

/// A place at a listener; dropping it gives it back.
pub struct Place {
    strangers: Strangers,
    ticket: Ticket,
    address: IpAddr,
    out: Arc<Notify>,
    settled: AtomicBool,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Place {
    /// Whose it is.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The caller has sent what a real one begins with.
    pub fn heard(&self) {
        self.strangers.lock().places.heard(self.ticket);
    }

    /// The caller has shown who it is: it keeps its place as long as it wants, and its address is known.
    pub fn settle(&self) {
        if self.settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let now = self.strangers.now();
        let mut inner = self.strangers.lock();
        let out = inner.places.settle(now, self.ticket);
        inner.push_out(out);
    }

    /// True after [`Self::settle`].
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// As [`Strangers::line`], for this caller.
    pub fn line(&self, what: &'static str) -> Option<u64> {
        self.strangers.line(what, self.address)
    }

    /// Ends when the place has gone to somebody else: the connection is to be closed. At most one may wait for it.
    pub fn pushed_out(&self) -> impl Future<Output = ()> + Send + use<> {
        let out = self.out.clone();
        async move { out.notified().await }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.strangers.lock();
        inner.places.leave(self.ticket);
        inner.out.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_loses_its_place_is_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let limits = PlaceLimits { strangers: 2, kept: 1 };
        let strangers = Strangers::new(limits, Box::new(move |full| tell.lock().unwrap().push(full)));
        let flood: IpAddr = "192.0.2.9".parse().unwrap();
        let (first, second) = (strangers.enter(flood, false), strangers.enter(flood, false));
        let host = strangers.enter("::ffff:192.0.2.1".parse().unwrap(), false);
        first.pushed_out().await;
        host.settle();
        drop((first, second, host));
        assert_eq!(strangers.lock().places.len(), 0);
        assert!(strangers.lock().out.is_empty() && strangers.knows("192.0.2.1".parse().unwrap()));
        let told = told.lock().unwrap();
        let text = told[0].text("iSCSI");
        assert!(text.contains("all 2 places") && text.contains("2 of them by 192.0.2.9"), "{text}");
        assert_eq!(told.len(), 1);
    }
}
