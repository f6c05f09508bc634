//! The exact-prefix check: does an image equal the first S records of a box's history, and is that history one the log allows?

use std::collections::{BTreeMap, HashMap};
use std::io;

use serde::Deserialize;

use super::check::{FAULTS_MAX, covers};
use super::image::each_sector;
use super::stamp::{self, Content};
use super::{Image, Op, OpId, OpKind, OpLogError};

/// A record as a box dumps it, one line of JSON each. Unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// Position.
    pub seq: u64,
    /// `write`, `zero`, or another kind, which changes no content.
    pub kind: String,
    /// Volume slot; 0 where a record has none.
    #[serde(default)]
    pub volume: u16,
    /// First sector.
    #[serde(default)]
    pub sector: u64,
    /// Sectors.
    #[serde(default)]
    pub sectors: u64,
    /// CRC32C of the payload, where there is one.
    #[serde(default)]
    pub crc: Option<u32>,
}

/// Reads a dump.
pub fn parse_records(lines: impl io::BufRead) -> Result<Vec<Record>, OpLogError> {
    let mut records = Vec::new();
    for (n, line) in lines.lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            records.push(serde_json::from_str(&line).map_err(|source| OpLogError::Line { line: n + 1, source })?);
        }
    }
    Ok(records)
}

/// What is wrong with a list of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordFault {
    /// The Seq is not one more than the one before.
    Gap {
        /// The record behind the gap.
        seq: u64,
    },
    /// No operation of the log has this extent and payload.
    NobodyWroteIt {
        /// The record.
        seq: u64,
    },
    /// An operation has two records.
    Twice {
        /// The second.
        seq: u64,
        /// The operation.
        id: OpId,
    },
    /// A record stands behind one whose operation was issued only after this one was acknowledged.
    Reordered {
        /// The record that stands too late.
        seq: u64,
        /// Its operation.
        id: OpId,
        /// The operation that stands before it and came after.
        after: OpId,
    },
}

/// Records, with the operations they belong to.
#[derive(Debug, Clone, Default)]
pub struct RecordsReport {
    /// For each record its operation's place in the log; none where it changes no content or nobody wrote it.
    pub ops: Vec<Option<usize>>,
    /// Faults, at most 32.
    pub faults: Vec<RecordFault>,
}

impl RecordsReport {
    /// True if the order is one that the log allows.
    pub fn is_good(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Finds each record's operation and checks the order against the times of the log.
pub fn check_records(records: &[Record], ops: &[Op]) -> RecordsReport {
    let mut report = RecordsReport::default();
    let mut by_extent: HashMap<(u16, u64, u64, OpKind), Vec<usize>> = HashMap::new();
    for (i, op) in ops.iter().enumerate() {
        by_extent.entry((op.volume, op.sector, u64::from(op.sectors), op.kind)).or_default().push(i);
    }
    let mut used = vec![false; ops.len()];
    let mut latest: Option<usize> = None;
    let mut add = |fault| {
        if report.faults.len() < FAULTS_MAX {
            report.faults.push(fault);
        }
    };
    for (n, record) in records.iter().enumerate() {
        if n > 0 && records[n - 1].seq.checked_add(1) != Some(record.seq) {
            add(RecordFault::Gap { seq: record.seq });
        }
        let Some(kind) = content_kind(record) else {
            report.ops.push(None);
            continue;
        };
        let candidates = by_extent.get(&(record.volume, record.sector, record.sectors, kind)).map_or(&[][..], |v| v);
        let fits = |i: &usize| match kind {
            // Zeros look all alike; the writers never zero the same extent twice, and a log by hand may: then the earliest.
            OpKind::Zero => !used[*i],
            OpKind::Write => {
                let op = &ops[*i];
                record.crc == Some(stamp::crc32c(&stamp::payload(op.id, op.volume, op.sector, op.sectors)))
            }
        };
        let Some(index) = candidates.iter().copied().find(fits) else {
            add(RecordFault::NobodyWroteIt { seq: record.seq });
            report.ops.push(None);
            continue;
        };
        let op = &ops[index];
        if std::mem::replace(&mut used[index], true) {
            add(RecordFault::Twice { seq: record.seq, id: op.id });
        }
        match latest {
            Some(before) if op.surely_before(&ops[before]) => {
                add(RecordFault::Reordered { seq: record.seq, id: op.id, after: ops[before].id });
            }
            Some(before) if ops[before].invoked >= op.invoked => {}
            _ => latest = Some(index),
        }
        report.ops.push(Some(index));
    }
    report
}

fn content_kind(record: &Record) -> Option<OpKind> {
    match record.kind.as_str() {
        "write" => Some(OpKind::Write),
        "zero" => Some(OpKind::Zero),
        _ => None,
    }
}

/// Acknowledged operations that the records up to `seq` do not hold. `acknowledged_by` limits the question to what was
/// acknowledged by that time of the log.
pub fn covers_acknowledged(
    records: &[Record],
    found: &RecordsReport,
    ops: &[Op],
    seq: u64,
    acknowledged_by: u64,
) -> Vec<OpId> {
    let mut there = vec![false; ops.len()];
    for (_, op) in records.iter().zip(&found.ops).filter(|(r, _)| r.seq <= seq) {
        if let Some(op) = op {
            there[*op] = true;
        }
    }
    let missing = ops.iter().zip(there).filter(|(o, t)| !t && o.acknowledged.is_some_and(|a| a <= acknowledged_by));
    missing.map(|(o, _)| o.id).collect()
}

/// Which prefixes an image equals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixReport {
    /// Every run of S that gives exactly this image: neighbours differ only in records without visible effect. Empty if
    /// the image is no prefix at all.
    pub exact: Vec<std::ops::RangeInclusive<u64>>,
    /// The S with the fewest wrong sectors, the latest if there are several, for the one who looks for the cause.
    pub nearest: u64,
    /// Sectors that are wrong at `nearest`.
    pub wrong_sectors: u64,
    /// Some of them: volume and sector.
    pub examples: Vec<(u16, u64)>,
}

impl PrefixReport {
    /// True if the image equals the replay up to `seq`.
    pub fn is_exactly(&self, seq: u64) -> bool {
        self.exact.iter().any(|run| run.contains(&seq))
    }
}

/// Volume, sector, and the states (from, until) at which its content is right.
type SectorRuns = (u16, u64, Vec<(usize, usize)>);

/// Finds the prefixes that the images of a group equal. `records` start at the group's first record, on volumes of zeros.
/// S = 0 is the state before the first.
///
/// Each sector says by its content for which S it is right: from the record that wrote it to the one before the next that
/// covers it. An image is a prefix for the S at which all sectors are right.
pub fn check_prefix(
    images: &BTreeMap<u16, &dyn Image>,
    records: &[Record],
    found: &RecordsReport,
    ops: &[Op],
) -> io::Result<PrefixReport> {
    // Per volume and sector: indices of the records that cover it, in order.
    let mut history: BTreeMap<u16, Vec<Vec<u32>>> =
        images.iter().map(|(v, i)| (*v, vec![Vec::new(); i.sectors() as usize])).collect();
    for (n, record) in records.iter().enumerate().filter(|(_, r)| content_kind(r).is_some()) {
        let Some(volume) = history.get_mut(&record.volume) else { continue };
        let start = usize::try_from(record.sector).unwrap_or(usize::MAX).min(volume.len());
        let end = start.saturating_add(usize::try_from(record.sectors).unwrap_or(usize::MAX)).min(volume.len());
        volume[start..end].iter_mut().for_each(|h| h.push(n as u32));
    }
    // State k is the replay of the first k records. right[k] - right[k - 1] = change[k].
    let states = records.len() + 1;
    let mut change = vec![0i64; states + 1];
    let mut runs: Vec<SectorRuns> = Vec::new();
    let mut total = 0u64;
    for (volume, image) in images {
        let Some(history) = history.get(volume) else { continue };
        each_sector(*image, |sector, bytes| {
            let Some(writers) = history.get(sector as usize) else { return };
            let content = stamp::read(bytes);
            if writers.is_empty() && content == Content::Zero {
                return;
            }
            total += 1;
            let mut right = Vec::new();
            let mut from = 0;
            for step in 0..=writers.len() {
                let writer = step.checked_sub(1).map(|s| writers[s] as usize);
                let until = writers.get(step).map_or(states, |w| *w as usize + 1);
                if holds(
                    content,
                    writer.map(|w| (&records[w], found.ops.get(w).copied().flatten())),
                    ops,
                    *volume,
                    sector,
                ) {
                    right.push((from, until));
                }
                from = until;
            }
            for (from, until) in &right {
                change[*from] += 1;
                change[*until] -= 1;
            }
            runs.push((*volume, sector, right));
        })?;
    }
    let seq_of = |state: usize| match state.checked_sub(1) {
        Some(last) => records[last].seq,
        None => records.first().map_or(0, |r| r.seq.saturating_sub(1)),
    };
    let (mut exact, mut best, mut count): (Vec<(usize, usize)>, (usize, i64), i64) = (Vec::new(), (0, -1), 0);
    for (state, delta) in change[..states].iter().enumerate() {
        count += delta;
        if count >= best.1 {
            best = (state, count);
        }
        if count as u64 == total {
            match exact.last_mut() {
                Some((_, end)) if *end + 1 == state => *end = state,
                _ => exact.push((state, state)),
            }
        }
    }
    let wrong = runs.iter().filter(|(_, _, right)| !right.iter().any(|(f, u)| (*f..*u).contains(&best.0)));
    let examples: Vec<_> = wrong.clone().map(|(v, s, _)| (*v, *s)).take(FAULTS_MAX).collect();
    Ok(PrefixReport {
        exact: exact.into_iter().map(|(a, b)| seq_of(a)..=seq_of(b)).collect(),
        nearest: seq_of(best.0),
        wrong_sectors: wrong.count() as u64,
        examples,
    })
}

/// Whether a sector holds what this record leaves there; without a record, zeros.
fn holds(content: Content, writer: Option<(&Record, Option<usize>)>, ops: &[Op], volume: u16, sector: u64) -> bool {
    match (content, writer) {
        (Content::Zero, None) => true,
        (Content::Zero, Some((record, _))) => content_kind(record) == Some(OpKind::Zero),
        (Content::Stamped(stamp), Some((record, Some(op)))) => {
            let op = &ops[op];
            record.kind == "write"
                && stamp.id == op.id
                && (stamp.volume, stamp.sector) == (volume, sector)
                && covers(op, volume, sector)
        }
        _ => false,
    }
}
