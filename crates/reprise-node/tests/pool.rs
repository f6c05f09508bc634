//! A pool whose groups' superblocks have rotted, or lie: each group is opened or says why not, and the others do not notice.
#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use reprise_engine::{Branch, GroupMeta, RoleMeta};
use reprise_format::batch::hash_start;
use reprise_format::superblock::{self, GroupBody, SuperblockKind, copies_of, group_copies};
use reprise_node::pool::{DataPlace, Pool, PoolConfig};
use reprise_types::{BoxId, BranchId, ByteLen, GroupId, Point, Seq};

const GROUPS: u8 = 3;

fn id(n: u8) -> GroupId {
    GroupId::from_raw([n + 1; 16])
}

fn open(dir: &Path) -> Pool {
    let config = PoolConfig {
        cache: dir.join("cache"),
        data: DataPlace::At(dir.join("data")),
        cache_len: Some(ByteLen::from_raw(64 << 20)),
        overwrite: None,
    };
    Pool::open(&config, BoxId::from_raw([7; 16])).unwrap()
}

fn meta(n: u8) -> GroupMeta {
    let branch = BranchId::from_raw([40 + n; 16]);
    let base = Point { branch, seq: Seq::ZERO, hash: hash_start(id(n)) };
    GroupMeta {
        group: id(n),
        name: format!("g{n}"),
        role: RoleMeta::Source,
        branches: vec![Branch { id: branch, fork: None, ceded: false }],
        trimmed: base,
        applied: Seq::ZERO,
        applying: Seq::ZERO,
        seal: base,
        incarnation: 1,
        volumes: Vec::new(),
        peers: vec![],
        fenced: None,
        next_slot: 1,
        generation_floor: 0,
    }
}

/// Puts bytes where the next version of a group's superblock goes.
fn put(dir: &Path, slot: usize, version: u64, copy: &[u8]) {
    let cache = OpenOptions::new().write(true).open(dir.join("cache")).unwrap();
    copies_of(version).iter().for_each(|i| cache.write_all_at(copy, group_copies(slot)[*i]).unwrap());
}

#[track_caller]
fn only_the_first_is_refused(name: &str, spoil: impl FnOnce(&mut GroupBody)) {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    (0..GROUPS).for_each(|n| drop(pool.create_group(meta(n)).unwrap()));
    drop(pool);
    let mut body = meta(0).to_body();
    spoil(&mut body);
    put(dir.path(), 0, 3, &superblock::encode(SuperblockKind::Group, 3, &body).unwrap());
    let pool = open(dir.path());
    let error = pool.open_group(id(0)).expect_err(name);
    assert!(!error.to_string().is_empty());
    for n in 1..GROUPS {
        let opened = pool.open_group(id(n)).unwrap();
        assert_eq!(opened.group.meta.name, format!("g{n}"), "beside {name}");
    }
}

#[test]
fn a_group_that_cannot_be_opened_stays_alone() {
    only_the_first_is_refused("the last position", |b| b.trimmed.as_mut().unwrap().seq = u64::MAX);
    only_the_first_is_refused("a seal that is nowhere", |b| b.seal.as_mut().unwrap().seq = 1 << 62);
    only_the_first_is_refused("a home that is ahead", |b| (b.applied, b.applying) = (5, 5));
    only_the_first_is_refused("no branch", |b| b.branches.clear());
    only_the_first_is_refused("too many branches", |b| b.branches = vec![b.branches[0].clone(); 1000]);
    only_the_first_is_refused("another group's superblock", |b| b.group = vec![2; 16]);
    only_the_first_is_refused("no group", |b| *b = GroupBody::default());
}

#[test]
fn a_version_that_nothing_could_follow_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(dir.path());
    drop(pool.create_group(meta(0)).unwrap());
    drop(pool);
    let last = superblock::encode(SuperblockKind::Group, u64::MAX, &meta(0).to_body()).unwrap();
    put(dir.path(), 0, u64::MAX, &last);
    let pool = open(dir.path());
    assert_eq!(pool.open_group(id(0)).unwrap().group.superblock_version, 2, "the one before it holds");
}
