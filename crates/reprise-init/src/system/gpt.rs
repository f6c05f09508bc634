//! Partition tables (GPT, UEFI specification 2.10, section 5.3): reading, changing, and the order of writing.
//!
//! The bytes are made here and written elsewhere. A table is written backup first, so that a power cut leaves the earlier
//! table, or the later one, or a primary that the backup can mend.

use crc_fast::{CrcAlgorithm, checksum};

/// Entries of a table, as everywhere.
const ENTRIES: usize = 128;
const ENTRY_LEN: usize = 128;
const HEADER_LEN: usize = 92;
/// Partitions begin and end at multiples of this.
pub(crate) const ALIGN: u64 = 1 << 20;
/// Type of a partition with Linux data.
const LINUX_DATA: Guid =
    Guid([0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]);

/// A GUID in the byte order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Guid([u8; 16]);

impl Guid {
    /// A fresh one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        // Version 4, variant 1 (RFC 9562, section 5.4), where they lie in this byte order.
        bytes[7] = bytes[7] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for Guid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let b = self.0;
        let (first, second, third) = (
            u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            u16::from_le_bytes([b[4], b[5]]),
            u16::from_le_bytes([b[6], b[7]]),
        );
        write!(f, "{first:08x}-{second:04x}-{third:04x}-{:02x}{:02x}-", b[8], b[9])?;
        b[10..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its number, from 1.
    pub(crate) number: u32,
    /// Its type.
    pub(crate) kind: Guid,
    /// What tells it from all others.
    pub(crate) guid: Guid,
    /// First block.
    pub(crate) first: u64,
    /// Last block.
    pub(crate) last: u64,
    /// Flags.
    pub(crate) flags: u64,
    /// Its name.
    pub(crate) name: String,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// Bytes of a block.
    pub(crate) block: u64,
    /// What tells the disk from all others.
    pub(crate) disk: Guid,
    /// The partitions, by number.
    pub(crate) partitions: Vec<Partition>,
    /// First sector, for what a boot loader keeps there.
    mbr: Option<Vec<u8>>,
}

/// Bytes to write at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where.
    pub(crate) offset: u64,
    /// What.
    pub(crate) bytes: Vec<u8>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn guid_at(bytes: &[u8], at: usize) -> Option<Guid> {
    Some(Guid(bytes.get(at..at + 16)?.try_into().ok()?))
}

fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Blocks of a table's entries.
fn entry_blocks(block: u64) -> u64 {
    ((ENTRIES * ENTRY_LEN) as u64).div_ceil(block)
}

impl Partition {
    fn read(number: usize, entry: &[u8]) -> Option<Self> {
        let kind = guid_at(entry, 0)?;
        if kind.0 == [0; 16] {
            return None;
        }
        let units: Vec<u16> = entry.get(56..128)?.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let name = String::from_utf16_lossy(units.split(|u| *u == 0).next().unwrap_or_default());
        Some(Self {
            number: number as u32 + 1,
            kind,
            guid: guid_at(entry, 16)?,
            first: u64_at(entry, 32)?,
            last: u64_at(entry, 40)?,
            flags: u64_at(entry, 48)?,
            name,
        })
    }

    fn write(&self, entry: &mut [u8]) {
        entry[..16].copy_from_slice(&self.kind.0);
        entry[16..32].copy_from_slice(&self.guid.0);
        entry[32..40].copy_from_slice(&self.first.to_le_bytes());
        entry[40..48].copy_from_slice(&self.last.to_le_bytes());
        entry[48..56].copy_from_slice(&self.flags.to_le_bytes());
        for (unit, place) in self.name.encode_utf16().take(36).zip(entry[56..128].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }

    /// Where it begins on the disk, and its length, in bytes.
    pub(crate) fn range(&self, block: u64) -> (u64, u64) {
        (self.first * block, (self.last - self.first + 1) * block)
    }
}

impl Table {
    /// A table without partitions.
    pub(crate) fn new(block: u64, disk: Guid) -> Self {
        Self { block, disk, partitions: Vec::new(), mbr: None }
    }

    /// Reads the primary table from the first bytes of a disk. None if there is none that is whole.
    pub(crate) fn read(head: &[u8], block: u64) -> Option<Self> {
        let at = usize::try_from(block).ok()?;
        let header = head.get(at..at.checked_add(HEADER_LEN)?)?;
        if &header[..8] != b"EFI PART" || u32_at(header, 12)? != HEADER_LEN as u32 {
            return None;
        }
        let mut checked = header.to_vec();
        checked[16..20].fill(0);
        if crc32(&checked) != u32_at(header, 16)? || u64_at(header, 24)? != 1 {
            return None;
        }
        let (count, len) = (u32_at(header, 80)? as usize, u32_at(header, 84)? as usize);
        if count > ENTRIES || len != ENTRY_LEN {
            return None;
        }
        let start = usize::try_from(u64_at(header, 72)?.checked_mul(block)?).ok()?;
        let entries = head.get(start..start.checked_add(count * len)?)?;
        if crc32(entries) != u32_at(header, 88)? {
            return None;
        }
        let partitions: Vec<Partition> =
            entries.chunks_exact(ENTRY_LEN).enumerate().filter_map(|(n, e)| Partition::read(n, e)).collect();
        if partitions.iter().any(|p| p.first > p.last || p.last.checked_mul(block).is_none()) {
            return None;
        }
        Some(Self { block, disk: guid_at(header, 56)?, partitions, mbr: head.get(..512).map(<[u8]>::to_vec) })
    }

    /// The partition of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.name == name)
    }

    /// First byte behind all partitions, at a multiple of 1 MiB, and the last one that may be used, on a disk of `size`
    /// bytes: what is free there. None where nothing is.
    pub(crate) fn free_tail(&self, size: u64) -> Option<(u64, u64)> {
        let used = self.partitions.iter().map(|p| (p.last + 1) * self.block).max().unwrap_or(0);
        let from = used.max((2 + entry_blocks(self.block)) * self.block).next_multiple_of(ALIGN);
        let end = size.checked_sub((1 + entry_blocks(self.block)) * self.block)? / ALIGN * ALIGN;
        (end > from).then_some((from, end))
    }

    /// Adds a partition at a byte range; both ends are multiples of 1 MiB.
    pub(crate) fn add(&mut self, number: u32, guid: Guid, name: &str, from: u64, end: u64) {
        let (first, last) = (from / self.block, end / self.block - 1);
        self.partitions.retain(|p| p.number != number);
        self.partitions.push(Partition {
            number,
            kind: LINUX_DATA,
            guid,
            first,
            last,
            flags: 0,
            name: name.to_owned(),
        });
        self.partitions.sort_by_key(|p| p.number);
    }

    /// What has to be written to a disk of `size` bytes, each piece durable before the next. The last one makes the table
    /// count.
    pub(crate) fn pieces(&self, size: u64) -> Vec<Piece> {
        let block = self.block;
        let entries_len = entry_blocks(block) * block;
        let mut entries = vec![0; entries_len as usize];
        for partition in &self.partitions {
            let at = (partition.number as usize - 1) * ENTRY_LEN;
            partition.write(&mut entries[at..at + ENTRY_LEN]);
        }
        let crc = crc32(&entries[..ENTRIES * ENTRY_LEN]);
        let last = size / block - 1;
        let backup_at = last - entry_blocks(block);
        let header = |own: u64, other: u64, entries_at: u64| {
            let mut h = vec![0; block as usize];
            h[..8].copy_from_slice(b"EFI PART");
            h[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
            h[12..16].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
            h[24..32].copy_from_slice(&own.to_le_bytes());
            h[32..40].copy_from_slice(&other.to_le_bytes());
            h[40..48].copy_from_slice(&(2 + entry_blocks(block)).to_le_bytes());
            h[48..56].copy_from_slice(&(backup_at - 1).to_le_bytes());
            h[56..72].copy_from_slice(&self.disk.0);
            h[72..80].copy_from_slice(&entries_at.to_le_bytes());
            h[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
            h[84..88].copy_from_slice(&(ENTRY_LEN as u32).to_le_bytes());
            h[88..92].copy_from_slice(&crc.to_le_bytes());
            let own_crc = crc32(&h[..HEADER_LEN]);
            h[16..20].copy_from_slice(&own_crc.to_le_bytes());
            h
        };
        let mut backup = entries.clone();
        backup.extend(header(last, 1, backup_at));
        // Header and entries in one write: a disk rarely tears one of 17 KiB.
        let mut primary = header(1, last, 2);
        primary.extend(entries);
        vec![
            Piece { offset: backup_at * block, bytes: backup },
            Piece { offset: 0, bytes: self.protective_mbr(size) },
            Piece { offset: block, bytes: primary },
        ]
    }

    /// The first sector: one partition over the whole disk, so that nothing takes it for free; a boot loader's code stays.
    fn protective_mbr(&self, size: u64) -> Vec<u8> {
        let mut mbr = self.mbr.clone().unwrap_or_else(|| vec![0; 512]);
        // The active flag of a boot disk stays: some machines start nothing without it.
        let active = mbr[446] & 0x80;
        mbr[446..510].fill(0);
        mbr[446..454].copy_from_slice(&[active, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
        mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
        let blocks = u32::try_from(size / self.block - 1).unwrap_or(u32::MAX);
        mbr[458..462].copy_from_slice(&blocks.to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn disk(size: u64, table: &Table) -> Vec<u8> {
        let mut bytes = vec![0; size as usize];
        for piece in table.pieces(size) {
            bytes[piece.offset as usize..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        bytes
    }

    fn two_halves(block: u64) -> Table {
        let mut table = Table::new(block, Guid::random().unwrap());
        table.add(1, Guid::random().unwrap(), "reprise-cache", MIB, 20 * MIB);
        table.add(2, Guid::random().unwrap(), "reprise-data", 20 * MIB, 39 * MIB);
        table
    }

    #[test]
    fn what_is_written_is_read() {
        for block in [512, 4096] {
            let table = two_halves(block);
            let bytes = disk(40 * MIB, &table);
            let read = Table::read(&bytes, block).unwrap();
            assert_eq!((&read.disk, &read.partitions), (&table.disk, &table.partitions));
            assert_eq!(read.partitions[1].range(block), (20 * MIB, 19 * MIB));
            assert_eq!(read.free_tail(40 * MIB), None);
            assert_eq!(read.free_tail(50 * MIB), Some((39 * MIB, 49 * MIB)));
        }
    }

    /// The field's own tool finds no fault, primary and backup.
    #[test]
    fn sgdisk_finds_no_fault() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), disk(40 * MIB, &two_halves(512))).unwrap();
        let check = |what: &str| {
            let out = std::process::Command::new("sgdisk").arg(what).arg(file.path()).output();
            let out = out.expect("sgdisk runs (package gdisk)");
            String::from_utf8(out.stdout).unwrap()
        };
        assert!(check("--verify").contains("No problems found"), "{}", check("--verify"));
        let shown = check("--print");
        assert!(shown.contains("reprise-cache") && shown.contains("reprise-data"), "{shown}");
    }

    #[test]
    fn a_table_that_grows_keeps_loader_and_partitions() {
        let mut small = two_halves(512);
        small.mbr = Some([&[0x90; 440][..], &[0; 72]].concat());
        let mut bytes = disk(40 * MIB, &small);
        bytes[446] = 0x80;
        bytes.resize(80 * MIB as usize, 0);
        let mut table = Table::read(&bytes, 512).unwrap();
        let (from, end) = table.free_tail(80 * MIB).unwrap();
        assert_eq!((from, end), (39 * MIB, 79 * MIB));
        table.add(9, Guid::random().unwrap(), "more", from, end);
        let grown = disk(80 * MIB, &table);
        assert_eq!(&grown[..440], &[0x90; 440]);
        assert_eq!((grown[446], grown[450]), (0x80, 0xee));
        let read = Table::read(&grown, 512).unwrap();
        assert_eq!(read.partitions[..2], small.partitions[..]);
        assert_eq!(read.named("more").unwrap().number, 9);
    }

    #[test]
    fn a_guid_is_spelled_as_the_kernel_does() {
        assert_eq!(LINUX_DATA.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
    }

    proptest! {
        /// Whatever is cut or flipped: a table is read as it was or not at all.
        #[test]
        fn a_damaged_table_is_none(at in 512usize..(2 * 512 + 16384), bit in 0u8..8) {
            let table = two_halves(512);
            let mut bytes = disk(40 * MIB, &table);
            bytes.truncate(1 << 20);
            bytes[at] ^= 1 << bit;
            if let Some(read) = Table::read(&bytes, 512) {
                prop_assert_eq!(read.partitions, table.partitions, "{}", at);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), magic in any::<bool>()) {
            if magic && bytes.len() > 520 {
                bytes[512..520].copy_from_slice(b"EFI PART");
            }
            Table::read(&bytes, 512);
        }
    }
}
