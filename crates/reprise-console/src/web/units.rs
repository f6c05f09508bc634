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

pub(crate) fn percent(value: f64) -> String {
    if value.is_finite() { format!("{value:.1} %") } else { "unknown".to_owned() }
}

/// What is not known is said to be so, never shown as 0.
pub(crate) fn or_unknown<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

/// `850 ms`, `2.4 s`, `10 min 40 s`, `3 h 10 min`, `1 d 2 h`.
pub(crate) fn secs(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return "–".to_owned();
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

/// The other way round, as a browser's `datetime-local` field has it: `2026-01-31T23:59` with or without seconds. UTC.
pub(crate) fn from_utc(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(|n| n.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let (era, yoe) = (y / 400, y % 400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let secs = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    // A day that the month does not have comes back as another one.
    utc(secs * 1000).starts_with(&format!("{year:04}-{month:02}-{day:02} ")).then_some(secs * 1000)
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// 64 hexadecimal digits in groups of four, as people compare them.
pub(crate) fn fingerprint(hex: &str) -> String {
    let mut out = String::with_capacity(hex.len() * 5 / 4);
    for (n, c) in hex.chars().enumerate() {
        if n > 0 && n % 4 == 0 {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        for (given, text) in [
            (0.0, "0 s"),
            (0.85, "850 ms"),
            (2.44, "2.4 s"),
            (640.0, "10 min 40 s"),
            (93_784.0, "1 d 2 h"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(secs(given), text);
        }
        assert_eq!(bytes_per_sec(-1.0), "0 B/s");
        assert_eq!(fingerprint("00112233aa"), "0011 2233 aa");
        assert_eq!(percent(19.95), "19.9 %");
        assert_eq!(percent(f64::NAN), "unknown");
    }

    #[test]
    fn times_go_there_and_back() {
        for ms in [0, 951_782_400_000, 1_790_003_600_000, 4_107_542_399_000, 4_107_542_400_000] {
            assert_eq!(from_utc(&utc(ms)), Some(ms), "{}", utc(ms));
        }
        assert_eq!(from_utc("2026-09-21T15:13"), Some(1_790_003_580_000));
        for bad in
            ["", "T", "2026-02-30T00:00", "2026-13-01T00:00", "1969-12-31T23:59", "2026-01-01T24:00", "a-b-cTd:e"]
        {
            assert_eq!(from_utc(bad), None, "{bad}");
        }
    }
}
