//! zstd on payloads where it pays.

use std::io;

use bytes::Bytes;
use reprise_types::{BufPool, PoolBuf};

/// Smallest payload that compression is tried on: below it the ratio is poor and the call costs more than the bytes.
pub(super) const COMPRESS_BYTES_MIN: usize = 64 << 10;

/// Bytes looked at to guess whether a payload compresses: three pieces of 4 KiB.
const SAMPLE_PIECE: usize = 4 << 10;

/// Compression that saves less than one part in this is not worth the other end's time.
const SAVING_PART: usize = 20;

/// Compresses payloads one after another, keeping its memory.
pub(super) struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    sample: Vec<u8>,
}

impl Compressor {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(level)?, sample: Vec::with_capacity(3 * SAMPLE_PIECE) })
    }

    /// The compressed payload, or none where that saves too little.
    pub(super) fn compress(&mut self, payload: &[u8]) -> Option<Bytes> {
        if !self.sample_saves(payload) {
            return None;
        }
        // A destination with room for what is worth it: more is not wanted, and ends the attempt.
        let mut out = Vec::with_capacity(payload.len() - payload.len() / SAVING_PART);
        self.zstd.compress_to_buffer(payload, &mut out).ok()?;
        Some(Bytes::from(out))
    }

    fn sample_saves(&mut self, payload: &[u8]) -> bool {
        self.sample.clear();
        for place in [payload.len() / 8, payload.len() / 2, payload.len() / 8 * 7] {
            let piece = payload.get(place..).unwrap_or_default();
            self.sample.extend_from_slice(&piece[..piece.len().min(SAMPLE_PIECE)]);
        }
        let mut out = Vec::with_capacity(self.sample.len() - self.sample.len() / SAVING_PART);
        self.zstd.compress_to_buffer(self.sample.as_slice(), &mut out).is_ok()
    }
}

/// A payload does not decompress to what its frame says.
#[derive(Debug, thiserror::Error)]
pub(super) enum InflateError {
    #[error("decompress payload")]
    Zstd(#[source] io::Error),
    #[error("payload decompressed to {found} bytes, {expected} announced")]
    Length { found: usize, expected: usize },
}

/// Decompresses into an aligned buffer, after `headroom` bytes. Waits on this thread while the pool is empty.
pub(super) fn inflate(bytes: &[u8], raw_len: usize, headroom: usize, pool: &BufPool) -> Result<PoolBuf, InflateError> {
    let mut buf = loop {
        if let Some(buf) = pool.try_alloc(headroom + raw_len) {
            break buf;
        }
        std::thread::sleep(super::connection::POOL_RETRY);
    };
    let found = zstd::bulk::decompress_to_buffer(bytes, &mut buf[headroom..]).map_err(InflateError::Zstd)?;
    if found != raw_len {
        return Err(InflateError::Length { found, expected: raw_len });
    }
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compresses_what_pays_and_checks_what_comes() {
        let mut compressor = Compressor::new(1).unwrap();
        let pool = BufPool::new(1 << 20);
        let text: Vec<u8> = (0..200_000u32).map(|i| (i / 700) as u8).collect();
        let small = compressor.compress(&text).expect("pays");
        let back = inflate(&small, text.len(), 64, &pool).unwrap();
        assert_eq!(back[64..], text);
        assert!(matches!(inflate(&small, text.len() + 1, 64, &pool), Err(InflateError::Length { .. })));
        assert!(matches!(inflate(&small, text.len() - 1, 64, &pool), Err(InflateError::Zstd(_))));
        assert!(matches!(inflate(&small[..small.len() / 2], text.len(), 0, &pool), Err(InflateError::Zstd(_))));
        let mut noise = vec![0u8; 200_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert!(compressor.compress(&noise).is_none());
        // Zeros where the sample looks, noise elsewhere: the whole attempt ends at the bound.
        let mut mixed = noise.clone();
        for place in [25_000usize, 100_000, 175_000] {
            mixed[place..place + SAMPLE_PIECE].fill(0);
        }
        assert!(compressor.compress(&mixed).is_none_or(|out| out.len() <= mixed.len() - mixed.len() / SAVING_PART));
    }
}
