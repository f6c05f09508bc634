//! The checker: the source's history as its records tell it, held against what the writers know and what images hold.
//!
//! It stands outside the boxes. From a box it takes only the list of records (Seq, extent, checksums) and a position; that
//! the list is true is checked against the log of the writers, and that an image equals the replay of the list up to the
//! position is checked byte for byte, since the content of every sector follows from the operation that wrote it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reprise_testkit::oracle::stamp::{self, Content, SECTOR};
use reprise_testkit::oracle::{Op, OpKind, OpLog};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::http::call;

/// Between two looks at the source's records: far less than filling a segment takes, since a segment that both boxes have
/// at home is given up with its records.
const READ_EVERY: Duration = Duration::from_millis(50);
/// Records asked for at a time.
const PAGE: u64 = 1000;
/// Records read again at each look: what was durable once must never read differently.
const READ_AGAIN: u64 = 64;

struct Entry {
    raw: Value,
    /// The operation, where the record changes content.
    op: Option<u32>,
}

/// Reads the source's records while the test runs.
pub(crate) struct SourceRecords {
    socket: PathBuf,
    group: &'static str,
    /// Record n has Seq n + 1.
    records: Mutex<Vec<Value>>,
}

impl SourceRecords {
    /// Reads until it is dropped by everybody else.
    pub(crate) fn start(socket: PathBuf, group: &'static str) -> Arc<Self> {
        let this = Arc::new(Self { socket, group, records: Mutex::default() });
        let weak = Arc::downgrade(&this);
        tokio::spawn(async move {
            while let Some(this) = weak.upgrade() {
                // The source may be dead just now; what is wrong otherwise shows when the test itself asks.
                let _ = this.read(usize::MAX).await;
                drop(this);
                tokio::time::sleep(READ_EVERY).await;
            }
        });
        this
    }

    /// All records that the source has, from record number `skip` on.
    async fn read(&self, skip: usize) -> Result<Vec<Value>> {
        let mut records = self.records.lock().await;
        let mut from = (records.len() as u64 + 1).saturating_sub(READ_AGAIN).max(1);
        loop {
            let path = format!("/api/v1/inspect?group={}&from_seq={from}&limit={PAGE}", self.group);
            let page = call(&self.socket, "GET", &path, None).await?;
            ensure!(page.status == 200, "inspect: {}", page.body);
            for record in page.body["records"].as_array().context("records of a page")? {
                take(&mut records, record)?;
            }
            match page.body["next_seq"].as_u64() {
                Some(next) if next > from => from = next,
                _ => return Ok(records.get(skip..).unwrap_or_default().to_vec()),
            }
        }
    }
}

fn take(records: &mut Vec<Value>, record: &Value) -> Result<()> {
    let seq = record["seq"].as_u64().context("a record without Seq")?;
    let next = records.len() as u64 + 1;
    ensure!(seq <= next, "record {next} is missing: the next that the source shows is {seq}");
    if seq == next {
        records.push(record.clone());
    } else if let Some(known) = seq.checked_sub(1).and_then(|i| records.get(i as usize)) {
        ensure!(known == record, "record {seq} was {known} and is {record}");
    }
    Ok(())
}

pub(crate) struct History {
    source: Arc<SourceRecords>,
    /// Names of the volumes; a volume's slot in the log is its place here.
    volumes: Vec<&'static str>,
    /// Entry n is the record with Seq n + 1.
    entries: Vec<Entry>,
    ops: Vec<Op>,
    by_extent: HashMap<(u16, u64, u64, OpKind), Vec<u32>>,
    has_record: Vec<bool>,
    /// What each sector of each volume holds after the record `state_seq`: the operation, or zeros.
    state: Vec<Vec<Option<u32>>>,
    state_seq: u64,
    /// Sectors of images that were compared.
    pub(crate) sectors_compared: u64,
}

impl History {
    pub(crate) fn new(source: Arc<SourceRecords>, volumes: Vec<&'static str>, sectors: u64) -> Self {
        Self {
            source,
            state: volumes.iter().map(|_| vec![None; sectors as usize]).collect(),
            volumes,
            entries: Vec::new(),
            ops: Vec::new(),
            by_extent: HashMap::new(),
            has_record: Vec::new(),
            state_seq: 0,
            sectors_compared: 0,
        }
    }

    /// Records known.
    pub(crate) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Reads the records that the source has and this does not, and finds the operation of each.
    pub(crate) async fn collect(&mut self, log: &OpLog) -> Result<()> {
        let known = self.entries.len();
        let new = self.source.read(known).await?;
        self.entries.extend(new.into_iter().map(|raw| Entry { raw, op: None }));
        // Every operation is logged before it is issued, so that after the records all their operations are there.
        self.learn(log.ops());
        for index in known..self.entries.len() {
            self.find(index)?;
        }
        Ok(())
    }

    fn learn(&mut self, ops: Vec<Op>) {
        for (index, op) in ops.iter().enumerate().skip(self.ops.len()) {
            let extent = (op.volume, op.sector, u64::from(op.sectors), op.kind);
            self.by_extent.entry(extent).or_default().push(index as u32);
        }
        self.has_record.resize(ops.len(), false);
        self.ops = ops;
    }

    fn find(&mut self, index: usize) -> Result<()> {
        let Some(entry) = self.entries.get_mut(index) else { return Ok(()) };
        let record = &entry.raw;
        let kind = match record["kind"].as_str() {
            Some("write") => OpKind::Write,
            Some("zero") => OpKind::Zero,
            _ => return Ok(()),
        };
        let volume = self.volumes.iter().position(|v| record["volume"] == *v);
        let volume = volume.with_context(|| format!("record of an unknown volume: {record}"))? as u16;
        let (Some(sector), Some(sectors)) = (record["sector"].as_u64(), record["sectors"].as_u64()) else {
            bail!("record without extent: {record}")
        };
        let candidates = self.by_extent.get(&(volume, sector, sectors, kind)).map_or(&[][..], |v| v);
        let found = candidates.iter().copied().find(|i| match kind {
            // Zeros look all alike, but no two zeroings have the same extent.
            OpKind::Zero => self.has_record.get(*i as usize) == Some(&false),
            OpKind::Write => self.ops.get(*i as usize).is_some_and(|op| checksums_fit(record, op)),
        });
        let found = found.with_context(|| format!("nobody wrote this: {record}"))?;
        let twice = self.has_record.get_mut(found as usize).is_none_or(|has| std::mem::replace(has, true));
        ensure!(!twice, "an operation has two records; the second is {record}");
        entry.op = Some(found);
        Ok(())
    }

    /// Fails if an operation that was acknowledged when `ops` was taken has no record. Collect after taking it.
    pub(crate) fn holds_acknowledged(&self, ops: &[Op]) -> Result<u64> {
        let mut acknowledged = 0;
        for (index, op) in ops.iter().enumerate().filter(|(_, op)| op.acknowledged.is_some()) {
            acknowledged += 1;
            let there = self.has_record.get(index) == Some(&true);
            ensure!(there, "an acknowledged write is lost, {} records are known: {op:?}", self.len());
        }
        Ok(acknowledged)
    }

    /// Fails if a record stands behind one that was issued only after it had been acknowledged.
    pub(crate) fn is_in_order(&self) -> Result<()> {
        let mut latest: Option<&Op> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            let Some(op) = entry.op.and_then(|o| self.ops.get(o as usize)) else { continue };
            match latest {
                Some(before) if op.surely_before(before) => {
                    bail!("record {} stands behind one that came later: {op:?} behind {before:?}", index + 1)
                }
                Some(before) if before.invoked >= op.invoked => {}
                _ => latest = Some(op),
            }
        }
        Ok(())
    }

    /// Fails unless the images are exactly the replay of the first `seq` records.
    pub(crate) fn is_replay(&mut self, images: &[PathBuf], seq: u64) -> Result<()> {
        ensure!(seq <= self.len(), "the mirror has record {seq}, the source only {}", self.len());
        ensure!(seq >= self.state_seq, "the mirror was at Seq {} and is at {seq}", self.state_seq);
        while self.state_seq < seq {
            let entry = self.entries.get(self.state_seq as usize).context("record")?;
            self.state_seq += 1;
            let Some(index) = entry.op else { continue };
            let op = self.ops.get(index as usize).context("operation")?;
            let range = op.sector as usize..(op.sector + u64::from(op.sectors)) as usize;
            let volume = self.state.get_mut(usize::from(op.volume)).context("volume")?;
            let holds = (op.kind == OpKind::Write).then_some(index);
            volume.get_mut(range).context("extent")?.fill(holds);
        }
        ensure!(images.len() == self.volumes.len(), "{} homes for {} volumes", images.len(), self.volumes.len());
        for (volume, path) in images.iter().enumerate() {
            self.is_state(volume, path).with_context(|| format!("{} is not the replay up to {seq}", path.display()))?;
        }
        Ok(())
    }

    fn is_state(&mut self, volume: usize, path: &PathBuf) -> Result<()> {
        let bytes = std::fs::read(path).context("read the home")?;
        let (sectors, rest) = bytes.as_chunks::<SECTOR>();
        let state = self.state.get(volume).context("volume")?;
        ensure!(rest.is_empty() && sectors.len() == state.len(), "it has {} bytes", bytes.len());
        let mut wrong = Vec::new();
        for (at, (bytes, expected)) in sectors.iter().zip(state).enumerate() {
            let op = expected.and_then(|o| self.ops.get(o as usize));
            let right = match (stamp::read(bytes), op) {
                (Content::Zero, None) => true,
                (Content::Stamped(s), Some(op)) => {
                    s.id == op.id && (usize::from(s.volume), s.sector as usize) == (volume, at)
                }
                _ => false,
            };
            if !right {
                wrong.push((at, stamp::read(bytes), op.map(|o| o.id)));
            }
        }
        self.sectors_compared += state.len() as u64;
        if let Some((at, holds, expected)) = wrong.first() {
            bail!("{} sectors are wrong; sector {at} holds {holds:?}, expected {expected:?}", wrong.len());
        }
        Ok(())
    }
}

fn checksums_fit(record: &Value, op: &Op) -> bool {
    let payload = stamp::payload(op.id, op.volume, op.sector, op.sectors);
    record["crc32c"] == serde_json::json!([format!("{:08x}", stamp::crc32c(&payload))])
}
