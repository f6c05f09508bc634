//! The link's transport: TCP, TLS 1.3 with pinned keys, framing, compression, pairing. Runs on a thread of its own.
//!
//! It carries messages of `reprise-link` between the owners of groups on two boxes and decides nothing about a group.
//! [`LinkNet`] starts the thread; every connection that was greeted comes out as [`NetEvent::Connected`] with a
//! [`LinkHandle`] to send by and a receiver of [`LinkEvent`]s. Dialling, with its waits, is done here.

mod compress;
mod connection;
mod dial;
mod endpoint;
mod handshake;
mod pairing;
mod peers;
mod throttle;
mod tls;

pub use connection::{LinkCounters, LinkEvent, LinkHandle};
pub use endpoint::{Connection, DialHandle, DialSpec, LinkNet, NetConfig, NetEvent, Purpose};
pub use handshake::NetError;
pub use peers::{MemoryPeers, Peer, PeerStanding, PeerStore};
pub use tls::{BoxKey, BoxKeyError, Fingerprint};

#[cfg(test)]
mod tests;
