//! The verdicts, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::{
    facts::Facts,
    verdict::{Item, Verdict, items},
};

/// What `acceptd check` found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of the items: ok, degraded or failed.
    pub verdict: Verdict,
    /// Everything that was looked at.
    pub items: Vec<Item>,
    /// What the verdicts are made of.
    pub facts: Facts,
}

impl Report {
    /// The report on these facts.
    #[must_use]
    pub fn new(facts: Facts) -> Self {
        let items = items(&facts);
        let worst = items.iter().map(|item| item.verdict).max().unwrap_or(Verdict::Ok);
        let verdict = if worst == Verdict::Skipped { Verdict::Ok } else { worst };
        Self { verdict, items, facts }
    }

    /// 0 ok, 1 failed, 2 degraded.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Ok | Verdict::Skipped => 0,
            Verdict::Failed => 1,
            Verdict::Degraded => 2,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { looked_at, verdict, because, remedy, .. } in &self.items {
            writeln!(out, "{:<8}  {looked_at}", word(*verdict))?;
            if !because.is_empty() {
                writeln!(out, "          because {because}")?;
            }
            if !remedy.is_empty() {
                writeln!(out, "          do      {remedy}")?;
            }
        }
        let how =
            self.facts.capture.as_ref().map(|capture| format!(" in {}", capture.tier)).unwrap_or_default();
        match self.verdict {
            Verdict::Ok | Verdict::Skipped => writeln!(out, "ok: acceptd works on this host{how}"),
            Verdict::Degraded => {
                writeln!(out, "degraded: acceptd works on this host{how}, without what is marked")
            }
            Verdict::Failed => writeln!(out, "FAILED: acceptd does not work on this host"),
        }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Skipped => "skipped",
        Verdict::Degraded => "degraded",
        Verdict::Failed => "FAILED",
    }
}
