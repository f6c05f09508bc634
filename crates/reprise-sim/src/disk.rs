//! A disk that keeps live and durable bytes apart.
//!
//! A write changes the live bytes at once; what was durable before is remembered sector by sector until a sync. A power
//! cut decides for every sector on its own whether the old or the new content is there. The assumptions about real disks
//! that this stands for are listed in `docs/formats.md`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use reprise_journal::CacheRead;

use crate::Rng;

const SECTOR: usize = 512;

/// The power supply that several disks share: it fails at a given operation.
#[derive(Debug, Clone, Default)]
pub struct Power(Rc<Cell<Option<u64>>>);

impl Power {
    /// Cuts the power when this many more writes and syncs have begun.
    pub fn cut_after(&self, operations: u64) {
        self.0.set(Some(operations));
    }

    /// Never cuts.
    pub fn hold(&self) {
        self.0.set(None);
    }

    /// True while a cut is to come.
    pub fn armed(&self) -> bool {
        self.0.get().is_some()
    }

    fn spend(&self) -> Result<(), DiskError> {
        match self.0.get() {
            None => Ok(()),
            Some(0) => Err(DiskError::PowerCut),
            Some(n) => {
                self.0.set(Some(n - 1));
                Ok(())
            }
        }
    }
}

/// What an operation on the simulated disk may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// The power went out during the operation.
    PowerCut,
    /// The disk reports an error.
    Io,
}

/// A fault to be injected. Counts are of operations from the moment it is set; 0 hits the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The nth read fails.
    ReadError(u64),
    /// The nth write fails, with some of its sectors changed.
    WriteError(u64),
    /// The nth sync fails; what it should have saved stays undecided.
    SyncError(u64),
    /// The nth write is reported and never happens.
    LostWrite(u64),
    /// The nth write goes this many bytes (may be negative) beside its place.
    Misdirected(u64, i64),
    /// From the nth sync on they are reported and do nothing.
    LyingSync(u64),
    /// The nth read gives what was there before the last write (of those since the fault was set).
    StaleRead(u64),
}

/// The disk. See the module.
#[derive(Debug, Clone)]
pub struct SimDisk {
    live: Vec<u8>,
    /// Durable content of the sectors that were written since.
    durable: BTreeMap<usize, [u8; SECTOR]>,
    /// What stood before the last write of a sector, kept while a stale read is to come.
    older: BTreeMap<usize, [u8; SECTOR]>,
    power: Power,
    faults: Vec<Fault>,
    lying: bool,
}

impl SimDisk {
    /// A disk of `len` bytes, all zero.
    pub fn new(len: usize, power: Power) -> Self {
        assert!(len.is_multiple_of(SECTOR), "{len} bytes are not whole sectors");
        Self {
            live: vec![0; len],
            durable: BTreeMap::new(),
            older: BTreeMap::new(),
            power,
            faults: Vec::new(),
            lying: false,
        }
    }

    /// Injects a fault.
    pub fn inject(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Takes back all faults that have not struck.
    pub fn heal(&mut self) {
        self.faults.clear();
        self.older.clear();
        self.lying = false;
    }

    /// Flips a bit, also of what is durable.
    pub fn rot(&mut self, at: u64, mask: u8) {
        let at = at as usize;
        self.live[at] ^= mask;
        if let Some(old) = self.durable.get_mut(&(at / SECTOR)) {
            old[at % SECTOR] ^= mask;
        }
    }

    /// The live bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.live
    }

    /// Number of sectors that a power cut may turn back.
    pub fn unflushed(&self) -> usize {
        self.durable.len()
    }

    /// Counts down the faults that `pick` selects and gives the one that strikes.
    fn strike(&mut self, pick: impl Fn(&mut Fault) -> Option<&mut u64>) -> Option<Fault> {
        let mut hit = None;
        self.faults.retain_mut(|fault| {
            let whole = *fault;
            match pick(fault) {
                Some(0) if hit.is_none() => {
                    hit = Some(whole);
                    false
                }
                Some(n) => {
                    *n = n.saturating_sub(1);
                    true
                }
                None => true,
            }
        });
        hit
    }

    fn put(&mut self, at: u64, bytes: &[u8], mut keep: impl FnMut(usize) -> bool) {
        assert!(at.is_multiple_of(SECTOR as u64) && bytes.len().is_multiple_of(SECTOR), "write of part of a sector");
        let first = at as usize / SECTOR;
        let stale = self.faults.iter().any(|f| matches!(f, Fault::StaleRead(_)));
        for (i, new) in bytes.chunks_exact(SECTOR).enumerate() {
            let at = (first + i) * SECTOR;
            let Some(place) = self.live.get_mut(at..at + SECTOR) else { return };
            if keep(i) {
                let mut old = [0; SECTOR];
                old.copy_from_slice(place);
                self.durable.entry(first + i).or_insert(old);
                if stale {
                    self.older.insert(first + i, old);
                }
                place.copy_from_slice(new);
            }
        }
    }

    /// True while a fault is set that has not struck.
    pub fn is_armed(&self) -> bool {
        !self.faults.is_empty()
    }

    /// True while syncs are reported and do nothing.
    pub fn is_lying(&self) -> bool {
        self.lying
    }

    /// A write that was under way when the power went: sector i of it is there where `keep` says so.
    pub fn write_part(&mut self, at: u64, bufs: &[Bytes], keep: impl FnMut(usize) -> bool) {
        self.put(at, &bufs.concat(), keep);
    }

    /// The sectors that are not durable, with what stood there before.
    pub fn undecided(&self) -> impl Iterator<Item = (usize, &[u8; SECTOR])> + '_ {
        self.durable.iter().map(|(sector, old)| (*sector, old))
    }

    /// Puts a sector as it is to be after a cut that one is looking into, durable or not.
    pub fn set(&mut self, sector: usize, bytes: &[u8; SECTOR]) {
        if let Some(place) = self.live.get_mut(sector * SECTOR..(sector + 1) * SECTOR) {
            place.copy_from_slice(bytes);
        }
    }

    /// A sector as it is.
    pub fn get(&self, sector: usize) -> [u8; SECTOR] {
        let mut out = [0; SECTOR];
        if let Some(place) = self.live.get(sector * SECTOR..(sector + 1) * SECTOR) {
            out.copy_from_slice(place);
        }
        out
    }

    /// Takes the memory of what is not durable out, or puts it back.
    pub fn swap_undecided(&mut self, with: &mut BTreeMap<usize, [u8; SECTOR]>) {
        std::mem::swap(&mut self.durable, with);
    }

    /// Makes a range read as zero, as [`Self::write`] would.
    ///
    /// # Errors
    /// See [`Self::write`].
    pub fn zero(&mut self, at: u64, len: usize) -> Result<(), DiskError> {
        self.write(at, &[Bytes::from(vec![0; len])])
    }

    /// Writes pieces one after the other. Durable after [`Self::sync`] or [`Self::sync_range`] only.
    ///
    /// # Errors
    /// A power cut (the sectors may or may not be there) or an injected fault.
    pub fn write(&mut self, at: u64, bufs: &[Bytes]) -> Result<(), DiskError> {
        let bytes = bufs.concat();
        if let Err(cut) = self.power.spend() {
            self.put(at, &bytes, |_| true);
            return Err(cut);
        }
        let hit = self.strike(|f| match f {
            Fault::WriteError(n) | Fault::LostWrite(n) | Fault::Misdirected(n, _) => Some(n),
            _ => None,
        });
        match hit {
            Some(Fault::WriteError(_)) => {
                self.put(at, &bytes, |i| i % 3 == 0);
                Err(DiskError::Io)
            }
            Some(Fault::LostWrite(_)) => Ok(()),
            Some(Fault::Misdirected(_, by)) => {
                let at = at.saturating_add_signed(by);
                self.put(at, &bytes, |_| true);
                Ok(())
            }
            _ => {
                self.put(at, &bytes, |_| true);
                Ok(())
            }
        }
    }

    fn begin_sync(&mut self) -> Result<bool, DiskError> {
        self.power.spend()?;
        let hit = self.strike(|f| match f {
            Fault::SyncError(n) | Fault::LyingSync(n) => Some(n),
            _ => None,
        });
        match hit {
            Some(Fault::SyncError(_)) => return Err(DiskError::Io),
            Some(Fault::LyingSync(_)) => self.lying = true,
            _ => {}
        }
        Ok(!self.lying)
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// A power cut or an injected fault; nothing is known to be durable then.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        if self.begin_sync()? {
            self.durable.clear();
        }
        Ok(())
    }

    /// Makes a range durable and nothing else, as a write with RWF_DSYNC (FUA) does.
    ///
    /// # Errors
    /// See [`Self::sync`].
    pub fn sync_range(&mut self, at: u64, len: usize) -> Result<(), DiskError> {
        if self.begin_sync()? {
            let first = at as usize / SECTOR;
            let last = first + len.div_ceil(SECTOR);
            let mut behind = self.durable.split_off(&first);
            self.durable.append(&mut behind.split_off(&last));
        }
        Ok(())
    }

    /// The power is out: each sector that was not made durable is old or new by itself. `calm` in 256 is the share of
    /// sectors that keep the new content; several shares find more than one half does.
    pub fn power_cut(&mut self, rng: &mut Rng, calm: u8) {
        for (sector, old) in std::mem::take(&mut self.durable) {
            if rng.below(256) >= u64::from(calm) {
                self.live[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(&old);
            }
        }
    }
}

impl CacheRead for SimDisk {
    fn read(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let hit = self.strike(|f| match f {
            Fault::ReadError(n) | Fault::StaleRead(n) => Some(n),
            _ => None,
        });
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = at.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut out = self.live.get(at..end).ok_or(io::ErrorKind::UnexpectedEof)?.to_vec();
        match hit {
            Some(Fault::ReadError(_)) => return Err(io::Error::other("injected read error")),
            Some(Fault::StaleRead(_)) => {
                let sectors = at / SECTOR..end.div_ceil(SECTOR);
                for (sector, old) in self.durable.range(sectors.clone()).chain(self.older.range(sectors)) {
                    let from = sector * SECTOR;
                    if let Some(place) = from.checked_sub(at).and_then(|p| out.get_mut(p..p + SECTOR)) {
                        place.copy_from_slice(old);
                    }
                }
            }
            _ => {}
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(fill: u8) -> Bytes {
        Bytes::from(vec![fill; SECTOR])
    }

    #[test]
    fn unsynced_sectors_fall_on_their_own_and_synced_ones_stay() {
        let mut disk = SimDisk::new(64 * SECTOR, Power::default());
        disk.write(0, &[sector(1), sector(1)]).unwrap();
        disk.sync_range(0, SECTOR).unwrap();
        disk.write(0, &vec![sector(2); 64]).unwrap();
        assert_eq!(disk.unflushed(), 64);
        disk.power_cut(&mut Rng::new(1), 128);
        let kept = disk.bytes().chunks(SECTOR).filter(|s| s[0] == 2).count();
        assert!((10..54).contains(&kept), "{kept} of 64 sectors kept");
        assert!(matches!(disk.bytes()[0], 1 | 2), "a synced sector fell back behind its sync");
        disk.write(0, &[sector(3)]).unwrap();
        disk.sync().unwrap();
        disk.power_cut(&mut Rng::new(2), 0);
        assert_eq!(disk.bytes()[0], 3);
    }

    #[test]
    fn faults_strike_the_operation_they_name() {
        let mut disk = SimDisk::new(8 * SECTOR, Power::default());
        disk.inject(Fault::WriteError(1));
        assert_eq!(disk.write(0, &[sector(1)]), Ok(()));
        assert_eq!(disk.write(0, &[sector(1)]), Err(DiskError::Io));
        disk.inject(Fault::LostWrite(0));
        assert_eq!(disk.write(512, &[sector(9)]), Ok(()));
        assert_eq!(disk.bytes()[512], 0);
        disk.inject(Fault::Misdirected(0, 512));
        assert_eq!(disk.write(512, &[sector(9)]), Ok(()));
        assert_eq!((disk.bytes()[512], disk.bytes()[1024]), (0, 9));
        disk.sync().unwrap();
        disk.write(0, &[sector(7)]).unwrap();
        disk.inject(Fault::StaleRead(0));
        assert_eq!(disk.read(0, 512).unwrap()[0], 1);
        assert_eq!(disk.read(0, 512).unwrap()[0], 7);
        disk.inject(Fault::ReadError(0));
        assert!(disk.read(0, 512).is_err());
        disk.inject(Fault::SyncError(0));
        assert_eq!(disk.sync(), Err(DiskError::Io));
        disk.inject(Fault::LyingSync(0));
        assert_eq!(disk.sync(), Ok(()));
        assert_eq!(disk.unflushed(), 1);
        disk.heal();
        let power = Power::default();
        let mut disk = SimDisk::new(8 * SECTOR, power.clone());
        power.cut_after(1);
        assert_eq!(disk.write(0, &[sector(1)]), Ok(()));
        assert_eq!(disk.sync(), Err(DiskError::PowerCut));
    }
}
