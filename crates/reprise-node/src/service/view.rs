//! What a group and its volumes look like to people. Pure: from a snapshot and what the node knows to API types.

use std::collections::BTreeSet;

use reprise_api::{
    Alert, BlockSize, CacheStatus, CopyStatus, GroupPositions, GroupState, GroupStatus, HeldBy, ImageStatus, LinkState,
    LinkStatus, MirrorTrouble, MirrorTroubleKind, Name, Rates, SessionStatus, TargetStatus, Totals, VolumeKind,
    VolumeState, VolumeStatus,
};
use reprise_engine::{CacheFill, GroupMeta, Hold, PeerMeta, PeerTrouble, VolumeMeta};
use reprise_format::link::Row;
use reprise_link::handshake::{Consequence, rule_of};
use reprise_scsi::Naa;
use reprise_types::{BlockFormat, GroupId, Role, VolumeId};

use crate::group::Snapshot;
use crate::store::PeerRecord;

use super::board::percent;
use super::image;
use super::meter::Meter;

/// What the node knows of a group beside its snapshot.
pub(crate) struct Facts<'a> {
    pub(crate) name: &'a Name,
    pub(crate) peer: Option<&'a PeerRecord>,
    pub(crate) meter: &'a Meter,
    pub(crate) fill: CacheFill,
    pub(crate) segment_len: u64,
    pub(crate) cache_full: bool,
    pub(crate) portals: &'a [String],
    pub(crate) leaving: &'a BTreeSet<String>,
    /// Volumes that are being made.
    pub(crate) preparing: Vec<VolumeStatus>,
    pub(crate) link_secs: f64,
    pub(crate) reconnects: u64,
    pub(crate) down_reason: Option<&'a str>,
    /// What a mirror holds.
    pub(crate) image: Option<ImageStatus>,
    pub(crate) alerts: Vec<Alert>,
}

/// The iSCSI name of a group's target: the same on both boxes.
pub(crate) fn target_name(group: GroupId, name: &str) -> String {
    format!("iqn.2026-11.io.reprise:{}.{name}", group.short())
}

/// A name from a superblock or a peer, which was checked when it came in.
pub(crate) fn known_name(text: &str) -> Name {
    let unnamed = || "unnamed".parse().ok();
    // "unnamed" follows the rule of names; a test says so.
    text.parse().ok().or_else(unnamed).expect("a constant name")
}

/// The row, if it is one on which data does not flow.
pub(super) fn stopping(snapshot: &Snapshot) -> Option<Row> {
    snapshot.link.row.filter(|row| rule_of(*row).consequence != Consequence::Stream)
}

fn advice(row: Row) -> String {
    let rule = rule_of(row);
    if rule.advice.is_empty() { rule.label.to_owned() } else { format!("{}: {}", rule.label, rule.advice) }
}

fn copy_unfinished(meta: &GroupMeta) -> bool {
    match meta.role() {
        Role::Source => meta.peer().is_some_and(PeerMeta::is_copying),
        Role::Mirror => meta.copy().is_some(),
    }
}

/// What the group is doing. Whatever needs a person comes first.
pub(crate) fn group_state(snapshot: &Snapshot, cache_full: bool) -> GroupState {
    let meta = &snapshot.meta;
    if let Some(reason) = &meta.fenced {
        return GroupState::Fenced { reason: reason.clone() };
    }
    match stopping(snapshot).filter(|_| image::ended(snapshot).is_none()) {
        Some(row @ (Row::Diverged | Row::BothSources)) => return GroupState::Diverged { reason: advice(row) },
        Some(row) => return GroupState::Waiting { reason: advice(row) },
        None => {}
    }
    if let Some(at_unix_ms) = image::ended(snapshot) {
        return GroupState::Ended { at_unix_ms };
    }
    if !snapshot.ready {
        return GroupState::Waiting { reason: "the end of the journal is being made durable after the start".into() };
    }
    if let Some((first, last, true)) = snapshot.rotten
        && snapshot.home_detached.is_none()
    {
        let reason = format!("records {first} to {last} of the journal are lost, and the mirror has yet to get them");
        return GroupState::Waiting { reason };
    }
    if let Some(reason) = &snapshot.home_detached {
        let reason = format!("a home is detached ({reason}): its writes stay in the cache until it is attached again");
        return GroupState::Waiting { reason };
    }
    if cache_full && meta.role() == Role::Source {
        return GroupState::CacheFull;
    }
    match meta.peer() {
        None => GroupState::Alone,
        Some(peer) if peer.paused => GroupState::Paused,
        Some(_) if !snapshot.link.streaming => GroupState::Disconnected,
        Some(_) if copy_unfinished(meta) => GroupState::Copying,
        Some(_) => GroupState::Ordered,
    }
}

fn held_by(hold: Hold) -> HeldBy {
    match hold {
        Hold::Fenced => HeldBy::Fenced,
        Hold::Sealing => HeldBy::Sealing,
        Hold::Detached => HeldBy::Detached,
        Hold::Comparison => HeldBy::Comparison,
        Hold::Strays => HeldBy::Strays,
        Hold::Units => HeldBy::Units,
        Hold::Unreadable => HeldBy::Unreadable,
        Hold::Copy => HeldBy::Copy,
        Hold::Paused => HeldBy::Paused,
        Hold::Stopped => HeldBy::Stopped,
        Hold::Disconnected => HeldBy::Disconnected,
        Hold::Greeting => HeldBy::Greeting,
    }
}

fn link_state(snapshot: &Snapshot, down_reason: Option<&str>) -> LinkState {
    if image::ended(snapshot).is_some() {
        return LinkState::Ended;
    }
    if snapshot.meta.peer().is_some_and(|p| p.paused) {
        return LinkState::Paused;
    }
    if let Some(row) = stopping(snapshot) {
        return LinkState::Refused { reason: advice(row) };
    }
    match (snapshot.link.streaming, snapshot.link.address.is_empty(), down_reason) {
        (true, _, _) => LinkState::Up,
        (false, false, _) => LinkState::Handshake,
        (false, true, Some(reason)) => LinkState::Down { reason: reason.to_owned() },
        // It is the source that dials.
        (false, true, None) if snapshot.meta.role() == Role::Mirror => {
            LinkState::Down { reason: "nothing comes from the source, which connects by itself".to_owned() }
        }
        (false, true, None) => LinkState::Connecting,
    }
}

fn link_status(snapshot: &Snapshot, facts: &Facts<'_>) -> Option<LinkStatus> {
    let meta = snapshot.meta.peer()?;
    let link = &snapshot.link;
    let rates = facts.meter.link();
    let known_address = (!link.address.is_empty()).then(|| link.address.clone());
    let payload = link.payload_out.max(link.payload_in);
    let wire = if link.payload_out >= link.payload_in { link.bytes_out } else { link.bytes_in };
    Some(LinkStatus {
        peer: facts.peer.map_or_else(|| known_name(&format!("box-{}", meta.peer.short())), |p| p.name.clone()),
        peer_id: meta.peer,
        state: link_state(snapshot, facts.down_reason),
        address: known_address.or_else(|| facts.peer.and_then(|p| p.address.clone())),
        rtt_ms: link.rtt_micros.map(|us| us as f64 / 1000.0),
        tx_bytes_per_sec: rates.tx,
        rx_bytes_per_sec: rates.rx,
        wire_ratio: (payload > 0).then(|| wire as f64 / payload as f64),
        credit_bytes: link.streaming.then_some(link.credit.0),
        in_flight_bytes: if link.streaming && meta.durable.is_some() { in_flight(snapshot) } else { 0 },
        state_secs: facts.link_secs,
        reconnects: facts.reconnects,
        mirror_troubles: mirror_troubles(snapshot),
    })
}

/// What the source knows to be wrong at its mirror.
pub(crate) fn mirror_troubles(snapshot: &Snapshot) -> Vec<MirrorTrouble> {
    let told = snapshot.link.trouble.as_ref().filter(|_| snapshot.meta.role() == Role::Source);
    let Some(PeerTrouble { what, detail }) = told else { return Vec::new() };
    let why = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
    let rotten = what.rotten.map(|r| {
        let fate = if r.lost { "and are lost" } else { "and are fetched from this box" };
        format!("records {} to {} of the mirror's journal cannot be read, {fate}", r.first, r.last)
    });
    let home = "a home of the mirror is detached";
    let found = [
        (MirrorTroubleKind::NotOpen, what.not_open.then(|| format!("the group does not run on the mirror's box{why}"))),
        (MirrorTroubleKind::Fenced, what.fenced.then(|| format!("the mirror is fenced{why}: it receives nothing"))),
        (MirrorTroubleKind::HomeDetached, what.home_detached.then(|| format!("{home}{why}: nothing is applied there"))),
        (MirrorTroubleKind::JournalRotten, rotten),
    ];
    found.into_iter().filter_map(|(kind, text)| Some(MirrorTrouble { kind, text: text? })).collect()
}

/// Sent and not durable at the peer, by the share of records: the journal counts bytes per record only in its index.
fn in_flight(snapshot: &Snapshot) -> u64 {
    let p = &snapshot.positions;
    let (Some(sent), Some(peer)) = (p.sent, p.peer_durable) else { return 0 };
    let behind = p.durable.since(peer);
    if behind == 0 { 0 } else { (snapshot.link.lag_bytes as f64 * sent.since(peer) as f64 / behind as f64) as u64 }
}

fn copy_status(snapshot: &Snapshot, rate: f64) -> Option<CopyStatus> {
    let (done, total) = snapshot.link.copy.filter(|_| copy_unfinished(&snapshot.meta))?;
    let (done, total) = (done.saturating_mul(512), total.saturating_mul(512));
    let secs_left = (rate > 0.0).then(|| total.saturating_sub(done) as f64 / rate);
    Some(CopyStatus {
        percent: percent(done, total),
        bytes_done: done,
        bytes_total: total,
        bytes_per_sec: rate,
        secs_left,
    })
}

fn cache_status(snapshot: &Snapshot, facts: &Facts<'_>) -> CacheStatus {
    let bytes_used = snapshot.stats.segments.saturating_mul(facts.segment_len);
    let free = u64::from(facts.fill.free()).saturating_mul(facts.segment_len);
    let bytes_total = bytes_used.saturating_add(free);
    CacheStatus {
        bytes_total,
        bytes_used,
        fill_percent: if bytes_total == 0 { 0.0 } else { percent(bytes_used, bytes_total) },
        segments: snapshot.stats.segments,
        forecast_full_secs: facts.meter.forecast(free),
        pacing_ms: if snapshot.meta.role() == Role::Source { facts.fill.pace_millis() as f64 } else { 0.0 },
    }
}

/// A volume that is part of a group.
pub(crate) fn volume_status(group: &Name, volume: &VolumeMeta, state: VolumeState) -> VolumeStatus {
    let adopted = volume.legs.iter().any(|l| l.adopted);
    let kind = match (adopted, volume.thin) {
        (true, _) => VolumeKind::Adopted,
        (false, true) => VolumeKind::Thin,
        (false, false) => VolumeKind::Thick,
    };
    VolumeStatus {
        name: known_name(&volume.name),
        id: volume.id,
        group: group.clone(),
        lun: volume.lun,
        size_bytes: volume.sectors.get().saturating_mul(512),
        kind,
        replicated: !volume.local_only,
        block_size: match volume.block_size {
            BlockFormat::Emulated512 => BlockSize::Emulated512,
            BlockFormat::Native512 => BlockSize::Native512,
            BlockFormat::Native4096 => BlockSize::Native4096,
        },
        read_only: volume.read_only,
        home: volume.legs.first().map(|l| l.path.clone()).unwrap_or_default(),
        state,
        serial: serial(volume.id),
        naa: naa(volume.id),
    }
}

/// Unit serial number as hosts see it.
pub(crate) fn serial(volume: VolumeId) -> String {
    volume.to_string()
}

/// NAA identifier as hosts see it.
pub(crate) fn naa(volume: VolumeId) -> String {
    hex::encode(Naa::from_volume(volume).as_bytes())
}

/// A group whose thread runs.
pub(crate) fn group_status(snapshot: &Snapshot, facts: Facts<'_>) -> GroupStatus {
    let meta = &snapshot.meta;
    let with_peer = meta.peer().is_some();
    let source = meta.role() == Role::Source;
    let stats = &snapshot.stats;
    // What a mirror lacks is known to its source only.
    let measures = with_peer && source;
    let lag_secs = measures.then_some(snapshot.link.lag_millis as f64 / 1000.0);
    let ready = || if source { VolumeState::Ready } else { VolumeState::Image };
    let mut volumes: Vec<VolumeStatus> = meta
        .volumes
        .iter()
        .map(|v| {
            let leaving = facts.leaving.contains(&v.name);
            volume_status(facts.name, v, if leaving { VolumeState::Leaving } else { ready() })
        })
        .collect();
    volumes.extend(facts.preparing.iter().cloned());
    volumes.sort_by_key(|v| v.lun);
    let now = crate::clock::now();
    let sessions = snapshot.sessions.iter().map(|s| SessionStatus {
        initiator: s.initiator.clone(),
        address: s.address.clone(),
        age_secs: now.mono.millis_since(s.since) / 1000,
        since_unix_ms: (now.wall.get() / 1000).saturating_sub(now.mono.millis_since(s.since)),
        chap_user: s.chap_user.clone(),
        header_digest: s.header_digest,
        data_digest: s.data_digest,
        commands_in_flight: u32::try_from(s.commands).unwrap_or(u32::MAX),
    });
    let target = TargetStatus {
        iqn: target_name(meta.group, &meta.name),
        portals: facts.portals.to_vec(),
        sessions: sessions.collect(),
    };
    GroupStatus {
        name: facts.name.clone(),
        id: meta.group,
        role: meta.role(),
        branch: meta.branch(),
        state: group_state(snapshot, facts.cache_full),
        positions: GroupPositions {
            home_held_by: snapshot.home_held_by.map(held_by),
            peer_held_by: snapshot.peer_held_by.map(held_by),
            ..snapshot.positions.into()
        },
        lag_secs,
        lag_bytes: measures.then_some(snapshot.link.lag_bytes),
        cache: cache_status(snapshot, &facts),
        volumes,
        targets: if source { vec![target] } else { Vec::new() },
        link: link_status(snapshot, &facts),
        image: facts.image,
        copy: copy_status(snapshot, facts.meter.link().copy),
        rates: facts.meter.rates(measures),
        totals: Totals {
            writes: stats.writes,
            write_bytes: stats.bytes_in,
            reads: stats.reads,
            read_bytes: stats.bytes_read,
            applied_bytes: stats.bytes_applied,
            sent_bytes: stats.bytes_sent,
            wire_bytes: facts.meter.wire_bytes(),
            batches: stats.journal_writes,
        },
        alerts: facts.alerts,
    }
}

/// A group that does not run: why, and what its superblock says, where that could be read.
pub(crate) fn failed_status(
    name: &Name,
    id: GroupId,
    meta: Option<&GroupMeta>,
    reason: &str,
    heals: bool,
    alerts: Vec<Alert>,
) -> GroupStatus {
    let missing = || VolumeState::Missing { reason: reason.to_owned() };
    let reason = reason.to_owned();
    GroupStatus {
        name: name.clone(),
        id,
        role: meta.map_or(Role::Source, |m| m.role()),
        branch: meta.map(GroupMeta::branch).unwrap_or_default(),
        state: if heals {
            GroupState::Waiting { reason: reason.clone() }
        } else {
            GroupState::Fenced { reason: reason.clone() }
        },
        positions: Default::default(),
        lag_secs: None,
        lag_bytes: None,
        cache: CacheStatus::default(),
        volumes: meta
            .map(|m| m.volumes.iter().map(|v| volume_status(name, v, missing())).collect())
            .unwrap_or_default(),
        targets: Vec::new(),
        link: None,
        image: None,
        copy: None,
        rates: Rates::default(),
        totals: Totals::default(),
        alerts,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use reprise_engine::{Branch, CopyState, LegMeta, RoleMeta};
    use reprise_format::link::Instance;
    use reprise_types::{BoxId, BranchId, Point, Positions, SectorCount, Seq, VolumeSlot};

    use super::*;
    use crate::group::LinkView;

    /// A mirror whose first copy is complete.
    pub(crate) fn mirror_role() -> RoleMeta {
        RoleMeta::Mirror { copy: None, ended: None }
    }

    pub(crate) fn meta() -> GroupMeta {
        let branch = BranchId::from_raw([9; 16]);
        let start = Point { branch, ..Point::default() };
        GroupMeta {
            group: GroupId::from_raw([7; 16]),
            name: "pg".into(),
            role: RoleMeta::Source,
            branches: vec![Branch { id: branch, fork: None, ceded: false }],
            trimmed: start,
            applied: Seq::ZERO,
            applying: Seq::ZERO,
            seal: start,
            incarnation: 1,
            volumes: vec![VolumeMeta {
                slot: VolumeSlot::from_raw(1),
                id: VolumeId::from_raw([5; 16]),
                sectors: SectorCount::from_raw(2048),
                name: "data".into(),
                lun: 0,
                legs: vec![LegMeta { path: "/x/data.home".into(), adopted: false, identity: "file:1:2".into() }],
                local_only: false,
                thin: false,
                block_size: BlockFormat::default(),
                read_only: false,
                unit: None,
            }],
            peers: vec![],
            fenced: None,
            next_slot: 2,
            generation_floor: 0,
        }
    }

    pub(crate) fn snapshot(change: impl FnOnce(&mut GroupMeta, &mut LinkView)) -> Snapshot {
        let (mut meta, mut link) = (meta(), LinkView::default());
        change(&mut meta, &mut link);
        Snapshot {
            meta: Arc::new(meta),
            positions: Positions::default(),
            home_held_by: None,
            peer_held_by: None,
            stats: Default::default(),
            ready: true,
            home_detached: None,
            home_too_small: None,
            segment_fault: None,
            rotten: None,
            verify: None,
            durable: Point::default(),
            image_wall: None,
            link,
            sessions: Vec::new(),
            buffers: 0,
            latencies: Arc::default(),
        }
    }

    pub(crate) fn peer() -> PeerMeta {
        PeerMeta {
            peer: BoxId::from_raw([2; 16]),
            durable: Some(Point::default()),
            copy: None,
            paused: false,
            instance: Instance { acknowledged: [0; 16], current: [1; 16] },
            seen: None,
        }
    }

    #[test]
    fn states_say_what_is_true() {
        type Change = fn(&mut GroupMeta, &mut LinkView);
        let cases: &[(&str, Change)] = &[
            ("alone", |_, _| {}),
            ("disconnected", |m, _| m.peers = vec![peer()]),
            ("ordered", |m, l| (m.peers, l.streaming) = (vec![peer()], true)),
            ("copying", |m, l| {
                let copy = Some(CopyState::default());
                (m.peers, l.streaming) = (vec![PeerMeta { copy, ..peer() }], true);
            }),
            ("copying", |m, l| (m.peers, l.streaming) = (vec![PeerMeta { durable: None, ..peer() }], true)),
            ("paused", |m, _| m.peers = vec![PeerMeta { paused: true, ..peer() }]),
            ("diverged", |m, l| (m.peers, l.row) = (vec![peer()], Some(Row::Diverged))),
            ("waiting", |m, l| (m.peers, l.row) = (vec![peer()], Some(Row::UnknownGroup))),
            ("ordered", |m, l| (m.peers, l.streaming, l.row) = (vec![peer()], true, Some(Row::Resume))),
            ("fenced", |m, l| (m.fenced, l.row) = (Some("disk".into()), Some(Row::Diverged))),
        ];
        for (kind, change) in cases {
            assert_eq!(group_state(&snapshot(*change), false).kind(), *kind);
        }
        assert_eq!(group_state(&snapshot(|_, _| {}), true), GroupState::CacheFull);
        let mirror = snapshot(|m, l| (m.role, m.peers, l.streaming) = (mirror_role(), vec![peer()], true));
        assert_eq!(group_state(&mirror, true), GroupState::Ordered, "a full cache holds no host of a mirror");
    }

    #[test]
    fn a_status_has_volumes_target_cache_and_link() {
        let snapshot = snapshot(|m, l| {
            m.peers = vec![peer()];
            *l = LinkView { streaming: true, address: "10.0.0.2:3261".into(), lag_millis: 1500, ..LinkView::default() };
        });
        let name = known_name("pg");
        let facts = Facts {
            name: &name,
            peer: None,
            meter: &Meter::default(),
            fill: CacheFill { total: 64, used: 4, reserve: 4 },
            segment_len: 1 << 20,
            cache_full: false,
            portals: &["127.0.0.1:3260".to_owned()],
            leaving: &BTreeSet::from(["data".to_owned()]),
            preparing: Vec::new(),
            link_secs: 1.0,
            reconnects: 0,
            down_reason: None,
            image: None,
            alerts: Vec::new(),
        };
        let status = group_status(&snapshot, facts);
        assert_eq!(status.targets[0].iqn, "iqn.2026-11.io.reprise:07070707.pg");
        assert_eq!((status.volumes[0].state.clone(), status.volumes[0].size_bytes), (VolumeState::Leaving, 1 << 20));
        assert_eq!(status.volumes[0].naa, "3505050505050505");
        assert_eq!(status.cache.bytes_total, 56 << 20);
        assert_eq!(status.lag_secs, Some(1.5));
        let link = status.link.unwrap();
        assert_eq!((link.state, link.peer.as_str()), (LinkState::Up, "box-02020202"));
    }

    #[test]
    fn odd_names_do_not_stop_a_status() {
        assert_eq!(known_name("Not A Name").as_str(), "unnamed");
        let failed = failed_status(&known_name("x"), GroupId::NIL, Some(&meta()), "gone", true, vec![]);
        assert_eq!(failed.state.kind(), "waiting");
        assert!(matches!(failed.volumes[0].state, VolumeState::Missing { .. }));
    }

    #[test]
    fn pacing_follows_the_fill() {
        for (used, ms) in [(0, 0), (76, 0), (96, 20), (86, 5)] {
            assert_eq!(CacheFill { total: 100, used, reserve: 4 }.pace_millis(), ms, "{used}");
        }
    }
}
