//! The writer: one block after the other, through whatever session there is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use reprise_testkit::initiator::{LoginOptions, Session};
use reprise_testkit::rng::Rng;
use tokio::sync::watch;

use super::history::History;

/// Sectors of the longest block; sizes are spread over the powers of two.
const SECTORS_MAX: u64 = 128;
/// Between two tries to log in while the box is away.
const LOGIN_PAUSE: Duration = Duration::from_millis(50);
/// A box that does not answer a login, or a block, for so long is tried anew.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);
/// A box that is away for so long has failed.
const AWAY_TIME_MAX: Duration = Duration::from_secs(180);
/// Blocks of a read of the whole volume.
const READ_SECTORS: u64 = 2048;

/// Where to write.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) portal: SocketAddr,
    pub(super) iqn: String,
    pub(super) lun: u16,
    pub(super) sectors: u64,
}

/// What the writer did beside its blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wrote {
    pub(super) unanswered: u64,
    pub(super) logins: u64,
}

/// Shared with whoever checks images meanwhile.
pub(super) type Shared = Arc<Mutex<History>>;

pub(super) fn locked(history: &Shared) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn login(place: &Place) -> anyhow::Result<Session> {
    let start = Instant::now();
    loop {
        let options = LoginOptions { isid: 77, ..LoginOptions::new(place.iqn.clone()) };
        let try_once = async {
            let session = Session::login(place.portal, &options).await?;
            session.clear_attentions(place.lun).await?;
            Ok::<_, reprise_testkit::initiator::InitiatorError>(session)
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, try_once).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(error)) if start.elapsed() > AWAY_TIME_MAX => return Err(error).context("log in to the target"),
            Err(_) if start.elapsed() > AWAY_TIME_MAX => bail!("the target does not answer a login"),
            _ => tokio::time::sleep(LOGIN_PAUSE).await,
        }
    }
}

/// Writes until told to stop.
///
/// # Errors
/// The target refuses a block, or stays away.
pub(super) async fn write(
    place: Place,
    history: Shared,
    seed: u64,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Wrote> {
    let mut rng = Rng::new(seed);
    let mut wrote = Wrote::default();
    while !*stop.borrow() {
        let session = login(&place).await?;
        wrote.logins += 1;
        while !*stop.borrow() {
            let top = 1 + rng.below(SECTORS_MAX.min(place.sectors));
            let sectors = 1 + rng.below(top);
            // Half of the blocks meet in a small region, so that many lie over each other.
            let region = if rng.below(2) == 0 { place.sectors } else { place.sectors.min(8 * SECTORS_MAX) };
            let sector = rng.below(region.saturating_sub(sectors) + 1);
            let (number, data) = locked(&history).issue(sector, sectors as u32);
            let answer = session.write(place.lun, sector, sectors as u32, Bytes::from(data));
            match tokio::time::timeout(ANSWER_TIME_MAX, answer).await {
                Ok(Ok(())) => locked(&history).acknowledge(number),
                Ok(Err(error)) if error.is_answer() => return Err(error).context("the target refuses a block"),
                // Whether it took effect is not known; the session is given up, and with it what was in flight.
                _ => {
                    wrote.unanswered += 1;
                    break;
                }
            }
        }
    }
    Ok(wrote)
}

/// Reads the whole volume.
pub(super) async fn read_all(place: &Place) -> anyhow::Result<Vec<u8>> {
    let session = login(place).await?;
    let mut image = Vec::with_capacity(place.sectors as usize * 512);
    let mut at = 0;
    while at < place.sectors {
        let sectors = (place.sectors - at).min(READ_SECTORS);
        let data = session.read(place.lun, at, sectors as u32, 512).await;
        image.extend_from_slice(&data.with_context(|| format!("read the volume at sector {at}"))?);
        at += sectors;
    }
    Ok(image)
}

/// Makes the whole volume zero.
pub(super) async fn clear(place: &Place) -> anyhow::Result<()> {
    let session = login(place).await?;
    let mut at = 0;
    while at < place.sectors {
        let sectors = (place.sectors - at).min(READ_SECTORS);
        let zeros = Bytes::from(vec![0; sectors as usize * 512]);
        let done = session.write(place.lun, at, sectors as u32, zeros).await;
        done.with_context(|| format!("clear the volume at sector {at}"))?;
        at += sectors;
    }
    Ok(())
}
