//! The pages of the repository: every relative link leads somewhere, every path that a page names exists, and
//! no page repeats a measured figure, which stands once, under docs/results.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "helpers of tests end a test with what they expected")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Folders whose Markdown files are pages.
const FOLDERS: [&str; 6] =
    ["", "docs", "otel-config", "packaging/kubernetes", "packaging/demo/grafana", "docs/results"];

/// Pages that hold figures: the results of test runs, and answers of real backends.
const WITH_FIGURES: [&str; 2] = ["docs/results/", "docs/queries.md"];

/// Pages whose code spans name files of the repository, from its root.
const WITH_PATHS: [&str; 2] = ["ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Units of measured costs. Numbers with other units are limits or defaults.
const UNITS: [&str; 10] = [
    "ns",
    "µs",
    "us",
    "%",
    "×",
    "times",
    "of the rate",
    "instructions",
    "accepts/s",
    "records per CPU-second",
];

/// Figures that are specified, not measured: the page, and the words.
const SPECIFIED: [(&str, &str); 1] = [("ARCHITECTURE.md", "19 % apart")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page: its path from the root, and its text.
fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root().join(folder)).expect("a folder of pages") {
            let path = Path::new(folder).join(entry.expect("an entry").file_name());
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(root().join(&path)).expect("a page of text");
                pages.push((path.to_str().expect("a path of text").to_owned(), text));
            }
        }
    }
    pages.sort();
    pages
}

/// The lines of a page with their numbers, without fenced blocks.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// A line's text outside and inside of code spans.
fn spans(line: &str) -> (String, Vec<&str>) {
    let mut outside = String::new();
    let mut inside = Vec::new();
    for (index, part) in line.split('`').enumerate() {
        if index % 2 == 0 {
            outside.push_str(part);
            outside.push('`');
        } else {
            inside.push(part);
        }
    }
    (outside, inside)
}

/// The anchors of a page, as GitHub makes them of its headings, and those that are written out.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() < line.len() && heading.starts_with(' ') {
            let slug: String = heading
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|character| match character {
                    ' ' => Some('-'),
                    '-' | '_' => Some(character),
                    _ => character.is_alphanumeric().then_some(character),
                })
                .collect();
            let mut unique = slug.clone();
            let mut number = 0;
            while !anchors.insert(unique) {
                number += 1;
                unique = format!("{slug}-{number}");
            }
        }
        for rest in line.split("<a id=\"").skip(1) {
            anchors.extend(rest.split('"').next().map(str::to_owned));
        }
    }
    anchors
}

/// The targets of a line's links and pictures.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The fault of the link, if it has one.
fn broken(page: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let folder = root().join(page).parent().expect("the folder of a page").to_owned();
    let found = if file.is_empty() {
        text.to_owned()
    } else {
        let path = folder.join(file);
        if !path.exists() {
            return Some(format!("there is no {file}"));
        }
        fs::read_to_string(path).unwrap_or_default()
    };
    let anchor = anchor?;
    (!anchors(&found).contains(anchor)).then(|| format!("{file} has no heading #{anchor}"))
}

/// The figures of a line: a number with one of [`UNITS`].
fn figures(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let starts = line.char_indices().filter(|(at, character)| {
        let before = line[..*at].chars().next_back();
        character.is_ascii_digit()
            && !before.is_some_and(|before| before.is_alphanumeric() || ".,_-".contains(before))
    });
    for (at, _) in starts {
        let rest = &line[at..];
        let number =
            rest.trim_start_matches(|character: char| character.is_ascii_digit() || ".,".contains(character));
        let unit = number.trim_start_matches([' ', '\u{a0}']);
        let has_unit = UNITS.iter().any(|wanted| {
            unit.strip_prefix(wanted)
                .is_some_and(|after| !after.starts_with(|next: char| next.is_alphanumeric()))
        });
        if has_unit {
            found.push(rest.chars().take(40).collect());
        }
    }
    found
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        for (number, line) in prose(&text) {
            let (outside, _) = spans(line);
            for target in links(&outside) {
                wrong.extend(broken(&page, &text, target).map(|why| format!("{page}:{number}: {why}")));
            }
        }
    }
    assert_none("links that lead nowhere", &wrong);
}

#[test]
fn every_path_that_a_page_names_exists() {
    let mut wrong = Vec::new();
    for (page, text) in pages().iter().filter(|(page, _)| WITH_PATHS.contains(&page.as_str())) {
        for (number, line) in prose(text) {
            for span in spans(line).1 {
                let is_path = [".rs", ".toml", ".yaml", ".json", ".md"].iter().any(|end| span.ends_with(end))
                    && span.contains('/')
                    && !span.contains([' ', '*', '<', '{'])
                    && !span.starts_with('/');
                if is_path && !root().join(span).exists() {
                    wrong.push(format!("{page}:{number}: there is no {span}"));
                }
            }
        }
    }
    assert_none("paths that do not exist (write them from the repository's root)", &wrong);
}

#[test]
fn a_measured_figure_stands_under_docs_results_only() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        if WITH_FIGURES.iter().any(|exempt| page.starts_with(exempt)) {
            continue;
        }
        for (number, line) in prose(&text) {
            let (outside, _) = spans(line);
            for figure in figures(&outside) {
                let is_specified =
                    SPECIFIED.iter().any(|(on, words)| *on == page && figure.starts_with(words));
                if !is_specified {
                    wrong.push(format!("{page}:{number}: {figure}"));
                }
            }
        }
    }
    assert_none(
        "measured figures: link docs/results in their place, or add a specified value to SPECIFIED",
        &wrong,
    );
}

#[test]
fn the_rules_find_what_they_are_for() {
    assert_eq!(figures("costs some 90 ns a call").len(), 1);
    assert_eq!(figures("0.86 of the rate, 10 times the SDK, 3× faster, 0.2 % of a CPU").len(), 4);
    assert_eq!(figures("100 ms, 20,000 accepts a second, port 4317, IPv4, x86_64-6.1").len(), 0);
    assert_eq!(
        anchors(
            "# One word\n## What the kernel must have\n## `/livez`: why?\n```\n# no heading\n```\n<a id=\"own\"></a>"
        ),
        ["one-word", "what-the-kernel-must-have", "livez-why", "own"].map(str::to_owned).into()
    );
    let text = "# Here\n";
    assert_eq!(broken("README.md", text, "#here"), None);
    assert!(broken("README.md", text, "#there").is_some());
    assert!(broken("README.md", text, "docs/no-such-page.md").is_some());
    assert!(broken("docs/x.md", text, "../README.md#no-such-heading").is_some());
    assert_eq!(broken("docs/x.md", text, "https://example.com/#any"), None);
}
