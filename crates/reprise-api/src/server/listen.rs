//! Sockets: accept, bound, hand each connection to the router with its caller.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::BoxService;
use super::handler::{Caller, router};

/// Connections served at a time, per listener. Further ones wait in the kernel's queue, so that a flood at one listener
/// takes nothing from the others.
const CONNECTIONS_MAX: usize = 64;
/// Longest time for a TLS handshake, and for the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept: running out of file descriptors must not turn into a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest time to end the requests under way after a stop was asked for.
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

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
                accept_failed("local socket", &error).await;
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
        tokio::spawn(serve_connection(stream, router.clone(), caller, slot, stop.clone()));
    }
    drain(slots).await;
}

/// Serves the API over HTTPS until `stop` is true or its sender is gone.
pub async fn serve_https<S: BoxService>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<S>,
    stop: watch::Receiver<bool>,
) {
    let router = router(service);
    let acceptor = TlsAcceptor::from(tls);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some((stream, address, slot)) = accept_tcp(&listener, &slots, &stop, "https").await {
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HEAD_TIME_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => serve_connection(stream, router, Caller::Remote(address), slot, stop).await,
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        });
    }
    drain(slots).await;
}

/// Serves `/metrics` and nothing else over plain HTTP until `stop` is true or its sender is gone.
pub async fn serve_metrics<S: BoxService>(listener: TcpListener, service: Arc<S>, stop: watch::Receiver<bool>) {
    let router = router(service);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Some((stream, address, slot)) = accept_tcp(&listener, &slots, &stop, "metrics").await {
        tokio::spawn(serve_connection(stream, router.clone(), Caller::Metrics(address), slot, stop.clone()));
    }
    drain(slots).await;
}

async fn accept_tcp(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
    stop: &watch::Receiver<bool>,
    what: &'static str,
) -> Option<(tokio::net::TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = take_slot(slots, stop).await?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => return Some((stream, address, slot)),
                Err(error) => accept_failed(what, &error).await,
            },
            () = stopped(stop.clone()) => return None,
        }
    }
}

async fn accept_failed(what: &'static str, error: &io::Error) {
    tracing::warn!(listener = what, %error, "accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn take_slot(slots: &Arc<Semaphore>, stop: &watch::Receiver<bool>) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        slot = slots.clone().acquire_owned() => slot.ok(),
        () = stopped(stop.clone()) => None,
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that whoever could ask for a stop is gone, which is a stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn drain(slots: Arc<Semaphore>) {
    let all = slots.acquire_many(CONNECTIONS_MAX as u32);
    if tokio::time::timeout(STOP_TIME_MAX, all).await.is_err() {
        tracing::info!("stopping while API requests are under way");
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    caller: Caller,
    _slot: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    let router = router.layer(axum::middleware::from_fn_with_state(caller, add_caller));
    let service = TowerToHyperService::new(router);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX).max_headers(64).max_buf_size(64 << 10);
    let connection = builder.serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "API connection ended");
    }
}

async fn add_caller(
    axum::extract::State(caller): axum::extract::State<Caller>,
    mut request: Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    request.extensions_mut().insert(caller);
    next.run(request).await
}
