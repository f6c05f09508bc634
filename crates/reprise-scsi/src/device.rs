//! From CDB to [`Action`], and from the backend's completion to the answer.

use std::sync::Arc;

use bytes::Bytes;
use reprise_types::{InitiatorPort, PoolBuf, ReservationType, Sector, SectorCount, VolumeId};

use crate::block;
use crate::cdb::Cdb;
use crate::control::{Change, Sanitize};
use crate::copy::{self, CopyJob, CopyResults};
use crate::lun::{Lun, LunMap, LunNumber};
use crate::mode;
use crate::opcode::{self, Handler, Row};
use crate::report;
use crate::reserve;
use crate::sanitize;
use crate::sense::{FieldPointer, ScsiError, Sense, UnitAttention};

/// SCSI status codes (SAM-5, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// GOOD
    Good = 0x00,
    /// CHECK CONDITION
    CheckCondition = 0x02,
    /// CONDITION MET
    ConditionMet = 0x04,
    /// BUSY
    Busy = 0x08,
    /// RESERVATION CONFLICT
    ReservationConflict = 0x18,
    /// TASK SET FULL
    TaskSetFull = 0x28,
}

/// Data-in of an answer. Payload read from the backend is carried along without a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    Empty,
    /// One run of bytes.
    One(Bytes),
    /// Several runs, one after the other.
    Parts(Vec<Bytes>),
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.parts().iter().map(|part| part.len() as u64).sum()
    }

    /// True without bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs.
    pub fn parts(&self) -> &[Bytes] {
        match self {
            Self::Empty => &[],
            Self::One(bytes) => std::slice::from_ref(bytes),
            Self::Parts(parts) => parts,
        }
    }

    /// Offset of the first byte that differs from `other`, or the shorter length if one is a prefix of the other.
    fn first_difference(&self, other: &[u8]) -> Option<u64> {
        let mut done = 0usize;
        for part in self.parts() {
            let theirs = other.get(done..).unwrap_or(&[]);
            let common = part.len().min(theirs.len());
            if part.get(..common) != theirs.get(..common) {
                let at = part.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(common);
                return Some((done + at) as u64);
            }
            done += common;
            if common < part.len() {
                return Some(done as u64);
            }
        }
        (done < other.len()).then_some(done as u64)
    }
}

/// The end of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiResponse {
    /// SCSI status.
    pub status: Status,
    /// Sense data; present exactly with CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Data-in. Its length is what the command wanted to transfer: the transport takes the residual from it.
    pub data: Payload,
}

impl ScsiResponse {
    /// GOOD without data.
    pub const GOOD: Self = Self { status: Status::Good, sense: None, data: Payload::Empty };

    /// GOOD with data-in, shortened to the ALLOCATION LENGTH.
    pub fn data(mut data: Vec<u8>, allocation_length: u64) -> Self {
        data.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
        Self { status: Status::Good, sense: None, data: Payload::One(Bytes::from(data)) }
    }

    /// CHECK CONDITION, or the status that the error has of its own.
    pub fn error(error: &ScsiError) -> Self {
        if matches!(error, ScsiError::ReservationConflict) {
            return Self::status(Status::ReservationConflict);
        }
        Self { status: Status::CheckCondition, sense: Some(Sense::for_error(error)), data: Payload::Empty }
    }

    /// A status without data or sense.
    pub fn status(status: Status) -> Self {
        Self { status, sense: None, data: Payload::Empty }
    }
}

/// What the owner of a volume does for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Reads sectors; completes with [`Completion::Data`] or [`Completion::DataParts`] of exactly that length.
    Read {
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
    },
    /// Writes whole sectors.
    Write {
        /// First sector.
        sector: Sector,
        /// Content; a multiple of 512 bytes.
        data: Bytes,
        /// The host asked for FORCE UNIT ACCESS. Everything acknowledged is durable anyway.
        fua: bool,
    },
    /// Makes ranges read as zero, in one step.
    Zero {
        /// First sector and length of each, none of them empty.
        ranges: Vec<(Sector, SectorCount)>,
    },
    /// Writes if the present content equals `verify`, atomically.
    CompareAndWrite {
        /// First sector.
        sector: Sector,
        /// Expected content.
        verify: Bytes,
        /// Next content, of the same length.
        write: Bytes,
    },
    /// Replaces the present content by its bitwise OR with these bytes, atomically.
    OrWrite {
        /// First sector.
        sector: Sector,
        /// A multiple of 512 bytes.
        data: Bytes,
    },
    /// Everything acknowledged before is durable when this completes.
    Flush,
    /// Says which sectors are mapped; completes with [`Completion::Mapped`].
    LbaStatus {
        /// First sector.
        sector: Sector,
        /// Length.
        sectors: SectorCount,
        /// Runs wanted, at most.
        runs_max: usize,
    },
    /// Overwrites the whole volume. The unit is [`Sanitize::Running`] until that is done, whatever becomes of the task.
    Overwrite {
        /// A pattern of whole blocks, to be written again and again.
        pattern: Bytes,
        /// IMMED: completes when it has begun.
        immediate: bool,
    },
    /// EXIT FAILURE MODE: [`Sanitize::Failed`] ends.
    ExitFailureMode,
    /// Changes what is true of the unit for all nexuses; durable, where it has to last, before it completes.
    Control(Box<Change>),
}

/// A run of sectors that are all mapped or all not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedRun {
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub sectors: SectorCount,
    /// False where they hold nothing and read as zero.
    pub mapped: bool,
}

impl Op {
    /// True where the operation changes the volume or the unit.
    pub fn changes_content(&self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::Zero { .. }
                | Self::CompareAndWrite { .. }
                | Self::OrWrite { .. }
                | Self::Control(_)
        )
    }
}

/// How a completed [`Op`] becomes an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Then {
    /// The status alone.
    Status,
    /// The bytes read are data-in.
    DataIn {
        /// Bytes expected.
        len: u64,
    },
    /// The bytes read only had to be readable (VERIFY with BYTCHK 0).
    Readable {
        /// Bytes expected.
        len: u64,
    },
    /// The bytes read have to equal these (VERIFY with BYTCHK 1).
    Equal(Bytes),
    /// The bytes read have to equal this block, repeated (VERIFY with BYTCHK 3).
    EqualBlocks {
        /// The block.
        block: Bytes,
        /// Bytes expected.
        len: u64,
    },
    /// The mapped runs become the parameter data of GET LBA STATUS.
    LbaStatus {
        /// The unit.
        lun: Arc<Lun>,
        /// First block asked for.
        lba: u64,
        /// ALLOCATION LENGTH.
        allocation: u64,
    },
    /// EXTENDED COPY goes on.
    Copy(Box<CopyJob>),
}

/// An operation for the backend, with what to do after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// The volume it is for.
    pub volume: VolumeId,
    /// What to do.
    pub op: Op,
    /// What becomes of the result.
    pub then: Then,
}

/// Result of an [`Op`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Done, no data.
    Done,
    /// Bytes read, in one run.
    Data(Bytes),
    /// Bytes read, in several runs.
    DataParts(Vec<Bytes>),
    /// What is mapped, in ascending order and without gaps from the first sector asked for.
    Mapped(Vec<MappedRun>),
    /// Not done; the error tells the host.
    Failed(ScsiError),
    /// Not done, and the host may try again at once.
    Busy,
}

impl Then {
    /// What follows from a completed operation: the answer, or the next operation of a command that has several. A result
    /// of the wrong kind or length is a fault of the backend and becomes ABORTED COMMAND, INTERNAL TARGET FAILURE.
    pub fn complete(self, completion: Completion) -> Action {
        let (this, data) = match (self, completion) {
            (Self::Copy(job), completion) => return job.step(completion),
            (_, Completion::Failed(error)) => return Action::Respond(ScsiResponse::error(&error)),
            (_, Completion::Busy) => return Action::Respond(ScsiResponse::status(Status::Busy)),
            (Self::LbaStatus { lun, lba, allocation }, Completion::Mapped(runs)) => {
                return Action::Respond(report::lba_status(&lun, lba, &runs, allocation));
            }
            (this, Completion::Done) => (this, Payload::Empty),
            (this, Completion::Data(bytes)) => (this, Payload::One(bytes)),
            (this, Completion::DataParts(parts)) => (this, Payload::Parts(parts)),
            (_, Completion::Mapped(_)) => return Action::Respond(ScsiResponse::error(&ScsiError::Internal)),
        };
        Action::Respond(match this {
            Self::Status => ScsiResponse::GOOD,
            Self::DataIn { len } if data.len() == len => ScsiResponse { status: Status::Good, sense: None, data },
            Self::Readable { len } if data.len() == len => ScsiResponse::GOOD,
            Self::Equal(wanted) => match data.first_difference(&wanted) {
                None => ScsiResponse::GOOD,
                Some(offset) => ScsiResponse::error(&ScsiError::Miscompare { offset }),
            },
            Self::EqualBlocks { block, len } if data.len() == len => block::equal_blocks(&data, &block),
            _ => ScsiResponse::error(&ScsiError::Internal),
        })
    }
}

/// What a CDB asks for.
#[derive(Debug)]
pub enum Action {
    /// Answer at once.
    Respond(ScsiResponse),
    /// Hand to the backend.
    Submit(Submit),
    /// Collect data-out first.
    DataOut(DataOut),
}

/// What becomes of data-out.
#[derive(Debug, Clone)]
pub(crate) enum DataOutKind {
    Write { lba: u64, fua: bool, atomic: bool },
    OrWrite { lba: u64 },
    Verify { lba: u64 },
    VerifyBlocks { lba: u64, blocks: u64 },
    CompareAndWrite { lba: u64, blocks: u64 },
    WriteSame { lba: u64, blocks: u64, unmap: bool },
    Unmap,
    ModeSelect { long: bool, save: bool, port: InitiatorPort },
    ReserveOut { port: InitiatorPort, relative_port: u16, action: u8, kind: ReservationType },
    Copy { luns: LunMap, port: InitiatorPort, results: CopyResults },
    Sanitize { immediate: bool },
}

/// A command that waits for its data-out.
#[derive(Debug)]
pub struct DataOut {
    pub(crate) lun: Arc<Lun>,
    pub(crate) kind: DataOutKind,
    pub(crate) len: u32,
    pub(crate) buffer_len: u32,
}

impl DataOut {
    /// Bytes the command transfers; never 0.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// A command without data-out never gets here.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes the buffer must have: more than [`Self::len`] where the data are expanded in place (WRITE SAME).
    pub fn buffer_len(&self) -> u32 {
        self.buffer_len
    }

    /// True if the command can be carried out with this many bytes; it is refused with [`ScsiError::DataLength`]
    /// otherwise, before any data move. GOOD means that all of the command was done, so less than [`Self::len`] is not
    /// enough. Plain writes alone may be cut between blocks, with the residual to tell of it: initiators and
    /// conformance suites count on that. More is left where it is, except where a different length means that the
    /// initiator and we do not mean the same blocks.
    pub fn accepts(&self, offered: u32) -> bool {
        match self.kind {
            DataOutKind::CompareAndWrite { .. } | DataOutKind::WriteSame { .. } | DataOutKind::ReserveOut { .. } => {
                offered == self.len
            }
            DataOutKind::Write { atomic: false, .. } => {
                offered >= self.len || offered.is_multiple_of(self.lun.block_size.bytes())
            }
            _ => offered >= self.len,
        }
    }

    /// The volume written to.
    pub fn volume(&self) -> VolumeId {
        self.lun.volume
    }

    /// Carries on with the data. `received` is less than [`Self::len`] only if the initiator offered less; a number
    /// that the command does not [accept](Self::accepts) changes nothing.
    pub fn finish(self, buf: PoolBuf, received: usize) -> Action {
        let received = received.min(buf.len()).min(self.len as usize);
        if !self.accepts(received as u32) {
            return Action::Respond(ScsiResponse::error(&ScsiError::DataLength));
        }
        let list = buf.get(..received).unwrap_or(&[]);
        let result = match &self.kind {
            DataOutKind::ModeSelect { long, save, port } => mode::finish_select(&self.lun, list, *long, *save, port),
            DataOutKind::ReserveOut { port, relative_port, action, kind } => {
                reserve::finish_out(&self.lun, list, port, *relative_port, *action, *kind)
            }
            DataOutKind::Copy { luns, port, results } => copy::finish(luns, port, results, list),
            DataOutKind::Sanitize { immediate } => sanitize::finish_overwrite(&self.lun, list, *immediate),
            _ => block::finish(&self, buf, received),
        };
        result.unwrap_or_else(|error| Action::Respond(ScsiResponse::error(&error)))
    }
}

/// A checked command on its way to its handler.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub(crate) cdb: Cdb,
    pub(crate) row: &'static Row,
    pub(crate) luns: &'a LunMap,
    pub(crate) number: Option<LunNumber>,
    pub(crate) port: &'a InitiatorPort,
}

impl Request<'_> {
    pub(crate) fn lba(&self) -> u64 {
        self.row.lba.map_or(0, |f| match self.row.cdb_len() {
            6 => self.cdb.be(1, 3) & 0x1f_ffff,
            _ => self.cdb.be(f.offset.into(), f.len.into()),
        })
    }

    /// Number of blocks; 0 means 256 in a CDB of 6 bytes.
    pub(crate) fn blocks(&self) -> u64 {
        self.row.blocks.map_or(0, |f| match (self.row.cdb_len(), self.cdb.be(f.offset.into(), f.len.into())) {
            (6, 0) => 256,
            (_, blocks) => blocks,
        })
    }

    /// INVALID FIELD IN CDB at the number of blocks.
    pub(crate) fn blocks_invalid(&self) -> ScsiError {
        invalid(self.row.blocks.map_or(0, |f| f.offset))
    }

    fn check_usage(&self) -> Result<(), ScsiError> {
        for (offset, usage) in self.row.usage.iter().enumerate().skip(1) {
            let known = match self.row.service_action {
                Some(_) if offset == 1 => 0x1f | *usage,
                _ => *usage,
            };
            let wrong = self.cdb.byte(offset) & !known;
            if wrong != 0 {
                let bit = 7 - wrong.leading_zeros() as u8;
                return Err(ScsiError::InvalidFieldInCdb(FieldPointer::bit(offset as u16, bit)));
            }
        }
        Ok(())
    }

    fn check_range(&self, lun: &Lun) -> Result<(), ScsiError> {
        if self.row.lba.is_none() {
            return Ok(());
        }
        let lba = self.lba();
        let end = lba.checked_add(self.blocks());
        // An empty range may start at the last block at most, as SBC-3 has it for LBA OUT OF RANGE.
        if lba >= lun.blocks() || end.is_none_or(|end| end > lun.blocks()) {
            return Err(ScsiError::LbaOutOfRange { lba });
        }
        Ok(())
    }
}

/// INVALID FIELD IN CDB at a byte.
pub(crate) fn invalid(byte: u8) -> ScsiError {
    ScsiError::InvalidFieldInCdb(FieldPointer::byte(byte.into()))
}

/// What an I_T nexus (an iSCSI session) has yet to be told.
///
/// Holds at most one condition of each kind per unit, so it is bounded by the LUN map.
#[derive(Debug, Clone)]
pub struct Nexus {
    port: InitiatorPort,
    pending: Vec<(LunNumber, UnitAttention)>,
    copies: CopyResults,
}

impl Nexus {
    /// A nexus of this initiator port, with nothing pending.
    pub fn new(port: InitiatorPort) -> Self {
        Self { port, pending: Vec::new(), copies: CopyResults::default() }
    }

    /// The initiator port.
    pub fn port(&self) -> &InitiatorPort {
        &self.port
    }

    /// Results of its EXTENDED COPY commands.
    pub(crate) fn copies(&self) -> &CopyResults {
        &self.copies
    }

    /// Establishes a unit attention condition for one unit; a reset replaces what was pending.
    pub fn raise(&mut self, number: LunNumber, attention: UnitAttention) {
        use UnitAttention as U;
        if matches!(attention, U::PowerOn | U::TargetReset | U::LunReset | U::NexusLoss) {
            self.pending.retain(|(n, a)| *n != number || *a == U::CapacityChanged || *a == U::ReportedLunsChanged);
        }
        if !self.pending.contains(&(number, attention)) {
            self.pending.push((number, attention));
        }
    }

    /// Establishes a unit attention condition for every unit of a map.
    pub fn raise_all(&mut self, luns: &LunMap, attention: UnitAttention) {
        for (number, _) in luns.iter() {
            self.raise(number, attention);
        }
    }

    /// Notes what a changed LUN map means for hosts: units that came or went, capacities, identities.
    pub fn luns_replaced(&mut self, old: &LunMap, new: &LunMap) {
        let membership_changed = old.iter().any(|(n, _)| new.get(n).is_none())
            || new.iter().any(|(n, lun)| old.get(n).is_none_or(|before| before.volume != lun.volume));
        self.pending.retain(|(n, _)| new.get(*n).is_some());
        for (number, lun) in new.iter() {
            if membership_changed {
                self.raise(number, UnitAttention::ReportedLunsChanged);
            }
            let Some(before) = old.get(number) else { continue };
            if (before.sectors, before.block_size) != (lun.sectors, lun.block_size) {
                self.raise(number, UnitAttention::CapacityChanged);
            }
            if (&before.naa, &before.serial, &before.product) != (&lun.naa, &lun.serial, &lun.product) {
                self.raise(number, UnitAttention::InquiryChanged);
            }
            if (before.read_only, before.thin) != (lun.read_only, lun.thin) {
                self.raise(number, UnitAttention::ModeParametersChanged);
            }
        }
        if old.port().alua != new.port().alua {
            self.raise_all(new, UnitAttention::AluaStateChanged);
        }
    }

    /// Takes the oldest condition of a unit.
    pub(crate) fn take(&mut self, number: Option<LunNumber>) -> Option<UnitAttention> {
        let index = self.pending.iter().position(|(n, _)| Some(*n) == number)?;
        Some(self.pending.remove(index).1)
    }

    /// REPORT LUNS clears REPORTED LUNS DATA HAS CHANGED on every unit.
    pub(crate) fn clear(&mut self, attention: UnitAttention) {
        self.pending.retain(|(_, a)| *a != attention);
    }

    /// Treats one command. `lun` is the 8-byte LUN field as it stands in the command.
    pub fn start(&mut self, luns: &LunMap, lun: [u8; 8], cdb: &Cdb) -> Action {
        self.dispatch(luns, lun, cdb).unwrap_or_else(|error| Action::Respond(ScsiResponse::error(&error)))
    }

    fn dispatch(&mut self, luns: &LunMap, lun: [u8; 8], cdb: &Cdb) -> Result<Action, ScsiError> {
        let number = LunNumber::decode(lun);
        let unit = number.and_then(|n| luns.get(n));
        let row = find_row(cdb, unit);
        let needs_unit = row.as_ref().map_or(true, |row| !matches!(row.handler, Handler::Target(_)));
        if needs_unit && unit.is_none() {
            return Err(ScsiError::LunNotSupported);
        }
        let passes = row.as_ref().is_ok_and(|row| row.passes_attention);
        if !self.pending.is_empty()
            && !passes
            && let Some(attention) = self.take(number)
        {
            return Err(ScsiError::UnitAttention(attention));
        }
        let port = self.port.clone();
        let request = Request { cdb: *cdb, row: row?, luns, number, port: &port };
        request.check_usage()?;
        if let Some(unit) = unit {
            let sanitize = unit.control.sanitize();
            if sanitize != Sanitize::Idle && !request.row.passes_attention {
                request.row.check_sanitize(sanitize)?;
            }
            unit.control.check(&port, request.row.access, request.row.passes_reserve())?;
        }
        let unit = match (request.row.handler, unit) {
            (Handler::Target(handler), unit) => return handler(self, &request, unit),
            (_, None) => return Err(ScsiError::LunNotSupported),
            (_, Some(unit)) => unit,
        };
        if let (true, Some(cause)) = (request.row.medium, unit.not_ready) {
            return Err(ScsiError::NotReady(cause));
        }
        request.check_range(unit)?;
        if request.row.writes && unit.is_write_protected() {
            return Err(ScsiError::WriteProtected);
        }
        match request.row.handler {
            Handler::Unit(handler) => handler(&request, unit),
            Handler::Nexus(handler) => handler(self, &request, unit),
            Handler::Target(handler) => handler(self, &request, Some(unit)),
        }
    }
}

/// The row of a CDB that the unit offers.
fn find_row(cdb: &Cdb, unit: Option<&Arc<Lun>>) -> Result<&'static Row, ScsiError> {
    let mut known = false;
    for row in opcode::rows(cdb.opcode()) {
        if unit.is_some_and(|lun| !(row.enabled)(lun)) {
            continue;
        }
        known = true;
        if row.service_action.is_none_or(|action| action == cdb.service_action()) {
            return Ok(row);
        }
    }
    if known { Err(invalid(1)) } else { Err(ScsiError::InvalidOpcode { opcode: cdb.opcode() }) }
}

/// Entry point for a fuzzer: the first byte selects a unit, then 16 bytes of CDB, the rest is data-out.
pub fn fuzz_cdb(input: &[u8]) {
    let Some((select, rest)) = input.split_first() else { return };
    let port = crate::TargetPort {
        target_name: String::from("iqn.2026-01.invalid.example:fuzz"),
        group: 1,
        relative_port: 1,
        alua: crate::AluaState::default(),
        peer: None,
    };
    let size = if select & 1 == 0 { crate::BlockSize::B512 } else { crate::BlockSize::B4096 };
    let mut lun = Lun::new(VolumeId::from_raw([7; 16]), SectorCount::from_raw(1 << 16), size);
    lun.thin = select & 2 != 0;
    lun.read_only = select & 4 != 0;
    let Ok(luns) = LunMap::new(port, [(0, lun)]) else { return };
    let (cdb, data) = rest.split_at(rest.len().min(16));
    let mut nexus = Nexus::new(InitiatorPort::new("iqn.2026-01.invalid.example:fuzz", [0; 6]));
    if let Action::DataOut(out) = nexus.start(&luns, [0; 8], &Cdb::new(cdb)) {
        let mut buf = PoolBuf::unpooled(out.buffer_len() as usize);
        let len = data.len().min(out.len() as usize);
        for (to, from) in buf.iter_mut().zip(data.iter().take(len)) {
            *to = *from;
        }
        let _ = out.finish(buf, len);
    }
}
