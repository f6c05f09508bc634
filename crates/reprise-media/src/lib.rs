//! Block media: io_uring engine, direct I/O, system calls; the only crate with unsafe code.
