//! The first process of the appliance, twice: [`early`] runs from the initial memory disk, checks the root and goes over
//! into it; [`system`] is the same program in that root, and stays.
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod early;
pub mod system;

/// Goes the way this process was started for.
///
/// # Errors
/// It was started by somebody who is not the kernel.
pub fn main() -> anyhow::Result<()> {
    anyhow::bail!("this is the first process of an appliance; it is started by the kernel")
}
