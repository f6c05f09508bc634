//! One run: from nothing to the end of the plan, then to rest.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::pair::digest::Digest;
use crate::pair::plan::{Plan, SEC, What};
use crate::pair::world::{Counts, Next, World};

/// Simulated time in which everything must have come to rest after the last fault: a first copy over 256 kbit/s and the
/// backlog of the whole run fit.
const REST_SECS: u64 = 3_600;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Both homes hold what hosts wrote.
    Converged,
    /// The source's journal was damaged and it said so: it serves nothing.
    Stopped(String),
    /// Something is wrong.
    Wrong(String),
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// What it went through.
    pub counts: Counts,
    /// Simulated nanoseconds.
    pub simulated: u64,
    /// Troubles in the plan.
    pub troubles: u64,
    /// The trace, where one was asked for.
    pub trace: Vec<String>,
    /// What left the boxes, where it was asked for.
    pub digest: Option<u64>,
}

impl Report {
    /// What is wrong, if something is.
    pub fn wrong(&self) -> Option<&str> {
        match &self.ending {
            Ending::Wrong(what) => Some(what),
            _ => None,
        }
    }
}

/// How much of a run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tell {
    /// Nothing.
    #[default]
    Nothing,
    /// Each line as it happens.
    Print,
    /// What leaves the boxes, as one number.
    Digest,
    /// The same, and each item of it as it leaves.
    DigestItems,
}

/// Runs a plan.
pub fn run(plan: Plan, tell: Tell) -> Report {
    let mut world = World::new(plan, tell == Tell::Print);
    world.print = tell == Tell::Print;
    world.digest = matches!(tell, Tell::Digest | Tell::DigestItems).then(|| Digest::new(tell == Tell::DigestItems));
    // An assertion of the code under test is a finding like any other.
    let ended = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let ending = match ended {
        Ok(ending) => ending,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Ending::Wrong(format!("assertion of the code under test: {}", text.unwrap_or_default()))
        }
    };
    let troubles = world.plan.active().filter(|(_, i)| matches!(i.what, What::Trouble(_))).count() as u64;
    let trace = world.trace.take().unwrap_or_default();
    Report {
        ending,
        simulated: world.t,
        troubles,
        trace,
        digest: world.digest.as_ref().map(Digest::finish),
        counts: world.counts,
    }
}

fn live(world: &mut World) -> Ending {
    world.begin();
    let length = world.plan.length;
    world.run_until(length, |_| false);
    if world.wrong.is_none() && world.source_lost.is_none() {
        rest(world);
    }
    if let Some(what) = world.wrong.take() {
        return Ending::Wrong(what);
    }
    if let Some(why) = world.source_lost.take() {
        // The mirror's image is what is left: it must be a prefix of what hosts wrote.
        world.check_view(1);
        return world.wrong.take().map_or(Ending::Stopped(why), Ending::Wrong);
    }
    Ending::Converged
}

/// Nothing more goes wrong: everything comes to rest by itself, but for what a person has to see to.
fn rest(world: &mut World) {
    world.calm();
    for n in 0..2 {
        world.boxes[n].heal();
        world.stall[n] = 0;
        world.unblock(n);
        if world.boxes[n].process.is_none() {
            world.after(SEC, Next::Start { n, nested: VecDeque::new() });
        }
    }
    if world.paused {
        world.unpause();
    }
    world.want_operator();
    let end = world.t + REST_SECS * SEC;
    while world.wrong.is_none() && world.source_lost.is_none() && !world.settled() {
        if world.t >= end {
            let at = |n: usize| {
                world.boxes[n].group().map(|g| (g.durable(), g.meta().applied, g.meta().copy(), g.link_row()))
            };
            let waiting = world.waiting().len();
            let what = format!(
                "does not come to rest: source {:?}, mirror {:?}, {waiting} operations wait, {} are to be asked, row {:?}",
                at(0),
                at(1),
                world.host_queue.len(),
                world.boxes[0].group().and_then(|g| g.link_row()),
            );
            return world.fail(what);
        }
        let next = (world.t + 2 * SEC).min(end);
        world.run_until(next, World::settled);
        // What stopped again is looked at again.
        world.want_operator();
    }
    world.repair_homes(end);
    if world.wrong.is_none() && world.source_lost.is_none() {
        world.check_homes();
        world.check_view(0);
        world.check_view(1);
    }
}

/// Many runs together.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Runs.
    pub runs: u64,
    /// Runs that ended with the source stopped, saying why.
    pub stopped: u64,
    /// Simulated nanoseconds.
    pub simulated: u64,
    /// Everything else.
    pub counts: Counts,
    /// Per run: acknowledged changes, troubles, restarts; for the medians.
    pub each: Vec<[u64; 3]>,
}

impl Sum {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.stopped += u64::from(matches!(report.ending, Ending::Stopped(_)));
        self.simulated += report.simulated;
        self.each.push([report.counts.writes, report.troubles, report.counts.restarts]);
        self.counts.merge(&report.counts);
    }

    /// Adds other runs.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.stopped += other.stopped;
        self.simulated += other.simulated;
        self.each.extend_from_slice(&other.each);
        self.counts.merge(&other.counts);
    }

    /// Medians of acknowledged changes, troubles and restarts of a run.
    pub fn medians(&self) -> [u64; 3] {
        std::array::from_fn(|i| {
            let mut all: Vec<u64> = self.each.iter().map(|e| e[i]).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        })
    }
}

impl Counts {
    fn merge(&mut self, other: &Self) {
        fn add<K: Copy + Ord>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            from.iter().for_each(|(key, n)| *to.entry(*key).or_default() += n);
        }
        add(&mut self.classes, &other.classes);
        add(&mut self.held, &other.held);
        self.writes += other.writes;
        self.reads += other.reads;
        self.restarts += other.restarts;
        self.images += other.images;
        self.copies += other.copies;
        self.links += other.links;
        self.detected += other.detected;
        self.commands += other.commands;
        self.compared += other.compared;
        self.rounds += other.rounds;
        self.behind = self.behind.max(other.behind);
        self.cache_full += other.cache_full;
        self.undetectable += other.undetectable;
        self.events += other.events;
    }
}
