//! Serves one initiator: moves bytes between its socket, the protocol and the group.

use std::cell::RefCell;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reprise_engine::{Event, HostError, HostOp, HostReply, VolumeMeta};
use reprise_iscsi::{
    Acl, Admission, CloseReason, Config, Connection, Limit, Output, Portal, RecvTarget, ResetScope, Target, TaskTag,
    Throttle,
};
use reprise_scsi::{
    AluaState, BlockSize, Completion, Lun, LunMap, LunNumber, NotReady, Op, PeerPort, Sanitize, ScsiError, TargetPort,
    UnitAttention,
};
use reprise_types::{BoxId, Extent, InitiatorPort, Mono, PoolBuf, Role, SectorCount, VolumeId, VolumeSlot};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::owner::Owner;
use crate::clock;
use crate::portal::{Visit, challenge, group_tag};

/// Pieces of one gathered send.
const SEND_PIECES_MAX: usize = 64;
/// Reads of the socket before other tasks of the thread get their turn.
const READS_PER_TURN: usize = 8;

/// Between two looks for a buffer, beside those when one comes back.
const BUFFER_RETRY: Duration = Duration::from_millis(20);

/// One initiator's session.
pub(super) struct Session {
    pub(super) connection: RefCell<Connection>,
    wake: Notify,
    pub(super) address: String,
    from: IpAddr,
    pub(super) since: Mono,
    /// The nexus, from login to the end of the connection.
    nexus: RefCell<Option<InitiatorPort>>,
    /// What all sessions of the initiator share, if it has a limit.
    throttle: RefCell<Option<Rc<RefCell<Throttle>>>>,
}

impl Session {
    /// The engine's answer.
    pub(super) fn reply(&self, tag: TaskTag, reply: Result<HostReply, HostError>) {
        let completion = match reply {
            Ok(HostReply::Done) => Completion::Done,
            Ok(HostReply::Data(parts)) => Completion::DataParts(parts),
            Err(error) => Completion::Failed(scsi_error(error)),
        };
        self.complete(tag, completion);
    }

    pub(super) fn complete(&self, tag: TaskTag, completion: Completion) {
        self.connection.borrow_mut().complete(clock::now().mono, tag, completion);
        self.wake.notify_one();
    }

    pub(super) fn port(&self) -> Option<InitiatorPort> {
        self.connection.borrow().port()
    }

    pub(super) fn raise(&self, lun: LunNumber, attention: UnitAttention) {
        self.connection.borrow_mut().raise_attention(lun, attention);
    }

    pub(super) fn reset(&self, scope: ResetScope, attention: UnitAttention, cold: bool) {
        self.connection.borrow_mut().external_reset(scope, attention, cold);
        self.wake.notify_one();
    }

    pub(super) fn close(&self, reason: CloseReason) {
        self.connection.borrow_mut().close(reason);
        self.wake.notify_one();
    }

    pub(super) fn request_logout(&self, now: Mono, secs: u16) {
        self.connection.borrow_mut().request_logout(now, secs);
        self.wake.notify_one();
    }

    pub(super) fn set_window(&self, window: u32) {
        self.connection.borrow_mut().set_command_window(window);
        self.wake.notify_one();
    }

    pub(super) fn set_luns(&self, luns: LunMap) {
        self.connection.borrow_mut().set_luns(luns);
        self.wake.notify_one();
    }
}

pub(super) fn scsi_error(error: HostError) -> ScsiError {
    match error {
        HostError::Fenced => ScsiError::Fenced,
        HostError::NotSource => ScsiError::NotReady(NotReady::Unavailable),
        HostError::Unreadable(sector) => ScsiError::UnrecoveredRead { lba: Some(sector.get()) },
        HostError::Miscompare(at) => ScsiError::Miscompare { offset: at.into() },
        HostError::Range => ScsiError::LbaOutOfRange { lba: 0 },
        HostError::NoRoom => ScsiError::InsufficientRegistrationResources,
    }
}

/// Numbers of the only ports of this box and of its peer, which are their port groups too: the same whichever box is
/// asked, and whatever their roles are. From 1 to 32767.
fn port_numbers(own: BoxId, peer: Option<BoxId>) -> (u16, Option<u16>) {
    // Where both would have the same one, the box with the larger id takes the next.
    let next = |n: u16| if n == 0x7fff { 1 } else { n + 1 };
    match peer.map(|id| (id, group_tag(id))) {
        Some((id, same)) if same == group_tag(own) && id > own => (same, Some(next(same))),
        Some((_, same)) if same == group_tag(own) => (next(same), Some(same)),
        other => (group_tag(own), other.map(|(_, n)| n)),
    }
}

impl Owner {
    /// The group's LUNs as they are now.
    pub(super) fn luns(&self) -> LunMap {
        let state = self.look();
        let group = &state.group;
        let unavailable = group.meta().role() == Role::Mirror;
        let (own, other) = match unavailable {
            true => (AluaState::Unavailable, AluaState::ActiveOptimized),
            false => (AluaState::ActiveOptimized, AluaState::Unavailable),
        };
        let (number, peer) = port_numbers(self.deps.this_box, group.meta().peer().map(|p| p.peer));
        let port = TargetPort {
            target_name: self.deps.target.name.clone(),
            group: number,
            relative_port: number,
            alua: own,
            peer: peer.map(|number| PeerPort { group: number, relative_port: number, alua: other }),
        };
        let shown = group.meta().volumes.iter().filter(|v| !group.is_retired(v.slot));
        let volumes: Vec<(VolumeMeta, SectorCount)> =
            shown.map(|v| (v.clone(), group.served_sectors(v.slot).unwrap_or(v.sectors))).collect();
        drop(state);
        let units = volumes.into_iter().map(|(v, sectors)| {
            let mut lun = Lun::new(v.id, sectors, BlockSize::from(v.block_size));
            lun.thin = v.thin;
            lun.read_only = v.read_only;
            lun.not_ready = unavailable.then_some(NotReady::Unavailable);
            self.dress_lun(v.slot, &mut lun);
            (v.lun, lun)
        });
        // LUN numbers are given once per group and stay below the limit.
        LunMap::new(port, units).expect("LUN numbers of a group are unique")
    }

    /// Tells every session what the units are now.
    pub(super) fn luns_changed(&self) {
        let luns = self.luns();
        self.live_sessions().iter().for_each(|session| session.set_luns(luns.clone()));
    }

    fn portal(&self) -> Arc<Portal> {
        let acl = self.look().acl.clone();
        let luns = self.luns();
        let target = Target {
            name: self.deps.target.name.clone(),
            alias: Some(self.deps.name.clone()),
            addresses: self.deps.target.addresses.clone(),
            moved: None,
            acl,
            luns,
        };
        Arc::new(Portal { group_tag: group_tag(self.deps.this_box), targets: vec![target], away: Vec::new() })
    }

    /// Other rules: sessions that they do not allow end, the others have the limits that they name.
    pub(super) fn set_acl(&self, acl: Acl) {
        let now = clock::now().mono;
        for session in self.live_sessions() {
            let info = session.connection.borrow().logged_in().cloned();
            let Some(info) = info else { continue };
            let limit = match acl.admit(&info.initiator, Some(session.from)) {
                Admission::By(rule) if rule.chap.is_none() || info.chap_user.is_some() => rule.limit,
                Admission::AsAnyone => Limit::default(),
                Admission::By(_) | Admission::Refused => {
                    let (initiator, address) = (&info.initiator, &session.address);
                    tracing::info!(%initiator, %address, group = %self.deps.name, "session is no longer allowed");
                    session.close(CloseReason::Shutdown);
                    continue;
                }
            };
            self.throttle(&session, &info.initiator.to_ascii_lowercase(), limit);
            session.connection.borrow_mut().set_limit(now, limit);
            session.wake.notify_one();
        }
        self.state().acl = acl;
    }

    /// Has the session take part in what its initiator may do.
    fn throttle(&self, session: &Session, initiator: &str, limit: Limit) {
        let all = &mut self.state().throttles;
        all.retain(|_, throttle| throttle.strong_count() > 0);
        if limit.is_none() {
            session.throttle.replace(None);
            return;
        }
        let known = all.get(initiator).and_then(std::rc::Weak::upgrade);
        let throttle = known.unwrap_or_else(|| Rc::new(RefCell::new(Throttle::new(limit))));
        throttle.borrow_mut().set_limit(limit);
        all.insert(initiator.to_owned(), Rc::downgrade(&throttle));
        session.throttle.replace(Some(throttle));
    }

    /// A buffer beyond the limit. When all buffers are held by commands whose data has not come yet, that data stands in
    /// the sockets behind commands that wait for a buffer, and no session would ever go on. Then one of them gets what it
    /// asks for, until there is room for all again: at most its command window, beyond the limit.
    fn overdraw(&self, session: &Rc<Session>, len: usize) -> Option<PoolBuf> {
        let holder = self.look().overdrawn.upgrade();
        let own = match holder {
            Some(holder) => Rc::ptr_eq(&holder, session),
            None => {
                self.state().overdrawn = Rc::downgrade(session);
                true
            }
        };
        // What becomes durable gives its buffers back by itself.
        (own && self.look().group.journal().undurable_bytes() == 0).then(|| PoolBuf::unpooled(len))
    }

    fn slot_of(&self, volume: VolumeId) -> Option<VolumeSlot> {
        self.look().group.meta().volumes.iter().find(|v| v.id == volume).map(|v| v.slot)
    }

    /// A TSIH that no session has; there are far fewer sessions than numbers.
    fn fresh_tsih(&self) -> u16 {
        let sessions = self.live_sessions();
        let taken = |tsih| sessions.iter().any(|s| s.connection.borrow().tsih() == tsih);
        loop {
            let tsih = {
                let next = &mut self.state().next_tsih;
                let tsih = *next;
                *next = tsih.checked_add(1).unwrap_or(1);
                tsih
            };
            if !taken(tsih) {
                return tsih;
            }
        }
    }

    /// A session with the same initiator name and ISID takes the place of the older one (RFC 7143, section 6.3.5).
    fn reinstate(&self, own: &Rc<Session>) {
        let Some(info) = own.connection.borrow().logged_in().cloned() else { return };
        for other in self.live_sessions() {
            if Rc::ptr_eq(&other, own) {
                continue;
            }
            let same = other
                .connection
                .borrow()
                .logged_in()
                .is_some_and(|i| i.isid == info.isid && i.initiator.eq_ignore_ascii_case(&info.initiator));
            if same {
                other.close(CloseReason::Reinstated);
            }
        }
    }

    fn submit_host(self: &Rc<Self>, session: &Rc<Session>, tag: TaskTag, volume: VolumeId, op: Op) {
        let Some(slot) = self.slot_of(volume) else {
            session.connection.borrow_mut().complete(
                clock::now().mono,
                tag,
                Completion::Failed(ScsiError::LunNotSupported),
            );
            return;
        };
        let extent = |sector, sectors| Extent { volume: slot, sector, sectors };
        let of_len = |len: usize| SectorCount::from_raw(len as u64 / 512);
        let op = match op {
            Op::Read { sector, sectors } => HostOp::Read(extent(sector, sectors)),
            Op::Write { sector, data, .. } => HostOp::Write { extent: extent(sector, of_len(data.len())), data },
            Op::Zero { ranges } => HostOp::Zero { volume: slot, ranges },
            Op::CompareAndWrite { sector, verify, write } => {
                HostOp::CompareAndWrite { extent: extent(sector, of_len(write.len())), verify, data: write }
            }
            Op::OrWrite { sector, data } => HostOp::OrWrite { extent: extent(sector, of_len(data.len())), data },
            Op::Flush => HostOp::Flush,
            Op::LbaStatus { sector, sectors, runs_max } => {
                let completion = self.lba_status(extent(sector, sectors), runs_max);
                return session.complete(tag, completion);
            }
            Op::Overwrite { pattern, immediate } => return self.overwrite(session, tag, slot, pattern, immediate),
            Op::ExitFailureMode => {
                self.set_sanitize(slot, Sanitize::Idle);
                return session.complete(tag, Completion::Done);
            }
            Op::Control(change) => return self.change_unit(session, tag, slot, *change),
        };
        let io = self.register(session, tag, matches!(op, HostOp::Read(_)));
        self.take(Event::Host(io, op));
    }
}

enum Turn {
    /// Nothing more until something happens.
    Idle,
    /// More may be there already.
    Again,
    /// A buffer is wanted and the pool is empty.
    NoBuffer,
    Over,
}

struct Server {
    owner: Rc<Owner>,
    session: Rc<Session>,
    stream: TcpStream,
    visit: Visit,
    wanted: Option<u32>,
}

impl Server {
    /// Carries out what the protocol wants.
    fn outputs(&mut self) -> Option<CloseReason> {
        let mut submitted = false;
        loop {
            let output = self.session.connection.borrow_mut().poll_output();
            let Some(output) = output else { break };
            match output {
                Output::Submit { tag, volume, op } => {
                    submitted = true;
                    self.owner.submit_host(&self.session, tag, volume, op);
                }
                Output::NeedBuffer { len } => {
                    self.wanted = Some(len);
                    self.grant();
                }
                Output::Admit { bytes } => {
                    let now = clock::now().mono;
                    let throttle = self.session.throttle.borrow().clone();
                    let at = throttle.map_or(now, |throttle| throttle.borrow_mut().admit(now, bytes));
                    self.session.connection.borrow_mut().admit(now, at);
                }
                // Reads and writes complete by themselves; the protocol drops what it no longer wants.
                Output::Abort { .. } => {}
                Output::LoggedIn(info) => {
                    tracing::info!(
                        initiator = %info.initiator, address = %self.session.address, group = %self.owner.deps.name,
                        chap_user = info.chap_user, header_digest = info.params.header_digest,
                        data_digest = info.params.data_digest,
                        "initiator logged in"
                    );
                    self.visit.logged_in();
                    self.session.nexus.replace(self.session.port());
                    self.owner.reinstate(&self.session);
                    self.owner.throttle(&self.session, &info.initiator.to_ascii_lowercase(), info.limit);
                }
                Output::Reset { scope, attention, cold } => {
                    for other in self.owner.live_sessions() {
                        if !Rc::ptr_eq(&other, &self.session) {
                            other.reset(scope, attention, cold);
                        }
                    }
                    match (attention, scope) {
                        (UnitAttention::LunReset, ResetScope::Unit { volume, .. }) => {
                            self.owner.end_reserve(Some(volume), None);
                        }
                        (UnitAttention::TargetReset, _) => self.owner.end_reserve(None, None),
                        _ => {}
                    }
                }
                Output::Close(reason) => {
                    self.visit.tell_refused(reason);
                    return Some(reason);
                }
            }
        }
        if submitted {
            self.owner.settle();
        }
        None
    }

    /// True if no buffer is wanted any more.
    fn grant(&mut self) -> bool {
        let Some(len) = self.wanted else { return true };
        let pool = &self.owner.buffers;
        let pooled = pool.try_alloc(len as usize).or_else(|| {
            self.owner.memory_short();
            pool.try_alloc(len as usize)
        });
        let Some(buf) = pooled.or_else(|| self.owner.overdraw(&self.session, len as usize)) else {
            return false;
        };
        self.wanted = None;
        self.session.connection.borrow_mut().grant_buffer(clock::now().mono, buf);
        true
    }

    fn send(&self) -> io::Result<()> {
        loop {
            let mut connection = self.session.connection.borrow_mut();
            let sent = {
                let mut slices = [IoSlice::new(&[]); SEND_PIECES_MAX];
                let count = connection.gather(&mut slices);
                if count == 0 {
                    return Ok(());
                }
                self.stream.try_write_vectored(&slices[..count])
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => connection.sent(clock::now().mono, n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    /// One read of the socket.
    fn receive(&self) -> io::Result<Turn> {
        let mut connection = self.session.connection.borrow_mut();
        let read = match connection.recv_target() {
            RecvTarget::Staging(buf) | RecvTarget::Payload(buf) => self.stream.try_read(buf),
            RecvTarget::Blocked => return Ok(Turn::Idle),
            RecvTarget::Closed => return Ok(Turn::Idle),
        };
        match read {
            Ok(0) => Ok(Turn::Over),
            Ok(n) => {
                connection.received(clock::now().mono, n);
                Ok(Turn::Again)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Idle),
            Err(e) => Err(e),
        }
    }

    fn turn(&mut self) -> io::Result<Turn> {
        let mut last = Turn::Idle;
        for _ in 0..READS_PER_TURN {
            last = self.receive()?;
            if self.outputs().is_some() {
                return Ok(Turn::Over);
            }
            self.send()?;
            if !matches!(last, Turn::Again) {
                break;
            }
        }
        Ok(if self.wanted.is_some() { Turn::NoBuffer } else { last })
    }

    async fn run(&mut self) -> io::Result<()> {
        loop {
            let turn = self.turn()?;
            match turn {
                Turn::Over => return Ok(()),
                Turn::Again => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Turn::Idle | Turn::NoBuffer => {}
            }
            let (blocked, unsent, deadline) = {
                let connection = self.session.connection.borrow();
                (connection.is_blocked(), connection.send_pending() > 0, connection.next_deadline())
            };
            let now = clock::now().mono;
            let mut sleep = deadline.map_or(Duration::from_secs(60), |d| Duration::from_nanos(d.since(now)));
            if matches!(turn, Turn::NoBuffer) {
                sleep = sleep.min(BUFFER_RETRY);
            }
            let freed = self.owner.buffers_free.clone();
            tokio::select! {
                () = self.session.wake.notified() => {}
                ready = self.stream.readable(), if !blocked => ready?,
                ready = self.stream.writable(), if unsent => ready?,
                () = async { if matches!(turn, Turn::NoBuffer) { freed.notified().await } else { pending().await } } => {
                    self.grant();
                }
                () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {
                    self.session.connection.borrow_mut().tick(clock::now().mono);
                }
            }
            if matches!(turn, Turn::NoBuffer) {
                self.grant();
            }
        }
    }
}

/// Serves an initiator from its first byte on.
pub(super) async fn serve(owner: Rc<Owner>, stream: std::net::TcpStream, visit: Visit) {
    // A host of IPv4 is shown as one, also where a socket of IPv6 took it.
    let shown = |a: std::net::SocketAddr| match a.ip().to_canonical() {
        std::net::IpAddr::V4(v4) => format!("{v4}:{}", a.port()),
        std::net::IpAddr::V6(_) => a.to_string(),
    };
    let address = stream.peer_addr().map_or_else(|_| String::from("?"), shown);
    let local = stream.local_addr().map_or_else(|_| String::from("?"), |a| a.to_string());
    let stream = match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, %address, "initiator's socket cannot be used");
            return;
        }
    };
    let _ = stream.set_nodelay(true);
    let tsih = owner.fresh_tsih();
    let challenge = match challenge() {
        Ok(challenge) => challenge,
        Err(error) => {
            tracing::error!(%error, %address, "no random numbers: an initiator is refused");
            return;
        }
    };
    let from = visit.from();
    let config = Config {
        from: Some(from),
        window: owner.command_window(),
        ..Config::new(owner.portal(), local, tsih, challenge)
    };
    let session = Rc::new(Session {
        connection: RefCell::new(Connection::new(config, clock::now().mono)),
        wake: Notify::new(),
        address,
        from,
        since: clock::now().mono,
        nexus: RefCell::default(),
        throttle: RefCell::default(),
    });
    owner.state().sessions.push(Rc::downgrade(&session));
    let pushed_out = visit.pushed_out();
    let mut server = Server { owner, session, stream, visit, wanted: None };
    let result = tokio::select! {
        result = server.run() => result,
        () = pushed_out => Err(io::Error::other("too many are logging in")),
    };
    if let Some(port) = server.session.nexus.take() {
        server.owner.end_reserve(None, Some(&port));
    }
    let (address, group) = (&server.session.address, &server.owner.deps.name);
    match (result, server.visit.line_of_end()) {
        (_, None) => {}
        (Ok(()), Some(left_out)) => tracing::info!(%address, %group, left_out, "initiator's connection ended"),
        (Err(error), Some(left_out)) => {
            tracing::info!(%address, %error, %group, left_out, "initiator's connection broke");
        }
    }
}
