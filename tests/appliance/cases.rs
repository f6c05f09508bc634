//! What is tried.

use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::nvram;
use super::pair::{pair, pair_in_browser, resets};
use super::vm::{Bus, Firmware, Machine, Vm};
use crate::image::{Image, layout, slot::Parts};
use crate::process::{output, run as run_command};

/// A slot serves: said by the second stage.
pub(super) const SERVING_A: &str = "reprise: serving, slot a";
const SERVING_B: &str = "reprise: serving, slot b";
const STARTING_B: &str = "reprise: starting slot b";
/// A start takes about 12 s on a machine with nothing else to do.
pub(super) const START: Duration = Duration::from_secs(180);
/// Three starts of a slot that fails, and one of the other. A watchdog takes 20 s longer each time.
const FALL_BACK: Duration = Duration::from_secs(600);
/// Boot states, as the boot loader reads them.
const B_ON_TRIAL: &str = "# GRUB Environment Block\nORDER=b a\nA_OK=2\nA_TRY=0\nB_OK=1\nB_TRY=0\n";
const STATE_HEAD: &str = "# GRUB Environment Block\n";
/// Memory of a machine. GRUB holds kernel and initial memory disk twice while it checks them, in a part of what UEFI leaves: 256 MiB
/// are too few there.
pub(super) const MEMORY_MIB: u32 = 512;

/// Something to be tried.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) short: bool,
    /// Gives the time that counts.
    pub(super) run: fn(&World, &str) -> Result<Duration>,
}

const fn case(name: &'static str, short: bool, what: &'static str, run: fn(&World, &str) -> Result<Duration>) -> Case {
    Case { name, what, short, run }
}

/// All of them.
pub(super) const CASES: &[Case] = &[
    // The boxes of `pair` start by BIOS and UEFI too.
    case("bios", false, "power-on to serving: BIOS, AHCI", |w, n| starts(w, n, Firmware::Bios, Bus::Ahci)),
    case("uefi", false, "power-on to serving: UEFI, virtio", |w, n| starts(w, n, w.uefi(n)?, Bus::Virtio)),
    case("secure-boot", true, "power-on to serving: UEFI Secure Boot with test keys, NVMe", secure_boot),
    case("secure-boot-unsigned", true, "an unsigned boot loader is refused by the firmware", unsigned_loader),
    case("keys-pressed", false, "keys pressed at the boot loader change nothing", keys_pressed),
    case("kernel-byte", true, "a byte of slot B's kernel has turned over: back on A", kernel_byte),
    case("state-zeroed", true, "the boot state's sector is zero: starts, and the state is made anew", state_zeroed),
    case("root-byte", false, "a byte of slot B's root has turned over: three tries, back on A", root_byte),
    case("panic", false, "slot B's first process ends: three tries, back on A", |w, n| bad_release(w, n, "exit 1")),
    case("hang", false, "slot B's first process hangs: watchdog, three tries, back on A", |w, n| {
        bad_release(w, n, "while :; do busybox sleep 9; done")
    }),
    case("pair", true, "two boxes paired at their consoles, a host, a cut cable, power cuts", pair),
    case("pair-browser", false, "two boxes paired in a browser", pair_in_browser),
    case(
        "resets",
        false,
        "three levels of reset at the console, one without a daemon, one through a power cut",
        resets,
    ),
    case("power-cuts", false, "five power cuts of a slot that works: it is still the one that starts", power_cuts),
];

/// The image and where the cases keep their disks.
pub(super) struct World {
    image: Image,
    pub(super) dir: PathBuf,
    /// Keys enrolled, made once.
    variables: OnceCell<Vec<u8>>,
    pub(super) notes: RefCell<Vec<String>>,
}

impl World {
    pub(super) fn new(image: Image, dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { image, dir, variables: OnceCell::new(), notes: RefCell::default() })
    }

    /// A freshly flashed disk.
    pub(super) fn flash(&self, name: &str) -> Result<Disk> {
        let file = self.dir.join(name).with_extension("img");
        self.copy(&self.image.disk, &file).context("flash a disk")?;
        let opened = File::options().read(true).write(true).open(&file)?;
        Ok(Disk { path: file, file: opened, state_at: self.image.state_at })
    }

    /// Copies a disk; holes stay holes.
    pub(super) fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        run_command(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
    }

    /// Something the report shall say.
    pub(super) fn note(&self, text: String) {
        println!("{text}");
        self.notes.borrow_mut().push(text);
    }

    pub(super) fn uefi(&self, name: &str) -> Result<Firmware> {
        let file = self.dir.join(name).with_extension("vars");
        std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &file).context("copy UEFI's variables")?;
        Ok(Firmware::Uefi(file))
    }

    fn secure(&self, name: &str) -> Result<Firmware> {
        let file = self.dir.join(name).with_extension("vars");
        let variables = match self.variables.get() {
            Some(variables) => variables,
            None => {
                let made = nvram::with_key(&self.image.keys.certificate())?;
                self.variables.get_or_init(|| made)
            }
        };
        std::fs::write(&file, variables)?;
        Ok(Firmware::SecureBoot(file))
    }

    fn start(&self, name: &str, disk: &Disk, firmware: Firmware, bus: Bus) -> Result<Vm> {
        let log = self.dir.join(name).with_extension("serial");
        let machine = Machine { firmware, bus, disk: disk.path.clone(), memory_mib: MEMORY_MIB, more: Vec::new(), log };
        machine.start()
    }
}

/// A disk of a case. Written to only while no machine has it.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) file: File,
    state_at: u64,
}

impl Disk {
    /// One bit of a byte turns over.
    fn turn_over(&self, at: u64) -> Result<()> {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 0x10;
        Ok(self.file.write_all_at(&byte, at)?)
    }

    /// Puts a file onto the state partition in place of the one that is there. The machine was switched off as it should be.
    pub(super) fn write_state(&self, file: &str, text: &str) -> Result<()> {
        let (begin, len) = (layout::begin_of("reprise-state")?, layout::named("reprise-state")?.size);
        let mut content = vec![0; usize::try_from(len)?];
        self.file.read_exact_at(&mut content, begin)?;
        let (partition, new) = (self.path.with_extension("state"), self.path.with_extension("file"));
        std::fs::write(&partition, &content)?;
        std::fs::write(&new, text)?;
        for command in [format!("rm {file}"), format!("write {} {file}", new.display())] {
            run_command(Command::new("debugfs").args(["-w", "-R", &command]).arg(&partition))?;
        }
        // It ends well whatever has become of its command.
        let there = output(Command::new("debugfs").args(["-R", &format!("cat {file}")]).arg(&partition))?;
        if there != text {
            bail!("{file} could not be replaced: {there:?}");
        }
        self.file.write_all_at(&std::fs::read(&partition)?, begin)?;
        std::fs::remove_file(&partition)?;
        Ok(std::fs::remove_file(&new)?)
    }

    fn set_state(&self, text: &str) -> Result<()> {
        let mut sector = [b'#'; 512];
        sector[..text.len()].copy_from_slice(text.as_bytes());
        Ok(self.file.write_all_at(&sector, self.state_at)?)
    }

    fn state(&self) -> Result<String> {
        let mut sector = [0; 512];
        self.file.read_exact_at(&mut sector, self.state_at)?;
        Ok(String::from_utf8_lossy(&sector).trim_end_matches('#').to_owned())
    }

    /// The state must say this, after the machine has been switched off.
    fn state_says(&self, lines: &[&str]) -> Result<()> {
        let state = self.state()?;
        match lines.iter().find(|l| !state.lines().any(|s| s == **l)) {
            Some(line) => bail!("the boot state does not say {line}: {state:?}"),
            None => Ok(()),
        }
    }
}

/// From power-on to serving, and known to work afterwards.
fn starts(world: &World, name: &str, firmware: Firmware, bus: Bus) -> Result<Duration> {
    let disk = world.flash(name)?;
    let mut vm = world.start(name, &disk, firmware, bus)?;
    let time = vm.serial.expect(SERVING_A, START)?;
    vm.power_off()?;
    disk.state_says(&["ORDER=a b", "A_OK=2", "A_TRY=0", "B_OK=1", "B_TRY=0"])?;
    Ok(time)
}

fn secure_boot(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    let mut vm = world.start(name, &disk, world.secure(name)?, Bus::Nvme)?;
    vm.serial.expect("Secure Boot on", START)?;
    let time = vm.serial.expect(SERVING_A, START)?;
    vm.power_off()?;
    Ok(time)
}

/// The boot loader without its signature: what an attacker, or somebody with another key, would put there.
fn unsigned_loader(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    let esp = disk.path.with_extension("esp");
    let (begin, len) = (layout::begin_of("reprise-esp")?, layout::named("reprise-esp")?.size);
    let mut content = vec![0; usize::try_from(len)?];
    disk.file.read_exact_at(&mut content, begin)?;
    std::fs::write(&esp, &content)?;
    let mut copy = Command::new("mcopy");
    copy.arg("-o").arg("-i").arg(&esp).arg(world.image.work.join("grubx64.efi")).arg("::/EFI/BOOT/BOOTX64.EFI");
    run_command(&mut copy).context("put an unsigned boot loader onto the disk")?;
    disk.file.write_all_at(&std::fs::read(&esp)?, begin)?;
    let mut vm = world.start(name, &disk, world.secure(name)?, Bus::Virtio)?;
    match vm.serial.expect_any(&["Access Denied", "reprise:", "Welcome to GRUB"], START)? {
        (0, time) => Ok(time),
        _ => bail!("the firmware has started it"),
    }
}

/// What opens a menu, a prompt or an editor in other boot loaders.
fn keys_pressed(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    let mut vm = world.start(name, &disk, world.uefi(name)?, Bus::Virtio)?;
    vm.serial.expect("Welcome to GRUB", START)?;
    for _ in 0..20 {
        vm.serial.send("c\x1be\x03\r ")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    match vm.serial.expect_any(&[SERVING_A, "grub>", "username:"], START)? {
        (0, time) => Ok(time),
        _ => bail!("the boot loader takes commands"),
    }
}

fn kernel_byte(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    disk.set_state(B_ON_TRIAL)?;
    disk.turn_over(layout::begin_of("reprise-boot-b")? + (4 << 20))?;
    let mut vm = world.start(name, &disk, Firmware::Bios, Bus::Virtio)?;
    vm.serial.expect("slot b cannot be started", START)?;
    let time = serves_a(&mut vm, START)?;
    vm.power_off()?;
    disk.state_says(&["ORDER=b a", "A_OK=2", "A_TRY=0", "B_OK=1", "B_TRY=1"])?;
    Ok(time)
}

fn state_zeroed(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    disk.file.write_all_at(&[0; 512], disk.state_at)?;
    let mut vm = world.start(name, &disk, Firmware::Bios, Bus::Virtio)?;
    vm.serial.expect("the boot state is damaged", START)?;
    let time = serves_a(&mut vm, START)?;
    vm.power_off()?;
    if !disk.state()?.starts_with(STATE_HEAD) {
        bail!("the boot state has not been made anew: {:?}", disk.state()?);
    }
    disk.state_says(&["ORDER=a b", "A_OK=2", "A_TRY=0"])?;
    Ok(time)
}

fn root_byte(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    disk.set_state(B_ON_TRIAL)?;
    disk.turn_over(layout::begin_of("reprise-root-b")? + (3 << 20) + 77)?;
    falls_back(world, name, &disk)
}

/// Slot B holds a release that is signed and whole, and whose first process does this.
fn bad_release(world: &World, name: &str, script: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    let work = world.dir.join(name);
    std::fs::create_dir_all(&work)?;
    let tree = work.join("root");
    let _ = std::fs::remove_dir_all(&tree);
    run_command(Command::new("cp").arg("-a").arg(world.image.work.join("root")).arg(&tree)).context("copy the root")?;
    first_process(&tree, script)?;
    let Image { kernel, initrd, release, epoch, keys, .. } = &world.image;
    let parts = Parts::make(&work, &tree, kernel.clone(), initrd.clone(), release + 1, *epoch)?;
    layout::put(&disk.file, "reprise-root-b", &parts.root)?;
    layout::put(&disk.file, "reprise-boot-b", &parts.boot(&work, keys)?)?;
    std::fs::remove_dir_all(&tree)?;
    disk.set_state(B_ON_TRIAL)?;
    falls_back(world, name, &disk)
}

fn first_process(tree: &Path, script: &str) -> Result<()> {
    let file = tree.join("usr/sbin/init");
    std::fs::remove_file(&file)?;
    std::fs::write(&file, format!("#!/usr/bin/busybox sh\n{script}\n"))?;
    Ok(std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?)
}

/// Three tries of slot B, and A serves.
fn falls_back(world: &World, name: &str, disk: &Disk) -> Result<Duration> {
    let mut vm = world.start(name, disk, Firmware::Bios, Bus::Virtio)?;
    for _ in 0..3 {
        vm.serial.expect(STARTING_B, FALL_BACK)?;
    }
    vm.serial.expect("slot a, standing in for the other one", FALL_BACK)?;
    let time = serves_a(&mut vm, START)?;
    vm.power_off()?;
    disk.state_says(&["ORDER=b a", "A_OK=2", "A_TRY=0", "B_OK=1", "B_TRY=3"])?;
    Ok(time)
}

fn serves_a(vm: &mut Vm, limit: Duration) -> Result<Duration> {
    match vm.serial.expect_any(&[SERVING_A, SERVING_B, STARTING_B], limit)? {
        (0, time) => Ok(time),
        (1, _) => bail!("slot B serves"),
        _ => bail!("slot B has been tried once more"),
    }
}

/// The power goes as soon as the root is checked, five times: more often than there are tries.
fn power_cuts(world: &World, name: &str) -> Result<Duration> {
    let disk = world.flash(name)?;
    disk.set_state(&B_ON_TRIAL.replace("ORDER=b a", "ORDER=a b"))?;
    for _ in 0..5 {
        let mut vm = world.start(name, &disk, Firmware::Bios, Bus::Virtio)?;
        vm.serial.expect("slot a, known to work", START)?;
        vm.power_off()?;
    }
    let mut vm = world.start(name, &disk, Firmware::Bios, Bus::Virtio)?;
    let time = serves_a(&mut vm, START)?;
    vm.power_off()?;
    Ok(time)
}
