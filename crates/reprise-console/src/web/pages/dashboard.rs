//! The overview of both boxes.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use reprise_api::{
    ClockState, ErrorCode, GroupState, GroupStatus, ImageSource, LinkState, Nothing, PeerStatus, PoolPlace, Role,
    Status, SystemStatus,
};
use serde::Deserialize;

use super::jobs;
use crate::web::chart::{Chart, Kind};
use crate::web::history::Range;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::signed::Signed;
use crate::web::ui::{self, Tone};
use crate::web::{App, figures, lock, units};

/// How far back the charts go.
#[derive(Deserialize)]
pub(crate) struct Back {
    #[serde(default)]
    range: String,
}

/// The sign and word for a group's state.
pub(crate) fn state_badge(state: &GroupState) -> Markup {
    let (tone, words) = match state {
        GroupState::Alone => (Tone::Warn, "no mirror"),
        GroupState::Ordered => (Tone::Good, "in order"),
        GroupState::Copying => (Tone::Busy, "first copy"),
        GroupState::Paused => (Tone::Warn, "paused"),
        GroupState::Disconnected => (Tone::Bad, "disconnected"),
        GroupState::Ended { .. } => (Tone::Warn, "ended"),
        GroupState::Waiting { .. } => (Tone::Warn, "waiting"),
        GroupState::CacheFull => (Tone::Bad, "cache full"),
        GroupState::Fenced { .. } => (Tone::Bad, "fenced"),
        GroupState::Diverged { .. } => (Tone::Bad, "diverged"),
    };
    ui::badge(tone, words)
}

pub(crate) fn link_badge(state: &LinkState) -> Markup {
    let (tone, words) = match state {
        LinkState::Connecting => (Tone::Busy, "connecting"),
        LinkState::Handshake => (Tone::Busy, "handshake"),
        LinkState::Up => (Tone::Good, "up"),
        LinkState::Down { .. } => (Tone::Bad, "down"),
        LinkState::Refused { .. } => (Tone::Bad, "refused"),
        LinkState::Paused => (Tone::Warn, "paused"),
        LinkState::Ended => (Tone::Off, "ended"),
    };
    ui::badge(tone, words)
}

pub(crate) fn link_reason(state: &LinkState) -> Option<&str> {
    match state {
        LinkState::Down { reason } | LinkState::Refused { reason } => Some(reason),
        _ => None,
    }
}

/// `GET /`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<Back>,
    signed: Signed,
) -> Result<Response, Problem> {
    let status = match app.client.status(&Nothing {}).await.map_err(Problem::from) {
        Ok(status) => status,
        Err(problem) if problem.code() == Some(ErrorCode::NoPool) => {
            return Ok(match signed.flash {
                Some(ref flash) => signed.done("/settings/disks", flash),
                None => Redirect::to("/settings/disks").into_response(),
            });
        }
        Err(problem) => return Err(problem),
    };
    let range = if query.range == "day" { Range::Day } else { Range::Minutes };
    let now = app.live.now();
    let content = html! {
        p class="hidden" role="status" aria-live="polite" id="live-says" {}
        div data-part="top" { (top(&signed, &status, now.system.as_ref().map(|(s, _)| s.as_ref()))) }
        div class="boxes" data-part="boxes" {
            (this_box(&status, now.system.as_ref().map(|(s, _)| s.as_ref())))
            @for peer in &status.peers { (peer_box(peer, &status)) }
            @if status.peers.is_empty() {
                section class="card" {
                    h2 { "No second box" }
                    p { "Nothing is mirrored before this box is paired with another one." }
                    p { a class="button" href="/pair" { "Pair with a box" } }
                }
            }
        }
        div data-part="groups" { @for group in &status.groups { (group_card(group)) } }
        @if status.groups.is_empty() {
            section class="card" {
                h2 { "No volumes" }
                p { "Hosts see nothing before there is a volume." }
                p { a class="button" href="/volumes/new" { "Make a volume" } }
            }
        }
        (charts(&app, &status, range))
    };
    Ok(Page::new(&signed, "Overview").live(Some(15)).show(content))
}

fn top(signed: &Signed, status: &Status, system: Option<&SystemStatus>) -> Markup {
    let mut alerts: Vec<_> = figures::alerts(status).collect();
    alerts.sort_by_key(|a| (a.acked, std::cmp::Reverse(a.severity)));
    let running: Vec<_> = status.jobs.iter().filter(|j| !j.state.is_final()).collect();
    html! {
        @if let Some(reason) = system.and_then(|s| s.pool_reason()) {
            div class="notice bad" { p { (reason) } p { a href="/settings/disks" { "Disks" } } }
        }
        @if !alerts.is_empty() {
            section aria-labelledby="alerts-title" {
                h2 id="alerts-title" { "Alerts" }
                (ui::alerts(signed, &alerts, "/"))
            }
        }
        @if !running.is_empty() {
            section aria-labelledby="jobs-title" {
                h2 id="jobs-title" { "Work under way" }
                (jobs::table(signed, &running, "Jobs that have not ended"))
            }
        }
    }
}

/// What is wrong with the place of the pool.
trait PoolReason {
    fn pool_reason(&self) -> Option<String>;
}

impl PoolReason for SystemStatus {
    fn pool_reason(&self) -> Option<String> {
        match &self.pool {
            PoolPlace::On { .. } => None,
            PoolPlace::None { reason } => Some(reason.clone()),
            PoolPlace::Preparing { path } => Some(format!("The pool is being made on {path}.")),
            PoolPlace::Missing { serial } => {
                Some(format!("The disk of the pool is not there: serial number {serial}."))
            }
        }
    }
}

fn this_box(status: &Status, system: Option<&SystemStatus>) -> Markup {
    let b = &status.this_box;
    let share = |used: u64, total: u64| if total == 0 { 0.0 } else { used as f64 / total as f64 * 100.0 };
    html! {
        section class="card" aria-labelledby="this-box" {
            h2 id="this-box" { "This box: " (b.name) }
            dl {
                dt { "Roles" } dd { (roles(&status.groups)) }
                dt { "Version" } dd { (b.version) }
                dt { "Running for" } dd { (ui::live("box.uptime", &units::secs(b.uptime_secs as f64))) }
                dt { "Cache" }
                dd {
                    (ui::meter("Cache in use", share(b.pool.cache_bytes_used, b.pool.cache_bytes_total))) " "
                    (units::bytes(b.pool.cache_bytes_used)) " of " (units::bytes(b.pool.cache_bytes_total))
                }
                dt { "Volumes" }
                dd {
                    (ui::meter("Room for volumes in use", share(b.pool.data_bytes_used, b.pool.data_bytes_total))) " "
                    (units::bytes(b.pool.data_bytes_used)) " of " (units::bytes(b.pool.data_bytes_total))
                }
                dt { "iSCSI" } dd { (b.endpoints.iscsi.join(", ")) }
                dt { "Link" } dd { (units::or_unknown(b.endpoints.link.clone(), |l| l)) }
                @if let Some(system) = system { dt { "Clock" } dd { (clock_badge(&system.clock.state)) } }
            }
        }
    }
}

pub(crate) fn clock_badge(state: &ClockState) -> Markup {
    match state {
        ClockState::Synchronized { server, .. } => html! { (ui::badge(Tone::Good, "synchronized")) " with " (server) },
        ClockState::Unsynchronized { reason } => html! { (ui::badge(Tone::Warn, "not synchronized")) " " (reason) },
        ClockState::Manual => ui::badge(Tone::Warn, "set by hand"),
    }
}

fn roles(groups: &[GroupStatus]) -> String {
    let count = |role: &str| groups.iter().filter(|g| g.role.to_string() == role).count();
    match (count("source"), count("mirror")) {
        (0, 0) => "none yet".to_owned(),
        (sources, 0) => format!("source of {sources}"),
        (0, mirrors) => format!("mirror of {mirrors}"),
        (sources, mirrors) => format!("source of {sources}, mirror of {mirrors}"),
    }
}

/// The other box, as far as this one knows it.
fn peer_box(peer: &PeerStatus, status: &Status) -> Markup {
    let links: Vec<_> = status
        .groups
        .iter()
        .filter(|g| g.link.as_ref().is_some_and(|l| l.peer_id == peer.id))
        .filter_map(|g| g.link.as_ref().map(|l| (g, l)))
        .collect();
    let id = format!("box-{}", peer.name);
    html! {
        section class="card" aria-labelledby=(id) {
            h2 id=(id) { "Other box: " (peer.name) }
            p {
                @if peer.connected { (ui::badge(Tone::Good, "connected")) } @else { (ui::badge(Tone::Bad, "not connected")) }
            }
            dl {
                dt { "Address" } dd { (units::or_unknown(peer.address.clone(), |a| a)) }
                dt { "Version" } dd { (units::or_unknown(peer.version.clone(), |v| v)) }
                dt { "Last sign of life" }
                dd {
                    (ui::live(&format!("p.{}.seen", peer.name),
                        &units::or_unknown(peer.last_seen_unix_ms, |ms| format!("{} UTC", units::utc(ms)))))
                }
                dt { "Its clock" }
                dd { (units::or_unknown(peer.clock_offset_secs, |s| {
                    let side = if s < 0.0 { "behind" } else { "ahead" };
                    format!("{} {side}", units::secs(s.abs()))
                })) }
            }
            @if !links.is_empty() {
                div class="scroll" tabindex="0" role="region" aria-label=(format!("Links to {}", peer.name)) {
                    table {
                        caption { "Groups that go to it or come from it" }
                        thead {
                            tr {
                                th scope="col" { "Group" } th scope="col" { "It is" } th scope="col" { "Link" }
                                th scope="col" { "Round trip" } th scope="col" { "Sent" } th scope="col" { "On the wire" }
                            }
                        }
                        tbody {
                            @for (group, link) in links {
                                tr {
                                    th scope="row" { a href=(format!("/groups/{}", group.name)) { (group.name) } }
                                    td { (if group.role.to_string() == "source" { "mirror" } else { "source" }) }
                                    td { (link_badge(&link.state)) @if let Some(r) = link_reason(&link.state) { " " (r) } }
                                    @for key in ["rtt", "tx", "ratio"] { td { (figure(group, key)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A figure of a group that moves.
pub(crate) fn figure(group: &GroupStatus, key: &str) -> Markup {
    let text = figures::group(group).into_iter().find(|(k, _)| *k == key).map(|(_, text)| text);
    ui::live(&format!("g.{}.{key}", group.name), &text.unwrap_or_default())
}

/// What a mirror holds, and what can be done with it.
pub(crate) fn image(group: &GroupStatus) -> Markup {
    html! {
        @if let Some(image) = &group.image {
            @let class = match image.source {
                ImageSource::Silent => "notice bad",
                ImageSource::Answers | ImageSource::Ended => "notice warn",
                ImageSource::Sends => "notice",
            };
            div class=(class) {
                p { (image.text) }
                @if !image.what_to_do.is_empty() { p { (image.what_to_do) } }
            }
        }
    }
}

/// The figures of a group. A mirror serves no host, and does not know what it lacks.
pub(crate) fn group_figures(group: &GroupStatus) -> Markup {
    let source: &[(&str, &[&str])] = &[
        ("Lag", &["lag"]),
        ("Not yet at the mirror", &["lag-bytes"]),
        ("Cache fill", &["fill"]),
        ("Cache full in", &["full-in"]),
        ("Written", &["write", "write-iops"]),
        ("Write latency, 99th percentile", &["write-p99"]),
        ("Read", &["read", "read-iops"]),
        ("To the mirror", &["drain"]),
        ("Sessions of hosts", &["sessions"]),
    ];
    let mirror: &[(&str, &[&str])] = &[("Cache fill", &["fill"]), ("Received", &["write", "write-iops"])];
    let shown = if group.role == Role::Mirror { mirror } else { source };
    html! {
        dl class="figures" {
            @for (label, keys) in shown {
                div { dt { (label) } dd { @for (n, key) in keys.iter().enumerate() { @if n > 0 { ", " } (figure(group, key)) } } }
            }
            @if group.copy.is_some() {
                div { dt { "First copy" } dd { (figure(group, "copy")) ", " (figure(group, "copy-left")) " left" } }
            }
        }
    }
}

fn group_card(group: &GroupStatus) -> Markup {
    let id = format!("group-{}", group.name);
    html! {
        section class="card" aria-labelledby=(id) {
            h2 id=(id) { a href=(format!("/groups/{}", group.name)) { "Group " (group.name) } }
            p {
                "This box is the " strong { (group.role.to_string()) } ". " (state_badge(&group.state))
                @if let Some(reason) = group.state.reason() { " " (reason) }
            }
            (image(group))
            (group_figures(group))
        }
    }
}

/// The charts of all groups.
fn charts(app: &App, status: &Status, range: Range) -> Markup {
    let history = lock(&app.live.history);
    let here = |r: Range| (r == range).then_some("true");
    html! {
        @if !status.groups.is_empty() {
            section aria-labelledby="charts-title" {
                h2 id="charts-title" { "Charts" }
                p class="choice" {
                    a href="/?range=minutes" aria-current=[here(Range::Minutes)] { "10 minutes" } " "
                    a href="/?range=day" aria-current=[here(Range::Day)] { "24 hours" }
                }
                @for group in &status.groups {
                    h3 { "Group " (group.name) }
                    div class="charts" {
                        @for kind in Kind::ALL {
                            @if let Some(chart) = Chart::make(&history, &group.name, kind, range) {
                                (chart.show(&group.name, range))
                            }
                        }
                    }
                }
            }
        }
    }
}
