//! What a logical unit remembers beside its content.

use std::fmt;
use std::sync::Arc;

/// SCSI initiator port name of an iSCSI session: `NAME,i,0xISID` (RFC 7143, section 4.4.1). One nexus of a target port is
/// one initiator port. iSCSI names are compared without case, so the name is kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort(Arc<str>);

impl InitiatorPort {
    /// The port of a session.
    pub fn new(initiator: &str, isid: [u8; 6]) -> Self {
        let isid: String = isid.iter().map(|byte| format!("{byte:02x}")).collect();
        Self::from_raw(&format!("{},i,0x{isid}", initiator.to_ascii_lowercase()))
    }

    /// Takes a name as it stands in stored state or in a TransportID.
    pub fn from_raw(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InitiatorPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Logical and physical blocks as hosts see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum BlockFormat {
    /// 512 bytes, on 4 KiB physical blocks (512e).
    #[default]
    Emulated512 = 0,
    /// 512 bytes, on physical blocks of as many (512n): for hosts that do not know 512e.
    Native512 = 512,
    /// 4096 bytes (4Kn).
    Native4096 = 4096,
}

impl BlockFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Emulated512, Self::Native512, Self::Native4096];

    /// The code on disk and wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The format with this code.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.code() == code)
    }
}

/// TYPE of a persistent reservation (SPC-4, table 66). All have logical unit scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReservationType {
    /// Write Exclusive
    WriteExclusive = 1,
    /// Exclusive Access
    ExclusiveAccess = 3,
    /// Write Exclusive - Registrants Only
    WriteExclusiveRegistrantsOnly = 5,
    /// Exclusive Access - Registrants Only
    ExclusiveAccessRegistrantsOnly = 6,
    /// Write Exclusive - All Registrants
    WriteExclusiveAllRegistrants = 7,
    /// Exclusive Access - All Registrants
    ExclusiveAccessAllRegistrants = 8,
}

impl ReservationType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// The type with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// True where others may not even read.
    pub const fn exclusive_access(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrantsOnly | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// True where every registrant may do what the holder may.
    pub const fn registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// True where every registrant is a holder.
    pub const fn all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }
}

/// A registered nexus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Who.
    pub port: InitiatorPort,
    /// RELATIVE TARGET PORT IDENTIFIER through which it registered.
    pub relative_port: u16,
    /// Its reservation key, not 0.
    pub key: u64,
}

/// A persistent reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its type.
    pub kind: ReservationType,
    /// Who made it; for the types of all registrants any of them is a holder.
    pub holder: InitiatorPort,
}

/// What a logical unit remembers over restarts, takeover included: written to the journal before it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitState {
    /// Registered nexuses, in the order in which they came.
    pub registrations: Vec<Registration>,
    /// The reservation. Its holder is registered.
    pub reservation: Option<Reservation>,
    /// Saved value of SWP of the control mode page: the unit takes no writes.
    pub software_write_protect: bool,
}

impl UnitState {
    /// Registrations of a unit, at most: with the longest names they take 8 KiB.
    pub const REGISTRATIONS_MAX: usize = 32;

    /// True for a unit about which nothing needs to be kept.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
