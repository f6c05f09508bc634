//! Finds a partition by the identifier the boot loader gave, by reading the partition tables (GPT) of all disks.
//!
//! The table is only read here, and its checksums are not looked at: what is found is checked by the root's own hashes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const SECTOR_LEN: u64 = 512;
/// A table has 128 entries of 128 bytes nearly everywhere; nobody needs more than this.
const ENTRIES_MAX: u32 = 1024;
const ENTRY_LEN_MAX: u32 = 4096;

/// A partition that a table names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Counted from 1.
    pub(super) number: u32,
    /// In the usual way of writing it, in small letters.
    pub(super) uuid: String,
    pub(super) name: String,
}

/// A partition the kernel knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) device: PathBuf,
    /// `MAJOR:MINOR`
    pub(super) number: String,
}

/// A disk with the partition that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The disk's name in `/sys/block`.
    pub(super) disk: String,
    pub(super) entries: Vec<Entry>,
}

impl Found {
    /// The partition of that identifier.
    pub(super) fn by_uuid(&self, uuid: &str) -> Result<Partition> {
        self.one(|e| e.uuid == uuid.to_ascii_lowercase())
    }

    /// The partition of that name.
    pub(super) fn by_name(&self, name: &str) -> Result<Partition> {
        self.one(|e| e.name == name)
    }

    fn one(&self, is_it: impl Fn(&Entry) -> bool) -> Result<Partition> {
        let entry = self.entries.iter().find(|e| is_it(e)).context("the partition table has no such entry")?;
        let disk = Path::new("/sys/block").join(&self.disk);
        for child in std::fs::read_dir(&disk).with_context(|| format!("read {}", disk.display()))? {
            let folder = child?.path();
            let text = |file: &str| std::fs::read_to_string(folder.join(file)).map(|t| t.trim().to_owned());
            if text("partition").is_ok_and(|n| n == entry.number.to_string()) {
                let name = folder.file_name().context("name of a partition")?;
                return Ok(Partition { device: Path::new("/dev").join(name), number: text("dev")? });
            }
        }
        bail!("the kernel does not know partition {} of {}", entry.number, self.disk)
    }
}

/// The disk that has the partition; none while it has not come to light. Of several the first by name.
pub(super) fn find_disk(uuid: &str) -> Option<Found> {
    let uuid = uuid.to_ascii_lowercase();
    let mut disks: Vec<String> = std::fs::read_dir("/sys/block").ok()?.flatten().map(name_of).collect();
    disks.retain(|d| !["loop", "ram", "dm-", "zram", "sr", "fd"].iter().any(|kind| d.starts_with(kind)));
    disks.sort();
    disks.into_iter().find_map(|disk| {
        // A disk that cannot be read is not the one.
        let file = File::open(Path::new("/dev").join(&disk)).ok()?;
        let entries = entries(&file).ok()?;
        entries.iter().any(|e| e.uuid == uuid).then_some(Found { disk, entries })
    })
}

fn name_of(entry: std::fs::DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// The entries in use of a disk's first table.
fn entries(disk: &File) -> Result<Vec<Entry>> {
    let mut header = [0; SECTOR_LEN as usize];
    disk.read_exact_at(&mut header, SECTOR_LEN).context("read the partition table's header")?;
    if !header.starts_with(b"EFI PART") {
        bail!("no partition table");
    }
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let begin = u64::from(word(72)) | u64::from(word(76)) << 32;
    let (count, len) = (word(80), word(84));
    if count > ENTRIES_MAX || !(128..=ENTRY_LEN_MAX).contains(&len) {
        bail!("a partition table of {count} entries of {len} bytes");
    }
    let begin = begin.checked_mul(SECTOR_LEN).context("begin of the partition table")?;
    let mut table = vec![0; (count * len) as usize];
    disk.read_exact_at(&mut table, begin).context("read the partition table")?;
    let entries = table.chunks_exact(len as usize).zip(1..);
    Ok(entries.filter(|(e, _)| e[..16] != [0; 16]).map(|(e, number)| entry(e, number)).collect())
}

fn entry(bytes: &[u8], number: u32) -> Entry {
    let name: Vec<u16> = bytes[56..128].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
    let name = String::from_utf16_lossy(&name).trim_end_matches('\0').to_owned();
    Entry { number, uuid: uuid_text(&bytes[16..32]), name }
}

/// The first three fields are little-endian.
fn uuid_text(b: &[u8]) -> String {
    let hex = |places: &[usize]| places.iter().map(|p| format!("{:02x}", b[*p])).collect::<String>();
    [hex(&[3, 2, 1, 0]), hex(&[5, 4]), hex(&[7, 6]), hex(&[8, 9]), hex(&[10, 11, 12, 13, 14, 15])].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entry_at: usize) -> Vec<u8> {
        let mut disk = vec![0; 34 * 512];
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72..512 + 80].copy_from_slice(&2_u64.to_le_bytes());
        disk[512 + 80..512 + 84].copy_from_slice(&128_u32.to_le_bytes());
        disk[512 + 84..512 + 88].copy_from_slice(&128_u32.to_le_bytes());
        let at = 1024 + entry_at * 128;
        disk[at] = 1;
        for (i, byte) in (0x10..0x20).enumerate() {
            disk[at + 16 + i] = byte;
        }
        for (i, letter) in "root".encode_utf16().enumerate() {
            disk[at + 56 + 2 * i..at + 58 + 2 * i].copy_from_slice(&letter.to_le_bytes());
        }
        disk
    }

    fn read(disk: &[u8]) -> Result<Vec<Entry>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, disk).unwrap();
        entries(&File::open(path).unwrap())
    }

    #[test]
    fn a_table_is_read() {
        let uuid = "13121110-1514-1716-1819-1a1b1c1d1e1f".to_owned();
        assert_eq!(read(&table(3)).unwrap(), [Entry { number: 4, uuid, name: "root".into() }]);
    }

    #[test]
    fn hostile_tables_are_refused() {
        for (at, value) in [(80, 0xffff_ffff_u32), (84, 0), (84, 1 << 30), (72, 0xffff_ffff), (76, 0xffff_ffff), (0, 0)]
        {
            let mut disk = table(0);
            disk[512 + at..512 + at + 4].copy_from_slice(&value.to_le_bytes());
            assert!(read(&disk).is_err(), "{value:#x} at {at}");
        }
        assert!(read(&[0; 600]).is_err(), "a short disk");
    }
}
