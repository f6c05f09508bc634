//! An opened file or block device.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::stat::{major, minor};
use reprise_types::{ByteLen, PoolBuf};

use crate::MediaError;
use crate::sys::{self, DioAlign};

/// What the caller will do with a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only and shared: for `inspect` and checks beside a running daemon.
    ReadShared,
    /// Read and write, refused while anybody else has the medium.
    Exclusive,
}

/// How to open a medium.
#[derive(Debug, Clone, Copy)]
pub struct MediaOptions {
    /// Shared reading or exclusive writing.
    pub access: Access,
    /// The unit of offset and length that the caller will use, in bytes. Where direct I/O needs a coarser one (a disk
    /// with 4 KiB sectors, written in 512 bytes), the medium is opened through the page cache.
    pub grain: u32,
    /// False forces the page cache.
    pub direct: bool,
}

impl MediaOptions {
    /// For a daemon: exclusive, 512-byte grain, direct where possible.
    pub fn exclusive() -> Self {
        Self { access: Access::Exclusive, grain: 512, direct: true }
    }

    /// For a look from outside.
    pub fn read_shared() -> Self {
        Self { access: Access::ReadShared, grain: 512, direct: true }
    }
}

/// What a medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// A regular file.
    File,
    /// A block device.
    Device,
}

/// Whether I/O goes past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    /// Direct I/O.
    Yes,
    /// Through the page cache because the caller asked for it.
    NotAsked,
    /// Through the page cache because the file system refuses direct I/O.
    Refused,
    /// Through the page cache because direct I/O needs a coarser grain than the caller's.
    TooCoarse {
        /// The unit that direct I/O would need, in bytes.
        needs: u32,
    },
}

/// What I/O on a medium must be aligned to, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Addresses of buffers.
    pub mem_align: u32,
    /// Offsets and lengths.
    pub io_align: u32,
    /// Logical block of a device; of a file: `io_align`.
    pub logical_block: u32,
}

/// Which medium this is, as far as the kernel can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A file: the file system (an id derived from its UUID, where it has one) and the inode.
    File {
        /// `f_fsid` of the file system.
        file_system: u64,
        /// Inode number.
        inode: u64,
    },
    /// A block device.
    Device {
        /// Major number; may change from boot to boot.
        major: u64,
        /// Minor number; may change from boot to boot.
        minor: u64,
        /// Serial number or world-wide id, where sysfs has one. Of the disk for a partition.
        serial: Option<String>,
        /// Number of the partition on its disk; none for a whole disk.
        partition: Option<u32>,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file_system, inode } => write!(f, "file:{file_system:016x}:{inode}"),
            Self::Device { serial: Some(serial), partition, .. } => {
                write!(f, "disk:{serial}")?;
                partition.map_or(Ok(()), |p| write!(f, ":part{p}"))
            }
            Self::Device { major, minor, .. } => write!(f, "device:{major}:{minor}"),
        }
    }
}

/// An opened medium, or a [`Self::window`] of one. Closing it (dropping the last reference to it and to its windows)
/// gives up its lock.
#[derive(Debug)]
pub struct Media {
    file: Arc<File>,
    /// Where it begins in the file; 0 for a whole medium.
    base: u64,
    window: bool,
    path: PathBuf,
    kind: MediaKind,
    size: AtomicU64,
    direct: Direct,
    geometry: Geometry,
    identity: Identity,
}

/// How often a lock is tried, every 10 ms. It may be held for a moment by nobody who matters: by udev, which looks at every
/// device that was closed after writing, and by the kernel, which keeps the files of a process that was killed open until
/// the requests of its ring have ended. A busy disk may take seconds for those.
const LOCK_TRIES: u32 = 800;

impl Media {
    /// Opens a file or block device that exists.
    pub fn open(path: impl AsRef<Path>, options: MediaOptions) -> Result<Arc<Self>, MediaError> {
        let path = path.as_ref();
        let meta = fs::metadata(path).map_err(MediaError::io("look at", path))?;
        let kind = match meta.file_type() {
            t if t.is_file() => MediaKind::File,
            t if t.is_block_device() => MediaKind::Device,
            _ => return Err(MediaError::NotBlockMedia { path: path.to_owned() }),
        };
        let (file, mut direct) = open_file(path, kind, options)?;
        let opened = file.metadata().map_err(MediaError::io("look at", path))?;
        if options.access == Access::Exclusive {
            lock(&file, path)?;
            if kind == MediaKind::File {
                refuse_loop_backing(path)?;
            }
        }
        let (size, logical_block) = match kind {
            MediaKind::File => (opened.size(), None),
            MediaKind::Device => (
                sys::device_size(&file).map_err(MediaError::io("get size of", path))?,
                Some(sys::device_logical_block(&file).map_err(MediaError::io("get block size of", path))?),
            ),
        };
        let mut geometry = Geometry { mem_align: 1, io_align: 1, logical_block: logical_block.unwrap_or(1) };
        let mut file = file;
        if direct == Direct::Yes {
            match direct_geometry(&file, logical_block) {
                Some(g) if g.io_align <= options.grain => geometry = g,
                other => {
                    direct = other.map_or(Direct::Refused, |g| Direct::TooCoarse { needs: g.io_align });
                    set_buffered(&mut file, path)?;
                }
            }
        }
        let identity = identity(&file, &opened, kind).map_err(MediaError::io("identify", path))?;
        Ok(Arc::new(Self {
            file: Arc::new(file),
            base: 0,
            window: false,
            path: path.to_owned(),
            kind,
            size: AtomicU64::new(size),
            direct,
            geometry,
            identity,
        }))
    }

    /// A part of this medium as a medium of its own, called `path`: offset 0 is `start`, and nothing behind `len` can be
    /// reached. Shares the lock and the identity. A sync of a window covers the whole medium.
    ///
    /// # Errors
    /// The part is not inside this medium, or not aligned for its I/O.
    pub fn window(&self, path: PathBuf, start: u64, len: u64) -> Result<Arc<Self>, MediaError> {
        let align = u64::from(self.geometry.io_align);
        let inside = start.checked_add(len).is_some_and(|end| end <= self.size().get());
        if !inside || !start.is_multiple_of(align) || !len.is_multiple_of(align) {
            let (size, least) = (ByteLen::from_raw(len), ByteLen::from_raw(align));
            return Err(MediaError::BadSize { path, size, least });
        }
        Ok(Arc::new(Self {
            file: self.file.clone(),
            base: self.base + start,
            window: true,
            path,
            kind: self.kind,
            size: AtomicU64::new(len),
            direct: self.direct,
            geometry: self.geometry,
            identity: self.identity.clone(),
        }))
    }

    /// Lets a window of `whole` reach further, from where it begins.
    ///
    /// # Errors
    /// It is no window, would get smaller, or the part is not inside `whole` or not aligned for its I/O.
    pub fn grow_window(&self, whole: &Self, len: u64) -> Result<(), MediaError> {
        let align = u64::from(self.geometry.io_align);
        let end = whole.base + whole.size().get();
        let inside = self.base.checked_add(len).is_some_and(|at| at <= end) && Arc::ptr_eq(&self.file, &whole.file);
        if !self.window || !inside || len < self.size().get() || !len.is_multiple_of(align) {
            let (path, size, least) = (self.path.clone(), ByteLen::from_raw(len), self.size());
            return Err(MediaError::BadSize { path, size, least });
        }
        self.size.store(len, Ordering::Release);
        Ok(())
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File or device.
    pub fn kind(&self) -> MediaKind {
        self.kind
    }

    /// Size in bytes, as of the opening, the last growth through this object, or [`Self::refresh_size`].
    pub fn size(&self) -> ByteLen {
        ByteLen::from_raw(self.size.load(Ordering::Acquire))
    }

    /// Asks the kernel for the size again: a device can grow, and shrink, while open. A window keeps its size.
    pub fn refresh_size(&self) -> io::Result<ByteLen> {
        if self.window {
            return Ok(self.size());
        }
        let size = match self.kind {
            MediaKind::File => self.file.metadata()?.size(),
            MediaKind::Device => sys::device_size(&self.file)?,
        };
        self.size.store(size, Ordering::Release);
        Ok(ByteLen::from_raw(size))
    }

    /// Whether I/O goes past the page cache, and if not, why.
    pub fn direct(&self) -> Direct {
        self.direct
    }

    /// Alignment of I/O.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Which medium this is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Reads exactly `buf.len()` bytes on the calling thread: for start-up and tools.
    pub fn read_blocking(&self, offset: u64, buf: &mut PoolBuf) -> io::Result<()> {
        crate::blocking::read(self, offset, buf)
    }

    /// Writes all of `bytes` on the calling thread, not durable until a sync. Misaligned memory is copied first.
    pub fn write_blocking(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        crate::blocking::write(self, offset, bytes)
    }

    /// Makes everything written before durable, on the calling thread. After an error nothing is known to be durable,
    /// and a second call proves nothing.
    pub fn sync_blocking(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Has the kernel forget what it keeps of the medium in memory, so that what is read next comes from the medium: after a
    /// failed sync the page cache may hold bytes that never reached it. Nothing to do where I/O is direct.
    pub fn forget_cached(&self) -> io::Result<()> {
        if self.direct == Direct::Yes {
            return Ok(());
        }
        nix::fcntl::posix_fadvise(&self.file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        Ok(())
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where offset 0 lies in the file.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// True for a part of a medium.
    pub fn is_window(&self) -> bool {
        self.window
    }
}

fn open_file(path: &Path, kind: MediaKind, options: MediaOptions) -> Result<(File, Direct), MediaError> {
    let exclusive = options.access == Access::Exclusive;
    let base = if exclusive && kind == MediaKind::Device { libc::O_EXCL } else { 0 };
    let open = |flags: i32| {
        let mut how = OpenOptions::new();
        how.read(true).write(exclusive).custom_flags(base | flags).open(path)
    };
    let (result, direct) = match options.direct {
        false => (open(0), Direct::NotAsked),
        true => match open(libc::O_DIRECT) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => (open(0), Direct::Refused),
            other => (other, Direct::Yes),
        },
    };
    match result {
        Ok(file) => Ok((file, direct)),
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) && kind == MediaKind::Device => {
            Err(MediaError::DeviceBusy { path: path.to_owned() })
        }
        Err(e) => Err(MediaError::io("open", path)(e)),
    }
}

fn lock(file: &File, path: &Path) -> Result<(), MediaError> {
    for turn in 1..=LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if turn < LOCK_TRIES => std::thread::sleep(Duration::from_millis(10)),
            Err(fs::TryLockError::WouldBlock) => break,
            Err(fs::TryLockError::Error(e)) => return Err(MediaError::io("lock", path)(e)),
        }
    }
    Err(MediaError::Locked { path: path.to_owned() })
}

/// A loop device writes to its file with no lock that we could meet, so sysfs is asked.
fn refuse_loop_backing(path: &Path) -> Result<(), MediaError> {
    let Ok(full) = path.canonicalize() else { return Ok(()) };
    let Ok(blocks) = fs::read_dir("/sys/block") else { return Ok(()) };
    for entry in blocks.flatten() {
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        if Path::new(backing.trim_end()) == full {
            let loop_device = entry.file_name().to_string_lossy().into_owned();
            return Err(MediaError::BacksLoop { path: path.to_owned(), loop_device });
        }
    }
    Ok(())
}

/// Alignment for direct I/O; none where it turns out to be impossible.
fn direct_geometry(file: &File, logical_block: Option<u32>) -> Option<Geometry> {
    let (mem_align, io_align) = match sys::dio_align(file) {
        Ok(DioAlign::Never) => return None,
        Ok(DioAlign::Needs { mem, offset }) => (mem, offset),
        // A device's own block is the rule where the kernel does not tell; a page is safe on every file system.
        Ok(DioAlign::Unknown) | Err(_) => match logical_block {
            Some(block) => (block, block),
            None if reads_directly(file, 512) => (512, 512),
            None => (4096, 4096),
        },
    };
    let io_align = io_align.max(logical_block.unwrap_or(1));
    Some(Geometry { mem_align, io_align, logical_block: logical_block.unwrap_or(io_align) })
}

fn reads_directly(file: &File, len: usize) -> bool {
    use std::os::unix::fs::FileExt;
    let mut buf = PoolBuf::unpooled(2 * len);
    file.read_at(&mut buf[len..], 0).is_ok()
}

fn set_buffered(file: &mut File, path: &Path) -> Result<(), MediaError> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let change = || -> nix::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(file.as_fd(), FcntlArg::F_GETFL)?);
        fcntl(file.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_DIRECT))?;
        Ok(())
    };
    change().map_err(|e| MediaError::io("leave direct I/O on", path)(e.into()))
}

fn identity(file: &File, meta: &fs::Metadata, kind: MediaKind) -> io::Result<Identity> {
    if kind == MediaKind::File {
        let file_system = nix::sys::statvfs::fstatvfs(file)?.filesystem_id();
        return Ok(Identity::File { file_system, inode: meta.ino() });
    }
    let (major, minor) = (major(meta.rdev()), minor(meta.rdev()));
    let node = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        let text: String = text.trim().chars().filter(|c| !c.is_whitespace()).take(128).collect();
        (!text.is_empty()).then_some(text)
    };
    let partition = read(node.join("partition")).and_then(|p| p.parse().ok());
    // `..` of a partition's directory, behind the symbolic link, is its disk.
    let disk = match partition {
        Some(_) => node.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or(node),
        None => node,
    };
    let serial = ["wwid", "device/wwid", "serial", "device/serial", "dm/uuid", "md/uuid"]
        .into_iter()
        .find_map(|name| read(disk.join(name)));
    Ok(Identity::Device { major, minor, serial, partition })
}
