//! Sockets: accept, bound, hand each connection to the router with its place.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use reprise_api::server::http::{self, HttpLimits};
use reprise_api::strangers::{PlaceLimits, Steady, Strangers};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::guard;

/// Connections over HTTPS of browsers that are not logged in, and as many of those that are and from where somebody was. A
/// browser holds up to six. At the limit somebody else is closed.
const PLACES: PlaceLimits = PlaceLimits { strangers: 128, kept: 128 };
/// Connections of the redirect.
const REDIRECT_PLACES: PlaceLimits = PlaceLimits { strangers: 32, kept: 0 };
/// The login with all that belongs to it takes fewer answers than a connection has for a stranger.
const LIMITS: HttpLimits = HttpLimits {
    head: Duration::from_secs(15),
    head_bytes: 32 << 10,
    answers_to_strangers: 32,
    // Event streams do not end by themselves.
    stop: Duration::from_secs(2),
};

/// The places there are, shared by all listeners for HTTPS.
pub(super) fn places() -> Strangers {
    Strangers::logged("web console", PLACES)
}

/// TLS 1.3 with the box's certificate.
pub(super) fn tls_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("prepare TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("use the certificate of the box")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Serves the console over HTTPS until `stop`.
pub(super) async fn https(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    strangers: Strangers,
    stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut served = JoinSet::new();
    while let Some((stream, _, place)) = http::accept(&listener, &strangers, &stop, "web").await {
        let (acceptor, router, stop, held) = (acceptor.clone(), router.clone(), stop.clone(), place.clone());
        http::attend(&mut served, &place, async move {
            if let Some(stream) = http::handshake(&acceptor, stream, &held).await {
                http::serve(stream, router, Some(held), LIMITS, stop).await;
            }
        });
    }
    http::drain(served, LIMITS.stop).await;
}

/// Sends whoever comes by plain HTTP to HTTPS, until `stop`.
pub(super) async fn redirect(listener: TcpListener, https_port: u16, stop: watch::Receiver<bool>) {
    let strangers = Strangers::logged("web console, plain HTTP", REDIRECT_PLACES);
    let router = Router::new().fallback(move |request: Request| async move { to_https(&request, https_port) });
    let mut served = JoinSet::new();
    while let Some((stream, _, place)) = http::accept(&listener, &strangers, &stop, "web").await {
        let (router, stop, held) = (router.clone(), stop.clone(), place.clone());
        http::attend(&mut served, &place, http::serve(Steady::new(stream), router, Some(held), LIMITS, stop));
    }
    http::drain(served, LIMITS.stop).await;
}

fn to_https(request: &Request, port: u16) -> Response<Body> {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).and_then(guard::host_name);
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let target = host.and_then(|host| HeaderValue::try_from(format!("https://{host}{port}{path}")).ok());
    let mut response = Response::new(Body::empty());
    match target {
        Some(target) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, target);
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    // A browser that kept it would go to a port that the box may not have tomorrow.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
