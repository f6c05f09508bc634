//! Bytes to types and back: journal batches, segment headers and footers, superblocks, link frames.
//!
//! `docs/formats.md` owns every diagram; the code points to it. Everything here is little-endian. This crate knows no
//! disk and no socket: it turns slices into checked types and types into bytes. Bytes from outside are never trusted:
//! a decoder returns a [`FormatError`] that says what was wrong and where.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(clippy::big_endian_bytes)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
mod cursor;
mod error;
pub mod link;
pub mod segment;
pub mod superblock;
pub mod unit;

pub use error::FormatError;

use reprise_types::HistoryHash;

/// Largest generation of a segment and version of a superblock: nobody counts so far, and what counts on from one that a
/// disk names cannot overflow.
pub const COUNTER_MAX: u64 = 1 << 62;

/// CRC-32C (Castagnoli), the only checksum of the formats.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Grain of payload checksums: one CRC-32C for each 4 KiB of a record's payload, counted from its start.
pub const CRC_GRAIN: usize = 4096;

/// The checksums of a payload: one for each [`CRC_GRAIN`], the last may cover less.
pub fn payload_crcs(payload: &[u8]) -> impl Iterator<Item = u32> + '_ {
    payload.chunks(CRC_GRAIN).map(crc32c)
}

/// The CRC-32C of a whole payload of `len` bytes from the checksums of its grains.
pub fn combine_crcs(crcs: &[u32], len: usize) -> u32 {
    let mut left = len;
    let mut whole: Option<u32> = None;
    for crc in crcs {
        let grain = left.min(CRC_GRAIN);
        left -= grain;
        whole = Some(match whole {
            None => *crc,
            Some(before) => {
                let algorithm = crc_fast::CrcAlgorithm::Crc32Iscsi;
                crc_fast::checksum_combine(algorithm, before.into(), (*crc).into(), grain as u64) as u32
            }
        });
    }
    whole.unwrap_or_else(|| crc32c(&[]))
}

/// BLAKE3 truncated to 128 bits, as the history hash uses it.
pub(crate) fn hash128(parts: &[&[u8]]) -> HistoryHash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let mut out = [0u8; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    HistoryHash::from_raw(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grains_combine_to_the_checksum_of_the_whole() {
        for len in [0usize, 1, 512, 4096, 4097, 10_000, 65_536] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
            let crcs: Vec<u32> = payload_crcs(&bytes).collect();
            assert_eq!(combine_crcs(&crcs, len), crc32c(&bytes), "{len} bytes");
        }
    }
}
