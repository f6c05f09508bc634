//! The oracle finds what is planted, and nothing where nothing is wrong. A small sequential model stands for the box: it
//! puts issued operations into one order, which is any order that their times allow.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use reprise_testkit::oracle::*;
use reprise_testkit::rng::Rng;

const SECTORS: u64 = 256;

struct World {
    log: OpLog,
    /// Operations in the order they took effect.
    order: Vec<Op>,
}

impl World {
    /// Rounds of concurrent operations; those of a round take effect in random order. `limbo` of ten are never acknowledged, and
    /// half of these never happen.
    fn run(seed: u64, rounds: u64, limbo: u64, zeros: bool) -> Self {
        let mut rng = Rng::new(seed);
        let (log, mut next, mut order) = (OpLog::new(), 0, Vec::new());
        for _ in 0..rounds {
            let first = next;
            for _ in 0..1 + rng.below(8) {
                let sectors = 1 + rng.below(40);
                let sector = rng.below(SECTORS - sectors);
                let kind = if zeros && rng.below(5) == 0 { OpKind::Zero } else { OpKind::Write };
                let id = OpId { writer: (next % 4) as u32, op: next };
                log.invoke(id, kind, rng.below(2) as u16, sector, sectors as u32);
                next += 1;
            }
            let mut round: Vec<u64> = (first..next).collect();
            for i in (1..round.len()).rev() {
                round.swap(i, rng.below(i as u64 + 1) as usize);
            }
            for op in round {
                let lost = rng.below(10) < limbo;
                if !(lost && rng.below(2) == 0) {
                    order.push(op);
                }
                if !lost {
                    log.acknowledge(OpId { writer: (op % 4) as u32, op });
                }
            }
            if rng.below(4) == 0 {
                log.settle();
            }
        }
        let ops = log.ops();
        let order = order.into_iter().map(|n| ops[n as usize].clone()).collect();
        Self { log, order }
    }

    fn records(&self) -> Vec<Record> {
        let lines: Vec<String> = (self.order.iter().enumerate())
            .map(|(n, op)| {
                let (seq, volume, sector, sectors) = (n + 1, op.volume, op.sector, op.sectors);
                let (kind, crc) = match op.kind {
                    OpKind::Write => ("write", stamp::crc32c(&stamp::payload(op.id, volume, sector, sectors)).to_string()),
                    OpKind::Zero => ("zero", "null".into()),
                };
                format!(
                    r#"{{"seq":{seq},"kind":"{kind}","volume":{volume},"sector":{sector},"sectors":{sectors},"crc":{crc},"more":1}}"#
                )
            })
            .collect();
        parse_records(lines.join("\n").as_bytes()).unwrap()
    }

    fn images(&self, upto: usize) -> Images {
        let mut images = Images::default();
        self.order.iter().take(upto).for_each(|op| images.apply(op));
        images
    }

    fn last_write(&self) -> usize {
        self.order.iter().rposition(|o| o.kind == OpKind::Write && o.acknowledged.is_some() && o.sectors > 1).unwrap()
    }
}

#[derive(Clone, PartialEq)]
struct Images([Vec<u8>; 2]);

impl Default for Images {
    fn default() -> Self {
        Self([vec![0; SECTORS as usize * 512], vec![0; SECTORS as usize * 512]])
    }
}

impl Images {
    fn apply(&mut self, op: &Op) {
        let at = op.sector as usize * 512;
        let place = &mut self.0[usize::from(op.volume)][at..at + op.sectors as usize * 512];
        match op.kind {
            OpKind::Write => place.copy_from_slice(&stamp::payload(op.id, op.volume, op.sector, op.sectors)),
            OpKind::Zero => place.fill(0),
        }
    }

    fn map(&self) -> BTreeMap<u16, &dyn Image> {
        self.0.iter().enumerate().map(|(n, i)| (n as u16, i as &dyn Image)).collect()
    }

    fn check(&self, ops: &[Op]) -> ImageReport {
        check_image(&self.map(), ops).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_honest_box_passes_every_check(seed: u64, rounds in 1u64..40, limbo in 0u64..4, zeros: bool) {
        let world = World::run(seed, rounds, limbo, zeros);
        let ops = world.log.ops();
        let image = world.images(usize::MAX);
        let report = image.check(&ops);
        prop_assert!(report.is_good(), "{:?}", report.faults);
        let records = world.records();
        let found = check_records(&records, &ops);
        // Zeros have no stamp, so equal ones may be taken for one another; without them there is nothing to guess.
        prop_assert!(zeros || found.is_good(), "{:?}", found.faults);
        for s in [0, records.len() / 2, records.len()] {
            let report = check_prefix(&world.images(s).map(), &records, &found, &ops).unwrap();
            prop_assert!(report.is_exactly(s as u64), "{s}: {report:?}");
        }
        if found.is_good() {
            prop_assert!(covers_acknowledged(&records, &found, &ops, records.len() as u64, u64::MAX).is_empty());
        }
    }

    #[test]
    fn the_prefix_is_the_one_and_no_other(seed: u64) {
        let world = World::run(seed, 10, 0, false);
        let (ops, records) = (world.log.ops(), world.records());
        let found = check_records(&records, &ops);
        let images: Vec<Images> = (0..=records.len()).map(|s| world.images(s)).collect();
        for image in &images {
            let report = check_prefix(&image.map(), &records, &found, &ops).unwrap();
            for (other, other_image) in images.iter().enumerate() {
                prop_assert_eq!(report.is_exactly(other as u64), other_image == image);
            }
        }
    }

    #[test]
    fn a_lost_write_is_reported(seed: u64) {
        let world = World::run(seed, 20, 0, false);
        let (ops, records) = (world.log.ops(), world.records());
        let last = world.last_write();
        let mut image = Images::default();
        world.order.iter().enumerate().filter(|(n, _)| *n != last).for_each(|(_, op)| image.apply(op));
        let found = check_records(&records, &ops);
        let prefix = check_prefix(&image.map(), &records, &found, &ops).unwrap();
        prop_assert!(!prefix.is_exactly(records.len() as u64));
        let mut fewer = records.clone();
        fewer.remove(last);
        for (n, record) in fewer.iter_mut().enumerate() {
            record.seq = n as u64 + 1;
        }
        let found = check_records(&fewer, &ops);
        let missing = covers_acknowledged(&fewer, &found, &ops, u64::MAX, u64::MAX);
        prop_assert_eq!(missing, vec![world.order[last].id]);
    }
}

fn write(log: &OpLog, op: u64, sector: u64, sectors: u32) -> OpId {
    let id = OpId { writer: 1, op };
    log.invoke(id, OpKind::Write, 0, sector, sectors);
    id
}

fn image_of(log: &OpLog, order: &[u64]) -> Images {
    let mut image = Images::default();
    order.iter().for_each(|n| image.apply(&log.ops()[*n as usize]));
    image
}

#[test]
fn an_acknowledged_write_that_is_missing_is_lost() {
    let log = OpLog::new();
    for n in 0..2 {
        let id = write(&log, n, 8, 4);
        log.acknowledge(id);
    }
    let fault = &image_of(&log, &[0]).check(&log.ops()).faults[0];
    assert!(matches!(fault, ImageFault::Lost { sector: 8, missing: OpId { op: 1, .. }, .. }), "{fault:?}");
    assert!(image_of(&log, &[0, 1]).check(&log.ops()).is_good());
    let empty = image_of(&log, &[]).check(&log.ops());
    assert_eq!(empty.fault_count, 8);
}

#[test]
fn two_writes_one_after_the_other_may_not_change_places() {
    let log = OpLog::new();
    for n in 0..2 {
        let id = write(&log, n, 8 + n * 2, 4);
        log.acknowledge(id);
    }
    let swapped = image_of(&log, &[1, 0]).check(&log.ops());
    assert!(matches!(swapped.faults[0], ImageFault::Lost { sector: 10, .. }), "{:?}", swapped.faults);
    // The same in a list of records, and an image of such a list is no prefix of the right one.
    let world = World { order: log.ops().into_iter().rev().collect(), log };
    let records = world.records();
    let found = check_records(&records, &world.log.ops());
    assert!(matches!(found.faults[0], RecordFault::Reordered { seq: 2, .. }), "{:?}", found.faults);
}

#[test]
fn a_dependent_write_without_its_cause_is_no_prefix() {
    // The classic: a log block is acknowledged, then its commit block is written elsewhere; the mirror has only the latter.
    let world = {
        let log = OpLog::new();
        for (n, sector) in [(0, 8), (1, 100)] {
            let id = write(&log, n, sector, 4);
            log.acknowledge(id);
        }
        World { order: log.ops(), log }
    };
    let (ops, records) = (world.log.ops(), world.records());
    let found = check_records(&records, &ops);
    let image = image_of(&world.log, &[1]);
    let report = check_prefix(&image.map(), &records, &found, &ops).unwrap();
    assert!(report.exact.is_empty() && report.wrong_sectors == 4, "{report:?}");
    assert_eq!(report.examples[0], (0, 8));
}

#[test]
fn concurrent_writes_may_take_any_order_but_only_one() {
    let log = OpLog::new();
    let ids = [write(&log, 0, 8, 4), write(&log, 1, 10, 4), write(&log, 2, 8, 6)];
    ids.into_iter().for_each(|id| log.acknowledge(id));
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        assert!(image_of(&log, &order).check(&log.ops()).is_good(), "{order:?}");
    }
    // Sector 10 says 0 after 1, sector 11 says 1 after 0.
    let mut image = image_of(&log, &[2, 1, 0]);
    let newer = image_of(&log, &[2, 0, 1]);
    image.0[0][11 * 512..12 * 512].copy_from_slice(&newer.0[0][11 * 512..12 * 512]);
    let report = image.check(&log.ops());
    assert!(matches!(&report.faults[..], [ImageFault::NoOrder { ops }] if ops.len() >= 2), "{:?}", report.faults);
}

#[test]
fn torn_and_misplaced_and_broken_sectors_are_reported() {
    let log = OpLog::new();
    let id = write(&log, 0, 8, 4);
    log.acknowledge(id);
    write(&log, 1, 8, 4);
    let whole = image_of(&log, &[0, 1]);
    assert!(whole.check(&log.ops()).is_good() && image_of(&log, &[0]).check(&log.ops()).is_good());
    let mut torn = whole.clone();
    torn.0[0][9 * 512..10 * 512].copy_from_slice(&image_of(&log, &[0]).0[0][9 * 512..10 * 512]);
    let report = torn.check(&log.ops());
    assert!(matches!(report.faults[..], [ImageFault::Torn { sector: 9, torn: OpId { op: 1, .. }, .. }]));
    let world = World { order: log.ops(), log };
    let (ops, records) = (world.log.ops(), world.records());
    let found = check_records(&records, &ops);
    assert!(check_prefix(&torn.map(), &records, &found, &ops).unwrap().exact.is_empty());
    let mut misplaced = whole.clone();
    misplaced.0[0].copy_within(8 * 512..9 * 512, 40 * 512);
    assert!(matches!(misplaced.check(&ops).faults[..], [ImageFault::Misplaced { sector: 40, .. }]));
    let mut broken = whole.clone();
    broken.0[0][8 * 512 + 300] ^= 1;
    assert!(matches!(broken.check(&ops).faults[0], ImageFault::Garbage { sector: 8, .. }));
    assert_eq!(compare_images(&whole.0[0], &torn.0[0]).unwrap(), Some(Difference::Sectors { first: 9, count: 1 }));
    assert_eq!(compare_images(&whole.0[0], &whole.0[0]).unwrap(), None);
}

#[test]
fn an_unacknowledged_write_may_come_late_until_it_is_settled() {
    let log = OpLog::new();
    write(&log, 0, 8, 4);
    let id = write(&log, 1, 8, 4);
    log.acknowledge(id);
    assert!(image_of(&log, &[1, 0]).check(&log.ops()).is_good(), "concurrent");
    let log = OpLog::new();
    write(&log, 0, 8, 4);
    log.settle();
    let id = write(&log, 1, 8, 4);
    log.acknowledge(id);
    assert!(!image_of(&log, &[1, 0]).check(&log.ops()).is_good(), "it was dead by then");
}

#[test]
fn the_log_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ops");
    let log = OpLog::with_file(&path).unwrap();
    let id = write(&log, 0, 1, 1);
    write(&log, 1, 1, 1);
    log.acknowledge(id);
    log.settle();
    assert_eq!(OpLog::load(&path).unwrap().ops(), log.ops());
    std::fs::write(&path, "{\"nonsense\":1}\n").unwrap();
    assert!(matches!(OpLog::load(&path), Err(OpLogError::Line { line: 1, .. })));
}

#[test]
fn no_two_zeroings_have_the_same_extent() {
    let log = OpLog::new();
    let id = |op| OpId { writer: 1, op };
    assert!(log.invoke_zeroing(id(0), 1, 143, 1));
    log.settle();
    assert!(!log.invoke_zeroing(id(1), 1, 143, 1), "a record of zeros there could be either");
    assert!(log.invoke_zeroing(id(1), 0, 143, 1));
    assert!(log.invoke_zeroing(id(2), 1, 143, 2));
    assert_eq!(log.ops().len(), 3, "what was refused is not logged");
}
