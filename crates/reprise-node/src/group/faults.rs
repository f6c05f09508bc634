//! The switch for tests: makes the disks of a running daemon fail. Compiled in by the feature `test-faults` only.
//!
//! `REPRISE_TEST_FAULTS` names a folder. In it a file with the name of a group has rules, a line each, as
//! [`reprise_media::FaultRule`] reads them. The group's thread looks at it at every tick; a file that has changed is a new plan
//! with its counts at zero, an empty or missing one ends all faults.

use std::path::PathBuf;

use reprise_media::{FaultPlan, Ring};

/// Names the folder.
const VARIABLE: &str = "REPRISE_TEST_FAULTS";

/// The file and what it said last.
pub(super) struct Switch {
    path: Option<PathBuf>,
    text: String,
}

impl Switch {
    pub(super) fn from_env(group: &str) -> Self {
        let path = std::env::var_os(VARIABLE).map(|folder| PathBuf::from(folder).join(group));
        if let Some(path) = &path {
            tracing::warn!(path = %path.display(), "this build makes disks fail on demand: it is for tests only");
        }
        Self { path, text: String::new() }
    }

    /// Takes the rules where they have changed.
    pub(super) fn look(&mut self, ring: &Ring) {
        let Some(path) = &self.path else { return };
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text == self.text {
            return;
        }
        match text.parse::<FaultPlan>() {
            Ok(plan) => ring.set_faults((!text.trim().is_empty()).then_some(plan)),
            // A test that asks for what there is not must not pass.
            Err(error) => panic!("{VARIABLE}: {error}"),
        }
        self.text = text;
    }
}
