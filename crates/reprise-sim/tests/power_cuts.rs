//! At least 2,000 power cuts of the journal, by seed.
//!
//! `REPRISE_SEED=n` runs that seed alone; seeds that failed once stand in `tests/seeds.txt` and run first.
#![allow(clippy::unwrap_used)]

use reprise_sim::{Feed, JournalHarness, Totals};

const SEEDS: u64 = 104;
const CUTS_PER_SEED: u64 = 20;

fn run(seed: u64) -> Totals {
    let feed = if seed.is_multiple_of(2) { Feed::Host } else { Feed::Link };
    let mut harness = JournalHarness::new(seed, feed, None);
    if let Err(e) = harness.run(CUTS_PER_SEED) {
        panic!("seed {seed} ({feed:?}), cut {}: {}; replay with REPRISE_SEED={seed}", e.cut, e.what);
    }
    harness.totals
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_invented() {
    let kept = include_str!("seeds.txt").lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.trim().parse().ok());
    let seeds: Vec<u64> = match std::env::var("REPRISE_SEED") {
        Ok(seed) => vec![seed.parse().expect("REPRISE_SEED is a number")],
        Err(_) => kept.chain(1..=SEEDS).collect(),
    };
    println!(
        "seeds: {} kept and 1..={SEEDS}, {CUTS_PER_SEED} cuts each",
        seeds.len() as u64 - SEEDS.min(seeds.len() as u64)
    );
    // A run is a function of its seed alone, so seeds may share the cores.
    let totals = std::thread::scope(|scope| {
        let workers = [0, 1].map(|part| {
            let own: Vec<u64> = seeds.iter().skip(part).step_by(2).copied().collect();
            scope.spawn(move || {
                own.into_iter().fold(Totals::default(), |mut totals, seed| {
                    totals.add(&run(seed));
                    totals
                })
            })
        });
        let mut totals = Totals::default();
        for worker in workers {
            totals.add(&worker.join().expect("a seed failed; its message stands above"));
        }
        totals
    });
    let Totals { cuts, torn, nested, records, segments, views, cases } = &totals;
    println!(
        "power cuts {cuts}, torn {torn}, inside recovery {nested}, records {records}, segments {segments}, views {views}, \
         cases {cases:?}"
    );
    if seeds.len() > 1 {
        assert!(*cuts >= 2000, "only {cuts} cuts");
        assert!(*nested >= 100 && *torn >= 500 && *segments >= 200, "the run does not reach what it is for");
    }
}
