//! Groups: their mirror, comparison with it, and what a person has to decide.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{
    ByName, GroupCreate, GroupState, GroupStatus, ImageSource, LinkState, MirrorOf, Nothing, PeerStatus, Role, Status,
    VerifyStart,
};

use super::dashboard::{group_figures, image, link_badge, link_reason, state_badge};
use super::volumes::{self, name_of};
use super::{hosts, jobs};
use crate::web::App;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text};

/// `GET /groups/new`.
pub(crate) async fn create_form(signed: Signed) -> Response {
    create_page(&signed, &Form::default(), None)
}

fn create_page(signed: &Signed, form: &Form, problem: Option<&Problem>) -> Response {
    let fields = Fields { form, problem, prefix: "" };
    let content = html! {
        form method="post" action="/groups/new" {
            (ui::token(signed))
            (fields.text(Text {
                name: "name", label: "Name", required: true,
                hint: "1 to 48 characters: a to z, 0 to 9, - and . with a letter or digit first.", ..Text::default()
            }))
            button type="submit" { "Make the group" } " " a href="/volumes" { "Back" }
        }
    };
    Page::new(signed, "Make an empty group").problem(problem).show(content)
}

/// `POST /groups/new`.
pub(crate) async fn create(State(app): State<Arc<App>>, posted: Posted) -> Response {
    let Posted { signed, form } = posted;
    let attempt = async {
        let request = GroupCreate { name: form.value("name", "Name")? };
        Ok::<_, Problem>(app.client.group_create(&request).await?)
    };
    match attempt.await {
        Ok(group) => signed.done(&format!("/groups/{}", group.name), &format!("Group {} is there.", group.name)),
        Err(problem) => create_page(&signed, &form, Some(&problem)),
    }
}

/// `GET /groups/{name}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    group_page(&app, &signed, &path, &Form::default(), None).await
}

async fn group_page(
    app: &App,
    signed: &Signed,
    path: &str,
    form: &Form,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    let name = name_of(path)?;
    let status = app.client.status(&Nothing {}).await?;
    let group = status.groups.iter().find(|g| g.name == name);
    let group = group.ok_or_else(|| Problem::from(reprise_api::ApiError::not_found("group", &name)))?;
    let is_source = group.role.to_string() == "source";
    let subject = format!("group {name}");
    let running: Vec<_> = status.jobs.iter().filter(|j| j.subject == subject && !j.state.is_final()).collect();
    let alerts: Vec<_> = group.alerts.iter().filter(|a| a.cleared_unix_ms.is_none()).collect();
    let content = html! {
        p class="hidden" role="status" aria-live="polite" id="live-says" {}
        div data-part="group" {
            p {
                "This box is the " strong { (group.role.to_string()) } ". " (state_badge(&group.state))
                @if let Some(reason) = group.state.reason() { " " (reason) }
            }
            (image(group))
            @if !alerts.is_empty() { (ui::alerts(signed, &alerts, &format!("/groups/{name}"))) }
            (repair(signed, group))
            (group_figures(group))
            @if !running.is_empty() { (jobs::table(signed, &running, "Work on this group")) }
            h2 { "Volumes" }
            (volumes::table(group))
        }
        p { a class="button second" href="/volumes/new" { "Make a volume" } }
        (mirror(signed, group, &status, is_source))
        @if is_source && group.link.is_some() { (compare(signed, group, form, problem)) }
        @if is_source {
            section class="card" {
                h2 { "Hosts" }
                (hosts::sessions(group))
                (hosts::how_to_attach(group, None, &signed.host))
            }
        }
        (end(signed, group, is_source))
    };
    Ok(Page::new(signed, &format!("Group {name}")).problem(problem).live(None).show(content))
}

/// How the group goes away. What is to be done with an image stands above: giving it up is a page of its own, so that
/// nobody takes it for the way out when its source is gone.
fn end(signed: &Signed, group: &GroupStatus, is_source: bool) -> Markup {
    html! {
        section class="card" {
            @if is_source {
                h2 { "Delete the group" }
                p { "A group can be deleted once it has no volumes and no mirror. What it does is shown before anything happens." }
                (ui::ask_button(signed, "group_delete", &[("group", group.name.as_str())], html! { "Delete the group…" }))
            } @else {
                h2 { "When nobody needs this image" }
                p { a href=(format!("/groups/{}/give-up", group.name)) { "Give up the image" } }
            }
        }
    }
}

/// `GET /groups/{name}/give-up`.
pub(crate) async fn give_up(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    let name = name_of(&path)?;
    let status = app.client.status(&Nothing {}).await?;
    let group = status.groups.iter().find(|g| g.name == name && g.role == Role::Mirror);
    let group = group.ok_or_else(|| Problem::from(reprise_api::ApiError::not_found("image", &name)))?;
    let source = group.link.as_ref().map_or("its source", |l| l.peer.as_str());
    let sends = group.image.as_ref().is_some_and(|i| i.source == ImageSource::Sends);
    let content = html! {
        (image(group))
        (volumes::table(group))
        @if sends {
            p { "An image that is followed is not given up. End the mirror on " strong { (source) } " first." }
        } @else {
            p { "The image and all that it holds is gone then. What is lost is shown once more, and the name of the group has to be typed." }
            (ui::ask_button(&signed, "group_delete", &[("group", group.name.as_str())], html! { "Give up the image…" }))
        }
        p { a href=(format!("/groups/{name}")) { "Keep it" } }
    };
    Ok(Page::new(&signed, &format!("Give up the image of {name}")).show(content))
}

/// What a person can do for a group that does not go on by itself.
fn repair(signed: &Signed, group: &GroupStatus) -> Markup {
    let path = |what: &str| format!("/groups/{}/{what}", group.name);
    let detached = group.volumes.iter().any(|v| matches!(v.state, reprise_api::VolumeState::Missing { .. }));
    html! {
        @if matches!(group.state, GroupState::Fenced { .. }) {
            div class="notice bad" {
                p { "A write or sync of the journal failed. The journal can be read again; the group starts where nothing \
                     that was acknowledged is lost." }
                (ui::button(signed, &path("unfence"), &[], html! { "Read the journal again" }))
            }
        }
        @if detached {
            div class="notice bad" {
                p { "A volume's disk is missing. When it is back, take it into use again." }
                (ui::button(signed, &path("reattach"), &[], html! { "Take it into use again" }))
            }
        }
    }
}

fn mirror(signed: &Signed, group: &GroupStatus, status: &Status, is_source: bool) -> Markup {
    let path = |what: &str| format!("/groups/{}/{what}", group.name);
    let others: Vec<&PeerStatus> = status.peers.iter().collect();
    html! {
        section class="card" aria-labelledby="mirror-title" {
            h2 id="mirror-title" { "Mirror" }
            @if let Some(link) = &group.link {
                @let peer = link.peer.as_str();
                p data-part="link" {
                    @if is_source { "Mirrored to " } @else { "Comes from " }
                    strong { (peer) } ". Link: " (link_badge(&link.state))
                    @if let Some(reason) = link_reason(&link.state) { " " (reason) }
                    @for trouble in &link.mirror_troubles { " " strong { (trouble.text) } "." }
                }
                @if is_source {
                    @let paused = matches!(link.state, LinkState::Paused) || matches!(group.state, GroupState::Paused);
                    @if paused {
                        (ui::button(signed, &path("resume"), &[("peer", peer)], html! { "Go on sending" }))
                    } @else {
                        (ui::button(signed, &path("pause"), &[("peer", peer)], html! { "Pause sending" }))
                    }
                    " "
                    (ui::ask_button(signed, "mirror_remove", &[("group", group.name.as_str()), ("peer", peer)],
                        html! { "End the mirror…" }))
                }
            } @else if !is_source {
                p { "This box follows no other." }
            } @else if others.is_empty() {
                p { "The group is on this box only." }
                p { a class="button" href="/pair" { "Pair with a box" } }
            } @else {
                p { "The group is on this box only. The mirror begins with a first copy, while hosts write." }
                form method="post" action=(path("mirror")) {
                    (ui::token(signed))
                    div class="field" {
                        label for="peer" { "Mirror to" }
                        select id="peer" name="peer" { @for p in others { option value=(p.name) { (p.name) } } }
                    }
                    button type="submit" { "Begin the mirror" }
                }
            }
        }
    }
}

fn compare(signed: &Signed, group: &GroupStatus, form: &Form, problem: Option<&Problem>) -> Markup {
    let fields = Fields { form, problem, prefix: "verify-" };
    html! {
        section class="card" {
            h2 { "Compare with the mirror" }
            p { "Reads both images as they were at one moment, while hosts write, and signs a proof where they are equal." }
            form method="post" action=(format!("/groups/{}/verify", group.name)) {
                (ui::token(signed))
                (fields.tick("repair", "Send what differs to the mirror", false))
                (fields.text(Text {
                    name: "rate", label: "Bytes a second that each box reads at most",
                    hint: "Such as 50M. 100M if left empty.", ..Text::default()
                }))
                button type="submit" { "Compare" }
            }
        }
    }
}

fn mirror_of(path: &str, form: &Form) -> Result<MirrorOf, Problem> {
    Ok(MirrorOf { group: name_of(path)?, peer: form.value("peer", "Box")? })
}

/// Goes back to the group's page, with what came of it.
async fn back(app: &App, posted: &Posted, path: &str, outcome: Result<String, Problem>) -> Result<Response, Problem> {
    match outcome {
        Ok(told) => Ok(posted.signed.done(&format!("/groups/{}", name_of(path)?), &told)),
        Err(problem) => group_page(app, &posted.signed, path, &posted.form, Some(&problem)).await,
    }
}

/// `POST /groups/{name}/mirror`.
pub(crate) async fn mirror_add(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        let started = app.client.mirror_add(&mirror_of(&path, &posted.form)?).await?;
        let mut told = match started.job {
            Some(job) => format!("The first copy runs as job {}.", job.id),
            None => "The mirror has begun; there is nothing to copy.".to_owned(),
        };
        for warning in &started.warnings {
            told.push(' ');
            told.push_str(warning);
        }
        Ok(told)
    };
    let outcome = attempt.await;
    back(&app, &posted, &path, outcome).await
}

/// `POST /groups/{name}/pause`.
pub(crate) async fn mirror_pause(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        app.client.mirror_pause(&mirror_of(&path, &posted.form)?).await?;
        Ok("Sending is paused. The cache takes the writes of the hosts.".to_owned())
    };
    let outcome = attempt.await;
    back(&app, &posted, &path, outcome).await
}

/// `POST /groups/{name}/resume`.
pub(crate) async fn mirror_resume(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        app.client.mirror_resume(&mirror_of(&path, &posted.form)?).await?;
        Ok("Sending goes on.".to_owned())
    };
    let outcome = attempt.await;
    back(&app, &posted, &path, outcome).await
}

/// `POST /groups/{name}/verify`.
pub(crate) async fn verify(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        let request = VerifyStart {
            group: name_of(&path)?,
            repair: posted.form.ticked("repair"),
            bytes_per_sec: posted.form.optional("rate", "Bytes a second")?,
        };
        Ok::<_, Problem>(app.client.verify_start(&request).await?.job.id)
    };
    match attempt.await {
        Ok(job) => Ok(posted.signed.done(&format!("/jobs/{job}"), "The comparison has begun.")),
        Err(problem) => group_page(&app, &posted.signed, &path, &posted.form, Some(&problem)).await,
    }
}

/// `POST /groups/{name}/unfence`.
pub(crate) async fn unfence(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        let started = app.client.group_unfence(&ByName { name: name_of(&path)? }).await?;
        Ok(format!("The journal is read again: job {}.", started.job.id))
    };
    let outcome = attempt.await;
    back(&app, &posted, &path, outcome).await
}

/// `POST /groups/{name}/reattach`.
pub(crate) async fn reattach(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let attempt = async {
        app.client.group_reattach(&ByName { name: name_of(&path)? }).await?;
        Ok("The volume's disk is in use again.".to_owned())
    };
    let outcome = attempt.await;
    back(&app, &posted, &path, outcome).await
}
