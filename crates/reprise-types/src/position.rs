//! Positions in a group's history.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{BranchId, HistoryHash};

/// Position of a record in a group's history, gap-free within its branch. The first record is 1; 0 is the position
/// before any record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(u64);

impl Seq {
    /// The position before the first record.
    pub const ZERO: Self = Self(0);
    /// The last position that a record may have: 2^62 records outlive every disk, and arithmetic on positions that are
    /// within it cannot overflow.
    pub const LAST: Self = Self(1 << 62);
    /// Larger than every position that is ever assigned.
    pub const MAX: Self = Self(u64::MAX);

    /// Takes a raw number that is known to be good.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// Takes a number from a disk or a peer; none past [`Self::LAST`].
    pub const fn from_outside(raw: u64) -> Option<Self> {
        if raw <= Self::LAST.0 { Some(Self(raw)) } else { None }
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position after this one. Behind [`Self::MAX`], which no record has, is nothing more.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// `self + count`, or none on overflow.
    pub fn checked_add(self, count: u64) -> Option<Self> {
        self.0.checked_add(count).map(Self)
    }

    /// Records from `earlier` (exclusive) to `self` (inclusive); 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position is always on a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The line of history.
    pub branch: BranchId,
    /// The record on it.
    pub seq: Seq,
}

/// A position with its history hash: what a proof about a peer is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Point {
    /// The line of history.
    pub branch: BranchId,
    /// The record on it.
    pub seq: Seq,
    /// h(seq).
    pub hash: HistoryHash,
}

/// The positions of one group on one box (`docs/glossary.md`):
///
/// `trimmed <= applied <= applying <= durable <= written` for the home leg and
/// `trimmed <= peer_durable <= sent <= durable` for an attached peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Positions {
    /// Records up to here may be gone from the journal.
    pub trimmed: Seq,
    /// Home holds all records up to here.
    pub applied: Seq,
    /// Home may hold records up to here.
    pub applying: Seq,
    /// Records up to here survive a power cut.
    pub durable: Seq,
    /// Records up to here have a Seq.
    pub written: Seq,
    /// Records up to here were handed to the link; none without a peer.
    pub sent: Option<Seq>,
    /// Records up to here are durable at the peer; none without a peer.
    pub peer_durable: Option<Seq>,
}

impl Positions {
    /// Asserts the order stated at the type. A broken order is a bug of ours, never of input.
    ///
    /// # Panics
    /// When the order does not hold.
    pub fn assert_ordered(&self) {
        assert!(
            self.trimmed <= self.applied
                && self.applied <= self.applying
                && self.applying <= self.durable
                && self.durable <= self.written,
            "home leg positions out of order: {self:?}"
        );
        if let (Some(sent), Some(peer)) = (self.sent, self.peer_durable) {
            assert!(
                self.trimmed <= peer && peer <= sent && sent <= self.durable,
                "peer positions out of order: {self:?}"
            );
        }
    }
}

/// What a box is for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fed by hosts.
    Source,
    /// Fed by the link.
    Mirror,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Mirror => "mirror",
        })
    }
}
