//! Volumes: list, make, adopt, change.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{
    BlockSize, ByName, GroupStatus, Name, Nothing, Status, VolumeAdopt, VolumeCreate, VolumeKind, VolumeResize,
    VolumeSet, VolumeState, VolumeStatus,
};

use super::dashboard::state_badge;
use crate::web::App;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};
use crate::web::units;

/// A name from a path: one that breaks the rule is no page of ours.
pub(crate) fn name_of(path: &str) -> Result<Name, Problem> {
    path.parse().map_err(|_| Problem::from(reprise_api::ApiError::not_found("page", "of this name")))
}

fn state(state: &VolumeState) -> Markup {
    match state {
        VolumeState::Ready => ui::badge(Tone::Good, "ready"),
        VolumeState::Image => ui::badge(Tone::Off, "image"),
        VolumeState::Preparing => ui::badge(Tone::Busy, "being written for the first time"),
        VolumeState::Missing { reason } => html! { (ui::badge(Tone::Bad, "missing")) " " (reason) },
        VolumeState::Leaving => ui::badge(Tone::Busy, "leaving"),
    }
}

/// What hosts may do with it on this box.
fn hosts_may(volume: &VolumeStatus) -> &'static str {
    match (&volume.state, volume.read_only) {
        (VolumeState::Image, _) => "nothing here: it is an image",
        (_, true) => "read",
        (_, false) => "read and write",
    }
}

fn kind(volume: &VolumeStatus) -> &'static str {
    match volume.kind {
        VolumeKind::Thick => "written fully",
        VolumeKind::Thin => "sparse",
        VolumeKind::Adopted => "adopted as it is",
    }
}

/// The volumes of a group.
pub(crate) fn table(group: &GroupStatus) -> Markup {
    html! {
        @if group.volumes.is_empty() {
            p { "The group has no volumes." }
        } @else {
            div class="scroll" tabindex="0" role="region" aria-label=(format!("Volumes of group {}", group.name)) {
                table {
                    caption { "Volumes of group " (group.name) }
                    thead {
                        tr {
                            th scope="col" { "Volume" } th scope="col" { "LUN" } th scope="col" { "Size" }
                            th scope="col" { "State" } th scope="col" { "Hosts may" } th scope="col" { "Mirrored" }
                        }
                    }
                    tbody {
                        @for v in &group.volumes {
                            tr {
                                th scope="row" { a href=(format!("/volumes/{}", v.name)) { (v.name) } }
                                td { (v.lun) }
                                td { (units::bytes(v.size_bytes)) }
                                td { (state(&v.state)) }
                                td { (hosts_may(v)) }
                                td { (if v.replicated { "yes" } else { "no, stays here" }) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `GET /volumes`.
pub(crate) async fn list(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    let status = app.client.status(&Nothing {}).await?;
    let spare = &status.this_box.pool.data_areas_spare;
    let content = html! {
        p class="actions" {
            a class="button" href="/volumes/new" { "Make a volume" } " "
            a class="button second" href="/volumes/adopt" { "Adopt a disk or image" } " "
            a class="button second" href="/groups/new" { "Make an empty group" }
        }
        p { "The volumes of a group share one order of writes: the mirror holds all of them as they were at one moment." }
        div data-part="volumes" {
            @for group in &status.groups {
                section class="card" {
                    h2 { a href=(format!("/groups/{}", group.name)) { "Group " (group.name) } }
                    p { "This box is its " (group.role.to_string()) ". " (state_badge(&group.state)) }
                    (table(group))
                }
            }
            @if status.groups.is_empty() { p { "There are no volumes yet." } }
        }
        @if !spare.is_empty() {
            div class="scroll" tabindex="0" role="region" aria-label="Areas that no volume uses" {
                table {
                    caption { "Areas that no volume uses" }
                    thead { tr { th scope="col" { "Was" } th scope="col" { "Where" } th scope="col" { "Size" } } }
                    tbody {
                        @for area in spare {
                            tr { th scope="row" { (area.name) } td { code { (area.home) } } td { (units::bytes(area.size_bytes)) } }
                        }
                    }
                }
            }
        }
    };
    Ok(Page::new(&signed, "Volumes and groups").live(Some(15)).show(content))
}

fn group_field(fields: &Fields<'_>, status: &Status) -> Markup {
    let first = status.groups.first().map_or("", |g| g.name.as_str());
    html! {
        (fields.text(Text {
            name: "group", label: "Group", required: true, first, list: "groups",
            hint: "A group that is not there yet is made.", ..Text::default()
        }))
        datalist id="groups" { @for g in &status.groups { option value=(g.name) {} } }
    }
}

const NAME_HINT: &str = "1 to 48 characters: a to z, 0 to 9, - and . with a letter or digit first.";

/// `GET /volumes/new`.
pub(crate) async fn create_form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    create_page(&app, &signed, &Form::default(), None).await
}

async fn create_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let status = app.client.status(&Nothing {}).await?;
    let pool = &status.this_box.pool;
    let free = pool.data_bytes_total.saturating_sub(pool.data_bytes_used);
    let fields = Fields { form, problem, prefix: "" };
    let size_hint = format!("A number with M, G or T, such as 500G. Free in the pool: {}.", units::bytes(free));
    let peers: Vec<(&str, String)> =
        status.peers.iter().map(|p| (p.name.as_str(), format!("The group is mirrored to {}", p.name))).collect();
    let mirrors: Vec<(&str, &str)> = std::iter::once(("", "Not mirrored, or the group is mirrored already"))
        .chain(peers.iter().map(|(name, words)| (*name, words.as_str())))
        .collect();
    let content = html! {
        form method="post" action="/volumes/new" {
            (ui::token(signed))
            (fields.text(Text { name: "name", label: "Name", hint: NAME_HINT, required: true, ..Text::default() }))
            (group_field(&fields, &status))
            (fields.text(Text { name: "size", label: "Size", hint: &size_hint, required: true, ..Text::default() }))
            (fields.select("allocation", "Space", "thick", &[
                ("thick", "Written fully now: room is certain"),
                ("thin", "Sparse: takes room as hosts write"),
            ]))
            @if !status.peers.is_empty() { (fields.select("mirror", "Mirror", "", &mirrors)) }
            (fields.select("block", "Blocks that hosts see", "512e", &[
                ("512e", "512 bytes on blocks of 4096 (512e): right for most"),
                ("512n", "512 bytes (512n): for old hosts"),
                ("4kn", "4096 bytes (4Kn)"),
            ]))
            (fields.tick("local", "Stays on this box: never sent to a mirror", false))
            (fields.tick("read_only", "Hosts may only read", false))
            button type="submit" { "Make the volume" } " " a href="/volumes" { "Back" }
        }
    };
    Ok(Page::new(signed, "Make a volume").problem(problem).show(content))
}

/// `POST /volumes/new`.
pub(crate) async fn create(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    match try_create(&app, &form).await {
        Ok((volume, job)) => {
            let group = &volume.group;
            let told = match job {
                Some(job) => format!("Volume {} is being made; job {job} shows how far it is.", volume.name),
                None => format!("Volume {} is there.", volume.name),
            };
            Ok(signed.done(&format!("/groups/{group}"), &told))
        }
        Err(problem) => create_page(&app, &signed, &form, Some(&problem)).await,
    }
}

async fn try_create(app: &App, form: &Form) -> Result<(VolumeStatus, Option<u64>), Problem> {
    let request = VolumeCreate {
        name: form.value("name", "Name")?,
        group: form.value("group", "Group")?,
        size: form.value("size", "Size")?,
        thin: form.text("allocation") == "thin",
        local_only: form.ticked("local"),
        block_size: form.text("block").parse::<BlockSize>().map_err(Problem::input)?,
        read_only: form.ticked("read_only"),
        mirror: match form.text("mirror") {
            "" => None,
            _ => Some(form.value("mirror", "Mirror")?),
        },
    };
    let started = app.client.volume_create(&request).await?;
    Ok((started.volume, started.job.map(|j| j.id)))
}

/// `GET /volumes/adopt`.
pub(crate) async fn adopt_form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    adopt_page(&app, &signed, &Form::default(), None).await
}

async fn adopt_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let status = app.client.status(&Nothing {}).await?;
    let fields = Fields { form, problem, prefix: "" };
    let content = html! {
        p { "A disk or an image file becomes a volume as it is. Nothing on it is changed by that, and it can be taken out again." }
        form method="post" action="/volumes/adopt" {
            (ui::token(signed))
            (fields.text(Text {
                name: "path", label: "Disk or image", required: true,
                hint: "An absolute path on the box, such as /dev/sdb.", ..Text::default()
            }))
            (fields.text(Text { name: "name", label: "Name", hint: NAME_HINT, required: true, ..Text::default() }))
            (group_field(&fields, &status))
            (fields.tick("local", "Stays on this box: never sent to a mirror", false))
            button type="submit" { "Adopt it" } " " a href="/volumes" { "Back" }
        }
    };
    Ok(Page::new(signed, "Adopt a disk or image").problem(problem).show(content))
}

/// `POST /volumes/adopt`.
pub(crate) async fn adopt(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    match try_adopt(&app, &form).await {
        Ok(volume) => {
            Ok(signed.done(&format!("/groups/{}", volume.group), &format!("Volume {} is adopted.", volume.name)))
        }
        Err(problem) => adopt_page(&app, &signed, &form, Some(&problem)).await,
    }
}

async fn try_adopt(app: &App, form: &Form) -> Result<VolumeStatus, Problem> {
    let path = form.text("path");
    if !path.starts_with('/') {
        return Err(Problem::field("path", "Disk or image: write an absolute path, such as /dev/sdb"));
    }
    let request = VolumeAdopt {
        name: form.value("name", "Name")?,
        group: form.value("group", "Group")?,
        path: path.into(),
        local_only: form.ticked("local"),
    };
    Ok(app.client.volume_adopt(&request).await?.volume)
}

/// `GET /volumes/{name}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    volume_page(&app, &signed, &path, &Form::default(), None).await
}

async fn volume_page(
    app: &App,
    signed: &Signed,
    path: &str,
    form: &Form,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    let volume = app.client.volume_show(&ByName { name: name_of(path)? }).await?;
    let name = volume.name.as_str();
    let fields = Fields { form, problem, prefix: "" };
    let (now, wanted) = (hosts_may(&volume), if volume.read_only { "no" } else { "yes" });
    let is_image = volume.state == VolumeState::Image;
    let content = html! {
        dl data-part="volume" {
            dt { "Group" } dd { a href=(format!("/groups/{}", volume.group)) { (volume.group) } }
            dt { "State" } dd { (state(&volume.state)) }
            dt { "Size" } dd { (units::bytes(volume.size_bytes)) " (" (volume.size_bytes) " bytes)" }
            dt { "Kind" } dd { (kind(&volume)) }
            dt { "LUN" } dd { (volume.lun) }
            dt { "Mirrored" } dd { (if volume.replicated { "yes" } else { "no, stays on this box" }) }
            dt { "Blocks that hosts see" } dd { (volume.block_size) }
            dt { "Hosts may" } dd { (now) }
            dt { "Serial number" } dd { code { (volume.serial) } }
            dt { "NAA" } dd { code { (volume.naa) } }
            dt { "Place" } dd { code { (volume.home) } }
        }
        @if is_image {
            p { "This box keeps the image of it: what is changed is changed on the box that serves it." }
        } @else {
            section class="card" {
                h2 { "More room" }
                form method="post" action=(format!("/volumes/{name}/resize")) {
                    (ui::token(signed))
                    (fields.text(Text {
                        name: "size", label: "New size", required: true,
                        hint: "More than it has. Hosts may go on using it; a mirrored one grows on both boxes.",
                        ..Text::default()
                    }))
                    button type="submit" { "Give it more room" }
                }
            }
            section class="card" {
                h2 { "What hosts may do" }
                p { "Hosts may " strong { (now) } "." }
                (ui::button(signed, &format!("/volumes/{name}/access"), &[("read_only", wanted)],
                    html! { @if volume.read_only { "Let hosts write" } @else { "Let hosts only read" } }))
            }
            section class="card" {
                h2 { "Take it away" }
                p { "What each does is shown before anything happens." }
                (ui::ask_button(signed, "volume_erase", &[("volume", name)], html! { "Erase the volume…" }))
                " "
                (ui::ask_button(signed, "volume_remove", &[("volume", name)], html! { "Take it out, keep the bytes…" }))
            }
        }
    };
    Ok(Page::new(signed, &format!("Volume {name}")).problem(problem).live(None).show(content))
}

/// `POST /volumes/{name}/resize`.
pub(crate) async fn resize(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let request = VolumeResize { name: name_of(&path)?, size: form.value("size", "New size")? };
        Ok::<_, Problem>(app.client.volume_resize(&request).await?)
    };
    match attempt.await {
        Ok(done) => {
            let told = match done.job {
                Some(job) => format!("Volume {} grows; job {} shows how far it is.", done.volume.name, job.id),
                None => format!("Volume {} has {}.", done.volume.name, units::bytes(done.volume.size_bytes)),
            };
            Ok(signed.done(&format!("/volumes/{}", done.volume.name), &told))
        }
        Err(problem) => volume_page(&app, &signed, &path, &form, Some(&problem)).await,
    }
}

/// `POST /volumes/{name}/access`.
pub(crate) async fn access(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let read_only = match form.text("read_only") {
        "yes" => true,
        "no" => false,
        _ => return Err(Problem::input("say whether hosts may write")),
    };
    match app.client.volume_set(&VolumeSet { name: name_of(&path)?, read_only }).await.map_err(Problem::from) {
        Ok(volume) => {
            let may = if volume.read_only { "only read" } else { "read and write" };
            let told = format!("Hosts may {may} volume {}.", volume.name);
            Ok(signed.done(&format!("/volumes/{}", volume.name), &told))
        }
        Err(problem) => volume_page(&app, &signed, &path, &Form::default(), Some(&problem)).await,
    }
}
