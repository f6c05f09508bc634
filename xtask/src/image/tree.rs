//! The root as a folder: our programs, a few of Debian's with the libraries they need, modules, certificates.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::debian::{Apt, only_entry, unpack, with_dependencies};
use crate::process::{find_program, output, run};

/// Where the parts come from; what they depend on comes with them.
const PACKAGES: &[&str] = &["linux-image-amd64", "busybox-static", "e2fsprogs", "xfsprogs", "ca-certificates"];
/// Packages that others depend on for their installation or for helpers nobody starts. Beginnings of names.
const LEFT_OUT: &[&str] = &[
    "adduser",
    "coreutils",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "initramfs-tools",
    "klibc",
    "libklibc",
    "linux-base",
    "lsb-base",
    "openssl",
    "passwd",
    "perl",
    "python3",
    "tar_",
    "udev",
    "usrmerge",
];
const EXCLUDED: &[&str] = &[
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./boot/System.map*",
    "./lib/modules/*/kernel/sound/*",
    "./lib/modules/*/kernel/drivers/gpu/*",
    "./lib/modules/*/kernel/drivers/media/*",
];
const INITRD_MODULES: &str = include_str!("../../../appliance-image/modules-initrd.txt");
const ROOT_MODULES: &str = include_str!("../../../appliance-image/modules-root.txt");

/// Programs of Debian's, by their paths in the packages. What they load comes with them.
const PROGRAMS: &[&str] = &["usr/sbin/mkfs.ext4", "usr/sbin/e2fsck", "usr/sbin/mkfs.xfs", "usr/sbin/xfs_repair"];
/// Places something is mounted on, or written to.
const FOLDERS: &[&str] = &["proc", "sys", "dev", "run", "tmp", "state", "pool", "var", "etc/ssl/certs"];
const LINKS: &[(&str, &str)] = &[
    ("usr/bin", "bin"),
    ("usr/sbin", "sbin"),
    ("usr/lib", "lib"),
    ("usr/lib64", "lib64"),
    ("/run", "var/run"),
    ("/tmp", "var/tmp"),
    ("/run/resolv.conf", "etc/resolv.conf"),
    ("/proc/self/mounts", "etc/mtab"),
    ("reprise-init", "usr/sbin/init"),
    // The kernel asks for modules of its own accord, such as that of a file system.
    ("../bin/busybox", "usr/sbin/modprobe"),
];
const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/:/usr/sbin/nologin\n"),
    ("etc/group", "root:x:0:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// Debian's packages, unpacked.
#[derive(Debug)]
pub struct Packages {
    pub tree: PathBuf,
    /// Their files: name, version and architecture.
    pub files: Vec<String>,
    /// The kernel's release, such as `6.1.0-1-amd64`.
    pub release: String,
}

impl Packages {
    /// Fetched and unpacked below `dir`, unless that has been done for the same ones.
    pub fn ready(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let apt = Apt::new(dir)?;
        let files = apt.closure(PACKAGES, LEFT_OUT)?;
        let (tree, recipe) = (dir.join("packages"), dir.join("packages.recipe"));
        let wanted = format!("{EXCLUDED:?}\n{}\n", files.join("\n"));
        if std::fs::read_to_string(&recipe).ok().as_deref() != Some(&wanted) {
            println!("image: {} packages", files.len());
            let paths = apt.download(&files)?;
            let _ = std::fs::remove_file(&recipe);
            if tree.exists() {
                std::fs::remove_dir_all(&tree).context("remove the old packages")?;
            }
            unpack(&paths, &tree, EXCLUDED)?;
            std::fs::write(&recipe, wanted)?;
        }
        let release = only_entry(&tree.join("usr/lib/modules"))?;
        Ok(Self { tree, files, release })
    }

    pub fn kernel(&self) -> Result<Vec<u8>> {
        let path = self.tree.join("boot").join(format!("vmlinuz-{}", self.release));
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// A folder with the named modules, all they need, and their index; returned is the kernel's folder in it.
    fn modules(&self, to: &Path, names: &[&str]) -> Result<PathBuf> {
        let from = self.tree.join("usr/lib/modules").join(&self.release);
        let folder = to.join("lib/modules").join(&self.release);
        std::fs::create_dir_all(&folder)?;
        let depmod = || -> Result<Command> {
            Ok(Command::new(find_program("depmod").context("depmod is missing: cargo xtask setup")?))
        };
        if !from.join("modules.dep").is_file() {
            let mut whole = depmod()?;
            run(whole.arg("-b").arg(self.tree.join("usr")).arg(&self.release)).context("index all modules")?;
        }
        let index = std::fs::read_to_string(from.join("modules.dep")).context("read the index of modules")?;
        for path in with_dependencies(&index, names)? {
            copy(&from.join(&path), &folder.join(&path))?;
        }
        for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            copy(&from.join(name), &folder.join(name))?;
        }
        run(depmod()?.arg("-b").arg(to).arg(&self.release)).context("index the modules")?;
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // The rest is for tools that are not there.
            let kept = ["kernel", "modules.dep", "modules.alias", "modules.softdep", "modules.symbols"];
            if !kept.contains(&name.as_str()) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(folder)
    }

    /// The modules of the initial memory disk, with their index, in a folder made for them.
    pub fn initrd_modules(&self, to: &Path) -> Result<PathBuf> {
        make_anew(to)?;
        self.modules(to, &names(INITRD_MODULES))
    }

    /// The root, made anew. `programs` is the folder of ours.
    pub fn root(&self, to: &Path, programs: &Path, os_release: &str) -> Result<()> {
        make_anew(to)?;
        for folder in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"].iter().chain(FOLDERS) {
            std::fs::create_dir_all(to.join(folder))?;
        }
        for (target, link) in LINKS {
            symlink(target, to.join(link)).with_context(|| format!("link {link}"))?;
        }
        for (file, content) in FILES.iter().chain(&[("etc/os-release", os_release)]) {
            std::fs::write(to.join(file), content)?;
        }
        program(&programs.join("reprise-init"), &to.join("usr/sbin/reprise-init"))?;
        program(&programs.join("reprise"), &to.join("usr/bin/reprise"))?;
        copy(&self.tree.join("usr/bin/busybox"), &to.join("usr/bin/busybox"))?;
        copy(&self.tree.join("etc/mke2fs.conf"), &to.join("etc/mke2fs.conf"))?;
        for path in PROGRAMS {
            let real = std::fs::canonicalize(self.tree.join(path)).with_context(|| format!("find {path}"))?;
            copy(&real, &to.join(path))?;
            for library in self.libraries(&real)? {
                let below = library.strip_prefix(&self.tree).context("a library from elsewhere")?;
                copy(&library, &to.join(below))?;
            }
        }
        // Every program asks for its loader by this name.
        copy(&self.tree.join("usr/lib64/ld-linux-x86-64.so.2"), &to.join("usr/lib64/ld-linux-x86-64.so.2"))?;
        std::fs::write(to.join("etc/ssl/certs/ca-certificates.crt"), self.certificates()?)?;
        let mut all = names(INITRD_MODULES);
        all.extend(names(ROOT_MODULES));
        self.modules(&to.join("usr"), &all)?;
        Ok(())
    }

    /// What a program loads when it starts, asked of the packages' own loader.
    fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let loader = self.tree.join("usr/lib64/ld-linux-x86-64.so.2");
        let folder = self.tree.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(loader);
        command.arg("--list").arg("--library-path").arg(&folder).arg(program);
        let said = output(&mut command).with_context(|| format!("list the libraries of {}", program.display()))?;
        let paths = said.lines().filter_map(|l| l.split_once("=>")).map(|(_, path)| path.trim());
        let paths: Vec<PathBuf> = paths.filter_map(|p| p.split_whitespace().next()).map(PathBuf::from).collect();
        match paths.iter().find(|p| !p.starts_with(&self.tree)) {
            Some(path) => bail!("{} would load {}", program.display(), path.display()),
            None => Ok(paths),
        }
    }

    /// All certificate authorities in one file, as the package's own script makes it.
    fn certificates(&self) -> Result<Vec<u8>> {
        let folder = self.tree.join("usr/share/ca-certificates/mozilla");
        let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let mut files = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        let mut all = Vec::new();
        for file in files {
            all.extend(std::fs::read(&file)?);
        }
        Ok(all)
    }
}

/// One of ours, without what only a debugger wants.
fn program(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    run(Command::new("strip").arg("--strip-all").arg(to).stdout(Stdio::null())).context("strip a program")
}

fn names(list: &str) -> Vec<&str> {
    list.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
}

fn make_anew(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

/// Copies a file's content, not its owner and times; who may run it stays.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let wrong = || format!("copy {} to {}", from.display(), to.display());
    std::fs::copy(from, to).with_context(wrong)?;
    let runs = from.metadata().with_context(wrong)?.permissions().mode() & 0o100 != 0;
    let mode = if runs { 0o755 } else { 0o644 };
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).with_context(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_without_their_comments() {
        assert_eq!(names("# head\na\n\n b \n"), ["a", "b"]);
        assert!(names(INITRD_MODULES).contains(&"dm_verity"));
        assert!(names(ROOT_MODULES).contains(&"e1000e"));
    }
}
