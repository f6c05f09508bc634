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
const SEEDS: u64 = 300;

#[derive(Debug, Clone, Copy)]
enum Bug {
    Engine(engine::Planted),
    Link(link::Planted),
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
const KNOWN: &[(&str, u64)] = &[];

/// The seed and message by which the bug is found.
fn hunt(bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
    let name = format!("{bug:?}");
    let known = KNOWN.iter().filter(|(of, _)| name.contains(of)).map(|(_, seed)| *seed);
    let known = known.filter(|_| std::env::var_os("REPRISE_FROM_ONE").is_none());
    let found = known.chain(1..=SEEDS).find_map(|seed| {
        let report = run(Plan::new(seed), Tell::Nothing);
        report.wrong().map(|what| (seed, what.to_owned()))
    });
    plant(None);
    found
}

#[test]
fn every_planted_bug_of_engine_and_link_is_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let only = std::env::var("REPRISE_BUG").ok();
    let bugs: Vec<Bug> = engine::Planted::ALL
        .map(Bug::Engine)
        .into_iter()
        .chain(link::Planted::ALL.map(Bug::Link))
        .filter(|b| only.as_ref().is_none_or(|o| format!("{b:?}").contains(o.as_str())))
        .collect();
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match hunt(*bug) {
                Some((seed, what)) => println!("{bug:?}: found by seed {seed}, {what}"),
                None => missed.lock().unwrap().push(*bug),
            }
        }
    };
    std::thread::scope(|s| (0..2).for_each(|_| drop(s.spawn(work))));
    let _ = std::panic::take_hook();
    let missed = missed.into_inner().unwrap();
    println!("{} planted, {} not found", bugs.len(), missed.len());
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}
