//! Log files: of each process, and of the first process itself.
//!
//! A file is full at [`FILE_BYTES_MAX`] and becomes `NAME.1`, that one `NAME.2` and so on; [`FILES_MAX`] are kept, so that
//! a process that says the same without end takes the state partition no room it needs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a log file.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files of a log.
pub(crate) const FILES_MAX: u32 = 4;
/// Longest line kept, bytes.
const LINE_LEN_MAX: usize = 4096;
/// Lines kept before there is a place for them.
const EARLY_LINES_MAX: usize = 400;

/// A log on disk.
pub(crate) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    len: u64,
    /// The last line may be there in part.
    torn: bool,
}

impl LogFile {
    /// A log at that path; its folder is there.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, len: 0, torn: false }
    }

    /// Adds a line. A full or broken disk loses the line and nothing else.
    pub(crate) fn line(&mut self, line: &str) {
        if self.write(line).is_err() {
            // The next line looks at the file anew, which may be another one by then.
            (self.file, self.torn) = (None, true);
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.len = file.metadata()?.len();
            self.file = Some(file);
        }
        let clean = printable(line);
        if self.len + clean.len() as u64 + 1 > FILE_BYTES_MAX {
            self.rotate()?;
        }
        if let Some(file) = &mut self.file {
            let start = if self.torn && self.len > 0 { "\n" } else { "" };
            file.write_all(format!("{start}{clean}\n").as_bytes())?;
            self.len += (start.len() + clean.len()) as u64 + 1;
            self.torn = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for n in (1..FILES_MAX).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            if from.exists() {
                std::fs::rename(from, numbered(&self.path, n))?;
            }
        }
        self.file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        self.len = 0;
        Ok(())
    }
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// The line without what a terminal would obey, and not longer than a line may be.
pub(crate) fn printable(line: &str) -> String {
    let end = line.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LINE_LEN_MAX).last();
    line[..end.unwrap_or(0)].chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// The last lines of a log, the oldest first.
pub(crate) fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut found: VecDeque<String> = VecDeque::new();
    for n in 0..FILES_MAX {
        let path = if n == 0 { path.to_owned() } else { numbered(path, n) };
        let Ok(text) = read_end(&path) else { break };
        for line in text.lines().rev() {
            if found.len() == lines {
                return found.into();
            }
            found.push_front(line.to_owned());
        }
    }
    found.into()
}

fn read_end(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(FILE_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Who should see what the first process says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only who reads the log.
    Info,
    /// Also whoever looks at the screen.
    Notice,
    /// Someone must act.
    Error,
}

struct Own {
    file: Option<LogFile>,
    early: VecDeque<String>,
}

static OWN: Mutex<Own> = Mutex::new(Own { file: None, early: VecDeque::new() });

fn own() -> MutexGuard<'static, Own> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says something in the first process's own log, and on the kernel's console where people should see it.
pub(crate) fn say(level: Level, text: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let word = match level {
        Level::Info => "INFO",
        Level::Notice => "NOTICE",
        Level::Error => "ERROR",
    };
    let line = printable(&format!("{} {word} {text}", utc(now)));
    if level != Level::Info {
        console(level, &printable(text));
    }
    let mut own = own();
    if let Some(file) = &mut own.file {
        file.line(&line);
    } else {
        if own.early.len() == EARLY_LINES_MAX {
            own.early.pop_front();
        }
        own.early.push_back(line);
    }
}

/// Writes to the kernel's log, with a priority that a quiet console shows, too.
fn console(level: Level, text: &str) {
    let priority = if level == Level::Error { 2 } else { 3 };
    // Only the first process has that console; a test of it has not.
    if std::process::id() == 1
        && let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg")
    {
        let _ = kmsg.write_all(format!("<{priority}>reprise: {text}\n").as_bytes());
    } else {
        let _ = writeln!(io::stderr(), "reprise: {text}");
    }
}

/// From here on the own log is in that file; what was said before goes there, too.
pub(crate) fn keep_in(path: PathBuf) {
    let mut own = own();
    let mut file = LogFile::new(path);
    for line in own.early.drain(..) {
        file.line(&line);
    }
    own.file = Some(file);
}

/// Lets go of the file, so that its file system can be put away.
pub(crate) fn let_go() {
    own().file = None;
}

/// A moment as `2026-01-31T12:00:00.000Z`.
pub(crate) fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days to a date of the Gregorian calendar, counted from March, so that the leap day is the last of a year.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_takes_more_than_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogFile::new(path.clone());
        let filler = "x".repeat(4000);
        for n in 0..1500 {
            log.line(&format!("{n} {filler}"));
        }
        let sizes: Vec<u64> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), FILES_MAX as usize);
        assert!(sizes.iter().all(|s| *s <= FILE_BYTES_MAX), "{sizes:?}");
        let last = tail(&path, 700);
        assert_eq!(last.len(), 700, "over the border of two files");
        assert!(last[0].starts_with("800 ") && last[699].starts_with("1499 "), "{} {}", &last[0][..9], &last[699][..9]);
        assert!(LogFile::new(path).write("on").is_ok());
    }

    #[test]
    fn a_line_that_cannot_be_kept_is_lost_and_the_next_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = LogFile::new(path.clone());
        log.line("lost");
        assert!(log.torn, "there is no room");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "half a li").unwrap();
        log.line("kept");
        log.line("kept, too");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half a li\nkept\nkept, too\n");
    }

    #[test]
    fn no_control_characters_and_no_endless_lines() {
        assert_eq!(printable("a\x1b[2Jb\r"), "a\u{fffd}[2Jb\u{fffd}");
        let long = "\u{20ac}".repeat(3000);
        assert!(printable(&long).len() <= LINE_LEN_MAX);
    }

    #[test]
    fn a_moment_is_a_date() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_798_761_599_999, "2026-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }
}
