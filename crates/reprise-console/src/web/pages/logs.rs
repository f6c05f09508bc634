//! Logs, and the bundle for somebody who helps.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use maud::html;
use reprise_api::{LOG_LINES_MAX, LogQuery, LogSource, Nothing};
use serde::Deserialize;

use crate::web::App;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui;

/// Lines that are shown where nobody says how many.
const LINES_FIRST: u32 = 200;

/// Which log, how much of it.
#[derive(Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    source: String,
    #[serde(default)]
    lines: String,
}

/// `GET /settings/logs`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Query(which): Query<Which>,
    signed: Signed,
) -> Result<Response, Problem> {
    let (source, key) = match which.source.as_str() {
        "system" => (LogSource::System, "system"),
        "kernel" => (LogSource::Kernel, "kernel"),
        _ => (LogSource::Daemon, "daemon"),
    };
    let lines = which.lines.parse().unwrap_or(LINES_FIRST).clamp(1, LOG_LINES_MAX);
    let log = app.client.system_logs(&LogQuery { source, lines: Some(lines) }).await?.lines;
    let chosen = |name: &str| name == key;
    let content = html! {
        form method="get" action="/settings/logs" class="row" {
            div class="field" {
                label for="source" { "Log" }
                select id="source" name="source" {
                    option value="daemon" selected[chosen("daemon")] { "Service" }
                    option value="system" selected[chosen("system")] { "System" }
                    option value="kernel" selected[chosen("kernel")] { "Kernel" }
                }
            }
            div class="field" {
                label for="lines" { "Lines" }
                input id="lines" name="lines" type="number" min="1" max=(LOG_LINES_MAX) value=(lines);
            }
            button type="submit" { "Show" }
        }
        @if log.is_empty() { p { "The log is empty." } } @else {
            pre class="log" tabindex="0" aria-label="Lines of the log, the latest last" { (log.join("\n")) }
        }
    };
    Ok(Page::new(&signed, "Logs").show(content))
}

/// `GET /settings/support`.
pub(crate) async fn support_form(signed: Signed) -> Response {
    let content = html! {
        p { "The bundle holds the status, the logs, the hardware and the settings without secrets. No content of volumes, no \
             password and no key is in it. Names of groups, hosts and networks are." }
        (ui::button(&signed, "/settings/support", &[], html! { "Make and download it" }))
    };
    Page::new(&signed, "Support bundle").show(content)
}

/// `POST /settings/support`.
pub(crate) async fn support(State(app): State<Arc<App>>, _posted: Posted) -> Result<Response, Problem> {
    let bundle = app.client.system_support(&Nothing {}).await?;
    let content = base64::engine::general_purpose::STANDARD
        .decode(&bundle.content_base64)
        .map_err(|_| Problem::input("The bundle of the box cannot be read."))?;
    let kept = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = bundle.file_name.chars().filter(kept).take(100).collect();
    let name = if name.is_empty() { "reprise-support.tar.gz".to_owned() } else { name };
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    let disposition = disposition.unwrap_or(HeaderValue::from_static("attachment"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/gzip")),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, content).into_response())
}
