//! `reprise web`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use nix::sys::stat::{Mode, umask};
use reprise_console::web::{self, SessionLimits, WebConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Where the console listens.
#[derive(Debug, Args)]
pub(crate) struct WebArgs {
    /// Address for HTTPS; may be given several times
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,
    /// Address for plain HTTP, which only sends browsers to HTTPS
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Certificate of the box (PEM); waited for
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key (PEM); waited for
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Serves the console until it is told to stop.
pub(crate) fn run(args: WebArgs, socket: PathBuf) -> anyhow::Result<()> {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A line for which there is no room, or no reader, is lost; to say so on the same stream would end the process.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(reprise_node::log::OneLine(std::io::stderr))
        .with_ansi(false)
        .init();
    let config = WebConfig {
        listen_https: args.listen,
        listen_http: args.http,
        api_socket: socket,
        cert: args.cert,
        key: args.key,
        sessions: SessionLimits::default(),
    };
    // The box is busy with other things; a few browsers need no more than two threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let (stop, stopped) = watch::channel(false);
        let mut serving = tokio::spawn(web::serve(config, stopped));
        tokio::select! {
            ended = &mut serving => return ended.context("the web console ended")?,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let _ = stop.send(true);
        serving.await.context("the web console ended")?
    })
}
