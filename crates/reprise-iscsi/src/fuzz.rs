//! Entry points for fuzzers: plain functions over bytes that must neither panic nor grow without bound.

use std::sync::Arc;

use reprise_scsi::{
    AluaState, BlockSize, Completion, Lun, LunMap, MappedRun, Op, ScsiError, TargetPort, UnitAttention,
};
use reprise_types::{Mono, PoolBuf, SectorCount, VolumeId};

use crate::chap::{Challenge, Chap, Credentials, Secret};
use crate::conn::{Config, Connection, OUT_QUEUE_BYTES_MAX, Output, ResetScope, TASKS_EXTRA, WINDOW_MAX};
use crate::keys::Negotiation;
use crate::limit::Limit;
use crate::login::peek_login_target;
use crate::pdu::{BHS_LEN, Bhs, TAG_NONE, op};
use crate::portal::{Acl, Initiator, Portal, Target};
use crate::recv::RecvTarget;
use crate::task::TaskTag;
use crate::text;

const TARGET: &str = "iqn.2026-01.invalid.example:t";

fn connection(acl: Acl) -> Option<Connection> {
    let port = TargetPort {
        target_name: TARGET.into(),
        group: 1,
        relative_port: 1,
        alua: AluaState::ActiveOptimized,
        peer: None,
    };
    let lun = Lun::new(VolumeId::from_raw([1; 16]), SectorCount::from_raw(4096), BlockSize::B512);
    let luns = LunMap::new(port, [(0, lun)]).ok()?;
    let target = Target { name: TARGET.into(), alias: None, addresses: Vec::new(), moved: None, acl, luns };
    let portal = Arc::new(Portal { group_tag: 1, targets: vec![target], away: Vec::new() });
    let challenge = Challenge::from_random([7; 33]);
    let config = Config::new(portal, String::from("127.0.0.1:3260"), 1, challenge);
    Some(Connection::new(config, Mono::from_millis(0)))
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
    let Some(mut connection) = connection(Acl::open()) else { return };
    let (flags, text) = input.split_first().map_or((0x87, input), |(flags, rest)| (*flags, rest));
    feed(&mut connection, &text_pdu(flags, text));
}

/// Any bytes: as a whole connection if the first one is even, else after a login.
pub fn fuzz_connection(input: &[u8]) {
    let Some(mut connection) = connection(Acl::open()) else { return };
    let Some((first, rest)) = input.split_first() else { return };
    if first % 2 == 1 {
        feed(&mut connection, &login_pdu());
        assert!(connection.logged_in().is_some(), "the login of the fuzzer is a good one");
    }
    feed(&mut connection, rest);
}

/// A login request: one PDU with this text.
fn text_pdu(flags: u8, text: &[u8]) -> Vec<u8> {
    let text = text.get(..text.len().min(8192)).unwrap_or(&[]);
    let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, flags, 1);
    bhs.set_data_len(text.len() as u32);
    let mut bytes = bhs.0.to_vec();
    bytes.extend_from_slice(text);
    bytes.resize(BHS_LEN + text.len().next_multiple_of(4), 0);
    bytes
}

/// What an initiator answers to CHAP: the input is the text of its requests, cut at each `\n`. It knows no secret, so it
/// must not get in.
pub fn fuzz_chap(input: &[u8]) {
    let secrets = Secret::new("of-the-initiator").zip(Secret::new("of-the-target"));
    let Some((secret, own)) = secrets else { return };
    let initiator = Credentials { user: String::from("u"), secret };
    let Ok(chap) = Chap::new(initiator, Some(Credentials { user: String::from("b"), secret: own })) else { return };
    let name = String::from("iqn.2026-01.invalid.example:i");
    let rule = Initiator { chap: Some(chap), ..Initiator::named(name) };
    let acl = Acl { initiators: vec![Arc::new(rule)], others: false };
    let Some(mut connection) = connection(acl) else { return };
    let first = format!("InitiatorName=iqn.2026-01.invalid.example:i\0TargetName={TARGET}\0AuthMethod=CHAP\0");
    feed(&mut connection, &text_pdu(0, first.as_bytes()));
    feed(&mut connection, &text_pdu(0, b"CHAP_A=8,7,6,5\0"));
    for part in input.split(|byte| *byte == b'\n').take(16) {
        let (flags, text) = part.split_first().map_or((0x87, part), |(flags, rest)| (*flags, rest));
        feed(&mut connection, &text_pdu(flags, text));
    }
    assert!(connection.logged_in().is_none(), "a login without the secret");
}

/// A session as a list of operations, four bytes each: what the initiator sends, what the owner does, what time does.
pub fn fuzz_session(input: &[u8]) {
    let Some(mut connection) = connection(Acl::open()) else { return };
    feed(&mut connection, &login_pdu());
    let mut owner = Owner { now: Mono::from_millis(1000), submitted: Vec::new(), wanted: None };
    let mut cmd_sn = 0u32;
    for operation in input.as_chunks::<4>().0.iter().take(512) {
        let [what, a, b, c] = *operation;
        match what % 16 {
            0..=6 => {
                let opcode = [0x01, 0x01, 0x01, 0x05, 0x42, 0x00, 0x04][usize::from(what % 16)];
                let bytes = session_pdu(opcode, cmd_sn, [a, b, c]);
                // Mostly in order, so that the window and what is behind it are reached.
                cmd_sn = cmd_sn.wrapping_add(u32::from(opcode < 0x05 && a % 16 != 0));
                owner.send(&mut connection, &bytes);
            }
            7 | 8 => owner.complete(&mut connection, a),
            9 => {
                if let Some(len) = owner.wanted.take() {
                    connection.grant_buffer(owner.now, PoolBuf::unpooled(len as usize));
                }
            }
            10 => {
                owner.now = owner.now.plus_millis(u64::from(a) * u64::from(b));
                connection.tick(owner.now);
            }
            11 => connection.set_command_window(u32::from(a)),
            12 => {
                let commands_per_sec = std::num::NonZeroU32::new(a.into());
                connection.set_limit(owner.now, Limit { commands_per_sec, bytes_per_sec: None });
            }
            13 if a % 8 == 0 => connection.request_logout(owner.now, b.into()),
            14 if a % 8 == 0 => {
                connection.external_reset(ResetScope::Target, UnitAttention::TargetReset, b % 8 == 0);
            }
            15 => {
                let sent = usize::try_from(connection.send_pending()).unwrap_or(0);
                connection.sent(owner.now, sent.min(usize::from(a) * 256));
            }
            _ => {}
        }
        owner.outputs(&mut connection);
        assert!(connection.task_count() <= (WINDOW_MAX + TASKS_EXTRA) as usize);
        assert!(connection.send_pending() < 2 * OUT_QUEUE_BYTES_MAX + (64 << 20), "the queue grows without bound");
    }
}

/// Who carries out what a session wants, late and in any order.
struct Owner {
    now: Mono,
    submitted: Vec<(TaskTag, Op)>,
    wanted: Option<u32>,
}

impl Owner {
    fn send(&mut self, connection: &mut Connection, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (RecvTarget::Staging(to) | RecvTarget::Payload(to)) = connection.recv_target() else { return };
            let count = to.len().min(bytes.len());
            to.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            connection.received(self.now, count);
            bytes = bytes.get(count..).unwrap_or(&[]);
            self.outputs(connection);
        }
    }

    fn outputs(&mut self, connection: &mut Connection) {
        while let Some(output) = connection.poll_output() {
            match output {
                Output::NeedBuffer { len } => self.wanted = Some(len),
                Output::Submit { tag, op, .. } => self.submitted.push((tag, op)),
                Output::Admit { bytes } => connection.admit(self.now, self.now.plus_millis(u64::from(bytes % 7))),
                Output::Abort { .. } | Output::LoggedIn(_) | Output::Reset { .. } | Output::Close(_) => {}
            }
        }
    }

    fn complete(&mut self, connection: &mut Connection, which: u8) {
        if self.submitted.is_empty() {
            return;
        }
        let (tag, op) = self.submitted.swap_remove(usize::from(which) % self.submitted.len());
        let completion = match op {
            Op::Read { sectors, .. } => Completion::Data(PoolBuf::unpooled((sectors.get() * 512) as usize).freeze()),
            _ if which.is_multiple_of(5) => Completion::Failed(ScsiError::Internal),
            _ => Completion::Done,
        };
        connection.complete(self.now, tag, completion);
    }
}

fn session_pdu(opcode: u8, cmd_sn: u32, [a, b, c]: [u8; 3]) -> Vec<u8> {
    let mut bhs = Bhs::reply(opcode, 0x80, u32::from(a % 16));
    bhs.set32(24, cmd_sn);
    let mut len = 0;
    match opcode {
        0x01 => {
            let blocks = u32::from(b % 8);
            let (flags, cdb) = [(0x40, 0x88), (0x20, 0x8a), (0x00, 0x35)][usize::from(a / 16 % 3)];
            bhs.0[1] = flags | if c % 4 == 0 { 0 } else { 0x80 };
            bhs.0[32] = cdb;
            bhs.0[40..42].copy_from_slice(&[0, b]);
            bhs.0[45] = blocks as u8;
            bhs.set32(20, blocks * 512);
            len = if flags == 0x20 { u32::from(c) * 16 } else { 0 };
        }
        0x05 => {
            bhs.0[1] = b & 0x80;
            bhs.set32(20, if c % 2 == 0 { TAG_NONE } else { u32::from(c / 2) });
            bhs.set32(36, u32::from(b % 4));
            bhs.set32(40, u32::from(b / 4 % 16) * 512);
            len = 512;
        }
        0x42 => {
            bhs.0[1] = 0x80 | (b % 10);
            bhs.set32(20, u32::from(c % 16));
        }
        _ => {
            bhs.set32(20, TAG_NONE);
            len = u32::from(c);
        }
    }
    bhs.set_data_len(len);
    let mut bytes = bhs.0.to_vec();
    bytes.resize(BHS_LEN + (len as usize).next_multiple_of(4), c);
    bytes
}
