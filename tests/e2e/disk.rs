//! Pools on one disk, on a file, and with a raw device as the data half: real loop devices where they can be had.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use reprise_testkit::oracle::{FileImage, compare_images};
use serde_json::{Value, json};

use crate::adopt::{Loop, is_root};
use crate::bad_input::{refused, refuses_to_start, said};
use crate::boxes::{Appliance, BoxPlan, drained, no_errors_logged, pair};
use crate::images::{ext4, output, some_files, text};
use crate::{Part, Setup};

const DISK: u64 = 512 << 20;
const IMAGE: u64 = 48 << 20;

pub(crate) async fn run(setup: &Setup) -> Vec<Part> {
    let mut parts = Vec::new();
    let image = match image(setup) {
        Ok(image) => image,
        Err(error) => return vec![Part { name: "disk", outcome: Err(error) }],
    };
    parts.push(Part { name: "a pool on one disk", outcome: one_disk(setup, &image).await });
    parts.push(Part { name: "a raw data half, mirrored", outcome: raw_data(setup, &image).await });
    parts
}

/// A file system with files in it, to be written to volumes.
fn image(setup: &Setup) -> Result<PathBuf> {
    let (files, image) = (setup.dir.join("files"), setup.dir.join("image.raw"));
    some_files(&files, 16 << 20)?;
    ext4(&image, IMAGE, &files)?;
    Ok(image)
}

fn iscsi_url(one: &Appliance, iqn: &str, lun: u64) -> String {
    format!("iscsi://{}/{iqn}/{lun}", one.iscsi)
}

async fn write(one: &Appliance, lun: u64, image: &Path) -> Result<()> {
    let url = iscsi_url(one, &one.iqn("main").await?, lun);
    output("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", text(image)?, &url]).map(drop)
}

async fn compare(one: &Appliance, lun: u64, image: &Path) -> Result<()> {
    let url = iscsi_url(one, &one.iqn("main").await?, lun);
    output("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(image)?, &url]).map(drop)
}

/// Bytes of a home, read past the box.
fn home_to_file(home: &str, len: u64, to: &Path) -> Result<()> {
    let (disk, at) = home.rsplit_once('@').with_context(|| format!("{home} is no place on a disk"))?;
    let (from, out, at) = (File::open(disk)?, File::create(to)?, at.parse::<u64>()?);
    let mut piece = vec![0u8; 1 << 20];
    for offset in (0..len).step_by(piece.len()) {
        from.read_exact_at(&mut piece, at + offset)?;
        out.write_all_at(&piece, offset)?;
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let differs = compare_images(&FileImage::open(one)?, &FileImage::open(other)?)?;
    ensure!(differs.is_none(), "{} is not {}: {differs:?}", one.display(), other.display());
    Ok(())
}

async fn act(one: &Appliance, action: Value) -> Result<()> {
    let done = one.act(action.clone()).await?;
    ensure!(done.status < 300, "{action}: {}", done.body);
    Ok(())
}

/// A disk that carries a file system is refused and left as it is, then taken because the settings say so; volumes live
/// on it, leave it, come back and are erased; it survives SIGKILL.
async fn one_disk(setup: &Setup, image: &Path) -> Result<String> {
    let backing = setup.dir.join("disk.img");
    // What somebody might still want: the refusal must not touch it.
    std::fs::copy(image, &backing)?;
    OpenOptions::new().write(true).open(&backing)?.set_len(DISK)?;
    let before = setup.dir.join("before.img");
    std::fs::copy(&backing, &before)?;
    let device = if is_root()? { Some(Loop::attach(&backing)?) } else { None };
    let disk = device.as_ref().map_or(backing.as_path(), |d| d.0.as_path());
    let disk_text = text(disk)?;

    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "one", size: "1G" })?;
    a.set_pool(&format!("disk = \"{disk_text}\""))?;
    let refusal = said(&refuses_to_start(setup, &a.config()).await?, "a file system (ext)")?;
    same(&backing, &before).context("a refused disk is as it was")?;
    let identity = refusal.split("pool.overwrite = \"").nth(1).and_then(|t| t.split('"').next());
    let identity = identity.with_context(|| format!("no identity in: {refusal}"))?;
    a.set_pool(&format!("disk = \"{disk_text}\"\noverwrite = \"file:0:0\""))?;
    said(&refuses_to_start(setup, &a.config()).await?, "a file system (ext)").context("the wrong identity")?;
    a.set_pool(&format!("disk = \"{disk_text}\"\noverwrite = \"{identity}\""))?;
    a.run().await?;

    let thin = json!({ "name": "thin", "group": "main", "size": IMAGE, "thin": true });
    refused(&a.post("/api/v1/volumes", thin).await?, &["not-supported"])?;
    let large = json!({ "name": "large", "group": "main", "size": DISK / 2 });
    refused(&a.post("/api/v1/volumes", large).await?, &["no-space"])?;
    for name in ["v0", "v1"] {
        a.done("/api/v1/volumes", json!({ "name": name, "group": "main", "size": IMAGE })).await?;
    }
    write(&a, 0, image).await?;
    let pool = a.status().await?["box"]["pool"].clone();
    ensure!(pool["data_bytes_used"] == 2 * IMAGE, "{pool}");
    let total = pool["data_bytes_total"].as_u64().context("size of the data half")?;
    ensure!((DISK / 2 - (4 << 20)..=DISK / 2).contains(&total), "half of the disk is data: {pool}");

    a.kill()?;
    a.run().await?;
    compare(&a, 0, image).await.context("after SIGKILL")?;
    compare(&a, 1, &zeros(setup)?).await.context("a new volume reads as zeros, whatever the disk held")?;
    let home = a.group("main").await?["volumes"][0]["home"].as_str().context("home")?.to_owned();
    act(&a, json!({ "kind": "volume_remove", "volume": "v0" })).await?;
    let spare = a.status().await?["box"]["pool"]["data_areas_spare"].clone();
    ensure!(spare[0]["home"] == home.as_str() && spare[0]["name"] == "main/v0", "{spare}");
    a.stop()?;
    let taken_out = setup.dir.join("taken-out.raw");
    home_to_file(&home, IMAGE, &taken_out)?;
    same(&taken_out, image).context("what was taken out")?;

    a.run().await?;
    let taken = json!({ "name": "again", "group": "main", "path": home });
    a.done("/api/v1/volumes/adopt", taken.clone()).await?;
    let twice = json!({ "name": "twice", "group": "main", "path": home });
    refused(&a.post("/api/v1/volumes/adopt", twice).await?, &["in-use"])?;
    let lun = a.get("/api/v1/volumes/show?name=again").await?.body["lun"].as_u64().context("LUN")?;
    compare(&a, lun, image).await.context("taken in again")?;
    act(&a, json!({ "kind": "volume_erase", "volume": "again" })).await?;
    let pool = a.status().await?["box"]["pool"].clone();
    ensure!(pool["data_bytes_used"] == IMAGE && pool["data_areas_spare"] == json!([]), "{pool}");
    refused(&a.post("/api/v1/volumes/adopt", taken).await?, &["device-unusable"])?;
    a.stop()?;

    // The settings call it something else, and the disk shrinks: both are said.
    a.set_pool(&format!("cache = \"{disk_text}\"\ndata = \"{}\"", setup.dir.join("folder").display()))?;
    said(&refuses_to_start(setup, &a.config()).await?, "pool.disk")?;
    a.set_pool(&format!("disk = \"{disk_text}\""))?;
    a.run().await.context("no need to say overwrite again")?;
    a.stop()?;
    no_errors_logged(&[&a], &[])?;
    drop(device);
    OpenOptions::new().write(true).open(&backing)?.set_len(DISK - (8 << 20))?;
    let shrunk = if is_root()? { Some(Loop::attach(&backing)?) } else { None };
    let disk = shrunk.as_ref().map_or(backing.as_path(), |d| d.0.as_path());
    a.set_pool(&format!("disk = \"{}\"", text(disk)?))?;
    said(&refuses_to_start(setup, &a.config()).await?, "has shrunk")?;
    Ok(format!("{}; {refusal}", if is_root()? { "a loop device" } else { "NOT RUN on a loop device, a file instead" }))
}

fn zeros(setup: &Setup) -> Result<PathBuf> {
    let path = setup.dir.join("zeros.raw");
    File::create(&path)?.set_len(IMAGE)?;
    Ok(path)
}

/// Source: a file made by the box as its one disk. Mirror: a cache file and a raw device as the data half.
async fn raw_data(setup: &Setup, image: &Path) -> Result<String> {
    let mut a = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "source", size: "1G" })?;
    a.set_pool(&format!("disk = \"{}/disk.img\"", a.dir.display()))?;
    said(&refuses_to_start(setup, &a.config()).await?, "pool.size")?;
    a.set_pool(&format!("disk = \"{}/disk.img\"\nsize = \"{DISK}\"", a.dir.display()))?;
    a.run().await?;

    let mut b = Appliance::planned(&setup.reprise, &setup.dir, &BoxPlan { name: "mirror", size: "1G" })?;
    let backing = b.dir.join("data.img");
    // Old content that is no known format: the home must not show it.
    std::fs::write(&backing, vec![0xa5; 160 << 20])?;
    let device = if is_root()? { Some(Loop::attach(&backing)?) } else { None };
    let data = device.as_ref().map_or(backing.as_path(), |d| d.0.as_path());
    let lines = format!("cache = \"{}/cache.img\"\ndata = \"{}\"\nsize = \"512M\"", b.dir.display(), text(data)?);
    b.set_pool(&lines)?;
    let refusal = said(&refuses_to_start(setup, &b.config()).await?, "data of a kind that is not known")?;
    let identity = refusal.split("pool.overwrite = \"").nth(1).and_then(|t| t.split('"').next()).context("identity")?;
    b.set_pool(&format!("{lines}\noverwrite = \"{identity}\""))?;
    b.run().await?;

    pair(&a, &b, b.link).await?;
    for name in ["v0", "v1"] {
        a.done("/api/v1/volumes", json!({ "name": name, "group": "main", "size": IMAGE })).await?;
    }
    write(&a, 1, image).await?;
    a.done("/api/v1/mirrors", json!({ "group": "main", "peer": "mirror" })).await?;
    write(&a, 0, image).await?;
    drained(&a, &b, "main").await?;
    b.kill()?;
    b.run().await?;
    // A zero write reaches a raw home too.
    write(&a, 1, &zeros(setup)?).await?;
    drained(&a, &b, "main").await?;
    let homes = [a.group("main").await?, b.group("main").await?];
    a.stop()?;
    b.stop()?;
    let (copy, zeros) = (setup.dir.join("home.raw"), zeros(setup)?);
    for group in &homes {
        for (lun, what) in [(0, image), (1, zeros.as_path())] {
            let home = group["volumes"][lun]["home"].as_str().context("home")?;
            home_to_file(home, IMAGE, &copy)?;
            same(&copy, what).with_context(|| home.to_owned())?;
        }
    }
    // Another disk in the place of the data half is no data half of this pool.
    let other = b.dir.join("other.img");
    File::create(&other)?.set_len(160 << 20)?;
    b.set_pool(&lines.replace(text(data)?, text(&other)?))?;
    said(&refuses_to_start(setup, &b.config()).await?, "does not carry the data half")?;
    b.set_pool(&lines)?;
    b.run().await.context("with the right disk it starts")?;
    act(&b, json!({ "kind": "group_delete", "group": "main" })).await.context("give the image up")?;
    let pool = b.status().await?["box"]["pool"].clone();
    ensure!(pool["data_bytes_used"] == 0, "{pool}");
    b.stop()?;
    no_errors_logged(&[&a, &b], &[])?;
    Ok("both homes equal, over SIGKILL of the mirror; the wrong disk is refused".into())
}
