//! `reprise pair`.

use std::io::IsTerminal;
use std::time::Duration;

use reprise_api::{ApiError, Client, ClientError, ErrorCode, Nothing, PairDial, PairListen, PairState, PairStatus};

use crate::args::PairArgs;
use crate::commands::print_json;
use crate::say::err;
use crate::units::{plain, secs};
use crate::{Usage, ask};

/// Between two looks at a pairing.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(crate) async fn run(client: &Client, json: bool, args: PairArgs) -> anyhow::Result<()> {
    if args.status {
        return show(&client.pair_status(&Nothing {}).await?, json);
    }
    if args.cancel {
        return show(&client.pair_cancel(&Nothing {}).await?, json);
    }
    if args.listen {
        return listen(client, json, &args).await;
    }
    let Some(address) = args.address else {
        return Err(Usage::error("give --listen, or the address of the box that listens"));
    };
    let code = match args.code {
        Some(code) => code,
        None => ask::code()?,
    };
    outcome(client.pair_dial(&PairDial { address, code }).await?, json)
}

async fn listen(client: &Client, json: bool, args: &PairArgs) -> anyhow::Result<()> {
    let offer = client.pair_listen(&PairListen { valid_secs: args.valid_secs }).await?;
    if json {
        print_json(&offer)?;
    } else {
        outln!("Code: {}", plain(&offer.code))?;
        outln!("On the other box, within {}:", secs(offer.expires_in_secs.into()))?;
        for address in &offer.addresses {
            outln!("  reprise pair {}", plain(address))?;
        }
    }
    if args.no_wait {
        return Ok(());
    }
    let progress = !json && std::io::stderr().is_terminal();
    loop {
        let status = client.pair_status(&Nothing {}).await?;
        let line = match &status.state {
            PairState::Listening { expires_in_secs } => {
                format!("waiting for the other box, {} left", secs((*expires_in_secs).into()))
            }
            PairState::Exchanging { address } => format!("talking to {}", plain(address)),
            _ => {
                clear(progress);
                return outcome(status, json);
            }
        };
        if progress {
            err(format_args!("\r\u{1b}[K{line}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn clear(progress: bool) {
    if progress {
        err(format_args!("\r\u{1b}[K"));
    }
}

/// Shows how a pairing ended; one that did not come about is a refusal.
fn outcome(status: PairStatus, json: bool) -> anyhow::Result<()> {
    let again = "try again: reprise pair --listen on one box, reprise pair ADDRESS on the other";
    let failed = |text: &str| ApiError::new(ErrorCode::PairingFailed, text, again);
    let error = match &status.state {
        PairState::Failed { error } => error.clone(),
        PairState::Expired => failed("the code expired before the other box used it"),
        PairState::Cancelled => failed("the pairing was cancelled"),
        PairState::Idle => failed("the pairing is over and its outcome is gone"),
        PairState::Listening { .. } | PairState::Exchanging { .. } | PairState::Paired { .. } => {
            return show(&status, json);
        }
    };
    Err(ClientError::Refused(error).into())
}

fn show(status: &PairStatus, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(status);
    }
    match &status.state {
        PairState::Idle => outln!("No pairing is under way."),
        PairState::Listening { expires_in_secs } => {
            outln!("Waiting for the other box, {} left.", secs((*expires_in_secs).into()))
        }
        PairState::Exchanging { address } => outln!("Talking to {}.", plain(address)),
        PairState::Paired { peer, address, .. } => outln!("Paired with {peer} at {}.", plain(address)),
        PairState::Failed { error } => outln!("Failed: {}\n{}", plain(&error.message), plain(&error.what_to_do)),
        PairState::Expired => outln!("The code expired."),
        PairState::Cancelled => outln!("Cancelled."),
    }
}
