//! `acceptd completions` and `acceptd man`: generates shell completions and manual pages from the command
//! line's definition.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::failure;
use crate::cmd::cli::Cli;

/// Prints the completion script for `shell`.
pub fn completions(shell: Shell) -> ExitCode {
    // Through a buffer, because the generator panics if standard output is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "acceptd", &mut script);
    // If standard output is closed, the error cannot be reported either.
    _ = io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// Prints the manual page, or writes it and one page for each subcommand into `directory`.
pub fn man(directory: Option<&Path>) -> ExitCode {
    let written = if let Some(directory) = directory {
        clap_mangen::generate_to(Cli::command(), directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display()))
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command())
            .render(&mut page)
            .and_then(|()| io::stdout().write_all(&page))
            .context("cannot print the manual page")
    };
    written.map_or_else(|error| failure(&error), |()| ExitCode::SUCCESS)
}
