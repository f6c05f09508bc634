//! Calls to the kernel that a machine's first process needs and that have no safe wrapper elsewhere: device mapper and watchdog.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOWR(0xfd, nr, struct dm_ioctl)`; the structure is 312 bytes long.
const fn dm_request(nr: u64) -> u64 {
    (3 << 30) | ((DM_HEADER_LEN as u64) << 16) | (0xfd << 8) | nr
}

/// Length of `struct dm_ioctl`, with which every buffer of a device mapper call begins.
pub const DM_HEADER_LEN: usize = 312;

/// What the device mapper is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmCall {
    /// `DM_DEV_CREATE`
    Create,
    /// `DM_DEV_SUSPEND`, without the flag of that name: takes the loaded table into use.
    Resume,
    /// `DM_TABLE_LOAD`
    Load,
}

impl DmCall {
    const fn request(self) -> u64 {
        match self {
            Self::Create => dm_request(3),
            Self::Resume => dm_request(6),
            Self::Load => dm_request(9),
        }
    }
}

/// One call to `/dev/mapper/control`; the buffer begins with `struct dm_ioctl`, whose `data_size` is the buffer's length.
///
/// # Errors
/// The kernel's.
///
/// # Panics
/// The buffer is too short, or its header tells of another length.
pub fn dm_ioctl(control: &File, call: DmCall, buffer: &mut [u8]) -> io::Result<()> {
    assert!(buffer.len() >= DM_HEADER_LEN, "a device mapper call of {} bytes", buffer.len());
    let told = u32::from_ne_bytes([buffer[12], buffer[13], buffer[14], buffer[15]]);
    assert!(told as usize == buffer.len(), "the header tells of {told} bytes, the buffer has {}", buffer.len());
    // SAFETY: the buffer lives through the call, and the kernel neither reads nor writes beyond the length that its header
    // tells, which is the buffer's own.
    let outcome = unsafe { libc::ioctl(control.as_raw_fd(), call.request(), buffer.as_mut_ptr()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

mod watchdog_calls {
    nix::ioctl_readwrite!(set_timeout, b'W', 6, libc::c_int);
    nix::ioctl_read!(keep_alive, b'W', 5, libc::c_int);
}

/// Asks a watchdog for a time in seconds; gives the one it took.
///
/// # Errors
/// The kernel's.
pub fn watchdog_set_timeout(device: &File, secs: u32) -> io::Result<u32> {
    let mut value = i32::try_from(secs).map_err(io::Error::other)?;
    // SAFETY: the call reads and writes one integer, which lives through it.
    unsafe { watchdog_calls::set_timeout(device.as_raw_fd(), &raw mut value) }?;
    u32::try_from(value).map_err(io::Error::other)
}

/// Starts a watchdog's time over.
///
/// # Errors
/// The kernel's.
pub fn watchdog_keep_alive(device: &File) -> io::Result<()> {
    let mut unused = 0;
    // SAFETY: the call writes at most one integer, which lives through it.
    unsafe { watchdog_calls::keep_alive(device.as_raw_fd(), &raw mut unused) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernels_headers() {
        // As `strace dmsetup` shows them.
        assert_eq!(DmCall::Create.request(), 0xc138_fd03);
        assert_eq!(DmCall::Resume.request(), 0xc138_fd06);
        assert_eq!(DmCall::Load.request(), 0xc138_fd09);
    }
}
