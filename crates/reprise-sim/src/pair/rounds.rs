//! What one round of a home asks for: memory for the bytes of its records, and zeros. A home that is far behind catches up in
//! many rounds, never in one.

use reprise_engine::{Effect, Group};
use reprise_format::batch::BATCH_LEN_MAX;
use reprise_journal::BatchSource;
use reprise_types::Seq;

use crate::pair::world::World;

/// Batches of a round.
const BATCHES_MAX: u64 = 1024;
/// What a mirror reads of its journal beside a round: a batch that the source wants again, and one that was lost before.
const BESIDE: u64 = 2 * BATCH_LEN_MAX as u64;

/// What is known of a box's rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// How far the home was after the step before, and in which life of the box.
    applied: Option<(u64, Seq)>,
    /// Regions of a comparison may still be read.
    compared: bool,
}

fn reads(effect: &Effect) -> u64 {
    if let Effect::ReadCache { len, .. } = effect { *len as u64 } else { 0 }
}

fn last_of(batch: &BatchSource) -> Seq {
    match batch {
        BatchSource::Ram(batch) => batch.last_seq(),
        BatchSource::Disk(place) => place.last_seq,
    }
}

impl World {
    /// After every step of a group: where its home has come further, that was one round, and not larger than a round may
    /// be. A single batch is one, whatever it holds.
    pub(super) fn check_round(&mut self, n: usize) {
        let life = self.boxes[n].life;
        let Some(group) = self.boxes[n].group() else { return };
        let applied = group.meta().applied;
        let before = self.rounds[n].applied.replace((life, applied));
        let Some((_, from)) = before.filter(|(of, from)| *of == life && *from < applied) else { return };
        let (mut batches, mut at) = (0, from);
        while at < applied {
            // A mirror's journal that has just begun has nothing of what is before it.
            let Some(batch) = group.journal().batch_after(at) else { return };
            (batches, at) = (batches + 1, last_of(&batch));
        }
        let bytes = self.line(n).bytes_between(from, applied);
        let bound = self.plan.round_bytes;
        self.counts.rounds += 1;
        if batches > BATCHES_MAX || batches > 1 && bytes > bound {
            let name = Self::name(n);
            self.fail(format!("{name}: one round of {bytes} bytes in {batches} batches, at most {bound}"));
        }
    }

    /// A mirror reads its journal for its home: no more at a time than one round takes.
    pub(super) fn check_read(&mut self, n: usize, effect: &Effect) {
        if n == 0 || reads(effect) == 0 {
            return;
        }
        let pending = self.boxes[n].process.iter().flat_map(|p| p.pending.values());
        let before: u64 = pending.map(|(_, effect)| reads(effect)).sum();
        let compared = self.comparing.is_some() || self.rounds[n].compared && before > 0;
        self.rounds[n].compared = compared;
        let (asked, bound) = (before + reads(effect), self.plan.round_bytes.max(BATCH_LEN_MAX as u64) + BESIDE);
        if asked > bound && !compared {
            self.fail(format!(
                "{}: {asked} bytes of the journal are asked for at a time, at most {bound}",
                Self::name(n)
            ));
        }
    }

    /// At the end of a first copy: how many rounds its home is behind what it may hold already.
    pub(super) fn rounds_behind(&self, n: usize) -> u64 {
        let Some(meta) = self.boxes[n].group().map(Group::meta) else { return 0 };
        self.line(n).bytes_between(meta.applied, meta.applying) / self.plan.round_bytes
    }
}
