//! Makes a failing plan small: leaves out what is not needed for it to fail.

use std::collections::BTreeSet;

use crate::pair::plan::{Plan, What};
use crate::pair::run::{Tell, run};

/// Runs that one shrinking may take.
const TRIES_MAX: u32 = 150;

/// Leaves out items of the plan as long as it still fails. Gives the items that are needed and how it fails then.
pub fn shrink(seed: u64) -> (BTreeSet<usize>, String) {
    let plan = Plan::new(seed);
    let mut keep: BTreeSet<usize> = (0..plan.items.len()).collect();
    let mut tries = 0;
    let mut fails = |keep: &BTreeSet<usize>| {
        tries += 1;
        if tries > TRIES_MAX {
            return None;
        }
        run(Plan::new(seed).only(keep), Tell::Nothing).wrong().map(str::to_owned)
    };
    let Some(mut what) = fails(&keep) else { return (keep, "does not fail".into()) };
    // Troubles one by one: there are few and each matters.
    for i in (0..plan.items.len()).rev().filter(|i| matches!(plan.items[*i].what, What::Trouble(_))) {
        let mut fewer = keep.clone();
        fewer.remove(&i);
        if let Some(found) = fails(&fewer) {
            (keep, what) = (fewer, found);
        }
    }
    // Everything else in halves, quarters, ...
    let mut size = keep.len().div_ceil(2);
    while size > 0 {
        let all: Vec<usize> = keep.iter().copied().collect();
        let mut smaller = false;
        for part in all.chunks(size) {
            let fewer: BTreeSet<usize> = keep.iter().copied().filter(|i| !part.contains(i)).collect();
            if let Some(found) = fails(&fewer) {
                (keep, what) = (fewer, found);
                smaller = true;
            }
        }
        if !smaller || size > keep.len() {
            size /= 2;
        }
    }
    (keep, what)
}

/// A line of the file of kept seeds: `seed`, or `seed keep 1-3,7`.
pub fn render_kept(seed: u64, keep: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for i in keep {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *i => *last = *i,
            _ => ranges.push((*i, *i)),
        }
    }
    let text: Vec<String> =
        ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    format!("{seed} keep {}", text.join(","))
}

/// Reads such a line; comments and empty lines give none.
pub fn parse_kept(line: &str) -> Option<Plan> {
    let line = line.split('#').next().unwrap_or("").trim();
    let (seed, keep) = line.split_once(" keep ").map_or((line, None), |(s, k)| (s, Some(k)));
    let plan = Plan::new(seed.trim().parse().ok()?);
    let Some(keep) = keep else { return Some(plan) };
    let mut items = BTreeSet::new();
    for part in keep.split(',') {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        items.extend(a.trim().parse::<usize>().ok()?..=b.trim().parse().ok()?);
    }
    Some(plan.only(&items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_lines_come_back() {
        let keep = BTreeSet::from([1, 2, 3, 7, 9]);
        let line = render_kept(12, &keep);
        assert_eq!(line, "12 keep 1-3,7,9");
        let plan = parse_kept(&format!("{line}  # why")).unwrap();
        let active: BTreeSet<usize> = plan.active().map(|(i, _)| i).collect();
        assert_eq!(active, keep);
        assert!(parse_kept("# nothing").is_none());
    }
}
