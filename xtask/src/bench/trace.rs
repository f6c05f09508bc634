//! A recorded trace replayed on the pair: what the host sees, how far the mirror is behind, and what goes over the wire.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::boxes::Pair;

/// The trace is replayed so many times as fast as it was recorded.
pub(super) const SPEEDUP: u32 = 120;
/// Between two looks at the lag; the status itself may be 100 ms old.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the replay showed.
#[derive(Debug, Clone)]
pub(super) struct Replayed {
    /// As the client prints it.
    client: Value,
    /// Lag in milliseconds, sorted.
    lags_ms: Vec<f64>,
    pub(super) wire_bytes: u64,
}

impl Replayed {
    pub(super) fn number(&self, name: &str) -> f64 {
        self.client[name].as_f64().unwrap_or_default()
    }

    pub(super) fn lag_ms(&self, percent: usize) -> f64 {
        self.lags_ms.get(self.lags_ms.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
    }
}

/// Replays `trace` with the built example `replay`.
pub(super) fn replay(pair: &Pair, client: &Path, trace: &Path) -> Result<Replayed> {
    let api = pair.source.api.as_ref().context("a box has an API")?;
    api.settle()?;
    let wire = || -> Result<u64> { api.group()?["totals"]["wire_bytes"].as_u64().context("totals have no wire_bytes") };
    let before = wire()?;
    let mut parts = pair.source.url.trim_start_matches("iscsi://").split('/');
    let mut command = Command::new(client);
    command.args(parts.by_ref().take(3)).arg(trace).arg(SPEEDUP.to_string());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start the replay")?;
    let mut lags_ms = Vec::new();
    while child.try_wait()?.is_none() {
        if let Some(lag) = api.group().ok().and_then(|g| g["lag_secs"].as_f64()) {
            lags_ms.push(lag * 1000.0);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "the replay ended with {}", out.status);
    api.settle()?;
    lags_ms.sort_by(f64::total_cmp);
    let client = serde_json::from_slice(&out.stdout).context("read what the replay says")?;
    Ok(Replayed { client, lags_ms, wire_bytes: wire()? - before })
}
