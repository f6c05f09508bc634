//! INQUIRY: standard data and vital product data (SPC-4, sections 6.6 and 7.8).

use std::sync::Arc;

use crate::block::{
    ATOMIC_BYTES_MAX, COMPARE_AND_WRITE_BYTES_MAX, OPTIMAL_TRANSFER_BYTES, TRANSFER_BYTES_MAX, UNMAP_BYTES_MAX,
    UNMAP_DESCRIPTORS_MAX,
};
use crate::device::{Action, Nexus, Request, ScsiResponse, invalid};
use crate::lun::{Lun, TargetPort};
use crate::sense::ScsiError;

/// T10 VENDOR IDENTIFICATION, 8 characters.
const VENDOR: &str = "REPRISE";
/// PRODUCT REVISION LEVEL, 4 characters.
const REVISION: &str = "0001";
/// THRESHOLD EXPONENT: resources are counted in sets of 2^11 blocks.
pub(crate) const THRESHOLD_EXPONENT: u8 = 11;
/// Peripheral qualifier 011b and device type 1Fh: no logical unit can be here.
const NO_UNIT: u8 = 0x7f;

/// The VPD pages, in ascending order as initiators expect them.
const VPD_PAGES: [u8; 7] = [0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2];

/// INQUIRY.
pub(crate) fn inquiry(_: &mut Nexus, request: &Request<'_>, lun: Option<&Arc<Lun>>) -> Result<Action, ScsiError> {
    let allocation = request.cdb.be(3, 2);
    let page = request.cdb.byte(2);
    let data = match (request.cdb.bit(1, 0), lun) {
        (false, _) if page != 0 => return Err(invalid(2)),
        (false, lun) => standard(lun),
        (true, None) => return Err(ScsiError::LunNotSupported),
        (true, Some(lun)) => vpd(page, lun, request.luns.port()).ok_or_else(|| invalid(2))?,
    };
    Ok(Action::Respond(ScsiResponse::data(data, allocation)))
}

/// ASCII in a field of fixed width, padded with spaces; anything not printable becomes a space.
fn ascii(out: &mut Vec<u8>, text: &str, width: usize) {
    let printable = text.bytes().map(|b| if (0x20..0x7f).contains(&b) { b } else { b' ' });
    out.extend(printable.chain(std::iter::repeat(b' ')).take(width));
}

fn standard(lun: Option<&Arc<Lun>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(74);
    out.push(if lun.is_some() { 0x00 } else { NO_UNIT });
    // RMB 0; SPC-4; HISUP 1, response data format 2.
    out.extend_from_slice(&[0x00, 0x06, 0x12]);
    out.push(0); // ADDITIONAL LENGTH, below
    // TPGS 01b: implicit asymmetric access only. 3PC: EXTENDED COPY.
    out.extend_from_slice(&[0x10 | 0x08, 0x00, 0x02]); // CMDQUE
    ascii(&mut out, VENDOR, 8);
    ascii(&mut out, lun.map_or("", |lun| lun.product.as_str()), 16);
    ascii(&mut out, REVISION, 4);
    out.resize(58, 0);
    // Version descriptors: SAM-5, SPC-4, SBC-3, iSCSI.
    for version in [0x00a0u16, 0x0460, 0x04c0, 0x0960] {
        out.extend_from_slice(&version.to_be_bytes());
    }
    out.resize(74, 0);
    out[4] = (out.len() - 5) as u8;
    out
}

fn vpd(page: u8, lun: &Lun, port: &TargetPort) -> Option<Vec<u8>> {
    let body = match page {
        0x00 => VPD_PAGES.to_vec(),
        0x80 => {
            let mut serial = Vec::new();
            ascii(&mut serial, &lun.serial, lun.serial.len().min(64));
            serial
        }
        0x83 => device_identification(lun, port),
        0x86 => extended(),
        0xb0 => block_limits(lun),
        0xb1 => {
            // MEDIUM ROTATION RATE 1: no seek penalty.
            let mut out = vec![0x00, 0x01];
            out.resize(60, 0);
            out[3] = 0x40; // WABEREQ 01b: after SANITIZE blocks can be read
            out
        }
        0xb2 => provisioning(lun),
        _ => return None,
    };
    let mut out = vec![0x00, page];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(&body);
    Some(out)
}

/// One designation descriptor: code set, association and type, then the designator.
fn designator(out: &mut Vec<u8>, code_set: u8, association: u8, kind: u8, body: &[u8]) {
    let body = body.get(..body.len().min(255)).unwrap_or(&[]);
    // Protocol identifier iSCSI, valid only for ports and devices (PIV).
    let (protocol, piv) = if association == 0 { (0, 0) } else { (0x50, 0x80) };
    out.extend_from_slice(&[protocol | code_set, piv | association << 4 | kind, 0, body.len() as u8]);
    out.extend_from_slice(body);
}

/// A UTF-8 string, terminated and padded with zeros to a multiple of 4 bytes (SCSI name string).
fn name_string(mut text: Vec<u8>) -> Vec<u8> {
    text.push(0);
    text.resize(text.len().next_multiple_of(4), 0);
    text
}

fn device_identification(lun: &Lun, port: &TargetPort) -> Vec<u8> {
    const BINARY: u8 = 1;
    const ASCII: u8 = 2;
    const UTF8: u8 = 3;
    let mut out = Vec::new();
    designator(&mut out, BINARY, 0, 3, lun.naa.as_bytes());
    let mut t10 = Vec::new();
    ascii(&mut t10, VENDOR, 8);
    ascii(&mut t10, &lun.serial, lun.serial.len().min(64));
    designator(&mut out, ASCII, 0, 1, &t10);
    let [a, b] = port.relative_port.to_be_bytes();
    designator(&mut out, BINARY, 1, 4, &[0, 0, a, b]);
    let [a, b] = port.group.to_be_bytes();
    designator(&mut out, BINARY, 1, 5, &[0, 0, a, b]);
    let port_name = format!("{},t,0x{:04x}", port.target_name, port.group).into_bytes();
    designator(&mut out, UTF8, 1, 8, &name_string(port_name));
    designator(&mut out, UTF8, 2, 8, &name_string(port.target_name.clone().into_bytes()));
    out
}

fn extended() -> Vec<u8> {
    let mut out = vec![0; 60];
    out[1] = 0x01; // SIMPSUP
    out[3] = 0x01; // LUICLR
    out
}

fn block_limits(lun: &Lun) -> Vec<u8> {
    let blocks = |bytes: u64| (bytes / lun.block_bytes()) as u32;
    let mut out = vec![0x01, blocks(COMPARE_AND_WRITE_BYTES_MAX) as u8]; // WSNZ
    let grain = blocks(4096);
    out.extend_from_slice(&(grain as u16).to_be_bytes());
    out.extend_from_slice(&blocks(TRANSFER_BYTES_MAX).to_be_bytes());
    out.extend_from_slice(&blocks(OPTIMAL_TRANSFER_BYTES).to_be_bytes());
    out.extend_from_slice(&[0; 4]); // MAXIMUM PREFETCH LENGTH
    out.extend_from_slice(&blocks(UNMAP_BYTES_MAX).to_be_bytes());
    out.extend_from_slice(&(UNMAP_DESCRIPTORS_MAX as u32).to_be_bytes());
    out.extend_from_slice(&grain.to_be_bytes());
    out.extend_from_slice(&0x8000_0000u32.to_be_bytes()); // UGAVALID, alignment 0
    out.extend_from_slice(&u64::from(blocks(TRANSFER_BYTES_MAX)).to_be_bytes()); // MAXIMUM WRITE SAME LENGTH
    // MAXIMUM ATOMIC TRANSFER LENGTH; any alignment and granularity, no boundaries.
    out.extend_from_slice(&blocks(ATOMIC_BYTES_MAX).to_be_bytes());
    out.resize(60, 0);
    out
}

fn provisioning(lun: &Lun) -> Vec<u8> {
    // LBPU, LBPWS, LBPWS10, LBPRZ; provisioning type 2: thin.
    if lun.thin { vec![THRESHOLD_EXPONENT, 0xe4, 0x02, 0] } else { vec![0, 0, 0, 0] }
}
