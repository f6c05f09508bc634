//! Bookkeeping of the first copy of a group, both sides.
//!
//! A region is read through a view at `view_seq` r, the source's durable position when the read begins, and is sent in the
//! same ordered stream as the batches. Until it is sent no record after r is sent, so it reaches the mirror before every
//! record that it does not contain. The mirror writes it into the home at once and applies no record after r before that.
//! Records up to r that are applied later only repeat, in order, what the region contains. From R1, at least the highest
//! r, the image is whole.

use std::collections::VecDeque;

use reprise_format::link::{CopyCursor, CopyExtent, Volume};
use reprise_types::{HistoryHash, Point, Sector, SectorCount, Seq, VolumeSlot, honest};

use crate::LinkError;

/// Largest region in sectors: 1 MiB, one good disk read and a quarter of a second at 32 Mbit/s. Slower links take smaller
/// regions, so that batches do not wait long behind one.
pub const REGION_SECTORS_MAX: u64 = 2048;

/// Smallest region in sectors: 64 KiB, from which on compression is tried.
pub const REGION_SECTORS_MIN: u64 = 128;

/// Regions read or sent and not yet acknowledged: enough to keep a long line and a disk busy, small enough for memory.
pub const REGIONS_OUTSTANDING_MAX: usize = 16;

/// Regions being read at one time: their views hold back the batches behind them.
const REGIONS_READING_MAX: usize = 4;

/// A region to read at a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRegion {
    /// The volume.
    pub slot: VolumeSlot,
    /// First sector.
    pub sector: Sector,
    /// Length.
    pub sectors: SectorCount,
    /// Read home and index as of this position exactly.
    pub view_seq: Seq,
    /// h there; none from a source of an earlier release.
    pub view_hash: Option<HistoryHash>,
}

impl CopyRegion {
    /// The message for it.
    pub fn extent(&self, zero: bool) -> CopyExtent {
        CopyExtent {
            slot: self.slot,
            sector: self.sector,
            sectors: self.sectors,
            view_seq: self.view_seq,
            zero,
            view_hash: self.view_hash,
        }
    }

    fn start(&self) -> CopyCursor {
        CopyCursor { slot: self.slot, sector: self.sector }
    }

    /// The cursor behind it.
    pub fn end(&self) -> CopyCursor {
        let end = self.sector.get().saturating_add(self.sectors.get());
        CopyCursor { slot: self.slot, sector: Sector::from_raw(end) }
    }
}

/// What a mirror has of a copy, to be stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyMark {
    /// Everything before it is in the homes.
    pub cursor: CopyCursor,
    /// What is before the cursor contains records up to here: the copy goes on only from a source on whose line this is.
    /// None where the source did not tell.
    pub reach: Option<Point>,
}

/// Volumes in copy order with their sizes.
#[derive(Debug, Clone)]
struct Layout {
    volumes: Vec<(VolumeSlot, u64)>,
}

impl Layout {
    fn new(volumes: &[Volume]) -> Self {
        let mut volumes: Vec<_> = volumes.iter().map(|v| (v.slot, v.sectors.get())).collect();
        volumes.sort_unstable();
        Self { volumes }
    }

    fn start(&self) -> CopyCursor {
        let slot = self.volumes.first().map_or(VolumeSlot::from_raw(0), |(slot, _)| *slot);
        CopyCursor { slot, sector: Sector::ZERO }
    }

    fn end(&self) -> CopyCursor {
        let (slot, sectors) = self.volumes.last().copied().unwrap_or_default();
        CopyCursor { slot, sector: Sector::from_raw(sectors) }
    }

    /// Start and length of what is left of the volume that the cursor is in, or of the next one that has any.
    fn rest(&self, cursor: CopyCursor) -> Option<(CopyCursor, u64)> {
        self.volumes.iter().find_map(|(slot, sectors)| {
            let from = match (*slot).cmp(&cursor.slot) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => cursor.sector.get(),
                std::cmp::Ordering::Greater => 0,
            };
            let left = sectors.checked_sub(from).filter(|left| *left > 0)?;
            Some((CopyCursor { slot: *slot, sector: Sector::from_raw(from) }, left))
        })
    }

    /// Sectors before the cursor.
    fn before(&self, cursor: CopyCursor) -> u64 {
        let upto = |(slot, sectors): &(VolumeSlot, u64)| match (*slot).cmp(&cursor.slot) {
            std::cmp::Ordering::Less => *sectors,
            std::cmp::Ordering::Equal => cursor.sector.get().min(*sectors),
            std::cmp::Ordering::Greater => 0,
        };
        self.volumes.iter().map(upto).fold(0, u64::saturating_add)
    }

    fn total(&self) -> u64 {
        self.volumes.iter().map(|(_, sectors)| *sectors).fold(0, u64::saturating_add)
    }
}

/// How far a copy is, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// Durable at the mirror.
    pub done: u64,
    /// All volumes.
    pub total: u64,
}

impl CopyProgress {
    /// Of a copy of `volumes` of which everything before `cursor` is there; nothing is without one.
    pub fn of(volumes: &[Volume], cursor: Option<CopyCursor>) -> Self {
        let layout = Layout::new(volumes);
        Self { done: cursor.map_or(0, |cursor| layout.before(cursor)), total: layout.total() }
    }
}

/// The source's side.
#[derive(Debug, Clone)]
pub struct CopySource {
    layout: Layout,
    next: CopyCursor,
    acked: CopyCursor,
    region_sectors: u64,
    reading: VecDeque<CopyRegion>,
    unacked: VecDeque<CopyCursor>,
    r1: Option<Seq>,
}

impl CopySource {
    /// Copies `volumes` from `cursor` on; from their start without one.
    pub fn new(volumes: &[Volume], cursor: Option<CopyCursor>) -> Self {
        let layout = Layout::new(volumes);
        let next = cursor.unwrap_or_else(|| layout.start());
        Self {
            layout,
            next,
            acked: next,
            region_sectors: REGION_SECTORS_MAX,
            reading: VecDeque::new(),
            unacked: VecDeque::new(),
            r1: None,
        }
    }

    /// Regions are cut so that one takes about a quarter of a second at this rate.
    pub fn set_rate(&mut self, bytes_per_sec: u64) {
        let sectors = (bytes_per_sec / 4 / 512).clamp(REGION_SECTORS_MIN, REGION_SECTORS_MAX);
        self.region_sectors = sectors.next_power_of_two().min(REGION_SECTORS_MAX);
    }

    /// The next region to read, with `durable` as its view; none while enough are under way or the end is reached.
    /// Regions are to be sent in the order in which they were given out.
    pub fn next_region(&mut self, durable: &Point) -> Option<CopyRegion> {
        let outstanding = self.reading.len() + self.unacked.len();
        if self.reading.len() >= REGIONS_READING_MAX || outstanding >= REGIONS_OUTSTANDING_MAX {
            return None;
        }
        let (start, left) = self.layout.rest(self.next)?;
        // Regions end at multiples of their size, so that they fit the home's own grain.
        let to_grain = self.region_sectors - start.sector.get() % self.region_sectors;
        let sectors = SectorCount::from_raw(left.min(to_grain));
        let region = CopyRegion {
            slot: start.slot,
            sector: start.sector,
            sectors,
            view_seq: durable.seq,
            view_hash: Some(durable.hash),
        };
        self.next = region.end();
        self.reading.push_back(region);
        Some(region)
    }

    /// No record after this one may be sent before the regions being read are.
    pub fn send_limit(&self) -> Option<Seq> {
        honest!(self.reading.iter().map(|region| region.view_seq).min(), SendLimitIgnored => None)
    }

    /// Bytes of the regions being read.
    pub fn reading_bytes(&self) -> u64 {
        self.reading.iter().map(|region| region.sectors.get() * 512).sum()
    }

    /// The region was handed to the stream.
    ///
    /// # Panics
    /// When it is not the oldest one being read: a region out of order would break the mirror's image.
    pub fn region_sent(&mut self, region: &CopyRegion) {
        let oldest = self.reading.pop_front();
        assert_eq!(oldest.as_ref(), Some(region), "copied regions are sent in the order they were given out");
        self.unacked.push_back(region.end());
    }

    /// R1 to send, once, when every region has been sent; `durable` is at least the highest view read, also of earlier
    /// connections.
    pub fn take_done(&mut self, durable: Seq) -> Option<Seq> {
        let all_sent = self.reading.is_empty() && self.layout.rest(self.next).is_none();
        if !all_sent || self.r1.is_some() {
            return None;
        }
        self.r1 = Some(durable);
        self.r1
    }

    /// The mirror holds everything before `cursor`.
    pub fn on_ack(&mut self, cursor: CopyCursor) -> Result<(), LinkError> {
        let sent = self.reading.front().map_or(self.next, CopyRegion::start);
        if cursor > sent || cursor < self.acked {
            return Err(LinkError::BadExtent { at: cursor });
        }
        self.acked = cursor;
        while self.unacked.front().is_some_and(|end| *end <= cursor) {
            self.unacked.pop_front();
        }
        Ok(())
    }

    /// True when the mirror's image is whole: every region and every record up to R1 is durable there.
    pub fn is_complete(&self, peer_durable: Seq) -> bool {
        self.r1.is_some_and(|r1| peer_durable >= r1) && self.unacked.is_empty()
    }

    /// What the mirror holds durably; to be kept for display only, the mirror's own cursor counts.
    pub fn acked(&self) -> CopyCursor {
        self.acked
    }

    /// How far the copy is.
    pub fn progress(&self) -> CopyProgress {
        CopyProgress { done: self.layout.before(self.acked), total: self.layout.total() }
    }
}

#[derive(Debug, Clone)]
struct Arrived {
    region: CopyRegion,
    written: bool,
}

/// The mirror's side.
#[derive(Debug, Clone)]
pub struct CopyMirror {
    layout: Layout,
    received: CopyCursor,
    durable: CopyCursor,
    arrived: VecDeque<Arrived>,
    /// View of the last region.
    view: Seq,
    r1: Option<Seq>,
}

impl CopyMirror {
    /// Takes `volumes` from `cursor` on; from their start without one.
    pub fn new(volumes: &[Volume], cursor: Option<CopyCursor>) -> Self {
        let layout = Layout::new(volumes);
        let start = cursor.unwrap_or_else(|| layout.start());
        Self { layout, received: start, durable: start, arrived: VecDeque::new(), view: Seq::ZERO, r1: None }
    }

    /// A region came with `payload_len` bytes.
    pub fn on_extent(&mut self, extent: &CopyExtent, payload_len: u64) -> Result<CopyRegion, LinkError> {
        let at = CopyCursor { slot: extent.slot, sector: extent.sector };
        let expected_len = if extent.zero { Some(0) } else { extent.sectors.get().checked_mul(512) };
        let rest = self.layout.rest(self.received);
        let fits = rest.is_some_and(|(start, left)| start == at && extent.sectors.get() <= left)
            && (1..=REGION_SECTORS_MAX).contains(&extent.sectors.get())
            && expected_len == Some(payload_len)
            && extent.view_seq >= self.view
            && self.arrived.len() < REGIONS_OUTSTANDING_MAX
            && self.r1.is_none();
        if !fits {
            return Err(LinkError::BadExtent { at });
        }
        let region = CopyRegion {
            slot: extent.slot,
            sector: extent.sector,
            sectors: extent.sectors,
            view_seq: extent.view_seq,
            view_hash: extent.view_hash,
        };
        (self.received, self.view) = (region.end(), region.view_seq);
        self.arrived.push_back(Arrived { region, written: false });
        Ok(region)
    }

    /// No record after this one may be applied before the regions that have come are written.
    pub fn apply_limit(&self) -> Option<Seq> {
        self.arrived.iter().filter(|a| !a.written).map(|a| a.region.view_seq).min()
    }

    /// A region is written to the home, not yet flushed.
    pub fn region_written(&mut self, slot: VolumeSlot, sector: Sector) {
        let at = CopyCursor { slot, sector };
        if let Some(arrived) = self.arrived.iter_mut().find(|a| a.region.start() == at) {
            arrived.written = true;
        }
    }

    /// The last region that a flush which begins now makes durable, with all before it; none where that is no more than
    /// before. Store its end after the flush, then call [`Self::flushed`] with it.
    pub fn flush_up_to(&self) -> Option<CopyRegion> {
        self.arrived.iter().take_while(|a| a.written).last().map(|a| a.region)
    }

    /// Homes are flushed and the cursor is stored.
    pub fn flushed(&mut self, cursor: CopyCursor) {
        while self.arrived.front().is_some_and(|a| a.written && a.region.end() <= cursor) {
            self.arrived.pop_front();
        }
        self.durable = self.durable.max(cursor);
    }

    /// Everything before it is durable.
    pub fn cursor(&self) -> CopyCursor {
        self.durable
    }

    /// The source has sent everything.
    pub fn on_done(&mut self, r1: Seq) -> Result<(), LinkError> {
        if self.layout.rest(self.received).is_some() || self.r1.is_some() {
            return Err(LinkError::BadCopyEnd);
        }
        self.r1 = Some(r1);
        Ok(())
    }

    /// True when the image is whole: store that before anything relies on it.
    pub fn is_complete(&self, durable: Seq) -> bool {
        self.r1.is_some_and(|r1| durable >= r1) && self.arrived.is_empty()
    }

    /// How far the copy is.
    pub fn progress(&self) -> CopyProgress {
        CopyProgress { done: self.layout.before(self.durable), total: self.layout.total() }
    }

    /// The cursor after the last region.
    pub fn end(&self) -> CopyCursor {
        self.layout.end()
    }
}

#[cfg(test)]
mod tests {
    use reprise_types::VolumeId;

    use super::*;

    fn point(seq: u64) -> Point {
        Point { seq: Seq::from_raw(seq), ..Point::default() }
    }

    pub(crate) fn volumes(sizes: &[(u16, u64)]) -> Vec<Volume> {
        let volume = |(slot, sectors): &(u16, u64)| Volume {
            id: VolumeId::from_raw([*slot as u8; 16]),
            slot: VolumeSlot::from_raw(*slot),
            name: format!("v{slot}"),
            sectors: SectorCount::from_raw(*sectors),
            lun: 0,
            block_size: 0,
            thin: false,
            read_only: false,
        };
        sizes.iter().map(volume).collect()
    }

    #[test]
    fn every_sector_once_in_order_and_resumed_at_any_cursor() {
        let volumes = volumes(&[(2, 5000), (0, 2048), (1, 1), (5, 0)]);
        for crash_after in [0usize, 1, 2, 3, 4, 5, 99] {
            let mut mirror = CopyMirror::new(&volumes, None);
            let mut source = CopySource::new(&volumes, None);
            let (mut steps, mut regions) = (0, 0);
            loop {
                if let Some(region) = source.next_region(&point(10)) {
                    assert_eq!(source.send_limit(), Some(Seq::from_raw(10)));
                    source.region_sent(&region);
                    let zero = regions % 2 == 0;
                    let len = if zero { 0 } else { region.sectors.get() * 512 };
                    mirror.on_extent(&region.extent(zero), len).unwrap();
                    assert_eq!(mirror.apply_limit(), Some(Seq::from_raw(10)));
                    mirror.region_written(region.slot, region.sector);
                    assert_eq!(mirror.apply_limit(), None);
                    assert_eq!(mirror.flush_up_to(), Some(region));
                    mirror.flushed(region.end());
                    regions += 1;
                    if steps == crash_after {
                        // Both sides lose what is not durable; the acknowledgement is lost too.
                        source = CopySource::new(&volumes, Some(mirror.cursor()));
                        mirror = CopyMirror::new(&volumes, Some(mirror.cursor()));
                    } else {
                        source.on_ack(mirror.cursor()).unwrap();
                    }
                    steps += 1;
                } else if let Some(r1) = source.take_done(Seq::from_raw(12)) {
                    mirror.on_done(r1).unwrap();
                } else {
                    break;
                }
            }
            assert_eq!(regions, 1 + 1 + 3);
            assert_eq!(mirror.progress(), CopyProgress { done: 7049, total: 7049 });
            assert!(!source.is_complete(Seq::from_raw(11)) && !mirror.is_complete(Seq::from_raw(11)));
            assert!(source.is_complete(Seq::from_raw(12)) && mirror.is_complete(Seq::from_raw(12)));
        }
    }

    #[test]
    fn bounded_in_reads_and_unacknowledged_regions() {
        let volumes = volumes(&[(0, 1 << 20)]);
        let mut source = CopySource::new(&volumes, None);
        let mut sent = 0;
        loop {
            let mut reading = Vec::new();
            while let Some(region) = source.next_region(&point(1)) {
                reading.push(region);
            }
            assert!(reading.len() <= REGIONS_READING_MAX);
            if reading.is_empty() {
                break;
            }
            sent += reading.len();
            reading.iter().for_each(|region| source.region_sent(region));
        }
        assert_eq!(sent, REGIONS_OUTSTANDING_MAX);
        assert_eq!(source.take_done(Seq::from_raw(1)), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let volumes = volumes(&[(0, 4096)]);
        let region = |sector, sectors| CopyRegion {
            slot: VolumeSlot::from_raw(0),
            sector: Sector::from_raw(sector),
            sectors: SectorCount::from_raw(sectors),
            view_seq: Seq::from_raw(1),
            view_hash: None,
        };
        let cases = [
            ("gap", region(8, 8).extent(false), 4096),
            ("past the end", region(0, 5000).extent(true), 0),
            ("empty", region(0, 0).extent(true), 0),
            ("payload too short", region(0, 8).extent(false), 4095),
            ("zeros with payload", region(0, 8).extent(true), 4096),
            ("overflow", region(0, u64::MAX).extent(false), 0),
        ];
        for (name, extent, len) in cases {
            assert!(CopyMirror::new(&volumes, None).on_extent(&extent, len).is_err(), "{name}");
        }
        assert_eq!(CopyMirror::new(&volumes, None).on_done(Seq::ZERO), Err(LinkError::BadCopyEnd));
        let mut source = CopySource::new(&volumes, None);
        let past = CopyCursor { slot: VolumeSlot::from_raw(0), sector: Sector::from_raw(1) };
        assert!(source.on_ack(past).is_err());
    }
}
