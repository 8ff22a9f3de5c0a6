//! The final summary: the ledger for people, and as one line of JSON for programs.

use std::{collections::BTreeMap, fmt};

use acceptd_otlp::LedgerSnapshot;
use serde::Serialize;

use crate::{
    accounting::ledger::CaptureLedger,
    bpf::Capture,
    health::snapshot::Delivery,
    pipeline::{destination::DEFAULT, drain::Stock, outputs::ConsoleCounts},
};

/// Everything that was counted in one run.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How accepts were captured.
    pub programs: Capture,
    /// From the hook to the batches.
    pub capture: CaptureLedger,
    /// Runs of a hook that the kernel left out, and with each perhaps an event; stands beside the equations.
    pub hook_missed: Option<u64>,
    /// Of the destination of `export.*`, if there was one.
    pub export: Option<LedgerSnapshot>,
    /// Of the other destinations, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub destinations: BTreeMap<String, LedgerSnapshot>,
    /// Where each destination is, by name.
    #[serde(skip)]
    targets: BTreeMap<String, String>,
    /// Of spans, if they were sent.
    pub traces: Option<LedgerSnapshot>,
    /// Of the agent's own metrics, if they were sent.
    pub metrics: Option<LedgerSnapshot>,
    /// Of the standard output, if records were printed.
    pub console: Option<ConsoleCounts>,
}

impl Summary {
    /// What was counted up to the destinations, by them, of spans, and of the agent's own metrics.
    #[must_use]
    pub fn new(
        programs: Capture,
        stock: &Stock,
        deliveries: &[Delivery],
        traces: Option<LedgerSnapshot>,
        metrics: Option<LedgerSnapshot>,
    ) -> Self {
        let mut destinations: BTreeMap<String, LedgerSnapshot> =
            deliveries.iter().map(|delivery| (delivery.name.clone(), delivery.ledger.clone())).collect();
        Self {
            programs,
            capture: stock.ledger(),
            hook_missed: stock.hook_missed,
            export: destinations.remove(DEFAULT),
            destinations,
            targets: deliveries
                .iter()
                .map(|delivery| (delivery.name.clone(), delivery.target.to_string()))
                .collect(),
            traces,
            metrics,
            console: stock.console,
        }
    }

    /// Whether every equation of the ledger holds after a drained stop.
    ///
    /// # Errors
    /// The first that does not, with its numbers.
    pub fn check(&self) -> Result<(), String> {
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

/// Whether a destination's equation holds and nothing is under way.
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
            "acceptd: {} accepts and {} other events seen: {} records, {} own and {} filtered left out, {} empty or interrupted, {} failures only counted, ",
            capture.seen,
            capture.other + capture.made,
            capture.records,
            capture.own,
            capture.filtered.family + capture.filtered.filter,
            capture.aggregated.again + capture.aggregated.interrupted,
            capture.aggregated.failure_budget + capture.aggregated.no_listener,
        )?;
        for (count, of_what) in [
            (capture.thinned, "for which another stands"),
            (capture.bookkeeping, "that only the agent needs"),
        ] {
            if count > 0 {
                write!(out, "{count} {of_what}, ")?;
            }
        }
        writeln!(out, "{} lost", capture.lost.sum() + capture.malformed + capture.too_large)?;
        if let Some(missed @ 1..) = self.hook_missed {
            writeln!(
                out,
                "acceptd: the kernel left out {missed} runs of a hook; as many accepts may be missing or unverified"
            )?;
        }
        let named = self.destinations.iter().map(|(name, ledger)| (name.as_str(), ledger));
        for (name, export) in self.export.iter().map(|ledger| (DEFAULT, ledger)).chain(named) {
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
                    "acceptd: {} of them were in the spool at the start, {} are in it now",
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
    /// One line for programs.
    #[must_use]
    pub fn ledger_line(&self) -> String {
        format!("ledger: {}\n", serde_json::to_string(self).unwrap_or_default())
    }
}
