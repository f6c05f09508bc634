//! The daemon: threads, sockets, TLS, metrics, HTTP, control store.
