//! `acceptd completions` and `acceptd man`: made from the command line's own definition.

use std::{
    io::{
        Write as _, {self},
    },
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use super::failed;
use crate::cmd::cli::Cli;

/// Prints what makes `shell` complete acceptd's arguments.
pub fn completions(shell: Shell) -> ExitCode {
    // Not straight to the standard output: the generator panics when that is gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "acceptd", &mut script);
    // Nobody is left to tell.
    _ = io::stdout().write_all(&script);
    ExitCode::SUCCESS
}

/// Prints the manual page, or writes it and one for each command into `directory`.
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
    written.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}
