//! Which parts of a sparse file hold something, and how much room there is around it.

use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::media::{Media, MediaKind};

/// A run of bytes that all hold something or all do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// False for a hole: it reads as zeros and takes no room.
    pub mapped: bool,
}

/// Room for and in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that its file system has free.
    pub available: u64,
    /// Bytes that it takes.
    pub used: u64,
}

impl Media {
    /// Runs from `offset` on that together cover at most `len` bytes, `runs_max` of them at most. Whatever is no regular
    /// file of its own is mapped.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn mapped(&self, offset: u64, len: u64, runs_max: usize) -> io::Result<Vec<Run>> {
        if self.kind() != MediaKind::File || self.is_window() {
            return Ok(vec![Run { offset, len, mapped: true }]);
        }
        let end = offset + len;
        let seek = |from: u64, whence| match lseek(self.file(), from as i64, whence) {
            Ok(at) => Ok(u64::try_from(at).unwrap_or(end).min(end)),
            // Nothing of that kind behind here.
            Err(Errno::ENXIO) => Ok(end),
            Err(error) => Err(io::Error::from(error)),
        };
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end && runs.len() < runs_max {
            let data = seek(at, Whence::SeekData)?;
            let (next, mapped) = if data > at { (data, false) } else { (seek(at, Whence::SeekHole)?, true) };
            runs.push(Run { offset: at, len: next - at, mapped });
            at = next;
        }
        Ok(runs)
    }

    /// Room in its file system, and what it takes of it.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn room(&self) -> io::Result<Room> {
        let stat = nix::sys::statvfs::fstatvfs(self.file())?;
        let used = self.file().metadata()?.blocks() * 512;
        Ok(Room { available: stat.blocks_available() as u64 * stat.fragment_size() as u64, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaOptions;

    #[test]
    fn holes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 65536], 1 << 20).unwrap();
        drop(file);
        let media = Media::open(&path, MediaOptions::exclusive()).unwrap();
        let run = |offset, len, mapped| Run { offset, len, mapped };
        let runs = media.mapped(0, 8 << 20, 16).unwrap();
        assert_eq!(
            runs,
            [run(0, 1 << 20, false), run(1 << 20, 65536, true), run((1 << 20) + 65536, (7 << 20) - 65536, false)]
        );
        assert_eq!(media.mapped((1 << 20) + 512, 1024, 16).unwrap(), [run((1 << 20) + 512, 1024, true)]);
        assert_eq!(media.mapped(0, 8 << 20, 1).unwrap().len(), 1);
        assert!(media.room().unwrap().used >= 65536);
    }
}
