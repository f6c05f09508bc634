//! One connection after its greeting: a reader and a writer, with bounded queues to and from the owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reprise_format::link::{Frame, Message, MessageKind, Stream};
use reprise_link::mux::{AssembleError, Assembler, CONTROL_QUEUE_MAX, Muxer, Payload, headroom};
use reprise_types::{BufPool, PoolBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_rustls::TlsStream;

use super::NetError;
use super::compress::{COMPRESS_BYTES_MIN, Compressor, inflate};
use super::throttle::Throttle;

/// Bulk messages between the owner and the writer: enough that a burst of small ones is one turn of either thread. The owner
/// counts what it has handed over as sent, so no more.
const BULK_COMMANDS_MAX: usize = 16;

/// Small frames share a write up to here. Control that comes meanwhile waits behind it.
const WRITE_BYTES: usize = 16 << 10;

/// Payloads up to here are compressed and decompressed where they are: handing them to another thread costs more.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Events on their way to the owner; when they are many the socket is not read and the peer waits.
const EVENTS_MAX: usize = 64;

/// Compressed messages that wait to be decompressed, in order.
const INFLATING_MAX: usize = 2;

/// Bytes read from TLS at a time.
const READ_BYTES: usize = 64 << 10;

/// How long to wait when the buffer pool is empty. Credit keeps that from happening; it must only not be fatal.
pub(super) const POOL_RETRY: Duration = Duration::from_millis(2);

/// How long a last message may take to go out when the owner closes.
const CLOSE_LINGER: Duration = Duration::from_secs(2);

/// What comes from a connection.
#[derive(Debug)]
// The large variant is the one that comes all the time; a box for each would be an allocation per message.
#[allow(clippy::large_enum_variant)]
pub enum LinkEvent {
    /// A message, with its payload if its kind has one: in an aligned buffer, behind as much room as
    /// [`headroom`] says.
    Message {
        /// The message.
        message: Message,
        /// What stands beside it.
        payload: Option<PoolBuf>,
    },
    /// The connection is over; nothing comes after it.
    Closed {
        /// Why; none where this end closed it.
        error: Option<NetError>,
    },
}

/// What a connection has carried, for status and metrics.
#[derive(Debug, Default)]
pub struct LinkCounters {
    /// Bytes of frames written, before TLS.
    pub bytes_out: AtomicU64,
    /// Bytes of frames read, after TLS.
    pub bytes_in: AtomicU64,
    /// Payload bytes handed over for sending, before compression.
    pub payload_out: AtomicU64,
    /// Payload bytes received, after decompression.
    pub payload_in: AtomicU64,
}

#[derive(Debug)]
struct Bulk {
    message: Message,
    /// The payload, in pieces.
    pieces: Vec<Bytes>,
    len: usize,
}

impl Bulk {
    /// The payload in one piece. Made here and not by the owner, whose thread has no time for copies.
    fn whole(self) -> (Message, Bytes) {
        let payload = match <[Bytes; 1]>::try_from(self.pieces) {
            Ok([whole]) => whole,
            Err(pieces) => {
                let mut whole = BytesMut::with_capacity(self.len);
                pieces.iter().for_each(|p| whole.extend_from_slice(p));
                whole.freeze()
            }
        };
        (self.message, payload)
    }
}

/// Sends on one connection. Dropping it, or [`Self::close`], ends the connection after the control messages that were
/// queued have gone out; bulk is given up.
#[derive(Debug)]
pub struct LinkHandle {
    control: mpsc::Sender<Message>,
    bulk: mpsc::Sender<Bulk>,
    healthy: Arc<AtomicBool>,
    counters: Arc<LinkCounters>,
}

impl LinkHandle {
    /// Queues a control message. False where the queue is full or the connection is over: it cannot be saved then, drop
    /// it.
    pub fn send_control(&self, message: Message) -> bool {
        debug_assert!(message.kind().stream() == Stream::Control);
        self.control.try_send(message).is_ok()
    }

    /// Queues a bulk message; false, and nothing queued, where there is no room or the connection is over.
    #[must_use]
    pub fn try_send_bulk(&self, message: Message, pieces: Vec<Bytes>) -> bool {
        debug_assert!(message.kind().stream() == Stream::Bulk);
        let len = pieces.iter().map(Bytes::len).sum();
        let queued = self.bulk.try_send(Bulk { message, pieces, len }).is_ok();
        if queued {
            self.counters.payload_out.fetch_add(len as u64, Ordering::Relaxed);
        }
        queued
    }

    /// True where [`Self::try_send_bulk`] has room.
    pub fn has_bulk_room(&self) -> bool {
        self.bulk.capacity() > 0
    }

    /// Waits for room; false when the connection is over.
    pub async fn bulk_room(&self) -> bool {
        self.bulk.reserve().await.is_ok()
    }

    /// The handshake of the group, or of the boxes, is through: should this connection break, dialling starts over with
    /// the shortest wait.
    pub fn set_healthy(&self) {
        self.healthy.store(true, Ordering::Relaxed);
    }

    /// What it has carried.
    pub fn counters(&self) -> &Arc<LinkCounters> {
        &self.counters
    }

    /// Ends the connection.
    pub fn close(self) {}
}

/// A connection's outer end.
pub(super) struct Started {
    pub(super) handle: LinkHandle,
    pub(super) events: mpsc::Receiver<LinkEvent>,
    pub(super) healthy: Arc<AtomicBool>,
    /// Ends when the connection is over.
    pub(super) over: JoinHandle<()>,
}

/// Starts reader and writer. `left_over` was read behind the greeting.
pub(super) fn start(
    stream: TlsStream<TcpStream>,
    left_over: Vec<u8>,
    first: Vec<Message>,
    pool: BufPool,
    zstd_level: i32,
    throttle: Arc<Throttle>,
) -> Started {
    let (control_tx, control_rx) = mpsc::channel(CONTROL_QUEUE_MAX / 2);
    let (bulk_tx, bulk_rx) = mpsc::channel(BULK_COMMANDS_MAX);
    let (event_tx, event_rx) = mpsc::channel(EVENTS_MAX);
    let healthy = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(LinkCounters::default());
    let (read_half, write_half) = tokio::io::split(stream);
    let reader = Reader { stream: read_half, events: event_tx.clone(), pool, counters: counters.clone() };
    let writer = Writer {
        stream: write_half,
        control: control_rx,
        bulk: bulk_rx,
        throttle,
        zstd_level,
        counters: counters.clone(),
    };
    let over = tokio::spawn(async move {
        for message in first {
            // The channel is empty and longer than what was read with the greeting.
            let _ = event_tx.send(LinkEvent::Message { message, payload: None }).await;
        }
        // Whichever ends first ends the connection: the other is dropped with its half of the socket.
        let error = tokio::select! {
            error = reader.run(left_over) => Some(error),
            result = writer.run() => result.err(),
        };
        let _ = event_tx.send(LinkEvent::Closed { error }).await;
    });
    let handle = LinkHandle { control: control_tx, bulk: bulk_tx, healthy: healthy.clone(), counters };
    Started { handle, events: event_rx, healthy, over }
}

struct Reader {
    stream: ReadHalf<TlsStream<TcpStream>>,
    events: mpsc::Sender<LinkEvent>,
    pool: BufPool,
    counters: Arc<LinkCounters>,
}

struct Inflating {
    message: Message,
    kind: MessageKind,
    payload: Payload,
}

impl Reader {
    async fn run(self, left_over: Vec<u8>) -> NetError {
        let (inflate_tx, inflate_rx) = mpsc::channel(INFLATING_MAX);
        let bulk_events = self.events.clone();
        let (pool, counters) = (self.pool.clone(), self.counters.clone());
        tokio::select! {
            error = self.read(left_over, inflate_tx) => error,
            error = deliver_bulk(inflate_rx, bulk_events, pool, counters) => error,
        }
    }

    async fn read(mut self, mut pending: Vec<u8>, bulk: mpsc::Sender<Inflating>) -> NetError {
        let mut assembler = Assembler::default();
        let mut chunk = vec![0u8; READ_BYTES];
        loop {
            let mut at = 0;
            loop {
                let (frame, used) = match Frame::decode(pending.get(at..).unwrap_or_default()) {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(error) => return AssembleError::from(error).into(),
                };
                let done = match assembler.accept(&frame, &mut |len| self.pool.try_alloc(len)) {
                    Err(AssembleError::NoBuffer { .. }) => {
                        tokio::time::sleep(POOL_RETRY).await;
                        continue;
                    }
                    Err(error) => return error.into(),
                    Ok(done) => done,
                };
                let kind = frame.kind;
                at += used;
                let Some((message, payload)) = done else { continue };
                // Control does not wait for what is being decompressed.
                let delivered = match kind.stream() {
                    Stream::Control => self.events.send(LinkEvent::Message { message, payload: None }).await.is_ok(),
                    Stream::Bulk => bulk.send(Inflating { message, kind, payload }).await.is_ok(),
                };
                if !delivered {
                    return NetError::OwnerGone;
                }
            }
            pending.drain(..at);
            match self.stream.read(&mut chunk).await {
                Ok(0) => return NetError::PeerClosed,
                Ok(len) => {
                    self.counters.bytes_in.fetch_add(len as u64, Ordering::Relaxed);
                    pending.extend_from_slice(&chunk[..len]);
                }
                Err(error) => return NetError::Io { what: "read", source: error },
            }
        }
    }
}

/// Decompresses bulk messages on a thread for that and delivers them in order.
async fn deliver_bulk(
    mut incoming: mpsc::Receiver<Inflating>,
    events: mpsc::Sender<LinkEvent>,
    pool: BufPool,
    counters: Arc<LinkCounters>,
) -> NetError {
    while let Some(Inflating { message, kind, payload }) = incoming.recv().await {
        let payload = match payload {
            Payload::None => None,
            Payload::Plain(buf) => Some(buf),
            Payload::Zstd { bytes, raw_len } if raw_len as usize <= INLINE_BYTES_MAX && has_room(&pool, raw_len) => {
                match inflate(&bytes, raw_len as usize, headroom(kind), &pool) {
                    Ok(buf) => Some(buf),
                    Err(error) => return NetError::Payload { source: Box::new(error) },
                }
            }
            Payload::Zstd { bytes, raw_len } => {
                let pool = pool.clone();
                let work = spawn_blocking(move || inflate(&bytes, raw_len as usize, headroom(kind), &pool));
                match work.await {
                    Ok(Ok(buf)) => Some(buf),
                    Ok(Err(error)) => return NetError::Payload { source: Box::new(error) },
                    Err(_) => return NetError::Stopping,
                }
            }
        };
        let len = payload.as_ref().map_or(0, |buf| buf.len() - headroom(kind));
        counters.payload_in.fetch_add(len as u64, Ordering::Relaxed);
        if events.send(LinkEvent::Message { message, payload }).await.is_err() {
            return NetError::OwnerGone;
        }
    }
    // The reader is gone, and with it the connection.
    std::future::pending().await
}

/// Decompressing waits while the pool is empty, which no task of this thread may do.
fn has_room(pool: &BufPool, raw_len: u32) -> bool {
    pool.limit().saturating_sub(pool.used()) > 4 * u64::from(raw_len)
}

struct Writer {
    stream: WriteHalf<TlsStream<TcpStream>>,
    control: mpsc::Receiver<Message>,
    bulk: mpsc::Receiver<Bulk>,
    throttle: Arc<Throttle>,
    zstd_level: i32,
    counters: Arc<LinkCounters>,
}

/// A message with its payload, and the payload compressed where that pays.
type Packed = (Message, Bytes, Option<Bytes>);
type Compressing = JoinHandle<(Option<Compressor>, Packed)>;

async fn compressed(work: &mut Option<Compressing>) -> Option<(Option<Compressor>, Packed)> {
    match work {
        Some(handle) => {
            let done = handle.await;
            *work = None;
            done.ok()
        }
        None => std::future::pending().await,
    }
}

impl Writer {
    async fn run(mut self) -> Result<(), NetError> {
        let mut muxer = Muxer::default();
        let mut compressor = Compressor::new(self.zstd_level).ok();
        let mut compressing: Option<Compressing> = None;
        let (mut control_open, mut bulk_open) = (true, true);
        let mut out = Vec::new();
        loop {
            // Frames go out at once, when the throttle allows it, or not before something comes.
            let mut wait = None;
            out.clear();
            while out.len() < WRITE_BYTES {
                // Control that has come meanwhile goes first; the throttle then pays a chunk of bulk twice, once in a while.
                while let Ok(message) = self.control.try_recv() {
                    push(&mut muxer, &message, Bytes::new(), None)?;
                }
                while bulk_open && compressing.is_none() && muxer.has_bulk_room() {
                    let Ok(bulk) = self.bulk.try_recv() else { break };
                    compressing = pack(bulk, &mut compressor, &mut muxer)?;
                }
                if let Some(Err(later)) = muxer.next_bulk_len().map(|len| self.throttle.take(len)) {
                    wait = Some(later);
                    break;
                }
                if !muxer.write_frame(&mut out) {
                    break;
                }
            }
            if !out.is_empty() {
                self.write(&out).await?;
                if !muxer.is_empty() && wait.is_none() && compressing.as_ref().is_none_or(|work| !work.is_finished()) {
                    continue;
                }
            }
            if !control_open && !bulk_open && compressing.is_none() && muxer.is_empty() {
                let _ = tokio::time::timeout(CLOSE_LINGER, self.stream.shutdown()).await;
                return Ok(());
            }
            if !muxer.is_empty() && wait.is_none() {
                wait = Some(Duration::ZERO);
            }
            tokio::select! {
                biased;
                message = self.control.recv(), if control_open => match message {
                    Some(message) => push(&mut muxer, &message, Bytes::new(), None)?,
                    None => {
                        // The owner is gone: its last control messages are out or in the muxer, bulk is given up.
                        (control_open, bulk_open, compressing) = (false, false, None);
                        muxer.abandon_bulk();
                    }
                },
                done = compressed(&mut compressing), if compressing.is_some() => {
                    let (back, packed) = done.ok_or(NetError::Stopping)?;
                    compressor = back;
                    push_packed(&mut muxer, packed)?;
                }
                bulk = self.bulk.recv(), if bulk_open && compressing.is_none() && muxer.has_bulk_room() => match bulk {
                    None => bulk_open = false,
                    Some(bulk) => compressing = pack(bulk, &mut compressor, &mut muxer)?,
                },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        let io = |source| NetError::Io { what: "write", source };
        self.stream.write_all(bytes).await.map_err(io)?;
        self.stream.flush().await.map_err(io)?;
        self.counters.bytes_out.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn push(muxer: &mut Muxer, message: &Message, payload: Bytes, compressed_from: Option<u32>) -> Result<(), NetError> {
    muxer.push(message, payload, compressed_from).map_err(|_| NetError::ControlFlood)
}

fn push_packed(muxer: &mut Muxer, (message, raw, packed): Packed) -> Result<(), NetError> {
    let raw_len = raw.len() as u32;
    match packed {
        Some(packed) => push(muxer, &message, packed, Some(raw_len)),
        None => push(muxer, &message, raw, None),
    }
}

/// Puts a bulk message into the muxer, which has room: compressed where that may pay. A long one is compressed on a thread
/// for that, which takes the compressor along; nothing overtakes it.
fn pack(bulk: Bulk, compressor: &mut Option<Compressor>, muxer: &mut Muxer) -> Result<Option<Compressing>, NetError> {
    if bulk.len > INLINE_BYTES_MAX
        && let Some(mut zstd) = compressor.take()
    {
        return Ok(Some(spawn_blocking(move || {
            let (message, raw) = bulk.whole();
            let packed = zstd.compress(&raw);
            (Some(zstd), (message, raw, packed))
        })));
    }
    let worth = bulk.len >= COMPRESS_BYTES_MIN;
    let (message, raw) = bulk.whole();
    let packed = compressor.as_mut().filter(|_| worth).and_then(|zstd| zstd.compress(&raw));
    push_packed(muxer, (message, raw, packed))?;
    Ok(None)
}
