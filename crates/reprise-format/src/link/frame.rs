//! The frame header: what stands in front of every chunk on the wire.

use super::MessageKind;

/// Version of the frame header. The versions of the messages are negotiated by `Hello`.
pub const WIRE_VERSION: u8 = 1;

/// Bytes of a frame header.
pub const FRAME_HEADER_BYTES: usize = 32;

/// Message bytes in one frame. At 256 kbit/s a chunk of this size takes half a second: what a heartbeat may wait behind
/// on the slowest line that is promised.
pub const CHUNK_BYTES_MAX: usize = 16 << 10;

/// Meta bytes of one message: room for a full volume table and lineage. A longer one closes the connection.
pub const META_BYTES_MAX: u32 = 256 << 10;

/// Payload bytes of one message, before compression: well above the largest batch (256 KiB collected, or one record of
/// the largest host command). It bounds what a peer can make us hold. A longer one closes the connection.
pub const PAYLOAD_BYTES_MAX: u32 = 8 << 20;

/// Bytes of a whole message on the control stream: such messages have no payload.
pub const CONTROL_MESSAGE_BYTES_MAX: u32 = META_BYTES_MAX;

const MAGIC: [u8; 4] = *b"RPLK";
const FLAG_ZSTD: u8 = 1;
const CRC_OFFSET: usize = FRAME_HEADER_BYTES - 4;

/// The two orders of messages inside one connection. Within a stream order is kept; control overtakes bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stream {
    /// Handshake, acks, credit, heartbeats, commands.
    Control = 0,
    /// Batches and copied extents, in the order in which they count.
    Bulk = 1,
}

/// One frame: a chunk of a message with what is needed to put the message together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Kind of the message.
    pub kind: MessageKind,
    /// The stream it belongs to.
    pub stream: Stream,
    /// The payload is compressed with zstd; the meta part never is.
    pub zstd: bool,
    /// Bytes of the whole message on the wire: meta and payload as sent.
    pub message_len: u32,
    /// Bytes of the meta part, which comes first.
    pub meta_len: u32,
    /// Bytes of the payload before compression.
    pub raw_len: u32,
    /// Where the chunk begins in the message.
    pub offset: u32,
    /// The chunk, at most [`CHUNK_BYTES_MAX`].
    pub chunk: &'a [u8],
}

/// Bytes on the wire are no frame. The connection cannot go on after any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Does not begin with the magic: plain text, another protocol, or lost sync.
    #[error("not a link frame: begins with {found:02x?}")]
    Magic {
        /// What stands where the magic belongs.
        found: [u8; 4],
    },
    /// A header of a version that this firmware does not know.
    #[error("frame version {found}, known is {WIRE_VERSION}")]
    Version {
        /// Version found.
        found: u8,
    },
    /// A message kind that is not known.
    #[error("unknown message kind {code}")]
    Kind {
        /// Code found.
        code: u8,
    },
    /// Flag bits that are not known.
    #[error("unknown frame flags {flags:#04x}")]
    Flags {
        /// Bits found.
        flags: u8,
    },
    /// The stream does not fit the kind.
    #[error("message kind {kind:?} on stream {stream}")]
    Stream {
        /// The kind.
        kind: MessageKind,
        /// Stream number found.
        stream: u8,
    },
    /// A length is past its limit.
    #[error("{field} is {len}, at most {limit} allowed")]
    TooLong {
        /// Which length.
        field: &'static str,
        /// Its value.
        len: u32,
        /// The limit.
        limit: u32,
    },
    /// Lengths contradict each other.
    #[error(
        "frame lengths contradict: message {message_len}, meta {meta_len}, raw {raw_len}, offset {offset}, chunk {chunk_len}"
    )]
    Lengths {
        /// Bytes of the message on the wire.
        message_len: u32,
        /// Bytes of its meta part.
        meta_len: u32,
        /// Bytes of its payload before compression.
        raw_len: u32,
        /// Offset of the chunk.
        offset: u32,
        /// Bytes of the chunk.
        chunk_len: u32,
    },
    /// The checksum over header and chunk does not match.
    #[error("frame checksum {found:08x}, computed {computed:08x}")]
    Checksum {
        /// In the frame.
        found: u32,
        /// Computed.
        computed: u32,
    },
}

fn crc32c(header: &[u8], chunk: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(header);
    digest.update(chunk);
    digest.finalize() as u32
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(at..end)?.try_into().ok()?))
}

impl<'a> Frame<'a> {
    /// Header bytes for this frame; the chunk follows them on the wire as it is.
    pub fn encode_header(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0u8; FRAME_HEADER_BYTES];
        let flags = if self.zstd { FLAG_ZSTD } else { 0 };
        out[0..4].copy_from_slice(&MAGIC);
        out[4..8].copy_from_slice(&[WIRE_VERSION, self.kind.code(), flags, self.stream as u8]);
        let lens = [self.message_len, self.meta_len, self.raw_len, self.offset, self.chunk.len() as u32];
        for (place, len) in out[8..CRC_OFFSET].chunks_exact_mut(4).zip(lens) {
            place.copy_from_slice(&len.to_le_bytes());
        }
        let crc = crc32c(&out[..CRC_OFFSET], self.chunk);
        out[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Header and chunk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.encode_header().to_vec();
        out.extend_from_slice(self.chunk);
        out
    }

    /// The frame at the start of `bytes` and how many bytes it took; none while bytes are missing. What the header says
    /// is checked before its chunk is waited for.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let seen = bytes.len().min(4);
        if bytes[..seen] != MAGIC[..seen] {
            let mut found = [0u8; 4];
            found[..seen].copy_from_slice(&bytes[..seen]);
            return Err(FrameError::Magic { found });
        }
        let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER_BYTES) else {
            return Ok(None);
        };
        if header[4] != WIRE_VERSION {
            return Err(FrameError::Version { found: header[4] });
        }
        let kind = MessageKind::from_code(header[5]).ok_or(FrameError::Kind { code: header[5] })?;
        if header[6] & !FLAG_ZSTD != 0 {
            return Err(FrameError::Flags { flags: header[6] });
        }
        let stream = kind.stream();
        if header[7] != stream as u8 {
            return Err(FrameError::Stream { kind, stream: header[7] });
        }
        let field = |at| read_u32(header, at).unwrap_or(u32::MAX);
        let (message_len, meta_len, raw_len, offset, chunk_len) =
            (field(8), field(12), field(16), field(20), field(24));
        let limits = [
            ("meta length", meta_len, META_BYTES_MAX),
            ("payload length", raw_len, if kind.has_payload() { PAYLOAD_BYTES_MAX } else { 0 }),
            ("chunk length", chunk_len, CHUNK_BYTES_MAX as u32),
        ];
        for (field, len, limit) in limits {
            if len > limit {
                return Err(FrameError::TooLong { field, len, limit });
            }
        }
        let zstd = header[6] & FLAG_ZSTD != 0;
        let sent = message_len.checked_sub(meta_len);
        // A compressed payload is sent only where that is shorter.
        let payload_fits = sent.is_some_and(|sent| if zstd { sent > 0 && sent < raw_len } else { sent == raw_len });
        let chunk_end = u64::from(offset) + u64::from(chunk_len);
        let chunk_fits = chunk_end <= u64::from(message_len) && (chunk_len > 0 || message_len == 0);
        if !payload_fits || !chunk_fits {
            return Err(FrameError::Lengths { message_len, meta_len, raw_len, offset, chunk_len });
        }
        let Some(chunk) = rest.get(..chunk_len as usize) else {
            return Ok(None);
        };
        let found = read_u32(header, CRC_OFFSET).unwrap_or(0);
        let computed = crc32c(&header[..CRC_OFFSET], chunk);
        if found != computed {
            return Err(FrameError::Checksum { found, computed });
        }
        let frame = Frame { kind, stream, zstd, message_len, meta_len, raw_len, offset, chunk };
        Ok(Some((frame, FRAME_HEADER_BYTES + chunk_len as usize)))
    }

    /// True where the chunk ends the message.
    pub fn is_last(&self) -> bool {
        u64::from(self.offset) + self.chunk.len() as u64 == u64::from(self.message_len)
    }
}
