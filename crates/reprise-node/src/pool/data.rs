//! The data half: where homes are made, found again and given up.
//!
//! It is a folder, and homes are files in it; or it is raw (a device, a partition, the second half of one disk, or a file
//! used like one), and a home is an *area* of it in one piece. The table of areas stands at the start of a raw half, as a
//! superblock with its four copies (`docs/formats.md`, "Raw data half"). An area is entered before a group names it and is
//! never freed by itself: what no volume uses is shown, and can be adopted again.

mod grow;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use reprise_format::FormatError;
use reprise_format::superblock::{
    AREA_GRAIN, AREAS_MAX, AREAS_OFFSET, AreaBody, DataBody, SuperblockKind, newest, pool_copies,
};
use reprise_media::{Fill, Media, MediaError, MediaOptions, Progress, create_file, take_room, zero_fill};
use reprise_types::{ByteLen, PoolId, VolumeId};

use super::layout::{PoolError, read_copies, write_superblock};
use super::make_folder;

/// Room that stays free in a folder: the file system's own needs.
pub const KEEP_FREE: u64 = 16 << 20;
/// Beginning of the identity of a home that is an area.
const AREA: &str = "area:";

/// A home cannot be made or given up.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The medium.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The file system.
    #[error("{what} {path}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No room in one piece.
    #[error("the data half has {free} bytes free, {longest} of them in one piece; {needed} are needed in one piece")]
    NoRun {
        /// Bytes of the volume.
        needed: u64,
        /// Bytes free in all.
        free: u64,
        /// The longest piece.
        longest: u64,
    },
    /// No room behind an area that is to grow.
    #[error("the home lies in one piece and can have {free} bytes more where it lies; {needed} are needed")]
    NotBehind {
        /// Bytes that it should have more.
        needed: u64,
        /// Bytes that it can have more.
        free: u64,
    },
    /// No entry is left in the table.
    #[error("a raw data half takes {AREAS_MAX} volumes")]
    TableFull,
    /// A raw half has no thin homes.
    #[error("{path} is a raw data half, and has no thin volumes")]
    Thin {
        /// The half.
        path: PathBuf,
    },
    /// The home is not here.
    #[error("there is no home {home} in the data half")]
    Unknown {
        /// What was asked for.
        home: String,
    },
    /// An earlier write of the table failed: what the disk holds is found out at the next start.
    #[error("the table of the data half could not be written earlier")]
    Failed,
    /// The table cannot be written.
    #[error("write the table of the data half")]
    Table(#[source] Box<PoolError>),
    /// A path that is not UTF-8 cannot be kept.
    #[error("{path} is not UTF-8")]
    NotText {
        /// The path.
        path: PathBuf,
    },
}

fn io<T>(what: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, DataError> {
    result.map_err(|source| DataError::Io { what, path: path.to_owned(), source })
}

/// How a home is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Zeros are written to all of it.
    Zeroed,
    /// A sparse file.
    Thin,
    /// Its room is taken; a first copy writes every sector of it before it is used.
    Reserved,
}

/// For which volume a home is made.
#[derive(Debug, Clone, Copy)]
pub struct HomeName<'a> {
    /// Its group.
    pub group: &'a str,
    /// The volume.
    pub volume: &'a str,
    /// Its identity.
    pub id: VolumeId,
}

/// A home, opened.
#[derive(Debug, Clone)]
pub struct Home {
    /// Where it is: a path, or `DISK@OFFSET` in bytes for an area.
    pub path: String,
    /// What it is recognised by at the next start.
    pub identity: String,
    /// The home.
    pub media: Arc<Media>,
}

/// The data half of a pool.
#[derive(Debug)]
pub enum DataHalf {
    /// A folder of files.
    Folder(PathBuf),
    /// A device, or a part of one.
    Raw(RawHalf),
}

impl DataHalf {
    /// The folder, or the disk.
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Raw(raw) => &raw.disk,
        }
    }

    /// True where homes are areas.
    pub fn is_raw(&self) -> bool {
        matches!(self, Self::Raw(_))
    }

    /// Where a home will be, as far as that is known before it is made.
    pub fn planned(&self, name: HomeName<'_>) -> PathBuf {
        match self {
            Self::Folder(folder) => home_path(folder, name),
            Self::Raw(raw) => raw.disk.clone(),
        }
    }

    /// Bytes free; and the largest home that can be made.
    ///
    /// # Errors
    /// The file system's.
    pub fn free(&self) -> std::io::Result<(u64, u64)> {
        match self {
            Self::Folder(path) => {
                let stat = nix::sys::statvfs::statvfs(path)?;
                let free = stat.blocks_available().saturating_mul(stat.fragment_size()).saturating_sub(KEEP_FREE);
                Ok((free, free))
            }
            Self::Raw(raw) => Ok(raw.with(|s| s.free())),
        }
    }

    /// Makes a home. Blocks the thread for as long as writing takes; `progress` may stop it.
    ///
    /// # Errors
    /// See [`DataError`]; nothing is left behind then.
    pub fn create(
        &self,
        name: HomeName<'_>,
        size: ByteLen,
        make: Make,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Home, DataError> {
        match self {
            Self::Folder(folder) => create_in_folder(&home_path(folder, name), size, make, progress),
            Self::Raw(raw) => raw.add(name, size, make, progress),
        }
    }

    /// The home with this identity, where it is an area of this half.
    ///
    /// # Errors
    /// It is an area, and not of this half.
    pub fn open_area(&self, identity: &str) -> Option<Result<Home, DataError>> {
        let id = identity.strip_prefix(AREA)?;
        let unknown = || DataError::Unknown { home: identity.to_owned() };
        Some(match self {
            Self::Folder(_) => Err(unknown()),
            Self::Raw(raw) => {
                let found = raw.with(|s| s.body.areas.iter().find(|a| hex::encode(&a.id) == id).cloned());
                found.ok_or_else(unknown).and_then(|area| raw.home(&area))
            }
        })
    }

    /// The area at `DISK@OFFSET`, if that is what the path says.
    pub fn area_at(&self, path: &str) -> Option<Result<Home, DataError>> {
        let Self::Raw(raw) = self else { return None };
        let area = raw.with(|s| s.body.areas.iter().find(|a| raw.text(a) == path).cloned())?;
        Some(raw.home(&area))
    }

    /// Areas with what they were made for, their place and size in bytes; none for a folder.
    pub fn areas(&self) -> Vec<(String, String, u64)> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Raw(raw) => raw.with(|s| s.body.areas.iter().map(|a| (a.name.clone(), raw.text(a), a.len)).collect()),
        }
    }

    /// Gives a home that this half made back: the file is deleted, the area freed. Nobody may use it any more.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self, path: &str, identity: &str) -> Result<(), DataError> {
        if let Some(id) = identity.strip_prefix(AREA) {
            let Self::Raw(raw) = self else { return Err(DataError::Unknown { home: path.to_owned() }) };
            return raw.with(|s| {
                let mut body = s.body.clone();
                body.areas.retain(|a| hex::encode(&a.id) != id);
                raw.write(s, body)
            });
        }
        let path = Path::new(path);
        io("delete", path, fs::remove_file(path))?;
        if let Some(Ok(dir)) = path.parent().map(fs::File::open) {
            let _ = dir.sync_all();
        }
        Ok(())
    }
}

/// Where the home of a volume is made in a folder.
fn home_path(folder: &Path, name: HomeName<'_>) -> PathBuf {
    folder.join(name.group).join(format!("{}-{}.home", name.volume, name.id.short()))
}

fn create_in_folder(
    path: &Path,
    size: ByteLen,
    make: Make,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Home, DataError> {
    let text = path.to_str().ok_or_else(|| DataError::NotText { path: path.to_owned() })?.to_owned();
    if let Some(dir) = path.parent() {
        io("make", dir, make_folder(dir))?;
    }
    let fill = if make == Make::Zeroed { Fill::Zeroed } else { Fill::Sparse };
    create_file(path, size, fill, progress)?;
    let finish = || {
        let media = Media::open(path, MediaOptions::exclusive())?;
        if make == Make::Reserved {
            take_room(&media)?;
        }
        Ok(Home { path: text, identity: media.identity().to_string(), media })
    };
    // Nothing names the file yet, and it holds nothing.
    finish().inspect_err(|_| drop(fs::remove_file(path)))
}

/// A raw data half.
#[derive(Debug)]
pub struct RawHalf {
    /// The half; its superblock is at 0.
    media: Arc<Media>,
    disk: PathBuf,
    /// Where it begins on the disk.
    start: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    version: u64,
    body: DataBody,
    /// Areas that are being written and stand in no table yet.
    making: Vec<AreaBody>,
    failed: bool,
}

impl State {
    /// Gaps between areas, as (offset, length).
    fn gaps(&self) -> Vec<(u64, u64)> {
        let mut used: Vec<(u64, u64)> =
            self.body.areas.iter().chain(&self.making).map(|a| (a.offset, end_of(a))).collect();
        used.sort_unstable();
        let mut gaps = Vec::new();
        let mut at = AREAS_OFFSET;
        for (from, to) in used.into_iter().chain([(self.body.len, self.body.len)]) {
            if from > at {
                gaps.push((at, from - at));
            }
            at = at.max(to);
        }
        gaps
    }

    fn free(&self) -> (u64, u64) {
        let gaps = self.gaps();
        (gaps.iter().map(|(_, len)| len).sum(), gaps.iter().map(|(_, len)| *len).max().unwrap_or(0))
    }

    /// The smallest gap that holds `len` bytes: long ones are kept for large volumes.
    fn place(&self, len: u64) -> Result<u64, DataError> {
        let fits = self.gaps().into_iter().filter(|(_, gap)| *gap >= len).min_by_key(|(at, gap)| (*gap, *at));
        fits.map(|(at, _)| at).ok_or_else(|| {
            let (free, longest) = self.free();
            DataError::NoRun { needed: len, free, longest }
        })
    }
}

/// Where the next area may begin.
fn end_of(area: &AreaBody) -> u64 {
    area.offset.saturating_add(area.len).checked_next_multiple_of(AREA_GRAIN).unwrap_or(u64::MAX)
}

fn check(body: &DataBody) -> Result<(), FormatError> {
    let bad = |field, value| FormatError::Field { what: "superblock of the data half", field, value };
    if body.areas.len() > AREAS_MAX {
        return Err(bad("areas", body.areas.len() as u64));
    }
    let mut areas: Vec<&AreaBody> = body.areas.iter().collect();
    areas.sort_unstable_by_key(|a| a.offset);
    let mut at = AREAS_OFFSET;
    for area in areas {
        let inside = area.offset.checked_add(area.len).is_some_and(|end| end <= body.len);
        if area.id.len() != 16 || area.len == 0 || !area.len.is_multiple_of(512) {
            return Err(bad("area", area.len));
        }
        if area.offset < at || !area.offset.is_multiple_of(AREA_GRAIN) || !inside {
            return Err(bad("offset", area.offset));
        }
        at = end_of(area);
    }
    Ok(())
}

fn table<T>(result: Result<T, FormatError>) -> Result<T, PoolError> {
    result.map_err(|source| PoolError::Superblock { what: "the data half".to_owned(), source })
}

impl RawHalf {
    /// Reads the half's superblock; none if there is none.
    pub(super) fn open(media: &Arc<Media>, disk: &Path, start: u64, pool: PoolId) -> Result<Option<Self>, PoolError> {
        let copies = read_copies(media, pool_copies())?;
        let (version, mut body) = match newest::<DataBody>(SuperblockKind::Data, &copies) {
            Err(FormatError::Magic { .. }) => return Ok(None),
            other => table(other)?,
        };
        table(check(&body))?;
        if body.pool != pool.as_bytes() {
            return Err(PoolError::OtherPool { path: disk.to_owned() });
        }
        let have = media.size().get();
        if have < body.len {
            let (have, need) = (ByteLen::from_raw(start + have), ByteLen::from_raw(start.saturating_add(body.len)));
            return Err(PoolError::Shrunk { path: disk.to_owned(), have, need });
        }
        body.len = have;
        Ok(Some(Self::with_body(media, disk, start, version, body)))
    }

    /// Makes an empty half. What the medium carried is lost to it.
    pub(super) fn create(
        media: &Arc<Media>,
        disk: &Path,
        start: u64,
        pool: PoolId,
        half: [u8; 16],
    ) -> Result<Self, PoolError> {
        let (have, need) = (media.size(), ByteLen::from_raw(AREAS_OFFSET + AREA_GRAIN));
        if have < need {
            return Err(PoolError::TooSmall { path: disk.to_owned(), have, need, what: "a data half" });
        }
        let body = DataBody { half: half.to_vec(), pool: pool.as_bytes().to_vec(), len: have.get(), areas: Vec::new() };
        for version in [1, 2] {
            write_superblock(media, SuperblockKind::Data, pool_copies(), version, &body)?;
        }
        Ok(Self::with_body(media, disk, start, 2, body))
    }

    fn with_body(media: &Arc<Media>, disk: &Path, start: u64, version: u64, body: DataBody) -> Self {
        let state = State { version, body, making: Vec::new(), failed: false };
        Self { media: media.clone(), disk: disk.to_owned(), start, state: Mutex::new(state) }
    }

    /// Its identity, as the pool's superblock names it.
    pub(super) fn half(&self) -> Vec<u8> {
        self.with(|s| s.body.half.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn text(&self, area: &AreaBody) -> String {
        format!("{}@{}", self.disk.display(), self.start.saturating_add(area.offset))
    }

    fn home(&self, area: &AreaBody) -> Result<Home, DataError> {
        if self.disk.to_str().is_none() {
            return Err(DataError::NotText { path: self.disk.clone() });
        }
        let path = self.text(area);
        let media = self.media.window(PathBuf::from(&path), area.offset, area.len)?;
        Ok(Home { path, identity: format!("{AREA}{}", hex::encode(&area.id)), media })
    }

    /// Makes a table durable, then the one in force. A write that failed is never repeated and believed.
    fn write(&self, state: &mut State, body: DataBody) -> Result<(), DataError> {
        if state.failed {
            return Err(DataError::Failed);
        }
        let version = state.version + 1;
        if let Err(error) = write_superblock(&self.media, SuperblockKind::Data, pool_copies(), version, &body) {
            state.failed = true;
            return Err(DataError::Table(Box::new(error)));
        }
        (state.version, state.body) = (version, body);
        Ok(())
    }

    fn add(
        &self,
        name: HomeName<'_>,
        size: ByteLen,
        make: Make,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Home, DataError> {
        if make == Make::Thin {
            return Err(DataError::Thin { path: self.disk.clone() });
        }
        let area = self.with(|s| {
            if s.failed {
                return Err(DataError::Failed);
            }
            if s.body.areas.len() + s.making.len() >= AREAS_MAX {
                return Err(DataError::TableFull);
            }
            let area = AreaBody {
                id: name.id.as_bytes().to_vec(),
                name: format!("{}/{}", name.group, name.volume),
                offset: s.place(size.get())?,
                len: size.get(),
            };
            s.making.push(area.clone());
            Ok(area)
        })?;
        let filled = self.home(&area).and_then(|home| {
            match make {
                Make::Reserved => take_room(&home.media)?,
                Make::Zeroed | Make::Thin => zero_fill(&home.media, progress)?,
            }
            Ok(home)
        });
        self.with(|s| {
            s.making.retain(|a| a.id != area.id);
            let home = filled?;
            let mut body = s.body.clone();
            body.areas.push(area);
            self.write(s, body)?;
            Ok(home)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const MIB: u64 = 1 << 20;

    pub(super) fn half(dir: &Path, mib: u64) -> Arc<Media> {
        let path = dir.join("disk");
        if !path.exists() {
            create_file(&path, ByteLen::from_raw(mib * MIB), Fill::Sparse, &mut |_| ControlFlow::Continue(())).unwrap();
        }
        let whole = Media::open(&path, MediaOptions::exclusive()).unwrap();
        whole.window(path, 4 * MIB, whole.size().get() - 4 * MIB).unwrap()
    }

    fn pool() -> PoolId {
        PoolId::from_raw([1; 16])
    }

    pub(super) fn raw(media: &Arc<Media>) -> DataHalf {
        let disk = Path::new("/dev/x");
        let opened = RawHalf::open(media, disk, 4 * MIB, pool()).unwrap();
        DataHalf::Raw(opened.unwrap_or_else(|| RawHalf::create(media, disk, 4 * MIB, pool(), [2; 16]).unwrap()))
    }

    pub(super) fn make(half: &DataHalf, n: u8, size: u64, make: Make) -> Result<Home, DataError> {
        let name = HomeName { group: "g", volume: "v", id: VolumeId::from_raw([n; 16]) };
        half.create(name, ByteLen::from_raw(size), make, &mut |_| ControlFlow::Continue(()))
    }

    #[test]
    fn areas_do_not_overlap_survive_a_restart_and_are_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let media = half(dir.path(), 20);
        let data = raw(&media);
        assert_eq!(data.free().unwrap(), (15 * MIB, 15 * MIB));
        let [a, b, c] = [(1, 4 * MIB), (2, 3 * MIB + 4096), (3, 2 * MIB)].map(|(n, size)| {
            let home = make(&data, n, size, Make::Zeroed).unwrap();
            home.media.write_blocking(0, &vec![n; 4096]).unwrap();
            home.media.write_blocking(size - 4096, &vec![n; 4096]).unwrap();
            assert!(home.media.write_blocking(size, &[0; 4096]).is_err(), "a home ends where it ends");
            home
        });
        assert_eq!((a.path.as_str(), b.path.as_str()), ("/dev/x@5242880", "/dev/x@9437184"));
        let full = make(&data, 4, 6 * MIB, Make::Zeroed);
        assert!(matches!(full, Err(DataError::NoRun { free, longest, .. }) if (free, longest) == (5 * MIB, 5 * MIB)));
        data.remove(&b.path, &b.identity).unwrap();
        let gap = make(&data, 4, 6 * MIB, Make::Zeroed);
        assert!(matches!(gap, Err(DataError::NoRun { free, longest, .. }) if (free, longest) == (9 * MIB, 5 * MIB)));
        // The smallest gap that is long enough is taken: the freed one, and what it held reads as zeros.
        let d = make(&data, 4, 4 * MIB, Make::Zeroed).unwrap();
        assert_eq!(d.path, b.path);
        let mut buf = reprise_types::PoolBuf::unpooled(4 * MIB as usize);
        d.media.read_blocking(0, &mut buf).unwrap();
        assert!(buf.iter().all(|b| *b == 0));
        drop((data, b, d));
        drop(media);
        // The windows of `a` and `c` still hold the lock: give them up as a stop does.
        let before: Vec<String> = [&a, &c].map(|h| h.identity.clone()).into();
        drop((a, c));
        let media = half(dir.path(), 20);
        let data = raw(&media);
        assert_eq!(data.areas().len(), 3);
        for (n, identity) in [1u8, 3].into_iter().zip(before) {
            let home = data.open_area(&identity).unwrap().unwrap();
            let mut buf = reprise_types::PoolBuf::unpooled(4096);
            home.media.read_blocking(home.media.size().get() - 4096, &mut buf).unwrap();
            assert!(buf.iter().all(|b| *b == n));
            assert_eq!(data.area_at(&home.path).unwrap().unwrap().identity, identity);
        }
        assert!(data.open_area("area:00").unwrap().is_err());
        assert!(data.open_area("file:1:2").is_none());
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let media = half(dir.path(), 20);
        let data = raw(&media);
        assert!(matches!(make(&data, 1, MIB, Make::Thin), Err(DataError::Thin { .. })));
        let name = HomeName { group: "g", volume: "v", id: VolumeId::from_raw([1; 16]) };
        let stopped = data.create(name, ByteLen::from_raw(4 * MIB), Make::Zeroed, &mut |_| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(DataError::Media(MediaError::Cancelled { .. }))));
        assert_eq!((data.areas().len(), data.free().unwrap().0), (0, 15 * MIB));
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        let area = |offset, len| AreaBody { id: vec![1; 16], name: String::new(), offset, len };
        let body = |areas| DataBody { half: vec![0; 16], pool: vec![0; 16], len: 16 * MIB, areas };
        assert!(check(&body(vec![area(MIB, MIB), area(2 * MIB, 14 * MIB)])).is_ok());
        for areas in [
            vec![area(0, MIB)],
            vec![area(MIB, 0)],
            vec![area(MIB, 100)],
            vec![area(MIB + 512, MIB)],
            vec![area(MIB, MIB + 512), area(2 * MIB, MIB)],
            vec![area(2 * MIB, 15 * MIB)],
            vec![area(u64::MAX - MIB + 1, MIB)],
            vec![AreaBody { id: vec![1; 15], ..area(MIB, MIB) }],
        ] {
            assert!(check(&body(areas.clone())).is_err(), "{areas:?}");
        }
        assert!(check(&body((1..258).map(|n| area(n * MIB, 512)).collect())).is_err());
    }

    #[test]
    fn homes_of_a_folder_have_speaking_names_and_are_not_made_twice() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let data = DataHalf::Folder(dir.path().to_owned());
        let home = make(&data, 0xab, MIB, Make::Reserved).unwrap();
        assert_eq!(Path::new(&home.path), dir.path().join("g/v-abababab.home"));
        let meta = fs::metadata(&home.path).unwrap();
        assert_eq!(meta.len(), MIB);
        assert!(meta.blocks() * 512 >= MIB, "room is taken");
        let again = make(&data, 0xab, MIB, Make::Reserved);
        assert!(matches!(again, Err(DataError::Media(MediaError::Exists { .. }))));
        data.remove(&home.path, &home.identity).unwrap();
        assert!(!Path::new(&home.path).exists());
    }
}
