//! The thread of the link: accepting, dialling, pairing.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reprise_api::strangers::{Full, Place, PlaceLimits, Strangers};
use reprise_format::link::{Close, CloseReason, Hello, HelloKind, Message, Nonce};
use reprise_link::backoff::Backoff;
use reprise_link::handshake::{GreetError, PROTOCOL_MAX, PROTOCOL_MIN, greet};
use reprise_link::pairing::{Channel, Listener, PairError, PairIdentity, PairingCode};
use reprise_types::{BoxId, BufPool, GroupId, Mono};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tracing::{debug, info, warn};

use super::connection::{self, LinkEvent, LinkHandle};
use super::dial::Race;
use super::handshake::{Greeter, NetError};
use super::peers::{PeerStanding, PeerStore};
use super::throttle::Throttle;
use super::tls::{BoxKey, fingerprint_of, server_name};

/// TCP, TLS and the greeting must be done in this time, pairing messages included: whoever is slower is cut.
const GREETING_DEADLINE: Duration = Duration::from_secs(10);

/// An address that takes a connection and does not answer is left for the next one after this time: several round trips over
/// a satellite.
const SECURE_TURN: Duration = Duration::from_secs(3);

/// Time for the first bytes of a connection, which is what a dialler begins with; and for the TLS handshake that follows. At a
/// known address a slow line has all of [`GREETING_DEADLINE`] for it.
const TLS_TIME: Duration = Duration::from_secs(3);

/// Connections that have not shown a paired key yet, and as many again from addresses of peers. At the limit somebody else
/// is closed, so that strangers can neither use up memory or file descriptors nor keep a peer away.
const PLACES: PlaceLimits = PlaceLimits { strangers: 64, kept: 64 };

/// Connections of peers: one per group and a few for control, with room for those that are being replaced.
const CONNECTIONS_MAX: usize = 512;

/// Bytes that the kernel may hold unsent: a second at 256 kbit/s, so that a heartbeat overtakes a batch on such a line
/// too, and enough for a syscall's worth on a fast one.
const NOTSENT_LOWAT: u32 = 32 << 10;

/// Without an acknowledgement by the peer's TCP for this long the kernel gives the connection up.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How the link of a box is set up.
#[derive(Clone)]
pub struct NetConfig {
    /// Where to accept; port 0 for any.
    pub listen: SocketAddr,
    /// The box's key.
    pub key: BoxKey,
    /// The box.
    pub box_id: BoxId,
    /// Its name.
    pub box_name: String,
    /// Firmware version, for people.
    pub firmware: String,
    /// Names this run of the daemon.
    pub run: Nonce,
    /// The peers.
    pub peers: Arc<dyn PeerStore>,
    /// Received payloads land here. It must hold at least the windows granted to all groups.
    pub pool: BufPool,
    /// zstd level for large payloads.
    pub zstd_level: i32,
    /// Bulk of all connections together, bytes a second; 0 for no limit.
    pub send_per_sec: u64,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Commands between boxes, presence.
    Control,
    /// Data of this group. The dialling box is its source and sends the offer; at the accepting box the offer is the
    /// first event.
    Group(GroupId),
}

impl Purpose {
    fn kind(self) -> HelloKind {
        match self {
            Self::Control => HelloKind::Control,
            Self::Group(_) => HelloKind::GroupData,
        }
    }
}

/// A greeted connection with a paired box.
#[derive(Debug)]
pub struct Connection {
    /// The box at the other end.
    pub peer: BoxId,
    /// What it said about itself.
    pub hello: Hello,
    /// Protocol version to speak.
    pub version: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// True where this box dialled.
    pub dialled: bool,
    /// The other end.
    pub address: SocketAddr,
    /// Sends.
    pub handle: LinkHandle,
    /// Receives. Ends with [`LinkEvent::Closed`].
    pub events: mpsc::Receiver<LinkEvent>,
}

/// What the node is told.
#[derive(Debug)]
pub enum NetEvent {
    /// A connection is there. An older one of the same peer and purpose is to be closed by its owner.
    Connected(Box<Connection>),
    /// Another box has been paired with this one; it dialled.
    Paired(PairIdentity),
    /// Dialling fails; told once, and again when the reason changes.
    DialFailed {
        /// The peer.
        peer: BoxId,
        /// What for.
        purpose: Purpose,
        /// Why.
        error: NetError,
    },
    /// Strangers have taken all places of the link's port.
    StrangersFull(Full),
}

/// Whom to dial and what for.
#[derive(Debug, Clone)]
pub struct DialSpec {
    /// The peer.
    pub peer: BoxId,
    /// Where it may be, each `HOST:PORT`, the likeliest first.
    pub addresses: Vec<String>,
    /// What for.
    pub purpose: Purpose,
}

/// Keeps a connection dialled; dropping it ends the dialling, not a connection that is there.
#[derive(Debug)]
pub struct DialHandle {
    peer: BoxId,
    wake: Arc<Notify>,
    addresses: watch::Sender<Vec<String>>,
}

impl DialHandle {
    /// Who is dialled.
    pub fn peer(&self) -> BoxId {
        self.peer
    }

    /// Where it may be from here on. A connection that stands is left alone.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        self.addresses.send_if_modified(|old| std::mem::replace(old, addresses) != *old);
    }

    /// Dials now if it is waiting.
    pub fn dial_now(&self) {
        self.wake.notify_one();
    }
}

/// What all tasks of the link share.
pub(super) struct Shared {
    pub(super) config: NetConfig,
    throttle: Arc<Throttle>,
    started: Instant,
    listener: Mutex<Option<Listener>>,
    events: mpsc::Sender<NetEvent>,
    strangers: Strangers,
    connections: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn mono(&self) -> Mono {
        Mono::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A code is on show. One that was used or is void is not, although its box may still repeat itself.
    pub(super) fn shows_code(&self) -> bool {
        let now = self.mono();
        let shown = |l: &Listener| l.used_by().is_none() && l.check_open(now).is_ok();
        self.with_listener(|listener| listener.as_ref().is_some_and(shown))
    }

    pub(super) fn with_listener<T>(&self, f: impl FnOnce(&mut Option<Listener>) -> T) -> T {
        f(&mut self.listener.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn identity(&self) -> PairIdentity {
        let config = &self.config;
        PairIdentity { box_id: config.box_id, name: config.box_name.clone(), fingerprint: *config.key.fingerprint() }
    }

    fn hello(&self, kind: HelloKind) -> Hello {
        let config = &self.config;
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            box_id: config.box_id,
            box_name: config.box_name.clone(),
            kind,
            firmware: config.firmware.clone(),
            run: config.run,
        }
    }

    /// Few lines, whoever knocks how often.
    fn log_refused(&self, address: SocketAddr, error: &NetError) {
        let error = error as &dyn std::error::Error;
        match self.strangers.line("refused", address.ip()) {
            Some(left_out) => warn!(%address, error, left_out, "link connection refused"),
            None => debug!(%address, error, "link connection refused"),
        }
    }
}

/// The link of a box. Dropping it closes every connection.
pub struct LinkNet {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    address: SocketAddr,
    stop: Option<watch::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LinkNet {
    /// Binds the port and starts the thread. `events` is to be drained; when it is full, accepting waits.
    pub fn start(config: NetConfig, events: mpsc::Sender<NetEvent>) -> io::Result<Self> {
        let tls = config.key.server_config().map_err(io::Error::other)?;
        // What can fail comes before the runtime: the caller may be asynchronous, and a runtime cannot be dropped there.
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
        let handle = runtime.handle().clone();
        let full = events.clone();
        // A queue that is full has more to say than this; the next one comes in ten minutes.
        let tell = move |told| drop(full.try_send(NetEvent::StrangersFull(told)));
        let shared = Arc::new(Shared {
            throttle: Arc::new(Throttle::new(config.send_per_sec)),
            config,
            started: Instant::now(),
            listener: Mutex::new(None),
            events,
            strangers: Strangers::new(PLACES, Box::new(tell)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let (stop, mut stopped) = watch::channel(());
        let (accepting, acceptor) = (shared.clone(), TlsAcceptor::from(tls));
        let thread = std::thread::Builder::new().name("link".into()).spawn(move || {
            runtime.block_on(async {
                let listener = match TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "listen on the link port");
                        return;
                    }
                };
                tokio::select! {
                    () = accept_loop(accepting, listener, acceptor) => {}
                    _ = stopped.changed() => {}
                }
            });
            // Decompression may wait for buffers whose owners are stopping too.
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Self { shared, runtime: handle, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Limits bulk of all connections together to so many bytes a second; 0 for no limit. Control is never held back.
    pub fn set_send_rate(&self, bytes_per_sec: u64) {
        self.shared.throttle.set(bytes_per_sec);
    }

    /// Where it accepts.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shows a code from now on, for ten minutes; one that was shown before is void.
    pub fn pair_listen(&self) -> Result<PairingCode, NetError> {
        let mut random = [0u8; 9];
        getrandom::fill(&mut random)
            .map_err(|error| NetError::Io { what: "draw random bytes", source: io::Error::other(error) })?;
        let code = PairingCode::from_random(random);
        let listener = Listener::new(self.shared.mono(), self.shared.identity(), code.clone());
        self.shared.with_listener(|place| *place = Some(listener));
        Ok(code)
    }

    /// Shows no code any more.
    pub fn pair_stop(&self) {
        self.shared.with_listener(|place| *place = None);
    }

    /// The box that has used the code that is shown, or why it is no longer good; none while it waits.
    pub fn pair_progress(&self) -> Option<Result<BoxId, PairError>> {
        let now = self.shared.mono();
        self.shared.with_listener(|place| match place {
            None => Some(Err(PairError::NotListening)),
            Some(listener) => listener.used_by().map(Ok).or_else(|| listener.check_open(now).err().map(Err)),
        })
    }

    /// Pairs with the box at `address`, which shows `code`.
    pub async fn pair_dial(&self, address: String, code: PairingCode) -> Result<PairIdentity, NetError> {
        let shared = self.shared.clone();
        let work = async move {
            if shared.shows_code() {
                return Err(PairError::BothListening.into());
            }
            match timeout(GREETING_DEADLINE, pair_dial(&shared, address, &code)).await {
                Ok(result) => result,
                Err(_) => Err(NetError::Timeout),
            }
        };
        self.runtime.spawn(work).await.unwrap_or(Err(NetError::Stopping))
    }

    /// Dials, and dials again whenever the connection is gone, until the handle is dropped.
    pub fn dial(&self, spec: DialSpec) -> DialHandle {
        let (wake, peer) = (Arc::new(Notify::new()), spec.peer);
        let (addresses, told) = watch::channel(spec.addresses);
        self.runtime.spawn(dial_loop(self.shared.clone(), (peer, spec.purpose), wake.clone(), told));
        DialHandle { peer, wake, addresses }
    }
}

impl Drop for LinkNet {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let raw = socket2::SockRef::from(socket);
    raw.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    raw.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))
}

fn channel_of(stream: &TlsStream<TcpStream>) -> Result<Channel, NetError> {
    let (_, tls) = stream.get_ref();
    let certificate = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(NetError::WrongKey)?;
    let peer_fingerprint = fingerprint_of(certificate).map_err(|source| NetError::Tls { source })?;
    let label = b"EXPORTER-reprise-pairing";
    let exporter = match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0u8; 32], label, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0u8; 32], label, None),
    }
    .map_err(|source| NetError::Tls { source })?;
    Ok(Channel { exporter, peer_fingerprint })
}

async fn accept_loop(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                warn!(error = &error as &dyn std::error::Error, "accept link connection");
                sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let place = shared.strangers.enter(address.ip(), false);
        let (shared, acceptor) = (shared.clone(), acceptor.clone());
        tokio::spawn(async move {
            let greeting = tokio::select! {
                greeting = timeout(GREETING_DEADLINE, accept(&shared, socket, address, acceptor, &place)) => greeting,
                () = place.pushed_out() => Ok(Err(NetError::Crowded)),
            };
            drop(place);
            let error = match greeting {
                Ok(Ok(Some(event))) => {
                    let _ = shared.events.send(event).await;
                    return;
                }
                Ok(Ok(None)) => return,
                Ok(Err(error)) => error,
                Err(_) => NetError::Timeout,
            };
            shared.log_refused(address, &error);
        });
    }
}

async fn accept(
    shared: &Arc<Shared>,
    socket: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    place: &Place,
) -> Result<Option<NetEvent>, NetError> {
    tune(&socket).map_err(|source| NetError::Io { what: "set up the socket", source })?;
    let time = if shared.strangers.knows(address.ip()) { GREETING_DEADLINE } else { TLS_TIME };
    match timeout(time, socket.peek(&mut [0])).await {
        Ok(Ok(0)) => return Err(NetError::PeerClosed),
        Ok(Ok(_)) => place.heard(),
        Ok(Err(source)) => return Err(NetError::Io { what: "wait for the first bytes", source }),
        Err(_) => return Err(NetError::Timeout),
    }
    let handshake = timeout(time, acceptor.accept(socket)).await.map_err(|_| NetError::Timeout)?;
    let stream = TlsStream::from(handshake.map_err(NetError::from_tls)?);
    let channel = channel_of(&stream)?;
    let mut greeter = Greeter::new(stream);
    let hello = match greeter.receive().await? {
        Message::Hello(hello) => hello,
        other => return Err(NetError::Unexpected { kind: other.kind() }),
    };
    let local = shared.hello(hello.kind);
    let peer = shared.config.peers.by_key(&channel.peer_fingerprint);
    let pinned = peer.as_ref().map(|peer| peer.identity.box_id);
    let version = match greet(&local, &hello, pinned) {
        Ok(version) => version,
        Err(error) => {
            greeter.refuse(Close { reason: close_reason(&error), detail: error.to_string(), trouble: None }).await;
            return Err(error.into());
        }
    };
    if peer.is_some() {
        place.settle();
    }
    greeter.send(local).await?;
    if hello.kind == HelloKind::Pairing {
        return super::pairing::listen(shared, greeter, &channel).await.map(|peer| Some(NetEvent::Paired(peer)));
    }
    let mut paired = None;
    if let Some(mut peer) = peer.filter(|peer| peer.standing == PeerStanding::Prepared) {
        // It has our key pinned, so it has stored us: that is its commit.
        peer.standing = PeerStanding::Paired;
        paired = Some(peer.identity.clone());
        shared.config.peers.store(peer).map_err(NetError::Store)?;
    }
    if let Some(identity) = paired {
        info!(peer = %identity.box_id, name = identity.name, "paired, completed by its first connection");
        let _ = shared.events.send(NetEvent::Paired(identity)).await;
    }
    let (purpose, first) = match hello.kind {
        HelloKind::GroupData => match greeter.receive().await? {
            Message::GroupOffer(offer) => (Purpose::Group(offer.group), vec![Message::from(offer)]),
            other => return Err(NetError::Unexpected { kind: other.kind() }),
        },
        _ => (Purpose::Control, vec![]),
    };
    let Ok(permit) = shared.connections.clone().try_acquire_owned() else {
        greeter.refuse(Close { reason: CloseReason::Busy, detail: "too many connections".into(), trouble: None }).await;
        return Err(NetError::Timeout);
    };
    let (connection, _) = started(shared, greeter, first, hello, version, purpose, false, address, permit);
    Ok(Some(NetEvent::Connected(Box::new(connection))))
}

fn close_reason(error: &GreetError) -> CloseReason {
    match error {
        GreetError::Version { .. } => CloseReason::VersionMismatch,
        GreetError::Myself => CloseReason::SelfConnection,
        GreetError::UnknownPeer { .. } | GreetError::Identity { .. } => CloseReason::UnknownPeer,
        GreetError::Kind { .. } => CloseReason::ProtocolViolation,
    }
}

struct Over {
    healthy: Arc<std::sync::atomic::AtomicBool>,
    over: watch::Receiver<()>,
}

#[allow(clippy::too_many_arguments)]
fn started(
    shared: &Shared,
    greeter: Greeter,
    first: Vec<Message>,
    hello: Hello,
    version: u32,
    purpose: Purpose,
    dialled: bool,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> (Connection, Over) {
    let (stream, left_over) = greeter.into_parts();
    let config = &shared.config;
    let started =
        connection::start(stream, left_over, first, config.pool.clone(), config.zstd_level, shared.throttle.clone());
    let (ended, over) = watch::channel(());
    tokio::spawn(async move {
        let _ = started.over.await;
        drop((permit, ended));
    });
    let peer = hello.box_id;
    let connection =
        Connection { peer, hello, version, purpose, dialled, address, handle: started.handle, events: started.events };
    (connection, Over { healthy: started.healthy, over })
}

/// A secured connection to the box, at whichever of its addresses it is found first.
async fn connect(
    shared: &Shared,
    addresses: &[String],
    pinned: Option<super::Fingerprint>,
) -> Result<(Greeter, Channel, SocketAddr), NetError> {
    let mut race = Race::new(addresses);
    let mut failed = None;
    loop {
        let socket = match race.next().await {
            Ok((socket, _)) => socket,
            // Whoever answered and was not the box says more than an address where nobody is.
            Err(error) => return Err(failed.unwrap_or(error)),
        };
        let turn = if race.has_more() { SECURE_TURN } else { GREETING_DEADLINE };
        match timeout(turn, secure(shared, socket, pinned)).await.unwrap_or(Err(NetError::Timeout)) {
            Ok(secured) => return Ok(secured),
            Err(error) => failed = Some(error),
        }
    }
}

async fn secure(
    shared: &Shared,
    socket: TcpStream,
    pinned: Option<super::Fingerprint>,
) -> Result<(Greeter, Channel, SocketAddr), NetError> {
    let setup = |source| NetError::Io { what: "set up the socket", source };
    tune(&socket).map_err(setup)?;
    let peer_address = socket.peer_addr().map_err(setup)?;
    let tls = shared.config.key.client_config(pinned).map_err(|source| NetError::Tls { source })?;
    let name = server_name().map_err(|source| NetError::Tls { source })?;
    let stream = TlsConnector::from(tls).connect(name, socket).await.map_err(NetError::from_tls)?;
    let stream = TlsStream::from(stream);
    let channel = channel_of(&stream)?;
    Ok((Greeter::new(stream), channel, peer_address))
}

async fn exchange_hello(
    shared: &Shared,
    greeter: &mut Greeter,
    kind: HelloKind,
    pinned: Option<BoxId>,
) -> Result<(Hello, u32), NetError> {
    let local = shared.hello(kind);
    greeter.send(local.clone()).await?;
    match greeter.receive().await? {
        Message::Hello(hello) => {
            let version = greet(&local, &hello, pinned)?;
            Ok((hello, version))
        }
        other => Err(NetError::Unexpected { kind: other.kind() }),
    }
}

async fn pair_dial(shared: &Shared, address: String, code: &PairingCode) -> Result<PairIdentity, NetError> {
    let (mut greeter, channel, _) = connect(shared, &[address], None).await?;
    if channel.peer_fingerprint == *shared.config.key.fingerprint() {
        return Err(PairError::SelfPairing.into());
    }
    exchange_hello(shared, &mut greeter, HelloKind::Pairing, None).await?;
    super::pairing::dial(shared, greeter, &channel, code).await
}

async fn dial_once(
    shared: &Shared,
    (peer, purpose): (BoxId, Purpose),
    addresses: &[String],
) -> Result<(Connection, Over), NetError> {
    let known = shared.config.peers.by_box(&peer).ok_or(NetError::UnknownPeer)?;
    let permit = shared.connections.clone().try_acquire_owned().map_err(|_| NetError::Timeout)?;
    let (mut greeter, _, address) = connect(shared, addresses, Some(known.identity.fingerprint)).await?;
    let (hello, version) = exchange_hello(shared, &mut greeter, purpose.kind(), Some(peer)).await?;
    shared.strangers.remember(address.ip());
    Ok(started(shared, greeter, vec![], hello, version, purpose, true, address, permit))
}

/// Waits until nobody wants the connection any more.
async fn unwanted(addresses: &mut watch::Receiver<Vec<String>>) {
    while addresses.changed().await.is_ok() {}
}

async fn dial_loop(
    shared: Arc<Shared>,
    whom: (BoxId, Purpose),
    wake: Arc<Notify>,
    mut addresses: watch::Receiver<Vec<String>>,
) {
    let (peer, purpose) = whom;
    let mut backoff = Backoff::default();
    let mut told: Option<String> = None;
    loop {
        let at = addresses.borrow_and_update().clone();
        for known in at.iter().filter_map(|address| address.parse::<SocketAddr>().ok()) {
            shared.strangers.remember(known.ip());
        }
        let attempt = tokio::select! {
            attempt = timeout(GREETING_DEADLINE, dial_once(&shared, whom, &at)) => attempt,
            changed = addresses.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match attempt.unwrap_or(Err(NetError::Timeout)) {
            Ok((connection, mut over)) => {
                told = None;
                if shared.events.send(NetEvent::Connected(Box::new(connection))).await.is_err() {
                    return;
                }
                tokio::select! {
                    _ = over.over.changed() => {}
                    () = unwanted(&mut addresses) => return,
                }
                if over.healthy.load(std::sync::atomic::Ordering::Relaxed) {
                    backoff.reset();
                }
            }
            Err(error) => {
                let text = error_chain(&error);
                if told.as_ref() != Some(&text) {
                    info!(%peer, addresses = at.join(" "), error = text, "dial");
                    told = Some(text);
                    let failed = NetEvent::DialFailed { peer, purpose, error };
                    if shared.events.send(failed).await.is_err() {
                        return;
                    }
                }
            }
        }
        let delay = backoff.next_delay_ms(getrandom::u32().unwrap_or(0));
        tokio::select! {
            () = sleep(Duration::from_millis(delay)) => {}
            () = wake.notified() => {}
            changed = addresses.changed() => if changed.is_err() { return },
        }
    }
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
