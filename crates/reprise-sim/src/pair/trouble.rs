//! What goes wrong.

use std::collections::VecDeque;

use reprise_types::Seq;

use crate::Fault;
use crate::pair::boxes::OpenError;
use crate::pair::plan::{Failing, MS, SEC, Trouble};
use crate::pair::world::{Excuse, Next, World, say};

/// A person tries a box that does not start so often, a disk that did not answer being to blame; then its damage is.
const REFUSALS_MAX: u32 = 10;

impl World {
    fn struck(&mut self, class: u8) {
        *self.counts.classes.entry(class).or_default() += u64::from(class != 0);
    }

    pub(super) fn trouble(&mut self, i: usize, trouble: Trouble) {
        say!(self, "TROUBLE {trouble:?}");
        let class = trouble.class();
        match trouble {
            Trouble::PowerCut(n, off) => return self.cut_power(n, off),
            Trouble::Kill(n, off) => {
                if self.boxes[n].process.is_none() {
                    return;
                }
                self.off(n, false);
                self.drop_conn(n, Some(MS));
                self.after(off, Next::Start { n, nested: VecDeque::new() });
            }
            Trouble::Nested(n, mut after) => {
                if self.boxes[n].process.is_none() {
                    return;
                }
                self.power_off(n);
                let first = after.pop();
                let nested = first.into_iter().chain(after).collect();
                self.after(50 * MS, Next::Start { n, nested });
            }
            Trouble::Both(a, b) => {
                self.cut_power(0, a);
                self.cut_power(1, b);
                return;
            }
            Trouble::Lying(n, after) => {
                if self.boxes[n].process.is_none() {
                    return;
                }
                self.excuse[n].damaged = true;
                self.boxes[n].inject(None, Fault::LyingSync(0));
                let life = self.boxes[n].life;
                self.after(after, Next::Cut { n, life });
            }
            Trouble::Fails(n, failing, nth) => {
                self.excuse[n].io = true;
                let home = Some(self.rng.below(2) as usize);
                let (disk, fault) = match failing {
                    Failing::CacheWrite => (None, Fault::WriteError(nth)),
                    Failing::CacheSync => (None, Fault::SyncError(nth)),
                    Failing::CacheRead => (None, Fault::ReadError(nth)),
                    Failing::HomeWrite | Failing::HomeFull => (home, Fault::WriteError(nth)),
                    Failing::HomeSync => (home, Fault::SyncError(nth)),
                    Failing::HomeRead => (home, Fault::ReadError(nth)),
                };
                self.boxes[n].inject(disk, fault);
            }
            Trouble::Rot(n, place) => {
                self.excuse[n].damaged = true;
                self.boxes[n].rot(place);
            }
            Trouble::Lost(n, nth) => {
                self.excuse[n].damaged = true;
                self.boxes[n].inject(None, Fault::LostWrite(nth));
            }
            Trouble::Misdirected(n, nth, by) => {
                self.excuse[n].damaged = true;
                self.boxes[n].inject(None, Fault::Misdirected(nth, by));
            }
            Trouble::Stale(n, nth) => {
                self.excuse[n].damaged = true;
                self.boxes[n].inject(None, Fault::StaleRead(nth));
            }
            Trouble::SuperblockCopy(n, which) => {
                if self.boxes[n].process.is_none() || self.boxes[n].empty {
                    return;
                }
                self.power_off(n);
                self.boxes[n].destroy_copy(which);
                self.after(100 * MS, Next::Start { n, nested: VecDeque::new() });
            }
            Trouble::Outage(time) => {
                self.blocked = [true; 2];
                self.after(time, Next::Unblock { from: 0 });
                self.after(time, Next::Unblock { from: 1 });
            }
            Trouble::OneWay(from, time) => {
                self.blocked[from] = true;
                self.after(time, Next::Unblock { from });
            }
            Trouble::Cut(a, b) => self.cut_line([a, b]),
            Trouble::Stall(from, time) => self.stall[from] = time,
            Trouble::Frames(from, fault) => {
                let Some(conn) = self.conn[from] else { return };
                let Some(c) = self.conns.get_mut(&conn) else { return };
                c.ways[from].fault = Some(fault);
            }
            Trouble::Jump(n, seconds) => self.boxes[n].clock.jump(seconds),
            Trouble::Drift(n, drift) => {
                let t = self.t;
                self.boxes[n].clock.set_drift(t, drift);
            }
            Trouble::Slow(n, factor, time) => {
                self.boxes[n].slow = factor;
                self.after(time, Next::Speed { n });
            }
            Trouble::SlowHome(n, factor, time) => {
                self.boxes[n].slow_home = factor;
                self.after(time, Next::Speed { n });
            }
            Trouble::Hang(n, what, time) => self.boxes[n].hanging.push((what, time)),
            Trouble::Soon(n, operations) => {
                if self.boxes[n].process.is_none() || self.cut_after[n].is_some() {
                    return;
                }
                self.cut_after[n] = Some((operations, VecDeque::new()));
            }
            Trouble::RotRead(n) => {
                self.excuse[n].damaged = true;
                self.boxes[n].rot_read = true;
            }
            Trouble::HomeRot(count, choice) => {
                if !self.boxes[1].empty {
                    self.rot_homes(count, choice);
                }
                return;
            }
            Trouble::Newer(n, part, time) => {
                if !self.make_newer(n, part, time) {
                    return;
                }
            }
            Trouble::Ambush(troubles) => self.ambush.extend(troubles),
            Trouble::Emptied => {
                if self.boxes[1].empty {
                    return;
                }
                self.off(1, true);
                self.drop_conn(1, Some(MS));
                self.boxes[1].empty = true;
                self.mirror_odd = true;
                self.mirror_gone();
            }
            Trouble::Older(n, _) => {
                let Some(older) = self.snapshots.remove(&i).filter(|_| !self.boxes[n].empty) else { return };
                if older.forks != self.forks || self.other_line.is_some() {
                    return;
                }
                self.off(n, true);
                self.drop_conn(n, None);
                self.newer[n] = None;
                self.boxes[n].disks = older.disks;
                self.boxes[n].lost = false;
                self.excuse[n].damaged |= older.excuse.damaged;
                self.blind[n] = self.blind[n].max(older.blind);
                self.boxes[n].heal();
                let calm = self.rng.below(256) as u8;
                let Self { boxes, rng, .. } = self;
                boxes[n].disks.cache.power_cut(rng, calm);
                boxes[n].disks.homes.iter_mut().for_each(|h| h.power_cut(rng, calm));
                boxes[n].forget_choice();
                if n == 1 {
                    self.mirror_odd = true;
                    self.mirror_written = Seq::ZERO;
                } else {
                    self.source_odd = true;
                }
                self.durable[n] = None;
                self.after(50 * MS, Next::Start { n, nested: VecDeque::new() });
            }
            Trouble::NoRoom(time) => {
                let Some(sectors) = self.boxes[1].volume_sectors() else { return };
                self.boxes[1].room = sectors;
                let t = self.t;
                self.boxes[1].say_room(t);
                self.drain(1);
                self.after(time, Next::Room);
            }
            Trouble::MemoryShort(n, time) => {
                if let Some(p) = &mut self.boxes[n].process {
                    p.group.set_memory_short(true);
                }
                self.after(time, Next::Memory { n });
            }
            Trouble::Pause(time) => {
                if self.command(0, |g, now| g.set_paused(now, true)).is_some_and(|r| r.is_ok()) {
                    self.paused = true;
                    self.after(time, Next::Unpause);
                }
            }
        }
        self.struck(class);
    }

    /// The process ends, with or without the power.
    pub(super) fn off(&mut self, n: usize, power: bool) {
        if self.boxes[n].process.is_some() {
            self.counts.restarts += 1;
        }
        if power {
            let superblock = self.boxes[n].process.as_ref().is_some_and(|p| {
                p.pending.values().any(|(_, e)| matches!(e, reprise_engine::Effect::WriteSuperblock { .. }))
            });
            let several = self.boxes[n].process.as_ref().is_some_and(|p| p.pending.len() > 1);
            self.struck(if superblock { 9 } else { 0 });
            self.struck(if several { 2 } else { 0 });
        }
        self.cut_after[n] = None;
        let Self { boxes, rng, .. } = self;
        boxes[n].stop(power, rng);
        if power && boxes[n].disks.cache.is_lying() {
            boxes[n].heal();
            boxes[n].lost = true;
        }
        if n == 0 {
            let again: Vec<_> = std::mem::take(&mut self.outstanding).into_values().collect();
            self.host_queue.extend(again);
        }
    }

    /// Power goes, without a time to come back.
    pub(super) fn power_off(&mut self, n: usize) {
        self.off(n, true);
        let heard = self.rng.one_in(2).then_some(300 * MS);
        self.drop_conn(n, heard);
    }

    /// Power goes and comes back.
    pub(super) fn cut_power(&mut self, n: usize, off: u64) {
        if self.boxes[n].process.is_none() {
            return;
        }
        say!(self, "{}: power is cut", Self::name(n));
        self.power_off(n);
        self.struck(1);
        self.after(off, Next::Start { n, nested: VecDeque::new() });
    }

    pub(super) fn start(&mut self, n: usize, mut nested: VecDeque<u64>) {
        if self.boxes[n].process.is_some() || self.boxes[n].empty {
            return;
        }
        let t = self.t;
        let Self { boxes, rng, .. } = self;
        match boxes[n].open(t, rng) {
            Ok(end) => {
                say!(self, "{}: recovered, the log ends at {}", Self::name(n), end.seq);
                self.excuse[n].refusals = 0;
                if let Some(before) = self.boxes[n].choose(end)
                    && !self.excuse[n].damaged
                {
                    self.fail(format!("{}: a recovery chose {}, the next one {}", Self::name(n), before.seq, end.seq));
                }
                self.check_newer_refused(n);
                self.opened(n, end);
                self.boxes[n].lost = false;
                if let Some(first) = nested.pop_front() {
                    self.cut_after[n] = Some((first, nested));
                }
                self.drain(n);
                let view = self.boxes[n].is_ready();
                if view {
                    self.check_view(n);
                }
            }
            Err(error) => self.refused(n, &error),
        }
    }

    fn refused(&mut self, n: usize, error: &OpenError) {
        let detail = std::error::Error::source(error).map_or(String::new(), |s| format!(": {s}"));
        say!(self, "{}: does not start: {error}{detail}", Self::name(n));
        if self.newer_refused(n, error) {
            return;
        }
        let Excuse { damaged, io, refusals } = &mut self.excuse[n];
        if error.is_transient() && *io && (*refusals < REFUSALS_MAX || !*damaged) {
            *refusals += 1;
            self.after(SEC, Next::Start { n, nested: VecDeque::new() });
            return;
        }
        if !self.excuse[n].damaged {
            return self.fail(format!("{} does not start, with no fault: {error}{detail}", Self::name(n)));
        }
        self.counts.detected += 1;
        if n == 0 {
            self.source_lost = Some(format!("{error}{detail}"));
        } else {
            self.mirror_odd = true;
            self.want_operator();
        }
    }

    /// What is left of the mirror's disk is nobody's.
    pub(super) fn mirror_gone(&mut self) {
        if self.blind[0].is_some() {
            // It alone could have shown what the source's disk lost.
            self.counts.undetectable += 1;
            self.source_lost = Some("its disk lost what its mirror held, and that is gone".into());
        }
        (self.other_line, self.passing) = (None, None);
        (self.blind[1], self.newer[1]) = (None, None);
        self.durable[1] = None;
        self.mirror_written = Seq::ZERO;
    }
}
