//! When a message is due: one for each change of an alert, and no more than one in five minutes for the same alert.

use std::collections::BTreeMap;

use reprise_api::Alert;

/// Shortest time between two messages about one alert. An alert that comes and goes more often is summed up.
pub(super) const QUIET_MS: u64 = 300_000;
/// Alerts that are remembered; more than the board keeps. At the limit the one that was quiet longest is forgotten, and
/// might be told once too early.
const KNOWN_MAX: usize = 1024;

/// What became of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It began.
    Begun,
    /// It grew worse.
    Worse,
    /// It is over.
    Ended,
}

impl Change {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Worse => "worse",
            Self::Ended => "ended",
        }
    }
}

/// What people are to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Notice {
    /// The alert, as it was when it changed last.
    pub(super) alert: Alert,
    /// What became of it last.
    pub(super) change: Change,
    /// Changes that this message stands for.
    pub(super) changes: u32,
}

#[derive(Debug)]
struct Known {
    told_ms: u64,
    waiting: Option<Notice>,
}

/// Remembers what was told when. Has no clock.
#[derive(Debug, Default)]
pub(super) struct Policy {
    known: BTreeMap<(String, String), Known>,
}

impl Policy {
    /// An alert changed: the message for it, or nothing where it has to wait.
    pub(super) fn changed(&mut self, now_ms: u64, alert: Alert, change: Change) -> Option<Notice> {
        self.known.retain(|_, k| k.waiting.is_some() || now_ms.saturating_sub(k.told_ms) < QUIET_MS);
        let key = (alert.code.clone(), alert.subject.clone());
        if let Some(known) = self.known.get_mut(&key) {
            let changes = known.waiting.as_ref().map_or(1, |w| w.changes.saturating_add(1));
            known.waiting = Some(Notice { alert, change, changes });
            return None;
        }
        if self.known.len() >= KNOWN_MAX {
            let quiet = self.known.iter().min_by_key(|(_, k)| k.told_ms).map(|(key, _)| key.clone());
            quiet.and_then(|key| self.known.remove(&key));
        }
        self.known.insert(key, Known { told_ms: now_ms, waiting: None });
        Some(Notice { alert, change, changes: 1 })
    }

    /// Messages whose time has come.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<Notice> {
        let due = |k: &&mut Known| now_ms.saturating_sub(k.told_ms) >= QUIET_MS;
        let take = |k: &mut Known| {
            let notice = k.waiting.take()?;
            k.told_ms = now_ms;
            Some(notice)
        };
        self.known.values_mut().filter(due).filter_map(take).collect()
    }

    /// When [`Self::due`] gives something next.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.known.values().filter(|k| k.waiting.is_some()).map(|k| k.told_ms.saturating_add(QUIET_MS)).min()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use reprise_api::Severity;

    use super::*;

    pub(in super::super) fn alert(code: &str) -> Alert {
        Alert {
            id: 7,
            code: code.into(),
            severity: Severity::Critical,
            subject: "group pg".into(),
            text: "The cache is full.".into(),
            what_to_do: "Look at the link.".into(),
            first_seen_unix_ms: 1_790_000_000_000,
            last_seen_unix_ms: 1_790_000_000_000,
            acked: false,
            cleared_unix_ms: None,
        }
    }

    #[test]
    fn one_message_for_each_change_and_one_for_many_that_come_fast() {
        let mut p = Policy::default();
        assert_eq!(p.changed(0, alert("a"), Change::Begun).unwrap().changes, 1);
        // Another alert does not wait for the first one.
        assert!(p.changed(1, alert("b"), Change::Begun).is_some());
        for n in 1..=9 {
            let change = if n % 2 == 1 { Change::Ended } else { Change::Begun };
            assert_eq!(p.changed(n * 1000, alert("a"), change), None);
        }
        assert_eq!(p.next_ms(), Some(QUIET_MS));
        assert_eq!(p.due(QUIET_MS - 1), []);
        let due = p.due(QUIET_MS);
        assert_eq!(due, [Notice { alert: alert("a"), change: Change::Ended, changes: 9 }]);
        // What was summed up counts as told: the next change waits again.
        assert_eq!(p.changed(QUIET_MS + 1, alert("a"), Change::Begun), None);
        assert_eq!(p.due(2 * QUIET_MS).len(), 1);
        assert_eq!(p.next_ms(), None);
        assert!(p.changed(3 * QUIET_MS, alert("a"), Change::Ended).is_some());
    }

    #[test]
    fn a_storm_of_different_alerts_takes_bounded_memory() {
        let mut p = Policy::default();
        for n in 0..3 * KNOWN_MAX {
            p.changed(n as u64, alert(&n.to_string()), Change::Begun);
        }
        assert_eq!(p.known.len(), KNOWN_MAX);
    }
}
