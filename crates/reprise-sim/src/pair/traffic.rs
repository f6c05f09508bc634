//! The line between the boxes: dialing, moving bytes, cutting.

use bytes::Bytes;
use reprise_engine::{Event, Group, LinkInput, PeerId};
use reprise_format::link::{CloseReason, GroupState, Membership, Message, Row, Side};
use reprise_link::handshake::{Consequence, rule_of};
use reprise_link::mirror::{MirrorEvent, MirrorSession, WINDOW_BYTES_MIN};
use reprise_types::Seq;

use crate::pair::net::{Conn, SOCKET_BYTES};
use crate::pair::plan::{MS, SEC};
use crate::pair::world::{Next, World, say};

impl World {
    /// Dials where the source wants a connection and has none.
    pub(super) fn want_dial(&mut self) {
        let wants = self.boxes[0].group().is_some_and(Group::wants_link);
        if wants && self.conn[0].is_none() && !self.dialing {
            self.dialing = true;
            let jitter = self.rng.next_u64() as u32;
            let wait = self.backoff.next_delay_ms(jitter) * MS;
            self.after(wait, Next::Dial);
        }
    }

    fn way_delay(&mut self, from: usize) -> u64 {
        let jitter = self.rng.below(self.plan.latency / 4 + 1);
        self.plan.latency + self.stall[from] + jitter
    }

    pub(super) fn dial(&mut self) {
        self.dialing = false;
        if !self.boxes[0].group().is_some_and(Group::wants_link) || self.conn[0].is_some() {
            return;
        }
        let reachable =
            !self.blocked[0] && !self.blocked[1] && (self.boxes[1].process.is_some() || self.boxes[1].empty);
        if !reachable {
            // The attempt runs into its timeout.
            self.dialing = true;
            let jitter = self.rng.next_u64() as u32;
            let wait = self.backoff.next_delay_ms(jitter) * MS + SEC;
            self.after(wait, Next::Dial);
            return;
        }
        let conn = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(conn, Conn::new());
        self.conn[0] = Some(conn);
        let delay = self.way_delay(0);
        self.after(delay, Next::Accept { conn });
    }

    /// The mirror's box takes a connection. One that it still had is given up for it.
    pub(super) fn accept(&mut self, conn: u64) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        if let Some(old) = self.conn[1].replace(conn) {
            self.leave(old, 1, true);
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if self.boxes[1].empty {
            let now = self.boxes[1].clock.now(self.t);
            c.unknown = Some(MirrorSession::new(now.mono, WINDOW_BYTES_MIN));
            c.used[1] = true;
        } else if self.boxes[1].process.is_some() {
            c.used[1] = true;
            self.event(1, Event::Link(PeerId::FIRST, LinkInput::Connected { dialled: false }));
        } else {
            // It went off meanwhile.
            self.conn[1] = None;
            self.after(SEC, Next::Gone { conn, n: 0 });
            return;
        }
        let delay = self.way_delay(1);
        self.after(delay, Next::Connected { conn });
    }

    pub(super) fn connected(&mut self, conn: u64) {
        if self.conn[0] != Some(conn) {
            return;
        }
        let Some(c) = self.conns.get_mut(&conn) else { return };
        c.used[0] = true;
        say!(self, "line: connected ({conn})");
        self.event(0, Event::Link(PeerId::FIRST, LinkInput::Connected { dialled: true }));
        self.want_pump(conn, 0);
        self.want_pump(conn, 1);
    }

    /// Box n stops using a connection. `tell` is for the group.
    fn leave(&mut self, conn: u64, n: usize, tell: bool) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let used = std::mem::take(&mut c.used[n]);
        if self.conn[n] == Some(conn) {
            self.conn[n] = None;
        }
        if used && tell {
            self.event(n, Event::Link(PeerId::FIRST, LinkInput::Disconnected));
        }
        if self.conns.get(&conn).is_some_and(|c| c.used == [false; 2] && self.conn.iter().all(|x| *x != Some(conn))) {
            self.conns.remove(&conn);
        }
        if n == 0 {
            self.want_dial();
        }
    }

    /// Box n hears that a connection is gone.
    pub(super) fn gone(&mut self, conn: u64, n: usize) {
        if self.conns.get(&conn).is_some_and(|c| c.used[n]) || self.conn[n] == Some(conn) {
            say!(self, "line: {} hears that the connection is gone ({conn})", Self::name(n));
            self.leave(conn, n, true);
        }
    }

    /// A box went off: its end of the line is gone, the other one hears of it after a while or not at all.
    pub(super) fn drop_conn(&mut self, n: usize, heard: Option<u64>) {
        let Some(conn) = self.conn[n] else { return };
        if let Some(c) = self.conns.get_mut(&conn) {
            c.cut = true;
        }
        self.leave(conn, n, false);
        if let Some(delay) = heard {
            self.after(delay, Next::Gone { conn, n: 1 - n });
        }
    }

    /// A connection breaks: nothing more passes.
    pub(super) fn cut_line(&mut self, heard: [Option<u64>; 2]) {
        for (n, heard) in heard.into_iter().enumerate() {
            if let Some(conn) = self.conn[n] {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.cut = true;
                }
                if let Some(delay) = heard {
                    self.after(delay, Next::Gone { conn, n });
                }
            }
        }
    }

    pub(super) fn send(&mut self, n: usize, message: Message, payload: Vec<Bytes>) {
        let Some(conn) = self.conn[n] else { return };
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if !c.ways[n].queue(message, payload) {
            // The peer takes nothing: the connection is given up.
            c.cut = true;
            self.after(0, Next::Gone { conn, n });
            return;
        }
        self.want_pump(conn, n);
    }

    fn want_pump(&mut self, conn: u64, from: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let way = &mut c.ways[from];
        if !way.pumping && (way.has_more() || way.closing) {
            way.pumping = true;
            self.after(0, Next::Pump { conn, from });
        }
    }

    /// Hands the next piece to the socket and, where there is room behind it, goes on when that is through.
    pub(super) fn pump(&mut self, conn: u64, from: usize) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let way = &mut c.ways[from];
        way.pumping = false;
        if way.in_flight >= SOCKET_BYTES {
            return;
        }
        let left = way.shift_bulk();
        let faulty = way.fault.is_some();
        let piece = way.next_piece(&mut self.rng);
        if faulty && way.fault.is_none() {
            c.tainted = true;
        }
        let closing = c.ways[from].closing && !c.ways[from].has_more();
        let cut = c.cut;
        if self.conn[from] == Some(conn) {
            for bytes in left {
                self.event(from, Event::Link(PeerId::FIRST, LinkInput::Sent(bytes)));
            }
        }
        if !piece.is_empty() {
            let on_wire = piece.len() as u64 * SEC / self.plan.bandwidth;
            let delay = self.way_delay(from) + on_wire;
            let t = self.t;
            let Some(c) = self.conns.get_mut(&conn) else { return };
            let at = (t + delay).max(c.ways[from].last_arrival);
            c.ways[from].last_arrival = at;
            if !cut {
                self.after(at - t, Next::Arrive { conn, from, bytes: piece });
            }
            let Some(c) = self.conns.get_mut(&conn) else { return };
            if c.ways[from].has_more() || closing {
                c.ways[from].pumping = true;
                self.after(on_wire, Next::Pump { conn, from });
            }
        } else if closing && !cut {
            let t = self.t;
            let delay = self.way_delay(from);
            let Some(c) = self.conns.get_mut(&conn) else { return };
            c.ways[from].closing = false;
            let at = (t + delay).max(c.ways[from].last_arrival) - t;
            self.after(at + 1, Next::Gone { conn, n: 1 - from });
        }
    }

    pub(super) fn arrive(&mut self, conn: u64, from: usize, bytes: Vec<u8>) {
        let blocked = self.blocked[from];
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if c.cut {
            return;
        }
        let way = &mut c.ways[from];
        if blocked || !way.held.is_empty() {
            way.held.push_back(bytes);
            return;
        }
        self.take(conn, from, &bytes);
    }

    fn take(&mut self, conn: u64, from: usize, bytes: &[u8]) {
        let to = 1 - from;
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let way = &mut c.ways[from];
        way.in_flight = way.in_flight.saturating_sub(bytes.len());
        let messages = if c.used[to] { way.receive(bytes) } else { Some(Vec::new()) };
        self.want_pump(conn, from);
        let Some(messages) = messages else {
            say!(self, "line: {} hears no frames and closes ({conn})", Self::name(to));
            self.counts.detected += 1;
            if self.conns.get(&conn).is_some_and(|c| !c.tainted) {
                self.fail("bytes of the peer do not decode, with no fault".into());
            }
            if let Some(c) = self.conns.get_mut(&conn) {
                c.cut = true;
            }
            self.leave(conn, to, true);
            self.after(20 * MS, Next::Gone { conn, n: from });
            return;
        };
        for (message, payload) in messages {
            let Some(c) = self.conns.get(&conn).filter(|c| c.used[to] && self.conn[to] == Some(conn)) else { return };
            if to == 1 && c.unknown.is_some() {
                self.answer_unknown(conn, message);
            } else {
                self.event(to, Event::Link(PeerId::FIRST, LinkInput::received(message, payload)));
            }
        }
    }

    /// An empty box says that it does not know the group, in the words of the handshake, as the node does.
    fn answer_unknown(&mut self, conn: u64, message: Message) {
        let now = self.boxes[1].clock.now(self.t);
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(session) = &mut c.unknown else { return };
        match session.handle(now.mono, message, 0) {
            Ok(Some(MirrorEvent::Offer(offer))) => session.answer(GroupState {
                group: offer.group,
                box_id: self.boxes[1].id,
                membership: Membership::Unknown,
                role: Side::Mirror,
                lineage: Vec::new(),
                durable: None,
                applied: Seq::ZERO,
                complete: false,
                copy_cursor: None,
                copy_reach: None,
                ceded: None,
                hash_at_offer: None,
                instance: reprise_link::instance::first([0; 16]),
                peer_instance_seen: None,
            }),
            Ok(_) => {}
            Err(error) => {
                say!(self, "mirror: closes the connection ({conn}): {error}");
                self.leave(conn, 1, false);
                self.after(MS, Next::Gone { conn, n: 0 });
                return;
            }
        }
        while let Some(message) = session.poll_message() {
            c.ways[1].queue(message, Vec::new());
        }
        self.want_pump(conn, 1);
    }

    /// A box closes; what it said before goes out first.
    pub(super) fn close(&mut self, n: usize, reason: CloseReason) {
        let Some(conn) = self.conn[n] else { return };
        say!(self, "{}: closes the connection ({conn}): {reason:?}", Self::name(n));
        if let Some(c) = self.conns.get_mut(&conn) {
            c.ways[n].close();
        }
        self.conn[n] = None;
        if let Some(c) = self.conns.get_mut(&conn) {
            c.used[n] = false;
        }
        self.want_pump(conn, n);
    }

    pub(super) fn unblock(&mut self, from: usize) {
        self.blocked[from] = false;
        let waiting: Vec<u64> = self.conns.keys().copied().collect();
        for conn in waiting {
            while let Some(bytes) = self.conns.get_mut(&conn).and_then(|c| c.ways[from].held.pop_front()) {
                self.take(conn, from, &bytes);
            }
        }
    }

    pub(super) fn link_up(&mut self, n: usize, row: Row) {
        if n == 1 {
            return;
        }
        self.counts.links += 1;
        self.passing = None;
        self.backoff.reset();
        if matches!(row, Row::StartCopy | Row::ContinueCopy | Row::RestartCopy) {
            for (delay, trouble) in std::mem::take(&mut self.ambush) {
                self.after(delay, Next::Trouble(trouble));
            }
        }
        if row == Row::StartCopy {
            return;
        }
        if self.other_line.is_some() {
            self.fail(format!("data flows ({row:?}) to a mirror whose history is another"));
        }
    }

    /// The link stopped for good: only where the mirror, or the source, is not what it was.
    pub(super) fn link_stopped(&mut self, n: usize, row: Row) {
        let odd = self.mirror_odd || self.source_odd || self.excuse.iter().any(|e| e.damaged);
        let tainted = self.conn[n].and_then(|c| self.conns.get(&c)).is_none_or(|c| c.tainted);
        let stop = rule_of(row).consequence != Consequence::Stream;
        if !stop || !(odd || tainted) {
            self.fail(format!("{}: the link stops ({row:?}) with no fault that explains it", Self::name(n)));
        }
        self.counts.detected += 1;
        if n == 0 && self.blind[0].is_some() {
            // The mirror holds what the source has lost, and the source found out.
            self.source_lost = Some(format!("its mirror holds what its disk lost ({row:?})"));
        } else if n == 0 {
            self.want_operator();
        }
    }
}
