//! An existing disk is adopted, written through iSCSI, taken out again, and is a good disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::Setup;
use crate::boxes::{Appliance, BoxPlan};
use crate::images::{ext4, output, some_files, text};

const IMAGE: u64 = 64 << 20;

/// A loop device, where one can be had.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn attach(image: &Path) -> Result<Self> {
        let name = output("losetup", &["--find", "--show", text(image)?])?;
        Ok(Self(PathBuf::from(name.trim())))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(name) = self.0.to_str() {
            let _ = output("losetup", &["--detach", name]);
        }
    }
}

/// True where this process may attach loop devices and mount.
pub(crate) fn is_root() -> Result<bool> {
    Ok(std::fs::read_to_string("/proc/self/status")?.lines().any(|l| l.starts_with("Uid:\t0")))
}

pub(crate) async fn run(setup: &Setup) -> Result<String> {
    let dir = &setup.dir;
    let (files, old, new) = (dir.join("files"), dir.join("old.raw"), dir.join("new.raw"));
    some_files(&files, 16 << 20)?;
    ext4(&old, IMAGE, &files)?;
    // What will be written through iSCSI: the same file system with one more file.
    std::fs::copy(&old, &new).context("copy the image")?;
    let (letter, read_back) = (dir.join("letter"), dir.join("letter-back"));
    std::fs::write(&letter, "written through iSCSI\n".repeat(1000))?;
    output("debugfs", &["-w", "-R", &format!("write {} letter", text(&letter)?), text(&new)?])?;

    let root = is_root()?;
    let device = if root { Some(Loop::attach(&old)?) } else { None };
    let path = device.as_ref().map_or(old.as_path(), |d| d.0.as_path());

    let mut a = Appliance::start(&setup.reprise, dir, &BoxPlan { name: "a", size: "1G" }).await?;
    let adopt = json!({ "name": "old", "group": "main", "path": text(path)? });
    let adopted = a.done("/api/v1/volumes/adopt", adopt).await?;
    ensure!(adopted["volume"]["size_bytes"] == IMAGE, "{adopted}");
    let url = format!("iscsi://{}/{}/0", a.iscsi, a.iqn("main").await?);
    // Adopting writes nothing: what is served is what was there.
    let before = dir.join("before.raw");
    output("qemu-img", &["convert", "-O", "raw", "-f", "raw", &url, text(&before)?])?;
    output("debugfs", &["-R", "stat /lost+found", text(&before)?])?;
    output("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(&new)?, &url])?;
    // A restart in between: an adopted device is found again by what it is.
    a.stop()?;
    a.run().await?;
    crate::boxes::until("the adopted volume is back", async || {
        Ok(a.group("main").await?["volumes"][0]["state"]["kind"] == "ready")
    })
    .await?;
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&new)?, &url])?;
    let out = a.act(json!({ "kind": "volume_remove", "volume": "old" })).await?;
    if out.status >= 300 {
        bail!("remove the volume: {}", out.body);
    }
    a.stop()?;

    output("e2fsck", &["-f", "-n", text(path)?])?;
    let how = if root {
        let mount = dir.join("mount");
        std::fs::create_dir_all(&mount)?;
        output("mount", &["-o", "ro", text(path)?, text(&mount)?])?;
        let copied = std::fs::copy(mount.join("letter"), &read_back);
        output("umount", &[text(&mount)?])?;
        copied.context("read the file from the mounted file system")?;
        "a loop device, mounted afterwards"
    } else {
        output("debugfs", &["-R", &format!("dump letter {}", text(&read_back)?), text(path)?])?;
        "an image file, not a loop device, since this is not root"
    };
    ensure!(std::fs::read(&letter)? == std::fs::read(&read_back)?, "the file that was written reads back differently");
    Ok(format!("{how}; {} MiB ext4, written through iSCSI, passes fsck", IMAGE >> 20))
}
