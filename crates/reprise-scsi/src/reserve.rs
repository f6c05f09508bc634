//! PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE: parameters in, parameters out (SPC-4, sections 6.15 and 6.16).

use std::sync::Arc;

use reprise_types::{InitiatorPort, Registration, ReservationType};

use crate::cdb::be;
use crate::control::{Change, ChangeKind, ReserveAction, ReserveOut};
use crate::device::{Action, DataOut, DataOutKind, Op, Request, ScsiResponse, Submit, Then, invalid};
use crate::lun::Lun;
use crate::sense::{FieldPointer, ScsiError};

/// Parameter list of PERSISTENT RESERVE OUT without TransportIDs.
const OUT_LEN: u64 = 24;
/// Longest parameter list of REGISTER AND MOVE: an iSCSI TransportID of 223 bytes of name, an ISID and padding.
const MOVE_LEN_MAX: u64 = 512;
/// REGISTER AND MOVE
const REGISTER_AND_MOVE: u8 = 7;

fn respond(data: Vec<u8>, allocation: u64) -> Result<Action, ScsiError> {
    Ok(Action::Respond(ScsiResponse::data(data, allocation)))
}

/// Hands a change to the owner of the unit.
pub(crate) fn submit_change(lun: &Lun, port: &InitiatorPort, relative_port: u16, kind: ChangeKind) -> Action {
    let op = Op::Control(Box::new(Change { port: port.clone(), relative_port, kind }));
    Action::Submit(Submit { volume: lun.volume, op, then: Then::Status })
}

/// RESERVE(6), (10): the whole unit. Extents and third parties are obsolete.
pub(crate) fn reserve(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    Ok(submit_change(lun, request.port, request.luns.port().relative_port, ChangeKind::Reserve))
}

/// RELEASE(6), (10).
pub(crate) fn release(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    Ok(submit_change(lun, request.port, request.luns.port().relative_port, ChangeKind::Release))
}

/// PERSISTENT RESERVE IN: READ KEYS.
pub(crate) fn read_keys(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    reserve_in(request, lun, |registration| registration.key.to_be_bytes().to_vec())
}

/// PERSISTENT RESERVE IN: READ FULL STATUS.
pub(crate) fn read_full_status(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let kind = lun.control.state().reservation.as_ref().map_or(0, |held| held.kind as u8);
    reserve_in(request, lun, |registration| {
        let holder = lun.control.is_holder(&registration.port);
        let mut out = registration.key.to_be_bytes().to_vec();
        out.extend_from_slice(&[0; 4]);
        // R_HOLDER; scope LU and type only for a holder.
        out.extend_from_slice(&[u8::from(holder), if holder { kind } else { 0 }, 0, 0, 0, 0]);
        out.extend_from_slice(&registration.relative_port.to_be_bytes());
        let id = transport_id(registration);
        out.extend_from_slice(&(id.len() as u32).to_be_bytes());
        out.extend_from_slice(&id);
        out
    })
}

fn reserve_in(
    request: &Request<'_>,
    lun: &Lun,
    descriptor: impl Fn(&Registration) -> Vec<u8>,
) -> Result<Action, ScsiError> {
    no_reserve(lun)?;
    let body: Vec<u8> = lun.control.state().registrations.iter().flat_map(descriptor).collect();
    let mut out = lun.control.generation().to_be_bytes().to_vec();
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&body);
    respond(out, request.cdb.be(7, 2))
}

/// While RESERVE holds, PERSISTENT RESERVE commands conflict, also from its holder (SPC-2, section 5.5.1).
fn no_reserve(lun: &Lun) -> Result<(), ScsiError> {
    if lun.control.reserved().is_some() { Err(ScsiError::ReservationConflict) } else { Ok(()) }
}

/// PERSISTENT RESERVE IN: READ RESERVATION.
pub(crate) fn read_reservation(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    no_reserve(lun)?;
    let state = lun.control.state();
    let mut out = lun.control.generation().to_be_bytes().to_vec();
    match &state.reservation {
        None => out.extend_from_slice(&[0; 4]),
        Some(held) => {
            out.extend_from_slice(&16u32.to_be_bytes());
            let key = state.registrations.iter().find(|r| r.port == held.holder).map_or(0, |r| r.key);
            // A reservation of all registrants has no key of its own.
            out.extend_from_slice(&if held.kind.all_registrants() { 0 } else { key }.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
        }
    }
    respond(out, request.cdb.be(7, 2))
}

/// PERSISTENT RESERVE IN: REPORT CAPABILITIES.
pub(crate) fn report_capabilities(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    // ATP_C, PTPL_C; TMV, ALLOW COMMANDS 1 (TEST UNIT READY passes all types), PTPL_A; all six types.
    respond(vec![0, 8, 0x05, 0x80 | 0x10 | 0x01, 0xea, 0x01, 0, 0], request.cdb.be(7, 2))
}

/// PERSISTENT RESERVE OUT: the CDB; what it asks for is known with the parameter list.
pub(crate) fn reserve_out(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let action = request.cdb.service_action();
    let typed = matches!(action, 1 | 2 | 4 | 5);
    if typed && request.cdb.byte(2) >> 4 != 0 {
        // Only logical unit scope.
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(2, 7)));
    }
    let kind = match ReservationType::from_code(request.cdb.byte(2) & 0x0f) {
        Some(kind) => kind,
        None if typed => return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(2, 3))),
        None => ReservationType::WriteExclusive,
    };
    let len = request.cdb.be(5, 4);
    let fits = if action == REGISTER_AND_MOVE { (OUT_LEN..=MOVE_LEN_MAX).contains(&len) } else { len == OUT_LEN };
    if !fits {
        return Err(ScsiError::ParameterListLength);
    }
    no_reserve(lun)?;
    let port = request.port.clone();
    let relative_port = request.luns.port().relative_port;
    let kind = DataOutKind::ReserveOut { port, relative_port, action, kind };
    Ok(Action::DataOut(DataOut { lun: lun.clone(), kind, len: len as u32, buffer_len: len as u32 }))
}

/// The parameter list is complete.
pub(crate) fn finish_out(
    lun: &Lun,
    list: &[u8],
    port: &InitiatorPort,
    relative_port: u16,
    action: u8,
    kind: ReservationType,
) -> Result<Action, ScsiError> {
    if (list.len() as u64) < OUT_LEN {
        return Err(ScsiError::ParameterListLength);
    }
    let wrong = |at| ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at));
    let flags = be(list, 20, 1);
    if flags & 0x08 != 0 && matches!(action, 0 | 6) {
        // SPEC_I_PT is not offered.
        return Err(ScsiError::InvalidFieldInParameterList(FieldPointer::bit(20, 3)));
    }
    let action = match action {
        0 => ReserveAction::Register,
        1 => ReserveAction::Reserve(kind),
        2 => ReserveAction::Release(kind),
        3 => ReserveAction::Clear,
        4 => ReserveAction::Preempt(kind, false),
        5 => ReserveAction::Preempt(kind, true),
        6 => ReserveAction::RegisterAndIgnore,
        REGISTER_AND_MOVE => {
            let len = usize::try_from(be(list, 20, 4)).unwrap_or(usize::MAX);
            let id = list.get(24..).unwrap_or(&[]);
            if len != id.len() {
                return Err(ScsiError::ParameterListLength);
            }
            ReserveAction::RegisterAndMove {
                to: parse_transport_id(id).ok_or(wrong(24))?,
                relative_port: be(list, 18, 2) as u16,
                unregister: be(list, 17, 1) & 0x02 != 0,
            }
        }
        _ => return Err(invalid(1)),
    };
    let out = ReserveOut { action, key: be(list, 0, 8), action_key: be(list, 8, 8) };
    Ok(submit_change(lun, port, relative_port, ChangeKind::Persistent(out)))
}

/// TransportID of an iSCSI initiator port: format 01b, name and ISID (SPC-4, section 7.6.4.6).
fn transport_id(registration: &Registration) -> Vec<u8> {
    let mut name = registration.port.as_str().as_bytes().to_vec();
    name.push(0);
    name.resize(name.len().next_multiple_of(4).max(20), 0);
    let mut out = vec![0x45, 0];
    out.extend_from_slice(&(name.len() as u16).to_be_bytes());
    out.extend_from_slice(&name);
    out
}

fn parse_transport_id(id: &[u8]) -> Option<InitiatorPort> {
    let (head, name) = id.split_at_checked(4)?;
    // Format 01b: a port. Format 00b names a device, which is no nexus.
    if head.first() != Some(&0x45) || usize::try_from(be(head, 2, 2)).ok()? != name.len() {
        return None;
    }
    let text = std::str::from_utf8(name).ok()?.trim_end_matches('\0').to_ascii_lowercase();
    let (initiator, isid) = text.split_once(",i,0x")?;
    let hex = isid.len() == 12 && isid.bytes().all(|b| b.is_ascii_hexdigit());
    let named = (1..=223).contains(&initiator.len()) && !initiator.chars().any(char::is_control);
    (hex && named).then(|| InitiatorPort::from_raw(&text))
}
