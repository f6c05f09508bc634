//! What every part of a group works with: its journal, its superblock, what it asks of others, and the time.

use std::collections::VecDeque;

use reprise_journal::{Journal, JournalConfig};
use reprise_types::{BoxId, Now};

use crate::effect::{CacheFill, Effect, Notice};
use crate::meta::GroupMeta;

/// What the node gives a group at start.
#[derive(Debug, Clone, Copy)]
pub struct GroupConfig {
    /// This box.
    pub this_box: BoxId,
    /// Journal geometry and limits.
    pub journal: JournalConfig,
    /// Window that a feeding peer may fill, in bytes.
    pub link_window: u64,
    /// Body bytes of one home round, at most: [`crate::ROUND_BYTES_MAX`] but in the simulator, which takes small ones too.
    pub round_bytes: u64,
    /// Records that a moment is put together from, at most: [`crate::MOMENT_RECORDS_MAX`] but in tests.
    pub moment_records: u64,
}

/// Figures for status.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct GroupStats {
    /// Bytes written by hosts or received from the peer.
    pub bytes_in: u64,
    /// Operations of hosts that change a volume.
    pub writes: u64,
    /// Journal writes: each is durable before what is in it is acknowledged.
    pub journal_writes: u64,
    /// Bytes read by hosts.
    pub bytes_read: u64,
    /// Reads of hosts.
    pub reads: u64,
    /// Bytes that went to homes.
    pub bytes_applied: u64,
    /// Body bytes handed to the link.
    pub bytes_sent: u64,
    /// Segments held.
    pub segments: u64,
    /// Bytes of the journal that are not trimmed.
    pub held_bytes: u64,
    /// Extents in the index.
    pub index_extents: u64,
    /// Memory of the index and of the tables of the journal, bytes.
    pub index_bytes: u64,
    /// Records whose tables are in memory.
    pub records: u64,
    /// Bytes with a Seq that are not durable.
    pub undurable_bytes: u64,
    /// Reads that failed: the disk gave an error, or bytes that are not those that were written.
    pub read_errors: u64,
}

/// What the parts of a group share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: GroupConfig,
    pub(crate) meta: GroupMeta,
    pub(crate) journal: Journal,
    pub(crate) now: Now,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) fill: CacheFill,
    pub(crate) stats: GroupStats,
}

impl Core {
    pub(crate) fn notice(&mut self, notice: Notice) {
        self.effects.push_back(Effect::Notice(notice));
    }
}
