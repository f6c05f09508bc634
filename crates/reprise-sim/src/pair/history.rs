//! What hosts wrote and were told: the independent side of every check. Uses reprise-types and the model's own history
//! hash only; it never asks the engine what it did.
//!
//! The world shows it three things: what the host asked for and was answered, what records went to a box's disk (decoded
//! by the world, compared here byte by byte with what the host wrote), and images. A record that nobody asked for, an
//! answer without a record, a compare-and-write that did not hold, a read of something older than what was acknowledged
//! before it: each is a violation.

use std::collections::BTreeMap;

use bytes::Bytes;
use reprise_types::{Extent, GroupId, HistoryHash, PoolBuf, RecordKind, Sector, SectorCount, Seq, VolumeSlot};

use crate::model::{chain_bytes, chain_start};

/// Sectors of the group's volumes: not multiples of anything, large enough for several copied regions.
pub const VOLUME_SECTORS: [u64; 2] = [4796, 2148];

/// The sector that operation `id` put at `sector` of a volume; zeros for id 0.
pub fn stamp(id: u64, volume: u16, sector: u64, out: &mut [u8]) {
    if id == 0 {
        out.fill(0);
        return;
    }
    let place = u64::from(volume) << 48 | sector;
    let base = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place.wrapping_mul(0xd6e8_feb8_6659_fd93);
    for (i, word) in (0u64..).zip(out.chunks_exact_mut(8)) {
        let value = match i {
            0 => id,
            1 => place,
            _ => base.rotate_left(i as u32) ^ i.wrapping_mul(0x2545_f491_4f6c_dd1d),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// The bytes operation `id` writes to an extent.
pub fn content(id: u64, extent: &Extent) -> Bytes {
    let count = extent.sectors.get();
    let mut buf = PoolBuf::unpooled(count as usize * 512);
    for (i, out) in (0..count).zip(buf.chunks_exact_mut(512)) {
        stamp(id, extent.volume.get(), extent.sector.get() + i, out);
    }
    buf.freeze()
}

/// Builds an extent.
pub fn extent(volume: u16, sector: u64, sectors: u64) -> Extent {
    Extent {
        volume: VolumeSlot::from_raw(volume),
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
    }
}

/// What a host asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A write; its content is [`content`] of its id.
    Write(Extent),
    /// Zeroing of ranges.
    Zero(Vec<Extent>),
    /// A write that happens only where the sectors hold these ids.
    Compare(Extent, Vec<u64>),
    /// A read.
    Read(Extent),
    /// A flush.
    Flush,
    /// A change of what the unit of a volume remembers, with the record's payload.
    Unit(u16, Bytes),
}

/// A record's payload is at most this many sectors; longer writes are several records.
const RECORD_SECTORS: u64 = 512;

#[derive(Debug, Clone)]
struct Op {
    asked: Asked,
    /// Records it must become, in order; those seen are counted.
    records: Vec<(RecordKind, Extent)>,
    seen: usize,
    last: Seq,
    /// What was acknowledged when it was asked.
    acked_before: Seq,
}

/// What a source may come back without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Nothing that was acknowledged.
    Nothing,
    /// What came after its disks were set aside: journal and homes are of one moment.
    Older,
    /// What its journal's disk had reported durable and had not kept. The homes may hold it.
    Journal,
}

/// What a sector held in a part of the history that is gone, and its home may still hold.
#[derive(Debug, Clone, Default)]
struct Lost {
    /// The history ended here without it.
    end: u64,
    ids: Vec<u64>,
}

/// A record of the history.
#[derive(Debug, Clone)]
struct Record {
    extent: Extent,
    hash: HistoryHash,
    /// State of the volume's unit from here on.
    unit: Option<Bytes>,
    /// Sectors of the volume from here on.
    size: Option<u64>,
}

/// A line of history as a host and its disk show it.
#[derive(Debug, Clone)]
pub struct History {
    records: Vec<Record>,
    /// Per volume and sector: which record changed it to which id, in order.
    versions: Vec<Vec<Vec<(u64, u64)>>>,
    start: HistoryHash,
    acked: Seq,
    /// A host has read this record: it may not vanish.
    shown: Seq,
    ops: BTreeMap<u64, Op>,
    /// By volume and sector.
    lost: BTreeMap<(u16, u64), Lost>,
    /// States of units that a journal lost: the superblock may hold them, or older ones.
    lost_units: Vec<(u16, Bytes)>,
    superblock_odd: bool,
    /// Records of the newest change of each unit that was answered. One may wait for its answer while later writes have
    /// theirs, since the superblock has to hold it too.
    units_answered: BTreeMap<u16, Seq>,
    /// Sectors of the volumes at the beginning.
    first_sectors: [u64; 2],
    /// Sizes that a person has given a volume, or tried to.
    sizes: Vec<(u16, u64)>,
}

impl History {
    /// The empty history of a group whose volumes have all that they can have.
    pub fn new(group: GroupId) -> Self {
        Self::of(group, VOLUME_SECTORS)
    }

    /// The empty history of a group with volumes of so many sectors.
    pub fn of(group: GroupId, first_sectors: [u64; 2]) -> Self {
        Self {
            first_sectors,
            sizes: (0u16..).zip(first_sectors).collect(),
            records: Vec::new(),
            versions: VOLUME_SECTORS.iter().map(|n| vec![Vec::new(); *n as usize]).collect(),
            start: chain_start(group),
            acked: Seq::ZERO,
            shown: Seq::ZERO,
            ops: BTreeMap::new(),
            lost: BTreeMap::new(),
            lost_units: Vec::new(),
            superblock_odd: false,
            units_answered: BTreeMap::new(),
        }
    }

    /// Last record seen on its way to the disk.
    pub fn end(&self) -> Seq {
        Seq::from_raw(self.records.len() as u64)
    }

    /// Everything up to here was acknowledged.
    pub fn acked(&self) -> Seq {
        self.acked
    }

    /// h(seq); none past the end.
    pub fn hash(&self, seq: Seq) -> Option<HistoryHash> {
        match seq.get() {
            0 => Some(self.start),
            n => self.records.get(n as usize - 1).map(|r| r.hash),
        }
    }

    /// The id that a sector holds as of `seq`.
    pub fn at(&self, volume: u16, sector: u64, seq: Seq) -> u64 {
        let versions = &self.versions[usize::from(volume)][sector as usize];
        let after = versions.partition_point(|(s, _)| *s <= seq.get());
        after.checked_sub(1).map_or(0, |i| versions[i].1)
    }

    /// What the home of a sector may hold of a lost part of the history: nothing, once a record up to `acked` covers it.
    fn may_hold(&self, volume: u16, sector: u64, acked: Seq) -> &[u64] {
        let Some(lost) = self.lost.get(&(volume, sector)) else { return &[] };
        let versions = &self.versions[usize::from(volume)][sector as usize];
        let covered = versions.iter().any(|(seq, _)| (lost.end + 1..=acked.get()).contains(seq));
        if covered { &[] } else { &lost.ids }
    }

    /// Bytes that the records behind `after` up to `to` write or zero.
    pub fn bytes_between(&self, after: Seq, to: Seq) -> u64 {
        let records = self.records.get(after.get() as usize..to.get() as usize).unwrap_or(&[]);
        records.iter().map(|r| r.extent.sectors.bytes().get()).sum()
    }

    /// The host asks.
    pub fn asked(&mut self, id: u64, asked: Asked) {
        let pieces = |e: &Extent| {
            let (first, end) = (e.sector.get(), e.end().get());
            let volume = e.volume.get();
            (first..end)
                .step_by(RECORD_SECTORS as usize)
                .map(move |at| extent(volume, at, RECORD_SECTORS.min(end - at)))
                .map(|e| (RecordKind::Write, e))
                .collect::<Vec<_>>()
        };
        let records = match &asked {
            Asked::Write(e) | Asked::Compare(e, _) => pieces(e),
            Asked::Zero(ranges) => ranges.iter().map(|e| (RecordKind::Zero, *e)).collect(),
            Asked::Read(_) | Asked::Flush => Vec::new(),
            Asked::Unit(volume, _) => vec![(RecordKind::Reservation, extent(*volume, 0, 0))],
        };
        let op = Op { asked, records, seen: 0, last: Seq::ZERO, acked_before: self.acked };
        self.ops.insert(id, op);
    }

    /// A record goes to the source's disk: the next one, or one that had become unreadable, as it was.
    ///
    /// # Errors
    /// It is neither, or nobody asked for it.
    pub fn record(&mut self, seq: Seq, kind: RecordKind, at: Extent, payload: &[u8]) -> Result<(), String> {
        if seq > Seq::ZERO && seq <= self.end() {
            let before = self.hash(Seq::from_raw(seq.get() - 1)).unwrap_or(self.start);
            let same = self.hash(seq) == Some(chain_bytes(before, kind, &at, payload));
            return same.then_some(()).ok_or_else(|| format!("record {seq} goes to disk again with other content"));
        }
        if seq != self.end().next() {
            return Err(format!("record {seq} goes to disk after {}", self.end()));
        }
        let id = match kind {
            RecordKind::VolumeResized => {
                let volume = at.volume.get();
                let size = payload.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
                // Given by a person, or said again. A superblock may know of one that a journal has lost.
                let larger = size >= self.size_at(volume, self.end()) || self.superblock_odd;
                if !larger || !self.sizes.contains(&(volume, size)) {
                    return Err(format!("record {seq}: volume {volume} gets {size} sectors, which nobody gave it"));
                }
                let before = self.hash(self.end()).unwrap_or(self.start);
                let hash = chain_bytes(before, kind, &at, payload);
                self.records.push(Record { extent: at, hash, unit: None, size: Some(size) });
                return Ok(());
            }
            RecordKind::Reservation => match self.unit_record(seq, at, payload)? {
                Some(id) => id,
                // Said again.
                None => return Ok(()),
            },
            RecordKind::Write => payload.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes),
            // A zeroing has no content to know it by: the oldest that is still to come with this extent.
            _ => {
                let due = |o: &Op| o.records.get(o.seen) == Some(&(kind, at));
                self.ops.iter().find(|(_, o)| due(o)).map_or(0, |(id, _)| *id)
            }
        };
        let Some(mut op) = self.ops.remove(&id) else {
            return Err(format!("record {seq} ({kind:?} {at:?}) was not asked for"));
        };
        if op.records.get(op.seen) != Some(&(kind, at)) {
            return Err(format!("record {seq} ({kind:?} {at:?}) is not the next piece of operation {id}"));
        }
        if kind == RecordKind::Write && payload != content(id, &at) {
            return Err(format!("record {seq} does not hold what operation {id} wrote"));
        }
        if let Some((sector, later)) = self.lands_on(id, kind, at) {
            let volume = at.volume.get();
            return Err(format!(
                "record {seq} of operation {id} changes volume {volume} sector {sector} after operation {later}, which was \
                 asked for later and was answered"
            ));
        }
        if let Asked::Compare(_, verify) = &op.asked {
            let sectors = at.sector.get()..at.end().get();
            let volume = at.volume.get();
            let holds = sectors
                .zip(verify)
                .all(|(s, v)| self.at(volume, s, self.end()) == *v || self.may_hold(volume, s, self.end()).contains(v));
            if !holds {
                return Err(format!("compare-and-write {id} took effect at {seq} over other content than compared"));
            }
        }
        op.seen += 1;
        op.last = seq;
        self.ops.insert(id, op);
        let before = self.hash(self.end()).unwrap_or(self.start);
        let hash = chain_bytes(before, kind, &at, payload);
        let unit = (kind == RecordKind::Reservation).then(|| Bytes::copy_from_slice(payload));
        self.records.push(Record { extent: at, hash, unit, size: None });
        let value = if kind == RecordKind::Write { id } else { 0 };
        let volume = usize::from(at.volume.get());
        for s in at.sector.get()..at.end().get() {
            self.versions[volume][s as usize].push((seq.get(), value));
        }
        Ok(())
    }

    /// A sector that a record of operation `id` changes, where one that was asked for later has changed it already and was
    /// answered, and that one: its host was told that its content is there, and it is gone.
    fn lands_on(&self, id: u64, kind: RecordKind, at: Extent) -> Option<(u64, u64)> {
        // Which of several zeroings of the same extent it is cannot be seen: it may be the last.
        let due = |(_, o): &(&u64, &Op)| kind == RecordKind::Zero && o.records.get(o.seen) == Some(&(kind, at));
        let newest = self.ops.iter().rev().find(due).map_or(id, |(other, _)| id.max(*other));
        let versions = &self.versions[usize::from(at.volume.get())];
        (at.sector.get()..at.end().get()).find_map(|s| {
            let (seq, later) = versions.get(s as usize)?.last()?;
            (*later > newest && *seq <= self.acked.get()).then_some((s, *later))
        })
    }

    /// A state of a unit goes to disk: what a host has asked for, or one that the unit may have, once more.
    fn unit_record(&mut self, seq: Seq, at: Extent, payload: &[u8]) -> Result<Option<u64>, String> {
        let volume = at.volume.get();
        let asked = |o: &Op| o.seen == 0 && matches!(&o.asked, Asked::Unit(v, p) if *v == volume && p == payload);
        if let Some((id, _)) = self.ops.iter().find(|(_, o)| asked(o)) {
            return Ok(Some(*id));
        }
        let known = |state: &Option<Bytes>| state.as_deref() == Some(payload);
        let lost = self.lost_units.iter().any(|(v, state)| *v == volume && state == payload);
        let odd = self.superblock_odd && (lost || self.records.iter().any(|r| known(&r.unit)));
        // Known to have a state, and none was answered yet: it is said to have none.
        let none = is_nothing(payload) && !self.units_answered.contains_key(&volume);
        if !odd && !none && !self.units_possible(volume).any(|state| state == payload) {
            return Err(format!("record {seq}: a state of unit {volume} that nobody asked for, or that is over"));
        }
        let before = self.hash(self.end()).unwrap_or(self.start);
        let hash = chain_bytes(before, RecordKind::Reservation, &at, payload);
        self.records.push(Record { extent: at, hash, unit: Some(Bytes::copy_from_slice(payload)), size: None });
        Ok(None)
    }

    /// States that the unit of a volume may be in after a restart: the newest that was answered, and any later one.
    fn units_possible(&self, volume: u16) -> impl Iterator<Item = &[u8]> {
        let states: Vec<(u64, &[u8])> = (1u64..)
            .zip(&self.records)
            .filter(|(_, r)| r.extent.volume.get() == volume)
            .filter_map(|(seq, r)| Some((seq, r.unit.as_deref()?)))
            .collect();
        let answered = self.units_answered.get(&volume).map_or(0, |seq| seq.get());
        states.into_iter().skip_while(move |(seq, _)| *seq < answered).map(|(_, state)| state)
    }

    /// A source has come back with this state of a unit; none for one without.
    ///
    /// # Errors
    /// A later one was acknowledged, or nobody asked for this one.
    pub fn unit_recovered(&self, volume: u16, state: Option<&[u8]>) -> Result<(), String> {
        let possible = match state {
            None => !self.units_answered.contains_key(&volume),
            Some(state) => self.units_possible(volume).any(|other| other == state),
        };
        if possible { Ok(()) } else { Err(format!("unit {volume} comes back in a state that it cannot be in")) }
    }

    /// A person gives a volume so many sectors, or tries to.
    pub fn resizing(&mut self, volume: u16, sectors: u64) {
        self.sizes.push((volume, sectors));
    }

    /// Sectors of a volume as of `seq`.
    pub fn size_at(&self, volume: u16, seq: Seq) -> u64 {
        let upto = self.records.iter().take(seq.get() as usize).rev();
        let sizes = upto.filter(|r| r.extent.volume.get() == volume).filter_map(|r| r.size);
        sizes.max().unwrap_or(self.first_sectors[usize::from(volume)])
    }

    /// The last state of a volume's unit that a record behind `after` and up to `seq` gives it; none where none does. The
    /// inner one is none for a unit that remembers nothing.
    pub fn unit_between(&self, volume: u16, after: Seq, seq: Seq) -> Option<Option<Bytes>> {
        let between = self.records.iter().take(seq.get() as usize).skip(after.get() as usize).rev();
        let mut states = between.filter(|r| r.extent.volume.get() == volume).filter_map(|r| r.unit.clone());
        states.next().map(|state| Some(state).filter(|s| !is_nothing(s)))
    }

    /// The state of a volume's unit at the end.
    pub fn unit(&self, volume: u16) -> Option<&[u8]> {
        let of_volume = self.records.iter().rev().filter(|r| r.extent.volume.get() == volume);
        of_volume.filter_map(|r| r.unit.as_deref()).next().filter(|state| !is_nothing(state))
    }

    /// The host is told that a change (or a flush) is done.
    ///
    /// # Errors
    /// Not all of its records are on their way to the disk.
    pub fn answered(&mut self, id: u64) -> Result<(), String> {
        let Some(op) = self.ops.remove(&id) else { return Err(format!("operation {id} is answered twice")) };
        if op.seen < op.records.len() {
            return Err(format!(
                "operation {id} ({:?}) is acknowledged, {} of its records are not on disk",
                op.asked,
                { op.records.len() - op.seen }
            ));
        }
        if let Asked::Unit(volume, _) = op.asked {
            let newest = self.units_answered.entry(volume).or_default();
            *newest = op.last.max(*newest);
        }
        self.acked = self.acked.max(op.last);
        Ok(())
    }

    /// The host is told that the content was not as expected.
    ///
    /// # Errors
    /// It had been as expected all the time.
    pub fn miscompared(&mut self, id: u64) -> Result<(), String> {
        let Some(op) = self.ops.remove(&id) else { return Err(format!("operation {id} is answered twice")) };
        let Asked::Compare(at, verify) = &op.asked else {
            return Err(format!("operation {id} ({:?}) is answered with a miscompare", op.asked));
        };
        if op.seen > 0 {
            return Err(format!("compare-and-write {id} took effect and says it did not"));
        }
        let volume = at.volume.get();
        let constant = (at.sector.get()..at.end().get()).zip(verify).all(|(s, v)| {
            let since = self.versions[usize::from(volume)][s as usize].iter().rev();
            self.at(volume, s, op.acked_before) == *v
                && self.may_hold(volume, s, op.acked_before).is_empty()
                && since.take_while(|(seq, _)| *seq > op.acked_before.get()).all(|(_, id)| id == v)
        });
        if constant { Err(format!("compare-and-write {id} miscompares on the content it named")) } else { Ok(()) }
    }

    /// The host is given bytes.
    ///
    /// # Errors
    /// A sector is torn, was never written so, or is older than what was acknowledged before the read began.
    pub fn read(&mut self, id: u64, data: &[u8]) -> Result<(), String> {
        let Some(op) = self.ops.remove(&id) else { return Err(format!("operation {id} is answered twice")) };
        let Asked::Read(at) = op.asked else { return Err(format!("operation {id} is answered with data")) };
        if data.len() as u64 != at.sectors.get() * 512 {
            return Err(format!("read {id} gives {} bytes for {} sectors", data.len(), at.sectors));
        }
        let volume = at.volume.get();
        let mut expected = [0; 512];
        for (sector, bytes) in (at.sector.get()..).zip(data.chunks_exact(512)) {
            let found = id_of(bytes);
            stamp(found, volume, sector, &mut expected);
            if bytes != expected {
                return Err(format!(
                    "read {id}: volume {volume} sector {sector} holds no sector that was ever written"
                ));
            }
            let versions = &self.versions[usize::from(volume)][sector as usize];
            let floor = versions.partition_point(|(s, _)| *s <= op.acked_before.get()).saturating_sub(1);
            match versions[floor..].iter().find(|(_, v)| *v == found) {
                Some((seq, _)) => self.shown = self.shown.max(Seq::from_raw(*seq)),
                None if found == 0 && versions.first().is_none_or(|(s, _)| *s > op.acked_before.get()) => {}
                None if self.may_hold(volume, sector, op.acked_before).contains(&found) => {}
                None => {
                    return Err(format!(
                        "read {id}: volume {volume} sector {sector} is of write {found}, which is not among {:?} \
                         (acknowledged before: {})",
                        &versions[floor..],
                        op.acked_before
                    ));
                }
            }
        }
        Ok(())
    }

    /// An operation failed with an error: it is over.
    pub fn failed(&mut self, id: u64) {
        if self.ops.get(&id).is_some_and(|o| o.records.is_empty()) {
            self.ops.remove(&id);
        }
    }

    /// The source was off: what went to its disk and is not there any more never happened; what was asked and did not
    /// get there never will.
    ///
    /// # Errors
    /// The log ends where it cannot.
    pub fn recovered(&mut self, end: Seq, hash: HistoryHash, loss: Loss) -> Result<(), String> {
        let lossy = loss != Loss::Nothing;
        if end > self.end() {
            return Err(format!("the log ends at {end}, the last record that went to disk is {}", self.end()));
        }
        if end < self.acked && !lossy {
            return Err(format!("{} was acknowledged, the log ends at {end}", self.acked));
        }
        if end < self.shown && !lossy {
            return Err(format!("a host has read {}, the log ends at {end}", self.shown));
        }
        if self.hash(end) != Some(hash) {
            return Err(format!("h({end}) is {hash} after a restart, it was {:?}", self.hash(end)));
        }
        self.superblock_odd |= loss == Loss::Journal;
        for record in self.records.drain(end.get() as usize..) {
            if let Some(state) = record.unit.filter(|_| lossy) {
                self.lost_units.push((record.extent.volume.get(), state));
            }
            let volume = usize::from(record.extent.volume.get());
            for s in record.extent.sector.get()..record.extent.end().get() {
                let versions = &mut self.versions[volume][s as usize];
                while let Some((_, id)) = versions.pop_if(|(seq, _)| *seq > end.get()) {
                    if loss == Loss::Journal {
                        let lost = self.lost.entry((record.extent.volume.get(), s)).or_default();
                        lost.end = end.get();
                        lost.ids.push(id);
                    }
                }
            }
        }
        for lost in self.lost.values_mut() {
            lost.end = lost.end.min(end.get());
        }
        self.acked = self.acked.min(end);
        self.units_answered.retain(|_, seq| *seq <= end);
        self.shown = self.shown.min(end);
        self.ops.clear();
        Ok(())
    }

    /// The first sector of an image of a volume that is not as of `seq`, with what it is and should be.
    pub fn differs(&self, volume: u16, first: u64, image: &[u8], seq: Seq) -> Option<(u64, u64, u64)> {
        self.differs_but(volume, first, image, seq, |_| false)
    }

    /// As [`Self::differs`], without the sectors that are known to be rotten.
    pub fn differs_but(
        &self,
        volume: u16,
        first: u64,
        image: &[u8],
        seq: Seq,
        rotten: impl Fn(u64) -> bool,
    ) -> Option<(u64, u64, u64)> {
        let mut expected = [0; 512];
        let mut last = 0;
        for (sector, bytes) in (first..).zip(image.chunks_exact(512)) {
            let id = self.at(volume, sector, seq);
            if id != 0 || last != 0 {
                stamp(id, volume, sector, &mut expected);
            }
            last = id;
            if bytes != expected && !rotten(sector) {
                return Some((sector, id_of(bytes), id));
            }
        }
        None
    }

    /// The ids that an extent holds at the end of the history.
    pub fn ids(&self, at: &Extent) -> Vec<u64> {
        let end = self.end();
        (at.sector.get()..at.end().get()).map(|s| self.at(at.volume.get(), s, end)).collect()
    }
}

/// The payload of a unit that remembers nothing: a length of 0.
fn is_nothing(state: &[u8]) -> bool {
    state.iter().all(|byte| *byte == 0)
}

fn id_of(bytes: &[u8]) -> u64 {
    bytes.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::new(GroupId::from_raw([3; 16]))
    }

    fn write(h: &mut History, id: u64, at: Extent) -> Result<(), String> {
        h.asked(id, Asked::Write(at));
        let seq = h.end().next();
        h.record(seq, RecordKind::Write, at, &content(id, &at))
    }

    #[test]
    fn lies_are_seen() {
        let mut h = history();
        let at = extent(0, 8, 4);
        assert_eq!(write(&mut h, 1, at), Ok(()));
        assert_eq!(h.answered(1), Ok(()));
        assert!(h.answered(1).is_err(), "twice");
        assert_eq!(write(&mut h, 2, at), Ok(()));
        assert_eq!(h.answered(2), Ok(()));
        h.asked(3, Asked::Read(at));
        assert!(h.read(3, &content(1, &at)).is_err(), "older than acknowledged");
        h.asked(4, Asked::Read(at));
        assert_eq!(h.read(4, &content(2, &at)), Ok(()));
        h.asked(5, Asked::Write(at));
        assert!(h.answered(5).is_err(), "acknowledged without a record");
        let (end, hash) = (Seq::from_raw(1), h.hash(Seq::from_raw(1)).unwrap());
        assert!(h.clone().recovered(end, hash, Loss::Nothing).is_err(), "acknowledged and lost");
        assert!(h.clone().recovered(end, HistoryHash::NIL, Loss::Older).is_err(), "another history");
        assert_eq!(h.recovered(end, hash, Loss::Older), Ok(()));
        assert_eq!(h.differs(0, 8, &content(1, &at), end), None);
        assert_eq!(h.differs(0, 8, &content(2, &at), end), Some((8, 2, 1)));
    }

    #[test]
    fn what_a_journal_lost_may_still_be_read_until_it_is_written_over() {
        let mut h = history();
        let at = extent(0, 8, 1);
        for id in 1..=2 {
            assert_eq!(write(&mut h, id, at), Ok(()));
            assert_eq!(h.answered(id), Ok(()));
        }
        let (end, hash) = (Seq::from_raw(1), h.hash(Seq::from_raw(1)).unwrap());
        let read = |h: &mut History, id, found| {
            h.asked(id, Asked::Read(at));
            h.read(id, &content(found, &at))
        };
        let mut older = h.clone();
        assert_eq!(older.recovered(end, hash, Loss::Older), Ok(()));
        assert!(read(&mut older, 3, 2).is_err(), "journal and homes are of one moment");
        assert_eq!(h.recovered(end, hash, Loss::Journal), Ok(()));
        assert_eq!(read(&mut h, 3, 2), Ok(()));
        assert_eq!(read(&mut h, 4, 1), Ok(()));
        h.asked(5, Asked::Compare(at, vec![1]));
        assert_eq!(h.miscompared(5), Ok(()));
        assert_eq!(write(&mut h, 6, at), Ok(()));
        assert_eq!(h.answered(6), Ok(()));
        assert!(read(&mut h, 7, 2).is_err(), "written over");
        h.asked(8, Asked::Compare(at, vec![6]));
        assert!(h.miscompared(8).is_err(), "written over");
    }

    #[test]
    fn a_compare_and_write_must_hold() {
        let mut h = history();
        let at = extent(1, 0, 2);
        assert_eq!(write(&mut h, 1, at), Ok(()));
        assert_eq!(h.answered(1), Ok(()));
        h.asked(2, Asked::Compare(at, vec![7, 7]));
        let wrong = h.clone().record(Seq::from_raw(2), RecordKind::Write, at, &content(2, &at));
        assert!(wrong.is_err(), "other content than compared");
        assert_eq!(h.miscompared(2), Ok(()));
        h.asked(3, Asked::Compare(at, vec![1, 1]));
        assert!(h.miscompared(3).is_err(), "the content was as named");
    }
}
