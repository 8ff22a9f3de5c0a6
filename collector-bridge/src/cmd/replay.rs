//! `acceptd replay`: sends requests again that files have.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use acceptd_otlp::{Batch, Exporter, LedgerSnapshot, Signal, recorded};
use anyhow::Context as _;

use super::{complain, failed, unusable};
use crate::{
    cmd::{cli::ReplayArgs, logging, stop::Stop},
    config::{Loaded, Scope},
    pipeline::destination,
};

/// Between two looks whether there is room for more.
const LOOK: Duration = Duration::from_millis(2);

/// Runs the command.
pub fn run(arguments: &ReplayArgs) -> ExitCode {
    let loaded = match arguments.source.load() {
        Ok(loaded) => loaded,
        Err(error) => return unusable(error.problems()),
    };
    let _level = logging::to_stderr(&loaded.config);
    let logs = loaded.view(&Scope::Signal(Signal::Logs)).config;
    if !logs.is_sent() {
        return unusable(["there is nobody to send to: name a Collector with --endpoint"]);
    }
    let target = logs.export.file.and_then(|target| target.canonicalize().ok());
    let is_target = |file: &&PathBuf| target.is_some() && file.canonicalize().ok() == target;
    if let Some(file) = arguments.files.iter().find(is_target) {
        let said = format!("{} is where requests go (export.file): it would never end", file.display());
        return unusable([said + "; name a Collector with --endpoint"]);
    }
    match replay(arguments, &loaded) {
        Ok(outcome) => {
            complain(&outcome);
            if outcome.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => failed(&error),
    }
}

/// What became of it all.
#[derive(Debug, Default)]
struct Outcome {
    records: u64,
    acknowledged: u64,
    rejected: u64,
    dropped: u64,
    /// Requests that could not be read, or have nowhere to go.
    left_out: u64,
    is_interrupted: bool,
}

impl Outcome {
    fn add(&mut self, ledger: &LedgerSnapshot) {
        self.records += ledger.records;
        self.acknowledged += ledger.acknowledged;
        self.rejected += ledger.rejected;
        self.dropped += ledger.dropped_total();
    }

    fn is_whole(&self) -> bool {
        self.left_out == 0 && !self.is_interrupted && self.acknowledged == self.records
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, acknowledged, rejected, dropped, left_out, is_interrupted } = self;
        write!(
            out,
            "{records} records: {acknowledged} acknowledged, {rejected} rejected, {dropped} dropped"
        )?;
        if *left_out > 0 {
            write!(out, "; {left_out} requests left out")?;
        }
        if *is_interrupted {
            write!(out, "; interrupted before the end")?;
        }
        Ok(())
    }
}

fn replay(arguments: &ReplayArgs, loaded: &Loaded) -> anyhow::Result<Outcome> {
    let config = &loaded.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::listen().context("cannot catch signals")?;
        let mut replay = Replay { loaded, exporters: BTreeMap::new(), left_out: 0 };
        let is_interrupted = tokio::select! {
            sent = replay.send_all(arguments) => {
                sent?;
                false
            }
            _ = stop.next() => true,
        };
        let mut outcome = Outcome { left_out: replay.left_out, is_interrupted, ..Outcome::default() };
        // Without a signal everything is retried for as long as the configuration says.
        let patience = if is_interrupted {
            config.shutdown.timeout
        } else {
            config.export.retry_window + config.export.timeout
        };
        let deadline = Instant::now() + patience;
        for exporter in replay.exporters.into_values() {
            outcome.add(&exporter.shutdown(deadline).await);
        }
        Ok(outcome)
    })
}

/// One replay.
struct Replay<'a> {
    loaded: &'a Loaded,
    /// One for each signal that was found.
    exporters: BTreeMap<Signal, Exporter>,
    left_out: u64,
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
                    complain(&format_args!("{}: left out: {cause}", file.display()));
                    self.left_out += 1;
                }
            }
        }
        Ok(())
    }

    /// Sends a request in as many parts as `batch.max_bytes` asks for, each when the one before is under way: nothing is dropped
    /// for want of room.
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
                tokio::time::sleep(LOOK).await;
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
        let destination =
            destination::of(&view, signal)?.ok_or_else(|| format!("there is no endpoint for {signal}"))?;
        let exporter =
            Exporter::spawn(destination.exporter(&view.config, None)).map_err(|error| error.to_string())?;
        self.exporters.insert(signal, exporter.clone());
        Ok(exporter)
    }
}
