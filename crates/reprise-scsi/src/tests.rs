//! One case or more per row of the opcode table, through the public entry points.

use bytes::Bytes;
use reprise_types::{InitiatorPort, PoolBuf, Sector, SectorCount, VolumeId};

use crate::opcode::TABLE;
use crate::*;

mod more;
mod reservations;
mod transfer;

const BLOCKS: u64 = 1 << 16;

fn port() -> TargetPort {
    TargetPort {
        target_name: String::from("iqn.2026-01.invalid.example:t"),
        group: 1,
        relative_port: 1,
        alua: AluaState::ActiveOptimized,
        peer: None,
    }
}

fn host() -> InitiatorPort {
    InitiatorPort::new("iqn.2026-01.invalid.example:host", [1; 6])
}

fn unit() -> Lun {
    let mut lun = Lun::new(VolumeId::from_raw([7; 16]), SectorCount::from_raw(BLOCKS), BlockSize::B512);
    lun.thin = true;
    lun
}

fn map(lun: Lun) -> LunMap {
    LunMap::new(port(), [(0, lun)]).unwrap()
}

fn start(lun: Lun, cdb: &[u8]) -> Action {
    Nexus::new(host()).start(&map(lun), [0; 8], &Cdb::new(cdb))
}

fn run(lun: Lun, cdb: &[u8], data: &[u8]) -> Action {
    match start(lun, cdb) {
        Action::DataOut(out) => {
            assert_eq!(out.len() as usize, data.len(), "{cdb:02x?}");
            let mut buf = PoolBuf::unpooled(out.buffer_len() as usize);
            buf[..data.len()].copy_from_slice(data);
            out.finish(buf, data.len())
        }
        action => action,
    }
}

fn respond(action: Action) -> ScsiResponse {
    match action {
        Action::Respond(response) => response,
        other => panic!("{other:?}"),
    }
}

fn submit(action: Action) -> Submit {
    match action {
        Action::Submit(submit) => submit,
        other => panic!("{other:?}"),
    }
}

fn sense(action: Action) -> (u8, u8, u8) {
    let sense = respond(action).sense.expect("CHECK CONDITION");
    (sense.key as u8, sense.asc, sense.ascq)
}

fn data(action: Action) -> Vec<u8> {
    let response = respond(action);
    assert_eq!(response.status, Status::Good, "{:?}", response.sense);
    response.data.parts().concat()
}

const LBA_OUT_OF_RANGE: (u8, u8, u8) = (5, 0x21, 0);
const INVALID_FIELD: (u8, u8, u8) = (5, 0x24, 0);

/// A CDB of the row with its range filled in and the rest zero.
fn cdb_for(row: &opcode::Row, lba: u64, blocks: u64) -> Vec<u8> {
    let mut cdb = vec![0; row.cdb_len().into()];
    cdb[0] = row.opcode;
    cdb[1] = row.service_action.unwrap_or(0);
    for (field, value) in [(row.lba, lba), (row.blocks, blocks)] {
        let Some(field) = field else { continue };
        let bytes = value.to_be_bytes();
        let len = usize::from(field.len);
        cdb[usize::from(field.offset)..][..len].copy_from_slice(&bytes[8 - len..]);
    }
    cdb
}

#[test]
fn every_row_refuses_reserved_bits_and_the_control_byte() {
    for row in TABLE {
        for offset in 1..usize::from(row.cdb_len()) {
            for bit in 0..8 {
                let action = if offset == 1 && row.service_action.is_some() { 0x1f } else { 0 };
                let known = action | row.usage[offset];
                if known & (1 << bit) != 0 {
                    continue;
                }
                let mut cdb = cdb_for(row, 0, 1);
                cdb[offset] |= 1 << bit;
                let found = respond(start(unit(), &cdb)).sense.unwrap();
                assert_eq!((found.asc, found.ascq), (0x24, 0), "{} byte {offset} bit {bit}", row.name);
                assert_eq!(found.field, Some((FieldPointer::bit(offset as u16, bit), true)), "{}", row.name);
            }
        }
    }
}

#[test]
fn every_row_with_a_range_checks_it() {
    for row in TABLE.iter().filter(|row| row.lba.is_some()) {
        let max = if row.cdb_len() == 6 { 0x1f_ffff } else { u64::MAX };
        let beyond: &[(u64, u64)] =
            if row.blocks.is_some() { &[(BLOCKS, 0), (BLOCKS, 1), (BLOCKS - 1, 2), (max, 1)] } else { &[(BLOCKS, 0)] };
        for (lba, blocks) in beyond {
            let cdb = cdb_for(row, *lba, *blocks);
            assert_eq!(sense(start(unit(), &cdb)), LBA_OUT_OF_RANGE, "{} {lba}+{blocks}", row.name);
        }
        let last = start(unit(), &cdb_for(row, BLOCKS - 1, 1));
        assert!(!matches!(last, Action::Respond(r) if r.status != Status::Good), "{}", row.name);
    }
}

#[test]
fn every_row_obeys_not_ready_read_only_and_missing_units() {
    for row in TABLE {
        let cdb = cdb_for(row, 0, 1);
        let mut waiting = unit();
        waiting.not_ready = Some(NotReady::BecomingReady);
        let refused = matches!(start(waiting, &cdb), Action::Respond(r) if r.sense.is_some_and(|s| s.asc == 0x04));
        assert_eq!(refused, row.medium, "{}", row.name);
        let mut fixed = unit();
        fixed.read_only = true;
        let refused = matches!(start(fixed, &cdb), Action::Respond(r) if r.sense.is_some_and(|s| s.asc == 0x27));
        assert_eq!(refused, row.writes, "{}", row.name);
        let missing = Nexus::new(host()).start(&map(unit()), [0, 9, 0, 0, 0, 0, 0, 0], &Cdb::new(&cdb));
        let refused = matches!(missing, Action::Respond(r) if r.sense.is_some_and(|s| s.asc == 0x25));
        assert_eq!(refused, !matches!(row.handler, opcode::Handler::Target(_)), "{}", row.name);
    }
}

#[test]
fn unknown_commands_and_service_actions() {
    for opcode in [0x01, 0x04, 0x3b, 0x7f, 0xff] {
        assert_eq!(sense(start(unit(), &[opcode])), (5, 0x20, 0));
    }
    assert_eq!(sense(start(unit(), &[0x9e, 0x1f])), INVALID_FIELD);
    let mut thick = unit();
    thick.thin = false;
    assert_eq!(sense(start(thick, &[0x9e, 0x12])), INVALID_FIELD, "GET LBA STATUS only on thin units");
}

#[test]
fn reads_of_all_sizes() {
    for row in TABLE.iter().filter(|row| row.name.starts_with("READ(")) {
        let got = submit(start(unit(), &cdb_for(row, 5, 8)));
        assert_eq!(got.op, Op::Read { sector: Sector::from_raw(5), sectors: SectorCount::from_raw(8) });
        assert_eq!(got.then, Then::DataIn { len: 4096 });
    }
    let six = submit(start(unit(), &[0x08, 0, 0, 0, 0, 0]));
    assert_eq!(six.then, Then::DataIn { len: 256 * 512 }, "0 means 256");
    assert_eq!(respond(start(unit(), &[0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0])), ScsiResponse::GOOD);
    let too_long = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0];
    assert_eq!(sense(start(unit(), &too_long)), INVALID_FIELD);
    let mut big = unit();
    big.block_size = BlockSize::B4096;
    let got = submit(start(big, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0]));
    assert_eq!(got.op, Op::Read { sector: Sector::from_raw(24), sectors: SectorCount::from_raw(16) });
}

#[test]
fn writes_of_all_sizes_and_kinds() {
    for row in TABLE.iter().filter(|row| row.name.starts_with("WRITE(") || row.name.starts_with("WRITE AND")) {
        let payload: Vec<u8> = (0..1024).map(|i| i as u8).collect();
        let got = submit(run(unit(), &cdb_for(row, 9, 2), &payload));
        assert_eq!(
            got.op,
            Op::Write { sector: Sector::from_raw(9), data: Bytes::from(payload), fua: false },
            "{}",
            row.name
        );
        assert_eq!(got.then, Then::Status);
    }
    let fua = submit(run(unit(), &[0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512]));
    assert!(matches!(fua.op, Op::Write { fua: true, .. }));
}

#[test]
fn a_write_that_got_less_data_is_cut_between_blocks_or_refused() {
    let finish = |received| {
        let Action::DataOut(out) = start(unit(), &[0x2a, 0, 0, 0, 0, 0, 0, 0, 4, 0]) else { panic!() };
        out.finish(PoolBuf::unpooled(2048), received)
    };
    assert!(matches!(submit(finish(1024)).op, Op::Write { data, .. } if data.len() == 1024));
    assert_eq!(respond(finish(0)), ScsiResponse::GOOD);
    for received in [1, 200, 511, 513, 1300, 2047] {
        assert_eq!(sense(finish(received)), (5, 0x0e, 3), "{received}");
    }
}

#[test]
fn verify_reads_or_compares() {
    for row in TABLE.iter().filter(|row| row.name.starts_with("VERIFY")) {
        let got = submit(start(unit(), &cdb_for(row, 1, 2)));
        assert_eq!(got.then, Then::Readable { len: 1024 });
        let mut cdb = cdb_for(row, 1, 2);
        cdb[1] = 0x02;
        let got = submit(run(unit(), &cdb, &[5; 1024]));
        assert_eq!(
            respond(got.then.clone().complete(Completion::Data(Bytes::from(vec![5; 1024])))),
            ScsiResponse::GOOD
        );
        let mut other = vec![5; 1024];
        other[700] = 6;
        let parts = vec![Bytes::copy_from_slice(&other[..512]), Bytes::copy_from_slice(&other[512..])];
        let response = respond(got.then.complete(Completion::DataParts(parts)));
        assert_eq!(response.sense.unwrap().information, Some(700));
        cdb[1] = 0x04;
        assert_eq!(sense(start(unit(), &cdb)), INVALID_FIELD);
    }
}

#[test]
fn compare_and_write_splits_its_data() {
    let cdb = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0];
    let mut payload = vec![1; 512];
    payload.extend([2; 512]);
    let got = submit(run(unit(), &cdb, &payload));
    let Op::CompareAndWrite { sector, verify, write } = got.op else { panic!() };
    assert_eq!((sector.get(), &verify[..], &write[..]), (4, &[1; 512][..], &[2; 512][..]));
    let miss = respond(got.then.complete(Completion::Failed(ScsiError::Miscompare { offset: 7 })));
    assert_eq!(miss.sense.unwrap().information, Some(7));
    let mut long = cdb;
    long[13] = 129;
    assert_eq!(sense(start(unit(), &long)), INVALID_FIELD);
    long[13] = 0;
    assert_eq!(sense(start(unit(), &long)), INVALID_FIELD);
    let mut thick = unit();
    thick.thin = false;
    assert_eq!(sense(start(thick.clone(), &[0x42])), (5, 0x20, 0));
    assert_eq!(sense(start(thick, &[0x41, 0x08, 0, 0, 0, 0, 0, 0, 1, 0])), INVALID_FIELD);
}

#[test]
fn write_same_zeroes_or_expands() {
    for row in TABLE.iter().filter(|row| row.name.starts_with("WRITE SAME")) {
        let cdb = cdb_for(row, 3, 4);
        let ranges = vec![(Sector::from_raw(3), SectorCount::from_raw(4))];
        assert_eq!(submit(run(unit(), &cdb, &[0; 512])).op, Op::Zero { ranges: ranges.clone() });
        let got = submit(run(unit(), &cdb, &[9; 512])).op;
        assert!(matches!(got, Op::Write { data, .. } if data == vec![9; 2048]));
        let mut unmap = cdb.clone();
        unmap[1] = 0x08;
        assert_eq!(submit(run(unit(), &unmap, &[0; 512])).op, Op::Zero { ranges });
        let got = submit(run(unit(), &unmap, &[9; 512])).op;
        assert!(matches!(got, Op::Write { data, .. } if data == vec![9; 2048]));
        assert_eq!(sense(start(unit(), &cdb_for(row, 3, 0))), INVALID_FIELD, "WSNZ");
    }
    let no_data = [0x93, 0x09, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0];
    let ranges = vec![(Sector::from_raw(3), SectorCount::from_raw(4))];
    assert_eq!(submit(start(unit(), &no_data)).op, Op::Zero { ranges });
    let too_long = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0, 0];
    assert_eq!(sense(start(unit(), &too_long)), INVALID_FIELD);
}

fn unmap_list(ranges: &[(u64, u32)]) -> (Vec<u8>, Vec<u8>) {
    let mut list = ((ranges.len() * 16 + 6) as u16).to_be_bytes().to_vec();
    list.extend(((ranges.len() * 16) as u16).to_be_bytes());
    list.extend([0; 4]);
    for (lba, blocks) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(blocks.to_be_bytes());
        list.extend([0; 4]);
    }
    let mut cdb = vec![0x42, 0, 0, 0, 0, 0, 0];
    cdb.extend((list.len() as u16).to_be_bytes());
    cdb.push(0);
    (cdb, list)
}

#[test]
fn unmap_checks_its_list() {
    let (cdb, list) = unmap_list(&[(1, 2), (8, 0), (10, 20)]);
    let ranges =
        vec![(Sector::from_raw(1), SectorCount::from_raw(2)), (Sector::from_raw(10), SectorCount::from_raw(20))];
    assert_eq!(submit(run(unit(), &cdb, &list)).op, Op::Zero { ranges });
    let (cdb, list) = unmap_list(&[(BLOCKS - 1, 2)]);
    assert_eq!(sense(run(unit(), &cdb, &list)), LBA_OUT_OF_RANGE);
    let (cdb, mut list) = unmap_list(&[(1, 2)]);
    list[3] = 32;
    assert_eq!(sense(run(unit(), &cdb, &list)), (5, 0x1a, 0));
    assert_eq!(sense(start(unit(), &[0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0])), (5, 0x1a, 0));
    assert_eq!(respond(start(unit(), &[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0])), ScsiResponse::GOOD);
    let (cdb, _) = unmap_list(&vec![(0, 1); 257]);
    assert_eq!(sense(start(unit(), &cdb)), INVALID_FIELD);
    let mut huge = unit();
    huge.sectors = SectorCount::from_raw(1 << 40);
    let (cdb, list) = unmap_list(&[(0, 1), (0, (UNMAP_BYTES_MAX / 512) as u32)]);
    assert_eq!(sense(run(huge, &cdb, &list)), (5, 0x26, 0));
}

#[test]
fn flush_and_commands_without_effect() {
    for cdb in [&[0x35u8, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &[0x91; 1]] {
        assert_eq!(submit(start(unit(), cdb)).op, Op::Flush);
    }
    for cdb in [[0x00, 0, 0, 0, 0, 0], [0x1b, 0, 0, 0, 1, 0], [0x1b, 0, 0, 0, 0, 0], [0x1e, 0, 0, 0, 1, 0]] {
        assert_eq!(respond(start(unit(), &cdb)), ScsiResponse::GOOD);
    }
    assert_eq!(sense(start(unit(), &[0x1b, 0, 0, 0, 0x02, 0])), INVALID_FIELD);
    assert_eq!(sense(start(unit(), &[0x1b, 0, 0, 0, 0x10, 0])), INVALID_FIELD);
}

#[test]
fn inquiry_standard_and_pages() {
    let standard = data(start(unit(), &[0x12, 0, 0, 0, 255, 0]));
    assert_eq!(standard.len(), 74);
    assert_eq!(usize::from(standard[4]), standard.len() - 5);
    assert_eq!(&standard[8..16], b"REPRISE ");
    assert_eq!(data(start(unit(), &[0x12, 0, 0, 0, 5, 0])).len(), 5);
    let pages = data(start(unit(), &[0x12, 1, 0, 0, 255, 0]));
    assert_eq!(&pages[4..], &[0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for page in &pages[4..] {
        let body = data(start(unit(), &[0x12, 1, *page, 1, 0, 0]));
        assert_eq!(body[1], *page);
        assert_eq!(usize::from(body[2]) * 256 + usize::from(body[3]), body.len() - 4, "page {page:#x}");
    }
    let identity = data(start(unit(), &[0x12, 1, 0x83, 1, 0, 0]));
    assert_eq!(&identity[4..16], &[1, 3, 0, 8, 0x37, 7, 7, 7, 7, 7, 7, 7]);
    let limits = data(start(unit(), &[0x12, 1, 0xb0, 1, 0, 0]));
    assert_eq!((limits.len(), limits[4], limits[5]), (64, 1, 128));
    assert_eq!(sense(start(unit(), &[0x12, 1, 0x77, 0, 255, 0])), INVALID_FIELD);
    assert_eq!(sense(start(unit(), &[0x12, 0, 0x83, 0, 255, 0])), INVALID_FIELD);
    let nobody = Nexus::new(host()).start(&map(unit()), [0, 5, 0, 0, 0, 0, 0, 0], &Cdb::new(&[0x12, 0, 0, 0, 255, 0]));
    assert_eq!(data(nobody)[0], 0x7f);
}

#[test]
fn capacity_and_lba_status() {
    let ten = data(start(unit(), &[0x25]));
    assert_eq!(ten, [0, 0, 0xff, 0xff, 0, 0, 2, 0]);
    let sixteen = data(start(unit(), &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32]));
    assert_eq!(sixteen.len(), 32);
    assert_eq!(&sixteen[4..16], &[0, 0, 0xff, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    let mut huge = unit();
    huge.sectors = SectorCount::from_raw(1 << 40);
    assert_eq!(&data(start(huge, &[0x25]))[..4], &[0xff; 4]);
    let asked = submit(start(unit(), &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 64]));
    let (sector, sectors) = (Sector::from_raw(6), SectorCount::from_raw(BLOCKS - 6));
    assert_eq!(asked.op, Op::LbaStatus { sector, sectors, runs_max: 3 });
    let run = |sector, sectors, mapped| MappedRun {
        sector: Sector::from_raw(sector),
        sectors: SectorCount::from_raw(sectors),
        mapped,
    };
    let runs = vec![run(6, 4, true), run(10, 90, false), run(100, BLOCKS - 100, true)];
    let status = data(asked.then.complete(Completion::Mapped(runs.clone())));
    assert_eq!(status[..8], [0, 0, 0, 52, 0, 0, 0, 0]);
    assert_eq!(status[8..24], [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0, 0]);
    assert_eq!(status[24..40], [0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 90, 1, 0, 0, 0]);
    assert_eq!(status[40..52], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0xff, 0x9c]);
    // Of a 4 KiB block that is mapped in part the host is told that it is mapped.
    let mut big = unit();
    big.block_size = BlockSize::B4096;
    let asked = submit(start(big, &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64]));
    let runs = vec![run(0, 12, true), run(12, 20, false), run(32, BLOCKS - 32, true)];
    let status = data(asked.then.complete(Completion::Mapped(runs)));
    assert_eq!(status[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(status[24..40], [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 0]);
}

#[test]
fn mode_pages_and_select() {
    let all = data(start(unit(), &[0x1a, 0, 0x3f, 0, 255, 0]));
    assert_eq!(usize::from(all[0]) + 1, all.len());
    assert_eq!((all[2], all[3]), (0x10, 8));
    assert_eq!((all[12], all[14] & 4, all[32], all[44]), (0x08, 0, 0x8a, 0x1c));
    let ten = data(start(unit(), &[0x5a, 0x10, 0x3f, 0, 0, 0, 0, 1, 0, 0]));
    assert_eq!(usize::from(ten[1]) + 2, ten.len());
    assert_eq!((ten[4], ten[7]), (1, 16));
    let changeable = data(start(unit(), &[0x1a, 0x08, 0x48, 0, 255, 0]));
    assert!(changeable[6..].iter().all(|byte| *byte == 0));
    assert_eq!(sense(start(unit(), &[0x1a, 0, 0x02, 0, 255, 0])), INVALID_FIELD);
    let mut fixed = unit();
    fixed.read_only = true;
    assert_eq!(data(start(fixed, &[0x1a, 0, 0x3f, 0, 255, 0]))[2], 0x90);
    // What MODE SENSE said may be sent back; a changed WCE may not.
    let mut same = data(start(unit(), &[0x1a, 0x08, 0x08, 0, 255, 0]));
    same[0] = 0;
    let cdb = [0x15, 0x10, 0, 0, same.len() as u8, 0];
    assert_eq!(respond(run(unit(), &cdb, &same)), ScsiResponse::GOOD);
    same[4 + 2] |= 0x04;
    assert_eq!(sense(run(unit(), &cdb, &same)), (5, 0x26, 0));
    let long = [0x55, 0x10, 0, 0, 0, 0, 0, 0, 4, 0];
    assert_eq!(sense(run(unit(), &long, &[0; 4])), (5, 0x1a, 0));
    assert_eq!(sense(start(unit(), &[0x15, 0x01, 0, 0, 4, 0])), INVALID_FIELD);
    // SWP can be changed and saved, and nothing else of the page.
    let masks = data(start(unit(), &[0x1a, 0x08, 0x4a, 0, 255, 0]));
    assert_eq!(masks[4..], [0x8a, 0x0a, 0, 0, 0x08, 0, 0, 0, 0, 0, 0, 0]);
    let mut control = data(start(unit(), &[0x1a, 0x08, 0x0a, 0, 255, 0]));
    control[0] = 0;
    control[4 + 4] |= 0x08;
    let wanted = submit(run(unit(), &[0x15, 0x11, 0, 0, control.len() as u8, 0], &control));
    let Op::Control(change) = wanted.op else { panic!("{:?}", wanted.op) };
    assert_eq!(change.kind, ChangeKind::Mode { software_write_protect: true, save: true });
    let changed = Control::default().apply(&change).unwrap();
    assert!(changed.mode_changed && changed.control.state().software_write_protect);
    let mut protected = unit();
    protected.control = std::sync::Arc::new(changed.control);
    assert_eq!(data(start(protected.clone(), &[0x1a, 0x08, 0xca, 0, 255, 0]))[4 + 4], 0x08);
    assert_eq!(data(start(protected.clone(), &[0x1a, 0x08, 0x0a, 0, 255, 0]))[2], 0x90);
    assert_eq!(sense(start(protected, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0])), (7, 0x27, 0));
}

#[test]
fn report_luns_and_port_groups() {
    let luns = LunMap::new(port(), [(300, unit()), (0, unit())]).unwrap();
    let cdb = Cdb::new(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    let list = data(Nexus::new(host()).start(&luns, [0; 8], &cdb));
    assert_eq!(list, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
    let groups = data(start(unit(), &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]));
    assert_eq!(groups, [0, 0, 0, 12, 0, 0x8d, 0, 1, 0, 2, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn supported_operation_codes_come_from_the_table() {
    let all = data(start(unit(), &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]));
    assert_eq!(all.len(), 4 + TABLE.len() * 8);
    for row in TABLE {
        let option = if row.service_action.is_some() { 2 } else { 1 };
        let action = row.service_action.unwrap_or(0);
        let one = data(start(unit(), &[0xa3, 0x0c, option, row.opcode, 0, action, 0, 0, 1, 0, 0, 0]));
        assert_eq!((one[1], usize::from(one[3])), (3, row.usage.len()), "{}", row.name);
        assert_eq!(&one[4..], row.usage, "{}", row.name);
        let wrong = [0xa3, 0x0c, 3 - option, row.opcode, 0, action, 0, 0, 1, 0, 0, 0];
        assert_eq!(sense(start(unit(), &wrong)), INVALID_FIELD, "{}", row.name);
    }
    let none = data(start(unit(), &[0xa3, 0x0c, 1, 0x04, 0, 0, 0, 0, 1, 0, 0, 0]));
    assert_eq!(none[1], 1);
    let timeouts = data(start(unit(), &[0xa3, 0x0c, 0x81, 0x28, 0, 0, 0, 0, 1, 0, 0, 0]));
    assert_eq!((timeouts[1], timeouts.len()), (0x83, 4 + 10 + 12));
}

#[test]
fn unit_attentions_are_told_once_and_not_by_inquiry() {
    let luns = map(unit());
    let mut nexus = Nexus::new(host());
    nexus.raise_all(&luns, UnitAttention::PowerOn);
    nexus.raise_all(&luns, UnitAttention::PowerOn);
    assert_eq!(respond(nexus.start(&luns, [0; 8], &Cdb::new(&[0x12, 0, 0, 0, 36, 0]))).status, Status::Good);
    assert_eq!(sense(nexus.start(&luns, [0; 8], &Cdb::new(&[0x00]))), (6, 0x29, 0));
    assert_eq!(respond(nexus.start(&luns, [0; 8], &Cdb::new(&[0x00]))), ScsiResponse::GOOD);
    nexus.raise_all(&luns, UnitAttention::LunReset);
    let told = data(nexus.start(&luns, [0; 8], &Cdb::new(&[0x03, 0, 0, 0, 18, 0])));
    assert_eq!((told[2], told[12], told[13]), (6, 0x29, 3));
    let quiet = data(nexus.start(&luns, [0; 8], &Cdb::new(&[0x03, 1, 0, 0, 18, 0])));
    assert_eq!(quiet, [0x72, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_replaced_map_tells_hosts_what_changed() {
    let before = map(unit());
    let mut grown = unit();
    grown.sectors = SectorCount::from_raw(BLOCKS * 2);
    let after = LunMap::new(port(), [(0, grown), (1, unit())]).unwrap();
    let mut nexus = Nexus::new(host());
    nexus.luns_replaced(&before, &after);
    assert_eq!(sense(nexus.start(&after, [0; 8], &Cdb::new(&[0x00]))), (6, 0x3f, 0x0e));
    assert_eq!(sense(nexus.start(&after, [0; 8], &Cdb::new(&[0x00]))), (6, 0x2a, 0x09));
    let cdb = Cdb::new(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(data(nexus.start(&after, [0; 8], &cdb)).len(), 24);
    assert_eq!(respond(nexus.start(&after, [0, 1, 0, 0, 0, 0, 0, 0], &Cdb::new(&[0x00]))), ScsiResponse::GOOD);
}

#[test]
fn completions_of_the_wrong_kind_are_an_error_not_data() {
    let wrong = respond(Then::DataIn { len: 512 }.complete(Completion::Data(Bytes::from_static(b"short"))));
    assert_eq!(wrong.sense.unwrap().asc, 0x44);
    assert_eq!(respond(Then::Status.complete(Completion::Busy)).status, Status::Busy);
    let failed = respond(Then::Status.complete(Completion::Failed(ScsiError::Fenced)));
    assert_eq!(failed.sense.unwrap().key, SenseKey::HardwareError);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(input in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        fuzz_cdb(&input);
    }

    #[test]
    fn known_opcodes_with_random_fields_do_not_panic(
        row in 0..TABLE.len(),
        mut input in proptest::collection::vec(proptest::prelude::any::<u8>(), 20..300),
    ) {
        for (offset, usage) in TABLE[row].usage.iter().enumerate() {
            input[1 + offset] &= *usage;
        }
        input[1] = TABLE[row].opcode;
        if let Some(action) = TABLE[row].service_action {
            input[2] = action;
        }
        fuzz_cdb(&input);
    }
}
