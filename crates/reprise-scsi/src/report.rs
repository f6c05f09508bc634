//! Commands that report about the unit and the target, or do nothing on a disk without removable medium.

use std::sync::Arc;

use crate::control::Sanitize;
use crate::device::{Action, MappedRun, Nexus, Op, Request, ScsiResponse, Submit, Then, invalid};
use crate::lun::{Lun, LunNumber, PeerPort};
use crate::opcode::{Row, TABLE, rows};
use crate::sense::{FieldPointer, NotReady, ScsiError, Sense, UnitAttention};

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
    let allocation = request.cdb.be(4, 1);
    // What nobody is told stays to be told.
    let attention = if allocation > 0 { nexus.take(request.number) } else { None };
    let sense = match lun {
        None => Sense::for_error(&ScsiError::LunNotSupported),
        Some(lun) => match (attention, lun.not_ready) {
            (Some(attention), _) => Sense::for_error(&ScsiError::UnitAttention(attention)),
            (None, None) if lun.control.sanitize() == Sanitize::Running => {
                Sense::for_error(&ScsiError::NotReady(NotReady::SanitizeInProgress))
            }
            (None, Some(cause)) => Sense::for_error(&ScsiError::NotReady(cause)),
            (None, None) => Sense::NONE,
        },
    };
    let data = if request.cdb.bit(1, 0) { sense.descriptor() } else { sense.fixed().to_vec() };
    respond(data, allocation)
}

/// REPORT LUNS. SELECT REPORT 1 asks for well-known units only, of which there are none.
pub(crate) fn report_luns(nexus: &mut Nexus, request: &Request<'_>, _: Option<&Arc<Lun>>) -> Result<Action, ScsiError> {
    let allocation = request.cdb.be(6, 4);
    let list: Vec<LunNumber> = match request.cdb.byte(2) {
        0 | 2 => request.luns.iter().map(|(number, _)| number).collect(),
        1 => Vec::new(),
        _ => return Err(invalid(2)),
    };
    if allocation > 0 {
        nexus.clear(UnitAttention::ReportedLunsChanged);
    }
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
    let exponent = lun.block_size.physical_exponent();
    // LBPME, LBPRZ
    out.extend_from_slice(&[0, exponent, if lun.thin { 0xc0 } else { 0 }, 0]);
    out.resize(32, 0);
    respond(out, request.cdb.be(10, 4))
}

/// Descriptors of one GET LBA STATUS answer, at most.
const LBA_DESCRIPTORS_MAX: u64 = 256;

/// GET LBA STATUS: the owner of the volume looks.
pub(crate) fn get_lba_status(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let (lba, allocation) = (request.lba(), request.cdb.be(10, 4));
    let blocks = lun.blocks().saturating_sub(lba).min(u32::MAX.into());
    let runs_max = (allocation.saturating_sub(8) / 16).clamp(1, LBA_DESCRIPTORS_MAX) as usize;
    let op = Op::LbaStatus { sector: lun.sector_of(lba), sectors: lun.sectors_of(blocks), runs_max };
    let then = Then::LbaStatus { lun: lun.clone(), lba, allocation };
    Ok(Action::Submit(Submit { volume: lun.volume, op, then }))
}

/// Parameter data of GET LBA STATUS. A block that is mapped in part is mapped.
pub(crate) fn lba_status(lun: &Lun, lba: u64, runs: &[MappedRun], allocation: u64) -> ScsiResponse {
    let per_block = lun.block_size.sectors();
    // Blocks up to which it was said, and whether they are mapped.
    let mut ends: Vec<(u64, bool)> = Vec::new();
    for run in runs {
        let end = run.sector.get().saturating_add(run.sectors.get());
        let end = if run.mapped { end.div_ceil(per_block) } else { end / per_block };
        match ends.last_mut() {
            Some((last, mapped)) if *mapped == run.mapped => *last = end,
            _ => ends.push((end, run.mapped)),
        }
    }
    let mut out = vec![0; 8];
    let mut at = lba;
    for (end, mapped) in ends {
        let end = end.min(lun.blocks());
        if end <= at {
            continue;
        }
        out.extend_from_slice(&at.to_be_bytes());
        out.extend_from_slice(&u32::try_from(end - at).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&[u8::from(!mapped), 0, 0, 0]);
        at = end;
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    ScsiResponse::data(out, allocation)
}

/// REPORT TARGET PORT GROUPS: this box's group, and the peer's as this box knows it.
pub(crate) fn report_target_port_groups(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let port = request.luns.port();
    let extended = request.cdb.byte(1) >> 5;
    if extended > 1 {
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 7)));
    }
    let own = PeerPort { group: port.group, relative_port: port.relative_port, alua: port.alua };
    let mut groups: Vec<PeerPort> = std::iter::once(own).chain(port.peer).collect();
    groups.sort_by_key(|group| group.group);
    let mut out = vec![0; 4];
    if extended == 1 {
        out.extend_from_slice(&[0x10, 0, 0, 0]); // extended header, IMPLICIT TRANSITION TIME not stated
    }
    for group in groups {
        // T_SUP, U_SUP, S_SUP, AO_SUP
        out.extend_from_slice(&[group.alua as u8, 0x80 | 0x08 | 0x04 | 0x01]);
        out.extend_from_slice(&group.group.to_be_bytes());
        // Status code 2: altered by implicit behaviour; one port.
        out.extend_from_slice(&[0, 2, 0, 1, 0, 0]);
        out.extend_from_slice(&group.relative_port.to_be_bytes());
    }
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    respond(out, request.cdb.be(6, 4))
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
pub(crate) fn report_task_management(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    respond(vec![0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0, 0], request.cdb.be(6, 4))
}

/// READ DEFECT DATA(10), (12): there are none.
pub(crate) fn read_defect_data(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let long = request.row.cdb_len() == 12;
    // PLISTV, GLISTV as asked for, and the format.
    let format = request.cdb.byte(if long { 1 } else { 2 }) & 0x1f;
    let mut out = vec![0, format, 0, 0];
    out.resize(if long { 8 } else { 4 }, 0);
    respond(out, if long { request.cdb.be(6, 4) } else { request.cdb.be(7, 2) })
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
