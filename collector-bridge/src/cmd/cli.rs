//! The command line's definition and help texts. Values of keys are not checked here, but with the rest of
//! the configuration.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::config::{self, ConfigError, Flag, Loaded, OutputFormat, Profile, Protocol};

/// Exit code for a command line or a configuration that cannot be used (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

const ABOUT: &str = "Every accept() on this host, as OpenTelemetry events";

const EXAMPLES: &str = "\
Examples:
  sudo acceptd check                               check whether acceptd works on this host
  sudo acceptd watch --port 8080                   watch the accepts on a port
  sudo acceptd run                                 print every accept on this host
  sudo acceptd run --endpoint localhost:4317       send every accept to a Collector
  acceptd status                                   print the agent's health, and what it lost
  acceptd receive --output json                    receive like a Collector, and print the records
  acceptd config default > acceptd.toml            start a configuration file
  acceptd config show --config acceptd.toml        print each value and its origin";

const RUN_EXAMPLES: &str = "\
Examples:
  sudo acceptd run
  sudo acceptd run --output json --attributes full
  sudo acceptd run --endpoint collector:4317 --set batch.timeout=200ms
  sudo ACCEPTD_EXPORT_HEADERS=authorization=Bearer%20… acceptd run --config acceptd.toml";

const WATCH_EXAMPLES: &str = "\
Examples:
  sudo acceptd watch
  sudo acceptd watch --port 8080
  sudo acceptd watch --comm redis-server --family unix --output json

Filters apply in the kernel. The columns are those of bcc's tcpaccept; RET is the new descriptor, a negative errno, or \
the name of another event.";

const CHECK_EXAMPLES: &str = "\
Examples:
  sudo acceptd check
  sudo acceptd check --endpoint collector:4317
  sudo acceptd check --output json > report.json

Exit codes: 0 ok, 1 acceptd does not work on this host, 2 degraded (a feature is missing), 64 unusable command line or \
configuration";

const STATUS_EXAMPLES: &str = "\
Examples:
  acceptd status
  acceptd status --output json | jq .ledger.capture
  acceptd status --ready

Exit codes: 0 ok, 1 failed or no agent answers, 2 degraded, 64 unusable command line or configuration";

const RECEIVE_EXAMPLES: &str = "\
Examples:
  acceptd receive
  acceptd receive --listen 0.0.0.0:4317 --output otlp-json --file accepts.jsonl";

const REPLAY_EXAMPLES: &str = "\
Examples:
  acceptd replay --endpoint collector:4317 accepts.jsonl
  acceptd replay --endpoint collector:4317 /var/lib/acceptd/spool/default/*.segment

Records keep their log.record.uid, so that a store can recognize duplicates.
Exit codes: 0 every record was acknowledged, 1 some were not, 64 unusable command line or configuration";

/// The command line as a whole.
#[derive(Debug, Parser)]
#[command(name = "acceptd", version, about = ABOUT, long_about = None, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: capture accepts, and send them to a Collector or print them
    Run(RunArgs),
    /// Watch accepts on this terminal; reads no configuration file and sends nothing
    Watch(WatchArgs),
    /// Check what works on this host, and print cause and remedy of what does not
    Check(CheckArgs),
    /// Print the health of the agent on this host, and what it captured, delivered and lost
    Status(StatusArgs),
    /// Receive OTLP over gRPC, and print the records or write them to a file
    Receive(ReceiveArgs),
    /// Send recorded requests again, from files of OTLP JSON lines or segments of a spool
    Replay(ReplayArgs),
    /// Print the default configuration, validate the configuration, or show its values
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List the events that acceptd can send: attributes, cost, and the key that enables each
    Events {
        /// Format of the list
        #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = PossibleValuesParser::new(["text", "json"]))]
        output: String,

        /// Print instead which attributes an accept has, by the way it was accepted
        #[arg(long, conflicts_with = "output")]
        fields: bool,
    },
    /// Print a shell's completion script for acceptd
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write the page, and one for each subcommand, into this folder
        #[arg(long, value_name = "DIR")]
        directory: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    /// The configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = WATCH_EXAMPLES)]
pub struct WatchArgs {
    /// Only these local ports
    #[arg(short = 'P', long, value_name = "PORT,…")]
    pub port: Option<String>,

    /// Only these processes
    #[arg(short, long, value_name = "PID,…")]
    pub pid: Option<String>,

    /// Only processes with these names
    #[arg(short, long, value_name = "NAME,…")]
    pub comm: Option<String>,

    /// Only these address families: inet, inet6, unix, vsock
    #[arg(short, long, value_name = "FAMILY,…")]
    pub family: Option<String>,

    /// Also show binds and listens
    #[arg(short, long)]
    pub all: bool,

    /// Format of printed records
    #[arg(long, value_name = "FORMAT", default_value = "columns", value_parser = PossibleValuesParser::new(OutputFormat::names()))]
    pub output: String,

    /// Set any key of the configuration (`acceptd config default` lists them); may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

impl WatchArgs {
    /// Loads the configuration from this process's environment and these flags. No file is read.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        config::load(Some("/dev/null".as_ref()), std::env::vars_os(), &self.flags())
    }

    /// The flags, in rising precedence. `--set` overrides the defaults of `watch`, but no flag can make
    /// `watch` send records or serve its status.
    fn flags(&self) -> Vec<Flag> {
        let flag = |name, key: &str, value: &str| Flag { name, key: key.to_owned(), value: value.to_owned() };
        let mut flags = vec![flag("watch", "log.level", "warn")];
        if !self.all {
            flags.extend(["events.bind", "events.listen"].map(|key| flag("watch", key, "false")));
        }
        flags.extend(self.set.iter().map(|(key, value)| flag("--set", key, value)));
        let own = [
            ("--port", "filter.ports", self.port.as_ref()),
            ("--pid", "filter.pids", self.pid.as_ref()),
            ("--comm", "filter.comms", self.comm.as_ref()),
            ("--family", "filter.families", self.family.as_ref()),
            ("--output", "output", Some(&self.output)),
        ];
        flags.extend(own.into_iter().filter_map(|(name, key, value)| Some(flag(name, key, value?))));
        flags.extend(["export.endpoint", "admin.listen"].map(|key| flag("watch", key, "none")));
        flags
    }
}

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub struct CheckArgs {
    /// The configuration.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Format of the result
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = PossibleValuesParser::new(["text", "json"]))]
    pub output: String,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = STATUS_EXAMPLES)]
pub struct StatusArgs {
    /// The configuration, for the address of the agent's status server (admin.listen).
    #[command(flatten)]
    pub source: SourceArgs,

    /// Format of the result
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = PossibleValuesParser::new(["text", "json"]))]
    pub output: String,

    /// Only report whether the agent captures accepts, for a readiness probe
    #[arg(long, conflicts_with = "live")]
    pub ready: bool,

    /// Only report whether the agent is alive, for a liveness probe; if not, restart it
    #[arg(long)]
    pub live: bool,
}

/// Arguments of `receive`.
#[derive(Debug, Args)]
#[command(after_help = RECEIVE_EXAMPLES)]
pub struct ReceiveArgs {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4317")]
    pub listen: SocketAddr,

    /// Format of printed records
    #[arg(long, value_name = "FORMAT", default_value = "columns", value_parser = output_format())]
    pub output: OutputFormat,

    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(after_help = REPLAY_EXAMPLES)]
pub struct ReplayArgs {
    /// The configuration.
    #[command(flatten)]
    pub source: SourceArgs,

    /// The files, sent in this order
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// The subcommands of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a configuration file with every key, its documentation and its default
    Default,
    /// Validate the configuration that `run` would use, and print every problem
    Validate(SettingsArgs),
    /// Print every value that `run` would use, with its origin; secrets are printed as ***
    Show(SettingsArgs),
}

/// The flags that select the sources of the configuration, and the destination.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct SourceArgs {
    /// Read this file instead of /etc/acceptd/acceptd.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Send to this OpenTelemetry Collector: host:port, http://host:port or https://host:port
    #[arg(long, value_name = "ENDPOINT")]
    pub endpoint: Option<String>,

    /// Protocol: grpc (port 4317 of a Collector) or http/protobuf (port 4318)
    #[arg(long, value_name = "PROTOCOL", value_parser = PossibleValuesParser::new(Protocol::names()))]
    pub protocol: Option<String>,

    /// Set any key of the configuration (`acceptd config default` lists them); may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

impl SourceArgs {
    /// Loads the configuration from the file, this process's environment, and these flags.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        config::load(self.config.as_deref(), std::env::vars_os(), &self.flags([]))
    }

    /// The keys that were set. `--set` comes first, so a key's own flag overrides it.
    fn flags<'a>(
        &'a self,
        own: impl IntoIterator<Item = (&'static str, &'a str, Option<&'a String>)>,
    ) -> Vec<Flag> {
        let any = self.set.iter().map(|(key, value)| ("--set", key.as_str(), Some(value)));
        let own = own.into_iter().chain([
            ("--endpoint", "export.endpoint", self.endpoint.as_ref()),
            ("--protocol", "export.protocol", self.protocol.as_ref()),
        ]);
        let given = any.chain(own).filter_map(|(name, key, value)| Some((name, key, value?)));
        given.map(|(name, key, value)| Flag { name, key: key.to_owned(), value: value.clone() }).collect()
    }
}

/// The flags of commands that print records.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct SettingsArgs {
    /// The sources of the configuration.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Print records in this format; default: columns if records are not sent anywhere, else none
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(run_outputs()))]
    pub output: Option<String>,

    /// Which attributes a record carries
    #[arg(long, value_name = "PROFILE", value_parser = PossibleValuesParser::new(Profile::names()))]
    pub attributes: Option<String>,
}

impl SettingsArgs {
    /// Loads the configuration from the file, this process's environment, and these flags.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        config::load(self.source.config.as_deref(), std::env::vars_os(), &self.flags())
    }

    fn flags(&self) -> Vec<Flag> {
        self.source.flags([
            ("--output", "output", self.output.as_ref()),
            ("--attributes", "attributes.profile", self.attributes.as_ref()),
        ])
    }
}

fn run_outputs() -> impl Iterator<Item = &'static str> {
    std::iter::once("none").chain(OutputFormat::names())
}

fn output_format() -> impl TypedValueParser<Value = OutputFormat> {
    PossibleValuesParser::new(OutputFormat::names())
        .try_map(|name| OutputFormat::from_name(&name).ok_or("not a format"))
}

fn assignment(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, for instance batch.timeout=200ms")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Parses the command line `args`, which starts with the name of the program.
///
/// # Errors
/// The exit code, if there is no command to run: for `--help` and `--version`, and for a mistake. The text is
/// printed.
pub fn parse<I, T>(args: I) -> Result<Cli, ExitCode>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    Cli::try_parse_from(args).map_err(|error| {
        // If the terminal is closed, the exit code still has the result.
        _ = error.print();
        if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn settings(args: &[&str]) -> SettingsArgs {
        let command = ["acceptd", "run"].iter().chain(args);
        match Cli::try_parse_from(command).unwrap().command {
            Command::Run(run) => run.settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_set_the_keys_they_name() {
        let args = [
            "--endpoint=h:1",
            "--protocol=grpc",
            "--output=json",
            "--attributes=full",
            "--set",
            "batch.timeout=2s",
        ];
        let loaded = config::load(Some("/dev/null".as_ref()), [], &settings(&args).flags()).unwrap();
        for (key, flag) in [
            ("export.endpoint", "--endpoint"),
            ("export.protocol", "--protocol"),
            ("output", "--output"),
            ("attributes.profile", "--attributes"),
            ("batch.timeout", "--set"),
        ] {
            assert_eq!(loaded.origin(key), config::Origin::Flag(flag.to_owned()), "{key}");
        }
    }

    #[test]
    fn watch_shows_accepts_here_and_sends_nothing() {
        let command =
            ["acceptd", "watch", "--port=80,443", "--set", "export.endpoint=h:1", "--set", "log.level=info"];
        let Command::Watch(args) = Cli::try_parse_from(command).unwrap().command else { panic!("not watch") };
        let config = config::load(Some("/dev/null".as_ref()), [], &args.flags()).unwrap().config;
        assert_eq!(config.filter.ports, [80, 443]);
        assert_eq!((config.export.endpoint, config.output), (None, Some(OutputFormat::Columns)));
        assert!(!config.events.bind && !config.events.listen && config.events.stalled);
        assert_eq!(config.log.level, config::LogLevel::Info);
    }

    #[test]
    fn mistakes_exit_with_64_and_help_with_0() {
        let usage = format!("{:?}", ExitCode::from(EXIT_USAGE));
        let success = format!("{:?}", ExitCode::SUCCESS);
        for (args, code) in [
            (vec!["acceptd"], &usage),
            (vec!["acceptd", "run", "--nonsense"], &usage),
            (vec!["acceptd", "run", "--output", "xml"], &usage),
            (vec!["acceptd", "run", "--set", "batch.timeout"], &usage),
            (vec!["acceptd", "receive", "--listen", "127.0.0.1:70000"], &usage),
            (vec!["acceptd", "--help"], &success),
            (vec!["acceptd", "--version"], &success),
        ] {
            assert_eq!(&format!("{:?}", parse(args.clone()).unwrap_err()), code, "{args:?}");
        }
    }

    #[test]
    fn receive_has_defaults() {
        let Command::Receive(args) = Cli::try_parse_from(["acceptd", "receive"]).unwrap().command else {
            panic!("not receive")
        };
        assert_eq!(args.listen.to_string(), "127.0.0.1:4317");
        assert_eq!(args.output, OutputFormat::Columns);
        assert_eq!(args.file, None);
    }
}
