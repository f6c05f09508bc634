//! What a medium carries already. Asked before anything is overwritten, so that a typing error costs no data.

use std::fmt;

use reprise_types::PoolBuf;

use crate::{Media, MediaError};

/// Bytes wanted from the start of the medium: up to the VMFS label at 1 MiB.
pub const HEAD_LEN: usize = (1 << 20) + (64 << 10);
/// Bytes wanted from the end: old md superblocks lie up to 128 KiB before it.
pub const TAIL_LEN: usize = 128 << 10;

/// A format known by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// A partition table: `GPT` or `MBR`.
    PartitionTable(&'static str),
    /// A file system, by its usual name.
    FileSystem(&'static str),
    /// A member of a volume manager or RAID.
    Member(&'static str),
    /// An encrypted container.
    Encrypted(&'static str),
    /// A disk image format.
    Image(&'static str),
    /// Swap space.
    Swap,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Known formats, in the order of the table; often more than one.
    pub signatures: Vec<Signature>,
    /// True if all that was looked at is zeros: nothing to lose there.
    pub blank: bool,
}

impl Content {
    /// True if something would be lost: a known format, or bytes of an unknown one.
    pub fn is_foreign(&self) -> bool {
        !self.blank
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartitionTable(name) => write!(f, "a partition table ({name})"),
            Self::FileSystem(name) => write!(f, "a file system ({name})"),
            Self::Member(name) => write!(f, "a part of a volume group or RAID ({name})"),
            Self::Encrypted(name) => write!(f, "an encrypted container ({name})"),
            Self::Image(name) => write!(f, "a disk image ({name})"),
            Self::Swap => f.write_str("swap space"),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.blank {
            return f.write_str("nothing");
        }
        if self.signatures.is_empty() {
            return f.write_str("data of a kind that is not known");
        }
        for (n, signature) in self.signatures.iter().enumerate() {
            write!(f, "{}{signature}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

use Signature::{Encrypted, FileSystem, Image, Member, PartitionTable};

/// Magics at fixed offsets from the start.
const HEAD: &[(usize, &[u8], Signature)] = &[
    (512, b"EFI PART", PartitionTable("GPT")),
    (4096, b"EFI PART", PartitionTable("GPT")),
    (1080, b"\x53\xef", FileSystem("ext")),
    (0, b"XFSB", FileSystem("xfs")),
    (0x1_0040, b"_BHRfS_M", FileSystem("btrfs")),
    (3, b"NTFS    ", FileSystem("ntfs")),
    (3, b"EXFAT   ", FileSystem("exfat")),
    (3, b"ReFS\0", FileSystem("refs")),
    (54, b"FAT", FileSystem("fat")),
    (82, b"FAT32", FileSystem("fat")),
    (32, b"NXSB", FileSystem("apfs")),
    (1024, b"H+", FileSystem("hfs+")),
    (1024, b"HX", FileSystem("hfs+")),
    (1024, b"\x10\x20\xf5\xf2", FileSystem("f2fs")),
    (1024, b"\xe2\xe1\xf5\xe0", FileSystem("erofs")),
    (0, b"hsqs", FileSystem("squashfs")),
    (0x8001, b"CD001", FileSystem("iso9660")),
    (0x1_0034, b"ReIsEr", FileSystem("reiserfs")),
    (0x8000, b"JFS1", FileSystem("jfs")),
    (0x10_0000, b"\x0d\xd0\x01\xc0", FileSystem("vmfs")),
    (4072, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", FileSystem("bcachefs")),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", Member("bcache")),
    (0, b"bluestore block device", Member("ceph")),
    (0, b"\xfc\x4e\x2b\xa9", Member("md")),
    (4096, b"\xfc\x4e\x2b\xa9", Member("md")),
    (0, b"LABELONE", Member("lvm")),
    (512, b"LABELONE", Member("lvm")),
    (1024, b"LABELONE", Member("lvm")),
    (1536, b"LABELONE", Member("lvm")),
    (0, b"LUKS\xba\xbe", Encrypted("luks")),
    (0x4000, b"SKUL\xba\xbe", Encrypted("luks")),
    (3, b"-FVE-FS-", Encrypted("bitlocker")),
    (4086, b"SWAPSPACE2", Signature::Swap),
    (4086, b"SWAP-SPACE", Signature::Swap),
    (0, b"QFI\xfb", Image("qcow2")),
    (0, b"KDMV", Image("vmdk")),
    (0, b"vhdxfile", Image("vhdx")),
    (0, b"COWD", Image("vmdk")),
    (0, b"# Disk DescriptorFile", Image("vmdk")),
    (0, b"conectix", Image("vpc")),
    (0x40, b"\x7f\x10\xda\xbe", Image("vdi")),
    (0, b"QED\0", Image("qed")),
    (0, b"WithoutFreeSpace", Image("parallels")),
    (0, b"WithouFreSpacExt", Image("parallels")),
    (0, b"Bochs Virtual HD Image", Image("bochs")),
    (0, b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", Image("cloop")),
];

/// ZFS keeps a ring of uberblocks in the second half of a 256 KiB label.
const ZFS_RING: std::ops::Range<usize> = 128 << 10..256 << 10;
const ZFS_MAGICS: [&[u8]; 2] = [&0x00ba_b10c_u64.to_le_bytes(), &0x00ba_b10c_u64.to_be_bytes()];

/// Looks at the start and the end of a medium of `size` bytes; `head` and `tail` may be shorter than asked for.
pub fn probe_content(head: &[u8], tail: &[u8], size: u64) -> Content {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let mut signatures: Vec<Signature> = Vec::new();
    let mut found = |signature| {
        if !signatures.contains(&signature) {
            signatures.push(signature);
        }
    };
    HEAD.iter().filter(|(offset, magic, _)| at(*offset, magic)).for_each(|(_, _, s)| found(*s));
    if has_mbr(head) {
        found(PartitionTable("MBR"));
    }
    let zfs = ZFS_RING.step_by(1024).any(|o| ZFS_MAGICS.iter().any(|m| at(o, m)));
    if zfs {
        found(Member("zfs"));
    }
    // Backup tables and superblocks at the end: they outlive a wiped start.
    let tail_start = size.saturating_sub(tail.len() as u64);
    let at_end = |absolute: Option<u64>, magic: &[u8]| {
        let offset = absolute.and_then(|a| a.checked_sub(tail_start)).and_then(|o| usize::try_from(o).ok());
        offset.and_then(|o| tail.get(o..)).is_some_and(|rest| rest.starts_with(magic))
    };
    if [512, 4096].into_iter().any(|block| at_end(size.checked_sub(block), b"EFI PART")) {
        found(PartitionTable("GPT"));
    }
    let md_old = (size & !0xffff).checked_sub(0x1_0000);
    let md_1_0 = size.checked_sub(0x2000).map(|o| o & !0xfff);
    if at_end(md_old, b"\xfc\x4e\x2b\xa9") || at_end(md_1_0, b"\xfc\x4e\x2b\xa9") {
        found(Member("md"));
    }
    if at_end(size.checked_sub(512), b"koly") {
        found(Image("dmg"));
    }
    let zero = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
    Content { blank: signatures.is_empty() && zero(head) && zero(tail), signatures }
}

/// A boot signature with a table that makes sense: every entry's flag is 0 or 0x80, and one has a type and a length.
fn has_mbr(head: &[u8]) -> bool {
    let Some(sector) = head.get(..512) else { return false };
    if sector[510..] != [0x55, 0xaa] {
        return false;
    }
    let mut entries = sector[446..510].chunks_exact(16);
    let plausible = entries.clone().all(|e| e[0] & 0x7f == 0);
    plausible && entries.any(|e| e[4] != 0 && e[12..16] != [0; 4])
}

impl Media {
    /// Reads start and end of the medium and says what it carries. Blocks the thread for two reads.
    pub fn probe_blocking(&self) -> Result<Content, MediaError> {
        let size = self.size().get();
        let align = u64::from(self.geometry().io_align);
        let usable = size - size % align;
        let piece = |want: usize| usize::try_from(usable).unwrap_or(want).min(want);
        let mut head = PoolBuf::unpooled(piece(HEAD_LEN));
        let mut tail = PoolBuf::unpooled(piece(TAIL_LEN));
        let tail_at = usable - tail.len() as u64;
        self.read_blocking(0, &mut head).map_err(MediaError::io("read start of", self.path()))?;
        self.read_blocking(tail_at, &mut tail).map_err(MediaError::io("read end of", self.path()))?;
        Ok(probe_content(&head, &tail, usable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magic_of_the_table_is_found() {
        for (offset, magic, signature) in HEAD {
            let mut head = vec![0u8; HEAD_LEN];
            head[*offset..offset + magic.len()].copy_from_slice(magic);
            let content = probe_content(&head, &[], 1 << 30);
            assert!(content.signatures.contains(signature), "{signature:?} at {offset}: {content:?}");
            assert!(content.is_foreign());
        }
    }

    #[test]
    fn tables_at_the_end_and_unknown_bytes_count() {
        let size = 10u64 << 20;
        let head = vec![0u8; 4096];
        let mut tail = vec![0u8; TAIL_LEN];
        assert_eq!(probe_content(&head, &tail, size), Content { signatures: vec![], blank: true });
        tail[TAIL_LEN - 512..][..8].copy_from_slice(b"EFI PART");
        assert_eq!(probe_content(&head, &tail, size).signatures, [PartitionTable("GPT")]);
        let mut trailer = vec![0u8; TAIL_LEN];
        trailer[TAIL_LEN - 512..][..4].copy_from_slice(b"koly");
        assert_eq!(probe_content(&head, &trailer, size).signatures, [Image("dmg")]);
        let mut unknown = head.clone();
        unknown[700] = 1;
        let content = probe_content(&unknown, &[], size);
        assert!(content.signatures.is_empty() && content.is_foreign());
        assert!(probe_content(&[], &[], 0).blank);
    }

    #[test]
    fn a_boot_signature_alone_is_no_partition_table() {
        let mut head = vec![0u8; 512];
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(probe_content(&head, &[], 512).signatures.is_empty());
        head[446 + 4] = 0x83;
        head[446 + 12] = 9;
        assert_eq!(probe_content(&head, &[], 512).signatures, [PartitionTable("MBR")]);
    }
}
