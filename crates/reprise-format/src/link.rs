//! Link frames and messages (docs/formats.md, "Link").
//!
//! A *message* is a typed meta part (protobuf, `proto/link.proto`) and, for two kinds, an opaque payload. It travels as
//! one or more *frames*, each with a header, at most [`CHUNK_BYTES_MAX`] bytes of the message and a checksum, so that
//! the next heartbeat or control message waits behind one chunk and never behind a whole batch.
//!
//! Nothing here knows what a message means for a group; that is `reprise-link`.

mod frame;
mod messages;
mod wire;

pub use frame::{
    CHUNK_BYTES_MAX, CONTROL_MESSAGE_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, META_BYTES_MAX,
    PAYLOAD_BYTES_MAX, Stream, WIRE_VERSION,
};
pub use messages::{
    Ack, Batch, BatchAgain, BatchWanted, BoxInfo, BoxInfoQuery, BranchLink, Close, CloseReason, Command, CopyAck,
    CopyCursor, CopyDone, CopyExtent, CopyNeed, CreateMirror, Credit, DeleteMirror, Done, ForgetPeer, GroupOffer,
    GroupState, Heartbeat, Hello, HelloKind, Instance, Membership, Message, MessageKind, Nonce, Outcome, PairCommit,
    PairCommitted, PairConfirm, PairRefusal, PairRefused, PairShare, PairStart, PauseNotice, RefusalReason, Refused,
    Request, ReserveVolume, Response, Rotten, Row, Side, Trouble, Verdict, VerifyAsk, VerifyClose, VerifyFix,
    VerifyFixed, VerifyHashes, VerifyOpen, VerifyReady, Volume,
};
pub use wire::MessageError;

#[cfg(test)]
mod tests;
