//! The disk: a GUID partition table with fixed places, and the boot loader's first sector for BIOS.
//!
//! Sizes are fixed for good: a partition between two others never grows. Identifiers are fixed too, so that two builds give
//! the same image; a box writes its own at its first start.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

pub const SECTOR_LEN: u64 = 512;
const MIB: u64 = 1 << 20;
/// Entries of the table and their length, as nearly all systems have them.
const ENTRIES: usize = 128;
const ENTRY_LEN: usize = 128;
const TABLE_SECTORS: u64 = (ENTRIES * ENTRY_LEN) as u64 / SECTOR_LEN;
/// The first partition begins here, and this much is free behind the last one, for the second table.
const MARGIN: u64 = MIB;

const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";
const EFI_SYSTEM: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
/// The disk's identifier. Those of the partitions end in their numbers.
const DISK: &str = "72657072-6973-4500-8000-000000000000";

/// A partition as it is laid down.
#[derive(Debug, Clone, Copy)]
pub struct Partition {
    pub name: &'static str,
    kind: &'static str,
    pub size: u64,
}

const fn partition(name: &'static str, kind: &'static str, mib: u64) -> Partition {
    Partition { name, kind, size: mib * MIB }
}

/// All of them, in the order of their numbers.
pub const PARTITIONS: [Partition; 8] = [
    partition("reprise-bios", BIOS_BOOT, 1),
    partition("reprise-esp", EFI_SYSTEM, 16),
    partition("reprise-boot-a", LINUX, 32),
    partition("reprise-root-a", LINUX, 96),
    partition("reprise-boot-b", LINUX, 32),
    partition("reprise-root-b", LINUX, 96),
    partition("reprise-config", LINUX, 16),
    partition("reprise-state", LINUX, 64),
];

/// Their numbers in the order of their places. The two slots are flashed with the same content; both copies of a part are less
/// than 128 MiB apart, so that the packer finds the second one.
const PLACES: [usize; 8] = [1, 2, 3, 5, 4, 6, 7, 8];

/// Where a partition begins, in bytes.
pub fn begin_of(name: &str) -> Result<u64> {
    let before = PLACES.iter().map(|number| PARTITIONS[number - 1]).take_while(|p| p.name != name);
    named(name)?;
    Ok(MARGIN + before.map(|p| p.size).sum::<u64>())
}

/// The partition of that name.
pub fn named(name: &str) -> Result<&'static Partition> {
    PARTITIONS.iter().find(|p| p.name == name).with_context(|| format!("no partition {name}"))
}

/// Bytes of the whole disk.
pub fn disk_len() -> u64 {
    2 * MARGIN + PARTITIONS.iter().map(|p| p.size).sum::<u64>()
}

/// Puts the content of a partition into its place.
pub fn put(disk: &File, name: &str, content: &[u8]) -> Result<()> {
    let size = named(name)?.size;
    if content.len() as u64 > size {
        bail!("{name} has {size} bytes, and {} are to go there", content.len());
    }
    disk.write_all_at(content, begin_of(name)?).with_context(|| format!("write {name}"))
}

/// Writes both tables and the first sector, whose program starts at byte 0.
pub fn write_tables(disk: &File, boot_program: &[u8; SECTOR_LEN as usize]) -> Result<()> {
    let sectors = disk_len() / SECTOR_LEN;
    disk.write_all_at(&first_sector(boot_program, sectors), 0)?;
    let table = table()?;
    let (first, last) = (1, sectors - 1);
    disk.write_all_at(&header(first, last, first + 1, sectors, &table)?, first * SECTOR_LEN)?;
    disk.write_all_at(&table, (first + 1) * SECTOR_LEN)?;
    disk.write_all_at(&table, (last - TABLE_SECTORS) * SECTOR_LEN)?;
    disk.write_all_at(&header(last, first, last - TABLE_SECTORS, sectors, &table)?, last * SECTOR_LEN)?;
    Ok(())
}

/// The program, and one old-style partition over everything, so that old tools keep off.
fn first_sector(program: &[u8; 512], sectors: u64) -> [u8; 512] {
    let mut sector = *program;
    sector[440..510].fill(0);
    // Some BIOSes start a disk only if a partition is marked active.
    sector[446..454].copy_from_slice(&[0x80, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    sector[454..458].copy_from_slice(&1_u32.to_le_bytes());
    let covered = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    sector[458..462].copy_from_slice(&covered.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn table() -> Result<Vec<u8>> {
    let mut table = vec![0; ENTRIES * ENTRY_LEN];
    for (index, partition) in PARTITIONS.iter().enumerate() {
        let entry = &mut table[index * ENTRY_LEN..][..ENTRY_LEN];
        let begin = begin_of(partition.name)? / SECTOR_LEN;
        entry[..16].copy_from_slice(&uuid_bytes(partition.kind)?);
        let mut unique = uuid_bytes(DISK)?;
        unique[15] = u8::try_from(index + 1)?;
        entry[16..32].copy_from_slice(&unique);
        entry[32..40].copy_from_slice(&begin.to_le_bytes());
        entry[40..48].copy_from_slice(&(begin + partition.size / SECTOR_LEN - 1).to_le_bytes());
        for (place, unit) in entry[56..].chunks_exact_mut(2).zip(partition.name.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    Ok(table)
}

fn header(own: u64, other: u64, table_at: u64, sectors: u64, table: &[u8]) -> Result<Vec<u8>> {
    let mut header = Vec::with_capacity(SECTOR_LEN as usize);
    header.extend(b"EFI PART");
    for word in [0x0001_0000_u32, 92, 0, 0] {
        header.extend(word.to_le_bytes());
    }
    for place in [own, other, TABLE_SECTORS + 2, sectors - TABLE_SECTORS - 2] {
        header.extend(place.to_le_bytes());
    }
    header.extend(uuid_bytes(DISK)?);
    header.extend(table_at.to_le_bytes());
    for word in [ENTRIES as u32, ENTRY_LEN as u32, crc32(table)] {
        header.extend(word.to_le_bytes());
    }
    let sum = crc32(&header);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header.resize(SECTOR_LEN as usize, 0);
    Ok(header)
}

/// The first three fields are little-endian.
pub fn uuid_bytes(text: &str) -> Result<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).with_context(|| format!("{text} is no identifier"))?;
    let b = number.to_be_bytes();
    Ok([b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]])
}

/// CRC-32 as in zip; a few KiB are summed, so no table is worth its lines.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_identifiers_are_the_usual_ones() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let bytes = uuid_bytes(EFI_SYSTEM).expect("an identifier");
        assert_eq!(bytes[..8], [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11]);
        assert_eq!(bytes[8..], [0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    }

    #[test]
    fn partitions_follow_each_other() {
        assert_eq!(begin_of("reprise-bios").ok(), Some(MIB));
        assert_eq!(begin_of("reprise-esp").ok(), Some(2 * MIB));
        assert_eq!(begin_of("reprise-root-a").ok(), Some(82 * MIB));
        assert_eq!(begin_of("reprise-boot-b").ok(), Some(50 * MIB));
        let state = begin_of("reprise-state").expect("there is one") + 64 * MIB;
        assert_eq!(state + MARGIN, disk_len());
        assert!(begin_of("reprise-none").is_err());
    }
}
