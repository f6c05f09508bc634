//! Cursors: how far home and peer are in the durable history, and what keeps them from going further.

mod gate;
mod leg;
mod peer;

pub use gate::Hold;
pub(crate) use gate::Limit;
pub(crate) use leg::Leg;
pub use leg::ROUND_BYTES_MAX;
pub(crate) use peer::Peer;
pub use peer::PeerTrouble;
