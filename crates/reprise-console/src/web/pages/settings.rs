//! The machine: what it is, its name and its clock.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{ClockState, ConfigState, NameSet, Nothing, Slot, SystemStatus, TimeSet};

use super::dashboard::clock_badge;
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text, Tone};
use crate::web::{App, units};

/// The settings' pages: path, title, what it is for.
const PLACES: &[(&str, &str, &str)] = &[
    ("/settings/network", "Network", "addresses, VLANs, bonds, name servers"),
    ("/settings/time", "Time", "time servers, or by hand"),
    ("/settings/name", "Name", "how this box is called"),
    ("/settings/password", "Password", "of this console"),
    ("/settings/sessions", "Sessions", "who is logged in to this console, and an end to it"),
    ("/settings/messages", "Messages", "webhooks and mail for alerts"),
    ("/settings/disks", "Disks", "what they are used for; a disk for the pool"),
    ("/settings/logs", "Logs", "of the service, the system and the kernel"),
    ("/settings/support", "Support bundle", "what somebody who helps wants to see"),
    ("/settings/power", "Restart or turn off", ""),
    ("/settings/reset", "Reset", "settings, everything, or with all bytes"),
];

/// The machine as it is; what is learned is shown on the next page, too.
pub(crate) async fn system(app: &App) -> Result<Arc<SystemStatus>, Problem> {
    let system = Arc::new(app.client.system_show(&Nothing {}).await?);
    app.live.saw_system(system.clone());
    Ok(system)
}

/// `GET /settings`.
pub(crate) async fn show(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    let content = html! {
        ul class="places" {
            @for (path, title, what) in PLACES {
                li { a href=(path) { (title) } @if !what.is_empty() { " – " (what) } }
            }
        }
        @match system(&app).await {
            Ok(system) => (machine(&system)),
            Err(problem) => p { "Of the machine itself nothing is known: " (problem.message()) },
        }
    };
    Ok(Page::new(&signed, "Settings").show(content))
}

fn machine(system: &SystemStatus) -> Markup {
    let firmware = &system.firmware;
    html! {
        section class="card" {
            h2 { "The machine" }
            dl {
                dt { "Firmware" }
                dd {
                    (firmware.version) ", from slot " (match firmware.slot { Slot::A => "A", Slot::B => "B" }) " "
                    @if firmware.confirmed { (ui::badge(Tone::Good, "known to work")) }
                    @else { (ui::badge(Tone::Busy, "on trial")) }
                    @if firmware.fell_back { " " (ui::badge(Tone::Bad, "the other slot failed")) }
                }
                dt { "Secure Boot" } dd { (if firmware.secure_boot { "yes" } else { "no" }) }
                dt { "Watchdog" } dd { (units::or_unknown(firmware.watchdog.clone(), |w| w)) }
                dt { "On for" } dd { (units::secs(system.uptime_secs as f64)) }
                dt { "Memory" }
                dd { (units::bytes(system.memory_bytes_available)) " free of " (units::bytes(system.memory_bytes_total)) }
                dt { "Clock" } dd { (ui::time(system.clock.unix_ms)) " " (clock_badge(&system.clock.state)) }
                dt { "Settings" } dd { (config(&system.config)) }
            }
            @if !system.processes.is_empty() {
                div class="scroll" tabindex="0" role="region" aria-label="Processes" {
                    table {
                        caption { "Processes that are watched" }
                        thead { tr { th scope="col" { "Process" } th scope="col" { "State" } th scope="col" { "Started again" } th scope="col" { "Last end" } } }
                        tbody {
                            @for p in &system.processes {
                                tr {
                                    th scope="row" { (p.name) }
                                    td { @if p.running { (ui::badge(Tone::Good, "runs")) } @else { (ui::badge(Tone::Bad, "does not run")) } }
                                    td { (p.restarts) }
                                    td { (units::or_unknown(p.last_exit.clone(), |e| e)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn config(state: &ConfigState) -> Markup {
    match state {
        ConfigState::Fresh => ui::badge(Tone::Off, "none were kept yet"),
        ConfigState::Good => ui::badge(Tone::Good, "read"),
        ConfigState::Repaired => ui::badge(Tone::Warn, "one of two copies was damaged and was written again"),
        ConfigState::Damaged { reason } => {
            html! { (ui::badge(Tone::Bad, "both copies were damaged")) " " (reason) " The box started with the defaults." }
        }
    }
}

/// `GET /settings/name`.
pub(crate) async fn name_form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    name_page(&app, &signed, &Form::default(), None).await
}

async fn name_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let system = system(app).await?;
    let fields = Fields { form, problem, prefix: "" };
    let content = html! {
        p { "The service starts again with the new name; hosts wait for a moment." }
        form method="post" action="/settings/name" {
            (ui::token(signed))
            (fields.text(Text {
                name: "name", label: "Name of the box", required: true, first: system.name.as_str(),
                hint: "1 to 48 characters: a to z, 0 to 9, - and . with a letter or digit first.", ..Text::default()
            }))
            button type="submit" { "Change the name" } " " a href="/settings" { "Back" }
        }
    };
    Ok(Page::new(signed, "Name").problem(problem).show(content))
}

/// `POST /settings/name`.
pub(crate) async fn name(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let request = NameSet { name: form.value("name", "Name")? };
        app.client.system_name_set(&request).await?;
        Ok::<_, Problem>(request.name)
    };
    match attempt.await {
        Ok(name) => Ok(signed.done("/settings", &format!("The box is called {name}."))),
        Err(problem) => name_page(&app, &signed, &form, Some(&problem)).await,
    }
}

/// `GET /settings/time`.
pub(crate) async fn time_form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    time_page(&app, &signed, &Form::default(), None).await
}

async fn time_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let system = system(app).await?;
    let clock = &system.clock;
    let fields = Fields { form, problem, prefix: "" };
    let servers = clock.servers.join(", ");
    let content = html! {
        dl {
            dt { "Now" } dd { (ui::time(clock.unix_ms)) }
            dt { "State" } dd { (clock_badge(&clock.state)) }
            @if let ClockState::Synchronized { offset_us, .. } = &clock.state {
                dt { "Last difference" } dd { (offset_us) " µs" }
            }
        }
        form method="post" action="/settings/time" {
            (ui::token(signed))
            (fields.text(Text {
                name: "servers", label: "Time servers", first: &servers,
                hint: "Names or addresses between commas, at most 8. Empty: the clock is set by hand.", ..Text::default()
            }))
            (fields.text(Text {
                name: "now", label: "Set the clock to (UTC)",
                hint: "Such as 2026-01-31 23:59:00. Empty: leave it.", ..Text::default()
            }))
            button type="submit" { "Change" } " " a href="/settings" { "Back" }
        }
    };
    Ok(Page::new(signed, "Time").problem(problem).show(content))
}

/// `POST /settings/time`.
pub(crate) async fn time(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let servers: Vec<String> = form.list("servers", "Time servers")?;
        if servers.len() > 8 {
            return Err(Problem::field("servers", "There may be at most 8 time servers."));
        }
        let unix_ms = match form.text("now") {
            "" => None,
            text => Some(
                units::from_utc(text)
                    .ok_or_else(|| Problem::field("now", "The time is written like 2026-01-31 23:59:00, in UTC."))?,
            ),
        };
        app.client.system_time_set(&TimeSet { servers, unix_ms }).await?;
        Ok(())
    };
    match attempt.await {
        Ok(()) => Ok(signed.done("/settings/time", "The clock's settings are changed.")),
        Err(problem) => time_page(&app, &signed, &form, Some(&problem)).await,
    }
}
