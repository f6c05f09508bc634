//! The show: what the pair does with a real disk image while its line is cut and a box is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use reprise_api::{ByteSize, GroupStatus};

use super::boxes::{LOOK_EVERY, Pair, Wanted};
use super::image::{DiskImage, output, same_bytes};
use super::{DemoArgs, Place};
use crate::units::{bytes, secs};

/// The longest that any step of the show may take before it is called a failure.
const STEP_SECS_MAX: u64 = 60;
/// Volumes are a multiple of this.
const VOLUME_GRAIN: u64 = 4096;

struct Clock(Instant);

impl Clock {
    /// An error ends the show: nobody looks any more.
    fn say(&self, text: impl std::fmt::Display) -> anyhow::Result<()> {
        outln!("[{:5.1} s] {text}", self.0.elapsed().as_secs_f64())
    }
}

/// Runs the show and hands the pair over as it is at the end.
pub(super) async fn run(args: &DemoArgs, place: &Place) -> anyhow::Result<Pair> {
    let clock = Clock(Instant::now());
    let first = match &args.image {
        Some(path) => DiskImage::open(path)?,
        None => {
            clock.say("making two ext4 images with real files")?;
            DiskImage::make(&place.dir, 0)?
        }
    };
    // What is written while a box is killed must differ from what is there, or losing it would not show.
    let second = DiskImage::make(&place.dir, 1)?;
    let size = first.size.max(second.size).next_multiple_of(VOLUME_GRAIN);
    let mut pair = Pair::start(&place.dir, &Wanted { volume: ByteSize::from_bytes(size), relayed: true }).await?;
    clock.say(format_args!("two boxes run; paired by the code {}", pair.code))?;
    pair.make_mirrored_volume(ByteSize::from_bytes(size), |_| {}).await?;
    let (source, mirror) = (pair.reach_source().await?, pair.reach_mirror().await?);
    clock.say(format_args!("a volume of {} is mirrored: {}", bytes(size), source.iscsi))?;
    let homes = (source.home.first().context("home")?.clone(), mirror.home.first().context("home")?.clone());

    cut_the_link(&clock, &mut pair, &first, &source.iscsi).await?;
    settle(&clock, &pair).await?;
    compare(&clock, &homes, &first)?;

    kill_the_source(&clock, &mut pair, &second, &source.iscsi).await?;
    settle(&clock, &pair).await?;
    compare(&clock, &homes, &second)?;

    clock.say("done: nothing was lost, and both homes are the same byte for byte")?;
    Ok(pair)
}

/// Copies an image while the link goes away in the middle.
async fn cut_the_link(clock: &Clock, pair: &mut Pair, image: &DiskImage, url: &str) -> anyhow::Result<()> {
    clock.say(format_args!("copying {} ({}) onto it", image.path.display(), bytes(image.size)))?;
    let before = pair.source.group().await?.positions.durable;
    let mut copy = Copy::start(image, url)?;
    // Into the copy, but not long: most of it shall meet a line that is cut.
    copy.run_until(pair, |group| group.positions.durable.get().saturating_sub(before.get()) > 50).await?;
    pair.relay.as_ref().context("relay")?.cut();
    clock.say(format_args!("LINK CUT  | {}", line(&pair.source.group().await?)))?;
    let mut told = Instant::now();
    copy.run_until(pair, |group| {
        if told.elapsed() > Duration::from_millis(150) {
            told = Instant::now();
            let _ = clock.say(format_args!("  filling | {}", line(group)));
        }
        false
    })
    .await?;
    let full = pair.source.group().await?;
    clock.say(format_args!("copied    | {}", line(&full)))?;
    if full.lag_bytes.unwrap_or(0) == 0 {
        bail!("the link was cut and nothing waits in the cache");
    }
    pair.relay.as_ref().context("relay")?.mend();
    clock.say("LINK BACK")?;
    Ok(())
}

/// Copies an image while the source is killed in the middle.
async fn kill_the_source(clock: &Clock, pair: &mut Pair, image: &DiskImage, url: &str) -> anyhow::Result<()> {
    clock.say(format_args!("copying {} ({}) over it", image.path.display(), bytes(image.size)))?;
    let before = pair.source.group().await?.positions.durable;
    let mut copy = Copy::start(image, url)?;
    copy.run_until(pair, |group| group.positions.durable.get().saturating_sub(before.get()) > 50).await?;
    let at = pair.source.group().await?.positions;
    if copy.has_ended()? {
        bail!("the copy was over before the source could be killed: take a larger image");
    }
    pair.source.kill()?;
    clock.say(format_args!("SOURCE KILLED (SIGKILL) at Seq {}, while the copy runs", at.durable))?;
    let start = Instant::now();
    pair.source.run().await?;
    let group = pair.source.group().await?;
    clock.say(format_args!("SOURCE BACK after {} | {}", secs(start.elapsed().as_secs_f64()), line(&group)))?;
    if group.positions.durable < at.durable {
        bail!("Seq {} was durable before the kill and only {} is now", at.durable, group.positions.durable);
    }
    copy.run_until(pair, |_| false).await?;
    clock.say(format_args!("copied    | {}", line(&pair.source.group().await?)))?;
    Ok(())
}

/// Waits until the mirror has everything and both homes hold it.
async fn settle(clock: &Clock, pair: &Pair) -> anyhow::Result<()> {
    let mut told = Instant::now();
    pair.until("everything is at both homes", STEP_SECS_MAX, |source, mirror| {
        if told.elapsed() > Duration::from_millis(150) && source.lag_bytes.is_some_and(|b| b > 0) {
            told = Instant::now();
            let _ = clock.say(format_args!("  draining | {}", line(source)));
        }
        let (a, b) = (source.positions, mirror.positions);
        let sent = a.written == a.durable && a.peer_durable == Some(a.durable);
        sent && a.applied == a.durable && b.durable == a.durable && b.applied == a.durable
    })
    .await?;
    clock.say(format_args!("drained   | {}", line(&pair.source.group().await?)))?;
    Ok(())
}

fn compare(clock: &Clock, homes: &(String, String), image: &DiskImage) -> anyhow::Result<()> {
    let (a, b) = (Path::new(&homes.0), Path::new(&homes.1));
    if !same_bytes(a, b)? {
        bail!("the homes differ: {} and {}", homes.0, homes.1);
    }
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", &image.format, "-F", "raw"]).arg(&image.path).arg(b);
    // A volume larger than the image may hold other bytes behind it.
    let same = output(&mut compare);
    if std::fs::metadata(b)?.len() == image.size.next_multiple_of(VOLUME_GRAIN) {
        same.context("the mirror's home is not the image")?;
    }
    clock.say("both homes are equal, and equal to the image")?;
    Ok(())
}

/// `Seq 4211, mirror has 3980 | lag 1.2 s, 40 MiB | cache 6.3 % | link up`.
fn line(group: &GroupStatus) -> String {
    let p = &group.positions;
    let at_mirror = p.peer_durable.map_or_else(|| "?".to_owned(), |s| s.to_string());
    format!(
        "Seq {}, mirror has {at_mirror}; lag {}, {}; cache {:.1} %; link {}",
        p.durable,
        group.lag_secs.map_or_else(|| "?".to_owned(), secs),
        group.lag_bytes.map_or_else(|| "?".to_owned(), bytes),
        group.cache.fill_percent,
        group.link.as_ref().map_or("none", |l| l.state.kind()),
    )
}

/// A running `qemu-img convert`.
struct Copy {
    child: Child,
    start: Instant,
}

impl Copy {
    fn start(image: &DiskImage, url: &str) -> anyhow::Result<Self> {
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-n", "-f", &image.format, "-O", "raw"]).arg(&image.path).arg(url);
        let child = command.stdin(Stdio::null()).spawn().context("start qemu-img")?;
        Ok(Self { child, start: Instant::now() })
    }

    fn has_ended(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("qemu-img convert ended with {status}"),
        }
    }

    /// Looks at the source until the copy has ended or `enough` says so.
    async fn run_until(&mut self, pair: &Pair, mut enough: impl FnMut(&GroupStatus) -> bool) -> anyhow::Result<()> {
        loop {
            if self.has_ended()? || enough(&pair.source.group().await?) {
                return Ok(());
            }
            if self.start.elapsed().as_secs() > STEP_SECS_MAX {
                bail!("the copy is not done after {STEP_SECS_MAX} s");
            }
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}
