//! Whether what a mirror lacks moves. A link may be up, or up again every few seconds, while nothing of it arrives.

use std::collections::VecDeque;

use reprise_types::Seq;

use super::conditions::rounded;
use super::told::Message;

/// A link that has moved nothing for so long, while data wait, is told. Longer than the largest batch takes on a slow line to
/// begin to show in the bytes sent, and than a restart of the mirror.
const STALLED_SECS: f64 = 30.0;
/// Bytes on one connection that count as movement: more than the kernel takes for a peer from which nothing comes back (the
/// first flight of packets, and what it may hold unsent).
const MOVED_BYTES: u64 = 128 << 10;
/// Connections lost while nothing moved, from which on the link counts as one that comes and goes, and not as one that is down.
const LOST_MIN: u64 = 2;
/// Connections lost within [`FLAPS_SECS`] at which a link is told although data move between them.
const FLAPS: usize = 6;
/// See [`FLAPS`].
const FLAPS_SECS: f64 = 300.0;

/// What is seen of a link at one look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Seconds since the start.
    pub(super) secs: f64,
    /// The mirror lacks data and the link is to bring them.
    pub(super) waits: bool,
    /// Data may flow at this moment.
    pub(super) up: bool,
    /// Durable at the mirror.
    pub(super) durable: Seq,
    /// Sectors of a first copy that are durable at the mirror.
    pub(super) copied: u64,
    /// Bytes sent on the present connection.
    pub(super) bytes_out: u64,
    /// Bytes that the mirror would take.
    pub(super) credit: u64,
    /// Connections lost so far.
    pub(super) lost: u64,
}

/// What is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stall {
    /// The mirror takes nothing: it has no room or its disk stands still.
    NoCredit,
    /// Connections are made and lost, and nothing arrives on any.
    ComesAndGoes {
        /// Connections lost since anything moved.
        lost: u64,
    },
    /// The connection stands, and nothing arrives.
    Silent,
    /// Data move, but the connection breaks again and again.
    Flaps,
}

/// The looks so far.
#[derive(Debug, Default)]
pub(super) struct Flow {
    last: Option<Seen>,
    /// As it was when something moved last.
    moved: Seen,
    /// Where the bytes of the present connection count from.
    bytes_from: u64,
    stalled: bool,
    lost_at: VecDeque<f64>,
}

impl Flow {
    /// Takes a look; says what is wrong, as long as it is.
    pub(super) fn look(&mut self, seen: Seen) -> Option<Stall> {
        let first = self.last.is_none();
        let before = self.last.replace(seen).unwrap_or(seen);
        for _ in 0..(seen.lost.saturating_sub(before.lost)).min(FLAPS as u64) {
            self.lost_at.push_back(seen.secs);
        }
        while self.lost_at.front().is_some_and(|at| *at + FLAPS_SECS < seen.secs) || self.lost_at.len() > FLAPS {
            self.lost_at.pop_front();
        }
        if seen.lost != before.lost || seen.bytes_out < self.bytes_from {
            self.bytes_from = seen.bytes_out;
        }
        let arrived = first || seen.durable != before.durable || seen.copied != before.copied;
        if !seen.waits || !before.waits || arrived || seen.bytes_out >= self.bytes_from.saturating_add(MOVED_BYTES) {
            (self.moved, self.bytes_from, self.stalled) = (seen, seen.bytes_out, false);
            return (seen.waits && self.lost_at.len() >= FLAPS).then_some(Stall::Flaps);
        }
        let lost = seen.lost.saturating_sub(self.moved.lost);
        // A link that is only down is told as such.
        let told = seen.secs - self.moved.secs >= STALLED_SECS && (seen.up || lost >= LOST_MIN);
        self.stalled |= told;
        self.stalled.then_some(match lost {
            LOST_MIN.. => Stall::ComesAndGoes { lost },
            _ if seen.up && seen.credit == 0 => Stall::NoCredit,
            _ => Stall::Silent,
        })
    }
}

impl Stall {
    /// What people are told.
    pub(super) fn message(self, peer: &str) -> Message<'_> {
        match self {
            Self::NoCredit => Message::NoCredit {},
            Self::ComesAndGoes { lost } => Message::ComesAndGoes { times: rounded(lost), peer },
            Self::Silent => Message::NothingArrives { peer },
            Self::Flaps => Message::Flaps { peer },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second for so long, with what is seen at each.
    fn watch(flow: &mut Flow, from: u64, secs: u64, seen: impl Fn(u64) -> Seen) -> Vec<Option<Stall>> {
        (from..from + secs).map(|at| flow.look(Seen { secs: at as f64, waits: true, ..seen(at) })).collect()
    }

    #[test]
    fn a_link_on_which_nothing_arrives_is_told_until_something_does() {
        let mut flow = Flow::default();
        // The black hole of a smaller MTU: the kernel takes some bytes on each connection, then gives it up.
        let hole = |at: u64| Seen {
            up: at % 12 > 1,
            bytes_out: (at % 12).min(4) * (16 << 10),
            lost: at / 12,
            credit: 1,
            ..Seen::default()
        };
        let told = watch(&mut flow, 0, 60, hole);
        assert!(told[..30].iter().all(Option::is_none), "a restart of the mirror is no stall: {told:?}");
        assert!(told[31..].iter().all(|t| matches!(t, Some(Stall::ComesAndGoes { .. }))), "{told:?}");
        let healed = Seen { durable: Seq::from_raw(1), up: true, lost: 5, credit: 1, ..Seen::default() };
        let told = watch(&mut flow, 60, 2, |_| healed);
        assert_eq!(told[0], None);
    }

    /// What is seen after so many seconds, of a link that is up otherwise.
    type Look = fn(u64, Seen) -> Seen;

    #[test]
    fn what_moves_or_is_down_or_has_nothing_to_bring_is_not_stalled() {
        let up = Seen { up: true, credit: 1, ..Seen::default() };
        let cases: [(&str, Look, Option<Stall>); 7] = [
            ("records arrive", |at, up| Seen { durable: Seq::from_raw(at / 20), ..up }, None),
            ("a copy goes on", |at, up| Seen { copied: at / 20, ..up }, None),
            ("one large batch on a slow line", |at, up| Seen { bytes_out: at * (32 << 10), ..up }, None),
            ("down", |_, up| Seen { up: false, ..up }, None),
            ("nothing waits", |_, up| Seen { waits: false, ..up }, None),
            ("nothing arrives", |_, up| up, Some(Stall::Silent)),
            ("the mirror is full", |_, up| Seen { credit: 0, ..up }, Some(Stall::NoCredit)),
        ];
        for (name, seen, expected) in cases {
            let mut flow = Flow::default();
            let last =
                (0..90).map(|at| flow.look(Seen { secs: at as f64, ..seen(at, Seen { waits: true, ..up }) })).last();
            assert_eq!(last.flatten(), expected, "{name}");
        }
    }

    #[test]
    fn a_link_that_breaks_all_the_time_is_told_although_data_move() {
        let mut flow = Flow::default();
        let flaps =
            |at: u64| Seen { up: true, durable: Seq::from_raw(at), lost: at / 10, credit: 1, ..Seen::default() };
        let told = watch(&mut flow, 0, 100, flaps);
        assert!(
            told[..50].iter().all(Option::is_none) && told[61..].iter().all(|t| *t == Some(Stall::Flaps)),
            "{told:?}"
        );
        let told = watch(&mut flow, 100, 300, |at| Seen { lost: 9, ..flaps(at) });
        assert_eq!(told.last(), Some(&None));
    }

    #[test]
    fn the_words_name_the_likely_cause() {
        for stall in [Stall::Silent, Stall::ComesAndGoes { lost: 17 }] {
            let told = stall.message("turin").about("group pg");
            assert!(told.what_to_do.contains("MTU") && told.what_to_do.contains("turin"), "{told:?}");
        }
        let told = Stall::ComesAndGoes { lost: 17 }.message("turin").about("group pg");
        assert!(told.text.contains("at least 10 times"), "{told:?}");
    }
}
