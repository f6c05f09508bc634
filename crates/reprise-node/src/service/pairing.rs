//! Pairing with another box, and what is done to peers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_api::{
    ApiError, ErrorCode, Name, PairDial, PairListen, PairOffer, PairState, PairStatus, PeerSet, PeerShareSet,
    PeerStatus,
};
use reprise_engine::GroupMeta;
use reprise_format::link::{Command as BoxCommand, ForgetPeer};
use reprise_link::pairing::{CODE_LIFETIME_MS, PairError, PairIdentity, PairingCode};
use reprise_types::{BoxId, Role};

use super::control::DEFAULT_LINK_PORT;
use super::groups::Entry;
use super::told::Message;
use super::turn::Commanding;
use super::view::known_name;
use super::{Inner, chain, locked, wrong_state};
use crate::net::NetError;
use crate::store::PeerRecord;

/// Longest wait for the peer to hear that it is forgotten.
const FORGET_TIME: Duration = Duration::from_secs(3);

/// Where a pairing stands.
pub(super) struct Pairing {
    state: PairState,
    listening_until: Option<Instant>,
}

impl Default for Pairing {
    fn default() -> Self {
        Self { state: PairState::Idle, listening_until: None }
    }
}

const AGAIN: &str = "try again: reprise pair --listen on one box, reprise pair ADDRESS on the other";

fn pair_error(error: &PairError) -> ApiError {
    ApiError::new(ErrorCode::PairingFailed, error.to_string(), AGAIN)
}

fn net_error(error: &NetError) -> ApiError {
    match error {
        NetError::Pair(error) => pair_error(error),
        NetError::Io { .. } | NetError::Timeout | NetError::PeerClosed => ApiError::new(
            ErrorCode::PeerUnreachable,
            chain(error),
            "check the address and that the link port of the other box can be reached",
        ),
        NetError::Tls { .. } => {
            ApiError::new(ErrorCode::PairingFailed, chain(error), "check that this is the link port of a box")
        }
        _ => ApiError::new(ErrorCode::PairingFailed, chain(error), AGAIN),
    }
}

impl Inner {
    /// Shows a code and waits for another box.
    pub(super) fn listen_for_pair(&self, request: &PairListen) -> Result<PairOffer, ApiError> {
        if !(30..=reprise_api::PAIR_SECS_MAX).contains(&request.valid_secs) {
            let text = format!("{} seconds is no life of a code", request.valid_secs);
            return Err(ApiError::new(ErrorCode::BadRequest, text, "give 30 to 3600 seconds"));
        }
        let mut pairing = locked(&self.pairing);
        if matches!(pairing.state, PairState::Exchanging { .. }) {
            return Err(wrong_state("a pairing is under way", "wait, or end it: reprise pair --cancel"));
        }
        let code = self.net.pair_listen().map_err(|e| net_error(&e))?;
        // A code of the link lives ten minutes at most.
        let secs = request.valid_secs.min((CODE_LIFETIME_MS / 1000) as u32);
        pairing.listening_until = Some(Instant::now() + Duration::from_secs(secs.into()));
        pairing.state = PairState::Listening { expires_in_secs: secs };
        Ok(PairOffer { code: code.display(), addresses: self.link_addresses(), expires_in_secs: secs })
    }

    /// Where this box is dialled, for a peer that knows where its connections come from.
    pub(super) fn link_address(&self) -> String {
        let advertise = self.settings.link.advertise.clone();
        advertise.unwrap_or_else(|| self.net.address().to_string())
    }

    /// Where this box may be dialled, as far as it knows.
    fn link_addresses(&self) -> Vec<String> {
        if let Some(advertise) = &self.settings.link.advertise {
            return vec![advertise.clone()];
        }
        let listen = self.net.address();
        if !listen.ip().is_unspecified() {
            return vec![listen.to_string()];
        }
        let port = listen.port();
        let mut found: Vec<String> = nix::ifaddrs::getifaddrs()
            .map(|all| {
                all.filter_map(|interface| {
                    let address = interface.address?;
                    let v4 = address.as_sockaddr_in().map(|a| std::net::IpAddr::from(a.ip()));
                    let v6 = address.as_sockaddr_in6().map(|a| std::net::IpAddr::from(a.ip()));
                    v4.or(v6.filter(|_| listen.is_ipv6()))
                })
                .filter(|ip| !ip.is_loopback() && !matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local()))
                .map(|ip| std::net::SocketAddr::new(ip, port).to_string())
                .collect()
            })
            .unwrap_or_default();
        if found.is_empty() {
            found.push(format!("127.0.0.1:{port}"));
        }
        found
    }

    /// Where the pairing stands, looked at anew.
    pub(super) fn pair_state(&self) -> PairStatus {
        let mut pairing = locked(&self.pairing);
        if let (PairState::Listening { .. }, Some(until)) = (&pairing.state, pairing.listening_until) {
            let left = until.saturating_duration_since(Instant::now());
            pairing.state = match self.net.pair_progress() {
                // The event that tells who it was is on its way.
                Some(Ok(_)) | None if !left.is_zero() => {
                    PairState::Listening { expires_in_secs: left.as_secs() as u32 }
                }
                Some(Err(PairError::Expired)) | Some(Ok(_)) | None => PairState::Expired,
                Some(Err(error)) => PairState::Failed { error: pair_error(&error) },
            };
            if !matches!(pairing.state, PairState::Listening { .. }) {
                pairing.listening_until = None;
                self.net.pair_stop();
            }
        }
        PairStatus { state: pairing.state.clone() }
    }

    /// Another box has used the code that is shown, or has completed a pairing by its first connection.
    pub(super) fn on_paired(&self, identity: &PairIdentity) {
        self.told_paired(identity.box_id);
        let mut pairing = locked(&self.pairing);
        if pairing.listening_until.is_some() {
            let record = self.store.peer(identity.box_id);
            pairing.state = PairState::Paired {
                peer_id: identity.box_id,
                peer: record.as_ref().map_or_else(|| known_name(&identity.name), |r| r.name.clone()),
                address: record.and_then(|r| r.address).unwrap_or_default(),
            };
            pairing.listening_until = None;
            // The listener keeps answering a repeated try of the same box until the code's time is over.
        }
    }

    fn told_paired(&self, peer: BoxId) {
        if let Some(record) = self.store.peer(peer) {
            let subject = format!("peer {}", record.name);
            self.board.clear("peer-forgot-us", &subject);
            self.board.event(Message::Paired { peer: record.name.as_str() }.about(subject));
        }
    }

    /// Pairs with a box that listens.
    pub(super) async fn dial_pair(self: Arc<Self>, request: PairDial) -> Result<PairStatus, ApiError> {
        let code = PairingCode::parse(&request.code).map_err(|e| {
            ApiError::new(ErrorCode::BadRequest, e.to_string(), "type the code as the other box shows it")
        })?;
        let address = with_port(&request.address);
        {
            let mut pairing = locked(&self.pairing);
            if matches!(pairing.state, PairState::Exchanging { .. }) {
                return Err(wrong_state("a pairing is under way", "wait until it has ended"));
            }
            if pairing.listening_until.is_some() {
                return Err(pair_error(&PairError::BothListening));
            }
            pairing.state = PairState::Exchanging { address: address.clone() };
        }
        let result = self.net.pair_dial(address.clone(), code).await;
        let state = match result {
            Ok(identity) => {
                let keep = self.store.change_peer(identity.box_id, true, |p| {
                    p.give_address(Some(address.clone()));
                });
                keep.map_err(|e| ApiError::internal(chain(&e)))?;
                self.told_paired(identity.box_id);
                self.dial_control(identity.box_id);
                let name = self.store.peer(identity.box_id).map(|r| r.name);
                let peer = name.unwrap_or_else(|| known_name(&identity.name));
                PairState::Paired { peer_id: identity.box_id, peer, address }
            }
            Err(error) => PairState::Failed { error: net_error(&error) },
        };
        locked(&self.pairing).state = state.clone();
        match state {
            PairState::Failed { error } => Err(error),
            state => Ok(PairStatus { state }),
        }
    }

    /// Ends the pairing that is under way.
    pub(super) fn cancel_pair(&self) -> PairStatus {
        let mut pairing = locked(&self.pairing);
        if pairing.listening_until.take().is_some() {
            self.net.pair_stop();
            pairing.state = PairState::Cancelled;
        }
        PairStatus { state: pairing.state.clone() }
    }

    pub(super) fn peer_statuses(&self) -> Vec<PeerStatus> {
        let heard = self.heard();
        self.store
            .peers()
            .into_iter()
            .map(|record| {
                let (connected, clock) = self.peer_link(record.id);
                let (mirrored_groups, mirrored_bytes) = self.mirrored_for(record.id);
                PeerStatus {
                    id: record.id,
                    key_fingerprint: record.fingerprint.clone(),
                    address: record.address.clone(),
                    learned_address: record.address_learned.clone(),
                    connected,
                    version: record.version.clone(),
                    paired_unix_ms: record.paired_unix_ms,
                    last_seen_unix_ms: heard.get(&record.id).and_then(|h| h.last_unix_ms),
                    clock_offset_secs: clock,
                    groups: self.groups_with(record.id).into_iter().map(|(name, _)| name).collect(),
                    share: record.share,
                    mirrored_groups,
                    mirrored_bytes,
                    name: record.name,
                }
            })
            .collect()
    }

    /// Says what a peer may have here. What it has stays.
    pub(super) fn set_share(&self, request: &PeerShareSet) -> Result<PeerStatus, ApiError> {
        let record = self.peer_named(&request.peer)?;
        let kept = self.store.change_peer(record.id, true, |p| p.share = request.share);
        kept.map_err(|e| ApiError::internal(chain(&e)))?;
        let found = self.peer_statuses().into_iter().find(|p| p.id == record.id);
        found.ok_or_else(|| ApiError::not_found("peer", &request.peer))
    }

    /// Groups that this box holds or held a mirror of for a peer, and the bytes of their volumes.
    pub(super) fn mirrored_for(&self, peer: BoxId) -> (u32, u64) {
        let of_peer = |m: &GroupMeta| m.role() == Role::Mirror && m.peer().is_some_and(|p| p.peer == peer);
        let metas: Vec<_> = locked(&self.groups).values().filter_map(Entry::meta).filter(|m| of_peer(m)).collect();
        let sizes = metas.iter().flat_map(|m| &m.volumes).map(|v| v.sectors.bytes().get());
        let promised = self.room_promised(|group| metas.iter().any(|m| m.group == group));
        let bytes = sizes.fold(promised, u64::saturating_add);
        (u32::try_from(metas.len()).unwrap_or(u32::MAX), bytes)
    }

    /// Groups that go to a peer or come from it.
    pub(super) fn groups_with(&self, peer: BoxId) -> Vec<(Name, Role)> {
        self.running()
            .into_iter()
            .filter_map(|g| {
                let meta = g.now().meta;
                meta.peer().is_some_and(|p| p.peer == peer).then_some((g.name, meta.role()))
            })
            .collect()
    }

    pub(super) fn peer_named(&self, name: &Name) -> Result<PeerRecord, ApiError> {
        self.store.peer_named(name).ok_or_else(|| ApiError::not_found("peer", name))
    }

    /// Says where a peer is; an empty text: where it says itself.
    pub(super) fn set_peer_address(&self, request: &PeerSet) -> Result<PeerStatus, ApiError> {
        let record = self.peer_named(&request.peer)?;
        let given = match request.address.trim() {
            "" => None,
            text => Some(with_port(text)).filter(|a| is_host_and_port(a)).map(Some).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::BadRequest,
                    "the address is not HOST or HOST:PORT".to_owned(),
                    "give a name or an address, with the port of its link unless that is 3261",
                )
            })?,
        };
        let kept = self.store.change_peer(record.id, true, |p| p.give_address(given));
        kept.map_err(|e| ApiError::internal(chain(&e)))?;
        self.dial_control(record.id);
        self.wake_groups(record.id);
        let found = self.peer_statuses().into_iter().find(|p| p.id == record.id);
        found.ok_or_else(|| ApiError::not_found("peer", &request.peer))
    }

    /// The peer may be forgotten, or why not.
    pub(super) fn may_forget(&self, name: &Name) -> Result<PeerRecord, ApiError> {
        let record = self.peer_named(name)?;
        let groups = self.groups_with(record.id);
        if let Some((group, _)) = groups.first() {
            let list: Vec<_> = groups.iter().map(|(name, role)| format!("{name} ({role} here)")).collect();
            return Err(ApiError::new(
                ErrorCode::InUse,
                format!("groups are mirrored with {name}: {}", list.join(", ")),
                format!(
                    "end the mirrors first ({}); images kept here are given up with: {}",
                    self.words().end_mirror(group, name.as_str()),
                    self.words().give_up(group)
                ),
            ));
        }
        Ok(record)
    }

    /// Forgets a peer and tells it, if it can be reached.
    pub(super) async fn forget_peer(
        self: &Arc<Self>,
        command: &mut Commanding<'_>,
        name: &Name,
    ) -> Result<(), ApiError> {
        let record = self.may_forget(name)?;
        // One that does not hear it is refused when it connects.
        self.tell_peer(command, record.id, BoxCommand::ForgetPeer(ForgetPeer {}), FORGET_TIME).await;
        // Meanwhile it may have begun to mirror a group to this box.
        let _change = command.change().await;
        self.may_forget(name)?;
        self.drop_peer(&record)
    }

    pub(super) fn drop_peer(&self, record: &PeerRecord) -> Result<(), ApiError> {
        locked(&self.links).remove(&record.id);
        self.store.remove_peer(record.id).map_err(|e| ApiError::internal(chain(&e)))?;
        let subject = format!("peer {}", record.name);
        self.board.clear_subject(&subject);
        self.board.event(Message::PeerRemoved { peer: record.name.as_str() }.about(subject));
        Ok(())
    }
}

/// An address as a person gives it, with the port of the link where it has none.
fn with_port(text: &str) -> String {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.trim_end_matches(']').parse::<u16>().ok());
    match (port, text.parse::<std::net::Ipv6Addr>()) {
        (_, Ok(v6)) => format!("[{v6}]:{DEFAULT_LINK_PORT}"),
        (Some(_), _) => text.to_owned(),
        (None, _) => format!("{text}:{DEFAULT_LINK_PORT}"),
    }
}

fn is_host_and_port(text: &str) -> bool {
    if text.parse::<std::net::SocketAddr>().is_ok_and(|a| a.port() != 0) {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let good = host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
    good && !host.is_empty() && host.len() <= 253 && port.parse::<u16>().is_ok_and(|p| p != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_person_gets_the_port_of_the_link() {
        let cases = [
            ("b.example", "b.example:3261", true),
            ("192.0.2.7", "192.0.2.7:3261", true),
            ("192.0.2.7:4000", "192.0.2.7:4000", true),
            ("2001:db8::7", "[2001:db8::7]:3261", true),
            ("[2001:db8::7]:4000", "[2001:db8::7]:4000", true),
            ("192.0.2.7:0", "192.0.2.7:0", false),
            ("b example", "b example:3261", false),
            ("b.example:70000", "b.example:70000:3261", false),
        ];
        for (text, expected, good) in cases {
            assert_eq!((with_port(text).as_str(), is_host_and_port(&with_port(text))), (expected, good), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        for error in [PairError::WrongCode, PairError::SelfPairing, PairError::NotListening, PairError::AlreadyPaired] {
            let api = net_error(&NetError::Pair(error));
            assert_eq!(api.code, ErrorCode::PairingFailed);
            assert_eq!(api.message, error.to_string());
            assert!(!api.what_to_do.is_empty());
        }
        assert_eq!(net_error(&NetError::Timeout).code, ErrorCode::PeerUnreachable);
    }
}
