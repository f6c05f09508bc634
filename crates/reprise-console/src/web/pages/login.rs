//! The first password, and the login.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use reprise_api::{ErrorCode, Login, Nothing, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordSet};
use serde::Deserialize;

use crate::web::form::Form;
use crate::web::guard::local_path;
use crate::web::problem::Problem;
use crate::web::session::{same, secret};
use crate::web::signed::{COOKIE, Posted, Signed, cookie, peer, read_form};
use crate::web::ui::{Fields, Text};
use crate::web::{App, lock, page, units};

/// The cookie that ties a login form to the browser it was sent to: nobody can log somebody else's browser in.
const FORM_COOKIE: &str = "__Host-reprise-form";
/// Longest wait for a turn to have a password checked.
const TURN_TIME_MAX: Duration = Duration::from_secs(10);

/// Where to go after it.
#[derive(Deserialize)]
pub(crate) struct Next {
    #[serde(default)]
    next: String,
}

fn set_cookie(response: &mut Response, name: &str, value: &str, age: &str) {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict{age}");
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

/// A new password, typed twice.
pub(crate) fn new_password(form: &Form) -> Result<String, Problem> {
    let new = form.raw("new");
    if new.chars().count() < PASSWORD_CHARS_MIN {
        return Err(Problem::field("new", format!("The password needs at least {PASSWORD_CHARS_MIN} characters.")));
    }
    if new.len() > PASSWORD_BYTES_MAX {
        return Err(Problem::field("new", format!("The password may have at most {PASSWORD_BYTES_MAX} bytes.")));
    }
    if new != form.raw("again") {
        return Err(Problem::field("again", "The two passwords are not the same."));
    }
    Ok(new.to_owned())
}

/// The two fields of a new password.
pub(crate) fn new_password_fields(fields: &Fields<'_>) -> Markup {
    html! {
        (fields.text(Text {
            name: "new", label: "New password", kind: "password", required: true, autocomplete: "new-password",
            hint: "At least 10 characters. A few words that do not belong together are easy to keep in mind.",
            ..Text::default()
        }))
        (fields.text(Text {
            name: "again", label: "The same again", kind: "password", required: true, autocomplete: "new-password",
            ..Text::default()
        }))
    }
}

/// `GET /login`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<Next>,
    request: Request,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let next = local_path(&query.next).unwrap_or("/").to_owned();
    if Signed::from_request_parts(&mut parts, &app).await.is_ok() {
        return Ok(Redirect::to(&next).into_response());
    }
    form_page(&app, &parts.headers, &next, None).await
}

async fn form_page(app: &App, headers: &HeaderMap, next: &str, problem: Option<&Problem>) -> Result<Response, Problem> {
    let set = app.client.admin_status(&Nothing {}).await?.password_set;
    let token = match cookie(headers, FORM_COOKIE) {
        Some(token) => token.to_owned(),
        None => secret()?,
    };
    let form = Form::default();
    let fields = Fields { form: &form, problem, prefix: "" };
    let content = html! {
        @if let Some(problem) = problem {
            div class="notice bad" role="alert" {
                p { (problem.message()) }
                @if !problem.what_to_do().is_empty() { p { (problem.what_to_do()) } }
            }
        }
        @if !set {
            p { "This box has no password yet. Whoever sets it now is its administrator." }
            p { "Your browser warns about the certificate of the box, since the box made it itself. Compare it with the \
                 fingerprint on the serial console or on the screen of the box before you type a password:" }
            p { code class="fingerprint" { (units::fingerprint(&app.fingerprint)) } }
        }
        form method="post" action=(if set { "/login" } else { "/login/first" }) {
            input type="hidden" name="form" value=(token);
            input type="hidden" name="next" value=(next);
            @if set {
                // Password keepers want a name to keep the password by.
                input class="hidden" type="text" name="user" value="admin" autocomplete="username" tabindex="-1"
                    aria-hidden="true" readonly;
                (fields.text(Text {
                    name: "password", label: "Password", kind: "password", required: true,
                    autocomplete: "current-password", ..Text::default()
                }))
                button type="submit" { "Log in" }
            } @else {
                (new_password_fields(&fields))
                button type="submit" { "Set the password and log in" }
            }
        }
        @if set {
            p class="quiet" { "Forgotten? On the serial console or the screen of the box it can be set again." }
        }
    };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let title = if set { "Log in" } else { "Set the password" };
    let mut response = page::plain(status, title, &content);
    set_cookie(&mut response, FORM_COOKIE, &token, "; Max-Age=3600");
    Ok(response)
}

/// A login form that came from the page this browser was given.
struct Asked {
    form: Form,
    headers: HeaderMap,
    from: String,
    next: String,
}

async fn asked(request: Request) -> Result<Asked, Response> {
    let (parts, body) = request.into_parts();
    let from = peer(&parts).ok_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())?.to_string();
    let headers = parts.headers.clone();
    let form = read_form(Request::from_parts(parts, body)).await?;
    if !cookie(&headers, FORM_COOKIE).is_some_and(|token| same(token, form.raw("form"))) {
        return Err(page::message(
            StatusCode::FORBIDDEN,
            "Refused",
            "This form is too old, or the browser does not take cookies.",
            "Load the login page again.",
        ));
    }
    let next = local_path(form.raw("next")).unwrap_or("/").to_owned();
    Ok(Asked { form, headers, from, next })
}

/// Begins a session and goes on.
fn begin(app: &App, next: &str) -> Result<Response, Problem> {
    let session = lock(&app.sessions).begin(Instant::now())?;
    let mut response = Redirect::to(next).into_response();
    set_cookie(&mut response, COOKIE, &session, "");
    set_cookie(&mut response, FORM_COOKIE, "", "; Max-Age=0");
    Ok(response)
}

/// `POST /login`.
pub(crate) async fn log_in(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Asked { form, headers, from, next } = match asked(request).await {
        Ok(asked) => asked,
        Err(refusal) => return Ok(refusal),
    };
    let password = form.raw("password").to_owned();
    // A longer one is nobody's, and is not worth the hash.
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        let problem = Problem::field("password", "This is not the password.");
        return form_page(&app, &headers, &next, Some(&problem)).await;
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN_TIME_MAX, app.logins.acquire()).await else {
        let problem = Problem::input("Too many people are logging in at this moment. Try again.");
        return form_page(&app, &headers, &next, Some(&problem)).await;
    };
    match app.client.admin_login(&Login { password, from: from.clone() }).await {
        Ok(_) => {
            tracing::info!(%from, "logged in");
            begin(&app, &next)
        }
        Err(error) => {
            let problem = Problem::from(error);
            if problem.is_away() {
                return Err(problem);
            }
            tracing::info!(%from, code = problem.code().map_or("none", ErrorCode::as_str), "login refused");
            form_page(&app, &headers, &next, Some(&problem)).await
        }
    }
}

/// `POST /login/first`.
pub(crate) async fn first(State(app): State<Arc<App>>, request: Request) -> Result<Response, Problem> {
    let Asked { form, headers, from, next } = match asked(request).await {
        Ok(asked) => asked,
        Err(refusal) => return Ok(refusal),
    };
    let new = match new_password(&form) {
        Ok(new) => new,
        Err(problem) => return form_page(&app, &headers, &next, Some(&problem)).await,
    };
    // Asked before, since to the box this would be a wrong password: a stranger could use up the tries of whoever wants to
    // change it. Whoever is second in the same moment is refused by the box.
    if app.client.admin_status(&Nothing {}).await?.password_set {
        let problem = Problem::input("The box has a password already. Log in with it.");
        return form_page(&app, &headers, &next, Some(&problem)).await;
    }
    match app.client.admin_password(&PasswordSet { current: None, new, at_the_box: false }).await {
        Ok(_) => {
            tracing::info!(%from, "first password set");
            lock(&app.sessions).end_all();
            begin(&app, &next)
        }
        Err(error) => {
            let problem = Problem::from(error);
            if problem.is_away() {
                return Err(problem);
            }
            form_page(&app, &headers, &next, Some(&problem)).await
        }
    }
}

/// `POST /logout`.
pub(crate) async fn log_out(State(app): State<Arc<App>>, posted: Posted) -> Response {
    lock(&app.sessions).end(posted.signed.key);
    let mut response = Redirect::to("/login").into_response();
    set_cookie(&mut response, COOKIE, "", "; Max-Age=0");
    response
}
