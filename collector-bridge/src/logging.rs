//! The agent's own messages.

use std::io::{self, IsTerminal as _};

use crate::config::Config;

/// Prints them on standard error from now on, in colours on a terminal.
pub fn to_stderr(config: &Config) {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(config.log.level.filter()))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
