//! Starting again, turning off, and the resets.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use reprise_api::{Power, PowerAction};

use crate::web::App;
use crate::web::page::{self, Page};
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui;

/// `GET /settings/power`.
pub(crate) async fn show(signed: Signed) -> Response {
    power_page(&signed, None)
}

fn power_page(signed: &Signed, problem: Option<&Problem>) -> Response {
    let content = html! {
        p { "Nothing that hosts were told is written gets lost by it. Hosts wait until the box is back." }
        form method="post" action="/settings/power" {
            (ui::token(signed))
            fieldset {
                legend { "What to do" }
                div class="field tick" {
                    input id="reboot" type="radio" name="action" value="reboot" required;
                    label for="reboot" { "Start again" }
                }
                div class="field tick" {
                    input id="off" type="radio" name="action" value="power_off" required;
                    label for="off" { "Turn off: somebody has to turn it on by hand" }
                }
            }
            div class="field tick" {
                input id="sure" name="sure" type="checkbox" value="yes" required;
                label for="sure" { "Hosts may wait meanwhile" }
            }
            button type="submit" class="danger" { "Do it" } " " a href="/settings" { "Back" }
        }
    };
    Page::new(signed, "Restart or turn off").problem(problem).show(content)
}

/// `POST /settings/power`.
pub(crate) async fn set(State(app): State<Arc<App>>, posted: Posted) -> Response {
    let Posted { signed, form } = posted;
    let attempt = async {
        let action = match form.text("action") {
            "reboot" => PowerAction::Reboot,
            "power_off" => PowerAction::PowerOff,
            _ => return Err(Problem::field("action", "Choose what to do.")),
        };
        if !form.ticked("sure") {
            return Err(Problem::field("sure", "Tick the box to say that hosts may wait."));
        }
        app.client.system_power(&Power { action }).await?;
        Ok(action)
    };
    match attempt.await {
        Ok(PowerAction::Reboot) => starting_again("Starting again"),
        Ok(PowerAction::PowerOff) => {
            page::message(StatusCode::OK, "Turning off", "The box turns itself off.", "Turn it on by its button.")
        }
        Err(problem) => power_page(&signed, Some(&problem)),
    }
}

/// What is shown when the box goes away for a while.
pub(crate) fn starting_again(title: &str) -> Response {
    page::message(
        StatusCode::OK,
        title,
        "The box starts again. That takes a minute or so.",
        "Then open the overview and log in. Its address may be another one after a reset.",
    )
}

/// The resets: level, title, what it does.
const RESETS: &[(&str, &str, &str)] = &[
    (
        "settings",
        "Settings",
        "Network, time, name, password and messages go back to how a new box has them. Volumes, the paired box, hosts and data stay.",
    ),
    (
        "forget",
        "Forget everything",
        "Also the box's identity, the paired box, hosts, groups and volumes. What is in the volumes can no longer be reached, but its bytes stay on the disk.",
    ),
    (
        "wipe",
        "Wipe",
        "Also all bytes on all disks of the box. For a box that is given away. This takes long on large disks.",
    ),
];

/// `GET /settings/reset`.
pub(crate) async fn reset_form(signed: Signed) -> Response {
    let content = html! {
        p { "The box starts again and does it before anything else, also after a power cut. What it means is shown before \
             anything happens, and has to be typed." }
        @for (level, title, what) in RESETS {
            section class="card" {
                h2 { (title) }
                p { (what) }
                (ui::ask_button(&signed, "system_reset", &[("level", level)], html! { (title) "…" }))
            }
        }
    };
    Page::new(&signed, "Reset").show(content)
}
