//! Events, alerts and jobs: what people are told.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use reprise_api::strangers::Full;
use reprise_api::{Alert, ApiError, ErrorCode, Event, Job, JobKind, JobState, Severity};
use tokio::sync::watch;

use super::notify::Change;
use super::told::{Message, Told};
use crate::store::{EVENTS_MAX, Store, unix_ms};

/// Alerts kept that are cleared; the oldest go first. Enough to see what went wrong over a weekend.
const CLEARED_MAX: usize = 100;
/// Alerts that may hold at a time. Codes are few and subjects bounded by groups, volumes and peers.
const ALERTS_MAX: usize = 512;
/// Jobs that have ended and are still listed.
const ENDED_JOBS_MAX: usize = 50;
/// Jobs that may be at work at a time: each holds a thread that waits for a disk.
const JOBS_MAX: usize = 16;

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    next_event: u64,
    alerts: Vec<Alert>,
    cleared: VecDeque<Alert>,
    next_alert: u64,
    jobs: Vec<JobEntry>,
    ended: VecDeque<Job>,
    next_job: u64,
}

struct JobEntry {
    job: Job,
    cancel: Arc<AtomicBool>,
    began: Instant,
}

/// The one place for what people are told. Bounded; kept over a restart as far as the control store has it.
pub(crate) struct Board {
    state: Mutex<State>,
    store: Arc<Store>,
    newest: watch::Sender<u64>,
    /// Told of every change of an alert; it must not wait.
    teller: OnceLock<Teller>,
}

type Teller = Box<dyn Fn(&Alert, Change) + Send + Sync>;

impl Board {
    /// Goes on behind what the store has. Alerts that held are taken up again: their conditions are looked at anew, and
    /// those that are gone are cleared by [`Self::settle`].
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let events: VecDeque<Event> = store.events().unwrap_or_default().into();
        let alerts = store.alerts().unwrap_or_default();
        let next_event = events.back().map_or(1, |e| e.id + 1);
        let next_alert = alerts.iter().map(|a| a.id + 1).max().unwrap_or(1);
        let (newest, _) = watch::channel(next_event - 1);
        let state = State { events, next_event, alerts, next_alert, next_job: 1, ..State::default() };
        Self { state: Mutex::new(state), store, newest, teller: OnceLock::new() }
    }

    /// Tells this of every change of an alert from now on.
    pub(crate) fn tell(&self, teller: Teller) {
        // A box has one.
        let _ = self.teller.set(teller);
    }

    fn changed(&self, alert: &Alert, change: Change) {
        if let Some(teller) = self.teller.get() {
            teller(alert, change);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Strangers have taken all places of a listener.
    pub(crate) fn strangers_full(&self, listener: &str, full: &Full) {
        self.event(Message::StrangersFull { how: &full.text(listener) }.about("box"));
    }

    /// Something happened once.
    pub(crate) fn event(&self, told: Told) {
        match told.severity {
            Severity::Critical => tracing::error!(code = told.code, subject = told.subject, "{}", told.text),
            Severity::Warning => tracing::warn!(code = told.code, subject = told.subject, "{}", told.text),
            Severity::Info => tracing::info!(code = told.code, subject = told.subject, "{}", told.text),
        }
        let event = self.with(|s| {
            let event = Event {
                id: s.next_event,
                at_unix_ms: unix_ms(),
                code: told.code.to_owned(),
                severity: told.severity,
                subject: told.subject,
                text: told.text,
                what_to_do: told.what_to_do,
            };
            s.next_event += 1;
            s.events.push_back(event.clone());
            if s.events.len() > EVENTS_MAX {
                s.events.pop_front();
            }
            event
        });
        if let Err(error) = self.store.put_event(&event) {
            tracing::warn!(error = &error as &dyn std::error::Error, "event is not stored");
        }
        self.newest.send_replace(event.id);
    }

    /// A condition holds. Told as an event when it begins, or when its severity grows.
    pub(crate) fn raise(&self, told: Told) {
        let begins = self.with(|s| {
            let now = unix_ms();
            let known = s.alerts.iter_mut().find(|a| a.code == told.code && a.subject == told.subject);
            if let Some(alert) = known {
                let grows = told.severity > alert.severity;
                alert.last_seen_unix_ms = now;
                if alert.text != told.text || grows {
                    alert.text.clone_from(&told.text);
                    alert.what_to_do.clone_from(&told.what_to_do);
                    alert.severity = told.severity;
                }
                return grows.then(|| (alert.clone(), Change::Worse));
            }
            if s.alerts.len() >= ALERTS_MAX {
                return None;
            }
            let alert = Alert {
                id: s.next_alert,
                code: told.code.to_owned(),
                severity: told.severity,
                subject: told.subject.clone(),
                text: told.text.clone(),
                what_to_do: told.what_to_do.clone(),
                first_seen_unix_ms: now,
                last_seen_unix_ms: now,
                acked: false,
                cleared_unix_ms: None,
            };
            s.next_alert += 1;
            s.alerts.push(alert.clone());
            Some((alert, Change::Begun))
        });
        if let Some((alert, change)) = begins {
            self.keep(&alert);
            self.event(told);
            self.changed(&alert, change);
        }
    }

    /// A condition is gone.
    pub(crate) fn clear(&self, code: &str, subject: &str) {
        let gone = self.with(|s| {
            let at = s.alerts.iter().position(|a| a.code == code && a.subject == subject)?;
            let mut alert = s.alerts.remove(at);
            alert.cleared_unix_ms = Some(unix_ms());
            s.cleared.push_back(alert.clone());
            if s.cleared.len() > CLEARED_MAX {
                s.cleared.pop_front();
            }
            Some(alert)
        });
        if let Some(alert) = gone {
            if let Err(error) = self.store.remove_alert(alert.id) {
                tracing::warn!(error = &error as &dyn std::error::Error, "cleared alert stays stored");
            }
            tracing::info!(code = alert.code, subject = alert.subject, "alert cleared");
            self.changed(&alert, Change::Ended);
        }
    }

    /// True while a condition holds and is told.
    pub(crate) fn holds(&self, code: &str, subject: &str) -> bool {
        self.with(|s| s.alerts.iter().any(|a| a.code == code && a.subject == subject))
    }

    /// Raises what was found of a subject, and clears those of `codes` of which nothing was.
    pub(crate) fn settle(&self, codes: &[&str], subject: &str, found: impl IntoIterator<Item = Told>) {
        let mut found: Vec<Told> = found.into_iter().collect();
        for code in codes {
            match found.iter().position(|told| told.code == *code) {
                Some(at) => self.raise(found.swap_remove(at)),
                None => self.clear(code, subject),
            }
        }
        debug_assert!(found.is_empty(), "conditions that nobody clears: {found:?}");
    }

    /// Clears everything about a subject that is gone.
    pub(crate) fn clear_subject(&self, subject: &str) {
        let codes: Vec<String> =
            self.with(|s| s.alerts.iter().filter(|a| a.subject == subject).map(|a| a.code.clone()).collect());
        codes.iter().for_each(|code| self.clear(code, subject));
    }

    fn keep(&self, alert: &Alert) {
        if let Err(error) = self.store.put_alert(alert) {
            tracing::warn!(error = &error as &dyn std::error::Error, "alert is not stored");
        }
    }

    /// Alerts, the most severe first, then the latest.
    pub(crate) fn alerts(&self, cleared: bool) -> Vec<Alert> {
        let mut alerts = self.with(|s| {
            let past = s.cleared.iter().filter(|_| cleared);
            s.alerts.iter().chain(past).cloned().collect::<Vec<_>>()
        });
        alerts.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.first_seen_unix_ms.cmp(&a.first_seen_unix_ms)));
        alerts
    }

    /// Somebody has seen an alert.
    pub(crate) fn ack(&self, id: u64) -> Result<Alert, ApiError> {
        let alert = self.with(|s| {
            let alert = s.alerts.iter_mut().find(|a| a.id == id)?;
            alert.acked = true;
            Some(alert.clone())
        });
        let alert = alert.ok_or_else(|| ApiError::not_found("alert", id))?;
        self.keep(&alert);
        Ok(alert)
    }

    /// Events behind `after`, or the latest, at most `limit`; and where to go on.
    pub(crate) fn events(&self, after: Option<u64>, limit: usize) -> (Vec<Event>, u64) {
        self.with(|s| {
            let events: Vec<Event> = match after {
                Some(after) => s.events.iter().filter(|e| e.id > after).take(limit).cloned().collect(),
                None => s.events.iter().skip(s.events.len().saturating_sub(limit)).cloned().collect(),
            };
            let next = events.last().map_or_else(|| after.unwrap_or(s.next_event - 1), |e| e.id);
            (events, next)
        })
    }

    /// Waits until there is an event behind `after`.
    pub(crate) async fn wait_for_event(&self, after: u64) {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as the board.
        let _ = newest.wait_for(|id| *id > after).await;
    }

    /// Begins a job.
    pub(crate) fn begin_job(
        self: &Arc<Self>,
        kind: JobKind,
        subject: String,
        bytes_total: Option<u64>,
        can_cancel: bool,
    ) -> Result<JobHandle, ApiError> {
        self.with(|s| {
            if s.jobs.len() >= JOBS_MAX {
                let text = format!("{JOBS_MAX} jobs are at work");
                return Err(ApiError::new(ErrorCode::LimitReached, text, "wait until one has ended: reprise jobs"));
            }
            let job = Job {
                id: s.next_job,
                kind,
                subject,
                state: JobState::Running,
                percent: bytes_total.map(|_| 0.0),
                bytes_done: 0,
                bytes_total,
                secs_left: None,
                started_unix_ms: unix_ms(),
                finished_unix_ms: None,
                can_cancel,
            };
            s.next_job += 1;
            let cancel = Arc::new(AtomicBool::new(false));
            let handle = JobHandle { id: job.id, cancel: cancel.clone(), board: self.clone() };
            s.jobs.push(JobEntry { job, cancel, began: Instant::now() });
            Ok(handle)
        })
    }

    /// Jobs, the latest first.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.with(|s| s.jobs.iter().map(|j| &j.job).chain(&s.ended).cloned().collect());
        jobs.sort_by_key(|j| std::cmp::Reverse(j.id));
        jobs
    }

    /// One job.
    pub(crate) fn job(&self, id: u64) -> Result<Job, ApiError> {
        self.jobs().into_iter().find(|j| j.id == id).ok_or_else(|| ApiError::not_found("job", id))
    }

    /// Asks a job to end.
    pub(crate) fn cancel_job(&self, id: u64) -> Result<Job, ApiError> {
        let job = self.job(id)?;
        if job.state.is_final() {
            return Err(ApiError::new(ErrorCode::WrongState, format!("job {id} has ended"), ""));
        }
        if !job.can_cancel {
            let text = format!("job {id} cannot be cancelled");
            return Err(ApiError::new(ErrorCode::WrongState, text, "a copy ends with: reprise mirror remove"));
        }
        self.with(|s| {
            s.jobs.iter().filter(|j| j.job.id == id).for_each(|j| j.cancel.store(true, Ordering::Relaxed));
        });
        self.job(id)
    }
}

/// The hand on a job.
#[derive(Clone)]
pub(crate) struct JobHandle {
    pub(crate) id: u64,
    cancel: Arc<AtomicBool>,
    board: Arc<Board>,
}

impl JobHandle {
    /// True once somebody wants it to end.
    pub(crate) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// How far it is.
    pub(crate) fn progress(&self, done: u64, total: u64) {
        self.board.with(|s| {
            if let Some(entry) = s.jobs.iter_mut().find(|j| j.job.id == self.id) {
                let secs = entry.began.elapsed().as_secs_f64();
                let job = &mut entry.job;
                (job.bytes_done, job.bytes_total) = (done, Some(total));
                job.percent = Some(percent(done, total));
                job.secs_left =
                    (done > 0 && secs >= 0.5).then(|| secs / done as f64 * total.saturating_sub(done) as f64);
            }
        });
    }

    /// It stands still, or goes on.
    pub(crate) fn waiting(&self, reason: Option<String>) {
        self.board.with(|s| {
            if let Some(entry) = s.jobs.iter_mut().find(|j| j.job.id == self.id) {
                entry.job.state = reason.map_or(JobState::Running, |reason| JobState::Waiting { reason });
            }
        });
    }

    /// The job as it is.
    pub(crate) fn job(&self) -> Option<Job> {
        self.board.job(self.id).ok()
    }

    /// It is over.
    pub(crate) fn end(&self, result: Result<(), ApiError>) {
        let state = match result {
            Ok(()) => JobState::Done,
            Err(_) if self.cancelled() => JobState::Cancelled,
            Err(error) => JobState::Failed { error },
        };
        let job = self.board.with(|s| {
            let at = s.jobs.iter().position(|j| j.job.id == self.id)?;
            let mut job = s.jobs.remove(at).job;
            if state == JobState::Done {
                job.percent = Some(100.0);
                job.bytes_done = job.bytes_total.unwrap_or(job.bytes_done);
            }
            (job.state, job.secs_left, job.can_cancel) = (state, None, false);
            job.finished_unix_ms = Some(unix_ms());
            s.ended.push_back(job.clone());
            if s.ended.len() > ENDED_JOBS_MAX {
                s.ended.pop_front();
            }
            Some(job)
        });
        let Some(job) = job else { return };
        let told = match &job.state {
            JobState::Failed { error } => {
                Message::JobFailed { why: &error.to_string(), advice: &error.what_to_do }.about(job.subject)
            }
            JobState::Cancelled => Message::JobCancelled {}.about(job.subject),
            _ => Message::JobDone {}.about(job.subject),
        };
        self.board.event(told);
    }
}

/// `done` of `total`, 0 to 100.
pub(crate) fn percent(done: u64, total: u64) -> f64 {
    if total == 0 { 100.0 } else { (done as f64 / total as f64 * 100.0).min(100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: &'static str, severity: Severity) -> Told {
        Told { code, severity, subject: "group a".into(), text: "text".into(), what_to_do: "do".into() }
    }

    fn board(dir: &std::path::Path) -> Arc<Board> {
        Arc::new(Board::new(Arc::new(Store::open(dir).unwrap())))
    }

    #[test]
    fn an_alert_is_told_once_and_cleared_once() {
        let dir = tempfile::tempdir().unwrap();
        let board = board(dir.path());
        for _ in 0..3 {
            board.raise(told("cache-full", Severity::Warning));
        }
        assert_eq!(board.events(Some(0), 100).0.len(), 1);
        board.raise(told("cache-full", Severity::Critical));
        assert_eq!(board.events(Some(0), 100).0.len(), 2, "a growing severity is told");
        let alert = board.alerts(false).remove(0);
        assert!(board.ack(alert.id).unwrap().acked);
        board.clear("cache-full", "group a");
        board.clear("cache-full", "group a");
        assert!(board.alerts(false).is_empty());
        assert_eq!(board.alerts(true).len(), 1);
        assert_eq!(board.ack(alert.id).unwrap_err().code, ErrorCode::NotFound);
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let board = board(dir.path());
            board.event(told("one", Severity::Info));
            board.raise(told("two", Severity::Warning));
        }
        let board = board(dir.path());
        assert_eq!(board.alerts(false)[0].code, "two");
        board.event(told("three", Severity::Info));
        let (events, next) = board.events(None, 2);
        assert_eq!(events.iter().map(|e| e.id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(next, 3);
        assert_eq!(board.events(Some(3), 10), (vec![], 3));
    }

    #[test]
    fn jobs_progress_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let board = board(dir.path());
        let job = board.begin_job(JobKind::VolumeCreate, "volume v".into(), Some(100), true).unwrap();
        job.progress(50, 100);
        assert_eq!(job.job().unwrap().percent, Some(50.0));
        board.cancel_job(job.id).unwrap();
        assert!(job.cancelled());
        job.end(Err(ApiError::internal("stopped")));
        assert_eq!(board.job(job.id).unwrap().state, JobState::Cancelled);
        assert_eq!(board.cancel_job(job.id).unwrap_err().code, ErrorCode::WrongState);
        let fixed = board.begin_job(JobKind::MirrorCopy, "group g".into(), None, false).unwrap();
        assert_eq!(board.cancel_job(fixed.id).unwrap_err().code, ErrorCode::WrongState);
        fixed.end(Ok(()));
        assert_eq!(board.jobs()[0].percent, Some(100.0));
    }
}
