//! `reprise demo`: two boxes on this machine, as a show or for scripts.
//!
//! The boxes are processes of their own, started as anybody would: `reprise run --config FILE`. The demo is a client of
//! their API, and has one thing of its own: a relay in front of the mirror's link port, so that the line can be cut.

mod boxes;
mod image;
mod relay;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use reprise_api::ByteSize;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::Usage;
use crate::commands::print_json;
pub(crate) use boxes::{Pair, Wanted};

/// What the demo does.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the pair running until SIGTERM; with --json: only start it, idle
    #[arg(long)]
    pub(crate) stay: bool,
    /// Where the two boxes keep their data; a temporary directory, removed at the end, if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Size of the volume; the size of the image, where there is one
    #[arg(long, default_value = "1G")]
    pub(crate) size: ByteSize,
    /// Disk image to copy onto the volume
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
}

/// How a script reaches one of the two boxes.
#[derive(Debug, Serialize)]
pub(crate) struct Reach {
    /// `iscsi://ADDRESS:PORT/IQN/LUN`. A mirror answers there only after it has become the source.
    iscsi: String,
    home: Vec<String>,
    socket: String,
    metrics: String,
    link: String,
    pid: u32,
    config: String,
}

#[derive(Debug, Serialize)]
struct Reaches {
    source: Reach,
    mirror: Reach,
}

/// The directory of a pair; a temporary one goes with it.
pub(crate) struct Place {
    dir: PathBuf,
    temporary: bool,
}

impl Place {
    pub(crate) fn new(dir: Option<&Path>) -> anyhow::Result<Self> {
        let (dir, temporary) = match dir {
            Some(dir) => (std::path::absolute(dir)?, false),
            None => {
                // Not /tmp, which may be memory: journals want a disk.
                let base = std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
                (std::path::absolute(base)?.join(format!("reprise-demo-{}", std::process::id())), true)
            }
        };
        std::fs::create_dir_all(&dir).with_context(|| format!("make directory {}", dir.display()))?;
        for name in [boxes::SOURCE, boxes::MIRROR] {
            if dir.join(name).exists() {
                return Err(Usage::error("--dir holds a pair already: give an empty directory"));
            }
        }
        Ok(Self { dir, temporary })
    }
}

#[cfg(feature = "torture")]
impl Place {
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// It stays even if it is temporary.
    pub(crate) fn keep(&mut self) {
        self.temporary = false;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            errln!("remove {}: {error}", self.dir.display());
        }
    }
}

pub(crate) fn run(args: &DemoArgs, json: bool) -> anyhow::Result<()> {
    if json && !args.stay {
        return Err(Usage::error("--json goes with --stay: it starts an idle pair for a script"));
    }
    if json && args.image.is_some() {
        return Err(Usage::error("--image is for the show, --json for scripts: take one of them"));
    }
    let place = Place::new(args.dir.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // From here on a signal ends the boxes too, however far the demo is.
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told_to_stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            outcome = act(args, json, &place) => outcome,
            () = told_to_stop => Ok(()),
        }
    })
}

/// Everything, until the end of the show or, with `--stay`, for ever. The boxes end when this future is dropped.
async fn act(args: &DemoArgs, json: bool, place: &Place) -> anyhow::Result<()> {
    if json {
        let wanted = Wanted { volume: args.size, relayed: false };
        let mut pair = Pair::start(&place.dir, &wanted).await?;
        pair.make_mirrored_volume(args.size, |_| {}).await?;
        print_json(&Reaches { source: pair.reach_source().await?, mirror: pair.reach_mirror().await? })?;
        return pair.watch_over().await;
    }
    let mut pair = show::run(args, place).await?;
    if args.stay {
        let source = pair.reach_source().await?;
        outln!("\nThe pair keeps running. For your own initiator: {}", source.iscsi)?;
        outln!("  reprise --socket {} status --watch", source.socket)?;
        outln!("Ctrl-C ends it.")?;
        return pair.watch_over().await;
    }
    pair.stop()
}
