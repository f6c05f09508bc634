//! The administrator's password, and who is logged in with it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use reprise_api::PasswordSet;

use super::login::{new_password, new_password_fields};
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
use crate::web::session::Listed;
use crate::web::signed::{Posted, Signed};
use crate::web::ui::{self, Fields, Text};
use crate::web::{App, lock};

/// `GET /settings/password`.
pub(crate) async fn form(signed: Signed) -> Response {
    password_page(&signed, None)
}

fn password_page(signed: &Signed, problem: Option<&Problem>) -> Response {
    let form = Form::default();
    let fields = Fields { form: &form, problem, prefix: "" };
    let content = html! {
        p { "Every other browser that is logged in has to log in again with the new password." }
        form method="post" action="/settings/password" {
            (ui::token(signed))
            (fields.text(Text {
                name: "current", label: "Password so far", kind: "password", required: true,
                autocomplete: "current-password", ..Text::default()
            }))
            (new_password_fields(&fields))
            button type="submit" { "Change the password" } " " a href="/settings" { "Back" }
        }
    };
    Page::new(signed, "Password").problem(problem).show(content)
}

/// `POST /settings/password`.
pub(crate) async fn change(State(app): State<Arc<App>>, posted: Posted) -> Response {
    let Posted { signed, form } = posted;
    let attempt = async {
        let new = new_password(&form)?;
        let current = Some(form.raw("current").to_owned());
        let from = Some(signed.address.clone());
        let _turn = app.generation.write().await;
        let status = app.client.admin_password(&PasswordSet { current, code: None, new, from }).await?;
        lock(&app.sessions).renew(signed.key, &status.generation);
        Ok::<_, Problem>(())
    };
    match attempt.await {
        Ok(()) => {
            lock(&app.sessions).end_others(signed.key);
            signed.done("/settings", "The password is changed.")
        }
        Err(problem) => password_page(&signed, Some(&problem)),
    }
}

/// `GET /settings/sessions`.
pub(crate) async fn sessions(State(app): State<Arc<App>>, signed: Signed) -> Response {
    let all = lock(&app.sessions).list();
    let others = all.iter().any(|s| s.key != signed.key);
    let content = html! {
        p {
            "A session ends by itself after half an hour without a click, after twelve hours, and with every change of the \
             password, wherever that is made."
        }
        div class="scroll" tabindex="0" role="region" aria-label="Sessions" {
            table {
                caption { "Sessions of this console, the one used last first" }
                thead {
                    tr {
                        th scope="col" { "Address" } th scope="col" { "Browser" } th scope="col" { "Since" }
                        th scope="col" { "Last use" } th scope="col" { span class="hidden" { "End" } }
                    }
                }
                tbody { @for session in &all { (session_row(&signed, session)) } }
            }
        }
        @if others { (ui::button(&signed, "/settings/sessions/end-others", &[], html! { "End all others" })) }
        p { a href="/settings" { "Back" } }
    };
    Page::new(&signed, "Sessions").show(content)
}

fn session_row(signed: &Signed, session: &Listed) -> Markup {
    let own = session.key == signed.key;
    html! {
        tr {
            th scope="row" { (session.visitor.address) @if own { " (this one)" } }
            td { (session.visitor.browser) }
            td class="nowrap" { (ui::time(session.since_unix_ms)) }
            td class="nowrap" { (ui::time(session.used_unix_ms)) }
            td {
                @if !own {
                    (ui::button(signed, "/settings/sessions/end", &[("id", &session.id)],
                        html! { "End" (ui::hidden(&format!("the session from {}", session.visitor.address))) }))
                }
            }
        }
    }
}

/// `POST /settings/sessions/end`.
pub(crate) async fn end_session(State(app): State<Arc<App>>, posted: Posted) -> Response {
    let ended = lock(&app.sessions).end_by_id(posted.form.raw("id"));
    tracing::info!(from = %posted.signed.address, ended, "asked to end a session");
    posted.signed.done("/settings/sessions", if ended { "The session is ended." } else { "That session had ended." })
}

/// `POST /settings/sessions/end-others`.
pub(crate) async fn end_other_sessions(State(app): State<Arc<App>>, posted: Posted) -> Response {
    lock(&app.sessions).end_others(posted.signed.key);
    tracing::info!(from = %posted.signed.address, "all other sessions ended");
    posted.signed.done("/settings/sessions", "All other sessions are ended.")
}
