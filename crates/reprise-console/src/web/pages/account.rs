//! The administrator's password.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::html;
use reprise_api::PasswordSet;

use super::login::{new_password, new_password_fields};
use crate::web::form::Form;
use crate::web::page::Page;
use crate::web::problem::Problem;
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
        app.client.admin_password(&PasswordSet { current, new, at_the_box: false }).await?;
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
