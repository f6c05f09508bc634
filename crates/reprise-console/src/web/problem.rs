//! Why something did not come about, for a person.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use reprise_api::{ApiError, ClientError, ErrorCode};

use super::page;
use super::session::NoRandom;

/// A request that did not come about.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    kind: Kind,
    message: String,
    what_to_do: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// What was typed breaks a rule; in this field, where it is known.
    Input(Option<&'static str>),
    /// The box said no.
    Refused(ErrorCode),
    /// The box's service does not answer.
    Away,
    /// Something failed here.
    Ours,
}

impl Problem {
    /// What came cannot be used.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input(None), message: message.into(), what_to_do: String::new() }
    }

    /// What was typed into a field cannot be used.
    pub(crate) fn field(name: &'static str, message: impl Into<String>) -> Self {
        Self { kind: Kind::Input(Some(name)), message: message.into(), what_to_do: String::new() }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn what_to_do(&self) -> &str {
        &self.what_to_do
    }

    /// The field it is about.
    pub(crate) fn field_name(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Input(name) => name,
            _ => None,
        }
    }

    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self.kind {
            Kind::Refused(code) => Some(code),
            _ => None,
        }
    }

    /// True when the box's service does not answer, so that it is worth trying again.
    pub(crate) fn is_away(&self) -> bool {
        self.kind == Kind::Away || self.code() == Some(ErrorCode::ShuttingDown)
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self.kind {
            Kind::Input(_) => StatusCode::BAD_REQUEST,
            Kind::Refused(code) => {
                StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Kind::Away => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Ours => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        Self { kind: Kind::Refused(error.code), message: error.message, what_to_do: error.what_to_do }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(error) => error.into(),
            ClientError::NotUnderstood { .. } => {
                tracing::warn!(%error, "the API's answer is not understood");
                Self {
                    kind: Kind::Ours,
                    message: "The box's service gave an answer this console does not understand.".to_owned(),
                    what_to_do: "Start the box again; if that does not help, look into its log.".to_owned(),
                }
            }
            away => {
                tracing::debug!(error = &away as &dyn std::error::Error, "the API does not answer");
                Self {
                    kind: Kind::Away,
                    message: "The box's service does not answer.".to_owned(),
                    what_to_do:
                        "It may be starting. If this lasts, look at the serial console or the screen of the box."
                            .to_owned(),
                }
            }
        }
    }
}

impl From<NoRandom> for Problem {
    fn from(error: NoRandom) -> Self {
        let what_to_do = "Start the box again.".to_owned();
        Self { kind: Kind::Ours, message: format!("This failed: {error}."), what_to_do }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        page::problem(&self)
    }
}
