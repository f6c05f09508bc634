//! Hosts: which initiators may use the box, who is logged in, and how to attach.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::{
    ByteSize, ChapRule, GroupStatus, InitiatorAdd, InitiatorName, InitiatorRef, InitiatorSet, InitiatorStatus, Name,
    Nothing, Status,
};
use serde::Deserialize;

use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::paste::{Attach, System, portal};
use crate::web::problem::Problem;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text};
use crate::web::{App, units};

/// Which initiator.
#[derive(Deserialize)]
pub(crate) struct Which {
    #[serde(default)]
    name: String,
}

fn or_all(items: &[impl ToString], all: &str) -> String {
    if items.is_empty() { all.to_owned() } else { items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ") }
}

fn link(name: &InitiatorName) -> String {
    format!("/hosts/show?{}", serde_urlencoded::to_string([("name", name.as_str())]).unwrap_or_default())
}

/// The sessions of a group.
pub(crate) fn sessions(group: &GroupStatus) -> Markup {
    let all: Vec<_> = group.targets.iter().flat_map(|t| &t.sessions).collect();
    html! {
        @if all.is_empty() { p { "No host is logged in to group " (group.name) "." } } @else {
            div class="scroll" tabindex="0" role="region" aria-label=(format!("Sessions of group {}", group.name)) {
                table {
                    caption { "Hosts that are logged in to group " (group.name) }
                    thead {
                        tr {
                            th scope="col" { "Initiator" } th scope="col" { "From" } th scope="col" { "For" }
                            th scope="col" { "Proved" } th scope="col" { "CRC32C" }
                        }
                    }
                    tbody {
                        @for s in all {
                            tr {
                                th scope="row" { (s.initiator) }
                                td { (s.address) }
                                td { (units::secs(s.age_secs as f64)) }
                                td { @if let Some(user) = &s.chap_user { "CHAP, " (user) } @else { "nothing" } }
                                td {
                                    (match (s.header_digest, s.data_digest) {
                                        (true, true) => "headers and data",
                                        (true, false) => "headers",
                                        (false, true) => "data",
                                        (false, false) => "none",
                                    })
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Commands to paste for a group, as one initiator or as anybody.
pub(crate) fn how_to_attach(group: &GroupStatus, initiator: Option<&InitiatorStatus>, host: &str) -> Markup {
    let places = group.targets.iter().filter_map(|t| {
        let (address, port) = t.portals.iter().find_map(|p| portal(p, host))?;
        Some(Attach {
            iqn: t.iqn.clone(),
            address,
            port,
            chap_user: initiator.and_then(|i| i.chap_user.clone()),
            mutual_user: initiator.and_then(|i| i.mutual_user.clone()),
        })
    });
    html! {
        @for (n, attach) in places.enumerate() {
            h3 { "Attach group " (group.name) }
            p { "Target " code { (attach.iqn) } " at " code { (attach.address) ", port " (attach.port) } }
            @if attach.chap_user.is_some() { p { "Put the secret where " code { "SECRET" } " stands. The box does not show it." } }
            @for system in System::ALL {
                @let id = format!("paste-{}-{}-{n}", group.name, system.key());
                details id=(id) {
                    summary { (system.title()) (ui::hidden(&format!("for group {}", group.name))) }
                    pre tabindex="0" data-copy aria-label=(format!("Commands for {}", system.title())) {
                        (system.commands(&attach).join("\n"))
                    }
                }
            }
        }
    }
}

/// `GET /hosts`.
pub(crate) async fn list(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    let list = app.client.initiator_list(&Nothing {}).await?;
    let status = app.client.status(&Nothing {}).await?;
    let content = html! {
        p class="actions" { a class="button" href="/hosts/new" { "Let a host in" } }
        @if list.others {
            div class="notice warn" {
                p { "Initiators that are not listed here may use every group, from anywhere and without a proof. As soon as the \
                     first one is listed, only those on the list may." }
            }
        }
        @if list.initiators.is_empty() { p { "No initiator is listed." } } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Initiators" {
                table {
                    caption { "Initiators that may use the box" }
                    thead {
                        tr {
                            th scope="col" { "Initiator" } th scope="col" { "Groups" } th scope="col" { "From" }
                            th scope="col" { "Proves" } th scope="col" { "Limits" } th scope="col" { "Sessions" }
                        }
                    }
                    tbody {
                        @for i in &list.initiators {
                            tr {
                                th scope="row" { a href=(link(&i.name)) { (i.name) } }
                                td { (or_all(&i.groups, "all")) }
                                td { (or_all(&i.addresses, "anywhere")) }
                                td { (proves(i)) }
                                td { (limits(i)) }
                                td { (i.sessions) }
                            }
                        }
                    }
                }
            }
        }
        section {
            h2 { "Sessions" }
            div data-part="sessions" {
                @for group in status.groups.iter().filter(|g| !g.targets.is_empty()) { (sessions(group)) }
            }
        }
        section {
            h2 { "How to attach" }
            @if status.groups.iter().all(|g| g.targets.is_empty()) { p { (none_to_attach(&status)) } }
            @for group in &status.groups { (how_to_attach(group, None, &signed.host)) }
        }
    };
    Ok(Page::new(&signed, "Hosts").live(None).show(content))
}

fn none_to_attach(status: &Status) -> String {
    let mut sources: Vec<&str> =
        status.groups.iter().filter_map(|g| g.link.as_ref()).map(|l| l.peer.as_str()).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.is_empty() {
        return "There is no group that hosts could attach.".to_owned();
    }
    format!(
        "This box keeps mirrors only, and this version cannot serve them. Hosts attach to {}.",
        sources.join(" and ")
    )
}

fn proves(i: &InitiatorStatus) -> String {
    match (&i.chap_user, &i.mutual_user) {
        (None, _) => "nothing".to_owned(),
        (Some(user), None) => format!("CHAP, {user}"),
        (Some(user), Some(ours)) => format!("mutual CHAP, {user} and {ours}"),
    }
}

fn limits(i: &InitiatorStatus) -> String {
    match (i.iops, i.bytes_per_sec) {
        (None, None) => "none".to_owned(),
        (Some(iops), None) => format!("{iops} commands/s"),
        (None, Some(bytes)) => format!("{}/s", units::bytes(bytes)),
        (Some(iops), Some(bytes)) => format!("{iops} commands/s, {}/s", units::bytes(bytes)),
    }
}

fn rule_fields(fields: &Fields<'_>, status: &Status) -> Markup {
    let groups: Vec<_> = status.groups.iter().map(|g| g.name.as_str()).collect();
    let hint = format!(
        "Between commas; empty: all. There are: {}.",
        if groups.is_empty() { "none yet".to_owned() } else { groups.join(", ") }
    );
    html! {
        (fields.text(Text { name: "groups", label: "Groups it may use", hint: &hint, ..Text::default() }))
        (fields.text(Text {
            name: "addresses", label: "Addresses it may come from",
            hint: "Addresses or networks between commas, such as 192.0.2.0/24; empty: anywhere.", ..Text::default()
        }))
        (fields.text(Text { name: "iops", label: "SCSI commands a second", hint: "Empty or 0: no limit.", ..Text::default() }))
        (fields.text(Text { name: "rate", label: "Bytes a second", hint: "Such as 200M. Empty or 0: no limit.", ..Text::default() }))
    }
}

fn chap_fields(fields: &Fields<'_>) -> Markup {
    html! {
        (fields.text(Text { name: "user", label: "CHAP name of the host", ..Text::default() }))
        (fields.text(Text {
            name: "secret", label: "Its secret", kind: "password", autocomplete: "new-password",
            hint: "12 to 255 bytes; Microsoft's initiator takes 12 to 16. It is not shown again.", ..Text::default()
        }))
        (fields.text(Text {
            name: "mutual_user", label: "CHAP name of the box, for mutual CHAP", ..Text::default()
        }))
        (fields.text(Text {
            name: "mutual_secret", label: "Secret of the box", kind: "password", autocomplete: "new-password",
            hint: "Another one than the host's.", ..Text::default()
        }))
    }
}

fn chap(form: &Form) -> Result<Option<ChapRule>, Problem> {
    let some = |name: &str| Some(form.text(name).to_owned()).filter(|t| !t.is_empty());
    let filled = ["user", "mutual_user"].iter().any(|n| !form.text(n).is_empty())
        || ["secret", "mutual_secret"].iter().any(|n| !form.raw(n).is_empty());
    if !filled {
        return Ok(None);
    }
    let secret = |name: &'static str, label: &str| {
        form.raw(name).parse().map_err(|error| Problem::field(name, format!("{label}: {error}")))
    };
    let mutual_secret =
        if form.raw("mutual_secret").is_empty() { None } else { Some(secret("mutual_secret", "Secret of the box")?) };
    let rule = ChapRule {
        user: form.text("user").to_owned(),
        secret: secret("secret", "Secret")?,
        mutual_user: some("mutual_user"),
        mutual_secret,
    };
    match rule.problem() {
        Some(problem) => Err(Problem::field("user", problem)),
        None => Ok(Some(rule)),
    }
}

/// `GET /hosts/new`.
pub(crate) async fn add_form(State(app): State<Arc<App>>, signed: Signed) -> Result<Response, Problem> {
    add_page(&app, &signed, &Form::default(), None).await
}

async fn add_page(app: &App, signed: &Signed, form: &Form, problem: Option<&Problem>) -> Result<Response, Problem> {
    let status = app.client.status(&Nothing {}).await?;
    let fields = Fields { form, problem, prefix: "" };
    let content = html! {
        form method="post" action="/hosts/new" {
            (ui::token(signed))
            (fields.text(Text {
                name: "name", label: "iSCSI name of the host", required: true,
                hint: "Linux: in /etc/iscsi/initiatorname.iscsi. Windows: (Get-InitiatorPort).NodeAddress. ESXi: esxcli iscsi adapter get.",
                ..Text::default()
            }))
            (rule_fields(&fields, &status))
            fieldset {
                legend { "What it has to prove" }
                p { "Leave empty where nothing has to be proved." }
                (chap_fields(&fields))
            }
            button type="submit" { "Let it in" } " " a href="/hosts" { "Back" }
        }
    };
    Ok(Page::new(signed, "Let a host in").problem(problem).show(content))
}

/// `POST /hosts/new`.
pub(crate) async fn add(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let request = InitiatorAdd {
            name: form.value("name", "iSCSI name")?,
            groups: form.list::<Name>("groups", "Groups")?,
            addresses: form.list("addresses", "Addresses")?,
            chap: chap(&form)?,
            iops: form.optional("iops", "SCSI commands a second")?,
            bytes_per_sec: form.optional::<ByteSize>("rate", "Bytes a second")?,
        };
        Ok::<_, Problem>(app.client.initiator_add(&request).await?)
    };
    match attempt.await {
        Ok(changed) => {
            let told = told(&format!("{} is listed and may log in.", changed.initiator.name), &changed.warnings);
            Ok(signed.done(&link(&changed.initiator.name), &told))
        }
        Err(problem) => add_page(&app, &signed, &form, Some(&problem)).await,
    }
}

fn told(first: &str, warnings: &[String]) -> String {
    [&[first.to_owned()], warnings].concat().join(" ")
}

/// `GET /hosts/show?name=`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Query(which): Query<Which>,
    signed: Signed,
) -> Result<Response, Problem> {
    host_page(&app, &signed, &which.name, None, None).await
}

async fn host_page(
    app: &App,
    signed: &Signed,
    name: &str,
    form: Option<&Form>,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    let list = app.client.initiator_list(&Nothing {}).await?;
    let initiator = list.initiators.iter().find(|i| i.name.as_str() == name);
    let i = initiator.ok_or_else(|| Problem::from(reprise_api::ApiError::not_found("initiator", "of this name")))?;
    let status = app.client.status(&Nothing {}).await?;
    let as_is = Form::default()
        .with("groups", i.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        .with("addresses", i.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        .with("iops", i.iops.map(|n| n.to_string()).unwrap_or_default())
        .with("rate", i.bytes_per_sec.map(|n| n.to_string()).unwrap_or_default());
    let fields = Fields { form: form.unwrap_or(&as_is), problem, prefix: "" };
    let may = |g: &&GroupStatus| i.groups.is_empty() || i.groups.contains(&g.name);
    let content = html! {
        dl {
            dt { "Groups" } dd { (or_all(&i.groups, "all")) }
            dt { "From" } dd { (or_all(&i.addresses, "anywhere")) }
            dt { "Proves" } dd { (proves(i)) }
            dt { "Limits" } dd { (limits(i)) }
            dt { "Sessions" } dd { (i.sessions) }
        }
        section class="card" {
            h2 { "How to attach" }
            @for group in status.groups.iter().filter(may) { (how_to_attach(group, Some(i), &signed.host)) }
        }
        @if i.from_settings {
            p { "This initiator stands in the settings file of the box and is changed there." }
        } @else {
            section class="card" {
                h2 { "Change what it may do" }
                form method="post" action="/hosts/set" {
                    (ui::token(signed))
                    input type="hidden" name="name" value=(i.name);
                    (rule_fields(&fields, &status))
                    fieldset {
                        legend { "What it has to prove" }
                        p { "Leave empty to keep it as it is." }
                        (chap_fields(&fields))
                        @if i.chap_user.is_some() { (fields.tick("no_chap", "Nothing any more", false)) }
                    }
                    button type="submit" { "Change" }
                }
            }
            section class="card" {
                h2 { "Remove it" }
                p { "The box forgets the initiator and its secrets, and ends its sessions." }
                form method="post" action="/hosts/remove" {
                    (ui::token(signed))
                    input type="hidden" name="name" value=(i.name);
                    div class="field tick" {
                        input id="sure" name="sure" type="checkbox" value="yes" required;
                        label for="sure" { "The host needs its volumes no longer, or may lose them now." }
                    }
                    button type="submit" class="danger" { "Remove it" }
                }
            }
        }
    };
    Ok(Page::new(signed, &format!("Host {}", i.name)).problem(problem).show(content))
}

/// `POST /hosts/set`.
pub(crate) async fn set(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let attempt = async {
        let no_chap = form.ticked("no_chap");
        let request = InitiatorSet {
            name: form.value("name", "iSCSI name")?,
            groups: Some(form.list::<Name>("groups", "Groups")?),
            addresses: Some(form.list("addresses", "Addresses")?),
            chap: if no_chap { None } else { chap(&form)? },
            no_chap,
            iops: Some(form.optional("iops", "SCSI commands a second")?.unwrap_or(0)),
            bytes_per_sec: Some(form.optional("rate", "Bytes a second")?.unwrap_or_default()),
        };
        Ok::<_, Problem>(app.client.initiator_set(&request).await?)
    };
    match attempt.await {
        Ok(changed) => Ok(signed.done(&link(&changed.initiator.name), &told("Changed.", &changed.warnings))),
        Err(problem) => host_page(&app, &signed, form.text("name"), Some(&form), Some(&problem)).await,
    }
}

/// `POST /hosts/remove`.
pub(crate) async fn remove(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let name: InitiatorName = form.value("name", "iSCSI name")?;
    if !form.ticked("sure") {
        let problem = Problem::field("sure", "Tick the box to say that the host may lose its volumes.");
        return host_page(&app, &signed, name.as_str(), None, Some(&problem)).await;
    }
    app.client.initiator_remove(&InitiatorRef { name: name.clone() }).await?;
    Ok(signed.done("/hosts", &format!("{name} is forgotten.")))
}
