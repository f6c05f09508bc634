//! What each command asks of the box, and how the answer is shown.

use std::io::IsTerminal;
use std::time::Duration;

use reprise_api::*;
use serde::Serialize;

use crate::args::*;
use crate::say::{err, out};
use crate::units::{bytes, now_unix_ms, plain, utc};
use crate::{ask, initiator, pair, render, system, verify};

/// Between two looks at a job.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Prints one JSON value in a line.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    outln!("{}", serde_json::to_string(value)?)
}

fn print(text: &str) -> anyhow::Result<()> {
    out(format_args!("{text}"))
}

pub(crate) fn show<T: Serialize>(json: bool, value: &T, people: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    if json { print_json(value) } else { print(&people(value)) }
}

pub(crate) async fn run(client: &Client, json: bool, command: Command) -> anyhow::Result<()> {
    match command {
        // These talk to no box; main carries them out.
        #[cfg(feature = "daemon")]
        Command::Run { .. } => Ok(()),
        #[cfg(feature = "console")]
        Command::Console { .. } | Command::Web(_) => Ok(()),
        #[cfg(feature = "demo")]
        Command::Demo(_) => Ok(()),
        #[cfg(feature = "torture")]
        Command::Torture(_) => Ok(()),
        Command::Status { watch, interval } => status(client, json, watch, Duration::from_secs(interval)).await,
        Command::Volume(command) => volume(client, json, command).await,
        Command::Group(command) => group(client, json, command).await,
        Command::Mirror(command) => mirror(client, json, command).await,
        Command::Peer(command) => peer(client, json, command).await,
        Command::Initiator(command) => initiator::run(client, json, command).await,
        Command::Verify(args) => verify::run(client, json, args).await,
        Command::Pair(args) => pair::run(client, json, args).await,
        Command::Events { follow, limit } => events(client, json, follow, limit).await,
        Command::Alerts { command, cleared } => match command.unwrap_or(AlertCommand::List) {
            AlertCommand::List => show(json, &client.alert_list(&AlertQuery { cleared }).await?, render::alerts),
            AlertCommand::Ack { id } => {
                show(json, &client.alert_ack(&ById { id }).await?, |a| format!("Alert {} acknowledged.\n", a.id))
            }
        },
        Command::Jobs { command } => jobs(client, json, command.unwrap_or(JobCommand::List)).await,
        Command::Token(command) => token(client, json, command).await,
        Command::Inspect { group, from, limit } => inspect(client, group, from, limit).await,
        Command::System(command) => system::run(client, json, command).await,
        Command::Password { command } => system::password(client, json, command).await,
        Command::Notify(command) => system::notify(client, json, command).await,
        Command::Openapi => {
            let text = client.openapi().await?;
            print(&format!("{text}\n"))
        }
    }
}

async fn status(client: &Client, json: bool, watch: bool, interval: Duration) -> anyhow::Result<()> {
    if !watch {
        return show(json, &client.status(&Nothing {}).await?, render::status);
    }
    let terminal = !json && std::io::stdout().is_terminal();
    loop {
        match client.status(&Nothing {}).await {
            Ok(status) if json => print_json(&status)?,
            Ok(status) => {
                let head = format!("{} UTC\n{}", utc(now_unix_ms()), render::status(&status));
                // Each line is cleared to its end and the rest below, so that nothing flickers.
                let page = head.replace('\n', "\u{1b}[K\n");
                print(&if terminal { format!("\u{1b}[H{page}\u{1b}[J") } else { format!("{head}\n") })?;
            }
            // A box that restarts is what somebody watches for.
            Err(ClientError::Unreachable { target, source }) if terminal => {
                let at = utc(now_unix_ms());
                print(&format!(
                    "\u{1b}[H{at} UTC\u{1b}[K\ncannot reach the box at {target}: {source}\u{1b}[K\n\u{1b}[J"
                ))?;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(interval).await;
    }
}

async fn volume(client: &Client, json: bool, command: VolumeCommand) -> anyhow::Result<()> {
    match command {
        VolumeCommand::Create { name, size, group, thin, local_only, block_size, read_only, mirror, wait } => {
            let create = VolumeCreate { name, group, size, thin, local_only, block_size, read_only, mirror };
            volume_started(client, json, client.volume_create(&create).await?, wait).await
        }
        VolumeCommand::Resize { name, size, wait } => {
            let started = client.volume_resize(&VolumeResize { name, size }).await?;
            follow_job(client, json, started.job, wait).await
        }
        VolumeCommand::Set { name, read_only } => {
            show(json, &client.volume_set(&VolumeSet { name, read_only }).await?, render::volume)
        }
        VolumeCommand::Adopt { path, name, group, local_only, wait } => {
            let path = std::path::absolute(path)?;
            let started = client.volume_adopt(&VolumeAdopt { name, group, path, local_only }).await?;
            volume_started(client, json, started, wait).await
        }
        VolumeCommand::Erase { name, sure, wait } => {
            act(client, json, Action::VolumeErase { volume: name }, sure, wait).await
        }
        VolumeCommand::Remove { name, sure, wait } => {
            act(client, json, Action::VolumeRemove { volume: name }, sure, wait).await
        }
        VolumeCommand::List { group } => {
            show(json, &client.volume_list(&VolumeQuery { group }).await?, render::volumes)
        }
        VolumeCommand::Show { name } => show(json, &client.volume_show(&ByName { name }).await?, render::volume),
    }
}

async fn volume_started(client: &Client, json: bool, started: VolumeStarted, wait: Wait) -> anyhow::Result<()> {
    show(json, &started, |s| {
        let v = &s.volume;
        format!("Volume {} in group {}, LUN {}, {}.\n", v.name, v.group, v.lun, bytes(v.size_bytes))
    })?;
    follow_job(client, json, started.job, wait).await
}

async fn group(client: &Client, json: bool, command: GroupCommand) -> anyhow::Result<()> {
    match command {
        GroupCommand::Create { name } => {
            show(json, &client.group_create(&GroupCreate { name }).await?, |g| format!("Group {} made.\n", g.name))
        }
        GroupCommand::Delete { name, sure, wait } => {
            act(client, json, Action::GroupDelete { group: name }, sure, wait).await
        }
        GroupCommand::Unfence { name, wait } => {
            let started = client.group_unfence(&ByName { name }).await?;
            follow_job(client, json, Some(started.job), wait).await
        }
        GroupCommand::Reattach { name } => {
            show(json, &client.group_reattach(&ByName { name: name.clone() }).await?, |_| {
                format!("The homes of {name} are attached.\n")
            })
        }
        GroupCommand::List => show(json, &client.group_list(&Nothing {}).await?, render::groups),
    }
}

async fn mirror(client: &Client, json: bool, command: MirrorCommand) -> anyhow::Result<()> {
    match command {
        MirrorCommand::Add { group, to, wait } => {
            let request = MirrorOf { group, peer: to };
            let started = client.mirror_add(&request).await?;
            for warning in &started.warnings {
                errln!("warning: {}", plain(warning));
            }
            show(json, &started, |_| format!("Group {} is mirrored to {}.\n", request.group, request.peer))?;
            follow_job(client, json, started.job, wait).await
        }
        MirrorCommand::Pause { group, to } => {
            let request = MirrorOf { group, peer: to };
            show(json, &client.mirror_pause(&request).await?, |_| format!("Mirror of {} paused.\n", request.group))
        }
        MirrorCommand::Resume { group, to } => {
            let request = MirrorOf { group, peer: to };
            show(json, &client.mirror_resume(&request).await?, |_| format!("Mirror of {} goes on.\n", request.group))
        }
        MirrorCommand::Remove { group, to, sure, wait } => {
            act(client, json, Action::MirrorRemove { group, peer: to }, sure, wait).await
        }
    }
}

async fn peer(client: &Client, json: bool, command: PeerCommand) -> anyhow::Result<()> {
    match command {
        PeerCommand::List => show(json, &client.peer_list(&Nothing {}).await?, render::peers),
        PeerCommand::SetAddress { name, address } => {
            let request = PeerSet { peer: name, address: address.unwrap_or_default() };
            show(json, &client.peer_set(&request).await?, |p| format!("{}\n", render::peer_address(p)))
        }
        PeerCommand::Remove { name, sure, wait } => {
            act(client, json, Action::PeerRemove { peer: name }, sure, wait).await
        }
        PeerCommand::Share { name, mirrors, groups, space } => {
            let known = client.peer_list(&Nothing {}).await?.peers.into_iter().find(|p| p.name == name);
            let asked = mirrors.is_some() || groups.is_some() || space.is_some();
            if let Some(peer) = known.as_ref().filter(|_| !asked) {
                return show(json, peer, render::peer_share);
            }
            let mut share = known.map(|p| p.share).unwrap_or_default();
            share.mirrors = mirrors.unwrap_or(share.mirrors);
            share.groups_max = groups.map_or(share.groups_max, |most| most.0);
            share.bytes_max = space.map_or(share.bytes_max, |most| most.0);
            show(json, &client.peer_share(&PeerShareSet { peer: name, share }).await?, render::peer_share)
        }
        PeerCommand::Replace { name, with, sure, wait } => {
            act(client, json, Action::PeerReplace { peer: name, with }, sure, wait).await
        }
    }
}

/// Preview, question, confirmation.
pub(crate) async fn act(client: &Client, json: bool, action: Action, sure: Sure, wait: Wait) -> anyhow::Result<()> {
    let preview = client.action_preview(&PreviewRequest { action }).await?;
    if !sure.yes && !ask::confirmed(&preview)? {
        errln!("Nothing was changed.");
        return Ok(());
    }
    let done = client.action_confirm(&Confirm { token: preview.token }).await?;
    show(json, &done, |d| if d.job.is_some() { "Begun.\n".to_owned() } else { "Done.\n".to_owned() })?;
    follow_job(client, json, done.job, wait).await
}

async fn follow_job(client: &Client, json: bool, job: Option<Job>, wait: Wait) -> anyhow::Result<()> {
    match job {
        Some(job) if wait.no_wait && !json => print(&format!("{}\n", render::job(&job))),
        Some(job) if !wait.no_wait => wait_for(client, json, job).await,
        _ => Ok(()),
    }
}

/// Shows a job's progress until it ends. One that ends badly is a refusal.
pub(crate) async fn wait_for(client: &Client, json: bool, mut job: Job) -> anyhow::Result<()> {
    let progress = !json && std::io::stderr().is_terminal();
    while !job.state.is_final() {
        if progress {
            err(format_args!("\r\u{1b}[K{}", render::job(&job)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        job = client.job_show(&ById { id: job.id }).await?;
    }
    if progress {
        err(format_args!("\r\u{1b}[K"));
    }
    show(json, &job, |j| format!("{}\n", render::job(j)))?;
    match job.state {
        JobState::Failed { error } => Err(ClientError::Refused(error).into()),
        JobState::Cancelled => {
            let error = ApiError::new(ErrorCode::WrongState, format!("job {} was cancelled", job.id), "");
            Err(ClientError::Refused(error).into())
        }
        _ => Ok(()),
    }
}

async fn events(client: &Client, json: bool, follow: bool, limit: u32) -> anyhow::Result<()> {
    let mut query = EventQuery { after: None, limit: Some(limit), wait_secs: None };
    loop {
        let page = client.event_list(&query).await?;
        for event in &page.events {
            show(json, event, |e| format!("{}\n", render::event(e)))?;
        }
        if !follow {
            return Ok(());
        }
        query = EventQuery { after: Some(page.next_after), limit: None, wait_secs: Some(20) };
    }
}

async fn jobs(client: &Client, json: bool, command: JobCommand) -> anyhow::Result<()> {
    let one = |j: &Job| format!("{}\n", render::job(j));
    match command {
        JobCommand::List => show(json, &client.job_list(&Nothing {}).await?, render::jobs),
        JobCommand::Show { id } => show(json, &client.job_show(&ById { id }).await?, one),
        JobCommand::Cancel { id } => show(json, &client.job_cancel(&ById { id }).await?, one),
        JobCommand::Wait { id } => {
            let job = client.job_show(&ById { id }).await?;
            wait_for(client, json, job).await
        }
    }
}

async fn token(client: &Client, json: bool, command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { label, rights } => {
            show(json, &client.token_create(&TokenCreate { label, rights }).await?, |t| {
                format!("{}\n\nKeep it: it is shown this once. Rights: {}.\n", t.token, t.info.rights)
            })
        }
        TokenCommand::List => show(json, &client.token_list(&Nothing {}).await?, render::tokens),
        TokenCommand::Revoke { id } => show(json, &client.token_revoke(&TokenRef { id: id.clone() }).await?, |_| {
            format!("Token {} is void.\n", plain(&id))
        }),
    }
}

/// JSON lines, with or without `--json`: the records are for programs.
async fn inspect(client: &Client, group: Name, from: Option<u64>, limit: Option<u64>) -> anyhow::Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut from_seq = from;
    while left > 0 {
        let page = left.min(u64::from(PAGE_MAX));
        let limit = u32::try_from(page).unwrap_or(PAGE_MAX);
        let page = client.inspect(&InspectQuery { group: group.clone(), from_seq, limit: Some(limit) }).await?;
        for record in &page.records {
            print_json(record)?;
        }
        left = left.saturating_sub(page.records.len() as u64);
        match page.next_seq {
            // A page that leads back would never end.
            Some(next) if from_seq.is_none_or(|f| next > f) => from_seq = Some(next),
            _ => return Ok(()),
        }
    }
    Ok(())
}
