//! Expected lengths and directions that do not fit the CDB, for every command of the opcode table.

use reprise_scsi::opcode::{Direction, Row, TABLE};

use super::*;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const OVER: u8 = 4;
const UNDER: u8 = 2;
/// INVALID FIELD IN COMMAND INFORMATION UNIT
const REFUSED: Option<(u8, u8, u8)> = Some((5, 0x0e, 3));

/// What a command with data-out takes for its data.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Takes {
    /// Its length and no other.
    Exactly,
    /// Its length; more stays where it is.
    AtLeast,
    /// Its length, or fewer blocks.
    Blocks,
}

/// CDBs that ask for data-out, two blocks where blocks are counted: with the length and what is taken for it.
fn cases(row: &Row) -> Vec<([u8; 16], u32, Takes)> {
    let mut cdb = [0; 16];
    cdb[0] = row.opcode;
    cdb[1] = row.service_action.unwrap_or(0);
    if let Some(blocks) = row.blocks {
        cdb[usize::from(blocks.offset + blocks.len) - 1] = 2;
    }
    let parameters = |mut cdb: [u8; 16], at: usize, len: u8, takes| {
        cdb[at] = len;
        vec![(cdb, len.into(), takes)]
    };
    let flagged = |flags: u8| {
        let mut cdb = cdb;
        cdb[1] |= flags;
        cdb
    };
    match row.opcode {
        0x0a | 0x2a | 0x2e | 0x8a | 0x8e | 0xaa | 0xae => vec![(cdb, 1024, Takes::Blocks)],
        0x8b | 0x9c => vec![(cdb, 1024, Takes::AtLeast)],
        0x2f | 0x8f | 0xaf => {
            vec![(flagged(0x02), 1024, Takes::AtLeast), (flagged(0x06), 512, Takes::AtLeast)]
        }
        0x41 | 0x93 => vec![(cdb, 512, Takes::Exactly), (flagged(0x08), 512, Takes::Exactly)],
        0x89 => vec![(cdb, 2048, Takes::Exactly)],
        0x42 => parameters(cdb, 8, 24, Takes::AtLeast),
        0x48 => parameters(cdb, 8, 8, Takes::AtLeast),
        0x15 => parameters(flagged(0x10), 4, 16, Takes::AtLeast),
        0x55 => parameters(flagged(0x10), 8, 20, Takes::AtLeast),
        0x5f => {
            cdb[2] = 0x01;
            parameters(cdb, 8, 24, Takes::Exactly)
        }
        0x83 => parameters(cdb, 13, 16, Takes::AtLeast),
        _ => panic!("{}: what does it take?", row.name),
    }
}

fn thin_host(keys: &[(&str, &str)]) -> Host {
    let old = portal(1);
    let mut lun = Lun::new(VolumeId::from_raw([1; 16]), SectorCount::from_raw(SECTORS), BlockSize::B512);
    lun.thin = true;
    let targets = old.targets.iter().map(|target| {
        let luns = LunMap::new(target.luns.port().clone(), [(0, lun.clone())]).unwrap();
        Target { luns, ..target.clone() }
    });
    let portal = Portal { group_tag: 1, targets: targets.collect(), away: Vec::new() };
    let mut host = Host::login(Arc::new(portal), keys);
    host.hold = true;
    host
}

fn sense(got: &Got) -> Option<(u8, u8, u8)> {
    got.data.get(2..16).map(|sense| (sense[2], sense[12], sense[13]))
}

/// Sends the data as the target asks for them, until it answers or hands an operation on.
fn answer(host: &mut Host, itt: u32, data: &[u8]) -> Option<Got> {
    loop {
        let got = host.got.pop_front()?;
        if got.bhs.opcode() == op::SCSI_RESPONSE {
            return Some(got);
        }
        assert_eq!(got.bhs.opcode(), op::R2T);
        let (offset, len) = (got.bhs.get32(40), got.bhs.get32(44) as usize);
        let part = data[offset as usize..][..len].to_vec();
        host.data_out(itt, got.bhs.get32(20), 0, offset, true, &part);
    }
}

#[test]
fn data_out_of_another_length_than_the_cdb_has_is_refused_or_cut_between_blocks() {
    for row in TABLE.iter().filter(|row| row.direction == Direction::Out) {
        for (cdb, len, takes) in cases(row) {
            for offered in [0, 1, 200, 511, 512, 513, len - 1, len, len + 1, len + 512, 10_000] {
                for immediate in ["Yes", "No"] {
                    let case = format!("{} {cdb:02x?} of {len} with {offered}, {takes:?}", row.name);
                    let mut host = thin_host(&[("ImmediateData", immediate)]);
                    let data = vec![0; offered as usize];
                    let at_once = if immediate == "Yes" { &data[..] } else { &[] };
                    let itt = host.command(0x80 | WRITE, offered, &cdb, at_once);
                    let answer = answer(&mut host, itt, &data);
                    let accepted = match takes {
                        Takes::Exactly => offered == len,
                        Takes::AtLeast => offered >= len,
                        Takes::Blocks => offered >= len || offered.is_multiple_of(512),
                    };
                    if let (true, None) = (accepted, &answer) {
                        let (_, op) = host.submitted();
                        if let Op::Write { data, .. } = op
                            && takes == Takes::Blocks
                        {
                            assert_eq!(data.len() as u32, offered.min(len), "{case}");
                        }
                        continue;
                    }
                    let answer = answer.unwrap_or_else(|| panic!("{case}: carried out"));
                    assert_eq!(sense(&answer) == REFUSED, !accepted, "{case}");
                    assert!(host.outputs.is_empty(), "{case}");
                    let residual = match offered.cmp(&len) {
                        std::cmp::Ordering::Less => (OVER, len - offered),
                        std::cmp::Ordering::Equal => (0, 0),
                        std::cmp::Ordering::Greater => (UNDER, offered - len),
                    };
                    assert_eq!((answer.bhs.flags() & 6, answer.bhs.get32(44)), residual, "{case}");
                    host.hold = false;
                    assert_eq!(host.write(0, &[3; 4096]).bhs.byte(3), 0, "{case}: the session goes on");
                }
            }
        }
    }
}

#[test]
fn data_out_that_was_not_announced_is_refused() {
    for row in TABLE.iter().filter(|row| row.direction == Direction::Out) {
        for (cdb, len, _) in cases(row) {
            // The R bit, both, neither: with an expected length that is meant for something else.
            for flags in [READ, READ | WRITE, 0] {
                let mut host = thin_host(&[]);
                host.command(0x80 | flags, len, &cdb, &[]);
                let got = host.next(op::SCSI_RESPONSE);
                assert_eq!(sense(&got), REFUSED, "{} with flags {flags:#x}", row.name);
                assert_eq!((got.bhs.flags() & 6, got.bhs.get32(44)), (UNDER, len), "{}", row.name);
                assert!(host.outputs.is_empty(), "{}", row.name);
            }
        }
    }
}

#[test]
fn directions_that_no_command_has_are_refused_before_anything_is_done() {
    for row in TABLE {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (row.opcode, row.service_action.unwrap_or(0));
        for flags in [READ | WRITE, 0] {
            let mut host = thin_host(&[]);
            host.command(0x80 | flags, 512, &cdb, &[]);
            assert_eq!(sense(&host.next(op::SCSI_RESPONSE)), REFUSED, "{} with flags {flags:#x}", row.name);
            assert!(host.outputs.is_empty(), "{}", row.name);
            // Without a length the bits say nothing (RFC 7143, section 11.3.1).
            host.command(0x80 | flags, 0, &cdb, &[]);
            let refused = host.got.iter().any(|got| sense(got) == REFUSED);
            let needs_data = row.direction == Direction::Out && row.opcode != 0x0a;
            assert!(!refused || needs_data, "{} with flags {flags:#x} and no length", row.name);
        }
    }
}

/// A command without data, or with data in the other direction, and an initiator that sends some: at once, of its own will
/// behind it, or not at all.
#[test]
fn data_that_nobody_wants_are_taken_and_counted() {
    let verify = cdb16(0x8f, 0, 2);
    for (cdb, name) in [(read16(0, 2), "READ"), (verify, "VERIFY without BYTCHK"), ([0; 16], "TEST UNIT READY")] {
        for (immediate, behind) in [(0, 1024), (512, 512), (1024, 0)] {
            let mut host = Host::login(portal(1), &[("InitialR2T", "No")]);
            let flags = WRITE | if behind == 0 { 0x80 } else { 0 };
            let itt = host.command(flags, 1024, &cdb, &vec![7; immediate]);
            if behind > 0 {
                assert!(host.got.is_empty(), "{name}: the initiator still sends");
                host.data_out(itt, TAG_NONE, 0, immediate as u32, true, &vec![7; behind]);
            }
            let got = host.next(op::SCSI_RESPONSE);
            let case = format!("{name} with {immediate} and {behind} bytes");
            assert_eq!((got.bhs.byte(3), got.bhs.flags() & 6, got.bhs.get32(44)), (0, UNDER, 1024), "{case}");
            assert_eq!(host.write(0, &[3; 4096]).bhs.byte(3), 0, "{case}: the session goes on");
        }
    }
}
