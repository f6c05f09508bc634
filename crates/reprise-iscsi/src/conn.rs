//! One connection, which is one session: configuration, inputs and outputs.

use core::net::IpAddr;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use reprise_scsi::{Completion, LunMap, LunNumber, Nexus, Op, UnitAttention};
use reprise_types::{InitiatorPort, Mono, PoolBuf, VolumeId};

use crate::chap::Challenge;
use crate::keys::Params;
use crate::limit::Limit;
use crate::login::Login;
use crate::pdu::{Bhs, Reject, TAG_NONE, op, sn_before};
use crate::portal::Portal;
use crate::recv::{Cut, Dest, Receiver, Segment, Then};
use crate::send::SendQueue;
use crate::task::{State, TaskTag, Tasks};
use crate::tmf::Pending;

/// Largest command window: 512 tasks of one session. More only hides a queue inside the target.
pub const WINDOW_MAX: u32 = 512;
/// Immediate commands beyond the window; above, they are rejected (too many immediate commands).
pub const TASKS_EXTRA: u32 = 16;
/// Bytes queued for sending at which nothing more is read: an initiator that sends but does not receive cannot make
/// the queue grow beyond this and the reads that are already under way.
pub const OUT_QUEUE_BYTES_MAX: u64 = 4 << 20;

/// Settings of a connection, fixed when it is accepted.
#[derive(Debug, Clone)]
pub struct Config {
    /// What the portal offers.
    pub portal: Arc<Portal>,
    /// `host:port` the initiator connected to, for SendTargets of targets without addresses.
    pub local_address: String,
    /// Where the initiator is, for rules about addresses.
    pub from: Option<IpAddr>,
    /// The challenge of this connection: random, and used by no other.
    pub challenge: Challenge,
    /// TSIH of the session, not 0 and used by no other session of the portal group.
    pub tsih: u16,
    /// Command window; an initiator with a limit may have a smaller one.
    pub window: u32,
    /// Milliseconds a login may take.
    pub login_timeout_ms: u64,
    /// Milliseconds of silence after which we ask with a NOP-In.
    pub ping_interval_ms: u64,
    /// Milliseconds the answer may take. A host that is busy for a minute keeps its session.
    pub ping_timeout_ms: u64,
    /// Milliseconds after which a task management function is answered even if a write has not completed.
    pub abort_timeout_ms: u64,
    /// What every unit tells a fresh session first.
    pub attention: Option<UnitAttention>,
}

impl Config {
    /// Settings with the usual times, for an initiator whose address is not known.
    pub fn new(portal: Arc<Portal>, local_address: String, tsih: u16, challenge: Challenge) -> Self {
        Self {
            portal,
            local_address,
            from: None,
            challenge,
            tsih,
            window: 128,
            login_timeout_ms: 15_000,
            ping_interval_ms: 30_000,
            ping_timeout_ms: 40_000,
            abort_timeout_ms: 1_000,
            attention: Some(UnitAttention::PowerOn),
        }
    }
}

/// Kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionType {
    /// Only SendTargets and logout.
    Discovery,
    /// Carries SCSI commands.
    Normal,
}

/// Who logged in. The owner of the connections closes an older session with the same initiator, ISID and target
/// (session reinstatement, RFC 7143, section 6.3.5) before it treats any output of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// Kind of session.
    pub session_type: SessionType,
    /// InitiatorName.
    pub initiator: String,
    /// InitiatorAlias, if given.
    pub initiator_alias: Option<String>,
    /// TargetName; none in a discovery session.
    pub target: Option<String>,
    /// Initiator part of the session identifier.
    pub isid: [u8; 6],
    /// Target part.
    pub tsih: u16,
    /// What was agreed on.
    pub params: Params,
    /// The CHAP name that was proved; none where no proof was asked for.
    pub chap_user: Option<String>,
    /// How much the initiator may do, all its sessions together.
    pub limit: Limit,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The initiator logged out.
    Logout,
    /// Login refused with this status class and detail.
    LoginFailed {
        /// Status-Class in the high byte, Status-Detail in the low one.
        status: u16,
    },
    /// Login took too long.
    LoginTimeout,
    /// No answer to our NOP-In.
    PingTimeout,
    /// A header digest did not match.
    HeaderDigest,
    /// The initiator broke the protocol; the PDU was rejected with this reason.
    Protocol(Reject),
    /// The target was reset (TARGET COLD RESET).
    ColdReset,
    /// A newer session of the same initiator took over.
    Reinstated,
    /// The owner asked for it.
    Shutdown,
}

/// What a reset reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetScope {
    /// One unit.
    Unit {
        /// Its number.
        lun: LunNumber,
        /// Its volume.
        volume: VolumeId,
    },
    /// All units of the target.
    Target,
}

/// What the connection asks of its owner.
#[derive(Debug)]
pub enum Output {
    /// Carry out; answer with [`Connection::complete`]. Writes are in the order in which they count.
    Submit {
        /// The task.
        tag: TaskTag,
        /// The volume.
        volume: VolumeId,
        /// What to do.
        op: Op,
    },
    /// A buffer of this many bytes is needed; answer with [`Connection::grant_buffer`]. Nothing is read until then.
    NeedBuffer {
        /// Bytes.
        len: u32,
    },
    /// The result of this task no longer matters. Never said of a write.
    Abort {
        /// The task.
        tag: TaskTag,
    },
    /// The login is complete.
    LoggedIn(LoggedIn),
    /// A command of an initiator with a limit wants to begin, and moves so many bytes; answer with
    /// [`Connection::admit`]. Nothing is read until then.
    Admit {
        /// Bytes.
        bytes: u32,
    },
    /// A reset or CLEAR TASK SET of this session concerns the target's other sessions too: call
    /// [`Connection::external_reset`] on each.
    Reset {
        /// What it reaches.
        scope: ResetScope,
        /// What the other sessions tell their initiators.
        attention: UnitAttention,
        /// The other sessions are to be closed as well.
        cold: bool,
    },
    /// All that had to be sent was sent: close the socket.
    Close(CloseReason),
}

pub(crate) struct Session {
    pub info: LoggedIn,
    pub params: Params,
    pub nexus: Nexus,
    pub luns: Option<LunMap>,
}

pub(crate) enum Phase {
    Login(Box<Login>),
    Full(Box<Session>),
    Closing(CloseReason),
}

/// A command that waits for its buffer.
pub(crate) struct PendingCommand {
    pub bhs: Bhs,
    pub out: reprise_scsi::DataOut,
}

/// Whether the next command may begin, in a session with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permit {
    /// Nobody asked yet.
    NotAsked,
    /// The owner was asked.
    Asked,
    /// Not before this time.
    Later(Mono),
    /// One may.
    Given,
}

/// A connection from accept to close.
pub struct Connection {
    pub(crate) config: Config,
    pub(crate) phase: Phase,
    pub(crate) receiver: Receiver,
    pub(crate) send: SendQueue,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) tasks: Tasks,
    pub(crate) pending: Option<PendingCommand>,
    pub(crate) management: Vec<Pending>,
    pub(crate) window: u32,
    pub(crate) stat_sn: u32,
    pub(crate) exp_cmd_sn: u32,
    pub(crate) max_cmd_sn: u32,
    pub(crate) next_ttt: u32,
    pub(crate) last_received: Mono,
    pub(crate) ping: Option<(u32, Mono)>,
    pub(crate) started: Mono,
    /// Commands need a permit.
    pub(crate) limited: bool,
    pub(crate) permit: Permit,
    /// The initiator was asked to log out until then.
    logout_by: Option<Mono>,
    /// ITTs whose late Data-Out is expected and dropped: aborted tasks and ignored commands.
    pub(crate) stray: VecDeque<u32>,
    pub(crate) text_in: Vec<u8>,
    pub(crate) text_out: Option<(u32, Bytes)>,
    closed: bool,
}

/// Late Data-Out is recognised for this many ended tasks; older ones are rejected, which harms nobody.
const STRAY_MAX: usize = 64;

impl Connection {
    /// A connection that was just accepted.
    pub fn new(config: Config, now: Mono) -> Self {
        let window = config.window.clamp(1, WINDOW_MAX);
        Self {
            config,
            phase: Phase::Login(Box::default()),
            receiver: Receiver::new(),
            send: SendQueue::default(),
            outputs: VecDeque::new(),
            tasks: Tasks::default(),
            pending: None,
            management: Vec::new(),
            window,
            stat_sn: 0,
            exp_cmd_sn: 0,
            max_cmd_sn: 0,
            next_ttt: 0,
            last_received: now,
            ping: None,
            started: now,
            limited: false,
            permit: Permit::NotAsked,
            logout_by: None,
            stray: VecDeque::new(),
            text_in: Vec::new(),
            text_out: None,
            closed: false,
        }
    }

    /// The next thing to do; call until there is none.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        match self.phase {
            Phase::Closing(reason) if !self.closed && self.send.bytes() == 0 => {
                self.closed = true;
                Some(Output::Close(reason))
            }
            _ => None,
        }
    }

    /// Fills `slices` with bytes to send, in order, and returns how many were filled; follow with [`Self::sent`].
    pub fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.send.gather(slices)
    }

    /// Bytes that wait to be sent.
    pub fn send_pending(&self) -> u64 {
        self.send.bytes()
    }

    /// `count` bytes of what [`Self::gather`] gave were sent.
    pub fn sent(&mut self, now: Mono, count: usize) {
        let blocked = self.is_blocked();
        self.send.sent(count);
        if blocked && !self.is_blocked() {
            self.process(now);
        }
    }

    /// The buffer asked for by [`Output::NeedBuffer`], at least that long.
    pub fn grant_buffer(&mut self, now: Mono, buf: PoolBuf) {
        let Some(PendingCommand { bhs, out }) = self.pending.take() else { return };
        if matches!(self.phase, Phase::Full(_)) {
            let (dest, then) = self.collect(&bhs, out, buf);
            self.start_segment(bhs, dest, then);
        }
        self.process(now);
    }

    /// A submitted operation has ended. A tag that is not known any more is ignored.
    pub fn complete(&mut self, now: Mono, tag: TaskTag, completion: Completion) {
        let _ = now;
        let Some(task) = self.tasks.get_mut(tag) else { return };
        let State::Submitted { then, .. } = std::mem::replace(&mut task.state, State::Moving) else { return };
        self.act(tag, then.complete(completion));
    }

    /// Sets how many commands may be under way; takes effect with the next PDU sent.
    pub fn set_command_window(&mut self, window: u32) {
        let was_closed = sn_before(self.max_cmd_sn, self.exp_cmd_sn);
        let limit = self.logged_in().map_or_else(Limit::default, |info| info.limit);
        self.config.window = window.min(WINDOW_MAX);
        self.window = if window == 0 { 0 } else { limit.window(self.config.window) };
        self.update_window();
        let opened = was_closed && !sn_before(self.max_cmd_sn, self.exp_cmd_sn);
        if opened && self.tasks.len() == 0 && matches!(self.phase, Phase::Full(_)) {
            // No answer is due that would tell it.
            self.send_nop_in(TAG_NONE, TAG_NONE, [0; 8], Bytes::new());
        }
    }

    /// When the command that [`Output::Admit`] was about may begin.
    pub fn admit(&mut self, now: Mono, at: Mono) {
        if self.permit == Permit::Asked {
            self.permit = if at <= now { Permit::Given } else { Permit::Later(at) };
            self.process(now);
        }
    }

    /// Puts a limit on the session or takes it away.
    pub fn set_limit(&mut self, now: Mono, limit: Limit) {
        let Phase::Full(session) = &mut self.phase else { return };
        session.info.limit = limit;
        self.limited = !limit.is_none();
        self.set_command_window(self.config.window);
        if !self.limited {
            self.outputs.retain(|output| !matches!(output, Output::Admit { .. }));
            self.permit = Permit::NotAsked;
            self.process(now);
        }
    }

    /// Asks the initiator to log out within so many seconds (asynchronous message 1, RFC 7143, section 11.9.1); after
    /// them the connection ends. One that has not logged in yet ends at once.
    pub fn request_logout(&mut self, now: Mono, secs: u16) {
        match self.phase {
            Phase::Login(_) => self.close(CloseReason::Shutdown),
            Phase::Full(_) if self.logout_by.is_none() => {
                let mut bhs = Bhs::reply(op::ASYNC, 0x80, TAG_NONE);
                bhs.0[36] = 1;
                bhs.0[42..44].copy_from_slice(&secs.to_be_bytes());
                self.send_pdu(bhs, [], true);
                self.logout_by = Some(now.plus_millis(u64::from(secs) * 1000));
            }
            Phase::Full(_) | Phase::Closing(_) => {}
        }
    }

    /// Replaces the units of the session; their hosts are told what changed.
    pub fn set_luns(&mut self, luns: LunMap) {
        if let Phase::Full(session) = &mut self.phase
            && let Some(before) = session.luns.replace(luns.clone())
        {
            session.nexus.luns_replaced(&before, &luns);
        }
    }

    /// The session, once login is complete.
    pub fn logged_in(&self) -> Option<&LoggedIn> {
        match &self.phase {
            Phase::Full(session) => Some(&session.info),
            _ => None,
        }
    }

    /// The initiator port, once login is complete: one I_T nexus.
    pub fn port(&self) -> Option<InitiatorPort> {
        match &self.phase {
            Phase::Full(session) => Some(session.nexus.port().clone()),
            _ => None,
        }
    }

    /// Establishes a unit attention condition.
    pub fn raise_attention(&mut self, lun: LunNumber, attention: UnitAttention) {
        if let Phase::Full(session) = &mut self.phase {
            session.nexus.raise(lun, attention);
        }
    }

    /// The TSIH that the session has, or gets with its login.
    pub fn tsih(&self) -> u16 {
        self.config.tsih
    }

    /// Number of tasks under way.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Ends the connection after what is queued was sent. Writes that were submitted complete on their own.
    pub fn close(&mut self, reason: CloseReason) {
        if matches!(self.phase, Phase::Closing(_)) {
            return;
        }
        self.phase = Phase::Closing(reason);
        self.pending = None;
        let reads: Vec<TaskTag> = self
            .tasks
            .iter()
            .filter(|task| matches!(task.state, State::Submitted { writes: false, .. }))
            .map(|task| task.tag)
            .collect();
        self.outputs.retain(|output| !matches!(output, Output::NeedBuffer { .. } | Output::Admit { .. }));
        self.outputs.extend(reads.into_iter().map(|tag| Output::Abort { tag }));
        self.tasks = Tasks::default();
        self.management.clear();
    }

    /// Time has passed. Call when [`Self::next_deadline`] is reached.
    pub fn tick(&mut self, now: Mono) {
        match &self.phase {
            Phase::Closing(_) => {}
            Phase::Login(_) => {
                if now.millis_since(self.started) >= self.config.login_timeout_ms {
                    self.close(CloseReason::LoginTimeout);
                }
            }
            Phase::Full(_) if self.logout_by.is_some_and(|by| by <= now) => self.close(CloseReason::Shutdown),
            Phase::Full(_) => {
                self.expire_management(now);
                self.check_life(now);
                if let Permit::Later(at) = self.permit
                    && at <= now
                {
                    self.permit = Permit::Given;
                    self.process(now);
                }
            }
        }
    }

    /// When [`Self::tick`] has to be called at the latest.
    pub fn next_deadline(&self) -> Option<Mono> {
        let life = match (&self.phase, self.ping) {
            (Phase::Closing(_), _) => return None,
            (Phase::Login(_), _) => return Some(self.started.plus_millis(self.config.login_timeout_ms)),
            (Phase::Full(_), Some((_, sent))) => sent.plus_millis(self.config.ping_timeout_ms),
            (Phase::Full(_), None) => self.last_received.plus_millis(self.config.ping_interval_ms),
        };
        let permit = match self.permit {
            Permit::Later(at) => Some(at),
            _ => None,
        };
        let management = self.management.iter().map(|pending| pending.deadline);
        management.chain([life]).chain(permit).chain(self.logout_by).min()
    }

    fn check_life(&mut self, now: Mono) {
        if self.is_blocked() {
            // We do not listen, so silence says nothing.
            self.last_received = now;
            self.ping = None;
            return;
        }
        match self.ping {
            Some((_, sent)) if self.last_received > sent => self.ping = None,
            Some((_, sent)) if now.millis_since(sent) >= self.config.ping_timeout_ms => {
                self.close(CloseReason::PingTimeout);
            }
            Some(_) => {}
            None if now.millis_since(self.last_received) >= self.config.ping_interval_ms => {
                let ttt = self.fresh_ttt();
                self.ping = Some((ttt, now));
                self.send_nop_in(TAG_NONE, ttt, [0; 8], Bytes::new());
            }
            None => {}
        }
    }

    /// A target transfer tag that is not the reserved one.
    pub(crate) fn fresh_ttt(&mut self) -> u32 {
        self.next_ttt = if self.next_ttt >= TAG_NONE - 1 { 1 } else { self.next_ttt + 1 };
        self.next_ttt
    }

    pub(crate) fn remember_stray(&mut self, itt: u32) {
        if self.stray.len() == STRAY_MAX {
            self.stray.pop_front();
        }
        self.stray.push_back(itt);
    }

    pub(crate) fn update_window(&mut self) {
        let room = self.window.saturating_sub(self.tasks.windowed());
        let max = self.exp_cmd_sn.wrapping_add(room).wrapping_sub(1);
        if sn_before(self.max_cmd_sn, max) {
            self.max_cmd_sn = max;
        }
    }

    /// Fills in StatSN, ExpCmdSN and MaxCmdSN and queues the PDU. `status` is true where StatSN counts.
    pub(crate) fn send_pdu(&mut self, mut bhs: Bhs, data: impl IntoIterator<Item = Bytes>, status: bool) {
        self.update_window();
        bhs.set32(24, self.stat_sn);
        bhs.set32(28, self.exp_cmd_sn);
        bhs.set32(32, self.max_cmd_sn);
        if status {
            self.stat_sn = self.stat_sn.wrapping_add(1);
        }
        self.send.push(bhs, data);
    }

    /// Sends a Reject with the header of the PDU it is about.
    pub(crate) fn reject(&mut self, about: &Bhs, reason: Reject) {
        let mut bhs = Bhs::reply(op::REJECT, 0x80, TAG_NONE);
        bhs.0[2] = reason as u8;
        self.send_pdu(bhs, [Bytes::copy_from_slice(&about.0)], true);
    }

    /// Rejects the PDU and ends the connection.
    pub(crate) fn fail(&mut self, about: &Bhs, reason: Reject) {
        if matches!(self.phase, Phase::Full(_)) {
            self.reject(about, reason);
        }
        self.close(CloseReason::Protocol(reason));
    }

    /// A header came in: what becomes of its data segment.
    pub(crate) fn begin(&mut self, now: Mono, bhs: &Bhs) -> (Dest, Then) {
        match &self.phase {
            Phase::Login(_) if bhs.opcode() == op::LOGIN_REQUEST => (Dest::Collect(Vec::new()), Then::Handle),
            Phase::Login(_) => {
                self.close(CloseReason::Protocol(Reject::Protocol));
                (Dest::Discard, Then::Nothing)
            }
            Phase::Full(_) => self.begin_full(now, bhs),
            Phase::Closing(_) => (Dest::Discard, Then::Nothing),
        }
    }

    /// A data segment (possibly empty) is complete.
    pub(crate) fn end_segment(&mut self, now: Mono, segment: Segment) {
        let Segment { bhs, dest, then, .. } = segment;
        match (then, dest) {
            (Then::CommandData(tag), _) => self.command_data(tag, &bhs),
            (Then::DataOut(tag), _) => self.data_out_done(tag, &bhs),
            (Then::Handle, Dest::Collect(data)) => match &self.phase {
                Phase::Login(_) => self.login_request(&bhs, &data),
                Phase::Full(_) => self.handle_full(now, &bhs, data),
                Phase::Closing(_) => {}
            },
            _ => {}
        }
    }

    /// Bytes of a data segment that belong to a task which is gone are dropped.
    pub(crate) fn forget_segment_of(&mut self, gone: TaskTag) {
        if let Cut::Data(segment) = &mut self.receiver.cut
            && matches!(segment.dest, Dest::Task { tag, .. } if tag == gone)
        {
            segment.dest = Dest::Discard;
            segment.then = Then::Nothing;
        }
    }
}
