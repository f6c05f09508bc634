//! Sizes and addresses. A sector is 512 bytes everywhere, also on volumes that show 4 KiB blocks to hosts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in a sector.
pub const SECTOR_SIZE: u64 = 512;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);
            /// Takes a raw number.
            pub const fn from_raw(raw: u64) -> Self {
                Self(raw)
            }
            /// The raw number.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// An address on a volume, in 512-byte sectors.
    Sector
);
number!(
    /// A length in 512-byte sectors.
    SectorCount
);
number!(
    /// A length in bytes.
    ByteLen
);

/// Volumes end before this sector (48 bits, 128 PiB), so that footer and index may pack an address with a volume. No
/// address or length from a disk or a peer is larger.
pub const SECTOR_END_MAX: u64 = 1 << 48;

impl Sector {
    /// The first sector after `count` sectors from here; none past 2^64.
    pub fn checked_add(self, count: SectorCount) -> Option<Self> {
        self.0.checked_add(count.0).map(Self)
    }

    /// Byte offset of the sector; none past 2^64.
    pub fn byte_offset(self) -> Option<u64> {
        self.0.checked_mul(SECTOR_SIZE)
    }

    /// Sectors from `earlier` to here; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> SectorCount {
        SectorCount(self.0.saturating_sub(earlier.0))
    }
}

impl SectorCount {
    /// The length in bytes; of a count that is more than [`SECTOR_END_MAX`], and so the length of nothing, at most 2^64 - 1.
    pub fn bytes(self) -> ByteLen {
        ByteLen(self.0.saturating_mul(SECTOR_SIZE))
    }
}

impl ByteLen {
    /// Whole sectors in it; none if it is not a multiple of 512.
    pub fn sectors(self) -> Option<SectorCount> {
        self.0.is_multiple_of(SECTOR_SIZE).then_some(SectorCount(self.0 / SECTOR_SIZE))
    }
}
