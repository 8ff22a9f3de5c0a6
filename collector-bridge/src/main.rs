//! The binary `acceptd`: parses the command line and runs one subcommand. The library has everything else.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use acceptd::cmd::{
    self,
    cli::{self, Command},
};

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli.command,
        Err(exit) => return exit,
    };
    match command {
        Command::Run(arguments) => cmd::run::run(|| arguments.settings.load(), true),
        Command::Watch(arguments) => cmd::run::run(|| arguments.load(), false),
        Command::Check(arguments) => cmd::check::run(&arguments),
        Command::Status(arguments) => cmd::status::run(&arguments),
        Command::Receive(arguments) => cmd::receive::run(&arguments),
        Command::Replay(arguments) => cmd::replay::run(&arguments),
        Command::Config(command) => cmd::config::run(&command),
        Command::Events { fields: true, .. } => cmd::events::print_fields(),
        Command::Events { output, .. } => cmd::events::run(output == "json"),
        Command::Completions { shell } => cmd::shell::completions(shell),
        Command::Man { directory } => cmd::shell::man(directory.as_deref()),
        Command::Version => cmd::version(),
    }
}
