//! Sockets: accept, bound, hand each connection to the router with the address it comes from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::{guard, lock};

/// Connections served at a time over HTTPS; further ones wait in the kernel's queue. A browser holds up to six.
const CONNECTIONS_MAX: usize = 192;
/// Of those, from one address (IPv6: one /64): at most these, so that nobody alone keeps others out. Further ones are
/// closed at once.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;
/// Connections of the redirect at a time.
const REDIRECTS_MAX: usize = 16;
/// Longest time for a TLS handshake, and for the head of a request, also of the next one on a connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// Pause after a failed accept: running out of file descriptors must not turn into a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time for what is under way after a stop was asked for; event streams do not end by themselves.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The connections there may be, shared by all listeners for HTTPS.
#[derive(Clone)]
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS_MAX)), by_address: Arc::default() }
    }
}

/// A place of one address; given back when it goes.
struct Place {
    by_address: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    network: IpAddr,
}

impl Slots {
    fn place(&self, address: IpAddr) -> Option<Place> {
        let network = network_of(address);
        let mut places = lock(&self.by_address);
        let count = places.entry(network).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *count += 1;
        Some(Place { by_address: self.by_address.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = lock(&self.by_address);
        if let Some(count) = places.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                places.remove(&self.network);
            }
        }
    }
}

/// What counts as one address: a host has a whole /64 of IPv6 to itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
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
    slots: Slots,
    stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let mut served = tokio::task::JoinSet::new();
    while let Some((stream, address, slot)) = accept(&listener, &slots.all, &stop).await {
        while served.try_join_next().is_some() {}
        let Some(place) = slots.place(address.ip()) else {
            tracing::debug!(%address, "too many connections of one address");
            continue;
        };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        served.spawn(async move {
            let _held = (slot, place);
            match tokio::time::timeout(HEAD_TIME_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve_connection(stream, router, Peer(address.ip().to_canonical()), stop).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }
    let _ = tokio::time::timeout(STOP_TIME_MAX, async { while served.join_next().await.is_some() {} }).await;
}

/// Sends whoever comes by plain HTTP to HTTPS, until `stop`.
pub(super) async fn redirect(listener: TcpListener, https_port: u16, stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(REDIRECTS_MAX));
    let router = Router::new().fallback(move |request: Request| async move { to_https(&request, https_port) });
    while let Some((stream, address, slot)) = accept(&listener, &slots, &stop).await {
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            let _held = slot;
            serve_connection(stream, router, Peer(address.ip()), stop).await;
        });
    }
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

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &watch::Receiver<bool>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = tokio::select! {
        slot = slots.clone().acquire_owned() => slot.ok()?,
        () = stopped(stop.clone()) => return None,
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((stream, address, slot));
                }
                Err(error) => {
                    tracing::warn!(listener = "web", %error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = stopped(stop.clone()) => return None,
        }
    }
}

pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could ask for a stop is gone, which is a stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    peer: Peer,
    stop: watch::Receiver<bool>,
) {
    let router = router.layer(axum::middleware::from_fn_with_state(peer, add_peer));
    let service = TowerToHyperService::new(router);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_headers(64).max_buf_size(32 << 10);
    let connection = builder.serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(stop) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(STOP_TIME_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "web connection ended");
    }
}

async fn add_peer(
    axum::extract::State(peer): axum::extract::State<Peer>,
    mut request: Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    request.extensions_mut().insert(peer);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_so_many_places_and_no_more() {
        let slots = Slots::default();
        let here: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let mut held: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| slots.place(here).unwrap()).collect();
        assert!(slots.place(here).is_none());
        assert!(slots.place(neighbour).is_none(), "the same /64");
        assert!(slots.place("192.0.2.1".parse().unwrap()).is_some());
        held.pop();
        assert!(slots.place(neighbour).is_some());
        held.clear();
        assert!(lock(&slots.by_address).is_empty());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(network_of(mapped), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
