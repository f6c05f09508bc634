//! What the tests, the demo and the benchmarks need from Debian.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, find_program, is_root};

/// How one sees that a package is there.
enum Sign {
    /// A program.
    Program(&'static str),
    /// A file below a folder that has the architecture in its name.
    Library(&'static str),
}

/// Package, sign, what for.
const NEEDED: &[(&str, Sign, &str)] = &[
    ("libiscsi-bin", Sign::Program("iscsi-perf"), "an initiator for tests and benchmarks"),
    ("qemu-utils", Sign::Program("qemu-img"), "copies images, measures"),
    ("qemu-block-extra", Sign::Library("qemu/block-iscsi.so"), "lets qemu-img speak iSCSI"),
    ("qemu-system-x86", Sign::Program("qemu-system-x86_64"), "runs the Linux initiator in a guest"),
    ("qemu-system-common", Sign::Program("qemu-storage-daemon"), "logs what a kernel writes to a disk, and fails it"),
    ("kmod", Sign::Program("depmod"), "indexes the modules of the guest's kernel"),
    ("tgt", Sign::Program("tgtd"), "what the benchmarks compare with"),
    ("e2fsprogs", Sign::Program("mkfs.ext4"), "makes and checks file systems"),
    ("iproute2", Sign::Program("tc"), "shapes the link of the benchmarks"),
    ("util-linux", Sign::Program("unshare"), "network namespaces of the benchmarks"),
    ("libfaketime", Sign::Library("faketime/libfaketime.so.1"), "another wall clock for a box under test"),
    ("chromium", Sign::Program("chromium"), "looks at the web console as users do"),
    ("chromium-driver", Sign::Program("chromedriver"), "tells the browser what to do"),
    ("curl", Sign::Program("curl"), "an HTTPS client for tests"),
    ("mount", Sign::Program("losetup"), "loop devices of the tests"),
    ("grub-common", Sign::Program("grub-mkimage"), "makes the image's boot loader"),
    ("grub-pc-bin", Sign::Library("grub/i386-pc/boot.img"), "the image's boot loader for BIOS"),
    ("grub-efi-amd64-bin", Sign::Library("grub/x86_64-efi/kernel.img"), "the image's boot loader for UEFI"),
    ("gnupg", Sign::Program("gpg"), "signs for the image's boot loader"),
    ("openssl", Sign::Program("openssl"), "makes the image's test keys"),
    ("sbsigntool", Sign::Program("sbsign"), "signs for UEFI Secure Boot"),
    ("ovmf", Sign::Library("../share/OVMF/OVMF_CODE_4M.secboot.fd"), "UEFI for QEMU"),
    ("dosfstools", Sign::Program("mkfs.fat"), "makes the image's EFI system partition"),
    ("mtools", Sign::Program("mcopy"), "fills the image's EFI system partition"),
    ("erofs-utils", Sign::Program("mkfs.erofs"), "makes the image's root"),
    ("cryptsetup-bin", Sign::Program("veritysetup"), "hashes the image's root"),
    ("binutils", Sign::Program("strip"), "strips the image's programs"),
    ("zstd", Sign::Program("zstd"), "packs the image"),
    ("busybox-static", Sign::Program("busybox"), "DHCP client and server for tests of the appliance's system"),
    ("gdisk", Sign::Program("sgdisk"), "checks partition tables that tests write"),
    ("xfsprogs", Sign::Program("mkfs.xfs"), "makes the file system of a pool"),
];

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Library(name) => {
                let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|e| e.path());
                folders.chain([Path::new("/usr/lib").to_owned()]).any(|f| f.join(name).is_file())
            }
        }
    }
}

/// A package may push out one that was there, such as another release of what it belongs to: that one is missing then, and comes
/// again in the next round.
const ROUNDS_MAX: u32 = 3;

fn missing() -> Vec<&'static (&'static str, Sign, &'static str)> {
    NEEDED.iter().filter(|(_, sign, _)| !sign.is_there()).collect()
}

/// Installs what is missing, or says what to install. Quiet when all is there.
pub fn ensure() -> Result<()> {
    for round in 0..ROUNDS_MAX {
        let missing = missing();
        if missing.is_empty() {
            return Ok(());
        }
        for (package, _, what_for) in &missing {
            eprintln!("missing: {package} ({what_for})");
        }
        let packages: Vec<&str> = missing.iter().map(|(package, ..)| *package).collect();
        install(&packages, round == 0)?;
    }
    match missing().first() {
        Some((package, ..)) => bail!("{package} is installed and what is needed of it is not there"),
        None => Ok(()),
    }
}

fn install(packages: &[&str], refresh: bool) -> Result<()> {
    if !is_root() {
        bail!("run this as root, then again: apt-get install --no-install-recommends {}", packages.join(" "));
    }
    if find_program("apt-get").is_none() {
        bail!("this is no Debian; install what the packages {} hold", packages.join(", "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "Dpkg::Use-Pty=0"]);
        command
    };
    if refresh {
        process::run(apt().arg("update")).context("refresh the package lists")?;
    }
    // A package that starts a service would put it on the default ports of this machine, where nobody asked for it.
    let no_start = Path::new("/usr/sbin/policy-rc.d");
    let ours = !no_start.exists();
    if ours {
        std::fs::write(no_start, "#!/bin/sh\nexit 101\n").context("keep services from starting")?;
        process::run(Command::new("chmod").arg("755").arg(no_start))?;
    }
    let installed = process::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages));
    if ours {
        std::fs::remove_file(no_start).context("let services start again")?;
    }
    installed.context("install packages")?;
    eprintln!("installed: {}", packages.join(" "));
    Ok(())
}

/// `cargo xtask setup`.
pub fn run() -> Result<()> {
    ensure()?;
    println!("all that tests, demo and benchmarks need is there");
    Ok(())
}
