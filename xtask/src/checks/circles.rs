//! Files of a crate that import each other in a circle. What a `mod.rs` or `lib.rs` exports of the files below it, it
//! imports: who takes a name there depends on all of these, so files below such a face name each other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use anyhow::Result;

use super::{Checked, code, for_each_source};
use crate::process::root;

/// Crates whose files form no circle.
const WITHOUT_CIRCLES: &[&str] = &["reprise-journal", "reprise-engine"];

/// Files of a crate by their modules; the root of the crate is the empty one.
type Modules = BTreeMap<Vec<String>, String>;
/// What each file imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check() -> Result<Checked> {
    let (mut looked_at, mut faults) = (0, Vec::new());
    for name in WITHOUT_CIRCLES {
        let (folder, mut sources) = (Path::new("crates").join(name).join("src"), BTreeMap::new());
        for_each_source(&root().join(&folder), &mut |path, text| {
            let path = path.strip_prefix(&folder).unwrap_or(path);
            sources.insert(path.to_string_lossy().into_owned(), text.to_owned());
        })?;
        let imports = imports(&sources);
        looked_at += imports.values().map(BTreeSet::len).sum::<usize>();
        faults.extend(circles(&imports).iter().map(|circle| format!("{name}: {circle}")));
    }
    Ok(Checked { name: "circles between files", looked_at, faults })
}

fn module_of(path: &str) -> Vec<String> {
    let names = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    names.filter(|name| name != "mod" && name != "lib").collect()
}

fn imports(sources: &BTreeMap<String, String>) -> Imports {
    let modules: Modules = sources.keys().map(|path| (module_of(path), path.clone())).collect();
    let of = |(path, text): (&String, &String)| {
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
        let (product, module) = (code(product).collect::<Vec<_>>().join("\n"), module_of(path));
        let files = paths(&product).into_iter().filter_map(|path| file_of(&path, &module, &modules));
        (path.clone(), files.filter(|file| file != path).collect())
    };
    sources.iter().map(of).collect()
}

/// The file in which a path that is written in `module` ends; none where it leads out of the crate.
fn file_of(path: &[&str], module: &[String], modules: &Modules) -> Option<String> {
    let (head, mut rest) = path.split_first()?;
    let mut at = match *head {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        name => [module, &[name.to_owned()]].concat(),
    };
    while let Some((&"super", further)) = rest.split_first() {
        (_, rest) = (at.pop(), further);
    }
    let mut file = modules.get(&at)?;
    for name in rest {
        at.push((*name).to_owned());
        let Some(below) = modules.get(&at) else { break };
        file = below;
    }
    Some(file.clone())
}

/// The paths in a source: those of its `use`, and all that are written where they are needed.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let is_use = |at: usize| {
            let before = statement[..at].rsplit('\n').next().unwrap_or_default();
            before.is_empty() || before.starts_with("pub")
        };
        let tree = statement.match_indices("use ").map(|(at, _)| at).find(|at| is_use(*at));
        let (inline, tree) = statement.split_at(tree.unwrap_or(statement.len()));
        for (at, _) in inline.match_indices("::") {
            let head = inline[..at].rsplit(|c| !is_word(c)).next().unwrap_or_default();
            if !head.is_empty() && !inline[..at - head.len()].ends_with("::") {
                take_tree(&inline[at - head.len()..], &[], &mut found);
            }
        }
        if let Some(tree) = tree.strip_prefix("use ") {
            take_tree(tree, &[], &mut found);
        }
    }
    found
}

/// Takes the paths that a text begins with, all behind `from`; gives the rest of it. `a::{b, c::d}` are `a::b` and `a::c::d`.
fn take_tree<'a>(text: &'a str, from: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> &'a str {
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            match inside.strip_prefix('}') {
                Some(rest) => return rest,
                None if inside.is_empty() => return inside,
                None => inside = take_tree(inside, from, found).trim_start_matches(|c| c != ',' && c != '}'),
            }
        }
    }
    let (word, rest) = text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()));
    let path = [from, &[word]].concat();
    match rest.strip_prefix("::") {
        Some(rest) => take_tree(rest, &path, found),
        None => {
            found.push(path);
            rest
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The shortest circle through each file that is in one.
fn circles(imports: &Imports) -> BTreeSet<String> {
    let written = |mut circle: Vec<&str>| {
        let first = circle.iter().enumerate().min_by_key(|(_, file)| **file).map_or(0, |(at, _)| at);
        circle.rotate_left(first);
        format!("{} -> {}", circle.join(" -> "), circle[0])
    };
    imports.keys().filter_map(|file| circle_through(file, imports)).map(written).collect()
}

fn circle_through<'a>(start: &'a str, imports: &'a Imports) -> Option<Vec<&'a str>> {
    let (mut ways, mut seen) = (VecDeque::from([vec![start]]), BTreeSet::new());
    while let Some(way) = ways.pop_front() {
        for next in &imports[*way.last()?] {
            if next == start {
                return Some(way);
            }
            if seen.insert(next) {
                ways.push_back([way.as_slice(), &[next]].concat());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sources: &[(&str, &str)], expected: &[&str]) {
        let sources = sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        assert_eq!(circles(&imports(&sources)).iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_circle_is_found_and_nothing_else() {
        let root = ("lib.rs", "mod a;\nmod io;\nmod user;\n\npub use a::B;\n");
        let face = ("a/mod.rs", "mod b;\nmod c;\n\npub(crate) use b::B;\npub(crate) use c::{C, D as E};\n");
        let user = ("user.rs", "use crate::a::{B, C};\n\nfn f() {}\n");
        let c = ("a/c.rs", "use std::fmt;\n\nuse crate::io::Io;\n");
        let io = ("io.rs", "//! See [`crate::user`].\n");
        check(&[root, face, user, c, io, ("a/b.rs", "use super::c::{\n    C,\n    d::*,\n};\n")], &[]);
        check(&[root, face, user, c, io, ("a/b.rs", "#[cfg(test)]\nmod tests {\n    use crate::a::C;\n}\n")], &[]);
        // By the face, where it is needed, by the root, and over another folder.
        let by_face = ["a/b.rs -> a/mod.rs -> a/b.rs"];
        check(&[root, face, user, c, io, ("a/b.rs", "use super::{C, Other};\n")], &by_face);
        check(&[root, face, user, c, io, ("a/b.rs", "fn f() -> u8 {\n    g(1, crate::a::C)\n}\n")], &by_face);
        let by_root = ["a/b.rs -> lib.rs -> a/mod.rs -> a/b.rs"];
        check(&[root, face, user, c, io, ("a/b.rs", "use crate::{B, io::Io};\n")], &by_root);
        let by_user = ["a/c.rs -> user.rs -> a/mod.rs -> a/c.rs"];
        check(&[root, face, user, io, ("a/b.rs", ""), ("a/c.rs", "use crate::user::{self};\n")], &by_user);
    }
}
