//! One box without its service: pool, group thread, portal, and a real iSCSI initiator.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reprise_api::strangers::Full;
use reprise_engine::{Branch, CommandError, GroupMeta, LegMeta, RoleMeta, VolumeMeta};
use reprise_format::batch::hash_start;
use reprise_iscsi::Acl;
use reprise_media::{Fill, Media, MediaOptions, create_file};
use reprise_node::group::{self, Command, GroupDeps, GroupHandle, HomeMedia, Limits, TargetConfig};
use reprise_node::pool::{DataPlace, Pool, PoolConfig};
use reprise_node::portal::{Door, GateLimits, Portal, Route, Targets};
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_types::{
    BlockFormat, BoxId, BranchId, BufPool, ByteLen, GroupId, Point, SectorCount, Seq, VolumeId, VolumeSlot,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

const IQN: &str = "iqn.2026-11.io.reprise:test";
const SIZE: u64 = 64 << 20;

struct Box1 {
    told: Arc<Mutex<Vec<Full>>>,
    group: GroupHandle,
    _portal: Portal,
    address: SocketAddr,
}

fn start(dir: &Path) -> Box1 {
    start_behind(dir, Door::at(&["127.0.0.1:0".parse().unwrap()]).unwrap())
}

fn start_behind(dir: &Path, door: Door) -> Box1 {
    let this_box = BoxId::from_raw([7; 16]);
    let data = dir.join("data");
    let config = PoolConfig {
        cache: dir.join("cache"),
        data: DataPlace::At(data.clone()),
        cache_len: Some(ByteLen::from_raw(128 << 20)),
        overwrite: None,
    };
    let pool = Pool::open(&config, this_box).unwrap();
    let home = data.join("v1.home");
    if !home.exists() {
        create_file(&home, ByteLen::from_raw(SIZE), Fill::Zeroed, &mut |_| std::ops::ControlFlow::Continue(()))
            .unwrap();
    }
    let media = Media::open(&home, MediaOptions::exclusive()).unwrap();
    let opened = match pool.groups().first() {
        Some(slot) => pool.open_group(slot.group).unwrap(),
        None => {
            // As measuring the cache does: a segment given out, and no trace of it on the disk.
            pool.allocator().grant().unwrap();
            let group = GroupId::from_raw([3; 16]);
            let branch = BranchId::from_raw([4; 16]);
            let base = Point { branch, seq: Seq::ZERO, hash: hash_start(group) };
            let volume = VolumeMeta {
                slot: VolumeSlot::from_raw(0),
                id: VolumeId::from_raw([5; 16]),
                sectors: SectorCount::from_raw(SIZE / 512),
                name: "v1".into(),
                lun: 0,
                legs: vec![LegMeta { path: home.display().to_string(), adopted: false, identity: String::new() }],
                local_only: false,
                thin: false,
                block_size: BlockFormat::default(),
                read_only: false,
                unit: None,
            };
            let meta = GroupMeta {
                group,
                name: "test".into(),
                role: RoleMeta::Source,
                branches: vec![Branch { id: branch, fork: None, ceded: false }],
                trimmed: base,
                applied: Seq::ZERO,
                applying: Seq::ZERO,
                seal: base,
                incarnation: 1,
                volumes: vec![volume],
                peers: vec![],
                fenced: None,
                next_slot: 1,
                generation_floor: 0,
            };
            pool.create_group(meta).unwrap()
        }
    };
    let (notices, _notices) = mpsc::channel(16);
    let deps = GroupDeps {
        name: "test".into(),
        this_box,
        pool: pool.id(),
        cache: pool.cache().clone(),
        segment_len: pool.segment_len(),
        buffers: BufPool::new(256 << 20),
        allocator: pool.allocator().clone(),
        homes: vec![HomeMedia { slot: VolumeSlot::from_raw(0), media: Arc::clone(&media) }],
        target: TargetConfig { name: IQN.into(), addresses: Vec::new(), acl: Acl::open() },
        notices,
        limits: Limits { buffer_bytes: 64 << 20, ram_tail_bytes: 8 << 20, link_window: 32 << 20 },
    };
    let group = group::spawn(opened, deps).unwrap();
    let targets = Targets::of_box(BoxId::from_raw([7; 16]));
    let commands = group.commands.clone();
    targets.set(vec![Route { name: IQN.into(), acl: Acl::open(), addresses: Vec::new(), commands }], Vec::new());
    let limits = GateLimits { connections: 256, logins_per_minute: None };
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let portal = door.open(&targets, limits, Box::new(move |full| tell.lock().unwrap().push(full))).unwrap();
    let address = portal.addresses()[0];
    Box1 { told, group, _portal: portal, address }
}

async fn stop(b: Box1) {
    let (tx, rx) = oneshot::channel();
    b.group.commands.send(Command::Stop(tx)).await.unwrap();
    rx.await.unwrap();
    // The thread gives its media back as it ends.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
}

fn block(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i as u64 / 8).wrapping_mul(0x9e37_79b9) ^ seed) as u8).collect()
}

/// A host that comes back before the groups are recovered: told that there is no such target, it would not come again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_login_that_comes_before_the_targets_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let door = Door::at(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = door.addresses()[0];
    let login = tokio::spawn(async move { Session::login(address, &LoginOptions::new(IQN)).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let b = start_behind(dir.path(), door);
    let session = login.await.unwrap().unwrap();
    session.clear_attentions(0).await.unwrap();
    drop(session);
    stop(b).await;
}

/// Writes through iSCSI more than the cache holds, reads it back, restarts, reads it back again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_written_is_read_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let b = start(dir.path());
    let session = Session::login(b.address, &LoginOptions::new(IQN)).await.unwrap();
    session.clear_attentions(0).await.unwrap();
    assert_eq!(session.read_capacity(0).await.unwrap().bytes(), SIZE);
    let mut expected = vec![0u8; SIZE as usize];
    let mut seed = 1u64;
    for round in 0..6u64 {
        let mut writes = Vec::new();
        for i in 0..150u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let len = [512usize, 4096, 66_048, 262_144, 300_032][(seed >> 33) as usize % 5];
            let lba = (seed >> 20) % (SIZE / 512 - len as u64 / 512);
            // Writes in flight together do not overlap: each keeps to its own stripe.
            let stripe = SIZE / 512 / 150;
            let lba =
                if len as u64 / 512 <= stripe { i * stripe + lba % (stripe - len as u64 / 512 + 1) } else { continue };
            let data = block(seed ^ round, len);
            let at = lba as usize * 512;
            expected[at..at + len].copy_from_slice(&data);
            writes.push(session.write(0, lba, (len / 512) as u32, data.into()));
        }
        for write in writes {
            write.await.unwrap();
        }
        check(&session, &expected).await;
    }
    session.write_zeroes(0, 1000, 5000).await.unwrap();
    expected[1000 * 512..6000 * 512].fill(0);
    check(&session, &expected).await;
    drop(session);
    stop(b).await;
    let b = start(dir.path());
    let session = Session::login(b.address, &LoginOptions::new(IQN)).await.unwrap();
    session.clear_attentions(0).await.unwrap();
    check(&session, &expected).await;
    // Everything reaches the home by itself.
    for _ in 0..500 {
        let at = b.group.snapshot.borrow().positions;
        if at.applied == at.written {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let at = b.group.snapshot.borrow().positions;
    assert_eq!(at.applied, at.written);
    drop(session);
    stop(b).await;
    assert!(std::fs::read(dir.path().join("data/v1.home")).unwrap() == expected, "home is not what was written");
}

async fn check(session: &Session, expected: &[u8]) {
    let chunk = 256 << 10;
    for at in (0..expected.len()).step_by(chunk) {
        let got = session.read(0, at as u64 / 512, (chunk / 512) as u32, 512).await.unwrap();
        assert!(got[..] == expected[at..at + chunk], "difference in the chunk at {at}");
    }
}

/// The group was made behind segments of which a restart knows nothing. What is written after it must not be taken for
/// that of an earlier life of the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_written_after_a_restart_without_writes_is_there_after_the_next() {
    let dir = tempfile::tempdir().unwrap();
    stop(start(dir.path())).await;
    let b = start(dir.path());
    let session = Session::login(b.address, &LoginOptions::new(IQN)).await.unwrap();
    session.clear_attentions(0).await.unwrap();
    let data = block(9, 4096);
    session.write(0, 64, 8, data.clone().into()).await.unwrap();
    drop(session);
    stop(b).await;
    let b = start(dir.path());
    assert_eq!(b.group.snapshot.borrow().positions.durable, Seq::from_raw(1));
    let session = Session::login(b.address, &LoginOptions::new(IQN)).await.unwrap();
    session.clear_attentions(0).await.unwrap();
    assert!(session.read(0, 64, 8, 512).await.unwrap()[..] == data[..], "the write is lost");
    drop(session);
    stop(b).await;
}

/// The answer to a command comes when its change lasts and everybody sees it, and not only at the next renewal of what is
/// shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_is_answered_when_its_change_is_shown_and_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let b = start(dir.path());
    let read_only = |b: &Box1| b.group.snapshot.borrow().meta.volumes[0].read_only;
    for n in 0..5 {
        let (reply, answer) = oneshot::channel();
        b.group.commands.send(Command::SetReadOnly(VolumeSlot::from_raw(0), n % 2 == 0, reply)).await.unwrap();
        answer.await.unwrap().unwrap();
        assert_eq!(read_only(&b), n % 2 == 0, "the answer to command {n} came before its change was shown");
    }
    let (reply, answer) = oneshot::channel();
    b.group.commands.send(Command::SetReadOnly(VolumeSlot::from_raw(9), true, reply)).await.unwrap();
    assert_eq!(answer.await.unwrap(), Err(CommandError::NoVolume));
    let (reply, answer) = oneshot::channel();
    b.group.commands.send(Command::RemovePeer(reply)).await.unwrap();
    assert_eq!(answer.await.unwrap(), Err(CommandError::NoPeer));
    stop(b).await;
    let b = start(dir.path());
    assert!(read_only(&b), "the last change is lost");
    // What has no Seq yet is nothing to wait for.
    let (reply, answer) = oneshot::channel();
    b.group.commands.send(Command::RemoveVolume(VolumeSlot::from_raw(0), reply)).await.unwrap();
    assert_eq!(answer.await.unwrap().unwrap().name, "v1");
    assert!(b.group.snapshot.borrow().meta.volumes.is_empty());
    stop(b).await;
}

/// Connects from one of the addresses of loopback, and sends this.
async fn connect_from(from: &str, to: SocketAddr, first: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let _ = stream.write_all(first).await;
    stream
}

/// A login request that names the target and says that more of its text comes.
fn endless_login() -> Vec<u8> {
    let mut text = format!("InitiatorName=iqn.2026-01.invalid.example:x\0TargetName={IQN}\0").into_bytes();
    let len = text.len();
    text.resize(len.next_multiple_of(4), 0);
    let mut pdu = vec![0; 48];
    (pdu[0], pdu[1]) = (0x43, 0x44);
    pdu[5..8].copy_from_slice(&(len as u32).to_be_bytes()[1..]);
    pdu.extend(text);
    pdu
}

async fn is_open(stream: &mut TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 1024])).await.is_err()
}

/// 64 connections that said nothing kept every host out for as long as somebody renewed them, and those that named a target
/// were not counted at all. Flood of both kinds from one address, and hosts at another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_neither_keep_a_host_out_nor_disturb_a_session() {
    const FLOOD: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let b = start(dir.path());
    let mut early = Vec::new();
    for _ in 0..200 {
        early.push(connect_from("127.0.0.9", b.address, &[]).await);
    }
    let session = Session::login(b.address, &LoginOptions::new(IQN)).await.expect("a host that was never here");
    session.clear_attentions(0).await.unwrap();
    for first in [&[][..], &endless_login()] {
        let mut flood = Vec::new();
        for n in 0..FLOOD {
            flood.push(connect_from("127.0.0.9", b.address, first).await);
            if n % 20 == 0 {
                let options = LoginOptions { isid: n as u16 + 2, ..LoginOptions::new(IQN) };
                let host = tokio::time::timeout(Duration::from_secs(2), Session::login(b.address, &options)).await;
                host.expect("in time").expect("a host gets in").test_unit_ready(0).await.ok();
            }
        }
        let mut open = 0;
        for stream in &mut flood {
            open += usize::from(is_open(stream).await);
        }
        assert!(open <= 128, "{open} of {FLOOD} hold a place");
        session.ping().await.unwrap();
    }
    let told = b.told.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert_eq!(told[0].busiest, "127.0.0.9".parse::<std::net::IpAddr>().unwrap());
    drop(session);
    stop(b).await;
}

/// Who says nothing is gone after three seconds, not fifteen.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_says_nothing_is_closed_soon() {
    let door = Door::at(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let targets = Targets::of_box(BoxId::from_raw([7; 16]));
    let limits = GateLimits { connections: 256, logins_per_minute: None };
    let portal = door.open(&targets, limits, Box::new(|_| {})).unwrap();
    let mut silent = connect_from("127.0.0.9", portal.addresses()[0], &[0x43; 47]).await;
    let mut buf = [0; 1];
    let ended = tokio::time::timeout(Duration::from_secs(8), silent.read(&mut buf)).await.expect("closed in time");
    assert!(!matches!(ended, Ok(n) if n > 0));
}
