//! Connections with peers: commands between boxes, and who gets the connections of groups.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reprise_api::{ApiError, ErrorCode};
use reprise_engine::PeerMeta;
use reprise_format::link::{
    BoxInfo, BoxInfoQuery, Close, CloseReason, Command as BoxCommand, GroupState, Membership, Message, Outcome,
    RefusalReason, Refused, Request, Response, Side, Trouble,
};
use reprise_link::instance;
use reprise_link::mirror::{MirrorEvent, MirrorSession, WINDOW_BYTES_MIN};
use reprise_link::pulse::Pulse;
use reprise_types::{BoxId, ByteLen, GroupId, Role, Seq};
use tokio::sync::{mpsc, oneshot};

use super::groups::EntryState;
use super::image::Heard;
use super::turn::{Asking, Task};
use super::{Inner, chain, conditions, locked};
use crate::clock;
use crate::group::Command;
use crate::net::{Connection, DialHandle, DialSpec, LinkEvent, NetEvent, Purpose};
use crate::store::{PeerRecord, unix_ms};

/// Where a box listens for its link unless its settings say otherwise; how a box is dialled back that does not tell.
pub(super) const DEFAULT_LINK_PORT: u16 = 3261;
/// Commands of this box that may wait on one connection.
const ASKS_MAX: usize = 16;
/// Commands of the peer that may be at work on one connection.
const REQUESTS_MAX: usize = 8;
/// Control connections kept for a peer: each of the two may dial, and one may be on its way out.
const CONNECTIONS_MAX: usize = 4;
/// Between two looks at the peer's clock and room.
const INFO_EVERY: Duration = Duration::from_secs(60);
/// Looks at which the same has to be found before somebody is told, and before it is taken back.
const SAME_FINDINGS: u32 = 3;
/// Longest wait for them.
const INFO_TIME: Duration = Duration::from_secs(10);
/// How long the end of a group that is not known may take to be said.
const UNKNOWN_TIME: Duration = Duration::from_secs(10);
/// A command for a peer waits so long for the first connection to it, and looks for it so often.
const FIRST_CONTACT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What holds a peer.
#[derive(Default)]
pub(super) struct PeerLinks {
    dial: Option<DialHandle>,
    connections: Vec<ControlLink>,
    next_id: u64,
    clock_offset: Option<f64>,
    /// Last sign of life since the daemon started, milliseconds since 1970.
    heard_unix_ms: Option<u64>,
    slower: Steady,
    last_error: Option<String>,
}

/// A finding that counts once it was the same several times in a row, and is given up in the same way.
#[derive(Default)]
struct Steady {
    holds: bool,
    against: u32,
}

impl Steady {
    fn look(&mut self, found: bool) -> bool {
        self.against = if found == self.holds { 0 } else { self.against + 1 };
        if self.against >= SAME_FINDINGS {
            *self = Self { holds: found, against: 0 };
        }
        self.holds
    }
}

struct ControlLink {
    id: u64,
    /// The other end.
    from: SocketAddr,
    asks: mpsc::Sender<Ask>,
}

struct Ask {
    command: BoxCommand,
    reply: oneshot::Sender<Outcome>,
}

/// What the link's thread tells.
pub(super) async fn net_events(inner: Arc<Inner>, mut events: mpsc::Receiver<NetEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Connected(connection) => {
                inner.learn(&connection);
                match connection.purpose {
                    Purpose::Control => {
                        tokio::spawn(control_connection(inner.clone(), *connection));
                    }
                    Purpose::Group(group) => {
                        tokio::spawn(give(inner.clone(), group, connection));
                    }
                }
            }
            NetEvent::Paired(identity) => inner.on_paired(&identity),
            NetEvent::StrangersFull(full) => inner.board.strangers_full("link", &full),
            NetEvent::DialFailed { peer, purpose, error } => {
                let reason = chain(&error);
                match purpose {
                    Purpose::Control => locked(&inner.links).entry(peer).or_default().last_error = Some(reason),
                    Purpose::Group(group) => {
                        if let Some(entry) = locked(&inner.groups).get_mut(&group) {
                            entry.down_reason = Some(reason);
                        }
                    }
                }
            }
        }
    }
}

/// Hands a group's connection to its thread.
async fn give(inner: Arc<Inner>, group: GroupId, connection: Box<Connection>) {
    if let Some(running) = inner.running_by_id(group) {
        let of_other = |p: &PeerMeta| p.peer != connection.peer;
        if running.snapshot.borrow().meta.peer().is_some_and(of_other) {
            // The connection that is there belongs to the group's own peer, and is not given up for another box.
            return answer_stranger(&inner, group, Membership::OtherPeer, *connection).await;
        }
        if let Some(entry) = locked(&inner.groups).get_mut(&group) {
            entry.down_reason = None;
        }
        // A thread that is gone closes the connection by dropping it.
        let _ = running.commands.send(Command::Link(connection)).await;
        return;
    }
    if let Some(entry) = locked(&inner.groups).get(&group) {
        let detail = match &entry.state {
            EntryState::Failed { reason, .. } => reason.clone(),
            EntryState::Running(_) => "the group is being started".to_owned(),
        };
        let trouble = Some(Trouble { not_open: true, ..Trouble::NONE });
        connection.handle.send_control(Close { reason: CloseReason::NotReady, detail, trouble }.into());
        return;
    }
    answer_stranger(&inner, group, Membership::Unknown, *connection).await;
}

/// Says that a group is nothing to the box that offers it, in the words of the handshake.
async fn answer_stranger(inner: &Inner, group: GroupId, membership: Membership, connection: Connection) {
    let peer = connection.peer;
    tracing::info!(%peer, %group, ?membership, "peer offers a group that is not mirrored from it");
    if tokio::time::timeout(UNKNOWN_TIME, say_membership(inner, membership, connection)).await.is_err() {
        tracing::debug!(%peer, %group, "offer of another's group was not ended by the peer");
    }
}

async fn say_membership(inner: &Inner, membership: Membership, mut connection: Connection) {
    let mut session = MirrorSession::new(clock::now().mono, WINDOW_BYTES_MIN);
    while let Some(LinkEvent::Message { message, .. }) = connection.events.recv().await {
        match session.handle(clock::now().mono, message, 0) {
            Ok(None) => {}
            Ok(Some(MirrorEvent::Offer(offer))) => session.answer(GroupState {
                group: offer.group,
                box_id: inner.identity.box_id,
                membership,
                role: Side::Mirror,
                lineage: Vec::new(),
                durable: None,
                applied: Seq::ZERO,
                complete: false,
                copy_cursor: None,
                copy_reach: None,
                ceded: None,
                hash_at_offer: None,
                instance: instance::first([0; 16]),
                peer_instance_seen: None,
            }),
            Ok(Some(_)) | Err(_) => return,
        }
        while let Some(message) = session.poll_message() {
            connection.handle.send_control(message);
        }
    }
}

/// A command that a peer has not done, as far as is known here. A refusal is an error like the others, so that no caller can
/// take it for consent.
#[derive(Debug)]
pub(super) enum NotDone {
    /// The peer refuses: it has changed nothing.
    Refused {
        /// Its name.
        peer: String,
        /// Why.
        refused: Refused,
    },
    /// It cannot be reached, or gave no answer in time: it may do it all the same.
    Unknown(ApiError),
}

impl NotDone {
    /// As the API says it.
    pub(super) fn into_error(self) -> ApiError {
        let (peer, refused) = match self {
            Self::Unknown(error) => return error,
            Self::Refused { peer, refused } => (peer, refused),
        };
        let text = format!("peer {peer} refuses: {}", refused.detail);
        let (code, what) = match refused.reason {
            RefusalReason::TooSmall if refused.needed > ByteLen::ZERO => {
                let Refused { needed, available, .. } = refused;
                let text = format!("peer {peer} is too small: {needed} bytes are needed, {available} are free");
                return ApiError::new(ErrorCode::NoSpace, text, "give the peer a larger data half");
            }
            RefusalReason::TooSmall => (ErrorCode::NoSpace, "give the peer a larger data half"),
            RefusalReason::NameTaken => (ErrorCode::NameTaken, "use other names on one of the two boxes"),
            RefusalReason::HasImage => (ErrorCode::ImageExists, "give the image up on the peer: reprise group delete"),
            RefusalReason::TooMany => (ErrorCode::LimitReached, "delete groups on the peer"),
            RefusalReason::Unsupported => (ErrorCode::NotSupported, "see what the peer's disks and version can do"),
            _ => (ErrorCode::PeerRefused, "see the log of the peer"),
        };
        ApiError::new(code, text, what)
    }
}

impl From<NotDone> for ApiError {
    fn from(not_done: NotDone) -> Self {
        not_done.into_error()
    }
}

/// What a peer answered that did what it was asked.
enum Consent {
    Done,
    BoxInfo(BoxInfo),
}

fn other_answer() -> ApiError {
    ApiError::internal("the peer gave another answer than was asked for")
}

fn refuse(reason: RefusalReason, detail: &str) -> Outcome {
    let none = ByteLen::ZERO;
    Outcome::Refused(Refused { reason, detail: detail.to_owned(), needed: none, available: none })
}

/// One control connection, until it ends.
async fn control_connection(inner: Arc<Inner>, connection: Connection) {
    let Connection { peer, handle, mut events, address: from, .. } = connection;
    let (tx, mut asks) = mpsc::channel::<Ask>(ASKS_MAX);
    let id = {
        let mut links = locked(&inner.links);
        let links = links.entry(peer).or_default();
        links.next_id += 1;
        links.last_error = None;
        links.connections.push(ControlLink { id: links.next_id, from, asks: tx });
        if links.connections.len() > CONNECTIONS_MAX {
            links.connections.remove(0);
        }
        links.next_id
    };
    inner.wake_groups(peer);
    let info = inner.turns.spawn(|task| watch_info(inner.clone(), task, peer, id));
    let (answer_tx, mut answers) = mpsc::channel::<Response>(REQUESTS_MAX);
    let mut waiting: BTreeMap<u64, oneshot::Sender<Outcome>> = BTreeMap::new();
    let mut next_request = 1u64;
    let mut at_work = 0usize;
    let mut pulse = Pulse::new(clock::now().mono);
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(LinkEvent::Message { message, .. }) = event else { break };
                let now = clock::now().mono;
                pulse.heard(now);
                inner.note_heard(peer);
                handle.set_healthy();
                match message {
                    Message::Heartbeat(heartbeat) => {
                        if let Some(echo) = pulse.on_heartbeat(now, &heartbeat) {
                            handle.send_control(echo.into());
                        }
                    }
                    Message::Request(Request { id, .. }) if at_work >= REQUESTS_MAX => {
                        let outcome = refuse(RefusalReason::TooMany, "too many commands at a time");
                        handle.send_control(Response { id, outcome }.into());
                    }
                    // Forgotten since it connected: what it asks for is not done, and the connection ends.
                    Message::Request(_) if inner.store.peer(peer).is_none() => break,
                    Message::Request(Request { id, command }) => {
                        at_work += 1;
                        let (inner, answer) = (inner.clone(), answer_tx.clone());
                        let turns = inner.turns.clone();
                        turns.spawn(|task| async move {
                            let outcome = inner.carry_out(task, peer, command).await;
                            let _ = answer.send(Response { id, outcome }).await;
                        });
                    }
                    Message::Response(Response { id, outcome }) => {
                        if let Some(reply) = waiting.remove(&id) {
                            let _ = reply.send(outcome);
                        }
                    }
                    Message::Close(_) => break,
                    other => {
                        tracing::warn!(%peer, kind = ?other.kind(), "message that has no place on a control connection");
                        break;
                    }
                }
            }
            ask = asks.recv() => {
                // The peer was forgotten, or the connection is one too many.
                let Some(Ask { command, reply }) = ask else { break };
                let request = Request { id: next_request, command };
                if handle.send_control(request.into()) {
                    waiting.insert(next_request, reply);
                    next_request += 1;
                }
            }
            Some(response) = answers.recv() => {
                at_work = at_work.saturating_sub(1);
                handle.send_control(response.into());
            }
            _ = ticks.tick() => {
                waiting.retain(|_, reply| !reply.is_closed());
                match pulse.tick(clock::now().mono) {
                    Ok(Some(heartbeat)) => {
                        handle.send_control(heartbeat.into());
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::info!(%peer, error = &error as &dyn std::error::Error, "control connection is silent");
                        break;
                    }
                }
            }
        }
    }
    info.abort();
    inner.keep_heard(peer);
    if let Some(links) = locked(&inner.links).get_mut(&peer) {
        links.connections.retain(|c| c.id != id);
    }
}

/// Keeps what is shown about a peer fresh, as long as its connection stands.
async fn watch_info(inner: Arc<Inner>, mut task: Task, peer: BoxId, connection: u64) {
    loop {
        let newest = locked(&inner.links).get(&peer).and_then(|l| l.connections.last().map(|c| c.id));
        if newest == Some(connection)
            && let Err(error) = inner.peer_info(&mut task, peer).await
        {
            tracing::debug!(%peer, %error, "peer does not tell about itself");
        }
        inner.keep_heard(peer);
        tokio::time::sleep(INFO_EVERY).await;
    }
}

/// Where to dial a box that says `told` and whose connection comes from `from`; none where that cannot work.
fn dial_address(told: &str, from: SocketAddr) -> Option<String> {
    let ip = from.ip().to_canonical();
    if told.is_empty() {
        return Some(SocketAddr::new(ip, DEFAULT_LINK_PORT).to_string());
    }
    match told.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => None,
        Ok(address) if address.ip().is_unspecified() => Some(SocketAddr::new(ip, address.port()).to_string()),
        // It listens for boxes on its own machine only.
        Ok(address) if address.ip().is_loopback() && !ip.is_loopback() => None,
        Ok(address) => Some(address.to_string()),
        Err(_) => {
            let (host, port) = told.rsplit_once(':')?;
            let good = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
            (good && port.parse::<u16>().is_ok_and(|p| p != 0)).then(|| told.to_owned())
        }
    }
}

impl Inner {
    /// What a fresh connection tells about a peer.
    fn learn(&self, connection: &Connection) {
        let version = connection.hello.firmware.clone();
        let kept = self.store.change_peer(connection.peer, false, |p| {
            p.version = Some(version);
            p.last_seen_unix_ms = Some(unix_ms());
        });
        if let Err(error) = kept {
            tracing::warn!(error = &error as &dyn std::error::Error, "what was learned about a peer is not stored");
        }
    }

    fn note_heard(&self, peer: BoxId) {
        locked(&self.links).entry(peer).or_default().heard_unix_ms = Some(unix_ms());
    }

    /// Stores when a peer was heard last, so that it is known after a restart of this box as well.
    fn keep_heard(&self, peer: BoxId) {
        let Some(heard) = locked(&self.links).get(&peer).and_then(|l| l.heard_unix_ms) else { return };
        let kept = self.store.change_peer(peer, false, |p| p.last_seen_unix_ms = Some(heard));
        if let Err(error) = kept {
            tracing::warn!(error = &error as &dyn std::error::Error, "last sign of life of a peer is not stored");
        }
    }

    /// What is heard of each peer.
    pub(super) fn heard(&self) -> BTreeMap<BoxId, Heard> {
        let peers = self.store.peers();
        let links = locked(&self.links);
        let one = |p: &PeerRecord| {
            let link = links.get(&p.id);
            let last_unix_ms = link.and_then(|l| l.heard_unix_ms).or(p.last_seen_unix_ms);
            Heard { connected: link.is_some_and(|l| !l.connections.is_empty()), last_unix_ms }
        };
        peers.iter().map(|p| (p.id, one(p))).collect()
    }

    /// Tells of a peer whose cache is much slower than this box's, if groups are mirrored to it.
    fn watch_speed(&self, peer: BoxId, theirs: u64) {
        let ours = self.write_rate.load(Ordering::Relaxed);
        // Not measured yet, here or there: no finding.
        if ours == 0 || theirs == 0 {
            return;
        }
        let slower = match locked(&self.links).get_mut(&peer) {
            Some(links) => links.slower.look(theirs.saturating_mul(2) < ours),
            None => return,
        };
        let Some(record) = self.store.peer(peer) else { return };
        let feeds = self.groups_with(peer).iter().any(|(_, role)| *role == Role::Source);
        let subject = format!("peer {}", record.name);
        let found = conditions::of_speed(&record.name, slower && feeds);
        self.board.settle(&["peer-slower"], &subject, found);
    }

    /// Takes note of where a peer says it is dialled. An address that a person gave stays, and is tried first.
    fn learn_address(&self, peer: BoxId, told: &str) {
        let from = locked(&self.links).get(&peer).and_then(|l| l.connections.last().map(|c| c.from));
        let Some(address) = from.and_then(|from| dial_address(told, from)) else { return };
        let before = self.store.peer(peer).map(|p| p.addresses());
        let kept = self.store.change_peer(peer, true, |p| p.learn_address(address));
        if let Err(error) = kept {
            tracing::warn!(error = &error as &dyn std::error::Error, "address of a peer is not stored");
        }
        if let Some(record) = self.store.peer(peer).filter(|p| Some(p.addresses()) != before) {
            tracing::info!(peer = %record.name, addresses = record.addresses().join(" "), "peer says where it is");
        }
    }

    /// Whether a connection stands, and the peer's clock minus ours in seconds.
    pub(super) fn peer_link(&self, peer: BoxId) -> (bool, Option<f64>) {
        let links = locked(&self.links);
        links.get(&peer).map_or((false, None), |l| (!l.connections.is_empty(), l.clock_offset))
    }

    /// Dials a peer for commands, if its address is known and it is not dialled there already.
    pub(super) fn dial_control(&self, peer: BoxId) {
        let addresses = self.store.peer(peer).map(|p| p.addresses()).unwrap_or_default();
        if addresses.is_empty() {
            return;
        }
        let mut links = locked(&self.links);
        let links = links.entry(peer).or_default();
        match &links.dial {
            Some(dial) => dial.set_addresses(addresses),
            None => links.dial = Some(self.net.dial(DialSpec { peer, addresses, purpose: Purpose::Control })),
        }
    }

    /// A peer is there: groups that wait for it need not wait longer.
    pub(super) fn wake_groups(&self, peer: BoxId) {
        for entry in locked(&self.groups).values() {
            let of_peer =
                entry.running().is_some_and(|g| g.snapshot.borrow().meta.peer().is_some_and(|p| p.peer == peer));
            if let (true, Some(dial)) = (of_peer, &entry.dial) {
                dial.dial_now();
            }
        }
    }

    /// Has a peer do something. It has done it only where this is `Ok`.
    pub(super) async fn have_peer(
        &self,
        asking: &mut Asking,
        peer: BoxId,
        command: BoxCommand,
        time: Duration,
    ) -> Result<(), NotDone> {
        match self.ask_peer(asking, peer, command, time).await? {
            Consent::Done => Ok(()),
            Consent::BoxInfo(_) => Err(NotDone::Unknown(other_answer())),
        }
    }

    /// Tells a peer something that it need not hear.
    pub(super) async fn tell_peer(&self, asking: &mut Asking, peer: BoxId, command: BoxCommand, time: Duration) {
        if let Err(not_done) = self.have_peer(asking, peer, command, time).await {
            let why = not_done.into_error().message;
            tracing::info!(%peer, why, "peer has not taken note");
        }
    }

    async fn ask_peer(
        &self,
        _: &mut Asking,
        peer: BoxId,
        command: BoxCommand,
        time: Duration,
    ) -> Result<Consent, NotDone> {
        let name = self.store.peer(peer).map_or_else(|| peer.short(), |p| p.name.to_string());
        let unreachable = |why: String| {
            NotDone::Unknown(ApiError::new(
                ErrorCode::PeerUnreachable,
                format!("peer {name} cannot be reached{why}"),
                "check that it runs and that the network between the boxes works",
            ))
        };
        let look = || {
            let links = locked(&self.links);
            let links = links.get(&peer);
            let asks = links.and_then(|l| l.connections.last().map(|c| c.asks.clone()));
            (asks, links.and_then(|l| l.last_error.clone()))
        };
        // Just paired, or just started: neither a connection nor a failure yet.
        let until = Instant::now() + FIRST_CONTACT;
        while matches!(look(), (None, None)) && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (asks, last_error) = look();
        let Some(asks) = asks else {
            return Err(unreachable(last_error.map(|e| format!(": {e}")).unwrap_or_default()));
        };
        let (reply, answer) = oneshot::channel();
        asks.try_send(Ask { command, reply }).map_err(|_| unreachable(String::new()))?;
        match tokio::time::timeout(time, answer).await {
            Ok(Ok(Outcome::Done(_))) => Ok(Consent::Done),
            Ok(Ok(Outcome::BoxInfo(info))) => Ok(Consent::BoxInfo(info)),
            Ok(Ok(Outcome::Refused(refused))) => Err(NotDone::Refused { peer: name, refused }),
            Ok(Err(_)) => Err(unreachable(": the connection broke".to_owned())),
            Err(_) => Err(NotDone::Unknown(ApiError::new(
                ErrorCode::Timeout,
                format!("peer {name} did not answer in {} seconds", time.as_secs()),
                "try again",
            ))),
        }
    }

    /// Asks a peer about itself.
    pub(super) async fn peer_info(&self, asking: &mut Asking, peer: BoxId) -> Result<BoxInfo, ApiError> {
        let asked = clock::now().wall.get();
        let consent = self.ask_peer(asking, peer, BoxCommand::BoxInfo(BoxInfoQuery {}), INFO_TIME).await;
        let Consent::BoxInfo(info) = consent.map_err(NotDone::into_error)? else {
            return Err(other_answer());
        };
        // The peer looked at its clock somewhere between the question and the answer.
        let ours = asked / 2 + clock::now().wall.get() / 2;
        let offset = (info.wall_micros.get() as f64 - ours as f64) / 1e6;
        if let Some(links) = locked(&self.links).get_mut(&peer) {
            links.clock_offset = Some(offset);
        }
        self.learn_address(peer, &info.link_address);
        self.watch_speed(peer, info.write_rate.get());
        self.end_forgotten(asking, peer, &info).await;
        if let Some(record) = self.store.peer(peer) {
            let found = conditions::of_clock(&record.name, offset);
            self.board.settle(&["clock-offset"], &format!("peer {}", record.name), found);
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_counts_and_goes_only_when_it_stays() {
        let mut steady = Steady::default();
        let mut look = |found: &[bool]| found.iter().map(|f| steady.look(*f)).collect::<Vec<_>>();
        assert_eq!(look(&[true, true, false, true, true]), [false; 5]);
        assert_eq!(look(&[true, false, false, true]), [true; 4]);
        assert_eq!(look(&[false, false, false, true]), [true, true, false, false]);
    }

    #[test]
    fn a_box_is_dialled_back_where_it_says() {
        let check = |told: &str, from: &str, expected: Option<&str>| {
            assert_eq!(dial_address(told, from.parse().unwrap()).as_deref(), expected, "{told} from {from}");
        };
        check("", "192.0.2.7:50000", Some("192.0.2.7:3261"));
        check("0.0.0.0:4261", "192.0.2.7:50000", Some("192.0.2.7:4261"));
        check("[::]:4261", "[2001:db8::7]:50000", Some("[2001:db8::7]:4261"));
        check("[::]:4261", "[::ffff:192.0.2.7]:50000", Some("192.0.2.7:4261"));
        check("192.0.2.9:4261", "192.0.2.7:50000", Some("192.0.2.9:4261"));
        check("127.0.0.1:4261", "127.0.0.1:50000", Some("127.0.0.1:4261"));
        check("127.0.0.1:4261", "192.0.2.7:50000", None);
        check("b.example:4261", "192.0.2.7:50000", Some("b.example:4261"));
        for bad in ["b.example", "b.example:x", "b.example:0", "0.0.0.0:0", ":1", "a b:1", "a\nb:1"] {
            check(bad, "192.0.2.7:50000", None);
        }
    }
}
