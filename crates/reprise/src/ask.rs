//! Questions to the person at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use reprise_api::{ChapSecret, Preview};

use crate::Usage;
use crate::say::err;
use crate::units::plain;

/// Longest line read from a person: a secret of 255 bytes and the ends of a line.
const LINE_BYTES_MAX: u64 = 257;

fn raw_line() -> io::Result<String> {
    let mut text = String::new();
    io::Read::take(io::stdin().lock(), LINE_BYTES_MAX).read_line(&mut text)?;
    Ok(text)
}

fn line() -> io::Result<String> {
    Ok(raw_line()?.trim().to_owned())
}

/// A secret of CHAP.
pub(crate) fn secret(of: &str) -> anyhow::Result<ChapSecret> {
    Ok(password(of)?.parse::<ChapSecret>()?)
}

/// Typed without being shown, or a line of standard input.
pub(crate) fn password(of: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    let text = if stdin.is_terminal() {
        err(format_args!("{of}: "));
        let before = tcgetattr(&stdin)?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent)?;
        let text = raw_line();
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &before)?;
        errln!("");
        text?
    } else {
        raw_line()?
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
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
