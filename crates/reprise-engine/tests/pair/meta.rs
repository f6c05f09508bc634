//! The superblock: what is put in comes out, and what cannot be is refused.

use reprise_engine::{Branch, CacheFill, CopyState, GroupMeta, LegMeta, MetaError, PeerMeta, RoleMeta, VolumeMeta};
use reprise_format::link::CopyCursor;
use reprise_format::superblock::{CopyBody, GroupBody};
use reprise_types::{
    BlockFormat, BoxId, BranchId, HistoryHash, InitiatorPort, Point, Registration, Reservation, ReservationType,
    Sector, UnitState, WallMicros,
};

use crate::harness::{BRANCH, GROUP, seq, slot, source_instance, volume};

const OTHER: BranchId = BranchId::from_raw([5; 16]);

fn point(branch: BranchId, at: u64) -> Point {
    Point { branch, seq: seq(at), hash: HistoryHash::from_raw([at as u8; 16]) }
}

fn copy(at: u16, sector: u64, complete_at: Option<u64>) -> CopyState {
    let cursor = Some(CopyCursor { slot: slot(at), sector: Sector::from_raw(sector) });
    CopyState { cursor, reach: Some(point(BRANCH, 7)), complete_at: complete_at.map(seq) }
}

/// A superblock in which every field says something.
fn full() -> GroupMeta {
    let port = InitiatorPort::new("iqn.2026-01.invalid.example:host", [1, 2, 3, 4, 5, 6]);
    let unit = UnitState {
        registrations: vec![Registration { port: port.clone(), relative_port: 1, key: 17 }],
        reservation: Some(Reservation { kind: ReservationType::WriteExclusive, holder: port }),
        software_write_protect: true,
    };
    let first = VolumeMeta {
        legs: vec![LegMeta { path: "/data/v0".into(), adopted: true, identity: "wwn-1".into() }],
        block_size: BlockFormat::Native4096,
        thin: true,
        read_only: true,
        unit: Some(unit),
        ..volume(0, 4096)
    };
    let second = VolumeMeta { local_only: true, lun: 9, ..volume(3, 2048) };
    GroupMeta {
        group: GROUP,
        name: "orders".into(),
        role: RoleMeta::Source,
        branches: vec![
            Branch { id: BRANCH, fork: None, ceded: true },
            Branch { id: OTHER, fork: Some(point(BRANCH, 4)), ceded: false },
        ],
        trimmed: point(BRANCH, 3),
        applied: seq(5),
        applying: seq(6),
        seal: point(OTHER, 8),
        incarnation: 7,
        volumes: vec![first, second],
        peers: vec![PeerMeta {
            peer: BoxId::from_raw([2; 16]),
            durable: Some(point(OTHER, 7)),
            copy: Some(copy(1, 0, None)),
            paused: true,
            instance: source_instance(),
            seen: Some([9; 16]),
        }],
        fenced: Some("the disk reports error 5".into()),
        next_slot: 4,
        generation_floor: 12,
    }
}

#[test]
fn every_field_comes_back() {
    let meta = full();
    assert_eq!(GroupMeta::from_body(&meta.to_body()), Ok(meta.clone()));
    let empty = PeerMeta { durable: None, copy: None, paused: false, seen: None, ..meta.peers[0] };
    let mirror = GroupMeta { role: RoleMeta::NEW_MIRROR, fenced: None, peers: vec![empty], ..meta };
    assert_eq!(GroupMeta::from_body(&mirror.to_body()), Ok(mirror.clone()));
    let role = RoleMeta::Mirror {
        copy: Some(copy(0, 128, Some(6))),
        ended: Some(WallMicros::from_raw(1_700_000_000_000_000)),
    };
    let ended = GroupMeta { role, ..mirror.clone() };
    assert_eq!(GroupMeta::from_body(&ended.to_body()), Ok(ended));
    let role = RoleMeta::Mirror { copy: None, ended: None };
    let alone = GroupMeta { role, peers: vec![], ..mirror };
    assert_eq!(GroupMeta::from_body(&alone.to_body()), Ok(alone.clone()));
}

/// A release that does not know the field ends a mirror by pausing it there; a source that is paused has a mirror.
#[test]
fn a_mirror_that_was_paused_has_ended() {
    let mut body = full().to_body();
    assert_eq!(GroupMeta::from_body(&body).unwrap().ended(), None);
    body.role = 2;
    assert_eq!(GroupMeta::from_body(&body).unwrap().ended(), Some(WallMicros::from_raw(0)));
}

#[test]
fn the_current_branch_is_the_last_one_and_the_first_of_the_lineage() {
    let meta = full();
    assert_eq!(meta.branch(), OTHER);
    let lineage = meta.lineage();
    assert_eq!((lineage[0].branch, lineage[0].parent, lineage[0].fork_seq), (OTHER, BRANCH, seq(4)));
    assert_eq!(lineage[0].fork_hash, HistoryHash::from_raw([4; 16]));
    assert_eq!((lineage[1].branch, lineage[1].parent), (BRANCH, BranchId::NIL));
    assert_eq!(lineage.len(), 2);
    // A mirror takes it over; what was ceded is the other box's own business.
    let mut mirror = GroupMeta { branches: vec![], ..full() };
    assert_eq!(mirror.branch(), BranchId::NIL);
    mirror.set_lineage(&lineage);
    assert_eq!(mirror.lineage(), lineage);
    let first = Branch { id: BRANCH, fork: None, ceded: false };
    assert_eq!(mirror.branches, [first, Branch { id: OTHER, fork: Some(point(BRANCH, 4)), ceded: false }]);
}

#[test]
fn a_volume_is_found_by_its_slot_and_told_to_the_link() {
    let meta = full();
    assert_eq!(meta.volume(slot(3)).map(|v| v.lun), Some(9));
    assert_eq!(meta.volume(slot(1)), None);
    let told = meta.link_volumes();
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].slot, told[0].lun, told[0].thin, told[0].read_only), (slot(0), 0, true, true));
    assert_eq!((told[1].slot, told[1].lun, told[1].sectors.get()), (slot(3), 9, 2048));
    assert_eq!(told[0].block_size, 4096);
}

#[track_caller]
fn refused(field: &'static str, spoil: impl FnOnce(&mut GroupBody)) {
    let mut body = full().to_body();
    spoil(&mut body);
    assert_eq!(GroupMeta::from_body(&body), Err(MetaError::Field(field)));
}

/// The copy of the same group as a mirror has it: a source has none.
fn mirror_copy(body: &mut GroupBody) -> &mut CopyBody {
    body.role = 2;
    body.copy.get_or_insert_default()
}

#[test]
fn a_field_that_cannot_be_is_refused() {
    refused("group", |b| b.group.truncate(15));
    refused("role", |b| b.role = 0);
    refused("role", |b| b.role = 3);
    refused("trimmed", |b| b.trimmed = None);
    refused("seal", |b| b.seal = None);
    refused("branch", |b| b.branches[0].id.push(0));
    refused("slot", |b| b.volumes[0].slot = 1 << 16);
    refused("lun", |b| b.volumes[0].lun = 1 << 16);
    refused("block_size", |b| b.volumes[0].block_size = 1);
    refused("next_slot", |b| b.next_slot = 1 << 16);
    refused("copy", |b| mirror_copy(b).slot = 1 << 16);
    refused("peer", |b| b.peers[0].peer.clear());
    refused("instance", |b| b.peers[0].instance_current.clear());
    refused("seen", |b| b.peers[0].instance_seen.truncate(3));
    refused("peers", |b| b.peers.push(b.peers[0].clone()));
}

#[test]
fn what_no_group_has_is_refused() {
    let past = (1 << 62) + 1;
    refused("trimmed", |b| b.trimmed.as_mut().unwrap().seq = past);
    refused("seal", |b| b.seal.as_mut().unwrap().seq = u64::MAX);
    refused("applied", |b| b.applied = past);
    refused("applying", |b| b.applying = u64::MAX);
    refused("peer durable", |b| b.peers[0].durable.as_mut().unwrap().seq = past);
    refused("peer durable", |b| b.peers[0].durable.as_mut().unwrap().seq = 2);
    refused("copy", |b| mirror_copy(b).complete_at = past);
    refused("copy", |b| mirror_copy(b).sector = u64::MAX);
    refused("fork", |b| b.branches[1].fork.as_mut().unwrap().seq = past);
    refused("branches", |b| b.branches.clear());
    refused("branches", |b| b.branches = vec![b.branches[0].clone(); 49]);
    refused("branches", |b| b.branches.swap(0, 1));
    refused("sectors", |b| b.volumes[0].sectors = (1 << 48) + 1);
    refused("volumes", |b| b.volumes[0].slot = 3);
    refused("volumes", |b| b.volumes = vec![b.volumes[0].clone(); 65]);
    refused("volumes", |b| b.next_slot = 3);
    refused("volumes", |b| b.volumes[1].lun = b.volumes[0].lun);
    refused("volumes", |b| b.volumes[1].lun = 256);
    refused("generation_floor", |b| b.generation_floor = u64::MAX);
    refused("name", |b| b.name = "a\nb".into());
    refused("name", |b| b.volumes[0].name = "\u{1b}[2J".into());
}

#[test]
fn positions_out_of_order_are_refused() {
    refused("applied", |b| b.applied = 2);
    refused("applied", |b| b.applying = 4);
    let mut body = full().to_body();
    (body.applied, body.applying) = (3, 3);
    assert!(GroupMeta::from_body(&body).is_ok(), "all of them may be at one place");
}

#[test]
fn data_may_use_what_is_not_kept_back() {
    let fill = |used| CacheFill { total: 110, used, reserve: 10 };
    assert_eq!(fill(30).free(), 70);
    assert_eq!(fill(105).free(), 0, "the reserve is in use");
    assert_eq!((fill(0).fraction(), fill(50).fraction(), fill(100).fraction()), (0.0, 0.5, 1.0));
    assert_eq!(fill(110).fraction(), 1.0);
}

#[test]
fn the_pause_grows_with_the_square_from_80_percent_on() {
    let pause = |used| CacheFill { total: 100, used, reserve: 0 }.pace_millis();
    assert_eq!([0, 50, 80].map(pause), [0, 0, 0]);
    // A quarter, half and three quarters of the way: 1/16, 1/4 and 9/16 of 20 ms.
    assert_eq!([85, 90, 95, 100].map(pause), [1, 5, 11, 20]);
}
