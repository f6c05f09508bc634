//! A simulated connection: ordered bytes both ways, with what TCP lets through.
//!
//! Messages go through the real muxer, frames and assembler; TLS and compression are left out. What is lost below TCP is
//! late here, since TCP sends it again.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use reprise_format::link::{Frame, Message, Stream};
use reprise_link::mirror::MirrorSession;
use reprise_link::mux::{Assembler, Muxer, Payload};
use reprise_types::PoolBuf;

use crate::Rng;
use crate::pair::plan::FrameFault;

/// Bytes on their way, as the buffers of two sockets hold them.
pub(super) const SOCKET_BYTES: usize = 512 << 10;
/// Bytes handed to the socket at a time.
const PIECE_BYTES: usize = 64 << 10;

/// One direction.
#[derive(Default)]
pub(super) struct Way {
    muxer: Muxer,
    bulk: VecDeque<(Message, Bytes, u64)>,
    assembler: Assembler,
    inbox: Vec<u8>,
    /// Bytes sent and not arrived.
    pub(super) in_flight: usize,
    /// World time at which the last piece arrives.
    pub(super) last_arrival: u64,
    /// Pieces that wait behind a blocked way.
    pub(super) held: VecDeque<Vec<u8>>,
    /// A pump is on its way.
    pub(super) pumping: bool,
    /// The sender has closed: when all is sent, the other end hears of it.
    pub(super) closing: bool,
    /// To be done to what is sent next.
    pub(super) fault: Option<FrameFault>,
}

/// A connection between the boxes. Way n is what box n sends.
pub(super) struct Conn {
    /// The two directions.
    pub(super) ways: [Way; 2],
    /// True where the box uses it.
    pub(super) used: [bool; 2],
    /// Frames were changed: faults of the protocol are no wonder.
    pub(super) tainted: bool,
    /// Cut: nothing passes any more.
    pub(super) cut: bool,
    /// The mirror's box answers by itself: the group is not there.
    pub(super) unknown: Option<MirrorSession>,
}

impl Conn {
    /// A connection whose ends are not told yet.
    pub(super) fn new() -> Self {
        Self { ways: Default::default(), used: [false; 2], tainted: false, cut: false, unknown: None }
    }
}

impl Default for Conn {
    fn default() -> Self {
        Self::new()
    }
}

impl Way {
    /// Takes a message to be sent. False where too many control messages wait, which ends the connection.
    pub(super) fn queue(&mut self, message: Message, payload: Vec<Bytes>) -> bool {
        if message.kind().stream() == Stream::Control {
            return self.muxer.push(&message, Bytes::new(), None).is_ok();
        }
        let bytes: u64 = payload.iter().map(|p| p.len() as u64).sum();
        let payload = match payload.len() {
            0 => Bytes::new(),
            1 => payload.into_iter().next().unwrap_or_default(),
            _ => {
                let mut whole = BytesMut::with_capacity(bytes as usize);
                payload.iter().for_each(|p| whole.extend_from_slice(p));
                whole.freeze()
            }
        };
        self.bulk.push_back((message, payload, bytes));
        true
    }

    /// Moves queued bulk to the muxer where it has room; gives what the engine is to be told has left.
    pub(super) fn shift_bulk(&mut self) -> Vec<u64> {
        let mut left = Vec::new();
        while self.muxer.has_bulk_room()
            && let Some((message, payload, bytes)) = self.bulk.pop_front()
        {
            if self.muxer.push(&message, payload, None).is_err() {
                break;
            }
            left.push(bytes);
        }
        left
    }

    /// True while there is something to send.
    pub(super) fn has_more(&self) -> bool {
        !self.muxer.is_empty() || !self.bulk.is_empty()
    }

    /// The next piece for the socket.
    pub(super) fn next_piece(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut len = 0;
        while len < PIECE_BYTES {
            let mut frame = Vec::new();
            if !self.muxer.write_frame(&mut frame) {
                break;
            }
            len += frame.len();
            frames.push(frame);
        }
        if !frames.is_empty()
            && let Some(fault) = self.fault.take()
        {
            spoil(&mut frames, fault, rng);
        }
        let piece = frames.concat();
        self.in_flight += piece.len();
        piece
    }

    /// The connection is closed by the sender: control goes out, bulk does not.
    pub(super) fn close(&mut self) {
        self.bulk.clear();
        self.muxer.abandon_bulk();
        self.closing = true;
    }

    /// Bytes have come. Gives the messages they complete; none where they are no frames, which ends the connection.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Option<Vec<(Message, Bytes)>> {
        self.inbox.extend_from_slice(bytes);
        let mut out = Vec::new();
        let mut used = 0;
        let mut alloc = |len| Some(PoolBuf::unpooled(len));
        loop {
            let (frame, len) = match Frame::decode(&self.inbox[used..]) {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(_) => return None,
            };
            match self.assembler.accept(&frame, &mut alloc) {
                Ok(Some((message, Payload::Plain(buf)))) => out.push((message, buf.freeze())),
                Ok(Some((message, Payload::None))) => out.push((message, Bytes::new())),
                Ok(None) => {}
                // Compression is not simulated, so nothing is sent compressed.
                Ok(Some((_, Payload::Zstd { .. }))) | Err(_) => return None,
            }
            used += len;
        }
        self.inbox.drain(..used);
        Some(out)
    }
}

fn spoil(frames: &mut Vec<Vec<u8>>, fault: FrameFault, rng: &mut Rng) {
    let at = rng.below(frames.len() as u64) as usize;
    match fault {
        FrameFault::Flip => {
            let byte = rng.below(frames[at].len() as u64) as usize;
            frames[at][byte] ^= 1 << rng.below(8);
        }
        FrameFault::Twice => {
            let again = frames[at].clone();
            frames.insert(at, again);
        }
        FrameFault::Swap => {
            let other = rng.below(frames.len() as u64) as usize;
            frames.swap(at, other);
        }
        FrameFault::Short => {
            let len = frames[at].len() as u64;
            frames[at].truncate(rng.below(len) as usize);
        }
        FrameFault::Garbage => {
            let garbage = (0..rng.range(1, 200)).map(|_| rng.next_u64() as u8).collect();
            frames.insert(at, garbage);
        }
    }
}
