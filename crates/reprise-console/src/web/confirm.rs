//! What destroys or gives up something: what it does is shown, and a name has to be typed.

use axum::extract::State;
use axum::response::Response;
use maud::html;
use reprise_api::{Action, Confirm, PreviewRequest, ResetLevel};
use std::sync::Arc;

use super::form::Form;
use super::page::Page;
use super::problem::Problem;
use super::session::{Pending, secret};
use super::signed::{Posted, Signed};
use super::ui::{self, Fields, Text};
use super::{App, lock, page};

/// The action that a form asks for.
fn action(form: &Form) -> Result<Action, Problem> {
    Ok(match form.text("kind") {
        "volume_erase" => Action::VolumeErase { volume: form.value("volume", "Volume")? },
        "volume_remove" => Action::VolumeRemove { volume: form.value("volume", "Volume")? },
        "peer_remove" => Action::PeerRemove { peer: form.value("peer", "Box")? },
        "peer_replace" => {
            Action::PeerReplace { peer: form.value("peer", "Box")?, with: form.value("with", "New box")? }
        }
        "mirror_remove" => {
            Action::MirrorRemove { group: form.value("group", "Group")?, peer: form.value("peer", "Box")? }
        }
        "group_delete" => Action::GroupDelete { group: form.value("group", "Group")? },
        "system_reset" => Action::SystemReset {
            level: match form.text("level") {
                "settings" => ResetLevel::Settings,
                "forget" => ResetLevel::Forget,
                "wipe" => ResetLevel::Wipe,
                _ => return Err(Problem::field("level", "choose how much the reset takes away")),
            },
        },
        _ => return Err(Problem::input("there is no such action")),
    })
}

/// What has to be typed: the name of what is lost. A reset says both how much and whose.
fn typed(action: &Action, box_name: &str) -> String {
    match action {
        Action::VolumeErase { volume } | Action::VolumeRemove { volume } => volume.to_string(),
        Action::PeerRemove { peer } | Action::PeerReplace { peer, .. } => peer.to_string(),
        Action::MirrorRemove { group, .. } | Action::GroupDelete { group } => group.to_string(),
        Action::SystemReset { level } => format!("{} {box_name}", level.as_str()),
    }
}

/// Title, the button's words, and where it goes on when it is done.
fn words(action: &Action) -> (String, &'static str, String) {
    match action {
        Action::VolumeErase { volume } => (format!("Erase volume {volume}"), "Erase the volume", "/volumes".into()),
        Action::VolumeRemove { volume } => {
            (format!("Take volume {volume} out"), "Take the volume out", "/volumes".into())
        }
        Action::PeerRemove { peer } => (format!("Forget the box {peer}"), "Forget the box", "/pair".into()),
        Action::PeerReplace { peer, with } => {
            (format!("Replace the box {peer} with {with}"), "Replace the box", "/pair".into())
        }
        Action::MirrorRemove { group, peer } => {
            (format!("End the mirror of group {group} on {peer}"), "End the mirror", format!("/groups/{group}"))
        }
        Action::GroupDelete { group } => (format!("Delete group {group}"), "Delete the group", "/volumes".into()),
        Action::SystemReset { level: ResetLevel::Settings } => {
            ("Reset the settings".into(), "Reset and start again", "/".into())
        }
        Action::SystemReset { level: ResetLevel::Forget } => {
            ("Forget everything but the bytes".into(), "Forget and start again", "/".into())
        }
        Action::SystemReset { level: ResetLevel::Wipe } => ("Wipe the box".into(), "Wipe and start again", "/".into()),
    }
}

fn ask(signed: &Signed, pending: &Pending, problem: Option<&Problem>) -> Response {
    let (title, button, back) = words(&pending.action);
    let form = Form::default();
    let fields = Fields { form: &form, problem, prefix: "" };
    let content = html! {
        p { (pending.summary) }
        @if pending.losses.is_empty() {
            p { "Nothing is lost by it." }
        } @else {
            div class="notice bad" {
                h2 { "What is lost" }
                ul { @for loss in &pending.losses { li { (loss) } } }
            }
        }
        form method="post" action="/confirm/do" {
            (ui::token(signed))
            input type="hidden" name="id" value=(pending.id);
            p { "To confirm, type " code class="typed" { (pending.typed) } " below. This page is good for five minutes." }
            (fields.text(Text { name: "typed", label: "Type it here", required: true, ..Text::default() }))
            button type="submit" class="danger" { (button) }
            " " a href=(back) { "Do not do it" }
        }
    };
    Page::new(signed, &title).problem(problem).show(content)
}

/// `POST /confirm`: what the action would do.
pub(crate) async fn preview(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let action = action(&form)?;
    let preview = app.client.action_preview(&PreviewRequest { action }).await?;
    let name = app.live.now().name().unwrap_or("box").to_owned();
    let pending = Pending {
        id: secret()?,
        token: preview.token,
        typed: typed(&preview.action, &name),
        action: preview.action,
        summary: preview.summary,
        losses: preview.losses,
    };
    lock(&app.sessions).keep_pending(signed.key, pending.clone());
    Ok(ask(&signed, &pending, None))
}

/// `POST /confirm/do`: does it, if what was typed is right.
pub(crate) async fn carry_out(State(app): State<Arc<App>>, posted: Posted) -> Result<Response, Problem> {
    let Posted { signed, form } = posted;
    let pending = lock(&app.sessions).pending(signed.key, form.raw("id"));
    let Some(pending) = pending else {
        return Ok(page::message(
            axum::http::StatusCode::CONFLICT,
            "Not confirmed",
            "This confirmation was used or is too old. Nothing was changed.",
            "Ask for the action again and read what it does.",
        ));
    };
    if form.text("typed") != pending.typed {
        let problem = Problem::field("typed", format!("This is not {:?}.", pending.typed));
        return Ok(ask(&signed, &pending, Some(&problem)));
    }
    // It is good once, also where the box refuses: the API's token is used up then.
    lock(&app.sessions).drop_pending(signed.key, &pending.id);
    let done = app.client.action_confirm(&Confirm { token: pending.token.clone() }).await?;
    let (title, _, back) = words(&pending.action);
    if matches!(pending.action, Action::SystemReset { .. }) {
        return Ok(super::pages::power::starting_again(&title));
    }
    let message = match done.job {
        Some(job) => format!("{title}: job {} does it.", job.id),
        None => format!("{title}: done."),
    };
    Ok(signed.done(&back, &message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_can_be_asked_for_and_has_something_to_type() {
        let fields = "volume=v&peer=p&with=w&group=g&level=wipe";
        for kind in Action::KINDS {
            let form = Form::parse(format!("kind={kind}&{fields}").as_bytes()).unwrap();
            let action = action(&form).unwrap();
            assert_eq!(action.kind(), kind);
            assert!(!typed(&action, "lyon").is_empty());
            let (title, button, back) = words(&action);
            assert!(!title.is_empty() && !button.is_empty() && back.starts_with('/'));
        }
        for bad in
            ["", "kind=x", "kind=volume_erase", "kind=volume_erase&volume=%3Cscript%3E", "kind=system_reset&level=all"]
        {
            assert!(action(&Form::parse(bad.as_bytes()).unwrap()).is_err(), "{bad}");
        }
    }
}
