//! Why a home cannot be made, opened or given more room, as the API says it.

use reprise_api::{ApiError, ErrorCode};
use reprise_media::MediaError;

use crate::pool::DataError;
use crate::service::chain;

/// Failure of a medium as the API says it.
pub(in crate::service) fn media_error(error: &MediaError) -> ApiError {
    let code = match error {
        MediaError::NoSpace { .. } => ErrorCode::NoSpace,
        MediaError::Exists { .. } => ErrorCode::NameTaken,
        MediaError::DeviceBusy { .. } | MediaError::Locked { .. } | MediaError::BacksLoop { .. } => ErrorCode::InUse,
        MediaError::Cancelled { .. } => ErrorCode::WrongState,
        _ => ErrorCode::DeviceUnusable,
    };
    let what = match error {
        MediaError::NoSpace { .. } => "free some room, or make the volume smaller or thin",
        MediaError::Exists { .. } => "move the file away, or adopt it: reprise volume adopt",
        MediaError::DeviceBusy { .. } => "unmount it, and stop what uses it",
        MediaError::Locked { .. } => "stop the process that uses it",
        MediaError::BacksLoop { .. } => "adopt the loop device, or detach it first: losetup -d",
        MediaError::Cancelled { .. } => "",
        _ => "name a block device or a raw image on this box",
    };
    ApiError::new(code, chain(error), what)
}

pub(super) fn no_space(needed: u64, free: u64) -> ApiError {
    let text = format!("the data half has {free} bytes free, {needed} are needed");
    ApiError::new(ErrorCode::NoSpace, text, "free some room, or make the volume smaller")
}

/// Failure of the data half as the API says it.
pub(in crate::service) fn data_error(error: &DataError) -> ApiError {
    let (code, what) = match error {
        DataError::Media(error) => return media_error(error),
        DataError::NoRun { free, needed, .. } if free >= needed => {
            (ErrorCode::NoSpace, "make the volume smaller, or erase volumes whose homes lie beside each other")
        }
        DataError::NotBehind { .. } => {
            (ErrorCode::NoSpace, "grow it by less, erase the volume behind it, or copy it onto a larger volume")
        }
        DataError::NoRun { .. } => (ErrorCode::NoSpace, "free some room, or make the volume smaller"),
        DataError::TableFull => (ErrorCode::LimitReached, "erase volumes first"),
        DataError::Thin { .. } => (ErrorCode::NotSupported, "leave --thin out, or use a folder as pool.data"),
        DataError::Unknown { .. } => (ErrorCode::DeviceUnusable, "put the disk of the data half back"),
        DataError::Failed | DataError::Table(_) => {
            (ErrorCode::Internal, "look after the disk of the data half, then start the box again")
        }
        DataError::NotText { .. } => (ErrorCode::DeviceUnusable, "use a path that is UTF-8"),
        DataError::Io { .. } => return ApiError::internal(chain(error)),
    };
    ApiError::new(code, chain(error), what)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use reprise_types::ByteLen;

    use super::*;

    #[test]
    fn media_errors_have_codes_that_fit() {
        let path = PathBuf::from("/x");
        assert_eq!(media_error(&MediaError::DeviceBusy { path: path.clone() }).code, ErrorCode::InUse);
        assert_eq!(media_error(&MediaError::NotBlockMedia { path: path.clone() }).code, ErrorCode::DeviceUnusable);
        let (needed, free) = (ByteLen::from_raw(2), ByteLen::from_raw(1));
        assert_eq!(media_error(&MediaError::NoSpace { path, needed, free }).code, ErrorCode::NoSpace);
    }
}
