//! Operational negotiation from one table of keys (RFC 7143, section 13).

use crate::pdu::DATA_SEGMENT_MAX;
use crate::text;

/// What a session has agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// CRC32C over headers.
    pub header_digest: bool,
    /// CRC32C over data.
    pub data_digest: bool,
    /// Unsolicited Data-Out needs an R2T first.
    pub initial_r2t: bool,
    /// Data may ride on the command.
    pub immediate_data: bool,
    /// Largest data segment the initiator accepts (its MaxRecvDataSegmentLength).
    pub initiator_segment_max: u32,
    /// Most data of one sequence.
    pub max_burst: u32,
    /// Most unsolicited data of one command, immediate data included.
    pub first_burst: u32,
    /// R2Ts outstanding per task.
    pub max_outstanding_r2t: u32,
}

impl Default for Params {
    /// The standard's defaults, in force until something else is agreed on.
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            initiator_segment_max: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
        }
    }
}

/// How an offer and our own value become the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// First of the offered values that we know; ours are listed.
    List(&'static [&'static str]),
    /// Yes if both say yes.
    And(bool),
    /// Yes if either says yes.
    Or(bool),
    /// The smaller number; range and our value.
    Min(u32, u32, u32),
    /// The larger number; range and our value.
    Max(u32, u32, u32),
    /// Each side states its own number; range and our value.
    Declare(u32, u32, u32),
    /// Each side states its own; read elsewhere, never answered.
    Note,
    /// Known, and always answered with this (obsolete markers).
    Fixed(&'static str),
    /// Known, and irrelevant to us.
    Irrelevant,
    /// Only a target may send it.
    TargetOnly,
}

/// Where a key may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// In the operational stage of login.
    Login,
    /// There, and in text requests later.
    Any,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name.
    pub name: &'static str,
    /// Rule.
    pub rule: Rule,
    /// When.
    pub usage: Use,
    /// Meaningless in a discovery session (answered Irrelevant).
    pub normal_only: bool,
    set: fn(&mut Params, Value),
}

/// A negotiated value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Of a boolean key.
    Bool(bool),
    /// Of a numerical key.
    Number(u32),
    /// Index into our list.
    Choice(usize),
}

fn ignore(_: &mut Params, _: Value) {}

const DIGESTS: &[&str] = &["CRC32C", "None"];

const fn key(name: &'static str, rule: Rule, normal_only: bool, set: fn(&mut Params, Value)) -> Key {
    Key { name, rule, usage: Use::Login, normal_only, set }
}

/// The table.
#[rustfmt::skip]
pub static KEYS: &[Key] = &[
    key("HeaderDigest", Rule::List(DIGESTS), false, |p, v| p.header_digest = v == Value::Choice(0)),
    key("DataDigest", Rule::List(DIGESTS), false, |p, v| p.data_digest = v == Value::Choice(0)),
    key("MaxConnections", Rule::Min(1, 65_535, 1), true, ignore),
    key("InitialR2T", Rule::Or(false), true, |p, v| if let Value::Bool(b) = v { p.initial_r2t = b }),
    key("ImmediateData", Rule::And(true), true, |p, v| if let Value::Bool(b) = v { p.immediate_data = b }),
    Key { usage: Use::Any, ..key("MaxRecvDataSegmentLength", Rule::Declare(512, 16_777_215, DATA_SEGMENT_MAX), false,
        |p, v| if let Value::Number(n) = v { p.initiator_segment_max = n }) },
    key("MaxBurstLength", Rule::Min(512, 16_777_215, 1 << 20), true,
        |p, v| if let Value::Number(n) = v { p.max_burst = n }),
    key("FirstBurstLength", Rule::Min(512, 16_777_215, 256 << 10), true,
        |p, v| if let Value::Number(n) = v { p.first_burst = n }),
    key("DefaultTime2Wait", Rule::Max(0, 3600, 2), false, ignore),
    key("DefaultTime2Retain", Rule::Min(0, 3600, 0), false, ignore),
    key("MaxOutstandingR2T", Rule::Min(1, 65_535, crate::task::R2TS_MAX as u32), true,
        |p, v| if let Value::Number(n) = v { p.max_outstanding_r2t = n }),
    key("DataPDUInOrder", Rule::Or(true), true, ignore),
    key("DataSequenceInOrder", Rule::Or(true), true, ignore),
    key("ErrorRecoveryLevel", Rule::Min(0, 2, 0), false, ignore),
    key("TaskReporting", Rule::List(&["RFC3720"]), true, ignore),
    key("iSCSIProtocolLevel", Rule::Min(0, 31, 1), false, ignore),
    key("IFMarker", Rule::Fixed("No"), false, ignore),
    key("OFMarker", Rule::Fixed("No"), false, ignore),
    key("IFMarkInt", Rule::Irrelevant, false, ignore),
    key("OFMarkInt", Rule::Irrelevant, false, ignore),
    Key { usage: Use::Any, ..key("InitiatorAlias", Rule::Note, false, ignore) },
    key("InitiatorName", Rule::Note, false, ignore),
    key("TargetName", Rule::Note, false, ignore),
    key("SessionType", Rule::Note, false, ignore),
    key("TargetAlias", Rule::TargetOnly, false, ignore),
    key("TargetAddress", Rule::TargetOnly, false, ignore),
    key("TargetPortalGroupTag", Rule::TargetOnly, false, ignore),
];

/// A key was used against the rules; the login or negotiation fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The same key twice in one negotiation.
    #[error("key {name} offered twice")]
    Repeated {
        /// The key.
        name: &'static str,
    },
    /// A key that only a target may send.
    #[error("key {name} is for targets only")]
    TargetOnly {
        /// The key.
        name: &'static str,
    },
}

/// A negotiation in progress: what was agreed on and which keys were used.
#[derive(Debug, Clone, Default)]
pub struct Negotiation {
    /// Result so far.
    pub params: Params,
    seen: u64,
}

impl Negotiation {
    /// Starts a later round with the present parameters (text requests in full feature phase).
    pub fn again(params: Params) -> Self {
        Self { params, seen: 0 }
    }

    /// Treats one offer and appends the answer, if there is one.
    ///
    /// # Errors
    /// A key used twice, or one that an initiator may not send.
    pub fn offer(
        &mut self,
        name: &str,
        value: &str,
        discovery: bool,
        in_login: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        let Some((index, key)) = KEYS.iter().enumerate().find(|(_, key)| key.name == name) else {
            text::push(out, name, "NotUnderstood");
            return Ok(());
        };
        if self.seen & (1 << index) != 0 {
            return Err(KeyError::Repeated { name: key.name });
        }
        self.seen |= 1 << index;
        if !in_login && key.usage == Use::Login {
            text::push(out, name, "Reject");
            return Ok(());
        }
        if discovery && key.normal_only {
            text::push(out, name, "Irrelevant");
            return Ok(());
        }
        let (answer, result) = match combine(key, value)? {
            Some(combined) => combined,
            None => return Ok(()),
        };
        if let Some(result) = result {
            (key.set)(&mut self.params, result);
        }
        text::push(out, name, &answer);
        Ok(())
    }

    /// Our own values of keys that each side declares, if they were not answered already.
    pub fn declare(&mut self, out: &mut Vec<u8>) {
        for (index, key) in KEYS.iter().enumerate() {
            if let Rule::Declare(_, _, ours) = key.rule
                && self.seen & (1 << index) == 0
            {
                self.seen |= 1 << index;
                text::push(out, key.name, &ours.to_string());
            }
        }
    }

    /// The result, made consistent: FirstBurstLength never exceeds MaxBurstLength.
    pub fn finish(&self) -> Params {
        let mut params = self.params;
        params.first_burst = params.first_burst.min(params.max_burst);
        params
    }
}

type Combined = Option<(String, Option<Value>)>;

fn combine(key: &Key, value: &str) -> Result<Combined, KeyError> {
    let reject = || Some((String::from("Reject"), None));
    let boolean = || match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    };
    let yes_no = |b: bool| Some((String::from(if b { "Yes" } else { "No" }), Some(Value::Bool(b))));
    let ranged = |low: u32, high: u32| text::number(value).filter(|n| (low..=high).contains(n));
    let numeric = |n: u32| Some((n.to_string(), Some(Value::Number(n))));
    Ok(match key.rule {
        Rule::List(ours) => {
            let choice = value.split(',').find_map(|offer| ours.iter().position(|our| *our == offer));
            match choice.and_then(|index| ours.get(index).map(|name| (index, name))) {
                Some((index, name)) => Some((String::from(*name), Some(Value::Choice(index)))),
                None => reject(),
            }
        }
        Rule::And(ours) => boolean().map_or_else(reject, |b| yes_no(b && ours)),
        Rule::Or(ours) => boolean().map_or_else(reject, |b| yes_no(b || ours)),
        Rule::Min(low, high, ours) => ranged(low, high).map_or_else(reject, |n| numeric(n.min(ours))),
        Rule::Max(low, high, ours) => ranged(low, high).map_or_else(reject, |n| numeric(n.max(ours))),
        Rule::Declare(low, high, ours) => {
            ranged(low, high).map_or_else(reject, |n| Some((ours.to_string(), Some(Value::Number(n)))))
        }
        Rule::Note => None,
        Rule::Fixed(answer) => Some((String::from(answer), None)),
        Rule::Irrelevant => Some((String::from("Irrelevant"), None)),
        Rule::TargetOnly => return Err(KeyError::TargetOnly { name: key.name }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(name: &str, value: &str) -> (String, Params) {
        let mut negotiation = Negotiation::default();
        let mut out = Vec::new();
        negotiation.offer(name, value, false, true, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), negotiation.finish())
    }

    #[test]
    fn single_keys() {
        for (name, value, wanted) in [
            ("HeaderDigest", "CRC32C,None", "HeaderDigest=CRC32C\0"),
            ("DataDigest", "None,CRC32C", "DataDigest=None\0"),
            ("DataDigest", "SHA9", "DataDigest=Reject\0"),
            ("InitialR2T", "No", "InitialR2T=No\0"),
            ("InitialR2T", "maybe", "InitialR2T=Reject\0"),
            ("MaxConnections", "8", "MaxConnections=1\0"),
            ("ErrorRecoveryLevel", "2", "ErrorRecoveryLevel=0\0"),
            ("MaxRecvDataSegmentLength", "65536", "MaxRecvDataSegmentLength=262144\0"),
            ("MaxBurstLength", "511", "MaxBurstLength=Reject\0"),
            ("IFMarker", "Yes", "IFMarker=No\0"),
            ("X-com.example", "1", "X-com.example=NotUnderstood\0"),
            ("InitiatorAlias", "me", ""),
        ] {
            assert_eq!(answer(name, value).0, wanted);
        }
        let mut twice = Negotiation::default();
        let mut out = Vec::new();
        twice.offer("InitialR2T", "No", false, true, &mut out).unwrap();
        assert!(twice.offer("InitialR2T", "No", false, true, &mut out).is_err());
        assert!(twice.offer("TargetAlias", "x", false, true, &mut out).is_err());
        out.clear();
        twice.offer("MaxBurstLength", "512", true, true, &mut out).unwrap();
        assert_eq!(out, b"MaxBurstLength=Irrelevant\0");
    }

    #[test]
    fn the_seen_set_fits_the_table() {
        assert!(KEYS.len() <= 64);
    }

    proptest! {
        /// The model is the standard's prose, key by key.
        #[test]
        fn negotiation_equals_the_model(
            initial in any::<bool>(), immediate in any::<bool>(),
            segment in 0u32..20_000_000, burst in 0u32..20_000_000, first in 0u32..20_000_000, r2t in 0u32..70_000,
            header in 0usize..4, order in any::<u64>(),
        ) {
            let digests = ["None", "CRC32C", "None,CRC32C", "CRC32C,None"];
            let yes = |b: bool| String::from(if b { "Yes" } else { "No" });
            let mut offers = vec![
                ("InitialR2T", yes(initial)), ("ImmediateData", yes(immediate)),
                ("MaxRecvDataSegmentLength", segment.to_string()), ("MaxBurstLength", burst.to_string()),
                ("FirstBurstLength", first.to_string()), ("MaxOutstandingR2T", r2t.to_string()),
                ("HeaderDigest", String::from(digests[header])),
            ];
            let len = offers.len();
            offers.rotate_left((order % len as u64) as usize);
            let mut negotiation = Negotiation::default();
            let mut out = Vec::new();
            for (name, value) in &offers {
                negotiation.offer(name, value, false, true, &mut out).unwrap();
            }
            let got = negotiation.finish();
            let fine = |n: u32| (512..=16_777_215).contains(&n);
            let max_burst = if fine(burst) { burst.min(1 << 20) } else { 262_144 };
            let first_burst = if fine(first) { first.min(262_144) } else { 65_536 };
            prop_assert_eq!(got, Params {
                header_digest: header == 1 || header == 3,
                data_digest: false,
                initial_r2t: initial,
                immediate_data: immediate,
                initiator_segment_max: if fine(segment) { segment } else { 8192 },
                max_burst,
                first_burst: first_burst.min(max_burst),
                max_outstanding_r2t: if (1..=65_535).contains(&r2t) { r2t.min(crate::task::R2TS_MAX as u32) } else { 1 },
            });
            prop_assert_eq!(text::parse(&out).unwrap().len(), offers.len());
        }
    }
}
