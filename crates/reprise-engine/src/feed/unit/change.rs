//! A change of what a unit remembers, as a record of the journal.

use bytes::Bytes;
use reprise_format::unit;
use reprise_types::{RecordKind, SectorCount, Seq, UnitState, VolumeSlot};

use crate::meta::GroupMeta;

#[derive(Debug, Clone)]
pub(super) enum What {
    /// The unit remembers this.
    State(UnitState),
    /// The volume has this size.
    Size(SectorCount),
}

impl What {
    pub(super) fn kind(&self) -> RecordKind {
        match self {
            Self::State(_) => RecordKind::Reservation,
            Self::Size(_) => RecordKind::VolumeResized,
        }
    }

    pub(super) fn payload(&self) -> Bytes {
        match self {
            Self::State(state) => unit::to_payload(state),
            Self::Size(sectors) => unit::size_payload(*sectors),
        }
    }

    pub(super) fn apply(&self, meta: &mut GroupMeta, slot: VolumeSlot) {
        if let Some(volume) = meta.volumes.iter_mut().find(|v| v.slot == slot) {
            match self {
                Self::State(state) => volume.unit = Some(state.clone()),
                Self::Size(sectors) => volume.sectors = *sectors,
            }
        }
    }

    /// From a record; none for what this version does not understand, which the journal keeps all the same.
    pub(super) fn of(kind: RecordKind, payload: &[u8]) -> Option<Self> {
        match kind {
            RecordKind::Reservation => unit::from_payload(payload).ok().map(Self::State),
            RecordKind::VolumeResized => unit::size_of_payload(payload).ok().map(Self::Size),
            _ => None,
        }
    }

    pub(super) fn is_size(&self) -> bool {
        matches!(self, Self::Size(_))
    }
}

/// A record that says what the unit of a volume remembers.
#[derive(Debug)]
pub(crate) struct UnitRecord {
    pub(super) seq: Seq,
    pub(super) volume: VolumeSlot,
    pub(super) what: What,
}
