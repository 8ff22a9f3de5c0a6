//! The subcommands, one file each.

pub mod check;
pub mod cli;
pub mod config;
pub mod events;
pub mod logging;
pub mod receive;
pub mod replay;
pub mod run;
pub mod shell;
pub mod status;
pub mod stop;

use std::{fmt::Display, io::Write as _, process::ExitCode};

use crate::cmd::cli::EXIT_USAGE;

/// Prints the version.
pub fn version() -> ExitCode {
    // Nobody is left to tell when the standard output is gone.
    _ = writeln!(std::io::stdout(), "acceptd {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

/// Ends a command that failed while it worked: one message with its causes, exit code 1.
fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&format_args!("{error:#}"));
    ExitCode::FAILURE
}

/// Ends a command whose configuration cannot be used: one line for each problem, exit code 64.
fn unusable(problems: impl IntoIterator<Item = impl Display>) -> ExitCode {
    for problem in problems {
        complain(&problem);
    }
    ExitCode::from(EXIT_USAGE)
}

fn complain(message: &dyn Display) {
    _ = writeln!(std::io::stderr(), "acceptd: {message}");
}
