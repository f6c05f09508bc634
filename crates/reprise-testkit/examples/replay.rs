//! Replays a block trace on an iSCSI volume: `replay ADDRESS IQN LUN TRACE SPEEDUP`. Prints what was written and read, and how long
//! operations took. Destroys what is on the volume.
//!
//! The trace is of vSCSI records: little-endian, 32 bytes each: u32 serial, u32 length in bytes, u32 scatter entries, u16
//! command (0x2a write, 0x28 read), u16 version, u64 LBA in sectors of 512 bytes, u64 time in microseconds. It holds no data: half of
//! each written page is random, half zeros, so that it compresses to about half.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::rng::Rng;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const RECORD: usize = 32;
const WRITE: u16 = 0x2a;
const READ: u16 = 0x28;
/// Operations in flight, as many as a host's queue holds. At the limit the replay falls behind the trace.
const DEPTH: usize = 64;
/// Longest operation; a longer one of the trace is cut.
const BYTES_MAX: u32 = 1 << 20;

struct Item {
    write: bool,
    sector: u64,
    sectors: u32,
    at: Duration,
}

fn items(bytes: &[u8], speedup: f64, size: u64) -> Vec<Item> {
    let field = |record: &[u8], at: usize, len: usize| {
        record[at..at + len].iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    let mut first = None;
    let mut items = Vec::new();
    for record in bytes.chunks_exact(RECORD) {
        let (len, command) = (field(record, 4, 4) as u32, field(record, 12, 2) as u16);
        let (lba, time) = (field(record, 16, 8), field(record, 24, 8));
        let sectors = len.min(BYTES_MAX) / 512;
        if sectors == 0 || (command != WRITE && command != READ) {
            continue;
        }
        // The volume may be smaller than the disk of the trace: its addresses are wrapped.
        let sector = lba % (size - u64::from(sectors));
        let at = Duration::from_micros(time - *first.get_or_insert(time)).div_f64(speedup);
        items.push(Item { write: command == WRITE, sector, sectors, at });
    }
    items
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, iqn, lun, trace, speedup] = &args[..] else {
        eprintln!("replay ADDRESS IQN LUN TRACE SPEEDUP");
        std::process::exit(2);
    };
    let (lun, speedup): (u16, f64) = (lun.parse().unwrap(), speedup.parse().unwrap());
    let trace = std::fs::read(trace).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let session = Session::login(address.parse().unwrap(), &LoginOptions::new(iqn.clone())).await.unwrap();
        session.clear_attentions(lun).await.unwrap();
        let capacity = session.read_capacity(lun).await.unwrap();
        assert_eq!(capacity.block_size, 512);
        let mut rng = Rng::new(1);
        let page = |rng: &mut Rng| (0..4096).map(|n| if n < 2048 { rng.draw() as u8 } else { 0 }).collect::<Vec<u8>>();
        // More than a window of zstd, so that no page is found again.
        let pool: Bytes = (0..4096).flat_map(|_| page(&mut rng)).collect();
        let room = Arc::new(Semaphore::new(DEPTH));
        let done = Rc::new(RefCell::new((Vec::new(), Vec::new())));
        let (mut written, mut read) = (0u64, 0u64);
        let start = Instant::now();
        for item in items(&trace, speedup, capacity.blocks) {
            tokio::time::sleep_until(start + item.at).await;
            let permit = room.clone().acquire_owned().await.unwrap();
            let bytes = item.sectors as usize * 512;
            *(if item.write { &mut written } else { &mut read }) += bytes as u64;
            let from = rng.below((pool.len() - bytes) as u64 / 512) as usize * 512;
            let (session, done, data) = (session.clone(), done.clone(), pool.slice(from..from + bytes));
            tokio::task::spawn_local(async move {
                let before = Instant::now();
                if item.write {
                    session.write(lun, item.sector, item.sectors, data).await.unwrap();
                    done.borrow_mut().0.push(before.elapsed());
                } else {
                    session.read(lun, item.sector, item.sectors, 512).await.unwrap();
                    done.borrow_mut().1.push(before.elapsed());
                }
                drop(permit);
            });
        }
        drop(room.acquire_many(DEPTH as u32).await.unwrap());
        let secs = start.elapsed().as_secs_f64();
        println!("{{\"secs\":{secs:.2},\"written_bytes\":{written},\"read_bytes\":{read}");
        let (mut writes, mut reads) = done.take();
        for (name, times) in [("write", &mut writes), ("read", &mut reads)] {
            times.sort_unstable();
            let at = |permille: usize| times.get(times.len() * permille / 1000).map_or(0, |d| d.as_micros());
            println!(",\"{name}s\":{},\"{name}_p50_us\":{},\"{name}_p99_us\":{}", times.len(), at(500), at(990));
        }
        println!("}}");
    });
}
