//! Where records come from: hosts on a source, the link on a mirror. What units remember comes from both.

mod host;
mod link;
mod unit;

pub(crate) use host::HostFeed;
pub(crate) use link::{LinkFeed, Standing};
pub(crate) use unit::Units;
