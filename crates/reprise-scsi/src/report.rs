//! Commands that report about the unit and the target, or do nothing on a disk without removable medium.

use std::sync::Arc;

use crate::device::{Action, Nexus, Request, ScsiResponse, invalid};
use crate::lun::{BlockSize, Lun, LunNumber};
use crate::opcode::{Row, TABLE, rows};
use crate::sense::{FieldPointer, ScsiError, Sense, UnitAttention};

fn respond(data: Vec<u8>, allocation_length: u64) -> Result<Action, ScsiError> {
    Ok(Action::Respond(ScsiResponse::data(data, allocation_length)))
}

/// For commands without effect on this disk.
pub(crate) fn good(_: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    Ok(Action::Respond(ScsiResponse::GOOD))
}

/// TEST UNIT READY: the row's checks have said it all.
pub(crate) fn test_unit_ready(_: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    Ok(Action::Respond(ScsiResponse::GOOD))
}

/// START STOP UNIT: the disk is shared and always started, so starting and stopping succeed without effect. Loading,
/// ejecting and power conditions are refused.
pub(crate) fn start_stop_unit(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let byte = request.cdb.byte(4);
    if byte >> 4 != 0 {
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(4, 7)));
    }
    if byte & 0x02 != 0 {
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(4, 1)));
    }
    Ok(Action::Respond(ScsiResponse::GOOD))
}

/// REQUEST SENSE: reports and clears a pending unit attention, otherwise the unit's state.
pub(crate) fn request_sense(
    nexus: &mut Nexus,
    request: &Request<'_>,
    lun: Option<&Arc<Lun>>,
) -> Result<Action, ScsiError> {
    let sense = match lun {
        None => Sense::for_error(&ScsiError::LunNotSupported),
        Some(lun) => match (nexus.take(request.number), lun.not_ready) {
            (Some(attention), _) => Sense::for_error(&ScsiError::UnitAttention(attention)),
            (None, Some(cause)) => Sense::for_error(&ScsiError::NotReady(cause)),
            (None, None) => Sense::NONE,
        },
    };
    let data = if request.cdb.bit(1, 0) { sense.descriptor() } else { sense.fixed().to_vec() };
    respond(data, request.cdb.be(4, 1))
}

/// REPORT LUNS. SELECT REPORT 1 asks for well-known units only, of which there are none.
pub(crate) fn report_luns(nexus: &mut Nexus, request: &Request<'_>, _: Option<&Arc<Lun>>) -> Result<Action, ScsiError> {
    let allocation = request.cdb.be(6, 4);
    let list: Vec<LunNumber> = match request.cdb.byte(2) {
        0 | 2 => request.luns.iter().map(|(number, _)| number).collect(),
        1 => Vec::new(),
        _ => return Err(invalid(2)),
    };
    if allocation < 16 {
        return Err(invalid(6));
    }
    nexus.clear(UnitAttention::ReportedLunsChanged);
    let mut out = Vec::with_capacity(8 + list.len() * 8);
    out.extend_from_slice(&((list.len() * 8) as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    list.iter().for_each(|number| out.extend_from_slice(&number.encode()));
    respond(out, allocation)
}

/// READ CAPACITY(10).
pub(crate) fn read_capacity_10(_: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let last = u32::try_from(lun.blocks().saturating_sub(1)).unwrap_or(u32::MAX);
    let mut out = last.to_be_bytes().to_vec();
    out.extend_from_slice(&lun.block_size.bytes().to_be_bytes());
    respond(out, 8)
}

/// READ CAPACITY(16).
pub(crate) fn read_capacity_16(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let mut out = lun.blocks().saturating_sub(1).to_be_bytes().to_vec();
    out.extend_from_slice(&lun.block_size.bytes().to_be_bytes());
    // LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT: 512e has 8 of them.
    let exponent = if lun.block_size == BlockSize::B512 { 3 } else { 0 };
    // LBPME, LBPRZ
    out.extend_from_slice(&[0, exponent, if lun.thin { 0xc0 } else { 0 }, 0]);
    out.resize(32, 0);
    respond(out, request.cdb.be(10, 4))
}

/// GET LBA STATUS: one descriptor that says mapped, from the first block asked for to the end of the unit.
pub(crate) fn get_lba_status(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let lba = request.lba();
    let blocks = u32::try_from(lun.blocks().saturating_sub(lba)).unwrap_or(u32::MAX);
    let mut out = 20u32.to_be_bytes().to_vec();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&lba.to_be_bytes());
    out.extend_from_slice(&blocks.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    respond(out, request.cdb.be(10, 4))
}

/// REPORT TARGET PORT GROUPS: this box's own group. The peer's group is known to hosts through the peer.
pub(crate) fn report_target_port_groups(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let port = request.luns.port();
    let mut out = 12u32.to_be_bytes().to_vec();
    // T_SUP, U_SUP, S_SUP, AO_SUP
    out.extend_from_slice(&[port.alua as u8, 0x80 | 0x08 | 0x04 | 0x01]);
    out.extend_from_slice(&port.group.to_be_bytes());
    // Status code 2: altered by implicit behaviour; one port.
    out.extend_from_slice(&[0, 2, 0, 1]);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&port.relative_port.to_be_bytes());
    respond(out, request.cdb.be(6, 4))
}

/// REPORT SUPPORTED OPERATION CODES, out of the opcode table.
pub(crate) fn report_supported_operation_codes(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let timeouts = request.cdb.bit(2, 7);
    let opcode = request.cdb.byte(3);
    let action = request.cdb.be(4, 2);
    let with_action = rows(opcode).iter().any(|row| row.service_action.is_some());
    let find = || {
        let same = |row: &&Row| row.service_action.is_none_or(|a| u64::from(a) == action);
        rows(opcode).iter().filter(|row| (row.enabled)(lun)).find(same)
    };
    let data = match request.cdb.byte(2) & 7 {
        0 => all_commands(lun, timeouts),
        1 if with_action => return Err(invalid(2)),
        1 => one_command(rows(opcode).iter().find(|row| (row.enabled)(lun)), timeouts),
        2 if !with_action && !rows(opcode).is_empty() => return Err(invalid(2)),
        2 => one_command(find(), timeouts),
        3 if !with_action && action != 0 => one_command(None, timeouts),
        3 => one_command(find(), timeouts),
        _ => return Err(invalid(2)),
    };
    respond(data, request.cdb.be(6, 4))
}

/// Command timeouts descriptor: nothing stated.
const TIMEOUTS: [u8; 12] = [0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn all_commands(lun: &Lun, timeouts: bool) -> Vec<u8> {
    let mut out = vec![0; 4];
    for row in TABLE.iter().filter(|row| (row.enabled)(lun)) {
        let flags = u8::from(row.service_action.is_some()) | if timeouts { 0x02 } else { 0 };
        out.extend_from_slice(&[row.opcode, 0, 0, row.service_action.unwrap_or(0), 0, flags, 0, row.cdb_len()]);
        if timeouts {
            out.extend_from_slice(&TIMEOUTS);
        }
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

fn one_command(row: Option<&Row>, timeouts: bool) -> Vec<u8> {
    // SUPPORT 3: as the standard has it; 1: not supported.
    let Some(row) = row else { return vec![0, 1, 0, 0] };
    let mut out = vec![0, 3 | if timeouts { 0x80 } else { 0 }, 0, row.cdb_len()];
    out.extend_from_slice(row.usage);
    if timeouts {
        out.extend_from_slice(&TIMEOUTS);
    }
    out
}
