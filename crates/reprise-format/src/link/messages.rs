//! The messages, each with the code of its kind and its stream. What is in them stands by subject beneath.

mod codes;
mod command;
mod group;
mod pairing;
mod verify;

use bytes::Bytes;
use prost::Message as _;

pub use self::codes::{CloseReason, CopyNeed, HelloKind, Membership, PairRefusal, RefusalReason, Row, Side};
pub use self::command::{
    BoxInfo, BoxInfoQuery, Command, CreateMirror, DeleteMirror, Done, ForgetPeer, Outcome, PauseNotice, Refused,
    Request, ReserveVolume, Response,
};
pub use self::group::{
    Ack, Batch, BatchAgain, BatchWanted, BranchLink, Close, CopyAck, CopyCursor, CopyDone, CopyExtent, Credit,
    GroupOffer, GroupState, Heartbeat, Hello, Instance, Nonce, Rotten, Trouble, Verdict, Volume,
};
pub use self::pairing::{PairCommit, PairCommitted, PairConfirm, PairRefused, PairShare, PairStart};
pub use self::verify::{VerifyAsk, VerifyClose, VerifyFix, VerifyFixed, VerifyHashes, VerifyOpen, VerifyReady};
use super::Stream;
use super::wire::{MessageError, pb};

macro_rules! messages {
    ($($(#[$meta:meta])* $name:ident = $code:literal on $stream:ident),* $(,)?) => {
        /// The kind of a message: its code in the frame header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum MessageKind {
            $($name = $code,)*
        }

        impl MessageKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this code.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The stream on which this kind travels.
            pub const fn stream(self) -> Stream {
                match self {
                    $(Self::$name => Stream::$stream,)*
                }
            }
        }

        /// The typed part of a message; its payload, where the kind has one, stands beside it.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Message {
            $($name($name),)*
        }

        impl Message {
            /// The kind.
            pub const fn kind(&self) -> MessageKind {
                match self {
                    $(Self::$name(_) => MessageKind::$name,)*
                }
            }

            /// The meta part as it goes on the wire.
            pub fn encode_meta(&self) -> Bytes {
                Bytes::from(match self {
                    $(Self::$name(m) => m.put_pb().encode_to_vec(),)*
                })
            }

            /// The message of this kind in `meta`.
            pub fn decode_meta(kind: MessageKind, meta: &[u8]) -> Result<Self, MessageError> {
                Ok(match kind {
                    $(MessageKind::$name => Self::$name($name::from_pb(pb::$name::decode(meta)?)?),)*
                })
            }
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*
    };
}

messages!(
    Hello = 1 on Control,
    GroupOffer = 2 on Control,
    GroupState = 3 on Control,
    Verdict = 4 on Control,
    Batch = 5 on Bulk,
    CopyExtent = 6 on Bulk,
    CopyDone = 7 on Bulk,
    CopyAck = 8 on Control,
    Ack = 9 on Control,
    Credit = 10 on Control,
    Heartbeat = 11 on Control,
    Close = 12 on Control,
    Request = 13 on Control,
    Response = 14 on Control,
    PairStart = 15 on Control,
    PairShare = 16 on Control,
    PairConfirm = 17 on Control,
    PairCommit = 18 on Control,
    PairCommitted = 19 on Control,
    PairRefused = 20 on Control,
    VerifyOpen = 21 on Control,
    VerifyReady = 22 on Control,
    VerifyAsk = 23 on Control,
    VerifyHashes = 24 on Control,
    VerifyFix = 25 on Bulk,
    VerifyFixed = 26 on Control,
    VerifyClose = 27 on Control,
    BatchWanted = 28 on Control,
    BatchAgain = 29 on Bulk,
);

impl MessageKind {
    /// The code in the frame header.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// True where a payload follows the meta part.
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Batch | Self::CopyExtent | Self::VerifyFix | Self::BatchAgain)
    }
}
