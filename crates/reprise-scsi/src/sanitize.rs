//! SANITIZE (SBC-3, section 5.24): the blocks are erased by records like any other write, so a mirror that is behind still
//! has what was there until it ages out. Nothing below the journal is touched.

use std::sync::Arc;

use bytes::Bytes;
use reprise_types::PoolBuf;

use crate::cdb::be;
use crate::device::{Action, DataOut, DataOutKind, Op, Request, Submit, Then, invalid};
use crate::lun::Lun;
use crate::sense::{FieldPointer, ScsiError};

/// Length of the pattern that the owner is given: what fits one record.
const PATTERN_BYTES: usize = 256 << 10;

/// SANITIZE, BLOCK ERASE: all blocks read as zero, which is done at once.
pub(crate) fn block_erase(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    if request.cdb.be(7, 2) != 0 {
        return Err(invalid(7));
    }
    let ranges = vec![(lun.sector_of(0), lun.sectors_of(lun.blocks()))];
    Ok(Action::Submit(Submit { volume: lun.volume, op: Op::Zero { ranges }, then: Then::Status }))
}

/// SANITIZE, EXIT FAILURE MODE.
pub(crate) fn exit_failure_mode(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    if request.cdb.be(7, 2) != 0 {
        return Err(invalid(7));
    }
    Ok(Action::Submit(Submit { volume: lun.volume, op: Op::ExitFailureMode, then: Then::Status }))
}

/// SANITIZE, OVERWRITE: a pattern of up to a block follows.
pub(crate) fn overwrite(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = request.cdb.be(7, 2);
    if len < 5 || len > 4 + lun.block_bytes() {
        return Err(invalid(7));
    }
    let kind = DataOutKind::Sanitize { immediate: request.cdb.bit(1, 7) };
    Ok(Action::DataOut(DataOut { lun: lun.clone(), kind, len: len as u32, buffer_len: len as u32 }))
}

/// The pattern is complete. Passes before the last would leave no trace in a journal, so there is one; INVERT decides what
/// an even number of them ends with.
pub(crate) fn finish_overwrite(lun: &Lun, list: &[u8], immediate: bool) -> Result<Action, ScsiError> {
    let wrong = |at| ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at));
    let len = be(list, 2, 2) as usize;
    let (count, invert) = (be(list, 0, 1) & 0x1f, be(list, 0, 1) & 0x80 != 0);
    if count == 0 {
        return Err(wrong(0));
    }
    let pattern = list.get(4..).and_then(|pattern| pattern.get(..len)).unwrap_or(&[]);
    if pattern.is_empty() || pattern.len() as u64 > lun.block_bytes() {
        return Err(wrong(2));
    }
    let mask = if invert && count.is_multiple_of(2) { 0xff } else { 0 };
    // Every block begins with the pattern anew.
    let block: Vec<u8> = pattern.iter().cycle().take(lun.block_bytes() as usize).map(|byte| byte ^ mask).collect();
    let mut blocks = PoolBuf::unpooled(PATTERN_BYTES);
    blocks.chunks_exact_mut(block.len()).for_each(|to| to.copy_from_slice(&block));
    let pattern: Bytes = blocks.freeze();
    Ok(Action::Submit(Submit { volume: lun.volume, op: Op::Overwrite { pattern, immediate }, then: Then::Status }))
}
