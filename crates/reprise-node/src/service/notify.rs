//! Tells people by webhook and mail when an alert begins, grows worse or ends.
//!
//! Everything is done by a thread of its own: a name server that does not answer, or a mail server that takes half a
//! minute, holds up nothing of the box. What waits is bounded and not kept over a restart: the alerts that hold then are
//! told again by whoever raises them.

mod outbox;
mod policy;
mod reach;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reprise_api::{Alert, Name, NotifyResult, NotifySettings, NotifyTest, Severity};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub(crate) use outbox::Failure;
use outbox::{Delivery, Outbox, Receiver};
pub(crate) use policy::Change;
use policy::{Notice, Policy};
use reach::{Reach, TRY_TIME_MAX};

/// Changes that wait for the thread, which only puts them into its outbox. What overflows is reported as a failure.
const ORDERS_MAX: usize = 256;
/// Version of the JSON body of webhooks; fields are added without another number.
const BODY_VERSION: u32 = 1;

/// A message, in both forms.
#[derive(Debug)]
struct Text {
    subject: String,
    body: String,
    json: Bytes,
    sent_unix_ms: u64,
    /// Tells messages of one millisecond apart.
    number: u64,
}

enum Order {
    Changed(Box<Alert>, Change),
    SettingsChanged,
    Test(oneshot::Sender<NotifyTest>),
}

type Report = Box<dyn Fn(Failure) + Send + Sync>;

struct Shared {
    settings: Mutex<NotifySettings>,
    reach: Reach,
    report: Report,
}

impl Shared {
    fn settings(&self) -> NotifySettings {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Tells people. Dropping it ends its thread; what waits then is lost.
pub(crate) struct Notifier {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

impl Notifier {
    /// Begins, with nobody to tell. `report` is called from the notifier's thread when a message does not arrive: for the
    /// first try that fails, and when it is given up.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub(crate) fn new(box_name: &Name, report: impl Fn(Failure) + Send + Sync + 'static) -> io::Result<Self> {
        Self::trusting(box_name, report, Vec::new())
    }

    /// As [`Self::new`]; certificates of `extra_roots` are taken, too.
    fn trusting(
        box_name: &Name,
        report: impl Fn(Failure) + Send + Sync + 'static,
        extra_roots: Vec<CertificateDer<'static>>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reach = Reach { box_name: box_name.to_string(), extra_roots };
        let shared = Arc::new(Shared { settings: Mutex::default(), reach, report: Box::new(report) });
        let (orders, from) = mpsc::channel(ORDERS_MAX);
        let of_thread = shared.clone();
        std::thread::Builder::new().name("notify".to_owned()).spawn(move || runtime.block_on(work(of_thread, from)))?;
        Ok(Self { shared, orders })
    }

    /// Takes who is told from then on. What waits for somebody who is not among them any more is dropped.
    pub(crate) fn settings(&self, settings: NotifySettings) {
        *self.shared.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        // Where it is full the thread has work, and looks at the settings before it sends.
        let _ = self.orders.try_send(Order::SettingsChanged);
    }

    /// An alert changed. Never waits.
    pub(crate) fn changed(&self, alert: &Alert, what: Change) {
        if self.orders.try_send(Order::Changed(Box::new(alert.clone()), what)).is_err() {
            let error = format!("too many changes at once: {} of {} is not told", alert.code, alert.subject);
            (self.shared.report)(Failure { to: "everybody".to_owned(), error, gave_up: true });
        }
    }

    /// Sends everybody a message that says it is a test, and says how each went.
    pub(crate) async fn test(&self) -> NotifyTest {
        let (to, from) = oneshot::channel();
        if self.orders.send(Order::Test(to)).await.is_err() {
            return NotifyTest { results: Vec::new() };
        }
        from.await.unwrap_or(NotifyTest { results: Vec::new() })
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

type Tried = (Delivery<Text>, Result<(), String>);

async fn work(shared: Arc<Shared>, mut orders: mpsc::Receiver<Order>) {
    let begin = Instant::now();
    let now_ms = || u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut policy = Policy::default();
    let mut outbox: Outbox<Text> = Outbox::default();
    let mut tries: JoinSet<Tried> = JoinSet::new();
    let mut number = 0;
    let report = |failure: Option<Failure>| failure.into_iter().for_each(|f| (shared.report)(f));
    loop {
        let settings = shared.settings();
        outbox.forget(|to| is_told(&settings, to));
        for notice in policy.due(now_ms()) {
            number += 1;
            put(&mut outbox, now_ms(), &settings, of_notice(&shared.reach.box_name, &notice, number), &report);
        }
        for delivery in outbox.take_due(now_ms()) {
            let (shared, settings) = (shared.clone(), settings.clone());
            tries.spawn(async move {
                let result = attempt(&shared.reach, &settings, &delivery.to, &delivery.message).await;
                (delivery, result)
            });
        }
        let next = [policy.next_ms(), outbox.next_ms()].into_iter().flatten().min();
        let wake = begin + Duration::from_millis(next.unwrap_or(u64::from(u32::MAX)));
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::SettingsChanged) => {}
                Some(Order::Changed(alert, change)) => {
                    if let Some(notice) = policy.changed(now_ms(), *alert, change) {
                        number += 1;
                        let text = of_notice(&shared.reach.box_name, &notice, number);
                        put(&mut outbox, now_ms(), &shared.settings(), text, &report);
                    }
                }
                Some(Order::Test(to)) => {
                    number += 1;
                    let (text, shared) = (of_test(&shared.reach.box_name, number), shared.clone());
                    tokio::spawn(async move {
                        // Whoever asked may be gone.
                        let _ = to.send(test(shared, text).await);
                    });
                }
            },
            Some(tried) = tries.join_next() => {
                if let Ok((delivery, result)) = tried {
                    report(outbox.done(now_ms(), delivery, result));
                }
            }
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}

fn is_told(settings: &NotifySettings, to: &Receiver) -> bool {
    match to {
        Receiver::Webhook(url) => settings.webhooks.iter().any(|w| w.url == *url),
        Receiver::Mail => settings.mail.is_some(),
    }
}

fn receivers(settings: &NotifySettings) -> Vec<Receiver> {
    let webhooks = settings.webhooks.iter().map(|w| Receiver::Webhook(w.url.clone()));
    webhooks.chain(settings.mail.iter().map(|_| Receiver::Mail)).collect()
}

fn put(
    outbox: &mut Outbox<Text>,
    now_ms: u64,
    settings: &NotifySettings,
    text: Text,
    report: &impl Fn(Option<Failure>),
) {
    let text = Arc::new(text);
    for to in receivers(settings) {
        report(outbox.put(now_ms, to, text.clone()));
    }
}

async fn attempt(reach: &Reach, settings: &NotifySettings, to: &Receiver, text: &Text) -> Result<(), String> {
    let sent = async {
        match (to, &settings.mail) {
            (Receiver::Webhook(url), _) => reach.webhook(url, text.json.clone()).await,
            (Receiver::Mail, Some(mail)) => reach.mail(mail, text).await,
            (Receiver::Mail, None) => Ok(()),
        }
    };
    let sent = tokio::time::timeout(TRY_TIME_MAX, sent).await;
    sent.unwrap_or_else(|_| Err(format!("no answer within {} s", TRY_TIME_MAX.as_secs())))
}

async fn test(shared: Arc<Shared>, text: Text) -> NotifyTest {
    let settings = Arc::new(shared.settings());
    let text = Arc::new(text);
    let mut running = JoinSet::new();
    for (at, to) in receivers(&settings).into_iter().enumerate() {
        let (shared, settings, text) = (shared.clone(), settings.clone(), text.clone());
        running.spawn(async move {
            let error = attempt(&shared.reach, &settings, &to, &text).await.err();
            let to = match (&to, &settings.mail) {
                (Receiver::Webhook(url), _) => url.clone(),
                (Receiver::Mail, mail) => mail.as_ref().map_or_else(String::new, |m| m.server.clone()),
            };
            (at, NotifyResult { to, error })
        });
    }
    let mut results = running.join_all().await;
    results.sort_by_key(|(at, _)| *at);
    NotifyTest { results: results.into_iter().map(|(_, result)| result).collect() }
}

fn of_notice(box_name: &str, notice: &Notice, number: u64) -> Text {
    let Notice { alert, change, changes } = notice;
    let severity = match alert.severity {
        Severity::Info => "note",
        Severity::Warning => "warning",
        Severity::Critical => "CRITICAL",
    };
    let state = match change {
        Change::Begun => severity.to_owned(),
        Change::Worse => format!("worse, {severity}"),
        Change::Ended => "over".to_owned(),
    };
    let subject = format!("[{box_name}] {state}: {} ({})", alert.text, alert.subject);
    let mut body = format!("Box: {box_name}\nAbout: {}\nState: {state}\n\n{}\n", alert.subject, alert.text);
    if *change != Change::Ended && !alert.what_to_do.is_empty() {
        body.push_str(&format!("\nWhat to do: {}\n", alert.what_to_do));
    }
    if *changes > 1 {
        body.push_str(&format!("\nIt changed {changes} times since the last message; this is how it stands.\n"));
    }
    let sent_unix_ms = unix_ms();
    let json = json!({
        "version": BODY_VERSION, "box": box_name, "state": change.as_str(), "changes": changes, "alert": alert,
        "text": subject, "sent_unix_ms": sent_unix_ms,
    });
    Text { subject, body, json: json.to_string().into(), sent_unix_ms, number }
}

fn of_test(box_name: &str, number: u64) -> Text {
    let subject = format!("[{box_name}] test message");
    let body = format!("Box: {box_name}\n\nSomebody pressed the test button. Nothing is wrong.\n");
    let sent_unix_ms = unix_ms();
    let json = json!({
        "version": BODY_VERSION, "box": box_name, "state": "test", "changes": 0, "alert": null, "text": subject,
        "sent_unix_ms": sent_unix_ms,
    });
    Text { subject, body, json: json.to_string().into(), sent_unix_ms, number }
}
