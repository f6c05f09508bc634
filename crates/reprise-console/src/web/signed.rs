//! Who is logged in, and forms that prove they came from a page of theirs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use reprise_api::strangers::Place;

use super::form::Form;
use super::guard::{self, BODY_BYTES_MAX};
use super::problem::Problem;
use super::session::{SessionKey, Visitor, same};
use super::{App, lock, page};

/// The cookie of a session. The prefix makes browsers refuse it from any other host, without TLS or for a part of the paths.
pub(crate) const COOKIE: &str = "__Host-reprise";
/// Longest time a body may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// The script asks so for a part of the page that has changed: nobody pressed anything, so the session does not last longer
/// for it.
const REFRESH_HEADER: &str = "x-reprise-refresh";

/// A request of somebody who is logged in.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) app: Arc<App>,
    pub(crate) key: SessionKey,
    pub(crate) csrf: String,
    /// A message that the page before left.
    pub(crate) flash: Option<String>,
    /// What the browser calls this box, without the port.
    pub(crate) host: String,
    /// The path of this page.
    pub(crate) path: String,
    /// The address of the browser.
    pub(crate) address: String,
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let cookies =
        headers.get_all(header::COOKIE).into_iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    let mut values = cookies.filter_map(|c| c.trim().split_once('=')).filter(|(n, _)| *n == name).map(|(_, v)| v);
    values.next().filter(|v| v.len() == 64)
}

/// The address a request came from.
pub(crate) fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Arc<Place>>().map(|place| place.address())
}

/// Whose request it is, as the list of sessions has it.
pub(crate) fn visitor(address: String, headers: &HeaderMap) -> Visitor {
    let browser = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    Visitor::new(address, browser)
}

impl FromRequestParts<Arc<App>> for Signed {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response> {
        let refresh = parts.headers.contains_key(REFRESH_HEADER);
        let address = peer(parts).map(|p| p.to_string()).unwrap_or_default();
        let find =
            |touch| cookie(&parts.headers, COOKIE).and_then(|c| lock(&app.sessions).find(Instant::now(), c, touch));
        let mut found = find(None);
        if found.is_some() {
            // The password may have changed since: at the serial console, on the command line, in another browser.
            app.end_stale_sessions().await;
            found = find((!refresh).then(|| visitor(address.clone(), &parts.headers)));
        }
        let Some(found) = found else {
            return Err(log_in(&parts.method, parts.uri.path_and_query().map_or("/", |p| p.as_str())));
        };
        if let Some(place) = parts.extensions.get::<Arc<Place>>() {
            place.settle();
        }
        let shows_page = parts.method == Method::GET && !refresh && parts.uri.path() != "/live";
        let flash = if shows_page { lock(&app.sessions).take_message(found.key) } else { None };
        let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).and_then(guard::host_name);
        Ok(Self {
            app: app.clone(),
            key: found.key,
            csrf: found.csrf,
            flash,
            host: host.unwrap_or_default().to_owned(),
            path: parts.uri.path().to_owned(),
            address,
        })
    }
}

/// Sends somebody who is not logged in to the login. What a form wanted is not done, and not repeated after it.
fn log_in(method: &Method, path: &str) -> Response {
    if *method != Method::GET {
        return page::message(
            StatusCode::UNAUTHORIZED,
            "Not logged in",
            "You are not logged in, or the login has expired. Nothing was changed.",
            "Log in, then do it again.",
        );
    }
    if path == "/" {
        return Redirect::to("/login").into_response();
    }
    let next = serde_urlencoded::to_string([("next", path)]).unwrap_or_default();
    Redirect::to(&format!("/login?{next}")).into_response()
}

impl Signed {
    /// Sends the browser to a page, which shows the message.
    pub(crate) fn done(&self, path: &str, message: &str) -> Response {
        lock(&self.app.sessions).tell(self.key, message);
        Redirect::to(path).into_response()
    }
}

/// A form of somebody who is logged in, from a page that was made for this session.
pub(crate) struct Posted {
    pub(crate) signed: Signed,
    pub(crate) form: Form,
}

impl FromRequest<Arc<App>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let signed = Signed::from_request_parts(&mut parts, app).await?;
        let form = read_form(Request::from_parts(parts, body)).await.map_err(IntoResponse::into_response)?;
        if !same(form.raw("csrf"), &signed.csrf) {
            return Err(page::message(
                StatusCode::FORBIDDEN,
                "Refused",
                "This form is from another login. Nothing was changed.",
                "Load the page again, then do it again.",
            ));
        }
        Ok(Self { signed, form })
    }
}

/// Reads the form of a request, within its limits.
pub(crate) async fn read_form(request: Request) -> Result<Form, Response> {
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|t| t.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if !is_form {
        return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response());
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX);
    match tokio::time::timeout(BODY_TIME_MAX, body).await {
        Ok(Ok(body)) => Form::parse(&body).map_err(Problem::into_response),
        Ok(Err(_)) => Err(page::message(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Too large",
            "The form is larger than any form of this box, or was cut.",
            "Go back and write less.",
        )),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
    }
}
