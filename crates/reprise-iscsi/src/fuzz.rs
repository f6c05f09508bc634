//! Entry points for fuzzers: plain functions over bytes that must neither panic nor grow without bound.

use std::sync::Arc;

use reprise_scsi::{AluaState, BlockSize, Completion, Lun, LunMap, MappedRun, Op, TargetPort};
use reprise_types::{Mono, PoolBuf, SectorCount, VolumeId};

use crate::conn::{Config, Connection, Output};
use crate::keys::Negotiation;
use crate::login::peek_login_target;
use crate::pdu::{BHS_LEN, Bhs, op};
use crate::portal::{Acl, Portal, Target};
use crate::recv::RecvTarget;
use crate::text;

const TARGET: &str = "iqn.2026-01.invalid.example:t";

fn connection() -> Option<Connection> {
    let port = TargetPort {
        target_name: TARGET.into(),
        group: 1,
        relative_port: 1,
        alua: AluaState::ActiveOptimized,
        peer: None,
    };
    let lun = Lun::new(VolumeId::from_raw([1; 16]), SectorCount::from_raw(4096), BlockSize::B512);
    let luns = LunMap::new(port, [(0, lun)]).ok()?;
    let target = Target { name: TARGET.into(), alias: None, addresses: Vec::new(), acl: Acl::Open, luns };
    let portal = Arc::new(Portal { group_tag: 1, targets: vec![target] });
    Some(Connection::new(Config::new(portal, String::from("127.0.0.1:3260"), 1), Mono::from_millis(0)))
}

/// Answers everything the connection asks for, and "sends" all its bytes.
fn serve(connection: &mut Connection, now: Mono) {
    loop {
        let pending = usize::try_from(connection.send_pending()).unwrap_or(usize::MAX);
        connection.sent(now, pending);
        let Some(output) = connection.poll_output() else { return };
        match output {
            Output::NeedBuffer { len } => connection.grant_buffer(now, PoolBuf::unpooled(len as usize)),
            Output::Submit { tag, op, .. } => {
                let completion = match op {
                    Op::Read { sectors, .. } => {
                        Completion::Data(PoolBuf::unpooled((sectors.get() * 512) as usize).freeze())
                    }
                    Op::LbaStatus { sector, sectors, .. } => {
                        Completion::Mapped(vec![MappedRun { sector, sectors, mapped: false }])
                    }
                    _ => Completion::Done,
                };
                connection.complete(now, tag, completion);
            }
            _ => {}
        }
    }
}

/// Feeds bytes the way a socket would.
fn feed(connection: &mut Connection, mut bytes: &[u8]) {
    let mut millis = 1;
    while !bytes.is_empty() {
        let now = Mono::from_millis(millis);
        millis += 1;
        let count = match connection.recv_target() {
            RecvTarget::Staging(to) | RecvTarget::Payload(to) => {
                let count = to.len().min(bytes.len());
                to.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                count
            }
            RecvTarget::Blocked | RecvTarget::Closed => 0,
        };
        if count > 0 {
            connection.received(now, count);
            bytes = bytes.get(count..).unwrap_or(&[]);
        }
        serve(connection, now);
        connection.tick(now);
        if count == 0 && !matches!(connection.recv_target(), RecvTarget::Staging(_) | RecvTarget::Payload(_)) {
            return;
        }
    }
}

fn login_pdu() -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in [
        ("InitiatorName", "iqn.2026-01.invalid.example:i"),
        ("TargetName", TARGET),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
    ] {
        text::push(&mut text, key, value);
    }
    let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, 0x87, 1);
    bhs.set_data_len(text.len() as u32);
    let mut out = bhs.0.to_vec();
    text.resize(text.len().next_multiple_of(4), 0);
    out.extend_from_slice(&text);
    out
}

/// Header fields and the peek at a login request.
pub fn fuzz_pdu(input: &[u8]) {
    if let Some(bhs) = Bhs::read(input) {
        let _ = (bhs.opcode(), bhs.ahs_len(), bhs.data_len(), bhs.lun(), bhs.itt(), bhs.cdb().len());
    }
    let _ = peek_login_target(input);
}

/// Text keys and their negotiation.
pub fn fuzz_text(input: &[u8]) {
    let Ok(pairs) = text::parse(input) else { return };
    let mut negotiation = Negotiation::default();
    let mut out = Vec::new();
    for (key, value) in pairs {
        if negotiation.offer(key, value, input.len().is_multiple_of(2), true, &mut out).is_err() {
            return;
        }
    }
    negotiation.declare(&mut out);
    let params = negotiation.finish();
    assert!(params.first_burst <= params.max_burst && params.initiator_segment_max >= 512);
    assert!(out.len() <= 8192, "answers of {} bytes do not fit one PDU", out.len());
}

/// A login request whose text is the input, in one PDU.
pub fn fuzz_login(input: &[u8]) {
    let Some(mut connection) = connection() else { return };
    let (flags, text) = input.split_first().map_or((0x87, input), |(flags, rest)| (*flags, rest));
    let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 1);
    let text = text.get(..text.len().min(8192)).unwrap_or(&[]);
    bhs.set_data_len(text.len() as u32);
    let mut bytes = bhs.0.to_vec();
    bytes.extend_from_slice(text);
    bytes.resize(BHS_LEN + text.len().next_multiple_of(4), 0);
    feed(&mut connection, &bytes);
}

/// Any bytes: as a whole connection if the first one is even, else after a login.
pub fn fuzz_connection(input: &[u8]) {
    let Some(mut connection) = connection() else { return };
    let Some((first, rest)) = input.split_first() else { return };
    if first % 2 == 1 {
        feed(&mut connection, &login_pdu());
        assert!(connection.logged_in().is_some(), "the login of the fuzzer is a good one");
    }
    feed(&mut connection, rest);
}
