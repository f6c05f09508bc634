//! Who is told what happens: kept in a file of its own in the state directory, so that a reset can take it away without
//! opening the control store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use anyhow::Context;
use reprise_api::{
    Alert, ApiError, ErrorCode, MAIL_CHARS_MAX, Name, NotifySettings, NotifyTest, RECEIVERS_MAX, URL_CHARS_MAX,
};

use super::board::Board;
use super::locked;
use super::notify::{Change, Failure, Notifier};
use super::told::Message;
use crate::store::write_secret;

/// Settings, and what sends by them.
pub(crate) struct Messages {
    path: PathBuf,
    settings: Mutex<NotifySettings>,
    notifier: Notifier,
    /// Where failures are told; a box without a pool has none and logs them.
    board: Arc<OnceLock<Weak<Board>>>,
}

impl Messages {
    /// Reads what the state directory has, and begins.
    ///
    /// # Errors
    /// The file is there and cannot be read, or there is no thread.
    pub(crate) fn open(state: &Path, box_name: &Name) -> anyhow::Result<Self> {
        let path = state.join("notify.json");
        let settings: NotifySettings = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => NotifySettings::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let board: Arc<OnceLock<Weak<Board>>> = Arc::default();
        let told = board.clone();
        let notifier = Notifier::new(box_name, move |failure| report(told.get().and_then(Weak::upgrade), failure))
            .context("start the thread of messages")?;
        notifier.settings(settings.clone());
        Ok(Self { path, settings: Mutex::new(settings), notifier, board })
    }

    /// Tells failures on this board from now on.
    pub(crate) fn set_board(&self, board: &Arc<Board>) {
        // A box has one board.
        let _ = self.board.set(Arc::downgrade(board));
    }

    /// An alert changed. Never waits.
    pub(crate) fn changed(&self, alert: &Alert, change: Change) {
        self.notifier.changed(alert, change);
    }

    /// The settings without passwords.
    pub(crate) fn show(&self) -> NotifySettings {
        let mut settings = locked(&self.settings).clone();
        if let Some(mail) = &mut settings.mail {
            mail.password = None;
        }
        settings
    }

    /// Takes other settings. A mail server without a password keeps the one there is. Blocks for the disk.
    pub(crate) fn set(&self, mut wanted: NotifySettings) -> Result<NotifySettings, ApiError> {
        check(&wanted)?;
        let mut settings = locked(&self.settings);
        if let (Some(new), Some(old)) = (&mut wanted.mail, &settings.mail)
            && new.password.as_deref().unwrap_or_default().is_empty()
            && (&new.server, &new.user) == (&old.server, &old.user)
        {
            new.password.clone_from(&old.password);
        }
        let failed = |e: String| ApiError::internal(format!("keep who is told: {e}"));
        let text = serde_json::to_string(&wanted).map_err(|e| failed(e.to_string()))?;
        write_secret(&self.path, &text).map_err(|e| failed(e.to_string()))?;
        self.notifier.settings(wanted.clone());
        *settings = wanted;
        drop(settings);
        Ok(self.show())
    }

    /// Sends everybody a test.
    pub(crate) async fn test(&self) -> NotifyTest {
        self.notifier.test().await
    }
}

/// A message that did not arrive is told where people look; never as an alert, which would be a message again.
fn report(board: Option<Arc<Board>>, failure: Failure) {
    let Failure { to, error, gave_up } = failure;
    let (to, why) = (to.as_str(), error.as_str());
    let message = if gave_up { Message::NotifyGivenUp { to, why } } else { Message::NotifyFailed { to, why } };
    let told = message.about("box");
    match board {
        Some(board) => board.event(told),
        None => tracing::warn!("{}", told.text),
    }
}

fn check(settings: &NotifySettings) -> Result<(), ApiError> {
    let bad = |message: String, what: &str| Err(ApiError::new(ErrorCode::BadRequest, message, what));
    if settings.webhooks.len() > RECEIVERS_MAX {
        return bad(format!("more than {RECEIVERS_MAX} webhooks"), "name fewer");
    }
    for hook in &settings.webhooks {
        let known =
            ["https://", "http://"].iter().any(|s| hook.url.strip_prefix(s).is_some_and(|rest| !rest.is_empty()));
        if !known || hook.url.len() > URL_CHARS_MAX || hook.url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return bad(format!("{:?} is no address of a webhook", hook.url), "write https://NAME/PATH");
        }
    }
    let Some(mail) = &settings.mail else { return Ok(()) };
    if mail.to.is_empty() || mail.to.len() > RECEIVERS_MAX {
        return bad(format!("mail needs 1 to {RECEIVERS_MAX} receivers"), "name them in `to`");
    }
    for text in [&mail.server, &mail.from].into_iter().chain(&mail.to) {
        if text.is_empty() || text.chars().count() > MAIL_CHARS_MAX || text.chars().any(char::is_control) {
            return bad(format!("{text:?} is no name or address"), "write NAME@HOST, or the name of the server");
        }
    }
    for address in mail.to.iter().chain([&mail.from]) {
        if !address.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty()) {
            return bad(format!("{address:?} is no address of mail"), "write NAME@HOST");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(password: Option<&str>, server: &str) -> NotifySettings {
        let text = serde_json::json!({ "webhooks": [{ "url": "https://example.net/hook" }], "mail": {
            "server": server, "user": "box", "password": password, "from": "a@example.net", "to": ["b@example.net"]
        } });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn passwords_are_kept_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let name: Name = "a".parse().unwrap();
        let messages = Messages::open(dir.path(), &name).unwrap();
        assert_eq!(messages.show(), NotifySettings::default());
        let shown = messages.set(mail(Some("secret"), "mail.example.net")).unwrap();
        assert_eq!(shown.mail.as_ref().unwrap().password, None);
        messages.set(mail(None, "mail.example.net")).unwrap();
        let kept = std::fs::read_to_string(dir.path().join("notify.json")).unwrap();
        assert!(kept.contains("secret"), "{kept}");
        let again = Messages::open(dir.path(), &name).unwrap();
        assert_eq!(again.show(), shown);
        // A password is never carried to another server.
        again.set(mail(None, "elsewhere.example.net")).unwrap();
        assert!(!std::fs::read_to_string(dir.path().join("notify.json")).unwrap().contains("secret"));
    }

    #[test]
    fn addresses_that_cannot_be_are_refused() {
        for url in
            ["", "https://", "ftp://x", "https://a b", "javascript:alert(1)", &format!("https://{}", "x".repeat(1025))]
        {
            let mut settings = mail(None, "m");
            settings.webhooks[0].url = url.to_owned();
            assert!(check(&settings).is_err(), "{url}");
        }
        for to in [vec![], vec!["nobody".to_owned()], vec!["a@b\r\nBcc: c@d".to_owned()], vec!["a@b".to_owned(); 9]] {
            let mut settings = mail(None, "m");
            settings.mail.as_mut().unwrap().to = to.clone();
            assert!(check(&settings).is_err(), "{to:?}");
        }
        assert!(check(&mail(None, "m")).is_ok());
    }
}
