//! From the initial memory disk to the checked root.
//!
//! Modules for this machine's devices, the watchdog, the root of the slot that the boot loader has taken, and over into it.
//! Every failure ends in a new start, so that the boot loader's count runs out and the other slot gets its turn. Nobody is
//! asked anything and there is no shell.

mod gpt;

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::{chdir, chroot, execv};

use crate::bootstate::{BootState, Place, Standing};
use crate::facts::{self, ArmedWatchdog, BootFacts, Slot};
use crate::modules::Modules;
use crate::verity::{self, Verity};
use crate::watchdog::{self, Watchdog};

/// Modules no device asks for. Hashes first: the file system wants one and does not say so.
const ALWAYS: &[&str] = &["crc32c_generic", "dm_mod", "dm_verity", "erofs"];
/// Controllers may take long to find their disks; after this time there is none.
const DISK_SECS_MAX: u64 = 60;
/// How often a disk is looked for.
const DISK_LOOK: Duration = Duration::from_millis(50);
/// Seconds from the last feeding here to the second stage's first one. Waiting for a disk and reading the root through are fed.
pub const WATCHDOG_SECS: u32 = 20;
/// Time to read the message before the machine starts again.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Where the root is mounted until it is the root.
const ROOT: &str = "/root";
/// Name of the checked device.
const ROOT_DEVICE: &str = "reprise-root";
/// Partition with the boot loader's state.
const ESP: &str = "reprise-esp";
/// `secure_boot` in the kernel's `struct boot_params`; 3 is "enabled".
const SECURE_BOOT_AT: usize = 0x1ec;

/// What the boot loader says on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommandLine {
    slot: Slot,
    /// Identifier of the root's partition.
    root: String,
    verity: Verity,
    /// Sector of the boot loader's state in its partition.
    state: Option<u64>,
}

impl CommandLine {
    fn parse(text: &str) -> Result<Self> {
        let value = |name: &str| {
            let words = text.split_whitespace().filter_map(|w| w.split_once('='));
            words.filter(|(n, _)| *n == name).map(|(_, v)| v).next_back()
        };
        let needed = |name: &str| value(name).with_context(|| format!("the command line has no {name}"));
        Ok(Self {
            slot: Slot::from_letter(needed("reprise.slot")?).context("reprise.slot is neither a nor b")?,
            root: needed("reprise.root")?.strip_prefix("PARTUUID=").context("reprise.root is no PARTUUID")?.to_owned(),
            verity: needed("reprise.verity")?.parse()?,
            state: value("reprise.state").and_then(|v| v.parse().ok()),
        })
    }
}

/// Goes over into the checked root, or starts the machine again.
pub fn run() -> ! {
    let Err(error) = into_root();
    say(&format!("cannot start: {error:#}"));
    say("starting again");
    nix::unistd::sync();
    std::thread::sleep(LAST_WORDS);
    // Where even this fails, the first process ends, and with it the kernel: it starts again by `panic=`.
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    panic!("cannot start again: {error}");
}

fn into_root() -> Result<Infallible> {
    mount_kernels()?;
    let text = std::fs::read_to_string("/proc/cmdline").context("read the command line")?;
    let line = CommandLine::parse(&text)?;
    let mut modules = Modules::of_this_kernel()?;
    modules.coldplug();
    let (armed, watchdog) = arm(&mut modules).unzip();
    let feed = || {
        // A watchdog that cannot be fed fires: that is its answer.
        let _ = watchdog.as_ref().map(Watchdog::feed);
    };
    for name in ALWAYS {
        modules.load(name)?;
    }
    let disk = wait_for_disk(&mut modules, &line.root, feed)?;
    let partition = disk.by_uuid(&line.root).context("find the root's partition")?;
    let device = line.verity.open(ROOT_DEVICE, &partition.number)?;
    verity::read_all(&device, line.verity.len_bytes(), feed).context("check the root")?;
    let state = line.state.map(|sector| disk.by_name(ESP).map(|p| Place { device: p.device, sector })).transpose();
    let state = state.context("find the boot loader's state")?;
    let (state, found) = settle(state, line.slot);
    let facts = BootFacts {
        slot: line.slot,
        confirmed: found.as_ref().is_some_and(|f| f.slot(line.slot).standing == Standing::Confirmed),
        fell_back: found.as_ref().is_some_and(|f| f.wanted != line.slot),
        state_was_lost: state.is_some() && found.is_none(),
        state,
        boot_disk: Path::new("/dev").join(&disk.disk),
        watchdog: armed,
        secure_boot: secure_boot(),
    };
    facts.store(Path::new(facts::FILE))?;
    say(&summary(&facts, line.verity.len_bytes()));
    feed();
    switch(&device)
}

/// The kernel's own file systems.
fn mount_kernels() -> Result<()> {
    let no = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    for (kind, at, flags, data) in [
        ("proc", "/proc", no | MsFlags::MS_NODEV, None),
        ("sysfs", "/sys", no | MsFlags::MS_NODEV, None),
        ("devtmpfs", "/dev", no, Some("mode=0755")),
        ("tmpfs", "/run", no | MsFlags::MS_NODEV, Some("mode=0755")),
    ] {
        std::fs::create_dir_all(at).with_context(|| format!("make {at}"))?;
        mount(Some(kind), at, Some(kind), flags, data).with_context(|| format!("mount {at}"))?;
    }
    Ok(())
}

/// Arms the best watchdog there is, the kernel's own timer where the machine has none. A machine without is started all the
/// same: it then has to be started again by hand when it hangs, which is better than none at all.
fn arm(modules: &mut Modules) -> Option<(ArmedWatchdog, Watchdog)> {
    if watchdog::find().is_none() && Path::new("/dev/ipmi0").exists() {
        // No device asks for it: it is a service of the one that is there. Not every board offers it.
        let _ = modules.load("ipmi_watchdog");
    }
    if watchdog::find().is_none()
        && let Err(error) = modules.load("softdog")
    {
        say(&format!("no watchdog: {error:#}"));
    }
    let found = watchdog::find()?;
    match Watchdog::arm(&found, WATCHDOG_SECS) {
        Ok(watchdog) => Some((ArmedWatchdog { secs: watchdog.secs(), found }, watchdog)),
        Err(error) => {
            say(&format!("{} is not armed: {error:#}", found.name));
            None
        }
    }
}

fn wait_for_disk(modules: &mut Modules, uuid: &str, feed: impl Fn()) -> Result<gpt::Found> {
    let deadline = Instant::now() + Duration::from_secs(DISK_SECS_MAX);
    loop {
        if let Some(found) = gpt::find_disk(uuid) {
            return Ok(found);
        }
        if Instant::now() > deadline {
            anyhow::bail!("no disk has the partition {uuid}");
        }
        std::thread::sleep(DISK_LOOK);
        feed();
        // A controller may have brought its disks to light meanwhile.
        modules.coldplug();
    }
}

/// The root is checked: clears the count of a slot that has worked before, and makes a damaged state anew. Gives the state as
/// it was found; the box starts although its state cannot be written, and says so.
fn settle(place: Option<Place>, slot: Slot) -> (Option<Place>, Option<BootState>) {
    let Some(place) = place else { return (None, None) };
    let found = match place.read() {
        Ok(found) => found,
        Err(error) => {
            say(&format!("{error:#}"));
            return (Some(place), None);
        }
    };
    let written = place.update(|state| {
        if found.is_none() {
            // It runs, so it is wanted for lack of anything better known.
            state.wanted = slot;
        }
        state.clear_tries_if_confirmed(slot);
    });
    if let Err(error) = written {
        say(&format!("{error:#}"));
    }
    if found.is_none() {
        say("the boot loader's state was damaged and has been made anew");
    }
    (Some(place), found)
}

/// What somebody at the console wants to know of the start, in one line.
fn summary(facts: &BootFacts, root_len: u64) -> String {
    let standing = match (facts.fell_back, facts.confirmed) {
        (true, _) => "standing in for the other one",
        (false, true) => "known to work",
        (false, false) => "on trial",
    };
    let watchdog = facts.watchdog.as_ref().map_or("none", |w| &w.found.name);
    let secure_boot = if facts.secure_boot { "on" } else { "off" };
    let (slot, mib) = (facts.slot.letter(), root_len >> 20);
    format!("slot {slot}, {standing}; root checked, {mib} MiB; watchdog: {watchdog}; Secure Boot {secure_boot}")
}

fn secure_boot() -> bool {
    let params = std::fs::read("/sys/kernel/boot_params/data").unwrap_or_default();
    params.get(SECURE_BOOT_AT) == Some(&3)
}

/// Makes the checked device the root, takes the kernel's file systems along, and goes over.
fn switch(device: &Path) -> Result<Infallible> {
    std::fs::create_dir_all(ROOT).context("make the root's place")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some(device), ROOT, Some("erofs"), flags, None::<&str>).context("mount the root")?;
    for at in ["/proc", "/sys", "/dev", "/run"] {
        let to = format!("{ROOT}{at}");
        mount(Some(at), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .with_context(|| format!("move {at}"))?;
    }
    empty_memory_disk();
    chdir(ROOT).context("go to the root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move the root")?;
    chroot(".").context("take the root")?;
    chdir("/").context("go to the root's begin")?;
    execv(c"/sbin/init", &[c"/sbin/init", c"system"]).context("start the second stage")
}

/// Gives the memory of the modules and of this program back; what stays is open.
fn empty_memory_disk() {
    let _ = std::fs::remove_dir_all("/lib");
    let _ = std::fs::remove_file("/init");
}

/// To the kernel's log, and to where people look.
fn say(text: &str) {
    // Before the file systems are mounted, or on a machine without one of them, there is nobody to tell.
    for (path, head) in [("/dev/kmsg", "<6>"), ("/dev/console", ""), ("/dev/tty0", "")] {
        if let Ok(mut file) = File::options().write(true).open(path) {
            let end = if head.is_empty() { "\r\n" } else { "\n" };
            let _ = file.write_all(format!("{head}reprise: {text}{end}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read() {
        let hash = "ab".repeat(32);
        let text = format!(
            "BOOT_IMAGE=/vmlinuz console=ttyS0 reprise.slot=b reprise.root=PARTUUID=0b-1 reprise.state=77 \
             reprise.verity={hash}:{hash}:9\n"
        );
        let line = CommandLine::parse(&text).unwrap();
        assert_eq!((line.slot, line.root.as_str(), line.state), (Slot::B, "0b-1", Some(77)));
        assert_eq!(line.verity.len_bytes(), 9 * 4096);
        for missing in ["reprise.slot=b ", "reprise.root=PARTUUID=0b-1 ", "reprise.verity="] {
            assert!(CommandLine::parse(&text.replace(missing, "")).is_err(), "{missing}");
        }
        assert!(CommandLine::parse(&text.replace("slot=b", "slot=c")).is_err());
        assert!(CommandLine::parse(&text.replace("PARTUUID=", "LABEL=")).is_err());
    }
}
