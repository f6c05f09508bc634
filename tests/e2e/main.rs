//! End-to-end tests: the built binary, as processes, with the tools that users have, looked at from outside.
//!
//! `e2e --reprise BINARY [--only NAME[,NAME]] [--long] [--seed N] [--kills N] [--cuts N] [--dir DIR]`. The last line is
//! `e2e: N passed, N failed`. What a failed test leaves behind stays in the directory.
#![forbid(unsafe_code)]

mod access;
mod adopt;
mod bad_input;
mod blocks;
mod both_ways;
mod boxes;
mod chaos;
mod conformance;
mod disk;
mod faults;
mod gone;
mod history;
mod http;
mod images;
mod initiators;
mod limits;
mod links;
mod odd;
mod older;
mod power;
mod rot;
mod sequences;
mod torture;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

/// What every test is given.
pub(crate) struct Setup {
    /// The binary under test.
    pub(crate) reprise: PathBuf,
    /// A directory of the test's own.
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    /// How often a daemon is killed and how often the link is cut.
    pub(crate) kills: u32,
    pub(crate) cuts: u32,
    /// The full depth, which takes hours in all.
    pub(crate) long: bool,
}

struct Args {
    reprise: PathBuf,
    /// All groups, if none is named.
    only: Vec<String>,
    seed: u64,
    kills: Option<u32>,
    cuts: Option<u32>,
    long: bool,
    dir: PathBuf,
}

/// Kills and cuts of a run, and of a long one.
const BLOWS: (u32, u32) = (40, 20);
const BLOWS_LONG: (u32, u32) = (500, 100);

/// In the order they run.
const GROUPS: [&str; 20] = [
    "bad-input",
    "convert",
    "access",
    "adopt",
    "disk",
    "both-ways",
    "limits",
    "initiators",
    "conformance",
    "sequences",
    "odd",
    "faults",
    "gone",
    "links",
    "older",
    "power",
    "rot",
    "verify",
    "torture",
    "kill-and-cut",
];

fn args() -> Result<Args> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut found = Args {
        reprise: PathBuf::new(),
        only: Vec::new(),
        seed: clock.as_nanos() as u64,
        kills: None,
        cuts: None,
        long: false,
        dir: PathBuf::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        if flag == "--long" {
            found.long = true;
            continue;
        }
        let value = given.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--reprise" => found.reprise = std::path::absolute(value)?,
            "--only" => found.only = value.split(',').map(str::to_owned).collect(),
            "--seed" => found.seed = value.parse().context("--seed")?,
            "--kills" => found.kills = Some(value.parse().context("--kills")?),
            "--cuts" => found.cuts = Some(value.parse().context("--cuts")?),
            "--dir" => found.dir = std::path::absolute(value)?,
            other => bail!("unknown option {other}"),
        }
    }
    if let Some(unknown) = found.only.iter().find(|o| !GROUPS.contains(&o.as_str())) {
        bail!("no group {unknown}; groups: {}", GROUPS.join(", "));
    }
    if !found.reprise.is_file() {
        bail!("--reprise must name the binary under test");
    }
    if found.dir.as_os_str().is_empty() {
        // Beside the binary: on a disk, and removed by `cargo clean`.
        found.dir = found.reprise.parent().unwrap_or(Path::new("/")).join(format!("e2e-{}", std::process::id()));
    }
    Ok(found)
}

/// Outcome of a part of a test, for those that have several.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) outcome: Result<String>,
}

/// Longest time of a test. One that hangs must not hold up the rest.
const TEST_SECS_MAX: u64 = 900;
const LONG_SECS_MAX: u64 = 3600;

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("e2e: {error:#}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("e2e: start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("e2e: seed {}", args.seed);
    let (kills, cuts) = if args.long { BLOWS_LONG } else { BLOWS };
    let (mut passed, mut failed) = (0, 0);
    for name in GROUPS {
        if !args.only.is_empty() && args.only.iter().all(|o| o != name) {
            continue;
        }
        let setup = Setup {
            reprise: args.reprise.clone(),
            dir: args.dir.join(name),
            seed: args.seed,
            kills: args.kills.unwrap_or(kills),
            cuts: args.cuts.unwrap_or(cuts),
            long: args.long,
        };
        let start = Instant::now();
        let parts = runtime.block_on(async {
            let secs_max = if setup.long { LONG_SECS_MAX } else { TEST_SECS_MAX };
            let limit = Duration::from_secs(secs_max);
            match tokio::time::timeout(limit, one(name, &setup)).await {
                Ok(parts) => parts,
                Err(_) => vec![Part { name, outcome: Err(anyhow::anyhow!("not done after {secs_max} s")) }],
            }
        });
        let mut all_good = true;
        for part in parts {
            match part.outcome {
                Ok(text) => {
                    println!("ok     {}: {text}", part.name);
                    passed += 1;
                }
                Err(error) => {
                    println!("FAILED {}: {error:#}", part.name);
                    failed += 1;
                    all_good = false;
                }
            }
        }
        println!("       {name} took {:.1} s", start.elapsed().as_secs_f64());
        if all_good {
            let _ = std::fs::remove_dir_all(&setup.dir);
        } else {
            println!("       left behind: {}; again: --only {name} --seed {}", setup.dir.display(), args.seed);
        }
    }
    // Fails while a test has left something there, which is what it is kept for.
    let _ = std::fs::remove_dir(&args.dir);
    println!("e2e: {passed} passed, {failed} failed");
    if failed > 0 || passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn one(name: &'static str, setup: &Setup) -> Vec<Part> {
    if let Err(error) = std::fs::create_dir_all(&setup.dir) {
        return vec![Part { name, outcome: Err(error.into()) }];
    }
    match name {
        "bad-input" => bad_input::run(setup).await,
        "convert" => vec![Part { name, outcome: images::convert(setup).await }],
        "both-ways" => vec![Part { name, outcome: both_ways::run(setup).await }],
        "limits" => limits::run(setup).await,
        "initiators" => initiators::run(setup).await,
        "conformance" => conformance::run(setup).await,
        "sequences" => sequences::run(setup).await,
        "odd" => odd::run(setup).await,
        "disk" => disk::run(setup).await,
        "torture" => vec![Part { name, outcome: torture::run(setup).await }],
        "rot" => rot::run(setup).await,
        "verify" => vec![Part { name, outcome: verify::run(setup).await }],
        "faults" => faults::run(setup).await,
        "links" => links::run(setup).await,
        "gone" => gone::run(setup).await,
        "older" => vec![Part { name, outcome: older::run(setup).await }],
        "power" => power::run(setup).await,
        "access" => access::run(setup).await,
        "adopt" => vec![Part { name, outcome: adopt::run(setup).await }],
        _ => vec![Part { name, outcome: chaos::run(setup).await }],
    }
}
