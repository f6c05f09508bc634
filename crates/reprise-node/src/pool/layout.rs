//! The pool on disk: superblocks, groups, recovery.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use reprise_engine::{GroupMeta, MetaError, Opened, Opening, OpeningError};
use reprise_format::FormatError;
use reprise_format::superblock::{
    self, AREAS_OFFSET, GROUPS_MAX, PoolBody, SEGMENTS_OFFSET, SUPERBLOCK_COPY_LEN, SuperblockKind,
};
use reprise_journal::{
    CacheRead, JournalStart, RecoverError, SegmentFound, newest_generation, scan_segments, segment_offset,
};
use reprise_media::{Fill, Media, MediaError, MediaKind, MediaOptions, create_file};
use reprise_types::{BoxId, ByteLen, GroupId, PoolBuf, PoolId};

use super::Allocator;
use super::data::{DataHalf, RawHalf};
use super::private;
use super::prove::Lost;

/// Segments of a cache, at least: below it the reserve would be most of it.
const SEGMENTS_MIN: u64 = 16;
/// Segments are as large as 64 MiB allows at this count.
const SEGMENTS_GOOD: u64 = 64;
const MIB: u64 = 1 << 20;

/// Bytes at the end of a disk that are cleared when a pool is made: backups of partition tables and the like lie there.
const TAIL_CLEARED: u64 = MIB;

/// Where the data half is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataPlace {
    /// A folder, made if nothing is there; or a device or file that becomes a raw half.
    At(PathBuf),
    /// The second half of the cache's disk.
    SecondHalf,
}

/// Where a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Partition, disk or file of the cache; of both halves where the data half is its second half.
    pub cache: PathBuf,
    /// The data half.
    pub data: DataPlace,
    /// Length of the file `cache` where it does not exist yet.
    pub cache_len: Option<ByteLen>,
    /// Identity of a medium whose content may be given up, as [`PoolError::Foreign`] shows it.
    pub overwrite: Option<String>,
}

/// Why a pool does not open.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The cache.
    #[error("cache {path}")]
    Media {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: MediaError,
    },
    /// Reading or writing it.
    #[error("{what} in {path}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It carries something else.
    #[error(
        "{path} carries {found}; name an empty disk, partition or file, or, if that may be lost, set pool.overwrite = \"{identity}\""
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What.
        found: String,
        /// Names this medium and no other.
        identity: String,
    },
    /// A file that is to be split, is not there, and has no size.
    #[error("{path} does not exist; make it, or give pool.size")]
    NoSize {
        /// Where.
        path: PathBuf,
    },
    /// The settings call a pool by another layout than it has.
    #[error("{path} holds {is}; the settings say {says}")]
    Layout {
        /// Where.
        path: PathBuf,
        /// What it is.
        is: &'static str,
        /// What was asked for.
        says: &'static str,
    },
    /// The data half belongs to another pool.
    #[error("{path} is the data half of another pool; put the right disk back")]
    OtherPool {
        /// Where.
        path: PathBuf,
    },
    /// The pool has a raw data half, and it is not there.
    #[error("{path} does not carry the data half of this pool; put the right disk back")]
    HalfMissing {
        /// Where.
        path: PathBuf,
    },
    /// Smaller than it may be.
    #[error("{path} has {have} bytes; {what} needs at least {need}")]
    TooSmall {
        /// What needs them.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Bytes there.
        have: ByteLen,
        /// Bytes needed.
        need: ByteLen,
    },
    /// Smaller than it was.
    #[error("{path} has shrunk: {have} bytes, the pool was made with {need}; give it its size back")]
    Shrunk {
        /// Where.
        path: PathBuf,
        /// Bytes there.
        have: ByteLen,
        /// Bytes needed.
        need: ByteLen,
    },
    /// Of another box.
    #[error(
        "{path} belongs to box {owner}, this is {this_box}: the pool was moved or copied; put it back, or give this box that box's identity"
    )]
    Moved {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        owner: BoxId,
        /// This box.
        this_box: BoxId,
    },
    /// A superblock.
    #[error("superblock of {what}")]
    Superblock {
        /// The pool, or a group.
        what: String,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// A group's superblock.
    #[error("superblock of group slot {slot}")]
    Meta {
        /// Its slot.
        slot: usize,
        /// Why.
        #[source]
        source: MetaError,
    },
    /// A group's journal.
    #[error("group {name}")]
    Recover {
        /// The group.
        name: String,
        /// Why.
        #[source]
        source: RecoverError,
    },
    /// Too many groups.
    #[error("a pool takes {GROUPS_MAX} groups; delete one first")]
    Full,
    /// No such group.
    #[error("group {0} is not in this pool")]
    Unknown(GroupId),
    /// The journal does not hold what was acknowledged.
    #[error("{0}")]
    Lost(Lost),
}

/// Place of a group in the superblock area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSlot {
    /// Which place.
    pub slot: usize,
    /// The group.
    pub group: GroupId,
}

/// A group after recovery, to be given to its thread.
#[derive(Debug)]
pub struct OpenedGroup {
    /// Place of its superblock.
    pub slot: usize,
    /// What it is opened from.
    pub group: Opened,
}

struct Directory {
    version: u64,
    body: PoolBody,
}

/// An open pool. Its media are locked against a second daemon as long as it lives.
pub struct Pool {
    id: PoolId,
    cache: Arc<Media>,
    data: DataHalf,
    segment_len: u64,
    allocator: Allocator,
    directory: Mutex<Directory>,
    segments: Vec<SegmentFound>,
}

pub(super) struct Reader<'a>(pub(super) &'a Media);

impl CacheRead for Reader<'_> {
    fn read(&mut self, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
        let mut buf = PoolBuf::unpooled(len);
        self.0.read_blocking(offset, &mut buf)?;
        Ok(buf.to_vec())
    }
}

fn io<T>(what: &'static str, path: &Path, result: std::io::Result<T>) -> Result<T, PoolError> {
    result.map_err(|source| PoolError::Io { what, path: path.to_owned(), source })
}

fn media<T>(path: &Path, result: Result<T, MediaError>) -> Result<T, PoolError> {
    result.map_err(|source| PoolError::Media { path: path.to_owned(), source })
}

/// Bytes of a segment for a cache of this length, and how many there are.
fn cut(len: u64) -> Option<(u64, u32)> {
    let usable = len.checked_sub(SEGMENTS_OFFSET)?;
    let segment_len = (usable / SEGMENTS_GOOD).clamp(MIB, 64 * MIB);
    let segment_len = if segment_len.is_power_of_two() { segment_len } else { segment_len.next_power_of_two() / 2 };
    let count = usable / segment_len;
    (count >= SEGMENTS_MIN).then(|| (segment_len, count.min(u64::from(u32::MAX)) as u32))
}

/// Refuses a medium that carries something, unless the settings name it.
fn check_blank(media_: &Media, config: &PoolConfig) -> Result<(), PoolError> {
    let path = media_.path();
    let content = media(path, media_.probe_blocking())?;
    let identity = media_.identity().to_string();
    if content.is_foreign() && config.overwrite.as_ref() != Some(&identity) {
        return Err(PoolError::Foreign { path: path.to_owned(), found: content.to_string(), identity });
    }
    Ok(())
}

fn clear_tail(media: &Media) -> Result<(), PoolError> {
    let align = u64::from(media.geometry().io_align).max(512);
    let end = media.size().get() / align * align;
    let from = end.saturating_sub(TAIL_CLEARED) / align * align;
    let zeros = vec![0; (end - from) as usize];
    io("clear the end", media.path(), media.write_blocking(from, &zeros))
}

fn draw(path: &Path) -> Result<[u8; 16], PoolError> {
    let mut id = [0; 16];
    io("draw an identity", path, getrandom::fill(&mut id).map_err(std::io::Error::other))?;
    Ok(id)
}

impl Pool {
    /// Opens a pool, or makes one where the cache is blank.
    ///
    /// # Errors
    /// See [`PoolError`]; nothing was changed then, but a file that did not exist may have been made.
    pub fn open(config: &PoolConfig, this_box: BoxId) -> Result<Self, PoolError> {
        let path = config.cache.as_path();
        let made = match (path.exists(), config.cache_len, &config.data) {
            (true, ..) => false,
            (false, Some(len), _) => {
                // Segments are filled a segment ahead of use, areas when they are made; superblocks are written whole.
                media(path, create_file(path, len, Fill::Sparse, &mut |_| std::ops::ControlFlow::Continue(())))?;
                true
            }
            (false, None, DataPlace::SecondHalf) => return Err(PoolError::NoSize { path: path.to_owned() }),
            (false, None, DataPlace::At(_)) => false,
        };
        let whole = media(path, Media::open(path, MediaOptions::exclusive()))?;
        let copies = read_copies(&whole, superblock::pool_copies())?;
        let (version, body) = match superblock::newest::<PoolBody>(SuperblockKind::Pool, &copies) {
            Ok(found) => found,
            Err(FormatError::Magic { .. }) => Self::create(&whole, this_box, made, config)?,
            Err(source) => return Err(PoolError::Superblock { what: "the pool".to_owned(), source }),
        };
        Self::load(whole, config, this_box, version, body)
    }

    fn create(whole: &Media, this_box: BoxId, made: bool, config: &PoolConfig) -> Result<(u64, PoolBody), PoolError> {
        let path = whole.path();
        if !made {
            check_blank(whole, config)?;
        }
        let have = whole.size();
        let split = config.data == DataPlace::SecondHalf;
        let half = have.get() / 2 / MIB * MIB;
        let cache_len = if split { half } else { have.get() };
        let least = SEGMENTS_OFFSET + SEGMENTS_MIN * MIB;
        let need = ByteLen::from_raw(if split { 2 * least } else { least });
        let what = if split { "a pool" } else { "a cache" };
        let (segment_len, segments) =
            cut(cache_len).ok_or(PoolError::TooSmall { path: path.to_owned(), have, need, what })?;
        let zeros = vec![0; MIB as usize];
        for at in (0..SEGMENTS_OFFSET).step_by(zeros.len()) {
            io("clear the superblock area", path, whole.write_blocking(at, &zeros))?;
        }
        if split {
            // What an earlier pool has left there is no data half of this one.
            for at in (half..half + AREAS_OFFSET).step_by(zeros.len()) {
                io("clear the superblock area", path, whole.write_blocking(at, &zeros))?;
            }
        }
        clear_tail(whole)?;
        let body = PoolBody {
            pool: draw(path)?.to_vec(),
            owner: this_box.as_bytes().to_vec(),
            segment_len,
            segments,
            groups: vec![Vec::new(); GROUPS_MAX],
            journal_devices: Vec::new(),
            data_offset: if split { half } else { 0 },
            data_half: Vec::new(),
        };
        // Both pairs of copies hold the first version, so that a later rot of one pair is no loss.
        write_superblock(whole, SuperblockKind::Pool, superblock::pool_copies(), 1, &body)?;
        write_superblock(whole, SuperblockKind::Pool, superblock::pool_copies(), 2, &body)?;
        Ok((2, body))
    }

    fn load(
        whole: Arc<Media>,
        config: &PoolConfig,
        this_box: BoxId,
        version: u64,
        body: PoolBody,
    ) -> Result<Self, PoolError> {
        let path = whole.path().to_owned();
        let malformed = |field| PoolError::Superblock {
            what: "the pool".to_owned(),
            source: FormatError::Field { what: "pool superblock", field, value: 0 },
        };
        let id = PoolId::from_raw(body.pool.as_slice().try_into().map_err(|_| malformed("pool"))?);
        let owner = BoxId::from_raw(body.owner.as_slice().try_into().map_err(|_| malformed("owner"))?);
        if owner != this_box {
            return Err(PoolError::Moved { path, owner, this_box });
        }
        if whole.kind() == MediaKind::File {
            private::close(&path);
        }
        if !body.segment_len.is_power_of_two() || !(MIB..=64 * MIB).contains(&body.segment_len) {
            return Err(malformed("segment_len"));
        }
        if body.groups.len() > GROUPS_MAX {
            return Err(malformed("groups"));
        }
        let segments_end = segment_offset(body.segments, body.segment_len);
        let need = ByteLen::from_raw(segments_end.max(body.data_offset));
        if whole.size() < need {
            return Err(PoolError::Shrunk { path, have: whole.size(), need });
        }
        if body.data_offset != 0 && (body.data_offset < segments_end || !body.data_offset.is_multiple_of(MIB)) {
            return Err(malformed("data_offset"));
        }
        let both = "both halves of a pool (pool.disk)";
        let cache = match (body.data_offset, &config.data) {
            (0, DataPlace::At(_)) => whole.clone(),
            (0, DataPlace::SecondHalf) => {
                return Err(PoolError::Layout { path, is: "the cache of a pool (pool.cache)", says: both });
            }
            (_, DataPlace::At(_)) => {
                return Err(PoolError::Layout { path, is: both, says: "the cache of a pool (pool.cache)" });
            }
            (half, DataPlace::SecondHalf) => media(&path, whole.window(path.clone(), 0, half))?,
        };
        // What was read may sit in a volatile cache: it counts only once it is durable.
        io("flush the cache", &path, cache.sync_blocking())?;
        io("forget what is in memory", &path, cache.forget_cached())?;
        let segments = scan_segments(&mut Reader(&cache), id, body.segments, body.segment_len);
        let segments = io("read segment headers", &path, segments)?;
        let newest = newest_generation(&segments, []);
        let used: BTreeSet<u32> = segments.iter().map(|s| s.segment).collect();
        let fresh = match cache.kind() {
            MediaKind::File => (0..body.segments).filter(|s| !used.contains(s)).collect(),
            MediaKind::Device => BTreeSet::new(),
        };
        let mut body = body;
        let mut version = version;
        let data = match &config.data {
            DataPlace::SecondHalf => {
                let start = body.data_offset;
                let half = media(&path, whole.window(path.clone(), start, (whole.size().get() - start) / MIB * MIB))?;
                Self::raw_half(&half, &path, start, &mut version, &mut body, &cache)?
            }
            DataPlace::At(at) if at.exists() && !at.is_dir() => {
                let half = media(at, Media::open(at, MediaOptions::exclusive()))?;
                if body.data_half.is_empty() && RawHalf::open(&half, at, 0, id)?.is_none() {
                    check_blank(&half, config)?;
                    clear_tail(&half)?;
                }
                if half.kind() == MediaKind::File {
                    private::close(at);
                }
                Self::raw_half(&half, at, 0, &mut version, &mut body, &cache)?
            }
            DataPlace::At(folder) => {
                io("make the data folder", folder, private::make_folder(folder))?;
                private::close_data(folder);
                private::close_around(&path, folder);
                DataHalf::Folder(folder.clone())
            }
        };
        let mut pool = Self {
            id,
            cache,
            data,
            segment_len: body.segment_len,
            allocator: Allocator::new(body.segments, &BTreeSet::new(), newest, fresh.clone()),
            directory: Mutex::new(Directory { version, body }),
            segments,
        };
        let mut held = BTreeSet::new();
        for slot in pool.groups() {
            // A group that cannot be recovered keeps all segments that name it: nothing of it may be overwritten.
            match pool.recover_slot(slot, &pool.segments) {
                Ok(opened) => held.extend(opened.group.held),
                Err(_) => held.extend(pool.segments.iter().filter(|s| s.header.group == slot.group).map(|s| s.segment)),
            }
        }
        let total = pool.with_directory(|d| d.body.segments);
        let newest = newest_generation(&pool.segments, [pool.allocator.newest_generation()]);
        pool.allocator = Allocator::new(total, &held, newest, fresh);
        Ok(pool)
    }

    /// Opens a raw data half, or makes it where the pool has none yet. The pool names it once it is there.
    fn raw_half(
        half: &Arc<Media>,
        disk: &Path,
        start: u64,
        version: &mut u64,
        body: &mut PoolBody,
        cache: &Media,
    ) -> Result<DataHalf, PoolError> {
        let malformed = FormatError::Field { what: "pool superblock", field: "pool", value: 0 };
        let superblock = |source| PoolError::Superblock { what: "the pool".to_owned(), source };
        let id = PoolId::from_raw(body.pool.as_slice().try_into().map_err(|_| superblock(malformed))?);
        let raw = match RawHalf::open(half, disk, start, id)? {
            Some(raw) => raw,
            None if !body.data_half.is_empty() => return Err(PoolError::HalfMissing { path: disk.to_owned() }),
            None => RawHalf::create(half, disk, start, id, draw(disk)?)?,
        };
        if body.data_half.is_empty() {
            body.data_half = raw.half();
            *version += 1;
            write_superblock(cache, SuperblockKind::Pool, superblock::pool_copies(), *version, body)?;
        }
        if body.data_half != raw.half() {
            return Err(PoolError::HalfMissing { path: disk.to_owned() });
        }
        Ok(DataHalf::Raw(raw))
    }

    fn with_directory<T>(&self, act: impl FnOnce(&mut Directory) -> T) -> T {
        act(&mut self.directory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pool.
    pub fn id(&self) -> PoolId {
        self.id
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<Media> {
        &self.cache
    }

    /// The data half.
    pub fn data(&self) -> &DataHalf {
        &self.data
    }

    /// Bytes of a segment.
    pub fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// The allocator of segments.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The groups.
    pub fn groups(&self) -> Vec<GroupSlot> {
        let known = |(slot, id): (usize, &Vec<u8>)| {
            let id: [u8; 16] = id.as_slice().try_into().ok()?;
            Some(GroupSlot { slot, group: GroupId::from_raw(id) })
        };
        self.with_directory(|d| d.body.groups.iter().enumerate().filter_map(known).collect())
    }

    /// Recovers a group. To be called once per start, before its thread runs.
    ///
    /// # Errors
    /// Its superblock or journal cannot be taken; the group stays as it is.
    pub fn open_group(&self, group: GroupId) -> Result<OpenedGroup, PoolError> {
        let slot = self.groups().into_iter().find(|s| s.group == group).ok_or(PoolError::Unknown(group))?;
        self.recover_slot(slot, &self.segments)
    }

    /// Recovers a group whose thread has ended since the pool was opened: the segments are looked at again.
    ///
    /// # Errors
    /// As for [`Self::open_group`], or the disk's.
    pub fn reopen_group(&self, group: GroupId) -> Result<OpenedGroup, PoolError> {
        let slot = self.groups().into_iter().find(|s| s.group == group).ok_or(PoolError::Unknown(group))?;
        self.recover_slot(slot, &self.settled_segments()?)
    }

    /// Headers of all segments as they are on the disk and nowhere else: the device is flushed first and what the kernel
    /// remembers is forgotten.
    pub(super) fn settled_segments(&self) -> Result<Vec<SegmentFound>, PoolError> {
        let path = self.cache.path();
        io("flush the cache", path, self.cache.sync_blocking())?;
        io("forget what is in memory", path, self.cache.forget_cached())?;
        let count = self.with_directory(|d| d.body.segments);
        let found = scan_segments(&mut Reader(&self.cache), self.id, count, self.segment_len);
        io("read segment headers", path, found)
    }

    pub(super) fn recover_slot(&self, slot: GroupSlot, segments: &[SegmentFound]) -> Result<OpenedGroup, PoolError> {
        let copies = read_copies(&self.cache, superblock::group_copies(slot.slot))?;
        let opening = Opening::of_copies(&copies).map_err(|error| match error {
            OpeningError::Superblock(source) => PoolError::Superblock { what: format!("group {}", slot.group), source },
            OpeningError::Meta(source) => PoolError::Meta { slot: slot.slot, source },
        })?;
        let meta = opening.meta();
        // One that stands in another's place would run twice, over the same segments.
        if meta.group != slot.group {
            let source = FormatError::Field { what: "group superblock", field: "group", value: slot.slot as u64 };
            return Err(PoolError::Superblock { what: format!("group {}", slot.group), source });
        }
        // Also where it could not be read when the pool was opened, and can be now.
        self.allocator.begin_behind(meta.generation_floor);
        let name = meta.name.clone();
        let group = opening
            .recover(&mut Reader(&self.cache), self.id, self.segment_len, segments)
            .map_err(|source| PoolError::Recover { name, source })?;
        Ok(OpenedGroup { slot: slot.slot, group })
    }

    /// Makes a group: durable when this returns.
    ///
    /// # Errors
    /// No slot is left, or the disk's.
    pub fn create_group(&self, mut meta: GroupMeta) -> Result<OpenedGroup, PoolError> {
        meta.generation_floor = self.allocator.newest_generation();
        meta.incarnation = 1;
        let free = |d: &mut Directory| d.body.groups.iter().position(Vec::is_empty);
        let slot = self.with_directory(free).ok_or(PoolError::Full)?;
        // The group's superblock is there before the pool's names it.
        let copies = superblock::group_copies(slot);
        write_superblock(&self.cache, SuperblockKind::Group, copies, 1, &meta.to_body())?;
        write_superblock(&self.cache, SuperblockKind::Group, copies, 2, &meta.to_body())?;
        self.name_slot(slot, meta.group.as_bytes().to_vec())?;
        let start = JournalStart::empty(meta.seal, meta.incarnation);
        Ok(OpenedGroup { slot, group: Opened::made(meta, 2, start) })
    }

    /// Forgets a group whose thread has stopped. Its segments are free after the next start.
    ///
    /// # Errors
    /// No such group, or the disk's.
    pub fn delete_group(&self, group: GroupId) -> Result<(), PoolError> {
        let slot = self.groups().into_iter().find(|s| s.group == group).ok_or(PoolError::Unknown(group))?;
        self.name_slot(slot.slot, Vec::new())
    }

    fn name_slot(&self, slot: usize, id: Vec<u8>) -> Result<(), PoolError> {
        let cache = self.cache.clone();
        self.with_directory(|d| {
            let mut body = d.body.clone();
            body.groups[slot] = id;
            write_superblock(&cache, SuperblockKind::Pool, superblock::pool_copies(), d.version + 1, &body)?;
            (d.version, d.body) = (d.version + 1, body);
            Ok(())
        })
    }
}

pub(super) fn read_copies(cache: &Media, offsets: [u64; 4]) -> Result<Vec<Option<Vec<u8>>>, PoolError> {
    let mut reader = Reader(cache);
    // Of a copy that cannot be read `newest` decides whether it may be missing.
    let end = cache.size().get();
    let copy = |at: u64| match reader.read(at, SUPERBLOCK_COPY_LEN) {
        Ok(copy) => Some(copy),
        // Behind the end is nothing, and no error of the disk.
        Err(_) => (at + SUPERBLOCK_COPY_LEN as u64 > end).then(|| vec![0; SUPERBLOCK_COPY_LEN]),
    };
    Ok(offsets.map(copy).into())
}

pub(super) fn write_superblock<B: prost::Message>(
    cache: &Media,
    kind: SuperblockKind,
    offsets: [u64; 4],
    version: u64,
    body: &B,
) -> Result<(), PoolError> {
    let bytes = superblock::encode(kind, version, body)
        .map_err(|source| PoolError::Superblock { what: "a group or the pool".to_owned(), source })?;
    for copy in superblock::copies_of(version) {
        io("write a superblock", cache.path(), cache.write_blocking(offsets[copy], &bytes))?;
    }
    io("flush the cache", cache.path(), cache.sync_blocking())
}
