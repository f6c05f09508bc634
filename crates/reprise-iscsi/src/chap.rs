//! CHAP (RFC 1994) as iSCSI carries it (RFC 7143, sections 9.2.1 and 12.1.3), one way or both.
//!
//! Names are text and are never decoded. The length of a binary value is known before it is decoded. A response is
//! compared in constant time. A challenge is drawn by the owner, used for one answer, and not accepted back.

use std::fmt;

use sha2::Digest;
use subtle::ConstantTimeEq;

use crate::status;
use crate::text;

/// Shortest secret: 96 bits, below which the standard wants IPsec (RFC 7143, section 9.2.1).
pub const SECRET_MIN: usize = 12;
/// Longest secret: what one value of a key holds.
pub const SECRET_MAX: usize = 255;
/// Longest CHAP name: one value of a key.
pub const USER_MAX: usize = 255;
/// Longest challenge of an initiator (RFC 7143, section 12.1.3).
const CHALLENGE_MAX: usize = 1024;

/// A CHAP secret. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// A secret of 12 to 255 bytes; none for any other length.
    pub fn new(text: &str) -> Option<Self> {
        (SECRET_MIN..=SECRET_MAX).contains(&text.len()).then(|| Self(text.as_bytes().into()))
    }
}

/// A name and the secret that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// CHAP_N.
    pub user: String,
    /// What CHAP_R is made from.
    pub secret: Secret,
}

/// What an initiator has to prove, and what the target can prove to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    initiator: Credentials,
    target: Option<Credentials>,
}

/// Credentials that may not be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChapError {
    /// Whoever holds one secret could answer for the other side (RFC 7143, section 9.2.1).
    #[error("the secrets of initiator and target are the same")]
    SameSecret,
    /// Empty or longer than 255 bytes.
    #[error("a CHAP user has 1 to 255 bytes and no control characters")]
    User,
}

impl Chap {
    /// The initiator proves `initiator`; `target` is what it may ask of the target.
    ///
    /// # Errors
    /// The same secret twice, or a name that no key can carry.
    pub fn new(initiator: Credentials, target: Option<Credentials>) -> Result<Self, ChapError> {
        let fine = |c: &Credentials| (1..=USER_MAX).contains(&c.user.len()) && !c.user.contains(char::is_control);
        if !fine(&initiator) || !target.iter().all(fine) {
            return Err(ChapError::User);
        }
        if target.as_ref().is_some_and(|t| t.secret == initiator.secret) {
            return Err(ChapError::SameSecret);
        }
        Ok(Self { initiator, target })
    }
}

/// Random bytes for the one challenge of a connection, drawn by its owner.
#[derive(Debug, Clone, Copy)]
pub struct Challenge {
    identifier: u8,
    bytes: [u8; 32],
}

impl Challenge {
    /// A challenge from 33 bytes of a cryptographic random source.
    pub fn from_random(random: [u8; 33]) -> Self {
        let [identifier, bytes @ ..] = random;
        Self { identifier, bytes }
    }
}

/// Hash by its IANA number (PPP authentication algorithms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
    Sha3_256 = 8,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha3_256];

    /// The first of the offered ones that we know.
    fn choose(offers: &str) -> Option<Self> {
        offers.split(',').filter_map(text::number).find_map(|n| Self::ALL.into_iter().find(|a| *a as u32 == n))
    }

    const fn response_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }

    fn response(self, identifier: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut digest = D::new();
            parts.iter().for_each(|part| digest.update(part));
            digest.finalize().to_vec()
        }
        let parts = [&[identifier][..], &secret.0, challenge];
        match self {
            Self::Md5 => hash::<md5::Md5>(parts),
            Self::Sha1 => hash::<sha1::Sha1>(parts),
            Self::Sha256 => hash::<sha2::Sha256>(parts),
            Self::Sha3_256 => hash::<sha3::Sha3_256>(parts),
        }
    }
}

/// The keys of the security stage in one request.
#[derive(Debug, Default)]
pub(crate) struct Keys<'a> {
    method: Option<&'a str>,
    algorithms: Option<&'a str>,
    name: Option<&'a str>,
    response: Option<&'a str>,
    identifier: Option<&'a str>,
    challenge: Option<&'a str>,
}

impl<'a> Keys<'a> {
    /// Takes a key of the security stage; false for any other.
    pub(crate) fn take(&mut self, key: &str, value: &'a str) -> Result<bool, u16> {
        let place = match key {
            "AuthMethod" => &mut self.method,
            "CHAP_A" => &mut self.algorithms,
            "CHAP_N" => &mut self.name,
            "CHAP_R" => &mut self.response,
            "CHAP_I" => &mut self.identifier,
            "CHAP_C" => &mut self.challenge,
            _ => return Ok(false),
        };
        match place.replace(value) {
            None => Ok(true),
            Some(_) => Err(status::INITIATOR_ERROR),
        }
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.method.is_none() && self.algorithms.is_none() && !self.has_answer()
    }

    fn has_answer(&self) -> bool {
        [self.name, self.response, self.identifier, self.challenge].iter().any(Option::is_some)
    }
}

#[derive(Debug)]
enum Step {
    /// For AuthMethod.
    Method,
    /// For CHAP_A.
    Algorithm,
    /// For CHAP_N and CHAP_R.
    Answer(Algorithm),
    Done,
}

/// How far an initiator has come with proving who it is.
#[derive(Debug)]
pub(crate) struct Authentication {
    wanted: Option<Chap>,
    challenge: Challenge,
    step: Step,
}

impl Authentication {
    pub(crate) fn new(wanted: Option<Chap>, challenge: Challenge) -> Self {
        Self { wanted, challenge, step: Step::Method }
    }

    /// True if nothing more has to be proved.
    pub(crate) fn is_done(&self) -> bool {
        self.wanted.is_none() || matches!(self.step, Step::Done)
    }

    /// The name that was proved.
    pub(crate) fn user(self) -> Option<String> {
        self.wanted.map(|chap| chap.initiator.user)
    }

    /// Treats the keys of one request and appends the answers.
    pub(crate) fn step(&mut self, keys: &Keys<'_>, out: &mut Vec<u8>) -> Result<(), u16> {
        if let Some(methods) = keys.method {
            self.choose_method(methods, out)?;
        }
        if let Some(offers) = keys.algorithms {
            if !matches!(self.step, Step::Algorithm) {
                return Err(status::INITIATOR_ERROR);
            }
            let algorithm = Algorithm::choose(offers).ok_or(status::AUTHENTICATION_FAILED)?;
            text::push(out, "CHAP_A", &(algorithm as u8).to_string());
            text::push(out, "CHAP_I", &self.challenge.identifier.to_string());
            text::push(out, "CHAP_C", &hex(&self.challenge.bytes));
            self.step = Step::Answer(algorithm);
            // An answer cannot come before its question.
            return if keys.has_answer() { Err(status::INITIATOR_ERROR) } else { Ok(()) };
        }
        if keys.has_answer() {
            self.check_answer(keys, out)?;
        }
        Ok(())
    }

    fn choose_method(&mut self, methods: &str, out: &mut Vec<u8>) -> Result<(), u16> {
        if !matches!(self.step, Step::Method) {
            return Err(status::INITIATOR_ERROR);
        }
        let (method, next) = if self.wanted.is_some() { ("CHAP", Step::Algorithm) } else { ("None", Step::Done) };
        if !methods.split(',').any(|offered| offered == method) {
            return Err(status::AUTHENTICATION_FAILED);
        }
        text::push(out, "AuthMethod", method);
        self.step = next;
        Ok(())
    }

    fn check_answer(&mut self, keys: &Keys<'_>, out: &mut Vec<u8>) -> Result<(), u16> {
        let (Step::Answer(algorithm), Some(chap)) = (&self.step, &self.wanted) else {
            return Err(status::INITIATOR_ERROR);
        };
        let algorithm = *algorithm;
        let (Some(name), Some(response)) = (keys.name, keys.response) else {
            return Err(status::MISSING_PARAMETER);
        };
        let given = decode(response, algorithm.response_len()..=algorithm.response_len())
            .ok_or(status::AUTHENTICATION_FAILED)?;
        let expected = algorithm.response(self.challenge.identifier, &chap.initiator.secret, &self.challenge.bytes);
        let right = name.as_bytes().ct_eq(chap.initiator.user.as_bytes()) & given.ct_eq(&expected);
        if !bool::from(right) {
            return Err(status::AUTHENTICATION_FAILED);
        }
        match (keys.identifier, keys.challenge) {
            (None, None) => {}
            (Some(identifier), Some(challenge)) => {
                let own = chap.target.as_ref().ok_or(status::AUTHENTICATION_FAILED)?;
                let identifier = text::number(identifier).and_then(|n| u8::try_from(n).ok());
                let identifier = identifier.ok_or(status::INITIATOR_ERROR)?;
                let challenge = decode(challenge, 1..=CHALLENGE_MAX).ok_or(status::INITIATOR_ERROR)?;
                if challenge == self.challenge.bytes {
                    return Err(status::AUTHENTICATION_FAILED);
                }
                text::push(out, "CHAP_N", &own.user);
                text::push(out, "CHAP_R", &hex(&algorithm.response(identifier, &own.secret, &challenge)));
            }
            _ => return Err(status::INITIATOR_ERROR),
        }
        self.step = Step::Done;
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    text
}

/// A binary value in either form, if it has one of the lengths; the length is checked before anything is decoded.
fn decode(value: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<Vec<u8>> {
    let (prefix, digits) = value.as_bytes().split_at_checked(2)?;
    match prefix {
        b"0x" | b"0X" => {
            let fits = digits.len() % 2 == 0 && lengths.contains(&(digits.len() / 2));
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            let byte = |pair: &[u8; 2]| Some((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8);
            fits.then(|| digits.as_chunks().0.iter().map(byte).collect())?
        }
        b"0b" | b"0B" => {
            let padding = digits.iter().rev().take_while(|digit| **digit == b'=').count();
            let fits = digits.len() % 4 == 0 && padding <= 2 && !digits.is_empty();
            let len = (digits.len() / 4 * 3).checked_sub(padding)?;
            if !fits || !lengths.contains(&len) {
                return None;
            }
            let mut bytes = Vec::with_capacity(len + padding);
            for four in digits.as_chunks::<4>().0 {
                let bits = four.iter().try_fold(0u32, |bits, digit| Some(bits << 6 | sextet(*digit)?))?;
                bytes.extend_from_slice(bits.to_be_bytes().get(1..)?);
            }
            // A padding sign inside counts as zero bits; only those at the end were counted as padding.
            let inside = digits.get(..digits.len() - padding)?;
            bytes.truncate(len);
            (!inside.contains(&b'=')).then_some(bytes)
        }
        _ => None,
    }
}

fn sextet(digit: u8) -> Option<u32> {
    Some(u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn credentials(user: &str, text: &str) -> Credentials {
        Credentials { user: user.into(), secret: secret(text) }
    }

    fn random() -> Challenge {
        Challenge::from_random(std::array::from_fn(|i| i as u8 + 7))
    }

    #[test]
    fn responses_are_those_of_other_implementations() {
        // printf '\x07secret-of-twelve0123' | md5sum, sha1sum, sha256sum, openssl dgst -sha3-256
        let known = [
            (Algorithm::Md5, "4afcc46a2b1c86b7ae282ec141720882"),
            (Algorithm::Sha1, "35d889fce7a4ea722dbe29adbfeeb771493d3154"),
            (Algorithm::Sha256, "1226ed22b9f5d4053fc4cd10245b13f0afff75c1bc3424296d2df482817fb8b4"),
            (Algorithm::Sha3_256, "52d9f1cbbf2b81eb48cc7c6e74f3a55b49714cd096d40f88a4416d07a4954d64"),
        ];
        for (algorithm, sum) in known {
            let response = algorithm.response(7, &secret("secret-of-twelve"), b"0123");
            assert_eq!(hex(&response), format!("0x{sum}"), "{algorithm:?}");
            assert_eq!(response.len(), algorithm.response_len());
        }
    }

    #[test]
    fn the_first_algorithm_that_is_known_is_taken() {
        for (offers, chosen) in [
            ("5", Some(Algorithm::Md5)),
            ("9,8,5", Some(Algorithm::Sha3_256)),
            ("7,5", Some(Algorithm::Sha256)),
            ("0x6", Some(Algorithm::Sha1)),
            ("", None),
            ("4,9,MD5", None),
        ] {
            assert_eq!(Algorithm::choose(offers), chosen, "{offers}");
        }
    }

    #[test]
    fn binary_values_have_their_length_before_they_are_decoded() {
        let three = |value: &str| decode(value, 3..=3);
        for good in ["0x010aFF", "0X010aff", "0bAQr/", "0BAQr/"] {
            assert_eq!(three(good), Some(vec![1, 10, 255]), "{good}");
        }
        assert_eq!(decode("0bAQo=", 1..=9), Some(vec![1, 10]));
        assert_eq!(decode("0bAQ==", 1..=9), Some(vec![1]));
        let long = format!("0b{}", "A".repeat(8192));
        for bad in [
            "",
            "0",
            "0x",
            "0b",
            "010aff",
            "0x010af",
            "0x010aff00",
            "0x010afg",
            "0xé10af",
            "0bAQr",
            "0bAQr/AQr/",
            "0bA=r/",
            "0b=Qr/",
            "0bAQr!",
            "0bA===",
            "0b====",
            &long,
        ] {
            assert_eq!(three(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_may_not_be_used_is_refused() {
        assert!(Secret::new("eleven-byte").is_none() && Secret::new(&"x".repeat(256)).is_none());
        assert!(Secret::new("twelve-bytes").is_some() && Secret::new(&"x".repeat(255)).is_some());
        let one = credentials("host", "twelve-bytes");
        assert_eq!(Chap::new(one.clone(), Some(credentials("box", "twelve-bytes"))), Err(ChapError::SameSecret));
        for user in ["", "a\nb", &"x".repeat(256)] {
            assert_eq!(Chap::new(credentials(user, "twelve-bytes"), None), Err(ChapError::User));
        }
        assert!(!format!("{one:?}").contains("twelve"), "a secret is never shown");
    }

    /// Runs an initiator that proves `user` with `with`, and returns the answers or the status.
    fn run(chap: &Chap, algorithm: Algorithm, user: &str, with: &str, extra: &[(&str, &str)]) -> Result<String, u16> {
        let mut proof = Authentication::new(Some(chap.clone()), random());
        let mut out = Vec::new();
        let mut feed = |proof: &mut Authentication, pairs: &[(&str, &str)]| {
            let mut keys = Keys::default();
            for (key, value) in pairs {
                assert!(keys.take(key, value)?);
            }
            proof.step(&keys, &mut out)
        };
        feed(&mut proof, &[("AuthMethod", "None,CHAP")])?;
        feed(&mut proof, &[("CHAP_A", &(algorithm as u8).to_string())])?;
        assert!(!proof.is_done());
        let response = hex(&algorithm.response(random().identifier, &secret(with), &random().bytes));
        let mut pairs = vec![("CHAP_N", user), ("CHAP_R", response.as_str())];
        pairs.extend_from_slice(extra);
        feed(&mut proof, &pairs)?;
        assert!(proof.is_done());
        // Neither the method nor an answer is taken a second time.
        for again in [("AuthMethod", "CHAP"), ("CHAP_A", "5"), ("CHAP_N", user), ("CHAP_R", &response)] {
            assert_eq!(feed(&mut proof, &[again]), Err(status::INITIATOR_ERROR), "{again:?}");
        }
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn one_way_and_both_ways_with_every_algorithm() {
        let one_way = Chap::new(credentials("host", "of-the-initiator"), None).unwrap();
        let both =
            Chap::new(credentials("host", "of-the-initiator"), Some(credentials("box", "of-the-target"))).unwrap();
        for algorithm in Algorithm::ALL {
            let run =
                |chap: &Chap, user: &str, with: &str, extra: &[(&str, &str)]| run(chap, algorithm, user, with, extra);
            assert!(run(&one_way, "host", "of-the-initiator", &[]).is_ok());
            assert!(run(&both, "host", "of-the-initiator", &[]).is_ok(), "the initiator need not ask");
            let asked = [("CHAP_I", "9"), ("CHAP_C", "0x0102030405")];
            let answer = run(&both, "host", "of-the-initiator", &asked).unwrap();
            let expected = hex(&algorithm.response(9, &secret("of-the-target"), &[1, 2, 3, 4, 5]));
            assert!(answer.ends_with(&format!("CHAP_N=box\0CHAP_R={expected}\0")), "{answer:?}");
            let failed = Err(status::AUTHENTICATION_FAILED);
            assert_eq!(run(&both, "host", "of-the-target", &asked), failed);
            assert_eq!(run(&both, "Host", "of-the-initiator", &[]), failed, "names are text");
            assert_eq!(run(&both, "0x686f7374", "of-the-initiator", &[]), failed, "names are never decoded");
            assert_eq!(run(&one_way, "host", "of-the-initiator", &asked), failed, "there is nothing to prove");
            let reflected = hex(&random().bytes);
            let asked = [("CHAP_I", "9"), ("CHAP_C", reflected.as_str())];
            assert_eq!(run(&both, "host", "of-the-initiator", &asked), failed, "our own challenge");
            for broken in [
                &[("CHAP_I", "256"), ("CHAP_C", "0x01")][..],
                &[("CHAP_I", "1"), ("CHAP_C", "01")],
                &[("CHAP_I", "1")],
                &[("CHAP_C", "0x01")],
            ] {
                assert_eq!(run(&both, "host", "of-the-initiator", broken), Err(status::INITIATOR_ERROR), "{broken:?}");
            }
        }
    }

    #[test]
    fn methods_are_taken_by_need_and_steps_in_order() {
        let chap = Chap::new(credentials("host", "of-the-initiator"), None).unwrap();
        let first = |wanted: Option<&Chap>, pairs: &[(&str, &str)]| {
            let mut keys = Keys::default();
            pairs.iter().for_each(|(key, value)| assert_eq!(keys.take(key, value), Ok(true)));
            let mut out = Vec::new();
            let mut proof = Authentication::new(wanted.cloned(), random());
            proof.step(&keys, &mut out).map(|()| (String::from_utf8(out).unwrap(), proof.is_done()))
        };
        let failed = Err(status::AUTHENTICATION_FAILED);
        assert_eq!(first(None, &[("AuthMethod", "CHAP,None")]), Ok(("AuthMethod=None\0".into(), true)));
        assert_eq!(first(None, &[("AuthMethod", "CHAP")]), failed);
        assert_eq!(first(Some(&chap), &[("AuthMethod", "None")]), failed);
        assert_eq!(first(Some(&chap), &[("AuthMethod", "KRB5,CHAP")]), Ok(("AuthMethod=CHAP\0".into(), false)));
        assert_eq!(first(Some(&chap), &[("AuthMethod", "CHAP"), ("CHAP_A", "4")]), failed);
        for early in [("CHAP_A", "5"), ("CHAP_R", "0x00"), ("CHAP_C", "0x00")] {
            assert_eq!(first(Some(&chap), &[early]), Err(status::INITIATOR_ERROR), "{early:?}");
            assert_eq!(first(None, &[early]), Err(status::INITIATOR_ERROR), "{early:?}");
        }
        let mut keys = Keys::default();
        assert_eq!(keys.take("CHAP_A", "5"), Ok(true));
        assert_eq!(keys.take("CHAP_A", "5"), Err(status::INITIATOR_ERROR));
        assert_eq!(keys.take("HeaderDigest", "None"), Ok(false));
    }
}
