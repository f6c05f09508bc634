//! What a box keeps beside its pool: its identity in a file of its own, its settings in the control store.
//!
//! The control store (sled) is never asked who may serve: losing it, or rolling it back, changes no role and loses no
//! data. What is lost with it are peers, tokens, initiators and the list of events. The identity stands outside of it, since a pool
//! refuses another box.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reprise_api::{Alert, Event, INITIATORS_MAX, InitiatorAdd, InitiatorName, Name, PeerShare, StoredToken};
use reprise_link::pairing::PairIdentity;
use reprise_types::BoxId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::net::{BoxKey, BoxKeyError, Fingerprint, Peer, PeerStanding, PeerStore};

/// Boxes that may be paired with this one. A pool has 32 groups with a peer each; some room for those being replaced.
pub const PEERS_MAX: usize = 64;
/// Tokens kept. Each belongs to a person or a monitor.
pub const TOKENS_MAX: usize = 256;
/// Events kept; the oldest go first. About half a megabyte, and weeks of a pair that works.
pub const EVENTS_MAX: usize = 2000;
/// Largest identity file read: a real one has about 1.5 KiB.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// The box's identity or its control store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error("{what} {path}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The identity file is not one.
    #[error("{path} is no identity of a box; restore it, or the pool of this box cannot be opened")]
    Identity {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The box's key.
    #[error("the box key")]
    Key(#[from] BoxKeyError),
    /// The control store.
    #[error("control store")]
    Sled(#[from] sled::Error),
    /// A value in it.
    #[error("encode a value of the control store")]
    Json(#[from] serde_json::Error),
    /// At a limit.
    #[error("at most {max} {what} are kept; remove one first")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
}

fn at<T>(what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io { what, path: path.to_owned(), source })
}

/// Who this box is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The box.
    pub box_id: BoxId,
    /// Its key and certificate.
    pub key: BoxKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    box_id: BoxId,
    certificate: String,
    key: String,
}

/// Writes a file that appears complete or not at all, readable by its owner only.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl Identity {
    /// Reads the identity in `dir`, or draws one where there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, or is none.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        at("make the state directory", dir, made)?;
        let path = dir.join("identity.toml");
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(&path),
            Err(error) => at("look at", &path, Err(error)),
            Ok(meta) if meta.len() > IDENTITY_BYTES_MAX => {
                Err(StoreError::Identity { path, source: "the file is far too large".into() })
            }
            Ok(_) => Self::read(&path),
        }
    }

    fn create(path: &Path) -> Result<Self, StoreError> {
        let mut id = [0; 16];
        at("draw an identity for", path, getrandom::fill(&mut id).map_err(io::Error::other))?;
        let identity = Self { box_id: BoxId::from_raw(id), key: BoxKey::generate()? };
        let file = IdentityFile {
            box_id: identity.box_id,
            certificate: hex::encode(identity.key.certificate_der()),
            key: hex::encode(identity.key.key_der()),
        };
        let bad = |source: toml::ser::Error| StoreError::Identity { path: path.to_owned(), source: source.into() };
        let text = toml::to_string(&file).map_err(bad)?;
        at("write", path, write_secret(path, &text))?;
        Ok(identity)
    }

    fn read(path: &Path) -> Result<Self, StoreError> {
        let bad = |source| StoreError::Identity { path: path.to_owned(), source };
        let text = at("read", path, fs::read_to_string(path))?;
        let file: IdentityFile = toml::from_str(&text).map_err(|e| bad(e.into()))?;
        let certificate = hex::decode(file.certificate).map_err(|e| bad(e.into()))?;
        let key = hex::decode(file.key).map_err(|e| bad(e.into()))?;
        let key = BoxKey::from_der(certificate, key).map_err(|e| bad(e.into()))?;
        Ok(Self { box_id: file.box_id, key })
    }
}

/// A paired box as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The box.
    pub id: BoxId,
    /// What it is called here: its own name, made unique and fit for a name.
    pub name: Name,
    /// Its own name for itself.
    pub own_name: String,
    /// Fingerprint of its key, hexadecimal.
    pub fingerprint: String,
    /// Where it is dialled, once known.
    pub address: Option<String>,
    /// The address is what the peer tells about itself, and follows it; else a person has given it.
    #[serde(default)]
    pub address_told: bool,
    /// Where the peer says it is, beside an address that a person has given.
    #[serde(default)]
    pub address_learned: Option<String>,
    /// Pairing is complete on both sides, as far as this box can know.
    pub paired: bool,
    /// When it was paired, milliseconds since 1970.
    pub paired_unix_ms: u64,
    /// Version of its software at the last contact.
    pub version: Option<String>,
    /// Last sign of life, milliseconds since 1970.
    pub last_seen_unix_ms: Option<u64>,
    /// What it may have mirrored to this box.
    #[serde(default)]
    pub share: PeerShare,
    /// Identity of its pool when that knew of every mirror here, hexadecimal.
    #[serde(default)]
    pub pool: Option<String>,
}

impl PeerRecord {
    /// Where it may be, the likeliest first: what a person has given, then what it tells.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let mut all: Vec<String> = self.address.iter().chain(&self.address_learned).cloned().collect();
        all.dedup();
        all
    }

    /// It says that it is there. An address that a person gave is kept beside it.
    pub(crate) fn learn_address(&mut self, told: String) {
        if self.address.is_none() || self.address_told {
            (self.address, self.address_told, self.address_learned) = (Some(told), true, None);
        } else {
            self.address_learned = Some(told).filter(|a| self.address.as_ref() != Some(a));
        }
    }

    /// A person says where it is; none: where it says itself.
    pub(crate) fn give_address(&mut self, given: Option<String>) {
        match given {
            Some(given) => {
                let told = if self.address_told { self.address.take() } else { self.address_learned.take() };
                self.address_learned = told.filter(|a| *a != given);
                (self.address, self.address_told) = (Some(given), false);
            }
            None => {
                let told = self.address_learned.take();
                (self.address, self.address_told) = (told.or(self.address.take()), true);
            }
        }
    }

    fn peer(&self) -> Option<Peer> {
        let fingerprint: Fingerprint = hex::decode(&self.fingerprint).ok()?.try_into().ok()?;
        let standing = if self.paired { PeerStanding::Paired } else { PeerStanding::Prepared };
        let identity = PairIdentity { box_id: self.id, name: self.own_name.clone(), fingerprint };
        Some(Peer { identity, standing })
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    crate::clock::now().wall.get() / 1000
}

/// A name that follows the rule of names, from one that somebody else gave.
pub(crate) fn fit_name(text: &str, taken: impl Fn(&Name) -> bool, fallback: &str) -> Option<Name> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let lower = text.to_ascii_lowercase();
    let base: String = lower.chars().map(|c| if fits(c) { c } else { '-' }).take(40).collect();
    let base = base.trim_start_matches(['-', '.']).to_owned();
    let base = if base.is_empty() { fallback.to_owned() } else { base };
    let tries = std::iter::once(base.clone()).chain((2..=PEERS_MAX + 2).map(|n| format!("{base}-{n}")));
    tries.filter_map(|t| t.parse().ok()).find(|name| !taken(name))
}

/// The control store.
pub struct Store {
    db: sled::Db,
    peers_tree: sled::Tree,
    tokens_tree: sled::Tree,
    events_tree: sled::Tree,
    alerts_tree: sled::Tree,
    initiators_tree: sled::Tree,
    peers: Mutex<BTreeMap<BoxId, PeerRecord>>,
    /// The store was unreadable and has been started over; the old one lies beside it.
    pub started_over: Option<PathBuf>,
}

impl Store {
    /// Opens the store in `dir`. One that cannot be read is put aside and an empty one begins.
    ///
    /// # Errors
    /// Neither can be had.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("store");
        let open = || sled::Config::new().path(&path).cache_capacity(4 << 20).flush_every_ms(Some(1000)).open();
        let (db, started_over) = match open() {
            Ok(db) => (db, None),
            Err(sled::Error::Io(error)) => return Err(sled::Error::Io(error).into()),
            Err(error) => {
                let aside = dir.join(format!("store.broken-{}", unix_ms()));
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    aside = %aside.display(),
                    "control store is unreadable and starts over: pair again with the peers, make tokens and add initiators again"
                );
                at("put the broken store aside to", &aside, fs::rename(&path, &aside))?;
                (open()?, Some(aside))
            }
        };
        // Secrets of initiators are in it.
        at("close to others", &path, fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))?;
        let store = Self {
            peers_tree: db.open_tree("peers")?,
            tokens_tree: db.open_tree("tokens")?,
            events_tree: db.open_tree("events")?,
            alerts_tree: db.open_tree("alerts")?,
            initiators_tree: db.open_tree("initiators")?,
            db,
            peers: Mutex::default(),
            started_over,
        };
        let peers = read_all::<PeerRecord>(&store.peers_tree)?;
        store.with_peers(|map| map.extend(peers.into_iter().map(|p| (p.id, p))));
        Ok(store)
    }

    fn with_peers<T>(&self, act: impl FnOnce(&mut BTreeMap<BoxId, PeerRecord>) -> T) -> T {
        act(&mut self.peers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every peer, by name.
    pub fn peers(&self) -> Vec<PeerRecord> {
        let mut peers: Vec<_> = self.with_peers(|map| map.values().cloned().collect());
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        peers
    }

    /// The peer with this name.
    pub fn peer_named(&self, name: &Name) -> Option<PeerRecord> {
        self.with_peers(|map| map.values().find(|p| p.name == *name).cloned())
    }

    /// The peer with this identity.
    pub fn peer(&self, id: BoxId) -> Option<PeerRecord> {
        self.with_peers(|map| map.get(&id).cloned())
    }

    /// Changes what is kept about a peer. Durable when this returns, where `durable` says so.
    ///
    /// # Errors
    /// The disk's.
    pub fn change_peer(
        &self,
        id: BoxId,
        durable: bool,
        change: impl FnOnce(&mut PeerRecord),
    ) -> Result<(), StoreError> {
        // All under one lock: a peer that is forgotten meanwhile must not come back, nor a change of somebody else be lost.
        let changed = self.with_peers(|map| {
            let Some(known) = map.get_mut(&id) else { return Ok(false) };
            let mut peer = known.clone();
            change(&mut peer);
            if peer == *known {
                return Ok(false);
            }
            self.peers_tree.insert(id.as_bytes(), serde_json::to_vec(&peer)?)?;
            *known = peer;
            Ok::<_, StoreError>(true)
        })?;
        if changed && durable { self.flush() } else { Ok(()) }
    }

    /// Forgets a peer, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_peer(&self, id: BoxId) -> Result<(), StoreError> {
        self.with_peers(|map| {
            self.peers_tree.remove(id.as_bytes())?;
            map.remove(&id);
            Ok::<_, StoreError>(())
        })?;
        self.flush()
    }

    fn put_peer(&self, peer: &Peer) -> Result<(), StoreError> {
        let id = peer.identity.box_id;
        let known = self.peer(id);
        if known.is_none() && self.with_peers(|map| map.len()) >= PEERS_MAX {
            return Err(StoreError::Full { what: "peers", max: PEERS_MAX });
        }
        let taken = |name: &Name| self.with_peers(|map| map.values().any(|p| p.name == *name && p.id != id));
        let full = StoreError::Full { what: "peers of one name", max: PEERS_MAX };
        let name = match &known {
            Some(known) => known.name.clone(),
            None => fit_name(&peer.identity.name, taken, "peer").ok_or(full)?,
        };
        let record = PeerRecord {
            id,
            name,
            own_name: peer.identity.name.clone(),
            fingerprint: hex::encode(peer.identity.fingerprint),
            address: known.as_ref().and_then(|k| k.address.clone()),
            address_told: known.as_ref().is_none_or(|k| k.address_told),
            address_learned: known.as_ref().and_then(|k| k.address_learned.clone()),
            paired: peer.standing == PeerStanding::Paired,
            paired_unix_ms: known.as_ref().map_or_else(unix_ms, |k| k.paired_unix_ms),
            version: known.as_ref().and_then(|k| k.version.clone()),
            share: known.as_ref().map_or_else(PeerShare::default, |k| k.share),
            pool: known.as_ref().and_then(|k| k.pool.clone()),
            last_seen_unix_ms: known.and_then(|k| k.last_seen_unix_ms),
        };
        self.peers_tree.insert(id.as_bytes(), serde_json::to_vec(&record)?)?;
        self.with_peers(|map| map.insert(id, record));
        self.flush()
    }

    /// Every token.
    ///
    /// # Errors
    /// The disk's.
    pub fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let mut tokens = read_all::<StoredToken>(&self.tokens_tree)?;
        tokens.sort_by_key(|t| t.created_unix_ms);
        Ok(tokens)
    }

    /// The token with this public id.
    pub fn token(&self, id: &str) -> Option<StoredToken> {
        let bytes = self.tokens_tree.get(id).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps a token, durably.
    ///
    /// # Errors
    /// Too many, or the disk's.
    pub fn put_token(&self, token: &StoredToken) -> Result<(), StoreError> {
        if self.tokens_tree.len() >= TOKENS_MAX {
            return Err(StoreError::Full { what: "tokens", max: TOKENS_MAX });
        }
        self.tokens_tree.insert(token.id.as_str(), serde_json::to_vec(token)?)?;
        self.flush()
    }

    /// Makes a token void, durably; false where there is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_token(&self, id: &str) -> Result<bool, StoreError> {
        let there = self.tokens_tree.remove(id)?.is_some();
        self.flush()?;
        Ok(there)
    }

    /// The initiators that commands have named, by name.
    ///
    /// # Errors
    /// The disk's.
    pub fn initiators(&self) -> Result<Vec<InitiatorAdd>, StoreError> {
        read_all(&self.initiators_tree)
    }

    /// True if commands have named an initiator, readable or not.
    pub fn has_initiators(&self) -> bool {
        !self.initiators_tree.is_empty()
    }

    /// Keeps an initiator, durably, in place of what was kept of it.
    ///
    /// # Errors
    /// Too many, or the disk's.
    pub fn put_initiator(&self, initiator: &InitiatorAdd) -> Result<(), StoreError> {
        let key = initiator.name.as_str();
        if self.initiators_tree.len() >= INITIATORS_MAX && !self.initiators_tree.contains_key(key)? {
            return Err(StoreError::Full { what: "initiators", max: INITIATORS_MAX });
        }
        self.initiators_tree.insert(key, serde_json::to_vec(initiator)?)?;
        self.flush()
    }

    /// Forgets an initiator, durably; false where there is none.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_initiator(&self, name: &InitiatorName) -> Result<bool, StoreError> {
        let there = self.initiators_tree.remove(name.as_str())?.is_some();
        self.flush()?;
        Ok(there)
    }

    /// The events, by id.
    ///
    /// # Errors
    /// The disk's.
    pub fn events(&self) -> Result<Vec<Event>, StoreError> {
        read_all(&self.events_tree)
    }

    /// Keeps an event and drops the oldest past [`EVENTS_MAX`]. Durable within a second or so.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_event(&self, event: &Event) -> Result<(), StoreError> {
        self.events_tree.insert(event.id.to_be_bytes(), serde_json::to_vec(event)?)?;
        if let Some(old) = event.id.checked_sub(EVENTS_MAX as u64) {
            self.events_tree.remove(old.to_be_bytes())?;
        }
        Ok(())
    }

    /// Alerts that held when they were stored last.
    ///
    /// # Errors
    /// The disk's.
    pub fn alerts(&self) -> Result<Vec<Alert>, StoreError> {
        read_all(&self.alerts_tree)
    }

    /// Keeps an alert. Durable within a second or so.
    ///
    /// # Errors
    /// The disk's.
    pub fn put_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        self.alerts_tree.insert(alert.id.to_be_bytes(), serde_json::to_vec(alert)?)?;
        Ok(())
    }

    /// Forgets an alert.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove_alert(&self, id: u64) -> Result<(), StoreError> {
        self.alerts_tree.remove(id.to_be_bytes())?;
        Ok(())
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }
}

/// Values that can no longer be read are left out: they are settings of an older or newer version.
fn read_all<T: DeserializeOwned>(tree: &sled::Tree) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    for entry in tree.iter() {
        let (key, value) = entry?;
        match serde_json::from_slice(&value) {
            Ok(value) => all.push(value),
            Err(error) => tracing::warn!(?key, %error, "entry of the control store is not understood and left out"),
        }
    }
    Ok(all)
}

impl PeerStore for Store {
    fn by_key(&self, key: &Fingerprint) -> Option<Peer> {
        let key = hex::encode(key);
        self.with_peers(|map| map.values().find(|p| p.fingerprint == key).and_then(PeerRecord::peer))
    }

    fn by_box(&self, box_id: &BoxId) -> Option<Peer> {
        self.with_peers(|map| map.get(box_id).and_then(PeerRecord::peer))
    }

    fn store(&self, peer: Peer) -> io::Result<()> {
        self.put_peer(&peer).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reprise_api::Rights;

    fn peer(n: u8, name: &str) -> Peer {
        let identity = PairIdentity { box_id: BoxId::from_raw([n; 16]), name: name.into(), fingerprint: [n; 32] };
        Peer { identity, standing: PeerStanding::Paired }
    }

    #[test]
    fn the_identity_is_drawn_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = Identity::open(&state).unwrap();
        let again = Identity::open(&state).unwrap();
        assert_eq!(first.box_id, again.box_id);
        assert_eq!(first.key.fingerprint(), again.key.fingerprint());
        let mode = fs::metadata(state.join("identity.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for junk in ["", "box_id = 1", "garbage \u{0}"] {
            fs::write(state.join("identity.toml"), junk).unwrap();
            assert!(matches!(Identity::open(&state), Err(StoreError::Identity { .. })), "{junk:?}");
        }
    }

    #[test]
    fn peers_tokens_and_events_survive() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = Store::open(dir.path()).unwrap();
            store.store(peer(1, "turin")).unwrap();
            store.store(peer(2, "Turin")).unwrap();
            let id = BoxId::from_raw([1; 16]);
            store.change_peer(id, true, |p| p.address = Some("10.0.0.1:3261".into())).unwrap();
            // Stored again by a repeated pairing: name and address stay.
            store.store(peer(1, "renamed")).unwrap();
            let minted = StoredToken::mint(&[7; 40], "grafana".into(), Rights::ReadOnly, 1);
            store.put_token(&minted.stored).unwrap();
            let text = r#"{"name": "iqn.2026-01.com.example:Host", "addresses": ["192.0.2.0/24"],
                "chap": {"user": "host", "secret": "of-the-initiator"}}"#;
            store.put_initiator(&serde_json::from_str(text).unwrap()).unwrap();
            assert_eq!(fs::metadata(dir.path().join("store")).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let store = Store::open(dir.path()).unwrap();
        let names: Vec<_> = store.peers().into_iter().map(|p| p.name.to_string()).collect();
        assert_eq!(names, ["turin", "turin-2"]);
        let mut one = store.peer(BoxId::from_raw([1; 16])).unwrap();
        assert_eq!(one.address.as_deref(), Some("10.0.0.1:3261"));
        assert_eq!(one.addresses(), ["10.0.0.1:3261"]);
        // Given by nobody so far: it follows what the peer says. One that is given is kept beside that.
        one.learn_address("10.0.0.2:3261".into());
        assert_eq!((one.addresses(), one.address_told), (vec!["10.0.0.2:3261".into()], true));
        one.give_address(Some("b.example:3261".into()));
        assert_eq!(one.addresses(), ["b.example:3261", "10.0.0.2:3261"]);
        one.learn_address("10.0.0.3:3261".into());
        assert_eq!(one.addresses(), ["b.example:3261", "10.0.0.3:3261"]);
        one.give_address(None);
        assert_eq!((one.addresses(), one.address_told), (vec!["10.0.0.3:3261".into()], true));
        assert_eq!(store.by_key(&[2; 32]), Some(peer(2, "Turin")));
        assert_eq!(store.by_key(&[3; 32]), None);
        let host = store.initiators().unwrap().remove(0);
        assert_eq!(host.name.as_str(), "iqn.2026-01.com.example:host");
        assert_eq!(host.chap.unwrap().secret.expose(), "of-the-initiator");
        assert!(store.remove_initiator(&host.name).unwrap() && !store.remove_initiator(&host.name).unwrap());
        let token = store.tokens().unwrap().remove(0);
        assert_eq!(store.token(&token.id), Some(token.clone()));
        assert!(store.remove_token(&token.id).unwrap());
        assert!(!store.remove_token(&token.id).unwrap());
        store.remove_peer(BoxId::from_raw([1; 16])).unwrap();
        assert_eq!(store.by_box(&BoxId::from_raw([1; 16])), None);
    }

    #[test]
    fn foreign_names_become_names() {
        for (text, name) in [("Turin A", "turin-a"), ("--x", "x"), ("äö", "peer"), ("", "peer")] {
            assert_eq!(fit_name(text, |_| false, "peer").unwrap().as_str(), name, "{text}");
        }
        let long = "x".repeat(100);
        assert_eq!(
            fit_name(&long, |n| n.as_str().len() == 40, "peer").unwrap().as_str(),
            format!("{}-2", "x".repeat(40))
        );
    }
}
