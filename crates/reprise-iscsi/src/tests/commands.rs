//! Commands, their data and their status.

use super::*;

#[test]
fn writes_and_reads_in_every_combination_of_keys() {
    for initial in ["Yes", "No"] {
        for immediate in ["Yes", "No"] {
            for digest in ["None", "CRC32C"] {
                for (chunk, burst, r2ts) in [(usize::MAX, "1048576", "4"), (7001, "65536", "1"), (999, "16384", "3")] {
                    let keys = [
                        ("InitialR2T", initial),
                        ("ImmediateData", immediate),
                        ("HeaderDigest", digest),
                        ("DataDigest", digest),
                        ("MaxBurstLength", burst),
                        ("FirstBurstLength", "262144"),
                        ("MaxOutstandingR2T", r2ts),
                        ("MaxRecvDataSegmentLength", "65536"),
                    ];
                    let mut host = Host::login(portal(1), &keys);
                    host.chunk = chunk;
                    for (seed, len) in [512, 4096, 65_536, 262_144, 300_032, 1_400_320].into_iter().enumerate() {
                        let data = pattern(len, seed);
                        let lba = 100 + seed as u32;
                        let reply = host.write(lba, &data);
                        assert_eq!((reply.bhs.flags(), reply.bhs.byte(3), reply.bhs.get32(44)), (0x80, 0, 0));
                        assert!(host.read(lba, (len / 512) as u32) == data, "{keys:?} {len}");
                    }
                    assert_eq!(host.conn.task_count(), 0);
                    assert!(host.direct_bytes > 0, "large segments go straight into their buffer");
                }
            }
        }
    }
}

fn residual_case(flags: u8, expected: u32, cdb: &[u8], data: &[u8], wanted_flags: u8, count: u32) {
    let mut host = Host::login(portal(1), &[("InitialR2T", "Yes"), ("ImmediateData", "Yes")]);
    let before = pattern(4096, 9);
    host.disk[..4096].copy_from_slice(&before);
    host.command(flags, expected, cdb, data);
    let got = host.got.pop_back().unwrap();
    let case = format!("{cdb:02x?} expecting {expected}");
    assert_eq!((got.bhs.flags() & 0x06, got.bhs.get32(44)), (wanted_flags, count), "{case}");
    if flags & 0x20 != 0 {
        let whole = if data.len().is_multiple_of(512) { data.len().min(1024) } else { 0 };
        assert_eq!(got.bhs.byte(3), if data.len().is_multiple_of(512) { 0 } else { 2 }, "{case}");
        assert_eq!(host.disk[..whole], data[..whole], "{case}");
        assert_eq!(host.disk[whole..4096], before[whole..], "{case}");
    } else {
        assert_eq!(got.data.len() as u32, expected.min(1024), "{case}");
    }
}

#[test]
fn residuals_are_exact() {
    const OVER: u8 = 4;
    const UNDER: u8 = 2;
    residual_case(0xc0, 1024, &read16(0, 2), &[], 0, 0);
    residual_case(0xc0, 512, &read16(0, 2), &[], OVER, 512);
    residual_case(0xc0, 200, &read16(0, 2), &[], OVER, 824);
    residual_case(0xc0, 10_000, &read16(0, 2), &[], UNDER, 8976);
    residual_case(0x80, 0, &read16(0, 2), &[], OVER, 1024);
    let data = pattern(2048, 1);
    residual_case(0xa0, 1024, &write16(0, 2), &data[..1024], 0, 0);
    residual_case(0xa0, 512, &write16(0, 2), &data[..512], OVER, 512);
    residual_case(0xa0, 700, &write16(0, 2), &data[..700], OVER, 324);
    residual_case(0xa0, 200, &write16(0, 2), &data[..200], OVER, 824);
    residual_case(0xa0, 2048, &write16(0, 2), &data, UNDER, 1024);
    residual_case(0x80, 0, &write16(0, 2), &[], OVER, 1024);
}

#[test]
fn sense_data_ride_on_the_response() {
    let mut host = Host::login(portal(1), &[]);
    host.command(0xc0, 512, &read16(SECTORS as u32, 1), &[]);
    let got = host.next(op::SCSI_RESPONSE);
    assert_eq!((got.bhs.byte(3), got.bhs.flags(), got.bhs.get32(44)), (2, 0x82, 512));
    assert_eq!((got.data.len(), got.data[1], got.data[2 + 2], got.data[2 + 12]), (20, 18, 5, 0x21));
    let mut config = config(portal(1));
    config.attention = Some(UnitAttention::PowerOn);
    let mut host = Host::with(config);
    host.do_login(&[]);
    host.command(0x80, 0, &[0; 6], &[]);
    let got = host.next(op::SCSI_RESPONSE);
    assert_eq!((got.data[2 + 2], got.data[2 + 12]), (6, 0x29));
}

#[test]
fn a_refused_write_takes_its_unsolicited_data_first() {
    let mut host = Host::login(portal(1), &[("InitialR2T", "No")]);
    let itt = host.command(0x20, 8192, &write16(SECTORS as u32, 16), &[1; 4096]);
    assert!(host.got.is_empty());
    host.data_out(itt, TAG_NONE, 0, 4096, true, &[1; 4096]);
    assert_eq!(host.next(op::SCSI_RESPONSE).bhs.byte(3), 2);
    assert_eq!(host.write(0, &[3; 4096]).bhs.byte(3), 0);
}

#[test]
fn data_out_of_order_fails_the_command() {
    let wrong: [(u32, u32, bool, usize, &str); 5] = [
        (1, 0, false, 512, "DataSN"),
        (0, 512, false, 512, "offset"),
        (0, 0, false, 4608, "too much"),
        (0, 0, true, 512, "F too early"),
        (0, u32::MAX, false, 512, "offset overflows"),
    ];
    for (data_sn, offset, last, len, case) in wrong {
        let mut host = Host::login(portal(1), &[("ImmediateData", "No")]);
        let itt = host.command(0xa0, 4096, &write16(0, 8), &[]);
        let ttt = host.next(op::R2T).bhs.get32(20);
        host.data_out(itt, ttt, data_sn, offset, last, &vec![0; len]);
        let got = host.next(op::SCSI_RESPONSE);
        assert_eq!((got.data[2 + 2], got.data[2 + 12], got.data[2 + 13]), (0x0b, 0x47, 5), "{case}");
        host.data_out(itt, ttt, data_sn + 1, 512, true, &[0; 3584]);
        assert!(host.got.is_empty() && host.closed.is_none(), "{case}: the rest is swallowed");
        assert_eq!(host.write(0, &[3; 4096]).bhs.byte(3), 0, "{case}");
    }
    let mut host = Host::login(portal(1), &[]);
    host.data_out(77, 5, 0, 0, true, &[0; 512]);
    assert_eq!(host.next(op::REJECT).bhs.byte(2), Reject::InvalidField as u8);
    assert_eq!(host.closed, None, "a stray PDU alone is no reason to end");
    assert_eq!(host.write(0, &[3; 4096]).bhs.byte(3), 0);
}

#[test]
fn broken_digests_end_the_session() {
    let mut host = Host::login(portal(1), &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]);
    host.bytes(&[0; 52]);
    assert_eq!(host.closed, Some(CloseReason::HeaderDigest));
    let mut host = Host::login(portal(1), &[("DataDigest", "CRC32C")]);
    host.data_digest = false;
    let itt = host.itt + 1;
    host.command(0xa0, 512, &write16(0, 1), &[0; 512]);
    assert_eq!(host.closed, None);
    host.bytes(&[1, 2, 3, 4]);
    host.data_digest = true;
    host.drain();
    let reject = host.next(op::REJECT);
    assert_eq!((reject.bhs.byte(2), Bhs::read(&reject.data).unwrap().itt()), (Reject::DataDigest as u8, itt));
    assert_eq!(host.closed, Some(CloseReason::Protocol(Reject::DataDigest)));
}
