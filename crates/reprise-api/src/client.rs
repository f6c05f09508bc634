//! Calls a box: over its local socket, or over HTTPS with a token and a pinned certificate.
//!
//! Each call has a connection of its own: commands are rare, and nothing has to be found out about a connection that
//! stood idle.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::command::*;
use crate::error::ApiError;
use crate::event::{Alert, Job};
use crate::route::{Verb, appliance_commands, server_commands, service_commands, verb};
use crate::status::{GroupStatus, PeerStatus, Status, VolumeStatus};

/// Largest answer taken: a full page of journal records or a status with thousands of volumes stays far below.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest time to connect.
const CONNECT_SECS_MAX: u64 = 10;
/// Longest time for an answer; above the server's own limit, so that its word comes first.
const ANSWER_SECS_MAX: u64 = 75;

/// Where a box is.
#[derive(Clone)]
pub enum Target {
    /// Its local socket.
    Socket(PathBuf),
    /// Its HTTPS address.
    Https {
        /// Host name or address.
        host: String,
        /// Port.
        port: u16,
        /// Bearer token.
        token: String,
        /// How its certificate is known.
        trust: Trust,
    },
}

/// How a box's certificate is known.
#[derive(Debug, Clone)]
pub enum Trust {
    /// SHA-256 of the certificate; nothing else about it counts.
    Fingerprint([u8; 32]),
    /// A file of certificate authorities, PEM.
    CaFile(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Https { host, port, .. } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Https { host, port, .. } => write!(f, "https://{host}:{port}"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// A box cannot be called this way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No HTTPS URL.
    #[error("{url:?} is no URL of a box: write https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// No fingerprint.
    #[error("a fingerprint is 64 hexadecimal digits (SHA-256 of the certificate); colons may stand between them")]
    Fingerprint,
}

impl Target {
    /// A box at `https://HOST:PORT`.
    ///
    /// # Errors
    /// The URL is none.
    pub fn https(url: &str, token: String, trust: Trust) -> Result<Self, TargetError> {
        let bad = || TargetError::Url { url: url.chars().take(256).collect() };
        let rest = url.strip_prefix("https://").ok_or_else(bad)?.trim_end_matches('/');
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(bad)?;
                (host, port.strip_prefix(':').unwrap_or("443"))
            }
            None => rest.rsplit_once(':').unwrap_or((rest, "443")),
        };
        let port = port.parse().map_err(|_| bad())?;
        if host.is_empty() || host.contains(['/', '@', '?', '#']) {
            return Err(bad());
        }
        Ok(Self::Https { host: host.to_owned(), port, token, trust })
    }
}

impl Trust {
    /// A fingerprint as people write it.
    ///
    /// # Errors
    /// It is none.
    pub fn fingerprint(text: &str) -> Result<Self, TargetError> {
        let digits: String = text.chars().filter(|c| *c != ':' && !c.is_whitespace()).collect();
        let bytes = hex::decode(digits).map_err(|_| TargetError::Fingerprint)?;
        bytes.try_into().map(Self::Fingerprint).map_err(|_| TargetError::Fingerprint)
    }
}

/// SHA-256 of a certificate: what [`Trust::Fingerprint`] compares.
pub fn certificate_fingerprint(cert: &CertificateDer<'_>) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, cert).as_ref());
    out
}

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The box was reached and said no.
    #[error("{0}")]
    Refused(#[source] ApiError),
    /// The box was not reached.
    #[error("cannot reach the box at {target}")]
    Unreachable {
        /// Where.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS failed; the certificate may not be the pinned one.
    #[error("the box at {target} did not prove who it is")]
    Tls {
        /// Where.
        target: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The settings for TLS cannot be used.
    #[error("prepare TLS")]
    TlsSettings(#[source] io::Error),
    /// The connection broke.
    #[error("talk to the box at {target}")]
    Broken {
        /// Where.
        target: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What answered is no box.
    #[error("the answer of {target} to {route} is not understood (HTTP {status})")]
    NotUnderstood {
        /// Where.
        target: String,
        /// The command.
        route: &'static str,
        /// HTTP status.
        status: u16,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Calls the commands of one box.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
}

macro_rules! client_methods {
    (() $($doc:literal $verb:ident $name:ident $path:literal $right:ident $req:ident => $resp:ident;)*) => {
        impl Client {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// The box refuses or cannot be reached.
                pub async fn $name(&self, request: &$req) -> Result<$resp, ClientError> {
                    self.call(stringify!($name), verb!($verb), $path, request).await
                }
            )*
        }
    };
}
service_commands!(client_methods);
appliance_commands!(client_methods);
server_commands!(client_methods);

impl Client {
    /// A client of the box at `target`. Connects with the first call.
    pub fn new(target: Target) -> Self {
        Self { target }
    }

    /// Where the box is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The Prometheus metrics page.
    ///
    /// # Errors
    /// The box refuses or cannot be reached.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let body = self.exchange("metrics", Verb::Get, crate::route::METRICS_PATH.to_owned(), Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The OpenAPI document, as JSON text.
    ///
    /// # Errors
    /// The box refuses or cannot be reached.
    pub async fn openapi(&self) -> Result<String, ClientError> {
        let body = self.exchange("openapi", Verb::Get, crate::route::OPENAPI_PATH.to_owned(), Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Asks for the preview of an action and confirms it at once.
    ///
    /// # Errors
    /// The box refuses or cannot be reached.
    pub async fn act(&self, action: Action) -> Result<ActionDone, ClientError> {
        let preview = self.action_preview(&PreviewRequest { action }).await?;
        self.action_confirm(&Confirm { token: preview.token }).await
    }

    async fn call<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        route: &'static str,
        verb: Verb,
        path: &str,
        request: &Req,
    ) -> Result<Resp, ClientError> {
        let broken = |source| ClientError::Broken { target: self.target.to_string(), source };
        let (path, body) = match verb {
            Verb::Get => {
                let query = serde_urlencoded::to_string(request).map_err(|e| broken(e.into()))?;
                (if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }, Bytes::new())
            }
            Verb::Post => (path.to_owned(), serde_json::to_vec(request).map_err(|e| broken(e.into()))?.into()),
        };
        let body = self.exchange(route, verb, path, body).await?;
        serde_json::from_slice(&body).map_err(|source| self.not_understood(route, 200, source))
    }

    fn not_understood(&self, route: &'static str, status: u16, source: serde_json::Error) -> ClientError {
        ClientError::NotUnderstood { target: self.target.to_string(), route, status, source }
    }

    async fn exchange(&self, route: &'static str, verb: Verb, path: String, body: Bytes) -> Result<Bytes, ClientError> {
        let unreachable = |source| ClientError::Unreachable { target: self.target.to_string(), source };
        let connect_time = Duration::from_secs(CONNECT_SECS_MAX);
        match &self.target {
            Target::Socket(socket) => {
                let stream = tokio::time::timeout(connect_time, UnixStream::connect(socket)).await;
                let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
                self.talk(route, stream, verb, path, body).await
            }
            Target::Https { host, port, trust, .. } => {
                let config = tls_config(trust).map_err(ClientError::TlsSettings)?;
                let name = ServerName::try_from(host.clone())
                    .map_err(|e| ClientError::TlsSettings(io::Error::new(io::ErrorKind::InvalidInput, e)))?;
                let stream = tokio::time::timeout(connect_time, TcpStream::connect((host.as_str(), *port))).await;
                let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
                let tls = TlsConnector::from(Arc::new(config)).connect(name, stream);
                let tls = tokio::time::timeout(connect_time, tls).await;
                let stream = tls
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(|source| ClientError::Tls { target: self.target.to_string(), source })?;
                self.talk(route, stream, verb, path, body).await
            }
        }
    }

    async fn talk(
        &self,
        route: &'static str,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        verb: Verb,
        path: String,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let broken = |source| ClientError::Broken { target: self.target.to_string(), source };
        let request = self.request(verb, path, body).map_err(|e| broken(e.into()))?;
        let exchange = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            // The connection does its work only while it is polled, and ends with the exchange.
            let connection = tokio::spawn(connection);
            let outcome = async {
                let answer = sender.send_request(request).await?;
                let status = answer.status();
                let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, body))
            }
            .await;
            connection.abort();
            outcome
        };
        let outcome = tokio::time::timeout(Duration::from_secs(ANSWER_SECS_MAX), exchange).await;
        let (status, body) =
            outcome.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())).map_err(broken)?;
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice(&body) {
            Ok(error) => Err(ClientError::Refused(error)),
            Err(source) => Err(self.not_understood(route, status.as_u16(), source)),
        }
    }

    fn request(
        &self,
        verb: Verb,
        path: String,
        body: Bytes,
    ) -> Result<hyper::Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = hyper::Request::builder().method(verb.as_str()).uri(path);
        request = match &self.target {
            Target::Socket(_) => request.header(header::HOST, "localhost"),
            Target::Https { host, port, token, .. } => {
                let host = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                let mut secret = header::HeaderValue::try_from(format!("Bearer {token}"))?;
                secret.set_sensitive(true);
                request.header(header::HOST, host).header(header::AUTHORIZATION, secret)
            }
        };
        if verb == Verb::Post {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body))
    }
}

/// Longest file of certificates of authorities that is read: several times that of an operating system.
const CA_BYTES_MAX: u64 = 4 << 20;

fn tls_config(trust: &Trust) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let config = match trust {
        Trust::Fingerprint(fingerprint) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { fingerprint: *fingerprint, provider }))
            .with_no_client_auth(),
        Trust::CaFile(path) => {
            let mut roots = RootCertStore::empty();
            let text = crate::read_text(path, CA_BYTES_MAX)?;
            for cert in CertificateDer::pem_slice_iter(text.as_bytes()) {
                roots.add(cert.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(config)
}

/// Takes one certificate, known by its fingerprint. Names and dates in it do not count: the box made it for itself, and
/// its clock may be wrong. That the other end holds the key is still proven by the handshake's signature.
#[derive(Debug)]
struct Pinned {
    fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if certificate_fingerprint(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_fingerprints_are_read_and_the_token_is_not_shown() {
        let trust = Trust::fingerprint(&"ab:".repeat(32)).unwrap();
        for (url, shown) in [
            ("https://a.example:8443", "https://a.example:8443"),
            ("https://a.example/", "https://a.example:443"),
            ("https://[::1]:1", "https://[::1]:1"),
        ] {
            let target = Target::https(url, "secret".into(), trust.clone()).unwrap();
            assert_eq!(target.to_string(), shown);
            assert!(!format!("{target:?}").contains("secret"));
        }
        for bad in ["http://a", "https://", "https://a:x", "https://a/b:1", "a:1", "https://[::1"] {
            assert!(Target::https(bad, String::new(), trust.clone()).is_err(), "{bad}");
        }
        for bad in ["", "ab", "zz", &"ab".repeat(33)] {
            assert!(Trust::fingerprint(bad).is_err(), "{bad}");
        }
    }
}
