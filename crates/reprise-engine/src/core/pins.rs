//! Moments that homes may not pass, as long as somebody holds them.

use std::collections::BTreeMap;

use reprise_types::Seq;

use super::Core;

/// What a moment is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Source and mirror are compared at it.
    Verify,
}

/// Whoever has it holds a moment, and gives it back.
#[derive(Debug)]
pub(crate) struct PinId(u64);

/// A home may hold records behind the moment already.
#[derive(Debug)]
pub(crate) struct BelowApplying;

/// The moments that are held.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    held: BTreeMap<u64, (Seq, Why)>,
    names: u64,
}

impl Pins {
    /// The lowest moment that is held, and what for.
    pub(crate) fn lowest(&self) -> Option<(Seq, Why)> {
        self.held.values().copied().min_by_key(|(at, _)| *at)
    }

    pub(crate) fn release(&mut self, PinId(name): PinId) {
        self.held.remove(&name);
    }
}

impl Core {
    /// Holds a moment.
    ///
    /// # Errors
    /// It is too late for it.
    pub(crate) fn pin(&mut self, at: Seq, why: Why) -> Result<PinId, BelowApplying> {
        if self.meta.applying > at {
            return Err(BelowApplying);
        }
        self.pins.names += 1;
        self.pins.held.insert(self.pins.names, (at, why));
        Ok(PinId(self.pins.names))
    }
}
