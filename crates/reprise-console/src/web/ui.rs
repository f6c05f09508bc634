//! Parts that pages are made of.

use maud::{Markup, html};
use reprise_api::{Alert, Severity};

use super::form::Form;
use super::problem::Problem;
use super::signed::Signed;
use super::units;

/// How something is, in a word and a sign; the colour only repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Off,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "badge good",
            Self::Busy => "badge busy",
            Self::Warn => "badge warn",
            Self::Bad => "badge bad",
            Self::Off => "badge off",
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Busy => "↻",
            Self::Warn => "!",
            Self::Bad => "✕",
            Self::Off => "–",
        }
    }
}

pub(crate) fn badge(tone: Tone, text: &str) -> Markup {
    html! { span class=(tone.class()) { span aria-hidden="true" { (tone.sign()) } " " (text) } }
}

pub(crate) fn severity(severity: Severity) -> Markup {
    match severity {
        Severity::Info => badge(Tone::Off, "info"),
        Severity::Warning => badge(Tone::Warn, "warning"),
        Severity::Critical => badge(Tone::Bad, "critical"),
    }
}

/// A time, in UTC.
pub(crate) fn time(unix_ms: u64) -> Markup {
    let text = units::utc(unix_ms);
    html! { time datetime=(format!("{}Z", text.replace(' ', "T"))) { (text) " UTC" } }
}

/// A figure that moves while the page is open.
pub(crate) fn live(key: &str, text: &str) -> Markup {
    html! { span data-live=(key) { (text) } }
}

/// The token of this login that every form carries.
pub(crate) fn token(signed: &Signed) -> Markup {
    html! { input type="hidden" name="csrf" value=(signed.csrf); }
}

/// A button that does something by itself.
pub(crate) fn button(signed: &Signed, action: &str, fields: &[(&str, &str)], label: Markup) -> Markup {
    html! {
        form class="inline" method="post" action=(action) {
            (token(signed))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button type="submit" { (label) }
        }
    }
}

/// A button that leads to the page on which an action is explained and confirmed.
pub(crate) fn ask_button(signed: &Signed, kind: &str, fields: &[(&str, &str)], label: Markup) -> Markup {
    html! {
        form class="inline" method="post" action="/confirm" {
            (token(signed))
            input type="hidden" name="kind" value=(kind);
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button type="submit" class="danger" { (label) }
        }
    }
}

/// Words for those who do not see where a button stands.
pub(crate) fn hidden(text: &str) -> Markup {
    html! { span class="hidden" { " " (text) } }
}

/// A form's fields, with what was typed and what was wrong with it.
pub(crate) struct Fields<'a> {
    pub(crate) form: &'a Form,
    pub(crate) problem: Option<&'a Problem>,
    /// Goes before each id, where a page has several forms with fields of one name.
    pub(crate) prefix: &'a str,
}

/// One field of text.
#[derive(Default, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) name: &'a str,
    pub(crate) label: &'a str,
    pub(crate) hint: &'a str,
    /// What stands there at first.
    pub(crate) first: &'a str,
    /// `text` if empty.
    pub(crate) kind: &'a str,
    pub(crate) required: bool,
    pub(crate) autocomplete: &'a str,
    pub(crate) list: &'a str,
}

impl Fields<'_> {
    pub(crate) fn text(&self, field: Text<'_>) -> Markup {
        let id = format!("{}{}", self.prefix, field.name);
        let (hint, wrong) = (format!("{id}-hint"), format!("{id}-wrong"));
        let problem = self.problem.filter(|p| p.field_name() == Some(field.name));
        let described = match (field.hint.is_empty(), problem.is_some()) {
            (true, false) => None,
            (false, false) => Some(hint.clone()),
            (true, true) => Some(wrong.clone()),
            (false, true) => Some(format!("{wrong} {hint}")),
        };
        let kind = if field.kind.is_empty() { "text" } else { field.kind };
        // A secret never goes back to the browser.
        let value = if kind == "password" { "" } else { self.form.or(field.name, field.first) };
        let autocomplete = if field.autocomplete.is_empty() { "off" } else { field.autocomplete };
        html! {
            div class="field" {
                label for=(id) { (field.label) @if !field.required { span class="optional" { " (optional)" } } }
                @if let Some(problem) = problem { p class="wrong" id=(wrong) { (problem.message()) } }
                input id=(id) name=(field.name) type=(kind) value=(value) required[field.required]
                    autocomplete=(autocomplete) autocapitalize="none" spellcheck="false"
                    list=[(!field.list.is_empty()).then_some(field.list)]
                    aria-describedby=[described] aria-invalid=[problem.map(|_| "true")];
                @if !field.hint.is_empty() { p class="hint" id=(hint) { (field.hint) } }
            }
        }
    }

    pub(crate) fn tick(&self, name: &str, label: &str, first: bool) -> Markup {
        let id = format!("{}{}", self.prefix, name);
        let on = if self.form.is_empty() { first } else { self.form.ticked(name) };
        html! {
            div class="field tick" {
                input id=(id) name=(name) type="checkbox" value="yes" checked[on];
                label for=(id) { (label) }
            }
        }
    }

    /// One of several; `choices` are value and words.
    pub(crate) fn select(&self, name: &str, label: &str, first: &str, choices: &[(&str, &str)]) -> Markup {
        let id = format!("{}{}", self.prefix, name);
        let chosen = self.form.or(name, first);
        html! {
            div class="field" {
                label for=(id) { (label) }
                select id=(id) name=(name) {
                    @for (value, words) in choices { option value=(value) selected[*value == chosen] { (words) } }
                }
            }
        }
    }
}

/// What went wrong, at the top of a page whose form is shown again.
pub(crate) fn problem(problem: Option<&Problem>) -> Markup {
    html! {
        @if let Some(problem) = problem {
            div class="notice bad" role="alert" {
                p { strong { "This was not done." } " " (problem.message()) }
                @if !problem.what_to_do().is_empty() { p { (problem.what_to_do()) } }
            }
        }
    }
}

/// Alerts that hold, each with the button to acknowledge it.
pub(crate) fn alerts(signed: &Signed, alerts: &[&Alert], back: &str) -> Markup {
    html! {
        ul class="alerts" {
            @for alert in alerts {
                li {
                    p { (severity(alert.severity)) " " strong { (alert.subject) } " " (alert.text) }
                    @if !alert.what_to_do.is_empty() { p { "What to do: " (alert.what_to_do) } }
                    p class="quiet" {
                        "Since " (time(alert.first_seen_unix_ms)) ". "
                        @if let Some(at) = alert.cleared_unix_ms {
                            "Over since " (time(at)) "."
                        } @else if alert.acked {
                            "Acknowledged."
                        } @else {
                            (button(signed, "/alerts/ack", &[("id", &alert.id.to_string()), ("back", back)],
                                html! { "Acknowledge" (hidden(&format!("{}: {}", alert.subject, alert.text))) }))
                        }
                    }
                }
            }
        }
    }
}

/// A share of something, as a bar and in words.
pub(crate) fn meter(label: &str, percent: f64) -> Markup {
    let percent = if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 };
    html! {
        meter min="0" max="100" low="70" high="90" optimum="0" value=(format!("{percent:.1}")) aria-label=(label) {
            (units::percent(percent))
        }
    }
}

/// How far something has come, as a bar and in words.
pub(crate) fn progress(label: &str, percent: Option<f64>) -> Markup {
    let value = percent.map(|p| format!("{:.1}", p.clamp(0.0, 100.0)));
    html! { progress max="100" value=[value] aria-label=(label) { (units::or_unknown(percent, units::percent)) } }
}
