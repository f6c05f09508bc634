//! Tokens that confirm an action.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::command::Action;
use crate::error::{ApiError, ErrorCode};

/// Life of a token: long enough to read what is lost and to ask somebody.
pub(super) const TOKEN_SECS: u32 = 300;
/// Tokens kept; at the limit the oldest becomes void. People confirm one at a time, so this is ample.
const TOKENS_MAX: usize = 64;

struct Pending {
    caller: String,
    action: Action,
    basis: String,
    issued: u64,
    expires: Instant,
}

/// Tokens that were given out and not yet used. Not kept over a restart: a confirmation is for the box as it was seen.
#[derive(Default)]
pub(super) struct Confirmations {
    pending: BTreeMap<String, Pending>,
    issued: u64,
}

impl Confirmations {
    /// Keeps `token` for `caller`.
    pub(super) fn issue(&mut self, now: Instant, token: String, caller: String, action: Action, basis: String) {
        self.pending.retain(|_, p| p.expires > now);
        if self.pending.len() >= TOKENS_MAX {
            let oldest = self.pending.iter().min_by_key(|(_, p)| p.issued).map(|(t, _)| t.clone());
            oldest.and_then(|t| self.pending.remove(&t));
        }
        self.issued += 1;
        let expires = now + Duration::from_secs(TOKEN_SECS.into());
        self.pending.insert(token, Pending { caller, action, basis, issued: self.issued, expires });
    }

    /// Takes the token back: it is good once, also where the action fails after.
    pub(super) fn redeem(&mut self, now: Instant, token: &str, caller: &str) -> Result<(Action, String), ApiError> {
        self.pending.retain(|_, p| p.expires > now);
        if self.pending.get(token).is_none_or(|p| p.caller != caller) {
            return Err(ApiError::new(
                ErrorCode::ConfirmationUnknown,
                "the confirmation token is unknown, was used or has expired",
                "ask for the preview again and confirm with its token within 5 minutes",
            ));
        }
        self.pending.remove(token).map(|p| (p.action, p.basis)).ok_or_else(|| ApiError::internal("confirmation lost"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erase(volume: &str) -> Action {
        Action::VolumeErase { volume: volume.parse().unwrap() }
    }

    #[test]
    fn a_token_is_good_once_for_its_caller_and_for_five_minutes() {
        let t0 = Instant::now();
        let mut c = Confirmations::default();
        c.issue(t0, "t".into(), "uid 0".into(), erase("a"), "b".into());
        assert_eq!(c.redeem(t0, "t", "uid 1").unwrap_err().code, ErrorCode::ConfirmationUnknown);
        assert_eq!(c.redeem(t0, "t", "uid 0").unwrap(), (erase("a"), "b".into()));
        assert!(c.redeem(t0, "t", "uid 0").is_err());
        c.issue(t0, "t".into(), "uid 0".into(), erase("a"), "b".into());
        assert!(c.redeem(t0 + Duration::from_secs(300), "t", "uid 0").is_err());
    }

    #[test]
    fn the_oldest_goes_at_the_limit() {
        let t0 = Instant::now();
        let mut c = Confirmations::default();
        for n in 0..=TOKENS_MAX {
            c.issue(t0, format!("{n:04}"), String::new(), erase("a"), String::new());
        }
        assert_eq!(c.pending.len(), TOKENS_MAX);
        assert!(c.redeem(t0, "0000", "").is_err());
        assert!(c.redeem(t0, "0001", "").is_ok());
    }
}
