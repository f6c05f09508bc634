//! Pairing two boxes by a short one-time code.
//!
//! One box *listens*: it shows a code. The other *dials* it and is given the code by a person. Over a TLS connection on
//! which neither end is known yet both run SPAKE2, so that whoever sits between them has one guess per try and learns
//! nothing to guess with later. Key confirmation then covers both TLS keys, both box ids and the TLS exporter, so that the
//! keys that are stored are those of this very connection.
//!
//! ```text
//! dialler                                   listener
//!   PairStart   id, name, share        ->
//!                                      <-   PairShare    id, name, share
//!   PairConfirm mac                    ->   checks; a wrong one burns a try; stores the dialler as *prepared*
//!                                      <-   PairConfirm  mac
//!   checks; stores the listener as paired
//!   PairCommit                         ->   stores the dialler as paired
//!                                      <-   PairCommitted
//! ```
//!
//! Whatever message is lost, the same two boxes can repeat: with the same code until it expires, since a used code stays
//! bound to the box that used it; or, once the dialler has stored, by simply connecting: a connection that the prepared
//! box makes with its pinned key counts as its commit.

use rand_core::{CryptoRng, Error as RandError, RngCore};
use reprise_format::link::{PairConfirm, PairRefusal, PairShare, PairStart};
use reprise_types::{BoxId, Mono};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;

/// Wrong tries before a code is burnt. With 2^45 codes the chance to guess one is below 1 in 10^13.
pub const WRONG_TRIES_MAX: u32 = 3;

/// A code is good for this long.
pub const CODE_LIFETIME_MS: u64 = 10 * 60 * 1_000;

/// Digits and letters without I, L, O and U (Crockford's base 32): 5 bits each.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

const CODE_SYMBOLS: usize = 9;

/// Why two boxes are not paired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// What was typed is no code.
    #[error("a pairing code has 9 digits or letters in 3 groups, like 4F7-K2M-9TX")]
    CodeForm,
    /// The peer, or this box, says the code is wrong.
    #[error("wrong code")]
    WrongCode,
    /// The code's time is over.
    #[error("the code has expired; show another one with `pair --listen`")]
    Expired,
    /// Too many wrong tries.
    #[error("too many wrong tries, the code is burnt; show another one with `pair --listen`")]
    Burnt,
    /// The code was used by another box.
    #[error("the code was used by another box; show another one with `pair --listen`")]
    Used,
    /// Both ends are one box.
    #[error("a box cannot be paired with itself: check the address")]
    SelfPairing,
    /// The other end shows no code.
    #[error("the other box shows no code; start `pair --listen` there")]
    NotListening,
    /// Asked to dial while showing a code.
    #[error(
        "this box shows a code itself, and so may the other: one of the two has to dial, stop listening on this one first"
    )]
    BothListening,
    /// The two are paired already, or the box is and comes with another key.
    #[error("already paired with this box; if its key has changed use `peer replace`")]
    AlreadyPaired,
    /// The other end did not prove that it knows the code: somebody may sit in between.
    #[error("the other end did not confirm the code: it may not be the box it says it is")]
    NotConfirmed,
    /// A message that breaks the protocol.
    #[error("the other end does not follow the pairing protocol")]
    Protocol,
}

impl PairError {
    /// What the other end is told.
    pub fn refusal(self) -> PairRefusal {
        match self {
            Self::WrongCode | Self::CodeForm | Self::NotConfirmed => PairRefusal::WrongCode,
            Self::Expired => PairRefusal::Expired,
            Self::Burnt => PairRefusal::Burnt,
            Self::Used => PairRefusal::Used,
            Self::SelfPairing => PairRefusal::SelfPairing,
            Self::NotListening | Self::BothListening => PairRefusal::NotListening,
            Self::AlreadyPaired => PairRefusal::AlreadyPaired,
            Self::Protocol => PairRefusal::Protocol,
        }
    }

    /// What the dialling box makes of a refusal.
    pub fn from_refusal(refusal: PairRefusal) -> Self {
        match refusal {
            PairRefusal::NotListening => Self::NotListening,
            PairRefusal::WrongCode => Self::WrongCode,
            PairRefusal::Expired => Self::Expired,
            PairRefusal::Burnt => Self::Burnt,
            PairRefusal::SelfPairing => Self::SelfPairing,
            PairRefusal::AlreadyPaired => Self::AlreadyPaired,
            PairRefusal::Used => Self::Used,
            PairRefusal::Protocol => Self::Protocol,
        }
    }
}

/// A one-time code of 45 random bits, shown as `4F7-K2M-9TX`.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode([u8; CODE_SYMBOLS]);

impl PairingCode {
    /// A code from random bytes, of which 5 bits each are used.
    pub fn from_random(random: [u8; CODE_SYMBOLS]) -> Self {
        Self(random.map(|byte| ALPHABET[usize::from(byte & 31)]))
    }

    /// Reads what a person typed: case, spaces and hyphens do not matter, nor does O for 0 or I and L for 1.
    pub fn parse(text: &str) -> Result<Self, PairError> {
        let mut symbols =
            text.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                c => c,
            });
        let mut code = [0u8; CODE_SYMBOLS];
        for place in &mut code {
            let symbol = symbols.next().and_then(|c| u8::try_from(c).ok()).ok_or(PairError::CodeForm)?;
            *place = ALPHABET.contains(&symbol).then_some(symbol).ok_or(PairError::CodeForm)?;
        }
        if symbols.next().is_some() { Err(PairError::CodeForm) } else { Ok(Self(code)) }
    }

    /// The code for people. It is a secret until it is used: for the terminal, never for a log.
    pub fn display(&self) -> String {
        let groups: Vec<String> = self.0.chunks(3).map(|g| String::from_utf8_lossy(g).into_owned()).collect();
        groups.join("-")
    }
}

impl std::fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PairingCode(..)")
    }
}

/// This box, as pairing shows it to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairIdentity {
    /// The box.
    pub box_id: BoxId,
    /// Its name.
    pub name: String,
    /// Fingerprint of its TLS public key.
    pub fingerprint: [u8; 32],
}

/// What TLS says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channel {
    /// Keying material exported from the TLS session: the same at both ends of one connection and nowhere else.
    pub exporter: [u8; 32],
    /// Fingerprint of the TLS public key that the other end has proven to hold.
    pub peer_fingerprint: [u8; 32],
}

/// Random bytes for SPAKE2, stretched from a seed that is handed in.
struct SeedRng(blake3::OutputReader);

impl SeedRng {
    fn new(seed: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_derive_key("reprise 2026 pairing scalar").update(seed).finalize_xof())
    }
}

impl RngCore for SeedRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), RandError> {
        self.0.fill(dest);
        Ok(())
    }
}

impl CryptoRng for SeedRng {}

fn spake_names() -> (Identity, Identity) {
    (Identity::new(b"reprise dialler"), Identity::new(b"reprise listener"))
}

/// Both macs over everything that both ends must agree on.
struct Confirmation {
    dialler: [u8; 32],
    listener: [u8; 32],
}

impl Confirmation {
    fn new(
        key: &[u8],
        exporter: &[u8; 32],
        dialler: (&PairIdentity, &[u8; 33]),
        listener: (&PairIdentity, &[u8; 33]),
    ) -> Self {
        let mac_key = blake3::derive_key("reprise 2026 pairing key confirmation", key);
        let mac = |role: u8| {
            let mut hasher = blake3::Hasher::new_keyed(&mac_key);
            hasher.update(&[role]).update(exporter);
            for (identity, share) in [dialler, listener] {
                hasher.update(identity.box_id.as_bytes()).update(&identity.fingerprint).update(share);
                hasher.update(&(identity.name.len() as u64).to_le_bytes()).update(identity.name.as_bytes());
            }
            *hasher.finalize().as_bytes()
        };
        Self { dialler: mac(1), listener: mac(2) }
    }
}

fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    bool::from(a[..].ct_eq(&b[..]))
}

fn share_of(bytes: Vec<u8>) -> Result<[u8; 33], PairError> {
    bytes.try_into().map_err(|_| PairError::Protocol)
}

/// The listening box while it shows a code; outlives connections.
#[derive(Debug)]
pub struct Listener {
    identity: PairIdentity,
    code: PairingCode,
    expires: Mono,
    wrong_tries: u32,
    used_by: Option<(BoxId, [u8; 32])>,
}

impl Listener {
    /// Shows `code` from now on.
    pub fn new(now: Mono, identity: PairIdentity, code: PairingCode) -> Self {
        Self { identity, code, expires: now.plus_millis(CODE_LIFETIME_MS), wrong_tries: 0, used_by: None }
    }

    /// The code, for the terminal.
    pub fn code(&self) -> &PairingCode {
        &self.code
    }

    /// When it stops being good.
    pub fn expires(&self) -> Mono {
        self.expires
    }

    /// Whether it still is.
    pub fn check_open(&self, now: Mono) -> Result<(), PairError> {
        if self.wrong_tries >= WRONG_TRIES_MAX {
            return Err(PairError::Burnt);
        }
        if now >= self.expires { Err(PairError::Expired) } else { Ok(()) }
    }

    /// The box that has used the code, if one has.
    pub fn used_by(&self) -> Option<BoxId> {
        self.used_by.map(|(box_id, _)| box_id)
    }

    /// A dialler's first message. `already_paired` says whether that box or key is paired for good; a box that is only
    /// prepared is not. `seed` is 32 random bytes, different every time.
    pub fn start(
        &self,
        now: Mono,
        start: &PairStart,
        channel: &Channel,
        already_paired: bool,
        seed: &[u8; 32],
    ) -> Result<(ListenSession, PairShare), PairError> {
        let own = &self.identity;
        if start.box_id == own.box_id || channel.peer_fingerprint == own.fingerprint {
            return Err(PairError::SelfPairing);
        }
        self.check_open(now)?;
        let repeats = self.used_by == Some((start.box_id, channel.peer_fingerprint));
        if self.used_by.is_some() && !repeats {
            return Err(PairError::Used);
        }
        if already_paired && !repeats {
            return Err(PairError::AlreadyPaired);
        }
        let (name_a, name_b) = spake_names();
        let password = Password::new(self.code.0);
        let (state, share) = Spake2::<Ed25519Group>::start_b_with_rng(&password, &name_a, &name_b, SeedRng::new(seed));
        let share = share_of(share)?;
        let key = state.finish(&start.share).map_err(|_| PairError::Protocol)?;
        let peer =
            PairIdentity { box_id: start.box_id, name: start.name.clone(), fingerprint: channel.peer_fingerprint };
        let macs = Confirmation::new(&key, &channel.exporter, (&peer, &start.share), (own, &share));
        let answer = PairShare { box_id: own.box_id, name: own.name.clone(), share };
        Ok((ListenSession { macs, peer, expires: self.expires }, answer))
    }
}

/// One try of a dialler, at the listener.
pub struct ListenSession {
    macs: Confirmation,
    peer: PairIdentity,
    expires: Mono,
}

impl ListenSession {
    /// The dialler's confirmation. On success store the returned box as *prepared*, then send the answer; at
    /// `PairCommit`, or when that box connects with its key, it is paired.
    pub fn confirm(
        &self,
        now: Mono,
        listener: &mut Listener,
        confirm: &PairConfirm,
    ) -> Result<(PairIdentity, PairConfirm), PairError> {
        // Another code may be shown by now: this try belongs to the one before.
        if listener.expires != self.expires {
            return Err(PairError::Expired);
        }
        listener.check_open(now)?;
        if listener.used_by.is_some_and(|used| used != (self.peer.box_id, self.peer.fingerprint)) {
            return Err(PairError::Used);
        }
        if !equal(&confirm.mac, &self.macs.dialler) {
            listener.wrong_tries += 1;
            return Err(PairError::WrongCode);
        }
        listener.used_by = Some((self.peer.box_id, self.peer.fingerprint));
        Ok((self.peer.clone(), PairConfirm { mac: self.macs.listener }))
    }
}

/// The dialling box's try.
pub struct DialSession {
    identity: PairIdentity,
    state: Spake2<Ed25519Group>,
    share: [u8; 33],
}

impl DialSession {
    /// Begins. `listening` says whether this box shows a code itself; `seed` is 32 random bytes, different every time.
    pub fn start(
        identity: PairIdentity,
        code: &PairingCode,
        listening: bool,
        seed: &[u8; 32],
    ) -> Result<(Self, PairStart), PairError> {
        if listening {
            return Err(PairError::BothListening);
        }
        let (name_a, name_b) = spake_names();
        let password = Password::new(code.0);
        let (state, share) = Spake2::<Ed25519Group>::start_a_with_rng(&password, &name_a, &name_b, SeedRng::new(seed));
        let share = share_of(share)?;
        let message = PairStart { box_id: identity.box_id, name: identity.name.clone(), share };
        Ok((Self { identity, state, share }, message))
    }

    /// The listener's share.
    pub fn share(self, answer: &PairShare, channel: &Channel) -> Result<(DialConfirm, PairConfirm), PairError> {
        if answer.box_id == self.identity.box_id || channel.peer_fingerprint == self.identity.fingerprint {
            return Err(PairError::SelfPairing);
        }
        let key = self.state.finish(&answer.share).map_err(|_| PairError::Protocol)?;
        let peer =
            PairIdentity { box_id: answer.box_id, name: answer.name.clone(), fingerprint: channel.peer_fingerprint };
        let macs = Confirmation::new(&key, &channel.exporter, (&self.identity, &self.share), (&peer, &answer.share));
        let confirm = PairConfirm { mac: macs.dialler };
        Ok((DialConfirm { macs, peer }, confirm))
    }
}

/// The dialling box, waiting for the listener's confirmation.
pub struct DialConfirm {
    macs: Confirmation,
    peer: PairIdentity,
}

impl DialConfirm {
    /// The listener's confirmation. On success store the returned box as paired, then send `PairCommit`.
    pub fn confirmed(self, confirm: &PairConfirm) -> Result<PairIdentity, PairError> {
        if equal(&confirm.mac, &self.macs.listener) { Ok(self.peer) } else { Err(PairError::NotConfirmed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "4f7 k2m-9tx";

    fn identity(n: u8) -> PairIdentity {
        PairIdentity { box_id: BoxId::from_raw([n; 16]), name: format!("box{n}"), fingerprint: [n; 32] }
    }

    fn code(text: &str) -> PairingCode {
        PairingCode::parse(text).unwrap()
    }

    fn listener() -> Listener {
        Listener::new(Mono::from_millis(0), identity(2), code("4F7-K2M-9TX"))
    }

    fn channel(peer: u8) -> Channel {
        Channel { exporter: [0xe; 32], peer_fingerprint: [peer; 32] }
    }

    struct Try {
        dialler: PairIdentity,
        code: PairingCode,
        at_dialler: Channel,
        at_listener: Channel,
        now: Mono,
        paired: bool,
    }

    fn attempt(n: u8) -> Try {
        Try {
            dialler: identity(n),
            code: code(CODE),
            at_dialler: channel(2),
            at_listener: channel(n),
            now: Mono::from_millis(1),
            paired: false,
        }
    }

    fn run(listener: &mut Listener, t: &Try) -> Result<(PairIdentity, PairIdentity), PairError> {
        let (dial, start) = DialSession::start(t.dialler.clone(), &t.code, false, &[1; 32])?;
        let (session, share) = listener.start(t.now, &start, &t.at_listener, t.paired, &[2; 32])?;
        let (dial, confirm) = dial.share(&share, &t.at_dialler)?;
        let (prepared, confirm) = session.confirm(t.now, listener, &confirm)?;
        Ok((dial.confirmed(&confirm)?, prepared))
    }

    #[test]
    fn pairs_and_repeats_after_a_lost_message_but_only_for_the_same_box() {
        let mut listener = listener();
        for _ in 0..2 {
            let (listening, dialling) = run(&mut listener, &attempt(1)).unwrap();
            assert_eq!((listening, dialling), (identity(2), identity(1)));
        }
        // The listener has stored it as paired by now: the same box may still repeat with the same code.
        assert!(run(&mut listener, &Try { paired: true, ..attempt(1) }).is_ok());
        assert_eq!(run(&mut listener, &attempt(3)), Err(PairError::Used));
    }

    #[test]
    fn every_refusal() {
        let late = Mono::from_millis(CODE_LIFETIME_MS);
        let wrong = code("000-000-000");
        let other_exporter = Channel { exporter: [0xd; 32], ..channel(1) };
        let cases = [
            ("wrong code", Try { code: wrong, ..attempt(1) }, PairError::WrongCode),
            ("expired", Try { now: late, ..attempt(1) }, PairError::Expired),
            ("itself", Try { at_listener: channel(2), ..attempt(2) }, PairError::SelfPairing),
            ("own key", Try { at_listener: channel(2), ..attempt(1) }, PairError::SelfPairing),
            ("already paired", Try { paired: true, ..attempt(1) }, PairError::AlreadyPaired),
            ("relayed by somebody in between", Try { at_listener: channel(9), ..attempt(1) }, PairError::WrongCode),
            ("another connection's exporter", Try { at_listener: other_exporter, ..attempt(1) }, PairError::WrongCode),
        ];
        for (name, t, error) in cases {
            assert_eq!(run(&mut listener(), &t), Err(error), "{name}");
        }
        let listening = DialSession::start(identity(1), &code(CODE), true, &[1; 32]);
        assert_eq!(listening.err(), Some(PairError::BothListening));
    }

    #[test]
    fn three_wrong_tries_burn_the_code() {
        let mut listener = listener();
        for _ in 0..WRONG_TRIES_MAX {
            let wrong = Try { code: code("111-111-111"), ..attempt(1) };
            assert_eq!(run(&mut listener, &wrong), Err(PairError::WrongCode));
        }
        assert_eq!(run(&mut listener, &attempt(1)), Err(PairError::Burnt));
    }

    #[test]
    fn garbage_shares_and_macs_are_refused() {
        let mut listener = listener();
        let start = PairStart { box_id: BoxId::from_raw([1; 16]), name: "x".into(), share: [0xff; 33] };
        let refused = listener.start(Mono::from_millis(1), &start, &channel(1), false, &[2; 32]);
        assert_eq!(refused.err(), Some(PairError::Protocol));
        let (dial, start) = DialSession::start(identity(1), &code(CODE), false, &[1; 32]).unwrap();
        let (session, share) = listener.start(Mono::from_millis(1), &start, &channel(1), false, &[2; 32]).unwrap();
        let (dial, mine) = dial.share(&share, &channel(2)).unwrap();
        // Reflecting the dialler's own mac proves nothing.
        assert_eq!(dial.confirmed(&mine).err(), Some(PairError::NotConfirmed));
        let junk = session.confirm(Mono::from_millis(1), &mut listener, &PairConfirm { mac: [0; 32] });
        assert_eq!(junk.err(), Some(PairError::WrongCode));
    }

    /// Whichever way SPAKE2 draws, it gets the bytes of the seed's stream and never the same ones twice.
    #[test]
    fn randomness_is_one_stream_however_it_is_drawn() {
        let mut whole = [0; 24];
        SeedRng::new(&[1; 32]).fill_bytes(&mut whole);
        let mut rng = SeedRng::new(&[1; 32]);
        let (mut drawn, mut rest) = (Vec::new(), [0; 12]);
        drawn.extend_from_slice(&rng.next_u32().to_le_bytes());
        drawn.extend_from_slice(&rng.next_u64().to_le_bytes());
        rng.try_fill_bytes(&mut rest).unwrap();
        drawn.extend_from_slice(&rest);
        assert_eq!(drawn, whole);
        assert!(whole.chunks(4).any(|c| c != &whole[..4]), "a stream, not one value over and over");
        let mut other = [0; 24];
        SeedRng::new(&[2; 32]).fill_bytes(&mut other);
        assert_ne!(other, whole);
    }

    #[test]
    fn codes_read_as_people_type_them() {
        let shown = PairingCode::from_random([0, 1, 31, 32, 64, 10, 255, 20, 17]).display();
        assert_eq!(shown, "01Z-00A-ZMH");
        assert_eq!(code("o1z ooa zmh").display(), code("0lz-00A-ZMH").display());
        assert_eq!(code(&shown).display(), shown);
        for bad in ["", "123", "123-456-78U", "123-456-7890", "12é-456-789"] {
            assert_eq!(PairingCode::parse(bad), Err(PairError::CodeForm), "{bad}");
        }
    }
}
