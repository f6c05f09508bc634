//! Headers of iSCSI PDUs (RFC 7143, section 11), as an initiator needs them.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::InitiatorError;

pub(crate) const BHS: usize = 48;
/// Bytes of a digest.
const DIGEST: usize = 4;
pub(crate) const NO_TAG: u32 = 0xffff_ffff;

/// No target may send a larger data segment; we announce less.
const DATA_SEGMENT_MAX: usize = 16 << 20;

pub(crate) mod op {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const SCSI_COMMAND: u8 = 0x01;
    pub(crate) const TASK_MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const SCSI_RESPONSE: u8 = 0x21;
    pub(crate) const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
    pub(crate) const IMMEDIATE: u8 = 0x40;
}

/// A header under construction or received.
#[derive(Debug, Clone)]
pub(crate) struct Header(pub(crate) [u8; BHS]);

impl Header {
    pub(crate) fn new(opcode: u8, flags: u8) -> Self {
        let mut bytes = [0; BHS];
        bytes[0] = opcode;
        bytes[1] = flags;
        Self(bytes)
    }

    pub(crate) fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    pub(crate) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        (&self.0[at..]).get_u32()
    }

    pub(crate) fn put_u32(&mut self, at: usize, value: u32) -> &mut Self {
        (&mut self.0[at..]).put_u32(value);
        self
    }

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn lun(&mut self, lun: u16) -> &mut Self {
        // Peripheral addressing below 256, flat space above (SAM-5, 4.7).
        let [high, low] = lun.to_be_bytes();
        self.put(8, &[if high == 0 { 0 } else { 0x40 | high }, low])
    }

    pub(crate) fn tag(&self) -> u32 {
        self.u32(16)
    }

    fn data_len(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// Appends header and data, padded, to `out`; with `digests` both are followed by theirs (RFC 7143, 11.2.1).
    pub(crate) fn encode(&mut self, data: &[u8], digests: bool, out: &mut BytesMut) {
        let len = (data.len() as u32).to_be_bytes();
        self.put(5, &len[1..]);
        out.reserve(BHS + data.len() + 3 + 2 * DIGEST);
        out.extend_from_slice(&self.0);
        if digests {
            out.put_u32_le(crc32c(&self.0));
        }
        let start = out.len();
        out.extend_from_slice(data);
        out.put_bytes(0, data.len().next_multiple_of(4) - data.len());
        if digests && !data.is_empty() {
            out.put_u32_le(crc32c(&out[start..]));
        }
    }
}

/// A whole PDU received.
#[derive(Debug)]
pub(crate) struct Pdu {
    pub(crate) header: Header,
    pub(crate) data: Bytes,
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Takes a PDU off the front of `input`; none if it is not complete. With `digests` both parts have to fit theirs.
pub(crate) fn decode(input: &mut BytesMut, digests: bool) -> Result<Option<Pdu>, InitiatorError> {
    let Some(head) = input.first_chunk::<BHS>() else { return Ok(None) };
    let header = Header(*head);
    let additional = usize::from(head[4]) * 4;
    let data_len = header.data_len();
    if data_len > DATA_SEGMENT_MAX {
        return Err(InitiatorError::Protocol { what: "data segment longer than announced" });
    }
    let digest = if digests { DIGEST } else { 0 };
    let padded = data_len.next_multiple_of(4);
    let total = BHS + additional + digest + padded + if padded > 0 { digest } else { 0 };
    if input.len() < total {
        input.reserve(total - input.len());
        return Ok(None);
    }
    let mut whole = input.split_to(total);
    let fits = |part: &[u8], at: usize| whole.get(at..at + DIGEST).is_some_and(|d| d == crc32c(part).to_le_bytes());
    let head = BHS + additional;
    let data = head + digest;
    if digests && !(fits(&whole[..head], head) && (padded == 0 || fits(&whole[data..data + padded], data + padded))) {
        return Err(InitiatorError::Protocol { what: "a digest that does not fit" });
    }
    whole.advance(data);
    whole.truncate(data_len);
    Ok(Some(Pdu { header, data: whole.freeze() }))
}

/// `key=value` pairs, each ended by a zero byte.
pub(crate) fn parse_text(data: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(data);
    text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub(crate) fn format_text(pairs: &[(&str, String)]) -> Vec<u8> {
    pairs.iter().flat_map(|(k, v)| format!("{k}={v}\0").into_bytes()).collect()
}
