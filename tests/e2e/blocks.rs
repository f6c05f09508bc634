//! A disk whose writes and flushes pass through QEMU's block layer: loop device, FUSE, `qemu-storage-daemon`, file. What is
//! between the box and the file is a real kernel's, and QEMU's filters log or fail what comes out of it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reprise_testkit::rng::Rng;

use crate::adopt::Loop;
use crate::boxes::LOOK_EVERY;
use crate::images::text;

pub(crate) const SECTOR: u64 = 512;
/// QEMU's daemon starts and ends in far less.
const DAEMON_SECS_MAX: u64 = 30;

/// The device and the daemon behind it.
pub(crate) struct Filtered {
    device: Option<Loop>,
    daemon: Child,
}

impl Filtered {
    /// Exports the node `top` of these block nodes (`--blockdev`), of `len` bytes, as a loop device.
    pub(crate) fn start(dir: &Path, len: u64, nodes: &[String], top: &str) -> Result<Self> {
        let export = dir.join("exported.img");
        File::create(&export)?;
        let log = File::create(dir.join("qemu.log"))?;
        let mut command = Command::new("qemu-storage-daemon");
        for node in nodes {
            command.arg("--blockdev").arg(node);
        }
        let export_option = format!("type=fuse,id=e,node-name={top},mountpoint={},writable=on", text(&export)?);
        command.arg("--export").arg(export_option).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = command.spawn().context("start qemu-storage-daemon")?;
        let mut this = Self { device: None, daemon };
        let start = Instant::now();
        // Until then the file is the empty one.
        while std::fs::metadata(&export)?.len() != len {
            let ended = this.daemon.try_wait()?;
            if ended.is_some() || start.elapsed().as_secs() > DAEMON_SECS_MAX {
                bail!("no export ({ended:?}): {}", std::fs::read_to_string(dir.join("qemu.log"))?);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        this.device = Some(Loop::attach(&export)?);
        Ok(this)
    }

    pub(crate) fn device(&self) -> Result<&Path> {
        Ok(&self.device.as_ref().context("the device is gone")?.0)
    }

    /// Takes the device away and ends the daemon in order.
    pub(crate) fn end(mut self) -> Result<()> {
        self.device = None;
        let told =
            Command::new("kill").arg("-TERM").arg(self.daemon.id().to_string()).status().context("start kill")?;
        ensure!(told.success(), "kill -TERM failed");
        let start = Instant::now();
        while self.daemon.try_wait()?.is_none() {
            ensure!(start.elapsed().as_secs() < DAEMON_SECS_MAX, "qemu-storage-daemon does not end");
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Filtered {
    fn drop(&mut self) {
        self.device = None;
        if matches!(self.daemon.try_wait(), Ok(None)) {
            let _ = (self.daemon.kill(), self.daemon.wait());
        }
    }
}

/// Node `name` over a file.
pub(crate) fn file_node(name: &str, path: &Path) -> Result<String> {
    Ok(format!("driver=file,node-name={name},filename={}", text(path)?.replace(',', ",,")))
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where its data is in the log, and where the entry ends.
    data: u64,
    end: u64,
}

impl Entry {
    const FLUSH: u64 = 1;
    const FUA: u64 = 2;
    const DISCARD: u64 = 4;
}

/// What `blklogwrites` logged: the format of Linux's dm-log-writes, in sectors of 512 bytes.
pub(crate) struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the log of a disk that nobody writes to any more.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        const MAGIC: u64 = 0x006a_7366_7773_6872;
        let file = File::open(path)?;
        let word = |at: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_le_bytes(bytes))
        };
        ensure!(word(0)? == MAGIC && word(8)? == 1, "{} is no log of writes", path.display());
        let (count, mut at) = (word(16)?, SECTOR);
        let mut entries = Vec::new();
        for _ in 0..count {
            let (sector, sectors, flags, data) = (word(at)?, word(at + 8)?, word(at + 16)?, at + SECTOR);
            at = data + if flags & Entry::DISCARD == 0 { sectors * SECTOR } else { 0 };
            entries.push(Entry { sector, sectors, flags, data, end: at });
        }
        Ok(Self { file, entries })
    }

    /// Entries that stood there wholly when the log was so long.
    pub(crate) fn within(&self, len: u64) -> usize {
        self.entries.partition_point(|e| e.end <= len)
    }

    /// Flushes among the first `n` entries.
    pub(crate) fn flushes(&self, n: usize) -> usize {
        self.entries[..n].iter().filter(|e| e.flags & Entry::FLUSH != 0).count()
    }

    /// The entry behind the last flush before entry `n`: all before it is durable.
    pub(crate) fn durable(&self, n: usize) -> usize {
        let flush = self.entries[..n].iter().rposition(|e| e.flags & Entry::FLUSH != 0);
        flush.map_or(0, |at| at + 1)
    }

    /// Does to the disk what entries `from..to` say: all of it, or of each sector so many in four, by chance.
    pub(crate) fn play(&self, disk: &File, from: usize, to: usize, chance: Option<(&mut Rng, u64)>) -> Result<u64> {
        let (mut left_out, mut chance) = (0, chance);
        for entry in &self.entries[from..to] {
            let mut data = vec![0; (entry.sectors * SECTOR) as usize];
            if entry.flags & Entry::DISCARD == 0 {
                self.file.read_exact_at(&mut data, entry.data)?;
            }
            match &mut chance {
                Some((rng, in_four)) if entry.flags & Entry::FUA == 0 => {
                    for (n, sector) in (0..).zip(data.chunks(SECTOR as usize)) {
                        if rng.below(4) < *in_four {
                            disk.write_all_at(sector, (entry.sector + n) * SECTOR)?;
                        } else {
                            left_out += 1;
                        }
                    }
                }
                _ => disk.write_all_at(&data, entry.sector * SECTOR)?,
            }
        }
        Ok(left_out)
    }
}

/// A copy of a disk; holes stay holes.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<PathBuf> {
    crate::images::output("cp", &["--sparse=always", text(from)?, text(to)?])?;
    Ok(to.to_owned())
}

/// How long the log is now.
pub(crate) fn length(log: &Path) -> Result<u64> {
    Ok(std::fs::metadata(log)?.len())
}

/// Between two looks at a log that grows.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_millis(15);
