//! Block media: files and block devices under direct I/O, driven by io_uring from one thread.
//!
//! The only crate of reprise with `unsafe` code; each block says why it is sound. It moves bytes between aligned buffers
//! and media and tells durable from not durable. It does *not* know journals, volumes, order or checksums, and it never
//! retries a failed write or sync: that a sync failed once is what its caller must be told.
//!
//! * [`Media`]: an opened file or device, its size, alignment, identity and lock.
//! * [`Ring`]: the engine of one owner thread; io_uring, or a few threads with `pwritev2` where io_uring is forbidden.
//! * [`create_file`], [`grow_file`]: files written fully, with progress and cancel; [`zero_fill`] and [`take_room`] for
//!   a [`Media::window`], a part of a medium that is used as one.
//! * [`add_partition`], [`discard`] and their like: ioctls on whole disks.
//! * [`dm_ioctl`], [`watchdog_keep_alive`]: what a machine's first process asks of the kernel.
//! * [`Content`]: what a medium carries already, asked before anything is overwritten.
//! * [`DurabilityChoice`]: which of two durable writes is faster on this medium now.
//! * [`FaultPlan`]: injected faults for tests.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks, missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod blocking;
mod choice;
mod create;
mod error;
mod fault;
mod kernel;
mod mapped;
mod media;
mod op;
mod partition;
mod probe;
mod ring;
mod sys;
mod threads;
mod uring;

pub use choice::{Chosen, DurabilityChoice};
pub use create::{Fill, Progress, create_file, grow_file, take_room, zero_fill};
pub use error::MediaError;
pub use fault::{FaultAction, FaultPlan, FaultRule, FaultRuleError, FaultTarget};
pub use kernel::{DM_HEADER_LEN, DmCall, dm_ioctl, watchdog_keep_alive, watchdog_set_timeout};
pub use mapped::{Room, Run};
pub use media::{Access, Direct, Geometry, Identity, Media, MediaKind, MediaOptions};
pub use op::{Durability, Op, Outcome};
pub use partition::{add_partition, delete_partition, discard, write_zeros};
pub use probe::{Content, HEAD_LEN, Signature, TAIL_LEN, probe_content};
pub use ring::{BACKLOG_MAX, Driver, Engine, EngineChoice, Pending, PendingRead, Ring, RingConfig, RingStats};
