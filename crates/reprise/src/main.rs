//! The one binary of reprise: the daemon and the command line.
//!
//! The command line is a client of the API and of nothing else. It ends with 0 when done, 1 when the box refused, 2 for
//! a command line that is not understood, and 3 when the box cannot be reached.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]
// They panic when the reader is gone; `say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod say;

mod args;
mod ask;
mod commands;
#[cfg(feature = "daemon")]
mod daemon;
#[cfg(feature = "demo")]
mod demo;
mod initiator;
mod pair;
mod render;
mod system;
mod target;
#[cfg(feature = "torture")]
mod torture;
mod units;
mod verify;
#[cfg(feature = "console")]
mod web;

use std::process::ExitCode;

use clap::Parser;
use reprise_api::ClientError;

use crate::args::{Cli, Command};

/// Buffers of a few KiB come and go in the tens of thousands a second, aligned to pages: glibc's allocator spends a
/// system call on most of them.
#[cfg(feature = "daemon")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The box refused, or something failed here.
const EXIT_REFUSED: u8 = 1;
/// The command line is not understood; clap ends with the same number.
const EXIT_USAGE: u8 = 2;
/// The box cannot be reached.
const EXIT_UNREACHABLE: u8 = 3;

/// The command line asks for something that cannot be done as it stands.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct Usage {
    /// What is wrong, and what to write.
    problem: &'static str,
}

impl Usage {
    pub(crate) fn error(problem: &'static str) -> anyhow::Error {
        anyhow::Error::new(Self { problem })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    let outcome = match cli.command {
        #[cfg(feature = "daemon")]
        Command::Run { config } => daemon::run(&config),
        #[cfg(feature = "console")]
        Command::Console { tty, plain, system } => {
            let socket = cli.global.socket;
            reprise_console::serial::run(&reprise_console::serial::Options { socket, system, tty, plain })
        }
        #[cfg(feature = "console")]
        Command::Web(args) => web::run(args, cli.global.socket),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, json),
        #[cfg(feature = "torture")]
        Command::Torture(args) => torture::run(&args, &cli.global),
        Command::Verify(args::VerifyArgs { check: Some(file), .. }) => verify::check(&file, json),
        command => client(&cli.global, command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(report(&error, json)),
    }
}

fn client(global: &args::Global, command: Command) -> anyhow::Result<()> {
    let client = target::client(global)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(&client, global.json, command))
}

/// Says what went wrong and what to do, and gives the exit code.
fn report(error: &anyhow::Error, json: bool) -> u8 {
    // A reader that has seen enough (`| head`) is no failure of ours.
    if error.is::<say::ReaderGone>() {
        return 0;
    }
    if error.is::<Usage>() || error.is::<reprise_api::client::TargetError>() {
        errln!("error: {error}");
        return EXIT_USAGE;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(refusal)) => {
            if json && let Ok(text) = serde_json::to_string(refusal) {
                // The number of the exit says it, too.
                let _ = outln!("{text}");
            }
            errln!("error: {}", units::plain(&refusal.message));
            if !refusal.what_to_do.is_empty() {
                errln!("what to do: {}", units::plain(&refusal.what_to_do));
            }
            EXIT_REFUSED
        }
        Some(
            unreachable @ (ClientError::Unreachable { .. } | ClientError::Tls { .. } | ClientError::Broken { .. }),
        ) => {
            errln!("error: {}", units::plain(&chain(unreachable)));
            errln!("what to do: {}", target::advice(unreachable));
            EXIT_UNREACHABLE
        }
        _ => {
            errln!("error: {error:#}");
            EXIT_REFUSED
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
