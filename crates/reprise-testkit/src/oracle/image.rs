//! Images: what is looked at.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::stamp::SECTOR;
use crate::initiator::{InitiatorError, Session};

/// The content of a volume.
pub trait Image {
    /// Size in sectors.
    fn sectors(&self) -> u64;
    /// Fills `out`, whole sectors, from `sector`.
    fn read(&self, sector: u64, out: &mut [u8]) -> io::Result<()>;
}

/// An image in a file, such as a home.
pub struct FileImage {
    file: File,
    sectors: u64,
}

impl FileImage {
    /// Opens a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let sectors = file.metadata()?.len() / SECTOR as u64;
        Ok(Self { file, sectors })
    }
}

impl Image for FileImage {
    fn sectors(&self) -> u64 {
        self.sectors
    }
    fn read(&self, sector: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, sector * SECTOR as u64)
    }
}

impl Image for Vec<u8> {
    fn sectors(&self) -> u64 {
        (self.len() / SECTOR) as u64
    }
    fn read(&self, sector: u64, out: &mut [u8]) -> io::Result<()> {
        let at = sector as usize * SECTOR;
        let from = self.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }
}

const CHUNK_SECTORS: u64 = 2048;

/// Calls `see` with every sector.
pub(crate) fn each_sector(image: &dyn Image, mut see: impl FnMut(u64, &[u8; SECTOR])) -> io::Result<()> {
    let mut buf = vec![0; CHUNK_SECTORS as usize * SECTOR];
    let mut at = 0;
    while at < image.sectors() {
        let count = CHUNK_SECTORS.min(image.sectors() - at);
        let part = &mut buf[..count as usize * SECTOR];
        image.read(at, part)?;
        for (n, sector) in part.as_chunks::<SECTOR>().0.iter().enumerate() {
            see(at + n as u64, sector);
        }
        at += count;
    }
    Ok(())
}

/// Where two images differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// They have different sizes, in sectors.
    Size(u64, u64),
    /// Differing sectors.
    Sectors {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// Compares two images byte for byte; none if they are equal.
pub fn compare_images(a: &dyn Image, b: &dyn Image) -> io::Result<Option<Difference>> {
    if a.sectors() != b.sectors() {
        return Ok(Some(Difference::Size(a.sectors(), b.sectors())));
    }
    let (mut left, mut right) = (vec![0; CHUNK_SECTORS as usize * SECTOR], vec![0; CHUNK_SECTORS as usize * SECTOR]);
    let (mut at, mut first, mut differing) = (0, None, 0);
    while at < a.sectors() {
        let count = CHUNK_SECTORS.min(a.sectors() - at);
        let len = count as usize * SECTOR;
        a.read(at, &mut left[..len])?;
        b.read(at, &mut right[..len])?;
        if left[..len] != right[..len] {
            let pairs = left[..len].chunks_exact(SECTOR).zip(right[..len].chunks_exact(SECTOR));
            for (n, _) in pairs.enumerate().filter(|(_, (l, r))| l != r) {
                first.get_or_insert(at + n as u64);
                differing += 1;
            }
        }
        at += count;
    }
    Ok(first.map(|first| Difference::Sectors { first, count: differing }))
}

/// Reads a whole volume through iSCSI into a file. Blocks of the LUN must be 512 bytes.
pub async fn dump_volume(session: &Session, lun: u16, path: &Path) -> Result<FileImage, InitiatorError> {
    const BLOCKS: u64 = 2048;
    const AHEAD: usize = 4;
    let capacity = session.read_capacity(lun).await?;
    let file = File::create(path)?;
    let mut under_way = std::collections::VecDeque::new();
    let mut next = 0;
    loop {
        while under_way.len() < AHEAD && next < capacity.blocks {
            let count = BLOCKS.min(capacity.blocks - next) as u32;
            under_way.push_back((next, session.read(lun, next, count, capacity.block_size)));
            next += u64::from(count);
        }
        let Some((at, read)) = under_way.pop_front() else { break };
        file.write_all_at(&read.await?, at * u64::from(capacity.block_size))?;
    }
    drop(file);
    Ok(FileImage::open(path)?)
}
