//! The disk image of the show, and the comparison at its end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Real files put onto the image that the show makes itself.
const FILES_BYTES_MAX: u64 = 120 << 20;
/// The image that holds them.
const IMAGE_BYTES: u64 = 192 << 20;
/// Folders that every system has, with something in them.
const FILES_FROM: [&str; 4] = ["/etc", "/usr/share", "/usr/bin", "/usr/lib"];

/// Runs a program and gives its standard output; what it complains about is part of the error.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{name} is missing; install qemu-utils, qemu-block-extra and e2fsprogs (or: cargo xtask setup)")
        }
        out => out.with_context(|| format!("start {name}"))?,
    };
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("{name} ended with {}: {}", out.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A disk image, as qemu-img sees it.
pub(super) struct DiskImage {
    pub(super) path: PathBuf,
    pub(super) format: String,
    pub(super) size: u64,
}

impl DiskImage {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let about = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        if !about.is_file() && !about.file_type().is_block_device() {
            bail!("{} is no disk image: name a file or a block device", path.display());
        }
        let text = output(Command::new("qemu-img").args(["info", "--output=json"]).arg(path))?;
        let info: serde_json::Value = serde_json::from_str(&text).context("read what qemu-img says")?;
        let size = info["virtual-size"].as_u64().context("qemu-img says no size")?;
        let format = info["format"].as_str().context("qemu-img says no format")?.to_owned();
        Ok(Self { path: path.to_owned(), format, size })
    }

    /// Makes an ext4 image with files of this machine in it; `part` gives other files for another number.
    pub(super) fn make(dir: &Path, part: usize) -> anyhow::Result<Self> {
        let files = dir.join(format!("files-{part}"));
        let path = dir.join(format!("image-{part}.raw"));
        std::fs::create_dir_all(&files).with_context(|| format!("make directory {}", files.display()))?;
        let mut room = FILES_BYTES_MAX;
        for from in FILES_FROM.iter().cycle().skip(part).take(FILES_FROM.len()) {
            copy_files(Path::new(from), &files.join(from.trim_start_matches('/').replace('/', "-")), &mut room);
        }
        File::create(&path).and_then(|f| f.set_len(IMAGE_BYTES)).context("make the image")?;
        // mkfs.ext4 is where only root's path leads.
        let path_var = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut mkfs = Command::new("mkfs.ext4");
        output(mkfs.env("PATH", path_var).args(["-q", "-F", "-d"]).arg(&files).arg(&path))?;
        std::fs::remove_dir_all(&files).context("remove the copied files")?;
        Self::open(&path)
    }
}

/// Copies plain files until there is no room; what cannot be read is left out.
fn copy_files(from: &Path, to: &Path, room: &mut u64) {
    let Ok(entries) = std::fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let (Ok(kind), Ok(about)) = (entry.file_type(), entry.metadata()) else { continue };
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy_files(&entry.path(), &to, room);
        } else if kind.is_file() && about.len() <= *room / 8 {
            let copied =
                std::fs::create_dir_all(to.parent().unwrap_or(&to)).and_then(|()| std::fs::copy(entry.path(), &to));
            *room = room.saturating_sub(copied.unwrap_or(0).max(4096));
        }
    }
}

/// True if two files hold the same bytes.
pub(super) fn same_bytes(a: &Path, b: &Path) -> anyhow::Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let (mut left, mut right) = (open(a)?, open(b)?);
    if left.metadata()?.len() != right.metadata()?.len() {
        return Ok(false);
    }
    let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = left.read(&mut one)?;
        let (Some(one), Some(two)) = (one.get(..len), two.get_mut(..len)) else { return Ok(false) };
        right.read_exact(two)?;
        if len == 0 {
            return Ok(true);
        }
        if one != two {
            return Ok(false);
        }
    }
}
