//! The disks of the machine, and what is on them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use reprise_api::{DiskStatus, DiskUsage};
use reprise_media::{HEAD_LEN, probe_content};

use super::gpt::{Guid, Table};

/// Bytes at the end that are looked at and, before a pool is made, cleared.
pub(crate) const TAIL_LEN: u64 = 1 << 20;
/// The partitions of a pool.
pub(crate) const CACHE_NAME: &str = "reprise-cache";
/// See [`CACHE_NAME`].
pub(crate) const DATA_NAME: &str = "reprise-data";
/// A partition that every disk with this firmware has.
pub(crate) const CONFIG_NAME: &str = "reprise-config";
/// Kinds of block devices that are no disks: memory, files, parts of other devices, drives for discs.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock", "drbd"];

/// Where disks are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// `/sys`.
    pub(crate) sys: PathBuf,
    /// `/dev`.
    pub(crate) dev: PathBuf,
    /// Only these names; all disks if absent.
    pub(crate) only: Option<Vec<String>>,
}

impl Default for Place {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), only: None }
    }
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its name at the kernel, such as `sda`.
    pub(crate) name: String,
    /// Its device.
    pub(crate) path: PathBuf,
    /// Its serial number, or the path.
    pub(crate) serial: String,
    /// Maker and model.
    pub(crate) model: String,
    /// Its size.
    pub(crate) size: u64,
    /// Bytes of a logical block.
    pub(crate) block: u64,
    /// False for sticks, cards and what hangs on USB: never taken unasked.
    pub(crate) fixed: bool,
    /// What is on it.
    pub(crate) content: Content,
}

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing.
    Blank,
    /// A partition table; and whether the head is otherwise as ours are.
    Partitioned(Table),
    /// Something else.
    Other(String),
    /// It cannot be read.
    Failed(String),
}

impl Disk {
    /// True if it has a serial number, and so can be told from a disk that takes its place.
    pub(crate) fn has_serial(&self) -> bool {
        self.serial != self.path.to_string_lossy()
    }

    /// The partition table.
    pub(crate) fn table(&self) -> Option<&Table> {
        if let Content::Partitioned(table) = &self.content { Some(table) } else { None }
    }

    /// The GUID of the cache partition, where the disk carries a pool.
    pub(crate) fn pool(&self) -> Option<Guid> {
        let table = self.table()?;
        table.named(DATA_NAME)?;
        Some(table.named(CACHE_NAME)?.guid)
    }

    /// How it is shown. `boot` is the disk the firmware runs from, `pool` the cache partition of the box's pool.
    pub(crate) fn status(&self, boot: Option<&Path>, pool: Option<&str>) -> DiskStatus {
        let carries_pool = self.pool().is_some_and(|guid| Some(guid.to_string().as_str()) == pool);
        let usage = match &self.content {
            Content::Failed(reason) => DiskUsage::Failed { reason: reason.clone() },
            Content::Partitioned(table) if boot == Some(&self.path) => DiskUsage::Boot {
                free_bytes: table.free_tail(self.size).map_or(0, |(from, end)| end - from),
                pool: carries_pool,
            },
            _ if boot == Some(&self.path) => DiskUsage::Boot { free_bytes: 0, pool: false },
            Content::Partitioned(_) if carries_pool => DiskUsage::Pool,
            Content::Partitioned(table) if self.pool().is_some() && table.named(CONFIG_NAME).is_none() => {
                DiskUsage::Foreign { what: "the pool of another box".to_owned() }
            }
            Content::Partitioned(table) if table.named(CONFIG_NAME).is_some() => {
                DiskUsage::Foreign { what: "another copy of this firmware".to_owned() }
            }
            Content::Partitioned(table) => {
                let count = table.partitions.len();
                DiskUsage::Foreign { what: format!("GPT with {count} partition{}", if count == 1 { "" } else { "s" }) }
            }
            Content::Blank => DiskUsage::Blank,
            Content::Other(what) => DiskUsage::Foreign { what: what.clone() },
        };
        DiskStatus {
            path: self.path.display().to_string(),
            serial: self.serial.clone(),
            model: self.model.clone(),
            size_bytes: self.size,
            usage,
        }
    }
}

impl Place {
    /// All disks, in the order of their names.
    pub(crate) fn list(&self) -> Vec<Disk> {
        let mut names: Vec<String> = fs::read_dir(self.sys.join("block"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| match &self.only {
                Some(only) => only.contains(name),
                None => !NO_DISKS.iter().any(|kind| name.starts_with(kind)),
            })
            .collect();
        // sdb before sdaa.
        names.sort_by_key(|name| (name.len(), name.clone()));
        names.iter().filter_map(|name| self.disk(name)).collect()
    }

    fn disk(&self, name: &str) -> Option<Disk> {
        let sys = self.sys.join("block").join(name);
        let size = read_number(&sys.join("size"))? * 512;
        if size == 0 {
            // A card reader without a card.
            return None;
        }
        let path = self.dev.join(name);
        let block = read_number(&sys.join("queue/logical_block_size")).unwrap_or(512);
        let on_usb = fs::canonicalize(&sys).is_ok_and(|real| real.to_string_lossy().contains("/usb"));
        let fixed = !on_usb && read_number(&sys.join("removable")) != Some(1);
        let content = if read_number(&sys.join("ro")) == Some(1) {
            Content::Failed("it is write-protected".to_owned())
        } else {
            read_content(&path, size, block).unwrap_or_else(|error| Content::Failed(error.to_string()))
        };
        Some(Disk {
            name: name.to_owned(),
            serial: serial(&sys).unwrap_or_else(|| path.display().to_string()),
            model: model(&sys),
            path,
            size,
            block,
            fixed,
            content,
        })
    }

    /// The device of a partition of a disk. None while the kernel does not know it.
    pub(crate) fn partition(&self, disk: &str, number: u32) -> Option<PathBuf> {
        let folder = self.sys.join("block").join(disk);
        let entries = fs::read_dir(folder).ok()?.flatten();
        entries
            .filter(|e| read_number(&e.path().join("partition")) == Some(u64::from(number)))
            .find_map(|e| Some(self.dev.join(e.file_name().to_str()?)))
    }

    /// Numbers of the partitions the kernel knows.
    pub(crate) fn known_partitions(&self, disk: &str) -> Vec<u32> {
        let entries = fs::read_dir(self.sys.join("block").join(disk)).into_iter().flatten().flatten();
        entries.filter_map(|e| u32::try_from(read_number(&e.path().join("partition"))?).ok()).collect()
    }

    /// Makes sure that the kernel knows a partition of the disk's table, and gives its device.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn ensure_partition(&self, disk: &Disk, table: &Table, number: u32) -> io::Result<PathBuf> {
        if let Some(path) = self.partition(&disk.name, number) {
            return Ok(path);
        }
        let missing = || io::Error::other(format!("{} has no partition {number}", disk.path.display()));
        let partition = table.partitions.iter().find(|p| p.number == number).ok_or_else(missing)?;
        let (offset, len) = partition.range(table.block);
        reprise_media::add_partition(&File::open(&disk.path)?, number, offset, len)?;
        // devtmpfs has made the node when the call returns.
        self.partition(&disk.name, number).ok_or_else(missing)
    }
}

fn read_text(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let clean: String = text.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { ' ' }).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The serial number as the disk tells it: virtio and NVMe, SCSI and ATA (page 0x80), else the world-wide name.
fn serial(sys: &Path) -> Option<String> {
    let page = || {
        let page = fs::read(sys.join("device/vpd_pg80")).ok()?;
        // SPC-4, section 7.8.15: four bytes of header, the last two of them the length.
        let len = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
        let text = page.get(4..4 + len)?.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { ' ' });
        let text = text.collect::<String>().trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    read_text(&sys.join("serial"))
        .or_else(|| read_text(&sys.join("device/serial")))
        .or_else(page)
        .or_else(|| read_text(&sys.join("wwid")))
        .or_else(|| read_text(&sys.join("device/wwid")))
}

fn model(sys: &Path) -> String {
    let parts = ["device/vendor", "device/model"].map(|file| read_text(&sys.join(file)));
    // A PCI number is no maker's name.
    let parts: Vec<String> = parts.into_iter().flatten().filter(|p| !p.starts_with("0x")).collect();
    if parts.is_empty() { "unknown".to_owned() } else { parts.join(" ") }
}

fn read_content(path: &Path, size: u64, block: u64) -> io::Result<Content> {
    let file = OpenOptions::new().read(true).open(path)?;
    let mut head = vec![0; HEAD_LEN.min(usize::try_from(size).unwrap_or(HEAD_LEN))];
    file.read_exact_at(&mut head, 0)?;
    if let Some(table) = Table::read(&head, block) {
        return Ok(Content::Partitioned(table));
    }
    let mut tail = vec![0; TAIL_LEN.min(size) as usize];
    file.read_exact_at(&mut tail, size - TAIL_LEN.min(size))?;
    let found = probe_content(&head, &tail, size);
    Ok(if !found.is_foreign() {
        Content::Blank
    } else if found.signatures.is_empty() {
        Content::Other("unknown data".to_owned())
    } else {
        Content::Other(found.to_string())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder that looks like the kernel's, with disks that are files.
    pub(crate) struct Machine {
        _dir: tempfile::TempDir,
        pub(crate) place: Place,
    }

    impl Machine {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let place = Place { sys: dir.path().join("sys"), dev: dir.path().join("dev"), only: None };
            fs::create_dir_all(place.sys.join("block")).unwrap();
            fs::create_dir_all(&place.dev).unwrap();
            Self { _dir: dir, place }
        }

        pub(crate) fn disk(&self, name: &str, serial: Option<&str>, size: u64) -> PathBuf {
            let sys = self.place.sys.join("block").join(name);
            fs::create_dir_all(sys.join("device")).unwrap();
            fs::create_dir_all(sys.join("queue")).unwrap();
            fs::write(sys.join("size"), format!("{}\n", size / 512)).unwrap();
            fs::write(sys.join("queue/logical_block_size"), "512\n").unwrap();
            fs::write(sys.join("removable"), "0\n").unwrap();
            fs::write(sys.join("ro"), "0\n").unwrap();
            if let Some(serial) = serial {
                fs::write(sys.join("serial"), serial).unwrap();
            }
            let path = self.place.dev.join(name);
            File::create(&path).unwrap().set_len(size).unwrap();
            path
        }

        pub(crate) fn put(&self, name: &str, table: &Table) {
            let path = self.place.dev.join(name);
            let file = OpenOptions::new().write(true).open(path).unwrap();
            for piece in table.pieces(file.metadata().unwrap().len()) {
                file.write_all_at(&piece.bytes, piece.offset).unwrap();
            }
        }
    }

    const MIB: u64 = 1 << 20;

    fn usage(machine: &Machine, name: &str) -> DiskUsage {
        let disks = machine.place.list();
        let boot = machine.place.dev.join("sda");
        disks.iter().find(|d| d.name == name).unwrap().status(Some(&boot), Some("x")).usage
    }

    #[test]
    fn disks_are_told_by_what_is_on_them() {
        let machine = Machine::new();
        for name in ["sda", "sdb", "vdc", "sdaa", "sde", "sdf"] {
            machine.disk(name, None, 64 * MIB);
        }
        for name in ["loop0", "ram1", "zram0", "dm-3", "sr0", "md127"] {
            machine.disk(name, None, 64 * MIB);
        }
        machine.disk("sdz", None, 0);
        let mut firmware = Table::new(512, Guid::random().unwrap());
        firmware.add(7, Guid::random().unwrap(), CONFIG_NAME, MIB, 17 * MIB);
        machine.put("sda", &firmware);
        machine.put("sde", &firmware);
        let mut pool = Table::new(512, Guid::random().unwrap());
        pool.add(1, Guid::random().unwrap(), CACHE_NAME, MIB, 32 * MIB);
        pool.add(2, Guid::random().unwrap(), DATA_NAME, 32 * MIB, 63 * MIB);
        machine.put("sdf", &pool);
        let file = OpenOptions::new().write(true).open(machine.place.dev.join("vdc")).unwrap();
        file.write_all_at(b"x", 64 * MIB - 1).unwrap();
        let ext = OpenOptions::new().write(true).open(machine.place.dev.join("sdaa")).unwrap();
        ext.write_all_at(b"\x53\xef", 1080).unwrap();

        let names: Vec<String> = machine.place.list().into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["sda", "sdb", "sde", "sdf", "vdc", "sdaa"]);
        assert_eq!(usage(&machine, "sda"), DiskUsage::Boot { free_bytes: 46 * MIB, pool: false });
        assert_eq!(usage(&machine, "sdb"), DiskUsage::Blank);
        let foreign = |what: &str| DiskUsage::Foreign { what: what.to_owned() };
        assert_eq!(usage(&machine, "vdc"), foreign("unknown data"));
        assert_eq!(usage(&machine, "sdaa"), foreign("a file system (ext)"));
        assert_eq!(usage(&machine, "sde"), foreign("another copy of this firmware"));
        assert_eq!(usage(&machine, "sdf"), foreign("the pool of another box"));
        let guid = pool.partitions[0].guid.to_string();
        let disk = machine.place.list().into_iter().find(|d| d.name == "sdf").unwrap();
        assert_eq!(disk.status(None, Some(&guid)).usage, DiskUsage::Pool);
        pool.partitions.remove(1);
        machine.put("sdf", &pool);
        assert_eq!(usage(&machine, "sdf"), foreign("GPT with 1 partition"));
    }

    #[test]
    fn serials_are_read_where_each_kind_keeps_them() {
        let machine = Machine::new();
        let sys = |name: &str| machine.place.sys.join("block").join(name);
        let serial = |name: &str| machine.place.disk(name).unwrap().serial;
        machine.disk("vda", Some("VIRT-1\n"), MIB);
        machine.disk("nvme0n1", None, MIB);
        fs::write(sys("nvme0n1").join("device/serial"), "S4EV NX0M   \n").unwrap();
        machine.disk("sda", None, MIB);
        fs::write(sys("sda").join("device/vpd_pg80"), b"\0\x80\0\x08  WD-42  ").unwrap();
        fs::write(sys("sda").join("device/wwid"), "naa.5000").unwrap();
        machine.disk("sdb", None, MIB);
        fs::write(sys("sdb").join("device/wwid"), "naa.5001").unwrap();
        machine.disk("sdc", None, MIB);
        machine.disk("sdd", None, MIB);
        fs::write(sys("sdd").join("device/vpd_pg80"), b"\0\x80\xff\xff ").unwrap();
        assert_eq!(serial("vda"), "VIRT-1");
        assert_eq!(serial("nvme0n1"), "S4EV NX0M");
        assert_eq!(serial("sda"), "WD-42");
        assert_eq!(serial("sdb"), "naa.5001");
        for none in ["sdc", "sdd"] {
            let disk = machine.place.disk(none).unwrap();
            assert_eq!(disk.serial, disk.path.display().to_string());
            assert!(!disk.has_serial());
        }
    }

    #[test]
    fn a_protected_or_broken_disk_has_failed_and_a_stick_is_not_fixed() {
        let machine = Machine::new();
        machine.disk("sdb", None, MIB);
        fs::write(machine.place.sys.join("block/sdb/ro"), "1").unwrap();
        fs::remove_file(machine.disk("sdc", None, MIB)).unwrap();
        machine.disk("sdd", None, MIB);
        fs::write(machine.place.sys.join("block/sdd/removable"), "1").unwrap();
        let disks = machine.place.list();
        assert!(matches!(&disks[0].content, Content::Failed(why) if why.contains("protected")));
        assert!(matches!(disks[1].content, Content::Failed(_)));
        assert!(!disks[2].fixed);
    }
}
