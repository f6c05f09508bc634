//! Numbers as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

use reprise_api::ByteSize;
pub(crate) use reprise_api::utc;

pub(crate) fn bytes(bytes: u64) -> String {
    ByteSize::from_bytes(bytes).to_string()
}

pub(crate) fn bytes_per_sec(rate: f64) -> String {
    // Float to integer saturates; a rate below 0 or NaN shows as 0.
    format!("{}/s", bytes(rate as u64))
}

pub(crate) fn per_sec(rate: f64) -> String {
    format!("{rate:.0}/s")
}

/// `850 ms`, `2.4 s`, `10 min 40 s`, `3 h 10 min`, `1 d 2 h`.
pub(crate) fn secs(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return "?".to_owned();
    }
    if secs == 0.0 {
        return "0 s".to_owned();
    }
    if secs < 0.9995 {
        return format!("{:.0} ms", (secs * 1000.0).max(1.0));
    }
    if secs < 59.95 {
        return format!("{secs:.1} s");
    }
    let whole = secs.round() as u64;
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| {
        if small == 0 { format!("{big} {big_unit}") } else { format!("{big} {big_unit} {small} {small_unit}") }
    };
    match whole {
        0..3600 => two(whole / 60, "min", whole % 60, "s"),
        3600..86_400 => two(whole / 3600, "h", whole % 3600 / 60, "min"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3600, "h"),
    }
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Text from elsewhere, safe for a terminal: control characters are shown, not obeyed.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        for (given, text) in [
            (0.0, "0 s"),
            (0.0001, "1 ms"),
            (0.85, "850 ms"),
            (0.9999, "1.0 s"),
            (2.44, "2.4 s"),
            (59.99, "1 min"),
            (640.0, "10 min 40 s"),
            (11_400.0, "3 h 10 min"),
            (93_784.0, "1 d 2 h"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(secs(given), text);
        }
    }

    #[test]
    fn dates_are_right() {
        for (ms, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400_000, "2000-02-29 00:00:00"),
            (1_790_003_600_999, "2026-09-21 15:13:20"),
            (4_107_542_399_000, "2100-02-28 23:59:59"),
            (4_107_542_400_000, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(utc(ms), text);
        }
        utc(u64::MAX);
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
