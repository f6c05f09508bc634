//! The group's end of a connection to the peer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use reprise_engine::LinkInput;
use reprise_format::link::{Message, Stream};
use reprise_types::BoxId;
use tokio::sync::Notify;

use super::owner::Owner;
use crate::net::{Connection, LinkCounters, LinkEvent, LinkHandle};

/// A connection in use. Dropping it ends the connection.
pub(super) struct LinkConn {
    handle: LinkHandle,
    bulk: RefCell<VecDeque<(Message, Vec<Bytes>, u64)>>,
    more: Notify,
    pub(super) address: String,
    dialled: bool,
}

impl LinkConn {
    /// Queues a message. The engine bounds the bulk that is queued.
    pub(super) fn send(&self, message: Message, payload: Vec<Bytes>) {
        if message.kind().stream() == Stream::Control {
            self.handle.send_control(message);
            return;
        }
        let bytes: u64 = payload.iter().map(|p| p.len() as u64).sum();
        self.bulk.borrow_mut().push_back((message, payload, bytes));
        self.more.notify_one();
    }

    pub(super) fn counters(&self) -> &Arc<LinkCounters> {
        self.handle.counters()
    }

    pub(super) fn set_healthy(&self) {
        self.handle.set_healthy();
    }

    /// Moves queued bulk to the link's thread as it has room. Ends with the connection.
    async fn pump(self: Rc<Self>, owner: Rc<Owner>) {
        loop {
            let next = self.bulk.borrow_mut().pop_front();
            let Some((message, payload, bytes)) = next else {
                self.more.notified().await;
                continue;
            };
            if !self.handle.bulk_room().await {
                return;
            }
            // There is room and nobody else sends; a refusal means that the connection is over.
            if !self.handle.try_send_bulk(message, payload) {
                return;
            }
            owner.link_input(LinkInput::Sent(bytes));
        }
    }
}

/// Whether a connection takes the place of the one that is there. Two sources dial each other: of their two connections the one
/// stays that the box with the lower id has dialled, so that both decide alike. Else the later one is the one that works.
fn takes_place(own: BoxId, peer: BoxId, older_dialled: bool, dialled: bool) -> bool {
    let lower_dialled_older = (own < peer) == older_dialled;
    older_dialled == dialled || !lower_dialled_older
}

/// Serves a connection until it ends or another takes its place.
pub(super) async fn serve(owner: Rc<Owner>, connection: Connection) {
    let Connection { handle, mut events, address, dialled, peer, .. } = connection;
    let older_dialled = owner.look().link.as_ref().map(|older| older.dialled);
    if older_dialled.is_some_and(|older| !takes_place(owner.deps.this_box, peer, older, dialled)) {
        tracing::debug!(group = %owner.deps.name, %address, dialled, "connection given up for the one that is there");
        return;
    }
    let address = address.to_string();
    let link = Rc::new(LinkConn { handle, bulk: RefCell::default(), more: Notify::new(), address, dialled });
    let older = owner.state().link.replace(link.clone());
    if older.is_some() {
        owner.link_input(LinkInput::Disconnected);
    }
    drop(older);
    let weak = Rc::downgrade(&link);
    let pump = tokio::task::spawn_local(link.clone().pump(owner.clone()));
    drop(link);
    owner.link_input(LinkInput::Connected { dialled });
    loop {
        // A closed connection is dropped by the owner; what still comes of it is nobody's.
        let current = || match (weak.upgrade(), owner.look().link.as_ref()) {
            (Some(own), Some(now)) => Rc::ptr_eq(&own, now),
            _ => false,
        };
        if !current() {
            break;
        }
        let event = tokio::select! {
            event = events.recv() => event,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => continue,
        };
        if !current() {
            break;
        }
        match event {
            Some(LinkEvent::Message { message, payload }) => {
                let payload = payload.map_or_else(Bytes::new, reprise_types::PoolBuf::freeze);
                owner.link_input(LinkInput::received(message, payload));
            }
            Some(LinkEvent::Closed { error }) => {
                if let Some(error) = error {
                    tracing::info!(group = %owner.deps.name, %error, "link ended");
                }
                owner.hang_up();
                owner.link_input(LinkInput::Disconnected);
                break;
            }
            None => {
                owner.hang_up();
                owner.link_input(LinkInput::Disconnected);
                break;
            }
        }
    }
    pump.abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_boxes_that_dial_each_other_keep_one_connection() {
        let (low, high) = (BoxId::from_raw([1; 16]), BoxId::from_raw([2; 16]));
        // What the lower one has dialled stays at both, whichever came first.
        assert!(!takes_place(low, high, true, false) && takes_place(low, high, false, true));
        assert!(!takes_place(high, low, false, true) && takes_place(high, low, true, false));
        for (own, peer) in [(low, high), (high, low)] {
            assert!(takes_place(own, peer, true, true) && takes_place(own, peer, false, false), "dialled again");
        }
    }
}
