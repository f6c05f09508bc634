//! The handshake table: from what both ends know to one row, by a pure function.
//!
//! The source's box dials and sends a [`GroupOffer`]; the asked box answers with a [`GroupState`], in which it has looked
//! up its own h at the offer's position; the source looks up its own h at the state's position and sends the
//! [`Verdict`]. From these three messages both ends compute the row with [`decide`], and the asked box closes where the
//! rows differ. "Newer" means "contains the other's line with the same h", never a larger number.

use reprise_format::link::{
    BranchLink, CopyNeed, GroupOffer, GroupState, Hello, HelloKind, Membership, Row, Side, Verdict,
};
use reprise_format::superblock::BRANCHES_MAX;
use reprise_types::{BoxId, HistoryHash, Point, Position, Seq, honest};

use crate::{LinkError, instance};

/// Lowest protocol version that this firmware speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Highest protocol version that this firmware speaks.
pub const PROTOCOL_MAX: u32 = 1;

/// What the link asks of a group's history.
pub trait HistoryLookup {
    /// h at `seq` on the group's current line; none where the journal does not hold it (any more, or yet).
    fn hash_at(&self, seq: Seq) -> Option<HistoryHash>;
}

impl<F: Fn(Seq) -> Option<HistoryHash>> HistoryLookup for F {
    fn hash_at(&self, seq: Seq) -> Option<HistoryHash> {
        self(seq)
    }
}

/// Why two boxes cannot talk at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GreetError {
    /// No protocol version in common.
    #[error(
        "the peer speaks protocol {peer_min}..={peer_max}, this box {PROTOCOL_MIN}..={PROTOCOL_MAX}: update the older one"
    )]
    Version {
        /// The peer's lowest.
        peer_min: u32,
        /// The peer's highest.
        peer_max: u32,
    },
    /// The other end is this box.
    #[error("the other end is this box itself: check the address")]
    Myself,
    /// The other end is not paired with this box.
    #[error("box {box_id} is not paired with this one")]
    UnknownPeer {
        /// Who it says it is.
        box_id: BoxId,
    },
    /// The key belongs to another box than the one it says it is.
    #[error("the other end has the key of box {pinned} and says it is {claimed}")]
    Identity {
        /// Box of the key.
        pinned: BoxId,
        /// Who it says it is.
        claimed: BoxId,
    },
    /// The answer is for another purpose.
    #[error("the other end answers a connection for {asked:?} with one for {answered:?}")]
    Kind {
        /// What this end asked for.
        asked: HelloKind,
        /// What came.
        answered: HelloKind,
    },
}

/// Compares the two hellos; `pinned` is the box to which the other end's TLS key belongs, if it is paired. Returns the
/// protocol version to speak.
pub fn greet(local: &Hello, remote: &Hello, pinned: Option<BoxId>) -> Result<u32, GreetError> {
    if remote.box_id == local.box_id {
        return Err(GreetError::Myself);
    }
    if remote.kind != local.kind {
        return Err(GreetError::Kind { asked: local.kind, answered: remote.kind });
    }
    let version = local.protocol_max.min(remote.protocol_max);
    if version < local.protocol_min.max(remote.protocol_min) || remote.protocol_min > remote.protocol_max {
        return Err(GreetError::Version { peer_min: remote.protocol_min, peer_max: remote.protocol_max });
    }
    match pinned {
        _ if remote.kind == HelloKind::Pairing => Ok(version),
        None => Err(GreetError::UnknownPeer { box_id: remote.box_id }),
        Some(pinned) if pinned != remote.box_id => Err(GreetError::Identity { pinned, claimed: remote.box_id }),
        Some(_) => Ok(version),
    }
}

/// True for a line of history: the current branch first, each the child of the next, no branch twice, no fork behind the
/// one of a child.
pub fn is_line(lineage: &[BranchLink]) -> bool {
    let named = |(at, link): (usize, &BranchLink)| {
        let again = lineage.iter().skip(at + 1).any(|other| other.branch == link.branch);
        let parent = lineage.get(at + 1);
        let follows = match parent {
            Some(parent) => link.parent == parent.branch && link.fork_seq >= parent.fork_seq,
            None => link.parent.is_nil(),
        };
        !link.branch.is_nil() && !again && follows
    };
    !lineage.is_empty() && lineage.len() <= BRANCHES_MAX && lineage.iter().enumerate().all(named)
}

/// What an offer says must hold together before anything of it is stored: a peer may be wrong, or not what it was.
pub fn check_offer(offer: &GroupOffer) -> Result<(), LinkError> {
    let what = match offer {
        _ if !is_line(&offer.lineage) => "its branches are no line of history",
        _ if offer.lineage.first().is_none_or(|first| first.branch != offer.durable.branch) => {
            "it is not on its current branch"
        }
        _ if offer.trimmed.seq > offer.durable.seq => "it holds less than nothing",
        _ => return Ok(()),
    };
    Err(LinkError::Contradiction { what })
}

/// The same for the answer.
pub fn check_state(state: &GroupState) -> Result<(), LinkError> {
    let what = match state {
        _ if !state.lineage.is_empty() && !is_line(&state.lineage) => "its branches are no line of history",
        _ if state.durable.is_some_and(|durable| state.applied > durable.seq) => "more is applied than is there",
        _ => return Ok(()),
    };
    Err(LinkError::Contradiction { what })
}

/// Index in `lineage` (current branch first) of the branch that `position` is on, if the position is part of that line:
/// on an older branch only what is not past the fork of the next one.
pub fn place_on_line(lineage: &[BranchLink], position: Position) -> Option<usize> {
    let index = lineage.iter().position(|link| link.branch == position.branch)?;
    let child = index.checked_sub(1).and_then(|child| lineage.get(child));
    child.is_none_or(|child| position.seq <= child.fork_seq).then_some(index)
}

fn position(point: &Point) -> Position {
    Position { branch: point.branch, seq: point.seq }
}

/// The source's own h at positions that the asked box names; none where its journal does not hold one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// At the state's durable position.
    pub at_state: Option<HistoryHash>,
    /// At the state's `copy_reach`.
    pub at_reach: Option<HistoryHash>,
}

/// The row that holds.
pub fn decide(offer: &GroupOffer, state: &GroupState, known: Known) -> Row {
    match state.membership {
        Membership::Unknown => return Row::UnknownGroup,
        Membership::OtherPeer => return Row::OtherPair,
        Membership::Known => {}
    }
    let continues = instance::continues(&state.instance, offer.peer_instance_seen.as_ref())
        && instance::continues(&offer.instance, state.peer_instance_seen.as_ref());
    if !continues {
        return Row::ClonedIdentity;
    }
    if offer.ceded.is_some() {
        return Row::SourceCeded;
    }
    let Some(durable) = &state.durable else {
        return match (state.role, offer.copy) {
            (Side::Source, _) => Row::BothSources,
            (Side::Mirror, CopyNeed::Complete) => Row::WentBackwards,
            (Side::Mirror, CopyNeed::Needed | CopyNeed::UnderWay) => Row::StartCopy,
        };
    };
    match place_on_line(&offer.lineage, position(durable)) {
        None => decide_off_line(offer, state),
        Some(place) if state.role == Side::Source => decide_source(durable, place, known.at_state),
        Some(0) if durable.seq > offer.durable.seq => decide_ahead(offer, state),
        Some(place) => decide_behind(offer, state, durable, place, known),
    }
}

/// The asked box is on a line that the offer's line does not contain.
fn decide_off_line(offer: &GroupOffer, state: &GroupState) -> Row {
    let contained = place_on_line(&state.lineage, position(&offer.durable)).is_some();
    if contained && state.hash_at_offer == Some(offer.durable.hash) { Row::SourceSuperseded } else { Row::Diverged }
}

/// The asked box is a source too, on a line that the offer's line contains.
fn decide_source(durable: &Point, place: usize, hash_at_state: Option<HistoryHash>) -> Row {
    match hash_at_state {
        _ if place == 0 => Row::BothSources,
        Some(hash) if hash == durable.hash => Row::MirrorSuperseded,
        // Without h there is no proof that the older line is contained, so nobody is demoted.
        Some(_) | None => Row::Diverged,
    }
}

/// The mirror holds more of the source's own branch than the source does.
fn decide_ahead(offer: &GroupOffer, state: &GroupState) -> Row {
    if state.hash_at_offer == Some(offer.durable.hash) && !offer.serving { Row::PullBack } else { Row::Diverged }
}

/// The mirror holds a part of the source's line.
fn decide_behind(offer: &GroupOffer, state: &GroupState, durable: &Point, place: usize, known: Known) -> Row {
    if honest!(known.at_state.is_some_and(|hash| hash != durable.hash), HashIgnored => false) {
        return Row::Diverged;
    }
    let proven = offer.peer_proven.as_ref();
    let lost = proven.is_some_and(|proven| match place_on_line(&offer.lineage, position(proven)) {
        Some(proven_place) => proven_place < place || proven.seq > durable.seq,
        None => false,
    });
    if lost {
        return Row::WentBackwards;
    }
    if durable.seq < offer.trimmed.seq || known.at_state.is_none() {
        return Row::IntervalNeeded;
    }
    match &state.copy_reach {
        _ if state.complete => Row::Resume,
        Some(reach) if !reaches_on_line(offer, durable, reach, known.at_reach) => Row::RestartCopy,
        Some(_) | None => Row::ContinueCopy,
    }
}

/// True where what the mirror has copied is of the source's line. A region contains records that the mirror's journal does
/// not: a source that has lost those and gone on may still hold all that is durable at the mirror.
fn reaches_on_line(offer: &GroupOffer, durable: &Point, reach: &Point, known: Option<HistoryHash>) -> bool {
    // What came after the regions came from a source on whose line they were.
    let settled = honest!(reach.seq <= durable.seq, ReachIgnored => true);
    settled || place_on_line(&offer.lineage, position(reach)).is_some() && known == Some(reach.hash)
}

/// Where the records begin that follow, in rows with which data flows.
fn start_of(row: Row, offer: &GroupOffer, state: &GroupState) -> Option<Point> {
    match row {
        Row::Resume | Row::ContinueCopy | Row::RestartCopy => state.durable,
        Row::StartCopy => Some(offer.durable),
        _ => None,
    }
}

/// What the source says after a state has come.
pub fn verdict(offer: &GroupOffer, state: &GroupState, lookup: &impl HistoryLookup) -> Verdict {
    let on_line = |point: &&Point| place_on_line(&offer.lineage, position(point)).is_some();
    let hash_at = |point: &Option<Point>| point.as_ref().filter(on_line).and_then(|point| lookup.hash_at(point.seq));
    let known = Known { at_state: hash_at(&state.durable), at_reach: hash_at(&state.copy_reach) };
    let row = decide(offer, state, known);
    let start = start_of(row, offer, state);
    Verdict { row, hash_at_state: known.at_state, hash_at_reach: known.at_reach, start }
}

/// The asked box's check of the source's verdict.
pub fn check_verdict(offer: &GroupOffer, state: &GroupState, verdict: &Verdict) -> Result<Row, LinkError> {
    let known = Known { at_state: verdict.hash_at_state, at_reach: verdict.hash_at_reach };
    let ours = decide(offer, state, known);
    if ours != verdict.row || start_of(ours, offer, state) != verdict.start {
        return Err(LinkError::Disagree { ours, theirs: verdict.row });
    }
    Ok(ours)
}

/// What the asked box looks up for [`GroupState::hash_at_offer`].
pub fn hash_at_offer(offer: &GroupOffer, lineage: &[BranchLink], lookup: &impl HistoryLookup) -> Option<HistoryHash> {
    place_on_line(lineage, position(&offer.durable))?;
    lookup.hash_at(offer.durable.seq)
}

/// What a row means for the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Data flows on this connection.
    Stream,
    /// Nothing changes on either box; an alert says what is needed; dialling goes on slowly.
    Wait,
    /// The source of the offer becomes a mirror.
    DemoteSource,
    /// The asked box, a source so far, becomes a mirror.
    DemoteAsked,
    /// The group's link stops on both boxes and everything is kept until a person has chosen.
    Stop,
}

/// A row with what it means; the table that documentation and alerts are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRule {
    /// The row.
    pub row: Row,
    /// Short label.
    pub label: &'static str,
    /// What it means for the group.
    pub consequence: Consequence,
    /// What to do, for people; empty where nothing is to be done.
    pub advice: &'static str,
}

const fn rule(row: Row, label: &'static str, consequence: Consequence, advice: &'static str) -> RowRule {
    RowRule { row, label, consequence, advice }
}

/// The whole table.
pub const TABLE: [RowRule; 15] = [
    rule(Row::Resume, "resume", Consequence::Stream, ""),
    rule(Row::StartCopy, "start first copy", Consequence::Stream, ""),
    rule(Row::ContinueCopy, "continue first copy", Consequence::Stream, ""),
    rule(Row::RestartCopy, "begin first copy again", Consequence::Stream, ""),
    rule(
        Row::IntervalNeeded,
        "peer is behind what the journal holds",
        Consequence::Wait,
        "The records that the mirror lacks are gone and catching up by an interval is not possible in this version. The mirror's image stays \
         as it is. Remove the mirror and add it again for a new first copy.",
    ),
    rule(
        Row::PullBack,
        "mirror is ahead on the same line",
        Consequence::Wait,
        "The source has lost records that its mirror holds, and has not served since. Taking them back is not possible in this version: keep the \
         volumes offline on this box and use the mirror's image.",
    ),
    rule(
        Row::WentBackwards,
        "peer went backwards",
        Consequence::Stop,
        "The mirror holds less than it had acknowledged: its disk or pool was replaced or rolled back. Check it, then remove the mirror and add it \
         again.",
    ),
    rule(Row::SourceSuperseded, "source is superseded", Consequence::DemoteSource, ""),
    rule(Row::MirrorSuperseded, "asked box is superseded", Consequence::DemoteAsked, ""),
    rule(
        Row::SourceCeded,
        "source has ceded",
        Consequence::Wait,
        "This box has ceded the group; the other one has not taken it over yet.",
    ),
    rule(
        Row::Diverged,
        "diverged",
        Consequence::Stop,
        "The two boxes hold different histories. Both are kept. Choose which one goes on; remove the mirror on that box and add it again.",
    ),
    rule(
        Row::BothSources,
        "both boxes are sources",
        Consequence::Stop,
        "Both boxes serve this group to hosts. Stop the hosts of one, then choose which one goes on.",
    ),
    rule(
        Row::UnknownGroup,
        "group is unknown to the peer",
        Consequence::Stop,
        "The peer does not know the group: its pool was replaced, or the mirror was removed there. Remove the mirror here and add it again.",
    ),
    rule(
        Row::OtherPair,
        "group belongs to another pair",
        Consequence::Stop,
        "The peer mirrors this group for another box. Check that the pool was not moved or copied.",
    ),
    rule(
        Row::ClonedIdentity,
        "cloned identity",
        Consequence::Stop,
        "One of the boxes is a copy of another, or was restored from an older state. Switch the copy off; if there is none, pair again with \
         `peer replace`.",
    ),
];

/// The rule of a row.
pub fn rule_of(row: Row) -> &'static RowRule {
    // Every row is in the table; a test walks them all.
    TABLE.iter().find(|rule| rule.row == row).unwrap_or(&TABLE[10])
}

#[cfg(test)]
pub(crate) mod tests {
    use reprise_format::link::{CopyCursor, Instance};
    use reprise_types::{BranchId, GroupId, Sector, VolumeSlot};

    use super::*;

    pub(crate) fn hash(branch: u8, seq: u64) -> HistoryHash {
        let mut bytes = [branch; 16];
        bytes[..8].copy_from_slice(&seq.to_le_bytes());
        HistoryHash::from_raw(bytes)
    }

    fn branch(n: u8) -> BranchId {
        BranchId::from_raw([n; 16])
    }

    pub(crate) fn point(on: u8, seq: u64) -> Point {
        Point { branch: branch(on), seq: Seq::from_raw(seq), hash: hash(1, seq) }
    }

    fn link(on: u8, parent: u8, seq: u64) -> BranchLink {
        BranchLink { branch: branch(on), parent: branch(parent), fork_seq: Seq::from_raw(seq), fork_hash: hash(1, seq) }
    }

    /// A source on branch 1 at 100 that holds the records after 20, and its complete mirror at 90.
    pub(crate) fn healthy() -> (GroupOffer, GroupState) {
        let offer = GroupOffer {
            group: GroupId::from_raw([7; 16]),
            box_id: BoxId::from_raw([0xa; 16]),
            role: Side::Source,
            lineage: vec![link(1, 0, 0)],
            durable: point(1, 100),
            trimmed: point(1, 20),
            serving: true,
            ceded: None,
            copy: CopyNeed::Complete,
            volumes: vec![],
            peer_proven: Some(point(1, 80)),
            instance: Instance { acknowledged: [1; 16], current: [2; 16] },
            peer_instance_seen: Some([3; 16]),
        };
        let state = GroupState {
            group: GroupId::from_raw([7; 16]),
            box_id: BoxId::from_raw([0xb; 16]),
            membership: Membership::Known,
            role: Side::Mirror,
            lineage: vec![link(1, 0, 0)],
            durable: Some(point(1, 90)),
            applied: Seq::from_raw(60),
            complete: true,
            copy_cursor: None,
            copy_reach: None,
            ceded: None,
            hash_at_offer: None,
            instance: Instance { acknowledged: [3; 16], current: [4; 16] },
            peer_instance_seen: Some([1; 16]),
        };
        (offer, state)
    }

    /// A source's lookup: holds h from its trimmed position to its durable one.
    fn lookup(offer: &GroupOffer) -> impl HistoryLookup + use<> {
        let (low, high) = (offer.trimmed.seq, offer.durable.seq);
        move |seq: Seq| (seq >= low && seq <= high).then(|| hash(1, seq.get()))
    }

    type Change = fn(&mut GroupOffer, &mut GroupState);

    #[test]
    fn every_row_of_the_table() {
        let cases: &[(&str, Row, Change)] = &[
            ("healthy", Row::Resume, |_, _| {}),
            ("mirror has everything", Row::Resume, |_, s| s.durable = Some(point(1, 100))),
            ("mirror at the trimmed position", Row::Resume, |o, s| {
                o.peer_proven = None;
                s.durable = Some(point(1, 20));
            }),
            ("mirror on the parent branch before the fork", Row::Resume, |o, _| {
                o.lineage = vec![link(2, 1, 95), link(1, 0, 0)];
                o.durable = point(2, 100);
            }),
            ("fresh mirror", Row::StartCopy, |o, s| {
                o.copy = CopyNeed::Needed;
                o.peer_proven = None;
                (s.durable, s.complete) = (None, false);
            }),
            ("copy begun, mirror lost it before its first record", Row::StartCopy, |o, s| {
                o.copy = CopyNeed::UnderWay;
                (s.durable, s.complete) = (None, false);
            }),
            ("copy under way", Row::ContinueCopy, |o, s| {
                o.copy = CopyNeed::UnderWay;
                s.complete = false;
                s.copy_cursor = Some(CopyCursor { slot: VolumeSlot::from_raw(0), sector: Sector::from_raw(4096) });
            }),
            ("copy under way, with regions of what comes next", Row::ContinueCopy, |_, s| {
                (s.complete, s.copy_reach) = (false, Some(point(1, 100)));
            }),
            ("copy under way, with regions before the fork", Row::ContinueCopy, |o, s| {
                o.lineage = vec![link(2, 1, 95), link(1, 0, 0)];
                o.durable = point(2, 100);
                (s.complete, s.copy_reach) = (false, Some(point(1, 95)));
            }),
            ("copy under way, regions settled long ago", Row::ContinueCopy, |o, s| {
                o.trimmed = point(1, 90);
                (s.complete, s.copy_reach) = (false, Some(point(1, 30)));
            }),
            ("the source lost what regions contain", Row::RestartCopy, |_, s| {
                (s.complete, s.copy_reach) = (false, Some(point(1, 101)));
            }),
            ("the source lost what regions contain, and went on", Row::RestartCopy, |_, s| {
                (s.complete, s.copy_reach) = (false, Some(Point { hash: hash(9, 95), ..point(1, 95) }));
            }),
            ("regions of the parent branch past the fork", Row::RestartCopy, |o, s| {
                o.lineage = vec![link(2, 1, 95), link(1, 0, 0)];
                o.durable = point(2, 100);
                (s.complete, s.copy_reach) = (false, Some(point(1, 96)));
            }),
            ("regions of a line that is not known", Row::RestartCopy, |_, s| {
                (s.complete, s.copy_reach) = (false, Some(point(5, 95)));
            }),
            ("copy acknowledged to its end, mirror stopped before it noted that", Row::ContinueCopy, |_, s| {
                s.complete = false;
            }),
            ("peer behind the journal", Row::IntervalNeeded, |o, s| {
                o.peer_proven = None;
                s.durable = Some(point(1, 19));
            }),
            ("mirror ahead before serving", Row::PullBack, |o, s| {
                o.serving = false;
                s.durable = Some(point(1, 120));
                s.hash_at_offer = Some(hash(1, 100));
            }),
            ("mirror ahead after serving", Row::Diverged, |_, s| {
                s.durable = Some(point(1, 120));
                s.hash_at_offer = Some(hash(1, 100));
            }),
            ("mirror ahead, but of another history", Row::Diverged, |o, s| {
                o.serving = false;
                s.durable = Some(point(1, 120));
                s.hash_at_offer = Some(hash(9, 100));
            }),
            ("mirror ahead without proof", Row::Diverged, |o, s| {
                o.serving = false;
                s.durable = Some(point(1, 120));
            }),
            ("peer lost records it had proven", Row::WentBackwards, |o, s| {
                o.peer_proven = Some(point(1, 95));
                s.durable = Some(point(1, 90));
            }),
            ("peer back on a parent branch that it had left", Row::WentBackwards, |o, _| {
                o.lineage = vec![link(2, 1, 95), link(1, 0, 0)];
                o.durable = point(2, 100);
                o.peer_proven = Some(point(2, 96));
            }),
            ("peer lost everything", Row::WentBackwards, |_, s| s.durable = None),
            ("source superseded with proof", Row::SourceSuperseded, |o, s| {
                s.lineage = vec![link(2, 1, 100), link(1, 0, 0)];
                s.durable = Some(point(2, 130));
                s.role = Side::Source;
                s.hash_at_offer = Some(o.durable.hash);
            }),
            ("forked before the source's last record", Row::Diverged, |_, s| {
                s.lineage = vec![link(2, 1, 90), link(1, 0, 0)];
                s.durable = Some(point(2, 130));
                s.role = Side::Source;
            }),
            ("superseded without proof", Row::Diverged, |_, s| {
                s.lineage = vec![link(2, 1, 100), link(1, 0, 0)];
                s.durable = Some(point(2, 130));
                s.role = Side::Source;
            }),
            ("asked box is an old source", Row::MirrorSuperseded, |o, s| {
                o.lineage = vec![link(2, 1, 95), link(1, 0, 0)];
                o.durable = point(2, 100);
                s.role = Side::Source;
            }),
            ("asked box is an old source with writes past the fork", Row::Diverged, |o, s| {
                o.lineage = vec![link(2, 1, 85), link(1, 0, 0)];
                o.durable = point(2, 100);
                s.role = Side::Source;
            }),
            ("source has ceded", Row::SourceCeded, |o, _| o.ceded = Some(point(1, 100))),
            ("history differs at the common Seq", Row::Diverged, |_, s| {
                s.durable = Some(Point { hash: hash(9, 90), ..point(1, 90) });
            }),
            ("no line in common", Row::Diverged, |_, s| {
                s.lineage = vec![link(5, 0, 0)];
                s.durable = Some(point(5, 90));
            }),
            ("both sources on one line", Row::BothSources, |_, s| s.role = Side::Source),
            ("both sources, one empty", Row::BothSources, |_, s| (s.role, s.durable) = (Side::Source, None)),
            ("unknown group", Row::UnknownGroup, |_, s| s.membership = Membership::Unknown),
            ("group of another pair", Row::OtherPair, |_, s| s.membership = Membership::OtherPeer),
            ("cloned mirror", Row::ClonedIdentity, |o, _| o.peer_instance_seen = Some([99; 16])),
            ("cloned source", Row::ClonedIdentity, |_, s| s.peer_instance_seen = Some([99; 16])),
        ];
        let mut seen = Vec::new();
        for (name, row, change) in cases {
            let (mut offer, mut state) = healthy();
            change(&mut offer, &mut state);
            let verdict = verdict(&offer, &state, &lookup(&offer));
            assert_eq!(verdict.row, *row, "{name}");
            assert_eq!(check_verdict(&offer, &state, &verdict), Ok(*row), "{name}: both ends agree");
            let streams = rule_of(*row).consequence == Consequence::Stream;
            assert_eq!(verdict.start.is_some(), streams, "{name}: a start is given exactly where data flows");
            seen.push(*row);
        }
        for row in Row::ALL {
            assert!(seen.contains(row), "{row:?} has no case");
            assert_eq!(rule_of(*row).row, *row, "{row:?} has no rule");
        }
    }

    #[test]
    fn a_verdict_that_does_not_follow_is_refused() {
        let (offer, state) = healthy();
        let good = verdict(&offer, &state, &lookup(&offer));
        let lie = Verdict { row: Row::StartCopy, ..good.clone() };
        assert_eq!(
            check_verdict(&offer, &state, &lie),
            Err(LinkError::Disagree { ours: Row::Resume, theirs: Row::StartCopy })
        );
        let shifted = Verdict { start: Some(point(1, 91)), ..good };
        assert!(check_verdict(&offer, &state, &shifted).is_err());
    }

    #[test]
    fn greetings() {
        let hello = |id: u8, min, max, kind| Hello {
            protocol_min: min,
            protocol_max: max,
            box_id: BoxId::from_raw([id; 16]),
            box_name: "x".into(),
            kind,
            firmware: "0".into(),
            run: [0; 16],
        };
        let me = hello(1, 1, 2, HelloKind::Control);
        let peer = BoxId::from_raw([2; 16]);
        let other = BoxId::from_raw([3; 16]);
        assert_eq!(greet(&me, &hello(2, 2, 3, HelloKind::Control), Some(peer)), Ok(2));
        let version = greet(&me, &hello(2, 3, 4, HelloKind::Control), Some(peer));
        assert_eq!(version, Err(GreetError::Version { peer_min: 3, peer_max: 4 }));
        assert_eq!(greet(&me, &me, Some(peer)), Err(GreetError::Myself));
        let unknown = greet(&me, &hello(2, 1, 1, HelloKind::Control), None);
        assert_eq!(unknown, Err(GreetError::UnknownPeer { box_id: peer }));
        let identity = greet(&me, &hello(2, 1, 1, HelloKind::Control), Some(other));
        assert_eq!(identity, Err(GreetError::Identity { pinned: other, claimed: peer }));
        let kind = greet(&me, &hello(2, 1, 1, HelloKind::GroupData), Some(peer));
        assert!(matches!(kind, Err(GreetError::Kind { .. })));
        let pairing = hello(1, 1, 1, HelloKind::Pairing);
        assert_eq!(greet(&pairing, &hello(2, 1, 1, HelloKind::Pairing), None), Ok(1));
    }
}
