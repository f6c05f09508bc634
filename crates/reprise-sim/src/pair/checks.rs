//! What is asked after every step.

use bytes::Bytes;
use reprise_format::unit;
use reprise_journal::PieceSource;
use reprise_types::{Point, Seq, VolumeSlot};

use crate::pair::history::{History, Loss, VOLUME_SECTORS, extent};
use crate::pair::world::{World, say};

impl World {
    /// The line of history that box n is on.
    pub(super) fn line(&self, n: usize) -> &History {
        match &self.other_line {
            Some(other) if n == 1 => other,
            _ => &self.history,
        }
    }

    /// A box has recovered.
    pub(super) fn opened(&mut self, n: usize, end: Point) {
        if n == 0 {
            let loss = match (self.excuse[0].damaged, self.source_odd) {
                (true, _) => Loss::Journal,
                (false, true) => Loss::Older,
                (false, false) => Loss::Nothing,
            };
            let lossy = loss != Loss::Nothing;
            let before = lossy.then(|| self.history.clone());
            let acked = self.history.acked();
            if let Err(what) = self.history.recovered(end.seq, end.hash, loss) {
                return self.fail(what);
            }
            if !lossy && let Err(what) = self.units_recovered() {
                return self.fail(what);
            }
            // What disks that were set aside hold behind the end is of a history that does not go on.
            self.snapshots.retain(|_, s| s.end <= end.seq);
            if end.seq < acked {
                say!(self, "source: lost what it had acknowledged up to {acked}");
                if self.excuse[0].damaged && self.mirror_written <= end.seq {
                    // No box holds what was lost: nothing can find out.
                    self.counts.undetectable += 1;
                    self.source_lost = Some("its disk lost what only it held".into());
                }
                if self.excuse[0].damaged {
                    self.blind[0] = Some(Seq::MAX);
                }
            }
            if self.mirror_written > end.seq && self.other_line.is_none() && lossy {
                say!(self, "histories fork behind {}", end.seq);
                self.other_line = before;
                self.forks += 1;
                *self.counts.classes.entry(16).or_default() += 1;
            } else if lossy && self.other_line.is_none() {
                self.passing = before;
            }
        } else {
            let group = self.boxes[1].group();
            let begun = group.is_some_and(|g| !g.meta().branches.is_empty());
            if !begun {
                // Its beginning was not durable.
                (self.durable[1], self.mirror_written) = (None, Seq::ZERO);
                return self.other_line_gone();
            }
            if self.other_line.is_some()
                && end.seq <= self.history.end()
                && self.history.hash(end.seq) == Some(end.hash)
            {
                self.other_line_gone();
            }
            if let Some(before) = self.durable[1].filter(|d| *d > end.seq)
                && !self.excuse[1].damaged
                && !self.mirror_odd
            {
                return self.fail(format!("mirror: {before} was durable, the log ends at {}", end.seq));
            }
            if let Some(before) = self.durable[1].filter(|d| *d > end.seq) {
                self.mirror_odd = true;
                if self.excuse[1].damaged {
                    self.blind[1] = self.blind[1].max(Some(before));
                }
            }
            self.durable[1] = Some(end.seq);
            self.mirror_written = end.seq;
        }
    }

    /// What the mirror had received of the other line was not durable.
    fn other_line_gone(&mut self) {
        if self.other_line.take().is_some() && self.blind[0].is_some() {
            self.counts.undetectable += 1;
            self.source_lost = Some("its disk lost what its mirror had, and that was not durable".into());
        }
    }

    /// The payload of the record that made a box's unit what it is.
    fn unit_of(&self, n: usize, volume: u16) -> Option<Bytes> {
        let state = self.boxes[n].group()?.meta().volume(VolumeSlot::from_raw(volume))?.unit.clone()?;
        (!state.is_default()).then(|| unit::to_payload(&state))
    }

    fn units_recovered(&self) -> Result<(), String> {
        (0..VOLUME_SECTORS.len() as u16)
            .try_for_each(|volume| self.history.unit_recovered(volume, self.unit_of(0, volume).as_deref()))
    }

    /// A group is ready: sizes and states of units are those of the last records that its journal holds.
    pub(super) fn check_units(&mut self, n: usize) {
        let Some(group) = self.boxes[n].group() else { return };
        let odd = [self.source_odd, self.mirror_odd][n] || self.blind[n].is_some();
        // Bytes that could not be read are read later, or never.
        if odd || self.excuse[n].damaged || self.excuse[n].io || group.meta().branches.is_empty() {
            return;
        }
        let (applied, durable) = (group.meta().applied, group.durable().seq);
        let found = self.boxes[n].volume_sectors().unwrap_or_default();
        for volume in 0..VOLUME_SECTORS.len() as u16 {
            let (is, should) = (found[usize::from(volume)], self.line(n).size_at(volume, durable));
            if is != should {
                let what =
                    format!("{}: volume {volume} has {is} sectors at {durable}, should have {should}", Self::name(n));
                return self.fail(what);
            }
            let newest = self.line(n).unit_between(volume, applied, durable);
            if newest.is_some_and(|state| state != self.unit_of(n, volume)) {
                return self.fail(format!("{}: unit {volume} is not in its state at {durable}", Self::name(n)));
            }
        }
    }

    /// After every step of a group.
    pub(super) fn check_step(&mut self, n: usize) {
        let Some(group) = self.boxes[n].group() else { return };
        // Asserts the order of the positions. Bugs that are planted must be found by what can be seen from outside.
        if cfg!(not(feature = "planted")) {
            group.positions();
        }
        let (trimmed, written) = (group.meta().trimmed.seq, group.journal().written());
        let point = group.durable();
        let begun = !group.meta().branches.is_empty();
        let attached = group.meta().peer().is_some_and(|p| p.durable.is_some());
        if !begun {
            return;
        }
        let changed = self.durable[n] != Some(point.seq);
        if n == 1
            && changed
            && self.history.hash(point.seq) != Some(point.hash)
            && let Some(line) = self.passing.take_if(|l| l.hash(point.seq) == Some(point.hash))
        {
            say!(self, "histories fork: the mirror has got {} of the line that was left", point.seq);
            self.other_line = Some(line);
            self.forks += 1;
            *self.counts.classes.entry(16).or_default() += 1;
        }
        if changed {
            let expected = self.line(n).hash(point.seq);
            if expected != Some(point.hash) {
                let what = format!("{}: h({}) is {}, the host's history has {expected:?}", Self::name(n), point.seq, {
                    point.hash
                });
                return self.fail(what);
            }
            self.durable[n] = Some(point.seq);
        }
        if n == 0 {
            self.check_comparison();
        }
        self.check_round(n);
        if n == 1 {
            let sectors = self.boxes[1].volume_sectors().unwrap_or_default();
            if sectors.iter().zip(self.boxes[1].room).any(|(is, room)| *is > room) {
                return self
                    .fail(format!("mirror: volumes of {sectors:?} sectors in homes that have no room for them"));
            }
            self.mirror_written = self.mirror_written.max(written);
            let passing = self.passing.as_ref().map_or(Seq::ZERO, History::end);
            let source = if self.other_line.is_some() { Seq::MAX } else { self.history.end().max(passing) };
            if written > source {
                self.fail(format!("mirror: holds {written} of a source that has written {source}"));
            }
        } else if attached
            && !self.mirror_odd
            && !self.source_odd
            && !self.excuse[1].damaged
            && let Some(mirror) = self.durable[1]
            && trimmed > mirror
        {
            self.fail(format!("source: trimmed up to {trimmed}, the mirror holds {mirror}"));
        }
    }

    /// Any moment from `applying` to `durable` reads as the host's history up to it.
    pub(super) fn check_view(&mut self, n: usize) {
        let Some(group) = self.boxes[n].group() else { return };
        if !group.is_ready() || group.meta().branches.is_empty() || group.meta().copy().is_some() || group.is_fenced() {
            return;
        }
        let (applied, applying, durable) = (group.meta().applied, group.meta().applying, group.durable().seq);
        match self.blind[n] {
            Some(until) if applied < until => return,
            _ => self.blind[n] = None,
        }
        let span = durable.since(applying);
        let seq = Seq::from_raw(applying.get() + [0, span, self.rng.below(span + 1)][self.rng.below(3) as usize]);
        let volume = self.rng.below(2) as u16;
        let whole = extent(volume, 0, VOLUME_SECTORS[usize::from(volume)]);
        let Some(group) = self.boxes[n].group() else { return };
        let journal = group.journal();
        let plan = journal.plan_with(&journal.index_at(applied, seq), whole);
        self.counts.images += 1;
        for piece in plan.pieces {
            let (first, len) = (piece.sector.get(), piece.sectors.get() as usize * 512);
            let bytes = match piece.source {
                PieceSource::Home => {
                    let home = self.boxes[n].disks.homes[usize::from(volume)].bytes();
                    let image = &home[first as usize * 512..][..len];
                    let rotten = |sector| n == 1 && self.is_rotten(volume, sector);
                    let found = self.line(n).differs_but(volume, first, image, seq, rotten);
                    if let Some(found) = found {
                        return self.wrong_image(n, seq, volume, found);
                    }
                    continue;
                }
                PieceSource::Zero => Bytes::from(vec![0; len]),
                PieceSource::Ram(bytes) => bytes,
                PieceSource::Disk(d) => {
                    let header = self.peek(n, None, d.header_at, d.header_len);
                    let payload = self.peek(n, None, d.payload_at, d.payload_len);
                    match d.verify(&header, &payload) {
                        Ok(bytes) => bytes,
                        Err(_) if self.excuse[n].damaged => {
                            self.counts.detected += 1;
                            continue;
                        }
                        Err(e) => return self.fail(format!("{}: journal does not read: {e}", Self::name(n))),
                    }
                }
            };
            if let Some(found) = self.line(n).differs(volume, first, &bytes, seq) {
                return self.wrong_image(n, seq, volume, found);
            }
        }
    }

    fn wrong_image(&mut self, n: usize, seq: Seq, volume: u16, (sector, is, should): (u64, u64, u64)) {
        let at = self.boxes[n].group().map(|g| (g.meta().applied, g.meta().applying, g.durable().seq));
        let (applied, applying, durable) = at.unwrap_or_default();
        self.fail(format!(
            "{}: image at {seq} (applied {applied}, applying {applying}, durable {durable}): volume {volume} sector \
             {sector} is of write {is}, should be of {should}",
            Self::name(n)
        ));
    }

    /// Everything has come to rest as it should, and stays so.
    pub(super) fn settled(&self) -> bool {
        let [Some(a), Some(b)] = [self.boxes[0].group(), self.boxes[1].group()] else { return false };
        let copied = a.meta().peer().is_some_and(|p| p.copy.is_none() && p.durable.is_some());
        self.host_queue.is_empty()
            && self.outstanding.is_empty()
            && a.is_applied()
            && b.is_applied()
            && b.meta().applied == a.journal().written()
            && copied
            && b.meta().copy().is_none()
    }

    /// Both homes, byte by byte, once everything is applied.
    pub(super) fn check_homes(&mut self) {
        let end = self.history.end();
        for volume in 0..VOLUME_SECTORS.len() as u16 {
            let should = self.history.unit(volume).map(<[u8]>::to_vec);
            for n in 0..2 {
                // A source whose disk had lost something may have forgotten a state without having said it again.
                if self.unit_of(n, volume).map(|state| state.to_vec()) != should && self.plan.skilled() {
                    return self.fail(format!("{}: unit {volume} is not in the state of the history", Self::name(n)));
                }
            }
        }
        for n in 0..2 {
            for volume in 0..VOLUME_SECTORS.len() {
                let found = self.history.differs(volume as u16, 0, self.boxes[n].disks.homes[volume].bytes(), end);
                if let Some((sector, is, should)) = found {
                    return self.fail(format!(
                        "{}: home of volume {volume} sector {sector} is of write {is}, should be of {should} (end {end})",
                        Self::name(n)
                    ));
                }
            }
        }
    }
}
