//! Against a real HTTP server and a real, small SMTP server, both over TCP, with TLS and without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use reprise_api::{MailSecurity, MailSettings, Webhook};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::policy::tests::alert;
use super::*;

/// Longest wait for what has to come.
const WAIT: Duration = Duration::from_secs(20);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A certificate for `localhost`, and a server's settings with it.
fn certificate() -> (CertificateDer<'static>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let der = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    (der, Arc::new(config))
}

fn over_tls(stream: TcpStream, config: &Arc<ServerConfig>) -> Box<dyn Stream> {
    let connection = rustls::ServerConnection::new(config.clone()).unwrap();
    Box::new(rustls::StreamOwned::new(connection, stream))
}

/// Serves each connection with `serve`, on a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads a request and answers with the next of `answers`, the last one again and again.
fn http(tls: Option<Arc<ServerConfig>>, answers: Vec<&'static str>) -> (SocketAddr, mpsc::Receiver<serde_json::Value>) {
    let (to, from) = mpsc::channel();
    let answers = Mutex::new(answers);
    let address = server(move |stream| {
        let stream: Box<dyn Stream> = match &tls {
            Some(config) => over_tls(stream, config),
            None => Box::new(stream),
        };
        let mut stream = BufReader::new(stream);
        let mut length = 0;
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        assert!(head.starts_with("POST /hook?a=1 HTTP/1.1"), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let answer = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0] }
        };
        write!(stream.get_mut(), "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
        stream.get_mut().flush().unwrap();
        to.send(serde_json::from_slice(&body).unwrap()).unwrap();
    });
    (address, from)
}

/// What an SMTP server was told in one connection.
#[derive(Debug, Default)]
struct Mail {
    hello: String,
    login: Option<String>,
    from: String,
    to: Vec<String>,
    text: String,
    secure: bool,
}

/// Speaks SMTP (RFC 5321) with AUTH PLAIN and STARTTLS as far as a client that sends mail needs it.
fn smtp(security: MailSecurity, config: Arc<ServerConfig>, refuse: bool) -> (SocketAddr, mpsc::Receiver<Mail>) {
    let (to, from) = mpsc::channel();
    let address = server(move |stream| {
        let raw = stream.try_clone().unwrap();
        let stream: Box<dyn Stream> = match security {
            MailSecurity::Tls => over_tls(stream, &config),
            _ => Box::new(stream),
        };
        let mut mail = Mail { secure: security == MailSecurity::Tls, ..Mail::default() };
        let mut stream = BufReader::new(stream);
        let say = |stream: &mut BufReader<Box<dyn Stream>>, text: &str| {
            let _ = write!(stream.get_mut(), "{text}\r\n");
            let _ = stream.get_mut().flush();
        };
        say(&mut stream, "220 localhost ready");
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_owned();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    mail.hello = line;
                    let more = if security == MailSecurity::Starttls && !mail.secure { "250-STARTTLS\r\n" } else { "" };
                    say(&mut stream, &format!("250-localhost\r\n{more}250-8BITMIME\r\n250 AUTH PLAIN"));
                }
                "STARTTLS" => {
                    say(&mut stream, "220 go on");
                    stream = BufReader::new(over_tls(raw.try_clone().unwrap(), &config));
                    mail.secure = true;
                }
                "AUTH" => {
                    mail.login = Some(line);
                    say(&mut stream, "235 welcome");
                }
                "MAIL" => {
                    mail.from = line;
                    say(&mut stream, if refuse { "550 not from you" } else { "250 ok" });
                }
                "RCPT" => {
                    mail.to.push(line);
                    say(&mut stream, "250 ok");
                }
                "DATA" => {
                    say(&mut stream, "354 go on");
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).unwrap();
                        if line == ".\r\n" {
                            break;
                        }
                        mail.text.push_str(&line);
                    }
                    say(&mut stream, "250 taken");
                    to.send(std::mem::take(&mut mail)).unwrap();
                }
                "QUIT" => {
                    say(&mut stream, "221 bye");
                    return;
                }
                _ => say(&mut stream, "500 what?"),
            }
        }
    });
    (address, from)
}

fn notifier(roots: Vec<CertificateDer<'static>>) -> (Notifier, mpsc::Receiver<Failure>) {
    let (to, from) = mpsc::channel();
    let report = move |failure| {
        let _ = to.send(failure);
    };
    (Notifier::trusting(&"lyon".parse().unwrap(), report, roots).unwrap(), from)
}

fn hooks(urls: &[String]) -> NotifySettings {
    NotifySettings { webhooks: urls.iter().map(|url| Webhook { url: url.clone() }).collect(), mail: None }
}

fn mail(address: SocketAddr, security: MailSecurity) -> NotifySettings {
    let mail = MailSettings {
        server: "localhost".into(),
        port: Some(address.port()),
        security,
        user: Some("box".into()),
        password: Some("pass word".into()),
        from: "Box <box@example.com>".into(),
        to: vec!["a@example.com".into(), "b@example.com".into()],
    };
    NotifySettings { webhooks: Vec::new(), mail: Some(mail) }
}

#[test]
fn a_webhook_is_called_once_for_a_change_over_http_and_https() {
    let (root, config) = certificate();
    let (plain, plain_calls) = http(None, vec!["204 No Content"]);
    let (secure, secure_calls) = http(Some(config), vec!["200 OK"]);
    let (notifier, failures) = notifier(vec![root]);
    notifier.settings(hooks(&[
        format!("http://{plain}/hook?a=1"),
        format!("https://localhost:{}/hook?a=1", secure.port()),
    ]));
    notifier.changed(&alert("cache-full"), Change::Begun);
    for calls in [&plain_calls, &secure_calls] {
        let body = calls.recv_timeout(WAIT).unwrap();
        assert_eq!((&body["box"], &body["state"], &body["version"]), (&"lyon".into(), &"begun".into(), &1.into()));
        assert_eq!(body["alert"]["code"], "cache-full");
        assert_eq!(body["text"], "[lyon] CRITICAL: The cache is full. (group pg)");
    }
    // What follows within five minutes waits, and other alerts do not.
    notifier.changed(&alert("cache-full"), Change::Ended);
    notifier.changed(&alert("link-down"), Change::Worse);
    let body = plain_calls.recv_timeout(WAIT).unwrap();
    assert_eq!((&body["alert"]["code"], &body["state"]), (&"link-down".into(), &"worse".into()));
    secure_calls.recv_timeout(WAIT).unwrap();
    assert!(plain_calls.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(failures.try_recv().is_err());
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_not_taken() {
    let (_, config) = certificate();
    let (secure, calls) = http(Some(config), vec!["200 OK"]);
    let (notifier, failures) = notifier(Vec::new());
    notifier.settings(hooks(&[format!("https://localhost:{}/hook?a=1", secure.port())]));
    notifier.changed(&alert("a"), Change::Begun);
    let failure = failures.recv_timeout(WAIT).unwrap();
    assert!(failure.error.contains("TLS") && !failure.gave_up, "{failure:?}");
    assert!(calls.try_recv().is_err());
}

#[test]
fn mail_goes_out_by_every_kind_of_protection_and_a_mail_server_that_refuses_is_told() {
    let (root, config) = certificate();
    for security in [MailSecurity::None, MailSecurity::Starttls, MailSecurity::Tls] {
        let (address, mails) = smtp(security, config.clone(), false);
        let (notifier, failures) = notifier(vec![root.clone()]);
        notifier.settings(mail(address, security));
        notifier.changed(&alert("cache-full"), Change::Begun);
        let mail = mails.recv_timeout(WAIT).unwrap_or_else(|e| panic!("{security:?}: {e}, {:?}", failures.try_recv()));
        assert_eq!(mail.secure, security != MailSecurity::None);
        assert_eq!(mail.hello, "EHLO lyon");
        assert!(mail.login.unwrap().starts_with("AUTH PLAIN "));
        assert!(mail.from.contains("<box@example.com>"), "{}", mail.from);
        assert_eq!(mail.to.len(), 2, "one message, two receivers");
        for part in
            ["Subject: [lyon] CRITICAL: The cache is full. (group pg)", "What to do: Look at the link.", "Date: "]
        {
            assert!(mail.text.contains(part), "no {part:?} in {}", mail.text);
        }
    }
    let (address, _mails) = smtp(MailSecurity::None, config.clone(), true);
    let (refused, failures) = notifier(vec![root]);
    refused.settings(mail(address, MailSecurity::None));
    refused.changed(&alert("cache-full"), Change::Begun);
    let failure = failures.recv_timeout(WAIT).unwrap();
    assert!(failure.error.contains("not from you"), "{failure:?}");
    // STARTTLS is never done without: a server that does not offer it gets nothing.
    let (address, mails) = smtp(MailSecurity::None, config, false);
    refused.settings(mail(address, MailSecurity::Starttls));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let result = runtime.block_on(refused.test()).results.remove(0);
    assert!(result.error.is_some(), "{result:?}");
    assert!(mails.try_recv().is_err());
}

#[test]
fn a_test_tells_everybody_and_says_how_each_went() {
    let (good, calls) = http(None, vec!["200 OK"]);
    let (bad, _bad_calls) = http(None, vec!["500 Internal Server Error"]);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (notifier, failures) = notifier(Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(notifier.test()).results, []);
    let urls = [good, bad, closed].map(|a| format!("http://{a}/hook?a=1"));
    notifier.settings(hooks(&urls));
    let results = runtime.block_on(notifier.test()).results;
    let to: Vec<&str> = results.iter().map(|r| r.to.as_str()).collect();
    assert_eq!(to, urls);
    assert_eq!(results[0].error, None);
    assert_eq!(results[1].error.as_deref(), Some("it answered 500 Internal Server Error"));
    assert!(results[2].error.as_ref().unwrap().contains("connect to"), "{results:?}");
    let body = calls.recv_timeout(WAIT).unwrap();
    assert_eq!((&body["state"], &body["alert"]), (&"test".into(), &serde_json::Value::Null));
    // A test is answered to who asked, and tried once.
    assert!(failures.try_recv().is_err());
}

#[test]
fn a_receiver_that_hangs_holds_up_neither_the_box_nor_the_others() {
    let silent = server(|stream| {
        std::thread::sleep(Duration::from_secs(60));
        drop(stream);
    });
    let (good, calls) = http(None, vec!["200 OK"]);
    let (notifier, _failures) = notifier(Vec::new());
    notifier.settings(hooks(&[format!("http://{silent}/hook?a=1"), format!("http://{good}/hook?a=1")]));
    let begin = Instant::now();
    for n in 0..100 {
        notifier.changed(&alert(&n.to_string()), Change::Begun);
    }
    // A hundred times the time that a receiver has would be minutes.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    let codes: Vec<String> =
        (0..100).map(|_| calls.recv_timeout(WAIT).unwrap()["alert"]["code"].as_str().unwrap().to_owned()).collect();
    let wanted: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(codes, wanted);
}

#[test]
fn a_webhook_that_fails_is_tried_again() {
    let (address, calls) = http(None, vec!["503 Busy", "200 OK"]);
    let (notifier, failures) = notifier(Vec::new());
    notifier.settings(hooks(&[format!("http://{address}/hook?a=1")]));
    notifier.changed(&alert("a"), Change::Begun);
    let first = calls.recv_timeout(WAIT).unwrap();
    let failure = failures.recv_timeout(WAIT).unwrap();
    assert!(failure.error.contains("503") && !failure.gave_up, "{failure:?}");
    // After the first pause of ten seconds.
    assert_eq!(calls.recv_timeout(WAIT).unwrap(), first);
    assert!(failures.try_recv().is_err());
}
