//! Debian's packages, unpacked: nothing is installed on this machine, and nobody need be root.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::process::{output, run};

/// Lists of packages older than this are fetched again.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// apt with folders of its own, and this machine's sources and keys.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Its folders are below `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
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

    /// Files of the packages and of all they depend on, but for those whose names begin as one of `left_out`.
    pub fn closure(&self, packages: &[&str], left_out: &[&str]) -> Result<Vec<String>> {
        let stamp = self.dir.join("refreshed");
        let age =
            stamp.metadata().and_then(|m| m.modified()).ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        if age.is_none_or(|age| age > LISTS_AGE_MAX) {
            run(self.command().arg("update")).context("fetch the package lists")?;
            File::create(&stamp)?;
        }
        let mut command = self.command();
        command.args(["install", "--print-uris", "-y", "--no-install-recommends"]).args(packages);
        let said = output(&mut command).context("resolve the packages")?;
        let mut packages = files_of(&said, left_out);
        if packages.is_empty() {
            bail!("apt names no package");
        }
        packages.sort();
        Ok(packages)
    }

    /// Fetches what is not there yet, and removes what is no longer wanted.
    pub fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
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
            run(self.command().arg("download").args(&missing)).context("download the packages")?;
        }
        match paths.iter().find(|p| !p.is_file()) {
            Some(path) => bail!("apt has not brought {}", path.display()),
            None => Ok(paths),
        }
    }
}

/// `'ADDRESS' FILE SIZE HASH`, one a line.
fn files_of(said: &str, left_out: &[&str]) -> Vec<String> {
    let files = said.lines().filter(|l| l.starts_with('\'')).filter_map(|l| l.split_whitespace().nth(1));
    files.filter(|f| !left_out.iter().any(|l| f.starts_with(l))).map(str::to_owned).collect()
}

/// `name_1%3a2.3-4_amd64.deb` is `name=1:2.3-4` on apt's command line.
fn name_and_version(file: &str) -> Option<String> {
    let mut parts = file.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    Some(format!("{name}={}", version.replace("%3a", ":")))
}

/// The file system as the packages make it, with `/bin`, `/sbin` and `/lib` as links into `/usr`.
///
/// `excluded` are patterns of tar.
pub fn unpack(files: &[PathBuf], tree: &Path, excluded: &[&str]) -> Result<()> {
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
        tar.args(excluded.iter().map(|e| format!("--exclude={e}"))).args(["-f", "-"]).stdin(from);
        run(&mut tar).with_context(|| format!("unpack {}", file.display()))?;
        if !archive.wait()?.success() {
            bail!("dpkg-deb cannot read {}", file.display());
        }
    }
    Ok(())
}

/// The name of the one thing in a folder.
pub fn only_entry(folder: &Path) -> Result<String> {
    let mut entries = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let (Some(entry), None) = (entries.next().transpose()?, entries.next()) else {
        bail!("{} does not hold one kernel's modules", folder.display());
    };
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Paths of modules and of all they need. `index`: lines of `PATH: NEEDED NEEDED`.
pub fn with_dependencies(index: &str, names: &[&str]) -> Result<Vec<String>> {
    let mut paths: Vec<String> = Vec::new();
    for name in names {
        // In a module's name `-` and `_` are the same.
        let wanted = Some(name.replace('-', "_"));
        let is_it = |path: &str| {
            let stem = path.rsplit('/').next().and_then(|f| f.split('.').next());
            stem.map(|s| s.replace('-', "_")) == wanted
        };
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
        assert_eq!(files_of(said, &["perl"]), ["open-iscsi_2.1.8-1+deb12u1_amd64.deb"]);
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
