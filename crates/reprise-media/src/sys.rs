//! System calls that the safe crates do not wrap.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::{ioctl_read, ioctl_read_bad, request_code_none};

ioctl_read!(blk_get_size64, 0x12, 114, u64);
ioctl_read_bad!(blk_ssz_get, request_code_none!(0x12, 104), libc::c_int);

/// Size of a block device in bytes (BLKGETSIZE64).
pub(crate) fn device_size(file: &File) -> io::Result<u64> {
    let mut size = 0u64;
    // SAFETY: the kernel writes one u64 through the pointer, which is valid for the call; the fd is open.
    unsafe { blk_get_size64(file.as_raw_fd(), &mut size) }?;
    Ok(size)
}

/// Logical block size of a block device in bytes (BLKSSZGET).
pub(crate) fn device_logical_block(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the kernel writes one int through the pointer, which is valid for the call; the fd is open.
    unsafe { blk_ssz_get(file.as_raw_fd(), &mut size) }?;
    u32::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// What the kernel says about direct I/O on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DioAlign {
    /// The kernel or file system does not tell.
    Unknown,
    /// Direct I/O is not possible on this file.
    Never,
    /// Alignment of memory, and of offset and length.
    Needs { mem: u32, offset: u32 },
}

/// STATX_DIOALIGN of an open file.
pub(crate) fn dio_align(file: &File) -> io::Result<DioAlign> {
    let mut out = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, allowed by AT_EMPTY_PATH; `out` is room for one statx.
    let rc = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, out.as_mut_ptr())
    };
    if rc != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOSYS) { Ok(DioAlign::Unknown) } else { Err(error) };
    }
    // SAFETY: zeroed at first and filled by the kernel; every bit pattern is a valid statx.
    let out = unsafe { out.assume_init() };
    if out.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok(DioAlign::Unknown);
    }
    Ok(match (out.stx_dio_mem_align, out.stx_dio_offset_align) {
        (0, _) | (_, 0) => DioAlign::Never,
        (mem, offset) => DioAlign::Needs { mem, offset },
    })
}

/// A new eventfd, not blocking.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the fd was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn count(rc: isize) -> io::Result<usize> {
    usize::try_from(rc).map_err(|_| io::Error::last_os_error())
}

/// pwritev2 of prepared vectors.
///
/// # Safety
/// Every vector must point to memory that is valid for reads of its length during the call.
pub(crate) unsafe fn pwritev2(fd: BorrowedFd<'_>, iovs: &[libc::iovec], offset: u64, flags: i32) -> io::Result<usize> {
    let (iov_count, offset) = vector_args(iovs, offset)?;
    // SAFETY: the slice is valid for the call; what it points to is the caller's promise.
    count(unsafe { libc::pwritev2(fd.as_raw_fd(), iovs.as_ptr(), iov_count, offset, flags) })
}

/// preadv of prepared vectors.
///
/// # Safety
/// Every vector must point to memory that is valid for writes of its length during the call, and that nothing else reads.
pub(crate) unsafe fn preadv(fd: BorrowedFd<'_>, iovs: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let (iov_count, offset) = vector_args(iovs, offset)?;
    // SAFETY: the slice is valid for the call; what it points to is the caller's promise.
    count(unsafe { libc::preadv(fd.as_raw_fd(), iovs.as_ptr(), iov_count, offset) })
}

fn vector_args(iovs: &[libc::iovec], offset: u64) -> io::Result<(libc::c_int, libc::off_t)> {
    let bad = |_| io::Error::from_raw_os_error(libc::EINVAL);
    Ok((iovs.len().try_into().map_err(bad)?, offset.try_into().map_err(bad)?))
}

/// fallocate with a mode that the safe wrapper does not know or that must not retry.
pub(crate) fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let bad = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let (offset, len) = (offset.try_into().map_err(bad)?, len.try_into().map_err(bad)?);
    // SAFETY: no pointers; the fd is open.
    if unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
