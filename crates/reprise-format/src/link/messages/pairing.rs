//! Two boxes make each other's acquaintance.

use reprise_types::BoxId;

use super::codes::PairRefusal;
use crate::link::wire::{Field, message};

message!(
    /// Pairing, first message of the dialling box.
    PairStart {
        /// The dialling box.
        box_id: BoxId,
        /// Its name.
        name: String,
        /// SPAKE2 message.
        share: [u8; 33],
    }
);

message!(
    /// Pairing, answer of the listening box.
    PairShare {
        /// The listening box.
        box_id: BoxId,
        /// Its name.
        name: String,
        /// SPAKE2 message.
        share: [u8; 33],
    }
);

message!(
    /// Pairing, key confirmation: first by the dialling box, then by the listening one, which has then prepared.
    PairConfirm {
        /// Keyed hash over what both ends know.
        mac: [u8; 32],
    }
);

message!(
    /// Pairing: the dialling box has stored the listening one.
    PairCommit {}
);

message!(
    /// Pairing: the listening box has stored the dialling one.
    PairCommitted {}
);

message!(
    /// Pairing is refused; the connection is closed after it.
    PairRefused {
        /// Why.
        reason: PairRefusal,
    }
);
