//! Messages on their way: in their order for each receiver, tried again for a day.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Messages that wait, for all receivers together. At the limit the oldest is given up: what is new matters more.
const WAITING_MAX: usize = 512;
/// A message that nobody took for so long is given up.
pub(super) const TRY_MS_MAX: u64 = 24 * 3_600_000;
/// Pause after the first failure; doubled by each further one.
const PAUSE_MS_MIN: u64 = 10_000;
/// Longest pause between two tries.
const PAUSE_MS_MAX: u64 = 3_600_000;

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Receiver {
    /// A webhook, by its address.
    Webhook(String),
    /// Whoever the mail settings name.
    Mail,
}

/// A message to one receiver.
#[derive(Debug)]
pub(super) struct Delivery<M> {
    pub(super) to: Receiver,
    pub(super) message: Arc<M>,
    since_ms: u64,
    failed: bool,
}

/// A message did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Where to: the address of the webhook, or `mail`.
    pub(crate) to: String,
    /// Why.
    pub(crate) error: String,
    /// True when it is not tried again.
    pub(crate) gave_up: bool,
}

#[derive(Debug, Default)]
struct Way {
    busy: bool,
    failures: u32,
    next_ms: u64,
}

/// Messages that wait. Has no clock and sends nothing.
#[derive(Debug)]
pub(super) struct Outbox<M> {
    waiting: VecDeque<Delivery<M>>,
    ways: BTreeMap<Receiver, Way>,
}

impl<M> Default for Outbox<M> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), ways: BTreeMap::new() }
    }
}

fn failure(to: &Receiver, error: &str, gave_up: bool) -> Failure {
    let to = match to {
        Receiver::Webhook(url) => url.clone(),
        Receiver::Mail => "mail".to_owned(),
    };
    Failure { to, error: error.to_owned(), gave_up }
}

impl<M> Outbox<M> {
    /// Takes a message; gives what had to go for it.
    pub(super) fn put(&mut self, now_ms: u64, to: Receiver, message: Arc<M>) -> Option<Failure> {
        let gone = if self.waiting.len() >= WAITING_MAX { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Delivery { to, message, since_ms: now_ms, failed: false });
        gone.map(|d| failure(&d.to, "too many messages wait", true))
    }

    /// The messages to be sent now: the oldest of each receiver that is not being tried, and whose pause is over.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<Delivery<M>> {
        let mut due = Vec::new();
        let mut seen: Vec<Receiver> = Vec::new();
        let mut at = 0;
        while let Some(delivery) = self.waiting.get(at) {
            let to = delivery.to.clone();
            let way = self.ways.entry(to.clone()).or_default();
            if seen.contains(&to) || way.busy || way.next_ms > now_ms {
                at += 1;
            } else if let Some(delivery) = self.waiting.remove(at) {
                way.busy = true;
                due.push(delivery);
            }
            seen.push(to);
        }
        due
    }

    /// What came of a message; gives what somebody should know.
    pub(super) fn done(
        &mut self,
        now_ms: u64,
        mut delivery: Delivery<M>,
        result: Result<(), String>,
    ) -> Option<Failure> {
        let way = self.ways.entry(delivery.to.clone()).or_default();
        way.busy = false;
        let Err(error) = result else {
            way.failures = 0;
            way.next_ms = now_ms;
            return None;
        };
        let pause = PAUSE_MS_MIN.checked_shl(way.failures.min(20)).unwrap_or(PAUSE_MS_MAX).min(PAUSE_MS_MAX);
        way.failures = way.failures.saturating_add(1);
        way.next_ms = now_ms.saturating_add(pause);
        if now_ms.saturating_sub(delivery.since_ms) >= TRY_MS_MAX {
            return Some(failure(&delivery.to, &error, true));
        }
        // Tries of the same message are no news.
        let told = std::mem::replace(&mut delivery.failed, true) || way.failures > 1;
        let told = (!told).then(|| failure(&delivery.to, &error, false));
        self.waiting.push_front(delivery);
        told
    }

    /// A receiver that is not told any more: its messages go.
    pub(super) fn forget(&mut self, is_known: impl Fn(&Receiver) -> bool) {
        self.waiting.retain(|d| is_known(&d.to));
        self.ways.retain(|to, way| way.busy || is_known(to));
    }

    /// When [`Self::take_due`] gives something next, as far as time decides it.
    pub(super) fn next_ms(&self) -> Option<u64> {
        let next = |d: &Delivery<M>| match self.ways.get(&d.to) {
            Some(way) if way.busy => None,
            Some(way) => Some(way.next_ms),
            None => Some(0),
        };
        self.waiting.iter().filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook() -> Receiver {
        Receiver::Webhook("https://h.example/".into())
    }

    fn fail(o: &mut Outbox<u32>, now_ms: u64) -> Option<Failure> {
        let mut due = o.take_due(now_ms);
        assert_eq!(due.len(), 1);
        o.done(now_ms, due.remove(0), Err("refused".into()))
    }

    #[test]
    fn messages_stay_in_their_order_and_one_receiver_does_not_hold_up_another() {
        let mut o = Outbox::default();
        for n in 1..=3u32 {
            assert_eq!(o.put(0, hook(), Arc::new(n)), None);
        }
        o.put(0, Receiver::Mail, Arc::new(9));
        let due = o.take_due(0);
        let what: Vec<(Receiver, u32)> = due.iter().map(|d| (d.to.clone(), *d.message)).collect();
        assert_eq!(what, [(hook(), 1), (Receiver::Mail, 9)]);
        assert!(o.take_due(0).is_empty(), "one at a time");
        assert_eq!(o.next_ms(), None);
        let mut due = due.into_iter();
        o.done(0, due.next().unwrap(), Err("refused".into()));
        o.done(0, due.next().unwrap(), Ok(()));
        assert_eq!(o.next_ms(), Some(PAUSE_MS_MIN));
        for n in 1..=3u32 {
            let mut due = o.take_due(PAUSE_MS_MIN);
            assert_eq!(*due[0].message, n);
            assert_eq!(o.done(PAUSE_MS_MIN, due.remove(0), Ok(())), None);
        }
        assert_eq!(o.next_ms(), None);
    }

    #[test]
    fn a_message_is_tried_for_a_day_with_growing_pauses_and_told_twice() {
        let mut o = Outbox::default();
        o.put(0, hook(), Arc::new(1));
        let mut now_ms = 0;
        let mut tries = 1;
        assert_eq!(fail(&mut o, now_ms), Some(failure(&hook(), "refused", false)));
        loop {
            let next = o.next_ms().unwrap();
            assert!(next - now_ms <= PAUSE_MS_MAX);
            assert!(o.take_due(next - 1).is_empty());
            now_ms = next;
            tries += 1;
            if let Some(last) = fail(&mut o, now_ms) {
                assert!(last.gave_up);
                break;
            }
        }
        assert!((TRY_MS_MAX..TRY_MS_MAX + PAUSE_MS_MAX).contains(&now_ms));
        assert!((25..40).contains(&tries), "{tries}");
    }

    #[test]
    fn the_oldest_goes_at_the_limit_and_a_receiver_that_is_gone_is_forgotten() {
        let mut o = Outbox::default();
        for n in 0..WAITING_MAX {
            assert_eq!(o.put(0, hook(), Arc::new(n)), None);
        }
        assert!(o.put(0, hook(), Arc::new(0)).unwrap().gave_up);
        assert_eq!(*o.take_due(0)[0].message, 1);
        o.forget(|_| false);
        assert!(o.waiting.is_empty());
    }
}
