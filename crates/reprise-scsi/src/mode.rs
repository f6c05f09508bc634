//! Mode parameters: caching, control, informational exceptions. SWP of the control page can be changed and saved.

use std::sync::Arc;

use reprise_types::InitiatorPort;

use crate::cdb::be;
use crate::control::ChangeKind;
use crate::device::{Action, DataOut, DataOutKind, Request, ScsiResponse, invalid};
use crate::lun::Lun;
use crate::reserve::submit_change;
use crate::sense::{FieldPointer, ScsiError};

/// PAGE CODE that asks for all pages.
const ALL_PAGES: u8 = 0x3f;
/// PAGE CODE of the control mode page; SWP is bit 3 of its byte 4.
const CONTROL: u8 = 0x0a;
const SWP_AT: usize = 4;
const SWP: u8 = 0x08;

/// A mode page with its current values.
struct Page {
    code: u8,
    bytes: &'static [u8],
}

/// The pages in ascending order. Byte 0 is the page code, byte 1 the length of what follows.
const PAGES: [Page; 3] = [
    // Caching: WCE 0, for GOOD means durable; DRA 1, nothing is read ahead.
    Page { code: 0x08, bytes: &[0x08, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0] },
    // Control: one task set for all nexuses (TST 0), GLTSD, fixed sense (D_SENSE 0), unrestricted reordering, TAS 0.
    Page { code: 0x0a, bytes: &[0x0a, 0x0a, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0] },
    // Informational exceptions control: none are reported (DEXCPT, MRIE 0).
    Page { code: 0x1c, bytes: &[0x1c, 0x0a, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
];

/// MODE SENSE(6), (10).
pub(crate) fn mode_sense(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let cdb = &request.cdb;
    let long = request.row.cdb_len() == 10;
    let (code, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
    let changeable = match cdb.byte(2) >> 6 {
        0 | 2 => false,
        1 => true,
        _ => false,
    };
    // What SWP is, was saved, or is by default.
    let protected = match cdb.byte(2) >> 6 {
        0 => lun.control.software_write_protect(),
        2 => false,
        _ => lun.control.state().software_write_protect,
    };
    if subpage != 0 && subpage != 0xff {
        return Err(invalid(3));
    }
    let mut pages = Vec::new();
    for page in PAGES.iter().filter(|page| code == ALL_PAGES || page.code == code) {
        let start = pages.len();
        pages.extend_from_slice(page.bytes);
        if changeable {
            pages.iter_mut().skip(start + 2).for_each(|byte| *byte = 0);
        }
        if page.code == CONTROL {
            // PS: the page can be saved.
            if let Some(code) = pages.get_mut(start) {
                *code |= 0x80;
            }
            if let (Some(byte), true) = (pages.get_mut(start + SWP_AT), changeable || protected) {
                *byte |= SWP;
            }
        }
    }
    if pages.is_empty() {
        return Err(invalid(2));
    }
    let descriptor = if cdb.bit(1, 3) { Vec::new() } else { block_descriptor(lun, long && cdb.bit(1, 4)) };
    let device_specific = 0x10 | if lun.is_write_protected() { 0x80 } else { 0 }; // DPOFUA, WP
    let mut out = Vec::new();
    let allocation = if long {
        let len = (6 + descriptor.len() + pages.len()) as u16;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&[0, device_specific, u8::from(descriptor.len() == 16), 0]);
        out.extend_from_slice(&(descriptor.len() as u16).to_be_bytes());
        cdb.be(7, 2)
    } else {
        out.extend_from_slice(&[(3 + descriptor.len() + pages.len()) as u8, 0, device_specific]);
        out.push(descriptor.len() as u8);
        cdb.be(4, 1)
    };
    out.extend_from_slice(&descriptor);
    out.extend_from_slice(&pages);
    Ok(Action::Respond(ScsiResponse::data(out, allocation)))
}

/// Mode parameter block descriptor of a disk; the long form (LLBAA) has 16 bytes.
fn block_descriptor(lun: &Lun, long: bool) -> Vec<u8> {
    let mut out = Vec::new();
    if long {
        out.extend_from_slice(&lun.blocks().to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&lun.block_size.bytes().to_be_bytes());
    } else {
        out.extend_from_slice(&u32::try_from(lun.blocks()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&lun.block_size.bytes().to_be_bytes());
    }
    out
}

/// MODE SELECT(6), (10): takes SWP, and pages that change nothing else. The page format (PF) is required.
pub(crate) fn mode_select(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let long = request.row.cdb_len() == 10;
    if !request.cdb.bit(1, 4) {
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 4)));
    }
    let len = if long { request.cdb.be(7, 2) } else { request.cdb.be(4, 1) } as u32;
    if len == 0 {
        return Ok(Action::Respond(ScsiResponse::GOOD));
    }
    let kind = DataOutKind::ModeSelect { long, save: request.cdb.bit(1, 0), port: request.port.clone() };
    Ok(Action::DataOut(DataOut { lun: lun.clone(), kind, len, buffer_len: len }))
}

/// The parameter list of MODE SELECT is complete.
pub(crate) fn finish_select(
    lun: &Lun,
    list: &[u8],
    long: bool,
    save: bool,
    port: &InitiatorPort,
) -> Result<Action, ScsiError> {
    let wrong = |at: usize| ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at as u16));
    let (header, descriptor_len) = if long { (8, be(list, 6, 2)) } else { (4, be(list, 3, 1)) };
    let descriptor_len = descriptor_len as usize;
    if list.len() < header + descriptor_len {
        return Err(ScsiError::ParameterListLength);
    }
    let llbaa = long && list.get(4).is_some_and(|byte| byte & 1 != 0);
    let descriptor = list.get(header..header + descriptor_len).unwrap_or(&[]);
    if !same_descriptor(lun, descriptor, llbaa) {
        return Err(wrong(if long { 6 } else { 3 }));
    }
    let mut protect = lun.control.software_write_protect();
    let mut at = header + descriptor_len;
    while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
        let code = be(rest, 0, 1) as u8;
        // SPF and PS are zero in MODE SELECT, except that PS is ignored.
        let Some(page) = PAGES.iter().find(|page| page.code == code & 0x7f) else { return Err(wrong(at)) };
        if rest.len() < page.bytes.len() {
            return Err(ScsiError::ParameterListLength);
        }
        for (offset, current) in page.bytes.iter().enumerate().skip(1) {
            let wanted = rest.get(offset).copied().unwrap_or(0);
            let free = if page.code == CONTROL && offset == SWP_AT { SWP } else { 0 };
            if wanted & !free != *current {
                return Err(wrong(at + offset));
            }
            if free != 0 {
                protect = wanted & SWP != 0;
            }
        }
        at += page.bytes.len();
    }
    let saved = lun.control.state().software_write_protect;
    if protect == lun.control.software_write_protect() && (!save || protect == saved) {
        return Ok(Action::Respond(ScsiResponse::GOOD));
    }
    Ok(submit_change(lun, port, 0, ChangeKind::Mode { software_write_protect: protect, save }))
}

/// A block descriptor that changes nothing.
fn same_descriptor(lun: &Lun, descriptor: &[u8], llbaa: bool) -> bool {
    match descriptor.len() {
        0 => true,
        8 if !llbaa => {
            let blocks = be(descriptor, 0, 4);
            (blocks == 0 || blocks == lun.blocks().min(u64::from(u32::MAX)))
                && be(descriptor, 5, 3) == lun.block_bytes()
        }
        16 if llbaa => {
            let blocks = be(descriptor, 0, 8);
            (blocks == 0 || blocks == lun.blocks()) && be(descriptor, 12, 4) == lun.block_bytes()
        }
        _ => false,
    }
}
