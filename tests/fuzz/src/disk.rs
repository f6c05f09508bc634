//! What lies on disk or comes over the link. Odd first bytes repair the checksum, so that hostile fields get past it.

use bytes::Bytes;
use reprise_format::batch::{BodyHeader, Envelope};
use reprise_format::link::{Frame, Message, MessageKind};
use reprise_format::segment::{Footer, SegmentHeader};
use reprise_format::superblock::{self, GroupBody, PoolBody, SuperblockKind};
use reprise_journal::Batch;
use reprise_link::mux::Assembler;
use reprise_types::PoolBuf;

fn split(input: &[u8]) -> Option<(bool, &[u8])> {
    // Golden bytes are seeds as they stand: their first byte is that of a magic number, which is even for all.
    let (first, rest) = input.split_first()?;
    Some(if first % 2 == 1 { (true, rest) } else { (false, input) })
}

fn repair(bytes: &mut [u8], end: usize, at: usize) {
    if let Some(part) = bytes.get_mut(..end)
        && at + 4 <= end
    {
        part[at..at + 4].fill(0);
        let crc = reprise_format::crc32c(part).to_le_bytes();
        part[at..at + 4].copy_from_slice(&crc);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map_or(0, |b| u32::from_le_bytes(b) as usize)
}

pub fn batch(input: &[u8]) {
    let Some((fix, input)) = split(input) else { return };
    let mut bytes = input.to_vec();
    if fix {
        repair(&mut bytes, 64, 60);
        if let Some(body) = bytes.get_mut(64..) {
            let end = u32_at(body, 8);
            repair(body, end, 120);
        }
    }
    let _ = Envelope::decode(&bytes);
    let body = bytes.get(64..).unwrap_or_default();
    if let Ok(header) = BodyHeader::decode(body) {
        assert!(header.head.last_seq.since(header.head.first_seq) + 1 == header.records.len() as u64);
        let _ = header.check_payload(body.get(header.head.header_len as usize..).unwrap_or_default());
    }
    let whole = Bytes::from(bytes);
    let _ = Batch::from_body(whole.slice(whole.len().min(64)..));
    let _ = Batch::from_disk(whole);
}

pub fn footer(input: &[u8]) {
    let Some((fix, input)) = split(input) else { return };
    // The input is the used start of the trailer, then tables: both are padded as on disk.
    let mut bytes = input.to_vec();
    if fix {
        let (trailer, tables) = input.split_at(input.len().min(112));
        bytes = tables.to_vec();
        bytes.resize(tables.len().next_multiple_of(4096), 0);
        let at = bytes.len();
        let crc = reprise_format::crc32c(&bytes).to_le_bytes();
        bytes.extend_from_slice(trailer);
        bytes.resize(at + 4096, 0);
        bytes[at..at + 6].copy_from_slice(b"rpFT\x01\0");
        let len = (at as u32).to_le_bytes();
        bytes[at + 8..at + 12].copy_from_slice(&len);
        bytes[at + 80..at + 84].copy_from_slice(&crc);
        repair(&mut bytes[at..], 4096, 4092);
    }
    if let Ok(footer) = Footer::decode(&bytes) {
        assert!(footer.records.iter().all(|r| (r.batch as usize) < footer.batches.len()));
    }
    let _ = Footer::decode_trailer(&bytes);
}

pub fn segment(input: &[u8]) {
    let Some((fix, input)) = split(input) else { return };
    let mut bytes = input.to_vec();
    if fix {
        bytes.resize(512, 0);
        repair(&mut bytes, 512, 508);
    }
    if let Ok(header) = SegmentHeader::decode(&bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
}

pub fn superblock(input: &[u8]) {
    let Some((fix, input)) = split(input) else { return };
    let mut bytes = input.to_vec();
    if fix && bytes.len() >= 64 {
        bytes[..6].copy_from_slice(b"rpSB\x01\0");
        let len = (bytes.len() as u32 - 64).to_le_bytes();
        bytes[32..36].copy_from_slice(&len);
        let end = bytes.len();
        repair(&mut bytes, end, 60);
    }
    if let Ok((version, body)) = superblock::decode::<GroupBody>(SuperblockKind::Group, &bytes)
        && let Ok(again) = superblock::encode(SuperblockKind::Group, version, &body)
    {
        assert_eq!(superblock::decode(SuperblockKind::Group, &again), Ok((version, body)));
    }
    let _ = superblock::decode::<PoolBody>(SuperblockKind::Pool, &bytes);
    let _ = superblock::newest::<PoolBody>(SuperblockKind::Pool, &[Some(bytes), None]);
}

pub fn link(input: &[u8]) {
    let mut assembler = Assembler::default();
    let mut alloc = |len: usize| (len < 1 << 22).then(|| PoolBuf::unpooled(len));
    let Some((fix, rest)) = split(input) else { return };
    if !fix {
        let mut left = rest;
        while let Ok(Some((frame, used))) = Frame::decode(left) {
            let _ = assembler.accept(&frame, &mut alloc);
            left = left.get(used..).unwrap_or_default();
        }
        return;
    }
    // A message of each kind by its meta bytes, and a frame with these fields and a right checksum.
    let Some((code, meta)) = rest.split_first() else { return };
    let Some(kind) = MessageKind::from_code(*code) else { return };
    if let Ok(message) = Message::decode_meta(kind, meta) {
        let again = Message::decode_meta(kind, &message.encode_meta());
        assert_eq!(again.as_ref(), Ok(&message), "a message that decodes encodes to itself");
    }
    let frame = Frame {
        kind,
        stream: kind.stream(),
        zstd: false,
        message_len: meta.len() as u32,
        meta_len: u32_at(meta, 0) as u32 % 64,
        raw_len: meta.len() as u32,
        offset: 0,
        chunk: meta,
    };
    let wire = frame.encode();
    if let Ok(Some((frame, _))) = Frame::decode(&wire) {
        let _ = assembler.accept(&frame, &mut alloc);
    }
}
