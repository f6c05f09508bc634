//! Prometheus metrics: a rendering of [`Status`], so that a graph and `reprise status` never disagree.
//!
//! The text format is 0.0.4. Seconds and bytes are base units, as its conventions ask. A value that is not known is left
//! out rather than given as 0.

use std::fmt::{Display, Write};

use crate::event::Severity;
use crate::status::{GroupState, GroupStatus, LinkState, Rates, Status};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Page {
    text: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.text.push_str(name);
        for (at, (key, text)) in labels.iter().enumerate() {
            self.text.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{key}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.sample(name, &[], value);
    }

    fn per_group<V: Display>(
        &mut self,
        status: &Status,
        name: &str,
        kind: Kind,
        help: &str,
        value: impl Fn(&GroupStatus) -> Option<V>,
    ) {
        self.head(name, kind, help);
        for group in &status.groups {
            if let Some(value) = value(group) {
                self.sample(name, &[("group", group.name.as_str())], value);
            }
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The metrics of a box as Prometheus text.
pub fn render(status: &Status) -> String {
    let mut page = Page { text: String::with_capacity(8 << 10) };
    box_metrics(&mut page, status);
    group_metrics(&mut page, status);
    position_metrics(&mut page, status);
    link_metrics(&mut page, status);
    total_metrics(&mut page, status);
    page.text
}

fn box_metrics(page: &mut Page, status: &Status) {
    let this = &status.this_box;
    page.head("reprise_box_info", Kind::Gauge, "The box; always 1.");
    let id = this.id.to_string();
    page.sample("reprise_box_info", &[("id", &id), ("name", this.name.as_str()), ("version", &this.version)], 1);
    page.one("reprise_uptime_seconds", Kind::Gauge, "Seconds since the daemon started.", this.uptime_secs);
    let pool = &this.pool;
    page.one("reprise_pool_cache_bytes", Kind::Gauge, "Size of the cache.", pool.cache_bytes_total);
    page.one("reprise_pool_cache_used_bytes", Kind::Gauge, "Cache held by all journals.", pool.cache_bytes_used);
    page.one("reprise_pool_data_bytes", Kind::Gauge, "Size of the data half.", pool.data_bytes_total);
    page.one("reprise_pool_data_used_bytes", Kind::Gauge, "Data half taken by volumes.", pool.data_bytes_used);
    let memory = &this.memory;
    page.one("reprise_buffers_used_bytes", Kind::Gauge, "Payload buffers in use.", memory.buffers_bytes_used);
    page.one("reprise_index_used_bytes", Kind::Gauge, "Memory of the journal indexes.", memory.index_bytes_used);
    page.head("reprise_alerts", Kind::Gauge, "Alerts that hold, by severity.");
    let alerts = || status.alerts.iter().chain(status.groups.iter().flat_map(|g| &g.alerts));
    for (severity, label) in
        [(Severity::Info, "info"), (Severity::Warning, "warning"), (Severity::Critical, "critical")]
    {
        let count = alerts().filter(|a| a.severity == severity && a.cleared_unix_ms.is_none()).count();
        page.sample("reprise_alerts", &[("severity", label)], count);
    }
    page.head("reprise_peer_connected", Kind::Gauge, "1 while a connection to the peer stands.");
    for peer in &status.peers {
        page.sample("reprise_peer_connected", &[("peer", peer.name.as_str())], u8::from(peer.connected));
    }
}

type Percentiles = fn(&Rates) -> [Option<f64>; 2];

const LATENCIES: [(&str, &str, Percentiles); 2] = [
    ("reprise_write_latency_seconds", "From the last byte of a write to its answer.", |r| {
        [r.write_latency_p50_ms, r.write_latency_p99_ms]
    }),
    ("reprise_read_latency_seconds", "From the command of a read to its answer.", |r| {
        [r.read_latency_p50_ms, r.read_latency_p99_ms]
    }),
];

fn group_metrics(page: &mut Page, status: &Status) {
    page.head("reprise_group_state", Kind::Gauge, "1 for the state the group is in, 0 for the others.");
    for group in &status.groups {
        for kind in GroupState::KINDS {
            let labels = [("group", group.name.as_str()), ("state", kind)];
            page.sample("reprise_group_state", &labels, u8::from(group.state.kind() == kind));
        }
    }
    page.head("reprise_group_role", Kind::Gauge, "The group's role on this box; always 1.");
    for group in &status.groups {
        let role = group.role.to_string();
        page.sample("reprise_group_role", &[("group", group.name.as_str()), ("role", &role)], 1);
    }
    let help = "Age of the oldest acknowledged write that is not durable at the peer.";
    page.per_group(status, "reprise_lag_seconds", Kind::Gauge, help, |g| g.lag_secs);
    let help = "Payload that is durable here and not at the peer.";
    page.per_group(status, "reprise_lag_bytes", Kind::Gauge, help, |g| g.lag_bytes);
    let help = "The most of the cache that the group could hold.";
    page.per_group(status, "reprise_cache_bytes", Kind::Gauge, help, |g| Some(g.cache.bytes_total));
    let help = "Cache that the group holds.";
    page.per_group(status, "reprise_cache_used_bytes", Kind::Gauge, help, |g| Some(g.cache.bytes_used));
    let help = "Seconds until the cache is full at the present rates; absent while it is not filling.";
    page.per_group(status, "reprise_cache_full_in_seconds", Kind::Gauge, help, |g| g.cache.forecast_full_secs);
    let help = "Time by which each write of the host is held back.";
    page.per_group(status, "reprise_pacing_seconds", Kind::Gauge, help, |g| Some(g.cache.pacing_ms / 1000.0));
    let help = "Hosts logged in.";
    page.per_group(status, "reprise_iscsi_sessions", Kind::Gauge, help, |g| {
        Some(g.targets.iter().map(|t| t.sessions.len()).sum::<usize>())
    });
    let help = "Progress of the first copy, 0 to 1; absent when none is under way.";
    page.per_group(status, "reprise_copy_ratio", Kind::Gauge, help, |g| g.copy.as_ref().map(|c| c.percent / 100.0));
    for (name, help, of) in LATENCIES {
        page.head(name, Kind::Gauge, help);
        for group in &status.groups {
            for (quantile, ms) in ["0.5", "0.99"].into_iter().zip(of(&group.rates)) {
                if let Some(ms) = ms {
                    page.sample(name, &[("group", group.name.as_str()), ("quantile", quantile)], ms / 1000.0);
                }
            }
        }
    }
}

fn position_metrics(page: &mut Page, status: &Status) {
    page.head("reprise_position", Kind::Gauge, "Positions in the group's history, as Seq numbers.");
    for group in &status.groups {
        let p = &group.positions;
        for (name, seq) in [
            ("trimmed", Some(p.trimmed)),
            ("applied", Some(p.applied)),
            ("applying", Some(p.applying)),
            ("durable", Some(p.durable)),
            ("written", Some(p.written)),
            ("sent", p.sent),
            ("peer_durable", p.peer_durable),
        ] {
            if let Some(seq) = seq {
                let labels = [("group", group.name.as_str()), ("position", name)];
                page.sample("reprise_position", &labels, seq);
            }
        }
    }
}

fn link_metrics(page: &mut Page, status: &Status) {
    let help = "1 while records flow to or from the peer.";
    page.per_group(status, "reprise_link_up", Kind::Gauge, help, |g| {
        g.link.as_ref().map(|l| u8::from(l.state == LinkState::Up))
    });
    let help = "Round trip to the peer.";
    page.per_group(status, "reprise_link_rtt_seconds", Kind::Gauge, help, |g| {
        g.link.as_ref().and_then(|l| l.rtt_ms).map(|ms| ms / 1000.0)
    });
    let help = "Bytes the peer takes before it acknowledges more.";
    page.per_group(status, "reprise_link_credit_bytes", Kind::Gauge, help, |g| {
        g.link.as_ref().and_then(|l| l.credit_bytes)
    });
    let help = "Sent and not acknowledged as durable.";
    page.per_group(status, "reprise_link_in_flight_bytes", Kind::Gauge, help, |g| {
        g.link.as_ref().map(|l| l.in_flight_bytes)
    });
    let help = "Connections lost since the daemon started.";
    page.per_group(status, "reprise_link_reconnects_total", Kind::Counter, help, |g| {
        g.link.as_ref().map(|l| l.reconnects)
    });
}

fn total_metrics(page: &mut Page, status: &Status) {
    let mut total = |name: &str, help: &str, value: &dyn Fn(&GroupStatus) -> u64| {
        page.per_group(status, name, Kind::Counter, help, |g| Some(value(g)));
    };
    total("reprise_writes_total", "Writes of the feed.", &|g| g.totals.writes);
    total("reprise_write_bytes_total", "Payload of the feed's writes.", &|g| g.totals.write_bytes);
    total("reprise_reads_total", "Reads by hosts.", &|g| g.totals.reads);
    total("reprise_read_bytes_total", "Payload of the reads.", &|g| g.totals.read_bytes);
    total("reprise_applied_bytes_total", "Applied to the home.", &|g| g.totals.applied_bytes);
    total("reprise_sent_bytes_total", "Payload sent to the peer.", &|g| g.totals.sent_bytes);
    total("reprise_wire_bytes_total", "Sent on the wire.", &|g| g.totals.wire_bytes);
    total("reprise_batches_total", "Durable writes of the journal; each holds one batch or more.", &|g| {
        g.totals.batches
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_str(include_str!("../tests/golden/status.json")).unwrap()
    }

    /// To accept a wanted change of the page: run with REPRISE_BLESS=1 and read the difference.
    #[test]
    fn the_page_is_the_golden_one() {
        let page = render(&status());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
        if std::env::var_os("REPRISE_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        assert_eq!(page, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn every_sample_has_a_head_and_a_number() {
        let page = render(&status());
        let mut typed = std::collections::BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(typed.insert(rest.split(' ').next().unwrap().to_owned()), "{line} twice");
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(typed.contains(name.split('{').next().unwrap()), "{line}");
                value.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
