//! What a step counted, and how it is read out of what its programs say.

use std::iter::Sum;

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self { passed: a.passed + b.passed, failed: a.failed + b.failed })
    }
}

impl From<(u64, u64)> for Count {
    fn from((passed, failed): (u64, u64)) -> Self {
        Self { passed, failed }
    }
}

impl Count {
    /// Something that could not even run.
    pub(crate) const BROKEN: Self = Self { passed: 0, failed: 1 };

    /// `Summary [   1.2s] 12 tests run: 11 passed (1 slow), 1 failed, 0 skipped`; a test that timed out counts as failed.
    pub(crate) fn of_nextest(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("Summary ")?.split_once("run:")?.1;
        Some(Self::of_words(rest, ','))
    }

    /// `test result: ok. 11 passed; 0 failed; 0 ignored; ...`.
    pub(crate) fn of_libtest(line: &str) -> Option<Self> {
        Some(Self::of_words(line.trim().strip_prefix("test result:")?.split_once('.')?.1, ';'))
    }

    /// Numbers and what they count, with something between the pairs.
    pub(crate) fn of_words(text: &str, separator: char) -> Self {
        let mut count = Self::default();
        for part in text.split(separator) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next()) else {
                continue;
            };
            match what {
                "passed" => count.passed += number,
                "failed" | "timed" | "exec" => count.failed += number,
                _ => {}
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let line = "     Summary [   1.207s] 14 tests run: 12 passed (1 slow), 1 failed, 1 timed out, 3 skipped";
        assert_eq!(Count::of_nextest(line), Some(Count { passed: 12, failed: 2 }));
        let line = "test result: FAILED. 11 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(Count::of_libtest(line), Some(Count { passed: 11, failed: 2 }));
        assert_eq!(Count::of_nextest("   Compiling reprise"), None);
        assert_eq!(Count::of_words(" 5 passed, 1 failed", ','), Count { passed: 5, failed: 1 });
    }
}
