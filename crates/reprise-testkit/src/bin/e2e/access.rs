//! Who gets at a box: other users of its machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::boxes::{Appliance, BoxPlan, until};
use crate::images::text;
use crate::{Part, Setup};

const MIB: u64 = 1 << 20;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    vec![Part { name: "files of a box", outcome: files(setup).await }]
}

fn walk(path: &Path, found: &mut Vec<(PathBuf, u32)>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    found.push((path.to_owned(), meta.permissions().mode() & 0o777));
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).with_context(|| format!("read {}", path.display()))? {
            walk(&entry?.path(), found)?;
        }
    }
    Ok(())
}

/// What the box has made: all in its folder that this test has not put there.
fn made_by(a: &Appliance) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&a.dir)? {
        let entry = entry?;
        if !["box.toml", "log", "faults"].iter().any(|ours| entry.file_name() == *ours) {
            walk(&entry.path(), &mut found)?;
        }
    }
    Ok(found)
}

fn closed(a: &Appliance) -> Result<usize> {
    let found = made_by(a)?;
    let open: Vec<_> = found.iter().filter(|(_, mode)| mode & 0o077 != 0).collect();
    ensure!(open.is_empty(), "other users have rights: {open:o?}");
    Ok(found.len())
}

/// Volumes, cache, keys, control store and socket are for the user the box runs as. What an earlier release left open is
/// closed at the next start; an image that somebody lent keeps its mode.
async fn files(setup: &Setup) -> Result<String> {
    let lent = setup.dir.join("lent.raw");
    std::fs::File::create(&lent)?.set_len(16 * MIB)?;
    std::fs::set_permissions(&lent, PermissionsExt::from_mode(0o644))?;
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "closed", size: "1G" })?;
    a.add_settings("https = \"127.0.0.1:0\"")?;
    a.run().await?;
    a.done("/api/v1/volumes", json!({ "name": "full", "group": "main", "size": 16 * MIB })).await?;
    a.done("/api/v1/volumes", json!({ "name": "thin", "group": "main", "size": 16 * MIB, "thin": true })).await?;
    a.done("/api/v1/volumes/adopt", json!({ "name": "lent", "group": "lent", "path": text(&lent)? })).await?;
    a.done("/api/v1/tokens", json!({ "label": "t", "rights": "admin" })).await?;
    a.done("/api/v1/admin/password", json!({ "new": "correct horse", "at_the_box": true })).await?;
    let count = closed(&a)?;
    let homes = a.homes("main").await?;
    ensure!(homes.iter().all(|home| home.starts_with(&a.dir)), "{homes:?}");
    a.stop()?;
    for (path, mode) in made_by(&a)? {
        // As a umask of 022 leaves it. The state's folder was always closed.
        if path.starts_with(a.dir.join("pool")) {
            std::fs::set_permissions(
                &path,
                PermissionsExt::from_mode(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6),
            )?;
        }
    }
    ensure!(closed(&a).is_err(), "nothing was opened");
    a.run().await?;
    until("the volumes are back", async || {
        Ok(a.group("main").await?["volumes"]
            .as_array()
            .is_some_and(|v| v.iter().all(|v| v["state"]["kind"] == "ready")))
    })
    .await?;
    closed(&a)?;
    ensure!(std::fs::metadata(&lent)?.permissions().mode() & 0o777 == 0o644, "the mode of a lent image changed");
    a.stop()?;
    Ok(format!("{count} files and folders, none open to others, also after all were opened by hand"))
}
