//! Bugs on purpose, for the test of the tests: each must be found by the black-box checks of reprise-sim. Compiled in
//! by the feature `planted` only, which nothing that is installed turns on.

/// A bug that can be planted into the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A write is acknowledged when it has its Seq.
    AckBeforeSync,
    /// Batches go to the peer when they are submitted to the disk.
    SendBeforeDurable,
    /// What was sent counts as held by the peer.
    TrimOnStatus,
    /// A mirror acknowledges as durable what it has received.
    MirrorAcksReceived,
    /// After a crash inside a round the next one announces less than the home may hold.
    ApplyingGoesBack,
    /// At the end of a first copy `applying` stays behind the regions.
    MomentsBeforeCopyEnd,
    /// The source takes its instance for confirmed when it has sent its verdict.
    InstanceConfirmedEarly,
    /// Regions read for an earlier connection are sent on a later one.
    OldRegionsSent,
    /// A home round is counted without a flush.
    HomeNotFlushed,
    /// Copied regions are counted without a flush.
    CopyNotFlushed,
    /// Zero records are not applied to home.
    ZeroSkipped,
    /// COMPARE AND WRITE does not hold its range.
    CompareHoldsNothing,
    /// A group serves before what recovery chose is sealed.
    ServedBeforeSeal,
    /// A read is answered with what is not durable.
    ReadBeforeDurable,
    /// Messages go out before the peer's instance is stored.
    LinkNotHeld,
    /// Records are applied before the region that lacks them is written.
    ApplyLimitIgnored,
    /// Segments are reused before the trimmed position is durable.
    FreedBeforeTrimDurable,
    /// Segments are reused while reads of them are under way.
    FreedUnderReads,
    /// A failed journal write counts as done.
    FailedWriteBelieved,
    /// A failed home write counts as done.
    FailedHomeBelieved,
    /// A mirror answers an offer while received records are not durable.
    AnswerUnsettled,
    /// The source trims past the position that it offered for a first copy.
    TrimDuringOffer,
    /// A read that waits for a record to become durable holds segments back.
    WaitingReadHolds,
    /// A copied region is read with records that are not durable, and waits for them.
    CopyReadsNewest,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::AckBeforeSync,
        Self::SendBeforeDurable,
        Self::TrimOnStatus,
        Self::MirrorAcksReceived,
        Self::ApplyingGoesBack,
        Self::MomentsBeforeCopyEnd,
        Self::InstanceConfirmedEarly,
        Self::OldRegionsSent,
        Self::HomeNotFlushed,
        Self::CopyNotFlushed,
        Self::ZeroSkipped,
        Self::CompareHoldsNothing,
        Self::ServedBeforeSeal,
        Self::ReadBeforeDurable,
        Self::LinkNotHeld,
        Self::ApplyLimitIgnored,
        Self::FreedBeforeTrimDurable,
        Self::FreedUnderReads,
        Self::FailedWriteBelieved,
        Self::FailedHomeBelieved,
        Self::AnswerUnsettled,
        Self::TrimDuringOffer,
        Self::WaitingReadHolds,
        Self::CopyReadsNewest,
    ];
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
