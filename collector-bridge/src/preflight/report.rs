//! The report of `acceptd check`: the verdicts as text for operators, and as JSON for programs.

use std::fmt;

use serde::Serialize;

use super::{
    facts::Facts,
    verdict::{Item, Verdict, judge},
};

/// The result of `acceptd check`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst verdict of the items: ok, degraded or failed.
    pub(crate) verdict: Verdict,
    /// The items that were checked, in the order of their dependencies.
    pub(crate) items: Vec<Item>,
    /// The facts on which the verdicts are based.
    pub(crate) facts: Facts,
}

impl Report {
    /// Judges the facts.
    #[must_use]
    pub(crate) fn new(facts: Facts) -> Self {
        let items = judge(&facts);
        let worst = items.iter().map(|item| item.verdict).max().unwrap_or(Verdict::Ok);
        let verdict = if worst == Verdict::Skipped { Verdict::Ok } else { worst };
        Self { verdict, items, facts }
    }

    /// The exit code of `acceptd check`: 0 ok, 1 failed, 2 degraded.
    #[must_use]
    pub(crate) fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Ok | Verdict::Skipped => 0,
            Verdict::Failed => 1,
            Verdict::Degraded => 2,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { subject, verdict, because, remedy, .. } in &self.items {
            writeln!(out, "{:<8}  {subject}", label(*verdict))?;
            if !because.is_empty() {
                writeln!(out, "          because {because}")?;
            }
            if !remedy.is_empty() {
                writeln!(out, "          do      {remedy}")?;
            }
        }
        let tier =
            self.facts.capture.as_ref().map(|capture| format!(" in {}", capture.tier)).unwrap_or_default();
        match self.verdict {
            Verdict::Ok | Verdict::Skipped => writeln!(out, "ok: acceptd works on this host{tier}"),
            Verdict::Degraded => {
                writeln!(
                    out,
                    "degraded: acceptd works on this host{tier}, except for the items marked degraded"
                )
            }
            Verdict::Failed => writeln!(out, "FAILED: acceptd does not work on this host"),
        }
    }
}

fn label(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Skipped => "skipped",
        Verdict::Degraded => "degraded",
        Verdict::Failed => "FAILED",
    }
}
