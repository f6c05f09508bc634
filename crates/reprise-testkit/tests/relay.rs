//! The relay on loopback.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use reprise_testkit::relay::{Line, Relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(10);

async fn echo_behind_relay() -> Relay {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Relay::start(address).await.unwrap()
}

async fn round(socket: &mut TcpStream, bytes: usize) -> std::io::Result<Duration> {
    let start = Instant::now();
    let (mut read, mut write) = socket.split();
    let (data, mut back) = (vec![7; bytes], vec![0; bytes]);
    let (sent, got) = tokio::join!(write.write_all(&data), read.read_exact(&mut back));
    sent?;
    got?;
    assert_eq!(data, back);
    Ok(start.elapsed())
}

#[tokio::test]
async fn bytes_and_ends_pass() {
    let relay = echo_behind_relay().await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    round(&mut socket, 1 << 20).await.unwrap();
    assert_eq!(relay.passed(), (1 << 20, 1 << 20));
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_cut_resets_and_new_connections_follow_the_line() {
    let relay = echo_behind_relay().await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    round(&mut socket, 10).await.unwrap();
    relay.set_line(Line::Reset);
    let error = timeout(LONG, socket.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let refused = async { round(&mut TcpStream::connect(relay.address()).await?, 10).await };
    assert!(timeout(LONG, refused).await.unwrap().is_err());
    relay.set_line(Line::Up);
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    round(&mut socket, 10).await.unwrap();
    relay.cut_once();
    assert!(timeout(LONG, socket.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_pause_loses_nothing_and_silence_loses_all() {
    let relay = echo_behind_relay().await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    round(&mut socket, 10).await.unwrap();
    relay.set_line(Line::Paused);
    socket.write_all(b"hello").await.unwrap();
    let mut buf = [0; 5];
    assert!(timeout(SHORT, socket.read_exact(&mut buf)).await.is_err());
    relay.set_line(Line::Up);
    timeout(LONG, socket.read_exact(&mut buf)).await.unwrap().unwrap();
    assert_eq!(&buf, b"hello");
    relay.set_line(Line::Silent);
    socket.write_all(b"lost!").await.unwrap();
    assert!(timeout(SHORT, socket.read_exact(&mut buf)).await.is_err(), "no byte and no end");
    let mut other = TcpStream::connect(relay.address()).await.unwrap();
    assert!(timeout(SHORT, round(&mut other, 10)).await.is_err());
    relay.set_line(Line::Up);
    assert!(timeout(LONG, socket.read_u8()).await.unwrap().is_err(), "reset when the line is back");
    assert!(timeout(LONG, other.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn delay_and_rate_hold() {
    let relay = echo_behind_relay().await;
    let mut socket = TcpStream::connect(relay.address()).await.unwrap();
    relay.set_round_trip(Duration::from_millis(100));
    let time = round(&mut socket, 100).await.unwrap();
    assert!(time >= Duration::from_millis(98), "{time:?}");
    relay.set_round_trip(Duration::ZERO);
    relay.set_rate(Some(1 << 20));
    let time = round(&mut socket, 512 << 10).await.unwrap();
    assert!(time >= Duration::from_millis(480), "{time:?}");
}
