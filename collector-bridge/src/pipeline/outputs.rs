//! Where batches go: to Collectors, files, the standard output.

use std::io::{
    IsTerminal as _, Write as _, {self},
};

use acceptd_otlp::{Batch, Exporter, LedgerSnapshot, Output, Printer};
use serde::Serialize;

use crate::config::OutputFormat;

/// The destinations of one run.
#[derive(Default)]
pub struct Outputs {
    exporters: Vec<(String, Exporter)>,
    console: Option<Console>,
}

impl Outputs {
    /// Destinations by name; without any, batches are only counted by the caller.
    #[must_use]
    pub fn new(exporters: Vec<(String, Exporter)>, console: Option<Console>) -> Self {
        Self { exporters, console }
    }

    /// Hands a batch to each destination.
    pub fn push(&mut self, batch: &Batch) {
        if let Some(console) = &mut self.console {
            console.print(batch);
        }
        for (_, exporter) in &self.exporters {
            // The bytes are shared.
            exporter.push(batch.clone());
        }
    }

    /// What became of the records that the destinations were given.
    #[must_use]
    pub fn ledgers(&self) -> Vec<(String, LedgerSnapshot)> {
        self.exporters.iter().map(|(name, exporter)| (name.clone(), exporter.ledger())).collect()
    }

    /// What the console printed, if there is one.
    #[must_use]
    pub fn console_counts(&self) -> Option<ConsoleCounts> {
        self.console.as_ref().map(|console| console.counts)
    }
}

/// The ledger of the standard output. Counts of records.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct ConsoleCounts {
    /// Handed to the console.
    pub records: u64,
    /// Written.
    pub printed: u64,
    /// Not written, because the standard output is gone.
    pub dropped: u64,
}

/// Records on the standard output.
pub struct Console {
    printer: Printer,
    counts: ConsoleCounts,
    broken: bool,
}

impl Console {
    /// A console that prints in `format`; columns have a header only on a terminal.
    #[must_use]
    pub fn new(format: Output) -> Self {
        let printer = Printer::new(format, io::stdout().is_terminal());
        Self { printer, counts: ConsoleCounts::default(), broken: false }
    }

    fn print(&mut self, batch: &Batch) {
        let records = u64::from(batch.records);
        self.counts.records += records;
        let mut out = io::stdout().lock();
        match self.printer.print_batch(&mut out, batch).and_then(|()| out.flush()) {
            Ok(()) => self.counts.printed += records,
            Err(error) => {
                self.counts.dropped += records;
                if !self.broken {
                    tracing::warn!(%error, "the standard output is gone; records are counted as dropped from here on");
                    self.broken = true;
                }
            }
        }
    }
}

impl From<OutputFormat> for Output {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Columns => Self::Columns,
            OutputFormat::Json => Self::Json,
            OutputFormat::OtlpJson => Self::OtlpJson,
        }
    }
}
