//! `cargo xtask bench`: the product against tgt, in turn, on one machine and one file system.

mod client;
mod compare;
mod link;
mod report;
mod shaped;
mod target;
mod trace;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::boxes::{self, Backing, Served, proc_number};
use crate::process::{cargo, root, run as run_command, target_dir};
use crate::setup;
use client::{Case, Sample, qemu_bench};

const USAGE: &str = "\
cargo xtask bench [OPTIONS]       the product
cargo xtask bench target [--quick] its front end alone, before memory; writes docs/benchmarks-target.md
cargo xtask bench compare --old BINARY [OPTIONS]  one build beside another, in turn

  --quick            2 runs of a second each instead of 5 of two
  --dir DIR          where the disks are put: a file system on a disk; /var/tmp if absent
  --trace FILE       a vSCSI block trace to replay; without it that part is left out
  --journal MIB      size of the journal for the restart; 1024 if absent
  --out FILE         where the page goes; docs/benchmarks.md if absent";

/// Size of every volume.
const VOLUME_BYTES: u64 = 1 << 30;

/// So often is each volume written before the first row: the first write to a part of a file that was only allocated costs
/// the file system more than those after it, and tgt's file is written fully.
const FILL_PASSES: u64 = 3;

/// Who is measured, in the order of the page's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    /// tgt; with a flush after each so many writes.
    Tgt(Option<u32>),
    /// A box without a mirror.
    Alone,
    /// A box with its mirror attached.
    Mirrored,
}

const CONTENDERS: [Contender; 5] =
    [Contender::Tgt(None), Contender::Tgt(Some(32)), Contender::Tgt(Some(1)), Contender::Alone, Contender::Mirrored];

impl Contender {
    fn name(self) -> String {
        match self {
            Self::Tgt(None) => "tgt, no flush".to_owned(),
            Self::Tgt(Some(1)) => "tgt, flush each".to_owned(),
            Self::Tgt(Some(every)) => format!("tgt, flush every {every}"),
            Self::Alone => "reprise alone".to_owned(),
            Self::Mirrored => "reprise mirrored".to_owned(),
        }
    }

    fn flush_every(self) -> Option<u32> {
        if let Self::Tgt(every) = self { every } else { None }
    }

    fn column(self) -> usize {
        CONTENDERS.iter().position(|c| *c == self).unwrap_or(0)
    }

    /// A flush has no meaning for reads, and qemu-img lets no more writes stand out than come between two flushes.
    fn takes(self, case: Case) -> bool {
        self.flush_every().is_none_or(|every| case.writes && every >= case.depth)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (bytes, random) in [(4096, false), (4096, true), (1 << 20, false)] {
        cases.extend([1, 8, 32].map(|depth| Case { writes: true, random, bytes, depth }));
    }
    cases.extend([1, 32].map(|depth| Case { writes: false, random: true, bytes: 4096, depth }));
    cases
}

/// The samples of a case, by contender in the order of [`CONTENDERS`].
struct Row {
    case: Case,
    samples: Vec<Vec<Sample>>,
}

/// Resident memory, KiB, after all rows.
struct Memory {
    tgt: u64,
    alone: u64,
    source: u64,
    mirror: u64,
}

struct Options {
    runs: usize,
    secs: f64,
    quick: bool,
    dir: PathBuf,
    journal_bytes: u64,
    trace: Option<PathBuf>,
    out: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> Result<Option<Self>> {
        let mut this = Self {
            runs: 5,
            secs: 2.0,
            quick: false,
            dir: PathBuf::from("/var/tmp"),
            journal_bytes: 1 << 30,
            trace: None,
            out: root().join("docs/benchmarks.md"),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
            match arg.as_str() {
                "--quick" => (this.runs, this.secs, this.quick) = (2, 1.0, true),
                "--dir" => this.dir = value()?.into(),
                "--trace" => this.trace = Some(value()?.into()),
                "--out" => this.out = value()?.into(),
                "--journal" => this.journal_bytes = value()?.parse::<u64>()?.saturating_mul(1 << 20),
                "--help" | "-h" => {
                    println!("{USAGE}");
                    return Ok(None);
                }
                other => bail!("unknown option {other:?}\n\n{USAGE}"),
            }
        }
        Ok(Some(this))
    }
}

/// The directory of all disks; gone at the end, after the processes that use it.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    match args {
        [first, rest @ ..] if first == "target" => return target::run(rest),
        [first, rest @ ..] if first == "compare" => return compare::run(rest),
        _ => {}
    }
    let Some(options) = Options::parse(args)? else { return Ok(()) };
    setup::ensure()?;
    run_command(&mut cargo(&["build", "--release", "--locked", "--package", "reprise"]))?;
    let clients = ["build", "--release", "--locked", "--package", "reprise-testkit", "--example", "load"];
    run_command(&mut cargo(&[&clients[..], &["--example", "replay"]].concat()))?;
    let (binary, examples) = (target_dir().join("release/reprise"), target_dir().join("release/examples"));
    let load = examples.join("load");
    let machine = report::Machine::look(&options.dir)?;
    let place = Place(options.dir.join(format!("reprise-bench-{}", std::process::id())));
    std::fs::create_dir_all(&place.0)?;

    // The cache of the pair holds the journal of the restart and a quarter more.
    let pair =
        boxes::pair(&binary, &place.0.join("pair"), VOLUME_BYTES.max(options.journal_bytes)).context("start a pair")?;
    let (_alone, alone) = boxes::single(&binary, &place.0.join("alone"), VOLUME_BYTES).context("start a box alone")?;
    let (_tgt, tgt) = boxes::tgt(&place.0.join("tgt"), VOLUME_BYTES, Backing::Disk).context("start tgt")?;
    println!("writing all disks");
    let fill = Case { writes: true, random: false, bytes: 1 << 20, depth: 8 };
    for served in [&alone, &pair.source] {
        qemu_bench(served, fill, None, FILL_PASSES * (VOLUME_BYTES >> 20))?;
    }
    let mut rows = Vec::new();
    for case in cases() {
        rows.push(measure(case, &options, |contender| match contender {
            Contender::Tgt(_) => &tgt,
            Contender::Alone => &alone,
            Contender::Mirrored => &pair.source,
        })?);
    }
    println!("iscsi-perf");
    let mut perf = Vec::new();
    for served in [&tgt, &alone, &pair.source].repeat(options.runs) {
        perf.push(client::iscsi_perf(served, 32, options.secs)?);
    }
    let rss = |pid| proc_number(pid, "status", "VmRSS");
    let memory = Memory {
        tgt: rss(tgt.pid)?,
        alone: rss(alone.pid)?,
        source: rss(pair.source.pid)?,
        mirror: rss(pair.mirror_pid)?,
    };
    println!("latency with the mirror attached and paused");
    let paused = link::paused(&pair, &load, options.runs, 2)?;
    println!("drain");
    let random = link::drain_random(&pair, &place.0, VOLUME_BYTES / 2)?;
    let (real, zstd_alone) = link::drain_real(&pair, &place.0, VOLUME_BYTES / 2)?;
    println!("trace");
    let replayed = options.trace.as_ref().map(|t| trace::replay(&pair, &examples.join("replay"), t)).transpose()?;
    println!("restart");
    let (restarted, restart) = link::restart(&pair, &binary, &load, options.journal_bytes)?;
    drop(restarted);
    println!("shaped link");
    let shaped = shaped::measure(&binary, &place.0.join("shaped"))?;
    let found = report::Found { rows, perf, memory, paused, random, real, zstd_alone, replayed, restart, shaped };
    let page = report::page(&machine, &options, &found);
    print!("{page}");
    std::fs::write(&options.out, page).with_context(|| format!("write {}", options.out.display()))
}

/// All contenders in turn, as often as there are runs. Each has a short run first, which also tells how many operations
/// make the time that is wanted.
fn measure<'a>(case: Case, options: &Options, served: impl Fn(Contender) -> &'a Served) -> Result<Row> {
    let mut counts = Vec::new();
    for contender in CONTENDERS.into_iter().filter(|c| c.takes(case)) {
        let first = if case.bytes < 1 << 20 { 2000 } else { 100 };
        let warm = qemu_bench(served(contender), case, contender.flush_every(), first)?;
        counts.push((contender, ((warm.per_sec * options.secs) as u64).clamp(first, 1_000_000)));
    }
    let mut samples = vec![Vec::new(); CONTENDERS.len()];
    for _ in 0..options.runs {
        for (contender, count) in &counts {
            let sample = qemu_bench(served(*contender), case, contender.flush_every(), *count)?;
            samples[contender.column()].push(sample);
        }
    }
    let row = Row { case, samples };
    println!("{}", report::line(&row));
    Ok(row)
}
