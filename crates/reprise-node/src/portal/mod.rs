//! The iSCSI portal: accepts initiators, answers discovery, and gives each session to the thread of its group.

mod gate;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reprise_api::strangers::TellFull;
use reprise_iscsi::{Acl, Challenge, Config, Connection, Output, Peek, RecvTarget, Target, peek_login_target};
use reprise_scsi::{AluaState, LunMap, TargetPort};
use reprise_types::BoxId;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

pub use gate::{GateLimits, Visit};

use crate::clock;
use crate::group::Command;
use gate::Gate;

/// Time for the header of the first PDU. An initiator sends it as soon as it is connected.
const FIRST_BYTES_TIME: Duration = Duration::from_secs(3);
/// Time for the first login request.
const LOGIN_TIME: Duration = Duration::from_secs(15);
/// Header of a PDU.
const HEADER_LEN: usize = 48;
/// Between two looks at a PDU that comes in pieces.
const PEEK_AGAIN: Duration = Duration::from_millis(5);
/// Largest first login PDU.
const PEEK_MAX: usize = HEADER_LEN + 8192;

/// Where sessions for a target go.
#[derive(Debug, Clone)]
pub struct Route {
    /// iSCSI name.
    pub name: String,
    /// Who may see it.
    pub acl: Acl,
    /// Its portal addresses; none: where the initiator connected.
    pub addresses: Vec<String>,
    /// The group's thread.
    pub commands: mpsc::Sender<Command>,
}

/// The targets, shared with whoever changes them.
#[derive(Debug, Clone)]
pub struct Targets {
    offered: Arc<Mutex<Offered>>,
    group_tag: u16,
}

/// What there is, and how the names begin of what will be there again.
#[derive(Debug, Clone, Default)]
struct Offered {
    routes: Vec<Route>,
    away: Vec<String>,
}

/// Portal group tag of a box, from 1 to 32767: the two boxes of a pair are reached through different portal groups of one
/// target.
pub fn group_tag(id: BoxId) -> u16 {
    let [first, second, ..] = id.as_bytes();
    (u16::from_be_bytes([*first, *second]) & 0x7fff).max(1)
}

impl Targets {
    /// No target yet.
    pub fn of_box(id: BoxId) -> Self {
        Self { offered: Arc::default(), group_tag: group_tag(id) }
    }

    /// Replaces all routes, and how the names begin of targets that are away for now.
    pub fn set(&self, routes: Vec<Route>, away: Vec<String>) {
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Offered { routes, away };
    }

    /// True if a rule names the address.
    fn expect(&self, address: IpAddr) -> bool {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).routes.iter().any(|r| r.acl.expects(address))
    }

    fn get(&self) -> Offered {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sockets that listen. Connections wait in them until [`Door::open`]: a login that came before the targets were there would be
/// refused, and an initiator that logs in for the first time asks no more.
#[derive(Debug)]
pub struct Door {
    addresses: Vec<SocketAddr>,
    listeners: Vec<StdListener>,
}

/// The running portal. Dropping it closes its sockets.
#[derive(Debug)]
pub struct Portal {
    addresses: Vec<SocketAddr>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Portal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Door {
    /// Listens at every address.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn at(listen: &[SocketAddr]) -> io::Result<Self> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for &address in listen {
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            let all_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            if address.is_ipv6() && listen.contains(&all_v4) {
                // Else `[::]` takes IPv4 as well and the two exclude each other.
                socket.set_only_v6(true)?;
            }
            let error = |e: io::Error| io::Error::new(e.kind(), format!("listen at {address}: {e}"));
            socket.bind(&address.into()).map_err(error)?;
            socket.listen(128).map_err(error)?;
            socket.set_nonblocking(true)?;
            let listener: StdListener = socket.into();
            addresses.push(listener.local_addr()?);
            listeners.push(listener);
        }
        Ok(Self { addresses, listeners })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves the targets, on a thread of its own; `tell` is told when strangers have taken all places.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn open(self, targets: &Targets, limits: GateLimits, tell: TellFull) -> io::Result<Portal> {
        let Self { addresses, listeners } = self;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("portal").enable_all().build()?;
        let gate = Gate::new(limits, tell);
        for listener in listeners {
            let (targets, gate) = (targets.clone(), gate.clone());
            runtime.spawn(async move {
                match TcpListener::from_std(listener) {
                    Ok(listener) => accept(listener, targets, gate).await,
                    Err(error) => tracing::error!(%error, "portal cannot listen"),
                }
            });
        }
        Ok(Portal { addresses, runtime: Some(runtime) })
    }
}

impl Portal {
    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

async fn accept(listener: TcpListener, targets: Targets, gate: Gate) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok((stream, from)) => (stream, from.ip().to_canonical()),
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "initiator cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(visit) = gate.enter(clock::now().mono, from, targets.expect(from)) else { continue };
        let targets = targets.clone();
        tokio::spawn(async move {
            let pushed_out = visit.pushed_out();
            tokio::select! {
                greeted = timeout(LOGIN_TIME, greet(stream, visit, targets)) => {
                    if let Ok(Err(error)) = greeted {
                        tracing::debug!(%error, "initiator went away before it logged in");
                    }
                }
                () = pushed_out => {}
            }
        });
    }
}

/// Waits for the header of the first PDU, which stays in the socket.
async fn wait_for_header(stream: &TcpStream) -> io::Result<()> {
    let until = Instant::now() + FIRST_BYTES_TIME;
    let mut buf = [0; HEADER_LEN];
    loop {
        timeout_at(until, stream.readable()).await??;
        match stream.peek(&mut buf).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            HEADER_LEN.. => return Ok(()),
            _ if Instant::now() >= until => return Err(io::ErrorKind::TimedOut.into()),
            // The socket stays readable: wait for more without spinning.
            _ => tokio::time::sleep(PEEK_AGAIN).await,
        }
    }
}

/// Looks at the first login request without taking it, and sends the connection where it belongs.
async fn greet(stream: TcpStream, visit: Visit, targets: Targets) -> io::Result<()> {
    wait_for_header(&stream).await?;
    visit.heard();
    let mut buf = vec![0; PEEK_MAX];
    let mut seen = 0;
    loop {
        stream.readable().await?;
        let have = stream.peek(&mut buf).await?;
        if have == 0 {
            return Ok(());
        }
        match peek_login_target(&buf[..have]) {
            Peek::NeedMore if have < PEEK_MAX => {
                if have == seen {
                    // The socket stays readable: wait for more without spinning.
                    tokio::time::sleep(PEEK_AGAIN).await;
                }
                seen = have;
            }
            Peek::Target(name) => {
                let route = targets.get().routes.into_iter().find(|r| r.name.eq_ignore_ascii_case(&name));
                return match route {
                    Some(route) => {
                        let stream = stream.into_std()?;
                        route.commands.send(Command::Iscsi(stream, visit)).await.map_err(io::Error::other)
                    }
                    None => discovery(stream, &visit, &targets).await,
                };
            }
            Peek::Discovery | Peek::Invalid | Peek::NeedMore => return discovery(stream, &visit, &targets).await,
        }
    }
}

/// Serves discovery, and refuses properly what names no target of ours.
async fn discovery(stream: TcpStream, visit: &Visit, targets: &Targets) -> io::Result<()> {
    let target = |r: Route| {
        let port = TargetPort {
            target_name: r.name.clone(),
            group: 1,
            relative_port: 1,
            alua: AluaState::ActiveOptimized,
            peer: None,
        };
        let luns = LunMap::new(port, []).map_err(io::Error::other)?;
        Ok(Target { name: r.name, alias: None, addresses: r.addresses, moved: None, acl: r.acl, luns })
    };
    let Offered { routes, away } = targets.get();
    let list = routes.into_iter().map(target).collect::<io::Result<Vec<_>>>()?;
    let portal = Arc::new(reprise_iscsi::Portal { group_tag: targets.group_tag, targets: list, away });
    let local = stream.local_addr()?.to_string();
    let mut stream = stream;
    let config = Config { from: Some(visit.from()), ..Config::new(portal, local, 1, challenge()?) };
    let mut connection = Connection::new(config, clock::now().mono);
    loop {
        while let Some(output) = connection.poll_output() {
            if let Output::Close(reason) = output {
                visit.tell_refused(reason);
                return stream.shutdown().await;
            }
        }
        let mut out = Vec::new();
        {
            let mut slices = [io::IoSlice::new(&[]); 16];
            let count = connection.gather(&mut slices);
            slices[..count].iter().for_each(|s| out.extend_from_slice(s));
        }
        if !out.is_empty() {
            stream.write_all(&out).await?;
            connection.sent(clock::now().mono, out.len());
            continue;
        }
        stream.readable().await?;
        let read = match connection.recv_target() {
            RecvTarget::Staging(buf) | RecvTarget::Payload(buf) => stream.try_read(buf),
            RecvTarget::Blocked | RecvTarget::Closed => return Ok(()),
        };
        match read {
            Ok(0) => return Ok(()),
            Ok(n) => connection.received(clock::now().mono, n),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

/// A challenge for one connection.
pub(crate) fn challenge() -> io::Result<Challenge> {
    let mut random = [0; 33];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    Ok(Challenge::from_random(random))
}
