//! The dependencies between the files of a crate, from the paths in their source.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The modules of a crate, by path: `[]` is the root, `["config", "schema"]` is config/schema.rs.
pub(crate) struct Crate {
    modules: BTreeMap<Vec<String>, Module>,
}

struct Module {
    /// The file, relative to the checkout.
    file: String,
    /// Every path that the file names, without `crate`, `super` and `self`.
    paths: BTreeSet<Vec<String>>,
    /// The names that the file re-exports, each with the path of the item.
    exports: BTreeMap<String, Vec<String>>,
}

impl Crate {
    /// Reads the source files of `folder`. A file in a folder `tests`, or with that name, is left out.
    pub(crate) fn read(root: &Path, folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect(&root.join(folder), &mut files)?;
        let mut modules = BTreeMap::new();
        for file in files {
            let inside = file.strip_prefix(root.join(folder)).unwrap_or(&file).with_extension("");
            let module: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let is_root = module.len() == 1 && matches!(module[0].as_str(), "lib" | "main");
            if is_root || module.iter().any(|part| part == "tests" || part == "bin") {
                continue;
            }
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let file = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
            let (paths, exports) = named(&code(&text), &module);
            modules.insert(module, Module { file, paths, exports });
        }
        Ok(Self { modules })
    }

    /// Each file with the files that it depends on.
    pub(crate) fn arrows(&self) -> BTreeMap<String, Vec<String>> {
        let arrow = |module: &Module| {
            let exported: BTreeSet<&Vec<String>> = module.exports.values().collect();
            let targets: BTreeSet<String> = module
                .paths
                .iter()
                .filter(|path| !exported.contains(path))
                .filter_map(|path| self.file_of(path, 0))
                .filter(|file| *file != module.file)
                .collect();
            (module.file.clone(), targets.into_iter().collect())
        };
        self.modules.values().map(arrow).collect()
    }

    /// The file that has the item at `path`: that of the longest prefix which is a module, or, if that module
    /// only re-exports the item, that of the item itself.
    fn file_of(&self, path: &[String], depth: usize) -> Option<String> {
        let length = (1..=path.len()).rev().find(|length| self.modules.contains_key(&path[..*length]))?;
        let module = &self.modules[&path[..length]];
        let item = path.get(length).and_then(|name| module.exports.get(name)).filter(|_| depth < 4);
        item.and_then(|item| self.file_of(item, depth + 1)).or_else(|| Some(module.file.clone()))
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The source without comments, without what is in string literals, and without the unit tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let mut code = String::new();
    let mut rest = text[..end].chars().peekable();
    let mut before = ' ';
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                rest.by_ref().find(|c| *c == '\n');
                code.push('\n');
            }
            // Not the character literal '"'.
            '"' if before != '\'' => {
                while let Some(inside) = rest.next().filter(|inside| *inside != '"') {
                    if inside == '\\' {
                        rest.next();
                    }
                }
                code.push_str("\"\"");
            }
            _ => code.push(c),
        }
        before = c;
    }
    code
}

type Named = (BTreeSet<Vec<String>>, BTreeMap<String, Vec<String>>);

/// The paths into the crate that `text` names as module `module`, and those that it re-exports.
fn named(text: &str, module: &[String]) -> Named {
    let mut paths = BTreeSet::new();
    let mut exports = BTreeMap::new();
    let children: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name))
        .collect();
    let parent = &module[..module.len().saturating_sub(1)];
    let starts = [("crate", &[] as &[String]), ("super", parent), ("self", module)]
        .into_iter()
        .chain(children.iter().map(|child| (*child, module)));
    for (start, base) in starts {
        let is_child = children.contains(&start);
        for at in occurrences(text, start) {
            let mut base = base.to_vec();
            let mut rest = &text[at + start.len() + 2..];
            while let Some(above) = rest.strip_prefix("super::").filter(|_| start == "super") {
                base.pop();
                rest = above;
            }
            if is_child {
                base.push(start.to_owned());
            }
            let mut found = Vec::new();
            expand(rest, &base, &mut found);
            if is_reexport(text, at) {
                exports.extend(found.iter().filter_map(|path| Some((path.last()?.clone(), path.clone()))));
            }
            paths.extend(found);
        }
    }
    (paths, exports)
}

/// Where `start::` stands in `text` as the beginning of a path.
fn occurrences<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = usize> + 'a {
    let prefix = format!("{start}::");
    let found: Vec<usize> = text.match_indices(&prefix).map(|(at, _)| at).collect();
    found.into_iter().filter(move |at| {
        let before = text[..*at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == ':')
    })
}

/// Whether the path at `at` belongs to a `pub use`.
fn is_reexport(text: &str, at: usize) -> bool {
    let statement = text[..at].rfind(';').map_or(0, |end| end + 1);
    let before = text[statement..at].trim_start();
    before.starts_with("pub") && before.contains("use ")
}

/// The paths of a use tree or of an expression, each with `base` before it. Returns what follows the tree.
fn expand<'a>(mut rest: &'a str, base: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let mut path = base.to_vec();
    loop {
        rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            rest = group;
            loop {
                rest = expand(rest, &path, found).trim_start();
                match rest.strip_prefix(',') {
                    Some(next) if !next.trim_start().starts_with('}') => rest = next,
                    Some(next) => return next.trim_start().strip_prefix('}').unwrap_or(next),
                    None => return rest.strip_prefix('}').unwrap_or(rest),
                }
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end > 0 && &rest[..end] != "self" {
            path.push(rest[..end].to_owned());
        }
        rest = &rest[end..];
        let Some(next) = rest.strip_prefix("::") else { break };
        rest = next;
    }
    found.push(path);
    match rest.trim_start().strip_prefix("as ") {
        Some(alias) => alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
        None => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, module: &[&str]) -> Vec<String> {
        let module: Vec<String> = module.iter().map(|part| (*part).to_owned()).collect();
        named(&code(text), &module).0.into_iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn nested_trees_are_expanded() {
        let text = "use crate::{a::{self, B as C}, d::E};\nuse std::io;";
        assert_eq!(paths(text, &["m"]), ["a", "a::B", "d::E"]);
    }

    #[test]
    fn super_and_children_are_resolved() {
        let text = "mod child;\nuse super::sibling::X;\nfn f() { child::go(); other_child::stop() }";
        assert_eq!(paths(text, &["a", "b"]), ["a::b::child::go", "a::sibling::X"]);
    }

    #[test]
    fn comments_and_unit_tests_do_not_count() {
        let text = "// crate::a\n#[cfg(test)]\nmod tests {\n use crate::b;\n}";
        assert_eq!(paths(text, &["m"]), [""; 0]);
    }

    #[test]
    fn string_literals_do_not_count() {
        assert_eq!(paths("let a = (\"crate::a \\\" crate::b\", '\"', crate::c);", &["m"]), ["c"]);
    }

    #[test]
    fn a_reexport_leads_to_the_item() {
        let text = "mod b;\npub use b::X;";
        let (_, exports) = named(text, &["a".to_owned()]);
        assert_eq!(exports["X"], ["a", "b", "X"]);
    }
}
