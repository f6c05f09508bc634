//! `cargo xtask guest-test`: the Linux kernel's initiator against a pair of boxes, in a QEMU guest.
//!
//! The guest is Debian's kernel with Debian's open-iscsi, sg3_utils, fio, multipath-tools, mdadm and file systems, in software
//! emulation, so that neither root nor a processor with virtualisation is needed. It reaches the boxes at 10.0.2.2, QEMU's
//! name for the host's loopback. A *scene* is one of the scripts in `tests/guest/scripts`, run in one or more boots; its cases report
//! one by one. After each scene both homes must be equal, byte for byte.

mod image;
mod pair;
mod relay;
mod scene;
mod vm;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::target_dir;
pub(crate) use image::Image;
use pair::World;
pub(crate) use relay::{Line, Relay};
pub(crate) use scene::{Errand, INITIATOR};
use scene::{SCENES, Scene};

const USAGE: &str = "\
cargo xtask guest-test [OPTIONS]

  --short            what CI runs: smaller sizes, the scenes `disk` and `crash`
  --only NAME[,...]  these scenes
  --keep             keep the boxes' folder";

/// What the cases came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Commands that the target does not list: neither passed nor failed, and told each time.
    pub(crate) not_offered: u64,
}

impl Tally {
    fn ok(&mut self, name: &str, text: &str) {
        self.passed += 1;
        println!("{name}: ok{}", behind(text));
    }

    fn failed(&mut self, name: &str, text: &str) {
        self.failed += 1;
        println!("{name}: FAILED{}", behind(text));
    }

    fn not_offered(&mut self, name: &str, text: &str) {
        self.not_offered += 1;
        println!("{name}: not offered{}", behind(text));
    }
}

/// Who does what a script asks for.
pub(crate) trait Host {
    /// # Errors
    /// It could not be done; the script's case has failed.
    fn obey(&mut self, words: &[String]) -> Result<String>;
}

fn behind(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let (mut short, mut keep, mut only, mut binary) = (false, false, None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
        match arg.as_str() {
            "--short" => short = true,
            "--keep" => keep = true,
            "--only" => only = Some(value()?.as_str()),
            "--reprise" => binary = Some(PathBuf::from(value()?)),
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("unknown option {other:?}\n\n{USAGE}"),
        }
    }
    let scenes: Vec<&Scene> = match only {
        None => SCENES.iter().filter(|s| s.short || !short).collect(),
        Some(names) => named(names)?,
    };
    let binary = binary.context("--reprise must name the binary under test")?;
    let tally = all(&binary, &scenes, short, keep)?;
    if tally.failed > 0 || tally.passed == 0 {
        bail!("there are failures; logs are in {}", folder().display());
    }
    Ok(())
}

fn named(names: &str) -> Result<Vec<&'static Scene>> {
    names.split(',').map(|n| SCENES.iter().find(|s| s.name == n).with_context(|| no_scene(n))).collect()
}

fn no_scene(name: &str) -> String {
    let names: Vec<&str> = SCENES.iter().map(|s| s.name).collect();
    format!("no scene {name:?}; scenes: {}", names.join(", "))
}

/// Image, disks and logs. Kept from run to run.
pub(crate) fn folder() -> PathBuf {
    target_dir().join("guest")
}

fn all(binary: &Path, scenes: &[&Scene], short: bool, keep: bool) -> Result<Tally> {
    let start = Instant::now();
    let image = Image::ready(&folder()).context("make the guest's image")?;
    println!("guest image: {}; ready after {:.0} s", image.versions(), start.elapsed().as_secs_f64());
    let mut world = World::start(binary, &folder(), keep).context("start the boxes")?;
    let mut tally = Tally::default();
    for scene in scenes {
        let start = Instant::now();
        if let Err(error) = scene.play(&mut world, &image, &folder(), short, &mut tally) {
            tally.failed(scene.name, &format!("{error:#}"));
        }
        let equal = format!("{}/homes_equal", scene.name);
        match world.put_right().and_then(|()| world.homes_equal()) {
            Ok(text) => tally.ok(&equal, &text),
            Err(error) => tally.failed(&equal, &format!("{error:#}")),
        }
        println!("{}: {:.0} s", scene.name, start.elapsed().as_secs_f64());
    }
    println!("guest: {} passed, {} failed, {} not offered", tally.passed, tally.failed, tally.not_offered);
    Ok(tally)
}
