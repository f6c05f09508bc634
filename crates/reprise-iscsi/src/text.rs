//! Text keys (RFC 7143, section 6.1): `key=value` pairs, each ended by a zero byte, possibly over several PDUs.

/// Longest key name.
pub const KEY_MAX: usize = 63;
/// Longest value: what the standard asks for, more than any key of ours needs except lists.
pub const VALUE_MAX: usize = 255;
/// Longest value of keys that carry long lists or binary values: a challenge of 1024 bytes in hexadecimal.
pub const LONG_VALUE_MAX: usize = 2 + 2 * 1024;
/// Most keys in one request: the standard defines fewer than 40.
pub const KEYS_MAX: usize = 64;
/// Most bytes of one text request over all its PDUs.
pub const TEXT_BYTES_MAX: usize = 16 << 10;

/// What is wrong with text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No `=`, an empty or too long key, or a byte that no key may have.
    #[error("malformed key at byte {at}")]
    Key {
        /// Where the pair begins.
        at: usize,
    },
    /// Too long, or not UTF-8.
    #[error("malformed value at byte {at}")]
    Value {
        /// Where the pair begins.
        at: usize,
    },
    /// More than [`KEYS_MAX`] keys.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
    /// More than [`TEXT_BYTES_MAX`] bytes.
    #[error("more than {TEXT_BYTES_MAX} bytes of text")]
    TooLong,
}

fn long_value(key: &str) -> bool {
    matches!(key, "CHAP_R" | "CHAP_C" | "SendTargets" | "TargetAddress")
}

/// Splits text into pairs. Empty pairs (padding zeros) are skipped.
///
/// # Errors
/// Anything that is no key and value within the limits.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, TextError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(TextError::TooLong);
    }
    let mut pairs = Vec::new();
    let mut at = 0;
    for pair in text.split(|byte| *byte == 0) {
        let start = at;
        at += pair.len() + 1;
        if pair.is_empty() {
            continue;
        }
        let split = pair.iter().position(|byte| *byte == b'=').ok_or(TextError::Key { at: start })?;
        let (key, value) = pair.split_at(split);
        let value = value.get(1..).unwrap_or(&[]);
        let letter = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@' | b'+' | b'#' | b'/');
        if key.is_empty() || key.len() > KEY_MAX || !key.iter().all(letter) {
            return Err(TextError::Key { at: start });
        }
        let key = std::str::from_utf8(key).map_err(|_| TextError::Key { at: start })?;
        let limit = if long_value(key) { LONG_VALUE_MAX } else { VALUE_MAX };
        if value.len() > limit {
            return Err(TextError::Value { at: start });
        }
        let value = std::str::from_utf8(value).map_err(|_| TextError::Value { at: start })?;
        if pairs.len() == KEYS_MAX {
            return Err(TextError::TooMany);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Appends a pair.
pub fn push(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A number as login keys write it: decimal, or hexadecimal after `0x`.
pub fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if value.bytes().all(|b| b.is_ascii_digit()) => value.parse().ok(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_their_limits() {
        assert_eq!(parse(b"A=1\0B=\0\0\0"), Ok(vec![("A", "1"), ("B", "")]));
        assert_eq!(parse(b"A=1\0junk\0"), Err(TextError::Key { at: 4 }));
        assert_eq!(parse(b"=1\0"), Err(TextError::Key { at: 0 }));
        let long_key = format!("{}=1", "k".repeat(64));
        assert_eq!(parse(long_key.as_bytes()), Err(TextError::Key { at: 0 }));
        let long = format!("A={}", "v".repeat(256));
        assert_eq!(parse(long.as_bytes()), Err(TextError::Value { at: 0 }));
        let many = "A=1\0".repeat(KEYS_MAX + 1);
        assert_eq!(parse(many.as_bytes()), Err(TextError::TooMany));
        assert_eq!(parse(&vec![0; TEXT_BYTES_MAX + 1]), Err(TextError::TooLong));
        assert_eq!(
            (number("0x10"), number("12"), number("+1"), number("4294967296")),
            (Some(16), Some(12), None, None)
        );
    }
}
