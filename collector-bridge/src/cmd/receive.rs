//! `acceptd receive`: an OTLP/gRPC receiver that prints what it receives or writes it to a file, to inspect a
//! pipeline.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    net::TcpListener,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use acceptd_otlp::{Printer, Received, receiver};
use anyhow::Context as _;

use super::failure;
use crate::cmd::{cli::ReceiveArgs, signals::StopSignal};

/// Runs the command until SIGINT or SIGTERM.
pub fn run(arguments: &ReceiveArgs) -> ExitCode {
    match receive(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

fn receive(arguments: &ReceiveArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(arguments.listen).with_context(|| {
        format!(
            "cannot listen on {}; if another receiver uses the address, choose one with --listen",
            arguments.listen
        )
    })?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let sink = Sink::open(arguments)?;
    writeln!(io::stderr(), "acceptd: receiving OTLP over gRPC on {address}; stop with Ctrl-C").ok();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sink = Arc::new(Mutex::new(sink));
    let receiver_sink = Arc::clone(&sink);
    runtime.block_on(async move {
        let stop = StopSignal::listen()?;
        receiver::serve(
            listener,
            move |received: Received| {
                receiver_sink.lock().unwrap_or_else(PoisonError::into_inner).write(&received)
            },
            stop.requested(),
        )
        .await
        .context("the receiver failed")
    })?;

    let sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(io::stderr(), "acceptd: received {} records in {} requests", sink.records, sink.requests).ok();
    Ok(())
}

/// Writes the received requests.
struct Sink {
    printer: Printer,
    to: Box<dyn Write + Send>,
    records: u64,
    requests: u64,
}

impl Sink {
    fn open(arguments: &ReceiveArgs) -> anyhow::Result<Self> {
        let header = arguments.file.is_none() && io::stdout().is_terminal();
        let to: Box<dyn Write + Send> = match &arguments.file {
            Some(path) => {
                Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(Self { printer: Printer::new(arguments.output.into(), header), to, records: 0, requests: 0 })
    }

    /// Writes one request. After an error the receiver asks the sender to retry the request.
    fn write(&mut self, received: &Received) -> io::Result<()> {
        self.printer.print(&mut self.to, received)?;
        self.to.flush()?;
        self.requests += 1;
        self.records += received.records();
        Ok(())
    }
}
