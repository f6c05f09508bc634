//! The pairing exchange on a TLS connection; the protocol itself is `reprise_link::pairing`.

use reprise_format::link::{Message, PairCommit, PairCommitted, PairRefused};
use reprise_link::pairing::{Channel, DialSession, PairError, PairIdentity, PairingCode};
use tracing::{info, warn};

use super::NetError;
use super::endpoint::Shared;
use super::handshake::Greeter;
use super::peers::{Peer, PeerStanding};

fn seed() -> Result<[u8; 32], NetError> {
    let mut seed = [0u8; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| NetError::Io { what: "draw random bytes", source: std::io::Error::other(error) })?;
    Ok(seed)
}

fn store(shared: &Shared, identity: PairIdentity, standing: PeerStanding) -> Result<(), NetError> {
    shared.config.peers.store(Peer { identity, standing }).map_err(NetError::Store)
}

fn already_paired(shared: &Shared, box_id: &reprise_types::BoxId, channel: &Channel) -> bool {
    let peers = &shared.config.peers;
    let known = [peers.by_box(box_id), peers.by_key(&channel.peer_fingerprint)];
    known.iter().flatten().any(|peer| peer.standing == PeerStanding::Paired)
}

/// The listening end, after the hellos. Returns the box that is paired now.
pub(super) async fn listen(shared: &Shared, mut greeter: Greeter, channel: &Channel) -> Result<PairIdentity, NetError> {
    match exchange(shared, &mut greeter, channel).await {
        Ok(identity) => Ok(identity),
        Err(NetError::Pair(error)) => {
            greeter.refuse(PairRefused { reason: error.refusal() }).await;
            Err(error.into())
        }
        Err(error) => Err(error),
    }
}

async fn exchange(shared: &Shared, greeter: &mut Greeter, channel: &Channel) -> Result<PairIdentity, NetError> {
    let start = match greeter.receive().await? {
        Message::PairStart(start) => start,
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    };
    let paired = already_paired(shared, &start.box_id, channel);
    let seed = seed()?;
    let now = shared.mono();
    let (session, share) = shared.with_listener(|listener| {
        listener.as_ref().ok_or(PairError::NotListening)?.start(now, &start, channel, paired, &seed)
    })?;
    greeter.send(share).await?;
    let confirm = match greeter.receive().await? {
        Message::PairConfirm(confirm) => confirm,
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    };
    let now = shared.mono();
    let (identity, answer) = shared
        .with_listener(|listener| session.confirm(now, listener.as_mut().ok_or(PairError::NotListening)?, &confirm))?;
    if !already_paired(shared, &identity.box_id, channel) {
        store(shared, identity.clone(), PeerStanding::Prepared)?;
    }
    greeter.send(answer).await?;
    match greeter.receive().await? {
        Message::PairCommit(PairCommit {}) => {}
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    }
    store(shared, identity.clone(), PeerStanding::Paired)?;
    greeter.send(PairCommitted {}).await?;
    info!(peer = %identity.box_id, name = identity.name, "paired");
    Ok(identity)
}

/// The dialling end, after the hellos.
pub(super) async fn dial(
    shared: &Shared,
    mut greeter: Greeter,
    channel: &Channel,
    code: &PairingCode,
) -> Result<PairIdentity, NetError> {
    let (session, start) = DialSession::start(shared.identity(), code, shared.shows_code(), &seed()?)?;
    greeter.send(start).await?;
    let share = match receive(&mut greeter).await? {
        Message::PairShare(share) => share,
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    };
    let (session, confirm) = session.share(&share, channel)?;
    greeter.send(confirm).await?;
    let answer = match receive(&mut greeter).await? {
        Message::PairConfirm(confirm) => confirm,
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    };
    let identity = session.confirmed(&answer)?;
    store(shared, identity.clone(), PeerStanding::Paired)?;
    // From here on the two are paired: what is lost now is made good by the first connection.
    let committed = async {
        greeter.send(PairCommit {}).await?;
        receive(&mut greeter).await
    };
    match committed.await {
        Ok(Message::PairCommitted(_)) => info!(peer = %identity.box_id, name = identity.name, "paired"),
        Ok(other) => warn!(peer = %identity.box_id, kind = ?other.kind(), "paired; unexpected last message"),
        Err(error) => warn!(
            peer = %identity.box_id,
            error = &error as &dyn std::error::Error,
            "paired; the peer's last message was lost and is made good by the first connection"
        ),
    }
    Ok(identity)
}

async fn receive(greeter: &mut Greeter) -> Result<Message, NetError> {
    match greeter.receive().await? {
        Message::PairRefused(refused) => Err(PairError::from_refusal(refused.reason).into()),
        message => Ok(message),
    }
}
