//! The one opcode table. A command that this disk knows is a row here and nothing else: validation of the CDB, block
//! range and transfer length checks, dispatch and REPORT SUPPORTED OPERATION CODES read the row.

use std::sync::Arc;

use crate::block;
use crate::device::{Action, Nexus, Request};
use crate::inquiry;
use crate::lun::Lun;
use crate::mode;
use crate::report;
use crate::sense::ScsiError;

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
/// A handler that answers without a unit as well.
pub type TargetHandler = fn(&mut Nexus, &Request<'_>, Option<&Arc<Lun>>) -> Result<Action, ScsiError>;

/// What carries a command out.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Needs the logical unit.
    Unit(UnitHandler),
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

use Handler::{Target, Unit};

// Masks: 0x1a in byte 1 is DPO, FUA and FUA_NV, accepted because everything acknowledged is durable. RDPROTECT, WRPROTECT
// and VRPROTECT are refused, for there is no protection information. The CONTROL byte must be zero: no NACA, no linked
// commands.

/// Every command, by operation code and service action.
#[rustfmt::skip]
pub static TABLE: &[Row] = &[
    Row::new(0x00, "TEST UNIT READY", &[0x00, 0, 0, 0, 0, 0], Unit(report::test_unit_ready)).medium(),
    Row::new(0x03, "REQUEST SENSE", &[0x03, 0x01, 0, 0, 0xff, 0], Target(report::request_sense))
        .data_in().passes_attention(),
    Row::new(0x08, "READ(6)", &[0x08, 0x1f, 0xff, 0xff, 0xff, 0], Unit(block::read))
        .data_in().medium().lba(1, 3).blocks(4, 1),
    Row::new(0x0a, "WRITE(6)", &[0x0a, 0x1f, 0xff, 0xff, 0xff, 0], Unit(block::write))
        .data_out().writes().lba(1, 3).blocks(4, 1),
    Row::new(0x12, "INQUIRY", &[0x12, 0x01, 0xff, 0xff, 0xff, 0], Target(inquiry::inquiry))
        .data_in().passes_attention(),
    Row::new(0x15, "MODE SELECT(6)", &[0x15, 0x11, 0, 0, 0xff, 0], Unit(mode::mode_select)).data_out(),
    Row::new(0x1a, "MODE SENSE(6)", &[0x1a, 0x08, 0xff, 0xff, 0xff, 0], Unit(mode::mode_sense)).data_in(),
    Row::new(0x1b, "START STOP UNIT", &[0x1b, 0x01, 0, 0x0f, 0xf7, 0], Unit(report::start_stop_unit)),
    Row::new(0x1e, "PREVENT ALLOW MEDIUM REMOVAL", &[0x1e, 0, 0, 0, 0x03, 0], Unit(report::good)),
    Row::new(0x25, "READ CAPACITY(10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], Unit(report::read_capacity_10)).data_in(),
    Row::new(0x28, "READ(10)", &[0x28, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::read))
        .data_in().medium().lba(2, 4).blocks(7, 2),
    Row::new(0x2a, "WRITE(10)", &[0x2a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::write))
        .data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x2e, "WRITE AND VERIFY(10)", &[0x2e, 0x12, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x2f, "VERIFY(10)", &[0x2f, 0x16, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], Unit(block::verify))
        .data_out().medium().lba(2, 4).blocks(7, 2),
    Row::new(0x35, "SYNCHRONIZE CACHE(10)", &[0x35, 0x06, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::synchronize_cache)).medium().lba(2, 4).blocks(7, 2),
    Row::new(0x41, "WRITE SAME(10)", &[0x41, 0x08, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0],
        Unit(block::write_same)).data_out().writes().lba(2, 4).blocks(7, 2),
    Row::new(0x42, "UNMAP", &[0x42, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0], Unit(block::unmap)).data_out().writes(),
    Row::new(0x55, "MODE SELECT(10)", &[0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0], Unit(mode::mode_select)).data_out(),
    Row::new(0x5a, "MODE SENSE(10)", &[0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], Unit(mode::mode_sense))
        .data_in(),
    Row::new(0x88, "READ(16)",
        &[0x88, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::read)).data_in().medium().lba(2, 8).blocks(10, 4),
    Row::new(0x89, "COMPARE AND WRITE",
        &[0x89, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f, 0],
        Unit(block::compare_and_write)).data_out().writes().lba(2, 8).blocks(13, 1),
    Row::new(0x8a, "WRITE(16)",
        &[0x8a, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x8e, "WRITE AND VERIFY(16)",
        &[0x8e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x8f, "VERIFY(16)",
        &[0x8f, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::verify)).data_out().medium().lba(2, 8).blocks(10, 4),
    Row::new(0x91, "SYNCHRONIZE CACHE(16)",
        &[0x91, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::synchronize_cache)).medium().lba(2, 8).blocks(10, 4),
    Row::new(0x93, "WRITE SAME(16)",
        &[0x93, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write_same)).data_out().writes().lba(2, 8).blocks(10, 4),
    Row::new(0x9e, "READ CAPACITY(16)",
        &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::read_capacity_16)).action(0x10).data_in(),
    Row::new(0x9e, "GET LBA STATUS",
        &[0x9e, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::get_lba_status)).action(0x12).data_in().medium().lba(2, 8).enabled(thin),
    Row::new(0xa0, "REPORT LUNS", &[0xa0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Target(report::report_luns)).data_in().passes_attention(),
    Row::new(0xa3, "REPORT TARGET PORT GROUPS", &[0xa3, 0x0a, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::report_target_port_groups)).action(0x0a).data_in(),
    Row::new(0xa3, "REPORT SUPPORTED OPERATION CODES",
        &[0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
        Unit(report::report_supported_operation_codes)).action(0x0c).data_in(),
    Row::new(0xa8, "READ(12)", &[0xa8, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::read)).data_in().medium().lba(2, 4).blocks(6, 4),
    Row::new(0xaa, "WRITE(12)", &[0xaa, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(6, 4),
    Row::new(0xae, "WRITE AND VERIFY(12)", &[0xae, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::write)).data_out().writes().lba(2, 4).blocks(6, 4),
    Row::new(0xaf, "VERIFY(12)", &[0xaf, 0x16, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0],
        Unit(block::verify)).data_out().medium().lba(2, 4).blocks(6, 4),
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
                assert_eq!(row.usage[1], action, "{}", row.name);
            }
            for field in [row.lba, row.blocks].into_iter().flatten() {
                assert!(usize::from(field.offset + field.len) < wanted, "{}", row.name);
            }
            assert!(rows(row.opcode).iter().any(|found| found.name == row.name), "{}", row.name);
        }
        assert!(rows(0xff).is_empty());
    }
}
