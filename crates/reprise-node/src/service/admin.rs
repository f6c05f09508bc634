//! The administrator's password.
//!
//! The hash stands in a file of its own in the state directory, so that a reset can take it away without opening the
//! control store. Who stands at the serial line sets a new one without the old: that person has the box in hands anyway.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Argon2, PasswordHash};
use reprise_api::{ApiError, ErrorCode, Login, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordSet};
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

/// Knows the password, and who tries it.
pub(crate) struct Administrator {
    path: PathBuf,
    hash: Mutex<Option<String>>,
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
        Ok(Self { path, hash: Mutex::new(hash), places: Mutex::default(), hashing: Mutex::default() })
    }

    pub(crate) fn has_password(&self) -> bool {
        locked(&self.hash).is_some()
    }

    /// Sets the password. Blocks for the hash and the disk.
    pub(crate) fn set(&self, request: &PasswordSet) -> Result<(), ApiError> {
        let bad = |message: String| ApiError::new(ErrorCode::BadRequest, message, "choose another one");
        if request.new.chars().count() < PASSWORD_CHARS_MIN {
            return Err(bad(format!("the password has less than {PASSWORD_CHARS_MIN} characters")));
        }
        if request.new.len() > PASSWORD_BYTES_MAX {
            return Err(bad(format!("the password has more than {PASSWORD_BYTES_MAX} bytes")));
        }
        let known = locked(&self.hash).clone();
        if let (Some(hash), false) = (&known, request.at_the_box) {
            let from = "password change".to_owned();
            let login = Login { password: request.current.clone().unwrap_or_default(), from };
            self.check(hash, &login)?;
        }
        let turn = self.turn()?;
        let mut salt = [0u8; 16];
        getrandom::fill(&mut salt).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        let hash = Argon2::default().hash_password_with_salt(request.new.as_bytes(), &salt);
        let password = hash.map_err(|e| ApiError::internal(format!("hash the password: {e}")))?.to_string();
        drop(turn);
        let mut current = locked(&self.hash);
        // Two first logins at once: the second has to know the password of the first.
        if *current != known {
            return Err(ApiError::new(
                ErrorCode::WrongState,
                "somebody else has just set a password",
                "log in with it",
            ));
        }
        let text = serde_json::to_string(&Kept { password: password.clone() })
            .map_err(|e| ApiError::internal(format!("write the password: {e}")))?;
        write_secret(&self.path, &text).map_err(|e| ApiError::internal(format!("write the password: {e}")))?;
        *current = Some(password);
        Ok(())
    }

    /// Answers whether a password is the right one. Blocks for the hash.
    pub(crate) fn login(&self, request: &Login) -> Result<(), ApiError> {
        let Some(hash) = locked(&self.hash).clone() else {
            return Err(ApiError::new(ErrorCode::WrongState, "the box has no password yet", "set one first"));
        };
        self.check(&hash, request)
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
        Err(ApiError::new(ErrorCode::Unauthorized, "the password is wrong", "after five wrong ones there is a pause"))
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
        let text = format!("too many wrong passwords; the next one counts in {} s", left.as_secs() + 1);
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

/// A place is known by its first characters: what a caller says must not fill the memory.
fn place_of(from: &str) -> String {
    from.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(new: &str, current: Option<&str>, at_the_box: bool) -> PasswordSet {
        PasswordSet { new: new.into(), current: current.map(Into::into), at_the_box }
    }

    fn login(password: &str, from: &str) -> Login {
        Login { password: password.into(), from: from.into() }
    }

    #[test]
    fn a_password_is_set_once_and_changed_only_by_who_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        assert!(!admin.has_password());
        assert_eq!(admin.login(&login("x", "a")).unwrap_err().code, ErrorCode::WrongState);
        assert_eq!(admin.set(&set("short", None, false)).unwrap_err().code, ErrorCode::BadRequest);
        assert_eq!(admin.set(&set(&"x".repeat(257), None, false)).unwrap_err().code, ErrorCode::BadRequest);
        admin.set(&set("correct horse", None, false)).unwrap();
        admin.login(&login("correct horse", "a")).unwrap();
        assert_eq!(admin.login(&login("wrong horse", "a")).unwrap_err().code, ErrorCode::Unauthorized);
        for current in [None, Some("wrong horse")] {
            assert_eq!(admin.set(&set("battery staple", current, false)).unwrap_err().code, ErrorCode::Unauthorized);
        }
        admin.set(&set("battery staple", Some("correct horse"), false)).unwrap();
        admin.set(&set("at the serial line", None, true)).unwrap();
        let again = Administrator::open(dir.path()).unwrap();
        again.login(&login("at the serial line", "a")).unwrap();
        assert!(again.login(&login("battery staple", "a")).is_err());
        let text = std::fs::read_to_string(dir.path().join("admin.json")).unwrap();
        assert!(text.contains("argon2id") && !text.contains("serial line"));
    }

    #[test]
    fn wrong_passwords_make_their_place_wait_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let admin = Administrator::open(dir.path()).unwrap();
        admin.set(&set("correct horse", None, false)).unwrap();
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
