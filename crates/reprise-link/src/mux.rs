//! Messages to chunks and back: two streams over one connection, control before bulk.

use std::collections::VecDeque;

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{
    CHUNK_BYTES_MAX, CONTROL_MESSAGE_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, Message, MessageError,
    MessageKind, Stream,
};
use reprise_types::PoolBuf;

/// Control messages waiting to be sent. They are small and few; a peer that provokes more while it takes no bytes is cut.
pub const CONTROL_QUEUE_MAX: usize = 256;

/// Bulk messages in the muxer: the one being sent and the next. More would only lengthen the way of what was decided long
/// ago; the rest waits where it can still be counted.
pub const BULK_QUEUE_MAX: usize = 2;

/// A queue of the muxer is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stream:?} queue is full")]
pub struct QueueFull {
    /// Which one.
    pub stream: Stream,
}

#[derive(Debug)]
struct Outgoing {
    kind: MessageKind,
    meta: Bytes,
    payload: Bytes,
    raw_len: u32,
    zstd: bool,
    offset: usize,
}

/// Cuts messages into chunks. Between two chunks of a bulk message every control message that waits goes first.
#[derive(Debug, Default)]
pub struct Muxer {
    control: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
}

impl Muxer {
    /// Queues a message. `payload` is compressed if `compressed_from` names the length it had before.
    pub fn push(&mut self, message: &Message, payload: Bytes, compressed_from: Option<u32>) -> Result<(), QueueFull> {
        let kind = message.kind();
        let stream = kind.stream();
        let (queue, limit) = match stream {
            Stream::Control => (&mut self.control, CONTROL_QUEUE_MAX),
            Stream::Bulk => (&mut self.bulk, BULK_QUEUE_MAX),
        };
        if queue.len() >= limit {
            return Err(QueueFull { stream });
        }
        let raw_len = compressed_from.unwrap_or(payload.len() as u32);
        let zstd = compressed_from.is_some();
        queue.push_back(Outgoing { kind, meta: message.encode_meta(), payload, raw_len, zstd, offset: 0 });
        Ok(())
    }

    /// True where another bulk message may be queued.
    pub fn has_bulk_room(&self) -> bool {
        self.bulk.len() < BULK_QUEUE_MAX
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.bulk.is_empty()
    }

    /// True when a control message waits.
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Gives up all bulk, also a message of which a part has been sent: the connection is to be closed.
    pub fn abandon_bulk(&mut self) {
        self.bulk.clear();
    }

    /// Bytes of the next chunk with its header, or none: what a throttle has to pay for bulk.
    pub fn next_bulk_len(&self) -> Option<usize> {
        let next = self.bulk.front().filter(|_| self.control.is_empty())?;
        Some((next.meta.len() + next.payload.len() - next.offset).min(CHUNK_BYTES_MAX))
    }

    /// Appends the next frame to `out`; false where nothing waits.
    pub fn write_frame(&mut self, out: &mut Vec<u8>) -> bool {
        let queue = if self.control.is_empty() { &mut self.bulk } else { &mut self.control };
        let Some(message) = queue.front_mut() else {
            return false;
        };
        let total = message.meta.len() + message.payload.len();
        let len = (total - message.offset).min(CHUNK_BYTES_MAX);
        let (from, to) = (message.offset, message.offset + len);
        let split = message.meta.len();
        let start = out.len();
        out.resize(start + FRAME_HEADER_BYTES, 0);
        out.extend_from_slice(&message.meta[from.min(split)..to.min(split)]);
        out.extend_from_slice(&message.payload[from.max(split) - split..to.max(split) - split]);
        let (header, chunk) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
        let frame = Frame {
            kind: message.kind,
            stream: message.kind.stream(),
            zstd: message.zstd,
            message_len: total as u32,
            meta_len: split as u32,
            raw_len: message.raw_len,
            offset: from as u32,
            chunk,
        };
        header.copy_from_slice(&frame.encode_header());
        message.offset = to;
        if to == total {
            queue.pop_front();
        }
        true
    }
}

/// Frames do not make up a message. The connection cannot go on, except after [`AssembleError::NoBuffer`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// The bytes are no frame.
    #[error("read frame")]
    Frame(#[from] FrameError),
    /// The meta part is no message.
    #[error("read message")]
    Message(#[from] MessageError),
    /// A chunk does not continue the message that is under way.
    #[error("chunk at {offset} of a {kind:?} where {expected} was expected")]
    Chunk {
        /// Kind of the frame.
        kind: MessageKind,
        /// Its offset.
        offset: u32,
        /// The offset expected.
        expected: u32,
    },
    /// A control message is longer than any may be.
    #[error("control message of {len} bytes")]
    ControlTooLong {
        /// Its length.
        len: u32,
    },
    /// There is no buffer at the moment; the frame was not taken and is to be tried again.
    #[error("no buffer for {len} bytes")]
    NoBuffer {
        /// Bytes wanted.
        len: usize,
    },
}

/// What stands beside a message.
#[derive(Debug)]
pub enum Payload {
    /// Nothing.
    None,
    /// The payload in an aligned buffer, behind as much room as [`headroom`] says.
    Plain(PoolBuf),
    /// Compressed bytes, which become `raw_len` bytes.
    Zstd {
        /// As on the wire.
        bytes: Vec<u8>,
        /// Bytes when decompressed; within the limit.
        raw_len: u32,
    },
}

/// Room in front of the payload of a message of this kind, in bytes: that of [`ReceivedBody`] where it is a batch.
pub fn headroom(kind: MessageKind) -> usize {
    if kind == MessageKind::Batch { ReceivedBody::ROOM } else { 0 }
}

#[derive(Debug)]
struct Incoming {
    kind: MessageKind,
    zstd: bool,
    message_len: u32,
    meta_len: u32,
    raw_len: u32,
    received: u32,
    meta: Vec<u8>,
    payload: Payload,
    payload_received: usize,
}

/// Puts messages together, one under way per stream. What it holds is bounded by the limits of a frame's lengths.
#[derive(Debug, Default)]
pub struct Assembler {
    control: Option<Incoming>,
    bulk: Option<Incoming>,
}

impl Assembler {
    /// Takes a frame; returns the message that it completes. `alloc` gives aligned buffers.
    pub fn accept(
        &mut self,
        frame: &Frame<'_>,
        alloc: &mut impl FnMut(usize) -> Option<PoolBuf>,
    ) -> Result<Option<(Message, Payload)>, AssembleError> {
        let slot = match frame.stream {
            Stream::Control => &mut self.control,
            Stream::Bulk => &mut self.bulk,
        };
        if frame.stream == Stream::Control && frame.message_len > CONTROL_MESSAGE_BYTES_MAX {
            return Err(AssembleError::ControlTooLong { len: frame.message_len });
        }
        let expected = slot.as_ref().map_or(0, |incoming| incoming.received);
        let same = slot.as_ref().is_none_or(|incoming| {
            (incoming.kind, incoming.zstd, incoming.message_len, incoming.meta_len, incoming.raw_len)
                == (frame.kind, frame.zstd, frame.message_len, frame.meta_len, frame.raw_len)
        });
        if frame.offset != expected || !same {
            return Err(AssembleError::Chunk { kind: frame.kind, offset: frame.offset, expected });
        }
        let incoming = match slot {
            Some(incoming) => incoming,
            None => slot.insert(Incoming::begin(frame, alloc)?),
        };
        incoming.append(frame.chunk);
        if !frame.is_last() {
            return Ok(None);
        }
        let Some(done) = slot.take() else { return Ok(None) };
        let message = Message::decode_meta(done.kind, &done.meta)?;
        Ok(Some((message, done.payload)))
    }
}

impl Incoming {
    fn begin(frame: &Frame<'_>, alloc: &mut impl FnMut(usize) -> Option<PoolBuf>) -> Result<Self, AssembleError> {
        let sent = frame.message_len.saturating_sub(frame.meta_len) as usize;
        let payload = if sent == 0 {
            Payload::None
        } else if frame.zstd {
            Payload::Zstd { bytes: Vec::with_capacity(sent), raw_len: frame.raw_len }
        } else {
            let len = headroom(frame.kind) + sent;
            Payload::Plain(alloc(len).ok_or(AssembleError::NoBuffer { len })?)
        };
        Ok(Self {
            kind: frame.kind,
            zstd: frame.zstd,
            message_len: frame.message_len,
            meta_len: frame.meta_len,
            raw_len: frame.raw_len,
            received: 0,
            meta: Vec::new(),
            payload,
            payload_received: 0,
        })
    }

    fn append(&mut self, chunk: &[u8]) {
        let meta_left = self.meta_len as usize - self.meta.len();
        let (meta, payload) = chunk.split_at(meta_left.min(chunk.len()));
        self.meta.extend_from_slice(meta);
        let at = headroom(self.kind) + self.payload_received;
        match &mut self.payload {
            // The frame's lengths were checked, so the chunk ends within the message.
            Payload::Plain(buf) => {
                if let Some(place) = buf.get_mut(at..at + payload.len()) {
                    place.copy_from_slice(payload);
                }
            }
            Payload::Zstd { bytes, .. } => bytes.extend_from_slice(payload),
            Payload::None => {}
        }
        self.payload_received += payload.len();
        self.received += chunk.len() as u32;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reprise_format::link::{Batch, FRAME_HEADER_BYTES, Heartbeat};
    use reprise_types::Seq;

    use super::*;

    fn batch(n: u64) -> Message {
        Batch { first: Seq::from_raw(n), last: Seq::from_raw(n) }.into()
    }

    fn alloc(len: usize) -> Option<PoolBuf> {
        Some(PoolBuf::unpooled(len))
    }

    #[test]
    fn a_heartbeat_overtakes_the_rest_of_a_batch() {
        let mut muxer = Muxer::default();
        muxer.push(&batch(1), Bytes::from(vec![7u8; 100_000]), None).unwrap();
        let mut wire = Vec::new();
        assert!(muxer.write_frame(&mut wire));
        assert_eq!(wire.len(), FRAME_HEADER_BYTES + CHUNK_BYTES_MAX);
        muxer.push(&Heartbeat { id: 1, echo: 0 }.into(), Bytes::new(), None).unwrap();
        while muxer.write_frame(&mut wire) {}
        let mut assembler = Assembler::default();
        let (mut at, mut order) = (0, Vec::new());
        while let Some((frame, used)) = Frame::decode(&wire[at..]).unwrap() {
            at += used;
            if let Some((message, payload)) = assembler.accept(&frame, &mut alloc).unwrap() {
                order.push(message.kind());
                if let Payload::Plain(buf) = payload {
                    assert_eq!(buf[ReceivedBody::ROOM..], vec![7u8; 100_000]);
                }
            }
        }
        assert_eq!(order, [MessageKind::Heartbeat, MessageKind::Batch]);
    }

    #[test]
    fn queues_are_bounded() {
        let mut muxer = Muxer::default();
        for _ in 0..BULK_QUEUE_MAX {
            muxer.push(&batch(1), Bytes::from_static(b"x"), None).unwrap();
        }
        assert!(!muxer.has_bulk_room());
        assert_eq!(muxer.push(&batch(1), Bytes::new(), None), Err(QueueFull { stream: Stream::Bulk }));
        muxer.push(&Heartbeat { id: 1, echo: 0 }.into(), Bytes::new(), None).unwrap();
    }

    #[test]
    fn a_chunk_out_of_place_is_refused_and_a_missing_buffer_is_tried_again() {
        let mut muxer = Muxer::default();
        muxer.push(&batch(1), Bytes::from(vec![7u8; 40_000]), None).unwrap();
        let mut wire = Vec::new();
        while muxer.write_frame(&mut wire) {}
        let (first, used) = Frame::decode(&wire).unwrap().unwrap();
        let (second, _) = Frame::decode(&wire[used..]).unwrap().unwrap();
        let mut assembler = Assembler::default();
        let refused = assembler.accept(&second, &mut alloc);
        assert!(matches!(refused, Err(AssembleError::Chunk { .. })));
        let waits = assembler.accept(&first, &mut |_| None);
        assert!(matches!(waits, Err(AssembleError::NoBuffer { .. })));
        assert!(assembler.accept(&first, &mut alloc).unwrap().is_none());
        assert!(matches!(assembler.accept(&first, &mut alloc), Err(AssembleError::Chunk { .. })));
    }

    proptest! {
        #[test]
        fn messages_of_any_size_come_through(sizes in proptest::collection::vec(0usize..80_000, 1..6)) {
            let mut muxer = Muxer::default();
            let mut assembler = Assembler::default();
            for (n, size) in sizes.iter().enumerate() {
                let content: Vec<u8> = (0..*size).map(|i| (i * 31 + n) as u8).collect();
                muxer.push(&batch(n as u64), Bytes::from(content.clone()), None).unwrap();
                let mut wire = Vec::new();
                while muxer.write_frame(&mut wire) {}
                let (mut at, mut done) = (0, None);
                while let Some((frame, used)) = Frame::decode(&wire[at..]).unwrap() {
                    at += used;
                    prop_assert!(done.is_none());
                    done = assembler.accept(&frame, &mut alloc).unwrap();
                }
                let (message, payload) = done.expect("whole");
                prop_assert_eq!(message, batch(n as u64));
                match payload {
                    Payload::Plain(buf) => prop_assert_eq!(&buf[ReceivedBody::ROOM..], &content[..]),
                    Payload::None => prop_assert!(content.is_empty()),
                    Payload::Zstd { .. } => prop_assert!(false),
                }
            }
        }
    }
}
