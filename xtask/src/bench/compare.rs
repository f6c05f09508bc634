//! One build of the product beside another, in turn: what a change costs or gains, on one machine in one run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::client::{Case, Sample, qemu_bench};
use super::report::median;
use super::{Place, VOLUME_BYTES};
use crate::boxes::{self, Process, Served, cpu_us};
use crate::process::{cargo, run as run_command, target_dir};
use crate::setup;

const USAGE: &str = "\
cargo xtask bench compare --old BINARY [OPTIONS]
  --old BINARY   an earlier build of `reprise`
  --new BINARY   the other one; this tree's, built as it is released, if absent
  --pairs N      so many pairs of runs of each row; 15 if absent
  --rounds N     the boxes are made anew so often, since where files lie on a disk counts too; 3 if absent
  --secs S       seconds of a run; 2 if absent
  --dir DIR      where the disks are put; /var/tmp if absent";

const CASES: [Case; 4] = [
    Case { writes: true, random: true, bytes: 4096, depth: 8 },
    Case { writes: true, random: true, bytes: 4096, depth: 32 },
    Case { writes: true, random: false, bytes: 1 << 20, depth: 8 },
    Case { writes: false, random: true, bytes: 4096, depth: 32 },
];

struct Options {
    old: PathBuf,
    new: Option<PathBuf>,
    pairs: usize,
    rounds: usize,
    secs: f64,
    dir: PathBuf,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let (mut old, mut new, mut dir) = (None, None, PathBuf::from("/var/tmp"));
        let (mut pairs, mut rounds, mut secs) = (15, 3, 2.0_f64);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
            match arg.as_str() {
                "--old" => old = Some(std::path::absolute(value()?)?),
                "--new" => new = Some(std::path::absolute(value()?)?),
                "--pairs" => pairs = value()?.parse().context("--pairs takes a number")?,
                "--rounds" => rounds = value()?.parse().context("--rounds takes a number")?,
                "--secs" => secs = value()?.parse().context("--secs takes a number")?,
                "--dir" => dir = value()?.into(),
                other => bail!("unknown option {other:?}\n\n{USAGE}"),
            }
        }
        if pairs == 0 || rounds == 0 || secs.is_nan() || secs <= 0.0 {
            bail!("--pairs, --rounds and --secs take numbers above 0");
        }
        let old = old.with_context(|| format!("--old is missing\n\n{USAGE}"))?;
        Ok(Self { old, new, pairs, rounds, secs, dir })
    }
}

/// The boxes of one build: one without a mirror and a pair.
struct Build {
    _alone: Process,
    alone: Served,
    pair: boxes::Pair,
}

impl Build {
    fn start(binary: &Path, dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let pair = boxes::pair(binary, &dir.join("pair"), VOLUME_BYTES).context("start a pair")?;
        let (process, alone) = boxes::single(binary, &dir.join("alone"), VOLUME_BYTES).context("start a box alone")?;
        let fill = Case { writes: true, random: false, bytes: 1 << 20, depth: 8 };
        for served in [&alone, &pair.source] {
            qemu_bench(served, fill, None, VOLUME_BYTES >> 20)?;
        }
        Ok(Self { _alone: process, alone, pair })
    }

    /// One run. The processor's time is that of all boxes that had work by it.
    fn run(&self, mirrored: bool, case: Case, count: u64) -> Result<Sample> {
        if !mirrored {
            return qemu_bench(&self.alone, case, None, count);
        }
        let before = cpu_us(self.pair.mirror_pid)?;
        let mut sample = qemu_bench(&self.pair.source, case, None, count)?;
        sample.cpu_us += (cpu_us(self.pair.mirror_pid)? - before) / count as f64;
        Ok(sample)
    }
}

/// The new build's figure over the old one's, pair by pair, in order of size.
fn ratios(runs: &[(Sample, Sample)], of: impl Fn(&Sample) -> f64) -> Vec<f64> {
    let mut found: Vec<f64> = runs.iter().map(|(old, new)| of(new) / of(old)).collect();
    found.sort_by(f64::total_cmp);
    found
}

/// Median, and the middle half of all pairs in brackets.
fn spread(sorted: &[f64]) -> String {
    let at = |quarter: usize| sorted.get((sorted.len() * quarter / 4).min(sorted.len() - 1)).copied().unwrap_or(0.0);
    format!("{:.3} ({:.3} to {:.3})", median(sorted.iter().copied()), at(1), at(3))
}

pub(super) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    setup::ensure()?;
    let new = match &options.new {
        Some(binary) => binary.clone(),
        None => {
            run_command(&mut cargo(&["build", "--release", "--locked", "--package", "reprise"]))?;
            target_dir().join("release/reprise")
        }
    };
    let place = Place(options.dir.join(format!("reprise-compare-{}", std::process::id())));
    std::fs::create_dir_all(&place.0)?;
    let rows: Vec<(bool, Case)> = [false, true].into_iter().flat_map(|m| CASES.map(|case| (m, case))).collect();
    let mut runs: Vec<Vec<(Sample, Sample)>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 0..options.rounds {
        // Whoever is first gets the better place on a disk, or meets what the last run has left behind: each is first as
        // often as the other.
        let mut builds = [("old", &options.old), ("new", &new)];
        builds.rotate_left(round % 2);
        let start = |(name, binary): (&str, &PathBuf)| {
            Build::start(binary, &place.0.join(name)).with_context(|| format!("the {name} build"))
        };
        let [one, other] = builds;
        let mut builds = [start(one)?, start(other)?];
        builds.rotate_left(round % 2);
        for ((mirrored, case), runs) in rows.iter().zip(&mut runs) {
            let pairs = options.pairs * (round + 1) / options.rounds - options.pairs * round / options.rounds;
            runs.extend(compare(&builds, *mirrored, *case, pairs, options.secs)?);
        }
        drop(builds);
        for name in ["old", "new"] {
            std::fs::remove_dir_all(place.0.join(name)).context("make room for the next round")?;
        }
    }
    println!("new / old, median of {} pairs in {} rounds (middle half)", options.pairs, options.rounds);
    println!("| | operations a second | processor time of one operation | old, us | new, us |\n|---|---|---|---|---|");
    for ((mirrored, case), runs) in rows.iter().zip(&runs) {
        let (rate, cpu) = (ratios(runs, |s| s.per_sec), ratios(runs, |s| s.cpu_us));
        let whole = |of: fn(&(Sample, Sample)) -> f64| median(runs.iter().map(of));
        println!(
            "| {}, {} | {} | {} | {:.1} | {:.1} |",
            if *mirrored { "mirrored" } else { "alone" },
            case.name(),
            spread(&rate),
            spread(&cpu),
            whole(|(old, _)| old.cpu_us),
            whole(|(_, new)| new.cpu_us)
        );
    }
    Ok(())
}

/// So many pairs of runs, old and new, as long as the slower one needs for `secs`.
fn compare(builds: &[Build; 2], mirrored: bool, case: Case, pairs: usize, secs: f64) -> Result<Vec<(Sample, Sample)>> {
    let first = if case.bytes < 1 << 20 { 2000 } else { 100 };
    let warm = builds.iter().map(|b| b.run(mirrored, case, first)).collect::<Result<Vec<_>>>()?;
    let slower = warm.iter().map(|s| s.per_sec).fold(f64::INFINITY, f64::min);
    let count = ((slower * secs) as u64).clamp(first, 1_000_000);
    let pair = |n: usize| {
        let first = n % 2;
        let one = builds[first].run(mirrored, case, count)?;
        let other = builds[1 - first].run(mirrored, case, count)?;
        Ok(if first == 0 { (one, other) } else { (other, one) })
    };
    (0..pairs).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_half_is_told() {
        let sample = |per_sec| Sample { per_sec, cpu_us: 2.0 };
        let runs: Vec<_> = [110.0, 90.0, 100.0, 105.0].map(|new| (sample(100.0), sample(new))).to_vec();
        assert_eq!(spread(&ratios(&runs, |s| s.per_sec)), "1.025 (1.000 to 1.100)");
        assert_eq!(spread(&ratios(&runs, |s| s.cpu_us)), "1.000 (1.000 to 1.000)");
    }

    #[test]
    fn an_old_build_must_be_named() {
        let parsed = |line: &str| Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert!(parsed("--old /x --pairs 3").is_ok_and(|o| o.pairs == 3 && o.old == Path::new("/x")));
        for wrong in ["", "--old", "--old /x --pairs 0", "--old /x --rounds 0", "--old /x --secs 0", "--old /x --what"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
