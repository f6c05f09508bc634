//! `reprise torture`: does what was acknowledged survive, and is the mirror an exact prefix of it?
//!
//! One writer puts numbered blocks onto a volume through a real iSCSI session, each only after the one before was answered, so
//! that their order is known without asking a box. Meanwhile boxes are killed and the line is cut at random. An image is good if
//! it is exactly the blocks up to some number, all acknowledged ones among them included; see [`history`].

mod history;
mod pair;
mod target;
mod writer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use reprise_api::Name;
use serde::Serialize;

use crate::args::Global;
use crate::commands::print_json;
use crate::units::plain;

/// What to torture, and for how long.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// For so many minutes
    #[arg(long, default_value_t = 5.0, value_parser = minutes)]
    pub(crate) minutes: f64,
    /// Replays the same blocks and the same blows
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where the temporary pair keeps its data; removed at the end if absent
    #[arg(long, value_name = "DIR", conflicts_with = "volume")]
    pub(crate) dir: Option<PathBuf>,
    /// Torture this volume of the box instead of a temporary pair. Nothing is killed; the mirror is paused and resumed
    #[arg(long, value_name = "NAME")]
    pub(crate) volume: Option<Name>,
    /// Write over what the volume holds: its name once more
    #[arg(long, value_name = "NAME", requires = "volume")]
    pub(crate) destroy: Option<Name>,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 10_080.0 => Ok(minutes),
        _ => Err("give minutes, more than 0 and at most 10080 (a week)".to_owned()),
    }
}

/// What happened and what was found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    /// Replays it.
    pub(crate) seed: u64,
    /// Seconds of writing and blows.
    pub(crate) secs: f64,
    /// Blocks written, answered or not.
    pub(crate) blocks: u64,
    /// Blocks acknowledged.
    pub(crate) acknowledged: u64,
    /// Blocks whose session broke before they were answered.
    pub(crate) unanswered: u64,
    /// Sessions made.
    pub(crate) logins: u64,
    /// Times the source was killed.
    pub(crate) source_kills: u64,
    /// Times the mirror was killed.
    pub(crate) mirror_kills: u64,
    /// Times the line was cut, or the mirror paused.
    pub(crate) cuts: u64,
    /// Images of the mirror that were checked in between, each while its source was dead.
    pub(crate) mirror_images: u64,
    /// Sectors compared.
    pub(crate) sectors_compared: u64,
    /// Acknowledged blocks that the mirror lacked in the worst of these images.
    pub(crate) worst_behind: u64,
    /// Longest time from the end of a blow until the mirror followed again, seconds.
    pub(crate) worst_heal_secs: f64,
    /// Position of the source at the end.
    pub(crate) source_seq: u64,
    /// Position of the mirror at the end.
    pub(crate) mirror_seq: u64,
    /// True where everything held.
    pub(crate) passed: bool,
}

pub(crate) fn run(args: &TortureArgs, global: &Global) -> anyhow::Result<()> {
    let mut random = [0; 8];
    let seed = match args.seed {
        Some(seed) => seed,
        None => {
            std::fs::File::open("/dev/urandom")
                .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut random))
                .context("draw a seed")?;
            u64::from_le_bytes(random) >> 12
        }
    };
    errln!("seed {seed}");
    let time = Duration::from_secs_f64(args.minutes * 60.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        match &args.volume {
            None => pair::run(args.dir.as_deref(), seed, time).await,
            Some(volume) => target::run(global, volume, args.destroy.as_ref(), seed, time).await,
        }
    })?;
    if global.json {
        return print_json(&report);
    }
    crate::say::out(format_args!("{}", plain(&text(&report))))
}

fn text(r: &Report) -> String {
    format!(
        "Everything that was acknowledged is there, in order, on both boxes.\n\
         {} blocks in {:.0} s, {} acknowledged, {} unanswered, {} logins\n\
         {} kills of the source, {} of the mirror, {} cuts; followed again after {:.1} s at most\n\
         {} images of the mirror were an exact prefix, at worst {} blocks behind; {} sectors compared\n\
         end: source at record {}, mirror at record {}; seed {}\n",
        r.blocks,
        r.secs,
        r.acknowledged,
        r.unanswered,
        r.logins,
        r.source_kills,
        r.mirror_kills,
        r.cuts,
        r.worst_heal_secs,
        r.mirror_images,
        r.worst_behind,
        r.sectors_compared,
        r.source_seq,
        r.mirror_seq,
        r.seed
    )
}
