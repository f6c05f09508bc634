//! A small iSCSI initiator: one connection per session, CRC32C on demand, no authentication, error recovery level 0.
//!
//! A session is shared by any number of tasks; commands are pipelined up to the target's window. Everything that was
//! queued while the connection was busy goes out with one system call.

mod commands;
mod login;
mod pdu;
mod session;

pub use commands::{Capacity, InquiryData};
pub use login::{Discovered, LoginOptions, Negotiated, discover};
pub use session::{Data, Response, Session};

use std::fmt;

/// Sense data of a CHECK CONDITION (SPC-4, 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// The information field, where it is valid.
    pub information: Option<u64>,
}

impl Sense {
    /// Reads fixed and descriptor format.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let at = |i: usize| bytes.get(i).copied();
        match at(0)? & 0x7f {
            0x70 | 0x71 => {
                let valid = at(0)? & 0x80 != 0;
                let information = bytes.get(3..7).filter(|_| valid).and_then(|b| b.try_into().ok());
                Some(Self {
                    key: at(2)? & 0x0f,
                    asc: at(12).unwrap_or(0),
                    ascq: at(13).unwrap_or(0),
                    information: information.map(|b| u64::from(u32::from_be_bytes(b))),
                })
            }
            0x72 | 0x73 => {
                let descriptor = bytes.get(8..20).filter(|d| d[0] == 0 && d[2] & 0x80 != 0);
                let information = descriptor.and_then(|d| d[4..12].try_into().ok()).map(u64::from_be_bytes);
                Some(Self { key: at(1)? & 0x0f, asc: at(2)?, ascq: at(3)?, information })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sense {:x}/{:02x}/{:02x}", self.key, self.asc, self.ascq)
    }
}

/// Why a command or a session failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InitiatorError {
    /// The socket failed.
    #[error("iSCSI connection")]
    Io(#[source] std::sync::Arc<std::io::Error>),
    /// The target closed the connection, or the session was dropped.
    #[error("iSCSI connection closed")]
    Closed,
    /// The target broke the protocol.
    #[error("iSCSI protocol broken by the target: {what}")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
    /// Login was refused (RFC 7143, 11.13.5).
    #[error("login refused, status {class:#04x}{detail:02x}")]
    Login {
        /// Status class.
        class: u8,
        /// Status detail.
        detail: u8,
    },
    /// The target rejected a PDU (RFC 7143, 11.17.1).
    #[error("PDU rejected, reason {reason:#04x}")]
    Rejected {
        /// Reason code.
        reason: u8,
    },
    /// The command ended with another status than GOOD.
    #[error("SCSI status {status:#04x}{}", sense.map(|s| format!(", {s}")).unwrap_or_default())]
    Status {
        /// SCSI status.
        status: u8,
        /// Sense, where there was some.
        sense: Option<Sense>,
    },
    /// The target did not carry the command out at all (iSCSI response code).
    #[error("iSCSI response {response:#04x}")]
    Target {
        /// Response code.
        response: u8,
    },
    /// Less or more data came than asked for.
    #[error("{got} bytes came, {wanted} wanted")]
    Length {
        /// Bytes received.
        got: usize,
        /// Bytes expected.
        wanted: usize,
    },
    /// Task management did not complete (RFC 7143, 11.6.1).
    #[error("task management response {response}")]
    TaskManagement {
        /// Response code.
        response: u8,
    },
    /// The command was ended by ABORT TASK.
    #[error("aborted")]
    Aborted,
}

impl From<std::io::Error> for InitiatorError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(std::sync::Arc::new(error))
    }
}

impl InitiatorError {
    /// True where the target refused the login as the initiator's fault: initiators do not try again then.
    pub fn is_final_login(&self) -> bool {
        matches!(self, Self::Login { class: 2, .. })
    }

    /// True where the target answered: the session still lives.
    pub fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Status { .. }
                | Self::Rejected { .. }
                | Self::TaskManagement { .. }
                | Self::Target { .. }
                | Self::Aborted
        )
    }

    /// The sense, where there is one.
    pub fn sense(&self) -> Option<Sense> {
        match self {
            Self::Status { sense, .. } => *sense,
            _ => None,
        }
    }
}
