//! Text for a terminal of 80 columns: ASCII only, so that neither a peer's name nor a serial line's character set can
//! do anything to it.

use reprise_api::ByteSize;
pub(super) use reprise_api::utc;

/// Columns used. The 80th stays empty: some terminals go to the next line after it, some do not.
pub(super) const COLUMNS: usize = 79;
/// Lines of a screen.
pub(super) const ROWS: usize = 24;
/// Longest text taken from elsewhere into one paragraph; what is longer is cut.
const TEXT_CHARS_MAX: usize = 4000;

/// Text from elsewhere as printable ASCII: control characters and everything a serial line may garble become `?`.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// `text`, made plain, cut to `columns`; a cut shows as `~`.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let text = plain(text);
    if text.len() <= columns {
        return text;
    }
    let mut cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    cut.push('~');
    cut
}

/// `text`, made plain, cut or filled up to exactly `columns`.
pub(super) fn column(text: &str, columns: usize) -> String {
    format!("{:<columns$}", fit(text, columns))
}

/// `text`, made plain, in lines of at most [`COLUMNS`], broken between words where that is possible. Lines after the
/// first begin with `indent` spaces.
pub(super) fn wrap(text: &str, indent: usize) -> Vec<String> {
    let text = plain(text);
    let indent = indent.min(COLUMNS / 2);
    let mut lines = Vec::new();
    let mut rest = text.trim_end();
    loop {
        let room = if lines.is_empty() { COLUMNS } else { COLUMNS - indent };
        let lead = if lines.is_empty() { "" } else { &" ".repeat(indent) };
        if rest.len() <= room {
            if !rest.is_empty() || lines.is_empty() {
                lines.push(format!("{lead}{rest}"));
            }
            return lines;
        }
        // A break that keeps the line's own lead of spaces; without one, the word itself is cut.
        let lead_of_rest = rest.len() - rest.trim_start().len();
        let at = rest.get(..=room).and_then(|t| t.rfind(' ')).filter(|at| *at > lead_of_rest).unwrap_or(room);
        let (line, after) = rest.split_at_checked(at).unwrap_or((rest, ""));
        lines.push(format!("{lead}{}", line.trim_end()));
        rest = after.trim_start();
    }
}

/// A label and what it says, wrapped below itself: `Clock     set by hand`.
pub(super) fn labelled(label: &str, text: &str) -> Vec<String> {
    wrap(&format!("{label:<10} {text}"), 11)
}

/// Bytes with a binary unit.
pub(super) fn bytes(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

/// `850 ms`, `2.4 s`, `10 min`, `3 h 10 min`, `1 d 2 h`.
pub(super) fn secs(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return "?".to_owned();
    }
    let whole = secs.round() as u64;
    match whole {
        _ if secs == 0.0 => "0 s".to_owned(),
        _ if secs < 0.9995 => format!("{:.0} ms", (secs * 1000.0).max(1.0)),
        _ if secs < 9.95 => format!("{secs:.1} s"),
        0..120 => format!("{whole} s"),
        120..7200 => format!("{} min", whole / 60),
        7200..172_800 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A fingerprint in groups of four digits, two lines.
pub(super) fn fingerprint(hex: &str) -> [String; 2] {
    let digits: Vec<char> = plain(hex).chars().filter(char::is_ascii_hexdigit).take(64).collect();
    let groups: Vec<String> = digits.chunks(4).map(|g| g.iter().collect()).collect();
    let (first, second) = groups.split_at_checked(8).unwrap_or((&groups, &[]));
    [first.join(" "), second.join(" ")]
}

/// The other way: `2026-01-31 23:59:58`, the seconds may be left out. None where it is no time from 2000 to 2199.
pub(super) fn parse_utc(text: &str) -> Option<u64> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let number = |t: &str| (!t.is_empty() && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u64>().ok())?;
    let mut date = date.split('-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.trim().split(':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    let in_range = (2000..2200).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 || date.next().is_some() || time.next().is_some() {
        return None;
    }
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, yoe) = (y / 400, y % 400);
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + doe - 719_468;
    let ms = (days * 86_400 + hour * 3600 + minute * 60 + second) * 1000;
    // A day that the month does not have, such as 31 April, comes back as another one.
    utc(ms).starts_with(&format!("{year:04}-{month:02}-{day:02} ")).then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(plain("a\u{1b}[2Jb\nü\u{9b}"), "a?[2Jb???");
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let text = format!("{} {} {}", "a".repeat(40), "b".repeat(50), "c".repeat(100));
        let lines = wrap(&text, 2);
        assert_eq!(
            lines,
            [
                "a".repeat(40),
                format!("  {}", "b".repeat(50)),
                format!("  {}", "c".repeat(77)),
                format!("  {}", "c".repeat(23)),
            ]
        );
        assert_eq!(wrap("", 2), [""]);
    }

    #[test]
    fn times_go_there_and_back() {
        for text in ["2000-01-01 00:00:00", "2026-11-22 13:14:15", "2096-02-29 23:59:59", "2199-12-31 12:00:00"] {
            assert_eq!(utc(parse_utc(text).unwrap()), text);
        }
        assert_eq!(parse_utc("2026-11-22 13:14"), parse_utc("2026-11-22T13:14:00"));
        let bad = ["", "2026-11-22", "2026-04-31 10:00", "2026-13-01 10:00", "1999-01-01 00:00", "2026-1-1 24:00"];
        for text in bad.into_iter().chain(["2026-1-1-1 10:00", "2026-1-1 1:1:1:1", "-5-1-1 10:00", "a-b-c d:e"]) {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }

    #[test]
    fn durations_and_fingerprints_read_well() {
        for (given, text) in
            [(0.0, "0 s"), (0.85, "850 ms"), (2.44, "2.4 s"), (640.0, "10 min"), (11_400.0, "3 h 10 min")]
        {
            assert_eq!(secs(given), text);
        }
        let [first, second] = fingerprint(&"0123456789abcdef".repeat(4));
        assert_eq!(first, "0123 4567 89ab cdef 0123 4567 89ab cdef");
        assert_eq!(first, second);
        assert_eq!(fingerprint("none"), ["e".to_owned(), String::new()]);
    }

    proptest! {
        #[test]
        fn whatever_comes_fits(text in "\\PC{0,300}", indent in 0usize..100, columns in 1usize..90) {
            prop_assert!(wrap(&text, indent).iter().all(|l| l.len() <= COLUMNS && l.is_ascii()));
            prop_assert!(fit(&text, columns).len() <= columns);
            prop_assert_eq!(column(&text, columns).len(), columns);
            let _ = parse_utc(&text);
        }
    }
}
