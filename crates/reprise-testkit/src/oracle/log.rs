//! The log of operations: what was issued when, and what was acknowledged when.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Names an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OpId {
    /// The writer.
    pub writer: u32,
    /// Its count of operations.
    pub op: u64,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpKind {
    /// Writes stamped sectors.
    Write,
    /// Makes sectors zero.
    Zero,
}

/// An operation. Times are microseconds of the log's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Its name.
    pub id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// Volume.
    pub volume: u16,
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u32,
    /// Before it was handed to the initiator.
    pub invoked: u64,
    /// When it was acknowledged; none if it never was.
    pub acknowledged: Option<u64>,
    /// When it could no longer take effect, for an operation that was never acknowledged: see [`OpLog::settle`].
    pub settled: Option<u64>,
}

impl Op {
    /// It took effect no later than this, if at all.
    pub fn ended(&self) -> Option<u64> {
        self.acknowledged.or(self.settled)
    }

    /// It took effect, if at all, before `other` was issued.
    pub fn surely_before(&self, other: &Op) -> bool {
        self.ended().is_some_and(|ended| ended < other.invoked)
    }
}

/// The log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OpLogError {
    /// Reading failed.
    #[error("read the operation log")]
    Io(#[from] io::Error),
    /// A line is not what the log writes.
    #[error("operation log line {line}")]
    Line {
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Op(Op),
    Ack { id: OpId, at: u64 },
    Settle { at: u64 },
}

#[derive(Default)]
struct Inner {
    ops: Vec<Op>,
    index: HashMap<OpId, usize>,
    /// Extents of zeroings.
    zeroed: HashSet<(u16, u64, u32)>,
    last: u64,
    file: Option<File>,
}

/// The log; shared by all writers of a group.
pub struct OpLog {
    start: Instant,
    inner: Mutex<Inner>,
}

impl Default for OpLog {
    fn default() -> Self {
        Self::new()
    }
}

impl OpLog {
    /// A log in memory.
    pub fn new() -> Self {
        Self { start: Instant::now(), inner: Mutex::default() }
    }

    /// A log that is also written to a file, a line per event.
    pub fn with_file(path: &Path) -> io::Result<Self> {
        let log = Self::new();
        log.lock().file = Some(File::create(path)?);
        Ok(log)
    }

    /// Reads a log back.
    pub fn load(path: &Path) -> Result<Self, OpLogError> {
        let log = Self::new();
        for (n, line) in BufReader::new(File::open(path)?).lines().enumerate() {
            let event = serde_json::from_str(&line?).map_err(|source| OpLogError::Line { line: n + 1, source })?;
            log.lock().apply(event);
        }
        Ok(log)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Strictly growing, so that two events are never at once.
    fn tick(&self, inner: &mut Inner) -> u64 {
        inner.last = (inner.last + 1).max(self.start.elapsed().as_micros() as u64);
        inner.last
    }

    /// Logs an operation; call it before it is issued.
    pub fn invoke(&self, id: OpId, kind: OpKind, volume: u16, sector: u64, sectors: u32) {
        let mut inner = self.lock();
        let invoked = self.tick(&mut inner);
        inner.record(Event::Op(Op { id, kind, volume, sector, sectors, invoked, acknowledged: None, settled: None }));
    }

    /// Logs a zeroing, unless an earlier one had the very same extent: then nothing is logged, and the answer is false. Zeros carry no
    /// stamp, so the extent alone tells which operation a record of zeros belongs to, above all where an operation that
    /// was cut off left no record.
    pub fn invoke_zeroing(&self, id: OpId, volume: u16, sector: u64, sectors: u32) -> bool {
        let mut inner = self.lock();
        if inner.zeroed.contains(&(volume, sector, sectors)) {
            return false;
        }
        let invoked = self.tick(&mut inner);
        let kind = OpKind::Zero;
        inner.record(Event::Op(Op { id, kind, volume, sector, sectors, invoked, acknowledged: None, settled: None }));
        true
    }

    /// Logs the acknowledgement; call it when GOOD has come.
    pub fn acknowledge(&self, id: OpId) {
        let mut inner = self.lock();
        let at = self.tick(&mut inner);
        inner.record(Event::Ack { id, at });
    }

    /// Says that nothing issued before and not acknowledged can take effect any more: the box's process is dead and was
    /// started again. Without this such an operation may appear at any later time.
    pub fn settle(&self) {
        let mut inner = self.lock();
        let at = self.tick(&mut inner);
        inner.record(Event::Settle { at });
    }

    /// All operations in the order they were issued.
    pub fn ops(&self) -> Vec<Op> {
        self.lock().ops.clone()
    }

    /// Operations issued, and acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.ops.len(), inner.ops.iter().filter(|o| o.acknowledged.is_some()).count())
    }
}

impl Inner {
    fn record(&mut self, event: Event) {
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_string(&event)) {
            line.push('\n');
            if let Err(error) = file.write_all(line.as_bytes()) {
                panic!("write the operation log: {error}");
            }
        }
        self.apply(event);
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Op(op) => {
                self.last = self.last.max(op.invoked);
                if op.kind == OpKind::Zero {
                    self.zeroed.insert((op.volume, op.sector, op.sectors));
                }
                let before = self.index.insert(op.id, self.ops.len());
                assert!(before.is_none(), "operation {:?} issued twice", op.id);
                self.ops.push(op);
            }
            Event::Ack { id, at } => {
                self.last = self.last.max(at);
                if let Some(op) = self.index.get(&id).and_then(|i| self.ops.get_mut(*i)) {
                    op.acknowledged = Some(at);
                }
            }
            Event::Settle { at } => {
                self.last = self.last.max(at);
                let open = self.ops.iter_mut().filter(|o| o.ended().is_none());
                open.for_each(|o| o.settled = Some(at));
            }
        }
    }
}
