//! Partitions of a disk in use, and giving its blocks back: the kernel's ioctls for them.
//!
//! Partitions are told to the kernel one by one (BLKPG), so that one can be added to the disk the firmware runs from;
//! reading the whole table anew is refused there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::{ioctl_write_ptr_bad, request_code_none};

const BLKPG_ADD_PARTITION: libc::c_int = 1;
const BLKPG_DEL_PARTITION: libc::c_int = 2;

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: libc::c_longlong,
    length: libc::c_longlong,
    pno: libc::c_int,
    devname: [u8; 64],
    volname: [u8; 64],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArg {
    op: libc::c_int,
    flags: libc::c_int,
    datalen: libc::c_int,
    data: *mut BlkpgPartition,
}

ioctl_write_ptr_bad!(blkpg, request_code_none!(0x12, 105), BlkpgArg);
ioctl_write_ptr_bad!(blkdiscard, request_code_none!(0x12, 119), [u64; 2]);
ioctl_write_ptr_bad!(blkzeroout, request_code_none!(0x12, 127), [u64; 2]);

fn call_blkpg(disk: &File, op: libc::c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let value = |v: u64| i64::try_from(v).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut partition = BlkpgPartition {
        start: value(start)?,
        length: value(length)?,
        pno: i32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let datalen = size_of::<BlkpgPartition>() as libc::c_int;
    let arg = BlkpgArg { op, flags: 0, datalen, data: &raw mut partition };
    // SAFETY: `arg` and the partition it points to live until the call returns, in the kernel's layout; the fd is open.
    unsafe { blkpg(disk.as_raw_fd(), &raw const arg) }?;
    Ok(())
}

/// Tells the kernel of a partition of an open disk; offset and length in bytes.
///
/// # Errors
/// It overlaps one the kernel has, or there is one of this number.
pub fn add_partition(disk: &File, number: u32, offset: u64, len: u64) -> io::Result<()> {
    call_blkpg(disk, BLKPG_ADD_PARTITION, number, offset, len)
}

/// Makes the kernel forget a partition of an open disk.
///
/// # Errors
/// It is in use, or there is none of this number.
pub fn delete_partition(disk: &File, number: u32) -> io::Result<()> {
    call_blkpg(disk, BLKPG_DEL_PARTITION, number, 0, 0)
}

/// Tells an open block device that a range is no longer wanted. What it reads as afterwards is the device's affair.
///
/// # Errors
/// The device cannot, or failed.
pub fn discard(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the kernel reads two u64 through the pointer, which is valid for the call; the fd is open.
    unsafe { blkdiscard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Makes a range of an open block device read as zeros, by whatever is fastest there.
///
/// # Errors
/// The device failed.
pub fn write_zeros(device: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the kernel reads two u64 through the pointer, which is valid for the call; the fd is open.
    unsafe { blkzeroout(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_disk() {
        let file = tempfile::tempfile().unwrap();
        for result in [
            add_partition(&file, 1, 0, 4096),
            delete_partition(&file, 1),
            discard(&file, 0, 512),
            write_zeros(&file, 0, 512),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
        assert!(add_partition(&file, 1, u64::MAX, 1).is_err());
    }
}
