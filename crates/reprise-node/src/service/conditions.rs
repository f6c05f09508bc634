//! Which alerts hold. Pure: each look is given what there is to see, and says all that holds; what it does not say is over.

use std::time::Duration;

use reprise_api::{MirrorTroubleKind, Name};
use reprise_link::handshake::rule_of;
use reprise_types::{Role, Seq};

use super::image::{self, Heard};
use super::stall::Stall;
use super::told::{Message, Told};
use super::view;
use super::words::Words;
use crate::group::Snapshot;

/// A link that is down for so long is told: a shorter break heals by itself and changes nothing.
const LINK_DOWN_TOLD: Duration = Duration::from_secs(30);
/// A cache that will be full within this time is told.
const FORECAST_TOLD_SECS: f64 = 3600.0;
/// Below this fill no forecast is told: the first segments of a journal look like growth.
const FORECAST_FILL_MIN: f64 = 0.2;
/// A cache filled so far is told, whatever the forecast.
const FILL_TOLD: f64 = 0.8;
/// Clocks may differ by this much before somebody is told. Order never depends on them, but people read them.
pub(super) const CLOCK_OFFSET_MAX_SECS: f64 = 3600.0;

/// Codes of alerts that [`of_group`] decides.
pub(super) const OF_GROUP: [&str; 16] = [
    "fenced",
    "home-failed",
    "journal-rotten",
    "cache-failed",
    "read-errors",
    "link-stopped",
    "link-down",
    "source-silent",
    "link-stalled",
    "home-too-small",
    "mirror-not-open",
    "mirror-fenced",
    "mirror-home-failed",
    "mirror-journal-rotten",
    "cache-full",
    "cache-filling",
];

/// Codes of alerts that [`of_box`] decides.
pub(super) const OF_BOX: [&str; 2] = ["index-full", "no-password"];

/// What there is to see of a group whose thread runs.
pub(super) struct GroupSeen<'a> {
    pub(super) name: &'a Name,
    pub(super) snapshot: &'a Snapshot,
    /// The group has no room in the cache for a write.
    pub(super) cache_full: bool,
    /// Of the whole cache, 0 to 1.
    pub(super) fill: f64,
    /// Seconds until the cache is full, where it fills.
    pub(super) full_in_secs: Option<f64>,
    /// Why a home that is too small could not be given the room.
    pub(super) no_room: Option<&'a str>,
    /// Since the link was up, or since it has been down.
    pub(super) link_for: Duration,
    pub(super) stall: Option<Stall>,
    pub(super) down_reason: Option<&'a str>,
    /// Name of the box at the other end, where it is known.
    pub(super) peer: Option<&'a str>,
    pub(super) heard: &'a Heard,
    pub(super) words: Words,
}

/// What there is to see of the box.
pub(super) struct BoxSeen {
    pub(super) index_full: bool,
    /// That the index is full has been told and not been taken back.
    pub(super) index_told: bool,
    /// Bytes that the indexes of the journals have, and may have.
    pub(super) index: (u64, u64),
    pub(super) lacks_password: bool,
}

/// All alerts that hold for the box.
pub(super) fn of_box(seen: &BoxSeen) -> Vec<Told> {
    let mut found = Vec::new();
    let (used, limit) = seen.index;
    // Cleared with some distance, so that it does not come and go with every segment.
    if seen.index_full || (seen.index_told && used >= limit / 10 * 9) {
        found.push(Message::IndexFull { mib: limit >> 20 }.about("box"));
    }
    if seen.lacks_password {
        found.push(Message::NoPassword {}.about("box"));
    }
    found
}

/// The clock of a peer, seconds before this box's.
pub(super) fn of_clock(peer: &Name, offset: f64) -> Option<Told> {
    let secs = format!("{offset:.0}");
    let told = Message::ClockOffset { peer: peer.as_str(), secs: &secs }.about(format!("peer {peer}"));
    (offset.abs() > CLOCK_OFFSET_MAX_SECS).then_some(told)
}

/// A peer that mirrors something of this box, and whose cache is much slower than this box's.
pub(super) fn of_speed(peer: &Name, slower: bool) -> Option<Told> {
    slower.then(|| Message::PeerSlower { peer: peer.as_str() }.about(format!("peer {peer}")))
}

/// All alerts of [`OF_GROUP`] that hold for a group.
pub(super) fn of_group(seen: &GroupSeen<'_>) -> Vec<Told> {
    let subject = format!("group {}", seen.name);
    let mut found = disks(seen.snapshot, &subject);
    found.extend(link(seen, &subject));
    found.extend(room(seen, &subject));
    found.extend(mirror(seen.snapshot, &subject));
    found.extend(cache(seen, &subject));
    found
}

fn disks(snapshot: &Snapshot, subject: &str) -> Vec<Told> {
    let mut found = Vec::new();
    if let Some(why) = &snapshot.meta.fenced {
        found.push(Message::Fenced { why }.about(subject));
    }
    if let Some(why) = &snapshot.home_detached {
        found.push(Message::HomeFailed { why }.about(subject));
    }
    let applied: Seq = snapshot.positions.applied;
    match snapshot.rotten {
        Some((first, last, true)) => found.push(Message::JournalLost { first, last, applied }.about(subject)),
        Some((first, last, false)) => found.push(Message::JournalRotten { first, last }.about(subject)),
        None => {}
    }
    if let Some(why) = &snapshot.segment_fault {
        found.push(Message::CacheFailed { why }.about(subject));
    }
    let errors = snapshot.stats.read_errors;
    if errors > 0 {
        found.push(Message::ReadErrors { reads: rounded(errors) }.about(subject));
    }
    found
}

/// Down to one digit, so that a text does not change with every look.
pub(super) fn rounded(count: u64) -> u64 {
    let digits = 10u64.pow(count.max(1).ilog10());
    count / digits * digits
}

fn room(seen: &GroupSeen<'_>, subject: &str) -> Option<Told> {
    let (slot, sectors) = seen.snapshot.home_too_small?;
    let volume = seen.snapshot.meta.volume(slot).map_or("", |v| v.name.as_str());
    let why = seen.no_room.map(|why| format!(" ({why})")).unwrap_or_default();
    Some(Message::HomeTooSmall { volume, bytes: sectors.bytes(), why: &why }.about(subject))
}

fn link(seen: &GroupSeen<'_>, subject: &str) -> Vec<Told> {
    let (snapshot, mut found) = (seen.snapshot, Vec::new());
    let stopped = view::stopping(snapshot).map(rule_of);
    if let Some(rule) = stopped {
        found.push(Message::LinkStopped { why: rule.label, advice: rule.advice }.about(subject));
    }
    let peer = snapshot.meta.peer();
    // A verdict says more than silence, and a pause was asked for.
    let wants = peer.is_some_and(|p| !p.paused) && snapshot.meta.ended().is_none() && stopped.is_none();
    let quiet = if wants && !snapshot.link.streaming { seen.link_for } else { Duration::ZERO };
    let name = peer.map(|p| seen.peer.map_or_else(|| p.peer.short(), str::to_owned));
    match (snapshot.meta.role(), &name) {
        (Role::Mirror, Some(source)) => {
            let image = image::status(snapshot, seen.name, source, seen.heard, seen.words);
            found.extend(image.and_then(|image| image::alert(&image, subject, quiet)));
        }
        (Role::Source, Some(peer)) if quiet > LINK_DOWN_TOLD => {
            let how = mirror_away(seen, peer);
            found.push(Message::MirrorAway { how: &how, peer }.about(subject));
        }
        _ => {}
    }
    if let Some(stall) = seen.stall.filter(|_| wants) {
        found.push(stall.message(seen.peer.unwrap_or("the peer")).about(subject));
    }
    found
}

/// What is known of a mirror that does not take the writes of its source.
fn mirror_away(seen: &GroupSeen<'_>, peer: &str) -> String {
    let why = seen.down_reason.map(|r| format!(" ({r})")).unwrap_or_default();
    match (seen.heard.connected, seen.heard.last_unix_ms) {
        (true, _) => format!("{peer} answers, but does not take what {} writes{why}.", seen.name),
        (false, Some(ms)) => format!("{peer} has been silent since {}{why}.", image::at(ms)),
        (false, None) => format!("{peer} has not been heard since this box started{why}."),
    }
}

/// What a mirror tells of itself holds here too: whoever looks after the source is to know what the mirror is worth.
fn mirror(snapshot: &Snapshot, subject: &str) -> Vec<Told> {
    let told = |found: reprise_api::MirrorTrouble| {
        let mut text = found.text;
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let trouble = text.as_str();
        let message = match found.kind {
            MirrorTroubleKind::NotOpen => Message::MirrorNotOpen { trouble },
            MirrorTroubleKind::Fenced => Message::MirrorFenced { trouble },
            MirrorTroubleKind::HomeDetached => Message::MirrorHomeFailed { trouble },
            MirrorTroubleKind::JournalRotten => Message::MirrorJournalRotten { trouble },
        };
        message.about(subject)
    };
    view::mirror_troubles(snapshot).into_iter().map(told).collect()
}

fn cache(seen: &GroupSeen<'_>, subject: &str) -> Option<Told> {
    if seen.snapshot.meta.role() != Role::Source {
        return None;
    }
    if seen.cache_full {
        return Some(Message::CacheFull {}.about(subject));
    }
    let counts = seen.fill > FORECAST_FILL_MIN;
    let forecast = seen.full_in_secs.filter(|secs| counts && *secs < FORECAST_TOLD_SECS);
    if forecast.is_none() && seen.fill <= FILL_TOLD {
        return None;
    }
    // Rounded, so that the text does not change with every look.
    let when = forecast.map_or_else(|| "not soon".to_owned(), |s| format!("in about {:.0} min", (s / 60.0).ceil()));
    let percent = (seen.fill * 10.0).floor() as u64 * 10;
    Some(Message::CacheFilling { percent, when: &when }.about(subject))
}

#[cfg(test)]
mod tests {
    use reprise_engine::GroupMeta;
    use reprise_format::link::Row;
    use reprise_types::VolumeSlot;

    use super::super::view::known_name;
    use super::super::view::tests::{mirror_role, peer, snapshot};
    use super::*;
    use crate::group::LinkView;

    type Change = fn(&mut GroupSeen<'_>);
    type Of = fn(&mut GroupMeta, &mut LinkView);

    /// The texts of the alerts that hold.
    fn look(of: Of, then: impl FnOnce(&mut Snapshot), change: Change) -> Vec<(&'static str, String)> {
        let mut snapshot = snapshot(of);
        then(&mut snapshot);
        let name = known_name("pg");
        let mut seen = GroupSeen {
            name: &name,
            snapshot: &snapshot,
            cache_full: false,
            fill: 0.1,
            full_in_secs: None,
            no_room: None,
            link_for: Duration::ZERO,
            stall: None,
            down_reason: None,
            peer: Some("turin"),
            heard: &Heard::default(),
            words: Words { appliance: false },
        };
        change(&mut seen);
        let found = of_group(&seen);
        assert!(found.iter().all(|t| OF_GROUP.contains(&t.code) && t.subject == "group pg"), "{found:?}");
        found.into_iter().map(|t| (t.code, t.text)).collect()
    }

    fn codes(of: Of, change: Change) -> Vec<&'static str> {
        look(of, |_| {}, change).into_iter().map(|(code, _)| code).collect()
    }

    #[test]
    fn nothing_is_told_of_a_group_that_is_well() {
        assert!(codes(|_, _| {}, |_| {}).is_empty());
        assert!(codes(|m, l| (m.peers, l.streaming) = (vec![peer()], true), |s| s.link_for = HOUR).is_empty());
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_link_that_is_down_is_told_unless_that_was_wanted_or_a_verdict_says_more() {
        let check = |of: Of, expected: &[&str]| assert_eq!(codes(of, |s| s.link_for = HOUR), expected);
        check(|m, _| m.peers = vec![peer()], &["link-down"]);
        check(|m, _| m.peers = vec![reprise_engine::PeerMeta { paused: true, ..peer() }], &[]);
        check(|m, l| (m.peers, l.row) = (vec![peer()], Some(Row::Diverged)), &["link-stopped"]);
        check(|m, _| (m.role, m.peers) = (mirror_role(), vec![peer()]), &["source-silent"]);
        check(|_, _| {}, &[]);
        let told =
            look(|m, _| m.peers = vec![peer()], |_| {}, |s| (s.link_for, s.down_reason) = (HOUR, Some("refused")));
        assert_eq!(
            told[0].1,
            "turin has not been heard since this box started (refused). The cache of this box takes the writes of the hosts."
        );
        assert!(
            codes(|m, _| m.peers = vec![peer()], |s| s.link_for = LINK_DOWN_TOLD).is_empty(),
            "a short break heals"
        );
    }

    #[test]
    fn a_cache_is_full_or_filling_and_that_only_at_a_source() {
        let cases: [(&[&str], Change); 5] = [
            (&["cache-full"], |s| (s.cache_full, s.fill) = (true, 0.95)),
            (&["cache-filling"], |s| s.fill = 0.85),
            (&["cache-filling"], |s| (s.fill, s.full_in_secs) = (0.3, Some(600.0))),
            (&[], |s| (s.fill, s.full_in_secs) = (0.15, Some(600.0))),
            (&[], |s| (s.fill, s.full_in_secs) = (0.3, Some(7200.0))),
        ];
        for (expected, change) in cases {
            assert_eq!(codes(|_, _| {}, change), expected);
        }
        let mirror: Of = |m, l| (m.role, m.peers, l.streaming) = (mirror_role(), vec![peer()], true);
        assert!(codes(mirror, |s| (s.cache_full, s.fill) = (true, 0.95)).is_empty());
        let told = look(|_, _| {}, |_| {}, |s| (s.fill, s.full_in_secs) = (0.37, Some(601.0)));
        assert_eq!(told[0].1, "The cache is filling: more than 30 % used, full in about 11 min.");
    }

    #[test]
    fn what_disks_do_is_told_with_its_reason() {
        let broken = |s: &mut Snapshot| {
            s.home_detached = Some("EIO".into());
            s.segment_fault = Some("no space".into());
            s.rotten = Some((Seq::from_raw(3), Seq::from_raw(5), true));
            s.stats.read_errors = 57;
            s.home_too_small = Some((VolumeSlot::from_raw(1), reprise_types::SectorCount::from_raw(4096)));
        };
        let told = look(|m, _| m.fenced = Some("EIO".into()), broken, |s| s.no_room = Some("full"));
        let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, ["fenced", "home-failed", "journal-rotten", "cache-failed", "read-errors", "home-too-small"]);
        assert!(told[4].1.starts_with("At least 50 reads"), "{told:?}");
        assert!(told[5].1.contains("2097152 bytes, and its home here has no room for them (full)."), "{told:?}");
    }

    #[test]
    fn a_full_index_is_taken_back_with_some_distance() {
        let check = |full: bool, told: bool, used: u64, expected: bool| {
            let seen = BoxSeen { index_full: full, index_told: told, index: (used, 100 << 20), lacks_password: false };
            assert_eq!(!of_box(&seen).is_empty(), expected, "{full} {told} {used}");
        };
        check(true, false, 100 << 20, true);
        check(false, true, 95 << 20, true);
        check(false, false, 95 << 20, false);
        check(false, true, 80 << 20, false);
    }
}
