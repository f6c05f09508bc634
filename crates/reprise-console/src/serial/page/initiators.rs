//! Hosts that may use the box.

use reprise_api::{
    ChapRule, ChapSecret, InitiatorAdd, InitiatorList, InitiatorName, InitiatorRef, InitiatorStatus, IpNetwork, Name,
    Nothing, RULES_MAX,
};

use super::{Talk, nothing};
use crate::serial::call;
use crate::serial::field::{
    CHAP_SECRET, CHAP_SECRET_AGAIN, CHAP_USER, INITIATOR_FROM, INITIATOR_GROUPS, INITIATOR_NAME, MUTUAL_SECRET,
    MUTUAL_USER, PICK_INITIATOR, at_most, name, networks, parsed, words,
};
use crate::serial::text::wrap;
use crate::serial::ui::{Form, Ui};

/// The hosts, a line each.
pub(super) fn table(list: &InitiatorList) -> Vec<String> {
    let mut lines = Vec::new();
    if list.others {
        lines.extend(wrap("Mind: hosts that are not listed may use every group, without a proof.", 2));
    } else if list.initiators.is_empty() {
        lines.push("No host may use the box yet.".to_owned());
    }
    if !list.initiators.is_empty() {
        lines.push(Form::row(&[("Host", 40), ("Groups", 12), ("From", 14), ("CHAP", 6), ("In", 3)]));
    }
    lines.extend(list.initiators.iter().map(row));
    lines
}

fn row(i: &InitiatorStatus) -> String {
    let join = |items: Vec<String>, none: &str| if items.is_empty() { none.to_owned() } else { items.join(" ") };
    let groups = join(i.groups.iter().map(Name::to_string).collect(), "all");
    let from = join(i.addresses.iter().map(IpNetwork::to_string).collect(), "any");
    let chap = match (&i.chap_user, &i.mutual_user) {
        (None, _) => "none",
        (Some(_), None) => "yes",
        (Some(_), Some(_)) => "mutual",
    };
    Form::row(&[(i.name.as_str(), 40), (&groups, 12), (&from, 14), (chap, 6), (&i.sessions.to_string(), 3)])
}

fn user(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Err("An answer is needed.".to_owned()),
        "none" => Ok(None),
        _ if text.len() > 255 => Err("That is longer than 255 characters.".to_owned()),
        _ => Ok(Some(text.to_owned())),
    }
}

/// Lets a host use the box.
pub(super) async fn add(ui: &Ui) -> Talk {
    let mut form = Form::new(ui, "Let a host use the box");
    let host = form.ask(&INITIATOR_NAME, None, parsed::<InitiatorName>).await?;
    let groups = form
        .ask(&INITIATOR_GROUPS, Some("all"), |t| match t {
            "all" => Ok(Vec::new()),
            _ => at_most(words(t).into_iter().map(name).collect::<Result<Vec<Name>, String>>()?, RULES_MAX, "groups"),
        })
        .await?;
    let addresses = form.ask(&INITIATOR_FROM, Some("any"), networks).await?;
    let chap = chap(&mut form).await?;
    let confirmed = form.confirm("yes").await?;
    let request = InitiatorAdd { name: host, groups, addresses, chap, iops: None, bytes_per_sec: None };
    let changed = ui.change(call::initiator_add(request), &confirmed).await?;
    let warnings: String = changed.warnings.iter().map(|w| format!(" Mind: {w}.")).collect();
    ui.say_line(&format!("{} is listed and may log in.{warnings}", changed.initiator.name));
    Ok(())
}

async fn chap(form: &mut Form<'_>) -> Talk<Option<ChapRule>> {
    let Some(user_name) = form.ask(&CHAP_USER, Some("none"), user).await? else { return Ok(None) };
    let secret = form.ask(&CHAP_SECRET, None, parsed::<ChapSecret>).await?;
    form.ask(&CHAP_SECRET_AGAIN, None, |t| {
        if t == secret.expose() {
            Ok(())
        } else {
            Err("This is another one. Type it again, or . to go back.".to_owned())
        }
    })
    .await?;
    let mutual_user = form.ask(&MUTUAL_USER, Some("none"), user).await?;
    let mutual_secret = match mutual_user {
        None => None,
        Some(_) => {
            let check = |t: &str| {
                let mutual = parsed::<ChapSecret>(t)?;
                if mutual == secret { Err("It has to differ from that of the host.".to_owned()) } else { Ok(mutual) }
            };
            Some(form.ask(&MUTUAL_SECRET, None, check).await?)
        }
    };
    Ok(Some(ChapRule { user: user_name, secret, mutual_user, mutual_secret }))
}

/// Forgets a host.
pub(super) async fn remove(ui: &Ui) -> Talk {
    let title = "Forget a host";
    let mut known = ui.get(call::initiator_list(Nothing {})).await?.initiators;
    known.retain(|i| !i.from_settings);
    if known.is_empty() {
        return Err(nothing("There is no host that could be forgotten.", ""));
    }
    let mut form = Form::new(ui, title);
    let rows: Vec<String> = known.iter().map(row).collect();
    let host = known.swap_remove(form.pick(&PICK_INITIATOR, &rows).await?);
    form.say(&format!("Its {} sessions end, and it cannot log in again.", host.sessions));
    let confirmed = form.confirm("yes").await?;
    ui.change(call::initiator_remove(InitiatorRef { name: host.name.clone() }), &confirmed).await?;
    ui.say_line(&format!("{} is forgotten.", host.name));
    Ok(())
}
