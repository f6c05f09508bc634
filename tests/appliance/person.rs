//! Somebody at a serial console: reads the screen and types.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::vm::Vm;

/// Longest wait for what follows a key.
const ANSWER: Duration = Duration::from_secs(90);
/// After so long without a question the page is drawn again, by Ctrl-L.
const REDRAW: Duration = Duration::from_secs(15);
/// So long nothing must come before a screen is taken as complete.
const CALM: Duration = Duration::from_millis(150);

/// A machine, the screen at its serial line and whoever sits there.
pub(super) struct Person {
    pub(super) vm: Vm,
    screen: vt100::Parser,
    /// Lines typed so far: an Enter is one.
    pub(super) inputs: u32,
}

impl Person {
    pub(super) fn sits_at(vm: Vm) -> Self {
        Self { vm, screen: vt100::Parser::new(24, 80, 0), inputs: 0 }
    }

    /// What is on the screen.
    pub(super) fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// The line where is typed.
    fn prompt(&self) -> String {
        let screen = self.screen.screen();
        let (row, _) = screen.cursor_position();
        screen.rows(0, 80).nth(row.into()).unwrap_or_default().trim_end().to_owned()
    }

    /// Waits until it is so, and for the end of what is being written.
    fn until(&mut self, what: &str, limit: Duration, is: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if is(self) {
                let rest = self.vm.serial.take(Instant::now() + CALM)?;
                if rest.is_empty() {
                    return Ok(());
                }
                self.screen.process(&rest);
                continue;
            }
            let piece = self.vm.serial.take(deadline)?;
            if piece.is_empty() {
                bail!("no {what:?} within {} s; the screen:\n{}", limit.as_secs(), self.text());
            }
            self.screen.process(&piece);
        }
    }

    /// Reads all that comes for so long: what was on the screen before is old then.
    pub(super) fn watches(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            let piece = self.vm.serial.take(deadline)?;
            self.screen.process(&piece);
        }
        Ok(())
    }

    /// Waits until the screen says so.
    pub(super) fn sees(&mut self, text: &str, limit: Duration) -> Result<()> {
        self.until(text, limit, |p| p.text().contains(text))
    }

    /// Waits until a line of the screen has all of these words.
    pub(super) fn sees_line(&mut self, words: &[&str], limit: Duration) -> Result<()> {
        self.until(&words.join(" "), limit, |p| p.text().lines().any(|l| words.iter().all(|w| l.contains(w))))
    }

    /// Waits for the question, then types the answer and Enter.
    pub(super) fn answers(&mut self, question: &str, answer: &str) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.until(question, REDRAW, |p| p.prompt().starts_with(question)) {
            if begun.elapsed() >= ANSWER {
                return Err(error);
            }
            // The system may have said something where is typed: whoever sits there has the page drawn again.
            self.vm.serial.send("\x0c")?;
        }
        self.types(answer)?;
        // Else the next answer could be typed too early.
        self.until("the end of a question", ANSWER, |p| !p.prompt().starts_with(question))
    }

    /// Types a line, whatever is asked for.
    pub(super) fn types(&mut self, line: &str) -> Result<()> {
        self.inputs += 1;
        self.vm.serial.send(&format!("{line}\r"))
    }

    /// Types the word that is asked for.
    pub(super) fn confirms(&mut self) -> Result<()> {
        self.sees("To go on, type", ANSWER)?;
        let text = self.text();
        let word = text.split("To go on, type ").nth(1).and_then(|w| w.lines().next()).context("no word to type")?;
        self.types(word.trim_end_matches([':', ' ']))
    }

    /// The value behind a label of the page.
    pub(super) fn value(&self, label: &str) -> Result<String> {
        let text = self.text();
        let line = text.lines().find_map(|l| l.trim().strip_prefix(label)).map(str::trim);
        Ok(line.with_context(|| format!("no {label:?} on the screen:\n{text}"))?.to_owned())
    }

    /// All values behind a label.
    pub(super) fn values(&self, label: &str) -> Vec<String> {
        self.text().lines().filter_map(|l| l.trim().strip_prefix(label)).map(|v| v.trim().to_owned()).collect()
    }
}
