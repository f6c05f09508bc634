//! The pool: a cache half that is cut into segments, and a data half of home files.

mod allocator;
mod layout;

pub use allocator::Allocator;
pub use layout::{GroupSlot, OpenedGroup, Pool, PoolConfig, PoolError};
