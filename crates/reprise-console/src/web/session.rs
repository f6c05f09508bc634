//! Who is logged in. The table lives in memory: a restart of the console logs everybody out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
/// What is kept of how a browser calls itself, characters: it ends behind the part that tells browsers apart.
const BROWSER_CHARS_MAX: usize = 160;

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

    /// What a page calls the session by. It leads to no cookie.
    fn id(&self) -> String {
        hex::encode(&self.0[..8])
    }
}

/// Who uses a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// Address of the browser.
    pub(crate) address: String,
    /// How it calls itself; printable.
    pub(crate) browser: String,
}

impl Visitor {
    pub(crate) fn new(address: String, browser: &str) -> Self {
        let browser = browser.chars().filter(|c| !c.is_control()).take(BROWSER_CHARS_MAX).collect();
        Self { address, browser }
    }
}

/// A session as the list has it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) key: SessionKey,
    pub(crate) since_unix_ms: u64,
    pub(crate) used_unix_ms: u64,
    pub(crate) visitor: Visitor,
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
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
    /// The generation of the password in which it began.
    generation: String,
    begun: Instant,
    used: Instant,
    begun_unix_ms: u64,
    used_unix_ms: u64,
    /// Who used it last.
    visitor: Visitor,
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
    pub(crate) fn begin(&mut self, now: Instant, generation: &str, visitor: Visitor) -> Result<String, NoRandom> {
        self.sweep(now);
        if self.table.len() >= SESSIONS_MAX {
            let oldest = self.table.iter().min_by_key(|(_, s)| s.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.table.remove(&key));
        }
        let cookie = secret()?;
        let session = Session {
            csrf: secret()?,
            generation: generation.to_owned(),
            begun: now,
            used: now,
            begun_unix_ms: unix_ms(),
            used_unix_ms: unix_ms(),
            visitor,
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
    pub(crate) fn find(&mut self, now: Instant, cookie: &str, touch: Option<Visitor>) -> Option<Found> {
        self.sweep(now);
        let key = SessionKey::of(cookie);
        let session = self.table.get_mut(&key)?;
        if let Some(visitor) = touch {
            (session.used, session.used_unix_ms, session.visitor) = (now, unix_ms(), visitor);
        }
        Some(Found { key, csrf: session.csrf.clone() })
    }

    /// Generations of the password that there are sessions of.
    pub(crate) fn generations(&self) -> BTreeSet<String> {
        self.table.values().map(|s| s.generation.clone()).collect()
    }

    /// Ends the sessions of these generations.
    pub(crate) fn end_generations(&mut self, over: &BTreeSet<String>) {
        self.table.retain(|_, s| !over.contains(&s.generation));
    }

    /// Takes a session into another generation: the password was changed in it.
    pub(crate) fn renew(&mut self, key: SessionKey, generation: &str) {
        if let Some(session) = self.table.get_mut(&key) {
            session.generation = generation.to_owned();
        }
    }

    /// Every session, the one used last first.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let listed = |(key, s): (&SessionKey, &Session)| Listed {
            id: key.id(),
            key: *key,
            since_unix_ms: s.begun_unix_ms,
            used_unix_ms: s.used_unix_ms,
            visitor: s.visitor.clone(),
        };
        let mut all: Vec<_> = self.table.iter().map(listed).collect();
        all.sort_by_key(|s| std::cmp::Reverse(s.used_unix_ms));
        all
    }

    /// Ends the session that a page calls so; false where there is none.
    pub(crate) fn end_by_id(&mut self, id: &str) -> bool {
        let before = self.table.len();
        self.table.retain(|key, _| key.id() != id);
        self.table.len() < before
    }

    /// True while it holds. Does not make it last.
    pub(crate) fn holds(&mut self, now: Instant, key: SessionKey) -> bool {
        self.sweep(now);
        self.table.contains_key(&key)
    }

    pub(crate) fn end(&mut self, key: SessionKey) {
        self.table.remove(&key);
    }

    /// Ends every session but one.
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

    fn visitor() -> Visitor {
        Visitor::new("192.0.2.1".into(), "a browser")
    }

    #[test]
    fn a_session_ends_by_idling_and_by_age() {
        let t0 = Instant::now();
        let min = |n: u64| t0 + Duration::from_secs(n * 60);
        let mut sessions = Sessions::new(SessionLimits::default());
        let cookie = sessions.begin(t0, "1", visitor()).unwrap();
        assert!(sessions.find(min(29), &cookie, Some(visitor())).is_some());
        assert!(sessions.find(min(58), &cookie, None).is_some());
        assert!(sessions.find(min(59), &cookie, None).is_none(), "a look that no person asked for does not count");
        let cookie = sessions.begin(t0, "1", visitor()).unwrap();
        for n in (20..720).step_by(20) {
            assert!(sessions.find(min(n), &cookie, Some(visitor())).is_some(), "{n}");
        }
        assert!(sessions.find(min(720), &cookie, Some(visitor())).is_none());
        assert!(sessions.find(t0, "", Some(visitor())).is_none());
    }

    #[test]
    fn the_table_and_what_hangs_on_it_are_bounded() {
        let t0 = Instant::now();
        let mut sessions = Sessions::new(SessionLimits::default());
        let first = sessions.begin(t0, "1", visitor()).unwrap();
        let cookies: Vec<_> = (1..=SESSIONS_MAX as u64)
            .map(|n| sessions.begin(t0 + Duration::from_secs(n), "1", visitor()).unwrap())
            .collect();
        let now = t0 + Duration::from_secs(100);
        assert!(sessions.find(now, &first, Some(visitor())).is_none(), "the one unused for longest went");
        let key = sessions.find(now, &cookies[0], Some(visitor())).unwrap().key;
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
        assert!(sessions.find(now, &cookies[1], Some(visitor())).is_none());
        assert!(sessions.find(now, &cookies[0], Some(visitor())).is_some());
    }

    /// A cookie that somebody had taken went on for twelve hours after the password was set anew at the serial console.
    #[test]
    fn sessions_end_with_their_generation_and_one_by_one() {
        let t0 = Instant::now();
        let mut sessions = Sessions::new(SessionLimits::default());
        let mut begin = |generation: &str, browser: &str| {
            let cookie = sessions.begin(t0, generation, Visitor::new("192.0.2.1".into(), browser)).unwrap();
            (SessionKey::of(&cookie), cookie)
        };
        let (own, own_cookie) = begin("1", "own");
        let (_, taken) = begin("1", "taken\u{1b}[2J");
        let over = sessions.generations();
        // The password is changed in one of them, and somebody logs in with it before the others are ended.
        sessions.renew(own, "2");
        let later = sessions.begin(t0, "2", visitor()).unwrap();
        sessions.end_generations(&over);
        assert!(sessions.find(t0, &taken, None).is_none());
        assert!(sessions.find(t0, &own_cookie, None).is_some() && sessions.find(t0, &later, None).is_some());
        let long = "x".repeat(1000);
        let hostile =
            sessions.begin(t0, "2", Visitor::new("192.0.2.2".into(), &format!("a\r\n\u{1b}[2J{long}"))).unwrap();
        let list = sessions.list();
        assert_eq!(list.len(), 3);
        let shown = list.iter().find(|s| s.key == SessionKey::of(&hostile)).unwrap();
        assert_eq!(shown.visitor.browser.chars().count(), BROWSER_CHARS_MAX);
        assert!(shown.visitor.browser.starts_with("a[2Jx"));
        let id = shown.id.clone();
        assert!(sessions.end_by_id(&id) && !sessions.end_by_id(&id) && !sessions.end_by_id(""));
        assert!(sessions.find(t0, &hostile, None).is_none());
    }
}
