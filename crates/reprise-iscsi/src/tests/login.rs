//! Discovery and login.

use super::*;

#[test]
fn discovery_lists_targets_over_several_pdus() {
    let mut host = Host::new(portal(40));
    let reply = host.login_with(&[
        ("InitiatorName", INITIATOR),
        ("SessionType", "Discovery"),
        ("MaxRecvDataSegmentLength", "512"),
    ]);
    assert_eq!(reply.bhs.get16(36), 0);
    assert_eq!(host.login.as_ref().unwrap().session_type, SessionType::Discovery);
    let mut all = Vec::new();
    let mut ttt = TAG_NONE;
    let mut request: &[u8] = b"SendTargets=All\0";
    loop {
        let mut bhs = Bhs::reply(op::TEXT_REQUEST, 0x80, 9);
        bhs.set32(20, ttt);
        bhs.set32(24, host.cmd_sn);
        host.cmd_sn += 1;
        host.pdu(bhs, request);
        let got = host.next(op::TEXT_RESPONSE);
        assert!(got.data.len() <= 512);
        all.extend_from_slice(&got.data);
        if got.bhs.final_bit() {
            break;
        }
        assert!(got.bhs.continue_bit());
        ttt = got.bhs.get32(20);
        request = b"";
    }
    let text = String::from_utf8(all).unwrap();
    let names = text.split('\0').filter(|pair| pair.starts_with("TargetName=")).count();
    assert_eq!(names, 39, "one is not for this initiator");
    assert!(text.starts_with(&format!("TargetName={TARGET}\0TargetAddress=127.0.0.1:3260,1\0")));
    assert!(text.contains("TargetAddress=[fd00::39]:3260,1\0TargetAddress=10.0.0.39:3260,1\0"));
    host.command(0x80, 0, &[0; 6], &[]);
    assert_eq!(host.next(op::REJECT).bhs.byte(2), Reject::Protocol as u8);
}

#[test]
fn logins_that_are_refused() {
    let name = ("InitiatorName", INITIATOR);
    for (keys, status) in [
        (vec![("TargetName", TARGET)], 0x0207),
        (vec![name], 0x0207),
        (vec![name, ("TargetName", "iqn.2026-01.invalid.example:nobody")], 0x0203),
        (vec![name, ("TargetName", "iqn.2026-01.invalid.example:other-2")], 0x0202),
        (vec![name, ("TargetName", TARGET), ("SessionType", "Odd")], 0x0209),
        (vec![name, ("TargetName", TARGET), ("InitialR2T", "No"), ("InitialR2T", "No")], 0x0200),
        (vec![name, ("TargetName", TARGET), ("TargetAlias", "x")], 0x0200),
    ] {
        let mut host = Host::new(portal(3));
        let reply = host.login_with(&keys);
        assert_eq!(reply.bhs.get16(36), status, "{keys:?}");
        assert_eq!(host.closed, Some(CloseReason::LoginFailed { status }));
    }
}

#[test]
fn login_in_two_stages_with_continued_text() {
    let mut host = Host::new(portal(1));
    let step = |host: &mut Host, flags: u8, data: &[u8]| {
        let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 0);
        bhs.set32(24, 100);
        host.pdu(bhs, data);
        host.next(op::LOGIN_RESPONSE)
    };
    let first = format!("InitiatorName={INITIATOR}\0TargetName={}", &TARGET[..10]);
    assert_eq!(step(&mut host, 0x40, first.as_bytes()).bhs.flags(), 0);
    let second = format!("{}\0AuthMethod=CHAP,None\0", &TARGET[10..]);
    let reply = step(&mut host, 0x81, second.as_bytes());
    assert_eq!(reply.bhs.flags(), 0x81);
    assert_eq!(reply.data, b"AuthMethod=None\0TargetPortalGroupTag=1\0");
    let reply = step(&mut host, 0x04, b"HeaderDigest=None\0X-unknown=1\0");
    assert_eq!(reply.bhs.flags(), 0x04);
    assert_eq!(reply.data, b"HeaderDigest=None\0X-unknown=NotUnderstood\0MaxRecvDataSegmentLength=262144\0");
    assert_eq!(step(&mut host, 0x87, b"").bhs.flags(), 0x87);
    assert!(host.conn.logged_in().is_some());
}

#[test]
fn peeking_finds_the_target_without_a_connection() {
    let pdu = |flags: u8, text: &[u8]| {
        let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 0);
        bhs.set_data_len(text.len() as u32);
        [&bhs.0[..], text].concat()
    };
    let whole = pdu(0x87, b"InitiatorName=a\0TargetName=t\0");
    for cut in 0..whole.len() {
        assert_eq!(peek_login_target(&whole[..cut]), Peek::NeedMore, "{cut}");
    }
    assert_eq!(peek_login_target(&whole), Peek::Target("t".into()));
    assert_eq!(peek_login_target(&pdu(0x40, b"TargetName=t\0Initiat")), Peek::Target("t".into()));
    assert_eq!(peek_login_target(&pdu(0x87, b"SessionType=Discovery\0")), Peek::Discovery);
    assert_eq!(peek_login_target(&pdu(0x87, b"InitiatorName=a\0")), Peek::Invalid);
    assert_eq!(peek_login_target(b"GET / HTTP/1.1"), Peek::Invalid);
}
