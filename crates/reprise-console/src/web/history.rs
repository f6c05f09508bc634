//! Figures of the last ten minutes and of the last day, in memory of a fixed size.

use std::collections::{BTreeMap, VecDeque};

use reprise_api::{GroupStatus, Name, Status};

/// Seconds between two samples of the last ten minutes; also between two looks at the box.
pub(crate) const FINE_SECS: u64 = 2;
/// Samples of the last ten minutes.
pub(crate) const FINE_MAX: usize = 300;
/// Fine samples in one coarse sample: two minutes.
const FINE_PER_COARSE: usize = 60;
/// Samples of the last day.
pub(crate) const COARSE_MAX: usize = 720;
/// Groups with a history. A pair has a few; further ones, by name, have figures and no charts. 20 KiB each.
const GROUPS_MAX: usize = 32;

/// Figures of a group at one time; none where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Seconds.
    pub(crate) lag: Option<f32>,
    /// Percent.
    pub(crate) fill: Option<f32>,
    /// Bytes per second that the feed writes.
    pub(crate) write: Option<f32>,
    /// Bytes per second that hosts read.
    pub(crate) read: Option<f32>,
    /// Bytes per second that become durable at the peer.
    pub(crate) drain: Option<f32>,
}

impl Sample {
    fn of(group: &GroupStatus) -> Self {
        let known = |value: f64| value.is_finite().then_some(value as f32);
        Self {
            lag: group.lag_secs.and_then(known),
            fill: known(group.cache.fill_percent),
            write: known(group.rates.write_bytes_per_sec),
            read: known(group.rates.read_bytes_per_sec),
            drain: known(group.rates.drain_bytes_per_sec),
        }
    }

    fn is_gap(&self) -> bool {
        *self == Self::default()
    }
}

/// How far back a chart goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// Ten minutes.
    Minutes,
    /// A day.
    Day,
}

#[derive(Debug, Default)]
struct Track {
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
    /// Fine samples that are not yet in a coarse one.
    open: usize,
}

/// The histories of the groups.
#[derive(Debug, Default)]
pub(crate) struct History {
    tracks: BTreeMap<Name, Track>,
    /// Number of the last look: seconds since the console began, by [`FINE_SECS`].
    last: u64,
}

impl History {
    /// Takes what the box said at `secs` after the console began; none where it did not answer. Looks that were left out
    /// are gaps.
    pub(crate) fn push(&mut self, secs: u64, status: Option<&Status>) {
        let slot = secs / FINE_SECS;
        let gaps = slot.saturating_sub(self.last + 1).min(FINE_MAX as u64);
        for _ in 0..gaps {
            self.tracks.values_mut().for_each(|t| t.push(Sample::default()));
        }
        self.last = slot;
        let groups = status.map_or(&[][..], |s| &s.groups);
        for group in groups {
            if self.tracks.len() < GROUPS_MAX {
                self.tracks.entry(group.name.clone()).or_default();
            }
        }
        for (name, track) in &mut self.tracks {
            track.push(groups.iter().find(|g| g.name == *name).map(Sample::of).unwrap_or_default());
        }
        // A group that has left the box leaves the charts when its last figure has.
        self.tracks.retain(|_, t| !(t.fine.iter().all(Sample::is_gap) && t.coarse.iter().all(Sample::is_gap)));
    }

    /// The samples of a group, the oldest first, and how many there may be; none without a history.
    pub(crate) fn samples(&self, group: &Name, range: Range) -> Option<(&VecDeque<Sample>, usize)> {
        let track = self.tracks.get(group)?;
        Some(match range {
            Range::Minutes => (&track.fine, FINE_MAX),
            Range::Day => (&track.coarse, COARSE_MAX),
        })
    }
}

impl Track {
    fn push(&mut self, sample: Sample) {
        push_bounded(&mut self.fine, sample, FINE_MAX);
        self.open += 1;
        if self.open >= FINE_PER_COARSE {
            self.open = 0;
            let from = self.fine.len().saturating_sub(FINE_PER_COARSE);
            let coarse = summary(self.fine.iter().skip(from));
            push_bounded(&mut self.coarse, coarse, COARSE_MAX);
        }
    }
}

fn push_bounded(samples: &mut VecDeque<Sample>, sample: Sample, max: usize) {
    if samples.len() >= max {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// Of what limits, the highest counts; of what flows, the mean.
fn summary<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Sample {
    let highest = |of: fn(&Sample) -> Option<f32>| samples.clone().filter_map(of).reduce(f32::max);
    let mean = |of: fn(&Sample) -> Option<f32>| {
        let (sum, count) = samples.clone().filter_map(of).fold((0.0, 0.0), |(s, c), v| (s + f64::from(v), c + 1.0));
        (count > 0.0).then_some((sum / count) as f32)
    };
    Sample {
        lag: highest(|s| s.lag),
        fill: highest(|s| s.fill),
        write: mean(|s| s.write),
        read: mean(|s| s.read),
        drain: mean(|s| s.drain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_str(include_str!("../../../reprise-api/tests/golden/status.json")).unwrap()
    }

    #[test]
    fn ten_minutes_and_a_day_are_kept_and_no_more() {
        let (mut history, mut status) = (History::default(), status());
        let pg: Name = "pg".parse().unwrap();
        for n in 0..(COARSE_MAX * FINE_PER_COARSE + 500) as u64 {
            status.groups[1].lag_secs = Some(if n % 60 == 7 { 9.0 } else { 1.0 });
            history.push(n * FINE_SECS, Some(&status));
        }
        let (fine, _) = history.samples(&pg, Range::Minutes).unwrap();
        assert_eq!(fine.len(), FINE_MAX);
        let (coarse, _) = history.samples(&pg, Range::Day).unwrap();
        assert_eq!(coarse.len(), COARSE_MAX);
        assert_eq!(coarse[3].lag, Some(9.0), "a peak is not averaged away");
        assert_eq!(coarse[3].write, Some(12_582_912.0));
        let mail = history.samples(&"mail".parse().unwrap(), Range::Minutes).unwrap().0;
        assert_eq!(mail[0].lag, None, "what is not known is no 0");
    }

    #[test]
    fn silence_is_a_gap_and_a_group_that_left_goes() {
        let (mut history, status) = (History::default(), status());
        let pg: Name = "pg".parse().unwrap();
        history.push(2, Some(&status));
        history.push(4, None);
        history.push(12, Some(&status));
        let lags: Vec<_> = history.samples(&pg, Range::Minutes).unwrap().0.iter().map(|s| s.lag.is_some()).collect();
        assert_eq!(lags, [true, false, false, false, false, true]);
        let empty = Status { groups: Vec::new(), ..status };
        for n in 7..7 + FINE_MAX as u64 {
            history.push(n * FINE_SECS, Some(&empty));
        }
        assert!(history.samples(&pg, Range::Minutes).is_some(), "still in the last day");
        for n in 400..(COARSE_MAX * FINE_PER_COARSE + 500) as u64 {
            history.push(n * FINE_SECS, Some(&empty));
        }
        assert!(history.tracks.is_empty());
    }

    #[test]
    fn many_groups_do_not_fill_the_memory() {
        let (mut history, mut status) = (History::default(), status());
        let group = status.groups.remove(1);
        status.groups =
            (0..100).map(|n| GroupStatus { name: format!("g{n}").parse().unwrap(), ..group.clone() }).collect();
        history.push(2, Some(&status));
        assert_eq!(history.tracks.len(), GROUPS_MAX);
    }
}
