//! The agent's own messages.

use std::io::{
    IsTerminal as _, {self},
};

use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, reload::Handle, util::SubscriberInitExt as _,
};

use crate::config::Config;

/// How much is said.
pub struct Level(Handle<EnvFilter, Registry>);

/// Prints them on standard error from now on, in colours on a terminal.
pub fn to_stderr(config: &Config) -> Level {
    let (filter, handle) = reload::Layer::new(filter(config));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    Level(handle)
}

impl Level {
    /// Says more, or less, from now on.
    pub fn change(&self, config: &Config) {
        // It fails only where nobody listens any more.
        _ = self.0.reload(filter(config));
    }
}

fn filter(config: &Config) -> EnvFilter {
    EnvFilter::new(config.log.level.filter())
}
