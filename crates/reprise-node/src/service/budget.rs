//! What one source of events may make of the list of them: a peer that says the same over and over pushes nothing out.

use std::collections::BTreeMap;

use reprise_link::throttle::TokenBucket;
use reprise_types::Mono;

/// Events of one kind that a source makes one after the other, at most: a peer with all its groups paused and resumed.
const BURST: u64 = 2 * reprise_format::superblock::GROUPS_MAX as u64;
/// After those, one in so many seconds.
const SECS_PER_EVENT: u64 = 60;
/// Between two words about a source that says too much.
const TOLD_AGAIN_MILLIS: u64 = 3_600_000;
/// Sources and kinds that are counted. Past it those go that owe nothing; where all owe, what is not known is refused.
const COUNTED_MAX: usize = 1024;

/// Whether one more may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may.
    Told,
    /// It may not; the first of those within an hour, so that somebody is told that much.
    FirstRefused,
    /// It may not.
    Refused,
}

struct Count {
    // In seconds: an event takes what a minute gives.
    bucket: TokenBucket,
    /// When somebody was told that there are too many.
    refused_at: Option<Mono>,
}

/// Counts events by who makes them and what they are.
#[derive(Default)]
pub(super) struct Budgets {
    counts: BTreeMap<(String, &'static str), Count>,
}

impl Budgets {
    /// Takes one event from what `source` has left of this kind.
    pub(super) fn take(&mut self, now: Mono, source: &str, code: &'static str) -> Verdict {
        let full = BURST * SECS_PER_EVENT;
        let key = (source.to_owned(), code);
        if self.counts.len() >= COUNTED_MAX && !self.counts.contains_key(&key) {
            self.counts.retain(|_, count| count.bucket.take(now, full).is_err());
            if self.counts.len() >= COUNTED_MAX {
                return Verdict::Refused;
            }
        }
        let fresh = || Count { bucket: TokenBucket::new(now, 1, full), refused_at: None };
        let count = self.counts.entry(key).or_insert_with(fresh);
        match count.bucket.take(now, SECS_PER_EVENT) {
            Ok(()) => Verdict::Told,
            Err(_) if count.refused_at.is_some_and(|at| now.millis_since(at) < TOLD_AGAIN_MILLIS) => Verdict::Refused,
            Err(_) => {
                count.refused_at = Some(now);
                Verdict::FirstRefused
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_a_trickle_and_is_told_once() {
        let mut budgets = Budgets::default();
        let start = Mono::from_millis(1_000_000);
        let mut take = |now: Mono, source: &str| budgets.take(now, source, "mirror-paused");
        let flood: Vec<Verdict> = (0..2400).map(|n| take(start.plus_millis(n / 30), "b")).collect();
        assert!(flood[..64].iter().all(|v| *v == Verdict::Told), "a person's commands all count");
        assert_eq!(flood[64], Verdict::FirstRefused);
        assert!(flood[65..].iter().all(|v| *v == Verdict::Refused));
        assert_eq!(take(start, "c"), Verdict::Told, "another peer's count");
        let later = start.plus_millis(61_000);
        assert_eq!([take(later, "b"), take(later, "b")], [Verdict::Told, Verdict::Refused], "one a minute");
        let again = start.plus_millis(3_700_000);
        assert_eq!((0..64).filter(|_| take(again, "b") == Verdict::Told).count(), 60, "an hour gives as many back");
        assert_eq!(take(again, "b"), Verdict::Refused, "the word of it was the last of those");
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let mut budgets = Budgets::default();
        let start = Mono::from_millis(1_000_000);
        for n in 0..COUNTED_MAX + 10 {
            budgets.take(start, &n.to_string(), "x");
        }
        assert!(budgets.counts.len() <= COUNTED_MAX);
        assert_eq!(budgets.take(start, "one more", "x"), Verdict::Refused);
        assert_eq!(budgets.take(start.plus_millis(120_000), "one more", "x"), Verdict::Told);
        assert_eq!(budgets.counts.len(), 1, "those that owed nothing are gone");
    }
}
