//! Compares a suite's run beside the agent with the kernel's counters and with the run before.

use super::outcomes::{Outcome, Outcomes};
use crate::e2e::counters::Counters;

/// How many tests a fault names.
const MAX_NAMED: usize = 5;

/// The facts about a suite, and what acceptd reported.
pub(super) struct Seen<'a> {
    pub(super) name: &'static str,
    /// Those of the run beside the agent.
    pub(super) counters: Counters,
    pub(super) accepts: u64,
    pub(super) abandoned: u64,
    pub(super) overflows: u64,
    pub(super) without: &'a Outcomes,
    pub(super) with: &'a Outcomes,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct SuiteRow {
    pub(crate) name: &'static str,
    /// Tests that passed beside the agent.
    pub(crate) passed: usize,
    pub(crate) passive_opens: u64,
    pub(crate) accepts: u64,
    pub(crate) abandoned: u64,
    pub(crate) listen_overflows: u64,
    pub(crate) overflows: u64,
    /// The differences.
    pub(crate) faults: Vec<String>,
}

/// Judges one suite. All its processes have ended, so no connection waits in a queue.
pub(super) fn judge(seen: &Seen<'_>) -> SuiteRow {
    let Counters { passive_opens, listen_overflows } = seen.counters;
    let mut faults = Vec::new();
    if seen.accepts + seen.abandoned != passive_opens {
        faults.push(format!(
            "{} accepts and {} abandoned, but the kernel has PassiveOpens {passive_opens}",
            seen.accepts, seen.abandoned
        ));
    }
    if seen.overflows != listen_overflows {
        faults.push(format!(
            "told as overflow {}, but the kernel has ListenOverflows {listen_overflows}",
            seen.overflows
        ));
    }
    let differ = differences(seen.without, seen.with);
    if !differ.is_empty() {
        let named: Vec<_> = differ.iter().take(MAX_NAMED).collect();
        faults.push(format!("{} tests ended otherwise than without the agent: {named:?}", differ.len()));
    }
    SuiteRow {
        name: seen.name,
        passed: seen.with.values().filter(|outcome| **outcome == Outcome::Passed).count(),
        passive_opens,
        accepts: seen.accepts,
        abandoned: seen.abandoned,
        listen_overflows,
        overflows: seen.overflows,
        faults,
    }
}

/// Each test with another outcome: its name, the outcome without and that beside the agent.
fn differences<'a>(
    without: &'a Outcomes,
    with: &'a Outcomes,
) -> Vec<(&'a str, Option<Outcome>, Option<Outcome>)> {
    let mut names: Vec<&str> = without.keys().chain(with.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let pairs = names.into_iter().map(|name| (name, without.get(name).copied(), with.get(name).copied()));
    pairs.filter(|(_, without, with)| without != with).collect()
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Outcomes, Seen, judge};
    use crate::e2e::counters::Counters;

    fn faults(accepts: u64, overflows: u64, with: &[(&str, Outcome)]) -> Vec<String> {
        let outcomes = |all: &[(&str, Outcome)]| -> Outcomes {
            all.iter().map(|(name, outcome)| ((*name).to_owned(), *outcome)).collect()
        };
        judge(&Seen {
            name: "a",
            counters: Counters { passive_opens: 7, listen_overflows: 2 },
            accepts,
            abandoned: 1,
            overflows,
            without: &outcomes(&[("a", Outcome::Passed), ("b", Outcome::Failed)]),
            with: &outcomes(with),
        })
        .faults
    }

    #[test]
    fn each_difference_is_a_fault() {
        let same = [("a", Outcome::Passed), ("b", Outcome::Failed)];
        assert_eq!(faults(6, 2, &same), [""; 0]);
        assert!(faults(5, 2, &same)[0].contains("PassiveOpens 7"));
        assert!(faults(6, 3, &same)[0].contains("ListenOverflows 2"));
        let other = [("a", Outcome::Failed), ("c", Outcome::Passed)];
        assert!(faults(6, 2, &other)[0].starts_with("3 tests"), "{:?}", faults(6, 2, &other));
    }
}
