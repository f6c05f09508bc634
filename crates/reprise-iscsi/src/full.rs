//! Full feature phase: commands, data, NOPs, text and logout.

use bytes::Bytes;
use reprise_scsi::{Action, Cdb, DataOut, Payload, ScsiError, ScsiResponse, Status, Submit};
use reprise_types::{Mono, PoolBuf};

use crate::conn::{CloseReason, Connection, Output, PendingCommand, Phase, SessionType, TASKS_EXTRA, WINDOW_MAX};
use crate::discovery;
use crate::keys::{Negotiation, Params};
use crate::pdu::{Bhs, Reject, TAG_NONE, op, sn_before};
use crate::portal::Admission;
use crate::recv::{Dest, Then};
use crate::task::{R2t, State, Task, TaskTag};
use crate::text;

/// F bit of a SCSI Command: no unsolicited Data-Out follows.
const FINAL: u8 = 0x80;
/// R bit: data-in expected.
const READ: u8 = 0x40;
/// W bit: data-out expected.
const WRITE: u8 = 0x20;
/// O bit of answers: residual overflow.
const OVERFLOW: u8 = 0x04;
/// U bit of answers: residual underflow.
const UNDERFLOW: u8 = 0x02;
/// S bit of Data-In: status is in this PDU.
const STATUS: u8 = 0x01;

/// Overflow or underflow flag with the residual count.
fn residual(expected: u32, wanted: u64) -> (u8, u32) {
    let expected = u64::from(expected);
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    match wanted.cmp(&expected) {
        std::cmp::Ordering::Equal => (0, 0),
        std::cmp::Ordering::Greater => (OVERFLOW, count(wanted - expected)),
        std::cmp::Ordering::Less => (UNDERFLOW, count(expected - wanted)),
    }
}

/// Does the command say which way data go, if any do (RFC 7143, section 11.3.1)? No command of a disk moves data both ways.
fn announces_one_direction(bhs: &Bhs) -> bool {
    let (read, write) = (bhs.flags() & READ != 0, bhs.flags() & WRITE != 0);
    match (read, write) {
        (false, false) => bhs.get32(20) == 0,
        // The additional header has the expected length of the data-in.
        (true, true) => bhs.get32(20) == 0 && bhs.ahs_len() == 0,
        _ => true,
    }
}

/// Walks over the runs of a payload.
struct Runs<'a> {
    parts: &'a [Bytes],
    offset: usize,
}

impl Runs<'_> {
    /// The next run of at most `max` bytes, sharing the memory.
    fn next(&mut self, max: usize) -> Option<Bytes> {
        loop {
            let (first, rest) = self.parts.split_first()?;
            if self.offset < first.len() && max > 0 {
                let end = first.len().min(self.offset + max);
                let run = first.slice(self.offset..end);
                self.offset = end;
                return Some(run);
            }
            if max == 0 {
                return None;
            }
            (self.parts, self.offset) = (rest, 0);
        }
    }
}

impl Connection {
    fn params(&self) -> Params {
        match &self.phase {
            Phase::Full(session) => session.params,
            _ => Params::default(),
        }
    }

    /// True if the PDU's place in the command order has come. Immediate PDUs have no place. Duplicates and PDUs outside
    /// the window are ignored (RFC 7143, section 4.2.2.1). A gap cannot be filled by the only connection, which has to
    /// send in order: it ends the connection.
    fn in_order(&mut self, bhs: &Bhs) -> bool {
        if bhs.immediate() {
            return true;
        }
        let cmd_sn = bhs.get32(24);
        if cmd_sn == self.exp_cmd_sn && !sn_before(self.max_cmd_sn, cmd_sn) {
            self.exp_cmd_sn = cmd_sn.wrapping_add(1);
            return true;
        }
        let inside = sn_before(self.exp_cmd_sn, cmd_sn) && !sn_before(self.max_cmd_sn, cmd_sn);
        if inside {
            self.fail(bhs, Reject::Protocol);
        } else {
            self.remember_stray(bhs.itt());
        }
        false
    }

    pub(crate) fn begin_full(&mut self, now: Mono, bhs: &Bhs) -> (Dest, Then) {
        const NOTHING: (Dest, Then) = (Dest::Discard, Then::Nothing);
        let discovery = self.logged_in().is_some_and(|info| info.session_type == SessionType::Discovery);
        match bhs.opcode() {
            op::DATA_OUT => return self.begin_data_out(bhs),
            op::SNACK => {
                self.reject(bhs, Reject::Snack);
                return NOTHING;
            }
            op::SCSI_COMMAND | op::TMF_REQUEST if discovery => {
                self.fail(bhs, Reject::Protocol);
                return NOTHING;
            }
            op::LOGIN_REQUEST => {
                self.fail(bhs, Reject::Protocol);
                return NOTHING;
            }
            op::SCSI_COMMAND | op::TMF_REQUEST | op::TEXT_REQUEST | op::NOP_OUT | op::LOGOUT_REQUEST => {}
            _ => {
                self.reject(bhs, Reject::NotSupported);
                return NOTHING;
            }
        }
        if bhs.opcode() == op::NOP_OUT && bhs.itt() == TAG_NONE && !bhs.immediate() {
            self.fail(bhs, Reject::Protocol);
            return NOTHING;
        }
        if !self.in_order(bhs) {
            return NOTHING;
        }
        match bhs.opcode() {
            op::SCSI_COMMAND => self.begin_command(bhs),
            op::TMF_REQUEST => {
                self.task_management(now, bhs);
                NOTHING
            }
            _ => (Dest::Collect(Vec::new()), Then::Handle),
        }
    }

    fn begin_command(&mut self, bhs: &Bhs) -> (Dest, Then) {
        const NOTHING: (Dest, Then) = (Dest::Discard, Then::Nothing);
        let params = self.params();
        let (flags, expected, immediate) = (bhs.flags(), bhs.get32(20), bhs.data_len());
        let write = flags & WRITE != 0;
        let unsolicited_follows = flags & FINAL == 0;
        let broken = bhs.itt() == TAG_NONE
            || self.tasks.has_itt(bhs.itt())
            || (immediate > 0 && (!write || !params.immediate_data || immediate > params.first_burst))
            || immediate > if write { expected } else { 0 }
            || (unsolicited_follows && (!write || params.initial_r2t));
        if broken {
            self.fail(bhs, Reject::Protocol);
            return NOTHING;
        }
        if self.tasks.len() >= (WINDOW_MAX + TASKS_EXTRA) as usize {
            self.reject(bhs, Reject::TooManyImmediate);
            self.remember_stray(bhs.itt());
            return NOTHING;
        }
        let Phase::Full(session) = &mut self.phase else { return NOTHING };
        let Some(luns) = &session.luns else { return NOTHING };
        if !announces_one_direction(bhs) {
            let tag = self.add_task(bhs, State::Drain(ScsiResponse::error(&ScsiError::DataLength)), 0);
            return (Dest::Discard, Then::CommandData(tag));
        }
        match session.nexus.start(luns, bhs.lun(), &Cdb::new(bhs.cdb())) {
            Action::DataOut(out) if (!write && expected > 0) || !out.accepts(expected) => {
                // Nothing of it is done. The residual is what the command wanted and was not offered.
                let wanted = if write || expected == 0 { out.len() } else { 0 };
                let tag = self.add_task(bhs, State::Drain(ScsiResponse::error(&ScsiError::DataLength)), wanted);
                (Dest::Discard, Then::CommandData(tag))
            }
            Action::DataOut(out) if write && expected > 0 => {
                let len = out.buffer_len();
                self.pending = Some(PendingCommand { bhs: *bhs, out });
                self.outputs.push_back(Output::NeedBuffer { len });
                NOTHING
            }
            Action::DataOut(out) => {
                // The initiator offers nothing: the command gets nothing and the residual says so.
                let wanted = out.len();
                let action = out.finish(PoolBuf::unpooled(0), 0);
                let tag = self.add_task(bhs, State::Moving, wanted);
                self.act(tag, action);
                (Dest::Discard, Then::CommandData(tag))
            }
            Action::Respond(response) => {
                let tag = self.add_task(bhs, State::Drain(response), 0);
                (Dest::Discard, Then::CommandData(tag))
            }
            Action::Submit(submit) => {
                let tag = self.add_task(bhs, State::Moving, 0);
                self.act(tag, Action::Submit(submit));
                // The initiator may send data that the command has no use for.
                (Dest::Discard, Then::CommandData(tag))
            }
        }
    }

    /// `wanted` is the transfer length of a data-out command.
    fn add_task(&mut self, bhs: &Bhs, state: State, wanted: u32) -> TaskTag {
        let write = bhs.flags() & WRITE != 0;
        self.tasks.insert(Task {
            tag: TaskTag(0),
            itt: bhs.itt(),
            lun: bhs.lun(),
            volume: None,
            cmd_sn: bhs.get32(24),
            immediate: bhs.immediate(),
            expected: bhs.get32(20),
            write,
            state,
            wanted,
            unsolicited_open: bhs.flags() & FINAL == 0,
            next_offset: 0,
            unsolicited_data_sn: 0,
            received: 0,
            r2ts: [None; crate::task::R2TS_MAX],
            r2t_sn: 0,
            solicited: 0,
            aborting: false,
        })
    }

    /// The buffer of a write is there: its immediate data go into it.
    pub(crate) fn collect(&mut self, bhs: &Bhs, out: DataOut, buf: PoolBuf) -> (Dest, Then) {
        let (wanted, volume) = (out.len(), out.volume());
        let tag = self.add_task(bhs, State::Collect { out, buf }, wanted);
        let mut keep = 0;
        if let Some(task) = self.tasks.get_mut(tag) {
            task.volume = Some(volume);
            keep = bhs.data_len().min(wanted);
        }
        (Dest::Task { tag, offset: 0, keep }, Then::CommandData(tag))
    }

    /// The command PDU is complete with its immediate data.
    pub(crate) fn command_data(&mut self, tag: TaskTag, bhs: &Bhs) {
        if let Some(task) = self.tasks.get_mut(tag) {
            task.next_offset = bhs.data_len();
            task.received = bhs.data_len().min(task.wanted);
            task.solicited = task.received;
        }
        self.advance(tag);
    }

    fn begin_data_out(&mut self, bhs: &Bhs) -> (Dest, Then) {
        const NOTHING: (Dest, Then) = (Dest::Discard, Then::Nothing);
        let first_burst = self.params().first_burst;
        let (ttt, data_sn, offset, len) = (bhs.get32(20), bhs.get32(36), bhs.get32(40), bhs.data_len());
        let itt = bhs.itt();
        let Some(task) = self.tasks.by_itt_mut(itt) else {
            if !self.stray.contains(&itt) {
                self.reject(bhs, Reject::InvalidField);
            }
            return NOTHING;
        };
        let end = offset.checked_add(len).filter(|end| *end <= task.expected);
        let fits = if ttt == TAG_NONE {
            let within = end.is_some_and(|end| end <= first_burst);
            task.unsolicited_open && within && offset == task.next_offset && data_sn == task.unsolicited_data_sn
        } else {
            let r2t = task.r2ts.iter().flatten().find(|r2t| r2t.ttt == ttt);
            r2t.is_some_and(|r2t| {
                let complete = !bhs.final_bit() || end == Some(r2t.end);
                offset == r2t.next && data_sn == r2t.data_sn && end.is_some_and(|end| end <= r2t.end) && complete
            })
        };
        if !fits {
            let tag = task.tag;
            if matches!(task.state, State::Collect { .. } | State::Drain(_)) {
                // Wrong order or place: at level 0 nothing is asked for again, the command fails (RFC 7143, section
                // 7.9) and what else comes for it is swallowed.
                task.unsolicited_open = false;
                self.answer(tag, ScsiResponse::error(&ScsiError::ProtocolCrc));
                self.remember_stray(itt);
            } else {
                self.fail(bhs, Reject::Protocol);
            }
            return NOTHING;
        }
        let tag = task.tag;
        let keep = task.wanted.saturating_sub(offset).min(len);
        (Dest::Task { tag, offset, keep }, Then::DataOut(tag))
    }

    /// A Data-Out PDU is complete; its place was checked when it began.
    pub(crate) fn data_out_done(&mut self, tag: TaskTag, bhs: &Bhs) {
        let Some(task) = self.tasks.get_mut(tag) else { return };
        let (ttt, len) = (bhs.get32(20), bhs.data_len());
        if ttt == TAG_NONE {
            task.next_offset += len;
            task.unsolicited_data_sn = task.unsolicited_data_sn.wrapping_add(1);
            task.received = task.next_offset.min(task.wanted);
            task.solicited = task.received;
            if bhs.final_bit() {
                task.unsolicited_open = false;
            }
        } else if let Some(place) = task.r2ts.iter_mut().find(|r2t| r2t.is_some_and(|r2t| r2t.ttt == ttt))
            && let Some(r2t) = place
        {
            r2t.next += len;
            r2t.data_sn = r2t.data_sn.wrapping_add(1);
            task.received += len;
            if r2t.next == r2t.end {
                *place = None;
            }
        }
        self.advance(tag);
    }

    /// Does what a task that collects data needs next: nothing, R2Ts, or the command itself.
    fn advance(&mut self, tag: TaskTag) {
        let params = self.params();
        let Some(task) = self.tasks.get_mut(tag) else { return };
        if task.unsolicited_open {
            return;
        }
        let wanted = task.wanted.min(task.expected);
        let done = task.received >= wanted;
        match std::mem::replace(&mut task.state, State::Moving) {
            State::Drain(response) => self.answer(tag, response),
            State::Collect { out, buf } if done => {
                let received = task.received as usize;
                let action = out.finish(buf, received);
                self.act(tag, action);
            }
            state => {
                task.state = state;
                self.send_r2ts(tag, wanted, &params);
            }
        }
    }

    fn send_r2ts(&mut self, tag: TaskTag, wanted: u32, params: &Params) {
        loop {
            let ttt = self.fresh_ttt();
            let Some(task) = self.tasks.get_mut(tag) else { return };
            if task.solicited >= wanted || task.r2ts_outstanding() >= params.max_outstanding_r2t as usize {
                return;
            }
            let Some(place) = task.r2ts.iter_mut().find(|place| place.is_none()) else { return };
            let len = params.max_burst.min(wanted - task.solicited);
            *place = Some(R2t { ttt, next: task.solicited, end: task.solicited + len, data_sn: 0 });
            let mut bhs = Bhs::reply(op::R2T, 0x80, task.itt);
            bhs.0[8..16].copy_from_slice(&task.lun);
            bhs.set32(20, ttt);
            bhs.set32(36, task.r2t_sn);
            bhs.set32(40, task.solicited);
            bhs.set32(44, len);
            task.r2t_sn += 1;
            task.solicited += len;
            self.send_pdu(bhs, [], false);
        }
    }

    pub(crate) fn act(&mut self, tag: TaskTag, action: Action) {
        match action {
            Action::Respond(response) => self.answer(tag, response),
            Action::Submit(Submit { volume, op, then }) => {
                let Some(task) = self.tasks.get_mut(tag) else { return };
                task.volume = Some(volume);
                task.state = State::Submitted { then, writes: op.changes_content() };
                self.outputs.push_back(Output::Submit { tag, volume, op });
            }
            // Parameter data lead to an operation or an answer, never to more data.
            Action::DataOut(_) => self.answer(tag, ScsiResponse::error(&ScsiError::Internal)),
        }
    }

    /// Ends a task with its answer.
    pub(crate) fn answer(&mut self, tag: TaskTag, response: ScsiResponse) {
        let Some(task) = self.tasks.get_mut(tag) else { return };
        if task.unsolicited_open {
            // The initiator still sends; it gets its answer after the last PDU.
            task.state = State::Drain(response);
            return;
        }
        let Some(task) = self.tasks.remove(tag) else { return };
        let produced = response.data.len();
        let (flags, count) = if task.write {
            // Data-in of a command that was sent with the W bit has nowhere to go: of what was offered, nothing moved.
            let wanted = u64::from(task.wanted);
            residual(task.expected, if task.expected == 0 { wanted.max(produced) } else { wanted })
        } else if produced > 0 {
            residual(task.expected, produced)
        } else {
            residual(task.expected, u64::from(task.wanted))
        };
        let sendable = if task.write { 0 } else { produced.min(task.expected.into()) };
        if response.status == Status::Good && sendable > 0 {
            self.data_in(&task, &response.data, sendable, flags, count);
        } else {
            let mut bhs = Bhs::reply(op::SCSI_RESPONSE, 0x80 | flags, task.itt);
            bhs.0[3] = response.status as u8;
            bhs.set32(44, count);
            let sense = response.sense.map(|sense| {
                let mut data = vec![0, 18];
                data.extend_from_slice(&sense.fixed());
                Bytes::from(data)
            });
            self.send_pdu(bhs, sense, true);
        }
        if task.aborting {
            self.management_task_ended(tag);
        }
    }

    /// Data-In PDUs, the last one with the status in it.
    fn data_in(&mut self, task: &Task, data: &Payload, total: u64, flags: u8, count: u32) {
        let params = self.params();
        let mut runs = Runs { parts: data.parts(), offset: 0 };
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        let (mut offset, mut data_sn) = (0u32, 0u32);
        while offset < total {
            let burst_left = params.max_burst - offset % params.max_burst;
            let len = (total - offset).min(params.initiator_segment_max).min(burst_left);
            let last = offset + len == total;
            let ends_burst = last || len == burst_left;
            let mut bhs = Bhs::reply(op::DATA_IN, if ends_burst { 0x80 } else { 0 }, task.itt);
            bhs.set32(20, TAG_NONE);
            bhs.set32(36, data_sn);
            bhs.set32(40, offset);
            if last {
                bhs.0[1] |= STATUS | flags;
                bhs.set32(44, count);
            }
            let mut left = len as usize;
            let pieces = std::iter::from_fn(|| {
                let run = runs.next(left)?;
                left -= run.len();
                Some(run)
            });
            self.send_pdu(bhs, pieces, last);
            offset += len;
            data_sn += 1;
        }
    }

    /// NOP-Out, text and logout, with their data.
    pub(crate) fn handle_full(&mut self, now: Mono, bhs: &Bhs, data: Vec<u8>) {
        let _ = now;
        match bhs.opcode() {
            op::NOP_OUT if bhs.itt() == TAG_NONE => self.ping = self.ping.filter(|(ttt, _)| *ttt != bhs.get32(20)),
            op::NOP_OUT => {
                let mut echo = data;
                echo.truncate(self.params().initiator_segment_max as usize);
                self.send_nop_in(bhs.itt(), TAG_NONE, bhs.lun(), Bytes::from(echo));
            }
            op::TEXT_REQUEST => self.text_request(bhs, &data),
            op::LOGOUT_REQUEST => self.logout(bhs),
            _ => {}
        }
    }

    pub(crate) fn send_nop_in(&mut self, itt: u32, ttt: u32, lun: [u8; 8], data: Bytes) {
        let mut bhs = Bhs::reply(op::NOP_IN, 0x80, itt);
        bhs.0[8..16].copy_from_slice(&lun);
        bhs.set32(20, ttt);
        // StatSN counts only for answers, not for NOP-Ins of our own (RFC 7143, section 11.19).
        self.send_pdu(bhs, [data], itt != TAG_NONE);
    }

    fn logout(&mut self, bhs: &Bhs) {
        let mut reply = Bhs::reply(op::LOGOUT_RESPONSE, 0x80, bhs.itt());
        // Reasons: 0 close the session, 1 close the connection, 2 recover a connection, which level 0 does not.
        let ends = bhs.flags() & 0x7f < 2;
        reply.0[2] = if ends { 0 } else { 2 };
        self.send_pdu(reply, [], true);
        if ends {
            self.close(CloseReason::Logout);
        }
    }

    fn text_request(&mut self, bhs: &Bhs, data: &[u8]) {
        let ttt = bhs.get32(20);
        if ttt != TAG_NONE {
            // The initiator fetches the rest of a long answer.
            match self.text_out.take() {
                Some((expected, rest)) if expected == ttt && data.is_empty() => return self.text_reply(bhs, rest),
                _ if self.text_in.is_empty() => return self.reject(bhs, Reject::InvalidField),
                _ => {}
            }
        } else {
            self.text_out = None;
            self.text_in.clear();
        }
        if self.text_in.len() + data.len() > text::TEXT_BYTES_MAX {
            self.text_in.clear();
            return self.fail(bhs, Reject::Protocol);
        }
        self.text_in.extend_from_slice(data);
        if bhs.continue_bit() {
            if bhs.final_bit() {
                return self.fail(bhs, Reject::Protocol);
            }
            let mut reply = Bhs::reply(op::TEXT_RESPONSE, 0, bhs.itt());
            let ttt = self.fresh_ttt();
            reply.set32(20, ttt);
            return self.send_pdu(reply, [], true);
        }
        let request = std::mem::take(&mut self.text_in);
        match self.answer_text(&request) {
            Some(answer) => self.text_reply(bhs, Bytes::from(answer)),
            None => self.reject(bhs, Reject::Protocol),
        }
    }

    fn text_reply(&mut self, bhs: &Bhs, mut answer: Bytes) {
        let limit = self.params().initiator_segment_max as usize;
        let now = answer.split_to(answer.len().min(limit));
        let mut reply = Bhs::reply(op::TEXT_RESPONSE, 0x80, bhs.itt());
        reply.0[8..16].copy_from_slice(&bhs.lun());
        reply.set32(20, TAG_NONE);
        if !answer.is_empty() {
            let ttt = self.fresh_ttt();
            reply.0[1] = 0x40;
            reply.set32(20, ttt);
            self.text_out = Some((ttt, answer));
        }
        self.send_pdu(reply, [now], true);
    }

    fn answer_text(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let pairs = text::parse(request).ok()?;
        let mut out = Vec::new();
        let mut negotiation = Negotiation::again(self.params());
        for (key, value) in pairs {
            if key == "SendTargets" {
                self.send_targets(value, &mut out);
            } else {
                negotiation.offer(key, value, false, false, &mut out).ok()?;
            }
        }
        if let Phase::Full(session) = &mut self.phase {
            session.params = negotiation.finish();
        }
        Some(out)
    }

    fn send_targets(&self, value: &str, out: &mut Vec<u8>) {
        let Some(info) = self.logged_in() else { return };
        let wanted = match (info.session_type, value) {
            (SessionType::Discovery, "All") => None,
            (SessionType::Discovery, "") => return text::push(out, "SendTargets", "Reject"),
            (SessionType::Discovery, name) => Some(name),
            (SessionType::Normal, "All") => return text::push(out, "SendTargets", "Reject"),
            // In a normal session only the session's own target is told of.
            (SessionType::Normal, "") => info.target.as_deref(),
            (SessionType::Normal, name) if info.target.as_deref().is_some_and(|t| t.eq_ignore_ascii_case(name)) => {
                Some(name)
            }
            (SessionType::Normal, _) => return,
        };
        let portal = &self.config.portal;
        for target in &portal.targets {
            let asked_for = wanted.is_none_or(|name| target.name.eq_ignore_ascii_case(name));
            let admission = target.acl.admit(&info.initiator, self.config.from);
            if !asked_for || matches!(admission, Admission::Refused) {
                continue;
            }
            text::push(out, "TargetName", &target.name);
            for address in discovery::addresses(&self.config.local_address, &target.addresses) {
                text::push(out, "TargetAddress", &format!("{address},{}", portal.group_tag));
            }
        }
    }
}
