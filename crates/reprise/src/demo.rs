//! The command line of `reprise demo`.

use std::path::PathBuf;

use clap::Args;
use reprise_api::ByteSize;

/// What the demo does.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the pair running until SIGTERM
    #[arg(long)]
    pub(crate) stay: bool,
    /// Where the two boxes keep their data; a temporary directory if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Size of the volume
    #[arg(long, default_value = "1G")]
    pub(crate) size: ByteSize,
    /// Disk image to copy onto the volume
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
}
