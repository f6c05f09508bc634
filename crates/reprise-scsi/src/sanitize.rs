//! SANITIZE (SBC-3, section 5.24): the blocks are erased by records like any other write, so a mirror that is behind still
//! has what was there until it ages out. Nothing below the journal is touched.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::cdb::be;
use crate::device::{Action, DataOut, DataOutKind, Op, Request, ScsiResponse, Submit, Then, invalid};
use crate::lun::Lun;
use crate::sense::{FieldPointer, ScsiError};

/// Bytes that one step of an overwrite covers.
const STEP_BYTES: u64 = 1 << 20;

/// A SANITIZE OVERWRITE under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overwrite {
    lun: Arc<Lun>,
    /// A step's worth of the pattern.
    pattern: Bytes,
    next_lba: u64,
}

fn zero_all(lun: &Lun) -> Action {
    let ranges = vec![(lun.sector_of(0), lun.sectors_of(lun.blocks()))];
    Action::Submit(Submit { volume: lun.volume, op: Op::Zero { ranges }, then: Then::Status })
}

/// SANITIZE, BLOCK ERASE: all blocks read as zero. The answer comes when it is done, whatever IMMED says.
pub(crate) fn block_erase(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    if request.cdb.be(7, 2) != 0 {
        return Err(invalid(7));
    }
    Ok(zero_all(lun))
}

/// SANITIZE, EXIT FAILURE MODE: an erase that failed leaves no failure mode.
pub(crate) fn exit_failure_mode(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    if request.cdb.be(7, 2) != 0 {
        return Err(invalid(7));
    }
    Ok(Action::Respond(ScsiResponse::GOOD))
}

/// SANITIZE, OVERWRITE: a pattern of up to a block follows.
pub(crate) fn overwrite(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = request.cdb.be(7, 2);
    if len < 5 || len > 4 + lun.block_bytes() {
        return Err(invalid(7));
    }
    Ok(Action::DataOut(DataOut {
        lun: lun.clone(),
        kind: DataOutKind::Sanitize,
        len: len as u32,
        buffer_len: len as u32,
    }))
}

/// The pattern is complete.
pub(crate) fn finish_overwrite(lun: &Arc<Lun>, list: &[u8]) -> Result<Action, ScsiError> {
    let wrong = |at| ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at));
    let len = be(list, 2, 2) as usize;
    let pattern = list.get(4..).unwrap_or(&[]);
    if be(list, 0, 1) & 0x1f == 0 {
        return Err(wrong(0));
    }
    if len == 0 || len as u64 > lun.block_bytes() || len > pattern.len() {
        return Err(wrong(2));
    }
    let pattern = pattern.get(..len).unwrap_or(&[]);
    let inverted = be(list, 0, 1) & 0x80 != 0 && be(list, 0, 1) & 0x1f > 1 && (be(list, 0, 1) & 0x1f).is_multiple_of(2);
    // Passes before the last leave no trace in a journal; INVERT decides what an even number of them ends with.
    let pattern: Vec<u8> = pattern.iter().map(|byte| if inverted { !byte } else { *byte }).collect();
    if pattern.iter().all(|byte| *byte == 0) {
        return Ok(zero_all(lun));
    }
    let block: Vec<u8> = pattern.iter().copied().cycle().take(lun.block_bytes() as usize).collect();
    let mut step = BytesMut::with_capacity(STEP_BYTES as usize);
    while (step.len() as u64) < STEP_BYTES {
        step.extend_from_slice(&block);
    }
    Ok(Box::new(Overwrite { lun: lun.clone(), pattern: step.freeze(), next_lba: 0 }).step())
}

impl Overwrite {
    /// The next write, or the answer.
    pub(crate) fn step(mut self: Box<Self>) -> Action {
        let left = self.lun.blocks().saturating_sub(self.next_lba);
        if left == 0 {
            return Action::Respond(ScsiResponse::GOOD);
        }
        let blocks = left.min(STEP_BYTES / self.lun.block_bytes());
        let data = self.pattern.slice(..(blocks * self.lun.block_bytes()) as usize);
        let sector = self.lun.sector_of(self.next_lba);
        self.next_lba += blocks;
        Action::Submit(Submit {
            volume: self.lun.volume,
            op: Op::Write { sector, data, fua: false },
            then: Then::Overwrite(self),
        })
    }
}
