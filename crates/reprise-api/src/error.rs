//! The one error type of the API.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $http:literal;)*) => {
        /// What went wrong, for programs. The text form is stable: codes are added, never renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The text form.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status an answer with this code has.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $http,)* }
            }
        }
    };
}

error_codes! {
    /// The request cannot be read or breaks a rule of its fields.
    BadRequest = "bad-request", 400;
    /// No token, or one that is not known.
    Unauthorized = "unauthorized", 401;
    /// The caller's right does not cover the command.
    Forbidden = "forbidden", 403;
    /// There is no such group, volume, peer, job, alert, token or route.
    NotFound = "not-found", 404;
    /// The name is in use already.
    NameTaken = "name-taken", 409;
    /// A host or a mirror uses the thing.
    InUse = "in-use", 409;
    /// The command does not fit the state the thing is in.
    WrongState = "wrong-state", 409;
    /// The box has no pool yet.
    NoPool = "no-pool", 409;
    /// Not enough room in the pool, here or at the peer.
    NoSpace = "no-space", 409;
    /// The device or image cannot be used: missing, too small, of the wrong kind or not what it was.
    DeviceUnusable = "device-unusable", 409;
    /// The volume at the peer holds an image that would have to be given up.
    ImageExists = "image-exists", 409;
    /// The peer cannot be reached.
    PeerUnreachable = "peer-unreachable", 503;
    /// The peer refused; the message says why.
    PeerRefused = "peer-refused", 409;
    /// The pairing did not come about.
    PairingFailed = "pairing-failed", 409;
    /// The group is fenced after a failed write or sync of its journal.
    Fenced = "fenced", 409;
    /// The group's line forked from its peer's without proof; a person has to choose.
    Diverged = "diverged", 409;
    /// The confirmation token is unknown, used or expired, or belongs to another caller.
    ConfirmationUnknown = "confirmation-unknown", 409;
    /// What the preview said is no longer true.
    ConfirmationStale = "confirmation-stale", 409;
    /// A limit on how many of something there may be is reached.
    LimitReached = "limit-reached", 409;
    /// The request is larger than any command is.
    TooLarge = "too-large", 413;
    /// This version cannot do it.
    NotSupported = "not-supported", 501;
    /// The command did not end in time; it may still take effect.
    Timeout = "timeout", 504;
    /// The box is stopping.
    ShuttingDown = "shutting-down", 503;
    /// A bug or a failure of the box itself; the log has more.
    Internal = "internal", 500;
}

impl PartialSchema for ErrorCode {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some("What went wrong, for programs. Codes are added, never renamed."))
            .into()
    }
}

impl ToSchema for ErrorCode {
    fn name() -> Cow<'static, str> {
        "ErrorCode".into()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a refused command answers, in every form of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened.
    pub message: String,
    /// For people: what to do. May be empty where there is nothing to do.
    pub what_to_do: String,
}

impl ApiError {
    /// An error with advice.
    pub fn new(code: ErrorCode, message: impl Into<String>, what_to_do: impl Into<String>) -> Self {
        Self { code, message: message.into(), what_to_do: what_to_do.into() }
    }

    /// There is no `kind` called `name`.
    pub fn not_found(kind: &str, name: impl fmt::Display) -> Self {
        Self::new(
            ErrorCode::NotFound,
            format!("there is no {kind} {name}"),
            format!("list what there is: reprise {kind} list"),
        )
    }

    /// A failure of the box itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message, "look into the log of the box")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_unique_and_errors_in_http() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            let text = code.as_str();
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{text}");
            assert!(seen.insert(text), "{text} twice");
            assert!((400..600).contains(&code.http_status()), "{text}");
            assert_eq!(serde_json::to_value(code).unwrap(), text);
            assert_eq!(serde_json::from_value::<ErrorCode>(text.into()).unwrap(), *code);
        }
    }
}
