//! Logical units as they are handed in, and the map from LUN to volume.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reprise_types::{BlockFormat, SECTOR_SIZE, Sector, SectorCount, VolumeId};

use crate::control::Control;
use crate::sense::NotReady;

/// Size of a logical block as the host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BlockSize {
    /// 512 bytes, on 4 KiB physical blocks (512e).
    #[default]
    B512,
    /// 512 bytes, on physical blocks of as many (512n): for hosts that do not know 512e.
    B512Native,
    /// 4096 bytes (4Kn).
    B4096,
}

impl From<BlockFormat> for BlockSize {
    fn from(format: BlockFormat) -> Self {
        match format {
            BlockFormat::Emulated512 => Self::B512,
            BlockFormat::Native512 => Self::B512Native,
            BlockFormat::Native4096 => Self::B4096,
        }
    }
}

impl BlockSize {
    /// Bytes in a block.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 | Self::B512Native => 512,
            Self::B4096 => 4096,
        }
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
    pub const fn physical_exponent(self) -> u8 {
        match self {
            Self::B512 => 3,
            Self::B512Native | Self::B4096 => 0,
        }
    }

    /// Sectors of 512 bytes in a block.
    pub const fn sectors(self) -> u64 {
        self.bytes() as u64 / SECTOR_SIZE
    }
}

/// The world wide name of a logical unit: stable over restarts, boxes and takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Naa {
    /// 8 bytes (NAA 2, 3 or 5).
    Eight([u8; 8]),
    /// 16 bytes (NAA 6).
    Sixteen([u8; 16]),
}

impl Naa {
    /// A locally assigned name (NAA 3h) from the first 60 bits of the volume's identity.
    pub fn from_volume(volume: VolumeId) -> Self {
        let mut name = [0u8; 8];
        name.copy_from_slice(&volume.as_bytes()[..8]);
        name[0] = 0x30 | (name[0] & 0x0f);
        Self::Eight(name)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Eight(name) => name,
            Self::Sixteen(name) => name,
        }
    }
}

/// One logical unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lun {
    /// The volume behind it.
    pub volume: VolumeId,
    /// Size. A part of a block at the end is not shown to the host.
    pub sectors: SectorCount,
    /// Block size shown to the host.
    pub block_size: BlockSize,
    /// World wide name.
    pub naa: Naa,
    /// UNIT SERIAL NUMBER, ASCII, at most 64 characters of it are shown.
    pub serial: String,
    /// PRODUCT IDENTIFICATION, ASCII, at most 16 characters of it are shown.
    pub product: String,
    /// Writes are refused with WRITE PROTECTED.
    pub read_only: bool,
    /// Set while media commands are refused, with the reason.
    pub not_ready: Option<NotReady>,
    /// Logical block provisioning is offered (LBPME).
    pub thin: bool,
    /// What a thin unit may still take; none where it is not known.
    pub resources: Option<ResourceGauge>,
    /// Registrations, reservation and changeable mode parameters.
    pub control: Arc<Control>,
}

/// Room behind a thin unit, for the logical block provisioning log page. The owner of the volume keeps it up to date, in
/// bytes: what is free, and what the unit takes.
#[derive(Debug, Clone, Default)]
pub struct ResourceGauge(Arc<(AtomicU64, AtomicU64)>);

impl ResourceGauge {
    /// New figures.
    pub fn set(&self, available: u64, used: u64) {
        self.0.0.store(available, Ordering::Relaxed);
        self.0.1.store(used, Ordering::Relaxed);
    }

    /// Free and used.
    pub fn get(&self) -> (u64, u64) {
        (self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed))
    }
}

impl PartialEq for ResourceGauge {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ResourceGauge {}

impl Lun {
    /// A writable, ready, thick unit with names derived from the volume.
    pub fn new(volume: VolumeId, sectors: SectorCount, block_size: BlockSize) -> Self {
        Self {
            volume,
            sectors,
            block_size,
            naa: Naa::from_volume(volume),
            serial: volume.to_string(),
            product: String::from("REPRISE DISK"),
            read_only: false,
            not_ready: None,
            thin: false,
            resources: None,
            control: Arc::default(),
        }
    }

    /// True where writes are refused: by the owner, or by an initiator (SWP of the control mode page).
    pub fn is_write_protected(&self) -> bool {
        self.read_only || self.control.software_write_protect()
    }

    /// Number of logical blocks.
    pub fn blocks(&self) -> u64 {
        self.sectors.get() / self.block_size.sectors()
    }

    /// Block size in bytes.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.block_size.bytes())
    }

    /// First sector of a block; the caller has checked the range.
    pub(crate) fn sector_of(&self, lba: u64) -> Sector {
        Sector::from_raw(lba.saturating_mul(self.block_size.sectors()))
    }

    /// Sectors of a number of blocks.
    pub(crate) fn sectors_of(&self, blocks: u64) -> SectorCount {
        SectorCount::from_raw(blocks.saturating_mul(self.block_size.sectors()))
    }
}

/// A logical unit number: 0 to 16383, the range of flat addressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LunNumber(u16);

impl LunNumber {
    /// Largest number that flat addressing can carry.
    pub const MAX: u16 = 0x3fff;

    /// A number in range.
    pub const fn new(number: u16) -> Option<Self> {
        if number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Reads the 8-byte LUN field of a command (SAM-5, section 4.7). Peripheral and flat addressing of one level are
    /// known; all else addresses nothing.
    pub fn decode(field: [u8; 8]) -> Option<Self> {
        let [first, second, rest @ ..] = field;
        if rest != [0; 6] {
            return None;
        }
        match first >> 6 {
            0 if first == 0 => Some(Self(u16::from(second))),
            1 => Some(Self(u16::from(first & 0x3f) << 8 | u16::from(second))),
            _ => None,
        }
    }

    /// Writes the 8-byte LUN field: peripheral addressing below 256, flat addressing above.
    pub fn encode(self) -> [u8; 8] {
        let [high, low] = self.0.to_be_bytes();
        let first = if self.0 < 256 { 0 } else { 0x40 | high };
        [first, low, 0, 0, 0, 0, 0, 0]
    }
}

impl fmt::Display for LunNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Asymmetric access state of the target's port group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum AluaState {
    /// active/optimized
    #[default]
    ActiveOptimized = 0x0,
    /// standby
    Standby = 0x2,
    /// unavailable: the box is the mirror.
    Unavailable = 0x3,
    /// transitioning
    Transitioning = 0xf,
}

/// What the port says about itself in VPD page 83h and REPORT TARGET PORT GROUPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPort {
    /// iSCSI name of the target.
    pub target_name: String,
    /// Target portal group tag, also used as target port group.
    pub group: u16,
    /// RELATIVE TARGET PORT IDENTIFIER; different on the two boxes.
    pub relative_port: u16,
    /// State of the port group.
    pub alua: AluaState,
    /// The other box's port, through which the same units are known; none without a peer.
    pub peer: Option<PeerPort>,
}

/// The port of the other box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPort {
    /// Its target port group.
    pub group: u16,
    /// Its RELATIVE TARGET PORT IDENTIFIER.
    pub relative_port: u16,
    /// State of its port group.
    pub alua: AluaState,
}

/// The map has more units than one REPORT LUNS answer of a sane size may list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LunMapError {
    /// Above [`LunNumber::MAX`].
    #[error("LUN {number} is above {}", LunNumber::MAX)]
    OutOfRange {
        /// The number.
        number: u16,
    },
    /// Given twice.
    #[error("LUN {number} is given twice")]
    Duplicate {
        /// The number.
        number: u16,
    },
}

struct Inner {
    port: TargetPort,
    units: Vec<(LunNumber, Arc<Lun>)>,
}

/// LUN to logical unit, of one target. Cloning shares the map; a change is a map of its own that replaces it.
#[derive(Clone)]
pub struct LunMap(Arc<Inner>);

impl LunMap {
    /// A map of `units`, in any order.
    ///
    /// # Errors
    /// A LUN out of range or given twice.
    pub fn new(port: TargetPort, units: impl IntoIterator<Item = (u16, Lun)>) -> Result<Self, LunMapError> {
        let mut list = Vec::new();
        for (number, lun) in units {
            let lun_number = LunNumber::new(number).ok_or(LunMapError::OutOfRange { number })?;
            list.push((lun_number, Arc::new(lun)));
        }
        list.sort_by_key(|(number, _)| *number);
        for pair in list.windows(2) {
            if let [(a, _), (b, _)] = pair
                && a == b
            {
                return Err(LunMapError::Duplicate { number: a.get() });
            }
        }
        Ok(Self(Arc::new(Inner { port, units: list })))
    }

    /// The unit with this number.
    pub fn get(&self, number: LunNumber) -> Option<&Arc<Lun>> {
        let index = self.0.units.binary_search_by_key(&number, |(n, _)| *n).ok()?;
        self.0.units.get(index).map(|(_, lun)| lun)
    }

    /// All units in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (LunNumber, &Arc<Lun>)> {
        self.0.units.iter().map(|(number, lun)| (*number, lun))
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.0.units.len()
    }

    /// True without units.
    pub fn is_empty(&self) -> bool {
        self.0.units.is_empty()
    }

    /// The port the units are seen through.
    pub fn port(&self) -> &TargetPort {
        &self.0.port
    }
}

impl fmt::Debug for LunMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LunMap").field("port", &self.0.port).field("units", &self.0.units).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lun_fields_round_trip_and_strange_addressing_addresses_nothing() {
        for number in [0, 1, 255, 256, 0x3fff] {
            let lun = LunNumber::new(number).unwrap();
            assert_eq!(LunNumber::decode(lun.encode()), Some(lun));
        }
        assert_eq!(LunNumber::decode([0x40, 5, 0, 0, 0, 0, 0, 0]).map(LunNumber::get), Some(5));
        assert_eq!(LunNumber::decode([0, 0, 0, 1, 0, 0, 0, 0]), None);
        assert_eq!(LunNumber::decode([0xc1, 1, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(LunNumber::decode([0x01, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(LunNumber::new(0x4000), None);
    }
}
