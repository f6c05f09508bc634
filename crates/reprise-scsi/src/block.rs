//! Commands that touch blocks (SBC-3).

use std::sync::Arc;

use bytes::Bytes;
use reprise_types::{PoolBuf, Sector, SectorCount};

use crate::cdb::be;
use crate::device::{Action, DataOut, DataOutKind, Op, Payload, Request, ScsiResponse, Submit, Then, invalid};
use crate::lun::Lun;
use crate::sense::{FieldPointer, ScsiError};

/// Most bytes that one READ, WRITE, VERIFY or WRITE SAME may cover (VPD page B0h): one journal segment holds several of
/// them, and one command cannot take a large part of the buffer pool. Above it: INVALID FIELD IN CDB.
pub const TRANSFER_BYTES_MAX: u64 = 8 << 20;

/// OPTIMAL TRANSFER LENGTH: what the committer packs into one durable write.
pub const OPTIMAL_TRANSFER_BYTES: u64 = 256 << 10;

/// Most bytes that one COMPARE AND WRITE may compare: it holds its range until it has a Seq.
pub const COMPARE_AND_WRITE_BYTES_MAX: u64 = 64 << 10;

/// Most bytes that WRITE ATOMIC and ORWRITE may cover: what fits one record, which is there whole or not at all.
pub const ATOMIC_BYTES_MAX: u64 = 256 << 10;

/// Most bytes that one UNMAP may cover. A zero record has no payload, so this may be large; the bound keeps the
/// work that one record means for the home legs in check, and is what libiscsi's suite still takes for sane.
pub const UNMAP_BYTES_MAX: u64 = 512 << 20;

/// Most block descriptors of one UNMAP: 4 KiB of parameter data.
pub const UNMAP_DESCRIPTORS_MAX: u64 = 256;

/// Header of the UNMAP parameter list.
const UNMAP_HEADER: usize = 8;
/// One UNMAP block descriptor.
const UNMAP_DESCRIPTOR: usize = 16;

fn submit(lun: &Lun, op: Op, then: Then) -> Action {
    Action::Submit(Submit { volume: lun.volume, op, then })
}

fn good() -> Result<Action, ScsiError> {
    Ok(Action::Respond(ScsiResponse::GOOD))
}

/// Bytes of the command's blocks, at most [`TRANSFER_BYTES_MAX`].
fn transfer_bytes(request: &Request<'_>, lun: &Lun) -> Result<u64, ScsiError> {
    let bytes = request.blocks().checked_mul(lun.block_bytes()).ok_or_else(|| request.blocks_invalid())?;
    if bytes > TRANSFER_BYTES_MAX { Err(request.blocks_invalid()) } else { Ok(bytes) }
}

fn data_out(lun: &Arc<Lun>, kind: DataOutKind, len: u64, buffer_len: u64) -> Result<Action, ScsiError> {
    let (Ok(len), Ok(buffer_len)) = (u32::try_from(len), u32::try_from(buffer_len)) else {
        return Err(ScsiError::Internal);
    };
    if len == 0 {
        return good();
    }
    Ok(Action::DataOut(DataOut { lun: lun.clone(), kind, len, buffer_len }))
}

fn read_op(lun: &Lun, lba: u64, bytes: u64) -> Op {
    Op::Read { sector: lun.sector_of(lba), sectors: lun.sectors_of(bytes / lun.block_bytes()) }
}

/// READ(6), (10), (12), (16).
pub(crate) fn read(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    match transfer_bytes(request, lun)? {
        0 => good(),
        len => Ok(submit(lun, read_op(lun, request.lba(), len), Then::DataIn { len })),
    }
}

/// WRITE(6), (10), (12), (16) and WRITE AND VERIFY(10), (12), (16). The verification is the journal's checksum over the
/// payload: it is computed from the received bytes, stored with them and checked at every read.
pub(crate) fn write(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = transfer_bytes(request, lun)?;
    let fua = request.row.cdb_len() > 6 && request.cdb.bit(1, 3);
    data_out(lun, DataOutKind::Write { lba: request.lba(), fua, atomic: false }, len, len)
}

/// WRITE ATOMIC(16): all of it or nothing after a power cut, because it becomes one record. ATOMIC BOUNDARY is refused.
pub(crate) fn write_atomic(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = transfer_bytes(request, lun)?;
    if len > ATOMIC_BYTES_MAX {
        return Err(request.blocks_invalid());
    }
    data_out(lun, DataOutKind::Write { lba: request.lba(), fua: request.cdb.bit(1, 3), atomic: true }, len, len)
}

/// ORWRITE(16).
pub(crate) fn or_write(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = transfer_bytes(request, lun)?;
    if len > ATOMIC_BYTES_MAX {
        return Err(request.blocks_invalid());
    }
    data_out(lun, DataOutKind::OrWrite { lba: request.lba() }, len, len)
}

/// VERIFY(10), (12), (16): BYTCHK 0 reads, BYTCHK 1 compares with data-out, BYTCHK 3 compares each block with the one block
/// of data-out, 2 is reserved.
pub(crate) fn verify(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = transfer_bytes(request, lun)?;
    match (request.cdb.byte(1) >> 1) & 3 {
        0 if len == 0 => good(),
        0 => Ok(submit(lun, read_op(lun, request.lba(), len), Then::Readable { len })),
        1 => data_out(lun, DataOutKind::Verify { lba: request.lba() }, len, len),
        3 if len == 0 => good(),
        3 => {
            let kind = DataOutKind::VerifyBlocks { lba: request.lba(), blocks: request.blocks() };
            data_out(lun, kind, lun.block_bytes(), lun.block_bytes())
        }
        _ => Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 2))),
    }
}

/// Every block of `data` has to equal `block`.
pub(crate) fn equal_blocks(data: &Payload, block: &[u8]) -> ScsiResponse {
    let mut wanted = block.iter().cycle();
    for (offset, byte) in data.parts().iter().flat_map(|part| part.iter()).enumerate() {
        if wanted.next() != Some(byte) {
            let offset = (offset % block.len().max(1)) as u64;
            return ScsiResponse::error(&ScsiError::Miscompare { offset });
        }
    }
    ScsiResponse::GOOD
}

/// COMPARE AND WRITE. No blocks are refused, although the standard has it as no error: 256 do not fit the field and become
/// 0, and who means 256 must not be told that they are written.
pub(crate) fn compare_and_write(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let blocks = request.blocks();
    if blocks == 0 {
        return Err(request.blocks_invalid());
    }
    let bytes = blocks.saturating_mul(lun.block_bytes());
    if bytes > COMPARE_AND_WRITE_BYTES_MAX {
        return Err(request.blocks_invalid());
    }
    let len = bytes.saturating_mul(2);
    data_out(lun, DataOutKind::CompareAndWrite { lba: request.lba(), blocks }, len, len)
}

/// WRITE SAME(10), (16). A block count of 0 is refused (WSNZ).
pub(crate) fn write_same(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let blocks = request.blocks();
    if blocks == 0 || blocks.saturating_mul(lun.block_bytes()) > TRANSFER_BYTES_MAX {
        return Err(request.blocks_invalid());
    }
    if request.cdb.bit(1, 3) && !lun.thin {
        // UNMAP, on a unit without logical block provisioning.
        return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(1, 3)));
    }
    if request.cdb.bit(1, 0) {
        // NDOB of WRITE SAME(16): no data-out buffer, the block is zero.
        let ranges = vec![(lun.sector_of(request.lba()), lun.sectors_of(blocks))];
        return Ok(submit(lun, Op::Zero { ranges }, Then::Status));
    }
    let unmap = request.cdb.bit(1, 3);
    let kind = DataOutKind::WriteSame { lba: request.lba(), blocks, unmap };
    // An unmap never expands the block, so it needs no room for it.
    let buffer = if unmap { lun.block_bytes() } else { blocks.saturating_mul(lun.block_bytes()) };
    data_out(lun, kind, lun.block_bytes(), buffer)
}

/// UNMAP. ANCHOR is not offered.
pub(crate) fn unmap(request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = request.cdb.be(7, 2);
    if len == 0 {
        return good();
    }
    if len < UNMAP_HEADER as u64 {
        return Err(ScsiError::ParameterListLength);
    }
    if len > (UNMAP_HEADER as u64) + UNMAP_DESCRIPTORS_MAX * UNMAP_DESCRIPTOR as u64 {
        return Err(invalid(7));
    }
    data_out(lun, DataOutKind::Unmap, len, len)
}

/// SYNCHRONIZE CACHE(10), (16). Everything acknowledged is durable, the range is of no matter.
pub(crate) fn synchronize_cache(_: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    Ok(submit(lun, Op::Flush, Then::Status))
}

/// PRE-FETCH(10), (16): nothing is read ahead; GOOD says that not all of it is in the cache.
pub(crate) fn pre_fetch(_: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    good()
}

/// Data-out of a block command is complete: a length that the command accepts.
pub(crate) fn finish(out: &DataOut, buf: PoolBuf, received: usize) -> Result<Action, ScsiError> {
    let lun = &out.lun;
    let block = lun.block_size.bytes() as usize;
    match out.kind {
        // The initiator offers nothing, and the residual tells it that nothing was taken.
        DataOutKind::Write { .. } if received == 0 => good(),
        DataOutKind::Write { lba, fua, .. } => {
            let op = Op::Write { sector: lun.sector_of(lba), data: buf.freeze().slice(..received), fua };
            Ok(submit(lun, op, Then::Status))
        }
        DataOutKind::Verify { lba } => {
            let data = buf.freeze().slice(..received);
            Ok(submit(lun, read_op(lun, lba, received as u64), Then::Equal(data)))
        }
        DataOutKind::OrWrite { lba } => {
            let op = Op::OrWrite { sector: lun.sector_of(lba), data: buf.freeze().slice(..received) };
            Ok(submit(lun, op, Then::Status))
        }
        DataOutKind::VerifyBlocks { lba, blocks } => {
            if received < block {
                return Err(ScsiError::DataPhase);
            }
            let len = blocks.saturating_mul(lun.block_bytes());
            let then = Then::EqualBlocks { block: buf.freeze().slice(..block), len };
            Ok(submit(lun, read_op(lun, lba, len), then))
        }
        DataOutKind::CompareAndWrite { lba, blocks } => {
            let half = usize::try_from(blocks).unwrap_or(0).saturating_mul(block);
            if half == 0 || received < half.saturating_mul(2) {
                return Err(invalid(13));
            }
            let data: Bytes = buf.freeze();
            let op = Op::CompareAndWrite {
                sector: lun.sector_of(lba),
                verify: data.slice(..half),
                write: data.slice(half..half * 2),
            };
            Ok(submit(lun, op, Then::Status))
        }
        DataOutKind::WriteSame { lba, blocks, unmap } => write_same_data(lun, buf, received, lba, blocks, unmap),
        DataOutKind::Unmap => unmap_list(lun, buf.get(..received).unwrap_or(&[])),
        DataOutKind::ModeSelect { .. }
        | DataOutKind::ReserveOut { .. }
        | DataOutKind::Copy { .. }
        | DataOutKind::Sanitize { .. } => Err(ScsiError::Internal),
    }
}

fn write_same_data(
    lun: &Lun,
    mut buf: PoolBuf,
    received: usize,
    lba: u64,
    blocks: u64,
    unmap: bool,
) -> Result<Action, ScsiError> {
    let block = lun.block_size.bytes() as usize;
    if received < block || buf.len() < block {
        return Err(ScsiError::DataPhase);
    }
    let (pattern, room) = buf.split_at_mut(block);
    if pattern.iter().all(|byte| *byte == 0) {
        let ranges = vec![(lun.sector_of(lba), lun.sectors_of(blocks))];
        return Ok(submit(lun, Op::Zero { ranges }, Then::Status));
    }
    if unmap {
        // With LBPRZ an unmap may only be done where the block is zero (SBC-3, section 5.50): it is written then. Room
        // for the expansion was not asked for, because hosts send zeros here.
        let mut expanded = PoolBuf::unpooled(usize::try_from(blocks).unwrap_or(0).saturating_mul(block));
        expanded.chunks_exact_mut(block).for_each(|to| to.copy_from_slice(pattern));
        return Ok(submit(
            lun,
            Op::Write { sector: lun.sector_of(lba), data: expanded.freeze(), fua: false },
            Then::Status,
        ));
    }
    room.chunks_exact_mut(block).for_each(|to| to.copy_from_slice(pattern));
    let op = Op::Write { sector: lun.sector_of(lba), data: buf.freeze(), fua: false };
    Ok(submit(lun, op, Then::Status))
}

fn unmap_list(lun: &Lun, list: &[u8]) -> Result<Action, ScsiError> {
    if list.len() < UNMAP_HEADER {
        return Err(ScsiError::ParameterListLength);
    }
    let stated = usize::try_from(be(list, 2, 2)).unwrap_or(usize::MAX);
    let descriptors = list.get(UNMAP_HEADER..).unwrap_or(&[]);
    if stated > descriptors.len() {
        return Err(ScsiError::ParameterListLength);
    }
    let mut ranges: Vec<(Sector, SectorCount)> = Vec::new();
    let mut total = 0u64;
    // A last descriptor that is cut short is ignored (SBC-3, section 5.28.2).
    for (index, descriptor) in descriptors.chunks_exact(UNMAP_DESCRIPTOR).take(stated / UNMAP_DESCRIPTOR).enumerate() {
        let at = (UNMAP_HEADER + index * UNMAP_DESCRIPTOR) as u16;
        let (lba, blocks) = (be(descriptor, 0, 8), be(descriptor, 8, 4));
        if lba > lun.blocks() || lba.checked_add(blocks).is_none_or(|end| end > lun.blocks()) {
            return Err(ScsiError::LbaOutOfRange { lba });
        }
        total = total.saturating_add(blocks);
        if total > UNMAP_BYTES_MAX / lun.block_bytes() {
            return Err(ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at + 8)));
        }
        if blocks > 0 {
            ranges.push((lun.sector_of(lba), lun.sectors_of(blocks)));
        }
    }
    if ranges.is_empty() {
        return good();
    }
    Ok(submit(lun, Op::Zero { ranges }, Then::Status))
}
