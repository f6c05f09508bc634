//! Who is logged in. The table lives in memory: a restart of the console logs everybody out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reprise_api::Action;
use subtle::ConstantTimeEq;

/// Sessions at a time; at the limit the one unused for longest ends. One administrator has a handful of browsers.
const SESSIONS_MAX: usize = 64;
/// Confirmations a session may have open, such as in several tabs; at the limit the oldest is void.
const PENDING_MAX: usize = 8;
/// Event streams of one session at a time: one for each visible window.
const STREAMS_MAX: usize = 8;
/// Longest message kept for the next page, characters.
const FLASH_CHARS_MAX: usize = 600;

/// How long a login holds.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Without a request.
    pub idle: Duration,
    /// In all.
    pub life: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), life: Duration::from_secs(12 * 3600) }
    }
}

/// The system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the box has no random numbers")]
pub(crate) struct NoRandom;

/// 256 random bits, hexadecimal.
pub(crate) fn secret() -> Result<String, NoRandom> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(hex::encode(bytes))
}

/// Compares secrets in a time that tells nothing of where they differ.
pub(crate) fn same(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Finds a session: the hash of its cookie. The cookie itself is kept nowhere but in the browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey([u8; 32]);

impl SessionKey {
    pub(crate) fn of(cookie: &str) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, cookie.as_bytes()).as_ref());
        Self(out)
    }
}

/// An action that was previewed and not yet confirmed. The API's token stays on the box.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) action: Action,
    pub(crate) summary: String,
    pub(crate) losses: Vec<String>,
    /// What has to be typed.
    pub(crate) typed: String,
}

/// Counts the event streams of a session.
#[derive(Debug)]
pub(crate) struct Stream(Arc<AtomicUsize>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Session {
    csrf: String,
    begun: Instant,
    used: Instant,
    flash: Option<String>,
    pending: Vec<Pending>,
    streams: Arc<AtomicUsize>,
}

/// What a page needs to know of its session.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: SessionKey,
    pub(crate) csrf: String,
}

/// The sessions. They are not bound to an address: a browser goes from IPv4 to IPv6 and back as it likes.
#[derive(Debug)]
pub(crate) struct Sessions {
    limits: SessionLimits,
    table: BTreeMap<SessionKey, Session>,
}

impl Sessions {
    pub(crate) fn new(limits: SessionLimits) -> Self {
        Self { limits, table: BTreeMap::new() }
    }

    /// Begins a session; gives its cookie.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<String, NoRandom> {
        self.sweep(now);
        if self.table.len() >= SESSIONS_MAX {
            let oldest = self.table.iter().min_by_key(|(_, s)| s.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.table.remove(&key));
        }
        let cookie = secret()?;
        let session = Session {
            csrf: secret()?,
            begun: now,
            used: now,
            flash: None,
            pending: Vec::new(),
            streams: Arc::default(),
        };
        self.table.insert(SessionKey::of(&cookie), session);
        Ok(cookie)
    }

    fn sweep(&mut self, now: Instant) {
        let limits = self.limits;
        self.table.retain(|_, s| {
            now.saturating_duration_since(s.used) < limits.idle && now.saturating_duration_since(s.begun) < limits.life
        });
    }

    /// The session of a cookie. `touch`: a person asked for something, so it stays for longer.
    pub(crate) fn find(&mut self, now: Instant, cookie: &str, touch: bool) -> Option<Found> {
        self.sweep(now);
        let key = SessionKey::of(cookie);
        let session = self.table.get_mut(&key)?;
        if touch {
            session.used = now;
        }
        Some(Found { key, csrf: session.csrf.clone() })
    }

    /// True while it holds. Does not make it last.
    pub(crate) fn holds(&mut self, now: Instant, key: SessionKey) -> bool {
        self.sweep(now);
        self.table.contains_key(&key)
    }

    pub(crate) fn end(&mut self, key: SessionKey) {
        self.table.remove(&key);
    }

    /// Ends every session but one: the password is another.
    pub(crate) fn end_others(&mut self, key: SessionKey) {
        self.table.retain(|k, _| *k == key);
    }

    /// Ends every session: there is no password any more, or another first one.
    pub(crate) fn end_all(&mut self) {
        self.table.clear();
    }

    /// Leaves a message for the next page.
    pub(crate) fn tell(&mut self, key: SessionKey, message: &str) {
        if let Some(session) = self.table.get_mut(&key) {
            session.flash = Some(message.chars().take(FLASH_CHARS_MAX).collect());
        }
    }

    pub(crate) fn take_message(&mut self, key: SessionKey) -> Option<String> {
        self.table.get_mut(&key)?.flash.take()
    }

    /// Keeps an action until it is confirmed.
    pub(crate) fn keep_pending(&mut self, key: SessionKey, pending: Pending) {
        if let Some(session) = self.table.get_mut(&key) {
            if session.pending.len() >= PENDING_MAX {
                session.pending.remove(0);
            }
            session.pending.push(pending);
        }
    }

    pub(crate) fn pending(&self, key: SessionKey, id: &str) -> Option<Pending> {
        self.table.get(&key)?.pending.iter().find(|p| same(&p.id, id)).cloned()
    }

    pub(crate) fn drop_pending(&mut self, key: SessionKey, id: &str) {
        if let Some(session) = self.table.get_mut(&key) {
            session.pending.retain(|p| !same(&p.id, id));
        }
    }

    /// A place for an event stream; none at the limit.
    pub(crate) fn stream(&self, key: SessionKey) -> Option<Stream> {
        let streams = &self.table.get(&key)?.streams;
        if streams.load(Ordering::Relaxed) >= STREAMS_MAX {
            return None;
        }
        streams.fetch_add(1, Ordering::Relaxed);
        Some(Stream(streams.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_idling_and_by_age() {
        let t0 = Instant::now();
        let min = |n: u64| t0 + Duration::from_secs(n * 60);
        let mut sessions = Sessions::new(SessionLimits::default());
        let cookie = sessions.begin(t0).unwrap();
        assert!(sessions.find(min(29), &cookie, true).is_some());
        assert!(sessions.find(min(58), &cookie, false).is_some());
        assert!(sessions.find(min(59), &cookie, false).is_none(), "a look that no person asked for does not count");
        let cookie = sessions.begin(t0).unwrap();
        for n in (20..720).step_by(20) {
            assert!(sessions.find(min(n), &cookie, true).is_some(), "{n}");
        }
        assert!(sessions.find(min(720), &cookie, true).is_none());
        assert!(sessions.find(t0, "", true).is_none());
    }

    #[test]
    fn the_table_and_what_hangs_on_it_are_bounded() {
        let t0 = Instant::now();
        let mut sessions = Sessions::new(SessionLimits::default());
        let first = sessions.begin(t0).unwrap();
        let cookies: Vec<_> =
            (1..=SESSIONS_MAX as u64).map(|n| sessions.begin(t0 + Duration::from_secs(n)).unwrap()).collect();
        let now = t0 + Duration::from_secs(100);
        assert!(sessions.find(now, &first, true).is_none(), "the one unused for longest went");
        let key = sessions.find(now, &cookies[0], true).unwrap().key;
        let streams: Vec<_> = (0..STREAMS_MAX).map(|_| sessions.stream(key).unwrap()).collect();
        assert!(sessions.stream(key).is_none());
        drop(streams);
        assert!(sessions.stream(key).is_some());
        for n in 0..=PENDING_MAX {
            let pending = Pending {
                id: n.to_string(),
                token: String::new(),
                action: Action::GroupDelete { group: "g".parse().unwrap() },
                summary: String::new(),
                losses: Vec::new(),
                typed: String::new(),
            };
            sessions.keep_pending(key, pending);
        }
        assert!(sessions.pending(key, "0").is_none());
        assert!(sessions.pending(key, "1").is_some());
        sessions.tell(key, &"x".repeat(5000));
        assert_eq!(sessions.take_message(key).unwrap().len(), FLASH_CHARS_MAX);
        assert!(sessions.take_message(key).is_none());
        sessions.end_others(key);
        assert!(sessions.find(now, &cookies[1], true).is_none());
        assert!(sessions.find(now, &cookies[0], true).is_some());
    }
}
