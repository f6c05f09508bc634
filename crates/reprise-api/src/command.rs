//! Requests and answers of the commands. Requests refuse fields they do not know.

use std::borrow::Cow;
use std::path::PathBuf;

use reprise_types::{BoxId, RecordKind, Seq};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

pub use crate::admin::{AdminCode, AdminStatus, Login, NotifySettings, NotifyTest, PasswordReset, PasswordSet};
use crate::event::{Alert, Event, Job};
pub use crate::initiator::{InitiatorAdd, InitiatorChanged, InitiatorList, InitiatorRef, InitiatorSet};
use crate::route::Rights;
use crate::status::{BlockSize, GroupStatus, PeerShare, PeerStatus, VolumeStatus};
pub use crate::system::{
    DiskTake, LogLines, LogQuery, NameSet, NetworkSettings, Power, PowerAction, ResetLevel, SupportBundle,
    SystemStatus, TimeSet,
};
use crate::token::TokenInfo;
use crate::value::{ByteSize, Name};
pub use crate::verify::{VerifyReport, VerifyStart};

/// Largest page of a list that is read in pages: keeps an answer below about 1 MiB.
pub const PAGE_MAX: u32 = 1000;
/// Page size where none is asked for.
pub const PAGE_DEFAULT: u32 = 100;
/// Longest wait for an event, seconds: below the server's own time limit.
pub const EVENT_WAIT_SECS_MAX: u32 = 25;
/// Longest label of a token, characters.
pub const TOKEN_LABEL_CHARS_MAX: usize = 64;
/// Longest life of a pairing code, seconds.
pub const PAIR_SECS_MAX: u32 = 3600;

/// What a command is about, for the audit line. Never holds a secret.
pub trait Subject {
    /// `group pg`, `volume data to peer b`, ...
    fn subject(&self) -> String;
}

macro_rules! subject {
    ($($type:ty: |$this:ident| $text:expr;)*) => {
        $(impl Subject for $type { fn subject(&self) -> String { let $this = self; $text } })*
    };
}

/// No parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl IntoParams for Nothing {
    fn into_params(
        _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
    ) -> Vec<utoipa::openapi::path::Parameter> {
        Vec::new()
    }
}

/// A new, empty group, of which this box is the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    /// Its name.
    pub name: Name,
}

/// Groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupList {
    /// By name.
    pub groups: Vec<GroupStatus>,
}

/// A new volume in the data half. It reads as zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeCreate {
    /// Its name.
    pub name: Name,
    /// The group it joins; made if there is none of this name.
    pub group: Name,
    /// Its size; a multiple of 4096 bytes.
    #[schema(value_type = VolumeSize)]
    pub size: ByteSize,
    /// Sparse instead of written fully.
    #[serde(default)]
    pub thin: bool,
    /// Stays on this box: never sent to a mirror.
    #[serde(default)]
    pub local_only: bool,
    /// Blocks that hosts see.
    #[serde(default)]
    pub block_size: BlockSize,
    /// Hosts may not write.
    #[serde(default)]
    pub read_only: bool,
    /// The paired box that the group is mirrored to as soon as the volume is made; null for none.
    #[serde(default)]
    pub mirror: Option<Name>,
}

/// Sizes of volumes are multiples of this, so that a host may use 4 KiB blocks.
pub const VOLUME_GRAIN: u64 = 4096;

/// Size of a volume: a schema and nothing else.
struct VolumeSize;

impl PartialSchema for VolumeSize {
    fn schema() -> RefOr<Schema> {
        let largest = i64::MAX as u64 / VOLUME_GRAIN * VOLUME_GRAIN;
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(VOLUME_GRAIN))
            .maximum(Some(largest))
            .multiple_of(Some(VOLUME_GRAIN));
        OneOfBuilder::new()
            .item(number)
            .item(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[1-9][0-9]{0,5}[mMgGtT]([iI][bB])?$")))
            .description(Some("Bytes, a multiple of 4096, as a number or as text with a binary unit, such as \"10G\"."))
            .into()
    }
}

impl ToSchema for VolumeSize {
    fn name() -> Cow<'static, str> {
        "VolumeSize".into()
    }
}

/// More room for a volume, while hosts use it. A mirrored one grows on both boxes, which have to be connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeResize {
    /// The volume.
    pub name: Name,
    /// Its new size; a multiple of 4096 bytes, more than it has.
    #[schema(value_type = VolumeSize)]
    pub size: ByteSize,
}

/// What hosts may do with a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSet {
    /// The volume.
    pub name: Name,
    /// Hosts may not write.
    pub read_only: bool,
}

/// Where a paired box is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerSet {
    /// The peer.
    pub peer: Name,
    /// `HOST` or `HOST:PORT`, tried before what it says itself; empty: where it says itself.
    pub address: String,
}

/// An existing device or image becomes a volume as it is: nothing is written by this, and it can be taken out again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeAdopt {
    /// Name of the volume.
    pub name: Name,
    /// The group it joins; made if there is none of this name.
    pub group: Name,
    /// The block device or image file, an absolute path on the box.
    #[schema(value_type = String, pattern = "^/")]
    pub path: PathBuf,
    /// Stays on this box: never sent to a mirror.
    #[serde(default)]
    pub local_only: bool,
}

/// A volume and the job that prepares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStarted {
    /// The volume.
    pub volume: VolumeStatus,
    /// The job; null when nothing was left to do.
    pub job: Option<Job>,
}

/// Which volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct VolumeQuery {
    /// Only those of this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
}

/// Volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    /// By group and LUN.
    pub volumes: Vec<VolumeStatus>,
}

/// One volume or group by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ByName {
    /// The name.
    pub name: Name,
}

/// Peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerList {
    /// By name.
    pub peers: Vec<PeerStatus>,
}

/// Waits for another box to pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairListen {
    /// Life of the code, seconds, 30 to 3600.
    #[serde(default = "default_pair_secs")]
    #[schema(minimum = 30, maximum = 3600)]
    pub valid_secs: u32,
}

fn default_pair_secs() -> u32 {
    600
}

impl Default for PairListen {
    fn default() -> Self {
        Self { valid_secs: default_pair_secs() }
    }
}

/// What to carry to the other box.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairOffer {
    /// The code, which three wrong answers or one right one use up.
    pub code: String,
    /// Addresses at which this box may be dialled, `ADDRESS:PORT`.
    pub addresses: Vec<String>,
    /// Seconds until the code expires.
    pub expires_in_secs: u32,
}

impl std::fmt::Debug for PairOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairOffer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Pairs with a box that listens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairDial {
    /// Its link address, `ADDRESS:PORT`.
    #[schema(min_length = 1)]
    pub address: String,
    /// The code it shows.
    #[schema(pattern = "^[0-9a-zA-Z -]+$")]
    pub code: String,
}

impl std::fmt::Debug for PairDial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairDial").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Where a pairing stands. The last outcome is kept until the next try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PairState {
    /// Nobody asked.
    Idle,
    /// Waits for the other box.
    Listening {
        /// Seconds until the code expires.
        expires_in_secs: u32,
    },
    /// Talks to the other box.
    Exchanging {
        /// Its address.
        address: String,
    },
    /// Done.
    Paired {
        /// Identity of the peer, 32 hexadecimal digits.
        #[schema(value_type = String)]
        peer_id: BoxId,
        /// Name of the peer.
        peer: Name,
        /// Its address.
        address: String,
    },
    /// Did not come about.
    Failed {
        /// Why, and what to do.
        error: crate::error::ApiError,
    },
    /// The code expired.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
}

/// Where a pairing stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairStatus {
    /// The state.
    pub state: PairState,
}

/// Says what a peer may have mirrored to this box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerShareSet {
    /// The peer.
    pub peer: Name,
    /// All of it, as it is to be.
    pub share: PeerShare,
}

/// A group and the peer that mirrors it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorOf {
    /// The group.
    pub group: Name,
    /// The peer.
    pub peer: Name,
}

/// A mirror that began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MirrorStarted {
    /// The first copy; null where there is nothing to copy.
    pub job: Option<Job>,
    /// What the box would have somebody know, such as a slower peer.
    pub warnings: Vec<String>,
}

/// A job that began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStarted {
    /// The job.
    pub job: Job,
}

/// Done, nothing to tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events with a larger id. Without it, the latest ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many, up to 1000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
    /// Where there is none: wait so many seconds for one, up to 25. Needs `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 25)]
    #[param(maximum = 25)]
    pub wait_secs: Option<u32>,
}

/// Events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventList {
    /// By id.
    pub events: Vec<Event>,
    /// What to ask for as `after` next time.
    pub next_after: u64,
}

/// Which alerts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct AlertQuery {
    /// Also those that are cleared.
    #[serde(default)]
    pub cleared: bool,
}

/// Alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertList {
    /// The most severe first, then the latest.
    pub alerts: Vec<Alert>,
}

/// One alert or job by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ById {
    /// The number.
    pub id: u64,
}

/// Jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The latest first.
    pub jobs: Vec<Job>,
}

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// What it is for, 1 to 64 characters, not only spaces and without control characters.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^ *[^\\u0000-\\u0020\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub label: String,
    /// What it allows.
    pub rights: Rights,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// The token as lists show it.
    pub info: TokenInfo,
    /// Its text. It is shown this once; the box keeps only a hash.
    pub token: String,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCreated").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The oldest first.
    pub tokens: Vec<TokenInfo>,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenRef {
    /// Its public id.
    pub id: String,
}

/// Which records of a group's journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct InspectQuery {
    /// The group.
    pub group: Name,
    /// From this Seq on; from the oldest in the journal if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// At most so many, up to 1000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// One record of a journal, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalRecord {
    /// Position on the group's branch.
    #[schema(value_type = u64)]
    pub seq: Seq,
    /// What it is: `write`, `zero`, `bookmark`, `flush_mark`, ...
    #[schema(value_type = String)]
    pub kind: RecordKind,
    /// Name of the volume; null where the record is about the group, or the volume has left it.
    pub volume: Option<Name>,
    /// First sector of 512 bytes.
    pub sector: u64,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// CRC32C of each part of the payload, hexadecimal; none without payload.
    pub crc32c: Vec<String>,
    /// When the source took it, in microseconds since 1970 by the source's clock.
    pub wall_unix_us: u64,
}

/// A page of records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalPage {
    /// By Seq.
    pub records: Vec<JournalRecord>,
    /// What to ask for as `from_seq` next; null at the end of the journal.
    pub next_seq: Option<u64>,
}

/// What destroys or gives up something, and so needs a preview and a confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Takes a volume away and destroys its content.
    VolumeErase {
        /// The volume.
        volume: Name,
    },
    /// Takes a volume out of its group when its home holds every write; the file or device stays as it is.
    VolumeRemove {
        /// The volume.
        volume: Name,
    },
    /// Forgets a peer and its key.
    PeerRemove {
        /// The peer.
        peer: Name,
    },
    /// Puts a paired box in the place of a peer that is gone; its mirrors start again with a first copy.
    PeerReplace {
        /// The peer that is gone.
        peer: Name,
        /// The paired box that takes its place.
        with: Name,
    },
    /// Ends mirroring a group to a peer. The mirror's image stays there, but no longer follows.
    MirrorRemove {
        /// The group.
        group: Name,
        /// The peer.
        peer: Name,
    },
    /// Takes an empty group away, with its journal.
    GroupDelete {
        /// The group.
        group: Name,
    },
    /// Resets the box to a state it was in before, and starts it again.
    SystemReset {
        /// How much is taken away.
        level: ResetLevel,
    },
}

impl Action {
    /// The `kind` of the JSON form.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::VolumeErase { .. } => "volume_erase",
            Self::VolumeRemove { .. } => "volume_remove",
            Self::PeerRemove { .. } => "peer_remove",
            Self::PeerReplace { .. } => "peer_replace",
            Self::MirrorRemove { .. } => "mirror_remove",
            Self::GroupDelete { .. } => "group_delete",
            Self::SystemReset { .. } => "system_reset",
        }
    }

    /// Every `kind`.
    pub const KINDS: [&'static str; 7] = [
        "volume_erase",
        "volume_remove",
        "peer_remove",
        "peer_replace",
        "mirror_remove",
        "group_delete",
        "system_reset",
    ];
}

/// Asks what an action would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The action.
    pub action: Action,
}

/// What an action would do, and the token to have it done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// The action.
    pub action: Action,
    /// For people: what happens.
    pub summary: String,
    /// For people: what is lost, a sentence each; none where nothing is.
    pub losses: Vec<String>,
    /// Confirms this action, once, for the same caller.
    pub token: String,
    /// Seconds until the token expires.
    pub expires_in_secs: u32,
}

impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview").field("action", &self.action).field("losses", &self.losses).finish_non_exhaustive()
    }
}

/// Has an action done that was previewed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Confirm {
    /// The preview's token.
    pub token: String,
}

impl std::fmt::Debug for Confirm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Confirm").finish_non_exhaustive()
    }
}

/// An action that was done or begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionDone {
    /// The action.
    pub action: Action,
    /// The job that does it; null when it is done.
    pub job: Option<Job>,
}

subject! {
    Nothing: |_r| String::new();
    VerifyStart: |r| format!("group {}", r.group);
    NetworkSettings: |r| format!("network with {} interfaces named", r.interfaces.len());
    TimeSet: |r| format!("clock by {} servers", r.servers.len());
    NameSet: |r| format!("name {}", r.name);
    DiskTake: |r| format!("disk {}", r.path);
    LogQuery: |_r| String::new();
    Power: |r| match r.action { PowerAction::Reboot => "reboot".to_owned(), PowerAction::PowerOff => "power off".to_owned() };
    PasswordSet: |r| match &r.from { Some(from) => format!("administrator from {from}"), None => "administrator".to_owned() };
    PasswordReset: |_r| "administrator".to_owned();
    Login: |r| format!("administrator from {}", r.from);
    NotifySettings: |r| format!("{} webhooks{}", r.webhooks.len(), if r.mail.is_some() { " and mail" } else { "" });
    GroupCreate: |r| format!("group {}", r.name);
    VolumeCreate: |r| format!("volume {} in group {}", r.name, r.group);
    VolumeResize: |r| format!("volume {} to {} bytes", r.name, r.size.bytes());
    VolumeSet: |r| format!("volume {}{}", r.name, if r.read_only { " read-only" } else { " writable" });
    PeerSet: |r| format!("peer {} at {:?}", r.peer, r.address);
    VolumeAdopt: |r| format!("volume {} in group {} from {}", r.name, r.group, r.path.display());
    VolumeQuery: |r| r.group.as_ref().map(|g| format!("group {g}")).unwrap_or_default();
    ByName: |r| r.name.to_string();
    InitiatorAdd: |r| format!("initiator {}", r.name);
    InitiatorSet: |r| format!("initiator {}", r.name);
    InitiatorRef: |r| format!("initiator {}", r.name);
    PairListen: |_r| String::new();
    PairDial: |r| format!("peer at {}", r.address);
    PeerShareSet: |r| format!("peer {} may have {}", r.peer, r.share);
    MirrorOf: |r| format!("group {} to peer {}", r.group, r.peer);
    EventQuery: |_r| String::new();
    AlertQuery: |_r| String::new();
    ById: |r| r.id.to_string();
    TokenCreate: |r| format!("token for {:?}", r.label);
    TokenRef: |r| format!("token {}", r.id);
    InspectQuery: |r| format!("group {}", r.group);
    PreviewRequest: |r| r.action.subject();
    Confirm: |_r| String::new();
    Action: |r| match r {
        Action::VolumeErase { volume } => format!("erase volume {volume}"),
        Action::VolumeRemove { volume } => format!("remove volume {volume}"),
        Action::PeerRemove { peer } => format!("remove peer {peer}"),
        Action::PeerReplace { peer, with } => format!("replace peer {peer} with {with}"),
        Action::MirrorRemove { group, peer } => format!("remove mirror of group {group} to peer {peer}"),
        Action::GroupDelete { group } => format!("delete group {group}"),
        Action::SystemReset { level } => format!("reset the box: {}", level.as_str()),
    };
}
