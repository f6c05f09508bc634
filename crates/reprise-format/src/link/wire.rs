//! From protobuf's loose fields to typed ones and back, with every bound checked on the way in.

use bytes::Bytes;
use reprise_types::{
    BoxId, BranchId, ByteLen, GroupId, HistoryHash, Point, SECTOR_END_MAX, Sector, SectorCount, Seq, VolumeId,
    VolumeSlot, WallMicros,
};

/// What prost generates from `proto/link.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub(super) mod pb {
    include!(concat!(env!("OUT_DIR"), "/reprise.link.v1.rs"));
}

/// Characters of a name or detail, in bytes. Longer text is refused, so that a peer cannot fill logs and status.
const TEXT_BYTES_MAX: usize = 512;

/// A message type that stands in lists, with the entries that one has at most.
pub(super) trait Listed: Sized {
    type Raw;
    const ENTRIES_MAX: usize;
    fn put_entry(&self) -> Self::Raw;
    fn get_entry(raw: Self::Raw) -> Result<Self, MessageError>;
}

/// Characters that end a line, move a cursor or turn the direction of writing.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The meta part of a message does not say what its kind must say. The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not a protobuf message of this kind.
    #[error("decode message")]
    Protobuf(#[from] prost::DecodeError),
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Message and field.
        field: &'static str,
    },
    /// A field of bytes has the wrong length.
    #[error("{field} has {len} bytes, {expected} expected")]
    Length {
        /// Message and field.
        field: &'static str,
        /// Bytes found.
        len: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A number is outside its range, or an enumeration has no such value.
    #[error("{field} has the value {value}, which means nothing")]
    Value {
        /// Message and field.
        field: &'static str,
        /// The value.
        value: i64,
    },
    /// A text or list is past its limit.
    #[error("{field} has {len} entries or bytes, at most {limit} allowed")]
    TooLong {
        /// Message and field.
        field: &'static str,
        /// Length found.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A text with characters that move a cursor, end a line or turn the direction of writing: it would write into a log or
    /// on a screen what it likes.
    #[error("{field} holds control characters")]
    Control {
        /// Message and field.
        field: &'static str,
    },
}

/// A typed field and the form `P` that protobuf gives it.
pub(super) trait Field<P>: Sized {
    fn put(&self) -> P;
    fn get(raw: P, field: &'static str) -> Result<Self, MessageError>;
}

macro_rules! plain {
    ($($ty:ty),*) => {$(
        impl Field<$ty> for $ty {
            fn put(&self) -> $ty { *self }
            fn get(raw: $ty, _: &'static str) -> Result<Self, MessageError> { Ok(raw) }
        }
    )*};
}
plain!(u32, u64, bool);

macro_rules! number {
    ($($ty:ty),*) => {$(
        impl Field<u64> for $ty {
            fn put(&self) -> u64 { self.get() }
            fn get(raw: u64, _: &'static str) -> Result<Self, MessageError> { Ok(<$ty>::from_raw(raw)) }
        }
    )*};
}
number!(ByteLen, WallMicros);

fn value(field: &'static str, raw: u64) -> MessageError {
    MessageError::Value { field, value: i64::try_from(raw).unwrap_or(i64::MAX) }
}

impl Field<u64> for Seq {
    fn put(&self) -> u64 {
        self.get()
    }
    fn get(raw: u64, field: &'static str) -> Result<Self, MessageError> {
        Self::from_outside(raw).ok_or_else(|| value(field, raw))
    }
}

macro_rules! sectors {
    ($($ty:ty),*) => {$(
        impl Field<u64> for $ty {
            fn put(&self) -> u64 { self.get() }
            fn get(raw: u64, field: &'static str) -> Result<Self, MessageError> {
                if raw <= SECTOR_END_MAX { Ok(<$ty>::from_raw(raw)) } else { Err(value(field, raw)) }
            }
        }
    )*};
}
sectors!(Sector, SectorCount);

impl Field<u32> for VolumeSlot {
    fn put(&self) -> u32 {
        u32::from(self.get())
    }
    fn get(raw: u32, field: &'static str) -> Result<Self, MessageError> {
        u16::try_from(raw).map(Self::from_raw).map_err(|_| MessageError::Value { field, value: i64::from(raw) })
    }
}

impl Field<Vec<u8>> for Bytes {
    fn put(&self) -> Vec<u8> {
        self.to_vec()
    }
    // A message as a whole has a bound, which is the bound of its bytes.
    fn get(raw: Vec<u8>, _: &'static str) -> Result<Self, MessageError> {
        Ok(Self::from(raw))
    }
}

impl Field<String> for String {
    fn put(&self) -> String {
        // Our own texts are cut and cleaned rather than refused by the peer.
        let clean: String = self.chars().map(|c| if is_control(c) { ' ' } else { c }).collect();
        let end = clean.floor_char_boundary(TEXT_BYTES_MAX);
        clean.get(..end).unwrap_or_default().to_owned()
    }
    fn get(raw: String, field: &'static str) -> Result<Self, MessageError> {
        if raw.len() > TEXT_BYTES_MAX {
            return Err(MessageError::TooLong { field, len: raw.len(), limit: TEXT_BYTES_MAX });
        }
        if raw.chars().any(is_control) {
            return Err(MessageError::Control { field });
        }
        Ok(raw)
    }
}

impl<const N: usize> Field<Vec<u8>> for [u8; N] {
    fn put(&self) -> Vec<u8> {
        self.to_vec()
    }
    fn get(raw: Vec<u8>, field: &'static str) -> Result<Self, MessageError> {
        raw.try_into().map_err(|raw: Vec<u8>| MessageError::Length { field, len: raw.len(), expected: N })
    }
}

impl<const N: usize> Field<Vec<u8>> for Option<[u8; N]> {
    fn put(&self) -> Vec<u8> {
        self.map_or_else(Vec::new, |bytes| bytes.to_vec())
    }
    fn get(raw: Vec<u8>, field: &'static str) -> Result<Self, MessageError> {
        if raw.is_empty() { Ok(None) } else { Field::get(raw, field).map(Some) }
    }
}

macro_rules! identity {
    ($($ty:ty),*) => {$(
        impl Field<Vec<u8>> for $ty {
            fn put(&self) -> Vec<u8> { self.as_bytes().to_vec() }
            fn get(raw: Vec<u8>, field: &'static str) -> Result<Self, MessageError> {
                <[u8; 16]>::get(raw, field).map(<$ty>::from_raw)
            }
        }
    )*};
}
identity!(BoxId, BranchId, GroupId, VolumeId, HistoryHash);

impl Field<Vec<u8>> for Option<HistoryHash> {
    fn put(&self) -> Vec<u8> {
        self.map_or_else(Vec::new, |hash| hash.put())
    }
    fn get(raw: Vec<u8>, field: &'static str) -> Result<Self, MessageError> {
        <Option<[u8; 16]>>::get(raw, field).map(|hash| hash.map(HistoryHash::from_raw))
    }
}

impl Field<Option<pb::Point>> for Point {
    fn put(&self) -> Option<pb::Point> {
        Some(pb::Point { branch: self.branch.put(), seq: self.seq.put(), hash: self.hash.put() })
    }
    fn get(raw: Option<pb::Point>, field: &'static str) -> Result<Self, MessageError> {
        let raw = raw.ok_or(MessageError::Missing { field })?;
        Ok(Self {
            branch: Field::get(raw.branch, "Point.branch")?,
            seq: Field::get(raw.seq, "Point.seq")?,
            hash: Field::get(raw.hash, "Point.hash")?,
        })
    }
}

impl Field<Option<pb::Point>> for Option<Point> {
    fn put(&self) -> Option<pb::Point> {
        self.as_ref().and_then(Field::put)
    }
    fn get(raw: Option<pb::Point>, field: &'static str) -> Result<Self, MessageError> {
        raw.map(|raw| Field::get(Some(raw), field)).transpose()
    }
}

impl<T: Listed> Field<Vec<T::Raw>> for Vec<T> {
    fn put(&self) -> Vec<T::Raw> {
        self.iter().map(T::put_entry).collect()
    }
    fn get(raw: Vec<T::Raw>, field: &'static str) -> Result<Self, MessageError> {
        if raw.len() > T::ENTRIES_MAX {
            return Err(MessageError::TooLong { field, len: raw.len(), limit: T::ENTRIES_MAX });
        }
        raw.into_iter().map(T::get_entry).collect()
    }
}

/// A message type: the typed struct, and both ways between it and what prost generates.
macro_rules! message {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl $name {
            pub(in crate::link) fn put_pb(&self) -> $crate::link::wire::pb::$name {
                $crate::link::wire::pb::$name { $($field: self.$field.put(),)* }
            }
            #[allow(unused_variables)]
            pub(in crate::link) fn from_pb(
                raw: $crate::link::wire::pb::$name,
            ) -> Result<Self, $crate::link::wire::MessageError> {
                Ok(Self { $($field: Field::get(raw.$field, concat!(stringify!($name), ".", stringify!($field)))?,)* })
            }
        }

        impl Field<Option<$crate::link::wire::pb::$name>> for $name {
            fn put(&self) -> Option<$crate::link::wire::pb::$name> {
                Some(self.put_pb())
            }
            fn get(
                raw: Option<$crate::link::wire::pb::$name>,
                field: &'static str,
            ) -> Result<Self, $crate::link::wire::MessageError> {
                Self::from_pb(raw.ok_or($crate::link::wire::MessageError::Missing { field })?)
            }
        }

        impl Field<Option<$crate::link::wire::pb::$name>> for Option<$name> {
            fn put(&self) -> Option<$crate::link::wire::pb::$name> {
                self.as_ref().map($name::put_pb)
            }
            fn get(
                raw: Option<$crate::link::wire::pb::$name>,
                _: &'static str,
            ) -> Result<Self, $crate::link::wire::MessageError> {
                raw.map($name::from_pb).transpose()
            }
        }

    };
}

/// An enumeration with a number per value; 0 is never given, so that an absent field is an error.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $code:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_meta])* $value = $code,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];
        }

        impl Field<i32> for $name {
            fn put(&self) -> i32 {
                *self as i32
            }
            fn get(raw: i32, field: &'static str) -> Result<Self, $crate::link::wire::MessageError> {
                match raw {
                    $($code => Ok(Self::$value),)*
                    _ => Err($crate::link::wire::MessageError::Value { field, value: i64::from(raw) }),
                }
            }
        }
    };
}

pub(super) use {codes, message};
