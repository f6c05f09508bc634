//! Events and alerts.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::html;
use reprise_api::{AlertQuery, ById, EventQuery};
use serde::Deserialize;

use crate::web::App;
use crate::web::guard::local_path;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui;

/// Events on a page.
const PAGE_EVENTS: u32 = 50;

/// Which part of them.
#[derive(Deserialize)]
pub(crate) struct Part {
    /// Only events with a smaller id.
    before: Option<u64>,
    /// Also alerts that are over.
    #[serde(default)]
    cleared: String,
}

/// `GET /events`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Query(part): Query<Part>,
    signed: Signed,
) -> Result<Response, Problem> {
    let cleared = part.cleared == "yes";
    let alerts = app.client.alert_list(&AlertQuery { cleared }).await?.alerts;
    let after = part.before.map(|b| b.saturating_sub(u64::from(PAGE_EVENTS) + 1));
    let query = EventQuery { after, limit: Some(PAGE_EVENTS), wait_secs: None };
    let mut events = app.client.event_list(&query).await?.events;
    if let Some(before) = part.before {
        events.retain(|e| e.id < before);
    }
    let oldest = events.iter().map(|e| e.id).min().filter(|id| *id > 1);
    let content = html! {
        section aria-labelledby="alerts-title" data-part="alerts" {
            h2 id="alerts-title" { "Alerts" }
            @if alerts.is_empty() { p { "None." } } @else {
                (ui::alerts(&signed, &alerts.iter().collect::<Vec<_>>(), "/events"))
            }
            p {
                @if cleared { a href="/events" { "Only those that hold" } }
                @else { a href="/events?cleared=yes" { "Also those that are over" } }
            }
        }
        section aria-labelledby="events-title" {
            h2 id="events-title" { "Events" }
            @if events.is_empty() { p { "None." } } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Events" {
                    table {
                        caption { "What happened, the latest first" }
                        thead { tr { th scope="col" { "When" } th scope="col" { "Weight" } th scope="col" { "About" } th scope="col" { "What" } } }
                        tbody {
                            @for event in events.iter().rev() {
                                tr {
                                    td class="nowrap" { (ui::time(event.at_unix_ms)) }
                                    td { (ui::severity(event.severity)) }
                                    td { (event.subject) }
                                    td { (event.text) @if !event.what_to_do.is_empty() { br; span class="quiet" { (event.what_to_do) } } }
                                }
                            }
                        }
                    }
                }
            }
            p {
                @if part.before.is_some() { a href="/events" { "The latest" } " " }
                @if let Some(oldest) = oldest { a href=(format!("/events?before={oldest}")) { "Older" } }
            }
        }
    };
    Ok(Page::new(&signed, "Events and alerts").live(None).show(content))
}

/// `POST /alerts/ack`.
pub(crate) async fn ack(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let alert = app.client.alert_ack(&ById { id: form.value("id", "Alert")? }).await?;
    let back = local_path(form.raw("back")).unwrap_or("/events");
    Ok(signed.done(back, &format!("Acknowledged: {} {}", alert.subject, alert.text)))
}
