//! A real disk image goes through `qemu-img convert` onto a mirrored volume.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use reprise_testkit::oracle::{FileImage, compare_images};
use serde_json::json;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair};

/// Runs a program and gives its standard output.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let out = Command::new(program).args(args).env("PATH", path).stdin(Stdio::null()).output();
    let out = out.with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        bail!("{program} {} ended with {}: {}", args.join(" "), out.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is no text")
}

/// An ext4 image with the files of a folder in it.
pub(crate) fn ext4(path: &Path, bytes: u64, from: &Path) -> Result<()> {
    File::create(path)?.set_len(bytes)?;
    output("mkfs.ext4", &["-q", "-F", "-d", text(from)?, text(path)?]).map(drop)
}

/// Copies plain files of this machine, some MiB of them.
pub(crate) fn some_files(to: &Path, mut room: u64) -> Result<()> {
    let mut folders = vec![PathBuf::from("/etc"), PathBuf::from("/usr/bin")];
    let mut count = 0u32;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.path().symlink_metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.is_file() && about.len() > 0 && about.len() < room {
                let to = to.join(format!("folder-{}", count % 16));
                std::fs::create_dir_all(&to)?;
                let copied = std::fs::copy(entry.path(), to.join(format!("file-{count}"))).unwrap_or(0);
                room = room.saturating_sub(copied);
                count += 1;
            }
        }
    }
    ensure!(count > 0, "this machine has no files to copy");
    Ok(())
}

/// Convert, then both homes hold the image.
pub(crate) async fn convert(setup: &Setup) -> Result<String> {
    const IMAGE: u64 = 96 << 20;
    let dir = &setup.dir;
    let (files, image, packed) = (dir.join("files"), dir.join("image.raw"), dir.join("image.qcow2"));
    some_files(&files, 40 << 20)?;
    ext4(&image, IMAGE, &files)?;
    output("qemu-img", &["convert", "-c", "-O", "qcow2", text(&image)?, text(&packed)?])?;
    let a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "1536M" }).await?;
    let b = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "b", size: "1536M" }).await?;
    pair(&a, &b, b.link).await?;
    a.done("/api/v1/volumes", json!({ "name": "disk", "group": "main", "size": IMAGE })).await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "b" })).await?;
    let url = format!("iscsi://{}/{}/0", a.iscsi, a.iqn("main").await?);
    // Off the runtime's threads: the boxes do not need them, and nothing else runs.
    output("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", text(&packed)?, &url])?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&image)?, &url])?;
    let time = drained(&a, &b, "main").await?;
    let raw = FileImage::open(&image)?;
    for (name, one) in [("source", &a), ("mirror", &b)] {
        let home = one.homes("main").await?.into_iter().next().context("home")?;
        let differs = compare_images(&raw, &FileImage::open(&home)?)?;
        ensure!(differs.is_none(), "the {name}'s home is not the image: {differs:?}");
        output("e2fsck", &["-f", "-n", text(&home)?])?;
    }
    no_errors_logged(&[&a, &b], &[])?;
    let (mut a, mut b) = (a, b);
    a.stop()?;
    b.stop()?;
    Ok(format!("{} MiB from qcow2, both homes equal to the image, drained in {:.1} s", IMAGE >> 20, time.as_secs_f64()))
}
