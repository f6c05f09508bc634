//! Questions to the person at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use reprise_api::Preview;

use crate::Usage;
use crate::units::plain;

/// Longest line read from a person.
const LINE_BYTES_MAX: u64 = 256;

fn line() -> io::Result<String> {
    let mut text = String::new();
    io::Read::take(io::stdin().lock(), LINE_BYTES_MAX).read_line(&mut text)?;
    Ok(text.trim().to_owned())
}

/// True if the person, having read what is lost, typed yes.
pub(crate) fn confirmed(preview: &Preview) -> anyhow::Result<bool> {
    let mut err = io::stderr().lock();
    writeln!(err, "{}", plain(&preview.summary))?;
    for loss in &preview.losses {
        writeln!(err, "  lost: {}", plain(loss))?;
    }
    if !io::stdin().is_terminal() {
        return Err(Usage::error("nobody is there to confirm this: use --yes"));
    }
    write!(err, "Type yes to go on: ")?;
    err.flush()?;
    Ok(line()? == "yes")
}

/// The pairing code, as the person reads it from the other box.
pub(crate) fn code() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let mut err = io::stderr().lock();
        write!(err, "Code shown by the other box: ")?;
        err.flush()?;
    }
    let code = line()?;
    if code.is_empty() {
        return Err(Usage::error("no code given: use --code"));
    }
    Ok(code)
}
