//! The test of the tests for engine and link: each planted bug must be found by what can be seen from outside.
//! Run with `cargo xtask test --only planted`.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use reprise_engine::planted as engine;
use reprise_journal::planted as journal;
use reprise_link::planted as link;
use reprise_sim::pair::{Plan, Tell, run};

/// Seeds until a bug must be found.
const SEEDS: u64 = 400;

#[derive(Debug, Clone, Copy)]
enum Bug {
    Engine(engine::Planted),
    Link(link::Planted),
    Journal(journal::Planted),
}

fn plant(bug: Option<Bug>) {
    engine::plant(None);
    link::plant(None);
    journal::plant(None);
    match bug {
        None => {}
        Some(Bug::Engine(bug)) => {
            engine::plant(Some(bug));
            if bug == engine::Planted::SendBeforeDurable {
                journal::plant(Some(journal::Planted::BatchBeforeDurable));
            }
        }
        Some(Bug::Journal(bug)) => journal::plant(Some(bug)),
        Some(Bug::Link(bug)) => {
            link::plant(Some(bug));
            if bug == link::Planted::GapAccepted {
                journal::plant(Some(journal::Planted::GapUnchecked));
            }
        }
    }
}

/// Seeds that found a bug which not every run meets: asked first, so that the test is short. `docs/reliability.md` says
/// after how many seeds from 1 on each was found.
const KNOWN: &[(&str, u64)] = &[
    ("CopyNotFlushed", 14),
    ("MirrorAcksReceived", 10),
    ("FailedHomeBelieved", 14),
    ("MomentsBeforeCopyEnd", 24),
    ("CreditAdded", 24),
    ("TrimDuringOffer", 14),
    ("FailedWriteBelieved", 30),
    ("FreedBeforeTrimDurable", 54),
    ("InstanceConfirmedEarly", 124),
    ("LinkNotHeld", 124),
    ("ApplyLimitIgnored", 134),
    ("SendLimitIgnored", 114),
    ("GapAccepted", 118),
    ("CopyReadsNewest", 1114),
    ("AnswerUnsettled", 334),
    ("FreedUnderReads", 1474),
    ("ReachIgnored", 11),
    ("RoundUnbounded", 84),
    ("ZerosUncounted", 14),
    ("WaitingZerosPassed", 14),
    ("UnitNotSaidAgain", 214),
    ("UnitNotStored", 106),
    ("ApplyingGoesBack", 1),
    ("StallKept", 5165),
    ("HashesNotCompared", 29),
    ("FixesAtOnce", 237),
    ("NewerIsTorn", 61),
    ("UnitsNotReplayed", 41),
];

/// Bugs that the search does not find: `docs/reliability.md` says why. They are hunted only when `REPRISE_BUG` names them.
const OPEN: &[&str] = &["OldRegionsSent", "RewriteNotHeld"];

/// The seed of a round, from 1 on: every other one has scenes.
fn seed_of(round: u64) -> u64 {
    if round.is_multiple_of(2) { round } else { round * 5 - 1 }
}

/// Runs a seed with a bug; how it was found, if it was.
fn found(bug: Bug, seed: u64) -> Option<String> {
    plant(Some(bug));
    let report = run(Plan::new(seed), Tell::Nothing);
    plant(None);
    report.wrong().map(str::to_owned)
}

/// The seed that is asked first: of `REPRISE_SEED`, or of those known.
fn known(bug: Bug) -> Option<u64> {
    if let Ok(seed) = std::env::var("REPRISE_SEED") {
        return seed.parse().ok();
    }
    let name = format!("{bug:?}");
    KNOWN.iter().find(|(of, _)| name.contains(&format!("({of})"))).map(|(_, seed)| *seed)
}

#[test]
fn every_planted_bug_of_engine_and_link_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    // Names, with commas between.
    let only = std::env::var("REPRISE_BUG").ok();
    let from_one = std::env::var_os("REPRISE_FROM_ONE").is_some();
    // The journal's own are hunted by its own harness, but for what needs a group.
    let journal = [journal::Planted::FloorForgotten, journal::Planted::NewerIsTorn].map(Bug::Journal);
    let engine = engine::Planted::ALL.iter().copied().map(Bug::Engine);
    let all = engine.chain(link::Planted::ALL.iter().copied().map(Bug::Link)).chain(journal);
    let wanted = |bug: &Bug| {
        let name = format!("{bug:?}");
        match &only {
            Some(only) => only.split(',').any(|only| name.contains(&format!("({only})"))),
            None => !OPEN.iter().any(|open| name.contains(&format!("({open})"))),
        }
    };
    let bugs: Vec<Bug> = all.filter(wanted).collect();
    let open: Mutex<Vec<bool>> = Mutex::new(vec![true; bugs.len()]);
    // Seed by seed through all bugs that are still there, so that the rare ones do not keep the others waiting.
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (round, at) = ((i / bugs.len()) as u64, i % bugs.len());
            if round > SEEDS || open.lock().unwrap().iter().all(|o| !o) {
                return;
            }
            let bug = bugs[at];
            let seed = if round > 0 { Some(seed_of(round)) } else { known(bug).filter(|_| !from_one) };
            let Some(seed) = seed.filter(|_| open.lock().unwrap()[at]) else { continue };
            if let Some(what) = found(bug, seed)
                && std::mem::take(&mut open.lock().unwrap()[at])
            {
                println!("{bug:?}: found by seed {seed}, {what}");
            }
        }
    };
    std::thread::scope(|s| (0..2).for_each(|_| drop(s.spawn(work))));
    let _ = std::panic::take_hook();
    let open = open.into_inner().unwrap();
    let missed: Vec<Bug> = bugs.iter().zip(&open).filter(|(_, open)| **open).map(|(bug, _)| *bug).collect();
    println!("{} planted, {} not found; not hunted: {OPEN:?}", bugs.len(), missed.len());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
