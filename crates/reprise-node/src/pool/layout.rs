//! The pool on disk: superblocks, groups, recovery.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use reprise_engine::{GroupMeta, MetaError};
use reprise_format::FormatError;
use reprise_format::superblock::{
    self, GROUPS_MAX, GroupBody, PoolBody, SEGMENTS_OFFSET, SUPERBLOCK_COPY_LEN, SuperblockKind,
};
use reprise_journal::{
    CacheRead, Case, Found, JournalStart, RecoverError, SegmentFound, recover, scan_segments, segment_offset,
};
use reprise_media::{Fill, Media, MediaError, MediaKind, MediaOptions, create_file};
use reprise_types::{BoxId, ByteLen, GroupId, PoolBuf, PoolId, Role, Seq};

use super::Allocator;

/// Segments of a cache, at least: below it the reserve would be most of it.
const SEGMENTS_MIN: u64 = 16;
/// Segments are as large as 64 MiB allows at this count.
const SEGMENTS_GOOD: u64 = 64;
const MIB: u64 = 1 << 20;

/// Where a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Partition, disk or file of the cache.
    pub cache: PathBuf,
    /// Folder of home files.
    pub data: PathBuf,
    /// Length of the cache file where it does not exist yet.
    pub cache_len: Option<ByteLen>,
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
    #[error("{path} carries {found}; name an empty partition or file, or wipe it first (wipefs)")]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What.
        found: String,
    },
    /// Smaller than a cache may be.
    #[error("{path} has {have} bytes; a cache needs at least {need}")]
    TooSmall {
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
    /// Its superblock.
    pub meta: GroupMeta,
    /// Version of it.
    pub superblock_version: u64,
    /// Where its journal goes on.
    pub start: JournalStart,
    /// Rows of the recovery table that were walked.
    pub cases: Vec<Case>,
    /// Bytes that recovery read.
    pub bytes_read: u64,
}

struct Directory {
    version: u64,
    body: PoolBody,
}

/// An open pool. The cache is locked against a second daemon as long as it lives.
pub struct Pool {
    id: PoolId,
    cache: Arc<Media>,
    data: PathBuf,
    segment_len: u64,
    allocator: Allocator,
    directory: Mutex<Directory>,
    segments: Vec<SegmentFound>,
}

struct Reader<'a>(&'a Media);

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

impl Pool {
    /// Opens a pool, or makes one where the cache is blank.
    ///
    /// # Errors
    /// See [`PoolError`]; nothing was changed then, but a file that did not exist may have been made.
    pub fn open(config: &PoolConfig, this_box: BoxId) -> Result<Self, PoolError> {
        let path = config.cache.as_path();
        io("make the data folder", &config.data, fs::create_dir_all(&config.data))?;
        let made = if path.exists() {
            false
        } else if let Some(len) = config.cache_len {
            // Segments are filled a segment ahead of use; the superblock area is written whole.
            media(path, create_file(path, len, Fill::Sparse, &mut |_| std::ops::ControlFlow::Continue(())))?;
            true
        } else {
            false
        };
        let cache = media(path, Media::open(path, MediaOptions::exclusive()))?;
        let copies = read_copies(&cache, superblock::pool_copies())?;
        let (version, body) = match superblock::newest::<PoolBody>(SuperblockKind::Pool, &copies) {
            Ok(found) => found,
            Err(FormatError::Magic { .. }) => Self::create(&cache, this_box, made)?,
            Err(source) => return Err(PoolError::Superblock { what: "the pool".to_owned(), source }),
        };
        Self::load(cache, config, this_box, version, body)
    }

    fn create(cache: &Media, this_box: BoxId, made: bool) -> Result<(u64, PoolBody), PoolError> {
        let path = cache.path();
        let content = media(path, cache.probe_blocking())?;
        if !made && content.is_foreign() {
            return Err(PoolError::Foreign { path: path.to_owned(), found: format!("{content:?}") });
        }
        let have = cache.size();
        let need = ByteLen::from_raw(SEGMENTS_OFFSET + SEGMENTS_MIN * MIB);
        let (segment_len, segments) =
            cut(have.get()).ok_or(PoolError::TooSmall { path: path.to_owned(), have, need })?;
        let mut id = [0; 16];
        io("draw an identity", path, getrandom::fill(&mut id).map_err(std::io::Error::other))?;
        let zeros = vec![0; MIB as usize];
        for at in (0..SEGMENTS_OFFSET).step_by(zeros.len()) {
            io("clear the superblock area", path, cache.write_blocking(at, &zeros))?;
        }
        let body = PoolBody {
            pool: id.to_vec(),
            owner: this_box.as_bytes().to_vec(),
            segment_len,
            segments,
            groups: vec![Vec::new(); GROUPS_MAX],
            journal_devices: Vec::new(),
        };
        // Both pairs of copies hold the first version, so that a later rot of one pair is no loss.
        write_superblock(cache, SuperblockKind::Pool, superblock::pool_copies(), 1, &body)?;
        write_superblock(cache, SuperblockKind::Pool, superblock::pool_copies(), 2, &body)?;
        Ok((2, body))
    }

    fn load(
        cache: Arc<Media>,
        config: &PoolConfig,
        this_box: BoxId,
        version: u64,
        body: PoolBody,
    ) -> Result<Self, PoolError> {
        let path = cache.path().to_owned();
        let malformed = |field| PoolError::Superblock {
            what: "the pool".to_owned(),
            source: FormatError::Field { what: "pool superblock", field, value: 0 },
        };
        let id = PoolId::from_raw(body.pool.as_slice().try_into().map_err(|_| malformed("pool"))?);
        let owner = BoxId::from_raw(body.owner.as_slice().try_into().map_err(|_| malformed("owner"))?);
        if owner != this_box {
            return Err(PoolError::Moved { path, owner, this_box });
        }
        if !body.segment_len.is_power_of_two() || !(MIB..=64 * MIB).contains(&body.segment_len) {
            return Err(malformed("segment_len"));
        }
        let need = ByteLen::from_raw(segment_offset(body.segments, body.segment_len));
        if cache.size() < need {
            return Err(PoolError::Shrunk { path, have: cache.size(), need });
        }
        // What was read may sit in a volatile cache: it counts only once it is durable.
        io("flush the cache", &path, cache.sync_blocking())?;
        let segments = scan_segments(&mut Reader(&cache), id, body.segments, body.segment_len);
        let segments = io("read segment headers", &path, segments)?;
        let newest = segments.iter().map(|s| s.header.generation).max().unwrap_or(0);
        let used: BTreeSet<u32> = segments.iter().map(|s| s.segment).collect();
        let fresh = match cache.kind() {
            MediaKind::File => (0..body.segments).filter(|s| !used.contains(s)).collect(),
            MediaKind::Device => BTreeSet::new(),
        };
        let mut pool = Self {
            id,
            cache,
            data: config.data.clone(),
            segment_len: body.segment_len,
            allocator: Allocator::new(body.segments, &BTreeSet::new(), newest, fresh.clone()),
            directory: Mutex::new(Directory { version, body }),
            segments,
        };
        let mut held = BTreeSet::new();
        for slot in pool.groups() {
            // A group that cannot be recovered keeps all segments that name it: nothing of it may be overwritten.
            match pool.recover_slot(slot) {
                Ok((_, ids)) => held.extend(ids),
                Err(_) => held.extend(pool.segments.iter().filter(|s| s.header.group == slot.group).map(|s| s.segment)),
            }
        }
        let total = pool.with_directory(|d| d.body.segments);
        pool.allocator = Allocator::new(total, &held, newest, fresh);
        Ok(pool)
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

    /// Folder of home files.
    pub fn data(&self) -> &Path {
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

    /// Bytes free in the data half.
    ///
    /// # Errors
    /// The file system's.
    pub fn data_free(&self) -> std::io::Result<ByteLen> {
        let stat = nix::sys::statvfs::statvfs(&self.data)?;
        Ok(ByteLen::from_raw(stat.blocks_available() * stat.fragment_size()))
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
        self.recover_slot(slot).map(|(opened, _)| opened)
    }

    fn recover_slot(&self, slot: GroupSlot) -> Result<(OpenedGroup, Vec<u32>), PoolError> {
        let copies = read_copies(&self.cache, superblock::group_copies(slot.slot))?;
        let (version, body) = superblock::newest::<GroupBody>(SuperblockKind::Group, &copies)
            .map_err(|source| PoolError::Superblock { what: format!("group {}", slot.group), source })?;
        let meta = GroupMeta::from_body(&body).map_err(|source| PoolError::Meta { slot: slot.slot, source })?;
        let peer = meta.peer.as_ref().and_then(|p| p.durable).filter(|_| meta.role == Role::Source);
        let found = Found {
            pool: self.id,
            group: meta.group,
            segment_len: self.segment_len,
            superblock_version: version,
            trimmed: meta.trimmed,
            seal: meta.seal,
            incarnation: meta.incarnation,
            applying: meta.applying,
            generation_floor: meta.generation_floor,
            peer_durable: peer.map_or(Seq::ZERO, |p| p.seq),
        };
        let recovered = recover(&mut Reader(&self.cache), found, &self.segments)
            .map_err(|source| PoolError::Recover { name: meta.name.clone(), source })?;
        let opened = OpenedGroup {
            slot: slot.slot,
            meta,
            superblock_version: version,
            start: recovered.start,
            cases: recovered.cases,
            bytes_read: recovered.bytes_read,
        };
        Ok((opened, recovered.held))
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
        Ok(OpenedGroup { slot, meta, superblock_version: 2, start, cases: Vec::new(), bytes_read: 0 })
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

fn read_copies(cache: &Media, offsets: [u64; 4]) -> Result<Vec<Option<Vec<u8>>>, PoolError> {
    let mut reader = Reader(cache);
    // A copy that cannot be read counts as none: there are others.
    Ok(offsets.into_iter().map(|at| reader.read(at, SUPERBLOCK_COPY_LEN).ok()).collect())
}

fn write_superblock<B: prost::Message>(
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
