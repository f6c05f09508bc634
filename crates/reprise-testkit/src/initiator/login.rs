//! Login, negotiation and discovery.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::InitiatorError;
use super::pdu::{self, Header, NO_TAG, Pdu, op};

/// What is asked for at login.
#[derive(Debug, Clone)]
pub struct LoginOptions {
    /// Our name.
    pub initiator: String,
    /// The target; none for a discovery session.
    pub target: Option<String>,
    /// InitialR2T: true asks for a R2T before any unsolicited Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData: data in the command PDU.
    pub immediate_data: bool,
    /// FirstBurstLength in bytes.
    pub first_burst: u32,
    /// MaxBurstLength in bytes.
    pub max_burst: u32,
    /// MaxRecvDataSegmentLength that we announce.
    pub max_recv: u32,
    /// Asks for CRC32C over headers and over data.
    pub digests: bool,
    /// Last bytes of the ISID: two sessions of one initiator name need different ones.
    pub isid: u16,
}

impl LoginOptions {
    /// Usual values of a Linux initiator for a target.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            initiator: "iqn.2024-01.invalid.reprise:testkit".into(),
            target: Some(target.into()),
            initial_r2t: false,
            immediate_data: true,
            first_burst: 256 << 10,
            max_burst: 1 << 20,
            max_recv: 256 << 10,
            digests: false,
            isid: 1,
        }
    }
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// InitialR2T.
    pub initial_r2t: bool,
    /// ImmediateData.
    pub immediate_data: bool,
    /// FirstBurstLength.
    pub first_burst: u32,
    /// MaxBurstLength.
    pub max_burst: u32,
    /// MaxRecvDataSegmentLength of the target: the most that we send in a PDU.
    pub max_send: u32,
    /// CRC32C over headers and over data, from the first PDU after login on.
    pub digests: bool,
}

/// A target found by SendTargets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// Its name.
    pub name: String,
    /// Its addresses, `address:port,group`.
    pub addresses: Vec<String>,
}

/// A connection in full feature phase, before it becomes a session.
pub(crate) struct LoggedIn {
    pub(crate) stream: TcpStream,
    pub(crate) input: BytesMut,
    pub(crate) negotiated: Negotiated,
    pub(crate) cmd_sn: u32,
    pub(crate) max_cmd_sn: u32,
    pub(crate) exp_stat_sn: u32,
}

/// More login or text exchanges than this and the target is going in circles.
const EXCHANGES_MAX: u32 = 32;

pub(crate) async fn login(address: SocketAddr, options: &LoginOptions) -> Result<LoggedIn, InitiatorError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let negotiated = Negotiated {
        initial_r2t: true,
        immediate_data: true,
        first_burst: options.first_burst.min(64 << 10),
        max_burst: options.max_burst.min(256 << 10),
        max_send: 8192,
        digests: false,
    };
    let mut c = LoggedIn { stream, input: BytesMut::new(), negotiated, cmd_sn: 1, max_cmd_sn: 1, exp_stat_sn: 0 };
    let digest = if options.digests { "CRC32C" } else { "None" };
    let yes_no = |b: bool| if b { "Yes" } else { "No" }.to_owned();
    let mut security = vec![("InitiatorName", options.initiator.clone())];
    match &options.target {
        Some(target) => {
            security.extend([("SessionType", "Normal".into()), ("TargetName", target.clone())]);
        }
        None => security.push(("SessionType", "Discovery".into())),
    }
    security.push(("AuthMethod", "None".into()));
    let mut operational = vec![
        ("HeaderDigest", digest.into()),
        ("DataDigest", digest.into()),
        ("MaxRecvDataSegmentLength", options.max_recv.to_string()),
        ("DefaultTime2Wait", "0".into()),
        ("DefaultTime2Retain", "0".into()),
        ("ErrorRecoveryLevel", "0".into()),
    ];
    if options.target.is_some() {
        operational.extend([
            ("InitialR2T", yes_no(options.initial_r2t)),
            ("ImmediateData", yes_no(options.immediate_data)),
            ("FirstBurstLength", options.first_burst.to_string()),
            ("MaxBurstLength", options.max_burst.to_string()),
            ("MaxOutstandingR2T", "1".into()),
            ("MaxConnections", "1".into()),
            ("DataPDUInOrder", "Yes".into()),
            ("DataSequenceInOrder", "Yes".into()),
        ]);
    }
    let mut stage = 0u8;
    let mut text = pdu::format_text(&security);
    for _ in 0..EXCHANGES_MAX {
        let next = if stage == 0 { 1 } else { 3 };
        let mut header = Header::new(op::LOGIN | op::IMMEDIATE, 0x80 | stage << 2 | next);
        let [high, low] = options.isid.to_be_bytes();
        header.put(8, &[0x80, 0x12, 0x34, 0x56, high, low]).put_u32(16, 0).put_u32(24, c.cmd_sn);
        header.put_u32(28, c.exp_stat_sn);
        c.send(&mut header, &text).await?;
        let answer = c.receive().await?;
        if answer.header.opcode() != op::LOGIN_RESPONSE {
            return Err(InitiatorError::Protocol { what: "no login response to a login request" });
        }
        let (class, detail) = (answer.header.0[36], answer.header.0[37]);
        if class != 0 {
            return Err(InitiatorError::Login { class, detail });
        }
        c.count(&answer.header);
        c.negotiate(&pdu::parse_text(&answer.data), options);
        let flags = answer.header.flags();
        text = Vec::new();
        if flags & 0x80 != 0 {
            match flags & 3 {
                3 if c.negotiated.digests != options.digests => {
                    return Err(InitiatorError::Protocol { what: "other digests than asked for" });
                }
                3 => return Ok(c),
                1 => {
                    stage = 1;
                    text = pdu::format_text(&operational);
                }
                _ => return Err(InitiatorError::Protocol { what: "transit to a stage that was not asked for" }),
            }
        }
    }
    Err(InitiatorError::Protocol { what: "login does not end" })
}

impl LoggedIn {
    async fn send(&mut self, header: &mut Header, data: &[u8]) -> Result<(), InitiatorError> {
        let mut out = BytesMut::new();
        header.encode(data, false, &mut out);
        Ok(self.stream.write_all(&out).await?)
    }

    async fn receive(&mut self) -> Result<Pdu, InitiatorError> {
        loop {
            if let Some(pdu) = pdu::decode(&mut self.input, false)? {
                return Ok(pdu);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(InitiatorError::Closed);
            }
        }
    }

    fn count(&mut self, header: &Header) {
        self.exp_stat_sn = header.u32(24).wrapping_add(1);
        self.cmd_sn = header.u32(28);
        self.max_cmd_sn = header.u32(32);
    }

    fn negotiate(&mut self, pairs: &[(String, String)], options: &LoginOptions) {
        let n = &mut self.negotiated;
        for (key, value) in pairs {
            let yes = value == "Yes";
            let number = value.parse::<u32>();
            match (key.as_str(), number) {
                ("HeaderDigest" | "DataDigest", _) => n.digests = value == "CRC32C",
                ("InitialR2T", _) => n.initial_r2t = yes || options.initial_r2t,
                ("ImmediateData", _) => n.immediate_data = yes && options.immediate_data,
                ("FirstBurstLength", Ok(v)) => n.first_burst = v.min(options.first_burst),
                ("MaxBurstLength", Ok(v)) => n.max_burst = v.min(options.max_burst),
                ("MaxRecvDataSegmentLength", Ok(v)) => n.max_send = v.clamp(512, (1 << 24) - 1),
                _ => {}
            }
        }
    }
}

/// Asks a portal for its targets.
pub async fn discover(address: SocketAddr, initiator: &str) -> Result<Vec<Discovered>, InitiatorError> {
    let options = LoginOptions { initiator: initiator.into(), target: None, ..LoginOptions::new("") };
    let mut c = login(address, &options).await?;
    let mut request = pdu::format_text(&[("SendTargets", "All".into())]);
    let mut answer = BytesMut::new();
    let mut target_tag = NO_TAG;
    for _ in 0..EXCHANGES_MAX {
        let mut header = Header::new(op::TEXT, 0x80);
        header.put_u32(16, 1).put_u32(20, target_tag).put_u32(24, c.cmd_sn).put_u32(28, c.exp_stat_sn);
        c.send(&mut header, &request).await?;
        let pdu = c.receive().await?;
        match pdu.header.opcode() {
            op::TEXT_RESPONSE => {}
            op::REJECT => return Err(InitiatorError::Rejected { reason: pdu.header.0[2] }),
            _ => return Err(InitiatorError::Protocol { what: "no text response to a text request" }),
        }
        c.count(&pdu.header);
        answer.extend_from_slice(&pdu.data);
        if pdu.header.flags() & 0x80 != 0 {
            return Ok(targets(&answer.freeze()));
        }
        target_tag = pdu.header.u32(20);
        request.clear();
    }
    Err(InitiatorError::Protocol { what: "discovery does not end" })
}

fn targets(text: &Bytes) -> Vec<Discovered> {
    let mut found: Vec<Discovered> = Vec::new();
    for (key, value) in pdu::parse_text(text) {
        match (key.as_str(), found.last_mut()) {
            ("TargetName", _) => found.push(Discovered { name: value, addresses: Vec::new() }),
            ("TargetAddress", Some(target)) => target.addresses.push(value),
            _ => {}
        }
    }
    found
}
