//! Is an image possible, given the log?
//!
//! A write that was acknowledged has taken effect; one whose stamp is seen anywhere has, too, and as a whole. Operations that do
//! not overlap in time happened in that order; of those that do, any order is allowed, but one order must explain all
//! sectors of all volumes. So the check is: every sector holds an operation that no later effective one covers, and the
//! order that the sectors tell, together with that of time, has no circle.

use std::collections::{BTreeMap, HashMap};
use std::io;

use super::image::each_sector;
use super::stamp::{self, Content};
use super::{Image, Op, OpId, OpKind};

/// What is wrong with an image. At most [`FAULTS_MAX`] are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageFault {
    /// A sector is neither zero nor whole.
    Garbage {
        /// Volume.
        volume: u16,
        /// Sector.
        sector: u64,
    },
    /// A sector holds what was meant for another place.
    Misplaced {
        /// Volume.
        volume: u16,
        /// Sector.
        sector: u64,
        /// What it holds.
        holds: OpId,
    },
    /// A sector holds an operation that is not in the log.
    Unknown {
        /// Volume.
        volume: u16,
        /// Sector.
        sector: u64,
        /// What it holds.
        holds: OpId,
    },
    /// A sector holds older content than an acknowledged write to it.
    Lost {
        /// Volume.
        volume: u16,
        /// Sector.
        sector: u64,
        /// What it holds; none for zeros.
        holds: Option<OpId>,
        /// The acknowledged operation that is missing.
        missing: OpId,
    },
    /// An operation that was not acknowledged is there in part only.
    Torn {
        /// Volume.
        volume: u16,
        /// A sector without it.
        sector: u64,
        /// What that sector holds; none for zeros.
        holds: Option<OpId>,
        /// The operation that is seen elsewhere.
        torn: OpId,
    },
    /// No order of operations explains all sectors; these are in the circle or behind it.
    NoOrder {
        /// Some of them.
        ops: Vec<OpId>,
    },
    /// A volume of the log has no image, or one that is too small.
    NoImage {
        /// Volume.
        volume: u16,
    },
}

/// Faults listed in a report: the first few tell the story.
pub const FAULTS_MAX: usize = 32;

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct ImageReport {
    /// Sectors looked at.
    pub sectors: u64,
    /// Sectors with a stamp.
    pub stamped: u64,
    /// Operations seen in at least one sector.
    pub visible_ops: usize,
    /// Faults, at most [`FAULTS_MAX`].
    pub faults: Vec<ImageFault>,
    /// All faults.
    pub fault_count: u64,
}

impl ImageReport {
    /// True if the image is possible.
    pub fn is_good(&self) -> bool {
        self.fault_count == 0
    }

    fn add(&mut self, fault: ImageFault) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// What a sector holds: an operation's place in the log, or zeros.
type Holds = Option<u32>;

/// Checks the images of all volumes of a group, which started as zeros, against all operations.
pub fn check_image(images: &BTreeMap<u16, &dyn Image>, ops: &[Op]) -> io::Result<ImageReport> {
    let mut report = ImageReport::default();
    let by_id: HashMap<OpId, u32> = ops.iter().enumerate().map(|(i, o)| (o.id, i as u32)).collect();
    let mut effective: Vec<bool> = ops.iter().map(|o| o.acknowledged.is_some()).collect();
    let mut visible = vec![false; ops.len()];
    let mut held: BTreeMap<u16, Vec<Holds>> = BTreeMap::new();
    for (volume, image) in images {
        let mut holds = vec![None; image.sectors() as usize];
        each_sector(*image, |sector, bytes| {
            report.sectors += 1;
            let stamp = match stamp::read(bytes) {
                Content::Zero => return,
                Content::Garbage => return report.add(ImageFault::Garbage { volume: *volume, sector }),
                Content::Stamped(stamp) => stamp,
            };
            report.stamped += 1;
            if (stamp.volume, stamp.sector) != (*volume, sector) {
                return report.add(ImageFault::Misplaced { volume: *volume, sector, holds: stamp.id });
            }
            let known = by_id.get(&stamp.id).filter(|i| covers(&ops[**i as usize], *volume, sector));
            let Some(index) = known else {
                return report.add(ImageFault::Unknown { volume: *volume, sector, holds: stamp.id });
            };
            holds[sector as usize] = Some(*index);
            visible[*index as usize] = true;
            effective[*index as usize] = true;
        })?;
        held.insert(*volume, holds);
    }
    report.visible_ops = visible.iter().filter(|v| **v).count();
    let zeroings: Vec<&Op> = ops.iter().filter(|o| o.kind == OpKind::Zero).collect();
    let mut order = Order::new(ops);
    for (index, op) in ops.iter().enumerate() {
        let range = op.sector as usize..op.sector as usize + op.sectors as usize;
        let Some(sectors) = held.get(&op.volume).and_then(|h| h.get(range)) else {
            report.add(ImageFault::NoImage { volume: op.volume });
            continue;
        };
        if !effective[index] {
            continue;
        }
        for (n, holds) in sectors.iter().enumerate() {
            if *holds == Some(index as u32) {
                continue;
            }
            let sector = op.sector + n as u64;
            let stale = match holds {
                Some(other) => ops[*other as usize].surely_before(op),
                // Zeros are right if this op or a later or concurrent one made them.
                None => op.kind == OpKind::Write && !zeroed_later(&zeroings, op, sector),
            };
            let holds_id = holds.map(|h| ops[h as usize].id);
            let (volume, holds_op) = (op.volume, holds_id);
            if stale && op.acknowledged.is_some() {
                report.add(ImageFault::Lost { volume, sector, holds: holds_op, missing: op.id });
            } else if stale {
                report.add(ImageFault::Torn { volume, sector, holds: holds_op, torn: op.id });
            } else if let Some(winner) = holds {
                order.before(index as u32, *winner);
            }
        }
    }
    if let Some(ops) = order.circle(ops) {
        report.add(ImageFault::NoOrder { ops });
    }
    Ok(report)
}

pub(crate) fn covers(op: &Op, volume: u16, sector: u64) -> bool {
    op.volume == volume && sector >= op.sector && sector - op.sector < u64::from(op.sectors)
}

/// A zeroing that may have come after `op` covers the sector. Zeros carry no stamp, so any of them may be the one.
fn zeroed_later(zeroings: &[&Op], op: &Op, sector: u64) -> bool {
    zeroings.iter().any(|z| covers(z, op.volume, sector) && !z.surely_before(op))
}

/// A graph of "took effect before": operations, and moments in time that carry the order of operations apart in time.
struct Order {
    edges: Vec<(u32, u32)>,
    moments: Vec<u64>,
}

impl Order {
    fn new(ops: &[Op]) -> Self {
        let mut moments: Vec<u64> = ops.iter().map(|o| o.invoked).collect();
        moments.sort_unstable();
        moments.dedup();
        Self { edges: Vec::new(), moments }
    }

    fn before(&mut self, first: u32, second: u32) {
        if self.edges.last() != Some(&(first, second)) {
            self.edges.push((first, second));
        }
    }

    /// Operations that cannot be put in order; none if all can.
    fn circle(mut self, ops: &[Op]) -> Option<Vec<OpId>> {
        let op_count = ops.len() as u32;
        let moment = |n: usize| op_count + n as u32;
        for n in 1..self.moments.len() {
            self.edges.push((moment(n - 1), moment(n)));
        }
        for (i, op) in ops.iter().enumerate() {
            if let Ok(n) = self.moments.binary_search(&op.invoked) {
                self.edges.push((moment(n), i as u32));
            }
            let after = op.ended().map(|ended| self.moments.partition_point(|m| *m <= ended));
            if let Some(n) = after.filter(|n| *n < self.moments.len()) {
                self.edges.push((i as u32, moment(n)));
            }
        }
        self.edges.sort_unstable();
        self.edges.dedup();
        let nodes = ops.len() + self.moments.len();
        let mut waits = vec![0u32; nodes];
        self.edges.iter().for_each(|(_, to)| waits[*to as usize] += 1);
        let mut free: Vec<u32> = (0..nodes as u32).filter(|n| waits[*n as usize] == 0).collect();
        let mut done = 0;
        while let Some(node) = free.pop() {
            done += 1;
            let from = self.edges.partition_point(|e| e.0 < node);
            for (_, to) in self.edges[from..].iter().take_while(|e| e.0 == node) {
                waits[*to as usize] -= 1;
                if waits[*to as usize] == 0 {
                    free.push(*to);
                }
            }
        }
        if done == nodes {
            return None;
        }
        let stuck = ops.iter().enumerate().filter(|(i, _)| waits[*i] > 0);
        Some(stuck.map(|(_, o)| o.id).take(FAULTS_MAX).collect())
    }
}
