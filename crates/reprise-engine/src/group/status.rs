//! What a group says of itself.

use reprise_format::link::{Rotten, Row, Trouble, Volume};
use reprise_journal::{Journal, SegmentId};
use reprise_link::copy::CopyProgress;
use reprise_link::mirror::MirrorSession;
use reprise_link::source::SourceSession;
use reprise_types::{Now, Point, Positions, Role, SectorCount, Seq, VolumeSlot};

use crate::core::GroupStats;
use crate::cursor::PeerTrouble;
use crate::group::Group;
use crate::meta::GroupMeta;
use crate::verify::VerifyReport;

impl Group {
    /// The superblock as it is in memory.
    pub fn meta(&self) -> &GroupMeta {
        &self.core.meta
    }

    /// True once the seal of the last recovery is durable: hosts may be served and the link may run.
    pub fn is_ready(&self) -> bool {
        self.core.is_ready()
    }

    /// True where a write of the journal or the superblock failed.
    pub fn is_fenced(&self) -> bool {
        self.core.meta.fenced.is_some()
    }

    /// The positions.
    pub fn positions(&self) -> Positions {
        let proven = self.core.meta.peer().and_then(|p| p.durable).filter(|_| self.core.meta.role() == Role::Source);
        let positions = Positions {
            trimmed: self.core.meta.trimmed.seq,
            applied: self.core.applied().min(self.core.meta.applied),
            applying: self.core.meta.applying,
            durable: self.core.journal.durable().seq,
            written: self.core.journal.written(),
            sent: proven.map(|p| self.peer.sent().max(p.seq)),
            peer_durable: proven.map(|p| p.seq),
        };
        positions.assert_ordered();
        positions
    }

    /// What holds behind each event. A group of which it does not is stopped before it does more harm.
    pub(crate) fn assert_invariants(&self) {
        // What a planted bug does is to be found by its harm.
        if cfg!(feature = "planted") {
            return;
        }
        assert!(self.core.signals.is_empty(), "{:?} concerns somebody", self.core.signals);
        // Asserts their order.
        self.positions();
        let trimmed = self.core.journal.trimmed().seq;
        for (part, after) in self.holders() {
            assert!(trimmed <= after, "trimmed to {trimmed} while {part:?} needs what is behind {after}");
        }
        if let Some((moment, why)) = self.core.pins.lowest() {
            let applying = self.core.meta.applying;
            assert!(applying <= moment, "home may be at {applying} while {moment} is held: {why:?}");
        }
        let streams = self.peer.is_streaming() || self.feed.is_streaming();
        assert!(self.core.link_opens() || !streams, "data flows on a connection whose instance nobody stores");
    }

    /// Age of the oldest write that the peer lacks, in milliseconds, whatever the link does; 0 where it lacks none. What
    /// was there before this box started is as old as the wall clock says.
    pub fn lag_millis(&self, now: Now) -> u64 {
        self.peer.lag_millis(&self.core, now)
    }

    /// The source's session.
    pub fn source_session(&self) -> Option<&SourceSession> {
        self.peer.session()
    }

    /// The row of the handshake on this connection, or on which the link stopped.
    pub fn link_row(&self) -> Option<Row> {
        self.peer.stopped().or(self.peer.row()).or(self.feed.row())
    }

    /// What is wrong at the mirror, as far as it has told.
    pub fn peer_trouble(&self) -> Option<&PeerTrouble> {
        self.peer.trouble()
    }

    /// The volumes as the link speaks of them.
    pub fn link_volumes(&self) -> Vec<Volume> {
        self.core.meta.link_volumes()
    }

    /// The mirror's session, for status.
    pub fn mirror_session(&self) -> Option<&MirrorSession> {
        self.feed.session()
    }

    /// Size of a volume as hosts may know it: what a crash leaves at least.
    pub fn served_sectors(&self, slot: VolumeSlot) -> Option<SectorCount> {
        self.units.served_sectors(&self.core, slot)
    }

    /// On a mirror: a size that the source has given a volume and that its home here has no room for. Nothing more is taken
    /// from the source until it has.
    pub fn home_too_small(&self) -> Option<(VolumeSlot, SectorCount)> {
        self.units.too_large()
    }

    /// True where the home leg is detached after an error.
    pub fn home_detached(&self) -> bool {
        self.leg.is_detached()
    }

    /// Why the home leg is detached, where it is.
    pub fn home_fault(&self) -> Option<&str> {
        self.leg.fault()
    }

    /// Records of the journal that cannot be read here, and whether they are lost.
    pub fn rotten(&self) -> Option<(Seq, Seq, bool)> {
        self.repair.rotten()
    }

    /// What keeps this box from doing all of its work for the group; none where nothing does.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let rotten = self.rotten().map(|(first, last, lost)| Rotten { first, last, lost });
        let home_detached = self.leg.is_detached();
        let found = Trouble { home_detached, rotten, fenced: self.core.is_fenced(), not_open: false };
        (found != Trouble::NONE).then_some(found)
    }

    /// How far a first copy is that is not complete, whether the link is up or not; none where none is left to do.
    pub fn copy_progress(&self) -> Option<CopyProgress> {
        let (cursor, session) = match (self.core.meta.role(), self.core.meta.peer()) {
            (Role::Source, Some(p)) if p.is_copying() => (p.copy.and_then(|c| c.cursor), self.peer.copy_progress()),
            (Role::Source, _) => return None,
            (Role::Mirror, _) => (self.core.meta.copy()?.cursor, self.feed.copy_progress()),
        };
        Some(session.unwrap_or_else(|| CopyProgress::of(&self.link_volumes(), cursor)))
    }

    /// The comparison at work, or the last one.
    pub fn verify_report(&self) -> Option<&VerifyReport> {
        self.verify.report()
    }

    /// The end of the durable history.
    pub fn durable(&self) -> Point {
        self.core.journal.durable()
    }

    /// Figures for status.
    pub fn stats(&self) -> GroupStats {
        GroupStats {
            segments: self.core.journal.segments_held() as u64,
            held_bytes: self.core.journal.durable_bytes_after(self.core.meta.trimmed.seq),
            index_extents: self.core.journal.index_len() as u64,
            index_bytes: self.core.journal.index_bytes(),
            records: self.core.journal.records_held() as u64,
            undurable_bytes: self.core.journal.undurable_bytes(),
            ..self.core.stats
        }
    }

    /// The journal, to read from (inspect).
    pub fn journal(&self) -> &Journal {
        &self.core.journal
    }

    /// True when home holds everything that has a Seq, durably.
    pub fn is_applied(&self) -> bool {
        self.leg.is_idle() && self.core.meta.applied == self.core.journal.written() && self.core.meta.is_settled()
    }

    /// True when the superblock on disk is the one in memory.
    pub fn superblock_settled(&self) -> bool {
        self.core.meta.is_settled()
    }

    /// Segments that the group holds, also those that it has no use for yet. For the allocator when the group's thread
    /// has ended.
    pub fn segments(&self) -> Vec<SegmentId> {
        self.core.journal.segment_ids().chain(self.core.segments.waiting()).collect()
    }
}
