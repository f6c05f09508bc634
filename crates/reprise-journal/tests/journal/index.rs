//! The index by itself: what it counts and lists. That it agrees with a flat array of sectors is tested beside it.

use reprise_journal::Index;

use crate::bench::*;

/// Start, end and Seq of each extent, in order.
fn list(index: &Index) -> Vec<(u16, u64, u64, u64)> {
    index.iter().map(|(e, s)| (e.volume.get(), e.sector.get(), e.end().get(), s.get())).collect()
}

#[test]
fn an_insert_cuts_what_lies_under_it_and_leaves_the_rest() {
    let mut index = Index::default();
    assert!(index.is_empty() && list(&index).is_empty());
    index.insert(extent(0, 10, 10), seq(1));
    assert!(!index.is_empty());
    index.insert(extent(0, 20, 5), seq(2));
    assert_eq!(list(&index), [(0, 10, 20, 1), (0, 20, 25, 2)], "neighbours do not touch each other");
    index.insert(extent(0, 14, 2), seq(3));
    assert_eq!(list(&index), [(0, 10, 14, 1), (0, 14, 16, 3), (0, 16, 20, 1), (0, 20, 25, 2)]);
    index.insert(extent(0, 10, 4), seq(4));
    assert_eq!(list(&index)[0], (0, 10, 14, 4), "exactly over one");
    index.insert(extent(0, 12, 11), seq(5));
    assert_eq!(list(&index), [(0, 10, 12, 4), (0, 12, 23, 5), (0, 23, 25, 2)], "over several");
    index.insert(extent(1, 0, 100), seq(6));
    index.insert(extent(0, 0, 100), seq(7));
    assert_eq!(list(&index), [(0, 0, 100, 7), (1, 0, 100, 6)], "volumes are apart");
    assert_eq!(index.len(), 2);
    index.insert(extent(0, 50, 0), seq(8));
    assert_eq!(index.len(), 2, "nothing is nothing");
}

#[test]
fn a_removal_takes_only_what_is_old_enough_and_leaves_no_empty_extent() {
    let base = || {
        let mut index = Index::default();
        index.insert(extent(0, 0, 10), seq(1));
        index.insert(extent(0, 10, 10), seq(2));
        index.insert(extent(0, 20, 10), seq(3));
        index
    };
    let all = [(0, 0, 10, 1), (0, 10, 20, 2), (0, 20, 30, 3)];
    type Nodes<'a> = &'a [(u16, u64, u64, u64)];
    let cases: [(&str, (u64, u64), u64, Nodes); 7] = [
        ("too new", (0, 30), 0, &all),
        ("one whole", (0, 10), 1, &all[1..]),
        ("up to a Seq", (0, 30), 2, &all[2..]),
        ("the middle of one", (12, 4), 9, &[all[0], (0, 10, 12, 2), (0, 16, 20, 2), all[2]]),
        ("from the middle over the next", (15, 10), 9, &[all[0], (0, 10, 15, 2), (0, 25, 30, 3)]),
        ("from the middle, the next one is too new", (5, 20), 1, &[(0, 0, 5, 1), all[1], all[2]]),
        ("beyond the last", (30, 10), 9, &all),
    ];
    for (name, (sector, sectors), up_to, expected) in cases {
        let mut index = base();
        index.remove(extent(0, sector, sectors), seq(up_to));
        assert_eq!(list(&index), expected, "{name}");
        index.remove(extent(0, 0, 100), seq(9));
        assert!(index.is_empty(), "{name}");
    }
    let mut index = base();
    index.remove(extent(1, 0, 100), seq(9));
    assert_eq!(list(&index), all, "another volume");
}

#[test]
fn a_lookup_gives_runs_that_meet_and_fill_the_extent() {
    let mut index = Index::default();
    index.insert(extent(0, 10, 10), seq(1));
    index.insert(extent(0, 25, 5), seq(2));
    index.insert(extent(1, 0, 100), seq(3));
    type Runs<'a> = &'a [(u64, u64, Option<u64>)];
    let cases: [((u64, u64), Runs); 9] = [
        ((0, 10), &[(0, 10, None)]),
        ((0, 11), &[(0, 10, None), (10, 1, Some(1))]),
        ((10, 10), &[(10, 10, Some(1))]),
        ((12, 3), &[(12, 3, Some(1))]),
        ((19, 2), &[(19, 1, Some(1)), (20, 1, None)]),
        ((20, 5), &[(20, 5, None)]),
        ((20, 6), &[(20, 5, None), (25, 1, Some(2))]),
        ((15, 30), &[(15, 5, Some(1)), (20, 5, None), (25, 5, Some(2)), (30, 15, None)]),
        ((15, 0), &[]),
    ];
    for ((sector, sectors), expected) in cases {
        let runs: Vec<_> = index.lookup(extent(0, sector, sectors)).into_iter().collect();
        let runs: Vec<_> = runs.iter().map(|(at, n, s)| (at.get(), n.get(), s.map(|s| s.get()))).collect();
        assert_eq!(runs, expected, "{sectors} at {sector}");
    }
    let home: Vec<_> = index.lookup(extent(2, 5, 5));
    assert_eq!(home.len(), 1, "a volume without records");
    assert_eq!(home[0].2, None);
}
