//! Disks, and a place for the pool.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{DiskStatus, DiskTake, DiskUsage, PoolPlace, SystemStatus};

use super::settings::system;
use crate::web::App;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};
use crate::web::units;

/// Less room than this behind the firmware is no place for a pool.
const POOL_BYTES_MIN: u64 = 1 << 30;

fn usage(usage: &DiskUsage) -> Markup {
    match usage {
        DiskUsage::Boot { pool: true, .. } => html! { (ui::badge(Tone::Good, "firmware and pool")) },
        DiskUsage::Boot { free_bytes, .. } => {
            html! { (ui::badge(Tone::Good, "firmware")) " " (units::bytes(*free_bytes)) " free behind it" }
        }
        DiskUsage::Pool => ui::badge(Tone::Good, "pool"),
        DiskUsage::Blank => ui::badge(Tone::Off, "blank"),
        DiskUsage::Foreign { what } => html! { (ui::badge(Tone::Warn, "carries something else")) " " (what) },
        DiskUsage::Failed { reason } => html! { (ui::badge(Tone::Bad, "cannot be read")) " " (reason) },
    }
}

/// `GET /settings/disks`.
pub(crate) async fn show(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    disks_page(&app, &signed, &Form::default(), None).await
}

fn place(pool: &PoolPlace) -> Markup {
    html! {
        @match pool {
            PoolPlace::None { reason } => div class="notice warn" {
                p { strong { "This box has no pool yet." } " " (reason) }
                p { "The pool holds the cache and the volumes. Choose a disk for it below." }
            },
            PoolPlace::Preparing { path } => div class="notice warn" role="status" {
                p { (ui::badge(Tone::Busy, "being made")) " The pool is being made on " (path) ". This takes a moment." }
            },
            PoolPlace::On { path, serial } => p { "The pool is on " strong { (path) } ", serial number " code { (serial) } "." },
            PoolPlace::Missing { serial } => div class="notice bad" {
                p { strong { "The disk of the pool is not there." } " It had the serial number " code { (serial) }
                    ". Plug it in and start the box again. Taking another disk gives up what was on it." }
            },
        }
    }
}

async fn disks_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let system = system(app).await?;
    let may_take = matches!(system.pool, PoolPlace::None { .. } | PoolPlace::Missing { .. });
    let content = html! {
        (place(&system.pool))
        (table(&system))
        @if may_take {
            @for (n, disk) in system.disks.iter().enumerate() { (take_form(signed, disk, n, form, problem)) }
        }
    };
    let reload = matches!(system.pool, PoolPlace::Preparing { .. }).then_some(3);
    Ok(Page::new(signed, "Disks").problem(problem).live(reload).show(content))
}

fn table(system: &SystemStatus) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Disks" {
            table {
                caption { "Disks of this box" }
                thead { tr { th scope="col" { "Disk" } th scope="col" { "Size" } th scope="col" { "Used for" } th scope="col" { "Model" } th scope="col" { "Serial number" } } }
                tbody {
                    @for disk in &system.disks {
                        tr {
                            th scope="row" { (disk.path) }
                            td { (units::bytes(disk.size_bytes)) }
                            td { (usage(&disk.usage)) }
                            td { (disk.model) }
                            td { code { (disk.serial) } }
                        }
                    }
                }
            }
        }
    }
}

fn take_form(signed: &Signed, disk: &DiskStatus, n: usize, form: &Form, problem: Option<&Problem>) -> Markup {
    let title = format!("take-{n}");
    let head = html! {
        (ui::token(signed))
        input type="hidden" name="path" value=(disk.path);
    };
    let ours = form.text("path") == disk.path;
    let empty = Form::default();
    let prefix = format!("d{n}-");
    let fields = Fields { form: if ours { form } else { &empty }, problem: problem.filter(|_| ours), prefix: &prefix };
    html! {
        @match &disk.usage {
            DiskUsage::Blank => section class="card" aria-labelledby=(title) {
                h2 id=(title) { "Use " (disk.path) }
                p { "Nothing is on it, as far as the box sees." }
                form method="post" action="/settings/disks/take" { (head) button type="submit" { "Make the pool on it" (ui::hidden(&disk.path)) } }
            },
            DiskUsage::Boot { free_bytes, pool: false } if *free_bytes >= POOL_BYTES_MIN => section class="card" aria-labelledby=(title) {
                h2 id=(title) { "Use the rest of " (disk.path) }
                p { (units::bytes(*free_bytes)) " behind the firmware are free." }
                form method="post" action="/settings/disks/take" { (head) button type="submit" { "Make the pool there" (ui::hidden(&disk.path)) } }
            },
            DiskUsage::Foreign { what } => section class="card" aria-labelledby=(title) {
                h2 id=(title) { "Give up what is on " (disk.path) " and use it" }
                div class="notice bad" { p { "It carries: " (what) ". All of it is lost for good." } }
                form method="post" action="/settings/disks/take" {
                    (head)
                    (fields.text(Text {
                        name: "serial", label: "Type the serial number of the disk", required: true,
                        hint: "As the table above shows it, and as it stands on the disk's label.", ..Text::default()
                    }))
                    button type="submit" class="danger" { "Give it up and make the pool" }
                }
            },
            _ => {}
        }
    }
}

/// `POST /settings/disks/take`.
pub(crate) async fn take(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let path = form.text("path");
        let system = system(&app).await?;
        let disk = system.disks.iter().find(|d| d.path == path);
        let disk = disk.ok_or_else(|| Problem::input("This disk is not there any more."))?;
        let typed = form.text("serial");
        if matches!(disk.usage, DiskUsage::Foreign { .. }) && typed != disk.serial {
            return Err(Problem::field("serial", "This is not the serial number of the disk. Nothing was changed."));
        }
        let serial = Some(typed.to_owned()).filter(|s| !s.is_empty());
        app.client.system_disk_take(&DiskTake { path: path.to_owned(), serial }).await?;
        Ok(format!("The pool is being made on {path}."))
    };
    match attempt.await {
        Ok(told) => Ok(signed.done("/settings/disks", &told)),
        Err(problem) => disks_page(&app, &signed, &form, Some(&problem)).await,
    }
}
