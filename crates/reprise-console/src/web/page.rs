//! What all pages share: head, navigation, foot; and pages that say one thing.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use reprise_api::ErrorCode;

use super::assets::asset_url;
use super::problem::Problem;
use super::signed::Signed;
use super::{ui, units};

/// Seconds until a page tries again that could not reach the box's service.
const RETRY_SECS: u32 = 3;

/// The navigation: path, words.
const PLACES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/volumes", "Volumes"),
    ("/pair", "Pairing"),
    ("/hosts", "Hosts"),
    ("/events", "Events"),
    ("/jobs", "Jobs"),
    ("/settings", "Settings"),
];

/// A page of somebody who is logged in.
pub(crate) struct Page<'a> {
    pub(crate) signed: &'a Signed,
    pub(crate) title: &'a str,
    pub(crate) problem: Option<&'a Problem>,
    /// True where figures on it move.
    pub(crate) live: bool,
    /// Seconds after which a browser without the script loads it again.
    pub(crate) reload_secs: Option<u32>,
}

impl<'a> Page<'a> {
    pub(crate) fn new(signed: &'a Signed, title: &'a str) -> Self {
        Self { signed, title, problem: None, live: false, reload_secs: None }
    }

    pub(crate) fn problem(mut self, problem: Option<&'a Problem>) -> Self {
        self.problem = problem;
        self
    }

    /// Figures on the page move; without the script it is loaded again after so many seconds, where that disturbs nobody.
    pub(crate) fn live(mut self, reload_secs: Option<u32>) -> Self {
        self.live = true;
        self.reload_secs = reload_secs;
        self
    }

    pub(crate) fn show(self, content: Markup) -> Response {
        let now = self.signed.app.live.now();
        let name = now.name().unwrap_or("reprise").to_owned();
        let alerts = now.alerts_open();
        let here = |path: &str| {
            // Groups are under the volumes.
            let group = path == "/volumes" && self.signed.path.starts_with("/groups/");
            let inside = group || path != "/" && self.signed.path.starts_with(path);
            if self.signed.path == path {
                Some("page")
            } else if inside {
                Some("true")
            } else {
                None
            }
        };
        let status = self.problem.map_or(StatusCode::OK, Problem::status);
        let body = html! {
            a class="skip" href="#main" { "Skip to the content" }
            header class="top" {
                p class="box-name" { a href="/" { (name) } }
                nav aria-label="Main" {
                    ul {
                        @for (path, words) in PLACES {
                            li {
                                a href=(path) aria-current=[here(path)] {
                                    (words)
                                    @if *path == "/events" {
                                        span class="count" data-live="alerts.badge" {
                                            @if alerts > 0 { " (" (alerts) ")" }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                (ui::button(self.signed, "/logout", &[], html! { "Log out" }))
            }
            main id="main" tabindex="-1" {
                @if let Some(secs) = now.network_reverts_in() {
                    div class="notice warn" {
                        p {
                            strong { "The network was changed." } " The earlier settings come back in about "
                            (units::secs(secs.into())) ", unless you keep the new ones."
                        }
                        (ui::button(self.signed, "/settings/network/keep", &[], html! { "Keep the new network settings" }))
                    }
                }
                h1 { (self.title) }
                @if let Some(flash) = &self.signed.flash { p class="notice good" role="status" { (flash) } }
                (ui::problem(self.problem))
                (content)
            }
            footer {
                p { "reprise " (env!("CARGO_PKG_VERSION")) @if self.live { " · " span id="live-state" { "Figures as of this page's loading." } } }
                p class="quiet" {
                    "Certificate of this box (SHA-256): "
                    code { (units::fingerprint(&self.signed.app.fingerprint)) }
                }
            }
        };
        let title = format!("{} – {name}", self.title);
        let shape = self.live.then(|| now.shape());
        answer(status, &title, shape, self.reload_secs.map(|s| (s, true)), &body)
    }
}

/// A whole document. `shape`: of the box as this page shows it, where figures on it move. `reload`: after so many seconds, and whether only where there is no script.
fn answer(
    status: StatusCode,
    title: &str,
    shape: Option<&str>,
    reload: Option<(u32, bool)>,
    body: &Markup,
) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="stylesheet" href=(asset_url!("style.css"));
                link rel="icon" href=(asset_url!("icon.svg")) type="image/svg+xml";
                script src=(asset_url!("app.js")) defer {}
                @match reload {
                    Some((secs, true)) => noscript { meta http-equiv="refresh" content=(secs); },
                    Some((secs, false)) => meta http-equiv="refresh" content=(secs);,
                    None => {}
                }
            }
            body data-live-page[shape.is_some()] data-shape=[shape] { (body) }
        }
    };
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

/// A page for somebody who need not be logged in.
pub(crate) fn plain(status: StatusCode, title: &str, content: &Markup) -> Response {
    let body = html! { main id="main" class="narrow" { h1 { (title) } (content) } };
    answer(status, &format!("{title} – reprise"), None, None, &body)
}

/// A page that says one thing.
pub(crate) fn message(status: StatusCode, title: &str, message: &str, what_to_do: &str) -> Response {
    let content = html! {
        p { (message) }
        @if !what_to_do.is_empty() { p { (what_to_do) } }
        p { a href="/" { "To the overview" } }
    };
    plain(status, title, &content)
}

/// A page for a request that did not come about and has no form to show again.
pub(crate) fn problem(problem: &Problem) -> Response {
    let status = problem.status();
    if problem.is_away() {
        let body = html! {
            main id="main" class="narrow" {
                h1 { "The box does not answer" }
                p role="status" { (problem.message()) }
                p { (problem.what_to_do()) }
                p { "This page tries again every " (RETRY_SECS) " seconds." }
                p { a href="/" { "To the overview" } }
            }
        };
        return answer(status, "The box does not answer – reprise", None, Some((RETRY_SECS, false)), &body);
    }
    let content = html! {
        p { (problem.message()) }
        @match problem.code() {
            Some(ErrorCode::NoPool) => p { a href="/settings/disks" { "Choose a disk for the pool" } },
            _ => @if !problem.what_to_do().is_empty() { p { (problem.what_to_do()) } }
        }
        p { a href="/" { "To the overview" } }
    };
    let title = match problem.code() {
        Some(ErrorCode::NotFound) => "Not found",
        Some(ErrorCode::NoPool) => "No disk yet",
        Some(ErrorCode::NotSupported) => "Not on this box",
        _ => "This was not done",
    };
    plain(status, title, &content)
}
