//! `reprise run`.

use std::path::Path;

use reprise_api::Settings;

/// Runs the box until it is told to stop.
pub(crate) fn run(config: &Path) -> anyhow::Result<()> {
    reprise_node::run(Settings::load(config)?)
}
