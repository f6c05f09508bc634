//! The superblock of a group: as it is in memory, and what of it is durable.

use std::ops::Deref;

use bytes::Bytes;
use reprise_format::FormatError;
use reprise_format::superblock::{self, SUPERBLOCK_COPY_LEN, SuperblockKind};

use crate::meta::{GroupMeta, PeerMeta};

/// Bytes of a superblock copy that what hosts and people of this box ask for may fill.
pub(crate) const SUPERBLOCK_FILL_OWN: usize = SUPERBLOCK_COPY_LEN / 4 * 3;
/// The same for what a peer has taken and this box is to follow: its own paths may be longer than the peer's.
pub(crate) const SUPERBLOCK_FILL_PEER: usize = SUPERBLOCK_COPY_LEN - (4 << 10);

/// True where the superblock takes no more than so many bytes.
pub(crate) fn superblock_has_room(meta: &GroupMeta, bytes: usize) -> bool {
    superblock::body_fits(&meta.to_body(), bytes)
}

/// The version of the superblock that will hold a change: [`MetaStore::holds`] says whether it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Barrier(u64);

/// Reads as the superblock in memory. One version is written at a time; all changes since go into the next one.
#[derive(Debug)]
pub(crate) struct MetaStore {
    meta: GroupMeta,
    durable: u64,
    writing: Option<u64>,
    dirty: bool,
}

impl Deref for MetaStore {
    type Target = GroupMeta;

    fn deref(&self) -> &GroupMeta {
        &self.meta
    }
}

impl MetaStore {
    /// As it is on disk in this version.
    pub(crate) fn new(meta: GroupMeta, durable: u64) -> Self {
        Self { meta, durable, writing: None, dirty: false }
    }

    /// Changes it in memory: durable with the next change that somebody waits for.
    pub(crate) fn note<R>(&mut self, edit: impl FnOnce(&mut GroupMeta) -> R) -> R {
        edit(&mut self.meta)
    }

    /// Changes what is known of the peer in memory; none where there is no peer.
    pub(crate) fn note_peer<R>(&mut self, edit: impl FnOnce(&mut PeerMeta) -> R) -> Option<R> {
        self.meta.peers.first_mut().map(edit)
    }

    /// Changes it, and puts it on its way to the disk with everything that was noted.
    pub(crate) fn change(&mut self, edit: impl FnOnce(&mut GroupMeta)) -> Barrier {
        edit(&mut self.meta);
        self.dirty = true;
        Barrier(self.writing.unwrap_or(self.durable) + 1)
    }

    /// Puts everything that was noted on its way to the disk.
    pub(crate) fn keep(&mut self) -> Barrier {
        self.change(|_| {})
    }

    /// Of all changes so far.
    pub(crate) fn barrier(&self) -> Barrier {
        Barrier(self.writing.unwrap_or(self.durable) + u64::from(self.dirty))
    }

    /// True once a change is durable.
    pub(crate) fn holds(&self, barrier: Barrier) -> bool {
        barrier.0 <= self.durable
    }

    /// The version that is durable.
    pub(crate) fn version(&self) -> u64 {
        self.durable
    }

    /// True when the superblock on disk is the one in memory, but for what was only noted.
    pub(crate) fn is_settled(&self) -> bool {
        !self.dirty && self.writing.is_none()
    }

    /// The version to write, and one copy of it, where there is something to write and nothing is being written.
    ///
    /// # Errors
    /// It does not fit.
    pub(crate) fn poll_write(&mut self) -> Result<Option<(u64, Bytes)>, FormatError> {
        if !self.dirty || self.writing.is_some() {
            return Ok(None);
        }
        let version = self.durable + 1;
        let copy = superblock::encode(SuperblockKind::Group, version, &self.meta.to_body())?.freeze();
        // What does not fit is not kept, and nobody may be told so.
        self.dirty = false;
        self.writing = Some(version);
        Ok(Some((version, copy)))
    }

    /// What was being written is durable.
    pub(crate) fn written(&mut self) {
        self.durable = self.writing.take().unwrap_or(self.durable);
    }
}

#[cfg(test)]
mod tests {
    use reprise_types::{GroupId, Point, Seq};

    use super::*;
    use crate::meta::RoleMeta;

    #[test]
    fn what_does_not_fit_is_never_held() {
        let meta = GroupMeta {
            group: GroupId::from_raw([1; 16]),
            name: "orders".into(),
            role: RoleMeta::Source,
            branches: vec![],
            trimmed: Point::default(),
            applied: Seq::ZERO,
            applying: Seq::ZERO,
            seal: Point::default(),
            incarnation: 1,
            volumes: vec![],
            peers: vec![],
            fenced: None,
            next_slot: 0,
            generation_floor: 0,
        };
        let mut store = MetaStore::new(meta, 7);
        assert!(store.holds(store.barrier()), "nothing has changed");
        store.change(|meta| meta.name = "x".repeat(SUPERBLOCK_COPY_LEN));
        assert!(store.poll_write().is_err());
        assert!(!store.holds(store.barrier()), "and it is not on the disk");
        store.change(|meta| meta.name.truncate(10));
        assert_eq!(store.poll_write().unwrap().map(|(version, _)| version), Some(8));
        store.written();
        assert!(store.holds(store.barrier()));
    }
}
