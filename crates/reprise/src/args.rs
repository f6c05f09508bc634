//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use reprise_api::settings::DEFAULT_SOCKET;
use reprise_api::{BlockSize, ByteSize, InitiatorName, IpNetwork, Name, Rights};

/// Replicates disks in order, over any distance.
#[derive(Debug, Parser)]
#[command(name = "reprise", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which box to talk to, and how to answer.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Local socket of the box
    #[arg(long, global = true, env = "REPRISE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Box at https://HOST:PORT instead of the socket; needs a token
    #[arg(long, global = true, env = "REPRISE_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Token for --url
    #[arg(long, global = true, env = "REPRISE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// SHA-256 of the certificate of --url
    #[arg(long, global = true, env = "REPRISE_FINGERPRINT", value_name = "HEX")]
    pub(crate) fingerprint: Option<String>,
    /// Certificate authorities (PEM) for --url, instead of a fingerprint
    #[arg(long, global = true, env = "REPRISE_CA_FILE", value_name = "FILE", conflicts_with = "fingerprint")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Print JSON, as docs/api.md has it
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the box
    #[cfg(feature = "daemon")]
    Run {
        /// Settings file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Talk to the box by menus, on this terminal or on one of its own, such as a serial line
    #[cfg(feature = "console")]
    Console {
        /// Terminal, below /dev or as a path, such as ttyS0; this one if absent
        #[arg(long, value_name = "TTY")]
        tty: Option<PathBuf>,
        /// No escape codes
        #[arg(long)]
        plain: bool,
        /// Socket of an appliance's first process, which is asked where the daemon does not answer
        #[arg(long, value_name = "PATH")]
        system: Option<PathBuf>,
    },
    /// Serve the console for browsers
    #[cfg(feature = "console")]
    Web(crate::web::WebArgs),
    /// Start a pair on this machine and show what it does
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// Write, kill and cut at random, then check that nothing acknowledged is lost
    #[cfg(feature = "torture")]
    Torture(crate::torture::TortureArgs),
    /// How the box, its groups and links are
    Status {
        /// Show it again and again
        #[arg(long)]
        watch: bool,
        /// Seconds between two looks with --watch
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Virtual disks
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Groups of volumes that share one order
    #[command(subcommand)]
    Group(GroupCommand),
    /// What a peer holds of a group
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Paired boxes
    #[command(subcommand)]
    Peer(PeerCommand),
    /// Hosts that may use the box, and who is logged in
    #[command(subcommand)]
    Initiator(InitiatorCommand),
    /// Compare a group with its mirror, while hosts write
    Verify(VerifyArgs),
    /// Pair with another box: --listen on one, the address of that one on the other
    Pair(PairArgs),
    /// What happened
    Events {
        /// Go on showing what happens
        #[arg(long)]
        follow: bool,
        /// At most so many old ones
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Conditions somebody should know
    Alerts {
        #[command(subcommand)]
        command: Option<AlertCommand>,
        /// Also those that are over
        #[arg(long)]
        cleared: bool,
    },
    /// Work that takes a while
    Jobs {
        #[command(subcommand)]
        command: Option<JobCommand>,
    },
    /// Tokens for HTTPS
    #[command(subcommand)]
    Token(TokenCommand),
    /// Records of a group's journal, one JSON object a line
    Inspect {
        /// The group
        group: Name,
        /// From this record on
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
        /// At most so many; all if absent
        #[arg(long)]
        limit: Option<u64>,
    },
    /// The machine under the box: firmware, clock, network, disks
    #[command(subcommand)]
    System(crate::system::SystemCommand),
    /// Set the password of the web console, on the box itself
    Password {
        #[command(subcommand)]
        command: Option<crate::system::PasswordCommand>,
    },
    /// Who is told what happens
    #[command(subcommand)]
    Notify(crate::system::NotifyCommand),
    /// The OpenAPI document of the API
    Openapi,
}

/// For what destroys something.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Sure {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// For what takes a while.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Wait {
    /// Do not wait for the job
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    Create {
        name: Name,
        /// Its size, such as 10G
        #[arg(long)]
        size: ByteSize,
        /// The group it joins; made if there is none
        #[arg(long, default_value = "main")]
        group: Name,
        /// Sparse instead of written fully
        #[arg(long)]
        thin: bool,
        /// Never sent to a mirror
        #[arg(long)]
        local_only: bool,
        /// Blocks that hosts see: 512e, 512n for old hosts, or 4kn
        #[arg(long, default_value_t)]
        block_size: BlockSize,
        /// Hosts may not write
        #[arg(long)]
        read_only: bool,
        /// Mirror the group to this paired box as soon as the volume is made
        #[arg(long, value_name = "PEER", conflicts_with = "local_only")]
        mirror: Option<Name>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give a volume more room, while hosts use it
    Resize {
        name: Name,
        /// Its new size, such as 20G
        #[arg(long)]
        size: ByteSize,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let hosts write a volume, or not
    Set {
        name: Name,
        /// true: hosts may not write
        #[arg(long, action = clap::ArgAction::Set)]
        read_only: bool,
    },
    /// Take an existing device or image as a volume, as it is
    Adopt {
        path: PathBuf,
        /// Name of the volume
        #[arg(long)]
        name: Name,
        /// The group it joins; made if there is none
        #[arg(long, default_value = "main")]
        group: Name,
        /// Never sent to a mirror
        #[arg(long)]
        local_only: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Destroy a volume and its content
    Erase {
        name: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a volume out again; its file or device stays
    Remove {
        name: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
    /// List volumes
    List {
        /// Only of this group
        #[arg(long)]
        group: Option<Name>,
    },
    /// Show one volume
    Show { name: Name },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Make an empty group
    Create { name: Name },
    /// Take an empty group away
    Delete {
        name: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
    /// Read the journal of a fenced group again and start the group if nothing acknowledged is lost
    Unfence {
        name: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take the detached homes of a group into use again
    Reattach { name: Name },
    /// List groups
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MirrorCommand {
    /// Mirror a group to a peer
    Add {
        group: Name,
        #[arg(long, value_name = "PEER")]
        to: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop sending; the cache takes the writes
    Pause {
        group: Name,
        #[arg(long, value_name = "PEER")]
        to: Name,
    },
    /// Go on sending
    Resume {
        group: Name,
        #[arg(long, value_name = "PEER")]
        to: Name,
    },
    /// Stop mirroring for good
    Remove {
        group: Name,
        #[arg(long, value_name = "PEER")]
        to: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
}

/// A limit, or `all` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AtMost<T>(pub(crate) Option<T>);

impl<T: std::str::FromStr> std::str::FromStr for AtMost<T> {
    type Err = T::Err;
    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "all" { Ok(Self(None)) } else { text.parse().map(|limit| Self(Some(limit))) }
    }
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say yes or no"),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// List paired boxes
    List,
    /// Say where a peer is reached, when it has moved or said it wrongly
    SetAddress {
        name: Name,
        /// HOST or HOST:PORT; without one it is reached where it says itself
        address: Option<String>,
    },
    /// Forget a peer
    Remove {
        name: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
    /// Say what a peer may have mirrored to this box; what is not given stays, and nothing given only shows it
    Share {
        name: Name,
        /// Whether it may make mirrors here
        #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
        mirrors: Option<bool>,
        /// Groups that it may have here, or all
        #[arg(long, value_name = "N|all")]
        groups: Option<AtMost<u32>>,
        /// Room that its volumes may have here, such as 2T, or all
        #[arg(long, value_name = "SIZE|all")]
        space: Option<AtMost<ByteSize>>,
    },
    /// Put a paired box in the place of one that is gone
    Replace {
        name: Name,
        #[arg(long, value_name = "PEER")]
        with: Name,
        #[command(flatten)]
        sure: Sure,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum InitiatorCommand {
    /// Let a host in
    Add {
        /// Its iSCSI name
        name: InitiatorName,
        #[command(flatten)]
        rule: InitiatorRule,
    },
    /// Change what a host may do; what is not given stays
    Set {
        /// Its iSCSI name
        name: InitiatorName,
        #[command(flatten)]
        rule: InitiatorRule,
        /// It may use every group
        #[arg(long, conflicts_with = "groups")]
        all_groups: bool,
        /// It may come from anywhere
        #[arg(long, conflicts_with = "addresses")]
        any_address: bool,
        /// It has to prove nothing
        #[arg(long, conflicts_with = "chap")]
        no_chap: bool,
    },
    /// List hosts that may use the box
    List,
    /// Forget a host
    Remove { name: InitiatorName },
    /// List who is logged in
    Sessions,
}

#[derive(Debug, Args)]
pub(crate) struct InitiatorRule {
    /// Only this group; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<Name>,
    /// Only from this address or network; may be given several times
    #[arg(long = "address", value_name = "NETWORK")]
    pub(crate) addresses: Vec<IpNetwork>,
    /// It proves itself as this CHAP user; the secret is asked for, or read from standard input
    #[arg(long, value_name = "USER")]
    pub(crate) chap: Option<String>,
    /// The box proves itself as this CHAP user; the secret is the next one
    #[arg(long, value_name = "USER", requires = "chap")]
    pub(crate) mutual: Option<String>,
    /// Commands a second, in each group; 0 for no limit
    #[arg(long)]
    pub(crate) iops: Option<u32>,
    /// Bytes a second, in each group, such as 200M; 0 for no limit
    #[arg(long, value_name = "SIZE")]
    pub(crate) rate: Option<ByteSize>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("verify").required(true).args(["group", "check"])))]
pub(crate) struct VerifyArgs {
    /// The group; run this on its source
    pub(crate) group: Option<Name>,
    /// Send what differs to the mirror
    #[arg(long, conflicts_with = "check")]
    pub(crate) repair: bool,
    /// Bytes a second that each box reads, at most
    #[arg(long, conflicts_with = "check", value_name = "SIZE")]
    pub(crate) rate: Option<ByteSize>,
    /// Write the signed proof there, if both are equal
    #[arg(long, value_name = "FILE", conflicts_with_all = ["check", "no_wait"])]
    pub(crate) proof: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Check the signature of a proof; needs no box
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["listen", "address", "status", "cancel"])))]
pub(crate) struct PairArgs {
    /// Show a code and wait for the other box
    #[arg(long)]
    pub(crate) listen: bool,
    /// Link address of the box that listens, HOST:PORT
    pub(crate) address: Option<String>,
    /// The code it shows; asked for if absent
    #[arg(long, requires = "address")]
    pub(crate) code: Option<String>,
    /// Life of the code in seconds
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(30..=3600))]
    pub(crate) valid_secs: u32,
    /// With --listen: do not wait, only show the code
    #[arg(long, requires = "listen")]
    pub(crate) no_wait: bool,
    /// Where the pairing stands
    #[arg(long)]
    pub(crate) status: bool,
    /// End the pairing that is under way
    #[arg(long)]
    pub(crate) cancel: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// List alerts
    List,
    /// Say that somebody knows
    Ack { id: u64 },
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs
    List,
    /// Show one job
    Show { id: u64 },
    /// Cancel a job
    Cancel { id: u64 },
    /// Wait for a job, showing its progress
    Wait { id: u64 },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; its text is shown once
    Create {
        /// What it is for
        label: String,
        /// admin or read-only
        #[arg(long, default_value = "read-only")]
        rights: Rights,
    },
    /// List tokens
    List,
    /// Make a token void
    Revoke { id: String },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usual_lines_are_understood() {
        for line in [
            "reprise status --watch --json",
            "reprise --socket /x status",
            "reprise volume create pg --size 10G --group db --thin --local-only --no-wait",
            "reprise volume create pg --size 10G --mirror turin",
            "reprise volume adopt /dev/loop0 --name old",
            "reprise volume erase pg --yes",
            "reprise mirror add db --to turin",
            "reprise verify db --repair --rate 20M --proof /x/proof.json",
            "reprise verify --check /x/proof.json",
            "reprise torture --minutes 0.5 --seed 7 --json",
            "reprise torture --volume scratch --destroy scratch",
            "reprise group unfence db",
            "reprise group reattach db",
            "reprise peer replace turin --with milan --yes",
            "reprise peer set-address turin 192.0.2.9:3261",
            "reprise peer set-address turin",
            "reprise peer share turin",
            "reprise peer share turin --mirrors no",
            "reprise peer share turin --mirrors yes --groups 3 --space 2T --json",
            "reprise peer share turin --groups all --space all",
            "reprise initiator add iqn.2026-01.com.example:h",
            "reprise initiator add iqn.2026-01.com.example:h --group a --group b --address 10.0.0.0/8 --chap u --mutual b --iops 9",
            "reprise initiator set iqn.2026-01.com.example:h --no-chap --all-groups --any-address --iops 5 --rate 1M",
            "reprise initiator remove iqn.2026-01.com.example:h",
            "reprise initiator sessions --json",
            "reprise pair --listen",
            "reprise pair 192.0.2.1:3261 --code 1234",
            "reprise alerts",
            "reprise alerts ack 3",
            "reprise jobs wait 3 --json",
            "reprise token create grafana --rights read-only",
            "reprise inspect db --from 7 --limit 10",
            "reprise events --follow",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "reprise",
            "reprise verify",
            "reprise peer share turin --mirrors maybe",
            "reprise peer share turin --groups -1",
            "reprise torture --minutes 0",
            "reprise torture --destroy scratch",
            "reprise verify --check /x --repair",
            "reprise initiator add bob",
            "reprise initiator add iqn.2026-01.com.example:h --address 10.0.0.0/33",
            "reprise initiator add iqn.2026-01.com.example:h --mutual b",
            "reprise initiator set iqn.2026-01.com.example:h --chap u --no-chap",
            "reprise pair",
            "reprise pair --listen 192.0.2.1:1",
            "reprise volume create UP --size 1G",
            "reprise volume create a --size 1X",
            "reprise token create a --rights root",
            "reprise mirror add db",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
