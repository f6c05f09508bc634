//! The way to a box that may be reached at several addresses: all of them are tried, side by side after a moment, as RFC 8305
//! has it, so that one that swallows everything does not hide one that works.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::NetError;

/// Between the beginnings of two attempts (RFC 8305, section 5).
pub(super) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// A host that the peer has told of waits so long for the one that a person gave: it may lie in a network that is not meant.
const HOST_DELAY: Duration = Duration::from_secs(2);
/// Addresses tried for one connection. A name with more has a mistake in it; the rest is left out.
const ADDRESSES_MAX: usize = 16;

type Attempt = (SocketAddr, io::Result<TcpStream>);

/// Connections being tried to any of the addresses of a box.
pub(super) struct Race {
    resolving: JoinSet<io::Result<Vec<SocketAddr>>>,
    /// Every address that was found, so that none is tried twice.
    known: Vec<SocketAddr>,
    waiting: VecDeque<SocketAddr>,
    attempts: JoinSet<Attempt>,
    under_way: Vec<SocketAddr>,
    next_at: Instant,
    /// Why the first one failed: it is the one that people know.
    failed: Option<io::Error>,
}

impl Race {
    /// Begins with the first of `hosts`, each `HOST:PORT`; a later one is looked up after `HOST_DELAY` more.
    pub(super) fn new(hosts: &[String]) -> Self {
        let mut resolving = JoinSet::new();
        for (turn, host) in hosts.iter().take(ADDRESSES_MAX).enumerate() {
            let (host, pause) = (host.clone(), HOST_DELAY * u32::try_from(turn).unwrap_or(u32::MAX));
            resolving.spawn(async move {
                sleep(pause).await;
                Ok(in_turns(tokio::net::lookup_host(host).await?.collect()))
            });
        }
        Self {
            resolving,
            known: Vec::new(),
            waiting: VecDeque::new(),
            attempts: JoinSet::new(),
            under_way: Vec::new(),
            next_at: Instant::now(),
            failed: None,
        }
    }

    /// True while there is another address that may do.
    pub(super) fn has_more(&self) -> bool {
        !(self.resolving.is_empty() && self.waiting.is_empty() && self.attempts.is_empty())
    }

    /// The next connection that is there; an address that gave one is not tried again. Attempts that were under way are given
    /// up, and begin anew should this be called again.
    pub(super) async fn next(&mut self) -> Result<(TcpStream, SocketAddr), NetError> {
        loop {
            tokio::select! {
                Some(found) = self.resolving.join_next() => match found {
                    Ok(Ok(found)) => self.add(found),
                    Ok(Err(error)) => self.fail(error),
                    Err(error) => self.fail(io::Error::other(error)),
                },
                Some(done) = self.attempts.join_next() => match done {
                    Ok((address, Ok(socket))) => {
                        self.give_up_others(address);
                        return Ok((socket, address));
                    }
                    Ok((address, Err(error))) => {
                        self.under_way.retain(|a| *a != address);
                        self.fail(error);
                    }
                    Err(error) => self.fail(io::Error::other(error)),
                },
                () = sleep_until(self.next_at), if !self.waiting.is_empty() => self.start_one(),
                else => {
                    let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                    return Err(NetError::Io { what: "connect", source: self.failed.take().unwrap_or_else(none) });
                }
            }
        }
    }

    fn add(&mut self, found: Vec<SocketAddr>) {
        for address in found {
            if !self.known.contains(&address) && self.known.len() < ADDRESSES_MAX {
                self.known.push(address);
                self.waiting.push_back(address);
            }
        }
    }

    /// The next one need not wait for one that has failed.
    fn fail(&mut self, error: io::Error) {
        self.next_at = Instant::now();
        self.failed.get_or_insert(error);
    }

    fn start_one(&mut self) {
        let Some(address) = self.waiting.pop_front() else { return };
        self.under_way.push(address);
        self.attempts.spawn(async move { (address, TcpStream::connect(address).await) });
        self.next_at = Instant::now() + ATTEMPT_DELAY;
    }

    fn give_up_others(&mut self, winner: SocketAddr) {
        self.attempts = JoinSet::new();
        let others = std::mem::take(&mut self.under_way);
        others.into_iter().rev().filter(|a| *a != winner).for_each(|a| self.waiting.push_front(a));
        self.next_at = Instant::now();
    }
}

/// The families of a name's addresses in turns, each in the resolver's order (RFC 8305, section 4).
fn in_turns(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let v6_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|a| a.is_ipv6() == v6_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return turns;
        }
        turns.extend([pair.0, pair.1].into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// An address that swallows what is sent to it: its queue of connections is full, so the kernel drops what asks for another.
    /// What is given has to live as long.
    fn black_hole() -> (SocketAddr, Vec<socket2::Socket>) {
        let tcp = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = tcp();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let fill = |_: i32| {
            let socket = tcp();
            socket.set_nonblocking(true).unwrap();
            // Under way or there: either takes a place.
            let _ = socket.connect(&address);
            socket
        };
        let full = (0..4).map(fill).chain([listener]).collect();
        (address.as_socket().unwrap(), full)
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_one_that_works() {
        let (dead, _full) = black_hole();
        let good = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = good.local_addr().unwrap();
        let begun = Instant::now();
        let mut race = Race::new(&[dead.to_string(), at.to_string()]);
        let (socket, address) = race.next().await.unwrap();
        assert_eq!((address, socket.peer_addr().unwrap()), (at, at));
        assert!(begun.elapsed() >= ATTEMPT_DELAY, "the first one had its moment");
        assert!(race.has_more(), "the dead one may be tried again");
        // One that is refused is not waited for, and one that works is the only one.
        let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut race = Race::new(&[refused.to_string(), at.to_string()]);
        assert_eq!(race.next().await.unwrap().1, at);
        let error = Race::new(&[refused.to_string()]).next().await.unwrap_err();
        assert!(matches!(error, NetError::Io { what: "connect", .. }), "{error:?}");
    }

    #[tokio::test]
    async fn the_rest_is_tried_when_what_answers_is_not_the_box() {
        let keep = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [one, two] = [&keep[0], &keep[1]].map(|l| l.local_addr().unwrap());
        let mut race = Race::new(&[one.to_string(), two.to_string(), one.to_string()]);
        assert_eq!(race.next().await.unwrap().1, one);
        assert_eq!(race.next().await.unwrap().1, two);
        assert!(race.next().await.is_err(), "each once");
        assert!(!race.has_more());
        drop(keep);
    }

    #[test]
    fn families_take_turns() {
        let turns = |list: &[&str]| {
            let found = list.iter().map(|a| a.parse().unwrap()).collect();
            in_turns(found).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(turns(&[]), "");
        assert_eq!(turns(&["[::1]:1", "[::2]:1", "[::3]:1", "0.0.0.1:1"]), "[::1]:1 0.0.0.1:1 [::2]:1 [::3]:1");
        assert_eq!(turns(&["0.0.0.1:1", "0.0.0.2:1", "[::1]:1"]), "0.0.0.1:1 [::1]:1 0.0.0.2:1");
    }
}
