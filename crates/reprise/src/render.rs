//! Status and lists for people, in 80 columns.

use std::fmt::Write;

use reprise_api::*;

use crate::units::{bytes, bytes_per_sec, per_sec, plain, secs, utc};

/// Columns of a line.
const WIDTH: usize = 80;
/// Columns of a label.
const LABEL: usize = 12;

/// A line of items behind a label, wrapped between items. A single item longer than the line is cut by nobody: a path or
/// an iSCSI name is worth more whole.
fn field(out: &mut String, label: &str, items: &[String]) {
    let mut line = format!("{label:<LABEL$}");
    let mut empty = true;
    for (at, item) in items.iter().enumerate() {
        let comma = if at + 1 < items.len() { "," } else { "" };
        let item = format!("{}{comma}", plain(item));
        let space = usize::from(!empty);
        if !empty && line.chars().count() + space + item.chars().count() > WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(LABEL);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(&item);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

/// Words behind a label, wrapped.
fn prose(out: &mut String, label: &str, text: &str) {
    let mut line = format!("{label:<LABEL$}");
    let mut empty = true;
    for word in plain(text).split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(LABEL);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

fn bar(percent: f64) -> String {
    const CELLS: usize = 20;
    let filled = ((percent / 100.0 * CELLS as f64).round().max(0.0) as usize).min(CELLS);
    format!("[{}{}]", "#".repeat(filled), ".".repeat(CELLS - filled))
}

fn percent(percent: f64) -> String {
    if percent > 0.0 && percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

/// The whole status.
pub(crate) fn status(status: &Status) -> String {
    let mut out = String::new();
    let this = &status.this_box;
    let up = format!("up {}", secs(this.uptime_secs as f64));
    field(&mut out, "box", &[format!("{} (reprise {})", this.name, this.version), up]);
    let pool = &this.pool;
    field(
        &mut out,
        "pool",
        &[
            format!("cache {} of {} used", bytes(pool.cache_bytes_used), bytes(pool.cache_bytes_total)),
            format!("data {} of {} used", bytes(pool.data_bytes_used), bytes(pool.data_bytes_total)),
        ],
    );
    for peer in &status.peers {
        field(&mut out, "peer", &peer_items(peer));
    }
    for a in &status.alerts {
        alert(&mut out, a);
    }
    for group in &status.groups {
        out.push('\n');
        group_block(&mut out, group);
    }
    if status.groups.is_empty() {
        out.push_str("\nNo groups yet. Make a volume: reprise volume create NAME --size 10G\n");
    }
    let running: Vec<&Job> = status.jobs.iter().filter(|j| !j.state.is_final()).collect();
    if !running.is_empty() {
        out.push('\n');
    }
    for j in running {
        field(&mut out, "job", &job_items(j));
    }
    out
}

/// Where a peer is reached, in a sentence.
pub(crate) fn peer_address(peer: &PeerStatus) -> String {
    let at = peer.address.as_deref().unwrap_or("an address that it has yet to tell");
    let says = peer.learned_address.as_ref().map(|a| format!("; it says that it is at {a}, which is tried too"));
    plain(&format!("{} is reached at {at}{}.", peer.name, says.unwrap_or_default()))
}

/// What a peer may have here, and has.
pub(crate) fn peer_share(peer: &PeerStatus) -> String {
    let has = format!("{} groups with {}", peer.mirrored_groups, bytes(peer.mirrored_bytes));
    format!("{} may have here: {}. It has {has}.\n", peer.name, peer.share)
}

fn peer_items(peer: &PeerStatus) -> Vec<String> {
    let mut items = vec![format!("{} {}", peer.name, if peer.connected { "connected" } else { "not connected" })];
    items.extend(peer.address.clone());
    items.extend(peer.learned_address.as_ref().map(|a| format!("says it is at {a}")));
    items.extend(peer.version.as_ref().map(|v| format!("reprise {v}")));
    if peer.share != PeerShare::default() {
        items.push(format!("may have {}", peer.share));
    }
    if let Some(offset) = peer.clock_offset_secs
        && offset.abs() >= 1.0
    {
        let way = if offset < 0.0 { "behind" } else { "ahead" };
        items.push(format!("clock {} {way}", secs(offset.abs())));
    }
    items
}

fn alert(out: &mut String, alert: &Alert) {
    let mark = match alert.severity {
        Severity::Critical => "  CRITICAL",
        Severity::Warning => "  WARNING",
        Severity::Info => "  NOTE",
    };
    let acked = if alert.acked { " (acknowledged)" } else { "" };
    prose(out, mark, &format!("{} {}{acked}", alert.text, alert.what_to_do));
}

fn group_block(out: &mut String, group: &GroupStatus) {
    let peer = group.link.as_ref().map(|l| match group.role.to_string().as_str() {
        "mirror" => format!(" of {}", l.peer),
        _ => format!(" to {}", l.peer),
    });
    let state = match &group.state {
        GroupState::Ended { at_unix_ms: Some(at) } => format!("ended at {} UTC", utc(*at)),
        state => state.kind().replace('_', " "),
    };
    field(out, "group", &[format!("{}, {}{}, {state}", group.name, group.role, peer.unwrap_or_default())]);
    if let Some(reason) = group.state.reason() {
        prose(out, "  why", reason);
    }
    // An alert that holds says the same.
    if let Some(image) = &group.image
        && group.alerts.iter().all(|a| a.text != image.text)
    {
        prose(out, "  image", &format!("{} {}", image.text, image.what_to_do));
    }
    let mut lag: Vec<String> = group.lag_secs.map(secs).into_iter().collect();
    lag.extend(group.lag_bytes.map(bytes));
    if !lag.is_empty() {
        field(out, "  lag", &lag);
    }
    cache(out, &group.cache);
    positions(out, &group.positions);
    if let Some(link) = &group.link {
        link_lines(out, link);
    }
    if let Some(copy) = &group.copy {
        let mut items = vec![
            format!("{} {:.1} %", bar(copy.percent), copy.percent),
            format!("{} of {}", bytes(copy.bytes_done), bytes(copy.bytes_total)),
            bytes_per_sec(copy.bytes_per_sec),
        ];
        items.extend(copy.secs_left.map(|s| format!("{} left", secs(s))));
        field(out, "  copy", &items);
    }
    rates(out, &group.rates);
    for volume in &group.volumes {
        volume_line(out, volume);
    }
    for target in &group.targets {
        let sessions = target.sessions.len();
        let sessions = format!("{sessions} session{}", if sessions == 1 { "" } else { "s" });
        field(out, "  target", &[target.iqn.clone(), target.portals.join(" "), sessions]);
    }
    for a in &group.alerts {
        alert(out, a);
    }
}

fn cache(out: &mut String, cache: &CacheStatus) {
    let mut items = vec![
        format!("{} {}", bar(cache.fill_percent), percent(cache.fill_percent)),
        format!("{} of {}", bytes(cache.bytes_used), bytes(cache.bytes_total)),
    ];
    items.extend(cache.forecast_full_secs.map(|s| format!("full in {}", secs(s))));
    if cache.pacing_ms > 0.0 {
        items.push(format!("host paced by {}", secs(cache.pacing_ms / 1000.0)));
    }
    field(out, "  cache", &items);
}

fn positions(out: &mut String, p: &GroupPositions) {
    let mut items = vec![
        format!("trimmed {}", p.trimmed),
        format!("applied {}", p.applied),
        format!("applying {}", p.applying),
        format!("durable {}", p.durable),
        format!("written {}", p.written),
    ];
    items.extend(p.sent.map(|s| format!("sent {s}")));
    items.extend(p.peer_durable.map(|s| format!("peer durable {s}")));
    items.extend(p.home_held_by.map(|why| format!("home held by {}", why.as_str())));
    items.extend(p.peer_held_by.map(|why| format!("peer held by {}", why.as_str())));
    field(out, "  positions", &items);
}

fn link_lines(out: &mut String, link: &LinkStatus) {
    let mut items = vec![format!("{} for {}", link.state.kind(), secs(link.state_secs))];
    match &link.state {
        LinkState::Down { reason } | LinkState::Refused { reason } => items.push(reason.clone()),
        _ => {}
    }
    items.extend(link.address.clone());
    items.extend(link.rtt_ms.map(|ms| format!("rtt {ms:.1} ms")));
    if link.state == LinkState::Up {
        items.push(format!("out {}", bytes_per_sec(link.tx_bytes_per_sec)));
        items.push(format!("in {}", bytes_per_sec(link.rx_bytes_per_sec)));
    }
    items.extend(link.wire_ratio.map(|r| format!("wire {r:.2} of payload")));
    items.extend(link.credit_bytes.map(|c| format!("credit {}", bytes(c))));
    if link.in_flight_bytes > 0 {
        items.push(format!("in flight {}", bytes(link.in_flight_bytes)));
    }
    if link.reconnects > 0 {
        items.push(format!("connections lost {}", link.reconnects));
    }
    field(out, "  link", &items);
    if !link.mirror_troubles.is_empty() {
        let troubles: Vec<String> = link.mirror_troubles.iter().map(|t| t.text.clone()).collect();
        field(out, "  MIRROR", &troubles);
    }
}

fn rates(out: &mut String, rates: &Rates) {
    let mut items = vec![
        format!("write {} ({})", bytes_per_sec(rates.write_bytes_per_sec), per_sec(rates.write_iops)),
        format!("read {} ({})", bytes_per_sec(rates.read_bytes_per_sec), per_sec(rates.read_iops)),
        format!("apply {}", bytes_per_sec(rates.apply_bytes_per_sec)),
        format!("drain {}", bytes_per_sec(rates.drain_bytes_per_sec)),
    ];
    if let (Some(p50), Some(p99)) = (rates.write_latency_p50_ms, rates.write_latency_p99_ms) {
        items.push(format!("write latency {p50:.2} ms p50 {p99:.2} ms p99"));
    }
    if let (Some(p50), Some(p99)) = (rates.read_latency_p50_ms, rates.read_latency_p99_ms) {
        items.push(format!("read latency {p50:.2} ms p50 {p99:.2} ms p99"));
    }
    field(out, "  rates", &items);
}

fn volume_state(state: &VolumeState) -> String {
    match state {
        VolumeState::Ready => "ready".to_owned(),
        VolumeState::Image => "image".to_owned(),
        VolumeState::Preparing => "preparing".to_owned(),
        VolumeState::Missing { reason } => format!("MISSING: {reason}"),
        VolumeState::Leaving => "leaving".to_owned(),
    }
}

fn volume_kind(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Thick => "thick",
        VolumeKind::Thin => "thin",
        VolumeKind::Adopted => "adopted",
    }
}

fn volume_line(out: &mut String, volume: &VolumeStatus) {
    let mut items = vec![
        format!("{} {} ({})", volume.lun, volume.name, volume_state(&volume.state)),
        bytes(volume.size_bytes),
        volume_kind(volume.kind).to_owned(),
    ];
    if !volume.replicated {
        items.push("this box only".to_owned());
    }
    field(out, "  volume", &items);
}

fn job_items(job: &Job) -> Vec<String> {
    let what = serde_json::to_value(job.kind).ok().and_then(|k| k.as_str().map(|k| k.replace('_', " ")));
    let mut items = vec![format!("{} {} {}", job.id, what.unwrap_or_default(), job.subject)];
    items.push(match &job.state {
        JobState::Queued => "queued".to_owned(),
        JobState::Running => "running".to_owned(),
        JobState::Waiting { reason } => format!("waiting: {reason}"),
        JobState::Done => "done".to_owned(),
        JobState::Failed { error } => format!("FAILED: {error}"),
        JobState::Cancelled => "cancelled".to_owned(),
    });
    if !job.state.is_final() {
        items.extend(job.percent.map(|p| format!("{p:.1} %")));
        items.extend(job.secs_left.map(|s| format!("{} left", secs(s))));
    }
    items
}

/// One job in a line.
pub(crate) fn job(job: &Job) -> String {
    plain(&format!("job {}", job_items(job).join(", ")))
}

/// Columns under headings, two spaces apart, the last one ragged.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{:<w$}", plain(c))).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    };
    line(&headings.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        line(row);
    }
    out
}

fn dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

pub(crate) fn groups(list: &GroupList) -> String {
    let rows: Vec<Vec<String>> = (list.groups.iter())
        .map(|g| {
            vec![
                g.name.to_string(),
                g.role.to_string(),
                g.state.kind().replace('_', " "),
                dash(g.link.as_ref().map(|l| l.peer.to_string())),
                dash(g.lag_secs.map(secs)),
                percent(g.cache.fill_percent),
                g.volumes.len().to_string(),
            ]
        })
        .collect();
    table(&["GROUP", "ROLE", "STATE", "PEER", "LAG", "CACHE", "VOLUMES"], &rows)
}

pub(crate) fn initiators(list: &InitiatorList) -> String {
    let some = |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(",") };
    let rows: Vec<Vec<String>> = (list.initiators.iter())
        .map(|i| {
            vec![
                i.name.to_string(),
                some(i.groups.iter().map(ToString::to_string).collect(), "all"),
                some(i.addresses.iter().map(ToString::to_string).collect(), "any"),
                match (&i.chap_user, &i.mutual_user) {
                    (None, _) => "-".to_owned(),
                    (Some(user), None) => plain(user),
                    (Some(user), Some(own)) => format!("{} and {}", plain(user), plain(own)),
                },
                dash(i.iops.map(|n| n.to_string())),
                dash(i.bytes_per_sec.map(|n| format!("{}/s", bytes(n)))),
                i.sessions.to_string(),
            ]
        })
        .collect();
    let mut out = table(&["INITIATOR", "GROUPS", "FROM", "CHAP", "IOPS", "RATE", "SESSIONS"], &rows);
    if list.others {
        out.push_str("Others may use every group, from anywhere and without a proof.\n");
    }
    out
}

pub(crate) fn sessions(sessions: &[(&Name, &SessionStatus)]) -> String {
    let digests = |s: &SessionStatus| match (s.header_digest, s.data_digest) {
        (true, true) => "header,data",
        (true, false) => "header",
        (false, true) => "data",
        (false, false) => "-",
    };
    let rows: Vec<Vec<String>> = (sessions.iter())
        .map(|(group, s)| {
            vec![
                plain(&s.initiator),
                group.to_string(),
                plain(&s.address),
                utc(s.since_unix_ms),
                dash(s.chap_user.as_deref().map(plain)),
                digests(s).to_owned(),
                s.commands_in_flight.to_string(),
            ]
        })
        .collect();
    table(&["INITIATOR", "GROUP", "ADDRESS", "SINCE (UTC)", "CHAP", "DIGESTS", "COMMANDS"], &rows)
}

pub(crate) fn volumes(list: &VolumeList) -> String {
    let rows: Vec<Vec<String>> = (list.volumes.iter())
        .map(|v| {
            vec![
                v.name.to_string(),
                v.group.to_string(),
                v.lun.to_string(),
                bytes(v.size_bytes),
                volume_kind(v.kind).to_owned(),
                volume_state(&v.state),
            ]
        })
        .collect();
    table(&["VOLUME", "GROUP", "LUN", "SIZE", "KIND", "STATE"], &rows)
}

pub(crate) fn volume(v: &VolumeStatus) -> String {
    let mut out = String::new();
    for (label, value) in [
        ("volume", v.name.to_string()),
        ("group", v.group.to_string()),
        ("lun", v.lun.to_string()),
        ("size", format!("{} ({} bytes)", bytes(v.size_bytes), v.size_bytes)),
        ("kind", volume_kind(v.kind).to_owned()),
        ("blocks", format!("{}{}", v.block_size, if v.read_only { ", hosts may only read" } else { "" })),
        ("replicated", if v.replicated { "yes" } else { "no" }.to_owned()),
        ("state", volume_state(&v.state)),
        ("home", v.home.clone()),
        ("id", v.id.to_string()),
        ("serial", v.serial.clone()),
        ("naa", v.naa.clone()),
    ] {
        field(&mut out, label, &[value]);
    }
    out
}

pub(crate) fn peers(list: &PeerList) -> String {
    let rows: Vec<Vec<String>> = (list.peers.iter())
        .map(|p| {
            vec![
                p.name.to_string(),
                if p.connected { "connected" } else { "not connected" }.to_owned(),
                dash(p.address.clone()),
                dash(p.version.clone()),
                dash(p.last_seen_unix_ms.map(utc)),
                p.id.short(),
            ]
        })
        .collect();
    table(&["PEER", "STATE", "ADDRESS", "VERSION", "LAST SEEN (UTC)", "ID"], &rows)
}

pub(crate) fn event(event: &Event) -> String {
    let severity = match event.severity {
        Severity::Info => "info",
        Severity::Warning => "WARNING",
        Severity::Critical => "CRITICAL",
    };
    let text = format!("{} {severity} {}: {} {}", utc(event.at_unix_ms), event.subject, event.text, event.what_to_do);
    plain(text.trim_end())
}

pub(crate) fn alerts(list: &AlertList) -> String {
    if list.alerts.is_empty() {
        return "No alerts.\n".to_owned();
    }
    let mut out = String::new();
    for a in &list.alerts {
        let since = format!("since {}", utc(a.first_seen_unix_ms));
        let over = a.cleared_unix_ms.map(|at| format!("over since {}", utc(at)));
        let mut items = vec![format!("{} {}", a.id, a.code), a.subject.clone(), since];
        items.extend(over);
        field(&mut out, "alert", &items);
        alert(&mut out, a);
    }
    out
}

pub(crate) fn jobs(list: &JobList) -> String {
    if list.jobs.is_empty() {
        return "No jobs.\n".to_owned();
    }
    let mut out = String::new();
    for j in &list.jobs {
        field(&mut out, "job", &job_items(j));
    }
    out
}

pub(crate) fn tokens(list: &TokenList) -> String {
    let rows: Vec<Vec<String>> = (list.tokens.iter())
        .map(|t| vec![t.id.clone(), t.rights.to_string(), utc(t.created_unix_ms), t.label.clone()])
        .collect();
    table(&["TOKEN", "RIGHTS", "MADE (UTC)", "LABEL"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Status {
        serde_json::from_str(include_str!("../../reprise-api/tests/golden/status.json")).expect("sample")
    }

    /// To accept a wanted change: run with REPRISE_BLESS=1 and read the difference.
    #[track_caller]
    fn golden(name: &str, text: &str) {
        let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("REPRISE_BLESS").is_some() {
            std::fs::write(&path, text).expect("write golden");
        }
        assert_eq!(text, std::fs::read_to_string(&path).expect("golden"));
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{name}: {line:?} is longer than {WIDTH}");
            assert_eq!(line, line.trim_end(), "{name}");
        }
    }

    #[test]
    fn status_and_lists_are_the_golden_ones() {
        let s = sample();
        golden("status.txt", &status(&s));
        golden("groups.txt", &groups(&GroupList { groups: s.groups.clone() }));
        let volumes: Vec<VolumeStatus> = s.groups.iter().flat_map(|g| g.volumes.clone()).collect();
        golden("volume.txt", &volume(&volumes[0]));
        golden("volumes.txt", &super::volumes(&VolumeList { volumes }));
        golden("peers.txt", &peers(&PeerList { peers: s.peers.clone() }));
        let all = s.alerts.iter().chain(s.groups.iter().flat_map(|g| &g.alerts)).cloned().collect();
        golden("alerts.txt", &alerts(&AlertList { alerts: all }));
        golden("jobs.txt", &jobs(&JobList { jobs: s.jobs.clone() }));
    }

    #[test]
    fn an_empty_box_says_what_to_do_first() {
        let mut s = sample();
        s.groups.clear();
        s.peers.clear();
        s.alerts.clear();
        s.jobs.clear();
        golden("status-empty.txt", &status(&s));
    }
}
