//! Disks, and the pool on one of them.

use reprise_api::{DiskStatus, DiskTake, DiskUsage, SystemStatus};

use super::{Talk, home, nothing, system};
use crate::serial::call;
use crate::serial::field::PICK_DISK;
use crate::serial::text::{bytes, labelled};
use crate::serial::ui::{Form, Ui};

/// The disks, a line each.
pub(super) fn table(s: &SystemStatus) -> Vec<String> {
    let mut lines = labelled("Pool", &home::pool(&s.pool));
    lines.push(head());
    lines.extend(s.disks.iter().map(row));
    if s.disks.is_empty() {
        lines.push("  no disk was found".to_owned());
    }
    lines
}

fn head() -> String {
    Form::row(&[("Disk", 13), ("Size", 9), ("Serial number", 21), ("Use", 32)])
}

pub(super) fn row(d: &DiskStatus) -> String {
    Form::row(&[(&d.path, 13), (&bytes(d.size_bytes), 9), (&d.serial, 21), (&usage(&d.usage), 32)])
}

fn usage(u: &DiskUsage) -> String {
    match u {
        DiskUsage::Boot { pool: true, .. } => "firmware and pool".to_owned(),
        DiskUsage::Boot { free_bytes, .. } => format!("firmware, {} free", bytes(*free_bytes)),
        DiskUsage::Pool => "pool".to_owned(),
        DiskUsage::Blank => "blank".to_owned(),
        DiskUsage::Foreign { what } => format!("FOREIGN: {what}"),
        DiskUsage::Failed { reason } => format!("FAILED: {reason}"),
    }
}

/// Makes the pool on a disk.
pub(super) async fn take(ui: &Ui) -> Talk {
    let title = "Make the pool on a disk";
    let mut disks = system(ui).await?.disks;
    disks.retain(|d| match d.usage {
        DiskUsage::Boot { free_bytes, pool } => free_bytes > 0 && !pool,
        DiskUsage::Blank | DiskUsage::Foreign { .. } => true,
        DiskUsage::Pool | DiskUsage::Failed { .. } => false,
    });
    if disks.is_empty() {
        return Err(nothing("There is no disk that could be taken.", "put one in, and look again"));
    }
    let mut form = Form::new(ui, title);
    let rows: Vec<String> = disks.iter().map(row).collect();
    let disk = disks.swap_remove(form.pick(&PICK_DISK, &rows).await?);
    form.clear();
    form.list(labelled("Disk", &disk.path));
    form.list(labelled("Model", &disk.model));
    form.list(labelled("Serial", &disk.serial));
    form.list(labelled("Size", &bytes(disk.size_bytes)));
    form.list(labelled("On it", &usage(&disk.usage)));
    form.say("");
    form.say("Half becomes the cache, half holds the volumes.");
    let (confirmed, serial) = if matches!(disk.usage, DiskUsage::Foreign { .. }) {
        form.say("");
        form.say("LOST: everything on this disk. Nothing can bring it back.");
        form.say("Read the serial number off the disk itself if you can, and type it exactly.");
        (form.confirm(&disk.serial).await?, Some(disk.serial))
    } else {
        form.say("Nothing that is on the disk is lost.");
        (form.confirm("yes").await?, None)
    };
    ui.change(call::system_disk_take(DiskTake { path: disk.path.clone(), serial }), &confirmed).await?;
    ui.say_line(&format!("The pool is being made on {}. Enter shows how far it is.", disk.path));
    Ok(())
}
