//! A sector that says who wrote it.
//!
//! All 512 bytes follow from (writer, op, volume, sector), so a sector that is partly old is seen as garbage, and a whole
//! payload can be made again from the log.

use super::OpId;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

const MAGIC: &[u8; 8] = b"rpr-orac";
const HEAD: usize = 48;

/// What a sector says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The operation.
    pub id: OpId,
    /// The volume it was meant for.
    pub volume: u16,
    /// The address it was meant for.
    pub sector: u64,
    /// First sector of the operation.
    pub first: u64,
    /// Sectors of the operation.
    pub sectors: u32,
}

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Only zeros.
    Zero,
    /// A whole stamp.
    Stamped(Stamp),
    /// Something else: never written by the oracle, or torn inside the sector.
    Garbage,
}

/// CRC32C, as the record lists carry it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Fills a sector.
pub fn write(out: &mut [u8; SECTOR], stamp: &Stamp) {
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&stamp.id.writer.to_le_bytes());
    out[12..16].copy_from_slice(&stamp.sectors.to_le_bytes());
    out[16..24].copy_from_slice(&stamp.id.op.to_le_bytes());
    out[24..32].copy_from_slice(&stamp.sector.to_le_bytes());
    out[32..40].copy_from_slice(&stamp.first.to_le_bytes());
    out[40..44].copy_from_slice(&u32::from(stamp.volume).to_le_bytes());
    let crc = crc32c(&out[..44]);
    out[44..HEAD].copy_from_slice(&crc.to_le_bytes());
    // Half of the rest is noise, half repeats, so that compression has something to do but not everything.
    let mut noise = crate::rng::Rng::new(u64::from(crc) << 32 | stamp.id.op);
    let (random, repeated) = out[HEAD..].split_at_mut(232);
    for word in random.chunks_exact_mut(8) {
        word.copy_from_slice(&noise.draw().to_le_bytes());
    }
    repeated.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&crc.to_le_bytes()));
}

/// Reads a sector.
pub fn read(bytes: &[u8; SECTOR]) -> Content {
    if bytes.iter().all(|b| *b == 0) {
        return Content::Zero;
    }
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    let Ok(volume) = u16::try_from(u32_at(40)) else { return Content::Garbage };
    let stamp = Stamp {
        id: OpId { writer: u32_at(8), op: u64_at(16) },
        volume,
        sector: u64_at(24),
        first: u64_at(32),
        sectors: u32_at(12),
    };
    let mut again = [0; SECTOR];
    write(&mut again, &stamp);
    if again == *bytes { Content::Stamped(stamp) } else { Content::Garbage }
}

/// The whole payload of a write.
pub fn payload(id: OpId, volume: u16, first: u64, sectors: u32) -> Vec<u8> {
    let mut out = vec![0; sectors as usize * SECTOR];
    let (chunks, _) = out.as_chunks_mut::<SECTOR>();
    for (n, chunk) in chunks.iter_mut().enumerate() {
        write(chunk, &Stamp { id, volume, sector: first + n as u64, first, sectors });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_any_flipped_bit_is_garbage() {
        let stamp = Stamp { id: OpId { writer: 3, op: 99 }, volume: 1, sector: 1000, first: 998, sectors: 4 };
        let mut sector = [0; SECTOR];
        assert_eq!(read(&sector), Content::Zero);
        write(&mut sector, &stamp);
        assert_eq!(read(&sector), Content::Stamped(stamp));
        for at in 0..SECTOR {
            let mut broken = sector;
            broken[at] ^= 1 << (at % 8);
            assert_eq!(read(&broken), Content::Garbage, "byte {at}");
        }
    }
}
