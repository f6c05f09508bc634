//! Who may use the consoles, and who is told what happens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Shortest password, characters.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Longest password, bytes: bounds what a login makes the box hash.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// Longest address of a webhook, characters.
pub const URL_CHARS_MAX: usize = 1024;
/// Longest name of a mail server or address of mail, characters.
pub const MAIL_CHARS_MAX: usize = 320;
/// Most webhooks, and most receivers of mail.
pub const RECEIVERS_MAX: usize = 8;

/// The administrator's password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminStatus {
    /// False until somebody sets one, with the code that the box shows.
    pub password_set: bool,
    /// Another one each time the password changes or all sessions are ended. A session of the web console belongs to the
    /// generation in which it began, and ends with it.
    pub generation: String,
}

/// What proves that somebody stands at the box, while it has no password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AdminCode {
    /// The code that sets the first password, such as `4F7-K2M-9TX`: until it is used, the box starts again, or a thousand
    /// wrong ones were tried. Null where a password is set.
    pub code: Option<String>,
}

impl std::fmt::Debug for AdminCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminCode").finish_non_exhaustive()
    }
}

/// Sets the administrator's password, by the one so far or, while there is none, by the code that the box shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordSet {
    /// The one so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The code that the box shows while it has no password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The new one, 10 characters to 256 bytes.
    #[schema(min_length = 10, max_length = 256)]
    pub new: String,
    /// Where it was typed, such as the address of a browser; tries are counted by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl std::fmt::Debug for PasswordSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordSet").field("from", &self.from).finish_non_exhaustive()
    }
}

/// Sets the administrator's password without the one so far: for whoever has the box in hands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordReset {
    /// The new one, 10 characters to 256 bytes.
    #[schema(min_length = 10, max_length = 256)]
    pub new: String,
}

impl std::fmt::Debug for PasswordReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordReset").finish_non_exhaustive()
    }
}

/// Asks whether a password is the administrator's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The password.
    pub password: String,
    /// Where it was typed, such as the address of a browser; tries are counted by it.
    pub from: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("from", &self.from).finish_non_exhaustive()
    }
}

/// Who is told when an alert begins, grows worse or ends: one message for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NotifySettings {
    /// Called with a JSON body, at most 8.
    #[schema(max_items = 8)]
    pub webhooks: Vec<Webhook>,
    /// Mail; off if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailSettings>,
}

/// An address that is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https://...` or `http://...`, at most 1024 characters.
    #[schema(pattern = "^https?://[!-~]+$", max_length = 1024)]
    pub url: String,
}

/// Address of mail: a schema and nothing else.
#[derive(ToSchema)]
#[schema(pattern = "^[!-?A-~]+@[!-~]+$", max_length = 320)]
#[expect(dead_code, reason = "its schema alone is used")]
struct MailAddress(String);

/// How mail is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MailSettings {
    /// Name or address of the server, at most 320 characters.
    #[schema(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$", max_length = 320)]
    pub server: String,
    /// Its port: 465 for `tls`, 587 for `starttls`, 25 for `none` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 65535)]
    pub port: Option<u16>,
    /// How the way there is protected.
    #[serde(default)]
    pub security: MailSecurity,
    /// Name to log in with; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its password. Never shown: an empty one keeps the one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Sender, `NAME@HOST` of at most 320 characters.
    #[schema(pattern = "^[!-?A-~]+@[!-~]+$", max_length = 320)]
    pub from: String,
    /// Receivers, 1 to 8, each `NAME@HOST` of at most 320 characters.
    #[schema(value_type = Vec<MailAddress>, min_items = 1, max_items = 8)]
    pub to: Vec<String>,
}

impl std::fmt::Debug for MailSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MailSettings").field("server", &self.server).field("to", &self.to).finish_non_exhaustive()
    }
}

/// How the way to a mail server is protected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MailSecurity {
    /// TLS from the first byte.
    #[default]
    Tls,
    /// TLS after STARTTLS, never without.
    Starttls,
    /// None: for a server on the same network only.
    None,
}

/// How the messages of a test went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotifyTest {
    /// One for each webhook, and one for mail.
    pub results: Vec<NotifyResult>,
}

/// How one message went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NotifyResult {
    /// Where to: the address of the webhook, or the mail server.
    pub to: String,
    /// Why it did not arrive; null if it was taken.
    pub error: Option<String>,
}
