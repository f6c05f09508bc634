//! Reads of volumes: put together from memory, journal and home, and answered when what they saw is durable.

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_journal::{DiskPiece, PieceSource, ReadPlan};
use reprise_types::{Extent, Sector, SectorCount, Seq, VolumeSlot};

use super::effects::{Effects, Open, Part};
use super::segments::ReadName;
use crate::io::{Effect, HostError, Io, IoFault, LegId, Notice, Token};

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
#[derive(Debug, Clone, Copy)]
struct PieceId {
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

/// A region that a part reads. The number is the part's own and tells the region from the same one read earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionRead {
    pub(crate) number: u64,
    pub(crate) volume: VolumeSlot,
    pub(crate) sector: Sector,
}

/// Whom the bytes are for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reader {
    Host(Io),
    Compare,
    Copy(RegionRead),
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

/// A read that is done.
#[derive(Debug)]
pub(crate) struct ReadDone {
    pub(crate) name: ReadName,
    pub(crate) reader: Reader,
    pub(crate) data: Result<Vec<Bytes>, HostError>,
}

/// Reads under way.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    reads: BTreeMap<ReadName, Read>,
    /// Pieces that are being read.
    pieces: Open<PieceId>,
    /// Reads that have all bytes and wait until what they saw is durable.
    seen: Vec<(Seq, ReadName)>,
}

impl Reads {
    /// Begins a read: asks for the pieces that are not in memory.
    pub(super) fn start(&mut self, fx: &mut Effects, name: ReadName, reader: Reader, plan: ReadPlan, extent: Extent) {
        let mut pieces = Vec::with_capacity(plan.pieces.len());
        let mut missing = 0;
        for (index, piece) in plan.pieces.into_iter().enumerate() {
            let part = Extent { sector: piece.sector, sectors: piece.sectors, ..extent };
            let mut ask = |bit, effect: &dyn Fn(Token) -> Effect| {
                let token = fx.ask(Part::Reads, effect);
                self.pieces.insert(token, PieceId { read: name, index, bit });
            };
            pieces.push(match piece.source {
                PieceSource::Ram(bytes) => PieceState::Ready(vec![bytes]),
                PieceSource::Zero => PieceState::Ready(zeros(piece.sectors)),
                PieceSource::Home => {
                    missing += 1;
                    ask(Bit::Home, &|token| Effect::ReadHome { token, leg: LegId::FIRST, extent: part });
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
        let read = Read { reader, volume: extent.volume, pieces, missing, newest: plan.newest, failed: None };
        self.reads.insert(name, read);
    }

    /// A piece was read, or could not be: of which read, and what people are told.
    pub(super) fn piece_read(
        &mut self,
        token: Token,
        result: Result<Bytes, IoFault>,
    ) -> Option<(ReadName, Option<Notice>)> {
        let id = self.pieces.take(token)?;
        let read = self.reads.get_mut(&id.read)?;
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
        Some((id.read, failed))
    }

    /// Where all bytes of a read are there, the newest record it saw, and whether it failed.
    pub(super) fn all_there(&self, name: ReadName) -> Option<(Seq, bool)> {
        let read = self.reads.get(&name).filter(|r| r.missing == 0)?;
        Some((read.newest, read.failed.is_some()))
    }

    /// A read that has all bytes waits until what it saw is durable.
    pub(super) fn wait(&mut self, name: ReadName, newest: Seq) {
        self.seen.push((newest, name));
    }

    /// Everything up to `durable` is durable: the reads that waited for no more.
    pub(super) fn durable(&mut self, durable: Seq) -> Vec<ReadName> {
        if !self.seen.iter().any(|(seq, _)| *seq <= durable) {
            return Vec::new();
        }
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.seen).into_iter().partition(|(seq, _)| *seq <= durable);
        self.seen = waiting;
        ready.into_iter().map(|(_, name)| name).collect()
    }

    /// Ends a read: what was read goes to whom has asked for it.
    pub(super) fn end(&mut self, name: ReadName) -> Option<ReadDone> {
        let read = self.reads.remove(&name)?;
        let ready = |piece| match piece {
            PieceState::Ready(bytes) => bytes,
            PieceState::Home(_) | PieceState::Disk { .. } => Vec::new(),
        };
        let data = match read.failed {
            Some(error) => Err(error),
            None => Ok(read.pieces.into_iter().flat_map(ready).collect()),
        };
        Some(ReadDone { name, reader: read.reader, data })
    }

    /// Forgets all reads; gives their names, and whom they were for.
    pub(super) fn forget(&mut self) -> Vec<(ReadName, Reader)> {
        let Self { reads, .. } = std::mem::take(self);
        reads.into_iter().map(|(name, read)| (name, read.reader)).collect()
    }
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
