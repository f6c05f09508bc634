//! Bugs on purpose, for the test of the tests: each must be found by the black-box checks of reprise-sim. Compiled in
//! by the feature `planted` only, which nothing that is installed turns on.

/// A bug that can be planted into the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The handshake does not compare h.
    HashIgnored,
    /// Credit that was granted in all is added to what was granted before.
    CreditAdded,
    /// A connection on which nothing comes is never given up.
    SilenceIgnored,
    /// Records are sent before the region that was read without them.
    SendLimitIgnored,
    /// A batch that came before is taken again.
    GapAccepted,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::HashIgnored, Self::CreditAdded, Self::SilenceIgnored, Self::SendLimitIgnored, Self::GapAccepted];
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
