//! SIGINT, SIGTERM and SIGHUP.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal that asks to read the configuration again, caught from [`Reload::listen`] on.
#[derive(Debug)]
pub struct Reload(Option<Signal>);

impl Reload {
    /// Catches the signal. Must be called within a runtime.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(Some(signal(SignalKind::hangup())?)))
    }

    /// Leaves the signal what it is: the end.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    /// Waits for it.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => _ = signal.recv().await,
            None => std::future::pending().await,
        }
    }
}

/// The signals that end a run. They are caught from [`Stop::listen`] on, so none is missed between the start and
/// the first wait.
#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Catches the signals. Must be called within a runtime.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for either; says which.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    /// [`Stop::next`] for those who need a future that owns the signals.
    pub async fn requested(mut self) {
        self.next().await;
    }
}
