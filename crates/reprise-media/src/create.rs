//! Files for media: created or grown, written fully unless asked to be sparse.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use reprise_types::{ByteLen, SECTOR_SIZE};

use crate::op::zero_block;
use crate::{Media, MediaError, MediaKind, sys};

/// Whether the space of a file is taken at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros are written to every block, so that a later write changes no metadata and finds its space.
    Zeroed,
    /// Nothing is written; blocks come with the first write, which may then find no space.
    Sparse,
}

/// How far the filling is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written.
    pub done: ByteLen,
    /// Bytes to write.
    pub total: ByteLen,
}

/// Space that is left free on the file system: its own metadata, logs and the like need some.
const KEEP_FREE: u64 = 16 << 20;

/// Bytes between two syncs, so that a long filling does not pile up dirty pages where direct I/O is refused.
const SYNC_EVERY: u64 = 256 << 20;

/// Creates `path` with `size` bytes of zeros, durable when this returns. It appears under its name only when complete,
/// and nobody but its owner may read it.
/// Blocks the thread for as long as writing takes; `progress` is called about every MiB and may stop it.
pub fn create_file(
    path: &Path,
    size: ByteLen,
    fill: Fill,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), MediaError> {
    check_size(path, size, ByteLen::from_raw(SECTOR_SIZE))?;
    if path.symlink_metadata().is_ok() {
        return Err(MediaError::Exists { path: path.to_owned() });
    }
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    // A crash in an earlier creation left it; nobody else uses the name.
    let _ = fs::remove_file(&partial);
    let file = open_new(&partial)?;
    let result = (|| {
        if fill == Fill::Zeroed {
            check_room(path, &file, size.get())?;
            preallocate(&file, 0, size.get());
        }
        file.set_len(size.get()).map_err(MediaError::io("set size of", path))?;
        if fill == Fill::Zeroed {
            write_zeros(&file, path, 0, size.get(), progress)?;
        }
        file.sync_all().map_err(MediaError::io("sync", path))?;
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, &partial, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE) {
            Err(nix::Error::EEXIST) => Err(MediaError::Exists { path: path.to_owned() }),
            other => other.map_err(|e| MediaError::io("rename to", path)(e.into())),
        }?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(MediaError::io("sync directory of", path))
    })();
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

/// Grows an open file to `size` bytes; the new part reads as zeros and is durable when this returns. Blocks the thread. If it is
/// stopped or fails, the file has its old size again.
pub fn grow_file(
    media: &Media,
    size: ByteLen,
    fill: Fill,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), MediaError> {
    let path = media.path();
    let before = media.size();
    check_size(path, size, before)?;
    if media.is_window() {
        return Err(MediaError::BadSize { path: path.to_owned(), size, least: before });
    }
    let file = media.file();
    let result = (|| {
        if fill == Fill::Zeroed {
            check_room(path, file, size.get() - before.get())?;
            preallocate(file, before.get(), size.get() - before.get());
        }
        file.set_len(size.get()).map_err(MediaError::io("set size of", path))?;
        if fill == Fill::Zeroed {
            write_zeros(file, path, before.get(), size.get(), progress)?;
        }
        file.sync_all().map_err(MediaError::io("sync", path))
    })();
    match result {
        Ok(()) => media.refresh_size().map(drop).map_err(MediaError::io("get size of", path)),
        Err(error) => {
            let _ = file.set_len(before.get());
            Err(error)
        }
    }
}

/// Writes zeros over a whole medium or window, durable when this returns. Blocks the thread for as long as writing takes;
/// `progress` is called about every MiB and may stop it.
///
/// # Errors
/// The disk's, or [`MediaError::Cancelled`]; what was written stays.
pub fn zero_fill(media: &Media, progress: &mut dyn FnMut(Progress) -> ControlFlow<()>) -> Result<(), MediaError> {
    let path = media.path();
    let (zeros, total) = (zero_block(), media.size());
    let (mut at, mut unsynced) = (0, 0);
    while at < total.get() {
        let len = (total.get() - at).min(zeros.len() as u64);
        media.write_blocking(at, &zeros[..len as usize]).map_err(MediaError::io("write zeros to", path))?;
        (at, unsynced) = (at + len, unsynced + len);
        if unsynced >= SYNC_EVERY {
            media.sync_blocking().map_err(MediaError::io("sync", path))?;
            unsynced = 0;
        }
        if progress(Progress { done: ByteLen::from_raw(at), total }).is_break() {
            return Err(MediaError::Cancelled { path: path.to_owned() });
        }
    }
    media.sync_blocking().map_err(MediaError::io("sync", path))
}

/// Takes the room of a medium or window without writing it where the file system can promise that, else by writing
/// zeros. A device has its room. The content is not defined after it. Blocks the thread.
///
/// # Errors
/// The file system's, above all that it is full.
pub fn take_room(media: &Media) -> Result<(), MediaError> {
    if media.kind() == MediaKind::Device {
        return Ok(());
    }
    match sys::fallocate(media.file().as_fd(), libc::FALLOC_FL_KEEP_SIZE, media.base(), media.size().get()) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => zero_fill(media, &mut |_| ControlFlow::Continue(())),
        other => other.map_err(MediaError::io("reserve room in", media.path())),
    }
}

fn check_size(path: &Path, size: ByteLen, least: ByteLen) -> Result<(), MediaError> {
    if size.sectors().is_none() || size < least || i64::try_from(size.get()).is_err() {
        return Err(MediaError::BadSize { path: path.to_owned(), size, least });
    }
    Ok(())
}

fn open_new(path: &Path) -> Result<File, MediaError> {
    let open =
        |flags| OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags).open(path);
    match open(libc::O_DIRECT) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            // Linux may have created the file before it refused the flag.
            let _ = fs::remove_file(path);
            open(0)
        }
        other => other,
    }
    .map_err(MediaError::io("create", path))
}

fn check_room(path: &Path, file: &File, needed: u64) -> Result<(), MediaError> {
    let stat = nix::sys::statvfs::fstatvfs(file).map_err(|e| MediaError::io("get free space for", path)(e.into()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size()).saturating_sub(KEEP_FREE);
    if needed > free {
        let (needed, free) = (ByteLen::from_raw(needed), ByteLen::from_raw(free));
        return Err(MediaError::NoSpace { path: path.to_owned(), needed, free });
    }
    Ok(())
}

/// Asks for few and long extents; where the file system cannot, writing allocates as it goes.
fn preallocate(file: &File, offset: u64, len: u64) {
    if len > 0 {
        let _ = sys::fallocate(file.as_fd(), libc::FALLOC_FL_KEEP_SIZE, offset, len);
    }
}

fn write_zeros(
    file: &File,
    path: &Path,
    from: u64,
    to: u64,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(), MediaError> {
    let zeros = zero_block();
    let total = ByteLen::from_raw(to - from);
    let (mut at, mut unsynced) = (from, 0);
    while at < to {
        let len = (to - at).min(zeros.len() as u64);
        match file.write_at(&zeros[..len as usize], at) {
            Ok(0) => return Err(MediaError::io("write zeros to", path)(io::ErrorKind::WriteZero.into())),
            Ok(n) => at += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // The tail of an odd size, or a start in the middle of a block, which direct I/O refuses.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let buffered =
                    OpenOptions::new().write(true).open(path_of(file)).map_err(MediaError::io("open", path))?;
                buffered.write_all_at(&zeros[..len as usize], at).map_err(MediaError::io("write zeros to", path))?;
                at += len;
            }
            Err(e) => return Err(MediaError::io("write zeros to", path)(e)),
        }
        unsynced += len;
        if unsynced >= SYNC_EVERY {
            file.sync_data().map_err(MediaError::io("sync", path))?;
            unsynced = 0;
        }
        if progress(Progress { done: ByteLen::from_raw(at - from), total }).is_break() {
            return Err(MediaError::Cancelled { path: path.to_owned() });
        }
    }
    Ok(())
}

/// A second way to the same open file, also while it has a temporary name.
fn path_of(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
