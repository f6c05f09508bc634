//! The status page: the box at a glance.

use reprise_api::{
    AdminCode, Alert, ClockState, ConfigState, ErrorCode, GroupState, GroupStatus, ImageSource, InterfaceStatus,
    LinkState, Nothing, PoolPlace, Severity, Slot, Status, SystemStatus,
};

use super::admin::password_state;
use super::{Refusal, Talk};
use crate::serial::call;
use crate::serial::menu::{HOME, Item};
use crate::serial::text::{COLUMNS, bytes, fingerprint, fit, labelled, secs, utc, wrap};
use crate::serial::ui::{Event, Form, Ui, Waiting};

/// Between two looks at the box. A cable that is plugged in shows something after this time at the latest.
const LOOK_MS: u64 = 4_000;
/// Groups on the status page; the menus below show all.
const GROUPS_MAX: usize = 3;
/// The prompt of the status page.
const PROMPT: &str = "Number, then Enter (? help): ";

/// What the box said last.
#[derive(Default)]
struct Seen {
    system: Option<Result<SystemStatus, Refusal>>,
    status: Option<Result<Status, Refusal>>,
    /// What sets the first password, while there is none.
    code: Option<String>,
}

/// Shows the status page until something is chosen.
pub(super) async fn home(ui: &Ui) -> &'static Item {
    let mut seen = Seen::default();
    let mut note = ui.take_note();
    let mut system: Option<Waiting<SystemStatus>> = None;
    let mut status: Option<Waiting<Status>> = None;
    let mut code: Option<Waiting<AdminCode>> = None;
    let mut next_look_ms = ui.now_ms();
    // A plain terminal is written to when somebody wants to see something, and not by itself.
    let mut wanted = true;
    let fixed = HOME.lines();
    ui.draw(HOME.title, &["Asking the box ...".to_owned()], &fixed, &note, PROMPT);
    loop {
        if ui.now_ms() >= next_look_ms && system.is_none() && status.is_none() && code.is_none() {
            next_look_ms = ui.now_ms() + LOOK_MS;
            system = Some(ui.start(call::system_show(Nothing {})));
            status = Some(ui.start(call::status(Nothing {})));
            code = Some(ui.start(call::admin_code(Nothing {})));
        }
        match ui.event().await {
            Event::Answer(id, result) => {
                if let Some(waiting) = system.take_if(|w| w.is(id)) {
                    seen.system = Some(waiting.answer(result));
                } else if let Some(waiting) = status.take_if(|w| w.is(id)) {
                    seen.status = Some(waiting.answer(result));
                } else if let Some(waiting) = code.take_if(|w| w.is(id)) {
                    seen.code = waiting.answer(result).ok().and_then(|c| c.code);
                }
                if system.is_none() && status.is_none() && code.is_none() {
                    if let Some(name) = seen.name() {
                        ui.set_box_name(&name);
                    }
                    let body = seen.glance();
                    if std::mem::take(&mut wanted) {
                        ui.draw(HOME.title, &body, &fixed, &note, PROMPT);
                    } else {
                        ui.redraw(HOME.title, &body, &fixed, &note, PROMPT);
                    }
                }
            }
            Event::Line(line) => {
                let line = line.trim();
                if let Some(item) = HOME.find(line) {
                    return item;
                }
                if ui.turn(line) {
                    continue;
                }
                note = Vec::new();
                if line.is_empty() || matches!(line, "0" | ".") {
                    ui.show_all_again();
                    wanted = true;
                    next_look_ms = ui.now_ms();
                } else {
                    note = wrap(&format!("{line:?} is none of the choices: type a number from 1 to 15."), 2);
                    ui.draw(HOME.title, &seen.glance(), &fixed, &note, PROMPT);
                }
            }
            Event::Back => {
                note = Vec::new();
                ui.show_all_again();
                wanted = true;
                next_look_ms = ui.now_ms();
            }
            Event::Tick | Event::Written => {}
        }
    }
}

impl Seen {
    fn name(&self) -> Option<String> {
        match (&self.system, &self.status) {
            (Some(Ok(system)), _) => Some(system.name.to_string()),
            (_, Some(Ok(status))) => Some(status.this_box.name.to_string()),
            _ => None,
        }
    }

    fn glance(&self) -> Vec<String> {
        let mut lines = Vec::new();
        match &self.system {
            Some(Ok(system)) => lines.extend(machine(system)),
            Some(Err(refusal)) if refusal.code == Some(ErrorCode::NotSupported) => {
                lines.extend(labelled("Machine", "not in our hands: the daemon runs on somebody's own system"));
            }
            Some(Err(refusal)) => lines.extend(labelled("Machine", &refusal.message)),
            None => {}
        }
        if let Some(code) = &self.code {
            lines.extend(labelled("Password", &password_state(Some(code))));
        }
        match &self.status {
            Some(Ok(status)) => lines.extend(storage(status)),
            // The line about the pool says why.
            Some(Err(refusal)) if refusal.code == Some(ErrorCode::NoPool) => {}
            Some(Err(refusal)) => {
                lines.extend(labelled("Daemon", &refusal.message));
                lines.extend(labelled("", &format!("what to do: {}", refusal.what_to_do)));
            }
            None => {}
        }
        lines
    }
}

fn machine(s: &SystemStatus) -> Vec<String> {
    let slot = match s.firmware.slot {
        Slot::A => "A",
        Slot::B => "B",
    };
    let state = match (s.firmware.fell_back, s.firmware.confirmed) {
        (true, _) => "FELL BACK: the other slot failed three times",
        (false, true) => "confirmed",
        (false, false) => "on trial",
    };
    let up = secs(s.uptime_secs as f64);
    let mut lines = labelled("Firmware", &format!("{}, slot {slot}, {state}; up {up}", s.firmware.version));
    lines.extend(labelled("Clock", &clock(s)));
    let interfaces: Vec<String> = s.network.interfaces.iter().map(interface).collect();
    let mut network = interfaces.join("; ");
    if let Some(left) = s.network.reverts_in_secs {
        network = format!("NOT KEPT YET, goes back in {left} s (choose 7, then 6); {network}");
    }
    lines.extend(labelled("Network", &network).into_iter().take(2));
    if let Some(address) = browser_address(s) {
        lines.extend(labelled("Browser", &format!("https://{address}/")));
    }
    if let Some(print) = &s.certificate_fingerprint {
        let [first, second] = fingerprint(print);
        lines.extend(labelled("SHA-256", &first));
        lines.extend(labelled("", &format!("{second} (certificate)")));
    }
    // Where it is there, the line about its room says so.
    if !matches!(s.pool, PoolPlace::On { .. }) {
        lines.extend(labelled("Pool", &pool(&s.pool)));
    }
    if let ConfigState::Damaged { reason } = &s.config {
        lines.extend(labelled("Settings", &format!("DAMAGED, defaults are used; data are safe ({reason})")));
    }
    let dead: Vec<String> = s.processes.iter().filter(|p| !p.running).map(|p| p.name.clone()).collect();
    if !dead.is_empty() {
        lines.extend(labelled("Processes", &format!("NOT RUNNING: {}", dead.join(", "))));
    }
    lines
}

fn clock(s: &SystemStatus) -> String {
    let now = utc(s.clock.unix_ms);
    match &s.clock.state {
        ClockState::Synchronized { server, offset_us } => {
            format!("{now} UTC, right by {server} ({:.1} ms off)", *offset_us as f64 / 1000.0)
        }
        ClockState::Unsynchronized { reason } => format!("{now} UTC, NOT SYNCHRONIZED: {reason}"),
        ClockState::Manual => format!("{now} UTC, set by hand"),
    }
}

pub(super) fn interface(i: &InterfaceStatus) -> String {
    match (i.carrier, i.addresses.is_empty()) {
        (false, _) => format!("{} no cable", i.name),
        (true, true) => format!("{} no address yet", i.name),
        (true, false) => format!("{} {}", i.name, i.addresses.join(" ")),
    }
}

/// The address to type into a browser: one that is not link-local where there is one.
pub(super) fn browser_address(s: &SystemStatus) -> Option<String> {
    let up = s.network.interfaces.iter().filter(|i| i.carrier);
    let addresses: Vec<std::net::IpAddr> = up
        .flat_map(|i| &i.addresses)
        .filter_map(|a| a.split('/').next()?.parse().ok())
        .filter(|a: &std::net::IpAddr| !a.is_loopback())
        .collect();
    let rank = |a: &std::net::IpAddr| match a {
        std::net::IpAddr::V4(v4) if !v4.is_link_local() => 0,
        std::net::IpAddr::V6(v6) if !v6.is_unicast_link_local() => 1,
        std::net::IpAddr::V4(_) => 2,
        std::net::IpAddr::V6(_) => 3,
    };
    addresses.into_iter().min_by_key(rank).map(|a| if a.is_ipv6() { format!("[{a}]") } else { a.to_string() })
}

pub(super) fn pool(place: &PoolPlace) -> String {
    match place {
        PoolPlace::None { reason } => format!("NONE: {reason}"),
        PoolPlace::Preparing { path } => format!("is being made on {path}"),
        PoolPlace::On { path, serial } => format!("on {path}, serial number {serial}"),
        PoolPlace::Missing { serial } => format!("MISSING: its disk {serial} is not there"),
    }
}

fn storage(s: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    let pool = &s.this_box.pool;
    let percent = |used: u64, total: u64| if total == 0 { 0 } else { u128::from(used) * 100 / u128::from(total) };
    let text = format!(
        "data {} % of {}, cache {} % of {}",
        percent(pool.data_bytes_used, pool.data_bytes_total),
        bytes(pool.data_bytes_total),
        percent(pool.cache_bytes_used, pool.cache_bytes_total),
        bytes(pool.cache_bytes_total)
    );
    lines.push(one_line("Pool", &text));
    let peers: Vec<String> = s
        .peers
        .iter()
        .map(|p| format!("{} {}", p.name, if p.connected { "connected" } else { "NOT CONNECTED" }))
        .collect();
    let peers = if peers.is_empty() { "none: choose 1 here and 2 there to pair".to_owned() } else { peers.join("; ") };
    lines.push(one_line("Peers", &peers));
    lines.push(one_line("Alerts", &alerts(s)));
    if s.groups.is_empty() {
        lines.extend(labelled("Groups", "none: choose 3 to make a volume"));
        return lines;
    }
    lines.push(group_head());
    let shown = if s.groups.len() <= GROUPS_MAX { GROUPS_MAX } else { GROUPS_MAX - 1 };
    lines.extend(s.groups.iter().take(shown).map(group_row));
    if s.groups.len() > shown {
        lines.push(format!("  and {} more: choose 4", s.groups.len() - shown));
    }
    lines
}

/// The alerts of a box and its groups, the worst and latest first.
pub(super) fn all_alerts(s: &Status) -> Vec<&Alert> {
    let mut alerts: Vec<&Alert> = s.alerts.iter().chain(s.groups.iter().flat_map(|g| &g.alerts)).collect();
    alerts.sort_by_key(|a| (a.acked, std::cmp::Reverse((a.severity, a.last_seen_unix_ms, a.id))));
    alerts
}

/// What has to fit into one line of the page.
fn one_line(label: &str, text: &str) -> String {
    fit(&format!("{label:<10} {text}"), COLUMNS)
}

fn alerts(s: &Status) -> String {
    let all = all_alerts(s);
    let Some(worst) = all.first() else { return "none".to_owned() };
    let count = |severity| all.iter().filter(|a| a.severity == severity).count();
    let counts: Vec<String> =
        [(Severity::Critical, "CRITICAL"), (Severity::Warning, "warning"), (Severity::Info, "note")]
            .into_iter()
            .filter_map(|(severity, text)| match count(severity) {
                0 => None,
                n => Some(format!("{n} {text}")),
            })
            .collect();
    format!("{}: {}", counts.join(", "), worst.text)
}

pub(super) fn group_head() -> String {
    Form::row(&[("Group", 18), ("Role", 6), ("State", 16), ("Link", 11), ("Lag", 10), ("Cache", 12)])
}

pub(super) fn group_row(g: &GroupStatus) -> String {
    let state = match (&g.state, &g.copy) {
        (GroupState::Copying, Some(copy)) => format!("copying {:.0} %", copy.percent),
        (GroupState::Fenced { .. } | GroupState::Diverged { .. } | GroupState::CacheFull, _) => {
            g.state.kind().replace('_', " ").to_uppercase()
        }
        (GroupState::Disconnected, _) if g.image.as_ref().is_some_and(|i| i.source == ImageSource::Silent) => {
            "SOURCE SILENT".to_owned()
        }
        _ => g.state.kind().replace('_', " "),
    };
    let link = match g.link.as_ref().map(|l| &l.state) {
        None => "-".to_owned(),
        Some(state @ (LinkState::Down { .. } | LinkState::Refused { .. })) => state.kind().to_uppercase(),
        Some(state) => state.kind().to_owned(),
    };
    let lag = g.lag_secs.map_or_else(|| "-".to_owned(), secs);
    let cache = format!("{:.0} %", g.cache.fill_percent);
    let role = g.role.to_string();
    Form::row(&[(g.name.as_str(), 18), (&role, 6), (&state, 16), (&link, 11), (&lag, 10), (&cache, 12)])
}

/// What the keys do.
pub(super) async fn help(ui: &Ui) -> Talk {
    let lines = [
        "Type the number of a choice, then Enter. Nothing happens before Enter.",
        "",
        "Enter alone     shows the page again, or takes the answer in [brackets]",
        "0 or q          back; in a question: . (a dot), or Esc",
        "n, p            next and previous part of a long page",
        "Ctrl-L          draws the screen again; so does the first key after a while",
        "Ctrl-U          takes back all that is typed",
        "t               on the status page: no escape codes, for simple terminals",
        "",
        "Whatever changes the box asks for a word first: yes, or a line that says",
        "what is about to be done. What is asked for is written with each question,",
        "and a wrong answer is told at once and changes nothing.",
        "Passwords and secrets are not shown while they are typed.",
        "",
        "After 10 minutes without a key the status page comes back.",
        "The serial line is 115200 baud, 8 data bits, no parity, 1 stop bit.",
        "",
        "There is no other shell and no login here: who reaches this console has",
        "the box. In a browser the box asks for the administrator's password.",
    ];
    ui.show("Help", &lines.map(str::to_owned), false).await?;
    Ok(())
}
