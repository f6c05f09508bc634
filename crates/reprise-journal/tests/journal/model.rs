//! Random histories against flat arrays of sectors: whatever is written, applied, trimmed and restarted, every moment that
//! may be read is the history replayed up to it.

use proptest::prelude::*;
use reprise_journal::WriteToken;
use reprise_types::{ByteLen, Seq};

use crate::bench::*;

const VOLUMES: u16 = 2;
const SECTORS: u64 = 700;

#[derive(Debug, Clone)]
enum Op {
    Write {
        volume: u16,
        sector: u64,
        sectors: u64,
    },
    Zero {
        volume: u16,
        sector: u64,
        sectors: u64,
    },
    Mark,
    /// Writes until nothing waits.
    Flush,
    /// One write that stays in flight, or the end of the one that is.
    Half,
    /// Home takes a part of what is durable, in eighths, and what can go is trimmed.
    Apply(u64),
    Tail(u64),
    /// The power goes; what was in flight is on the disk or not.
    Cut {
        lost: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let place = (0..VOLUMES, 0..SECTORS - 512, prop_oneof![1u64..20, 1u64..=512]);
    prop_oneof![
        6 => place.clone().prop_map(|(volume, sector, sectors)| Op::Write { volume, sector, sectors }),
        1 => place.prop_map(|(volume, sector, sectors)| Op::Zero { volume, sector, sectors }),
        1 => Just(Op::Mark),
        3 => Just(Op::Flush),
        2 => Just(Op::Half),
        2 => (1u64..=8).prop_map(Op::Apply),
        1 => (0u64..1 << 20).prop_map(Op::Tail),
        1 => any::<bool>().prop_map(|lost| Op::Cut { lost }),
    ]
}

/// A record of the history: what it did to which sectors. `id` is 0 for zeros; a mark touches nothing.
#[derive(Clone)]
struct Done {
    volume: u16,
    sectors: std::ops::Range<usize>,
    id: u64,
}

struct Model {
    bench: Bench,
    history: Vec<Done>,
    /// The write in flight, its place, and what lay there before.
    in_flight: Option<(WriteToken, u64, Vec<u8>)>,
}

impl Model {
    fn new() -> Self {
        Self { bench: Bench::new(0), history: Vec::new(), in_flight: None }
    }

    fn note(&mut self, got: Seq, volume: u16, sector: u64, sectors: u64, id: u64) {
        self.history.push(Done { volume, sectors: sector as usize..(sector + sectors) as usize, id });
        assert_eq!(got, seq(self.history.len() as u64));
    }

    fn finish(&mut self) {
        if let Some((token, ..)) = self.in_flight.take() {
            self.bench.journal.write_done(token);
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Write { volume, sector, sectors } => {
                let got = self.bench.write(volume, sector, sectors);
                self.note(got, volume, sector, sectors, got.get());
            }
            Op::Zero { volume, sector, sectors } => {
                let got = self.bench.zero(volume, sector, sectors);
                self.note(got, volume, sector, sectors, 0);
            }
            Op::Mark => {
                let got = self.bench.mark();
                self.note(got, 0, 0, 0, 0);
            }
            Op::Flush => {
                self.finish();
                self.bench.flush();
            }
            Op::Half if self.in_flight.is_some() => self.finish(),
            Op::Half => self.submit(),
            Op::Apply(eighths) => {
                let (applied, durable) = (self.bench.applied, self.bench.journal.durable().seq);
                let to = seq(applied.get() + durable.since(applied) * eighths / 8);
                self.bench.apply(to);
                self.bench.trim(to);
            }
            Op::Tail(max) => self.bench.journal.set_ram_tail_max(ByteLen::from_raw(max)),
            Op::Cut { lost } => self.cut(lost),
        }
    }

    fn submit(&mut self) {
        self.bench.grant();
        if let Some(write) = self.bench.journal.poll_write(now(self.history.len() as u64), VERSION) {
            let bytes = bytes_of(&write);
            let old = self.bench.cache.slice(write.at, bytes.len()).to_vec();
            self.bench.put(write.at, &bytes);
            self.in_flight = Some((write.token, write.at, old));
        }
    }

    fn cut(&mut self, lost: bool) {
        let (durable, written) = (self.bench.journal.durable().seq, self.bench.journal.written());
        if let Some((_, at, old)) = self.in_flight.take().filter(|_| lost) {
            self.bench.put(at, &old);
        }
        self.bench.restart(1 << 18);
        let end = self.bench.journal.durable().seq;
        assert!(durable <= end && end <= written, "{end} after a cut, {durable} of {written} was durable");
        self.history.truncate(end.get() as usize);
    }

    /// Newest record of each sector that home lacks, as of `moment`.
    fn image(&self, volume: u16, moment: Seq) -> Vec<Option<u64>> {
        let mut image = vec![None; SECTORS as usize];
        let behind_home = &self.history[self.bench.applied.get() as usize..moment.get() as usize];
        for done in behind_home.iter().filter(|done| done.volume == volume) {
            image[done.sectors.clone()].fill(Some(done.id));
        }
        image
    }

    fn check_newest(&mut self) {
        for volume in 0..VOLUMES {
            let image = self.image(volume, self.bench.journal.written());
            let read = self.bench.newest(extent(volume, 0, SECTORS));
            assert!(read == expected(0, &image), "volume {volume}");
        }
    }

    /// What is durable, beside records that are not, is known from what they cover.
    fn check_durable(&mut self) {
        let (applied, durable) = (self.bench.applied, self.bench.journal.durable().seq);
        for volume in 0..VOLUMES {
            let plan = self.bench.journal.plan_durable(applied, extent(volume, 0, SECTORS));
            assert!(
                self.bench.read(&plan) == expected(0, &self.image(volume, durable)),
                "volume {volume} at {durable}"
            );
            assert!(plan.newest <= durable);
            for (from, len) in [(0, 1), (SECTORS / 3, SECTORS / 4), (SECTORS - 2, 2)] {
                let plan = self.bench.journal.plan_durable(applied, extent(volume, from, len));
                let image = &self.image(volume, durable)[from as usize..(from + len) as usize];
                assert!(self.bench.read(&plan) == expected(from, image), "volume {volume}: {len} at {from}");
            }
        }
    }

    fn check_moment(&mut self, moment: Seq) {
        let index = self.bench.journal.index_at(self.bench.applied, moment);
        for volume in 0..VOLUMES {
            let plan = self.bench.journal.plan_with(&index, extent(volume, 0, SECTORS));
            let image = self.image(volume, moment);
            assert!(self.bench.read(&plan) == expected(0, &image), "volume {volume} as of {moment}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn every_moment_is_the_history_replayed(ops in prop::collection::vec((op(), 0u64..8), 1..60)) {
        let mut model = Model::new();
        for (op, eighths) in ops {
            // From some moment on, and not while everything is small and dense.
            model.bench.journal.keep_covered(eighths < 6);
            model.step(&op);
            model.check_newest();
            model.check_durable();
            let (applied, durable) = (model.bench.applied, model.bench.journal.durable().seq);
            model.check_moment(seq(applied.get() + durable.since(applied) * eighths / 7));
        }
        // At the end all of it is on disk, is found again after a restart, and can be applied and freed.
        model.step(&Op::Apply(8));
        model.step(&Op::Flush);
        model.cut(false);
        model.check_newest();
        model.step(&Op::Apply(8));
        prop_assert!(model.bench.journal.index_len() == 0 && model.bench.journal.segments_held() <= 2);
    }
}
