//! Rot in the mirror's homes. Homes carry no checksums, and nothing reads those of a mirror but a comparison: that must find
//! all of it and nothing else, and its repair must put it right.

use std::collections::{BTreeMap, BTreeSet};

use reprise_engine::{Group, VerifyReport};
use reprise_journal::PieceSource;
use reprise_types::VolumeSlot;

use crate::Rng;
use crate::pair::history::{VOLUME_SECTORS, extent};
use crate::pair::plan::SEC;
use crate::pair::world::{World, say};

/// Volume and sector.
type Place = (u16, u64);
/// Bytes a second of the comparison at the end: it is not to take long.
const LAST_RATE: u64 = 64 << 20;

/// What is known of rot.
#[derive(Debug, Default)]
pub(super) struct HomeRot {
    /// What sectors held when they had rotted. They are rotten while they hold it: until they are written over, and again
    /// where a power cut takes that back.
    held: BTreeMap<Place, Vec<[u8; 512]>>,
    /// Rotten when the comparison at work began.
    at_begin: BTreeSet<Place>,
    /// These, and what has rotted since.
    suspects: BTreeSet<Place>,
}

impl World {
    /// Bits of the mirror's homes flip.
    pub(super) fn rot_homes(&mut self, count: u64, choice: u64) {
        let mut rng = Rng::new(choice);
        for _ in 0..count {
            let volume = rng.below(VOLUME_SECTORS.len() as u64) as u16;
            let all = VOLUME_SECTORS[usize::from(volume)];
            let zone = if rng.one_in(2) { all.min(256) } else { all };
            let sector = rng.below(zone);
            let (at, bit) = (sector * 512 + rng.below(512), rng.below(8));
            if self.is_rotten(volume, sector) {
                continue;
            }
            say!(self, "mirror: sector {sector} of the home of volume {volume} rots");
            let home = &mut self.boxes[1].disks.homes[usize::from(volume)];
            home.rot(at, 1 << bit);
            let now = home.get(sector as usize);
            self.home_rot.held.entry((volume, sector)).or_default().push(now);
            self.home_rot.suspects.insert((volume, sector));
            *self.counts.classes.entry(6).or_default() += 1;
        }
    }

    /// True where a sector of the mirror's home holds what rot made of it.
    pub(super) fn is_rotten(&self, volume: u16, sector: u64) -> bool {
        let now = || self.boxes[1].disks.homes[usize::from(volume)].get(sector as usize);
        self.home_rot.held.get(&(volume, sector)).is_some_and(|held| held.contains(&now()))
    }

    fn rotten(&self) -> BTreeSet<Place> {
        self.home_rot.held.keys().copied().filter(|(volume, sector)| self.is_rotten(*volume, *sector)).collect()
    }

    pub(super) fn comparison_begins(&mut self) {
        self.home_rot.at_begin = self.rotten();
        self.home_rot.suspects = self.home_rot.at_begin.clone();
    }

    /// A comparison has found what was rotten before it began, and nothing that is sound.
    pub(super) fn check_found(&self, report: &VerifyReport) -> Result<(), String> {
        let sectors = |e: &reprise_types::Extent| {
            let volume = e.volume.get();
            (e.sector.get()..e.end().get()).map(move |sector| (volume, sector))
        };
        let found: BTreeSet<Place> = report.extents.iter().flat_map(sectors).collect();
        if let Some((volume, sector)) = found.difference(&self.home_rot.suspects).next() {
            return Err(format!("finds sector {sector} of volume {volume} to differ, with no fault"));
        }
        let Some(mirror) = self.boxes[1].group().filter(|_| report.unreadable == 0) else { return Ok(()) };
        let journal = mirror.journal();
        let index = journal.index_at(mirror.meta().applied, report.at.seq);
        for (volume, sector) in self.home_rot.at_begin.difference(&found).copied() {
            // What is to be applied over it yet is read from the journal.
            let plan = journal.plan_with(&index, extent(volume, sector, 1));
            let of_home = plan.pieces.iter().all(|p| matches!(p.source, PieceSource::Home));
            let exists = mirror.meta().volume(VolumeSlot::from_raw(volume)).is_some();
            if exists && of_home && self.is_rotten(volume, sector) {
                return Err(format!("does not find that sector {sector} of volume {volume} is rotten"));
            }
        }
        Ok(())
    }

    /// At rest: a person has the boxes compared, and what differs sent.
    pub(super) fn repair_homes(&mut self, end: u64) {
        while self.wrong.is_none() && self.source_lost.is_none() && !self.rotten().is_empty() {
            if self.t >= end {
                return self.fail(format!("comparisons do not put rot of homes right: {:?}", self.rotten()));
            }
            // One that was at work when the source went off has no end.
            let idle = |world: &Self| {
                let report = world.boxes[0].group().and_then(Group::verify_report);
                report.is_none_or(|r| r.end.is_some())
            };
            if idle(self) {
                self.compare(LAST_RATE, true);
            }
            // Where none can begin, because the link is down, time passes.
            let began = !idle(self);
            self.run_until((self.t + 2 * SEC).min(end), |world| began && idle(world));
        }
    }
}
