//! Bugs on purpose, for the test of the tests: each must be found by the black-box checks of reprise-sim. Compiled in
//! by the feature `planted` only, which nothing that is installed turns on.

/// A bug that can be planted into the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A batch with a good header is taken although its payload is torn.
    TornTailAccepted,
    /// A body from the peer is taken without comparing h with what precedes.
    ChainUnchecked,
    /// Batches that an earlier recovery dropped are taken again.
    IncarnationIgnored,
    /// The index loses what lies behind a cut extent.
    IndexCut,
    /// A segment with a footer is written again after a restart.
    FooterReopened,
    /// A read from the journal begins at the start of its first grain.
    ReadSkipsWrong,
    /// Segments are freed one further than allowed.
    TrimTooFar,
    /// Batches can be read back before they are durable (goes with the engine's `SendBeforeDurable`).
    BatchBeforeDurable,
    /// A batch from the peer is taken whatever its Seq (goes with the link's `GapAccepted`).
    GapUnchecked,
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

#[cfg(feature = "planted")]
pub(crate) fn has(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(not(feature = "planted"))]
pub(crate) const fn has(_bug: Planted) -> bool {
    false
}
