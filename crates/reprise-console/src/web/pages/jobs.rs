//! Work that takes a while.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{ById, Job, JobKind, JobState, Nothing, VerifyReport};

use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Tone};
use crate::web::{App, figures, units};

const fn kind(kind: JobKind) -> &'static str {
    match kind {
        JobKind::VolumeCreate => "Make a volume",
        JobKind::VolumeResize => "Resize a volume",
        JobKind::VolumeAdopt => "Adopt a disk",
        JobKind::VolumeErase => "Erase a volume",
        JobKind::VolumeRemove => "Take a volume out",
        JobKind::MirrorCopy => "First copy to the mirror",
        JobKind::GroupDelete => "Delete a group",
        JobKind::Verify => "Compare with the mirror",
        JobKind::GroupUnfence => "Read the journal again",
    }
}

fn state(state: &JobState) -> Markup {
    match state {
        JobState::Queued => ui::badge(Tone::Off, "queued"),
        JobState::Running => ui::badge(Tone::Busy, "running"),
        JobState::Waiting { reason } => html! { (ui::badge(Tone::Warn, "waiting")) " " (reason) },
        JobState::Done => ui::badge(Tone::Good, "done"),
        JobState::Failed { error } => {
            html! { (ui::badge(Tone::Bad, "failed")) " " (error.message) " " (error.what_to_do) }
        }
        JobState::Cancelled => ui::badge(Tone::Off, "cancelled"),
    }
}

fn figure(job: &Job, key: &str) -> Markup {
    let text = figures::job(job).into_iter().find(|(k, _)| *k == key).map(|(_, text)| text).unwrap_or_default();
    ui::live(&format!("j.{}.{key}", job.id), &text)
}

fn cancel_button(signed: &Signed, job: &Job) -> Markup {
    html! {
        @if job.can_cancel && !job.state.is_final() {
            (ui::button(signed, &format!("/jobs/{}/cancel", job.id), &[], html! { "Cancel" (ui::hidden(&format!("job {}", job.id))) }))
        }
    }
}

/// Jobs with their progress.
pub(crate) fn table(signed: &Signed, jobs: &[&Job], caption: &str) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Job" } th scope="col" { "What" } th scope="col" { "State" }
                        th scope="col" { "Progress" } th scope="col" { "Time left" } th scope="col" { "Begun" }
                        th scope="col" { span class="hidden" { "Cancel" } }
                    }
                }
                tbody {
                    @for job in jobs {
                        tr {
                            th scope="row" { a href=(format!("/jobs/{}", job.id)) { (job.id) } }
                            td { (kind(job.kind)) ": " (job.subject) }
                            td { (state(&job.state)) }
                            td { @if job.state.is_final() { "–" } @else { (figure(job, "percent")) } }
                            td { @if job.state.is_final() { "–" } @else { (figure(job, "left")) } }
                            td class="nowrap" { (ui::time(job.started_unix_ms)) }
                            td { (cancel_button(signed, job)) }
                        }
                    }
                }
            }
        }
    }
}

/// `GET /jobs`.
pub(crate) async fn list(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    let jobs = app.client.job_list(&Nothing {}).await?.jobs;
    let content = html! {
        div data-part="jobs" {
            @if jobs.is_empty() { p { "None." } } @else {
                (table(&signed, &jobs.iter().collect::<Vec<_>>(), "Jobs, the latest first"))
            }
        }
    };
    Ok(Page::new(&signed, "Jobs").live(Some(10)).show(content))
}

/// `GET /jobs/{id}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    signed: Signed,
) -> Result<Response, Problem> {
    let id = id_of(&path)?;
    let job = app.client.job_show(&ById { id }).await?;
    let report = if job.kind == JobKind::Verify {
        // There is none before the comparison has begun; the job's own state says so.
        app.client.verify_report(&ById { id }).await.ok()
    } else {
        None
    };
    let label = format!("Progress of job {id}");
    let content = html! {
        div data-part="job" {
            dl {
                dt { "What" } dd { (kind(job.kind)) ": " (job.subject) }
                dt { "State" } dd { (state(&job.state)) }
                dt { "Begun" } dd { (ui::time(job.started_unix_ms)) }
                @if let Some(at) = job.finished_unix_ms { dt { "Ended" } dd { (ui::time(at)) } }
                @if !job.state.is_final() {
                    dt { "Progress" } dd { (ui::progress(&label, job.percent)) " " (figure(&job, "percent")) }
                    dt { "Time left" } dd { (figure(&job, "left")) }
                    dt { "Bytes" }
                    dd { (figure(&job, "bytes")) @if let Some(total) = job.bytes_total { " of " (units::bytes(total)) } }
                }
            }
            (cancel_button(&signed, &job))
            @if let Some(report) = &report { (verify_report(report)) }
        }
        p { a href="/jobs" { "All jobs" } }
    };
    let reload = if job.state.is_final() { None } else { Some(5) };
    Ok(Page::new(&signed, &format!("Job {id}")).live(reload).show(content))
}

fn verify_report(report: &VerifyReport) -> Markup {
    html! {
        section class="card" {
            h2 { "What the comparison found" }
            p {
                @if report.equal { (ui::badge(Tone::Good, "equal")) " Both images are the same at this moment." }
                @else if report.bytes_differing > 0 { (ui::badge(Tone::Bad, "different")) }
                @else { (ui::badge(Tone::Busy, "not finished")) }
                @if let Some(why) = &report.stopped { " It ended early: " (why) }
            }
            dl {
                dt { "Group" } dd { (report.group) }
                dt { "Moment" } dd { "record " (report.seq.to_string()) }
                dt { "Compared" } dd { (units::bytes(report.bytes_compared)) " of " (units::bytes(report.bytes_total)) }
                dt { "Different" } dd { (units::bytes(report.bytes_differing)) }
                dt { "Sent again" } dd { (units::bytes(report.bytes_repaired)) }
                dt { "Not readable" } dd { (units::bytes(report.bytes_unreadable)) }
                @if let Some(proof) = &report.proof { dt { "Signed proof" } dd { code { (proof.signature) } } }
            }
            @if !report.extents.is_empty() {
                div class="scroll" tabindex="0" role="region" aria-label="What differed" {
                    table {
                        caption { "What differed, in sectors of 512 bytes (the first 256)" }
                        thead { tr { th scope="col" { "Volume" } th scope="col" { "From" } th scope="col" { "Sectors" } } }
                        tbody { @for e in &report.extents { tr { th scope="row" { (e.volume) } td { (e.sector) } td { (e.sectors) } } } }
                    }
                }
            }
        }
    }
}

fn id_of(path: &str) -> Result<u64, Problem> {
    path.parse().map_err(|_| Problem::from(reprise_api::ApiError::not_found("job", "of this number")))
}

/// `POST /jobs/{id}/cancel`.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Path(path): Path<String>,
    posted: Posted,
) -> Result<Response, Problem> {
    let id = id_of(&path)?;
    app.client.job_cancel(&ById { id }).await?;
    Ok(posted.signed.done(&format!("/jobs/{id}"), &format!("Job {id} is being cancelled.")))
}
