//! What the control plane does without being asked: dials, measures, raises and clears alerts, tries again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reprise_engine::{Notice, PeerMeta};
use reprise_format::link::Row;
use reprise_link::handshake::rule_of;
use reprise_media::MediaKind;
use reprise_types::{BoxId, GroupId, Role};
use tokio::sync::mpsc;

use super::conditions::{self, BoxSeen, GroupSeen};
use super::groups::{Entry, EntryState, RETRY_EVERY, Running};
use super::image::Heard;
use super::meter::Sample;
use super::stall::Seen;
use super::told::Message;
use super::{Inner, locked, wrong_state};
use crate::group::{Command, GroupNotice, Snapshot};
use crate::net::{DialSpec, Purpose};

/// Between two looks at what the groups want of the link.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two samples of the counters.
const LOOKS_PER_SAMPLE: u32 = 4;
/// Bytes written to measure the cache's durable writes once, at most.
const MEASURE_BYTES_MAX: u64 = 8 << 20;
/// Measurements of which the median is told: one alone says more about what else the disk did.
const MEASUREMENTS: usize = 5;
/// Measurements before anything is told.
const MEASUREMENTS_MIN: usize = 3;
/// Between the first measurements, and between later ones.
const MEASURE_AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1800)];

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
        meta.peer().filter(|_| meta.role() == Role::Mirror).map(|p| p.peer)
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
        let why;
        let message = match notice {
            Notice::LinkUp(Row::RestartCopy) => Message::CopyRestarted {},
            Notice::LinkUp(row) => Message::LinkUp { why: rule_of(*row).label },
            Notice::LinkDown => Message::LinkDown {},
            Notice::CopyComplete => Message::CopyComplete {},
            Notice::Pacing(true) => Message::Pacing {},
            Notice::Pacing(false) => Message::PacingEnded {},
            Notice::CacheFree => Message::CacheFree {},
            Notice::LinkFault(why) => Message::LinkFault { why },
            Notice::JournalRepaired(first, last) => Message::JournalRepaired { first: *first, last: *last },
            Notice::JournalReadable(first, last) => Message::JournalReadable { first: *first, last: *last },
            Notice::HomeAttached => Message::HomeAttached {},
            Notice::HomeUnreadable(extent, fault) => {
                why = fault.to_string();
                Message::HomeUnreadable { volume: &volume, sector: extent.sector, fault: &why }
            }
            Notice::JournalUnreadable(seq) => Message::JournalUnreadable { seq: *seq },
            // These hold for a while: the alert that goes with them is raised from the state.
            Notice::JournalLost(..)
            | Notice::Fenced(_)
            | Notice::HomeFailed(_)
            | Notice::CacheFull
            | Notice::LinkStopped(_) => {
                return self.watch_conditions();
            }
        };
        let told = message.about(subject);
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
                let peer = snapshot.meta.peer().filter(|_| snapshot.link.wanted).map(|p| p.peer);
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
                waits: link.wanted && snapshot.meta.role() == Role::Source && lacks,
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
                let done = snapshot.meta.peer().is_some();
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
        let seen = BoxSeen {
            index_full: self.pool.allocator().is_index_full(),
            index_told: self.board.holds("index-full", "box"),
            index: self.pool.allocator().index_memory(),
            lacks_password: self.machine.lacks_password(),
        };
        self.board.settle(&conditions::OF_BOX, "box", conditions::of_box(&seen));
        let (heard, silent) = (self.heard(), Heard::default());
        for entry in locked(&self.groups).values() {
            let Some(snapshot) = entry.running().map(Running::now) else { continue };
            let peer = snapshot.meta.peer().map(|p| p.peer);
            let record = peer.and_then(|peer| self.store.peer(peer));
            let found = conditions::of_group(&GroupSeen {
                name: &entry.name,
                snapshot: &snapshot,
                cache_full: entry.cache_full,
                fill: fill.fraction(),
                full_in_secs: entry.meter.forecast(free),
                no_room: entry.no_room.as_deref(),
                link_for: entry.link_since.elapsed(),
                stall: entry.stall,
                down_reason: entry.down_reason.as_deref(),
                peer: record.as_ref().map(|r| r.name.as_str()),
                heard: peer.and_then(|peer| heard.get(&peer)).unwrap_or(&silent),
                words: self.words(),
            });
            self.board.settle(&conditions::OF_GROUP, &group_subject(entry), found);
        }
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
    snapshot.meta.role() == Role::Source && snapshot.meta.peer().is_some_and(PeerMeta::is_copying)
}

fn copy_waits(snapshot: &Snapshot) -> Option<String> {
    let paused = snapshot.meta.peer().is_some_and(|p| p.paused);
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
