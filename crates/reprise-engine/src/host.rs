//! The feed of a source: hosts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::batch::{RECORD_PAYLOAD_MAX, ZERO_SECTORS_MAX};
use reprise_journal::{DiskPiece, PieceSource};
use reprise_types::{Extent, PoolBuf, RecordKind, Role, Sector, SectorCount, Seq, VolumeSlot};

use crate::core::{Open, Part, ReadName};
use crate::effect::{Effect, HostError, HostOp, HostReply, Io, IoFault, Notice, Token};
use crate::group::Group;
use crate::peer::CopyRead;
use crate::planted::{Planted, has};
use crate::verify::RegionRead;

/// Sectors of zeros that are handed out without allocating.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which bytes a piece's answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bit {
    Home,
    Header,
    Payload,
}

/// Names a piece of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PieceId {
    read: ReadName,
    index: usize,
    bit: Bit,
}

#[derive(Debug)]
enum PieceState {
    Ready(Vec<Bytes>),
    Home(Sector),
    Disk { piece: DiskPiece, sector: Sector, header: Option<Bytes>, payload: Option<Bytes> },
}

/// Whom the bytes are for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reader {
    Host(Io),
    Compare,
    Copy(CopyRead),
    /// At the moment that is held for a comparison.
    Verify(RegionRead),
}

#[derive(Debug)]
struct Read {
    reader: Reader,
    volume: VolumeSlot,
    pieces: Vec<PieceState>,
    missing: usize,
    newest: Seq,
    failed: Option<HostError>,
}

#[derive(Debug)]
struct Compare {
    io: Io,
    extent: Extent,
    /// What has to be there; none where the data is merged into it by OR.
    verify: Option<Bytes>,
    data: Bytes,
}

/// What hosts wait for.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Answers that wait until a record is durable, in Seq order.
    acks: VecDeque<(Seq, Io)>,
    /// Reads by name, which is also that of the open read.
    reads: BTreeMap<ReadName, Read>,
    /// Pieces of reads that are being read.
    pieces: Open<PieceId>,
    /// Reads that have all bytes and wait until what they saw is durable.
    seen: Vec<(Seq, ReadName)>,
    /// COMPARE AND WRITE and ORWRITE under way, by the name of their read; each holds its range.
    compares: BTreeMap<ReadName, Compare>,
    /// Operations that wait for such a range, in order.
    blocked: VecDeque<(Io, HostOp)>,
    /// Volumes that hosts get no more of.
    pub(crate) retired: Vec<VolumeSlot>,
}

fn overlaps(a: &Extent, b: &Extent) -> bool {
    a.volume == b.volume && a.sector < b.end() && b.sector < a.end()
}

/// What an operation changes.
fn changes(op: &HostOp) -> impl Iterator<Item = Extent> + '_ {
    let (one, ranges) = match op {
        HostOp::Read(_) | HostOp::Flush | HostOp::Unit { .. } => (None, None),
        HostOp::Write { extent, .. } | HostOp::CompareAndWrite { extent, .. } | HostOp::OrWrite { extent, .. } => {
            (Some(*extent), None)
        }
        HostOp::Zero { volume, ranges } => {
            let extent = |(sector, sectors): &(Sector, SectorCount)| Extent {
                volume: *volume,
                sector: *sector,
                sectors: *sectors,
            };
            (None, Some(ranges.iter().map(extent)))
        }
    };
    one.into_iter().chain(ranges.into_iter().flatten())
}

fn touches(op: &HostOp, extent: &Extent) -> bool {
    changes(op).any(|own| overlaps(&own, extent))
}

impl Group {
    pub(crate) fn host_op(&mut self, io: Io, op: HostOp) {
        if let Some(error) = self.host_refusal(&op) {
            self.core.fx.push(Effect::Reply(io, Err(error)));
            return;
        }
        let held = self.host.compares.values().any(|c| touches(&op, &c.extent)) && !has(Planted::CompareHoldsNothing);
        // Whatever changes sectors keeps its place before what comes later for them, zeros too: what is answered meanwhile
        // would be gone when they have their turn.
        let passed = |waiting: &HostOp| matches!(waiting, HostOp::Zero { .. }) && has(Planted::WaitingZerosPassed);
        let behind = self
            .host
            .blocked
            .iter()
            .any(|(_, waiting)| !passed(waiting) && changes(waiting).any(|extent| touches(&op, &extent)));
        if held || behind {
            self.host.blocked.push_back((io, op));
            return;
        }
        match op {
            HostOp::Read(extent) => {
                self.core.stats.reads += 1;
                self.core.stats.bytes_read += extent.sectors.bytes().get();
                self.start_read(Reader::Host(io), extent);
            }
            HostOp::Write { extent, data } => {
                self.core.stats.writes += 1;
                let seq = self.append_write(extent, &data);
                self.host.acks.push_back((seq, io));
                if has(Planted::AckBeforeSync) && self.core.journal.undurable_bytes() < 8 << 10 {
                    self.host_durable(seq);
                }
            }
            HostOp::Zero { volume, ranges } => {
                self.core.stats.writes += 1;
                let mut seq = self.core.journal.written();
                for (sector, sectors) in ranges {
                    seq = self.append_zero(Extent { volume, sector, sectors });
                }
                self.host.acks.push_back((seq, io));
                self.host_durable(self.core.journal.durable().seq);
            }
            HostOp::CompareAndWrite { extent, verify, data } => {
                let read = self.start_read(Reader::Compare, extent);
                self.host.compares.insert(read, Compare { io, extent, verify: Some(verify), data });
                self.finish_read(read);
            }
            HostOp::OrWrite { extent, data } => {
                let read = self.start_read(Reader::Compare, extent);
                self.host.compares.insert(read, Compare { io, extent, verify: None, data });
                self.finish_read(read);
            }
            HostOp::Unit { volume, state } => self.host_unit(io, volume, state),
            HostOp::Flush => {
                self.host.acks.push_back((self.core.journal.written(), io));
                self.host_durable(self.core.journal.durable().seq);
            }
        }
    }

    fn host_refusal(&self, op: &HostOp) -> Option<HostError> {
        if self.core.is_fenced() {
            return Some(HostError::Fenced);
        }
        if self.core.meta.role != Role::Source {
            return Some(HostError::NotSource);
        }
        let inside = |e: &Extent| {
            let sectors = self.served_sectors(e.volume).filter(|_| !self.is_retired(e.volume));
            let end = e.sector.checked_add(e.sectors);
            sectors.zip(end).is_some_and(|(sectors, end)| end.get() <= sectors.get())
        };
        let fits = match op {
            HostOp::Flush => true,
            HostOp::Unit { volume, .. } => self.core.meta.volume(*volume).is_some(),
            HostOp::Read(e) => inside(e),
            HostOp::Write { extent, data } | HostOp::OrWrite { extent, data } => {
                inside(extent) && extent.sectors.bytes().get() == data.len() as u64
            }
            HostOp::CompareAndWrite { extent, verify, data } => {
                let len = extent.sectors.bytes().get();
                inside(extent) && len == data.len() as u64 && len == verify.len() as u64
            }
            HostOp::Zero { volume, ranges } => {
                ranges.iter().all(|(s, n)| inside(&Extent { volume: *volume, sector: *s, sectors: *n }))
            }
        };
        (!fits).then_some(HostError::Range)
    }

    fn append_write(&mut self, extent: Extent, data: &Bytes) -> Seq {
        let mut seq = self.core.journal.written();
        for at in (0..data.len()).step_by(RECORD_PAYLOAD_MAX) {
            let payload = data.slice(at..(at + RECORD_PAYLOAD_MAX).min(data.len()));
            let part = Extent {
                sector: Sector::from_raw(extent.sector.get() + at as u64 / 512),
                sectors: SectorCount::from_raw(payload.len() as u64 / 512),
                ..extent
            };
            seq = self.core.append(RecordKind::Write, part, payload);
        }
        seq
    }

    fn append_zero(&mut self, extent: Extent) -> Seq {
        let (mut at, mut left) = (extent.sector.get(), extent.sectors.get());
        let mut seq = self.core.journal.written();
        while left > 0 {
            let count = left.min(ZERO_SECTORS_MAX);
            let part = Extent { sector: Sector::from_raw(at), sectors: SectorCount::from_raw(count), ..extent };
            seq = self.core.append(RecordKind::Zero, part, Bytes::new());
            at += count;
            left -= count;
        }
        seq
    }

    /// Everything up to `durable` is durable: answers that waited for it go out, in order.
    pub(crate) fn host_durable(&mut self, durable: Seq) {
        while let Some((_, io)) = self.host.acks.pop_front_if(|(seq, _)| *seq <= durable) {
            self.core.fx.push(Effect::Reply(io, Ok(HostReply::Done)));
        }
        if self.host.seen.iter().any(|(seq, _)| *seq <= durable) {
            let (ready, waiting) =
                std::mem::take(&mut self.host.seen).into_iter().partition(|(seq, _)| *seq <= durable);
            self.host.seen = waiting;
            let ready: Vec<(Seq, ReadName)> = ready;
            ready.into_iter().for_each(|(_, read)| self.deliver_read(read));
        }
    }

    pub(crate) fn host_fail_all(&mut self, error: HostError) {
        let retired = self.host.retired.clone();
        let host = std::mem::replace(&mut self.host, Host { retired, ..Host::default() });
        let acks = host.acks.into_iter().map(|(_, io)| io);
        let blocked = host.blocked.into_iter().map(|(io, _)| io);
        let compares = host.compares.into_values().map(|c| c.io);
        let units = self.units_fail();
        let reads = host.reads.values().filter_map(|r| match r.reader {
            Reader::Host(io) => Some(io),
            Reader::Compare | Reader::Copy(_) | Reader::Verify(_) => None,
        });
        for io in acks.chain(blocked).chain(compares).chain(reads).chain(units) {
            self.core.fx.push(Effect::Reply(io, Err(error)));
        }
        host.reads.into_keys().for_each(|read| self.core.read_closed(read));
    }

    /// Begins a read; gives its name. Hosts see the newest content and are answered when it is durable. A copied region
    /// is what is durable at this moment: records behind it wait for the region, so it must not wait for them, which in
    /// a full cache become durable only when the peer has got further.
    pub(crate) fn start_read(&mut self, reader: Reader, extent: Extent) -> ReadName {
        let mut plan = match reader {
            Reader::Verify(_) => self.core.journal.plan_with(self.verify.index(), extent),
            _ => self.core.journal.plan_read(extent),
        };
        let durable = self.core.journal.durable().seq;
        if matches!(reader, Reader::Copy(_)) && plan.newest > durable && !has(Planted::CopyReadsNewest) {
            let applied = self.core.applied();
            plan = self.core.journal.plan_durable(applied, extent);
        }
        let name = self.core.read_opened();
        let mut pieces = Vec::with_capacity(plan.pieces.len());
        let mut missing = 0;
        for (index, piece) in plan.pieces.into_iter().enumerate() {
            let part = Extent { sector: piece.sector, sectors: piece.sectors, ..extent };
            let mut ask = |bit, effect: &dyn Fn(Token) -> Effect| {
                let token = self.core.fx.ask(Part::Reads, effect);
                self.host.pieces.insert(token, PieceId { read: name, index, bit });
            };
            pieces.push(match piece.source {
                PieceSource::Ram(bytes) => PieceState::Ready(vec![bytes]),
                PieceSource::Zero => PieceState::Ready(zeros(piece.sectors)),
                PieceSource::Home => {
                    missing += 1;
                    ask(Bit::Home, &|token| Effect::ReadHome { token, extent: part });
                    PieceState::Home(piece.sector)
                }
                PieceSource::Disk(disk) => {
                    missing += 2;
                    let (header, payload) = ((disk.header_at, disk.header_len), (disk.payload_at, disk.payload_len));
                    for (bit, (at, len)) in [(Bit::Header, header), (Bit::Payload, payload)] {
                        ask(bit, &|token| Effect::ReadCache { token, at, len });
                    }
                    PieceState::Disk { piece: disk, sector: piece.sector, header: None, payload: None }
                }
            });
        }
        self.host
            .reads
            .insert(name, Read { reader, volume: extent.volume, pieces, missing, newest: plan.newest, failed: None });
        if !matches!(reader, Reader::Compare) {
            self.finish_read(name);
        }
        name
    }

    pub(crate) fn host_piece(&mut self, token: Token, result: Result<Bytes, IoFault>) {
        let Some(id) = self.host.pieces.take(token) else { return };
        let Some(read) = self.host.reads.get_mut(&id.read) else { return };
        read.missing -= 1;
        let state = &mut read.pieces[id.index];
        let at = match state {
            PieceState::Home(sector) | PieceState::Disk { sector, .. } => *sector,
            PieceState::Ready(_) => Sector::ZERO,
        };
        let mut failed = None;
        match (result, state) {
            (Err(fault), PieceState::Home(_)) => {
                read.failed = Some(HostError::Unreadable(at));
                let extent = Extent { volume: read.volume, sector: at, sectors: SectorCount::from_raw(1) };
                failed = Some(Notice::HomeUnreadable(extent, fault));
            }
            (Err(_), PieceState::Disk { piece, .. }) => {
                read.failed = Some(HostError::Unreadable(at));
                failed = Some(Notice::JournalUnreadable(piece.seq));
            }
            (Err(_), PieceState::Ready(_)) => {}
            (Ok(bytes), state @ PieceState::Home(_)) => *state = PieceState::Ready(vec![bytes]),
            (Ok(bytes), state) => {
                if let PieceState::Disk { piece, header, payload, .. } = state {
                    *(if id.bit == Bit::Header { &mut *header } else { &mut *payload }) = Some(bytes);
                    if let (Some(header), Some(payload)) = (&header, &payload) {
                        match piece.verify(header, payload) {
                            Ok(bytes) => *state = PieceState::Ready(vec![bytes]),
                            Err(_) => {
                                read.failed = Some(HostError::Unreadable(at));
                                failed = Some(Notice::JournalUnreadable(piece.seq));
                            }
                        }
                    }
                }
            }
        }
        if let Some(notice) = failed {
            let rotten = match notice {
                Notice::JournalUnreadable(seq) => Some(seq),
                _ => None,
            };
            self.core.read_failed(notice);
            if let Some(seq) = rotten {
                self.unreadable(seq);
            }
        }
        self.finish_read(id.read);
    }

    /// All bytes there? Then the read waits only until what it saw is durable.
    fn finish_read(&mut self, name: ReadName) {
        let durable = self.core.journal.durable().seq;
        let Some(read) = self.host.reads.get(&name).filter(|r| r.missing == 0) else { return };
        let (newest, failed) = (read.newest, read.failed.is_some());
        // It touches no segment any more. Held back on, they could be the very ones that the records it waits for need.
        if !has(Planted::WaitingReadHolds) {
            self.core.read_closed(name);
        }
        if newest <= durable || failed || has(Planted::ReadBeforeDurable) {
            self.deliver_read(name);
        } else {
            self.host.seen.push((newest, name));
        }
    }

    fn deliver_read(&mut self, name: ReadName) {
        let Some(read) = self.host.reads.remove(&name) else { return };
        if has(Planted::WaitingReadHolds) {
            self.core.read_closed(name);
        }
        let data = match read.failed {
            Some(error) => Err(error),
            None => Ok(read
                .pieces
                .into_iter()
                .flat_map(|p| match p {
                    PieceState::Ready(bytes) => bytes,
                    PieceState::Home(_) | PieceState::Disk { .. } => Vec::new(),
                })
                .collect::<Vec<Bytes>>()),
        };
        match read.reader {
            Reader::Host(io) => self.core.fx.push(Effect::Reply(io, data.map(HostReply::Data))),
            Reader::Compare => self.compare(name, data),
            Reader::Verify(of) => self.verify_read(of, data.ok()),
            Reader::Copy(of) => match data {
                Ok(data) => self.peer_region(of, data),
                // The mirror cannot become whole while the source cannot be read: the link is tried again later.
                Err(_) => self.peer_unreadable(),
            },
        }
    }

    fn compare(&mut self, name: ReadName, data: Result<Vec<Bytes>, HostError>) {
        let Some(compare) = self.host.compares.remove(&name) else { return };
        let outcome = data.and_then(|pieces| {
            let mut found = pieces.iter().flat_map(|p| p.iter());
            let Some(verify) = &compare.verify else { return Ok(merged(&compare.data, found)) };
            match found.by_ref().zip(verify.iter()).position(|(a, b)| a != b) {
                Some(at) => Err(HostError::Miscompare(u32::try_from(at).unwrap_or(u32::MAX))),
                None => Ok(compare.data.clone()),
            }
        });
        let forgotten = outcome.is_err() && has(Planted::BlockedForgotten);
        match outcome {
            Ok(data) => {
                self.core.stats.writes += 1;
                let seq = self.append_write(compare.extent, &data);
                self.host.acks.push_back((seq, compare.io));
            }
            Err(error) => self.core.fx.push(Effect::Reply(compare.io, Err(error))),
        }
        if forgotten {
            return;
        }
        let blocked = std::mem::take(&mut self.host.blocked);
        blocked.into_iter().for_each(|(io, op)| self.host_op(io, op));
    }
}

/// The bytes with those of `there` merged in by OR, in a buffer that is aligned for direct I/O.
fn merged<'a>(data: &Bytes, there: impl Iterator<Item = &'a u8>) -> Bytes {
    let mut out = PoolBuf::unpooled(data.len());
    for (to, (new, old)) in out.iter_mut().zip(data.iter().zip(there)) {
        *to = new | old;
    }
    out.freeze()
}

fn zeros(sectors: SectorCount) -> Vec<Bytes> {
    let mut left = sectors.bytes().get() as usize;
    let mut out = Vec::with_capacity(left.div_ceil(ZEROS.len()));
    while left > 0 {
        let len = left.min(ZEROS.len());
        out.push(Bytes::from_static(&ZEROS[..len]));
        left -= len;
    }
    out
}
