//! Rules about the source that no compiler knows.

mod circles;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, output, root};

/// Which crate may use which. Development dependencies do not count. The engine may use the format, because the messages
/// that link and engine exchange are types of the format.
const MAY_USE: &[(&str, &[&str])] = &[
    ("reprise-types", &[]),
    ("reprise-format", &["types"]),
    ("reprise-media", &["types"]),
    ("reprise-journal", &["types", "format"]),
    ("reprise-scsi", &["types"]),
    ("reprise-iscsi", &["types", "scsi"]),
    ("reprise-link", &["types", "format"]),
    ("reprise-engine", &["types", "format", "journal", "link"]),
    ("reprise-api", &["types"]),
    ("reprise-node", &["types", "format", "media", "journal", "scsi", "iscsi", "link", "engine", "api"]),
    // `reprise torture` brings the initiator and the stamps of the tests.
    ("reprise", &["node", "console", "api", "testkit"]),
    ("reprise-console", &["api"]),
    // The system socket's types are the API's.
    ("reprise-init", &["types", "format", "media", "api"]),
    ("reprise-sim", &["types", "format", "journal", "scsi", "iscsi", "link", "engine"]),
    // The checker stands outside: nothing of the product.
    ("reprise-testkit", &[]),
    ("reprise-tests", &["testkit", "xtask"]),
    ("xtask", &[]),
];

/// Crates that do no I/O, and what they must not depend on for that.
const SANS_IO: &[&str] = &[
    "reprise-types",
    "reprise-format",
    "reprise-journal",
    "reprise-scsi",
    "reprise-iscsi",
    "reprise-link",
    "reprise-engine",
];
const IO_CRATES: &[&str] =
    &["tokio", "nix", "libc", "io-uring", "socket2", "getrandom", "rand", "hyper", "axum", "sled", "tracing"];

/// Words that reach for the world in a crate that does no I/O.
const IO_WORDS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "Instant::now",
    "SystemTime::now",
];

/// Folders with sources.
const SOURCES: [&str; 3] = ["crates", "tests", "xtask"];
/// The fuzz targets are a workspace of their own; their macro needs what others may not do.
const FUZZ: &str = "tests/fuzz";

/// The one crate with `unsafe`.
const UNSAFE_CRATE: &str = "reprise-media";

/// What a check looked at, and what it found wrong.
pub(crate) struct Checked {
    pub(crate) name: &'static str,
    pub(crate) looked_at: usize,
    pub(crate) faults: Vec<String>,
}

/// All checks.
pub(crate) fn all() -> Result<Vec<Checked>> {
    let text = output(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let edges = edges(&metadata)?;
    Ok(vec![forbidden_edges(&edges), no_io(&edges)?, unsafe_code()?, circles::check()?, links::check()?])
}

/// Normal and build dependencies of each crate of the workspace.
fn edges(metadata: &Value) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let packages = metadata["packages"].as_array().context("packages in cargo metadata")?;
    let mut edges = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("name of a package")?;
        let dependencies = package["dependencies"].as_array().context("dependencies of a package")?;
        let counted = dependencies.iter().filter(|d| d["kind"].as_str() != Some("dev"));
        let names = counted.filter_map(|d| d["name"].as_str()).map(str::to_owned).collect();
        edges.insert(name.to_owned(), names);
    }
    Ok(edges)
}

fn forbidden_edges(edges: &BTreeMap<String, BTreeSet<String>>) -> Checked {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let (mut looked_at, mut faults) = (0, Vec::new());
    for (from, to) in edges {
        let Some(may) = allowed.get(from.as_str()) else {
            faults.push(format!("{from} is not in the table of crates"));
            continue;
        };
        for to in to.iter().filter(|t| edges.contains_key(t.as_str())) {
            looked_at += 1;
            if !may.contains(&to.strip_prefix("reprise-").unwrap_or(to)) {
                faults.push(format!("{from} must not use {to}"));
            }
        }
    }
    Checked { name: "edges between crates", looked_at, faults }
}

fn no_io(edges: &BTreeMap<String, BTreeSet<String>>) -> Result<Checked> {
    let (mut looked_at, mut faults) = (0, Vec::new());
    for name in SANS_IO {
        let used = edges.get(*name).into_iter().flatten().filter(|d| IO_CRATES.contains(&d.as_str()));
        faults.extend(used.map(|d| format!("{name} does no I/O and uses {d}")));
        for_each_source(&root().join("crates").join(name).join("src"), &mut |path, text| {
            if path.to_string_lossy().ends_with("tests.rs") {
                return;
            }
            looked_at += 1;
            let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
            for word in IO_WORDS.iter().filter(|w| code(product).any(|l| l.contains(**w))) {
                faults.push(format!("{} does no I/O and says {word}", path.display()));
            }
        })?;
    }
    Ok(Checked { name: "no I/O in the core", looked_at, faults })
}

fn unsafe_code() -> Result<Checked> {
    let (mut looked_at, mut faults) = (0, Vec::new());
    let mut see = |path: &Path, text: &str| {
        looked_at += 1;
        if path.starts_with(FUZZ) || path.components().any(|c| c.as_os_str() == UNSAFE_CRATE) {
            return;
        }
        let is_root = ["src/lib.rs", "src/main.rs", "tests/e2e/main.rs", "tests/machines.rs"]
            .iter()
            .any(|root| path.ends_with(root));
        if is_root && !text.contains("#![forbid(unsafe_code)]") {
            faults.push(format!("{} does not forbid unsafe code", path.display()));
        }
        for word in ["{", "fn", "impl", "extern", "trait"] {
            let word = format!("unsafe {word}");
            if code(text).any(|l| l.split('"').step_by(2).any(|part| part.contains(&word))) {
                faults.push(format!("{} has unsafe code; it belongs into {UNSAFE_CRATE}", path.display()));
            }
        }
    };
    for folder in SOURCES {
        for_each_source(&root().join(folder), &mut see)?;
    }
    Ok(Checked { name: "unsafe code in one crate only", looked_at, faults })
}

/// Lines that are no comment and do not begin with a string.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|l| !l.starts_with("//") && !l.starts_with('"'))
}

fn for_each_source(folder: &Path, see: &mut impl FnMut(&Path, &str)) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            for_each_source(&path, see)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            see(path.strip_prefix(root()).unwrap_or(&path), &text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_edge(from: &str, to: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut edges: BTreeMap<String, BTreeSet<String>> =
            MAY_USE.iter().map(|(name, _)| ((*name).to_owned(), BTreeSet::new())).collect();
        edges.entry(from.to_owned()).or_default().insert(to.to_owned());
        edges
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        assert!(forbidden_edges(&with_edge("reprise-engine", "reprise-journal")).faults.is_empty());
        assert_eq!(forbidden_edges(&with_edge("reprise-engine", "reprise-iscsi")).faults.len(), 1);
        assert_eq!(forbidden_edges(&with_edge("reprise-types", "reprise-format")).faults.len(), 1);
        assert_eq!(forbidden_edges(&with_edge("reprise-testkit", "reprise-engine")).faults.len(), 1);
        assert_eq!(forbidden_edges(&with_edge("reprise-new", "serde")).faults.len(), 1);
    }
}
