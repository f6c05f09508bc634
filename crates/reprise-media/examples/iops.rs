//! Prints what the ring gets out of a medium: `iops DIR [SECONDS]`. Compare with `fio --ioengine=io_uring --direct=1`.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_media::*;
use reprise_types::{ByteLen, PoolBuf};

const SIZE: u64 = 256 << 20;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

async fn writes(ring: &Ring, media: &Arc<Media>, bytes: usize, durability: Durability, time: Duration) -> (u64, u64) {
    let mut buf = PoolBuf::unpooled(bytes);
    buf.fill(0x5a);
    let data = buf.freeze();
    let (start, mut n, mut at) = (Instant::now(), 0u64, 0u64);
    let mut times = Vec::new();
    while start.elapsed() < time {
        let before = Instant::now();
        ring.write_vectored(media, at, vec![data.clone()], durability).await.unwrap();
        times.push(before.elapsed());
        at = (at + bytes as u64) % SIZE;
        n += 1;
    }
    times.sort_unstable();
    ((n as f64 / start.elapsed().as_secs_f64()) as u64, times[times.len() / 2].as_micros() as u64)
}

async fn reads(ring: &Ring, media: &Arc<Media>, depth: usize, time: Duration) -> u64 {
    let count = Rc::new(Cell::new(0u64));
    let start = Instant::now();
    let mut workers = Vec::new();
    for n in 0..depth {
        let (ring, media, count) = (ring.clone(), media.clone(), count.clone());
        workers.push(tokio::task::spawn_local(async move {
            let mut rng = Rng(0x9e37_79b9 + n as u64 * 7919);
            let mut buf = PoolBuf::unpooled(4096);
            while start.elapsed() < time {
                let at = rng.next() % (SIZE / 4096) * 4096;
                let (result, back) = ring.read(&media, at, buf).await;
                result.unwrap();
                buf = back;
                count.set(count.get() + 1);
            }
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    (count.get() as f64 / start.elapsed().as_secs_f64()) as u64
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| ".".into());
    let time = Duration::from_secs(args.next().and_then(|s| s.parse().ok()).unwrap_or(2));
    let path = std::path::Path::new(&dir).join("reprise-media-iops");
    let _ = std::fs::remove_file(&path);
    create_file(&path, ByteLen::from_raw(SIZE), Fill::Zeroed, &mut |_| ControlFlow::Continue(())).unwrap();
    let media = Media::open(&path, MediaOptions::exclusive()).unwrap();
    println!("{}: {:?}, {:?}", path.display(), media.direct(), media.geometry());
    let base = RingConfig { engine: EngineChoice::Uring, ..RingConfig::default() };
    let configs = [base, RingConfig { defer: false, ..base }, RingConfig { engine: EngineChoice::Threads, ..base }];
    for config in configs {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let ring = match Ring::spawn_local(config) {
                Ok(ring) => ring,
                Err(e) => return println!("{config:?}: not run: {e}"),
            };
            println!("{:?}", ring.engine());
            for durability in [Durability::Dsync, Durability::ThenSync] {
                for bytes in [4096, 256 << 10] {
                    let (iops, median_us) = writes(&ring, &media, bytes, durability, time).await;
                    println!("  {bytes:>6} B {durability:?} QD1: {iops} /s, median {median_us} us");
                }
            }
            println!("    4096 B random read QD32: {} /s", reads(&ring, &media, 32, time).await);
            println!("  {:?}", ring.stats());
        });
    }
    let _ = std::fs::remove_file(&path);
}
