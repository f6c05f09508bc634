//! The oracle: it knows what was written and acknowledged, looks at images, and says whether they can be.
//!
//! Independent of the engine. Every sector that its writers write says which operation wrote it ([`stamp`]); the
//! [`OpLog`] says when each was issued and acknowledged. From this:
//!
//! * [`check_image`]: no acknowledged write is lost, none is torn, and there is one order that explains all sectors.
//! * [`compare_images`]: two images are equal byte for byte.
//! * [`check_records`], [`check_prefix`]: a box's record list is an order that the log allows, and an image is exactly
//!   the replay of its first S records.
//! * [`run_writers`]: the load itself, through iSCSI.

mod check;
mod image;
mod log;
mod prefix;
pub mod stamp;
mod writers;

pub use check::{FAULTS_MAX, ImageFault, ImageReport, check_image};
pub use image::{Difference, FileImage, Image, compare_images, dump_volume};
pub use log::{Op, OpId, OpKind, OpLog, OpLogError};
pub use prefix::{
    PrefixReport, Record, RecordFault, RecordsReport, check_prefix, check_records, covers_acknowledged, parse_records,
};
pub use writers::{Target, WriterPlan, WriterReport, run_writers};
