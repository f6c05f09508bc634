//! Bytes on their way out: small headers held in place, payload shared and never copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::pdu::{BHS_LEN, Bhs, crc32c, padding};

/// Padding and digest of one PDU's data, then the header of the next one with its digest.
const SMALL: usize = 3 + 4 + BHS_LEN + 4;

#[derive(Debug)]
enum Chunk {
    Small { bytes: [u8; SMALL], start: u8, end: u8 },
    Data(Bytes),
}

impl Chunk {
    const EMPTY: Self = Self::Small { bytes: [0; SMALL], start: 0, end: 0 };

    /// Adds a few bytes behind those that are there; false where there is no room for them.
    fn append(&mut self, part: &[u8]) -> bool {
        let Self::Small { bytes, end, .. } = self else { return false };
        let from = usize::from(*end);
        let Some(room) = bytes.get_mut(from..from + part.len()) else { return false };
        room.copy_from_slice(part);
        *end += part.len() as u8;
        true
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

    fn push_data(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.bytes += part.len() as u64;
            self.chunks.push_back(Chunk::Data(part));
        }
    }

    /// Queues a few bytes, in one run with those before where they fit: each run costs the kernel as much as some hundred bytes.
    fn push_small(&mut self, part: &[u8]) {
        if part.is_empty() {
            return;
        }
        self.bytes += part.len() as u64;
        if !self.chunks.back_mut().is_some_and(|chunk| chunk.append(part)) {
            let mut chunk = Chunk::EMPTY;
            chunk.append(part);
            self.chunks.push_back(chunk);
        }
    }

    /// Queues a PDU; sets its data segment length.
    pub(crate) fn push(&mut self, mut bhs: Bhs, data: impl IntoIterator<Item = Bytes>) {
        let data: smallvec::Parts = data.into_iter().collect();
        let len = data.len();
        bhs.set_data_len(len);
        self.push_small(&bhs.0);
        if self.header_digest {
            self.push_small(&crc32c(&[&bhs.0]));
        }
        if len == 0 {
            return;
        }
        let pad = [0u8; 3];
        let pad = pad.get(..padding(len)).unwrap_or(&[]);
        let digest = self.data_digest.then(|| data.crc(pad));
        data.for_each(|part| self.push_data(part));
        self.push_small(pad);
        if let Some(digest) = digest {
            self.push_small(&digest);
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

    #[test]
    fn what_joins_bytes_that_are_half_sent_comes_behind_them() {
        let pdu = |n: u8| (Bhs::reply(0x25, 0x80, u32::from(n)), [Bytes::from(vec![n; usize::from(n % 9)])]);
        let mut whole = SendQueue { header_digest: true, data_digest: true, ..SendQueue::default() };
        let mut piecewise = SendQueue { header_digest: true, data_digest: true, ..SendQueue::default() };
        let drain = |queue: &mut SendQueue, limit: usize, got: &mut Vec<u8>| {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = queue.gather(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).take(limit).collect();
            queue.sent(bytes.len());
            got.extend(bytes);
        };
        let (mut expected, mut got) = (Vec::new(), Vec::new());
        for n in 0..100 {
            let (bhs, data) = pdu(n);
            whole.push(bhs, data);
            let (bhs, data) = pdu(n);
            piecewise.push(bhs, data);
            drain(&mut piecewise, usize::from(n) % 61, &mut got);
        }
        for (queue, bytes) in [(&mut whole, &mut expected), (&mut piecewise, &mut got)] {
            while queue.bytes() > 0 {
                drain(queue, usize::MAX, bytes);
            }
        }
        assert_eq!(got, expected);
        let headers =
            (0..100u8).map(|n| 52 + if n % 9 == 0 { 0 } else { (usize::from(n % 9)).next_multiple_of(4) + 4 });
        assert_eq!(got.len(), headers.sum::<usize>());
    }
}
