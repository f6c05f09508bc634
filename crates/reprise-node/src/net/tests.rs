//! Two links over loopback with real sockets and real TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream as StdTcp};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reprise_format::batch::ReceivedBody;
use reprise_format::link::{
    Batch, BranchLink, Close, CloseReason, CopyNeed, GroupOffer, Heartbeat, Instance, Message, MessageKind, Side,
};
use reprise_link::LinkError;
use reprise_link::handshake::GreetError;
use reprise_link::pairing::{PairError, PairIdentity, PairingCode};
use reprise_link::pulse::Pulse;
use reprise_types::{BoxId, BranchId, BufPool, GroupId, HistoryHash, Mono, Point, Seq};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

struct Box_ {
    net: LinkNet,
    events: mpsc::Receiver<NetEvent>,
    peers: Arc<MemoryPeers>,
    identity: PairIdentity,
}

fn start_box(n: u8) -> Box_ {
    let key = BoxKey::generate().unwrap();
    let peers = Arc::new(MemoryPeers::default());
    let (tx, events) = mpsc::channel(64);
    let config = NetConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        key: key.clone(),
        box_id: BoxId::from_raw([n; 16]),
        box_name: format!("box{n}"),
        firmware: "test".into(),
        run: [n; 16],
        peers: peers.clone(),
        pool: BufPool::new(64 << 20),
        zstd_level: 1,
        send_per_sec: 0,
    };
    let identity =
        PairIdentity { box_id: config.box_id, name: config.box_name.clone(), fingerprint: *key.fingerprint() };
    Box_ { net: LinkNet::start(config, tx).unwrap(), events, peers, identity }
}

fn know(one: &Box_, other: &Box_) {
    one.peers.store(Peer { identity: other.identity.clone(), standing: PeerStanding::Paired }).unwrap();
}

fn pair_of_boxes() -> (Box_, Box_) {
    let (a, b) = (start_box(1), start_box(2));
    know(&a, &b);
    know(&b, &a);
    (a, b)
}

async fn event(node: &mut Box_) -> NetEvent {
    timeout(PATIENCE, node.events.recv()).await.expect("an event in time").expect("the link runs")
}

async fn connected(node: &mut Box_) -> Connection {
    match event(node).await {
        NetEvent::Connected(connection) => *connection,
        other => panic!("no connection: {other:?}"),
    }
}

async fn link_event(connection: &mut Connection) -> LinkEvent {
    timeout(PATIENCE, connection.events.recv()).await.expect("an event in time").expect("the connection's last event")
}

async fn message(connection: &mut Connection) -> (Message, Option<reprise_types::PoolBuf>) {
    match link_event(connection).await {
        LinkEvent::Message { message, payload } => (message, payload),
        LinkEvent::Closed { error } => panic!("closed: {error:?}"),
    }
}

fn spec(to: &Box_, purpose: Purpose) -> DialSpec {
    DialSpec { peer: to.identity.box_id, addresses: vec![to.net.address().to_string()], purpose }
}

fn offer(group: GroupId) -> GroupOffer {
    let point = Point { branch: BranchId::from_raw([1; 16]), seq: Seq::from_raw(1), hash: HistoryHash::NIL };
    GroupOffer {
        group,
        box_id: BoxId::from_raw([1; 16]),
        role: Side::Source,
        lineage: vec![BranchLink {
            branch: point.branch,
            parent: BranchId::NIL,
            fork_seq: Seq::ZERO,
            fork_hash: HistoryHash::NIL,
        }],
        durable: point,
        trimmed: point,
        serving: true,
        ceded: None,
        copy: CopyNeed::Complete,
        volumes: vec![],
        peer_proven: None,
        instance: Instance { acknowledged: [0; 16], current: [1; 16] },
        peer_instance_seen: None,
    }
}

fn batch(n: u64) -> Message {
    Batch { first: Seq::from_raw(n), last: Seq::from_raw(n) }.into()
}

/// A TCP relay that can be cut, and can stop carrying one direction while the sockets stay open.
struct Relay {
    address: SocketAddr,
    cut: tokio::sync::watch::Sender<u64>,
    mute: tokio::sync::watch::Sender<bool>,
}

async fn relay_to(target: SocketAddr) -> Relay {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, cut_rx) = tokio::sync::watch::channel(0u64);
    let (mute, mute_rx) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let (mut cut, mute) = (cut_rx.clone(), mute_rx.clone());
            cut.mark_unchanged();
            tokio::spawn(async move {
                let outbound = TcpStream::connect(target).await.unwrap();
                let (mut in_read, mut in_write) = inbound.into_split();
                let (mut out_read, mut out_write) = outbound.into_split();
                let back = tokio::io::copy(&mut out_read, &mut in_write);
                let forth = async {
                    let mut chunk = [0u8; 8192];
                    loop {
                        let len = tokio::io::AsyncReadExt::read(&mut in_read, &mut chunk).await.unwrap_or(0);
                        if len == 0 {
                            return;
                        }
                        if !*mute.borrow()
                            && tokio::io::AsyncWriteExt::write_all(&mut out_write, &chunk[..len]).await.is_err()
                        {
                            return;
                        }
                    }
                };
                tokio::select! {
                    _ = back => {}
                    () = forth => {}
                    _ = cut.changed() => {}
                }
            });
        }
    });
    Relay { address, cut, mute }
}

#[tokio::test]
async fn pairs_by_code_and_then_connects_with_pinned_keys() {
    let (mut a, mut b) = (start_box(1), start_box(2));
    let code = b.net.pair_listen().unwrap();
    assert_eq!(b.net.pair_progress(), None);
    let typed = PairingCode::parse(&code.display().to_lowercase()).unwrap();
    let found = a.net.pair_dial(b.net.address().to_string(), typed.clone()).await.unwrap();
    assert_eq!(found, b.identity);
    assert!(matches!(event(&mut b).await, NetEvent::Paired(identity) if identity == a.identity));
    assert_eq!(b.net.pair_progress(), Some(Ok(a.identity.box_id)));
    for (one, other) in [(&a, &b), (&b, &a)] {
        let peer = one.peers.by_box(&other.identity.box_id).unwrap();
        assert_eq!(peer, Peer { identity: other.identity.clone(), standing: PeerStanding::Paired });
    }
    // A lost last message: the same two may repeat with the same code.
    a.net.pair_dial(b.net.address().to_string(), typed).await.unwrap();
    assert!(matches!(event(&mut b).await, NetEvent::Paired(_)));

    let _dial = a.net.dial(spec(&b, Purpose::Control));
    let (mut at_a, mut at_b) = (connected(&mut a).await, connected(&mut b).await);
    assert_eq!((at_a.peer, at_b.peer), (b.identity.box_id, a.identity.box_id));
    assert!(at_a.dialled && !at_b.dialled);
    assert!(at_a.handle.send_control(Heartbeat { id: 7, echo: 0 }.into()));
    assert_eq!(message(&mut at_b).await.0, Heartbeat { id: 7, echo: 0 }.into());
    assert!(
        at_b.handle.send_control(Close { reason: CloseReason::Shutdown, detail: "bye".into(), trouble: None }.into())
    );
    drop(at_b);
    assert_eq!(message(&mut at_a).await.0.kind(), MessageKind::Close, "what was queued goes out before the end");
}

#[tokio::test]
async fn a_prepared_peer_is_completed_by_its_first_connection() {
    let (mut a, mut b) = (start_box(1), start_box(2));
    know(&a, &b);
    b.peers.store(Peer { identity: a.identity.clone(), standing: PeerStanding::Prepared }).unwrap();
    let _dial = a.net.dial(spec(&b, Purpose::Control));
    connected(&mut a).await;
    assert!(matches!(event(&mut b).await, NetEvent::Paired(identity) if identity == a.identity));
    connected(&mut b).await;
    assert_eq!(b.peers.by_box(&a.identity.box_id).unwrap().standing, PeerStanding::Paired);
}

#[tokio::test]
async fn what_pairing_refuses() {
    let (a, b) = (start_box(1), start_box(2));
    let to_b = b.net.address().to_string();
    let wrong = PairingCode::parse("000-000-000").unwrap();
    let refused = |result: Result<PairIdentity, NetError>| match result {
        Err(NetError::Pair(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(a.net.pair_dial(to_b.clone(), wrong.clone()).await), PairError::NotListening);
    let code = b.net.pair_listen().unwrap();
    assert_eq!(refused(b.net.pair_dial(a.net.address().to_string(), code.clone()).await), PairError::BothListening);
    for _ in 0..3 {
        assert_eq!(refused(a.net.pair_dial(to_b.clone(), wrong.clone()).await), PairError::WrongCode);
    }
    assert_eq!(refused(a.net.pair_dial(to_b.clone(), code).await), PairError::Burnt);
    assert_eq!(b.net.pair_progress(), Some(Err(PairError::Burnt)));
    assert!(a.peers.by_box(&b.identity.box_id).is_none() && b.peers.by_box(&a.identity.box_id).is_none());
    b.net.pair_stop();
    let own = b.net.address().to_string();
    assert_eq!(refused(b.net.pair_dial(own, wrong).await), PairError::SelfPairing);
    let code = b.net.pair_listen().unwrap();
    know(&b, &a);
    assert_eq!(refused(a.net.pair_dial(to_b, code).await), PairError::AlreadyPaired);
}

#[tokio::test]
async fn an_unpaired_peer_and_a_wrong_key_are_refused_and_said_once() {
    let (mut a, b, mut c) = (start_box(1), start_box(2), start_box(3));
    // A knows B, but B does not know A.
    know(&a, &b);
    let _dial = a.net.dial(spec(&b, Purpose::Control));
    match event(&mut a).await {
        NetEvent::DialFailed { error: NetError::Refused { reason, .. }, .. } => {
            assert_eq!(reason, CloseReason::UnknownPeer);
        }
        other => panic!("{other:?}"),
    }
    let again = timeout(Duration::from_millis(700), a.events.recv()).await;
    assert!(again.is_err(), "the same reason is told once: {again:?}");
    // C expects A's key at B's address.
    know(&c, &a);
    let _dial = c.net.dial(DialSpec { addresses: vec![b.net.address().to_string()], ..spec(&a, Purpose::Control) });
    let failed = event(&mut c).await;
    assert!(matches!(failed, NetEvent::DialFailed { error: NetError::WrongKey, .. }), "{failed:?}");
    // The right key, but another box id than the one that was paired.
    let (mut d, e) = (start_box(4), start_box(5));
    know(&d, &e);
    let impostor = PairIdentity { box_id: BoxId::from_raw([9; 16]), ..d.identity.clone() };
    e.peers.store(Peer { identity: impostor, standing: PeerStanding::Paired }).unwrap();
    let _dial = d.net.dial(spec(&e, Purpose::Control));
    let failed = event(&mut d).await;
    assert!(matches!(failed, NetEvent::DialFailed { error: NetError::Refused { .. }, .. }), "{failed:?}");
    let greet = GreetError::UnknownPeer { box_id: a.identity.box_id };
    assert!(greet.to_string().contains("not paired"));
}

#[tokio::test]
async fn batches_come_through_aligned_compressed_where_it_pays_and_in_order() {
    let (mut a, mut b) = pair_of_boxes();
    let group = GroupId::from_raw([7; 16]);
    let _dial = a.net.dial(spec(&b, Purpose::Group(group)));
    let mut at_a = connected(&mut a).await;
    at_a.handle.send_control(offer(group).into());
    let mut at_b = connected(&mut b).await;
    assert_eq!(at_b.purpose, Purpose::Group(group));
    assert_eq!(message(&mut at_b).await.0, offer(group).into());
    let mut noise = vec![0u8; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let text: Vec<u8> = (0..300_000u32).map(|i| (i / 900) as u8).collect();
    let payloads = [text.clone(), noise, b"small".to_vec(), vec![0; 1 << 20], text];
    for (n, payload) in payloads.iter().enumerate() {
        assert!(at_a.handle.bulk_room().await);
        assert!(at_a.handle.try_send_bulk(batch(n as u64), vec![Bytes::from(payload.clone())]));
    }
    for (n, payload) in payloads.iter().enumerate() {
        let (message, buf) = message(&mut at_b).await;
        assert_eq!(message, batch(n as u64));
        let buf = buf.unwrap();
        assert_eq!(buf.as_ptr().addr() % 4096, 0);
        assert_eq!(buf[ReceivedBody::ROOM..], payload[..], "payload {n}");
    }
    let wire = at_a.handle.counters().bytes_out.load(std::sync::atomic::Ordering::Relaxed);
    assert!(wire > 300_000 && wire < 330_000, "{wire} bytes on the wire");
    // The peer's owner is not reading: control still has its own way on this side.
    drop(at_b.handle);
    loop {
        if let LinkEvent::Closed { error } = link_event(&mut at_a).await {
            assert!(matches!(error, Some(NetError::PeerClosed | NetError::Io { .. })), "{error:?}");
            break;
        }
    }
}

#[tokio::test]
async fn a_heartbeat_does_not_wait_behind_batches_on_a_slow_line() {
    let (mut a, mut b) = pair_of_boxes();
    let group = GroupId::from_raw([7; 16]);
    let _dial = a.net.dial(spec(&b, Purpose::Group(group)));
    let at_a = connected(&mut a).await;
    at_a.handle.send_control(offer(group).into());
    let mut at_b = connected(&mut b).await;
    message(&mut at_b).await;
    // 256 kbit/s: the batch takes half a minute.
    a.net.set_send_rate(32_000);
    let mut noise = vec![0u8; 1 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    assert!(at_a.handle.try_send_bulk(batch(1), vec![Bytes::from(noise)]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut took = Vec::new();
    for id in 1..=3 {
        let sent = Instant::now();
        at_a.handle.send_control(Heartbeat { id, echo: 0 }.into());
        let (message, _) = message(&mut at_b).await;
        assert_eq!(message, Heartbeat { id, echo: 0 }.into());
        took.push(sent.elapsed());
    }
    assert!(took.iter().min().unwrap() < &Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn the_limit_of_sending_holds_for_all_connections_together() {
    let (mut a, mut b) = pair_of_boxes();
    let (mut dials, mut ends) = (Vec::new(), Vec::new());
    for n in 1..=3 {
        let group = GroupId::from_raw([n; 16]);
        dials.push(a.net.dial(spec(&b, Purpose::Group(group))));
        let at_a = connected(&mut a).await;
        at_a.handle.send_control(offer(group).into());
        let mut at_b = connected(&mut b).await;
        message(&mut at_b).await;
        ends.push((at_a, at_b));
    }
    a.net.set_send_rate(1_000_000);
    let mut noise = vec![0u8; 200 << 10];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);
    let began = Instant::now();
    for (at_a, _) in &ends {
        for n in 1..=2 {
            assert!(at_a.handle.try_send_bulk(batch(n), vec![noise.clone()]));
        }
    }
    for (_, at_b) in &mut ends {
        for n in 1..=2 {
            assert_eq!(message(at_b).await.0, batch(n));
        }
    }
    // 1.2 MB at 1 MB/s, a quarter of a second of which is burst.
    let secs = began.elapsed().as_secs_f64();
    assert!(secs > 0.85, "{secs} s: the limit does not hold");
    // Raised while data waits, it counts at once.
    a.net.set_send_rate(1);
    assert!(ends[0].0.handle.try_send_bulk(batch(3), vec![noise.clone()]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    a.net.set_send_rate(0);
    assert_eq!(message(&mut ends[0].1).await.0, batch(3));
}

#[tokio::test]
async fn a_cut_is_resumed_within_a_second() {
    let mut took = Vec::new();
    let (mut a, mut b) = pair_of_boxes();
    let relay = relay_to(b.net.address()).await;
    let _dial = a.net.dial(DialSpec { addresses: vec![relay.address.to_string()], ..spec(&b, Purpose::Control) });
    let (mut at_a, mut at_b) = (connected(&mut a).await, connected(&mut b).await);
    for round in 1..=10u64 {
        at_a.handle.set_healthy();
        let cut_at = Instant::now();
        relay.cut.send_replace(round);
        for end in [&mut at_a, &mut at_b] {
            assert!(matches!(link_event(end).await, LinkEvent::Closed { error: Some(_) }));
        }
        (at_a, at_b) = (connected(&mut a).await, connected(&mut b).await);
        at_a.handle.send_control(Heartbeat { id: round, echo: 0 }.into());
        assert_eq!(message(&mut at_b).await.0, Heartbeat { id: round, echo: 0 }.into());
        took.push(cut_at.elapsed());
    }
    // A pause that grows from cut to cut would show in all of the last ones; a machine that stalls shows in some.
    assert!(took[5..].iter().min().unwrap() < &Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_half_open_line_is_found_by_the_missing_echoes() {
    let (mut a, mut b) = pair_of_boxes();
    let relay = relay_to(b.net.address()).await;
    let _dial = a.net.dial(DialSpec { addresses: vec![relay.address.to_string()], ..spec(&b, Purpose::Control) });
    let (mut at_a, mut at_b) = (connected(&mut a).await, connected(&mut b).await);
    relay.mute.send_replace(true);
    // The clock of the heartbeats runs faster than the wall: what is shown is that nothing of A reaches B, while A
    // still hears B, and that both ends come to their conclusion from exactly that.
    let mut pulses = (Pulse::new(Mono::from_millis(0)), Pulse::new(Mono::from_millis(0)));
    let (mut ends, mut second) = ((None, None), 0u64);
    while ends.0.is_none() || ends.1.is_none() {
        let now = Mono::from_millis(second * 1_000);
        second += 1;
        assert!(second < 30, "not found: {ends:?}");
        match pulses.0.tick(now) {
            Ok(Some(beat)) => assert!(at_a.handle.send_control(beat.into())),
            Ok(None) => {}
            Err(error) => ends.0 = ends.0.or(Some(error)),
        }
        match pulses.1.tick(now) {
            Ok(Some(beat)) => {
                at_b.handle.send_control(beat.into());
                if let (Message::Heartbeat(beat), _) = message(&mut at_a).await {
                    pulses.0.on_heartbeat(now, &beat);
                }
            }
            Ok(None) => {}
            Err(error) => ends.1 = ends.1.or(Some(error)),
        }
        assert!(at_b.events.try_recv().is_err(), "the line is muted towards B");
    }
    assert!(matches!(ends.1, Some(LinkError::Silent { .. })), "{ends:?}");
    assert!(matches!(ends.0, Some(LinkError::Unheard { .. } | LinkError::Silent { .. })), "{ends:?}");
}

#[tokio::test]
async fn plain_tcp_and_garbage_are_closed_and_the_box_stays_usable() {
    let (mut a, mut b) = pair_of_boxes();
    let target = b.net.address();
    let junk: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"RPLK\x01\x01\x00\x00", &[0; 4096], &[0x16, 3, 1, 0xff, 0xff]];
    let knocking = tokio::task::spawn_blocking(move || {
        for bytes in junk {
            let mut socket = StdTcp::connect(target).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(bytes).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            // A TLS alert may come; what matters is that the connection ends.
            let ended = socket.read_to_end(&mut answer);
            assert!(ended.is_ok() || ended.unwrap_err().kind() == std::io::ErrorKind::ConnectionReset);
        }
    });
    knocking.await.unwrap();
    let _dial = a.net.dial(spec(&b, Purpose::Control));
    while !matches!(event(&mut a).await, NetEvent::Connected(_)) {}
    connected(&mut b).await;
}

/// 32 idle connections from one address kept the mirror away for as long as somebody renewed them; nothing said so.
#[tokio::test]
async fn idle_connections_keep_no_peer_away() {
    let mut took = Vec::new();
    // A peer that waits for their end waits three seconds each time; a machine that stalls does so once.
    while took.iter().all(|t| *t > Duration::from_secs(2)) {
        assert!(took.len() < 3, "{took:?}");
        took.push(connecting_beside_idle_ones().await);
    }
}

async fn connecting_beside_idle_ones() -> Duration {
    let (mut a, mut b) = pair_of_boxes();
    let target = b.net.address();
    let flood = tokio::task::spawn_blocking(move || {
        let connect = |_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
            socket.connect(&target.into()).unwrap();
            StdTcp::from(socket)
        };
        (0..200).map(connect).collect::<Vec<StdTcp>>()
    });
    let flood = flood.await.unwrap();
    let began = Instant::now();
    let _dial = a.net.dial(spec(&b, Purpose::Control));
    connected(&mut a).await;
    let connecting = began.elapsed();
    let NetEvent::StrangersFull(full) = event(&mut b).await else { panic!("it is not told that strangers are many") };
    assert_eq!((full.busiest, full.held), (std::net::IpAddr::from([127, 0, 0, 9]), full.places));
    connected(&mut b).await;
    // All are gone after three seconds: none has sent a byte.
    let closed = tokio::task::spawn_blocking(move || {
        let ended = |mut socket: &StdTcp| {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            !matches!(socket.read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        };
        flood.iter().all(ended)
    });
    assert!(closed.await.unwrap());
    connecting
}

#[tokio::test]
async fn stopping_a_box_closes_its_connections_and_frees_its_port() {
    let (mut a, mut b) = pair_of_boxes();
    let _dial = a.net.dial(spec(&b, Purpose::Control));
    let mut at_a = connected(&mut a).await;
    let at_b = connected(&mut b).await;
    let address = b.net.address();
    let Box_ { net, .. } = b;
    tokio::task::spawn_blocking(move || drop(net)).await.unwrap();
    assert!(matches!(link_event(&mut at_a).await, LinkEvent::Closed { .. }));
    assert!(!at_b.handle.bulk_room().await);
    assert!(StdTcp::connect(address).is_err());
}
