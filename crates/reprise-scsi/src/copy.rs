//! EXTENDED COPY (LID1) between units that the same nexus can reach, and RECEIVE COPY RESULTS (SPC-4, sections 6.4 to 6.23).
//!
//! A unit is named by its designator and looked up among the nexus's own LUNs only: a copy reaches nothing that READ and
//! WRITE of the same nexus do not reach (CVE-2020-28374), and is checked like them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use reprise_types::{InitiatorPort, SectorCount};

use crate::cdb::be;
use crate::control::Access;
use crate::device::{
    Action, Completion, DataOut, DataOutKind, Nexus, Op, Request, ScsiResponse, Submit, Then, invalid,
};
use crate::lun::{Lun, LunMap};
use crate::sense::{FieldPointer, ScsiError};

/// Target descriptors, at most.
const TARGETS_MAX: usize = 16;
/// Segment descriptors, at most.
const SEGMENTS_MAX: usize = 64;
/// Bytes of target and segment descriptors together, at most.
const DESCRIPTORS_MAX: usize = TARGETS_MAX * TARGET_LEN + SEGMENTS_MAX * SEGMENT_LEN;
/// Bytes of one segment, at most.
const SEGMENT_BYTES_MAX: u64 = 32 << 20;
/// Bytes that a copy reads and writes at a time.
const STEP_BYTES: u64 = 1 << 20;
/// Results kept for one nexus: what EXTENDED COPY tells, until it is asked for.
const RESULTS_MAX: usize = 16;

const HEADER_LEN: usize = 16;
/// Identification descriptor target descriptor (E4h).
const TARGET_LEN: usize = 32;
const TARGET_IDENTIFICATION: u8 = 0xe4;
/// Block device to block device segment descriptor (02h).
const SEGMENT_LEN: usize = 28;
const SEGMENT_BLOCK_TO_BLOCK: u8 = 0x02;

/// How a copy ended: its list identifier, segments done, and whether all of them were.
#[derive(Debug, Clone, Copy)]
struct CopyEnd {
    list: u8,
    segments: u16,
    bytes: u64,
    good: bool,
}

/// Ends of a nexus's copies that were not asked for yet, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct CopyResults(Arc<Mutex<VecDeque<CopyEnd>>>);

impl CopyResults {
    fn put(&self, end: CopyEnd) {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|other| other.list != end.list);
        if ends.len() >= RESULTS_MAX {
            ends.pop_front();
        }
        ends.push_back(end);
    }

    /// The end of a copy, which is forgotten if it is `told` now.
    fn look(&self, list: u8, told: bool) -> Option<CopyEnd> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ends.iter().position(|end| end.list == list)?;
        if told { ends.remove(at) } else { ends.get(at).copied() }
    }
}

/// A segment that is still to be copied.
#[derive(Debug, Clone)]
struct Segment {
    from: Arc<Lun>,
    to: Arc<Lun>,
    from_lba: u64,
    to_lba: u64,
    bytes: u64,
}

/// A copy under way.
#[derive(Debug, Clone)]
pub struct CopyJob {
    segments: VecDeque<Segment>,
    /// Bytes of the step under way, of the first segment; true while it is written.
    step: u64,
    writing: bool,
    end: CopyEnd,
    results: CopyResults,
    /// Report the end only on failure (LIST ID USAGE 11b).
    silent: bool,
}

impl PartialEq for CopyJob {
    fn eq(&self, other: &Self) -> bool {
        self.end.list == other.end.list && self.segments.len() == other.segments.len()
    }
}

impl Eq for CopyJob {}

/// EXTENDED COPY(LID1). No parameter list: nothing to copy.
pub(crate) fn extended_copy(nexus: &mut Nexus, request: &Request<'_>, lun: &Arc<Lun>) -> Result<Action, ScsiError> {
    let len = request.cdb.be(10, 4);
    if len == 0 {
        return Ok(Action::Respond(ScsiResponse::GOOD));
    }
    if len < HEADER_LEN as u64 || len > (HEADER_LEN + 4 * DESCRIPTORS_MAX) as u64 {
        return Err(ScsiError::ParameterListLength);
    }
    let kind =
        DataOutKind::Copy { luns: request.luns.clone(), port: request.port.clone(), results: nexus.copies().clone() };
    Ok(Action::DataOut(DataOut { lun: lun.clone(), kind, len: len as u32, buffer_len: len as u32 }))
}

fn wrong(at: usize) -> ScsiError {
    ScsiError::InvalidFieldInParameterList(FieldPointer::byte(at as u16))
}

/// The parameter list is complete.
pub(crate) fn finish(
    luns: &LunMap,
    port: &InitiatorPort,
    results: &CopyResults,
    list: &[u8],
) -> Result<Action, ScsiError> {
    if list.len() < HEADER_LEN {
        return Err(ScsiError::ParameterListLength);
    }
    let list_id = be(list, 0, 1) as u8;
    let usage = be(list, 1, 1) >> 3 & 3;
    // LIST ID USAGE 01b is reserved; 11b means that no list identifier is used, and it has to be 0.
    if usage == 1 || usage == 3 && list_id != 0 {
        return Err(wrong(if usage == 1 { 1 } else { 0 }));
    }
    let targets_len = be(list, 2, 2) as usize;
    let segments_len = usize::try_from(be(list, 8, 4)).unwrap_or(usize::MAX);
    if be(list, 12, 4) != 0 {
        return Err(ScsiError::InlineData);
    }
    if targets_len == 0 && segments_len == 0 {
        return Ok(Action::Respond(ScsiResponse::GOOD));
    }
    if targets_len.saturating_add(segments_len) > DESCRIPTORS_MAX {
        return Err(ScsiError::ParameterListLength);
    }
    if targets_len > TARGETS_MAX * TARGET_LEN {
        return Err(ScsiError::TooManyTargetDescriptors);
    }
    let behind = list.get(HEADER_LEN..).unwrap_or(&[]);
    let (targets, behind) = behind.split_at_checked(targets_len).ok_or(ScsiError::ParameterListLength)?;
    let segments = behind.get(..segments_len).ok_or(ScsiError::ParameterListLength)?;
    let targets = parse_targets(luns, targets)?;
    let segments = parse_segments(&targets, port, segments, HEADER_LEN + targets_len)?;
    let end = CopyEnd { list: list_id, segments: 0, bytes: 0, good: true };
    let job = CopyJob { segments, step: 0, writing: false, end, results: results.clone(), silent: usage == 3 };
    Ok(Box::new(job).go_on())
}

fn parse_targets(luns: &LunMap, targets: &[u8]) -> Result<Vec<Option<Arc<Lun>>>, ScsiError> {
    if !targets.len().is_multiple_of(TARGET_LEN) {
        return Err(wrong(2));
    }
    let found = targets.chunks_exact(TARGET_LEN).map(|target| {
        if target.first() != Some(&TARGET_IDENTIFICATION) {
            return Err(ScsiError::TargetDescriptorType);
        }
        // No NUL device, a disk, and a designator of the unit: NAA in binary. A designator leaves nothing for LU ID TYPE to
        // say: SPC-4 has it ignored.
        let naa = be(target, 1, 1) & 0x20 == 0
            && be(target, 4, 1) & 0x0f == 1
            && be(target, 5, 1) & 0x3f == 3
            && be(target, 1, 1) & 0x1f == 0;
        let len = be(target, 7, 1) as usize;
        let name = target.get(8..8 + len.min(20)).unwrap_or(&[]);
        let of_unit = |lun: &&Arc<Lun>| naa && lun.naa.as_bytes() == name && len == name.len();
        let unit = luns.iter().map(|(_, lun)| lun).find(of_unit).cloned();
        let block = be(target, 29, 3);
        Ok(unit.filter(|lun| block == 0 || block == lun.block_bytes()))
    });
    found.collect()
}

fn parse_segments(
    targets: &[Option<Arc<Lun>>],
    port: &InitiatorPort,
    list: &[u8],
    base: usize,
) -> Result<VecDeque<Segment>, ScsiError> {
    let mut segments = VecDeque::new();
    let mut at = 0;
    while at < list.len() {
        if segments.len() >= SEGMENTS_MAX {
            return Err(ScsiError::TooManySegmentDescriptors);
        }
        let segment = list.get(at..).unwrap_or(&[]);
        if segment.first() != Some(&SEGMENT_BLOCK_TO_BLOCK) {
            return Err(ScsiError::SegmentDescriptorType);
        }
        if segment.len() < SEGMENT_LEN {
            return Err(ScsiError::ParameterListLength);
        }
        if be(segment, 2, 2) as usize != SEGMENT_LEN - 4 {
            return Err(wrong(base + at + 2));
        }
        let unit = |field: usize| {
            let found = targets.get(be(segment, field, 2) as usize).ok_or(ScsiError::CopyUnreachable)?;
            found.clone().ok_or(ScsiError::CopyUnreachable)
        };
        let (from, to) = (unit(4)?, unit(6)?);
        // DC: the number counts blocks of the destination.
        let block = if be(segment, 1, 1) & 0x02 != 0 { to.block_bytes() } else { from.block_bytes() };
        let bytes = be(segment, 10, 2) * block;
        if bytes > SEGMENT_BYTES_MAX
            || !bytes.is_multiple_of(from.block_bytes())
            || !bytes.is_multiple_of(to.block_bytes())
        {
            return Err(wrong(base + at + 10));
        }
        let (from_lba, to_lba) = (be(segment, 12, 8), be(segment, 20, 8));
        for (lun, lba) in [(&from, from_lba), (&to, to_lba)] {
            if lba.checked_add(bytes / lun.block_bytes()).is_none_or(|end| end > lun.blocks()) {
                return Err(ScsiError::CopyOutOfRange { lba });
            }
            if let Some(cause) = lun.not_ready {
                return Err(ScsiError::NotReady(cause));
            }
        }
        from.control.check(port, Access::Read, false)?;
        to.control.check(port, Access::Change, false)?;
        if to.is_write_protected() {
            return Err(ScsiError::WriteProtected);
        }
        segments.push_back(Segment { from, to, from_lba, to_lba, bytes });
        at += SEGMENT_LEN;
    }
    Ok(segments)
}

impl CopyJob {
    /// The next read, or the answer.
    fn go_on(mut self: Box<Self>) -> Action {
        while self.segments.pop_front_if(|segment| segment.bytes == 0).is_some() {
            self.end.segments = self.end.segments.saturating_add(1);
        }
        let Some(segment) = self.segments.front() else {
            if !self.silent {
                self.results.put(self.end);
            }
            return Action::Respond(ScsiResponse::GOOD);
        };
        self.step = segment.bytes.min(STEP_BYTES);
        self.writing = false;
        let (volume, sector) = (segment.from.volume, segment.from.sector_of(segment.from_lba));
        let sectors = SectorCount::from_raw(self.step / reprise_types::SECTOR_SIZE);
        Action::Submit(Submit { volume, op: Op::Read { sector, sectors }, then: Then::Copy(self) })
    }

    fn failed(mut self, error: &ScsiError) -> Action {
        self.end.good = false;
        self.results.put(self.end);
        let error =
            if matches!(error, ScsiError::Fenced | ScsiError::NotReady(_)) { *error } else { ScsiError::CopyFailed };
        Action::Respond(ScsiResponse::error(&error))
    }

    /// What follows from a read or a write that ended.
    pub(crate) fn step(mut self: Box<Self>, completion: Completion) -> Action {
        let data = match completion {
            Completion::Failed(error) => return self.failed(&error),
            Completion::Done if self.writing => return self.written(),
            Completion::Data(data) => data,
            Completion::DataParts(parts) => joined(parts),
            Completion::Done | Completion::Busy | Completion::Mapped(_) => return self.failed(&ScsiError::Internal),
        };
        let Some(segment) = self.segments.front().filter(|_| data.len() as u64 == self.step && !self.writing) else {
            return self.failed(&ScsiError::Internal);
        };
        let (volume, sector) = (segment.to.volume, segment.to.sector_of(segment.to_lba));
        self.writing = true;
        Action::Submit(Submit { volume, op: Op::Write { sector, data, fua: false }, then: Then::Copy(self) })
    }

    fn written(mut self: Box<Self>) -> Action {
        let step = self.step;
        self.end.bytes += step;
        if let Some(segment) = self.segments.front_mut() {
            segment.from_lba += step / segment.from.block_bytes();
            segment.to_lba += step / segment.to.block_bytes();
            segment.bytes -= step;
        }
        self.go_on()
    }
}

fn joined(parts: Vec<Bytes>) -> Bytes {
    let mut parts = parts.into_iter();
    let (Some(first), rest) = (parts.next(), parts.as_slice()) else { return Bytes::new() };
    if rest.is_empty() {
        return first;
    }
    let mut out = BytesMut::from(&first[..]);
    rest.iter().for_each(|part| out.extend_from_slice(part));
    out.freeze()
}

/// Parameter data of RECEIVE COPY STATUS(LID1).
const COPY_STATUS_LEN: u64 = 12;

/// RECEIVE COPY STATUS(LID1): told once in full, for a copy that this nexus asked for.
pub(crate) fn copy_status(nexus: &mut Nexus, request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let allocation = request.cdb.be(10, 4);
    let end = nexus.copies().look(request.cdb.byte(2), allocation >= COPY_STATUS_LEN).ok_or(invalid(2))?;
    let mut out = 8u32.to_be_bytes().to_vec();
    // COPY MANAGER STATUS 1: ended without errors, 2: with errors.
    out.push(if end.good { 1 } else { 2 });
    out.extend_from_slice(&end.segments.to_be_bytes());
    // TRANSFER COUNT UNITS 01h: KiB.
    out.push(0x01);
    out.extend_from_slice(&u32::try_from(end.bytes >> 10).unwrap_or(u32::MAX).to_be_bytes());
    Ok(Action::Respond(ScsiResponse::data(out, allocation)))
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(crate) fn operating_parameters(request: &Request<'_>, _: &Arc<Lun>) -> Result<Action, ScsiError> {
    let mut out = 0u32.to_be_bytes().to_vec();
    out.extend_from_slice(&[0x01, 0, 0, 0]); // SNLID: copies without list identifier
    out.extend_from_slice(&(TARGETS_MAX as u16).to_be_bytes());
    out.extend_from_slice(&(SEGMENTS_MAX as u16).to_be_bytes());
    out.extend_from_slice(&(DESCRIPTORS_MAX as u32).to_be_bytes());
    out.extend_from_slice(&(SEGMENT_BYTES_MAX as u32).to_be_bytes());
    out.resize(34, 0); // no inline data, no held data, no streams
    out.extend_from_slice(&(RESULTS_MAX as u16).to_be_bytes()); // TOTAL CONCURRENT COPIES
    out.extend_from_slice(&[RESULTS_MAX as u8, 9, 0, 0]); // granularity: 512 bytes
    out.resize(43, 0);
    out.extend_from_slice(&[2, SEGMENT_BLOCK_TO_BLOCK, TARGET_IDENTIFICATION]);
    let len = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&len.to_be_bytes());
    Ok(Action::Respond(ScsiResponse::data(out, request.cdb.be(10, 4))))
}
