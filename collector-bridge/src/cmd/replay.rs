//! `acceptd replay`: sends recorded requests again, from files of OTLP JSON lines or segments of a spool.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use acceptd_otlp::{Batch, Exporter, LedgerSnapshot, Signal, recorded};
use anyhow::Context as _;

use super::{failure, print_error, usage_error};
use crate::{
    cmd::{cli::ReplayArgs, logging, signals::StopSignal},
    config::{Loaded, Scope, destination::Destination},
};

/// Time between two checks whether the queue is empty.
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Runs the command.
pub fn run(arguments: &ReplayArgs) -> ExitCode {
    let loaded = match arguments.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return usage_error(error.problems()),
    };
    let _log_level = logging::init(&loaded.config);
    let logs = loaded.view(&Scope::Signal(Signal::Logs)).config;
    if !logs.is_sent() {
        return usage_error(["there is no destination: name a Collector with --endpoint"]);
    }
    let target = logs.export.file.and_then(|target| target.canonicalize().ok());
    let is_target = |file: &&PathBuf| target.is_some() && file.canonicalize().ok() == target;
    if let Some(file) = arguments.files.iter().find(is_target) {
        return usage_error([format!(
            "{} is also the destination of the requests (export.file), so the replay would never end; name a Collector with --endpoint",
            file.display()
        )]);
    }
    match replay(arguments, &loaded) {
        Ok(outcome) => {
            print_error(&outcome);
            if outcome.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => failure(&error),
    }
}

/// The result of a replay.
#[derive(Debug, Default)]
struct ReplaySummary {
    records: u64,
    acknowledged: u64,
    rejected: u64,
    dropped: u64,
    /// Requests that could not be read, or whose signal has no destination.
    skipped: u64,
    is_interrupted: bool,
}

impl ReplaySummary {
    fn add(&mut self, ledger: &LedgerSnapshot) {
        self.records += ledger.records;
        self.acknowledged += ledger.acknowledged;
        self.rejected += ledger.rejected;
        self.dropped += ledger.dropped_total();
    }

    fn is_complete(&self) -> bool {
        self.skipped == 0 && !self.is_interrupted && self.acknowledged == self.records
    }
}

impl fmt::Display for ReplaySummary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, acknowledged, rejected, dropped, skipped, is_interrupted } = self;
        write!(
            out,
            "{records} records: {acknowledged} acknowledged, {rejected} rejected, {dropped} dropped"
        )?;
        if *skipped > 0 {
            write!(out, "; {skipped} requests skipped")?;
        }
        if *is_interrupted {
            write!(out, "; interrupted before the end")?;
        }
        Ok(())
    }
}

fn replay(arguments: &ReplayArgs, loaded: &Loaded) -> anyhow::Result<ReplaySummary> {
    let config = &loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = StopSignal::listen().context("cannot install the signal handlers")?;
        let mut replay = Replay { loaded, exporters: BTreeMap::new(), skipped: 0 };
        let is_interrupted = tokio::select! {
            sent = replay.send_all(arguments) => {
                sent?;
                false
            }
            _ = stop.next() => true,
        };
        let mut outcome =
            ReplaySummary { skipped: replay.skipped, is_interrupted, ..ReplaySummary::default() };
        // Without a signal, the exporters get the time to retry every request as configured.
        let drain_time = if is_interrupted {
            config.shutdown.timeout
        } else {
            config.export.retry_window + config.export.timeout
        };
        let deadline = Instant::now() + drain_time;
        for exporter in replay.exporters.into_values() {
            outcome.add(&exporter.shutdown(deadline).await);
        }
        Ok(outcome)
    })
}

/// A replay in progress.
struct Replay<'a> {
    loaded: &'a Loaded,
    /// The exporter of each signal that the files contain.
    exporters: BTreeMap<Signal, Exporter>,
    skipped: u64,
}

impl Replay<'_> {
    async fn send_all(&mut self, arguments: &ReplayArgs) -> anyhow::Result<()> {
        for file in &arguments.files {
            let requests = recorded::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            for request in requests {
                let sent = match request {
                    Ok(batch) => self.send(batch).await,
                    Err(cause) => Err(cause),
                };
                if let Err(cause) = sent {
                    print_error(&format_args!("{}: skipped: {cause}", file.display()));
                    self.skipped += 1;
                }
            }
        }
        Ok(())
    }

    /// Sends a request, split so that no part exceeds `batch.max_bytes`. Each part waits until the queue is
    /// empty, so that no request is dropped because the queue is full.
    async fn send(&mut self, batch: Batch) -> Result<(), String> {
        let exporter = self.exporter(batch.signal)?;
        let mut parts = vec![batch];
        while let Some(part) = parts.pop() {
            if part.request.len() > self.loaded.config.batch.max_bytes
                && let Some((first, second)) = part.split()
            {
                parts.extend([second, first]);
                continue;
            }
            while exporter.ledger().queued > 0 {
                tokio::time::sleep(QUEUE_POLL_INTERVAL).await;
            }
            exporter.push(part);
        }
        Ok(())
    }

    fn exporter(&mut self, signal: Signal) -> Result<Exporter, String> {
        if let Some(exporter) = self.exporters.get(&signal) {
            return Ok(exporter.clone());
        }
        let view = self.loaded.view(&Scope::Signal(signal));
        let destination = Destination::from_view(&view, signal)?
            .ok_or_else(|| format!("no endpoint is configured for {signal}"))?;
        let exporter = Exporter::spawn(destination.exporter_config(&view.config, None))
            .map_err(|error| error.to_string())?;
        self.exporters.insert(signal, exporter.clone());
        Ok(exporter)
    }
}
