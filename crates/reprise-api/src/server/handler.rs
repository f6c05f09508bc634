//! One request: who calls, may they, what do they want, what came of it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::confirm::{Confirmations, TOKEN_SECS};
use super::number::whole_numbers;
use super::{Appliance, BoxService, Consequences};
use crate::command::*;
use crate::error::{ApiError, ErrorCode};
use crate::metrics;
use crate::openapi;
use crate::route::{METRICS_PATH, OPENAPI_PATH, Rights, Route, Verb, appliance_commands, route, service_commands};
use crate::strangers::Place;

/// Largest request body. The largest real one holds two names, a path and a size.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest time a command may take; whatever lasts longer is a job. Pairing is the longest: it waits for the other box.
pub const COMMAND_SECS_MAX: u64 = 60;
/// Longest time a body may take to arrive; bodies fit into one packet or a few.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// Log target of the audit lines.
pub const AUDIT_TARGET: &str = "audit";

/// Who calls, as far as the connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this box, by its user id.
    Local {
        /// As the kernel reports it.
        uid: u32,
        /// The daemon's own user id, which has the same rights as root.
        own_uid: u32,
    },
    /// Somebody over HTTPS; a token says who.
    Remote(SocketAddr),
    /// Somebody at the metrics port.
    Metrics(SocketAddr),
}

struct Shared<S> {
    service: Arc<S>,
    confirmations: Mutex<Confirmations>,
}

/// A caller with rights, and the name the audit line has for it.
struct Known {
    who: String,
    rights: Rights,
    /// On the box itself, and not over a network.
    at_the_box: bool,
}

fn itself<S: BoxService>(service: &S) -> &S {
    service
}

fn machine<S: BoxService>(service: &S) -> &S::Machine {
    service.machine()
}

/// The router of a box's API. Each request needs a [`Caller`] among its extensions; without one it is refused.
pub fn router<S: BoxService>(service: Arc<S>) -> Router {
    let shared = Arc::new(Shared { service, confirmations: Mutex::default() });
    let mut router = Router::new();
    macro_rules! add_routes {
        (($of:ident) $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
            $(router = router.route($path, $verb(|State(shared): State<Arc<Shared<S>>>, request: Request| async move {
                match admit::<S, $req>(&shared.service, stringify!($name), request).await {
                    Ok((route, known, request)) => {
                        let subject = request.subject();
                        finish(route, &known, &subject, $of(&*shared.service).$name(request)).await
                    }
                    Err(refusal) => refusal,
                }
            }));)*
        };
    }
    service_commands!(add_routes itself);
    appliance_commands!(add_routes machine);
    router
        .route("/api/v1/actions/preview", post(preview::<S>))
        .route("/api/v1/actions/confirm", post(confirm::<S>))
        .route(OPENAPI_PATH, get(openapi_document::<S>))
        .route(METRICS_PATH, get(metrics_page::<S>))
        .fallback(|| async {
            refuse(&ApiError::new(ErrorCode::NotFound, "there is no such path", "see /api/v1/openapi.json"))
        })
        .method_not_allowed_fallback(|| async {
            let error = ApiError::new(ErrorCode::BadRequest, "the path has no such method", "see /api/v1/openapi.json");
            (StatusCode::METHOD_NOT_ALLOWED, json_body(&error)).into_response()
        })
        .with_state(shared)
}

async fn preview<S: BoxService>(State(shared): State<Arc<Shared<S>>>, request: Request) -> Response {
    let (route, known, r) = match admit::<S, PreviewRequest>(&shared.service, "action_preview", request).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    let subject = r.subject();
    let command = async {
        let Consequences { summary, losses, basis } = shared.service.action_describe(&r.action).await?;
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|_| ApiError::internal("the box has no random numbers"))?;
        let token = hex::encode(random);
        let mut pending = shared.confirmations.lock().unwrap_or_else(PoisonError::into_inner);
        pending.issue(Instant::now(), token.clone(), known.who.clone(), r.action.clone(), basis);
        Ok(Preview { action: r.action, summary, losses, token, expires_in_secs: TOKEN_SECS })
    };
    finish(route, &known, &subject, command).await
}

async fn confirm<S: BoxService>(State(shared): State<Arc<Shared<S>>>, request: Request) -> Response {
    let (route, known, r) = match admit::<S, Confirm>(&shared.service, "action_confirm", request).await {
        Ok(admitted) => admitted,
        Err(refusal) => return refusal,
    };
    let redeemed = {
        let mut pending = shared.confirmations.lock().unwrap_or_else(PoisonError::into_inner);
        pending.redeem(Instant::now(), &r.token, &known.who)
    };
    let subject = redeemed.as_ref().map(|(action, _)| action.subject()).unwrap_or_default();
    let command = async {
        let (action, basis) = redeemed?;
        if shared.service.action_describe(&action).await?.basis != basis {
            return Err(ApiError::new(
                ErrorCode::ConfirmationStale,
                format!("{}: what the preview said is no longer true", action.subject()),
                "ask for the preview again and read it",
            ));
        }
        shared.service.action_execute(&action).await
    };
    finish(route, &known, &subject, command).await
}

async fn openapi_document<S: BoxService>(State(shared): State<Arc<Shared<S>>>, request: Request) -> Response {
    let claim = Claim::of(&request);
    drop(request);
    match identify(&*shared.service, &claim).await.and_then(|k| allow(&k, Rights::ReadOnly)) {
        Ok(()) => json_body(&openapi::document()).into_response(),
        Err(error) => refuse(&error),
    }
}

async fn metrics_page<S: BoxService>(State(shared): State<Arc<Shared<S>>>, request: Request) -> Response {
    let claim = Claim::of(&request);
    drop(request);
    if !matches!(claim.caller, Some(Caller::Metrics(_)))
        && let Err(error) = identify(&*shared.service, &claim).await.and_then(|k| allow(&k, Rights::ReadOnly))
    {
        return refuse(&error);
    }
    let status = tokio::time::timeout(Duration::from_secs(COMMAND_SECS_MAX), shared.service.status(Nothing {})).await;
    match status {
        Ok(Ok(status)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&status)).into_response(),
        Ok(Err(error)) => refuse(&error),
        Err(_) => refuse(&timed_out()),
    }
}

/// What a request says about its caller, without the body, which may not be shared between threads.
struct Claim {
    caller: Option<Caller>,
    token: Option<String>,
    /// Of a caller from the network.
    place: Option<Arc<Place>>,
}

impl Claim {
    fn of(request: &Request) -> Self {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = header.and_then(|v| v.strip_prefix("Bearer ")).map(|t| t.trim().to_owned());
        let extensions = request.extensions();
        Self { caller: extensions.get().cloned(), token, place: extensions.get().cloned() }
    }
}

async fn identify<S: BoxService>(service: &S, claim: &Claim) -> Result<Known, ApiError> {
    match &claim.caller {
        Some(Caller::Local { uid, own_uid }) if *uid == 0 || uid == own_uid => {
            Ok(Known { who: format!("uid {uid}"), rights: Rights::Admin, at_the_box: true })
        }
        Some(Caller::Local { uid, .. }) => Err(ApiError::new(
            ErrorCode::Forbidden,
            format!("user {uid} may not use this socket"),
            "run the command as root or as the user the box runs as",
        )),
        Some(Caller::Remote(_)) => {
            let known = match &claim.token {
                Some(token) => service.machine().authenticate(token).await,
                None => None,
            };
            if known.is_some() {
                claim.place.iter().for_each(|place| place.settle());
            }
            known.map(|(id, rights)| Known { who: format!("token {id}"), rights, at_the_box: false }).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::Unauthorized,
                    "no token, or one this box does not know",
                    "make one on the box: reprise token create",
                )
            })
        }
        Some(Caller::Metrics(_)) | None => {
            Err(ApiError::new(ErrorCode::Forbidden, "only /metrics is served here", "use the API's own address"))
        }
    }
}

fn allow(known: &Known, right: Rights) -> Result<(), ApiError> {
    if known.rights >= right {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::Forbidden,
        format!("{} has the right {}, the command needs {right}", known.who, known.rights),
        "use a token with that right",
    ))
}

/// The right that a route needs, and the place.
fn allow_route(known: &Known, route: &Route) -> Result<(), ApiError> {
    allow(known, route.right)?;
    if route.is_at_the_box() && !known.at_the_box {
        return Err(ApiError::new(
            ErrorCode::Forbidden,
            "this is for whoever is at the box itself, whatever the token",
            "use the serial console or the screen of the box; on a Linux of your own, reprise on it",
        ));
    }
    Ok(())
}

/// Who calls, whether they may, and what they want; or the refusal.
async fn admit<S: BoxService, Req: DeserializeOwned>(
    service: &S,
    name: &'static str,
    request: Request,
) -> Result<(&'static Route, Known, Req), Response> {
    let Some(route) = route(name) else {
        return Err(refuse(&ApiError::internal("the command is not in the table")));
    };
    let claim = Claim::of(&request);
    let known = match identify(service, &claim).await {
        Ok(known) => known,
        Err(error) => {
            let (caller, what, code) = (&claim.caller, route.name, error.code);
            if let Some(left_out) = claim.place.as_ref().map_or(Some(0), |place| place.line("refused")) {
                tracing::warn!(target: AUDIT_TARGET, ?caller, what, %code, left_out, "refused");
            }
            return Err(refuse(&error));
        }
    };
    if let Err(error) = allow_route(&known, route) {
        tracing::warn!(target: AUDIT_TARGET, who = %known.who, what = route.name, code = %error.code, "refused");
        return Err(refuse(&error));
    }
    match read(route, request).await {
        Ok(request) => Ok((route, known, request)),
        Err(error) => {
            tracing::info!(target: AUDIT_TARGET, who = %known.who, what = route.name, code = %error.code, "refused");
            Err(refuse(&error))
        }
    }
}

async fn read<Req: DeserializeOwned>(route: &Route, request: Request) -> Result<Req, ApiError> {
    let unreadable = |why: String| {
        ApiError::new(ErrorCode::BadRequest, format!("{}: {why}", route.name), "see /api/v1/openapi.json")
    };
    match route.verb {
        Verb::Get => serde_urlencoded::from_str(request.uri().query().unwrap_or_default())
            .map_err(|error| unreadable(error.to_string())),
        Verb::Post => {
            let body = tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX));
            let body = body.await.map_err(|_| unreadable("the body did not arrive in time".to_owned()))?;
            let body = body.map_err(|_| {
                let message = format!("{}: the body is larger than {BODY_BYTES_MAX} bytes, or was cut", route.name);
                ApiError::new(ErrorCode::TooLarge, message, "see /api/v1/openapi.json")
            })?;
            // What reads the fields would take them from an array too, one after the other.
            if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
                return Err(unreadable("the body is no JSON object".to_owned()));
            }
            serde_json::from_slice(&body).or_else(|error| {
                let respelled = whole_numbers(&body).and_then(|value| serde_json::from_value(value).ok());
                respelled.ok_or_else(|| unreadable(error.to_string()))
            })
        }
    }
}

/// Carries a command out within the time limit, leaves the audit line and answers.
async fn finish<Resp: Serialize>(
    route: &'static Route,
    known: &Known,
    subject: &str,
    command: impl Future<Output = Result<Resp, ApiError>>,
) -> Response {
    let result = tokio::time::timeout(Duration::from_secs(COMMAND_SECS_MAX), command).await;
    let result = result.unwrap_or_else(|_| Err(timed_out()));
    let (who, what) = (known.who.as_str(), route.name);
    match &result {
        Ok(_) if route.verb == Verb::Get => tracing::trace!(target: AUDIT_TARGET, who, what, subject, "done"),
        Ok(_) => tracing::info!(target: AUDIT_TARGET, who, what, subject, "done"),
        Err(error) => tracing::info!(target: AUDIT_TARGET, who, what, subject, code = %error.code, "refused"),
    }
    match result {
        Ok(answer) => json_body(&answer).into_response(),
        Err(error) => refuse(&error),
    }
}

fn timed_out() -> ApiError {
    ApiError::new(
        ErrorCode::Timeout,
        format!("the command did not end within {COMMAND_SECS_MAX} s"),
        "look at reprise status whether it took effect, then try again",
    )
}

fn json_body(answer: &impl Serialize) -> ([(header::HeaderName, &'static str); 2], Body) {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    // Our types have string keys and no maps that fail; should one ever, the client sees a cut answer, not a wrong one.
    (headers, Body::from(serde_json::to_vec(answer).unwrap_or_default()))
}

fn refuse(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, json_body(error)).into_response()
}
