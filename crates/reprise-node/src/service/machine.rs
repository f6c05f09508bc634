//! What a box does also while it has no pool: the machine under it, the administrator, messages.
//!
//! The machine's own commands go to the first process of the appliance, which has the rights and the hands for them; on
//! somebody's own Linux there is none, and they are refused.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reprise_api::server::{Appliance, Consequences};
use reprise_api::*;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::admin::Administrator;
use super::locked;
use super::messages::Messages;
use crate::store::Store;

/// Longest answer of the first process: a support bundle with its logs.
const REPLY_BYTES_MAX: u64 = 32 << 20;
/// Longest time for an answer: gathering a support bundle reads all logs.
const REPLY_TIME_MAX: Duration = Duration::from_secs(50);

/// The daemon's own status as text, for a support bundle.
type StatusText = Box<dyn Fn() -> String + Send + Sync>;

/// The machine a box runs on.
pub struct Machine {
    store: Arc<Store>,
    socket: Option<PathBuf>,
    administrator: Arc<Administrator>,
    messages: Arc<Messages>,
    status: Mutex<Option<StatusText>>,
    fingerprint: Mutex<Option<String>>,
}

impl Machine {
    /// The machine of the box called `name` whose secrets are in `state`; `socket` is that of its first process.
    ///
    /// # Errors
    /// What is kept about the administrator or about messages cannot be read.
    pub(crate) fn new(state: &Path, name: &Name, store: Arc<Store>, socket: Option<PathBuf>) -> anyhow::Result<Self> {
        let administrator = Arc::new(Administrator::open(state)?);
        let messages = Arc::new(Messages::open(state, name)?);
        let (status, fingerprint) = (Mutex::default(), Mutex::default());
        Ok(Self { store, socket, administrator, messages, status, fingerprint })
    }

    /// True on an appliance, whose web console any browser reaches, while nobody has set a password.
    pub(crate) fn lacks_password(&self) -> bool {
        self.socket.is_some() && !self.administrator.status().password_set
    }

    /// Who is told what happens.
    pub(crate) fn messages(&self) -> &Arc<Messages> {
        &self.messages
    }

    /// People are at an appliance, which has no command line, and not on a Linux of their own.
    pub(crate) fn is_appliance(&self) -> bool {
        self.socket.is_some()
    }

    /// Takes what says how the box is.
    pub(crate) fn set_status(&self, status: StatusText) {
        *locked(&self.status) = Some(status);
    }

    /// Takes the fingerprint of the certificate that the web console shows.
    pub(crate) fn set_fingerprint(&self, fingerprint: String) {
        *locked(&self.fingerprint) = Some(fingerprint);
    }

    /// What a reset would do.
    pub(crate) fn reset_consequences(&self, level: ResetLevel) -> Result<Consequences, ApiError> {
        if self.socket.is_none() {
            return Err(no_appliance());
        }
        let losses = level.losses().map(str::to_owned).collect();
        let summary = "The box starts again and resets itself before it serves.".to_owned();
        Ok(Consequences { summary, losses, basis: level.as_str().to_owned() })
    }

    async fn ask(&self, call: &SystemCall) -> Result<SystemReply, ApiError> {
        let Some(socket) = &self.socket else { return Err(no_appliance()) };
        let answer = tokio::time::timeout(REPLY_TIME_MAX, exchange(socket, call)).await;
        let failed = |why: String| ApiError::internal(format!("the first process does not answer: {why}"));
        match answer {
            Ok(Ok(SystemReply::Error(error))) => Err(error),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("not within {} s", REPLY_TIME_MAX.as_secs()))),
        }
    }

    async fn done(&self, call: SystemCall) -> Result<Done, ApiError> {
        match self.ask(&call).await? {
            SystemReply::Done(done) => Ok(done),
            other => Err(odd(&other)),
        }
    }
}

async fn exchange(socket: &Path, call: &SystemCall) -> std::io::Result<SystemReply> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(call)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(REPLY_BYTES_MAX)).read_until(b'\n', &mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

fn no_appliance() -> ApiError {
    ApiError::new(
        ErrorCode::NotSupported,
        "this box runs on a Linux of its own, which keeps network, clock, disks and power itself",
        "use what that Linux has for it",
    )
}

fn odd(reply: &SystemReply) -> ApiError {
    let text = format!("{reply:?}");
    ApiError::internal(format!(
        "the first process answers something else: {}",
        text.chars().take(60).collect::<String>()
    ))
}

impl Appliance for Machine {
    async fn authenticate(&self, token: &str) -> Option<(String, Rights)> {
        let stored = self.store.token(StoredToken::id_in(token)?)?;
        stored.matches(token).then_some((stored.id, stored.rights))
    }

    async fn reset_describe(&self, level: ResetLevel) -> Result<Consequences, ApiError> {
        self.reset_consequences(level)
    }

    async fn reset(&self, level: ResetLevel) -> Result<(), ApiError> {
        self.done(SystemCall::Reset(Reset { level })).await.map(|_| ())
    }

    async fn system_show(&self, _: Nothing) -> Result<SystemStatus, ApiError> {
        match self.ask(&SystemCall::Show).await? {
            SystemReply::Show(status) => {
                Ok(SystemStatus { certificate_fingerprint: locked(&self.fingerprint).clone(), ..*status })
            }
            other => Err(odd(&other)),
        }
    }

    async fn system_network_set(&self, request: NetworkSettings) -> Result<Done, ApiError> {
        self.done(SystemCall::NetworkSet(request)).await
    }

    async fn system_network_keep(&self, _: Nothing) -> Result<Done, ApiError> {
        self.done(SystemCall::NetworkKeep).await
    }

    async fn system_time_set(&self, request: TimeSet) -> Result<Done, ApiError> {
        self.done(SystemCall::TimeSet(request)).await
    }

    async fn system_name_set(&self, request: NameSet) -> Result<Done, ApiError> {
        self.done(SystemCall::NameSet(request)).await
    }

    async fn system_disk_take(&self, request: DiskTake) -> Result<Done, ApiError> {
        self.done(SystemCall::DiskTake(request)).await
    }

    async fn system_logs(&self, request: LogQuery) -> Result<LogLines, ApiError> {
        match self.ask(&SystemCall::Logs(request)).await? {
            SystemReply::Logs(lines) => Ok(lines),
            other => Err(odd(&other)),
        }
    }

    async fn system_support(&self, _: Nothing) -> Result<SupportBundle, ApiError> {
        let status = locked(&self.status).as_ref().map(|status| status());
        match self.ask(&SystemCall::Support { status }).await? {
            SystemReply::Support(bundle) => Ok(bundle),
            other => Err(odd(&other)),
        }
    }

    async fn system_power(&self, request: Power) -> Result<Done, ApiError> {
        self.done(SystemCall::Power(request)).await
    }

    async fn admin_status(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        Ok(self.administrator.status())
    }

    async fn admin_password(&self, request: PasswordSet) -> Result<AdminStatus, ApiError> {
        let administrator = self.administrator.clone();
        super::blocking(move || administrator.set(&request)).await
    }

    async fn admin_password_reset(&self, request: PasswordReset) -> Result<AdminStatus, ApiError> {
        let administrator = self.administrator.clone();
        super::blocking(move || administrator.reset(&request.new)).await
    }

    async fn admin_code(&self, _: Nothing) -> Result<AdminCode, ApiError> {
        self.administrator.code()
    }

    async fn admin_sessions_end(&self, _: Nothing) -> Result<AdminStatus, ApiError> {
        let administrator = self.administrator.clone();
        super::blocking(move || administrator.end_sessions()).await
    }

    async fn admin_login(&self, request: Login) -> Result<AdminStatus, ApiError> {
        let administrator = self.administrator.clone();
        super::blocking(move || administrator.login(&request)).await
    }

    async fn notify_show(&self, _: Nothing) -> Result<NotifySettings, ApiError> {
        Ok(self.messages.show())
    }

    async fn notify_set(&self, request: NotifySettings) -> Result<NotifySettings, ApiError> {
        let messages = self.messages.clone();
        super::blocking(move || messages.set(request)).await
    }

    async fn notify_test(&self, _: Nothing) -> Result<NotifyTest, ApiError> {
        Ok(self.messages.test().await)
    }
}
