//! What stands in one slot: the root with its hashes, and kernel, initial memory disk and arguments with their signatures.
//!
//! A boot partition holds a plain cpio archive, which the boot loader reads as it is: no file system can be damaged there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::keys::Keys;
use crate::cpio::Archive;
use crate::process::{find_program, output, quiet, run};

const ARGUMENTS: &str = include_str!("../../../appliance-image/arguments.txt");
const BLOCK_LEN: u64 = 4096;
/// Of the root's file system.
const ROOT_UUID: &str = "72657072-6973-4500-8000-726f6f740000";

/// The parts before anything is signed.
#[derive(Debug)]
pub struct Parts {
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    /// The root's file system, and its hashes behind it.
    pub root: Vec<u8>,
    /// Names the two others to the boot loader.
    pub config: String,
}

impl Parts {
    /// Makes a root of a folder, and the configuration that goes with it. `release` grows from one release to the next.
    pub fn make(work: &Path, tree: &Path, kernel: Vec<u8>, initrd: Vec<u8>, release: u64, epoch: u64) -> Result<Self> {
        let (root, verity) = checked_root(work, tree, epoch)?;
        let arguments: Vec<&str> = ARGUMENTS.lines().filter(|l| !l.starts_with('#')).collect();
        let arguments = arguments.join(" ");
        let config = format!("set release={release}\nset arguments=\"{arguments}\"\nset verity={verity}\n");
        Ok(Self { kernel, initrd, root, config })
    }

    /// The boot partition's content.
    pub fn boot(&self, work: &Path, keys: &Keys) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for (name, content) in
            [("slot.cfg", self.config.as_bytes()), ("vmlinuz", &self.kernel), ("initrd", &self.initrd)]
        {
            archive.file(name, 0o644, content);
            archive.file(&format!("{name}.sig"), 0o644, &keys.sign(work, content)?);
        }
        Ok(archive.finish())
    }
}

/// A file system with its tree of hashes behind it, and `HASH:SALT:BLOCKS`.
fn checked_root(work: &Path, tree: &Path, epoch: u64) -> Result<(Vec<u8>, String)> {
    let file = work.join("root.erofs");
    let _ = std::fs::remove_file(&file);
    let mut command = Command::new(find_program("mkfs.erofs").context("mkfs.erofs is missing: cargo xtask setup")?);
    command.args(["-zlz4hc,12", "-C65536", "-x-1", "--all-root", "--quiet", "-U", ROOT_UUID]);
    command.arg(format!("-T{epoch}")).arg(&file).arg(tree);
    quiet(&mut command).context("make the root's file system")?;
    let mut content = std::fs::read(&file)?;
    content.resize(content.len().next_multiple_of(BLOCK_LEN as usize), 0);
    std::fs::write(&file, &content)?;
    let len = content.len() as u64;
    // Two builds shall be the same, and two roots shall not share hashes.
    let salt = hex(&Sha256::digest(&content));
    let mut command = Command::new(find_program("veritysetup").context("veritysetup is missing: cargo xtask setup")?);
    command.args(["format", "--no-superblock", "--hash", "sha256", "--data-block-size", "4096"]);
    command.args(["--hash-block-size", "4096", "--salt", &salt]).arg(format!("--hash-offset={len}"));
    command.arg(format!("--data-blocks={}", len / BLOCK_LEN)).arg(&file).arg(&file);
    let said = output(&mut command).context("hash the root")?;
    let hash = said.lines().find_map(|l| l.strip_prefix("Root hash:")).context("veritysetup names no hash")?;
    Ok((std::fs::read(&file)?, format!("{}:{salt}:{}", hash.trim(), len / BLOCK_LEN)))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The initial memory disk: the first process, and modules with their index.
pub fn initrd(work: &Path, init: &Path, modules: &Path, release: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, &std::fs::read(init).context("read reprise-init")?);
    let mut files = Vec::new();
    collect(modules, Path::new(""), &mut files)?;
    files.sort();
    for file in files {
        let content = std::fs::read(modules.join(&file))?;
        archive.file(&format!("lib/modules/{release}/{}", file.display()), 0o644, &content);
    }
    let (plain, packed) = (work.join("initrd.cpio"), work.join("initrd.zst"));
    std::fs::write(&plain, archive.finish())?;
    // One thread, so that the outcome does not depend on the machine.
    run(Command::new("zstd").args(["-q", "-f", "-19", "--single-thread", "-o"]).arg(&packed).arg(&plain))
        .context("pack the initial memory disk")?;
    Ok(std::fs::read(&packed)?)
}

fn collect(root: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
