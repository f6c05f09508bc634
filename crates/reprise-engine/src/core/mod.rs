//! What every part of a group works with: its journal, its superblock, what it asks of others, and the time.

mod effects;
mod pins;
mod reads;
mod segments;
mod shared;
mod superblock;

pub(crate) use effects::{Effects, Open, Part};
pub(crate) use pins::{BelowApplying, PinId, Why};
pub(crate) use reads::{ReadDone, Reader, RegionRead};
pub(crate) use segments::ReadName;
pub(crate) use shared::Core;
pub use shared::{GroupConfig, GroupStats};
pub(crate) use superblock::{Barrier, MetaStore, SUPERBLOCK_FILL_OWN, SUPERBLOCK_FILL_PEER, superblock_has_room};
