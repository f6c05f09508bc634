//! The feed of a source: hosts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::batch::{RECORD_PAYLOAD_MAX, ZERO_SECTORS_MAX};
use reprise_journal::ReadPlan;
use reprise_types::{Extent, PoolBuf, RecordKind, Role, Sector, SectorCount, Seq, VolumeSlot, honest};

use crate::core::{ReadDone, ReadName, Reader};
use crate::effect::{Effect, HostError, HostOp, HostReply, Io};
use crate::group::Group;

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
        let held = self.host.compares.values().any(|c| touches(&op, &c.extent));
        let held = honest!(held, CompareHoldsNothing => false);
        // Whatever changes sectors keeps its place before what comes later for them, zeros too: what is answered meanwhile
        // would be gone when they have their turn.
        let behind = self.host.blocked.iter().any(|(_, waiting)| {
            let touched = changes(waiting).any(|extent| touches(&op, &extent));
            honest!(touched, WaitingZerosPassed => touched && !matches!(waiting, HostOp::Zero { .. }))
        });
        if held || behind {
            self.host.blocked.push_back((io, op));
            return;
        }
        match op {
            HostOp::Read(extent) => {
                self.core.stats.reads += 1;
                self.core.stats.bytes_read += extent.sectors.bytes().get();
                let plan = self.core.journal.plan_read(extent);
                self.read(Reader::Host(io), plan, extent);
            }
            HostOp::Write { extent, data } => {
                self.core.stats.writes += 1;
                let seq = self.append_write(extent, &data);
                self.host.acks.push_back((seq, io));
                honest!((), AckBeforeSync => if self.core.journal.undurable_bytes() < 8 << 10 {
                    self.host_durable(seq);
                });
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
                self.start_compare(io, extent, Some(verify), data);
            }
            HostOp::OrWrite { extent, data } => self.start_compare(io, extent, None, data),
            HostOp::Unit { volume, state } => self.units.set_state(&mut self.core, io, volume, state),
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
        self.core.reads_durable(durable).into_iter().for_each(|done| self.read_done(done));
    }

    pub(crate) fn host_fail_all(&mut self, error: HostError) {
        let retired = self.host.retired.clone();
        let host = std::mem::replace(&mut self.host, Host { retired, ..Host::default() });
        let acks = host.acks.into_iter().map(|(_, io)| io);
        let blocked = host.blocked.into_iter().map(|(io, _)| io);
        let compares = host.compares.into_values().map(|c| c.io);
        let (reads, units) = (self.core.forget_reads(), self.units.fail());
        for io in acks.chain(blocked).chain(compares).chain(reads).chain(units) {
            self.core.fx.push(Effect::Reply(io, Err(error)));
        }
    }

    /// A read has ended: COMPARE AND WRITE goes on, and hosts and other parts get what they wanted.
    pub(crate) fn read_done(&mut self, done: ReadDone) {
        match done.reader {
            Reader::Host(io) => self.core.fx.push(Effect::Reply(io, done.data.map(HostReply::Data))),
            Reader::Compare => self.compare(done.name, done.data),
            Reader::Verify(of) => self.verify_read(of, done.data.ok()),
            Reader::Copy(of) => match done.data {
                Ok(data) => self.peer_region(of, data),
                // The mirror cannot become whole while the source cannot be read: the link is tried again later.
                Err(_) => self.peer_unreadable(),
            },
        }
    }

    /// Reads; what is in memory and durable is there at once.
    pub(crate) fn read(&mut self, reader: Reader, plan: ReadPlan, extent: Extent) {
        let name = self.core.start_read(reader, plan, extent);
        self.finish_read(name);
    }

    pub(crate) fn finish_read(&mut self, name: ReadName) {
        if let Some(done) = self.core.finish_read(name) {
            self.read_done(done);
        }
    }

    fn start_compare(&mut self, io: Io, extent: Extent, verify: Option<Bytes>, data: Bytes) {
        let plan = self.core.journal.plan_read(extent);
        let read = self.core.start_read(Reader::Compare, plan, extent);
        self.host.compares.insert(read, Compare { io, extent, verify, data });
        self.finish_read(read);
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
        let forgotten = honest!(false, BlockedForgotten => outcome.is_err());
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
