//! Batches kept in memory, so that cursors and reads need not go to the disk for what is young.

use std::collections::VecDeque;
use std::sync::Arc;

use reprise_types::{ByteLen, Seq};

use crate::batch::Batch;

/// The newest batches, oldest first and without gaps: all that are not durable, and of the others as many as there is room
/// for.
#[derive(Debug)]
pub(crate) struct Tail {
    batches: VecDeque<Arc<Batch>>,
    bytes: u64,
    /// Room, in bytes of bodies. Past it the oldest durable ones go.
    max: ByteLen,
}

impl Tail {
    pub(crate) fn new(max: ByteLen) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, max }
    }

    pub(crate) fn push(&mut self, batch: Arc<Batch>) {
        self.bytes += batch.body_len() as u64;
        self.batches.push_back(batch);
    }

    /// The batch that holds `seq`.
    pub(crate) fn holding(&self, seq: Seq) -> Option<&Arc<Batch>> {
        let after = self.batches.partition_point(|b| b.first_seq() <= seq);
        self.batches.get(after.checked_sub(1)?).filter(|b| seq <= b.last_seq())
    }

    pub(crate) fn set_max(&mut self, max: ByteLen, durable: Seq) {
        self.max = max;
        self.shrink(durable);
    }

    /// Lets the oldest go while there are too many, as far as they are durable.
    pub(crate) fn shrink(&mut self, durable: Seq) {
        while self.bytes > self.max.get() && self.pop_front_to(durable) {}
    }

    /// Lets go what the journal no longer holds.
    pub(crate) fn trim(&mut self, trimmed: Seq) {
        while self.pop_front_to(trimmed) {}
    }

    /// Lets go what lies behind `seq`.
    pub(crate) fn forget_after(&mut self, seq: Seq) {
        while let Some(newest) = self.batches.pop_back_if(|b| b.last_seq() > seq) {
            self.bytes -= newest.body_len() as u64;
        }
    }

    /// Batches follow each other, and their bytes are those counted.
    ///
    /// # Panics
    /// When that is not so.
    pub(crate) fn assert_sums(&self) {
        let bytes: u64 = self.batches.iter().map(|b| b.body_len() as u64).sum();
        assert!(bytes == self.bytes, "{} bytes counted in a tail of {bytes}", self.bytes);
        let mut pairs = self.batches.iter().zip(self.batches.iter().skip(1));
        assert!(pairs.all(|(one, next)| next.first_seq() == one.last_seq().next()), "a gap in the tail");
    }

    fn pop_front_to(&mut self, to: Seq) -> bool {
        let gone = self.batches.pop_front_if(|b| b.last_seq() <= to);
        self.bytes -= gone.as_ref().map_or(0, |b| b.body_len() as u64);
        gone.is_some()
    }
}
