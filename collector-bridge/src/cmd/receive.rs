//! `acceptd receive`: an OTLP/gRPC receiver that prints or writes what arrives, to see what a pipeline sends.

use std::{
    fs::File,
    io::{
        IsTerminal as _, Write, {self},
    },
    net::TcpListener,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use acceptd_otlp::{Printer, Received, receiver};
use anyhow::Context as _;

use super::failed;
use crate::cmd::{cli::ReceiveArgs, stop::Stop};

/// Runs the command until SIGINT or SIGTERM.
pub fn run(arguments: &ReceiveArgs) -> ExitCode {
    match receive(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn receive(arguments: &ReceiveArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(arguments.listen).with_context(|| {
        format!(
            "cannot listen on {}; is another receiver there? choose an address with --listen",
            arguments.listen
        )
    })?;
    let address = listener.local_addr().context("the listening socket has no address")?;
    let out = Out::open(arguments)?;
    writeln!(io::stderr(), "acceptd: receiving OTLP over gRPC on {address}; stop with Ctrl-C").ok();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let out = Arc::new(Mutex::new(out));
    let sink = Arc::clone(&out);
    runtime.block_on(async move {
        let stop = Stop::listen()?;
        receiver::serve(
            listener,
            move |received: Received| sink.lock().unwrap_or_else(PoisonError::into_inner).take(&received),
            stop.requested(),
        )
        .await
        .context("the receiver ended")
    })?;

    let out = out.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(io::stderr(), "acceptd: received {} records in {} requests", out.records, out.requests).ok();
    Ok(())
}

/// Where what arrives is written.
struct Out {
    printer: Printer,
    to: Box<dyn Write + Send>,
    records: u64,
    requests: u64,
}

impl Out {
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

    /// Writes one request; an error makes the receiver answer that it may be sent again.
    fn take(&mut self, received: &Received) -> io::Result<()> {
        self.printer.print(&mut self.to, received)?;
        self.to.flush()?;
        self.requests += 1;
        self.records += received.records();
        Ok(())
    }
}
