//! Runs the pair simulator: one seed with its trace, many seeds, or the kept ones. `cargo xtask sim` starts it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use reprise_sim::pair::exhaustive::{Explored, Step, UNITS_MAX, explore, workloads};
use reprise_sim::pair::plan::{CLASSES, SEC};
use reprise_sim::pair::{Ending, Plan, Report, Sum, Tell, parse_kept, render_kept, run, shrink};

const USAGE: &str = "\
cargo xtask sim OPTIONS

  --seed N        run that seed and print what happens
  --minutes M     search with fresh seeds for so long
  --seeds COUNT   run so many seeds; with --minutes what is reached first
  --from N        the first of them (else: drawn from the clock)
  --kept          run the seeds that failed once (crates/reprise-sim/seeds)
  --threads N     at a time (else: one per core)
  --keep-going    search on after a failure
  --digest        with --seeds: a number for each seed that stands for all that left the boxes, to compare two trees;
                  with --seed: what left them, item by item
  --exhaustive N  all workloads of up to N operations, every cut, all subsets
";

/// Failures that a search goes on after, at most.
const FAILURES_MAX: usize = 20;
/// Between two words on how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Options {
    seed: Option<u64>,
    minutes: Option<f64>,
    seeds: Option<u64>,
    from: Option<u64>,
    kept: bool,
    threads: Option<usize>,
    keep_going: bool,
    digest: bool,
    exhaustive: Option<u32>,
}

fn options() -> Option<Options> {
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<f64>().ok());
        match arg.as_str() {
            "--seed" => options.seed = Some(number()? as u64),
            "--minutes" => options.minutes = Some(number()?),
            "--seeds" => options.seeds = Some(number()? as u64),
            "--from" => options.from = Some(number()? as u64),
            "--threads" => options.threads = Some(number()? as usize),
            "--exhaustive" => options.exhaustive = Some(number()? as u32),
            "--kept" => options.kept = true,
            "--keep-going" => options.keep_going = true,
            "--digest" => options.digest = true,
            _ => return None,
        }
    }
    let one = options.seed.is_some() || options.minutes.is_some() || options.seeds.is_some() || options.kept;
    let one = one || options.exhaustive.is_some();
    one.then_some(options)
}

fn seeds_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds/pair.txt")
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some(seed) = options.seed {
        return show(seed, if options.digest { Tell::DigestItems } else { Tell::Print });
    }
    // Failed assertions are findings and are told as such.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(length) = options.exhaustive {
        return exhaustive(length, options.threads.unwrap_or_else(cores));
    }
    if options.digest {
        return digests(&options);
    }
    let (sum, failed, took) = search(&options);
    tell(&sum, failed, took);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Every small run. Complete means: every workload, every cut, every subset of undecided sectors.
fn exhaustive(length: u32, threads: usize) -> ExitCode {
    let began = Instant::now();
    let all: Vec<(Vec<Step>, bool)> =
        workloads(length).into_iter().flat_map(|w| [(w.clone(), false), (w, true)]).collect();
    let (next, sum, wrong) = (AtomicU64::new(0), Mutex::new(Explored::default()), Mutex::new(Vec::new()));
    let work = || {
        while let Some((workload, at_once)) = all.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let found = std::panic::catch_unwind(|| explore(workload, *at_once));
            match found.unwrap_or_else(|_| Err(format!("{workload:?}: assertion of the code under test"))) {
                Ok(explored) => locked(&sum).add(&explored),
                Err(what) => {
                    println!("FAILED {what}");
                    locked(&wrong).push(what);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    let (sum, failed) = (locked(&sum).clone(), locked(&wrong).len());
    println!(
        "workloads of up to {length} operations: {} runs, {failed} failed, {} cuts, {} states ({} inside recovery), {} cuts \
         with more than {UNITS_MAX} undecided sectors taken in parts, {:.0} s; {}",
        sum.workloads,
        sum.cuts,
        sum.states,
        sum.nested,
        sum.coarse,
        began.elapsed().as_secs_f64(),
        if sum.coarse == 0 { "complete" } else { "complete but for those" }
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(seed: u64, tell: Tell) -> ExitCode {
    let report = run(Plan::new(seed), tell);
    println!("seed {seed}: {:?}", report.ending);
    println!("{:#?}", report.counts);
    if report.wrong().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A line for each seed, in order.
fn digests(options: &Options) -> ExitCode {
    let (first, count) = (options.from.unwrap_or(1), options.seeds.unwrap_or(0));
    let (next, done) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            let report = run(Plan::new(first + i), Tell::Digest);
            locked(&done).insert(i, (report.digest.unwrap_or(0), report.wrong().is_some()));
        }
    };
    let threads = options.threads.unwrap_or_else(cores).max(1);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    for (i, (digest, wrong)) in locked(&done).iter() {
        println!("{} {digest:016x}{}", first + i, if *wrong { " WRONG" } else { "" });
    }
    ExitCode::SUCCESS
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn search(options: &Options) -> (Sum, u64, Duration) {
    let began = Instant::now();
    let end = options.minutes.map(|m| began + Duration::from_secs_f64(m * 60.0));
    let kept: VecDeque<(String, Plan)> = if options.kept {
        let text = std::fs::read_to_string(seeds_file()).unwrap_or_default();
        text.lines().filter_map(|l| Some((l.to_owned(), parse_kept(l)?))).collect()
    } else {
        VecDeque::new()
    };
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let first = options.from.unwrap_or_else(|| clock() * 1_000);
    let count = options.seeds.unwrap_or(if end.is_some() { u64::MAX } else { 0 });
    if count > 0 {
        println!("seeds from {first} on");
    }
    let (kept, next, failed) = (Mutex::new(kept), AtomicU64::new(0), Mutex::new(Vec::new()));
    let sum = Mutex::new(Sum::default());
    let threads = options.threads.unwrap_or_else(cores);
    let said = Mutex::new(began);
    let work = || {
        loop {
            progress(&mut locked(&said), began, end, next.load(Ordering::Relaxed).min(count), count);
            let stop = !options.keep_going && !locked(&failed).is_empty() || locked(&failed).len() >= FAILURES_MAX;
            if stop || end.is_some_and(|end| Instant::now() >= end) {
                return;
            }
            let kept_one = locked(&kept).pop_front();
            let (name, plan, seed) = match kept_one {
                Some((line, plan)) => (format!("kept seed {line}"), plan, None),
                None => {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    (format!("seed {}", first + i), Plan::new(first + i), Some(first + i))
                }
            };
            let report = run(plan, Tell::Nothing);
            locked(&sum).add(&report);
            if let Ending::Wrong(what) = &report.ending {
                println!("FAILED {name}: {what}");
                let first = {
                    let mut failed = locked(&failed);
                    failed.push(seed);
                    failed.len() == 1
                };
                if let Some(seed) = seed.filter(|_| first) {
                    keep(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1)).for_each(|_| drop(scope.spawn(work))));
    let failed = locked(&failed).len() as u64;
    (sum.into_inner().unwrap_or_else(PoisonError::into_inner), failed, began.elapsed())
}

/// How far a search is, now and then.
fn progress(said: &mut Instant, began: Instant, end: Option<Instant>, done: u64, count: u64) {
    if said.elapsed() < TOLD_EVERY {
        return;
    }
    *said = Instant::now();
    let took = began.elapsed();
    let left = match end {
        Some(end) => end.saturating_duration_since(*said),
        None => took.mul_f64(count.saturating_sub(done) as f64 / done.max(1) as f64),
    };
    let minutes = left.as_secs_f64() / 60.0;
    println!("{done} seeds begun in {:.0} min, {minutes:.0} min to go", took.as_secs_f64() / 60.0);
}

/// Makes a failing seed small and writes it to the file of seeds that failed once.
fn keep(seed: u64) {
    let (needed, what) = shrink(seed);
    let line = render_kept(seed, &needed);
    println!("seed {seed} fails with {} items of its plan: {what}", needed.len());
    let file = seeds_file();
    let added = std::fs::OpenOptions::new().create(true).append(true).open(&file);
    match added.and_then(|mut f| writeln!(f, "{line}")) {
        Ok(()) => println!("kept in {}: {line}", file.display()),
        Err(e) => println!("not kept ({e}): {line}"),
    }
    if let Some(plan) = parse_kept(&line) {
        let report: Report = run(plan, Tell::Print);
        println!("seed {seed}, made small: {:?}", report.ending);
    }
}

fn tell(sum: &Sum, failed: u64, took: Duration) {
    let c = &sum.counts;
    for (class, what) in CLASSES {
        println!("class {class:>2}  {:>8}  {what}", c.classes.get(&class).copied().unwrap_or(0));
    }
    let [writes, troubles, restarts] = sum.medians();
    println!("median run: {writes} host writes, {troubles} faults, {restarts} restarts");
    let held = c.held.iter().map(|(hold, time)| format!("{hold:?} {} s", time / SEC)).collect::<Vec<_>>();
    println!("hosts waited for: {}", held.join(", "));
    let simulated = sum.simulated / SEC;
    let factor = simulated as f64 / took.as_secs_f64().max(0.001);
    println!(
        "{} runs, {failed} failed, {} stopped and said why, {:.1} simulated hours in {:.0} s ({factor:.0} x real time); \
         {} writes and {} reads checked, {} restarts, {} images compared, {} first copies, {} handshakes, {} faults said \
         aloud, {} commands of a person, {} comparisons, {} rounds checked, up to {} of them behind at the end of a first \
         copy, {} events",
        sum.runs,
        sum.stopped,
        simulated as f64 / 3600.0,
        took.as_secs_f64(),
        c.writes,
        c.reads,
        c.restarts,
        c.images,
        c.copies,
        c.links,
        c.detected,
        c.commands,
        c.compared,
        c.rounds,
        c.behind,
        c.events
    );
}
