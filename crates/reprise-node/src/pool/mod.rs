//! The pool: a cache half that is cut into segments, and a data half of homes.

mod allocator;
mod data;
mod layout;
mod private;
mod prove;

pub use allocator::{Allocator, IndexShare};
pub use data::{DataError, DataHalf, Home, HomeName, KEEP_FREE, Make};
pub use layout::{DataPlace, GroupSlot, OpenedGroup, Pool, PoolConfig, PoolError};
pub(crate) use private::make_folder;
pub use prove::{Lost, Proven};
