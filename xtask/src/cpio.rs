//! An initial RAM disk: a cpio archive of the kind the kernel reads ("newc"), not compressed.

use std::collections::BTreeSet;
use std::path::{Component, Path};

/// Type bits of the mode.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive that is being written. Same files, same bytes: every time is 0 and inodes are numbered in order.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a file and the folders above it. `path` has no leading slash.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.folders_above(path);
        self.entry(path, FILE | permissions, content);
    }

    fn folders_above(&mut self, path: &str) {
        let mut so_far = String::new();
        let parts = Path::new(path).parent().into_iter().flat_map(Path::components);
        for part in parts {
            let Component::Normal(name) = part else { continue };
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far.push_str(&name.to_string_lossy());
            if self.folders.insert(so_far.clone()) {
                self.entry(&so_far, DIRECTORY | 0o755, &[]);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        // Magic; inode, mode, uid, gid, links, time, size, device and rdev (two numbers each), length of the name, checksum.
        let fields =
            [self.inodes, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0].map(hex8);
        self.bytes.extend_from_slice(b"070701");
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

fn hex8(number: u32) -> String {
    format!("{number:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes.clone()).expect("all of it is text");
        assert_eq!(text.matches("070701").count(), 4, "a, a/b, a/b/c and the end mark");
        assert_eq!(bytes.len() % 4, 0);
        let at = text.find("a/b/c\0").expect("the file's name");
        let header = &text[at - 110..at];
        assert_eq!(&header[14..22], "000081ed", "a file, rwxr-xr-x");
        assert_eq!(&header[54..62], "00000005", "its size");
        // 110 bytes of header and 6 of name are a multiple of 4.
        assert_eq!(&bytes[at + 6..at + 11], b"hello");
    }
}
