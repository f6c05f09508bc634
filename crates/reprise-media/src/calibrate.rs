//! Which durable write is faster here: RWF_DSYNC, or a write with a linked fdatasync. With a write-through cache or FUA the
//! first saves a flush; on some virtual disks and file systems it is the slower one. So it is measured at start.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reprise_types::PoolBuf;
use tokio::time::Instant;

use crate::{Durability, Media, Ring};

/// Writes per way and size. With both sizes and ways this takes well under a second on a disk that is fit for its work.
const ROUNDS: usize = 48;

/// No size gets more time than this, so that a slow disk does not hold up a start.
const TIME_MAX: Duration = Duration::from_millis(1400);

/// Latency of one way at one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// Median.
    pub median: Duration,
    /// 95th percentile.
    pub p95: Duration,
    /// Writes measured.
    pub rounds: usize,
}

/// What was measured and chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibration {
    /// 4 KiB with RWF_DSYNC.
    pub dsync_4k: Timing,
    /// 4 KiB with a linked fdatasync.
    pub sync_4k: Timing,
    /// 256 KiB with RWF_DSYNC.
    pub dsync_256k: Timing,
    /// 256 KiB with a linked fdatasync.
    pub sync_256k: Timing,
    /// The faster way, by the sum of both medians.
    pub chosen: Durability,
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |t: &Timing| t.median.as_micros();
        write!(
            f,
            "{:?}: 4 KiB {} us by dsync, {} us by sync; 256 KiB {} us by dsync, {} us by sync",
            self.chosen,
            us(&self.dsync_4k),
            us(&self.sync_4k),
            us(&self.dsync_256k),
            us(&self.sync_256k)
        )
    }
}

/// Measures on a scratch area of at least 256 KiB, whose content is lost. The area should be written already, as the real one is.
pub async fn calibrate(ring: &Ring, media: &Arc<Media>, offset: u64, len: u64) -> io::Result<Calibration> {
    const BIG: usize = 256 << 10;
    if len < BIG as u64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let data = PoolBuf::unpooled(BIG).freeze();
    // The first write of an area may allocate; it is not measured.
    ring.write_then_sync(media, offset, vec![data.clone()]).await?;
    let measure = async |bytes: usize| {
        let area = (len / bytes as u64).min(64);
        let mut times = [Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS)];
        let start = Instant::now();
        // Both ways in turn, so that other load on the disk hits both alike.
        for round in 0..ROUNDS as u64 {
            for (way, durability) in [Durability::Dsync, Durability::ThenSync].into_iter().enumerate() {
                let at = offset + (round % area) * bytes as u64;
                let piece: Bytes = data.slice(..bytes);
                let before = Instant::now();
                ring.write_vectored(media, at, vec![piece], durability).await?;
                times[way].push(before.elapsed());
            }
            if start.elapsed() > TIME_MAX {
                break;
            }
        }
        Ok::<_, io::Error>(times.map(|mut times| {
            times.sort_unstable();
            let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
            Timing { median: at(50), p95: at(95), rounds: times.len() }
        }))
    };
    let [dsync_4k, sync_4k] = measure(4096).await?;
    let [dsync_256k, sync_256k] = measure(BIG).await?;
    let sum = |a: Timing, b: Timing| a.median + b.median;
    let dsync_wins = sum(dsync_4k, dsync_256k) <= sum(sync_4k, sync_256k);
    let chosen = if dsync_wins { Durability::Dsync } else { Durability::ThenSync };
    Ok(Calibration { dsync_4k, sync_4k, dsync_256k, sync_256k, chosen })
}
