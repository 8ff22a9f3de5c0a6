//! The signals of the agent: SIGINT and SIGTERM stop it, SIGHUP reloads its configuration.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for SIGHUP.
#[derive(Debug)]
pub(super) struct ReloadSignal(Option<Signal>);

impl ReloadSignal {
    /// Catches SIGHUP from now on. Must be called within a runtime.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self(Some(signal(SignalKind::hangup())?)))
    }

    /// Does not catch SIGHUP, which then ends the process.
    #[must_use]
    pub(super) fn never() -> Self {
        Self(None)
    }

    /// Waits for the next SIGHUP.
    pub(super) async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => _ = signal.recv().await,
            None => std::future::pending().await,
        }
    }
}

/// Waits for SIGINT or SIGTERM. They are caught from [`StopSignal::listen`] on, so that a signal between the
/// start and the first wait is not missed.
#[derive(Debug)]
pub(super) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// Catches the signals from now on. Must be called within a runtime.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either signal and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// Like [`Self::next`], as a future that owns the signals.
    pub(super) async fn requested(mut self) {
        self.next().await;
    }
}
