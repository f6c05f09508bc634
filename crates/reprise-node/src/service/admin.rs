//! The administrator's password.
//!
//! The hash stands in a file of its own in the state directory, so that a reset can take it away without opening the
//! control store. Who stands at the serial line sets a new one without the old: that person has the box in hands anyway.
//! While there is no hash, nobody owns the box by coming first: the first password needs a code that the box shows to
//! whoever is at it, on the consoles of its own and on the local socket.
//!
//! Sessions of the web console are not known here. They belong to a *generation*, which follows from the hash and from a
//! file that a request to end them replaces: whatever changes either ends them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};
use reprise_api::strangers::network_of;
use reprise_api::{
    AdminCode, AdminStatus, ApiError, ErrorCode, Login, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordSet,
};
use reprise_link::pairing::PairingCode;
use serde::{Deserialize, Serialize};

use super::locked;
use crate::store::write_secret;

/// Wrong passwords in a row from one place before it has to wait.
const TRIES: u32 = 5;
/// How long it has to wait then.
const PAUSE: Duration = Duration::from_secs(60);
/// Places whose wrong passwords are counted; past it the one that was quiet longest is forgotten.
const PLACES_MAX: usize = 1024;
/// Passwords being hashed at a time: each takes 19 MiB and some 50 ms of a processor.
const HASHING_MAX: usize = 2;
/// Wrong codes of all places together before another code is drawn. Of 2^45 codes so many find the right one once in
/// 30,000 million times, and a single place, which has to pause, does not use a code up before somebody has read it.
const CODE_TRIES_MAX: u32 = 1000;
/// Where a password was typed if the caller does not say.
const SOMEWHERE: &str = "password change";
/// The file that a request to end sessions replaces.
const SESSIONS_FILE: &str = "admin.sessions";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// PHC string of Argon2id.
    password: String,
}

struct Place {
    wrong: u32,
    last: Instant,
}

/// The code for the first password, as it is shown.
struct FirstCode {
    text: String,
    wrong: u32,
}

impl FirstCode {
    fn draw() -> Result<Self, ApiError> {
        let mut random = [0; 9];
        getrandom::fill(&mut random).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        Ok(Self { text: PairingCode::from_random(random).display(), wrong: 0 })
    }
}

/// What says which sessions hold.
struct Known {
    hash: Option<String>,
    /// What the file of sessions has; empty while nobody has ended any.
    sessions: String,
}

impl Known {
    fn status(&self) -> AdminStatus {
        let mut hasher = blake3::Hasher::new_derive_key("reprise generation of sessions");
        hasher
            .update(self.sessions.as_bytes())
            .update(&[0])
            .update(self.hash.as_deref().unwrap_or_default().as_bytes());
        let generation = hex::encode(&hasher.finalize().as_bytes()[..8]);
        AdminStatus { password_set: self.hash.is_some(), generation }
    }
}

/// Knows the password, and who tries it.
pub(crate) struct Administrator {
    path: PathBuf,
    known: Mutex<Known>,
    /// Drawn when it is asked for.
    code: Mutex<Option<FirstCode>>,
    places: Mutex<BTreeMap<String, Place>>,
    hashing: Mutex<usize>,
}

/// One of the places for hashing; given back when dropped.
struct Turn<'a>(&'a Mutex<usize>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locked(self.0) -= 1;
    }
}

impl Administrator {
    /// Reads what the state directory has.
    ///
    /// # Errors
    /// The file is there and cannot be read: nobody is let in by an empty password because of that.
    pub(crate) fn open(state: &Path) -> anyhow::Result<Self> {
        let path = state.join("admin.json");
        let hash = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let kept: Kept = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
                Some(kept.password)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let sessions = match std::fs::read_to_string(state.join(SESSIONS_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {SESSIONS_FILE}")),
        };
        let known = Mutex::new(Known { hash, sessions });
        Ok(Self { path, known, code: Mutex::default(), places: Mutex::default(), hashing: Mutex::default() })
    }

    pub(crate) fn status(&self) -> AdminStatus {
        locked(&self.known).status()
    }

    /// The code that sets the first password; none where a password is set.
    pub(crate) fn code(&self) -> Result<AdminCode, ApiError> {
        let known = locked(&self.known);
        if known.hash.is_some() {
            return Ok(AdminCode { code: None });
        }
        let mut code = locked(&self.code);
        let code = match &mut *code {
            Some(code) => code,
            none => none.insert(FirstCode::draw()?),
        };
        Ok(AdminCode { code: Some(code.text.clone()) })
    }

    /// Ends all sessions: whoever keeps them sees another generation.
    pub(crate) fn end_sessions(&self) -> Result<AdminStatus, ApiError> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        let text = hex::encode(random);
        let mut known = locked(&self.known);
        write_secret(&self.path.with_file_name(SESSIONS_FILE), &text)
            .map_err(|e| ApiError::internal(format!("write what ends the sessions: {e}")))?;
        known.sessions = text;
        Ok(known.status())
    }

    /// Sets the password, for somebody who knows the one so far, or the code where there is none. Blocks for the hash and
    /// the disk.
    pub(crate) fn set(&self, request: &PasswordSet) -> Result<AdminStatus, ApiError> {
        check_form(&request.new)?;
        let known = locked(&self.known).hash.clone();
        let from = request.from.clone().unwrap_or_else(|| SOMEWHERE.to_owned());
        match (&known, &request.code) {
            // What comes with a code is told the same whether or not there is a password: a stranger learns nothing of it.
            (_, Some(code)) => self.check_code(known.is_none(), code, &from)?,
            (Some(hash), None) => {
                let password = request.current.clone().unwrap_or_default();
                self.check(hash, &Login { password, from })?;
            }
            (None, None) => {
                return Err(ApiError::new(
                    ErrorCode::Unauthorized,
                    "the box has no password yet, and its code is missing",
                    "the serial console and the screen of the box show the code; on a Linux of your own: reprise password code",
                ));
            }
        }
        self.replace(known.as_deref(), &request.new)
    }

    /// Sets the password, for somebody who has the box in hands. Blocks for the hash and the disk.
    pub(crate) fn reset(&self, new: &str) -> Result<AdminStatus, ApiError> {
        check_form(new)?;
        let known = locked(&self.known).hash.clone();
        self.replace(known.as_deref(), new)
    }

    /// Puts a password in the place of the one with this hash.
    fn replace(&self, before: Option<&str>, new: &str) -> Result<AdminStatus, ApiError> {
        let turn = self.turn()?;
        let mut salt = [0u8; 16];
        getrandom::fill(&mut salt).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        let hash = Argon2::default().hash_password_with_salt(new.as_bytes(), &salt);
        let password = hash.map_err(|e| ApiError::internal(format!("hash the password: {e}")))?.to_string();
        drop(turn);
        let mut known = locked(&self.known);
        // Two first logins at once: the second has to know the password of the first.
        if known.hash.as_deref() != before {
            return Err(ApiError::new(
                ErrorCode::WrongState,
                "somebody else has just set a password",
                "log in with it",
            ));
        }
        let text = serde_json::to_string(&Kept { password: password.clone() })
            .map_err(|e| ApiError::internal(format!("write the password: {e}")))?;
        write_secret(&self.path, &text).map_err(|e| ApiError::internal(format!("write the password: {e}")))?;
        known.hash = Some(password);
        // It was for this password, and a later reset shows another.
        *locked(&self.code) = None;
        Ok(known.status())
    }

    /// Answers whether a password is the right one, and of which generation the login is. Blocks for the hash.
    pub(crate) fn login(&self, request: &Login) -> Result<AdminStatus, ApiError> {
        let (hash, status) = {
            let known = locked(&self.known);
            (known.hash.clone(), known.status())
        };
        match hash {
            Some(hash) => self.check(&hash, request)?,
            None => {
                // As long and as wrong as with a password: a stranger does not learn that there is none.
                self.may_try(&request.from, Instant::now())?;
                let _turn = self.turn()?;
                if request.password.len() <= PASSWORD_BYTES_MAX {
                    let _ = Argon2::default().hash_password_with_salt(request.password.as_bytes(), &[0; 16]);
                }
                self.tried(&request.from, false, Instant::now());
                return Err(wrong_password());
            }
        }
        Ok(status)
    }

    fn check_code(&self, wanted: bool, typed: &str, from: &str) -> Result<(), ApiError> {
        self.may_try(from, Instant::now())?;
        let typed = PairingCode::parse(typed).map(|code| code.display());
        let mut code = locked(&self.code);
        let right = match (&*code, &typed) {
            // Hashes are compared in a time that tells nothing of where they differ.
            (Some(code), Ok(typed)) => wanted && blake3::hash(code.text.as_bytes()) == blake3::hash(typed.as_bytes()),
            _ => false,
        };
        if !right && let Some(drawn) = &mut *code {
            drawn.wrong += 1;
            if drawn.wrong >= CODE_TRIES_MAX {
                tracing::warn!(
                    tries = drawn.wrong,
                    "too many wrong codes for the first password; another one is drawn"
                );
                *code = None;
            }
        }
        drop(code);
        self.tried(from, right, Instant::now());
        if right {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::Unauthorized,
            "this is not the code of the box",
            "while there is no password, its serial console and its screen show it; on a Linux of your own: reprise password code",
        ))
    }

    fn check(&self, hash: &str, login: &Login) -> Result<(), ApiError> {
        self.may_try(&login.from, Instant::now())?;
        let _turn = self.turn()?;
        let hash = PasswordHash::new(hash).map_err(|e| ApiError::internal(format!("the kept password: {e}")))?;
        let right = login.password.len() <= PASSWORD_BYTES_MAX
            && Argon2::default().verify_password(login.password.as_bytes(), &hash).is_ok();
        self.tried(&login.from, right, Instant::now());
        if right {
            return Ok(());
        }
        Err(wrong_password())
    }

    fn turn(&self) -> Result<Turn<'_>, ApiError> {
        let mut hashing = locked(&self.hashing);
        if *hashing >= HASHING_MAX {
            return Err(ApiError::new(ErrorCode::LimitReached, "too many log in at once", "try again in a second"));
        }
        *hashing += 1;
        Ok(Turn(&self.hashing))
    }

    fn may_try(&self, from: &str, now: Instant) -> Result<(), ApiError> {
        let places = locked(&self.places);
        let Some(place) = places.get(&place_of(from)).filter(|p| p.wrong >= TRIES) else { return Ok(()) };
        let left = PAUSE.saturating_sub(now.saturating_duration_since(place.last));
        if left.is_zero() {
            return Ok(());
        }
        let text = format!("too many wrong tries; the next one counts in {} s", left.as_secs() + 1);
        Err(ApiError::new(ErrorCode::LimitReached, text, "wait, or set a new password at the serial console"))
    }

    fn tried(&self, from: &str, right: bool, now: Instant) {
        let mut places = locked(&self.places);
        let from = place_of(from);
        if right {
            places.remove(&from);
            return;
        }
        if !places.contains_key(&from) && places.len() >= PLACES_MAX {
            let quiet = places.iter().min_by_key(|(_, p)| p.last).map(|(name, _)| name.clone());
            quiet.and_then(|name| places.remove(&name));
        }
        let place = places.entry(from).or_insert(Place { wrong: 0, last: now });
        place.wrong = place.wrong.saturating_add(1);
        place.last = now;
    }
}

fn wrong_password() -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, "this is not the password", "after five wrong ones there is a pause")
}

fn check_form(new: &str) -> Result<(), ApiError> {
    let bad = |message: String| ApiError::new(ErrorCode::BadRequest, message, "choose another one");
    if new.chars().count() < PASSWORD_CHARS_MIN {
        return Err(bad(format!("the password has less than {PASSWORD_CHARS_MIN} characters")));
    }
    if new.len() > PASSWORD_BYTES_MAX {
        return Err(bad(format!("the password has more than {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// A place is the network of an address, since whoever has one address of a /64 has all of them; another text is known by its
/// first characters: what a caller says must not fill the memory.
fn place_of(from: &str) -> String {
    match from.parse() {
        Ok(address) => network_of(address).to_string(),
        Err(_) => from.chars().take(64).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(new: &str, current: Option<&str>) -> PasswordSet {
        PasswordSet { new: new.into(), current: current.map(Into::into), code: None, from: None }
    }

    fn first(new: &str, code: &str, from: &str) -> PasswordSet {
        PasswordSet { new: new.into(), current: None, code: Some(code.into()), from: Some(from.into()) }
    }

    fn login(password: &str, from: &str) -> Login {
        Login { password: password.into(), from: from.into() }
    }

    fn unauthorized<T: std::fmt::Debug>(outcome: Result<T, ApiError>) {
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Unauthorized);
    }

    #[test]
    fn a_password_is_set_once_and_changed_only_by_who_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        assert!(!admin.status().password_set);
        unauthorized(admin.login(&login("x", "a")));
        for new in ["short", &"x".repeat(257)] {
            assert_eq!(admin.reset(new).unwrap_err().code, ErrorCode::BadRequest);
            assert_eq!(admin.set(&set(new, None)).unwrap_err().code, ErrorCode::BadRequest);
        }
        admin.reset("correct horse").unwrap();
        admin.login(&login("correct horse", "a")).unwrap();
        unauthorized(admin.login(&login("wrong horse", "a")));
        for current in [None, Some("wrong horse")] {
            unauthorized(admin.set(&set("battery staple", current)));
        }
        admin.set(&set("battery staple", Some("correct horse"))).unwrap();
        admin.reset("at the serial line").unwrap();
        let again = Administrator::open(dir.path()).unwrap();
        again.login(&login("at the serial line", "a")).unwrap();
        assert!(again.login(&login("battery staple", "a")).is_err());
        let text = std::fs::read_to_string(dir.path().join("admin.json")).unwrap();
        assert!(text.contains("argon2id") && !text.contains("serial line"));
    }

    /// Whoever opened the web page first, or first after a reset of the settings, owned the box.
    #[test]
    fn the_first_password_needs_the_code_that_the_box_shows() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        unauthorized(admin.set(&set("evil evil evil", None)));
        unauthorized(admin.set(&set("evil evil evil", Some(""))));
        // Nobody has looked at the box: no code is right.
        unauthorized(admin.set(&first("evil evil evil", "000-000-000", "a")));
        let code = admin.code().unwrap().code.unwrap();
        assert_eq!(admin.code().unwrap().code.as_ref(), Some(&code), "it stays while it is looked at");
        let other = if code.starts_with('0') { code.replacen('0', "1", 1) } else { format!("0{}", &code[1..]) };
        for wrong in [other.as_str(), "", "x", &code[1..]] {
            unauthorized(admin.set(&first("evil evil evil", wrong, wrong)));
        }
        assert!(!admin.status().password_set);
        admin.set(&first("correct horse", &code.to_ascii_lowercase().replace('-', " "), "b")).unwrap();
        admin.login(&login("correct horse", "b")).unwrap();
        // It is used up, and told the same as any wrong one.
        assert_eq!(admin.code().unwrap().code, None);
        unauthorized(admin.set(&first("evil evil evil", &code, "c")));
        // The settings are reset: the data are there, and so is the need of a code.
        std::fs::remove_file(dir.path().join("admin.json")).unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        unauthorized(admin.set(&set("evil evil evil", None)));
        unauthorized(admin.set(&first("evil evil evil", &code, "d")));
        let another = admin.code().unwrap().code.unwrap();
        assert_ne!(another, code);
        admin.set(&first("correct horse", &another, "e")).unwrap();
    }

    #[test]
    fn wrong_codes_are_bounded_by_place_and_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        let code = admin.code().unwrap().code.unwrap();
        let wrong = |from: &str| admin.set(&first("evil evil evil", "x", from)).unwrap_err().code;
        for _ in 0..TRIES {
            assert_eq!(wrong("a"), ErrorCode::Unauthorized);
        }
        assert_eq!(admin.set(&first("evil evil evil", &code, "a")).unwrap_err().code, ErrorCode::LimitReached);
        assert_eq!(admin.code().unwrap().code.as_ref(), Some(&code), "one place does not use it up");
        for n in TRIES..CODE_TRIES_MAX {
            assert_eq!(wrong(&format!("b{n}")), ErrorCode::Unauthorized);
        }
        unauthorized(admin.set(&first("correct horse", &code, "c")));
        let another = admin.code().unwrap().code.unwrap();
        assert_ne!(another, code);
        admin.set(&first("correct horse", &another, "c")).unwrap();
    }

    /// The session of somebody who had taken a cookie went on for twelve hours after the password was set anew.
    #[test]
    fn whatever_changes_the_password_begins_another_generation() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        let mut seen = vec![admin.status().generation];
        let mut other = |status: AdminStatus| {
            assert_eq!(status, admin.status());
            assert!(!seen.contains(&status.generation), "{seen:?} {status:?}");
            seen.push(status.generation);
        };
        other(admin.reset("correct horse").unwrap());
        // The same again is another one, too: its salt is.
        other(admin.reset("correct horse").unwrap());
        other(admin.set(&set("battery staple", Some("correct horse"))).unwrap());
        other(admin.end_sessions().unwrap());
        other(admin.end_sessions().unwrap());
        let now = admin.login(&login("battery staple", "a")).unwrap();
        assert_eq!(now, admin.status(), "a login changes nothing");
        assert_eq!(Administrator::open(dir.path()).unwrap().status(), now, "nor does a start");
        std::fs::remove_file(dir.path().join("admin.json")).unwrap();
        assert_ne!(Administrator::open(dir.path()).unwrap().status().generation, now.generation);
    }

    #[test]
    fn wrong_passwords_make_their_place_wait_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        admin.reset("correct horse").unwrap();
        for _ in 0..TRIES {
            assert_eq!(admin.login(&login("wrong horse", "a")).unwrap_err().code, ErrorCode::Unauthorized);
        }
        assert_eq!(admin.login(&login("correct horse", "a")).unwrap_err().code, ErrorCode::LimitReached);
        admin.login(&login("correct horse", "b")).unwrap();
        assert!(admin.may_try("a", Instant::now() + PAUSE).is_ok());
        for n in 0..2 * PLACES_MAX {
            admin.tried(&n.to_string(), false, Instant::now());
        }
        assert_eq!(locked(&admin.places).len(), PLACES_MAX);
    }

    #[test]
    fn a_file_that_cannot_be_read_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("admin.json"), "{}").unwrap();
        assert!(Administrator::open(dir.path()).is_err());
    }
}
