//! From the copies of a superblock to an open group, in the order that every start takes.

use reprise_format::FormatError;
use reprise_format::link::Nonce;
use reprise_format::superblock::{self, GroupBody, SuperblockKind};
use reprise_journal::{CacheRead, Case, Found, JournalStart, RecoverError, SegmentFound, SegmentId, recover};
use reprise_link::instance;
use reprise_types::{Now, PoolId, Role, Seq};

use crate::core::GroupConfig;
use crate::group::Group;
use crate::meta::{GroupMeta, MetaError};

/// A superblock from which no group can be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// No copy that can be taken.
    #[error("superblock")]
    Superblock(#[source] FormatError),
    /// Its fields are wrong.
    #[error("superblock")]
    Meta(#[source] MetaError),
}

/// A group as its superblock has it; its journal is still to be recovered.
#[derive(Debug)]
pub struct Opening {
    meta: GroupMeta,
    superblock_version: u64,
}

impl Opening {
    /// Takes the newest of the superblock's copies, in the order of their places; none stands for one that cannot be read.
    ///
    /// # Errors
    /// There is none that can be taken.
    pub fn of_copies(copies: &[Option<Vec<u8>>]) -> Result<Self, OpeningError> {
        let newest = superblock::newest::<GroupBody>(SuperblockKind::Group, copies);
        let (superblock_version, body) = newest.map_err(OpeningError::Superblock)?;
        let meta = GroupMeta::from_body(&body).map_err(OpeningError::Meta)?;
        Ok(Self { meta, superblock_version })
    }

    /// The superblock.
    pub fn meta(&self) -> &GroupMeta {
        &self.meta
    }

    /// Recovers the journal. `segments` are the headers of all segments of the pool, read behind a flush.
    ///
    /// # Errors
    /// The journal is not one that the group may go on with; nothing was written.
    pub fn recover(
        self,
        disk: &mut dyn CacheRead,
        pool: PoolId,
        segment_len: u64,
        segments: &[SegmentFound],
    ) -> Result<Opened, RecoverError> {
        let Self { meta, superblock_version } = self;
        let peer = meta.peer().and_then(|p| p.durable).filter(|_| meta.role() == Role::Source);
        let found = Found {
            pool,
            group: meta.group,
            segment_len,
            superblock_version,
            trimmed: meta.trimmed,
            seal: meta.seal,
            incarnation: meta.incarnation,
            applying: meta.applying,
            generation_floor: meta.generation_floor,
            peer_durable: peer.map_or(Seq::ZERO, |p| p.seq),
        };
        let recovered = recover(disk, found, segments)?;
        Ok(Opened {
            meta,
            superblock_version,
            start: recovered.start,
            cases: recovered.cases,
            bytes_read: recovered.bytes_read,
            held: recovered.held,
        })
    }
}

/// A group whose journal is recovered.
#[derive(Debug)]
pub struct Opened {
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
    /// Segments that its journal holds.
    pub held: Vec<SegmentId>,
}

impl Opened {
    /// A group that has just been made, with this version of its superblock: its journal begins at `start`.
    pub fn made(meta: GroupMeta, superblock_version: u64, start: JournalStart) -> Self {
        Self { meta, superblock_version, start, cases: Vec::new(), bytes_read: 0, held: Vec::new() }
    }

    /// The peer is shown another instance of this box. Durable with the superblock that the group writes before it lets
    /// anybody connect.
    pub fn draw_instance(&mut self, random: Nonce) {
        if let Some(peer) = self.meta.peers.first_mut()
            && let Some(next) = instance::on_start(peer.instance, random)
        {
            peer.instance = next;
        }
    }

    /// Opens the group. What the journal holds of units and the superblock does not is read first, then the seal goes out;
    /// nothing is served before that is durable.
    pub fn open(self, now: Now, config: GroupConfig) -> Group {
        Group::open(now, config, self.meta, self.superblock_version, self.start)
    }
}
