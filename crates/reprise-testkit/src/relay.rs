//! A TCP relay whose line can be cut, paused, delayed and slowed while it runs.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// State of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// Bytes pass.
    Up,
    /// Bytes wait, nothing is lost: the line is slow for ever until it is up again.
    Paused,
    /// Connections are reset at once, and so is every new one.
    Reset,
    /// Bytes vanish and nobody is told. Connections that lived through this are reset when the line is up again, since bytes
    /// are missing in them.
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct Controls {
    line: Line,
    /// How often connections were cut for good: those older than the number end.
    cuts: u64,
    delay: Duration,
    /// Bytes per second, each way.
    rate: Option<u64>,
}

/// Bytes passed to the target and back.
#[derive(Debug, Default)]
struct Counters {
    forth: AtomicU64,
    back: AtomicU64,
}

/// A running relay; stops when dropped.
pub struct Relay {
    address: SocketAddr,
    controls: Arc<watch::Sender<Controls>>,
    counters: Arc<Counters>,
    accept: JoinHandle<()>,
}

/// Chunks under way per direction and connection: with 64 KiB each enough for 1 Gbit/s at 200 ms.
const CHUNKS_MAX: usize = 512;
const CHUNK: usize = 64 << 10;

impl Relay {
    /// Listens on a free loopback port and relays to `target`.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        Self::start_at("127.0.0.1:0".parse().map_err(io::Error::other)?, target).await
    }

    /// Listens on `listen` and relays to `target`.
    pub async fn start_at(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let controls = Controls { line: Line::Up, cuts: 0, delay: Duration::ZERO, rate: None };
        let controls = Arc::new(watch::Sender::new(controls));
        let counters = Arc::new(Counters::default());
        let accept = tokio::spawn(accept(listener, target, controls.clone(), counters.clone()));
        Ok(Self { address, controls, counters, accept })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line.
    pub fn set_line(&self, line: Line) {
        self.controls.send_modify(|c| {
            if line == Line::Reset || (c.line == Line::Silent && line != Line::Silent) {
                c.cuts += 1;
            }
            c.line = line;
        });
    }

    /// Resets the connections there are; new ones pass.
    pub fn cut_once(&self) {
        self.controls.send_modify(|c| c.cuts += 1);
    }

    /// Sets the round-trip time that the relay adds; half of it each way.
    pub fn set_round_trip(&self, time: Duration) {
        self.controls.send_modify(|c| c.delay = time / 2);
    }

    /// Sets the rate in bytes per second, each way, over all connections; none for no limit.
    pub fn set_rate(&self, rate: Option<u64>) {
        self.controls.send_modify(|c| c.rate = rate.filter(|r| *r > 0));
    }

    /// Bytes passed to the target and back so far.
    pub fn passed(&self) -> (u64, u64) {
        (self.counters.forth.load(Ordering::Relaxed), self.counters.back.load(Ordering::Relaxed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept.abort();
        self.controls.send_modify(|c| c.cuts = u64::MAX);
    }
}

/// When the line has sent what it was given, per direction: the clock of the rate limit.
type Busy = Arc<Mutex<Instant>>;

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    controls: Arc<watch::Sender<Controls>>,
    counters: Arc<Counters>,
) {
    let (forth, back): (Busy, Busy) = (Arc::new(Mutex::new(Instant::now())), Arc::new(Mutex::new(Instant::now())));
    while let Ok((client, _)) = listener.accept().await {
        let watch = controls.subscribe();
        let (forth, back, counters) = (forth.clone(), back.clone(), counters.clone());
        tokio::spawn(async move {
            let Controls { line, cuts, .. } = *watch.borrow();
            if line == Line::Reset {
                let _ = client.set_zero_linger();
                return;
            }
            if line == Line::Silent {
                let mut watch = watch;
                let _ = client.set_zero_linger();
                let _ = watch.wait_for(|c| c.cuts > cuts).await;
                return;
            }
            let Ok(server) = TcpStream::connect(target).await else {
                let _ = client.set_zero_linger();
                return;
            };
            connection(client, server, watch, forth, back, counters).await;
        });
    }
}

async fn connection(
    mut client: TcpStream,
    mut server: TcpStream,
    mut watch: watch::Receiver<Controls>,
    forth: Busy,
    back: Busy,
    counters: Arc<Counters>,
) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    // Until an end is passed on, losing a socket means a reset.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
    let Controls { cuts, .. } = *watch.borrow();
    let watches = (watch.clone(), watch.clone());
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let a = direction(client_read, server_write, forth, watches.0, |n| counters.add(true, n));
    let b = direction(server_read, client_write, back, watches.1, |n| counters.add(false, n));
    // The first error ends both directions: both sockets are dropped, and so reset.
    let both = async { tokio::try_join!(a, b) };
    let cut = watch.wait_for(|c| c.cuts > cuts);
    tokio::select! {
        _ = both => {}
        _ = cut => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    }
}

impl Counters {
    fn add(&self, forth: bool, bytes: usize) {
        let counter = if forth { &self.forth } else { &self.back };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// One direction of a connection, until its end; a clean end is passed on.
async fn direction(
    mut read: ReadHalf<'_>,
    mut write: WriteHalf<'_>,
    busy: Busy,
    mut watch: watch::Receiver<Controls>,
    count: impl Fn(usize),
) -> Result<(), ()> {
    let (tx, mut rx) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let input_watch = watch.clone();
    let input = async move {
        let mut spare: VecDeque<Vec<u8>> = VecDeque::new();
        loop {
            let mut chunk = spare.pop_front().unwrap_or_else(|| vec![0; CHUNK]);
            let len = match read.read(&mut chunk).await {
                Ok(len) if len > 0 => len,
                // On a silent line the end is not heard either; the cut takes this task away.
                _ if input_watch.borrow().line == Line::Silent => std::future::pending().await,
                end => return end.map(drop).map_err(drop),
            };
            let controls = *input_watch.borrow();
            if controls.line == Line::Silent {
                spare.push_back(chunk);
                continue;
            }
            chunk.truncate(len);
            if tx.send((Instant::now() + controls.delay, chunk)).await.is_err() {
                return Err(());
            }
        }
    };
    let output = async {
        while let Some((due, chunk)) = rx.recv().await {
            sleep_until(due).await;
            let Ok(controls) = watch.wait_for(|c| c.line != Line::Paused).await.map(|c| *c) else { return Err(()) };
            if controls.line == Line::Silent {
                continue;
            }
            if let Some(rate) = controls.rate {
                let time = Duration::from_secs_f64(chunk.len() as f64 / rate as f64);
                let sent = {
                    let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
                    *busy = (*busy).max(Instant::now()) + time;
                    *busy
                };
                sleep_until(sent).await;
            }
            write.write_all(&chunk).await.map_err(drop)?;
            count(chunk.len());
        }
        watch.wait_for(|c| c.line == Line::Up).await.map(drop).map_err(drop)
    };
    tokio::try_join!(input, output)?;
    let socket: &TcpStream = write.as_ref();
    let _ = socket2::SockRef::from(socket).set_linger(None);
    write.shutdown().await.map_err(drop)
}
