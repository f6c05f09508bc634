//! Bugs on purpose in this crate, for the test of the tests. See [`reprise_types::planted!`].

reprise_types::planted! {
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
    /// A round has no bound where home is a mixture.
    RoundUnbounded,
    /// Zeros do not count in a round.
    ZerosUncounted,
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
    /// What waits for such a range is not taken up after a miscompare.
    BlockedForgotten,
    /// Zeros that wait for such a range hold back nothing that comes later.
    WaitingZerosPassed,
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
    /// Homes are written while writes of an earlier connection are under way.
    StraysForgotten,
    /// A reservation is answered before the superblock holds it.
    UnitNotStored,
    /// A source does not say the state of its units again when the link is up.
    UnitNotSaidAgain,
    /// What the journal holds of units and the superblock does not is not taken up at a start.
    UnitsNotReplayed,
    /// A comparison takes every region for equal.
    HashesNotCompared,
    /// A comparison sends what differs in several regions at once to a mirror that takes one run at a time.
    FixesAtOnce,
    /// A mirror keeps what it has received and has no room for, while its home waits for a batch of the peer.
    StallKept,
    /// The place of a batch that is written again may be given to others meanwhile.
    RewriteNotHeld,
}
