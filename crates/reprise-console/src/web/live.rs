//! Looks at the box all the time, keeps the figures, and sends them to open pages.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use reprise_api::server::http::stopped;
use reprise_api::{ClientError, ErrorCode, Nothing, PairStatus, PoolPlace, Status, SystemStatus};
use tokio::sync::{mpsc, watch};

use super::history::{FINE_SECS, History};
use super::signed::Signed;
use super::{App, figures, lock};

/// Longest wait for a status; beyond it the box counts as silent.
const LOOK_SECS_MAX: u64 = 5;
/// Looks between two looks at the machine itself: its clock, disks and network change seldom.
const LOOKS_PER_SYSTEM: u64 = 5;
/// Looks that are left out after the box said that it cannot answer yet: each refusal is a line in its audit log.
const LOOKS_PER_REFUSAL: u64 = 15;
/// Looks that are left out after the box said that it has no machine of its own to tell about.
const LOOKS_PER_NO_SYSTEM: u64 = 1800;
/// Event streams of all sessions at a time.
const STREAMS_MAX: usize = 48;
/// Messages that wait for a slow browser; further ones it misses, and the next one has all figures again.
const QUEUE_MAX: usize = 2;

/// The box as it was seen last.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub(crate) status: Option<Arc<Status>>,
    pub(crate) system: Option<(Arc<SystemStatus>, Instant)>,
    pub(crate) pair: Option<PairStatus>,
    /// What pages are sent; none while nobody looks.
    message: Option<Bytes>,
    shape: String,
}

impl Now {
    #[cfg(test)]
    pub(crate) fn of_status(status: Arc<Status>) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// The name of the box.
    pub(crate) fn name(&self) -> Option<&str> {
        let of_status = self.status.as_ref().map(|s| s.this_box.name.as_str());
        of_status.or_else(|| self.system.as_ref().map(|(s, _)| s.name.as_str()))
    }

    /// Alerts that hold and that nobody acknowledged.
    pub(crate) fn alerts_open(&self) -> usize {
        self.status.as_ref().map_or(0, |s| figures::alerts(s).filter(|a| !a.acked).count())
    }

    /// Seconds until earlier network settings come back.
    pub(crate) fn network_reverts_in(&self) -> Option<u32> {
        let (system, seen) = self.system.as_ref()?;
        let left = system.network.reverts_in_secs?;
        let age = u32::try_from(seen.elapsed().as_secs()).unwrap_or(u32::MAX);
        left.checked_sub(age).filter(|left| *left > 0)
    }

    /// Changes whenever a page would look different in more than its figures.
    pub(crate) fn shape(&self) -> &str {
        &self.shape
    }
}

/// What is known of the box, and who looks at it.
#[derive(Debug, Default)]
pub(crate) struct Live {
    now: watch::Sender<Arc<Now>>,
    pub(crate) history: Mutex<History>,
    viewers: AtomicUsize,
}

impl Live {
    pub(crate) fn now(&self) -> Arc<Now> {
        self.now.borrow().clone()
    }

    /// Takes what a page has just learned of the machine, so that the next page knows it.
    pub(crate) fn saw_system(&self, system: Arc<SystemStatus>) {
        self.now.send_modify(|now| {
            let seen = Some((system, Instant::now()));
            let (status, pair) = (now.status.clone(), now.pair.clone());
            let (message, shape) = (now.message.clone(), now.shape.clone());
            *now = Arc::new(Now { status, system: seen, pair, message, shape });
        });
    }
}

/// Counts a viewer while it lives.
struct Viewer(Arc<App>);

impl Viewer {
    fn new(app: &Arc<App>) -> Option<Self> {
        let viewer = Self(app.clone());
        let before = app.live.viewers.fetch_add(1, Ordering::Relaxed);
        (before < STREAMS_MAX).then_some(viewer)
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.live.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at the box every two seconds until `stop`.
pub(crate) async fn watch_box(app: Arc<App>, stop: watch::Receiver<bool>) {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(FINE_SECS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut look, mut status_from, mut system_from) = (0u64, 0u64, 0u64);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopped(stop.clone()) => return,
        }
        look += 1;
        app.end_stale_sessions().await;
        let before = app.live.now();
        let mut system = before.system.clone();
        if look >= system_from {
            let answer = in_time(app.client.system_show(&Nothing {})).await;
            system_from = look + if refused(&answer) { LOOKS_PER_NO_SYSTEM } else { LOOKS_PER_SYSTEM };
            system = answer.and_then(Result::ok).map(|s| (Arc::new(s), Instant::now()));
        }
        let no_pool = system.as_ref().is_some_and(|(s, _)| !matches!(s.pool, PoolPlace::On { .. }));
        let mut status = None;
        if look >= status_from && !no_pool {
            let answer = in_time(app.client.status(&Nothing {})).await;
            if refused(&answer) {
                status_from = look + LOOKS_PER_REFUSAL;
            }
            status = answer.and_then(Result::ok).map(Arc::new);
        }
        let watched = app.live.viewers.load(Ordering::Relaxed) > 0;
        let mut pair = None;
        if status.is_some() && watched {
            pair = in_time(app.client.pair_status(&Nothing {})).await.and_then(Result::ok);
        }
        lock(&app.live.history).push(begun.elapsed().as_secs(), status.as_deref());
        let mut now = Now { status, system, pair, message: None, shape: String::new() };
        now.shape = figures::shape(&now);
        if watched {
            now.message = Some(figures::message(&now, &lock(&app.live.history)));
        }
        app.live.now.send_replace(Arc::new(now));
    }
}

pub(crate) type Answer<T> = Option<Result<T, ClientError>>;

pub(crate) async fn in_time<T>(call: impl Future<Output = Result<T, ClientError>>) -> Answer<T> {
    tokio::time::timeout(Duration::from_secs(LOOK_SECS_MAX), call).await.ok()
}

/// True where asking again soon is of no use.
fn refused<T>(answer: &Answer<T>) -> bool {
    matches!(answer, Some(Err(ClientError::Refused(e))) if e.code != ErrorCode::ShuttingDown)
}

/// A body that is sent as it comes.
struct Events(mpsc::Receiver<Bytes>);

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    }
}

/// `GET /live`: the figures, every two seconds, while the session holds. A stream does not make it last.
pub(crate) async fn stream(State(app): State<Arc<App>>, signed: Signed) -> Response {
    let place = lock(&app.sessions).stream(signed.key);
    let (Some(place), Some(viewer)) = (place, Viewer::new(&app)) else {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "10")]).into_response();
    };
    let (events, receiver) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        let _held = (place, viewer);
        let mut now = app.live.now.subscribe();
        let _ = events.try_send(Bytes::from_static(b"retry: 3000\n\n"));
        loop {
            tokio::select! {
                changed = now.changed() => if changed.is_err() { return },
                () = events.closed() => return,
            }
            if !lock(&app.sessions).holds(Instant::now(), signed.key) {
                let _ = events.try_send(Bytes::from_static(b"event: gone\ndata: {}\n\n"));
                return;
            }
            let message = now.borrow_and_update().message.clone();
            if let Some(message) = message {
                let _ = events.try_send(message);
            }
        }
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(Events(receiver))).into_response()
}
