//! Bugs on purpose in this crate, for the test of the tests. See [`reprise_types::planted!`].

reprise_types::planted! {
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
    /// A batch of a newer release ends the log as a torn one does.
    NewerIsTorn,
    /// A read from the journal begins at the start of its first grain.
    ReadSkipsWrong,
    /// Segments are freed one further than allowed.
    TrimTooFar,
    /// Batches can be read back before they are durable (goes with the engine's `SendBeforeDurable`).
    BatchBeforeDurable,
    /// A batch from the peer is taken whatever its Seq (goes with the link's `GapAccepted`).
    GapUnchecked,
    /// After a restart generations begin again behind what is on the disk, whatever a group starts behind.
    FloorForgotten,
}
