//! Sockets: accept, bound, hand each connection to the router with its caller.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::BoxService;
use super::handler::{Caller, router};
use super::http::{self, HttpLimits, stopped};
use crate::strangers::{PlaceLimits, Steady, Strangers};

/// Connections served at a time on the local socket. Further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Connections over HTTPS that have not shown a token, and as many from where one was shown and of those that did. At the limit
/// somebody else is closed.
const HTTPS_PLACES: PlaceLimits = PlaceLimits { strangers: 64, kept: 64 };
/// Connections at the metrics port, where nobody shows who it is.
const METRICS_PLACES: PlaceLimits = PlaceLimits { strangers: 64, kept: 0 };
/// Longest time to end the requests under way after a stop was asked for.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
/// A caller with a wrong token has tried it often enough after eight answers.
const LIMITS: HttpLimits =
    HttpLimits { head: Duration::from_secs(10), head_bytes: 64 << 10, answers_to_strangers: 8, stop: STOP_TIME_MAX };

/// A listener could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another daemon answers on the socket.
    #[error("another process serves {path}")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else than a socket is there.
    #[error("{path} exists and is no socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("listen on {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes the local socket, mode 0600. A socket left over from a process that is gone is replaced; one that answers is not.
///
/// # Errors
/// Somebody serves it, something else is there, or the system refuses.
pub fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |source| ListenError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(fail)?;
            }
        }
        Err(error) => return Err(fail(error)),
        Ok(meta) => {
            if !std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) {
                return Err(ListenError::NotASocket { path: path.to_owned() });
            }
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(ListenError::Taken { path: path.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(fail)?;
                }
                Err(error) => return Err(fail(error)),
            }
        }
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Serves the API on the local socket until `stop` is true or its sender is gone.
pub async fn serve_unix<S: BoxService>(listener: UnixListener, service: Arc<S>, stop: watch::Receiver<bool>) {
    let router = router(service);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut served = JoinSet::new();
    let own_uid = nix::unistd::geteuid().as_raw();
    loop {
        let Some(slot) = take_slot(&slots, &stop).await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(stop.clone()) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                http::accept_failed("local socket", &error).await;
                continue;
            }
        };
        let uid = match stream.peer_cred() {
            Ok(cred) => cred.uid(),
            Err(error) => {
                tracing::warn!(%error, "local caller's user id unknown, connection closed");
                continue;
            }
        };
        let caller = Caller::Local { uid, own_uid };
        while served.try_join_next().is_some() {}
        let (router, stop) = (with_caller(&router, caller), stop.clone());
        served.spawn(async move {
            let _slot = slot;
            http::serve(stream, router, None, LIMITS, stop).await;
        });
    }
    drain(served).await;
}

/// Serves the API over HTTPS until `stop` is true or its sender is gone.
pub async fn serve_https<S: BoxService>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<S>,
    stop: watch::Receiver<bool>,
) {
    let strangers = strangers(HTTPS_PLACES, &service, "HTTPS API");
    let router = router(service);
    let acceptor = TlsAcceptor::from(tls);
    let mut served = JoinSet::new();
    while let Some((stream, address, place)) = http::accept(&listener, &strangers, &stop, "https").await {
        let (acceptor, stop, held) = (acceptor.clone(), stop.clone(), place.clone());
        let router = with_caller(&router, Caller::Remote(address));
        http::attend(&mut served, &place, async move {
            if let Some(stream) = http::handshake(&acceptor, stream, &held).await {
                http::serve(stream, router, Some(held), LIMITS, stop).await;
            }
        });
    }
    drain(served).await;
}

/// Serves `/metrics` and nothing else over plain HTTP until `stop` is true or its sender is gone.
pub async fn serve_metrics<S: BoxService>(listener: TcpListener, service: Arc<S>, stop: watch::Receiver<bool>) {
    let strangers = strangers(METRICS_PLACES, &service, "metrics");
    let router = router(service);
    let limits = HttpLimits { answers_to_strangers: 0, ..LIMITS };
    let mut served = JoinSet::new();
    while let Some((stream, address, place)) = http::accept(&listener, &strangers, &stop, "metrics").await {
        let (stop, held) = (stop.clone(), place.clone());
        let router = with_caller(&router, Caller::Metrics(address));
        http::attend(&mut served, &place, http::serve(Steady::new(stream), router, Some(held), limits, stop));
    }
    drain(served).await;
}

fn strangers<S: BoxService>(limits: PlaceLimits, service: &Arc<S>, listener: &'static str) -> Strangers {
    let service = service.clone();
    Strangers::new(limits, Box::new(move |full| service.strangers_full(listener, &full)))
}

async fn take_slot(slots: &Arc<Semaphore>, stop: &watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        slot = slots.clone().acquire_owned() => slot.ok(),
        () = stopped(stop.clone()) => None,
    }
}

async fn drain(served: JoinSet<()>) {
    if !http::drain(served, STOP_TIME_MAX).await {
        tracing::info!("stopping while API requests are under way");
    }
}

fn with_caller(router: &Router, caller: Caller) -> Router {
    router.clone().layer(axum::middleware::from_fn_with_state(caller, add_caller))
}

async fn add_caller(
    axum::extract::State(caller): axum::extract::State<Caller>,
    mut request: Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    request.extensions_mut().insert(caller);
    next.run(request).await
}
