//! LOG SENSE: informational exceptions, and on thin units logical block provisioning (SPC-4, section 6.8; SBC-3, section 6.3.3).

use std::sync::Arc;

use crate::device::{Action, Request, ScsiResponse, invalid};
use crate::inquiry::THRESHOLD_EXPONENT;
use crate::lun::{Lun, ResourceGauge};
use crate::sense::{FieldPointer, ScsiError};

const SUPPORTED: u8 = 0x00;
const PROVISIONING: u8 = 0x0c;
const EXCEPTIONS: u8 = 0x2f;
/// Subpage that lists pages with subpages.
const ALL_SUBPAGES: u8 = 0xff;

fn pages(lun: &Lun) -> &'static [u8] {
    if lun.thin { &[SUPPORTED, PROVISIONING, EXCEPTIONS] } else { &[SUPPORTED, EXCEPTIONS] }
}

/// LOG SENSE. Current cumulative values only; there is nothing to save.
pub(crate) fn log_sense(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    if request.cdb.bit(1, 0) {
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 0)));
    }
    let (page, subpage) = (request.cdb.byte(2) & 0x3f, request.cdb.byte(3));
    let from = request.cdb.be(5, 2);
    let mut parameters: Vec<(u16, Vec<u8>)> = Vec::new();
    match (page, subpage) {
        (SUPPORTED, 0) => return Ok(list(request, pages(lun).to_vec(), 0)),
        (SUPPORTED, ALL_SUBPAGES) => {
            let body = pages(lun).iter().flat_map(|page| [*page, 0]);
            let body = [SUPPORTED, ALL_SUBPAGES].into_iter().chain(body).collect::<Vec<u8>>();
            return Ok(list(request, body, ALL_SUBPAGES));
        }
        (PROVISIONING, 0) if lun.thin => {
            let (available, used) = lun.resources.as_ref().map_or((0, 0), ResourceGauge::get);
            let set = lun.block_bytes() << THRESHOLD_EXPONENT;
            for (code, bytes) in [(0x0001, available), (0x0002, used)] {
                let mut value = u32::try_from(bytes / set).unwrap_or(u32::MAX).to_be_bytes().to_vec();
                // SCOPE: the room is shared with other units, what is used is not.
                value.extend_from_slice(&[if code == 1 { 2 } else { 1 }, 0, 0, 0]);
                parameters.push((code, value));
            }
        }
        (EXCEPTIONS, 0) => parameters.push((0, vec![0, 0, 0, 0])),
        _ => return Err(invalid(if subpage == 0 { 2 } else { 3 })),
    }
    if parameters.iter().all(|(code, _)| u64::from(*code) < from) {
        return Err(invalid(5));
    }
    let mut body = Vec::new();
    for (code, value) in parameters.into_iter().filter(|(code, _)| u64::from(*code) >= from) {
        body.extend_from_slice(&code.to_be_bytes());
        // FORMAT AND LINKING 11b: a list in binary.
        body.extend_from_slice(&[0x03, value.len() as u8]);
        body.extend_from_slice(&value);
    }
    Ok(answer(request, page, 0, &body))
}

fn list(request: &Request<'_>, body: Vec<u8>, subpage: u8) -> Action {
    answer(request, SUPPORTED, subpage, &body)
}

fn answer(request: &Request<'_>, page: u8, subpage: u8, body: &[u8]) -> Action {
    // DS: nothing is saved; SPF with a subpage.
    let mut out = vec![page | if subpage == 0 { 0 } else { 0x40 }, subpage];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    Action::Respond(ScsiResponse::data(out, request.cdb.be(7, 2)))
}
