//! The way to a receiver: names without the C library's resolver, which a static program does not have; webhooks by
//! HTTP, mail by SMTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header;
use hyper_util::rt::TokioIo;
use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use reprise_api::{MailSecurity, MailSettings};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Text;

/// Longest time for one try, from the name to the answer.
pub(super) const TRY_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time to connect to one of several addresses.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(8);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Largest answer of a webhook that is read; what it says beside its status is of no use.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a try needs beside the receiver.
pub(super) struct Reach {
    /// Name of the box.
    pub(super) box_name: String,
    /// Authorities taken beside those of the system.
    pub(super) extra_roots: Vec<CertificateDer<'static>>,
}

/// An `http` or `https` address, in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: String,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let bad = || "the address cannot be used: write https://HOST/PATH".to_owned();
        let uri: hyper::Uri = text.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority = uri.authority().ok_or_else(bad)?.as_str();
        if host.is_empty() || authority.contains('@') {
            return Err(bad());
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Ok(Self { tls, host, port, authority: authority.to_owned(), path })
    }
}

async fn addresses(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    // Read at each try: the network may have other name servers since the last one.
    let resolver = TokioResolver::builder_tokio().map_err(|e| format!("no name server is known: {e}"))?;
    let resolver = resolver.build().map_err(|e| format!("names cannot be asked for: {e}"))?;
    let found = resolver.lookup_ip(host).await.map_err(|e| format!("no address for {host}: {e}"))?;
    let found: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
    if found.is_empty() { Err(format!("{host} has no address")) } else { Ok(found) }
}

impl Reach {
    /// Posts a message to a webhook.
    pub(super) async fn webhook(&self, url: &str, body: Bytes) -> Result<(), String> {
        let url = Url::parse(url)?;
        let mut last = String::new();
        for address in addresses(&url.host).await? {
            let socket = SocketAddr::new(address, url.port);
            match tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect(socket)).await {
                Ok(Ok(stream)) if url.tls => {
                    let name = ServerName::try_from(url.host.clone()).map_err(|e| e.to_string())?;
                    let connector = TlsConnector::from(Arc::new(self.tls()?));
                    let stream =
                        connector.connect(name, stream).await.map_err(|e| format!("TLS with {socket}: {e}"))?;
                    return self.post(stream, &url, body).await;
                }
                Ok(Ok(stream)) => return self.post(stream, &url, body).await,
                Ok(Err(error)) => last = format!("connect to {socket}: {error}"),
                Err(_) => last = format!("connect to {socket}: no answer"),
            }
        }
        Err(last)
    }

    fn tls(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.extra_roots.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    async fn post(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        url: &Url,
        body: Bytes,
    ) -> Result<(), String> {
        let request = hyper::Request::post(&url.path)
            .header(header::HOST, &url.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("reprise/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|e| format!("no answer: {e}"))?;
            let status = answer.status();
            // Read, so that the other side is not cut off; what it says does not count.
            let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
        }
        .await;
        connection.abort();
        answer
    }

    /// Sends a message by mail, one for all receivers.
    pub(super) async fn mail(&self, settings: &MailSettings, text: &Text) -> Result<(), String> {
        let (message, envelope) = self.compose(settings, text)?;
        let port = settings.port.unwrap_or(match settings.security {
            MailSecurity::Tls => 465,
            MailSecurity::Starttls => 587,
            MailSecurity::None => 25,
        });
        let mut last = String::new();
        for address in addresses(&settings.server).await? {
            let tls = match settings.security {
                MailSecurity::Tls => Tls::Wrapper(self.mail_tls(&settings.server)?),
                MailSecurity::Starttls => Tls::Required(self.mail_tls(&settings.server)?),
                MailSecurity::None => Tls::None,
            };
            let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.to_string())
                .port(port)
                .tls(tls)
                .timeout(Some(CONNECT_TIME_MAX))
                .hello_name(ClientId::Domain(self.box_name.clone()));
            if let Some(user) = &settings.user {
                let password = settings.password.clone().unwrap_or_default();
                transport = transport.credentials(Credentials::new(user.clone(), password));
            }
            match transport.build().send_raw(&envelope, &message).await {
                Ok(_) => return Ok(()),
                // The server has spoken: another address of it would say the same.
                Err(error) if error.status().is_some() => return Err(chain(&error)),
                Err(error) => last = format!("{address} port {port}: {}", chain(&error)),
            }
        }
        Err(last)
    }

    fn mail_tls(&self, server: &str) -> Result<TlsParameters, String> {
        let mut parameters = TlsParameters::builder(server.to_owned());
        for root in &self.extra_roots {
            let root = Certificate::from_der(root.to_vec()).map_err(|e| e.to_string())?;
            parameters = parameters.add_root_certificate(root);
        }
        parameters.build_rustls().map_err(|e| chain(&e))
    }

    fn compose(&self, settings: &MailSettings, text: &Text) -> Result<(Vec<u8>, Envelope), String> {
        let mailbox = |a: &String| a.parse::<Mailbox>().map_err(|e| format!("{a} is no mail address: {e}"));
        let id = format!("<{}.{}@{}>", text.sent_unix_ms, text.number, self.box_name);
        let mut message = Message::builder()
            .from(mailbox(&settings.from)?)
            .subject(one_line(&text.subject))
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN);
        for to in &settings.to {
            message = message.to(mailbox(to)?);
        }
        let message = message.body(text.body.clone()).map_err(|e| chain(&e))?;
        let envelope = message.envelope().clone();
        Ok((message.formatted(), envelope))
    }
}

/// Text without line ends and other control characters: a header has one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their source.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_webhooks_are_taken_apart() {
        let url = Url::parse("https://a.example:8443/x/y?z=1").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (true, "a.example", 8443, "/x/y?z=1"));
        let url = Url::parse("http://[2001:db8::1]").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port, url.path.as_str()), (false, "2001:db8::1", 80, "/"));
        for bad in ["", "ftp://a", "a.example", "https://", "https://user@a.example/", "http://a b/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_stays_one_line() {
        assert_eq!(one_line("a\r\nBcc: all@example.com"), "a  Bcc: all@example.com");
    }
}
