//! Where batches go: to the exporters (Collectors, files), and to the standard output.

use std::io::{IsTerminal as _, Write as _, stdout};

use acceptd_otlp::{Batch, Exporter, LedgerSnapshot, PrintFormat, Printer, Target};
use serde::Serialize;

use crate::config::OutputFormat;

/// An exporter, by the name of its destination.
#[derive(Debug, Clone)]
pub struct NamedExporter {
    /// The destination's name in the configuration; `default` is that of `export.*`.
    pub name: String,
    /// The exporter.
    pub exporter: Exporter,
}

/// The target and the ledger of a [`NamedExporter`] at one moment.
#[derive(Debug, Clone)]
pub(crate) struct NamedLedger {
    /// The destination's name in the configuration.
    pub(crate) name: String,
    /// Where the exporter sends to; a reload can change it.
    pub(crate) target: Target,
    /// Counts of its records, by outcome.
    pub(crate) ledger: LedgerSnapshot,
}

impl NamedExporter {
    /// The ledger of this moment.
    #[must_use]
    pub(crate) fn ledger(&self) -> NamedLedger {
        let Self { name, exporter } = self;
        NamedLedger { name: name.clone(), target: exporter.target(), ledger: exporter.ledger() }
    }
}

/// The outputs of one signal. Each batch goes to all of them.
#[derive(Default)]
pub struct Outputs {
    exporters: Vec<NamedExporter>,
    console: Option<Console>,
}

impl Outputs {
    /// Outputs to `exporters` only. Without any, batches go nowhere.
    #[must_use]
    pub fn new(exporters: Vec<NamedExporter>) -> Self {
        Self { exporters, console: None }
    }

    /// The same outputs, and the standard output as well.
    #[must_use]
    pub(crate) fn with_console(self, console: Option<Console>) -> Self {
        Self { console, ..self }
    }

    /// Hands a batch to each output. The exporters share its bytes.
    pub(super) fn push(&mut self, batch: &Batch) {
        if let Some(console) = &mut self.console {
            console.print(batch);
        }
        for NamedExporter { exporter, .. } in &self.exporters {
            exporter.push(batch.clone());
        }
    }

    /// The ledgers of the exporters, by destination name.
    pub(super) fn ledgers(&self) -> Vec<(String, LedgerSnapshot)> {
        self.exporters.iter().map(|named| (named.name.clone(), named.exporter.ledger())).collect()
    }

    /// The console's counts; `None` if records are not printed.
    pub(super) fn console_counts(&self) -> Option<ConsoleCounts> {
        self.console.as_ref().map(|console| console.counts)
    }
}

/// The ledger of the standard output. Counts of records.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub(crate) struct ConsoleCounts {
    /// Handed to the console.
    pub(crate) records: u64,
    /// Written.
    pub(crate) printed: u64,
    /// Not written, because writing to the standard output failed.
    pub(crate) dropped: u64,
}

/// Prints records on the standard output.
pub(crate) struct Console {
    printer: Printer,
    counts: ConsoleCounts,
    /// Whether writing has failed before: it is logged once.
    is_broken: bool,
}

impl Console {
    /// A console that prints in `format`. Columns have a header only on a terminal.
    #[must_use]
    pub(crate) fn new(format: OutputFormat) -> Self {
        let printer = Printer::new(format.into(), stdout().is_terminal());
        Self { printer, counts: ConsoleCounts::default(), is_broken: false }
    }

    fn print(&mut self, batch: &Batch) {
        let records = u64::from(batch.records);
        self.counts.records += records;
        let mut out = stdout().lock();
        match self.printer.print_batch(&mut out, batch).and_then(|()| out.flush()) {
            Ok(()) => self.counts.printed += records,
            Err(error) => {
                self.counts.dropped += records;
                if !std::mem::replace(&mut self.is_broken, true) {
                    tracing::warn!(
                        %error,
                        "the standard output cannot be written any more; records are counted as dropped from here on"
                    );
                }
            }
        }
    }
}

impl From<OutputFormat> for PrintFormat {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Columns => Self::Columns,
            OutputFormat::Json => Self::Json,
            OutputFormat::OtlpJson => Self::OtlpJson,
        }
    }
}
