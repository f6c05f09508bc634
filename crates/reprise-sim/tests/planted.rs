//! The test of the tests: each planted bug must be found by the black-box checks within so many seeds.
//! Run with `cargo test -p reprise-sim --features planted`.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use reprise_journal::planted::{Planted, plant};
use reprise_sim::{Bug, Feed, JournalHarness};

/// Seeds until a bug must be found. What each needs on average is a fifth of it or less.
const SEEDS: u64 = 400;

/// The seed and message by which the bug is found. A failed assertion of the journal counts: it is not silent.
fn hunt(journal: Option<Planted>, engine: Option<Bug>) -> Option<(u64, String)> {
    plant(journal);
    let found = (1..=SEEDS).find_map(|seed| {
        let feed = if seed.is_multiple_of(2) { Feed::Host } else { Feed::Link };
        let run = catch_unwind(AssertUnwindSafe(|| JournalHarness::new(seed, feed, engine).run(12)));
        match run {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some((seed, format!("cut {}: {}", failure.cut, failure.what))),
            Err(_) => Some((seed, "assertion of the journal".into())),
        }
    });
    plant(None);
    found
}

#[test]
fn every_planted_bug_is_found() {
    let journal = [
        Planted::TornTailAccepted,
        Planted::ChainUnchecked,
        Planted::IncarnationIgnored,
        Planted::IndexCut,
        Planted::FooterReopened,
        Planted::ReadSkipsWrong,
        Planted::TrimTooFar,
    ];
    let engine = [
        Bug::AckBeforeDurable,
        Bug::SealSkipped,
        Bug::StaleSuperblock,
        Bug::ReuseBeforeTrimDurable,
        Bug::FooterBeforeBatches,
        Bug::ApplyingSkipped,
    ];
    let mut missed = Vec::new();
    let bugs = journal.map(|b| (Some(b), None)).into_iter().chain(engine.map(|b| (None, Some(b))));
    for (journal, engine) in bugs {
        let name = journal.map_or_else(|| format!("{engine:?}"), |b| format!("{b:?}"));
        match hunt(journal, engine) {
            Some((seed, what)) => println!("{name}: found by seed {seed}, {what}"),
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
