//! How much a command returns, for every ALLOCATION LENGTH.

use super::more::copy_list;
use super::*;

/// Place of the ALLOCATION LENGTH in the CDB of a command that returns parameter data.
fn allocation_length(row: &opcode::Row) -> Option<(usize, usize)> {
    Some(match row.opcode {
        0x03 | 0x1a => (4, 1),
        0x12 => (3, 2),
        0x37 | 0x4d | 0x5a | 0x5e => (7, 2),
        0x84 | 0x9e => (10, 4),
        0xa0 | 0xa3 | 0xb7 => (6, 4),
        // READ, and READ CAPACITY(10), which has no such field.
        0x08 | 0x25 | 0x28 | 0x88 | 0xa8 => return None,
        _ => panic!("{}: where is its ALLOCATION LENGTH?", row.name),
    })
}

/// A nexus that has copied nothing under list identifier 7, which RECEIVE COPY STATUS can tell of.
fn nexus_with_a_copy(luns: &LunMap) -> Nexus {
    let mut nexus = Nexus::new(host());
    let list = copy_list(0, 8, 0, &[0x37, 7, 7, 7, 7, 7, 7, 7]);
    let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, list.len() as u8, 0, 0];
    let Action::DataOut(out) = nexus.start(luns, [0; 8], &Cdb::new(&cdb)) else { panic!() };
    let mut buf = PoolBuf::unpooled(list.len());
    buf.copy_from_slice(&list);
    assert_eq!(respond(out.finish(buf, list.len())), ScsiResponse::GOOD);
    nexus
}

fn ask(nexus: &mut Nexus, luns: &LunMap, cdb: &[u8]) -> Vec<u8> {
    match nexus.start(luns, [0; 8], &Cdb::new(cdb)) {
        Action::Submit(Submit { op: Op::LbaStatus { sector, sectors, .. }, then, .. }) => {
            data(then.complete(Completion::Mapped(vec![MappedRun { sector, sectors, mapped: true }])))
        }
        action => data(action),
    }
}

#[test]
fn an_allocation_length_cuts_what_is_returned_and_nothing_else() {
    let mut lun = unit();
    lun.control = std::sync::Arc::new(Control::new(reprise_types::UnitState {
        registrations: vec![reprise_types::Registration { port: host(), relative_port: 1, key: 1 }],
        ..reprise_types::UnitState::default()
    }));
    let luns = map(lun);
    for row in TABLE.iter().filter(|row| row.direction == opcode::Direction::In) {
        let Some((at, len)) = allocation_length(row) else { continue };
        let answer = |allocation: u64| {
            let mut cdb = cdb_for(row, 0, 1);
            match row.opcode {
                0x1a | 0x5a => cdb[2] = 0x3f,
                0x84 if row.service_action == Some(0) => cdb[2] = 7,
                _ => {}
            }
            cdb[at..at + len].copy_from_slice(&allocation.to_be_bytes()[8 - len..]);
            ask(&mut nexus_with_a_copy(&luns), &luns, &cdb)
        };
        let whole = answer(if len == 1 { 0xff } else { 0xffff });
        assert!(!whole.is_empty(), "{}", row.name);
        for allocation in 0..=0xff {
            let cut = whole.len().min(allocation as usize);
            assert!(answer(allocation) == whole[..cut], "{} with {allocation}", row.name);
        }
    }
}

#[test]
fn what_nobody_was_told_is_told_to_the_next_who_asks() {
    let luns = map(unit());
    let told = |cdb: &[u8], attention| {
        let mut nexus = Nexus::new(host());
        nexus.raise_all(&luns, attention);
        assert_eq!(ask(&mut nexus, &luns, cdb), [0; 0]);
        sense(nexus.start(&luns, [0; 8], &Cdb::new(&[0x00])))
    };
    assert_eq!(told(&[0x03], UnitAttention::PowerOn), (6, 0x29, 0));
    assert_eq!(told(&[0xa0], UnitAttention::ReportedLunsChanged), (6, 0x3f, 0xe));
    let mut nexus = nexus_with_a_copy(&luns);
    let status = |allocation| [0x84, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, allocation, 0, 0];
    for allocation in [0, 4, 11, 12] {
        assert_eq!(ask(&mut nexus, &luns, &status(allocation)).len(), usize::from(allocation));
    }
    assert_eq!(sense(nexus.start(&luns, [0; 8], &Cdb::new(&status(12)))), INVALID_FIELD, "told once");
}
