//! The one table of commands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a caller may do. A larger right includes the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Rights {
    /// Look at everything but tokens.
    ReadOnly,
    /// Everything.
    Admin,
}

impl Rights {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text is no right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a right is admin or read-only")]
pub struct RightsError;

impl FromStr for Rights {
    type Err = RightsError;
    fn from_str(text: &str) -> Result<Self, RightsError> {
        match text {
            "admin" => Ok(Self::Admin),
            "read-only" => Ok(Self::ReadOnly),
            _ => Err(RightsError),
        }
    }
}

/// How a route is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads; the request's fields are query parameters.
    Get,
    /// Changes; the request is a JSON body.
    Post,
}

impl Verb {
    /// The HTTP method.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// One command of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Name of the command, as in the audit line and in OpenAPI.
    pub name: &'static str,
    /// How it is called.
    pub verb: Verb,
    /// Its path.
    pub path: &'static str,
    /// The right it needs.
    pub right: Rights,
    /// The request type.
    pub request: &'static str,
    /// The type of the answer.
    pub response: &'static str,
    /// What it does, a sentence.
    pub summary: &'static str,
}

/// Commands for whoever has the box in hands: over HTTPS they are refused, whatever the token.
const AT_THE_BOX: [&str; 2] = ["admin_password_reset", "admin_code"];

impl Route {
    /// True where it is carried out only for a caller on the box itself.
    pub fn is_at_the_box(&self) -> bool {
        AT_THE_BOX.contains(&self.name)
    }
}

/// Path of the OpenAPI document; needs the read-only right.
pub const OPENAPI_PATH: &str = "/api/v1/openapi.json";
/// Path of the Prometheus metrics; needs the read-only right where the API is served, none at the metrics port.
pub const METRICS_PATH: &str = "/metrics";

/// Calls `$callback! { ($args) rows }` with the commands a service carries out.
macro_rules! service_commands {
    ($callback:ident $($args:tt)*) => { $callback! { ($($args)*)
        "Everything about the box, its groups, peers, alerts and jobs."
        get status "/api/v1/status" ReadOnly Nothing => Status;
        "The groups."
        get group_list "/api/v1/groups" ReadOnly Nothing => GroupList;
        "Makes an empty group."
        post group_create "/api/v1/groups" Admin GroupCreate => GroupStatus;
        "Reads the journal of a fenced group again and starts the group where nothing acknowledged is lost."
        post group_unfence "/api/v1/groups/unfence" Admin ByName => JobStarted;
        "Takes the detached homes of a group into use again."
        post group_reattach "/api/v1/groups/reattach" Admin ByName => Done;
        "The volumes, of one group or of all."
        get volume_list "/api/v1/volumes" ReadOnly VolumeQuery => VolumeList;
        "One volume."
        get volume_show "/api/v1/volumes/show" ReadOnly ByName => VolumeStatus;
        "Makes a volume in the data half."
        post volume_create "/api/v1/volumes" Admin VolumeCreate => VolumeStarted;
        "Takes an existing device or image as a volume, as it is."
        post volume_adopt "/api/v1/volumes/adopt" Admin VolumeAdopt => VolumeStarted;
        "Gives a volume more room, while hosts use it."
        post volume_resize "/api/v1/volumes/resize" Admin VolumeResize => VolumeStarted;
        "Lets hosts write a volume, or not."
        post volume_set "/api/v1/volumes/set" Admin VolumeSet => VolumeStatus;
        "The initiators the box knows, without their secrets."
        get initiator_list "/api/v1/initiators" ReadOnly Nothing => InitiatorList;
        "Lets an initiator use the box."
        post initiator_add "/api/v1/initiators" Admin InitiatorAdd => InitiatorChanged;
        "Changes what an initiator may do; sessions that are no longer allowed end."
        post initiator_set "/api/v1/initiators/set" Admin InitiatorSet => InitiatorChanged;
        "Forgets an initiator; its sessions end unless every initiator may use the box."
        post initiator_remove "/api/v1/initiators/remove" Admin InitiatorRef => Done;
        "The paired boxes."
        get peer_list "/api/v1/peers" ReadOnly Nothing => PeerList;
        "Says where a peer is reached, or that it is where it says itself."
        post peer_set "/api/v1/peers/set" Admin PeerSet => PeerStatus;
        "Where the pairing stands."
        get pair_status "/api/v1/pairing" ReadOnly Nothing => PairStatus;
        "Shows a code and waits for another box."
        post pair_listen "/api/v1/pairing/listen" Admin PairListen => PairOffer;
        "Pairs with a box that listens; answers when it is done or has failed."
        post pair_dial "/api/v1/pairing/dial" Admin PairDial => PairStatus;
        "Ends the pairing that is under way; its code is void."
        post pair_cancel "/api/v1/pairing/cancel" Admin Nothing => PairStatus;
        "Says what a peer may have mirrored to this box."
        post peer_share "/api/v1/peers/share" Admin PeerShareSet => PeerStatus;
        "Mirrors a group to a peer, beginning with a first copy."
        post mirror_add "/api/v1/mirrors" Admin MirrorOf => MirrorStarted;
        "Stops sending; the cache takes the writes."
        post mirror_pause "/api/v1/mirrors/pause" Admin MirrorOf => Done;
        "Goes on sending."
        post mirror_resume "/api/v1/mirrors/resume" Admin MirrorOf => Done;
        "Compares a group with its mirror at one moment, while hosts write."
        post verify_start "/api/v1/verify" Admin VerifyStart => JobStarted;
        "What a comparison has found, by its job."
        get verify_report "/api/v1/verify/report" ReadOnly ById => VerifyReport;
        "What happened; can wait for what happens next."
        get event_list "/api/v1/events" ReadOnly EventQuery => EventList;
        "The alerts."
        get alert_list "/api/v1/alerts" ReadOnly AlertQuery => AlertList;
        "Acknowledges an alert."
        post alert_ack "/api/v1/alerts/ack" Admin ById => Alert;
        "The jobs."
        get job_list "/api/v1/jobs" ReadOnly Nothing => JobList;
        "One job."
        get job_show "/api/v1/jobs/show" ReadOnly ById => Job;
        "Cancels a job; answers with the job as it is then."
        post job_cancel "/api/v1/jobs/cancel" Admin ById => Job;
        "The tokens, without their secrets."
        get token_list "/api/v1/tokens" Admin Nothing => TokenList;
        "Makes a token; its text is in the answer and nowhere else."
        post token_create "/api/v1/tokens" Admin TokenCreate => TokenCreated;
        "Makes a token void."
        post token_revoke "/api/v1/tokens/revoke" Admin TokenRef => Done;
        "Records of a group's journal, without their bytes."
        get inspect "/api/v1/inspect" ReadOnly InspectQuery => JournalPage;
    } };
}
pub(crate) use service_commands;

/// Calls `$callback! { ($args) rows }` with the commands that a box carries out also while it has no pool: the machine
/// itself, the administrator, messages.
macro_rules! appliance_commands {
    ($callback:ident $($args:tt)*) => { $callback! { ($($args)*)
        "The machine: firmware, clock, network, disks."
        get system_show "/api/v1/system" ReadOnly Nothing => SystemStatus;
        "Changes the network; the earlier settings come back unless these are kept within two minutes."
        post system_network_set "/api/v1/system/network" Admin NetworkSettings => Done;
        "Keeps the network as it is now."
        post system_network_keep "/api/v1/system/network/keep" Admin Nothing => Done;
        "Says how the clock is kept, or sets it."
        post system_time_set "/api/v1/system/time" Admin TimeSet => Done;
        "Names the box."
        post system_name_set "/api/v1/system/name" Admin NameSet => Done;
        "Makes the pool on a disk."
        post system_disk_take "/api/v1/system/disks/take" Admin DiskTake => Done;
        "The last lines of a log."
        get system_logs "/api/v1/system/logs" ReadOnly LogQuery => LogLines;
        "What somebody who helps wants to see, without secrets."
        post system_support "/api/v1/system/support" Admin Nothing => SupportBundle;
        "Turns the machine off or starts it again."
        post system_power "/api/v1/system/power" Admin Power => Done;
        "Whether the administrator has a password."
        get admin_status "/api/v1/admin" ReadOnly Nothing => AdminStatus;
        "Sets the administrator's password, by the one so far or by the code."
        post admin_password "/api/v1/admin/password" Admin PasswordSet => AdminStatus;
        "Sets the administrator's password without the one so far; at the box only."
        post admin_password_reset "/api/v1/admin/password/reset" Admin PasswordReset => AdminStatus;
        "The code that sets the first password; at the box only."
        get admin_code "/api/v1/admin/code" ReadOnly Nothing => AdminCode;
        "Ends every session of the web console."
        post admin_sessions_end "/api/v1/admin/sessions/end" Admin Nothing => AdminStatus;
        "Says whether a password is the administrator's; too many wrong ones from one place are refused for a while."
        post admin_login "/api/v1/admin/login" Admin Login => AdminStatus;
        "Who is told what happens, without passwords."
        get notify_show "/api/v1/notify" ReadOnly Nothing => NotifySettings;
        "Says who is told what happens."
        post notify_set "/api/v1/notify" Admin NotifySettings => NotifySettings;
        "Sends everybody a message that says it is a test."
        post notify_test "/api/v1/notify/test" Admin Nothing => NotifyTest;
    } };
}
pub(crate) use appliance_commands;

/// Calls `$callback! { ($args) rows }` with the commands that the server carries out by itself.
macro_rules! server_commands {
    ($callback:ident $($args:tt)*) => { $callback! { ($($args)*)
        "Says what an action would do and gives the token to confirm it. Changes nothing."
        post action_preview "/api/v1/actions/preview" Admin PreviewRequest => Preview;
        "Does an action that was previewed."
        post action_confirm "/api/v1/actions/confirm" Admin Confirm => ActionDone;
    } };
}
pub(crate) use server_commands;

macro_rules! verb {
    (get) => {
        $crate::route::Verb::Get
    };
    (post) => {
        $crate::route::Verb::Post
    };
}

#[allow(unused_imports)]
pub(crate) use verb;

macro_rules! make_table {
    (($const_name:ident) $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        const $const_name: &[Route] = &[$(Route {
            name: stringify!($name),
            verb: verb!($verb),
            path: $path,
            right: Rights::$right,
            request: stringify!($req),
            response: stringify!($resp),
            summary: $doc,
        },)*];
    };
}
service_commands!(make_table SERVICE_ROUTES);
appliance_commands!(make_table APPLIANCE_ROUTES);
server_commands!(make_table SERVER_ROUTES);

/// Every command.
pub fn routes() -> impl Iterator<Item = &'static Route> {
    SERVICE_ROUTES.iter().chain(APPLIANCE_ROUTES).chain(SERVER_ROUTES)
}

/// The command called `name`.
pub fn route(name: &str) -> Option<&'static Route> {
    routes().find(|r| r.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_calls_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        let mut calls = std::collections::BTreeSet::new();
        for r in routes() {
            assert!(names.insert(r.name), "{}", r.name);
            assert!(calls.insert((r.verb, r.path)), "{} {}", r.verb.as_str(), r.path);
            assert!(r.path.starts_with("/api/v1/"));
            assert!(r.summary.ends_with('.'));
        }
    }

    #[test]
    fn whatever_changes_something_needs_admin() {
        for r in routes() {
            match r.verb {
                Verb::Post => assert_eq!(r.right, Rights::Admin, "{}", r.name),
                Verb::Get if r.name == "token_list" => assert_eq!(r.right, Rights::Admin),
                Verb::Get => assert_eq!(r.right, Rights::ReadOnly, "{}", r.name),
            }
        }
        assert!(Rights::Admin > Rights::ReadOnly);
    }

    #[test]
    fn what_needs_the_box_in_hands_is_in_the_table() {
        assert_eq!(routes().filter(|r| r.is_at_the_box()).count(), AT_THE_BOX.len());
    }

    #[test]
    fn rights_have_one_text_form() {
        for r in [Rights::Admin, Rights::ReadOnly] {
            assert_eq!(r.to_string().parse(), Ok(r));
            assert_eq!(serde_json::to_value(r).unwrap(), r.as_str());
        }
    }
}
