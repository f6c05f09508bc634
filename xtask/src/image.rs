//! `cargo xtask image`: the appliance's disk image, from Debian's packages and our own programs.
//!
//! GUID partition table; GRUB for BIOS and for UEFI with one signed configuration; two slots, each a boot partition (kernel and
//! initial memory disk, signed) and a root that is checked while it is read. Nothing needs root: file systems are made as
//! files, GRUB is put into its place by hand. All that is not a signature is the same from build to build.

pub mod keys;
pub mod layout;
mod loader;
pub mod slot;
pub mod tree;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::process::{cargo, find_program, output, root, run as run_command, target_dir};
use crate::setup;
use keys::Keys;
use loader::Loader;
use slot::{Parts, hex};
use tree::Packages;

const USAGE: &str = "\
cargo xtask image [OPTIONS]

  --keys DIR             sign with the keys in DIR (boot.gpg, boot.pub, db.key, db.crt), not with test keys
  --programs DIR         take `reprise` and `reprise-init` from DIR, do not build them
  --check-reproducible   build all that is not signed twice and compare";

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// What the daemon of the appliance is built with.
const FEATURES: &str = "reprise/daemon,reprise/console";
/// Time of the files of a tree that is no checkout: the first of January 2026.
const EPOCH_UNKNOWN: u64 = 1_767_225_600;
/// Goal for the packed image, bytes.
const PACKED_MAX: u64 = 40 << 20;

/// What is built, from what.
#[derive(Debug)]
struct Source {
    version: String,
    commit: String,
    /// When the commit was made, seconds since 1970: the time of all files.
    epoch: u64,
}

impl Source {
    fn find() -> Result<Self> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        // Whoever builds need not be who has fetched the tree.
        let git =
            |args: &[&str]| output(Command::new("git").args(["-c", "safe.directory=*"]).args(args).current_dir(root()));
        let commit = match git(&["rev-parse", "HEAD"]) {
            Ok(commit) => commit.trim().to_owned(),
            Err(error) => {
                println!("image: no commit is known ({error:#}); the image says so");
                return Ok(Self { version, commit: "unknown".to_owned(), epoch: EPOCH_UNKNOWN });
            }
        };
        let changed = !git(&["status", "--porcelain"])?.trim().is_empty();
        Ok(Self {
            version,
            commit: if changed { format!("{commit}+changes") } else { commit },
            epoch: git(&["log", "-1", "--format=%ct"])?.trim().parse().context("time of the commit")?,
        })
    }

    /// Grows from release to release; minutes, because the boot loader counts in 32 bits.
    fn release(&self) -> u64 {
        self.epoch / 60
    }

    fn os_release(&self) -> String {
        let Self { version, commit, .. } = self;
        format!(
            "NAME=reprise\nID=reprise\nVERSION_ID={version}\nBUILD_ID={commit}\nPRETTY_NAME=\"reprise {version}\"\n"
        )
    }
}

/// A disk image, and the places something else is put to by tests.
#[derive(Debug)]
pub struct Image {
    /// Not packed, with holes.
    pub disk: PathBuf,
    /// Where the boot state stands on the disk, bytes.
    pub state_at: u64,
    /// Folder of the parts, with the root's tree in `root`: tests make other slots of them.
    pub work: PathBuf,
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub keys: Keys,
    pub release: u64,
    pub epoch: u64,
    manifest: serde_json::Value,
}

/// Where our programs come from.
#[derive(Debug, Clone, Copy)]
pub enum Programs<'a> {
    /// From that folder.
    Given(&'a Path),
    /// Built as they are released.
    Released,
    /// Built for a test: slower, and made in half the time.
    Quick,
}

/// Cargo's settings for a build that is made in half the time.
const QUICK: &[(&str, &str)] = &[
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// Where everything is.
pub fn folder() -> PathBuf {
    target_dir().join("image")
}

pub fn run(args: &[String]) -> Result<()> {
    let (mut keys, mut programs, mut check) = (None, None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().map(PathBuf::from).with_context(|| format!("{arg} needs a value\n\n{USAGE}"));
        match arg.as_str() {
            "--keys" => keys = Some(value()?),
            "--programs" => programs = Some(value()?),
            "--check-reproducible" => check = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => bail!("unknown option {other:?}\n\n{USAGE}"),
        }
    }
    if check {
        return check_reproducible(programs.as_deref(), keys.as_deref());
    }
    let start = Instant::now();
    let programs = programs.as_deref().map_or(Programs::Released, Programs::Given);
    let image = build(programs, keys.as_deref())?;
    pack(&image, start)
}

fn take_keys(given: Option<&Path>) -> Result<Keys> {
    match given {
        Some(dir) => Keys::given(dir),
        None => Keys::test(&folder().join("keys")),
    }
}

/// Builds the image, and its manifest but for what only the packed image has.
pub fn build(programs: Programs<'_>, keys: Option<&Path>) -> Result<Image> {
    setup::ensure()?;
    let source = Source::find()?;
    let programs = match programs {
        Programs::Given(dir) => dir.to_owned(),
        Programs::Released => build_programs(&folder().join("build"), &source, &[])?,
        Programs::Quick => build_programs(&folder().join("build-quick"), &source, QUICK)?,
    };
    let keys = take_keys(keys)?;
    let packages = Packages::ready(&folder())?;
    let work = folder().join("work");
    let unsigned = Unsigned::make(&work, &packages, &programs, &keys, &source)?;
    let disk = folder().join(format!("reprise-{}.img", source.version));
    let state_at = unsigned.write(&disk, &work, &keys, &source)?;
    let manifest = unsigned.manifest(&packages, &source)?;
    let Parts { kernel, initrd, .. } = unsigned.parts;
    let (release, epoch) = (source.release(), source.epoch);
    Ok(Image { disk, state_at, work, kernel, initrd, keys, release, epoch, manifest })
}

/// Packs the image and writes the manifest beside it.
fn pack(image: &Image, start: Instant) -> Result<()> {
    let packed = image.disk.with_extension("img.zst");
    let mut pack = Command::new("zstd");
    // The second slot is the first one again; no reader needs be told to allow a window of this length.
    pack.args(["-q", "-f", "-10", "--long=27", "--single-thread", "-o"]).arg(&packed).arg(&image.disk);
    run_command(&mut pack).context("pack the image")?;
    let content = std::fs::read(&packed)?;
    let mut manifest = image.manifest.clone();
    manifest["image"] = serde_json::json!({
        "file": packed.file_name().map(|n| n.to_string_lossy()),
        "bytes": content.len(),
        "bytes_unpacked": layout::disk_len(),
        "sha256": sha256(&content),
    });
    std::fs::write(image.disk.with_extension("json"), format!("{}\n", serde_json::to_string_pretty(&manifest)?))?;
    let (megabytes, secs) = (content.len() as f64 / 1e6, start.elapsed().as_secs_f64());
    println!("image: {} ({megabytes:.1} MB, {secs:.0} s)", packed.display());
    if content.len() as u64 > PACKED_MAX {
        bail!("the packed image has {} bytes, more than {PACKED_MAX}", content.len());
    }
    Ok(())
}

/// Our programs, linked so that they need nothing of the root. Gives their folder.
fn build_programs(target: &Path, source: &Source, settings: &[(&str, &str)]) -> Result<PathBuf> {
    let mut command = cargo(&["build", "--release", "--locked", "--target", TARGET]);
    command.args(["--package", "reprise", "--package", "reprise-init", "--no-default-features"]);
    command.args(["--features", FEATURES]);
    // Paths of this machine have no business in the programs.
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|h| format!("{h}/.cargo")));
    let mut flags = format!("-C target-feature=+crt-static --remap-path-prefix={}=reprise", root().display());
    if let Ok(home) = home {
        flags += &format!(" --remap-path-prefix={home}=cargo");
    }
    command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target);
    command.env("SOURCE_DATE_EPOCH", source.epoch.to_string()).envs(settings.iter().copied());
    run_command(&mut command).context("build the programs")?;
    Ok(target.join(TARGET).join("release"))
}

/// All parts before anything is signed.
#[derive(Debug)]
struct Unsigned {
    parts: Parts,
    loader: Loader,
    programs: Vec<(String, Vec<u8>)>,
}

impl Unsigned {
    fn make(work: &Path, packages: &Packages, programs: &Path, keys: &Keys, source: &Source) -> Result<Self> {
        std::fs::create_dir_all(work)?;
        let tree = work.join("root");
        packages.root(&tree, programs, &source.os_release())?;
        let modules = packages.initrd_modules(&work.join("initrd"))?;
        let init = tree.join("usr/sbin/reprise-init");
        let initrd = slot::initrd(work, &init, &modules, &packages.release)?;
        let parts = Parts::make(work, &tree, packages.kernel()?, initrd, source.release(), source.epoch)?;
        let read = |name: &str| -> Result<_> {
            let found =
                [tree.join("usr/bin"), tree.join("usr/sbin")].map(|d| d.join(name)).into_iter().find(|p| p.exists());
            Ok((name.to_owned(), std::fs::read(found.with_context(|| format!("no {name} in the root"))?)?))
        };
        let programs = vec![read("reprise")?, read("reprise-init")?];
        Ok(Self { parts, loader: loader::make(work, keys)?, programs })
    }

    /// Signs, and puts everything into its place. Gives the place of the boot state.
    fn write(&self, file: &Path, work: &Path, keys: &Keys, source: &Source) -> Result<u64> {
        let signed = work.join("bootx64.efi");
        keys.sign_efi(&self.loader.efi, &signed)?;
        let esp = loader::esp(work, &signed, keys, source.epoch)?;
        let boot = self.parts.boot(work, keys)?;
        let _ = std::fs::remove_file(file);
        let disk = File::create(file)?;
        disk.set_len(layout::disk_len())?;
        layout::write_tables(&disk, &self.loader.first_sector)?;
        layout::put(&disk, "reprise-bios", &self.loader.bios)?;
        layout::put(&disk, "reprise-esp", &esp.content)?;
        for letter in ["a", "b"] {
            layout::put(&disk, &format!("reprise-boot-{letter}"), &boot)?;
            layout::put(&disk, &format!("reprise-root-{letter}"), &self.parts.root)?;
        }
        Ok(layout::begin_of("reprise-esp")? + esp.state_sector * layout::SECTOR_LEN)
    }

    /// What is in the image, by name.
    fn pieces(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut pieces = vec![
            ("kernel".to_owned(), self.parts.kernel.clone()),
            ("initrd".to_owned(), self.parts.initrd.clone()),
            ("root".to_owned(), self.parts.root.clone()),
            ("slot.cfg".to_owned(), self.parts.config.clone().into_bytes()),
            ("boot program".to_owned(), self.loader.first_sector.to_vec()),
            ("GRUB for BIOS".to_owned(), self.loader.bios.clone()),
            ("GRUB for UEFI".to_owned(), std::fs::read(&self.loader.efi)?),
        ];
        pieces.extend(self.programs.iter().cloned());
        Ok(pieces)
    }

    fn manifest(&self, packages: &Packages, source: &Source) -> Result<serde_json::Value> {
        let pieces: serde_json::Map<_, _> = (self.pieces()?.into_iter())
            .map(|(name, bytes)| (name, serde_json::json!({"bytes": bytes.len(), "sha256": sha256(&bytes)})))
            .collect();
        Ok(serde_json::json!({
            "version": source.version,
            "commit": source.commit,
            "release": source.release(),
            "pieces": pieces,
            "kernel": packages.release,
            "packages": packages.files,
            "grub": version_of("grub-common")?,
        }))
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The version of a package of this machine.
fn version_of(package: &str) -> Result<String> {
    let query = find_program("dpkg-query").context("this is no Debian")?;
    output(Command::new(query).args(["-W", "-f", "${Version}", package]))
}

/// Builds everything that is not signed twice, in different folders, and compares.
fn check_reproducible(programs: Option<&Path>, keys: Option<&Path>) -> Result<()> {
    setup::ensure()?;
    let source = Source::find()?;
    let keys = take_keys(keys)?;
    let packages = Packages::ready(&folder())?;
    let mut builds = Vec::new();
    for name in ["first", "second"] {
        let dir = folder().join("twice").join(name);
        let programs = match programs {
            Some(dir) => dir.to_owned(),
            // From nothing both times.
            None => {
                let target = folder().join("twice/build");
                if target.exists() {
                    std::fs::remove_dir_all(&target).context("remove the earlier build")?;
                }
                build_programs(&target, &source, &[])?
            }
        };
        builds.push(Unsigned::make(&dir.join("work"), &packages, &programs, &keys, &source)?.pieces()?);
    }
    let mut differ = 0;
    for ((name, first), (_, second)) in builds[0].iter().zip(&builds[1]) {
        let same = first == second;
        differ += u32::from(!same);
        let verdict = if same { "the same" } else { "DIFFERENT" };
        println!("{name}: {verdict} ({} bytes, sha256 {})", first.len(), sha256(first));
    }
    if differ > 0 {
        bail!("{differ} pieces differ between two builds");
    }
    Ok(())
}
