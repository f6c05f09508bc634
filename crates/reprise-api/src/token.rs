//! Bearer tokens for HTTPS.
//!
//! A token is `rpr_ID_SECRET` with a public 64-bit id and a 256-bit random secret, both hexadecimal. A box keeps only the
//! BLAKE3 hash; as the secret is random and long, a slow password hash would add nothing. This module draws no randomness
//! and keeps nothing: the node hands the random bytes in and stores [`StoredToken`].

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::route::Rights;

const PREFIX: &str = "rpr_";
/// Longest text taken for a token; a real one has 85 characters.
const TOKEN_TEXT_MAX: usize = 128;

/// A token as the box keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredToken {
    /// Public part, 16 hexadecimal digits.
    pub id: String,
    /// What it is for, by its maker.
    pub label: String,
    /// What it allows.
    pub rights: Rights,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// BLAKE3 of the whole token text, hexadecimal.
    pub hash: String,
}

/// A token as a list shows it: no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// Public part, 16 hexadecimal digits.
    pub id: String,
    /// What it is for, by its maker.
    pub label: String,
    /// What it allows.
    pub rights: Rights,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
}

/// The text of a fresh token, to be shown once, and what to store.
#[derive(Clone)]
pub struct MintedToken {
    /// The secret text.
    pub text: String,
    /// What to store.
    pub stored: StoredToken,
}

impl fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MintedToken").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl StoredToken {
    /// Makes a token from 40 random bytes.
    pub fn mint(random: &[u8; 40], label: String, rights: Rights, created_unix_ms: u64) -> MintedToken {
        let (id, secret) = random.split_at(8);
        let id = hex::encode(id);
        let text = format!("{PREFIX}{id}_{}", hex::encode(secret));
        let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
        MintedToken { text, stored: Self { id, label, rights, created_unix_ms, hash } }
    }

    /// The public id in a token's text: where to look for it. None if the text is no token.
    pub fn id_in(text: &str) -> Option<&str> {
        if text.len() > TOKEN_TEXT_MAX {
            return None;
        }
        let (id, _secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        (id.len() == 16).then_some(id)
    }

    /// True if `text` is this token. Takes the same time wherever it differs.
    pub fn matches(&self, text: &str) -> bool {
        blake3::Hash::from_hex(&self.hash).is_ok_and(|hash| hash == blake3::hash(text.as_bytes()))
    }

    /// What a list shows.
    pub fn info(&self) -> TokenInfo {
        TokenInfo {
            id: self.id.clone(),
            label: self.label.clone(),
            rights: self.rights,
            created_unix_ms: self.created_unix_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_itself() {
        let minted = StoredToken::mint(&[7; 40], "grafana".into(), Rights::ReadOnly, 1);
        assert_eq!(StoredToken::id_in(&minted.text), Some("0707070707070707"));
        assert!(minted.stored.matches(&minted.text));
        let other = StoredToken::mint(&[8; 40], "x".into(), Rights::Admin, 1);
        assert!(!minted.stored.matches(&other.text));
        assert!(!minted.stored.matches(""));
        assert!(!format!("{minted:?}").contains(&minted.text), "the secret is not in Debug output");
        for junk in ["", "rpr_", "rpr_12_34", "bearer", &"x".repeat(1000)] {
            assert_eq!(StoredToken::id_in(junk), None);
        }
    }
}
