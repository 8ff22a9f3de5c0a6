//! The agent's own messages: logged to standard error, at a level that a reload can change.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Registry,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use crate::config::Config;

/// Changes the level of the log.
pub(super) struct LogLevelHandle(Handle<EnvFilter, Registry>);

/// Starts to log to standard error, with colours on a terminal.
pub(super) fn init(config: &Config) -> LogLevelHandle {
    let (filter, handle) = reload::Layer::new(filter(config));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogLevelHandle(handle)
}

impl LogLevelHandle {
    /// Takes over the level of `config`.
    pub(super) fn change(&self, config: &Config) {
        // Fails only if the subscriber is gone, and then there is no log.
        _ = self.0.reload(filter(config));
    }
}

fn filter(config: &Config) -> EnvFilter {
    EnvFilter::new(config.log.level.directive())
}
