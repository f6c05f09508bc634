//! The console in a browser: HTTPS, pages made on the server, live figures by server-sent events.
//!
//! It is a process of its own and a client of the API over the box's local socket; what it shows it asks for, what it does
//! the box does. It holds no state but sessions, a bounded history of figures, and the pairing code on show: all of it may be
//! lost at any time, and a browser notices no more than a new login.
//!
//! Who calls is decided in `guard` (origin, headers) and `signed` (session, form token), before a handler sees anything.
//! Handlers get a form only by way of `signed::Posted`, so that none can forget the check. Every page works without the
//! script; with it, figures move.

mod assets;
mod chart;
mod confirm;
mod figures;
mod form;
mod guard;
mod history;
mod listen;
mod live;
mod page;
mod pages;
mod paste;
mod problem;
mod session;
mod signed;
mod ui;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use reprise_api::client::certificate_fingerprint;
use reprise_api::{Client, Nothing, Target};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{RwLock, Semaphore, watch};

pub use session::SessionLimits;

/// Between two looks for the certificate, which the daemon makes at its first start.
const CERTIFICATE_LOOK: Duration = Duration::from_millis(500);
/// Longest file of a certificate or key that is read.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Looks between two lines in the log while there is none.
const CERTIFICATE_LOOKS_PER_LINE: u32 = 20;
/// Passwords checked at a time: each costs the box a hash that is slow on purpose.
const LOGINS_AT_A_TIME: usize = 2;

/// Where the console listens, and whose console it is.
#[derive(Debug, Clone)]
pub struct WebConfig {
    /// Addresses for HTTPS.
    pub listen_https: Vec<SocketAddr>,
    /// Address for plain HTTP, which only sends browsers to HTTPS; none if absent.
    pub listen_http: Option<SocketAddr>,
    /// The local API socket of the box.
    pub api_socket: PathBuf,
    /// The certificate of the box, PEM. Waited for.
    pub cert: PathBuf,
    /// Its key, PEM. Waited for.
    pub key: PathBuf,
    /// How long a login holds.
    pub sessions: SessionLimits,
}

/// The console, listening and not yet serving.
#[derive(Debug)]
pub struct Console {
    config: WebConfig,
    https: Vec<TcpListener>,
    http: Option<TcpListener>,
}

/// What every request may need.
pub(crate) struct App {
    pub(crate) client: Client,
    pub(crate) sessions: Mutex<session::Sessions>,
    /// Held to write while a session changes the password, so that it is not ended before it has the new generation.
    pub(crate) generation: RwLock<()>,
    pub(crate) live: live::Live,
    pub(crate) pairing: Mutex<pages::pairing::Memory>,
    pub(crate) logins: Semaphore,
    /// SHA-256 of the certificate, hexadecimal.
    pub(crate) fingerprint: String,
}

impl App {
    /// Ends the sessions of generations of the password that are over. While the box cannot be asked they stay: nothing
    /// can be done then either, and at the first answer they end.
    pub(crate) async fn end_stale_sessions(&self) {
        let _turn = self.generation.read().await;
        let mut over = lock(&self.sessions).generations();
        if over.is_empty() {
            return;
        }
        if let Some(Ok(status)) = live::in_time(self.client.admin_status(&Nothing {})).await {
            over.remove(&status.generation);
            lock(&self.sessions).end_generations(&over);
        }
    }
}

/// A poisoned lock guards data that is whole: every change under these locks is one assignment or one call of a collection.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the console until `stop` is true or its sender is gone.
///
/// # Errors
/// An address cannot be listened on, or the certificate cannot be used.
pub async fn serve(config: WebConfig, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    Console::bind(config).await?.run(stop).await
}

impl Console {
    /// Takes the addresses.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub async fn bind(config: WebConfig) -> anyhow::Result<Self> {
        let mut https = Vec::new();
        for address in &config.listen_https {
            https.push(TcpListener::bind(address).await.with_context(|| format!("listen for HTTPS on {address}"))?);
        }
        let http = match &config.listen_http {
            Some(address) => {
                Some(TcpListener::bind(address).await.with_context(|| format!("listen for HTTP on {address}"))?)
            }
            None => None,
        };
        Ok(Self { config, https, http })
    }

    /// The addresses it has for HTTPS, with the real ports.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn https_addresses(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.https.iter().map(TcpListener::local_addr).collect()
    }

    /// The address it has for HTTP, with the real port.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn http_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.http.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Serves until `stop` is true or its sender is gone.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub async fn run(self, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let Self { config, https, http } = self;
        let mut tasks = Vec::new();
        if let Some(listener) = http {
            let port = https.first().and_then(|l| l.local_addr().ok()).map_or(443, |a| a.port());
            tasks.push(tokio::spawn(listen::redirect(listener, port, stop.clone())));
        }
        let Some((chain, key)) = certificate(&config.cert, &config.key, stop.clone()).await? else {
            return Ok(());
        };
        let fingerprint = chain.first().map(|c| hex::encode(certificate_fingerprint(c))).unwrap_or_default();
        let tls = Arc::new(listen::tls_config(chain, key)?);
        let client = Client::new(Target::Socket(config.api_socket.clone()));
        let app = Arc::new(App {
            live: live::Live::default(),
            client,
            sessions: Mutex::new(session::Sessions::new(config.sessions)),
            generation: RwLock::default(),
            pairing: Mutex::default(),
            logins: Semaphore::new(LOGINS_AT_A_TIME),
            fingerprint,
        });
        tasks.push(tokio::spawn(live::watch_box(app.clone(), stop.clone())));
        let addresses: Vec<_> = https.iter().filter_map(|l| l.local_addr().ok()).collect();
        let places = listen::places();
        for listener in https {
            tasks.push(tokio::spawn(listen::https(
                listener,
                tls.clone(),
                pages::router(app.clone()),
                places.clone(),
                stop.clone(),
            )));
        }
        tracing::info!(?addresses, fingerprint = %app.fingerprint, "web console serves");
        for task in tasks {
            task.await.context("a task of the web console ended")?;
        }
        Ok(())
    }
}

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The box's certificate, once it is there; none if a stop comes first.
async fn certificate(cert: &Path, key: &Path, mut stop: watch::Receiver<bool>) -> anyhow::Result<Option<Certificate>> {
    let mut looks = 0;
    while !(cert.is_file() && key.is_file()) {
        if looks % CERTIFICATE_LOOKS_PER_LINE == 0 {
            tracing::info!(cert = %cert.display(), "waiting for the certificate of the box");
        }
        looks += 1;
        tokio::select! {
            () = tokio::time::sleep(CERTIFICATE_LOOK) => {}
            // An error means that whoever could ask for a stop is gone, which is a stop.
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
    let read = |path: &Path| reprise_api::read_text(path, PEM_BYTES_MAX);
    let chain = read(cert).with_context(|| format!("read the certificate {}", cert.display()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let chain = chain.with_context(|| format!("understand the certificate {}", cert.display()))?;
    let text = read(key).with_context(|| format!("read the key {}", key.display()))?;
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
    let key = key.with_context(|| format!("understand the key of {}", cert.display()))?;
    Ok(Some((chain, key)))
}
