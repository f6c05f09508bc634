//! A group: feed, cursors, gates, branches, roles. Sans I/O.
