//! Initiators: which hosts may use the box, what they have to prove, and how much they may do.

pub use reprise_types::IpNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::value::{ByteSize, ChapSecret, InitiatorName, IpNetworkText, Name};

/// Initiators a box knows, at most. Each is looked at in every login.
pub const INITIATORS_MAX: usize = 1024;
/// Groups or networks of one initiator, at most.
pub const RULES_MAX: usize = 64;

/// What an initiator proves at login, and what the box proves to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChapRule {
    /// The initiator's CHAP name, 1 to 255 bytes.
    #[schema(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,255}$")]
    pub user: String,
    /// Its secret, 12 to 255 bytes. Microsoft's initiator takes 12 to 16 only.
    pub secret: ChapSecret,
    /// The box's CHAP name, for mutual CHAP. Goes with `mutual_secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]{1,255}$")]
    pub mutual_user: Option<String>,
    /// The box's secret; another one than `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutual_secret: Option<ChapSecret>,
}

impl ChapRule {
    /// Why it cannot be used; none where it can.
    pub fn problem(&self) -> Option<&'static str> {
        let fine = |user: &String| (1..=255).contains(&user.len()) && !user.contains(char::is_control);
        if !fine(&self.user) || !self.mutual_user.iter().all(fine) {
            return Some("a CHAP user has 1 to 255 bytes without control characters");
        }
        if self.mutual_user.is_some() != self.mutual_secret.is_some() {
            return Some("mutual_user and mutual_secret go together");
        }
        if self.mutual_secret.as_ref() == Some(&self.secret) {
            return Some("the two secrets of mutual CHAP must differ: who knows one could answer for the other side");
        }
        None
    }
}

/// An initiator that may use the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitiatorAdd {
    /// Its iSCSI name.
    pub name: InitiatorName,
    /// The groups it may use, at most 64; empty: all.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub groups: Vec<Name>,
    /// The addresses or networks it may come from, such as `192.0.2.0/24`, at most 64; empty: from anywhere.
    #[serde(default)]
    #[schema(value_type = Vec<IpNetworkText>, max_items = 64)]
    pub addresses: Vec<IpNetwork>,
    /// What it has to prove; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<ChapRule>,
    /// SCSI commands a second, in each group; no limit if absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes a second, reads and writes together, in each group; no limit if absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<ByteSize>,
}

/// Changes an initiator; what is absent stays. A session that is no longer allowed is ended, any other goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitiatorSet {
    /// Its iSCSI name.
    pub name: InitiatorName,
    /// The groups it may use, at most 64; empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64)]
    pub groups: Option<Vec<Name>>,
    /// The addresses or networks it may come from; empty: from anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<IpNetworkText>>, max_items = 64)]
    pub addresses: Option<Vec<IpNetwork>>,
    /// What it has to prove from the next login on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<ChapRule>,
    /// It has to prove nothing any more. Not together with `chap`.
    #[serde(default)]
    pub no_chap: bool,
    /// SCSI commands a second; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes a second; 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<ByteSize>,
}

/// One initiator by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitiatorRef {
    /// Its iSCSI name.
    pub name: InitiatorName,
}

/// An initiator as lists show it, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InitiatorStatus {
    /// Its iSCSI name.
    pub name: InitiatorName,
    /// True for one that stands in the settings file: it may use everything, and commands do not change it.
    pub from_settings: bool,
    /// The groups it may use; empty: all.
    pub groups: Vec<Name>,
    /// The addresses or networks it may come from; empty: from anywhere.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpNetwork>,
    /// Its CHAP name; null where it has to prove nothing.
    pub chap_user: Option<String>,
    /// The box's CHAP name for it; null without mutual CHAP.
    pub mutual_user: Option<String>,
    /// SCSI commands a second, in each group; null without a limit.
    pub iops: Option<u32>,
    /// Bytes a second, in each group; null without a limit.
    pub bytes_per_sec: Option<u64>,
    /// Its sessions at present, in all groups.
    pub sessions: u32,
}

/// An initiator after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InitiatorChanged {
    /// As it is.
    pub initiator: InitiatorStatus,
    /// What the box would have somebody know, such as a secret that some initiators do not take.
    pub warnings: Vec<String>,
}

/// The initiators a box knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InitiatorList {
    /// By name.
    pub initiators: Vec<InitiatorStatus>,
    /// Initiators that are not listed may use every group, from anywhere and without a proof.
    pub others: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_chap_cannot_use_is_named_and_secrets_are_not_printed() {
        let rule = ChapRule {
            user: "host".into(),
            secret: "of-the-initiator".parse().unwrap(),
            mutual_user: Some("box".into()),
            mutual_secret: Some("of-the-target".parse().unwrap()),
        };
        assert_eq!(rule.problem(), None);
        assert!(!format!("{rule:?}").contains("of-the"));
        for broken in [
            ChapRule { user: String::new(), ..rule.clone() },
            ChapRule { user: "a\nb".into(), ..rule.clone() },
            ChapRule { mutual_user: None, ..rule.clone() },
            ChapRule { mutual_secret: None, ..rule.clone() },
            ChapRule { mutual_secret: Some(rule.secret.clone()), ..rule.clone() },
        ] {
            assert!(broken.problem().is_some(), "{broken:?}");
        }
    }
}
