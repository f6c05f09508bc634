//! A source at Seq 100 that still holds what follows 20, and its mirror at 90.

use reprise_format::link::{
    BranchLink, CopyCursor, CopyNeed, Credit, GroupOffer, GroupState, Heartbeat, Instance, Membership, Message, Side,
    Volume,
};
use reprise_link::mirror::MirrorSession;
use reprise_link::source::{SourceEvent, SourceSession};
use reprise_types::{
    BoxId, BranchId, GroupId, HistoryHash, Mono, Point, Sector, SectorCount, Seq, VolumeId, VolumeSlot,
};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn seq(n: u64) -> Seq {
    Seq::from_raw(n)
}

pub(crate) fn ms(n: u64) -> Mono {
    Mono::from_millis(n)
}

pub(crate) fn branch(n: u8) -> BranchId {
    BranchId::from_raw([n; 16])
}

pub(crate) fn hash(n: u64) -> HistoryHash {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    HistoryHash::from_raw(bytes)
}

pub(crate) fn point(n: u64) -> Point {
    Point { branch: branch(1), seq: seq(n), hash: hash(n) }
}

pub(crate) fn fork(on: u8, parent: u8, n: u64) -> BranchLink {
    BranchLink { branch: branch(on), parent: branch(parent), fork_seq: seq(n), fork_hash: hash(n) }
}

pub(crate) fn cursor(slot: u16, sector: u64) -> CopyCursor {
    CopyCursor { slot: VolumeSlot::from_raw(slot), sector: Sector::from_raw(sector) }
}

pub(crate) fn volumes(sizes: &[(u16, u64)]) -> Vec<Volume> {
    let volume = |(slot, sectors): &(u16, u64)| Volume {
        id: VolumeId::from_raw([*slot as u8; 16]),
        slot: VolumeSlot::from_raw(*slot),
        name: format!("v{slot}"),
        sectors: SectorCount::from_raw(*sectors),
        lun: 0,
        block_size: 0,
        thin: false,
        read_only: false,
    };
    sizes.iter().map(volume).collect()
}

pub(crate) fn offer() -> GroupOffer {
    GroupOffer {
        group: GroupId::from_raw([7; 16]),
        box_id: BoxId::from_raw([0xa; 16]),
        role: Side::Source,
        lineage: vec![fork(1, 0, 0)],
        durable: point(100),
        trimmed: point(20),
        serving: true,
        ceded: None,
        copy: CopyNeed::Complete,
        volumes: volumes(&[(0, 10_000)]),
        peer_proven: Some(point(80)),
        instance: Instance { acknowledged: [1; 16], current: [2; 16] },
        peer_instance_seen: Some([3; 16]),
    }
}

pub(crate) fn state() -> GroupState {
    GroupState {
        group: GroupId::from_raw([7; 16]),
        box_id: BoxId::from_raw([0xb; 16]),
        membership: Membership::Known,
        role: Side::Mirror,
        lineage: vec![fork(1, 0, 0)],
        durable: Some(point(90)),
        applied: seq(60),
        complete: true,
        copy_cursor: None,
        copy_reach: None,
        ceded: None,
        hash_at_offer: None,
        instance: Instance { acknowledged: [3; 16], current: [4; 16] },
        peer_instance_seen: Some([1; 16]),
    }
}

/// A first copy that has come to sector 4096; the mirror holds records up to 90.
pub(crate) fn copying() -> (GroupOffer, GroupState) {
    let offer = GroupOffer { copy: CopyNeed::UnderWay, ..offer() };
    (offer, GroupState { complete: false, copy_cursor: Some(cursor(0, 4096)), ..state() })
}

/// A first copy that begins; the mirror holds nothing but the cursor of another life.
pub(crate) fn starting() -> (GroupOffer, GroupState) {
    let offer = GroupOffer { copy: CopyNeed::Needed, peer_proven: None, ..offer() };
    (offer, GroupState { durable: None, complete: false, copy_cursor: Some(cursor(0, 4096)), ..state() })
}

/// h of the source's line, from what is trimmed to what is durable.
pub(crate) fn history(at: Seq) -> Option<HistoryHash> {
    (20..=100).contains(&at.get()).then(|| hash(at.get()))
}

/// A source that has its mirror's state, with this credit for everything and for batches.
pub(crate) fn source_with(offer: GroupOffer, state: GroupState, bytes: u64, journal_bytes: u64) -> SourceSession {
    let mut source = SourceSession::new(ms(1_000), offer);
    let verdict = source.handle(ms(1_000), state.into(), &history).unwrap();
    assert!(matches!(verdict, Some(SourceEvent::Verdict { .. })));
    while source.poll_message().is_some() {}
    let credit = Credit { bytes, journal_bytes };
    assert_eq!(source.handle(ms(1_000), credit.into(), &history), Ok(Some(SourceEvent::Credit)));
    source
}

/// A mirror to which data flows. Its first acknowledgement and credit are still to be taken.
pub(crate) fn mirror_with(offer: GroupOffer, state: GroupState, window: u64, journal_free: u64) -> MirrorSession {
    let mut mirror = MirrorSession::new(ms(1_000), window);
    mirror.set_journal_free(journal_free);
    let verdict = reprise_link::handshake::verdict(&offer, &state, &history);
    mirror.handle(ms(1_000), offer.into(), 0).unwrap();
    mirror.answer(state.clone());
    assert_eq!(mirror.poll_message(), Some(state.into()));
    mirror.handle(ms(1_000), verdict.into(), 0).unwrap();
    assert!(mirror.is_streaming());
    mirror
}

pub(crate) fn heartbeat(id: u64, echo: u64) -> Message {
    Heartbeat { id, echo }.into()
}

/// True where the call panics: an owner that does this would break the other side's order or memory.
pub(crate) fn panics<T: Clone>(on: &T, call: impl FnOnce(&mut T)) -> bool {
    let mut copy = on.clone();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(&mut copy))).is_err()
}
