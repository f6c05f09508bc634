//! Charts as SVG, made on the server, with the same in words and in a table.

use maud::{Markup, html};
use reprise_api::Name;

use super::history::{FINE_SECS, History, Range, Sample};
use super::{ui, units};

const WIDTH: f32 = 600.0;
const HEIGHT: f32 = 120.0;
/// Points of a line, at most: finer than this no screen shows.
const POINTS_MAX: usize = 150;
/// Rows of the table that says the same as a chart.
const ROWS_MAX: usize = 10;

/// What a chart is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Lag,
    Fill,
    Throughput,
}

/// A line of a chart: its key, its words, its figures.
type Line = (&'static str, &'static str, fn(&Sample) -> Option<f32>);

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Lag, Self::Fill, Self::Throughput];

    const fn key(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Fill => "fill",
            Self::Throughput => "flow",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Lag => "Lag of the mirror",
            Self::Fill => "Cache fill",
            Self::Throughput => "Throughput",
        }
    }

    fn lines(self) -> &'static [Line] {
        match self {
            Self::Lag => &[("lag", "lag", |s| s.lag)],
            Self::Fill => &[("fill", "fill", |s| s.fill)],
            Self::Throughput => &[
                ("write", "written", |s| s.write),
                ("drain", "to the mirror", |s| s.drain),
                ("read", "read", |s| s.read),
            ],
        }
    }

    fn words(self, value: f32) -> String {
        match self {
            Self::Lag => units::secs(f64::from(value)),
            Self::Fill => units::percent(f64::from(value)),
            Self::Throughput => units::bytes_per_sec(f64::from(value)),
        }
    }

    /// The top of the scale for a highest value.
    fn top(self, highest: f32) -> f32 {
        match self {
            Self::Lag => nice(highest.max(1.0)),
            Self::Fill => 100.0,
            Self::Throughput => {
                let (mut top, highest) = (64.0 * 1024.0, highest.max(0.0));
                while top < highest && top < 1e15 {
                    top *= 2.0;
                }
                top
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, not below `value`.
fn nice(value: f32) -> f32 {
    let mut step = 1.0;
    while step < 1e9 {
        for factor in [1.0, 2.0, 5.0] {
            if step * factor >= value {
                return step * factor;
            }
        }
        step *= 10.0;
    }
    step
}

/// A chart, ready to be shown or sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    kind: Kind,
    /// Highest value of the scale, in words.
    top: String,
    /// For each line: key, words, path, value at present in words.
    lines: Vec<(&'static str, &'static str, String, String)>,
    /// All of it in one sentence.
    summary: String,
    /// Age in seconds, and a value in words for each line; the oldest first.
    rows: Vec<(u64, Vec<String>)>,
}

impl Chart {
    pub(crate) fn make(history: &History, group: &Name, kind: Kind, range: Range) -> Option<Self> {
        let (samples, capacity) = history.samples(group, range)?;
        let step = match range {
            Range::Minutes => FINE_SECS,
            Range::Day => FINE_SECS * 60,
        };
        let columns: Vec<Vec<Option<f32>>> =
            kind.lines().iter().map(|(_, _, of)| samples.iter().map(of).collect()).collect();
        let highest = columns.iter().flatten().flatten().copied().fold(0.0, f32::max);
        let top = kind.top(highest);
        let words = |value: Option<f32>| units::or_unknown(value, |v| kind.words(v));
        let lines: Vec<_> = kind
            .lines()
            .iter()
            .zip(&columns)
            .map(|((key, label, _), values)| {
                (*key, *label, path(values, capacity, top), words(values.last().copied().flatten()))
            })
            .collect();
        let span = match range {
            Range::Minutes => "the last 10 minutes",
            Range::Day => "the last 24 hours",
        };
        let at_present: Vec<_> = lines.iter().map(|(_, label, _, value)| format!("{label} {value}")).collect();
        let summary = format!("Last: {}. Highest in {span}: {}.", at_present.join(", "), kind.words(highest));
        let every = capacity.div_ceil(ROWS_MAX).max(1);
        let count = samples.len();
        let rows = (0..count)
            .filter(|n| (count - 1 - n) % every == 0)
            .map(|n| {
                let age = (count - 1 - n) as u64 * step;
                (age, columns.iter().map(|c| words(c.get(n).copied().flatten())).collect())
            })
            .collect();
        Some(Self { kind, top: kind.words(top), lines, summary, rows })
    }

    /// What the page's script sets: texts by key, and paths by key.
    pub(crate) fn live(&self, group: &Name, texts: &mut Vec<(String, String)>, paths: &mut Vec<(String, String)>) {
        let key = format!("c.{group}.{}", self.kind.key());
        texts.push((format!("{key}.top"), self.top.clone()));
        texts.push((format!("{key}.says"), self.summary.clone()));
        for (line, _, path, _) in &self.lines {
            paths.push((format!("{key}.{line}"), path.clone()));
        }
    }

    /// The chart. `live`: the script goes on drawing it.
    pub(crate) fn show(&self, group: &Name, range: Range) -> Markup {
        let live = range == Range::Minutes;
        let key = format!("c.{group}.{}", self.kind.key());
        let id = format!("chart-{group}-{}", self.kind.key());
        let says = format!("{id}-says");
        let span = match range {
            Range::Minutes => ("10 min ago", "now"),
            Range::Day => ("24 h ago", "now"),
        };
        html! {
            figure class="chart" {
                h4 id=(id) { (self.kind.title()) (ui::hidden(&format!("of group {group}"))) }
                @if self.lines.len() > 1 {
                    ul class="legend" aria-hidden="true" {
                        @for (line, label, ..) in &self.lines { li class=(line) { (label) } }
                    }
                }
                p class="axis" aria-hidden="true" { @if live { (ui::live(&format!("{key}.top"), &self.top)) } @else { (self.top) } }
                svg role="img" aria-labelledby=(id) aria-describedby=(says) viewBox="0 0 600 120" preserveAspectRatio="none" {
                    path class="grid" d="M0 30H600M0 60H600M0 90H600" {}
                    @for (line, _, path, _) in &self.lines {
                        path class=(format!("line {line}")) data-path=[live.then(|| format!("{key}.{line}"))] d=(path) {}
                    }
                }
                p class="axis ends" aria-hidden="true" { span { (span.0) } span { (span.1) } }
                figcaption id=(says) { @if live { (ui::live(&format!("{key}.says"), &self.summary)) } @else { (self.summary) } }
                details id=(format!("{id}-table")) {
                    summary { "As a table" (ui::hidden(&format!("{} of group {group}", self.kind.title()))) }
                    table {
                        caption { (self.kind.title()) ", as of this page's loading" }
                        thead {
                            tr { th scope="col" { "Before" } @for (_, label, ..) in &self.lines { th scope="col" { (label) } } }
                        }
                        tbody {
                            @for (age, values) in &self.rows {
                                tr {
                                    th scope="row" { @if *age == 0 { "now" } @else { (units::secs(*age as f64)) } }
                                    @for value in values { td { (value) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A line through the known values; nothing is drawn where none are. The newest value is at the right edge.
fn path(values: &[Option<f32>], capacity: usize, top: f32) -> String {
    let mut out = String::new();
    let every = capacity.div_ceil(POINTS_MAX).max(1);
    let width = WIDTH / capacity.saturating_sub(1).max(1) as f32;
    let missing = capacity.saturating_sub(values.len());
    let mut drawing = false;
    for (n, part) in values.chunks(every).enumerate() {
        // Of the values that share a point, the highest: a peak must be seen.
        let Some(value) = part.iter().flatten().copied().reduce(f32::max).filter(|v| v.is_finite()) else {
            drawing = false;
            continue;
        };
        let at = (missing + n * every + part.len() - 1) as f32 * width;
        let height = HEIGHT - (value / top).clamp(0.0, 1.0) * HEIGHT;
        let command = if drawing { 'L' } else { 'M' };
        out.push_str(&format!("{command}{at:.1} {height:.1}"));
        if !drawing {
            // A value with silence on both sides is a point, which a line of no length shows.
            out.push_str("h0");
        }
        drawing = true;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_gaps_where_nothing_is_known_and_stays_inside() {
        assert_eq!(path(&[], 4, 10.0), "");
        assert_eq!(path(&[Some(0.0), Some(10.0), None, Some(99.0)], 4, 10.0), "M0.0 120.0h0L200.0 0.0M600.0 0.0h0");
        assert_eq!(path(&[Some(5.0)], 4, 10.0), "M600.0 60.0h0", "the newest is at the right");
        assert_eq!(path(&[Some(f32::NAN)], 4, 10.0), "");
        let peak: Vec<_> = (0..720).map(|n| Some(if n == 100 { 10.0 } else { 0.0 })).collect();
        let drawn = path(&peak, 720, 10.0);
        assert!(drawn.contains(" 0.0"), "a peak is not lost between points");
        assert!(drawn.matches('L').count() < POINTS_MAX);
    }

    #[test]
    fn scales_are_round() {
        for (value, top) in [(0.1, 1.0), (1.5, 2.0), (3.0, 5.0), (7.0, 10.0), (101.0, 200.0)] {
            assert_eq!(Kind::Lag.top(value), top);
        }
        assert_eq!(Kind::Throughput.top(70_000.0), 131_072.0);
        assert!(Kind::Lag.top(f32::MAX).is_finite() && Kind::Throughput.top(f32::MAX).is_finite());
    }

    #[test]
    fn a_chart_says_in_words_what_it_draws() {
        let status: reprise_api::Status =
            serde_json::from_str(include_str!("../../../reprise-api/tests/golden/status.json")).unwrap();
        let mut history = History::default();
        let pg: Name = "pg".parse().unwrap();
        assert_eq!(Chart::make(&history, &pg, Kind::Lag, Range::Minutes), None);
        for n in 1..=100 {
            history.push(n * 2, Some(&status));
        }
        let chart = Chart::make(&history, &pg, Kind::Throughput, Range::Minutes).unwrap();
        assert!(chart.summary.contains("written 12 MiB/s"), "{}", chart.summary);
        assert_eq!(chart.rows.last().map(|r| r.0), Some(0));
        let page = chart.show(&pg, Range::Minutes).into_string();
        assert!(page.contains("role=\"img\"") && page.contains("<caption>") && page.contains("scope=\"col\""));
        let mail = Chart::make(&history, &"mail".parse().unwrap(), Kind::Lag, Range::Minutes).unwrap();
        assert!(mail.summary.contains("lag –"), "{}", mail.summary);
        assert_eq!(mail.lines[0].2, "");
    }
}
