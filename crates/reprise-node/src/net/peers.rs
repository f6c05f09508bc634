//! Who this box is paired with.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use reprise_link::pairing::PairIdentity;
use reprise_types::BoxId;

use super::Fingerprint;

/// How far pairing with a box has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerStanding {
    /// It has proven the code to us, but may not have stored us. Its first connection with its key completes pairing.
    Prepared,
    /// Both have stored each other, as far as this box can know.
    Paired,
}

/// A box that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who it is and what key it has.
    pub identity: PairIdentity,
    /// How far pairing has come.
    pub standing: PeerStanding,
}

/// Keeps the peers durably. Called on the link's thread: a call may take as long as a flush of the control store.
pub trait PeerStore: Send + Sync + 'static {
    /// The peer with this key.
    fn by_key(&self, key: &Fingerprint) -> Option<Peer>;
    /// The peer with this identity.
    fn by_box(&self, box_id: &BoxId) -> Option<Peer>;
    /// Stores a peer durably; one with the same identity is replaced.
    fn store(&self, peer: Peer) -> io::Result<()>;
}

/// Peers in memory only: for tools and tests.
#[derive(Debug, Default)]
pub struct MemoryPeers {
    peers: Mutex<BTreeMap<BoxId, Peer>>,
}

impl PeerStore for MemoryPeers {
    fn by_key(&self, key: &Fingerprint) -> Option<Peer> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.values().find(|peer| peer.identity.fingerprint == *key).cloned()
    }
    fn by_box(&self, box_id: &BoxId) -> Option<Peer> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).get(box_id).cloned()
    }
    fn store(&self, peer: Peer) -> io::Result<()> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.identity.box_id, peer);
        Ok(())
    }
}
