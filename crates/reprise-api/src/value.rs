//! Values with a rule: names and sizes as people write them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Longest name. An iSCSI name holds 223 bytes; ours carries a prefix and a group name, with ample room left.
pub const NAME_LEN_MAX: usize = 48;

/// The name of a group, a volume or a box: 1 to 48 characters `a-z`, `0-9`, `-` and `.`, starting with a letter or a
/// digit. These are the characters that may stand in an iSCSI name (RFC 7143, section 4.2.7) and in a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A name breaks the rule of [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name: use 1 to 48 characters a-z, 0-9, '-' and '.', starting with a letter or a digit")]
pub struct NameError {
    /// What was given, at most 64 characters of it.
    pub text: String,
}

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let starts = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if starts && text.len() <= NAME_LEN_MAX && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { text: text.chars().take(64).collect() })
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Name {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[a-z0-9][a-z0-9.-]{0,47}$"))
            .max_length(Some(NAME_LEN_MAX))
            .description(Some("Name of a group, a volume or a box."))
            .into()
    }
}

impl ToSchema for Name {
    fn name() -> Cow<'static, str> {
        "Name".into()
    }
}

/// Longest iSCSI name (RFC 7143, section 4.2.7.1).
const ISCSI_NAME_LEN_MAX: usize = 223;

/// The iSCSI name of an initiator. Case does not count in iSCSI names; ours are kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorName(String);

/// Text is no iSCSI name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no iSCSI name: names begin with iqn., eui. or naa., such as iqn.2026-01.com.example:host")]
pub struct InitiatorNameError {
    /// What was given, at most 64 characters of it.
    pub text: String,
}

impl InitiatorName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InitiatorName {
    type Err = InitiatorNameError;
    fn from_str(text: &str) -> Result<Self, InitiatorNameError> {
        let lower = text.to_ascii_lowercase();
        let known = ["iqn.", "eui.", "naa."].iter().any(|p| lower.strip_prefix(p).is_some_and(|rest| !rest.is_empty()));
        if known && lower.len() <= ISCSI_NAME_LEN_MAX && lower.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(lower))
        } else {
            Err(InitiatorNameError { text: text.chars().take(64).collect() })
        }
    }
}

impl fmt::Display for InitiatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Serialize for InitiatorName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for InitiatorName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for InitiatorName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^([iI][qQ][nN]|[eE][uU][iI]|[nN][aA][aA])\\.[!-~]+$"))
            .max_length(Some(ISCSI_NAME_LEN_MAX))
            .description(Some("iSCSI name of an initiator; kept in lower case."))
            .into()
    }
}

impl ToSchema for InitiatorName {
    fn name() -> Cow<'static, str> {
        "InitiatorName".into()
    }
}

/// Shortest secret of CHAP, bytes (RFC 7143, section 9.2.1).
const SECRET_LEN_MIN: usize = 12;
/// Longest secret of CHAP, bytes.
const SECRET_LEN_MAX: usize = 255;

/// A secret of CHAP, 12 to 255 bytes. It goes to the box and never comes back; it is not shown where it is printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapSecret(String);

/// Text is no secret. Does not hold it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a CHAP secret has 12 to 255 bytes without control characters, this one has {len}")]
pub struct ChapSecretError {
    /// Its length.
    pub len: usize,
}

impl ChapSecret {
    /// The text, for the proof alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChapSecret {
    type Err = ChapSecretError;
    fn from_str(text: &str) -> Result<Self, ChapSecretError> {
        let fits = (SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&text.len()) && !text.contains(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(ChapSecretError { len: text.len() }) }
    }
}

impl fmt::Debug for ChapSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChapSecret(..)")
    }
}

impl Serialize for ChapSecret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChapSecret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for ChapSecret {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[^\\u0000-\\u001f\\u007f-\\u009f]{12,255}$"))
            .description(Some("A secret of CHAP, 12 to 255 bytes without control characters. Never in an answer."))
            .into()
    }
}

impl ToSchema for ChapSecret {
    fn name() -> Cow<'static, str> {
        "ChapSecret".into()
    }
}

/// An IP address as text: a schema and nothing else.
pub(crate) struct IpAddressText;
/// An IP address or network as text, such as `192.0.2.0/24`: a schema and nothing else.
pub(crate) struct IpNetworkText;

/// What IPv4 and IPv6 addresses look like, each with what follows it.
fn address_pattern(behind_v4: &str, behind_v6: &str) -> String {
    let octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    let part = "[0-9a-fA-F]{1,4}";
    let mut v6 = vec![format!("({part}:){{7}}{part}")];
    for left in 0..=7usize {
        // `::` stands for at least one part; both sides together have seven at most.
        let right = 7 - left;
        let left = if left == 0 { String::new() } else { format!("{part}(:{part}){{{}}}", left - 1) };
        let right = if right == 0 { String::new() } else { format!("({part}(:{part}){{0,{}}})?", right - 1) };
        v6.push(format!("{left}::{right}"));
    }
    format!("^(({octet}\\.){{3}}{octet}{behind_v4}|({}){behind_v6})$", v6.join("|"))
}

impl PartialSchema for IpAddressText {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(address_pattern("", "")));
        text.description(Some("An IPv4 or IPv6 address.")).into()
    }
}

impl ToSchema for IpAddressText {
    fn name() -> Cow<'static, str> {
        "IpAddress".into()
    }
}

impl PartialSchema for IpNetworkText {
    fn schema() -> RefOr<Schema> {
        let pattern = address_pattern("(/(3[0-2]|[12]?[0-9]))?", "(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?");
        let text = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
        text.description(Some("An address, or a network such as 192.0.2.0/24.")).into()
    }
}

impl ToSchema for IpNetworkText {
    fn name() -> Cow<'static, str> {
        "IpNetwork".into()
    }
}

/// A size in bytes. As input it is a number of bytes or text with a binary unit (`64K`, `512M`, `1G`, `2TiB`); as
/// output it is always the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

/// Text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size: write bytes, or a number with K, M, G or T (powers of 1024), such as 64M")]
pub struct SizeError {
    /// What was given, at most 64 characters of it.
    pub text: String,
}

impl ByteSize {
    /// Takes a number of bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = SizeError;
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let bad = || SizeError { text: text.chars().take(64).collect() };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at_checked(split).ok_or_else(bad)?;
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(bad);
        }
        let (whole, fraction) = number.split_once('.').ok_or_else(bad)?;
        if fraction.is_empty() || fraction.len() > 6 || !fraction.bytes().all(|b| b.is_ascii_digit()) || shift == 0 {
            return Err(bad());
        }
        let scale = 10u128.pow(fraction.len() as u32);
        let whole: u128 = whole.parse::<u64>().map_err(|_| bad())?.into();
        let fraction: u128 = fraction.parse::<u64>().map_err(|_| bad())?.into();
        let bytes = ((whole * scale + fraction) << shift) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // At 1023.95 one decimal would print "1024.0".
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let unit = UNITS.get(unit).copied().unwrap_or("EiB");
        let text = if (value - value.round()).abs() < 0.05 {
            format!("{value:.0} {unit}")
        } else {
            format!("{value:.1} {unit}")
        };
        f.pad(&text)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Input {
            Number(u64),
            Text(String),
        }
        match Input::deserialize(d)? {
            Input::Number(bytes) => Ok(Self(bytes)),
            Input::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl PartialSchema for ByteSize {
    fn schema() -> RefOr<Schema> {
        // 20 bits below the largest number that fits, whatever the unit.
        let text = "^([0-9]{1,19}|[0-9]{1,7}(\\.[0-9]{1,6})?[kKmMgGtT]([iI][bB])?)$";
        let number = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0u64)).maximum(Some(u64::MAX));
        OneOfBuilder::new()
            .item(number)
            .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some(text)))
            .description(Some("Bytes: a number, or text with a binary unit, such as \"64M\"."))
            .into()
    }
}

impl ToSchema for ByteSize {
    fn name() -> Cow<'static, str> {
        "ByteSize".into()
    }
}

/// A time as UTC, `2026-01-31 23:59:58`.
pub fn utc(unix_ms: u64) -> String {
    let secs = unix_ms / 1000;
    let (days, of_day) = (secs / 86_400, secs % 86_400);
    // Days to civil date, after Howard Hinnant: eras of 400 years beginning on 1 March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day % 3600 / 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "pg-data", "9.lives", &"x".repeat(48)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", ".a", "a b", "a/b", "ä", "..", &"x".repeat(49)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn iscsi_names_and_secrets_follow_their_rules() {
        let name: InitiatorName = "IQN.1993-08.org.Debian:01:abc".parse().unwrap();
        assert_eq!(name.as_str(), "iqn.1993-08.org.debian:01:abc");
        for bad in ["", "bob", "iqn.", "iqn.a b", "iqn.\u{e4}", &format!("iqn.{}", "x".repeat(220))] {
            assert!(bad.parse::<InitiatorName>().is_err(), "{bad}");
        }
        for (good, text) in [(false, "eleven-byte"), (true, "twelve-bytes"), (false, "with\na-newline")] {
            assert_eq!(text.parse::<ChapSecret>().is_ok(), good, "{text}");
        }
        let secret: ChapSecret = "twelve-bytes".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "ChapSecret(..)");
        let told = serde_json::from_str::<ChapSecret>("\"eleven-byte\"").unwrap_err().to_string();
        assert!(!told.contains("eleven-byte"), "{told}");
    }

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("64K", 65536), ("1.5G", 3 << 29), ("2TiB", 2 << 40), (" 1 g ", 1 << 30)]
        {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "G", "1X", "-1", "1.5", "1.G", "99999999999T", "1..2G", "ä"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (1536 << 20, "1.5 GiB"), ((1 << 30) - 1, "1 GiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn size_text_never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Name>();
        }

        #[test]
        fn a_size_survives_json(bytes: u64) {
            let json = serde_json::to_string(&ByteSize(bytes)).unwrap();
            prop_assert_eq!(serde_json::from_str::<ByteSize>(&json).unwrap(), ByteSize(bytes));
        }
    }
}
