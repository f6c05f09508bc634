//! The guest's image: Debian packages of this machine's own release, unpacked and put onto a disk. Nothing is installed on
//! this machine, and nobody need be root.
//!
//! The image is made anew when a package has another version or this recipe has changed, and kept else.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::debian::{Apt, only_entry, unpack, with_dependencies};
use crate::process::{find_program, run};

/// What the guest has; what they depend on comes with them.
const PACKAGES: &[&str] = &[
    "linux-image-amd64",
    "open-iscsi",
    "sg3-utils",
    "fio",
    "multipath-tools",
    "mdadm",
    "e2fsprogs",
    "xfsprogs",
    "busybox-static",
    "kmod",
    "udev",
];

/// Packages that others depend on for their installation or for helpers that no scene starts. Beginnings of names.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "initramfs-tools",
    "klibc",
    "libfile-find",
    "libgdbm",
    "libklibc",
    "libnumber",
    "libperl",
    "libpython3",
    "libtext-",
    "linux-base",
    "lsb-base",
    "media-types",
    "passwd",
    "perl",
    "python3",
    "tar_",
    "usrmerge",
];

/// What of the packages is not unpacked.
const EXCLUDED: &[&str] = &[
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/lintian/*",
    "./usr/lib/udev/hwdb.d/*",
    "./boot/System.map*",
    "./lib/modules/*/kernel/sound/*",
    "./lib/modules/*/kernel/drivers/gpu/*",
    "./lib/modules/*/kernel/drivers/media/*",
    "./lib/modules/*/kernel/drivers/infiniband/*",
    "./lib/modules/*/kernel/drivers/iio/*",
    "./lib/modules/*/kernel/drivers/usb/*",
    "./lib/modules/*/kernel/drivers/staging/*",
    "./lib/modules/*/kernel/drivers/hwmon/*",
    "./lib/modules/*/kernel/drivers/net/wireless/*",
    "./lib/modules/*/kernel/drivers/net/ethernet/*",
];

/// Modules the initial RAM disk needs to reach the root disk, in the order of their loading.
const FIRST_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

/// Size of the root disk; the file has holes.
const ROOT_SIZE: &str = "700M";

const INIT: &[u8] = include_bytes!("scripts/init");

/// The files QEMU is started with.
#[derive(Debug)]
pub(crate) struct Image {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) root: PathBuf,
    /// Files of the packages it was made of: name, version and architecture.
    pub(super) packages: Vec<String>,
}

impl Image {
    /// The packages that were asked for, with their versions.
    pub(super) fn versions(&self) -> String {
        let version = |name: &str| self.packages.iter().find_map(|p| p.strip_prefix(name)?.strip_prefix('_'));
        let known = PACKAGES.iter().filter_map(|name| Some(format!("{name} {}", version(name)?.split('_').next()?)));
        known.collect::<Vec<_>>().join(", ")
    }

    /// The image in `dir`, made if need be.
    pub(crate) fn ready(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let apt = Apt::new(dir)?;
        let recipe = dir.join("image.recipe");
        let made_of = std::fs::read_to_string(&recipe).ok();
        let packages = match apt.closure(PACKAGES, LEFT_OUT) {
            Ok(packages) => packages,
            // Without a network an image that is there is good enough.
            Err(error) => match &made_of {
                Some(text) => {
                    println!("guest image: {error:#}; taking the one that is there");
                    text.lines().filter(|l| l.ends_with(".deb")).map(str::to_owned).collect()
                }
                None => return Err(error),
            },
        };
        let this = Self {
            kernel: dir.join("vmlinuz"),
            initrd: dir.join("initrd"),
            root: dir.join("root.ext4"),
            packages: packages.clone(),
        };
        let wanted = recipe_text(&packages);
        if made_of.as_deref() == Some(&wanted) {
            return Ok(this);
        }
        println!("guest image: {} packages", packages.len());
        let _ = std::fs::remove_file(&recipe);
        let files = apt.download(&packages)?;
        let tree = dir.join("tree");
        if tree.exists() {
            std::fs::remove_dir_all(&tree).context("remove the old tree")?;
        }
        unpack(&files, &tree, EXCLUDED)?;
        let shell = tree.join("usr/bin/sh");
        if !shell.exists() {
            symlink("busybox", shell)?;
        }
        this.write(&tree)?;
        std::fs::remove_dir_all(&tree).context("remove the tree")?;
        std::fs::write(&recipe, wanted)?;
        Ok(this)
    }

    /// Kernel, initial RAM disk and root disk out of the unpacked tree.
    fn write(&self, tree: &Path) -> Result<()> {
        let modules = tree.join("usr/lib/modules");
        let release = only_entry(&modules)?;
        std::fs::copy(tree.join("boot").join(format!("vmlinuz-{release}")), &self.kernel).context("copy the kernel")?;
        let depmod = find_program("depmod").context("depmod is missing: cargo xtask setup")?;
        run(Command::new(depmod).arg("-b").arg(tree.join("usr")).arg(&release)).context("index the modules")?;
        let folder = modules.join(&release);
        let mut archive = Archive::default();
        archive.file("init", 0o755, INIT);
        archive.file("bin/busybox", 0o755, &std::fs::read(tree.join("usr/bin/busybox")).context("read busybox")?);
        let index = std::fs::read_to_string(folder.join("modules.dep")).context("read the index of modules")?;
        for path in with_dependencies(&index, FIRST_MODULES)? {
            archive.file(&format!("lib/modules/{release}/{path}"), 0o644, &std::fs::read(folder.join(&path))?);
        }
        for name in ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"] {
            archive.file(&format!("lib/modules/{release}/{name}"), 0o644, &std::fs::read(folder.join(name))?);
        }
        std::fs::write(&self.initrd, archive.finish()).context("write the initial RAM disk")?;
        std::fs::remove_dir_all(tree.join("boot"))?;
        let _ = std::fs::remove_file(&self.root);
        let mkfs = find_program("mkfs.ext4").context("mkfs.ext4 is missing: cargo xtask setup")?;
        let mut command = Command::new(mkfs);
        command.args(["-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"]).arg(tree);
        run(command.arg(&self.root).arg(ROOT_SIZE)).context("make the root disk")
    }
}

fn recipe_text(packages: &[String]) -> String {
    let recipe = format!("{LEFT_OUT:?}\n{EXCLUDED:?}\n{FIRST_MODULES:?}\n{ROOT_SIZE}\n");
    format!("{recipe}{}\n{}\n", String::from_utf8_lossy(INIT), packages.join("\n"))
}
