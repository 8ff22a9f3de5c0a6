//! `acceptd`: see the library for how one accept becomes an OpenTelemetry event.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use acceptd::{
    cli::{self, Command},
    cmd,
};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli.command,
        Err(exit) => return exit,
    };
    match command {
        Command::Run(arguments) => cmd::run::run(&arguments),
        Command::Check(arguments) => cmd::check::run(&arguments),
        Command::Receive(arguments) => cmd::receive::run(&arguments),
        Command::Config(command) => cmd::config::run(&command),
        Command::Version => cmd::version(),
    }
}
