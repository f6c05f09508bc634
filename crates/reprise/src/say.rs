//! Words for whoever runs a command. Whoever reads them may be gone (`| head`) or have no room; that is never a panic.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;

/// The reader of standard output has gone: it has seen enough, and the command ends quietly.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the answer is gone")]
pub(crate) struct ReaderGone;

/// Writes to standard output, all of it or an error.
pub(crate) fn out(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        result => result.context("write the answer"),
    }
}

/// Writes to standard error. There is no other place to say that this failed.
pub(crate) fn err(text: fmt::Arguments<'_>) {
    let mut err = io::stderr().lock();
    let _ = err.write_fmt(text).and_then(|()| err.flush());
}

/// A line to standard output; a `Result`.
macro_rules! outln {
    ($($text:tt)*) => { $crate::say::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// A line to standard error.
macro_rules! errln {
    ($($text:tt)*) => { $crate::say::err(format_args!("{}\n", format_args!($($text)*))) };
}
