//! `acceptd config`: prints the default file, validates the configuration, or shows every value with its
//! origin.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{
    cmd::cli::{ConfigCommand, EXIT_USAGE, SettingsArgs},
    config::{self, Loaded},
};

/// Runs the subcommand. Results go to standard output, warnings and errors to standard error. The exit code
/// is 64 if the configuration cannot be used.
pub fn run(command: &ConfigCommand) -> ExitCode {
    match command {
        ConfigCommand::Default => print(&config::default_file()),
        ConfigCommand::Validate(args) => {
            load_and_print(args, |loaded| format!("the configuration is valid ({})\n", file_read(loaded)))
        }
        ConfigCommand::Show(args) => load_and_print(args, show),
    }
}

/// Loads the configuration, prints its warnings, and prints the text that `describe` returns.
fn load_and_print(args: &SettingsArgs, describe: impl Fn(&Loaded) -> String) -> ExitCode {
    match args.load() {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                print_message("warning", warning);
            }
            print(&describe(&loaded))
        }
        Err(error) => {
            for problem in error.problems() {
                print_message("error", problem);
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn file_read(loaded: &Loaded) -> String {
    match &loaded.file {
        Some(path) => path.display().to_string(),
        None => format!("no file, because {} does not exist", config::DEFAULT_PATH),
    }
}

/// One line of TOML a key, with the origin as a comment.
fn show(loaded: &Loaded) -> String {
    let lines: Vec<(String, String)> = loaded
        .settings()
        .map(|setting| (format!("{} = {}", setting.name, setting.value), setting.origin.to_string()))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0).min(MAX_COLUMN);
    lines.iter().fold(String::new(), |text, (line, origin)| text + &format!("{line:width$}  # {origin}\n"))
}

/// The last column at which comments are aligned. The comment of a longer line is further right.
const MAX_COLUMN: usize = 60;

fn print_message(severity: &str, message: impl std::fmt::Display) {
    // If standard error is closed, the exit code still has the result.
    _ = writeln!(io::stderr(), "acceptd: {severity}: {message}");
}

/// Prints `text`. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            print_message("error", format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}
