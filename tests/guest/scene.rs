//! The scenes: which script runs in which boots, and what the host does when the script asks.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::image::Image;
use super::pair::World;
use super::vm::{Boot, Said, Vm};
use super::{Host, Tally};

/// The initiator's name of every guest.
pub(crate) const INITIATOR: &str = "iqn.2026-01.invalid.reprise:guest";
/// Size of the disk of the guest's own that a RAID is made of.
const OWN_DISK_BYTES: u64 = 400 << 20;

/// Files of the guest that every boot gets.
const SCRIPTS: &[(&str, &[u8])] = &[
    ("start", include_bytes!("scripts/start")),
    ("lib.sh", include_bytes!("scripts/lib.sh")),
    ("scsi.sh", include_bytes!("scripts/scsi.sh")),
    ("disk.sh", include_bytes!("scripts/disk.sh")),
    ("chap.sh", include_bytes!("scripts/chap.sh")),
    ("crash.sh", include_bytes!("scripts/crash.sh")),
    ("check.sh", include_bytes!("scripts/check.sh")),
    ("multipath.sh", include_bytes!("scripts/multipath.sh")),
    ("raid.sh", include_bytes!("scripts/raid.sh")),
    ("grow.sh", include_bytes!("scripts/grow.sh")),
    ("appliance.sh", include_bytes!("scripts/appliance.sh")),
    ("home.sh", include_bytes!("scripts/home.sh")),
];

/// One scene.
pub(super) struct Scene {
    pub(super) name: &'static str,
    /// It is part of the short form.
    pub(super) short: bool,
    boots: &'static [Script],
}

/// One boot.
struct Script {
    file: &'static str,
    /// Settings of the guest's shell, beside those of every boot.
    settings: &'static str,
    /// The guest has a disk of its own.
    own_disk: bool,
    /// The guest's power goes when it has reported so many things as durable; with the short form, the second number.
    kill_after: Option<(usize, usize)>,
    secs_max: u64,
}

const PLAIN: Script = Script { file: "", settings: "", own_disk: false, kill_after: None, secs_max: 300 };

/// All scenes, in the order they run.
pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "disk",
        short: true,
        boots: &[Script {
            file: "disk.sh",
            settings: "HEADER_DIGEST=CRC32C\nDATA_DIGEST=CRC32C\n",
            secs_max: 600,
            ..PLAIN
        }],
    },
    Scene {
        name: "crash",
        short: true,
        boots: &[
            Script { file: "crash.sh", settings: "FS=ext4\n", kill_after: Some((60, 15)), ..PLAIN },
            Script { file: "check.sh", settings: "FS=ext4\n", ..PLAIN },
        ],
    },
    Scene {
        name: "crash-xfs",
        short: false,
        boots: &[
            Script { file: "crash.sh", settings: "FS=xfs\n", kill_after: Some((60, 15)), ..PLAIN },
            Script { file: "check.sh", settings: "FS=xfs\n", ..PLAIN },
        ],
    },
    Scene {
        name: "multipath",
        short: false,
        boots: &[Script {
            file: "multipath.sh",
            settings: "REPLACEMENT_TIMEOUT=5\nNOOP_TIMEOUT=5\n",
            secs_max: 600,
            ..PLAIN
        }],
    },
    Scene {
        name: "raid",
        short: false,
        boots: &[Script {
            file: "raid.sh",
            settings: "REPLACEMENT_TIMEOUT=5\nNOOP_TIMEOUT=5\n",
            own_disk: true,
            secs_max: 600,
            ..PLAIN
        }],
    },
    Scene { name: "grow", short: false, boots: &[Script { file: "grow.sh", ..PLAIN }] },
];

impl Scene {
    /// Runs it. An error is a scene that could not be played to its end.
    pub(super) fn play(
        &self,
        world: &mut World,
        image: &Image,
        dir: &Path,
        short: bool,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut kept = Vec::new();
        for (number, script) in self.boots.iter().enumerate() {
            let log = dir.join(format!("{}-{}.log", self.name, number + 1));
            let disk = script.own_disk.then(|| own_disk(dir)).transpose()?;
            let job = job(script, world, short, &kept);
            let boot = Boot { image, job, disk, log: log.clone(), secs_max: script.secs_max };
            let mut talk = Talk { scene: self.name, running: None, kept: Vec::new() };
            let kill_after = script.kill_after.map(|(whole, in_short)| if short { in_short } else { whole });
            let outcome = talk.hold(Vm::start(&boot)?, world, tally, kill_after);
            if let Err(error) = outcome {
                if let Some(case) = talk.running {
                    tally.failed(&format!("{}/{case}", self.name), "the guest has not come to its end");
                }
                return Err(error.context(format!("boot {} (see {})", number + 1, log.display())));
            }
            kept.extend(talk.kept);
        }
        Ok(())
    }
}

/// The files of `/job`.
fn job(script: &Script, world: &World, short: bool, kept: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut settings = script.settings.to_owned();
    settings += &format!("IQN={}\nPORT1={}\nPORT2={}\n", world.iqn, world.ports[0], world.ports[1]);
    settings += if short { "SHORT=1\nFIO_SIZE=8m\n" } else { "SHORT=\nFIO_SIZE=48m\n" };
    let mut files = job_files(script.file, &settings);
    files.push(("kept".to_owned(), (kept.join("\n") + "\n").into_bytes()));
    files
}

fn job_files(script: &str, settings: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = SCRIPTS.iter().map(|(name, text)| ((*name).to_owned(), text.to_vec())).collect();
    let settings = format!("INITIATOR={INITIATOR}\nSCENE={script}\n{settings}");
    files.push(("settings".to_owned(), settings.into_bytes()));
    files
}

/// A boot that belongs to another test than this one's scenes.
pub(crate) struct Errand<'a> {
    pub(crate) name: &'static str,
    pub(crate) script: &'a str,
    /// Settings of the guest's shell.
    pub(crate) settings: String,
    /// The guest's `/dev/vdb`.
    pub(crate) disk: Option<PathBuf>,
    /// The console's log.
    pub(crate) log: PathBuf,
    pub(crate) secs_max: u64,
}

impl Errand<'_> {
    /// Runs it to its end.
    pub(crate) fn run(self, image: &Image, host: &mut dyn Host, tally: &mut Tally) -> Result<()> {
        let Self { name, script, settings, disk, log, secs_max } = self;
        let boot = Boot { image, job: job_files(script, &settings), disk, log, secs_max };
        let mut talk = Talk { scene: name, running: None, kept: Vec::new() };
        talk.hold(Vm::start(&boot)?, host, tally, None)
            .with_context(|| format!("{script} (see {})", boot.log.display()))
    }
}

/// A disk of zeros for the guest.
fn own_disk(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("own.disk");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.set_len(OWN_DISK_BYTES)?;
    Ok(path)
}

/// What one guest says, from its start to its end.
struct Talk {
    scene: &'static str,
    running: Option<String>,
    kept: Vec<String>,
}

impl Talk {
    fn hold(&mut self, mut vm: Vm, world: &mut dyn Host, tally: &mut Tally, kill_after: Option<usize>) -> Result<()> {
        let mut cases = 0;
        while let Some(said) = vm.next()? {
            match said {
                Said::Begin(case) => {
                    cases += 1;
                    if let Some(lost) = self.running.replace(case) {
                        bail!("case {lost} has no result");
                    }
                }
                Said::Ok(case, text) => tally.ok(&self.result_of(&case)?, &text),
                Said::Failed(case, text) => tally.failed(&self.result_of(&case)?, &text),
                Said::NotOffered(case, text) => tally.not_offered(&self.result_of(&case)?, &text),
                Said::Note(name, text) => println!("{}: {name} {text}", self.scene),
                Said::Ask(words) => {
                    let outcome = world.obey(&words);
                    vm.answer(&outcome)?;
                }
                Said::Kept(what) => {
                    self.kept.push(what);
                    if kill_after.is_some_and(|count| self.kept.len() >= count) {
                        // The case that was running is the crash itself; the next boot judges it.
                        self.running = None;
                        return vm.kill();
                    }
                }
                Said::End if cases == 0 => bail!("no case has run"),
                Said::End if kill_after.is_some() => bail!("it ended before its power was cut"),
                Said::End => {
                    return match self.running.take() {
                        Some(lost) => bail!("case {lost} has no result"),
                        None => vm.wait(),
                    };
                }
            }
        }
        bail!("the guest has ended before its script");
    }

    /// The full name of a case that has a result; it must be the one that was begun.
    fn result_of(&mut self, case: &str) -> Result<String> {
        match self.running.take() {
            Some(running) if running == case => Ok(format!("{}/{case}", self.scene)),
            other => bail!("a result of {case} while {other:?} runs"),
        }
    }
}
