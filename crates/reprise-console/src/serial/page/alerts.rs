//! Alerts, events and jobs.

use reprise_api::{Alert, ById, EventQuery, Job, JobState, Severity, Status};

use super::{Talk, home::all_alerts, nothing, status};
use crate::serial::call;
use crate::serial::field::PICK_ALERT;
use crate::serial::text::{labelled, plain, secs, utc, wrap};
use crate::serial::ui::{Form, Ui};

/// Events that are shown: as many as somebody pages through.
const EVENTS_MAX: u32 = 200;

fn severity(s: Severity) -> &'static str {
    match s {
        Severity::Info => "note",
        Severity::Warning => "warning",
        Severity::Critical => "CRITICAL",
    }
}

/// The alerts, a line each.
pub(super) fn table(s: &Status) -> Vec<String> {
    let alerts = all_alerts(s);
    if alerts.is_empty() {
        return vec!["There is no alert.".to_owned()];
    }
    alerts.into_iter().map(row).collect()
}

fn row(a: &Alert) -> String {
    let acked = if a.acked { "seen" } else { "" };
    Form::row(&[(severity(a.severity), 8), (acked, 4), (&a.subject, 18), (&a.text, 46)])
}

fn in_full(a: &Alert) -> Vec<String> {
    let seen = if a.acked { ", acknowledged" } else { "" };
    let mut lines = wrap(&format!("{}: {} ({}){seen}", severity(a.severity), a.subject, a.code), 2);
    lines.extend(wrap(&format!("  {}", a.text), 2));
    if !a.what_to_do.is_empty() {
        lines.extend(wrap(&format!("  What to do: {}", a.what_to_do), 2));
    }
    lines.push(plain(&format!("  since {} UTC", utc(a.first_seen_unix_ms))));
    lines.push(String::new());
    lines
}

/// Every alert with what to do.
pub(super) async fn show(ui: &Ui) -> Talk {
    let status = status(ui).await?;
    let lines: Vec<String> = all_alerts(&status).into_iter().flat_map(in_full).collect();
    ui.show("Alerts in full", &lines, false).await?;
    Ok(())
}

/// Acknowledges an alert.
pub(super) async fn ack(ui: &Ui) -> Talk {
    let status = status(ui).await?;
    let open: Vec<&Alert> = all_alerts(&status).into_iter().filter(|a| !a.acked).collect();
    if open.is_empty() {
        return Err(nothing("There is no alert that nobody has acknowledged.", ""));
    }
    let mut form = Form::new(ui, "Acknowledge an alert");
    let rows: Vec<String> = open.iter().map(|a| row(a)).collect();
    let at = form.pick(&PICK_ALERT, &rows).await?;
    let Some(alert) = open.get(at) else { return Ok(()) };
    form.clear();
    form.list(in_full(alert));
    form.say("It stays on the list until its cause is gone.");
    let confirmed = form.confirm("yes").await?;
    ui.change(call::alert_ack(ById { id: alert.id }), &confirmed).await?;
    ui.say_line("Acknowledged.");
    Ok(())
}

/// What happened, the latest last.
pub(super) async fn events(ui: &Ui) -> Talk {
    let query = EventQuery { after: None, limit: Some(EVENTS_MAX), wait_secs: None };
    let events = ui.get(call::event_list(query)).await?.events;
    let line = |e: &reprise_api::Event| {
        let todo = if e.what_to_do.is_empty() { String::new() } else { format!(" What to do: {}", e.what_to_do) };
        wrap(&format!("{} {}: {}: {}{todo}", utc(e.at_unix_ms), severity(e.severity), e.subject, e.text), 2)
    };
    let lines: Vec<String> = events.iter().flat_map(line).collect();
    ui.show("Events", &lines, true).await?;
    Ok(())
}

fn job_lines(j: &Job) -> Vec<String> {
    let kind = serde_json::to_value(j.kind).ok().and_then(|v| v.as_str().map(|s| s.replace('_', " ")));
    let state = match &j.state {
        JobState::Queued => "waits for its turn".to_owned(),
        JobState::Running => "at work".to_owned(),
        JobState::Waiting { reason } => format!("waits: {reason}"),
        JobState::Done => "done".to_owned(),
        JobState::Failed { error } => format!("FAILED: {} {}", error.message, error.what_to_do),
        JobState::Cancelled => "cancelled".to_owned(),
    };
    let percent = j.percent.map(|p| format!(", {p:.0} %")).unwrap_or_default();
    let left = j.secs_left.map(|s| format!(", {} left", secs(s))).unwrap_or_default();
    labelled(
        &format!("Job {}", j.id),
        &format!("{} of {}: {state}{percent}{left}", kind.unwrap_or_default(), j.subject),
    )
}

/// Work that takes a while.
pub(super) async fn jobs(ui: &Ui) -> Talk {
    let jobs = status(ui).await?.jobs;
    let lines: Vec<String> = jobs.iter().flat_map(job_lines).collect();
    ui.show("Jobs", &lines, false).await?;
    Ok(())
}
