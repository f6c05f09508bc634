//! A scripted initiator against a disk in memory.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use reprise_scsi::{
    AluaState, BlockSize, Completion, Lun, LunMap, MappedRun, Op, ScsiError, TargetPort, UnitAttention,
};
use reprise_types::{Mono, PoolBuf, SectorCount, VolumeId};

use crate::pdu::{BHS_LEN, Bhs, Reject, TAG_NONE, crc32c, op, padding};
use crate::*;

mod commands;
mod login;
mod session;
mod simulation;
mod transfer;

const TARGET: &str = "iqn.2026-01.invalid.example:disk";
const INITIATOR: &str = "iqn.2026-01.invalid.example:host";
const SECTORS: u64 = 16 << 10;

fn luns(sectors: u64) -> LunMap {
    let port = TargetPort {
        target_name: TARGET.into(),
        group: 1,
        relative_port: 1,
        alua: AluaState::ActiveOptimized,
        peer: None,
    };
    let lun = |n| Lun::new(VolumeId::from_raw([n; 16]), SectorCount::from_raw(sectors), BlockSize::B512);
    LunMap::new(port, [(0, lun(1)), (1, lun(2))]).unwrap()
}

fn only(initiator: &str) -> Acl {
    Acl { initiators: vec![Arc::new(Initiator::named(initiator.into()))], others: false }
}

fn config(portal: Arc<Portal>) -> Config {
    let challenge = Challenge::from_random(std::array::from_fn(|i| i as u8 + 1));
    Config { attention: None, ..Config::new(portal, String::from("127.0.0.1:3260"), 7, challenge) }
}

fn portal(targets: usize) -> Arc<Portal> {
    let target = |n: usize| Target {
        name: if n == 0 { TARGET.into() } else { format!("iqn.2026-01.invalid.example:other-{n}") },
        alias: None,
        addresses: if n == 0 { Vec::new() } else { vec![format!("[fd00::{n}]:3260"), format!("10.0.0.{n}:3260")] },
        moved: None,
        acl: if n == 2 { only("iqn.2026-01.invalid.example:else") } else { Acl::open() },
        luns: luns(SECTORS),
    };
    let away = vec!["iqn.2026-01.invalid.example:Away.".into()];
    Arc::new(Portal { group_tag: 1, targets: (0..targets).map(target).collect(), away })
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
        Self::with(config(portal))
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
            Op::OrWrite { sector, data } => {
                let from = (sector.get() * 512) as usize;
                self.disk[from..from + data.len()].iter_mut().zip(&data).for_each(|(to, from)| *to |= from);
                Completion::Done
            }
            Op::LbaStatus { sector, sectors, .. } => {
                Completion::Mapped(vec![MappedRun { sector, sectors, mapped: true }])
            }
            Op::Flush | Op::Control(_) | Op::Overwrite { .. } | Op::ExitFailureMode => Completion::Done,
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
