//! Injected faults for tests. Off unless a plan is set; then one check per operation.

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
        Self { target, path_suffix: String::new(), first: nth, count: 1, action }
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

    pub(crate) fn hit(&mut self, target: FaultTarget, path: &std::path::Path) -> Option<FaultAction> {
        let mut found = None;
        for (rule, seen) in &mut self.rules {
            let matches = (rule.target == target || rule.target == FaultTarget::Any)
                && (rule.path_suffix.is_empty() || path.to_string_lossy().ends_with(&rule.path_suffix));
            if !matches {
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
