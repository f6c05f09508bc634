//! Window, task management, NOPs, and what ends a session.

use super::*;

#[test]
fn the_window_follows_the_tasks_and_the_owner() {
    let mut host = Host::with(Config { window: 2, ..config(portal(1)) });
    host.do_login(&[]);
    host.hold = true;
    host.command(0xc0, 512, &read16(0, 1), &[]);
    host.command(0xc0, 512, &read16(1, 1), &[]);
    host.command(0xc0, 512, &read16(2, 1), &[]);
    assert_eq!((host.outputs.len(), host.conn.task_count()), (2, 2), "the third is outside the window and ignored");
    host.cmd_sn -= 1;
    let (tag, _) = host.submitted();
    host.conn.complete(host.now, tag, Completion::Data(Bytes::from(vec![0; 512])));
    host.serve();
    let got = host.next(op::DATA_IN).bhs;
    assert_eq!((got.get32(28), got.get32(32)), (102, 102), "one free place");
    host.conn.set_command_window(0);
    let (tag, _) = host.submitted();
    host.conn.complete(host.now, tag, Completion::Data(Bytes::from(vec![0; 512])));
    host.serve();
    let got = host.next(op::DATA_IN).bhs;
    assert_eq!((got.get32(28), got.get32(32)), (102, 102), "MaxCmdSN never goes back");
    host.command(0xc0, 512, &read16(2, 1), &[]);
    let (tag, _) = host.submitted();
    host.conn.complete(host.now, tag, Completion::Data(Bytes::from(vec![0; 512])));
    host.serve();
    let got = host.next(op::DATA_IN).bhs;
    assert_eq!((got.get32(28), got.get32(32)), (103, 102), "closed");
    host.conn.set_command_window(32);
    host.serve();
    let got = host.next(op::NOP_IN).bhs;
    assert_eq!((got.get32(20), got.get32(32)), (TAG_NONE, 134), "told without an answer being due");
}

#[test]
fn duplicates_are_ignored_and_gaps_end_the_session() {
    let mut host = Host::login(portal(1), &[]);
    host.read(0, 1);
    host.cmd_sn -= 1;
    host.command(0xa0, 512, &write16(0, 1), &[1; 512]);
    assert!(host.got.is_empty() && host.disk[0] == 0);
    host.cmd_sn += 3;
    host.command(0xc0, 512, &read16(0, 1), &[]);
    assert_eq!(host.closed, Some(CloseReason::Protocol(Reject::Protocol)));
}

#[test]
fn abort_drops_what_collects_and_waits_for_writes() {
    let mut host = Host::login(portal(1), &[("ImmediateData", "No")]);
    host.hold = true;
    // Collecting: dropped at once; its late data are swallowed.
    let collecting = host.command(0xa0, 4096, &write16(0, 8), &[]);
    let ttt = host.next(op::R2T).bhs.get32(20);
    host.management(1, collecting);
    assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 0);
    host.data_out(collecting, ttt, 0, 0, true, &[0; 4096]);
    assert!(host.got.is_empty() && host.closed.is_none());
    // Reading: forgotten; the late completion finds nothing.
    let reading = host.command(0xc0, 512, &read16(0, 1), &[]);
    let (tag, _) = host.submitted();
    host.management(1, reading);
    assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 0);
    assert!(matches!(host.outputs.remove(0), Output::Abort { tag: aborted } if aborted == tag));
    host.conn.complete(host.now, tag, Completion::Data(Bytes::from(vec![0; 512])));
    host.serve();
    assert!(host.got.is_empty());
    // Writing: answered as completed, then the function.
    let writing = host.command(0xa0, 512, &write16(0, 1), &[]);
    let ttt = host.next(op::R2T).bhs.get32(20);
    host.data_out(writing, ttt, 0, 0, true, &[0; 512]);
    let (tag, _) = host.submitted();
    host.management(1, writing);
    assert!(host.got.is_empty());
    host.conn.complete(host.now, tag, Completion::Done);
    host.serve();
    assert_eq!(host.next(op::SCSI_RESPONSE).bhs.itt(), writing);
    assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 1, "what was done cannot be aborted");
    // Unknown.
    host.management(1, 4711);
    host.next(op::TMF_RESPONSE);
    assert_eq!(host.conn.task_count(), 0);
}

#[test]
fn every_function_is_answered_in_time_even_if_the_backend_never_is() {
    for function in [1u8, 2, 4, 5, 6, 7] {
        let mut host = Host::login(portal(1), &[]);
        host.hold = true;
        let itt = host.command(0xa0, 512, &write16(0, 1), &[5; 512]);
        let (tag, _) = host.submitted();
        host.management(function, itt);
        assert!(host.got.is_empty(), "function {function} waits for the write");
        let deadline = host.conn.next_deadline().unwrap();
        assert_eq!(deadline.millis_since(host.now), 1000);
        host.now = deadline;
        host.conn.tick(deadline);
        host.serve();
        assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 0, "function {function}");
        host.conn.complete(host.now, tag, Completion::Done);
        host.serve();
        assert!(host.got.is_empty(), "the late completion of function {function} is dropped");
        assert_eq!(host.closed.is_some(), function == 7);
        let resets = host.outputs.iter().filter(|output| matches!(output, Output::Reset { .. })).count();
        assert_eq!(resets, usize::from(function >= 4), "function {function}");
        if function == 5 {
            host.command(0x80, 0, &[0; 6], &[]);
            assert_eq!(host.next(op::SCSI_RESPONSE).data[2 + 13], 3, "bus device reset function occurred");
        }
    }
    for (function, code) in [(3u8, 5u8), (8, 4), (9, 5)] {
        let mut host = Host::login(portal(1), &[]);
        host.management(function, 0);
        assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), code);
    }
}

#[test]
fn reads_and_flushes_that_never_end_hold_up_no_function() {
    let flush = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (flags, expected, cdb) in [(0xc0u8, 512, &read16(0, 1)[..]), (0x80, 0, &flush[..])] {
        for function in [1u8, 2, 4, 5, 6, 7] {
            let mut host = Host::login(portal(1), &[]);
            host.hold = true;
            let itt = host.command(flags, expected, cdb, &[]);
            let (tag, _) = host.submitted();
            host.management(function, itt);
            assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 0, "function {function} is answered at once");
            let aborts = |output: &Output| matches!(output, Output::Abort { tag: aborted } if *aborted == tag);
            assert_eq!(host.outputs.iter().filter(|output| aborts(output)).count(), 1);
            host.conn.complete(host.now, tag, Completion::Done);
            host.serve();
            assert!(host.got.is_empty(), "a late completion is dropped");
        }
    }
}

#[test]
fn a_session_asked_to_log_out_does_so_or_ends() {
    for obeys in [true, false] {
        let mut host = Host::login(portal(1), &[]);
        host.conn.request_logout(host.now, 3);
        host.conn.request_logout(host.now, 9);
        host.serve();
        let asked = host.next(op::ASYNC).bhs;
        assert_eq!((asked.byte(36), asked.get16(42), asked.itt(), host.got.len()), (1, 3, TAG_NONE, 0));
        assert_eq!(host.read(0, 1), [0; 512], "commands go on meanwhile");
        if obeys {
            let mut bhs = Bhs::reply(op::LOGOUT_REQUEST | 0x40, 0x80, 5);
            bhs.set32(24, host.cmd_sn);
            host.pdu(bhs, &[]);
            assert_eq!(host.next(op::LOGOUT_RESPONSE).bhs.byte(2), 0);
            assert_eq!(host.closed, Some(CloseReason::Logout));
        } else {
            host.now = host.conn.next_deadline().unwrap();
            host.conn.tick(host.now);
            host.serve();
            assert_eq!(
                (host.closed, host.now.millis_since(Mono::from_millis(1000))),
                (Some(CloseReason::Shutdown), 3000)
            );
        }
    }
    let mut host = Host::new(portal(1));
    host.conn.request_logout(host.now, 3);
    host.serve();
    assert_eq!(host.closed, Some(CloseReason::Shutdown), "before the login there is nobody to ask");
}

#[test]
fn a_limited_initiator_is_read_from_when_its_turn_comes() {
    let mut portal = portal(1);
    let limit = Limit { commands_per_sec: std::num::NonZeroU32::new(10), bytes_per_sec: None };
    let rule = Initiator { limit, ..Initiator::named(INITIATOR.into()) };
    Arc::make_mut(&mut portal).targets[0].acl = Acl { initiators: vec![Arc::new(rule)], others: false };
    let mut host = Host::login(portal, &[]);
    let mut throttle = Throttle::new(host.login.as_ref().unwrap().limit);
    let ask = |host: &mut Host, throttle: &mut Throttle| match host.outputs.pop() {
        Some(Output::Admit { bytes: 512 }) => throttle.admit(host.now, 512),
        other => panic!("{other:?}"),
    };
    let start = host.now;
    for n in 0..30u32 {
        host.command(0xc0, 512, &read16(n, 1), &[]);
        assert!(host.got.is_empty() && host.conn.is_blocked(), "no command begins before it is admitted");
        let at = ask(&mut host, &mut throttle);
        host.conn.admit(host.now, at);
        if at > host.now {
            assert!(matches!(host.conn.recv_target(), RecvTarget::Blocked));
            assert_eq!(host.conn.next_deadline(), Some(at));
            host.now = at;
            host.conn.tick(at);
        }
        host.serve();
        let got = host.next(op::DATA_IN).bhs;
        assert_eq!(got.get32(32).wrapping_sub(got.get32(28)) + 1, 10, "about a second of commands");
    }
    let took = host.now.millis_since(start);
    assert!((2_700..=3_000).contains(&took), "30 commands at 10 a second took {took} ms");
    // Without the limit nobody is asked; a command that waited goes on.
    host.command(0xc0, 512, &read16(0, 1), &[]);
    host.conn.set_limit(host.now, Limit::default());
    host.serve();
    host.next(op::DATA_IN);
    host.read(0, 1);
}

#[test]
fn a_reset_by_another_session_may_come_in_the_middle_of_a_segment() {
    let mut host = Host::login(portal(1), &[]);
    let mut bhs = Bhs::reply(op::SCSI_COMMAND, 0xa0, 50);
    bhs.set32(20, 65_536);
    bhs.set32(24, host.cmd_sn);
    host.cmd_sn += 1;
    bhs.0[32..48].copy_from_slice(&write16(0, 128));
    bhs.set_data_len(65_536);
    host.bytes(&bhs.0);
    host.bytes(&[1; 30_000]);
    let lun = reprise_scsi::LunNumber::new(0).unwrap();
    let scope = ResetScope::Unit { lun, volume: VolumeId::from_raw([1; 16]) };
    host.conn.external_reset(scope, UnitAttention::LunReset, false);
    host.bytes(&[1; 35_536]);
    host.command(0x80, 0, &[0; 6], &[]);
    let got = host.next(op::SCSI_RESPONSE);
    assert_eq!((got.bhs.itt(), got.data[2 + 12], got.data[2 + 13]), (host.itt, 0x29, 3));
    assert_eq!(host.read(0, 1), [0; 512]);
}

#[test]
fn nops_both_ways() {
    let mut host = Host::login(portal(1), &[]);
    let mut bhs = Bhs::reply(op::NOP_OUT | 0x40, 0x80, 12);
    bhs.set32(20, TAG_NONE);
    bhs.set32(24, host.cmd_sn);
    host.pdu(bhs, b"echo");
    let got = host.next(op::NOP_IN);
    assert_eq!((got.bhs.itt(), got.bhs.get32(20), &got.data[..]), (12, TAG_NONE, &b"echo"[..]));
    host.now = host.conn.next_deadline().unwrap();
    host.conn.tick(host.now);
    host.serve();
    let ping = host.next(op::NOP_IN).bhs;
    assert_eq!(ping.itt(), TAG_NONE);
    assert_ne!(ping.get32(20), TAG_NONE, "an answer is wanted, so the tag is a real one");
    host.now = host.now.plus_millis(5);
    let mut answer = Bhs::reply(op::NOP_OUT | 0x40, 0x80, TAG_NONE);
    answer.set32(20, ping.get32(20));
    answer.set32(24, host.cmd_sn);
    host.pdu(answer, &[]);
    host.now = host.now.plus_millis(20_000);
    host.conn.tick(host.now);
    assert!(host.conn.logged_in().is_some());
    host.now = host.now.plus_millis(10_000);
    host.conn.tick(host.now);
    host.now = host.now.plus_millis(39_999);
    host.conn.tick(host.now);
    assert!(host.conn.logged_in().is_some(), "a host may be busy for a minute");
    host.now = host.now.plus_millis(1);
    host.conn.tick(host.now);
    host.serve();
    assert_eq!(host.closed, Some(CloseReason::PingTimeout));
}

#[test]
fn logout_snack_unknown_pdus_and_login_timeout() {
    let mut host = Host::login(portal(1), &[]);
    host.pdu(Bhs::reply(op::SNACK, 0x80, 3), &[]);
    assert_eq!(host.next(op::REJECT).bhs.byte(2), Reject::Snack as u8);
    host.pdu(Bhs::reply(0x1c, 0x80, 3), &[]);
    assert_eq!(host.next(op::REJECT).bhs.byte(2), Reject::NotSupported as u8);
    let mut bhs = Bhs::reply(op::LOGOUT_REQUEST | 0x40, 0x80, 5);
    bhs.set32(24, host.cmd_sn);
    host.pdu(bhs, &[]);
    assert_eq!(host.next(op::LOGOUT_RESPONSE).bhs.byte(2), 0);
    assert_eq!(host.closed, Some(CloseReason::Logout));
    let mut host = Host::new(portal(1));
    host.now = host.conn.next_deadline().unwrap();
    host.conn.tick(host.now);
    host.serve();
    assert_eq!(host.closed, Some(CloseReason::LoginTimeout));
}

#[test]
fn replaced_luns_are_told() {
    let mut host = Host::login(portal(1), &[]);
    host.conn.set_luns(luns(SECTORS / 2));
    host.command(0xc0, 512, &read16(0, 1), &[]);
    assert_eq!(host.next(op::SCSI_RESPONSE).data[2 + 13], 0x09, "capacity data has changed");
    host.command(0xc0, 512, &read16(SECTORS as u32 - 1, 1), &[]);
    assert_eq!(host.next(op::SCSI_RESPONSE).data[2 + 12], 0x21);
}

#[test]
fn many_small_writes_in_one_read_of_the_socket() {
    let mut host = Host::login(portal(1), &[("InitialR2T", "No")]);
    let mut stream = Vec::new();
    for n in 0..12u32 {
        let mut bhs = Bhs::reply(op::SCSI_COMMAND, 0xa0, 1000 + n);
        bhs.set32(20, 4096);
        bhs.set32(24, host.cmd_sn);
        host.cmd_sn += 1;
        bhs.0[32..48].copy_from_slice(&write16(n * 8, 8));
        bhs.set_data_len(4096);
        stream.extend_from_slice(&bhs.0);
        stream.extend(pattern(4096, n as usize));
    }
    host.bytes(&stream);
    for n in 0..12 {
        assert_eq!(host.next(op::SCSI_RESPONSE).bhs.itt(), 1000 + n);
        assert!(host.disk[n as usize * 4096..][..4096] == pattern(4096, n as usize));
    }
    assert_eq!(host.direct_bytes, 0, "one copy out of the staging buffer");
}

#[test]
fn an_initiator_that_does_not_receive_is_not_read_from() {
    let mut host = Host::login(portal(1), &[("MaxRecvDataSegmentLength", "262144")]);
    let mut bhs = Bhs::reply(op::NOP_OUT | 0x40, 0x80, 12);
    bhs.set32(20, TAG_NONE);
    bhs.set32(24, host.cmd_sn);
    bhs.set_data_len(200_000);
    let mut stream = bhs.0.to_vec();
    stream.resize(48 + 200_000, 0);
    let mut fed = 0;
    'outer: for _ in 0..1000 {
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let RecvTarget::Staging(to) = host.conn.recv_target() else { break 'outer };
            let count = to.len().min(rest.len());
            to[..count].copy_from_slice(&rest[..count]);
            host.conn.received(host.now, count);
            rest = &rest[count..];
            fed += count;
        }
    }
    assert!(host.conn.is_blocked() && (fed as u64) < OUT_QUEUE_BYTES_MAX + 500_000, "{fed}");
    let pending = host.conn.send_pending() as usize;
    host.conn.sent(host.now, pending);
    assert!(!host.conn.is_blocked());
}

/// A well-formed PDU with random fields, so that the fuzz gets past the first checks.
fn any_pdu() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![0x00u8, 0x40, 0x01, 0x41, 0x02, 0x42, 0x04, 0x05, 0x06, 0x10, 0x1f]);
    let small = prop_oneof![Just(0u32), Just(TAG_NONE), 0u32..4, any::<u32>()];
    let cdb =
        prop::sample::select(vec![0x00u8, 0x12, 0x28, 0x2a, 0x2f, 0x41, 0x42, 0x55, 0x88, 0x89, 0x8a, 0x93, 0xa0]);
    let data = prop::collection::vec(any::<u8>(), 0..2100);
    (opcode, any::<u8>(), small.clone(), 0u32..3, small.clone(), small, cdb, 0u8..9, data).prop_map(
        |(opcode, flags, tag, sn, a, b, cdb, blocks, data)| {
            let mut bhs = Bhs::reply(opcode, flags, tag);
            bhs.set32(20, a);
            bhs.set32(24, sn);
            bhs.set32(36, b);
            bhs.0[32] = if opcode & 0x3f == 1 { cdb } else { 0 };
            if opcode & 0x3f == 1 {
                bhs.set32(36, 0);
                bhs.0[40] = blocks;
            }
            bhs.set_data_len(data.len() as u32);
            let mut bytes = bhs.0.to_vec();
            bytes.extend(&data);
            bytes.extend(vec![0; padding(data.len() as u32)]);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz_pdu(&input);
        fuzz_text(&input);
        fuzz_login(&input);
        fuzz_connection(&input);
    }

    #[test]
    fn no_sequence_of_pdus_panics(pdus in prop::collection::vec(any_pdu(), 1..20), cut in 0usize..100) {
        let mut bytes = vec![1];
        pdus.iter().for_each(|pdu| bytes.extend_from_slice(pdu));
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        fuzz_connection(&bytes);
    }

    #[test]
    fn no_list_of_operations_panics(input in prop::collection::vec(any::<[u8; 4]>(), 0..400)) {
        fuzz_session(input.as_flattened());
    }

    #[test]
    fn no_answer_but_the_right_one_gets_in(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "CHAP_N=u\0", "CHAP_R=0x00\0", "CHAP_I=1\0", "CHAP_C=0x01\0", "\n", "\u{7f}", "CHAP_A=5\0", "\x01", "\x07",
                "AuthMethod=None\0", "CHAP_R=0b====\0", "CHAP_R=0x0707070707070707070707070707070707070707\0",
            ]),
            0..12,
        ),
    ) {
        fuzz_chap(parts.concat().as_bytes());
    }

    #[test]
    fn no_text_panics(input in "[A-Za-z=,0-9\\x00]{0,300}") {
        fuzz_text(input.as_bytes());
        fuzz_login(input.as_bytes());
    }
}
