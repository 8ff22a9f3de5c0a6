//! `cargo xtask language`: comments and pages are plain technical English.
//!
//! A machine can check two rules of CONTRIBUTING.md: a comment line has at most 110 columns, and no sentence
//! begins with a word that hides its subject. Everything else is for a reviewer.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask_support::{Workspace, command};

const COLUMNS: usize = 110;

/// A sentence with one of these at its beginning has no subject that a reader can name.
const RIDDLES: [&str; 7] = ["Who ", "Whoever ", "What ", "One that ", "Of what ", "Of which ", "That which "];

/// Files that a program writes, or that quote others. docs/attributes.md has the descriptions of metrics,
/// which are on the wire and stay as they are.
const GENERATED: [&str; 4] =
    ["collector-bridge/otlp/src/names.rs", "docs/attributes.md", "docs/results/", "docs/kernels.md"];

/// Checks every Rust file and every page, and names each line that breaks a rule.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut list = Command::new("git");
    list.args(["ls-files", "*.rs", "*.md"]).current_dir(workspace.root());
    let files = command::capture(list)?;
    let mut faults = Vec::new();
    let mut checked = 0;
    for file in files.lines().filter(|file| !GENERATED.iter().any(|prefix| file.starts_with(prefix))) {
        let path = workspace.path(file);
        // `git ls-files` also lists a file that was deleted but is still in the index.
        if !path.exists() {
            continue;
        }
        checked += 1;
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {file}"))?;
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let lines = if is_source { check_comments(&text) } else { check_page(&text) };
        faults.extend(lines.into_iter().map(|(line, fault)| format!("{file}:{line}: {fault}")));
    }
    if faults.is_empty() {
        println!("{checked} files: comments and pages follow the rules");
        return Ok(());
    }
    bail!("{} lines break a rule of CONTRIBUTING.md:\n{}", faults.len(), faults.join("\n"))
}

type Fault = (usize, String);

fn check_comments(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let Some(comment) = trimmed.strip_prefix("//") else {
            before = "";
            continue;
        };
        let comment = comment.trim_start_matches(['/', '!']).trim();
        if line.chars().count() > COLUMNS {
            faults.push((index + 1, format!("a comment line of more than {COLUMNS} columns")));
        }
        faults.extend(riddle(before, comment).map(|fault| (index + 1, fault)));
        before = comment;
    }
    faults
}

fn check_page(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut is_code = false;
    let mut before = "";
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            is_code = !is_code;
        }
        // A heading may be a question, and a table's head a noun phrase.
        if is_code || line.starts_with('#') || line.starts_with('|') {
            before = "";
            continue;
        }
        faults.extend(riddle(before, line).map(|fault| (index + 1, fault)));
        before = line;
    }
    faults
}

/// The fault of a line whose first word, or a word after a full stop, begins a riddle. `before` is the line
/// above.
fn riddle(before: &str, line: &str) -> Option<String> {
    let is_beginning = before.is_empty() || before.ends_with(['.', ':', '?', '`']);
    let begins = |text: &str| RIDDLES.iter().find(|riddle| text.starts_with(**riddle)).copied();
    let first = line.trim_start_matches(['-', '*', ' ']);
    let word = begins(first).filter(|_| is_beginning);
    let word = word.or_else(|| line.split(". ").skip(1).find_map(begins))?;
    // A question is no riddle.
    (!line.ends_with('?')).then(|| format!("a sentence begins with {word:?}: name its subject"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_without_a_subject_is_found() {
        for text in
            ["/// Who waits for long.", "// It waits. What was kept is sent.", "//! One that ends is gone."]
        {
            assert_eq!(check_comments(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_clause_and_a_question_pass() {
        for text in
            ["// The process knows\n// What it wants", "/// What is a listener?", "// It says who waits."]
        {
            assert_eq!(check_comments(text), [], "{text}");
        }
    }

    #[test]
    fn a_long_comment_is_found_and_long_code_is_not() {
        let long = "x".repeat(COLUMNS);
        assert_eq!(check_comments(&format!("// {long}")).len(), 1);
        assert_eq!(check_comments(&format!("let x = {long};")), []);
    }

    #[test]
    fn code_in_a_page_is_not_checked() {
        assert_eq!(check_page("```\nWho waits\n```"), []);
        assert_eq!(check_page("Who waits for long is counted.").len(), 1);
    }
}
