//! What automation and the testers share: starting programs and boxes, Debian's packages, the appliance's image.
//!
//! It links none of the product's crates, so that it is built in seconds and cannot be broken by them.
#![forbid(unsafe_code)]

pub mod boxes;
pub mod cpio;
pub mod debian;
pub mod image;
pub mod ports;
pub mod process;
pub mod setup;

/// Features of the tests: the daemon under test can be told to have bad disks.
pub const TEST_FEATURES: &str = "reprise/test-faults";
/// Those of the browser's tests, with the features of the others, so that nothing below the consoles is built again.
pub const BROWSER_FEATURES: &str = "reprise/test-faults,reprise-console/browser-tests";
