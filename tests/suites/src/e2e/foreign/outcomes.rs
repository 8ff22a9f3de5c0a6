//! The outcomes of a test suite, by the name of each test.

use std::collections::BTreeMap;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Every test of a suite.
pub(super) type Outcomes = BTreeMap<String, Outcome>;

/// Reads the lines `--- PASS: NAME (0.01s)` of Go's verbose output. In the format for test2json each begins
/// with a control character, so that it is found behind what a test printed without a line break.
pub(super) fn of_go(output: &str) -> Outcomes {
    output.lines().filter_map(go_line).collect()
}

fn go_line(line: &str) -> Option<(String, Outcome)> {
    let (_, line) = line.split_once('\u{16}').unwrap_or(("", line));
    let (word, rest) = line.trim_start().strip_prefix("--- ")?.split_once(": ")?;
    let outcome = match word {
        "PASS" => Outcome::Passed,
        "FAIL" => Outcome::Failed,
        "SKIP" => Outcome::Skipped,
        _ => return None,
    };
    let (name, _time) = rest.rsplit_once(" (")?;
    Some((name.to_owned(), outcome))
}

/// Reads the file that `CPython`'s `test --junit-xml` writes.
pub(super) fn of_junit(xml: &str) -> Outcomes {
    xml.split("<testcase ").skip(1).filter_map(test_case).collect()
}

fn test_case(text: &str) -> Option<(String, Outcome)> {
    let (_, rest) = text.split_once("name=\"")?;
    let (name, rest) = rest.split_once('"')?;
    let own = rest.split_once("</testcase>").map_or(rest, |(own, _)| own);
    let outcome = if own.contains("<failure") || own.contains("<error") {
        Outcome::Failed
    } else if own.contains("<skipped") {
        Outcome::Skipped
    } else {
        Outcome::Passed
    };
    Some((name.to_owned(), outcome))
}

#[cfg(test)]
mod tests {
    use super::{Outcome, of_go, of_junit};

    #[test]
    fn go_names_subtests_with_their_parents() {
        let text = "=== RUN   TestA\n\u{16}--- PASS: TestA (0.00s)\n    \u{16}--- SKIP: TestA/a_(b) (0.00s)\n\
             printed\u{16}--- FAIL: TestB (1.00s)\nPASS\n";
        let all: Vec<_> = of_go(text).into_iter().collect();
        let expected =
            [("TestA", Outcome::Passed), ("TestA/a_(b)", Outcome::Skipped), ("TestB", Outcome::Failed)];
        assert_eq!(all, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
    }

    #[test]
    fn a_test_case_has_an_element_unless_it_passed() {
        let xml = r#"<testsuites><testsuite start="x"><testcase name="a.b" status="run" time="0.1" />
            <testcase name="a.c" status="run"><skipped>why</skipped></testcase>
            <testcase name="a.d" status="run"><error type="E">text</error></testcase></testsuite></testsuites>"#;
        let all: Vec<_> = of_junit(xml).into_iter().collect();
        let expected = [("a.b", Outcome::Passed), ("a.c", Outcome::Skipped), ("a.d", Outcome::Failed)];
        assert_eq!(all, expected.map(|(name, outcome)| (name.to_owned(), outcome)));
    }
}
