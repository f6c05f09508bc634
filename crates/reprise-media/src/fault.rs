//! Injected faults for tests. Off unless a plan is set; then one check per operation.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

/// Which operations a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultTarget {
    /// Reads.
    Read,
    /// Writes of every durability, zeroing and punching.
    Write,
    /// Syncs, and the sync part of durable writes: the bytes are written, the success is not reported.
    Sync,
    /// All of them.
    Any,
}

/// What happens to an operation that a rule hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAction {
    /// Fails with this errno; a read or write does not reach the medium.
    Fail(i32),
    /// Waits before it reaches the medium. The delay is at least this long.
    Delay(Duration),
}

/// Hits the operations number `first` to `first + count - 1` that match, counted from 1 since the plan was set.
#[derive(Debug, Clone)]
pub struct FaultRule {
    /// What to count.
    pub target: FaultTarget,
    /// Only media whose path ends so; empty for all.
    pub path_suffix: String,
    /// Only operations that touch these bytes of the medium; a sync by itself touches none.
    pub bytes: Option<Range<u64>>,
    /// First operation that is hit, from 1.
    pub first: u64,
    /// How many are hit; `u64::MAX` for all after it.
    pub count: u64,
    /// What happens to them.
    pub action: FaultAction,
}

impl FaultRule {
    /// Hits the `nth` matching operation on any medium once.
    pub fn nth(target: FaultTarget, nth: u64, action: FaultAction) -> Self {
        Self { target, path_suffix: String::new(), bytes: None, first: nth, count: 1, action }
    }

    fn matches(&self, target: FaultTarget, path: &str, touched: &Range<u64>) -> bool {
        let inside = self.bytes.as_ref().is_none_or(|b| touched.start < b.end && b.start < touched.end);
        (self.target == target || self.target == FaultTarget::Any) && path.ends_with(&self.path_suffix) && inside
    }
}

/// A line that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} has no place in a fault rule")]
pub struct FaultRuleError {
    /// The word that is not understood.
    pub word: String,
}

/// A rule as a line: `TARGET SUFFIX [bytes=FROM..TO] [first=N] [count=N] fail=ERRNO|delay=MILLIS`; target `read`, `write`,
/// `sync` or `any`, `*` for every path. Without a count all from the first on are hit.
impl FromStr for FaultRule {
    type Err = FaultRuleError;

    fn from_str(line: &str) -> Result<Self, FaultRuleError> {
        let unclear = |word: &str| FaultRuleError { word: word.to_owned() };
        let number = |word: &str, text: &str| text.parse::<u64>().map_err(|_| unclear(word));
        let mut words = line.split_whitespace();
        let target = match words.next().unwrap_or_default() {
            "read" => FaultTarget::Read,
            "write" => FaultTarget::Write,
            "sync" => FaultTarget::Sync,
            "any" => FaultTarget::Any,
            other => return Err(unclear(other)),
        };
        let suffix = words.next().ok_or_else(|| unclear(line))?;
        let path_suffix = if suffix == "*" { String::new() } else { suffix.to_owned() };
        let (mut first, mut count, mut bytes, mut action) = (1, u64::MAX, None, None);
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| unclear(word))?;
            match key {
                "first" => first = number(word, value)?,
                "count" => count = number(word, value)?,
                "bytes" => {
                    let (from, to) = value.split_once("..").ok_or_else(|| unclear(word))?;
                    bytes = Some(number(word, from)?..number(word, to)?);
                }
                "fail" => action = Some(FaultAction::Fail(value.parse().map_err(|_| unclear(word))?)),
                "delay" => action = Some(FaultAction::Delay(Duration::from_millis(number(word, value)?))),
                _ => return Err(unclear(word)),
            }
        }
        let action = action.ok_or_else(|| unclear(line))?;
        Ok(Self { target, path_suffix, bytes, first, count, action })
    }
}

/// Rules with their counts. The first rule that hits wins; all that match count.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    rules: Vec<(FaultRule, u64)>,
}

impl FaultPlan {
    /// A plan of these rules, all counts at zero.
    pub fn new(rules: impl IntoIterator<Item = FaultRule>) -> Self {
        Self { rules: rules.into_iter().map(|r| (r, 0)).collect() }
    }

    pub(crate) fn hit(
        &mut self,
        target: FaultTarget,
        path: &std::path::Path,
        touched: &Range<u64>,
    ) -> Option<FaultAction> {
        let path = path.to_string_lossy();
        let mut found = None;
        for (rule, seen) in &mut self.rules {
            if !rule.matches(target, &path, touched) {
                continue;
            }
            *seen += 1;
            if found.is_none() && *seen >= rule.first && *seen - rule.first < rule.count {
                found = Some(rule.action);
            }
        }
        found
    }
}

/// Rules a line each; empty lines and those that begin with `#` say nothing.
impl FromStr for FaultPlan {
    type Err = FaultRuleError;

    fn from_str(text: &str) -> Result<Self, FaultRuleError> {
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        Ok(Self::new(lines.map(str::parse).collect::<Result<Vec<_>, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn rules_are_read_from_lines_and_hit_what_they_name() {
        let text = "# a comment\n\nwrite /cache bytes=4096..8192 first=2 count=1 fail=5\nsync * delay=20\n";
        let mut plan: FaultPlan = text.parse().unwrap();
        let cache = Path::new("/x/cache");
        let hit = |plan: &mut FaultPlan, target, path, range| plan.hit(target, path, &range);
        assert_eq!(hit(&mut plan, FaultTarget::Write, cache, 0..4096), None);
        assert_eq!(hit(&mut plan, FaultTarget::Write, cache, 0..4097), None, "the first one that matches");
        assert_eq!(hit(&mut plan, FaultTarget::Write, Path::new("/x/home"), 4096..5000), None);
        assert_eq!(hit(&mut plan, FaultTarget::Write, cache, 8191..9000), Some(FaultAction::Fail(5)));
        assert_eq!(hit(&mut plan, FaultTarget::Write, cache, 8191..9000), None, "only one is hit");
        let slow = Some(FaultAction::Delay(Duration::from_millis(20)));
        assert_eq!(hit(&mut plan, FaultTarget::Sync, Path::new("/y"), 0..0), slow);
        for bad in ["erase * fail=5", "write", "write *", "write * fail=x", "write * bytes=1 fail=5", "write * odd=1"] {
            assert!(bad.parse::<FaultRule>().is_err(), "{bad}");
        }
    }
}
