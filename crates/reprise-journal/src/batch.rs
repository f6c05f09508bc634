//! A batch in memory.

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::batch::{BodyHeader, ENVELOPE_LEN, Envelope, Record};
use reprise_types::{PoolBuf, Seq, honest};

/// A batch in memory: the decoded header, the header's bytes, and the payload of each record. Immutable and shared:
/// journal, RAM tail, home and link use the same bytes.
#[derive(Debug, Clone)]
pub struct Batch {
    header: BodyHeader,
    header_bytes: Bytes,
    payloads: Vec<Bytes>,
}

impl Batch {
    /// `header_bytes` are those of `header`, without an envelope; a payload for each record.
    pub(crate) fn new(header: BodyHeader, header_bytes: Bytes, payloads: Vec<Bytes>) -> Self {
        assert_eq!(header.records.len(), payloads.len(), "a payload for each record");
        Self { header, header_bytes, payloads }
    }

    /// Reads a body, checks header, chain and every payload checksum.
    ///
    /// # Errors
    /// See [`BodyHeader::decode`]; also a body that is longer or shorter than its header says.
    pub fn from_body(body: Bytes) -> Result<Self, FormatError> {
        let header = BodyHeader::decode(&body)?;
        if body.len() != header.body_len() {
            return Err(FormatError::Short { what: "batch body", need: header.body_len(), have: body.len() });
        }
        let payload = body.slice(header.head.header_len as usize..);
        honest!(header.check_payload(&payload)?, TornTailAccepted => ());
        let payloads = header
            .records
            .iter()
            .map(|r| {
                let at = r.payload_offset as usize;
                payload.slice(at..at + r.descriptor.payload_len as usize)
            })
            .collect();
        Ok(Self { header_bytes: body.slice(..header.head.header_len as usize), header, payloads })
    }

    /// Reads a whole batch as it lies on disk: envelope, body, padding.
    ///
    /// # Errors
    /// See [`Envelope::decode`] and [`Self::from_body`].
    pub fn from_disk(bytes: Bytes) -> Result<(Envelope, Self), FormatError> {
        let envelope = Envelope::decode(&bytes)?;
        let end = ENVELOPE_LEN + envelope.body_len as usize;
        if bytes.len() < end {
            return Err(FormatError::Short { what: "batch", need: end, have: bytes.len() });
        }
        Ok((envelope, Self::from_body(bytes.slice(ENVELOPE_LEN..end))?))
    }

    /// The decoded header.
    pub fn header(&self) -> &BodyHeader {
        &self.header
    }

    /// First record.
    pub fn first_seq(&self) -> Seq {
        self.header.head.first_seq
    }

    /// Last record.
    pub fn last_seq(&self) -> Seq {
        self.header.head.last_seq
    }

    /// Bytes of the body.
    pub fn body_len(&self) -> usize {
        self.header.body_len()
    }

    /// The body as pieces to be sent one after the other.
    pub fn body(&self) -> impl Iterator<Item = Bytes> + '_ {
        std::iter::once(self.header_bytes.clone()).chain(self.payloads.iter().filter(|p| !p.is_empty()).cloned())
    }

    /// Records with their payloads.
    pub fn records(&self) -> impl Iterator<Item = (&Record, &Bytes)> + '_ {
        self.header.records.iter().zip(&self.payloads)
    }

    /// The record with this Seq, if it is in the batch.
    pub fn record(&self, seq: Seq) -> Option<(&Record, &Bytes)> {
        let at = usize::try_from(seq.get().checked_sub(self.first_seq().get())?).ok()?;
        Some((self.header.records.get(at)?, self.payloads.get(at)?))
    }

    /// The batch as it goes to disk behind `envelope`: pieces whose lengths are multiples of 512.
    pub(crate) fn to_disk(&self, envelope: &Envelope) -> Vec<Bytes> {
        let mut head = PoolBuf::unpooled(ENVELOPE_LEN + self.header_bytes.len());
        head[..ENVELOPE_LEN].copy_from_slice(&envelope.encode());
        head[ENVELOPE_LEN..].copy_from_slice(&self.header_bytes);
        let used = ENVELOPE_LEN + self.body_len();
        let padding = envelope.total_len as usize - used;
        let mut out = Vec::with_capacity(self.payloads.len() + 2);
        out.push(head.freeze());
        out.extend(self.payloads.iter().filter(|p| !p.is_empty()).cloned());
        if padding > 0 {
            out.push(PoolBuf::unpooled(padding).freeze());
        }
        out
    }
}
