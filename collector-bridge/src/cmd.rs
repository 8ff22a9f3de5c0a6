//! The subcommands, one file each, and what they share: how a command reports an error and ends.

pub mod check;
pub mod cli;
pub mod config;
pub mod events;
mod logging;
pub mod receive;
pub mod replay;
pub mod run;
pub mod shell;
mod signals;
pub mod status;

use std::{fmt::Display, io::Write as _, process::ExitCode};

use crate::cmd::cli::EXIT_USAGE;

/// Prints the version.
pub fn version() -> ExitCode {
    // If standard output is closed, the error cannot be reported either.
    _ = writeln!(std::io::stdout(), "acceptd {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

/// Reports an error of a command that started: one message with its causes, exit code 1.
fn failure(error: &anyhow::Error) -> ExitCode {
    print_error(&format_args!("{error:#}"));
    ExitCode::FAILURE
}

/// Reports a configuration or command line that cannot be used: one line for each problem, exit code 64.
fn usage_error(problems: impl IntoIterator<Item = impl Display>) -> ExitCode {
    for problem in problems {
        print_error(&problem);
    }
    ExitCode::from(EXIT_USAGE)
}

fn print_error(message: &dyn Display) {
    _ = writeln!(std::io::stderr(), "acceptd: {message}");
}
