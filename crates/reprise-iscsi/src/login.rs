//! Login: security and operational negotiation (RFC 7143, sections 6.2, 6.3, 11.12 and 11.13).

use bytes::Bytes;
use reprise_scsi::Nexus;
use reprise_types::InitiatorPort;

use crate::chap::{self, Authentication};
use crate::conn::{CloseReason, Config, Connection, LoggedIn, Phase, Session, SessionType};
use crate::keys::Negotiation;
use crate::limit::Limit;
use crate::pdu::{BHS_LEN, Bhs, LOGIN_DATA_SEGMENT_MAX, op};
use crate::portal::{Admission, Moved};
use crate::status;
use crate::text;

/// Most bytes of login text over all requests of one login.
pub const LOGIN_BYTES_MAX: usize = 32 << 10;
/// Most login requests of one connection.
const LOGIN_REQUESTS_MAX: u32 = 64;
/// Longest iSCSI name (RFC 7143, section 4.2.7.1).
const NAME_MAX: usize = 223;

/// Security negotiation stage.
const SECURITY: u8 = 0;
/// Login operational negotiation stage.
const OPERATIONAL: u8 = 1;
/// Full feature phase.
const FULL: u8 = 3;
/// T bit: the stage ends.
const TRANSIT: u8 = 0x80;
/// C bit: the text goes on in the next PDU.
const CONTINUE: u8 = 0x40;

/// A login in progress.
#[derive(Default)]
pub(crate) struct Login {
    stage: Option<u8>,
    /// Text of a request that goes on in the next PDU.
    text: Vec<u8>,
    /// What is left of an answer that goes on in the next PDU.
    answer: Vec<u8>,
    bytes: usize,
    requests: u32,
    negotiation: Negotiation,
    isid: [u8; 6],
    initiator: Option<String>,
    initiator_alias: Option<String>,
    target: Option<String>,
    session_type: Option<SessionType>,
    /// There once it is known who it is and what it wants.
    authentication: Option<Authentication>,
    limit: Limit,
}

/// A login that is answered with a status other than success.
struct Refusal {
    status: u16,
    text: Vec<u8>,
}

impl From<u16> for Refusal {
    fn from(status: u16) -> Self {
        Self { status, text: Vec::new() }
    }
}

impl From<&Moved> for Refusal {
    fn from(moved: &Moved) -> Self {
        let mut text = Vec::new();
        text::push(&mut text, "TargetAddress", &moved.address);
        let status = if moved.permanently { status::MOVED_PERMANENTLY } else { status::MOVED_TEMPORARILY };
        Self { status, text }
    }
}

impl Login {
    fn discovery(&self) -> bool {
        self.session_type == Some(SessionType::Discovery)
    }

    /// Takes the keys of one complete request and writes the answers.
    fn keys(&mut self, stage: u8, data: &[u8], config: &Config, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let pairs = text::parse(data).map_err(|_| status::INITIATOR_ERROR)?;
        // Who and what first: other answers depend on it, wherever it stands.
        for (key, value) in &pairs {
            self.identity(key, value)?;
        }
        let first = self.authentication.is_none();
        let admission = if first { Some(self.admit(config)?) } else { None };
        if let Some(admission) = admission {
            let chap = match admission {
                Admission::By(rule) => {
                    self.limit = rule.limit;
                    rule.chap.clone()
                }
                Admission::AsAnyone => None,
                Admission::Refused => return Err(status::FORBIDDEN.into()),
            };
            self.authentication = Some(Authentication::new(chap, config.challenge));
        }
        let mut proof = chap::Keys::default();
        for (key, value) in pairs {
            if !proof.take(key, value)? {
                let discovery = self.discovery();
                self.negotiation.offer(key, value, discovery, true, out).map_err(|_| status::INITIATOR_ERROR)?;
            }
        }
        let Some(authentication) = &mut self.authentication else { return Err(status::INVALID_REQUEST.into()) };
        if stage == SECURITY {
            authentication.step(&proof, out)?;
        } else if !proof.is_empty() {
            return Err(status::INVALID_REQUEST.into());
        } else if !authentication.is_done() {
            return Err(status::AUTHENTICATION_FAILED.into());
        }
        if first && !self.discovery() {
            if let Some(alias) = self.target.as_deref().and_then(|t| config.portal.find(t)?.alias.as_ref()) {
                text::push(out, "TargetAlias", alias);
            }
            text::push(out, "TargetPortalGroupTag", &config.portal.group_tag.to_string());
        }
        Ok(())
    }

    fn identity(&mut self, key: &str, value: &str) -> Result<(), u16> {
        let name = || {
            let fine = !value.is_empty() && value.len() <= NAME_MAX && !value.contains(char::is_control);
            if fine { Ok(Some(String::from(value))) } else { Err(status::INITIATOR_ERROR) }
        };
        // What was decided by them is not decided again.
        let late = self.authentication.is_some();
        match key {
            "InitiatorName" | "TargetName" | "SessionType" if late => return Err(status::INITIATOR_ERROR),
            "InitiatorName" => self.initiator = name()?,
            "TargetName" => self.target = name()?,
            "InitiatorAlias" => self.initiator_alias = Some(String::from(value)),
            "SessionType" => {
                self.session_type = Some(match value {
                    "Normal" => SessionType::Normal,
                    "Discovery" => SessionType::Discovery,
                    _ => return Err(status::UNSUPPORTED_SESSION_TYPE),
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// What the rules say of who has come for what.
    fn admit(&self, config: &Config) -> Result<Admission, Refusal> {
        let initiator = self.initiator.as_deref().ok_or(status::MISSING_PARAMETER)?;
        if self.discovery() {
            return Ok(config.portal.admit_to_discovery(initiator, config.from));
        }
        let name = self.target.as_deref().ok_or(status::MISSING_PARAMETER)?;
        let absent = || if config.portal.is_away(name) { status::SERVICE_UNAVAILABLE } else { status::NOT_FOUND };
        let target = config.portal.find(name).ok_or_else(absent)?;
        let admission = target.acl.admit(initiator, config.from);
        match &target.moved {
            Some(moved) if !matches!(admission, Admission::Refused) => Err(moved.into()),
            _ => Ok(admission),
        }
    }
}

impl Connection {
    pub(crate) fn login_request(&mut self, bhs: &Bhs, data: &[u8]) {
        if let Err(Refusal { status, text }) = self.login_step(bhs, data) {
            self.login_reply(bhs, 0, status, text);
            self.close(CloseReason::LoginFailed { status });
        }
    }

    fn login_reply(&mut self, bhs: &Bhs, flags: u8, status: u16, text: Vec<u8>) {
        let mut reply = Bhs::reply(op::LOGIN_RESPONSE, flags, bhs.itt());
        reply.0[8..14].copy_from_slice(&bhs.0[8..14]);
        let tsih = if flags & 0x83 == 0x83 { self.config.tsih } else { 0 };
        reply.0[14..16].copy_from_slice(&tsih.to_be_bytes());
        reply.0[36..38].copy_from_slice(&status.to_be_bytes());
        self.send_pdu(reply, [Bytes::from(text)], status >> 8 == 0);
    }

    fn login_step(&mut self, bhs: &Bhs, data: &[u8]) -> Result<(), Refusal> {
        let Phase::Login(login) = &mut self.phase else { return Err(status::INVALID_REQUEST.into()) };
        let (transit, goes_on) = (bhs.final_bit(), bhs.continue_bit());
        let (stage, next) = ((bhs.flags() >> 2) & 3, bhs.flags() & 3);
        login.requests += 1;
        login.bytes += data.len();
        if login.bytes > LOGIN_BYTES_MAX || login.requests > LOGIN_REQUESTS_MAX {
            return Err(status::INITIATOR_ERROR.into());
        }
        match login.stage {
            None => {
                if stage > OPERATIONAL {
                    return Err(status::INVALID_REQUEST.into());
                }
                login.stage = Some(stage);
                login.isid.copy_from_slice(&bhs.0[8..14]);
                self.stat_sn = bhs.get32(28);
                self.exp_cmd_sn = bhs.get32(24);
                self.max_cmd_sn = self.exp_cmd_sn;
                if bhs.byte(3) > 0 {
                    return Err(status::UNSUPPORTED_VERSION.into());
                }
                if bhs.get16(14) != 0 {
                    // One connection per session, so there is nothing to join (and nothing to recover at level 0).
                    return Err(status::NO_SESSION.into());
                }
            }
            Some(current) if current != stage || bhs.0[8..14] != login.isid => {
                return Err(status::INVALID_REQUEST.into());
            }
            Some(_) => {}
        }
        if bhs.ahs_len() > 0 || (transit && (goes_on || next <= stage || next == 2)) {
            return Err(status::INVALID_REQUEST.into());
        }
        if !login.answer.is_empty() {
            // The initiator fetches the rest of the answer, and brings nothing (RFC 7143, section 6.2).
            if goes_on || !data.is_empty() {
                return Err(status::INVALID_REQUEST.into());
            }
            return self.login_answer(bhs, stage, transit.then_some(next));
        }
        login.text.extend_from_slice(data);
        if goes_on {
            self.login_reply(bhs, stage << 2, 0, Vec::new());
            return Ok(());
        }
        let text = std::mem::take(&mut login.text);
        let mut out = Vec::new();
        login.keys(stage, &text, &self.config, &mut out)?;
        if stage == OPERATIONAL || (transit && next == FULL) {
            login.negotiation.declare(&mut out);
        }
        login.answer = out;
        self.login_answer(bhs, stage, transit.then_some(next))
    }

    /// Sends the answer, or as much of it as the initiator takes in one PDU; the last part ends the stage if the initiator
    /// wants that and has proved who it is.
    fn login_answer(&mut self, bhs: &Bhs, stage: u8, next: Option<u8>) -> Result<(), Refusal> {
        let Phase::Login(login) = &mut self.phase else { return Err(status::INVALID_REQUEST.into()) };
        let limit = login.negotiation.params.initiator_segment_max.min(LOGIN_DATA_SEGMENT_MAX) as usize;
        let rest = login.answer.split_off(login.answer.len().min(limit));
        let part = std::mem::replace(&mut login.answer, rest);
        if !login.answer.is_empty() {
            self.login_reply(bhs, CONTINUE | stage << 2, 0, part);
            return Ok(());
        }
        let next = next.filter(|_| login.authentication.as_ref().is_some_and(Authentication::is_done));
        match next {
            Some(FULL) => return self.finish_login(bhs, TRANSIT | stage << 2 | FULL, part),
            Some(next) => {
                login.stage = Some(next);
                self.login_reply(bhs, TRANSIT | stage << 2 | next, 0, part);
            }
            None => self.login_reply(bhs, stage << 2, 0, part),
        }
        Ok(())
    }

    fn finish_login(&mut self, bhs: &Bhs, flags: u8, out: Vec<u8>) -> Result<(), Refusal> {
        let Phase::Login(login) = &mut self.phase else { return Err(status::INVALID_REQUEST.into()) };
        let login = std::mem::take(&mut **login);
        let params = login.negotiation.finish();
        let discovery = login.discovery();
        let target = if discovery { None } else { login.target.as_deref().and_then(|t| self.config.portal.find(t)) };
        let luns = target.map(|target| target.luns.clone());
        let initiator = login.initiator.unwrap_or_default();
        let mut nexus = Nexus::new(InitiatorPort::new(&initiator, login.isid));
        if let (Some(luns), Some(attention)) = (&luns, self.config.attention) {
            nexus.raise_all(luns, attention);
        }
        let info = LoggedIn {
            session_type: if discovery { SessionType::Discovery } else { SessionType::Normal },
            initiator,
            initiator_alias: login.initiator_alias,
            target: target.map(|target| target.name.clone()),
            isid: login.isid,
            tsih: self.config.tsih,
            params,
            chap_user: login.authentication.and_then(Authentication::user),
            limit: login.limit,
        };
        self.limited = !info.limit.is_none();
        self.window = info.limit.window(self.window);
        self.login_reply(bhs, flags, 0, out);
        // Digests are in use from the first PDU after the login (RFC 7143, section 13.1).
        self.send.header_digest = params.header_digest;
        self.send.data_digest = params.data_digest;
        self.outputs.push_back(crate::conn::Output::LoggedIn(info.clone()));
        self.phase = Phase::Full(Box::new(Session { info, params, nexus, luns }));
        Ok(())
    }
}

/// What the first login request wants, read without consuming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// More bytes are needed.
    NeedMore,
    /// A discovery session.
    Discovery,
    /// A session with this target.
    Target(String),
    /// No login request, or one that names no target: any [`Connection`] will refuse it properly.
    Invalid,
}

/// Looks at the first bytes of a connection to find the target it is for. Needs at most 48 + 8192 bytes: a leading
/// login request has to name the target in its first PDU (RFC 7143, section 6.3), and has no additional header.
pub fn peek_login_target(bytes: &[u8]) -> Peek {
    let Some(bhs) = Bhs::read(bytes) else {
        let wrong = bytes.first().is_some_and(|first| first & 0x3f != op::LOGIN_REQUEST);
        return if wrong { Peek::Invalid } else { Peek::NeedMore };
    };
    if bhs.opcode() != op::LOGIN_REQUEST || bhs.ahs_len() > 0 || bhs.data_len() > LOGIN_DATA_SEGMENT_MAX {
        return Peek::Invalid;
    }
    let Some(data) = bytes.get(BHS_LEN..BHS_LEN + bhs.data_len() as usize) else { return Peek::NeedMore };
    let mut target = None;
    let mut discovery = false;
    // A pair cut off by the C bit is not complete and says nothing.
    let whole =
        if bhs.continue_bit() { data.iter().rposition(|b| *b == 0).map_or(0, |end| end + 1) } else { data.len() };
    let Ok(pairs) = text::parse(data.get(..whole).unwrap_or(&[])) else { return Peek::Invalid };
    for (key, value) in pairs {
        match (key, value) {
            ("SessionType", "Discovery") => discovery = true,
            ("TargetName", name) => target = Some(String::from(name)),
            _ => {}
        }
    }
    match (discovery, target) {
        (true, _) => Peek::Discovery,
        (false, Some(name)) => Peek::Target(name),
        (false, None) => Peek::Invalid,
    }
}
