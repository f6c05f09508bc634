//! The checked root: a read-only device whose every block is compared with a tree of hashes when it is read (dm-verity).
//!
//! The tree lies behind the data in the same partition. Its topmost hash comes on the kernel's command line, which the boot
//! loader has checked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use reprise_media::{DM_HEADER_LEN, DmCall, dm_ioctl};

/// Data and hashes are in blocks of this size.
const BLOCK_LEN: u64 = 4096;
/// `struct dm_target_spec`, in front of a target's parameters.
const TARGET_LEN: usize = 40;
const READ_ONLY: u32 = 1;
/// Longest name and identifier the kernel takes, with the byte behind them.
const NAME_LEN: usize = 128;
/// Bytes that are read at once when everything is read.
const READ_LEN: usize = 1 << 20;

/// What has to be known of a checked partition, as it is on the command line: `HASH:SALT:BLOCKS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    /// The topmost hash, SHA-256.
    root_hash: String,
    /// Hashed in front of every block.
    salt: String,
    /// Blocks of data; the tree begins behind them.
    data_blocks: u64,
}

/// A command line that does not name a checked root.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not HASH:SALT:BLOCKS")]
pub struct NotVerity(String);

impl FromStr for Verity {
    type Err = NotVerity;

    fn from_str(text: &str) -> Result<Self, NotVerity> {
        let wrong = || NotVerity(text.to_owned());
        let mut parts = text.split(':');
        let (Some(root_hash), Some(salt), Some(blocks), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let is_hash = |h: &str| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit());
        let data_blocks = blocks.parse().ok().filter(|b| *b > 0 && *b < 1 << 40).ok_or_else(wrong)?;
        if !is_hash(root_hash) || !is_hash(salt) {
            return Err(wrong());
        }
        Ok(Self { root_hash: root_hash.to_owned(), salt: salt.to_owned(), data_blocks })
    }
}

impl Verity {
    /// The target's parameters, for a device given as `MAJOR:MINOR`. A block that does not fit stops the machine, so that it
    /// starts again and the boot loader counts it.
    fn parameters(&self, device: &str) -> String {
        let Self { root_hash, salt, data_blocks } = self;
        format!(
            "1 {device} {device} {BLOCK_LEN} {BLOCK_LEN} {data_blocks} {data_blocks} sha256 {root_hash} {salt} 1 panic_on_corruption"
        )
    }

    /// Bytes of the checked device.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.data_blocks * BLOCK_LEN
    }

    /// Makes the checked device `name` over a partition, given as `MAJOR:MINOR`.
    ///
    /// # Errors
    /// The device mapper refuses; nothing is read yet.
    pub fn open(&self, name: &str, partition: &str) -> Result<PathBuf> {
        let control = File::options().read(true).write(true).open("/dev/mapper/control");
        let control = control.context("open the device mapper")?;
        let mut create = request(name, 0, &[])?;
        dm_ioctl(&control, DmCall::Create, &mut create).context("create the checked device")?;
        let target = target(self.len_bytes() / 512, "verity", &self.parameters(partition))?;
        let mut load = request(name, READ_ONLY, &target)?;
        dm_ioctl(&control, DmCall::Load, &mut load).context("load the table of the checked device")?;
        let mut resume = request(name, 0, &[])?;
        dm_ioctl(&control, DmCall::Resume, &mut resume).context("start the checked device")?;
        Ok(PathBuf::from(format!("/dev/dm-{}", minor_of(&resume))))
    }
}

/// Reads all of a checked device: what is damaged is found before the root is trusted, and not when somebody needs it. `progress` is called
/// after each MiB.
///
/// # Errors
/// The device cannot be read, or is shorter than `len_bytes`.
pub fn read_all(device: &Path, len_bytes: u64, progress: impl Fn()) -> Result<()> {
    let mut file = File::open(device).with_context(|| format!("open {}", device.display()))?;
    let mut buffer = vec![0; READ_LEN];
    let mut left = len_bytes;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(READ_LEN).min(READ_LEN);
        let at = len_bytes - left;
        file.read_exact(&mut buffer[..wanted]).with_context(|| format!("read the root at byte {at}"))?;
        left -= wanted as u64;
        progress();
    }
    Ok(())
}

/// A device mapper call's buffer: the header, and one target where there is one.
fn request(name: &str, flags: u32, target: &[u8]) -> Result<Vec<u8>> {
    if name.is_empty() || name.len() >= NAME_LEN || !name.is_ascii() {
        bail!("{name:?} is no name for a device");
    }
    let len = u32::try_from(DM_HEADER_LEN + target.len()).context("length of a device mapper call")?;
    let mut buffer = Vec::with_capacity(len as usize);
    let targets = u32::from(!target.is_empty());
    // Version 4.0.0 of the interface; length; where the target begins; count of targets; opened; flags; event; padding.
    for word in [4, 0, 0, len, DM_HEADER_LEN as u32, targets, 0, flags, 0, 0] {
        buffer.extend(word.to_le_bytes());
    }
    buffer.extend(0_u64.to_le_bytes());
    buffer.extend(name.as_bytes());
    buffer.resize(DM_HEADER_LEN, 0);
    buffer.extend(target);
    Ok(buffer)
}

/// One target that is all of a device.
fn target(sectors: u64, kind: &str, parameters: &str) -> Result<Vec<u8>> {
    let len = (TARGET_LEN + parameters.len() + 1).next_multiple_of(8);
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(u32::try_from(len).context("length of a table")?.to_le_bytes());
    bytes.extend(kind.as_bytes());
    bytes.resize(TARGET_LEN, 0);
    bytes.extend(parameters.as_bytes());
    bytes.resize(len, 0);
    Ok(bytes)
}

/// The device's number, as the kernel has put it into the header: 12 low bits of the minor number have the major between.
fn minor_of(answer: &[u8]) -> u64 {
    let mut dev = [0; 8];
    dev.copy_from_slice(&answer[40..48]);
    let dev = u64::from_le_bytes(dev);
    (dev & 0xff) | ((dev >> 12) & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_command_lines_value_is_read() {
        let text = format!("{HASH}:{HASH}:2500");
        let verity: Verity = text.parse().unwrap();
        assert_eq!(verity.len_bytes(), 2500 * 4096);
        let table = verity.parameters("253:4");
        assert_eq!(table, format!("1 253:4 253:4 4096 4096 2500 2500 sha256 {HASH} {HASH} 1 panic_on_corruption"));
        for wrong in
            ["", "a:b:c", &format!("{HASH}:{HASH}:0"), &format!("{HASH}:{HASH}:1:2"), &format!("{HASH}x:{HASH}:1")]
        {
            assert!(wrong.parse::<Verity>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn calls_have_the_kernels_layout() {
        let target = target(8, "verity", "1 2:3").unwrap();
        assert_eq!(target.len(), 48, "40 bytes, 5 of text, the byte behind them, in eights");
        assert_eq!(&target[20..24], &48_u32.to_le_bytes());
        assert_eq!(&target[24..31], b"verity\0");
        let call = request("root", READ_ONLY, &target).unwrap();
        assert_eq!(call.len(), 312 + 48);
        assert_eq!(&call[12..16], &360_u32.to_le_bytes(), "length");
        assert_eq!(&call[16..20], &312_u32.to_le_bytes(), "begin of the target");
        assert_eq!(&call[28..32], &1_u32.to_le_bytes(), "read-only");
        assert_eq!(&call[48..53], b"root\0");
        assert!(request("", 0, &[]).is_err());
    }

    #[test]
    fn a_minor_number_is_taken_out_of_the_device_number() {
        let mut answer = vec![0; DM_HEADER_LEN];
        // Major 253, minor 0x123.
        answer[40..48].copy_from_slice(&0x0010_fd23_u64.to_le_bytes());
        assert_eq!(minor_of(&answer), 0x123);
    }
}
