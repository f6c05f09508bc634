//! Resets: what was wanted is saved, the machine starts again, and this carries it out before anything else runs.
//!
//! Each step can be done again, and the intent is taken back last, so that a power cut only delays. What a level takes away
//! is in [`reprise_api::ResetLevel`].

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::children::tool;
use super::disks::TAIL_LEN;
use super::pool::{self, CLEAR_LEN, Halves};

/// Starts that try a reset before the box runs on without it: a disk that cannot be written must not keep it from people.
pub(crate) const TRIES_MAX: u32 = 3;
/// Bytes wiped at a time.
const PIECE: u64 = 256 << 20;
/// How often progress is told and saved.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Files in the daemon's folder that a reset of the settings removes: the password, and who gets messages.
pub(crate) const SETTINGS_FILES: [&str; 2] = ["admin.json", "notify.json"];

/// Removes the daemon's settings that are no roles: the password and who gets messages.
///
/// # Errors
/// The file system refuses.
pub(crate) fn settings(daemon_state: &Path) -> Result<()> {
    for name in SETTINGS_FILES {
        let path = daemon_state.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    if let Ok(folder) = File::open(daemon_state) {
        folder.sync_all().context("flush the state folder")?;
    }
    Ok(())
}

/// Makes the state partition anew: keys, peers, initiators, logs. Its old bytes are overwritten, since keys are among them.
///
/// # Errors
/// The disk failed.
pub(crate) fn state(device: &Path) -> Result<()> {
    let file = open(device)?;
    let len = length(&file)?;
    pool::clear(&file, 0, len).and_then(|()| file.sync_all()).context("clear the state partition")?;
    drop(file);
    make_state(device)
}

/// Makes the file system of the state partition.
///
/// # Errors
/// mkfs.ext4 says why.
pub(crate) fn make_state(device: &Path) -> Result<()> {
    let path = device.to_str().context("the device's name is no text")?;
    tool("mkfs.ext4", &["-q", "-F", "-L", "reprise-state", path], Duration::from_secs(120))?;
    Ok(())
}

/// Makes the daemon know nothing of the pool's content: the superblocks go, the data half becomes an empty file system.
/// The bytes of the volumes are not overwritten.
///
/// # Errors
/// The disk failed.
pub(crate) fn forget(halves: &Halves) -> Result<()> {
    let file = open(&halves.cache)?;
    let len = length(&file)?;
    pool::clear(&file, 0, CLEAR_LEN.min(len)).context("clear the cache's beginning")?;
    pool::clear(&file, len - TAIL_LEN.min(len), TAIL_LEN.min(len)).context("clear the cache's end")?;
    file.sync_all().context("flush the cache")?;
    pool::make_xfs(&halves.data)
}

/// Gives up every byte of both halves: discarded where that makes them read as zeros, else overwritten. Begins at `from`
/// of both halves one behind the other; `told` is called now and then with what is done and what there is.
///
/// # Errors
/// The disk failed. Can be called again.
pub(crate) fn wipe(halves: &Halves, from: u64, mut told: impl FnMut(u64, u64)) -> Result<()> {
    let files = [open(&halves.cache)?, open(&halves.data)?];
    let lengths = [length(&files[0])?, length(&files[1])?];
    let all = lengths[0] + lengths[1];
    let mut done = 0;
    let mut last = Instant::now();
    for (file, len) in files.iter().zip(lengths) {
        let mut at = from.saturating_sub(done).min(len);
        while at < len {
            let piece = (len - at).min(PIECE);
            wipe_piece(file, at, piece).with_context(|| format!("wipe at {}", done + at))?;
            at += piece;
            if last.elapsed() >= TELL_EVERY {
                // What is told is taken for done after a power cut, so it has to be.
                file.sync_all().context("flush what was wiped")?;
                told(done + at, all);
                last = Instant::now();
            }
        }
        file.sync_all().context("flush what was wiped")?;
        done += len;
    }
    told(all, all);
    Ok(())
}

fn wipe_piece(device: &File, at: u64, len: u64) -> io::Result<()> {
    if reprise_media::discard(device, at, len).is_ok() && looks_empty(device, at, len)? {
        return Ok(());
    }
    match reprise_media::write_zeros(device, at, len) {
        // Old kernels and files know no such request.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOTTY | nix::libc::EOPNOTSUPP)) => {
            pool::clear(device, at, len)
        }
        other => other,
    }
}

/// Looks at a block in each 16 MiB, and the last one: a disk may ignore a discard, wholly or where it does not fit it.
fn looks_empty(device: &File, at: u64, len: u64) -> io::Result<bool> {
    let mut block = [0; 4096];
    let places = (at..at + len).step_by(16 << 20).chain([at + len.saturating_sub(4096)]);
    for place in places {
        let piece = (at + len - place).min(4096) as usize;
        device.read_exact_at(&mut block[..piece], place)?;
        if block[..piece].iter().any(|b| *b != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn open(device: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(device).with_context(|| format!("open {}", device.display()))
}

fn length(device: &File) -> Result<u64> {
    let mut device = device;
    device.seek(SeekFrom::End(0)).context("find the end of the device")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn halves(dir: &Path, len: u64) -> Halves {
        let make = |name: &str| {
            let path = dir.join(name);
            std::fs::write(&path, vec![0xaa; len as usize]).unwrap();
            path
        };
        Halves { cache: make("cache"), data: make("data") }
    }

    #[test]
    fn a_wipe_leaves_no_byte_and_can_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let both = halves(dir.path(), 3 * MIB + 512);
        let mut told = Vec::new();
        wipe(&both, 4 * MIB, |done, all| told.push((done, all))).unwrap();
        assert_eq!(told.last(), Some(&(6 * MIB + 1024, 6 * MIB + 1024)));
        assert!(std::fs::read(&both.cache).unwrap().iter().all(|b| *b == 0xaa), "was wiped before the power cut");
        let data = std::fs::read(&both.data).unwrap();
        let border = (4 * MIB - (3 * MIB + 512)) as usize;
        assert!(data[..border].iter().all(|b| *b == 0xaa) && data[border..].iter().all(|b| *b == 0));
        wipe(&both, 0, |_, _| ()).unwrap();
        for path in [both.cache, both.data] {
            assert!(std::fs::read(path).unwrap().iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn a_disk_that_ignores_a_discard_is_seen() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(40 * MIB).unwrap();
        assert!(looks_empty(&file, 0, 40 * MIB).unwrap());
        for place in [0, 16 * MIB, 40 * MIB - 1] {
            file.write_all_at(b"x", place).unwrap();
            assert!(!looks_empty(&file, 0, 40 * MIB).unwrap(), "{place}");
            file.write_all_at(b"\0", place).unwrap();
        }
    }

    #[test]
    fn settings_take_the_password_and_leave_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["admin.json", "notify.json", "identity.key"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        settings(dir.path()).unwrap();
        settings(dir.path()).unwrap();
        settings(&dir.path().join("not-there")).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["identity.key"]);
    }
}
