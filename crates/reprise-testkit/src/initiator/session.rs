//! A session in full feature phase.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::login::{LoggedIn, LoginOptions, Negotiated, login};
use super::pdu::{self, Header, NO_TAG, Pdu, op};
use super::{InitiatorError, Sense};

/// What a command moves.
#[derive(Debug, Clone)]
pub enum Data {
    /// Nothing.
    None,
    /// To the target.
    Out(Bytes),
    /// From the target, at most so many bytes.
    In(usize),
}

/// A command that ended with GOOD.
#[derive(Debug, Clone)]
pub struct Response {
    /// What came, shortened to what the target sent.
    pub data: Bytes,
}

type Answer = Result<Response, InitiatorError>;

struct Task {
    lun: u16,
    /// Data to the target.
    out: Bytes,
    /// Data from the target.
    read: Vec<u8>,
    received: usize,
    done: oneshot::Sender<Answer>,
}

enum Request {
    Scsi { cdb: [u8; 16], task: Task },
    Manage { function: u8, lun: u16, referenced: u32, done: oneshot::Sender<Answer> },
}

struct State {
    digests: bool,
    out: BytesMut,
    cmd_sn: u32,
    max_cmd_sn: u32,
    exp_stat_sn: u32,
    tasks: Vec<Option<Task>>,
    free: Vec<u32>,
    waiting: VecDeque<Request>,
    management: VecDeque<(u32, oneshot::Sender<Answer>)>,
    pings: VecDeque<oneshot::Sender<Answer>>,
    dead: Option<InitiatorError>,
}

struct Shared {
    state: Mutex<State>,
    write: Notify,
    negotiated: Negotiated,
}

/// A logged-in session. Clones share it; the connection is closed when the last is dropped.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
}

struct Tasks(JoinHandle<()>, JoinHandle<()>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.abort();
        self.1.abort();
    }
}

/// Commands in flight per session; more wait in the session.
const TASKS_MAX: usize = 128;
/// Tags from here on name task management requests and pings.
const MANAGE_TAG: u32 = 0x4000_0000;
const PING_TAG: u32 = 0x6000_0000;

impl Session {
    /// Connects and logs in. Must be called inside a tokio runtime, where the session's two tasks then live.
    pub async fn login(address: SocketAddr, options: &LoginOptions) -> Result<Self, InitiatorError> {
        let LoggedIn { stream, input, negotiated, cmd_sn, max_cmd_sn, exp_stat_sn } = login(address, options).await?;
        let (read, write) = stream.into_split();
        let state = State {
            digests: negotiated.digests,
            out: BytesMut::new(),
            cmd_sn,
            max_cmd_sn,
            exp_stat_sn,
            tasks: (0..TASKS_MAX).map(|_| None).collect(),
            free: (0..TASKS_MAX as u32).rev().collect(),
            waiting: VecDeque::new(),
            management: VecDeque::new(),
            pings: VecDeque::new(),
            dead: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), write: Notify::new(), negotiated });
        let reader = tokio::spawn(read_loop(shared.clone(), read, input));
        let writer = tokio::spawn(write_loop(shared.clone(), write));
        Ok(Self { shared, _tasks: Arc::new(Tasks(reader, writer)) })
    }

    /// What was agreed at login.
    pub fn negotiated(&self) -> Negotiated {
        self.shared.negotiated
    }

    /// Issues a command; it is in the queue when this returns, so that the order of calls is the order of CmdSN.
    pub fn command(&self, lun: u16, cdb: &[u8], data: Data) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let (done, answer) = oneshot::channel();
        let mut padded = [0u8; 16];
        let len = cdb.len().min(16);
        padded[..len].copy_from_slice(&cdb[..len]);
        let (out, read) = match data {
            Data::None => (Bytes::new(), Vec::new()),
            Data::Out(bytes) => (bytes, Vec::new()),
            Data::In(len) => (Bytes::new(), vec![0; len]),
        };
        self.request(Request::Scsi { cdb: padded, task: Task { lun, out, read, received: 0, done } });
        async { answer.await.unwrap_or(Err(InitiatorError::Closed)) }
    }

    /// LOGICAL UNIT RESET.
    pub async fn lun_reset(&self, lun: u16) -> Result<(), InitiatorError> {
        self.manage(5, lun, NO_TAG).await
    }

    /// ABORT TASK SET: all of this session's commands at the LUN.
    pub async fn abort_task_set(&self, lun: u16) -> Result<(), InitiatorError> {
        self.manage(2, lun, NO_TAG).await
    }

    /// ABORT TASK. If the target has done it, the command ends with [`InitiatorError::Aborted`].
    pub async fn abort_task(&self, lun: u16, tag: u32) -> Result<(), InitiatorError> {
        self.manage(1, lun, tag).await?;
        // A task that has been answered meanwhile is not known any more.
        let _ = self.shared.lock().finish(tag, |_| Err(InitiatorError::Aborted));
        Ok(())
    }

    /// Initiator task tags of the commands that were sent and not answered.
    pub fn tags_in_flight(&self) -> Vec<u32> {
        let state = self.shared.lock();
        state.tasks.iter().zip(0..).filter(|(task, _)| task.is_some()).map(|(_, tag)| tag).collect()
    }

    async fn manage(&self, function: u8, lun: u16, referenced: u32) -> Result<(), InitiatorError> {
        let (done, answer) = oneshot::channel();
        self.request(Request::Manage { function, lun, referenced, done });
        answer.await.unwrap_or(Err(InitiatorError::Closed)).map(drop)
    }

    /// Sends a NOP-Out and waits for its echo.
    pub async fn ping(&self) -> Result<(), InitiatorError> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(error) = &state.dead {
                return Err(error.clone());
            }
            let mut header = Header::new(op::NOP_OUT | op::IMMEDIATE, 0x80);
            header.put_u32(16, PING_TAG).put_u32(20, NO_TAG);
            state.pings.push_back(done);
            state.queue(&mut header, b"ping");
        }
        self.shared.write.notify_one();
        answer.await.unwrap_or(Err(InitiatorError::Closed)).map(drop)
    }

    /// Logs out: the target closes the connection.
    pub async fn logout(self) -> Result<(), InitiatorError> {
        {
            let mut state = self.shared.lock();
            let mut header = Header::new(op::LOGOUT | op::IMMEDIATE, 0x80);
            header.put_u32(16, MANAGE_TAG - 1);
            state.queue(&mut header, &[]);
        }
        let (done, answer) = oneshot::channel();
        self.shared.lock().management.push_back((MANAGE_TAG - 1, done));
        self.shared.write.notify_one();
        answer.await.unwrap_or(Err(InitiatorError::Closed)).map(drop)
    }

    fn request(&self, request: Request) {
        let mut state = self.shared.lock();
        if let Some(error) = state.dead.clone() {
            let (Request::Scsi { task: Task { done, .. }, .. } | Request::Manage { done, .. }) = request;
            let _ = done.send(Err(error));
            return;
        }
        state.waiting.push_back(request);
        state.issue(&self.shared.negotiated);
        drop(state);
        self.shared.write.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn die(&self, error: InitiatorError) {
        let mut state = self.lock();
        state.dead.get_or_insert(error.clone());
        let tasks: Vec<_> = state.tasks.iter_mut().filter_map(Option::take).map(|t| t.done).collect();
        let waiting = std::mem::take(&mut state.waiting).into_iter().map(|r| match r {
            Request::Scsi { task, .. } => task.done,
            Request::Manage { done, .. } => done,
        });
        let managed = std::mem::take(&mut state.management).into_iter().map(|m| m.1);
        let pings = std::mem::take(&mut state.pings);
        for done in tasks.into_iter().chain(waiting).chain(managed).chain(pings) {
            let _ = done.send(Err(error.clone()));
        }
    }
}

impl State {
    /// Numbers a header as immediate and queues it.
    fn queue(&mut self, header: &mut Header, data: &[u8]) {
        header.put_u32(24, self.cmd_sn).put_u32(28, self.exp_stat_sn);
        header.encode(data, self.digests, &mut self.out);
    }

    /// Issues what waits, as far as the window and the tags go.
    fn issue(&mut self, negotiated: &Negotiated) {
        while let Some(request) = self.waiting.front() {
            match request {
                Request::Scsi { .. } => {
                    let open = (self.max_cmd_sn.wrapping_sub(self.cmd_sn) as i32) >= 0;
                    if !open || self.free.is_empty() {
                        return;
                    }
                }
                Request::Manage { .. } => {}
            }
            match self.waiting.pop_front() {
                Some(Request::Scsi { cdb, task }) => self.issue_scsi(&cdb, task, negotiated),
                Some(Request::Manage { function, lun, referenced, done }) => {
                    let tag = MANAGE_TAG + self.management.len() as u32;
                    let mut header = Header::new(op::TASK_MANAGEMENT | op::IMMEDIATE, 0x80 | function);
                    header.lun(lun).put_u32(16, tag).put_u32(20, referenced);
                    self.management.push_back((tag, done));
                    self.queue(&mut header, &[]);
                }
                None => return,
            }
        }
    }

    fn issue_scsi(&mut self, cdb: &[u8; 16], task: Task, negotiated: &Negotiated) {
        let Some(tag) = self.free.pop() else { return };
        let out = task.out.clone();
        let (max_send, first_burst) = (negotiated.max_send as usize, negotiated.first_burst as usize);
        let unsolicited = out.len().min(first_burst);
        let immediate = if negotiated.immediate_data { unsolicited.min(max_send) } else { 0 };
        let more = !negotiated.initial_r2t && immediate < unsolicited;
        // Final, unless unsolicited Data-Out follows; R, W; SIMPLE.
        let flags = if more { 0 } else { 0x80 }
            | if task.read.is_empty() { 0 } else { 0x40 }
            | if out.is_empty() { 0 } else { 0x20 }
            | 1;
        let mut header = Header::new(op::SCSI_COMMAND, flags);
        let expected = out.len().max(task.read.len()) as u32;
        header.lun(task.lun).put_u32(16, tag).put_u32(20, expected).put(32, cdb);
        self.queue(&mut header, &out[..immediate]);
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        if more {
            self.data_out(tag, task.lun, NO_TAG, &out, immediate..unsolicited, max_send);
        }
        if let Some(slot) = self.tasks.get_mut(tag as usize) {
            *slot = Some(task);
        }
    }

    fn data_out(
        &mut self,
        tag: u32,
        lun: u16,
        target_tag: u32,
        out: &Bytes,
        range: std::ops::Range<usize>,
        max_send: usize,
    ) {
        let (mut at, mut data_sn) = (range.start, 0);
        while at < range.end {
            let end = range.end.min(at + max_send);
            let mut header = Header::new(op::DATA_OUT, if end == range.end { 0x80 } else { 0 });
            header.lun(lun).put_u32(16, tag).put_u32(20, target_tag);
            header.put_u32(28, self.exp_stat_sn).put_u32(36, data_sn).put_u32(40, at as u32);
            header.encode(&out[at..end], self.digests, &mut self.out);
            (at, data_sn) = (end, data_sn + 1);
        }
    }

    fn finish(&mut self, tag: u32, answer: impl FnOnce(&mut Task) -> Answer) -> Result<(), InitiatorError> {
        let task = self.tasks.get_mut(tag as usize).and_then(Option::take);
        let Some(mut task) = task else { return Err(InitiatorError::Protocol { what: "status for an unknown tag" }) };
        self.free.push(tag);
        let answer = answer(&mut task);
        let _ = task.done.send(answer);
        Ok(())
    }

    fn handle(&mut self, pdu: &Pdu, negotiated: &Negotiated) -> Result<(), InitiatorError> {
        let header = &pdu.header;
        let opcode = header.opcode();
        let tag = header.tag();
        let has_status = match opcode {
            op::DATA_IN => header.flags() & 1 != 0,
            op::R2T => false,
            op::NOP_IN => tag != NO_TAG,
            _ => true,
        };
        if has_status {
            self.exp_stat_sn = header.u32(24).wrapping_add(1);
        }
        let max_cmd_sn = header.u32(32);
        if (max_cmd_sn.wrapping_sub(self.max_cmd_sn) as i32) > 0 {
            self.max_cmd_sn = max_cmd_sn;
        }
        match opcode {
            op::SCSI_RESPONSE => {
                let (response, status) = (header.0[2], header.0[3]);
                let sense = pdu.data.get(2..).and_then(Sense::parse);
                self.finish(tag, |task| match (response, status) {
                    (0, 0) => Ok(task.take()),
                    (0, _) => Err(InitiatorError::Status { status, sense }),
                    _ => Err(InitiatorError::Target { response }),
                })?;
            }
            op::DATA_IN => self.data_in(pdu)?,
            op::R2T => self.r2t(header, negotiated)?,
            op::NOP_IN if tag != NO_TAG => {
                if let Some(done) = self.pings.pop_front() {
                    let _ = done.send(Ok(Response { data: pdu.data.clone() }));
                }
            }
            op::NOP_IN => {
                let mut answer = Header::new(op::NOP_OUT | op::IMMEDIATE, 0x80);
                answer.put(8, &header.0[8..16]).put_u32(16, NO_TAG).put_u32(20, header.u32(20));
                self.queue(&mut answer, &pdu.data);
            }
            op::TASK_MANAGEMENT_RESPONSE | op::LOGOUT_RESPONSE => {
                let response = header.0[2];
                let known = self.management.iter().position(|m| m.0 == tag);
                if let Some((_, done)) = known.and_then(|i| self.management.remove(i)) {
                    let failed = Err(InitiatorError::TaskManagement { response });
                    let _ = done.send(if response == 0 { Ok(Response { data: Bytes::new() }) } else { failed });
                }
            }
            op::REJECT => {
                let reason = header.0[2];
                let rejected = pdu.data.first_chunk::<{ pdu::BHS }>().map(|h| Header(*h).tag());
                match rejected {
                    Some(tag) => self.finish(tag, |_| Err(InitiatorError::Rejected { reason }))?,
                    None => return Err(InitiatorError::Rejected { reason }),
                }
            }
            op::ASYNC => {}
            _ => return Err(InitiatorError::Protocol { what: "PDU of an unknown or unexpected kind" }),
        }
        self.issue(negotiated);
        Ok(())
    }

    fn data_in(&mut self, pdu: &Pdu) -> Result<(), InitiatorError> {
        let header = &pdu.header;
        let tag = header.tag();
        let task = self.tasks.get_mut(tag as usize).and_then(Option::as_mut);
        let Some(task) = task else { return Err(InitiatorError::Protocol { what: "Data-In for an unknown tag" }) };
        let at = header.u32(40) as usize;
        let place = at.checked_add(pdu.data.len()).and_then(|end| task.read.get_mut(at..end));
        let Some(place) = place else { return Err(InitiatorError::Protocol { what: "Data-In outside of the buffer" }) };
        place.copy_from_slice(&pdu.data);
        task.received += pdu.data.len();
        if header.flags() & 1 != 0 {
            let status = header.0[3];
            self.finish(tag, |task| match status {
                0 => Ok(task.take()),
                status => Err(InitiatorError::Status { status, sense: None }),
            })?;
        }
        Ok(())
    }

    fn r2t(&mut self, header: &Header, negotiated: &Negotiated) -> Result<(), InitiatorError> {
        let tag = header.tag();
        let task = self.tasks.get(tag as usize).and_then(Option::as_ref);
        let Some(task) = task else { return Err(InitiatorError::Protocol { what: "R2T for an unknown tag" }) };
        let (lun, out) = (task.lun, task.out.clone());
        let (at, len) = (header.u32(40) as usize, header.u32(44) as usize);
        let end =
            at.checked_add(len).filter(|end| *end <= out.len() && len <= negotiated.max_burst as usize && len > 0);
        let Some(end) = end else { return Err(InitiatorError::Protocol { what: "R2T out of bounds" }) };
        self.data_out(tag, lun, header.u32(20), &out, at..end, negotiated.max_send as usize);
        Ok(())
    }
}

impl Task {
    fn take(&mut self) -> Response {
        let mut data = std::mem::take(&mut self.read);
        data.truncate(self.received);
        Response { data: data.into() }
    }
}

async fn read_loop(shared: Arc<Shared>, mut socket: OwnedReadHalf, mut input: BytesMut) {
    let result = async {
        loop {
            {
                let mut state = shared.lock();
                while let Some(pdu) = pdu::decode(&mut input, shared.negotiated.digests)? {
                    state.handle(&pdu, &shared.negotiated)?;
                }
                if !state.out.is_empty() {
                    shared.write.notify_one();
                }
            }
            if input.capacity() - input.len() < 16 << 10 {
                input.reserve(256 << 10);
            }
            if socket.read_buf(&mut input).await? == 0 {
                return Err::<(), _>(InitiatorError::Closed);
            }
        }
    }
    .await;
    if let Err(error) = result {
        shared.die(error);
    }
}

async fn write_loop(shared: Arc<Shared>, mut socket: OwnedWriteHalf) {
    let mut spare = BytesMut::new();
    loop {
        let out = {
            let mut state = shared.lock();
            spare.clear();
            std::mem::replace(&mut state.out, spare)
        };
        if out.is_empty() {
            spare = out;
            shared.write.notified().await;
            continue;
        }
        if let Err(error) = socket.write_all(&out).await {
            shared.die(error.into());
            return;
        }
        spare = out;
    }
}
