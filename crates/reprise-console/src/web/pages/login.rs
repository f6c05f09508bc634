//! The first password, and the login.
//!
//! Both pages are the same for everybody, whether or not the box has a password: a stranger learns nothing of it. The first
//! password needs the code that the box shows to whoever is at it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use reprise_api::{AdminStatus, ErrorCode, Login, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, PasswordSet};
use serde::Deserialize;

use crate::web::form::Form;
use crate::web::guard::local_path;
use crate::web::problem::Problem;
use crate::web::session::{Visitor, same, secret};
use crate::web::signed::{COOKIE, Posted, Signed, cookie, peer, read_form, visitor};
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

/// Which of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    LogIn,
    First,
}

/// `GET /login`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Query(query): Query<Next>,
    request: Request,
) -> Result<Response, Problem> {
    show_form(&app, Which::LogIn, &query, request).await
}

/// `GET /login/first`.
pub(crate) async fn show_first(
    State(app): State<Arc<App>>,
    Query(query): Query<Next>,
    request: Request,
) -> Result<Response, Problem> {
    show_form(&app, Which::First, &query, request).await
}

async fn show_form(app: &Arc<App>, which: Which, query: &Next, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let next = local_path(&query.next).unwrap_or("/").to_owned();
    if Signed::from_request_parts(&mut parts, app).await.is_ok() {
        return Ok(Redirect::to(&next).into_response());
    }
    form_page(app, which, &parts.headers, &next, None)
}

fn form_page(
    app: &App,
    which: Which,
    headers: &HeaderMap,
    next: &str,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    let first = which == Which::First;
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
        @if first {
            p { "The first password of a box, also after a reset of its settings, needs the code that its serial console \
                 and its screen show. On a Linux of your own: " code { "reprise password code" } "." }
            p { "Your browser warns about the certificate of the box, since the box made it itself. Compare it with the \
                 fingerprint on the serial console or on the screen of the box before you type a password:" }
            p { code class="fingerprint" { (units::fingerprint(&app.fingerprint)) } }
        }
        form method="post" action=(if first { "/login/first" } else { "/login" }) {
            input type="hidden" name="form" value=(token);
            input type="hidden" name="next" value=(next);
            @if first {
                (fields.text(Text {
                    name: "code", label: "Code", required: true, autocomplete: "one-time-code",
                    hint: "Nine letters and digits, such as 4F7-K2M-9TX. Small or capital does not matter.",
                    ..Text::default()
                }))
                (new_password_fields(&fields))
                button type="submit" { "Set the password and log in" }
            } @else {
                // Password keepers want a name to keep the password by.
                input class="hidden" type="text" name="user" value="admin" autocomplete="username" tabindex="-1"
                    aria-hidden="true" readonly;
                (fields.text(Text {
                    name: "password", label: "Password", kind: "password", required: true,
                    autocomplete: "current-password", ..Text::default()
                }))
                button type="submit" { "Log in" }
            }
        }
        @if first {
            p class="quiet" { a href="/login" { "Log in" } " with a password that is set." }
        } @else {
            p class="quiet" {
                "A new box, or one whose settings were reset? " a href="/login/first" { "Set its first password" } "."
            }
            p class="quiet" { "Forgotten? On the serial console or the screen of the box it can be set again." }
        }
    };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let title = if first { "Set the first password" } else { "Log in" };
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

/// Begins a session and goes on. `status`: as the box gave it to this login.
fn begin(app: &App, next: &str, status: &AdminStatus, visitor: Visitor) -> Result<Response, Problem> {
    let session = lock(&app.sessions).begin(Instant::now(), &status.generation, visitor)?;
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
        return form_page(&app, Which::LogIn, &headers, &next, Some(&problem));
    }
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN_TIME_MAX, app.logins.acquire()).await else {
        let problem = Problem::input("Too many people are logging in at this moment. Try again.");
        return form_page(&app, Which::LogIn, &headers, &next, Some(&problem));
    };
    match app.client.admin_login(&Login { password, from: from.clone() }).await {
        Ok(status) => {
            tracing::info!(%from, "logged in");
            begin(&app, &next, &status, visitor(from, &headers))
        }
        Err(error) => {
            let problem = Problem::from(error);
            if problem.is_away() {
                return Err(problem);
            }
            tracing::info!(%from, code = problem.code().map_or("none", ErrorCode::as_str), "login refused");
            form_page(&app, Which::LogIn, &headers, &next, Some(&problem))
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
        Err(problem) => return form_page(&app, Which::First, &headers, &next, Some(&problem)),
    };
    let code = Some(form.raw("code").to_owned());
    if form.raw("code").trim().is_empty() {
        let problem = Problem::field("code", "The code is missing.");
        return form_page(&app, Which::First, &headers, &next, Some(&problem));
    }
    let set = PasswordSet { current: None, code, new, from: Some(from.clone()) };
    match app.client.admin_password(&set).await {
        Ok(status) => {
            tracing::info!(%from, "first password set");
            lock(&app.sessions).end_all();
            begin(&app, &next, &status, visitor(from, &headers))
        }
        Err(error) => {
            let problem = Problem::from(error);
            if problem.is_away() {
                return Err(problem);
            }
            tracing::info!(%from, code = problem.code().map_or("none", ErrorCode::as_str), "first password refused");
            form_page(&app, Which::First, &headers, &next, Some(&problem))
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
