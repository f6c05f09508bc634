//! What moves on open pages: texts and lines by key, as one message.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use reprise_api::{Alert, GroupStatus, Job, PairState, PairStatus, Status};
use serde::Serialize;

use super::chart::{Chart, Kind};
use super::history::{History, Range};
use super::live::Now;
use super::units;

/// What a page is sent.
#[derive(Serialize)]
struct Message<'a> {
    /// When, for people.
    at: String,
    /// Texts by key.
    texts: BTreeMap<String, String>,
    /// Lines of charts by key.
    paths: BTreeMap<String, String>,
    /// For those who listen instead of looking; changes only when something happened.
    says: String,
    /// A page that was made for another shape asks for its parts again.
    shape: &'a str,
}

/// All alerts that hold.
pub(crate) fn alerts(status: &Status) -> impl Iterator<Item = &Alert> {
    status.alerts.iter().chain(status.groups.iter().flat_map(|g| &g.alerts)).filter(|a| a.cleared_unix_ms.is_none())
}

/// The figures of a group: key, text. The same on the page when it is loaded and later.
pub(crate) fn group(group: &GroupStatus) -> Vec<(&'static str, String)> {
    let rates = &group.rates;
    let sessions: usize = group.targets.iter().map(|t| t.sessions.len()).sum();
    let mut all = vec![
        ("lag", units::or_unknown(group.lag_secs, units::secs)),
        ("lag-bytes", units::or_unknown(group.lag_bytes, units::bytes)),
        ("fill", units::percent(group.cache.fill_percent)),
        ("full-in", group.cache.forecast_full_secs.map_or_else(|| "not filling".to_owned(), units::secs)),
        ("write", units::bytes_per_sec(rates.write_bytes_per_sec)),
        ("write-iops", format!("{:.0}/s", rates.write_iops)),
        ("write-p99", units::or_unknown(rates.write_latency_p99_ms, |ms| format!("{ms:.1} ms"))),
        ("read", units::bytes_per_sec(rates.read_bytes_per_sec)),
        ("read-iops", format!("{:.0}/s", rates.read_iops)),
        ("drain", units::bytes_per_sec(rates.drain_bytes_per_sec)),
        ("sessions", sessions.to_string()),
    ];
    if let Some(link) = &group.link {
        all.push(("rtt", units::or_unknown(link.rtt_ms, |ms| format!("{ms:.1} ms"))));
        all.push(("tx", units::bytes_per_sec(link.tx_bytes_per_sec)));
        all.push(("ratio", units::or_unknown(link.wire_ratio, |r| format!("{:.0} %", r * 100.0))));
    }
    if let Some(copy) = &group.copy {
        all.push(("copy", units::percent(copy.percent)));
        all.push(("copy-left", units::or_unknown(copy.secs_left, units::secs)));
    }
    all
}

/// The figures of a job.
pub(crate) fn job(job: &Job) -> Vec<(&'static str, String)> {
    vec![
        ("percent", units::or_unknown(job.percent, units::percent)),
        ("left", units::or_unknown(job.secs_left, units::secs)),
        ("bytes", units::bytes(job.bytes_done)),
    ]
}

/// Seconds that a pairing code is still good for.
pub(crate) fn pair_left(pair: &PairStatus) -> String {
    match &pair.state {
        PairState::Listening { expires_in_secs } => units::secs(f64::from(*expires_in_secs)),
        _ => String::new(),
    }
}

/// Which elements there are and what kind they are of: everything but figures.
pub(crate) fn shape(now: &Now) -> String {
    let mut hasher = DefaultHasher::new();
    now.pair.as_ref().map(|p| std::mem::discriminant(&p.state)).hash(&mut hasher);
    now.system.as_ref().map(|(s, _)| s.network.reverts_in_secs.is_some()).hash(&mut hasher);
    let Some(status) = &now.status else { return format!("{:x}", hasher.finish()) };
    for g in &status.groups {
        (g.name.as_str(), g.state.kind(), g.state.reason(), g.copy.is_some()).hash(&mut hasher);
        g.link.as_ref().map(|l| (l.peer.as_str(), l.state.kind())).hash(&mut hasher);
        g.image.as_ref().map(|i| &i.text).hash(&mut hasher);
        for v in &g.volumes {
            (v.name.as_str(), std::mem::discriminant(&v.state), v.size_bytes, v.read_only).hash(&mut hasher);
        }
        for s in g.targets.iter().flat_map(|t| &t.sessions) {
            (&s.initiator, &s.address).hash(&mut hasher);
        }
    }
    for p in &status.peers {
        (p.name.as_str(), p.connected, &p.address).hash(&mut hasher);
    }
    for a in alerts(status) {
        (a.id, a.acked, a.severity).hash(&mut hasher);
    }
    for j in &status.jobs {
        (j.id, std::mem::discriminant(&j.state), j.can_cancel).hash(&mut hasher);
    }
    format!("{:x}", hasher.finish())
}

/// One sentence on how things are. It says no figure that moves all the time: it is read out whenever it changes.
pub(crate) fn says(now: &Now) -> String {
    let Some(status) = &now.status else { return "The box does not answer.".to_owned() };
    let mut out: Vec<String> =
        status.groups.iter().map(|g| format!("Group {}: {}.", g.name, g.state.kind().replace('_', " "))).collect();
    out.extend(
        status
            .peers
            .iter()
            .map(|p| format!("Box {}: {}.", p.name, if p.connected { "connected" } else { "not connected" })),
    );
    out.push(match alerts(status).count() {
        0 => "No alerts.".to_owned(),
        1 => "1 alert.".to_owned(),
        n => format!("{n} alerts."),
    });
    out.join(" ")
}

/// The message for open pages, as an event.
pub(crate) fn message(now: &Now, history: &History) -> Bytes {
    let mut texts = Vec::new();
    let mut paths = Vec::new();
    if let Some(status) = &now.status {
        for g in &status.groups {
            texts.extend(group(g).into_iter().map(|(key, text)| (format!("g.{}.{key}", g.name), text)));
            for kind in Kind::ALL {
                if let Some(chart) = Chart::make(history, &g.name, kind, Range::Minutes) {
                    chart.live(&g.name, &mut texts, &mut paths);
                }
            }
        }
        for j in &status.jobs {
            texts.extend(job(j).into_iter().map(|(key, text)| (format!("j.{}.{key}", j.id), text)));
        }
        for p in &status.peers {
            let seen = units::or_unknown(p.last_seen_unix_ms, |ms| format!("{} UTC", units::utc(ms)));
            texts.push((format!("p.{}.seen", p.name), seen));
        }
        texts.push(("box.uptime".to_owned(), units::secs(status.this_box.uptime_secs as f64)));
    }
    if let Some(pair) = &now.pair {
        texts.push(("pair.left".to_owned(), pair_left(pair)));
    }
    let open = now.alerts_open();
    texts.push(("alerts.badge".to_owned(), if open > 0 { format!(" ({open})") } else { String::new() }));
    let message = Message {
        at: if now.status.is_some() { format!("{} UTC", units::utc(units::now_unix_ms())) } else { String::new() },
        texts: texts.into_iter().collect(),
        paths: paths.into_iter().collect(),
        says: says(now),
        shape: now.shape(),
    };
    // Our types have string keys and no maps that fail; should one ever, pages see an empty message.
    let json = serde_json::to_string(&message).unwrap_or_default();
    // JSON text has no line ends, so that it is one `data` line.
    Bytes::from(format!("event: figures\ndata: {json}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn now() -> Now {
        let status: Status =
            serde_json::from_str(include_str!("../../../reprise-api/tests/golden/status.json")).unwrap();
        Now::of_status(Arc::new(status))
    }

    fn with(change: impl FnOnce(&mut Status)) -> Now {
        let mut status = Status::clone(now().status.as_deref().unwrap());
        change(&mut status);
        Now::of_status(Arc::new(status))
    }

    #[test]
    fn figures_do_not_change_the_shape_and_states_do() {
        let shape_of = |n: &Now| shape(n);
        let first = shape_of(&now());
        let figures = with(|s| {
            s.groups[1].lag_secs = Some(99.0);
            s.jobs[0].percent = Some(1.0);
        });
        assert_eq!(shape_of(&figures), first);
        assert_eq!(says(&figures), says(&now()));
        assert_ne!(shape_of(&with(|s| s.peers[0].connected = false)), first);
        assert_ne!(shape_of(&with(|s| s.groups[0].alerts[0].acked = true)), first);
        assert_ne!(shape_of(&with(|s| s.jobs[0].state = reprise_api::JobState::Done)), first);
        assert_ne!(shape_of(&Now::default()), first);
    }

    #[test]
    fn a_message_is_one_event_of_json() {
        let text = String::from_utf8(message(&now(), &History::default()).to_vec()).unwrap();
        let data = text.strip_prefix("event: figures\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!data.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(json["texts"]["g.pg.lag"], "2.4 s");
        assert_eq!(json["texts"]["g.mail.lag"], "–");
        assert_eq!(json["texts"]["alerts.badge"], " (1)");
        assert!(json["says"].as_str().unwrap().contains("Group mail: diverged."));
    }
}
