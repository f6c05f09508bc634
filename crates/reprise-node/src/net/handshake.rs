//! The first messages of a connection, under a deadline and with small bounds.

use std::io;

use reprise_format::link::{CONTROL_MESSAGE_BYTES_MAX, CloseReason, Frame, Message, MessageKind, Stream};
use reprise_link::handshake::GreetError;
use reprise_link::mux::{AssembleError, Assembler, Muxer};
use reprise_link::pairing::PairError;
use rustls::{CertificateError, Error as TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// What ends a connection, or keeps it from being made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The socket failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The failure.
        source: io::Error,
    },
    /// The other end does not speak TLS 1.3 as the link does: plain TCP, another program, another protocol.
    #[error("no TLS handshake")]
    Tls {
        /// What TLS says.
        source: TlsError,
    },
    /// The other end has another key than the one that was pinned.
    #[error("the other end has another key than the one it was paired with")]
    WrongKey,
    /// The first messages took too long.
    #[error("the other end did not greet in time")]
    Timeout,
    /// Others came in its place while it had not shown a paired key.
    #[error("closed to let others in, before it showed a paired key")]
    Crowded,
    /// The other end has closed.
    #[error("closed by the other end")]
    PeerClosed,
    /// The other end has closed and said why.
    #[error("refused by the other end: {reason:?} {detail}")]
    Refused {
        /// Why.
        reason: CloseReason,
        /// For people.
        detail: String,
    },
    /// The bytes are no messages.
    #[error("read from the link")]
    Frames(#[from] AssembleError),
    /// A payload is not what its frame says.
    #[error("read a payload")]
    Payload {
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A message that has no place in a greeting.
    #[error("unexpected {kind:?}")]
    Unexpected {
        /// Its kind.
        kind: MessageKind,
    },
    /// The two boxes cannot talk.
    #[error("greet")]
    Greet(#[from] GreetError),
    /// Pairing failed.
    #[error("pair")]
    Pair(#[from] PairError),
    /// The peer could not be stored.
    #[error("store the peer")]
    Store(#[source] io::Error),
    /// The box to dial is not among the peers.
    #[error("not paired with that box")]
    UnknownPeer,
    /// More control messages wait than any sane exchange needs.
    #[error("control queue is full")]
    ControlFlood,
    /// The owner of the connection is gone.
    #[error("the owner of the connection is gone")]
    OwnerGone,
    /// The box stops.
    #[error("the box stops")]
    Stopping,
}

impl NetError {
    /// From the failure of a TLS handshake.
    pub(super) fn from_tls(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()).cloned();
        match inner {
            Some(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => Self::WrongKey,
            Some(source) => Self::Tls { source },
            None => Self::Io { what: "TLS handshake", source: error },
        }
    }
}

/// A TLS connection on which only control messages are exchanged, one at a time.
pub(super) struct Greeter {
    stream: TlsStream<TcpStream>,
    pending: Vec<u8>,
    assembler: Assembler,
}

impl Greeter {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, pending: Vec::new(), assembler: Assembler::default() }
    }

    pub(super) async fn send(&mut self, message: impl Into<Message>) -> Result<(), NetError> {
        let io = |source| NetError::Io { what: "write", source };
        let mut muxer = Muxer::default();
        muxer.push(&message.into(), bytes::Bytes::new(), None).map_err(|_| NetError::ControlFlood)?;
        let mut out = Vec::new();
        while muxer.write_frame(&mut out) {}
        self.stream.write_all(&out).await.map_err(io)?;
        self.stream.flush().await.map_err(io)
    }

    /// The next message; a `Close` becomes an error.
    pub(super) async fn receive(&mut self) -> Result<Message, NetError> {
        loop {
            while let Some((frame, used)) = Frame::decode(&self.pending).map_err(AssembleError::from)? {
                if frame.stream != Stream::Control {
                    return Err(NetError::Unexpected { kind: frame.kind });
                }
                let done = self.assembler.accept(&frame, &mut |_| None)?;
                self.pending.drain(..used);
                match done {
                    Some((Message::Close(close), _)) => {
                        return Err(NetError::Refused { reason: close.reason, detail: close.detail });
                    }
                    Some((message, _)) => return Ok(message),
                    None => {}
                }
            }
            let mut chunk = [0u8; 4096];
            let len = self.stream.read(&mut chunk).await.map_err(|error| {
                if error.get_ref().is_some() {
                    NetError::from_tls(error)
                } else {
                    NetError::Io { what: "read", source: error }
                }
            })?;
            if len == 0 {
                return Err(NetError::PeerClosed);
            }
            self.pending.extend_from_slice(&chunk[..len]);
            debug_assert!(self.pending.len() <= CONTROL_MESSAGE_BYTES_MAX as usize);
        }
    }

    /// The connection, and what was read behind the last message.
    pub(super) fn into_parts(self) -> (TlsStream<TcpStream>, Vec<u8>) {
        (self.stream, self.pending)
    }

    /// Says why, then closes; whether that arrives is not known.
    pub(super) async fn refuse(mut self, message: impl Into<Message>) {
        let _ = self.send(message).await;
        let _ = self.stream.shutdown().await;
        // Reading until the other end closes lets it read the reason: closing with unread bytes would reset the line.
        let mut sink = [0u8; 1024];
        while matches!(self.stream.read(&mut sink).await, Ok(len) if len > 0) {}
    }
}
