//! What a decoder says about bytes it refuses.

/// Bytes from disk or wire that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {have} bytes where {need} are needed")]
    Short {
        /// The structure.
        what: &'static str,
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// The magic number is another: these bytes were never such a structure.
    #[error("{what}: no magic number")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// Written by a newer release than this one.
    #[error("{what}: version {found}, this release reads up to {known}; install the release that wrote it")]
    Version {
        /// The structure.
        what: &'static str,
        /// Version found.
        found: u16,
        /// Newest version known.
        known: u16,
    },
    /// An incompatible feature bit is set that this release does not know.
    #[error("{what}: unknown incompatible features {bits:#x}; install the release that wrote it")]
    Features {
        /// The structure.
        what: &'static str,
        /// The unknown bits.
        bits: u64,
    },
    /// A checksum does not match: torn or rotten.
    #[error("{what}: checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// Checksum computed over the bytes.
        found: u32,
        /// Checksum stored with them.
        expected: u32,
    },
    /// A field is outside its range or contradicts another.
    #[error("{what}: field {field} = {value} is out of range")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A protobuf message does not decode.
    #[error("{what}: message does not decode")]
    Message {
        /// The structure.
        what: &'static str,
        /// The decoder's reason.
        #[source]
        source: prost::DecodeError,
    },
    /// What can be read may be older than what cannot.
    #[error("{what}: the disk gives errors where a newer copy may be; check the disk, then start again")]
    Unreadable {
        /// The structure.
        what: &'static str,
    },
}
