//! Why hosts wait: each moment in which an operation of a host is not answered has a reason that can be seen from outside, or
//! something was to wake it up and does not.

use reprise_engine::Effect;

use crate::pair::plan::SEC;
use crate::pair::world::World;

/// How long hosts may wait with no reason to be seen: timers of the group are shorter.
const NAMELESS_MAX: u64 = 2 * SEC;

/// What an operation of a host waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// The source's box, off or being recovered, or a journal that has stopped.
    Source,
    /// Room in the cache.
    CacheFull,
    /// A write of the journal.
    Journal,
    /// A write of the superblock.
    Superblock,
    /// A read of the journal or of a home.
    Read,
    /// Nothing that can be seen.
    Nameless,
}

/// Since when hosts wait, and for what.
#[derive(Debug, Default)]
pub(super) struct Holds {
    since: Option<(u64, Hold)>,
    /// How long there has been no reason.
    nameless: u64,
}

impl World {
    /// After every step of the source.
    pub(super) fn check_holds(&mut self) {
        let hold = (!self.outstanding.is_empty()).then(|| self.hold());
        let t = self.t;
        if let Some((since, hold)) = std::mem::replace(&mut self.holds.since, hold.map(|hold| (t, hold))) {
            let took = t - since;
            *self.counts.held.entry(hold).or_default() += took;
            self.holds.nameless = if hold == Hold::Nameless { self.holds.nameless + took } else { 0 };
        }
        if hold != Some(Hold::Nameless) {
            self.holds.nameless = 0;
        } else if self.holds.nameless > NAMELESS_MAX {
            let (id, action) = self.outstanding.first_key_value().map_or((0, None), |(id, action)| (*id, Some(action)));
            self.fail(format!(
                "operation {id} of a host ({action:?}) waits and nothing is to be seen that it waits for"
            ));
        }
    }

    fn hold(&self) -> Hold {
        let Some(process) = &self.boxes[0].process else { return Hold::Source };
        if !process.group.is_ready() || process.group.is_fenced() {
            return Hold::Source;
        }
        let under_way = |what: fn(&Effect) -> bool| process.pending.values().any(|(_, effect)| what(effect));
        if under_way(|e| matches!(e, Effect::WriteCache { .. })) {
            Hold::Journal
        } else if under_way(|e| matches!(e, Effect::WriteSuperblock { .. })) {
            Hold::Superblock
        } else if under_way(|e| matches!(e, Effect::ReadCache { .. } | Effect::ReadHome { .. })) {
            Hold::Read
        } else if process.group.journal().stalled() {
            Hold::CacheFull
        } else {
            Hold::Nameless
        }
    }
}
