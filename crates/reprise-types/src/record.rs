//! What a record is, without its bytes.

use serde::{Deserialize, Serialize};

use crate::{Sector, SectorCount};

/// Place of a volume in its group's volume table: the short name a descriptor uses. Given once, never reused in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeSlot(u16);

impl VolumeSlot {
    /// Takes a raw number.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
    /// The raw number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A run of sectors of one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Extent {
    /// The volume.
    pub volume: VolumeSlot,
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub sectors: SectorCount,
}

impl Extent {
    /// First sector after the extent; saturates at the end of the address space.
    pub fn end(&self) -> Sector {
        Sector::from_raw(self.sector.get().saturating_add(self.sectors.get()))
    }
}

/// The kind of a record that takes a Seq. Box-local facts (seal, checkpoint, role) are no records.
/// Codes are those of `docs/formats.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum RecordKind {
    /// Sectors with payload.
    Write = 1,
    /// Sectors that read as zero from here on (UNMAP, WRITE SAME with zeros). No payload.
    Zero = 2,
    /// A named moment. Payload: the name.
    Bookmark = 3,
    /// The host asked for a flush here. No payload.
    FlushMark = 4,
    /// Persistent reservation state of a volume. Payload: the state.
    Reservation = 5,
    /// A volume joined the group. Payload: its description.
    VolumeAdded = 6,
    /// A volume changed size. Payload: its description.
    VolumeResized = 7,
    /// A volume left the group.
    VolumeRemoved = 8,
    /// An interval (a, b] begins.
    IntervalBegin = 9,
    /// Newest content of an extent inside an interval.
    IntervalExtent = 10,
    /// An interval is complete.
    IntervalCommit = 11,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Write,
        Self::Zero,
        Self::Bookmark,
        Self::FlushMark,
        Self::Reservation,
        Self::VolumeAdded,
        Self::VolumeResized,
        Self::VolumeRemoved,
        Self::IntervalBegin,
        Self::IntervalExtent,
        Self::IntervalCommit,
    ];

    /// The code on disk and wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.code() == code)
    }

    /// True where the record changes the content of a volume.
    pub fn changes_content(self) -> bool {
        matches!(self, Self::Write | Self::Zero)
    }
}
