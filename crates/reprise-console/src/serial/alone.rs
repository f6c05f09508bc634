//! What an appliance still does when its daemon does not answer: its first process is asked itself.
//!
//! Everything else on this console goes through the daemon's API. A daemon that cannot start must not be what stands between
//! a person with a cable and the way to give the box up: the machine's state, its logs, power, and the resets need none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reprise_api::{
    Action, ActionDone, ApiError, Client, Confirm, Preview, PreviewRequest, Reset, ResetLevel, SystemCall, SystemReply,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::call::{Answer, Call, Refusal};

/// Longest wait for the first process.
const REPLY_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest answer that is read: a log with its most lines.
const REPLY_BYTES_MAX: u64 = 8 << 20;
/// What a confirmation of a reset begins with that the daemon knows nothing of. Nothing can change between the two steps,
/// and whoever is at this console may do both.
const TOKEN: &str = "without-the-daemon:";

/// The box: its daemon, and on an appliance its first process.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    /// The daemon's API.
    pub(super) client: Client,
    /// The socket of the first process; none on a Linux of one's own.
    pub(super) system: Option<PathBuf>,
}

impl Reach {
    /// Has the daemon do it; where that is not there, the first process, if it can.
    ///
    /// # Errors
    /// Refused, or neither can be reached.
    pub(super) async fn carry_out(&self, call: Call) -> Result<Answer, Refusal> {
        let Some(socket) = &self.system else { return call.carry_out(&self.client).await };
        let of_system = system_call(&call);
        // A confirmation that the daemon has not given out is none of its business.
        let own = matches!(&call, Call::Confirm(Confirm { token }) if token.starts_with(TOKEN));
        if !own {
            match call.clone().carry_out(&self.client).await {
                Err(refusal) if refusal.code.is_none() => match of_system {
                    None => return Err(told(refusal)),
                    Some(Alone::Ask(_) | Alone::Preview(_)) => {}
                },
                answer => return answer,
            }
        }
        match of_system {
            Some(Alone::Preview(level)) => Ok(Answer::Preview(Box::new(preview(level)))),
            Some(Alone::Ask(system)) => taken(&call, exchange(socket, &system).await),
            None => Err(unknown()),
        }
    }
}

/// What the first process is for.
enum Alone {
    Ask(SystemCall),
    Preview(ResetLevel),
}

fn system_call(call: &Call) -> Option<Alone> {
    Some(Alone::Ask(match call {
        Call::SystemShow(_) => SystemCall::Show,
        Call::Logs(query) => SystemCall::Logs(query.clone()),
        Call::Power(power) => SystemCall::Power(*power),
        Call::Preview(PreviewRequest { action: Action::SystemReset { level } }) => return Some(Alone::Preview(*level)),
        Call::Confirm(Confirm { token }) => SystemCall::Reset(Reset { level: level_in(token)? }),
        _ => return None,
    }))
}

fn level_in(token: &str) -> Option<ResetLevel> {
    let level = token.strip_prefix(TOKEN)?;
    [ResetLevel::Settings, ResetLevel::Forget, ResetLevel::Wipe].into_iter().find(|l| l.as_str() == level)
}

fn preview(level: ResetLevel) -> Preview {
    let summary =
        "The daemon does not answer; the box does this without it. It starts again and resets itself before it serves.";
    Preview {
        action: Action::SystemReset { level },
        summary: summary.to_owned(),
        losses: level.losses().map(str::to_owned).collect(),
        token: format!("{TOKEN}{}", level.as_str()),
        expires_in_secs: 120,
    }
}

/// The answer as the daemon would have given it.
fn taken(call: &Call, reply: io::Result<SystemReply>) -> Result<Answer, Refusal> {
    match (call, reply) {
        (_, Err(error)) => Err(Refusal {
            code: None,
            message: format!("neither the daemon nor the first process answers: {error}"),
            what_to_do: "switch the machine off and on".to_owned(),
        }),
        (_, Ok(SystemReply::Error(ApiError { code, message, what_to_do }))) => {
            Err(Refusal { code: Some(code), message, what_to_do })
        }
        (Call::SystemShow(_), Ok(SystemReply::Show(status))) => Ok(Answer::SystemShow(status)),
        (Call::Logs(_), Ok(SystemReply::Logs(lines))) => Ok(Answer::Logs(Box::new(lines))),
        (Call::Power(_), Ok(SystemReply::Done(done))) => Ok(Answer::Power(Box::new(done))),
        (Call::Confirm(Confirm { token }), Ok(SystemReply::Done(_))) => {
            let level = level_in(token).ok_or_else(unknown)?;
            Ok(Answer::Confirm(Box::new(ActionDone { action: Action::SystemReset { level }, job: None })))
        }
        _ => Err(unknown()),
    }
}

fn unknown() -> Refusal {
    Refusal { code: None, message: "the first process answers something else".to_owned(), what_to_do: String::new() }
}

fn told(refusal: Refusal) -> Refusal {
    let what_to_do = format!("{}; logs, power and resets work without it", refusal.what_to_do);
    Refusal { what_to_do, ..refusal }
}

async fn exchange(socket: &Path, call: &SystemCall) -> io::Result<SystemReply> {
    let talk = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(call)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        BufReader::new(stream.take(REPLY_BYTES_MAX)).read_until(b'\n', &mut answer).await?;
        Ok(serde_json::from_slice(&answer)?)
    };
    tokio::time::timeout(REPLY_TIME_MAX, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
