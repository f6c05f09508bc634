//! Typed errors and the one table that turns them into sense data (SPC-4, section 4.5 and annex F).

/// SENSE KEY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// NO SENSE
    NoSense = 0x0,
    /// NOT READY
    NotReady = 0x2,
    /// MEDIUM ERROR
    MediumError = 0x3,
    /// HARDWARE ERROR
    HardwareError = 0x4,
    /// ILLEGAL REQUEST
    IllegalRequest = 0x5,
    /// UNIT ATTENTION
    UnitAttention = 0x6,
    /// DATA PROTECT
    DataProtect = 0x7,
    /// COPY ABORTED
    CopyAborted = 0xa,
    /// ABORTED COMMAND
    AbortedCommand = 0xb,
    /// MISCOMPARE
    Miscompare = 0xe,
}

/// Where in a CDB or a parameter list the wrong field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPointer {
    /// Byte of the field.
    pub byte: u16,
    /// Most significant wrong bit of it, when it is about single bits.
    pub bit: Option<u8>,
}

impl FieldPointer {
    /// A field that begins at `byte`.
    pub const fn byte(byte: u16) -> Self {
        Self { byte, bit: None }
    }

    /// Bit `bit` of `byte`.
    pub const fn bit(byte: u16, bit: u8) -> Self {
        Self { byte, bit: Some(bit) }
    }
}

/// Why a logical unit cannot be used at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotReady {
    /// CAUSE NOT REPORTABLE
    CauseNotReportable,
    /// IN PROCESS OF BECOMING READY: an initiator tries again by itself.
    BecomingReady,
    /// MANUAL INTERVENTION REQUIRED: a person has to decide first.
    ManualInterventionRequired,
    /// ASYMMETRIC ACCESS STATE TRANSITION
    Transitioning,
    /// TARGET PORT IN STANDBY STATE
    Standby,
    /// TARGET PORT IN UNAVAILABLE STATE
    Unavailable,
    /// SANITIZE IN PROGRESS
    SanitizeInProgress,
}

/// A condition that an I_T nexus learns of with its next command (SAM-5, section 5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitAttention {
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED
    PowerOn,
    /// SCSI BUS RESET OCCURRED: the target was reset.
    TargetReset,
    /// BUS DEVICE RESET FUNCTION OCCURRED: the logical unit was reset.
    LunReset,
    /// I_T NEXUS LOSS OCCURRED
    NexusLoss,
    /// COMMANDS CLEARED BY ANOTHER INITIATOR
    CommandsCleared,
    /// MODE PARAMETERS CHANGED
    ModeParametersChanged,
    /// RESERVATIONS PREEMPTED
    ReservationsPreempted,
    /// RESERVATIONS RELEASED
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED
    RegistrationsPreempted,
    /// CAPACITY DATA HAS CHANGED
    CapacityChanged,
    /// THIN PROVISIONING SOFT THRESHOLD REACHED
    ThinThreshold,
    /// ASYMMETRIC ACCESS STATE CHANGED
    AluaStateChanged,
    /// INQUIRY DATA HAS CHANGED
    InquiryChanged,
    /// REPORTED LUNS DATA HAS CHANGED
    ReportedLunsChanged,
}

/// Everything that ends a command with CHECK CONDITION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScsiError {
    /// The operation code is in no row of the table.
    #[error("invalid command operation code {opcode:#04x}")]
    InvalidOpcode {
        /// The operation code.
        opcode: u8,
    },
    /// A reserved bit is set or a value is not supported.
    #[error("invalid field in CDB, {0:?}")]
    InvalidFieldInCdb(FieldPointer),
    /// The same in parameter data.
    #[error("invalid field in parameter list, {0:?}")]
    InvalidFieldInParameterList(FieldPointer),
    /// Parameter data ends inside a field.
    #[error("parameter list length error")]
    ParameterListLength,
    /// Past the last block.
    #[error("logical block address {lba} out of range")]
    LbaOutOfRange {
        /// First block asked for.
        lba: u64,
    },
    /// No such logical unit.
    #[error("logical unit not supported")]
    LunNotSupported,
    /// Another nexus holds a reservation that does not allow it. Has a status of its own and no sense data.
    #[error("reservation conflict")]
    ReservationConflict,
    /// RELEASE with another type than the reservation has.
    #[error("invalid release of persistent reservation")]
    InvalidRelease,
    /// No more registrations.
    #[error("insufficient registration resources")]
    InsufficientRegistrationResources,
    /// More target descriptors than EXTENDED COPY takes.
    #[error("too many target descriptors")]
    TooManyTargetDescriptors,
    /// A target descriptor of another type.
    #[error("unsupported target descriptor type code")]
    TargetDescriptorType,
    /// More segment descriptors than EXTENDED COPY takes.
    #[error("too many segment descriptors")]
    TooManySegmentDescriptors,
    /// A segment descriptor of another type.
    #[error("unsupported segment descriptor type code")]
    SegmentDescriptorType,
    /// EXTENDED COPY with inline data.
    #[error("inline data length exceeded")]
    InlineData,
    /// EXTENDED COPY names a unit that this nexus cannot reach through its own LUNs.
    #[error("copy target device not reachable")]
    CopyUnreachable,
    /// EXTENDED COPY goes past the end of one of its units.
    #[error("logical block address {lba} of a copy out of range")]
    CopyOutOfRange {
        /// First block of the segment.
        lba: u64,
    },
    /// EXTENDED COPY failed at one of its units.
    #[error("third party device failure")]
    CopyFailed,
    /// Page control asks for saved mode parameters.
    #[error("saving parameters not supported")]
    SavingParametersNotSupported,
    /// The volume may only be read.
    #[error("write protected")]
    WriteProtected,
    /// COMPARE AND WRITE or VERIFY found other bytes.
    #[error("miscompare at byte {offset} of the data-out buffer")]
    Miscompare {
        /// Offset of the first differing byte.
        offset: u64,
    },
    /// The logical unit does not serve at the moment.
    #[error("not ready: {0:?}")]
    NotReady(NotReady),
    /// The group is fenced: its journal failed, so nothing more is promised.
    #[error("group fenced")]
    Fenced,
    /// The target broke a rule of its own, for example an answer of the wrong length.
    #[error("internal target failure")]
    Internal,
    /// Stored bytes do not pass their checksum or cannot be read.
    #[error("unrecovered read error at block {lba:?}")]
    UnrecoveredRead {
        /// First bad block, if known.
        lba: Option<u64>,
    },
    /// SANITIZE ended before everything was overwritten.
    #[error("sanitize command failed")]
    SanitizeFailed,
    /// The data could not be made durable.
    #[error("write error")]
    WriteError,
    /// The transport's expected data length does not fit the command.
    #[error("invalid field in command information unit")]
    DataLength,
    /// The initiator sent other data than it announced.
    #[error("data phase error")]
    DataPhase,
    /// A CRC of the transport did not match.
    #[error("protocol service CRC error")]
    ProtocolCrc,
    /// Something happened to the logical unit that the nexus has to know first.
    #[error("unit attention: {0:?}")]
    UnitAttention(UnitAttention),
}

/// Sense data, in one of two formats when written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// SENSE KEY
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER
    pub ascq: u8,
    /// INFORMATION: a block address or the offset of a miscompare.
    pub information: Option<u64>,
    /// Sense key specific: field pointer, and true for the CDB, false for parameter data.
    pub field: Option<(FieldPointer, bool)>,
}

impl Sense {
    /// No condition to report.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0, 0);

    const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, field: None }
    }

    const fn info(mut self, information: Option<u64>) -> Self {
        self.information = information;
        self
    }

    const fn at(mut self, pointer: FieldPointer, in_cdb: bool) -> Self {
        self.field = Some((pointer, in_cdb));
        self
    }

    /// The table: one row per error.
    pub const fn for_error(error: &ScsiError) -> Self {
        use SenseKey as K;
        match *error {
            ScsiError::InvalidOpcode { .. } => Self::new(K::IllegalRequest, 0x20, 0x00).at(FieldPointer::byte(0), true),
            ScsiError::InvalidFieldInCdb(at) => Self::new(K::IllegalRequest, 0x24, 0x00).at(at, true),
            ScsiError::InvalidFieldInParameterList(at) => Self::new(K::IllegalRequest, 0x26, 0x00).at(at, false),
            ScsiError::ParameterListLength => Self::new(K::IllegalRequest, 0x1a, 0x00),
            ScsiError::LbaOutOfRange { lba } => Self::new(K::IllegalRequest, 0x21, 0x00).info(Some(lba)),
            ScsiError::LunNotSupported => Self::new(K::IllegalRequest, 0x25, 0x00),
            // Never written: the answer has a status of its own.
            ScsiError::ReservationConflict => Self::NONE,
            ScsiError::InvalidRelease => Self::new(K::IllegalRequest, 0x26, 0x04),
            ScsiError::InsufficientRegistrationResources => Self::new(K::IllegalRequest, 0x55, 0x04),
            ScsiError::TooManyTargetDescriptors => Self::new(K::IllegalRequest, 0x26, 0x06),
            ScsiError::TargetDescriptorType => Self::new(K::IllegalRequest, 0x26, 0x07),
            ScsiError::TooManySegmentDescriptors => Self::new(K::IllegalRequest, 0x26, 0x08),
            ScsiError::SegmentDescriptorType => Self::new(K::IllegalRequest, 0x26, 0x09),
            ScsiError::InlineData => Self::new(K::IllegalRequest, 0x26, 0x0b),
            ScsiError::CopyUnreachable => Self::new(K::CopyAborted, 0x0d, 0x02),
            // Under COPY ABORTED hosts know no LBA OUT OF RANGE; the block is in INFORMATION.
            ScsiError::CopyOutOfRange { lba } => Self::new(K::CopyAborted, 0x00, 0x00).info(Some(lba)),
            ScsiError::CopyFailed => Self::new(K::CopyAborted, 0x0d, 0x01),
            ScsiError::SavingParametersNotSupported => Self::new(K::IllegalRequest, 0x39, 0x00),
            ScsiError::WriteProtected => Self::new(K::DataProtect, 0x27, 0x00),
            ScsiError::Miscompare { offset } => Self::new(K::Miscompare, 0x1d, 0x00).info(Some(offset)),
            ScsiError::NotReady(NotReady::CauseNotReportable) => Self::new(K::NotReady, 0x04, 0x00),
            ScsiError::NotReady(NotReady::BecomingReady) => Self::new(K::NotReady, 0x04, 0x01),
            ScsiError::NotReady(NotReady::ManualInterventionRequired) => Self::new(K::NotReady, 0x04, 0x03),
            ScsiError::NotReady(NotReady::Transitioning) => Self::new(K::NotReady, 0x04, 0x0a),
            ScsiError::NotReady(NotReady::Standby) => Self::new(K::NotReady, 0x04, 0x0b),
            ScsiError::NotReady(NotReady::Unavailable) => Self::new(K::NotReady, 0x04, 0x0c),
            ScsiError::NotReady(NotReady::SanitizeInProgress) => Self::new(K::NotReady, 0x04, 0x1b),
            ScsiError::SanitizeFailed => Self::new(K::MediumError, 0x31, 0x03),
            ScsiError::Fenced => Self::new(K::HardwareError, 0x44, 0x00),
            ScsiError::Internal => Self::new(K::AbortedCommand, 0x44, 0x00),
            ScsiError::UnrecoveredRead { lba } => Self::new(K::MediumError, 0x11, 0x00).info(lba),
            ScsiError::WriteError => Self::new(K::MediumError, 0x0c, 0x00),
            ScsiError::DataLength => Self::new(K::IllegalRequest, 0x0e, 0x03),
            ScsiError::DataPhase => Self::new(K::AbortedCommand, 0x4b, 0x00),
            ScsiError::ProtocolCrc => Self::new(K::AbortedCommand, 0x47, 0x05),
            ScsiError::UnitAttention(attention) => Self::for_attention(attention),
        }
    }

    const fn for_attention(attention: UnitAttention) -> Self {
        let (asc, ascq) = match attention {
            UnitAttention::PowerOn => (0x29, 0x00),
            UnitAttention::TargetReset => (0x29, 0x02),
            UnitAttention::LunReset => (0x29, 0x03),
            UnitAttention::NexusLoss => (0x29, 0x07),
            UnitAttention::CommandsCleared => (0x2f, 0x00),
            UnitAttention::ModeParametersChanged => (0x2a, 0x01),
            UnitAttention::ReservationsPreempted => (0x2a, 0x03),
            UnitAttention::ReservationsReleased => (0x2a, 0x04),
            UnitAttention::RegistrationsPreempted => (0x2a, 0x05),
            UnitAttention::AluaStateChanged => (0x2a, 0x06),
            UnitAttention::ThinThreshold => (0x38, 0x07),
            UnitAttention::CapacityChanged => (0x2a, 0x09),
            UnitAttention::InquiryChanged => (0x3f, 0x03),
            UnitAttention::ReportedLunsChanged => (0x3f, 0x0e),
        };
        Self::new(SenseKey::UnitAttention, asc, ascq)
    }

    fn sense_key_specific(&self) -> Option<[u8; 3]> {
        let (pointer, in_cdb) = self.field?;
        let bit = pointer.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = pointer.byte.to_be_bytes();
        Some([0x80 | if in_cdb { 0x40 } else { 0 } | bit, high, low])
    }

    /// Fixed format, 18 bytes (SPC-4, section 4.5.3). INFORMATION that needs more than 32 bits is left out.
    pub fn fixed(&self) -> [u8; 18] {
        let mut out = [0; 18];
        out[0] = 0x70;
        out[2] = self.key as u8;
        if let Some(info) = self.information.and_then(|n| u32::try_from(n).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&info.to_be_bytes());
        }
        out[7] = 10;
        out[12] = self.asc;
        out[13] = self.ascq;
        if let Some(specific) = self.sense_key_specific() {
            out[15..18].copy_from_slice(&specific);
        }
        out
    }

    /// Descriptor format (SPC-4, section 4.5.2).
    pub fn descriptor(&self) -> Vec<u8> {
        let mut out = vec![0x72, self.key as u8, self.asc, self.ascq, 0, 0, 0, 0];
        if let Some(info) = self.information {
            out.extend_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            out.extend_from_slice(&info.to_be_bytes());
        }
        if let Some([a, b, c]) = self.sense_key_specific() {
            out.extend_from_slice(&[0x02, 0x06, 0, 0, a, b, c, 0]);
        }
        out[7] = (out.len() - 8) as u8;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: ScsiError, key: u8, asc: u8, ascq: u8) {
        let fixed = Sense::for_error(&error).fixed();
        assert_eq!((fixed[2], fixed[12], fixed[13]), (key, asc, ascq), "{error}");
        let descriptor = Sense::for_error(&error).descriptor();
        assert_eq!(&descriptor[..4], &[0x72, key, asc, ascq], "{error}");
        assert_eq!(descriptor.len(), 8 + usize::from(descriptor[7]), "{error}");
    }

    #[test]
    fn every_error_has_its_sense() {
        use UnitAttention as U;
        check(ScsiError::InvalidOpcode { opcode: 0xff }, 5, 0x20, 0);
        check(ScsiError::InvalidFieldInCdb(FieldPointer::byte(1)), 5, 0x24, 0);
        check(ScsiError::InvalidFieldInParameterList(FieldPointer::byte(1)), 5, 0x26, 0);
        check(ScsiError::ParameterListLength, 5, 0x1a, 0);
        check(ScsiError::LbaOutOfRange { lba: 7 }, 5, 0x21, 0);
        check(ScsiError::LunNotSupported, 5, 0x25, 0);
        check(ScsiError::SavingParametersNotSupported, 5, 0x39, 0);
        check(ScsiError::InvalidRelease, 5, 0x26, 4);
        check(ScsiError::InsufficientRegistrationResources, 5, 0x55, 4);
        check(ScsiError::TooManyTargetDescriptors, 5, 0x26, 6);
        check(ScsiError::TargetDescriptorType, 5, 0x26, 7);
        check(ScsiError::TooManySegmentDescriptors, 5, 0x26, 8);
        check(ScsiError::SegmentDescriptorType, 5, 0x26, 9);
        check(ScsiError::InlineData, 5, 0x26, 0xb);
        check(ScsiError::CopyUnreachable, 0xa, 0x0d, 2);
        check(ScsiError::CopyFailed, 0xa, 0x0d, 1);
        check(ScsiError::CopyOutOfRange { lba: 7 }, 0xa, 0x00, 0);
        check(ScsiError::NotReady(NotReady::SanitizeInProgress), 2, 4, 0x1b);
        check(ScsiError::SanitizeFailed, 3, 0x31, 3);
        check(ScsiError::UnitAttention(U::ReservationsPreempted), 6, 0x2a, 3);
        check(ScsiError::UnitAttention(U::ReservationsReleased), 6, 0x2a, 4);
        check(ScsiError::UnitAttention(U::RegistrationsPreempted), 6, 0x2a, 5);
        check(ScsiError::UnitAttention(U::ThinThreshold), 6, 0x38, 7);
        check(ScsiError::WriteProtected, 7, 0x27, 0);
        check(ScsiError::Miscompare { offset: 9 }, 0xe, 0x1d, 0);
        check(ScsiError::NotReady(NotReady::CauseNotReportable), 2, 4, 0);
        check(ScsiError::NotReady(NotReady::BecomingReady), 2, 4, 1);
        check(ScsiError::NotReady(NotReady::ManualInterventionRequired), 2, 4, 3);
        check(ScsiError::NotReady(NotReady::Transitioning), 2, 4, 0x0a);
        check(ScsiError::NotReady(NotReady::Standby), 2, 4, 0x0b);
        check(ScsiError::NotReady(NotReady::Unavailable), 2, 4, 0x0c);
        check(ScsiError::Fenced, 4, 0x44, 0);
        check(ScsiError::Internal, 0xb, 0x44, 0);
        check(ScsiError::UnrecoveredRead { lba: Some(3) }, 3, 0x11, 0);
        check(ScsiError::WriteError, 3, 0x0c, 0);
        check(ScsiError::DataLength, 5, 0x0e, 3);
        check(ScsiError::DataPhase, 0xb, 0x4b, 0);
        check(ScsiError::ProtocolCrc, 0xb, 0x47, 5);
        check(ScsiError::UnitAttention(U::PowerOn), 6, 0x29, 0);
        check(ScsiError::UnitAttention(U::TargetReset), 6, 0x29, 2);
        check(ScsiError::UnitAttention(U::LunReset), 6, 0x29, 3);
        check(ScsiError::UnitAttention(U::NexusLoss), 6, 0x29, 7);
        check(ScsiError::UnitAttention(U::CommandsCleared), 6, 0x2f, 0);
        check(ScsiError::UnitAttention(U::ModeParametersChanged), 6, 0x2a, 1);
        check(ScsiError::UnitAttention(U::AluaStateChanged), 6, 0x2a, 6);
        check(ScsiError::UnitAttention(U::CapacityChanged), 6, 0x2a, 9);
        check(ScsiError::UnitAttention(U::InquiryChanged), 6, 0x3f, 3);
        check(ScsiError::UnitAttention(U::ReportedLunsChanged), 6, 0x3f, 0xe);
    }

    #[test]
    fn information_and_field_pointer_stand_where_the_standard_wants_them() {
        let fixed = Sense::for_error(&ScsiError::Miscompare { offset: 0x01020304 }).fixed();
        assert_eq!((fixed[0], &fixed[3..7]), (0xf0, &[1, 2, 3, 4][..]));
        let fixed = Sense::for_error(&ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 5))).fixed();
        assert_eq!(&fixed[15..], &[0xcd, 0, 1]);
        let fixed = Sense::for_error(&ScsiError::InvalidFieldInParameterList(FieldPointer::byte(0x102))).fixed();
        assert_eq!(&fixed[15..], &[0x80, 1, 2]);
        let big = Sense::for_error(&ScsiError::LbaOutOfRange { lba: u64::MAX });
        assert_eq!(big.fixed()[0], 0x70);
        assert_eq!(&big.descriptor()[12..20], &[0xff; 8]);
    }
}
