//! Reads the queries of docs/queries.md, and writes the answers into it.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context, Result, bail};

/// The time range of queries and dashboards, which covers the whole run.
pub(super) const RANGE: &str = "30m";

/// A query of the document.
#[derive(Debug, PartialEq)]
pub(super) struct Query {
    /// The backend that the query is for.
    pub(super) backend: String,
    /// The name of the question, the same for each backend.
    pub(super) question: String,
    /// The query with variables, such as `$service`, instead of values.
    pub(super) text: String,
}

/// The values of the variables, by their names without `$`.
pub(super) type Values = BTreeMap<&'static str, String>;

impl Query {
    /// BACKEND/QUESTION, the name of the query in the document.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.backend, self.question)
    }

    /// Replaces the variables of the query by their values. A variable without a value is an error.
    pub(super) fn with_values(&self, values: &Values) -> Result<String> {
        let mut text = self.text.clone();
        // In reverse order `start_us` is replaced before its prefix `start`.
        for (name, value) in values.iter().rev() {
            text = text.replace(&format!("${name}"), value);
        }
        if let Some(at) = text.find('$') {
            bail!(
                "{}: there is no value for {}",
                self.id(),
                text[at..].split([' ', '"', '&', ']']).next().unwrap_or_default()
            );
        }
        Ok(text)
    }
}

/// Reads the queries of a document: fenced blocks whose info string has BACKEND/QUESTION as its second word.
/// Each must be followed by the marker of its answer.
pub(super) fn read(document: &str) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(id) = line.strip_prefix("```").and_then(|info| info.split_once(' ')).map(|(_, id)| id)
        else {
            continue;
        };
        let (backend, question) =
            id.split_once('/').with_context(|| format!("{line} names no BACKEND/QUESTION"))?;
        let mut text: Vec<&str> = Vec::new();
        loop {
            match lines.next() {
                Some("```") => break,
                Some(line) => text.push(line),
                None => bail!("the block {id} has no end"),
            }
        }
        if lines.next() != Some(marker(id).as_str()) {
            bail!("the block {id} is not followed by {}", marker(id));
        }
        queries.push(Query {
            backend: backend.to_owned(),
            question: question.to_owned(),
            text: text.join("\n"),
        });
    }
    Ok(queries)
}

/// Returns the document with each of these answers, by query id, after its marker. Earlier answers are
/// removed.
pub(super) fn with_answers(document: &str, answers: &BTreeMap<String, String>) -> String {
    let mut text = String::with_capacity(document.len());
    let mut lines = document.lines().peekable();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let Some(id) = line.strip_prefix("<!-- answer: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if lines.peek() == Some(&ANSWER) {
            // Skips the earlier answer up to its end.
            _ = lines.by_ref().skip(1).find(|line| *line == "```");
        }
        if let Some(answer) = answers.get(id) {
            // Writing to a string cannot fail.
            _ = writeln!(text, "{ANSWER}\n{}\n```", answer.trim_end());
        }
    }
    text
}

const ANSWER: &str = "```text";

fn marker(id: &str) -> String {
    format!("<!-- answer: {id} -->")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "Words.\n\n```logql loki/slow\n{service_name=\"$service\"}\n```\n<!-- answer: loki/slow -->\n\nMore.\n";

    #[test]
    fn a_block_is_a_query() {
        let queries = read(DOCUMENT).expect("good");
        let [query] = queries.as_slice() else { panic!("{queries:?}") };
        assert_eq!(query.id(), "loki/slow");
        assert_eq!(
            query.with_values(&Values::from([("service", "a".to_owned())])).expect("all known"),
            "{service_name=\"a\"}"
        );
        assert!(query.with_values(&Values::new()).is_err(), "no value");
    }

    #[test]
    fn a_block_without_backend_end_or_marker_is_an_error() {
        for (from, to) in [
            ("loki/slow\n{", "loki\n{"),
            ("\"}\n```\n<!--", "\"}\n<!--"),
            ("answer: loki/slow", "answer: loki/fast"),
        ] {
            assert!(read(&DOCUMENT.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn a_new_answer_replaces_the_earlier_one() {
        let answered = |text: &str, answer: &str| {
            with_answers(text, &BTreeMap::from([("loki/slow".to_owned(), answer.to_owned())]))
        };
        let once = answered(DOCUMENT, "one\ntwo");
        assert!(once.contains("-->\n```text\none\ntwo\n```\n\nMore."), "{once}");
        assert_eq!(answered(&once, "three"), answered(DOCUMENT, "three"));
        assert_eq!(with_answers(&once, &BTreeMap::new()), DOCUMENT);
    }
}
