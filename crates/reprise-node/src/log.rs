//! The log: one event, one line, whatever the event quotes.
//!
//! What a peer, a host or a file says comes into events as fields and error texts. An end of a line in it would begin a line
//! that looks like one of the box's own, an audit line even; an escape would write on the screen of whoever reads. So what is
//! written is cleaned as the last thing before it leaves the process, wherever it came from.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// A writer of the log that keeps each event on one line. An event comes in one piece.
#[derive(Debug, Clone)]
pub struct OneLine<M>(pub M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = Cleaned<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Cleaned(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        Cleaned(self.0.make_writer_for(meta))
    }
}

/// See [`OneLine`].
#[derive(Debug)]
pub struct Cleaned<W>(W);

impl<W: Write> Write for Cleaned<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = match text.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*text, ""),
        };
        let moves =
            |c: char| c.is_control() && c != '\t' || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if line.contains(moves) {
            let mut clean = String::with_capacity(event.len());
            for c in line.chars() {
                if moves(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
            }
            clean.push_str(end);
            self.0.write_all(clean.as_bytes())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stranger once closed a connection with a reason that held the end of a line and an audit line behind it: that line
    /// stood in the log as if the box had written it.
    #[test]
    fn nobody_writes_lines_of_their_own() {
        let forged =
            "x\n2026-11-28T03:00:00Z  INFO audit: done who=\"uid 0\" what=\"token_create\"\r\u{1b}[2J\u{9b}1m\u{202e}";
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(OneLine(move || writer.clone())).finish();
        tracing::subscriber::with_default(log, || {
            let error = io::Error::other(forged);
            tracing::warn!(name = %forged, error = &error as &dyn std::error::Error, "refused: {forged}");
            tracing::info!("größer\tals vorher");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        assert_eq!(lines.len(), 3, "two events, two lines: {text}");
        assert!(lines[0].contains("x\\n2026-11-28T03:00:00Z") && lines[0].contains("\\u{1b}[2J"), "{text}");
        assert!(!lines[0].contains(|c: char| c.is_control()) && !text.contains('\u{202e}'), "{text}");
        assert!(lines[1].ends_with("größer\tals vorher"), "{text}");
    }
}
