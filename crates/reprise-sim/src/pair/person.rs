//! What a person does: adds the mirror, compares the boxes, and sees to what stopped.

use std::collections::VecDeque;

use reprise_engine::{Group, VerifyEnd, VerifyPlan};
use reprise_format::link::Row;
use reprise_link::handshake::{Consequence, rule_of};
use reprise_types::{SectorCount, VolumeSlot};

use crate::pair::boxes::first_instance;
use crate::pair::history::VOLUME_SECTORS;
use crate::pair::plan::{MS, SEC};
use crate::pair::world::{Next, World, say};

fn stops(row: Row) -> bool {
    rule_of(row).consequence != Consequence::Stream
}

impl World {
    /// Has source and mirror compared, where that can be begun.
    pub(super) fn compare(&mut self, bytes_per_sec: u64, repair: bool) {
        let begun = self.command(0, |g, now| g.verify(now, VerifyPlan { bytes_per_sec, repair }));
        if let Some(Ok(id)) = begun {
            say!(self, "operator: compares the boxes ({id})");
            self.comparing = Some(id);
            self.comparison_begins();
        }
    }

    /// A comparison that has come to its end tells the truth: of the moment it names, and of what it found.
    pub(super) fn check_comparison(&mut self) {
        let report = self.boxes[0].group().and_then(Group::verify_report);
        let Some(report) = report.filter(|r| r.end.is_some() && Some(r.id) == self.comparing) else { return };
        let report = report.clone();
        self.comparing = None;
        say!(self, "comparison {} at {}: {:?}, {} differ", report.id, report.at.seq, report.end, report.differing);
        if report.end != Some(VerifyEnd::Compared) {
            return;
        }
        self.counts.compared += 1;
        if self.history.hash(report.at.seq) != Some(report.at.hash) {
            return self.fail(format!("a comparison names h({}), which is not the host's", report.at.seq));
        }
        // A home may hold more than a journal whose disk lied, and another line is another content.
        let odd = self.blind.iter().any(Option::is_some) || self.other_line.is_some();
        if odd {
            return;
        }
        if report.unreadable > 0 && !self.excuse.iter().any(|e| e.damaged || e.io) {
            self.fail(format!("comparison {}: {} sectors unreadable, with no fault", report.id, report.unreadable));
        }
        if let Err(what) = self.check_found(&report) {
            self.fail(format!("comparison {} {what}", report.id));
        }
    }

    /// Gives a volume more room, once there is a mirror that was asked.
    pub(super) fn resize(&mut self, volume: u16, more: u64) {
        let v = usize::from(volume);
        let Some(sectors) = self.boxes[0].volume_sectors().filter(|_| self.added) else { return };
        let sectors = (sectors[v] + more).min(VOLUME_SECTORS[v]);
        let (slot, size) = (VolumeSlot::from_raw(volume), SectorCount::from_raw(sectors));
        self.history.resizing(volume, sectors);
        let begun = self.command(0, |g, now| g.resize_volume(now, slot, size));
        say!(self, "operator: gives volume {volume} {sectors} sectors: {begun:?}");
    }

    pub(super) fn unpause(&mut self) {
        if self.command(0, |g, now| g.set_paused(now, false)).is_none() {
            // The box is off: the command is given again.
            return self.after(SEC, Next::Unpause);
        }
        self.paused = false;
        self.want_dial();
    }

    /// A person looks at what stopped and does what the advice says.
    pub(super) fn operator(&mut self) {
        self.operator_due = false;
        for n in 0..2 {
            let stopped = self.boxes[n].group().is_some_and(|g| g.is_fenced() || g.home_detached());
            if !stopped {
                continue;
            }
            let again = self.excuse[n].damaged && self.unreadable[n] > 1;
            if again && n == 0 {
                self.source_lost = Some("its journal is rotten".into());
                return;
            }
            if again {
                return self.replace_mirror();
            }
            self.counts.commands += 1;
            if self.plan.skilled() && self.boxes[n].group().is_some_and(|g| !g.is_fenced()) {
                say!(self, "operator: takes the home of the {} into use again", Self::name(n));
                if self.command(n, Group::reattach_home).is_some_and(|r| r.is_ok()) {
                    continue;
                }
            }
            say!(self, "operator: restarts the {}", Self::name(n));
            let power = self.rng.one_in(2);
            self.off(n, power);
            self.drop_conn(n, Some(MS));
            self.after(100 * MS, Next::Start { n, nested: VecDeque::new() });
        }
        let Some(source) = self.boxes[0].group() else { return self.want_operator() };
        if source.is_fenced() || !source.is_ready() {
            return self.want_operator();
        }
        // It may have come back with an older disk, from a time when it was paused.
        let paused = source.meta().peer().is_some_and(|p| p.paused) && !self.paused;
        let stopped = source.meta().peer().is_some() && source.link_row().is_some_and(stops);
        // What the mirror lacks cannot be read any more: a first copy does without it.
        let rotten = self.excuse[0].damaged && self.unreadable[0] > 0;
        let unmirrored = source.meta().peer().is_none();
        let lost = self.mirror_odd && self.boxes[1].process.is_none() && !self.boxes[1].empty;
        if paused {
            return self.unpause();
        }
        if self.added && (stopped || unmirrored || lost || rotten) {
            self.unreadable[0] = 0;
            return self.replace_mirror();
        }
        if !self.added {
            self.added = true;
            say!(self, "operator: adds the mirror");
            let instance = first_instance(&mut self.rng);
            let peer = self.boxes[1].id;
            let _ = self.command(0, |g, now| g.add_peer(now, peer, instance));
            self.want_dial();
        }
    }

    /// Removes the mirror, gives it an empty group, and adds it again.
    fn replace_mirror(&mut self) {
        say!(self, "operator: gives the mirror an empty group and adds it again");
        self.counts.commands += 1;
        let _ = self.command(0, |g, now| g.remove_peer(now));
        self.off(1, true);
        self.drop_conn(1, Some(MS));
        self.mirror_gone();
        let Self { boxes, rng, .. } = self;
        if let Some(sectors) = boxes[0].volume_sectors() {
            boxes[1].sectors = sectors;
        }
        boxes[1].room = VOLUME_SECTORS;
        boxes[1].format(rng);
        self.excuse[1].damaged = false;
        self.unreadable[1] = 0;
        // The source may come back from a power cut without having heard of this.
        self.mirror_odd = true;
        self.after(0, Next::Start { n: 1, nested: VecDeque::new() });
        let instance = first_instance(&mut self.rng);
        let peer = self.boxes[1].id;
        if self.command(0, |g, now| g.add_peer(now, peer, instance)).is_none_or(|r| r.is_err()) {
            self.want_operator();
        }
        self.want_dial();
    }
}
