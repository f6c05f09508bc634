//! Links between pages, and what the source says stands in a page.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::{Checked, SOURCES, for_each_source};
use crate::process::root;

/// Every page of the repository, by its path from the root, with the anchors of its headings.
type Pages = BTreeMap<PathBuf, BTreeSet<String>>;

pub(super) fn check() -> Result<Checked> {
    let mut texts = BTreeMap::new();
    find_pages(&root(), &mut texts)?;
    let pages: Pages = texts.iter().map(|(path, text)| (path.clone(), anchors(text))).collect();
    let (mut looked_at, mut faults) = (0, Vec::new());
    for (page, text) in &texts {
        let folder = page.parent().unwrap_or(Path::new(""));
        for link in links(text) {
            looked_at += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { joined(folder, path) };
            let there = pages.contains_key(&target) || root().join(&target).exists();
            let has_anchor = anchor.is_empty() || pages.get(&target).is_some_and(|a| a.contains(anchor));
            if !there || !has_anchor {
                faults.push(format!("{}: nothing is at {link}", page.display()));
            }
        }
    }
    for folder in SOURCES {
        for_each_source(&root().join(folder), &mut |path, text| {
            for (page, heading) in mentions(text) {
                looked_at += 1;
                match (pages.get(Path::new(&page)), heading) {
                    (None, _) => faults.push(format!("{}: there is no {page}", path.display())),
                    (Some(anchors), Some(heading)) if !anchors.contains(&anchor_of(heading)) => {
                        faults.push(format!("{}: {page} has no {heading:?}", path.display()));
                    }
                    _ => {}
                }
            }
        })?;
    }
    Ok(Checked { name: "links to pages", looked_at, faults })
}

fn find_pages(folder: &Path, texts: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read folder {}", folder.display()))? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.') || n == "target");
        if path.is_dir() && !hidden {
            find_pages(&path, texts)?;
        } else if path.extension().is_some_and(|e| e == "md") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            texts.insert(path.strip_prefix(root()).unwrap_or(&path).to_owned(), text);
        }
    }
    Ok(())
}

/// `folder` and a path from there, without its `..`.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::ParentDir => _ = joined.pop(),
            Component::CurDir => {}
            other => joined.push(other),
        }
    }
    joined
}

/// Targets of a page's links to other pages and files of the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    parts.map(|(target, _)| target).filter(|t| !t.contains("://") && !t.contains(char::is_whitespace))
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter_map(|l| l.trim_start_matches('#').strip_prefix(' ').filter(|_| l.starts_with('#')));
    headings.map(anchor_of).collect()
}

/// As code hosting sites make it of a heading.
fn anchor_of(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// Pages in `docs` that a source names by their path, with the heading where one follows in quotes behind a comma.
fn mentions(text: &str) -> impl Iterator<Item = (String, Option<&str>)> {
    text.match_indices("docs/").filter_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/-_.".contains(c)).unwrap_or(rest.len());
        let page = rest[..end].trim_end_matches('.');
        let behind = rest[page.len()..].trim_start_matches('`');
        let heading = behind.strip_prefix(", \"").and_then(|h| h.split_once('"')).map(|(heading, _)| heading);
        page.ends_with(".md").then(|| (page.to_owned(), heading))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_headings_and_mentions_are_read() {
        let page = "# Full cache\n\n[a](b.md#c-d), ![p](p.svg) and [out](https://example.invalid/)\n\n### `groups[]`\n";
        assert_eq!(links(page).collect::<Vec<_>>(), ["b.md#c-d", "p.svg"]);
        assert_eq!(anchors(page), ["full-cache", "groups"].map(str::to_owned).into());
        assert_eq!(joined(Path::new("docs/internals"), "../api.md"), Path::new("docs/api.md"));
        // Put together, so that the check of this source does not follow them.
        let source = ["//! See `docs", "/a.md`, \"Raw data half\", and docs", "/b-c.md."].concat();
        let found: Vec<_> = mentions(&source).collect();
        let name = |end: &str| format!("docs{end}");
        assert_eq!(found, [(name("/a.md"), Some("Raw data half")), (name("/b-c.md"), None)]);
    }
}
