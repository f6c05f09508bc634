//! Bytes on their way out: small headers held in place, payload shared and never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::pdu::{BHS_LEN, Bhs, crc32c, padding};

/// Header segment with its digest, or padding with a digest.
const SMALL: usize = BHS_LEN + 4;

#[derive(Debug)]
enum Chunk {
    Small { bytes: [u8; SMALL], start: u8, end: u8 },
    Data(Bytes),
}

impl Chunk {
    fn small(parts: &[&[u8]]) -> Self {
        let mut bytes = [0; SMALL];
        let mut end = 0usize;
        for (to, from) in bytes.iter_mut().zip(parts.iter().flat_map(|part| part.iter())) {
            *to = *from;
            end += 1;
        }
        Self::Small { bytes, start: 0, end: end as u8 }
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Small { bytes, start, end } => bytes.get(usize::from(*start)..usize::from(*end)).unwrap_or(&[]),
            Self::Data(data) => data,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Small { start, .. } => *start += count as u8,
            Self::Data(data) => data.advance(count),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    chunks: VecDeque<Chunk>,
    bytes: u64,
    pub header_digest: bool,
    pub data_digest: bool,
}

impl SendQueue {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        let len = chunk.as_slice().len();
        if len > 0 {
            self.bytes += len as u64;
            self.chunks.push_back(chunk);
        }
    }

    /// Queues a PDU; sets its data segment length.
    pub(crate) fn push(&mut self, mut bhs: Bhs, data: impl IntoIterator<Item = Bytes>) {
        let data: smallvec::Parts = data.into_iter().collect();
        let len = data.len();
        bhs.set_data_len(len);
        if self.header_digest {
            self.push_chunk(Chunk::small(&[&bhs.0, &crc32c(&[&bhs.0])]));
        } else {
            self.push_chunk(Chunk::small(&[&bhs.0]));
        }
        if len == 0 {
            return;
        }
        let pad = [0u8; 3];
        let pad = pad.get(..padding(len)).unwrap_or(&[]);
        let digest = self.data_digest.then(|| data.crc(pad));
        data.for_each(|part| self.push_chunk(Chunk::Data(part)));
        match digest {
            Some(digest) => self.push_chunk(Chunk::small(&[pad, &digest])),
            None => self.push_chunk(Chunk::small(&[pad])),
        }
    }

    /// Fills `slices` with what is next to send and returns how many were filled.
    pub(crate) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk.as_slice());
            count += 1;
        }
        count
    }

    /// Takes note that `count` bytes went out; more than were queued is not believed.
    pub(crate) fn sent(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let len = chunk.as_slice().len();
            if count < len {
                chunk.advance(count);
                self.bytes -= count as u64;
                return;
            }
            count -= len;
            self.bytes -= len as u64;
            self.chunks.pop_front();
        }
    }
}

/// A PDU's payload: one run nearly always, so no list is allocated for it.
mod smallvec {
    use bytes::Bytes;

    pub(super) enum Parts {
        None,
        One(Bytes),
        Many(Vec<Bytes>),
    }

    impl FromIterator<Bytes> for Parts {
        fn from_iter<I: IntoIterator<Item = Bytes>>(iter: I) -> Self {
            let mut iter = iter.into_iter();
            match (iter.next(), iter.next()) {
                (None, _) => Self::None,
                (Some(one), None) => Self::One(one),
                (Some(one), Some(two)) => Self::Many([one, two].into_iter().chain(iter).collect()),
            }
        }
    }

    impl Parts {
        fn as_slice(&self) -> &[Bytes] {
            match self {
                Self::None => &[],
                Self::One(one) => std::slice::from_ref(one),
                Self::Many(many) => many,
            }
        }

        pub(super) fn len(&self) -> u32 {
            self.as_slice().iter().map(|part| part.len() as u32).sum()
        }

        pub(super) fn crc(&self, pad: &[u8]) -> [u8; 4] {
            let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
            self.as_slice().iter().for_each(|part| digest.update(part));
            digest.update(pad);
            (digest.finalize() as u32).to_le_bytes()
        }

        pub(super) fn for_each(self, mut take: impl FnMut(Bytes)) {
            match self {
                Self::None => {}
                Self::One(one) => take(one),
                Self::Many(many) => many.into_iter().for_each(take),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_sends_lose_nothing() {
        let mut queue = SendQueue { header_digest: true, data_digest: true, ..SendQueue::default() };
        for len in [0usize, 1, 4, 100] {
            queue.push(Bhs::reply(0x25, 0x80, 7), [Bytes::from(vec![len as u8; len])]);
        }
        queue.push(Bhs::reply(0x25, 0x80, 7), [Bytes::from_static(b"ab"), Bytes::from_static(b"cde")]);
        let total = queue.bytes();
        let mut got = Vec::new();
        let mut step = 1;
        while queue.bytes() > 0 {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = queue.gather(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).collect();
            let take = bytes.len().min(step);
            got.extend_from_slice(&bytes[..take]);
            queue.sent(take);
            step = step % 17 + 3;
        }
        assert_eq!(got.len() as u64, total);
        let last = &got[got.len() - (52 + 8 + 4)..];
        assert_eq!(&last[52..60], b"abcde\0\0\0");
        assert_eq!(&last[60..], crc32c(&[b"abcde\0\0\0"]));
    }
}
