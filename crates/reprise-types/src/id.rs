//! 128-bit identities and the history hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An identity in text form was not 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an identity is 32 hexadecimal digits, not {text:?}")]
pub struct IdParseError {
    /// What was given, at most 64 characters of it.
    pub text: String,
}

fn parse_hex(text: &str) -> Result<[u8; 16], IdParseError> {
    let bad = || IdParseError { text: text.chars().take(64).collect() };
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return Err(bad());
    }
    let mut out = [0u8; 16];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let (Some(high), Some(low)) = (pair[0].to_digit(16), pair[1].to_digit(16)) else {
            return Err(bad());
        };
        *byte = (high * 16 + low) as u8;
    }
    Ok(out)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; 16]);

        impl $name {
            /// All zero: stands for "none" in formats, never drawn at random.
            pub const NIL: Self = Self([0; 16]);

            /// Takes 16 bytes as they stand on disk or wire.
            pub const fn from_raw(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes as they stand on disk or wire.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }

            /// True for [`Self::NIL`].
            pub fn is_nil(&self) -> bool {
                self.0 == [0; 16]
            }

            /// The first 8 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type!(
    /// One appliance.
    BoxId
);
id_type!(
    /// One pool: a cache half and a data half on one box.
    PoolId
);
id_type!(
    /// A consistency group; the same on both boxes.
    GroupId
);
id_type!(
    /// A volume; the same on both boxes.
    VolumeId
);
id_type!(
    /// A line of history.
    BranchId
);
id_type!(
    /// h(n): the running hash over a group's history up to record n. Two boxes with the same h(n) have the same
    /// history up to n. BLAKE3 truncated to 128 bits; the rule stands in `docs/formats.md`.
    HistoryHash
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_junk() {
        let id = GroupId::from_raw(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<GroupId>(), Ok(id));
        assert!("12".parse::<GroupId>().is_err());
        assert!("zz345678901234567890123456789012".parse::<GroupId>().is_err());
    }
}
