//! From the initial memory disk to the checked root.
