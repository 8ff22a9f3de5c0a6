//! `cargo xtask language`: comments and pages are plain technical English.
//!
//! A machine can check three rules of CONTRIBUTING.md: a comment line of Rust has at most 110 columns, no
//! sentence begins with a word that hides its subject, and no word hides the actor. Nothing checks string
//! literals: logs, errors and help texts are for a reviewer, like everything else.

use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask_support::{Workspace, command};

const COLUMNS: usize = 110;

/// The files that are checked. `*` also matches `/`.
const FILES: [&str; 9] =
    ["*.rs", "*.md", "*.yaml", "*.yml", "*.toml", "*.sh", "*Dockerfile", ".env", ".ci/run"];

/// A sentence with one of these at its beginning has no subject that a reader can name.
const RIDDLES: [&str; 7] = ["Who ", "Whoever ", "What ", "One that ", "Of what ", "Of which ", "That which "];

/// Words with no correct use here: a comment names the process, the peer or the operator, and says that a
/// program reports or reads. In backticks they are names, such as the user `nobody`.
const BANNED: [&str; 15] = [
    "nobody",
    "somebody",
    "anybody",
    "whoever",
    "told",
    "tells",
    "looked at",
    "looks at",
    "says of",
    "sing",
    "sings",
    "deaf",
    "thinned",
    "patience",
    "now and then",
];

/// Files that a program writes, or that quote others. docs/attributes.md has the descriptions of metrics,
/// which are on the wire and stay as they are.
const GENERATED: [&str; 6] = [
    "collector-bridge/otlp/src/names.rs",
    "docs/attributes.md",
    "docs/results/",
    "docs/kernels.md",
    "fuzz/seeds/",
    "tests/kubernetes/schemas/",
];

/// Checks the comments of sources and configuration, and every page, and names each line that breaks a rule.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut list = Command::new("git");
    list.arg("ls-files").args(FILES).current_dir(workspace.root());
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
        let lines = match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => [check_columns(&text), check_comments(&text, "//")].concat(),
            Some("md") => check_page(&text),
            _ => check_comments(&text, "#"),
        };
        faults.extend(lines.into_iter().map(|(line, fault)| format!("{file}:{line}: {fault}")));
    }
    if faults.is_empty() {
        println!("{checked} files: comments and pages follow the rules");
        return Ok(());
    }
    bail!("{} lines break a rule of CONTRIBUTING.md:\n{}", faults.len(), faults.join("\n"))
}

type Fault = (usize, String);

/// The comment lines of Rust that are too long. Those of configuration may be longer, like its settings.
fn check_columns(text: &str) -> Vec<Fault> {
    let lines = (1..).zip(text.lines());
    let is_long = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > COLUMNS;
    let fault = || format!("a comment line of more than {COLUMNS} columns");
    lines.filter(|(_, line)| is_long(line)).map(|(number, _)| (number, fault())).collect()
}

/// Checks the comments that begin with `marker`: whole lines, and those at the end of a line.
fn check_comments(text: &str, marker: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut before = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let whole = line.trim_start().strip_prefix(marker);
        let trailing = || line.split_once(&format!(" {marker} ")).map(|(_, comment)| comment);
        let comment = whole.or_else(trailing).unwrap_or_default();
        let comment = without_code(comment.trim_start_matches(['/', '!', '#']).trim());
        faults.extend(check_prose(&before, &comment).map(|fault| (number, fault)));
        before = if whole.is_some() { comment } else { String::new() };
    }
    faults
}

fn check_page(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut is_code = false;
    let mut is_table = false;
    let mut before = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = without_code(line.trim());
        let was_table = std::mem::replace(&mut is_table, line.starts_with('|'));
        is_code ^= line.starts_with("```");
        let fault = if is_code {
            None
        } else if line.starts_with('#') || (is_table && !was_table) {
            // A heading may be a question, and a table's head a noun phrase.
            banned(&line)
        } else if is_table {
            line.split('|').find_map(|cell| check_prose("", cell.trim()))
        } else {
            check_prose(&before, &line)
        };
        faults.extend(fault.map(|fault| (number, fault)));
        before = if is_code || is_table || line.starts_with('#') { String::new() } else { line };
    }
    faults
}

/// The first fault of a line of text. `before` is the line above.
fn check_prose(before: &str, line: &str) -> Option<String> {
    riddle(before, line).or_else(|| banned(line))
}

/// The line with its code in backticks replaced by a pair of them. A fence stays as it is.
fn without_code(line: &str) -> String {
    if line.starts_with("```") {
        return line.to_owned();
    }
    // With an odd number of backticks, the last one begins code that the next line ends.
    let prose = line.split('`').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "" });
    prose.collect::<Vec<_>>().join("`")
}

/// The fault of a line with a banned word.
fn banned(line: &str) -> Option<String> {
    let words = line.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
    let line = format!(" {} ", words.collect::<Vec<_>>().join(" ").to_lowercase());
    let word = BANNED.iter().find(|word| line.contains(&format!(" {word} ")))?;
    Some(format!("the word {word:?}: name the actor, and what it does"))
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
            assert_eq!(check_comments(text, "//").len(), 1, "{text}");
        }
    }

    #[test]
    fn a_clause_and_a_question_pass() {
        for text in
            ["// The process knows\n// What it wants", "/// What is a listener?", "// It says who waits."]
        {
            assert_eq!(check_comments(text, "//"), [], "{text}");
        }
    }

    #[test]
    fn a_long_comment_is_found_and_long_code_is_not() {
        let long = "x".repeat(COLUMNS);
        assert_eq!(check_columns(&format!("// {long}")).len(), 1);
        assert_eq!(check_columns(&format!("let x = {long};")), []);
    }

    #[test]
    fn the_comments_of_configuration_are_checked() {
        let text = "#!/bin/sh\n# It runs.\nkey = 1 # What it is.\n  # Whoever calls.\nnobody: \"#told\"\n";
        let lines: Vec<usize> = check_comments(text, "#").into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [3, 4]);
    }

    #[test]
    fn a_banned_word_is_found_and_code_and_other_words_are_not() {
        for text in ["// Nobody reads it.", "// It is looked at.", "/// The kernel told it."] {
            assert_eq!(check_comments(text, "//").len(), 1, "{text}");
        }
        for text in [
            "// The user `nobody`.",
            "// Using a single one.",
            "// It looks up at once.",
            "let x = \"told\";",
        ] {
            assert_eq!(check_comments(text, "//"), [], "{text}");
        }
    }

    #[test]
    fn code_in_a_page_is_not_checked() {
        assert_eq!(check_page("```\nWho waits\n```"), []);
        assert_eq!(check_page("Who waits for long is counted.").len(), 1);
    }

    #[test]
    fn the_cells_of_a_table_are_checked_but_its_head_may_be_a_noun_phrase() {
        let page = "| What it is | name |\n|---|---|\n| a queue | `told` |\n| What waits. | x |\n| x | it was told |\n";
        let lines: Vec<usize> = check_page(page).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [4, 5]);
        assert_eq!(check_page("# Somebody waits").len(), 1);
    }
}
