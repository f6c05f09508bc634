//! A whole pair by seed: the seeds that failed once, and some more. `cargo xtask sim` searches at length.
//!
//! `REPRISE_SEED=n` runs that seed alone and prints what happens, `REPRISE_SEEDS=n` so many.
#![allow(clippy::unwrap_used)]

use reprise_sim::pair::{Ending, Plan, Sum, Tell, parse_kept, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().expect("a number"))
}

fn check(name: &str, plan: Plan, tell: Tell, sum: &mut Sum) {
    let report = run(plan, tell);
    sum.add(&report);
    if let Ending::Wrong(what) = report.ending {
        panic!("{name}: {what}; `cargo xtask sim --seed N` shows how it came to that");
    }
}

#[test]
fn a_pair_comes_to_rest_whatever_goes_wrong() {
    let mut sum = Sum::default();
    if let Some(seed) = number("REPRISE_SEED") {
        return check(&format!("seed {seed}"), Plan::new(seed), Tell::Print, &mut sum);
    }
    for line in include_str!("../seeds/pair.txt").lines() {
        if let Some(plan) = parse_kept(line) {
            check(&format!("kept seed {line}"), plan, Tell::Nothing, &mut sum);
        }
    }
    let count = number("REPRISE_SEEDS").unwrap_or(16);
    for seed in 1..=count {
        check(&format!("seed {seed}"), Plan::new(seed), Tell::Nothing, &mut sum);
    }
    let c = &sum.counts;
    println!(
        "{} runs: {} writes and {} reads checked, {} restarts, {} images compared, {} first copies, faults by class {:?}",
        sum.runs, c.writes, c.reads, c.restarts, c.images, c.copies, c.classes
    );
    assert!(c.behind > 64, "no home was far behind at the end of a first copy: {} rounds", c.behind);
    let [writes, troubles, restarts] = sum.medians();
    assert!(
        writes >= 500 && troubles >= 5 && restarts >= 1,
        "the runs do not reach what they are for: {:?}",
        sum.medians()
    );
}
