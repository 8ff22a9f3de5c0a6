//! The summary at the end of a run: the ledger as text for operators, and as one line of JSON for programs.

use std::{collections::BTreeMap, fmt};

use acceptd_otlp::LedgerSnapshot;
use serde::Serialize;

use crate::{
    accounting::ledger::{CaptureLedger, Unverified},
    bpf::{CaptureMode, skipped::SkippedRuns},
    clock,
    config::DEFAULT_DESTINATION,
    pipeline::{ConsoleCounts, NamedLedger, handle::CounterSnapshot},
};

/// Everything that was counted in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// How accepts were captured.
    pub(crate) programs: CaptureMode,
    /// The ledger from the hook to the batches.
    pub(crate) capture: CaptureLedger,
    /// How often the kernel skipped each program: every run may have missed an event, or a field of one. Not
    /// part of the equations. `None` on kernels that do not count them.
    #[serde(rename = "hook_missed")]
    pub(crate) skipped: Option<SkippedRuns>,
    /// Until when every accept was captured, nanoseconds since the Unix epoch. Later ones may be missing:
    /// from then on the programs were detached, one after the other.
    pub(crate) captured_until_unix_ns: Option<u64>,
    /// The ledger of the destination of `export.*`; `None` if there is none.
    pub(crate) export: Option<LedgerSnapshot>,
    /// The ledgers of the other destinations, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) destinations: BTreeMap<String, LedgerSnapshot>,
    /// Where each destination is, by name.
    #[serde(skip)]
    targets: BTreeMap<String, String>,
    /// The ledger of spans; `None` if no spans are sent.
    pub(crate) traces: Option<LedgerSnapshot>,
    /// The ledger of the agent's own metrics; `None` if they are not sent.
    pub(crate) metrics: Option<LedgerSnapshot>,
    /// The ledger of the standard output; `None` if records are not printed.
    pub(crate) console: Option<ConsoleCounts>,
}

impl Summary {
    /// The summary of these counters and ledgers.
    #[must_use]
    pub(crate) fn new(
        programs: CaptureMode,
        counters: &CounterSnapshot,
        destinations: &[NamedLedger],
        traces: Option<LedgerSnapshot>,
        metrics: Option<LedgerSnapshot>,
    ) -> Self {
        let by_name = |named: &NamedLedger| (named.name.clone(), named.ledger.clone());
        let target = |named: &NamedLedger| (named.name.clone(), named.target.to_string());
        let mut ledgers: BTreeMap<String, LedgerSnapshot> = destinations.iter().map(by_name).collect();
        Self {
            programs,
            capture: counters.ledger(),
            skipped: counters.skipped.clone(),
            captured_until_unix_ns: counters.captured_until_unix_ns,
            export: ledgers.remove(DEFAULT_DESTINATION),
            destinations: ledgers,
            targets: destinations.iter().map(target).collect(),
            traces,
            metrics,
            console: counters.console,
        }
    }

    /// Checks that every equation of the ledger holds after a drained stop.
    ///
    /// # Errors
    /// The first equation that does not hold, with its numbers.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.capture.check()?;
        for export in self.export.iter().chain(self.destinations.values()) {
            settled(export)?;
            if export.records != self.capture.records {
                return Err(format!(
                    "{} records were made and {} reached the exporter",
                    self.capture.records, export.records
                ));
            }
        }
        if let Some(traces) = &self.traces {
            settled(traces)?;
            if traces.records != self.capture.spans {
                return Err(format!(
                    "{} spans were made and {} reached the exporter",
                    self.capture.spans, traces.records
                ));
            }
        }
        self.metrics.as_ref().map_or(Ok(()), settled)?;
        if let Some(console) = &self.console
            && (console.records != console.printed + console.dropped
                || console.records != self.capture.records)
        {
            return Err(format!(
                "{} records were made, and on the console {console:?}",
                self.capture.records
            ));
        }
        Ok(())
    }
}

/// Checks that an exporter's equation holds and that no record is queued or in flight.
fn settled(export: &LedgerSnapshot) -> Result<(), String> {
    export.balanced()?;
    if export.queued + export.in_flight == 0 {
        return Ok(());
    }
    Err(format!("{} records are queued and {} in flight after the stop", export.queued, export.in_flight))
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let capture = &self.capture;
        write!(
            out,
            "acceptd: {} accepts and {} other events seen: {} records, {} of the agent itself and {} filtered excluded, {} without a connection (EAGAIN or interrupted), {} failures only counted, ",
            capture.seen,
            capture.other + capture.made,
            capture.records,
            capture.own,
            capture.filtered.family + capture.filtered.filter,
            capture.only_counted.again + capture.only_counted.interrupted,
            capture.only_counted.failure_budget
                + capture.only_counted.no_listener
                + capture.only_counted.seccomp,
        )?;
        for (count, outcome) in [
            (capture.thinned, "represented by another record"),
            (capture.bookkeeping, "for the agent's bookkeeping only"),
        ] {
            if count > 0 {
                write!(out, "{count} {outcome}, ")?;
            }
        }
        writeln!(out, "{} lost", capture.lost.sum() + capture.malformed + capture.too_large)?;
        for words in unverified_words(&capture.unverified) {
            writeln!(out, "acceptd: {words}")?;
        }
        if let Some(time) = self.captured_until_unix_ns.and_then(clock::rfc3339) {
            writeln!(out, "acceptd: captured until {time}; later accepts may be missing")?;
        }
        if let Some(skipped) = self.skipped.as_ref().filter(|skipped| skipped.total() > 0) {
            let programs = skipped.by_program().filter(|(_, count)| *count > 0);
            let programs: Vec<_> =
                programs.map(|(program, count)| format!("{program} {count} times")).collect();
            writeln!(
                out,
                "acceptd: at most {} more accepts were seen by no program, and some records may lack fields: the kernel skipped programs that it had preempted ({})",
                capture.lost.skipped,
                programs.join(", "),
            )?;
        }
        let named = self.destinations.iter().map(|(name, ledger)| (name.as_str(), ledger));
        for (name, export) in self.export.iter().map(|ledger| (DEFAULT_DESTINATION, ledger)).chain(named) {
            let target = self.targets.get(name).map_or(name, String::as_str);
            writeln!(
                out,
                "acceptd: {} records to {target}: {} acknowledged, {} rejected, {} dropped",
                export.records + export.recovered,
                export.acknowledged,
                export.rejected,
                export.dropped_total(),
            )?;
            if export.recovered + export.spooled > 0 {
                writeln!(
                    out,
                    "acceptd: {} of them were in the spool at the start, {} are in the spool now",
                    export.recovered, export.spooled
                )?;
            }
        }
        if let Some(traces) = self.traces.as_ref().filter(|traces| traces.records + traces.recovered > 0) {
            writeln!(
                out,
                "acceptd: {} spans: {} acknowledged, {} rejected, {} dropped, {} in the spool",
                traces.records + traces.recovered,
                traces.acknowledged,
                traces.rejected,
                traces.dropped_total(),
                traces.spooled,
            )?;
        }
        if let Some(console) = &self.console {
            writeln!(out, "acceptd: {} records printed, {} dropped", console.printed, console.dropped)?;
        }
        Ok(())
    }
}

impl Summary {
    /// The ledger as one line of JSON.
    #[must_use]
    pub(crate) fn ledger_line(&self) -> String {
        format!("ledger: {}\n", serde_json::to_string(self).unwrap_or_default())
    }
}

/// The summary's words for records whose socket is not proven, and for completions that may have been
/// accepts.
fn unverified_words(unverified: &Unverified) -> Vec<String> {
    let Unverified { not_pending, fd_gone, no_cookie, io_uring, pending_full: _ } = unverified;
    [
        (
            not_pending + fd_gone + no_cookie,
            "records are unverified: it is not proven that their socket is the one that the call returned",
        ),
        (*io_uring, "completions of io_uring may have been accepts, and have no record"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, words)| format!("{count} {words}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unverified_records_and_completions_are_named() {
        let none = Unverified { not_pending: 0, pending_full: 0, fd_gone: 0, no_cookie: 0, io_uring: 0 };
        assert_eq!(unverified_words(&none), [""; 0]);
        let some = Unverified { not_pending: 1, pending_full: 8, fd_gone: 2, no_cookie: 3, io_uring: 5 };
        let words = unverified_words(&some);
        assert!(words[0].starts_with("6 records are unverified"), "{words:?}");
        assert!(words[1].starts_with("5 completions of io_uring"), "{words:?}");
    }
}
