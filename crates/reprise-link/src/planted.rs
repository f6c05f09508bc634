//! Bugs on purpose in this crate, for the test of the tests. See [`reprise_types::planted!`].

reprise_types::planted! {
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
    /// A first copy goes on behind regions that contain what the source has lost.
    ReachIgnored,
}
