//! Load on an iSCSI volume: `load ADDRESS IQN LUN write|read DEPTH BYTES SECONDS`. Prints operations per second, latency
//! and the client's own CPU time, at random addresses. Destroys what is on the volume when writing.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::rng::Rng;

/// User and system time of this process, from `/proc/self/stat` (fields 14 and 15, in ticks of 10 ms).
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let rest = stat.rsplit(')').next().unwrap();
    rest.split_whitespace().skip(11).take(2).map(|t| t.parse::<f64>().unwrap() / 100.0).sum()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, iqn, lun, verb, depth, bytes, seconds] = &args[..] else {
        eprintln!("load ADDRESS IQN LUN write|read DEPTH BYTES SECONDS");
        std::process::exit(2);
    };
    let (lun, depth, bytes): (u16, usize, u32) = (lun.parse().unwrap(), depth.parse().unwrap(), bytes.parse().unwrap());
    let time = Duration::from_secs(seconds.parse().unwrap());
    let writes = verb == "write";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let session = Session::login(address.parse().unwrap(), &LoginOptions::new(iqn.clone())).await.unwrap();
        session.clear_attentions(lun).await.unwrap();
        let capacity = session.read_capacity(lun).await.unwrap();
        let blocks = bytes / capacity.block_size;
        let places = capacity.blocks / u64::from(blocks);
        let latencies = Rc::new(RefCell::new(Vec::new()));
        let (start, cpu) = (Instant::now(), cpu_secs());
        let mut workers = Vec::new();
        for n in 0..depth as u64 {
            let (session, latencies) = (session.clone(), latencies.clone());
            workers.push(tokio::task::spawn_local(async move {
                let mut rng = Rng::new(n);
                let data: Bytes = (0..bytes / 8).flat_map(|_| rng.draw().to_le_bytes()).collect();
                while start.elapsed() < time {
                    let (at, before) = (rng.below(places) * u64::from(blocks), Instant::now());
                    match writes {
                        true => session.write(lun, at, blocks, data.clone()).await.unwrap(),
                        false => drop(session.read(lun, at, blocks, capacity.block_size).await.unwrap()),
                    }
                    latencies.borrow_mut().push(before.elapsed());
                }
            }));
        }
        for worker in workers {
            worker.await.unwrap();
        }
        let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_secs() - cpu);
        let mut latencies = latencies.take();
        latencies.sort_unstable();
        let at = |permille: usize| latencies.get(latencies.len() * permille / 1000).map_or(0, |d| d.as_micros());
        let count = latencies.len() as f64;
        println!(
            "{verb} {bytes} B QD{depth}: {:.0} /s, {:.1} MiB/s, p50 {} us, p99 {} us, p99.9 {} us, client CPU {:.1} us per operation",
            count / elapsed,
            count * f64::from(bytes) / elapsed / 1048576.0,
            at(500),
            at(990),
            at(999),
            cpu / count * 1e6
        );
    });
}
