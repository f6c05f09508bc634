//! The ordered journal: append, commit, recover, read, trim, index. Sans I/O.
