//! A scripted initiator against a disk in memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use reprise_scsi::{AluaState, BlockSize, Completion, Lun, LunMap, Op, ScsiError, TargetPort, UnitAttention};
use reprise_types::{Mono, PoolBuf, SectorCount, VolumeId};

use crate::pdu::{BHS_LEN, Bhs, Reject, TAG_NONE, crc32c, op, padding};
use crate::*;

const TARGET: &str = "iqn.2026-01.invalid.example:disk";
const INITIATOR: &str = "iqn.2026-01.invalid.example:host";
const SECTORS: u64 = 16 << 10;

fn luns(sectors: u64) -> LunMap {
    let port = TargetPort { target_name: TARGET.into(), group: 1, relative_port: 1, alua: AluaState::ActiveOptimized };
    let lun = |n| Lun::new(VolumeId::from_raw([n; 16]), SectorCount::from_raw(sectors), BlockSize::B512);
    LunMap::new(port, [(0, lun(1)), (1, lun(2))]).unwrap()
}

fn portal(targets: usize) -> Arc<Portal> {
    let target = |n: usize| Target {
        name: if n == 0 { TARGET.into() } else { format!("iqn.2026-01.invalid.example:other-{n}") },
        alias: None,
        addresses: if n == 0 { Vec::new() } else { vec![format!("[fd00::{n}]:3260"), format!("10.0.0.{n}:3260")] },
        acl: if n == 2 { Acl::Names(vec!["iqn.2026-01.invalid.example:else".into()]) } else { Acl::Open },
        luns: luns(SECTORS),
    };
    Arc::new(Portal { group_tag: 1, targets: (0..targets).map(target).collect() })
}

/// A PDU from the target.
#[derive(Debug, Clone)]
struct Got {
    bhs: Bhs,
    data: Vec<u8>,
}

struct Host {
    conn: Connection,
    now: Mono,
    disk: Vec<u8>,
    inbox: Vec<u8>,
    got: VecDeque<Got>,
    outputs: Vec<Output>,
    /// Operations are completed at once, except while this is set.
    hold: bool,
    /// Bytes a read of the socket gives at most.
    chunk: usize,
    direct_bytes: usize,
    header_digest: bool,
    data_digest: bool,
    cmd_sn: u32,
    itt: u32,
    closed: Option<CloseReason>,
    login: Option<LoggedIn>,
}

impl Host {
    fn new(portal: Arc<Portal>) -> Self {
        let mut config = Config::new(portal, String::from("127.0.0.1:3260"), 7);
        config.attention = None;
        Self::with(config)
    }

    fn with(config: Config) -> Self {
        let now = Mono::from_millis(1000);
        Self {
            conn: Connection::new(config, now),
            now,
            disk: vec![0; (SECTORS * 512) as usize],
            inbox: Vec::new(),
            got: VecDeque::new(),
            outputs: Vec::new(),
            hold: false,
            chunk: usize::MAX,
            direct_bytes: 0,
            header_digest: false,
            data_digest: false,
            cmd_sn: 100,
            itt: 1,
            closed: None,
            login: None,
        }
    }

    fn pdu(&mut self, mut bhs: Bhs, data: &[u8]) {
        bhs.set_data_len(data.len() as u32);
        let mut bytes = bhs.0.to_vec();
        if self.header_digest {
            bytes.extend(crc32c(&[&bhs.0]));
        }
        bytes.extend_from_slice(data);
        let pad = vec![0; padding(data.len() as u32)];
        bytes.extend_from_slice(&pad);
        if self.data_digest && !data.is_empty() {
            bytes.extend(crc32c(&[data, &pad]));
        }
        self.bytes(&bytes);
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut direct = false;
            let count = match self.conn.recv_target() {
                RecvTarget::Staging(to) => {
                    let count = to.len().min(bytes.len()).min(self.chunk);
                    to[..count].copy_from_slice(&bytes[..count]);
                    count
                }
                RecvTarget::Payload(to) => {
                    direct = true;
                    let count = to.len().min(bytes.len()).min(self.chunk);
                    to[..count].copy_from_slice(&bytes[..count]);
                    count
                }
                RecvTarget::Blocked => panic!("blocked although everything was served"),
                RecvTarget::Closed => break,
            };
            if direct {
                self.direct_bytes += count;
            }
            self.conn.received(self.now, count);
            bytes = &bytes[count..];
            self.serve();
        }
        self.serve();
    }

    fn serve(&mut self) {
        loop {
            self.drain();
            let Some(output) = self.conn.poll_output() else { return };
            match output {
                Output::NeedBuffer { len } => self.conn.grant_buffer(self.now, PoolBuf::unpooled(len as usize)),
                Output::Submit { tag, op, volume } if !self.hold => {
                    assert_eq!(volume, VolumeId::from_raw([1; 16]));
                    let completion = self.carry_out(op);
                    self.conn.complete(self.now, tag, completion);
                }
                Output::Close(reason) => self.closed = Some(reason),
                Output::LoggedIn(info) => self.login = Some(info),
                other => self.outputs.push(other),
            }
        }
    }

    fn carry_out(&mut self, op: Op) -> Completion {
        match op {
            Op::Read { sector, sectors } => {
                let from = (sector.get() * 512) as usize;
                let to = from + (sectors.get() * 512) as usize;
                let data = Bytes::copy_from_slice(&self.disk[from..to]);
                // In two parts, as a read over journal and home gives them.
                let split = data.len() / 1024 * 512;
                Completion::DataParts(vec![data.slice(..split), data.slice(split..)])
            }
            Op::Write { sector, data, .. } => {
                let from = (sector.get() * 512) as usize;
                self.disk[from..from + data.len()].copy_from_slice(&data);
                Completion::Done
            }
            Op::Zero { ranges } => {
                for (sector, sectors) in ranges {
                    let from = (sector.get() * 512) as usize;
                    self.disk[from..from + (sectors.get() * 512) as usize].fill(0);
                }
                Completion::Done
            }
            Op::CompareAndWrite { sector, verify, write } => {
                let from = (sector.get() * 512) as usize;
                let place = &mut self.disk[from..from + verify.len()];
                match place.iter().zip(&verify).position(|(a, b)| a != b) {
                    Some(offset) => Completion::Failed(ScsiError::Miscompare { offset: offset as u64 }),
                    None => {
                        place.copy_from_slice(&write);
                        Completion::Done
                    }
                }
            }
            Op::Flush => Completion::Done,
        }
    }

    /// Takes the bytes the target sends and cuts them into PDUs.
    fn drain(&mut self) {
        while self.conn.send_pending() > 0 {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.conn.gather(&mut slices);
            let mut take = 0;
            for slice in &slices[..count] {
                let part = slice.len().min(self.chunk - take);
                self.inbox.extend_from_slice(&slice[..part]);
                take += part;
            }
            self.conn.sent(self.now, take);
        }
        let mut start = 0;
        while let Some(bhs) = Bhs::read(&self.inbox[start..]) {
            let mut at = start + BHS_LEN;
            if self.header_digest {
                assert_eq!(self.inbox[at..at + 4], crc32c(&[&bhs.0]));
                at += 4;
            }
            let len = bhs.data_len() as usize;
            let padded = len + padding(len as u32);
            let data = self.inbox[at..at + len].to_vec();
            if self.data_digest && len > 0 {
                assert_eq!(self.inbox[at + padded..at + padded + 4], crc32c(&[&self.inbox[at..at + padded]]));
                at += 4;
            }
            start = at + padded;
            self.got.push_back(Got { bhs, data });
        }
        self.inbox.drain(..start);
    }

    fn next(&mut self, opcode: u8) -> Got {
        let got = self.got.pop_front().unwrap_or_else(|| panic!("no PDU {opcode:#x}; closed: {:?}", self.closed));
        assert_eq!(got.bhs.opcode(), opcode, "{got:?}");
        got
    }

    fn login_with(&mut self, keys: &[(&str, &str)]) -> Got {
        let mut text = Vec::new();
        keys.iter().for_each(|(key, value)| text::push(&mut text, key, value));
        let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, 0x87, 0);
        bhs.0[8..14].copy_from_slice(&[0x80, 1, 2, 3, 4, 5]);
        bhs.set32(24, self.cmd_sn);
        self.pdu(bhs, &text);
        self.next(op::LOGIN_RESPONSE)
    }

    fn login(portal: Arc<Portal>, extra: &[(&str, &str)]) -> Self {
        let mut host = Self::new(portal);
        host.do_login(extra);
        host
    }

    fn do_login(&mut self, extra: &[(&str, &str)]) {
        let mut keys = vec![("InitiatorName", INITIATOR), ("TargetName", TARGET), ("SessionType", "Normal")];
        keys.extend_from_slice(extra);
        let reply = self.login_with(&keys);
        assert_eq!(reply.bhs.get16(36), 0, "login status");
        assert_eq!(reply.bhs.get16(14), 7, "TSIH");
        let params = self.login.as_ref().unwrap().params;
        (self.header_digest, self.data_digest) = (params.header_digest, params.data_digest);
    }

    fn command(&mut self, flags: u8, expected: u32, cdb: &[u8], immediate: &[u8]) -> u32 {
        self.itt += 1;
        let mut bhs = Bhs::reply(op::SCSI_COMMAND, flags, self.itt);
        bhs.set32(20, expected);
        bhs.set32(24, self.cmd_sn);
        self.cmd_sn += 1;
        bhs.0[32..32 + cdb.len()].copy_from_slice(cdb);
        self.pdu(bhs, immediate);
        self.itt
    }

    fn data_out(&mut self, itt: u32, ttt: u32, data_sn: u32, offset: u32, last: bool, data: &[u8]) {
        let mut bhs = Bhs::reply(op::DATA_OUT, if last { 0x80 } else { 0 }, itt);
        bhs.set32(20, ttt);
        bhs.set32(36, data_sn);
        bhs.set32(40, offset);
        self.pdu(bhs, data);
    }

    /// Writes as the parameters of the session allow, and returns the SCSI Response.
    fn write(&mut self, lba: u32, data: &[u8]) -> Got {
        let params = self.login.as_ref().unwrap().params;
        let len = data.len();
        let segment = 256 << 10;
        let immediate = if params.immediate_data { len.min(params.first_burst as usize).min(20_000) } else { 0 };
        let burst = if params.initial_r2t { immediate } else { len.min(params.first_burst as usize) };
        let flags = 0x20 | if burst > immediate { 0 } else { 0x80 };
        let itt = self.command(flags, len as u32, &write16(lba, (len / 512) as u32), &data[..immediate]);
        let mut sn = 0;
        let mut at = immediate;
        while at < burst {
            let end = burst.min(at + segment).min(at + 50_000);
            self.data_out(itt, TAG_NONE, sn, at as u32, end == burst, &data[at..end]);
            (at, sn) = (end, sn + 1);
        }
        let mut r2t_sn = 0;
        while self.got.front().is_some_and(|got| got.bhs.opcode() == op::R2T) {
            let r2t = self.next(op::R2T).bhs;
            assert_eq!(r2t.get32(36), r2t_sn);
            r2t_sn += 1;
            let (mut at, len) = (r2t.get32(40) as usize, r2t.get32(44) as usize);
            assert!(len <= params.max_burst as usize);
            let end = at + len;
            let mut sn = 0;
            while at < end {
                let to = end.min(at + segment);
                self.data_out(itt, r2t.get32(20), sn, at as u32, to == end, &data[at..to]);
                (at, sn) = (to, sn + 1);
            }
        }
        self.next(op::SCSI_RESPONSE)
    }

    /// Reads and checks DataSN, offsets and the status in the last PDU.
    fn read(&mut self, lba: u32, blocks: u32) -> Vec<u8> {
        self.command(0xc0, blocks * 512, &read16(lba, blocks), &[]);
        let mut data = Vec::new();
        for data_sn in 0.. {
            let got = self.next(op::DATA_IN);
            assert_eq!((got.bhs.get32(36), got.bhs.get32(40) as usize), (data_sn, data.len()));
            data.extend_from_slice(&got.data);
            if got.bhs.flags() & 1 != 0 {
                assert_eq!((got.bhs.flags(), got.bhs.get32(44)), (0x81, 0));
                break;
            }
        }
        data
    }

    fn management(&mut self, function: u8, referenced: u32) {
        self.itt += 1;
        let mut bhs = Bhs::reply(op::TMF_REQUEST | 0x40, 0x80 | function, self.itt);
        bhs.set32(20, referenced);
        bhs.set32(24, self.cmd_sn);
        self.pdu(bhs, &[]);
    }

    fn submitted(&mut self) -> (TaskTag, Op) {
        match self.outputs.remove(0) {
            Output::Submit { tag, op, .. } => (tag, op),
            other => panic!("{other:?}"),
        }
    }
}

fn cdb16(opcode: u8, lba: u32, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[6..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

fn read16(lba: u32, blocks: u32) -> [u8; 16] {
    cdb16(0x88, lba, blocks)
}

fn write16(lba: u32, blocks: u32) -> [u8; 16] {
    cdb16(0x8a, lba, blocks)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31 + i / 511 + seed * 7) & 0xff) as u8).collect()
}

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

fn residual_case(flags: u8, expected: u32, cdb: &[u8], data: &[u8], wanted_flags: u8, count: u32) {
    let mut host = Host::login(portal(1), &[("InitialR2T", "Yes"), ("ImmediateData", "Yes")]);
    let before = pattern(4096, 9);
    host.disk[..4096].copy_from_slice(&before);
    host.command(flags, expected, cdb, data);
    let got = host.got.pop_back().unwrap();
    let case = format!("{cdb:02x?} expecting {expected}");
    assert_eq!((got.bhs.flags() & 0x06, got.bhs.get32(44)), (wanted_flags, count), "{case}");
    if flags & 0x20 != 0 {
        let whole = data.len().min(1024) / 512 * 512;
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
    let mut config = Config::new(portal(1), String::from("127.0.0.1:3260"), 7);
    config.attention = Some(UnitAttention::PowerOn);
    let mut host = Host::with(config);
    host.do_login(&[]);
    host.command(0x80, 0, &[0; 6], &[]);
    let got = host.next(op::SCSI_RESPONSE);
    assert_eq!((got.data[2 + 2], got.data[2 + 12]), (6, 0x29));
}

#[test]
fn commands_that_need_all_their_data_refuse_other_lengths() {
    let mut host = Host::login(portal(1), &[]);
    let mut compare = [0; 16];
    (compare[0], compare[13]) = (0x89, 1);
    for (cdb, len, sense) in [
        (compare, 1024, None),
        (compare, 2048, Some((5, 0x0e, 3))),
        (compare, 512, Some((5, 0x0e, 3))),
        (cdb16(0x93, 0, 4), 512, None),
        (cdb16(0x93, 0, 4), 256, Some((5, 0x0e, 3))),
    ] {
        host.command(0xa0, len as u32, &cdb, &vec![0; len]);
        let got = host.next(op::SCSI_RESPONSE);
        let found = got.data.get(2..16).map(|sense| (sense[2], sense[12], sense[13]));
        assert_eq!(found, sense, "{:#x} with {len} bytes", cdb[0]);
    }
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

#[test]
fn the_window_follows_the_tasks_and_the_owner() {
    let mut config = Config::new(portal(1), String::from("127.0.0.1:3260"), 7);
    (config.attention, config.window) = (None, 2);
    let mut host = Host::with(config);
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
    assert_eq!(host.next(op::TMF_RESPONSE).bhs.byte(2), 0);
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
    host.now = host.now.plus_millis(10_000);
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
    fn no_text_panics(input in "[A-Za-z=,0-9\\x00]{0,300}") {
        fuzz_text(input.as_bytes());
        fuzz_login(input.as_bytes());
    }
}
