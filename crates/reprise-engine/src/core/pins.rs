//! Moments that homes may not pass, as long as somebody holds them.

use std::collections::BTreeMap;

use reprise_types::Seq;

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

    /// Holds a moment that no home has passed, where one may hold records up to `applying`.
    ///
    /// # Errors
    /// It may have.
    pub(crate) fn hold(&mut self, at: Seq, applying: Seq, why: Why) -> Result<PinId, BelowApplying> {
        if applying > at {
            return Err(BelowApplying);
        }
        self.names += 1;
        self.held.insert(self.names, (at, why));
        Ok(PinId(self.names))
    }

    pub(crate) fn release(&mut self, PinId(name): PinId) {
        self.held.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_moment_counts_until_it_is_released() {
        let seq = Seq::from_raw;
        let mut pins = Pins::default();
        assert_eq!(pins.lowest(), None);
        assert!(pins.hold(seq(4), seq(5), Why::Verify).is_err());
        let later = pins.hold(seq(9), seq(5), Why::Verify).unwrap();
        let sooner = pins.hold(seq(5), seq(5), Why::Verify).unwrap();
        assert_eq!(pins.lowest(), Some((seq(5), Why::Verify)));
        pins.release(sooner);
        assert_eq!(pins.lowest(), Some((seq(9), Why::Verify)));
        pins.release(later);
        assert_eq!(pins.lowest(), None);
    }
}
