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
fn hosts_elsewhere_are_not_sent_to_themselves() {
    for (local, told) in [("127.0.0.1:3260", 2), ("[::1]:3260", 2), ("192.0.2.1:3260", 1)] {
        let mut portal = portal(1);
        let addresses = ["127.0.0.1:3260", "192.0.2.1:3260"].map(String::from).to_vec();
        Arc::make_mut(&mut portal).targets[0].addresses = addresses;
        let mut host = Host::with(Config { local_address: local.into(), ..config(portal) });
        host.login_with(&[("InitiatorName", INITIATOR), ("SessionType", "Discovery")]);
        let mut bhs = Bhs::reply(op::TEXT_REQUEST, 0x80, 9);
        bhs.set32(20, TAG_NONE);
        bhs.set32(24, host.cmd_sn);
        host.pdu(bhs, b"SendTargets=All\0");
        let text = String::from_utf8(host.next(op::TEXT_RESPONSE).data).unwrap();
        assert_eq!(text.matches("TargetAddress=").count(), told, "{text:?}");
        assert!(text.contains("TargetAddress=192.0.2.1:3260,1"));
    }
}

#[test]
fn logins_that_are_refused() {
    let name = ("InitiatorName", INITIATOR);
    for (keys, status) in [
        (vec![("TargetName", TARGET)], 0x0207),
        (vec![name], 0x0207),
        (vec![name, ("TargetName", "iqn.2026-01.invalid.example:nobody")], 0x0203),
        (vec![name, ("TargetName", "iqn.2026-01.invalid.example:away.one")], 0x0301),
        (vec![name, ("TargetName", "iqn.2026-01.invalid.example:away")], 0x0203),
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

const USER: &str = "host-user";

fn secret(text: &str) -> Secret {
    Secret::new(text).unwrap()
}

fn chap() -> Chap {
    let initiator = Credentials { user: USER.into(), secret: secret("of-the-initiator") };
    let target = Credentials { user: "box-user".into(), secret: secret("of-the-target") };
    Chap::new(initiator, Some(target)).unwrap()
}

/// A portal that asks our initiator for a proof, and lets others in without.
fn guarded(targets: usize) -> Arc<Portal> {
    let mut portal = portal(targets);
    let rule = Initiator { chap: Some(chap()), ..Initiator::named(INITIATOR.to_uppercase()) };
    let acl = Acl { initiators: vec![Arc::new(rule)], others: true };
    Arc::make_mut(&mut portal).targets.iter_mut().for_each(|target| target.acl = acl.clone());
    portal
}

/// One login request in stage `flags`, answered.
fn step(host: &mut Host, flags: u8, keys: &[(&str, &str)]) -> (u8, u16, String) {
    let mut text = Vec::new();
    keys.iter().for_each(|(key, value)| text::push(&mut text, key, value));
    let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 0);
    bhs.set32(24, 100);
    host.pdu(bhs, &text);
    let got = host.next(op::LOGIN_RESPONSE);
    (got.bhs.flags(), got.bhs.get16(36), String::from_utf8(got.data).unwrap())
}

fn md5_response(identifier: u8, secret: &str, challenge: &[u8]) -> String {
    use md5::Digest;
    let mut digest = md5::Md5::new();
    [&[identifier][..], secret.as_bytes(), challenge].iter().for_each(|part| digest.update(part));
    digest.finalize().iter().fold(String::from("0x"), |text, byte| format!("{text}{byte:02x}"))
}

/// The challenge that [`config`] gives.
fn challenge() -> (u8, Vec<u8>) {
    (1, (2..=33).collect())
}

#[test]
fn a_login_with_chap_both_ways_for_a_target_and_for_discovery() {
    for kind in [("TargetName", TARGET), ("SessionType", "Discovery")] {
        let mut host = Host::new(guarded(1));
        let first = [("InitiatorName", INITIATOR), kind, ("AuthMethod", "CHAP,None")];
        let (flags, status, text) = step(&mut host, 0x81, &first);
        assert_eq!((flags, status), (0x00, 0), "the stage does not end before the proof");
        assert!(text.starts_with("AuthMethod=CHAP\0"), "{text:?}");
        let (_, _, text) = step(&mut host, 0x00, &[("CHAP_A", "5")]);
        let (identifier, challenge) = challenge();
        let shown: String = challenge.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, format!("CHAP_A=5\0CHAP_I={identifier}\0CHAP_C=0x{shown}\0"));
        let response = md5_response(identifier, "of-the-initiator", &challenge);
        let keys = [("CHAP_N", USER), ("CHAP_R", &response), ("CHAP_I", "77"), ("CHAP_C", "0bAQID")];
        let (flags, _, text) = step(&mut host, 0x81, &keys);
        assert_eq!(
            (flags, text),
            (0x81, format!("CHAP_N=box-user\0CHAP_R={}\0", md5_response(77, "of-the-target", &[1, 2, 3])))
        );
        assert_eq!(step(&mut host, 0x87, &[("HeaderDigest", "CRC32C")]).0, 0x87);
        assert_eq!(host.login.as_ref().unwrap().chap_user.as_deref(), Some(USER));
    }
}

#[test]
fn whoever_has_to_prove_something_gets_no_further_without() {
    let who = [("InitiatorName", INITIATOR), ("TargetName", TARGET)];
    let with = |more: &[(&'static str, &'static str)]| [&who, more].concat();
    let failed = |host: &mut Host, flags: u8, keys: &[(&str, &str)], status: u16| {
        assert_eq!(step(host, flags, keys).1, status, "{keys:?}");
        assert_eq!(host.closed, Some(CloseReason::LoginFailed { status }));
        assert!(host.conn.logged_in().is_none());
    };
    // Straight to the operational stage; only None; nothing at all.
    failed(&mut Host::new(guarded(1)), 0x87, &who, 0x0201);
    failed(&mut Host::new(guarded(1)), 0x81, &with(&[("AuthMethod", "None")]), 0x0201);
    let mut host = Host::new(guarded(1));
    assert_eq!(step(&mut host, 0x83, &who).0, 0, "it cannot transit");
    failed(&mut host, 0x87, &[], 0x020b);
    // A wrong secret; CHAP keys in the wrong stage; another name after the proof was asked for.
    let asked = || {
        let mut host = Host::new(guarded(1));
        step(&mut host, 0x00, &with(&[("AuthMethod", "CHAP")]));
        step(&mut host, 0x00, &[("CHAP_A", "5,7")]);
        host
    };
    let (identifier, challenge) = challenge();
    let wrong = md5_response(identifier, "of-another-host", &challenge);
    failed(&mut asked(), 0x81, &[("CHAP_N", USER), ("CHAP_R", &wrong)], 0x0201);
    failed(&mut asked(), 0x81, &[("CHAP_N", USER), ("CHAP_R", "0x00")], 0x0201);
    failed(&mut asked(), 0x81, &[("CHAP_N", USER)], 0x0207);
    failed(&mut asked(), 0x81, &[("InitiatorName", "iqn.2026-01.invalid.example:other")], 0x0200);
    failed(&mut asked(), 0x81, &[("TargetName", TARGET)], 0x0200);
    // Nobody else is asked.
    let mut other = Host::new(guarded(1));
    let keys =
        [("InitiatorName", "iqn.2026-01.invalid.example:other"), ("TargetName", TARGET), ("AuthMethod", "CHAP,None")];
    assert_eq!(step(&mut other, 0x81, &keys).0, 0x81);
    failed(&mut Host::new(portal(1)), 0x87, &with(&[("AuthMethod", "CHAP")]), 0x020b);
}

#[test]
fn rules_about_addresses_hold_for_login_and_discovery() {
    let mut portal = portal(1);
    let rule = Initiator { networks: vec!["192.0.2.0/24".parse().unwrap()], ..Initiator::named(INITIATOR.into()) };
    Arc::make_mut(&mut portal).targets[0].acl = Acl { initiators: vec![Arc::new(rule)], others: false };
    for (from, status) in [(Some("192.0.2.7"), 0), (Some("192.0.3.7"), 0x0202), (None, 0x0202)] {
        for kind in [("TargetName", TARGET), ("SessionType", "Discovery")] {
            let from = from.map(|address| address.parse().unwrap());
            let mut host = Host::with(Config { from, ..config(portal.clone()) });
            assert_eq!(step(&mut host, 0x87, &[("InitiatorName", INITIATOR), kind]).1, status, "{from:?} {kind:?}");
        }
    }
}

#[test]
fn a_target_that_has_moved_sends_its_initiators_on() {
    for (permanently, status) in [(false, 0x0101), (true, 0x0102)] {
        let mut portal = portal(1);
        let moved = Moved { address: "[2001:db8::7]:3260".into(), permanently };
        let target = &mut Arc::make_mut(&mut portal).targets[0];
        (target.moved, target.acl) = (Some(moved), only(INITIATOR));
        let mut host = Host::new(portal.clone());
        let got = step(&mut host, 0x87, &[("InitiatorName", INITIATOR), ("TargetName", TARGET)]);
        assert_eq!(got, (0, status, "TargetAddress=[2001:db8::7]:3260\0".into()));
        assert_eq!(host.closed, Some(CloseReason::LoginFailed { status }));
        let stranger = [("InitiatorName", "iqn.2026-01.invalid.example:x"), ("TargetName", TARGET)];
        assert_eq!(step(&mut Host::new(portal), 0x87, &stranger).1, 0x0202, "strangers are not told");
    }
}

#[test]
fn an_answer_longer_than_the_initiator_takes_goes_on_in_the_next_pdu() {
    let mut host = Host::new(portal(1));
    step(&mut host, 0x81, &[("InitiatorName", INITIATOR), ("TargetName", TARGET), ("AuthMethod", "None")]);
    let unknown: Vec<String> = (0..60).map(|n| format!("X-com.example.{n:045}")).collect();
    let mut keys: Vec<(&str, &str)> = unknown.iter().map(|key| (key.as_str(), "1")).collect();
    keys.insert(0, ("MaxRecvDataSegmentLength", "512"));
    let (mut flags, _, mut all) = step(&mut host, 0x87, &keys);
    let mut parts = 1;
    while flags & 0x40 != 0 {
        assert_eq!(flags, 0x44, "more follows, and the stage goes on");
        let (next, _, part) = step(&mut host, 0x87, &[]);
        assert!(part.len() <= 512);
        (flags, parts) = (next, parts + 1);
        all.push_str(&part);
    }
    assert_eq!((flags, parts), (0x87, all.len().div_ceil(512)));
    let pairs = text::parse(all.as_bytes()).unwrap();
    assert_eq!(pairs.len(), 61);
    assert!(pairs.iter().skip(1).zip(&unknown).all(|(pair, key)| *pair == (key.as_str(), "NotUnderstood")));
    // Whoever is in the middle of an answer brings nothing.
    let mut host = Host::new(portal(1));
    step(&mut host, 0x81, &[("InitiatorName", INITIATOR), ("TargetName", TARGET), ("AuthMethod", "None")]);
    step(&mut host, 0x87, &keys);
    assert_eq!(step(&mut host, 0x87, &[("HeaderDigest", "None")]).1, 0x020b);
}

/// Logs in with this text, cut into PDUs at these places, and returns what was agreed on and the whole answer.
fn login_in_pieces(text: &[u8], cuts: &[usize]) -> (keys::Params, String) {
    let mut host = Host::new(portal(1));
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % text.len()).collect();
    cuts.sort_unstable();
    let mut answer = String::new();
    let mut send = |host: &mut Host, flags: u8, part: &[u8]| {
        let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 0);
        bhs.set32(24, host.cmd_sn);
        host.pdu(bhs, part);
        let got = host.next(op::LOGIN_RESPONSE);
        assert_eq!(got.bhs.get16(36), 0);
        answer.push_str(std::str::from_utf8(&got.data).unwrap());
        got.bhs.flags()
    };
    let mut at = 0;
    for cut in cuts {
        assert_eq!(send(&mut host, 0x44, &text[at..cut]), 0x04, "an empty answer while the text goes on");
        at = cut;
    }
    let mut flags = send(&mut host, 0x87, &text[at..]);
    while flags == 0x44 {
        flags = send(&mut host, 0x87, &[]);
    }
    assert_eq!(flags, 0x87);
    (host.login.unwrap().params, answer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn text_means_the_same_however_it_is_cut(
        cuts in prop::collection::vec(any::<usize>(), 0..6), unknown in 0usize..40,
        segment in 512u32..9000, burst in 512u32..2_000_000, r2ts in 1u32..9, initial in any::<bool>(),
    ) {
        let numbers = [segment, burst, r2ts].map(|n| n.to_string());
        let mut data = Vec::new();
        for n in 0..unknown {
            text::push(&mut data, &format!("X-com.example.{n:040}"), "1");
        }
        for (key, value) in [
            ("InitiatorName", INITIATOR),
            ("TargetName", TARGET),
            ("MaxRecvDataSegmentLength", &numbers[0]),
            ("MaxBurstLength", &numbers[1]),
            ("MaxOutstandingR2T", &numbers[2]),
            ("InitialR2T", if initial { "Yes" } else { "No" }),
        ] {
            text::push(&mut data, key, value);
        }
        let whole = login_in_pieces(&data, &[]);
        prop_assert_eq!(&login_in_pieces(&data, &cuts), &whole);
        let pairs = text::parse(whole.1.as_bytes()).unwrap();
        // What is answered: unknown keys, four that are negotiated, and the portal group.
        prop_assert_eq!(pairs.len(), unknown + 5);
        prop_assert_eq!(whole.0.initiator_segment_max, segment);
        prop_assert_eq!(whole.0.max_burst, burst.min(1 << 20));
        prop_assert_eq!((whole.0.max_outstanding_r2t, whole.0.initial_r2t), (r2ts.min(4), initial));
    }
}
