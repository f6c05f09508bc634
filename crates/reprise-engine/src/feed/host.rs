//! The feed of a source: hosts.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use reprise_format::batch::{RECORD_PAYLOAD_MAX, ZERO_SECTORS_MAX};
use reprise_types::{Extent, PoolBuf, RecordKind, Role, Sector, SectorCount, Seq, VolumeSlot, honest};

use super::unit::Units;
use crate::core::{Core, ReadDone, ReadName, Reader};
use crate::io::{Effect, HostError, HostOp, HostReply, Io};

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
pub(crate) struct HostFeed {
    /// Answers that wait until a record is durable, in Seq order.
    acks: VecDeque<(Seq, Io)>,
    /// COMPARE AND WRITE and ORWRITE under way, by the name of their read; each holds its range.
    compares: BTreeMap<ReadName, Compare>,
    /// Operations that wait for such a range, in order.
    blocked: VecDeque<(Io, HostOp)>,
    /// Volumes that hosts get no more of.
    retired: Vec<VolumeSlot>,
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

/// Appends what a host writes, as records of their size.
fn append_write(core: &mut Core, extent: Extent, data: &Bytes) -> Seq {
    let mut seq = core.journal.written();
    for at in (0..data.len()).step_by(RECORD_PAYLOAD_MAX) {
        let payload = data.slice(at..(at + RECORD_PAYLOAD_MAX).min(data.len()));
        let part = Extent {
            sector: Sector::from_raw(extent.sector.get() + at as u64 / 512),
            sectors: SectorCount::from_raw(payload.len() as u64 / 512),
            ..extent
        };
        seq = core.append(RecordKind::Write, part, payload);
    }
    seq
}

fn append_zero(core: &mut Core, extent: Extent) -> Seq {
    let (mut at, mut left) = (extent.sector.get(), extent.sectors.get());
    let mut seq = core.journal.written();
    while left > 0 {
        let count = left.min(ZERO_SECTORS_MAX);
        let part = Extent { sector: Sector::from_raw(at), sectors: SectorCount::from_raw(count), ..extent };
        seq = core.append(RecordKind::Zero, part, Bytes::new());
        at += count;
        left -= count;
    }
    seq
}

impl HostFeed {
    /// A host asks.
    pub(crate) fn op(&mut self, core: &mut Core, units: &mut Units, io: Io, op: HostOp) {
        if let Some(error) = self.refusal(core, units, &op) {
            core.fx.push(Effect::Reply(io, Err(error)));
            return;
        }
        let held = self.compares.values().any(|c| touches(&op, &c.extent));
        let held = honest!(held, CompareHoldsNothing => false);
        // Whatever changes sectors keeps its place before what comes later for them, zeros too: what is answered meanwhile
        // would be gone when they have their turn.
        let behind = self.blocked.iter().any(|(_, waiting)| {
            let touched = changes(waiting).any(|extent| touches(&op, &extent));
            honest!(touched, WaitingZerosPassed => touched && !matches!(waiting, HostOp::Zero { .. }))
        });
        if held || behind {
            self.blocked.push_back((io, op));
            return;
        }
        match op {
            HostOp::Read(extent) => {
                core.stats.reads += 1;
                core.stats.bytes_read += extent.sectors.bytes().get();
                let plan = core.journal.plan_read(extent);
                if let Some(done) = core.read(Reader::Host(io), plan, extent) {
                    Self::answer_read(core, io, done.data);
                }
            }
            HostOp::Write { extent, data } => {
                core.stats.writes += 1;
                let seq = append_write(core, extent, &data);
                self.acks.push_back((seq, io));
                honest!((), AckBeforeSync => if core.journal.undurable_bytes() < 8 << 10 {
                    self.durable(core, seq);
                });
            }
            HostOp::Zero { volume, ranges } => {
                core.stats.writes += 1;
                let mut seq = core.journal.written();
                for (sector, sectors) in ranges {
                    seq = append_zero(core, Extent { volume, sector, sectors });
                }
                self.acks.push_back((seq, io));
                self.durable(core, core.journal.durable().seq);
            }
            HostOp::CompareAndWrite { extent, verify, data } => {
                self.start_compare(core, units, Compare { io, extent, verify: Some(verify), data });
            }
            HostOp::OrWrite { extent, data } => {
                self.start_compare(core, units, Compare { io, extent, verify: None, data });
            }
            HostOp::Unit { volume, state } => units.set_state(core, io, volume, state),
            HostOp::Flush => {
                self.acks.push_back((core.journal.written(), io));
                self.durable(core, core.journal.durable().seq);
            }
        }
    }

    fn refusal(&self, core: &Core, units: &Units, op: &HostOp) -> Option<HostError> {
        if core.is_fenced() {
            return Some(HostError::Fenced);
        }
        if core.meta.role() != Role::Source {
            return Some(HostError::NotSource);
        }
        let inside = |e: &Extent| {
            let sectors = units.served_sectors(core, e.volume).filter(|_| !self.is_retired(e.volume));
            let end = e.sector.checked_add(e.sectors);
            sectors.zip(end).is_some_and(|(sectors, end)| end.get() <= sectors.get())
        };
        let fits = match op {
            HostOp::Flush => true,
            HostOp::Unit { volume, .. } => core.meta.volume(*volume).is_some(),
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

    /// Everything up to `durable` is durable: answers that waited for it go out, in order.
    pub(crate) fn durable(&mut self, core: &mut Core, durable: Seq) {
        while let Some((_, io)) = self.acks.pop_front_if(|(seq, _)| *seq <= durable) {
            core.fx.push(Effect::Reply(io, Ok(HostReply::Done)));
        }
    }

    /// Nothing that hosts wait for happens any more.
    pub(crate) fn fail_all(&mut self, core: &mut Core, units: &mut Units, error: HostError) {
        let retired = self.retired.clone();
        let hosts = std::mem::replace(self, Self { retired, ..Self::default() });
        let acks = hosts.acks.into_iter().map(|(_, io)| io);
        let blocked = hosts.blocked.into_iter().map(|(io, _)| io);
        let compares = hosts.compares.into_values().map(|c| c.io);
        let (reads, units) = (core.forget_reads(), units.fail());
        for io in acks.chain(blocked).chain(compares).chain(reads).chain(units) {
            core.fx.push(Effect::Reply(io, Err(error)));
        }
    }

    /// Hosts get no more of a volume.
    pub(crate) fn retire(&mut self, slot: VolumeSlot) {
        self.retired.push(slot);
    }

    /// True for a volume that hosts get no more of.
    pub(crate) fn is_retired(&self, slot: VolumeSlot) -> bool {
        self.retired.contains(&slot)
    }

    /// A read of a host has ended.
    pub(crate) fn answer_read(core: &mut Core, io: Io, data: Result<Vec<Bytes>, HostError>) {
        core.fx.push(Effect::Reply(io, data.map(HostReply::Data)));
    }

    fn start_compare(&mut self, core: &mut Core, units: &mut Units, compare: Compare) {
        let extent = compare.extent;
        let plan = core.journal.plan_read(extent);
        let read = core.start_read(Reader::Compare, plan, extent);
        self.compares.insert(read, compare);
        if let Some(done) = core.finish_read(read) {
            self.compare(core, units, done);
        }
    }

    /// What is there was read: COMPARE AND WRITE goes on, and what waited behind it.
    pub(crate) fn compare(&mut self, core: &mut Core, units: &mut Units, done: ReadDone) {
        let Some(compare) = self.compares.remove(&done.name) else { return };
        let outcome = done.data.and_then(|pieces| {
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
                core.stats.writes += 1;
                let seq = append_write(core, compare.extent, &data);
                self.acks.push_back((seq, compare.io));
            }
            Err(error) => core.fx.push(Effect::Reply(compare.io, Err(error))),
        }
        if forgotten {
            return;
        }
        let blocked = std::mem::take(&mut self.blocked);
        blocked.into_iter().for_each(|(io, op)| self.op(core, units, io, op));
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
