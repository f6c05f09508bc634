//! What a group asks of its surroundings, and whose question an answer is to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use reprise_format::link::Message;
use reprise_types::honest;

use crate::io::{Effect, LegId, Notice, PeerId, Token};

/// Who has asked. What was asked the part itself knows: see [`Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Journal,
    Superblock,
    Reads,
    Leg(LegId),
    Peer(PeerId),
    Feed,
    Verify,
    Repair,
    Units,
}

/// What is to be done, in order, and what has no answer yet.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    queue: VecDeque<Effect>,
    asked: BTreeMap<Token, Part>,
    tokens: u64,
    /// Writes of homes that nobody waits for any more (of a connection that is gone, of a comparison that ended) and that
    /// are still under way: whatever comes later waits for them, or they would land on top of it.
    strays: BTreeSet<Token>,
}

impl Effects {
    /// Asks for something that has an answer.
    pub(crate) fn ask(&mut self, part: Part, make: impl FnOnce(Token) -> Effect) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.asked.insert(token, part);
        self.queue.push_back(make(token));
        token
    }

    /// Asks for something that has none.
    pub(crate) fn push(&mut self, effect: Effect) {
        self.queue.push_back(effect);
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.push(Effect::Notice(notice));
    }

    pub(crate) fn send(&mut self, peer: PeerId, message: Message, payload: Vec<Bytes>) {
        self.push(Effect::LinkSend(peer, message, payload));
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.queue.pop_front()
    }

    /// Whose question is answered; none where nobody waits for it any more.
    pub(crate) fn answered(&mut self, token: Token) -> Option<Part> {
        let part = self.asked.remove(&token).expect("an answer to an effect that was asked for");
        (!self.strays.remove(&token)).then_some(part)
    }

    /// Nobody waits any more for these writes of homes.
    pub(crate) fn astray(&mut self, writes: impl IntoIterator<Item = Token>) {
        self.strays.extend(writes);
    }

    /// Homes are not written while older writes of them may still come.
    pub(crate) fn has_strays(&self) -> bool {
        honest!(!self.strays.is_empty(), StraysForgotten => false)
    }
}

/// What a part has asked and has no answer to, with what it needs to go on then.
#[derive(Debug)]
pub(crate) struct Open<S>(BTreeMap<Token, S>);

impl<S> Default for Open<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<S> Open<S> {
    pub(crate) fn insert(&mut self, token: Token, step: S) {
        self.0.insert(token, step);
    }

    /// None where the part has forgotten the question.
    pub(crate) fn take(&mut self, token: Token) -> Option<S> {
        self.0.remove(&token)
    }

    /// Forgets all questions; their answers find nobody.
    pub(crate) fn forget(&mut self) -> impl Iterator<Item = (Token, S)> + use<S> {
        std::mem::take(&mut self.0).into_iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &S> {
        self.0.values()
    }

    pub(crate) fn steps_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.0.values_mut()
    }
}
