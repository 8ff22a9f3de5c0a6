//! `acceptd config default|validate|show`.

use std::{
    io::{
        Write, {self},
    },
    process::ExitCode,
};

use crate::{
    cmd::cli::{ConfigCommand, EXIT_USAGE, SettingsArgs},
    config::{
        Loaded, {self},
    },
};

/// Runs one of the subcommands. Results go to standard output, warnings and errors to standard error; the exit
/// code is 64 when the configuration cannot be used.
pub fn run(command: &ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Default => print(&config::default_file()),
        ConfigCommand::Validate(args) => {
            with(args, |loaded| format!("the configuration is valid ({})\n", files(loaded)))
        }
        ConfigCommand::Show(args) => with(args, show),
    }
}

/// Loads the configuration, says its warnings, and prints what `describe` makes of it.
fn with(args: &SettingsArgs, describe: impl Fn(&Loaded) -> String) -> ExitCode {
    match args.load() {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain("warning", warning);
            }
            print(&describe(&loaded))
        }
        Err(error) => {
            for problem in error.problems() {
                complain("error", problem);
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn files(loaded: &Loaded) -> String {
    match &loaded.file {
        Some(path) => path.display().to_string(),
        None => format!("no file: {} does not exist", config::DEFAULT_PATH),
    }
}

/// One line a key: TOML, with the origin as its comment.
fn show(loaded: &Loaded) -> String {
    let lines: Vec<(String, String)> = loaded
        .settings()
        .map(|setting| (format!("{} = {}", setting.name, setting.value), setting.origin.to_string()))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(MAX_COLUMN);
    lines.iter().fold(String::new(), |text, (line, origin)| text + &format!("{line:width$}  # {origin}\n"))
}

/// Longer lines push their comment out instead of all the others'.
const MAX_COLUMN: usize = 60;

fn complain(severity: &str, message: impl std::fmt::Display) {
    // With standard error gone there is nobody to tell; the exit code still says it.
    _ = writeln!(io::stderr(), "acceptd: {severity}: {message}");
}

/// Prints `text`. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain("error", format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}
