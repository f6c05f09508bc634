//! A comparison of source and mirror.

use bytes::Bytes;
use reprise_types::{Point, Sector, SectorCount, VolumeSlot};

use crate::link::wire::{Field, message};

message!(
    /// Asks the mirror to hold the moment `at` for a comparison. Sent before any record behind it.
    VerifyOpen {
        /// Names the comparison on this connection.
        id: u64,
        /// The moment.
        at: Point,
    }
);

message!(
    /// The mirror holds the moment; or says why it does not, or no longer.
    VerifyReady {
        /// The comparison.
        id: u64,
        /// Empty where the moment is held.
        refused: String,
    }
);

message!(
    /// Asks for the hashes of a part of a volume as of the moment.
    VerifyAsk {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
        /// Sectors per hash; the last hash may cover fewer.
        grain: SectorCount,
    }
);

message!(
    /// The hashes asked for: BLAKE3 cut to 16 bytes, one behind the other.
    VerifyHashes {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// The hashes; none where the part cannot be read.
        hashes: Bytes,
    }
);

message!(
    /// What a part of a volume holds at the moment; the payload is its content. Written to the mirror's home where no record
    /// of its journal up to the moment covers it.
    VerifyFix {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
    }
);

message!(
    /// The answer to a fix, once it is durable.
    VerifyFixed {
        /// The comparison.
        id: u64,
        /// The volume.
        slot: VolumeSlot,
        /// First sector.
        sector: Sector,
        /// Sectors written to the home.
        written: SectorCount,
    }
);

message!(
    /// The comparison is over: the moment is no longer held.
    VerifyClose {
        /// The comparison.
        id: u64,
    }
);
