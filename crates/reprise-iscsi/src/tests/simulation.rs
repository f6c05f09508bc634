//! Two ends of a session in one thread, by seed: an initiator that keeps the rules against a connection, over a line that
//! cuts anywhere, breaks and corrupts, and a backend that reorders its completions and leaves some out for good.
//!
//! Checked after every step: a command is answered once and never after the function that aborted it; StatSN has no gap;
//! data read is data written; a function is answered within its time; an initiator that keeps the rules is never refused.

use std::collections::BTreeMap;

use super::*;

const SLOT_SECTORS: u64 = 64;
const SLOTS: u64 = 24;
const ABORT_MILLIS: u64 = 1000;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Write { slot: u64, sectors: u64, fill: u64 },
    Read { slot: u64, sectors: u64 },
    Flush,
    Abort { task: u32 },
    Reset,
    Nop,
}

#[derive(Debug)]
struct Asked {
    kind: Kind,
    data: Vec<u8>,
    /// Bytes of the stream to the target after which it has the whole request.
    sent_at: u64,
    /// When it had it.
    there: Option<Mono>,
    /// It has looked at it: what waits for a buffer holds up the bytes behind it.
    seen: bool,
}

/// An operation with the backend.
struct Work {
    /// Which connection asked; older ones are gone.
    session: u64,
    tag: TaskTag,
    op: Option<Op>,
    /// What a read saw; what a write did is on the disk.
    answer: Option<Completion>,
    stuck: bool,
}

#[derive(Default)]
struct Counts {
    answered: u64,
    aborted: u64,
    lost_sessions: u64,
    late: u64,
}

struct Sim {
    rng: Rng,
    now: Mono,
    conn: Connection,
    session: u64,
    params: keys::Params,
    /// Bytes on their way to the target, and how many went.
    tx: VecDeque<u8>,
    tx_total: u64,
    tx_taken: u64,
    rx: Vec<u8>,
    /// Data-Out and answers to pings, in order within each.
    streams: Vec<(u32, VecDeque<Vec<u8>>)>,
    asked: BTreeMap<u32, Asked>,
    next_itt: u32,
    cmd_sn: u32,
    max_cmd_sn: u32,
    stat_sn: u32,
    wanted: Option<u32>,
    work: Vec<Work>,
    disk: Vec<u64>,
    /// What each sector may hold: one value, or more after a write of which nobody knows.
    model: Vec<Vec<u64>>,
    fills: u64,
    corrupted: bool,
    closed: Option<CloseReason>,
    counts: Counts,
}

fn connection(rng: &mut Rng, now: Mono) -> Connection {
    let window = 1 + rng.below(12) as u32;
    let mut portal = portal(1);
    if rng.one_in(3) {
        let limit = Limit { commands_per_sec: std::num::NonZeroU32::new(5000), bytes_per_sec: None };
        let rule = Initiator { limit, ..Initiator::named(INITIATOR.into()) };
        Arc::make_mut(&mut portal).targets[0].acl = Acl { initiators: vec![Arc::new(rule)], others: false };
    }
    let times =
        Config { ping_interval_ms: 200, ping_timeout_ms: 100_000, abort_timeout_ms: ABORT_MILLIS, ..config(portal) };
    Connection::new(Config { window, ..times }, now)
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let now = Mono::from_millis(1000);
        let conn = connection(&mut rng, now);
        let sectors = (SLOTS * SLOT_SECTORS) as usize;
        let mut sim = Self {
            rng,
            now,
            conn,
            session: 0,
            params: keys::Params::default(),
            tx: VecDeque::new(),
            tx_total: 0,
            tx_taken: 0,
            rx: Vec::new(),
            streams: Vec::new(),
            asked: BTreeMap::new(),
            next_itt: 1,
            cmd_sn: 1,
            max_cmd_sn: 0,
            stat_sn: 0,
            wanted: None,
            work: Vec::new(),
            disk: vec![0; sectors],
            model: vec![vec![0]; sectors],
            fills: 0,
            corrupted: false,
            closed: None,
            counts: Counts::default(),
        };
        sim.log_in();
        sim
    }

    /// A new connection in the place of the old one; what was under way there is lost.
    fn reconnect(&mut self) {
        let lost: Vec<Asked> = std::mem::take(&mut self.asked).into_values().collect();
        lost.iter().for_each(|asked| self.unknown(asked.kind));
        self.counts.lost_sessions += 1;
        self.session += 1;
        self.conn = connection(&mut self.rng, self.now);
        self.tx.clear();
        (self.tx_total, self.tx_taken) = (0, 0);
        self.rx.clear();
        self.streams.clear();
        (self.wanted, self.closed, self.corrupted) = (None, None, false);
        self.params = keys::Params::default();
        self.log_in();
    }

    fn log_in(&mut self) {
        let yes = |b: bool| if b { "Yes" } else { "No" };
        let digest = |b: bool| if b { "CRC32C" } else { "None" };
        let both = self.rng.one_in(2);
        let pairs = [
            ("InitiatorName", INITIATOR.to_owned()),
            ("TargetName", TARGET.to_owned()),
            ("HeaderDigest", digest(both || self.rng.one_in(3)).to_owned()),
            ("DataDigest", digest(both || self.rng.one_in(3)).to_owned()),
            ("InitialR2T", yes(self.rng.one_in(2)).to_owned()),
            ("ImmediateData", yes(self.rng.one_in(2)).to_owned()),
            ("MaxBurstLength", (512 * (1 + self.rng.below(40))).to_string()),
            ("FirstBurstLength", (512 * (1 + self.rng.below(20))).to_string()),
            ("MaxRecvDataSegmentLength", (512 + self.rng.below(20_000)).to_string()),
            ("MaxOutstandingR2T", (1 + self.rng.below(5)).to_string()),
        ];
        let mut data = Vec::new();
        pairs.iter().for_each(|(key, value)| text::push(&mut data, key, value));
        let mut bhs = Bhs::reply(op::LOGIN_REQUEST | 0x40, 0x87, 0);
        self.cmd_sn = self.rng.draw() as u32;
        bhs.set32(24, self.cmd_sn);
        self.send(bhs, &data);
        while self.conn.logged_in().is_none() {
            self.transfer();
        }
        self.params = self.conn.logged_in().map(|info| info.params).unwrap();
        // The login response is the last PDU without digests.
        let params = std::mem::take(&mut self.params);
        self.collect(usize::MAX);
        let reply = Bhs::read(&self.rx).unwrap();
        assert_eq!((reply.opcode(), reply.get16(36)), (op::LOGIN_RESPONSE, 0));
        self.stat_sn = reply.get32(24).wrapping_add(1);
        self.max_cmd_sn = reply.get32(32);
        self.rx.drain(..BHS_LEN + reply.data_len() as usize + padding(reply.data_len()));
        self.params = params;
    }

    fn encode(&self, mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
        bhs.set_data_len(data.len() as u32);
        let mut bytes = bhs.0.to_vec();
        if self.params.header_digest {
            bytes.extend(crc32c(&[&bhs.0]));
        }
        bytes.extend_from_slice(data);
        let pad = vec![0; padding(data.len() as u32)];
        bytes.extend_from_slice(&pad);
        if self.params.data_digest && !data.is_empty() {
            bytes.extend(crc32c(&[data, &pad]));
        }
        bytes
    }

    fn send(&mut self, bhs: Bhs, data: &[u8]) {
        let bytes = self.encode(bhs, data);
        self.send_bytes(bytes);
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.tx_total += bytes.len() as u64;
        self.tx.extend(bytes);
    }

    fn data_of(fill: u64, sectors: u64) -> Vec<u8> {
        (0..sectors).flat_map(|n| (fill + n).to_le_bytes().repeat(64)).collect()
    }

    fn free_slot(&mut self) -> Option<u64> {
        let slot = self.rng.below(SLOTS);
        let uses =
            |asked: &Asked| matches!(asked.kind, Kind::Write { slot: s, .. } | Kind::Read { slot: s, .. } if s == slot);
        (!self.asked.values().any(uses)).then_some(slot)
    }

    /// Asks for something, as far as the window lets it.
    fn ask(&mut self) {
        if self.asked.values().any(|asked| asked.kind == Kind::Reset) {
            return;
        }
        let sectors = 1 + self.rng.below(SLOT_SECTORS);
        let kind = match self.rng.below(20) {
            0 => Kind::Flush,
            1 => Kind::Nop,
            2 => {
                let tasks = |asked: &Asked| matches!(asked.kind, Kind::Write { .. } | Kind::Read { .. } | Kind::Flush);
                let all: Vec<u32> = self.asked.iter().filter(|(_, asked)| tasks(asked)).map(|(itt, _)| *itt).collect();
                let aborted = |task| self.asked.values().any(|asked| asked.kind == Kind::Abort { task });
                let Some(task) = all.get(self.rng.below(8) as usize).copied() else { return };
                if aborted(task) {
                    return;
                }
                Kind::Abort { task }
            }
            3 if self.rng.one_in(4) => Kind::Reset,
            n => {
                let Some(slot) = self.free_slot() else { return };
                if n % 2 == 0 {
                    Kind::Read { slot, sectors }
                } else {
                    self.fills += 1000;
                    Kind::Write { slot, sectors, fill: self.fills }
                }
            }
        };
        self.issue(kind);
    }

    fn issue(&mut self, kind: Kind) {
        let immediate = matches!(kind, Kind::Abort { .. } | Kind::Reset | Kind::Nop);
        if !immediate && crate::pdu::sn_before(self.max_cmd_sn, self.cmd_sn) {
            return;
        }
        let itt = self.next_itt;
        self.next_itt += 1;
        let mut bhs = Bhs::reply(op::SCSI_COMMAND, 0x80, itt);
        let mut data = Vec::new();
        match kind {
            Kind::Nop => {
                bhs = Bhs::reply(op::NOP_OUT | 0x40, 0x80, itt);
                bhs.set32(20, TAG_NONE);
                data = vec![itt as u8; self.rng.below(300) as usize];
            }
            Kind::Abort { task } => {
                bhs = Bhs::reply(op::TMF_REQUEST | 0x40, 0x81, itt);
                bhs.set32(20, task);
            }
            Kind::Reset => bhs = Bhs::reply(op::TMF_REQUEST | 0x40, 0x85, itt),
            Kind::Flush => bhs.0[32] = 0x35,
            Kind::Read { slot, sectors } => {
                bhs.0[1] = 0xc0;
                bhs.set32(20, (sectors * 512) as u32);
                bhs.0[32..48].copy_from_slice(&read16((slot * SLOT_SECTORS) as u32, sectors as u32));
            }
            Kind::Write { slot, sectors, fill } => {
                bhs.0[1] = 0xa0;
                bhs.set32(20, (sectors * 512) as u32);
                bhs.0[32..48].copy_from_slice(&write16((slot * SLOT_SECTORS) as u32, sectors as u32));
                data = Self::data_of(fill, sectors);
            }
        }
        bhs.set32(24, self.cmd_sn);
        self.cmd_sn = self.cmd_sn.wrapping_add(u32::from(!immediate));
        if let Kind::Write { .. } = kind {
            let first = data.len().min(self.params.first_burst as usize);
            let at_once = if self.params.immediate_data { self.rng.below(first as u64 + 1) as usize } else { 0 };
            let burst = if self.params.initial_r2t { at_once } else { first };
            if burst > at_once {
                bhs.0[1] &= 0x7f;
                self.stream(itt, TAG_NONE, &data, at_once, burst);
            }
            self.send(bhs, &data[..at_once]);
        } else {
            self.send(bhs, &data);
        }
        self.asked.insert(itt, Asked { kind, data, sent_at: self.tx_total, there: None, seen: false });
    }

    /// Queues the Data-Out PDUs of one sequence.
    fn stream(&mut self, itt: u32, ttt: u32, data: &[u8], mut at: usize, end: usize) {
        let mut pdus = VecDeque::new();
        for data_sn in 0.. {
            let to = end.min(at + 1 + self.rng.below(9000) as usize);
            let mut bhs = Bhs::reply(op::DATA_OUT, if to == end { 0x80 } else { 0 }, itt);
            bhs.set32(20, ttt);
            bhs.set32(36, data_sn);
            bhs.set32(40, at as u32);
            pdus.push_back(self.encode(bhs, &data[at..to]));
            at = to;
            if at == end {
                break;
            }
        }
        self.streams.push((itt, pdus));
    }

    /// A write may or may not be on the disk.
    fn unknown(&mut self, kind: Kind) {
        if let Kind::Write { slot, sectors, fill } = kind {
            for n in 0..sectors {
                self.model[(slot * SLOT_SECTORS + n) as usize].push(fill + n);
            }
        }
    }

    /// Moves some bytes towards the target.
    fn transfer(&mut self) {
        let mut left = 1 + self.rng.below(20_000) as usize;
        while left > 0 && !self.tx.is_empty() {
            let (mut taken, most) = (0, left.min(1 + self.rng.below(6000) as usize));
            match self.conn.recv_target() {
                RecvTarget::Staging(to) | RecvTarget::Payload(to) => {
                    for place in to.iter_mut().take(most) {
                        let Some(byte) = self.tx.pop_front() else { break };
                        *place = byte;
                        taken += 1;
                    }
                }
                RecvTarget::Blocked | RecvTarget::Closed => break,
            }
            self.conn.received(self.now, taken);
            self.tx_taken += taken as u64;
            left -= taken.min(left);
            self.outputs();
        }
        for asked in self.asked.values_mut().filter(|asked| asked.sent_at <= self.tx_taken) {
            asked.there.get_or_insert(self.now);
        }
    }

    fn outputs(&mut self) {
        while let Some(output) = self.conn.poll_output() {
            match output {
                Output::NeedBuffer { len } => self.wanted = Some(len),
                Output::Admit { .. } => {
                    let at = self.now.plus_millis(self.rng.below(3) * self.rng.below(20));
                    self.conn.admit(self.now, at);
                }
                Output::Submit { tag, op, volume } => {
                    assert_eq!(volume, VolumeId::from_raw([1; 16]));
                    let stuck = self.rng.one_in(12);
                    self.work.push(Work { session: self.session, tag, op: Some(op), answer: None, stuck });
                }
                Output::Close(reason) => self.closed = Some(reason),
                Output::Abort { .. } | Output::LoggedIn(_) | Output::Reset { .. } => {}
            }
        }
    }

    /// Carries out everything up to `index`, in the order in which it was submitted.
    fn carry_out(&mut self, index: usize) {
        for work in &mut self.work[..=index] {
            let Some(op) = work.op.take() else { continue };
            work.answer = Some(match op {
                Op::Write { sector, data, .. } => {
                    for (n, sector_bytes) in data.chunks(512).enumerate() {
                        let (first, rest) = sector_bytes.split_at(8);
                        assert!(rest.chunks(8).all(|eight| eight == first), "a sector is torn");
                        self.disk[sector.get() as usize + n] = u64::from_le_bytes(first.try_into().unwrap());
                    }
                    Completion::Done
                }
                Op::Read { sector, sectors } => {
                    let from = sector.get() as usize;
                    let fills = &self.disk[from..from + sectors.get() as usize];
                    Completion::Data(fills.iter().flat_map(|fill| fill.to_le_bytes().repeat(64)).collect())
                }
                Op::Flush => Completion::Done,
                other => panic!("{other:?} was never asked for"),
            });
        }
    }

    fn complete(&mut self, index: usize) {
        self.carry_out(index);
        let work = self.work.remove(index);
        if work.session != self.session {
            self.counts.late += 1;
            return;
        }
        self.conn.complete(self.now, work.tag, work.answer.expect("it was carried out"));
        self.outputs();
    }

    /// Takes bytes the target sends.
    fn collect(&mut self, most: usize) {
        let mut taken = 0;
        {
            let mut slices = [IoSlice::new(&[]); 6];
            let count = self.conn.gather(&mut slices);
            for slice in &slices[..count] {
                let part = slice.len().min(most - taken);
                self.rx.extend_from_slice(&slice[..part]);
                taken += part;
            }
        }
        self.conn.sent(self.now, taken);
        self.outputs();
    }

    fn receive(&mut self) {
        let most = 1 + self.rng.below(30_000) as usize;
        self.collect(most);
        loop {
            let Some(bhs) = Bhs::read(&self.rx) else { return };
            let len = bhs.data_len();
            let at = BHS_LEN + if self.params.header_digest { 4 } else { 0 };
            let padded = len as usize + padding(len);
            let end = at + padded + if self.params.data_digest && len > 0 { 4 } else { 0 };
            if self.rx.len() < end {
                return;
            }
            let pdu: Vec<u8> = self.rx.drain(..end).collect();
            if self.params.header_digest {
                assert_eq!(pdu[BHS_LEN..at], crc32c(&[&bhs.0]));
            }
            if end > at + padded {
                assert_eq!(pdu[at + padded..], crc32c(&[&pdu[at..at + padded]]));
            }
            self.take(&bhs, &pdu[at..at + len as usize]);
        }
    }

    fn take(&mut self, bhs: &Bhs, data: &[u8]) {
        let counts = match bhs.opcode() {
            op::DATA_IN => bhs.flags() & 1 != 0,
            op::NOP_IN => bhs.itt() != TAG_NONE,
            op::R2T => false,
            _ => true,
        };
        if counts {
            assert_eq!(bhs.get32(24), self.stat_sn, "StatSN");
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        if crate::pdu::sn_before(self.max_cmd_sn, bhs.get32(32)) {
            self.max_cmd_sn = bhs.get32(32);
        }
        let itt = bhs.itt();
        match bhs.opcode() {
            op::NOP_IN if itt == TAG_NONE => {
                if bhs.get32(20) != TAG_NONE {
                    let mut pong = Bhs::reply(op::NOP_OUT | 0x40, 0x80, TAG_NONE);
                    pong.set32(20, bhs.get32(20));
                    pong.set32(24, self.cmd_sn);
                    self.send(pong, &[]);
                }
            }
            op::NOP_IN => {
                let asked = self.answered(itt);
                assert!(asked.kind == Kind::Nop && data == asked.data);
            }
            op::R2T => {
                let asked = self.asked.get(&itt).unwrap_or_else(|| panic!("R2T for task {itt}, which has ended"));
                let (at, len) = (bhs.get32(40) as usize, bhs.get32(44) as usize);
                assert!(len > 0 && len <= self.params.max_burst as usize && at + len <= asked.data.len());
                let data = asked.data.clone();
                self.stream(itt, bhs.get32(20), &data, at, at + len);
                let waiting = self.streams.iter().filter(|(task, pdus)| *task == itt && !pdus.is_empty()).count();
                assert!(waiting <= self.params.max_outstanding_r2t as usize + 1);
            }
            op::DATA_IN => {
                let asked = self.asked.get_mut(&itt).unwrap_or_else(|| panic!("data for task {itt}, which has ended"));
                assert!(data.len() <= self.params.initiator_segment_max as usize);
                assert_eq!(bhs.get32(40) as usize, asked.data.len(), "offset");
                asked.data.extend_from_slice(data);
                if bhs.flags() & 1 != 0 {
                    let asked = self.answered(itt);
                    self.check_read(&asked);
                }
            }
            op::SCSI_RESPONSE => {
                let asked = self.answered(itt);
                match (bhs.byte(3), asked.kind) {
                    (0, Kind::Write { slot, sectors, fill }) => {
                        for n in 0..sectors {
                            self.model[(slot * SLOT_SECTORS + n) as usize] = vec![fill + n];
                        }
                    }
                    (0, Kind::Flush) => {}
                    // Not carried out: the unit was reset before.
                    (2, _) => assert_eq!(data[2 + 2] & 15, 6, "{asked:?}: {data:?}"),
                    other => panic!("{other:?}"),
                }
            }
            op::TMF_RESPONSE => {
                let asked = self.answered(itt);
                match (asked.kind, bhs.byte(2)) {
                    (Kind::Abort { task }, 0) => self.gone(&[task]),
                    (Kind::Abort { task }, 1) => {
                        assert!(!self.asked.contains_key(&task), "it is there, and no answer came")
                    }
                    (Kind::Reset, 0) => {
                        let tasks = |asked: &Asked| !matches!(asked.kind, Kind::Abort { .. } | Kind::Nop);
                        let all: Vec<u32> =
                            self.asked.iter().filter(|(_, asked)| tasks(asked)).map(|(itt, _)| *itt).collect();
                        self.gone(&all);
                    }
                    other => panic!("{other:?}"),
                }
            }
            op::REJECT => assert!(self.corrupted, "an initiator that keeps the rules is rejected: {bhs:?}"),
            other => panic!("PDU {other:#x}"),
        }
    }

    fn answered(&mut self, itt: u32) -> Asked {
        self.counts.answered += 1;
        self.asked.remove(&itt).unwrap_or_else(|| panic!("task {itt} has no right to an answer"))
    }

    /// These were aborted: no answer may come any more.
    fn gone(&mut self, tasks: &[u32]) {
        for task in tasks {
            if let Some(asked) = self.asked.remove(task) {
                self.unknown(asked.kind);
                self.counts.aborted += 1;
            }
            // A sequence that has begun goes on to its end; what has not is never sent.
            self.streams.retain(|(itt, _)| itt != task);
        }
    }

    fn check_read(&mut self, asked: &Asked) {
        let Kind::Read { slot, sectors } = asked.kind else { panic!("{asked:?}") };
        assert_eq!(asked.data.len() as u64, sectors * 512);
        for (n, bytes) in asked.data.chunks(512).enumerate() {
            let fill = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let may = &mut self.model[slot as usize * SLOT_SECTORS as usize + n];
            assert!(bytes.chunks(8).all(|eight| eight == &bytes[..8]), "a sector is torn");
            assert!(may.contains(&fill), "sector {n} of slot {slot} holds {fill}, and may hold {may:?}");
            *may = vec![fill];
        }
    }

    fn step(&mut self, quiet: bool) {
        self.now = self.now.plus_millis(self.rng.below(4) * self.rng.below(6));
        if self.conn.next_deadline().is_some_and(|at| at <= self.now) {
            self.conn.tick(self.now);
            self.outputs();
        }
        match self.rng.below(10) {
            0 | 1 if !quiet && self.asked.len() < 10 => self.ask(),
            2 | 3 => {
                let at = self.rng.below(self.streams.len().max(1) as u64) as usize;
                if let Some((_, pdus)) = self.streams.get_mut(at) {
                    let next = pdus.pop_front();
                    let empty = pdus.is_empty();
                    next.into_iter().for_each(|bytes| self.send_bytes(bytes));
                    if empty {
                        self.streams.remove(at);
                    }
                }
            }
            4 | 5 => self.transfer(),
            6 | 7 => self.receive(),
            8 => {
                if let Some(len) = self.wanted.take() {
                    self.conn.grant_buffer(self.now, PoolBuf::unpooled(len as usize));
                    self.outputs();
                }
            }
            _ => {
                let index = self.rng.below(self.work.len().max(1) as u64) as usize;
                match self.work.get(index) {
                    Some(work) if !work.stuck => self.complete(index),
                    // It takes effect, and nobody ever says so.
                    Some(_) if self.rng.one_in(4) => self.carry_out(index),
                    _ => {}
                }
            }
        }
        self.check_functions();
        if self.closed.is_some() {
            assert!(self.corrupted, "the session was ended: {:?}", self.closed);
            self.reconnect();
        } else if !quiet && self.rng.one_in(700) {
            self.reconnect();
        } else if !quiet && self.params.header_digest && self.params.data_digest && self.rng.one_in(900) {
            let at = self.rng.below(self.tx.len().max(1) as u64) as usize;
            if let Some(byte) = self.tx.get_mut(at) {
                *byte ^= 1 << self.rng.below(8);
                self.corrupted = true;
            }
        } else if !quiet && self.rng.one_in(200) {
            let window = 1 + self.rng.below(16) as u32;
            self.conn.set_command_window(window);
        }
    }

    /// Once the target has a function and everything it wanted to send is out, the function is in time or answered.
    fn check_functions(&mut self) {
        let blocked = self.conn.is_blocked();
        for asked in self.asked.values_mut().filter(|a| !a.seen) {
            if let Some(there) = &mut asked.there {
                asked.seen = !blocked;
                *there = self.now;
            }
        }
        if self.conn.send_pending() > 0 || self.rx.len() >= BHS_LEN {
            return;
        }
        let functions = |asked: &&Asked| matches!(asked.kind, Kind::Abort { .. } | Kind::Reset);
        for asked in self.asked.values().filter(functions) {
            // A buffer that is not granted holds up what follows it.
            let waited = asked.there.filter(|_| !self.conn.is_blocked()).map(|there| self.now.millis_since(there));
            assert!(waited.is_none_or(|waited| waited <= ABORT_MILLIS + 100), "{asked:?} waits for {waited:?} ms");
        }
    }

    /// Aborts what the backend has left out, and lets everything else end.
    fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 60_000, "it does not come to an end: {:?}", self.asked);
            if self.asked.is_empty() {
                break;
            }
            let functions = |asked: &Asked| matches!(asked.kind, Kind::Abort { .. } | Kind::Reset);
            if round % 3000 == 2999 && !self.asked.values().any(functions) {
                self.issue(Kind::Reset);
            }
            self.step(true);
        }
        for slot in 0..SLOTS {
            self.issue(Kind::Read { slot, sectors: SLOT_SECTORS });
            for round in 0.. {
                self.work.iter_mut().for_each(|work| work.stuck &= work.session != self.session);
                if self.asked.is_empty() {
                    break;
                }
                assert!(round < 60_000, "slot {slot} is not read");
                self.step(true);
            }
        }
        // Whatever is left with the backend ends after its task: nobody is told.
        let before = self.conn.send_pending();
        while !self.work.is_empty() {
            self.complete(0);
        }
        assert_eq!(self.conn.send_pending(), before);
    }
}

#[test]
fn sessions_keep_data_and_promises_over_a_bad_line_and_a_bad_backend() {
    let mut all = Counts::default();
    for seed in 0..50 {
        println!("seed {seed}");
        let mut sim = Sim::new(seed);
        for _ in 0..3000 {
            sim.step(false);
        }
        sim.finish();
        let counts = sim.counts;
        all.answered += counts.answered;
        all.aborted += counts.aborted;
        all.lost_sessions += counts.lost_sessions;
        all.late += counts.late;
    }
    // What the rules are about has happened often.
    assert!(all.answered > 5000 && all.aborted > 300 && all.lost_sessions > 100 && all.late > 30);
}
