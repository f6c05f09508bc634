//! Comparing a group with its mirror, and the proof that they are equal.

use reprise_types::{BoxId, BranchId, GroupId, Seq, VolumeId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::value::{ByteSize, Name};

/// Bytes a second that a comparison reads on each box where nothing else is asked: leaves most of any disk to hosts.
pub const VERIFY_BYTES_PER_SEC: u64 = 100 << 20;

/// Compares a group with its mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyStart {
    /// The group; this box is its source.
    pub group: Name,
    /// Send what differs to the mirror: the source is what the mirror follows.
    #[serde(default)]
    pub repair: bool,
    /// Bytes of volumes that each box reads in a second, at most; 100 MiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_sec: Option<ByteSize>,
}

/// Sectors that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyExtent {
    /// The volume.
    pub volume: Name,
    /// First sector of 512 bytes.
    pub sector: u64,
    /// Length in sectors.
    pub sectors: u64,
}

/// What a comparison has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyReport {
    /// The job.
    pub job: u64,
    /// The group.
    pub group: Name,
    /// Branch of the moment that was compared.
    #[schema(value_type = String)]
    pub branch: BranchId,
    /// The moment: everything up to this record, and nothing after it.
    #[schema(value_type = u64)]
    pub seq: Seq,
    /// History hash at the moment, hexadecimal.
    pub hash: String,
    /// Bytes of all volumes.
    pub bytes_total: u64,
    /// Bytes compared.
    pub bytes_compared: u64,
    /// Bytes that differed.
    pub bytes_differing: u64,
    /// Bytes that differed and are equal since they were sent.
    pub bytes_repaired: u64,
    /// Bytes that one of the two boxes could not read.
    pub bytes_unreadable: u64,
    /// The first 256 extents that differed.
    pub extents: Vec<VerifyExtent>,
    /// True where all was compared and both images are equal.
    pub equal: bool,
    /// Why it ended early; null where it did not.
    pub stopped: Option<String>,
    /// The proof; null where they are not equal.
    pub proof: Option<VerifyProof>,
}

/// A volume in a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProvenVolume {
    /// Its name.
    pub name: Name,
    /// Its identity, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub id: VolumeId,
    /// Its size.
    pub bytes: u64,
}

/// What a proof says: at this position, the image of the mirror is that of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyStatement {
    /// `reprise-proof-1`.
    pub format: String,
    /// Identity of the group, 32 hexadecimal digits.
    #[schema(value_type = String)]
    pub group: GroupId,
    /// Its name.
    pub group_name: Name,
    /// Branch of the position.
    #[schema(value_type = String)]
    pub branch: BranchId,
    /// The position.
    #[schema(value_type = u64)]
    pub seq: Seq,
    /// History hash at the position, hexadecimal.
    pub hash: String,
    /// The volumes, by slot.
    pub volumes: Vec<ProvenVolume>,
    /// BLAKE3 over the BLAKE3 hashes, cut to 16 bytes, of all parts of 256 KiB of all volumes in this order; hexadecimal.
    pub digest: String,
    /// The box that compared and signs.
    #[schema(value_type = String)]
    pub source: BoxId,
    /// The box that holds the mirror.
    #[schema(value_type = String)]
    pub mirror: BoxId,
    /// When it ended, milliseconds since 1970 by the clock of the source.
    pub at_unix_ms: u64,
}

/// A signed statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyProof {
    /// What is said.
    pub statement: VerifyStatement,
    /// The public key of the source, uncompressed point on P-256, hexadecimal. Peers of the box know its fingerprint.
    pub key: String,
    /// ECDSA with SHA-256 over the statement as JSON without spaces, fields in the order given here; hexadecimal.
    pub signature: String,
}

/// The `format` of [`VerifyStatement`].
pub const PROOF_FORMAT: &str = "reprise-proof-1";
