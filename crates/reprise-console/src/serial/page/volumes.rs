//! Volumes, groups and their mirrors.

use reprise_api::{
    Action, BlockSize, GroupStatus, Job, MirrorOf, Name, PeerStatus, Status, VolumeAdopt, VolumeCreate, VolumeKind,
    VolumeResize, VolumeSet, VolumeState, VolumeStatus,
};

use super::{Stop, Talk, destroy, disks, home, nothing, status, system};
use crate::serial::call;
use crate::serial::field::{
    ACCESS, BLOCK_SIZE, GROUP_NAME, PICK_DISK, PICK_GROUP, PICK_IMAGE, PICK_MIRROR, PICK_PEER, PICK_VOLUME,
    VOLUME_KIND, VOLUME_NAME, VOLUME_SIZE, name, one_of, size,
};
use crate::serial::text::{bytes, labelled, wrap};
use crate::serial::ui::{Confirmed, Form, Ui};

fn volumes(s: &Status) -> Vec<VolumeStatus> {
    s.groups.iter().flat_map(|g| g.volumes.iter().cloned()).collect()
}

/// The volumes, a line each.
pub(super) fn table(s: &Status) -> Vec<String> {
    let volumes = volumes(s);
    if volumes.is_empty() {
        return vec!["There is no volume.".to_owned()];
    }
    let head = Form::row(&[("Volume", 20), ("Group", 16), ("LUN", 4), ("Size", 10), ("Kind", 8), ("State", 16)]);
    std::iter::once(head).chain(volumes.iter().map(row)).collect()
}

fn row(v: &VolumeStatus) -> String {
    let kind = match v.kind {
        VolumeKind::Thick => "thick",
        VolumeKind::Thin => "thin",
        VolumeKind::Adopted => "adopted",
    };
    let state = match &v.state {
        VolumeState::Ready if v.read_only => "read-only",
        VolumeState::Ready => "ready",
        VolumeState::Image => "image",
        VolumeState::Preparing => "preparing",
        VolumeState::Missing { .. } => "MISSING",
        VolumeState::Leaving => "leaving",
    };
    let (lun, size) = (v.lun.to_string(), bytes(v.size_bytes));
    Form::row(&[(v.name.as_str(), 20), (v.group.as_str(), 16), (&lun, 4), (&size, 10), (kind, 8), (state, 16)])
}

/// The groups and their links, a line each, and why one stands still.
pub(super) fn mirror_table(s: &Status) -> Vec<String> {
    if s.groups.is_empty() {
        return vec!["There is no group. A volume makes one.".to_owned()];
    }
    let mut lines = vec![home::group_head()];
    for g in &s.groups {
        lines.push(home::group_row(g));
        let troubles = g.link.iter().flat_map(|l| &l.mirror_troubles).map(|t| t.text.as_str());
        lines.extend(g.state.reason().into_iter().chain(troubles).flat_map(|why| wrap(&format!("    {why}"), 4)));
        if let Some(image) = &g.image {
            lines.extend(wrap(&format!("    {} {}", image.text, image.what_to_do), 4));
        }
    }
    lines
}

fn job_text(job: Option<&Job>) -> String {
    job.map(|j| format!(" Job {} does the work.", j.id)).unwrap_or_default()
}

/// A name that no volume or group has.
fn fresh_name(s: &Status) -> String {
    let taken = |name: &str| {
        s.groups.iter().any(|g| g.name.as_str() == name || g.volumes.iter().any(|v| v.name.as_str() == name))
    };
    (1..10_000).map(|n| format!("disk{n}")).find(|name| !taken(name)).unwrap_or_default()
}

async fn pick_peer(form: &mut Form<'_>, peers: Vec<PeerStatus>) -> Talk<Name> {
    let mut names: Vec<Name> = peers.into_iter().map(|p| p.name).collect();
    let at = match names.len() {
        0 => return Err(nothing("No box is paired.", "pair one: 1 and 2 on the status pages of the two boxes")),
        1 => 0,
        _ => {
            let rows: Vec<String> = names.iter().map(Name::to_string).collect();
            form.pick(&PICK_PEER, &rows).await?
        }
    };
    Ok(names.swap_remove(at))
}

async fn mirror(ui: &Ui, of: MirrorOf, confirmed: &Confirmed) -> Talk<String> {
    let started = ui.change(call::mirror_add(of.clone()), confirmed).await?;
    let warnings: String = started.warnings.iter().map(|w| format!(" Mind: {w}.")).collect();
    Ok(format!("{} is mirrored to {}.{}{warnings}", of.group, of.peer, job_text(started.job.as_ref())))
}

/// A volume in a group of its own, mirrored to the peer: name, size, yes.
pub(super) async fn create_mirrored(ui: &Ui) -> Talk {
    let status = status(ui).await?;
    let mut form = Form::new(ui, "New volume, mirrored");
    let fresh = fresh_name(&status);
    let peer = pick_peer(&mut form, status.peers).await?;
    let name = form.ask(&VOLUME_NAME, Some(&fresh), name).await?;
    let size = form.ask(&VOLUME_SIZE, None, |t| size(t, 0)).await?;
    form.say("");
    form.say(&format!("Volume {name}, {size}, thick (room is certain), 512e blocks, in the group {name}."));
    form.say(&format!("The group is mirrored to {peer}."));
    let confirmed = form.confirm("yes").await?;
    let request = VolumeCreate {
        name: name.clone(),
        group: name.clone(),
        size,
        thin: false,
        local_only: false,
        block_size: BlockSize::default(),
        read_only: false,
        mirror: Some(peer.clone()),
    };
    let made = ui.change(call::volume_create(request), &confirmed).await?;
    ui.say_line(&match made.job {
        Some(job) => format!("Volume {name} is being made, then mirrored to {peer}. Job {} does the work.", job.id),
        None => format!("Volume {name} is made and mirrored to {peer}."),
    });
    Ok(())
}

/// A volume with all choices.
pub(super) async fn create(ui: &Ui) -> Talk {
    let status = status(ui).await?;
    let mut form = Form::new(ui, "New volume, all choices");
    let volume = form.ask(&VOLUME_NAME, Some(&fresh_name(&status)), name).await?;
    let size = form.ask(&VOLUME_SIZE, None, |t| size(t, 0)).await?;
    let group = form.ask(&GROUP_NAME, Some(volume.as_str()), name).await?;
    let thin = form.ask(&VOLUME_KIND, Some("thick"), |t| one_of(t, &["thick", "thin"])).await? == 1;
    let blocks =
        form.ask(&BLOCK_SIZE, Some("512e"), |t| t.parse::<BlockSize>().map_err(|e| format!("Write {e}."))).await?;
    let confirmed = form.confirm("yes").await?;
    let request = VolumeCreate {
        name: volume.clone(),
        group,
        size,
        thin,
        local_only: false,
        block_size: blocks,
        read_only: false,
        mirror: None,
    };
    let made = ui.change(call::volume_create(request), &confirmed).await?;
    ui.say_line(&format!("Volume {volume} is made.{}", job_text(made.job.as_ref())));
    Ok(())
}

async fn pick(ui: &Ui, title: &str) -> Talk<VolumeStatus> {
    let mut volumes = volumes(&status(ui).await?);
    if volumes.is_empty() {
        return Err(nothing("There is no volume.", "make one: 1 or 2"));
    }
    let rows: Vec<String> = volumes.iter().map(row).collect();
    let at = Form::new(ui, title).pick(&PICK_VOLUME, &rows).await?;
    Ok(volumes.swap_remove(at))
}

/// More room for a volume.
pub(super) async fn resize(ui: &Ui) -> Talk {
    let volume = pick(ui, "More room").await?;
    let mut form = Form::new(ui, "More room");
    form.say(&format!("Volume {} has {}. Hosts may use it meanwhile.", volume.name, bytes(volume.size_bytes)));
    let size = form.ask(&VOLUME_SIZE, None, |t| size(t, volume.size_bytes)).await?;
    form.say("A volume never becomes smaller again.");
    let confirmed = form.confirm("yes").await?;
    let started = ui.change(call::volume_resize(VolumeResize { name: volume.name.clone(), size }), &confirmed).await?;
    ui.say_line(&format!("Volume {} grows to {size}.{}", volume.name, job_text(started.job.as_ref())));
    Ok(())
}

/// Read-only or writable.
pub(super) async fn access(ui: &Ui) -> Talk {
    let volume = pick(ui, "Read-only or writable").await?;
    let mut form = Form::new(ui, "Read-only or writable");
    form.say(&format!("Volume {} is {} now.", volume.name, if volume.read_only { "read-only" } else { "writable" }));
    let other = if volume.read_only { "write" } else { "read" };
    let read_only = form.ask(&ACCESS, Some(other), |t| one_of(t, &["read", "write"])).await? == 0;
    if read_only {
        form.say("Hosts that write to it get errors from then on.");
    }
    let confirmed = form.confirm("yes").await?;
    ui.change(call::volume_set(VolumeSet { name: volume.name.clone(), read_only }), &confirmed).await?;
    ui.say_line(&format!("Volume {} is {}.", volume.name, if read_only { "read-only" } else { "writable" }));
    Ok(())
}

/// Takes an existing disk as a volume, as it is.
pub(super) async fn adopt(ui: &Ui) -> Talk {
    let title = "Take an existing disk as it is";
    let status = status(ui).await?;
    let mut disks = system(ui).await?.disks;
    disks.retain(|d| matches!(d.usage, reprise_api::DiskUsage::Foreign { .. } | reprise_api::DiskUsage::Blank));
    if disks.is_empty() {
        return Err(nothing("There is no disk beside those of the box.", "put one in, and look again"));
    }
    let mut form = Form::new(ui, title);
    form.say("Its content stays and becomes a volume. It can be taken out again.");
    let rows: Vec<String> = disks.iter().map(disks::row).collect();
    let disk = disks.swap_remove(form.pick(&PICK_DISK, &rows).await?);
    let volume = form.ask(&VOLUME_NAME, Some(&fresh_name(&status)), name).await?;
    let group = form.ask(&GROUP_NAME, Some(volume.as_str()), name).await?;
    form.say("From then on only the box may write to this disk.");
    let confirmed = form.confirm("yes").await?;
    let request = VolumeAdopt { name: volume.clone(), group, path: disk.path.clone().into(), local_only: false };
    let started = ui.change(call::volume_adopt(request), &confirmed).await?;
    ui.say_line(&format!("{} is the volume {volume}.{}", disk.path, job_text(started.job.as_ref())));
    Ok(())
}

/// Takes a volume away, with its content or without.
pub(super) async fn leave(ui: &Ui, erase: bool) -> Talk {
    let title = if erase { "Erase" } else { "Remove, keep the content" };
    let volume = pick(ui, title).await?.name;
    let word = format!("{} {volume}", if erase { "ERASE" } else { "REMOVE" });
    let action = if erase { Action::VolumeErase { volume } } else { Action::VolumeRemove { volume } };
    destroy(ui, title, action, &word).await
}

/// Why there is no group here that could be mirrored, or whose mirror could be changed.
fn no_mirror_of_ours(s: &Status, otherwise: Stop) -> Stop {
    let mut sources: Vec<&str> = mirrors_here(s).filter_map(|g| g.link.as_ref()).map(|l| l.peer.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.is_empty() {
        return otherwise;
    }
    let sources = sources.join(" and ");
    let text = format!("This box keeps mirrors of {sources}, and has no such group of its own.");
    nothing(&text, &format!("do this on {sources}"))
}

fn mirrors_here(s: &Status) -> impl Iterator<Item = &GroupStatus> {
    s.groups.iter().filter(|g| g.role == reprise_api::Role::Mirror)
}

/// Mirrors a group.
pub(super) async fn mirror_add(ui: &Ui) -> Talk {
    let mut status = status(ui).await?;
    let mut form = Form::new(ui, "Mirror a group");
    let alone = |g: &GroupStatus| g.link.is_none() && g.role == reprise_api::Role::Source;
    if !status.groups.iter().any(alone) {
        let none =
            nothing("There is no group without a mirror on this box.", "make a volume first: 3 on the status page");
        return Err(no_mirror_of_ours(&status, none));
    }
    status.groups.retain(alone);
    let rows: Vec<String> = status.groups.iter().map(home::group_row).collect();
    let group = status.groups.swap_remove(form.pick(&PICK_GROUP, &rows).await?).name;
    let peer = pick_peer(&mut form, status.peers).await?;
    form.say(&format!("The group {group} is copied to {peer}, and every write follows in its order."));
    let confirmed = form.confirm("yes").await?;
    let text = mirror(ui, MirrorOf { group, peer }, &confirmed).await?;
    ui.say_line(&text);
    Ok(())
}

async fn pick_mirror(ui: &Ui, title: &str) -> Talk<MirrorOf> {
    let status = status(ui).await?;
    let none =
        nothing("No group of this box is mirrored.", "begin one: 1; pauses are made on the box that serves hosts");
    let none = no_mirror_of_ours(&status, none);
    let mirrored = |g: GroupStatus| {
        let row = home::group_row(&g);
        (g.role == reprise_api::Role::Source).then_some(())?;
        g.link.map(|link| (MirrorOf { group: g.name, peer: link.peer }, row))
    };
    let (mut mirrors, rows): (Vec<MirrorOf>, Vec<String>) = status.groups.into_iter().filter_map(mirrored).unzip();
    if mirrors.is_empty() {
        return Err(none);
    }
    let at = Form::new(ui, title).pick(&PICK_MIRROR, &rows).await?;
    Ok(mirrors.swap_remove(at))
}

/// Pauses a mirror, or goes on with it.
pub(super) async fn mirror_pause(ui: &Ui, pause: bool) -> Talk {
    let title = if pause { "Pause a mirror" } else { "Go on with a paused mirror" };
    let of = pick_mirror(ui, title).await?;
    let mut form = Form::new(ui, title);
    form.list(labelled("Group", of.group.as_str()));
    form.list(labelled("Mirror", of.peer.as_str()));
    if pause {
        form.say("The cache takes the writes until you go on. When it is full, hosts wait.");
        let confirmed = form.confirm("yes").await?;
        ui.change(call::mirror_pause(of.clone()), &confirmed).await?;
        ui.say_line(&format!("The mirror of {} is paused.", of.group));
    } else {
        let confirmed = form.confirm("yes").await?;
        ui.change(call::mirror_resume(of.clone()), &confirmed).await?;
        ui.say_line(&format!("The mirror of {} goes on.", of.group));
    }
    Ok(())
}

/// Ends a mirror.
pub(super) async fn mirror_end(ui: &Ui) -> Talk {
    let MirrorOf { group, peer } = pick_mirror(ui, "End a mirror").await?;
    let word = format!("END {group}");
    destroy(ui, "End a mirror", Action::MirrorRemove { group, peer }, &word).await
}

/// Gives up the image of a mirror that this box keeps.
pub(super) async fn image_give_up(ui: &Ui) -> Talk {
    let title = "Give up an image";
    let status = status(ui).await?;
    let mut images: Vec<&GroupStatus> = mirrors_here(&status).collect();
    if images.is_empty() {
        return Err(nothing("This box keeps no image of another box.", ""));
    }
    let rows: Vec<String> = images.iter().map(|g| home::group_row(g)).collect();
    let group = images.swap_remove(Form::new(ui, title).pick(&PICK_IMAGE, &rows).await?).name.clone();
    let word = format!("GIVE UP {group}");
    destroy(ui, title, Action::GroupDelete { group }, &word).await
}
