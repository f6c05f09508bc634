//! The server with a scripted service behind it, called over real sockets.
#![allow(clippy::unwrap_used)]

mod scripted;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use reprise_api::client::{Trust, certificate_fingerprint};
use reprise_api::server::{self, BODY_BYTES_MAX};
use reprise_api::*;
use scripted::{ADMIN_TOKEN, READ_TOKEN, Scripted, sample};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;

struct Local {
    service: Arc<Scripted>,
    client: Client,
    socket: std::path::PathBuf,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

fn local() -> Local {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/api.sock");
    let service = Arc::new(Scripted::default());
    let (stop, stopped) = watch::channel(false);
    let listener = server::bind_unix(&socket).unwrap();
    let served = tokio::spawn(server::serve_unix(listener, service.clone(), stopped));
    let client = Client::new(Target::Socket(socket.clone()));
    Local { service, client, socket, stop, served, _dir: dir }
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Err(ClientError::Refused(error)) => {
            assert!(!error.message.is_empty() && !error.what_to_do.is_empty(), "{error:?}");
            error.code
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_command_goes_there_and_back() {
    let l = local();
    let c = &l.client;
    assert_eq!(c.status(&Nothing {}).await.unwrap(), sample());
    assert_eq!(c.group_list(&Nothing {}).await.unwrap().groups, sample().groups);
    assert_eq!(c.group_create(&GroupCreate { name: name("g") }).await.unwrap().name, name("g"));
    let of_mail = VolumeQuery { group: Some(name("mail")) };
    assert_eq!(c.volume_list(&of_mail).await.unwrap().volumes, []);
    assert_eq!(c.volume_list(&VolumeQuery::default()).await.unwrap().volumes.len(), 2);
    assert_eq!(c.volume_show(&ByName { name: name("pg-old") }).await.unwrap().lun, 1);
    assert_eq!(code(c.volume_show(&ByName { name: name("none") }).await), ErrorCode::NotFound);
    let create = VolumeCreate {
        name: name("v"),
        group: name("g"),
        size: "3G".parse().unwrap(),
        thin: true,
        local_only: false,
        block_size: BlockSize::default(),
        read_only: false,
        mirror: None,
    };
    assert_eq!(c.volume_create(&create).await.unwrap().volume.size_bytes, 3 << 30);
    let adopt = VolumeAdopt { name: name("v"), group: name("g"), path: "/dev/x".into(), local_only: true };
    assert!(c.volume_adopt(&adopt).await.unwrap().job.is_none());
    assert_eq!(c.peer_list(&Nothing {}).await.unwrap().peers, sample().peers);
    assert_eq!(c.pair_listen(&PairListen::default()).await.unwrap().expires_in_secs, 600);
    let dial = |code: &str| PairDial { address: "127.0.0.1:1".into(), code: code.into() };
    assert!(matches!(c.pair_dial(&dial("4711-0815")).await.unwrap().state, PairState::Paired { .. }));
    assert!(matches!(c.pair_dial(&dial("1")).await.unwrap().state, PairState::Failed { .. }));
    assert!(matches!(c.pair_status(&Nothing {}).await.unwrap().state, PairState::Listening { .. }));
    assert_eq!(c.pair_cancel(&Nothing {}).await.unwrap().state, PairState::Cancelled);
    let host = "iqn.2026-01.com.example:host";
    let listed = c.initiator_list(&Nothing {}).await.unwrap();
    assert_eq!((listed.initiators[0].name.as_str(), listed.others), (host, false));
    let add: InitiatorAdd = serde_json::from_value(serde_json::json!({ "name": host })).unwrap();
    assert_eq!(c.initiator_add(&add).await.unwrap().initiator.name, add.name);
    let set: InitiatorSet = serde_json::from_value(serde_json::json!({ "name": host, "iops": 0 })).unwrap();
    assert!(c.initiator_set(&set).await.unwrap().warnings.is_empty());
    c.initiator_remove(&InitiatorRef { name: add.name }).await.unwrap();
    let mirror = MirrorOf { group: name("pg"), peer: name("turin") };
    assert_eq!(c.mirror_add(&mirror).await.unwrap().warnings.len(), 1);
    c.mirror_pause(&mirror).await.unwrap();
    c.mirror_resume(&mirror).await.unwrap();
    let events = EventQuery { after: Some(41), limit: Some(10), wait_secs: Some(1) };
    assert_eq!(c.event_list(&events).await.unwrap().next_after, 42);
    assert_eq!(c.alert_list(&AlertQuery { cleared: true }).await.unwrap().alerts, sample().alerts);
    assert!(c.alert_ack(&ById { id: 11 }).await.unwrap().acked);
    assert_eq!(c.job_list(&Nothing {}).await.unwrap().jobs, sample().jobs);
    assert_eq!(c.job_show(&ById { id: 7 }).await.unwrap().id, 7);
    assert_eq!(c.job_cancel(&ById { id: 7 }).await.unwrap().state, JobState::Cancelled);
    assert_eq!(c.token_list(&Nothing {}).await.unwrap().tokens.len(), 1);
    let token = c.token_create(&TokenCreate { label: "x y".into(), rights: Rights::Admin }).await.unwrap();
    assert_eq!(StoredToken::id_in(&token.token), Some(token.info.id.as_str()));
    c.token_revoke(&TokenRef { id: token.info.id }).await.unwrap();
    let page = c.inspect(&InspectQuery { group: name("pg"), from_seq: Some(2500), limit: None }).await.unwrap();
    assert_eq!((page.records.len(), page.next_seq), (5, None));
    assert!(c.metrics().await.unwrap().contains("reprise_lag_seconds{group=\"pg\"} 2.4"));
    assert!(c.openapi().await.unwrap().contains("/api/v1/status"));
}

#[tokio::test]
async fn what_destroys_is_previewed_and_confirmed_once() {
    let l = local();
    let c = &l.client;
    let action = Action::MirrorRemove { group: name("pg"), peer: name("turin") };
    let preview = c.action_preview(&PreviewRequest { action: action.clone() }).await.unwrap();
    assert_eq!(preview.losses, ["50 GiB of data"]);
    assert!(l.service.taken().is_empty(), "a preview changes nothing");
    let confirm = Confirm { token: preview.token };
    assert_eq!(c.action_confirm(&confirm).await.unwrap().action, action);
    assert_eq!(l.service.taken(), ["remove mirror of group pg to peer turin"]);
    assert_eq!(code(c.action_confirm(&confirm).await), ErrorCode::ConfirmationUnknown);

    let preview = c.action_preview(&PreviewRequest { action: action.clone() }).await.unwrap();
    l.service.world.fetch_add(1, Ordering::Relaxed);
    assert_eq!(code(c.action_confirm(&Confirm { token: preview.token }).await), ErrorCode::ConfirmationStale);
    assert!(l.service.taken().is_empty());

    let gone = PreviewRequest { action: Action::VolumeErase { volume: name("gone") } };
    assert_eq!(code(c.action_preview(&gone).await), ErrorCode::NotFound);
    assert_eq!(c.act(action.clone()).await.unwrap().action, action);
}

/// Sends text over the local socket and returns the answer.
async fn raw(l: &Local, request: &str) -> String {
    let mut stream = UnixStream::connect(&l.socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn bad_requests_get_typed_errors() {
    let l = local();
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (request, status, code) in [
        (get("/api/v1/none"), 404, "not-found"),
        (get("/api/v1/volumes/adopt"), 405, "bad-request"),
        (get("/api/v1/events?after=x"), 400, "bad-request"),
        (get("/api/v1/status?unknown=1"), 400, "bad-request"),
        (get("/api/v1/volumes/show"), 400, "bad-request"),
        (post("/api/v1/groups", ""), 400, "bad-request"),
        (post("/api/v1/groups", "{\"name\":\"UPPER\"}"), 400, "bad-request"),
        (post("/api/v1/groups", "[\"a\"]"), 400, "bad-request"),
        (post("/api/v1/groups", "{\"name\":\"a\",\"colour\":1}"), 400, "bad-request"),
        (post("/api/v1/actions/preview", "{\"action\":{\"kind\":\"explode\"}}"), 400, "bad-request"),
        (post("/api/v1/actions/confirm", "{\"token\":\"x\"}"), 409, "confirmation-unknown"),
        (post("/api/v1/groups", &" ".repeat(BODY_BYTES_MAX + 1)), 413, "too-large"),
    ] {
        let answer = raw(&l, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}\n{answer}");
        let error: ApiError = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(error.code.as_str(), code, "{request:.60}");
    }
    assert!(raw(&l, "no http at all\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(l.service.taken().is_empty());
    assert!(l.client.status(&Nothing {}).await.is_ok(), "the server lives");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_end_is_answered_all_the_same() {
    let l = local();
    l.service.slow_secs.store(3600, Ordering::Relaxed);
    assert_eq!(code(l.client.group_create(&GroupCreate { name: name("g") }).await), ErrorCode::Timeout);
}

#[tokio::test]
async fn the_socket_is_private_and_taken_over_only_from_the_dead() {
    use std::os::unix::fs::PermissionsExt;
    let l = local();
    assert_eq!(std::fs::metadata(&l.socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(server::bind_unix(&l.socket), Err(server::ListenError::Taken { .. })));
    l.client.status(&Nothing {}).await.unwrap();
    l.stop.send(true).unwrap();
    l.served.await.unwrap();
    let gone = l.client.status(&Nothing {}).await;
    assert!(matches!(gone, Err(ClientError::Unreachable { .. })), "{gone:?}");
    drop(server::bind_unix(&l.socket).unwrap());
    let file = l.socket.with_extension("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(server::bind_unix(&file), Err(server::ListenError::NotASocket { .. })));
}

struct Https {
    url: String,
    fingerprint: [u8; 32],
    ca: tempfile::NamedTempFile,
    service: Arc<Scripted>,
    _stop: watch::Sender<bool>,
}

async fn https() -> Https {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let fingerprint = certificate_fingerprint(made.cert.der());
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let service = Arc::new(Scripted::default());
    tokio::spawn(server::serve_https(listener, Arc::new(tls), service.clone(), stopped));
    Https { url, fingerprint, ca, service, _stop: stop }
}

impl Https {
    fn client(&self, token: &str, trust: Trust) -> Client {
        Client::new(Target::https(&self.url, token.into(), trust).unwrap())
    }

    fn pinned(&self, token: &str) -> Client {
        self.client(token, Trust::Fingerprint(self.fingerprint))
    }

    fn address(&self) -> std::net::SocketAddr {
        self.url.trim_start_matches("https://").parse().unwrap()
    }

    fn connector(&self) -> tokio_rustls::TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        use rustls::pki_types::pem::PemObject;
        roots.add(rustls::pki_types::CertificateDer::from_pem_file(self.ca.path()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
    }
}

#[tokio::test]
async fn https_asks_for_a_token_and_the_client_for_the_certificate() {
    let h = https().await;
    h.pinned(ADMIN_TOKEN).status(&Nothing {}).await.unwrap();
    h.client(ADMIN_TOKEN, Trust::CaFile(h.ca.path().into())).status(&Nothing {}).await.unwrap();
    let wrong = h.client(ADMIN_TOKEN, Trust::Fingerprint([0; 32])).status(&Nothing {}).await;
    assert!(matches!(wrong, Err(ClientError::Tls { .. })), "{wrong:?}");
    for bad in ["", "rpr_x", "rpr_admin2"] {
        assert_eq!(code(h.pinned(bad).status(&Nothing {}).await), ErrorCode::Unauthorized, "{bad}");
        assert_eq!(code(h.pinned(bad).metrics().await), ErrorCode::Unauthorized);
        assert_eq!(code(h.pinned(bad).openapi().await), ErrorCode::Unauthorized);
    }
    // Plain HTTP at the HTTPS port, and nothing at all, harm nobody.
    let address = h.url.trim_start_matches("https://");
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /api/v1/status HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    drop(TcpStream::connect(address).await.unwrap());
    h.pinned(READ_TOKEN).status(&Nothing {}).await.unwrap();
}

/// Each row of the command table, with each right: only the right decides between 403 and anything else.
#[tokio::test]
async fn each_route_asks_for_its_right() {
    let h = https().await;
    let address = h.url.trim_start_matches("https://").to_owned();
    let tls = h.connector();
    for route in routes() {
        for (token, rights) in [(READ_TOKEN, Rights::ReadOnly), (ADMIN_TOKEN, Rights::Admin)] {
            let stream = TcpStream::connect(&address).await.unwrap();
            let mut stream = tls.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            let request = format!(
                "{} {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
                route.verb.as_str(),
                route.path
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8(answer).unwrap();
            let forbidden = answer.starts_with("HTTP/1.1 403 ");
            assert!(answer.starts_with("HTTP/1.1 "), "{}: {answer:?}", route.name);
            // What is for whoever is at the box no token is good for.
            let never = route.is_at_the_box();
            assert_eq!(forbidden, never || rights < route.right, "{} with {rights}: {answer:.80}", route.name);
        }
    }
}

#[tokio::test]
async fn the_metrics_port_serves_metrics_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(server::serve_metrics(listener, Arc::new(Scripted::default()), stopped));
    for (path, status) in [("/metrics", 200), ("/api/v1/status", 403), ("/api/v1/openapi.json", 403), ("/", 404)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer:.80}");
        assert_eq!(answer.contains("reprise_uptime_seconds 93784"), status == 200);
    }
}

/// Connects from an address of loopback that is not the one the others use.
async fn knock(to: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// 64 idle connections from one address kept everybody from the API, and so did 64 that asked and never read.
#[tokio::test]
async fn strangers_keep_nobody_from_the_api() {
    let h = https().await;
    let status = async || {
        let client = h.pinned(READ_TOKEN);
        tokio::time::timeout(std::time::Duration::from_secs(5), client.status(&Nothing {})).await.unwrap().unwrap();
    };
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(knock(h.address()).await);
    }
    status().await;
    let connector = h.connector();
    let mut asking = Vec::new();
    for n in 0..100 {
        let mut stream = connector.connect("localhost".try_into().unwrap(), knock(h.address()).await).await.unwrap();
        let asks = "GET /api/v1/status HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
        // One that was closed for another cannot write any more.
        let _ = stream.write_all(asks.as_bytes()).await;
        asking.push(stream);
        if n % 20 == 0 {
            status().await;
        }
    }
    let full = h.service.full.lock().unwrap().clone();
    assert_eq!(full, [("HTTPS API".to_owned(), "127.0.0.9".parse().unwrap())], "told once");
    // Whoever shows no token has eight answers of each connection.
    let mut answers = Vec::new();
    let _ = asking.last_mut().unwrap().read_to_end(&mut answers).await;
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 401 ").count(), 8);
    // With a token a connection is kept, whatever else comes.
    let mut kept = connector.connect("localhost".try_into().unwrap(), knock(h.address()).await).await.unwrap();
    for _ in 0..20 {
        let ask = format!("GET /api/v1/peers HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {READ_TOKEN}\r\n\r\n");
        kept.write_all(ask.as_bytes()).await.unwrap();
        assert!(kept.read(&mut [0; 16 << 10]).await.unwrap() > 0);
        for _ in 0..10 {
            idle.push(knock(h.address()).await);
        }
    }
}

#[tokio::test]
async fn strangers_keep_nobody_from_the_metrics() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let service = Arc::new(Scripted::default());
    tokio::spawn(server::serve_metrics(listener, service.clone(), stopped));
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = knock(address).await;
        if n % 2 == 0 {
            let _ = stream.write_all("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50).as_bytes()).await;
        }
        held.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:.80}");
    assert_eq!(service.full.lock().unwrap().len(), 1);
}
