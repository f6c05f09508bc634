//! Bytes to types and back: batch, segment, superblock, link frames.
