//! Heartbeats: is the other end there, does it hear us, how far away is it.

use std::collections::VecDeque;

use reprise_format::link::Heartbeat;
use reprise_types::{Mono, honest};

use crate::LinkError;

/// Time between heartbeats.
pub const HEARTBEAT_EVERY_MS: u64 = 1_000;

/// Without a sign of life for this long the connection is given up. A glitch shorter than this changes nothing.
pub const DEAD_AFTER_MS: u64 = 10_000;

/// Heartbeats remembered until their echo comes: more than are sent before the connection counts as dead.
const UNECHOED_MAX: usize = 16;

/// The heartbeat state of one connection. Both ends run one.
///
/// A heartbeat with an id asks; the answer has id 0 and echoes it at once. So the round trip is measured without the
/// time until the next heartbeat, and a connection on which only one direction works is found by its missing echoes.
#[derive(Debug, Clone)]
pub struct Pulse {
    next_id: u64,
    next_due: Mono,
    unechoed: VecDeque<(u64, Mono)>,
    heard_at: Mono,
    echoed_at: Mono,
    rtt_micros: Option<u64>,
}

impl Pulse {
    /// Starts now.
    pub fn new(now: Mono) -> Self {
        Self { next_id: 1, next_due: now, unechoed: VecDeque::new(), heard_at: now, echoed_at: now, rtt_micros: None }
    }

    /// Bytes of any kind came.
    pub fn heard(&mut self, now: Mono) {
        self.heard_at = self.heard_at.max(now);
    }

    /// A heartbeat came; returns the answer to send.
    pub fn on_heartbeat(&mut self, now: Mono, heartbeat: &Heartbeat) -> Option<Heartbeat> {
        self.heard(now);
        if let Some(at) = self.unechoed.iter().position(|(id, _)| *id == heartbeat.echo) {
            let (_, sent_at) = self.unechoed[at];
            self.unechoed.drain(..=at);
            self.echoed_at = self.echoed_at.max(now);
            let sample = now.since(sent_at) / 1_000;
            self.rtt_micros = Some(self.rtt_micros.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
        (heartbeat.id != 0).then_some(Heartbeat { id: 0, echo: heartbeat.id })
    }

    /// To be called at [`Pulse::deadline`]: returns the heartbeat that is due, or that the connection is dead.
    pub fn tick(&mut self, now: Mono) -> Result<Option<Heartbeat>, LinkError> {
        let silent_ms = honest!(now.millis_since(self.heard_at), SilenceIgnored => 0);
        if silent_ms >= DEAD_AFTER_MS {
            return Err(LinkError::Silent { silent_ms });
        }
        let unheard_ms = honest!(now.millis_since(self.echoed_at), SilenceIgnored => 0);
        if unheard_ms >= DEAD_AFTER_MS
            && self.unechoed.front().is_some_and(|(_, at)| now.millis_since(*at) >= DEAD_AFTER_MS)
        {
            return Err(LinkError::Unheard { unheard_ms });
        }
        if now < self.next_due {
            return Ok(None);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.next_due = now.plus_millis(HEARTBEAT_EVERY_MS);
        if self.unechoed.len() < UNECHOED_MAX {
            self.unechoed.push_back((id, now));
        }
        Ok(Some(Heartbeat { id, echo: 0 }))
    }

    /// When [`Pulse::tick`] is to be called next.
    pub fn deadline(&self) -> Mono {
        self.next_due.min(self.heard_at.plus_millis(DEAD_AFTER_MS))
    }

    /// Smoothed round trip; none before the first echo.
    pub fn rtt_micros(&self) -> Option<u64> {
        self.rtt_micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_the_round_trip_and_stays_alive() {
        let (mut a, mut b) = (Pulse::new(Mono::from_millis(0)), Pulse::new(Mono::from_millis(0)));
        for second in 0..60u64 {
            let now = Mono::from_millis(second * 1_000);
            let arrives = now.plus_millis(100);
            let ask = a.tick(now).unwrap().expect("due");
            let answer = b.on_heartbeat(arrives, &ask).expect("echo");
            assert_eq!(a.on_heartbeat(arrives.plus_millis(100), &answer), None, "an echo is not echoed");
            let ask = b.tick(now).unwrap().expect("due");
            a.on_heartbeat(arrives, &ask);
            b.on_heartbeat(arrives.plus_millis(100), &Heartbeat { id: 0, echo: ask.id });
        }
        assert_eq!(a.rtt_micros(), Some(200_000));
    }

    #[test]
    fn silence_is_dead_after_ten_seconds_and_not_before() {
        let mut pulse = Pulse::new(Mono::from_millis(0));
        for second in 0..10 {
            assert!(pulse.tick(Mono::from_millis(second * 1_000)).is_ok());
        }
        assert_eq!(pulse.tick(Mono::from_millis(10_000)), Err(LinkError::Silent { silent_ms: 10_000 }));
    }

    #[test]
    fn a_peer_that_speaks_but_does_not_hear_is_half_open() {
        let mut pulse = Pulse::new(Mono::from_millis(0));
        let mut end = None;
        for second in 0..20u64 {
            let now = Mono::from_millis(second * 1_000);
            pulse.heard(now);
            pulse.on_heartbeat(now, &Heartbeat { id: second + 1, echo: 0 });
            if let Err(error) = pulse.tick(now) {
                end = Some((second, error));
                break;
            }
        }
        assert_eq!(end, Some((10, LinkError::Unheard { unheard_ms: 10_000 })));
    }
}
