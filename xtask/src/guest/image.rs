//! The guest's image: Debian packages of this machine's own release, unpacked and put onto a disk. Nothing is installed on
//! this machine, and nobody need be root.
//!
//! The image is made anew when a package has another version or this recipe has changed, and kept else.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::process::{find_program, output, run};

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

/// Lists of packages older than this are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

const INIT: &[u8] = include_bytes!("../../guest/init");

/// The files QEMU is started with.
#[derive(Debug)]
pub(super) struct Image {
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
    pub(super) fn ready(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let apt = Apt::new(dir)?;
        let recipe = dir.join("image.recipe");
        let made_of = std::fs::read_to_string(&recipe).ok();
        let packages = match apt.closure() {
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
        unpack(&files, &tree)?;
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

/// apt with folders of its own, and this machine's sources and keys.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        let dir = dir.join("apt");
        for folder in ["lists/partial", "cache/archives/partial", "debs"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        // Nothing counts as installed, so that every dependency is named.
        std::fs::write(dir.join("status"), "")?;
        Ok(Self { dir })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "Dpkg::Use-Pty=0"]);
        for (key, name) in [("Dir::State::lists", "lists"), ("Dir::State::status", "status"), ("Dir::Cache", "cache")] {
            command.arg("-o").arg(format!("{key}={}", self.dir.join(name).display()));
        }
        command.current_dir(self.dir.join("debs"));
        command
    }

    /// Package files that the guest is made of.
    fn closure(&self) -> Result<Vec<String>> {
        let stamp = self.dir.join("refreshed");
        let age =
            stamp.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|age| age > LISTS_AGE_MAX) {
            run(self.command().arg("update")).context("fetch the package lists")?;
            File::create(&stamp)?;
        }
        let mut command = self.command();
        command.args(["install", "--print-uris", "-y", "--no-install-recommends"]).args(PACKAGES);
        let said = output(&mut command).context("resolve the guest's packages")?;
        let mut packages = files_of(&said);
        if packages.is_empty() {
            bail!("apt names no package");
        }
        packages.sort();
        Ok(packages)
    }

    /// Fetches what is not there yet, and removes what is no longer wanted.
    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let folder = self.dir.join("debs");
        let paths: Vec<PathBuf> = packages.iter().map(|p| folder.join(p)).collect();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if !paths.contains(&path) {
                std::fs::remove_file(path)?;
            }
        }
        let missing = packages.iter().filter(|p| !folder.join(p).is_file()).filter_map(|p| name_and_version(p));
        let missing: Vec<String> = missing.collect();
        if !missing.is_empty() {
            run(self.command().arg("download").args(&missing)).context("download the guest's packages")?;
        }
        match paths.iter().find(|p| !p.is_file()) {
            Some(path) => bail!("apt has not brought {}", path.display()),
            None => Ok(paths),
        }
    }
}

/// `'ADDRESS' FILE SIZE HASH`, one a line.
fn files_of(said: &str) -> Vec<String> {
    let files = said.lines().filter(|l| l.starts_with('\'')).filter_map(|l| l.split_whitespace().nth(1));
    files.filter(|f| !LEFT_OUT.iter().any(|l| f.starts_with(l))).map(str::to_owned).collect()
}

/// `name_1%3a2.3-4_amd64.deb` is `name=1:2.3-4` on apt's command line.
fn name_and_version(file: &str) -> Option<String> {
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(format!("{name}={}", version.replace("%3a", ":")))
}

/// The file system as the packages make it, with `/bin`, `/sbin` and `/lib` as links into `/usr`.
fn unpack(files: &[PathBuf], tree: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        std::fs::create_dir_all(tree.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), tree.join(folder))?;
    }
    for file in files {
        let mut archive = (Command::new("dpkg-deb").arg("--fsys-tarfile").arg(file).stdout(Stdio::piped()))
            .spawn()
            .context("start dpkg-deb")?;
        let from = archive.stdout.take().context("output of dpkg-deb")?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "-C"]).arg(tree);
        tar.args(EXCLUDED.iter().map(|e| format!("--exclude={e}"))).args(["-f", "-"]).stdin(from);
        run(&mut tar).with_context(|| format!("unpack {}", file.display()))?;
        if !archive.wait()?.success() {
            bail!("dpkg-deb cannot read {}", file.display());
        }
    }
    let shell = tree.join("usr/bin/sh");
    if !shell.exists() {
        symlink("busybox", shell)?;
    }
    Ok(())
}

fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let (Some(entry), None) = (entries.next().transpose()?, entries.next()) else {
        bail!("{} does not hold one kernel's modules", folder.display());
    };
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Paths of modules and of all they need. `index`: lines of `PATH: NEEDED NEEDED`.
fn with_dependencies(index: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut paths: Vec<String> = Vec::new();
    for name in names {
        let is_it = |path: &str| path.rsplit('/').next().is_some_and(|f| f.split('.').next() == Some(name));
        let found = index.lines().filter_map(|l| l.split_once(':')).find(|(path, _)| is_it(path));
        let (path, needed) = found.with_context(|| format!("the kernel has no module {name}"))?;
        for path in std::iter::once(path).chain(needed.split_whitespace()) {
            if !paths.iter().any(|p| p == path) {
                paths.push(path.to_owned());
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_files_are_read_out_of_what_apt_says() {
        let said = "'http://x/pool/o/open-iscsi_2.1.8-1+deb12u1_amd64.deb' open-iscsi_2.1.8-1+deb12u1_amd64.deb 3 MD5:1\n\
                    'http://x/pool/p/perl.deb' perl_5.36_amd64.deb 4 MD5:2\nReading lists\n";
        assert_eq!(files_of(said), ["open-iscsi_2.1.8-1+deb12u1_amd64.deb"]);
        assert_eq!(name_and_version("zlib1g_1%3a1.2.13_amd64.deb").as_deref(), Some("zlib1g=1:1.2.13"));
        assert_eq!(name_and_version("nonsense"), None);
    }

    #[test]
    fn modules_bring_what_they_need() {
        let index = "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko\nkernel/fs/jbd2/jbd2.ko:\n\
                     kernel/lib/crc16.ko:\n";
        let all = with_dependencies(index, &["ext4", "jbd2"]).expect("both are there");
        assert_eq!(all, ["kernel/fs/ext4/ext4.ko", "kernel/lib/crc16.ko", "kernel/fs/jbd2/jbd2.ko"]);
        assert!(with_dependencies(index, &["xfs"]).is_err());
    }
}
