//! The one opcode table. A command that this disk knows is a row here and nothing else: validation of the CDB, block
//! range and transfer length checks, dispatch and REPORT SUPPORTED OPERATION CODES read the row.

use std::sync::Arc;

use crate::block;
use crate::control::{Access, Sanitize};
use crate::copy;
use crate::device::{Action, Nexus, Request};
use crate::inquiry;
use crate::log;
use crate::lun::Lun;
use crate::mode;
use crate::report;
use crate::reserve;
use crate::sanitize;
use crate::sense::{NotReady, ScsiError};

/// Which way a command moves data, seen from the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// Data-in.
    In,
    /// Data-out.
    Out,
}

/// A big-endian number inside the CDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// First byte.
    pub offset: u8,
    /// Number of bytes.
    pub len: u8,
}

/// A handler that needs the logical unit.
pub type UnitHandler = fn(&Request<'_>, &Arc<Lun>) -> Result<Action, ScsiError>;
/// A handler that needs the logical unit and what the nexus remembers.
pub type NexusHandler = fn(&mut Nexus, &Request<'_>, &Arc<Lun>) -> Result<Action, ScsiError>;
/// A handler that answers without a unit as well.
pub type TargetHandler = fn(&mut Nexus, &Request<'_>, Option<&Arc<Lun>>) -> Result<Action, ScsiError>;

/// What carries a command out.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Needs the logical unit.
    Unit(UnitHandler),
    /// Needs the logical unit, and what the nexus remembers.
    Nexus(NexusHandler),
    /// Answers for LUNs without a unit as well, and sees the nexus's unit attentions.
    Target(TargetHandler),
}

/// One command.
#[derive(Clone, Copy)]
pub struct Row {
    /// Operation code.
    pub opcode: u8,
    /// Service action in the low five bits of byte 1, for operation codes that have several.
    pub service_action: Option<u8>,
    /// Name as the standard spells it.
    pub name: &'static str,
    /// CDB usage data: a bit per bit of the CDB that means something here. Its length is the CDB length; byte 0 holds the
    /// operation code and byte 1 the service action instead of a mask. A set bit outside the mask is INVALID FIELD IN CDB.
    pub usage: &'static [u8],
    /// Which way data goes.
    pub direction: Direction,
    /// LOGICAL BLOCK ADDRESS; the range from here is checked against the capacity.
    pub lba: Option<Field>,
    /// Number of blocks of that range.
    pub blocks: Option<Field>,
    /// Touches the medium: refused while the unit is not ready.
    pub medium: bool,
    /// Changes the medium: refused on a read-only unit.
    pub writes: bool,
    /// What it does to others, for reservations.
    pub access: Access,
    /// Does not report (and so does not clear) a pending unit attention (SAM-5, section 5.14).
    pub passes_attention: bool,
    /// True where the unit offers the command.
    pub enabled: fn(&Lun) -> bool,
    /// What carries it out.
    pub handler: Handler,
}

impl Row {
    const fn new(opcode: u8, name: &'static str, usage: &'static [u8], handler: Handler) -> Self {
        Self {
            opcode,
            service_action: None,
            name,
            usage,
            direction: Direction::None,
            lba: None,
            blocks: None,
            medium: false,
            writes: false,
            access: Access::Change,
            passes_attention: false,
            enabled: always,
            handler,
        }
    }

    const fn action(mut self, service_action: u8) -> Self {
        self.service_action = Some(service_action);
        self
    }

    const fn data_in(mut self) -> Self {
        self.direction = Direction::In;
        self
    }

    const fn data_out(mut self) -> Self {
        self.direction = Direction::Out;
        self
    }

    const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    const fn medium(mut self) -> Self {
        self.medium = true;
        self
    }

    const fn writes(mut self) -> Self {
        self.medium = true;
        self.writes = true;
        self
    }

    const fn passes_attention(mut self) -> Self {
        self.passes_attention = true;
        self
    }

    const fn lba(mut self, offset: u8, len: u8) -> Self {
        self.lba = Some(Field { offset, len });
        self
    }

    const fn blocks(mut self, offset: u8, len: u8) -> Self {
        self.blocks = Some(Field { offset, len });
        self
    }

    const fn enabled(mut self, enabled: fn(&Lun) -> bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// True for the commands that RESERVE of another nexus lets pass: those that report no attention either, and RELEASE,
    /// which then changes nothing (SPC-2, table 10).
    pub const fn passes_reserve(&self) -> bool {
        self.passes_attention || matches!(self.opcode, 0x17 | 0x57)
    }

    /// May the command be carried out while SANITIZE is under way or has failed (SBC-3, section 4.11)?
    pub(crate) fn check_sanitize(&self, state: Sanitize) -> Result<(), ScsiError> {
        match state {
            Sanitize::Idle => Ok(()),
            // Another attempt, or the way out.
            Sanitize::Failed if self.opcode == 0x48 => Ok(()),
            Sanitize::Failed if self.medium => Err(ScsiError::SanitizeFailed),
            Sanitize::Failed => Ok(()),
            Sanitize::Running if matches!(self.opcode, 0x4d | 0x5e | 0xa3) => Ok(()),
            Sanitize::Running => Err(ScsiError::NotReady(NotReady::SanitizeInProgress)),
        }
    }

    /// Length of the CDB in bytes.
    pub const fn cdb_len(&self) -> u8 {
        self.usage.len() as u8
    }
}

fn always(_: &Lun) -> bool {
    true
}

fn thin(lun: &Lun) -> bool {
    lun.thin
}

use Access::{Free, Own, Read};
use Handler::{Target, Unit};

// Masks: 0x1a in byte 1 is DPO, FUA and FUA_NV, accepted because everything acknowledged is durable. RDPROTECT, WRPROTECT
// and VRPROTECT are refused, for there is no protection information. The CONTROL byte must be zero: no NACA, no linked
// commands.

/// Every command, by operation code and service action.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    Row::new(0x00, "TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], Unit(report::test_unit_ready)).access(Free).medium(),
    Row::new(0x03, "REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0], Target(report::request_sense))
        .access(Free).data_in().passes_attention(),
    Row::new(0x08, "READ(6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Unit(block::read))
        .access(Read).data_in().medium().lba(1, 3).blocks(4, 1),
    Row::new(0x0a, "WRITE(6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], Unit(block::write))
        .data_out().writes().lba(1, 3).blocks(4, 1),
    Row::new(0x12, "INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0], Target(inquiry::inquiry))
        .access(Free).data_in().passes_attention(),
    Row::new(0x15, "MODE SELECT(6)", &[0x15, 0x11, 0, 0, 0xff, 0], Unit(mode::mode_select)).data_out(),
    // The identification and address bytes of third-party and extent reservations are ignored, as SPC-2 allows for
    // what is obsolete; the bits that would ask for them are refused.
    Row::new(0x16, "RESERVE(6)", &[0x16, 0x00, 0, 0, 0, 0], Unit(reserve::reserve)).access(Own),
    Row::new(0x17, "RELEASE(6)", &[0x17, 0x00, 0, 0, 0, 0], Unit(reserve::release)).access(Own),
    Row::new(0x1a, "MODE SENSE(6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Unit(mode::mode_sense)).data_in(),
    Row::new(0x1b, "START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0], Unit(report::start_stop_unit)),
    Row::new(0x1e, "PREVENT ALLOW MEDIUM REMOVAL", &[0x1e, 0, 0, 0, 0x03, 0], Unit(report::good)),
    Row::new(0x25, "READ CAPACITY(10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Unit(report::read_capacity_10))
        .access(Free).data_in(),
    Row::new(0x28, "READ(10)", &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::read))
        .access(Read).data_in().medium().lba(2, 4).blocks(7, 2),
    Row::new(0x2a, "WRITE(10)", &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::write))
        .data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x2e, "WRITE AND VERIFY(10)", &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x2f, "VERIFY(10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::verify))
        .access(Read).data_out().medium().lba(2, 4).blocks(7, 2),
    Row::new(0x34, "PRE-FETCH(10)", &[0x34, 0x02, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::pre_fetch))
        .access(Read).medium().lba(2, 4).blocks(7, 2),
    Row::new(0x35, "SYNCHRONIZE CACHE(10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::synchronize_cache)).medium().lba(2, 4).blocks(7, 2),
    Row::new(0x37, "READ DEFECT DATA(10)", &[0x37, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(report::read_defect_data)).access(Read).data_in().medium(),
    Row::new(0x41, "WRITE SAME(10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::write_same)).data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x42, "UNMAP", &[0x42, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0], Unit(block::unmap)).data_out().writes()
        .enabled(thin),
    Row::new(0x48, "SANITIZE, OVERWRITE", &[0x48, 0xa1, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit(sanitize::overwrite))
        .action(0x01).data_out().writes(),
    Row::new(0x48, "SANITIZE, BLOCK ERASE", &[0x48, 0xa2, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit(sanitize::block_erase))
        .action(0x02).writes(),
    Row::new(0x48, "SANITIZE, EXIT FAILURE MODE", &[0x48, 0xbf, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(sanitize::exit_failure_mode)).action(0x1f).writes(),
    Row::new(0x4d, "LOG SENSE", &[0x4d, 0x01, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit(log::log_sense))
        .access(Free).data_in(),
    Row::new(0x55, "MODE SELECT(10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit(mode::mode_select)).data_out(),
    Row::new(0x56, "RESERVE(10)", &[0x56, 0x00, 0, 0, 0, 0, 0, 0, 0, 0], Unit(reserve::reserve)).access(Own),
    Row::new(0x57, "RELEASE(10)", &[0x57, 0x00, 0, 0, 0, 0, 0, 0, 0, 0], Unit(reserve::release)).access(Own),
    Row::new(0x5a, "MODE SENSE(10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Unit(mode::mode_sense))
        .data_in(),
    Row::new(0x5e, "PERSISTENT RESERVE IN, READ KEYS", &[0x5e, 0x00, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(reserve::read_keys)).action(0x00).access(Own).data_in(),
    Row::new(0x5e, "PERSISTENT RESERVE IN, READ RESERVATION", &[0x5e, 0x01, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(reserve::read_reservation)).action(0x01).access(Own).data_in(),
    Row::new(0x5e, "PERSISTENT RESERVE IN, REPORT CAPABILITIES", &[0x5e, 0x02, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(reserve::report_capabilities)).action(0x02).access(Own).data_in(),
    Row::new(0x5e, "PERSISTENT RESERVE IN, READ FULL STATUS", &[0x5e, 0x03, 0, 0, 0, 0, 0, 0xff, 0xff, 0],
        Unit(reserve::read_full_status)).action(0x03).access(Own).data_in(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, REGISTER", &[0x5f, 0x00, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x00).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, RESERVE", &[0x5f, 0x01, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x01).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, RELEASE", &[0x5f, 0x02, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x02).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, CLEAR", &[0x5f, 0x03, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x03).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, PREEMPT", &[0x5f, 0x04, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x04).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, PREEMPT AND ABORT", &[0x5f, 0x05, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x05).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
        &[0x5f, 0x06, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], Unit(reserve::reserve_out))
        .action(0x06).access(Own).data_out(),
    Row::new(0x5f, "PERSISTENT RESERVE OUT, REGISTER AND MOVE", &[0x5f, 0x07, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0],
        Unit(reserve::reserve_out)).action(0x07).access(Own).data_out(),
    Row::new(0x83, "EXTENDED COPY(LID1)", &[0x83, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Handler::Nexus(copy::extended_copy)).action(0x00).data_out().medium(),
    Row::new(0x84, "RECEIVE COPY STATUS(LID1)",
        &[0x84, 0x00, 0xff, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Handler::Nexus(copy::copy_status))
        .action(0x00).data_in(),
    Row::new(0x84, "RECEIVE COPY OPERATING PARAMETERS",
        &[0x84, 0x03, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], Unit(copy::operating_parameters))
        .action(0x03).access(Free).data_in(),
    Row::new(0x88, "READ(16)",
        &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::read)).access(Read).data_in().medium().lba(2, 8).blocks(10, 4),
    Row::new(0x89, "COMPARE AND WRITE",
        &[0x89, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f, 0],
        Unit(block::compare_and_write)).data_out().writes().lba(2, 8).blocks(13, 1),
    Row::new(0x8a, "WRITE(16)",
        &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x8b, "ORWRITE(16)",
        &[0x8b, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::or_write)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x8e, "WRITE AND VERIFY(16)",
        &[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x8f, "VERIFY(16)",
        &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::verify)).access(Read).data_out().medium().lba(2, 8).blocks(10, 4),
    Row::new(0x90, "PRE-FETCH(16)",
        &[0x90, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::pre_fetch)).access(Read).medium().lba(2, 8).blocks(10, 4),
    Row::new(0x91, "SYNCHRONIZE CACHE(16)",
        &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::synchronize_cache)).medium().lba(2, 8).blocks(10, 4),
    Row::new(0x93, "WRITE SAME(16)",
        &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write_same)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x9c, "WRITE ATOMIC(16)",
        &[0x9c, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0x3f, 0],
        Unit(block::write_atomic)).data_out().writes().lba(2, 8).blocks(12, 2),
    Row::new(0x9e, "READ CAPACITY(16)",
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::read_capacity_16)).action(0x10).access(Free).data_in(),
    Row::new(0x9e, "GET LBA STATUS",
        &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::get_lba_status)).action(0x12).access(Read).data_in().medium().lba(2, 8).enabled(thin),
    Row::new(0xa0, "REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Target(report::report_luns)).access(Free).data_in().passes_attention(),
    Row::new(0xa3, "REPORT TARGET PORT GROUPS", &[0xa3, 0xea, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::report_target_port_groups)).action(0x0a).access(Free).data_in(),
    Row::new(0xa3, "REPORT SUPPORTED OPERATION CODES",
        &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::report_supported_operation_codes)).action(0x0c).access(Free).data_in(),
    Row::new(0xa3, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        &[0xa3, 0x0d, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::report_task_management)).action(0x0d).access(Free).data_in(),
    Row::new(0xa8, "READ(12)", &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::read)).access(Read).data_in().medium().lba(2, 4).blocks(6, 4),
    Row::new(0xaa, "WRITE(12)", &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(6, 4),
    Row::new(0xae, "WRITE AND VERIFY(12)", &[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(6, 4),
    Row::new(0xaf, "VERIFY(12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::verify)).access(Read).data_out().medium().lba(2, 4).blocks(6, 4),
    Row::new(0xb7, "READ DEFECT DATA(12)", &[0xb7, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::read_defect_data)).access(Read).data_in().medium(),
];

/// First row of each operation code plus one; 0 where there is none.
static FIRST: [u8; 256] = first_rows();

const fn first_rows() -> [u8; 256] {
    let mut first = [0u8; 256];
    let mut i = TABLE_LEN;
    while i > 0 {
        i -= 1;
        first[TABLE[i].opcode as usize] = i as u8 + 1;
    }
    first
}

const TABLE_LEN: usize = TABLE.len();

/// The rows of an operation code: none, one, or one per service action.
pub fn rows(opcode: u8) -> &'static [Row] {
    let Some(first) = FIRST.get(usize::from(opcode)).and_then(|i| usize::from(*i).checked_sub(1)) else {
        return &[];
    };
    let tail = TABLE.get(first..).unwrap_or(&[]);
    let count = tail.iter().take_while(|row| row.opcode == opcode).count();
    tail.get(..count).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_rows_make_sense() {
        for pair in TABLE.windows(2) {
            assert!(
                (pair[0].opcode, pair[0].service_action) < (pair[1].opcode, pair[1].service_action),
                "{} before {}",
                pair[0].name,
                pair[1].name
            );
        }
        for row in TABLE {
            let wanted = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("{}: no CDB length for group {group}", row.name),
            };
            assert_eq!(usize::from(row.cdb_len()), wanted, "{}", row.name);
            assert_eq!(row.usage[0], row.opcode, "{}", row.name);
            if let Some(action) = row.service_action {
                assert_eq!(row.usage[1] & 0x1f, action, "{}", row.name);
            }
            for field in [row.lba, row.blocks].into_iter().flatten() {
                assert!(usize::from(field.offset + field.len) < wanted, "{}", row.name);
            }
            assert!(rows(row.opcode).iter().any(|found| found.name == row.name), "{}", row.name);
        }
        assert!(rows(0xff).is_empty());
    }
}
