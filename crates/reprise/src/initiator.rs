//! `reprise initiator`.

use reprise_api::*;

use crate::Usage;
use crate::args::{InitiatorCommand, InitiatorRule};
use crate::commands::{print_json, show};
use crate::units::plain;
use crate::{ask, render};

pub(crate) async fn run(client: &Client, json: bool, command: InitiatorCommand) -> anyhow::Result<()> {
    match command {
        InitiatorCommand::Add { name, rule } => {
            let chap = chap(&rule)?;
            let InitiatorRule { groups, addresses, iops, rate, .. } = rule;
            let request = InitiatorAdd { name, groups, addresses, chap, iops, bytes_per_sec: rate };
            changed(json, &client.initiator_add(&request).await?, "is listed and may log in")
        }
        InitiatorCommand::Set { name, rule, all_groups, any_address, no_chap } => {
            let given = rule.chap.is_some() || rule.iops.is_some() || rule.rate.is_some();
            if !(given || all_groups || any_address || no_chap) && rule.groups.is_empty() && rule.addresses.is_empty() {
                return Err(Usage::error("nothing to change: see reprise initiator set --help"));
            }
            let chap = chap(&rule)?;
            let InitiatorRule { groups, addresses, iops, rate, .. } = rule;
            let request = InitiatorSet {
                name,
                groups: (all_groups || !groups.is_empty()).then_some(groups),
                addresses: (any_address || !addresses.is_empty()).then_some(addresses),
                chap,
                no_chap,
                iops,
                bytes_per_sec: rate,
            };
            changed(json, &client.initiator_set(&request).await?, "is changed")
        }
        InitiatorCommand::List => show(json, &client.initiator_list(&Nothing {}).await?, render::initiators),
        InitiatorCommand::Remove { name } => {
            let done = client.initiator_remove(&InitiatorRef { name: name.clone() }).await?;
            show(json, &done, |_| format!("Initiator {name} is forgotten.\n"))
        }
        InitiatorCommand::Sessions => {
            let status = client.status(&Nothing {}).await?;
            let sessions: Vec<(&Name, &SessionStatus)> = (status.groups.iter())
                .flat_map(|g| g.targets.iter().flat_map(|t| &t.sessions).map(|s| (&g.name, s)))
                .collect();
            if !json {
                return show(json, &sessions, |s| render::sessions(s));
            }
            let with_group = |(group, session): &(&Name, &SessionStatus)| {
                let mut value = serde_json::to_value(session)?;
                value["group"] = serde_json::to_value(group)?;
                Ok::<_, serde_json::Error>(value)
            };
            print_json(&sessions.iter().map(with_group).collect::<Result<Vec<_>, _>>()?)
        }
    }
}

fn chap(rule: &InitiatorRule) -> anyhow::Result<Option<ChapRule>> {
    let Some(user) = rule.chap.clone() else { return Ok(None) };
    let secret = ask::secret(&format!("Secret of {}", plain(&user)))?;
    let mutual_secret = match &rule.mutual {
        Some(user) => Some(ask::secret(&format!("Secret of the box as {}", plain(user)))?),
        None => None,
    };
    Ok(Some(ChapRule { user, secret, mutual_user: rule.mutual.clone(), mutual_secret }))
}

fn changed(json: bool, changed: &InitiatorChanged, what: &str) -> anyhow::Result<()> {
    for warning in &changed.warnings {
        errln!("warning: {}", plain(warning));
    }
    show(json, changed, |c| format!("Initiator {} {what}.\n", c.initiator.name))
}
