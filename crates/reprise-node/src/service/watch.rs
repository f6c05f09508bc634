//! What the control plane does without being asked: dials, measures, raises and clears alerts, tries again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reprise_api::{MirrorTroubleKind, Severity};
use reprise_engine::Notice;
use reprise_format::link::Row;
use reprise_link::handshake::{Consequence, rule_of};
use reprise_media::MediaKind;
use reprise_types::{BoxId, GroupId, Role};
use tokio::sync::mpsc;

use super::board::Told;
use super::groups::{Entry, EntryState, RETRY_EVERY, Running};
use super::image::{self, Heard};
use super::meter::Sample;
use super::stall::Seen;
use super::{Inner, locked, view, wrong_state};
use crate::group::{Command, GroupNotice, Snapshot};
use crate::net::{DialSpec, Purpose};

/// Between two looks at what the groups want of the link.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two samples of the counters.
const LOOKS_PER_SAMPLE: u32 = 4;
/// A link that is down for so long is told: a shorter break heals by itself and changes nothing.
const LINK_DOWN_TOLD: Duration = Duration::from_secs(30);
/// A cache that will be full within this time is told.
const FORECAST_TOLD_SECS: f64 = 3600.0;
/// Below this fill no forecast is told: the first segments of a journal look like growth.
const FORECAST_FILL_MIN: f64 = 0.2;
/// A cache filled so far is told, whatever the forecast.
const FILL_TOLD: f64 = 0.8;
/// Bytes written to measure the cache's durable writes once, at most.
const MEASURE_BYTES_MAX: u64 = 8 << 20;
/// Measurements of which the median is told: one alone says more about what else the disk did.
const MEASUREMENTS: usize = 5;
/// Measurements before anything is told.
const MEASUREMENTS_MIN: usize = 3;
/// Between the first measurements, and between later ones.
const MEASURE_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1800)];

/// Alerts of a source for what is wrong at its mirror.
const MIRROR_ALERTS: [(MirrorTroubleKind, &str, &str); 4] = [
    (
        MirrorTroubleKind::NotOpen,
        "mirror-not-open",
        "Look at the alerts of the mirror's box: it says why the group does not start there.",
    ),
    (
        MirrorTroubleKind::Fenced,
        "mirror-fenced",
        "Look after the disk of the mirror's cache, then on that box: reprise group unfence.",
    ),
    (
        MirrorTroubleKind::HomeDetached,
        "mirror-home-failed",
        "Look after the disk of the mirror's home, then on that box: reprise group reattach. What the mirror has received meanwhile \
         is in its cache; when that is full, this box's cache takes the writes.",
    ),
    (
        MirrorTroubleKind::JournalRotten,
        "mirror-journal-rotten",
        "Look after the disk of the mirror's cache. What is lost there comes back only with a new first copy: remove the mirror and \
         add it again.",
    ),
];

/// What the groups' threads tell.
pub(super) async fn notices(inner: Arc<Inner>, mut notices: mpsc::Receiver<GroupNotice>) {
    while let Some(GroupNotice { group, notice }) = notices.recv().await {
        inner.on_notice(group, &notice);
    }
}

/// Measures the cache again and again.
pub(super) async fn measure(inner: Arc<Inner>) {
    let mut found: VecDeque<u64> = VecDeque::new();
    for turn in 1usize.. {
        let measured = inner.clone();
        if let Ok(Some(rate)) = tokio::task::spawn_blocking(move || measured.measure_cache()).await {
            found.push_back(rate);
        }
        if found.len() > MEASUREMENTS {
            found.pop_front();
        }
        if let Some(rate) = median(&found) {
            inner.write_rate.store(rate, Ordering::Relaxed);
            tracing::info!(mib_per_sec = rate >> 20, "cache measured");
        }
        tokio::time::sleep(MEASURE_AGAIN[usize::from(turn >= MEASUREMENTS)]).await;
    }
}

fn median(found: &VecDeque<u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = found.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().filter(|_| found.len() >= MEASUREMENTS_MIN)
}

/// Looks after everything, until the process stops.
pub(super) async fn ticker(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut looks = 0u32;
    loop {
        ticks.tick().await;
        inner.dial_groups();
        inner.share_copy_rate();
        inner.publish_targets();
        if looks.is_multiple_of(LOOKS_PER_SAMPLE) {
            inner.store.peers().iter().for_each(|peer| inner.dial_control(peer.id));
            inner.sample();
            inner.watch_copies();
            inner.watch_conditions();
            inner.grow_small_homes();
            let again = inner.due_again();
            if !again.is_empty() {
                let inner = inner.clone();
                let retry = tokio::task::spawn_blocking(move || again.into_iter().for_each(|id| inner.start_known(id)));
                let _ = retry.await;
            }
        }
        looks = looks.wrapping_add(1);
    }
}

fn group_subject(entry: &Entry) -> String {
    format!("group {}", entry.name)
}

impl Inner {
    /// The peer that feeds a group of which this box is the mirror.
    fn fed_by(&self, group: GroupId) -> Option<BoxId> {
        let meta = locked(&self.groups).get(&group)?.meta()?;
        meta.peer.as_ref().filter(|_| meta.role == Role::Mirror).map(|p| p.peer)
    }

    fn on_notice(&self, group: GroupId, notice: &Notice) {
        let (subject, volume) = {
            let mut groups = locked(&self.groups);
            let Some(entry) = groups.get_mut(&group) else { return };
            match notice {
                Notice::CacheFull => entry.cache_full = true,
                Notice::CacheFree => entry.cache_full = false,
                Notice::LinkDown => entry.reconnects += 1,
                _ => {}
            }
            let volume = match notice {
                Notice::HomeUnreadable(extent, _) => {
                    entry.running().and_then(|g| g.snapshot.borrow().meta.volume(extent.volume).map(|v| v.name.clone()))
                }
                _ => None,
            };
            (group_subject(entry), volume.unwrap_or_default())
        };
        let info = |code, text: String| Told::new(code, Severity::Info, subject.clone(), text, "");
        let told = match notice {
            Notice::LinkUp(Row::RestartCopy) => {
                let text = "The source has lost records that the first copy contained already. The copy begins again by itself.";
                let what = "Check the disk of the source's cache: it was rolled back, or lost what it had reported as written. Hosts may \
                            lack what they wrote last.";
                Told::new("copy-restarted", Severity::Critical, subject, text.to_owned(), what)
            }
            Notice::LinkUp(row) => info("link-up", format!("The link is up: {}.", rule_of(*row).label)),
            Notice::LinkDown => info("link-down", "The link is down; it is tried again by itself.".to_owned()),
            Notice::CopyComplete => {
                info("copy-complete", "The first copy is complete; the mirror is usable.".to_owned())
            }
            Notice::Pacing(true) => {
                info("pacing", "The cache fills: writes of the host are held back a little.".to_owned())
            }
            Notice::Pacing(false) => info("pacing-ended", "Writes of the host are no longer held back.".to_owned()),
            Notice::CacheFree => info("cache-free", "The cache has room again.".to_owned()),
            Notice::LinkFault(why) => {
                let what = "If it comes again, look whether both boxes run a current version.";
                Told::new("link-fault", Severity::Warning, subject, format!("The link broke: {why}"), what)
            }
            Notice::JournalRepaired(first, last) => {
                let text =
                    format!("Records {first} to {last} of the journal were unreadable and were fetched from the peer.");
                let what = "Look after the disk of the cache: what rots once rots again.";
                Told::new("journal-repaired", Severity::Warning, subject, text, what)
            }
            Notice::JournalReadable(first, last) => {
                info("journal-readable", format!("Records {first} to {last} of the journal can be read after all."))
            }
            Notice::HomeAttached => info("home-attached", "The homes are in use again.".to_owned()),
            Notice::HomeUnreadable(extent, fault) => {
                let text = format!("Volume {volume} cannot be read at sector {}: {fault}.", extent.sector);
                let what = "Look after the disk of the home. The sector can be read again once a host has written it.";
                Told::new("home-unreadable", Severity::Critical, subject, text, what)
            }
            Notice::JournalUnreadable(seq) => {
                let text = format!("The journal cannot be read at record {seq}.");
                let what = "Look after the disk of the cache. The homes hold what was applied.";
                Told::new("journal-unreadable", Severity::Critical, subject, text, what)
            }
            // These hold for a while: the alert that goes with them is raised from the state.
            Notice::JournalLost(..)
            | Notice::Fenced(_)
            | Notice::HomeFailed(_)
            | Notice::CacheFull
            | Notice::LinkStopped(_) => {
                return self.watch_conditions();
            }
        };
        let of_link = matches!(notice, Notice::LinkUp(_) | Notice::LinkDown | Notice::LinkFault(_));
        match self.fed_by(group).filter(|_| of_link) {
            Some(peer) => self.event_of(peer, told),
            None => self.board.event(told),
        }
    }

    /// Dials what the groups want, and nothing else.
    fn dial_groups(&self) {
        let wanted: Vec<(GroupId, Option<DialSpec>)> = self
            .running()
            .into_iter()
            .map(|g| {
                let snapshot = g.snapshot.borrow();
                let peer = snapshot.meta.peer.as_ref().filter(|_| snapshot.link.wanted).map(|p| p.peer);
                let spec = peer.and_then(|peer| {
                    let addresses = self.store.peer(peer)?.addresses();
                    Some(DialSpec { peer, addresses, purpose: Purpose::Group(g.id) })
                });
                (g.id, spec.filter(|s| !s.addresses.is_empty()))
            })
            .collect();
        let mut groups = locked(&self.groups);
        for (id, spec) in wanted {
            let Some(entry) = groups.get_mut(&id) else { continue };
            match (spec, &entry.dial) {
                (None, _) => entry.dial = None,
                (Some(spec), Some(dial)) if dial.peer() == spec.peer => dial.set_addresses(spec.addresses),
                (Some(spec), _) => entry.dial = Some(self.net.dial(spec)),
            }
        }
    }

    /// Shares the limit of the first copy among the groups that copy, and tells each what the link is limited to.
    fn share_copy_rate(&self) {
        let limits = &self.settings.limits;
        let [copy, link] = [limits.copy_per_sec, limits.send_per_sec].map(|rate| rate.map_or(0, |r| r.bytes()));
        if copy == 0 && link == 0 {
            return;
        }
        let mut groups = locked(&self.groups);
        let copies = |entry: &Entry| entry.running().is_some_and(|g| under_way(&g.snapshot.borrow()));
        let count = groups.values().filter(|e| copies(e)).count().max(1) as u64;
        let share = if copy == 0 { 0 } else { (copy / count).max(1) };
        for entry in groups.values_mut().filter(|e| e.copy_rate != Some(share)) {
            let Some(running) = entry.running() else { continue };
            if running.commands.try_send(Command::SetRates { copy: share, link }).is_ok() {
                entry.copy_rate = Some(share);
            }
        }
    }

    fn sample(&self) {
        let secs = self.started.elapsed().as_secs_f64();
        for entry in locked(&self.groups).values_mut() {
            let Some(snapshot) = entry.running().map(Running::now) else { continue };
            let (stats, link) = (&snapshot.stats, &snapshot.link);
            entry.meter.push(Sample {
                secs,
                bytes_in: stats.bytes_in,
                writes: stats.writes,
                bytes_read: stats.bytes_read,
                reads: stats.reads,
                bytes_applied: stats.bytes_applied,
                lag_bytes: link.lag_bytes,
                bytes_out: link.bytes_out,
                bytes_in_link: link.bytes_in,
                held_bytes: stats.held_bytes,
                latencies: snapshot.latencies.clone(),
                copied_bytes: link.copy.map_or(0, |(done, _)| done.saturating_mul(512)),
            });
            let lacks = link.lag_bytes > 0 || under_way(&snapshot);
            entry.stall = entry.flow.look(Seen {
                secs,
                waits: link.wanted && snapshot.meta.role == Role::Source && lacks,
                up: link.streaming,
                durable: snapshot.positions.peer_durable.unwrap_or_default(),
                copied: link.copy.map_or(0, |(done, _)| done),
                bytes_out: link.bytes_out,
                credit: link.credit.0,
                lost: entry.reconnects,
            });
            if entry.link_up != link.streaming {
                entry.link_up = link.streaming;
                entry.link_since = Instant::now();
            }
        }
    }

    /// Keeps the jobs of first copies true.
    fn watch_copies(&self) {
        for group in self.running() {
            let snapshot = group.now();
            if under_way(&snapshot) {
                let Some(job) = self.copy_job(group.id) else { continue };
                let all = snapshot.meta.volumes.iter().map(|v| v.sectors.get()).sum();
                let (done, total) = snapshot.link.copy.unwrap_or((0, all));
                job.progress(done.saturating_mul(512), total.saturating_mul(512));
                job.waiting(copy_waits(&snapshot));
                continue;
            }
            let job = locked(&self.groups).get_mut(&group.id).and_then(|e| e.copy_job.take());
            if let Some(job) = job {
                let done = snapshot.meta.peer.is_some();
                job.end(if done {
                    Ok(())
                } else {
                    Err(wrong_state("the mirror was removed before its copy ended", ""))
                });
            }
        }
    }

    /// Raises and clears the alerts that follow from what the groups are.
    pub(super) fn watch_conditions(&self) {
        let fill = self.pool.allocator().fill();
        let free = u64::from(fill.free()).saturating_mul(self.pool.segment_len());
        let (index_used, index_limit) = self.pool.allocator().index_memory();
        let full = self.pool.allocator().is_index_full();
        let told = || {
            let text = format!(
                "The indexes of the journals have reached their memory, {} MiB: the cache counts as full.",
                index_limit >> 20
            );
            let what = "Bring mirrors back or remove them, so that journals shrink; or give limits.index more.";
            Told::new("index-full", Severity::Critical, "box", text, what)
        };
        // Cleared with some distance, so that it does not come and go with every segment.
        if full || index_used < index_limit / 10 * 9 {
            self.board.settle(full, told, "index-full", "box");
        }
        let told = || {
            let text = "The box has no password: its web console serves nobody.";
            let what = "Set one in a browser, with the code that the serial console and the screen of the box show.";
            Told::new("no-password", Severity::Warning, "box", text, what)
        };
        self.board.settle(self.machine.lacks_password(), told, "no-password", "box");
        let heard = self.heard();
        for entry in locked(&self.groups).values() {
            let Some(snapshot) = entry.running().map(Running::now) else { continue };
            let subject = group_subject(entry);
            self.watch_disks(&subject, &snapshot);
            self.watch_link(&subject, entry, &snapshot, &heard);
            self.watch_room(&subject, entry, &snapshot);
            self.watch_mirror(&subject, &snapshot);
            let source = snapshot.meta.role == Role::Source;
            let critical =
                |code, text: &str, what: &str| Told::new(code, Severity::Critical, subject.clone(), text, what);
            let full = || {
                critical(
                    "cache-full",
                    "The cache is full: hosts wait until there is room. Nothing is lost.",
                    "Bring the mirror back or remove it; a larger cache gives more time.",
                )
            };
            self.board.settle(entry.cache_full && source, full, "cache-full", &subject);
            let counts = fill.fraction() > FORECAST_FILL_MIN;
            let forecast = entry.meter.forecast(free).filter(|secs| counts && *secs < FORECAST_TOLD_SECS);
            let filling = source && !entry.cache_full && (forecast.is_some() || fill.fraction() > FILL_TOLD);
            let told = || {
                // Rounded, so that the text does not change with every look.
                let when = forecast
                    .map_or_else(|| "not soon".to_owned(), |s| format!("in about {:.0} min", (s / 60.0).ceil()));
                let percent = (fill.fraction() * 10.0).floor() * 10.0;
                let text = format!("The cache is filling: more than {percent:.0} % used, full {when}.");
                let what = "Look at the link and the mirror: writes come faster than they leave.";
                Told::new("cache-filling", Severity::Warning, subject.clone(), text, what)
            };
            self.board.settle(filling, told, "cache-filling", &subject);
        }
    }

    fn watch_disks(&self, subject: &str, snapshot: &Snapshot) {
        let told = |code, text: String, what: &str| Told::new(code, Severity::Critical, subject, text, what);
        let reason = snapshot.meta.fenced.clone();
        let fenced = || {
            let text = format!(
                "The group is fenced: {}. Hosts get errors; what was acknowledged is in the journal.",
                reason.clone().unwrap_or_default()
            );
            told(
                "fenced",
                text,
                "Look after the disk of the cache, then: reprise group unfence, which reads the journal again.",
            )
        };
        self.board.settle(reason.is_some(), fenced, "fenced", subject);
        let home = || {
            let why = snapshot.home_detached.clone().unwrap_or_default();
            let text = format!(
                "A home is detached: {why}. Its writes stay in the cache, from where they are read; when the cache is full, hosts wait."
            );
            told("home-failed", text, "Look after the disk of the home, then: reprise group reattach.")
        };
        self.board.settle(snapshot.home_detached.is_some(), home, "home-failed", subject);
        let rotten = snapshot.rotten;
        let rot = || {
            let (first, last, lost) = rotten.unwrap_or_default();
            let (text, what) = if lost {
                (
                    format!(
                        "Records {first} to {last} of the journal cannot be read and no peer holds them: they are lost, except where a home \
                         has them (homes hold everything up to record {}).",
                        snapshot.positions.applied
                    ),
                    "Put the disk of the cache right and try again: reprise group reattach. Else remove the mirror and add it again, \
                     for a new first copy from the home.",
                )
            } else {
                (
                    format!("Records {first} to {last} of the journal cannot be read; they are fetched from the peer."),
                    "Nothing, if the link is up. Look after the disk of the cache.",
                )
            };
            told("journal-rotten", text, what)
        };
        self.board.settle(rotten.is_some(), rot, "journal-rotten", subject);
        let segment = || {
            let why = snapshot.segment_fault.clone().unwrap_or_default();
            let text =
                format!("The cache cannot take more: a segment of it cannot be prepared ({why}). It is tried again.");
            told("cache-failed", text, "Give the file system of the cache more room, or look after its disk.")
        };
        self.board.settle(snapshot.segment_fault.is_some(), segment, "cache-failed", subject);
        let errors = snapshot.stats.read_errors;
        let reads = || {
            // Rounded down to one digit, so that the text does not change with every read.
            let digits = 10u64.pow(errors.max(1).ilog10());
            let text = format!(
                "At least {} reads have failed since the start: hosts got errors, never wrong data.",
                errors / digits * digits
            );
            told("read-errors", text, "See the events for where, and look after the disk.")
        };
        self.board.settle(errors > 0, reads, "read-errors", subject);
    }

    fn watch_room(&self, subject: &str, entry: &Entry, snapshot: &Snapshot) {
        let small = snapshot.home_too_small;
        let told = || {
            let (slot, sectors) = small.unwrap_or_default();
            let name = snapshot.meta.volume(slot).map_or("", |v| v.name.as_str());
            let why = entry.no_room.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            let text = format!(
                "The source has given volume {name} {} bytes, and its home here has no room for them{why}. Nothing more is \
                 taken from the source until it has.",
                sectors.bytes()
            );
            let what = "Give the data half of this box more room: it is tried again by itself.";
            Told::new("home-too-small", Severity::Critical, subject, text, what)
        };
        self.board.settle(small.is_some(), told, "home-too-small", subject);
    }

    fn watch_link(&self, subject: &str, entry: &Entry, snapshot: &Snapshot, heard: &BTreeMap<BoxId, Heard>) {
        let stopped = snapshot.link.row.filter(|row| rule_of(*row).consequence != Consequence::Stream);
        let told = || {
            let rule = stopped.map(rule_of);
            let (label, advice) = rule.map_or(("", ""), |r| (r.label, r.advice));
            Told::new(
                "link-stopped",
                Severity::Critical,
                subject,
                format!("The link of the group has stopped: {label}."),
                advice,
            )
        };
        self.board.settle(stopped.is_some(), told, "link-stopped", subject);
        // A verdict says more than silence, and a pause was asked for.
        let follows = snapshot.meta.ended.is_none() && stopped.is_none();
        let wants = snapshot.meta.peer.as_ref().is_some_and(|p| !p.paused) && follows;
        let quiet = if wants && !snapshot.link.streaming { entry.link_since.elapsed() } else { Duration::ZERO };
        let told = match (snapshot.meta.role, &snapshot.meta.peer) {
            (Role::Mirror, _) => {
                let image = self.image(&entry.name, snapshot, heard);
                image.and_then(|image| image::alert(&image, subject, quiet))
            }
            (Role::Source, Some(peer)) if quiet > LINK_DOWN_TOLD => {
                let last = heard.get(&peer.peer).cloned().unwrap_or_default();
                Some(self.source_alone(subject, entry, &self.peer_name(peer.peer), &last))
            }
            _ => None,
        };
        for code in ["link-down", "source-silent"] {
            let told = told.clone().filter(|t| t.code == code);
            match told {
                Some(told) => self.board.raise(told),
                None => self.board.clear(code, subject),
            }
        }
        let stall = entry.stall.filter(|_| wants);
        let told = || {
            let peer = snapshot.meta.peer.as_ref().and_then(|p| self.store.peer(p.peer));
            let name = peer.map_or_else(|| "the peer".to_owned(), |p| p.name.to_string());
            let (text, what) = stall.map(|s| s.words(&name)).unwrap_or_default();
            Told::new("link-stalled", Severity::Warning, subject, text, what)
        };
        self.board.settle(stall.is_some(), told, "link-stalled", subject);
    }

    /// What a mirror tells of itself holds here too: whoever looks after the source is to know what the mirror is worth.
    fn watch_mirror(&self, subject: &str, snapshot: &Snapshot) {
        let troubles = view::mirror_troubles(snapshot);
        for (kind, code, what) in MIRROR_ALERTS {
            let found = troubles.iter().find(|t| t.kind == kind);
            let told = || {
                let mut text = found.map_or_else(String::new, |t| t.text.clone());
                if let Some(first) = text.get_mut(..1) {
                    first.make_ascii_uppercase();
                }
                Told::new(code, Severity::Critical, subject, format!("{text}."), what)
            };
            self.board.settle(found.is_some(), told, code, subject);
        }
    }

    /// A source whose mirror does not take its writes.
    fn source_alone(&self, subject: &str, entry: &Entry, peer: &str, heard: &Heard) -> Told {
        let why = entry.down_reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
        let how = match (heard.connected, heard.last_unix_ms) {
            (true, _) => format!("{peer} answers, but does not take what {} writes{why}.", entry.name),
            (false, Some(ms)) => format!("{peer} has been silent since {}{why}.", image::at(ms)),
            (false, None) => format!("{peer} has not been heard since this box started{why}."),
        };
        let text = format!("{how} The cache of this box takes the writes of the hosts.");
        let what = format!("Look at {peer} and at the network between the boxes; it goes on by itself.");
        Told::new("link-down", Severity::Warning, subject, text, what)
    }

    /// Groups whose homes were missing and that are to be tried again.
    fn due_again(&self) -> Vec<GroupId> {
        let due = |entry: &Entry| matches!(&entry.state, EntryState::Failed { heals: true, tried, .. } if tried.elapsed() > RETRY_EVERY);
        locked(&self.groups).iter().filter(|(_, e)| due(e)).map(|(id, _)| *id).collect()
    }

    /// Measures durable writes to the cache in a segment that nobody holds, so that peers can be compared.
    fn measure_cache(&self) -> Option<u64> {
        // Where the cache is nearly full, the figure is not worth a segment.
        if self.pool.allocator().fill().free() < 8 {
            return None;
        }
        let (grant, fresh) = self.pool.allocator().grant()?;
        let (cache, len) = (self.pool.cache(), self.pool.segment_len());
        let at = reprise_journal::segment_offset(grant.segment, len);
        // A segment of a file counts as written from here on, so all of it is.
        let bytes = if fresh && cache.kind() == MediaKind::File { len } else { len.min(MEASURE_BYTES_MAX) };
        let zeros = vec![0u8; 256 << 10];
        let began = Instant::now();
        let result = (0..bytes).step_by(zeros.len()).try_for_each(|offset| {
            let part = &zeros[..zeros.len().min((bytes - offset) as usize)];
            cache.write_blocking(at + offset, part)?;
            cache.sync_blocking()
        });
        let rate = bytes as f64 / began.elapsed().as_secs_f64().max(1e-6);
        match (&result, fresh) {
            (Err(_), true) => self.pool.allocator().give_back_fresh(grant.segment),
            _ => self.pool.allocator().free(&[grant.segment]),
        }
        result.inspect_err(|error| tracing::warn!(%error, "cache could not be measured")).ok().map(|()| rate as u64)
    }
}

/// The group's first copy is not complete.
fn under_way(snapshot: &Snapshot) -> bool {
    snapshot.meta.role == Role::Source
        && snapshot.meta.peer.as_ref().is_some_and(|p| p.durable.is_none() || p.copy.is_some())
}

fn copy_waits(snapshot: &Snapshot) -> Option<String> {
    let paused = snapshot.meta.peer.as_ref().is_some_and(|p| p.paused);
    match (paused, snapshot.link.streaming) {
        (true, _) => Some("the mirror is paused".to_owned()),
        (false, false) => Some("the link is down".to_owned()),
        (false, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_measurement_does_not_count() {
        assert_eq!(median(&VecDeque::from([100, 100])), None);
        assert_eq!(median(&VecDeque::from([100, 5, 110])), Some(100));
        assert_eq!(median(&VecDeque::from([100, 5, 110, 900, 90])), Some(100));
    }
}
