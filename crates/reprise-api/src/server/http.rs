//! A connection of a listener for HTTP, from the accept to its end: for the API, the metrics and the web console.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::strangers::{Place, Steady, Strangers};

/// Pause after a failed accept: running out of file descriptors must not turn into a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for the first byte of a TLS handshake, and then for all of it.
const TLS_TIME: Duration = Duration::from_secs(5);

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct HttpLimits {
    /// Longest time for the head of a request, also of the next one on a connection.
    pub head: Duration,
    /// Bytes of a head.
    pub head_bytes: usize,
    /// Answers to a caller that has not shown who it is; then the connection is closed. 0 for no limit.
    pub answers_to_strangers: u32,
    /// Longest time for what is under way after a stop was asked for.
    pub stop: Duration,
}

/// Ends when a stop is asked for.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could ask for a stop is gone, which is a stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The next connection, with its place; none once a stop is asked for.
pub async fn accept(
    listener: &TcpListener,
    strangers: &Strangers,
    stop: &watch::Receiver<bool>,
    what: &'static str,
) -> Option<(TcpStream, SocketAddr, Arc<Place>)> {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    return Some((stream, address, Arc::new(strangers.enter(address.ip(), false))));
                }
                Err(error) => accept_failed(what, &error).await,
            },
            () = stopped(stop.clone()) => return None,
        }
    }
}

pub(super) async fn accept_failed(what: &'static str, error: &io::Error) {
    tracing::warn!(listener = what, %error, "accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Serves a connection as `work` says, as long as it has its place.
pub fn attend(served: &mut JoinSet<()>, place: &Place, work: impl Future<Output = ()> + Send + 'static) {
    while served.try_join_next().is_some() {}
    let (address, pushed_out) = (place.address(), place.pushed_out());
    served.spawn(async move {
        tokio::select! {
            () = work => {}
            () = pushed_out => tracing::debug!(%address, "closed to let others in"),
        }
    });
}

/// Waits for the connections that are served, not longer than this; says whether all have ended.
pub async fn drain(mut served: JoinSet<()>, time: Duration) -> bool {
    tokio::time::timeout(time, async { while served.join_next().await.is_some() {} }).await.is_ok()
}

/// The TLS handshake; none, with a line at the level of debugging, where it fails.
pub async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    place: &Place,
) -> Option<TlsStream<Steady<TcpStream>>> {
    let address = place.address();
    match tokio::time::timeout(TLS_TIME, stream.peek(&mut [0])).await {
        Ok(Ok(1..)) => place.heard(),
        _ => return None,
    }
    match tokio::time::timeout(TLS_TIME, acceptor.accept(Steady::new(stream))).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
    }
    None
}

/// Serves the requests of a connection. Each has its [`Place`], if there is one, among its extensions as an `Arc`.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    place: Option<Arc<Place>>,
    limits: HttpLimits,
    stop: watch::Receiver<bool>,
) {
    let router = match place {
        Some(place) => {
            let visit = Visit { place, answers: Arc::default(), limit: limits.answers_to_strangers };
            router.layer(axum::middleware::from_fn_with_state(visit, watch_over))
        }
        None => router,
    };
    let service = TowerToHyperService::new(router);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_headers(64).max_buf_size(limits.head_bytes);
    let connection = builder.serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(stop) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(limits.stop, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

#[derive(Clone)]
struct Visit {
    place: Arc<Place>,
    answers: Arc<AtomicU32>,
    limit: u32,
}

async fn watch_over(State(visit): State<Visit>, mut request: Request, next: Next) -> Response {
    visit.place.heard();
    request.extensions_mut().insert(visit.place.clone());
    let mut response = next.run(request).await;
    if !visit.place.is_settled() {
        let answers = visit.answers.fetch_add(1, Ordering::Relaxed) + 1;
        if visit.limit > 0 && answers >= visit.limit {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}
