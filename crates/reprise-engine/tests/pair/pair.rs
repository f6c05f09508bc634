//! A source and its mirror on a line that loses nothing.

use bytes::Bytes;
use reprise_engine::{Event, LinkInput, PeerId};
use reprise_format::link::Stream;
use reprise_link::mux::headroom;
use reprise_types::BoxId;

use crate::harness::{QUIET_MS, STEPS_MAX, Setup, TestBox, source_instance};

/// A source and its mirror.
pub struct Pair {
    pub a: TestBox,
    pub b: TestBox,
    /// True while there is a connection.
    pub up: bool,
    /// Messages stay where they are.
    pub line_held: bool,
}

impl Pair {
    /// Two boxes that serve, the mirror attached, no connection.
    pub fn apart(setup: &Setup) -> Self {
        let mut a = TestBox::serving(setup);
        let mut b = TestBox::mirror(setup);
        b.run();
        a.command(|g, now| g.add_peer(now, BoxId::from_raw([2; 16]), source_instance())).unwrap();
        a.run();
        Self { a, b, up: false, line_held: false }
    }

    /// Two boxes of which the mirror is whole, at rest.
    pub fn mirrored(setup: &Setup) -> Self {
        let mut new = Self::apart(setup);
        new.connect();
        new.rest();
        assert!(new.b.group.meta().copy().is_none(), "the first copy is complete");
        assert!(new.a.group.meta().peer().is_some_and(|p| p.copy.is_none()), "and the source knows");
        new.a.told();
        new.b.told();
        new
    }

    /// Makes a connection and carries everything out.
    pub fn connect(&mut self) {
        self.dial();
        self.run();
    }

    /// Makes a connection on which messages wait to be delivered one by one.
    pub fn connect_held(&mut self) {
        self.line_held = true;
        self.dial();
        self.run();
    }

    /// Makes a connection.
    pub fn dial(&mut self) {
        assert!(!self.up, "one connection at a time");
        self.up = true;
        for end in [&mut self.a, &mut self.b] {
            end.closed.clear();
            // What was said on a connection before is not said on this one.
            end.out.clear();
        }
        self.a.connected();
        self.b.connected();
    }

    /// The line breaks: what is on it is lost.
    pub fn cut(&mut self) {
        self.up = false;
        self.line_held = false;
        for end in [&mut self.a, &mut self.b] {
            end.out.clear();
            end.tell(Event::Link(PeerId::FIRST, LinkInput::Disconnected));
            end.out.clear();
        }
    }

    /// Carries everything out that is not held back.
    pub fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let busy = self.a.run() | self.b.run();
            if !(self.deliver(true) | self.deliver(false) | busy) {
                return;
            }
        }
        panic!("the pair does not come to rest");
    }

    /// Delivers all that one end has to send. True if there was something.
    fn deliver(&mut self, from_a: bool) -> bool {
        let mut some = false;
        while self.up && !self.line_held && self.deliver_one(from_a) {
            some = true;
        }
        let end = if from_a { &self.a } else { &self.b };
        if self.up && !end.closed.is_empty() {
            self.cut();
            some = true;
        }
        some
    }

    /// Delivers one message of an end. True if there was one.
    pub fn deliver_one(&mut self, from_a: bool) -> bool {
        let (from, to) = if from_a { (&mut self.a, &mut self.b) } else { (&mut self.b, &mut self.a) };
        let Some((message, pieces)) = from.out.pop_front() else { return false };
        let payload = pieces.concat();
        if message.kind().stream() == Stream::Bulk {
            from.tell(Event::Link(PeerId::FIRST, LinkInput::Sent(payload.len() as u64)));
        }
        let mut bytes = vec![0; headroom(message.kind())];
        bytes.extend(payload);
        to.message(message, Bytes::from(bytes));
        true
    }

    /// Delivers what the handshake and the first credit need, while the line is held.
    pub fn handshake(&mut self) {
        // Offer, state, verdict, and what the mirror says then.
        for from_a in [true, false, true] {
            assert!(self.deliver_one(from_a), "the handshake goes on");
            self.a.run();
            self.b.run();
        }
        while self.deliver_one(false) {}
    }

    /// Time goes by on both boxes.
    pub fn pass(&mut self, millis: u64) {
        self.a.pass(millis);
        self.b.pass(millis);
    }

    /// Lets both come to rest.
    pub fn rest(&mut self) {
        for _ in 0..12 {
            self.pass(QUIET_MS);
            self.run();
        }
        self.a.assert_no_segment_is_lost();
        self.b.assert_no_segment_is_lost();
    }
}
