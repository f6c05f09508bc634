//! The sender's side, which is the source: which regions differ, where, and what is sent.

use bytes::Bytes;
use reprise_format::link::{Message, VerifyAsk, VerifyFix};
use reprise_types::{Extent, Sector, SectorCount, VolumeSlot, honest};

use super::{
    EXTENTS_MAX, HASH_LEN, HASHES_MAX, MIRROR_BEHIND, Phase, REGION_SECTORS, REGIONS_MAX, Region, Verify, VerifyEnd,
    hash, hashes, region_after, send,
};
use crate::core::{Core, RegionRead};
use crate::io::PeerId;

/// Runs of sectors whose hashes differ.
fn differing_runs(ours: &[u8], theirs: &[u8]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (n, (a, b)) in (0u64..).zip(ours.chunks(HASH_LEN).zip(theirs.chunks(HASH_LEN))) {
        if a == b {
            continue;
        }
        match runs.last_mut() {
            Some((first, count)) if *first + *count == n => *count += 1,
            _ => runs.push((n, 1)),
        }
    }
    runs
}

impl Verify {
    /// Begins regions as budget and memory allow.
    pub(super) fn begin_regions(&mut self, core: &mut Core) {
        let now = core.now.mono;
        let open = self.is_open();
        let Some(run) = &mut self.run else { return };
        let rate = run.plan.bytes_per_sec.max(REGION_SECTORS * 512);
        // At most a quarter of a second is made up for.
        let nanos = now.since(run.refilled).min(250_000_000);
        let earned = i64::try_from(u128::from(nanos) * u128::from(rate) / 1_000_000_000).unwrap_or(i64::MAX);
        if earned > 0 {
            run.refilled = now;
            run.budget = run.budget.saturating_add(earned).min(i64::try_from(rate / 4).unwrap_or(i64::MAX));
        }
        loop {
            let number = self.reads + 1;
            let Some(run) = &mut self.run else { return };
            // An old region that takes its time is waited for: the hashes behind it are kept until it is digested.
            let full = run.regions.len() >= REGIONS_MAX || run.hashes.len() >= HASHES_MAX;
            let Some(at) = run.next.filter(|_| run.ready && open && !full && run.budget > 0) else { return };
            let left = core.meta.volume(at.0).map_or(0, |v| v.sectors.get().saturating_sub(at.1));
            let sectors = SectorCount::from_raw(left.min(REGION_SECTORS));
            run.next = region_after(&core.meta, Some(at));
            run.budget -= sectors.bytes().get() as i64;
            let (phase, runs) = (Phase::Whole, Vec::new());
            run.regions.insert(at, Region { sectors, phase, read: number, data: None, theirs: None, runs, sent: 0 });
            self.reads = number;
            self.ask(core, at, sectors);
            let sector = Sector::from_raw(at.1);
            self.begin_read(core, number, Extent { volume: at.0, sector, sectors });
        }
    }

    /// A region was read here, or could not be.
    pub(super) fn read_by_sender(&mut self, core: &mut Core, of: RegionRead, data: Vec<u8>) {
        let at = (of.volume, of.sector.get());
        let region = self.run.as_mut().and_then(|r| r.regions.get_mut(&at));
        if let Some(region) = region.filter(|region| region.read == of.number) {
            region.data = Some(data);
            self.compare(core, at);
        }
    }

    /// What the mirror says.
    pub(super) fn answer(&mut self, core: &mut Core, message: Message) {
        let current = self.report.as_ref().filter(|r| r.end.is_none()).map(|r| r.id);
        let Some(run) = &mut self.run else { return };
        match message {
            Message::VerifyReady(m) if Some(m.id) == current => match m.refused.is_empty() {
                true => run.ready = true,
                false if m.refused == MIRROR_BEHIND => self.end(core, VerifyEnd::Stopped { reason: MIRROR_BEHIND }),
                false => self.end(core, VerifyEnd::Stopped { reason: "the mirror cannot hold the moment" }),
            },
            Message::VerifyHashes(m) if Some(m.id) == current => {
                let at = (m.slot, m.sector.get());
                if let Some(region) = run.regions.get_mut(&at) {
                    region.theirs = Some(m.hashes);
                    self.compare(core, at);
                }
            }
            Message::VerifyFixed(m) if Some(m.id) == current => {
                let key = run.regions.range(..=(m.slot, m.sector.get())).next_back().map(|(at, _)| *at);
                if let Some(at) = key {
                    self.fix_next(core, at);
                }
            }
            _ => {}
        }
    }

    /// Both sides' hashes there? Then the region is equal, or looked at more closely.
    fn compare(&mut self, core: &mut Core, at: (VolumeSlot, u64)) {
        let Some(run) = &mut self.run else { return };
        let Some(report) = &mut self.report else { return };
        let Some(region) = run.regions.get_mut(&at) else { return };
        // Either may come first.
        let Some(data) = &region.data else { return };
        let Some(theirs) = region.theirs.take() else { return };
        let grain = if region.phase == Phase::Sectors { SectorCount::from_raw(1) } else { region.sectors };
        let ours = hashes(data, grain);
        if data.is_empty() || theirs.len() != ours.len() {
            report.unreadable += region.sectors.get();
            return self.region_done(core, at, None);
        }
        let whole = hash(data);
        let equal = honest!(ours[..] == theirs[..], HashesNotCompared => true);
        let differing: u64 = region.runs.iter().map(|(_, count)| count).sum();
        match region.phase {
            Phase::Whole if equal => self.region_done(core, at, Some(whole)),
            // It differed a moment ago and is equal now: one of the disks does not read the same twice.
            Phase::Sectors if equal => {
                report.unreadable += region.sectors.get();
                self.region_done(core, at, None);
            }
            Phase::Whole => {
                region.phase = Phase::Sectors;
                self.ask(core, at, SectorCount::from_raw(1));
            }
            Phase::Sectors => {
                region.runs = differing_runs(&ours, &theirs);
                for (first, count) in region.runs.clone() {
                    report.differing += count;
                    let (sector, sectors) = (Sector::from_raw(at.1 + first), SectorCount::from_raw(count));
                    if report.extents.len() < EXTENTS_MAX {
                        report.extents.push(Extent { volume: at.0, sector, sectors });
                    }
                }
                if run.plan.repair {
                    region.phase = Phase::Fixing;
                    // The mirror takes one run at a time: another region's turn comes when this one's have been written.
                    let busy = run.regions.values().any(|r| r.phase == Phase::Fixing && r.sent > 0);
                    if honest!(!busy, FixesAtOnce => true) {
                        self.fix_next(core, at);
                    }
                } else {
                    self.region_done(core, at, Some(whole));
                }
            }
            Phase::Again if equal => {
                report.repaired += differing;
                self.region_done(core, at, Some(whole));
            }
            Phase::Fixing | Phase::Again => self.region_done(core, at, Some(whole)),
        }
    }

    /// Sends the next run that differs; after the last one the region is compared once more.
    fn fix_next(&mut self, core: &mut Core, at: (VolumeSlot, u64)) {
        let Some(id) = self.report.as_ref().map(|r| r.id) else { return };
        let Some(run) = &mut self.run else { return };
        let Some(region) = run.regions.get_mut(&at).filter(|r| r.phase == Phase::Fixing) else { return };
        let Some((first, count)) = region.runs.get(region.sent).copied() else {
            region.phase = Phase::Again;
            let sectors = region.sectors;
            let waiting = run.regions.iter().find(|(_, r)| r.phase == Phase::Fixing).map(|(at, _)| *at);
            self.ask(core, at, sectors);
            if let Some(at) = honest!(waiting, FixesAtOnce => None) {
                self.fix_next(core, at);
            }
            return;
        };
        region.sent += 1;
        let bytes = (first as usize * 512)..((first + count) as usize * 512);
        let Some(data) = region.data.as_ref().and_then(|d| d.get(bytes)).map(Bytes::copy_from_slice) else { return };
        let (sector, sectors) = (Sector::from_raw(at.1 + first), SectorCount::from_raw(count));
        let fix = VerifyFix { id, slot: at.0, sector, sectors };
        core.fx.send(PeerId::FIRST, fix.into(), vec![data]);
    }

    fn ask(&mut self, core: &mut Core, (slot, sector): (VolumeSlot, u64), grain: SectorCount) {
        let Some(id) = self.report.as_ref().map(|r| r.id) else { return };
        let Some(region) = self.run.as_ref().and_then(|r| r.regions.get(&(slot, sector))) else { return };
        let ask = VerifyAsk { id, slot, sector: Sector::from_raw(sector), sectors: region.sectors, grain };
        send(core, ask);
    }

    /// `hash` is our own, where both could read the region.
    fn region_done(&mut self, core: &mut Core, at: (VolumeSlot, u64), hash: Option<[u8; HASH_LEN]>) {
        let Some(run) = &mut self.run else { return };
        let Some(region) = run.regions.remove(&at) else { return };
        run.hashes.insert(at, hash.unwrap_or_default());
        if let Some(report) = &mut self.report {
            report.done += region.sectors.get();
        }
        self.digest(core);
    }

    /// Regions end in any order and are digested in theirs.
    fn digest(&mut self, core: &mut Core) {
        loop {
            let Some(run) = &mut self.run else { return };
            let Some(at) = run.digested else { break };
            let Some(hash) = run.hashes.remove(&at) else { return };
            run.digest.update(&hash);
            run.digested = region_after(&core.meta, Some(at));
        }
        let digest = self.run.as_ref().map(|r| *r.digest.finalize().as_bytes());
        self.end(core, VerifyEnd::Compared);
        if let Some(report) = self.report.as_mut() {
            report.digest = digest.filter(|_| report.is_equal());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_sectors_that_differ_are_joined() {
        let sector = |n: u8| vec![n; 512];
        let ours = hashes(&[sector(1), sector(2), sector(3), sector(4), sector(5)].concat(), SectorCount::from_raw(1));
        let theirs =
            hashes(&[sector(1), sector(9), sector(8), sector(4), sector(7)].concat(), SectorCount::from_raw(1));
        assert_eq!(differing_runs(&ours, &theirs), [(1, 2), (4, 1)]);
        assert_eq!(differing_runs(&ours, &ours), []);
        assert_eq!(hashes(&[7; 1024], SectorCount::from_raw(512)).len(), HASH_LEN);
    }
}
