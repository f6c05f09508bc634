//! The pool's disk: finding it, making it, mounting its data half.
//!
//! A disk is taken in steps, each of which can be done again: the intent is saved, both ends are cleared, the table is
//! written (which makes the disk the pool's), the file system is made, and the record says that it is made. After a power
//! cut anywhere the next start goes on with the disk the intent names. The format of the cache is the daemon's affair.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::MsFlags;

use super::children::tool;
use super::config::PoolRecord;
use super::disks::{CACHE_NAME, Content, DATA_NAME, Disk, Place, TAIL_LEN};
use super::gpt::{ALIGN, Guid, Table};

/// Smallest room for a pool: mkfs.xfs wants 300 MiB for the data half, and a cache below that is of no use.
pub(crate) const ROOM_MIN: u64 = 1 << 30;
/// Longest time for making a file system; it writes some MiB.
const MKFS_TIME_MAX: Duration = Duration::from_secs(300);
/// The program.
const MKFS_XFS: &str = "mkfs.xfs";

/// What to do about the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is on that disk, by its place in the list.
    Use(usize),
    /// There is one that nothing is known of, since the settings were lost: it is taken back if it can be read.
    Adopt(usize),
    /// A disk is to be made one; or the making goes on.
    Make(usize),
    /// Nothing; a person has to do something.
    None(String),
    /// The disk is not there.
    Missing(String),
}

/// Decides what to do about the pool at a start.
pub(crate) fn decide(record: Option<&PoolRecord>, by_hand: bool, disks: &[Disk], boot: Option<&Path>) -> Decision {
    let is_boot = |disk: &Disk| boot == Some(disk.path.as_path());
    if let Some(record) = record {
        let ours = disks.iter().position(|d| d.pool().is_some_and(|guid| guid.to_string() == record.cache_guid));
        return match ours {
            Some(at) if record.made => Decision::Use(at),
            Some(at) => Decision::Make(at),
            None if record.made => Decision::Missing(record.serial.clone()),
            None => match disks.iter().position(|d| d.serial == record.serial) {
                // A path names whatever hangs there today: without a serial number only an empty disk is the same one.
                Some(at) if disks[at].has_serial() || is_boot(&disks[at]) || disks[at].content == Content::Blank => {
                    Decision::Make(at)
                }
                _ => Decision::Missing(record.serial.clone()),
            },
        };
    }
    let list = |kind: &str, found: &[usize]| {
        let shown: Vec<String> =
            found.iter().map(|at| format!("{} ({})", disks[*at].path.display(), disks[*at].serial)).collect();
        format!("{kind}: {}", shown.join(", "))
    };
    let pools = positions(disks, |d| d.pool().is_some());
    match pools[..] {
        [at] => return Decision::Adopt(at),
        [] => {}
        _ => {
            return Decision::None(list(
                "several disks carry a pool and none is known to be the box's; choose one",
                &pools,
            ));
        }
    }
    let others = positions(disks, |d| !is_boot(d) && d.fixed && !matches!(d.content, Content::Failed(_)));
    let blank: Vec<usize> = others.iter().copied().filter(|at| disks[*at].content == Content::Blank).collect();
    let large: Vec<usize> = blank.iter().copied().filter(|at| room(&disks[*at], false).is_some()).collect();
    if by_hand {
        return Decision::None(
            "the settings were lost, and no disk is taken unasked after that; choose one".to_owned(),
        );
    }
    match large[..] {
        [at] => return Decision::Make(at),
        [] => {}
        _ => return Decision::None(list("several disks are blank; choose one for the pool", &large)),
    }
    if !others.is_empty() && others != blank {
        return Decision::None(list("the disks carry something; choose the one to give up", &others));
    }
    match disks.iter().position(is_boot) {
        Some(at) if room(&disks[at], true).is_some() => Decision::Make(at),
        _ => Decision::None(format!("there is no disk for the pool: add one of at least {} GiB", ROOM_MIN >> 30)),
    }
}

fn positions(disks: &[Disk], keep: impl Fn(&Disk) -> bool) -> Vec<usize> {
    disks.iter().enumerate().filter(|(_, d)| keep(d)).map(|(at, _)| at).collect()
}

/// What a pool on the disk would have: from byte, to byte. None where that is too little.
pub(crate) fn room(disk: &Disk, is_boot: bool) -> Option<(u64, u64)> {
    let empty = Table::new(disk.block, Guid::random().ok()?);
    let without_pool = |table: &Table| {
        let mut table = table.clone();
        table.partitions.retain(|p| p.name != CACHE_NAME && p.name != DATA_NAME);
        table
    };
    let table = match (is_boot, disk.table()) {
        (true, Some(table)) => without_pool(table),
        (true, None) => return None,
        (false, _) => empty,
    };
    table.free_tail(disk.size).filter(|(from, end)| end - from >= ROOM_MIN)
}

/// The table of a disk with the pool on it: cache first, both halves whole MiB, an odd one goes to the data.
pub(crate) fn plan(disk: &Disk, is_boot: bool, cache: Guid) -> Result<Table> {
    let (from, end) = room(disk, is_boot).context("the disk has too little room for a pool")?;
    let half = (end - from) / 2 / ALIGN * ALIGN;
    let mut table = match disk.table().filter(|_| is_boot) {
        Some(table) => table.clone(),
        None => Table::new(disk.block, Guid::random()?),
    };
    table.partitions.retain(|p| p.name != CACHE_NAME && p.name != DATA_NAME);
    let number = table.partitions.iter().map(|p| p.number).max().unwrap_or(0) + 1;
    table.add(number, cache, CACHE_NAME, from, from + half);
    table.add(number + 1, Guid::random()?, DATA_NAME, from + half, end);
    Ok(table)
}

/// The devices of the two halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halves {
    /// The cache, raw.
    pub(crate) cache: PathBuf,
    /// The data, XFS.
    pub(crate) data: PathBuf,
}

/// The halves of the pool on a disk that has one.
///
/// # Errors
/// It has none, or the kernel does not take the partitions.
pub(crate) fn halves(place: &Place, disk: &Disk) -> Result<Halves> {
    let table = disk.table().context("the disk has no partition table")?;
    let device = |name: &str| -> Result<PathBuf> {
        let number = table.named(name).with_context(|| format!("the disk has no partition {name}"))?.number;
        place.ensure_partition(disk, table, number).with_context(|| format!("use partition {name}"))
    };
    Ok(Halves { cache: device(CACHE_NAME)?, data: device(DATA_NAME)? })
}

/// Makes a pool on a disk, or goes on with it. What the disk holds is lost; on the boot disk, only what is behind the
/// firmware. The GUID of the cache is the one the intent names.
///
/// # Errors
/// The disk is in use, too small, or failed. Can be called again.
pub(crate) fn make(place: &Place, disk: &Disk, is_boot: bool, cache: Guid) -> Result<Halves> {
    let started = disk.pool() == Some(cache);
    let mut disk = disk.clone();
    if !started {
        let table = plan(&disk, is_boot, cache)?;
        if !is_boot {
            release(place, &disk)?;
        }
        clear_ends(&disk, &table)?;
        write_table(&disk, &table)?;
        disk.content = Content::Partitioned(table);
    }
    let halves = halves(place, &disk)?;
    make_xfs(&halves.data)?;
    Ok(halves)
}

/// Makes the file system of the data half. What it held is not overwritten.
///
/// # Errors
/// mkfs.xfs says why.
pub(crate) fn make_xfs(data: &Path) -> Result<()> {
    let path = data.to_str().context("the device's name is no text")?;
    tool(MKFS_XFS, &["-q", "-f", "-K", "-L", "reprise-data", path], MKFS_TIME_MAX)?;
    Ok(())
}

/// Mounts the data half.
///
/// # Errors
/// The file system is damaged, or is none.
pub(crate) fn mount(data: &Path, at: &Path) -> Result<()> {
    std::fs::create_dir_all(at).with_context(|| format!("make {}", at.display()))?;
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some(data), at, Some("xfs"), flags, None::<&str>)
        .with_context(|| format!("mount {} at {}", data.display(), at.display()))
}

/// Makes the kernel forget the partitions a disk had. Fails while one of them is in use.
fn release(place: &Place, disk: &Disk) -> Result<()> {
    let file = open_alone(disk)?;
    for number in place.known_partitions(&disk.name) {
        reprise_media::delete_partition(&file, number)
            .with_context(|| format!("partition {number} of {} is in use", disk.path.display()))?;
    }
    Ok(())
}

/// Opens a disk so that the kernel refuses if a file system or a RAID is on it.
fn open_alone(disk: &Disk) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_EXCL);
    options.open(&disk.path).with_context(|| format!("{} is in use", disk.path.display()))
}

/// Clears what is found by its place: both ends of the disk, unless the firmware is there, and of both halves.
fn clear_ends(disk: &Disk, table: &Table) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(&disk.path)?;
    let mut ranges = Vec::new();
    for name in [CACHE_NAME, DATA_NAME] {
        let partition = table.named(name).context("the plan has no such partition")?;
        let (offset, len) = partition.range(table.block);
        ranges.push((offset, CLEAR_LEN.min(len)));
        ranges.push((offset + len - TAIL_LEN, TAIL_LEN));
    }
    if table.partitions.len() == 2 {
        ranges.push((0, ALIGN));
        ranges.push((disk.size - TAIL_LEN, TAIL_LEN));
    }
    for (offset, len) in ranges {
        clear(&file, offset, len).with_context(|| format!("clear {} at {offset}", disk.path.display()))?;
    }
    file.sync_all().with_context(|| format!("flush {}", disk.path.display()))
}

/// Bytes cleared at the beginning of each half: all superblocks of the cache lie there, and those of any file system.
pub(crate) const CLEAR_LEN: u64 = 16 << 20;

/// Writes zeros.
///
/// # Errors
/// The disk failed.
pub(crate) fn clear(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; ALIGN as usize];
    let (mut at, end) = (offset, offset + len);
    while at < end {
        let piece = (end - at).min(ALIGN) as usize;
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// Writes a partition table, each piece durable before the next.
///
/// # Errors
/// The disk failed.
pub(crate) fn write_table(disk: &Disk, table: &Table) -> Result<()> {
    ensure!(disk.size >= 4 * ALIGN, "the disk is too small for a partition table");
    let file = OpenOptions::new().read(true).write(true).open(&disk.path)?;
    for piece in table.pieces(disk.size) {
        file.write_all_at(&piece.bytes, piece.offset)
            .and_then(|()| file.sync_data())
            .with_context(|| format!("write the partition table of {}", disk.path.display()))?;
    }
    Ok(())
}

/// Gives the boot disk GUIDs of its own: two disks flashed with the same image must not be taken for one another. The
/// backup table moves to the end of the disk at the same time.
///
/// # Errors
/// The disk failed.
pub(crate) fn refresh_guids(disk: &Disk) -> Result<()> {
    let mut table = disk.table().context("the boot disk has no partition table")?.clone();
    table.disk = Guid::random()?;
    for partition in &mut table.partitions {
        if partition.name != CACHE_NAME && partition.name != DATA_NAME {
            partition.guid = Guid::random()?;
        }
    }
    write_table(disk, &table)
}

/// Checks that a person may take a disk, and says which disk it is.
///
/// # Errors
/// Why not, in words for them.
pub(crate) fn check_take<'a>(
    disks: &'a [Disk],
    boot: Option<&Path>,
    path: &str,
    typed: Option<&str>,
) -> Result<&'a Disk> {
    let Some(disk) = disks.iter().find(|d| d.path.to_string_lossy() == path) else { bail!("there is no disk {path}") };
    let is_boot = boot == Some(disk.path.as_path());
    if let Content::Failed(reason) = &disk.content {
        bail!("{path} cannot be used: {reason}");
    }
    if room(disk, is_boot).is_none() {
        bail!("{path} has too little room: a pool takes at least {} GiB", ROOM_MIN >> 30);
    }
    let empty = disk.content == Content::Blank || (is_boot && disk.pool().is_none());
    match typed {
        _ if empty => Ok(disk),
        Some(typed) if typed.trim() == disk.serial => Ok(disk),
        Some(_) => bail!("that is not the serial number of {path}"),
        None => bail!("{path} carries something; its serial number has to be typed to give that up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn disk(name: &str, size: u64, content: Content) -> Disk {
        Disk {
            name: name.to_owned(),
            path: Path::new("/dev").join(name),
            serial: format!("S-{name}"),
            model: String::new(),
            size,
            block: 512,
            fixed: true,
            content,
        }
    }

    fn firmware() -> Content {
        let mut table = Table::new(512, Guid::random().unwrap());
        table.add(7, Guid::random().unwrap(), "reprise-config", ALIGN, 17 * ALIGN);
        table.add(8, Guid::random().unwrap(), "reprise-state", 17 * ALIGN, 81 * ALIGN);
        Content::Partitioned(table)
    }

    fn pool_on(disk: &Disk, is_boot: bool) -> (Disk, String) {
        let guid = Guid::random().unwrap();
        let table = plan(disk, is_boot, guid).unwrap();
        (Disk { content: Content::Partitioned(table), ..disk.clone() }, guid.to_string())
    }

    fn foreign() -> Content {
        Content::Other("a file system (ext)".to_owned())
    }

    fn decided(disks: &[Disk]) -> Decision {
        decide(None, false, disks, Some(Path::new("/dev/sda")))
    }

    fn asks(decision: &Decision, words: &str) {
        assert!(matches!(decision, Decision::None(why) if why.contains(words)), "{decision:?}: {words}");
    }

    #[test]
    fn one_blank_disk_is_taken_and_several_or_foreign_ones_are_not() {
        let boot = disk("sda", 8 * GIB, firmware());
        let small = disk("sdb", 100 << 20, Content::Blank);
        let (one, two) = (disk("sdc", 8 * GIB, Content::Blank), disk("sdd", 8 * GIB, Content::Blank));
        let other = disk("sde", 8 * GIB, foreign());
        let stick = Disk { fixed: false, ..disk("sdf", 8 * GIB, Content::Blank) };
        let broken = disk("sdg", 8 * GIB, Content::Failed("no".into()));
        let full = disk("sda", 300 << 20, firmware());
        assert_eq!(decided(&[boot.clone(), one.clone()]), Decision::Make(1));
        assert_eq!(decided(&[boot.clone(), small.clone(), one.clone(), other.clone()]), Decision::Make(2));
        asks(&decided(&[boot.clone(), one.clone(), two.clone()]), "several disks are blank");
        asks(&decided(&[boot.clone(), other.clone()]), "carry something");
        assert_eq!(decided(std::slice::from_ref(&boot)), Decision::Make(0), "the rest of the only disk");
        assert_eq!(decided(&[boot.clone(), stick.clone(), broken]), Decision::Make(0));
        asks(&decided(&[full.clone(), stick]), "add one");
        asks(&decided(&[full]), "add one");
        asks(&decide(None, true, &[boot, one], Some(Path::new("/dev/sda"))), "settings were lost");
    }

    #[test]
    fn a_pool_is_known_again_by_its_guid_wherever_it_is() {
        let boot = disk("sda", 8 * GIB, firmware());
        let (pool, guid) = pool_on(&disk("sdc", 8 * GIB, Content::Blank), false);
        let (other, _) = pool_on(&disk("sdb", 8 * GIB, Content::Blank), false);
        let blank = disk("sdd", 8 * GIB, Content::Blank);
        let record = |made| PoolRecord { serial: "S-sdc".into(), cache_guid: guid.clone(), made };
        let disks = [boot.clone(), other.clone(), pool.clone(), blank.clone()];
        let at = |record: &PoolRecord, disks: &[Disk]| decide(Some(record), false, disks, Some(Path::new("/dev/sda")));
        assert_eq!(at(&record(true), &disks), Decision::Use(2));
        assert_eq!(at(&record(false), &disks), Decision::Make(2));
        assert_eq!(at(&record(true), &disks[..2]), Decision::Missing("S-sdc".into()));
        // The same disk, but another one was put on it: nothing is made anew by itself.
        let replaced = Disk { content: Content::Blank, ..pool.clone() };
        assert_eq!(at(&record(true), &[boot.clone(), replaced.clone()]), Decision::Missing("S-sdc".into()));
        assert_eq!(at(&record(false), &[boot.clone(), replaced]), Decision::Make(1));
        // The settings were lost.
        assert_eq!(decide(None, true, &[boot.clone(), pool.clone(), blank], None), Decision::Adopt(1));
        asks(&decide(None, true, &[boot, pool, other], None), "several disks carry a pool");
    }

    #[test]
    fn a_disk_without_serial_number_is_gone_on_with_only_while_it_is_empty() {
        let nameless = |content| Disk { serial: "/dev/sdc".into(), ..disk("sdc", 8 * GIB, content) };
        let record = PoolRecord { serial: "/dev/sdc".into(), cache_guid: "x".into(), made: false };
        assert_eq!(decide(Some(&record), false, &[nameless(Content::Blank)], None), Decision::Make(0));
        assert_eq!(decide(Some(&record), false, &[nameless(foreign())], None), Decision::Missing("/dev/sdc".into()));
    }

    #[test]
    fn the_halves_are_equal_and_behind_everything_else() {
        for (disk, is_boot, numbers) in [
            (disk("sdb", 5 * GIB + 12345 * 512, Content::Blank), false, (1, 2)),
            (disk("sdb", 5 * GIB, foreign()), false, (1, 2)),
            (disk("sda", 5 * GIB, firmware()), true, (9, 10)),
            (Disk { block: 4096, ..disk("sdb", 5 * GIB, Content::Blank) }, false, (1, 2)),
        ] {
            let guid = Guid::random().unwrap();
            let table = plan(&disk, is_boot, guid).unwrap();
            let (cache, data) = (table.named(CACHE_NAME).unwrap(), table.named(DATA_NAME).unwrap());
            assert_eq!((cache.number, data.number), numbers);
            let ((c, c_len), (d, d_len)) = (cache.range(disk.block), data.range(disk.block));
            assert_eq!((c % ALIGN, c_len % ALIGN, c + c_len, d_len % ALIGN), (0, 0, d, 0));
            assert!(d_len - c_len <= ALIGN && d + d_len <= disk.size - 34 * disk.block);
            assert!(is_boot == (c >= 81 * ALIGN));
            // Doing it again, after a power cut, gives the same places.
            let again = Disk { content: Content::Partitioned(table.clone()), ..disk.clone() };
            let second = plan(&again, is_boot, guid).unwrap();
            assert_eq!(second.named(CACHE_NAME), table.named(CACHE_NAME));
            assert_eq!(second.partitions.len(), table.partitions.len());
        }
    }

    #[test]
    fn a_person_has_to_type_the_serial_number_of_what_they_give_up() {
        let boot = disk("sda", 8 * GIB, firmware());
        let disks = [
            boot,
            disk("sdb", 8 * GIB, foreign()),
            disk("sdc", 8 * GIB, Content::Blank),
            disk("sdd", 100 << 20, foreign()),
            disk("sde", 8 * GIB, Content::Failed("broken".into())),
        ];
        let take = |path: &str, typed: Option<&str>| {
            check_take(&disks, Some(Path::new("/dev/sda")), path, typed)
                .map(|d| d.name.clone())
                .map_err(|e| e.to_string())
        };
        assert_eq!(take("/dev/sdb", Some(" S-sdb ")), Ok("sdb".into()));
        assert_eq!(take("/dev/sdc", None), Ok("sdc".into()));
        assert_eq!(take("/dev/sda", None), Ok("sda".into()), "behind the firmware is nothing");
        for (path, typed, word) in [
            ("/dev/sdb", None, "has to be typed"),
            ("/dev/sdb", Some("S-sdc"), "not the serial number"),
            ("/dev/sdb", Some(""), "not the serial number"),
            ("/dev/sdd", Some("S-sdd"), "too little room"),
            ("/dev/sde", Some("S-sde"), "broken"),
            ("/dev/sdx", Some("S"), "no disk"),
        ] {
            assert!(take(path, typed).unwrap_err().contains(word), "{path} {typed:?}");
        }
    }

    #[test]
    fn fresh_guids_leave_partitions_where_they_are() {
        use crate::system::disks::tests::Machine;
        let machine = Machine::new();
        machine.disk("sda", None, 100 << 20);
        let Content::Partitioned(table) = firmware() else { unreachable!() };
        machine.put("sda", &table);
        let before = machine.place.list().remove(0);
        refresh_guids(&before).unwrap();
        let after = machine.place.list().remove(0);
        let (old, new) = (before.table().unwrap(), after.table().unwrap());
        assert_ne!(old.disk, new.disk);
        for (a, b) in old.partitions.iter().zip(&new.partitions) {
            assert_ne!(a.guid, b.guid);
            assert_eq!((a.number, a.first, a.last, &a.name), (b.number, b.first, b.last, &b.name));
        }
    }
}
